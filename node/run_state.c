/* Weights from elsewhere and to the disk: checkpoints, states fetched from peers, states served to joiners.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "gossip/codec.h"
#include "node/export_merge.h"
#include "node/run_internal.h"

enum {
    META_BYTES = 2048,
    SAVE_INTERVAL_S = 10,
    SAVE_SHARE = 20,
    FETCH_RETRY_S = 3,
    FETCH_PAUSE_S = 60,
    STATE_ROUNDS = 2
};

/* One checkpoint, read or written. */
struct disk_job {
    struct worker_job job;
    struct run *run;
    struct checkpoint_info info;
    char dir[NODE_PATH_SIZE];
    float *phi, *delta; /* copies of ours when saving; ours when loading */
    uint8_t *optimizer;
    size_t optimizer_len;
    struct gossip_history histories[GOSSIP_FRAGMENTS_MAX]; /* saving: as they belong to phi and delta */
    uint8_t meta[META_BYTES];
    size_t meta_len;
    uint64_t took_ns;
    bool final; /* saving: the merged weights of a finished run */
    struct store_why why;
    int result;
};

/* What a checkpoint remembers beside the weights: {1: tokens, 2: merges, 3: skipped, 4: joined round, 5:
 * history (when there was one fragment only), 6: validation loss at the start, 7: history of each fragment,
 * 8: of a finished run [outcome, members, cycles, spread before, spread, validation loss before]}. */
static void encode_history(struct pack_writer *w, const struct gossip_history *history)
{
    pack_array(w, history->count);
    for (uint32_t i = 0; i < history->count; i++)
        pack_float(w, history->distance[i]);
}

static void decode_history(struct pack_reader *r, struct gossip_history *history)
{
    for (size_t count = pack_read_array(r, GOSSIP_HISTORY); count > 0; count--) {
        double distance = pack_read_float(r);
        if (!r->failed && distance >= 0 && distance < 1e300)
            gossip_history_push(history, distance);
    }
}

static void encode_ending(struct pack_writer *w, const struct run_ending *e)
{
    pack_uint(w, 8);
    pack_array(w, 6);
    pack_uint(w, (uint64_t)e->outcome);
    pack_uint(w, e->members);
    pack_uint(w, e->cycles);
    pack_float(w, e->spread_before);
    pack_float(w, e->spread);
    pack_float(w, e->val_loss_before);
}

static void decode_ending(struct pack_reader *r, struct run_ending *e)
{
    size_t count = pack_read_array(r, 6);
    if (count != 6) {
        r->failed = true;
        return;
    }
    e->outcome = (enum run_outcome)pack_read_uint(r, RUN_OUTCOME_COUNT - 1);
    e->members = (size_t)pack_read_uint(r, GOSSIP_MEMBERS_MAX);
    e->cycles = pack_read_uint(r, UINT64_MAX);
    e->spread_before = pack_read_float(r);
    e->spread = pack_read_float(r);
    e->val_loss_before = pack_read_float(r);
}

static size_t encode_meta(const struct run *run, const struct gossip_history histories[], bool final,
                          uint8_t out[META_BYTES])
{
    struct pack_writer w = pack_writer_of(out, META_BYTES);
    const struct gossip_counters *counters = gossip_counters(run->gossip);
    uint64_t solo = 0;
    for (size_t reason = GOSSIP_SOLO_DEADLINE; reason < GOSSIP_SOLO_COUNT; reason++)
        solo += counters->solo[reason];
    pack_map(&w, final ? 7 : 6);
    pack_key_uint(&w, 1, run_tokens(run));
    pack_key_uint(&w, 2, run->merges_before + counters->merges - counters->refused);
    pack_key_uint(&w, 3, run->skipped_before + solo + counters->refused);
    pack_key_uint(&w, 4, run->joined_round);
    pack_key_float(&w, 6, run->val_loss_start);
    pack_uint(&w, 7);
    pack_array(&w, run->shape.fragment_count);
    for (size_t i = 0; i < run->shape.fragment_count; i++)
        encode_history(&w, &histories[i]);
    if (final)
        encode_ending(&w, &run->ending);
    return pack_writer_len(&w);
}

