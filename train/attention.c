#include <math.h>

#include "train/gemm.h"
#include "train/kernels.h"

void train_rotary_fill(size_t context, size_t head_width, float cosines[], float sines[])
{
    size_t half = head_width / 2;
    for (size_t t = 0; t < context; t++)
        for (size_t i = 0; i < half; i++) {
            double angle = (double)t * pow(10000, -(double)i / (double)half);
            cosines[t * half + i] = (float)cos(angle);
            sines[t * half + i] = (float)sin(angle);
        }
}

TRAIN_CLONES
void train_rotate(size_t length, size_t width, size_t heads, size_t first, float sign, const float cosines[],
                  const float sines[], float qkv[])
{
    size_t head_width = width / heads, half = head_width / 2;
    for (size_t t = 0; t < length; t++) {
        const float *restrict c = cosines + (first + t) * half;
        const float *restrict s = sines + (first + t) * half;
        for (size_t h = 0; h < 2 * heads; h++) {
            float *restrict x = qkv + t * 3 * width + h * head_width;
#pragma omp simd
            for (size_t i = 0; i < half; i++) {
                float a = x[i], b = x[i + half];
                x[i] = a * c[i] - b * s[i] * sign;
                x[i + half] = a * s[i] * sign + b * c[i];
            }
        }
    }
}

/* The products' scratch, one block of scores, one of their gradients. */
size_t train_attention_scratch(size_t length)
{
    return TRAIN_GEMM_SCRATCH + 2 * TRAIN_ATTENTION_BLOCK * length;
}

/* Parts of qkv, out and scores as factors. */
static struct train_factor plain(const float *data, size_t stride)
{
    return (struct train_factor){data, stride, false};
}

static struct train_factor turned(const float *data, size_t stride)
{
    return (struct train_factor){data, stride, true};
}

/* Softmax of one row of scores, of which `seen` are in the past and the rest, up to `count`, are masked. */
TRAIN_CLONES
static float softmax_masked(float *restrict row, size_t seen, size_t count, float scale)
{
    float top = row[0], sum = 0;
#pragma omp simd reduction(max : top)
    for (size_t i = 0; i < seen; i++)
        top = row[i] > top ? row[i] : top;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < seen; i++) {
        row[i] = train_exp((row[i] - top) * scale);
        sum += row[i];
    }
    float inverse = 1.0F / sum;
#pragma omp simd
    for (size_t i = 0; i < seen; i++)
        row[i] *= inverse;
    memset(row + seen, 0, (count - seen) * sizeof *row);
    return logf(sum) + top * scale;
}

/* Scores become probabilities p again from the kept log of the sum; d_p becomes the scores' gradient. */
TRAIN_CLONES
static void score_gradient(float *restrict row, float *restrict d_row, size_t seen, size_t count, float scale,
                           float log_sum, float weighted)
{
#pragma omp simd
    for (size_t i = 0; i < seen; i++) {
        float p = train_exp(row[i] * scale - log_sum);
        row[i] = p;
        d_row[i] = p * (d_row[i] - weighted) * scale;
    }
    memset(row + seen, 0, (count - seen) * sizeof *row);
    memset(d_row + seen, 0, (count - seen) * sizeof *d_row);
}

TRAIN_CLONES
static float dot(size_t count, const float *restrict a, const float *restrict b)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

