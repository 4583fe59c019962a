/* Averages in one pass, corrected averages in two. */
#include "gossip/merge/average.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "gossip/merge/clones.h"
#include "gossip/merge/stream.h"

/* Values handled at a time by the corrected average, which reads each piece twice. */
enum { PIECE = 1024 };

#define INLINED static inline __attribute__((always_inline))

/* out <- mean + factor * (average - mean), or the average alone; inlined with constants for `corrected`. */
INLINED void average_values(size_t n, bool corrected, float mean, float factor, const float *restrict a,
                            const float *restrict b, float *restrict out)
{
    for (size_t i = 0; i < n; i++) {
        float average = 0.5f * (a[i] + b[i]);
        out[i] = corrected ? mean + factor * (average - mean) : average;
    }
}

INLINED void average_pair(size_t n, bool corrected, float mean, float factor, const float *restrict a,
                          const float *restrict b, float *restrict out)
{
    float piece[STREAM_PIECE];
    if (n < STREAM_MIN) {
        average_values(n, corrected, mean, factor, a, b, out);
        return;
    }
    size_t whole = n - n % STREAM_PIECE;
    for (size_t i = 0; i < whole; i += STREAM_PIECE) {
        stream_ahead(a + i);
        stream_ahead(b + i);
        average_values(STREAM_PIECE, corrected, mean, factor, a + i, b + i, piece);
        stream_out(STREAM_PIECE, piece, out + i);
    }
    average_values(n - whole, corrected, mean, factor, a + whole, b + whole, out + whole);
    stream_end();
}

GOSSIP_CLONES
void gossip_average(size_t n, const float a[restrict], const float b[restrict], float out[restrict])
{
    average_pair(n, false, 0.0f, 1.0f, a, b, out);
}

GOSSIP_CLONES
static void average_about(size_t n, struct gossip_correction correction, const float x[restrict],
                          const float y[restrict], float out[restrict])
{
    average_pair(n, true, correction.mean, correction.factor, x, y, out);
}

/* sum <- (more ? sum : 0) + models[0] + ... + models[count - 1], from value `start` of each; inlined with a
 * constant count, so that the models are read side by side. */
INLINED void sum_values(size_t n, size_t count, bool more, size_t start, const float *const models[],
                        float *restrict sum)
{
    const float *model[4];
    for (size_t k = 0; k < count; k++)
        model[k] = models[k] + start;
    for (size_t i = 0; i < n; i++) {
        float value = more ? sum[i] + model[0][i] : model[0][i];
        for (size_t k = 1; k < count; k++)
            value += model[k][i];
        sum[i] = value;
    }
}

INLINED void sum_all(size_t n, size_t count, size_t start, const float *const models[], float *restrict sum)
{
    for (size_t k = 0; k < count; k += 4) {
        bool more = k > 0;
        switch (count - k) {
        case 1:
            sum_values(n, 1, more, start, models + k, sum);
            break;
        case 2:
            sum_values(n, 2, more, start, models + k, sum);
            break;
        case 3:
            sum_values(n, 3, more, start, models + k, sum);
            break;
        default:
            sum_values(n, 4, more, start, models + k, sum);
        }
    }
}

GOSSIP_CLONES
static void average_range(size_t n, size_t start, bool stream, size_t count, const float *const models[],
                          float out[restrict])
{
    float share = 1.0f / (float)count;
    float piece[STREAM_PIECE];
    size_t whole = n - n % STREAM_PIECE;
    for (size_t i = 0; i < whole; i += STREAM_PIECE) {
        for (size_t k = 0; k < count; k++)
            stream_ahead(models[k] + start + i);
        sum_all(STREAM_PIECE, count, start + i, models, piece);
        for (size_t k = 0; k < STREAM_PIECE; k++)
            piece[k] *= share;
        if (stream)
            stream_out(STREAM_PIECE, piece, out + i);
        else
            memcpy(out + i, piece, sizeof piece);
    }
    sum_all(n - whole, count, start + whole, models, out + whole);
    for (size_t i = whole; i < n; i++)
        out[i] *= share;
}

void gossip_average_many(size_t n, size_t count, const float *const models[], float out[restrict])
{
    ASSERT(count >= 1 && count <= GOSSIP_MODELS_MAX);
    average_range(n, 0, n >= STREAM_MIN, count, models, out);
    stream_end();
}

INLINED void add_values(size_t n, float share, const float *restrict model, float *restrict mean)
{
    for (size_t i = 0; i < n; i++)
        mean[i] += share * (model[i] - mean[i]);
}

GOSSIP_CLONES
void gossip_average_add(size_t n, size_t seen, const float model[restrict], float mean[restrict])
{
    float share = 1.0f / (float)(seen + 1);
    size_t whole = n - n % STREAM_PIECE;
    for (size_t i = 0; i < whole; i += STREAM_PIECE) {
        stream_ahead(model + i);
        stream_ahead(mean + i);
        add_values(STREAM_PIECE, share, model + i, mean + i);
    }
    add_values(n - whole, share, model + whole, mean + whole);
}

void gossip_average_corrected(size_t n, enum gossip_tensor_kind kind, const float x[restrict],
                              const float y[restrict], float out[restrict])
{
    struct gossip_sums sums = {0};
    if (kind != GOSSIP_TENSOR_MATRIX) {
        gossip_average(n, x, y, out);
        return;
    }
    gossip_sums_add(&sums, n, x, y);
    struct gossip_correction correction = gossip_correction_of(&sums, kind);
    if (correction.factor == 1.0f)
        gossip_average(n, x, y, out);
    else
        average_about(n, correction, x, y, out);
}

/* Population variance; one that is lost in the rounding of its sums counts as zero. */
static double variance_of(double n, double sum, double squares)
{
    double mean = sum / n;
    double variance = squares / n - mean * mean;
    return variance > GOSSIP_VARIANCE_FLOOR * squares / n ? variance : 0;
}

float gossip_average_corrected_many(size_t n, enum gossip_tensor_kind kind, size_t count,
                                    const float *const models[], float out[restrict])
{
    double sum[GOSSIP_MODELS_MAX] = {0}, squares[GOSSIP_MODELS_MAX] = {0};
    double whole = 0, whole_squares = 0, target = 0;
    ASSERT(count >= 1 && count <= GOSSIP_MODELS_MAX);
    if (kind != GOSSIP_TENSOR_MATRIX || n < 2 || count < 2) {
        gossip_average_many(n, count, models, out);
        return 1.0f;
    }
    for (size_t start = 0; start < n; start += PIECE) {
        size_t len = n - start < PIECE ? n - start : PIECE;
        average_range(len, start, false, count, models, out + start);
        for (size_t k = 0; k < count; k++)
            gossip_moments_add(len, models[k] + start, &sum[k], &squares[k]);
        gossip_moments_add(len, out + start, &whole, &whole_squares);
    }
    double values = (double)n;
    double models_count = (double)count;
    for (size_t k = 0; k < count; k++) {
        double variance = variance_of(values, sum[k], squares[k]);
        if (variance <= 0)
            return 1.0f;
        target += variance / models_count;
    }
    double average = variance_of(values, whole, whole_squares);
    double correlation = (models_count * average / target - 1) / (models_count - 1);
    if (!(correlation < GOSSIP_CORRELATION_MAX) || !(average > GOSSIP_VARIANCE_FLOOR * target))
        return 1.0f;
    struct gossip_correction correction = {.factor = (float)sqrt(target / average),
                                           .mean = (float)(whole / values)};
    gossip_correction_apply(correction, n, out);
    return correction.factor;
}
