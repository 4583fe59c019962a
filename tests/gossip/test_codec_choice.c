/* The choice must be cheap bytes where partners are known to be close, int8 wherever the modular codec cannot
 * know its range, and never more precision than asked for; the memory must stay bounded and forget. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "gossip/codec.h"
#include "gossip/codec_choice.h"
#include "numbers.h"

static struct gossip_nearness memory;
static uint64_t sizes[GOSSIP_CODEC_COUNT];

static struct gossip_choice_input usual(void)
{
    for (int c = 0; c < GOSSIP_CODEC_COUNT; c++)
        sizes[c] = gossip_encoded_bytes((enum gossip_codec)c, 1000000);
    return (struct gossip_choice_input){.automatic = true,
                                        .accepted = (1u << GOSSIP_CODEC_COUNT) - 1,
                                        .close = true,
                                        .bytes_per_s = 1e6,
                                        .seconds = 10,
                                        .rtt_s = 0.04,
                                        .bytes = sizes};
}

static struct id peer(uint32_t k)
{
    struct id id = {{0}};
    store_le32(id.bytes, k + 1);
    return id;
}

static void meet(uint32_t k, uint64_t round, unsigned fragment, float distance, float relative, float share)
{
    struct gossip_encounter seen = {peer(k), round, fragment, distance, relative, share};
    gossip_nearness_note(&memory, &seen);
}

static bool close_to(uint32_t k, uint64_t round)
{
    struct id id = peer(k);
    return gossip_nearness_close(&memory, &id, 0, round);
}

Test(codec_choice, close_partners_get_three_bits_and_strangers_int8)
{
    struct gossip_choice_input in = usual();
    cr_assert_eq(gossip_codec_choose(&in), GOSSIP_CODEC_MOD3);
    in.bytes_per_s = 1e12; /* bytes to spare are spent on frequency */
    cr_assert_eq(gossip_codec_choose(&in), GOSSIP_CODEC_MOD3);
    in.bytes_per_s = 0; /* not known */
    cr_assert_eq(gossip_codec_choose(&in), GOSSIP_CODEC_MOD3);
    in.close = false;
    cr_assert_eq(gossip_codec_choose(&in), GOSSIP_CODEC_INT8);
}

Test(codec_choice, a_line_that_cannot_carry_three_bits_in_time_gets_two)
{
    struct gossip_choice_input in = usual();
    in.bytes_per_s = 50e3; /* mod3: 391 KB in 7.8 s and 3 round trips; mod2 266 KB */
    cr_assert_eq(gossip_codec_choose(&in), GOSSIP_CODEC_MOD3);
    in.wrong_share = 0.12; /* repairs of 122 KB: 10.2 s */
    cr_assert_eq(gossip_codec_choose(&in), GOSSIP_CODEC_MOD2);
    in.wrong_share = 0;
    in.seconds = 7;
    cr_assert_eq(gossip_codec_choose(&in), GOSSIP_CODEC_MOD2);
    in.seconds = 1; /* neither fits */
    cr_assert_eq(gossip_codec_choose(&in), GOSSIP_CODEC_MOD2);
    in.accepted &= ~(1u << GOSSIP_CODEC_MOD2);
    cr_assert_eq(gossip_codec_choose(&in), GOSSIP_CODEC_MOD3);
    in.accepted = 1u << GOSSIP_CODEC_INT8;
    cr_assert_eq(gossip_codec_choose(&in), GOSSIP_CODEC_INT8);
}

