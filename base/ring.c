#include "base/ring.h"

#include "base/err.h"

/* The slot that lies by steps after the first; by is at most cap, so one subtraction wraps it. */
static size_t after_first(const struct ring *r, size_t by)
{
    size_t at = r->first + by;
    return at >= r->cap ? at - r->cap : at;
}

struct ring ring_init(size_t cap)
{
    ASSERT(cap <= SIZE_MAX / 2); /* first + count does not overflow */
    return (struct ring){.cap = cap};
}

size_t ring_next(const struct ring *r)
{
    return r->count == r->cap ? RING_NONE : after_first(r, r->count);
}

size_t ring_push(struct ring *r)
{
    size_t at = ring_next(r);
    if (at != RING_NONE)
        r->count++;
    return at;
}

size_t ring_pop(struct ring *r)
{
    if (r->count == 0)
        return RING_NONE;
    size_t at = r->first;
    r->first = after_first(r, 1);
    r->count--;
    return at;
}

size_t ring_peek(const struct ring *r)
{
    return r->count == 0 ? RING_NONE : r->first;
}

size_t ring_at(const struct ring *r, size_t i)
{
    ASSERT(i < r->count);
    return after_first(r, i);
}

void ring_check_invariants(const struct ring *r)
{
    ASSERT(r->count <= r->cap);
    ASSERT(r->first < r->cap || r->first == 0);
}
