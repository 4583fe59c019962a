/* Register values survive the round trip, hostile ones are refused, and the view keeps exactly who counts. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gossip/members.h"

static struct gossip_member full_member(void)
{
    struct gossip_member m = {
        .joined_round = GOSSIP_ROUND_MAX, .codecs = 7, .addr_count = GOSSIP_MEMBER_ADDRS_MAX};
    for (size_t i = 0; i < m.addr_count; i++)
        cr_assert_eq(net_addr_parse("[2001:db8::7]:4242", &m.addrs[i]), 0);
    memset(m.name, 'x', sizeof m.name - 1);
    m.speed = (struct gossip_speed){.bytes_class = 63, .steps_class = 62};
    m.speed_before = (struct gossip_speed){.bytes_class = 61, .steps_class = 60};
    m.speed_round = GOSSIP_ROUND_MAX;
    return m;
}

Test(members, member_round_trip_truncation_and_size)
{
    struct gossip_member in = full_member(), out;
    uint8_t value[GOSSIP_MEMBER_VALUE_MAX];
    int len = gossip_member_encode(&in, value, sizeof value);
    cr_assert_gt(len, 0, "the largest value fits its limit");
    cr_assert_eq(gossip_member_decode(bytes_of(value, (size_t)len), &out), 0);
    cr_assert_eq(out.joined_round, in.joined_round);
    cr_assert_eq(out.addr_count, in.addr_count);
    cr_assert(net_addr_equal(&out.addrs[7], &in.addrs[7]));
    cr_assert_str_eq(out.name, in.name);
    cr_assert_eq(memcmp(&out.speed, &in.speed, sizeof in.speed), 0);
    cr_assert_eq(memcmp(&out.speed_before, &in.speed_before, sizeof in.speed), 0);
    cr_assert_eq(out.speed_round, in.speed_round);
    for (size_t cut = 0; cut < (size_t)len; cut++) {
        uint8_t *exact = malloc(cut + 1);
        memcpy(exact, value, cut);
        cr_assert_eq(gossip_member_decode(bytes_of(exact, cut), &out), ERR_MALFORMED, "cut at %zu", cut);
        free(exact);
    }
    cr_assert_eq(gossip_member_encode(&in, value, (size_t)len - 1), ERR_TOO_LARGE);
    in.name[sizeof in.name - 1] = 'x';
    cr_assert_eq(gossip_member_encode(&in, value, sizeof value), ERR_INVALID);
    in = full_member();
    in.addr_count++;
    cr_assert_eq(gossip_member_encode(&in, value, sizeof value), ERR_INVALID);
    in = full_member();
    in.speed.steps_class = 64;
    cr_assert_eq(gossip_member_encode(&in, value, sizeof value), ERR_INVALID);
}

Test(members, values_of_members_without_speed_are_read)
{
    static const uint8_t old[] = {0x82, 0x01, 0x10, 0x02, 0x07},
                         wrong[] = {0x83, 0x01, 0x10, 0x02, 0x07, 0x05, 0x40};
    struct gossip_member out;
    cr_assert_eq(gossip_member_decode(bytes_of(old, sizeof old), &out), 0);
    cr_assert(out.speed.bytes_class == 0 && out.speed.steps_class == 0 && out.speed_round == 0);
    cr_assert_eq(gossip_member_decode(bytes_of(wrong, sizeof wrong), &out), ERR_MALFORMED, "class 64");
}

Test(members, a_speed_class_changes_seldom_and_later)
{
    struct gossip_member m = {0};
    struct gossip_view seen;
    cr_assert_not(gossip_member_measure(&m, 5, 0, (double)NAN), "nothing known");
    cr_assert(gossip_member_measure(&m, 5, 1000000, 0.5));
    cr_assert_eq(m.speed.bytes_class, 20, "2^19 to 2^20");
    cr_assert_eq(m.speed.steps_class, 10, "512 steps in 1024 s");
    cr_assert_eq(m.speed_round, 5 + 2 * GOSSIP_EPOCH_ROUNDS);
    cr_assert_not(gossip_member_measure(&m, 20, 10, 0.5), "the last change does not count yet");
    cr_assert_not(gossip_member_measure(&m, 21, 1200000, 0.45),
                  "a quarter of a class either way is the same");
    cr_assert(gossip_member_measure(&m, 21, 1300000, 0.45));
    cr_assert(m.speed.bytes_class == 21 && m.speed_before.bytes_class == 20 && m.speed.steps_class == 10);
    for (uint64_t round = 36; round < 39; round++) {
        struct gossip_member_state s = {.progress_round = round,
                                        .expires_ms = 1,
                                        .speed = m.speed,
                                        .speed_before = m.speed_before,
                                        .speed_round = m.speed_round};
        gossip_view_build(&seen, round, 0, &s, 1);
        cr_assert_eq(seen.entries[0].speed.bytes_class, round < 37 ? 20 : 21);
    }
    cr_assert(gossip_member_measure(&m, 40, 1e300, 1e-300));
    cr_assert(m.speed.bytes_class == GOSSIP_SPEED_CLASS_MAX && m.speed.steps_class == 1);
}

Test(members, progress_round_trip_and_truncation)
{
    struct gossip_progress in = {.round = GOSSIP_ROUND_MAX,
                                 .tokens = UINT64_MAX,
                                 .train_loss = 2.5,
                                 .val_loss = (double)NAN,
                                 .merges = UINT64_MAX,
                                 .skipped = UINT64_MAX,
                                 .ending = GOSSIP_ENDING_DONE,
                                 .spread = 0.125,
                                 .chain = UINT64_MAX};
    struct gossip_progress out;
    uint8_t value[GOSSIP_PROGRESS_VALUE_MAX];
    memset(in.phi.bytes, 0xee, ID_BYTES);
    int len = gossip_progress_encode(&in, value, sizeof value);
    cr_assert_gt(len, 0);
    cr_assert_eq(gossip_progress_decode(bytes_of(value, (size_t)len), &out), 0);
    cr_assert(out.round == in.round && out.tokens == in.tokens && out.merges == in.merges);
    cr_assert_eq(out.train_loss, 2.5);
    cr_assert(isnan(out.val_loss));
    cr_assert(id_equal(&out.phi, &in.phi));
    cr_assert(out.ending == GOSSIP_ENDING_DONE && out.spread == 0.125 && out.chain == UINT64_MAX);
    for (size_t cut = 0; cut < (size_t)len; cut++)
        cr_assert_eq(gossip_progress_decode(bytes_of(value, cut), &out), ERR_MALFORMED, "cut at %zu", cut);
    in.train_loss = (double)INFINITY;
    len = gossip_progress_encode(&in, value, sizeof value);
    cr_assert_eq(gossip_progress_decode(bytes_of(value, (size_t)len), &out), 0);
    cr_assert(isnan(out.train_loss));
    in.round++;
    cr_assert_eq(gossip_progress_encode(&in, value, sizeof value), ERR_INVALID);
}

/* While a run trains its register is the one that older versions wrote; a spread that is none is not told. */
Test(members, progress_says_nothing_of_the_end_before_it)
{
    struct gossip_progress in = {.round = 3, .spread = 0.5};
    struct gossip_progress out = {.ending = GOSSIP_ENDING_OPEN, .spread = 1, .chain = 1};
    uint8_t value[GOSSIP_PROGRESS_VALUE_MAX];
    int len = gossip_progress_encode(&in, value, sizeof value);
    cr_assert_gt(len, 0);
    cr_assert_eq(value[0], 0x87);
    cr_assert_eq(gossip_progress_decode(bytes_of(value, (size_t)len), &out), 0);
    cr_assert(out.ending == GOSSIP_ENDING_NONE && isnan(out.spread) && out.chain == 0);
    in.ending = GOSSIP_ENDING_SETTLED;
    in.spread = -1;
    len = gossip_progress_encode(&in, value, sizeof value);
    cr_assert_eq(gossip_progress_decode(bytes_of(value, (size_t)len), &out), 0);
    cr_assert(out.ending == GOSSIP_ENDING_SETTLED && isnan(out.spread));
    in.ending = GOSSIP_ENDING_COUNT;
    cr_assert_eq(gossip_progress_encode(&in, value, sizeof value), ERR_INVALID);
}

