/* The reference: every layer of the model in plain scalar double precision, forward beside backward, written
 * to be read and to judge the fast path by.  Nothing here is called in production.
 *
 * Conventions: row-major arrays; `rows` counts positions; a backward function takes the gradient of the loss
 * by the layer's output (d_out) and adds to gradients of parameters, but overwrites the gradient of its input
 * unless it says otherwise. */
#ifndef DUNLIN_TRAIN_REF_H
#define DUNLIN_TRAIN_REF_H

#include "train/model.h"

/* out [rows][width] = sum of table [TRAIN_EMBED_SPAN][256][width] at (back, the token so many positions
 * back), as far as there are any. */
void ref_embed(size_t rows, size_t width, const uint8_t tokens[], const double table[], double out[]);
void ref_embed_back(size_t rows, size_t width, const uint8_t tokens[], const double d_out[],
                    double d_table[]);

/* LayerNorm over each row: out = (in - mean) / sqrt(variance + 1e-5) * gain + bias. */
void ref_norm(size_t rows, size_t width, const double in[], const double gain[], const double bias[],
              double out[]);
void ref_norm_back(size_t rows, size_t width, const double in[], const double gain[], const double d_out[],
                   double d_in[], double d_gain[], double d_bias[]);

/* out [rows][outputs] = in [rows][inputs] x transpose of weight [outputs][inputs]. */
void ref_linear(size_t rows, size_t inputs, size_t outputs, const double in[], const double weight[],
                double out[]);
void ref_linear_back(size_t rows, size_t inputs, size_t outputs, const double in[], const double weight[],
                     const double d_out[], double d_in[], double d_weight[]);

/* Rotates pairs (i, i + half) of every head of queries and keys in qkv [length][3 width], in place, by
 * position * 10000^(-i/half).  direction 1 forward; -1 turns gradients back (a rotation's inverse). */
void ref_rotate(size_t length, size_t width, size_t heads, int direction, double qkv[]);

/* Causal softmax attention of one sequence: out [length][width] from qkv [length][3 width]. */
void ref_attention(size_t length, size_t width, size_t heads, const double qkv[], double out[]);
void ref_attention_back(size_t length, size_t width, size_t heads, const double qkv[], const double d_out[],
                        double d_qkv[]);

/* GELU, tanh form. */
void ref_gelu(size_t count, const double in[], double out[]);
void ref_gelu_back(size_t count, const double in[], const double d_out[], double d_in[]);

/* Sum over rows of -log softmax(logits)[target]; d_logits (may be NULL) gets its gradient times scale. */
double ref_loss(size_t rows, const double logits[], const uint8_t targets[], double scale, double d_logits[]);

/* One AdamW step on one number: Loshchilov and Hutter 2019, algorithm 2.  step counts from 1. */
struct ref_adamw {
    double rate, beta1, beta2, epsilon, decay;
};
/* Changes value and its two moments. */
void ref_adamw_step(const struct ref_adamw *how, unsigned step, double gradient, double *value, double *first,
                    double *second);

/* The whole model on sequence_count windows of context + 1 bytes: mean loss in nats per byte.  grads
 * [arena_floats], when not NULL, gets the gradient of that mean added.  Allocates and frees its scratch;
 * ERR_NO_MEMORY: nothing was done. */
MUST_USE int ref_model(const struct train_layout *layout, const double params[], size_t sequence_count,
                       const uint8_t *const windows[], double grads[], double *loss);

/* The whole MLP on row_count rows [sizes[0]] with their labels: mean loss in nats; otherwise as ref_model. */
MUST_USE int ref_mlp(const struct train_layout *layout, const double params[], size_t row_count,
                     const float *const rows[], const uint16_t labels[], double grads[], double *loss);

#endif
