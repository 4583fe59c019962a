/* Blocks of the modular codec, both ways.  A tensor's last block is padded with zeros to a whole one, so that
 * there is one body for all; only the packing of bits knows its true length. */
#include "gossip/codec_modular.h"

#include <math.h>
#include <string.h>

#include "gossip/codec_internal.h"
#include "gossip/merge/clones.h"

/* Sums of squares outside are taken again in double: squares have left the range of float32 or its precision.
 */
#define SQUARES_MIN 1e-30f
#define SQUARES_MAX 1e36f

enum {
    ROTATION = 5,
    GROUP = 8,  /* blocks handled together: divisions overlap, values stay in the cache */
    SLACK = 16, /* steps by which own weights may lie outside of what a sender may send */
};

static bool step_legal(float step)
{
    return step >= GOSSIP_STEP_MIN && step <= GOSSIP_STEP_MAX; /* false for NaN */
}

/* 16 bits over the integers of a padded block.  In each of 16 lanes h <- rotl(h, 5) + k: distances between
 * equal residues are multiples of 2^b, and no two places of a lane share a power of two, so wraps by one
 * modulus do not cancel in it.  Then the finalizer of MurmurHash3 (Appleby) mixes the lanes. */
INLINE void checksum_add(word_lanes *h, const int_lanes *whole)
{
    *h = (*h << ROTATION | *h >> (32 - ROTATION)) + (word_lanes)*whole;
}

INLINE uint16_t checksum_end(const word_lanes *state)
{
    word_lanes h = *state;
    const word_lanes lane = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    uint32_t words[LANES];
    h += lane * 0x9e3779b9u;
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    h ^= h >> 16;
    memcpy(words, &h, sizeof words);
    for (size_t i = 0; i < 8; i++)
        words[i] += words[i + 8];
    for (size_t i = 0; i < 4; i++)
        words[i] += words[i + 4];
    uint32_t sum = (words[0] + words[2]) + (words[1] + words[3]);
    return (uint16_t)(sum ^ sum >> 16);
}

INLINE float total_of(const float_lanes *sum)
{
    float part[LANES];
    memcpy(part, sum, sizeof part);
    for (size_t i = 0; i < 8; i++)
        part[i] += part[i + 8];
    for (size_t i = 0; i < 4; i++)
        part[i] += part[i + 4];
    return (part[0] + part[2]) + (part[1] + part[3]);
}

/* What encoding one tensor needs. */
struct encoding {
    unsigned bits;
    float kappa;
    float distance_scale; /* GOSSIP_DISTANCE_WEIGHT included */
};

/* Of the blocks of a group. */
struct group {
    float absmax[GROUP];  /* largest |theta|; NaN or infinite when one is */
    float squares[GROUP]; /* sum of (theta - phi)^2 */
    float step[GROUP];
    float inverse[GROUP];
};

INLINE void measure(const float theta[restrict GOSSIP_BLOCK], const float phi[restrict GOSSIP_BLOCK],
                    float *absmax, float *squares)
{
    int_lanes largest = {0};
    float_lanes sum = {0};
    for (size_t i = 0; i < GOSSIP_BLOCK; i += LANES) {
        float_lanes a, b;
        load_lanes(theta + i, &a);
        load_lanes(phi + i, &b);
        note_largest(&largest, &a);
        sum += (a - b) * (a - b);
    }
    *absmax = largest_of(&largest);
    *squares = total_of(&sum);
}

/* Mean square where float32 does not reach; NaN when phi is not a legal weight. */
static double mean_square_double(size_t count, const float theta[], const float phi[])
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) {
        double gap = (double)theta[i] - (double)phi[i];
        sum += fabsf(phi[i]) <= GOSSIP_VALUE_MAX ? gap * gap : (double)NAN;
    }
    return sum / (double)count;
}

/* Step and inverse of one block of count values from its measures; 1 when a number is not legal. */
INLINE unsigned choose_step(const struct encoding *how, unsigned bits, size_t count, const float theta[],
                            const float phi[], float distance, struct group *group, size_t at)
{
    float absmax = group->absmax[at], squares = group->squares[at];
    float rms = sqrtf(squares / (float)count);
    if (!(squares >= SQUARES_MIN && squares <= SQUARES_MAX))
        rms = (float)sqrt(mean_square_double(count, theta, phi));
    float seen = distance * how->distance_scale;
    float step = how->kappa / (float)(1u << (bits - 1)) * (rms > seen ? rms : seen);
    float least = absmax * (1.0f / GOSSIP_WHOLE_MAX);
    step = step > least ? step : least;
    step = step > GOSSIP_STEP_MIN ? step : GOSSIP_STEP_MIN;
    step = step < GOSSIP_STEP_MAX ? step : GOSSIP_STEP_MAX;
    group->step[at] = step_value(step_round(step));
    group->inverse[at] = 1.0f / group->step[at];
    return !(absmax <= GOSSIP_VALUE_MAX) | !(rms >= 0) | !(distance >= 0 && distance <= GOSSIP_VALUE_MAX);
}

