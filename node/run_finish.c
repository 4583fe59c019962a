/* The end of a run; run_finish.h draws it. */
#include "node/run_finish.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "node/run_internal.h"

enum { CHAIN_ASK_S = 2, CHAIN_ASK_MAX_S = 64, CHAIN_ASK_PEERS = 4 };

/* ---- the last round ---- */

uint64_t run_last_round(const struct run *run)
{
    uint64_t closed = run->chain.count == 0 ? UINT64_MAX : crdt_chain_last_round(&run->chain);
    return closed < run->config.rounds ? closed : run->config.rounds;
}

static double clamped(double part)
{
    return part < 1 ? part : 1;
}

double run_training_done(const struct run *run, uint64_t round)
{
    double total = (double)run->config.rounds;
    uint64_t last = run_last_round(run);
    uint64_t from = run->ending.heard_round;
    if (!run->ending.heard || last == run->config.rounds || round <= from)
        return clamped((double)round / total);
    if (round >= last)
        return 1;
    double before = clamped((double)from / total);
    return before + (1 - before) * (double)(round - from) / (double)(last - from);
}

bool run_contributes(const struct run *run, uint64_t joined_round)
{
    return joined_round == 0 || joined_round + GOSSIP_EPOCH_ROUNDS <= run_last_round(run);
}

/* ---- from training to finished ---- */

void run_finishing_begin(struct run *run, uint64_t now_ns)
{
    struct run_ending *e = &run->ending;
    run->stage = RUN_FINISHING;
    run_set_running(run);
    if (e->outcome != RUN_OUTCOME_NONE) { /* restarted, or the merged state was fetched */
        run_finish(run);
        return;
    }
    if (e->begun) {
        if (e->adopting)
            gossip_finish_fetch_failed(&e->state);
        e->adopting = false;
        return;
    }
    e->begun = true;
    e->adopting = false;
    e->spread_before = e->spread = e->val_loss_before = (double)NAN;
    gossip_finish_begin(&e->state, run->shape.fragment_count, run_contributes(run, run->joined_round));
    if (!run->evaluating)
        run->evaluating = train_thread_evaluate(run->trainer, TAG_EVALUATE) == ERR_OK;
    if (run->boundary_ns <= now_ns)
        run->boundary_ns = now_ns;
    node_info(run->node, TRACE_LEVEL_INFO, "run %s: training ended with round %llu%s", run->name,
              (unsigned long long)run->round,
              e->state.contributes ? ", merging with the other members"
                                   : "; joined too late to be merged, waiting for the others' result");
}

void run_finishing_turn(struct run *run, uint64_t round, bool merged, double relative)
{
    if (run->stage != RUN_FINISHING || !run->ending.begun)
        return;
    size_t fragment = gossip_layout_fragment(&run->shape, round);
    if (merged)
        gossip_finish_merged(&run->ending.state, fragment, round / run->shape.fragment_count,
                             (float)relative);
    else
        gossip_finish_alone(&run->ending.state, fragment);
}

static double larger(double a, double b)
{
    return isnan(a) ? b : isnan(b) || a > b ? a : b;
}

static size_t members_of(const struct run *run, const struct run_swarm *swarm)
{
    return swarm->finish.count + (run->ending.state.contributes ? 1 : 0);
}

/* Of this member's partners, and what the others say of theirs. */
static double spread_of(const struct run *run, const struct run_swarm *swarm)
{
    double own = (double)NAN;
    if (run->ending.state.contributes)
        own = (double)gossip_finish_spread(&run->ending.state, members_of(run, swarm));
    return larger(own, swarm->spread);
}

/* What people are told afterwards, and what the checkpoint keeps. */
static void take_stock(struct run *run)
{
    struct run_ending *e = &run->ending;
    struct run_swarm swarm;
    run_swarm_now(run, &swarm);
    e->members = members_of(run, &swarm);
    e->spread = spread_of(run, &swarm);
    if (!e->begun) /* came when all was over */
        return;
    e->cycles = gossip_finish_cycles(&e->state);
    e->spread_before = (double)gossip_finish_spread_first(&e->state);
}

static void stop_turns(struct run *run, enum run_outcome outcome)
{
    run->ending.stopping = true;
    run->ending.outcome = outcome;
    take_stock(run);
}

