/* One-pass kernels of the outer step. */
#include "gossip/merge/outer.h"

#include <math.h>

#include "gossip/merge/clones.h"
#include "gossip/merge/stream.h"

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
    return 2.0f * (1.0f - alpha * alpha) / (1.0f + GOSSIP_FAILS_MAX * alpha);
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

/* Each formula once, inlined into the loop that keeps its last array near and the one that stores it past the
 * caches; for each instruction set. */
#define INLINED static inline __attribute__((always_inline))

INLINED void step_values(size_t n, float alpha, float beta, const float *tbar, const float *theta,
                         float *restrict phi, float *restrict delta, float *restrict diff)
{
    for (size_t i = 0; i < n; i++) {
        float step = alpha * delta[i] + beta * (tbar[i] - phi[i]);
        float moved = phi[i] + step;
        delta[i] = step;
        phi[i] = moved;
        diff[i] = moved - theta[i];
    }
}

INLINED void pair_values(size_t n, float alpha, float beta, float weight, const float *theta,
                         const float *ours, const float *theirs, float *restrict phi, float *restrict delta,
                         float *restrict diff)
{
    for (size_t i = 0; i < n; i++) {
        float tbar = theta[i] + weight * (theirs[i] - ours[i]);
        float step = alpha * delta[i] + beta * (tbar - phi[i]);
        float moved = phi[i] + step;
        delta[i] = step;
        phi[i] = moved;
        diff[i] = moved - theta[i];
    }
}

INLINED void target_values(size_t n, float weight, const float *theta, const float *ours, const float *theirs,
                           float *restrict tbar)
{
    for (size_t i = 0; i < n; i++)
        tbar[i] = theta[i] + weight * (theirs[i] - ours[i]);
}

INLINED void general_values(size_t n, const struct gossip_outer *config, const float *restrict tbar,
                            const float *restrict pbar, float *restrict phi, float *restrict delta)
{
    float alpha = config->alpha;
    float beta = config->beta;
    float gamma = config->gamma;
    for (size_t i = 0; i < n; i++) {
        float step = alpha * delta[i] + beta * (tbar[i] - pbar[i]) - gamma * (phi[i] - pbar[i]);
        delta[i] = step;
        phi[i] = phi[i] + step;
    }
}

GOSSIP_CLONES
void gossip_outer_step(size_t n, float alpha, float beta, const float *tbar, const float *theta,
                       float *restrict phi, float *restrict delta, float *restrict diff)
{
    float piece[STREAM_PIECE];
    if (n < STREAM_MIN) {
        step_values(n, alpha, beta, tbar, theta, phi, delta, diff);
        return;
    }
    size_t whole = n - n % STREAM_PIECE;
    for (size_t i = 0; i < whole; i += STREAM_PIECE) {
        step_values(STREAM_PIECE, alpha, beta, tbar + i, theta + i, phi + i, delta + i, piece);
        stream_out(STREAM_PIECE, piece, diff + i);
    }
    step_values(n - whole, alpha, beta, tbar + whole, theta + whole, phi + whole, delta + whole,
                diff + whole);
    stream_end();
}

GOSSIP_CLONES
void gossip_pair_step(size_t n, float alpha, float beta, float weight, const float *theta, const float *ours,
                      const float *theirs, float *restrict phi, float *restrict delta, float *restrict diff)
{
    float piece[STREAM_PIECE];
    if (n < STREAM_MIN) {
        pair_values(n, alpha, beta, weight, theta, ours, theirs, phi, delta, diff);
        return;
    }
    size_t whole = n - n % STREAM_PIECE;
    for (size_t i = 0; i < whole; i += STREAM_PIECE) {
        pair_values(STREAM_PIECE, alpha, beta, weight, theta + i, ours + i, theirs + i, phi + i, delta + i,
                    piece);
        stream_out(STREAM_PIECE, piece, diff + i);
    }
    pair_values(n - whole, alpha, beta, weight, theta + whole, ours + whole, theirs + whole, phi + whole,
                delta + whole, diff + whole);
    stream_end();
}

GOSSIP_CLONES
void gossip_outer_step_general(size_t n, const struct gossip_outer *config, const float tbar[restrict],
                               const float pbar[restrict], float phi[restrict], float delta[restrict])
{
    size_t whole = n - n % STREAM_PIECE;
    for (size_t i = 0; i < whole; i += STREAM_PIECE) {
        stream_ahead(tbar + i);
        stream_ahead(pbar + i);
        stream_ahead(phi + i);
        stream_ahead(delta + i);
        general_values(STREAM_PIECE, config, tbar + i, pbar + i, phi + i, delta + i);
    }
    general_values(n - whole, config, tbar + whole, pbar + whole, phi + whole, delta + whole);
}

GOSSIP_CLONES
void gossip_pair_target(size_t n, float weight, const float theta[restrict], const float ours[restrict],
                        const float theirs[restrict], float tbar[restrict])
{
    float piece[STREAM_PIECE];
    if (n < STREAM_MIN) {
        target_values(n, weight, theta, ours, theirs, tbar);
        return;
    }
    size_t whole = n - n % STREAM_PIECE;
    for (size_t i = 0; i < whole; i += STREAM_PIECE) {
        stream_ahead(theta + i);
        stream_ahead(ours + i);
        stream_ahead(theirs + i);
        target_values(STREAM_PIECE, weight, theta + i, ours + i, theirs + i, piece);
        stream_out(STREAM_PIECE, piece, tbar + i);
    }
    target_values(n - whole, weight, theta + whole, ours + whole, theirs + whole, tbar + whole);
    stream_end();
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
