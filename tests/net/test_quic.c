/* Two QUIC endpoints in one process, joined by a simulated link under a fake clock, reach every promise of
 * net/quic.h; tried with loss, reordering, wrong identities and networks, restarts, floods of connections and
 * route changes. */
#include "quic_net.h"

Test(quic, handshake_connects_both_ends)
{
    struct quic_net net;
    net_init(&net, 2, 1);
    net_start(&net);
    uint64_t before = net.now_ns;
    net_connect(&net, 0, 1);
    cr_assert(id_equal(&net.nodes[0].connected_to, &net.nodes[1].identity.id));
    cr_assert(id_equal(&net.nodes[1].connected_to, &net.nodes[0].identity.id));
    /* Two round trips of 20 ms and the pacing of the first flight. */
    cr_assert_lt(net.now_ns - before, 100000000);
    struct quic_peer_info info;
    cr_assert_eq(quic_peer_info(net.nodes[0].ep, &net.nodes[1].identity.id, &info), ERR_OK);
    cr_assert(info.connected && info.outgoing);
    cr_assert(info.rtt_ns > 19000000 && info.rtt_ns < 60000000);
    cr_assert_eq(quic_peer_count(net.nodes[1].ep), 1);
    uint8_t key_a[QUIC_KEY_BYTES];
    uint8_t key_b[QUIC_KEY_BYTES];
    uint8_t other[QUIC_KEY_BYTES];
    cr_assert_eq(quic_export_key(net.nodes[0].ep, &net.nodes[1].identity.id, "dunlin probe", key_a), ERR_OK);
    cr_assert_eq(quic_export_key(net.nodes[1].ep, &net.nodes[0].identity.id, "dunlin probe", key_b), ERR_OK);
    cr_assert_eq(quic_export_key(net.nodes[1].ep, &net.nodes[0].identity.id, "dunlin other", other), ERR_OK);
    cr_assert_arr_eq(key_a, key_b, sizeof key_a);
    cr_assert(memcmp(key_a, other, sizeof key_a) != 0);
    net_deinit(&net);
}

Test(quic, roles_are_fixed_by_id)
{
    struct quic_net net;
    net_init(&net, 2, 2);
    net_start(&net);
    struct id *low = &net.nodes[0].identity.id;
    struct id *high = &net.nodes[1].identity.id;
    cr_assert_eq(quic_connect(net.nodes[1].ep, net.now_ns, low), ERR_STATE);
    cr_assert_eq(quic_connect(net.nodes[1].ep, net.now_ns, high), ERR_INVALID);
    cr_assert_eq(quic_connect(net.nodes[0].ep, net.now_ns, high), ERR_OK);
    cr_assert_eq(quic_connect(net.nodes[0].ep, net.now_ns, high), ERR_EXISTS);
    net_run_until(&net, &net.nodes[0].connected, 1, 1000);
    cr_assert_eq(quic_connect(net.nodes[0].ep, net.now_ns, high), ERR_EXISTS);
    net_deinit(&net);
}

Test(quic, another_key_than_the_dialled_one_is_refused)
{
    struct quic_net net;
    net_init(&net, 2, 3);
    struct net_identity imposter;
    net.nodes[1].identity.id.bytes[31] ^= 1; /* routes and dialling use this id ... */
    struct id claimed = net.nodes[1].identity.id;
    net_start_node(&net, 0);
    identity_make(&imposter, 77);
    net.nodes[1].cfg.identity = &imposter;
    cr_assert_eq(quic_create(&net.nodes[1].ep, &net.nodes[1].cfg, net.now_ns), ERR_OK);
    if (id_compare(&imposter.id, &net.nodes[0].identity.id) < 0)
        cr_skip_test("the imposter's id sorts first");
    cr_assert_eq(quic_connect(net.nodes[0].ep, net.now_ns, &claimed), ERR_OK);
    net_run_until(&net, &net.nodes[0].disconnected, 1, 5000);
    cr_assert_eq(net.nodes[0].disconnect_err, ERR_AUTH);
    cr_assert_eq(net.nodes[0].connected, 0);
    cr_assert_eq(net.nodes[1].connected, 0);
    net_deinit(&net);
}