bool run_finishing_tick(struct run *run, uint64_t now_ns)
{
    struct run_ending *e = &run->ending;
    struct run_swarm swarm;
    bool idle = run_turns_idle(run);
    if (run->stage != RUN_FINISHING || run->paused)
        return false;
    run_swarm_now(run, &swarm);
    if (run->isolated)
        swarm.finish = (struct gossip_finish_others){0};
    if (!e->stopping) {
        switch (gossip_finish_decide(&e->state, &swarm.finish)) {
        case GOSSIP_FINISH_GO_ON:
            return true;
        case GOSSIP_FINISH_HURRY:
            if (idle)
                run->boundary_ns = now_ns;
            return true;
        case GOSSIP_FINISH_FETCH:
            if (idle) {
                run->fetch_tries = 0;
                run_begin_fetch(run, now_ns);
            }
            return false;
        case GOSSIP_FINISH_SETTLED:
            stop_turns(run, RUN_OUTCOME_MERGED);
            break;
        case GOSSIP_FINISH_BOUND:
            stop_turns(run, RUN_OUTCOME_BOUND);
            break;
        }
    }
    if (idle)
        run_finish(run);
    return false;
}

void run_finish(struct run *run)
{
    static const char *const how[RUN_OUTCOME_COUNT] = {
        [RUN_OUTCOME_NONE] = "ended",
        [RUN_OUTCOME_MERGED] = "all agree",
        [RUN_OUTCOME_BOUND] = "not all agreed in time",
        [RUN_OUTCOME_FETCHED] = "the merged weights were fetched",
    };
    struct run_ending *e = &run->ending;
    bool stored = run->saved_round == run->round && !e->begun;
    if (e->outcome == RUN_OUTCOME_FETCHED)
        take_stock(run);
    run->stage = RUN_FINISHED;
    run_set_running(run);
    e->publish_due = !run->isolated;
    run_publish_state(run);
    if (train_thread_evaluate(run->trainer, TAG_FINAL) < 0)
        e->evaluated = true; /* a full queue: what is known must do */
    if (!stored)
        run_save(run);
    run_put_progress(run);
    char spread[32] = "not known";
    if (isfinite(e->spread))
        (void)snprintf(spread, sizeof spread, "%.2g", e->spread);
    node_info(run->node, TRACE_LEVEL_INFO,
              "run %s: finished after round %llu: %s; %zu members, %llu cycles, spread %s", run->name,
              (unsigned long long)run->round, how[e->outcome], e->members, (unsigned long long)e->cycles,
              spread);
}

void run_finish_evaluated(struct run *run)
{
    run->ending.evaluated = true;
    if (run->stage == RUN_FINISHED)
        run_put_progress(run);
}

void run_finish_published(struct run *run)
{
    run->ending.published = true;
    run_put_progress(run);
}

void run_ending_told(struct run *run, enum gossip_ending *ending, double *spread)
{
    const struct run_ending *e = &run->ending;
    struct run_swarm swarm;
    *ending = GOSSIP_ENDING_NONE;
    *spread = (double)NAN;
    if (run->stage != RUN_FINISHING && run->stage != RUN_FINISHED)
        return;
    run_swarm_now(run, &swarm);
    size_t members = members_of(run, &swarm);
    if (!e->begun)
        *spread = e->spread; /* of an earlier life */
    else if (e->state.contributes)
        *spread = (double)gossip_finish_spread(&e->state, members);
    if (run->stage == RUN_FINISHED)
        *ending = e->published ? GOSSIP_ENDING_DONE : GOSSIP_ENDING_SETTLED;
    else
        *ending = gossip_finish_settled(&e->state, members) ? GOSSIP_ENDING_SETTLED : GOSSIP_ENDING_OPEN;
}

/* ---- the owner's word ---- */

void run_chain_changed(struct run *run, uint64_t now_ns)
{
    struct run_ending *e = &run->ending;
    e->chain_wait_ns = 0;
    if (run->chain.state != CRDT_CHAIN_CLOSED || run->stage < RUN_TRAINING || run->stage > RUN_FINISHED)
        return;
    if (!e->heard && run->stage == RUN_TRAINING) {
        e->heard = true;
        e->heard_round = run->round;
        node_info(run->node, TRACE_LEVEL_INFO, "run %s: its creator ends it after round %llu", run->name,
                  (unsigned long long)run_last_round(run));
    }
    if (run->stage == RUN_TRAINING && run->round >= run_last_round(run))
        run_finishing_begin(run, now_ns);
    run_put_progress(run);
}

