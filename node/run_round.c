/* The round clock: at each boundary a fragment's turn begins (run_turn.h) while training goes on.
 *
 * It ticks every round_ms whatever an exchange does; it is only held back while the turn two rounds before is
 * still on its way into the trainer, which takes milliseconds. */
#include <stdlib.h>
#include <string.h>

#include "node/export_merge.h"
#include "node/run_internal.h"

static uint64_t round_ns(const struct run *run)
{
    return (uint64_t)run->config.round_ms * 1000000;
}

/* Nobody trains between the turns at the end, so they follow each other faster; a line that is slower holds
 * them back by itself, since a turn begins only when its lane is free. */
static uint64_t box_ns(const struct run *run)
{
    return run->stage == RUN_FINISHING ? round_ns(run) / RUN_FINISHING_PACE : round_ns(run);
}

void run_enter_training(struct run *run, uint64_t now_ns, uint64_t round)
{
    run->stage = RUN_TRAINING;
    run->round = round;
    run->fetch_tries = 0;
    run->boundary_ns = now_ns + round_ns(run);
    run->held_round = 0;
    run->rate_ns = now_ns;
    run->rate_tokens = run_tokens(run);
    if (round >= run_last_round(run))
        run_finishing_begin(run, now_ns);
    run_put_member(run, now_ns);
    run_chain_changed(run, now_ns);
    run_put_progress(run);
    run_set_running(run);
    if (run->stage != RUN_TRAINING)
        return;
    node_info(run->node, TRACE_LEVEL_INFO, "run %s: training from round %llu", run->name,
              (unsigned long long)round);
}

static void measure_rate(struct run *run, uint64_t now_ns)
{
    uint64_t tokens = run_tokens(run);
    if (now_ns > run->rate_ns)
        run->tokens_s = (double)(tokens - run->rate_tokens) * 1e9 / (double)(now_ns - run->rate_ns);
    run->rate_ns = now_ns;
    run->rate_tokens = tokens;
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

/* The boundary of round `round`: everything after it happens to this round's snapshot of its fragment. */
static void begin_round(struct run *run, uint64_t now_ns, uint64_t round)
{
    bool behind = now_ns > run->boundary_ns + box_ns(run);
    run->round = round;
    run->held_round = 0;
    run->boundary_ns = behind ? now_ns + box_ns(run) : run->boundary_ns + box_ns(run);
    if (!run->isolated && too_far_ahead(run, round))
        run->boundary_ns += box_ns(run) / 2;
    measure_rate(run, now_ns);
    train_thread_set_progress(run->trainer, run_training_done(run, round));
    run_turn_begin(run, now_ns, round);
    if (run->stage == RUN_TRAINING && round >= run_last_round(run))
        run_finishing_begin(run, now_ns);
}

static bool takes_turns(const struct run *run)
{
    return (run->stage == RUN_TRAINING || (run->stage == RUN_FINISHING && !run->ending.stopping)) &&
           !run->paused;
}

/* Another member waits in a newer round: end ours now when that is not far away. */
static void advance(struct run *run, uint64_t now_ns, uint64_t round)
{
    if (!takes_turns(run) || round <= run->round)
        return;
    if (!run_turn_free(run, round)) {
        run->advance_to =
            round; /* heard in the middle of a round, most often as its refusal: done after it */
        return;
    }
    uint64_t left_ns = run->boundary_ns > now_ns ? run->boundary_ns - now_ns : 0;
    if (round == run->round + 1 && left_ns > box_ns(run) / 2)
        return;
    if (round > run->round + 1)
        trace_emit(&run->node->trace, TRACE_ROUND_JUMP, now_ns, NULL, (int64_t)run->round, (int64_t)round, 0);
    run->boundary_ns = now_ns;
    begin_round(run, now_ns, round);
}

void run_round_applied(struct run *run)
{
    run_put_progress(run);
    run_publish_state(run);
    if (run->stage == RUN_TRAINING && !run->evaluating && run->round % RUN_EVALUATE_ROUNDS == 0) {
        run->evaluating = train_thread_evaluate(run->trainer, TAG_EVALUATE) == ERR_OK;
    }
    uint64_t advance_to = run->advance_to;
    run->advance_to = 0;
    if (run->stage != RUN_FINISHING || run_finishing_tick(run, node_now_ns()))
        advance(run, node_now_ns(), advance_to);
}

static void shift_phase(struct run *run, uint64_t now_ns, int64_t shift_ns)
{
    uint64_t left_ns = run->boundary_ns > now_ns ? run->boundary_ns - now_ns : 0;
    if (shift_ns >= 0)
        run->boundary_ns -= (uint64_t)shift_ns < left_ns ? (uint64_t)shift_ns : left_ns;
    else
        run->boundary_ns += (uint64_t)-shift_ns;
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
        case GOSSIP_EVENT_DECODE:
        case GOSSIP_EVENT_REPAIR:
            run_turn_event(run, now_ns, &event);
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
            if (!export_merge_event(run, now_ns, &event))
                run_fetched(run, now_ns, &event);
            break;
        case GOSSIP_EVENT_FETCH_FAILED:
            if (!export_merge_event(run, now_ns, &event))
                run_fetch_failed(run, now_ns, &event);
            break;
        case GOSSIP_EVENT_RELEASE:
            run_turn_release(run, event.cookie);
            break;
        }
    }
    any |= run_turns_drain(run);
    return any | streams_gossip(run->node, run, now_ns);
}

