/* Blocks of weights less an anchor. */
#include "gossip/codec_anchor.h"

#include <math.h>

#include "gossip/codec_internal.h"
#include "gossip/merge/clones.h"

enum { HEAD_BYTES = 2 };

/* Differences below are sent as zeros: their step's inverse must not overflow. */
#define GAP_MIN 1e-35f

static size_t block_bytes(unsigned bits, size_t count)
{
    return HEAD_BYTES + bits * ((count + 7) / 8);
}

size_t gossip_anchor_bytes(unsigned bits, size_t count)
{
    ASSERT((bits == 3 || bits == 4) && count <= GOSSIP_PARAMS_MAX);
    size_t tail = count % GOSSIP_BLOCK;
    return count / GOSSIP_BLOCK * block_bytes(bits, GOSSIP_BLOCK) + (tail == 0 ? 0 : block_bytes(bits, tail));
}

INLINE unsigned encode_block(unsigned bits, size_t count, const float theta[restrict],
                             const float anchor[restrict], uint8_t out[restrict])
{
    uint8_t residue[GOSSIP_BLOCK] = {0};
    float largest = 0.0f;
    unsigned bad = 0;
    for (size_t i = 0; i < count; i++) {
        float gap = fabsf(theta[i] - anchor[i]);
        bad |= fabsf(theta[i]) <= GOSSIP_VALUE_MAX && fabsf(anchor[i]) <= GOSSIP_VALUE_MAX ? 0u : 1u;
        largest = gap > largest ? gap : largest;
    }
    uint16_t half = largest < GAP_MIN ? 0 : step_round(largest / (float)((1 << (bits - 1)) - 1));
    float inverse = half == 0 ? 0.0f : 1.0f / step_value(half);
    for (size_t i = 0; bad == 0 && i < count; i++) {
        float rounded = ((theta[i] - anchor[i]) * inverse + ROUNDING_MAGIC) - ROUNDING_MAGIC;
        residue[i] = (uint8_t)(int)rounded;
    }
    store_le16(out, half);
    pack_bits(bits, count, residue, out + HEAD_BYTES);
    return bad;
}

GOSSIP_CLONES
static unsigned encode_all(unsigned bits, size_t count, const float theta[restrict],
                           const float anchor[restrict], uint8_t out[restrict])
{
    size_t stride = HEAD_BYTES + bits * (GOSSIP_BLOCK / 8);
    unsigned bad = 0;
    for (size_t i = 0; i < count; i += GOSSIP_BLOCK)
        bad |= encode_block(bits, count - i < GOSSIP_BLOCK ? count - i : GOSSIP_BLOCK, theta + i, anchor + i,
                            out + stride * (i / GOSSIP_BLOCK));
    return bad;
}

int gossip_anchor_encode(unsigned bits, size_t count, const float theta[restrict],
                         const float anchor[restrict], uint8_t out[restrict])
{
    ASSERT((bits == 3 || bits == 4) && count <= GOSSIP_PARAMS_MAX);
    return encode_all(bits, count, theta, anchor, out) ? ERR_NOT_FINITE : ERR_OK;
}

enum { FOUND_MALFORMED = 1, FOUND_NOT_FINITE = 2 };

INLINE unsigned decode_block(unsigned bits, size_t count, const uint8_t in[restrict],
                             const float anchor[restrict], float values[restrict])
{
    uint8_t residue[GOSSIP_BLOCK];
    uint16_t half = load_le16(in);
    float step = step_value(half);
    int sign = 1 << (bits - 1);
    unsigned any = 0, lowest = 0, far = 0;
    unsigned stray = unpack_bits(bits, count, in + HEAD_BYTES, residue);
    for (size_t i = 0; i < count; i++) {
        int q = (residue[i] ^ sign) - sign;
        values[i] = anchor[i] + (float)q * step;
        any |= q != 0;
        lowest |= q == -sign;
        far |= fabsf(values[i]) <= 2 * GOSSIP_VALUE_MAX ? 0u : 1u;
    }
    if (stray != 0 || lowest != 0 || half >= 0x7f80 ||
        (half == 0 && any != 0)) /* negative, infinite or NaN */
        return FOUND_MALFORMED;
    return far != 0 ? FOUND_NOT_FINITE : 0;
}

GOSSIP_CLONES
static unsigned decode_all(unsigned bits, size_t count, const uint8_t in[restrict],
                           const float anchor[restrict], float values[restrict])
{
    size_t stride = HEAD_BYTES + bits * (GOSSIP_BLOCK / 8);
    unsigned found = 0;
    for (size_t i = 0; i < count; i += GOSSIP_BLOCK)
        found |= decode_block(bits, count - i < GOSSIP_BLOCK ? count - i : GOSSIP_BLOCK,
                              in + stride * (i / GOSSIP_BLOCK), anchor + i, values + i);
    return found;
}

int gossip_anchor_decode(unsigned bits, size_t count, const uint8_t in[restrict],
                         const float anchor[restrict], float values[restrict])
{
    ASSERT((bits == 3 || bits == 4) && count <= GOSSIP_PARAMS_MAX);
    unsigned found = decode_all(bits, count, in, anchor, values);
    if ((found & FOUND_MALFORMED) != 0)
        return ERR_MALFORMED;
    return found != 0 ? ERR_NOT_FINITE : ERR_OK;
}
