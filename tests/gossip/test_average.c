/* Fast kernels must have the reference's bits at every length, alignment and count; corrected averages must
 * keep the variance of strangers, leave friends alone, and never ratchet. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "gossip/merge/average.h"
#include "gossip/merge/outer.h"
#include "gossip/merge/reference.h"
#include "gossip/merge/stream.h"
#include "numbers.h"

enum { LEN = 40000, MODELS = GOSSIP_MODELS_MAX, NODES = 8, SMALL = 600 };

static float model[MODELS][LEN];
static const float *models[MODELS];

static void fill(uint64_t seed, double deviation)
{
    struct numbers n;
    numbers_init(&n, seed);
    for (size_t k = 0; k < MODELS; k++) {
        numbers_fill(&n, LEN, deviation, model[k]);
        models[k] = model[k];
    }
}

static double variance(size_t n, const float values[])
{
    double mean = 0, sum = 0;
    for (size_t i = 0; i < n; i++)
        mean += (double)values[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        sum += ((double)values[i] - mean) * ((double)values[i] - mean);
    return sum / (double)n;
}

/* Arrays on both sides of the size from which results are stored past the caches, with every alignment. */
enum { STREAMED = STREAM_MIN + 1029, ARRAYS = 6 };

static void same_bits(size_t n, size_t shift)
{
    static float start[ARRAYS][STREAMED + 8], fast[4][STREAMED + 8], slow[4][STREAMED + 8];
    struct gossip_outer config = {.alpha = 0.5f, .beta = 0.7f, .gamma = 0.9f};
    struct numbers numbers;
    const float *in[ARRAYS];
    numbers_init(&numbers, n + shift);
    for (size_t k = 0; k < ARRAYS; k++) {
        for (size_t i = 0; i < n + 8; i++)
            start[k][i] = (float)(numbers_unit(&numbers) - 0.5);
        in[k] = start[k] + k % 3;
    }
    for (size_t rule = 0; rule < 8; rule++) {
        float *f[4], *s[4];
        for (size_t k = 0; k < 4; k++) {
            memcpy(fast[k], start[k], (n + 8) * sizeof(float));
            memcpy(slow[k], start[k], (n + 8) * sizeof(float));
            f[k] = fast[k] + shift;
            s[k] = slow[k] + shift;
        }
        if (rule == 0) {
            gossip_outer_step(n, 0.5f, 0.7f, in[4], in[5], f[0], f[1], f[2]);
            gossip_reference_outer_step(n, 0.5f, 0.7f, in[4], in[5], s[0], s[1], s[2]);
        } else if (rule == 1) {
            gossip_pair_step(n, 0.5f, 0.7f, 0.3f, in[3], in[4], in[5], f[0], f[1], f[2]);
            gossip_reference_pair_step(n, 0.5f, 0.7f, 0.3f, in[3], in[4], in[5], s[0], s[1], s[2]);
        } else if (rule == 2) {
            gossip_outer_step_general(n, &config, in[4], in[5], f[0], f[1]);
            gossip_reference_outer_step_general(n, &config, in[4], in[5], s[0], s[1]);
        } else if (rule == 3) {
            gossip_pair_target(n, 0.3f, in[3], in[4], in[5], f[0]);
            gossip_reference_pair_target(n, 0.3f, in[3], in[4], in[5], s[0]);
        } else if (rule == 4) {
            gossip_average(n, in[4], in[5], f[0]);
            gossip_reference_average(n, 2, in + 4, s[0]);
        } else if (rule == 5) {
            gossip_average_many(n, 5, in, f[0]);
            gossip_reference_average(n, 5, in, s[0]);
        } else if (rule == 6) {
            gossip_average_add(n, 6, in[4], f[0]);
            gossip_reference_average_add(n, 6, in[4], s[0]);
        } else { /* target and step one after the other are the step that does both */
            gossip_pair_step(n, 0.5f, 0.7f, 0.3f, in[3], in[4], in[5], f[0], f[1], f[2]);
            gossip_pair_target(n, 0.3f, in[3], in[4], in[5], s[3]);
            gossip_outer_step(n, 0.5f, 0.7f, s[3], in[3], s[0], s[1], s[2]);
        }
        for (size_t k = 0; k < 3; k++) /* to the end of the array: nothing beyond n may be written */
            cr_assert_eq(memcmp(fast[k], slow[k], (n + 8) * sizeof(float)), 0,
                         "rule %zu, array %zu, %zu values, shift %zu", rule, k, n, shift);
    }
}

