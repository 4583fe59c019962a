/* A UDP port as libuv sees it: one non-blocking socket per address family on the same port, under uv_poll_t.
 *
 * libuv's own uv_udp_t carries no control messages, so UDP_SEGMENT (many datagrams in one system call) and
 * UDP_GRO, worth a factor of 2.3 together, need our own sockets.  Both fall back at run time: a kernel or
 * device that refuses UDP_SEGMENT gets one datagram per call from then on.  No parsing, no protocol decisions
 * here. All functions and callbacks belong to the loop's thread. */
#ifndef DUNLIN_NET_UV_SOCKET_H
#define DUNLIN_NET_UV_SOCKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/bytes.h"
#include "base/err.h"
#include "net/addr.h"

enum {
    NET_UV_BATCH_MAX = 64,            /* datagrams in one on_batch call: what GRO merges into one buffer */
    NET_UV_QUEUE_BYTES = 1024 * 1024, /* waiting while the socket is full; more is dropped */
    NET_UV_QUEUE_MAX = 256,           /* batches waiting */
    NET_UV_BUFFER_BYTES = 4 * 1024 * 1024, /* asked of the kernel; it gives what it likes */
};

struct net_uv_callbacks {
    /* Datagrams of one sender, in order; data is borrowed until return.  now_ns is uv_hrtime, read once a
     * wake-up. The socket may be closed from inside. */
    void (*on_batch)(void *user, uint64_t now_ns, const struct net_addr *from, const struct bytes *datagrams,
                     size_t count);
    /* After the last batch of a wake-up, and when a full socket takes data again: drain the cores here.  May
     * be NULL. */
    void (*on_drain)(void *user, uint64_t now_ns);
    void *user;
};

struct net_uv_socket_config {
    uint16_t port; /* 0: the system picks one, the same for both families */
    bool loopback; /* bind 127.0.0.1 and ::1 only */
    bool v4;
    bool v6;         /* skipped without an error when the machine has no IPv6 and v4 is set too */
    bool no_offload; /* no UDP_SEGMENT and UDP_GRO: for tests, and where a NAT on this host breaks them */
    struct net_uv_callbacks callbacks;
};

struct net_uv_socket_stats {
    uint64_t datagrams_sent, datagrams_received;
    uint64_t bytes_sent, bytes_received;
    uint64_t send_calls, receive_calls;
    uint64_t dropped;     /* queue full, or refused by the kernel */
    bool segment_offload; /* UDP_SEGMENT in use */
    bool receive_offload; /* UDP_GRO in use */
};

struct net_uv_socket;

/* v4 and v6, any address, offload on; the caller sets port and callbacks. */
struct net_uv_socket_config net_uv_socket_config_default(void);
/* Returns an owned socket in *out, already receiving (free with net_uv_socket_close).  ERR_IN_USE: another
 * process has the port; ERR_PERMISSION: a port below 1024; ERR_UNSUPPORTED: no such address family; ERR_IO,
 * ERR_NO_MEMORY. *why (static text, may be asked for NULL) explains for the person. */
MUST_USE int net_uv_socket_open(struct net_uv_socket **out, uv_loop_t *loop,
                                const struct net_uv_socket_config *cfg, const char **why);
/* Stops receiving at once, drops what is queued, frees itself when libuv has let go. */
void net_uv_socket_close(struct net_uv_socket *socket);
/* Sends len bytes as datagrams of segment_size (the last may be shorter; 0 or >= len: one datagram).  Copies
 * when the socket is full.  0: sent or queued.  ERR_AGAIN: queue full, dropped; on_drain follows.
 * ERR_UNREACHABLE: no route, or no socket of that family.  ERR_TOO_LARGE: above the interface's MTU.  ERR_IO.
 * Datagrams may always get lost, so most callers only count. */
MUST_USE int net_uv_socket_send(struct net_uv_socket *socket, const struct net_addr *to, const uint8_t *data,
                                size_t len, size_t segment_size);
/* False while sends are being queued: stop pulling bulk from the cores until on_drain. */
bool net_uv_socket_ready(const struct net_uv_socket *socket);
uint16_t net_uv_socket_port(const struct net_uv_socket *socket);
/* Which families are open. */
bool net_uv_socket_has(const struct net_uv_socket *socket, enum net_family family);
/* Turns UDP_SEGMENT off for good (bulk stalls while small packets pass: a NAT on this host). */
void net_uv_socket_no_segments(struct net_uv_socket *socket);
struct net_uv_socket_stats net_uv_socket_stats(const struct net_uv_socket *socket);

#endif
