/* The modular (lattice) codec: weights in 4, 3 or 2 bits a value, for partners that are already close.
 *
 * Per block a step s; a weight is the integer k = round(theta / s), of which only k mod 2^b is sent.  The
 * receiver takes the integer with that residue nearest to its own theta / s: right whenever the two weights
 * differ by less than R = s * 2^(b-1), up to half a step.  No common reference has to be kept.  A 16-bit
 * checksum of the integers before the reduction tells which blocks came out wrong; those are asked for and
 * sent again in int8 within the same exchange (the repair).  Dropping them instead diverges: less consensus,
 * larger distances, more wrong blocks.
 *
 *   R = GOSSIP_KAPPA * max(rms(theta - phi), 0.7 * rms of the last distance seen in this block)
 *   s = R / 2^(b-1), at least 2^-21 of the block's largest weight (so that |k| <= 2^21, exact in float32)
 *       and GOSSIP_STEP_MIN, rounded up to bfloat16 before it is used by either side
 * Values carry noise of up to s / 2: at 4 and 3 bits less than the distances, so that averaging contracts
 * them.  At 2 bits it is about as much: R must be some 5 distances d, the rounding's variance is then
 * (R / 2)^2 / 12 = 0.6 d^2 a side, and a full average, which keeps the pair's sum, leaves the two 1.2 d^2
 * apart instead of d^2.  So they go only GOSSIP_MOD2_WEIGHT of the way (0.7 d^2 left), and the last cycles of
 * a run and its final merge use 3 bits or more.
 *
 * What is exact: the decoded value is (float)k * s, computed alike by both, so a partner's right block is bit
 * for bit what the sender has from gossip_modular_values on its own blob with its own theta; a repaired block
 * is the int8 value on both sides.  A wrong block escapes the checksum with probability about 2^-16; a value
 * of it is then off by a multiple of 2R, and so is the pair's sum, by half of it.  The checksum is not a MAC:
 * a hostile partner can make any block pass, but never decode further than R (and half a step) from the
 * receiver's own weight, which the gate of gossip/merge/gate.h then measures.
 *
 * Block on the wire: step (bfloat16, little-endian), checksum (16 bits, little-endian), then b bit planes of
 * ceil(n / 8) bytes for its n values, lowest plane first: bit j of byte i belongs to value i + j * ceil(n /
 * 8). Bits without a value are 0.  Sources: lattice quantisation with the receiver's vector as side
 * information, Davies et al. 2021, arXiv:2002.09268; Moniqua, Lu and De Sa 2020, arXiv:2002.11787. */
#ifndef DUNLIN_GOSSIP_CODEC_MODULAR_H
#define DUNLIN_GOSSIP_CODEC_MODULAR_H

#include "gossip/codec.h"

#define GOSSIP_KAPPA           6.0f /* default range, in rms distances: about 0.1 % of values wrap */
#define GOSSIP_DISTANCE_WEIGHT 0.7f /* of the last distance seen, against the own way since phi */
#define GOSSIP_DISTANCE_DECAY                                                                                \
    0.7f /* a distance fades by this per exchange: one round of pairs takes 1/sqrt(2) */
#define GOSSIP_MOD2_WEIGHT 0.75f /* of 1/2, 3/4 and 1 the best in tools/bench converge */
#define GOSSIP_STEP_MIN    0x1p-100f
#define GOSSIP_STEP_MAX    0x1p79f /* times GOSSIP_WHOLE_MAX it reaches GOSSIP_VALUE_MAX */

enum {
    GOSSIP_WHOLE_MAX = 1 << 21,    /* magnitude of k; larger ones are sent in int8 */
    GOSSIP_MODULAR_HEAD_BYTES = 4, /* step and checksum of a block */
};

/* Bits a value of the modular codecs; 0 for the others. */
unsigned gossip_modular_bits(enum gossip_codec codec);
/* How much of the way to the mean partners go who sent in these codecs: 1, or GOSSIP_MOD2_WEIGHT when either
 * sent 2 bits.  Symmetric, so that the pair's sum is kept. */
float gossip_modular_weight(enum gossip_codec own, enum gossip_codec partner);

/* What a sender knows.  Arrays begin with the span's first value. */
struct gossip_modular_source {
    const float *theta;     /* snapshot to be sent */
    const float *phi;       /* slow weights, before this round's step */
    const float *distances; /* [gossip_block_count] rms distance to the last partner of each block, as
                             * gossip_merge_job leaves it; 0 where none is known; or NULL */
    float kappa;            /* GOSSIP_KAPPA; within [1, 64] */
    float distance_scale;   /* multiplies distances: gossip_nearness_scale of this partner, else 1; within
                             * [1, 16] */
};

