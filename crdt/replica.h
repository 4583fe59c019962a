/* One node's replica: the newest record of every register, of many runs, in RAM; quotas, expiry, digests,
 * proofs.
 *
 * Pure: no clock (wall_ms is passed in), no files, no sockets.  The caller applies what arrives, drains the
 * events after each call, stores what they say (store/env.h) and pushes accepted records to its neighbours.
 *
 *     start:   crdt_replica_add_run for each run, crdt_replica_load for each stored row
 *     inputs:  put, apply, apply_proof, tick        then: while (crdt_replica_poll_event(...)) store, push
 *
 * Threats: an author can only fill its own quota; records of runs never added are refused; an author who
 * signs two values under one seq is quarantined for the run: its records there are dropped, hidden and
 * refused, the pair is kept and passed on as the proof.  Signatures are checked last, after everything cheap.
 *
 * Memory: the tables are obtained at creation; record bytes through the allocator on insertion, up to
 * bytes_max. */
#ifndef DUNLIN_CRDT_REPLICA_H
#define DUNLIN_CRDT_REPLICA_H

#include "base/alloc.h"
#include "base/rng.h"
#include "crdt/batch.h"
#include "crdt/record.h"

enum {
    CRDT_RECORDS_LIMIT = 65536, /* upper bound of records_max */
    CRDT_RUNS_LIMIT = 1024,
    CRDT_PROOFS_MAX = 256, /* quarantined (run, author) pairs; beyond it the oldest is forgotten */
    CRDT_OWN_RESERVE = 64, /* records only put() may use, so that others cannot shut us out */
    CRDT_STORE_KEY_BYTES = 1 + CRDT_KEY_BYTES,
    CRDT_PROOF_BYTES_MAX = 2 + 2 * CRDT_RECORD_MAX,
};
#define CRDT_SLOT_ANY    UINT32_MAX
#define CRDT_ORIGIN_SELF 0

struct crdt_replica_config {
    struct crdt_keys keys;
    struct allocator alloc;
    struct rng rng;            /* draws the hash key of the tables, at creation only */
    size_t runs_max;           /* default 64 */
    size_t records_max;        /* of all runs, default 16,384 */
    size_t bytes_max;          /* encoded, default 16 MiB */
    size_t run_records_max;    /* default 8,192 */
    size_t run_bytes_max;      /* default 8 MiB */
    size_t author_records_max; /* of one author in one run, default 64, at most 256 */
    size_t author_bytes_max;   /* default 64 KiB */
    size_t events_max;         /* undrained events, default 1,024; at least twice author_records_max */
    /* May this author write in this run?  A leaf function; NULL: everyone.  Asked before the signature check.
     */
    bool (*admits)(void *user, const struct id *run, const struct id *author);
    void *admits_user;
};

enum crdt_event_kind {
    CRDT_RECORD_ACCEPTED, /* store record under store_key; push it to peers other than origin */
    CRDT_RECORD_DROPPED,  /* expired or its author quarantined: delete store_key */
    CRDT_EQUIVOCATION,  /* store `proof` under store_key; push {record, other} as a proof; tell the person */
    CRDT_PROOF_DROPPED, /* forgotten: delete store_key */
};

/* Slices are borrowed until the next call that changes the replica. */
struct crdt_event {
    enum crdt_event_kind kind;
    uint64_t origin;     /* as given to apply, CRDT_ORIGIN_SELF for put and tick */
    struct crdt_key key; /* slot 0 for the two kinds of proofs */
    size_t store_key_len;
    uint8_t store_key[CRDT_STORE_KEY_BYTES];
    struct bytes record; /* encoded; the version now held, perhaps newer than the one that caused it */
    struct bytes other;  /* EQUIVOCATION: the second record */
    struct bytes proof;  /* EQUIVOCATION: both, as they are stored */
};

/* A record as held; slices are borrowed until the next call that changes the replica. */
struct crdt_view {
    struct crdt_record record;
    struct bytes encoded;
    struct id hash; /* crdt_record_hash of encoded */
};

struct crdt_counts {
    size_t runs;
    size_t records;
    size_t bytes;
    size_t proofs;
    uint64_t accepted;
    uint64_t stale;
    uint64_t refused;
};

struct crdt_replica;

/* Defaults above; keys, alloc and rng are for the caller to set. */
struct crdt_replica_config crdt_replica_config_default(void);
/* Copies config; *out is returned owned (free with crdt_replica_destroy).  ERR_INVALID: a limit is 0 or
 * beyond its bound; ERR_NO_MEMORY. */
MUST_USE int crdt_replica_create(const struct crdt_replica_config *config, struct crdt_replica **out);
void crdt_replica_destroy(struct crdt_replica *replica); /* NULL is allowed */

/* Records of a run are held only after this.  ERR_EXISTS: fine; ERR_FULL. */
MUST_USE int crdt_replica_add_run(struct crdt_replica *replica, const struct id *run);
/* Forgets the run and all its records without events: delete the rows with crdt_store_prefix yourself.
 * ERR_NOT_FOUND. */
