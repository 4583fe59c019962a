/* Whom we want to be connected to, where they are, and what we tell others of our own addresses.
 *
 * A wanted peer without a connection gets, in this order: probes to every address we know; a DHT lookup of
 * its peer record, repeated with back-off; and, once a route answers, a QUIC connection dialled by the lower
 * id. */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "node/internal.h"

enum {
    LOOKUP_MIN_S = 2,
    LOOKUP_MAX_S = 60,
    DIAL_S = 3,
    SEED_RETRY_S = 30,
    PEER_KEEP_S = 300,
    STRANGER_S = 60,
};

struct node_peer *peers_find(struct node *node, const struct id *id)
{
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        if (node->peers[i].used && id_equal(&node->peers[i].id, id))
            return &node->peers[i];
    }
    return NULL;
}

static void release(struct node *node, struct node_peer *peer)
{
    meet_forget(node, peer, node_now_ns());
    nat_path_peer_remove(node->path, &peer->id);
    memset(peer, 0, sizeof *peer);
}

struct node_peer *peers_get(struct node *node, const struct id *id)
{
    uint64_t now_ns = node_now_ns();
    struct node_peer *peer = peers_find(node, id);
    struct node_peer *idle = NULL;
    if (peer != NULL || id_equal(id, &node->identity.id))
        return peer;
    for (size_t i = 0; i < NODE_PEERS_MAX && peer == NULL; i++) {
        if (!node->peers[i].used)
            peer = &node->peers[i];
        else if (!node->peers[i].connected && node->peers[i].wanted_until_ns < now_ns)
            idle = &node->peers[i];
    }
    if (peer == NULL && idle != NULL) {
        release(node, idle);
        peer = idle;
    }
    if (peer == NULL)
        return NULL;
    memset(peer, 0, sizeof *peer);
    peer->used = true;
    peer->id = *id;
    peer->serial = (uint32_t)(peer - node->peers) + 1;
    return peer;
}

/* What is worth offering to the path layer.  Loopback addresses only make sense on one machine: there the
 * peer's probe or the seed's address tells. */
static enum nat_route_kind kind_of(const struct net_addr *addr)
{
    if (net_addr_scope(addr) != NET_SCOPE_GLOBAL)
        return NAT_ROUTE_LAN;
    return addr->family == NET_FAMILY_V6 ? NAT_ROUTE_DIRECT6 : NAT_ROUTE_DIRECT4;
}

static bool is_own(const struct node *node, const struct net_addr *addr)
{
    for (size_t i = 0; i < node->own_addr_count; i++) {
        if (net_addr_equal(&node->own_addrs[i], addr))
            return true;
    }
    return false;
}

void peers_add_addr(struct node *node, struct node_peer *peer, const struct net_addr *addr)
{
    size_t slot = peer->addr_count;
    if (net_addr_scope(addr) == NET_SCOPE_INVALID || is_own(node, addr))
        return;
    for (size_t i = 0; i < peer->addr_count; i++) {
        if (net_addr_equal(&peer->addrs[i], addr))
            return;
    }
    if (slot == NODE_PEER_ADDRS_MAX) { /* the oldest hint gives way */
        memmove(peer->addrs, peer->addrs + 1, (NODE_PEER_ADDRS_MAX - 1) * sizeof peer->addrs[0]);
        slot--;
    }
    peer->addrs[slot] = *addr;
    peer->addr_count = slot + 1;
    if (nat_path_peer_add(node->path, node_now_ns(), &peer->id) == ERR_OK &&
        nat_path_candidate_add(node->path, node_now_ns(), &peer->id, addr, kind_of(addr)) < 0)
        peer->addr_count--; /* all candidates are in better standing */
}

struct node_peer *peers_admit(struct node *node, uint64_t now_ns, const struct id *id)
{
    size_t strangers = 0;
    struct node_peer *peer = peers_find(node, id);
    if (peer != NULL && (peer->connected || peer->wanted_until_ns >= now_ns))
        return peer;
    for (size_t i = 0; i < NODE_PEERS_MAX; i++)
        strangers += node->peers[i].used && node->peers[i].stranger;
    peer = strangers < NODE_STRANGERS_MAX ? peers_get(node, id) : NULL;
    if (peer != NULL) {
        peer->stranger = true;
        peer->wanted_until_ns = now_ns + STRANGER_S * NODE_SECOND_NS;
    }
    return peer;
}

