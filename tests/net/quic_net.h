/* A simulated network of QUIC endpoints for tests: one fake clock, one-way delay, seeded loss and reordering,
 * and a log of events.  No sockets, no real time. */
#ifndef DUNLIN_TESTS_QUIC_NET_H
#define DUNLIN_TESTS_QUIC_NET_H

#include <criterion/criterion.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "net/quic.h"

enum { NODES_MAX = 8, FLIGHT_MAX = 8192 };

struct flight {
    uint64_t at_ns;
    uint64_t order;
    int from, to;
    size_t len;
    uint8_t data[QUIC_DATAGRAM_MAX];
};

struct node {
    struct net_identity identity;
    struct quic_config cfg;
    struct quic *ep;
    struct rng_seeded stream;
    bool deaf;                /* everything to this node is lost */
    bool stranger;            /* others do not know who is at its address */
    const struct id *seen_as; /* whom others believe to be at its address; NULL: itself */
    size_t datagram_max;      /* longer ones to this node are lost */
    uint64_t delivered;
    int last_result;
    /* What was told, counted. */
    int connected, disconnected, opened, frames, writable, ended, resets;
    int disconnect_err, reset_err;
    uint64_t handle; /* of the last stream event */
    uint8_t service, class;
    uint64_t bytes;                /* in frames */
    crypto_generichash_state hash; /* over all frames */
    struct id connected_to;
    void (*on_event)(struct node *n, const struct quic_event *event);
    void *user;
    /* Source of a long transfer, if any. */
    uint64_t source, source_left, source_at;
    size_t source_frame;
};

struct quic_net {
    uint64_t now_ns;
    uint64_t delay_ns;
    unsigned loss_percent, reorder_percent;
    uint64_t bytes_per_second; /* of each direction; 0: no limit */
    uint64_t busy_until_ns[NODES_MAX];
    struct rng_seeded stream;
    struct rng rng;
    struct flight *flights;
    size_t flight_count;
    uint64_t order;
    int count;
    struct node nodes[NODES_MAX];
    uint64_t sent_bytes[NODES_MAX], sent_packets[NODES_MAX], sent_batches[NODES_MAX];
    size_t longest[NODES_MAX];
    uint64_t (*on_send)(struct quic_net *net, int from, const uint8_t *data, size_t len);
};

static inline void identity_make(struct net_identity *identity, uint8_t number)
{
    memset(identity, 0, sizeof *identity);
    memset(identity->seed, number, sizeof identity->seed);
    crypto_sign_seed_keypair(identity->id.bytes, identity->sign_secret, identity->seed);
}

static inline void net_start_node(struct quic_net *net, int i)
{
    struct node *n = &net->nodes[i];
    n->cfg.identity = &n->identity;
    cr_assert_eq(quic_create(&n->ep, &n->cfg, net->now_ns), ERR_OK);
}

/* count nodes, in ascending order of id, so that node 0 dials everybody. */
static inline void net_init(struct quic_net *net, int count, uint64_t seed)
{
    cr_assert_geq(sodium_init(), 0);
    memset(net, 0, sizeof *net);
    net->now_ns = UINT64_C(1000000000);
    net->delay_ns = 10000000;
    net->count = count;
    net->flights = calloc(FLIGHT_MAX, sizeof *net->flights);
    cr_assert_not_null(net->flights);
    rng_seeded_init(&net->stream, seed);
    net->rng = rng_of_seeded(&net->stream);
    struct net_identity all[NODES_MAX];
    for (int i = 0; i < count; i++)
        identity_make(&all[i], (uint8_t)(i + 1));
    for (int i = 0; i < count; i++)
        for (int k = i + 1; k < count; k++)
            if (id_compare(&all[k].id, &all[i].id) < 0) {
                struct net_identity swap = all[i];
                all[i] = all[k];
                all[k] = swap;
            }
    for (int i = 0; i < count; i++) {
        struct node *n = &net->nodes[i];
        n->identity = all[i];
        n->cfg = quic_config_default();
        n->cfg.network_id = 0x1234abcd;
        memset(n->cfg.secret, 0x40 + i, sizeof n->cfg.secret);
        rng_seeded_init(&n->stream, seed * 100 + (uint64_t)i);
        n->cfg.rng = rng_of_seeded(&n->stream);
        n->cfg.allocator = allocator_system();
        n->cfg.connections_max = 16;
        n->cfg.stream_window = 4 << 20;
        n->cfg.connection_window = 16 << 20;
        n->cfg.frame_max[STREAM_SERVICE_RPC] = STREAM_FRAME_DEFAULT;
        n->cfg.frame_max[STREAM_SERVICE_EXCHANGE] = STREAM_FRAME_DEFAULT;
        n->cfg.frame_max[STREAM_SERVICE_BLOB] = 1024 * 1024;
        n->datagram_max = 65536;
        crypto_generichash_init(&n->hash, NULL, 0, 32);
    }
}

