/* Framed streams arrive whole, in order and once; tried with 8 MiB over lossy, reordering and changing
 * routes, readers that stop reading, resets at every stage, malformed heads and lengths, full tables and full
 * buffers. */
#include "net/quic_internal.h"
#include "quic_net.h"
#include "support/support.h"

static void pair(struct quic_net *net, uint64_t seed)
{
    net_init(net, 2, seed);
    net_start(net);
    net_connect(net, 0, 1);
}

static void send_text(struct quic_net *net, int from, uint64_t handle, const char *text)
{
    int result = quic_stream_send(net->nodes[from].ep, handle, bytes_of_text(text));
    cr_assert_eq(result, ERR_OK, "%s", err_name(result));
}

Test(quic_stream, frames_go_both_ways_and_the_stream_ends)
{
    struct quic_net net;
    pair(&net, 1);
    for (int from = 0; from < 2; from++) {
        struct node *a = &net.nodes[from];
        struct node *b = &net.nodes[1 - from];
        int opened = b->opened;
        int frames = b->frames;
        uint64_t mine = net_open(&net, from, 1 - from, STREAM_SERVICE_RPC, STREAM_CLASS_STATE);
        send_text(&net, from, mine, "one");
        send_text(&net, from, mine, "three");
        quic_stream_finish(a->ep, mine);
        cr_assert_eq(quic_stream_send(a->ep, mine, bytes_of_text("late")), ERR_STATE);
        net_run_until(&net, &b->ended, b->ended + 1, 1000);
        cr_assert_eq(b->opened, opened + 1);
        cr_assert_eq(b->frames, frames + 2);
        cr_assert_eq(b->service, STREAM_SERVICE_RPC);
        cr_assert_eq(b->class, STREAM_CLASS_STATE);
        uint64_t theirs = b->handle;
        send_text(&net, 1 - from, theirs, "answer");
        quic_stream_finish(b->ep, theirs);
        int had = a->ended;
        net_run_until(&net, &a->ended, had + 1, 1000);
        net_run_ms(&net, 500);
        /* Both handles have died, and both slots are free again. */
        cr_assert_eq(quic_stream_send(a->ep, mine, bytes_of_text("x")), ERR_NOT_FOUND);
        cr_assert_eq(quic_stream_send(b->ep, theirs, bytes_of_text("x")), ERR_NOT_FOUND);
        cr_assert_eq(a->ep->stream_count + b->ep->stream_count, 0);
        cr_assert_eq(a->ep->in_pool.used + a->ep->out_pool.used, 0);
        cr_assert_eq(b->ep->in_pool.used + b->ep->out_pool.used, 0);
    }
    net_deinit(&net);
}

static void transfer(uint64_t seed, int from, unsigned loss, unsigned reorder,
                     enum quic_congestion congestion)
{
    const uint64_t total = 8 << 20;
    struct quic_net net;
    net_init(&net, 2, seed);
    net.loss_percent = loss;
    net.reorder_percent = reorder;
    net.bytes_per_second = 12500000;
    net.nodes[0].cfg.congestion = congestion;
    net.nodes[1].cfg.congestion = congestion;
    net_start(&net);
    net_connect(&net, 0, 1);
    net_send_bulk(&net, from, 1 - from, STREAM_CLASS_WEIGHTS, total, 65536);
    net_run_until(&net, &net.nodes[1 - from].ended, 1, 600000);
    cr_assert(net_received_source(&net.nodes[1 - from], total));
    net_deinit(&net);
}

Test(quic_stream, eight_mebibytes_arrive_unharmed)
{
    transfer(2, 0, 0, 0, QUIC_CONGESTION_BBR);
}

Test(quic_stream, eight_mebibytes_arrive_despite_loss_and_reordering)
{
    transfer(3, 0, 2, 5, QUIC_CONGESTION_BBR);
    transfer(4, 1, 2, 5, QUIC_CONGESTION_BBR);
    transfer(5, 1, 1, 5, QUIC_CONGESTION_CUBIC);
}

