#include "train/ref/ref.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void ref_rotate(size_t length, size_t width, size_t heads, int direction, double qkv[])
{
    size_t head_width = width / heads;
    size_t half = head_width / 2;
    for (size_t t = 0; t < length; t++)
        for (size_t h = 0; h < 2 * heads; h++) { /* the heads of queries, then those of keys */
            double *x = qkv + t * 3 * width + h * head_width;
            for (size_t i = 0; i < half; i++) {
                double angle = (double)t * pow(10000, -(double)i / (double)half) * direction;
                double first = x[i], second = x[i + half];
                x[i] = first * cos(angle) - second * sin(angle);
                x[i + half] = first * sin(angle) + second * cos(angle);
            }
        }
}

/* Probabilities p [t + 1] with which position t of one head looks back. */
static void probabilities(size_t t, size_t width, size_t head_width, const double *q, const double *keys,
                          double p[])
{
    double top = -INFINITY, sum = 0;
    for (size_t s = 0; s <= t; s++) {
        p[s] = 0;
        for (size_t i = 0; i < head_width; i++)
            p[s] += q[i] * keys[s * 3 * width + i];
        p[s] /= sqrt((double)head_width);
        top = p[s] > top ? p[s] : top;
    }
    for (size_t s = 0; s <= t; s++) {
        p[s] = exp(p[s] - top);
        sum += p[s];
    }
    for (size_t s = 0; s <= t; s++)
        p[s] /= sum;
}

void ref_attention(size_t length, size_t width, size_t heads, const double qkv[], double out[])
{
    double p[TRAIN_CONTEXT_MAX];
    size_t head_width = width / heads;
    ASSERT(length <= TRAIN_CONTEXT_MAX);
    for (size_t h = 0; h < heads; h++) {
        const double *keys = qkv + width + h * head_width;
        const double *values = qkv + 2 * width + h * head_width;
        for (size_t t = 0; t < length; t++) {
            probabilities(t, width, head_width, qkv + t * 3 * width + h * head_width, keys, p);
            for (size_t i = 0; i < head_width; i++) {
                double sum = 0;
                for (size_t s = 0; s <= t; s++)
                    sum += p[s] * values[s * 3 * width + i];
                out[t * width + h * head_width + i] = sum;
            }
        }
    }
}

/* One query position of one head: q, keys and values lie 3 * width apart per position, as do their gradients.
 */
static void position_back(size_t t, size_t width, size_t head_width, const double *q, const double *d_out,
                          double *d_q)
{
    double p[TRAIN_CONTEXT_MAX], d_p[TRAIN_CONTEXT_MAX];
    const double *keys = q - t * 3 * width + width, *values = keys + width;
    double *d_keys = d_q - t * 3 * width + width, *d_values = d_keys + width;
    double weighted = 0;
    probabilities(t, width, head_width, q, keys, p);
    for (size_t s = 0; s <= t; s++) {
        d_p[s] = 0;
        for (size_t i = 0; i < head_width; i++) {
            d_p[s] += d_out[i] * values[s * 3 * width + i];
            d_values[s * 3 * width + i] += p[s] * d_out[i];
        }
        weighted += p[s] * d_p[s];
    }
    for (size_t s = 0; s <= t; s++) {
        double d_score = p[s] * (d_p[s] - weighted) / sqrt((double)head_width);
        for (size_t i = 0; i < head_width; i++) {
            d_q[i] += d_score * keys[s * 3 * width + i];
            d_keys[s * 3 * width + i] += d_score * q[i];
        }
    }
}

void ref_attention_back(size_t length, size_t width, size_t heads, const double qkv[], const double d_out[],
                        double d_qkv[])
{
    size_t head_width = width / heads;
    ASSERT(length <= TRAIN_CONTEXT_MAX);
    memset(d_qkv, 0, length * 3 * width * sizeof *d_qkv);
    for (size_t h = 0; h < heads; h++)
        for (size_t t = 0; t < length; t++) {
            size_t at = t * 3 * width + h * head_width;
            position_back(t, width, head_width, qkv + at, d_out + t * width + h * head_width, d_qkv + at);
        }
}
