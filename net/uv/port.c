#include "net/uv/port.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/udp.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "net/uv/socket.h"

/* Since Linux 4.18 and 5.0; older headers lack them, older kernels refuse them. */
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

int port_error(int code)
{
    switch (code) {
    case EADDRINUSE:
        return ERR_IN_USE;
    case EACCES:
    case EPERM:
        return ERR_PERMISSION;
    case EAFNOSUPPORT:
    case EADDRNOTAVAIL:
        return ERR_UNSUPPORTED;
    case ENOMEM:
    case ENOBUFS:
        return ERR_NO_MEMORY;
    default:
        return ERR_IO;
    }
}

socklen_t port_to_sockaddr(const struct net_addr *addr, struct sockaddr_storage *out)
{
    memset(out, 0, sizeof *out);
    if (addr->family == NET_FAMILY_V4) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)out;
        v4->sin_family = AF_INET;
        v4->sin_port = htons(addr->port);
        memcpy(&v4->sin_addr, addr->ip, 4);
        return sizeof *v4;
    }
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(addr->port);
    memcpy(&v6->sin6_addr, addr->ip, 16);
    return sizeof *v6;
}

bool port_from_sockaddr(const struct sockaddr_storage *in, struct net_addr *out)
{
    *out = (struct net_addr){0};
    if (in->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)in;
        out->family = NET_FAMILY_V4;
        out->port = ntohs(v4->sin_port);
        memcpy(out->ip, &v4->sin_addr, 4);
        return true;
    }
    if (in->ss_family != AF_INET6)
        return false;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)in;
    out->family = NET_FAMILY_V6;
    out->port = ntohs(v6->sin6_port);
    memcpy(out->ip, &v6->sin6_addr, 16);
    return true;
}

static void set_int(int fd, int level, int name, int value)
{
    /* Every option set this way is a wish: without it the socket works, only slower or with a smaller buffer.
     */
    (void)setsockopt(fd, level, name, &value, sizeof value);
}

int port_bind(int fd, enum net_family family, uint16_t port, bool loopback)
{
    struct net_addr addr = {.family = (uint8_t)family, .port = port};
    if (loopback && family == NET_FAMILY_V4) {
        addr.ip[0] = 127;
        addr.ip[3] = 1;
    } else if (loopback) {
        addr.ip[15] = 1;
    }
    struct sockaddr_storage storage;
    socklen_t len = port_to_sockaddr(&addr, &storage);
    return bind(fd, (struct sockaddr *)&storage, len) == 0 ? ERR_OK : port_error(errno);
}

int port_open(enum net_family family, uint16_t port, bool loopback, bool offload, bool *receive_offload)
{
    int domain = family == NET_FAMILY_V4 ? AF_INET : AF_INET6;
    int fd = socket(domain, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return port_error(errno);
    int only = 1;
    if (family == NET_FAMILY_V6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only) != 0) {
        (void)close(fd);
        return ERR_UNSUPPORTED;
    }
    set_int(fd, SOL_SOCKET, SO_SNDBUF, NET_UV_BUFFER_BYTES);
    set_int(fd, SOL_SOCKET, SO_RCVBUF, NET_UV_BUFFER_BYTES);
    /* Never fragment, and do not let a forged ICMP message lower what may be sent: QUIC probes the path
     * itself. */
    if (family == NET_FAMILY_V4)
        set_int(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE);
    else
        set_int(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_PROBE);
    int one = 1;
    *receive_offload = offload && setsockopt(fd, IPPROTO_UDP, UDP_GRO, &one, sizeof one) == 0;
    int result = port_bind(fd, family, port, loopback);
    if (result != ERR_OK) {
        (void)close(fd);
        return result;
    }
    return fd;
}

