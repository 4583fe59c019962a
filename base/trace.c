#include "base/trace.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct kind_info {
    const char *name;
    enum trace_level level;
    const char *text;
};

static const struct kind_info kinds[TRACE_KIND_COUNT] = {
#define TRACE(name, level, text) [name] = {#name, TRACE_LEVEL_##level, text},
#include "base/trace.def"
#undef TRACE
};

void trace_emit(const struct trace_sink *sink, enum trace_kind kind, uint64_t now_ns, const struct id *peer,
                int64_t a, int64_t b, int err)
{
    if (sink == NULL || sink->emit == NULL)
        return;
    struct trace_event event = {.kind = kind, .now_ns = now_ns, .a = a, .b = b, .err = err};
    if (peer != NULL)
        event.peer = *peer;
    sink->emit(sink->user, &event);
}

enum trace_level trace_kind_level(enum trace_kind kind)
{
    ASSERT(kind < TRACE_KIND_COUNT);
    return kinds[kind].level;
}

const char *trace_kind_name(enum trace_kind kind)
{
    ASSERT(kind < TRACE_KIND_COUNT);
    return kinds[kind].name;
}

const char *trace_level_name(enum trace_level level)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    ASSERT((size_t)level < sizeof names / sizeof names[0]);
    return names[level];
}

/* Text of the field named after the '%' at `at`, and how many characters the name has; 0 when it is no field.
 */
static size_t field(const struct trace_event *event, const char *at, char *out, size_t cap)
{
    if (strncmp(at, "peer", 4) == 0) {
        char text[ID_SHORT_SIZE];
        id_format_short(&event->peer, text);
        (void)snprintf(out, cap, "%s", text);
        return 4;
    }
    if (strncmp(at, "err", 3) == 0) {
        (void)snprintf(out, cap, "%s", err_text(event->err));
        return 3;
    }
    if (at[0] == 'a' || at[0] == 'b') {
        (void)snprintf(out, cap, "%" PRId64, at[0] == 'a' ? event->a : event->b);
        return 1;
    }
    return 0;
}

size_t trace_format(const struct trace_event *event, char *out, size_t cap)
{
    ASSERT(event->kind < TRACE_KIND_COUNT && cap > 0);
    const char *text = kinds[event->kind].text;
    size_t len = 0;
    out[0] = '\0';
    for (const char *at = text; *at != '\0' && len + 1 < cap; at++) {
        char value[96] = "";
        size_t name_len = *at == '%' ? field(event, at + 1, value, sizeof value) : 0;
        if (name_len == 0) {
            out[len++] = *at;
            continue;
        }
        for (size_t i = 0; value[i] != '\0' && len + 1 < cap; i++)
            out[len++] = value[i];
        at += name_len;
    }
    out[len] = '\0';
    return len;
}