Test(quic_stream, packets_leave_in_batches)
{
    struct quic_net net;
    pair(&net, 6);
    net_run_ms(&net, 2000); /* path MTU discovery */
    uint64_t packets = net.sent_packets[0];
    uint64_t batches = net.sent_batches[0];
    net_send_bulk(&net, 0, 1, STREAM_CLASS_WEIGHTS, 8 << 20, 65536);
    net_run_until(&net, &net.nodes[1].ended, 1, 60000);
    cr_assert_gt(net.longest[0], 1400, "PMTUD found no more than %zu", net.longest[0]);
    double per_batch = (double)(net.sent_packets[0] - packets) / (double)(net.sent_batches[0] - batches);
    cr_assert_gt(per_batch, 5, "%.1f packets a batch", per_batch);
    net_deinit(&net);
}

/* A reader that pauses stops the writer once the window is full; nothing is lost, and it goes on later. */
Test(quic_stream, a_paused_reader_holds_the_writer)
{
    const uint64_t total = 12 << 20;
    struct quic_net net;
    pair(&net, 7);
    struct node *b = &net.nodes[1];
    net_send_bulk(&net, 0, 1, STREAM_CLASS_WEIGHTS, total, 60000);
    net_run_until(&net, &b->frames, 1, 5000);
    quic_stream_pause(b->ep, b->handle);
    int frames = b->frames;
    net_run_ms(&net, 20000);
    cr_assert_eq(b->frames, frames);
    struct quic_peer_info info;
    cr_assert_eq(quic_peer_info(net.nodes[0].ep, &b->identity.id, &info), ERR_OK);
    cr_assert_leq(info.sent[STREAM_CLASS_WEIGHTS], b->cfg.stream_window + b->bytes + 65536);
    cr_assert_gt(net.nodes[0].source_left, 0);
    cr_assert_leq(b->ep->in_pool.used * QUIC_BLOCK_BYTES, b->cfg.stream_window + 2 * QUIC_BLOCK_BYTES);
    /* Another stream of the same connection is not held. */
    uint64_t other = net_open(&net, 0, 1, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL);
    send_text(&net, 0, other, "urgent");
    net_run_until(&net, &b->frames, frames + 1, 1000);
    b->bytes -= 6;
    /* The hash must cover the transfer only: start over from what came before. */
    uint64_t transfer_handle = 0;
    for (size_t i = 0; i < b->cfg.streams_max; i++)
        if (b->ep->streams[i].used && b->ep->streams[i].paused)
            transfer_handle = quic_stream_handle(&b->ep->streams[i]);
    cr_assert_neq(transfer_handle, 0);
    quic_stream_resume(b->ep, transfer_handle);
    net_run_until(&net, &b->ended, 1, 60000);
    cr_assert_eq(b->bytes, total);
    net_deinit(&net);
}

Test(quic_stream, a_full_send_buffer_says_again_and_then_writable)
{
    struct quic_net net;
    pair(&net, 8);
    struct node *a = &net.nodes[0];
    static uint8_t frame[STREAM_FRAME_DEFAULT];
    uint64_t handle = net_open(&net, 0, 1, STREAM_SERVICE_EXCHANGE, STREAM_CLASS_STATE);
    size_t accepted = 0;
    int result;
    while ((result = quic_stream_send(a->ep, handle, bytes_of(frame, 65536))) == ERR_OK)
        accepted += 65536;
    cr_assert_eq(result, ERR_AGAIN);
    cr_assert(accepted >= 3 * 65536 && accepted <= QUIC_UNSENT_MAX);
    cr_assert_lt(quic_stream_room(a->ep, handle), 65536);
    cr_assert_eq(quic_stream_send(a->ep, handle, bytes_of(frame, STREAM_FRAME_DEFAULT + 1)), ERR_TOO_LARGE);
    cr_assert_eq(quic_stream_send(a->ep, handle, bytes_of(frame, 0)), ERR_INVALID);
    net_run_until(&net, &a->writable, 1, 1000);
    cr_assert_geq(quic_stream_room(a->ep, handle), QUIC_UNSENT_MAX / 2 - 8);
    cr_assert_eq(quic_stream_send(a->ep, handle, bytes_of(frame, 65536)), ERR_OK);
    net_deinit(&net);
}

