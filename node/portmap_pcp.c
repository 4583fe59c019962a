/* PCP jobs: one datagram out, one in, sent again as RFC 6887 says. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "node/portmap_internal.h"

enum {
    READS_MAX = 16,           /* datagrams a step looks at; the rest waits for the next one */
    ADDR_PREFERENCES = 72,    /* IPV6_ADDR_PREFERENCES and IPV6_PREFER_SRC_PUBLIC of linux/in6.h, which */
    PREFER_PUBLIC_SOURCE = 2, /* cannot be included beside netinet/in.h */
};

static struct sockaddr_in sockaddr4(const struct net_addr *addr)
{
    struct sockaddr_in out = {.sin_family = AF_INET, .sin_port = htons(addr->port)};
    memcpy(&out.sin_addr, addr->ip, 4);
    return out;
}

/* A socket towards the router, and the address it sends from. */
static int open4(const struct portmap_env *env, struct net_addr *client)
{
    struct net_addr gateway = env->gateway;
    if (gateway.family == NET_FAMILY_NONE && portmap_gateway4(&gateway) < 0)
        return ERR_UNREACHABLE;
    struct sockaddr_in to = sockaddr4(&gateway);
    struct sockaddr_in from;
    socklen_t len = sizeof from;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return ERR_IO;
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0 ||
        getsockname(fd, (struct sockaddr *)&from, &len) < 0) {
        (void)close(fd);
        return ERR_UNREACHABLE;
    }
    *client = (struct net_addr){.family = NET_FAMILY_V4};
    memcpy(client->ip, &from.sin_addr, 4);
    return fd;
}

/* The global address this host talks to the world from: asked of the routing table by connecting a datagram
 * socket, which sends nothing.  A temporary address (RFC 8981) would be gone tomorrow, so not one of those.
 */
static int source6(struct sockaddr_in6 *from)
{
    struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons(9)};
    int prefer = PREFER_PUBLIC_SOURCE;
    socklen_t len = sizeof *from;
    to.sin6_addr.s6_addr[0] = 0x20; /* 2000::/3 is what is global */
    to.sin6_addr.s6_addr[15] = 1;
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return ERR_IO;
    (void)setsockopt(fd, IPPROTO_IPV6, ADDR_PREFERENCES, &prefer, sizeof prefer);
    bool ok = connect(fd, (struct sockaddr *)&to, sizeof to) == 0 &&
              getsockname(fd, (struct sockaddr *)from, &len) == 0;
    (void)close(fd);
    from->sin6_port = 0;
    return ok ? ERR_OK : ERR_UNREACHABLE;
}

static int open6(struct net_addr *client)
{
    struct net_addr gateway;
    struct sockaddr_in6 from = {0}, to = {.sin6_family = AF_INET6};
    unsigned interface;
    if (portmap_gateway6(&gateway, &interface) < 0 || source6(&from) < 0)
        return ERR_UNREACHABLE;
    to.sin6_port = htons(gateway.port);
    memcpy(&to.sin6_addr, gateway.ip, sizeof gateway.ip);
    if (IN6_IS_ADDR_LINKLOCAL(&to.sin6_addr))
        to.sin6_scope_id = interface;
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return ERR_IO;
    /* The pinhole is for the packet's source, so it must leave from the global address (RFC 6887 s.16.4). */
    if (bind(fd, (struct sockaddr *)&from, sizeof from) < 0 ||
        connect(fd, (struct sockaddr *)&to, sizeof to) < 0) {
        (void)close(fd);
        return ERR_UNREACHABLE;
    }
    *client = (struct net_addr){.family = NET_FAMILY_V6};
    memcpy(client->ip, &from.sin6_addr, sizeof client->ip);
    return fd;
}

