/* What the merge thread of a simulated node does: encode, decode, repair, merge; and what it checks. */
#ifndef DUNLIN_TESTS_SWARM_WORK_H
#define DUNLIN_TESTS_SWARM_WORK_H

#include "sim/swarm_state.h"

/* The tensors of this fragment as a table of its own, starting at 0. */
static size_t swarm_table(const struct swarm *s, size_t fragment, struct gossip_tensor out[SWARM_TENSORS])
{
    const struct gossip_fragment *f = &s->layout.fragments[fragment];
    for (size_t i = 0; i < f->tensor_count; i++) {
        out[i] = s->tensors[f->first_tensor + i];
        out[i].offset -= f->offset;
    }
    return f->tensor_count;
}

/* Calls of a walk over the blocks of a fragment. */
struct swarm_block {
    size_t index, offset, count; /* offset in the fragment */
    size_t at, bytes;            /* in the blob of this codec */
};

static bool swarm_next_block(const struct swarm *s, size_t fragment, enum gossip_codec codec,
                             struct swarm_block *b)
{
    struct gossip_tensor table[SWARM_TENSORS];
    size_t tensors = swarm_table(s, fragment, table);
    size_t offset = b->count == 0 ? 0 : b->offset + b->count;
    b->index = b->count == 0 ? 0 : b->index + 1;
    b->at = b->count == 0 ? 0 : b->at + b->bytes;
    for (size_t t = 0; t < tensors; t++) {
        if (offset >= table[t].offset + table[t].count)
            continue;
        size_t left = table[t].offset + table[t].count - offset;
        b->offset = offset;
        b->count = left < GOSSIP_BLOCK ? left : GOSSIP_BLOCK;
        b->bytes = gossip_encoded_bytes(codec, b->count);
        return true;
    }
    return false;
}

static void swarm_lend(struct swarm_node *n, struct swarm_snapshot *slot, enum swarm_loan loan, int result)
{
    cr_assert(result == 0 || result == ERR_STALE);
    cr_assert_not(slot->lent[loan]);
    slot->lent[loan] = result == 0;
    n->lent += result == 0;
}

static void swarm_encoded(struct swarm *s, size_t node, uint64_t round)
{
    struct swarm_node *n = &s->nodes[node];
    struct swarm_snapshot *slot = &n->slots[round % SWARM_SLOTS];
    size_t fragment = gossip_layout_fragment(&s->layout, round);
    const struct gossip_fragment *f = &s->layout.fragments[fragment];
    struct gossip_tensor table[SWARM_TENSORS];
    struct swarm_block b = {0};
    for (int i = 0; i < LOANS; i++)
        cr_assert_not(slot->lent[i], "loan %d of round %llu still out", i, (unsigned long long)slot->round);
    size_t partner = n->partners[round];
    slot->round = round;
    slot->used = true;
    slot->merged = false;
    slot->codec = (enum gossip_codec)((node + round) % (s->faults.plain ? 3 : GOSSIP_CODEC_COUNT));
    if (partner != SIZE_MAX && n->far[partner])
        slot->codec = GOSSIP_CODEC_INT8;
    if (partner != SIZE_MAX)
        n->far[partner] = false;
    slot->len = (size_t)s->layout.fragment_bytes[fragment][slot->codec];
    for (size_t i = 0; i < f->count; i++)
        slot->theta[i] = n->phi[f->offset + i] + 1e-4f * (float)(int8_t)(i * 31 + node * 7 + round * 13);
    unsigned bits = gossip_codec_bits(slot->codec);
    if (bits == 0)
        cr_assert_eq(gossip_encode(slot->codec, table, swarm_table(s, fragment, table), slot->theta,
                                   slot->blob, slot->len),
                     0);
    while (bits != 0 && swarm_next_block(s, fragment, slot->codec, &b))
        lattice_encode_block(bits, b.count, slot->theta + b.offset, 0.12f / (float)(1u << (bits - 1)),
                             slot->blob + b.at);
    int result = gossip_set_outgoing(n->g, s->now, round, slot->codec, bytes_of(slot->blob, slot->len),
                                     LOANS * round + LOAN_BLOB);
    swarm_lend(n, slot, LOAN_BLOB, result);
}

