#include "dht/token.h"

#include <assert.h>
#include <sodium.h>
#include <string.h>

static_assert(DHT_TOKEN_BYTES == crypto_shorthash_BYTES, "a token is one SipHash");
static_assert(sizeof((struct dht_tokens *)0)->secrets[0] == crypto_shorthash_KEYBYTES, "SipHash key");

void dht_tokens_init(struct dht_tokens *t, const struct rng *rng, uint64_t rotate_ns, uint64_t now_ns)
{
    rng_fill(rng, t->secrets, sizeof t->secrets);
    t->rotate_ns = rotate_ns;
    t->due_ns = now_ns + rotate_ns;
}

void dht_tokens_tick(struct dht_tokens *t, const struct rng *rng, uint64_t now_ns)
{
    for (int i = 0; i < 2 && now_ns >= t->due_ns; i++) {
        memcpy(t->secrets[1], t->secrets[0], sizeof t->secrets[0]);
        rng_fill(rng, t->secrets[0], sizeof t->secrets[0]);
        t->due_ns += t->rotate_ns;
    }
    if (now_ns >= t->due_ns)
        t->due_ns = now_ns + t->rotate_ns;
}

static void make_under(const uint8_t secret[16], const struct dht_contact *asker,
                       uint8_t out[DHT_TOKEN_BYTES])
{
    uint8_t text[ID_BYTES + NET_ADDR_WIRE_MAX];
    memcpy(text, asker->id.bytes, ID_BYTES);
    size_t len = ID_BYTES + net_addr_encode(&asker->addr, text + ID_BYTES);
    crypto_shorthash(out, text, len, secret);
}

void dht_tokens_make(const struct dht_tokens *t, const struct dht_contact *asker,
                     uint8_t out[DHT_TOKEN_BYTES])
{
    make_under(t->secrets[0], asker, out);
}

bool dht_tokens_check(const struct dht_tokens *t, const struct dht_contact *asker,
                      const uint8_t token[DHT_TOKEN_BYTES])
{
    bool good = false;
    for (int i = 0; i < 2; i++) {
        uint8_t expected[DHT_TOKEN_BYTES];
        make_under(t->secrets[i], asker, expected);
        good |= sodium_memcmp(expected, token, DHT_TOKEN_BYTES) == 0;
    }
    return good;
}
