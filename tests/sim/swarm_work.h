/* What the merge thread of a simulated node does: encode, decode, repair, merge; and what it checks. */
#ifndef DUNLIN_TESTS_SWARM_WORK_H
#define DUNLIN_TESTS_SWARM_WORK_H

#include "sim/swarm_state.h"

/* One fragment as the codecs take it. */
struct swarm_span {
    const struct gossip_tensor *tensors;
    size_t tensor_count, blocks, index;
    const struct gossip_fragment *fragment;
};

static struct swarm_span swarm_span_of(const struct swarm *s, uint64_t round)
{
    size_t index = gossip_layout_fragment(&s->layout, round);
    const struct gossip_fragment *f = &s->layout.fragments[index];
    return (struct swarm_span){.tensors = &s->tensors[f->first_tensor],
                               .tensor_count = f->tensor_count,
                               .blocks = (size_t)s->layout.fragment_blocks[index],
                               .index = index,
                               .fragment = f};
}

static void swarm_lend(struct swarm_node *n, struct swarm_snapshot *slot, enum swarm_loan loan, int result)
{
    cr_assert(result == 0 || result == ERR_STALE);
    cr_assert_not(slot->lent[loan]);
    slot->lent[loan] = result == 0;
    n->lent += result == 0;
}

/* These nodes move alike in every round, so a fixed multiple of that is the range: wide enough for most
 * blocks, and without the feedback from distance to range that a real node has. */
static int swarm_encode(const struct swarm_node *n, struct swarm_span span, struct swarm_snapshot *slot)
{
    struct gossip_modular_source source = {
        .theta = slot->theta, .phi = n->phi + span.fragment->offset, .kappa = 16, .distance_scale = 1};
    if ((GOSSIP_CODECS_PLAIN >> slot->codec & 1) != 0)
        return gossip_encode(slot->codec, span.tensors, span.tensor_count, slot->theta, slot->blob,
                             slot->len);
    return gossip_modular_encode(slot->codec, span.tensors, span.tensor_count, &source, slot->blob,
                                 slot->len);
}

static void swarm_encoded(struct swarm *s, size_t node, uint64_t round)
{
    struct swarm_node *n = &s->nodes[node];
    struct swarm_snapshot *slot = &n->slots[round % SWARM_SLOTS];
    struct swarm_span span = swarm_span_of(s, round);
    size_t partner = n->partners[round];
    for (int i = 0; i < LOANS; i++)
        cr_assert_not(slot->lent[i], "loan %d of round %llu still out", i, (unsigned long long)slot->round);
    slot->round = round;
    slot->used = true;
    slot->merged = false;
    slot->list_len = slot->repair_len = slot->wanted_count = 0;
    slot->codec = (enum gossip_codec)((node + round) % (s->faults.plain ? 3 : GOSSIP_CODEC_COUNT));
    if (partner != SIZE_MAX && n->far[partner])
        slot->codec = GOSSIP_CODEC_INT8;
    if (partner != SIZE_MAX)
        n->far[partner] = false;
    slot->len = (size_t)s->layout.fragment_bytes[span.index][slot->codec];
    for (size_t i = 0; i < span.fragment->count; i++)
        slot->theta[i] =
            n->phi[span.fragment->offset + i] + 1e-4f * (float)(int8_t)(i * 31 + node * 7 + round * 13);
    cr_assert_eq(swarm_encode(n, span, slot), 0);
    int result = gossip_set_outgoing(n->g, s->now, round, slot->codec, bytes_of(slot->blob, slot->len),
                                     LOANS * round + LOAN_BLOB);
    swarm_lend(n, slot, LOAN_BLOB, result);
}

/* Adds blocks that decode to the list of wrong ones; returns how many there are then. */
static size_t swarm_doubt(struct swarm *s, size_t blocks, uint32_t list[], size_t count)
{
    uint32_t more[SWARM_BLOCKS];
    size_t at = 0, all = 0;
    for (uint32_t block = 0; block < blocks; block++) {
        bool wrong = at < count && list[at] == block;
        at += wrong;
        if (wrong || swarm_chance(s, s->faults.wrong_blocks))
            more[all++] = block;
    }
    memcpy(list, more, all * sizeof *list);
    return all;
}

/* The blob of DECODE is still what the partner sent, even when the round has ended meanwhile. */
static void swarm_decoded(struct swarm *s, size_t node, uint64_t round)
{
    struct swarm_node *n = &s->nodes[node];
    struct swarm_snapshot *own = &n->slots[round % SWARM_SLOTS];
    const struct swarm_snapshot *theirs = &s->nodes[own->partner].slots[round % SWARM_SLOTS];
    struct swarm_span span = swarm_span_of(s, round);
    size_t repair = 0;
    cr_assert(own->round == round && theirs->round == round);
    cr_assert(own->decode_blob.len == theirs->len &&
              memcmp(own->decode_blob.data, theirs->blob, theirs->len) == 0);
    int wrong = gossip_modular_check(own->partner_codec, span.tensors, span.tensor_count, own->decode_blob,
                                     own->theta, own->wanted);
    cr_assert(wrong >= 0 || wrong == ERR_FAR);
    own->wanted_count = wrong < 0 ? span.blocks : swarm_doubt(s, span.blocks, own->wanted, (size_t)wrong);
    if (own->wanted_count > span.blocks / 2) {
        own->wanted_count = 0;
        cr_assert_eq(gossip_refuse(n->g, s->now, round), 0);
        return;
    }
    own->list_len = gossip_indices_encode(own->wanted_count, own->wanted, own->list, 2 * SWARM_BLOCKS);
    cr_assert_eq(
        gossip_repair_bytes(span.tensors, span.tensor_count, own->wanted_count, own->wanted, &repair), 0);
    s->repairs += own->wanted_count > 0;
    int result = gossip_set_wanted(n->g, s->now, round, bytes_of(own->list, own->list_len), repair,
                                   LOANS * round + LOAN_LIST);
    s->late_answers += result == ERR_STALE;
    swarm_lend(n, own, LOAN_LIST, result);
}

