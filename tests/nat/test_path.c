/* Paths: the best address that answers is used, a dead one is noticed in bounded time and not before, a moved
 * peer is followed, and neither replayed nor redirected datagrams move traffic.  Two to four cores run in
 * virtual time. */
#include <stdio.h>

#include "base/pack.h"
#include "tests/nat/path_net.h"

static struct path_net net;

static void two_nodes(void)
{
    memset(&net, 0, sizeof net);
    net.now_ns = MS(1000);
    cr_assert_eq(net_node(&net, 16), 0);
    cr_assert_eq(net_node(&net, 16), 1);
}

Test(path, one_side_knows_and_both_get_a_route)
{
    two_nodes();
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(20));
    cr_expect_eq(nat_path_route(net.nodes[0].path, &net.nodes[1].id, &(struct net_addr){0}), ERR_NOT_FOUND);
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    cr_expect(net_uses(&net, 0, 1, NULL));
    net_run_for(&net, MS(100));
    cr_expect(net_uses(&net, 0, 1, "198.51.100.1:2"));
    cr_expect(net_uses(&net, 1, 0, "192.0.2.1:1"), "learnt from the probe's source");
    cr_expect_eq(net.nodes[0].up, 1);
    cr_expect_eq(net.nodes[1].up, 1);
    cr_expect_gt(net.nodes[0].observed, 0);
    struct net_addr expected = at("192.0.2.1:1");
    cr_expect(net_addr_equal(&net.nodes[0].seen, &expected));
    struct nat_path_info info[NAT_PATH_CANDIDATES_MAX];
    cr_expect_eq(nat_path_candidates(net.nodes[0].path, &net.nodes[1].id, info, NAT_PATH_CANDIDATES_MAX), 1);
    cr_expect(info[0].state == NAT_ACTIVE && info[0].rtt_ns >= MS(40) && info[0].rtt_ns < MS(41));
    net_close(&net);
}

Test(path, an_idle_route_is_probed_rarely)
{
    two_nodes();
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(20));
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_run_for(&net, MS(5000));
    uint64_t before = net.links[0].carried;
    net_run_for(&net, MS(60000));
    cr_expect_leq(net.links[0].carried - before, 24, "%lu", (unsigned long)(net.links[0].carried - before));
    cr_expect_geq(net.links[0].carried - before, 8);
    net_close(&net);
}

Test(path, private_before_global_then_lowest_round_trip)
{
    two_nodes();
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(2));
    net_link(&net, 0, "[2001:db8::1]:1", 1, "[2001:db8::2]:2", MS(1));
    net_link(&net, 0, "192.168.1.1:1", 1, "192.168.1.2:2", MS(3));
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_offer(&net, 0, 1, "[2001:db8::2]:2", NAT_ROUTE_DIRECT6);
    net_run_for(&net, MS(1500));
    cr_expect(!net_uses(&net, 0, 1, NULL));
    net_offer(&net, 0, 1, "192.168.1.2:2", NAT_ROUTE_LAN);
    net_run_for(&net, MS(30000));
    cr_expect(net_uses(&net, 0, 1, "192.168.1.2:2"));
    net_close(&net);
}

Test(path, a_private_address_over_a_slow_tunnel_does_not_win)
{
    two_nodes();
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(5));
    net_link(&net, 0, "100.64.0.1:1", 1, "100.64.0.2:2", MS(40));
    net_offer(&net, 0, 1, "100.64.0.2:2", NAT_ROUTE_LAN);
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_transfer(&net, 0, 1, MS(10000));
    cr_expect(net_uses(&net, 0, 1, "198.51.100.1:2"));
    net_close(&net);
}

static bool switches_from_20_ms_to(uint64_t delay_ns)
{
    two_nodes();
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(20));
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_transfer(&net, 0, 1, MS(3000));
    net_link(&net, 0, "192.0.2.9:1", 1, "198.51.100.9:2", delay_ns);
    net_offer(&net, 0, 1, "198.51.100.9:2", NAT_ROUTE_DIRECT4);
    net_transfer(&net, 0, 1, MS(20000));
    bool switched = net_uses(&net, 0, 1, "198.51.100.9:2");
    cr_expect_eq(net.nodes[0].changed, (int)switched);
    cr_expect_eq(net.nodes[0].dead, 0);
    net_close(&net);
    return switched;
}

