/* What all tests share: a seeded rng, and allocators that count or fail. */
#ifndef DUNLIN_TESTS_SUPPORT_H
#define DUNLIN_TESTS_SUPPORT_H

#include <stddef.h>
#include <stdint.h>

#include "base/alloc.h"
#include "base/rng.h"

/* Heap allocator that counts, and fails the fail_at-th request (1 is the first; 0 never). */
struct counting_allocator {
    size_t allocated; /* requests so far, failed ones included */
    size_t live;      /* blocks not yet released */
    size_t fail_at;
};

struct allocator counting_allocator_view(struct counting_allocator *counter);

/* Fills order [count] with 0 .. count - 1 in a random order: [2 i] and [2 i + 1] are a random matching. */
void random_order(const struct rng *rng, size_t count, size_t order[]);

#endif
