/* The owner's chain of one run: what depends on history.  A genesis entry names owner, run and first
 * settings; each later entry names its predecessor's hash and is signed by the owner.  The run's id is the
 * hash of the genesis, so whoever knows the id can check everything else.
 *
 * Canonical encoding of an entry, big-endian, signed except for the signature:
 *
 *     0 format u8 = 1 | 1 kind u8 | 2 index u32 | 6 run [32] (zero in the genesis) | 38 prev [32] (zero in
 * the genesis) | 70 created_ms u64 | 78 payload_len u16 | 80 payload | signature [64]
 *
 * Payloads:
 *     GENESIS  owner [32] | nonce [16] | name_len u8 | name | config_len u16 | config
 *     CONFIG   from_round u64 | config          (takes effect at a stated round, never "now")
 *     CLOSE    last_round u64                   (the run ends; no entry may follow)
 *     ADMIT    id [32] | expires_ms u64 (0: never) | bearer u8 (1: id is a bearer key of an invitation)
 *     REVOKE   id [32]
 *
 * A fork (two signed entries of one index) freezes the chain at the last common entry: settings stay as they
 * were, training goes on, and both entries are kept as the proof.  Among several forks the lowest counts, so
 * replicas agree whatever they see first.  Hashes cover the bytes without the signature. */
#ifndef DUNLIN_CRDT_CHAIN_H
#define DUNLIN_CRDT_CHAIN_H

#include "base/alloc.h"
#include "base/rng.h"
#include "crdt/record.h"

enum {
    CRDT_CHAIN_HEAD_BYTES = 80,
    CRDT_NAME_MAX = 64,
    CRDT_NONCE_BYTES = 16,
    CRDT_CONFIG_MAX = 2048,
    CRDT_PAYLOAD_MAX = 32 + CRDT_NONCE_BYTES + 1 + CRDT_NAME_MAX + 2 + CRDT_CONFIG_MAX,
    CRDT_ENTRY_MAX = CRDT_CHAIN_HEAD_BYTES + CRDT_PAYLOAD_MAX + CRDT_SIGNATURE_BYTES,
    CRDT_CHAIN_MAX = 512, /* entries */
};
#define CRDT_CHAIN_LABEL "dunlin chain 1"

enum crdt_entry_kind {
    CRDT_ENTRY_GENESIS,
    CRDT_ENTRY_CONFIG,
    CRDT_ENTRY_CLOSE,
    CRDT_ENTRY_ADMIT,
    CRDT_ENTRY_REVOKE,
};

struct crdt_entry {
    enum crdt_entry_kind kind;
    uint32_t index;
    struct id run;
    struct id prev;
    uint64_t created_ms;
    struct id owner;                 /* GENESIS */
    uint8_t nonce[CRDT_NONCE_BYTES]; /* GENESIS */
    struct bytes name;               /* GENESIS; UTF-8 without control characters, 1 to CRDT_NAME_MAX bytes */
    struct bytes config;             /* GENESIS, CONFIG; opaque here */
    uint64_t round;                  /* CONFIG: from, CLOSE: last */
    struct id member;                /* ADMIT, REVOKE */
    uint64_t expires_ms;             /* ADMIT */
    bool bearer;                     /* ADMIT */
};

/* Where an appended entry leaves the chain.  EMPTY -> LIVE by the genesis; LIVE -> CLOSED by a CLOSE entry;
 * any but EMPTY -> FROZEN by a fork, for good.  All in crdt_chain_append. */
enum crdt_chain_state { CRDT_CHAIN_EMPTY, CRDT_CHAIN_LIVE, CRDT_CHAIN_CLOSED, CRDT_CHAIN_FROZEN };

struct crdt_chain_link {
    uint8_t *bytes; /* encoded entry */
    size_t len;
    struct id hash;
};

struct crdt_chain {
    struct allocator alloc;
    struct crdt_keys keys;
    enum crdt_chain_state state;
    struct id run;
    struct id owner;
    size_t count;                   /* entries in force */
    struct crdt_chain_link fork[2]; /* FROZEN: the two entries of index `count` */
    struct crdt_chain_link links[CRDT_CHAIN_MAX];
};

/* An empty chain of a run; entries are allocated one by one through alloc (a cap: CRDT_CHAIN_MAX of at most
 * CRDT_ENTRY_MAX bytes). */