Test(path, a_slightly_faster_route_is_not_worth_a_change)
{
    cr_expect(!switches_from_20_ms_to(MS(18)));
    cr_expect(!switches_from_20_ms_to(MS(20)));
    cr_expect(switches_from_20_ms_to(MS(15)));
}

/* Two routes, data flowing; the one in use stops carrying.  Measured with these timers on real links: the
 * cautious set needs about 1.5 round trips and 160 ms. */
Test(path, loss_of_the_route_in_use_switches_and_return_switches_back)
{
    two_nodes();
    struct link *lan = net_link(&net, 0, "192.168.1.1:1", 1, "192.168.1.2:2", MS(1));
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(20));
    net_offer(&net, 0, 1, "192.168.1.2:2", NAT_ROUTE_LAN);
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_transfer(&net, 0, 1, MS(3000));
    cr_assert(net_uses(&net, 0, 1, "192.168.1.2:2") && net_uses(&net, 1, 0, "192.168.1.1:1"));
    lan->up_ab = lan->up_ba = false;
    uint64_t cut_ns = net.now_ns;
    net_transfer(&net, 0, 1, MS(1000));
    for (int i = 0; i < 2; i++) {
        cr_expect_eq(net.nodes[i].changed, 1);
        cr_expect_eq(net.nodes[i].dead, 0);
        cr_expect_lt(net.nodes[i].last_event_ns - cut_ns, MS(250), "node %d: %lu ms", i,
                     (unsigned long)((net.nodes[i].last_event_ns - cut_ns) / MS(1)));
        cr_expect_gt(net.nodes[i].last_event_ns - cut_ns, MS(60));
    }
    cr_expect(net_uses(&net, 0, 1, "198.51.100.1:2") && net_uses(&net, 1, 0, "192.0.2.1:1"));
    lan->up_ab = lan->up_ba = true;
    net_transfer(&net, 0, 1, MS(10000));
    cr_expect(net_uses(&net, 0, 1, "192.168.1.2:2") && net_uses(&net, 1, 0, "192.168.1.1:1"));
    cr_expect_eq(net.nodes[0].changed, 2);
    net_close(&net);
}

Test(path, losing_the_only_route_is_told_and_so_is_its_return)
{
    two_nodes();
    struct link *link = net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(20));
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_transfer(&net, 0, 1, MS(2000));
    link->up_ab = link->up_ba = false;
    net_transfer(&net, 0, 1, MS(5000));
    cr_expect_eq(net.nodes[0].dead, 1);
    cr_expect_eq(net.nodes[1].dead, 1);
    cr_expect(net_uses(&net, 0, 1, NULL));
    link->up_ab = link->up_ba = true;
    net_run_for(&net, MS(600));
    cr_expect_eq(net.nodes[0].up, 2, "a lost route is looked for every 500 ms");
    cr_expect_eq(net.nodes[1].up, 2);
    net_close(&net);
}

Test(path, an_idle_route_dies_within_half_a_minute)
{
    two_nodes();
    struct link *link = net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(20));
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_run_for(&net, MS(20000));
    link->up_ab = link->up_ba = false;
    net_run_for(&net, MS(20000));
    cr_expect_eq(net.nodes[0].dead, 1);
    net_close(&net);
}

/* The trap of the prototype: an idle route that becomes busy must not look silent at once. */
Test(path, waking_up_raises_no_alarm)
{
    two_nodes();
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(150));
    net_link(&net, 0, "192.0.2.9:1", 1, "198.51.100.9:2", MS(150));
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_offer(&net, 0, 1, "198.51.100.9:2", NAT_ROUTE_DIRECT4);
    for (int i = 0; i < 20; i++) {
        net_run_for(&net, MS(9700));
        net_transfer(&net, 0, 1, MS(700));
    }
    for (int i = 0; i < 2; i++) {
        cr_expect_eq(nat_path_stats(net.nodes[i].path).deaths, 0);
        cr_expect_eq(net.nodes[i].changed, 0);
    }
    net_close(&net);
}

