/* The outer step must be NoLoCo's: we compare it with a double-precision transcription of the paper's
 * equations, and then look at what the paper and our own analysis predict for swarms of it. */
#include <criterion/criterion.h>
#include <string.h>

#include "gossip/merge/average.h"
#include "gossip/merge/outer.h"
#include "gossip/merge/reference.h"
#include "numbers.h"

enum { LEN = 777, NODES = 16, NODES_MAX = 32, DIMS = 8 };

/* Equations 2 and 3 with + beta, one value, in double. */
static void reference_step(const struct gossip_outer *c, double tbar, double pbar, double *phi, double *delta)
{
    *delta = (double)c->alpha * *delta + (double)c->beta * (tbar - pbar) - (double)c->gamma * (*phi - pbar);
    *phi += *delta;
}

Test(outer, theta_only_form_equals_the_general_one_for_gamma_equal_beta)
{
    /* Over 50 rounds of random pairs' values; float32 rounding of a few terms a round: 1e-5 of the
     * magnitude 1. */
    static float phi[LEN], delta[LEN], diff[LEN], general_phi[LEN], general_delta[LEN];
    static float theta[LEN], tbar[LEN], pbar[LEN];
    static double ref_phi[LEN], ref_delta[LEN];
    struct gossip_outer config = gossip_outer_default();
    struct numbers n;
    numbers_init(&n, 1);
    numbers_fill(&n, LEN, 1.0, phi);
    for (size_t i = 0; i < LEN; i++)
        ref_phi[i] = (double)(general_phi[i] = phi[i]);
    for (int round = 0; round < 50; round++) {
        numbers_fill(&n, LEN, 1.0, theta);
        numbers_fill(&n, LEN, 1.0, tbar);
        numbers_fill(&n, LEN, 1.0, pbar);
        gossip_outer_step(LEN, config.alpha, config.beta, tbar, theta, phi, delta, diff);
        gossip_outer_step_general(LEN, &config, tbar, pbar, general_phi, general_delta);
        for (size_t i = 0; i < LEN; i++) {
            reference_step(&config, (double)tbar[i], (double)pbar[i], &ref_phi[i], &ref_delta[i]);
            cr_assert_float_eq((double)phi[i], ref_phi[i], 1e-5);
            cr_assert_float_eq((double)general_phi[i], ref_phi[i], 1e-5);
            cr_assert_float_eq((double)delta[i], ref_delta[i], 1e-5);
            cr_assert_eq(diff[i], phi[i] - theta[i]);
        }
    }
}

Test(outer, forms_agree_to_a_millionth_in_one_step)
{
    static float phi[2][LEN], delta[2][LEN], theta[LEN], tbar[LEN], pbar[LEN], diff[LEN];
    struct gossip_outer config = gossip_outer_default();
    struct numbers n;
    numbers_init(&n, 2);
    numbers_fill(&n, LEN, 1.0, phi[0]);
    numbers_fill(&n, LEN, 1.0, delta[0]);
    numbers_fill(&n, LEN, 1.0, theta);
    numbers_fill(&n, LEN, 1.0, tbar);
    numbers_fill(&n, LEN, 1.0, pbar);
    memcpy(phi[1], phi[0], sizeof phi[1]);
    memcpy(delta[1], delta[0], sizeof delta[1]);
    gossip_outer_step(LEN, config.alpha, config.beta, tbar, theta, phi[0], delta[0], diff);
    gossip_outer_step_general(LEN, &config, tbar, pbar, phi[1], delta[1]);
    for (size_t i = 0; i < LEN; i++) {
        double size = 1 + fabs((double)tbar[i]) + fabs((double)pbar[i]) + fabs((double)phi[0][i]);
        cr_assert_float_eq((double)phi[0][i], (double)phi[1][i], 1e-6 * size);
    }
}

