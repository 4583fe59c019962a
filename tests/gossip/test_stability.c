/* Which alpha, beta and gamma keep replicas together: the second moments of what phi and delta differ from
 * their means are followed exactly, the config check must accept only what contracts, and swarms must grow or
 * shrink as computed. */
#include <criterion/criterion.h>
#include <string.h>

#include "gossip/merge/average.h"
#include "gossip/merge/outer.h"
#include "numbers.h"

/* Pair (i, j), one coordinate, inner steps that shrink phi to (1 - k) phi (k = 0: no gradient):
 *   delta_i <- alpha delta_i - a phi_i - b phi_j,  a = (beta k + gamma) / 2,  b = (beta k - gamma) / 2
 *   phi_i <- phi_i + delta_i
 * Deviations from the swarm's mean have P = E phi_i^2, C = E phi_i delta_i, D = E delta_i^2 and, as they add
 * up to zero over n nodes and the partner is any other, E phi_i phi_j = -P / (n - 1) and so on.  One round
 * maps (P, C, D) linearly; a solo round (the exchange failed) has b = 0 and a = beta k. */
struct moments {
    double p, c, d;
};

static struct moments next(struct moments m, double alpha, double a, double b, double cross)
{
    double phi_delta = alpha * m.c - a * m.p - b * cross * m.p; /* E phi_i delta_i' */
    struct moments out;
    out.d = alpha * alpha * m.d + (a * a + b * b + 2 * a * b * cross) * m.p - 2 * alpha * a * m.c -
            2 * alpha * b * cross * m.c;
    out.p = m.p + 2 * phi_delta + out.d;
    out.c = phi_delta + out.d;
    return out;
}

/* Growth of the moments a round, by iterating: the map keeps positive definite moments so, and its largest
 * eigenvalue is real and positive then (Perron-Frobenius for cones). */
static double growth(const struct gossip_outer *config, double k, double fails, size_t nodes)
{
    double alpha = (double)config->alpha, beta = (double)config->beta, gamma = (double)config->gamma;
    double a = (beta * k + gamma) / 2, b = (beta * k - gamma) / 2;
    double cross = nodes == 0 ? 0 : -1.0 / ((double)nodes - 1);
    struct moments m = {1, 0, 1};
    double factor = 1;
    enum { SETTLE = 600, LOOK = 200 };
    for (int i = 0; i < SETTLE + LOOK; i++) {
        struct moments met = next(m, alpha, a, b, cross), alone = next(m, alpha, beta * k, 0, cross);
        m = (struct moments){(1 - fails) * met.p + fails * alone.p, (1 - fails) * met.c + fails * alone.c,
                             (1 - fails) * met.d + fails * alone.d};
        double size = m.p + m.d;
        if (!(size > 0))
            return 0;
        if (i == SETTLE)
            factor = 1;
        factor *= size;
        m = (struct moments){m.p / size, m.c / size, m.d / size};
    }
    return pow(factor, 1.0 / LOOK);
}

static double consensus_growth(double alpha, double gamma)
{
    struct gossip_outer config = {(float)alpha, (float)gamma, (float)gamma};
    return growth(&config, 0, 0, 0);
}

Test(stability, recursion_gives_the_known_factors)
{
    /* alpha 0 has the closed form 1 - gamma + gamma^2 / 2. */
    for (double gamma = 0.1; gamma < 2.5; gamma += 0.1)
        cr_assert_float_eq(consensus_growth(0, gamma), 1 - gamma + gamma * gamma / 2, 1e-5);
    cr_assert_float_eq(consensus_growth(0, 1), 0.50, 0.005);
    cr_assert_float_eq(consensus_growth(0.3, 0.58), 0.55, 0.01);
    cr_assert_float_eq(consensus_growth(0.5, 0.30), 0.63, 0.01);
    cr_assert_float_eq(consensus_growth(0.3, 0.7), 0.55, 0.01);
    cr_assert_float_eq(consensus_growth(0.5, 0.7), 0.70, 0.01);
    cr_assert_float_eq(consensus_growth(0.9, 0.7), 1.10, 0.01);
}