Test(quic_stream, frames_larger_than_the_send_buffer_pass)
{
    struct quic_net net;
    pair(&net, 9);
    static uint8_t frame[1024 * 1024];
    rng_fill(&net.rng, frame, sizeof frame);
    uint64_t handle = net_open(&net, 0, 1, STREAM_SERVICE_BLOB, STREAM_CLASS_BLOBS);
    cr_assert_eq(quic_stream_send(net.nodes[0].ep, handle, bytes_of(frame, sizeof frame)), ERR_OK);
    handle = net_open(&net, 0, 1, STREAM_SERVICE_BLOB, STREAM_CLASS_CONTROL);
    cr_assert_eq(quic_stream_send(net.nodes[0].ep, handle, bytes_of(frame, sizeof frame)), ERR_OK);
    cr_assert_eq(quic_stream_send(net.nodes[0].ep, handle, bytes_of(frame, sizeof frame)), ERR_AGAIN);
    net_run_until(&net, &net.nodes[1].frames, 2, 60000);
    cr_assert_eq(net.nodes[1].bytes, 2 * sizeof frame);
    net_deinit(&net);
}

Test(quic_stream, a_reset_reaches_the_other_end_with_its_reason)
{
    struct quic_net net;
    pair(&net, 10);
    struct node *a = &net.nodes[0];
    struct node *b = &net.nodes[1];
    /* By the opener, before and after the first frame; by the answerer; in the middle of a transfer. */
    uint64_t handle = net_open(&net, 0, 1, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL);
    quic_stream_reset(a->ep, handle, ERR_TIMEOUT);
    net_run_ms(&net, 500);
    cr_assert_eq(b->opened, b->resets);
    int resets = b->resets;
    handle = net_open(&net, 0, 1, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL);
    send_text(&net, 0, handle, "hello");
    net_run_until(&net, &b->frames, 1, 1000);
    quic_stream_reset(a->ep, handle, ERR_TIMEOUT);
    cr_assert_eq(quic_stream_send(a->ep, handle, bytes_of_text("x")), ERR_NOT_FOUND);
    net_run_until(&net, &b->resets, resets + 1, 1000);
    cr_assert_eq(b->reset_err, ERR_TIMEOUT);
    handle = net_open(&net, 0, 1, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL);
    send_text(&net, 0, handle, "hello");
    quic_stream_finish(a->ep, handle);
    net_run_until(&net, &b->frames, 2, 1000);
    quic_stream_reset(b->ep, b->handle, ERR_REFUSED);
    net_run_until(&net, &a->resets, 1, 1000);
    cr_assert_eq(a->reset_err, ERR_REFUSED);
    net_send_bulk(&net, 0, 1, STREAM_CLASS_WEIGHTS, 8 << 20, 65536);
    net_run_until(&net, &b->frames, 10, 1000);
    quic_stream_reset(b->ep, b->handle, ERR_STALE);
    a->source_left = 0;
    net_run_until(&net, &a->resets, 2, 5000);
    cr_assert_eq(a->reset_err, ERR_STALE);
    net_run_ms(&net, 2000);
    cr_assert_eq(a->ep->stream_count + b->ep->stream_count, 0);
    cr_assert_eq(a->ep->out_pool.used + b->ep->in_pool.used, 0);
    net_deinit(&net);
}

/* Raw bytes on a stream, past our own encoder: what a hostile peer may send. */
static void send_raw(struct quic_net *net, const uint8_t *bytes, size_t len, bool fin)
{
    struct node *a = &net->nodes[0];
    uint64_t handle = net_open(net, 0, 1, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL);
    struct quic_stream *s = &a->ep->streams[(uint32_t)handle];
    quic_chain_clear(&a->ep->out_pool, &s->out);
    s->queued = 0;
    s->send_block = NULL;
    if (len > 0) {
        cr_assert(quic_chain_append(&a->ep->out_pool, &s->out, bytes, len));
        s->send_block = s->out.head;
        s->send_at = s->out.head_at;
        s->queued = len;
    }
    if (fin)
        quic_stream_finish(a->ep, handle);
}

