/* Datagrams cross the loopback whole and in order, in batches and one by one, over both families; a taken
 * port is named as such; the queue of a full socket keeps what it accepted.  And two QUIC endpoints work over
 * real sockets. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <sodium.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/quic.h"
#include "net/uv/queue.h"
#include "net/uv/socket.h"
#include "net/uv/timer.h"

struct receiver {
    struct net_uv_socket *socket;
    uint8_t data[1 << 20];
    size_t len, datagrams, batches, drains;
    size_t sizes[1024];
    struct net_addr from;
    bool close_at_once;
};

static void on_batch(void *user, uint64_t now_ns, const struct net_addr *from, const struct bytes *datagrams,
                     size_t count)
{
    struct receiver *r = user;
    cr_assert_gt(now_ns, 0);
    cr_assert(count > 0 && count <= NET_UV_BATCH_MAX);
    r->from = *from;
    r->batches++;
    for (size_t i = 0; i < count; i++) {
        cr_assert_leq(r->len + datagrams[i].len, sizeof r->data);
        if (datagrams[i].len > 0)
            memcpy(r->data + r->len, datagrams[i].data, datagrams[i].len);
        r->len += datagrams[i].len;
        r->sizes[r->datagrams++] = datagrams[i].len;
    }
    if (r->close_at_once)
        net_uv_socket_close(r->socket);
}

static void on_drain(void *user, uint64_t now_ns)
{
    struct receiver *r = user;
    (void)now_ns;
    r->drains++;
}

static struct net_uv_socket_config config(void *user)
{
    struct net_uv_socket_config cfg = net_uv_socket_config_default();
    cfg.loopback = true;
    cfg.callbacks.on_batch = on_batch;
    cfg.callbacks.on_drain = on_drain;
    cfg.callbacks.user = user;
    return cfg;
}

static struct net_addr loopback(enum net_family family, uint16_t port)
{
    struct net_addr addr = {.family = (uint8_t)family, .port = port};
    if (family == NET_FAMILY_V4)
        addr.ip[0] = 127;
    addr.ip[family == NET_FAMILY_V4 ? 3 : 15] = 1;
    return addr;
}

static void run_until(uv_loop_t *loop, const size_t *counter, size_t wanted)
{
    uint64_t limit = uv_hrtime() + UINT64_C(20000000000);
    while (*counter < wanted && uv_hrtime() < limit)
        (void)uv_run(loop, UV_RUN_NOWAIT);
    cr_assert_geq(*counter, wanted);
}

static void exchange(enum net_family family, bool no_offload)
{
    static struct receiver a;
    static struct receiver b;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    uv_loop_t loop;
    cr_assert_eq(uv_loop_init(&loop), 0);
    struct net_uv_socket_config cfg_a = config(&a);
    struct net_uv_socket_config cfg_b = config(&b);
    cfg_a.no_offload = no_offload;
    cfg_b.no_offload = no_offload;
    cr_assert_eq(net_uv_socket_open(&a.socket, &loop, &cfg_a, NULL), ERR_OK);
    cr_assert_eq(net_uv_socket_open(&b.socket, &loop, &cfg_b, NULL), ERR_OK);
    if (!net_uv_socket_has(b.socket, family)) {
        net_uv_socket_close(a.socket);
        net_uv_socket_close(b.socket);
        (void)uv_run(&loop, UV_RUN_DEFAULT);
        cr_skip_test("this machine has no IPv6");
    }
    uint8_t batch[60 * 1200 + 77];
    for (size_t i = 0; i < sizeof batch; i++)
        batch[i] = (uint8_t)(i * 31 >> 3);
    struct net_addr to = loopback(family, net_uv_socket_port(b.socket));
    cr_assert_eq(net_uv_socket_send(a.socket, &to, batch, sizeof batch, 1200), ERR_OK);
    cr_assert_eq(net_uv_socket_send(a.socket, &to, batch, 33, 0), ERR_OK);
    cr_assert_eq(net_uv_socket_send(a.socket, &to, batch, 34, 1200), ERR_OK);
    run_until(&loop, &b.datagrams, 63);
    for (size_t i = 0; i < 60; i++)
        cr_assert_eq(b.sizes[i], 1200);
    cr_assert(b.sizes[60] == 77 && b.sizes[61] == 33 && b.sizes[62] == 34);
    cr_assert_arr_eq(b.data, batch, sizeof batch);
    cr_assert_eq(b.from.family, family);
    cr_assert_eq(b.from.port, net_uv_socket_port(a.socket));
    run_until(&loop, &b.drains, 1);
    cr_assert_eq(net_uv_socket_stats(a.socket).datagrams_sent, 63);
    cr_assert_eq(net_uv_socket_stats(b.socket).datagrams_received, 63);
    if (no_offload)
        cr_assert_eq(net_uv_socket_stats(a.socket).send_calls, 63);
    else if (net_uv_socket_stats(a.socket).segment_offload)
        cr_assert_leq(net_uv_socket_stats(a.socket).send_calls, 4);
    net_uv_socket_no_segments(a.socket);
    cr_assert_eq(net_uv_socket_send(a.socket, &to, batch, 3000, 1000), ERR_OK);
    run_until(&loop, &b.datagrams, 66);
    net_uv_socket_close(a.socket);
    net_uv_socket_close(b.socket);
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    cr_assert_eq(uv_loop_close(&loop), 0);
}

Test(uv_socket, batches_cross_v4)
{
    exchange(NET_FAMILY_V4, false);
}

Test(uv_socket, batches_cross_v4_without_offload)
{
    exchange(NET_FAMILY_V4, true);
}

Test(uv_socket, batches_cross_v6)
{
    exchange(NET_FAMILY_V6, false);
}

Test(uv_socket, a_taken_port_is_named)
{
    static struct receiver a;
    struct net_uv_socket *other = NULL;
    const char *why = NULL;
    uv_loop_t loop;
    cr_assert_eq(uv_loop_init(&loop), 0);
    struct net_uv_socket_config cfg = config(&a);
    cr_assert_eq(net_uv_socket_open(&a.socket, &loop, &cfg, &why), ERR_OK);
    cfg.port = net_uv_socket_port(a.socket);
    cr_assert_eq(net_uv_socket_open(&other, &loop, &cfg, &why), ERR_IN_USE);
    cr_assert_not_null(strstr(why, "another program uses this UDP port"));
    cfg.v4 = cfg.v6 = false;
    cr_assert_eq(net_uv_socket_open(&other, &loop, &cfg, &why), ERR_INVALID);
    net_uv_socket_close(a.socket);
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    /* And it is free again at once. */
    cfg = config(&a);
    cfg.port = 0;
    cr_assert_eq(net_uv_socket_open(&a.socket, &loop, &cfg, &why), ERR_OK);
    uint16_t port = net_uv_socket_port(a.socket);
    net_uv_socket_close(a.socket);
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    cfg.port = port;
    cr_assert_eq(net_uv_socket_open(&a.socket, &loop, &cfg, &why), ERR_OK);
    net_uv_socket_close(a.socket);
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    cr_assert_eq(uv_loop_close(&loop), 0);
}

