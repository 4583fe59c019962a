/* Punch cores behind modelled NATs, joined in virtual time, for the tests of nat/punch.  The model has the
 * behaviours that the truth table of nat/README.md is about: who gets which outer port, who is let in, flows
 * of other hosts that take ports, and routers that answer for themselves. */
#ifndef DUNLIN_TESTS_NAT_PUNCH_NET_H
#define DUNLIN_TESTS_NAT_PUNCH_NET_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "nat/punch_internal.h"

#define MS(x) ((uint64_t)(x)*UINT64_C(1000000))
#define S(x)  MS((x)*UINT64_C(1000))

enum {
    NODES = 3, /* two that punch and a public observer */
    OBSERVER = 2,
    MAPPINGS_MAX = 4096,
    PASSES_MAX = 16384,
    FLIGHT_MAX = 8192,
    VIA_RELAY = NET_VIA_RELAY_FIRST,
    MAIN_PORT = 40000,
};

/* What a NAT does; the profile that a node tells follows from it. */
struct nat_kind {
    enum nat_punch_mapping mapping;
    enum nat_punch_filtering filtering;
    int16_t step;
    bool open_input; /* its router accepts strangers' packets for itself: their flow then blocks the port */
    int foreign;     /* flows of other hosts between a survey and what follows it */
};

static const struct nat_kind kind_cone = {NAT_PUNCH_EASY, NAT_PUNCH_FILTER_NONE, 0, false, 0};
static const struct nat_kind kind_address = {NAT_PUNCH_EASY, NAT_PUNCH_FILTER_ADDRESS, 0, false, 0};
static const struct nat_kind kind_port = {NAT_PUNCH_EASY, NAT_PUNCH_FILTER_PORT, 0, false, 0};
static const struct nat_kind kind_open_input = {NAT_PUNCH_EASY, NAT_PUNCH_FILTER_PORT, 0, true, 0};
static const struct nat_kind kind_series = {NAT_PUNCH_SEQUENTIAL, NAT_PUNCH_FILTER_PORT, 1, false, 0};
static const struct nat_kind kind_random = {NAT_PUNCH_RANDOM, NAT_PUNCH_FILTER_PORT, 0, false, 0};

struct mapping {
    uint16_t via, port; /* outer */
    struct net_addr to; /* family 0: any */
};

struct pass { /* sent from this outer port to there; blocked: came from there for the router itself */
    uint16_t port;
    bool blocked;
    struct net_addr to;
};

struct punch_node {
    struct id id;
    struct nat_kind kind;
    struct net_addr outer;
    struct rng_seeded stream;
    struct rng rng;
    struct nat_punch *core;
    struct mapping mappings[MAPPINGS_MAX];
    size_t mapping_count;
    struct pass passes[PASSES_MAX];
    size_t pass_count;
    uint16_t next_port;
    uint64_t survey_ns; /* answer due; UINT64_MAX: none */
    bool open[NET_VIA_AUX_LAST + 1];
    uint64_t opened_ns[NET_VIA_AUX_LAST + 1];
    size_t sockets_open, sockets_most;
    uint16_t next_via;
    bool mute;       /* gone: neither sends nor receives */
    bool no_sockets; /* the caller has none to give */
    bool no_survey;
    bool no_room; /* its path layer takes no candidate */
    int results, oks, candidates, punched, punches;
    struct nat_punch_event result; /* the last */
    struct net_addr way;           /* the last punched candidate */
    uint64_t sent_udp, sent_signal;
};

struct flight {
    uint64_t at_ns;
    int to; /* node of a signal; -1: by address */
    struct net_addr from;
    struct net_message message;
};

struct punch_net {
    struct punch_node nodes[NODES];
    struct flight flights[FLIGHT_MAX];
    size_t flight_count;
    struct rng_seeded stream;
    struct rng rng;
    uint64_t now_ns;
    uint64_t udp_ns, signal_ns; /* one way */
    uint64_t back_ns;           /* signals to node 0 take so much longer */
    unsigned loss;              /* percent of everything */
    struct flight last[8];      /* the last of each kind, for replays */
};

