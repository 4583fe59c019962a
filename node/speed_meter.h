/* One end of a measured transfer: counts and hashes its bytes, and remembers the longest pauses between them.
 * Pure: the caller says what time it is. */
#ifndef DUNLIN_NODE_SPEED_METER_H
#define DUNLIN_NODE_SPEED_METER_H

#include <sodium.h>

#include "node/speed_wire.h"

struct speed_meter {
    crypto_generichash_state hash; /* aligned to 64, and so is all that holds one */
    uint64_t bytes;
    uint64_t first_ns; /* of the first and the last byte; 0: none yet */
    uint64_t last_ns;
    struct speed_gap gaps[SPEED_GAPS_MAX]; /* longest first */
    size_t gap_count;
};

/* Starts at nothing. */
void speed_meter_init(struct speed_meter *meter);
/* Takes the next bytes, sent or received at now_ns (> 0, asserted).  O(data.len), a microsecond a KiB. */
void speed_meter_add(struct speed_meter *meter, uint64_t now_ns, struct bytes data);
/* Writes BLAKE2b-256 of all bytes so far, of which there may be more afterwards. */
void speed_meter_hash(const struct speed_meter *meter, struct id *out);
/* Longest pause, in ms; 0 when there was none. */
uint32_t speed_meter_longest_ms(const struct speed_meter *meter);

#endif
