/* Blocks that do not decode: asked for, sent again, checked; refusals, late answers, lost and hostile frames.
 * What blobs hold does not matter to the core; here they are patterns. */
#include "gossip/two_cores.h"

enum { BLOCKS = (PARAMS + GOSSIP_BLOCK - 1) / GOSSIP_BLOCK, BLOCK_BYTES = GOSSIP_BLOCK + 4 };

static uint8_t lists[2][2 * BLOCKS], repairs[2][BLOCKS * BLOCK_BYTES];

/* Both send modular blobs of round 1, which are decoded by whoever answers. */
static void start_modular(void)
{
    start();
    low.codec = GOSSIP_CODEC_MOD3;
    high.codec = GOSSIP_CODEC_MOD2;
    begin(1);
    connect_ends(&low, &high);
    pump();
}

static int answer_with(struct end *e, uint64_t round, const uint32_t blocks[], size_t count, uint8_t list[])
{
    size_t len = gossip_indices_encode(count, blocks, list, 2 * BLOCKS);
    return gossip_set_wanted(e->g, now, round, bytes_of(list, len), count * BLOCK_BYTES, 50 + round);
}

/* Answers e's DECODE with these blocks. */
static int answer(struct end *e, const uint32_t blocks[], size_t count)
{
    int result = answer_with(e, 1, blocks, count, lists[e == &high]);
    events(e);
    return result;
}

/* Answers e's REPAIR with so many blocks. */
static int repair(struct end *e, size_t count)
{
    uint8_t *bytes = repairs[e == &high];
    memset(bytes, 0x40 + e->id.bytes[0], count * BLOCK_BYTES);
    int result = gossip_set_repair(e->g, now, 1, bytes_of(bytes, count * BLOCK_BYTES), 90);
    events(e);
    return result;
}

static const uint32_t some[3] = {0, 7, 130};

Test(repair, wrong_blocks_come_again_both_ways)
{
    start_modular();
    cr_assert(low.decodes == 1 && high.decodes == 1 && low.merges == 0);
    cr_assert(low.decode.codec == GOSSIP_CODEC_MOD2 && low.decode.round == 1 && low.decode.fragment == 0);
    cr_assert_eq(low.decode.blob.len, layout.fragment_bytes[0][GOSSIP_CODEC_MOD2]);
    cr_assert_eq(memcmp(low.decode.blob.data, high.blob, low.decode.blob.len), 0);
    cr_assert_eq(answer(&low, some, 3), 0);
    cr_assert_eq(answer(&low, some, 3), ERR_NOT_FOUND);
    pump();
    cr_assert(high.repairs == 1 && gossip_indices_decode(high.repair.list, BLOCKS, NULL, BLOCKS) == 3);
    cr_assert_eq(answer(&high, some, 2), 0);
    pump();
    cr_assert_eq(repair(&high, 3), 0);
    cr_assert_eq(repair(&high, 3), ERR_NOT_FOUND);
    pump();
    cr_assert(low.merges == 0 && high.merges == 0); /* high lacks its two blocks */
    cr_assert_eq(repair(&low, 2), 0);
    pump();
    cr_assert(low.merges == 1 && high.merges == 1);
    cr_assert_eq(low.merged.repair.len, 3 * BLOCK_BYTES);
    cr_assert_eq(memcmp(low.merged.repair.data, repairs[1], 3 * BLOCK_BYTES), 0);
    cr_assert_eq(memcmp(low.merged.blob.data, high.blob, low.merged.blob.len), 0);
    cr_assert_eq(gossip_indices_decode(low.merged.list, BLOCKS, NULL, BLOCKS), 2); /* of our blob */
    cr_assert_eq(high.merged.repair.len, 2 * BLOCK_BYTES);
    cr_assert_eq(gossip_indices_decode(high.merged.list, BLOCKS, NULL, BLOCKS), 3);
    cr_assert(low.releases == 3 && high.releases == 3);
    const struct gossip_counters *c = counted(&low);
    cr_assert(c->blocks_wanted == 3 && c->blocks_repaired == 2);
    cr_assert_eq(c->repair_bytes_sent, 3 + 2 * BLOCK_BYTES); /* distances 0, 6, 122 */
    stop();
}