Test(uv_socket, a_socket_may_be_closed_by_its_own_callback)
{
    static struct receiver a;
    static struct receiver b;
    uv_loop_t loop;
    cr_assert_eq(uv_loop_init(&loop), 0);
    struct net_uv_socket_config cfg_a = config(&a);
    struct net_uv_socket_config cfg_b = config(&b);
    b.close_at_once = true;
    cr_assert_eq(net_uv_socket_open(&a.socket, &loop, &cfg_a, NULL), ERR_OK);
    cr_assert_eq(net_uv_socket_open(&b.socket, &loop, &cfg_b, NULL), ERR_OK);
    struct net_addr to = loopback(NET_FAMILY_V4, net_uv_socket_port(b.socket));
    uint8_t data[100] = {0};
    for (int i = 0; i < 20; i++)
        cr_assert_eq(net_uv_socket_send(a.socket, &to, data, sizeof data, 0), ERR_OK);
    run_until(&loop, &b.batches, 1);
    cr_assert_eq(b.batches, 1);
    /* Sends to a port that is closed now go nowhere and harm nothing. */
    for (int i = 0; i < 20; i++)
        (void)!net_uv_socket_send(a.socket, &to, data, sizeof data, 0);
    for (int i = 0; i < 10; i++)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    struct net_addr nowhere = {.family = NET_FAMILY_NONE};
    cr_assert_eq(net_uv_socket_send(a.socket, &nowhere, data, sizeof data, 0), ERR_UNREACHABLE);
    static uint8_t huge[66000];
    cr_assert_eq(net_uv_socket_send(a.socket, &to, huge, sizeof huge, 0), ERR_TOO_LARGE);
    cr_assert_eq(net_uv_socket_stats(a.socket).dropped, 1);
    net_uv_socket_close(a.socket);
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    cr_assert_eq(uv_loop_close(&loop), 0);
}

