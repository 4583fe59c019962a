/* Turns: what happens to one fragment in one round; run_turn.h draws the stages. */
#include "node/run_turn.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gossip/codec.h"
#include "gossip/pairing.h"
#include "node/run_internal.h"

enum {
    PLAIN_CYCLES = 10,
    COOKIE_STATE = RUN_BLOBS, /* as run_state.c has it */
    COOKIE_LIST = 16,
    COOKIE_REPAIR = 32,
};

#define FULL_WEIGHT_CYCLES 0.3 /* an exchange that takes longer counts for less */

/* One job of a turn on the merge worker. */
struct turn_job {
    struct worker_job job;
    struct run *run;
    struct run_turn *turn;
    uint64_t round;
    bool merge;
    bool final;              /* a turn of the end of the run */
    bool settles;            /* a miss is settled at once */
    bool far;                /* too many wrong blocks: the range is to be wider next time */
    enum gossip_codec codec; /* DECODE: of the partner's blob */
    struct bytes blob;       /* DECODE: the partner's */
    struct bytes list;       /* REPAIR: the partner's */
    float distance_scale;    /* ENCODE */
    struct gossip_merge_input input;
    struct gossip_merge_report report;
    int merge_result;
    int result;
};

/* ---- slices ---- */

static const struct gossip_fragment *fragment_of(const struct run *run, const struct run_turn *turn)
{
    return &run->shape.fragments[turn->fragment];
}

static const struct gossip_tensor *tensors_of(const struct run *run, const struct run_turn *turn)
{
    return &run->tensors[fragment_of(run, turn)->first_tensor];
}

static float *slice(const struct run *run, const struct run_turn *turn, float *array)
{
    return array + fragment_of(run, turn)->offset;
}

/* Distances of the fragment's blocks to the last partner. */
static float *distances_of(const struct run *run, const struct run_turn *turn)
{
    float *at = run->distances;
    for (size_t i = 0; i < turn->fragment; i++)
        at += run->shape.fragment_blocks[i];
    return at;
}

static struct train_thread_span span_of(const struct run *run, const struct run_turn *turn)
{
    const struct gossip_fragment *fragment = fragment_of(run, turn);
    return (struct train_thread_span){.first_tensor = fragment->first_tensor,
                                      .tensor_count = fragment->tensor_count};
}

static struct bytes own_blob(const struct run *run, const struct run_turn *turn)
{
    return bytes_of(run->blobs[turn->blob].bytes,
                    (size_t)run->shape.fragment_bytes[turn->fragment][turn->codec]);
}

static size_t lane_of(const struct run *run, const struct run_turn *turn)
{
    return (size_t)(turn - run->turns);
}

static uint64_t tag_of(const struct run *run, const struct run_turn *turn)
{
    return lane_of(run, turn) == 0 ? TAG_ROUND : TAG_ROUND_ODD;
}

static struct run_turn *turn_of_tag(struct run *run, uint64_t tag)
{
    return &run->turns[tag == TAG_ROUND_ODD ? 1 : 0];
}

static double cycle_ns(const struct run *run)
{
    return (double)run->config.round_ms * 1e6 * (double)run->shape.fragment_count;
}

/* ---- asking ---- */

bool run_turns_idle(const struct run *run)
{
    return run->turns[0].stage == TURN_IDLE && run->turns[1].stage == TURN_IDLE;
}

bool run_turn_free(const struct run *run, uint64_t round)
{
    const struct run_turn *turn = &run->turns[round % GOSSIP_LANES];
    const struct run_turn *other = &run->turns[(round + 1) % GOSSIP_LANES];
    return turn->stage == TURN_IDLE && !turn->list_lent && !turn->repair_lent && turn->jobs == 0 &&
           (other->stage == TURN_IDLE || other->fragment != gossip_layout_fragment(&run->shape, round));
}

uint64_t run_turns_settled(const struct run *run)
{
    uint64_t round = run->round;
    for (size_t lane = 0; lane < GOSSIP_LANES; lane++) {
        const struct run_turn *turn = &run->turns[lane];
        bool merged = turn->stage == TURN_IDLE || turn->stage == TURN_APPLYING;
        if (!merged && turn->round > 0 && turn->round - 1 < round)
            round = turn->round - 1;
    }
    return round;
}

