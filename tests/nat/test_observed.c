/* Observed addresses: one liar moves nothing, agreement of distinct networks does, local addresses need only
 * one observer but one from the same scope, and what nobody sees any more is forgotten. */
#include <criterion/criterion.h>
#include <stdio.h>

#include "base/rng.h"
#include "nat/observed.h"

static const uint64_t life_ns = UINT64_C(600000000000);

static struct net_addr at(const char *text)
{
    struct net_addr addr;
    cr_assert_eq(net_addr_parse(text, &addr), ERR_OK, "%s", text);
    return addr;
}

static int report(struct nat_observed *observed, uint64_t now_ns, const char *observer, const char *seen)
{
    struct net_addr from = at(observer);
    struct net_addr to = at(seen);
    int rc = nat_observed_report(observed, now_ns, &from, &to);
    nat_observed_check_invariants(observed);
    return rc;
}

/* Our global IPv4 address equals text; NULL: unknown. */
static bool known_as(const struct nat_observed *observed, const char *text)
{
    struct net_addr found;
    int rc = nat_observed_address(observed, NET_FAMILY_V4, NET_SCOPE_GLOBAL, &found);
    if (text == NULL)
        return rc == ERR_NOT_FOUND;
    struct net_addr expected = at(text);
    return rc == ERR_OK && net_addr_equal(&found, &expected);
}

Test(observed, two_networks_must_agree)
{
    static struct nat_observed observed;
    struct nat_observed_event event;
    nat_observed_init(&observed, NAT_OBSERVED_AGREE, life_ns);
    cr_expect_eq(report(&observed, 1, "198.51.100.1:1", "192.0.2.7:4242"), ERR_OK);
    cr_expect_eq(report(&observed, 2, "198.51.100.2:1", "192.0.2.7:4242"), ERR_OK);
    cr_expect(known_as(&observed, NULL), "one /24 counts once");
    cr_expect(!nat_observed_poll_event(&observed, &event));
    cr_expect_eq(report(&observed, 3, "203.0.113.1:1", "192.0.2.7:4242"), ERR_OK);
    cr_expect(known_as(&observed, "192.0.2.7:4242"));
    cr_assert(nat_observed_poll_event(&observed, &event));
    cr_expect_eq(event.old.family, NET_FAMILY_NONE);
    cr_expect_eq(event.now.port, 4242);
    cr_expect(!nat_observed_poll_event(&observed, &event));
}

Test(observed, a_liar_changes_nothing_and_a_move_is_followed)
{
    static struct nat_observed observed;
    struct nat_observed_event event;
    nat_observed_init(&observed, 2, life_ns);
    (void)report(&observed, 1, "198.51.100.1:1", "192.0.2.7:1");
    (void)report(&observed, 1, "203.0.113.1:1", "192.0.2.7:1");
    (void)report(&observed, 1, "198.18.0.1:1", "192.0.2.7:1");
    cr_expect(nat_observed_poll_event(&observed, &event));
    (void)report(&observed, 2, "198.18.0.1:1", "192.0.2.66:1");
    cr_expect(known_as(&observed, "192.0.2.7:1"));
    (void)report(&observed, 3, "203.0.113.1:1", "192.0.2.66:1");
    cr_expect(known_as(&observed, "192.0.2.66:1"), "two against one");
    cr_assert(nat_observed_poll_event(&observed, &event));
    struct net_addr old = at("192.0.2.7:1");
    cr_expect(net_addr_equal(&event.old, &old));
}

Test(observed, local_scopes)
{
    static struct nat_observed observed;
    struct net_addr found;
    nat_observed_init(&observed, 2, life_ns);
    cr_expect_eq(report(&observed, 1, "127.0.0.1:9", "127.0.0.1:4242"), ERR_OK);
    cr_expect_eq(nat_observed_address(&observed, NET_FAMILY_V4, NET_SCOPE_LOOPBACK, &found), ERR_OK);
    cr_expect_eq(report(&observed, 1, "192.168.0.9:9", "192.168.0.1:4242"), ERR_OK);
    cr_expect_eq(nat_observed_address(&observed, NET_FAMILY_V4, NET_SCOPE_PRIVATE, &found), ERR_OK);
    cr_expect_eq(report(&observed, 1, "198.51.100.1:1", "192.168.0.66:1"), ERR_REFUSED, "stranger, private");
    cr_expect_eq(report(&observed, 1, "192.168.0.9:9", "198.51.100.1:1"), ERR_REFUSED, "neighbour, global");
    cr_expect_eq(report(&observed, 1, "[fe80::1]:9", "[fe80::2]:1"), ERR_REFUSED);
    cr_expect_eq(report(&observed, 1, "[2001:db8::1]:9", "198.51.100.1:1"), ERR_REFUSED, "families");
    cr_expect_eq(report(&observed, 1, "198.51.100.1:1", "192.0.2.1:0"), ERR_REFUSED);
    cr_expect_eq(nat_observed_address(&observed, NET_FAMILY_V6, NET_SCOPE_LINK, &found), ERR_NOT_FOUND);
    cr_expect_eq(report(&observed, 1, "[2001:db8::1]:9", "[2001:db8:1::1]:1"), ERR_OK);
    cr_expect_eq(report(&observed, 1, "[2001:db8:0:ff::1]:9", "[2001:db8:1::1]:1"), ERR_OK);
    cr_expect_eq(nat_observed_address(&observed, NET_FAMILY_V6, NET_SCOPE_GLOBAL, &found), ERR_NOT_FOUND,
                 "one /56");
    cr_expect_eq(report(&observed, 1, "[2001:db8:0:100::1]:9", "[2001:db8:1::1]:1"), ERR_OK);
    cr_expect_eq(nat_observed_address(&observed, NET_FAMILY_V6, NET_SCOPE_GLOBAL, &found), ERR_OK);
}

