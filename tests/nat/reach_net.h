/* Reach cores in virtual time: node 0 behind a NAT or firewall of any behaviour, all others public. */
#ifndef DUNLIN_TESTS_NAT_REACH_NET_H
#define DUNLIN_TESTS_NAT_REACH_NET_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "nat/reach.h"
#include "nat/reach_wire.h"

#define MS(x)  ((uint64_t)(x)*UINT64_C(1000000))
#define SEC(x) MS((x)*1000)

enum { NODES_MAX = 12, FLIGHTS_MAX = 4096, FLOWS_MAX = 512, AUX_MAX = 16, MAIN_PORT = 4242 };

/* RFC 4787's words: of mapping and of filtering. */
enum depends { ON_NOTHING, ON_ADDRESS, ON_ADDRESS_PORT };

struct nat_kind {
    const char *name;
    bool translates;
    enum depends mapping;
    enum depends filtering;
    bool preserves;   /* the port of the first flow from a socket */
    int step;         /* of new mappings; 0: random */
    int foreign;      /* flows of other hosts between two of ours, up to so many */
    uint64_t life_ns; /* a mapping ends so long after it began, busy or not; 0: never */
    bool forwards;    /* MAIN_PORT of the outside leads to MAIN_PORT inside, for everybody */
};

/* A mapping, and whom it lets in. */
struct flow {
    bool live;
    uint16_t local;
    uint16_t outer;
    uint64_t born_ns;
    struct net_addr key; /* what the mapping is for: the parts that it depends on */
};

struct permit {
    uint16_t outer;
    struct net_addr remote;
};

struct node {
    struct id id;
    struct net_addr at; /* public address of the main socket; node 0: the NAT's, port unused */
    struct nat_reach *reach;
    struct rng_seeded stream;
    uint16_t aux_ports[AUX_MAX]; /* by via - 1; 0: closed */
    bool liar;
    bool dead;
    bool no_sockets;
    uint64_t sent;
    uint64_t profiles, verdicts, wanted, released, seen;
    struct nat_reach_event verdict;
};

struct flight {
    uint64_t at_ns;
    size_t to;
    struct net_message message;
};

