/* Methods about runs: life cycle, replicated state, samples and checkpoints. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/hash.h"
#include "gossip/codec.h"
#include "node/export_merge.h"
#include "node/methods_internal.h"
#include "node/run_internal.h"
#include "train/safetensors.h"
#include "train/sample.h"
#include "train/trainer.h"

enum { PROMPT_SIZE = 4096, SAMPLE_MAX = 65536, FILES_MAX = 16, DECODED_SIZE = 512 };

bool method_text(struct control_call *call, const struct pack_reader *params, const char *key, char *out,
                 size_t cap)
{
    if (!control_has(params, key) || control_text(params, key, out, cap))
        return true;
    control_fail(call, ERR_INVALID, "%s: parameter '%s' must be plain text of at most %zu bytes",
                 call->method, key, cap - 1);
    return false;
}

struct run *method_run(struct node *node, struct control_call *call, const struct pack_reader *params)
{
    char text[RUN_NAME_SIZE] = "";
    struct run *found = NULL;
    size_t count = 0;
    bool named = control_has(params, "run");
    if (!method_text(call, params, "run", text, sizeof text))
        return NULL; /* it must not stand for the only run */
    for (size_t i = 0; i < NODE_RUNS_MAX; i++) {
        char id[ID_TEXT_SIZE];
        struct run *run = &node->runs[i];
        if (!run->used || run->leaving)
            continue;
        id_format(&run->id, id);
        if (named && strcmp(text, id) != 0 && strcmp(text, run->name) != 0 &&
            (strlen(text) < 4 || strncmp(id, text, strlen(text)) != 0))
            continue;
        found = run;
        count++;
    }
    if (count == 1)
        return found;
    control_fail(call, count == 0 ? ERR_NOT_FOUND : ERR_INVALID,
                 count == 0 ? (named ? "'%s': this node is in no such run; dunlin run list shows its runs"
                                     : "this node is in no run%s; dunlin run create or join")
                            : "%s: several runs match, give more of the id",
                 text);
    return NULL;
}

static void answer_run(struct control_call *call, struct run *run)
{
    struct reply *r = control_answer(call);
    run_reply(run, r);
    control_finish(call, false);
}

static bool u32_param(const struct pack_reader *params, const char *key, uint32_t *out)
{
    uint64_t value;
    if (!control_uint(params, key, &value))
        return false;
    *out = value > UINT32_MAX ? UINT32_MAX : (uint32_t)value; /* refused by run_config_check */
    return true;
}

static void default_config(struct run_config *config)
{
    struct trainer_options options = trainer_options_default();
    run_config_default(config);
    config->width = options.model.width;
    config->layers = options.model.layers;
    config->heads = options.model.heads;
    config->context = options.model.context;
    config->batch = options.batch;
    config->lr = (double)options.adamw.rate;
}

/* The kind of model, and an MLP's own settings; its defaults differ. */
static int read_model(const struct pack_reader *params, struct run_config *config, const char **why)
{
    char text[8 * TRAIN_MLP_SIZES_MAX] = "transformer";
    if (control_has(params, "model") && !control_text(params, "model", text, sizeof text))
        text[0] = '\0';
    if (strcmp(text, train_model_kind_name(TRAIN_TRANSFORMER)) == 0)
        return ERR_OK;
    if (strcmp(text, train_model_kind_name(TRAIN_MLP)) != 0) {
        *why = "model must be transformer or mlp";
        return ERR_INVALID;
    }
    config->model.kind = TRAIN_MLP;
    config->model.input_max = 1;
    config->width = config->layers = config->heads = config->context = 0;
    struct train_model_config none = {.kind = TRAIN_MLP};
    struct trainer_options options = trainer_options_mlp(&none);
    config->batch = options.batch;
    config->lr = (double)options.adamw.rate;
    (void)control_float(params, "input_max", &config->model.input_max);
    if (!control_text(params, "sizes", text, sizeof text) ||
        run_model_parse_sizes(text, &config->model) < 0) {
        *why = "an mlp needs its sizes from the inputs to the classes, such as 64,64,32,10";
        return ERR_INVALID;
    }
    if (control_has(params, "label") &&
        !control_text(params, "label", config->model.label, sizeof config->model.label)) {
        *why = "the name of the label's column must be at most 63 bytes";
        return ERR_INVALID;
    }
    return ERR_OK;
}

