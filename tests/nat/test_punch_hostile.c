/* Peers that vanish, repeat, flood, lie or cross each other, and callers without sockets: every round still
 * ends in one result, within the caps, and nothing stays behind. */
#include "punch_net.h"

static struct punch_net net;

/* Both invite in the same instant: one round, two results. */
Test(punch_hostile, both_invite_at_once)
{
    for (int late = 0; late < 3; late++) {
        net_open(&net, 1, kind_port, kind_series);
        net_start(&net, late == 2 ? 1 : 0);
        net_run(&net, net.now_ns + MS(20) * (unsigned)(late > 0));
        net_start(&net, late == 2 ? 0 : 1);
        net_run(&net, net.now_ns + S(60));
        for (int i = 0; i < OBSERVER; i++) {
            cr_assert_eq(net.nodes[i].results, 1, "late %d node %d: %d", late, i, net.nodes[i].results);
            cr_assert(net.nodes[i].result.ok);
            cr_assert_not(net.nodes[i].result.inbound);
        }
        net_check_idle(&net);
        net_close(&net);
    }
}

/* The peer goes silent after so many milliseconds, for good or for a while. */
Test(punch_hostile, peer_vanishes_at_each_stage)
{
    const struct nat_kind kinds[] = {kind_port, kind_series, kind_random};
    for (size_t k = 0; k < 3; k++) {
        for (unsigned ms = 0; ms < 400; ms += 35) {
            for (int who = 0; who < 2; who++) {
                net_open(&net, ms + 1, kinds[k], k == 1 ? kind_series : kind_port);
                net_start(&net, 0);
                net_run(&net, net.now_ns + MS(ms));
                net.nodes[who].mute = true;
                net_run(&net, net.now_ns + S(120));
                net.nodes[who].mute = false;
                net_run(&net, net.now_ns + S(120));
                cr_assert_eq(net.nodes[0].results, 1, "kind %zu, %u ms, node %d", k, ms, who);
                cr_assert_leq(net.nodes[1].results, 1);
                net_check_idle(&net);
                net_close(&net);
            }
        }
    }
}

Test(punch_hostile, forgetting_ends_the_round)
{
    for (unsigned ms = 0; ms < 400; ms += 20) {
        net_open(&net, 2, kind_random, kind_port);
        net_start(&net, 0);
        net_run(&net, net.now_ns + MS(ms));
        int before = net.nodes[0].results;
        nat_punch_forget(net.nodes[0].core, net.now_ns, &net.nodes[1].id);
        net_run(&net, net.now_ns + S(60));
        cr_assert_eq(net.nodes[0].results, 1);
        cr_assert(before == 1 || net.nodes[0].result.reason == NAT_PUNCH_CANCELLED);
        cr_assert_eq(nat_punch_start(net.nodes[0].core, net.now_ns, &net.nodes[1].id, false), ERR_NOT_FOUND);
        net_check_idle(&net);
        net_close(&net);
    }
}

/* A day of punching between NATs that refuse, and callers that ask all the time: back-off, caps, no leak. */
Test(punch_hostile, day_of_failures_leaks_nothing)
{
    struct nat_kind far = kind_series;
    far.foreign = 200;
    net_open(&net, 3, far, kind_port);
    int accepted = 0, refused = 0;
    uint64_t end_ns = net.now_ns + S(86400);
    while (net.now_ns < end_ns) {
        int rc = nat_punch_start(net.nodes[0].core, net.now_ns, &net.nodes[1].id, false);
        cr_assert(rc == ERR_OK || rc == ERR_BUSY || rc == ERR_RATE);
        accepted += rc == ERR_OK;
        refused += rc == ERR_RATE;
        node_drain(&net, 0);
        /* Old mappings expire; else the model's tables would be what fills. */
        net.nodes[0].mapping_count = 1;
        net.nodes[0].pass_count = 1;
        net_run(&net, net.now_ns + S(10));
    }
    net_run(&net, net.now_ns + S(60));
    cr_assert_eq(net.nodes[0].results, accepted);
    cr_assert_eq(net.nodes[0].oks, 0);
    cr_assert_gt(refused, 1000);
    cr_assert_lt(accepted, 32);
    cr_assert_geq(accepted, 24);
    net_check_idle(&net);
    cr_assert_eq(net.nodes[0].sockets_open, 0);
    struct nat_punch_attempt log[NAT_PUNCH_LOG_MAX + 1];
    int count = nat_punch_log(net.nodes[0].core, &net.nodes[1].id, log, NAT_PUNCH_LOG_MAX + 1);
    cr_assert_eq(count, NAT_PUNCH_LOG_MAX);
    for (int i = 1; i < count; i++)
        cr_assert_gt(log[i - 1].started_ns, log[i].started_ns, "newest first");
    net_close(&net);
}

