/* Goodput of one QUIC stream over loopback UDP, and memory of idle connections: the two halves that
 * tools/bench.d/transport starts as separate processes.  Each prints one line of JSON.
 *
 * usage: bench_transport receive                   prints "port N", then takes one transfer
 *        bench_transport send PORT MIB [cubic]     sends MIB mebibytes in 64 KiB frames
 *        bench_transport idle COUNT                COUNT connections inside one process, memory of each end
 */
#include <inttypes.h>
#include <malloc.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "net/quic.h"
#include "net/uv/socket.h"
#include "net/uv/timer.h"

enum { FRAME_BYTES = 65536, IDLE_MAX = 1000 };

struct bench {
    uv_loop_t loop;
    struct net_identity identity;
    struct id peer; /* whom we know to be at the other end: the route is fixed */
    struct net_addr to;
    struct quic *ep;
    struct net_uv_socket *socket;
    struct net_uv_timer timer;
    uint64_t handle, left, received;
    uint64_t begin_ns, end_ns, last_ns;
    bool over;
    uint8_t frame[FRAME_BYTES];
    uint8_t buf[QUIC_BATCH_MAX];
};

static void fail(const char *what, int err)
{
    fprintf(stderr, "bench_transport: %s: %s\n", what, err_text(err));
    exit(1);
}

/* Seeds such that the sender's id is the lower one, which makes it the QUIC client. */
static void identities(struct net_identity *low, struct net_identity *high)
{
    memset(low, 0, sizeof *low);
    memset(high, 0, sizeof *high);
    low->seed[0] = 1;
    high->seed[0] = 2;
    crypto_sign_seed_keypair(low->id.bytes, low->sign_secret, low->seed);
    crypto_sign_seed_keypair(high->id.bytes, high->sign_secret, high->seed);
    if (id_compare(&low->id, &high->id) > 0) {
        struct net_identity swap = *low;
        *low = *high;
        *high = swap;
    }
}

static void feed(struct bench *b)
{
    while (b->left > 0 && quic_stream_send(b->ep, b->handle, bytes_of(b->frame, FRAME_BYTES)) == ERR_OK)
        b->left -= FRAME_BYTES;
    if (b->left == 0)
        quic_stream_finish(b->ep, b->handle);
}

static void on_event(struct bench *b, uint64_t now_ns, const struct quic_event *event)
{
    switch (event->kind) {
    case QUIC_CONNECTED:
        b->begin_ns = now_ns;
        if (b->left == 0)
            break;
        int result = quic_stream_open(b->ep, now_ns, &event->peer, STREAM_SERVICE_EXCHANGE,
                                      STREAM_CLASS_WEIGHTS, &b->handle);
        if (result != ERR_OK)
            fail("stream", result);
        feed(b);
        break;
    case QUIC_STREAM_WRITABLE:
        feed(b);
        break;
    case QUIC_FRAME:
        b->received += event->frame.len;
        break;
    case QUIC_STREAM_ENDED:
        /* The receiver answers the end with its own, so the sender's time includes the last byte's arrival.
         */
        b->end_ns = uv_hrtime();
        quic_stream_finish(b->ep, event->handle);
        b->over = true;
        break;
    case QUIC_DISCONNECTED:
        fail("connection", event->err);
        break;
    case QUIC_STREAM_RESET:
        fail("stream", event->err);
        break;
    case QUIC_STREAM_OPENED:
        break;
    }
}

static void drain(void *user, uint64_t now_ns)
{
    struct bench *b = user;
    bool busy = true;
    while (busy) {
        struct quic_event event;
        struct id peer;
        size_t segment;
        size_t len;
        busy = false;
        while (quic_poll_event(b->ep, now_ns, &event)) {
            on_event(b, now_ns, &event);
            busy = true;
        }
        while (net_uv_socket_ready(b->socket) &&
               (len = quic_poll_send(b->ep, now_ns, &peer, b->buf, sizeof b->buf, &segment)) > 0) {
            (void)!net_uv_socket_send(b->socket, &b->to, b->buf, len, segment);
            busy = true;
        }
    }
    net_uv_timer_arm(&b->timer, quic_deadline_ns(b->ep, now_ns));
}

static void on_due(void *user, uint64_t now_ns)
{
    struct bench *b = user;
    quic_tick(b->ep, now_ns);
    drain(b, now_ns);
}

