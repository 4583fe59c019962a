/* TCP links as libuv sees them: the way between two nodes when no UDP gets through.
 *
 * A link is one TCP connection with TLS inside (net/tls_link.h) and carries datagrams as a UDP port would.
 * Each gets a number in `via` of its peer's net_addr (NET_VIA_TCP_FIRST on), so that a datagram is sent to it
 * and comes from it like any other; a number rests for a minute before it names another link.  Incoming links
 * are taken on a port beside the UDP port and on one more (443, say).  Who dials whom, when, and v4 or v6
 * first is the caller's business.
 *
 * All functions and callbacks belong to the loop's thread.  Callbacks come only from the loop, never from
 * inside a call of this header; they may call everything here, net_uv_tcp_close too. */
#ifndef DUNLIN_NET_UV_TCP_H
#define DUNLIN_NET_UV_TCP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/bytes.h"
#include "base/err.h"
#include "net/addr.h"
#include "net/identity.h"

enum {
    NET_UV_TCP_INCOMING_MAX = 64,  /* open ones; beyond, the longest idle one gives way or the new one goes */
    NET_UV_TCP_OUTGOING_MAX = 32,  /* open and dialling */
    NET_UV_TCP_HALF_OPEN_MAX = 24, /* accepted, not proven */
    NET_UV_TCP_HALF_OPEN_GROUP_MAX = 4, /* of them from one /24 or /56 */
    NET_UV_TCP_PEER_MAX = 2,            /* open incoming ones of one id; a third displaces the longest idle */
    NET_UV_TCP_BATCH_MAX = 64,          /* datagrams in one on_batch call */
    NET_UV_TCP_READY_BYTES = 64 * 1024, /* more than this waiting: not ready for bulk */
};

#define NET_UV_TCP_EVICT_NS UINT64_C(10000000000) /* evict_ns by default */
#define NET_UV_TCP_REST_NS  UINT64_C(60000000000) /* before a via number names another link */

struct net_uv_tcp_info {
    struct net_addr addr; /* the other end, with its via */
    struct id peer;       /* outgoing: whom we dialled, proven once open */
    bool outgoing;
    bool open;
    uint64_t used_ns; /* last datagram either way */
    uint64_t datagrams_sent, datagrams_received, bytes_sent, bytes_received, dropped;
};

struct net_uv_tcp_callbacks {
    /* reason ERR_OK: the link is open.  Negative: it has ended, or a dial has failed (net/tls_link.h has the
     * reasons; ERR_TIMEOUT: no answer, idle or stalled; ERR_REFUSED, ERR_UNREACHABLE: no TCP connection;
     * ERR_FULL: gave way; ERR_CANCELLED: net_uv_tcp_drop).  Each accepted dial and each opened link ends with
     * exactly one such call, unless the whole is closed before.  info->addr.via is free from then on. */
    void (*on_link)(void *user, uint64_t now_ns, const struct net_uv_tcp_info *info, int reason);
    /* Datagrams of one link, in order; data is borrowed until return; from carries the via. */
    void (*on_batch)(void *user, uint64_t now_ns, const struct net_addr *from, const struct bytes *datagrams,
                     size_t count);
    /* After the last call of a wake-up, and when a link is ready again.  May be NULL. */
    void (*on_drain)(void *user, uint64_t now_ns);
    void *user;
};

struct net_uv_tcp_config {
    const struct net_identity *identity; /* borrowed until open returns */
    uint32_t network_id;
    bool listen;         /* false: outgoing links only */
    uint16_t port;       /* main port, normally the UDP port's number; 0: the system picks one */
    uint16_t extra_port; /* 0: none; when it cannot be had, net_uv_tcp_extra_error tells */
    bool loopback;       /* listen on 127.0.0.1 and ::1 only */
    bool v4;
    bool v6; /* skipped without an error when the machine has no IPv6 and v4 is set too */
    size_t half_open_group_max;
    uint64_t evict_ns; /* without a datagram for so long: a link may give way to a new one */
    struct net_uv_tcp_callbacks callbacks;
};