Test(quic_stream, malformed_heads_and_lengths_reset_the_stream)
{
    static const struct {
        const char *what;
        uint8_t bytes[16];
        size_t len;
        bool fin;
        bool opens; /* the head is good */
        int err;
    } cases[] = {
        {"another version", {2, 1, 0, 0, 0, 0, 0, 1, 7}, 9, false, false, ERR_VERSION},
        {"service 0", {1, 0, 0, 0}, 4, false, false, ERR_MALFORMED},
        {"service too high", {1, STREAM_SERVICE_COUNT, 0, 0}, 4, false, false, ERR_MALFORMED},
        {"service not offered", {1, STREAM_SERVICE_SYNC, 0, 0}, 4, false, false, ERR_UNSUPPORTED},
        {"class too high", {1, 1, STREAM_CLASS_COUNT, 0}, 4, false, false, ERR_MALFORMED},
        {"last byte not zero", {1, 1, 0, 1}, 4, false, false, ERR_MALFORMED},
        {"nothing at all", {0}, 0, true, false, ERR_TRUNCATED},
        {"half a head", {1, 1}, 2, true, false, ERR_TRUNCATED},
        {"empty frame", {1, 1, 0, 0, 0, 0, 0, 0}, 8, false, true, ERR_MALFORMED},
        {"frame too long", {1, 1, 0, 0, 0, 1, 1, 1}, 8, false, true, ERR_TOO_LARGE},
        {"frame of 4 GiB", {1, 1, 0, 0, 255, 255, 255, 255}, 8, false, true, ERR_TOO_LARGE},
        {"half a length", {1, 1, 0, 0, 0, 0}, 6, true, true, ERR_TRUNCATED},
        {"half a frame", {1, 1, 0, 0, 0, 0, 0, 5, 1, 2}, 10, true, true, ERR_TRUNCATED},
    };
    struct quic_net net;
    pair(&net, 11);
    struct node *a = &net.nodes[0];
    struct node *b = &net.nodes[1];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int opened = b->opened;
        int told = b->resets;
        int resets = a->resets;
        a->reset_err = 0;
        send_raw(&net, cases[i].bytes, cases[i].len, cases[i].fin);
        net_run_until(&net, &a->resets, resets + 1, 2000);
        cr_assert_eq(a->reset_err, cases[i].err, "%s: %s", cases[i].what, err_name(a->reset_err));
        cr_assert_eq(b->opened - opened, cases[i].opens, "%s", cases[i].what);
        cr_assert_eq(b->resets - told, cases[i].opens, "%s", cases[i].what);
        cr_assert_eq(b->frames, 0);
    }
    net_run_ms(&net, 1000);
    cr_assert_eq(a->ep->stream_count + b->ep->stream_count, 0);
    cr_assert_eq(b->disconnected, 0, "the connection must survive");
    net_deinit(&net);
}

Test(quic_stream, streams_are_capped_per_peer_and_come_back)
{
    struct quic_net net;
    net_init(&net, 2, 12);
    net.nodes[1].cfg.streams_peer_max = 5;
    net_start(&net);
    net_connect(&net, 0, 1);
    struct node *a = &net.nodes[0];
    struct node *b = &net.nodes[1];
    uint64_t handles[5];
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 5; i++) {
            handles[i] = net_open(&net, 0, 1, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL);
            send_text(&net, 0, handles[i], "hello");
        }
        uint64_t sixth;
        cr_assert_eq(quic_stream_open(a->ep, net.now_ns, &b->identity.id, STREAM_SERVICE_RPC, 0, &sixth),
                     ERR_AGAIN);
        net_run_until(&net, &b->frames, 5 * (round + 1), 1000);
        for (int i = 0; i < 5; i++)
            quic_stream_reset(a->ep, handles[i], ERR_CLOSED);
        net_run_ms(&net, 500);
    }
    cr_assert_eq(b->resets, 50);
    net_deinit(&net);
}