static void decode_meta(struct run *run, struct bytes in)
{
    struct pack_token tokens[32 + GOSSIP_FRAGMENTS_MAX * (1 + GOSSIP_HISTORY)];
    struct pack_reader r = pack_parse(in, tokens, sizeof tokens / sizeof tokens[0]);
    uint32_t seen = 0;
    size_t count;
    for (size_t left = pack_read_map(&r, 16); left > 0; left--) {
        switch (pack_read_key(&r, &seen)) {
        case 1:
            run->tokens_before = pack_read_uint(&r, UINT64_MAX);
            break;
        case 2:
            run->merges_before = pack_read_uint(&r, UINT64_MAX);
            break;
        case 3:
            run->skipped_before = pack_read_uint(&r, UINT64_MAX);
            break;
        case 4:
            run->joined_round = pack_read_uint(&r, UINT64_MAX);
            break;
        case 5:
            decode_history(&r, &run->histories[0]);
            break;
        case 6:
            run->val_loss_start = pack_read_float(&r);
            break;
        case 7:
            count = pack_read_array(&r, GOSSIP_FRAGMENTS_MAX);
            for (size_t i = 0; i < count; i++)
                decode_history(&r, &run->histories[i]);
            break;
        case 8:
            decode_ending(&r, &run->ending);
            break;
        default:
            pack_skip(&r);
            break;
        }
    }
}

/* Giving back gigabytes takes a tenth of a second: what the worker wrote it frees itself. */
static void free_copies(struct disk_job *job)
{
    free(job->phi);
    free(job->delta);
    free(job->optimizer);
    job->phi = job->delta = NULL;
    job->optimizer = NULL;
}

static void free_disk_job(struct disk_job *job, bool copies)
{
    if (copies)
        free_copies(job);
    free(job->optimizer);
    free(job);
}

static void read_checkpoint(struct worker_job *base)
{
    struct disk_job *job = (struct disk_job *)(void *)base;
    struct checkpoint_reader reader;
    size_t bytes = (size_t)job->info.param_count * sizeof(float);
    job->result = checkpoint_open(&reader, job->dir, &job->info.run, true, &job->why);
    if (job->result < 0)
        return;
    uint64_t optimizer_len = reader.info.section_len[CHECKPOINT_OPTIMIZER];
    job->meta_len = (size_t)reader.info.section_len[CHECKPOINT_META];
    if (reader.info.param_count != job->info.param_count || job->meta_len > META_BYTES ||
        optimizer_len > 64 * (uint64_t)bytes)
        job->result = ERR_MISMATCH;
    job->optimizer = job->result < 0 ? NULL : malloc((size_t)optimizer_len + 1);
    job->optimizer_len = (size_t)optimizer_len;
    if (job->result == ERR_OK && job->optimizer == NULL)
        job->result = ERR_NO_MEMORY;
    if (job->result == ERR_OK)
        job->result = checkpoint_read(&reader, CHECKPOINT_PHI, 0, job->phi, bytes);
    if (job->result == ERR_OK && reader.info.section_len[CHECKPOINT_DELTA] == bytes)
        job->result = checkpoint_read(&reader, CHECKPOINT_DELTA, 0, job->delta, bytes);
    if (job->result == ERR_OK)
        job->result = checkpoint_read(&reader, CHECKPOINT_OPTIMIZER, 0, job->optimizer, job->optimizer_len);
    if (job->result == ERR_OK)
        job->result = checkpoint_read(&reader, CHECKPOINT_META, 0, job->meta, job->meta_len);
    job->info = reader.info;
    checkpoint_close(&reader);
}