/* whole <- round(theta / step); returns their checksum.  |theta / step| is at most GOSSIP_WHOLE_MAX. */
INLINE uint16_t quantise(float inverse, const float theta[restrict GOSSIP_BLOCK],
                         int32_t whole[restrict GOSSIP_BLOCK])
{
    word_lanes h = {0};
    for (size_t i = 0; i < GOSSIP_BLOCK; i += LANES) {
        float_lanes x;
        int_lanes k;
        load_lanes(theta + i, &x);
        round_lanes(&x, inverse, &k);
        checksum_add(&h, &k);
        memcpy(whole + i, &k, sizeof k);
    }
    return checksum_end(&h);
}

INLINE void write_block(unsigned bits, size_t count, float step, float inverse,
                        const float theta[restrict GOSSIP_BLOCK], uint8_t out[restrict])
{
    int32_t whole[GOSSIP_BLOCK];
    uint8_t residue[GOSSIP_BLOCK];
    uint16_t sum = quantise(inverse, theta, whole);
    for (size_t i = 0; i < GOSSIP_BLOCK; i++)
        residue[i] = (uint8_t)whole[i]; /* packing takes its low bits */
    store_le16(out, step_round(step));
    store_le16(out + 2, sum);
    pack_bits(bits, count, residue, out + GOSSIP_MODULAR_HEAD_BYTES);
}

/* Encodes blocks <= GROUP blocks of the `left` that the run still has.  1: a number is not legal. */
INLINE unsigned encode_group(const struct encoding *how, unsigned bits, size_t blocks, size_t left,
                             const float theta[restrict], const float phi[restrict], const float *distances,
                             uint8_t out[restrict])
{
    size_t stride = GOSSIP_MODULAR_HEAD_BYTES + bits * (GOSSIP_BLOCK / 8);
    struct group group;
    unsigned bad = 0;
    for (size_t i = 0; i < blocks; i++)
        measure(theta + GOSSIP_BLOCK * i, phi + GOSSIP_BLOCK * i, &group.absmax[i], &group.squares[i]);
    for (size_t i = 0; i < blocks; i++)
        bad |= choose_step(how, bits, GOSSIP_BLOCK, theta + GOSSIP_BLOCK * i, phi + GOSSIP_BLOCK * i,
                           distances != NULL ? distances[i] : 0.0f, &group, i);
    for (size_t i = 0; bad == 0 && i < blocks; i++) {
        prefetch_block(theta + GOSSIP_BLOCK * i, GROUP, left - i, GOSSIP_BLOCK);
        prefetch_block(phi + GOSSIP_BLOCK * i, GROUP, left - i, GOSSIP_BLOCK);
        write_block(bits, GOSSIP_BLOCK, group.step[i], group.inverse[i], theta + GOSSIP_BLOCK * i,
                    out + stride * i);
    }
    return bad;
}

/* Whole blocks of one tensor; bits is a constant where it is called, and loops over it unroll. */
INLINE unsigned encode_run(const struct encoding *how, unsigned bits, size_t blocks,
                           const float theta[restrict], const float phi[restrict], const float *distances,
                           uint8_t out[restrict])
{
    size_t stride = GOSSIP_MODULAR_HEAD_BYTES + bits * (GOSSIP_BLOCK / 8);
    unsigned bad = 0;
    for (size_t i = 0; i < blocks; i += GROUP)
        bad |= encode_group(how, bits, blocks - i < GROUP ? blocks - i : GROUP, blocks - i,
                            theta + GOSSIP_BLOCK * i, phi + GOSSIP_BLOCK * i,
                            distances != NULL ? distances + i : NULL, out + stride * i);
    return bad;
}

GOSSIP_CLONES
static unsigned encode_whole(const struct encoding *how, size_t blocks, const float theta[restrict],
                             const float phi[restrict], const float *distances, uint8_t out[restrict])
{
    if (how->bits == 4)
        return encode_run(how, 4, blocks, theta, phi, distances, out);
    if (how->bits == 3)
        return encode_run(how, 3, blocks, theta, phi, distances, out);
    return encode_run(how, 2, blocks, theta, phi, distances, out);
}

static unsigned encode_tail(const struct encoding *how, size_t count, const float theta[restrict],
                            const float phi[restrict], float distance, uint8_t out[restrict])
{
    float padded_theta[GOSSIP_BLOCK] = {0};
    float padded_phi[GOSSIP_BLOCK] = {0};
    struct group group;
    memcpy(padded_theta, theta, count * sizeof *theta);
    memcpy(padded_phi, phi, count * sizeof *phi);
    measure(padded_theta, padded_phi, &group.absmax[0], &group.squares[0]);
    unsigned bad = choose_step(how, how->bits, count, theta, phi, distance, &group, 0);
    if (bad == 0)
        write_block(how->bits, count, group.step[0], group.inverse[0], padded_theta, out);
    return bad;
}