/* All of a short run counts as its last cycles. */
static bool is_ending(const struct run *run, uint64_t round)
{
    return run_last_round(run) < round + PLAIN_CYCLES * run->shape.fragment_count;
}

/* Momentum needs some cycles to pay: the last ones of a run average plainly. */
static struct gossip_outer outer_now(const struct run *run, uint64_t round)
{
    return is_ending(run, round) ? gossip_outer_plain() : run->outer;
}

/* A turn of the end of the run, which only averages. */
static bool is_final(const struct run *run, const struct run_turn *turn)
{
    return turn->round > run_last_round(run);
}

/* ---- jobs ---- */

static struct turn_job *new_job(struct run *run, struct run_turn *turn, void (*work)(struct worker_job *),
                                void (*done)(void *, struct worker_job *))
{
    struct turn_job *job = calloc(1, sizeof *job);
    if (job == NULL) {
        run_fail(run, "out of memory");
        return NULL;
    }
    job->job.run = work;
    job->job.done = done;
    job->run = run;
    job->turn = turn;
    job->round = turn->round;
    return job;
}

static void submit(struct run *run, struct run_turn *turn, struct turn_job *job)
{
    if (worker_submit(&run->node->merge_worker, &job->job) < 0) {
        free(job);
        run_fail(run, "the merge worker does not answer");
        return;
    }
    run->jobs++;
    turn->jobs++;
}

static void job_over(struct turn_job *job)
{
    job->run->jobs--;
    job->turn->jobs--;
    free(job);
}

static void not_finite(struct run *run)
{
    run_fail(run, "weights are not finite any more: leave the run and join again to fetch a peer's");
}

/* ---- the snapshot, encoded ---- */

/* A blob that gossip/ does not read any more. */
static bool take_blob(struct run *run, struct run_turn *turn)
{
    for (size_t i = 0; i < RUN_BLOBS; i++) {
        bool taken = run->blobs[i].lent;
        for (size_t lane = 0; lane < GOSSIP_LANES; lane++)
            taken |= run->turns[lane].stage != TURN_IDLE && &run->turns[lane] != turn &&
                     run->turns[lane].blob == i;
        if (!taken) {
            turn->blob = i;
            return true;
        }
    }
    return false;
}

/* The outcome, made up here when there is nobody to exchange with. */
static void solo(struct run_turn *turn, enum gossip_solo reason)
{
    memset(&turn->outcome, 0, sizeof turn->outcome);
    turn->outcome.kind = GOSSIP_EVENT_SOLO;
    turn->outcome.round = turn->round;
    turn->outcome.solo = reason;
    turn->has_outcome = true;
}

static enum gossip_codec choose_codec(const struct run *run, const struct run_turn *turn)
{
    uint64_t rtt_ns = 0;
    uint64_t rate = gossip_path_rate(run->gossip, &turn->partner, &rtt_ns);
    struct gossip_choice_input in = {
        .automatic = run->config.codec == RUN_CODEC_AUTO,
        .asked = (enum gossip_codec)run->config.codec,
        .ending = is_ending(run, turn->round),
        .accepted =
            (1u << GOSSIP_CODEC_COUNT) - 1, /* the core turns a blob it cannot take into a solo round */
        .close = gossip_nearness_close(&run->nearness, &turn->partner, (unsigned)turn->fragment, turn->round),
        .wrong_share =
            (double)gossip_nearness_wrong(&run->nearness, &turn->partner, (unsigned)turn->fragment),
        .bytes_per_s = (double)rate / 2, /* both directions at once */
        .seconds = FULL_WEIGHT_CYCLES * cycle_ns(run) / 1e9,
        .rtt_s = (double)rtt_ns / 1e9,
        .bytes = run->shape.fragment_bytes[turn->fragment],
    };
    if (!is_final(run, turn))
        return gossip_codec_choose(&in);
    double round_s = (double)run->config.round_ms / 1e3;
    in.seconds = round_s < in.seconds ? round_s : in.seconds;
    return gossip_codec_choose_exact(&in);
}