Test(codec_choice, a_codec_named_by_the_run_is_kept_unless_it_cannot_work)
{
    struct gossip_choice_input in = usual();
    in.automatic = false;
    for (int c = 0; c < GOSSIP_CODEC_COUNT; c++) {
        in.asked = (enum gossip_codec)c;
        in.close = true;
        in.accepted = (1u << GOSSIP_CODEC_COUNT) - 1;
        cr_assert_eq(gossip_codec_choose(&in), in.asked);
        in.close = false;
        cr_assert_eq(gossip_codec_choose(&in), c <= GOSSIP_CODEC_INT8 ? in.asked : GOSSIP_CODEC_INT8);
        in.close = in.ending = true;
        cr_assert_eq(gossip_codec_choose(&in), in.asked == GOSSIP_CODEC_MOD2 ? GOSSIP_CODEC_MOD3 : in.asked);
        in.close = in.ending = false;
        in.accepted = 1u << GOSSIP_CODEC_INT8;
        cr_assert_eq(gossip_codec_choose(&in), GOSSIP_CODEC_INT8);
    }
}

Test(codec_choice, nonsense_counts_as_not_known)
{
    const double nonsense[4] = {(double)NAN, (double)INFINITY, -1.0, 0.0};
    for (int i = 0; i < 256; i++) {
        struct gossip_choice_input in = usual();
        in.bytes_per_s = nonsense[i & 3];
        in.seconds = nonsense[i >> 2 & 3];
        in.rtt_s = nonsense[i >> 4 & 3];
        in.wrong_share = nonsense[i >> 6 & 3];
        enum gossip_codec codec = gossip_codec_choose(&in);
        cr_assert(codec == GOSSIP_CODEC_MOD3 || codec == GOSSIP_CODEC_MOD2);
        cr_assert(!isnan(gossip_codec_seconds(&in, codec)));
    }
}

Test(codec_choice, partners_are_close_after_a_meeting_and_far_after_trouble)
{
    struct id first = peer(1);
    cr_assert_not(close_to(1, 5)); /* first contact */
    meet(1, 5, 0, 0.001f, 0.01f, 0.0f);
    cr_assert(close_to(1, 6) && !close_to(2, 6));
    cr_assert(close_to(1, 5 + GOSSIP_NEARNESS_ROUNDS) && !close_to(1, 6 + GOSSIP_NEARNESS_ROUNDS));
    meet(1, 7, 0, 0.001f, 0.01f, 0.36f); /* many wrong blocks: int8 once, then again */
    cr_assert_not(close_to(1, 8));
    meet(1, 8, 0, 0.001f, 0.01f, 0.0f);
    cr_assert(close_to(1, 9));
    meet(1, 9, 0, 0.1f, 0.3f, 0.0f);
    cr_assert_not(close_to(1, 10));
    meet(1, 10, 0, 0.001f, 0.01f, 0.1f);
    gossip_nearness_far(&memory, &first, 0, 11);
    cr_assert_not(close_to(1, 12));
    meet(1, 12, 0, 0.001f, 0.01f, 0.0f);
    gossip_nearness_forget(&memory, &first); /* it joined again */
    cr_assert_not(close_to(1, 13));
    meet(1, 13, 0, 0.001f, 0.01f, 0.0f);
    meet(2, 13, 0, 0.001f, 0.01f, 0.0f);
    gossip_nearness_forget(&memory, NULL); /* a partition healed */
    cr_assert(!close_to(1, 14) && !close_to(2, 14));
}

/* One fragment that drifted away, met every few rounds with others in between. */
Test(codec_choice, a_far_fragment_stays_far_whatever_the_others_are)
{
    struct id id = peer(1);
    meet(1, 5, 1, 0.001f, 0.01f, 0.1f);
    cr_assert(gossip_nearness_close(&memory, &id, 0, 6)); /* not met in it: as the others */
    gossip_nearness_far(&memory, &id, 0, 6);
    for (unsigned fragment = 1; fragment < GOSSIP_FRAGMENTS_MAX; fragment++)
        meet(1, 6 + fragment, fragment, 0.001f, 0.01f, 0.1f);
    for (unsigned fragment = 0; fragment < GOSSIP_FRAGMENTS_MAX; fragment++) {
        cr_assert_eq(gossip_nearness_close(&memory, &id, fragment, 20), fragment != 0);
        cr_assert_float_eq(gossip_nearness_wrong(&memory, &id, fragment), fragment == 0 ? 1 : 0.1, 1e-6);
    }
    meet(1, 21, 0, 0.001f, 0.01f, 0.0f); /* as int8 */
    cr_assert(gossip_nearness_close(&memory, &id, 0, 22));
    gossip_nearness_forget(&memory, &id);
    gossip_nearness_far(&memory, &id, 2, 23); /* nothing else is known of it */
    cr_assert_not(gossip_nearness_close(&memory, &id, 0, 24));
}