static int read_config(struct node *node, const struct pack_reader *params, struct run_config *config,
                       const char **why)
{
    char codec[16];
    uint64_t seed;
    enum gossip_codec parsed;
    default_config(config);
    int result = read_model(params, config, why);
    if (result < 0)
        return result;
    (void)u32_param(params, "width", &config->width);
    (void)u32_param(params, "layers", &config->layers);
    (void)u32_param(params, "heads", &config->heads);
    (void)u32_param(params, "context", &config->context);
    (void)u32_param(params, "batch", &config->batch);
    (void)u32_param(params, "round_ms", &config->round_ms);
    (void)u32_param(params, "rounds", &config->rounds);
    (void)u32_param(params, "fragments", &config->fragments);
    (void)control_bool(params, "strangers", &config->strangers);
    (void)control_bool(params, "loss_test", &config->loss_test);
    (void)control_float(params, "lr", &config->lr);
    (void)control_float(params, "alpha", &config->alpha);
    if (control_float(params, "beta", &config->beta))
        config->gamma = config->beta; /* only theta is exchanged, which needs them equal */
    (void)control_float(params, "gamma", &config->gamma);
    if (control_has(params, "codec")) {
        bool named = control_text(params, "codec", codec, sizeof codec);
        if (named && strcmp(codec, "auto") == 0) {
            config->codec = RUN_CODEC_AUTO;
        } else if (named && gossip_codec_parse(codec, &parsed) == ERR_OK) {
            config->codec = parsed;
        } else {
            *why = "codec must be auto, fp32, bf16, int8, mod4, mod3 or mod2";
            return ERR_INVALID;
        }
    }
    if (control_uint(params, "seed", &seed)) {
        run_seed_of(seed, config->seed);
    } else {
        rng_fill(&node->rng, config->seed, RUN_SEED_BYTES);
    }
    if (fabs(config->gamma - config->beta) > 1e-9) {
        *why = "gamma must equal beta: members exchange theta only";
        return ERR_UNSUPPORTED;
    }
    return run_config_check(config, why);
}

static struct run_own read_own(const struct pack_reader *params)
{
    struct run_own own = {.isolated = false};
    (void)control_bool(params, "isolated", &own.isolated);
    own.own_init = control_uint(params, "init_seed", &own.init_seed);
    return own;
}

void method_run_create(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    struct run_config config;
    struct run *run;
    char data[NODE_PATH_SIZE];
    char name[RUN_NAME_SIZE] = "run";
    char why[NODE_ERROR_SIZE] = "";
    const char *reason = "";
    bool train = true;
    if (!control_text(params, "data", data, sizeof data)) {
        control_fail(call, ERR_INVALID, "run.create: a data path (file or directory) is needed");
        return;
    }
    if (!method_text(call, params, "name", name, sizeof name))
        return;
    struct run_own own = read_own(params);
    (void)control_bool(params, "train", &train);
    int result = read_config(node, params, &config, &reason);
    if (result < 0) {
        control_fail(call, result, "%s", reason);
        return;
    }
    result = run_create(node, name, &config, data, &own, &run, why);
    if (result < 0) {
        control_fail(call, result, "%s", why[0] != '\0' ? why : err_text(result));
        return;
    }
    if (!train)
        run_pause(run, true);
    answer_run(call, run);
}

void method_run_join(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    struct run *run;
    struct id id;
    char text[ID_TEXT_SIZE];
    char data[NODE_PATH_SIZE];
    char why[NODE_ERROR_SIZE] = "";
    if (!control_text(params, "run", text, sizeof text) || id_parse(text, &id) < 0) {
        control_fail(call, ERR_INVALID, "run.join: the run's whole id (52 characters) is needed");
        return;
    }
    if (!control_text(params, "data", data, sizeof data)) {
        control_fail(call, ERR_INVALID, "run.join: a data path (file or directory) is needed");
        return;
    }
    struct run_own own = read_own(params);
    int result = run_join(node, &id, data, &own, &run, why);
    if (result < 0)
        control_fail(call, result, "%s", why[0] != '\0' ? why : err_text(result));
    else
        answer_run(call, run);
}

void method_run_leave(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct run *run = method_run(user, call, params);
    if (run == NULL)
        return;
    run_leave(run);
    answer_run(call, run);
}

static void pause_run(struct node *node, struct control_call *call, const struct pack_reader *params,
                      bool paused)
{
    struct run *run = method_run(node, call, params);
    if (run == NULL)
        return;
    run_pause(run, paused);
    answer_run(call, run);
}