void run_turn_begin(struct run *run, uint64_t now_ns, uint64_t round)
{
    struct run_turn *turn = &run->turns[round % GOSSIP_LANES];
    struct gossip_view view;
    ASSERT(run_turn_free(run, round));
    turn->round = round;
    turn->began_ns = now_ns;
    turn->fragment = gossip_layout_fragment(&run->shape, round);
    turn->has_outcome = false;
    turn->wanted_count = turn->repaired_count = turn->repair_len = 0;
    memset(&turn->partner, 0, sizeof turn->partner);
    /* Weights that met others of another start are good only after some training: phi has to follow. */
    turn->settles = run->isolated || run->config.strangers;
    if (run->isolated || !take_blob(run, turn)) {
        solo(turn, run->isolated ? GOSSIP_SOLO_UNPAIRED : GOSSIP_SOLO_NO_BUFFER);
    } else {
        run_view_now(run, round, &view);
        turn->settles |= view.count <= 1;
        turn->stage = TURN_SNAPSHOT; /* before its outcome may come */
        if (gossip_round(run->gossip, now_ns, round, &view) < 0)
            solo(turn, GOSSIP_SOLO_SUPERSEDED);
        else if (!gossip_pair(&run->id, round, (unsigned)run->shape.fragment_count, &view,
                              &run->node->identity.id, &turn->partner))
            memset(&turn->partner, 0, sizeof turn->partner);
    }
    turn->stage = TURN_SNAPSHOT;
    if (train_thread_snapshot_span(run->trainer, tag_of(run, turn), span_of(run, turn),
                                   slice(run, turn, run->theta)) < 0)
        run_fail(run, "the trainer does not answer");
}

static void encode_snapshot(struct worker_job *base)
{
    struct turn_job *job = (struct turn_job *)(void *)base;
    struct run *run = job->run; /* arrays named here rest until done */
    struct run_turn *turn = job->turn;
    const struct gossip_fragment *fragment = fragment_of(run, turn);
    const float *theta = slice(run, turn, run->theta);
    uint8_t *out = run->blobs[turn->blob].bytes;
    size_t len = (size_t)run->shape.fragment_bytes[turn->fragment][turn->codec];
    if (gossip_modular_bits(turn->codec) == 0) {
        job->result =
            gossip_encode(turn->codec, tensors_of(run, turn), fragment->tensor_count, theta, out, len);
        return;
    }
    struct gossip_modular_source source = {
        .theta = theta,
        .phi = slice(run, turn, run->phi),
        .distances = distances_of(run, turn),
        .kappa = GOSSIP_KAPPA,
        .distance_scale = job->distance_scale,
    };
    job->result =
        gossip_modular_encode(turn->codec, tensors_of(run, turn), fragment->tensor_count, &source, out, len);
}

static void encoded(void *user, struct worker_job *base)
{
    struct turn_job *job = (struct turn_job *)(void *)base;
    struct run *run = job->run;
    struct run_turn *turn = job->turn;
    uint64_t now_ns = node_now_ns();
    if (job->result < 0)
        not_finite(run);
    if (turn->stage == TURN_ENCODING) {
        turn->stage = TURN_EXCHANGING;
        if (!turn->has_outcome && gossip_set_outgoing(run->gossip, now_ns, turn->round, turn->codec,
                                                      own_blob(run, turn), turn->blob) == ERR_OK)
            run->blobs[turn->blob].lent = true;
    }
    job_over(job);
    node_pump(user, now_ns);
}

void run_turn_snapshot_ready(struct run *run, uint64_t tag)
{
    struct run_turn *turn = turn_of_tag(run, tag);
    if (turn->stage != TURN_SNAPSHOT)
        return;
    if (turn->has_outcome) { /* nobody waits for this snapshot */
        turn->stage = TURN_EXCHANGING;
        return;
    }
    struct turn_job *job = new_job(run, turn, encode_snapshot, encoded);
    if (job == NULL)
        return;
    turn->codec = choose_codec(run, turn);
    job->distance_scale = gossip_nearness_scale(&run->nearness, &turn->partner, (unsigned)turn->fragment);
    turn->stage = TURN_ENCODING;
    submit(run, turn, job);
}

