/* Nobody gets more than the rate and a two-second burst, and one group cannot use up another's share. */
#include <criterion/criterion.h>

#include "dht/pair.h"

Test(dht_limit, rate_and_burst_per_group_and_in_all)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 1);
    struct rng rng = rng_of_seeded(&stream);
    static uint64_t groups[64];
    struct dht_limiter l;
    dht_limiter_init(&l, &rng, groups, 64, 100, 10);
    struct net_addr a = pair_addr(1, true);
    const uint64_t second = UINT64_C(1000000000);
    unsigned allowed = 0;
    for (uint64_t i = 0; i < 10000; i++) { /* 10 s of 1,000 a second, from the whole /24 */
        a.ip[3] = (uint8_t)i;
        allowed += dht_limiter_allow(&l, 5 * second + i * second / 1000, &a);
    }
    cr_assert_eq(allowed, 20 + 99, "burst of 20, then 10 a second; got %u", allowed);
    allowed = 0;
    for (unsigned i = 0; i < 10000; i++) {
        struct net_addr other = pair_addr(i, true);
        allowed += dht_limiter_allow(&l, 100 * second, &other);
    }
    cr_assert_eq(allowed, 200, "in all; got %u", allowed);
}

Test(dht_limit, nodes_of_one_machine_do_not_share_a_group)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 1);
    struct rng rng = rng_of_seeded(&stream);
    static uint64_t groups[4096];
    struct dht_limiter l;
    dht_limiter_init(&l, &rng, groups, 4096, 100000, 1);
    unsigned allowed = 0;
    for (unsigned i = 0; i < 40; i++) {
        struct net_addr a = pair_addr(i, false);
        allowed += dht_limiter_allow(&l, 5, &a);
    }
    cr_assert_geq(allowed, 35, "loopback ports are sources of their own; got %u", allowed);
}