static inline void net_start(struct quic_net *net)
{
    for (int i = 0; i < net->count; i++)
        net_start_node(net, i);
}

static inline void net_deinit(struct quic_net *net)
{
    for (int i = 0; i < net->count; i++)
        quic_destroy(net->nodes[i].ep);
    free(net->flights);
}

static inline int node_of(const struct quic_net *net, const struct id *id)
{
    for (int i = 0; i < net->count; i++)
        if (net->nodes[i].seen_as != NULL && id_equal(net->nodes[i].seen_as, id))
            return i;
    for (int i = 0; i < net->count; i++)
        if (id_equal(&net->nodes[i].identity.id, id))
            return i;
    return -1;
}

static inline void net_carry(struct quic_net *net, int from, int to, const uint8_t *data, size_t len)
{
    net->sent_packets[from]++;
    net->sent_bytes[from] += len;
    if (len > net->longest[from])
        net->longest[from] = len;
    struct node *n = &net->nodes[to];
    if (n->deaf || len > n->datagram_max || n->ep == NULL || rng_below(&net->rng, 100) < net->loss_percent)
        return;
    if (net->flight_count == FLIGHT_MAX)
        return; /* a queue overflows: loss like any other */
    uint64_t at = net->now_ns;
    if (net->bytes_per_second != 0) {
        uint64_t start = net->busy_until_ns[from] > at ? net->busy_until_ns[from] : at;
        at = start + len * UINT64_C(1000000000) / net->bytes_per_second;
        if (at > net->now_ns + UINT64_C(50000000))
            return; /* a queue of 50 ms */
        net->busy_until_ns[from] = at;
    }
    at += net->delay_ns;
    if (rng_below(&net->rng, 100) < net->reorder_percent)
        at += net->delay_ns / 2 + rng_below(&net->rng, net->delay_ns + 1);
    struct flight *f = &net->flights[net->flight_count++];
    f->at_ns = at;
    f->order = net->order++;
    f->from = from;
    f->to = to;
    f->len = len;
    memcpy(f->data, data, len);
}

static inline void source_feed(struct node *n)
{
    static uint8_t frame[1024 * 1024];
    while (n->source_left > 0) {
        size_t len = n->source_left < n->source_frame ? (size_t)n->source_left : n->source_frame;
        for (size_t i = 0; i < len; i++)
            frame[i] = (uint8_t)((n->source_at + i) * 2654435761U >> 13);
        int result = quic_stream_send(n->ep, n->source, bytes_of(frame, len));
        if (result == ERR_AGAIN)
            return;
        cr_assert_eq(result, ERR_OK, "%s", err_name(result));
        n->source_left -= len;
        n->source_at += len;
        if (n->source_left == 0)
            quic_stream_finish(n->ep, n->source);
    }
}

