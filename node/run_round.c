/* Rounds: at each boundary a snapshot is taken, exchanged and merged while training goes on.
 *
 * The round clock ticks every round_ms whatever an exchange does; it is only held back while the difference
 * of the round before is still on its way into the trainer, which takes milliseconds. */
#include <stdlib.h>
#include <string.h>

#include "gossip/pairing.h"
#include "node/run_internal.h"

enum { PLAIN_ROUNDS = 10 };

static uint64_t round_ns(const struct run *run)
{
    return (uint64_t)run->config.round_ms * 1000000;
}

void run_enter_training(struct run *run, uint64_t now_ns, uint64_t round)
{
    run->stage = RUN_TRAINING;
    run->round = round;
    run->fetch_tries = 0;
    run->boundary_ns = now_ns + round_ns(run);
    run->rate_ns = now_ns;
    run->rate_tokens = run_tokens(run);
    run_put_member(run, now_ns);
    run_put_progress(run);
    if (round >= run->config.rounds) { /* restarted after the last round: what is left is to serve it */
        run_publish_state(run);
        run_finish(run);
        return;
    }
    run_set_running(run);
    node_info(run->node, TRACE_LEVEL_INFO, "run %s: training from round %llu", run->name,
              (unsigned long long)round);
}

/* A blob that gossip/ does not read any more. */
static bool take_blob(struct run *run)
{
    for (size_t i = 0; i < RUN_BLOBS; i++) {
        if (!run->blobs[i].lent) {
            run->blob_now = i;
            return true;
        }
    }
    return false;
}

static void measure_rate(struct run *run, uint64_t now_ns)
{
    uint64_t tokens = run_tokens(run);
    if (now_ns > run->rate_ns)
        run->tokens_s = (double)(tokens - run->rate_tokens) * 1e9 / (double)(now_ns - run->rate_ns);
    run->rate_ns = now_ns;
    run->rate_tokens = tokens;
}

/* The outcome of this round, made up here when there is nobody to exchange with. */
static void solo(struct run *run, enum gossip_solo reason)
{
    memset(&run->outcome, 0, sizeof run->outcome);
    run->outcome.kind = GOSSIP_EVENT_SOLO;
    run->outcome.round = run->round;
    run->outcome.solo = reason;
    run->has_outcome = true;
}

/* True when this round is further than being in phase with any other member explains, and they do go on. Then
 * we wait for them: members believe a newer round only when a second one is near it, so nobody would follow
 * us. A node restarted seconds before the others is in this place. */
static bool too_far_ahead(struct run *run, uint64_t round)
{
    struct run_swarm swarm;
    run_swarm_now(run, &swarm);
    bool going_on = swarm.has_donor && swarm.round_max > run->others_round;
    run->others_round = swarm.round_max;
    return going_on && round > swarm.round_max + 2;
}

/* The boundary of round `round`: everything after it happens to this round's snapshot. */
static void begin_round(struct run *run, uint64_t now_ns, uint64_t round)
{
    struct gossip_view view;
    bool behind = now_ns > run->boundary_ns + round_ns(run);
    run->round = round;
    run->round_began_ns = now_ns;
    run->boundary_ns = behind ? now_ns + round_ns(run) : run->boundary_ns + round_ns(run);
    if (!run->isolated && too_far_ahead(run, round))
        run->boundary_ns += round_ns(run) / 2;
    run->has_outcome = false;
    memset(&run->partner, 0, sizeof run->partner);
    measure_rate(run, now_ns);
    train_thread_set_progress(run->trainer, (double)round / (double)run->config.rounds);
    if (run->isolated || !take_blob(run)) {
        solo(run, run->isolated ? GOSSIP_SOLO_UNPAIRED : GOSSIP_SOLO_NO_BUFFER);
    } else {
        run_view_now(run, round, &view);
        if (gossip_round(run->gossip, now_ns, round, &view) < 0)
            solo(run, GOSSIP_SOLO_SUPERSEDED);
        else if (!gossip_pair(&run->id, round, 1, &view, &run->node->identity.id, &run->partner))
            memset(&run->partner, 0, sizeof run->partner);
    }
    run->stage = RUN_SNAPSHOT;
    if (train_thread_snapshot(run->trainer, TAG_ROUND, run->theta) < 0)
        run_fail(run, "the trainer does not answer");
}