Test(average, kernels_have_the_bits_of_the_reference)
{
    size_t lengths[] = {0, 1, 3, 15, 16, 17, 255, 256, 257, 1000, 1024, 1025, 4099};
    for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; k++)
        for (size_t shift = 0; shift < 4; shift++)
            same_bits(lengths[k], shift);
    same_bits(STREAM_MIN - 1, 0);
    same_bits(STREAM_MIN, 1);
    same_bits(STREAMED, 3);
}

Test(average, many_models_have_the_bits_of_the_reference_at_every_count)
{
    static float fast[SMALL], slow[SMALL], running[SMALL];
    fill(1, 1.0);
    for (size_t count = 1; count <= MODELS; count++) {
        gossip_average_many(SMALL, count, models, fast);
        gossip_reference_average(SMALL, count, models, slow);
        cr_assert_eq(memcmp(fast, slow, sizeof fast), 0, "%zu models", count);
        gossip_average_add(SMALL, count - 1, model[count - 1], running);
        for (size_t i = 0; i < SMALL; i++)
            cr_assert_float_eq((double)running[i], (double)fast[i], 4e-6);
    }
}

Test(average, of_n_strangers_has_a_share_of_the_variance_and_corrected_all_of_it)
{
    /* n independent tensors N(0, 0.02^2): plain variance 1 / n (0.494, 0.241, 0.126, 0.061 were measured
     * elsewhere), corrected 1.00 +- 0.02, factors sqrt(n) (1.42, 2.01, 2.80, 4.05). */
    static float out[LEN];
    double share[4] = {0.494, 0.241, 0.126, 0.061}, factors[4] = {1.42, 2.01, 2.80, 4.05};
    fill(2, 0.02);
    for (size_t k = 0, count = 2; count <= 16; k++, count *= 2) {
        double target = 0, correlation;
        for (size_t m = 0; m < count; m++)
            target += variance(LEN, model[m]) / (double)count;
        cr_assert_eq(gossip_average_corrected_many(LEN, GOSSIP_TENSOR_VECTOR, count, models, out), 1.0f);
        double plain = variance(LEN, out) / target;
        float factor = gossip_average_corrected_many(LEN, GOSSIP_TENSOR_MATRIX, count, models, out);
        double exact = gossip_reference_factor(LEN, count, models, &correlation);
        cr_assert(plain > 0.95 * share[k] && plain < 1.05 * share[k], "%zu: %g", count, plain);
        cr_assert_float_eq(sqrt(variance(LEN, out) / target), 1.0, 0.02);
        cr_assert_float_eq((double)factor / factors[k], 1.0, 0.03, "%zu: %g", count, (double)factor);
        cr_assert_float_eq((double)factor / exact, 1.0, 1e-4);
        cr_assert_float_eq(correlation, 0, 0.02);
    }
}

Test(average, two_models_of_many_are_the_pair)
{
    static float pair[LEN], many[LEN];
    fill(3, 0.02);
    gossip_average_corrected(LEN, GOSSIP_TENSOR_MATRIX, model[0], model[1], pair);
    (void)gossip_average_corrected_many(LEN, GOSSIP_TENSOR_MATRIX, 2, models, many);
    for (size_t i = 0; i < LEN; i++)
        cr_assert_float_eq((double)pair[i], (double)many[i], 1e-7);
    gossip_average_corrected(LEN, GOSSIP_TENSOR_MATRIX, model[1], model[0], many);
    cr_assert_eq(memcmp(pair, many, sizeof pair), 0, "both partners must get the same");
}

