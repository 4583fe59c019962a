/* Datagrams in and out.  What arrives is QUIC's or a sealed message, which belongs to the path layer or the
 * DHT; what they want to say is sealed and sent.  Decisions are the cores', not made here. */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "net/rpc_quic.h"
#include "node/internal.h"

enum { HTTPS_PORT = 443, BUSY_INTERVAL_MS = 200, CLOCK_INTERVAL_S = 60, SHAPER_BURST_DEFAULT = 0 };

static void send_raw(struct node *node, uint64_t now_ns, const struct id *peer, const struct net_addr *to,
                     const uint8_t *data, size_t len, size_t segment)
{
    /* Datagrams may be lost anywhere: a full queue or a missing route is counted by the socket. */
    int result = ways_send(node, now_ns, peer, to, data, len, segment);
    if (result < 0 && result != ERR_AGAIN && result != ERR_UNREACHABLE && result != ERR_NOT_FOUND)
        trace_emit(&node->trace, TRACE_DATAGRAM_DROPPED, now_ns, NULL, 0, 0, result);
}

void wire_send(struct node *node, uint64_t now_ns, const struct net_message *message)
{
    uint8_t sealed[NET_DATAGRAM_MAX];
    int len = net_seal_write(node->seal, now_ns, node_wall_ms(), message, sealed, sizeof sealed);
    if (len < 0) {
        trace_emit(&node->trace, TRACE_DATAGRAM_DROPPED, now_ns, &message->peer, 0, 0, len);
        return;
    }
    shaper_charge(&node->shaper, now_ns, (size_t)len);
    send_raw(node, now_ns, &message->peer, &message->addr, sealed, (size_t)len, 0);
}

static void receive_quic(struct node *node, uint64_t now_ns, const struct net_addr *from,
                         struct bytes datagram)
{
    struct id known;
    struct id peer;
    struct quic_reply reply = {.len = 0};
    bool is_known = nat_path_peer_at(node->path, from, &known) == ERR_OK;
    int result = quic_recv(node->quic, now_ns, is_known ? &known : NULL, datagram, &peer, &reply);
    if (result == 1) {
        ways_heard(node, now_ns, from);
        nat_path_carried(node->path, now_ns, &peer, from);
    } else if (result < 0) {
        trace_emit(&node->trace, TRACE_DATAGRAM_DROPPED, now_ns, is_known ? &known : NULL, 0, 0, result);
    }
    if (reply.len > 0)
        send_raw(node, now_ns, NULL, from, reply.bytes, reply.len, 0);
}

/* Said once a minute: most often somebody gave the wrong --network. */
static void other_network(struct node *node, uint64_t now_ns, const struct net_addr *from)
{
    char text[NET_ADDR_TEXT_SIZE];
    if (now_ns < node->network_next_ns)
        return;
    node->network_next_ns = now_ns + 60 * NODE_SECOND_NS;
    net_addr_format(from, text);
    node_info(
        node, TRACE_LEVEL_WARN,
        "a node of another network sends from %s and is ignored; ours is '%s': nodes that shall meet need "
        "the same --network",
        text, node->config.network);
}

static void receive_sealed(struct node *node, uint64_t now_ns, const struct net_addr *from,
                           struct bytes datagram)
{
    struct net_message message;
    int result = net_seal_open(node->seal, now_ns, node_wall_ms(), from, datagram, &message);
    if (result == ERR_OK) {
        nat_path_heard(node->path, now_ns, &message.peer, from);
        if (message.kind >= NET_KIND_DHT_FIRST && message.kind <= NET_KIND_DHT_LAST)
            result = dht_recv(node->dht, now_ns, node_wall_ms(), &message);
        else if (message.kind == NET_KIND_PROBE || message.kind == NET_KIND_PROBE_ANSWER)
            result = nat_path_recv(node->path, now_ns, &message);
        else if ((message.kind >= NET_KIND_REACH_FIRST && message.kind <= NET_KIND_PUNCH_LAST) ||
                 (message.kind >= NET_KIND_RELAY_FIRST && message.kind <= NET_KIND_RELAY_LAST))
            result = meet_recv(node, now_ns, &message);
        else
            result = ERR_UNSUPPORTED;
    }
    if (result == ERR_OK || result == NET_SEAL_CONTROL)
        ways_heard(node, now_ns, from);
    if (result == ERR_NETWORK)
        other_network(node, now_ns, from);
    if (result < 0)
        trace_emit(&node->trace, TRACE_DATAGRAM_DROPPED, now_ns, NULL, 0, 0, result);
}