static void on_batch(void *user, uint64_t now_ns, const struct net_addr *from, const struct bytes *datagrams,
                     size_t count)
{
    struct bench *b = user;
    struct id peer;
    struct quic_reply reply;
    b->to = *from;
    for (size_t i = 0; i < count; i++)
        (void)!quic_recv(b->ep, now_ns, &b->peer, datagrams[i], &peer, &reply);
}

static struct quic_config config(const struct net_identity *identity)
{
    struct quic_config cfg = quic_config_default();
    cfg.identity = identity;
    cfg.rng = rng_system();
    cfg.allocator = allocator_system();
    cfg.frame_max[STREAM_SERVICE_EXCHANGE] = STREAM_FRAME_DEFAULT;
    return cfg;
}

static void open_node(struct bench *b, bool cubic)
{
    struct quic_config cfg = config(&b->identity);
    cfg.congestion = cubic ? QUIC_CONGESTION_CUBIC : QUIC_CONGESTION_BBR;
    if (uv_loop_init(&b->loop) != 0)
        fail("loop", ERR_IO);
    int result = quic_create(&b->ep, &cfg, uv_hrtime());
    if (result != ERR_OK)
        fail("endpoint", result);
    struct net_uv_socket_config socket = net_uv_socket_config_default();
    socket.v6 = false;
    socket.loopback = true;
    socket.callbacks = (struct net_uv_callbacks){.on_batch = on_batch, .on_drain = drain, .user = b};
    result = net_uv_socket_open(&b->socket, &b->loop, &socket, NULL);
    if (result != ERR_OK)
        fail("socket", result);
    if (net_uv_timer_init(&b->timer, &b->loop, on_due, b) != ERR_OK)
        fail("timer", ERR_IO);
}

static double cpu_seconds(void)
{
    struct rusage usage;
    (void)getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
           ((double)usage.ru_utime.tv_usec + (double)usage.ru_stime.tv_usec) / 1e6;
}

static void print_transfer(const struct bench *b, uint64_t bytes)
{
    struct net_uv_socket_stats stats = net_uv_socket_stats(b->socket);
    double seconds = (double)(b->end_ns - b->begin_ns) / 1e9;
    printf("{\"mb_per_s\": %.1f, \"cpu_s_per_gib\": %.3f, \"bytes\": %" PRIu64 ", \"segment_offload\": %s, "
           "\"receive_offload\": %s, \"datagrams_per_send\": %.1f, \"datagrams_per_receive\": %.1f}\n",
           (double)bytes / seconds / 1e6, cpu_seconds() / ((double)bytes / 1073741824.0), bytes,
           stats.segment_offload ? "true" : "false", stats.receive_offload ? "true" : "false",
           (double)stats.datagrams_sent / (double)(stats.send_calls + !stats.send_calls),
           (double)stats.datagrams_received / (double)(stats.receive_calls + !stats.receive_calls));
}

static struct bench *bench_new(bool sender)
{
    struct bench *b = calloc(1, sizeof *b);
    if (b == NULL)
        fail("start", ERR_NO_MEMORY);
    struct net_identity low;
    struct net_identity high;
    identities(&low, &high);
    b->identity = sender ? low : high;
    b->peer = sender ? high.id : low.id;
    return b;
}

static int run_receive(void)
{
    struct bench *b = bench_new(false);
    open_node(b, false);
    printf("port %u\n", (unsigned)net_uv_socket_port(b->socket));
    (void)fflush(stdout);
    while (!b->over)
        (void)uv_run(&b->loop, UV_RUN_ONCE);
    print_transfer(b, b->received);
    (void)fflush(stdout);
    /* The sender may not have seen our end yet. */
    uint64_t limit = uv_hrtime() + UINT64_C(300000000);
    while (uv_hrtime() < limit)
        (void)uv_run(&b->loop, UV_RUN_NOWAIT);
    return 0;
}

static int run_send(const char *port, const char *mib, bool cubic)
{
    struct bench *b = bench_new(true);
    uint64_t bytes = strtoull(mib, NULL, 10) << 20;
    b->left = bytes;
    b->to = (struct net_addr){.family = NET_FAMILY_V4, .ip = {127, 0, 0, 1}, .port = (uint16_t)atoi(port)};
    randombytes_buf(b->frame, sizeof b->frame);
    open_node(b, cubic);
    int result = quic_connect(b->ep, uv_hrtime(), &b->peer);
    if (result != ERR_OK || bytes == 0)
        fail("dial", result);
    drain(b, uv_hrtime());
    while (!b->over)
        (void)uv_run(&b->loop, UV_RUN_ONCE);
    print_transfer(b, bytes);
    return 0;
}

