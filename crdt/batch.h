/* Frames of the service "records": fresh records pushed to connected peers, and the record frames of a
 * repair. Body: {1: version, 2: [item ...]}; an item is a bin (one record) or an array of two bins (the proof
 * that their author signed two values under one sequence number). */
#ifndef DUNLIN_CRDT_BATCH_H
#define DUNLIN_CRDT_BATCH_H

#include "base/pack.h"
#include "crdt/record.h"

enum {
    CRDT_WIRE_VERSION = 1,
    CRDT_FRAME_MAX = 65536,
    CRDT_BATCH_MAX = 64, /* items: 64 signatures are checked in about 3.3 ms, below the loop's 5 ms */
};

struct crdt_item {
    struct bytes record;
    struct bytes other; /* of a proof; empty otherwise */
};

/* Encodes the first items that fit into one frame; returns its length, and how many in *taken (at least 1
 * when count > 0).  out_cap must be CRDT_FRAME_MAX (asserted). */
MUST_USE int crdt_batch_encode(const struct crdt_item *items, size_t count, uint8_t *out, size_t out_cap,
                               size_t *taken);
/* Items of a frame, borrowed from it; returns how many.  Records are not yet decoded: hand each to
 * crdt_replica_apply or crdt_replica_apply_proof.  ERR_MALFORMED, ERR_VERSION, ERR_TOO_LARGE: drop the frame.
 */
MUST_USE int crdt_batch_decode(struct bytes frame, struct crdt_item items[CRDT_BATCH_MAX]);

/* The array of items alone, for frames with other keys around it (crdt/sync.c). */
void crdt_batch_write_items(struct pack_writer *w, const struct crdt_item *items, size_t count);
/* Fails the reader on what is no item. */
size_t crdt_batch_read_items(struct pack_reader *r, struct crdt_item items[CRDT_BATCH_MAX]);
/* How many of the first items fit into one frame. */
size_t crdt_batch_fit(const struct crdt_item *items, size_t count);

#endif
