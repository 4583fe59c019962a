#include "net/uv/tcp.h"

#include <assert.h>
#include <stdlib.h>

#include "net/uv/tcp_internal.h"
#include "net/uv/tcp_port.h"

enum {
    STIR_ROUNDS = 8,          /* callbacks may make more to do; then other handles get their turn */
    FLUSH_BYTES = 32 * 1024,  /* bulk does not wait for the wake-up's end */
    VIAS_HALF = TCP_VIAS / 2, /* strangers cannot use up the numbers of our own dials */
};

static_assert(TCP_LINKS < UINT8_MAX, "via_link holds an index and one");

struct net_uv_tcp_config net_uv_tcp_config_default(void)
{
    return (struct net_uv_tcp_config){.listen = true,
                                      .v4 = true,
                                      .v6 = true,
                                      .half_open_group_max = NET_UV_TCP_HALF_OPEN_GROUP_MAX,
                                      .evict_ns = NET_UV_TCP_EVICT_NS};
}

/* --- numbers ------------------------------------------------------------------------------------------ */

int tcp_via_take(struct net_uv_tcp *tcp, uint64_t now_ns, struct tcp_link *link)
{
    size_t first = link->outgoing ? VIAS_HALF : 0;
    size_t *next = &tcp->via_next[link->outgoing];
    for (size_t i = 0; i < VIAS_HALF; i++) {
        size_t at = first + (*next + i) % VIAS_HALF;
        if (tcp->via_link[at] != 0 || tcp->via_free_ns[at] > now_ns)
            continue;
        *next = (at - first + 1) % VIAS_HALF;
        tcp->via_link[at] = (uint8_t)(1 + (link - tcp->links));
        link->addr.via = (uint16_t)(NET_VIA_TCP_FIRST + at);
        return ERR_OK;
    }
    return ERR_FULL;
}

void tcp_via_release(struct net_uv_tcp *tcp, uint64_t now_ns, struct tcp_link *link)
{
    size_t at = (size_t)(link->addr.via - NET_VIA_TCP_FIRST);
    ASSERT(tcp->via_link[at] == 1 + (link - tcp->links));
    tcp->via_link[at] = 0;
    tcp->via_free_ns[at] = now_ns + NET_UV_TCP_REST_NS;
    link->addr.via = 0;
}

static const struct tcp_link *link_of(const struct net_uv_tcp *tcp, uint16_t via)
{
    if (!net_via_is_tcp(via) || tcp->closing)
        return NULL;
    uint8_t at = tcp->via_link[via - NET_VIA_TCP_FIRST];
    return at == 0 || !tcp_link_live(&tcp->links[at - 1]) ? NULL : &tcp->links[at - 1];
}

static struct tcp_link *link_to_change(struct net_uv_tcp *tcp, uint16_t via)
{
    const struct tcp_link *link = link_of(tcp, via);
    return link == NULL ? NULL : &tcp->links[link - tcp->links];
}

/* --- limits ------------------------------------------------------------------------------------------- */

size_t tcp_count(const struct net_uv_tcp *tcp, bool outgoing, unsigned mask)
{
    size_t count = 0;
    for (size_t i = 0; i < TCP_LINKS; i++)
        count += tcp_link_live(&tcp->links[i]) && tcp->links[i].outgoing == outgoing &&
                 (mask & (1u << tcp->links[i].state)) != 0;
    return count;
}

bool tcp_evict(struct net_uv_tcp *tcp, uint64_t now_ns, bool outgoing)
{
    struct tcp_link *idlest = NULL;
    uint64_t used_ns = now_ns >= tcp->cfg.evict_ns ? now_ns - tcp->cfg.evict_ns : 0;
    for (size_t i = 0; i < TCP_LINKS; i++) {
        struct tcp_link *link = &tcp->links[i];
        if (link->state != TCP_LINK_OPEN || link->outgoing != outgoing ||
            tls_link_used_ns(link->tls) > used_ns)
            continue;
        idlest = link;
        used_ns = tls_link_used_ns(link->tls);
    }
    if (idlest == NULL)
        return false;
    tcp->stats.evicted++;
    tcp_link_end(idlest, now_ns, ERR_FULL);
    return true;
}

/* --- turning ------------------------------------------------------------------------------------------ */