void wire_datagram(struct node *node, uint64_t now_ns, const struct net_addr *from, struct bytes datagram)
{
    if (quic_is_packet(datagram))
        receive_quic(node, now_ns, from, datagram);
    else
        receive_sealed(node, now_ns, from, datagram);
}

static void on_link(void *user, uint64_t now_ns, const struct net_uv_tcp_info *info, int reason)
{
    ways_tcp_link(user, now_ns, info, reason);
}

static void on_drain(void *user, uint64_t now_ns)
{
    node_pump(user, now_ns);
}

static int open_seal(struct node *node, uint64_t now_ns)
{
    struct net_seal_config config = net_seal_config_default();
    config.identity = &node->identity;
    config.network = node->network;
    config.boot_id = rng_u64(&node->rng);
    config.rng = node->rng;
    config.trace = node->trace;
    node->seal_block = allocator_get(&node->alloc, 1, net_seal_size(&config));
    if (node->seal_block == NULL)
        return ERR_NO_MEMORY;
    node->seal = net_seal_init(node->seal_block, &config, now_ns, node_wall_ms());
    return ERR_OK;
}

static int open_path(struct node *node)
{
    struct nat_path_config config = nat_path_config_default();
    config.self = node->identity.id;
    config.rng = node->rng;
    config.trace = node->trace;
    node->path_block = allocator_get(&node->alloc, 1, nat_path_size(&config));
    if (node->path_block == NULL)
        return ERR_NO_MEMORY;
    node->path = nat_path_init(node->path_block, &config);
    nat_observed_init(&node->observed, NAT_OBSERVED_AGREE, 30 * 60 * NODE_SECOND_NS);
    return ERR_OK;
}

static void sign_dht(void *user, const char *label, struct bytes message,
                     uint8_t signature[NET_SIGNATURE_BYTES])
{
    net_identity_sign(user, label, message, signature);
}

static int verify_dht(void *user, const struct id *id, const char *label, struct bytes message,
                      const uint8_t signature[NET_SIGNATURE_BYTES])
{
    (void)user;
    return net_identity_verify(id, label, message, signature);
}

static int open_dht(struct node *node, uint64_t now_ns)
{
    struct dht_config config = dht_config_default();
    config.id = node->identity.id;
    config.rng = node->rng;
    config.trace = node->trace;
    config.sign = sign_dht;
    config.verify = verify_dht;
    config.crypto_user = &node->identity;
    size_t size = dht_size_bytes(&config);
    node->dht_block = allocator_get(&node->alloc, 1, size);
    if (node->dht_block == NULL)
        return ERR_NO_MEMORY;
    return dht_init(&node->dht, node->dht_block, size, &config, now_ns);
}

static int open_quic(struct node *node, uint64_t now_ns)
{
    struct id secret;
    struct bytes seed = bytes_of(node->identity.seed, NET_SEED_BYTES);
    hash_parts("dunlin quic secret 1", &seed, 1, &secret);
    struct quic_config config = quic_config_default();
    config.identity = &node->identity;
    config.network_id = node->network.id;
    memcpy(config.secret, secret.bytes, QUIC_SECRET_BYTES);
    config.rng = node->rng;
    config.trace = node->trace;
    config.allocator = node->alloc;
    config.shaper = &node->shaper;
    config.congestion = node->config.polite ? QUIC_CONGESTION_CUBIC : QUIC_CONGESTION_BBR;
    config.frame_max[STREAM_SERVICE_RPC] = RPC_BODY_DEFAULT + RPC_HEAD_MAX;
    config.frame_max[STREAM_SERVICE_SYNC] = CRDT_FRAME_MAX;
    config.frame_max[STREAM_SERVICE_GOSSIP] = CRDT_FRAME_MAX;
    config.frame_max[STREAM_SERVICE_EXCHANGE] = GOSSIP_FRAME_MAX;
    config.frame_max[STREAM_SERVICE_BLOB] = SPEED_FRAME_MAX;
    int result = quic_create(&node->quic, &config, now_ns);
    sodium_memzero(&secret, sizeof secret);
    sodium_memzero(config.secret, sizeof config.secret);
    return result;
}

