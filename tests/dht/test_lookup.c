/* The shortlist stays sorted and bounded, a lookup ends exactly when its nearest live candidates have
 * answered, and a liar cannot fill it. */
#include <criterion/criterion.h>
#include <string.h>

#include "dht/id.h"
#include "dht/pair.h"

static struct dht_lookup l;
static struct id target;

static void setup(void)
{
    target = pair_id(100000);
    dht_lookup_init(&l, DHT_LOOKUP_NODE, &target, 1, 2);
}

static struct dht_contact contact(unsigned number)
{
    return (struct dht_contact){.id = pair_id(number), .addr = pair_addr(number, true)};
}

static bool offer(unsigned number, const struct id *introducer)
{
    struct dht_contact c = contact(number);
    bool taken = dht_lookup_offer(&l, &c, introducer, 1);
    dht_lookup_check(&l);
    return taken;
}

static void answer(struct dht_candidate *c)
{
    struct id id = c->contact.id;
    dht_lookup_asked(&l, c);
    cr_assert_not_null(dht_lookup_answered(&l, &id, NULL));
    dht_lookup_check(&l);
}

Test(dht_lookup, asks_alpha_at_a_time_nearest_first_and_ends, .init = setup)
{
    for (unsigned i = 0; i < 40; i++)
        cr_assert(offer(i, NULL));
    cr_assert_not(offer(3, NULL), "known");
    struct id previous = target;
    for (int i = 0; i < DHT_ALPHA; i++) {
        struct dht_candidate *c = dht_lookup_next(&l);
        cr_assert_not_null(c);
        if (i > 0)
            cr_assert(dht_id_nearer(&target, &previous, &c->position) < 0);
        previous = c->position;
        dht_lookup_asked(&l, c);
    }
    cr_assert_null(dht_lookup_next(&l), "alpha in flight");
    struct id first = l.list[0].contact.id;
    dht_lookup_slow(&l, &first);
    cr_assert_not_null(dht_lookup_next(&l), "a slow one holds nobody up");
    cr_assert_not(dht_lookup_settled(&l));
    for (size_t i = 0; i < l.count; i++) {
        if (l.list[i].state == DHT_CANDIDATE_ASKED || l.list[i].state == DHT_CANDIDATE_SLOW) {
            struct id id = l.list[i].contact.id;
            cr_assert_not_null(dht_lookup_answered(&l, &id, NULL));
            cr_assert_null(dht_lookup_answered(&l, &id, NULL), "twice");
        }
    }
    size_t asked = DHT_ALPHA;
    for (struct dht_candidate *c = dht_lookup_next(&l); c != NULL; c = dht_lookup_next(&l), asked++)
        answer(c);
    cr_assert(dht_lookup_settled(&l));
    cr_assert_eq(asked, DHT_K, "the twenty nearest and nobody else");
}

Test(dht_lookup, the_dead_are_replaced_and_not_taken_again, .init = setup)
{
    for (unsigned i = 0; i < 30; i++)
        cr_assert(offer(i, NULL));
    size_t failed = 0;
    for (struct dht_candidate *c = dht_lookup_next(&l); c != NULL; c = dht_lookup_next(&l)) {
        if (failed == 10) {
            answer(c);
            continue;
        }
        struct dht_contact dead = c->contact;
        dht_lookup_asked(&l, c);
        dht_lookup_failed(&l, &dead.id);
        cr_assert_not(dht_lookup_offer(&l, &dead, NULL, 1));
        failed++;
    }
    cr_assert(dht_lookup_settled(&l));
    cr_assert_eq(l.count, 20);
    cr_assert_eq(l.answers, 20);
}

Test(dht_lookup, one_introducer_takes_few_places_until_confirmed, .init = setup)
{
    struct id liar = pair_id(5000);
    for (unsigned i = 0; i < 200; i++)
        (void)offer(i, &liar);
    cr_assert_eq(l.count, DHT_INTRODUCED_MAX);
    struct id near[DHT_INTRODUCED_MAX];
    for (size_t i = 0; i < l.count; i++)
        near[i] = l.list[i].position;
    for (unsigned i = 0; i < 200; i++) { /* the nearest of those offered won */
        struct id id = pair_id(i);
        struct id position = dht_id_position(&id);
        bool in = false;
        for (size_t j = 0; j < DHT_INTRODUCED_MAX; j++)
            in |= id_equal(&near[j], &position);
        cr_assert(in || dht_id_nearer(&target, &near[DHT_INTRODUCED_MAX - 1], &position) < 0);
    }
    for (unsigned i = 300; i < 303; i++)
        cr_assert(offer(i, NULL), "others still find a place");
    size_t named = 0;
    while (l.list[named].introducer == 0)
        named++;
    answer(&l.list[named]);
    unsigned more = 0;
    for (unsigned i = 0; i < 200; i++)
        more += offer(i, &liar);
    cr_assert_geq(more, 1, "a confirmed one no longer counts");
    cr_assert_leq(l.count, DHT_INTRODUCED_MAX + 3 + 1);
}

