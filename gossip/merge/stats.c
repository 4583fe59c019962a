/* Sums and the variance-keeping average.  Every sum runs in LANES float32 lanes over at most GOSSIP_SUM_BLOCK
 * values and is then added up in double, lane by lane: an order that is fixed and that compilers can
 * vectorise. */
#include "gossip/merge/stats.h"

#include <math.h>
#include <string.h>

#include "gossip/codec.h"

enum { LANES = 8 };

/* Vector extension of gcc and clang: the loop below is left scalar by gcc 12 when written over small arrays.
 */
typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

static double total(const lanes *sum)
{
    double out = 0;
    for (size_t lane = 0; lane < LANES; lane++)
        out += (double)(*sum)[lane];
    return out;
}

/* Adds whole groups of LANES values; count is a multiple of LANES and at most GOSSIP_SUM_BLOCK. */
static void add_groups(struct gossip_sums *sums, size_t count, const float x[restrict],
                       const float y[restrict])
{
    lanes sx = {0}, sy = {0}, sxx = {0}, syy = {0}, sxy = {0}, sdd = {0};
    for (size_t i = 0; i < count; i += LANES) {
        lanes a, b;
        memcpy(&a, x + i, sizeof a);
        memcpy(&b, y + i, sizeof b);
        sx += a;
        sy += b;
        sxx += a * a;
        syy += b * b;
        sxy += a * b;
        sdd += (a - b) * (a - b);
    }
    sums->x += total(&sx);
    sums->y += total(&sy);
    sums->xx += total(&sxx);
    sums->yy += total(&syy);
    sums->xy += total(&sxy);
    sums->dd += total(&sdd);
}

void gossip_sums_add(struct gossip_sums *sums, size_t n, const float x[restrict], const float y[restrict])
{
    size_t whole = n - n % LANES;
    for (size_t i = 0; i < whole; i += GOSSIP_SUM_BLOCK)
        add_groups(sums, whole - i < GOSSIP_SUM_BLOCK ? whole - i : GOSSIP_SUM_BLOCK, x + i, y + i);
    for (size_t i = whole; i < n; i++) {
        double a = (double)x[i];
        double b = (double)y[i];
        sums->x += a;
        sums->y += b;
        sums->xx += a * a;
        sums->yy += b * b;
        sums->xy += a * b;
        sums->dd += (a - b) * (a - b);
    }
    sums->n += n;
}

double gossip_sums_distance(const struct gossip_sums *sums)
{
    return sqrt(sums->dd);
}

double gossip_sums_cosine(const struct gossip_sums *sums)
{
    double norms = sqrt(sums->xx) * sqrt(sums->yy);
    return norms > 0 ? sums->xy / norms : 0;
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

void gossip_average_corrected(size_t n, enum gossip_tensor_kind kind, const float x[restrict],
                              const float y[restrict], float out[restrict])
{
    struct gossip_sums sums = {0};
    gossip_sums_add(&sums, n, x, y);
    struct gossip_correction correction = gossip_correction_of(&sums, kind);
    float mean = correction.mean;
    float factor = correction.factor;
    if (factor == 1.0f) {
        for (size_t i = 0; i < n; i++)
            out[i] = 0.5f * (x[i] + y[i]);
        return;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = mean + factor * (0.5f * (x[i] + y[i]) - mean);
}

void gossip_correction_apply(struct gossip_correction correction, size_t n, float values[restrict])
{
    if (correction.factor == 1.0f)
        return;
    for (size_t i = 0; i < n; i++)
        values[i] = correction.mean + correction.factor * (values[i] - correction.mean);
}

bool gossip_all_finite(size_t n, const float values[restrict])
{
    unsigned bad = 0;
    for (size_t i = 0; i < n; i++)
        bad |= fabsf(values[i]) <= GOSSIP_VALUE_MAX ? 0u : 1u;
    return bad == 0;
}