/* ---- modular blobs: what is wrong in theirs, repairs of ours ---- */

static void check_blob(struct worker_job *base)
{
    struct turn_job *job = (struct turn_job *)(void *)base;
    struct run *run = job->run;
    struct run_turn *turn = job->turn;
    const struct gossip_fragment *fragment = fragment_of(run, turn);
    job->result = gossip_modular_check(job->codec, tensors_of(run, turn), fragment->tensor_count, job->blob,
                                       slice(run, turn, run->theta), turn->wanted);
    turn->wanted_count = job->result > 0 ? (size_t)job->result : 0;
}

static void checked(void *user, struct worker_job *base)
{
    struct turn_job *job = (struct turn_job *)(void *)base;
    struct run *run = job->run;
    struct run_turn *turn = job->turn;
    uint64_t now_ns = node_now_ns();
    int result = job->result;
    if (result >= 0) {
        size_t count = turn->wanted_count;
        size_t cap = run_turn_list_max(&run->shape);
        size_t len = gossip_indices_encode(count, turn->wanted, turn->list, cap);
        size_t bytes = 0;
        result = gossip_repair_bytes(tensors_of(run, turn), fragment_of(run, turn)->tensor_count, count,
                                     turn->wanted, &bytes);
        ASSERT(result == ERR_OK); /* our own list */
        result = gossip_set_wanted(run->gossip, now_ns, job->round, bytes_of(turn->list, len), bytes,
                                   COOKIE_LIST + lane_of(run, turn));
        turn->list_lent = result == ERR_OK;
    } else {
        result = gossip_refuse(run->gossip, now_ns, job->round);
    }
    (void)result; /* ERR_STALE, ERR_NOT_FOUND: the round has its outcome */
    job_over(job);
    node_pump(user, now_ns);
}

static void encode_repair(struct worker_job *base)
{
    struct turn_job *job = (struct turn_job *)(void *)base;
    struct run *run = job->run;
    struct run_turn *turn = job->turn;
    const struct gossip_fragment *fragment = fragment_of(run, turn);
    const struct gossip_tensor *tensors = tensors_of(run, turn);
    size_t blocks = (size_t)run->shape.fragment_blocks[turn->fragment];
    job->result = gossip_indices_decode(job->list, blocks, turn->repaired, blocks / 2);
    if (job->result < 0)
        return;
    turn->repaired_count = (size_t)job->result;
    job->result = gossip_repair_bytes(tensors, fragment->tensor_count, turn->repaired_count, turn->repaired,
                                      &turn->repair_len);
    if (job->result == ERR_OK)
        job->result =
            gossip_repair_encode(tensors, fragment->tensor_count, turn->repaired_count, turn->repaired,
                                 slice(run, turn, run->theta), turn->repair, turn->repair_len);
}

static void repair_encoded(void *user, struct worker_job *base)
{
    struct turn_job *job = (struct turn_job *)(void *)base;
    struct run *run = job->run;
    struct run_turn *turn = job->turn;
    uint64_t now_ns = node_now_ns();
    if (job->result >= 0) {
        int result =
            gossip_set_repair(run->gossip, now_ns, job->round, bytes_of(turn->repair, turn->repair_len),
                              COOKIE_REPAIR + lane_of(run, turn));
        turn->repair_lent = result == ERR_OK; /* ERR_STALE: the round has its outcome */
    }
    job_over(
        job); /* a list that cannot be read was refused by the core already: the deadline ends the round */
    node_pump(user, now_ns);
}

/* ---- the outcome ---- */

/* The result of this merge has to pass a trial. */
static bool is_tried(const struct turn_job *job)
{
    return job->merge && job->run->config.loss_test && !job->final;
}

/* What the trainer is to try first: phi and delta stay as they are. */
static int merge_beside(struct turn_job *job)
{
    struct run *run = job->run;
    struct run_turn *turn = job->turn;
    size_t bytes = fragment_of(run, turn)->count * sizeof(float);
    memcpy(turn->trial_phi, slice(run, turn, run->phi), bytes);
    memcpy(turn->trial_delta, slice(run, turn, run->delta), bytes);
    return gossip_merge_job(&job->input, &run->histories[turn->fragment], turn->trial_phi, turn->trial_delta,
                            slice(run, turn, run->diff), &job->report);
}