/* Encodes a span.  out has out_len bytes, which must be gossip_blob_bytes.  ERR_INVALID: it is not, the codec
 * is not modular, or kappa or distance_scale is outside its range (NaN too).  ERR_NOT_FINITE: a theta, phi or
 * distance is NaN, infinite or beyond GOSSIP_VALUE_MAX: do not send.  out is undefined after errors.  One
 * pass over theta and phi. */
MUST_USE int gossip_modular_encode(enum gossip_codec codec, const struct gossip_tensor tensors[],
                                   size_t tensor_count, const struct gossip_modular_source *source,
                                   uint8_t out[restrict], size_t out_len);

/* Decodes count values of one tensor that start on a block boundary of it.
 *   in      [gossip_encoded_bytes(codec, count)]
 *   own     [count]  the receiver's snapshot of the same round; the sender's, to decode its own blob
 *   values  [count]  written in full, finite, within R and half a step of own; of wrong blocks: finite
 *   wrong   [ceil(count / 256)]  written: 1 where the block must be repaired, else 0
 * Returns how many blocks are wrong.  ERR_MALFORMED: a step outside [GOSSIP_STEP_MIN, GOSSIP_STEP_MAX] or a
 * bit set without a value; ERR_NOT_FINITE: own is not finite or beyond GOSSIP_VALUE_MAX; ERR_INVALID: not a
 * modular codec; values and wrong are undefined then.  count <= GOSSIP_PARAMS_MAX (asserted). */
MUST_USE int gossip_modular_values(enum gossip_codec codec, size_t count, const uint8_t in[restrict],
                                   const float own[restrict], float values[restrict],
                                   uint8_t wrong[restrict]);

/* Looks through a partner's whole blob for blocks to be repaired.  One pass, about 8 KiB of stack.
 *   own     the receiver's snapshot of the same round, from the span's first value
 *   wanted  [gossip_wanted_max]  written: indices of wrong blocks, ascending
 * Returns how many.  ERR_FAR: more than half are wrong: the partner is too far, take a solo step, call
 * gossip_distances_widen, and use int8 with it next time (gossip_nearness_far).  ERR_MALFORMED: wrong length,
 * or as above: count as hostile.  ERR_NOT_FINITE: own weights are broken.  ERR_INVALID: not a modular codec.
 */
MUST_USE int gossip_modular_check(enum gossip_codec codec, const struct gossip_tensor tensors[],
                                  size_t tensor_count, struct bytes blob, const float own[restrict],
                                  uint32_t wanted[restrict]);
/* Most indices of one list: half of the span's blocks, rounded down. */
size_t gossip_wanted_max(const struct gossip_tensor tensors[], size_t tensor_count);

/* After a refusal, on both sides: doubles what is known of distances, [blocks] as gossip_merge_job leaves
 * them, so that a member that lags behind its swarm is not refused by the next partner as well. */
void gossip_distances_widen(size_t blocks, float distances[]);

/* The list on the wire: for each index its difference to the one before, less 1 (the first: itself), as
 * LEB128 of at most 5 bytes without superfluous ones.  Ascending, without repetition, by construction.
 * Bytes that suffice for count indices below blocks; count <= blocks. */
size_t gossip_indices_bytes_max(size_t blocks, size_t count);
/* Writes an ascending list; returns its bytes.  cap must be at least gossip_indices_bytes_max (asserted). */
size_t gossip_indices_encode(size_t count, const uint32_t list[], uint8_t out[], size_t cap);
/* Reads a list of indices below blocks to its end.  Returns how many.  ERR_MALFORMED: an integer is cut off,
 * too long or not the shortest, an index is not below blocks, or there are more than list_max; list is
 * undefined.  list may be NULL: then it is only checked. */
MUST_USE int gossip_indices_decode(struct bytes in, size_t blocks, uint32_t list[], size_t list_max);

/* The repair blob: the listed blocks in int8 (gossip/codec.h), one after the other.  Its bytes, of a list of
 * indices below gossip_block_count; an empty one gives 0.  ERR_INVALID: the list is not strictly ascending or
 * leaves the span; *out is untouched.  O(count + tensor_count). */
MUST_USE int gossip_repair_bytes(const struct gossip_tensor tensors[], size_t tensor_count, size_t count,
                                 const uint32_t list[], size_t *out);
/* Encodes it.  theta begins with the span's first value.  ERR_INVALID: the list is not as above,
 * or out_len is not gossip_repair_bytes.  ERR_NOT_FINITE: as gossip_encode. */
MUST_USE int gossip_repair_encode(const struct gossip_tensor tensors[], size_t tensor_count, size_t count,
                                  const uint32_t list[], const float theta[restrict], uint8_t out[restrict],
                                  size_t out_len);

#endif
