/* Encoders and decoders side by side.  Plain loops that compilers turn into vector code at -O3: bounds are
 * local, errors are gathered in a flag instead of leaving the loop. */
#include "gossip/codec.h"

#include <math.h>
#include <string.h>

#include "gossip/codec_internal.h"
#include "gossip/codec_modular.h"
#include "gossip/merge/clones.h"

enum { SCALE_BYTES = 4, GROUP = 8 /* blocks encoded together */ };

/* Blocks whose largest magnitude is below this are sent as zeros: 127 / absmax must not overflow. */
#define INT8_ABSMAX_MIN 1e-35f
const char *gossip_codec_name(enum gossip_codec codec)
{
    switch (codec) {
    case GOSSIP_CODEC_FP32:
        return "fp32";
    case GOSSIP_CODEC_BF16:
        return "bf16";
    case GOSSIP_CODEC_INT8:
        return "int8";
    case GOSSIP_CODEC_MOD4:
        return "mod4";
    case GOSSIP_CODEC_MOD3:
        return "mod3";
    case GOSSIP_CODEC_MOD2:
        return "mod2";
    case GOSSIP_CODEC_COUNT:
        break;
    }
    return "unknown";
}

int gossip_codec_parse(const char *name, enum gossip_codec *out)
{
    for (int codec = 0; codec < GOSSIP_CODEC_COUNT; codec++) {
        if (strcmp(name, gossip_codec_name((enum gossip_codec)codec)) == 0) {
            *out = (enum gossip_codec)codec;
            return ERR_OK;
        }
    }
    return ERR_NOT_FOUND;
}

size_t gossip_encoded_bytes(enum gossip_codec codec, size_t count)
{
    ASSERT(count <= GOSSIP_PARAMS_MAX);
    switch (codec) {
    case GOSSIP_CODEC_FP32:
        return count * 4;
    case GOSSIP_CODEC_BF16:
        return count * 2;
    case GOSSIP_CODEC_INT8:
        return count + (count + GOSSIP_BLOCK - 1) / GOSSIP_BLOCK * SCALE_BYTES;
    case GOSSIP_CODEC_MOD4:
    case GOSSIP_CODEC_MOD3:
    case GOSSIP_CODEC_MOD2:
        return (count + GOSSIP_BLOCK - 1) / GOSSIP_BLOCK * GOSSIP_MODULAR_HEAD_BYTES +
               gossip_modular_bits(codec) * ((count + 7) / 8);
    case GOSSIP_CODEC_COUNT:
        break;
    }
    ASSERT(codec < GOSSIP_CODEC_COUNT);
    return 0;
}

/* base/bytes.h has these out of line; a call a value would cost more than the conversion. */
static inline uint32_t swap32(uint32_t value)
{
    return __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? __builtin_bswap32(value) : value;
}

static inline uint16_t swap16(uint16_t value)
{
    return __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? __builtin_bswap16(value) : value;
}

static inline uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* 1 for NaN, infinities and too large values. */
static inline unsigned outside(float value)
{
    return fabsf(value) <= GOSSIP_VALUE_MAX ? 0u : 1u;
}

GOSSIP_CLONES
static unsigned encode_fp32(size_t count, const float values[restrict], uint8_t out[restrict])
{
    unsigned bad = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = swap32(bits_of(values[i]));
        bad |= outside(values[i]);
        memcpy(out + 4 * i, &bits, sizeof bits);
    }
    return bad;
}

GOSSIP_CLONES
static unsigned decode_fp32(size_t count, const uint8_t in[restrict], float values[restrict])
{
    unsigned bad = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, in + 4 * i, sizeof bits);
        values[i] = float_of(swap32(bits));
        bad |= outside(values[i]);
    }
    return bad;
}

GOSSIP_CLONES
static unsigned encode_bf16(size_t count, const float values[restrict], uint8_t out[restrict])
{
    unsigned bad = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = bits_of(values[i]);
        uint16_t half = swap16((uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16));
        bad |= outside(values[i]);
        memcpy(out + 2 * i, &half, sizeof half);
    }
    return bad;
}

GOSSIP_CLONES
static unsigned decode_bf16(size_t count, const uint8_t in[restrict], float values[restrict])
{
    unsigned bad = 0;
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * i, sizeof half);
        values[i] = float_of((uint32_t)swap16(half) << 16);
        bad |= outside(values[i]);
    }
    return bad;
}