static void merge_round(struct worker_job *base)
{
    struct turn_job *job = (struct turn_job *)(void *)base;
    struct run *run = job->run;
    struct run_turn *turn = job->turn;
    float *phi = slice(run, turn, run->phi);
    float *delta = slice(run, turn, run->delta);
    float *diff = slice(run, turn, run->diff);
    if (job->far)
        gossip_distances_widen((size_t)run->shape.fragment_blocks[turn->fragment], distances_of(run, turn));
    struct gossip_history *history = &run->histories[turn->fragment];
    struct gossip_history kept = *history;
    if (is_tried(job))
        job->merge_result = merge_beside(job);
    else if (job->merge)
        job->merge_result = gossip_merge_job(&job->input, history, phi, delta, diff, &job->report);
    /* Replicas that become one would soon make every distance seem too far: small ones do not count any more.
     */
    bool small = job->merge && job->merge_result == ERR_OK && kept.count >= GOSSIP_HISTORY_MIN &&
                 job->report.distance <= gossip_history_median(&kept);
    if (job->final && small)
        *history = kept;
    bool solo = !job->merge || job->merge_result < 0;
    gossip_history_round(history, !solo);
    gossip_trail_round(&run->trails[turn->fragment], tensors_of(run, turn),
                       fragment_of(run, turn)->tensor_count, phi);
    if (solo)
        job->result = gossip_solo_job(fragment_of(run, turn)->count, &job->input.outer,
                                      job->final || job->settles ? GOSSIP_SOLO_AFTER : history->missed,
                                      slice(run, turn, run->theta), phi, delta, diff);
}

/* What this exchange says of the partner, for the choice of the next codec. */
static void note_partner(struct run *run, const struct run_turn *turn,
                         const struct gossip_merge_report *report)
{
    double blocks = (double)run->shape.fragment_blocks[turn->fragment];
    double wrong =
        (double)(turn->wanted_count > turn->repaired_count ? turn->wanted_count : turn->repaired_count);
    gossip_nearness_note(&run->nearness, &(struct gossip_encounter){.peer = turn->outcome.peer,
                                                                    .round = turn->round,
                                                                    .fragment = (unsigned)turn->fragment,
                                                                    .distance = (float)report->rms,
                                                                    .relative = (float)report->relative,
                                                                    .wrong_share = (float)(wrong / blocks)});
}

/* A merge was accepted or refused for good. */
static void settle_merge(struct run *run, const struct run_turn *turn, uint64_t now_ns, int result,
                         const struct gossip_merge_report *report)
{
    int told = gossip_merge_done(run->gossip, now_ns, turn->round, result);
    (void)told; /* ERR_NOT_FOUND: the core was paused meanwhile */
    if (result < 0) {
        gossip_nearness_far(&run->nearness, &turn->outcome.peer, (unsigned)turn->fragment, turn->round);
    } else {
        run->report = *report;
        note_partner(run, turn, report);
    }
}

static void hand_to_trainer(struct run *run, struct run_turn *turn, bool trial)
{
    float *diff = slice(run, turn, run->diff);
    uint64_t tag = tag_of(run, turn);
    turn->stage = trial ? TURN_TRYING : TURN_APPLYING;
    int result = trial
                     ? train_thread_try_span(run->trainer, tag, span_of(run, turn), diff, turn->trial_scratch)
                     : train_thread_apply_span(run->trainer, tag, span_of(run, turn), diff);
    if (result < 0)
        run_fail(run, "the trainer does not answer");
}

static void merged(void *user, struct worker_job *base)
{
    struct turn_job *job = (struct turn_job *)(void *)base;
    struct run *run = job->run;
    struct run_turn *turn = job->turn;
    struct node *node = user;
    uint64_t now_ns = node_now_ns();
    bool trial = is_tried(job) && job->merge_result == ERR_OK;
    turn->report = job->report;
    if (job->merge && job->merge_result < 0)
        trace_emit(&node->trace, TRACE_GATE_REFUSED, now_ns, &turn->outcome.peer, (int64_t)job->round, 0,
                   job->merge_result);
    if (job->merge && !trial)
        settle_merge(run, turn, now_ns, job->merge_result, &job->report);
    if (job->final)
        run_finishing_turn(run, turn->round, job->merge && job->merge_result == ERR_OK, job->report.relative);
    if (job->result < 0)
        not_finite(run);
    else if (turn->stage == TURN_MERGING)
        hand_to_trainer(run, turn, trial);
    job_over(job);
    node_pump(node, now_ns);
}