struct world {
    struct node nodes[NODES_MAX];
    size_t node_count;
    struct nat_kind kind;
    struct rng_seeded stream;
    struct rng rng;
    struct flow flows[FLOWS_MAX];
    size_t flow_count;
    struct permit permits[FLOWS_MAX];
    size_t permit_count;
    uint16_t next_port;
    struct flight flights[FLIGHTS_MAX];
    size_t flight_count;
    uint64_t now_ns;
    uint64_t loss; /* of 1000 */
    uint64_t blocked;
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

/* Public node i: 11.0.i.1; node 0 is behind 11.0.200.1. */
static inline struct net_addr addr_of(size_t i)
{
    struct net_addr addr = {.family = NET_FAMILY_V4, .ip = {11, 0, (uint8_t)i, 1}, .port = MAIN_PORT};
    if (i == 0)
        addr.ip[2] = 200;
    return addr;
}

static inline void world_open(struct world *w, const struct nat_kind *kind, size_t nodes, uint64_t seed)
{
    memset(w, 0, sizeof *w);
    w->kind = *kind;
    w->node_count = nodes;
    w->now_ns = SEC(1000);
    rng_seeded_init(&w->stream, seed);
    w->rng = rng_of_seeded(&w->stream);
    w->next_port = (uint16_t)(20000 + rng_below(&w->rng, 20000));
    for (size_t i = 0; i < nodes; i++) {
        struct node *node = &w->nodes[i];
        struct nat_reach_config config = nat_reach_config_default();
        memset(node->id.bytes, (int)i + 1, ID_BYTES);
        rng_seeded_init(&node->stream, seed * 100 + i);
        node->at = addr_of(i);
        config.self = node->id;
        config.rng = rng_of_seeded(&node->stream);
        config.serve = i != 0;
        void *memory = aligned_alloc(64, (nat_reach_size(&config) + 63) / 64 * 64);
        cr_assert_not_null(memory);
        node->reach = nat_reach_init(memory, &config, w->now_ns);
    }
}

static inline void world_close(struct world *w)
{
    for (size_t i = 0; i < w->node_count; i++)
        free(w->nodes[i].reach);
}

static inline uint16_t local_port(const struct node *node, uint16_t via)
{
    return via == NET_VIA_MAIN ? node->at.port : node->aux_ports[via - 1];
}

/* The parts of a destination that matter to `depends`. */
static inline struct net_addr key_of(enum depends depends, const struct net_addr *remote)
{
    struct net_addr key = *remote;
    key.via = 0;
    if (depends != ON_ADDRESS_PORT)
        key.port = 0;
    if (depends == ON_NOTHING)
        memset(&key, 0, sizeof key);
    return key;
}

static inline uint16_t new_port(struct world *w, uint16_t local)
{
    if (w->kind.preserves)
        return local;
    if (w->kind.step == 0)
        return (uint16_t)(1024 + rng_below(&w->rng, 64000));
    uint64_t foreign = rng_below(&w->rng, (uint64_t)w->kind.foreign + 1);
    w->next_port = (uint16_t)(w->next_port + w->kind.step * (int)(1 + foreign));
    return w->next_port;
}

/* The outer port of a datagram from this local port to remote; opens the filter for answers. */
static inline uint16_t translate(struct world *w, uint16_t local, const struct net_addr *remote)
{
    struct net_addr key = key_of(w->kind.mapping, remote);
    struct flow *flow = NULL;
    uint16_t outer = local;
    for (size_t i = 0; i < w->flow_count && w->kind.translates; i++) {
        struct flow *f = &w->flows[i];
        if (f->live && w->kind.life_ns != 0 && w->now_ns - f->born_ns >= w->kind.life_ns)
            f->live = false;
        if (f->live && f->local == local && net_addr_equal(&f->key, &key))
            flow = f;
    }
    if (w->kind.translates && flow == NULL) {
        cr_assert_lt(w->flow_count, FLOWS_MAX);
        flow = &w->flows[w->flow_count++];
        *flow = (struct flow){
            .live = true, .local = local, .outer = new_port(w, local), .born_ns = w->now_ns, .key = key};
    }
    if (flow != NULL)
        outer = flow->outer;
    struct permit permit = {.outer = outer, .remote = key_of(w->kind.filtering, remote)};
    for (size_t i = 0; i < w->permit_count; i++) {
        if (w->permits[i].outer == outer && net_addr_equal(&w->permits[i].remote, &permit.remote))
            return outer;
    }
    cr_assert_lt(w->permit_count, FLOWS_MAX);
    w->permits[w->permit_count++] = permit;
    return outer;
}

/* The local port behind an outer one that lets this remote in; 0: dropped. */
static inline uint16_t admit(struct world *w, uint16_t outer, const struct net_addr *remote)
{
    struct net_addr key = key_of(w->kind.filtering, remote);
    bool open = w->kind.filtering == ON_NOTHING;
    if (w->kind.forwards && outer == MAIN_PORT)
        return MAIN_PORT;
    for (size_t i = 0; i < w->permit_count; i++)
        open |= w->permits[i].outer == outer && net_addr_equal(&w->permits[i].remote, &key);
    if (!open)
        return 0;
    if (!w->kind.translates)
        return outer;
    for (size_t i = 0; i < w->flow_count; i++) {
        const struct flow *f = &w->flows[i];
        if (f->live && f->outer == outer &&
            (w->kind.life_ns == 0 || w->now_ns - f->born_ns < w->kind.life_ns))
            return f->local;
    }
    return 0;
}

static inline void lie(struct world *w, struct net_message *m)
{
    struct reach_body body;
    if (m->kind == REACH_OBSERVED && reach_read(m, &body) == ERR_OK) {
        body.addr.port = (uint16_t)(1024 + rng_below(&w->rng, 60000));
        if (rng_below(&w->rng, 2) == 0)
            body.addr.ip[3] ^= 0x55;
        reach_write(m, REACH_OBSERVED, &body);
    }
}

/* One datagram of node `from` on its way. */
static inline void carry(struct world *w, size_t from, struct net_message *m)
{
    struct node *sender = &w->nodes[from];
    struct net_addr source = sender->at;
    struct net_addr to = m->addr;
    sender->sent++;
    source.port = local_port(sender, m->addr.via);
    cr_assert_neq(source.port, 0, "sent by a closed socket");
    if (sender->liar && (m->kind == REACH_FORWARD || m->kind == REACH_DIALBACK_PROBE))
        return;
    if (sender->liar)
        lie(w, m);
    if (from == 0)
        source.port = translate(w, source.port, &to);
    if (w->loss > 0 && rng_below(&w->rng, 1000) < w->loss)
        return;
    for (size_t i = 0; i < w->node_count; i++) {
        struct node *node = &w->nodes[i];
        uint16_t port = to.port;
        if (!same_ip(&node->at, &to) || node->dead)
            continue;
        if (i == 0 && (port = admit(w, to.port, &source)) == 0) {
            w->blocked++;
            return;
        }
        for (uint16_t via = NET_VIA_MAIN; via <= AUX_MAX; via++) {
            if (local_port(node, via) != port)
                continue;
            cr_assert_lt(w->flight_count, FLIGHTS_MAX);
            struct flight *f = &w->flights[w->flight_count++];
            f->at_ns = w->now_ns + MS(15) + rng_below(&w->rng, MS(10));
            f->to = i;
            f->message = *m;
            f->message.peer = sender->id;
            f->message.addr = source;
            f->message.addr.via = via;
            return;
        }
    }
}

static inline void give_sockets(struct world *w, struct node *node, const struct nat_reach_event *event)
{
    struct nat_reach_socket sockets[1];
    size_t count = 0;
    for (uint16_t via = 1; via <= AUX_MAX && count < event->count && !node->no_sockets; via++) {
        if (node->aux_ports[via - 1] != 0)
            continue;
        node->aux_ports[via - 1] = (uint16_t)(30000 + rng_below(&w->rng, 30000));
        sockets[count++] = (struct nat_reach_socket){.via = via, .port = node->aux_ports[via - 1]};
    }
    nat_reach_sockets(node->reach, w->now_ns, event->token, sockets, count);
}

static inline void drain(struct world *w, size_t i)
{
    struct node *node = &w->nodes[i];
    struct nat_reach_event event;
    struct net_message m;
    while (nat_reach_poll_event(node->reach, &event)) {
        switch (event.type) {
        case NAT_REACH_SOCKETS_WANTED:
            node->wanted++;
            give_sockets(w, node, &event);
            break;
        case NAT_REACH_SOCKET_RELEASE:
            node->released++;
            cr_assert_neq(node->aux_ports[event.via - 1], 0, "released twice");
            node->aux_ports[event.via - 1] = 0;
            break;
        case NAT_REACH_PROFILE:
            node->profiles++;
            break;
        case NAT_REACH_VERDICT:
            node->verdicts++;
            node->verdict = event;
            break;
        case NAT_REACH_SEEN:
            node->seen++;
            break;
        }
    }
    while (nat_reach_poll_send(node->reach, w->now_ns, &m))
        carry(w, i, &m);
    nat_reach_check_invariants(node->reach);
}

static inline void drain_all(struct world *w)
{
    for (size_t i = 0; i < w->node_count; i++)
        drain(w, i);
}

static inline void deliver_due(struct world *w)
{
    for (size_t i = 0; i < w->flight_count;) {
        if (w->flights[i].at_ns > w->now_ns) {
            i++;
            continue;
        }
        struct flight f = w->flights[i];
        w->flights[i] = w->flights[--w->flight_count];
        int rc = nat_reach_recv(w->nodes[f.to].reach, w->now_ns, &f.message);
        (void)rc;
        drain(w, f.to);
    }
}

/* Runs everything for this long. */
static inline void run(struct world *w, uint64_t span_ns)
{
    uint64_t until_ns = w->now_ns + span_ns;
    drain_all(w);
    for (;;) {
        uint64_t next_ns = until_ns;
        for (size_t i = 0; i < w->flight_count; i++)
            next_ns = w->flights[i].at_ns < next_ns ? w->flights[i].at_ns : next_ns;
        for (size_t i = 0; i < w->node_count; i++) {
            uint64_t due_ns = nat_reach_deadline_ns(w->nodes[i].reach);
            next_ns = due_ns < next_ns ? due_ns : next_ns;
        }
        w->now_ns = next_ns > w->now_ns ? next_ns : w->now_ns;
        deliver_due(w);
        for (size_t i = 0; i < w->node_count; i++)
            nat_reach_tick(w->nodes[i].reach, w->now_ns);
        drain_all(w);
        if (w->now_ns >= until_ns)
            return;
    }
}

/* Node 0 learns of observers first..last; all public nodes vouch for each other. */
static inline void introduce(struct world *w, size_t first, size_t last)
{
    for (size_t i = first; i <= last; i++)
        cr_assert_eq(nat_reach_observer(w->nodes[0].reach, w->now_ns, &w->nodes[i].id, &w->nodes[i].at),
                     ERR_OK);
    for (size_t i = 1; i < w->node_count; i++) {
        for (size_t k = 1; k < w->node_count; k++) {
            if (k != i)
                cr_assert_eq(nat_reach_helper(w->nodes[i].reach, w->now_ns, &w->nodes[k].id, &w->nodes[k].at),
                             ERR_OK);
        }
    }
}

static inline struct nat_reach_profile profile(const struct world *w)
{
    return nat_reach_profile(w->nodes[0].reach, NET_FAMILY_V4);
}

/* Where others see node 0's main socket now: as it would send to one that takes no part here. */
static inline struct net_addr main_seen(struct world *w)
{
    struct net_addr seen = w->nodes[0].at;
    struct net_addr nobody = at("9.9.9.9:9");
    seen.port = translate(w, MAIN_PORT, &nobody);
    return seen;
}

#endif
