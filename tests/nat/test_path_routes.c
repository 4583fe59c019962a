/* Routes of every kind: direct before TCP before relayed, a dying one is covered by a standby before the
 * verdict, one whose mapping ages is replaced while it works, idle intervals grow as far as the NATs bear,
 * and floods of sources drive out nothing that was offered.  Two cores run in virtual time. */
#include <stdio.h>

#include "tests/nat/path_net.h"

#define S(x) MS((x)*1000)

static const char *const direct_a = "192.0.2.1:1";
static const char *const direct_b = "198.51.100.1:2";
/* One relay, under its v6 address here and its v4 address there. */
static const char *const relay_a = "203.0.113.5:9#8000";   /* as node 1 reaches node 0 */
static const char *const relay_b = "[2001:db8::5]:9#8001"; /* as node 0 reaches node 1 */
static const char *const tcp_a = "192.0.2.1:50000#4000";
static const char *const tcp_b = "198.51.100.1:2#4001";

static struct path_net net;

static void two_nodes(void)
{
    memset(&net, 0, sizeof net);
    net.now_ns = S(1);
    cr_assert_eq(net_node(&net, 16), 0);
    cr_assert_eq(net_node(&net, 16), 1);
}

static struct link *relay_link(uint64_t delay_ns)
{
    struct link *link = net_link(&net, 0, relay_a, 1, relay_b, delay_ns);
    net_offer(&net, 0, 1, relay_b, NAT_ROUTE_RELAYED);
    net_offer(&net, 1, 0, relay_a, NAT_ROUTE_RELAYED);
    return link;
}

static struct link *direct_link(uint64_t delay_ns)
{
    struct link *link = net_link(&net, 0, direct_a, 1, direct_b, delay_ns);
    net_offer(&net, 0, 1, direct_b, NAT_ROUTE_PUNCHED);
    net_offer(&net, 1, 0, direct_a, NAT_ROUTE_PUNCHED);
    return link;
}

static enum nat_route_kind kind_of_route(int a, int b)
{
    struct net_addr addr;
    enum nat_route_kind kind;
    int rc = nat_path_route_kind(net.nodes[a].path, &net.nodes[b].id, &addr, &kind);
    cr_expect_eq(rc == ERR_OK, kind != NAT_ROUTE_NONE);
    return kind;
}

static struct nat_path_info info_of(int a, int b, const char *addr)
{
    struct nat_path_info info[NAT_PATH_CANDIDATES_MAX];
    struct net_addr wanted = at(addr);
    int count = nat_path_candidates(net.nodes[a].path, &net.nodes[b].id, info, NAT_PATH_CANDIDATES_MAX);
    int found = 0;
    while (found < count && !net_addr_equal(&info[found].addr, &wanted))
        found++;
    cr_assert_lt(found, count, "%s is no candidate", addr);
    return info[found];
}

static enum nat_route_state state_of(int a, int b, const char *addr)
{
    return info_of(a, b, addr).state;
}

static uint64_t keep_of(int a, int b, const char *addr)
{
    return info_of(a, b, addr).keep_ns;
}

/* ---- classes ---- */

/* The relay is much faster than what follows, and is left all the same. */
Test(path_routes, relay_then_tcp_then_direct_whatever_the_round_trips)
{
    two_nodes();
    relay_link(MS(5));
    net_run_for(&net, MS(500));
    cr_expect_eq(kind_of_route(0, 1), NAT_ROUTE_RELAYED);
    cr_expect_eq(kind_of_route(1, 0), NAT_ROUTE_RELAYED);
    cr_expect_eq(net.nodes[0].last_change.type, NAT_PATH_ROUTE_UP);
    cr_expect_eq(net.nodes[0].observed + net.nodes[1].observed, 0, "a relay sees no address of ours");
    net_link(&net, 0, tcp_a, 1, tcp_b, MS(50));
    net_offer(&net, 0, 1, tcp_b, NAT_ROUTE_TCP);
    net_run_for(&net, MS(700));
    cr_expect_eq(kind_of_route(0, 1), NAT_ROUTE_TCP);
    cr_expect_eq(kind_of_route(1, 0), NAT_ROUTE_TCP, "learnt from its source");
    cr_expect_eq(net.nodes[0].observed + net.nodes[1].observed, 0);
    direct_link(MS(100));
    net_run_for(&net, MS(700));
    cr_expect_eq(kind_of_route(0, 1), NAT_ROUTE_PUNCHED);
    cr_expect_eq(kind_of_route(1, 0), NAT_ROUTE_PUNCHED);
    cr_expect_gt(net.nodes[0].observed, 0);
    struct nat_path_event change = net.nodes[0].last_change;
    struct net_addr old = at(tcp_b);
    cr_expect(change.type == NAT_PATH_ROUTE_CHANGED && change.kind == NAT_ROUTE_PUNCHED);
    cr_expect(net_addr_equal(&change.old, &old) && change.old_works);
    cr_expect(change.rtt_ns >= MS(200) && change.old_rtt_ns >= MS(100) && change.old_rtt_ns < MS(110));
    net_transfer(&net, 0, 1, S(30));
    cr_expect_eq(kind_of_route(0, 1), NAT_ROUTE_PUNCHED, "a faster relay does not win it back");
    cr_expect_eq(net.nodes[0].changed, 2);
    net_close(&net);
}

/* The first step off the relay takes two answers: half a round trip more than the second probe. */
Test(path_routes, a_direct_route_is_taken_at_the_second_answer)
{
    two_nodes();
    relay_link(MS(20));
    direct_link(MS(40));
    net_run_for(&net, MS(100));
    cr_expect_eq(kind_of_route(0, 1), NAT_ROUTE_RELAYED);
    net_run_for(&net, MS(300));
    cr_expect_eq(kind_of_route(0, 1), NAT_ROUTE_PUNCHED);
    net_close(&net);
}

