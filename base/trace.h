/* Typed events out of the cores.  A core emits one to an injected sink; what becomes of it (a log line, a
 * counter, a simulator's trace hash) is the driver's business.  The list is base/trace.def. */
#ifndef DUNLIN_BASE_TRACE_H
#define DUNLIN_BASE_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/id.h"

enum trace_level { TRACE_LEVEL_ERROR, TRACE_LEVEL_WARN, TRACE_LEVEL_INFO, TRACE_LEVEL_DEBUG };

enum trace_kind {
#define TRACE(name, level, text) name,
#include "base/trace.def"
#undef TRACE
    TRACE_KIND_COUNT
};

struct trace_event {
    enum trace_kind kind;
    uint64_t now_ns;
    struct id peer; /* zero when no peer is concerned */
    int64_t a;
    int64_t b;
    int err;
};

struct trace_sink {
    void (*emit)(void *user,
                 const struct trace_event *event); /* may not call back into the core; NULL: drop */
    void *user;
};

/* Emits one event; peer may be NULL. */
void trace_emit(const struct trace_sink *sink, enum trace_kind kind, uint64_t now_ns, const struct id *peer,
                int64_t a, int64_t b, int err);
/* Level and source name of a kind. */
enum trace_level trace_kind_level(enum trace_kind kind);
const char *trace_kind_name(enum trace_kind kind);
const char *trace_level_name(enum trace_level level);
/* Writes the event's text with its fields filled in, cut to cap; returns its length. */
size_t trace_format(const struct trace_event *event, char *out, size_t cap);

#endif
