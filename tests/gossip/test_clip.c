/* The norm of a step before it is taken must be what it then is, and no series of partners may carry phi off.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "gossip/merge/clip.h"
#include "gossip/merge/outer.h"
#include "gossip/merge/reference.h"
#include "numbers.h"

enum { LEN = 5003 };

static float theta[LEN], phi[LEN], delta[LEN], ours[LEN], theirs[LEN], diff[LEN];

static void fill(uint64_t seed)
{
    struct numbers n;
    numbers_init(&n, seed);
    numbers_fill(&n, LEN, 1.0, theta);
    numbers_fill(&n, LEN, 1.0, phi);
    numbers_fill(&n, LEN, 0.3, delta);
    for (size_t i = 0; i < LEN; i++) {
        ours[i] = theta[i] + (float)(0.01 * numbers_normal(&n));
        theirs[i] = theta[i] + (float)numbers_normal(&n);
    }
}

static double norm_of(const float values[])
{
    double sum = 0;
    for (size_t i = 0; i < LEN; i++)
        sum += (double)values[i] * (double)values[i];
    return sqrt(sum);
}

Test(clip, sums_have_the_bits_of_the_reference_at_every_length)
{
    size_t lengths[] = {0, 1, 15, 16, 17, 1023, 1024, 1025, 1040, LEN};
    fill(1);
    for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; k++) {
        struct gossip_step_sums fast = {1, 2, 3}, slow = {1, 2, 3};
        gossip_step_sums_add(&fast, lengths[k], 0.5f, 0.7f, theta, phi, delta, ours, theirs);
        gossip_reference_step_sums(&slow, lengths[k], 0.5f, 0.7f, theta, phi, delta, ours, theirs);
        cr_assert_eq(memcmp(&fast, &slow, sizeof fast), 0, "%zu values", lengths[k]);
    }
}

Test(clip, foretells_the_norm_of_delta_for_any_weight)
{
    float weights[] = {0.0f, 0.1f, 0.25f, 0.5f};
    for (size_t k = 0; k < sizeof weights / sizeof weights[0]; k++) {
        struct gossip_step_sums sums = {0};
        fill(k);
        gossip_step_sums_add(&sums, LEN, 0.5f, 0.7f, theta, phi, delta, ours, theirs);
        double foretold = gossip_step_norm(&sums, 0.7f, weights[k]);
        gossip_pair_step(LEN, 0.5f, 0.7f, weights[k], theta, ours, theirs, phi, delta, diff);
        cr_assert_float_eq(foretold / norm_of(delta), 1.0, 1e-5);
    }
}

Test(clip, holds_delta_to_the_radius_by_its_coefficients_alone)
{
    static float before[LEN];
    struct gossip_step_sums sums = {0};
    fill(7);
    gossip_step_sums_add(&sums, LEN, 0.5f, 0.7f, theta, phi, delta, ours, theirs);
    double norm = gossip_step_norm(&sums, 0.7f, 0.5f);
    float scale = gossip_clip_scale(norm, 10.0);
    cr_assert_lt(scale, 0.5f);
    memcpy(before, phi, sizeof before);
    gossip_pair_step(LEN, 0.5f * scale, 0.7f * scale, 0.5f, theta, ours, theirs, phi, delta, diff);
    cr_assert_float_eq(norm_of(delta), 10.0, 1e-3);
    for (size_t i = 0; i < LEN; i++)
        before[i] -= phi[i];
    cr_assert_float_eq(norm_of(before), 10.0, 1e-3);
}

Test(clip, scale_is_one_within_the_radius_and_without_a_past)
{
    struct gossip_history norms = {0};
    cr_assert_eq(gossip_clip_scale(5, 5), 1.0f);
    cr_assert_eq(gossip_clip_scale(0, 5), 1.0f);
    cr_assert_eq(gossip_clip_scale(1e30, 0), 1.0f);
    cr_assert_eq(gossip_clip_scale(1e30, gossip_step_radius(&norms)), 1.0f);
    for (int i = 0; i < GOSSIP_HISTORY_MIN; i++)
        gossip_history_push(&norms, 2.0);
    cr_assert_eq(gossip_step_radius(&norms), GOSSIP_STEP_FACTOR * 2.0);
    cr_assert_float_eq(gossip_clip_scale(12, gossip_step_radius(&norms)), 0.5f, 1e-6);
}

Test(clip, a_linear_warm_up_from_nothing_is_never_clipped)
{
    /* Inner steps whose length grows with the round, all in one direction: the fastest honest growth. */
    struct gossip_history norms = {0};
    float position = 0, momentum = 0, moved;
    for (int round = 1; round <= 200; round++) {
        struct gossip_step_sums sums = {0};
        float snapshot = position + (float)round;
        gossip_step_sums_add(&sums, 1, 0.5f, 0.7f, &snapshot, &position, &momentum, &snapshot, &snapshot);
        double norm = gossip_step_norm(&sums, 0.7f, 0.5f);
        cr_assert_eq(gossip_clip_scale(norm, gossip_step_radius(&norms)), 1.0f, "round %d", round);
        gossip_history_push(&norms, norm);
        gossip_outer_step(1, 0.5f, 0.7f, &snapshot, &snapshot, &position, &momentum, &moved);
    }
}

Test(clip, one_bad_partner_moves_phi_by_at_most_what_the_header_says)
{
    /* Difference cut at tau, then solo rounds on a loss without slope: phi moves by beta tau / 2 at once and
     * by beta tau / (2 (1 - alpha)) in all, when theta moves along (a flat loss keeps it where phi is). */
    double tau = 0.7, first = 0;
    memset(theta, 0, sizeof theta);
    memset(phi, 0, sizeof phi);
    memset(delta, 0, sizeof delta);
    for (size_t i = 0; i < LEN; i++)
        theirs[i] = (float)(tau / sqrt(LEN));
    gossip_pair_step(LEN, 0.5f, 0.7f, 0.5f, theta, theta, theirs, phi, delta, diff);
    first = norm_of(phi);
    for (int round = 0; round < 40; round++) {
        memcpy(theta, phi, sizeof theta);
        gossip_outer_step(LEN, 0.5f, 0.7f, theta, theta, phi, delta, diff);
    }
    cr_assert_float_eq(first, 0.7 * tau / 2, 1e-5);
    cr_assert_float_eq(norm_of(phi), 0.7 * tau / (2 * (1 - 0.5)), 1e-5);
}
