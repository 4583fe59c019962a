/* Only who answered enters, only the doubtful leave, groups stay small; 10,000 random operations keep the
 * table equal to a naive model of it. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "dht/id.h"
#include "dht/pair.h"

static const uint64_t good = UINT64_C(900000000000);
static struct dht_bucket buckets[24];
static struct dht_table table;

static void setup(void)
{
    struct id own = pair_id(0);
    dht_table_init(&table, &own, buckets, 24, good);
}

static struct dht_contact contact(unsigned number, bool global)
{
    return (struct dht_contact){.id = pair_id(number), .addr = pair_addr(number, global)};
}

/* The n-th id whose position lies in this bucket. */
static unsigned in_bucket(unsigned bucket, unsigned n)
{
    for (unsigned number = 1;; number++) {
        struct id id = pair_id(number);
        struct id position = dht_id_position(&id);
        if (dht_table_bucket_of(&table, &position) == bucket && n-- == 0)
            return number;
    }
}

Test(dht_table, own_id_and_bad_addresses_are_refused, .init = setup)
{
    struct dht_contact own = contact(0, false);
    cr_assert_eq(dht_table_answered(&table, 1, &own, 0, NULL), DHT_INSERT_REFUSED);
    struct dht_contact nowhere = contact(1, false);
    nowhere.addr.port = 0;
    cr_assert_eq(dht_table_answered(&table, 1, &nowhere, 0, NULL), DHT_INSERT_REFUSED);
    cr_assert_not(dht_table_wants(&table, &own));
    cr_assert_not(dht_table_wants(&table, &nowhere));
    cr_assert_eq(table.total, 0);
}

Test(dht_table, full_bucket_caches_and_evicts_only_doubtful, .init = setup)
{
    for (unsigned i = 0; i < DHT_K; i++) {
        struct dht_contact c = contact(in_bucket(0, i), false);
        cr_assert_eq(dht_table_answered(&table, 10, &c, 5, NULL), DHT_INSERT_ADDED);
    }
    for (unsigned i = 0; i < DHT_CACHE + 1; i++) { /* one past the cache: the oldest makes room */
        struct dht_contact c = contact(in_bucket(0, DHT_K + i), false);
        cr_assert_not(dht_table_wants(&table, &c));
        cr_assert_eq(dht_table_answered(&table, 10 + i, &c, 5, NULL), DHT_INSERT_CACHED);
    }
    cr_assert_eq(buckets[0].cached, DHT_CACHE);
    struct dht_contact victim_contact = contact(in_bucket(0, 3), false), elsewhere = victim_contact;
    struct id victim = victim_contact.id;
    elsewhere.addr.port++;
    for (int i = 0; i < 20; i++)
        cr_assert_not(dht_table_failed(&table, 20, &elsewhere, true), "named at a false address by a liar");
    cr_assert_null(dht_table_doubtful(&table, 20, 0, 20));
    cr_assert_not(dht_table_failed(&table, 20, &victim_contact, true),
                  "good: the first failure only makes it doubtful");
    cr_assert(id_equal(&dht_table_doubtful(&table, 20, 0, 20)->contact.id, &victim));
    cr_assert_not(dht_table_failed(&table, 21, &victim_contact, false), "our own line may be dead");
    cr_assert(dht_table_failed(&table, 22, &victim_contact, true));
    cr_assert_null(dht_table_get(&table, &victim, true));
    struct id newest = pair_id(in_bucket(0, DHT_K + DHT_CACHE));
    cr_assert_not_null(dht_table_get(&table, &newest, false), "the newest cached one took the place");
    cr_assert_eq(table.total, DHT_K);
    dht_table_check(&table);
}

Test(dht_table, even_without_a_live_line_nobody_stays_for_ever, .init = setup)
{
    struct dht_contact c = contact(7, false);
    cr_assert_eq(dht_table_answered(&table, 10, &c, 5, NULL), DHT_INSERT_ADDED);
    for (int i = 1; i < DHT_FAILS_MAX; i++)
        cr_assert_not(dht_table_failed(&table, 20, &c, false));
    cr_assert(dht_table_failed(&table, 20, &c, false));
    cr_assert_eq(table.total, 0);
    cr_assert_not(dht_table_failed(&table, 20, &c, true), "unknown");
}