static enum nat_route_state state_of_only_route(int a, int b)
{
    struct nat_path_info info;
    cr_assert_eq(nat_path_candidates(net.nodes[a].path, &net.nodes[b].id, &info, 1), 1);
    return info.state;
}

Test(path, the_first_bytes_after_a_pause_raise_no_suspicion)
{
    two_nodes();
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(150));
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_run_for(&net, MS(9000));
    nat_path_busy(net.nodes[0].path, net.now_ns, &net.nodes[1].id, 100000);
    net_run_for(&net, MS(250));
    cr_expect_eq(state_of_only_route(0, 1), NAT_ACTIVE);
    nat_path_busy(net.nodes[0].path, net.now_ns, &net.nodes[1].id, 100000);
    net.links[0].up_ba = false;
    net_run_for(&net, MS(500));
    cr_expect_eq(state_of_only_route(0, 1), NAT_SUSPECT, "silence that lasts does");
    net_close(&net);
}

/* A stall while a route is suspect: what would clear it waits in the socket while the timers fire first. */
Test(path, a_stall_during_suspicion_kills_no_route)
{
    struct net_message packet = {.kind = 0, .addr = at("192.0.2.1:1")};
    two_nodes();
    struct link *link = net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(10));
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_transfer(&net, 0, 1, MS(3000));
    link->up_ab = link->up_ba = false;
    while (state_of_only_route(0, 1) != NAT_SUSPECT)
        net_transfer(&net, 0, 1, MS(10));
    net_run_for(&net, MS(45));
    cr_assert_eq(state_of_only_route(0, 1), NAT_SUSPECT);
    link->up_ab = link->up_ba = true;
    net_carry(&net, 1, &packet, true);
    net.now_ns += MS(300);
    nat_path_tick(net.nodes[0].path, net.now_ns);
    net_drain(&net, 0);
    net_run_for(&net, MS(20));
    cr_expect_eq(net.nodes[0].dead, 0);
    cr_expect_eq(state_of_only_route(0, 1), NAT_ACTIVE);
    net_close(&net);
}

/* Two routes answer within milliseconds: the first is used at once, the better one only after the hold-down.
 */
Test(path, an_improvement_waits_a_second)
{
    two_nodes();
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(1));
    net_link(&net, 0, "192.168.1.1:1", 1, "192.168.1.2:2", MS(3));
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_offer(&net, 0, 1, "192.168.1.2:2", NAT_ROUTE_LAN);
    net_transfer(&net, 0, 1, MS(900));
    cr_expect(net_uses(&net, 0, 1, "198.51.100.1:2"));
    net_transfer(&net, 0, 1, MS(2000));
    cr_expect(net_uses(&net, 0, 1, "192.168.1.2:2"));
    net_close(&net);
}

/* The same while nobody sends: the change does not wait for the next keep-alive. */
Test(path, an_improvement_comes_to_idle_peers_too)
{
    two_nodes();
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(1));
    net_link(&net, 0, "192.168.1.1:1", 1, "192.168.1.2:2", MS(3));
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_offer(&net, 0, 1, "192.168.1.2:2", NAT_ROUTE_LAN);
    net_run_for(&net, MS(500));
    cr_expect(net_uses(&net, 0, 1, "198.51.100.1:2"));
    net_run_for(&net, MS(2500));
    cr_expect(net_uses(&net, 0, 1, "192.168.1.2:2"));
    net_close(&net);
}

/* Our own thread slept: the peers' datagrams still wait in the socket while the timers fire. */
Test(path, a_stall_of_our_own_kills_no_route)
{
    two_nodes();
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(10));
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_transfer(&net, 0, 1, MS(3000));
    for (int i = 0; i < 10; i++) {
        net.now_ns += MS(1400);
        net_transfer(&net, 0, 1, MS(500));
    }
    cr_expect_eq(net.nodes[0].dead, 0);
    cr_expect_eq(net.nodes[1].dead, 0);
    net_close(&net);
}

