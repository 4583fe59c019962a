/* A record is believed only when its owner signed it and it is alive; the store keeps its caps and chooses as
 * records.h says. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/pack.h"
#include "dht/id.h"
#include "dht/pair.h"

enum { NOW_MS = 1000000 };

static struct rng_seeded stream;
static struct dht_config config;
static struct id signer;
static struct dht_held held[128];
static struct dht_records store;
static struct id own;

static void setup(void)
{
    config = pair_config(&stream, 1);
    config.crypto_user = &signer;
    config.records_max = 40;
    config.records_per_key = 8;
    config.records_per_owner = 4;
    config.records_per_group = 6;
    own = dht_id_position(&config.id);
    dht_records_init(&store, &config, &own, held);
}

static struct dht_record provider(unsigned owner, unsigned key, uint64_t issued_ms)
{
    struct dht_record r;
    memset(&r, 0, sizeof r);
    r.type = DHT_RECORD_PROVIDER;
    r.key = pair_id(key);
    r.owner = pair_id(owner);
    r.issued_ms = issued_ms;
    r.expires_ms = issued_ms + 60000;
    r.addr_count = 1;
    r.addrs[0] = pair_addr(owner, true);
    return r;
}

static struct bytes encode(const struct dht_record *r, uint8_t out[DHT_RECORD_BYTES_MAX])
{
    signer = r->owner;
    return bytes_of(out, dht_record_encode(r, &config, out));
}

static int put(const struct dht_record *r, const struct net_addr *from)
{
    uint8_t bytes[DHT_RECORD_BYTES_MAX];
    struct bytes in = encode(r, bytes);
    int rc = dht_records_put(&store, r, in, from);
    dht_records_check(&store);
    return rc;
}

static int put_one(unsigned owner, unsigned key, uint64_t issued_ms)
{
    struct dht_record r = provider(owner, key, issued_ms);
    struct net_addr from = pair_addr(owner, true);
    return put(&r, &from);
}

Test(dht_records, the_largest_record_round_trips, .init = setup)
{
    struct dht_record r = provider(2, 3, NOW_MS), back;
    r.issued_ms = INT64_MAX - 1;
    r.expires_ms = INT64_MAX;
    r.addr_count = DHT_RECORD_ADDRS_MAX;
    for (size_t i = 0; i < r.addr_count; i++) {
        r.addrs[i].family = NET_FAMILY_V6;
        memset(r.addrs[i].ip, 0x20, 16);
        r.addrs[i].port = 9;
    }
    r.extra_len = DHT_RECORD_EXTRA_MAX;
    memset(r.extra, 5, r.extra_len);
    uint8_t bytes[DHT_RECORD_BYTES_MAX];
    struct bytes in = encode(&r, bytes);
    cr_assert_eq(dht_record_decode(in, &back), ERR_OK);
    cr_assert_eq(back.addr_count, 4);
    cr_assert(id_equal(&back.key, &r.key) && id_equal(&back.owner, &r.owner));
    cr_assert_eq(memcmp(back.extra, r.extra, r.extra_len), 0);
    cr_assert_eq(dht_record_verify(&back, in, &config), ERR_OK);
    for (size_t cut = 0; cut < in.len; cut++)
        cr_assert_eq(dht_record_decode(bytes_of(bytes, cut), &back), ERR_MALFORMED);
    uint8_t longer[DHT_RECORD_BYTES_MAX + 1] = {0};
    cr_assert_eq(dht_record_decode(bytes_of(longer, sizeof longer), &back), ERR_TOO_LARGE);
}

Test(dht_records, any_flipped_bit_is_noticed, .init = setup)
{
    struct dht_record r = provider(2, 3, NOW_MS), back;
    uint8_t bytes[DHT_RECORD_BYTES_MAX];
    struct bytes in = encode(&r, bytes);
    for (size_t bit = 0; bit < 8 * in.len; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        bool refused =
            dht_record_decode(in, &back) != ERR_OK || dht_record_verify(&back, in, &config) != ERR_OK;
        cr_assert(refused, "bit %zu", bit);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

Test(dht_records, a_peer_record_lies_at_the_position_of_its_owner, .init = setup)
{
    struct dht_record r = provider(2, 3, NOW_MS), back;
    r.type = DHT_RECORD_PEER;
    uint8_t bytes[DHT_RECORD_BYTES_MAX];
    struct bytes in = encode(&r, bytes);
    cr_assert_eq(dht_record_decode(in, &back), ERR_OK);
    struct id position = dht_id_position(&r.owner);
    cr_assert(id_equal(&back.key, &position), "whatever key its owner had in mind");
}

Test(dht_records, life_is_bounded_on_both_sides, .init = setup)
{
    struct dht_record r = provider(2, 3, NOW_MS);
    cr_assert_eq(dht_record_check_life(&r, NOW_MS), ERR_OK);
    cr_assert_eq(dht_record_check_life(&r, r.expires_ms - 1), ERR_OK);
    cr_assert_eq(dht_record_check_life(&r, r.expires_ms), ERR_EXPIRED);
    cr_assert_eq(dht_record_check_life(&r, NOW_MS - DHT_CLOCK_SKEW_MS), ERR_OK);
    cr_assert_eq(dht_record_check_life(&r, NOW_MS - DHT_CLOCK_SKEW_MS - 1), ERR_CLOCK);
    r.expires_ms = r.issued_ms + DHT_TTL_MAX_MS + 1;
    cr_assert_eq(dht_record_check_life(&r, NOW_MS), ERR_MALFORMED, "a far-future expiry buys nothing");
}

Test(dht_records, newest_wins_and_the_same_is_fine_twice, .init = setup)
{
    cr_assert_eq(put_one(2, 3, 100), ERR_OK);
    cr_assert_eq(put_one(2, 3, 100), ERR_OK);
    cr_assert_eq(put_one(2, 3, 200), ERR_OK);
    cr_assert_eq(put_one(2, 3, 150), ERR_STALE);
    struct dht_record other = provider(2, 3, 200);
    other.addr_count = 0;
    struct net_addr from = pair_addr(2, true);
    cr_assert_eq(put(&other, &from), ERR_STALE, "another of the same time");
    cr_assert_eq(store.count, 1);
}

Test(dht_records, quotas_per_owner_and_per_group, .init = setup)
{
    for (unsigned key = 0; key < 4; key++)
        cr_assert_eq(put_one(2, 100 + key, NOW_MS), ERR_OK);
    cr_assert_eq(put_one(2, 104, NOW_MS), ERR_QUOTA);
    cr_assert_eq(put_one(2, 103, NOW_MS + 1), ERR_OK, "a renewal is within it");
    unsigned taken = 0;
    for (unsigned owner = 10; owner < 20; owner++) {
        struct dht_record r = provider(owner, 200 + owner, NOW_MS);
        struct net_addr from = pair_addr(77, true);
        from.ip[3] = (uint8_t)owner;
        taken += put(&r, &from) == ERR_OK;
    }
    cr_assert_eq(taken, 6);
    taken = 0;
    for (unsigned owner = 20; owner < 30; owner++) {
        struct dht_record r = provider(owner, 200 + owner, NOW_MS);
        struct net_addr from = pair_addr(owner, false);
        taken += put(&r, &from) == ERR_OK;
    }
    cr_assert_eq(taken, 10, "a LAN is exempt");
}

Test(dht_records, a_popular_key_keeps_the_lowest_ranks_whatever_the_order, .init = setup)
{
    for (unsigned owner = 10; owner < 60; owner++)
        (void)put_one(owner, 5, NOW_MS);
    cr_assert_eq(store.count, 8);
    unsigned kept[128] = {0};
    for (unsigned owner = 10; owner < 60; owner++) {
        struct id id = pair_id(owner);
        for (size_t i = 0; i < store.end; i++)
            kept[owner] |= held[i].used && id_equal(&held[i].owner, &id);
    }
    uint8_t secret[16];
    memcpy(secret, store.secret, sizeof secret);
    dht_records_init(&store, &config, &own, held);
    memcpy(store.secret, secret, sizeof secret);
    for (int round = 0; round < 3; round++) { /* reversed, and asking again and again */
        for (unsigned owner = 59; owner >= 10; owner--)
            (void)put_one(owner, 5, (uint64_t)(NOW_MS + round));
    }
    for (unsigned owner = 10; owner < 60; owner++) {
        struct id id = pair_id(owner);
        unsigned again = 0;
        for (size_t i = 0; i < store.end; i++)
            again |= held[i].used && id_equal(&held[i].owner, &id);
        cr_assert_eq(again, kept[owner]);
    }
}

