/* Top-k with error feedback, an option for differences (never for weights): of every chunk of 4096 values the
 * k largest are sent in 4 bits, and what was not sent is kept and added next time.
 *
 *   e <- decay * e + input;  q = the k largest of each chunk of e, quantised;  e <- e - q
 *
 * The error is taken against the quantised value, so nothing is lost: with decay 1, all that was sent plus e
 * equals all that went in, up to rounding.  Without the feedback small but steady differences are never sent
 * (tests/gossip/test_codec_options.c).  Source: SparseLoCo, arXiv:2508.15706; their decay is 0.95, k 64 to
 * 128 of 4096.  For a pair the decoded values of both are added with weight 1/2, sent or not: averaging over
 * those that sent an index, as the authors' code does, doubles what only one has sent.
 *
 * State: e, [count] float32, zeroed at first, one per thing that is sent; it stays on this machine.  Encoding
 * is deterministic: equal inputs give equal bytes on every machine.
 *
 * Chunk on the wire: scale s (bfloat16, little-endian: largest magnitude / 7 rounded up before use), then
 * gossip_topk_kept entries of 16 bits, little-endian, ascending by index: index << 4 | q & 15, q = round(e /
 * s) in
 * [-7, 7].  Of equal magnitudes the lower index is sent. */
#ifndef DUNLIN_GOSSIP_CODEC_TOPK_H
#define DUNLIN_GOSSIP_CODEC_TOPK_H

#include "gossip/codec.h"

enum { GOSSIP_TOPK_CHUNK = 4096 };

/* Entries of a chunk of len values: k * len / 4096 rounded up.  1 <= k <= GOSSIP_TOPK_CHUNK, 1 <= len <=
 * GOSSIP_TOPK_CHUNK (asserted). */
size_t gossip_topk_kept(size_t k, size_t len);
/* Bytes of count values; count <= GOSSIP_PARAMS_MAX (asserted). */
size_t gossip_topk_bytes(size_t k, size_t count);
/* Encodes one tensor's differences and updates the error.
 *   input  [count]              borrowed until return
 *   error  [count]              read and written
 *   out    [gossip_topk_bytes]  written in full
 * decay within [0, 1]; 0 is no feedback (asserted).  ERR_NOT_FINITE: decay * error + input is NaN, infinite
 * or beyond GOSSIP_VALUE_MAX somewhere; error is unchanged: do not send.  O(count), about 17 KiB of stack. */
MUST_USE int gossip_topk_encode(size_t k, size_t count, float decay, const float input[restrict],
                                float error[restrict], uint8_t out[restrict]);
/* Decodes into values, [count], zero where nothing was sent.  ERR_MALFORMED: a scale is negative, not finite
 * or too large, indices do not ascend or leave the chunk, q is -8 or stands under a zero scale; values are
 * undefined: refuse the whole blob. */
MUST_USE int gossip_topk_decode(size_t k, size_t count, const uint8_t in[restrict], float values[restrict]);

#endif
