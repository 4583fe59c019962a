#include "base/heap.h"

#include <string.h>

#include "base/err.h"

static uint8_t *item_at(const struct heap *h, size_t at)
{
    return (uint8_t *)h->items + at * h->item_bytes;
}

/* Copied out, so that neither the array's alignment nor its declared type matters. */
static struct heap_order order_of(const void *item)
{
    struct heap_order order;
    memcpy(&order, item, sizeof order);
    return order;
}

static bool before(struct heap_order a, struct heap_order b)
{
    return a.key != b.key ? a.key < b.key : a.tie < b.tie;
}

struct heap heap_of(void *items, size_t item_bytes, size_t cap)
{
    ASSERT(item_bytes >= sizeof(struct heap_order));
    ASSERT(items != NULL || cap == 0);
    return (struct heap){.items = items, .item_bytes = item_bytes, .cap = cap};
}

bool heap_push(struct heap *h, const void *item)
{
    if (h->count == h->cap)
        return false;
    struct heap_order order = order_of(item);
    size_t at = h->count++;
    while (at > 0) { /* a hole rises; the item goes in once, where it stops */
        size_t parent = (at - 1) / 2;
        if (!before(order, order_of(item_at(h, parent))))
            break;
        memcpy(item_at(h, at), item_at(h, parent), h->item_bytes);
        at = parent;
    }
    memcpy(item_at(h, at), item, h->item_bytes);
    return true;
}

/* The lesser child of the place, or count when it has none. */
static size_t lesser_child(const struct heap *h, size_t at)
{
    size_t child = 2 * at + 1;
    if (child >= h->count)
        return h->count;
    bool right = child + 1 < h->count && before(order_of(item_at(h, child + 1)), order_of(item_at(h, child)));
    return child + right;
}

bool heap_pop(struct heap *h, void *out)
{
    if (h->count == 0)
        return false;
    memcpy(out, h->items, h->item_bytes);
    h->count--;
    if (h->count == 0)
        return true;
    const uint8_t *last = item_at(h, h->count); /* lies behind the heap now, so the hole never reaches it */
    struct heap_order order = order_of(last);
    size_t at = 0;
    for (size_t child = lesser_child(h, at); child < h->count; child = lesser_child(h, at)) {
        if (!before(order_of(item_at(h, child)), order))
            break;
        memcpy(item_at(h, at), item_at(h, child), h->item_bytes);
        at = child;
    }
    memcpy(item_at(h, at), last, h->item_bytes);
    return true;
}

const void *heap_top(const struct heap *h)
{
    return h->count == 0 ? NULL : h->items;
}