Test(dht_records, a_full_store_keeps_what_is_near, .init = setup)
{
    for (unsigned i = 0; i < 300; i++) {
        int rc = put_one(1000 + i, 2000 + i, NOW_MS);
        cr_assert(rc == ERR_OK || (i >= 40 && rc == ERR_FULL));
    }
    cr_assert_eq(store.count, 40);
    unsigned farther_kept = 0;
    unsigned nearer_lost = 0;
    struct id worst = held[0].key;
    for (size_t i = 0; i < 40; i++) {
        if (dht_id_nearer(&own, &worst, &held[i].key) < 0)
            worst = held[i].key;
    }
    for (unsigned i = 0; i < 300; i++) {
        struct id key = pair_id(2000 + i);
        bool in = false;
        for (size_t j = 0; j < 40; j++)
            in |= id_equal(&held[j].key, &key);
        nearer_lost += !in && dht_id_nearer(&own, &key, &worst) < 0;
        farther_kept += in && dht_id_nearer(&own, &worst, &key) < 0;
    }
    cr_assert_eq(nearer_lost, 0);
    cr_assert_eq(farther_kept, 0);
}

Test(dht_records, expiry_frees_places_and_sampling_is_fair, .init = setup)
{
    for (unsigned owner = 10; owner < 18; owner++)
        cr_assert_eq(put_one(owner, 5, NOW_MS + owner), ERR_OK);
    struct id key = pair_id(5);
    const struct dht_held *out[8];
    unsigned drawn[128] = {0};
    for (int i = 0; i < 4000; i++) {
        size_t n = dht_records_sample(&store, &config.rng, NOW_MS, &key, DHT_RECORD_PROVIDER, out, 2);
        cr_assert_eq(n, 2);
        cr_assert_neq(out[0], out[1]);
        drawn[out[0] - held]++;
        drawn[out[1] - held]++;
    }
    for (size_t i = 0; i < 8; i++)
        cr_assert(drawn[i] > 850 && drawn[i] < 1150, "%zu drawn %u times of 1000", i, drawn[i]);
    cr_assert_eq(dht_records_sample(&store, &config.rng, NOW_MS, &key, DHT_RECORD_PEER, out, 8), 0);
    cr_assert_eq(
        dht_records_sample(&store, &config.rng, NOW_MS + 60000 + 13, &key, DHT_RECORD_PROVIDER, out, 8), 4);
    dht_records_expire(&store, NOW_MS + 60000 + 13);
    dht_records_check(&store);
    cr_assert_eq(store.count, 4);
    dht_records_expire(&store, NOW_MS + 200000);
    cr_assert_eq(store.count, 0);
    cr_assert_eq(store.end, 0);
}
