#include "dht/id.h"

#include "base/hash.h"

struct id dht_id_position(const struct id *id)
{
    struct id position;
    hash_content(bytes_of(id->bytes, ID_BYTES), &position);
    return position;
}

struct id dht_id_distance(const struct id *a, const struct id *b)
{
    struct id out;
    for (size_t i = 0; i < ID_BYTES; i++)
        out.bytes[i] = a->bytes[i] ^ b->bytes[i];
    return out;
}

unsigned dht_id_prefix(const struct id *a, const struct id *b)
{
    for (unsigned i = 0; i < ID_BYTES; i++) {
        unsigned difference = (unsigned)(a->bytes[i] ^ b->bytes[i]);
        if (difference != 0)
            return 8 * i + (unsigned)__builtin_clz(difference) - 24;
    }
    return DHT_ID_BITS;
}

int dht_id_nearer(const struct id *target, const struct id *a, const struct id *b)
{
    for (size_t i = 0; i < ID_BYTES; i++) {
        if (a->bytes[i] != b->bytes[i])
            return (a->bytes[i] ^ target->bytes[i]) < (b->bytes[i] ^ target->bytes[i]) ? -1 : 1;
    }
    return 0;
}

struct id dht_id_random_in(const struct rng *rng, const struct id *own, unsigned prefix)
{
    ASSERT(prefix < DHT_ID_BITS);
    struct id out;
    rng_fill(rng, out.bytes, ID_BYTES);
    size_t at = prefix / 8;
    for (size_t i = 0; i < at; i++)
        out.bytes[i] = own->bytes[i];
    uint8_t flip = (uint8_t)(0x80 >> prefix % 8);
    uint8_t below = (uint8_t)(flip - 1);
    out.bytes[at] = (uint8_t)(((own->bytes[at] ^ flip) & ~below) | (out.bytes[at] & below));
    ASSERT(dht_id_prefix(own, &out) == prefix);
    return out;
}
