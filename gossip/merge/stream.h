/* Storing past the caches.  An array that is only written costs the memory a read of every line as well,
 * unless whole lines go out by non-temporal stores: measured, an average of arrays of 256 MB takes 0.70 of
 * the time that it takes with plain stores, the outer step 0.66.  For arrays that fit a cache it is the other
 * way round, as their reader finds them in the memory only; hence the least size.  Private to gossip/merge.
 *
 * A kernel computes a piece into a small buffer, which stays in the first-level cache, and stores that; of
 * pieces of 16 to 1024 values those of 64 were the fastest, and as fast as storing straight from registers.
 * On processors other than x86-64 the store is a plain copy, which costs nothing that shows. */
#ifndef DUNLIN_GOSSIP_MERGE_STREAM_H
#define DUNLIN_GOSSIP_MERGE_STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum {
    STREAM_MIN = 1 << 16, /* values: arrays below 256 KiB are stored as usual */
    STREAM_PIECE = 64,    /* values computed before they are stored */
    STREAM_AHEAD = 512,   /* values: how far ahead stream_ahead looks */
    STREAM_LINE = 16,     /* values in a cache line */
};

/* Asks for the piece of an array that comes STREAM_AHEAD values later; past its end that does no harm. */
static inline __attribute__((always_inline)) void stream_ahead(const float *at)
{
    for (size_t i = 0; i < STREAM_PIECE; i += STREAM_LINE)
        __builtin_prefetch(at + STREAM_AHEAD + i);
}

/* to <- from, n values; to need not be aligned. */
static inline __attribute__((always_inline)) void stream_out(size_t n, const float *restrict from,
                                                             float *restrict to)
{
#ifdef __SSE2__
    size_t head = (16 - (uintptr_t)to % 16) % 16 / sizeof(float);
    head = head < n ? head : n;
    for (size_t i = 0; i < head; i++)
        to[i] = from[i];
    size_t i = head;
    for (; i + 4 <= n; i += 4)
        _mm_stream_ps(to + i, _mm_loadu_ps(from + i));
    for (; i < n; i++)
        to[i] = from[i];
#else
    memcpy(to, from, n * sizeof *to);
#endif
}

/* After the last piece: other threads see the values once they see what is stored next. */
static inline void stream_end(void)
{
#ifdef __SSE2__
    _mm_sfence();
#endif
}

#endif
