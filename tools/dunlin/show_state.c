/* How records and checkpoints look. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "tools/dunlin/command.h"
#include "tools/dunlin/text.h"
#include "tools/dunlin/value.h"

/* Seconds from a Unix time in milliseconds until now; negative when it lies ahead. */
static double age_s(const json_t *object, const char *key)
{
    double at_ms = value_number(object, key, NAN);
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9 - at_ms / 1000;
}

void show_state_list(const json_t *result)
{
    const json_t *records = json_object_get(result, "records");
    struct table table;
    table_init(&table, "run|author|>slot|>seq|>issued|>expires in|>bytes|>schema");
    for (size_t i = 0; i < json_array_size(records); i++) {
        const json_t *one = json_array_get(records, i);
        table_cell(&table, "%s", text_id(value_text(one, "run", NULL)).text);
        table_cell(&table, "%s", text_id(value_text(one, "author", NULL)).text);
        table_cell(&table, "%" PRIu64, value_count(one, "slot"));
        table_cell(&table, "%" PRIu64, value_count(one, "seq"));
        table_cell(&table, "%s ago", text_seconds(age_s(one, "issued_ms")).text);
        table_cell(&table, "%s", text_seconds(-age_s(one, "expires_ms")).text);
        table_cell(&table, "%" PRIu64, value_count(one, "bytes"));
        table_cell(&table, "%" PRIu64, value_count(one, "schema"));
    }
    table_finish(&table, "No records of this run are held.");
    if (value_present(result, "digest"))
        text_field("digest", "%s", value_text(result, "digest", "-"));
}

void show_state_record(const json_t *result)
{
    text_field("run", "%s", value_text(result, "run", "-"));
    text_field("author", "%s", value_text(result, "author", "-"));
    text_field("slot", "%" PRIu64, value_count(result, "slot"));
    text_field("sequence", "%" PRIu64, value_count(result, "seq"));
    text_field("issued", "%s ago", text_seconds(age_s(result, "issued_ms")).text);
    text_field("expires in", "%s", text_seconds(-age_s(result, "expires_ms")).text);
    text_field("value", "%s", value_text(result, "value", "-"));
    const json_t *decoded = json_object_get(result, "decoded");
    char *text =
        value_present(result, "decoded") ? json_dumps(decoded, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    if (text != NULL)
        text_field("decoded", "%s", text);
    free(text);
}

void show_checkpoint_list(const json_t *result)
{
    const json_t *checkpoints = json_object_get(result, "checkpoints");
    struct table table;
    table_init(&table, "file|>round|>size|state");
    for (size_t i = 0; i < json_array_size(checkpoints); i++) {
        const json_t *one = json_array_get(checkpoints, i);
        table_cell(&table, "%s", value_text(one, "path", "-"));
        table_cell(&table, "%" PRIu64, value_count(one, "round"));
        table_cell(&table, "%s", text_bytes(value_number(one, "bytes", NAN)).text);
        table_cell(&table, "%s", value_true(one, "intact") ? "intact" : "damaged");
    }
    table_finish(&table, "No checkpoints yet: one is written every few minutes and at shutdown.");
}

void show_checkpoint_written(const json_t *result)
{
    if (value_present(result, "path"))
        text_field("file", "%s", value_text(result, "path", "-"));
    if (value_present(result, "bytes"))
        text_field("size", "%s", text_bytes(value_number(result, "bytes", NAN)).text);
    if (value_present(result, "round"))
        text_field("round", "%" PRIu64, value_count(result, "round"));
    if (value_present(result, "digest"))
        text_field("digest", "%s", value_text(result, "digest", "-"));
    if (json_object_size(result) == 0)
        (void)printf("Saved.\n");
}

/* On stderr, so that what is piped is the result alone.  A terminal keeps one line of it. */
void progress_export(const json_t *result)
{
    bool terminal = isatty(STDERR_FILENO) != 0;
    (void)fprintf(stderr, "%s%6.0f s  %" PRIu64 " of %" PRIu64 " models, ", terminal ? "\r\033[K" : "",
                  value_number(result, "seconds", 0), value_count(result, "models"),
                  value_count(result, "wanted"));
    text_write_safe(stderr, value_text(result, "state", "waiting"), false);
    if (value_present(result, "member"))
        (void)fprintf(stderr, " from %s: %s of %s", text_id(value_text(result, "member", NULL)).text,
                      text_bytes(value_number(result, "bytes", NAN)).text,
                      text_bytes(value_number(result, "bytes_wanted", NAN)).text);
    (void)fprintf(stderr, terminal ? "" : "\n");
    (void)fflush(stderr);
}

static void show_merged(const json_t *result)
{
    const json_t *members = json_object_get(result, "members");
    const json_t *missing = json_object_get(result, "missing");
    struct table table;
    text_field("models", "%" PRIu64 " in the mean", value_count(result, "models"));
    table_init(&table, "member|>round|>distance");
    for (size_t i = 0; i < json_array_size(members); i++) {
        const json_t *one = json_array_get(members, i);
        bool self = value_true(one, "self");
        table_cell(&table, "%s%s", text_id(value_text(one, "id", NULL)).text, self ? " (this node)" : "");
        table_cell(&table, "%" PRIu64, value_count(one, "round"));
        table_cell(&table, "%s", text_fixed(value_number(one, "distance", NAN), 4).text);
    }
    (void)printf("\n");
    table_finish(&table, "");
    for (size_t i = 0; i < json_array_size(missing); i++) {
        const json_t *one = json_array_get(missing, i);
        (void)printf("%s%s ", i == 0 ? "\n" : "", text_id(value_text(one, "id", NULL)).text);
        text_write_safe(stdout, value_text(one, "why", "was left out"), false);
        (void)printf("\n");
    }
    if (value_present(result, "warning")) {
        (void)fprintf(stderr, "dunlin: warning: ");
        text_write_safe(stderr, value_text(result, "warning", ""), false);
        (void)fprintf(stderr, "\n");
    }
}

void show_checkpoint_exported(const json_t *result)
{
    bool merged = value_present(result, "members");
    if (merged && isatty(STDERR_FILENO) != 0)
        (void)fprintf(stderr, "\r\033[K");
    show_checkpoint_written(result);
    if (merged)
        show_merged(result);
}