static struct gossip_view view;

static struct gossip_member_state state(uint8_t name, uint64_t joined, uint64_t progress, uint64_t expires)
{
    struct gossip_member_state s = {
        .joined_round = joined, .progress_round = progress, .expires_ms = expires};
    s.id.bytes[0] = name;
    return s;
}

Test(members, view_keeps_who_counts)
{
    struct gossip_member_state states[] = {
        state(9, 0, 100, 10),   state(3, 0, 92, 10), /* 8 behind: live */
        state(4, 0, 91, 10),                         /* 9 behind: silent */
        state(5, 92, 100, 10),                       /* joined 8 rounds ago: counts */
        state(6, 93, 100, 10),                       /* not yet */
        state(7, 0, 100, 5),                         /* expired */
        state(8, 200, 300, 10),                      /* joined in the future */
        state(3, 0, 95, 10),                         /* again, with more progress */
        state(2, 0, 120, 10),                        /* ahead of us */
    };
    gossip_view_build(&view, 100, 5, states, sizeof states / sizeof states[0]);
    uint8_t expected[] = {2, 3, 5, 9};
    cr_assert_eq(view.count, sizeof expected);
    for (size_t i = 0; i < view.count; i++)
        cr_assert_eq(view.entries[i].id.bytes[0], expected[i]);
    cr_assert_eq(view.entries[1].progress_round, 95);
    cr_assert_not_null(gossip_view_find(&view, &states[0].id));
    cr_assert_null(gossip_view_find(&view, &states[2].id));
}

Test(members, view_does_not_depend_on_the_order_and_is_capped)
{
    static struct gossip_member_state states[GOSSIP_MEMBERS_MAX + 50];
    struct id hash;
    size_t count = GOSSIP_MEMBERS_MAX + 50;
    for (size_t i = 0; i < count; i++) {
        states[i] = state(0, 0, 1, 1);
        states[i].id.bytes[1] = (uint8_t)(i >> 8);
        states[i].id.bytes[2] = (uint8_t)i;
    }
    gossip_view_build(&view, 1, 0, states, count);
    cr_assert_eq(view.count, GOSSIP_MEMBERS_MAX);
    cr_assert_eq(view.entries[GOSSIP_MEMBERS_MAX - 1].id.bytes[2], GOSSIP_MEMBERS_MAX - 1);
    hash = view.hash;
    for (size_t i = 0; i < count / 2; i++) {
        struct gossip_member_state held = states[i];
        states[i] = states[count - 1 - i];
        states[count - 1 - i] = held;
    }
    gossip_view_build(&view, 1, 0, states, count);
    cr_assert(id_equal(&hash, &view.hash));
    gossip_view_build(&view, 1, 0, states, 10);
    cr_assert_not(id_equal(&hash, &view.hash));
    gossip_view_build(&view, 1, 0, states, 0);
    cr_assert_eq(view.count, 0);
}
