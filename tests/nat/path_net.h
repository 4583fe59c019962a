/* Path cores joined by an in-memory network in virtual time, for the tests of nat/path. */
#ifndef DUNLIN_TESTS_NAT_PATH_NET_H
#define DUNLIN_TESTS_NAT_PATH_NET_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "nat/path.h"
#include "tests/support/support.h"

#define MS(x) ((uint64_t)(x)*UINT64_C(1000000))

enum { NODES_MAX = 4, LINKS_MAX = 16, FLIGHT_MAX = 512 };

/* Node a reaches node b at addr_b and is seen there at addr_a, and the other way round. */
struct link {
    int a, b;
    struct net_addr addr_a, addr_b;
    uint64_t delay_ns;
    bool up_ab, up_ba;
    bool filtered; /* each side lets in only after it has sent itself: two NATs */
    bool opened_a, opened_b;
    uint64_t idle_ns; /* a mapping on the way is forgotten after so long without a datagram; 0: never */
    bool reopens;     /* then each side's datagrams open its NAT again (with filtered); else it is for good */
    uint64_t life_ns; /* and at this age; 0: never */
    uint64_t born_ns, last_ns;
    uint64_t carried;
};

struct flight {
    uint64_t at_ns;
    int to;
    struct net_message message;
    bool data; /* stands for a QUIC packet */
};

struct path_node {
    struct id id;
    struct rng_seeded stream;
    struct counting_allocator counter;
    struct allocator allocator;
    struct nat_path *path;
    int up, changed, dead, observed, ageing;
    struct nat_path_event last_change; /* ROUTE_UP or ROUTE_CHANGED */
    uint16_t gone[16];                 /* sockets to close */
    int gone_count;
    uint64_t data_ns, data_gap_ns; /* last data, and the longest time between two */
    uint64_t data_sent;            /* datagrams, both ways counted */
    struct net_addr seen;          /* last observed report of our own address */
    uint64_t last_event_ns;
};

struct path_net;
typedef void path_listener(struct path_net *net, int node, const struct nat_path_event *event);

struct path_net {
    struct path_node nodes[NODES_MAX];
    int node_count;
    struct link links[LINKS_MAX];
    int link_count;
    struct flight flights[FLIGHT_MAX];
    int flight_count;
    uint64_t now_ns;
    size_t probe_len;        /* largest answer must not exceed the smallest probe of its family */
    path_listener *listener; /* of every event, when set */
    bool single;             /* data goes by one route only, even while that is suspect */
    uint64_t to_nowhere;     /* datagrams sent to addresses without a link */
};

/* "192.0.2.1:1", or with a via: "192.0.2.1:1#8000" (hexadecimal). */
static inline struct net_addr at(const char *text)
{
    struct net_addr addr;
    char plain[NET_ADDR_TEXT_SIZE] = {0};
    size_t len = strcspn(text, "#");
    cr_assert_lt(len, sizeof plain);
    memcpy(plain, text, len);
    cr_assert_eq(net_addr_parse(plain, &addr), ERR_OK, "%s", text);
    if (text[len] == '#')
        addr.via = (uint16_t)strtoul(text + len + 1, NULL, 16);
    return addr;
}

static inline int net_node(struct path_net *net, size_t peers_max)
{
    struct path_node *node = &net->nodes[net->node_count];
    struct nat_path_config config = nat_path_config_default();
    memset(node->id.bytes, 0x11 * (net->node_count + 1), ID_BYTES);
    rng_seeded_init(&node->stream, (uint64_t)net->node_count + 1);
    config.self = node->id;
    config.rng = rng_of_seeded(&node->stream);
    config.peers_max = peers_max;
    node->allocator = counting_allocator_view(&node->counter);
    void *memory = allocator_get(&node->allocator, 1, nat_path_size(&config));
    cr_assert_not_null(memory);
    node->path = nat_path_init(memory, &config);
    return net->node_count++;
}

static inline struct link *net_link(struct path_net *net, int a, const char *addr_a, int b,
                                    const char *addr_b, uint64_t delay_ns)
{
    struct link *link = &net->links[net->link_count++];
    cr_assert_leq(net->link_count, LINKS_MAX);
    *link = (struct link){.a = a, .b = b, .delay_ns = delay_ns, .up_ab = true, .up_ba = true};
    link->born_ns = link->last_ns = net->now_ns;
    link->addr_a = at(addr_a);
    link->addr_b = at(addr_b);
    return link;
}

