/* The k largest of each chunk, found by bisection over bit patterns: magnitudes order as integers. */
#include "gossip/codec_topk.h"

#include <math.h>

#include "gossip/codec_internal.h"
#include "gossip/merge/clones.h"

enum { SCALE_BYTES = 2, ENTRY_BYTES = 2, Q_MAX = 7 };

#define ABSMAX_MIN 1e-35f /* chunks whose largest value is below are sent as zeros */

size_t gossip_topk_kept(size_t k, size_t len)
{
    ASSERT(k >= 1 && k <= GOSSIP_TOPK_CHUNK && len >= 1 && len <= GOSSIP_TOPK_CHUNK);
    return (k * len + GOSSIP_TOPK_CHUNK - 1) / GOSSIP_TOPK_CHUNK;
}

static size_t chunk_bytes(size_t k, size_t len)
{
    return SCALE_BYTES + ENTRY_BYTES * gossip_topk_kept(k, len);
}

size_t gossip_topk_bytes(size_t k, size_t count)
{
    ASSERT(count <= GOSSIP_PARAMS_MAX);
    size_t tail = count % GOSSIP_TOPK_CHUNK;
    return count / GOSSIP_TOPK_CHUNK * chunk_bytes(k, GOSSIP_TOPK_CHUNK) +
           (tail == 0 ? 0 : chunk_bytes(k, tail));
}

/* 0: decay * error + input is a legal value everywhere. */
GOSSIP_CLONES
static unsigned check_sums(size_t count, float decay, const float input[restrict],
                           const float error[restrict])
{
    unsigned bad = 0;
    for (size_t i = 0; i < count; i++)
        bad |= fabsf(decay * error[i] + input[i]) <= GOSSIP_VALUE_MAX ? 0u : 1u;
    return bad;
}

/* The kept-th largest of len magnitudes: the largest number that at least `kept` of them reach. */
GOSSIP_CLONES
static int32_t threshold_of(size_t len, size_t kept, const int32_t magnitude[restrict])
{
    int32_t threshold = 0;
    for (int bit = 30; bit >= 0; bit--) {
        int32_t candidate = threshold | (int32_t)(1u << bit);
        int32_t reach = 0;
        for (size_t i = 0; i < len; i++)
            reach += magnitude[i] >= candidate;
        if ((size_t)reach >= kept)
            threshold = candidate;
    }
    return threshold;
}

/* Sums up into error, then their magnitudes as bits; returns the largest. */
GOSSIP_CLONES
static int32_t gather(size_t len, float decay, const float input[restrict], float error[restrict],
                      int32_t magnitude[restrict])
{
    int32_t largest = 0;
    for (size_t i = 0; i < len; i++) {
        error[i] = decay * error[i] + input[i];
        float absolute = fabsf(error[i]);
        memcpy(&magnitude[i], &absolute, sizeof magnitude[i]);
        largest = magnitude[i] > largest ? magnitude[i] : largest;
    }
    return largest;
}

static void encode_chunk(size_t kept, size_t len, float decay, const float input[restrict],
                         float error[restrict], uint8_t out[restrict])
{
    int32_t magnitude[GOSSIP_TOPK_CHUNK];
    int32_t largest = gather(len, decay, input, error, magnitude);
    int32_t threshold = threshold_of(len, kept, magnitude);
    size_t equal = kept; /* how many of exactly the threshold are sent */
    float absmax;
    memcpy(&absmax, &largest, sizeof absmax);
    uint16_t half = absmax < ABSMAX_MIN ? 0 : step_round(absmax / (float)Q_MAX);
    float step = step_value(half), inverse = half == 0 ? 0.0f : 1.0f / step;
    for (size_t i = 0; i < len; i++)
        equal -= magnitude[i] > threshold;
    store_le16(out, half);
    out += SCALE_BYTES;
    for (size_t i = 0; i < len; i++) {
        if (magnitude[i] < threshold || (magnitude[i] == threshold && equal == 0))
            continue;
        equal -= magnitude[i] == threshold;
        float q = (error[i] * inverse + ROUNDING_MAGIC) - ROUNDING_MAGIC;
        error[i] -= q * step;
        store_le16(out, (uint16_t)(i << 4 | ((unsigned)(int)q & 15u)));
        out += ENTRY_BYTES;
    }
}

int gossip_topk_encode(size_t k, size_t count, float decay, const float input[restrict],
                       float error[restrict], uint8_t out[restrict])
{
    ASSERT(decay >= 0.0f && decay <= 1.0f && count <= GOSSIP_PARAMS_MAX);
    if (check_sums(count, decay, input, error))
        return ERR_NOT_FINITE;
    for (size_t i = 0; i < count; i += GOSSIP_TOPK_CHUNK) {
        size_t len = count - i < GOSSIP_TOPK_CHUNK ? count - i : GOSSIP_TOPK_CHUNK;
        encode_chunk(gossip_topk_kept(k, len), len, decay, input + i, error + i, out);
        out += chunk_bytes(k, len);
    }
    return ERR_OK;
}

static int decode_chunk(size_t kept, size_t len, const uint8_t in[restrict], float values[restrict])
{
    uint16_t half = load_le16(in);
    float step = step_value(half);
    size_t next = 0; /* smallest index that may follow */
    memset(values, 0, len * sizeof *values);
    if (half >= 0x7f80 ||
        !(step * (float)Q_MAX <= 2 * GOSSIP_VALUE_MAX)) /* negative, infinite, NaN, too large */
        return ERR_MALFORMED;
    for (size_t i = 0; i < kept; i++) {
        uint16_t entry = load_le16(in + SCALE_BYTES + ENTRY_BYTES * i);
        size_t index = entry >> 4;
        int q = ((entry & 15) ^ 8) - 8;
        if (index < next || index >= len || q == -8 || (q != 0 && half == 0))
            return ERR_MALFORMED;
        values[index] = (float)q * step;
        next = index + 1;
    }
    return ERR_OK;
}

int gossip_topk_decode(size_t k, size_t count, const uint8_t in[restrict], float values[restrict])
{
    ASSERT(count <= GOSSIP_PARAMS_MAX);
    for (size_t i = 0; i < count; i += GOSSIP_TOPK_CHUNK) {
        size_t len = count - i < GOSSIP_TOPK_CHUNK ? count - i : GOSSIP_TOPK_CHUNK;
        int result = decode_chunk(gossip_topk_kept(k, len), len, in, values + i);
        if (result < 0)
            return result;
        in += chunk_bytes(k, len);
    }
    return ERR_OK;
}