/* What both sides hold of what each has sent. */
static void fill_input(struct run *run, const struct run_turn *turn, uint64_t now_ns,
                       struct gossip_merge_input *input)
{
    const struct gossip_event *outcome = &turn->outcome;
    float lateness = (float)((double)(now_ns - turn->began_ns) / cycle_ns(run));
    *input = (struct gossip_merge_input){
        .tensors = tensors_of(run, turn),
        .tensor_count = fragment_of(run, turn)->tensor_count,
        .outer = outer_now(run, turn->round),
        .variance_correction = true,
        .strangers = run->config.strangers,
        .partner_weight = gossip_partner_weight(lateness),
        .own_round = turn->round,
        .partner_round = outcome->round,
        .theta = slice(run, turn, run->theta),
        .own = {.codec = turn->codec, .blob = own_blob(run, turn)},
        .partner = {.codec = outcome->codec, .blob = outcome->blob},
        .trail = &run->trails[turn->fragment],
        .distances = distances_of(run, turn),
    };
    if (turn->repaired_count > 0) {
        input->own.repaired = turn->repaired;
        input->own.repaired_count = turn->repaired_count;
        input->own.repairs = bytes_of(turn->repair, turn->repair_len);
    }
    if (turn->wanted_count > 0) {
        input->partner.repaired = turn->wanted;
        input->partner.repaired_count = turn->wanted_count;
        input->partner.repairs = outcome->repair;
    }
    if (is_final(run, turn)) { /* nobody trains meanwhile: half of each however late, so that sums are kept */
        input->outer = gossip_outer_plain();
        input->variance_correction = false;
        input->strangers = true; /* no way to compare with where nothing was trained since */
        input->partner_weight = 0.5f;
    }
}

static void begin_merge(struct run *run, struct run_turn *turn)
{
    struct turn_job *job = new_job(run, turn, merge_round, merged);
    if (job == NULL)
        return;
    turn->stage = TURN_MERGING;
    job->merge = turn->outcome.kind == GOSSIP_EVENT_MERGE;
    job->far = !job->merge && turn->outcome.solo == GOSSIP_SOLO_FAR;
    job->final = is_final(run, turn);
    job->settles = turn->settles;
    fill_input(run, turn, node_now_ns(), &job->input);
    submit(run, turn, job);
}

static void commit_trial(struct worker_job *base)
{
    struct turn_job *job = (struct turn_job *)(void *)base;
    struct run *run = job->run;
    const struct run_turn *turn = job->turn;
    size_t bytes = fragment_of(run, turn)->count * sizeof(float);
    memcpy(slice(run, turn, run->phi), turn->trial_phi, bytes);
    memcpy(slice(run, turn, run->delta), turn->trial_delta, bytes);
}

static void committed(void *user, struct worker_job *base)
{
    struct turn_job *job = (struct turn_job *)(void *)base;
    struct run *run = job->run;
    bool over = job->turn->stage == TURN_COMMITTING;
    if (over)
        job->turn->stage = TURN_IDLE;
    job_over(job);
    if (over && !run->leaving)
        run_round_applied(run);
    node_pump(user, node_now_ns());
}

/* The solo step takes the merge's place. */
static void refuse_trial(struct run *run, struct run_turn *turn, uint64_t now_ns,
                         const struct train_thread_event *event)
{
    double rise = (event->trial.after - event->trial.before) / fabs(event->trial.before) * 1e6;
    int64_t millionths = isfinite(rise) && rise < 1e15 ? (int64_t)rise : INT64_MAX;
    run->failed_trials++;
    trace_emit(&run->node->trace, TRACE_LOSS_REFUSED, now_ns, &turn->outcome.peer, (int64_t)turn->round,
               millionths, event->err);
    struct turn_job *job = new_job(run, turn, merge_round, merged);
    if (job == NULL)
        return;
    turn->stage = TURN_MERGING;
    job->input.outer = outer_now(run, turn->round);
    submit(run, turn, job);
}