static inline void node_event(struct node *n, const struct quic_event *event)
{
    switch (event->kind) {
    case QUIC_CONNECTED:
        n->connected++;
        n->connected_to = event->peer;
        break;
    case QUIC_DISCONNECTED:
        n->disconnected++;
        n->disconnect_err = event->err;
        break;
    case QUIC_STREAM_OPENED:
        n->opened++;
        break;
    case QUIC_FRAME:
        n->frames++;
        n->bytes += event->frame.len;
        crypto_generichash_update(&n->hash, event->frame.data, event->frame.len);
        break;
    case QUIC_STREAM_WRITABLE:
        n->writable++;
        if (event->handle == n->source)
            source_feed(n);
        break;
    case QUIC_STREAM_ENDED:
        n->ended++;
        break;
    case QUIC_STREAM_RESET:
        n->resets++;
        n->reset_err = event->err;
        break;
    }
    if (event->handle != 0) {
        n->handle = event->handle;
        n->service = event->service;
        n->class = event->class;
    }
    if (n->on_event != NULL)
        n->on_event(n, event);
}

static inline void net_send_batch(struct quic_net *net, int from, const struct id *peer, const uint8_t *buf,
                                  size_t len, size_t segment)
{
    int to = node_of(net, peer);
    cr_assert(segment > 0 && segment <= len && len <= QUIC_BATCH_MAX);
    net->sent_batches[from]++;
    for (size_t at = 0; at < len; at += segment) {
        size_t part = len - at < segment ? len - at : segment;
        cr_assert(quic_is_packet(bytes_of(buf + at, part)));
        cr_assert(part <= QUIC_DATAGRAM_MAX);
        if (to >= 0)
            net_carry(net, from, to, buf + at, part);
    }
}

/* Drains one endpoint as a driver does. */
static inline void net_drain(struct quic_net *net, int i)
{
    static uint8_t buf[QUIC_BATCH_MAX];
    struct node *n = &net->nodes[i];
    bool busy = true;
    while (busy) {
        struct quic_event event;
        struct id peer;
        size_t segment;
        busy = false;
        while (quic_poll_event(n->ep, net->now_ns, &event)) {
            busy = true;
            node_event(n, &event);
        }
        for (size_t len; (len = quic_poll_send(n->ep, net->now_ns, &peer, buf, sizeof buf, &segment)) > 0;) {
            busy = true;
            net_send_batch(net, i, &peer, buf, len, segment);
        }
    }
    quic_check_invariants(n->ep);
}

static inline void net_deliver(struct quic_net *net, const struct flight *f)
{
    struct node *n = &net->nodes[f->to];
    struct id peer;
    struct quic_reply reply;
    if (n->ep == NULL)
        return;
    const struct node *sender = &net->nodes[f->from];
    const struct id *from = sender->seen_as != NULL ? sender->seen_as : &sender->identity.id;
    if (sender->stranger)
        from = NULL;
    n->last_result = quic_recv(n->ep, net->now_ns, from, bytes_of(f->data, f->len), &peer, &reply);
    n->delivered++;
    if (n->last_result == 1)
        cr_assert(id_equal(&peer, &net->nodes[f->from].identity.id));
    if (reply.len > 0) {
        cr_assert(reply.len < f->len && quic_is_packet(bytes_of(reply.bytes, reply.len)));
        net_carry(net, f->to, f->from, reply.bytes, reply.len);
    }
}

