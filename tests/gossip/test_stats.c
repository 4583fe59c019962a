/* Sums must agree with double-precision ones, and the corrected average must keep what it claims to keep. */
#include <criterion/criterion.h>
#include <string.h>

#include "gossip/merge/average.h"
#include "gossip/merge/reference.h"
#include "gossip/merge/stats.h"
#include "numbers.h"

enum { LEN = 40000, MODELS = 16 };

static float models[MODELS][LEN];

static double variance(size_t n, const float values[])
{
    double mean = 0, sum = 0;
    for (size_t i = 0; i < n; i++)
        mean += (double)values[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        sum += ((double)values[i] - mean) * ((double)values[i] - mean);
    return sum / (double)n;
}

static double mean_of(size_t n, const float values[])
{
    double mean = 0;
    for (size_t i = 0; i < n; i++)
        mean += (double)values[i] / (double)n;
    return mean;
}

Test(stats, sums_match_a_double_reference_at_every_length)
{
    struct numbers n;
    numbers_init(&n, 1);
    numbers_fill(&n, LEN, 1.0, models[0]);
    numbers_fill(&n, LEN, 2.0, models[1]);
    size_t lengths[] = {0, 1, 7, 8, 9, 1023, 1024, 1025, 8191, LEN};
    for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; k++) {
        struct gossip_sums sums = {0};
        double x = 0, xx = 0, xy = 0, dd = 0, scale = 1;
        gossip_sums_add(&sums, lengths[k], models[0], models[1]);
        for (size_t i = 0; i < lengths[k]; i++) {
            double a = (double)models[0][i], b = (double)models[1][i];
            x += a;
            xx += a * a;
            xy += a * b;
            dd += (a - b) * (a - b);
            scale += a * a + b * b;
        }
        cr_assert_eq(sums.n, lengths[k]);
        cr_assert_float_eq(sums.x, x, 1e-5 * scale);
        cr_assert_float_eq(sums.xx, xx, 1e-5 * scale);
        cr_assert_float_eq(sums.xy, xy, 1e-5 * scale);
        cr_assert_float_eq(gossip_sums_distance(&sums), sqrt(dd), 1e-5 * scale);
    }
}

Test(stats, sums_have_the_bits_of_the_reference_at_every_length)
{
    struct numbers n;
    size_t lengths[] = {0, 1, 15, 16, 17, 1023, 1024, 1025, 1040, 2049, LEN};
    numbers_init(&n, 8);
    numbers_fill(&n, LEN, 1.0, models[0]);
    numbers_fill(&n, LEN, 2.0, models[1]);
    for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; k++) {
        struct gossip_sums fast = {.n = 5, .x = 1, .dd = 3}, slow = fast;
        double moments[2][2] = {{1, 2}, {1, 2}};
        gossip_sums_add(&fast, lengths[k], models[0], models[1]);
        gossip_reference_sums(&slow, lengths[k], models[0], models[1]);
        cr_assert_eq(memcmp(&fast, &slow, sizeof fast), 0, "%zu values", lengths[k]);
        gossip_moments_add(lengths[k], models[0], &moments[0][0], &moments[0][1]);
        gossip_reference_moments(lengths[k], models[0], &moments[1][0], &moments[1][1]);
        cr_assert_eq(memcmp(moments[0], moments[1], sizeof moments[0]), 0, "%zu values", lengths[k]);
    }
}

Test(stats, distance_of_close_models_is_not_lost_in_cancellation)
{
    struct numbers n;
    struct gossip_sums sums = {0};
    double dd = 0;
    numbers_init(&n, 2);
    numbers_fill(&n, LEN, 1.0, models[0]);
    for (size_t i = 0; i < LEN; i++) {
        models[1][i] = models[0][i] * (1 + 1e-5f);
        dd += pow((double)models[1][i] - (double)models[0][i], 2);
    }
    gossip_sums_add(&sums, LEN, models[0], models[1]);
    cr_assert_float_eq(gossip_sums_distance(&sums) / sqrt(dd), 1.0, 1e-4);
}

Test(stats, averaging_strangers_halves_variance_and_the_correction_keeps_it)
{
    /* A tournament of 16 independent N(0, 0.02^2) tensors: deviation falls by sqrt(2) a level without the
     * correction and stays within 2 % with it. */
    static float plain[MODELS][LEN];
    struct numbers n;
    numbers_init(&n, 3);
    for (size_t i = 0; i < MODELS; i++)
        numbers_fill(&n, LEN, 0.02, models[i]);
    memcpy(plain, models, sizeof plain);
    double expected[4] = {0.494, 0.241, 0.126, 0.061};
    for (size_t level = 0, left = MODELS / 2; left >= 1; level++, left /= 2) {
        for (size_t i = 0; i < left; i++) {
            static float out[LEN];
            gossip_average_corrected(LEN, GOSSIP_TENSOR_MATRIX, models[2 * i], models[2 * i + 1], out);
            memcpy(models[i], out, sizeof out);
            gossip_average_corrected(LEN, GOSSIP_TENSOR_VECTOR, plain[2 * i], plain[2 * i + 1], out);
            memcpy(plain[i], out, sizeof out);
        }
        double corrected = sqrt(variance(LEN, models[0])) / 0.02;
        double ratio = variance(LEN, plain[0]) / (0.02 * 0.02);
        cr_assert(corrected > 0.98 && corrected < 1.02, "level %zu: %g", level, corrected);
        cr_assert(ratio > expected[level] * 0.9 && ratio < expected[level] * 1.1, "level %zu: %g", level,
                  ratio);
    }
}

