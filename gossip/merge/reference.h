/* The merge rules as plain loops, one value after the other, written to be read.  Not for use: the tests hold
 * the fast versions against these.
 *
 * They do the arithmetic in the order that defines the result, so the fast versions must give the same bits
 * on every machine.  What that order loses against exact sums (about 1e-5 of the sum of magnitudes) the tests
 * measure too. */
#ifndef DUNLIN_GOSSIP_MERGE_REFERENCE_H
#define DUNLIN_GOSSIP_MERGE_REFERENCE_H

#include "gossip/merge/outer.h"
#include "gossip/merge/stats.h"

/* Same bits as gossip_outer_step, gossip_pair_step, gossip_outer_step_general, gossip_pair_target; arguments
 * and formulas there. */
void gossip_reference_outer_step(size_t n, float alpha, float beta, const float tbar[], const float theta[],
                                 float phi[], float delta[], float diff[]);
void gossip_reference_pair_step(size_t n, float alpha, float beta, float weight, const float theta[],
                                const float ours[], const float theirs[], float phi[], float delta[],
                                float diff[]);
void gossip_reference_outer_step_general(size_t n, const struct gossip_outer *config, const float tbar[],
                                         const float pbar[], float phi[], float delta[]);
void gossip_reference_pair_target(size_t n, float weight, const float theta[], const float ours[],
                                  const float theirs[], float tbar[]);
/* Same bits as gossip_average_many (with two models gossip_average) and gossip_average_add. */
void gossip_reference_average(size_t n, size_t count, const float *const models[], float out[]);
void gossip_reference_average_add(size_t n, size_t seen, const float model[], float mean[]);

/* Same bits as gossip_sums_add and gossip_moments_add. */
void gossip_reference_sums(struct gossip_sums *sums, size_t n, const float x[], const float y[]);
void gossip_reference_moments(size_t n, const float x[], double *sum, double *squares);
/* Correction factor of the average of count models from two-pass variances in double, with no gate: the
 * formula of gossip/merge/average.h.  *correlation receives what the gate looks at.  Every model varies. */
double gossip_reference_factor(size_t n, size_t count, const float *const models[], double *correlation);

#endif
