/* Mirrors base/alloc.c, and the counting allocator that other tests lean on. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>

#include "base/alloc.h"
#include "support/support.h"

/* Blocks are zeroed, aligned to 64, writable to the last byte (the sanitizer watches), and zero bytes are a
 * block. */
Test(alloc, system_heap)
{
    struct allocator heap = allocator_system();
    for (size_t size = 0; size < 200; size++) {
        uint8_t *block = allocator_get(&heap, 1, size);
        cr_assert_not_null(block);
        cr_assert_eq((uintptr_t)block % 64, 0);
        for (size_t i = 0; i < size; i++)
            cr_assert_eq(block[i], 0);
        memset(block, 0xaa, size);
        allocator_release(&heap, block);
    }
    allocator_release(&heap, NULL);
}

/* Products and roundings that overflow must give nothing, not a small block. */
Test(alloc, overflow)
{
    struct allocator heap = allocator_system();
    size_t product = 5;
    cr_assert_null(allocator_get(&heap, SIZE_MAX / 2, 3));
    cr_assert_null(allocator_get(&heap, SIZE_MAX, 1));
    cr_assert_null(allocator_get(&heap, 1, SIZE_MAX - 62));
    cr_assert(size_product(SIZE_MAX / 2, 2, &product));
    cr_assert_eq(product, SIZE_MAX - 1);
    cr_assert(size_product(0, SIZE_MAX, &product));
    cr_assert_eq(product, 0);
    cr_assert_not(size_product(SIZE_MAX / 2 + 1, 2, &product));
}

/* The test allocator counts requests and live blocks and fails exactly the one it is told to. */
Test(alloc, counting_and_failing)
{
    struct counting_allocator counter = {.fail_at = 3};
    struct allocator a = counting_allocator_view(&counter);
    void *blocks[4];
    for (size_t i = 0; i < 4; i++)
        blocks[i] = allocator_get(&a, 4, 4);
    cr_assert_null(blocks[2]);
    cr_assert_eq(counter.allocated, 4);
    cr_assert_eq(counter.live, 3);
    for (size_t i = 0; i < 4; i++)
        allocator_release(&a, blocks[i]);
    cr_assert_eq(counter.live, 0);
}

/* Every alignment and size from an odd start: aligned, in order, inside the block, without overlap. */
Test(alloc, arena_aligns)
{
    _Alignas(64) uint8_t block[4096];
    struct arena arena = arena_of(block + 1, sizeof block - 1);
    uint8_t *before = block;
    for (size_t align = 1; align <= 64; align *= 2) {
        for (size_t size = 0; size < 10; size++) {
            uint8_t *taken = arena_take(&arena, size, align);
            cr_assert_not_null(taken);
            cr_assert_eq((uintptr_t)taken % align, 0);
            cr_assert_geq(taken, before);
            cr_assert_leq(taken + size, block + sizeof block);
            before = taken + size;
        }
    }
}

/* What does not fit is refused and leaves the arena as it was; what fits exactly is given. */
Test(alloc, arena_is_full)
{
    _Alignas(128) uint8_t block[64];
    struct arena arena = arena_of(block, sizeof block);
    cr_assert_not_null(arena_take(&arena, 1, 1));
    cr_assert_null(arena_take(&arena, 64, 1));
    cr_assert_null(arena_take(&arena, SIZE_MAX, 1));
    cr_assert_null(arena_take(&arena, SIZE_MAX, 64), "padding and size together must not wrap");
    cr_assert_null(arena_take(&arena, 0, 128), "padding alone can be too much");
    cr_assert_eq(arena.used, 1);
    cr_assert_not_null(arena_take(&arena, 63, 1));
    cr_assert_null(arena_take(&arena, 1, 1));
    cr_assert_not_null(arena_take(&arena, 0, 1));
}

Test(alloc, alignment_must_be_a_power_of_two, .signal = SIGABRT)
{
    uint8_t block[64];
    struct arena arena = arena_of(block, sizeof block);
    (void)arena_take(&arena, 1, 3);
}

Test(alloc, alignment_must_not_be_zero, .signal = SIGABRT)
{
    uint8_t block[64];
    struct arena arena = arena_of(block, sizeof block);
    (void)arena_take(&arena, 1, 0);
}
