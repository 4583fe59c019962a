/* Private to net/uv: what tcp.c (the whole), tcp_link.c (one link) and tcp_listen.c (incoming) share. */
#ifndef DUNLIN_NET_UV_TCP_INTERNAL_H
#define DUNLIN_NET_UV_TCP_INTERNAL_H

#include "net/tls_link.h"
#include "net/uv/tcp.h"
#include "net/uv/timer.h"

enum {
    /* Links that have ended keep their place until libuv lets go of the handle: some room beyond the limits.
     */
    TCP_LINKS = NET_UV_TCP_INCOMING_MAX + NET_UV_TCP_HALF_OPEN_MAX + NET_UV_TCP_OUTGOING_MAX + 40,
    TCP_LISTENERS = 4, /* two ports, two families */
    TCP_VIAS = NET_VIA_TCP_LAST - NET_VIA_TCP_FIRST + 1,
    TCP_INBOX_BYTES = 64 * 1024,
};

/*   FREE --accept--> HALF_OPEN --handshake--> OPEN
 *   FREE --dial--> CONNECTING --TCP--> SHAKING --handshake--> OPEN
 *   any but FREE --tcp_link_end--> ENDED --tcp_link_settle: on_link--> CLOSING --libuv lets go--> FREE
 * The TLS link exists in all but FREE.  A via is held in CONNECTING, SHAKING and OPEN, and by such a link in
 * ENDED until it has been reported. */
enum tcp_link_state {
    TCP_LINK_FREE,
    TCP_LINK_HALF_OPEN,
    TCP_LINK_CONNECTING,
    TCP_LINK_SHAKING,
    TCP_LINK_OPEN,
    TCP_LINK_ENDED,
    TCP_LINK_CLOSING,
};

struct tcp_link {
    struct net_uv_tcp *tcp;
    uv_poll_t poll;
    struct tls_link *tls;
    int fd;
    enum tcp_link_state state;
    int reason;
    bool outgoing;
    bool dirty;   /* to be settled */
    bool blocked; /* TCP is full: wait until it is writable */
    bool choked;  /* told not to be ready: on_drain when it is again */
    uint64_t began_ns;
    struct net_addr addr; /* via 0: has none */
    struct id peer;
};

struct tcp_listener {
    struct net_uv_tcp *tcp;
    uv_poll_t poll;
    int fd; /* -1: not open */
};

struct net_uv_tcp {
    uv_loop_t *loop;
    struct net_uv_tcp_config cfg; /* its identity is not used after open */
    struct tls_link_keys *keys;
    struct tcp_listener listeners[TCP_LISTENERS];
    struct net_uv_timer timer;
    uv_prepare_t prepare;
    uint16_t port;
    int extra_error;
    bool dirty; /* some link is */
    bool drain; /* on_drain is due */
    bool preparing;
    bool closing;
    int handles;        /* not yet given back by libuv */
    uint64_t paused_ns; /* listeners wait until then; 0: they do not */
    uint64_t bucket_ns; /* accepts: when the bucket was filled, and what is left */
    uint32_t bucket;
    size_t via_next[2];             /* where to look for a free one: incoming, outgoing */
    uint64_t via_free_ns[TCP_VIAS]; /* free again from then on */
    uint8_t via_link[TCP_VIAS];     /* 1 + index into links; 0: none */
    struct net_uv_tcp_stats stats;  /* of links that are gone, and counters of no link */
    struct tcp_link links[TCP_LINKS];
    uint8_t inbox[TCP_INBOX_BYTES];
};

/* A free place, or NULL. */
struct tcp_link *tcp_link_place(struct net_uv_tcp *tcp);
/* Takes fd, also when it fails: a link in state, with a TLS link, watched.  ERR_NO_MEMORY, ERR_TLS, ERR_IO.
 */
MUST_USE int tcp_link_begin(struct tcp_link *link, uint64_t now_ns, int fd, enum tcp_link_state state,
                            const struct net_addr *addr, const struct id *expected);
/* Says goodbye, and lets tcp_link_settle report it.  No callback.  No effect on one that has ended. */
void tcp_link_end(struct tcp_link *link, uint64_t now_ns, int reason);
/* To be settled before the loop waits. */
void tcp_link_touch(struct tcp_link *link);
/* Writes what waits, until TCP is full. */
void tcp_link_flush(struct tcp_link *link, uint64_t now_ns);
/* Reports and closes what has ended, flushes the rest. */
void tcp_link_settle(struct tcp_link *link, uint64_t now_ns);
/* Neither free, nor ended. */
bool tcp_link_live(const struct tcp_link *link);
void tcp_link_info(const struct tcp_link *link, struct net_uv_tcp_info *info);
/* Lets libuv have the handle, without a word to anybody. */
void tcp_link_close(struct tcp_link *link);

/* Of live links in one of the states of the mask (1 << state): how many are outgoing or not. */
size_t tcp_count(const struct net_uv_tcp *tcp, bool outgoing, unsigned mask);
/* Ends the open link that was longest without a datagram, if long enough for evicting.  False: none. */
bool tcp_evict(struct net_uv_tcp *tcp, uint64_t now_ns, bool outgoing);
/* Gives the link a via.  ERR_FULL: all are taken or resting. */
MUST_USE int tcp_via_take(struct net_uv_tcp *tcp, uint64_t now_ns, struct tcp_link *link);
void tcp_via_release(struct net_uv_tcp *tcp, uint64_t now_ns, struct tcp_link *link);
/* Has tcp_stir called before the loop waits. */
void tcp_prepare(struct net_uv_tcp *tcp);
/* After each wake-up: settles, drains, arms the timer. */
void tcp_stir(struct net_uv_tcp *tcp, uint64_t now_ns);
/* One handle less; frees everything with the last. */
void tcp_handle_closed(struct net_uv_tcp *tcp);

/* Opens the listeners that the config wants.  Errors as net_uv_tcp_open; then all are closed again. */
MUST_USE int tcp_listen_open(struct net_uv_tcp *tcp);
/* A link whose handshake is over wants to be open: makes room for it.  ERR_FULL: there is none. */
MUST_USE int tcp_listen_admit(struct net_uv_tcp *tcp, uint64_t now_ns, struct tcp_link *link);
/* Listens again after a pause that is over. */
void tcp_listen_resume(struct net_uv_tcp *tcp, uint64_t now_ns);
void tcp_listen_close(struct net_uv_tcp *tcp);

#endif
