/* One turn of a repair: reading the peer's ranges and composing ours.  Private to crdt/.
 *
 * A turn is a run of items, big-endian:
 *
 *     SPLIT  1 u8 | range | bits u8 (1 to 8) | 2^bits fingerprints u64, in the order of the tags
 *     LIST   2 u8 | range | count u16 | count x { tag u64 | version u32 | seq u32 }, tags ascending
 *     WANT   3 u8 | range | count u16 | bitmap of the receiver's items in that range, lowest bit first
 *     range: depth u8 (0 to 56) | the prefix's first ceil(depth / 8) bytes, unused bits zero
 *
 * Ranges that differ are pending until they are split or listed, here, not at the peer: what does not fit
 * into a turn is simply taken up in the next one. */
#ifndef DUNLIN_CRDT_SYNC_TURN_H
#define DUNLIN_CRDT_SYNC_TURN_H

#include "crdt/sync_index.h"

enum {
    CRDT_TURN_MAX = CRDT_FRAME_MAX - 64, /* bytes of items; the frame's head needs less than 64 */
    CRDT_ITEM_HEAD_MAX = 12,
    CRDT_LIST_ENTRY_BYTES = 16,
};

struct crdt_turn {
    struct crdt_index index;
    uint64_t *pending; /* stack of ranges: prefix with the depth in its low 8 bits */
    size_t pending_count;
    size_t pending_max;
    uint32_t *outgoing; /* items to send, in order; each once */
    size_t outgoing_count;
    uint8_t *out; /* [CRDT_TURN_MAX] items of our next turn */
    size_t out_len;
};

/* Reads a turn: queues records to send, adds differing ranges to the pending ones, starts our next turn with
 * what we want.  ERR_MALFORMED, ERR_TRUNCATED: end the session. */
MUST_USE int crdt_turn_read(struct crdt_turn *turn, struct bytes items);
/* Completes our turn with as many pending ranges as fit.  ERR_TOO_LARGE: one range is larger than a frame,
 * which honest tags never make. */
MUST_USE int crdt_turn_compose(struct crdt_turn *turn);
/* Composes the first turn of all: everything is pending. */
MUST_USE int crdt_turn_first(struct crdt_turn *turn);

#endif