/* A change of network ends the back-off. */
Test(punch_hostile, new_network_is_a_new_chance)
{
    net_open(&net, 4, kind_random, kind_random);
    net_start(&net, 0);
    net_run(&net, net.now_ns + S(5));
    cr_assert_eq(nat_punch_start(net.nodes[0].core, net.now_ns, &net.nodes[1].id, false), ERR_RATE);
    net.nodes[0].kind = kind_cone;
    net_profile(&net, &net.nodes[0]);
    cr_assert_eq(nat_punch_start(net.nodes[0].core, net.now_ns, &net.nodes[1].id, false), ERR_OK);
    net_close(&net);
}

/* Every message of a finished round, again: nothing happens. */
Test(punch_hostile, late_messages_are_refused)
{
    net_open(&net, 5, kind_port, kind_series);
    net_start(&net, 0);
    net_run(&net, net.now_ns + S(20));
    cr_assert(net.nodes[0].result.ok && net.nodes[1].result.ok);
    for (uint8_t kind = 0; kind < 8; kind++) {
        for (int i = 0; i < OBSERVER; i++) {
            struct net_message message = net.last[kind].message;
            struct net_message out;
            if (message.kind == 0 || message.kind == PUNCH_KIND_LOOK)
                continue;
            message.addr = net.last[kind].from;
            message.peer = net.nodes[1 - i].id;
            cr_assert_lt(nat_punch_recv(net.nodes[i].core, net.now_ns, &message), 0, "kind %d", kind);
            cr_assert_not(nat_punch_poll_send(net.nodes[i].core, net.now_ns, &out));
            nat_punch_check_invariants(net.nodes[i].core);
        }
    }
    net_run(&net, net.now_ns + S(20));
    cr_assert_eq(net.nodes[0].results, 1);
    cr_assert_eq(net.nodes[1].results, 1);
    net_close(&net);
}

static struct net_message invite(uint64_t round, uint8_t attempt)
{
    struct punch_message m = {.kind = PUNCH_KIND_INVITE, .round = round, .attempt = attempt};
    struct net_message message = {.addr = at("11.0.9.1:443")};
    m.profile.public4 = at("11.0.2.1:1");
    m.candidate_count = NAT_PUNCH_CANDIDATES_MAX;
    for (size_t i = 0; i < m.candidate_count; i++) {
        m.candidates[i] = (struct nat_punch_candidate){NAT_PUNCH_V4, at("11.0.77.1:1000")};
        m.candidates[i].addr.ip[3] = (uint8_t)i;
    }
    message.addr.via = VIA_RELAY;
    punch_encode(&m, &message);
    return message;
}

/* Strangers are not listened to; a peer that invites without end gets so many rounds an hour, and its victims
 * so many probes. */
Test(punch_hostile, floods_of_invitations_are_bounded)
{
    net_open(&net, 6, kind_port, kind_port);
    struct punch_node *node = &net.nodes[0];
    struct net_message message = invite(1, 1);
    memset(message.peer.bytes, 0x77, ID_BYTES);
    cr_assert_eq(nat_punch_recv(node->core, net.now_ns, &message), ERR_REFUSED);
    net.nodes[1].mute = true;
    int rate = 0;
    for (uint64_t round = 1; round <= 2000; round++) {
        message = invite(round, 1);
        message.peer = net.nodes[1].id;
        rate += nat_punch_recv(node->core, net.now_ns, &message) == ERR_RATE;
        node_drain(&net, 0);
        struct punch_message go = {.kind = PUNCH_KIND_GO, .round = round, .attempt = 1};
        punch_encode(&go, &message);
        int rc = nat_punch_recv(node->core, net.now_ns, &message);
        cr_assert(rc == ERR_OK || rc == ERR_STALE);
        net_run(&net, net.now_ns + MS(100));
    }
    net_run(&net, net.now_ns + S(60));
    cr_assert_eq(rate, 2000 - NAT_PUNCH_INBOUND_HOUR_MAX);
    cr_assert_eq(node->results, NAT_PUNCH_INBOUND_HOUR_MAX);
    cr_assert_leq(node->sent_udp, 12 * 8 * 26);
    net_check_idle(&net);
    net_close(&net);
}

/* The cap of probes to one address holds across peers and rounds, and an evicted count is not forgotten. */
Test(punch_hostile, one_address_gets_so_many_probes)
{
    net_open(&net, 7, kind_port, kind_port);
    struct nat_punch *core = net.nodes[0].core;
    struct punch_round rounds[4];
    struct net_addr victim = at("11.0.77.1:1000");
    uint64_t now_ns = S(5000);
    uint32_t allowed = 0, others = 0;
    memset(rounds, 0, sizeof rounds);
    for (uint32_t i = 0; i < 40000; i++, now_ns += MS(10)) {
        struct punch_round *round = &rounds[i / 10000];
        victim.port = (uint16_t)(1024 + i);
        allowed += punch_allow(core, now_ns, round, &victim);
    }
    cr_assert_eq(allowed, NAT_PUNCH_PROBES_PLACE_MAX);
    for (uint32_t i = 0; i < 100000; i++) {
        struct net_addr other = at("11.0.0.1:1000");
        other.ip[1] = (uint8_t)(i >> 8);
        other.ip[2] = (uint8_t)i;
        rounds[0].probes_sent = 0;
        others += punch_allow(core, now_ns, &rounds[0], &other);
    }
    cr_assert_eq(others, NAT_PUNCH_PROBES_MINUTE_MAX);
    cr_assert_not(punch_allow(core, now_ns, &rounds[0], &victim));
    net_close(&net);
}