static inline struct net_addr at(const char *text)
{
    struct net_addr addr;
    cr_assert_eq(net_addr_parse(text, &addr), ERR_OK, "%s", text);
    return addr;
}

static inline bool same_ip(const struct net_addr *a, const struct net_addr *b)
{
    return a->family == b->family && memcmp(a->ip, b->ip, sizeof a->ip) == 0;
}

static inline bool same_place(const struct net_addr *a, const struct net_addr *b)
{
    return same_ip(a, b) && a->port == b->port;
}

static inline bool port_taken(const struct punch_node *node, uint16_t port)
{
    for (size_t i = 0; i < node->mapping_count; i++) {
        if (node->mappings[i].port == port)
            return true;
    }
    return false;
}

static inline uint16_t series_next(struct punch_node *node)
{
    node->next_port = (uint16_t)(node->next_port + node->kind.step);
    return node->next_port;
}

static inline uint16_t random_port(struct punch_node *node)
{
    uint16_t port;
    do
        port = (uint16_t)(1024 + rng_below(&node->rng, 64512));
    while (port_taken(node, port));
    return port;
}

static inline bool is_blocked(const struct punch_node *node, uint16_t port, const struct net_addr *to)
{
    for (size_t i = 0; i < node->pass_count; i++) {
        const struct pass *at = &node->passes[i];
        if (at->blocked && at->port == port && same_place(&at->to, to))
            return true;
    }
    return false;
}

/* The outer port of a datagram from this socket to there. */
static inline uint16_t nat_out(struct punch_node *node, uint16_t via, const struct net_addr *to)
{
    bool easy = node->kind.mapping <= NAT_PUNCH_EASY;
    struct mapping *found = NULL;
    for (size_t i = 0; i < node->mapping_count && found == NULL; i++) {
        struct mapping *at = &node->mappings[i];
        if (at->via == via &&
            (easy ? at->to.family == 0 || same_place(&at->to, to) : same_place(&at->to, to)) &&
            !(at->to.family == 0 && is_blocked(node, at->port, to)))
            found = at;
    }
    if (found == NULL) {
        cr_assert_lt(node->mapping_count, MAPPINGS_MAX);
        bool first = true;
        for (size_t i = 0; i < node->mapping_count; i++)
            first = first && node->mappings[i].via != via;
        found = &node->mappings[node->mapping_count++];
        *found = (struct mapping){.via = via};
        if (!easy || !first) /* !first: an easy one whose port is blocked towards this destination */
            found->to = *to;
        found->port = node->kind.mapping == NAT_PUNCH_SEQUENTIAL ? series_next(node) : random_port(node);
    }
    bool noted = false;
    for (size_t i = node->pass_count; i > 0 && !noted; i--)
        noted = !node->passes[i - 1].blocked && node->passes[i - 1].port == found->port &&
                same_place(&node->passes[i - 1].to, to);
    if (!noted) {
        cr_assert_lt(node->pass_count, PASSES_MAX);
        node->passes[node->pass_count++] = (struct pass){.port = found->port, .to = *to};
    }
    return found->port;
}

/* The socket that a datagram from there to this outer port reaches; false: dropped. */
static inline bool nat_in(struct punch_node *node, uint16_t port, const struct net_addr *from, uint16_t *via)
{
    const struct mapping *found = NULL;
    bool let_in = node->kind.filtering == NAT_PUNCH_FILTER_NONE;
    for (size_t i = 0; i < node->mapping_count; i++) {
        if (node->mappings[i].port == port)
            found = &node->mappings[i];
    }
    if (found == NULL)
        return false;
    for (size_t i = 0; i < node->pass_count && !let_in; i++) {
        const struct pass *at = &node->passes[i];
        if (at->port != port || at->blocked)
            continue;
        let_in = node->kind.filtering == NAT_PUNCH_FILTER_ADDRESS ? same_ip(&at->to, from)
                                                                  : same_place(&at->to, from);
    }
    if (!let_in && node->kind.open_input) {
        cr_assert_lt(node->pass_count, PASSES_MAX);
        node->passes[node->pass_count++] = (struct pass){.port = port, .blocked = true, .to = *from};
    }
    *via = found->via;
    return let_in && (*via == NET_VIA_MAIN || node->open[*via]);
}

