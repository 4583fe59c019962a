/* One end has left the route in use, or doubts it, and the other end must not wait for its silence: QUIC that
 * comes by another route tells, where probes, which come by all, and the twins of doubled packets do not. Two
 * cores run in virtual time, with a relay beside a direct route. */
#include "tests/nat/path_net.h"

static const char *const direct_a = "192.0.2.1:1";
static const char *const direct_b = "198.51.100.1:2";
static const char *const relay_a = "203.0.113.5:9#8000"; /* as node 1 reaches node 0 */
static const char *const relay_b = "203.0.113.5:9#8001"; /* as node 0 reaches node 1 */

static struct path_net net;

static int doubtful; /* events of that type at node 0 */

static void count_doubtful(struct path_net *of, int node, const struct nat_path_event *event)
{
    (void)of;
    doubtful += node == 0 && event->type == NAT_PATH_DOUBTFUL;
}

/* Two nodes in the midst of a transfer by their direct route, a relay beside it. */
static struct link *under_way(uint64_t direct_ns, uint64_t relay_ns)
{
    memset(&net, 0, sizeof net);
    net.now_ns = MS(1000);
    cr_assert_eq(net_node(&net, 16), 0);
    cr_assert_eq(net_node(&net, 16), 1);
    (void)net_link(&net, 0, relay_a, 1, relay_b, relay_ns);
    net_offer(&net, 0, 1, relay_b, NAT_ROUTE_RELAYED);
    net_offer(&net, 1, 0, relay_a, NAT_ROUTE_RELAYED);
    struct link *direct = net_link(&net, 0, direct_a, 1, direct_b, direct_ns);
    net_offer(&net, 0, 1, direct_b, NAT_ROUTE_PUNCHED);
    net_offer(&net, 1, 0, direct_a, NAT_ROUTE_PUNCHED);
    net_transfer(&net, 0, 1, MS(4000));
    cr_assert(net_uses(&net, 0, 1, direct_b) && net_uses(&net, 1, 0, direct_a));
    cr_assert_eq(nat_path_stats(net.nodes[1].path).suspicions, 0);
    return direct;
}

static size_t routes_of(int a, int b)
{
    struct net_addr both[2];
    return nat_path_routes(net.nodes[a].path, &net.nodes[b].id, both);
}

/* A QUIC packet of node 0 reaches node 1 by this route. */
static void carried(const char *addr)
{
    struct net_addr from = at(addr);
    nat_path_carried(net.nodes[1].path, net.now_ns, &net.nodes[0].id, &from);
    net_drain(&net, 1);
}

/* Node 0 moves and knows it; its packets go to nowhere by the direct route from then on, node 1's as well. */
Test(path_beside, a_move_of_the_peer_is_told_by_what_comes_through_the_relay)
{
    struct link *direct = under_way(MS(20), MS(30));
    direct->up_ab = direct->up_ba = false;
    nat_path_moved(net.nodes[0].path, net.now_ns);
    net_transfer(&net, 0, 1, MS(50));
    cr_expect_eq(routes_of(1, 0), 2, "one way and 10 ms later");
    cr_expect_eq(nat_path_stats(net.nodes[1].path).suspicions, 1);
    net_transfer(&net, 0, 1, MS(500));
    cr_expect(net_uses(&net, 0, 1, relay_b) && net_uses(&net, 1, 0, relay_a));
    cr_expect_leq(net.nodes[0].data_gap_ns, MS(100));
    cr_expect_leq(net.nodes[1].data_gap_ns, MS(60));
    net_close(&net);
}

/* An address goes before the next one comes, that comes before its route, and a relay has yet to learn of it:
 * what was sent meanwhile is lost, and asked again each time.  Links here are indexed as they were made. */
Test(path_beside, what_a_move_swallows_is_asked_again)
{
    struct link *direct = under_way(MS(20), MS(30));
    struct link *relay = &net.links[0];
    net.listener = count_doubtful;
    doubtful = 0;
    nat_path_relay_moved(net.nodes[0].path, net.now_ns);
    net_drain(&net, 0);
    cr_expect_eq(doubtful, 0, "nothing is in doubt");
    direct->up_ab = direct->up_ba = relay->up_ab = relay->up_ba = false;
    net_run_for(&net, MS(35)); /* what is on its way */
    for (int i = 0; i < 2; i++) {
        nat_path_moved(net.nodes[0].path, net.now_ns);
        net_transfer(&net, 0, 1, MS(30));
    }
    cr_expect_eq(doubtful, 2, "the address, then the route");
    cr_expect_eq(nat_path_stats(net.nodes[0].path).suspicions, 1, "of one route");
    relay->up_ab = relay->up_ba = true;
    uint64_t probes = relay->carried;
    nat_path_relay_moved(net.nodes[0].path, net.now_ns);
    net_drain(&net, 0);
    cr_expect_eq(doubtful, 3);
    cr_expect_eq(relay->carried, probes + 1, "its standby is probed");
    net_run_for(&net, MS(200));
    cr_expect(net_uses(&net, 0, 1, relay_b));
    net_close(&net);
}

