/* The gate's decisions at and around each limit. */
#include <criterion/criterion.h>

#include "gossip/merge/gate.h"
#include "gossip/merge/trail.h"
#include "numbers.h"

Test(gate, median_equals_that_of_sorted_values)
{
    /* Model: a plain array of all that was ever pushed, whose last 32 are counted by rank. */
    double all[300];
    struct gossip_history h = {0};
    struct numbers n;
    numbers_init(&n, 1);
    for (size_t count = 1; count <= 300; count++) {
        all[count - 1] = (double)numbers_below(&n, 50);
        gossip_history_push(&h, all[count - 1]);
        double median = gossip_history_median(&h);
        if (count < GOSSIP_HISTORY_MIN) {
            cr_assert(isinf(median) && isinf(gossip_history_radius(&h)));
            continue;
        }
        size_t kept = count < GOSSIP_HISTORY ? count : GOSSIP_HISTORY, below = 0, above = 0;
        for (size_t i = count - kept; i < count; i++) {
            below += all[i] < median;
            above += all[i] > median;
        }
        cr_assert(2 * below <= kept && 2 * above <= kept, "after %zu", count);
        cr_assert_eq(gossip_history_radius(&h), GOSSIP_CLIP_FACTOR * median);
    }
}

Test(gate, less_than_half_cannot_move_the_median)
{
    struct gossip_history h = {0};
    for (int i = 0; i < 100; i++)
        gossip_history_push(&h, i % 32 < 15 ? 1e300 : 1.0);
    cr_assert_eq(gossip_history_median(&h), 1.0);
    for (int i = 0; i < 100; i++)
        gossip_history_push(&h, i % 32 < 15 ? 0 : 1.0);
    cr_assert_eq(gossip_history_median(&h), 1.0);
}

Test(gate, two_who_drift_apart_without_merging_let_each_other_in_again)
{
    /* The worst honest case: refused once, for whatever reason, with a distance that then grows by what both
     * train in every round, from any multiple of the usual.  Refused distances count, so the median follows:
     * it must not take more than three quarters of a history until merges go on. */
    for (double start = 3; start <= 100; start *= 1.5) {
        struct gossip_history h = {0};
        int refused = 0;
        float scale;
        for (int i = 0; i < GOSSIP_HISTORY; i++)
            gossip_history_push(&h, 1);
        for (int round = 0; round < 100; round++) {
            struct gossip_gate_input in = {
                .own_norm = 1e6, .distance = start + round, .radius = gossip_history_radius(&h)};
            gossip_history_push(&h, in.distance);
            if (gossip_gate(&in, &scale) == ERR_OK)
                break;
            refused++;
        }
        cr_assert_leq(refused, GOSSIP_HISTORY * 3 / 4, "from %g: %d rounds", start, refused);
    }
}

/* Some merges lost, to a frozen partner or a bad line, and everybody is further away than ever: the next one
 * is cut, not refused, and what is cut does not grow. */
Test(gate, missed_merges_widen_what_is_refused_and_not_what_is_cut)
{
    struct gossip_history h = {0};
    float scale;
    for (int i = 0; i < GOSSIP_HISTORY; i++)
        gossip_history_push(&h, 1);
    for (uint32_t missed = 0; missed < 2 * GOSSIP_MISSED_MAX; missed++) {
        uint32_t counted = missed < GOSSIP_MISSED_MAX ? missed : GOSSIP_MISSED_MAX;
        struct gossip_gate_input in = {.own_norm = 1e6, .radius = 1.5, .missed = h.missed};
        double wider = counted > 1 ? counted : 1;
        cr_assert_eq(h.missed, counted);
        in.distance = 2.99 * wider;
        cr_assert_eq(gossip_gate(&in, &scale), 0);
        cr_assert_float_eq((double)scale * in.distance, 1.5, 1e-5);
        in.distance = 3.01 * wider;
        cr_assert_eq(gossip_gate(&in, &scale), ERR_FAR);
        gossip_history_round(&h, false);
    }
    gossip_history_round(&h, true);
    cr_assert_eq(h.missed, 0);
}