/* Momentum needs some rounds to pay: short runs, and the last rounds of every run, average plainly. */
static struct gossip_outer outer_now(const struct run *run)
{
    bool ending = run->config.rounds < run->round + PLAIN_ROUNDS;
    return ending ? gossip_outer_plain() : run->outer;
}

/* What the merge worker does with one round. */
struct round_job {
    struct worker_job job;
    struct run *run;
    uint64_t round;
    bool merge;
    struct gossip_merge_input input;
    struct gossip_merge_report report;
    int merge_result;
    int result;
};

static struct round_job *new_job(struct run *run, void (*work)(struct worker_job *),
                                 void (*done)(void *, struct worker_job *))
{
    struct round_job *job = calloc(1, sizeof *job);
    if (job == NULL) {
        run_fail(run, "out of memory");
        return NULL;
    }
    job->job.run = work;
    job->job.done = done;
    job->run = run;
    job->round = run->round;
    return job;
}

static void submit(struct run *run, struct round_job *job)
{
    run->job_busy = true;
    if (worker_submit(&run->node->merge_worker, &job->job) < 0) {
        run->job_busy = false;
        free(job);
        run_fail(run, "the merge worker does not answer");
    }
}

static void encode_snapshot(struct worker_job *base)
{
    struct round_job *job = (struct round_job *)(void *)base;
    struct run *run = job->run; /* arrays named here rest until done */
    enum gossip_codec codec = (enum gossip_codec)run->config.codec;
    job->result = gossip_encode(codec, run->tensors, run->layout.tensor_count, run->theta,
                                run->blobs[run->blob_now].bytes, run->shape.encoded_bytes[codec]);
}

static void merge_round(struct worker_job *base)
{
    struct round_job *job = (struct round_job *)(void *)base;
    struct run *run = job->run;
    if (job->merge)
        job->merge_result =
            gossip_merge_job(&job->input, &run->history, run->phi, run->delta, run->diff, &job->report);
    if (!job->merge || job->merge_result < 0)
        job->result = gossip_solo_job(run->layout.arena_floats, &job->input.outer, run->theta, run->phi,
                                      run->delta, run->diff);
}

static void merged(void *user, struct worker_job *base)
{
    struct round_job *job = (struct round_job *)(void *)base;
    struct run *run = job->run;
    struct node *node = user;
    uint64_t now_ns = node_now_ns();
    run->job_busy = false;
    if (job->merge) {
        int told = gossip_merge_done(run->gossip, now_ns, job->round, job->merge_result);
        (void)told; /* ERR_NOT_FOUND: the core was paused meanwhile */
        if (job->merge_result < 0) {
            trace_emit(&node->trace, TRACE_GATE_REFUSED, now_ns, &run->outcome.peer, (int64_t)job->round, 0,
                       job->merge_result);
        } else {
            run->report = job->report;
        }
    }
    if (job->result < 0)
        run_fail(run, "weights are not finite any more: leave the run and join again to fetch a peer's");
    else if (run->stage == RUN_MERGING) {
        run->stage = RUN_APPLYING;
        if (train_thread_apply(run->trainer, TAG_ROUND, run->diff) < 0)
            run_fail(run, "the trainer does not answer");
    }
    free(job);
    node_pump(node, now_ns);
}