INLINE float absmax_of(const float values[restrict GOSSIP_BLOCK])
{
    int_lanes largest = {0};
    for (size_t i = 0; i < GOSSIP_BLOCK; i += LANES) {
        float_lanes x;
        load_lanes(values + i, &x);
        note_largest(&largest, &x);
    }
    return largest_of(&largest);
}

/* Scale and bytes of a block; inverse is 127 / absmax, or 0 for a block that is sent as zeros. */
INLINE void write_int8(float inverse, float scale, const float values[restrict GOSSIP_BLOCK],
                       uint8_t out[restrict SCALE_BYTES + GOSSIP_BLOCK])
{
    int32_t whole[GOSSIP_BLOCK];
    uint32_t head = swap32(bits_of(scale));
    for (size_t i = 0; i < GOSSIP_BLOCK; i += LANES) {
        float_lanes x;
        int_lanes k;
        load_lanes(values + i, &x);
        round_lanes(&x, inverse, &k);
        memcpy(whole + i, &k, sizeof k);
    }
    memcpy(out, &head, sizeof head);
    for (size_t i = 0; i < GOSSIP_BLOCK; i++)
        out[SCALE_BYTES + i] = (uint8_t)whole[i];
}

/* Encodes blocks <= GROUP whole blocks, of `left`: their divisions overlap, their values stay in the cache.
 */
INLINE unsigned encode_int8_group(size_t blocks, size_t left, const float values[restrict],
                                  uint8_t out[restrict])
{
    float scale[GROUP], inverse[GROUP];
    unsigned bad = 0;
    for (size_t i = 0; i < blocks; i++) {
        float absmax = absmax_of(values + GOSSIP_BLOCK * i);
        bool tiny = absmax < INT8_ABSMAX_MIN;
        bad |= outside(absmax);
        scale[i] = tiny ? 0.0f : absmax / 127.0f;
        inverse[i] = tiny ? 0.0f : 127.0f / absmax;
    }
    for (size_t i = 0; bad == 0 && i < blocks; i++) {
        prefetch_block(values + GOSSIP_BLOCK * i, GROUP, left - i, GOSSIP_BLOCK);
        write_int8(inverse[i], scale[i], values + GOSSIP_BLOCK * i, out + (SCALE_BYTES + GOSSIP_BLOCK) * i);
    }
    return bad;
}

GOSSIP_CLONES
static unsigned encode_int8(size_t count, const float values[restrict], uint8_t out[restrict])
{
    size_t blocks = count / GOSSIP_BLOCK, tail = count % GOSSIP_BLOCK;
    unsigned bad = 0;
    for (size_t i = 0; i < blocks; i += GROUP)
        bad |= encode_int8_group(blocks - i < GROUP ? blocks - i : GROUP, blocks - i,
                                 values + GOSSIP_BLOCK * i, out + (SCALE_BYTES + GOSSIP_BLOCK) * i);
    if (tail != 0) {
        float padded[GOSSIP_BLOCK] = {0};
        uint8_t block[SCALE_BYTES + GOSSIP_BLOCK];
        memcpy(padded, values + GOSSIP_BLOCK * blocks, tail * sizeof *values);
        memset(block, 0, sizeof block);
        bad |= encode_int8_group(1, 1, padded, block);
        memcpy(out + (SCALE_BYTES + GOSSIP_BLOCK) * blocks, block, SCALE_BYTES + tail);
    }
    return bad;
}

INLINE unsigned decode_int8_block(size_t count, const uint8_t in[restrict], float values[restrict])
{
    uint32_t bits;
    memcpy(&bits, in, sizeof bits);
    bits = swap32(bits);
    float scale = float_of(bits);
    unsigned bad = bits >> 31 | outside(scale * 127.0f);
    unsigned any = 0;
    for (size_t i = 0; i < count; i++) {
        int8_t q = (int8_t)in[SCALE_BYTES + i];
        bad |= q == INT8_MIN;
        any |= q != 0;
        values[i] = (float)q * scale;
    }
    return bad | (any & (bits == 0));
}