/* A direct route that comes and goes may not drag the connection off the relay each time. */
Test(path_routes, flapping_off_the_relay_is_held_down)
{
    two_nodes();
    relay_link(MS(30));
    struct link *direct = direct_link(MS(10));
    net_transfer(&net, 0, 1, S(3));
    for (int i = 0; i < 30; i++) {
        direct->up_ab = direct->up_ba = i % 2 != 0;
        net_transfer(&net, 0, 1, S(3));
    }
    cr_expect_leq(net.nodes[0].changed, 16, "%d changes in 30 flaps", net.nodes[0].changed);
    cr_expect_eq(net.nodes[0].dead, 0);
    direct->up_ab = direct->up_ba = true;
    net_transfer(&net, 0, 1, S(90));
    cr_expect_eq(kind_of_route(0, 1), NAT_ROUTE_PUNCHED, "once it is steady it is used again");
    net_close(&net);
}

Test(path_routes, no_family_blocks_the_other_and_ipv6_is_a_little_better)
{
    two_nodes();
    struct link *six = net_link(&net, 0, "[2001:db8::1]:1", 1, "[2001:db8::2]:2", MS(20));
    struct link *four = net_link(&net, 0, direct_a, 1, direct_b, MS(18));
    six->up_ab = six->up_ba = false;
    net_offer(&net, 0, 1, "[2001:db8::2]:2", NAT_ROUTE_DIRECT6);
    net_offer(&net, 0, 1, direct_b, NAT_ROUTE_DIRECT4);
    net_run_for(&net, MS(40));
    cr_expect(net_uses(&net, 0, 1, direct_b));
    net_close(&net);
    two_nodes();
    net_link(&net, 0, "[2001:db8::1]:1", 1, "[2001:db8::2]:2", MS(20));
    four = net_link(&net, 0, direct_a, 1, direct_b, MS(50));
    net_offer(&net, 0, 1, "[2001:db8::2]:2", NAT_ROUTE_DIRECT6);
    net_offer(&net, 0, 1, direct_b, NAT_ROUTE_DIRECT4);
    net_run_for(&net, S(1));
    cr_expect(net_uses(&net, 0, 1, "[2001:db8::2]:2"));
    four->delay_ns = MS(20) - MS(7) / 2; /* 7 ms a round trip would be enough against another v4 route */
    net_transfer(&net, 0, 1, S(60));
    cr_expect(net_uses(&net, 0, 1, "[2001:db8::2]:2"));
    four->delay_ns = MS(14);
    net_transfer(&net, 0, 1, S(60));
    cr_expect(net_uses(&net, 0, 1, direct_b));
    net_close(&net);
}

/* ---- death and duplication ---- */

/* Data flows over a direct route with a relay beside it; the direct one stops.  Returns the longest gap in
 * the data that node 1 gets. */
static uint64_t gap_when_the_direct_route_dies(bool single)
{
    two_nodes();
    net.single = single;
    relay_link(MS(30));
    struct link *direct = direct_link(MS(10));
    net_transfer(&net, 0, 1, S(5));
    cr_assert_eq(kind_of_route(0, 1), NAT_ROUTE_PUNCHED);
    cr_expect_leq(net.nodes[1].data_gap_ns, MS(30), "the change to the direct route leaves none");
    direct->up_ab = direct->up_ba = false;
    uint64_t cut_ns = net.now_ns;
    uint64_t sent = net.nodes[0].data_sent;
    net_transfer(&net, 0, 1, S(1));
    for (int i = 0; i < 2; i++) {
        cr_expect_eq(kind_of_route(i, 1 - i), NAT_ROUTE_RELAYED);
        cr_expect_lt(net.nodes[i].last_event_ns - cut_ns, MS(160), "%lu ms",
                     (unsigned long)((net.nodes[i].last_event_ns - cut_ns) / MS(1)));
        cr_expect(!net.nodes[i].last_change.old_works && net.nodes[i].dead == 0);
    }
    cr_expect_leq(net.nodes[0].data_sent - sent, 100 + 10, "twice for 1.5 round trips and 70 ms at most");
    uint64_t gap_ns = net.nodes[1].data_gap_ns;
    direct->up_ab = direct->up_ba = true;
    net_transfer(&net, 0, 1, S(6));
    cr_expect_eq(kind_of_route(0, 1), NAT_ROUTE_PUNCHED, "it returns within the busy interval and hold-down");
    cr_expect(net.nodes[0].last_change.old_works);
    net_close(&net);
    return gap_ns;
}

Test(path_routes, a_suspect_route_is_covered_before_the_verdict)
{
    uint64_t alone_ns = gap_when_the_direct_route_dies(true);
    uint64_t covered_ns = gap_when_the_direct_route_dies(false);
    cr_expect_lt(covered_ns, MS(110), "%lu ms", (unsigned long)(covered_ns / MS(1)));
    cr_expect_gt(alone_ns, covered_ns + MS(40), "%lu ms, %lu covered", (unsigned long)(alone_ns / MS(1)),
                 (unsigned long)(covered_ns / MS(1)));
}

