/* Mirrors base/heap.c. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"
#include "base/rng.h"

enum { OPERATIONS = 10000, CAP_MAX = 300 };

/* An odd size, so that a copy of too much or too little shows. */
struct item {
    struct heap_order order;
    uint8_t payload[21];
};

static struct item item_of(uint64_t key, uint64_t tie)
{
    struct item item;
    memset(&item, 0, sizeof item); /* with the padding, so that items compare as bytes */
    item.order = (struct heap_order){.key = key, .tie = tie};
    memset(item.payload, (int)(tie * 37 + key), sizeof item.payload);
    return item;
}

/* The naive version: an array in no order, searched from end to end. */
struct list {
    struct item items[CAP_MAX];
    size_t count;
};

static size_t least(const struct list *l)
{
    size_t best = 0;
    for (size_t i = 1; i < l->count; i++) {
        struct heap_order a = l->items[i].order;
        struct heap_order b = l->items[best].order;
        if (a.key < b.key || (a.key == b.key && a.tie < b.tie))
            best = i;
    }
    return best;
}

static void push_both(struct heap *h, struct list *l, const struct item *item)
{
    bool pushed = heap_push(h, item);
    cr_assert_eq(pushed, l->count < h->cap);
    if (pushed)
        l->items[l->count++] = *item;
}

static void pop_both(struct heap *h, struct list *l)
{
    struct item out;
    const struct item *top = heap_top(h);
    cr_assert_eq(top != NULL, l->count > 0);
    struct item seen = top != NULL ? *top : item_of(0, 0);
    bool popped = heap_pop(h, &out);
    cr_assert_eq(popped, l->count > 0);
    if (!popped)
        return;
    size_t at = least(l);
    cr_assert_eq(memcmp(&out, &l->items[at], sizeof out), 0);
    cr_assert_eq(memcmp(&out, &seen, sizeof out), 0);
    l->items[at] = l->items[--l->count];
}

/* Every pop must give the item that a search of all of them finds: 10,000 random pushes and pops against an
 * array without order, few different keys so that ties decide often, long runs of one kind so that the heap
 * fills and empties. */
Test(heap, equals_a_naive_search)
{
    static const size_t caps[] = {0, 1, 2, 3, 7, 8, CAP_MAX};
    struct rng_seeded stream;
    rng_seeded_init(&stream, 1);
    struct rng rng = rng_of_seeded(&stream);
    struct list *l = malloc(sizeof *l);
    for (size_t c = 0; c < sizeof caps / sizeof caps[0]; c++) {
        struct item *items = malloc((caps[c] + 1) * sizeof *items);
        struct heap h = heap_of(items, sizeof *items, caps[c]);
        l->count = 0;
        uint32_t pushes_of_16 = 8;
        for (size_t i = 0; i < OPERATIONS; i++) {
            if (i % 512 == 0)
                pushes_of_16 = (uint32_t)rng_below(&rng, 17);
            struct item item = item_of(rng_below(&rng, 40), i);
            if (rng_below(&rng, 16) < pushes_of_16)
                push_both(&h, l, &item);
            else
                pop_both(&h, l);
            cr_assert_eq(h.count, l->count);
        }
        free(items);
    }
    free(l);
}

/* Items of one key, numbered as they go in, leave in that order, whatever else comes and goes. */
Test(heap, ties_are_stable)
{
    struct item items[64];
    struct heap h = heap_of(items, sizeof items[0], 64);
    for (uint64_t i = 0; i < 64; i++) {
        struct item item = item_of(i % 2 == 0 ? 5 : UINT64_MAX, i);
        cr_assert(heap_push(&h, &item));
    }
    struct item out;
    for (uint64_t i = 0; i < 64; i++) {
        cr_assert(heap_pop(&h, &out));
        cr_assert_eq(out.order.key, i < 32 ? 5 : UINT64_MAX);
        cr_assert_eq(out.order.tie, i < 32 ? 2 * i : 2 * (i - 32) + 1);
    }
    cr_assert_not(heap_pop(&h, &out));
}

/* A full heap refuses and keeps what it has; an empty one leaves out alone; one place is enough to work. */
Test(heap, one_place)
{
    struct item place;
    struct heap h = heap_of(&place, sizeof place, 1);
    struct item out = item_of(77, 77);
    for (uint64_t i = 1; i < 5; i++) {
        struct item item = item_of(i, i);
        struct item less = item_of(0, 0);
        cr_assert_not(heap_pop(&h, &out));
        cr_assert_null(heap_top(&h));
        cr_assert_eq(out.order.key, i == 1 ? 77 : i - 1);
        cr_assert(heap_push(&h, &item));
        cr_assert_not(heap_push(&h, &less));
        cr_assert(heap_pop(&h, &out));
        cr_assert_eq(memcmp(&out, &item, sizeof out), 0);
    }
}

/* The caller enlarges the array in the middle of things: the heap goes on in the new one. */
Test(heap, grows_in_the_callers_hands)
{
    struct heap h = heap_of(NULL, sizeof(struct item), 0);
    for (uint64_t i = 0; i < 100; i++) {
        struct item item = item_of(1000 - i, i);
        if (!heap_push(&h, &item)) {
            h.cap = 2 * h.cap + 1;
            h.items = realloc(h.items, h.cap * h.item_bytes);
            cr_assert(heap_push(&h, &item));
        }
    }
    struct item out;
    for (uint64_t i = 0; i < 100; i++) {
        cr_assert(heap_pop(&h, &out));
        cr_assert_eq(out.order.key, 901 + i);
    }
    free(h.items);
}
