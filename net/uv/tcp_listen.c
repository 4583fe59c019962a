/* Incoming TCP links: listeners, and who is let in. */
#include <unistd.h>

#include "net/uv/port.h"
#include "net/uv/tcp_internal.h"
#include "net/uv/tcp_port.h"

enum {
    PORT_TRIES = 16,
    ACCEPTS_PER_WAKE = 16,
    ACCEPTS_PER_SECOND = 100, /* a handshake costs about a millisecond: a tenth of a core */
    ACCEPTS_BURST = 100,
};

#define SECOND_NS        UINT64_C(1000000000)
#define PAUSE_NS         SECOND_NS       /* after running out of descriptors */
#define HALF_OPEN_MIN_NS (2 * SECOND_NS) /* a half-open link has so long before it gives way */

/* --- letting in --------------------------------------------------------------------------------------- */

static bool within_rate(struct net_uv_tcp *tcp, uint64_t now_ns)
{
    uint64_t grain_ns = SECOND_NS / ACCEPTS_PER_SECOND;
    uint64_t grains = (now_ns - tcp->bucket_ns) / grain_ns;
    tcp->bucket_ns += grains * grain_ns;
    tcp->bucket = grains < ACCEPTS_BURST - tcp->bucket ? tcp->bucket + (uint32_t)grains : ACCEPTS_BURST;
    if (tcp->bucket == 0)
        return false;
    tcp->bucket--;
    return true;
}

/* Whether one more from this address may begin.  When all half-open places are taken, the oldest that has had
 * its time gives way. */
static bool may_begin(struct net_uv_tcp *tcp, uint64_t now_ns, const struct net_addr *from)
{
    size_t total = 0;
    size_t group = 0;
    struct tcp_link *oldest = NULL;
    for (size_t i = 0; i < TCP_LINKS; i++) {
        struct tcp_link *link = &tcp->links[i];
        if (link->state != TCP_LINK_HALF_OPEN)
            continue;
        total++;
        group += net_addr_same_group(&link->addr, from);
        if (oldest == NULL || link->began_ns < oldest->began_ns)
            oldest = link;
    }
    if (group >= tcp->cfg.half_open_group_max || !within_rate(tcp, now_ns))
        return false;
    if (total < NET_UV_TCP_HALF_OPEN_MAX)
        return true;
    if (oldest->began_ns + HALF_OPEN_MIN_NS > now_ns)
        return false;
    tcp_link_end(oldest, now_ns, ERR_FULL);
    return true;
}

static void accepted(struct net_uv_tcp *tcp, uint64_t now_ns, int fd, const struct net_addr *from)
{
    tcp->stats.accepted++;
    struct tcp_link *link = may_begin(tcp, now_ns, from) ? tcp_link_place(tcp) : NULL;
    if (link == NULL) {
        tcp->stats.refused++;
        tcp_port_reject(fd);
    } else if (tcp_link_begin(link, now_ns, fd, TCP_LINK_HALF_OPEN, from, NULL) != ERR_OK) {
        tcp->stats.refused++;
    }
}

static void on_listener(uv_poll_t *poll, int status, int events)
{
    struct tcp_listener *listener = poll->data;
    struct net_uv_tcp *tcp = listener->tcp;
    uint64_t now_ns = uv_hrtime();
    (void)events;
    if (tcp->closing)
        return;
    int result = status < 0 ? ERR_FULL : ERR_OK;
    for (int i = 0; i < ACCEPTS_PER_WAKE && result != ERR_AGAIN && result != ERR_FULL; i++) {
        struct net_addr from;
        result = tcp_port_accept(listener->fd, &from);
        if (result >= 0)
            accepted(tcp, now_ns, result, &from);
    }
    if (result == ERR_FULL) { /* it would be readable for ever: look again later */
        for (int i = 0; i < TCP_LISTENERS; i++)
            if (tcp->listeners[i].fd >= 0)
                (void)uv_poll_stop(&tcp->listeners[i].poll);
        tcp->paused_ns = now_ns + PAUSE_NS;
    }
    tcp_stir(tcp, now_ns);
}

void tcp_listen_resume(struct net_uv_tcp *tcp, uint64_t now_ns)
{
    if (tcp->paused_ns == 0 || now_ns < tcp->paused_ns)
        return;
    tcp->paused_ns = 0;
    for (int i = 0; i < TCP_LISTENERS; i++)
        if (tcp->listeners[i].fd >= 0)
            (void)uv_poll_start(&tcp->listeners[i].poll, UV_READABLE, on_listener);
}