/* A mapping on the way ends when it is too old, or was unused for too long. */
static inline void link_expire(struct link *link, uint64_t now_ns)
{
    bool unused = link->idle_ns > 0 && now_ns - link->last_ns > link->idle_ns;
    bool old = link->life_ns > 0 && now_ns - link->born_ns > link->life_ns;
    if (unused && link->reopens)
        link->opened_a = link->opened_b = false;
    else if (unused || old)
        link->up_ab = link->up_ba = false;
    link->last_ns = now_ns;
}

/* A datagram of node `from` to an address: travels if a link leads there and is up. */
static inline void net_carry(struct path_net *net, int from, const struct net_message *message, bool data)
{
    bool known = false;
    for (int i = 0; i < net->link_count; i++) {
        struct link *link = &net->links[i];
        bool ab = link->a == from && net_addr_equal(&link->addr_b, &message->addr);
        bool ba = link->b == from && net_addr_equal(&link->addr_a, &message->addr);
        known |= ab || ba;
        if (!ab && !ba)
            continue;
        link_expire(link, net->now_ns);
        *(ab ? &link->opened_a : &link->opened_b) = true;
        if (!(ab ? link->up_ab : link->up_ba) || (link->filtered && !(ab ? link->opened_b : link->opened_a)))
            continue;
        cr_assert_lt(net->flight_count, FLIGHT_MAX);
        struct flight *flight = &net->flights[net->flight_count++];
        flight->at_ns = net->now_ns + link->delay_ns;
        flight->to = ab ? link->b : link->a;
        flight->message = *message;
        flight->message.peer = net->nodes[from].id;
        flight->message.addr = ab ? link->addr_a : link->addr_b;
        flight->data = data;
        link->carried++;
        return;
    }
    net->to_nowhere += !known;
}

static inline void net_drain(struct path_net *net, int index)
{
    struct path_node *node = &net->nodes[index];
    struct nat_path_event event;
    struct net_message message;
    while (nat_path_poll_event(node->path, &event)) {
        node->up += event.type == NAT_PATH_ROUTE_UP;
        node->changed += event.type == NAT_PATH_ROUTE_CHANGED;
        node->dead += event.type == NAT_PATH_ROUTE_DEAD;
        node->observed += event.type == NAT_PATH_OBSERVED;
        node->ageing += event.type == NAT_PATH_AGEING;
        if (event.type == NAT_PATH_OBSERVED)
            node->seen = event.old;
        else if (event.type == NAT_PATH_ROUTE_GONE && node->gone_count < 16)
            node->gone[node->gone_count++] = event.addr.via;
        else
            node->last_event_ns = net->now_ns;
        if (event.type == NAT_PATH_ROUTE_UP || event.type == NAT_PATH_ROUTE_CHANGED)
            node->last_change = event;
        if (net->listener != NULL)
            net->listener(net, index, &event);
    }
    while (nat_path_poll_send(node->path, net->now_ns, &message)) {
        if (message.kind == NET_KIND_PROBE)
            net->probe_len = message.body_len;
        net_carry(net, index, &message, false);
    }
    nat_path_check_invariants(node->path);
}

/* Lets node receive a message; an answer in return must not be larger. */
static inline int net_receive(struct path_net *net, int index, const struct net_message *message)
{
    struct path_node *node = &net->nodes[index];
    int rc = nat_path_recv(node->path, net->now_ns, message);
    struct nat_path_stats stats = nat_path_stats(node->path);
    struct net_message answer;
    if (message->kind == NET_KIND_PROBE && rc != ERR_MALFORMED && rc != ERR_REFUSED) {
        cr_assert(nat_path_poll_send(node->path, net->now_ns, &answer));
        cr_assert_eq(answer.kind, NET_KIND_PROBE_ANSWER);
        cr_assert_eq(nat_path_stats(node->path).answers_sent, stats.answers_sent + 1);
        cr_assert(net_addr_equal(&answer.addr, &message->addr), "answered where it came from");
        cr_assert_leq(answer.body_len, message->body_len);
        net_carry(net, index, &answer, false);
    }
    net_drain(net, index);
    return rc;
}

