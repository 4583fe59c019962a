/* Norm of the step to come. */
#include "gossip/merge/clip.h"

#include <math.h>

#include "base/err.h"
#include "gossip/merge/clones.h"
#include "gossip/merge/lanes.h"
#include "gossip/merge/stats.h"

/* count is a multiple of LANES. */
GOSSIP_CLONES
static void add_groups(struct gossip_step_sums *sums, size_t count, float alpha, float beta,
                       const float *theta, const float *phi, const float *delta, const float *ours,
                       const float *theirs)
{
    lanes uu = {0}, uv = {0}, vv = {0};
    lanes_double tuu = {0}, tuv = {0}, tvv = {0};
    for (size_t start = 0; start < count; start += GOSSIP_SUM_BLOCK) {
        size_t end = count - start < GOSSIP_SUM_BLOCK ? count : start + GOSSIP_SUM_BLOCK;
        for (size_t i = start; i < end; i += LANES) {
            lanes t, p, d, o, q;
            memcpy(&t, theta + i, sizeof t);
            memcpy(&p, phi + i, sizeof p);
            memcpy(&d, delta + i, sizeof d);
            memcpy(&o, ours + i, sizeof o);
            memcpy(&q, theirs + i, sizeof q);
            lanes u = alpha * d + beta * (t - p);
            lanes v = q - o;
            uu += u * u;
            uv += u * v;
            vv += v * v;
        }
        lanes_carry(&uu, &tuu);
        lanes_carry(&uv, &tuv);
        lanes_carry(&vv, &tvv);
    }
    sums->uu += lanes_total(&tuu);
    sums->uv += lanes_total(&tuv);
    sums->vv += lanes_total(&tvv);
}

void gossip_step_sums_add(struct gossip_step_sums *sums, size_t n, float alpha, float beta,
                          const float *theta, const float *phi, const float *delta, const float *ours,
                          const float *theirs)
{
    size_t whole = n - n % LANES;
    add_groups(sums, whole, alpha, beta, theta, phi, delta, ours, theirs);
    for (size_t i = whole; i < n; i++) {
        float u = alpha * delta[i] + beta * (theta[i] - phi[i]);
        float v = theirs[i] - ours[i];
        sums->uu += (double)(u * u);
        sums->uv += (double)(u * v);
        sums->vv += (double)(v * v);
    }
}

double gossip_step_norm(const struct gossip_step_sums *sums, float beta, float weight)
{
    double c = (double)beta * (double)weight;
    double square = sums->uu + 2 * c * sums->uv + c * c * sums->vv;
    return square > 0 ? sqrt(square) : 0; /* rounding may leave a little below zero */
}

double gossip_step_radius(const struct gossip_history *norms)
{
    return GOSSIP_STEP_FACTOR * gossip_history_median(norms);
}

float gossip_clip_scale(double norm, double radius)
{
    ASSERT(norm >= 0);
    ASSERT(radius >= 0);
    return radius > 0 && norm > radius ? (float)(radius / norm) : 1.0f;
}