/* One id gets few links: who comes anew has mostly lost the old one without our knowing. */
static void displace(struct net_uv_tcp *tcp, uint64_t now_ns, const struct id *peer)
{
    size_t same = 0;
    struct tcp_link *idlest = NULL;
    for (size_t i = 0; i < TCP_LINKS; i++) {
        struct tcp_link *link = &tcp->links[i];
        if (link->state != TCP_LINK_OPEN || link->outgoing || !id_equal(&link->peer, peer))
            continue;
        same++;
        if (idlest == NULL || tls_link_used_ns(link->tls) < tls_link_used_ns(idlest->tls))
            idlest = link;
    }
    if (same < NET_UV_TCP_PEER_MAX)
        return;
    tcp->stats.evicted++;
    tcp_link_end(idlest, now_ns, ERR_FULL);
}

int tcp_listen_admit(struct net_uv_tcp *tcp, uint64_t now_ns, struct tcp_link *link)
{
    displace(tcp, now_ns, &link->peer);
    if (tcp_count(tcp, false, 1u << TCP_LINK_OPEN) >= NET_UV_TCP_INCOMING_MAX &&
        !tcp_evict(tcp, now_ns, false))
        return ERR_FULL;
    return tcp_via_take(tcp, now_ns, link);
}

/* --- opening ------------------------------------------------------------------------------------------ */

void tcp_listen_close(struct net_uv_tcp *tcp)
{
    for (int i = 0; i < TCP_LISTENERS; i++) {
        if (tcp->listeners[i].fd >= 0)
            (void)close(tcp->listeners[i].fd);
        tcp->listeners[i].fd = -1;
    }
}

/* Both wanted families on one port, into two listeners.  Returns ERR_OK, or the first family's error with
 * both closed. */
static int open_port(struct net_uv_tcp *tcp, struct tcp_listener pair[2], uint16_t port, uint16_t *opened)
{
    const struct net_uv_tcp_config *cfg = &tcp->cfg;
    if (cfg->v4) {
        int fd = tcp_port_listen(NET_FAMILY_V4, port, cfg->loopback);
        if (fd < 0)
            return fd;
        pair[0].fd = fd;
        if (port_number(fd, &port) != ERR_OK)
            goto close_first;
    }
    if (cfg->v6) {
        int fd = tcp_port_listen(NET_FAMILY_V6, port, cfg->loopback);
        if (fd < 0 && !(fd == ERR_UNSUPPORTED && cfg->v4)) {
            if (pair[0].fd >= 0)
                (void)close(pair[0].fd);
            pair[0].fd = -1;
            return fd;
        }
        pair[1].fd = fd < 0 ? -1 : fd;
        if (fd >= 0 && !cfg->v4 && port_number(fd, &port) != ERR_OK)
            goto close_first;
    }
    *opened = port;
    return ERR_OK;
close_first:
    for (int i = 0; i < 2; i++) {
        if (pair[i].fd >= 0)
            (void)close(pair[i].fd);
        pair[i].fd = -1;
    }
    return ERR_IO;
}

/* Registers the descriptors with the loop.  ERR_IO: libuv refused; the rest is for the caller to close. */
static int register_listeners(struct net_uv_tcp *tcp)
{
    for (int i = 0; i < TCP_LISTENERS; i++) {
        struct tcp_listener *listener = &tcp->listeners[i];
        if (listener->fd < 0)
            continue;
        if (uv_poll_init(tcp->loop, &listener->poll, listener->fd) != 0)
            return ERR_IO;
        listener->poll.data = listener;
        tcp->handles++;
        (void)uv_poll_start(&listener->poll, UV_READABLE, on_listener);
    }
    return ERR_OK;
}

int tcp_listen_open(struct net_uv_tcp *tcp)
{
    const struct net_uv_tcp_config *cfg = &tcp->cfg;
    tcp->bucket = ACCEPTS_BURST;
    tcp->bucket_ns = uv_hrtime();
    if (!cfg->listen)
        return ERR_OK;
    /* A free port of one family may be taken in the other: with port 0 another try gets another one. */
    int result = ERR_IN_USE;
    for (int i = 0; i < (cfg->port == 0 ? PORT_TRIES : 1) && result == ERR_IN_USE; i++)
        result = open_port(tcp, tcp->listeners, cfg->port, &tcp->port);
    if (result != ERR_OK)
        return result;
    uint16_t extra = 0;
    if (cfg->extra_port != 0 && cfg->extra_port != tcp->port)
        tcp->extra_error = open_port(tcp, tcp->listeners + 2, cfg->extra_port, &extra);
    return register_listeners(tcp);
}