MUST_USE int crdt_replica_remove_run(struct crdt_replica *replica, const struct id *run);

/* Puts back one stored row, record or proof, without an event.  The store's checksum vouches for it:
 * structure and quotas are checked, the signature is not.  ERR_EXPIRED, ERR_NOT_FOUND (run), ERR_MALFORMED:
 * delete the row; others as crdt_replica_apply. */
MUST_USE int crdt_replica_load(struct crdt_replica *replica, uint64_t wall_ms, struct bytes store_key,
                               struct bytes value);

/* Signs and inserts our own record, life_ms from now (raised to the expiry of the version it replaces).  Its
 * seq is the greater of the held seq + 1 and the time in milliseconds, so that a node that lost its newest
 * writes or its disk does not sign a number twice, however fast it wrote.  ERR_INVALID: life_ms 0 or beyond
 * CRDT_LIFE_MAX_MS; ERR_NOT_FOUND: run; ERR_TOO_LARGE, ERR_QUOTA, ERR_FULL, ERR_NO_MEMORY; ERR_AGAIN: drain
 * events first; ERR_STATE: we are quarantined in this run. */
MUST_USE int crdt_replica_put(struct crdt_replica *replica, uint64_t wall_ms, const struct id *run,
                              uint16_t slot, uint16_t schema, struct bytes value, uint64_t life_ms);

/* Merges one encoded record from a peer (origin: the caller's number for it); copies.  0: new, an event
 * follows. ERR_STALE: this or a newer version is held, the usual answer to a repeat; ERR_EQUIVOCATION: its
 * author is now quarantined (told once); ERR_REFUSED: author is quarantined (send the peer
 * crdt_replica_proof) or not admitted; ERR_EXPIRED, ERR_CLOCK, ERR_AUTH, ERR_TRUNCATED, ERR_MALFORMED,
 * ERR_VERSION, ERR_TOO_LARGE: drop, count against the peer; ERR_NOT_FOUND: run not held; ERR_QUOTA, ERR_FULL,
 * ERR_NO_MEMORY; ERR_AGAIN: drain events first. */
MUST_USE int crdt_replica_apply(struct crdt_replica *replica, uint64_t wall_ms, uint64_t origin,
                                struct bytes encoded);
/* Checks a proof and quarantines its author.  0: new; ERR_STALE: known; ERR_MALFORMED: proves nothing; others
 * as apply. */
MUST_USE int crdt_replica_apply_proof(struct crdt_replica *replica, uint64_t origin, struct bytes a,
                                      struct bytes b);

/* Drops what has expired, as far as the event queue has room. */
void crdt_replica_tick(struct crdt_replica *replica, uint64_t wall_ms);
/* Unix time of the next expiry; UINT64_MAX: none. */
uint64_t crdt_replica_deadline_ms(const struct crdt_replica *replica);
/* Next event, false: none left. */
bool crdt_replica_poll_event(struct crdt_replica *replica, struct crdt_event *out);

/* Newest record of a register; false: none (or its author is quarantined). */
bool crdt_replica_get(const struct crdt_replica *replica, const struct crdt_key *key, struct crdt_view *out);
/* Walks a run's records, all or of one slot, in no particular order: *cursor starts at 0; false at the end.
 * No changing call in between.  Records may be past their expiry until the next tick. */
bool crdt_replica_next(const struct crdt_replica *replica, const struct id *run, uint32_t slot,
                       uint32_t *cursor, struct crdt_view *out);
/* The pair that convicts an author; false: not quarantined. */
bool crdt_replica_proof(const struct crdt_replica *replica, const struct id *run, const struct id *author,
                        struct crdt_item *out);
/* Digest of a run's set of records, the same on every replica with the same set: BLAKE2b of an LtHash16x1024
 * accumulator and the count (Lewi et al. 2019, ePrint 2019/227).  A quarantined author is one element of the
 * set. ERR_NOT_FOUND. */
MUST_USE int crdt_replica_digest(const struct crdt_replica *replica, const struct id *run, struct id *digest,
                                 size_t *count);
struct crdt_counts crdt_replica_counts(const struct crdt_replica *replica);
/* Asserts every relation inside; O(records).  For tests. */
void crdt_replica_check_invariants(const struct crdt_replica *replica);

enum {
    CRDT_STORE_RECORD = 'r',
    CRDT_STORE_PROOF = 'q',
    CRDT_STORE_CHAIN = 'c',
    CRDT_STORE_PREFIX_BYTES = 33
};

/* Store keys: 'r' run author slot for records, 'q' run author for proofs.  Prefix of one kind in one run, 33
 * bytes. */
void crdt_store_prefix(uint8_t kind, const struct id *run, uint8_t out[CRDT_STORE_PREFIX_BYTES]);
/* 'c' run index u32: where node/ keeps a chain's entry. */
void crdt_store_chain_key(const struct id *run, uint32_t index, uint8_t out[CRDT_STORE_PREFIX_BYTES + 4]);

#endif