static inline void net_deliver(struct path_net *net, int best)
{
    static struct flight flight;
    flight = net->flights[best];
    net->flights[best] = net->flights[--net->flight_count];
    net->now_ns = flight.at_ns > net->now_ns ? flight.at_ns : net->now_ns;
    if (flight.data) {
        struct path_node *node = &net->nodes[flight.to];
        uint64_t gap_ns = node->data_ns == 0 ? 0 : net->now_ns - node->data_ns;
        node->data_gap_ns = gap_ns > node->data_gap_ns ? gap_ns : node->data_gap_ns;
        node->data_ns = net->now_ns;
        nat_path_carried(net->nodes[flight.to].path, net->now_ns, &flight.message.peer, &flight.message.addr);
        net_drain(net, flight.to);
    } else {
        (void)net_receive(net, flight.to, &flight.message);
    }
}

/* Runs everything that happens until this time. */
static inline void net_run_until(struct path_net *net, uint64_t end_ns)
{
    for (;;) {
        int flight = -1;
        int ticker = -1;
        uint64_t next_ns = end_ns + 1;
        for (int i = 0; i < net->flight_count; i++) {
            if (net->flights[i].at_ns < next_ns) {
                next_ns = net->flights[i].at_ns;
                flight = i;
            }
        }
        for (int i = 0; i < net->node_count; i++) {
            uint64_t deadline_ns = nat_path_deadline_ns(net->nodes[i].path);
            if (deadline_ns < next_ns) {
                next_ns = deadline_ns;
                ticker = i;
            }
        }
        if (next_ns > end_ns)
            break;
        if (ticker < 0) {
            net_deliver(net, flight);
            continue;
        }
        net->now_ns = next_ns > net->now_ns ? next_ns : net->now_ns;
        nat_path_tick(net->nodes[ticker].path, net->now_ns);
        net_drain(net, ticker);
    }
    net->now_ns = end_ns;
}

static inline void net_run_for(struct path_net *net, uint64_t span_ns)
{
    net_run_until(net, net->now_ns + span_ns);
}

/* Bulk data both ways between two nodes for a while: a packet each 10 ms over the route in use, and
 * over a second while that is suspect. */
static inline void net_transfer(struct path_net *net, int a, int b, uint64_t span_ns)
{
    uint64_t end_ns = net->now_ns + span_ns;
    net->nodes[a].data_ns = net->nodes[b].data_ns = net->now_ns; /* a pause is no gap */
    int sides[2] = {a, b};
    while (net->now_ns < end_ns) {
        for (int i = 0; i < 2; i++) {
            struct path_node *node = &net->nodes[sides[i]];
            struct net_message packet = {.kind = 0};
            const struct id *peer = &net->nodes[sides[1 - i]].id;
            nat_path_busy(node->path, net->now_ns, peer, 100000);
            struct net_addr routes[2];
            size_t count = nat_path_routes(node->path, peer, routes);
            for (size_t r = 0; r < (net->single && count > 1 ? 1 : count); r++) {
                packet.addr = routes[r];
                net_carry(net, sides[i], &packet, true);
                node->data_sent++;
            }
            net_drain(net, sides[i]);
        }
        net_run_for(net, MS(10));
    }
    for (int i = 0; i < 2; i++)
        nat_path_busy(net->nodes[sides[i]].path, net->now_ns, &net->nodes[sides[1 - i]].id, 0);
}

static inline void net_offer(struct path_net *net, int a, int b, const char *addr, enum nat_route_kind kind)
{
    struct net_addr parsed = at(addr);
    struct nat_path *path = net->nodes[a].path;
    cr_assert_eq(nat_path_peer_add(path, net->now_ns, &net->nodes[b].id), ERR_OK);
    cr_assert_eq(nat_path_candidate_add(path, net->now_ns, &net->nodes[b].id, &parsed, kind), ERR_OK);
    net_drain(net, a);
}

/* True when a uses exactly this address for b; NULL: no route. */
static inline bool net_uses(struct path_net *net, int a, int b, const char *addr)
{
    struct net_addr route;
    int rc = nat_path_route(net->nodes[a].path, &net->nodes[b].id, &route);
    if (addr == NULL)
        return rc == ERR_UNREACHABLE;
    struct net_addr expected = at(addr);
    return rc == ERR_OK && net_addr_equal(&route, &expected);
}

static inline void net_close(struct path_net *net)
{
    for (int i = 0; i < net->node_count; i++) {
        cr_assert_eq(net->nodes[i].counter.allocated, 1, "no allocation after init");
        allocator_release(&net->nodes[i].allocator, net->nodes[i].path);
    }
}

#endif
