/* Key pairs for tests: real Ed25519, or a fast stand-in where thousands of records are signed and the
 * signature is not the question. */
#ifndef DUNLIN_TESTS_CRDT_FIXTURE_H
#define DUNLIN_TESTS_CRDT_FIXTURE_H

#include <criterion/criterion.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/rng.h"
#include "crdt/replica.h"

/* Criterion itself leaks a few bytes in some runs.  Each test program is one file, so defining it here is
 * fine. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libcriterion";
}

#define WALL UINT64_C(1700000000000)
#define HOUR UINT64_C(3600000)

struct pair {
    uint8_t secret[64];
    struct crdt_keys keys;
};

static inline size_t labelled(uint8_t out[8192], const char *label, struct bytes message)
{
    size_t len = strlen(label);
    cr_assert_leq(len + message.len, 8192);
    memcpy(out, label, len);
    memcpy(out + len, message.data, message.len);
    return len + message.len;
}

static inline void real_sign(void *user, const char *label, struct bytes message, uint8_t signature[64])
{
    uint8_t text[8192];
    struct pair *p = user;
    crypto_sign_detached(signature, NULL, text, labelled(text, label, message), p->secret);
}

static inline int real_verify(void *user, const struct id *author, const char *label, struct bytes message,
                              const uint8_t signature[64])
{
    uint8_t text[8192];
    (void)user;
    return crypto_sign_verify_detached(signature, text, labelled(text, label, message), author->bytes) == 0
               ? ERR_OK
               : ERR_AUTH;
}

static inline void pair_make(struct pair *p, uint64_t seed)
{
    uint8_t bytes[32] = {0};
    cr_assert_geq(sodium_init(), 0);
    store_le64(bytes, seed);
    memset(p, 0, sizeof *p);
    crypto_sign_seed_keypair(p->keys.self.bytes, p->secret, bytes);
    p->keys.sign = real_sign;
    p->keys.verify = real_verify;
    p->keys.user = p;
}

/* The stand-in: a hash of author, label and message. */
static inline void fast_tag(const struct id *author, const char *label, struct bytes message,
                            uint8_t signature[64])
{
    struct bytes parts[2] = {bytes_of(author->bytes, ID_BYTES), message};
    struct id sum;
    hash_parts(label, parts, 2, &sum);
    memcpy(signature, sum.bytes, 32);
    memcpy(signature + 32, sum.bytes, 32);
}

static inline void fast_sign(void *user, const char *label, struct bytes message, uint8_t signature[64])
{
    struct pair *p = user;
    fast_tag(&p->keys.self, label, message, signature);
}

static inline int fast_verify(void *user, const struct id *author, const char *label, struct bytes message,
                              const uint8_t signature[64])
{
    uint8_t expected[64];
    (void)user;
    fast_tag(author, label, message, expected);
    return memcmp(expected, signature, 64) == 0 ? ERR_OK : ERR_AUTH;
}

static inline void fast_make(struct pair *p, uint64_t seed)
{
    memset(p, 0, sizeof *p);
    store_le64(p->keys.self.bytes, seed);
    p->keys.sign = fast_sign;
    p->keys.verify = fast_verify;
    p->keys.user = p;
}

static inline struct id run_of(uint8_t n)
{
    struct id run;
    memset(run.bytes, n, ID_BYTES);
    return run;
}

/* Signs a record of p; returns its length. */
static inline size_t record_make(const struct pair *p, const struct id *run, uint16_t slot, uint64_t seq,
                                 struct bytes value, uint64_t life_ms, uint8_t out[CRDT_RECORD_MAX])
{
    struct crdt_record r = {.key = {.run = *run, .author = p->keys.self, .slot = slot},
                            .schema = 1,
                            .seq = seq,
                            .issued_ms = WALL,
                            .expires_ms = WALL + life_ms,
                            .value = value};
    int len = crdt_record_sign(&r, &p->keys, out, CRDT_RECORD_MAX);
    cr_assert_gt(len, 0);
    return (size_t)len;
}

static inline struct rng test_rng(struct rng_seeded *stream, uint64_t seed)
{
    rng_seeded_init(stream, seed);
    return rng_of_seeded(stream);
}

/* Room of the replicas that replica_make makes; large tables cost time under the sanitizers. */
static size_t fixture_records = 4096;

static inline struct crdt_replica *replica_make(const struct pair *p, const struct allocator *alloc)
{
    static struct rng_seeded stream;
    struct crdt_replica_config config = crdt_replica_config_default();
    struct crdt_replica *replica;
    config.keys = p->keys;
    config.alloc = *alloc;
    config.rng = test_rng(&stream, 1);
    config.records_max = fixture_records;
    config.run_records_max = fixture_records;
    config.bytes_max = (size_t)64 << 20;
    config.run_bytes_max = (size_t)64 << 20;
    cr_assert_eq(crdt_replica_create(&config, &replica), ERR_OK);
    return replica;
}

static inline void drain(struct crdt_replica *r)
{
    struct crdt_event event;
    while (crdt_replica_poll_event(r, &event)) {
    }
}

#endif
