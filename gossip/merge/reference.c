/* Formulas as loops. */
#include "gossip/merge/reference.h"

#include <math.h>

#include "gossip/merge/lanes.h"

void gossip_reference_outer_step(size_t n, float alpha, float beta, const float tbar[], const float theta[],
                                 float phi[], float delta[], float diff[])
{
    for (size_t i = 0; i < n; i++) {
        delta[i] = alpha * delta[i] + beta * (tbar[i] - phi[i]);
        phi[i] = phi[i] + delta[i];
        diff[i] = phi[i] - theta[i];
    }
}

void gossip_reference_pair_step(size_t n, float alpha, float beta, float weight, const float theta[],
                                const float ours[], const float theirs[], float phi[], float delta[],
                                float diff[])
{
    for (size_t i = 0; i < n; i++) {
        float tbar;
        gossip_reference_pair_target(1, weight, &theta[i], &ours[i], &theirs[i], &tbar);
        gossip_reference_outer_step(1, alpha, beta, &tbar, &theta[i], &phi[i], &delta[i], &diff[i]);
    }
}

void gossip_reference_outer_step_general(size_t n, const struct gossip_outer *config, const float tbar[],
                                         const float pbar[], float phi[], float delta[])
{
    for (size_t i = 0; i < n; i++) {
        delta[i] = config->alpha * delta[i] + config->beta * (tbar[i] - pbar[i]) -
                   config->gamma * (phi[i] - pbar[i]);
        phi[i] = phi[i] + delta[i];
    }
}

void gossip_reference_pair_target(size_t n, float weight, const float theta[], const float ours[],
                                  const float theirs[], float tbar[])
{
    for (size_t i = 0; i < n; i++)
        tbar[i] = theta[i] + weight * (theirs[i] - ours[i]);
}

void gossip_reference_average(size_t n, size_t count, const float *const models[], float out[])
{
    float share = 1.0f / (float)count;
    for (size_t i = 0; i < n; i++) {
        float sum = models[0][i];
        for (size_t k = 1; k < count; k++)
            sum = sum + models[k][i];
        out[i] = sum * share;
    }
}

void gossip_reference_average_add(size_t n, size_t seen, const float model[], float mean[])
{
    float share = 1.0f / (float)(seen + 1);
    for (size_t i = 0; i < n; i++)
        mean[i] = mean[i] + share * (model[i] - mean[i]);
}

/* What the terms of a sum are made of. */
struct operands {
    const float *x, *y;
};

typedef float term_of(const struct operands *o, size_t i);

/* Adds term(0) + ... + term(n - 1) to *sum in the order of gossip/merge/lanes.h: every LANES-th term in
 * float32, at most GOSSIP_SUM_BLOCK terms at a time, these in double, then the lanes; what is left over one
 * by one. */
static void ordered_sum(double *sum, size_t n, const struct operands *o, term_of *term)
{
    double total[LANES] = {0};
    size_t whole = n - n % LANES;
    for (size_t start = 0; start < whole; start += GOSSIP_SUM_BLOCK) {
        size_t end = whole - start < GOSSIP_SUM_BLOCK ? whole : start + GOSSIP_SUM_BLOCK;
        for (size_t lane = 0; lane < LANES; lane++) {
            float part = 0;
            for (size_t i = start + lane; i < end; i += LANES)
                part += term(o, i);
            total[lane] += (double)part;
        }
    }
    double lanes_sum = 0;
    for (size_t lane = 0; lane < LANES; lane++)
        lanes_sum += total[lane];
    *sum += lanes_sum;
    for (size_t i = whole; i < n; i++)
        *sum += (double)term(o, i);
}

static float term_x(const struct operands *o, size_t i)
{
    return o->x[i];
}

static float term_y(const struct operands *o, size_t i)
{
    return o->y[i];
}

static float term_xx(const struct operands *o, size_t i)
{
    return o->x[i] * o->x[i];
}

static float term_yy(const struct operands *o, size_t i)
{
    return o->y[i] * o->y[i];
}

static float term_xy(const struct operands *o, size_t i)
{
    return o->x[i] * o->y[i];
}

static float term_dd(const struct operands *o, size_t i)
{
    return (o->x[i] - o->y[i]) * (o->x[i] - o->y[i]);
}

void gossip_reference_sums(struct gossip_sums *sums, size_t n, const float x[], const float y[])
{
    struct operands o = {.x = x, .y = y};
    ordered_sum(&sums->x, n, &o, term_x);
    ordered_sum(&sums->y, n, &o, term_y);
    ordered_sum(&sums->xx, n, &o, term_xx);
    ordered_sum(&sums->yy, n, &o, term_yy);
    ordered_sum(&sums->xy, n, &o, term_xy);
    ordered_sum(&sums->dd, n, &o, term_dd);
    sums->n += n;
}

void gossip_reference_moments(size_t n, const float x[], double *sum, double *squares)
{
    struct operands o = {.x = x};
    ordered_sum(sum, n, &o, term_x);
    ordered_sum(squares, n, &o, term_xx);
}

/* Value i of the mean of the models first .. first + count. */
static double mean_value(size_t i, size_t count, const float *const models[])
{
    double sum = 0;
    for (size_t k = 0; k < count; k++)
        sum += (double)models[k][i];
    return sum / (double)count;
}

/* Population variance of the mean of count models, over their n values. */
static double variance_of_mean(size_t n, size_t count, const float *const models[])
{
    double mean = 0;
    double square = 0;
    for (size_t i = 0; i < n; i++)
        mean += mean_value(i, count, models) / (double)n;
    for (size_t i = 0; i < n; i++) {
        double apart = mean_value(i, count, models) - mean;
        square += apart * apart / (double)n;
    }
    return square;
}

double gossip_reference_factor(size_t n, size_t count, const float *const models[], double *correlation)
{
    double models_count = (double)count;
    double target = 0;
    for (size_t k = 0; k < count; k++)
        target += variance_of_mean(n, 1, &models[k]) / models_count;
    double average = variance_of_mean(n, count, models);
    *correlation = (models_count * average / target - 1) / (models_count - 1);
    return sqrt(target / average);
}
