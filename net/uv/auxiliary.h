/* Auxiliary UDP sockets: fresh local ports, and so fresh mappings in the NAT before us.
 *
 * Surveys of that NAT, hole punching and short-lived mappings need ports of their own, up to hundreds for
 * some seconds.  A net_uv_socket each would cost a megabyte; these share one receive buffer, and have no send
 * queue: what the kernel does not take at once is dropped.  Each has one address family and a number, its
 * `via`, by which struct net_addr names it.  A number is used again only after thousands of others, so a
 * stale address does not name another socket.  All functions and callbacks belong to the loop's thread. */
#ifndef DUNLIN_NET_UV_AUXILIARY_H
#define DUNLIN_NET_UV_AUXILIARY_H

#include "net/uv/socket.h"

enum { NET_UV_AUX_MAX = 288 }; /* open at once: 256 while punching, and those that are kept */

struct net_uv_aux;

/* Returns an owned, empty pool (free with net_uv_aux_close_all).  The callbacks are as of a net_uv_socket,
 * except that from->via tells the socket.  loopback: bind there only.  ERR_NO_MEMORY. */
MUST_USE int net_uv_aux_create(struct net_uv_aux **out, uv_loop_t *loop, bool loopback,
                               const struct net_uv_callbacks *callbacks);
/* Closes every socket; frees itself when libuv has let go.  NULL is fine. */
void net_uv_aux_close_all(struct net_uv_aux *aux);
/* Opens one socket on a port the system picks.  ERR_FULL: NET_UV_AUX_MAX are open, or the process has no more
 * descriptors; ERR_UNSUPPORTED: no such family; ERR_IO. */
MUST_USE int net_uv_aux_open(struct net_uv_aux *aux, enum net_family family, uint16_t *via);
/* Closes it.  Unknown numbers are fine. */
void net_uv_aux_release(struct net_uv_aux *aux, uint16_t via);
/* Sends by the socket to->via.  As net_uv_socket_send, without a queue: ERR_AGAIN means dropped.
 * ERR_UNREACHABLE: no such socket, another family, or no route. */
MUST_USE int net_uv_aux_send(struct net_uv_aux *aux, const struct net_addr *to, const uint8_t *data,
                             size_t len, size_t segment_size);
/* Local port of a socket; 0: no such socket. */
uint16_t net_uv_aux_port(const struct net_uv_aux *aux, uint16_t via);
size_t net_uv_aux_count(const struct net_uv_aux *aux);

#endif
