/* The replica's tables, shared by replica.c (rules), table.c (bookkeeping) and their tests.
 *
 * Indexes instead of pointers; NONE ends a list.  Every entry is in the hash chain of its key, in the list of
 * its run, in the list of its author, and in the heap by expiry. */
#ifndef DUNLIN_CRDT_INTERNAL_H
#define DUNLIN_CRDT_INTERNAL_H

#include "base/ring.h"
#include "crdt/lthash.h"
#include "crdt/replica.h"

#define CRDT_NONE UINT32_MAX

struct crdt_slot_entry {
    struct crdt_key key;
    uint64_t seq;
    uint64_t expires_ms;
    struct id hash;
    uint64_t origin; /* who sent this version */
    uint8_t *bytes;  /* encoded; NULL: free entry, run_next links the free ones */
    uint32_t len;
    uint32_t run;
    uint32_t author;
    uint32_t chain; /* next of the same hash bucket */
    uint32_t run_prev;
    uint32_t run_next;
    uint32_t author_prev;
    uint32_t author_next;
    uint32_t heap_at;
    bool event_queued; /* an ACCEPTED event for this key is in the ring */
};

struct crdt_run {
    struct id id;
    bool used;
    uint32_t first;
    size_t proofs;
    size_t count;
    size_t bytes;
    struct crdt_lthash sum;
};

struct crdt_author {
    struct id id;
    uint32_t run; /* NONE: free, chain links the free ones */
    uint32_t first;
    uint32_t count;
    uint32_t proof; /* NONE: not quarantined */
    uint32_t chain;
    size_t bytes;
};

struct crdt_proof {
    uint8_t *bytes; /* as stored: length of the first record u16, first, second; NULL: free */
    size_t len;
    uint32_t author;
    uint64_t order; /* age: the lowest is forgotten first */
};

struct crdt_queued_event {
    enum crdt_event_kind kind;
    uint64_t origin;
    struct crdt_key key;
};

struct crdt_replica {
    struct crdt_replica_config config;
    uint8_t hash_key[16];
    struct crdt_run *runs;
    struct crdt_slot_entry *entries;
    struct crdt_author *authors;
    uint32_t *entry_buckets;
    uint32_t *author_buckets;
    uint32_t *heap; /* entries by expires_ms */
    struct crdt_queued_event *events;
    struct ring event_ring;
    size_t bucket_mask;
    size_t authors_max;
    uint32_t free_entry;
    uint32_t free_author;
    size_t heap_count;
    uint64_t proof_order;
    struct crdt_proof proofs[CRDT_PROOFS_MAX];
    struct crdt_counts counts;
};

/* Storage of all tables; ERR_NO_MEMORY, and then nothing is held. */
MUST_USE int crdt_table_init(struct crdt_replica *r);
void crdt_table_deinit(struct crdt_replica *r);

uint32_t crdt_table_find_run(const struct crdt_replica *r, const struct id *run);
uint32_t crdt_table_find_author(const struct crdt_replica *r, uint32_t run, const struct id *author);
/* Finds or takes a free one; there always is one, see crdt_table_init. */
uint32_t crdt_table_take_author(struct crdt_replica *r, uint32_t run, const struct id *author);
/* Gives the author back when nothing refers to it any more. */
void crdt_table_settle_author(struct crdt_replica *r, uint32_t author);
uint32_t crdt_table_find_entry(const struct crdt_replica *r, const struct crdt_key *key);
/* Takes a free entry (there must be one, asserted) for the record and owns bytes. */
uint32_t crdt_table_insert(struct crdt_replica *r, uint32_t run, const struct crdt_record *record,
                           const struct id *hash, uint8_t *bytes, uint32_t len);
/* Puts a newer version in place; owns bytes and releases the old ones. */
void crdt_table_replace(struct crdt_replica *r, uint32_t entry, const struct crdt_record *record,
                        const struct id *hash, uint8_t *bytes, uint32_t len);
void crdt_table_remove(struct crdt_replica *r, uint32_t entry);
/* Puts a proof into a free place, owns bytes; or takes it out.  A quarantined author is one element of the
 * run's set, whichever pair convicts it. */
void crdt_table_convict(struct crdt_replica *r, uint32_t place, uint32_t author, uint8_t *bytes, size_t len);
void crdt_table_acquit(struct crdt_replica *r, uint32_t place);
void crdt_quarantine_element(const struct id *run, const struct id *author, struct id *out);
struct crdt_item crdt_proof_item(const struct crdt_proof *proof);

#endif
