/* TCP links over real sockets: they open only between those who should talk, carry everything in order, push
 * back instead of growing, and floods of strangers are turned away while the links that stand go on. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/uv/tcp.h"
#include "net/uv/tcp_internal.h"

enum { NETWORK = 0x0badcafe, RAW_MAX = 64 };

struct node {
    struct net_identity identity;
    struct net_uv_tcp *tcp;
    struct net_uv_tcp_info up, down; /* of the last call */
    size_t ups, downs, drains, datagrams;
    int reason;
    size_t to_send, sent; /* numbered datagrams that go out as the link takes them */
    bool close_on_link, close_on_batch, drop_on_batch;
};

static size_t length_of(size_t number)
{
    return 4 + number * 7919 % 1497;
}

static void fill(size_t number, uint8_t *out)
{
    memset(out, (int)(number % 251), length_of(number));
    for (int i = 0; i < 4; i++)
        out[i] = (uint8_t)(number >> (24 - 8 * i));
}

static void on_link(void *user, uint64_t now_ns, const struct net_uv_tcp_info *info, int reason)
{
    struct node *node = user;
    struct net_uv_tcp_info now;
    cr_assert_gt(now_ns, 0);
    cr_assert(net_via_is_tcp(info->addr.via));
    cr_assert_eq(net_uv_tcp_link_info(node->tcp, info->addr.via, &now), reason == ERR_OK);
    if (reason == ERR_OK) {
        node->up = *info;
        node->ups++;
    } else {
        node->down = *info;
        node->downs++;
        node->reason = reason;
    }
    if (node->close_on_link)
        net_uv_tcp_close(node->tcp);
}

static void on_batch(void *user, uint64_t now_ns, const struct net_addr *from, const struct bytes *datagrams,
                     size_t count)
{
    struct node *node = user;
    uint8_t wanted[1500];
    cr_assert(now_ns > 0 && count > 0 && count <= NET_UV_TCP_BATCH_MAX);
    cr_assert(net_addr_equal(from, &node->up.addr));
    for (size_t i = 0; i < count; i++) {
        fill(node->datagrams, wanted);
        cr_assert(bytes_equal(datagrams[i], bytes_of(wanted, length_of(node->datagrams))), "datagram %zu",
                  node->datagrams);
        node->datagrams++;
    }
    if (node->drop_on_batch)
        cr_assert_eq(net_uv_tcp_drop(node->tcp, from->via), ERR_OK);
    if (node->close_on_batch)
        net_uv_tcp_close(node->tcp);
}

static void push(struct node *node)
{
    uint8_t datagram[1500];
    while (node->downs == 0 && node->sent < node->to_send && net_uv_tcp_ready(node->tcp, node->up.addr.via)) {
        fill(node->sent, datagram);
        cr_assert_eq(net_uv_tcp_send(node->tcp, &node->up.addr, datagram, length_of(node->sent), 0), ERR_OK);
        node->sent++;
    }
}

static void on_drain(void *user, uint64_t now_ns)
{
    struct node *node = user;
    (void)now_ns;
    node->drains++;
    push(node);
}

static struct net_uv_tcp_config config(struct node *node, uint8_t number)
{
    uint8_t seed[NET_SEED_BYTES];
    memset(seed, number, sizeof seed);
    cr_assert_geq(sodium_init(), 0);
    *node = (struct node){0};
    net_identity_init(&node->identity, seed);
    struct net_uv_tcp_config cfg = net_uv_tcp_config_default();
    cfg.identity = &node->identity;
    cfg.network_id = NETWORK;
    cfg.loopback = true;
    cfg.callbacks = (struct net_uv_tcp_callbacks){
        .on_link = on_link, .on_batch = on_batch, .on_drain = on_drain, .user = node};
    return cfg;
}

static void node_open(struct node *node, uv_loop_t *loop, uint8_t number)
{
    struct net_uv_tcp_config cfg = config(node, number);
    cr_assert_eq(net_uv_tcp_open(&node->tcp, loop, &cfg, NULL), ERR_OK);
}

