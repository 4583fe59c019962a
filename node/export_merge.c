#include "node/export_merge.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gossip/codec.h"
#include "gossip/merge/average.h"
#include "gossip/merge/gate.h"
#include "node/export_plan.h"
#include "node/methods_internal.h"
#include "node/run_internal.h"
#include "train/safetensors.h"

enum { TELL_S = 1, SILENCE_S = 30, SILENCE_MAX_S = 86400, NAMED_MAX = 4 };

enum stage {
    COPYING, /* the merge worker copies phi */
    ASKING,  /* a member's state is fetched, or could be */
    ADDING,  /* the disk worker adds it */
    WRITING, /* the disk worker writes the file */
    ENDED,   /* answered: only waits for what is under way */
};

struct export_merge {
    struct worker_job job;
    struct run *run;
    struct control_ref call;
    enum stage stage;
    bool working;  /* job is with a worker */
    bool fetching; /* the core owes the final event of our fetch */
    bool yielded;  /* it was broken off for the run's own */
    struct export_plan plan;
    uint64_t began_ns, tell_ns;
    uint64_t own_round;
    char path[NODE_PATH_SIZE];
    float *mean, *model; /* [arena_floats] */
    char *merged;        /* for the file: whose models the mean is of */
    uint8_t *buffer;     /* [encoded_bytes[FP32]] lent to the core while fetching */

    /* Of the job. */
    uint64_t round;
    double distance;
    struct method_exported exported;
    int result;
};

static size_t state_bytes(const struct run *run)
{
    return run->shape.encoded_bytes[GOSSIP_CODEC_FP32];
}

static void release(struct export_merge *merge)
{
    merge->run->exporting = NULL;
    free(merge->mean);
    free(merge->model);
    free(merge->merged);
    free(merge->buffer);
    free(merge);
}

/* Frees it once nothing that is under way uses it. */
static void settle(struct export_merge *merge)
{
    if (merge->stage == ENDED && !merge->working && !merge->fetching)
        release(merge);
}

static struct control_call *call_of(const struct export_merge *merge)
{
    struct control *control = merge->run->node->control;
    return control == NULL ? NULL : control_resolve(control, merge->call);
}

/* The call was answered, or nobody waits for it. */
static void end(struct export_merge *merge, uint64_t now_ns)
{
    merge->stage = ENDED;
    if (merge->fetching)
        gossip_fetch_cancel(merge->run->gossip, now_ns);
    settle(merge);
}

static void fail(struct export_merge *merge, uint64_t now_ns, int err, const char *what)
{
    struct control_call *call = call_of(merge);
    if (call != NULL)
        control_fail(call, err, "%s: %s", merge->path, what);
    end(merge, now_ns);
}

static const char *reason_text(int err)
{
    switch (err) {
    case ERR_NOT_FOUND:
        return "has published no weights";
    case ERR_BUSY:
        return "was busy with others";
    case ERR_FAR:
        return "has weights too far from the others'";
    case ERR_NOT_FINITE:
        return "has weights that are not finite";
    case ERR_MISMATCH:
    case ERR_MALFORMED:
        return "sent weights that cannot be used";
    default:
        return "did not answer";
    }
}

/* "abcdefghij did not answer, ...", at most NAMED_MAX of them. */
static void name_missing(const struct export_plan *plan, char out[], size_t cap)
{
    size_t named = 0;
    size_t len = 0;
    out[0] = '\0';
    for (size_t i = 0; i < plan->count && named <= NAMED_MAX && len < cap; i++) {
        char id[ID_TEXT_SIZE];
        if (plan->members[i].fate != EXPORT_MISSING)
            continue;
        id_format(&plan->members[i].id, id);
        const char *before = named == 0 ? "" : ", ";
        int wrote = named == NAMED_MAX ? snprintf(out + len, cap - len, " and others")
                                       : snprintf(out + len, cap - len, "%s%.10s %s", before, id,
                                                  reason_text(plan->members[i].err));
        len += wrote > 0 ? (size_t)wrote : 0;
        named++;
    }
}