Test(outer, whole_swarm_as_group_is_heavy_ball)
{
    /* With the same phi everywhere the gamma term vanishes: phi moves by alpha * delta + beta * mean(theta -
     * phi). */
    float phi[4] = {1, 2, 3, 4}, delta[4] = {0.5f, 0, -1, 2}, tbar[4] = {2, 2, 2, 2}, pbar[4] = {1, 2, 3, 4};
    struct gossip_outer config = {.alpha = 0.25f, .beta = 0.5f, .gamma = 1.25f};
    gossip_outer_step_general(4, &config, tbar, pbar, phi, delta);
    for (size_t i = 0; i < 4; i++) {
        float start[4] = {0.5f, 0, -1, 2};
        cr_assert_float_eq(delta[i], 0.25f * start[i] + 0.5f * (2.0f - pbar[i]), 1e-6);
        cr_assert_float_eq(phi[i], pbar[i] + delta[i], 1e-6);
    }
}

Test(outer, solo_step_and_plain_average)
{
    /* tbar may be theta itself; alpha 0, beta 1 puts phi on the average. */
    float theta[3] = {1, -2, 4}, phi[3] = {0, 0, 0}, delta[3] = {9, 9, 9}, diff[3], average[3],
          other[3] = {3, 2, 0};
    gossip_outer_step(3, 0.0f, 1.0f, theta, theta, phi, delta, diff);
    for (size_t i = 0; i < 3; i++) {
        cr_assert_eq(phi[i], theta[i]);
        cr_assert_eq(diff[i], 0.0f);
    }
    gossip_average(3, theta, other, average);
    cr_assert(average[0] == 2 && average[1] == 0 && average[2] == 2);
}

Test(outer, config_follows_the_stability_table)
{
    const char *why;
    struct gossip_outer good = gossip_outer_default();
    struct gossip_outer plain = gossip_outer_plain();
    cr_assert_eq(gossip_outer_check(&good, &why), 0);
    cr_assert_eq(gossip_outer_check(&plain, &why), 0);
    cr_assert_float_eq(gossip_outer_gamma_max(0.0f), 2.0f, 1e-6);
    cr_assert_float_eq(gossip_outer_gamma_max(0.3f), 1.82f / 1.18f, 1e-6);
    cr_assert_float_eq(gossip_outer_gamma_max(0.5f), 1.5f / 1.3f, 1e-6);
    struct gossip_outer bad[] = {
        {0.61f, 0.7f, 0.7f},    {-0.1f, 0.7f, 0.7f}, {0.9f, 0.3f, 0.3f},  {0.5f, 1.5f, 0.7f},
        {0.5f, 0.7f, 1.5f},     {0.5f, 0.0f, 0.7f},  {0.5f, 0.7f, 0.0f},  {NAN, 0.7f, 0.7f},
        {0.5f, NAN, 0.7f},      {0.5f, 0.7f, NAN},   {0.5f, -0.7f, 0.7f}, {0.0f, 2.0f, 1.0f},
        {0.5f, 0.7f, INFINITY},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert_eq(gossip_outer_check(&bad[i], &why), ERR_INVALID, "case %zu", i);
        cr_assert_gt(strlen(why), 0);
    }
}

Test(outer, one_bad_partner_moves_phi_by_at_most_what_the_gate_says)
{
    /* Difference cut at tau, then solo rounds on a loss without slope: phi moves by beta tau / 2 at once and
     * by beta tau / (2 (1 - alpha)) in all, when theta moves along (a flat loss keeps it where phi is). */
    static float theta[LEN], phi[LEN], delta[LEN], theirs[LEN], diff[LEN];
    double tau = 0.7, first = 0, last = 0;
    for (size_t i = 0; i < LEN; i++)
        theirs[i] = (float)(tau / sqrt(LEN));
    gossip_pair_step(LEN, 0.5f, 0.7f, 0.5f, theta, theta, theirs, phi, delta, diff);
    for (size_t i = 0; i < LEN; i++)
        first += (double)phi[i] * (double)phi[i];
    for (int round = 0; round < 40; round++) {
        memcpy(theta, phi, sizeof theta);
        gossip_outer_step(LEN, 0.5f, 0.7f, theta, theta, phi, delta, diff);
    }
    for (size_t i = 0; i < LEN; i++)
        last += (double)phi[i] * (double)phi[i];
    cr_assert_float_eq(sqrt(first), 0.7 * tau / 2, 1e-5);
    cr_assert_float_eq(sqrt(last), 0.7 * tau / (2 * (1 - 0.5)), 1e-5);
}

