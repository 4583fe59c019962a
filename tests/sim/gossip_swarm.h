/* A swarm of gossip cores in virtual time: one seed, links with latency, rate, resets, silent death and
 * failed opens, nodes that freeze, merge threads that stall, and the part of node/ that drives rounds. Checks
 * as it goes that every round has exactly one outcome, in time, that at most two are open and of different
 * fragments, that blobs and repairs arrive intact and that committed pairs keep their sum. */
#ifndef DUNLIN_TESTS_GOSSIP_SWARM_H
#define DUNLIN_TESTS_GOSSIP_SWARM_H

#include "base/hash.h"
#include "gossip/pairing.h"
#include "sim/swarm_work.h"

static void swarm_drain(struct swarm *s, size_t node);

/* --- links
 * -------------------------------------------------------------------------------------------------- */

static uint64_t swarm_latency(struct swarm *s)
{
    return swarm_between(s, s->faults.latency_min, s->faults.latency_max);
}

static size_t swarm_side(const struct swarm_link *link, size_t node)
{
    return link->ends[0] == node ? 0 : 1;
}

static void swarm_close(struct swarm *s, uint64_t index, size_t side, int err, uint64_t at)
{
    struct swarm_link *link = &s->links[index];
    if (link->silent)
        return;
    swarm_push(
        s,
        (struct swarm_event){
            .order.key = at, .kind = EV_CLOSED, .node = link->ends[side], .a = index, .b = (uint64_t)-err});
}

static void swarm_send(struct swarm *s, size_t node, uint64_t index, struct bytes frame)
{
    struct swarm_link *link = &s->links[index];
    size_t to = 1 - swarm_side(link, node);
    link->silent |= swarm_chance(s, s->faults.silence_per_frame);
    if (link->silent) { /* what is written piles up until the window is full */
        link->flying[to] += frame.len;
        return;
    }
    if (swarm_chance(s, s->faults.reset_per_frame)) { /* the connection breaks: both ends learn it, in time */
        swarm_close(s, index, 0, ERR_CLOSED, s->now + swarm_latency(s));
        swarm_close(s, index, 1, ERR_CLOSED, s->now + swarm_latency(s));
        link->silent = true;
        return;
    }
    uint64_t start = link->last[to] > s->now ? link->last[to] : s->now;
    uint64_t arrives = start + (uint64_t)((double)frame.len / s->faults.bytes_per_ns);
    uint64_t soonest = s->now + swarm_latency(s);
    link->last[to] = arrives > soonest ? arrives : soonest;
    link->flying[to] += frame.len;
    uint8_t *copy = malloc(frame.len);
    memcpy(copy, frame.data, frame.len);
    swarm_push(s, (struct swarm_event){.order.key = link->last[to],
                                       .kind = EV_FRAME,
                                       .node = link->ends[to],
                                       .a = index,
                                       .frame = copy,
                                       .len = frame.len});
}

static void swarm_room(struct swarm *s, size_t node, uint64_t index)
{
    size_t flying = s->links[index].flying[1 - swarm_side(&s->links[index], node)];
    gossip_stream_writable(s->nodes[node].g, s->now, index,
                           flying > SWARM_WINDOW ? 0 : SWARM_WINDOW - flying);
}

static void swarm_open(struct swarm *s, size_t node, const struct gossip_action *action)
{
    bool fails = swarm_chance(s, s->faults.open_fails);
    uint64_t at = s->now + 2 * swarm_latency(s);
    cr_assert_lt(s->link_count, SWARM_LINKS);
    struct swarm_link *link = &s->links[s->link_count];
    *link = (struct swarm_link){.ends = {node, swarm_index(s, &action->peer)}};
    swarm_push(s, (struct swarm_event){.order.key = at,
                                       .kind = fails ? EV_OPEN_FAILED : EV_OPENED,
                                       .node = node,
                                       .a = s->link_count++,
                                       .b = action->tag});
}

