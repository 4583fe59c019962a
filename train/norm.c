#include <math.h>

#include "train/kernels.h"

TRAIN_CLONES
void train_norm(size_t rows, size_t width, const float in[], const float gain[], const float bias[],
                float out[], float stats[])
{
    const float share = 1.0F / (float)width;
    for (size_t r = 0; r < rows; r++) {
        const float *restrict x = in + r * width;
        float *restrict y = out + r * width;
        float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
        for (size_t i = 0; i < width; i++)
            sum += x[i];
        float mean = sum * share;
        /* A second pass instead of E[x^2] - mean^2: no cancellation when the mean is large. */
#pragma omp simd reduction(+ : squares)
        for (size_t i = 0; i < width; i++)
            squares += (x[i] - mean) * (x[i] - mean);
        float inverse = 1.0F / sqrtf(squares * share + 1e-5F);
#pragma omp simd
        for (size_t i = 0; i < width; i++)
            y[i] = (x[i] - mean) * inverse * gain[i] + bias[i];
        stats[2 * r] = mean;
        stats[2 * r + 1] = inverse;
    }
}

TRAIN_CLONES
void train_norm_back(size_t rows, size_t width, const float in[], const float stats[], const float gain[],
                     const float d_out[], float d_x[], float d_gain[], float d_bias[])
{
    const float share = 1.0F / (float)width;
    for (size_t r = 0; r < rows; r++) {
        const float *restrict x = in + r * width;
        const float *restrict d = d_out + r * width;
        float *restrict to = d_x + r * width;
        float mean = stats[2 * r], inverse = stats[2 * r + 1], sum = 0, sum_h = 0;
#pragma omp simd reduction(+ : sum, sum_h)
        for (size_t i = 0; i < width; i++) {
            float h = (x[i] - mean) * inverse;
            sum += d[i] * gain[i];
            sum_h += d[i] * gain[i] * h;
            d_gain[i] += d[i] * h;
            d_bias[i] += d[i];
        }
        sum *= share;
        sum_h *= share;
#pragma omp simd
        for (size_t i = 0; i < width; i++)
            to[i] += (d[i] * gain[i] - sum - (x[i] - mean) * inverse * sum_h) * inverse;
    }
}
