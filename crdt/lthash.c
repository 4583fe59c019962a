#include "crdt/lthash.h"

#include <sodium.h>

#include "base/hash.h"

enum { EXPANDED = 2 * CRDT_LTHASH_LANES };

static void expand(const struct id *element, uint8_t out[EXPANDED])
{
    static const uint8_t nonce[crypto_stream_chacha20_NONCEBYTES];
    crypto_stream_chacha20(out, EXPANDED, nonce, element->bytes);
}

void crdt_lthash_add(struct crdt_lthash *sum, const struct id *element)
{
    uint8_t expanded[EXPANDED];
    expand(element, expanded);
    for (size_t i = 0; i < CRDT_LTHASH_LANES; i++)
        sum->lanes[i] = (uint16_t)(sum->lanes[i] + load_le16(expanded + 2 * i));
}

void crdt_lthash_remove(struct crdt_lthash *sum, const struct id *element)
{
    uint8_t expanded[EXPANDED];
    expand(element, expanded);
    for (size_t i = 0; i < CRDT_LTHASH_LANES; i++)
        sum->lanes[i] = (uint16_t)(sum->lanes[i] - load_le16(expanded + 2 * i));
}

void crdt_lthash_digest(const struct crdt_lthash *sum, uint64_t count, struct id *out)
{
    uint8_t bytes[8 + EXPANDED];
    struct writer w = writer_of(bytes, 8);
    write_u64(&w, count);
    for (size_t i = 0; i < CRDT_LTHASH_LANES; i++)
        store_le16(bytes + 8 + 2 * i, sum->lanes[i]);
    struct bytes part = bytes_of(bytes, sizeof bytes);
    hash_parts("dunlin set", &part, 1, out);
}