/* Node 1 hears node 0, but nothing of what node 1 sends over that route arrives. */
Test(path, one_way_death_is_noticed)
{
    two_nodes();
    struct link *lan = net_link(&net, 0, "192.168.1.1:1", 1, "192.168.1.2:2", MS(1));
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(20));
    net_offer(&net, 0, 1, "192.168.1.2:2", NAT_ROUTE_LAN);
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_transfer(&net, 0, 1, MS(3000));
    cr_assert(net_uses(&net, 1, 0, "192.168.1.1:1"));
    lan->up_ba = false;
    net_transfer(&net, 0, 1, MS(5000));
    cr_expect(net_uses(&net, 0, 1, "198.51.100.1:2"));
    cr_expect(net_uses(&net, 1, 0, "192.0.2.1:1"));
    net_close(&net);
}

/* A route that comes and goes every 2 s must not drag the connection along each time. */
Test(path, flapping_is_held_down)
{
    two_nodes();
    struct link *lan = net_link(&net, 0, "192.168.1.1:1", 1, "192.168.1.2:2", MS(1));
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(20));
    net_offer(&net, 0, 1, "192.168.1.2:2", NAT_ROUTE_LAN);
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_transfer(&net, 0, 1, MS(3000));
    for (int i = 0; i < 30; i++) {
        lan->up_ab = lan->up_ba = i % 2 != 0;
        net_transfer(&net, 0, 1, MS(2000));
    }
    cr_expect_leq(net.nodes[0].changed, 10, "%d changes in 30 flaps", net.nodes[0].changed);
    cr_expect_eq(net.nodes[0].dead, 0);
    lan->up_ab = lan->up_ba = true;
    net_transfer(&net, 0, 1, MS(90000));
    cr_expect(net_uses(&net, 0, 1, "192.168.1.2:2"), "once it is steady it is used again");
    net_close(&net);
}

/* A NAT gives the peer another outer port: its next packet comes from an unknown address. */
Test(path, a_peer_that_moves_is_followed)
{
    two_nodes();
    struct link *old = net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(20));
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_transfer(&net, 0, 1, MS(2000));
    old->up_ab = old->up_ba = false;
    net_link(&net, 0, "192.0.2.1:777", 1, "198.51.100.1:2", MS(20));
    uint64_t cut_ns = net.now_ns;
    net_transfer(&net, 0, 1, MS(1500));
    cr_expect(net_uses(&net, 1, 0, "192.0.2.1:777"));
    cr_expect_lt(net.nodes[1].last_event_ns - cut_ns, MS(500));
    cr_expect(net_uses(&net, 0, 1, "198.51.100.1:2"));
    struct id peer;
    struct net_addr moved = at("192.0.2.1:777");
    cr_expect(nat_path_peer_at(net.nodes[1].path, &moved, &peer) == ERR_OK &&
              id_equal(&peer, &net.nodes[0].id));
    net_close(&net);
}

/* Both behind NATs that let in only what was asked for: a single probe meets a closed door, punching opens
 * both. */
Test(path, punching_opens_two_nats)
{
    two_nodes();
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(50))->filtered = true;
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_run_for(&net, MS(30000));
    cr_expect(net_uses(&net, 0, 1, NULL));
    struct nat_path_info info;
    cr_expect_eq(nat_path_candidates(net.nodes[0].path, &net.nodes[1].id, &info, 1), 1);
    cr_expect_eq(info.state, NAT_DEAD);
    net_offer(&net, 1, 0, "192.0.2.1:1", NAT_ROUTE_DIRECT4);
    cr_expect_eq(nat_path_punch(net.nodes[0].path, net.now_ns, &net.nodes[1].id), ERR_OK);
    cr_expect_eq(nat_path_punch(net.nodes[1].path, net.now_ns, &net.nodes[0].id), ERR_OK);
    net_drain(&net, 0);
    net_drain(&net, 1);
    net_run_for(&net, MS(250));
    cr_expect(net_uses(&net, 0, 1, "198.51.100.1:2"));
    cr_expect(net_uses(&net, 1, 0, "192.0.2.1:1"));
    net_close(&net);
}