static int open_rpc(struct node *node)
{
    struct rpc_config config = rpc_config_default();
    config.allocator = node->alloc;
    return rpc_create(&node->rpc, &config);
}

static int open_socket(struct node *node, char why[NODE_ERROR_SIZE])
{
    const char *reason = "";
    struct net_uv_socket_config config = net_uv_socket_config_default();
    config.port = node->config.listen_port;
    config.callbacks = (struct net_uv_callbacks){.on_batch = ways_on_udp, .on_drain = on_drain, .user = node};
    int result = net_uv_socket_open(&node->socket, &node->loop, &config, &reason);
    if (result < 0)
        (void)snprintf(why, NODE_ERROR_SIZE, "UDP port %u: %s%s", (unsigned)config.port, reason,
                       result == ERR_IN_USE ? "; choose another with --listen" : "");
    return result;
}

/* True when a machine has a global IPv4 address of its own: a server, whose port 443 others may need. */
static bool has_global_v4(void)
{
    uv_interface_address_t *interfaces;
    int count;
    bool found = false;
    if (uv_interface_addresses(&interfaces, &count) < 0)
        return false;
    for (int i = 0; i < count && !found; i++) {
        struct net_addr addr = {.family = NET_FAMILY_V4, .port = 1};
        if (interfaces[i].is_internal || interfaces[i].address.address4.sin_family != AF_INET)
            continue;
        memcpy(addr.ip, &interfaces[i].address.address4.sin_addr, 4);
        found = net_addr_scope(&addr) == NET_SCOPE_GLOBAL;
    }
    uv_free_interface_addresses(interfaces, count);
    return found;
}

/* TCP is a help for those without UDP: without it the node runs all the same. */
static void open_tcp(struct node *node)
{
    const char *reason = "";
    struct net_uv_tcp_config config = net_uv_tcp_config_default();
    if (!node->config.tcp)
        return;
    config.identity = &node->identity;
    config.network_id = node->network.id;
    config.port = net_uv_socket_port(node->socket);
    config.extra_port = node->config.tcp_port;
    if (node->config.tcp_port_auto && has_global_v4())
        config.extra_port = HTTPS_PORT;
    config.callbacks = (struct net_uv_tcp_callbacks){
        .on_link = on_link, .on_batch = ways_on_tcp, .on_drain = on_drain, .user = node};
    int result = net_uv_tcp_open(&node->tcp, &node->loop, &config, &reason);
    if (result == ERR_IN_USE || result == ERR_PERMISSION) {
        node_info(node, TRACE_LEVEL_WARN, "TCP port %u: %s; TCP links are dialled but not taken",
                  (unsigned)config.port, reason);
        config.listen = false;
        config.extra_port = 0;
        result = net_uv_tcp_open(&node->tcp, &node->loop, &config, &reason);
    }
    if (result < 0)
        node_info(node, TRACE_LEVEL_WARN, "no TCP links: %s", reason);
    else if (net_uv_tcp_extra_error(node->tcp) < 0)
        node_info(node, node->config.tcp_port_auto ? TRACE_LEVEL_INFO : TRACE_LEVEL_WARN,
                  "TCP port %u cannot be had: %s", (unsigned)config.extra_port,
                  err_text(net_uv_tcp_extra_error(node->tcp)));
}

static int open_aux(struct node *node)
{
    struct net_uv_callbacks callbacks = {.on_batch = ways_on_udp, .on_drain = on_drain, .user = node};
    return net_uv_aux_create(&node->aux, &node->loop, false, &callbacks);
}

int wire_open(struct node *node, char why[NODE_ERROR_SIZE])
{
    uint64_t now_ns = node_now_ns();
    shaper_init(&node->shaper, now_ns, node->config.up_bytes_s, SHAPER_BURST_DEFAULT);
    int result = open_seal(node, now_ns);
    if (result == ERR_OK)
        result = open_path(node);
    if (result == ERR_OK)
        result = open_dht(node, now_ns);
    if (result == ERR_OK)
        result = open_quic(node, now_ns);
    if (result == ERR_OK)
        result = open_rpc(node);
    if (result == ERR_OK)
        result = speed_open(node);
    if (result < 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "network parts: %s", err_text(result));
        return result;
    }
    result = open_socket(node, why);
    if (result < 0)
        return result;
    open_tcp(node);
    result = open_aux(node);
    return result < 0 ? result : own_open(node, now_ns, why);
}