Test(quic_stream, a_full_stream_table_refuses_politely)
{
    struct quic_net net;
    net_init(&net, 2, 13);
    net.nodes[1].cfg.streams_max = 8;
    net.nodes[1].cfg.streams_peer_max = 8;
    net_start(&net);
    net_connect(&net, 0, 1);
    struct node *a = &net.nodes[0];
    struct node *b = &net.nodes[1];
    /* Node 1's table is half full with its own streams. */
    for (int i = 0; i < 4; i++)
        (void)net_open(&net, 1, 0, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL);
    for (int i = 0; i < 8; i++) {
        uint64_t handle = net_open(&net, 0, 1, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL);
        send_text(&net, 0, handle, "hello");
    }
    net_run_ms(&net, 2000);
    cr_assert_eq(b->opened, 4);
    cr_assert_eq(a->resets, 4);
    cr_assert_eq(a->reset_err, ERR_FULL);
    uint64_t own;
    cr_assert_eq(quic_stream_open(b->ep, net.now_ns, &a->identity.id, STREAM_SERVICE_RPC, 0, &own), ERR_FULL);
    net_deinit(&net);
}

Test(quic_stream, one_peer_cannot_take_all_buffers)
{
    struct quic_net net;
    net_init(&net, 4, 14);
    struct node *victim = &net.nodes[3];
    victim->cfg.stream_window = 1 << 20;
    victim->cfg.connection_window = 64 << 20;
    victim->cfg.buffer_bytes = 8 << 20;
    for (int i = 0; i < 3; i++)
        net.nodes[i].cfg.frame_max[STREAM_SERVICE_BLOB] = 512 * 1024;
    victim->cfg.frame_max[STREAM_SERVICE_BLOB] = 512 * 1024;
    net_start(&net);
    for (int i = 0; i < 3; i++)
        net_connect(&net, i, 3);
    /* Node 0 opens twenty streams and sends all but the last byte of a frame on each: 10 MiB that nobody can
     * use. */
    static uint8_t frame[512 * 1024];
    for (int k = 0; k < 20; k++) {
        uint64_t handle = net_open(&net, 0, 3, STREAM_SERVICE_BLOB, STREAM_CLASS_BLOBS);
        cr_assert_eq(quic_stream_send(net.nodes[0].ep, handle, bytes_of(frame, sizeof frame)), ERR_OK);
        struct quic_stream *s = &net.nodes[0].ep->streams[(uint32_t)handle];
        s->queued--;
        s->out.len--;
        s->out.tail_used--;
    }
    net_run_ms(&net, 10000);
    cr_assert_gt(net.nodes[0].resets, 0);
    cr_assert_eq(net.nodes[0].reset_err, ERR_FULL);
    /* An honest peer still gets its message through. */
    uint64_t handle = net_open(&net, 1, 3, STREAM_SERVICE_BLOB, STREAM_CLASS_BLOBS);
    cr_assert_eq(quic_stream_send(net.nodes[1].ep, handle, bytes_of(frame, sizeof frame)), ERR_OK);
    net_run_until(&net, &victim->frames, 1, 10000);
    net_deinit(&net);
}

/* Relay to direct and back in the middle of a transfer, the client's and the server's route by turns. */
static void change_routes(uint64_t seed, int from, enum quic_congestion congestion)
{
    const uint64_t total = 16 << 20;
    struct quic_net net;
    net_init(&net, 2, seed);
    net.nodes[0].cfg.congestion = congestion;
    net.nodes[1].cfg.congestion = congestion;
    net.bytes_per_second = 5000000;
    net_start(&net);
    net_connect(&net, 0, 1);
    net_send_bulk(&net, from, 1 - from, STREAM_CLASS_WEIGHTS, total, 65536);
    for (int change = 0; change < 6; change++) {
        net_run_ms(&net, 400);
        bool relay = change % 2 == 0;
        net.delay_ns = relay ? 60000000 : 10000000;
        net.bytes_per_second = relay ? 1250000 : 5000000;
        size_t cap = relay ? QUIC_DATAGRAM_MIN : QUIC_DATAGRAM_MAX;
        for (int i = 0; i < 2; i++) {
            net.nodes[i].datagram_max = relay ? 1224 : 65536;
            if (change % 3 != i) /* both, only the server, only the client */
                quic_path_changed(net.nodes[i].ep, net.now_ns, &net.nodes[1 - i].identity.id, cap);
            else
                quic_path_cap(net.nodes[i].ep, &net.nodes[1 - i].identity.id, cap);
        }
    }
    net_run_until(&net, &net.nodes[1 - from].ended, 1, 120000);
    cr_assert(net_received_source(&net.nodes[1 - from], total));
    cr_assert_eq(net.nodes[0].connected + net.nodes[1].connected, 2, "the connection must be the same one");
    net_deinit(&net);
}

