/* A reply counts once, from the peer and address that were asked, to the kind that was asked. */
#include <criterion/criterion.h>

#include "dht/pair.h"

static struct dht_query pool[16];
static struct dht_queries q;
static struct rng_seeded stream;
static struct rng rng;
static struct dht_contact peer;

static void setup(void)
{
    rng_seeded_init(&stream, 1);
    rng = rng_of_seeded(&stream);
    dht_queries_init(&q, pool, 16, 10, 50);
    peer = (struct dht_contact){pair_id(1), pair_addr(1, true)};
}

Test(dht_query, matches_peer_address_kind_and_id, .init = setup)
{
    struct dht_query *query = dht_queries_start(&q, &rng, 100, DHT_FIND, DHT_FOR_LOOKUP, 7, &peer);
    cr_assert_eq(q.due_ns, 110);
    cr_assert_eq(dht_queries_match(&q, DHT_NODES, query->request, &peer), query);
    cr_assert_null(dht_queries_match(&q, DHT_VALUES, query->request, &peer));
    cr_assert_null(dht_queries_match(&q, DHT_NODES, query->request ^ 0x100, &peer));
    cr_assert_null(dht_queries_match(&q, DHT_NODES, query->request ^ 0x80, &peer), "a slot past the pool");
    struct dht_contact other = peer;
    other.addr.port++;
    cr_assert_null(dht_queries_match(&q, DHT_NODES, query->request, &other), "wrong address");
    other = peer;
    other.id = pair_id(2);
    cr_assert_null(dht_queries_match(&q, DHT_NODES, query->request, &other), "wrong peer");
    uint32_t request = query->request;
    dht_queries_end(&q, query);
    cr_assert_null(dht_queries_match(&q, DHT_NODES, request, &peer), "a duplicate");
}

Test(dht_query, the_pool_is_bounded_and_due_times_are_right, .init = setup)
{
    for (size_t i = 0; i < 16; i++) {
        cr_assert_not_null(dht_queries_start(&q, &rng, 100, DHT_PING, DHT_FOR_TABLE, 0, &peer));
        cr_assert_eq(q.used, i + 1);
    }
    cr_assert_null(dht_queries_start(&q, &rng, 100, DHT_PING, DHT_FOR_TABLE, 0, &peer));
    cr_assert_eq(dht_queries_for(&q, DHT_FOR_TABLE), 16);
    cr_assert(dht_queries_asking(&q, &peer.id, DHT_FOR_TABLE));
    cr_assert_not(dht_queries_asking(&q, &peer.id, DHT_FOR_STORE));
    cr_assert_eq(dht_query_due_ns(&q, &pool[0]), 110);
    pool[0].resent = true;
    cr_assert_eq(dht_query_due_ns(&q, &pool[0]), 150);
    dht_queries_end(&q, &pool[5]);
    struct dht_query *again = dht_queries_start(&q, &rng, 100, DHT_PING, DHT_FOR_TABLE, 0, &peer);
    cr_assert_eq(again, &pool[5]);
}