void run_turn_tried(struct run *run, const struct train_thread_event *event)
{
    struct run_turn *turn = turn_of_tag(run, event->tag);
    uint64_t now_ns = node_now_ns();
    if (turn->stage != TURN_TRYING)
        return;
    settle_merge(run, turn, now_ns, event->err, &turn->report);
    if (event->err < 0) {
        refuse_trial(run, turn, now_ns, event);
        return;
    }
    struct turn_job *job = new_job(run, turn, commit_trial, committed);
    if (job == NULL)
        return;
    turn->stage = TURN_COMMITTING;
    submit(run, turn, job);
}

void run_turn_applied(struct run *run, uint64_t tag)
{
    struct run_turn *turn = turn_of_tag(run, tag);
    if (turn->stage != TURN_APPLYING)
        return;
    turn->stage = TURN_IDLE;
    run_round_applied(run);
}

/* ---- events ---- */

static void take_outcome(struct run *run, struct run_turn *turn, uint64_t now_ns,
                         const struct gossip_event *event)
{
    if (turn->stage != TURN_IDLE && turn->round == event->round && !turn->has_outcome) {
        turn->outcome = *event;
        turn->has_outcome = true;
        if (event->kind == GOSSIP_EVENT_SOLO && event->solo == GOSSIP_SOLO_FAR)
            gossip_nearness_far(&run->nearness, &event->peer, (unsigned)turn->fragment, event->round);
    } else if (event->kind == GOSSIP_EVENT_MERGE) {
        int told = gossip_merge_done(run->gossip, now_ns, event->round, ERR_STALE);
        (void)told;
    }
}

static void begin_check(struct run *run, struct run_turn *turn, uint64_t now_ns,
                        const struct gossip_event *event)
{
    if (turn->stage == TURN_IDLE ||
        turn->round != event->round) { /* over here: the answer is owed all the same */
        int told = gossip_refuse(run->gossip, now_ns, event->round);
        (void)told;
        return;
    }
    struct turn_job *job = new_job(run, turn, check_blob, checked);
    if (job == NULL)
        return;
    job->codec = event->codec;
    job->blob = event->blob;
    submit(run, turn, job);
}

static void begin_repair(struct run *run, struct run_turn *turn, const struct gossip_event *event)
{
    struct turn_job *job = new_job(run, turn, encode_repair, repair_encoded);
    if (job == NULL)
        return;
    job->list = event->list;
    submit(run, turn, job);
}

void run_turn_event(struct run *run, uint64_t now_ns, const struct gossip_event *event)
{
    struct run_turn *turn = &run->turns[event->round % GOSSIP_LANES];
    if (event->kind == GOSSIP_EVENT_DECODE)
        begin_check(run, turn, now_ns, event);
    else if (event->kind == GOSSIP_EVENT_REPAIR)
        begin_repair(run, turn, event);
    else
        take_outcome(run, turn, now_ns, event);
}

void run_turn_release(struct run *run, uint64_t cookie)
{
    if (cookie < RUN_BLOBS)
        run->blobs[cookie].lent = false;
    else if (cookie - COOKIE_STATE < 2)
        run->states[cookie - COOKIE_STATE].lent = false;
    else if (cookie - COOKIE_LIST < GOSSIP_LANES)
        run->turns[cookie - COOKIE_LIST].list_lent = false;
    else if (cookie - COOKIE_REPAIR < GOSSIP_LANES)
        run->turns[cookie - COOKIE_REPAIR].repair_lent = false;
}

bool run_turns_drain(struct run *run)
{
    bool any = false;
    for (size_t lane = 0; lane < GOSSIP_LANES; lane++) {
        struct run_turn *turn = &run->turns[lane];
        if (turn->stage != TURN_EXCHANGING || !turn->has_outcome || turn->jobs > 0)
            continue;
        begin_merge(run, turn);
        any = true;
    }
    return any;
}