struct node_peer *peers_want(struct node *node, const struct id *id, const struct net_addr *addrs,
                             size_t count, uint64_t for_ns)
{
    uint64_t now_ns = node_now_ns();
    struct node_peer *peer = peers_get(node, id);
    if (peer == NULL)
        return NULL;
    peer->stranger = false;
    if (peer->wanted_until_ns < now_ns + for_ns)
        peer->wanted_until_ns = now_ns + for_ns;
    if (!peer->connected) {
        int result = nat_path_peer_add(node->path, now_ns, id);
        (void)result; /* ERR_FULL: 512 peers are wanted already; it is tried again while this one is */
    }
    for (size_t i = 0; i < count; i++)
        peers_add_addr(node, peer, &addrs[i]);
    return peer;
}

/* Whoever dials us may stay, as long as there is room left for those that we want ourselves. */
static struct node_peer *place_of_connected(struct node *node, const struct id *id)
{
    struct node_peer *peer = peers_find(node, id);
    size_t used = 0;
    if (peer != NULL)
        return peer;
    for (size_t i = 0; i < NODE_PEERS_MAX; i++)
        used += node->peers[i].used;
    return used < NODE_PEERS_MAX - NODE_PEERS_RESERVED ? peers_get(node, id) : NULL;
}

void peers_connected(struct node *node, const struct quic_event *event)
{
    uint64_t now_ns = node_now_ns();
    struct node_peer *peer = place_of_connected(node, &event->peer);
    if (peer == NULL) {
        quic_disconnect(node->quic, now_ns, &event->peer, ERR_FULL);
        return;
    }
    peer->connected = true;
    peer->connected_ns = now_ns;
    meet_connected(node, peer, now_ns);
    attempts_note(&node->attempts, now_ns, &peer->id, ATTEMPT_QUIC_UP, NULL, ERR_OK);
    int result = nat_path_peer_add(node->path, now_ns, &peer->id);
    (void)result; /* ERR_FULL: the route in use is kept as long as the peer is heard */
    peer->last_seen_ns = now_ns;
    peer->lookup_fails = 0;
    for (size_t i = 0; i < NODE_RUNS_MAX; i++) {
        struct run *run = &node->runs[i];
        if (!run->used || run->leaving)
            continue;
        if (!run->has_chain)
            state_fetch_chain(node, peer, run);
        else if (event->outgoing || run->stage == RUN_SYNCING)
            state_sync(node, peer, run); /* one repair in one direction is enough */
    }
}

void peers_disconnected(struct node *node, const struct quic_event *event)
{
    struct node_peer *peer = peers_find(node, &event->peer);
    if (peer == NULL)
        return;
    for (size_t i = 0; i < NODE_STREAMS_MAX; i++) {
        struct node_stream was = node->streams[i];
        if (was.kind == STREAM_FREE || was.peer != peer)
            continue;
        streams_drop(node, &node->streams[i]);
        if (was.kind == STREAM_RUN) {
            gossip_stream_closed(was.run->gossip, node_now_ns(), was.handle, ERR_CLOSED);
            (void)run_drain(was.run, node_now_ns());
        }
    }
    peer->connected = false;
    attempts_note(&node->attempts, node_now_ns(), &peer->id, ATTEMPT_QUIC_DOWN, NULL, event->err);
    peer->push_stream = 0;
    peer->dial_next_ns = node_now_ns() + NODE_SECOND_NS;
}