/* Advances to the next thing that happens, at most to limit_ns.  False: nothing before the limit. */
static inline bool net_step(struct quic_net *net, uint64_t limit_ns)
{
    for (int i = 0; i < net->count; i++)
        if (net->nodes[i].ep != NULL)
            net_drain(net, i);
    uint64_t next = UINT64_MAX;
    for (int i = 0; i < net->count; i++) {
        uint64_t due =
            net->nodes[i].ep != NULL ? quic_deadline_ns(net->nodes[i].ep, net->now_ns) : UINT64_MAX;
        next = due < next ? due : next;
    }
    size_t first = SIZE_MAX;
    for (size_t i = 0; i < net->flight_count; i++) {
        const struct flight *f = &net->flights[i];
        if (first == SIZE_MAX || f->at_ns < net->flights[first].at_ns ||
            (f->at_ns == net->flights[first].at_ns && f->order < net->flights[first].order))
            first = i;
    }
    if (first != SIZE_MAX && net->flights[first].at_ns < next)
        next = net->flights[first].at_ns;
    if (next > limit_ns) {
        net->now_ns = limit_ns;
        return false;
    }
    if (next > net->now_ns)
        net->now_ns = next;
    while (first != SIZE_MAX && net->flights[first].at_ns <= net->now_ns) {
        struct flight f = net->flights[first];
        net->flights[first] = net->flights[--net->flight_count];
        net_deliver(net, &f);
        first = SIZE_MAX;
        for (size_t i = 0; i < net->flight_count; i++)
            if (net->flights[i].at_ns <= net->now_ns &&
                (first == SIZE_MAX || net->flights[i].order < net->flights[first].order))
                first = i;
    }
    for (int i = 0; i < net->count; i++)
        if (net->nodes[i].ep != NULL)
            quic_tick(net->nodes[i].ep, net->now_ns);
    return true;
}

static inline void net_run_ms(struct quic_net *net, uint64_t ms)
{
    uint64_t limit = net->now_ns + ms * UINT64_C(1000000);
    while (net_step(net, limit)) {
    }
}

/* Runs until *counter reaches wanted; fails after `ms` of simulated time. */
static inline void net_run_until(struct quic_net *net, const int *counter, int wanted, uint64_t ms)
{
    uint64_t limit = net->now_ns + ms * UINT64_C(1000000);
    bool more = true;
    while (more && *counter < wanted) {
        more = net_step(net, limit);
        for (int i = 0; i < net->count; i++)
            if (net->nodes[i].ep != NULL)
                net_drain(net, i);
    }
    cr_assert_geq(*counter, wanted, "waited %d ms of simulated time", (int)ms);
}

static inline void net_connect(struct quic_net *net, int from, int to)
{
    struct node *a = &net->nodes[from];
    struct node *b = &net->nodes[to];
    int had_a = a->connected;
    int had_b = b->connected;
    cr_assert_eq(quic_connect(a->ep, net->now_ns, &b->identity.id), ERR_OK);
    net_run_until(net, &a->connected, had_a + 1, 5000);
    net_run_until(net, &b->connected, had_b + 1, 5000);
}

static inline uint64_t net_open(struct quic_net *net, int from, int to, uint8_t service, uint8_t class)
{
    uint64_t handle = 0;
    int result = quic_stream_open(net->nodes[from].ep, net->now_ns, &net->nodes[to].identity.id, service,
                                  class, &handle);
    cr_assert_eq(result, ERR_OK, "%s", err_name(result));
    return handle;
}

/* Starts sending total bytes in frames; source_feed goes on as the stream becomes writable. */
static inline uint64_t net_send_bulk(struct quic_net *net, int from, int to, uint8_t class, uint64_t total,
                                     size_t frame)
{
    struct node *n = &net->nodes[from];
    n->source = net_open(net, from, to, STREAM_SERVICE_EXCHANGE, class);
    n->source_left = total;
    n->source_frame = frame;
    n->source_at = 0;
    source_feed(n);
    return n->source;
}

/* True when the node received exactly the first total bytes of the source. */
static inline bool net_received_source(struct node *n, uint64_t total)
{
    uint8_t expected[32];
    uint8_t got[32];
    crypto_generichash_state state;
    crypto_generichash_init(&state, NULL, 0, 32);
    for (uint64_t i = 0; i < total; i++) {
        uint8_t byte = (uint8_t)(i * 2654435761U >> 13);
        crypto_generichash_update(&state, &byte, 1);
    }
    crypto_generichash_final(&state, expected, 32);
    crypto_generichash_state copy = n->hash;
    crypto_generichash_final(&copy, got, 32);
    return n->bytes == total && memcmp(expected, got, 32) == 0;
}

#endif