static void swarm_act(struct swarm *s, size_t node, const struct gossip_action *action)
{
    struct swarm_link *link = &s->links[action->stream];
    size_t side = swarm_side(link, node);
    switch (action->kind) {
    case GOSSIP_ACTION_OPEN:
        swarm_open(s, node, action);
        break;
    case GOSSIP_ACTION_SEND:
        cr_assert_leq(action->frame.len, GOSSIP_FRAME_MAX);
        cr_assert_not(link->dead[side]);
        swarm_send(s, node, action->stream, action->frame);
        break;
    case GOSSIP_ACTION_FINISH: {
        uint64_t last = link->last[1 - side] > s->now ? link->last[1 - side] : s->now;
        link->dead[side] = true;
        swarm_close(s, action->stream, 1 - side, 0, last + 1);
        break;
    }
    case GOSSIP_ACTION_RESET:
        link->dead[side] = true;
        swarm_close(s, action->stream, 1 - side, ERR_CLOSED, s->now + swarm_latency(s));
        break;
    }
}

/* --- rounds
 * ------------------------------------------------------------------------------------------------- */

static void swarm_view(struct swarm *s, uint64_t round, struct gossip_view *view)
{
    struct gossip_member_state states[SWARM_MAX];
    for (size_t i = 0; i < s->count; i++) {
        uint64_t age, own = gossip_current_round(s->nodes[i].g, s->now, &age);
        states[i] = (struct gossip_member_state){
            .id = s->nodes[i].id, .progress_round = own > 0 ? own - 1 : 0, .expires_ms = 1};
    }
    gossip_view_build(view, round, 0, states, s->count);
}

static void swarm_begin(struct swarm *s, size_t node, uint64_t round)
{
    struct swarm_node *n = &s->nodes[node];
    struct gossip_view view;
    if (round > s->last_round)
        return;
    swarm_view(s, round, &view);
    n->began[round] = s->now;
    n->newest = round;
    n->next_boundary = s->now + s->round_ns;
    n->round_epoch++;
    swarm_push(s, (struct swarm_event){
                      .order.key = n->next_boundary, .kind = EV_ROUND, .node = node, .a = n->round_epoch});
    struct id partner;
    bool paired = gossip_pair(&s->run, round, (unsigned)s->layout.fragment_count, &view, &n->id, &partner);
    n->partners[round] = paired ? swarm_index(s, &partner) : SIZE_MAX;
    cr_assert_eq(gossip_round(n->g, s->now, round, &view), 0);
    swarm_push(s, (struct swarm_event){.order.key = s->now + swarm_between(s, MS, 20 * MS),
                                       .kind = EV_ENCODED,
                                       .node = node,
                                       .a = round});
    if (swarm_chance(s, s->faults.freeze_per_round)) {
        n->frozen_until = s->now + swarm_between(s, MS, s->faults.freeze_max);
        n->thawed_before = n->thawed_at;
        n->thawed_at = n->frozen_until;
    }
}

/* When the merge thread has an answer: soon, or after a stall. */
static void swarm_answer(struct swarm *s, size_t node, enum swarm_kind kind, uint64_t round)
{
    bool stalls = swarm_chance(s, s->faults.stall_per_answer);
    uint64_t delay = stalls ? swarm_between(s, s->round_ns, 3 * s->round_ns) : swarm_between(s, MS, 10 * MS);
    swarm_push(s, (struct swarm_event){.order.key = s->now + delay, .kind = kind, .node = node, .a = round});
}

static void swarm_outcome(struct swarm *s, size_t node, const struct gossip_event *e)
{
    struct swarm_node *n = &s->nodes[node];
    struct swarm_outcome *o = &n->outcomes[e->round];
    uint64_t half_cycle = s->layout.fragment_count * s->round_ns / 2;
    uint64_t limit = half_cycle < 3 * s->round_ns / 2 ? half_cycle : 3 * s->round_ns / 2;
    uint64_t deadline = n->began[e->round] + limit;
    o->count++;
    o->at = s->now;
    o->solo = e->kind == GOSSIP_EVENT_SOLO ? e->solo : 0;
    o->partner = id_is_zero(&e->peer) ? SIZE_MAX : swarm_index(s, &e->peer);
    if (o->solo == GOSSIP_SOLO_FAR)
        n->far[o->partner] = true;
    cr_assert_eq(e->fragment, e->round % s->layout.fragment_count);
    cr_assert_eq(o->count, 1, "round %llu had two outcomes", (unsigned long long)e->round);
    cr_assert(s->now <= deadline || s->now == n->thawed_at || s->now == n->thawed_before,
              "node %zu waited past its deadline in round %llu", node, (unsigned long long)e->round);
    uint8_t line[3] = {(uint8_t)node, (uint8_t)e->round, (uint8_t)o->solo};
    struct bytes parts[2] = {bytes_of(s->trace.bytes, ID_BYTES), bytes_of(line, sizeof line)};
    hash_parts("trace", parts, 2, &s->trace);
}