Test(quic, a_client_that_is_not_who_it_seems_is_refused)
{
    struct quic_net net;
    net_init(&net, 3, 4);
    net_start(&net);
    /* Node 1 dials 2 from an address where 2 knows node 0. */
    net.nodes[1].seen_as = &net.nodes[0].identity.id;
    cr_assert_eq(quic_connect(net.nodes[1].ep, net.now_ns, &net.nodes[2].identity.id), ERR_OK);
    net_run_until(&net, &net.nodes[1].disconnected, 1, 5000);
    cr_assert_eq(net.nodes[1].disconnect_err, ERR_AUTH);
    cr_assert_eq(net.nodes[1].connected, 0);
    cr_assert_eq(net.nodes[2].connected, 0);
    cr_assert_eq(quic_peer_count(net.nodes[2].ep), 0);
    net_deinit(&net);
}

Test(quic, networks_never_merge)
{
    struct quic_net net;
    net_init(&net, 2, 5);
    net.nodes[1].cfg.network_id = 0x1234abce;
    net_start(&net);
    cr_assert_eq(quic_connect(net.nodes[0].ep, net.now_ns, &net.nodes[1].identity.id), ERR_OK);
    net_run_until(&net, &net.nodes[0].disconnected, 1, 5000);
    cr_assert_eq(net.nodes[0].disconnect_err, ERR_NETWORK);
    cr_assert_eq(net.nodes[0].connected + net.nodes[1].connected, 0);
    net_deinit(&net);
}

Test(quic, an_initial_from_an_unproven_address_is_dropped)
{
    struct quic_net net;
    net_init(&net, 2, 6);
    net_start(&net);
    net.nodes[0].stranger = true;
    cr_assert_eq(quic_connect(net.nodes[0].ep, net.now_ns, &net.nodes[1].identity.id), ERR_OK);
    net_run_ms(&net, 1000);
    cr_assert_gt(net.nodes[1].delivered, 0);
    cr_assert_eq(net.nodes[1].last_result, ERR_UNREACHABLE);
    cr_assert_eq(net.sent_packets[1], 0);
    /* Once a sealed datagram has shown who is there, the next Initial is taken. */
    net.nodes[0].stranger = false;
    net_run_until(&net, &net.nodes[0].connected, 1, 5000);
    net_deinit(&net);
}

Test(quic, a_dial_that_nobody_answers_ends)
{
    struct quic_net net;
    net_init(&net, 2, 7);
    net_start(&net);
    net.nodes[1].deaf = true;
    cr_assert_eq(quic_connect(net.nodes[0].ep, net.now_ns, &net.nodes[1].identity.id), ERR_OK);
    net_run_until(&net, &net.nodes[0].disconnected, 1, 20000);
    cr_assert_eq(net.nodes[0].disconnect_err, ERR_TIMEOUT);
    struct quic_peer_info info;
    cr_assert_eq(quic_peer_info(net.nodes[0].ep, &net.nodes[1].identity.id, &info), ERR_NOT_FOUND);
    net_deinit(&net);
}

Test(quic, idle_connections_live_and_dead_ones_are_noticed)
{
    struct quic_net net;
    net_init(&net, 2, 8);
    net_start(&net);
    net_connect(&net, 0, 1);
    net_run_ms(&net, 300000);
    cr_assert_eq(net.nodes[0].disconnected + net.nodes[1].disconnected, 0);
    net.nodes[0].deaf = true;
    net.nodes[1].deaf = true;
    net_run_ms(&net, 60000);
    cr_assert_eq(net.nodes[0].disconnect_err, ERR_TIMEOUT);
    cr_assert_eq(net.nodes[1].disconnect_err, ERR_TIMEOUT);
    net_deinit(&net);
}

Test(quic, goodbye_carries_its_reason)
{
    struct quic_net net;
    net_init(&net, 2, 9);
    net_start(&net);
    net_connect(&net, 0, 1);
    uint64_t handle = net_open(&net, 0, 1, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL);
    cr_assert_eq(quic_stream_send(net.nodes[0].ep, handle, bytes_of_text("hello")), ERR_OK);
    net_run_until(&net, &net.nodes[1].frames, 1, 1000);
    quic_disconnect(net.nodes[0].ep, net.now_ns, &net.nodes[1].identity.id, ERR_QUOTA);
    net_run_until(&net, &net.nodes[1].disconnected, 1, 1000);
    cr_assert_eq(net.nodes[0].disconnect_err, ERR_QUOTA);
    cr_assert_eq(net.nodes[1].disconnect_err, ERR_QUOTA);
    cr_assert_eq(net.nodes[0].resets, 1);
    cr_assert_eq(net.nodes[1].resets, 1);
    cr_assert_eq(net.nodes[1].reset_err, ERR_QUOTA);
    cr_assert_eq(quic_stream_send(net.nodes[1].ep, net.nodes[1].handle, bytes_of_text("x")), ERR_NOT_FOUND);
    /* And the two may meet again. */
    net_connect(&net, 0, 1);
    net_deinit(&net);
}