static void reply_members(struct reply *r, const struct export_merge *merge)
{
    const struct export_plan *plan = &merge->plan;
    reply_array(r, "members");
    reply_map(r, NULL);
    reply_id(r, "id", &merge->run->node->identity.id);
    reply_uint(r, "round", merge->own_round);
    reply_bool(r, "self", true);
    reply_nil(r, "distance");
    reply_end(r);
    for (size_t i = 0; i < plan->count; i++) {
        if (plan->members[i].fate != EXPORT_MERGED)
            continue;
        reply_map(r, NULL);
        reply_id(r, "id", &plan->members[i].id);
        reply_uint(r, "round", plan->members[i].round);
        reply_bool(r, "self", false);
        reply_float(r, "distance", plan->members[i].distance);
        reply_end(r);
    }
    reply_end(r);
    reply_array(r, "missing");
    for (size_t i = 0; i < plan->count; i++) {
        if (plan->members[i].fate != EXPORT_MISSING)
            continue;
        reply_map(r, NULL);
        reply_id(r, "id", &plan->members[i].id);
        reply_str(r, "why", reason_text(plan->members[i].err));
        reply_end(r);
    }
    reply_end(r);
}

static void answer(struct export_merge *merge, uint64_t now_ns)
{
    const struct export_plan *plan = &merge->plan;
    struct control_call *call = call_of(merge);
    char missing[512];
    char warning[640];
    if (call != NULL) {
        struct reply *r = control_answer(call);
        reply_str(r, "state", "done");
        method_reply_exported(r, merge->path, merge->own_round, &merge->exported);
        reply_uint(r, "models", plan->merged + 1);
        reply_uint(r, "wanted", plan->wanted + 1);
        reply_members(r, merge);
        if (plan->merged < plan->wanted) {
            name_missing(plan, missing, sizeof missing);
            (void)snprintf(warning, sizeof warning,
                           "the mean is of %zu models instead of %zu: %zu other members live%s%s",
                           plan->merged + 1, plan->wanted + 1, plan->count, missing[0] == '\0' ? "" : "; ",
                           missing);
            reply_str(r, "warning", warning);
        } else {
            reply_nil(r, "warning");
        }
        control_finish(call, false);
    }
    end(merge, now_ns);
}

static void tell_progress(struct export_merge *merge, struct control_call *call, uint64_t now_ns)
{
    static const char *const names[] = {"copying", "fetching", "merging", "writing", "done"};
    const struct export_plan *plan = &merge->plan;
    struct reply *r = control_answer(call);
    reply_str(r, "state", names[merge->stage]);
    if (merge->fetching && plan->current < plan->count)
        reply_id(r, "member", &plan->members[plan->current].id);
    else
        reply_nil(r, "member");
    reply_uint(r, "bytes", merge->fetching ? gossip_fetched_bytes(merge->run->gossip) : 0);
    reply_uint(r, "bytes_wanted", state_bytes(merge->run));
    reply_uint(r, "models", plan->merged + (merge->stage > COPYING));
    reply_uint(r, "wanted", plan->wanted + 1);
    reply_float(r, "seconds", (double)(now_ns - merge->began_ns) / (double)NODE_SECOND_NS);
    control_finish(call, true);
}

/* Hands the job to a worker.  False: it failed, and merge may be gone. */
static bool submit(struct export_merge *merge, struct worker *worker, void (*work)(struct worker_job *),
                   void (*done)(void *, struct worker_job *))
{
    merge->job.run = work;
    merge->job.done = done;
    if (worker_submit(worker, &merge->job) < 0) {
        fail(merge, node_now_ns(), ERR_BUSY, "the node's workers are busy or ending: try again");
        return false;
    }
    merge->working = true;
    merge->run->jobs++;
    return true;
}

/* A job has come back.  False: there is nothing more to do, and merge may be gone. */
static bool returned(struct export_merge *merge)
{
    merge->working = false;
    merge->run->jobs--;
    bool goes_on = merge->stage != ENDED;
    settle(merge);
    return goes_on;
}

static void write_mean(struct worker_job *base)
{
    struct export_merge *merge = (struct export_merge *)(void *)base;
    const struct run *run = merge->run;
    bool finite = gossip_all_finite(run->layout.arena_floats, merge->mean);
    merge->result =
        finite ? method_export_file(&run->layout, merge->merged, merge->mean, merge->path, &merge->exported)
               : ERR_NOT_FINITE;
}

static void mean_was_written(void *user, struct worker_job *base)
{
    struct export_merge *merge = (struct export_merge *)(void *)base;
    uint64_t now_ns = node_now_ns();
    if (returned(merge)) {
        if (merge->result < 0)
            fail(merge, now_ns, merge->result, err_text(merge->result));
        else
            answer(merge, now_ns);
    }
    node_pump(user, now_ns);
}