static void checkpoint_was_read(void *user, struct worker_job *base)
{
    struct disk_job *job = (struct disk_job *)(void *)base;
    struct run *run = job->run;
    struct node *node = user;
    run->jobs--;
    if (job->why.text[0] != '\0' && job->result != ERR_NOT_FOUND)
        node_info(node, TRACE_LEVEL_WARN, "run %s: %s", run->name, job->why.text);
    if (run->stage == RUN_LOADING && job->result == ERR_OK) {
        run->round = run->saved_round = job->info.round;
        run->steps_before = job->info.step;
        decode_meta(run, bytes_of(job->meta, job->meta_len));
        node_info(node, TRACE_LEVEL_INFO, "run %s: checkpoint of round %llu read", run->name,
                  (unsigned long long)run->round);
        if (train_thread_load(run->trainer, TAG_START, run->phi, job->optimizer, job->optimizer_len) < 0)
            run_fail(run, "the trainer does not answer");
        else
            job->optimizer = NULL; /* lent to the trainer, freed with its answer */
    } else if (run->stage == RUN_LOADING && job->result == ERR_NOT_FOUND) {
        if (train_thread_snapshot(run->trainer, TAG_START, run->phi) < 0)
            run_fail(run, "the trainer does not answer");
    } else if (run->stage == RUN_LOADING) {
        run_fail(run,
                 "checkpoint in %s/runs cannot be used (%s): move it away to start from a peer's weights",
                 node->config.dir, err_text(job->result));
    }
    free_disk_job(job, false);
    node_pump(node, node_now_ns());
}

static struct disk_job *new_disk_job(struct run *run, void (*work)(struct worker_job *),
                                     void (*done)(void *, struct worker_job *))
{
    struct disk_job *job = calloc(1, sizeof *job);
    if (job == NULL)
        return NULL;
    job->job.run = work;
    job->job.done = done;
    job->run = run;
    job->info.run = run->id;
    job->info.param_count = run->layout.arena_floats;
    job->info.tensor_count = (uint32_t)run->layout.tensor_count;
    (void)snprintf(job->dir, sizeof job->dir, "%s", run->node->config.dir);
    return job;
}

void run_load_checkpoint(struct run *run)
{
    struct disk_job *job = new_disk_job(run, read_checkpoint, checkpoint_was_read);
    if (job == NULL) {
        run_fail(run, "out of memory");
        return;
    }
    job->phi = run->phi;
    job->delta = run->delta;
    run->jobs++;
    if (worker_submit(&run->node->disk_worker, &job->job) < 0) {
        run->jobs--;
        free(job);
        run_fail(run, "the disk worker does not answer");
    }
}

static void copy_weights(struct worker_job *base)
{
    struct disk_job *job = (struct disk_job *)(void *)base;
    size_t bytes = (size_t)job->info.param_count * sizeof(float);
    memcpy(job->phi, job->run->phi, bytes);
    memcpy(job->delta, job->run->delta, bytes);
    memcpy(job->histories, job->run->histories, sizeof job->histories); /* this thread's, like the arrays */
}

static void write_sections(struct disk_job *job)
{
    struct checkpoint_writer writer;
    struct store_io io = store_io_system();
    size_t bytes = (size_t)job->info.param_count * sizeof(float);
    uint64_t began_ns = node_now_ns();
    const struct {
        const void *data;
        size_t len;
    } sections[CHECKPOINT_SECTIONS] = {{job->phi, bytes},
                                       {job->delta, bytes},
                                       {job->optimizer, job->optimizer_len},
                                       {job->meta, job->meta_len}};
    for (size_t i = 0; i < CHECKPOINT_SECTIONS; i++)
        job->info.section_len[i] = sections[i].len;
    job->result = checkpoint_begin(&writer, &io, job->dir, &job->info);
    if (job->result < 0)
        return;
    for (size_t i = 0; i < CHECKPOINT_SECTIONS && job->result == ERR_OK; i++)
        job->result =
            sections[i].len == 0 ? ERR_OK : checkpoint_write(&writer, sections[i].data, sections[i].len);
    if (job->result == ERR_OK)
        job->result = checkpoint_commit(&writer);
    else
        checkpoint_abort(&writer);
    job->took_ns = node_now_ns() - began_ns;
}

static void write_checkpoint(struct worker_job *base)
{
    struct disk_job *job = (struct disk_job *)(void *)base;
    write_sections(job);
    free_copies(job);
}

