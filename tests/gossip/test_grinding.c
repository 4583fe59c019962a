/* What choosing one's id (or claiming a speed) wins: meetings with a victim, beside an honest member's share.
 * The plain hash order that we do not use is measured for comparison, with and without the epoch that a join
 * waits, in which one other member is replaced.  For gossip_pair an id only decides a place in an order: the
 * most that any place can get is counted, which is more than any number of tries finds.  --verbose prints the
 * table. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "gossip/pairing.h"

enum { N = 16, ROUNDS = 500, TRIES = 512, WINDOW = 8 };

static struct id others[ROUNDS][N]; /* [.][0] is the victim's, [N - 1] the replacement's */

static struct id drawn(uint64_t round, uint64_t member)
{
    uint64_t both[2] = {round, member};
    struct id out;
    hash_content(bytes_of(both, sizeof both), &out);
    return out;
}

/* True when a member with this hash is the victim's neighbour; with replaced, other 1 has left for another.
 */
static bool hash_order_meets(size_t round, const struct id *own, bool replaced)
{
    const struct id *victim = &others[round][0];
    size_t victim_rank = 0, own_rank = 0;
    for (size_t i = 0; i < N - 1; i++) {
        const struct id *hash = replaced && i == 1 ? &others[round][N - 1] : &others[round][i];
        victim_rank += i > 0 && id_compare(hash, victim) < 0;
        own_rank += id_compare(hash, own) < 0;
    }
    victim_rank += id_compare(own, victim) < 0;
    return own_rank == (victim_rank ^ 1);
}

/* The best id of TRIES for meetings in the first `rounds`; *after: its meetings with one other replaced. */
static unsigned hash_order_best(size_t rounds, unsigned *after)
{
    unsigned best = 0;
    *after = 0;
    for (uint64_t try = 0; try < TRIES; try++) {
        unsigned met = 0, met_after = 0;
        for (size_t round = 0; round < rounds; round++) {
            struct id own = drawn(round, 1000 + try);
            met += hash_order_meets(round, &own, false);
            met_after += hash_order_meets(round, &own, true);
        }
        if (met > best) {
            best = met;
            *after = met_after;
        }
    }
    return best;
}

Test(grinding, a_new_order_each_round_can_be_ground)
{
    unsigned long_after, short_after;
    for (size_t round = 0; round < ROUNDS; round++)
        for (size_t i = 0; i < N; i++)
            others[round][i] = drawn(round, i);
    unsigned in_all = hash_order_best(ROUNDS, &long_after);
    unsigned at_once = hash_order_best(WINDOW, &short_after);
    printf(
        "hash order each round, %d members, best of %d ids (honest share %.1f of %d rounds, %.2f of %d):\n",
        N, TRIES, (double)ROUNDS / (N - 1), ROUNDS, (double)WINDOW / (N - 1), WINDOW);
    printf("  %u of %d rounds, %u after the epoch's wait; %u of the first %d, %u after the wait\n", in_all,
           ROUNDS, long_after, at_once, WINDOW, short_after);
    cr_assert_gt(in_all, 1.25 * ROUNDS / (N - 1));
    cr_assert_geq(at_once, 2);
    cr_assert_leq(short_after, at_once);
    cr_assert_lt(long_after, in_all, "what the wait takes away again");
}

/* The most meetings that any two of count members have in `rounds`, and in any WINDOW rounds of them. */
static unsigned most_meetings(size_t count, unsigned classes, size_t rounds, unsigned *in_window)
{
    static struct gossip_member_state states[64];
    static struct gossip_view view;
    static uint16_t partners[ROUNDS][64];
    struct id run = drawn(7, 7), partner;
    unsigned most = 0;
    for (size_t i = 0; i < count; i++)
        states[i] = (struct gossip_member_state){
            .id = drawn(3, i), .expires_ms = 1, .speed.bytes_class = (uint8_t)(1 + i % classes)};
    gossip_view_build(&view, 0, 0, states, count);
    for (size_t round = 0; round < rounds; round++)
        for (size_t i = 0; i < count; i++) {
            bool paired = gossip_pair(&run, round, 5, &view, &view.entries[i].id, &partner);
            partners[round][i] =
                paired ? (uint16_t)(gossip_view_find(&view, &partner) - view.entries) : UINT16_MAX;
        }
    *in_window = 0;
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < i; j++) {
            unsigned met = 0, window = 0;
            for (size_t round = 0; round < rounds; round++) {
                met += partners[round][i] == j;
                window += partners[round][i] == j;
                window -= round >= WINDOW && partners[round - WINDOW][i] == j;
                *in_window = window > *in_window ? window : *in_window;
            }
            most = met > most ? met : most;
        }
    return most;
}

Test(grinding, no_place_in_our_order_meets_anybody_much_more_often)
{
    static const size_t sizes[] = {8, 10, 16, 22, 32};
    printf("most meetings of any two, of %d rounds (in any %d): equal speeds, four speeds, honest share\n",
           ROUNDS, WINDOW);
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        unsigned window_equal, window_mixed;
        double share = (double)ROUNDS / (double)(sizes[k] - 1);
        unsigned equal = most_meetings(sizes[k], 1, ROUNDS, &window_equal);
        unsigned mixed = most_meetings(sizes[k], 4, ROUNDS, &window_mixed);
        printf("%4zu members: %3u (%u) %3u (%u) %6.1f\n", sizes[k], equal, window_equal, mixed, window_mixed,
               share);
        cr_assert_leq(equal, share + 5, "everybody meets everybody alike: a tournament's seam at most");
        cr_assert_leq(mixed, ROUNDS / WINDOW + (sizes[k] < 9 ? ROUNDS / 12 : 0), "a speed may be claimed");
        if (sizes[k] >= GOSSIP_PAIR_GAP_MIN)
            cr_assert(window_equal <= 1 && window_mixed <= 1);
    }
}
