/* Vector pieces shared by the codecs' loops, in gcc's and clang's vector extension: 16 lanes whatever the
 * machine's width.  Vectors go by pointer, since passing them by value depends on the instruction set. */
#ifndef DUNLIN_GOSSIP_CODEC_INTERNAL_H
#define DUNLIN_GOSSIP_CODEC_INTERNAL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* Adding 1.5 * 2^23 to |x| < 2^22 leaves the nearest even integer in the low bits of the sum, in any
 * rounding-to-nearest environment; unlike rintf it vectorises on every x86-64. */
#define ROUNDING_MAGIC      12582912.0f
#define ROUNDING_MAGIC_BITS 0x4b400000

enum { LANES = 16 };

typedef float float_lanes __attribute__((vector_size(LANES * 4)));
typedef uint32_t word_lanes __attribute__((vector_size(LANES * 4)));
typedef int32_t int_lanes __attribute__((vector_size(LANES * 4)));

/* *out <- the next LANES values. */
INLINE void load_lanes(const float from[restrict LANES], float_lanes *out)
{
    memcpy(out, from, sizeof *out);
}

/* Lane by lane the larger magnitude, as bits (they order as integers, with NaN on top). */
INLINE void note_largest(int_lanes *largest, const float_lanes *value)
{
    int_lanes magnitude = (int_lanes)*value & 0x7fffffff;
    int_lanes larger = magnitude > *largest;
    *largest = (magnitude & larger) | (*largest & ~larger);
}

/* The largest of all lanes as a float; NaN when one was. */
INLINE float largest_of(const int_lanes *largest)
{
    int32_t words[LANES];
    float out;
    memcpy(words, largest, sizeof words);
    for (size_t i = 0; i < 8; i++)
        words[i] = words[i] > words[i + 8] ? words[i] : words[i + 8];
    for (size_t i = 0; i < 4; i++)
        words[i] = words[i] > words[i + 4] ? words[i] : words[i + 4];
    for (size_t i = 1; i < 4; i++)
        words[0] = words[0] > words[i] ? words[0] : words[i];
    memcpy(&out, words, sizeof out);
    return out;
}

/* *out <- round(value * inverse), of magnitude at most 2^22. */
INLINE void round_lanes(const float_lanes *value, float inverse, int_lanes *out)
{
    *out = (int_lanes)(*value * inverse + ROUNDING_MAGIC) - ROUNDING_MAGIC_BITS;
}

/* Asks for the block that lies `ahead` blocks after this one, when there are so many left: reading in bursts
 * between computations, the processor does not see it coming. */
INLINE void prefetch_block(const float block[], size_t ahead, size_t left, size_t block_len)
{
    if (ahead < left)
        for (size_t i = 0; i < block_len; i += LANES)
            __builtin_prefetch(block + ahead * block_len + i);
}

#endif