Test(quic_stream, a_transfer_survives_changes_of_route)
{
    change_routes(15, 0, QUIC_CONGESTION_BBR);
    change_routes(16, 1, QUIC_CONGESTION_BBR);
    change_routes(17, 0, QUIC_CONGESTION_CUBIC);
    change_routes(18, 1, QUIC_CONGESTION_CUBIC);
}

/* The only route is dead for 6 s, then answers again: with the bump, data flows within two round trips, not
 * after the backed-off timer. */
Test(quic_stream, a_revived_route_carries_data_at_once)
{
    for (int from = 0; from < 2; from++) {
        struct quic_net net;
        net_init(&net, 2, 19 + (uint64_t)from);
        net.bytes_per_second = 2500000;
        net_start(&net);
        net_connect(&net, 0, 1);
        net_send_bulk(&net, from, 1 - from, STREAM_CLASS_WEIGHTS, 16 << 20, 65536);
        net_run_ms(&net, 1000);
        struct node *to = &net.nodes[1 - from];
        net.nodes[0].deaf = net.nodes[1].deaf = true;
        net_run_ms(&net, 6000);
        net.nodes[0].deaf = net.nodes[1].deaf = false;
        uint64_t bytes = to->bytes;
        for (int i = 0; i < 2; i++)
            quic_path_changed(net.nodes[i].ep, net.now_ns, &net.nodes[1 - i].identity.id, QUIC_DATAGRAM_MAX);
        net_run_ms(&net, 300);
        cr_assert_gt(to->bytes, bytes, "from %d: nothing within 300 ms", from);
        net_run_until(&net, &to->ended, 1, 60000);
        net_deinit(&net);
    }
}

Test(quic_stream, complete_messages_survive_a_goodbye)
{
    struct quic_net net;
    pair(&net, 21);
    struct node *b = &net.nodes[1];
    uint64_t handle = net_open(&net, 0, 1, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL);
    send_text(&net, 0, handle, "last words");
    quic_stream_finish(net.nodes[0].ep, handle);
    net_drain(&net, 0);
    quic_disconnect(net.nodes[0].ep, net.now_ns, &b->identity.id, ERR_CLOSED);
    net_run_until(&net, &b->disconnected, 1, 1000);
    cr_assert_eq(b->frames, 1);
    cr_assert_eq(b->ended, 1);
    cr_assert_eq(b->resets, 0);
    quic_stream_finish(b->ep, b->handle);
    cr_assert_eq(b->ep->stream_count, 0);
    net_deinit(&net);
}

/* Control goes first, and the lowest class still gets its floor. */
Test(quic_stream, classes_have_priority_and_a_floor)
{
    struct quic_net net;
    net_init(&net, 2, 22);
    net.bytes_per_second = 2500000;
    net_start(&net);
    net_connect(&net, 0, 1);
    struct node *a = &net.nodes[0];
    net_send_bulk(&net, 0, 1, STREAM_CLASS_WEIGHTS, 64 << 20, 65536);
    static uint8_t frame[65536];
    uint64_t blobs = net_open(&net, 0, 1, STREAM_SERVICE_BLOB, STREAM_CLASS_BLOBS);
    while (quic_stream_send(a->ep, blobs, bytes_of(frame, sizeof frame)) == ERR_OK) {
    }
    net_run_ms(&net, 3000);
    struct quic_peer_info info;
    cr_assert_eq(quic_peer_info(a->ep, &net.nodes[1].identity.id, &info), ERR_OK);
    uint64_t weights = info.sent[STREAM_CLASS_WEIGHTS];
    uint64_t low = info.sent[STREAM_CLASS_BLOBS];
    cr_assert_gt(weights, 3000000);
    cr_assert(low > weights / 40 && low < weights / 8, "weights %lu, blobs %lu", (unsigned long)weights,
              (unsigned long)low);
    /* A small urgent message overtakes everything that is queued here. */
    uint64_t before = net.now_ns;
    uint64_t handle = net_open(&net, 0, 1, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL);
    send_text(&net, 0, handle, "now");
    int frames = net.nodes[1].frames;
    while (net.nodes[1].service != STREAM_SERVICE_RPC && net.now_ns < before + UINT64_C(1000000000))
        (void)net_step(&net, before + UINT64_C(1000000000));
    cr_assert_lt(net.now_ns - before, UINT64_C(200000000));
    (void)frames;
    net_deinit(&net);
}

