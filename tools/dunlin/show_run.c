/* How runs look. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/dunlin/command.h"
#include "tools/dunlin/show.h"
#include "tools/dunlin/text.h"
#include "tools/dunlin/value.h"

void show_runs_table(const json_t *runs)
{
    struct table table;
    table_init(
        &table,
        "run|name|state|>round|partner|>members|>tokens|>tokens/s|>loss|>val loss|>merges|>skipped|>spread");
    for (size_t i = 0; i < json_array_size(runs); i++) {
        const json_t *run = json_array_get(runs, i);
        table_cell(&table, "%s", text_id(value_text(run, "id", NULL)).text);
        table_cell(&table, "%.24s", value_text(run, "name", "-"));
        table_cell(&table, "%s", value_text(run, "state", "-"));
        table_cell(&table, "%" PRIu64, value_count(run, "round"));
        table_cell(&table, "%s", text_id(value_text(run, "partner", NULL)).text);
        table_cell(&table, "%" PRIu64, value_count(run, "members"));
        table_cell(&table, "%s", text_count(value_number(run, "tokens", NAN)).text);
        table_cell(&table, "%s", text_count(value_number(run, "tokens_s", NAN)).text);
        table_cell(&table, "%s", text_fixed(value_number(run, "train_loss", NAN), 3).text);
        table_cell(&table, "%s", text_fixed(value_number(run, "val_loss", NAN), 3).text);
        table_cell(&table, "%" PRIu64, value_count(run, "merges"));
        table_cell(&table, "%" PRIu64, value_count(run, "skipped"));
        table_cell(&table, "%s",
                   text_small(value_number(json_object_get(run, "finish"), "spread", NAN)).text);
    }
    table_finish(
        &table,
        "No runs: start one with 'dunlin run create --data PATH', or join one with 'dunlin run join RUN'.");
}

void show_run_list(const json_t *result)
{
    show_runs_table(json_object_get(result, "runs"));
}

/* "12 of 300", or "12" for a run without an end. */
static void show_round(const json_t *run)
{
    uint64_t total = value_count(run, "rounds_total");
    if (total > 0 && value_count(run, "round") > total)
        text_field("round", "%" PRIu64 ", %" PRIu64 " of them trained, each %s", value_count(run, "round"),
                   total, text_seconds(value_number(run, "round_ms", NAN) / 1000).text);
    else if (total > 0)
        text_field("round", "%" PRIu64 " of %" PRIu64 ", each %s", value_count(run, "round"), total,
                   text_seconds(value_number(run, "round_ms", NAN) / 1000).text);
    else
        text_field("round", "%" PRIu64 ", each %s", value_count(run, "round"),
                   text_seconds(value_number(run, "round_ms", NAN) / 1000).text);
}

static void show_progress(const json_t *run)
{
    show_round(run);
    text_field("trained", "%s tokens, %s/s at %s %% CPU", text_count(value_number(run, "tokens", NAN)).text,
               text_count(value_number(run, "tokens_s", NAN)).text,
               text_fixed(value_number(run, "cpu_pct", NAN), 0).text);
    bool classifies = json_object_get(run, "val_accuracy") != NULL;
    text_field("loss", "training %s, validation %s (%s at the start) nats per %s",
               text_fixed(value_number(run, "train_loss", NAN), 3).text,
               text_fixed(value_number(run, "val_loss", NAN), 3).text,
               text_fixed(value_number(run, "val_loss_start", NAN), 3).text, classifies ? "row" : "byte");
    if (classifies)
        text_field("right", "%s %% of the validation rows",
                   text_fixed(100 * value_number(run, "val_accuracy", NAN), 2).text);
    text_field("merges", "%" PRIu64 " done, %" PRIu64 " skipped; last partner %s at distance %s",
               value_count(run, "merges"), value_count(run, "skipped"),
               text_id(value_text(run, "partner", NULL)).text,
               text_fixed(value_number(run, "replica_distance", NAN), 4).text);
    text_counts_field("  skipped for", json_object_get(run, "skipped_by"));
    text_field("exchanged", "%s sent, %s received", text_bytes(value_number(run, "bytes_sent", NAN)).text,
               text_bytes(value_number(run, "bytes_received", NAN)).text);
    text_field("model", "%s parameters, %s of memory", text_count(value_number(run, "params", NAN)).text,
               text_bytes(value_number(run, "memory_bytes", NAN)).text);
    text_field(classifies ? "data" : "text", "%s", text_bytes(value_number(run, "data_bytes", NAN)).text);
}

/* "3 of at most 32 cycles, 2 of 4 members settled, spread 0.0021 (0.064 before)" */
static void show_finish(const json_t *run)
{
    const json_t *finish = json_object_get(run, "finish");
    const char *outcome = value_text(finish, "outcome", "");
    if (!value_present(run, "finish"))
        return;
    const char *state = value_text(run, "state", "");
    if (strcmp(state, "training") == 0 || strcmp(state, "paused") == 0) {
        text_field("ends", "after round %" PRIu64 ", by its creator's word",
                   value_count(finish, "last_round"));
        return;
    }
    text_field("merging",
               "%" PRIu64 " of at most %" PRIu64 " cycles, %" PRIu64 " of %" PRIu64 " members settled",
               value_count(finish, "cycles"), value_count(finish, "cycles_max"),
               value_count(finish, "settled"), value_count(finish, "members"));
    text_field("  spread", "%s (%s before; settled below %s)",
               text_small(value_number(finish, "spread", NAN)).text,
               text_small(value_number(finish, "spread_before", NAN)).text,
               text_small(value_number(finish, "tolerance", NAN)).text);
    if (strcmp(outcome, "bound") == 0)
        text_field("  result", "not all members agreed in time: see the spread");
    else if (strcmp(outcome, "fetched") == 0)
        text_field("  result", "came late: took over the merged weights of a member that had finished");
    else if (strcmp(outcome, "merged") == 0)
        text_field("  result", "all agree");
}