void port_clear_error(int fd)
{
    int error;
    socklen_t len = sizeof error;
    (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
}

int port_number(int fd, uint16_t *port)
{
    struct sockaddr_storage storage;
    socklen_t len = sizeof storage;
    struct net_addr addr;
    if (getsockname(fd, (struct sockaddr *)&storage, &len) != 0 || !port_from_sockaddr(&storage, &addr))
        return ERR_IO;
    *port = addr.port;
    return ERR_OK;
}

int port_receive(int fd, struct port_inbox *inbox)
{
    for (int i = 0; i < PORT_MESSAGES; i++) {
        inbox->slices[i] = (struct iovec){.iov_base = inbox->data[i], .iov_len = PORT_MESSAGE_BYTES};
        inbox->heads[i].msg_hdr = (struct msghdr){
            .msg_name = &inbox->from[i],
            .msg_namelen = sizeof inbox->from[i],
            .msg_iov = &inbox->slices[i],
            .msg_iovlen = 1,
            .msg_control = inbox->control[i],
            .msg_controllen = PORT_CONTROL_BYTES,
        };
    }
    int count;
    do {
        count = recvmmsg(fd, inbox->heads, PORT_MESSAGES, 0, NULL);
    } while (count < 0 && errno == EINTR);
    return count < 0 ? 0 : count; /* an ICMP error of an earlier send is consumed by reporting it: go on */
}

bool port_message(const struct port_inbox *inbox, int i, struct port_message *out)
{
    const struct msghdr *head = &inbox->heads[i].msg_hdr;
    out->data = inbox->data[i];
    out->len = inbox->heads[i].msg_len;
    out->segment_size = out->len;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(head); c != NULL; c = CMSG_NXTHDR((struct msghdr *)head, c)) {
        int size;
        if (c->cmsg_level != IPPROTO_UDP || c->cmsg_type != UDP_GRO)
            continue;
        memcpy(&size, CMSG_DATA(c), sizeof size);
        if (size > 0 && (size_t)size < out->len)
            out->segment_size = (size_t)size;
    }
    return port_from_sockaddr(&inbox->from[i], &out->from);
}

static int err_of_send(int code, bool segmented)
{
    switch (code) {
    case EAGAIN:
        return ERR_AGAIN;
    case ENOBUFS:
        return ERR_AGAIN;
    case EMSGSIZE:
        return ERR_TOO_LARGE;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
    case EADDRNOTAVAIL:
    case EAFNOSUPPORT:
        return ERR_UNREACHABLE;
    case EACCES:
    case EPERM:
        return ERR_PERMISSION;
    case EIO: /* the device lacks checksum offload */
    case EINVAL:
    case ENOPROTOOPT:
    case EOPNOTSUPP:
        return segmented ? ERR_UNSUPPORTED : ERR_IO;
    default:
        return ERR_IO;
    }
}

int port_send(int fd, const struct net_addr *to, const uint8_t *data, size_t len, size_t segment_size)
{
    struct sockaddr_storage storage;
    socklen_t storage_len = port_to_sockaddr(to, &storage);
    struct iovec slice = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof(uint16_t))] = {0};
    struct msghdr head = {
        .msg_name = &storage, .msg_namelen = storage_len, .msg_iov = &slice, .msg_iovlen = 1};
    bool segmented = segment_size < len;
    if (segmented) {
        head.msg_control = control;
        head.msg_controllen = sizeof control;
        struct cmsghdr *c = CMSG_FIRSTHDR(&head);
        c->cmsg_level = IPPROTO_UDP;
        c->cmsg_type = UDP_SEGMENT;
        c->cmsg_len = CMSG_LEN(sizeof(uint16_t));
        uint16_t size = (uint16_t)segment_size;
        memcpy(CMSG_DATA(c), &size, sizeof size);
    }
    ssize_t sent;
    do {
        sent = sendmsg(fd, &head, 0);
    } while (sent < 0 && errno == EINTR);
    return sent >= 0 ? ERR_OK : err_of_send(errno, segmented);
}