Test(quic_stream, the_upload_cap_holds_and_changes_live)
{
    struct quic_net net;
    struct shaper shaper;
    net_init(&net, 2, 23);
    shaper_init(&shaper, net.now_ns, 500000, 0);
    net.nodes[0].cfg.shaper = &shaper;
    net_start(&net);
    net_connect(&net, 0, 1);
    net_send_bulk(&net, 0, 1, STREAM_CLASS_WEIGHTS, 64 << 20, 65536);
    net_run_ms(&net, 2000);
    uint64_t before = net.sent_bytes[0];
    net_run_ms(&net, 10000);
    uint64_t rate = (net.sent_bytes[0] - before) / 10;
    cr_assert(rate > 450000 && rate < 510000, "%lu bytes per second", (unsigned long)rate);
    /* Control is not delayed by it. */
    uint64_t start = net.now_ns;
    uint64_t handle = net_open(&net, 0, 1, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL);
    send_text(&net, 0, handle, "now");
    while (net.nodes[1].service != STREAM_SERVICE_RPC && net.now_ns < start + UINT64_C(1000000000))
        (void)net_step(&net, start + UINT64_C(1000000000));
    cr_assert_lt(net.now_ns - start, UINT64_C(60000000));
    shaper_set_rate(&shaper, net.now_ns, 2000000, 0);
    net_run_ms(&net, 1000);
    before = net.sent_bytes[0];
    net_run_ms(&net, 5000);
    rate = (net.sent_bytes[0] - before) / 5;
    cr_assert(rate > 1800000 && rate < 2040000, "%lu bytes per second", (unsigned long)rate);
    shaper_set_rate(&shaper, net.now_ns, 0, 0);
    net_run_until(&net, &net.nodes[1].ended, 1, 60000);
    net_deinit(&net);
}

/* A relay grants a rate: the connection over it keeps to it while another one of the same node is as fast as
 * before, control still gets through, and lifting the limit lets everything go at once. */
Test(quic_stream, a_route_is_shaped_to_what_it_grants)
{
    struct quic_net net;
    net_init(&net, 3, 24);
    net_start(&net);
    net_connect(&net, 0, 1);
    net_connect(&net, 0, 2);
    quic_path_shape(net.nodes[0].ep, net.now_ns, &net.nodes[1].identity.id, 500000);
    net_send_bulk(&net, 0, 1, STREAM_CLASS_BLOBS, 64 << 20, 65536);
    net_run_ms(&net, 2000);
    uint64_t before = net.sent_bytes[0];
    net_run_ms(&net, 10000);
    uint64_t rate = (net.sent_bytes[0] - before) / 10;
    cr_assert(rate > 475000 && rate < 505000, "%lu bytes per second", (unsigned long)rate);
    uint64_t start = net.now_ns;
    uint64_t handle = net_open(&net, 0, 1, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL);
    send_text(&net, 0, handle, "now");
    while (net.nodes[1].service != STREAM_SERVICE_RPC && net.now_ns < start + UINT64_C(1000000000))
        (void)net_step(&net, start + UINT64_C(1000000000));
    cr_assert_lt(net.now_ns - start, UINT64_C(60000000));
    quic_path_shape(net.nodes[0].ep, net.now_ns, &net.nodes[1].identity.id, 0);
    net_run_until(&net, &net.nodes[1].ended, 1, 60000);
    quic_path_shape(net.nodes[0].ep, net.now_ns, &net.nodes[1].identity.id, 500000);
    net_send_bulk(&net, 0, 2, STREAM_CLASS_BLOBS, 20 << 20, 65536);
    net_run_until(&net, &net.nodes[2].ended, 1, 20000);
    net_deinit(&net);
}