Test(outer, late_partners_weigh_less)
{
    cr_assert_float_eq(gossip_partner_weight(0.0f), 0.5f, 0);
    cr_assert_float_eq(gossip_partner_weight(0.3f), 0.5f, 0);
    cr_assert_float_eq(gossip_partner_weight(0.65f), 0.375f, 1e-6);
    cr_assert_float_eq(gossip_partner_weight(1.0f), 0.25f, 0);
    cr_assert_float_eq(gossip_partner_weight(7.0f), 0.25f, 0);
}

Test(outer, pair_sum_is_kept_whatever_the_codec_lost)
{
    /* Both sides move by half the difference of the same exchanged values: the sum of the two targets is the
     * sum of the two snapshots, up to one rounding of each (2^-24 of values below 8). */
    static float a[LEN], b[LEN], qa[LEN], qb[LEN], ta[LEN], tb[LEN];
    struct numbers n;
    for (uint64_t seed = 0; seed < 50; seed++) {
        numbers_init(&n, seed);
        numbers_fill(&n, LEN, 1.0, a);
        numbers_fill(&n, LEN, 1.0, b);
        for (size_t i = 0; i < LEN; i++) {
            qa[i] = a[i] + (float)(0.1 * numbers_normal(&n)); /* a poor codec */
            qb[i] = b[i] + (float)(0.1 * numbers_normal(&n));
        }
        gossip_pair_target(LEN, 0.5f, a, qa, qb, ta);
        gossip_pair_target(LEN, 0.5f, b, qb, qa, tb);
        for (size_t i = 0; i < LEN; i++)
            cr_assert_float_eq((double)ta[i] + (double)tb[i], (double)a[i] + (double)b[i], 2e-6);
    }
}

/* --- swarms
 * ------------------------------------------------------------------------------------------------- */

struct swarm {
    size_t nodes;
    float phi[NODES_MAX][DIMS];
    float delta[NODES_MAX][DIMS];
    float theta[NODES_MAX][DIMS];
};

/* Root mean square distance of the replicas from their mean. */
static double spread(const struct swarm *s)
{
    double sum = 0;
    for (size_t d = 0; d < DIMS; d++) {
        double mean = 0;
        for (size_t i = 0; i < s->nodes; i++)
            mean += (double)s->phi[i][d] / (double)s->nodes;
        for (size_t i = 0; i < s->nodes; i++)
            sum += ((double)s->phi[i][d] - mean) * ((double)s->phi[i][d] - mean);
    }
    return sqrt(sum / (double)(s->nodes * DIMS));
}

/* One outer round over a random matching; an exchange fails with probability `fails` and becomes two solo
 * steps. */
static void outer_round(struct swarm *s, const struct gossip_outer *c, double fails, struct numbers *n)
{
    size_t order[NODES_MAX];
    numbers_matching(n, s->nodes, order);
    for (size_t k = 0; k < s->nodes; k += 2) {
        size_t i = order[k], j = order[k + 1];
        float tbar[DIMS], pbar[DIMS];
        if (numbers_unit(n) < fails) {
            size_t alone[2] = {i, j};
            for (size_t side = 0; side < 2; side++) {
                memcpy(pbar, s->phi[alone[side]], sizeof pbar);
                gossip_outer_step_general(DIMS, c, s->theta[alone[side]], pbar, s->phi[alone[side]],
                                          s->delta[alone[side]]);
            }
            continue;
        }
        gossip_average(DIMS, s->theta[i], s->theta[j], tbar);
        gossip_average(DIMS, s->phi[i], s->phi[j], pbar);
        gossip_outer_step_general(DIMS, c, tbar, pbar, s->phi[i], s->delta[i]);
        gossip_outer_step_general(DIMS, c, tbar, pbar, s->phi[j], s->delta[j]);
    }
}