/* Address record of a wanted peer, and providers of runs whose chain we lack. */
void peers_dht_event(struct node *node, uint64_t now_ns, const struct dht_event *event)
{
    if (event->kind == DHT_EVENT_CONTACT || (event->kind == DHT_EVENT_PONG && event->err == ERR_OK))
        own_public_peer(node, now_ns, &event->node);
    if (event->kind == DHT_EVENT_VALUE && event->record.type == DHT_RECORD_PROVIDER) {
        for (size_t i = 0; i < NODE_RUNS_MAX; i++) {
            struct run *run = &node->runs[i];
            struct id key = {{0}};
            if (run->used)
                hash_content(bytes_of(run->id.bytes, ID_BYTES), &key);
            if (run->used && !run->leaving && id_equal(&key, &event->record.key))
                (void)peers_want(node, &event->record.owner, event->record.addrs, event->record.addr_count,
                                 60 * NODE_SECOND_NS);
        }
    }
    if (event->handle == 0)
        return;
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        struct node_peer *peer = &node->peers[i];
        if (!peer->used || peer->lookup != event->handle)
            continue;
        if (event->kind == DHT_EVENT_VALUE) {
            attempts_note(&node->attempts, now_ns, &peer->id, ATTEMPT_LOOKUP_FOUND, NULL,
                          (int)event->record.addr_count);
            for (size_t k = 0; k < event->record.addr_count; k++)
                peers_add_addr(node, peer, &event->record.addrs[k]);
            meet_record(node, peer, bytes_of(event->record.extra, event->record.extra_len));
        } else if (event->kind == DHT_EVENT_LOOKUP_DONE) {
            /* Twice each wait: a node that has just started publishes its relays a moment later. */
            uint64_t wait_s = (uint64_t)LOOKUP_MIN_S
                              << (peer->lookup_fails < 10 ? peer->lookup_fails / 2 : 5);
            if (event->found == 0)
                attempts_note(&node->attempts, now_ns, &peer->id, ATTEMPT_LOOKUP_FAILED, NULL, event->err);
            peer->lookup = 0;
            peer->lookup_fails++;
            peer->lookup_next_ns = now_ns + (wait_s < LOOKUP_MAX_S ? wait_s : LOOKUP_MAX_S) * NODE_SECOND_NS;
        }
        return;
    }
}

static void look_up(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    if (now_ns < peer->lookup_next_ns)
        return;
    peer->lookup_next_ns = now_ns + LOOKUP_MIN_S * NODE_SECOND_NS;
    if (peer->lookup != 0)
        return;
    int result = dht_find_peer(node->dht, now_ns, node_wall_ms(), &peer->id, &peer->lookup);
    if (result < 0)
        peer->lookup = 0;
    attempts_note(&node->attempts, now_ns, &peer->id, ATTEMPT_LOOKUP, NULL, result);
}

static void chase(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    struct net_addr addr;
    bool reachable = nat_path_route(node->path, &peer->id, &addr) == ERR_OK;
    if (reachable && now_ns >= peer->dial_next_ns) {
        peer->dial_next_ns = now_ns + DIAL_S * NODE_SECOND_NS;
        int result = quic_connect(node->quic, now_ns, &peer->id);
        if (result != ERR_EXISTS && result != ERR_STATE)
            attempts_note(&node->attempts, now_ns, &peer->id, ATTEMPT_QUIC_DIAL, &addr, result);
        if (result < 0 && result != ERR_EXISTS && result != ERR_STATE)
            trace_emit(&node->trace, TRACE_CONN_REFUSED, now_ns, &peer->id, 0, 0, result);
    }
    if (reachable)
        return;
    meet_seek(node, peer, now_ns);
    look_up(node, peer, now_ns);
}

/* Nobody has needed this connection for a while. */
static void let_go(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    if (peer->connected) {
        if (now_ns > peer->wanted_until_ns + PEER_KEEP_S * NODE_SECOND_NS &&
            now_ns > peer->last_seen_ns + PEER_KEEP_S * NODE_SECOND_NS)
            quic_disconnect(node->quic, now_ns, &peer->id, ERR_OK);
        return;
    }
    if (peer->lookup != 0 && dht_cancel(node->dht, peer->lookup) == ERR_OK)
        return; /* its final event comes first */
    release(node, peer);
}

struct resolving {
    uv_getaddrinfo_t request;
    struct node *node;
    size_t seed;
};

/* The routing table keeps one address of each node, be it IPv4 or IPv6, and over the other family nobody
 * would ever tell us how they see us: seeds are asked over both. */
