/* A first-in first-out queue of slot indices: the arithmetic of a ring without its storage.
 *
 * The caller has an array of cap slots of any type beside it; the ring says which slot to write and which to
 * read.  Not for several threads at once: the caller locks.  Nothing is allocated and every call is O(1).
 *
 *     size_t at = ring_push(&q->ring);
 *     if (at == RING_NONE)
 *         return ERR_FULL;
 *     q->slots[at] = *message;
 *
 * A ring whose bytes are all zero holds nothing and has room for nothing, like ring_init(0). */
#ifndef DUNLIN_BASE_RING_H
#define DUNLIN_BASE_RING_H

#include <stddef.h>
#include <stdint.h>

#define RING_NONE SIZE_MAX /* no slot */

struct ring {
    size_t first; /* slot of the oldest; below cap, or 0 */
    size_t count; /* slots in use, cap at most */
    size_t cap;   /* slots of the caller's array */
};

/* An empty ring over cap slots; cap is at most SIZE_MAX / 2 (asserted). */
struct ring ring_init(size_t cap);
/* Takes the slot behind the newest and returns it, for the caller to write.  RING_NONE: full, nothing
 * changed; shed load, or pop the oldest first. */
size_t ring_push(struct ring *r);
/* The slot that the next ring_push will take, for writing it before deciding; RING_NONE: full. */
size_t ring_next(const struct ring *r);
/* Gives the oldest slot back and returns it.  Its contents are the caller's until the next push.  RING_NONE:
 * empty. */
size_t ring_pop(struct ring *r);
/* The oldest slot, which stays; RING_NONE: empty. */
size_t ring_peek(const struct ring *r);
/* The slot of the i-th oldest, 0 being the oldest; i is below count (asserted). */
size_t ring_at(const struct ring *r, size_t i);
/* Asserts what holds between any two calls; for the owner's own check of invariants. */
void ring_check_invariants(const struct ring *r);

#endif