Test(codec_choice, the_range_grows_with_a_partner_that_was_further_away)
{
    struct id near = peer(1), far = peer(2), stranger = peer(3);
    meet(2, 1, 3, 0.004f, 0.04f, 0.0f);
    meet(1, 2, 3, 0.001f, 0.01f, 0.0f);
    cr_assert_float_eq(gossip_nearness_scale(&memory, &far, 3), 4.0f, 1e-5);
    cr_assert_eq(gossip_nearness_scale(&memory, &near, 3), 1.0f);
    cr_assert_eq(gossip_nearness_scale(&memory, &stranger, 3), 1.0f);
    cr_assert_eq(gossip_nearness_scale(&memory, &far, 2), 1.0f); /* other fragment: not known */
    meet(1, 3, 3, 1e-30f, 0.01f, 0.0f);
    cr_assert_eq(gossip_nearness_scale(&memory, &far, 3), 16.0f);
    meet(1, 4, 3, 0.0f, 0.0f, 0.0f);
    cr_assert_eq(gossip_nearness_scale(&memory, &far, 3), 1.0f);
}

Test(codec_choice, memory_is_bounded_and_drops_who_was_met_longest_ago)
{
    for (uint32_t k = 0; k < 3 * GOSSIP_NEARNESS_PEERS; k++)
        meet(k, 100 + k, k % GOSSIP_FRAGMENTS_MAX, 0.001f, 0.01f, 0.0f);
    for (uint32_t k = 0; k < 3 * GOSSIP_NEARNESS_PEERS; k++)
        cr_assert_eq(close_to(k, 900), k >= 2 * GOSSIP_NEARNESS_PEERS, "%u", k);
}

/* What training sends is too coarse for the end of a run: exact where the line takes it, else what follows
 * the distance, never two bits. */
Test(codec_choice, the_end_of_a_run_is_exact_or_follows_the_distance)
{
    struct gossip_choice_input in = usual();
    in.bytes_per_s = 1e9;
    for (int c = 0; c < GOSSIP_CODEC_COUNT; c++) {
        in.automatic = false;
        in.asked = (enum gossip_codec)c;
        cr_assert_eq(gossip_codec_choose_exact(&in), GOSSIP_CODEC_FP32);
    }
    in.bytes_per_s = 2e5; /* 4 MB do not fit into 10 s, half a MB does */
    in.asked = GOSSIP_CODEC_INT8;
    cr_assert_eq(gossip_codec_choose_exact(&in), GOSSIP_CODEC_MOD4);
    in.asked = GOSSIP_CODEC_MOD3;
    cr_assert_eq(gossip_codec_choose_exact(&in), GOSSIP_CODEC_MOD3);
    in.asked = GOSSIP_CODEC_MOD2;
    cr_assert_eq(gossip_codec_choose_exact(&in), GOSSIP_CODEC_MOD4);
    in.bytes_per_s = 1e3;
    cr_assert_eq(gossip_codec_choose_exact(&in), GOSSIP_CODEC_MOD3);
    in.bytes_per_s = 0;
    cr_assert_eq(gossip_codec_choose_exact(&in), GOSSIP_CODEC_MOD4);
    in.close = false;
    cr_assert_eq(gossip_codec_choose_exact(&in), GOSSIP_CODEC_INT8);
    in.close = true;
    in.accepted = 1u << GOSSIP_CODEC_INT8;
    in.bytes_per_s = 1e9;
    cr_assert_eq(gossip_codec_choose_exact(&in), GOSSIP_CODEC_INT8);
}