static inline void net_profile(struct punch_net *net, struct punch_node *node)
{
    struct nat_punch_profile profile = {.mapping = node->kind.mapping,
                                        .filtering = node->kind.filtering,
                                        .step = node->kind.step,
                                        .trend_port = node->next_port,
                                        .trend_ns = net->now_ns,
                                        .public4 = node->outer};
    cr_assert_eq(nat_punch_set_profile(node->core, &profile), ERR_OK);
}

static inline void net_open(struct punch_net *net, uint64_t seed, struct nat_kind a, struct nat_kind b)
{
    const struct nat_kind kinds[NODES] = {a, b, {NAT_PUNCH_EASY, NAT_PUNCH_FILTER_NONE, 0, false, 0}};
    static const char *const outers[NODES] = {"11.0.1.1:1", "11.0.2.1:1", "11.0.3.1:1"};
    memset(net, 0, sizeof *net);
    net->now_ns = S(1000);
    net->udp_ns = MS(20);
    net->signal_ns = MS(35);
    rng_seeded_init(&net->stream, seed);
    net->rng = rng_of_seeded(&net->stream);
    for (int i = 0; i < NODES; i++) {
        struct punch_node *node = &net->nodes[i];
        struct nat_punch_config config = nat_punch_config_default();
        memset(node->id.bytes, 0x11 * (i + 1), ID_BYTES);
        rng_seeded_init(&node->stream, seed * NODES + (uint64_t)i + 1);
        node->rng = rng_of_seeded(&node->stream);
        config.self = node->id;
        config.rng = node->rng;
        config.peers_max = 8;
        node->kind = kinds[i];
        node->outer = at(outers[i]);
        node->next_port = (uint16_t)(20000 + 1000 * i);
        node->survey_ns = UINT64_MAX;
        node->next_via = NET_VIA_AUX_FIRST;
        void *memory = malloc(nat_punch_size(&config));
        cr_assert_not_null(memory);
        node->core = nat_punch_init(memory, &config);
        net_profile(net, node);
    }
    for (int i = 0; i < OBSERVER; i++) { /* the address that observers agree on, from the main socket */
        struct punch_node *node = &net->nodes[i];
        struct nat_punch_candidate own[2] = {{NAT_PUNCH_OBSERVED, node->outer},
                                             {NAT_PUNCH_LAN, at("192.168.1.10:40000")}};
        struct net_addr observer = net->nodes[OBSERVER].outer;
        struct net_addr relay = at("11.0.9.1:443");
        relay.via = VIA_RELAY;
        observer.port = nat_out(&net->nodes[OBSERVER], NET_VIA_MAIN, &own[0].addr);
        own[0].addr.port = nat_out(node, NET_VIA_MAIN, &observer);
        nat_punch_set_addrs(node->core, own, 2);
        nat_punch_observer(node->core, &net->nodes[OBSERVER].id, &observer);
        cr_assert_eq(nat_punch_signal(node->core, net->now_ns, &net->nodes[1 - i].id, &relay, MS(70)),
                     ERR_OK);
        nat_punch_seen(node->core, &net->nodes[1 - i].id, &net->nodes[1 - i].outer);
    }
}

static inline void net_close(struct punch_net *net)
{
    for (int i = 0; i < NODES; i++)
        free(net->nodes[i].core);
}