void wire_close(struct node *node)
{
    if (node->socket != NULL)
        net_uv_socket_close(node->socket);
    net_uv_tcp_close(node->tcp);
    net_uv_aux_close_all(node->aux);
    node->socket = NULL;
    node->tcp = NULL;
    node->aux = NULL;
    own_close(node);
    speed_close(node);
    if (node->rpc != NULL)
        rpc_destroy(node->rpc);
    if (node->quic != NULL)
        quic_destroy(node->quic);
    if (node->dht != NULL)
        dht_deinit(node->dht);
    if (node->seal != NULL)
        net_seal_deinit(node->seal);
    allocator_release(&node->alloc, node->dht_block);
    allocator_release(&node->alloc, node->path_block);
    allocator_release(&node->alloc, node->seal_block);
    node->rpc = NULL;
    node->quic = NULL;
    node->dht = NULL;
    node->seal = NULL;
    node->dht_block = node->path_block = node->seal_block = NULL;
}

/* Whoever probes us wants a connection; a flood of strangers may not crowd out those we want ourselves. */
static void route_event(struct node *node, uint64_t now_ns, const struct nat_path_event *event)
{
    struct node_peer *peer = event->type == NAT_PATH_ROUTE_UP ? peers_admit(node, now_ns, &event->peer)
                                                              : peers_find(node, &event->peer);
    struct quic_peer_info info;
    if (peer == NULL)
        return;
    peer->route_rtt_ns = event->rtt_ns;
    meet_route(node, peer, now_ns, event);
    if (event->type != NAT_PATH_ROUTE_UP)
        return;
    peer->last_seen_ns = now_ns;
    if (quic_peer_info(node->quic, &event->peer, &info) < 0)
        peer->dial_next_ns = now_ns;
}

static void observed_event(struct node *node, uint64_t now_ns, const struct nat_path_event *event)
{
    if (node->udp_blocked)
        return; /* what is seen is a TCP link's port */
    int result = nat_observed_report(&node->observed, now_ns, &event->addr, &event->old);
    (void)result; /* a report that is not to be believed is ignored */
    nat_reach_seen(node->reach, now_ns, &event->addr, &event->old);
}

static void path_event(struct node *node, uint64_t now_ns, const struct nat_path_event *event)
{
    struct node_peer *peer = peers_find(node, &event->peer);
    switch (event->type) {
    case NAT_PATH_ROUTE_UP:
    case NAT_PATH_ROUTE_CHANGED:
    case NAT_PATH_ROUTE_DEAD:
        route_event(node, now_ns, event);
        break;
    case NAT_PATH_OBSERVED:
        observed_event(node, now_ns, event);
        break;
    case NAT_PATH_AGEING:
        if (peer != NULL)
            meet_ageing(node, peer, now_ns);
        break;
    case NAT_PATH_DOUBTFUL:
        quic_path_doubtful(node->quic, now_ns, &event->peer);
        break;
    case NAT_PATH_ROUTE_GONE:
        nat_punch_release(node->punch, event->addr.via);
        break;
    }
}

static bool drain_path(struct node *node, uint64_t now_ns)
{
    struct nat_path_event event;
    struct net_message message;
    bool any = false;
    while (nat_path_poll_event(node->path, &event)) {
        path_event(node, now_ns, &event);
        any = true;
    }
    while (nat_path_poll_send(node->path, now_ns, &message)) {
        wire_send(node, now_ns, &message);
        any = true;
    }
    return any;
}

static bool drain_dht(struct node *node, uint64_t now_ns)
{
    struct dht_event event;
    struct net_message message;
    bool any = false;
    while (dht_poll_event(node->dht, &event)) {
        peers_dht_event(node, now_ns, &event);
        methods_dht_event(node, now_ns, &event);
        any = true;
    }
    while (dht_poll_send(node->dht, &message)) {
        wire_send(node, now_ns, &message);
        any = true;
    }
    return any;
}

