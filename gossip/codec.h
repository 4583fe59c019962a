/* Encodings of weights for the wire.  Pure functions on caller's arrays; they run on the merge thread.
 *
 * A blob is one fragment (a span of adjacent tensors, or all of them), tensor after tensor, with nothing
 * between: its size follows from the tensor table and the codec alone, so a partner's blob has exactly one
 * right length.  Arrays begin with the span's first value: a value's place is tensor.offset -
 * tensors[0].offset.  Decoding hostile bytes yields
 * finite numbers of magnitude at most GOSSIP_VALUE_MAX, or an error; never NaN.
 *
 *   fp32   value as IEEE 754 binary32, little-endian
 *   bf16   upper half of the binary32, rounded to nearest even, little-endian
 *   int8   for each block of up to GOSSIP_BLOCK values: scale (binary32, little-endian, s = absmax / 127),
 * then one two's complement byte q = round to nearest even (x / s) in [-127, 127] a value; decoded q * s; s =
 * 0 means that all are zero and all q must be 0.  Error at most s / 2 (plus rounding of the product).
 *   mod4, mod3, mod2   gossip/codec_modular.h; the functions below know their names and sizes only */
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
 * send, the trainer's state is broken.  ERR_INVALID: a modular codec.  O(count). */
MUST_USE int gossip_encode_values(enum gossip_codec codec, size_t count, const float values[restrict],
                                  uint8_t out[restrict]);
/* Decodes count values of one tensor that start on a block boundary of it.
 *   in      [gossip_encoded_bytes(codec, count)]  borrowed until return
 *   values  [count]  written in full
 * ERR_NOT_FINITE: a value or scale is NaN, infinite or too large, a scale is negative, or a byte is -128 or
 * stands under a zero scale; values' contents are undefined: refuse the whole blob.  ERR_INVALID: a modular
 * codec.  O(count). */
MUST_USE int gossip_decode_values(enum gossip_codec codec, size_t count, const uint8_t in[restrict],
                                  float values[restrict]);

/* Bytes of a span's blob; blocks in it (the units of the modular codec's checks and repairs, numbered from 0,
 * tensor after tensor).  The table must have passed gossip_layout_of; so below. */
size_t gossip_blob_bytes(enum gossip_codec codec, const struct gossip_tensor tensors[], size_t tensor_count);
size_t gossip_block_count(const struct gossip_tensor tensors[], size_t tensor_count);

/* Encodes a span into a blob of out_len bytes, which must be gossip_blob_bytes.
 * ERR_INVALID: it is not, or a modular codec.  ERR_NOT_FINITE: as above. */
MUST_USE int gossip_encode(enum gossip_codec codec, const struct gossip_tensor tensors[], size_t tensor_count,
                           const float params[restrict], uint8_t out[restrict], size_t out_len);
/* Decodes a span's blob into params.  ERR_MALFORMED: wrong length.  ERR_INVALID: a modular codec.
 * ERR_NOT_FINITE: as above; params' contents are undefined. */
MUST_USE int gossip_decode(enum gossip_codec codec, const struct gossip_tensor tensors[], size_t tensor_count,
                           struct bytes blob, float params[restrict]);

#endif