/* m steps of SGD on 1/2 (theta - c)' A (theta - c), c drawn anew each step (c = 0 without noise), A diagonal
 * in [0.2, 1]. */
static void inner_steps(struct swarm *s, double rate, int steps, double noise, struct numbers *n)
{
    for (size_t i = 0; i < s->nodes; i++) {
        memcpy(s->theta[i], s->phi[i], sizeof s->theta[i]);
        for (int step = 0; step < steps; step++) {
            for (size_t d = 0; d < DIMS; d++) {
                double a = 0.2 + 0.8 * (double)d / (DIMS - 1);
                double c = noise > 0 ? noise * numbers_normal(n) : 0;
                s->theta[i][d] -= (float)(rate * a * ((double)s->theta[i][d] - c));
            }
        }
    }
}

/* Stationary spread on the quadratic and the mean's error, both averaged over time. */
static double quadratic_spread(double rate, double *mean_error)
{
    static struct swarm s;
    struct numbers n;
    struct gossip_outer c = gossip_outer_default();
    double sum = 0, error = 0;
    int rounds = 600, settled = 200;
    memset(&s, 0, sizeof s);
    s.nodes = NODES;
    numbers_init(&n, 7);
    for (int round = 0; round < rounds; round++) {
        inner_steps(&s, rate, 10, 1.0, &n);
        outer_round(&s, &c, 0, &n);
        if (round < settled)
            continue;
        sum += spread(&s);
        for (size_t d = 0; d < DIMS; d++) {
            double mean = 0;
            for (size_t i = 0; i < NODES; i++)
                mean += (double)s.phi[i][d] / NODES;
            error += mean * mean / DIMS;
        }
    }
    *mean_error = sqrt(error / (rounds - settled));
    return sum / (rounds - settled);
}

Test(outer, replica_spread_on_a_quadratic_falls_with_the_inner_rate)
{
    /* Theorem 1: Var(phi) ~ omega^2.  The slope of log spread over log rate approaches 1 from below as m *
     * omega * A goes to 0. */
    double errors[4], spreads[4], rates[4] = {0.08, 0.04, 0.02, 0.01};
    for (int i = 0; i < 4; i++)
        spreads[i] = quadratic_spread(rates[i], &errors[i]);
    double previous = 0;
    for (int i = 1; i < 4; i++) {
        double slope = log(spreads[i - 1] / spreads[i]) / log(2.0);
        cr_assert_gt(slope, previous, "slope %d: %g after %g", i, slope, previous);
        cr_assert_lt(errors[i], errors[i - 1]);
        previous = slope;
    }
    cr_assert(previous > 0.8 && previous < 1.05, "last slope %g", previous);
    double known[4] = {0.0952, 0.0589, 0.0340, 0.0186}; /* of another implementation */
    for (int i = 0; i < 4; i++)
        cr_assert(spreads[i] > known[i] * 0.85 && spreads[i] < known[i] * 1.15, "spread %g at %g", spreads[i],
                  rates[i]);
}

/* Spread after `rounds` when the inner steps only add noise of 0.1: nothing but the pairing holds replicas
 * together. */