static inline void fly(struct punch_net *net, struct flight flight)
{
    cr_assert_lt(net->flight_count, FLIGHT_MAX);
    net->last[flight.message.kind & 7] = flight;
    if (rng_below(&net->rng, 100) < net->loss)
        return;
    net->flights[net->flight_count++] = flight;
}

static inline void node_send(struct punch_net *net, int from, struct net_message *message)
{
    struct punch_node *node = &net->nodes[from];
    if (node->mute)
        return;
    if (net_via_is_relay(message->addr.via)) {
        int to = id_equal(&message->peer, &net->nodes[0].id) ? 0 : 1;
        message->peer = node->id;
        node->sent_signal++;
        fly(net, (struct flight){.at_ns = net->now_ns + net->signal_ns + (to == 0 ? net->back_ns : 0),
                                 .to = to,
                                 .from = message->addr,
                                 .message = *message});
        return;
    }
    cr_assert(message->addr.via == NET_VIA_MAIN || node->open[message->addr.via], "sent by a closed socket");
    struct net_addr source = node->outer, to = message->addr;
    to.via = NET_VIA_MAIN;
    source.port = nat_out(node, message->addr.via, &to);
    message->addr = to;
    message->peer = node->id;
    node->sent_udp++;
    fly(net,
        (struct flight){.at_ns = net->now_ns + net->udp_ns, .to = -1, .from = source, .message = *message});
}

static inline void node_event(struct punch_net *net, struct punch_node *node,
                              const struct nat_punch_event *event)
{
    uint16_t via[NAT_PUNCH_SOCKETS_MAX];
    switch (event->type) {
    case NAT_PUNCH_CANDIDATE:
        node->candidates++;
        if (event->source == NAT_PUNCH_PUNCHED) {
            node->punched++;
            node->way = event->addr;
            node->opened_ns[event->addr.via] = 0; /* may be kept for longer */
            if (node->no_room)
                nat_punch_release(node->core, event->addr.via);
        }
        break;
    case NAT_PUNCH_PUNCH:
        node->punches++;
        break;
    case NAT_PUNCH_SOCKETS_WANTED:
        for (size_t i = 0; i < event->count && !node->no_sockets; i++) {
            while (node->open[node->next_via])
                node->next_via = node->next_via == NET_VIA_AUX_LAST ? NET_VIA_AUX_FIRST : node->next_via + 1;
            via[i] = node->next_via;
            node->open[via[i]] = true;
            node->opened_ns[via[i]] = net->now_ns;
            node->next_via = node->next_via == NET_VIA_AUX_LAST ? NET_VIA_AUX_FIRST : node->next_via + 1;
            node->sockets_open++;
        }
        if (node->sockets_open > node->sockets_most)
            node->sockets_most = node->sockets_open;
        cr_assert_eq(nat_punch_sockets(node->core, net->now_ns, event->token, via,
                                       node->no_sockets ? 0 : event->count),
                     ERR_OK);
        break;
    case NAT_PUNCH_SOCKET_RELEASE:
        cr_assert(node->open[event->addr.via]);
        if (node->opened_ns[event->addr.via] != 0)
            cr_assert_leq(net->now_ns - node->opened_ns[event->addr.via], S(20));
        node->open[event->addr.via] = false;
        node->sockets_open--;
        break;
    case NAT_PUNCH_SURVEY_WANTED:
        node->survey_ns = node->no_survey ? UINT64_MAX : net->now_ns + 2 * net->udp_ns;
        break;
    case NAT_PUNCH_RESULT:
        node->results++;
        node->oks += event->ok;
        node->result = *event;
        break;
    }
}

static inline void node_drain(struct punch_net *net, int i)
{
    struct punch_node *node = &net->nodes[i];
    struct nat_punch_event event;
    struct net_message message;
    bool busy = true;
    while (busy) {
        busy = false;
        while (nat_punch_poll_event(node->core, &event)) {
            node_event(net, node, &event);
            busy = true;
        }
        while (nat_punch_poll_send(node->core, net->now_ns, &message)) {
            node_send(net, i, &message);
            busy = true;
        }
    }
    nat_punch_check_invariants(node->core);
}