Test(dht_table, an_answer_clears_doubt_and_silence_brings_it, .init = setup)
{
    struct dht_contact c = contact(7, false);
    cr_assert_eq(dht_table_answered(&table, 10, &c, 5, NULL), DHT_INSERT_ADDED);
    (void)dht_table_failed(&table, 20, &c, true);
    cr_assert_not(dht_table_is_good(&table, dht_table_get(&table, &c.id, false), 20));
    cr_assert_eq(dht_table_answered(&table, 30, &c, 6, NULL), DHT_INSERT_KNOWN);
    cr_assert(dht_table_is_good(&table, dht_table_get(&table, &c.id, false), 30));
    cr_assert(dht_table_is_good(&table, dht_table_get(&table, &c.id, false), 30 + good - 1));
    cr_assert_not(dht_table_is_good(&table, dht_table_get(&table, &c.id, false), 30 + good));
}

Test(dht_table, group_caps_hold_for_global_addresses_only, .init = setup)
{
    unsigned entered = 0;
    for (unsigned i = 0; i < 40; i++) {
        struct dht_contact c = contact(i + 1, true);
        c.addr.ip[0] = 20, c.addr.ip[1] = 1, c.addr.ip[2] = 2, c.addr.ip[3] = (uint8_t)(i + 1);
        entered += dht_table_answered(&table, 10, &c, 5, NULL) == DHT_INSERT_ADDED;
        dht_table_check(&table);
    }
    cr_assert_eq(entered, DHT_GROUP_TABLE_MAX);
    setup();
    entered = 0;
    for (unsigned i = 0; i < 5; i++) { /* one bucket: two */
        struct dht_contact c = contact(in_bucket(1, i), true);
        c.addr.ip[0] = 20, c.addr.ip[1] = 1, c.addr.ip[2] = 2;
        entered += dht_table_answered(&table, 10, &c, 5, NULL) == DHT_INSERT_ADDED;
    }
    cr_assert_eq(entered, DHT_GROUP_BUCKET_MAX);
    setup();
    entered = 0;
    for (unsigned i = 1; i <= 20; i++) {
        struct dht_contact c = contact(i, false);
        entered += dht_table_answered(&table, 10, &c, 5, NULL) == DHT_INSERT_ADDED;
    }
    cr_assert_eq(entered, 20);
}

Test(dht_table, a_contact_cannot_move_into_a_full_group, .init = setup)
{
    struct dht_contact c[4];
    for (unsigned i = 0; i < 4; i++) {
        c[i] = contact(in_bucket(i % 3, i), true);
        c[i].addr.ip[0] = 20, c[i].addr.ip[1] = 1, c[i].addr.ip[2] = i == 3 ? 9 : 2;
        cr_assert_eq(dht_table_answered(&table, 10, &c[i], 5, NULL), DHT_INSERT_ADDED);
    }
    c[3].addr.ip[2] = 2;
    cr_assert_eq(dht_table_answered(&table, 11, &c[3], 5, NULL), DHT_INSERT_REFUSED);
    cr_assert_null(dht_table_get(&table, &c[3].id, true));
    c[0].addr.port = 99; /* within its own group it may move */
    cr_assert_eq(dht_table_answered(&table, 11, &c[0], 5, NULL), DHT_INSERT_KNOWN);
    dht_table_check(&table);
}

struct model {
    unsigned number;
    bool in;
    uint64_t answered_ns;
    unsigned fails;
};

static const struct id *sort_target;
static int by_distance(const void *a, const void *b)
{
    const struct model *x = a, *y = b;
    struct id xi = pair_id(x->number), yi = pair_id(y->number);
    struct id xp = dht_id_position(&xi), yp = dht_id_position(&yi);
    return dht_id_nearer(sort_target, &xp, &yp);
}