Test(repair, nothing_wrong_needs_only_the_empty_list)
{
    start_modular();
    cr_assert_eq(answer(&low, some, 0), 0);
    pump();
    cr_assert_eq(answer(&high, some, 0), 0);
    pump();
    cr_assert(low.merges == 1 && high.merges == 1 && low.repairs == 0);
    cr_assert(low.merged.repair.len == 0 && low.merged.list.len == 0);
    cr_assert_eq(counted(&low)->repair_bytes_sent, 0);
    cr_assert(low.releases == 2 && high.releases == 2);
    cr_assert_eq(gossip_merge_done(low.g, now, 1, 0), 0);
    stop();
}

Test(repair, one_side_may_be_plain)
{
    start();
    low.codec = GOSSIP_CODEC_INT8;
    high.codec = GOSSIP_CODEC_MOD4;
    begin(1);
    connect_ends(&low, &high);
    pump();
    cr_assert(low.decodes == 1 && high.decodes == 0);
    cr_assert_eq(answer(&low, some, 1), 0);
    pump();
    cr_assert_eq(repair(&high, 1), 0);
    pump();
    cr_assert(low.merges == 1 && high.merges == 1);
    cr_assert(high.merged.codec == GOSSIP_CODEC_INT8 && high.merged.repair.len == 0);
    stop();
}

Test(repair, answers_that_make_no_sense_stay_owed)
{
    start_modular();
    uint32_t all[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++)
        all[i] = (uint32_t)i;
    cr_assert_eq(answer(&low, all, BLOCKS / 2 + 1), ERR_INVALID);
    cr_assert_eq(gossip_set_wanted(low.g, now, 1, bytes_of("\x80", 1), 260, 1), ERR_INVALID);
    cr_assert_eq(gossip_set_wanted(low.g, now, 1, bytes_of("\x05", 1), 0, 1), ERR_INVALID);
    cr_assert_eq(gossip_set_wanted(low.g, now, 1, bytes_of("\x05", 1), 261, 1), ERR_INVALID);
    cr_assert_eq(gossip_set_wanted(low.g, now, 1, bytes_of(NULL, 0), 260, 1), ERR_INVALID);
    cr_assert_eq(answer(&low, all, BLOCKS / 2), 0);
    pump();
    cr_assert_eq(repair(&high, BLOCKS / 2 + 1), ERR_INVALID);
    cr_assert_eq(repair(&high, 0), ERR_INVALID);
    cr_assert_eq(repair(&high, BLOCKS / 2), 0);
    cr_assert_eq(answer(&high, some, 0), 0);
    pump();
    cr_assert(low.merges == 1 && high.merges == 1);
    stop();
}

Test(repair, a_blob_that_hardly_decodes_is_refused_and_both_know)
{
    start_modular();
    cr_assert_eq(answer(&high, some, 0), 0); /* high holds ours already */
    pump();
    cr_assert_eq(gossip_refuse(low.g, now, 1), 0);
    cr_assert_eq(gossip_refuse(low.g, now, 1), ERR_NOT_FOUND);
    pump();
    cr_assert(low.last.solo == GOSSIP_SOLO_FAR && high.last.solo == GOSSIP_SOLO_FAR);
    cr_assert(id_equal(&low.last.peer, &high.id) && id_equal(&high.last.peer, &low.id));
    cr_assert_eq(counted(&high)->solo[GOSSIP_SOLO_UNCONFIRMED], 0); /* low has said that it does not merge */
    cr_assert(low.releases == 1 && high.releases == 2);
    stop();
}

Test(repair, the_blob_outlives_its_round_until_the_answer)
{
    start_modular();
    struct bytes blob = low.decode.blob;
    for (uint64_t round = 2; round <= 3; round++) { /* the other buffer goes round meanwhile */
        now += ROUND;
        memset(high.blob, (int)round, high.blob_len);
        begin(round);
        if (low.wants_open)
            connect_ends(&low, &high);
        pump();
        cr_assert_eq(low.decodes, round);
        if (round == 2) {
            cr_assert_eq(answer_with(&low, 2, some, 0, lists[0]), 0);
            cr_assert_eq(answer_with(&high, 2, some, 0, lists[1]), 0);
            pump();
            cr_assert_eq(gossip_merge_done(low.g, now, 2, 0), 0);
            cr_assert_eq(gossip_merge_done(high.g, now, 2, 0), 0);
        }
        cr_assert(blob.data[0] == 2 && blob.data[blob.len - 1] == 2); /* high's name, from round 1 */
    }
    cr_assert_eq(counted(&low)->solo[GOSSIP_SOLO_HERE], 1);
    cr_assert_eq(answer(&low, some, 3), ERR_STALE);
    cr_assert_eq(answer(&low, some, 3), ERR_NOT_FOUND);
    cr_assert_eq(gossip_refuse(low.g, now, 3), 0);
    cr_assert_eq(gossip_refuse(high.g, now, 1), 0); /* both owe nothing more */
    cr_assert_eq(low.g->buffers[0].use, GOSSIP_BUFFER_FREE);
    stop();
}

