/* The int8 codec's blocks, vectorised: what gossip/codec.h calls int8.  Private to gossip/. */
#ifndef DUNLIN_GOSSIP_CODEC_INT8_H
#define DUNLIN_GOSSIP_CODEC_INT8_H

#include <stddef.h>
#include <stdint.h>

/* Encodes count values in blocks of GOSSIP_BLOCK into gossip_encoded_bytes(GOSSIP_CODEC_INT8, count) bytes.
 * Returns 0, or 1 when a value is NaN, infinite or beyond GOSSIP_VALUE_MAX; out's contents are undefined
 * then. */
unsigned gossip_int8_encode(size_t count, const float values[restrict], uint8_t out[restrict]);
/* Decodes them.  Returns 0, or 1 when a scale is NaN, infinite, negative or too large, or a byte is -128 or
 * is not 0 under a zero scale; values' contents are undefined then. */
unsigned gossip_int8_decode(size_t count, const uint8_t in[restrict], float values[restrict]);

#endif
