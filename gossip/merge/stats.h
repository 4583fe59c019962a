/* Sums over one tensor of two models, and the average that keeps its variance.
 *
 * Averaging n uncorrelated tensors divides their variance by about n, which shrinks signals (Vanishing
 * Variance Problem, arXiv:2404.04616).  The correction rescales the average about its own mean to the mean
 * variance of the inputs. It is applied only to matrices of uncorrelated models (correlation below 0.5): on
 * correlated ones it keeps noise alive that averaging should remove.  Variances are population variances; the
 * floor under the divisor is relative, so that identical inputs give a factor of exactly 1 at any scale. */
#ifndef DUNLIN_GOSSIP_MERGE_STATS_H
#define DUNLIN_GOSSIP_MERGE_STATS_H

#include <stdbool.h>
#include <stddef.h>

#include "gossip/tensor.h"

#define GOSSIP_CORRELATION_MAX 0.5  /* at or above it no correction */
#define GOSSIP_VARIANCE_FLOOR  1e-6 /* of the target variance: an average with less is left alone */

/* Sums of x, y, x*x, y*y, x*y and (x-y)^2 over n values (the last one because x*x + y*y - 2 x*y cancels for
 * close models): float32 lanes over at most GOSSIP_SUM_BLOCK values, then double; relative error about 1e-5
 * of the sum of magnitudes.  The order of summation is fixed. */
struct gossip_sums {
    size_t n;
    double x, y, xx, yy, xy, dd;
};

enum { GOSSIP_SUM_BLOCK = 1024 };

/* Adds n more values to *sums (zeroed at first).  One read pass. */
void gossip_sums_add(struct gossip_sums *sums, size_t n, const float x[restrict], const float y[restrict]);
/* Adds the sums of n more values and of their squares to *sum and *squares, in the same way. */
void gossip_moments_add(size_t n, const float x[restrict], double *sum, double *squares);
/* Euclidean distance of x and y; their correlation, the cosine of
 * their deviations from their own means (1 when neither varies, 0 when one does). */
double gossip_sums_distance(const struct gossip_sums *sums);
double gossip_sums_correlation(const struct gossip_sums *sums);

/* out <- mean + factor * (average - mean); factor 1 leaves the average as it is. */
struct gossip_correction {
    float factor;
    float mean;
};

/* Factor sqrt(mean variance of x and y / variance of their average) and the average's mean.  Factor is 1 for
 * vectors, single values, correlation >= GOSSIP_CORRELATION_MAX, and where either variance is (nearly) zero.
 */
struct gossip_correction gossip_correction_of(const struct gossip_sums *sums, enum gossip_tensor_kind kind);
/* values <- mean + factor * (values - mean). */
void gossip_correction_apply(struct gossip_correction correction, size_t n, float values[restrict]);

/* True when every value is finite and of magnitude at most GOSSIP_VALUE_MAX. */
bool gossip_all_finite(size_t n, const float values[restrict]);

#endif
