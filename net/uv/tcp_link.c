/* One TCP link: its descriptor under uv_poll_t, its TLS core, and what the owner is told of it. */
#include <sys/socket.h>
#include <unistd.h>

#include "net/uv/tcp_internal.h"
#include "net/uv/tcp_port.h"

enum { READS_PER_WAKE = 8 }; /* before other handles get their turn */

static void on_poll(uv_poll_t *poll, int status, int events);

struct tcp_link *tcp_link_place(struct net_uv_tcp *tcp)
{
    for (size_t i = 0; i < TCP_LINKS; i++)
        if (tcp->links[i].state == TCP_LINK_FREE)
            return &tcp->links[i];
    return NULL;
}

bool tcp_link_live(const struct tcp_link *link)
{
    return link->state != TCP_LINK_FREE && link->state != TCP_LINK_ENDED && link->state != TCP_LINK_CLOSING;
}

static void watch(struct tcp_link *link)
{
    int events = link->state == TCP_LINK_CONNECTING ? 0 : UV_READABLE;
    if (link->state == TCP_LINK_CONNECTING || link->blocked)
        events |= UV_WRITABLE;
    (void)uv_poll_start(&link->poll, events, on_poll);
}

int tcp_link_begin(struct tcp_link *link, uint64_t now_ns, int fd, enum tcp_link_state state,
                   const struct net_addr *addr, const struct id *expected)
{
    struct net_uv_tcp *tcp = link->tcp;
    bool outgoing = state == TCP_LINK_CONNECTING;
    struct tls_link *tls = NULL;
    int result = tls_link_create(&tls, tcp->keys, !outgoing, expected, now_ns);
    if (result == ERR_OK && uv_poll_init(tcp->loop, &link->poll, fd) != 0)
        result = ERR_IO;
    if (result != ERR_OK) {
        tls_link_destroy(tls);
        tcp_port_reject(fd);
        return result;
    }
    tcp->handles++;
    link->poll.data = link;
    link->tls = tls;
    link->fd = fd;
    link->state = state;
    link->reason = ERR_OK;
    link->outgoing = outgoing;
    link->dirty = link->blocked = link->choked = false;
    link->began_ns = now_ns;
    link->addr = *addr;
    link->addr.via = 0;
    link->peer = expected != NULL ? *expected : (struct id){0};
    watch(link);
    return ERR_OK;
}

void tcp_link_touch(struct tcp_link *link)
{
    struct net_uv_tcp *tcp = link->tcp;
    link->dirty = true;
    tcp->dirty = true;
    tcp_prepare(tcp);
}

void tcp_link_end(struct tcp_link *link, uint64_t now_ns, int reason)
{
    if (!tcp_link_live(link))
        return;
    bool connected = link->state != TCP_LINK_CONNECTING;
    tls_link_close(link->tls, reason);
    struct bytes last = tls_link_output(link->tls, now_ns);
    if (connected && last.len > 0)
        (void)!tcp_port_write(link->fd, last.data, last.len); /* a goodbye or an alert, if there is room */
    (void)uv_poll_stop(&link->poll);
    if (link->state == TCP_LINK_HALF_OPEN || link->state == TCP_LINK_SHAKING)
        link->tcp->stats.failed_handshakes++;
    link->state = TCP_LINK_ENDED;
    link->reason = reason;
    tcp_link_touch(link);
}

void tcp_link_flush(struct tcp_link *link, uint64_t now_ns)
{
    while (tcp_link_live(link) && link->state != TCP_LINK_CONNECTING && !link->blocked) {
        struct bytes out = tls_link_output(link->tls, now_ns);
        if (out.len == 0)
            break;
        int sent = tcp_port_write(link->fd, out.data, out.len);
        if (sent >= 0) {
            tls_link_written(link->tls, now_ns, (size_t)sent);
        } else if (sent == ERR_AGAIN) {
            link->blocked = true;
            watch(link);
        } else {
            tls_link_end(link->tls, sent);
            tcp_link_end(link, now_ns, sent);
        }
    }
    if (link->choked && tls_link_queued(link->tls) <= NET_UV_TCP_READY_BYTES / 2) {
        link->choked = false;
        link->tcp->drain = true;
    }
}

void tcp_link_info(const struct tcp_link *link, struct net_uv_tcp_info *info)
{
    struct tls_link_stats stats = tls_link_stats(link->tls);
    *info = (struct net_uv_tcp_info){
        .addr = link->addr,
        .peer = link->peer,
        .outgoing = link->outgoing,
        .open = link->state == TCP_LINK_OPEN,
        .used_ns = tls_link_used_ns(link->tls),
        .datagrams_sent = stats.datagrams_sent,
        .datagrams_received = stats.datagrams_received,
        .bytes_sent = stats.bytes_sent,
        .bytes_received = stats.bytes_received,
        .dropped = stats.dropped,
    };
}

static void tell(struct tcp_link *link, uint64_t now_ns, int reason)
{
    struct net_uv_tcp_info info;
    tcp_link_info(link, &info);
    link->tcp->cfg.callbacks.on_link(link->tcp->cfg.callbacks.user, now_ns, &info, reason);
    link->tcp->drain = true;
}

static void on_closed(uv_handle_t *handle)
{
    struct tcp_link *link = handle->data;
    tls_link_destroy(link->tls);
    link->tls = NULL;
    link->state = TCP_LINK_FREE;
    tcp_handle_closed(link->tcp);
}

