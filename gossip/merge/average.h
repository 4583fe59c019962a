/* Averages of whole tensors: of a pair, of several models at once, of models that come one after the other.
 *
 * Averaging n uncorrelated tensors divides their variance by about n, which shrinks signals (Vanishing
 * Variance Problem, arXiv:2404.04616).  The corrected averages rescale the average about its own mean to the
 * mean variance of the inputs, per tensor:
 *   W = (A - mean A) * sqrt(mean_i Var W_i / Var A) + mean A,   A = mean_i W_i
 * only for matrices of uncorrelated models (gossip/merge/stats.h has the gate): on correlated ones it keeps
 * noise alive that averaging should remove.
 *
 * All arrays are float32.  No allocation, memory bandwidth, same bits on every machine. */
#ifndef DUNLIN_GOSSIP_MERGE_AVERAGE_H
#define DUNLIN_GOSSIP_MERGE_AVERAGE_H

#include <stddef.h>

#include "gossip/merge/stats.h"

enum { GOSSIP_MODELS_MAX = 16 }; /* models averaged in one call */

/* out <- (a + b) / 2.  No overlap.  One pass. */
void gossip_average(size_t n, const float a[restrict], const float b[restrict], float out[restrict]);
/* out <- mean of models[0 .. count), each [n], summed in order.  count in [1, GOSSIP_MODELS_MAX] (asserted);
 * out overlaps none.  One pass.  Two models give gossip_average's bits. */
void gossip_average_many(size_t n, size_t count, const float *const models[], float out[restrict]);
/* mean <- mean + (model - mean) / (seen + 1): takes one more model into the mean of `seen` models, for
 * callers that cannot hold them all.  One pass, in place.  Rounding differs from gossip_average_many's by
 * about count units in the last place. */
void gossip_average_add(size_t n, size_t seen, const float model[restrict], float mean[restrict]);

/* out <- mean + factor * ((x + y) / 2 - mean) over one tensor, with the factor of gossip_correction_of: one
 * read pass for the sums, one write pass.  x and y may not overlap out.  Same bits with x and y swapped, so
 * that both partners agree. */
void gossip_average_corrected(size_t n, enum gossip_tensor_kind kind, const float x[restrict],
                              const float y[restrict], float out[restrict]);
/* The same over count models; two passes over out, one over the models.  The gate is on the mean correlation
 * of all pairs, (count^2 Var A - sum Var W_i) / (count (count - 1) mean Var W_i).  Returns the factor that
 * was applied, 1 for none.  Arguments as in gossip_average_many. */
float gossip_average_corrected_many(size_t n, enum gossip_tensor_kind kind, size_t count,
                                    const float *const models[], float out[restrict]);

#endif