Test(gate, cuts_refuses_and_lets_through)
{
    double factor = GOSSIP_REFUSE_FACTOR / GOSSIP_CLIP_FACTOR;
    struct gossip_gate_input in = {.own_norm = 100, .radius = 3, .own_round = 8, .partner_round = 0};
    float scale;
    in.distance = 3;
    cr_assert_eq(gossip_gate(&in, &scale), 0);
    cr_assert_eq(scale, 1.0f);
    in.distance = 4;
    cr_assert_eq(gossip_gate(&in, &scale), 0);
    cr_assert_float_eq(scale, 0.75f, 1e-6);
    in.distance = 3 * factor;
    cr_assert_eq(gossip_gate(&in, &scale), 0);
    in.distance = 3 * factor * 1.001;
    cr_assert_eq(gossip_gate(&in, &scale), ERR_FAR);
    in.radius = INFINITY; /* too short a past, and strangers: only the size of the weights limits */
    in.way = INFINITY;
    cr_assert_eq(gossip_gate(&in, &scale), 0);
    in.distance = 399;
    cr_assert_eq(gossip_gate(&in, &scale), 0);
    cr_assert_eq(scale, 1.0f);
    in.distance = 401;
    cr_assert_eq(gossip_gate(&in, &scale), ERR_FAR);
    in.distance = 1;
    in.own_round = 9;
    cr_assert_eq(gossip_gate(&in, &scale), ERR_STALE);
    in.own_round = 0;
    in.partner_round = 9;
    cr_assert_eq(gossip_gate(&in, &scale), ERR_STALE);
    in.partner_round = 0;
    in.radius = 0; /* a past of identical models cuts nothing */
    cr_assert_eq(gossip_gate(&in, &scale), 0);
    cr_assert_eq(scale, 1.0f);
}

/* Without a past the own training is the measure; without that, a share of the norm; strangers have none. */
Test(gate, at_the_start_a_partner_must_be_about_as_far_as_we_have_gone)
{
    struct gossip_history h = {0};
    float scale;
    for (int known = 0; known < GOSSIP_HISTORY_MIN; known++) {
        struct gossip_gate_input in = {.own_norm = 100, .radius = gossip_history_radius(&h), .way = 3};
        in.distance = GOSSIP_START_FACTOR * 3;
        cr_assert_eq(gossip_gate(&in, &scale), 0);
        cr_assert_eq(scale, 1.0f);
        in.distance = GOSSIP_START_FACTOR * 3.001;
        cr_assert_eq(gossip_gate(&in, &scale), ERR_FAR);
        in.way = 0; /* nothing trained since the last round, or a state just fetched */
        in.distance = GOSSIP_START_FACTOR * GOSSIP_START_SHARE * 100;
        cr_assert_eq(gossip_gate(&in, &scale), 0);
        in.distance *= 1.001;
        cr_assert_eq(gossip_gate(&in, &scale), ERR_FAR);
        in.way = INFINITY;
        in.distance = 399;
        cr_assert_eq(gossip_gate(&in, &scale), 0);
        gossip_history_push(&h, 50);
    }
    struct gossip_gate_input in = {
        .own_norm = 100, .distance = 50, .radius = gossip_history_radius(&h), .known = h.count, .way = 3};
    cr_assert_eq(gossip_gate(&in, &scale), 0); /* the past speaks now */
}

/* Half of a short past may be one hostile partner's, and then the median is: what it sends must still be
 * refused, until the past is full. */
Test(gate, a_short_past_is_not_believed_alone)
{
    struct gossip_gate_input in = {.own_norm = 100, .radius = 75, .way = 3};
    float scale;
    for (in.known = GOSSIP_HISTORY_MIN; in.known <= GOSSIP_HISTORY; in.known++) {
        in.distance = GOSSIP_YOUNG_FACTOR * 3 * 0.999;
        cr_assert_eq(gossip_gate(&in, &scale), 0);
        in.distance = GOSSIP_YOUNG_FACTOR * 3 * 1.001;
        cr_assert_eq(gossip_gate(&in, &scale), in.known < GOSSIP_HISTORY ? ERR_FAR : 0);
    }
}