static struct net_addr loopback(enum net_family family, uint16_t port)
{
    struct net_addr addr = {.family = (uint8_t)family, .port = port};
    if (family == NET_FAMILY_V4)
        addr.ip[0] = 127;
    addr.ip[family == NET_FAMILY_V4 ? 3 : 15] = 1;
    return addr;
}

static struct net_addr address_of(const struct node *node)
{
    return loopback(NET_FAMILY_V4, net_uv_tcp_port(node->tcp));
}

/* Turns one or two loops until *counter is there, at most 20 s. */
static void run_both(uv_loop_t *loop, uv_loop_t *other, const size_t *counter, size_t wanted)
{
    uint64_t limit = uv_hrtime() + UINT64_C(20000000000);
    while (*counter < wanted && uv_hrtime() < limit) {
        (void)uv_run(loop, UV_RUN_NOWAIT);
        if (other != NULL)
            (void)uv_run(other, UV_RUN_NOWAIT);
    }
    cr_assert_geq(*counter, wanted);
}

static void run_until(uv_loop_t *loop, const size_t *counter, size_t wanted)
{
    run_both(loop, NULL, counter, wanted);
}

static void finish(uv_loop_t *loop)
{
    cr_assert_eq(uv_run(loop, UV_RUN_DEFAULT), 0);
    cr_assert_eq(uv_loop_close(loop), 0);
}

static uint16_t dial(struct node *from, const struct node *to)
{
    uint16_t via = 0;
    struct net_addr addr = address_of(to);
    cr_assert_eq(net_uv_tcp_dial(from->tcp, &addr, &to->identity.id, &via), ERR_OK);
    return via;
}

/* Two nodes with one link between them, a having dialled. */
static void open_two(struct node *a, struct node *b, uv_loop_t *loop)
{
    cr_assert_eq(uv_loop_init(loop), 0);
    node_open(a, loop, 1);
    node_open(b, loop, 2);
    (void)dial(a, b);
    run_until(loop, &a->ups, 1);
    run_until(loop, &b->ups, 1);
}

static void close_two(struct node *a, struct node *b, uv_loop_t *loop)
{
    net_uv_tcp_close(a->tcp);
    net_uv_tcp_close(b->tcp);
    finish(loop);
}

/* --- that it works ------------------------------------------------------------------------------------ */

static void exchange(enum net_family family)
{
    enum { COUNT = 100000 };
    static struct node a, b;
    struct net_uv_tcp_info info;
    uv_loop_t loop;
    uint16_t via;
    cr_assert_eq(uv_loop_init(&loop), 0);
    node_open(&a, &loop, 1);
    node_open(&b, &loop, 2);
    struct net_addr addr = loopback(family, net_uv_tcp_port(b.tcp));
    cr_assert_eq(net_uv_tcp_dial(a.tcp, &addr, &b.identity.id, &via), ERR_OK);
    cr_assert(net_via_is_tcp(via) && net_uv_tcp_link_info(a.tcp, via, &info) && !info.open && info.outgoing);
    run_until(&loop, &a.ups, 1);
    run_until(&loop, &b.ups, 1);
    cr_assert(a.up.open && a.up.outgoing && a.up.addr.via == via && id_equal(&a.up.peer, &b.identity.id));
    cr_assert(b.up.open && !b.up.outgoing && b.up.addr.via != via && id_equal(&b.up.peer, &a.identity.id));
    cr_assert(b.up.addr.family == family && b.up.addr.port != addr.port);
    cr_assert(net_uv_tcp_find(b.tcp, &a.identity.id, &info) && net_addr_equal(&info.addr, &b.up.addr));
    cr_assert(!net_uv_tcp_find(b.tcp, &b.identity.id, &info));
    a.to_send = COUNT;
    b.to_send = COUNT;
    push(&a);
    push(&b);
    run_until(&loop, &a.datagrams, COUNT);
    run_until(&loop, &b.datagrams, COUNT);
    struct net_uv_tcp_stats stats = net_uv_tcp_stats(a.tcp);
    cr_assert_eq(stats.datagrams_sent, COUNT);
    cr_assert_eq(stats.datagrams_received, COUNT);
    cr_assert_eq(stats.dropped, 0);
    cr_assert(stats.outgoing == 1 && stats.incoming == 0 && net_uv_tcp_stats(b.tcp).incoming == 1);
    cr_assert_eq(a.downs + b.downs, 0);
    close_two(&a, &b, &loop);
}