/* Largest gamma that does not grow when this share of the exchanges fails. */
static double limit_of(double alpha, double fails)
{
    double low = 0.01, high = 3;
    for (int i = 0; i < 30; i++) {
        double middle = (low + high) / 2;
        struct gossip_outer config = {(float)alpha, (float)middle, (float)middle};
        if (growth(&config, 0, fails, 0) < 1)
            low = middle;
        else
            high = middle;
    }
    return low;
}

Test(stability, the_limit_has_a_closed_form_and_the_table_follows_from_it)
{
    double table[4][2] = {{0, 2.0}, {0.3, 1.81}, {0.5, 1.49}, {0.9, 0.37}};
    for (size_t k = 0; k < 4; k++)
        cr_assert_float_eq(limit_of(table[k][0], 0), table[k][1], 0.015, "alpha %g", table[k][0]);
    for (double fails = 0; fails < 0.95; fails += 0.3) {
        for (double alpha = 0; alpha < 0.95; alpha += 0.1) {
            double limit = limit_of(alpha, fails), expected = 2 * (1 - alpha * alpha) / (1 + alpha * fails);
            cr_assert_float_eq(limit, expected, 0.01, "alpha %g, %g fail: %g", alpha, fails, limit);
        }
    }
    for (float alpha = 0; alpha <= 0.6f; alpha += 0.1f)
        cr_assert_float_eq((double)gossip_outer_gamma_max(alpha), limit_of((double)alpha, 0.6), 0.01);
    /* The paper's interval at alpha = 0.9, n = 2 (eq. 74): alpha to sqrt(2 + alpha^2). */
    for (double gamma = 0.9; gamma < 1.68; gamma += 0.06)
        cr_assert_gt(consensus_growth(0.9, gamma), 1.0);
}

Test(stability, all_that_the_check_accepts_contracts)
{
    /* A grid of configs up to the very limits, with inner steps from none to ones that reach the optimum,
     * with and without failing exchanges: spread must not grow, and must shrink where something pulls.  The
     * mean obeys heavy ball: roots of z^2 - (1 + alpha - beta k) z + alpha inside the unit circle. */
    const char *why;
    size_t accepted = 0;
    for (int x = 0; x <= 6; x++) {
        float alpha = 0.1f * (float)x;
        float most = gossip_outer_gamma_max(alpha);
        for (int y = 1; y <= 8; y++) {
            for (int z = 1; z <= 8; z++) {
                struct gossip_outer config = {alpha, most * 0.1249f * (float)y, most * 0.1249f * (float)z};
                cr_assert_eq(gossip_outer_check(&config, &why), 0, "%g %g %g: %s", (double)alpha,
                             (double)config.beta, (double)config.gamma, why);
                accepted++;
                for (double k = 0; k <= 1; k += 0.25) {
                    for (double fails = 0; fails < 0.65; fails += 0.2) {
                        double factor = growth(&config, k, fails, 0);
                        cr_assert(factor < 1 + 1e-6, "alpha %g beta %g gamma %g k %g fails %g: %g",
                                  (double)alpha, (double)config.beta, (double)config.gamma, k, fails, factor);
                    }
                    double pull = (double)config.beta * k;
                    cr_assert(pull < 2 * (1 + (double)alpha));
                }
            }
        }
    }
    cr_assert_eq(accepted, 7 * 8 * 8);
}

enum { NODES_MAX = 32, DIMS = 64 };