Test(path_routes, one_route_unless_suspect_and_none_without)
{
    struct net_addr out[2];
    two_nodes();
    cr_expect_eq(nat_path_routes(net.nodes[0].path, &net.nodes[1].id, out), 0);
    relay_link(MS(30));
    struct link *direct = direct_link(MS(10));
    cr_expect_eq(nat_path_routes(net.nodes[0].path, &net.nodes[1].id, out), 0);
    net_transfer(&net, 0, 1, S(3));
    cr_expect_eq(nat_path_routes(net.nodes[0].path, &net.nodes[1].id, out), 1);
    direct->up_ab = direct->up_ba = false;
    while (state_of(0, 1, direct_b) != NAT_SUSPECT)
        net_transfer(&net, 0, 1, MS(10));
    struct net_addr first = at(direct_b);
    struct net_addr second = at(relay_b);
    cr_expect_eq(nat_path_routes(net.nodes[0].path, &net.nodes[1].id, out), 2);
    cr_expect(net_addr_equal(&out[0], &first) && net_addr_equal(&out[1], &second));
    net_close(&net);
}

/* A link that stalls for 50 ms now and then: one alarm, then the cautious limit for a minute. */
Test(path_routes, a_false_alarm_makes_wary)
{
    two_nodes();
    struct link *direct = direct_link(MS(1));
    net_transfer(&net, 0, 1, S(10));
    cr_expect_eq(nat_path_stats(net.nodes[0].path).suspicions, 0);
    for (int i = 0; i < 10; i++) {
        direct->delay_ns = MS(45);
        net_transfer(&net, 0, 1, MS(10));
        direct->delay_ns = MS(1);
        direct->up_ab = direct->up_ba = false;
        net_transfer(&net, 0, 1, MS(40));
        direct->up_ab = direct->up_ba = true;
        net_transfer(&net, 0, 1, S(3));
    }
    struct nat_path_stats stats = nat_path_stats(net.nodes[0].path);
    cr_expect(stats.suspicions >= 1 && stats.suspicions <= 2, "%lu", (unsigned long)stats.suspicions);
    cr_expect_eq(stats.false_suspicions, stats.suspicions);
    cr_expect_eq(stats.deaths, 0);
    net_close(&net);
}

Test(path_routes, a_closed_link_is_left_at_once)
{
    two_nodes();
    relay_link(MS(30));
    net_link(&net, 0, tcp_a, 1, tcp_b, MS(10));
    net_offer(&net, 0, 1, tcp_b, NAT_ROUTE_TCP);
    net_transfer(&net, 0, 1, S(3));
    cr_assert_eq(kind_of_route(0, 1), NAT_ROUTE_TCP);
    nat_path_via_closed(net.nodes[0].path, net.now_ns, 0x4001);
    net_drain(&net, 0);
    cr_expect_eq(kind_of_route(0, 1), NAT_ROUTE_RELAYED);
    cr_expect(net.nodes[0].last_change.type == NAT_PATH_ROUTE_CHANGED && !net.nodes[0].last_change.old_works);
    cr_expect_eq(net.nodes[0].last_change.old_rtt_ns, 0);
    nat_path_via_closed(net.nodes[0].path, net.now_ns, 0x8001);
    net_drain(&net, 0);
    cr_expect_eq(kind_of_route(0, 1), NAT_ROUTE_NONE);
    cr_expect_eq(net.nodes[0].dead, 1);
    cr_expect_eq(net.nodes[0].gone_count, 0);
    net_close(&net);
}

/* ---- mappings that end at some age ---- */

static uint64_t mapping_life_ns, punched_ns = MS(10);
static int punched;

/* What nat/punch would do: both open fresh sockets and the hole stands a second later. */
static void punch_again(struct path_net *n, int node, const struct nat_path_event *event)
{
    char a[NET_ADDR_TEXT_SIZE];
    char b[NET_ADDR_TEXT_SIZE];
    if (event->type != NAT_PATH_AGEING || node != 0)
        return;
    punched++;
    (void)snprintf(a, sizeof a, "192.0.2.1:%d#%x", 1000 + punched, 0x100 + punched);
    (void)snprintf(b, sizeof b, "198.51.100.1:%d#%x", 2000 + punched, 0x200 + punched);
    struct link *link = net_link(n, 0, a, 1, b, punched_ns);
    link->life_ns = mapping_life_ns;
    net_offer(n, 1, 0, a, NAT_ROUTE_PUNCHED);
    net_offer(n, 0, 1, b, NAT_ROUTE_PUNCHED);
}

Test(path_routes, an_ageing_route_is_replaced_before_it_ends)
{
    two_nodes();
    punched = 0;
    mapping_life_ns = S(40);
    net.listener = punch_again;
    relay_link(MS(60));
    direct_link(MS(10))->life_ns = mapping_life_ns;
    for (int i = 0; i < 2; i++)
        cr_expect_eq(nat_path_set_life(net.nodes[i].path, net.now_ns, &net.nodes[1 - i].id, S(40)), ERR_OK);
    net_transfer(&net, 0, 1, S(3));
    net.nodes[0].data_gap_ns = net.nodes[1].data_gap_ns = 0;
    net_transfer(&net, 0, 1, S(22)); /* 25 s old, of 40: between 0.6 and 0.85 */
    cr_expect(!net_uses(&net, 0, 1, direct_b) && !net_uses(&net, 1, 0, direct_a));
    cr_expect(net.nodes[0].last_change.old_works && net.nodes[1].last_change.old_works);
    for (int i = 0; i < 6; i++) {
        net_transfer(&net, 0, 1, S(24));
        cr_expect_eq(kind_of_route(0, 1), NAT_ROUTE_PUNCHED);
        cr_expect_eq(kind_of_route(1, 0), NAT_ROUTE_PUNCHED);
    }
    cr_expect(punched >= 6 && punched <= 8, "%d", punched);
    cr_expect_eq(net.nodes[0].ageing, punched, "once per route");
    for (int i = 0; i < 2; i++) {
        cr_expect_eq(nat_path_stats(net.nodes[i].path).deaths, 0, "none was in use when it ended");
        cr_expect_leq(net.nodes[i].data_gap_ns, MS(30), "%lu ms",
                      (unsigned long)(net.nodes[i].data_gap_ns / MS(1)));
    }
    cr_expect_geq(net.nodes[0].gone_count, 2, "the old sockets are given back: %d", net.nodes[0].gone_count);
    cr_expect_eq(net.nodes[0].gone[0], 0x201);
    cr_expect_eq(net.nodes[1].gone[0], 0x101);
    net_close(&net);
}