/* The server's process dies and comes back with the same secret: the client's next packet is answered with a
 * stateless reset, long before the idle timeout. */
Test(quic, a_restarted_server_is_noticed_at_the_first_packet)
{
    struct quic_net net;
    net_init(&net, 2, 10);
    net_start(&net);
    net_connect(&net, 0, 1);
    net_run_ms(&net, 1000);
    quic_destroy(net.nodes[1].ep);
    net_start_node(&net, 1);
    uint64_t before = net.now_ns;
    net_run_until(&net, &net.nodes[0].disconnected, 1, 60000);
    cr_assert_eq(net.nodes[0].disconnect_err, ERR_CLOSED);
    cr_assert_lt(net.now_ns - before, UINT64_C(11) * 1000000000, "not before the keep-alive");
    net_connect(&net, 0, 1);
    net_deinit(&net);
}

Test(quic, a_restarted_client_replaces_its_old_connection)
{
    struct quic_net net;
    net_init(&net, 2, 11);
    net_start(&net);
    net_connect(&net, 0, 1);
    uint64_t handle = net_open(&net, 1, 0, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL);
    net_run_ms(&net, 100);
    quic_destroy(net.nodes[0].ep);
    rng_seeded_init(&net.nodes[0].stream, 999);
    net_start_node(&net, 0);
    net_connect(&net, 0, 1);
    cr_assert_eq(net.nodes[1].disconnected, 1);
    cr_assert_eq(net.nodes[1].connected, 2);
    cr_assert_eq(net.nodes[1].resets, 1);
    cr_assert_eq(quic_stream_send(net.nodes[1].ep, handle, bytes_of_text("x")), ERR_NOT_FOUND);
    cr_assert_eq(quic_peer_count(net.nodes[1].ep), 1);
    net_deinit(&net);
}

Test(quic, a_node_with_another_secret_resets_nothing)
{
    struct quic_net net;
    net_init(&net, 2, 12);
    net_start(&net);
    net_connect(&net, 0, 1);
    quic_destroy(net.nodes[1].ep);
    memset(net.nodes[1].cfg.secret, 0x77, sizeof net.nodes[1].cfg.secret);
    net_start_node(&net, 1);
    uint64_t packets = net.sent_packets[1];
    net_run_ms(&net, 20000);
    cr_assert_eq(net.sent_packets[1], packets, "answered a packet that it cannot know");
    cr_assert_eq(net.nodes[0].disconnected, 0);
    net_deinit(&net);
}

Test(quic, resets_are_rate_limited_and_shorter_than_their_cause)
{
    struct quic_net net;
    net_init(&net, 2, 13);
    net_start(&net);
    net_connect(&net, 0, 1);
    struct quic_net old = net;
    /* A packet of node 0 to node 1, replayed to a fresh node 1. */
    uint64_t handle = net_open(&net, 0, 1, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL);
    cr_assert_eq(quic_stream_send(net.nodes[0].ep, handle, bytes_of_text("some words")), ERR_OK);
    net_drain(&net, 0);
    cr_assert_gt(net.flight_count, 0);
    struct flight packet = net.flights[net.flight_count - 1];
    quic_destroy(net.nodes[1].ep);
    net_start_node(&net, 1);
    int replies = 0;
    for (int i = 0; i < 1000; i++) {
        struct quic_reply reply;
        struct id peer;
        int result =
            quic_recv(net.nodes[1].ep, net.now_ns, NULL, bytes_of(packet.data, packet.len), &peer, &reply);
        cr_assert_eq(result, ERR_NOT_FOUND);
        replies += reply.len > 0;
        cr_assert_lt(reply.len, packet.len);
    }
    cr_assert(replies > 0 && replies <= 20, "%d replies", replies);
    (void)old;
    net_deinit(&net);
}