void method_run_pause(void *user, struct control_call *call, const struct pack_reader *params)
{
    pause_run(user, call, params, true);
}

void method_run_resume(void *user, struct control_call *call, const struct pack_reader *params)
{
    pause_run(user, call, params, false);
}

void method_run_list(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    struct reply *r = control_answer(call);
    (void)params;
    reply_array(r, "runs");
    for (size_t i = 0; i < NODE_RUNS_MAX; i++) {
        if (!node->runs[i].used)
            continue;
        reply_map(r, NULL);
        run_reply(&node->runs[i], r);
        reply_end(r);
    }
    reply_end(r);
    control_finish(call, false);
}

void method_run_show(void *user, struct control_call *call, const struct pack_reader *params)
{
    static const char *const kinds[] = {"genesis", "config", "close", "admit", "revoke"};
    struct run *run = method_run(user, call, params);
    if (run == NULL)
        return;
    struct reply *r = control_answer(call);
    run_reply(run, r);
    run_reply_config(run, r);
    reply_array(r, "chain");
    for (size_t i = 0; i < run->chain.count; i++) {
        struct crdt_entry entry;
        struct bytes encoded = crdt_chain_entry(&run->chain, i);
        if (crdt_entry_decode(encoded, &entry) < 0)
            continue;
        reply_map(r, NULL);
        reply_uint(r, "index", entry.index);
        reply_str(r, "kind", (size_t)entry.kind < 5 ? kinds[entry.kind] : "unknown");
        reply_id(r, "hash", &run->chain.links[i].hash);
        reply_end(r);
    }
    reply_end(r);
    run_reply_members(run, r);
    control_finish(call, false);
}

static void reply_record(struct reply *r, const struct crdt_view *view)
{
    reply_id(r, "run", &view->record.key.run);
    reply_id(r, "author", &view->record.key.author);
    reply_uint(r, "slot", view->record.key.slot);
    reply_uint(r, "seq", view->record.seq);
    reply_uint(r, "issued_ms", view->record.issued_ms);
    reply_uint(r, "expires_ms", view->record.expires_ms);
    reply_uint(r, "bytes", view->encoded.len);
    reply_uint(r, "schema", view->record.schema);
}

void method_state_ls(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    struct run *run = method_run(node, call, params);
    struct crdt_view view;
    struct id digest;
    uint32_t cursor = 0;
    size_t count;
    if (run == NULL)
        return;
    struct reply *r = control_answer(call);
    reply_array(r, "records");
    while (crdt_replica_next(node->replica, &run->id, CRDT_SLOT_ANY, &cursor, &view)) {
        reply_map(r, NULL);
        reply_record(r, &view);
        reply_end(r);
    }
    reply_end(r);
    if (crdt_replica_digest(node->replica, &run->id, &digest, &count) == ERR_OK)
        reply_id(r, "digest", &digest);
    else
        reply_nil(r, "digest");
    control_finish(call, false);
}

static void decode_value(const struct crdt_view *view, char out[DECODED_SIZE])
{
    struct gossip_member member;
    struct gossip_progress progress;
    if (view->record.key.slot == CRDT_SLOT_MEMBER &&
        gossip_member_decode(view->record.value, &member) == ERR_OK)
        (void)snprintf(out, DECODED_SIZE, "member since round %" PRIu64 ", %zu addresses",
                       member.joined_round, member.addr_count);
    else if (view->record.key.slot == CRDT_SLOT_PROGRESS &&
             gossip_progress_decode(view->record.value, &progress) == ERR_OK)
        (void)snprintf(out, DECODED_SIZE,
                       "round %" PRIu64 ", %" PRIu64 " tokens, training loss %.4f, validation "
                       "loss %.4f, %" PRIu64 " merges, %" PRIu64 " skipped",
                       progress.round, progress.tokens, progress.train_loss, progress.val_loss,
                       progress.merges, progress.skipped);
    else
        (void)snprintf(out, DECODED_SIZE, "unknown slot");
}