/* The NAT of node 0 ends mappings, and only node 0 knows.  Every way is slower than the one before, so that
 * node 1 has no reason of its own to leave it. */
Test(path_routes, a_peer_leaves_a_route_that_the_other_end_calls_ageing)
{
    two_nodes();
    punched = 0;
    mapping_life_ns = S(40);
    net.listener = punch_again;
    relay_link(MS(90));
    direct_link(MS(10))->life_ns = mapping_life_ns;
    cr_expect_eq(nat_path_set_life(net.nodes[0].path, net.now_ns, &net.nodes[1].id, S(40)), ERR_OK);
    for (int i = 0; i < 6; i++) {
        punched_ns = MS(20) + MS(10) * (uint64_t)i;
        net_transfer(&net, 0, 1, S(12));
        net_transfer(&net, 1, 0, S(12));
    }
    cr_expect(punched >= 4 && punched <= 6, "%d", punched);
    for (int i = 0; i < 2; i++)
        cr_expect_eq(nat_path_stats(net.nodes[i].path).deaths, 0, "none was in use when it ended");
    punched_ns = MS(10);
    net_close(&net);
}

/* Auxiliary sockets are few, and carriers that end mappings have us need many: beside a working direct route
 * a dead one is given back soon, without traffic too. */
Test(path_routes, a_dead_socket_beside_a_direct_route_is_given_back)
{
    two_nodes();
    direct_link(MS(30));
    net_link(&net, 0, "192.0.2.1:1000#101", 1, "198.51.100.1:2000#201", MS(5))->life_ns = S(20);
    net_offer(&net, 1, 0, "192.0.2.1:1000#101", NAT_ROUTE_PUNCHED);
    net_offer(&net, 0, 1, "198.51.100.1:2000#201", NAT_ROUTE_PUNCHED);
    net_run_for(&net, S(10));
    cr_expect_eq(net.nodes[0].gone_count, 0);
    net_run_for(&net, S(60));
    cr_expect(net_uses(&net, 0, 1, direct_b));
    for (int i = 0; i < 2; i++)
        cr_expect_eq(net.nodes[i].gone_count, 1, "%d", i);
    net_close(&net);
}

/* Nobody told the life: the third mapping is known to be mortal after two deaths at about the same age. */
Test(path_routes, two_deaths_at_the_same_age_teach_the_life)
{
    two_nodes();
    relay_link(MS(40));
    for (int i = 0; i < 3; i++) {
        char a[NET_ADDR_TEXT_SIZE];
        char b[NET_ADDR_TEXT_SIZE];
        (void)snprintf(a, sizeof a, "192.0.2.1:%d", 10 + i);
        (void)snprintf(b, sizeof b, "198.51.100.1:%d#%x", 20 + i, 1 + i);
        net_link(&net, 0, a, 1, b, MS(10))->life_ns = S(60 + 5 * (uint64_t)i);
        net_offer(&net, 0, 1, b, NAT_ROUTE_PUNCHED);
        net_transfer(&net, 0, 1, i < 2 ? S(70) : S(30));
        cr_expect_eq(net.nodes[0].ageing, 0);
        cr_expect_eq(kind_of_route(0, 1), i < 2 ? NAT_ROUTE_RELAYED : NAT_ROUTE_PUNCHED);
    }
    net_transfer(&net, 0, 1, S(8));
    cr_expect_eq(net.nodes[0].ageing, 1, "at 0.6 of 60 s");
    cr_expect_eq(nat_path_keepalive(net.nodes[0].path), 0, "that was no silence");
    net_close(&net);
}

Test(path_routes, a_life_is_checked_and_can_be_withdrawn)
{
    two_nodes();
    struct nat_path *path = net.nodes[0].path;
    const struct id *peer = &net.nodes[1].id;
    cr_expect_eq(nat_path_set_life(path, net.now_ns, peer, S(60)), ERR_NOT_FOUND);
    net_link(&net, 0, direct_a, 1, "198.51.100.1:2#1", MS(10));
    net_offer(&net, 0, 1, "198.51.100.1:2#1", NAT_ROUTE_PUNCHED);
    cr_expect_eq(nat_path_set_life(path, net.now_ns, peer, S(4)), ERR_INVALID);
    cr_expect_eq(nat_path_set_life(path, net.now_ns, peer, UINT64_MAX), ERR_INVALID);
    cr_expect_eq(nat_path_set_life(path, net.now_ns, peer, S(60)), ERR_OK);
    net_run_for(&net, S(30));
    cr_expect_eq(nat_path_set_life(path, net.now_ns, peer, 0), ERR_OK);
    net_run_for(&net, S(60));
    cr_expect_eq(net.nodes[0].ageing, 0);
    cr_expect_eq(nat_path_set_life(path, net.now_ns, peer, S(60)), ERR_OK);
    net_drain(&net, 0);
    cr_expect_eq(net.nodes[0].ageing, 1, "it is over age already");
    net_run_for(&net, S(300));
    cr_expect_eq(net.nodes[0].ageing, 1);
    net_close(&net);
}