/* "ID:ROUND ID:ROUND ...", this node first; NULL: no memory. */
static char *name_merged(const struct export_merge *merge)
{
    enum { EACH = ID_TEXT_SIZE + sizeof " :18446744073709551615" };
    static_assert((EXPORT_MEMBERS_MAX + 1) * EACH <= TRAIN_ST_MERGED_MAX, "all members must fit");
    const struct export_plan *plan = &merge->plan;
    size_t cap = (plan->merged + 1) * EACH;
    char *out = malloc(cap);
    char id[ID_TEXT_SIZE];
    if (out == NULL)
        return NULL;
    id_format(&merge->run->node->identity.id, id);
    size_t len = (size_t)snprintf(out, cap, "%s:%" PRIu64, id, merge->own_round);
    for (size_t i = 0; i < plan->count; i++) {
        if (plan->members[i].fate != EXPORT_MERGED)
            continue;
        id_format(&plan->members[i].id, id);
        len += (size_t)snprintf(out + len, cap - len, " %s:%" PRIu64, id, plan->members[i].round);
    }
    return out;
}

/* Everybody was asked who is going to be. */
static void conclude(struct export_merge *merge, uint64_t now_ns)
{
    char missing[512];
    char what[768];
    const struct export_plan *plan = &merge->plan;
    if (plan->merged > 0) {
        merge->stage = WRITING;
        merge->merged = name_merged(merge);
        if (merge->merged == NULL)
            fail(merge, now_ns, ERR_NO_MEMORY, err_text(ERR_NO_MEMORY));
        else
            (void)submit(merge, &merge->run->node->disk_worker, write_mean, mean_was_written);
        return;
    }
    name_missing(plan, missing, sizeof missing);
    (void)snprintf(what, sizeof what, "no other member gave its weights (%s); nothing was written", missing);
    bool silent = false;
    for (size_t i = 0; i < plan->count; i++)
        silent |= strcmp(reason_text(plan->members[i].err), reason_text(ERR_TIMEOUT)) == 0;
    fail(merge, now_ns, silent ? ERR_TIMEOUT : ERR_REFUSED, what);
}

static void ask(struct export_merge *merge, uint64_t now_ns)
{
    struct run *run = merge->run;
    struct export_plan *plan = &merge->plan;
    const struct id *id = &plan->members[plan->current].id;
    (void)peers_want(run->node, id, NULL, 0, plan->silence_ns);
    merge->yielded = false;
    merge->fetching = gossip_fetch(run->gossip, now_ns, id, merge->buffer, state_bytes(run)) == ERR_OK;
    if (!merge->fetching) /* the run's own fetch has not quite ended */
        export_plan_interrupted(plan, now_ns);
}

static void go_on(struct export_merge *merge, uint64_t now_ns)
{
    struct run *run = merge->run;
    if (merge->stage != ASKING || run->leaving || run->node->stopping)
        return;
    if (merge->fetching) {
        if (export_plan_silent(&merge->plan, now_ns, gossip_fetched_bytes(run->gossip)))
            gossip_fetch_cancel(run->gossip, now_ns);
        return;
    }
    if (run->stage == RUN_FETCHING)
        return;
    enum export_step step = export_plan_next(&merge->plan, now_ns);
    if (step == EXPORT_ASK)
        ask(merge, now_ns);
    else if (step == EXPORT_DONE)
        conclude(merge, now_ns);
}

/* A stranger to the run's model must not spoil the mean: the gate that merges have, without a history. */
static void add_state(struct worker_job *base)
{
    struct export_merge *merge = (struct export_merge *)(void *)base;
    const struct run *run = merge->run;
    size_t count = run->layout.arena_floats;
    struct gossip_sums sums = {.n = 0};
    float scale;
    merge->result = gossip_decode(GOSSIP_CODEC_FP32, run->tensors, run->layout.tensor_count,
                                  bytes_of(merge->buffer, state_bytes(run)), merge->model);
    if (merge->result < 0)
        return;
    gossip_sums_add(&sums, count, merge->model, merge->mean);
    struct gossip_gate_input gate = {.own_round = merge->round, /* age is no reason here */
                                     .partner_round = merge->round,
                                     .own_norm = sqrt(sums.yy),
                                     .distance = gossip_sums_distance(&sums),
                                     .radius = (double)INFINITY,
                                     .way = (double)INFINITY}; /* phi is not theta: no way to compare with */
    merge->distance = gate.own_norm > 0 ? gate.distance / gate.own_norm : 0;
    merge->result = gossip_gate(&gate, &scale);
    if (merge->result == ERR_OK)
        gossip_average_add(count, merge->plan.merged + 1, merge->model, merge->mean);
}