static void swarm_advance(struct swarm *s, size_t node, uint64_t round)
{
    struct swarm_node *n = &s->nodes[node];
    uint64_t age, own = gossip_current_round(n->g, s->now, &age);
    bool near = n->next_boundary <= s->now + s->round_ns / 2;
    n->advances++;
    if (round > own + 1 || near)
        swarm_begin(s, node, round);
}

static void swarm_take(struct swarm *s, size_t node, const struct gossip_event *e)
{
    struct swarm_node *n = &s->nodes[node];
    struct swarm_snapshot *slot = &n->slots[e->round % SWARM_SLOTS];
    switch (e->kind) {
    case GOSSIP_EVENT_MERGE:
        swarm_outcome(s, node, e);
        slot->partner_blob = e->blob;
        slot->partner_repair = e->repair;
        slot->partner_list = e->list;
        slot->partner_codec = e->codec;
        slot->partner = swarm_index(s, &e->peer);
        swarm_push(s, (struct swarm_event){.order.key = s->now + swarm_between(s, MS, s->round_ns / 4),
                                           .kind = EV_MERGED,
                                           .node = node,
                                           .a = e->round});
        break;
    case GOSSIP_EVENT_DECODE:
        cr_assert_eq(slot->round, e->round);
        slot->decode_blob = e->blob;
        slot->partner_codec = e->codec;
        slot->partner = swarm_index(s, &e->peer);
        swarm_answer(s, node, EV_DECODED, e->round);
        break;
    case GOSSIP_EVENT_REPAIR:
        cr_assert_eq(slot->round, e->round);
        slot->repair_list = e->list;
        slot->partner = swarm_index(s, &e->peer);
        swarm_answer(s, node, EV_REPAIRED, e->round);
        break;
    case GOSSIP_EVENT_SOLO:
        swarm_outcome(s, node, e);
        break;
    case GOSSIP_EVENT_ADVANCE:
        swarm_advance(s, node, e->round);
        break;
    case GOSSIP_EVENT_PHASE:
        cr_assert_leq(llabs(e->shift_ns), (long long)(s->round_ns / 4));
        n->phases++;
        n->next_boundary = (uint64_t)((int64_t)n->next_boundary - e->shift_ns);
        if (n->next_boundary <= s->now)
            n->next_boundary = s->now + 1;
        swarm_push(s,
                   (struct swarm_event){
                       .order.key = n->next_boundary, .kind = EV_ROUND, .node = node, .a = ++n->round_epoch});
        break;
    case GOSSIP_EVENT_BEHIND: /* a real node fetches a state; what matters here is the round number it brings
                               */
        n->behinds++;
        swarm_begin(s, node, e->round);
        break;
    case GOSSIP_EVENT_RELEASE:
        n->released++;
        slot = &n->slots[e->cookie / LOANS % SWARM_SLOTS];
        cr_assert(slot->round == e->cookie / LOANS && slot->lent[e->cookie % LOANS]);
        slot->lent[e->cookie % LOANS] = false;
        break;
    case GOSSIP_EVENT_STATE:
    case GOSSIP_EVENT_FETCH_FAILED:
        break;
    }
}

/* --- the loop
 * ----------------------------------------------------------------------------------------------- */

/* At most two rounds without an outcome, of different fragments. */
static void swarm_check_open(const struct swarm *s, const struct swarm_node *n)
{
    size_t open = 0, fragments = 0;
    for (uint64_t r = n->newest < 16 ? 1 : n->newest - 15; r <= n->newest && n->newest > 0; r++) {
        if (n->began[r] == 0 || n->outcomes[r].count > 0)
            continue;
        cr_assert_eq(fragments >> r % s->layout.fragment_count & 1, 0);
        fragments |= (size_t)1 << r % s->layout.fragment_count;
        open++;
    }
    cr_assert_leq(open, GOSSIP_LANES);
}

static void swarm_drain(struct swarm *s, size_t node)
{
    struct swarm_node *n = &s->nodes[node];
    struct gossip_event event;
    struct gossip_action action;
    gossip_check_invariants(n->g);
    while (gossip_poll_event(n->g, &event))
        swarm_take(s, node, &event);
    while (gossip_poll_action(n->g, s->now, &action))
        swarm_act(s, node, &action);
    swarm_check_open(s, n);
    gossip_check_invariants(n->g);
    cr_assert_not(gossip_poll_event(n->g, &event));
    uint64_t deadline = gossip_deadline_ns(n->g);
    if (deadline != n->armed && deadline != UINT64_MAX)
        swarm_push(s, (struct swarm_event){
                          .order.key = deadline < s->now ? s->now : deadline, .kind = EV_TICK, .node = node});
    n->armed = deadline;
}