/* Old and scaled weights are cut, by how old they are and on top of what their distance costs them. */
Test(gate, cuts_who_is_behind_and_who_only_scales)
{
    struct gossip_gate_input in = {.own_norm = 100,
                                   .distance = 1,
                                   .radius = 1,
                                   .known = GOSSIP_HISTORY,
                                   .behind_limit = GOSSIP_BEHIND_MAX};
    float scale;
    for (in.behind = 0; in.behind > -GOSSIP_BEHIND_MAX; in.behind -= 0.05) {
        cr_assert_eq(gossip_gate(&in, &scale), 0);
        cr_assert_eq(scale, 1.0f);
    }
    for (in.behind = -GOSSIP_BEHIND_MAX - 0.01; in.behind > -1000; in.behind *= 2) {
        cr_assert_eq(gossip_gate(&in, &scale), 0);
        cr_assert_float_eq(-in.behind * (double)scale, GOSSIP_BEHIND_SHARE, 1e-6);
    }
    in.behind = 0;
    for (int i = 0; i < 6; i++) {
        int side = i % 2 == 0 ? 1 : -1;
        in.growth = 0.1 * (i / 2); /* a norm that moves makes others' norms less of a sign */
        in.distance = 1;
        in.radial = side * (0.999 * GOSSIP_RADIAL_MAX + GOSSIP_RADIAL_GROWTH * in.growth);
        cr_assert_eq(gossip_gate(&in, &scale), 0);
        cr_assert_eq(scale, 1.0f);
        in.radial = side * (1.001 * GOSSIP_RADIAL_MAX + GOSSIP_RADIAL_GROWTH * in.growth);
        cr_assert_eq(gossip_gate(&in, &scale), 0);
        cr_assert_float_eq(scale, GOSSIP_RADIAL_SCALE, 1e-6);
        in.distance = 1.25;
        in.radial *= 1.25;
        cr_assert_eq(gossip_gate(&in, &scale), 0);
        cr_assert_float_eq(scale, GOSSIP_RADIAL_SCALE / 1.25, 1e-6);
        in.growth = INFINITY; /* too little is known */
        cr_assert_eq(gossip_gate(&in, &scale), 0);
        cr_assert_float_eq(scale, 0.8f, 1e-6);
    }
}

enum { NODES = 8, VALUES = 256 };

struct grower {
    double x[VALUES];
    struct gossip_history history;
    struct gossip_trail trail;
};

/* What one takes of the other by the gate's leave. */
static double share_of(struct grower *a, const struct grower *b)
{
    double own = 0, product = 0, distance = 0;
    float scale = 0;
    for (size_t i = 0; i < VALUES; i++) {
        own += a->x[i] * a->x[i];
        product += a->x[i] * b->x[i];
        distance += (b->x[i] - a->x[i]) * (b->x[i] - a->x[i]);
    }
    gossip_trail_norm(&a->trail, sqrt(own));
    struct gossip_gate_input in = {.own_norm = sqrt(own),
                                   .distance = sqrt(distance),
                                   .radius = gossip_history_radius(&a->history),
                                   .known = a->history.count,
                                   .way = INFINITY,
                                   .behind_limit = INFINITY,
                                   .radial = (product - own) / sqrt(own),
                                   .growth = gossip_trail_growth(&a->trail)};
    int result = gossip_gate(&in, &scale);
    gossip_history_push(&a->history, in.distance);
    return result < 0 ? 0 : (double)scale;
}

/* Spread of the norms of a swarm whose weights grow while they are fresh, one node's at another speed, each
 * merge with half of what the gate lets through, or without gate. */
static double spread_of_growers(double speed, bool gated)
{
    static struct grower nodes[NODES];
    struct numbers n;
    double least = INFINITY, most = 0;
    numbers_init(&n, 3);
    for (size_t k = 0; k < NODES; k++) {
        nodes[k] = (struct grower){.trail = {.rounds = 0}};
        for (size_t i = 0; i < VALUES; i++)
            nodes[k].x[i] = i % 2 == 0 ? 1 : -1;
    }
    for (int round = 0; round < 40; round++) {
        uint32_t bit = 1u << numbers_below(&n, 3);
        for (size_t k = 0; k < NODES; k++)
            for (size_t i = 0; i < VALUES; i++)
                nodes[k].x[i] +=
                    (k == 0 ? speed : 1) * ((i % 2 == 0 ? 0.1 : -0.1) + 0.03 * numbers_normal(&n));
        for (size_t k = 0; k < NODES; k++) {
            struct grower *a = &nodes[k], *b = &nodes[k ^ bit];
            if ((k & bit) != 0)
                continue;
            double into_a = gated ? share_of(a, b) : 1, into_b = gated ? share_of(b, a) : 1;
            for (size_t i = 0; i < VALUES; i++) {
                double apart = b->x[i] - a->x[i];
                a->x[i] += into_a * apart / 2;
                b->x[i] -= into_b * apart / 2;
            }
        }
    }
    for (size_t k = 0; k < NODES; k++) {
        double square = 0;
        for (size_t i = 0; i < VALUES; i++)
            square += nodes[k].x[i] * nodes[k].x[i];
        least = fmin(least, sqrt(square));
        most = fmax(most, sqrt(square));
    }
    return (most - least) / most;
}

