/* One pass over a block for its largest magnitude, one that scales and rounds; the block is in the
 * first-level cache by then.  Whole blocks have a constant count, so that compilers need no tails. */
#include "gossip/codec_int8.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "gossip/codec.h"
#include "gossip/merge/clones.h"

enum { SCALE_BYTES = 4 };

/* Blocks whose largest magnitude is below this are sent as zeros: 127 / absmax must not overflow. */
#define INT8_ABSMAX_MIN 1e-35f
/* Adding 1.5 * 2^23 to |x| < 2^22 leaves the nearest even integer in the low bits of the sum, in any
 * rounding-to-nearest environment; unlike rintf it vectorises on every x86-64. */
#define ROUNDING_MAGIC 12582912.0f

#define INLINED static inline __attribute__((always_inline))

INLINED uint32_t swap32(uint32_t value)
{
    return __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? __builtin_bswap32(value) : value;
}

INLINED uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

INLINED float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Largest magnitude, as bits: for non-negative floats they order as integers, with NaN on top; signed ones,
 * for which every instruction set has a comparison. */
INLINED int32_t absmax_bits(size_t count, const float values[restrict])
{
    int32_t largest = 0;
    for (size_t i = 0; i < count; i++) {
        int32_t magnitude = (int32_t)(bits_of(values[i]) & 0x7fffffffu);
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

INLINED unsigned encode_block(size_t count, const float values[restrict], uint8_t out[restrict])
{
    float absmax = float_of((uint32_t)absmax_bits(count, values));
    unsigned bad = absmax <= GOSSIP_VALUE_MAX ? 0u : 1u;
    bool tiny = absmax < INT8_ABSMAX_MIN;
    uint32_t scale = swap32(bits_of(tiny ? 0.0f : absmax / 127.0f));
    float inverse = tiny || bad ? 0.0f : 127.0f / absmax;
    memcpy(out, &scale, sizeof scale);
    for (size_t i = 0; i < count; i++)
        out[SCALE_BYTES + i] = (uint8_t)bits_of(values[i] * inverse + ROUNDING_MAGIC);
    return bad;
}

INLINED unsigned decode_block(size_t count, const uint8_t in[restrict], float values[restrict])
{
    uint32_t bits;
    memcpy(&bits, in, sizeof bits);
    bits = swap32(bits);
    float scale = float_of(bits);
    unsigned bad = bits >> 31 | (fabsf(scale * 127.0f) <= GOSSIP_VALUE_MAX ? 0u : 1u);
    uint8_t lowest = 0, any = 0;
    for (size_t i = 0; i < count; i++) {
        uint8_t byte = in[SCALE_BYTES + i];
        lowest |= (uint8_t)(byte == 0x80);
        any |= byte;
    }
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(int8_t)in[SCALE_BYTES + i] * scale;
    return bad | lowest | (unsigned)(any != 0 && bits == 0);
}

GOSSIP_CLONES
unsigned gossip_int8_encode(size_t count, const float values[restrict], uint8_t out[restrict])
{
    unsigned bad = 0;
    size_t i = 0;
    for (; i + GOSSIP_BLOCK <= count; i += GOSSIP_BLOCK, out += SCALE_BYTES + GOSSIP_BLOCK)
        bad |= encode_block(GOSSIP_BLOCK, values + i, out);
    return i < count ? bad | encode_block(count - i, values + i, out) : bad;
}

GOSSIP_CLONES
unsigned gossip_int8_decode(size_t count, const uint8_t in[restrict], float values[restrict])
{
    unsigned bad = 0;
    size_t i = 0;
    for (; i + GOSSIP_BLOCK <= count; i += GOSSIP_BLOCK, in += SCALE_BYTES + GOSSIP_BLOCK)
        bad |= decode_block(GOSSIP_BLOCK, in, values + i);
    return i < count ? bad | decode_block(count - i, in, values + i) : bad;
}