static void checkpoint_was_written(void *user, struct worker_job *base)
{
    struct disk_job *job = (struct disk_job *)(void *)base;
    struct run *run = job->run;
    struct node *node = user;
    uint64_t now_ns = node_now_ns();
    run->saving = false;
    if (job->result < 0) {
        node_info(node, TRACE_LEVEL_ERROR,
                  "run %s: checkpoint of round %llu in %s/runs not written: %s; the one "
                  "before is intact",
                  run->name, (unsigned long long)job->info.round, job->dir, err_text(job->result));
    } else {
        run->saved_round = job->info.round;
        run->save_took_ns = job->took_ns;
    }
    uint64_t pause_ns = SAVE_SHARE * job->took_ns;
    run->save_next_ns =
        now_ns + (pause_ns > SAVE_INTERVAL_S * NODE_SECOND_NS ? pause_ns : SAVE_INTERVAL_S * NODE_SECOND_NS);
    int result = job->result;
    free_disk_job(job, true);
    bool again = run->save_again;
    run->save_again = false;
    if (again)
        run_save(run);
    if (!run->saving)
        methods_saved(run, result);
    node_pump(node, now_ns);
}

static void weights_were_copied(void *user, struct worker_job *base)
{
    struct disk_job *job = (struct disk_job *)(void *)base;
    struct node *node = user;
    job->job.run = write_checkpoint;
    job->job.done = checkpoint_was_written;
    job->meta_len = encode_meta(job->run, job->histories, job->final, job->meta);
    if (worker_submit(&node->disk_worker, &job->job) < 0) {
        run_save_failed(job->run, ERR_BUSY);
        free_disk_job(job, true);
    }
}

void run_save_failed(struct run *run, int err)
{
    run->saving = false;
    run->save_again = false;
    run->save_next_ns = node_now_ns() + SAVE_INTERVAL_S * NODE_SECOND_NS;
    methods_saved(run, err);
}

void run_exported(struct run *run, uint8_t *bytes, size_t len)
{
    struct disk_job *job = new_disk_job(run, copy_weights, weights_were_copied);
    size_t size = run->layout.arena_floats * sizeof(float);
    if (job == NULL) {
        free(bytes);
        run_save_failed(run, ERR_NO_MEMORY);
        return;
    }
    job->optimizer = bytes;
    job->optimizer_len = bytes == NULL ? 0 : len;
    job->phi = malloc(size);
    job->delta = malloc(size);
    job->info.round = run_turns_settled(run);
    job->info.step = run_steps(run);
    job->final = run->stage == RUN_FINISHED;
    if (job->phi == NULL || job->delta == NULL || worker_submit(&run->node->merge_worker, &job->job) < 0) {
        node_info(run->node, TRACE_LEVEL_ERROR, "run %s: no memory for a checkpoint", run->name);
        run_save_failed(run, ERR_NO_MEMORY);
        free_disk_job(job, true);
    }
}

void run_save(struct run *run)
{
    if (run->stage < RUN_TRAINING || run->stage == RUN_FAILED)
        return;
    if (run->saving) {
        run->save_again = true;
        return;
    }
    run->saving = train_thread_export(run->trainer, TAG_SAVE) == ERR_OK;
    if (!run->saving) /* so that the next try has a time */
        run->save_next_ns = node_now_ns() + SAVE_INTERVAL_S * NODE_SECOND_NS;
}

/* No state from this donor: the next one is asked in a moment. */
static void fetch_again(struct run *run, uint64_t now_ns)
{
    run->fetch_tries++;
    run->stage_deadline_ns = now_ns + FETCH_RETRY_S * NODE_SECOND_NS;
}

void run_begin_fetch(struct run *run, uint64_t now_ns)
{
    struct run_swarm swarm;
    run_swarm_now(run, &swarm);
    run->stage = RUN_FETCHING;
    run->ending.adopting = swarm.donor_done;
    run_set_running(run);
    run->stage_deadline_ns = UINT64_MAX; /* STATE or FETCH_FAILED ends it */
    if (!swarm.has_donor) {              /* nobody is left: our weights are the best there are */
        run_enter_training(run, now_ns, run->round);
        return;
    }
    if (run->fetch_tries >= RUN_FETCH_PEERS_MAX) {
        run->fetch_next_ns = now_ns + FETCH_PAUSE_S * NODE_SECOND_NS;
        node_info(run->node, TRACE_LEVEL_WARN,
                  "run %s: none of %d members gave its weights; training goes on from ours, next try in %d s",
                  run->name, RUN_FETCH_PEERS_MAX, FETCH_PAUSE_S);
        run_enter_training(run, now_ns, run->round);
        return;
    }
    export_merge_yield(run, now_ns);
    (void)peers_want(run->node, &swarm.donor, NULL, 0, 60 * NODE_SECOND_NS);
    if (gossip_fetch(run->gossip, now_ns, &swarm.donor, run->fetch_buffer,
                     run->shape.encoded_bytes[GOSSIP_CODEC_FP32]) < 0)
        fetch_again(run, now_ns);
}

