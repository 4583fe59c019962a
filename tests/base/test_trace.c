/* Mirrors base/trace.c. */
#include <criterion/criterion.h>
#include <signal.h>
#include <string.h>

#include "base/trace.h"

struct memory {
    struct trace_event last;
    int count;
};

static void remember(void *user, const struct trace_event *event)
{
    struct memory *memory = user;
    memory->last = *event;
    memory->count++;
}

/* An event arrives with every field; no peer becomes the zero id. */
Test(trace, emit)
{
    struct memory memory = {.count = 0};
    struct trace_sink sink = {.emit = remember, .user = &memory};
    struct id peer;
    memset(&peer, 7, sizeof peer);
    trace_emit(&sink, TRACE_PAIR_MERGED, 99, &peer, 3, -4, ERR_TIMEOUT);
    cr_assert_eq(memory.count, 1);
    cr_assert_eq(memory.last.kind, TRACE_PAIR_MERGED);
    cr_assert_eq(memory.last.now_ns, 99);
    cr_assert(id_equal(&memory.last.peer, &peer));
    cr_assert_eq(memory.last.a, 3);
    cr_assert_eq(memory.last.b, -4);
    cr_assert_eq(memory.last.err, ERR_TIMEOUT);
    trace_emit(&sink, TRACE_DHT_READY, 1, NULL, 0, 0, 0);
    cr_assert(id_is_zero(&memory.last.peer));
    cr_assert_eq(memory.count, 2);
}

/* A core with no sink, or a sink that wants nothing, must run all the same. */
Test(trace, nobody_listens)
{
    struct trace_sink silent = {.emit = NULL};
    trace_emit(NULL, TRACE_DHT_READY, 1, NULL, 0, 0, 0);
    trace_emit(&silent, TRACE_DHT_READY, 1, NULL, 0, 0, 0);
}

/* All fields of all kinds are filled in: no text may keep a '%', and each kind has a name and a level. */
Test(trace, every_kind_formats)
{
    for (int kind = 0; kind < TRACE_KIND_COUNT; kind++) {
        char text[512];
        struct trace_event event = {
            .kind = (enum trace_kind)kind, .a = INT64_MIN, .b = INT64_MAX, .err = ERR_AUTH};
        size_t len = trace_format(&event, text, sizeof text);
        cr_assert_eq(len, strlen(text));
        cr_assert_gt(len, 0);
        cr_assert_null(strchr(text, '%'), "%s", text);
        cr_assert(strncmp(trace_kind_name(event.kind), "TRACE_", 6) == 0);
        cr_assert_leq(trace_kind_level(event.kind), TRACE_LEVEL_DEBUG);
    }
}

Test(trace, text)
{
    char text[200];
    struct trace_event event = {.kind = TRACE_PAIR_MERGED, .a = 12, .b = -5};
    cr_assert_gt(trace_format(&event, text, sizeof text), 0);
    cr_assert_str_eq(text, "round 12: merged with aaaaaaaaaa in -5 ms");
    event = (struct trace_event){.kind = TRACE_PAIR_SKIPPED, .a = 1, .b = 750, .err = ERR_TIMEOUT};
    (void)trace_format(&event, text, sizeof text);
    cr_assert_str_eq(text, "round 1: merge with aaaaaaaaaa skipped after 750 ms: "
                           "no answer before the deadline");
}

/* Any room is enough: the text is cut, ended, and nothing is written beyond. */
Test(trace, every_room)
{
    char whole[200];
    struct trace_event event = {.kind = TRACE_PAIR_SKIPPED, .a = 123456, .err = ERR_TIMEOUT};
    size_t full = trace_format(&event, whole, sizeof whole);
    for (size_t cap = 1; cap <= full + 1; cap++) {
        char text[200];
        memset(text, 'x', sizeof text);
        cr_assert_eq(trace_format(&event, text, cap), cap - 1);
        cr_assert_eq(text[cap - 1], '\0');
        cr_assert_eq(text[cap], 'x');
        cr_assert_eq(strncmp(text, whole, cap - 1), 0);
    }
}

Test(trace, levels_have_names)
{
    cr_assert_str_eq(trace_level_name(TRACE_LEVEL_ERROR), "error");
    cr_assert_str_eq(trace_level_name(TRACE_LEVEL_WARN), "warn");
    cr_assert_str_eq(trace_level_name(TRACE_LEVEL_INFO), "info");
    cr_assert_str_eq(trace_level_name(TRACE_LEVEL_DEBUG), "debug");
}

Test(trace, unknown_kind_is_a_bug, .signal = SIGABRT)
{
    (void)trace_kind_level(TRACE_KIND_COUNT);
}
