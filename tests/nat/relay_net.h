/* Relays and clients joined in virtual time: messages and frames travel with a delay, and are lost or
 * overtake each other as the test says.  Every node has both cores, like a real one. */
#ifndef DUNLIN_TESTS_RELAY_NET_H
#define DUNLIN_TESTS_RELAY_NET_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/heap.h"
#include "nat/relay.h"
#include "nat/relay_client.h"

enum { NET_NODES = 8, NET_PACKETS = 4096, NET_EVENTS = 8192, NET_FRAME_MAX = 64 };

#define MS UINT64_C(1000000)

struct net_packet {
    struct heap_order order;
    struct net_addr from, to;
    size_t frame_len; /* 0: a message */
    uint8_t frame[NET_FRAME_MAX];
    struct net_message message;
};

struct net_node {
    struct id id;
    struct net_addr addr;
    uint64_t delay_ns; /* of what it sends and receives */
    bool dead;
    bool declines; /* offered sessions */
    bool no_server;
    struct nat_relay *server;
    struct nat_relay_client *client;
    struct rng_seeded stream;
    struct nat_relay_client_event events[NET_EVENTS];
    size_t event_count;
    size_t frames;               /* of sessions, received */
    uint8_t last[NET_FRAME_MAX]; /* payload of the newest */
    size_t last_len;
    struct net_addr last_route;
};

struct net_world {
    struct net_node nodes[NET_NODES];
    size_t node_count;
    uint64_t now_ns;
    uint64_t tie;
    struct rng_seeded stream;
    struct rng rng;
    unsigned loss_percent;
    unsigned double_percent; /* arrive twice; net/seal would refuse most of them */
    uint64_t jitter_ns;
    size_t sent, lost;
    struct heap packets;
    struct net_packet items[NET_PACKETS];
};

static inline struct net_addr net_test_addr(const char *text)
{
    struct net_addr addr;
    int rc = net_addr_parse(text, &addr);
    cr_assert_eq(rc, ERR_OK);
    return addr;
}

static inline struct id net_test_id(unsigned n)
{
    struct id id = {{0}};
    id.bytes[0] = (uint8_t)(n >> 16);
    id.bytes[1] = (uint8_t)(n >> 8);
    id.bytes[2] = (uint8_t)n;
    id.bytes[31] = 1;
    return id;
}

static inline void net_start(struct net_world *world, size_t i)
{
    struct net_node *node = &world->nodes[i];
    struct nat_relay_config server = nat_relay_config_default();
    struct nat_relay_client_config client = nat_relay_client_config_default();
    server.self = node->id;
    client.self = node->id;
    server.rng = rng_of_seeded(&node->stream);
    client.rng = server.rng;
    client.wanted = 0;
    client.sessions_max = 64;
    server.reservations_max = 16;
    server.sessions_max = 64;
    free(node->server);
    free(node->client);
    void *memory = malloc(nat_relay_size(&server));
    cr_assert_not_null(memory);
    node->server = nat_relay_init(memory, &server, world->now_ns);
    memory = malloc(nat_relay_client_size(&client));
    cr_assert_not_null(memory);
    node->client = nat_relay_client_init(memory, &client);
}

/* Nodes at the given addresses, each 10 ms from the middle. */
static inline struct net_world *net_open(const char *const addrs[], size_t count, uint64_t seed)
{
    struct net_world *world = calloc(1, sizeof *world);
    cr_assert_not_null(world);
    world->now_ns = 1000000 * MS;
    world->node_count = count;
    rng_seeded_init(&world->stream, seed);
    world->rng = rng_of_seeded(&world->stream);
    world->packets = heap_of(world->items, sizeof world->items[0], NET_PACKETS);
    for (size_t i = 0; i < count; i++) {
        struct net_node *node = &world->nodes[i];
        node->id = net_test_id((unsigned)i + 1);
        node->addr = net_test_addr(addrs[i]);
        node->delay_ns = 10 * MS;
        rng_seeded_init(&node->stream, seed * 100 + i);
        net_start(world, i);
    }
    return world;
}

static inline void net_close(struct net_world *world)
{
    for (size_t i = 0; i < world->node_count; i++) {
        free(world->nodes[i].server);
        free(world->nodes[i].client);
    }
    free(world);
}

static inline struct net_node *net_at(struct net_world *world, const struct net_addr *addr)
{
    for (size_t i = 0; i < world->node_count; i++) {
        if (net_addr_equal(&world->nodes[i].addr, addr))
            return &world->nodes[i];
    }
    return NULL;
}

static inline void net_post(struct net_world *world, const struct net_node *from, struct net_packet *packet)
{
    struct net_node *to = net_at(world, &packet->to);
    world->sent++;
    if (from->dead || to == NULL || rng_below(&world->rng, 100) < world->loss_percent) {
        world->lost++;
        return;
    }
    packet->from = from->addr;
    uint64_t jitter_ns = world->jitter_ns == 0 ? 0 : rng_below(&world->rng, world->jitter_ns);
    packet->order.key = world->now_ns + from->delay_ns + to->delay_ns + jitter_ns;
    packet->order.tie = world->tie++;
    cr_assert(heap_push(&world->packets, packet), "too many packets under way");
    if (rng_below(&world->rng, 100) < world->double_percent) {
        packet->order.key += rng_below(&world->rng, 500 * MS);
        packet->order.tie = world->tie++;
        cr_assert(heap_push(&world->packets, packet), "too many packets under way");
    }
}