/* The blob of DECODE is still what the partner sent, even when the round has ended meanwhile. */
static void swarm_decoded(struct swarm *s, size_t node, uint64_t round)
{
    static float values[GOSSIP_BLOCK];
    struct swarm_node *n = &s->nodes[node];
    struct swarm_snapshot *own = &n->slots[round % SWARM_SLOTS];
    const struct swarm_snapshot *theirs = &s->nodes[own->partner].slots[round % SWARM_SLOTS];
    size_t fragment = gossip_layout_fragment(&s->layout, round);
    unsigned bits = gossip_codec_bits(own->partner_codec);
    struct swarm_block b = {0};
    struct writer w = writer_of(own->list, SWARM_BLOCKS);
    uint64_t last = UINT64_MAX, wrong = 0, repair = 0;
    cr_assert(own->round == round && theirs->round == round);
    cr_assert(own->decode_blob.len == theirs->len &&
              memcmp(own->decode_blob.data, theirs->blob, theirs->len) == 0);
    while (swarm_next_block(s, fragment, own->partner_codec, &b)) {
        bool right =
            lattice_decode_block(bits, b.count, own->theta + b.offset, own->decode_blob.data + b.at, values);
        if (right && !swarm_chance(s, s->faults.wrong_blocks))
            continue;
        wrong++;
        repair += gossip_encoded_bytes(GOSSIP_CODEC_INT8, b.count);
        if (wrong <= s->layout.fragment_blocks[fragment] / 2)
            gossip_wanted_add(&w, &last, b.index);
    }
    int result;
    if (wrong > s->layout.fragment_blocks[fragment] / 2) {
        result = gossip_refuse(n->g, s->now, round);
        cr_assert_eq(result, 0);
        return;
    }
    own->list_len = writer_len(&w);
    s->repairs += wrong > 0;
    result = gossip_set_wanted(n->g, s->now, round, bytes_of(own->list, own->list_len), repair,
                               LOANS * round + LOAN_LIST);
    s->late_answers += result == ERR_STALE;
    swarm_lend(n, own, LOAN_LIST, result);
}

static void swarm_repaired(struct swarm *s, size_t node, uint64_t round)
{
    struct swarm_node *n = &s->nodes[node];
    struct swarm_snapshot *own = &n->slots[round % SWARM_SLOTS];
    const struct swarm_snapshot *theirs = &s->nodes[own->partner].slots[round % SWARM_SLOTS];
    size_t fragment = gossip_layout_fragment(&s->layout, round);
    struct reader r = reader_of(own->repair_list);
    struct swarm_block b = {0};
    uint64_t last = UINT64_MAX, block;
    cr_assert(theirs->round == round && own->repair_list.len == theirs->list_len);
    cr_assert_eq(memcmp(own->repair_list.data, theirs->list, theirs->list_len), 0);
    own->repair_len = 0;
    bool more = gossip_wanted_next(&r, &last, &block);
    while (more && swarm_next_block(s, fragment, GOSSIP_CODEC_INT8, &b)) {
        if (b.index != block)
            continue;
        cr_assert_eq(gossip_encode_values(GOSSIP_CODEC_INT8, b.count, own->theta + b.offset,
                                          own->repair + own->repair_len),
                     0);
        own->repair_len += b.bytes;
        more = gossip_wanted_next(&r, &last, &block);
    }
    cr_assert(!more && !r.failed);
    int result = gossip_set_repair(n->g, s->now, round, bytes_of(own->repair, own->repair_len),
                                   LOANS * round + LOAN_REPAIR);
    s->late_answers += result == ERR_STALE;
    swarm_lend(n, own, LOAN_REPAIR, result);
}

