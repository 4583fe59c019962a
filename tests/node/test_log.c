/* The log shows a burst of events of one kind and then so many a second; what it leaves out is counted in the
 * next line.  Tried with floods, with clocks that go backwards, and with kinds side by side. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "node/log.h"

#define SECOND_NS UINT64_C(1000000000)

static char text[64 * 1024];

static struct node_log open_log(enum trace_level level)
{
    struct node_log log;
    cr_assert_eq(node_log_open(&log, "", level), ERR_OK);
    log.out = tmpfile();
    cr_assert(log.out != NULL);
    return log;
}

/* Lines written so far; text holds them. */
static size_t lines(struct node_log *log)
{
    size_t count = 0;
    (void)fflush(log->out);
    rewind(log->out);
    size_t len = fread(text, 1, sizeof text - 1, log->out);
    text[len] = '\0';
    for (const char *at = strchr(text, '\n'); at != NULL; at = strchr(at + 1, '\n'))
        count++;
    return count;
}

static void emit(const struct trace_sink *sink, enum trace_kind kind, uint64_t now_ns)
{
    trace_emit(sink, kind, now_ns, NULL, 1, 2, ERR_REFUSED);
}

Test(log, a_flood_is_cut_and_counted)
{
    struct node_log log = open_log(TRACE_LEVEL_DEBUG);
    struct trace_sink sink = node_log_sink(&log);
    for (int i = 0; i < 1000; i++)
        emit(&sink, TRACE_RECORD_REFUSED, 10 * SECOND_NS);
    cr_assert_eq(lines(&log), LOG_BURST);
    cr_assert_eq(log.counts[TRACE_RECORD_REFUSED], 1000);
    emit(&sink, TRACE_CONN_REFUSED, 10 * SECOND_NS); /* another kind has its own */
    cr_assert_eq(lines(&log), LOG_BURST + 1);
    for (int i = 0; i < 100; i++)
        emit(&sink, TRACE_RECORD_REFUSED, 11 * SECOND_NS);
    cr_assert_eq(lines(&log), LOG_BURST + 1 + LOG_PER_SECOND);
    cr_assert(strstr(text, "(and 980 more not shown)") != NULL, "%s", text);
    node_log_close(&log);
}

Test(log, times_out_of_order_do_not_refill)
{
    struct node_log log = open_log(TRACE_LEVEL_DEBUG);
    struct trace_sink sink = node_log_sink(&log);
    for (int i = 0; i < 1000; i++)
        emit(&sink, TRACE_RECORD_REFUSED, 10 * SECOND_NS - (uint64_t)(i % 2));
    cr_assert_eq(lines(&log), LOG_BURST);
    node_log_close(&log);
}

Test(log, levels_hide_events_but_count_them)
{
    struct node_log log = open_log(TRACE_LEVEL_ERROR);
    struct trace_sink sink = node_log_sink(&log);
    emit(&sink, TRACE_RECORD_REFUSED, SECOND_NS);
    node_log_line(&log, TRACE_LEVEL_INFO, "not shown");
    node_log_line(&log, TRACE_LEVEL_ERROR, "shown %d", 7);
    cr_assert_eq(lines(&log), 1);
    cr_assert(strstr(text, "error shown 7") != NULL, "%s", text);
    cr_assert_eq(log.counts[TRACE_RECORD_REFUSED], 1);
    node_log_close(&log);
}
