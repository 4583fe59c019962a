/* Randomness as a value that is passed in: the system's in production, a seeded stream in tests and
 * simulation. Cores never draw randomness on their own (docs/ARCHITECTURE.md). */
#ifndef DUNLIN_BASE_RNG_H
#define DUNLIN_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

struct rng {
    void (*fill)(void *user, uint8_t *out, size_t len); /* fills all of out; cannot fail; may not call back */
    void *user;
};

/* Deterministic stream: ChaCha20 key stream (RFC 8439) of a 32-byte key, block counter from 0.
 * Not for secrets in production. */
struct rng_seeded {
    uint8_t key[32];
    uint64_t block;      /* next 64-byte block of the key stream */
    uint8_t pending[64]; /* current block */
    size_t pending_used; /* bytes of it handed out; 64: none left */
};

/* The operating system's generator (libsodium randombytes).  Call sodium_init() once before use. */
struct rng rng_system(void);
/* Starts the stream whose key is BLAKE2b-256 of the 8 seed bytes. */
void rng_seeded_init(struct rng_seeded *stream, uint64_t seed);
/* Starts the stream of this exact key. */
void rng_seeded_init_key(struct rng_seeded *stream, const uint8_t key[32]);
/* View of a seeded stream; borrows stream for as long as the view is used. */
struct rng rng_of_seeded(struct rng_seeded *stream);

/* Fills out with len random bytes. */
void rng_fill(const struct rng *rng, void *out, size_t len);
/* Uniform over all values of the type. */
uint32_t rng_u32(const struct rng *rng);
uint64_t rng_u64(const struct rng *rng);
/* Uniform in [0, bound), without modulo bias; bound > 0 (asserted). */
uint64_t rng_below(const struct rng *rng, uint64_t bound);

#endif
