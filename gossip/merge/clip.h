/* Bounds on what one round may do to the slow weights, with radii from our own past.
 *
 * gossip/merge/gate.h cuts the partner's difference before it enters the step.  This is the second bound, on
 * the step itself: the norm of the new delta is held to the radius of the last deltas' norms (a struct
 * gossip_history of its own, one a fragment), so that momentum filled up by several clipped partners in a row
 * cannot carry phi off.  The step is linear in delta and tbar - phi, so
 *   delta <- s * (alpha * delta + beta * (tbar - phi)),  s = min(1, radius / |alpha * delta + beta * (tbar -
 * phi)|) is gossip_outer_step or gossip_pair_step with alpha and beta multiplied by s: no pass of its own.
 * The norm comes out of the read pass that the gate needs anyway, for any weight and scale chosen afterwards:
 *   u = alpha * delta + beta * (theta - phi),  v = theirs - ours,  c = beta * weight
 *   |u + c v|^2 = u.u + 2 c u.v + c^2 v.v
 * Source: self-centred clipping, ClippedGossip, arXiv:2202.01545; the radius and the second clip are ours. */
#ifndef DUNLIN_GOSSIP_MERGE_CLIP_H
#define DUNLIN_GOSSIP_MERGE_CLIP_H

#include <stddef.h>

#include "gossip/merge/gate.h"

#define GOSSIP_STEP_FACTOR 3.0 /* medians: warm-up makes honest steps up to 2.4 medians long */

/* Zeroed at first. */
struct gossip_step_sums {
    double uu, uv, vv;
};

/* Adds n values; theirs and ours may both be theta for a solo step.  One read pass, float32 lanes, then
 * double, in the fixed order of gossip_sums_add; relative error about 1e-5 of the sum of magnitudes. */
void gossip_step_sums_add(struct gossip_step_sums *sums, size_t n, float alpha, float beta,
                          const float *theta, const float *phi, const float *delta, const float *ours,
                          const float *theirs);
/* Norm of the delta that a step with this beta and partner weight (times the gate's scale) will leave;
 * weight 0 for a solo step. */
double gossip_step_norm(const struct gossip_step_sums *sums, float beta, float weight);
/* GOSSIP_STEP_FACTOR medians of the last norms, or INFINITY while too few are known.  Push each round's norm,
 * as it was before the clip. */
double gossip_step_radius(const struct gossip_history *norms);
/* What to multiply by so that `norm` becomes at most `radius`, in (0, 1].  1 when the radius is infinite (too
 * short a past), or zero (a past that did not move says nothing); norm and radius are not NaN. */
float gossip_clip_scale(double norm, double radius);

#endif