struct net_uv_tcp_stats {
    uint64_t accepted, refused; /* connections; refused: over a limit, before any TLS */
    uint64_t dialled, opened;
    uint64_t failed_handshakes;
    uint64_t evicted;
    uint64_t datagrams_sent, datagrams_received, bytes_sent, bytes_received, dropped;
    size_t incoming, outgoing, half_open; /* now */
};

struct net_uv_tcp;

/* Listening on both families, no extra port; the caller sets identity, network_id, port and callbacks. */
struct net_uv_tcp_config net_uv_tcp_config_default(void);
/* Returns an owned object in *out (free with net_uv_tcp_close).  ERR_IN_USE, ERR_PERMISSION: the main port
 * cannot be had: open again with listen false; ERR_INVALID, ERR_UNSUPPORTED, ERR_IO, ERR_TLS, ERR_NO_MEMORY.
 * *why (static text, may be asked for NULL) explains for the person. */
MUST_USE int net_uv_tcp_open(struct net_uv_tcp **out, uv_loop_t *loop, const struct net_uv_tcp_config *cfg,
                             const char **why);
/* Ends all links without a callback, and frees itself when libuv has let go.  NULL is allowed. */
void net_uv_tcp_close(struct net_uv_tcp *tcp);

/* Starts a link to addr (its via is ignored), whose other end must prove to be peer; on_link answers.  When
 * there is an outgoing one to the same address and id, open or dialling, *via is that one's.  *via: by which
 * net_uv_tcp_send reaches it once open.  ERR_FULL: too many and none idle; ERR_UNREACHABLE: no route or no
 * such family; ERR_NO_MEMORY, ERR_TLS, ERR_IO. */
MUST_USE int net_uv_tcp_dial(struct net_uv_tcp *tcp, const struct net_addr *addr, const struct id *peer,
                             uint16_t *via);
/* Ends a link, open or dialling; on_link follows with ERR_CANCELLED.  ERR_NOT_FOUND: no such via. */
MUST_USE int net_uv_tcp_drop(struct net_uv_tcp *tcp, uint16_t via);
/* Sends len bytes as datagrams of segment_size (the last may be shorter; 0 or >= len: one datagram), each at
 * most 1500 bytes, by the link that to->via names.  Copies.  0: sent or queued.  ERR_AGAIN: the link's queue
 * is full, what did not fit is dropped; on_drain follows.  ERR_UNREACHABLE: no open link of that via, ip and
 * port.  ERR_TOO_LARGE.  Sends of one wake-up leave together, before the loop waits. */
MUST_USE int net_uv_tcp_send(struct net_uv_tcp *tcp, const struct net_addr *to, const uint8_t *data,
                             size_t len, size_t segment_size);
/* False while the link has more than NET_UV_TCP_READY_BYTES waiting: stop pulling bulk until on_drain.  True
 * for a link that does not exist: what is sent there is gone at once. */
bool net_uv_tcp_ready(const struct net_uv_tcp *tcp, uint16_t via);
/* What is known of a link, open or dialling.  False: no such via. */
bool net_uv_tcp_link_info(const struct net_uv_tcp *tcp, uint16_t via, struct net_uv_tcp_info *info);
/* The open link to a peer that was used last, incoming or outgoing.  False: none. */
bool net_uv_tcp_find(const struct net_uv_tcp *tcp, const struct id *peer, struct net_uv_tcp_info *info);

/* The main port's number; 0 without one. */
uint16_t net_uv_tcp_port(const struct net_uv_tcp *tcp);
/* ERR_OK: the extra port is served, or none was wanted; otherwise why not: tell the person. */
int net_uv_tcp_extra_error(const struct net_uv_tcp *tcp);
/* Counters since open. */
struct net_uv_tcp_stats net_uv_tcp_stats(const struct net_uv_tcp *tcp);

#endif