/* Measured growth of the mean square deviation a round, theta = phi. */
static double swarm_growth(double alpha, double gamma, size_t nodes, int rounds)
{
    static float phi[NODES_MAX][DIMS], delta[NODES_MAX][DIMS];
    struct gossip_outer config = {(float)alpha, (float)gamma, (float)gamma};
    struct numbers n;
    double logs = 0;
    memset(delta, 0, sizeof delta);
    numbers_init(&n, 31);
    for (size_t i = 0; i < nodes; i++)
        numbers_fill(&n, DIMS, 1.0, phi[i]);
    for (int round = 0; round < 2 * rounds; round++) {
        size_t order[NODES_MAX];
        double before = 0, after = 0;
        for (int side = 0; side < 2; side++) {
            double square = 0;
            for (size_t d = 0; d < DIMS; d++) {
                double mean = 0, momentum = 0;
                for (size_t i = 0; i < nodes; i++) {
                    mean += (double)phi[i][d] / (double)nodes;
                    momentum += (double)delta[i][d] / (double)nodes;
                }
                for (size_t i = 0; i < nodes; i++) {
                    phi[i][d] = (float)((double)phi[i][d] - mean);
                    delta[i][d] = (float)((double)delta[i][d] - momentum);
                    square +=
                        (double)phi[i][d] * (double)phi[i][d] + (double)delta[i][d] * (double)delta[i][d];
                }
            }
            if (side == 1) {
                after = square;
                break;
            }
            before = square;
            numbers_matching(&n, nodes, order);
            for (size_t k = 0; k < nodes; k += 2) {
                float pbar[DIMS];
                gossip_average(DIMS, phi[order[k]], phi[order[k + 1]], pbar);
                gossip_outer_step_general(DIMS, &config, pbar, pbar, phi[order[k]], delta[order[k]]);
                gossip_outer_step_general(DIMS, &config, pbar, pbar, phi[order[k + 1]], delta[order[k + 1]]);
            }
        }
        if (round >= rounds)
            logs += log(after / before);
        /* Neither vanish nor overflow. */
        float scale = (float)(1 / sqrt(after / (double)(nodes * DIMS)));
        for (size_t i = 0; i < nodes; i++) {
            for (size_t d = 0; d < DIMS; d++) {
                phi[i][d] *= scale;
                delta[i][d] *= scale;
            }
        }
    }
    return exp(logs / rounds);
}

Test(stability, swarms_follow_the_recursion)
{
    /* Second moments are an average over matchings, one swarm a single path, whose logarithm grows no faster
     * (Jensen) and for many nodes hardly slower.  At alpha 0.5, gamma 1.6 32 nodes grow by about 4 % in
     * spread and 8 nodes still shrink; at 0.9, 0.7 both grow. */
    double cases[4][2] = {{0, 0.7}, {0.3, 0.7}, {0.5, 0.7}, {0.5, 1.3}};
    for (size_t k = 0; k < 4; k++) {
        struct gossip_outer config = {(float)cases[k][0], (float)cases[k][1], (float)cases[k][1]};
        double expected = growth(&config, 0, 0, 32),
               measured = swarm_growth(cases[k][0], cases[k][1], 32, 150);
        cr_assert(measured < 1.02 * expected && measured > 0.9 * expected, "%g %g: %g, computed %g",
                  cases[k][0], cases[k][1], measured, expected);
    }
    double many = sqrt(swarm_growth(0.5, 1.6, 32, 150)), few = sqrt(swarm_growth(0.5, 1.6, 8, 150));
    cr_assert(many > 1.01 && many < 1.08, "%g", many);
    cr_assert_lt(few, 1.0);
    struct gossip_outer heavy = {0.9f, 0.7f, 0.7f};
    for (size_t nodes = 8; nodes <= 32; nodes *= 4) {
        double grows = sqrt(swarm_growth(0.9, 0.7, nodes, 150)), expected = sqrt(growth(&heavy, 0, 0, nodes));
        cr_assert(grows > 1.01 && grows < expected + 0.005, "%zu nodes: %g, computed %g", nodes, grows,
                  expected);
    }
}

Test(stability, a_whole_cycle_late_is_marginal_at_one_half_and_stable_at_one_quarter)
{
    /* Pair averaging applied one round late with the same partner: x_i <- x_i + w (x_j - x_i) of the round
     * before; the difference y obeys y'' = y' - 2 w y.  Spectral radius sqrt(2 w) where roots are complex: 1
     * at w = 1/2, 0.71 at the weight that gossip_partner_weight gives. */
    for (int late = 0; late < 2; late++) {
        double weight = late == 1 ? (double)gossip_partner_weight(1.0f) : 0.5;
        double before = 1, now = 1, size = 0;
        for (int round = 0; round < 120; round++) {
            double after = now - 2 * weight * before;
            before = now;
            now = after;
            if (round >= 114)
                size = fmax(size, fabs(now));
        }
        cr_assert(late == 1 ? size < 1e-10 : size > 0.5 && size < 3, "%g", size);
    }
}