void method_state_get(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    struct run *run = method_run(node, call, params);
    struct crdt_key key;
    struct crdt_view view;
    char author[ID_TEXT_SIZE];
    char decoded[DECODED_SIZE];
    char hex[2 * CRDT_VALUE_MAX + 1];
    uint64_t slot;
    if (run == NULL)
        return;
    if (!control_text(params, "author", author, sizeof author) || !control_uint(params, "slot", &slot) ||
        slot > UINT16_MAX) {
        control_fail(call, ERR_INVALID, "state.get: author (an id) and slot (0 to 65535) are needed");
        return;
    }
    if (!method_id(node, call, author, &key.author))
        return;
    key.run = run->id;
    key.slot = (uint16_t)slot;
    if (!crdt_replica_get(node->replica, &key, &view)) {
        control_fail(call, ERR_NOT_FOUND, "this author has no record in slot %u", (unsigned)slot);
        return;
    }
    for (size_t i = 0; i < view.record.value.len; i++)
        (void)snprintf(hex + 2 * i, 3, "%02x", view.record.value.data[i]);
    hex[2 * view.record.value.len] = '\0';
    decode_value(&view, decoded);
    struct reply *r = control_answer(call);
    reply_record(r, &view);
    reply_str(r, "value", hex);
    reply_str(r, "decoded", decoded);
    control_finish(call, false);
}

/* What happens to a snapshot that a call asked for: a sample is drawn from it, or it is written to a file. */
struct weights_job {
    struct worker_job job;
    struct node *node;
    struct control_ref call;
    struct train_layout layout;
    float *params;
    bool exports;
    uint64_t round;
    struct train_sample_config sample;
    _Atomic bool stop;
    uint8_t prompt[PROMPT_SIZE];
    uint8_t *text;
    char path[NODE_PATH_SIZE];
    struct method_exported exported;
    int result;
};

static void free_weights(struct weights_job *job)
{
    for (size_t i = 0; i < NODE_WEIGHTS_MAX; i++) {
        if (job->node->weights[i] == job)
            job->node->weights[i] = NULL;
    }
    free(job->params);
    free(job->text);
    free(job);
}

int method_export_file(const struct train_layout *layout, const char *merged, const float params[],
                       const char *path, struct method_exported *out)
{
    struct store_io io = store_io_system();
    out->bytes = train_safetensors_bytes(layout, merged);
    uint8_t *image = malloc(out->bytes);
    int result =
        image == NULL ? ERR_NO_MEMORY : train_safetensors_write(layout, merged, params, image, out->bytes);
    if (result == ERR_OK) {
        hash_content(bytes_of(image, out->bytes), &out->digest);
        result = store_file_write(&io, path, bytes_of(image, out->bytes), 0644, true);
    }
    free(image);
    return result;
}

void method_reply_exported(struct reply *r, const char *path, uint64_t round,
                           const struct method_exported *exported)
{
    reply_str(r, "path", path);
    reply_uint(r, "bytes", exported->bytes);
    reply_uint(r, "round", round);
    reply_id(r, "digest", &exported->digest);
}

static void use_weights(struct worker_job *base)
{
    struct weights_job *job = (struct weights_job *)(void *)base;
    struct allocator heap = allocator_system();
    if (job->exports)
        job->result = method_export_file(&job->layout, NULL, job->params, job->path, &job->exported);
    else
        job->result = train_sample(&job->layout, job->params, &job->sample, &heap, job->text);
}

/* Bytes that are not UTF-8 would make the answer undecodable for JSON: the client gets them replaced. */
static void reply_sample(struct reply *r, const struct weights_job *job)
{
    char *text = malloc(job->sample.count + 1);
    size_t len = 0;
    for (size_t i = 0; text != NULL && i < job->sample.count; i++) {
        uint8_t byte = job->text[i];
        bool shown = byte == '\n' || byte == '\t' || (byte >= 0x20 && byte < 0x7f);
        text[len++] = shown ? (char)byte : '?';
    }
    if (text != NULL)
        text[len] = '\0';
    reply_str(r, "text", text == NULL ? "" : text);
    free(text);
}

static void weights_used(void *user, struct worker_job *base)
{
    struct weights_job *job = (struct weights_job *)(void *)base;
    struct node *node = user;
    struct control_call *call = node->control == NULL ? NULL : control_resolve(node->control, job->call);
    if (call != NULL && job->result < 0) {
        control_fail(call, job->result, "%s%s%s", job->exports ? job->path : "sample", ": ",
                     err_text(job->result));
    } else if (call != NULL) {
        struct reply *r = control_answer(call);
        if (job->exports)
            method_reply_exported(r, job->path, job->round, &job->exported);
        else
            reply_sample(r, job);
        control_finish(call, false);
    }
    free_weights(job);
}

void methods_stop_samples(struct node *node, bool all)
{
    for (size_t i = 0; i < NODE_WEIGHTS_MAX; i++) {
        struct weights_job *job = node->weights[i];
        if (job != NULL && (all || control_resolve(node->control, job->call) == NULL))
            atomic_store(&job->stop, true);
    }
}