static void swarm_frame(struct swarm *s, const struct swarm_event *e)
{
    struct swarm_link *link = &s->links[e->a];
    struct gossip *g = s->nodes[e->node].g;
    size_t side = swarm_side(link, e->node);
    if (!link->accepted && side == 1 && !link->dead[1]) {
        link->accepted = true;
        if (gossip_stream_accepted(g, s->now, &s->nodes[link->ends[0]].id, e->a) < 0) {
            link->dead[1] = true;
            swarm_close(s, e->a, 0, ERR_CLOSED, s->now + swarm_latency(s));
        } else {
            swarm_room(s, e->node, e->a);
        }
    }
    link->flying[side] -= e->len;
    if (!link->dead[side])
        gossip_stream_frame(g, s->now, e->a, bytes_of(e->frame, e->len));
    free(e->frame);
    swarm_push(s, (struct swarm_event){.order.key = s->now + swarm_latency(s),
                                       .kind = EV_ROOM,
                                       .node = link->ends[1 - side],
                                       .a = e->a});
}

static void swarm_step(struct swarm *s, const struct swarm_event *e)
{
    struct swarm_node *n = &s->nodes[e->node];
    struct swarm_link *link = &s->links[e->a % SWARM_LINKS];
    uint64_t age;
    switch (e->kind) {
    case EV_TICK:
        gossip_tick(n->g, s->now);
        break;
    case EV_ROUND:
        if (e->a == n->round_epoch)
            swarm_begin(s, e->node, gossip_current_round(n->g, s->now, &age) + 1);
        break;
    case EV_ENCODED:
        swarm_encoded(s, e->node, e->a);
        break;
    case EV_DECODED:
        swarm_decoded(s, e->node, e->a);
        break;
    case EV_REPAIRED:
        swarm_repaired(s, e->node, e->a);
        break;
    case EV_MERGED:
        swarm_merged(s, e->node, e->a);
        break;
    case EV_OPENED:
        if (gossip_stream_opened(n->g, s->now, e->b, e->a) < 0)
            link->dead[0] = true;
        else
            swarm_room(s, e->node, e->a);
        break;
    case EV_OPEN_FAILED:
        gossip_stream_open_failed(n->g, s->now, e->b, ERR_UNREACHABLE);
        break;
    case EV_FRAME:
        swarm_frame(s, e);
        break;
    case EV_CLOSED:
        if (!link->dead[swarm_side(link, e->node)])
            gossip_stream_closed(n->g, s->now, e->a, -(int)e->b);
        if (e->b != 0)
            link->dead[swarm_side(link, e->node)] = true;
        break;
    case EV_ROOM:
        if (!link->dead[swarm_side(link, e->node)])
            swarm_room(s, e->node, e->a);
        break;
    }
    swarm_drain(s, e->node);
}

static void swarm_run(struct swarm *s)
{
    while (s->heap.count > 0) {
        struct swarm_event e = swarm_pop(s);
        if (e.order.key < s->nodes[e.node].frozen_until) { /* stopped: everything waits, in order */
            e.order.key = s->nodes[e.node].frozen_until;
            swarm_push(s, e);
            continue;
        }
        s->now = e.order.key;
        swarm_step(s, &e);
    }
}

/* Tensors of very different sizes, the last ones tiny. */
static void swarm_shape(struct swarm *s)
{
    size_t left = SWARM_PARAMS, offset = 0;
    for (size_t i = 0; i < SWARM_TENSORS; i++) {
        size_t count = i + 1 == SWARM_TENSORS ? left : left / 5 + i % 3;
        s->tensors[i] =
            (struct gossip_tensor){offset, count, i % 2 == 0 ? GOSSIP_TENSOR_MATRIX : GOSSIP_TENSOR_VECTOR};
        offset += count;
        left -= count;
    }
    cr_assert_eq(gossip_layout_of(s->tensors, SWARM_TENSORS, s->fragments, &s->layout), 0);
}

