/* Every way a datagram can leave or come: the main UDP port, an auxiliary socket, a TCP link, a relay
 * session.
 *
 * A struct net_addr names the way in its `via`; the cores never learn how it is done.  Three things are
 * decided here.  Packets to a relay session get its frame head and go to the relay, by whatever way that is
 * reached. Frames that arrive are taken apart when the session is ours, and handed on when we are the relay.
 * And where UDP is blocked, what is meant for a global address of the main port goes over a TCP link to the
 * same host instead, dialled when first needed, while the rest of the node sees no difference: blockage.h
 * tells how that is found out. */
#include <string.h>

#include "node/internal.h"

enum {
    UDP_CHECKED = 4, /* how many of the nodes that are most likely to answer are asked */
    WAY_IDLE_S = 60, /* where UDP gets through, a link that nothing went by for so long is ended */
    HTTPS_PORT = 443,
    HTTPS_AFTER_MS = 800, /* an unanswered dial to a node's own port: 443 is tried beside it */
    DIAL_GIVE_UP_MS = 6000,
    DIAL_AGAIN_MS = 15000,
    RELAY_BULK_BYTES = 200, /* forwarded frames above this size wait for our own traffic */
};

#define MS(x) ((uint64_t)(x)*UINT64_C(1000000))

static bool outside(const struct net_addr *addr)
{
    return net_addr_scope(addr) == NET_SCOPE_GLOBAL;
}

/* ---- TCP instead of UDP ---- */

static struct node_tcp_way *way_to(struct node *node, const struct net_addr *addr)
{
    for (size_t i = 0; i < NODE_TCP_WAYS_MAX; i++) {
        struct node_tcp_way *way = &node->tcp_ways[i];
        if (way->used && way->addr.port == addr->port && way->addr.family == addr->family &&
            memcmp(way->addr.ip, addr->ip, sizeof addr->ip) == 0)
            return way;
    }
    return NULL;
}

static void dial(struct node *node, struct node_tcp_way *way, size_t which, uint16_t port)
{
    struct net_addr at = way->addr;
    at.port = port;
    way->tried[which] = true;
    int result = net_uv_tcp_dial(node->tcp, &at, &way->peer, &way->via[which]);
    if (result < 0)
        way->via[which] = 0;
    attempts_note(&node->attempts, node_now_ns(), &way->peer, ATTEMPT_TCP_DIAL, &at, result);
}

struct node_tcp_way *ways_tcp(struct node *node, uint64_t now_ns, const struct net_addr *addr,
                              const struct id *peer)
{
    struct node_tcp_way *way = way_to(node, addr);
    struct node_tcp_way *oldest = NULL;
    if (node->tcp == NULL || way != NULL)
        return way;
    for (size_t i = 0; i < NODE_TCP_WAYS_MAX; i++) {
        struct node_tcp_way *at = &node->tcp_ways[i];
        if (!at->used) {
            oldest = at;
            break;
        }
        if (oldest == NULL || at->used_ns < oldest->used_ns)
            oldest = at;
    }
    if (oldest->used)
        ways_tcp_drop(node, oldest);
    *oldest = (struct node_tcp_way){
        .used = true, .addr = *addr, .peer = *peer, .began_ns = now_ns, .used_ns = now_ns};
    oldest->addr.via = NET_VIA_MAIN;
    dial(node, oldest, 0, addr->port);
    return oldest;
}

void ways_tcp_drop(struct node *node, struct node_tcp_way *way)
{
    for (size_t i = 0; i < 2; i++) {
        if (way->via[i] != 0 && net_uv_tcp_drop(node->tcp, way->via[i]) < 0)
            way->via[i] = 0;
    }
    way->used = false;
}

static bool dialling(const struct node_tcp_way *way)
{
    return way->used && way->open == 0;
}

/* Each dial goes to the node's own port first; 443, where networks allow little else, follows soon. */
static void tick_dial(struct node *node, struct node_tcp_way *way, uint64_t now_ns)
{
    if (!way->tried[1] && way->addr.port != HTTPS_PORT &&
        (now_ns >= way->began_ns + MS(HTTPS_AFTER_MS) || way->via[0] == 0))
        dial(node, way, 1, HTTPS_PORT);
    if (now_ns >= way->began_ns + MS(DIAL_GIVE_UP_MS) && (way->via[0] != 0 || way->via[1] != 0)) {
        for (size_t i = 0; i < 2; i++) {
            if (way->via[i] != 0 && net_uv_tcp_drop(node->tcp, way->via[i]) < 0)
                way->via[i] = 0;
        }
    }
    if (now_ns >= way->began_ns + MS(DIAL_AGAIN_MS))
        way->used = false;
}