void methods_snapshot(struct node *node, const struct train_thread_event *event)
{
    /* A pointer is far above the small tags. */
    struct weights_job *job = (struct weights_job *)(uintptr_t)event->tag;
    ASSERT(job->params == event->array);
    if (!event->refused && worker_submit(&node->disk_worker, &job->job) == ERR_OK)
        return;
    struct control_call *call = node->control == NULL ? NULL : control_resolve(node->control, job->call);
    if (call != NULL && event->refused)
        control_fail(call, ERR_STATE, "the run has ended or failed meanwhile");
    else if (call != NULL)
        control_fail(call, ERR_BUSY, "the disk worker is busy: try again");
    free_weights(job);
}

static struct weights_job *new_weights_job(struct run *run, struct control_call *call)
{
    if (run->trainer == NULL || run->stage < RUN_SYNCING || run->stage == RUN_FAILED) {
        control_fail(call, ERR_STATE, "run %s has no weights yet: it is %s", run->name, run_stage_name(run));
        return NULL;
    }
    size_t slot = 0;
    while (slot < NODE_WEIGHTS_MAX && run->node->weights[slot] != NULL)
        slot++;
    if (slot == NODE_WEIGHTS_MAX) {
        control_fail(call, ERR_BUSY, "%d samples and exports are under way: try again later",
                     NODE_WEIGHTS_MAX);
        return NULL;
    }
    struct weights_job *job = calloc(1, sizeof *job);
    if (job != NULL) {
        job->node = run->node;
        job->node->weights[slot] = job;
        job->params = malloc(run->layout.arena_floats * sizeof(float));
        job->text = malloc(SAMPLE_MAX);
    }
    if (job == NULL || job->params == NULL || job->text == NULL) {
        control_fail(call, ERR_NO_MEMORY, "not enough memory for a copy of the weights");
        if (job != NULL)
            free_weights(job);
        return NULL;
    }
    job->job.run = use_weights;
    job->job.done = weights_used;
    job->call = control_ref_of(call);
    job->layout = run->layout;
    job->round = run->round;
    return job;
}

static void ask_weights(struct run *run, struct control_call *call, struct weights_job *job)
{
    if (train_thread_snapshot(run->trainer, (uint64_t)(uintptr_t)job, job->params) < 0) {
        control_fail(call, ERR_BUSY, "the trainer is busy: try again");
        free_weights(job);
    }
}

void method_sample(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct run *run = method_run(user, call, params);
    char prompt[PROMPT_SIZE] = "";
    uint64_t length = 256;
    uint64_t top_k = 40;
    double temperature = 0.8;
    if (run == NULL)
        return;
    if (!method_text(call, params, "prompt", prompt, sizeof prompt))
        return;
    (void)control_uint(params, "length", &length);
    (void)control_uint(params, "top_k", &top_k);
    (void)control_float(params, "temperature", &temperature);
    if (run->has_chain && run->config.model.kind == TRAIN_MLP) {
        control_fail(call, ERR_UNSUPPORTED, "sample: an mlp tells classes apart, it writes no text");
        return;
    }
    if (length < 1 || length > SAMPLE_MAX || top_k > 256 || !(temperature >= 0 && temperature <= 100)) {
        control_fail(call, ERR_INVALID, "sample: length 1 to %d, top_k 0 to 256, temperature 0 to 100",
                     SAMPLE_MAX);
        return;
    }
    struct weights_job *job = new_weights_job(run, call);
    if (job == NULL)
        return;
    memcpy(job->prompt, prompt, sizeof prompt);
    job->sample = train_sample_config_default();
    job->sample.prompt = bytes_of(job->prompt, strlen(prompt));
    job->sample.count = (size_t)length;
    job->sample.temperature = (float)temperature;
    job->sample.top_k = (unsigned)top_k;
    job->sample.stop = &job->stop;
    job->sample.seed = rng_u64(&run->node->rng);
    (void)control_uint(params, "seed", &job->sample.seed);
    ask_weights(run, call, job);
}

void method_checkpoint_export(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct run *run = method_run(user, call, params);
    char path[NODE_PATH_SIZE];
    if (run == NULL)
        return;
    if (!control_text(params, "path", path, sizeof path) || path[0] != '/') {
        control_fail(call, ERR_INVALID, "checkpoint.export: an absolute path is needed");
        return;
    }
    if (export_merge_start(run, call, path, params))
        return;
    struct weights_job *job = new_weights_job(run, call);
    if (job == NULL)
        return;
    job->exports = true;
    (void)snprintf(job->path, sizeof job->path, "%s", path);
    ask_weights(run, call, job);
}