static void swarm_init(struct swarm *s, size_t count, size_t fragments, uint64_t rounds, uint64_t seed,
                       struct swarm_faults faults)
{
    memset(s, 0, sizeof *s);
    s->heap = heap_of(NULL, sizeof(struct swarm_event), 0);
    s->count = count;
    s->fragments = fragments;
    s->last_round = rounds;
    s->round_ns = 1000 * MS;
    s->faults = faults;
    rng_seeded_init(&s->stream, seed);
    s->rng = rng_of_seeded(&s->stream);
    cr_assert_lt(rounds, SWARM_ROUNDS);
    swarm_shape(s);
    rng_fill(&s->rng, &s->run, sizeof s->run);
    for (size_t i = 0; i < count; i++) {
        struct swarm_node *n = &s->nodes[i];
        struct gossip_config config = gossip_config_default();
        rng_fill(&s->rng, &n->id, sizeof n->id);
        config.self = n->id;
        config.run = s->run;
        config.layout = s->layout;
        config.round_ns = s->round_ns;
        config.first_frame_ns = 300 * MS;
        n->block = aligned_alloc(64, (gossip_size_bytes(&config) + 63) / 64 * 64);
        n->g = gossip_init(n->block, gossip_size_bytes(&config), &config);
        n->phi = calloc(SWARM_PARAMS, sizeof(float));
        n->delta = calloc(SWARM_PARAMS, sizeof(float));
        for (size_t k = 0; k < SWARM_PARAMS; k++)
            n->phi[k] = (float)((k * 37 + (k / 900 % 7 == 0 ? i * 11 : 0)) % 101) / 101.0f;
        for (size_t k = 0; k < SWARM_SLOTS; k++) {
            n->slots[k].theta = calloc(SWARM_PARAMS, sizeof(float));
            n->slots[k].result = calloc(SWARM_PARAMS, sizeof(float));
            n->slots[k].blob = malloc(4 * SWARM_PARAMS);
            n->slots[k].list = malloc(2 * SWARM_BLOCKS);
            n->slots[k].wanted = calloc(SWARM_BLOCKS, sizeof(uint32_t));
            n->slots[k].repair = malloc(2 * SWARM_PARAMS);
        }
        swarm_push(s, (struct swarm_event){.order.key = swarm_between(s, 1, 1 + faults.start_spread),
                                           .kind = EV_ROUND,
                                           .node = i});
    }
}

/* At the end: nothing lent, one outcome for every round begun, and whoever merged alone has a partner that
 * knows. */
static void swarm_check_end(struct swarm *s)
{
    uint64_t unconfirmed = 0;
    for (size_t i = 0; i < s->count; i++) {
        struct swarm_node *n = &s->nodes[i];
        cr_assert_eq(n->lent, n->released);
        cr_assert_leq(gossip_counters(n->g)->commit_wait_max_ns,
                      2 * s->round_ns + s->faults.freeze_max); /* the window is bounded */
        unconfirmed += gossip_counters(n->g)->solo[GOSSIP_SOLO_UNCONFIRMED];
        for (uint64_t r = 1; r <= s->last_round; r++) {
            const struct swarm_outcome *o = &n->outcomes[r];
            cr_assert_eq(o->count, n->began[r] != 0 ? 1u : 0u, "node %zu round %llu", i,
                         (unsigned long long)r);
            if (o->count == 0 || o->solo != 0)
                continue;
            const struct swarm_outcome *theirs = &s->nodes[o->partner].outcomes[r];
            bool both = theirs->count == 1 && theirs->solo == 0 && theirs->partner == i;
            bool known = theirs->count == 1 && theirs->solo == GOSSIP_SOLO_UNCONFIRMED;
            cr_assert(both || known, "node %zu merged alone in round %llu and nobody knows", i,
                      (unsigned long long)r);
            s->asymmetric += !both;
        }
    }
    cr_assert_leq(s->asymmetric, unconfirmed);
}

static void swarm_deinit(struct swarm *s)
{
    for (size_t i = 0; i < s->count; i++) {
        struct swarm_node *n = &s->nodes[i];
        for (size_t k = 0; k < SWARM_SLOTS; k++) {
            free(n->slots[k].theta);
            free(n->slots[k].result);
            free(n->slots[k].blob);
            free(n->slots[k].list);
            free(n->slots[k].wanted);
            free(n->slots[k].repair);
        }
        free(n->phi);
        free(n->delta);
        free(n->block);
    }
    free(s->heap.items);
}

#endif
