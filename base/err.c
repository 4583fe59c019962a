#include "base/err.h"

#include <stdio.h>
#include <stdlib.h>

const char *err_text(int code)
{
    switch (code) {
    case ERR_OK:
        return "no error";
#define X(name, value, text)                                                                                 \
    case name:                                                                                               \
        return text;
        ERR_LIST(X)
#undef X
    default:
        return "unknown error";
    }
}

const char *err_name(int code)
{
    switch (code) {
    case ERR_OK:
        return "ERR_OK";
#define X(name, value, text)                                                                                 \
    case name:                                                                                               \
        return #name;
        ERR_LIST(X)
#undef X
    default:
        return "ERR_UNKNOWN";
    }
}

_Noreturn void assert_failed(const char *condition, const char *file, int line)
{
    (void)fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, condition);
    abort();
}