/* A fresh socket's mapping begins with our first datagram, not with the answer to it. */
Test(path_routes, age_counts_from_the_first_probe)
{
    static const char *const aux_b = "198.51.100.1:2#1";
    two_nodes();
    net_link(&net, 0, direct_a, 1, aux_b, MS(10))->filtered = true;
    net_offer(&net, 0, 1, aux_b, NAT_ROUTE_PUNCHED);
    cr_expect_eq(nat_path_set_life(net.nodes[0].path, net.now_ns, &net.nodes[1].id, S(20)), ERR_OK);
    net_run_for(&net, S(4));
    cr_expect_eq(kind_of_route(0, 1), NAT_ROUTE_NONE);
    cr_expect_eq(nat_path_punch(net.nodes[0].path, net.now_ns, &net.nodes[1].id), ERR_OK);
    net_offer(&net, 1, 0, direct_a, NAT_ROUTE_PUNCHED);
    net_run_for(&net, MS(7900));
    cr_expect_eq(kind_of_route(0, 1), NAT_ROUTE_PUNCHED);
    cr_expect_eq(net.nodes[0].ageing, 0);
    net_run_for(&net, MS(200));
    cr_expect_eq(net.nodes[0].ageing, 1, "12 s after the offer");
    net_close(&net);
}

/* Equal standbys that each end knows in another order, so that they fall back to different ones. */
Test(path_routes, two_ends_come_to_one_of_two_equal_relays)
{
    static const char *const other_a = "203.0.113.6:9#8003";
    static const char *const other_b = "203.0.113.6:9#8004";
    two_nodes();
    net_link(&net, 0, other_a, 1, other_b, MS(20));
    net_offer(&net, 0, 1, other_b, NAT_ROUTE_RELAYED);
    relay_link(MS(20));
    net_offer(&net, 1, 0, other_a, NAT_ROUTE_RELAYED);
    struct link *direct = direct_link(MS(20));
    net_transfer(&net, 0, 1, S(4));
    cr_assert_eq(kind_of_route(0, 1), NAT_ROUTE_PUNCHED);
    direct->up_ab = direct->up_ba = false;
    net_transfer(&net, 0, 1, S(4));
    cr_expect_eq(net_uses(&net, 0, 1, other_b), net_uses(&net, 1, 0, other_a));
    cr_expect_eq(net_uses(&net, 0, 1, relay_b), net_uses(&net, 1, 0, relay_a));
    uint64_t suspicions = nat_path_stats(net.nodes[0].path).suspicions;
    net_transfer(&net, 0, 1, S(4));
    cr_expect_eq(nat_path_stats(net.nodes[0].path).suspicions, suspicions, "nobody doubts it any more");
    net_close(&net);
}

/* A standby that answered before, but not since, has died of the same cause. */
Test(path_routes, the_successor_has_answered_since)
{
    two_nodes();
    relay_link(MS(15));
    struct link *direct = direct_link(MS(10));
    struct link *second = net_link(&net, 0, "192.0.2.1:7", 1, "198.51.100.1:7", MS(12));
    net_offer(&net, 0, 1, "198.51.100.1:7", NAT_ROUTE_PUNCHED);
    net_transfer(&net, 0, 1, S(4));
    cr_assert(net_uses(&net, 0, 1, direct_b));
    uint64_t deaths = nat_path_stats(net.nodes[0].path).deaths;
    direct->up_ab = direct->up_ba = second->up_ab = second->up_ba = false;
    net_transfer(&net, 0, 1, S(1));
    cr_expect(net_uses(&net, 0, 1, relay_b));
    cr_expect_eq(nat_path_stats(net.nodes[0].path).deaths, deaths + 1, "not from one dead route to the next");
    net_close(&net);
}

/* Nothing is lost by a move but the old address: packets go both ways until something is heard. */
Test(path_routes, a_move_makes_the_route_suspect_until_it_is_heard)
{
    struct net_addr both[2];
    two_nodes();
    relay_link(MS(60));
    direct_link(MS(10));
    net_transfer(&net, 0, 1, S(2));
    cr_assert_eq(nat_path_routes(net.nodes[0].path, &net.nodes[1].id, both), 1);
    nat_path_moved(net.nodes[0].path, net.now_ns);
    cr_expect_eq(nat_path_routes(net.nodes[0].path, &net.nodes[1].id, both), 2);
    net_transfer(&net, 0, 1, MS(200));
    cr_expect_eq(nat_path_routes(net.nodes[0].path, &net.nodes[1].id, both), 1);
    cr_expect(net_uses(&net, 0, 1, direct_b));
    net_close(&net);
}

/* ---- idle intervals ---- */

/* Probes over the link in ten minutes. */
static uint64_t ten_idle_minutes(struct link *link)
{
    uint64_t before = link->carried;
    net_run_for(&net, S(600));
    return link->carried - before;
}

Test(path_routes, idle_intervals_grow_on_punched_routes)
{
    two_nodes();
    struct link *direct = direct_link(MS(10));
    uint64_t first = ten_idle_minutes(direct);
    net_run_for(&net, S(7200));
    uint64_t last = ten_idle_minutes(direct);
    cr_expect_leq(last * 4, first, "%lu, then %lu", (unsigned long)first, (unsigned long)last);
    cr_expect_eq(keep_of(0, 1, direct_b), S(120));
    cr_expect_eq(net.nodes[0].dead, 0);
    cr_expect_eq(nat_path_keepalive(net.nodes[0].path), 0, "nothing died: nothing learnt");
    net_close(&net);
    two_nodes();
    net_link(&net, 0, direct_a, 1, direct_b, MS(10));
    net_offer(&net, 0, 1, direct_b, NAT_ROUTE_DIRECT4);
    net_run_for(&net, S(7200));
    cr_expect_eq(keep_of(0, 1, direct_b), S(25));
    net_close(&net);
}