/* The round's outcome is known and its snapshot is at hand: hand both to the merge worker. */
static void begin_merge(struct run *run)
{
    struct round_job *job = new_job(run, merge_round, merged);
    const struct gossip_event *outcome = &run->outcome;
    enum gossip_codec codec = (enum gossip_codec)run->config.codec;
    uint64_t now_ns = node_now_ns();
    if (job == NULL)
        return;
    run->stage = RUN_MERGING;
    job->merge = outcome->kind == GOSSIP_EVENT_MERGE;
    job->input.outer = outer_now(run);
    if (job->merge) {
        float lateness = (float)((double)(now_ns - run->round_began_ns) / (double)round_ns(run));
        job->input = (struct gossip_merge_input){
            .tensors = run->tensors,
            .tensor_count = run->layout.tensor_count,
            .outer = outer_now(run),
            .variance_correction = true,
            .partner_weight = gossip_partner_weight(lateness),
            .own_round = run->round,
            .partner_round = outcome->round,
            .theta = run->theta,
            .own = {.codec = codec,
                    .blob = bytes_of(run->blobs[run->blob_now].bytes, run->shape.encoded_bytes[codec])},
            .partner = {.codec = outcome->codec, .blob = outcome->blob},
        };
    }
    submit(run, job);
}

static void encoded(void *user, struct worker_job *base)
{
    struct round_job *job = (struct round_job *)(void *)base;
    struct run *run = job->run;
    struct node *node = user;
    uint64_t now_ns = node_now_ns();
    enum gossip_codec codec = (enum gossip_codec)run->config.codec;
    run->job_busy = false;
    if (job->result < 0)
        run_fail(run, "weights are not finite any more: leave the run and join again to fetch a peer's");
    if (run->stage == RUN_ENCODING) {
        struct run_blob *blob = &run->blobs[run->blob_now];
        run->stage = RUN_EXCHANGING;
        if (!run->has_outcome && gossip_set_outgoing(run->gossip, now_ns, run->round, codec,
                                                     bytes_of(blob->bytes, run->shape.encoded_bytes[codec]),
                                                     run->blob_now) == ERR_OK)
            blob->lent = true;
        else if (!run->has_outcome)
            solo(run, GOSSIP_SOLO_SUPERSEDED);
    }
    free(job);
    node_pump(node, now_ns);
}

void run_snapshot_ready(struct run *run)
{
    if (run->stage != RUN_SNAPSHOT)
        return;
    if (run->has_outcome) { /* nobody waits for this snapshot */
        run->stage = RUN_EXCHANGING;
        return;
    }
    struct round_job *job = new_job(run, encode_snapshot, encoded);
    if (job == NULL)
        return;
    run->stage = RUN_ENCODING;
    submit(run, job);
}

/* Another member waits in a newer round: end ours now when that is not far away. */
static void advance(struct run *run, uint64_t now_ns, uint64_t round)
{
    if (run->paused || round <= run->round)
        return;
    if (run->stage > RUN_TRAINING && run->stage <= RUN_APPLYING)
        run->advance_to =
            round; /* heard in the middle of a round, most often as its refusal: done after it */
    if (run->stage != RUN_TRAINING)
        return;
    uint64_t left_ns = run->boundary_ns > now_ns ? run->boundary_ns - now_ns : 0;
    if (round == run->round + 1 && left_ns > round_ns(run) / 2)
        return;
    if (round > run->round + 1)
        trace_emit(&run->node->trace, TRACE_ROUND_JUMP, now_ns, NULL, (int64_t)run->round, (int64_t)round, 0);
    run->boundary_ns = now_ns;
    begin_round(run, now_ns, round);
}

void run_applied(struct run *run)
{
    if (run->stage != RUN_APPLYING)
        return;
    run->stage = RUN_TRAINING;
    run_put_progress(run);
    run_publish_state(run);
    if (!run->evaluating && run->round % RUN_EVALUATE_ROUNDS == 0) {
        run->evaluating = train_thread_evaluate(run->trainer, TAG_EVALUATE) == ERR_OK;
    }
    uint64_t advance_to = run->advance_to;
    run->advance_to = 0;
    if (run->round >= run->config.rounds)
        run_finish(run);
    else
        advance(run, node_now_ns(), advance_to);
}

