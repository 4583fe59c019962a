/* How a measured transfer looks, while it runs and at its end. */
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "tools/dunlin/command.h"
#include "tools/dunlin/text.h"
#include "tools/dunlin/value.h"

/* On stderr, so that what is piped is the result alone.  A terminal keeps one line of it. */
void progress_speed(const json_t *result)
{
    bool terminal = isatty(STDERR_FILENO) != 0;
    (void)fprintf(stderr, "%s%6.0f s  ", terminal ? "\r\033[K" : "", value_number(result, "seconds", 0));
    if (value_count(result, "bytes") > 0)
        (void)fprintf(stderr, "%s of %s, path ", text_bytes(value_number(result, "bytes", NAN)).text,
                      text_bytes(value_number(result, "bytes_wanted", NAN)).text);
    else
        (void)fprintf(stderr, "waiting for ");
    text_write_safe(stderr,
                    value_text(result, value_count(result, "bytes") > 0 ? "path" : "waits_for", "the peer"),
                    false);
    (void)fprintf(stderr, terminal ? "" : "\n");
    (void)fflush(stderr);
}

static void show_gaps(const json_t *result)
{
    const json_t *gaps = json_object_get(result, "gaps");
    struct table table;
    table_init(&table, ">pause ms|>began at s");
    for (size_t i = 0; i < json_array_size(gaps); i++) {
        table_cell(&table, "%" PRIu64, value_count(json_array_get(gaps, i), "ms"));
        table_cell(&table, "%.1f", value_number(json_array_get(gaps, i), "at_ms", 0) / 1e3);
    }
    (void)printf("\n");
    table_finish(&table, "No pause of a millisecond or more.");
}

static void show_paths(const json_t *result)
{
    const json_t *paths = json_object_get(result, "paths");
    struct table table;
    table_init(&table, ">from s|path|address");
    for (size_t i = 0; i < json_array_size(paths); i++) {
        const json_t *one = json_array_get(paths, i);
        table_cell(&table, "%.1f", value_number(one, "at_ms", 0) / 1e3);
        table_cell(&table, "%s", value_text(one, "path", "-"));
        table_cell(&table, "%s", value_text(one, "addr", "-"));
    }
    (void)printf("\n");
    table_finish(&table, "No path was seen.");
}

void show_speed(const json_t *result)
{
    bool up = strcmp(value_text(result, "direction", ""), "up") == 0;
    if (isatty(STDERR_FILENO) != 0)
        (void)fprintf(stderr, "\r\033[K");
    text_field("peer", "%s", value_text(result, "peer", "-"));
    text_field("moved", "%s %s in %s", text_bytes(value_number(result, "bytes", NAN)).text,
               up ? "to the peer" : "from the peer", text_seconds(value_number(result, "seconds", NAN)).text);
    text_field("rate", "%s Mbit/s", text_fixed(value_number(result, "mbps", NAN), 1).text);
    text_field("content", "%s",
               value_true(result, "intact") ? "arrived intact" : "DIFFERS from what was sent");
    text_field("connected", "after %" PRIu64 " ms, first byte after %" PRIu64 " ms",
               value_count(result, "connect_ms"), value_count(result, "first_byte_ms"));
    text_field("longest pause", "%" PRIu64 " ms", value_count(result, "longest_gap_ms"));
    show_paths(result);
    show_gaps(result);
}

int judge_speed(const json_t *result)
{
    return value_true(result, "intact") ? EXIT_OK : EXIT_FAILED;
}