Test(repair, unanswered_blobs_cost_rounds_not_memory)
{
    start_modular();
    for (uint64_t round = 2; round <= 5; round++) {
        now += ROUND;
        begin(round);
        if (low.wants_open)
            connect_ends(&low, &high);
        low.wants_open = false;
        pump();
    }
    cr_assert_eq(low.decodes, 2);
    cr_assert_eq(counted(&low)->solo[GOSSIP_SOLO_NO_BUFFER], 3);
    stop();
}

Test(repair, a_deadline_strikes_whoever_is_waited_for)
{
    start_modular();
    cr_assert_eq(answer(&low, some, 1), 0);
    pump();
    cr_assert(high.repairs == 1 && gossip_deadline_ns(low.g) <= now + ROUND / 2);
    cr_assert_eq(answer(&high, some, 0), 0);
    pump();
    now += ROUND;
    gossip_tick(low.g, now);
    gossip_tick(high.g, now);
    events(&low);
    events(&high);
    cr_assert_eq(low.last.solo, GOSSIP_SOLO_DEADLINE);
    /* High has committed, but low cannot have: it lacks the block that high still owes. */
    cr_assert_eq(high.last.solo, GOSSIP_SOLO_HERE);
    cr_assert_eq(repair(&high, 1), ERR_STALE);
    cr_assert(low.releases == 2 && high.releases == 2);
    stop();
}

/* Plays the round to its end with three wrong blocks here and two there. */
static void play(void)
{
    for (int turn = 0; turn < 3; turn++) {
        if (low.decodes == 1)
            (void)!answer(&low, some, 3);
        if (high.decodes == 1)
            (void)!answer(&high, some, 2);
        pump();
        if (high.repairs == 1)
            (void)!repair(&high, 3);
        if (low.repairs == 1)
            (void)!repair(&low, 2);
        pump();
    }
    now += ROUND;
    gossip_tick(low.g, now);
    gossip_tick(high.g, now);
    events(&low);
    events(&high);
}

Test(repair, a_break_anywhere_leaves_nobody_merged_alone_unknown)
{
    unsigned alone = 0, merged = 0;
    for (uint64_t k = 0; k < 14; k++) {
        for (int side = 0; side < 2; side++) {
            start();
            low.codec = GOSSIP_CODEC_MOD3;
            high.codec = GOSSIP_CODEC_MOD2;
            (side == 0 ? &low : &high)->dropped_after = k;
            begin(1);
            connect_ends(&low, &high);
            pump();
            play();
            cr_assert_eq(low.merges + low.solos, 1);
            cr_assert_eq(high.merges + high.solos, 1);
            merged += low.merges == 1 && high.merges == 1;
            if (low.merges != high.merges) {
                const struct end *left = low.merges == 1 ? &high : &low;
                cr_assert_eq(counted(left)->solo[GOSSIP_SOLO_UNCONFIRMED], 1, "k %d", (int)k);
                alone++;
            }
            stop();
        }
    }
    cr_assert(alone > 0 && merged > 0);
}

/* low is played by the test: invites, sends its blob and digest, has high's. */
static void play_low(void)
{
    start();
    low.codec = GOSSIP_CODEC_MOD3;
    high.codec = GOSSIP_CODEC_MOD2;
    low.mute = true;
    begin(1);
    uint64_t stream = connect_ends(&low, &high);
    struct gossip_message m = invite_of(1);
    inject(&high, stream, &m);
    pump();
    cr_assert_eq((int)high.g->lanes[1].out.state, GOSSIP_OUT_SENT);
    cr_assert_eq(high.g->lanes[1].stream->queued, 0);
}

