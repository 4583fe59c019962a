/* Sums in a fixed order that compilers vectorise at any width: LANES float32 partial sums over at most
 * GOSSIP_SUM_BLOCK values, carried into LANES double ones, which are added up at the end.  Private to
 * gossip/merge. */
#ifndef DUNLIN_GOSSIP_MERGE_LANES_H
#define DUNLIN_GOSSIP_MERGE_LANES_H

#include <stddef.h>
#include <string.h>

enum { LANES = 16 };

/* Vector extension of gcc and clang: such loops are left scalar by gcc 12 when written over small arrays. */
typedef float lanes __attribute__((vector_size(LANES * sizeof(float))));

typedef double lanes_double __attribute__((vector_size(LANES * sizeof(double))));

/* *total <- *total + *sum, lane by lane; *sum <- 0. */
static inline __attribute__((always_inline)) void lanes_carry(lanes *sum, lanes_double *total)
{
    *total += __builtin_convertvector(*sum, lanes_double);
    *sum = (lanes){0};
}

/* Sum of the lanes, from the first to the last. */
static inline __attribute__((always_inline)) double lanes_total(const lanes_double *total)
{
    double out = 0;
    for (size_t lane = 0; lane < LANES; lane++)
        out += (*total)[lane];
    return out;
}

#endif
