#include "node/log.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

int node_log_open(struct node_log *log, const char *path, enum trace_level level)
{
    memset(log, 0, sizeof *log);
    log->level = level;
    log->out = stderr;
    for (size_t i = 0; i < TRACE_KIND_COUNT; i++)
        log->kinds[i].tokens = LOG_BURST;
    if (path[0] == '\0')
        return ERR_OK;
    FILE *file = fopen(path, "ae");
    if (file == NULL)
        return ERR_IO;
    log->out = file;
    return ERR_OK;
}

void node_log_close(struct node_log *log)
{
    if (log->out != NULL && log->out != stderr)
        (void)fclose(log->out);
    log->out = NULL;
}

static void write_head(struct node_log *log, enum trace_level level)
{
    struct timespec now;
    struct tm parts;
    char stamp[32] = "";
    (void)clock_gettime(CLOCK_REALTIME, &now);
    if (gmtime_r(&now.tv_sec, &parts) != NULL)
        (void)strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &parts);
    (void)fprintf(log->out, "%s.%03ldZ %-5s ", stamp, now.tv_nsec / 1000000, trace_level_name(level));
}

/* Token bucket of one kind: a peer that floods us does not flood the log. */
static bool admit(struct node_log *log, const struct trace_event *event)
{
    uint64_t refilled_ns = log->kinds[event->kind].refilled_ns;
    /* The times of two events are not always in order: one may carry when its pump began. */
    uint64_t now_ns = event->now_ns > refilled_ns ? event->now_ns : refilled_ns;
    double elapsed_s = (double)(now_ns - refilled_ns) / 1e9;
    double tokens = log->kinds[event->kind].tokens + elapsed_s * LOG_PER_SECOND;
    log->kinds[event->kind].refilled_ns = now_ns;
    log->kinds[event->kind].tokens = tokens > LOG_BURST ? LOG_BURST : tokens;
    if (log->kinds[event->kind].tokens < 1) {
        log->kinds[event->kind].dropped++;
        return false;
    }
    log->kinds[event->kind].tokens -= 1;
    return true;
}

static void on_event(void *user, const struct trace_event *event)
{
    struct node_log *log = user;
    char text[256];
    log->counts[event->kind]++;
    if (trace_kind_level(event->kind) > log->level || !admit(log, event))
        return;
    (void)trace_format(event, text, sizeof text);
    write_head(log, trace_kind_level(event->kind));
    (void)fprintf(log->out, "%s", text);
    if (log->kinds[event->kind].dropped > 0)
        (void)fprintf(log->out, " (and %" PRIu64 " more not shown)", log->kinds[event->kind].dropped);
    log->kinds[event->kind].dropped = 0;
    (void)fputc('\n', log->out);
    (void)fflush(log->out);
}

struct trace_sink node_log_sink(struct node_log *log)
{
    return (struct trace_sink){.emit = on_event, .user = log};
}

void node_log_line(struct node_log *log, enum trace_level level, const char *format, ...)
{
    va_list args;
    if (level > log->level || log->out == NULL)
        return;
    write_head(log, level);
    va_start(args, format);
    (void)vfprintf(log->out, format, args);
    va_end(args);
    (void)fputc('\n', log->out);
    (void)fflush(log->out);
}
