/* Mirrors base/ring.c. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/ring.h"
#include "base/rng.h"

enum { OPERATIONS = 10000, CAP_MAX = 9 };

/* The naive version: values in order, the oldest at 0, everything moved up at each pop. */
struct queue {
    uint32_t values[CAP_MAX];
    size_t count;
};

static void push_both(struct ring *r, uint32_t slots[], struct queue *q, uint32_t value)
{
    size_t next = ring_next(r);
    size_t at = ring_push(r);
    cr_assert_eq(at, next);
    if (q->count == r->cap) {
        cr_assert_eq(at, RING_NONE);
        return;
    }
    cr_assert_lt(at, r->cap);
    slots[at] = value;
    q->values[q->count++] = value;
}

static void pop_both(struct ring *r, const uint32_t slots[], struct queue *q)
{
    size_t peeked = ring_peek(r);
    size_t at = ring_pop(r);
    cr_assert_eq(at, peeked);
    if (q->count == 0) {
        cr_assert_eq(at, RING_NONE);
        return;
    }
    cr_assert_eq(slots[at], q->values[0]);
    q->count--;
    memmove(q->values, q->values + 1, q->count * sizeof q->values[0]);
}

static void check_same(const struct ring *r, const uint32_t slots[], const struct queue *q)
{
    ring_check_invariants(r);
    cr_assert_eq(r->count, q->count);
    for (size_t i = 0; i < q->count; i++)
        cr_assert_eq(slots[ring_at(r, i)], q->values[i]);
}

/* A ring must hold what a list holds, in its order, at every size: 10,000 random pushes and pops against an
 * array that is moved, long runs of one kind among them so that both ends are met. */
Test(ring, equals_a_naive_queue)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 1);
    struct rng rng = rng_of_seeded(&stream);
    for (size_t cap = 0; cap <= CAP_MAX; cap++) {
        struct ring r = ring_init(cap);
        struct queue q = {.count = 0};
        uint32_t slots[CAP_MAX] = {0};
        uint32_t pushes_of_16 = 8;
        for (size_t i = 0; i < OPERATIONS; i++) {
            if (i % 64 == 0)
                pushes_of_16 = (uint32_t)rng_below(&rng, 17);
            if (rng_below(&rng, 16) < pushes_of_16)
                push_both(&r, slots, &q, (uint32_t)i);
            else
                pop_both(&r, slots, &q);
            check_same(&r, slots, &q);
        }
    }
}

/* Slots come in order and start again at 0; with two in use the ring must wrap at every place. */
Test(ring, wraps_around)
{
    struct ring r = ring_init(3);
    cr_assert_eq(ring_push(&r), 0);
    for (size_t i = 1; i < 20; i++) {
        cr_assert_eq(ring_push(&r), i % 3);
        cr_assert_eq(ring_at(&r, 0), (i - 1) % 3);
        cr_assert_eq(ring_at(&r, 1), i % 3);
        cr_assert_eq(ring_pop(&r), (i - 1) % 3);
    }
}

/* A full ring refuses and keeps what it has; an empty one gives nothing; both work on afterwards. */
Test(ring, full_and_empty)
{
    struct ring r = ring_init(2);
    cr_assert_eq(ring_peek(&r), RING_NONE);
    cr_assert_eq(ring_pop(&r), RING_NONE);
    cr_assert_eq(ring_push(&r), 0);
    cr_assert_eq(ring_push(&r), 1);
    cr_assert_eq(ring_next(&r), RING_NONE);
    cr_assert_eq(ring_push(&r), RING_NONE);
    cr_assert_eq(r.count, 2);
    cr_assert_eq(ring_pop(&r), 0);
    cr_assert_eq(ring_push(&r), 0);
    cr_assert_eq(ring_pop(&r), 1);
    cr_assert_eq(ring_pop(&r), 0);
    cr_assert_eq(ring_pop(&r), RING_NONE);
}

/* One slot is both ends at once. */
Test(ring, one_slot)
{
    struct ring r = ring_init(1);
    for (size_t i = 0; i < 5; i++) {
        cr_assert_eq(ring_push(&r), 0);
        cr_assert_eq(ring_push(&r), RING_NONE);
        cr_assert_eq(ring_peek(&r), 0);
        cr_assert_eq(ring_pop(&r), 0);
        cr_assert_eq(ring_peek(&r), RING_NONE);
    }
}

/* No slots, and a ring of zero bytes: always empty, always full, never a slot. */
Test(ring, no_slots)
{
    struct ring rings[] = {ring_init(0), {0}};
    for (size_t i = 0; i < 2; i++) {
        cr_assert_eq(ring_push(&rings[i]), RING_NONE);
        cr_assert_eq(ring_pop(&rings[i]), RING_NONE);
        ring_check_invariants(&rings[i]);
    }
}
