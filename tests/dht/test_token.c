/* A token counts for one asker, one address and at most two rotations. */
#include <criterion/criterion.h>
#include <string.h>

#include "dht/pair.h"

Test(dht_token, lives_one_to_two_rotations_and_is_bound_to_the_asker)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 1);
    struct rng rng = rng_of_seeded(&stream);
    struct dht_tokens t;
    dht_tokens_init(&t, &rng, 100, 1000);
    struct dht_contact asker = {pair_id(1), pair_addr(1, true)};
    uint8_t token[DHT_TOKEN_BYTES];
    dht_tokens_make(&t, &asker, token);
    cr_assert(dht_tokens_check(&t, &asker, token));
    struct dht_contact other = asker;
    other.id = pair_id(2);
    cr_assert_not(dht_tokens_check(&t, &other, token));
    other = asker;
    other.addr.port++;
    cr_assert_not(dht_tokens_check(&t, &other, token));
    for (int bit = 0; bit < 64; bit++) {
        token[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cr_assert_not(dht_tokens_check(&t, &asker, token));
        token[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    dht_tokens_tick(&t, &rng, 1099);
    dht_tokens_tick(&t, &rng, 1100); /* rotated once: the previous secret still counts */
    cr_assert(dht_tokens_check(&t, &asker, token));
    dht_tokens_tick(&t, &rng, 1200);
    cr_assert_not(dht_tokens_check(&t, &asker, token));
}

Test(dht_token, a_long_sleep_replaces_both_secrets)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 1);
    struct rng rng = rng_of_seeded(&stream);
    struct dht_tokens t;
    dht_tokens_init(&t, &rng, 100, 1000);
    struct dht_contact asker = {pair_id(1), pair_addr(1, true)};
    uint8_t token[DHT_TOKEN_BYTES];
    dht_tokens_make(&t, &asker, token);
    dht_tokens_tick(&t, &rng, 1000000);
    cr_assert_not(dht_tokens_check(&t, &asker, token));
    cr_assert_eq(t.due_ns, 1000100);
}