static void send_request(struct portmap_job *job, const struct portmap_env *env, uint64_t now_ns)
{
    uint8_t packet[NAT_PCP_MAP_BYTES];
    nat_pcp_encode(&job->pcp.request, packet);
    (void)send(job->fd, packet, sizeof packet, MSG_NOSIGNAL); /* a lost one is sent again */
    job->pcp.wait_ns = nat_pcp_wait_ns(&env->rng, job->pcp.wait_ns);
    job->wake_ns = now_ns + job->pcp.wait_ns;
}

int portmap_pcp_start(struct portmap_job *job, const struct portmap_env *env, uint64_t now_ns)
{
    const struct nat_portmap_command *command = &job->command;
    struct net_addr client;
    bool v6 = command->protocol == NAT_PORTMAP_PCP6;
    job->fd = v6 ? open6(&client) : open4(env, &client);
    if (job->fd < 0)
        return job->fd;
    client.port = command->port;
    job->pcp.request = (struct nat_pcp_request){
        .client = client,
        .wanted = command->external,
        .lifetime_s = command->op == NAT_PORTMAP_ADD ? command->lifetime_s : 0,
        .protocol = command->transport == NAT_PORTMAP_UDP ? NAT_PCP_PROTOCOL_UDP : NAT_PCP_PROTOCOL_TCP,
    };
    if (v6 && command->op == NAT_PORTMAP_ADD) {
        /* Nothing is translated: the pinhole's outer address is the inner one. */
        job->pcp.request.wanted = client;
    }
    memcpy(job->pcp.request.nonce, command->nonce, sizeof command->nonce);
    job->pcp.wait_ns = 0;
    send_request(job, env, now_ns);
    return ERR_AGAIN;
}

static int error_of(uint8_t result)
{
    switch (result) {
    case NAT_PCP_SUCCESS:
        return ERR_OK;
    case NAT_PCP_NO_RESOURCES:
    case NAT_PCP_USER_EX_QUOTA:
        return ERR_FULL;
    case NAT_PCP_MALFORMED_REQUEST:
        return ERR_MALFORMED;
    case NAT_PCP_NETWORK_FAILURE:
        return ERR_NO_ADDRESS;
    case NAT_PCP_UNSUPP_OPCODE:
    case NAT_PCP_UNSUPP_PROTOCOL:
        return ERR_UNSUPPORTED;
    default:
        return ERR_REFUSED;
    }
}

static int on_packet(struct portmap_job *job, struct bytes packet)
{
    struct nat_pcp_reply reply;
    int result = nat_pcp_decode(packet, &reply);
    if (result == ERR_VERSION)
        return result;
    if (result < 0 || !nat_pcp_answers(&reply, &job->pcp.request))
        return ERR_AGAIN;
    job->result.detail = reply.result;
    job->result.external = reply.external;
    job->result.lifetime_s = reply.lifetime_s == 0 ? 1 : reply.lifetime_s; /* PCP knows no endless ones */
    job->result.epoch_s = reply.epoch_s;
    job->result.epoch_known = true;
    return error_of(reply.result);
}

int portmap_pcp_step(struct portmap_job *job, const struct portmap_env *env, uint64_t now_ns)
{
    for (int i = 0; i < READS_MAX; i++) {
        uint8_t packet[NAT_PCP_PACKET_MAX + 1];
        ssize_t len = recv(job->fd, packet, sizeof packet, MSG_DONTWAIT);
        if (len < 0 && (errno == ECONNREFUSED || errno == EHOSTUNREACH || errno == ENETUNREACH))
            return ERR_TIMEOUT; /* the router says itself that nobody listens there */
        if (len < 0)
            break;
        int result = on_packet(job, bytes_of(packet, (size_t)len));
        if (result != ERR_AGAIN)
            return result;
    }
    if (now_ns >= job->wake_ns)
        send_request(job, env, now_ns);
    return ERR_AGAIN;
}

void portmap_pcp_close(struct portmap_job *job)
{
    if (job->fd >= 0)
        (void)close(job->fd);
    job->fd = -1;
}
