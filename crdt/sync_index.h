/* What a repair session knows of its own records: tags, fingerprints and versions in the order of the tags,
 * frozen at the start of the session.  Private to crdt/. */
#ifndef DUNLIN_CRDT_SYNC_INDEX_H
#define DUNLIN_CRDT_SYNC_INDEX_H

#include "crdt/internal.h"
#include "crdt/sync.h"

enum {
    CRDT_DEPTH_MAX = 56,                   /* bits of a range's prefix; 65,536 uniform tags need about 16 */
    CRDT_PLACE_PROOF = CRDT_RECORDS_LIMIT, /* first place of a proof */
};

struct crdt_index_item {
    uint64_t tag;     /* SipHash of the register's key */
    uint64_t before;  /* XOR of the fingerprints of all items before this one */
    uint32_t version; /* 32 more bits of the fingerprint */
    uint32_t seq;     /* low 32 bits */
    uint32_t place; /* in the replica's table, or CRDT_PLACE_PROOF + place of a proof; perhaps reused since */
    bool queued;    /* to be sent, or sent */
};

struct crdt_index {
    uint8_t key[CRDT_SYNC_KEY_BYTES];
    struct crdt_index_item *items; /* count + 1: the last holds only `before` */
    size_t count;
};

/* All tags whose first `depth` bits are those of prefix; the other bits of prefix are zero. */
struct crdt_range {
    uint64_t prefix;
    unsigned depth; /* 0 to CRDT_DEPTH_MAX */
};

/* Builds the index of one run under key; *out owns memory of alloc (crdt_index_deinit).  ERR_NO_MEMORY. */
MUST_USE int crdt_index_init(struct crdt_index *out, const struct crdt_replica *replica, uint32_t run,
                             const uint8_t key[CRDT_SYNC_KEY_BYTES], const struct allocator *alloc);
void crdt_index_deinit(struct crdt_index *index, const struct allocator *alloc);
/* First and one-past-last item of a range. */
void crdt_index_span(const struct crdt_index *index, struct crdt_range range, size_t *first, size_t *end);
/* XOR of the fingerprints in a range. */
uint64_t crdt_index_fingerprint(const struct crdt_index *index, struct crdt_range range);
/* Child number `child` of a range split by `bits` more bits. */
struct crdt_range crdt_range_child(struct crdt_range range, unsigned bits, uint64_t child);
/* What the replica holds now for an item: a record, or the proof that convicts an author; record is empty
 * when it is gone. */
struct crdt_item crdt_index_get(const struct crdt_index *index, size_t item,
                                const struct crdt_replica *replica, const struct id *run);

#endif