static struct net_message probe_from(const struct id *peer, const char *from, uint32_t sequence, uint8_t kind)
{
    struct net_message message = {.peer = *peer, .addr = at(from), .kind = kind};
    uint8_t wire[NET_ADDR_WIRE_MAX];
    struct net_addr seen = at(message.addr.family == NET_FAMILY_V4 ? "203.0.113.5:5" : "[2001:db8::5]:5");
    size_t len = net_addr_encode(&seen, wire);
    struct pack_writer w = pack_writer_of(message.body, sizeof message.body);
    pack_map(&w, 3);
    pack_key_uint(&w, 1, sequence);
    pack_key_bin(&w, 2, bytes_of(wire, len));
    pack_key_bool(&w, 3, true);
    message.body_len = pack_writer_len(&w);
    return message;
}

/* Someone who captured a probe before it arrived sends it from elsewhere. */
Test(path, a_redirected_probe_does_not_divert)
{
    two_nodes();
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(20));
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_transfer(&net, 0, 1, MS(2000));
    uint64_t before = net.to_nowhere;
    for (int i = 0; i < 100; i++) {
        char from[NET_ADDR_TEXT_SIZE];
        (void)snprintf(from, sizeof from, "203.0.113.%d:666", 1 + i % 50);
        struct net_message stolen = probe_from(&net.nodes[1].id, from, (uint32_t)i, NET_KIND_PROBE);
        (void)net_receive(&net, 0, &stolen);
        struct net_addr thief = at(from);
        nat_path_heard(net.nodes[0].path, net.now_ns, &net.nodes[1].id, &thief);
        net_drain(&net, 0);
        net_transfer(&net, 0, 1, MS(10));
        cr_assert(net_uses(&net, 0, 1, "198.51.100.1:2"));
    }
    uint64_t probes = net.to_nowhere - before - 100; /* an answer for each */
    cr_expect_leq(probes, 60, "new addresses are probed at most every 50 ms at first: %lu",
                  (unsigned long)probes);
    net_transfer(&net, 0, 1, MS(20000));
    cr_expect_eq(net.nodes[0].changed + net.nodes[0].dead, 0);
    struct nat_path_info info[NAT_PATH_CANDIDATES_MAX];
    cr_expect_eq(nat_path_candidates(net.nodes[0].path, &net.nodes[1].id, info, NAT_PATH_CANDIDATES_MAX), 1,
                 "the false addresses are forgotten");
    net_close(&net);
}

/* An answer proves an address only if it comes from there and to a probe that is outstanding. */
Test(path, answers_must_match_address_and_sequence)
{
    two_nodes();
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    struct nat_path *path = net.nodes[0].path;
    const struct id *peer = &net.nodes[1].id;
    cr_expect_eq(nat_path_stats(path).probes_sent, 1);
    for (uint32_t guess = 0; guess < 1000; guess++) {
        struct net_message message =
            probe_from(peer, "198.51.100.1:2", guess * 4294967, NET_KIND_PROBE_ANSWER);
        cr_assert_eq(net_receive(&net, 0, &message), ERR_REFUSED);
    }
    cr_expect(net_uses(&net, 0, 1, NULL));
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(20));
    net_run_for(&net, MS(200));
    cr_expect(net_uses(&net, 0, 1, "198.51.100.1:2"));
    struct net_message stranger =
        probe_from(&(struct id){.bytes = {9}}, "198.51.100.7:2", 1, NET_KIND_PROBE_ANSWER);
    cr_expect_eq(net_receive(&net, 0, &stranger), ERR_REFUSED);
    net_close(&net);
}

