/* The fast path's kernels: one thread each, no allocation, float32 storage.  Private to train/ and its tests.
 * Each is tested against train/ref/.  Matrix products are in train/gemm.h, everything
 * between them is here.
 *
 * Reductions along a row are float32 in a fixed order for one processor; sums over rows of the loss are
 * double. */
#ifndef DUNLIN_TRAIN_KERNELS_H
#define DUNLIN_TRAIN_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* One body, three instruction sets, chosen by the loader from CPUID bits (never from the processor's model,
 * which virtual machines misreport).  Off under sanitizers and coverage: their run time is not up when the
 * loader asks. */
#ifdef TRAIN_USE_CLONES
#define TRAIN_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define TRAIN_CLONES
#endif

enum { TRAIN_ATTENTION_BLOCK = 64 }; /* query rows handled at once */

/* e^x to about 2 units in the last place for -87 <= x <= 88, clamped outside; inline so that loops around it
 * become vector code, which calls of libm's expf would prevent.  Polynomial of Cephes expf (Moshier). */
static inline __attribute__((always_inline)) float train_exp(float x)
{
    x = x < -87.0F ? -87.0F : x;
    x = x > 88.0F ? 88.0F : x;
    float shifted =
        x * 1.44269504F + 12582912.0F; /* 1.5 * 2^23: the sum's low bits are the rounded integer */
    float whole = shifted - 12582912.0F;
    float r = x - whole * 0.693359375F;
    r = r + whole * 2.12194440e-4F;
    float p = 1.9875691500e-4F;
    p = p * r + 1.3981999507e-3F;
    p = p * r + 8.3334519073e-3F;
    p = p * r + 4.1665795894e-2F;
    p = p * r + 1.6666665459e-1F;
    p = p * r + 5.0000001201e-1F;
    p = p * r * r + r + 1.0F;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits - 0x4B400000U + 127U) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

/* Each takes scratch [TRAIN_GEMM_SCRATCH] (train/gemm.h).
 * out [rows][outputs] = (add ? out : 0) + in [rows][inputs] x transpose of weight [outputs][inputs]. */
void train_linear(size_t rows, size_t inputs, size_t outputs, const float in[], const float weight[],
                  float out[], bool add, float scratch[]);
/* d_in [rows][inputs] = d_out x weight. */
void train_linear_back_input(size_t rows, size_t inputs, size_t outputs, const float d_out[],
                             const float weight[], float d_in[], float scratch[]);
/* d_weight [outputs][inputs] += transpose of d_out x in. */
void train_linear_back_weight(size_t rows, size_t inputs, size_t outputs, const float in[],
                              const float d_out[], float d_weight[], float scratch[]);

/* out [count][width]: the embeddings of positions first .. first + count of the window `tokens`; table as in
 * train/model.h, [TRAIN_EMBED_SPAN][256][width].  Bytes before the window's start count as none. */
void train_embed(size_t first, size_t count, size_t width, const uint8_t tokens[], const float table[],
                 float out[]);
/* d_table += the gradient by the table, for a whole window of count positions. */
void train_embed_back(size_t count, size_t width, const uint8_t tokens[], const float d_out[],
                      float d_table[]);

/* LayerNorm of each row; stats [rows][2] receives mean and 1 / deviation for the way back. */
void train_norm(size_t rows, size_t width, const float in[], const float gain[], const float bias[],
                float out[], float stats[]);
/* d_x [rows][width] += gradient by in (d_x is the residual stream's gradient, which the norm branches off).
 */
void train_norm_back(size_t rows, size_t width, const float in[], const float stats[], const float gain[],
                     const float d_out[], float d_x[], float d_gain[], float d_bias[]);

/* active = GELU(up); up is overwritten with GELU'(up), so that the way back is one multiplication. */
void train_gelu(size_t count, float up[], float active[]);
/* d [count] *= slope [count]. */
void train_scale(size_t count, const float slope[], float d[]);
/* to [count] += scale * from [count]. */
void train_add(size_t count, float scale, const float from[], float to[]);

/* Rotary positions: cosines and sines [context][head_width / 2]. */
void train_rotary_fill(size_t context, size_t head_width, float cosines[], float sines[]);
/* Rotates queries and keys of qkv [length][3 width] in place, rows standing at positions first .. first +
 * length; sign 1 forward, -1 for gradients. */
void train_rotate(size_t length, size_t width, size_t heads, size_t first, float sign, const float cosines[],
                  const float sines[], float qkv[]);

/* Causal attention of one sequence.  qkv [length][3 width], already rotated; out [length][width];
 * log_sums [heads][length] keeps each row's log of the softmax sum, all that the way back needs besides out;
 * scratch: train_attention_scratch(length) floats. */
size_t train_attention_scratch(size_t length);
void train_attention(size_t length, size_t width, size_t heads, const float qkv[], float out[],
                     float log_sums[], float scratch[]);
void train_attention_back(size_t length, size_t width, size_t heads, const float qkv[], const float out[],
                          const float log_sums[], const float d_out[], float d_qkv[], float scratch[]);

/* Sum over rows of -log softmax(logits)[target] in nats.  With scale > 0 logits are overwritten with their
 * gradient times scale; with scale 0 they stay. */
double train_loss(size_t rows, float logits[], const uint8_t targets[], float scale);

/* The MLP's.  x [rows][cols] += bias [cols]; then, with relu, what is negative becomes 0 (NaN stays). */
void train_bias(size_t rows, size_t cols, const float bias[], bool relu, float x[]);
/* d [count] = 0 where active [count], the forward result, is not positive. */
void train_relu_back(size_t count, const float active[], float d[]);
/* d_bias [cols] += sum of the rows of d_out [rows][cols]. */
void train_bias_back(size_t rows, size_t cols, const float d_out[], float d_bias[]);
/* As train_loss, for any number of classes: logits [rows][classes].  Adds to *correct the rows whose
 * likeliest class, of equals the first, is the target. */
double train_loss_classes(size_t rows, size_t classes, float logits[], const uint16_t targets[], float scale,
                          uint64_t *correct);

#endif
