#include <math.h>

#include "train/kernels.h"

/* GELU(x) = x s with s = sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3), since (1 + tanh u) / 2 =
 * sigmoid(2u). GELU'(x) = s + x s (1 - s) 2 u'. */
TRAIN_CLONES
void train_gelu(size_t count, float *restrict up, float *restrict active)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++) {
        float x = up[i];
        float square = x * x;
        float twice =
            x * (1.5957691216F + 0.0713548163F * square); /* 2u; constants 2 sqrt(2/pi) (1, 0.044715) */
        float s = 1.0F / (1.0F + train_exp(-twice));
        active[i] = x * s;
        up[i] = s + x * s * (1.0F - s) * (1.5957691216F + 0.2140644488F * square);
    }
}

TRAIN_CLONES
void train_scale(size_t count, const float *restrict slope, float *restrict d)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++)
        d[i] *= slope[i];
}

TRAIN_CLONES
void train_add(size_t count, float scale, const float *restrict from, float *restrict to)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++)
        to[i] += scale * from[i];
}

TRAIN_CLONES
static float softmax_row(float *restrict row, size_t count, float *log_sum)
{
    float top = row[0], sum = 0;
#pragma omp simd reduction(max : top)
    for (size_t i = 0; i < count; i++)
        top = row[i] > top ? row[i] : top;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < count; i++)
        sum += train_exp(row[i] - top);
    *log_sum = logf(sum) + top;
    return sum;
}

TRAIN_CLONES
static void gradient_row(float *restrict row, size_t count, float log_sum, float scale)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++)
        row[i] = train_exp(row[i] - log_sum) * scale;
}

double train_loss(size_t rows, float logits[], const uint8_t targets[], float scale)
{
    double loss = 0;
    for (size_t r = 0; r < rows; r++) {
        float *row = logits + r * 256;
        float log_sum;
        (void)softmax_row(row, 256, &log_sum);
        loss += (double)(log_sum - row[targets[r]]);
        if (scale > 0) {
            gradient_row(row, 256, log_sum, scale);
            row[targets[r]] -= scale;
        }
    }
    return loss;
}

TRAIN_CLONES
static void bias_row(size_t cols, const float *restrict bias, float *restrict x)
{
#pragma omp simd
    for (size_t i = 0; i < cols; i++)
        x[i] += bias[i];
}

TRAIN_CLONES
static void bias_relu_row(size_t cols, const float *restrict bias, float *restrict x)
{
#pragma omp simd
    for (size_t i = 0; i < cols; i++) {
        float sum = x[i] + bias[i];
        x[i] = sum < 0 ? 0.0F : sum; /* in this form a NaN goes on, to be noticed in the loss */
    }
}

void train_bias(size_t rows, size_t cols, const float bias[], bool relu, float x[])
{
    for (size_t r = 0; r < rows; r++) {
        if (relu)
            bias_relu_row(cols, bias, x + r * cols);
        else
            bias_row(cols, bias, x + r * cols);
    }
}

TRAIN_CLONES
void train_relu_back(size_t count, const float *restrict active, float *restrict d)
{
#pragma omp simd
    for (size_t i = 0; i < count; i++)
        d[i] = active[i] > 0 ? d[i] : 0.0F;
}

void train_bias_back(size_t rows, size_t cols, const float d_out[], float d_bias[])
{
    for (size_t r = 0; r < rows; r++)
        train_add(cols, 1.0F, d_out + r * cols, d_bias);
}

static size_t likeliest(size_t classes, const float row[])
{
    size_t best = 0;
    for (size_t c = 1; c < classes; c++)
        if (row[c] > row[best])
            best = c;
    return best;
}

double train_loss_classes(size_t rows, size_t classes, float logits[], const uint16_t targets[], float scale,
                          uint64_t *correct)
{
    double loss = 0;
    for (size_t r = 0; r < rows; r++) {
        float *row = logits + r * classes;
        float log_sum;
        *correct += likeliest(classes, row) == targets[r];
        (void)softmax_row(row, classes, &log_sum);
        loss += (double)(log_sum - row[targets[r]]);
        if (scale > 0) {
            gradient_row(row, classes, log_sum, scale);
            row[targets[r]] -= scale;
        }
    }
    return loss;
}