Test(path, refuses_itself_and_bad_input)
{
    two_nodes();
    struct nat_path *path = net.nodes[0].path;
    struct net_addr addr = at("198.51.100.1:2");
    struct net_addr zero_port = at("198.51.100.1:0");
    const struct id *peer = &net.nodes[1].id;
    cr_expect_eq(nat_path_peer_add(path, 0, &net.nodes[0].id), ERR_INVALID);
    struct net_message own = probe_from(&net.nodes[0].id, "192.0.2.1:1", 1, NET_KIND_PROBE);
    cr_expect_eq(net_receive(&net, 0, &own), ERR_REFUSED);
    cr_expect_eq(nat_path_candidate_add(path, 0, peer, &addr, NAT_ROUTE_LAN), ERR_NOT_FOUND);
    cr_expect_eq(nat_path_peer_add(path, 0, peer), ERR_OK);
    cr_expect_eq(nat_path_candidate_add(path, 0, peer, &zero_port, NAT_ROUTE_LAN), ERR_INVALID);
    cr_expect_eq(nat_path_candidate_add(path, 0, peer, &addr, NAT_ROUTE_RELAYED), ERR_INVALID);
    struct net_message good = probe_from(peer, "198.51.100.1:2", 1, NET_KIND_PROBE);
    for (size_t len = 0; len < good.body_len; len++) {
        struct net_message cut = good;
        cut.body_len = len;
        cr_expect_eq(net_receive(&net, 0, &cut), ERR_MALFORMED, "length %zu", len);
    }
    struct net_message mixed = good;
    mixed.addr = at("[2001:db8::1]:1");
    cr_expect_eq(net_receive(&net, 0, &mixed), ERR_MALFORMED);
    cr_expect_eq(net_receive(&net, 0, &good), ERR_OK);
    net_close(&net);
}

/* Tables fill to their caps and no further; strangers never take the room of peers that are wanted. */
Test(path, tables_are_capped)
{
    two_nodes();
    struct nat_path *path = net.nodes[0].path;
    int refused = 0;
    for (unsigned i = 0; i < 300; i++) {
        char from[NET_ADDR_TEXT_SIZE];
        struct id id = {.bytes = {0xaa, (uint8_t)i, (uint8_t)(i >> 8)}};
        (void)snprintf(from, sizeof from, "198.51.%u.1:2", i % 200);
        struct net_message message = probe_from(&id, from, i, NET_KIND_PROBE);
        refused += net_receive(&net, 0, &message) != ERR_OK;
        net.now_ns++;
    }
    cr_expect_eq(refused, 0, "silent strangers give way to new ones");
    for (unsigned i = 0; i < 16; i++)
        cr_expect_eq(nat_path_peer_add(path, net.now_ns, &(struct id){.bytes = {0xbb, (uint8_t)i}}), ERR_OK);
    cr_expect_eq(nat_path_peer_add(path, net.now_ns, &(struct id){.bytes = {0xbb, 99}}), ERR_FULL);
    cr_expect_eq(nat_path_peer_add(path, net.now_ns, &(struct id){.bytes = {0xbb, 3}}), ERR_OK);
    const struct id peer = {.bytes = {0xbb, 3}};
    for (unsigned i = 0; i < NAT_PATH_OFFERED_MAX; i++) {
        struct net_addr addr = {.family = NET_FAMILY_V4, .ip = {203, 0, 113, (uint8_t)i}, .port = 9};
        cr_expect_eq(nat_path_candidate_add(path, net.now_ns, &peer, &addr, NAT_ROUTE_DIRECT4), ERR_OK);
    }
    struct net_addr one_more = at("203.0.113.99:9");
    cr_expect_eq(nat_path_candidate_add(path, net.now_ns, &peer, &one_more, NAT_ROUTE_DIRECT4), ERR_FULL);
    nat_path_heard(path, net.now_ns, &peer, &one_more);
    net_drain(&net, 0);
    net_run_for(&net, MS(60000));
    cr_expect_eq(nat_path_candidate_add(path, net.now_ns, &peer, &one_more, NAT_ROUTE_DIRECT4), ERR_OK,
                 "dead ones give way");
    nat_path_peer_remove(path, &peer);
    cr_expect_eq(nat_path_route(path, &peer, &one_more), ERR_NOT_FOUND);
    net_drain(&net, 0);
    net_close(&net);
}