static void arm(struct net_uv_tcp *tcp, uint64_t now_ns)
{
    uint64_t due = tcp->paused_ns != 0 ? tcp->paused_ns : UINT64_MAX;
    for (size_t i = 0; i < TCP_LINKS; i++) {
        if (!tcp_link_live(&tcp->links[i]))
            continue;
        uint64_t deadline = tls_link_deadline_ns(tcp->links[i].tls);
        due = deadline < due ? deadline : due;
    }
    if (tcp->dirty || tcp->drain)
        due = now_ns;
    /* A timer that comes early finds nothing due: cheaper than moving it at each datagram. */
    if (due < tcp->timer.armed_ns)
        net_uv_timer_arm(&tcp->timer, due);
}

void tcp_stir(struct net_uv_tcp *tcp, uint64_t now_ns)
{
    for (int round = 0; round < STIR_ROUNDS && (tcp->dirty || tcp->drain); round++) {
        tcp->dirty = false;
        for (size_t i = 0; i < TCP_LINKS && !tcp->closing; i++) {
            if (!tcp->links[i].dirty)
                continue;
            tcp->links[i].dirty = false;
            tcp_link_settle(&tcp->links[i], now_ns);
        }
        if (tcp->closing)
            return;
        bool due = tcp->drain;
        tcp->drain = false;
        if (due && tcp->cfg.callbacks.on_drain != NULL)
            tcp->cfg.callbacks.on_drain(tcp->cfg.callbacks.user, now_ns);
        if (tcp->closing)
            return;
    }
    arm(tcp, now_ns);
}

static void on_prepare(uv_prepare_t *prepare)
{
    struct net_uv_tcp *tcp = prepare->data;
    tcp->preparing = false;
    (void)uv_prepare_stop(prepare);
    if (!tcp->closing)
        tcp_stir(tcp, uv_hrtime());
}

void tcp_prepare(struct net_uv_tcp *tcp)
{
    if (tcp->preparing || tcp->closing)
        return;
    tcp->preparing = true;
    (void)uv_prepare_start(&tcp->prepare, on_prepare);
}

static void on_due(void *user, uint64_t now_ns)
{
    struct net_uv_tcp *tcp = user;
    tcp_listen_resume(tcp, now_ns);
    for (size_t i = 0; i < TCP_LINKS; i++) {
        struct tcp_link *link = &tcp->links[i];
        if (!tcp_link_live(link) || tls_link_deadline_ns(link->tls) > now_ns)
            continue;
        tls_link_tick(link->tls, now_ns);
        if (tls_link_state(link->tls) == TLS_LINK_CLOSED)
            tcp_link_end(link, now_ns, tls_link_reason(link->tls));
        else
            tcp_link_touch(link);
    }
    tcp_stir(tcp, now_ns);
}

/* --- life --------------------------------------------------------------------------------------------- */

static const char *explain(int result)
{
    switch (result) {
    case ERR_IN_USE:
        return "another program uses this TCP port";
    case ERR_PERMISSION:
        return "TCP ports below 1024 need special rights (CAP_NET_BIND_SERVICE)";
    case ERR_UNSUPPORTED:
        return "this machine has no such address family";
    case ERR_NO_MEMORY:
        return "not enough memory for TCP links";
    case ERR_TLS:
        return "the TLS library refused our key";
    default:
        return "the system refused a TCP socket";
    }
}

void tcp_handle_closed(struct net_uv_tcp *tcp)
{
    ASSERT(tcp->handles > 0);
    if (--tcp->handles > 0)
        return;
    tls_link_keys_destroy(tcp->keys);
    free(tcp);
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct tcp_listener *listener = handle->data;
    tcp_handle_closed(listener->tcp);
}

static void on_prepare_closed(uv_handle_t *handle)
{
    tcp_handle_closed(handle->data);
}

static void on_timer_closed(void *user)
{
    tcp_handle_closed(user);
}

void net_uv_tcp_close(struct net_uv_tcp *tcp)
{
    if (tcp == NULL || tcp->closing)
        return;
    uint64_t now_ns = uv_hrtime();
    for (size_t i = 0; i < TCP_LINKS; i++) {
        tcp_link_end(&tcp->links[i], now_ns, ERR_CANCELLED);
        tcp_link_close(&tcp->links[i]);
    }
    tcp->closing = true;
    for (int i = 0; i < TCP_LISTENERS; i++)
        if (tcp->listeners[i].poll.data != NULL)
            uv_close((uv_handle_t *)&tcp->listeners[i].poll, on_listener_closed);
    tcp_listen_close(tcp);
    uv_close((uv_handle_t *)&tcp->prepare, on_prepare_closed);
    net_uv_timer_close(&tcp->timer, on_timer_closed);
}