static inline void flight_arrive(struct punch_net *net, struct flight *flight)
{
    int to = flight->to;
    uint16_t via = NET_VIA_MAIN;
    for (int i = 0; i < NODES && to < 0; i++) {
        if (same_ip(&net->nodes[i].outer, &flight->message.addr))
            to = i;
    }
    if (to < 0 || net->nodes[to].mute)
        return;
    if (flight->to < 0 && !nat_in(&net->nodes[to], flight->message.addr.port, &flight->from, &via))
        return;
    flight->message.addr = flight->from;
    if (flight->to < 0)
        flight->message.addr.via = via;
    int rc = nat_punch_recv(net->nodes[to].core, net->now_ns, &flight->message);
    cr_assert(rc <= 0);
    node_drain(net, to);
}

static inline void survey_end(struct punch_net *net, int i)
{
    struct punch_node *node = &net->nodes[i];
    node->survey_ns = UINT64_MAX;
    (void)series_next(node); /* the surveying socket's two observers */
    (void)series_next(node);
    net_profile(net, node);
    node->next_port = (uint16_t)(node->next_port + node->kind.step * node->kind.foreign);
    nat_punch_survey_done(node->core, net->now_ns, &net->nodes[1 - i].id);
    node_drain(net, i);
}

/* Lets virtual time pass until then. */
static inline void net_run(struct punch_net *net, uint64_t until_ns)
{
    for (;;) {
        uint64_t next_ns = until_ns;
        size_t first = SIZE_MAX;
        for (int i = 0; i < NODES; i++) {
            node_drain(net, i);
            uint64_t due_ns = nat_punch_deadline_ns(net->nodes[i].core);
            due_ns = net->nodes[i].survey_ns < due_ns ? net->nodes[i].survey_ns : due_ns;
            next_ns = due_ns < next_ns ? due_ns : next_ns;
        }
        for (size_t i = 0; i < net->flight_count; i++) {
            if (net->flights[i].at_ns < next_ns ||
                (net->flights[i].at_ns == next_ns && first == SIZE_MAX && next_ns < until_ns)) {
                next_ns = net->flights[i].at_ns;
                first = i;
            }
        }
        if (next_ns >= until_ns)
            break;
        cr_assert_geq(next_ns + S(1), net->now_ns); /* no deadline is forgotten */
        net->now_ns = next_ns > net->now_ns ? next_ns : net->now_ns;
        if (first != SIZE_MAX && net->flights[first].at_ns <= net->now_ns) {
            struct flight flight = net->flights[first];
            net->flights[first] = net->flights[--net->flight_count];
            flight_arrive(net, &flight);
        }
        for (int i = 0; i < NODES; i++) {
            if (net->nodes[i].survey_ns <= net->now_ns)
                survey_end(net, i);
            nat_punch_tick(net->nodes[i].core, net->now_ns);
        }
    }
    net->now_ns = until_ns;
}

static inline void net_start(struct punch_net *net, int from)
{
    cr_assert_eq(nat_punch_start(net->nodes[from].core, net->now_ns, &net->nodes[1 - from].id, false),
                 ERR_OK);
    node_drain(net, from);
}

static inline void net_check_idle(const struct punch_net *net)
{
    for (int i = 0; i < OBSERVER; i++) {
        struct nat_punch_stats stats = nat_punch_stats(net->nodes[i].core);
        cr_assert_eq(stats.rounds, 0);
        cr_assert_eq(stats.sockets, stats.kept);
        cr_assert_eq(net->nodes[i].sockets_open, stats.kept, "a socket leaked");
        cr_assert_leq(net->nodes[i].sockets_most, PUNCH_SOCKETS);
    }
}

#endif