void crdt_chain_init(struct crdt_chain *chain, const struct id *run, const struct allocator *alloc,
                     const struct crdt_keys *keys);
void crdt_chain_deinit(struct crdt_chain *chain);

/* Signs a genesis as keys->self and encodes it; *run is the new run's id.  Returns the length.  ERR_INVALID:
 * name empty, too long or not plain text; ERR_TOO_LARGE: config or out_cap. */
MUST_USE int crdt_chain_create(const struct crdt_keys *keys, const struct rng *rng, uint64_t wall_ms,
                               struct bytes name, struct bytes config, uint8_t *out, size_t out_cap,
                               struct id *run);
/* Signs the entry that would come next; kind and that kind's fields are taken from *entry.  It does not
 * append: store the bytes, then call crdt_chain_append.  Returns the length.  ERR_STATE: empty, closed or
 * frozen; ERR_PERMISSION: keys->self is not the owner; ERR_FULL; ERR_TOO_LARGE. */
MUST_USE int crdt_chain_sign(const struct crdt_chain *chain, const struct crdt_entry *entry, uint64_t wall_ms,
                             uint8_t *out, size_t out_cap);

/* Checks and appends one encoded entry; copies.  The chain is unchanged on error unless said otherwise.
 * ERR_STALE: held already (the usual answer to a repeat), or beyond a fork; ERR_AGAIN: entries before it are
 * missing, fetch them; ERR_EQUIVOCATION: a fork, the chain is now frozen at the last common entry (told once
 * for each lower fork); ERR_STATE: after a CLOSE; ERR_AUTH, ERR_MISMATCH (another run or predecessor),
 * ERR_TRUNCATED, ERR_MALFORMED, ERR_VERSION: drop it; ERR_FULL, ERR_NO_MEMORY. */
MUST_USE int crdt_chain_append(struct crdt_chain *chain, struct bytes encoded);

/* Structure of one entry; slices borrow from encoded.  Errors as above. */
MUST_USE int crdt_entry_decode(struct bytes encoded, struct crdt_entry *out);
void crdt_entry_hash(struct bytes encoded, struct id *out);

/* Encoded entry in force, borrowed until the next append.  index < count (asserted). */
struct bytes crdt_chain_entry(const struct crdt_chain *chain, size_t index);
/* Decoded genesis.  ERR_STATE: empty. */
MUST_USE int crdt_chain_genesis(const struct crdt_chain *chain, struct crdt_entry *out);
/* Settings in force at a round: of the last CONFIG with from_round <= round, else of the genesis.  ERR_STATE.
 */
MUST_USE int crdt_chain_config(const struct crdt_chain *chain, uint64_t round, struct bytes *config);
/* True when the newest ADMIT or REVOKE naming id is an ADMIT that has not expired at wall_ms; *bearer (may be
 * NULL) says what kind.  The owner is always admitted.  O(count). */
bool crdt_chain_admits(const struct crdt_chain *chain, const struct id *id, uint64_t wall_ms, bool *bearer);
/* Last round of a closed run, or UINT64_MAX. */
uint64_t crdt_chain_last_round(const struct crdt_chain *chain);

enum { CRDT_CHAIN_FRAME_ENTRIES = 64 }; /* of one frame */

/* A frame of entries for a peer that has the first `from` in force: {1: version, 2: run, 3: [entry bin ...]},
 * at most CRDT_FRAME_MAX bytes and CRDT_CHAIN_FRAME_ENTRIES entries; of a frozen chain the two of the fork
 * come last. *next is the `from` of the frame after it, SIZE_MAX after the last.  Returns the length, or 0:
 * nothing to send. ERR_TOO_LARGE: out_cap below one entry. */
MUST_USE int crdt_chain_frame_encode(const struct crdt_chain *chain, size_t from, uint8_t *out,
                                     size_t out_cap, size_t *next);
/* Entries of a frame, borrowed from it, at most CRDT_CHAIN_FRAME_ENTRIES; returns how many: append them in
 * order, ignoring ERR_STALE.  ERR_MALFORMED, ERR_VERSION, ERR_TOO_LARGE. */
MUST_USE int crdt_chain_frame_decode(struct bytes frame, struct id *run,
                                     struct bytes entries[CRDT_CHAIN_FRAME_ENTRIES]);

#endif