Test(uv_tcp, a_hundred_thousand_each_way_v4)
{
    exchange(NET_FAMILY_V4);
}

Test(uv_tcp, a_hundred_thousand_each_way_v6)
{
    exchange(NET_FAMILY_V6);
}

/* A batch goes as its segments; what no link can take is refused; a link that was dropped is gone for both.
 */
Test(uv_tcp, segments_and_drops)
{
    static struct node a, b;
    uv_loop_t loop;
    uint8_t batch[1600] = {0};
    open_two(&a, &b, &loop);
    cr_assert_eq(dial(&a, &b), a.up.addr.via, "the same link");
    uint8_t wanted[1500];
    fill(0, wanted); /* four bytes */
    memcpy(batch, wanted, 4);
    cr_assert_eq(net_uv_tcp_send(a.tcp, &a.up.addr, batch, 4, 0), ERR_OK);
    run_until(&loop, &b.datagrams, 1);
    cr_assert_eq(net_uv_tcp_send(a.tcp, &a.up.addr, batch, sizeof batch, 0), ERR_TOO_LARGE);
    cr_assert_eq(net_uv_tcp_send(a.tcp, &a.up.addr, batch, sizeof batch, 1501), ERR_TOO_LARGE);
    struct net_addr elsewhere = a.up.addr;
    elsewhere.port++;
    cr_assert_eq(net_uv_tcp_send(a.tcp, &elsewhere, batch, 4, 0), ERR_UNREACHABLE);
    elsewhere = address_of(&b);
    cr_assert_eq(net_uv_tcp_send(a.tcp, &elsewhere, batch, 4, 0), ERR_UNREACHABLE);
    cr_assert_eq(net_uv_tcp_drop(a.tcp, elsewhere.via), ERR_NOT_FOUND);
    uint16_t via = a.up.addr.via;
    cr_assert_eq(net_uv_tcp_drop(a.tcp, via), ERR_OK);
    cr_assert_eq(net_uv_tcp_drop(a.tcp, via), ERR_NOT_FOUND);
    cr_assert_eq(a.downs, 0, "callbacks come from the loop");
    run_until(&loop, &a.downs, 1);
    run_until(&loop, &b.downs, 1);
    cr_assert_eq(a.reason, ERR_CANCELLED);
    cr_assert_eq(b.reason, ERR_CLOSED);
    cr_assert(net_addr_equal(&b.down.addr, &b.up.addr) && id_equal(&b.down.peer, &a.identity.id));
    cr_assert_eq(net_uv_tcp_send(a.tcp, &a.up.addr, batch, 4, 0), ERR_UNREACHABLE);
    cr_assert(net_uv_tcp_ready(a.tcp, via));
    cr_assert_neq(dial(&a, &b), via, "the number rests");
    run_until(&loop, &a.ups, 2);
    close_two(&a, &b, &loop);
}

Test(uv_tcp, segments_arrive_one_by_one)
{
    static struct node a, b;
    uv_loop_t loop;
    open_two(&a, &b, &loop);
    /* Datagrams 0 to 2 have 4, 1489 and 1477 bytes: the second and its first bytes again make no batch, so
     * send a batch of one size and look at the counters. */
    static uint8_t batch[3 * 4];
    for (size_t i = 0; i < 3; i++)
        fill(0, batch + 4 * i);
    cr_assert_eq(net_uv_tcp_send(a.tcp, &a.up.addr, batch, sizeof batch - 1, 4), ERR_OK);
    cr_assert_eq(net_uv_tcp_stats(a.tcp).datagrams_sent, 3);
    cr_assert_eq(net_uv_tcp_stats(a.tcp).bytes_sent, 11);
    close_two(&a, &b, &loop);
}