void run_fetch_failed(struct run *run, uint64_t now_ns, const struct gossip_event *event)
{
    if (run->stage != RUN_FETCHING)
        return;
    node_info(run->node, TRACE_LEVEL_INFO, "run %s: a peer's weights could not be fetched (%s), trying again",
              run->name, err_text(event->err));
    fetch_again(run, now_ns);
}

/* A fetched or published state on the merge worker. */
struct state_job {
    struct worker_job job;
    struct run *run;
    uint64_t round;
    struct bytes blob;
    size_t slot;
    bool final; /* the merged weights of a finished run */
    struct id digest;
    int result;
};

static void take_state(struct worker_job *base)
{
    struct state_job *job = (struct state_job *)(void *)base;
    struct run *run = job->run;
    job->result =
        gossip_decode(GOSSIP_CODEC_FP32, run->tensors, run->layout.tensor_count, job->blob, run->theta);
    if (job->result < 0)
        return;
    memcpy(run->phi, run->theta, run->layout.arena_floats * sizeof(float));
    memset(run->delta, 0, run->layout.arena_floats * sizeof(float));
    memset(run->histories, 0, sizeof run->histories);
    memset(run->distances, 0, run->distance_count * sizeof *run->distances);
    for (size_t i = 0; i < run->shape.fragment_count; i++)
        gossip_trail_forget(&run->trails[i]);
}

static void state_was_taken(void *user, struct worker_job *base)
{
    struct state_job *job = (struct state_job *)(void *)base;
    struct run *run = job->run;
    uint64_t now_ns = node_now_ns();
    run->jobs--;
    if (run->stage == RUN_FETCHING && job->result < 0) {
        fetch_again(run, now_ns);
    } else if (run->stage == RUN_FETCHING && !run->leaving) {
        run->round = job->round > run->round ? job->round : run->round;
        gossip_nearness_forget(&run->nearness, NULL);
        if (run->joined_round != 0 || run_steps(run) == 0 || run->round > run_last_round(run))
            run->joined_round = run->round; /* also who trained but not to the end: its weights are gone */
        if (train_thread_load(run->trainer, TAG_FETCHED, run->theta, NULL, 0) < 0)
            run_fail(run, "the trainer does not answer");
        state_store_run(run->node, run);
    }
    free(job);
    node_pump(user, now_ns);
}

static struct state_job *new_state_job(struct run *run, void (*work)(struct worker_job *),
                                       void (*done)(void *, struct worker_job *))
{
    struct state_job *job = calloc(1, sizeof *job);
    if (job == NULL)
        return NULL;
    job->job.run = work;
    job->job.done = done;
    job->run = run;
    return job;
}

/* A round that neither our own nor what the registers say explains would make nonsense of all that follows.
 */
static bool is_plausible(struct run *run, uint64_t round)
{
    struct run_swarm swarm;
    run_swarm_now(run, &swarm);
    bool merged = run->ending.adopting && round >= run_last_round(run); /* others may have ended before us */
    return (round >= run->round || merged) && round <= swarm.round_max + GOSSIP_ROUND_LAG_MAX;
}

void run_fetched(struct run *run, uint64_t now_ns, const struct gossip_event *event)
{
    if (run->stage != RUN_FETCHING)
        return;
    struct state_job *job =
        is_plausible(run, event->round) ? new_state_job(run, take_state, state_was_taken) : NULL;
    if (job == NULL) {
        fetch_again(run, now_ns);
        return;
    }
    job->round = event->round;
    job->blob = event->blob;
    run->jobs++;
    if (worker_submit(&run->node->merge_worker, &job->job) < 0) {
        run->jobs--;
        free(job);
        fetch_again(run, now_ns);
    }
}