Test(repair, hostile_frames_of_the_repair_stage_end_the_exchange)
{
    static uint8_t data[GOSSIP_PIECE_BYTES];
    data[0] = BLOCKS; /* as a list: a block that is not there */
    struct gossip_message bad[] = {
        {.type = GOSSIP_WANT, .bytes = bytes_of(data, 1), .length = 1},
        {.type = GOSSIP_WANT, .bytes = bytes_of(data + 1, 1), .length = 3}, /* the rest is missing */
        {.type = GOSSIP_WANT, .index = 1, .bytes = bytes_of(data + 1, 1), .length = 1},
        {.type = GOSSIP_WANT,
         .bytes = bytes_of(data + 1, 20000),
         .length = 20000},                                                      /* more than blocks allow */
        {.type = GOSSIP_WANT, .bytes = bytes_of(data + 1, 100), .length = 100}, /* more than half of them */
        {.type = GOSSIP_COMMIT},                                                /* before WANT */
        {.type = GOSSIP_REPAIR, .bytes = bytes_of(data, 260)},
        {.type = GOSSIP_BUSY, .reason = GOSSIP_BUSY_STALE},
    };
    for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++) {
        play_low();
        inject(&high, 1, &bad[k]);
        cr_assert_eq(counted(&high)->solo[GOSSIP_SOLO_MALFORMED], 1, "case %zu", k);
        stop();
    }
}

Test(repair, a_repair_is_of_the_agreed_length_and_right)
{
    struct gossip_message bad[] = {
        {.type = GOSSIP_REPAIR, .bytes = bytes_of(repairs[0], BLOCK_BYTES - 1)},
        {.type = GOSSIP_REPAIR, .bytes = bytes_of(repairs[0], BLOCK_BYTES + 1)},
        {.type = GOSSIP_REPAIR, .index = 1, .bytes = bytes_of(repairs[0], BLOCK_BYTES)},
        {.type = GOSSIP_DIGEST},
        {.type = GOSSIP_PIECE, .bytes = bytes_of(repairs[0], BLOCK_BYTES)},
    };
    for (size_t k = 0; k <= sizeof bad / sizeof bad[0]; k++) {
        start_modular();
        low.mute = true;
        cr_assert_eq(answer(&high, some, 1), 0);
        pump();
        cr_assert_eq((int)high.g->lanes[1].in.state, GOSSIP_IN_REPAIRING);
        if (k < sizeof bad / sizeof bad[0]) {
            inject(&high, 1, &bad[k]);
        } else { /* right length, wrong digest */
            struct gossip_message m = {.type = GOSSIP_REPAIR, .bytes = bytes_of(repairs[0], BLOCK_BYTES)};
            inject(&high, 1, &m);
            m = (struct gossip_message){.type = GOSSIP_DIGEST};
            cr_assert_eq(high.solos, 0);
            inject(&high, 1, &m);
        }
        cr_assert_eq(counted(&high)->solo[GOSSIP_SOLO_MALFORMED], 1, "case %zu", k);
        stop();
    }
}

Test(repair, long_lists_and_repairs_go_out_in_several_frames)
{
    enum { MANY = 130000 }; /* blocks; half of them is a list of more than one piece */
    size_t count = MANY / 2, cap = gossip_indices_bytes_max(MANY, count), bytes = count * BLOCK_BYTES;
    uint8_t *list = malloc(cap), *fixed = malloc(bytes);
    uint32_t *blocks = malloc(count * sizeof *blocks);
    start_with((size_t)MANY * GOSSIP_BLOCK, 1, 1, 1u << GOSSIP_CODEC_MOD2);
    begin(1);
    connect_ends(&low, &high);
    pump();
    cr_assert_eq(low.decodes, 1);
    for (size_t i = 0; i < count; i++)
        blocks[i] = (uint32_t)(2 * i + 1);
    size_t len = gossip_indices_encode(count, blocks, list, cap);
    for (size_t i = 0; i < bytes; i++)
        fixed[i] = (uint8_t)(i * 13 + i / 1000);
    cr_assert_gt(len, GOSSIP_PIECE_BYTES);
    cr_assert_eq(gossip_set_wanted(low.g, now, 1, bytes_of(list, len), bytes, 5), 0);
    cr_assert_eq(gossip_set_wanted(high.g, now, 1, bytes_of(NULL, 0), 0, 5), 0);
    pump();
    cr_assert(high.repairs == 1 && high.repair.list.len == len);
    cr_assert_eq(memcmp(high.repair.list.data, list, len), 0);
    cr_assert_eq(gossip_set_repair(high.g, now, 1, bytes_of(fixed, bytes), 6), 0);
    pump();
    cr_assert(low.merges == 1 && high.merges == 1 && low.merged.repair.len == bytes);
    cr_assert_eq(memcmp(low.merged.repair.data, fixed, bytes), 0);
    cr_assert_eq(counted(&low)->repair_bytes_received, bytes);
    stop();
    free(list);
    free(blocks);
    free(fixed);
}
