#include "train/gemm.h"

#include <stdint.h>
#include <string.h>

enum { TILE_ROWS = TRAIN_GEMM_TILE_ROWS, TILE_COLS_MAX = 64 };

/* c [6][cols] (+)= a [6][depth] x panel [depth][cols]; a's element (r, p) at a[r * a_row + p * a_depth]. */
typedef void tile_function(size_t depth, const float *a, size_t a_row, size_t a_depth, const float *panel,
                           bool add, float *c, size_t c_stride);

struct tile {
    tile_function *run;
    size_t cols;
};

/* The body for any vector length: six rows of `count` vectors stay in registers through the whole depth. */
#define TILE_BODY(vector, lanes, count)                                                                      \
    vector sum[TILE_ROWS][count];                                                                            \
    memset(sum, 0, sizeof sum);                                                                              \
    for (size_t p = 0; p < depth; p++) {                                                                     \
        vector right[count];                                                                                 \
        _Pragma("GCC unroll 4") for (size_t v = 0; v < (count); v++)                                         \
            memcpy(&right[v], panel + (p * (count) + v) * (lanes), sizeof(vector));                          \
        _Pragma("GCC unroll 6") for (size_t r = 0; r < TILE_ROWS; r++)                                       \
        {                                                                                                    \
            float left = a[r * a_row + p * a_depth];                                                         \
            _Pragma("GCC unroll 4") for (size_t v = 0; v < (count); v++) sum[r][v] += left * right[v];       \
        }                                                                                                    \
    }                                                                                                        \
    _Pragma("GCC unroll 6") for (size_t r = 0; r < TILE_ROWS; r++)                                           \
    {                                                                                                        \
        _Pragma("GCC unroll 4") for (size_t v = 0; v < (count); v++)                                         \
        {                                                                                                    \
            float *to = c + r * c_stride + v * (lanes);                                                      \
            vector old = {0};                                                                                \
            if (add)                                                                                         \
                memcpy(&old, to, sizeof old);                                                                \
            old += sum[r][v];                                                                                \
            memcpy(to, &old, sizeof old);                                                                    \
        }                                                                                                    \
    }

#define TILE_FUNCTION(name, attribute, vector, lanes, count)                                                 \
    attribute static void name(size_t depth, const float *a, size_t a_row, size_t a_depth,                   \
                               const float *panel, bool add, float *c, size_t c_stride)                      \
    {                                                                                                        \
        TILE_BODY(vector, lanes, count)                                                                      \
    }

typedef float vector4 __attribute__((vector_size(16)));
TILE_FUNCTION(tile_plain, , vector4, 4, 2)

#if defined(__x86_64__)
typedef float vector8 __attribute__((vector_size(32)));
typedef float vector16 __attribute__((vector_size(64)));
TILE_FUNCTION(tile_avx2, __attribute__((target("avx2,fma"))), vector8, 8, 2)
TILE_FUNCTION(tile_avx512_narrow, __attribute__((target("avx512f,fma"))), vector16, 16, 2)
TILE_FUNCTION(tile_avx512, __attribute__((target("avx512f,fma"))), vector16, 16, 4)
#endif

static struct tile choose(size_t cols)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        return cols <= 32 ? (struct tile){tile_avx512_narrow, 32} : (struct tile){tile_avx512, 64};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (struct tile){tile_avx2, 16};
#endif
    (void)cols;
    return (struct tile){tile_plain, 8};
}

const char *train_gemm_name(void)
{
    size_t cols = choose(TILE_COLS_MAX).cols;
    return cols == 64 ? "avx512" : cols == 16 ? "avx2" : "plain";
}

/* b's part [depth][cols] as panels [depth][width], the last filled up with zeros. */
static void pack_right(struct train_factor b, size_t depth, size_t cols, size_t width, float *restrict to)
{
    for (size_t from = 0; from < cols; from += width, to += depth * width) {
        size_t some = cols - from < width ? cols - from : width;
        if (some < width)
            memset(to, 0, depth * width * sizeof *to);
        if (!b.turned) {
            for (size_t p = 0; p < depth; p++)
                memcpy(to + p * width, b.data + p * b.stride + from, some * sizeof *to);
            continue;
        }
        /* Four columns at a time: the stores of one depth fall into one cache line. */
        for (size_t j = 0; j < some; j += 4) {
            size_t last = some - 1;
            const float *c0 = b.data + (from + j) * b.stride;
            const float *c1 = b.data + (from + (j + 1 < last ? j + 1 : last)) * b.stride;
            const float *c2 = b.data + (from + (j + 2 < last ? j + 2 : last)) * b.stride;
            const float *c3 = b.data + (from + (j + 3 < last ? j + 3 : last)) * b.stride;
            float *at = to + j;
            if (j + 4 <= some) {
                for (size_t p = 0; p < depth; p++, at += width) {
                    at[0] = c0[p];
                    at[1] = c1[p];
                    at[2] = c2[p];
                    at[3] = c3[p];
                }
                continue;
            }
            for (size_t p = 0; p < depth; p++, at += width)
                for (size_t i = 0; j + i < some; i++)
                    at[i] = b.data[(from + j + i) * b.stride + p];
        }
    }
}