void ways_tcp_link(struct node *node, uint64_t now_ns, const struct net_uv_tcp_info *info, int reason)
{
    if (info->outgoing)
        attempts_note(&node->attempts, now_ns, &info->peer,
                      reason == ERR_OK ? ATTEMPT_TCP_UP : ATTEMPT_TCP_DOWN, &info->addr, reason);
    for (size_t i = 0; i < NODE_TCP_WAYS_MAX; i++) {
        struct node_tcp_way *way = &node->tcp_ways[i];
        for (size_t k = 0; k < 2 && way->used; k++) {
            if (way->via[k] == 0 || way->via[k] != info->addr.via)
                continue;
            if (reason == ERR_OK && way->open == 0) {
                way->open = info->addr.via;
                way->link = info->addr;
                if (way->via[1 - k] != 0 && net_uv_tcp_drop(node->tcp, way->via[1 - k]) < 0)
                    way->via[1 - k] = 0;
            } else if (reason != ERR_OK) {
                bool was_open = way->open == info->addr.via;
                way->via[k] = 0;
                way->last_error = reason;
                if (was_open)
                    way->used = false; /* dialled anew when something is to be sent */
            }
        }
    }
    if (reason != ERR_OK)
        nat_path_via_closed(node->path, now_ns, info->addr.via);
}

static void set_blocked(struct node *node, uint64_t now_ns, bool blocked)
{
    node->udp_blocked = blocked;
    if (blocked)
        node_info(node, TRACE_LEVEL_WARN,
                  "no UDP gets through to the outside: using TCP links instead, which is slower; other nodes "
                  "reach this one through relays");
    else
        node_info(node, TRACE_LEVEL_INFO, "UDP gets through again");
    own_changed(node, now_ns);
    nat_relay_client_moved(node->relay_client, now_ns);
}

static void ask(struct node *node, uint64_t now_ns, const struct id *id, const struct net_addr *addr)
{
    struct dht_contact contact = {.id = *id, .addr = *addr};
    uint32_t handle;
    int result = dht_ping(node->dht, now_ns, &contact, &handle);
    (void)result; /* ERR_FULL: the hash table asks enough by itself */
}

static bool link_stands(const struct node *node)
{
    for (size_t i = 0; i < NODE_TCP_WAYS_MAX; i++) {
        if (node->tcp_ways[i].used && node->tcp_ways[i].open != 0)
            return true;
    }
    return false;
}

/* The last ones that we heard of, and those that TCP shows to be there. */
static void ask_likeliest(struct node *node, uint64_t now_ns)
{
    for (size_t i = 0; i < node->public_count && i < UDP_CHECKED; i++) {
        const struct dht_contact *public = &node->publics[node->public_count - 1 - i];
        ask(node, now_ns, &public->id, &public->addr);
    }
    for (size_t i = 0; i < NODE_TCP_WAYS_MAX; i++) {
        const struct node_tcp_way *way = &node->tcp_ways[i];
        if (way->used && way->open != 0)
            ask(node, now_ns, &way->peer, &way->addr);
    }
}

static void suspect(struct node *node, uint64_t now_ns)
{
    if (node->tcp == NULL || node->public_count == 0)
        return;
    switch (blockage_step(&node->blockage, now_ns, link_stands(node))) {
    case BLOCKAGE_NOTHING:
        break;
    case BLOCKAGE_CHECK:
        for (size_t i = 0; i < NODE_TCP_WAYS_MAX; i++) {
            if (node->tcp_ways[i].used)
                ways_tcp_drop(node, &node->tcp_ways[i]);
        }
        ask_likeliest(node, now_ns);
        break;
    case BLOCKAGE_JUDGE:
        ask_likeliest(node, now_ns);
        break;
    case BLOCKAGE_DIAL:
        for (size_t i = 0; i < node->public_count; i++)
            (void)ways_tcp(node, now_ns, &node->publics[i].addr, &node->publics[i].id);
        break;
    case BLOCKAGE_BLOCKED:
        set_blocked(node, now_ns, true);
        break;
    }
}