/* One random operation by one of the nodes. */
static void random_step(struct quic_net *net, uint64_t handles[64])
{
    static uint8_t frame[65536];
    struct node *n = &net->nodes[rng_below(&net->rng, 3)];
    const struct id *peer = &net->nodes[rng_below(&net->rng, 3)].identity.id;
    uint64_t *handle = &handles[rng_below(&net->rng, 64)];
    uint64_t chosen = rng_below(&net->rng, 4) == 0 ? n->handle : *handle;
    int result;
    switch (rng_below(&net->rng, 12)) {
    case 0:
    case 1:
        result = quic_connect(n->ep, net->now_ns, peer);
        cr_assert(result == ERR_OK || result == ERR_STATE || result == ERR_EXISTS || result == ERR_INVALID);
        break;
    case 2:
        if (rng_below(&net->rng, 10) == 0)
            quic_disconnect(n->ep, net->now_ns, peer, ERR_CLOSED);
        break;
    case 3:
    case 4:
        (void)!quic_stream_open(n->ep, net->now_ns, peer, STREAM_SERVICE_EXCHANGE,
                                (uint8_t)rng_below(&net->rng, 4), handle);
        break;
    case 5:
    case 6:
    case 7:
        (void)!quic_stream_send(n->ep, chosen,
                                bytes_of(frame, 1 + (size_t)rng_below(&net->rng, sizeof frame)));
        break;
    case 8:
        quic_stream_finish(n->ep, chosen);
        break;
    case 9:
        quic_stream_reset(n->ep, chosen, ERR_REFUSED);
        break;
    case 10:
        if (rng_below(&net->rng, 2) == 0)
            quic_stream_pause(n->ep, chosen);
        else
            quic_stream_resume(n->ep, chosen);
        break;
    default:
        quic_path_changed(n->ep, net->now_ns, peer, 1200 + (size_t)rng_below(&net->rng, 300));
    }
}

static void expect_empty(struct quic *ep)
{
    for (size_t s = 0; s < ep->cfg.streams_max; s++)
        if (ep->streams[s].used)
            quic_stream_reset(ep, quic_stream_handle(&ep->streams[s]), ERR_CLOSED);
    cr_assert_eq(ep->stream_count, 0);
    cr_assert_eq(ep->conn_count, 0);
    cr_assert_eq(ep->handshakes_in, 0);
    cr_assert_eq(ep->cid_count, 0);
    cr_assert_eq(ep->in_pool.used + ep->out_pool.used, 0);
}

/* Random operations by all ends over a bad link; the invariants are checked after every drain (quic_net.h),
 * and in the end everything that was taken has been given back. */
Test(quic_stream, random_use_leaks_nothing)
{
    for (uint64_t seed = 100; seed < 106; seed++) {
        struct quic_net net;
        uint64_t handles[64] = {0};
        net_init(&net, 3, seed);
        net.loss_percent = 3;
        net.reorder_percent = 10;
        for (int i = 0; i < 3; i++) {
            net.nodes[i].cfg.streams_max = 24;
            net.nodes[i].cfg.streams_peer_max = 8;
        }
        net_start(&net);
        for (int step = 0; step < 1500; step++) {
            random_step(&net, handles);
            net_run_ms(&net, rng_below(&net.rng, 30));
        }
        for (int i = 0; i < 3; i++)
            quic_disconnect_all(net.nodes[i].ep, net.now_ns, ERR_CLOSED);
        net_run_ms(&net, 60000);
        for (int i = 0; i < 3; i++)
            expect_empty(net.nodes[i].ep);
        net_deinit(&net);
    }
}

/* The n-th request for memory fails, for every n: creation says so and leaves nothing behind. */
Test(quic_stream, creation_survives_every_failed_allocation)
{
    struct quic_net net;
    net_init(&net, 1, 24);
    for (size_t fail_at = 1; fail_at < 12; fail_at++) {
        struct counting_allocator counter = {.fail_at = fail_at};
        struct quic_config cfg = net.nodes[0].cfg;
        struct quic *ep = NULL;
        cfg.identity = &net.nodes[0].identity;
        cfg.allocator = counting_allocator_view(&counter);
        int result = quic_create(&ep, &cfg, net.now_ns);
        cr_assert(result == ERR_NO_MEMORY || counter.allocated < fail_at);
        if (result == ERR_OK)
            quic_destroy(ep);
        cr_assert_eq(counter.live, 0);
    }
    free(net.flights);
}
