/* Seeded random numbers and plain double-precision references for the tests of gossip/merge. */
#ifndef DUNLIN_TESTS_GOSSIP_NUMBERS_H
#define DUNLIN_TESTS_GOSSIP_NUMBERS_H

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"

struct numbers {
    struct rng_seeded stream;
    uint64_t state; /* splitmix64, seeded from the stream: the simulations draw millions */
};

static inline void numbers_init(struct numbers *n, uint64_t seed)
{
    rng_seeded_init(&n->stream, seed);
    struct rng rng = rng_of_seeded(&n->stream);
    n->state = rng_u64(&rng);
}

static inline uint64_t numbers_u64(struct numbers *n)
{
    uint64_t z = (n->state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/* Uniform in [0, 1). */
static inline double numbers_unit(struct numbers *n)
{
    return (double)(numbers_u64(n) >> 11) * 0x1p-53;
}

static inline size_t numbers_below(struct numbers *n, size_t bound)
{
    return (size_t)(numbers_u64(n) % bound);
}

/* Standard normal (Box and Muller). */
static inline double numbers_normal(struct numbers *n)
{
    double radius = sqrt(-2.0 * log(1.0 - numbers_unit(n)));
    return radius * cos(6.283185307179586 * numbers_unit(n));
}

static inline void numbers_fill(struct numbers *n, size_t count, double deviation, float out[])
{
    for (size_t i = 0; i < count; i++)
        out[i] = (float)(deviation * numbers_normal(n));
}

/* A random perfect matching of an even count: order[2k] meets order[2k + 1]. */
static inline void numbers_matching(struct numbers *n, size_t count, size_t order[])
{
    for (size_t i = 0; i < count; i++)
        order[i] = i;
    for (size_t i = count; i-- > 1;) {
        size_t j = numbers_below(n, i + 1);
        size_t held = order[i];
        order[i] = order[j];
        order[j] = held;
    }
}

#endif