/* Moves datagrams between two endpoints in memory until neither has more to say. */
static void pump(struct quic *ends[2], const struct id *ids[2], uint64_t *now_ns, int *connected)
{
    static uint8_t buf[QUIC_BATCH_MAX];
    for (int idle = 0; idle < 2;) {
        bool busy = false;
        *now_ns += 1000000;
        for (int i = 0; i < 2; i++) {
            struct quic_event event;
            struct quic_reply reply;
            struct id peer;
            size_t segment;
            size_t len;
            quic_tick(ends[i], *now_ns);
            while (quic_poll_event(ends[i], *now_ns, &event))
                *connected += event.kind == QUIC_CONNECTED;
            while ((len = quic_poll_send(ends[i], *now_ns, &peer, buf, sizeof buf, &segment)) > 0) {
                busy = true;
                for (size_t at = 0; at < len; at += segment)
                    (void)!quic_recv(ends[1 - i], *now_ns, ids[i],
                                     bytes_of(buf + at, len - at < segment ? len - at : segment), &peer,
                                     &reply);
            }
        }
        idle = busy ? 0 : idle + 1;
    }
}

static size_t heap_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

/* One hub, COUNT peers that dial it one after the other; a peer keeps its connection, so each adds both ends.
 */
static int run_idle(int count)
{
    struct net_identity hub_identity;
    struct net_identity peer_identity;
    uint64_t now_ns = UINT64_C(1000000000);
    int made = 0;
    struct quic *hub;
    identities(&peer_identity, &hub_identity);
    /* The highest id of many, so that every peer is the client. */
    for (int i = 0; i < 2000; i++) {
        struct net_identity other = {0};
        other.seed[0] = 9;
        memcpy(other.seed + 1, &i, sizeof i);
        crypto_sign_seed_keypair(other.id.bytes, other.sign_secret, other.seed);
        if (id_compare(&other.id, &hub_identity.id) > 0)
            hub_identity = other;
    }
    struct quic_config hub_cfg = config(&hub_identity);
    hub_cfg.connections_max = (size_t)count + 1;
    if (quic_create(&hub, &hub_cfg, now_ns) != ERR_OK)
        fail("endpoint", ERR_NO_MEMORY);
    size_t both = 0;
    for (int i = 0; i < count; i++) {
        struct net_identity identity = {0};
        identity.seed[0] = 7;
        memcpy(identity.seed + 1, &i, sizeof i);
        crypto_sign_seed_keypair(identity.id.bytes, identity.sign_secret, identity.seed);
        if (id_compare(&identity.id, &hub_identity.id) > 0)
            continue;
        struct quic_config cfg = config(&identity);
        struct quic *ep;
        cfg.connections_max = 1;
        cfg.handshakes_max = 1;
        cfg.streams_max = 8;
        cfg.streams_peer_max = 8;
        if (quic_create(&ep, &cfg, now_ns) != ERR_OK)
            fail("endpoint", ERR_NO_MEMORY);
        struct quic *ends[2] = {ep, hub};
        const struct id *ids[2] = {&identity.id, &hub_identity.id};
        size_t before = heap_bytes();
        int connected = 0;
        if (quic_connect(ep, now_ns, &hub_identity.id) != ERR_OK)
            fail("dial", ERR_TLS);
        for (int turn = 0; turn < 50 && connected < 2; turn++)
            pump(ends, ids, &now_ns, &connected);
        if (connected < 2)
            fail("handshake", ERR_TIMEOUT);
        both += heap_bytes() - before;
        made++;
    }
    printf("{\"connections\": %d, \"kib_per_connection_end\": %.1f}\n", made, (double)both / made / 2 / 1024);
    return 0;
}

int main(int argc, char **argv)
{
    if (sodium_init() < 0)
        fail("libsodium", ERR_IO);
    if (argc == 2 && strcmp(argv[1], "receive") == 0)
        return run_receive();
    if ((argc == 4 || argc == 5) && strcmp(argv[1], "send") == 0)
        return run_send(argv[2], argv[3], argc == 5 && strcmp(argv[4], "cubic") == 0);
    int count = argc == 3 && strcmp(argv[1], "idle") == 0 ? atoi(argv[2]) : 0;
    if (count > 0 && count <= IDLE_MAX)
        return run_idle(count);
    fprintf(stderr, "usage: bench_transport receive | send PORT MIB [cubic] | idle COUNT\n");
    return 2;
}
