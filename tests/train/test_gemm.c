/* The matrix product must equal the naive sum for every combination of turned factors, adding or overwriting,
 * and sizes around every blocking boundary; and must not write a float outside the result. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "train/gemm.h"

static float uniform(const struct rng *rng)
{
    return (float)(rng_u32(rng) >> 8) * 0x1p-23F - 1.0F;
}

static float *random_floats(const struct allocator *heap, const struct rng *rng, size_t count)
{
    float *out = allocator_get(heap, count, sizeof *out);
    cr_assert_not_null(out);
    for (size_t i = 0; i < count; i++)
        out[i] = uniform(rng);
    return out;
}

static double element(struct train_factor f, size_t row, size_t column)
{
    return (double)(f.turned ? f.data[column * f.stride + row] : f.data[row * f.stride + column]);
}

struct size {
    size_t rows, cols, depth;
};

static void compare(const struct rng *rng, struct size size, bool a_turned, bool b_turned, bool add)
{
    struct allocator heap = allocator_system();
    size_t a_stride = (a_turned ? size.rows : size.depth) + 3,
           b_stride = (b_turned ? size.depth : size.cols) + 1;
    size_t c_stride = size.cols + 2, c_count = size.rows * c_stride;
    float *a = random_floats(&heap, rng, a_stride * (a_turned ? size.depth : size.rows));
    float *b = random_floats(&heap, rng, b_stride * (b_turned ? size.cols : size.depth));
    float *c = random_floats(&heap, rng, c_count);
    float *before = random_floats(&heap, rng, c_count);
    float *scratch = allocator_get(&heap, TRAIN_GEMM_SCRATCH, sizeof *scratch);
    cr_assert_not_null(scratch);
    memcpy(before, c, c_count * sizeof *c);
    struct train_factor left = {a, a_stride, a_turned}, right = {b, b_stride, b_turned};
    train_gemm(size.rows, size.cols, size.depth, left, right, add, c, c_stride, scratch);

    /* Float32 rounding of `depth` additions to a sum of about depth^0.5: a random walk of 2^-24 of that each.
     */
    double tolerance = 3e-8 * (double)size.depth + 1e-6 * sqrt((double)size.depth);
    for (size_t i = 0; i < c_count; i++) {
        size_t row = i / c_stride, column = i % c_stride;
        if (column >= size.cols) {
            cr_assert_eq(c[i], before[i], "%zu %zu %zu: wrote outside", size.rows, size.cols, size.depth);
            continue;
        }
        double sum = add ? (double)before[i] : 0;
        for (size_t p = 0; p < size.depth; p++)
            sum += element(left, row, p) * element(right, p, column);
        cr_assert_float_eq((double)c[i], sum, tolerance,
                           "%zu x %zu x %zu turned %d %d add %d at %zu,%zu: %g not %g", size.rows, size.cols,
                           size.depth, a_turned, b_turned, add, row, column, (double)c[i], sum);
    }
    float *all[] = {a, b, c, before, scratch};
    for (size_t i = 0; i < 5; i++)
        allocator_release(&heap, all[i]);
}

static void compare_all(const struct rng *rng, struct size size)
{
    for (int flags = 0; flags < 8; flags++)
        compare(rng, size, flags & 1, flags & 2, flags & 4);
}

Test(gemm, equals_the_naive_product)
{
    static const struct size sizes[] = {
        {1, 1, 1},    {6, 64, 128},  {5, 63, 127}, {7, 65, 129},   {12, 32, 3}, {13, 33, 257},
        {64, 128, 8}, {100, 16, 16}, {2, 1025, 5}, {769, 17, 130}, {6, 8, 300}, {31, 48, 64},
    };
    struct rng_seeded stream;
    rng_seeded_init(&stream, 1);
    struct rng rng = rng_of_seeded(&stream);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        compare_all(&rng, sizes[i]);
}

Test(gemm, equals_the_naive_product_at_random_sizes)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 2);
    struct rng rng = rng_of_seeded(&stream);
    for (int i = 0; i < 40; i++) {
        struct size size = {1 + rng_below(&rng, 90), 1 + rng_below(&rng, 140), 1 + rng_below(&rng, 150)};
        compare_all(&rng, size);
    }
}

Test(gemm, names_its_instruction_set)
{
    const char *name = train_gemm_name();
    cr_assert(strcmp(name, "avx512") == 0 || strcmp(name, "avx2") == 0 || strcmp(name, "plain") == 0);
}