Test(average, friends_vectors_and_constants_are_left_alone)
{
    static float out[LEN], plain[LEN];
    for (size_t count = 2; count <= 16; count *= 2) {
        fill(4, 0.02);
        for (size_t k = 1; k < count; k++)
            memcpy(model[k], model[0], sizeof model[k]);
        cr_assert_eq(gossip_average_corrected_many(LEN, GOSSIP_TENSOR_MATRIX, count, models, out), 1.0f);
        gossip_average_many(LEN, count, models, plain);
        cr_assert_eq(memcmp(out, plain, sizeof out), 0);
        for (size_t i = 0; i < LEN; i++) /* not shrunk, whatever the weights' size: only rounded */
            cr_assert_float_eq((double)out[i], (double)model[0][i], 1e-6 * fabs((double)model[0][i]));
        memset(model[1], 0, sizeof model[1]);
        cr_assert_eq(gossip_average_corrected_many(LEN, GOSSIP_TENSOR_MATRIX, count, models, out), 1.0f);
    }
    fill(5, 0.02);
    cr_assert_eq(gossip_average_corrected_many(1, GOSSIP_TENSOR_MATRIX, 4, models, out), 1.0f);
    cr_assert_eq(gossip_average_corrected_many(LEN, GOSSIP_TENSOR_MATRIX, 1, models, out), 1.0f);
    cr_assert_eq(gossip_average_corrected_many(0, GOSSIP_TENSOR_MATRIX, 2, models, out), 1.0f);
}

/* Corrected average of a pair with no gate: what the gate is there for. */
static void ungated(size_t n, const float a[], const float b[], float out[])
{
    const float *pair[2] = {a, b};
    double correlation, mean = 0, factor = gossip_reference_factor(n, 2, pair, &correlation);
    gossip_average(n, a, b, out);
    for (size_t i = 0; i < n; i++)
        mean += (double)out[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(mean + factor * ((double)out[i] - mean));
}

enum merge { PLAIN, GATED, UNGATED };

/* Deviation of the first model's weights after 250 rounds of four pair merges among eight models, each with
 * noise of 0.1 a round.  Models start alike, or as strangers; all with deviation 1. */
static double after_merges(enum merge merge, bool strangers, float last[SMALL])
{
    static float now[NODES][SMALL], out[SMALL];
    struct numbers n;
    numbers_init(&n, 6);
    for (size_t k = 0; k < NODES; k++) {
        numbers_fill(&n, SMALL, 1.0, now[k]);
        if (!strangers)
            memcpy(now[k], now[0], sizeof now[k]);
    }
    for (int round = 0; round < 250; round++) {
        size_t order[NODES];
        for (size_t k = 0; k < NODES; k++)
            for (size_t i = 0; i < SMALL; i++)
                now[k][i] += (float)(0.1 * numbers_normal(&n));
        numbers_matching(&n, NODES, order);
        for (size_t k = 0; k < NODES; k += 2) {
            float *a = now[order[k]], *b = now[order[k + 1]];
            if (merge == PLAIN)
                gossip_average(SMALL, a, b, out);
            else if (merge == GATED)
                gossip_average_corrected(SMALL, GOSSIP_TENSOR_MATRIX, a, b, out);
            else
                ungated(SMALL, a, b, out);
            memcpy(a, out, sizeof out);
            memcpy(b, out, sizeof out);
        }
    }
    memcpy(last, now[0], sizeof now[0]);
    return sqrt(variance(SMALL, now[0]));
}

Test(average, a_thousand_merges_do_not_ratchet)
{
    /* Averaging removes the noise in which models differ; a correction at every merge keeps it for ever:
     * variance grows by 0.01 a round, 8 times as fast.  With the gate, models of a shared start are never
     * touched, and strangers only until they are friends. */
    static float plain[SMALL], gated[SMALL], other[SMALL];
    double shared_plain = after_merges(PLAIN, false, plain);
    double shared_gated = after_merges(GATED, false, gated);
    double shared_ungated = after_merges(UNGATED, false, other);
    cr_assert_eq(memcmp(plain, gated, sizeof plain), 0);
    cr_assert_lt(shared_plain, 1.25); /* sqrt(1 + 2.5 / 8) and a little */
    cr_assert_gt(shared_ungated, 1.5 * shared_gated, "%g, %g", shared_ungated, shared_gated);
    double stranger_plain = after_merges(PLAIN, true, plain);
    double stranger_gated = after_merges(GATED, true, gated);
    double stranger_ungated = after_merges(UNGATED, true, other);
    cr_assert_lt(stranger_plain, 0.8);
    cr_assert(stranger_gated > stranger_plain && stranger_gated < shared_plain * 1.1, "%g, %g",
              stranger_gated, stranger_plain);
    cr_assert_gt(stranger_ungated, 1.5 * stranger_gated, "%g, %g", stranger_ungated, stranger_gated);
}
