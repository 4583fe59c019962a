/* Sums over one tensor of two models. */
#include "gossip/merge/stats.h"

#include <math.h>

#include "gossip/codec.h"
#include "gossip/merge/clones.h"
#include "gossip/merge/lanes.h"

enum { AHEAD = 512 }; /* values; past the end does no harm */

/* count is a multiple of LANES. */
GOSSIP_CLONES
static void add_groups(struct gossip_sums *sums, size_t count, const float x[restrict],
                       const float y[restrict])
{
    lanes sx = {0}, sy = {0}, sxx = {0}, syy = {0}, sxy = {0}, sdd = {0};
    lanes_double tx = {0}, ty = {0}, txx = {0}, tyy = {0}, txy = {0}, tdd = {0};
    for (size_t start = 0; start < count; start += GOSSIP_SUM_BLOCK) {
        size_t end = count - start < GOSSIP_SUM_BLOCK ? count : start + GOSSIP_SUM_BLOCK;
        for (size_t i = start; i < end; i += LANES) {
            lanes a, b;
            __builtin_prefetch(x + i + AHEAD); /* the six sums leave the processor no time to look ahead */
            __builtin_prefetch(y + i + AHEAD);
            memcpy(&a, x + i, sizeof a);
            memcpy(&b, y + i, sizeof b);
            sx += a;
            sy += b;
            sxx += a * a;
            syy += b * b;
            sxy += a * b;
            sdd += (a - b) * (a - b);
        }
        lanes_carry(&sx, &tx);
        lanes_carry(&sy, &ty);
        lanes_carry(&sxx, &txx);
        lanes_carry(&syy, &tyy);
        lanes_carry(&sxy, &txy);
        lanes_carry(&sdd, &tdd);
    }
    sums->x += lanes_total(&tx);
    sums->y += lanes_total(&ty);
    sums->xx += lanes_total(&txx);
    sums->yy += lanes_total(&tyy);
    sums->xy += lanes_total(&txy);
    sums->dd += lanes_total(&tdd);
}

void gossip_sums_add(struct gossip_sums *sums, size_t n, const float x[restrict], const float y[restrict])
{
    size_t whole = n - n % LANES;
    add_groups(sums, whole, x, y);
    for (size_t i = whole; i < n; i++) {
        float apart = x[i] - y[i];
        sums->x += (double)x[i];
        sums->y += (double)y[i];
        sums->xx += (double)(x[i] * x[i]);
        sums->yy += (double)(y[i] * y[i]);
        sums->xy += (double)(x[i] * y[i]);
        sums->dd += (double)(apart * apart);
    }
    sums->n += n;
}

/* count is a multiple of LANES. */
GOSSIP_CLONES
static void add_moments(size_t count, const float x[restrict], double *sum, double *squares)
{
    lanes sx = {0}, sxx = {0};
    lanes_double tx = {0}, txx = {0};
    for (size_t start = 0; start < count; start += GOSSIP_SUM_BLOCK) {
        size_t end = count - start < GOSSIP_SUM_BLOCK ? count : start + GOSSIP_SUM_BLOCK;
        for (size_t i = start; i < end; i += LANES) {
            lanes a;
            memcpy(&a, x + i, sizeof a);
            sx += a;
            sxx += a * a;
        }
        lanes_carry(&sx, &tx);
        lanes_carry(&sxx, &txx);
    }
    *sum += lanes_total(&tx);
    *squares += lanes_total(&txx);
}

void gossip_moments_add(size_t n, const float x[restrict], double *sum, double *squares)
{
    size_t whole = n - n % LANES;
    add_moments(whole, x, sum, squares);
    for (size_t i = whole; i < n; i++) {
        *sum += (double)x[i];
        *squares += (double)(x[i] * x[i]);
    }
}

double gossip_sums_distance(const struct gossip_sums *sums)
{
    return sqrt(sums->dd);
}

/* Population variances and covariance; a variance lost in the rounding of its sums counts as zero. */
struct moments {
    double mean_x, mean_y, var_x, var_y, cov;
};

static struct moments moments_of(const struct gossip_sums *sums)
{
    double n = sums->n > 0 ? (double)sums->n : 1.0;
    struct moments m = {.mean_x = sums->x / n, .mean_y = sums->y / n};
    m.var_x = sums->xx / n - m.mean_x * m.mean_x;
    m.var_y = sums->yy / n - m.mean_y * m.mean_y;
    m.cov = sums->xy / n - m.mean_x * m.mean_y;
    if (!(m.var_x > GOSSIP_VARIANCE_FLOOR * sums->xx / n))
        m.var_x = 0;
    if (!(m.var_y > GOSSIP_VARIANCE_FLOOR * sums->yy / n))
        m.var_y = 0;
    return m;
}

double gossip_sums_correlation(const struct gossip_sums *sums)
{
    struct moments m = moments_of(sums);
    if (m.var_x <= 0 && m.var_y <= 0)
        return 1;
    if (m.var_x <= 0 || m.var_y <= 0)
        return 0;
    return m.cov / (sqrt(m.var_x) * sqrt(m.var_y));
}

struct gossip_correction gossip_correction_of(const struct gossip_sums *sums, enum gossip_tensor_kind kind)
{
    struct moments m = moments_of(sums);
    struct gossip_correction none = {.factor = 1.0f, .mean = (float)(0.5 * (m.mean_x + m.mean_y))};
    if (kind != GOSSIP_TENSOR_MATRIX || sums->n < 2 || m.var_x <= 0 || m.var_y <= 0)
        return none;
    if (!(gossip_sums_correlation(sums) < GOSSIP_CORRELATION_MAX))
        return none;
    double target = 0.5 * (m.var_x + m.var_y);
    double average = 0.25 * (m.var_x + m.var_y + 2 * m.cov);
    if (!(average > GOSSIP_VARIANCE_FLOOR * target))
        return none;
    return (struct gossip_correction){.factor = (float)sqrt(target / average), .mean = none.mean};
}

GOSSIP_CLONES
void gossip_correction_apply(struct gossip_correction correction, size_t n, float values[restrict])
{
    if (correction.factor == 1.0f)
        return;
    for (size_t i = 0; i < n; i++)
        values[i] = correction.mean + correction.factor * (values[i] - correction.mean);
}

GOSSIP_CLONES
bool gossip_all_finite(size_t n, const float values[restrict])
{
    unsigned bad = 0;
    for (size_t i = 0; i < n; i++)
        bad |= fabsf(values[i]) <= GOSSIP_VALUE_MAX ? 0u : 1u;
    return bad == 0;
}
