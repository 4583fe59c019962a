#include "net/uv/tcp_port.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include "base/err.h"
#include "net/uv/port.h"

enum {
    BACKLOG = 64,
    UNSENT_BYTES = 64 * 1024, /* the kernel holds no more that is not on the way: the queue stays ours */
};

static int err_of_tcp(int code)
{
    switch (code) {
    case ECONNREFUSED:
        return ERR_REFUSED;
    case ETIMEDOUT:
        return ERR_TIMEOUT;
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
    case EADDRNOTAVAIL:
    case EAFNOSUPPORT:
    case EACCES:
    case EPERM:
    case EINVAL: /* link-local without an interface, and the like */
        return ERR_UNREACHABLE;
    case ECONNRESET:
    case EPIPE:
        return ERR_CLOSED;
    case ENOMEM:
    case ENOBUFS:
    case EMFILE:
    case ENFILE:
        return ERR_NO_MEMORY;
    default:
        return ERR_IO;
    }
}

/* Wishes: without them a link works, only slower. */
static void tune(int fd)
{
    int one = 1;
    int unsent = UNSENT_BYTES;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
}

int tcp_port_listen(enum net_family family, uint16_t port, bool loopback)
{
    int fd =
        socket(family == NET_FAMILY_V4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return port_error(errno);
    /* A restart must not wait for the connections of before; a second listener is refused all the same. */
    int one = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    int result = ERR_OK;
    if (family == NET_FAMILY_V6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one) != 0)
        result = ERR_UNSUPPORTED;
    if (result == ERR_OK)
        result = port_bind(fd, family, port, loopback);
    if (result == ERR_OK && listen(fd, BACKLOG) != 0)
        result = port_error(errno);
    if (result != ERR_OK) {
        (void)close(fd);
        return result;
    }
    return fd;
}

int tcp_port_accept(int fd, struct net_addr *from)
{
    struct sockaddr_storage storage;
    socklen_t len = sizeof storage;
    int accepted = accept4(fd, (struct sockaddr *)&storage, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (accepted < 0) {
        if (errno == EAGAIN)
            return ERR_AGAIN;
        return err_of_tcp(errno) == ERR_NO_MEMORY ? ERR_FULL : ERR_IO;
    }
    if (!port_from_sockaddr(&storage, from)) {
        (void)close(accepted);
        return ERR_IO;
    }
    tune(accepted);
    return accepted;
}

int tcp_port_connect(const struct net_addr *to)
{
    struct sockaddr_storage storage;
    socklen_t len = port_to_sockaddr(to, &storage);
    int fd = socket(storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_of_tcp(errno);
    tune(fd);
    if (connect(fd, (struct sockaddr *)&storage, len) != 0 && errno != EINPROGRESS && errno != EINTR) {
        int result = err_of_tcp(errno);
        (void)close(fd);
        return result;
    }
    return fd;
}

int tcp_port_outcome(int fd)
{
    int code = 0;
    socklen_t len = sizeof code;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &len) != 0)
        return ERR_IO;
    return code == 0 ? ERR_OK : err_of_tcp(code);
}

int tcp_port_read(int fd, uint8_t *out, size_t cap)
{
    ssize_t len;
    do {
        len = recv(fd, out, cap, 0);
    } while (len < 0 && errno == EINTR);
    if (len > 0)
        return (int)len;
    if (len == 0)
        return ERR_CLOSED;
    return errno == EAGAIN ? 0 : err_of_tcp(errno);
}

int tcp_port_write(int fd, const uint8_t *data, size_t len)
{
    ssize_t sent;
    do {
        sent = send(fd, data, len, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent >= 0)
        return (int)sent;
    return errno == EAGAIN ? ERR_AGAIN : err_of_tcp(errno);
}

void tcp_port_reject(int fd)
{
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    (void)close(fd);
}