static bool make_sense(const struct net_uv_tcp_config *cfg)
{
    return (cfg->v4 || cfg->v6) && cfg->identity != NULL && cfg->callbacks.on_batch != NULL &&
           cfg->callbacks.on_link != NULL;
}

static struct net_uv_tcp *prepared(uv_loop_t *loop, const struct net_uv_tcp_config *cfg)
{
    struct net_uv_tcp *tcp = calloc(1, sizeof *tcp);
    if (tcp == NULL)
        return NULL;
    tcp->loop = loop;
    tcp->cfg = *cfg;
    tcp->cfg.identity = NULL; /* borrowed until open returns */
    for (int i = 0; i < TCP_LISTENERS; i++)
        tcp->listeners[i] = (struct tcp_listener){.tcp = tcp, .fd = -1};
    for (size_t i = 0; i < TCP_LINKS; i++)
        tcp->links[i] = (struct tcp_link){.tcp = tcp, .fd = -1};
    return tcp;
}

int net_uv_tcp_open(struct net_uv_tcp **out, uv_loop_t *loop, const struct net_uv_tcp_config *cfg,
                    const char **why)
{
    const char *ignored;
    if (why == NULL)
        why = &ignored;
    *why = "";
    if (!make_sense(cfg)) {
        *why = "neither address family is chosen, or there is no identity or receiver";
        return ERR_INVALID;
    }
    struct net_uv_tcp *tcp = prepared(loop, cfg);
    struct allocator allocator = allocator_system();
    int result = tcp == NULL ? ERR_NO_MEMORY
                             : tls_link_keys_create(&tcp->keys, &allocator, cfg->identity, cfg->network_id);
    if (result == ERR_OK && net_uv_timer_init(&tcp->timer, loop, on_due, tcp) != ERR_OK)
        result = ERR_IO;
    if (result != ERR_OK) {
        if (tcp != NULL)
            tls_link_keys_destroy(tcp->keys);
        free(tcp);
        *why = explain(result);
        return result;
    }
    (void)uv_prepare_init(loop, &tcp->prepare); /* cannot fail */
    tcp->prepare.data = tcp;
    tcp->handles = 2;
    result = tcp_listen_open(tcp);
    if (result != ERR_OK) {
        *why = explain(result);
        net_uv_tcp_close(tcp);
        return result;
    }
    *out = tcp;
    return ERR_OK;
}

/* --- commands ----------------------------------------------------------------------------------------- */

static bool same_place(const struct net_addr *a, const struct net_addr *b)
{
    struct net_addr there = *b;
    there.via = a->via;
    return net_addr_equal(a, &there);
}

static const struct tcp_link *dialled_before(const struct net_uv_tcp *tcp, const struct net_addr *addr,
                                             const struct id *peer)
{
    for (size_t i = 0; i < TCP_LINKS; i++) {
        const struct tcp_link *link = &tcp->links[i];
        if (tcp_link_live(link) && link->outgoing && same_place(&link->addr, addr) &&
            id_equal(&link->peer, peer))
            return link;
    }
    return NULL;
}

int net_uv_tcp_dial(struct net_uv_tcp *tcp, const struct net_addr *addr, const struct id *peer, uint16_t *via)
{
    uint64_t now_ns = uv_hrtime();
    if (tcp->closing || (addr->family == NET_FAMILY_V4 ? !tcp->cfg.v4 : !tcp->cfg.v6) ||
        net_addr_scope(addr) == NET_SCOPE_INVALID)
        return ERR_UNREACHABLE;
    const struct tcp_link *before = dialled_before(tcp, addr, peer);
    if (before != NULL) {
        *via = before->addr.via;
        return ERR_OK;
    }
    if (tcp_count(tcp, true, UINT32_MAX) >= NET_UV_TCP_OUTGOING_MAX && !tcp_evict(tcp, now_ns, true))
        return ERR_FULL;
    struct tcp_link *link = tcp_link_place(tcp);
    if (link == NULL)
        return ERR_FULL;
    int fd = tcp_port_connect(addr);
    if (fd < 0)
        return fd == ERR_REFUSED ? ERR_UNREACHABLE : fd;
    int result = tcp_link_begin(link, now_ns, fd, TCP_LINK_CONNECTING, addr, peer);
    if (result != ERR_OK)
        return result;
    result = tcp_via_take(tcp, now_ns, link);
    if (result != ERR_OK) {
        tcp_link_end(link, now_ns, result); /* without a via: nobody is told */
        return result;
    }
    tcp->stats.dialled++;
    *via = link->addr.via;
    tcp_prepare(tcp); /* its deadline */
    return ERR_OK;
}