void ways_public(struct node *node, const struct id *id, const struct net_addr *addr)
{
    size_t at = 0;
    if (!outside(addr) || addr->via != NET_VIA_MAIN)
        return;
    if (addr->family == NET_FAMILY_V6 && !own_has_local(node, NET_FAMILY_V6, NET_SCOPE_GLOBAL))
        return; /* a seed's second address, which must not hide the first */
    while (at < node->public_count &&
           !(id_equal(&node->publics[at].id, id) && node->publics[at].addr.family == addr->family))
        at++;
    if (at == NODE_PUBLICS_MAX) { /* the oldest gives way, but not the first half: those are the seeds */
        struct dht_contact *later = node->publics + NODE_PUBLICS_MAX / 2;
        memmove(later, later + 1, (NODE_PUBLICS_MAX - NODE_PUBLICS_MAX / 2 - 1) * sizeof *later);
        at--;
    } else if (at == node->public_count) {
        node->public_count++;
    }
    node->publics[at] = (struct dht_contact){.id = *id, .addr = *addr};
    if (node->public_count == 1)
        own_changed(node, node_now_ns()); /* there is an outside */
}

void ways_tick(struct node *node, uint64_t now_ns)
{
    suspect(node, now_ns);
    for (size_t i = 0; i < NODE_TCP_WAYS_MAX; i++) {
        struct node_tcp_way *way = &node->tcp_ways[i];
        if (dialling(way))
            tick_dial(node, way, now_ns);
        else if (way->used && !node->udp_blocked && now_ns >= way->used_ns + WAY_IDLE_S * NODE_SECOND_NS)
            ways_tcp_drop(node, way); /* others may need the place at its other end */
    }
}

uint64_t ways_deadline_ns(const struct node *node, uint64_t now_ns)
{
    if (node->tcp == NULL)
        return UINT64_MAX;
    uint64_t next = node->public_count > 0 ? blockage_deadline_ns(&node->blockage, now_ns) : UINT64_MAX;
    for (size_t i = 0; i < NODE_TCP_WAYS_MAX; i++) {
        if (dialling(&node->tcp_ways[i]) && now_ns + MS(200) < next)
            next = now_ns + MS(200);
    }
    return next;
}

/* ---- out ---- */

static int send_main(struct node *node, uint64_t now_ns, const struct id *peer, const struct net_addr *to,
                     const uint8_t *data, size_t len, size_t segment)
{
    if (!outside(to))
        return net_uv_socket_send(node->socket, to, data, len, segment);
    blockage_asked(&node->blockage, now_ns);
    if (node->udp_blocked) {
        struct node_tcp_way *way = way_to(node, to);
        if (way == NULL && peer != NULL)
            way = ways_tcp(node, now_ns, to, peer);
        if (segment == 0 && blockage_try(&node->blockage, now_ns)) {
            nat_reach_contacted(node->reach, now_ns, to);
            int tried = net_uv_socket_send(node->socket, to, data, len, segment);
            (void)tried; /* it is only asked whether UDP gets through again */
        }
        if (way == NULL || way->open == 0)
            return ERR_UNREACHABLE;
        way->used_ns = now_ns;
        return net_uv_tcp_send(node->tcp, &way->link, data, len, segment);
    }
    nat_reach_contacted(node->reach, now_ns, to);
    return net_uv_socket_send(node->socket, to, data, len, segment);
}

static int send_one_way(struct node *node, uint64_t now_ns, const struct id *peer, const struct net_addr *to,
                        const uint8_t *data, size_t len, size_t segment)
{
    if (net_via_is_aux(to->via))
        return net_uv_aux_send(node->aux, to, data, len, segment);
    if (net_via_is_tcp(to->via))
        return node->tcp == NULL ? ERR_UNREACHABLE : net_uv_tcp_send(node->tcp, to, data, len, segment);
    return send_main(node, now_ns, peer, to, data, len, segment);
}

/* Puts the frame head before each datagram of the batch. */
static int send_relayed(struct node *node, uint64_t now_ns, const struct net_addr *to, const uint8_t *data,
                        size_t len, size_t segment)
{
    uint8_t header[NAT_RELAY_HEADER];
    struct net_addr relay;
    size_t at = 0;
    size_t part = segment == 0 || segment > len ? len : segment;
    int result = nat_relay_client_wrap(node->relay_client, now_ns, to->via, header, &relay);
    if (result < 0)
        return result;
    if (part > QUIC_DATAGRAM_MAX)
        return ERR_TOO_LARGE;
    for (size_t done = 0; done < len; done += part) {
        size_t size = len - done < part ? len - done : part;
        memcpy(node->framed + at, header, sizeof header);
        memcpy(node->framed + at + sizeof header, data + done, size);
        at += sizeof header + size;
        if (at + sizeof header + part > sizeof node->framed || done + part >= len) {
            result = send_one_way(node, now_ns, NULL, &relay, node->framed, at, part + sizeof header);
            at = 0;
        }
    }
    return result;
}