/* A NAT forgets after 60 s.  The first route pays for that lesson, the next ones live. */
Test(path_routes, an_idle_death_teaches_the_keepalive)
{
    two_nodes();
    relay_link(MS(40));
    struct link *direct = direct_link(MS(10));
    direct->idle_ns = S(60);
    for (int i = 0; i < 400 && direct->up_ab; i++)
        net_run_for(&net, S(30));
    cr_assert(!direct->up_ab, "it grows until the NAT forgets");
    net_run_for(&net, S(200));
    uint64_t learnt_ns = nat_path_keepalive(net.nodes[0].path);
    cr_expect(learnt_ns >= S(20) && learnt_ns <= S(45), "%lu ms", (unsigned long)(learnt_ns / MS(1)));
    struct link *next = net_link(&net, 0, "192.0.2.1:3", 1, "198.51.100.1:4", MS(10));
    next->idle_ns = S(60);
    net_offer(&net, 0, 1, "198.51.100.1:4", NAT_ROUTE_PUNCHED);
    net_offer(&net, 1, 0, "192.0.2.1:3", NAT_ROUTE_PUNCHED);
    net_run_for(&net, S(4 * 3600));
    cr_expect(next->up_ab);
    cr_expect(net_uses(&net, 0, 1, "198.51.100.1:4"));
    cr_expect_leq(keep_of(0, 1, "198.51.100.1:4"), learnt_ns);
    net_close(&net);
}

/* The NATs open again when both ends probe: the second such death is no accident. */
Test(path_routes, idle_deaths_that_heal_teach_the_keepalive)
{
    two_nodes();
    relay_link(MS(40));
    struct link *direct = direct_link(MS(10));
    direct->filtered = direct->reopens = true;
    direct->idle_ns = S(60);
    net_run_for(&net, S(3 * 3600));
    uint64_t learnt_ns = nat_path_keepalive(net.nodes[0].path);
    cr_expect(learnt_ns >= S(20) && learnt_ns <= S(45), "%lu ms", (unsigned long)(learnt_ns / MS(1)));
    uint64_t deaths = nat_path_stats(net.nodes[0].path).deaths;
    cr_expect_leq(deaths, 3, "%lu", (unsigned long)deaths);
    net_run_for(&net, S(3 * 3600));
    cr_expect_eq(nat_path_stats(net.nodes[0].path).deaths, deaths);
    cr_expect_eq(kind_of_route(0, 1), NAT_ROUTE_PUNCHED);
    net_close(&net);
}

/* Everything is silent for a while: that says nothing about NATs. */
Test(path_routes, an_outage_teaches_no_keepalive)
{
    two_nodes();
    struct link *relay = relay_link(MS(40));
    struct link *direct = direct_link(MS(10));
    net_run_for(&net, S(300));
    relay->up_ab = relay->up_ba = direct->up_ab = direct->up_ba = false;
    net_run_for(&net, S(120));
    cr_expect_eq(kind_of_route(0, 1), NAT_ROUTE_NONE);
    relay->up_ab = relay->up_ba = direct->up_ab = direct->up_ba = true;
    net_run_for(&net, S(300));
    cr_expect_eq(kind_of_route(0, 1), NAT_ROUTE_PUNCHED);
    cr_expect_eq(nat_path_keepalive(net.nodes[0].path), 0);
    net_close(&net);
}

Test(path_routes, a_kept_ceiling_holds_from_the_start)
{
    two_nodes();
    nat_path_set_keepalive(net.nodes[0].path, S(8));
    nat_path_set_keepalive(net.nodes[1].path, S(8));
    cr_expect_eq(nat_path_keepalive(net.nodes[0].path), S(8));
    struct link *direct = direct_link(MS(10));
    direct->idle_ns = S(9);
    net_run_for(&net, S(3600));
    cr_expect(direct->up_ab && net.nodes[0].dead == 0);
    nat_path_set_keepalive(net.nodes[0].path, S(1));
    cr_expect_eq(nat_path_keepalive(net.nodes[0].path), S(5));
    nat_path_set_keepalive(net.nodes[0].path, S(1000));
    cr_expect_eq(nat_path_keepalive(net.nodes[0].path), S(120));
    nat_path_set_keepalive(net.nodes[0].path, 0);
    cr_expect_eq(nat_path_keepalive(net.nodes[0].path), 0);
    net_close(&net);
}

/* ---- limits ---- */

static int offer(const char *format, int number, enum nat_route_kind kind)
{
    char text[NET_ADDR_TEXT_SIZE];
    (void)snprintf(text, sizeof text, format, number);
    struct net_addr addr = at(text);
    return nat_path_candidate_add(net.nodes[0].path, net.now_ns, &net.nodes[1].id, &addr, kind);
}