int net_uv_tcp_drop(struct net_uv_tcp *tcp, uint16_t via)
{
    struct tcp_link *link = link_to_change(tcp, via);
    if (link == NULL)
        return ERR_NOT_FOUND;
    tcp_link_end(link, uv_hrtime(), ERR_CANCELLED);
    return ERR_OK;
}

int net_uv_tcp_send(struct net_uv_tcp *tcp, const struct net_addr *to, const uint8_t *data, size_t len,
                    size_t segment_size)
{
    ASSERT(len > 0);
    struct tcp_link *link = link_to_change(tcp, to->via);
    if (link == NULL || link->state != TCP_LINK_OPEN || !net_addr_equal(&link->addr, to))
        return ERR_UNREACHABLE;
    size_t part = segment_size == 0 || segment_size > len ? len : segment_size;
    if (part > TLS_LINK_DATAGRAM_MAX)
        return ERR_TOO_LARGE;
    uint64_t now_ns = uv_hrtime();
    int result = ERR_OK;
    for (size_t at = 0; at < len; at += part) {
        size_t left = len - at;
        int sent = tls_link_send(link->tls, now_ns, bytes_of(data + at, left < part ? left : part));
        result = sent != ERR_OK ? sent : result;
    }
    if (tls_link_queued(link->tls) >= FLUSH_BYTES)
        tcp_link_flush(link, now_ns);
    if (tls_link_queued(link->tls) > NET_UV_TCP_READY_BYTES)
        link->choked = true;
    if (!link->blocked)
        tcp_link_touch(link);
    return result;
}

/* --- queries ------------------------------------------------------------------------------------------ */

bool net_uv_tcp_ready(const struct net_uv_tcp *tcp, uint16_t via)
{
    const struct tcp_link *link = link_of(tcp, via);
    return link == NULL || !link->choked;
}

bool net_uv_tcp_link_info(const struct net_uv_tcp *tcp, uint16_t via, struct net_uv_tcp_info *info)
{
    const struct tcp_link *link = link_of(tcp, via);
    if (link == NULL)
        return false;
    tcp_link_info(link, info);
    return true;
}

bool net_uv_tcp_find(const struct net_uv_tcp *tcp, const struct id *peer, struct net_uv_tcp_info *info)
{
    const struct tcp_link *best = NULL;
    for (size_t i = 0; i < TCP_LINKS && !tcp->closing; i++) {
        const struct tcp_link *link = &tcp->links[i];
        if (link->state == TCP_LINK_OPEN && id_equal(&link->peer, peer) &&
            (best == NULL || tls_link_used_ns(link->tls) > tls_link_used_ns(best->tls)))
            best = link;
    }
    if (best != NULL)
        tcp_link_info(best, info);
    return best != NULL;
}

uint16_t net_uv_tcp_port(const struct net_uv_tcp *tcp)
{
    return tcp->port;
}

int net_uv_tcp_extra_error(const struct net_uv_tcp *tcp)
{
    return tcp->extra_error;
}

struct net_uv_tcp_stats net_uv_tcp_stats(const struct net_uv_tcp *tcp)
{
    struct net_uv_tcp_stats stats = tcp->stats;
    for (size_t i = 0; i < TCP_LINKS; i++) {
        const struct tcp_link *link = &tcp->links[i];
        if (link->state == TCP_LINK_FREE || link->state == TCP_LINK_CLOSING)
            continue;
        struct tls_link_stats sum = tls_link_stats(link->tls);
        stats.datagrams_sent += sum.datagrams_sent;
        stats.datagrams_received += sum.datagrams_received;
        stats.bytes_sent += sum.bytes_sent;
        stats.bytes_received += sum.bytes_received;
        stats.dropped += sum.dropped;
    }
    stats.incoming = tcp_count(tcp, false, 1u << TCP_LINK_OPEN);
    stats.outgoing = tcp_count(tcp, true, UINT32_MAX);
    stats.half_open = tcp_count(tcp, false, 1u << TCP_LINK_HALF_OPEN);
    return stats;
}
