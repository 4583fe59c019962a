/* What waiting costs: the latency model of the NoLoCo paper (Kolehmainen et al., arXiv:2506.10911, section
 * 5), derived again.  A message takes LogNormal(mu, s^2); a pair exchanges both ways and twice, a tree of N
 * members sums up its levels and sends the result down them.  And its blocking model: members whose steps
 * take LogNormal times meet after every 100 of them, all of them or in pairs; who is early waits.  Neither is
 * how Dunlin waits: its rounds are boxes of time, and a partner that is late is done without. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gossip/numbers.h"
#include "gossip/pairing.h"

enum { WORKERS_MAX = 1024, LEVELS_MAX = 10, INNER_STEPS = 100, OUTER_ROUNDS = 30, SCHEDULED = 256 };

static struct numbers numbers;

static double log_normal(double mu, double s)
{
    return exp(mu + s * numbers_normal(&numbers));
}

static double later(double a, double b)
{
    return a > b ? a : b;
}

/* Time until the root of a subtree has the sum of its leaves. */
static double summed(unsigned levels, double mu, double s)
{
    if (levels == 0)
        return 0;
    double left = summed(levels - 1, mu, s) + log_normal(mu, s);
    return later(left, summed(levels - 1, mu, s) + log_normal(mu, s));
}

/* Time from the root's to the last leaf's having it. */
static double spread_out(unsigned levels, double mu, double s)
{
    if (levels == 0)
        return 0;
    double left = log_normal(mu, s) + spread_out(levels - 1, mu, s);
    return later(left, log_normal(mu, s) + spread_out(levels - 1, mu, s));
}

/* Mean time of a tree all-reduce over 2^levels members, by that of a pair's two exchanges. */
static double ratio(unsigned levels, double s, unsigned runs)
{
    double tree = 0, pair = 0;
    for (unsigned i = 0; i < runs; i++)
        tree += summed(levels, 0, s) + spread_out(levels, 0, s);
    for (unsigned i = 0; i < 100 * runs; i++)
        pair += 2 * later(log_normal(0, s), log_normal(0, s)) / 100;
    return tree / pair;
}

Test(latency, the_later_of_two_messages_takes_what_the_formula_says)
{
    numbers_init(&numbers, 1);
    for (double s = 0.2; s < 1.1; s += 0.4) {
        double sum = 0, expected = (1 + erf(s / 2)) * exp(0.3 + s * s / 2);
        for (int i = 0; i < 400000; i++)
            sum += later(log_normal(0.3, s), log_normal(0.3, s)) / 400000;
        cr_assert_float_eq(sum / expected, 1, 0.02, "s %g: %g, not %g", s, sum, expected);
    }
}

Test(latency, a_tree_takes_log2_n_pairs_and_more_the_more_times_vary)
{
    double before = 0;
    numbers_init(&numbers, 2);
    cr_assert_float_eq(ratio(10, 1e-4, 10), 10, 0.01);
    for (unsigned levels = 2; levels <= LEVELS_MAX; levels += 2) {
        double now = ratio(levels, 0.5, 300);
        printf("latency: %4u members, s 0.5: a tree takes %.1f pair exchanges\n", 1U << levels, now);
        cr_assert_gt(now, before);
        cr_assert_gt(now, levels);
        before = now;
    }
    before = 10;
    for (double s = 0.25; s <= 1; s += 0.25) {
        double now = ratio(10, s, 100);
        printf("latency: 1024 members, s %.2f: %.1f\n", s, now);
        cr_assert_gt(now, before);
        before = now;
    }
}

/* Mean time of a member's last round, all having begun at 0; partners by order[] (NULL: everybody waits for
 * the slowest). */
static double blocking(size_t count, void (*pair_up)(size_t count, size_t round, size_t order[]))
{
    static double clock[WORKERS_MAX];
    static size_t order[WORKERS_MAX];
    double mean = 0;
    memset(clock, 0, sizeof clock);
    for (size_t round = 0; round < OUTER_ROUNDS; round++) {
        double last = 0;
        for (size_t i = 0; i < count; i++) {
            for (int step = 0; step < INNER_STEPS; step++)
                clock[i] += log_normal(1, sqrt(0.5));
            last = later(last, clock[i]);
        }
        if (pair_up != NULL)
            pair_up(count, round, order);
        for (size_t i = 0; i < count; i += 2) {
            size_t a = pair_up == NULL ? i : order[i], b = pair_up == NULL ? i + 1 : order[i + 1];
            clock[a] = clock[b] = pair_up == NULL ? last : later(clock[a], clock[b]);
        }
    }
    for (size_t i = 0; i < count; i++)
        mean += clock[i] / (double)count;
    return mean;
}

static void by_chance(size_t count, size_t round, size_t order[])
{
    (void)round;
    numbers_matching(&numbers, count, order);
}

/* The order that members of a run would keep. */
static void by_schedule(size_t count, size_t round, size_t order[])
{
    static struct gossip_member_state states[SCHEDULED];
    static struct gossip_view view;
    const struct id run = {.bytes = {1}};
    size_t filled = 0;
    for (size_t i = 0; i < count; i++)
        states[i] = (struct gossip_member_state){.id.bytes = {(uint8_t)i, 7}, .expires_ms = 1};
    gossip_view_build(&view, 0, 0, states, count);
    for (size_t i = 0; i < count; i++) {
        struct id partner;
        cr_assert(gossip_pair(&run, round, 1, &view, &view.entries[i].id, &partner));
        size_t j = (size_t)(gossip_view_find(&view, &partner) - view.entries);
        if (i < j) {
            order[filled++] = i;
            order[filled++] = j;
        }
    }
    cr_assert_eq(filled, count);
}

Test(latency, waiting_for_all_costs_more_than_waiting_for_one)
{
    double alone = OUTER_ROUNDS * INNER_STEPS * exp(1 + 0.25);
    numbers_init(&numbers, 3);
    double all = blocking(WORKERS_MAX, NULL), pairs = blocking(WORKERS_MAX, by_chance);
    double few = blocking(SCHEDULED, NULL), scheduled = blocking(SCHEDULED, by_schedule);
    printf("latency: 1024 members with a barrier take %.3f of unhindered time, random pairs %.3f\n"
           "latency: 256 members with a barrier %.3f, pairs of our schedule %.3f\n",
           all / alone, pairs / alone, few / alone, scheduled / alone);
    /* The paper reads about a fifth off its simulation. */
    cr_assert_gt(all / pairs, 1.08);
    cr_assert_lt(all / pairs, 1.3);
    cr_assert_gt(few / scheduled, 1.05);
}