/* The address is away for seconds and all routes die: the new one has everything tried at once. */
Test(path_beside, a_new_address_ends_an_outage_at_once)
{
    struct link *direct = under_way(MS(20), MS(30));
    direct->up_ab = direct->up_ba = net.links[0].up_ab = net.links[0].up_ba = false;
    net_transfer(&net, 0, 1, MS(20000));
    cr_assert(net_uses(&net, 0, 1, NULL));
    net_run_for(&net, MS(90000));
    direct->up_ab = direct->up_ba = net.links[0].up_ab = net.links[0].up_ba = true;
    nat_path_moved(net.nodes[0].path, net.now_ns);
    net_drain(&net, 0);
    net_run_for(&net, MS(70));
    cr_expect(net_uses(&net, 0, 1, direct_b));
    net_close(&net);
}

/* The peer doubles its packets while its own route is in doubt: the twin by ours says that ours is well,
 * whichever of them comes first. */
Test(path_beside, twins_of_doubled_packets_say_nothing)
{
    for (int faster = 0; faster < 2; faster++) {
        under_way(faster ? MS(60) : MS(20), faster ? MS(5) : MS(30));
        for (int i = 0; i < 20; i++) {
            nat_path_moved(net.nodes[0].path, net.now_ns);
            net_transfer(&net, 0, 1, MS(100));
        }
        cr_expect_eq(nat_path_stats(net.nodes[1].path).suspicions, 0, "faster %d", faster);
        net_close(&net);
    }
}

/* Two that double their packets for each other's sake would never cease: with few packets, and a relay that
 * is faster than the direct route, each must see the other's twins for what they are. */
Test(path_beside, doubt_does_not_go_round_in_circles)
{
    under_way(MS(60), MS(5));
    net_run_for(&net, MS(300));
    nat_path_moved(net.nodes[0].path, net.now_ns);
    for (int i = 0; i < 100; i++) {
        net_transfer(&net, 0, 1, MS(10));
        net_run_for(&net, MS(300));
    }
    cr_expect_leq(nat_path_stats(net.nodes[0].path).suspicions, 1);
    cr_expect_eq(nat_path_stats(net.nodes[1].path).suspicions, 0);
    cr_expect_eq(nat_path_stats(net.nodes[1].path).deaths, 0);
    net_close(&net);
}

/* A peer that uses the relay for good is no reason to doubt a direct route time and again; one that changes
 * its way all the time costs one doubt a second. */
Test(path_beside, what_stays_is_doubted_once)
{
    under_way(MS(20), MS(30));
    for (int i = 0; i < 500; i++) {
        carried(relay_a);
        net_run_for(&net, MS(10));
    }
    cr_expect_eq(nat_path_stats(net.nodes[1].path).suspicions, 1);
    cr_expect_eq(nat_path_stats(net.nodes[1].path).deaths, 0, "its probes are answered");
    cr_expect(net_uses(&net, 1, 0, direct_a));
    for (int i = 0; i < 100; i++) {
        carried(direct_a);
        carried(relay_a);
        net_run_for(&net, MS(50));
    }
    uint64_t more = nat_path_stats(net.nodes[1].path).suspicions - 1;
    cr_expect(more >= 3 && more <= 6, "%lu doubts in 5 s", (unsigned long)more);
    net_close(&net);
}

/* Probes and other datagrams come by all routes and raise no doubt; and a doubt that was wrong does not
 * lengthen the silence that the route is allowed from then on. */
Test(path_beside, probes_raise_no_doubt_and_doubts_no_caution)
{
    struct net_addr from = at(relay_a);
    struct link *direct = under_way(MS(20), MS(30));
    for (int i = 0; i < 100; i++) {
        nat_path_heard(net.nodes[1].path, net.now_ns, &net.nodes[0].id, &from);
        net_run_for(&net, MS(15));
    }
    cr_expect_eq(nat_path_stats(net.nodes[1].path).suspicions, 0);
    carried(relay_a);
    net_run_for(&net, MS(500));
    cr_expect_eq(nat_path_stats(net.nodes[1].path).false_suspicions, 1);
    net_transfer(&net, 0, 1, MS(2000));
    direct->up_ab = direct->up_ba = false;
    net_transfer(&net, 0, 1, MS(100));
    cr_expect_eq(nat_path_stats(net.nodes[1].path).suspicions, 2, "the cautious limit would be 120 ms");
    net_close(&net);
}