/* No sockets, no survey, or too few: the round says so. */
Test(punch_hostile, callers_without_means)
{
    net_open(&net, 8, kind_random, kind_port);
    net.nodes[0].no_sockets = true;
    net_start(&net, 1);
    net_run(&net, net.now_ns + S(60));
    cr_assert_eq(net.nodes[0].result.reason, NAT_PUNCH_NO_SOCKETS);
    cr_assert_eq(net.nodes[1].result.reason, NAT_PUNCH_NO_SOCKETS);
    net_check_idle(&net);
    net_close(&net);
    net_open(&net, 8, kind_series, kind_port);
    net.nodes[0].no_survey = true;
    net_start(&net, 0);
    net_run(&net, net.now_ns + S(90));
    cr_assert_eq(net.nodes[0].result.reason, NAT_PUNCH_NO_SURVEY);
    cr_assert_eq(net.nodes[1].results, 1);
    net_check_idle(&net);
    net_close(&net);
}

/* A way through a new socket that the path layer has no room for is no cause to keep the socket, although the
 * round goes on and succeeds: eight of them would end all punching by new sockets. */
Test(punch_hostile, sockets_without_routes_are_not_kept)
{
    net_open(&net, 10, kind_port, kind_port);
    net.nodes[0].no_room = true;
    for (int turn = 1; turn <= 12; turn++) {
        cr_assert_eq(nat_punch_start(net.nodes[0].core, net.now_ns, &net.nodes[1].id, true), ERR_OK);
        net_run(&net, net.now_ns + S(3700));
        cr_assert_eq(net.nodes[0].oks, turn);
    }
    cr_assert_eq(net.nodes[0].sockets_open, 0);
    net_check_idle(&net);
    net.nodes[0].no_room = false;
    cr_assert_eq(nat_punch_start(net.nodes[0].core, net.now_ns, &net.nodes[1].id, true), ERR_OK);
    net_run(&net, net.now_ns + S(60));
    cr_assert_eq(net.nodes[0].sockets_open, 1);
    net_close(&net);
}

/* Late, wrong and repeated answers to SOCKETS_WANTED are told to close what they opened. */
Test(punch_hostile, sockets_for_nobody_are_refused)
{
    net_open(&net, 9, kind_random, kind_port);
    struct nat_punch *core = net.nodes[0].core;
    const uint16_t via[2] = {1, 2};
    struct nat_punch_event event;
    for (uint32_t token = 0; token < 1024; token++)
        cr_assert_eq(nat_punch_sockets(core, net.now_ns, token << 5, via, 2), ERR_NOT_FOUND);
    struct net_message message = invite(1, 1);
    message.peer = net.nodes[1].id;
    cr_assert_eq(nat_punch_recv(core, net.now_ns, &message), ERR_OK);
    cr_assert(nat_punch_poll_event(core, &event));
    cr_assert_eq(event.type, NAT_PUNCH_SOCKETS_WANTED);
    cr_assert_eq(nat_punch_sockets(core, net.now_ns, event.token, via, 257), ERR_NOT_FOUND);
    nat_punch_tick(core, net.now_ns + S(6));
    cr_assert_eq(nat_punch_sockets(core, net.now_ns + S(6), event.token, via, 2), ERR_NOT_FOUND);
    nat_punch_check_invariants(core);
    net_close(&net);
}

/* Sixteen rounds at once, one more is refused; 256 sockets in all whatever they ask. */
Test(punch_hostile, rounds_and_sockets_are_capped)
{
    struct nat_punch_config config = nat_punch_config_default();
    struct rng_seeded stream;
    struct nat_punch_event event;
    struct net_message message;
    struct nat_punch_profile profile = {.mapping = NAT_PUNCH_RANDOM, .public4 = at("11.0.1.1:1")};
    size_t wanted = 0;
    rng_seeded_init(&stream, 1);
    config.self.bytes[0] = 1;
    config.rng = rng_of_seeded(&stream);
    config.peers_max = 32;
    struct nat_punch *core = nat_punch_init(malloc(nat_punch_size(&config)), &config);
    cr_assert_eq(nat_punch_set_profile(core, &profile), ERR_OK);
    for (uint8_t i = 0; i < 20; i++) {
        struct id peer = {{2, i}};
        struct net_addr relay = at("11.0.9.1:443");
        cr_assert_eq(nat_punch_signal(core, 0, &peer, &relay, 0), ERR_OK);
        message = invite(i + 1, 1);
        message.peer = peer;
        int rc = nat_punch_recv(core, S(1), &message);
        while (nat_punch_poll_event(core, &event))
            wanted += event.type == NAT_PUNCH_SOCKETS_WANTED ? event.count : 0;
        cr_assert(rc == ERR_OK || rc == ERR_FULL);
        nat_punch_check_invariants(core);
    }
    cr_assert_eq(wanted, NAT_PUNCH_SOCKETS_MAX);
    free(core);
}
