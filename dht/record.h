/* One signed record: its encoding, its decoding, and the checks that need no store.
 *
 *     record    = body || signature (64)            signature over DHT_RECORD_LABEL || body, by the owner
 *     body      = map { 1: type, 2: key (providers only), 3: owner, 4: issued, 5: expires,
 *                       6: [ address (6 or 18 bytes), ... at most 4 ], 7: extra (at most 104 bytes, optional)
 * }
 *
 * Signatures cover the body as received, never a re-encoding. */
#ifndef DUNLIN_DHT_RECORD_H
#define DUNLIN_DHT_RECORD_H

#include "dht/dht.h"

/* Encodes and signs; returns the length.  Counts within their limits are asserted. */
size_t dht_record_encode(const struct dht_record *record, const struct dht_config *config,
                         uint8_t out[DHT_RECORD_BYTES_MAX]);
/* Fields of an encoded record, signature unchecked.  ERR_TOO_LARGE, ERR_MALFORMED: drop it. */
MUST_USE int dht_record_decode(struct bytes in, struct dht_record *out);
/* Life at wall_ms.  ERR_EXPIRED: over.  ERR_CLOCK: issued too far ahead.  ERR_MALFORMED: lives longer than
 * DHT_TTL_MAX_MS.  Drop it. */
MUST_USE int dht_record_check_life(const struct dht_record *record, uint64_t wall_ms);
/* The owner's signature, the dear check (50 us).  ERR_AUTH: drop it.  in was decoded into record. */
MUST_USE int dht_record_verify(const struct dht_record *record, struct bytes in,
                               const struct dht_config *config);

#endif
