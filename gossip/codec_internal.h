/* Vector pieces shared by the codecs' loops, in gcc's and clang's vector extension: 16 lanes whatever the
 * machine's width.  Vectors go by pointer, since passing them by value depends on the instruction set. */
#ifndef DUNLIN_GOSSIP_CODEC_INTERNAL_H
#define DUNLIN_GOSSIP_CODEC_INTERNAL_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "gossip/tensor.h"

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

/* One bit plane of a block; nothing crosses a byte, so the order of bytes in a word does not matter. */
typedef uint64_t plane_lanes __attribute__((vector_size(GOSSIP_BLOCK / 8)));

/* A step in its wire form, so that nobody computes with the unrounded one: rounded up to bfloat16. */
INLINE uint16_t step_round(float step)
{
    uint32_t bits;
    memcpy(&bits, &step, sizeof bits);
    return (uint16_t)((bits + 0xffffu) >> 16);
}

INLINE float step_value(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float step;
    memcpy(&step, &bits, sizeof step);
    return step;
}

/* Bit planes of a whole block: byte i of a plane takes its bit j from value i + 32 j. */
INLINE void pack_whole(unsigned bits, const uint8_t residue[restrict GOSSIP_BLOCK], uint8_t out[restrict])
{
    plane_lanes packed[4] = {{0}};
    for (unsigned j = 0; j < 8; j++) {
        plane_lanes values;
        memcpy(&values, residue + sizeof values * j, sizeof values);
        for (unsigned plane = 0; plane < bits; plane++)
            packed[plane] |= (values >> plane & UINT64_C(0x0101010101010101)) << j;
    }
    memcpy(out, packed, bits * sizeof packed[0]);
}

INLINE void unpack_whole(unsigned bits, const uint8_t in[restrict], uint8_t residue[restrict GOSSIP_BLOCK])
{
    plane_lanes packed[4];
    memcpy(packed, in, bits * sizeof packed[0]);
    for (unsigned j = 0; j < 8; j++) {
        plane_lanes values = {0};
        for (unsigned plane = 0; plane < bits; plane++)
            values |= (packed[plane] >> j & UINT64_C(0x0101010101010101)) << plane;
        memcpy(residue + sizeof values * j, &values, sizeof values);
    }
}

/* The same for a tensor's last block, of count < GOSSIP_BLOCK values. */
INLINE void pack_tail(unsigned bits, size_t count, const uint8_t residue[restrict], uint8_t out[restrict])
{
    size_t bytes = (count + 7) / 8;
    memset(out, 0, bits * bytes);
    for (size_t i = 0; i < count; i++)
        for (unsigned plane = 0; plane < bits; plane++)
            out[plane * bytes + i % bytes] |= (uint8_t)((residue[i] >> plane & 1u) << i / bytes);
}

/* 1 when a bit without a value is set. */
INLINE unsigned unpack_tail(unsigned bits, size_t count, const uint8_t in[restrict],
                            uint8_t residue[restrict GOSSIP_BLOCK])
{
    size_t bytes = (count + 7) / 8;
    unsigned stray = 0;
    memset(residue, 0, GOSSIP_BLOCK);
    for (size_t i = 0; i < 8 * bytes; i++)
        for (unsigned plane = 0; plane < bits; plane++) {
            unsigned bit = (unsigned)in[plane * bytes + i % bytes] >> i / bytes & 1u;
            if (i < count)
                residue[i] |= (uint8_t)(bit << plane);
            else
                stray |= bit;
        }
    return stray;
}

/* Bit planes of the low bits of count <= GOSSIP_BLOCK residues: bits * ceil(count / 8) bytes. */
INLINE void pack_bits(unsigned bits, size_t count, const uint8_t residue[restrict GOSSIP_BLOCK],
                      uint8_t out[restrict])
{
    if (count == GOSSIP_BLOCK)
        pack_whole(bits, residue, out);
    else
        pack_tail(bits, count, residue, out);
}

/* And back, zeros behind count.  1 when a bit without a value is set. */
INLINE unsigned unpack_bits(unsigned bits, size_t count, const uint8_t in[restrict],
                            uint8_t residue[restrict GOSSIP_BLOCK])
{
    if (count != GOSSIP_BLOCK)
        return unpack_tail(bits, count, in, residue);
    unpack_whole(bits, in, residue);
    return 0;
}

#endif