Test(path_routes, kinds_fit_their_way_and_have_their_limits)
{
    two_nodes();
    cr_assert_eq(nat_path_peer_add(net.nodes[0].path, net.now_ns, &net.nodes[1].id), ERR_OK);
    cr_expect_eq(offer("203.0.113.%d:1", 1, NAT_ROUTE_RELAYED), ERR_INVALID);
    cr_expect_eq(offer("203.0.113.%d:1#8000", 1, NAT_ROUTE_DIRECT4), ERR_INVALID);
    cr_expect_eq(offer("203.0.113.%d:1#8000", 1, NAT_ROUTE_TCP), ERR_INVALID);
    cr_expect_eq(offer("203.0.113.%d:1#4000", 1, NAT_ROUTE_PUNCHED), ERR_INVALID);
    cr_expect_eq(offer("203.0.113.%d:1", 1, NAT_ROUTE_NONE), ERR_INVALID);
    cr_expect_eq(offer("203.0.113.%d:1#5000", 1, NAT_ROUTE_DIRECT4), ERR_INVALID, "no such way");
    for (int i = 0; i < 5; i++) {
        cr_expect_eq(offer("203.0.113.5:1#800%d", i, NAT_ROUTE_RELAYED), i < 3 ? ERR_OK : ERR_FULL);
        cr_expect_eq(offer("203.0.113.6:1#400%d", i, NAT_ROUTE_TCP), i < 2 ? ERR_OK : ERR_FULL);
    }
    for (int i = 1; i < 6; i++)
        cr_expect_eq(offer("203.0.113.7:1#%d", i, NAT_ROUTE_PUNCHED), i < 4 ? ERR_OK : ERR_FULL);
    cr_expect_eq(offer("203.0.113.8:%d", 1, NAT_ROUTE_DIRECT4), ERR_OK);
    cr_expect_eq(offer("203.0.113.8:%d", 2, NAT_ROUTE_MAPPED), ERR_OK);
    cr_expect_eq(offer("203.0.113.8:%d", 3, NAT_ROUTE_DIRECT4), ERR_FULL, "ten in all");
    net_drain(&net, 0);
    net_run_for(&net, S(120));
    cr_expect_eq(net.nodes[0].gone_count, 3, "holes that never opened");
    cr_expect_eq(offer("203.0.113.7:1#%d", 7, NAT_ROUTE_PUNCHED), ERR_OK);
    cr_expect_eq(offer("203.0.113.5:1#800%d", 7, NAT_ROUTE_RELAYED), ERR_OK, "dead ones give way");
    nat_path_peer_remove(net.nodes[0].path, &net.nodes[1].id);
    net_drain(&net, 0);
    cr_expect(net.nodes[0].gone_count == 4 && net.nodes[0].gone[3] == 7);
    net_close(&net);
}

/* Somebody on the way sends what the peer sent from a thousand other addresses. */
Test(path_routes, a_flood_of_sources_drives_out_nothing_offered)
{
    static const char *const dead[] = {"203.0.113.1:1", "203.0.113.2:1", "203.0.113.3:1", "203.0.113.4:1",
                                       "203.0.113.5:1", "203.0.113.6:1", "203.0.113.7:1", "203.0.113.8:1"};
    two_nodes();
    relay_link(MS(40));
    direct_link(MS(10));
    for (size_t i = 0; i < 8; i++)
        net_offer(&net, 0, 1, dead[i], NAT_ROUTE_DIRECT4);
    net_transfer(&net, 0, 1, S(60));
    for (int i = 0; i < 1000; i++) {
        char text[NET_ADDR_TEXT_SIZE];
        (void)snprintf(text, sizeof text, "100.%d.%d.9:9%s", 1 + i / 100, i % 100, i % 4 == 0 ? "#8009" : "");
        struct net_addr source = at(text);
        nat_path_heard(net.nodes[0].path, net.now_ns, &net.nodes[1].id, &source);
        net_drain(&net, 0);
        net_transfer(&net, 0, 1, MS(20));
    }
    for (size_t i = 0; i < 8; i++)
        cr_expect_eq(state_of(0, 1, dead[i]), NAT_DEAD);
    cr_expect_eq(state_of(0, 1, direct_b), NAT_ACTIVE);
    cr_expect_eq(state_of(0, 1, relay_b), NAT_ANSWERING);
    struct nat_path_info info[NAT_PATH_CANDIDATES_MAX];
    int count = nat_path_candidates(net.nodes[0].path, &net.nodes[1].id, info, NAT_PATH_CANDIDATES_MAX);
    cr_expect_leq(count, NAT_PATH_CANDIDATES_MAX);
    cr_expect_eq(net.nodes[0].changed + net.nodes[0].dead, 0, "%d", net.nodes[0].changed);
    net_close(&net);
}

/* Two peers behind one relay have one address and two sessions. */
Test(path_routes, sessions_through_one_relay_are_told_apart)
{
    struct id found;
    two_nodes();
    cr_assert_eq(net_node(&net, 16), 2);
    net_link(&net, 0, "203.0.113.5:9#8000", 1, "203.0.113.5:9#8001", MS(10));
    net_link(&net, 2, "203.0.113.5:9#8000", 1, "203.0.113.5:9#8002", MS(10));
    net_offer(&net, 1, 0, "203.0.113.5:9#8000", NAT_ROUTE_RELAYED);
    net.links[1].addr_a = at("203.0.113.5:9#8003");
    net_offer(&net, 1, 2, "203.0.113.5:9#8003", NAT_ROUTE_RELAYED);
    net_run_for(&net, S(1));
    struct net_addr first = at("203.0.113.5:9#8000");
    struct net_addr second = at("203.0.113.5:9#8003");
    struct net_addr none = at("203.0.113.5:9");
    cr_expect_eq(nat_path_peer_at(net.nodes[1].path, &first, &found), ERR_OK);
    cr_expect(id_equal(&found, &net.nodes[0].id));
    cr_expect_eq(nat_path_peer_at(net.nodes[1].path, &second, &found), ERR_OK);
    cr_expect(id_equal(&found, &net.nodes[2].id));
    cr_expect_eq(nat_path_peer_at(net.nodes[1].path, &none, &found), ERR_NOT_FOUND);
    net_close(&net);
}