static void compare_closest(const struct model *models, size_t count, uint64_t now_ns,
                            const struct id *target)
{
    struct model sorted[64];
    size_t live = 0;
    for (size_t i = 0; i < count; i++) {
        if (models[i].in && models[i].fails == 0 && now_ns - models[i].answered_ns < good)
            sorted[live++] = models[i];
    }
    sort_target = target;
    qsort(sorted, live, sizeof sorted[0], by_distance);
    const struct dht_entry *near[DHT_K];
    size_t got = dht_table_closest(&table, now_ns, target, true, NULL, NET_SCOPE_LOOPBACK, near, DHT_K);
    cr_assert_eq(got, live < DHT_K ? live : DHT_K);
    for (size_t i = 0; i < got; i++) {
        struct id id = pair_id(sorted[i].number);
        cr_assert(id_equal(&near[i]->contact.id, &id));
    }
}

/* With 64 numbers the far buckets overflow, so a number that the table caches is not `in` until it is
 * entered. */
Test(dht_table, ten_thousand_random_operations, .init = setup)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 3);
    struct rng rng = rng_of_seeded(&stream);
    struct model models[64];
    memset(models, 0, sizeof models);
    for (unsigned i = 0; i < 64; i++)
        models[i].number = i + 1;
    uint64_t now_ns = 1;
    for (int step = 0; step < 10000; step++) {
        now_ns += rng_below(&rng, good / 20);
        struct model *m = &models[rng_below(&rng, 64)];
        struct dht_contact c = contact(m->number, false);
        if (rng_below(&rng, 3) != 0) {
            enum dht_insert result = dht_table_answered(&table, now_ns, &c, 1, NULL);
            cr_assert_eq(result == DHT_INSERT_KNOWN, m->in);
            cr_assert_neq(result, DHT_INSERT_REFUSED);
            if (result != DHT_INSERT_CACHED)
                *m = (struct model){.number = m->number, .in = true, .answered_ns = now_ns};
        } else {
            bool doubtful = m->fails > 0 || now_ns - m->answered_ns >= good;
            bool expected = m->in && doubtful;
            cr_assert_eq(dht_table_failed(&table, now_ns, &c, true), expected);
            m->fails++;
            if (expected)
                m->in = false;
        }
        for (size_t i = 0; i < 64; i++) { /* whoever came in from the cache */
            struct id id = pair_id(models[i].number);
            const struct dht_entry *e = dht_table_get(&table, &id, false);
            if (e != NULL && !models[i].in)
                models[i] =
                    (struct model){.number = models[i].number, .in = true, .answered_ns = e->answered_ns};
            cr_assert_eq(e != NULL, models[i].in);
        }
        dht_table_check(&table);
        struct id target;
        rng_fill(&rng, target.bytes, ID_BYTES);
        if (step % 10 == 0)
            compare_closest(models, 64, now_ns, &target);
    }
}

Test(dht_table, closest_leaves_out_asker_and_narrow_scopes, .init = setup)
{
    struct dht_contact local = contact(1, false), global = contact(2, true);
    (void)dht_table_answered(&table, 10, &local, 5, NULL);
    (void)dht_table_answered(&table, 10, &global, 5, NULL);
    const struct dht_entry *near[4];
    struct id target = pair_id(9);
    cr_assert_eq(dht_table_closest(&table, 10, &target, true, NULL, NET_SCOPE_LOOPBACK, near, 4), 2);
    cr_assert_eq(dht_table_closest(&table, 10, &target, true, &local.id, NET_SCOPE_LOOPBACK, near, 4), 1);
    cr_assert_eq(dht_table_closest(&table, 10, &target, true, NULL, NET_SCOPE_GLOBAL, near, 4), 1);
    cr_assert(id_equal(&near[0]->contact.id, &global.id), "a LAN address is never told to the internet");
    dht_table_remove(&table, &global.id);
    dht_table_remove(&table, &global.id);
    cr_assert_eq(table.total, 1);
}
