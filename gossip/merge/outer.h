/* Outer optimizer steps between a member's slow weights phi and its trained snapshot theta.  Free functions
 * on flat float32 arrays, each one pass, at memory bandwidth (`tools/bench merge`), no allocation.  Every
 * value is computed on its own in the order that gossip/merge/reference.h writes down, so the bits are the
 * same on every machine and equal to the reference's.
 *
 * Source: NoLoCo, arXiv:2506.10911, eq. 1-3, with the sign of beta as in eq. 32 and the authors' code: eq. 2
 * as printed diverges under its own definition of the difference (tests/gossip/test_outer.c shows it). */
#ifndef DUNLIN_GOSSIP_MERGE_OUTER_H
#define DUNLIN_GOSSIP_MERGE_OUTER_H

#include <stddef.h>

#include "base/err.h"

#define GOSSIP_FAILS_MAX                                                                                     \
    0.6f /* share of failed exchanges under which every accepted config must contract                        \
          */

struct gossip_outer {
    float alpha; /* momentum */
    float beta;  /* outer learning rate */
    float gamma; /* pull to the pair's mean phi; equal to beta needs no phi from the partner */
};

/* alpha 0.5, beta = gamma = 0.7. */
struct gossip_outer gossip_outer_default(void);
/* alpha 0, beta = gamma = 1: plain pairwise averaging, for runs or endings of fewer than ten rounds. */
struct gossip_outer gossip_outer_plain(void);
/* Upper end of the gamma and beta that gossip_outer_check accepts at this alpha in [0, 0.6]:
 *   2 (1 - alpha^2) / (1 + f alpha),  f = GOSSIP_FAILS_MAX
 * With independent random partners the second moments of what phi and delta differ from their means obey a
 * linear recursion, whose largest eigenvalue passes 1 exactly there when a share f of the exchanges fails.
 * Without failures (f = 0) it gives what was measured: 2.0 at alpha 0, 1.81 at 0.3, 1.49 at 0.5, 0.37 at 0.9;
 * a failed one counts as a solo step, which goes on by its momentum with nothing that pulls, so failures
 * lower the limit (most of them a node only waits out: gossip_solo_job).  tests/gossip/test_stability.c
 * derives the recursion, compares it with swarms, and shows that all that is accepted contracts.  Eq. 74 of
 * the paper drops cross terms; at alpha = 0.9 all of its interval diverges. */
float gossip_outer_gamma_max(float alpha);
/* ERR_INVALID: alpha outside [0, 0.6], or beta or gamma not within (0, gamma_max), or not finite; *why
 * (static text) says which: the run config is refused. */
MUST_USE int gossip_outer_check(const struct gossip_outer *config, const char **why);

/* The theta-only step (gamma = beta), for n values:
 *   delta <- alpha * delta + beta * (tbar - phi);  phi <- phi + delta;  diff <- phi - theta
 *   tbar   the pair's average of theta, or theta itself for a solo step
 *   theta  own snapshot; diff is what the trainer adds to its present weights
 * tbar may be theta; no other arrays may overlap. */
void gossip_outer_step(size_t n, float alpha, float beta, const float *tbar, const float *theta,
                       float *restrict phi, float *restrict delta, float *restrict diff);
/* gossip_pair_target and gossip_outer_step in one pass, the target never stored; same bits as the two:
 *   tbar = theta + weight * (theirs - ours), then the step above
 * ours may be theta (nothing was lost in encoding); no other arrays may overlap. */
void gossip_pair_step(size_t n, float alpha, float beta, float weight, const float *theta, const float *ours,
                      const float *theirs, float *restrict phi, float *restrict delta, float *restrict diff);
/* The general step:
 *   delta <- alpha * delta + beta * (tbar - pbar) - gamma * (phi - pbar);  phi <- phi + delta
 *   tbar, pbar  means of theta and of phi over the group.  With gamma = beta it equals the step above up to
 * rounding; with the whole swarm as group it is DiLoCo's heavy ball. */
void gossip_outer_step_general(size_t n, const struct gossip_outer *config, const float tbar[restrict],
                               const float pbar[restrict], float phi[restrict], float delta[restrict]);

/* tbar <- theta + weight * (theirs - ours): with ours and theirs the decoded exchanged values, which both
 * partners hold alike, and weight 1/2 on both sides, the pair's sum is kept up to rounding whatever the codec
 * lost.  weight = gossip_partner_weight(lateness) * the gate's scale. */
void gossip_pair_target(size_t n, float weight, const float theta[restrict], const float ours[restrict],
                        const float theirs[restrict], float tbar[restrict]);
/* The partner's weight in the average when the result is applied `lateness` cycles after its snapshot: 1/2 up
 * to 0.3 of a cycle, falling linearly to 1/4 at a whole cycle and staying there.  Why: a whole cycle late the
 * recursion of pairwise averaging at weight 1/2 has its eigenvalues on the unit circle (z^2 - z + 1 = 0).
 * lateness >= 0. */
float gossip_partner_weight(float lateness);

#endif
