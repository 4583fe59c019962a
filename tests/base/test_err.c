/* Mirrors base/err.c. */
#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>

#include "base/err.h"

static const int codes[] = {
#define X(name, value, text) name,
    ERR_LIST(X)
#undef X
};
enum { CODE_COUNT = sizeof codes / sizeof codes[0] };

/* Every code must have a text and its own name, and no two codes may share a value, a text or a name. */
Test(err, list_is_unambiguous)
{
    for (size_t i = 0; i < CODE_COUNT; i++) {
        cr_assert_lt(codes[i], -10000, "%s must lie clear of libuv's codes", err_name(codes[i]));
        cr_assert(strncmp(err_name(codes[i]), "ERR_", 4) == 0);
        cr_assert(strlen(err_text(codes[i])) > 5);
        for (size_t k = 0; k < i; k++) {
            cr_assert_neq(codes[i], codes[k]);
            cr_assert_str_neq(err_text(codes[i]), err_text(codes[k]));
            cr_assert_str_neq(err_name(codes[i]), err_name(codes[k]));
        }
    }
}

/* Texts and names must answer for codes outside the list too: they end in logs, whatever was returned. */
Test(err, any_number_has_a_text)
{
    cr_assert_str_eq(err_text(ERR_OK), "no error");
    cr_assert_str_eq(err_name(ERR_OK), "ERR_OK");
    cr_assert_str_eq(err_text(ERR_TRUNCATED), "input ends inside a field");
    cr_assert_str_eq(err_name(ERR_TRUNCATED), "ERR_TRUNCATED");
    cr_assert_str_eq(err_text(-1), "unknown error");
    cr_assert_str_eq(err_name(7), "ERR_UNKNOWN");
}

/* A true condition costs nothing and evaluates once; a false one ends the process with SIGABRT. */
Test(err, assert_passes)
{
    int evaluated = 0;
    ASSERT(++evaluated == 1);
    cr_assert_eq(evaluated, 1);
}

Test(err, assert_aborts, .signal = SIGABRT)
{
    int two = 2;
    ASSERT(two == 3);
}