static void state_was_added(void *user, struct worker_job *base)
{
    struct export_merge *merge = (struct export_merge *)(void *)base;
    uint64_t now_ns = node_now_ns();
    if (returned(merge)) {
        merge->stage = ASKING;
        if (merge->result < 0)
            export_plan_failed(&merge->plan, now_ns, merge->result);
        else
            export_plan_merged(&merge->plan, merge->round, merge->distance);
        go_on(merge, now_ns);
    }
    node_pump(user, now_ns);
}

bool export_merge_event(struct run *run, uint64_t now_ns, const struct gossip_event *event)
{
    struct export_merge *merge = run->exporting;
    if (merge == NULL || !merge->fetching)
        return false;
    merge->fetching = false;
    if (merge->stage == ENDED) {
        settle(merge);
    } else if (event->kind == GOSSIP_EVENT_STATE) {
        merge->stage = ADDING;
        merge->round = event->round;
        (void)submit(merge, &run->node->disk_worker, add_state, state_was_added);
    } else if (merge->yielded) {
        export_plan_interrupted(&merge->plan, now_ns);
    } else { /* what a peer refuses a fetch for is that it has nothing to give yet */
        export_plan_failed(&merge->plan, now_ns, event->err == ERR_REFUSED ? ERR_NOT_FOUND : event->err);
        go_on(merge, now_ns);
    }
    return true;
}

void export_merge_yield(struct run *run, uint64_t now_ns)
{
    struct export_merge *merge = run->exporting;
    if (merge == NULL || !merge->fetching)
        return;
    merge->yielded = true;
    gossip_fetch_cancel(run->gossip, now_ns);
}

void export_merge_tick(struct run *run, uint64_t now_ns)
{
    struct export_merge *merge = run->exporting;
    if (merge == NULL || merge->stage == ENDED)
        return;
    struct control_call *call = call_of(merge);
    if (call == NULL) {
        end(merge, now_ns);
    } else if (run->leaving || run->node->stopping) {
        fail(merge, now_ns, ERR_CANCELLED, "not written: the node leaves the run or ends");
    } else {
        if (now_ns >= merge->tell_ns) {
            tell_progress(merge, call, now_ns);
            merge->tell_ns = now_ns + TELL_S * NODE_SECOND_NS;
        }
        go_on(merge, now_ns);
    }
}

uint64_t export_merge_deadline_ns(const struct run *run)
{
    const struct export_merge *merge = run->exporting;
    if (merge == NULL || merge->stage == ENDED)
        return UINT64_MAX;
    if (merge->stage != ASKING || merge->fetching || run->stage == RUN_FETCHING)
        return merge->tell_ns;
    uint64_t ask_ns = export_plan_deadline_ns(&merge->plan);
    return ask_ns < merge->tell_ns ? ask_ns : merge->tell_ns;
}

void export_merge_release(struct run *run)
{
    struct export_merge *merge = run->exporting;
    if (merge == NULL)
        return;
    struct control_call *call = merge->stage == ENDED ? NULL : call_of(merge);
    ASSERT(!merge->working);
    if (call != NULL)
        control_fail(call, ERR_CANCELLED, "%s: not written: the node leaves the run or ends", merge->path);
    release(merge);
}

static void copy_phi(struct worker_job *base)
{
    struct export_merge *merge = (struct export_merge *)(void *)base;
    size_t count = merge->run->layout.arena_floats;
    memcpy(merge->mean, merge->run->phi, count * sizeof(float));
    merge->result = gossip_all_finite(count, merge->mean) ? ERR_OK : ERR_NOT_FINITE;
}

static void phi_was_copied(void *user, struct worker_job *base)
{
    struct export_merge *merge = (struct export_merge *)(void *)base;
    uint64_t now_ns = node_now_ns();
    if (returned(merge)) {
        merge->stage = ASKING;
        if (merge->result < 0)
            fail(merge, now_ns, merge->result, "not written: this node's own weights are not finite");
        else
            go_on(merge, now_ns);
    }
    node_pump(user, now_ns);
}