Test(dht_lookup, full_shortlist_keeps_the_nearest, .init = setup)
{
    unsigned next = 0;
    while (l.count < DHT_SHORTLIST)
        (void)offer(next++, NULL);
    struct id farthest = l.list[DHT_SHORTLIST - 1].position;
    for (unsigned i = next; i < next + 500; i++) {
        struct id id = pair_id(i);
        struct id position = dht_id_position(&id);
        bool nearer = dht_id_nearer(&target, &position, &farthest) < 0;
        cr_assert_eq(offer(i, NULL), nearer);
        farthest = l.list[DHT_SHORTLIST - 1].position;
    }
}

Test(dht_lookup, requests_are_capped_and_then_it_ends, .init = setup)
{
    l.requests = DHT_LOOKUP_REQUESTS_MAX;
    cr_assert(offer(1, NULL));
    cr_assert_null(dht_lookup_next(&l));
    cr_assert(dht_lookup_settled(&l));
}

Test(dht_lookup, groups_and_values_are_capped, .init = setup)
{
    for (unsigned i = 0; i < 10; i++) {
        struct dht_contact c = contact(i);
        c.addr.ip[1] = 9, c.addr.ip[2] = 9;
        cr_assert(dht_lookup_offer(&l, &c, NULL, 1), "naming many of one network shuts nobody out");
    }
    for (int i = 0; i < DHT_LOOKUP_GROUP_MAX; i++)
        dht_lookup_asked(&l, dht_lookup_next(&l));
    cr_assert_null(dht_lookup_next(&l), "but only three of it are asked");
    struct id dead = l.list[0].contact.id;
    dht_lookup_failed(&l, &dead);
    cr_assert_not_null(dht_lookup_next(&l));
    dht_lookup_asked(&l, dht_lookup_next(&l));
    for (int i = 0; i < DHT_LOOKUP_GROUP_MAX; i++) {
        struct id id = l.list[i].contact.id;
        cr_assert_not_null(dht_lookup_answered(&l, &id, NULL));
        dht_lookup_check(&l);
    }
    cr_assert(dht_lookup_settled(&l));
    cr_assert_eq(l.count, DHT_LOOKUP_GROUP_MAX, "the rest of the network was dropped");
    struct dht_contact more = contact(77);
    more.addr.ip[1] = 9, more.addr.ip[2] = 9;
    cr_assert_not(dht_lookup_offer(&l, &more, NULL, 1));
    struct dht_record r;
    memset(&r, 0, sizeof r);
    for (unsigned i = 0; i < DHT_VALUES_MAX; i++) {
        r.owner = pair_id(i);
        r.issued_ms = 5;
        cr_assert(dht_lookup_note_value(&l, &r));
        cr_assert_not(dht_lookup_note_value(&l, &r));
        cr_assert(dht_lookup_holds_value(&l, &r));
    }
    r.owner = pair_id(0);
    r.issued_ms = 6;
    cr_assert(dht_lookup_note_value(&l, &r), "newer of a known owner");
    r.owner = pair_id(500);
    cr_assert_not(dht_lookup_note_value(&l, &r));
}

/* A liar names a true id at false addresses; whoever names it truly is still heard. */
Test(dht_lookup, a_false_address_does_not_hide_a_node, .init = setup)
{
    struct dht_contact real = contact(1), wrong = real, worse = real;
    struct id liar = pair_id(5000), honest = pair_id(5001);
    wrong.addr.port = 1;
    worse.addr.port = 2;
    cr_assert(dht_lookup_offer(&l, &wrong, &liar, 1));
    cr_assert_not(dht_lookup_offer(&l, &real, &honest, 1), "known, but kept as an alternate");
    cr_assert_not(dht_lookup_offer(&l, &real, &honest, 1));
    cr_assert_eq(l.list[0].alternate_count, 1);
    dht_lookup_asked(&l, dht_lookup_next(&l));
    dht_lookup_failed(&l, &real.id);
    dht_lookup_check(&l);
    struct dht_candidate *c = dht_lookup_next(&l);
    cr_assert(c != NULL && net_addr_equal(&c->contact.addr, &real.addr));
    dht_lookup_asked(&l, c);
    dht_lookup_failed(&l, &real.id);
    cr_assert_null(dht_lookup_next(&l));
    cr_assert_not(dht_lookup_offer(&l, &real, &honest, 1), "failed at this address");
    cr_assert(dht_lookup_offer(&l, &worse, &liar, 1), "not yet at that one");
}
