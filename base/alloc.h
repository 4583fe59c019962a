/* Memory as a value that is passed in: storage is obtained at init through one of these and not on packet,
 * timer or kernel paths afterwards.  Tests pass a counting or a failing one. */
#ifndef DUNLIN_BASE_ALLOC_H
#define DUNLIN_BASE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>

struct allocator {
    void *(*alloc)(void *user, size_t size); /* zeroed, aligned to 64; NULL when there is none */
    void (*release)(void *user, void *ptr);  /* NULL is allowed */
    void *user;
};

/* The C library's heap. */
struct allocator allocator_system(void);
/* Zeroed memory for count * size bytes, or NULL when that overflows or there is none.  Owned by the caller,
 * given back with allocator_release. */
void *allocator_get(const struct allocator *a, size_t count, size_t size);
void allocator_release(const struct allocator *a, void *ptr);

/* Bump allocation inside one block: everything is given back at once. */
struct arena {
    unsigned char *base;
    size_t size;
    size_t used;
};

/* An arena over the caller's block, borrowed until the arena is dropped. */
struct arena arena_of(void *block, size_t size);
/* Next size bytes at this alignment (a power of two, asserted), or NULL when they do not fit.  Not zeroed. */
void *arena_take(struct arena *arena, size_t size, size_t align);
/* a * b, or false when it overflows. */
bool size_product(size_t a, size_t b, size_t *out);

#endif