static void show_head(const json_t *run)
{
    text_field("run", "%s", value_text(run, "id", "-"));
    text_field("name", "%s", value_text(run, "name", "-"));
    text_field("state", "%s", value_text(run, "state", "-"));
    if (value_present(run, "error"))
        text_field("  error", "%s", value_text(run, "error", "-"));
}

static void show_members(const json_t *members)
{
    struct table table;
    table_init(&table, "member|>round|>tokens|>loss|>val loss|>heard");
    for (size_t i = 0; i < json_array_size(members); i++) {
        const json_t *one = json_array_get(members, i);
        bool self = value_true(one, "self");
        table_cell(&table, "%s%s", text_id(value_text(one, "id", NULL)).text, self ? " (this node)" : "");
        table_cell(&table, "%" PRIu64, value_count(one, "round"));
        table_cell(&table, "%s", text_count(value_number(one, "tokens", NAN)).text);
        table_cell(&table, "%s", text_fixed(value_number(one, "train_loss", NAN), 3).text);
        table_cell(&table, "%s", text_fixed(value_number(one, "val_loss", NAN), 3).text);
        table_cell(&table, "%s", self ? "-" : text_seconds(value_number(one, "age_s", NAN)).text);
    }
    (void)printf("\n");
    table_finish(&table, "No members are known yet.");
}

static void show_config(const json_t *config)
{
    json_t *walk = (json_t *)(uintptr_t)config; /* jansson's iterators want it mutable; nothing is changed */
    const char *key;
    json_t *value;
    (void)printf("\nconfiguration\n");
    json_object_foreach(walk, key, value)
    {
        char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(7));
        char label[32];
        (void)snprintf(label, sizeof(label), "  %s", key);
        if (text != NULL)
            text_field(label, "%s", json_is_string(value) ? json_string_value(value) : text);
        free(text);
    }
}

static void show_chain(const json_t *chain)
{
    struct table table;
    table_init(&table, ">entry|kind|hash");
    for (size_t i = 0; i < json_array_size(chain); i++) {
        const json_t *one = json_array_get(chain, i);
        table_cell(&table, "%" PRIu64, value_count(one, "index"));
        if (json_is_string(json_object_get(one, "kind")))
            table_cell(&table, "%s", value_text(one, "kind", "-"));
        else
            table_cell(&table, "%" PRIu64, value_count(one, "kind"));
        table_cell(&table, "%s", value_text(one, "hash", "-"));
    }
    (void)printf("\nowner's chain\n");
    table_finish(&table, "No entries are held.");
}

void show_run(const json_t *result)
{
    show_head(result);
    show_finish(result);
    show_progress(result);
    show_members(json_object_get(result, "members_list"));
    show_config(json_object_get(result, "config"));
    show_chain(json_object_get(result, "chain"));
}

void show_run_created(const json_t *result)
{
    const char *id = value_text(result, "id", "-");
    text_field("run", "%s", id);
    text_field("state", "%s", value_text(result, "state", "-"));
    text_field("model", "%s parameters", text_count(value_number(result, "params", NAN)).text);
    text_field("memory", "%s", text_bytes(value_number(result, "memory_bytes", NAN)).text);
    text_field("others join by", "dunlin run join %s --data PATH", id);
}

void show_run_changed(const json_t *result)
{
    if (value_present(result, "id"))
        show_head(result);
    else
        (void)printf("Done.\n");
    if (value_present(result, "memory_bytes"))
        text_field("memory", "%s", text_bytes(value_number(result, "memory_bytes", NAN)).text);
}

void progress_finish(const json_t *result)
{
    const json_t *finish = json_object_get(result, "finish");
    const char *state = value_text(result, "state", "-");
    if (strcmp(state, "training") == 0)
        (void)fprintf(stderr, "training: round %" PRIu64 " of %" PRIu64 "\n", value_count(result, "round"),
                      value_count(result, "rounds_total"));
    else
        (void)fprintf(stderr,
                      "%s: cycle %" PRIu64 " of at most %" PRIu64 ", %" PRIu64 " of %" PRIu64
                      " members settled, spread %s\n",
                      state, value_count(finish, "cycles"), value_count(finish, "cycles_max"),
                      value_count(finish, "settled"), value_count(finish, "members"),
                      text_small(value_number(finish, "spread", NAN)).text);
}

void show_run_finished(const json_t *result)
{
    const json_t *finish = json_object_get(result, "finish");
    const char *state = value_text(result, "state", "-");
    show_head(result);
    if (strcmp(state, "paused") == 0)
        text_field("note", "this node is paused and takes no part; the other members finish without it");
    show_round(result);
    show_finish(result);
    if (value_present(finish, "outcome"))
        text_field("val loss", "%s of the merged model, %s of this replica before",
                   text_fixed(value_number(result, "val_loss", NAN), 4).text,
                   text_fixed(value_number(finish, "val_loss_before", NAN), 4).text);
}

int judge_finish(const json_t *result)
{
    return strcmp(value_text(result, "state", ""), "error") == 0 ? EXIT_FAILED : EXIT_OK;
}

void show_sample(const json_t *result)
{
    text_write_safe(stdout, value_text(result, "text", ""), true);
    (void)fputc('\n', stdout);
}