/* a's part [rows][depth] as panels [depth][6], the last filled up with zeros. */
static void pack_left(struct train_factor a, size_t rows, size_t depth, float *restrict to)
{
    for (size_t from = 0; from < rows; from += TILE_ROWS, to += depth * TILE_ROWS) {
        size_t some = rows - from < TILE_ROWS ? rows - from : TILE_ROWS;
        if (some == TILE_ROWS && a.turned) { /* the common case, with a copy of known length */
            for (size_t p = 0; p < depth; p++)
                memcpy(to + p * TILE_ROWS, a.data + p * a.stride + from, TILE_ROWS * sizeof *to);
            continue;
        }
        memset(to, 0, depth * TILE_ROWS * sizeof *to);
        for (size_t p = 0; p < depth; p++)
            for (size_t r = 0; r < some; r++)
                to[p * TILE_ROWS + r] =
                    a.turned ? a.data[p * a.stride + from + r] : a.data[(from + r) * a.stride + p];
    }
}

/* A block: its left factor either packed or, row by row, in place. */
struct left {
    const float *data;
    size_t panel, row, depth; /* floats from one panel of six rows, row, and depth to the next */
};

/* One tile that sticks out of c: computed beside it, then copied. */
static void edge_tile(const struct tile *tile, size_t rows, size_t cols, size_t depth, const float *a,
                      const struct left *left, const float *panel, bool add, float *c, size_t c_stride)
{
    float beside[TILE_ROWS * TILE_COLS_MAX];
    tile->run(depth, a, left->row, left->depth, panel, false, beside, tile->cols);
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < cols; j++)
            c[r * c_stride + j] = (add ? c[r * c_stride + j] : 0) + beside[r * tile->cols + j];
}

static void block(const struct tile *tile, size_t rows, size_t cols, size_t depth, const struct left *left,
                  const float *right, bool add, float *c, size_t c_stride)
{
    for (size_t j = 0; j < cols; j += tile->cols, right += depth * tile->cols) {
        size_t wide = cols - j < tile->cols ? cols - j : tile->cols;
        for (size_t i = 0; i < rows; i += TILE_ROWS) {
            size_t high = rows - i < TILE_ROWS ? rows - i : TILE_ROWS;
            const float *a = left->data + i / TILE_ROWS * left->panel;
            float *to = c + i * c_stride + j;
            if (high == TILE_ROWS && wide == tile->cols)
                tile->run(depth, a, left->row, left->depth, right, add, to, c_stride);
            else
                edge_tile(tile, high, wide, depth, a, left, right, add, to, c_stride);
        }
    }
}

/* Rows of c that one packed right part meets: whole tiles read `a` in place unless it is turned; the rest
 * packed. */
static void rows_of(const struct tile *tile, size_t rows, size_t cols, size_t depth, struct train_factor a,
                    const float *right, bool add, float *c, size_t c_stride, float *packed)
{
    size_t whole = a.turned ? 0 : rows / TILE_ROWS * TILE_ROWS;
    if (whole > 0) {
        struct left in_place = {a.data, TILE_ROWS * a.stride, a.stride, 1};
        block(tile, whole, cols, depth, &in_place, right, add, c, c_stride);
    }
    if (whole == rows)
        return;
    a.data += a.turned ? whole : whole * a.stride;
    pack_left(a, rows - whole, depth, packed);
    struct left left = {packed, TILE_ROWS * depth, 1, TILE_ROWS};
    block(tile, rows - whole, cols, depth, &left, right, add, c + whole * c_stride, c_stride);
}

/* The part of a factor that starts at (row, column). */
static struct train_factor part_of(struct train_factor f, size_t row, size_t column)
{
    f.data += f.turned ? column * f.stride + row : row * f.stride + column;
    return f;
}

void train_gemm(size_t rows, size_t cols, size_t depth, struct train_factor a, struct train_factor b,
                bool add, float *c, size_t c_stride, float *scratch)
{
    struct tile tile = choose(cols);
    float *left = scratch + TRAIN_GEMM_DEPTH * TRAIN_GEMM_COLS;
    for (size_t j = 0; j < cols; j += TRAIN_GEMM_COLS) {
        size_t wide = cols - j < TRAIN_GEMM_COLS ? cols - j : TRAIN_GEMM_COLS;
        for (size_t p = 0; p < depth; p += TRAIN_GEMM_DEPTH) {
            size_t deep = depth - p < TRAIN_GEMM_DEPTH ? depth - p : TRAIN_GEMM_DEPTH;
            pack_right(part_of(b, p, j), deep, wide, tile.cols, scratch);
            for (size_t i = 0; i < rows; i += TRAIN_GEMM_ROWS) {
                size_t high = rows - i < TRAIN_GEMM_ROWS ? rows - i : TRAIN_GEMM_ROWS;
                rows_of(&tile, high, wide, deep, part_of(a, i, p), scratch, add || p > 0,
                        c + i * c_stride + j, c_stride, left);
            }
        }
    }
}