GOSSIP_CLONES
static unsigned decode_int8(size_t count, const uint8_t in[restrict], float values[restrict])
{
    unsigned bad = 0;
    for (size_t i = 0; i < count; i += GOSSIP_BLOCK)
        bad |= decode_int8_block(count - i < GOSSIP_BLOCK ? count - i : GOSSIP_BLOCK,
                                 in + (SCALE_BYTES + GOSSIP_BLOCK) * (i / GOSSIP_BLOCK), values + i);
    return bad;
}

int gossip_encode_values(enum gossip_codec codec, size_t count, const float values[restrict],
                         uint8_t out[restrict])
{
    unsigned bad = 0;
    ASSERT(codec < GOSSIP_CODEC_COUNT);
    if (gossip_modular_bits(codec) != 0)
        return ERR_INVALID;
    if (codec == GOSSIP_CODEC_FP32)
        bad = encode_fp32(count, values, out);
    else if (codec == GOSSIP_CODEC_BF16)
        bad = encode_bf16(count, values, out);
    else
        bad = encode_int8(count, values, out);
    return bad ? ERR_NOT_FINITE : ERR_OK;
}

int gossip_decode_values(enum gossip_codec codec, size_t count, const uint8_t in[restrict],
                         float values[restrict])
{
    unsigned bad = 0;
    ASSERT(codec < GOSSIP_CODEC_COUNT);
    if (gossip_modular_bits(codec) != 0)
        return ERR_INVALID;
    if (codec == GOSSIP_CODEC_FP32)
        bad = decode_fp32(count, in, values);
    else if (codec == GOSSIP_CODEC_BF16)
        bad = decode_bf16(count, in, values);
    else
        bad = decode_int8(count, in, values);
    return bad ? ERR_NOT_FINITE : ERR_OK;
}

unsigned gossip_modular_bits(enum gossip_codec codec)
{
    if (codec == GOSSIP_CODEC_MOD4)
        return 4;
    if (codec == GOSSIP_CODEC_MOD3)
        return 3;
    return codec == GOSSIP_CODEC_MOD2 ? 2 : 0;
}

float gossip_modular_weight(enum gossip_codec own, enum gossip_codec partner)
{
    return own == GOSSIP_CODEC_MOD2 || partner == GOSSIP_CODEC_MOD2 ? GOSSIP_MOD2_WEIGHT : 1.0f;
}

size_t gossip_blob_bytes(enum gossip_codec codec, const struct gossip_tensor tensors[], size_t tensor_count)
{
    size_t total = 0;
    for (size_t i = 0; i < tensor_count; i++)
        total += gossip_encoded_bytes(codec, tensors[i].count);
    return total;
}

size_t gossip_block_count(const struct gossip_tensor tensors[], size_t tensor_count)
{
    size_t total = 0;
    for (size_t i = 0; i < tensor_count; i++)
        total += (tensors[i].count + GOSSIP_BLOCK - 1) / GOSSIP_BLOCK;
    return total;
}

int gossip_encode(enum gossip_codec codec, const struct gossip_tensor tensors[], size_t tensor_count,
                  const float params[restrict], uint8_t out[restrict], size_t out_len)
{
    if (out_len != gossip_blob_bytes(codec, tensors, tensor_count))
        return ERR_INVALID;
    for (size_t i = 0; i < tensor_count; i++) {
        const struct gossip_tensor *tensor = &tensors[i];
        int result =
            gossip_encode_values(codec, tensor->count, params + (tensor->offset - tensors[0].offset), out);
        if (result < 0)
            return result;
        out += gossip_encoded_bytes(codec, tensor->count);
    }
    return ERR_OK;
}

int gossip_decode(enum gossip_codec codec, const struct gossip_tensor tensors[], size_t tensor_count,
                  struct bytes blob, float params[restrict])
{
    const uint8_t *in = blob.data;
    if (blob.len != gossip_blob_bytes(codec, tensors, tensor_count))
        return ERR_MALFORMED;
    for (size_t i = 0; i < tensor_count; i++) {
        const struct gossip_tensor *tensor = &tensors[i];
        int result =
            gossip_decode_values(codec, tensor->count, in, params + (tensor->offset - tensors[0].offset));
        if (result < 0)
            return result;
        in += gossip_encoded_bytes(codec, tensor->count);
    }
    return ERR_OK;
}
