/* The anchor codec, an option beside the modular one: weights less a reference that both partners hold, in 4
 * or 3 bits a value.  As good as the modular codec in our experiments and without repairs, but it needs a
 * vector that reaches every member and an agreement on its version; the modular codec needs the pair alone.
 *
 * State: the anchor, [count] float32, the same bits on both sides (for example one member's phi, decoded from
 * int8, renewed every eight rounds); the caller sends its version along and uses int8 when versions differ.
 * Without an anchor (zeros) this is plain quantisation of weights: averaging then stalls at the step, since
 * differences smaller than it are not seen (tests/gossip/test_codec_options.c).
 *
 * Block of up to GOSSIP_BLOCK values: step s (bfloat16, little-endian, largest |theta - anchor| / (2^(b-1) -
 * 1) rounded up before use), then the bit planes of gossip/codec_modular.h holding q = round((theta - anchor)
 * / s) in two's complement, |q| < 2^(b-1); the value is anchor + q * s, alike on both sides, so the pair's
 * sum is kept as in gossip/merge/job.h.  s = 0: all q are 0. */
#ifndef DUNLIN_GOSSIP_CODEC_ANCHOR_H
#define DUNLIN_GOSSIP_CODEC_ANCHOR_H

#include "gossip/codec.h"

/* Bytes of count values; bits is 3 or 4, count <= GOSSIP_PARAMS_MAX (asserted; so below). */
size_t gossip_anchor_bytes(unsigned bits, size_t count);
/* Encodes count values of one tensor into out, [gossip_anchor_bytes].  ERR_NOT_FINITE: theta or anchor is
 * NaN, infinite or beyond GOSSIP_VALUE_MAX; out is undefined: do not send.  O(count). */
MUST_USE int gossip_anchor_encode(unsigned bits, size_t count, const float theta[restrict],
                                  const float anchor[restrict], uint8_t out[restrict]);
/* Decodes into values, [count].  ERR_MALFORMED: a step is negative or not finite, q is -2^(b-1) or stands
 * under a zero step, or a bit without a value is set; ERR_NOT_FINITE: a value is beyond twice
 * GOSSIP_VALUE_MAX or the anchor is broken; values are undefined: refuse the whole blob. */
MUST_USE int gossip_anchor_decode(unsigned bits, size_t count, const uint8_t in[restrict],
                                  const float anchor[restrict], float values[restrict]);

#endif