static inline void net_take_events(struct net_world *world, struct net_node *node)
{
    struct nat_relay_client_event event;
    struct nat_relay_event ignored;
    while (nat_relay_poll_event(node->server, &ignored))
        ;
    while (nat_relay_client_poll_event(node->client, &event)) {
        cr_assert_lt(node->event_count, NET_EVENTS);
        node->events[node->event_count++] = event;
        if (event.type != NAT_RELAY_SESSION_OFFERED)
            continue;
        if (node->declines)
            nat_relay_client_decline(node->client, world->now_ns, event.token);
        else
            cr_assert_eq(nat_relay_client_accept(node->client, world->now_ns, event.token), ERR_OK);
    }
}

static inline void net_drain(struct net_world *world, struct net_node *node)
{
    struct net_packet packet = {.frame_len = 0};
    net_take_events(world, node);
    while (nat_relay_poll_send(node->server, world->now_ns, &packet.message) ||
           nat_relay_client_poll_send(node->client, world->now_ns, &packet.message)) {
        packet.to = packet.message.addr;
        packet.message.peer = node->id;
        net_post(world, node, &packet);
    }
    net_take_events(world, node);
    nat_relay_check_invariants(node->server);
    nat_relay_client_check_invariants(node->client);
}

static inline void net_must_or_refuse(int rc)
{
    cr_assert(rc == ERR_OK || rc == ERR_REFUSED || rc == ERR_FULL, "%s", err_name(rc));
}

static inline void net_deliver(struct net_world *world, struct net_packet *packet)
{
    struct net_node *node = net_at(world, &packet->to);
    if (node == NULL || node->dead)
        return;
    if (packet->frame_len == 0) {
        packet->message.addr = packet->from;
        if (!nat_relay_serves(packet->message.kind))
            net_must_or_refuse(nat_relay_client_recv(node->client, world->now_ns, &packet->message));
        else if (!node->no_server)
            net_must_or_refuse(nat_relay_recv(node->server, world->now_ns, &packet->message));
        net_drain(world, node);
        return;
    }
    struct bytes frame = bytes_of(packet->frame, packet->frame_len), payload;
    struct net_addr route;
    struct nat_relay_run run;
    if (nat_relay_client_unwrap(node->client, world->now_ns, &packet->from, frame, &route, &payload) ==
        ERR_OK) {
        node->frames++;
        node->last_len = payload.len;
        node->last_route = route;
        memcpy(node->last, payload.data, payload.len);
    } else if (nat_relay_forward(node->server, world->now_ns, &packet->from, &frame, 1, &run, 1) == 1) {
        packet->to = run.to;
        net_post(world, node, packet);
    }
    net_drain(world, node);
}

static inline uint64_t net_next_ns(struct net_world *world)
{
    const struct heap_order *first = heap_top(&world->packets);
    uint64_t next_ns = first == NULL ? UINT64_MAX : first->key;
    for (size_t i = 0; i < world->node_count; i++) {
        struct net_node *node = &world->nodes[i];
        uint64_t a = nat_relay_deadline_ns(node->server), b = nat_relay_client_deadline_ns(node->client);
        if (node->dead)
            continue;
        next_ns = a < next_ns ? a : next_ns;
        next_ns = b < next_ns ? b : next_ns;
    }
    return next_ns;
}

/* Lets virtual time pass. */
static inline void net_run(struct net_world *world, uint64_t span_ns)
{
    uint64_t until_ns = world->now_ns + span_ns;
    for (size_t i = 0; i < world->node_count; i++)
        net_drain(world, &world->nodes[i]);
    for (size_t steps = 0; net_next_ns(world) <= until_ns; steps++) {
        cr_assert_lt(steps, 4000000, "time stands still");
        uint64_t next_ns = net_next_ns(world);
        world->now_ns = next_ns > world->now_ns ? next_ns : world->now_ns;
        const struct heap_order *first = heap_top(&world->packets);
        struct net_packet packet;
        if (first != NULL && first->key <= world->now_ns && heap_pop(&world->packets, &packet))
            net_deliver(world, &packet);
        for (size_t i = 0; i < world->node_count; i++) {
            struct net_node *node = &world->nodes[i];
            if (node->dead)
                continue;
            nat_relay_tick(node->server, world->now_ns);
            nat_relay_client_tick(node->client, world->now_ns);
            net_drain(world, node);
        }
    }
    world->now_ns = until_ns;
}

/* A packet of the peer's to the session `via`; false: no such session. */
static inline bool net_send_frame(struct net_world *world, size_t i, uint16_t via, const char *text)
{
    struct net_node *node = &world->nodes[i];
    struct net_packet packet = {.frame_len = NAT_RELAY_HEADER + strlen(text)};
    if (nat_relay_client_wrap(node->client, world->now_ns, via, packet.frame, &packet.to) != ERR_OK)
        return false;
    memcpy(packet.frame + NAT_RELAY_HEADER, text, strlen(text));
    net_post(world, node, &packet);
    return true;
}

/* Newest event of a type, or NULL. */
static inline const struct nat_relay_client_event *net_event(const struct net_world *world, size_t i,
                                                             enum nat_relay_client_event_type type)
{
    const struct net_node *node = &world->nodes[i];
    for (size_t k = node->event_count; k > 0; k--) {
        if (node->events[k - 1].type == type)
            return &node->events[k - 1];
    }
    return NULL;
}

static inline size_t net_event_count(const struct net_world *world, size_t i,
                                     enum nat_relay_client_event_type type)
{
    size_t count = 0;
    for (size_t k = 0; k < world->nodes[i].event_count; k++)
        count += world->nodes[i].events[k].type == type;
    return count;
}

#endif