int ways_send(struct node *node, uint64_t now_ns, const struct id *peer, const struct net_addr *to,
              const uint8_t *data, size_t len, size_t segment)
{
    if (net_via_is_relay(to->via))
        return send_relayed(node, now_ns, to, data, len, segment);
    return send_one_way(node, now_ns, peer, to, data, len, segment);
}

/* ---- in ---- */

void ways_heard(struct node *node, uint64_t now_ns, const struct net_addr *from)
{
    if (node->by_udp && outside(from) && blockage_heard(&node->blockage, now_ns))
        set_blocked(node, now_ns, false);
}

/* Hands a run of frames on: in one piece when they lie one after the other, as a receive batch does. */
static void hand_on(struct node *node, uint64_t now_ns, const struct nat_relay_run *run,
                    const struct bytes frames[])
{
    size_t size = frames[0].len;
    size_t total = size;
    bool whole = true;
    for (size_t i = 1; i < run->count; i++) {
        whole = whole && frames[i].data == frames[i - 1].data + frames[i - 1].len;
        total += frames[i].len;
    }
    /* Others' bulk comes after our own traffic. */
    if (size > RELAY_BULK_BYTES && shaper_available(&node->shaper, now_ns) == 0)
        return;
    shaper_charge(&node->shaper, now_ns, total);
    if (whole) {
        (void)ways_send(node, now_ns, NULL, &run->to, frames[0].data, total, size);
        return;
    }
    for (size_t i = 0; i < run->count; i++)
        (void)ways_send(node, now_ns, NULL, &run->to, frames[i].data, frames[i].len, 0);
}

static void forward(struct node *node, uint64_t now_ns, const struct net_addr *from,
                    const struct bytes frames[], size_t count)
{
    struct nat_relay_run runs[NET_UV_BATCH_MAX];
    size_t run_count = nat_relay_forward(node->relay, now_ns, from, frames, count, runs, NET_UV_BATCH_MAX);
    for (size_t i = 0; i < run_count; i++)
        hand_on(node, now_ns, &runs[i], frames + runs[i].first);
}

static bool is_frame(struct bytes datagram)
{
    return datagram.len > NAT_RELAY_HEADER && !quic_is_packet(datagram) && nat_relay_claims(datagram);
}

static void receive(struct node *node, uint64_t now_ns, const struct net_addr *from,
                    const struct bytes *datagrams, size_t count)
{
    struct bytes frames[NET_UV_BATCH_MAX];
    size_t frame_count = 0;
    for (size_t i = 0; i < count && i < NET_UV_BATCH_MAX; i++) {
        struct net_addr route;
        struct bytes payload;
        if (!is_frame(datagrams[i]))
            wire_datagram(node, now_ns, from, datagrams[i]);
        else if (nat_relay_client_unwrap(node->relay_client, now_ns, from, datagrams[i], &route, &payload) ==
                 ERR_OK)
            wire_datagram(node, now_ns, &route, payload);
        else
            frames[frame_count++] = datagrams[i];
    }
    if (frame_count > 0)
        forward(node, now_ns, from, frames, frame_count);
}

void ways_on_udp(void *user, uint64_t now_ns, const struct net_addr *from, const struct bytes *datagrams,
                 size_t count)
{
    struct node *node = user;
    node->by_udp = true;
    receive(node, now_ns, from, datagrams, count);
    node->by_udp = false;
}

void ways_on_tcp(void *user, uint64_t now_ns, const struct net_addr *from, const struct bytes *datagrams,
                 size_t count)
{
    struct node *node = user;
    struct net_addr at = *from;
    /* By a link that stands in for UDP, datagrams seem to come from where UDP would have gone. */
    for (size_t i = 0; i < NODE_TCP_WAYS_MAX; i++) {
        if (node->tcp_ways[i].used && node->tcp_ways[i].open == from->via)
            at = node->tcp_ways[i].addr;
    }
    receive(node, now_ns, &at, datagrams, count);
}
