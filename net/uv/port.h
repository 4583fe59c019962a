/* One UDP socket of one address family: the system calls and nothing else.  Private to net/uv; TCP shares
 * the addresses and errors. */
#ifndef DUNLIN_NET_UV_PORT_H
#define DUNLIN_NET_UV_PORT_H

#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "net/addr.h"

enum {
    PORT_MESSAGES = 8,          /* taken by one system call */
    PORT_MESSAGE_BYTES = 65536, /* what UDP_GRO may merge */
    PORT_CONTROL_BYTES = 64,
};

/* Room for one recvmmsg. */
struct port_inbox {
    struct mmsghdr heads[PORT_MESSAGES];
    struct iovec slices[PORT_MESSAGES];
    struct sockaddr_storage from[PORT_MESSAGES];
    _Alignas(struct cmsghdr) uint8_t control[PORT_MESSAGES][PORT_CONTROL_BYTES];
    uint8_t data[PORT_MESSAGES][PORT_MESSAGE_BYTES];
};

/* A received buffer: datagrams of segment_size, the last maybe shorter. */
struct port_message {
    struct net_addr from;
    const uint8_t *data;
    size_t len, segment_size;
};

/* What net_uv_socket_open says of an errno of socket or bind. */
int port_error(int code);
/* Between our addresses and the system's; from: false when it is neither IPv4 nor IPv6, via is 0. */
socklen_t port_to_sockaddr(const struct net_addr *addr, struct sockaddr_storage *out);
bool port_from_sockaddr(const struct sockaddr_storage *in, struct net_addr *out);
/* Binds to any address, or to the loopback's.  Errors as port_error. */
int port_bind(int fd, enum net_family family, uint16_t port, bool loopback);
/* Opens and binds; returns the descriptor.  port 0: any.  *receive_offload tells whether UDP_GRO is on.
 * Errors as net_uv_socket_open. */
int port_open(enum net_family family, uint16_t port, bool loopback, bool offload, bool *receive_offload);
/* Takes a pending error off the socket. */
void port_clear_error(int fd);
int port_number(int fd, uint16_t *port);
/* Receives into inbox; returns the number of messages, 0 when there are none now. */
int port_receive(int fd, struct port_inbox *inbox);
/* The i-th message of the last port_receive.  False: its sender's address makes no sense. */
bool port_message(const struct port_inbox *inbox, int i, struct port_message *out);
/* One system call.  segment_size < len: UDP_SEGMENT.  0; ERR_AGAIN: full; ERR_UNSUPPORTED: this kernel or
 * device does not segment; others as net_uv_socket_send. */
int port_send(int fd, const struct net_addr *to, const uint8_t *data, size_t len, size_t segment_size);

#endif