bool wire_drain(struct node *node, uint64_t now_ns)
{
    uint8_t sealed[NET_SEAL_MIN];
    struct net_addr to;
    bool any = false;
    for (size_t len = net_seal_poll_reply(node->seal, sealed, &to); len > 0;
         len = net_seal_poll_reply(node->seal, sealed, &to)) {
        send_raw(node, now_ns, NULL, &to, sealed, len, 0);
        any = true;
    }
    any |= drain_path(node, now_ns);
    any |= own_drain(node, now_ns);
    any |= meet_drain(node, now_ns);
    any |= drain_dht(node, now_ns);
    rpc_quic_pump(node->rpc, node->quic, now_ns);
    return any;
}

bool wire_sends(struct node *node, uint64_t now_ns)
{
    struct id peer;
    struct net_addr to[2];
    size_t segment;
    bool any = false;
    while (net_uv_socket_ready(node->socket)) {
        size_t len = quic_poll_send(node->quic, now_ns, &peer, node->batch, sizeof node->batch, &segment);
        if (len == 0)
            break;
        any = true;
        size_t routes = nat_path_routes(node->path, &peer, to);
        for (size_t i = 0; i < routes; i++)
            send_raw(node, now_ns, &peer, &to[i], node->batch, len, segment);
    }
    return any;
}

void wire_flush(struct node *node)
{
    (void)wire_sends(node, node_now_ns());
}

/* Our own clock against those of peers: one warning a minute while it is off. */
static void check_clock(struct node *node, uint64_t now_ns)
{
    node->clock_next_ns = now_ns + CLOCK_INTERVAL_S * NODE_SECOND_NS;
    if (!net_seal_clock_offset(node->seal, now_ns, &node->clock_offset_ms, &node->clock_peers)) {
        node->clock_offset_ms = 0;
        node->clock_peers = 0;
        return;
    }
    if (llabs(node->clock_offset_ms) > 120 * 1000)
        node_info(node, TRACE_LEVEL_WARN,
                  "this machine's clock is %lld s %s those of %zu peers: records are refused until it is set "
                  "(timedatectl set-ntp true)",
                  llabs(node->clock_offset_ms) / 1000, node->clock_offset_ms > 0 ? "behind" : "ahead of",
                  node->clock_peers);
}

void wire_tick(struct node *node, uint64_t now_ns)
{
    ways_tick(node, now_ns);
    own_tick(node, now_ns);
    meet_tick(node, now_ns);
    nat_path_tick(node->path, now_ns);
    dht_tick(node->dht, now_ns, node_wall_ms());
    quic_tick(node->quic, now_ns);
    rpc_tick(node->rpc, now_ns);
    if (now_ns >= node->clock_next_ns) {
        check_clock(node, now_ns);
        nat_observed_tick(&node->observed, now_ns);
    }
    if (now_ns < node->busy_next_ns)
        return;
    node->busy_next_ns = now_ns + BUSY_INTERVAL_MS * (NODE_SECOND_NS / 1000);
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        struct quic_peer_info info;
        if (node->peers[i].used && node->peers[i].connected &&
            quic_peer_info(node->quic, &node->peers[i].id, &info) == ERR_OK) {
            uint64_t moving = meet_moving(&node->peers[i], now_ns, &info);
            nat_path_busy(node->path, now_ns, &node->peers[i].id, moving);
        }
    }
}

uint64_t wire_deadline_ns(struct node *node, uint64_t now_ns)
{
    const uint64_t deadlines[] = {
        nat_path_deadline_ns(node->path),
        ways_deadline_ns(node, now_ns),
        own_deadline_ns(node),
        meet_deadline_ns(node, now_ns),
        dht_deadline_ns(node->dht),
        quic_deadline_ns(node->quic, now_ns),
        rpc_deadline_ns(node->rpc),
        node->clock_next_ns,
        quic_peer_count(node->quic) > 0 ? node->busy_next_ns : UINT64_MAX,
    };
    uint64_t first = UINT64_MAX;
    for (size_t i = 0; i < sizeof deadlines / sizeof deadlines[0]; i++) {
        if (deadlines[i] < first)
            first = deadlines[i];
    }
    return first;
}