void train_attention(size_t length, size_t width, size_t heads, const float qkv[], float out[],
                     float log_sums[], float scratch[])
{
    size_t head_width = width / heads, stride = 3 * width;
    float scale = 1.0F / sqrtf((float)head_width);
    float *scores = scratch + TRAIN_GEMM_SCRATCH;
    for (size_t h = 0; h < heads; h++) {
        const float *q = qkv + h * head_width, *k = q + width, *v = k + width;
        for (size_t from = 0; from < length; from += TRAIN_ATTENTION_BLOCK) {
            size_t rows = length - from < TRAIN_ATTENTION_BLOCK ? length - from : TRAIN_ATTENTION_BLOCK;
            size_t keys = from + rows;
            train_gemm(rows, keys, head_width, plain(q + from * stride, stride), turned(k, stride), false,
                       scores, keys, scratch);
            for (size_t r = 0; r < rows; r++)
                log_sums[h * length + from + r] =
                    softmax_masked(scores + r * keys, from + r + 1, keys, scale);
            train_gemm(rows, head_width, keys, plain(scores, keys), plain(v, stride), false,
                       out + from * width + h * head_width, width, scratch);
        }
    }
}

/* One block of query rows of one head, d_q .. d_v like q .. v inside d_qkv. */
struct block {
    size_t length, width, head_width, from, rows;
    const float *q, *out, *log_sums, *d_out;
    float *d_q, *scores, *d_scores, *scratch;
};

static void block_back(const struct block *b)
{
    size_t width = b->width, stride = 3 * width, rows = b->rows, keys = b->from + rows;
    float scale = 1.0F / sqrtf((float)b->head_width);
    const float *q = b->q + b->from * stride, *k = b->q + width, *v = k + width;
    const float *d_out = b->d_out + b->from * width, *out = b->out + b->from * width;
    float *d_k = b->d_q + width, *d_v = d_k + width;
    /* Blocks come last first: the last spans all keys and overwrites d_k and d_v, the others add. */
    bool add = keys < b->length;

    /* q and k are rotated wholes of [length][3 width]; k starts at the sequence's first position. */
    train_gemm(rows, keys, b->head_width, plain(q, stride), turned(k, stride), false, b->scores, keys,
               b->scratch);
    train_gemm(rows, keys, b->head_width, plain(d_out, width), turned(v, stride), false, b->d_scores, keys,
               b->scratch);
    for (size_t r = 0; r < rows; r++) {
        float weighted = dot(b->head_width, d_out + r * width, out + r * width); /* = sum of p * d_p */
        score_gradient(b->scores + r * keys, b->d_scores + r * keys, b->from + r + 1, keys, scale,
                       b->log_sums[b->from + r], weighted);
    }
    train_gemm(keys, b->head_width, rows, turned(b->scores, keys), plain(d_out, width), add, d_v, stride,
               b->scratch);
    train_gemm(rows, b->head_width, keys, plain(b->d_scores, keys), plain(k, stride), false,
               b->d_q + b->from * stride, stride, b->scratch);
    train_gemm(keys, b->head_width, rows, turned(b->d_scores, keys), plain(q, stride), add, d_k, stride,
               b->scratch);
}

void train_attention_back(size_t length, size_t width, size_t heads, const float qkv[], const float out[],
                          const float log_sums[], const float d_out[], float d_qkv[], float scratch[])
{
    size_t head_width = width / heads;
    for (size_t h = 0; h < heads; h++) {
        struct block b = {.length = length, .width = width, .head_width = head_width};
        b.q = qkv + h * head_width;
        b.d_q = d_qkv + h * head_width;
        b.out = out + h * head_width;
        b.d_out = d_out + h * head_width;
        b.log_sums = log_sums + h * length;
        b.scratch = scratch;
        b.scores = scratch + TRAIN_GEMM_SCRATCH;
        b.d_scores = b.scores + TRAIN_ATTENTION_BLOCK * length;
        size_t last = (length - 1) / TRAIN_ATTENTION_BLOCK * TRAIN_ATTENTION_BLOCK;
        for (size_t from = last + TRAIN_ATTENTION_BLOCK; from > 0; from -= TRAIN_ATTENTION_BLOCK) {
            b.from = from - TRAIN_ATTENTION_BLOCK;
            b.rows = length - b.from < TRAIN_ATTENTION_BLOCK ? length - b.from : TRAIN_ATTENTION_BLOCK;
            block_back(&b);
        }
    }
}