static double flat_spread(float gamma, double fails, bool paired, int rounds)
{
    static struct swarm s;
    struct numbers n;
    struct gossip_outer c = {.alpha = 0.5f, .beta = 0.7f, .gamma = gamma};
    memset(&s, 0, sizeof s);
    s.nodes = NODES;
    numbers_init(&n, 11);
    for (int round = 0; round < rounds; round++) {
        for (size_t i = 0; i < NODES; i++)
            for (size_t d = 0; d < DIMS; d++)
                s.theta[i][d] = s.phi[i][d] + (float)(0.1 * numbers_normal(&n));
        outer_round(&s, &c, paired ? fails : 2.0, &n);
    }
    return spread(&s);
}

Test(outer, the_pull_to_the_mean_bounds_a_flat_direction)
{
    /* This fails if somebody drops the gamma term: without it, as without pairing, spread grows as
     * sqrt(rounds). */
    for (int rounds = 100; rounds <= 800; rounds *= 2)
        cr_assert_lt(flat_spread(0.7f, 0, true, rounds), 0.16);
    double early = flat_spread(0.0f, 0, true, 100), late = flat_spread(0.0f, 0, true, 800);
    cr_assert(late > 1.8 && late > 2.0 * early && late < 4.0 * early, "%g, %g", early, late);
    double alone_early = flat_spread(0.7f, 0, false, 100), alone = flat_spread(0.7f, 0, false, 800);
    cr_assert(alone > 2.7 && alone > 2.0 * alone_early, "%g, %g", alone_early, alone);
    double third = flat_spread(0.7f, 0.3, true, 800), most = flat_spread(0.7f, 0.6, true, 800);
    cr_assert(third < 0.25 && most < 0.4, "%g, %g", third, most);
}

/* Mean growth of the spread per round, no gradient: theta is phi. */
static double consensus_factor(float alpha, float gamma, size_t nodes)
{
    static struct swarm s;
    struct numbers n;
    struct gossip_outer c = {.alpha = alpha, .beta = gamma, .gamma = gamma};
    int rounds = 150;
    memset(&s, 0, sizeof s);
    s.nodes = nodes;
    numbers_init(&n, 3);
    for (size_t i = 0; i < nodes; i++)
        numbers_fill(&n, DIMS, 1.0, s.phi[i]);
    for (int round = 0; round < rounds; round++) {
        memcpy(s.theta, s.phi, sizeof s.theta);
        outer_round(&s, &c, 0, &n);
    }
    return pow(spread(&s), 1.0 / rounds);
}

Test(outer, consensus_diverges_where_the_table_says)
{
    cr_assert_lt(consensus_factor(0.5f, 0.7f, 32), 0.9);
    cr_assert_lt(consensus_factor(0.6f, 0.7f, 32), 0.95);
    cr_assert_lt(consensus_factor(0.3f, 0.7f, 32), 0.9);
    double edge = consensus_factor(0.5f, 1.6f, 32);
    cr_assert(edge > 1.01 && edge < 1.08, "%g", edge);
    cr_assert_gt(consensus_factor(0.9f, 0.7f, 32), 1.03);
    cr_assert_gt(consensus_factor(0.9f, 0.7f, 8), 1.03);
}

Test(outer, the_printed_sign_of_beta_diverges)
{
    static struct swarm s;
    struct numbers n;
    struct gossip_outer right = gossip_outer_default();
    for (int sign = -1; sign <= 1; sign += 2) {
        struct gossip_outer c = right;
        c.beta = (float)sign * right.beta;
        memset(&s, 0, sizeof s);
        s.nodes = NODES;
        numbers_init(&n, 5);
        for (size_t i = 0; i < NODES; i++)
            numbers_fill(&n, DIMS, 1.0, s.phi[i]);
        for (int round = 0; round < 150; round++) {
            inner_steps(&s, 0.05, 10, 0, &n);
            outer_round(&s, &c, 0, &n);
        }
        double size = fabs((double)s.phi[0][DIMS - 1]);
        cr_assert(sign > 0 ? size < 1e-6 : size > 1e3, "sign %d: %g", sign, size);
    }
}