int gossip_modular_encode(enum gossip_codec codec, const struct gossip_tensor tensors[], size_t tensor_count,
                          const struct gossip_modular_source *source, uint8_t out[restrict], size_t out_len)
{
    struct encoding how = {.bits = gossip_modular_bits(codec),
                           .kappa = source->kappa,
                           .distance_scale = source->distance_scale * GOSSIP_DISTANCE_WEIGHT};
    const float *distances = source->distances;
    unsigned bad = 0;
    if (how.bits == 0 || out_len != gossip_blob_bytes(codec, tensors, tensor_count) ||
        !(source->kappa >= 1.0f && source->kappa <= 64.0f) ||
        !(source->distance_scale >= 1.0f && source->distance_scale <= 16.0f))
        return ERR_INVALID;
    for (size_t i = 0; i < tensor_count; i++) {
        size_t from = tensors[i].offset - tensors[0].offset;
        size_t blocks = tensors[i].count / GOSSIP_BLOCK;
        size_t tail = tensors[i].count % GOSSIP_BLOCK;
        size_t done = blocks * GOSSIP_BLOCK;
        bad |= encode_whole(&how, blocks, source->theta + from, source->phi + from, distances, out);
        if (tail != 0)
            bad |= encode_tail(&how, tail, source->theta + from + done, source->phi + from + done,
                               distances != NULL ? distances[blocks] : 0.0f,
                               out + gossip_encoded_bytes(codec, done));
        if (distances != NULL)
            distances += blocks + (tail != 0);
        out += gossip_encoded_bytes(codec, tensors[i].count);
    }
    return bad ? ERR_NOT_FINITE : ERR_OK;
}

/* What decoding a block has found. */
enum { BLOCK_WRONG = 1, BLOCK_MALFORMED = 2, BLOCK_OWN_BROKEN = 4 };

/* values <- step times the integer of this residue that is nearest to own / step; returns the integers'
 * checksum.  |own / step| is at most GOSSIP_WHOLE_MAX + SLACK, so all are exact in float32. */
INLINE uint16_t lift(unsigned bits, float step, float inverse, const uint8_t residue[restrict GOSSIP_BLOCK],
                     const float own[restrict GOSSIP_BLOCK], float values[restrict GOSSIP_BLOCK])
{
    const float modulus = (float)(1 << bits), fraction = 1.0f / modulus;
    word_lanes h = {0};
    float wide[GOSSIP_BLOCK];
    for (size_t i = 0; i < GOSSIP_BLOCK; i++)
        wide[i] = (float)residue[i];
    for (size_t i = 0; i < GOSSIP_BLOCK; i += LANES) {
        float_lanes r, x;
        load_lanes(wide + i, &r);
        load_lanes(own + i, &x);
        float_lanes turns = (x * inverse - r) * fraction + ROUNDING_MAGIC;
        float_lanes k = r + (turns - ROUNDING_MAGIC) * modulus;
        int_lanes whole = __builtin_convertvector(k, int_lanes);
        float_lanes value = k * step;
        checksum_add(&h, &whole);
        memcpy(values + i, &value, sizeof value);
    }
    return checksum_end(&h);
}

/* Decodes a block of count values into a whole block of values; own is padded when count < GOSSIP_BLOCK. */
INLINE unsigned decode_block(unsigned bits, size_t count, const uint8_t in[restrict],
                             const float own[restrict GOSSIP_BLOCK], float values[restrict GOSSIP_BLOCK])
{
    uint8_t residue[GOSSIP_BLOCK];
    int_lanes largest = {0};
    float step = step_value(load_le16(in)), inverse = 1.0f / step;
    if (unpack_bits(bits, count, in + GOSSIP_MODULAR_HEAD_BYTES, residue) != 0 || !step_legal(step))
        return BLOCK_MALFORMED;
    for (size_t i = 0; i < GOSSIP_BLOCK; i += LANES) {
        float_lanes x;
        load_lanes(own + i, &x);
        note_largest(&largest, &x);
    }
    float absmax = largest_of(&largest);
    if (!(absmax <= GOSSIP_VALUE_MAX))
        return BLOCK_OWN_BROKEN;
    if (!(absmax * inverse <= (float)(GOSSIP_WHOLE_MAX + SLACK))) {
        memset(values, 0, GOSSIP_BLOCK * sizeof *values);
        return BLOCK_WRONG;
    }
    uint16_t sum = lift(bits, step, inverse, residue, own, values);
    return sum == load_le16(in + 2) ? 0 : BLOCK_WRONG;
}