/* A hundred ids from one network cannot fill the room for strangers. */
Test(path, inbound_peers_of_one_group_are_capped)
{
    memset(&net, 0, sizeof net);
    (void)net_node(&net, 512);
    int accepted = 0;
    for (unsigned i = 0; i < 100; i++) {
        struct id id = {.bytes = {0xaa, (uint8_t)i}};
        char from[NET_ADDR_TEXT_SIZE];
        (void)snprintf(from, sizeof from, "198.51.100.%u:2", i);
        struct net_message message = probe_from(&id, from, i, NET_KIND_PROBE);
        accepted += net_receive(&net, 0, &message) == ERR_OK;
    }
    cr_expect_eq(accepted, 16);
    net_close(&net);
}

/* Neither side wants the other any more: the routes end by themselves. */
Test(path, unwanted_peers_fade_away)
{
    two_nodes();
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(20));
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    net_run_for(&net, MS(200000));
    cr_expect(net_uses(&net, 1, 0, "192.0.2.1:1"), "wanted by the other side");
    nat_path_peer_remove(net.nodes[0].path, &net.nodes[1].id);
    net_run_for(&net, MS(200000));
    cr_expect_eq(nat_path_route(net.nodes[1].path, &net.nodes[0].id, &(struct net_addr){0}), ERR_NOT_FOUND);
    cr_expect_eq(nat_path_route(net.nodes[0].path, &net.nodes[1].id, &(struct net_addr){0}), ERR_NOT_FOUND);
    cr_expect_eq(net.nodes[1].dead, 1);
    uint64_t before = net.links[0].carried;
    net_run_for(&net, MS(200000));
    cr_expect_eq(net.links[0].carried, before);
    net_close(&net);
}

/* Who proved to be at an address keeps it against who was only heard from there. */
Test(path, peer_at_prefers_proof)
{
    two_nodes();
    struct id found;
    struct net_addr addr = at("198.51.100.1:2");
    net_link(&net, 0, "192.0.2.1:1", 1, "198.51.100.1:2", MS(20));
    net_offer(&net, 0, 1, "198.51.100.1:2", NAT_ROUTE_DIRECT4);
    cr_expect_eq(nat_path_peer_at(net.nodes[0].path, &addr, &found), ERR_NOT_FOUND, "only offered");
    net_run_for(&net, MS(100));
    cr_expect(nat_path_peer_at(net.nodes[0].path, &addr, &found) == ERR_OK &&
              id_equal(&found, &net.nodes[1].id));
    struct net_message other = probe_from(&(struct id){.bytes = {7}}, "198.51.100.1:2", 1, NET_KIND_PROBE);
    cr_expect_eq(net_receive(&net, 0, &other), ERR_OK);
    cr_expect(nat_path_peer_at(net.nodes[0].path, &addr, &found) == ERR_OK &&
              id_equal(&found, &net.nodes[1].id));
    struct net_message heard = probe_from(&(struct id){.bytes = {8}}, "198.51.100.8:2", 1, NET_KIND_PROBE);
    cr_expect_eq(net_receive(&net, 0, &heard), ERR_OK);
    cr_expect(nat_path_peer_at(net.nodes[0].path, &heard.addr, &found) == ERR_OK && found.bytes[0] == 8);
    net_close(&net);
}

Test(path, config_is_checked)
{
    struct rng_seeded stream;
    const char *why;
    rng_seeded_init(&stream, 1);
    struct nat_path_config good = nat_path_config_default();
    good.self.bytes[0] = 1;
    good.rng = rng_of_seeded(&stream);
    cr_expect_eq(nat_path_config_check(&good, &why), ERR_OK);
    struct nat_path_config bad[4] = {good, good, good, good};
    memset(&bad[0].self, 0, sizeof bad[0].self);
    bad[1].peers_max = NAT_PATH_PEERS_MAX + 1;
    bad[2].idle_ns = 0;
    bad[3].rng.fill = NULL;
    for (size_t i = 0; i < 4; i++) {
        why = NULL;
        cr_expect(nat_path_config_check(&bad[i], &why) == ERR_INVALID && why != NULL, "%zu", i);
    }
    cr_expect_lt(nat_path_size(&good), (size_t)4 << 20, "%zu", nat_path_size(&good));
}

/* Random operations may well be refused. */
static void may_fail(int rc)
{
    (void)rc;
}