static void ask_over_both(struct node *node, const struct dht_contact *seed)
{
    uint32_t handle;
    if (!own_has_local(node, NET_FAMILY_V6, NET_SCOPE_GLOBAL))
        return;
    int result = dht_ping(node->dht, node_now_ns(), seed, &handle);
    (void)result; /* ERR_FULL, ERR_INVALID: then it is not known */
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *found)
{
    struct resolving *resolving = (struct resolving *)(void *)request;
    struct node *node = resolving->node;
    const struct net_seed *seed = &node->config.seeds[resolving->seed];
    node->resolving[resolving->seed] = false;
    if (status < 0 && status != UV_ECANCELED)
        node_info(node, TRACE_LEVEL_WARN, "seed %s:%u: %s; trying again in %d s", seed->host,
                  (unsigned)seed->port, uv_strerror(status), SEED_RETRY_S);
    for (const struct addrinfo *at = found; at != NULL && !node->stopping; at = at->ai_next) {
        struct dht_contact contact = {.id = seed->id};
        contact.addr.port = seed->port;
        if (at->ai_family == AF_INET) {
            contact.addr.family = NET_FAMILY_V4;
            memcpy(contact.addr.ip, &((struct sockaddr_in *)(void *)at->ai_addr)->sin_addr, 4);
        } else if (at->ai_family == AF_INET6) {
            contact.addr.family = NET_FAMILY_V6;
            memcpy(contact.addr.ip, &((struct sockaddr_in6 *)(void *)at->ai_addr)->sin6_addr, 16);
        } else {
            continue;
        }
        ways_public(node, &seed->id, &contact.addr);
        ask_over_both(node, &contact);
        int result = dht_bootstrap(node->dht, node_now_ns(), &contact);
        if (result < 0 && result != ERR_INVALID && result != ERR_EXISTS)
            node_info(node, TRACE_LEVEL_WARN, "seed %s: %s", seed->host, err_text(result));
    }
    uv_freeaddrinfo(found);
    free(resolving);
    if (!node->stopping)
        node_pump(node, node_now_ns());
}

static void resolve_seeds(struct node *node, uint64_t now_ns)
{
    node->seeds_next_ns = now_ns + SEED_RETRY_S * NODE_SECOND_NS;
    if (dht_ready(node->dht))
        return;
    if (node->seed_rounds++ > 0 && node->config.seed_count > 0)
        node_info(node, TRACE_LEVEL_WARN,
                  "none of %zu seeds answers (first: %s:%u): is dunlind running there, is its UDP port open, "
                  "is the "
                  "id right, is this machine online?  Trying again every %d s",
                  node->config.seed_count, node->config.seeds[0].host, (unsigned)node->config.seeds[0].port,
                  SEED_RETRY_S);
    for (size_t i = 0; i < node->config.seed_count; i++) {
        struct resolving *resolving = node->resolving[i] ? NULL : malloc(sizeof *resolving);
        if (resolving == NULL || id_equal(&node->config.seeds[i].id, &node->identity.id)) {
            free(resolving);
            continue;
        }
        struct addrinfo hints = {.ai_socktype = SOCK_DGRAM, .ai_flags = AI_ADDRCONFIG};
        resolving->node = node;
        resolving->seed = i;
        node->resolving[i] = true;
        /* Numeric addresses come without a look-up; AI_ADDRCONFIG must not hide loopback on offline machines.
         */
        if (strpbrk(node->config.seeds[i].host, "ghijklmnopqrstuvwxyz") == NULL)
            hints.ai_flags = 0;
        if (uv_getaddrinfo(&node->loop, &resolving->request, on_resolved, node->config.seeds[i].host, NULL,
                           &hints) < 0) {
            node->resolving[i] = false;
            free(resolving);
        }
    }
}

void peers_tick(struct node *node, uint64_t now_ns)
{
    if (now_ns >= node->seeds_next_ns)
        resolve_seeds(node, now_ns);
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        struct node_peer *peer = &node->peers[i];
        if (!peer->used)
            continue;
        if (peer->wanted_until_ns < now_ns)
            let_go(node, peer, now_ns);
        else if (!peer->connected)
            chase(node, peer, now_ns);
        if (peer->used && meet_wants_record(peer))
            look_up(node, peer, now_ns); /* the other side may still need the connection */
    }
}

uint64_t peers_deadline_ns(const struct node *node)
{
    uint64_t first = node->seeds_next_ns;
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        const struct node_peer *peer = &node->peers[i];
        if (!peer->used)
            continue;
        if (peer->connected) {
            if (meet_wants_record(peer) && peer->lookup_next_ns < first)
                first = peer->lookup_next_ns;
            continue;
        }
        uint64_t next = peer->dial_next_ns > peer->lookup_next_ns ? peer->dial_next_ns : peer->lookup_next_ns;
        if (next > peer->wanted_until_ns + 1)
            next = peer->wanted_until_ns + 1;
        if (next < first)
            first = next;
    }
    return first;
}