INLINE unsigned decode_run(unsigned bits, size_t blocks, const uint8_t in[restrict],
                           const float own[restrict], float values[restrict], uint8_t wrong[restrict])
{
    size_t stride = GOSSIP_MODULAR_HEAD_BYTES + bits * (GOSSIP_BLOCK / 8);
    unsigned found = 0;
    for (size_t i = 0; i < blocks; i++) {
        unsigned block = decode_block(bits, GOSSIP_BLOCK, in + stride * i, own + GOSSIP_BLOCK * i,
                                      values + GOSSIP_BLOCK * i);
        wrong[i] = block & BLOCK_WRONG;
        found |= block;
    }
    return found;
}

GOSSIP_CLONES
static unsigned decode_whole(unsigned bits, size_t blocks, const uint8_t in[restrict],
                             const float own[restrict], float values[restrict], uint8_t wrong[restrict])
{
    if (bits == 4)
        return decode_run(4, blocks, in, own, values, wrong);
    if (bits == 3)
        return decode_run(3, blocks, in, own, values, wrong);
    return decode_run(2, blocks, in, own, values, wrong);
}

static unsigned decode_tail(unsigned bits, size_t count, const uint8_t in[restrict],
                            const float own[restrict], float values[restrict], uint8_t *wrong)
{
    float padded_own[GOSSIP_BLOCK] = {0}, padded_values[GOSSIP_BLOCK];
    memset(padded_values, 0, sizeof padded_values);
    memcpy(padded_own, own, count * sizeof *own);
    unsigned found = decode_block(bits, count, in, padded_own, padded_values);
    memcpy(values, padded_values, count * sizeof *values);
    *wrong = found & BLOCK_WRONG;
    return found;
}

int gossip_modular_values(enum gossip_codec codec, size_t count, const uint8_t in[restrict],
                          const float own[restrict], float values[restrict], uint8_t wrong[restrict])
{
    unsigned bits = gossip_modular_bits(codec);
    size_t blocks = count / GOSSIP_BLOCK, done = blocks * GOSSIP_BLOCK;
    int total = 0;
    ASSERT(count <= GOSSIP_PARAMS_MAX);
    if (bits == 0)
        return ERR_INVALID;
    unsigned found = decode_whole(bits, blocks, in, own, values, wrong);
    if (done != count)
        found |= decode_tail(bits, count - done, in + gossip_encoded_bytes(codec, done), own + done,
                             values + done, wrong + blocks);
    if ((found & BLOCK_MALFORMED) != 0)
        return ERR_MALFORMED;
    if ((found & BLOCK_OWN_BROKEN) != 0)
        return ERR_NOT_FINITE;
    for (size_t i = 0; i < blocks + (done != count); i++)
        total += wrong[i];
    return total;
}

size_t gossip_wanted_max(const struct gossip_tensor tensors[], size_t tensor_count)
{
    return gossip_block_count(tensors, tensor_count) / 2;
}

int gossip_modular_check(enum gossip_codec codec, const struct gossip_tensor tensors[], size_t tensor_count,
                         struct bytes blob, const float own[restrict], uint32_t wanted[restrict])
{
    enum { PIECE = 1024 };
    float values[PIECE];
    uint8_t wrong[PIECE / GOSSIP_BLOCK];
    const uint8_t *in = blob.data;
    size_t most = gossip_wanted_max(tensors, tensor_count), found = 0;
    uint32_t block = 0;
    if (gossip_modular_bits(codec) == 0)
        return ERR_INVALID;
    if (blob.len != gossip_blob_bytes(codec, tensors, tensor_count))
        return ERR_MALFORMED;
    for (size_t i = 0; i < tensor_count; i++) {
        for (size_t at = 0; at < tensors[i].count; at += PIECE) {
            size_t count = tensors[i].count - at < PIECE ? tensors[i].count - at : PIECE;
            int result =
                gossip_modular_values(codec, count, in + gossip_encoded_bytes(codec, at),
                                      own + (tensors[i].offset - tensors[0].offset) + at, values, wrong);
            if (result < 0)
                return result;
            for (size_t k = 0; k < (count + GOSSIP_BLOCK - 1) / GOSSIP_BLOCK; k++, block++) {
                if (wrong[k] && found < most)
                    wanted[found] = block;
                found += wrong[k];
            }
        }
        in += gossip_encoded_bytes(codec, tensors[i].count);
    }
    return found > most ? ERR_FAR : (int)found;
}

void gossip_distances_widen(size_t blocks, float distances[])
{
    for (size_t i = 0; i < blocks; i++)
        distances[i] = distances[i] < GOSSIP_VALUE_MAX / 2 ? 2 * distances[i] : GOSSIP_VALUE_MAX;
}
