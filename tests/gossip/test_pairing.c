/* Pairs must be mutual, cover everybody, not repeat within eight rounds of nine or more members, and depend
 * on nothing but run, round and view. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/hash.h"
#include "gossip/pairing.h"

static struct gossip_view view;
static struct id run;

static struct id numbered(uint64_t i)
{
    struct id id;
    hash_content(bytes_of(&i, sizeof i), &id);
    return id;
}

static void build(size_t count)
{
    static struct gossip_member_state states[GOSSIP_MEMBERS_MAX];
    for (size_t i = 0; i < count; i++)
        states[i] = (struct gossip_member_state){.id = numbered(i), .expires_ms = 1};
    gossip_view_build(&view, 0, 0, states, count);
    cr_assert_eq(view.count, count);
    run = numbered(1000000);
}

static size_t index_of(const struct id *id)
{
    const struct gossip_view_entry *entry = gossip_view_find(&view, id);
    cr_assert_not_null(entry);
    return (size_t)(entry - view.entries);
}

/* Partner of each, or the count for the one that sits out. */
static void pairs_of(uint64_t round, size_t partners[])
{
    size_t alone = 0;
    for (size_t i = 0; i < view.count; i++) {
        struct id partner;
        bool paired = gossip_pair(&run, round, &view, &view.entries[i].id, &partner);
        partners[i] = paired ? index_of(&partner) : view.count;
        alone += !paired;
    }
    cr_assert_eq(alone, view.count % 2);
    for (size_t i = 0; i < view.count; i++) {
        if (partners[i] == view.count)
            continue;
        cr_assert_neq(partners[i], i);
        cr_assert_eq(partners[partners[i]], i);
    }
}

Test(pairing, pairs_are_mutual_and_complete_at_every_size)
{
    size_t partners[GOSSIP_MEMBERS_MAX];
    size_t sizes[] = {2, 3, 4, 5, 7, 8, 9, 10, 11, 16, 33, 64, 255, 256};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        build(sizes[k]);
        for (uint64_t round = 0; round < (sizes[k] > 100 ? 3 : 30); round++)
            pairs_of(round, partners);
    }
}

Test(pairing, nobody_meets_a_partner_again_within_eight_rounds)
{
    size_t sizes[] = {9, 10, 11, 12, 16, 17};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        uint64_t met[17][17];
        size_t partners[GOSSIP_MEMBERS_MAX];
        build(sizes[k]);
        memset(met, 0, sizeof met);
        for (uint64_t round = 1; round <= 60; round++) {
            pairs_of(round, partners);
            for (size_t i = 0; i < view.count; i++) {
                size_t j = partners[i];
                if (j == view.count)
                    continue;
                cr_assert(met[i][j] == 0 || round - met[i][j] > 8, "%zu members: %zu and %zu", sizes[k], i,
                          j);
                met[i][j] = round;
            }
        }
        for (size_t i = 0; i < view.count; i++)
            for (size_t j = 0; j < view.count; j++)
                cr_assert(i == j || met[i][j] != 0, "%zu and %zu never met", i, j);
    }
}

Test(pairing, information_spreads_like_a_hypercube)
{
    /* In consecutive rounds a piece of news must reach nearly doubling numbers, not creep along a ring. */
    size_t partners[GOSSIP_MEMBERS_MAX];
    build(64);
    for (uint64_t first = 0; first < 20; first++) {
        bool knows[64] = {true};
        size_t reached = 1;
        for (uint64_t round = first; round < first + 9; round++) {
            bool next[64];
            pairs_of(round, partners);
            memcpy(next, knows, sizeof next);
            for (size_t i = 0; i < 64; i++)
                next[partners[i]] = next[partners[i]] || knows[i];
            memcpy(knows, next, sizeof knows);
        }
        for (size_t i = 1; i < 64; i++)
            reached += knows[i];
        cr_assert_geq(reached, 40, "from round %llu: %zu", (unsigned long long)first, reached);
    }
}

Test(pairing, small_swarms_shuffle)
{
    size_t partners[GOSSIP_MEMBERS_MAX];
    size_t met[4] = {0};
    build(4);
    for (uint64_t round = 0; round < 300; round++) {
        pairs_of(round, partners);
        met[partners[0]]++;
    }
    cr_assert_eq(met[0], 0);
    for (size_t i = 1; i < 4; i++)
        cr_assert(met[i] > 70 && met[i] < 130, "%zu", met[i]);
}

Test(pairing, strangers_and_lonely_members_are_not_paired)
{
    struct id stranger = numbered(777777), partner;
    build(1);
    cr_assert_not(gossip_pair(&run, 1, &view, &view.entries[0].id, &partner));
    for (size_t count = 2; count < 20; count++) {
        build(count);
        cr_assert_not(gossip_pair(&run, 1, &view, &stranger, &partner));
    }
    struct id low = {{1}}, high = {{2}};
    cr_assert(gossip_pair_invites(&low, &high));
    cr_assert_not(gossip_pair_invites(&high, &low));
}

Test(pairing, another_run_pairs_differently)
{
    struct id other = numbered(5), first, second;
    size_t same = 0;
    build(16);
    for (uint64_t round = 0; round < 60; round++) {
        cr_assert(gossip_pair(&run, round, &view, &view.entries[0].id, &first));
        cr_assert(gossip_pair(&other, round, &view, &view.entries[0].id, &second));
        same += id_equal(&first, &second);
    }
    cr_assert_lt(same, 20);
}
