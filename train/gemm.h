/* Single-threaded float32 matrix product.  Private to train/.
 *
 * Our own because libraries choose their kernels by the processor's model number: Debian's OpenBLAS 0.3.21
 * does not know the models of 2023 and later, nor what some virtual machines report, and then computes with
 * 128-bit SSE3, at a fifth of the speed; the remedy is an environment variable read before main().  This one
 * asks CPUID for features, starts no threads of its own, and is about as fast as OpenBLAS at its best at the
 * sizes of a training step.
 *
 * Blocking follows Goto and van de Geijn 2008 (panels of B in the first-level cache, A streaming past).  Sums
 * over k run in order in blocks of TRAIN_GEMM_DEPTH: the same bits for any number of threads, not for any
 * processor. */
#ifndef DUNLIN_TRAIN_GEMM_H
#define DUNLIN_TRAIN_GEMM_H

#include <stdbool.h>
#include <stddef.h>

enum {
    TRAIN_GEMM_DEPTH = 128, /* k at once: a panel of 64 columns is 32 KiB */
    TRAIN_GEMM_COLS = 1024, /* columns packed at once */
    TRAIN_GEMM_ROWS = 768,  /* rows at once; a multiple of TRAIN_GEMM_TILE_ROWS */
    TRAIN_GEMM_TILE_ROWS = 6,
    TRAIN_GEMM_SCRATCH = TRAIN_GEMM_DEPTH * (TRAIN_GEMM_COLS + TRAIN_GEMM_ROWS), /* floats, 64-byte aligned */
};

/* One factor: element (row, column) is data[row * stride + column], or with `turned` data[column * stride +
 * row]. */
struct train_factor {
    const float *data;
    size_t stride;
    bool turned;
};

/* c [rows][cols] (c_stride floats from row to row) = (add ? c : 0) + a [rows][depth] x b [depth][cols].
 * c must not overlap a, b or scratch [TRAIN_GEMM_SCRATCH]. */
void train_gemm(size_t rows, size_t cols, size_t depth, struct train_factor a, struct train_factor b,
                bool add, float *c, size_t c_stride, float *scratch);

/* Name of the instruction set in use, for example "avx512": for benchmarks and logs. */
const char *train_gemm_name(void);

#endif
