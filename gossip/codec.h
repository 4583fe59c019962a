/* Encodings of weights for the wire.  Pure functions on caller's arrays; they run on the merge thread.
 *
 * A blob is the whole snapshot, tensor after tensor, with nothing between: its size follows from the tensor
 * table and the codec alone, so a partner's blob has exactly one right length.  Decoding hostile bytes yields
 * finite numbers of magnitude at most GOSSIP_VALUE_MAX, or an error; never NaN.
 *
 *   fp32   value as IEEE 754 binary32, little-endian
 *   bf16   upper half of the binary32, rounded to nearest even, little-endian
 *   int8   for each block of up to GOSSIP_BLOCK values: scale (binary32, little-endian, s = absmax / 127),
 * then one two's complement byte q = round to nearest even (x / s) in [-127, 127] a value; decoded q * s; s =
 * 0 means that all are zero and all q must be 0.  Error at most s / 2 (plus rounding of the product). */
#ifndef DUNLIN_GOSSIP_CODEC_H
#define DUNLIN_GOSSIP_CODEC_H

#include "base/bytes.h"
#include "gossip/tensor.h"

#define GOSSIP_VALUE_MAX 1e30f /* larger weights are refused: sums of a few of them must stay finite */

/* "fp32", "bf16", "int8", "mod4", "mod3", "mod2"; static storage. */
const char *gossip_codec_name(enum gossip_codec codec);
/* Parses one of these names.  ERR_NOT_FOUND: none of them; *out is untouched. */
MUST_USE int gossip_codec_parse(const char *name, enum gossip_codec *out);

/* Bytes of count values of one tensor, encoded; count <= GOSSIP_PARAMS_MAX (asserted). */
size_t gossip_encoded_bytes(enum gossip_codec codec, size_t count);

/* Encodes count values of one tensor.
 *   values  [count]  float32; borrowed until return
 *   out     [gossip_encoded_bytes(codec, count)]  written in full; must not overlap values
 * ERR_NOT_FINITE: a value is NaN, infinite or beyond GOSSIP_VALUE_MAX; out's contents are undefined: do not
 * send, the trainer's state is broken.  O(count). */
MUST_USE int gossip_encode_values(enum gossip_codec codec, size_t count, const float values[restrict],
                                  uint8_t out[restrict]);
/* Decodes count values of one tensor that start on a block boundary of it.
 *   in      [gossip_encoded_bytes(codec, count)]  borrowed until return
 *   values  [count]  written in full
 * ERR_NOT_FINITE: a value or scale is NaN, infinite or too large, a scale is negative, or a byte is -128 or
 * stands under a zero scale; values' contents are undefined: refuse the whole blob.  O(count). */
MUST_USE int gossip_decode_values(enum gossip_codec codec, size_t count, const uint8_t in[restrict],
                                  float values[restrict]);

/* Encodes a whole snapshot into a blob of out_len bytes, which must be the layout's encoded_bytes[codec].
 * ERR_INVALID: it is not.  ERR_NOT_FINITE: as above.  The table must have passed gossip_layout_of. */
MUST_USE int gossip_encode(enum gossip_codec codec, const struct gossip_tensor tensors[], size_t tensor_count,
                           const float params[restrict], uint8_t out[restrict], size_t out_len);
/* Decodes a whole blob into params.  ERR_MALFORMED: wrong length.  ERR_NOT_FINITE: as above; params' contents
 * are undefined. */
MUST_USE int gossip_decode(enum gossip_codec codec, const struct gossip_tensor tensors[], size_t tensor_count,
                           struct bytes blob, float params[restrict]);

#endif
