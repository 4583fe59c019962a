#include "base/alloc.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

static void *system_alloc(void *user, size_t size)
{
    (void)user;
    if (size > SIZE_MAX - 63)
        return NULL;
    size_t rounded = (size + 63) & ~(size_t)63;
    void *block = aligned_alloc(64, rounded == 0 ? 64 : rounded);
    if (block != NULL)
        memset(block, 0, rounded);
    return block;
}

static void system_release(void *user, void *ptr)
{
    (void)user;
    free(ptr);
}

struct allocator allocator_system(void)
{
    return (struct allocator){.alloc = system_alloc, .release = system_release, .user = NULL};
}

void *allocator_get(const struct allocator *a, size_t count, size_t size)
{
    size_t total;
    if (!size_product(count, size, &total))
        return NULL;
    return a->alloc(a->user, total);
}

void allocator_release(const struct allocator *a, void *ptr)
{
    a->release(a->user, ptr);
}

struct arena arena_of(void *block, size_t size)
{
    return (struct arena){.base = block, .size = size, .used = 0};
}

void *arena_take(struct arena *arena, size_t size, size_t align)
{
    ASSERT(align > 0 && (align & (align - 1)) == 0);
    uintptr_t start = (uintptr_t)arena->base + arena->used;
    size_t skip = (size_t)(-start & (uintptr_t)(align - 1));
    size_t left = arena->size - arena->used;
    if (skip > left || size > left - skip)
        return NULL;
    void *taken = arena->base + arena->used + skip;
    arena->used += skip + size;
    return taken;
}

bool size_product(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