/* The reader's loop stands still: the sender's memory fills to its cap, further datagrams are dropped and
 * counted, and when the reader goes on what was accepted comes in order. */
Test(uv_tcp, back_pressure)
{
    static struct node a, b;
    uv_loop_t loop, other;
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(uv_loop_init(&other), 0);
    node_open(&a, &loop, 1);
    node_open(&b, &other, 2);
    (void)dial(&a, &b);
    run_both(&loop, &other, &a.ups, 1);
    uint8_t datagram[1500];
    int result = ERR_OK;
    while (result == ERR_OK) {
        fill(a.sent, datagram);
        result = net_uv_tcp_send(a.tcp, &a.up.addr, datagram, length_of(a.sent), 0);
        a.sent += result == ERR_OK;
        if (a.sent % 16 == 0)
            (void)uv_run(&loop, UV_RUN_NOWAIT);
        cr_assert_lt(a.sent, 1000000);
    }
    cr_assert_eq(result, ERR_AGAIN);
    cr_assert(!net_uv_tcp_ready(a.tcp, a.up.addr.via));
    cr_assert_eq(net_uv_tcp_stats(a.tcp).dropped, 1);
    size_t drains = a.drains;
    run_both(&loop, &other, &b.datagrams, a.sent);
    cr_assert_gt(a.drains, drains);
    cr_assert(net_uv_tcp_ready(a.tcp, a.up.addr.via));
    net_uv_tcp_close(a.tcp);
    finish(&loop);
    net_uv_tcp_close(b.tcp);
    finish(&other);
}

/* --- that it works for nobody else -------------------------------------------------------------------- */

Test(uv_tcp, another_id_than_dialled)
{
    static struct node a, b;
    uv_loop_t loop;
    uint16_t via;
    cr_assert_eq(uv_loop_init(&loop), 0);
    node_open(&a, &loop, 1);
    node_open(&b, &loop, 2);
    struct net_addr addr = address_of(&b);
    struct id other = {.bytes = {7}};
    cr_assert_eq(net_uv_tcp_dial(a.tcp, &addr, &other, &via), ERR_OK);
    run_until(&loop, &a.downs, 1);
    cr_assert_eq(a.reason, ERR_AUTH);
    cr_assert(a.down.addr.via == via && id_equal(&a.down.peer, &other) && !a.down.open);
    cr_assert_eq(a.ups + b.ups + b.downs, 0);
    close_two(&a, &b, &loop);
}

Test(uv_tcp, another_network_and_no_answer)
{
    static struct node a, b;
    uv_loop_t loop;
    uint16_t via;
    cr_assert_eq(uv_loop_init(&loop), 0);
    node_open(&a, &loop, 1);
    struct net_uv_tcp_config cfg = config(&b, 2);
    cfg.network_id = NETWORK + 1;
    cr_assert_eq(net_uv_tcp_open(&b.tcp, &loop, &cfg, NULL), ERR_OK);
    (void)dial(&a, &b);
    run_until(&loop, &a.downs, 1);
    cr_assert_eq(a.reason, ERR_NETWORK);
    cr_assert_eq(b.ups, 0);
    struct net_addr addr = address_of(&b);
    net_uv_tcp_close(b.tcp);
    int result = net_uv_tcp_dial(a.tcp, &addr, &b.identity.id, &via); /* nobody is there any more */
    cr_assert_eq(result, ERR_OK);
    run_until(&loop, &a.downs, 2);
    cr_assert_eq(a.reason, ERR_REFUSED);
    addr.family = NET_FAMILY_NONE;
    cr_assert_eq(net_uv_tcp_dial(a.tcp, &addr, &b.identity.id, &via), ERR_UNREACHABLE);
    net_uv_tcp_close(a.tcp);
    finish(&loop);
}

