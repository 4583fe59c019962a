/* Encoders and decoders side by side.  Plain loops that compilers turn into vector code at -O3: bounds are
 * local, errors are gathered in a flag instead of leaving the loop. */
#include "gossip/codec.h"

#include <math.h>
#include <string.h>

#include "gossip/codec_int8.h"

enum { SCALE_BYTES = 4 };

const char *gossip_codec_name(enum gossip_codec codec)
{
    switch (codec) {
    case GOSSIP_CODEC_FP32:
        return "fp32";
    case GOSSIP_CODEC_BF16:
        return "bf16";
    case GOSSIP_CODEC_INT8:
        return "int8";
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

int gossip_encode_values(enum gossip_codec codec, size_t count, const float values[restrict],
                         uint8_t out[restrict])
{
    unsigned bad = 0;
    ASSERT(codec < GOSSIP_CODEC_COUNT);
    if (codec == GOSSIP_CODEC_FP32)
        bad = encode_fp32(count, values, out);
    else if (codec == GOSSIP_CODEC_BF16)
        bad = encode_bf16(count, values, out);
    else
        bad = gossip_int8_encode(count, values, out);
    return bad ? ERR_NOT_FINITE : ERR_OK;
}

int gossip_decode_values(enum gossip_codec codec, size_t count, const uint8_t in[restrict],
                         float values[restrict])
{
    unsigned bad = 0;
    ASSERT(codec < GOSSIP_CODEC_COUNT);
    if (codec == GOSSIP_CODEC_FP32)
        bad = decode_fp32(count, in, values);
    else if (codec == GOSSIP_CODEC_BF16)
        bad = decode_bf16(count, in, values);
    else
        bad = gossip_int8_decode(count, in, values);
    return bad ? ERR_NOT_FINITE : ERR_OK;
}

static size_t blob_bytes(enum gossip_codec codec, const struct gossip_tensor tensors[], size_t tensor_count)
{
    size_t total = 0;
    for (size_t i = 0; i < tensor_count; i++)
        total += gossip_encoded_bytes(codec, tensors[i].count);
    return total;
}

int gossip_encode(enum gossip_codec codec, const struct gossip_tensor tensors[], size_t tensor_count,
                  const float params[restrict], uint8_t out[restrict], size_t out_len)
{
    if (out_len != blob_bytes(codec, tensors, tensor_count))
        return ERR_INVALID;
    for (size_t i = 0; i < tensor_count; i++) {
        const struct gossip_tensor *tensor = &tensors[i];
        int result = gossip_encode_values(codec, tensor->count, params + tensor->offset, out);
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
    if (blob.len != blob_bytes(codec, tensors, tensor_count))
        return ERR_MALFORMED;
    for (size_t i = 0; i < tensor_count; i++) {
        const struct gossip_tensor *tensor = &tensors[i];
        int result = gossip_decode_values(codec, tensor->count, in, params + tensor->offset);
        if (result < 0)
            return result;
        in += gossip_encoded_bytes(codec, tensor->count);
    }
    return ERR_OK;
}
