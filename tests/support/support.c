#include "support/support.h"

static void *counting_alloc(void *user, size_t size)
{
    struct counting_allocator *counter = user;
    counter->allocated++;
    if (counter->allocated == counter->fail_at)
        return NULL;
    struct allocator heap = allocator_system();
    void *block = heap.alloc(heap.user, size);
    counter->live += block != NULL;
    return block;
}

static void counting_release(void *user, void *ptr)
{
    struct counting_allocator *counter = user;
    counter->live -= ptr != NULL;
    struct allocator heap = allocator_system();
    heap.release(heap.user, ptr);
}

struct allocator counting_allocator_view(struct counting_allocator *counter)
{
    return (struct allocator){.alloc = counting_alloc, .release = counting_release, .user = counter};
}

void random_order(const struct rng *rng, size_t count, size_t order[])
{
    for (size_t i = 0; i < count; i++) {
        size_t k = (size_t)rng_below(rng, i + 1);
        order[i] = order[k];
        order[k] = i;
    }
}
