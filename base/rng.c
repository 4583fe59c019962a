#include "base/rng.h"

#include <sodium.h>
#include <string.h>

#include "base/bytes.h"
#include "base/err.h"

static void fill_system(void *user, uint8_t *out, size_t len)
{
    (void)user;
    randombytes_buf(out, len);
}

struct rng rng_system(void)
{
    return (struct rng){.fill = fill_system, .user = NULL};
}

void rng_seeded_init(struct rng_seeded *stream, uint64_t seed)
{
    uint8_t text[8];
    uint8_t key[32];
    store_le64(text, seed);
    crypto_generichash(key, sizeof key, text, sizeof text, NULL, 0);
    rng_seeded_init_key(stream, key);
}

void rng_seeded_init_key(struct rng_seeded *stream, const uint8_t key[32])
{
    memcpy(stream->key, key, 32);
    stream->block = 0;
    stream->pending_used = sizeof stream->pending;
}

static void fill_seeded(void *user, uint8_t *out, size_t len)
{
    static const uint8_t nonce[crypto_stream_chacha20_NONCEBYTES] = {0};
    struct rng_seeded *stream = user;
    while (len > 0) {
        if (stream->pending_used == sizeof stream->pending) {
            memset(stream->pending, 0, sizeof stream->pending);
            crypto_stream_chacha20_xor_ic(stream->pending, stream->pending, sizeof stream->pending, nonce,
                                          stream->block, stream->key);
            stream->block++;
            stream->pending_used = 0;
        }
        size_t take = sizeof stream->pending - stream->pending_used;
        if (take > len)
            take = len;
        memcpy(out, stream->pending + stream->pending_used, take);
        stream->pending_used += take;
        out += take;
        len -= take;
    }
}

struct rng rng_of_seeded(struct rng_seeded *stream)
{
    return (struct rng){.fill = fill_seeded, .user = stream};
}

void rng_fill(const struct rng *rng, void *out, size_t len)
{
    rng->fill(rng->user, out, len);
}

uint32_t rng_u32(const struct rng *rng)
{
    uint8_t raw[4];
    rng_fill(rng, raw, sizeof raw);
    return load_le32(raw);
}

uint64_t rng_u64(const struct rng *rng)
{
    uint8_t raw[8];
    rng_fill(rng, raw, sizeof raw);
    return load_le64(raw);
}

uint64_t rng_below(const struct rng *rng, uint64_t bound)
{
    ASSERT(bound > 0);
    uint64_t floor = -bound % bound; /* values below this would make the low residues likelier */
    uint64_t value = rng_u64(rng);
    while (value < floor)
        value = rng_u64(rng);
    return value % bound;
}
