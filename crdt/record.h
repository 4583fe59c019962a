/* Signed single-writer register: the unit of replicated state.
 *
 * A register is named by (run, author, slot); only its author can write it, by signing a record with a higher
 * seq. Two records of one register merge by taking the greater (seq, hash): commutative, associative and
 * idempotent, so replicas agree whatever the order of arrival.  Every record carries an expiry and there are
 * no tombstones; an honest author never issues a new version that expires before an older one
 * (crdt_replica_put sees to that), so a replay of an old version cannot outlive the new one.
 *
 * Canonical encoding, big-endian, signed as a whole except for the signature itself:
 *
 *     0 format u8 = 1 | 1 run [32] | 33 author [32] | 65 slot u16 | 67 schema u16 | 69 seq u64 |
 *     77 issued_ms u64 | 85 expires_ms u64 | 93 value_len u16 | 95 value | signature [64]
 *
 * The record's hash covers the signed bytes without the signature: signing the same content twice is no
 * equivocation.  Pure functions, no state. */
#ifndef DUNLIN_CRDT_RECORD_H
#define DUNLIN_CRDT_RECORD_H

#include "base/bytes.h"
#include "base/err.h"
#include "base/id.h"

enum {
    CRDT_SIGNATURE_BYTES = 64,
    CRDT_VALUE_MAX = 4096,
    CRDT_RECORD_HEAD_BYTES = 95,
    CRDT_RECORD_MIN = CRDT_RECORD_HEAD_BYTES + CRDT_SIGNATURE_BYTES,
    CRDT_RECORD_MAX = CRDT_RECORD_MIN + CRDT_VALUE_MAX,
    CRDT_KEY_BYTES = 66,                  /* run, author, slot */
    CRDT_CLOCK_SKEW_MS = 2 * 3600 * 1000, /* issued further in the future than this is refused */
};
#define CRDT_LIFE_MAX_MS  (UINT64_C(30) * 24 * 3600 * 1000) /* from issued to expires */
#define CRDT_RECORD_LABEL "dunlin record 1"

/* Slots with a meaning; what a value holds is its writer's and reader's business (node/). */
enum crdt_slot {
    CRDT_SLOT_MEMBER = 1,   /* "I am in this run": addresses, capacity */
    CRDT_SLOT_PROGRESS = 2, /* round, tokens, loss, digest */
    CRDT_SLOT_CHECKPOINT = 3,
    CRDT_SLOT_USER = 256, /* first of those for `dunlin state put` */
};

/* Signing and checking, injected because keys live elsewhere.  Leaf functions: they may not call back. */
struct crdt_keys {
    struct id self; /* whose records sign() signs */
    /* Signs label || message as self; cannot fail. */
    void (*sign)(void *user, const char *label, struct bytes message,
                 uint8_t signature[CRDT_SIGNATURE_BYTES]);
    /* 0, or ERR_AUTH when the signature is not by author over label || message. */
    int (*verify)(void *user, const struct id *author, const char *label, struct bytes message,
                  const uint8_t signature[CRDT_SIGNATURE_BYTES]);
    void *user;
};

struct crdt_key {
    struct id run;
    struct id author;
    uint16_t slot;
};

struct crdt_record {
    struct crdt_key key;
    uint16_t schema;     /* what the value is; meaning belongs to the slot */
    uint64_t seq;        /* at least 1 */
    uint64_t issued_ms;  /* Unix time */
    uint64_t expires_ms; /* Unix time; issued_ms < expires_ms <= issued_ms + CRDT_LIFE_MAX_MS */
    struct bytes value;  /* borrowed */
    uint8_t signature[CRDT_SIGNATURE_BYTES];
};

/* True when both name the same register. */
bool crdt_key_equal(const struct crdt_key *a, const struct crdt_key *b);
/* run || author || slot, big-endian. */
void crdt_key_encode(const struct crdt_key *key, uint8_t out[CRDT_KEY_BYTES]);

/* Signs as keys->self (must be the record's author, asserted), fills in the signature and encodes.  Returns
 * the length.  ERR_TOO_LARGE: value or out_cap; ERR_INVALID: seq 0, or times out of relation. */
MUST_USE int crdt_record_sign(struct crdt_record *record, const struct crdt_keys *keys, uint8_t *out,
                              size_t out_cap);
/* Structure only: no signature, no clock.  value borrows from encoded.  ERR_TRUNCATED, ERR_MALFORMED,
 * ERR_VERSION (format), ERR_TOO_LARGE: drop it. */
MUST_USE int crdt_record_decode(struct bytes encoded, struct crdt_record *out);
/* ERR_AUTH: not signed by its author.  encoded must have passed crdt_record_decode.  About 51 us. */
MUST_USE int crdt_record_verify(struct bytes encoded, const struct crdt_keys *keys);
/* ERR_EXPIRED, or ERR_CLOCK: issued more than CRDT_CLOCK_SKEW_MS after wall_ms. */
MUST_USE int crdt_record_check_time(const struct crdt_record *record, uint64_t wall_ms);
/* Hash of the signed bytes of an encoding that passed crdt_record_decode. */
void crdt_record_hash(struct bytes encoded, struct id *out);
/* Order of merging: negative, zero or positive as a is older, equal or newer. */
int crdt_version_compare(uint64_t seq_a, const struct id *hash_a, uint64_t seq_b, const struct id *hash_b);

#endif