static void encode_state(struct worker_job *base)
{
    struct state_job *job = (struct state_job *)(void *)base;
    struct run *run = job->run;
    uint8_t *out = run->states[job->slot].bytes;
    size_t len = run->shape.encoded_bytes[GOSSIP_CODEC_FP32];
    job->result =
        gossip_encode(GOSSIP_CODEC_FP32, run->tensors, run->layout.tensor_count, run->phi, out, len);
    hash_content(bytes_of(out, len), &job->digest);
}

static void state_was_encoded(void *user, struct worker_job *base)
{
    struct state_job *job = (struct state_job *)(void *)base;
    struct run *run = job->run;
    uint64_t now_ns = node_now_ns();
    run->states[job->slot].lent = false;
    if (job->result == ERR_OK && run->gossip != NULL && !run->leaving) {
        struct bytes blob =
            bytes_of(run->states[job->slot].bytes, run->shape.encoded_bytes[GOSSIP_CODEC_FP32]);
        if (gossip_set_state(run->gossip, now_ns, job->round, blob, &job->digest, RUN_BLOBS + job->slot) ==
            ERR_OK) {
            run->states[job->slot].lent = true;
            run->state_digest = job->digest;
            if (job->final)
                run_finish_published(run);
        }
    }
    run->publishing = false;
    free(job);
    node_pump(user, now_ns);
}

void run_publish_state(struct run *run)
{
    size_t slot = run->states[0].lent ? 1 : 0;
    uint64_t rounds = run->stage == RUN_FINISHING ? STATE_ROUNDS * RUN_FINISHING_PACE : STATE_ROUNDS;
    bool early = run->published_round != 0 && run->round < run->published_round + rounds;
    bool final = run->stage == RUN_FINISHED;
    if (run->isolated || run->publishing || run->states[slot].lent ||
        (final ? !run->ending.publish_due : early))
        return;
    struct state_job *job = new_state_job(run, encode_state, state_was_encoded);
    if (job == NULL)
        return;
    job->slot = slot;
    job->final = final;
    job->round = run->round;
    run->states[slot].lent = true;
    run->publishing = true;
    run->published_round = run->round;
    if (final)
        run->ending.publish_due = false;
    if (worker_submit(&run->node->merge_worker, &job->job) < 0) {
        run->states[slot].lent = false;
        run->publishing = false;
        run->ending.publish_due = final;
        free(job);
    }
}

void run_weights_loaded(struct run *run, uint64_t tag, const char *error)
{
    uint64_t now_ns = node_now_ns();
    if (error[0] != '\0' && tag == TAG_FETCHED) { /* a donor's fault, not ours */
        fetch_again(run, now_ns);
        return;
    }
    if (error[0] != '\0') {
        run_fail(run, "%s", error);
        return;
    }
    if (tag == TAG_FETCHED && run->stage == RUN_FETCHING) {
        if (run->ending.adopting && run->round >= run_last_round(run)) {
            run->ending.outcome = RUN_OUTCOME_FETCHED;
            run->ending.state.contributes = false;
        }
        run_enter_training(run, now_ns, run->round);
        run_publish_state(run);
        return;
    }
    if (tag != TAG_START || run->stage != RUN_LOADING)
        return;
    run->stage = RUN_SYNCING;
    run->stage_deadline_ns = 0; /* begins to run at the next tick */
    run_sync_all(run);
    if (!run->evaluating)
        run->evaluating = train_thread_evaluate(run->trainer, TAG_EVALUATE) == ERR_OK;
}

bool run_save_wanted(const struct run *run)
{
    return run->stage >= RUN_TRAINING && run->stage <= RUN_FINISHED && !run->saving &&
           run->round > run->saved_round;
}

void run_state_tick(struct run *run, uint64_t now_ns)
{
    if (run->stage == RUN_FETCHING && now_ns >= run->stage_deadline_ns)
        run_begin_fetch(run, now_ns);
    if (run_save_wanted(run) && now_ns >= run->save_next_ns)
        run_save(run);
    if (run->ending.publish_due)
        run_publish_state(run); /* there was no place for it */
}