/* What a blob says, repaired: the same numbers on both sides.  own: the sender's snapshot when it is our own
 * blob, ours when it is the partner's. */
static void swarm_values(const struct swarm *s, uint64_t round, enum gossip_codec codec, struct bytes blob,
                         bool sent, const float own[], struct bytes list, struct bytes repair, float out[])
{
    size_t fragment = gossip_layout_fragment(&s->layout, round);
    struct gossip_tensor table[SWARM_TENSORS];
    unsigned bits = gossip_codec_bits(codec);
    struct swarm_block b = {0};
    struct reader r = reader_of(list);
    uint64_t last = UINT64_MAX, block = UINT64_MAX;
    const uint8_t *fixed = repair.data;
    if (bits == 0) {
        cr_assert_eq(gossip_decode(codec, table, swarm_table(s, fragment, table), blob, out), 0);
        return;
    }
    (void)!gossip_wanted_next(&r, &last, &block);
    while (swarm_next_block(s, fragment, codec, &b)) {
        if (b.index == block) {
            cr_assert_eq(gossip_decode_values(GOSSIP_CODEC_INT8, b.count, fixed, out + b.offset), 0);
            fixed += gossip_encoded_bytes(GOSSIP_CODEC_INT8, b.count);
            (void)!gossip_wanted_next(&r, &last, &block);
        } else if (sent) {
            lattice_sent_block(b.count, own + b.offset, blob.data + b.at, out + b.offset);
        } else {
            cr_assert(lattice_decode_block(bits, b.count, own + b.offset, blob.data + b.at, out + b.offset));
        }
    }
    cr_assert(fixed == repair.data + repair.len);
}

/* The merge thread: blob and repair must be the partner's, and when both sides have merged, their sum is the
 * snapshots'. */
static void swarm_merged(struct swarm *s, size_t node, uint64_t round)
{
    static float ours[SWARM_PARAMS], other[SWARM_PARAMS];
    struct swarm_node *n = &s->nodes[node];
    struct swarm_snapshot *own = &n->slots[round % SWARM_SLOTS];
    struct swarm_snapshot *theirs = &s->nodes[own->partner].slots[round % SWARM_SLOTS];
    const struct gossip_fragment *f = &s->layout.fragments[gossip_layout_fragment(&s->layout, round)];
    struct bytes none = bytes_of(NULL, 0);
    bool modular = gossip_codec_bits(own->codec) != 0, theirs_modular = gossip_codec_bits(theirs->codec) != 0;
    struct bytes wanted = theirs_modular ? bytes_of(own->list, own->list_len) : none;
    struct bytes repair = own->partner_list.len > 0 ? bytes_of(own->repair, own->repair_len) : none;
    cr_assert(own->round == round && theirs->round == round);
    cr_assert(own->partner_codec == theirs->codec && own->partner_blob.len == theirs->len);
    cr_assert_eq(memcmp(own->partner_blob.data, theirs->blob, theirs->len), 0,
                 "the blob is not what was sent");
    cr_assert(modular || own->partner_list.len == 0);
    swarm_values(s, round, own->codec, bytes_of(own->blob, own->len), true, own->theta, own->partner_list,
                 repair, ours);
    swarm_values(s, round, theirs->codec, own->partner_blob, false, own->theta, wanted, own->partner_repair,
                 other);
    for (size_t i = 0; i < f->count; i++)
        own->result[i] = own->theta[i] + 0.5f * (other[i] - ours[i]);
    memcpy(n->phi + f->offset, own->result, f->count * sizeof(float));
    own->merged = true;
    cr_assert_eq(gossip_merge_done(n->g, s->now, round, 0), 0);
    if (!theirs->merged)
        return;
    s->pair_checks++;
    for (size_t i = 0; i < f->count; i++) {
        float before = own->theta[i] + theirs->theta[i], after = own->result[i] + theirs->result[i];
        cr_assert(before - after < 1e-5f && after - before < 1e-5f, "sum of pair moved at %zu", i);
    }
}

#endif
