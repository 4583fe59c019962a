/* The part of Criterion's spelling that our tests use, for the ThreadSanitizer build only.
 *
 * Criterion passes memory between processes at fixed addresses that ThreadSanitizer keeps for itself, so a
 * program linked with both aborts before its first test (Snaipe/Criterion issue 274).  Here a test is a plain
 * forked process.  Not supported: parameterized tests, theories, hooks. */
#ifndef DUNLIN_TESTS_PLAIN_CRITERION_H
#define DUNLIN_TESTS_PLAIN_CRITERION_H

/* As with the real header, warnings about how a test spells a comparison are not wanted. */
#pragma GCC system_header

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct plain_options {
    int sentinel; /* so that the initialiser is never empty */
    int signal;
    int exit_code;
    void (*init)(void);
    void (*fini)(void);
    double timeout; /* seconds; 0: the program's */
    bool disabled;
    const char *description;
};

struct plain_test {
    const char *suite;
    const char *name; /* NULL: options of a suite */
    void (*body)(void);
    struct plain_options options;
    struct plain_test *next;
};

/* Adds a test or a suite's options to the program's list; borrows it until the program ends. */
void plain_add(struct plain_test *test);
/* Reports a failed assertion; does not return when fatal. */
void plain_fail(bool fatal, const char *file, int line, const char *what, const char *format, ...);
/* Ends the test as skipped. */
_Noreturn void plain_skip(const char *format, ...);
/* Prints a line to standard error. */
void plain_log(const char *format, ...);

#define PLAIN_ADD(suite_, name_, text_, body_, ...)                                                          \
    __attribute__((constructor)) static void suite_##_##name_##_add(void)                                    \
    {                                                                                                        \
        static struct plain_test test = {                                                                    \
            .suite = #suite_, .name = text_, .body = body_, .options = {.sentinel = 0, __VA_ARGS__}};        \
        plain_add(&test);                                                                                    \
    }
#define TestSuite(suite_, ...) PLAIN_ADD(suite_, suite_options, NULL, NULL, __VA_ARGS__)
#define Test(suite_, name_, ...)                                                                             \
    static void suite_##_##name_##_body(void);                                                               \
    PLAIN_ADD(suite_, name_, #name_, suite_##_##name_##_body, __VA_ARGS__)                                   \
    static void suite_##_##name_##_body(void)

#define PLAIN_CHECK(fatal, condition, what, ...)                                                             \
    ((condition) ? (void)0 : plain_fail(fatal, __FILE__, __LINE__, what, "" __VA_ARGS__))
#define PLAIN_NEAR(a, b, epsilon) ((a) - (b) <= (epsilon) && (b) - (a) <= (epsilon))

#define cr_assert(condition, ...)     PLAIN_CHECK(true, condition, #condition, __VA_ARGS__)
#define cr_assert_not(condition, ...) PLAIN_CHECK(true, !(condition), "not " #condition, __VA_ARGS__)
#define cr_assert_eq(a, b, ...)       PLAIN_CHECK(true, (a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...)      PLAIN_CHECK(true, (a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...)       PLAIN_CHECK(true, (a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...)      PLAIN_CHECK(true, (a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...)       PLAIN_CHECK(true, (a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...)      PLAIN_CHECK(true, (a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_assert_null(a, ...)        PLAIN_CHECK(true, (a) == NULL, #a " is NULL", __VA_ARGS__)
#define cr_assert_not_null(a, ...)    PLAIN_CHECK(true, (a) != NULL, #a " is not NULL", __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...)   PLAIN_CHECK(true, strcmp(a, b) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...)  PLAIN_CHECK(true, strcmp(a, b) != 0, #a " is not " #b, __VA_ARGS__)
#define cr_assert_str_empty(a, ...)   PLAIN_CHECK(true, (a)[0] == '\0', #a " is empty", __VA_ARGS__)
#define cr_assert_arr_eq(a, b, size, ...)                                                                    \
    PLAIN_CHECK(true, memcmp(a, b, size) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_assert_arr_neq(a, b, size, ...)                                                                   \
    PLAIN_CHECK(true, memcmp(a, b, size) != 0, #a " is not " #b, __VA_ARGS__)
#define cr_assert_float_eq(a, b, e, ...)                                                                     \
    PLAIN_CHECK(true, PLAIN_NEAR(a, b, e), #a " is near " #b, __VA_ARGS__)
#define cr_assert_float_neq(a, b, e, ...)                                                                    \
    PLAIN_CHECK(true, !PLAIN_NEAR(a, b, e), #a " is far from " #b, __VA_ARGS__)
#define cr_assert_fail(...) PLAIN_CHECK(true, false, "never reached", __VA_ARGS__)

#define cr_expect(condition, ...)     PLAIN_CHECK(false, condition, #condition, __VA_ARGS__)
#define cr_expect_not(condition, ...) PLAIN_CHECK(false, !(condition), "not " #condition, __VA_ARGS__)
#define cr_expect_eq(a, b, ...)       PLAIN_CHECK(false, (a) == (b), #a " == " #b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...)      PLAIN_CHECK(false, (a) != (b), #a " != " #b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...)       PLAIN_CHECK(false, (a) < (b), #a " < " #b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...)      PLAIN_CHECK(false, (a) <= (b), #a " <= " #b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...)       PLAIN_CHECK(false, (a) > (b), #a " > " #b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...)      PLAIN_CHECK(false, (a) >= (b), #a " >= " #b, __VA_ARGS__)
#define cr_expect_null(a, ...)        PLAIN_CHECK(false, (a) == NULL, #a " is NULL", __VA_ARGS__)
#define cr_expect_not_null(a, ...)    PLAIN_CHECK(false, (a) != NULL, #a " is not NULL", __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...)   PLAIN_CHECK(false, strcmp(a, b) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...)  PLAIN_CHECK(false, strcmp(a, b) != 0, #a " is not " #b, __VA_ARGS__)
#define cr_expect_str_empty(a, ...)   PLAIN_CHECK(false, (a)[0] == '\0', #a " is empty", __VA_ARGS__)
#define cr_expect_arr_eq(a, b, size, ...)                                                                    \
    PLAIN_CHECK(false, memcmp(a, b, size) == 0, #a " equals " #b, __VA_ARGS__)
#define cr_expect_arr_neq(a, b, size, ...)                                                                   \
    PLAIN_CHECK(false, memcmp(a, b, size) != 0, #a " is not " #b, __VA_ARGS__)
#define cr_expect_float_eq(a, b, e, ...)                                                                     \
    PLAIN_CHECK(false, PLAIN_NEAR(a, b, e), #a " is near " #b, __VA_ARGS__)
#define cr_expect_float_neq(a, b, e, ...)                                                                    \
    PLAIN_CHECK(false, !PLAIN_NEAR(a, b, e), #a " is far from " #b, __VA_ARGS__)
#define cr_expect_fail(...) PLAIN_CHECK(false, false, "never reached", __VA_ARGS__)

#define cr_skip_test(...) plain_skip("" __VA_ARGS__)
#define cr_log_info(...)  plain_log("" __VA_ARGS__)
#define cr_log_warn(...)  plain_log("" __VA_ARGS__)

#endif
