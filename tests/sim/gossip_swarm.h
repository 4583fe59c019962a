/* A swarm of gossip cores in virtual time: one seed, links with latency, rate, resets and failed opens, nodes
 * that freeze, and the part of node/ that drives rounds.  Checks as it goes that every round has exactly one
 * outcome, in time, that blobs arrive intact and that committed pairs keep their sum. */
#ifndef DUNLIN_TESTS_GOSSIP_SWARM_H
#define DUNLIN_TESTS_GOSSIP_SWARM_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/heap.h"
#include "base/rng.h"
#include "gossip/exchange.h"
#include "gossip/merge/job.h"
#include "gossip/pairing.h"

enum {
    SWARM_MAX = 24,
    SWARM_ROUNDS = 64,
    SWARM_PARAMS = 20000, /* fp32: two fragments */
    SWARM_SLOTS = 4,      /* snapshots kept by a node */
    SWARM_LINKS = 4096,
    SWARM_WINDOW = 150000,
};

#define MS UINT64_C(1000000)

enum swarm_kind {
    EV_TICK,
    EV_ROUND,
    EV_ENCODED,
    EV_MERGED,
    EV_OPENED,
    EV_OPEN_FAILED,
    EV_FRAME,
    EV_CLOSED,
    EV_ROOM
};

struct swarm_event {
    struct heap_order order; /* by time, then first in, first out */
    enum swarm_kind kind;
    size_t node;
    uint64_t a, b; /* link or tag or round */
    uint8_t *frame;
    size_t len;
};

struct swarm_link {
    size_t ends[2]; /* opener, acceptor */
    bool accepted, dead[2];
    uint64_t last[2]; /* delivery time of the last frame towards the end */
    size_t flying[2]; /* bytes on the way towards the end */
};

struct swarm_snapshot {
    uint64_t round;
    bool lent, used;
    enum gossip_codec codec;
    float *theta, *result;
    bool merged; /* without a clip */
    size_t partner;
    enum gossip_codec partner_codec;
    struct bytes partner_blob; /* lent by MERGE */
    uint8_t *blob;
    size_t len;
};

struct swarm_outcome {
    unsigned count;
    enum gossip_solo solo; /* 0: merged */
    size_t partner;
    uint64_t at;
};

struct swarm_node {
    struct id id;
    struct gossip *g;
    void *block;
    uint64_t next_boundary, round_epoch; /* round_epoch voids timers that were overtaken */
    uint64_t frozen_until, thawed_at, thawed_before;
    uint64_t armed;
    float *phi, *delta, *diff;
    struct gossip_history history;
    struct swarm_snapshot slots[SWARM_SLOTS];
    struct swarm_outcome outcomes[SWARM_ROUNDS];
    uint64_t began[SWARM_ROUNDS];
    uint64_t lent, released, advances, phases, behinds;
};

struct swarm_faults {
    double reset_per_frame, open_fails, freeze_per_round;
    uint64_t latency_min, latency_max, freeze_max, start_spread;
    double bytes_per_ns;
};

struct swarm {
    size_t count;
    uint64_t now, seq, round_ns, last_round;
    struct swarm_faults faults;
    struct rng_seeded stream;
    struct rng rng;
    struct gossip_tensor tensors[2];
    struct gossip_layout layout;
    struct id run;
    struct swarm_node nodes[SWARM_MAX];
    struct swarm_link links[SWARM_LINKS];
    size_t link_count;
    struct heap heap; /* of struct swarm_event */
    uint64_t pair_checks, asymmetric;
    struct id trace; /* hash over outcomes: the same seed gives the same one */
};

static void swarm_drain(struct swarm *s, size_t node);

static bool swarm_chance(struct swarm *s, double probability)
{
    return probability > 0 && (double)rng_u32(&s->rng) < probability * 4294967296.0;
}

static uint64_t swarm_between(struct swarm *s, uint64_t low, uint64_t high)
{
    return low + rng_below(&s->rng, high - low + 1);
}

