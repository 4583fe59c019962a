/* State of a swarm of gossip cores in virtual time (gossip_swarm.h drives it), and its small helpers. */
#ifndef DUNLIN_TESTS_SWARM_STATE_H
#define DUNLIN_TESTS_SWARM_STATE_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"
#include "base/rng.h"
#include "gossip/codec_modular.h"
#include "gossip/exchange.h"
#include "gossip/merge/job.h"

enum {
    SWARM_MAX = 24,
    SWARM_ROUNDS = 128,
    SWARM_TENSORS = 16,
    SWARM_PARAMS = 32000, /* fp32, one fragment: three pieces */
    SWARM_BLOCKS = SWARM_PARAMS / GOSSIP_BLOCK + SWARM_TENSORS,
    SWARM_SLOTS = 8, /* snapshots kept by a node */
    SWARM_LINKS = 16384,
    SWARM_WINDOW = 150000,
};

#define MS UINT64_C(1000000)

enum swarm_kind {
    EV_TICK,
    EV_ROUND,
    EV_ENCODED,
    EV_DECODED,
    EV_REPAIRED,
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
    bool silent;      /* carries nothing any more, and nobody is told */
    uint64_t last[2]; /* delivery time of the last frame towards the end */
    size_t flying[2]; /* bytes on the way towards the end */
};

/* One round of a node: its snapshot of the fragment and what it lent to the core, by cookie. */
enum swarm_loan { LOAN_BLOB, LOAN_LIST, LOAN_REPAIR, LOANS };

struct swarm_snapshot {
    uint64_t round;
    bool lent[LOANS], used;
    enum gossip_codec codec;
    float *theta, *result;
    bool merged;
    size_t partner;
    enum gossip_codec partner_codec;
    struct bytes partner_blob, partner_repair, partner_list; /* lent by MERGE */
    struct bytes decode_blob, repair_list;                   /* lent by DECODE, REPAIR */
    uint8_t *blob, *list, *repair;
    size_t len, list_len, repair_len, wanted_count;
    uint32_t *wanted; /* blocks of the partner's blob that list names */
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
    uint64_t armed, newest;
    float *phi, *delta;
    float distances[GOSSIP_FRAGMENTS_MAX]
                   [SWARM_BLOCKS]; /* of the blocks, at the last merge of the fragment */
    struct gossip_history history[GOSSIP_FRAGMENTS_MAX];
    bool far[SWARM_MAX]; /* int8 next time with this one */
    struct swarm_snapshot slots[SWARM_SLOTS];
    struct swarm_outcome outcomes[SWARM_ROUNDS];
    size_t partners[SWARM_ROUNDS]; /* by the schedule; SIZE_MAX: none */
    uint64_t began[SWARM_ROUNDS];
    uint64_t lent, released, advances, phases, behinds;
};

struct swarm_faults {
    double reset_per_frame, silence_per_frame, open_fails, freeze_per_round, stall_per_answer;
    double wrong_blocks; /* share of a modular blob's blocks that are asked for though they decode */
    uint64_t latency_min, latency_max, freeze_max, start_spread;
    double bytes_per_ns;
    bool plain; /* no modular codecs */
};

struct swarm {
    size_t count, fragments;
    uint64_t now, seq, round_ns, last_round;
    struct swarm_faults faults;
    struct rng_seeded stream;
    struct rng rng;
    struct gossip_tensor tensors[SWARM_TENSORS];
    struct gossip_layout layout;
    struct id run;
    struct swarm_node nodes[SWARM_MAX];
    struct swarm_link links[SWARM_LINKS];
    size_t link_count;
    struct heap heap; /* of struct swarm_event */
    uint64_t pair_checks, asymmetric, repairs, late_answers;
    struct id trace; /* hash over outcomes: the same seed gives the same one */
};

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

#endif