void tcp_link_close(struct tcp_link *link)
{
    if (link->state == TCP_LINK_FREE || link->state == TCP_LINK_CLOSING)
        return;
    struct net_uv_tcp_stats *sum = &link->tcp->stats;
    struct tls_link_stats stats = tls_link_stats(link->tls);
    sum->datagrams_sent += stats.datagrams_sent;
    sum->datagrams_received += stats.datagrams_received;
    sum->bytes_sent += stats.bytes_sent;
    sum->bytes_received += stats.bytes_received;
    sum->dropped += stats.dropped;
    (void)uv_poll_stop(&link->poll);
    link->state = TCP_LINK_CLOSING;
    uv_close((uv_handle_t *)&link->poll, on_closed);
    (void)shutdown(link->fd, SHUT_WR);
    (void)close(link->fd);
    link->fd = -1;
}

void tcp_link_settle(struct tcp_link *link, uint64_t now_ns)
{
    struct net_uv_tcp *tcp = link->tcp;
    if (tcp_link_live(link))
        tcp_link_flush(link, now_ns);
    if (link->state != TCP_LINK_ENDED)
        return;
    if (link->addr.via != 0) {
        uint16_t via = link->addr.via;
        tcp_via_release(tcp, now_ns, link); /* so that the callback finds it gone */
        link->addr.via = via;
        tell(link, now_ns, link->reason);
    }
    if (!tcp->closing)
        tcp_link_close(link);
}

/* The handshake is over: the owner learns of the link, unless there is no room for it. */
static void opened(struct tcp_link *link, uint64_t now_ns)
{
    struct net_uv_tcp *tcp = link->tcp;
    bool proven = tls_link_peer(link->tls, &link->peer);
    ASSERT(proven);
    if (!link->outgoing) {
        int result = tcp_listen_admit(tcp, now_ns, link);
        if (result != ERR_OK) {
            tcp_link_end(link, now_ns, result);
            return;
        }
    }
    link->state = TCP_LINK_OPEN;
    tcp->stats.opened++;
    tcp_link_touch(link); /* the first ping */
    tell(link, now_ns, ERR_OK);
}

/* Hands over what has come whole.  The owner may drop the link, or all, from inside. */
static void deliver(struct tcp_link *link, uint64_t now_ns)
{
    struct net_uv_tcp *tcp = link->tcp;
    struct bytes datagrams[NET_UV_TCP_BATCH_MAX];
    size_t count;
    do {
        for (count = 0; count < NET_UV_TCP_BATCH_MAX; count++)
            if (link->state != TCP_LINK_OPEN || !tls_link_poll(link->tls, &datagrams[count]))
                break;
        if (count > 0)
            tcp->cfg.callbacks.on_batch(tcp->cfg.callbacks.user, now_ns, &link->addr, datagrams, count);
        tcp->drain |= count > 0;
    } while (count == NET_UV_TCP_BATCH_MAX && !tcp->closing);
}

static void feed(struct tcp_link *link, uint64_t now_ns, struct bytes in)
{
    struct net_uv_tcp *tcp = link->tcp;
    while (in.len > 0 && tcp_link_live(link) && !tcp->closing) {
        int taken = tls_link_feed(link->tls, now_ns, in);
        if (taken < 0) {
            tcp_link_end(link, now_ns, taken);
            return;
        }
        in = bytes_of(in.data + taken, in.len - (size_t)taken);
        if (link->state != TCP_LINK_OPEN && tls_link_state(link->tls) == TLS_LINK_OPEN)
            opened(link, now_ns);
        if (!tcp->closing)
            deliver(link, now_ns);
    }
}

static void receive(struct tcp_link *link, uint64_t now_ns)
{
    struct net_uv_tcp *tcp = link->tcp;
    for (int round = 0; round < READS_PER_WAKE && tcp_link_live(link) && !tcp->closing; round++) {
        int len = tcp_port_read(link->fd, tcp->inbox, sizeof tcp->inbox);
        if (len == 0)
            break;
        if (len < 0) {
            tls_link_end(link->tls, len);
            tcp_link_end(link, now_ns, len);
            break;
        }
        feed(link, now_ns, bytes_of(tcp->inbox, (size_t)len));
        if ((size_t)len < sizeof tcp->inbox)
            break;
    }
    /* Handshake messages, and answers to what was received. */
    if (!tcp->closing && tcp_link_live(link))
        tcp_link_touch(link);
}

/* What a descriptor in trouble, or one that has ended its connect, says. */
static void outcome(struct tcp_link *link, uint64_t now_ns, bool trouble)
{
    int result = tcp_port_outcome(link->fd);
    if (result == ERR_OK && trouble)
        result = ERR_IO;
    if (result != ERR_OK) {
        tls_link_end(link->tls, result);
        tcp_link_end(link, now_ns, result);
        return;
    }
    link->state = TCP_LINK_SHAKING;
    watch(link);
    tcp_link_touch(link);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct tcp_link *link = poll->data;
    struct net_uv_tcp *tcp = link->tcp;
    uint64_t now_ns = uv_hrtime();
    if (tcp->closing || !tcp_link_live(link))
        return;
    if (status < 0 || link->state == TCP_LINK_CONNECTING) {
        outcome(link, now_ns, status < 0);
    } else {
        if (link->blocked && (events & UV_WRITABLE)) {
            link->blocked = false;
            watch(link);
            tcp_link_touch(link);
        }
        if (events & UV_READABLE)
            receive(link, now_ns);
    }
    tcp_stir(tcp, now_ns);
}