Test(stats, correction_keeps_the_mean)
{
    static float out[LEN];
    struct numbers n;
    numbers_init(&n, 4);
    for (size_t k = 0; k < 2; k++)
        for (size_t i = 0; i < LEN; i++)
            models[k][i] = (float)(0.3 + 0.02 * numbers_normal(&n));
    gossip_average_corrected(LEN, GOSSIP_TENSOR_MATRIX, models[0], models[1], out);
    double before = 0.5 * (mean_of(LEN, models[0]) + mean_of(LEN, models[1]));
    cr_assert_float_eq(mean_of(LEN, out), before, 1e-6);
    cr_assert_float_eq(sqrt(variance(LEN, out)), 0.02, 0.0005);
}

Test(stats, identical_and_close_models_have_factor_exactly_one)
{
    /* At any scale: a floor that is not relative would shrink small weights at every merge. */
    struct numbers n;
    for (int exponent = -12; exponent <= 6; exponent += 3) {
        struct gossip_sums same = {0}, close = {0};
        double size = pow(10, exponent);
        numbers_init(&n, 5);
        numbers_fill(&n, LEN, size, models[0]);
        for (size_t i = 0; i < LEN; i++)
            models[1][i] = models[0][i] + (float)(0.1 * size * numbers_normal(&n));
        gossip_sums_add(&same, LEN, models[0], models[0]);
        gossip_sums_add(&close, LEN, models[0], models[1]);
        cr_assert_eq(gossip_correction_of(&same, GOSSIP_TENSOR_MATRIX).factor, 1.0f);
        cr_assert_eq(gossip_correction_of(&close, GOSSIP_TENSOR_MATRIX).factor, 1.0f);
    }
}

Test(stats, factor_follows_the_correlation_below_the_gate)
{
    /* sqrt(2 / (1 + rho)) for rho < 0.5, else 1; negative correlation too, short of opposite tensors. */
    struct numbers n;
    double wanted[] = {0.0, 0.3, 0.45, 0.6, 0.9, -0.5, -0.9};
    for (size_t k = 0; k < sizeof wanted / sizeof wanted[0]; k++) {
        struct gossip_sums sums = {0};
        double rho = wanted[k];
        numbers_init(&n, 6);
        for (size_t i = 0; i < LEN; i++) {
            double shared = numbers_normal(&n), own = numbers_normal(&n);
            models[0][i] = (float)shared;
            models[1][i] = (float)(rho * shared + sqrt(1 - rho * rho) * own);
        }
        gossip_sums_add(&sums, LEN, models[0], models[1]);
        double expected = rho < 0.5 ? sqrt(2 / (1 + rho)) : 1.0;
        cr_assert_float_eq(gossip_correction_of(&sums, GOSSIP_TENSOR_MATRIX).factor, expected,
                           0.03 * expected);
        cr_assert_float_eq(gossip_sums_correlation(&sums), rho, 0.02);
    }
}

Test(stats, vectors_single_values_and_constants_are_never_corrected)
{
    struct numbers n;
    struct gossip_sums vectors = {0}, single = {0}, constant = {0}, opposite = {0}, zero = {0};
    numbers_init(&n, 7);
    numbers_fill(&n, LEN, 1.0, models[0]);
    numbers_fill(&n, LEN, 1.0, models[1]);
    gossip_sums_add(&vectors, LEN, models[0], models[1]);
    gossip_sums_add(&single, 1, models[0], models[1]);
    cr_assert_eq(gossip_correction_of(&vectors, GOSSIP_TENSOR_VECTOR).factor, 1.0f);
    cr_assert_eq(gossip_correction_of(&single, GOSSIP_TENSOR_MATRIX).factor, 1.0f);
    for (size_t i = 0; i < LEN; i++) {
        models[2][i] = -models[0][i];
        models[3][i] = 0.25f;
        models[4][i] = 0;
    }
    gossip_sums_add(&opposite, LEN, models[0], models[2]);
    gossip_sums_add(&constant, LEN, models[0], models[3]);
    gossip_sums_add(&zero, LEN, models[4], models[4]);
    cr_assert_eq(gossip_correction_of(&opposite, GOSSIP_TENSOR_MATRIX).factor, 1.0f);
    cr_assert_eq(gossip_correction_of(&constant, GOSSIP_TENSOR_MATRIX).factor, 1.0f);
    cr_assert_eq(gossip_correction_of(&zero, GOSSIP_TENSOR_MATRIX).factor, 1.0f);
    cr_assert_eq(gossip_sums_correlation(&zero), 1.0);
}

Test(stats, finiteness_is_seen_at_every_place)
{
    float values[37];
    for (size_t i = 0; i < 37; i++)
        values[i] = (float)i;
    cr_assert(gossip_all_finite(37, values));
    cr_assert(gossip_all_finite(0, values));
    float bad[] = {NAN, INFINITY, -INFINITY, 2e30f};
    for (size_t k = 0; k < 4; k++) {
        for (size_t i = 0; i < 37; i++) {
            float held = values[i];
            values[i] = bad[k];
            cr_assert_not(gossip_all_finite(37, values));
            values[i] = held;
        }
    }
}