void run_chain_heard(struct run *run, uint64_t now_ns, const struct id *author, uint64_t count)
{
    struct run_ending *e = &run->ending;
    struct node *node = run->node;
    bool ended = run->chain.state != CRDT_CHAIN_LIVE;
    if (count <= run->chain.count || ended || now_ns < e->chain_next_ns)
        return;
    e->chain_wait_ns = e->chain_wait_ns == 0 ? CHAIN_ASK_S * NODE_SECOND_NS : 2 * e->chain_wait_ns;
    if (e->chain_wait_ns > CHAIN_ASK_MAX_S * NODE_SECOND_NS)
        e->chain_wait_ns = CHAIN_ASK_MAX_S * NODE_SECOND_NS;
    e->chain_next_ns = now_ns + e->chain_wait_ns;
    /* The author has them; where it is not connected, who passed its register on may have heard as well. */
    struct node_peer *first = peers_find(node, author);
    size_t asked = 0;
    if (first != NULL && first->connected) {
        state_fetch_chain(node, first, run);
        asked++;
    }
    size_t start = (size_t)rng_below(&node->rng, NODE_PEERS_MAX);
    for (size_t i = 0; i < NODE_PEERS_MAX && asked < CHAIN_ASK_PEERS; i++) {
        struct node_peer *peer = &node->peers[(start + i) % NODE_PEERS_MAX];
        if (!peer->used || !peer->connected || peer == first || (peer->runs >> (run - node->runs) & 1) == 0)
            continue;
        state_fetch_chain(node, peer, run);
        asked++;
    }
}

/* ---- for people ---- */

static void reply_known(struct reply *r, const char *key, double value)
{
    if (isfinite(value))
        reply_float(r, key, value);
    else
        reply_nil(r, key);
}

void run_reply_finish(struct run *run, const struct run_swarm *swarm, struct reply *r)
{
    static const char *const outcomes[RUN_OUTCOME_COUNT] = {[RUN_OUTCOME_NONE] = "",
                                                            [RUN_OUTCOME_MERGED] = "merged",
                                                            [RUN_OUTCOME_BOUND] = "bound",
                                                            [RUN_OUTCOME_FETCHED] = "fetched"};
    const struct run_ending *e = &run->ending;
    bool under_way = run->stage == RUN_FINISHING || (run->stage == RUN_FETCHING && e->begun);
    if (!under_way && run->stage != RUN_FINISHED && !e->heard) {
        reply_nil(r, "finish");
        return;
    }
    size_t members =
        run->stage == RUN_FINISHED ? e->members : swarm->finish.count + (e->begun ? e->state.contributes : 1);
    bool own = under_way && e->state.contributes && gossip_finish_settled(&e->state, members);
    reply_map(r, "finish");
    reply_uint(r, "last_round", run_last_round(run));
    reply_uint(r, "cycles", under_way ? gossip_finish_cycles(&e->state) : e->cycles);
    reply_uint(r, "cycles_max", gossip_finish_cycles_max(members == 0 ? 1 : members));
    reply_uint(r, "members", members);
    reply_uint(r, "settled", swarm->finish.settled + (own || run->stage == RUN_FINISHED ? 1 : 0));
    reply_bool(r, "contributes", e->state.contributes);
    reply_float(r, "tolerance", (double)GOSSIP_FINISH_TOLERANCE);
    reply_known(r, "spread_before",
                under_way ? (double)gossip_finish_spread_first(&e->state) : e->spread_before);
    reply_known(r, "spread", under_way ? spread_of(run, swarm) : e->spread);
    reply_known(r, "val_loss_before", e->val_loss_before);
    reply_bool(r, "evaluated", e->evaluated);
    if (e->outcome == RUN_OUTCOME_NONE)
        reply_nil(r, "outcome");
    else
        reply_str(r, "outcome", outcomes[e->outcome]);
    reply_end(r);
}
