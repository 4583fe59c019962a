/* Criterion's redirection of standard output, as far as our tests use it; for the ThreadSanitizer build only.
 */
#ifndef DUNLIN_TESTS_PLAIN_REDIRECT_H
#define DUNLIN_TESTS_PLAIN_REDIRECT_H

#pragma GCC system_header

#include <criterion/criterion.h>

/* Sends standard output into a file from here to the end of the test; a test's .init. */
void cr_redirect_stdout(void);
/* True when exactly this was written since. */
bool plain_stdout_is(const char *expected);

#define cr_assert_stdout_eq_str(text, ...)                                                                   \
    PLAIN_CHECK(true, plain_stdout_is(text), "stdout is " #text, __VA_ARGS__)
#define cr_expect_stdout_eq_str(text, ...)                                                                   \
    PLAIN_CHECK(false, plain_stdout_is(text), "stdout is " #text, __VA_ARGS__)

#endif