/* Against a plain list: random pushes and partial sends; what comes out is what was accepted, byte for byte.
 */
Test(uv_socket, the_send_queue_keeps_order_and_bounds)
{
    enum { BYTES = 1000, BATCHES = 7 };
    static uint8_t model[200000];
    uint8_t bytes[BYTES];
    struct net_uv_batch batches[BATCHES];
    struct net_uv_queue q;
    struct rng_seeded stream;
    rng_seeded_init(&stream, 5);
    struct rng rng = rng_of_seeded(&stream);
    net_uv_queue_init(&q, bytes, BYTES, batches, BATCHES);
    size_t in = 0;
    size_t out = 0;
    int full = 0;
    for (int step = 0; step < 20000 && in + 400 < sizeof model; step++) {
        if (rng_below(&rng, 2) == 0) {
            size_t len = 1 + (size_t)rng_below(&rng, 400);
            rng_fill(&rng, model + in, len);
            struct net_uv_batch batch = {.data = model + in, .len = len, .segment_size = len};
            int result = net_uv_queue_push(&q, &batch);
            cr_assert(result == ERR_OK || result == ERR_FULL);
            in += result == ERR_OK ? len : 0;
            full += result == ERR_FULL;
            cr_assert(result == ERR_OK || in - out + len > BYTES || q.ring.count == BATCHES);
        } else {
            const struct net_uv_batch *front = net_uv_queue_front(&q);
            cr_assert_eq(front == NULL, in == out);
            if (front == NULL)
                continue;
            size_t len = 1 + (size_t)rng_below(&rng, front->len);
            cr_assert_arr_eq(front->data, model + out, len);
            out += len;
            net_uv_queue_sent(&q, len);
        }
    }
    cr_assert(full > 100 && out > 10000);
}

/* A node as the integration will drive it, cut to its bones: one socket, one timer, one endpoint. */
struct host {
    struct net_identity identity;
    struct quic *ep;
    struct net_uv_socket *socket;
    struct net_uv_timer timer;
    struct host *other;
    struct rng rng;
    size_t connected, ended, left, received;
    uint64_t handle;
};

static void host_feed(struct host *h)
{
    static uint8_t frame[65536];
    while (h->left > 0 && quic_stream_send(h->ep, h->handle, bytes_of(frame, sizeof frame)) == ERR_OK)
        h->left -= sizeof frame;
    if (h->left == 0)
        quic_stream_finish(h->ep, h->handle);
}

static void host_event(struct host *h, const struct quic_event *event, uint64_t now_ns)
{
    if (event->kind == QUIC_CONNECTED) {
        h->connected++;
        if (h->left > 0) {
            cr_assert_eq(quic_stream_open(h->ep, now_ns, &event->peer, STREAM_SERVICE_EXCHANGE,
                                          STREAM_CLASS_WEIGHTS, &h->handle),
                         ERR_OK);
            host_feed(h);
        }
    } else if (event->kind == QUIC_STREAM_WRITABLE) {
        host_feed(h);
    } else if (event->kind == QUIC_FRAME) {
        h->received += event->frame.len;
    } else if (event->kind == QUIC_STREAM_ENDED) {
        h->ended++;
    }
}