/* Members near the round that is believed come first, connected ones before others, else by chance. */
static void add_members(struct export_merge *merge)
{
    struct gossip_member_state others[RUN_OTHERS_MAX];
    struct run *run = merge->run;
    uint64_t round_max;
    size_t live;
    size_t count = run_others_now(run, others, &round_max, &live);
    for (size_t i = count; i > 1; i--) {
        size_t k = (size_t)rng_below(&run->node->rng, i);
        struct gossip_member_state last = others[i - 1];
        others[i - 1] = others[k];
        others[k] = last;
    }
    for (unsigned class = 0; class < 4; class ++) {
        for (size_t i = 0; i < count; i++) {
            const struct node_peer *peer = peers_find(run->node, &others[i].id);
            uint64_t round = others[i].progress_round;
            bool far = round > round_max || round + GOSSIP_ROUND_LAG_MAX < round_max;
            bool apart = peer == NULL || !peer->connected;
            if (2 * (unsigned)far + (unsigned)apart == class)
                export_plan_add(&merge->plan, &others[i].id);
        }
    }
}

static bool read_params(struct control_call *call, const struct pack_reader *params, uint64_t *models,
                        uint64_t *wait_s)
{
    *wait_s = SILENCE_S;
    (void)control_uint(params, "wait_s", wait_s);
    if (!control_uint(params, "merge", models)) {
        control_fail(call, ERR_INVALID, "checkpoint.export: wait_s goes with merge only");
    } else if (*models < 1 || *models > EXPORT_MEMBERS_MAX) {
        control_fail(call, ERR_INVALID,
                     "checkpoint.export: merge must be 1 to %d models, this node's included",
                     EXPORT_MEMBERS_MAX);
    } else if (*wait_s < 1 || *wait_s > SILENCE_MAX_S) {
        control_fail(call, ERR_INVALID, "checkpoint.export: wait_s must be 1 to %d", SILENCE_MAX_S);
    } else {
        return true;
    }
    return false;
}

static bool is_possible(const struct run *run, struct control_call *call)
{
    if (run->stage != RUN_TRAINING && run->stage != RUN_FINISHED)
        control_fail(call, ERR_STATE, "run %s has no weights to merge yet: it is %s", run->name,
                     run_stage_name(run));
    else if (run->exporting != NULL)
        control_fail(call, ERR_BUSY, "another merged export of run %s is under way: wait for it to end",
                     run->name);
    else
        return true;
    return false;
}

static struct export_merge *create(struct run *run, struct control_call *call)
{
    uint64_t need = 2 * (uint64_t)run->layout.arena_floats * sizeof(float) + state_bytes(run);
    uint64_t free_bytes = uv_get_free_memory();
    bool fits = need <= free_bytes || free_bytes == 0;
    struct export_merge *merge = fits ? calloc(1, sizeof *merge) : NULL;
    if (merge != NULL) {
        merge->run = run;
        run->exporting = merge;
        merge->mean = malloc(run->layout.arena_floats * sizeof(float));
        merge->model = malloc(run->layout.arena_floats * sizeof(float));
        merge->buffer = malloc(state_bytes(run));
        if (merge->mean != NULL && merge->model != NULL && merge->buffer != NULL)
            return merge;
        release(merge);
    }
    control_fail(call, ERR_NO_MEMORY, "a merged export needs %llu MiB of memory, and %llu MiB are free",
                 (unsigned long long)(need >> 20), (unsigned long long)(free_bytes >> 20));
    return NULL;
}

static void begin(struct run *run, struct control_call *call, const char *path, size_t models,
                  uint64_t wait_s)
{
    uint64_t now_ns = node_now_ns();
    struct export_merge *merge = create(run, call);
    if (merge == NULL)
        return;
    merge->call = control_ref_of(call);
    merge->began_ns = now_ns;
    merge->tell_ns = now_ns + TELL_S * NODE_SECOND_NS;
    merge->own_round = run_turns_settled(run);
    (void)snprintf(merge->path, sizeof merge->path, "%s", path);
    export_plan_init(&merge->plan, models - 1, wait_s * NODE_SECOND_NS);
    add_members(merge);
    if (merge->plan.count == 0) {
        fail(merge, now_ns, ERR_NOT_FOUND, "not written: no other member of the run is alive");
        return;
    }
    (void)submit(merge, &run->node->merge_worker, copy_phi, phi_was_copied);
}

bool export_merge_start(struct run *run, struct control_call *call, const char *path,
                        const struct pack_reader *params)
{
    uint64_t models = 0;
    uint64_t wait_s = 0;
    if (!control_has(params, "merge") && !control_has(params, "wait_s"))
        return false;
    if (!read_params(call, params, &models, &wait_s))
        return true;
    if (models == 1)
        return false;
    if (is_possible(run, call))
        begin(run, call, path, (size_t)models, wait_s);
    return true;
}
