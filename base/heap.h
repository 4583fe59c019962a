/* A binary min-heap over the caller's array of fixed-size items: the least (key, tie) comes out first.
 *
 * Every item begins with a struct heap_order.  Items of one key leave by rising tie: whoever numbers them
 * from a counter as they go in gets them out first in, first out, so that equal times have one order in every
 * run. Items of equal key and equal tie leave in no stated order.  An item cannot be found, moved or removed
 * while it is inside; where that is needed, keep a heap of indices instead.  Nothing is allocated. */
#ifndef DUNLIN_BASE_HEAP_H
#define DUNLIN_BASE_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* First member of an item; unchanged while the item is in the heap. */
struct heap_order {
    uint64_t key;
    uint64_t tie;
};

/* The caller may enlarge the array between calls: it moves the first count items along and sets items and
 * cap. */
struct heap {
    void *items; /* [cap], borrowed until the last use; the first count are in use, in heap order */
    size_t item_bytes;
    size_t cap;
    size_t count;
};

/* An empty heap over cap items of item_bytes each.  items is borrowed until the last use and may be NULL when
 * cap is 0.  item_bytes is at least a struct heap_order (asserted), and item_bytes * cap fits a size_t. */
struct heap heap_of(void *items, size_t item_bytes, size_t cap);
/* Copies the item in; it must not lie in the heap's own array.  false: full, nothing changed; enlarge the
 * array or refuse the item.  O(log count). */
bool heap_push(struct heap *h, const void *item);
/* Copies the least item to out, which must not lie in the heap's own array, and drops it.  false: empty, out
 * is untouched.  O(log count). */
bool heap_pop(struct heap *h, void *out);
/* The least item, or NULL when empty; borrowed until the next push or pop. */
const void *heap_top(const struct heap *h);

#endif