/* An event that comes back, having waited, keeps its place among those of its time. */
static void swarm_push(struct swarm *s, struct swarm_event event)
{
    if (event.order.tie == 0)
        event.order.tie = ++s->seq;
    if (heap_push(&s->heap, &event))
        return;
    s->heap.cap = s->heap.cap == 0 ? 1024 : 2 * s->heap.cap;
    s->heap.items = realloc(s->heap.items, s->heap.cap * sizeof event);
    cr_assert_not_null(s->heap.items);
    cr_assert(heap_push(&s->heap, &event));
}

static struct swarm_event swarm_pop(struct swarm *s)
{
    struct swarm_event top;
    cr_assert(heap_pop(&s->heap, &top));
    return top;
}

static size_t swarm_index(const struct swarm *s, const struct id *id)
{
    for (size_t i = 0; i < s->count; i++)
        if (id_equal(&s->nodes[i].id, id))
            return i;
    cr_assert_fail("unknown id");
    return 0;
}

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
    swarm_push(
        s,
        (struct swarm_event){
            .order.key = at, .kind = EV_CLOSED, .node = link->ends[side], .a = index, .b = (uint64_t)-err});
}

static void swarm_send(struct swarm *s, size_t node, uint64_t index, struct bytes frame)
{
    struct swarm_link *link = &s->links[index];
    size_t to = 1 - swarm_side(link, node);
    if (swarm_chance(s, s->faults.reset_per_frame)) { /* the connection breaks: both ends learn it, in time */
        swarm_close(s, index, 0, ERR_CLOSED, s->now + swarm_latency(s));
        swarm_close(s, index, 1, ERR_CLOSED, s->now + swarm_latency(s));
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
    n->next_boundary = s->now + s->round_ns;
    n->round_epoch++;
    swarm_push(s, (struct swarm_event){
                      .order.key = n->next_boundary, .kind = EV_ROUND, .node = node, .a = n->round_epoch});
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

static void swarm_encoded(struct swarm *s, size_t node, uint64_t round)
{
    struct swarm_node *n = &s->nodes[node];
    struct swarm_snapshot *slot = &n->slots[round % SWARM_SLOTS];
    cr_assert_not(slot->lent, "blob of round %llu still lent", (unsigned long long)slot->round);
    slot->round = round;
    slot->used = true;
    slot->merged = false;
    slot->codec = (enum gossip_codec)((node + round) % 3);
    slot->len = (size_t)s->layout.encoded_bytes[slot->codec];
    for (size_t i = 0; i < SWARM_PARAMS; i++)
        slot->theta[i] = n->phi[i] + 1e-3f * (float)(int8_t)(i * 31 + node * 7 + round * 13);
    cr_assert_eq(gossip_encode(slot->codec, s->tensors, 2, slot->theta, slot->blob, slot->len), 0);
    int result =
        gossip_set_outgoing(n->g, s->now, round, slot->codec, bytes_of(slot->blob, slot->len), round);
    cr_assert(result == 0 || result == ERR_STALE);
    slot->lent = result == 0;
    n->lent += result == 0;
}

static void swarm_outcome(struct swarm *s, size_t node, const struct gossip_event *e)
{
    struct swarm_node *n = &s->nodes[node];
    struct swarm_outcome *o = &n->outcomes[e->round];
    uint64_t deadline = n->began[e->round] + s->round_ns / 2;
    o->count++;
    o->at = s->now;
    o->solo = e->kind == GOSSIP_EVENT_SOLO ? e->solo : 0;
    o->partner = id_is_zero(&e->peer) ? SIZE_MAX : swarm_index(s, &e->peer);
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
    switch (e->kind) {
    case GOSSIP_EVENT_MERGE:
        swarm_outcome(s, node, e);
        n->slots[e->round % SWARM_SLOTS].partner_blob = e->blob;
        n->slots[e->round % SWARM_SLOTS].partner_codec = e->codec;
        n->slots[e->round % SWARM_SLOTS].partner = swarm_index(s, &e->peer);
        swarm_push(s, (struct swarm_event){.order.key = s->now + swarm_between(s, MS, s->round_ns / 4),
                                           .kind = EV_MERGED,
                                           .node = node,
                                           .a = e->round});
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
        n->slots[e->cookie % SWARM_SLOTS].lent = false;
        break;
    case GOSSIP_EVENT_STATE:
    case GOSSIP_EVENT_FETCH_FAILED:
        break;
    }
}

/* The merge thread: the blob must be the partner's, and when both sides have merged, their sum is the
 * snapshots'. */
static void swarm_merged(struct swarm *s, size_t node, uint64_t round)
{
    struct swarm_node *n = &s->nodes[node];
    struct swarm_snapshot *own = &n->slots[round % SWARM_SLOTS];
    struct swarm_snapshot *theirs = &s->nodes[own->partner].slots[round % SWARM_SLOTS];
    struct gossip_merge_report report;
    cr_assert(own->round == round && theirs->round == round);
    cr_assert(own->partner_codec == theirs->codec && own->partner_blob.len == theirs->len);
    cr_assert_eq(memcmp(own->partner_blob.data, theirs->blob, theirs->len), 0,
                 "the blob is not what was sent");
    struct gossip_merge_input in = {.tensors = s->tensors,
                                    .tensor_count = 2,
                                    .outer = gossip_outer_plain(),
                                    .partner_weight = 0.5f,
                                    .own_round = round,
                                    .partner_round = round,
                                    .theta = own->theta,
                                    .own = {.codec = own->codec, .blob = bytes_of(own->blob, own->len)},
                                    .partner = {.codec = own->partner_codec, .blob = own->partner_blob}};
    int result = gossip_merge_job(&in, &n->history, n->phi, n->delta, n->diff, &report);
    cr_assert_eq(result, 0);
    memcpy(own->result, n->phi, SWARM_PARAMS * sizeof(float));
    own->merged = report.scale == 1.0f;
    cr_assert_eq(gossip_merge_done(n->g, s->now, round, result), 0);
    if (!own->merged || !theirs->merged)
        return;
    s->pair_checks++;
    for (size_t i = 0; i < SWARM_PARAMS; i++) {
        float before = own->theta[i] + theirs->theta[i], after = own->result[i] + theirs->result[i];
        cr_assert(before - after < 1e-5f && after - before < 1e-5f, "sum of pair moved at %zu", i);
    }
}

/* --- the loop
 * ----------------------------------------------------------------------------------------------- */

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

static void swarm_init(struct swarm *s, size_t count, uint64_t rounds, uint64_t seed,
                       struct swarm_faults faults)
{
    memset(s, 0, sizeof *s);
    s->heap = heap_of(NULL, sizeof(struct swarm_event), 0);
    s->count = count;
    s->last_round = rounds;
    s->round_ns = 1000 * MS;
    s->faults = faults;
    rng_seeded_init(&s->stream, seed);
    s->rng = rng_of_seeded(&s->stream);
    s->tensors[0] = (struct gossip_tensor){0, SWARM_PARAMS - 100, GOSSIP_TENSOR_MATRIX};
    s->tensors[1] = (struct gossip_tensor){SWARM_PARAMS - 100, 100, GOSSIP_TENSOR_VECTOR};
    cr_assert_eq(gossip_layout_of(s->tensors, 2, &s->layout), 0);
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
        n->diff = calloc(SWARM_PARAMS, sizeof(float));
        for (size_t k = 0; k < SWARM_PARAMS; k++)
            n->phi[k] = (float)((k * 37 + i * 11) % 101) / 101.0f;
        for (size_t k = 0; k < SWARM_SLOTS; k++) {
            n->slots[k].theta = calloc(SWARM_PARAMS, sizeof(float));
            n->slots[k].result = calloc(SWARM_PARAMS, sizeof(float));
            n->slots[k].blob = malloc(4 * SWARM_PARAMS);
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
        }
        free(n->phi);
        free(n->delta);
        free(n->diff);
        free(n->block);
    }
    free(s->heap.items);
}

#endif
