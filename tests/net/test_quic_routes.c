/* Routes that change in quick succession, at one end or both, with dead moments between: whatever the order
 * in which the two ends notice, the connection must be the same one afterwards and the bytes whole. */
#include "quic_net.h"

static int64_t failed_code;

static void note_failure(void *user, const struct trace_event *event)
{
    (void)user;
    if (event->kind == TRACE_CONN_FAILED)
        failed_code = event->a;
}

struct route_storm {
    unsigned gap_ms;  /* changes are at most this far apart */
    unsigned lag_ms;  /* the other end notices at most this much later */
    unsigned dead_ms; /* after some of the changes nothing arrives for at most this long */
    bool bulk;        /* else only a few small frames are under way */
};

static void change(struct quic_net *net, int i)
{
    quic_path_changed(net->nodes[i].ep, net->now_ns, &net->nodes[1 - i].identity.id, QUIC_DATAGRAM_MAX);
}

static void one_change(struct quic_net *net, const struct route_storm *storm)
{
    int first = (int)rng_below(&net->rng, 2);
    net->delay_ns = 5000000 + rng_below(&net->rng, 60000000);
    if (rng_below(&net->rng, 4) == 0) {
        net->nodes[0].deaf = net->nodes[1].deaf = true;
        net_run_ms(net, rng_below(&net->rng, storm->dead_ms + 1));
        net->nodes[0].deaf = net->nodes[1].deaf = false;
    }
    change(net, first);
    if (rng_below(&net->rng, 3) != 0) {
        net_run_ms(net, rng_below(&net->rng, storm->lag_ms + 1));
        change(net, 1 - first);
    }
    net_run_ms(net, rng_below(&net->rng, storm->gap_ms + 1));
}

static void run_storm(uint64_t seed, const struct route_storm *storm)
{
    const uint64_t total = storm->bulk ? 4 << 20 : 8 << 10;
    struct quic_net net;
    int from = (int)(seed % 2);
    net_init(&net, 2, seed);
    failed_code = 0;
    for (int i = 0; i < 2; i++)
        net.nodes[i].cfg.trace = (struct trace_sink){.emit = note_failure};
    net.bytes_per_second = 2500000;
    net.loss_percent = (unsigned)(seed % 5);
    net_start(&net);
    net_connect(&net, 0, 1);
    net_send_bulk(&net, from, 1 - from, STREAM_CLASS_WEIGHTS, total, storm->bulk ? 65536 : 512);
    for (int n = 0; n < 12; n++)
        one_change(&net, storm);
    net_run_until(&net, &net.nodes[1 - from].ended, 1, 120000);
    cr_assert_eq(net.nodes[0].disconnected + net.nodes[1].disconnected, 0, "seed %d: failed with %d",
                 (int)seed, (int)failed_code);
    cr_assert(net_received_source(&net.nodes[1 - from], total));
    net_deinit(&net);
}

Test(quic_routes, bulk_survives_changes_in_quick_succession)
{
    const struct route_storm storm = {.gap_ms = 300, .lag_ms = 100, .dead_ms = 1500, .bulk = true};
    for (uint64_t seed = 100; seed < 112; seed++)
        run_storm(seed, &storm);
}

Test(quic_routes, a_quiet_connection_survives_changes_in_quick_succession)
{
    const struct route_storm storm = {.gap_ms = 500, .lag_ms = 200, .dead_ms = 2500};
    for (uint64_t seed = 200; seed < 280; seed++)
        run_storm(seed, &storm);
}