void method_checkpoint_save(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct run *run = method_run(user, call, params);
    if (run == NULL)
        return;
    if (run->stage < RUN_TRAINING || run->stage == RUN_FAILED) {
        control_fail(call, ERR_STATE, "run %s has nothing to save yet: it is %s", run->name,
                     run_stage_name(run));
        return;
    }
    if (run->save_called && control_resolve(run->node->control, run->save_call) != NULL) {
        control_fail(call, ERR_BUSY,
                     "another call waits for a checkpoint of this run: try again in a moment");
        return;
    }
    run->save_call = control_ref_of(call);
    run->save_called = true;
    run_save(run);
    if (!run->saving)
        methods_saved(run, ERR_BUSY);
}

void methods_saved(struct run *run, int result)
{
    struct node *node = run->node;
    bool waits = run->save_called && node->control != NULL;
    struct control_call *call = waits ? control_resolve(node->control, run->save_call) : NULL;
    run->save_called = false;
    if (call == NULL)
        return;
    if (result < 0) {
        control_fail(call, result, "run %s: the checkpoint could not be written: %s", run->name,
                     err_text(result));
        return;
    }
    struct reply *r = control_answer(call);
    reply_uint(r, "round", run->saved_round);
    control_finish(call, false);
}

/* Looking at a checkpoint reads and hashes all of it, which is nothing for the loop. */
struct list_job {
    struct worker_job job;
    struct control_ref call;
    struct id run;
    char dir[NODE_PATH_SIZE];
    int count; /* or an error */
    struct {
        char path[STORE_PATH_MAX];
        uint64_t round, bytes;
        bool intact;
    } files[FILES_MAX];
};

static void list_files(struct worker_job *base)
{
    struct list_job *job = (struct list_job *)(void *)base;
    uint64_t generations[FILES_MAX];
    int found = checkpoint_list(job->dir, &job->run, generations, FILES_MAX);
    job->count = found < 0 ? found : 0;
    for (int i = 0; i < found; i++) {
        struct checkpoint_reader reader;
        struct stat info;
        char *path = job->files[job->count].path;
        if (checkpoint_path(job->dir, &job->run, generations[i], path, STORE_PATH_MAX) < 0)
            continue;
        bool intact = checkpoint_open_file(&reader, path, NULL) == ERR_OK;
        job->files[job->count].intact = intact;
        job->files[job->count].round = intact ? reader.info.round : 0;
        job->files[job->count].bytes = stat(path, &info) == 0 ? (uint64_t)info.st_size : 0;
        job->count++;
        if (intact)
            checkpoint_close(&reader);
    }
}

static void files_listed(void *user, struct worker_job *base)
{
    struct list_job *job = (struct list_job *)(void *)base;
    struct node *node = user;
    struct control_call *call = control_resolve(node->control, job->call);
    if (call != NULL && job->count < 0) {
        control_fail(call, job->count, "%s/runs: %s", job->dir, err_text(job->count));
    } else if (call != NULL) {
        struct reply *r = control_answer(call);
        reply_array(r, "checkpoints");
        for (int i = 0; i < job->count; i++) {
            reply_map(r, NULL);
            reply_str(r, "path", job->files[i].path);
            reply_uint(r, "round", job->files[i].round);
            reply_uint(r, "bytes", job->files[i].bytes);
            reply_bool(r, "intact", job->files[i].intact);
            reply_end(r);
        }
        reply_end(r);
        control_finish(call, false);
    }
    free(job);
}

void method_checkpoint_ls(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    struct run *run = method_run(node, call, params);
    if (run == NULL)
        return;
    struct list_job *job = calloc(1, sizeof *job);
    if (job == NULL) {
        control_fail(call, ERR_NO_MEMORY, "not enough memory for the list");
        return;
    }
    job->job.run = list_files;
    job->job.done = files_listed;
    job->call = control_ref_of(call);
    job->run = run->id;
    (void)snprintf(job->dir, sizeof job->dir, "%s", node->config.dir);
    if (worker_submit(&node->disk_worker, &job->job) < 0) {
        control_fail(call, ERR_BUSY, "the disk worker is busy: try again");
        free(job);
    }
}