static int raw_connect(uint16_t port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

/* Turns the loop until a figure of the statistics has a value, at most 20 s. */
static void run_until_half_open(uv_loop_t *loop, const struct node *node, size_t wanted)
{
    uint64_t limit = uv_hrtime() + UINT64_C(20000000000);
    while (net_uv_tcp_stats(node->tcp).half_open != wanted && uv_hrtime() < limit)
        (void)uv_run(loop, UV_RUN_NOWAIT);
    cr_assert_eq(net_uv_tcp_stats(node->tcp).half_open, wanted);
}

static void run_until_accepted(uv_loop_t *loop, const struct node *node, size_t wanted)
{
    uint64_t limit = uv_hrtime() + UINT64_C(20000000000);
    while (net_uv_tcp_stats(node->tcp).accepted < wanted && uv_hrtime() < limit)
        (void)uv_run(loop, UV_RUN_NOWAIT);
    cr_assert_eq(net_uv_tcp_stats(node->tcp).accepted, wanted);
}

/* Silent connections of one network get few places, those of all get a bounded number; the link that stands
 * goes on; and once the silent ones are gone the next peer gets in. */
Test(uv_tcp, half_open_floods)
{
    static struct node a, b, c;
    uv_loop_t loop;
    int raw[RAW_MAX];
    open_two(&a, &b, &loop);
    for (int i = 0; i < 10; i++)
        raw[i] = raw_connect(net_uv_tcp_port(b.tcp));
    run_until_accepted(&loop, &b, 11);
    struct net_uv_tcp_stats stats = net_uv_tcp_stats(b.tcp);
    cr_assert_eq(stats.half_open, NET_UV_TCP_HALF_OPEN_GROUP_MAX);
    cr_assert_eq(stats.refused, 10 - NET_UV_TCP_HALF_OPEN_GROUP_MAX);
    a.to_send = 1000;
    push(&a);
    run_until(&loop, &b.datagrams, 1000);
    for (int i = 0; i < 10; i++)
        (void)close(raw[i]);
    run_until_half_open(&loop, &b, 0);
    cr_assert_eq(b.ups + b.downs, 1, "strangers are no links");
    struct net_uv_tcp_config cfg = config(&c, 3);
    cr_assert_eq(net_uv_tcp_open(&c.tcp, &loop, &cfg, NULL), ERR_OK);
    (void)dial(&c, &b);
    run_until(&loop, &b.ups, 2);
    net_uv_tcp_close(c.tcp);
    close_two(&a, &b, &loop);
}

Test(uv_tcp, half_open_floods_of_many_networks)
{
    static struct node b;
    uv_loop_t loop;
    int raw[RAW_MAX];
    cr_assert_eq(uv_loop_init(&loop), 0);
    struct net_uv_tcp_config cfg = config(&b, 2);
    cfg.half_open_group_max = SIZE_MAX; /* as if each came from a network of its own */
    cr_assert_eq(net_uv_tcp_open(&b.tcp, &loop, &cfg, NULL), ERR_OK);
    for (size_t i = 0; i < RAW_MAX; i++) {
        raw[i] = raw_connect(net_uv_tcp_port(b.tcp));
        run_until_accepted(&loop, &b, i + 1);
        cr_assert_leq(net_uv_tcp_stats(b.tcp).half_open, NET_UV_TCP_HALF_OPEN_MAX);
    }
    cr_assert_geq(net_uv_tcp_stats(b.tcp).refused + net_uv_tcp_stats(b.tcp).failed_handshakes,
                  RAW_MAX - NET_UV_TCP_HALF_OPEN_MAX);
    for (size_t i = 0; i < RAW_MAX; i++)
        (void)close(raw[i]);
    net_uv_tcp_close(b.tcp);
    finish(&loop);
}

/* A web client, a port scanner: an alert at most, and the connection is closed. */
Test(uv_tcp, garbage_is_closed)
{
    static struct node b;
    uv_loop_t loop;
    cr_assert_eq(uv_loop_init(&loop), 0);
    node_open(&b, &loop, 2);
    int raw = raw_connect(net_uv_tcp_port(b.tcp));
    static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    cr_assert_eq(write(raw, request, sizeof request - 1), (ssize_t)sizeof request - 1);
    uint64_t limit = uv_hrtime() + UINT64_C(20000000000);
    while (net_uv_tcp_stats(b.tcp).failed_handshakes == 0 && uv_hrtime() < limit)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    char answer[256];
    ssize_t total = 0;
    ssize_t len;
    while ((len = read(raw, answer, sizeof answer)) > 0)
        total += len;
    cr_assert_leq(total, 64);
    (void)close(raw);
    net_uv_tcp_close(b.tcp);
    finish(&loop);
}

/* One id, many connections: only the two latest stay. */
Test(uv_tcp, one_id_has_two_links_at_most)
{
    static struct node server;
    static struct node same[4];
    uv_loop_t loop;
    cr_assert_eq(uv_loop_init(&loop), 0);
    node_open(&server, &loop, 9);
    for (size_t i = 0; i < 4; i++) {
        node_open(&same[i], &loop, 1);
        (void)dial(&same[i], &server);
        run_until(&loop, &same[i].ups, 1);
        run_until(&loop, &server.ups, i + 1);
        cr_assert_leq(net_uv_tcp_stats(server.tcp).incoming, NET_UV_TCP_PEER_MAX);
    }
    run_until(&loop, &server.downs, 2);
    cr_assert_eq(server.reason, ERR_FULL);
    run_until(&loop, &same[0].downs, 1);
    run_until(&loop, &same[1].downs, 1);
    cr_assert_eq(same[0].reason, ERR_CLOSED);
    cr_assert_eq(same[2].downs + same[3].downs, 0);
    for (int i = 0; i < 4; i++)
        net_uv_tcp_close(same[i].tcp);
    net_uv_tcp_close(server.tcp);
    finish(&loop);
}

/* All places are taken by links in use: the next peer is turned away.  When one has been idle for long enough
 * it gives way, the longest idle one first. */
Test(uv_tcp, incoming_links_are_limited)
{
    enum { PEERS = NET_UV_TCP_INCOMING_MAX + 1 };
    static struct node server;
    static struct node peers[PEERS];
    uv_loop_t loop;
    cr_assert_eq(uv_loop_init(&loop), 0);
    struct net_uv_tcp_config hour = config(&server, 200);
    hour.evict_ns = UINT64_C(3600000000000); /* however slow this machine is */
    cr_assert_eq(net_uv_tcp_open(&server.tcp, &loop, &hour, NULL), ERR_OK);
    for (size_t i = 0; i < PEERS; i++) {
        struct net_uv_tcp_config cfg = config(&peers[i], (uint8_t)i);
        cfg.listen = false;
        cr_assert_eq(net_uv_tcp_open(&peers[i].tcp, &loop, &cfg, NULL), ERR_OK);
        (void)dial(&peers[i], &server);
        run_until(&loop, i < PEERS - 1 ? &peers[i].ups : &peers[i].downs, 1);
    }
    cr_assert_eq(peers[PEERS - 1].reason, ERR_CLOSED);
    cr_assert_eq(peers[PEERS - 1].ups, 0);
    cr_assert_eq(net_uv_tcp_stats(server.tcp).incoming, NET_UV_TCP_INCOMING_MAX);
    cr_assert_eq(server.downs, 0);
    peers[0].to_send = 1;
    push(&peers[0]); /* all but this one were last used when they were made */
    server.up = (struct net_uv_tcp_info){0};
    cr_assert(net_uv_tcp_find(server.tcp, &peers[0].identity.id, &server.up));
    run_until(&loop, &server.datagrams, 1);
    cr_assert(!tcp_evict(server.tcp, uv_hrtime(), true), "none is outgoing");
    cr_assert(tcp_evict(server.tcp, uv_hrtime() + hour.evict_ns, false));
    run_until(&loop, &peers[1].downs, 1);
    cr_assert(server.downs == 1 && server.reason == ERR_FULL &&
              id_equal(&server.down.peer, &peers[1].identity.id));
    for (size_t i = 0; i < PEERS; i++)
        net_uv_tcp_close(peers[i].tcp);
    net_uv_tcp_close(server.tcp);
    finish(&loop);
}

/* The timer ends what the core gives up: a stranger that has said nothing since nearly ten seconds ago. */
Test(uv_tcp, silent_strangers_time_out)
{
    static struct node b;
    uv_loop_t loop;
    int pair[2];
    cr_assert_eq(uv_loop_init(&loop), 0);
    node_open(&b, &loop, 2);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    struct net_addr from = loopback(NET_FAMILY_V4, 9);
    uint64_t began_ns = uv_hrtime() - TLS_LINK_HANDSHAKE_NS + UINT64_C(50000000);
    struct tcp_link *link = tcp_link_place(b.tcp);
    cr_assert_eq(tcp_link_begin(link, began_ns, pair[0], TCP_LINK_HALF_OPEN, &from, NULL), ERR_OK);
    tcp_link_touch(link);
    cr_assert_eq(net_uv_tcp_stats(b.tcp).half_open, 1);
    run_until_half_open(&loop, &b, 0);
    cr_assert_geq(uv_hrtime(), began_ns + TLS_LINK_HANDSHAKE_NS);
    char byte;
    cr_assert_eq(read(pair[1], &byte, 1), 0, "closed");
    (void)close(pair[1]);
    net_uv_tcp_close(b.tcp);
    finish(&loop);
}

Test(uv_tcp, dials_are_limited)
{
    static struct node a, b;
    uv_loop_t loop, other;
    uint16_t via;
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(uv_loop_init(&other), 0);
    node_open(&a, &loop, 1);
    node_open(&b, &other, 2); /* its loop never turns: nobody answers */
    struct net_addr addr = address_of(&b);
    for (size_t i = 0; i <= NET_UV_TCP_OUTGOING_MAX; i++) {
        struct id id = {.bytes = {1, (uint8_t)i}};
        cr_assert_eq(net_uv_tcp_dial(a.tcp, &addr, &id, &via),
                     i < NET_UV_TCP_OUTGOING_MAX ? ERR_OK : ERR_FULL);
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    }
    cr_assert_eq(net_uv_tcp_drop(a.tcp, via), ERR_OK);
    struct id id = {.bytes = {2}};
    cr_assert_eq(net_uv_tcp_dial(a.tcp, &addr, &id, &via), ERR_OK, "one may be replaced");
    net_uv_tcp_close(a.tcp);
    finish(&loop);
    net_uv_tcp_close(b.tcp);
    finish(&other);
}

/* --- ports -------------------------------------------------------------------------------------------- */

/* A main port that is taken is an error with a reason; an extra one that is taken is told and no more; one
 * that is free is served like the main one. */
Test(uv_tcp, taken_and_extra_ports)
{
    static struct node a, b, c;
    uv_loop_t loop;
    const char *why = NULL;
    uint16_t via;
    cr_assert_eq(uv_loop_init(&loop), 0);
    node_open(&a, &loop, 1);
    uint16_t taken = net_uv_tcp_port(a.tcp);
    struct net_uv_tcp_config cfg = config(&b, 2);
    cfg.port = taken;
    cr_assert_eq(net_uv_tcp_open(&b.tcp, &loop, &cfg, &why), ERR_IN_USE);
    cr_assert_not_null(strstr(why, "another program uses this TCP port"));
    cfg.port = 0;
    cfg.extra_port = taken;
    cr_assert_eq(net_uv_tcp_open(&b.tcp, &loop, &cfg, &why), ERR_OK);
    cr_assert_eq(net_uv_tcp_extra_error(b.tcp), ERR_IN_USE);
    uint16_t free_port = net_uv_tcp_port(b.tcp);
    net_uv_tcp_close(b.tcp);
    for (int i = 0; i < 10; i++)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    struct net_uv_tcp_config extra = config(&c, 3);
    extra.extra_port = free_port;
    cr_assert_eq(net_uv_tcp_open(&c.tcp, &loop, &extra, &why), ERR_OK);
    cr_assert_eq(net_uv_tcp_extra_error(c.tcp), ERR_OK);
    struct net_addr addr = loopback(NET_FAMILY_V4, free_port);
    cr_assert_eq(net_uv_tcp_dial(a.tcp, &addr, &c.identity.id, &via), ERR_OK);
    run_until(&loop, &a.ups, 1);
    cfg.v4 = cfg.v6 = false;
    cr_assert_eq(net_uv_tcp_open(&b.tcp, &loop, &cfg, &why), ERR_INVALID);
    close_two(&a, &c, &loop);
}

Test(uv_tcp, dialling_without_listening)
{
    static struct node a, b;
    uv_loop_t loop;
    cr_assert_eq(uv_loop_init(&loop), 0);
    struct net_uv_tcp_config cfg = config(&a, 1);
    cfg.listen = false;
    cr_assert_eq(net_uv_tcp_open(&a.tcp, &loop, &cfg, NULL), ERR_OK);
    cr_assert_eq(net_uv_tcp_port(a.tcp), 0);
    node_open(&b, &loop, 2);
    (void)dial(&a, &b);
    run_until(&loop, &a.ups, 1);
    close_two(&a, &b, &loop);
}

/* --- owners that act inside callbacks ----------------------------------------------------------------- */

Test(uv_tcp, closed_by_its_own_callbacks)
{
    for (int kind = 0; kind < 4; kind++) {
        static struct node a, b;
        uv_loop_t loop;
        cr_assert_eq(uv_loop_init(&loop), 0);
        node_open(&a, &loop, 1);
        node_open(&b, &loop, 2);
        b.close_on_link = kind == 0;
        a.close_on_link = kind == 1;
        b.close_on_batch = kind == 2;
        b.drop_on_batch = kind == 3;
        (void)dial(&a, &b);
        a.to_send = kind < 2 ? 0 : 500;
        run_until(&loop, kind == 0 ? &b.ups : &a.ups, 1);
        if (kind >= 2)
            push(&a);
        run_until(&loop, kind == 1 ? &b.downs : &a.downs, kind == 0 ? 0 : 1);
        if (kind != 1)
            net_uv_tcp_close(a.tcp);
        if (kind == 1 || kind == 3)
            net_uv_tcp_close(b.tcp);
        finish(&loop);
    }
}

/* --- numbers ------------------------------------------------------------------------------------------ */

/* Against a plain table of when each number was given back: no number names two links within a minute, those
 * of strangers run out before those of our dials are touched, and all come back. */
Test(uv_tcp, numbers_rest)
{
    static struct net_uv_tcp tcp;
    static uint64_t released[TCP_VIAS];
    uint64_t now_ns = UINT64_C(1000000000000);
    size_t given = 0;
    struct tcp_link *link = &tcp.links[0];
    struct tcp_link *own = &tcp.links[1];
    own->outgoing = true;
    for (int step = 0; step < 20000; step++) {
        now_ns += UINT64_C(10000000); /* a hundred a second: more than the numbers suffice for */
        if (tcp_via_take(&tcp, now_ns, link) != ERR_OK)
            continue;
        size_t at = link->addr.via - NET_VIA_TCP_FIRST;
        cr_assert_lt(at, TCP_VIAS / 2);
        cr_assert(released[at] == 0 || now_ns - released[at] >= NET_UV_TCP_REST_NS);
        released[at] = now_ns;
        tcp_via_release(&tcp, now_ns, link);
        given++;
    }
    cr_assert(given > 3 * 2048 && given < 20000);
    cr_assert_eq(tcp_via_take(&tcp, now_ns, own), ERR_OK);
    cr_assert_geq(own->addr.via, NET_VIA_TCP_FIRST + TCP_VIAS / 2);
    cr_assert(net_via_is_tcp(own->addr.via));
}
