/* The daemon's log: one line an event, to standard error or a file, with peer-triggered lines rate-limited.
 */
#ifndef DUNLIN_NODE_LOG_H
#define DUNLIN_NODE_LOG_H

#include <stdio.h>

#include "base/trace.h"

enum {
    LOG_BURST = 20,
    LOG_PER_SECOND = 5
}; /* of one event kind; what is dropped is counted in the next line */

struct node_log {
    FILE *out;
    enum trace_level level;
    struct {
        double tokens;
        uint64_t refilled_ns;
        uint64_t dropped;
    } kinds[TRACE_KIND_COUNT];
    uint64_t counts[TRACE_KIND_COUNT]; /* events of each kind, shown or not */
};

/* Opens path for appending, or standard error when path is empty.  ERR_IO: errno says why. */
MUST_USE int node_log_open(struct node_log *log, const char *path, enum trace_level level);
void node_log_close(struct node_log *log);
/* A sink that writes to this log; loop thread only; borrows log. */
struct trace_sink node_log_sink(struct node_log *log);
/* A line that is not an event of a core.  Loop thread only. */
void node_log_line(struct node_log *log, enum trace_level level, const char *format, ...) PRINTF_LIKE(3, 4);

#endif
