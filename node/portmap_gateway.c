/* Who the router is: the default route, as the kernel tells in /proc. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "node/portmap_internal.h"

enum {
    ROUTE_UP = 1,
    ROUTE_GATEWAY = 2,
    ROUTE_TEXT_MAX = 64 * 1024, /* a host with more routes than this is no home computer */
};

static const char *next_line(const char *at)
{
    const char *end = strchr(at, '\n');
    return end == NULL ? NULL : end + 1;
}

int portmap_gateway_parse4(const char *text, struct net_addr *out)
{
    unsigned best_metric = 0;
    int result = ERR_NOT_FOUND;
    for (const char *at = next_line(text); at != NULL && *at != '\0'; at = next_line(at)) {
        char name[32];
        unsigned destination, gateway, flags, metric, mask;
        int fields =
            sscanf(at, "%31s %x %x %x %*u %*u %u %x", name, &destination, &gateway, &flags, &metric, &mask);
        if (fields != 6 || destination != 0 || mask != 0 || gateway == 0 ||
            (flags & (ROUTE_UP | ROUTE_GATEWAY)) != (ROUTE_UP | ROUTE_GATEWAY))
            continue;
        if (result == ERR_OK && metric >= best_metric)
            continue;
        best_metric = metric;
        *out = (struct net_addr){.family = NET_FAMILY_V4, .port = NAT_PCP_SERVER_PORT};
        memcpy(out->ip, &gateway, 4); /* printed as the host reads the four bytes in memory */
        result = ERR_OK;
    }
    return result;
}

static bool parse_ip6(const char *hex, uint8_t out[16])
{
    for (size_t i = 0; i < 16; i++) {
        unsigned byte;
        char pair[3] = {hex[2 * i], hex[2 * i + 1], '\0'};
        if (sscanf(pair, "%2x", &byte) != 1)
            return false;
        out[i] = (uint8_t)byte;
    }
    return true;
}

int portmap_gateway_parse6(const char *text, struct net_addr *out, char interface[32])
{
    unsigned best_metric = 0;
    int result = ERR_NOT_FOUND;
    for (const char *at = text; at != NULL && *at != '\0'; at = next_line(at)) {
        char destination[33], hop[33], name[32];
        unsigned bits, metric, flags;
        int fields = sscanf(at, "%32s %x %*s %*s %32s %x %*s %*s %x %31s", destination, &bits, hop, &metric,
                            &flags, name);
        if (fields != 6 || bits != 0 || strlen(hop) != 32 || strspn(hop, "0") == 32 ||
            (flags & (ROUTE_UP | ROUTE_GATEWAY)) != (ROUTE_UP | ROUTE_GATEWAY))
            continue;
        if (result == ERR_OK && metric >= best_metric)
            continue;
        struct net_addr found = {.family = NET_FAMILY_V6, .port = NAT_PCP_SERVER_PORT};
        if (!parse_ip6(hop, found.ip))
            continue;
        best_metric = metric;
        *out = found;
        (void)snprintf(interface, 32, "%s", name);
        result = ERR_OK;
    }
    return result;
}

/* thread-self, not self: a thread may live in a network namespace of its own. */
static int read_text(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return ERR_IO;
    size_t len = 0;
    ssize_t got;
    while (len < size - 1 && (got = read(fd, text + len, size - 1 - len)) > 0)
        len += (size_t)got;
    text[len] = '\0';
    (void)close(fd);
    return ERR_OK;
}

int portmap_gateway4(struct net_addr *out)
{
    char text[ROUTE_TEXT_MAX];
    int result = read_text("/proc/thread-self/net/route", text, sizeof text);
    return result < 0 ? result : portmap_gateway_parse4(text, out);
}

int portmap_gateway6(struct net_addr *out, unsigned *interface_index)
{
    char text[ROUTE_TEXT_MAX];
    char interface[32];
    int result = read_text("/proc/thread-self/net/ipv6_route", text, sizeof text);
    if (result == ERR_OK)
        result = portmap_gateway_parse6(text, out, interface);
    if (result < 0)
        return result;
    *interface_index = if_nametoindex(interface);
    return *interface_index == 0 ? ERR_NOT_FOUND : ERR_OK;
}