void run_finish(struct run *run)
{
    run->stage = RUN_FINISHED;
    run_set_running(run);
    if (run->round > run->saved_round)
        run_save(run);
    node_info(run->node, TRACE_LEVEL_INFO, "run %s: all %u rounds are done", run->name, run->config.rounds);
}

static void shift_phase(struct run *run, uint64_t now_ns, int64_t shift_ns)
{
    uint64_t left_ns = run->boundary_ns > now_ns ? run->boundary_ns - now_ns : 0;
    if (shift_ns >= 0)
        run->boundary_ns -= (uint64_t)shift_ns < left_ns ? (uint64_t)shift_ns : left_ns;
    else
        run->boundary_ns += (uint64_t)-shift_ns;
}

static void release_blob(struct run *run, uint64_t cookie)
{
    if (cookie < RUN_BLOBS)
        run->blobs[cookie].lent = false;
    else if (cookie - RUN_BLOBS < 2)
        run->states[cookie - RUN_BLOBS].lent = false;
}

bool run_drain(struct run *run, uint64_t now_ns)
{
    struct gossip_event event;
    bool any = false;
    if (run->gossip == NULL)
        return false;
    while (gossip_poll_event(run->gossip, &event)) {
        any = true;
        switch (event.kind) {
        case GOSSIP_EVENT_MERGE:
        case GOSSIP_EVENT_SOLO:
            if (event.round == run->round) {
                run->outcome = event;
                run->has_outcome = true;
            } else if (event.kind == GOSSIP_EVENT_MERGE &&
                       gossip_merge_done(run->gossip, now_ns, event.round, ERR_STALE) < 0) {
                break;
            }
            break;
        case GOSSIP_EVENT_ADVANCE:
            advance(run, now_ns, event.round);
            break;
        case GOSSIP_EVENT_PHASE:
            shift_phase(run, now_ns, event.shift_ns);
            break;
        case GOSSIP_EVENT_BEHIND:
            run->state_wanted = true;
            break;
        case GOSSIP_EVENT_STATE:
            run_fetched(run, now_ns, &event);
            break;
        case GOSSIP_EVENT_FETCH_FAILED:
            run_fetch_failed(run, now_ns, &event);
            break;
        case GOSSIP_EVENT_RELEASE:
            release_blob(run, event.cookie);
            break;
        }
    }
    if (run->stage == RUN_EXCHANGING && run->has_outcome && !run->job_busy) {
        begin_merge(run);
        any = true;
    }
    return any | streams_gossip(run->node, run, now_ns);
}

void run_round_tick(struct run *run, uint64_t now_ns)
{
    struct run_swarm swarm;
    if (run->stage != RUN_TRAINING || run->paused || now_ns < run->boundary_ns)
        return;
    run_swarm_now(run, &swarm);
    /* A member that says in an invite that we are behind is heeded when the registers agree. */
    uint64_t lag = run->state_wanted ? 0 : GOSSIP_ROUND_LAG_MAX;
    run->state_wanted = false;
    if (!run->isolated && swarm.has_donor && swarm.round_max > run->round + lag &&
        now_ns >= run->fetch_next_ns) {
        trace_emit(&run->node->trace, TRACE_ROUND_JUMP, now_ns, NULL, (int64_t)run->round,
                   (int64_t)swarm.round_max, 0);
        run_begin_fetch(run, now_ns);
        return;
    }
    /* Some rounds behind: a member that was stopped for a moment meets nobody until it takes up their count.
     */
    uint64_t next = run->round + 1;
    if (!run->isolated && swarm.has_donor && swarm.round_max > next) {
        trace_emit(&run->node->trace, TRACE_ROUND_JUMP, now_ns, NULL, (int64_t)run->round,
                   (int64_t)swarm.round_max, 0);
        next = swarm.round_max;
    }
    begin_round(run, now_ns, next);
}
