/* The distance is a metric and the prefix counts exactly the shared bits. */
#include <criterion/criterion.h>
#include <string.h>

#include "dht/id.h"

static struct id random_id(const struct rng *rng)
{
    struct id id;
    rng_fill(rng, id.bytes, ID_BYTES);
    return id;
}

Test(dht_id, distance_is_a_metric)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 1);
    struct rng rng = rng_of_seeded(&stream);
    for (int i = 0; i < 1000; i++) {
        struct id a = random_id(&rng), b = random_id(&rng), c = random_id(&rng);
        struct id ab = dht_id_distance(&a, &b), ba = dht_id_distance(&b, &a), aa = dht_id_distance(&a, &a);
        cr_assert(id_equal(&ab, &ba));
        cr_assert(id_is_zero(&aa));
        struct id ac = dht_id_distance(&a, &c), bc = dht_id_distance(&b, &c);
        struct id sum = dht_id_distance(&ab, &bc); /* d(a,b) xor d(b,c) = d(a,c) <= d(a,b) + d(b,c) */
        cr_assert(id_equal(&sum, &ac));
        int nearer = dht_id_nearer(&c, &a, &b);
        cr_assert_eq(nearer < 0, id_compare(&ac, &bc) < 0);
        cr_assert_eq(dht_id_nearer(&c, &b, &a), -nearer);
        cr_assert_eq(dht_id_nearer(&c, &a, &a), 0);
    }
}

Test(dht_id, prefix_at_every_bit)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 2);
    struct rng rng = rng_of_seeded(&stream);
    for (unsigned bit = 0; bit < DHT_ID_BITS; bit++) {
        struct id a = random_id(&rng);
        struct id b = a;
        b.bytes[bit / 8] ^= (uint8_t)(0x80 >> bit % 8);
        cr_assert_eq(dht_id_prefix(&a, &b), bit);
        struct id inside = dht_id_random_in(&rng, &a, bit);
        cr_assert_eq(dht_id_prefix(&a, &inside), bit);
    }
    struct id a = random_id(&rng);
    cr_assert_eq(dht_id_prefix(&a, &a), DHT_ID_BITS);
}
