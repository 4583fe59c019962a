/* Tokens: proof that the asker receives what is sent to its address, and the right to store there (BEP 5).
 * A token is SipHash-2-4 of (address, id) under a secret that is replaced every rotation; tokens of the
 * secret before still count, so one lives between one and two rotations.  Nothing is kept per asker. */
#ifndef DUNLIN_DHT_TOKEN_H
#define DUNLIN_DHT_TOKEN_H

#include "base/rng.h"
#include "dht/dht.h"

struct dht_tokens {
    uint8_t secrets[2][16]; /* current, previous */
    uint64_t rotate_ns;
    uint64_t due_ns; /* next rotation */
};

/* Draws both secrets. */
void dht_tokens_init(struct dht_tokens *t, const struct rng *rng, uint64_t rotate_ns, uint64_t now_ns);
/* Replaces secrets that are due; after a sleep longer than two rotations both are new. */
void dht_tokens_tick(struct dht_tokens *t, const struct rng *rng, uint64_t now_ns);
void dht_tokens_make(const struct dht_tokens *t, const struct dht_contact *asker,
                     uint8_t out[DHT_TOKEN_BYTES]);
/* True for a token made for this very asker under the current or the previous secret. */
bool dht_tokens_check(const struct dht_tokens *t, const struct dht_contact *asker,
                      const uint8_t token[DHT_TOKEN_BYTES]);

#endif