static void host_drain(void *user, uint64_t now_ns)
{
    static uint8_t buf[QUIC_BATCH_MAX];
    struct host *h = user;
    struct net_addr to = loopback(NET_FAMILY_V4, net_uv_socket_port(h->other->socket));
    bool busy = true;
    while (busy) {
        struct quic_event event;
        struct id peer;
        size_t len;
        size_t segment;
        busy = false;
        while (quic_poll_event(h->ep, now_ns, &event)) {
            host_event(h, &event, now_ns);
            busy = true;
        }
        while (net_uv_socket_ready(h->socket) &&
               (len = quic_poll_send(h->ep, now_ns, &peer, buf, sizeof buf, &segment)) > 0) {
            (void)!net_uv_socket_send(h->socket, &to, buf, len, segment);
            busy = true;
        }
    }
    net_uv_timer_arm(&h->timer, quic_deadline_ns(h->ep, now_ns));
}

static void host_due(void *user, uint64_t now_ns)
{
    struct host *h = user;
    quic_tick(h->ep, now_ns);
    host_drain(h, now_ns);
}

static void host_batch(void *user, uint64_t now_ns, const struct net_addr *from,
                       const struct bytes *datagrams, size_t count)
{
    struct host *h = user;
    struct id peer;
    struct quic_reply reply;
    (void)from;
    for (size_t i = 0; i < count; i++)
        (void)!quic_recv(h->ep, now_ns, &h->other->identity.id, datagrams[i], &peer, &reply);
}

static void host_start(struct host *h, struct host *other, uv_loop_t *loop, uint8_t seed)
{
    memset(h->identity.seed, seed, sizeof h->identity.seed);
    crypto_sign_seed_keypair(h->identity.id.bytes, h->identity.sign_secret, h->identity.seed);
    h->other = other;
    struct quic_config cfg = quic_config_default();
    cfg.identity = &h->identity;
    cfg.rng = rng_system();
    cfg.allocator = allocator_system();
    cfg.frame_max[STREAM_SERVICE_EXCHANGE] = STREAM_FRAME_DEFAULT;
    cr_assert_eq(quic_create(&h->ep, &cfg, uv_hrtime()), ERR_OK);
    struct net_uv_socket_config socket = net_uv_socket_config_default();
    socket.loopback = true;
    socket.callbacks = (struct net_uv_callbacks){.on_batch = host_batch, .on_drain = host_drain, .user = h};
    cr_assert_eq(net_uv_socket_open(&h->socket, loop, &socket, NULL), ERR_OK);
    cr_assert_eq(net_uv_timer_init(&h->timer, loop, host_due, h), ERR_OK);
}

Test(uv_socket, quic_runs_over_it)
{
    static struct host hosts[2];
    enum { TOTAL = 32 << 20 };
    uv_loop_t loop;
    cr_assert_geq(sodium_init(), 0);
    cr_assert_eq(uv_loop_init(&loop), 0);
    host_start(&hosts[0], &hosts[1], &loop, 1);
    host_start(&hosts[1], &hosts[0], &loop, 2);
    struct host *client =
        id_compare(&hosts[0].identity.id, &hosts[1].identity.id) < 0 ? &hosts[0] : &hosts[1];
    struct host *server = client->other;
    client->left = TOTAL;
    cr_assert_eq(quic_connect(client->ep, uv_hrtime(), &server->identity.id), ERR_OK);
    host_drain(client, uv_hrtime());
    run_until(&loop, &server->ended, 1);
    cr_assert_eq(server->received, TOTAL);
    struct net_uv_socket_stats stats = net_uv_socket_stats(client->socket);
    if (stats.segment_offload)
        cr_assert_lt(stats.send_calls * 3, stats.datagrams_sent);
    for (int i = 0; i < 2; i++) {
        quic_destroy(hosts[i].ep);
        net_uv_socket_close(hosts[i].socket);
        net_uv_timer_close(&hosts[i].timer, NULL);
    }
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    cr_assert_eq(uv_loop_close(&loop), 0);
}