void run_round_tick(struct run *run, uint64_t now_ns)
{
    struct run_swarm swarm;
    if ((run->stage != RUN_TRAINING && run->stage != RUN_FINISHING) || run->paused ||
        now_ns < run->boundary_ns)
        return;
    run->held_round = 0;
    if (run->stage == RUN_FINISHING && !run_finishing_tick(run, now_ns)) {
        if (run->stage == RUN_FINISHING) /* turns under way end first: each brings us here again */
            run->boundary_ns = now_ns + box_ns(run);
        return;
    }
    run_swarm_now(run, &swarm);
    /* Rounds after the last one train nobody further, and pass quickly. */
    uint64_t last = run_last_round(run);
    uint64_t trained = swarm.round_max < last ? swarm.round_max : last;
    /* A member that says in an invite that we are behind is heeded when the registers agree. */
    uint64_t lag = run->state_wanted && swarm.round_max <= last ? 0 : GOSSIP_ROUND_LAG_MAX;
    run->state_wanted = false;
    if (run->stage == RUN_TRAINING && !run->isolated && swarm.has_donor && trained > run->round + lag &&
        now_ns >= run->fetch_next_ns) {
        run->state_wanted = lag == 0;
        if (!run_turns_idle(run)) { /* what is on its way is merged first: it takes half a cycle at most */
            run->held_round = RUN_HELD_FETCH;
            return;
        }
        run->state_wanted = false;
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
    /* The lane may be taken by a turn under way; the other one is free, or this is not due. */
    while (next > run->round + 1 && !run_turn_free(run, next))
        next--;
    if (run_turn_free(run, next))
        begin_round(run, now_ns, next);
    else
        run->held_round = next;
}

/* A boundary that nothing can follow yet is no reason to wake up, not even when it has passed: the end of the
 * turn that it waits for is one. */
uint64_t run_round_deadline_ns(const struct run *run)
{
    bool can_begin;
    if ((run->stage != RUN_TRAINING && run->stage != RUN_FINISHING) || run->paused)
        return UINT64_MAX;
    if (run->held_round == RUN_HELD_FETCH)
        can_begin = run_turns_idle(run);
    else
        can_begin = run_turn_free(run, run->held_round != 0 ? run->held_round : run->round + 1);
    return can_begin ? run->boundary_ns : UINT64_MAX;
}