/* ---- the log ---- */

Test(path_routes, the_log_tells_what_was_tried)
{
    static const char *const steps[] = {"added",    "probed", "added",   "probed", "answered", "active",
                                        "answered", "active", "suspect", "dead",   "active"};
    struct nat_path_trace trace[NAT_PATH_TRACE_MAX];
    two_nodes();
    cr_expect_eq(nat_path_trace(net.nodes[0].path, &net.nodes[1].id, trace, NAT_PATH_TRACE_MAX),
                 ERR_NOT_FOUND);
    relay_link(MS(20));
    struct link *direct = direct_link(MS(30));
    net_transfer(&net, 0, 1, S(3));
    direct->up_ab = direct->up_ba = false;
    net_transfer(&net, 0, 1, S(1));
    int count = nat_path_trace(net.nodes[0].path, &net.nodes[1].id, trace, NAT_PATH_TRACE_MAX);
    cr_assert_eq(count, 11, "%d", count);
    struct net_addr relay = at(relay_b);
    for (int i = 0; i < count; i++) {
        bool relayed = i < 2 || i == 4 || i == 5 || i == 10;
        cr_expect_str_eq(nat_path_step_text(trace[i].step), steps[i], "%d", i);
        cr_expect_eq(trace[i].kind, relayed ? NAT_ROUTE_RELAYED : NAT_ROUTE_PUNCHED, "%d", i);
        cr_expect_eq(net_addr_equal(&trace[i].addr, &relay), relayed);
        cr_expect_eq(trace[i].rtt_ns > 0, i >= 4);
        cr_expect(trace[i].offered && (i == 0 || trace[i].time_ns >= trace[i - 1].time_ns));
    }
    cr_expect_eq(nat_path_trace(net.nodes[0].path, &net.nodes[1].id, trace, 1), 1);
    cr_expect_eq(trace[0].step, NAT_PATH_ACTIVATED, "the latest, if there is room for one only");
    net_close(&net);
}

/* However much happens, only the last entries are kept; and a peer that leaves takes its log along. */
Test(path_routes, the_log_is_bounded)
{
    struct nat_path_trace trace[NAT_PATH_TRACE_MAX + 1];
    two_nodes();
    for (int i = 0; i < 200; i++) {
        relay_link(MS(20));
        net_run_for(&net, MS(500));
        nat_path_via_closed(net.nodes[0].path, net.now_ns, 0x8001);
        net_drain(&net, 0);
        net.link_count = 0;
    }
    int count = nat_path_trace(net.nodes[0].path, &net.nodes[1].id, trace, NAT_PATH_TRACE_MAX + 1);
    cr_expect_eq(count, NAT_PATH_TRACE_MAX);
    cr_expect_eq(trace[count - 1].step, NAT_PATH_DROPPED);
    nat_path_peer_remove(net.nodes[0].path, &net.nodes[1].id);
    cr_expect_eq(nat_path_trace(net.nodes[0].path, &net.nodes[1].id, trace, 1), ERR_NOT_FOUND);
    cr_expect_eq(nat_path_peer_add(net.nodes[0].path, net.now_ns, &net.nodes[1].id), ERR_OK);
    cr_expect_eq(nat_path_trace(net.nodes[0].path, &net.nodes[1].id, trace, 1), 0);
    net_close(&net);
}

/* A peer that came by itself has no log until it is wanted; then what is known of it opens the log. */
Test(path_routes, the_log_begins_when_the_peer_is_wanted)
{
    struct nat_path_trace trace[NAT_PATH_TRACE_MAX];
    two_nodes();
    net_link(&net, 0, direct_a, 1, direct_b, MS(10));
    net_offer(&net, 0, 1, direct_b, NAT_ROUTE_DIRECT4);
    net_run_for(&net, S(1));
    struct nat_path *path = net.nodes[1].path;
    cr_expect_eq(nat_path_trace(path, &net.nodes[0].id, trace, NAT_PATH_TRACE_MAX), ERR_NOT_FOUND);
    cr_expect_eq(nat_path_peer_add(path, net.now_ns, &net.nodes[0].id), ERR_OK);
    cr_expect_eq(nat_path_trace(path, &net.nodes[0].id, trace, NAT_PATH_TRACE_MAX), 1);
    cr_expect(trace[0].step == NAT_PATH_ADDED && trace[0].rtt_ns > 0 && !trace[0].offered);
    cr_expect_eq(trace[0].kind, NAT_ROUTE_PUNCHED, "nobody published its source");
    struct net_addr published = at(direct_a);
    cr_expect_eq(nat_path_candidate_add(path, net.now_ns, &net.nodes[0].id, &published, NAT_ROUTE_DIRECT4),
                 ERR_OK);
    cr_expect_eq(kind_of_route(1, 0), NAT_ROUTE_DIRECT4, "an offer gives it its kind");
    net_close(&net);
}

Test(path_routes, a_private_source_is_of_the_lan)
{
    two_nodes();
    net_link(&net, 0, "192.168.1.1:1", 1, "192.168.1.2:2", MS(1));
    net_offer(&net, 0, 1, "192.168.1.2:2", NAT_ROUTE_LAN);
    net_run_for(&net, S(1));
    cr_expect_eq(kind_of_route(1, 0), NAT_ROUTE_LAN);
    net_close(&net);
}

Test(path_routes, every_kind_has_a_name)
{
    static const char *const names[] = {"none",   "lan",     "direct6", "direct4",
                                        "mapped", "punched", "tcp",     "relayed"};
    for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++)
        cr_expect_str_eq(nat_route_kind_text((enum nat_route_kind)i), names[i]);
}