/* A fixed bound on what lies along the weights drives such a swarm apart: who is cut falls further back. */
Test(gate, a_swarm_that_grows_at_different_speeds_stays_together)
{
    for (double speed = 0; speed <= 3; speed += 0.25) {
        double gated = spread_of_growers(speed, true), plain = spread_of_growers(speed, false);
        cr_assert_leq(gated, 1.5 * plain, "speed %g: %g, and without gate %g", speed, gated, plain);
    }
}

Test(gate, numbers_that_are_not_finite_are_told_as_such)
{
    float scale;
    double bad[3] = {(double)NAN, INFINITY, -INFINITY};
    for (size_t k = 0; k < 3; k++) {
        struct gossip_gate_input norm = {.own_norm = bad[k], .distance = 1, .radius = 3};
        struct gossip_gate_input distance = {.own_norm = 1, .distance = bad[k], .radius = 3};
        cr_assert_eq(gossip_gate(&norm, &scale), ERR_NOT_FINITE);
        cr_assert_eq(gossip_gate(&distance, &scale), ERR_NOT_FINITE);
        struct gossip_history changes = {0};
        cr_assert_eq(gossip_loss_gate(&changes, bad[k], 1), ERR_NOT_FINITE);
        cr_assert_eq(changes.count, 0);
    }
}

Test(gate, a_merge_that_is_worse_on_the_private_batch_is_refused)
{
    /* Without a past by a wide margin; each case has none. */
    const struct {
        double before, after;
        int result;
    } cases[] = {
        {2.0, 2.0, ERR_OK},         {2.0, 1.0, ERR_OK},
        {2.0, 2.0399, ERR_OK},      {2.0, 2.0401, ERR_WORSE},
        {-2.0, -1.9601, ERR_OK}, /* log-likelihoods may be negative */
        {-2.0, -1.9599, ERR_WORSE}, {2.0, (double)NAN, ERR_WORSE},
        {2.0, INFINITY, ERR_WORSE}, {0, 0, ERR_OK},
        {0.01, 0.0299, ERR_OK}, /* three times as much, of next to nothing */
        {0.01, 0.0301, ERR_WORSE},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gossip_history changes = {0};
        cr_assert_eq(gossip_loss_gate(&changes, cases[i].before, cases[i].after), cases[i].result, "case %zu",
                     i);
        cr_assert_eq(changes.count, isfinite(cases[i].after) ? 1 : 0, "case %zu", i);
    }
}

Test(gate, the_margin_of_the_loss_follows_what_merges_do)
{
    /* Four changes of 0.1 to 0.4 %, either way, make a median of 0.25 %; one hostile partner in four does not
     * widen it without end, and what becomes usual is let in. */
    struct gossip_history changes = {0};
    const double past[4] = {2.002, 1.996, 2.006, 1.992};
    for (size_t i = 0; i < 4; i++) {
        cr_assert_eq(gossip_loss_margin(&changes), GOSSIP_LOSS_MARGIN);
        cr_assert_eq(gossip_loss_gate(&changes, 2.0, past[i]), ERR_OK);
    }
    cr_assert_float_eq(gossip_loss_margin(&changes), 0.005, 1e-9);
    cr_assert_eq(gossip_loss_gate(&changes, 2.0, 2.009), ERR_OK);
    for (int i = 0; i < 200; i++)
        cr_assert_eq(gossip_loss_gate(&changes, 2.0, i % 4 == 0 ? 2.5 : 1.996),
                     i % 4 == 0 ? ERR_WORSE : ERR_OK, "merge %d", i);
    cr_assert_float_eq(gossip_loss_margin(&changes), 0.004, 1e-9);
    int refused = 0;
    while (gossip_loss_gate(&changes, 2.0, 2.5) < 0)
        refused++;
    cr_assert_leq(refused, GOSSIP_HISTORY / 2);
    for (int i = 0; i < GOSSIP_HISTORY; i++)
        cr_assert_eq(gossip_loss_gate(&changes, 2.0, 2.0), ERR_OK);
    cr_assert_eq(gossip_loss_margin(&changes), GOSSIP_LOSS_FLOOR);
}