static void random_step(struct rng *rng)
{
    int a = (int)rng_below(rng, 4);
    int b = (int)rng_below(rng, 4);
    struct nat_path *path = net.nodes[a].path;
    const struct id *peer = &net.nodes[b].id;
    struct link *link = &net.links[rng_below(rng, (uint64_t)net.link_count)];
    struct net_addr addr = rng_below(rng, 2) == 0 ? link->addr_a : link->addr_b;
    struct net_message message;
    switch (rng_below(rng, 14)) {
    case 0:
        may_fail(nat_path_peer_add(path, net.now_ns, peer));
        break;
    case 1:
        if (rng_below(rng, 8) == 0)
            nat_path_peer_remove(path, peer);
        break;
    case 2:
    case 3:
        may_fail(nat_path_candidate_add(path, net.now_ns, peer, &addr,
                                        (enum nat_route_kind)(1 + rng_below(rng, 5))));
        break;
    case 4:
        may_fail(nat_path_punch(path, net.now_ns, peer));
        break;
    case 5:
        nat_path_heard(path, net.now_ns, peer, &addr);
        break;
    case 6:
        nat_path_busy(path, net.now_ns, peer, rng_below(rng, 10000));
        break;
    case 7:
        link->up_ab = rng_below(rng, 3) != 0;
        link->up_ba = rng_below(rng, 3) != 0;
        break;
    case 8:
        link->delay_ns = rng_below(rng, MS(200));
        break;
    case 9:
        message = probe_from(peer, "203.0.113.9:9", rng_u32(rng), NET_KIND_PROBE);
        message.addr.port = (uint16_t)(1 + rng_below(rng, 3));
        (void)net_receive(&net, a, &message);
        break;
    case 10:
        may_fail(nat_path_set_life(path, net.now_ns, peer, MS(1000) * rng_below(rng, 100)));
        break;
    case 11:
        addr.via = (uint16_t)(NET_VIA_AUX_FIRST + rng_below(rng, 3));
        if (rng_below(rng, 3) == 0)
            nat_path_via_closed(path, net.now_ns, addr.via);
        else
            may_fail(nat_path_candidate_add(path, net.now_ns, peer, &addr, NAT_ROUTE_PUNCHED));
        break;
    default:
        net_run_for(&net, rng_below(rng, rng_below(rng, 20) == 0 ? MS(20000) : MS(300)));
    }
    net_drain(&net, a);
}

/* Model: whatever happens, the relations inside hold; and when it stops and the links stand, everyone who is
 * wanted is reached again. */
Test(path, ten_thousand_random_operations)
{
    static const char *const addrs[4] = {"10.0.0.1:1", "192.0.2.2:2", "10.0.0.3:3", "198.51.100.4:4"};
    struct rng_seeded stream;
    memset(&net, 0, sizeof net);
    rng_seeded_init(&stream, 42);
    struct rng rng = rng_of_seeded(&stream);
    for (int i = 0; i < 4; i++)
        (void)net_node(&net, 2);
    for (int a = 0; a < 4; a++) {
        for (int b = a + 1; b < 4; b++)
            net_link(&net, a, addrs[a], b, addrs[b], MS(10) * (uint64_t)(1 + a + b));
    }
    for (int i = 0; i < 10000; i++)
        random_step(&rng);
    for (int i = 0; i < net.link_count; i++) {
        net.links[i].up_ab = net.links[i].up_ba = true;
        net.links[i].delay_ns = MS(10);
    }
    for (int i = 0; i < 4; i++) {
        for (int k = 0; k < 4; k++)
            nat_path_peer_remove(net.nodes[i].path, &net.nodes[k].id);
    }
    net_offer(&net, 0, 1, addrs[1], NAT_ROUTE_DIRECT4);
    net_offer(&net, 2, 3, addrs[3], NAT_ROUTE_DIRECT4);
    net_run_for(&net, MS(20000));
    cr_expect(net_uses(&net, 0, 1, addrs[1]));
    cr_expect(net_uses(&net, 2, 3, addrs[3]));
    net_close(&net);
}