static void swarm_repaired(struct swarm *s, size_t node, uint64_t round)
{
    uint32_t list[SWARM_BLOCKS];
    struct swarm_node *n = &s->nodes[node];
    struct swarm_snapshot *own = &n->slots[round % SWARM_SLOTS];
    const struct swarm_snapshot *theirs = &s->nodes[own->partner].slots[round % SWARM_SLOTS];
    struct swarm_span span = swarm_span_of(s, round);
    cr_assert(theirs->round == round && own->repair_list.len == theirs->list_len);
    cr_assert_eq(memcmp(own->repair_list.data, theirs->list, theirs->list_len), 0);
    int count = gossip_indices_decode(own->repair_list, span.blocks, list, SWARM_BLOCKS);
    cr_assert_gt(count, 0);
    cr_assert_eq(gossip_repair_bytes(span.tensors, span.tensor_count, (size_t)count, list, &own->repair_len),
                 0);
    cr_assert_eq(gossip_repair_encode(span.tensors, span.tensor_count, (size_t)count, list, own->theta,
                                      own->repair, own->repair_len),
                 0);
    int result = gossip_set_repair(n->g, s->now, round, bytes_of(own->repair, own->repair_len),
                                   LOANS * round + LOAN_REPAIR);
    s->late_answers += result == ERR_STALE;
    swarm_lend(n, own, LOAN_REPAIR, result);
}

/* Both sides have merged without a clip: their sum is the snapshots'. */
static void swarm_check_sum(struct swarm *s, const struct swarm_snapshot *own,
                            const struct swarm_snapshot *theirs, size_t count)
{
    s->pair_checks++;
    for (size_t i = 0; i < count; i++) {
        float before = own->theta[i] + theirs->theta[i], after = own->result[i] + theirs->result[i];
        cr_assert(before - after < 1e-5f && after - before < 1e-5f, "sum of pair moved at %zu", i);
    }
}

/* The merge itself: blob, list and repair must be the partner's. */
static void swarm_merged(struct swarm *s, size_t node, uint64_t round)
{
    static float diff[SWARM_PARAMS];
    uint32_t repaired[SWARM_BLOCKS];
    struct swarm_node *n = &s->nodes[node];
    struct swarm_snapshot *own = &n->slots[round % SWARM_SLOTS];
    struct swarm_snapshot *theirs = &s->nodes[own->partner].slots[round % SWARM_SLOTS];
    struct swarm_span span = swarm_span_of(s, round);
    struct gossip_merge_report report;
    cr_assert(own->round == round && theirs->round == round);
    cr_assert(own->partner_codec == theirs->codec && own->partner_blob.len == theirs->len);
    cr_assert_eq(memcmp(own->partner_blob.data, theirs->blob, theirs->len), 0,
                 "the blob is not what was sent");
    int count = gossip_indices_decode(own->partner_list, span.blocks, repaired, SWARM_BLOCKS);
    cr_assert(count >= 0 && (size_t)count == theirs->wanted_count);
    struct gossip_merge_input in = {
        .tensors = span.tensors,
        .tensor_count = span.tensor_count,
        .outer = gossip_outer_plain(),
        .strangers = true,
        .partner_weight = 0.5f,
        .own_round = round,
        .partner_round = round,
        .theta = own->theta,
        .own = {own->codec, bytes_of(own->blob, own->len), repaired, (size_t)count,
                bytes_of(own->repair, own->repair_len)},
        .partner = {own->partner_codec, own->partner_blob, own->wanted, own->wanted_count,
                    own->partner_repair},
    };
    float *phi = n->phi + span.fragment->offset;
    /* The made-up training puts nodes apart by anything from one to eighteen: neither a past nor the rule at
     * the start, so that the gate stays out of what is tested here. */
    n->history[span.index] = (struct gossip_history){0};
    int result =
        gossip_merge_job(&in, &n->history[span.index], phi, n->delta + span.fragment->offset, diff, &report);
    cr_assert_eq(result, 0, "%d", result);
    memcpy(own->result, phi, span.fragment->count * sizeof(float));
    own->merged = report.scale == 1.0f;
    cr_assert_eq(gossip_merge_done(n->g, s->now, round, result), 0);
    if (own->merged && theirs->merged)
        swarm_check_sum(s, own, theirs, span.fragment->count);
}

#endif