Test(observed, old_reports_are_forgotten)
{
    static struct nat_observed observed;
    struct nat_observed_event event;
    nat_observed_init(&observed, 2, life_ns);
    (void)report(&observed, 0, "198.51.100.1:1", "192.0.2.7:1");
    (void)report(&observed, 0, "203.0.113.1:1", "192.0.2.7:1");
    (void)nat_observed_poll_event(&observed, &event);
    nat_observed_tick(&observed, life_ns - 1);
    cr_expect(known_as(&observed, "192.0.2.7:1"));
    nat_observed_tick(&observed, life_ns);
    cr_expect(known_as(&observed, NULL));
    cr_assert(nat_observed_poll_event(&observed, &event));
    cr_expect_eq(event.now.family, NET_FAMILY_NONE);
    nat_observed_check_invariants(&observed);
}

Test(observed, mapping)
{
    static struct nat_observed observed;
    nat_observed_init(&observed, 2, life_ns);
    cr_expect_eq(nat_observed_mapping(&observed, NET_FAMILY_V4), NAT_MAPPING_UNKNOWN);
    (void)report(&observed, 0, "198.51.100.1:1", "192.0.2.7:1");
    cr_expect_eq(nat_observed_mapping(&observed, NET_FAMILY_V4), NAT_MAPPING_UNKNOWN);
    (void)report(&observed, 0, "203.0.113.1:1", "192.0.2.7:1");
    cr_expect_eq(nat_observed_mapping(&observed, NET_FAMILY_V4), NAT_MAPPING_STABLE);
    (void)report(&observed, 0, "198.18.0.1:1", "192.0.2.7:2");
    cr_expect_eq(nat_observed_mapping(&observed, NET_FAMILY_V4), NAT_MAPPING_VARIES);
    (void)report(&observed, 0, "198.18.1.1:1", "192.0.2.8:2");
    cr_expect_eq(nat_observed_mapping(&observed, NET_FAMILY_V4), NAT_MAPPING_UNKNOWN);
}

Test(observed, one_dissenter_of_four_does_not_make_a_stable_mapping_vary)
{
    static struct nat_observed observed;
    nat_observed_init(&observed, 2, life_ns);
    (void)report(&observed, 0, "198.51.100.1:1", "192.0.2.7:9");
    (void)report(&observed, 0, "203.0.113.1:1", "192.0.2.7:1");
    (void)report(&observed, 0, "198.18.0.1:1", "192.0.2.7:1");
    cr_expect_eq(nat_observed_mapping(&observed, NET_FAMILY_V4), NAT_MAPPING_VARIES);
    (void)report(&observed, 0, "198.18.1.1:1", "192.0.2.7:1");
    cr_expect_eq(nat_observed_mapping(&observed, NET_FAMILY_V4), NAT_MAPPING_STABLE);
    (void)report(&observed, 0, "198.18.2.1:1", "192.0.2.7:4");
    cr_expect_eq(nat_observed_mapping(&observed, NET_FAMILY_V4), NAT_MAPPING_VARIES, "two are too many");
}

Test(observed, only_what_concerns_the_main_socket_counts)
{
    static const uint16_t vias[] = {NET_VIA_AUX_FIRST, NET_VIA_TCP_FIRST, NET_VIA_RELAY_FIRST};
    static struct nat_observed observed;
    nat_observed_init(&observed, 1, life_ns);
    for (size_t i = 0; i < 3; i++) {
        struct net_addr observer = at("198.51.100.1:1");
        struct net_addr seen = at("192.0.2.7:4242");
        observer.via = vias[i];
        cr_expect_eq(nat_observed_report(&observed, 1, &observer, &seen), ERR_REFUSED);
    }
    cr_expect(known_as(&observed, NULL));
}

/* Model: with fewer liars than honest groups the honest address is known, in whatever order they speak. */
Test(observed, a_minority_of_liars_never_wins)
{
    static struct nat_observed observed;
    struct rng_seeded stream;
    rng_seeded_init(&stream, 7);
    struct rng rng = rng_of_seeded(&stream);
    for (int round = 0; round < 100; round++) {
        uint64_t liars = rng_below(&rng, 10);
        nat_observed_init(&observed, 2, life_ns);
        for (int i = 0; i < 400; i++) {
            uint64_t group = i < 20 ? (uint64_t)i : rng_below(&rng, 20);
            char observer[NET_ADDR_TEXT_SIZE];
            (void)snprintf(observer, sizeof observer, "198.51.%u.%u:1", (unsigned)group,
                           (unsigned)rng_below(&rng, 200) + 1);
            (void)report(&observed, (uint64_t)i, observer, group < liars ? "203.0.113.66:6" : "192.0.2.7:1");
        }
        cr_assert(known_as(&observed, "192.0.2.7:1"), "%d liars", (int)liars);
    }
}
