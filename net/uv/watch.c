#include "net/uv/watch.h"

#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/uv/port.h"

struct net_uv_watch {
    uv_poll_t poll;
    int fd;
    void (*on_change)(void *user);
    void *user;
};

/* What the kernel says is not looked at, only that it says something: an overflow means as much. */
static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct net_uv_watch *watch = poll->data;
    char buffer[4096];
    (void)events;
    if (status < 0) {
        (void)uv_poll_stop(poll);
        return;
    }
    while (recv(watch->fd, buffer, sizeof buffer, MSG_DONTWAIT) > 0)
        continue;
    watch->on_change(watch->user);
}

static int open_socket(void)
{
    struct sockaddr_nl at = {.nl_family = AF_NETLINK,
                             .nl_groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE |
                                          RTMGRP_IPV6_ROUTE};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    if (fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) != 0) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

int net_uv_watch_open(struct net_uv_watch **out, uv_loop_t *loop, void (*on_change)(void *user), void *user)
{
    *out = NULL;
    struct net_uv_watch *watch = calloc(1, sizeof *watch);
    if (watch == NULL)
        return ERR_NO_MEMORY;
    *watch = (struct net_uv_watch){.fd = open_socket(), .on_change = on_change, .user = user};
    if (watch->fd < 0 || uv_poll_init(loop, &watch->poll, watch->fd) != 0) {
        if (watch->fd >= 0)
            (void)close(watch->fd);
        free(watch);
        return ERR_IO;
    }
    watch->poll.data = watch;
    (void)uv_poll_start(&watch->poll, UV_READABLE, on_readable);
    *out = watch;
    return ERR_OK;
}

static void on_closed(uv_handle_t *handle)
{
    struct net_uv_watch *watch = handle->data;
    (void)close(watch->fd);
    free(watch);
}

void net_uv_watch_close(struct net_uv_watch *watch)
{
    if (watch == NULL)
        return;
    (void)uv_poll_stop(&watch->poll);
    uv_close((uv_handle_t *)&watch->poll, on_closed);
}

struct net_addr net_uv_watch_source(enum net_family family)
{
    /* A root name server's: an address that no sane network has a special route for. */
    static const char *const far[] = {
        [NET_FAMILY_V4] = "198.41.0.4:53", [NET_FAMILY_V6] = "[2001:503:ba3e::2:30]:53"};
    struct net_addr addr;
    struct sockaddr_storage at;
    ASSERT(family == NET_FAMILY_V4 || family == NET_FAMILY_V6);
    int rc = net_addr_parse(far[family], &addr);
    ASSERT(rc == ERR_OK);
    socklen_t len = port_to_sockaddr(&addr, &at);
    int fd = socket(at.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool known = fd >= 0 && connect(fd, (struct sockaddr *)&at, len) == 0 &&
                 getsockname(fd, (struct sockaddr *)&at, &len) == 0 && port_from_sockaddr(&at, &addr) &&
                 net_addr_scope(&addr) != NET_SCOPE_INVALID;
    if (fd >= 0)
        (void)close(fd);
    addr.port = 0;
    return known ? addr : (struct net_addr){.family = NET_FAMILY_NONE};
}