Test(quic, connections_and_handshakes_are_capped)
{
    struct quic_net net;
    net_init(&net, 6, 14);
    net.nodes[5].cfg.connections_max = 3;
    net_start(&net);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(quic_connect(net.nodes[i].ep, net.now_ns, &net.nodes[5].identity.id), ERR_OK);
    net_run_ms(&net, 3000);
    cr_assert_eq(net.nodes[5].connected, 3);
    cr_assert_eq(quic_peer_count(net.nodes[5].ep), 3);
    int up = 0;
    for (int i = 0; i < 5; i++)
        up += net.nodes[i].connected;
    cr_assert_eq(up, 3);
    net_deinit(&net);
}

Test(quic, half_open_connections_of_one_peer_are_capped)
{
    struct quic_net net;
    net_init(&net, 2, 15);
    net.nodes[1].cfg.handshakes_max = 4;
    net_start(&net);
    /* The client restarts its dial without end, and never hears an answer. */
    for (int i = 0; i < 20; i++) {
        cr_assert_eq(quic_connect(net.nodes[0].ep, net.now_ns, &net.nodes[1].identity.id), ERR_OK);
        net.nodes[0].deaf = true;
        net_run_ms(&net, 15);
        quic_destroy(net.nodes[0].ep);
        net_start_node(&net, 0);
    }
    quic_check_invariants(net.nodes[1].ep);
    net.nodes[0].deaf = false;
    net_connect(&net, 0, 1);
    net_run_ms(&net, 20000);
    quic_check_invariants(net.nodes[1].ep);
    cr_assert_eq(net.nodes[1].connected, 1);
    cr_assert_eq(net.nodes[1].disconnected, 0);
    net_deinit(&net);
}

Test(quic, packets_are_accepted_from_any_address)
{
    struct quic_net net;
    net_init(&net, 2, 16);
    net_start(&net);
    net_connect(&net, 0, 1);
    net.nodes[0].stranger = true; /* its NAT mapped it anew */
    uint64_t handle = net_open(&net, 0, 1, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL);
    cr_assert_eq(quic_stream_send(net.nodes[0].ep, handle, bytes_of_text("still me")), ERR_OK);
    net_run_until(&net, &net.nodes[1].frames, 1, 1000);
    cr_assert_eq(net.nodes[1].last_result, 1);
    net_deinit(&net);
}

Test(quic, noise_is_refused_without_an_answer)
{
    struct quic_net net;
    net_init(&net, 2, 17);
    net_start(&net);
    net_connect(&net, 0, 1);
    uint8_t noise[1400];
    for (int i = 0; i < 5000; i++) {
        struct quic_reply reply;
        struct id peer;
        size_t len = (size_t)rng_below(&net.rng, sizeof noise);
        rng_fill(&net.rng, noise, sizeof noise);
        const struct id *from = i % 2 == 0 ? &net.nodes[0].identity.id : NULL;
        int result = quic_recv(net.nodes[1].ep, net.now_ns, from, bytes_of(noise, len), &peer, &reply);
        cr_assert_neq(result, 1);
        cr_assert_eq(reply.len, 0);
    }
    quic_check_invariants(net.nodes[1].ep);
    /* The connection has not noticed. */
    uint64_t handle = net_open(&net, 0, 1, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL);
    cr_assert_eq(quic_stream_send(net.nodes[0].ep, handle, bytes_of_text("hello")), ERR_OK);
    net_run_until(&net, &net.nodes[1].frames, 1, 1000);
    net_deinit(&net);
}

Test(quic, config_says_what_is_wrong)
{
    struct quic_net net;
    net_init(&net, 1, 18);
    const char *why = NULL;
    struct quic_config cfg = net.nodes[0].cfg;
    cfg.identity = &net.nodes[0].identity;
    cr_assert_eq(quic_config_check(&cfg, &why), ERR_OK);
    cfg.stream_window = 1000;
    cr_assert_eq(quic_config_check(&cfg, &why), ERR_INVALID);
    cr_assert_str_eq(why, "stream_window does not hold the largest frame");
    cfg = net.nodes[0].cfg;
    cr_assert_eq(quic_config_check(&cfg, &why), ERR_INVALID);
    cr_assert_str_eq(why, "identity is missing");
    free(net.flights);
}
