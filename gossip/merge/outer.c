/* One-pass kernels of the outer step. */
#include "gossip/merge/outer.h"

#include <math.h>

struct gossip_outer gossip_outer_default(void)
{
    return (struct gossip_outer){.alpha = 0.5f, .beta = 0.7f, .gamma = 0.7f};
}

struct gossip_outer gossip_outer_plain(void)
{
    return (struct gossip_outer){.alpha = 0.0f, .beta = 1.0f, .gamma = 1.0f};
}

float gossip_outer_gamma_max(float alpha)
{
    static const float at[4] = {0.0f, 0.3f, 0.5f, 0.9f};
    static const float limit[4] = {2.0f, 1.81f, 1.49f, 0.37f};
    size_t i = alpha < at[1] ? 0 : alpha < at[2] ? 1 : 2;
    return limit[i] + (limit[i + 1] - limit[i]) * (alpha - at[i]) / (at[i + 1] - at[i]);
}

int gossip_outer_check(const struct gossip_outer *config, const char **why)
{
    if (!(config->alpha >= 0.0f && config->alpha <= 0.6f)) {
        *why = "alpha must be within 0 and 0.6: beyond it pairs diverge or learn worse";
        return ERR_INVALID;
    }
    float limit = gossip_outer_gamma_max(config->alpha);
    if (!(config->beta > 0.0f && config->beta < limit)) {
        *why = "beta must be above 0 and below the stable limit for this alpha";
        return ERR_INVALID;
    }
    if (!(config->gamma > 0.0f && config->gamma < limit)) {
        *why = "gamma must be above 0 and below the stable limit for this alpha";
        return ERR_INVALID;
    }
    *why = "";
    return ERR_OK;
}

void gossip_outer_step(size_t n, float alpha, float beta, const float *tbar, const float *theta,
                       float *restrict phi, float *restrict delta, float *restrict diff)
{
    for (size_t i = 0; i < n; i++) {
        delta[i] = alpha * delta[i] + beta * (tbar[i] - phi[i]);
        phi[i] += delta[i];
        diff[i] = phi[i] - theta[i];
    }
}

void gossip_outer_step_general(size_t n, const struct gossip_outer *config, const float tbar[restrict],
                               const float pbar[restrict], float phi[restrict], float delta[restrict])
{
    float alpha = config->alpha;
    float beta = config->beta;
    float gamma = config->gamma;
    for (size_t i = 0; i < n; i++) {
        delta[i] = alpha * delta[i] + beta * (tbar[i] - pbar[i]) - gamma * (phi[i] - pbar[i]);
        phi[i] += delta[i];
    }
}

void gossip_pair_target(size_t n, float weight, const float theta[restrict], const float ours[restrict],
                        const float theirs[restrict], float tbar[restrict])
{
    for (size_t i = 0; i < n; i++)
        tbar[i] = theta[i] + weight * (theirs[i] - ours[i]);
}

void gossip_average(size_t n, const float a[restrict], const float b[restrict], float out[restrict])
{
    for (size_t i = 0; i < n; i++)
        out[i] = 0.5f * (a[i] + b[i]);
}

float gossip_partner_weight(float lateness)
{
    ASSERT(lateness >= 0.0f);
    if (lateness <= 0.3f)
        return 0.5f;
    if (lateness >= 1.0f)
        return 0.25f;
    return 0.5f - 0.25f * (lateness - 0.3f) / 0.7f;
}
