/* TCP sockets: the system calls and nothing else.  Private to net/uv. */
#ifndef DUNLIN_NET_UV_TCP_PORT_H
#define DUNLIN_NET_UV_TCP_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "net/addr.h"

/* A listening descriptor; port 0: any.  Errors as port_error. */
int tcp_port_listen(enum net_family family, uint16_t port, bool loopback);
/* The next connection's descriptor, and its other end.  ERR_AGAIN: none now; ERR_FULL: no descriptors or
 * memory left, pause; ERR_IO: that one is gone, go on. */
int tcp_port_accept(int fd, struct net_addr *from);
/* A descriptor that connects; it is writable once that has ended.  ERR_UNREACHABLE, ERR_IO, ERR_NO_MEMORY. */
int tcp_port_connect(const struct net_addr *to);
/* How a connect, or a descriptor that polls with an error, has ended.  ERR_OK: connected; ERR_REFUSED,
 * ERR_TIMEOUT, ERR_UNREACHABLE, ERR_CLOSED, ERR_IO. */
int tcp_port_outcome(int fd);
/* Bytes read, 0: none now; ERR_CLOSED: the end; others as tcp_port_outcome. */
int tcp_port_read(int fd, uint8_t *out, size_t cap);
/* Bytes taken; ERR_AGAIN: full; others as tcp_port_outcome. */
int tcp_port_write(int fd, const uint8_t *data, size_t len);
/* Closes so that nothing of it stays (RST, no TIME_WAIT): for those who were not let in. */
void tcp_port_reject(int fd);

#endif
