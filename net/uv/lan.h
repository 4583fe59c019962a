/* Finding other nodes on the local network, and being found: multicast DNS (RFC 6762) with service discovery
 * (RFC 6763), service `_dunlin._udp`.  Names and TXT keys: docs/protocol/lan.md.
 *
 * The mDNS stack is libavahi-core, in a child process (`dunlin-mdns`): whoever is on the LAN can send it
 * anything, and a failed assertion there must not end the node.  It starts again after a failure, at most
 * once in NET_UV_LAN_RESTART_S seconds.  Coexists with avahi-daemon on the same port.
 *
 * What is found is a hint: an id and addresses that anyone could have announced.  Only an authenticated
 * answer from there (nat/path.h) proves it. */
#ifndef DUNLIN_NET_UV_LAN_H
#define DUNLIN_NET_UV_LAN_H

#include <uv.h>

#include "net/addr.h"

enum {
    NET_UV_LAN_PEERS_MAX = 64,    /* further ones are not reported until one is gone */
    NET_UV_LAN_ADDRS_MAX = 8,     /* per peer */
    NET_UV_LAN_ITEMS_MAX = 512,   /* addresses on all interfaces; as many as dunlin-mdns tells */
    NET_UV_LAN_LINE_MAX = 160,    /* bytes of a line of its */
    NET_UV_LAN_LINES_PER_S = 100, /* beyond it, reading pauses */
    NET_UV_LAN_RESTART_S = 30,
    NET_UV_LAN_END_MS = 1000, /* for its goodbye to the network */
    NET_UV_LAN_REASON_SIZE = 120,
};

struct net_uv_lan_peer {
    struct id id;
    struct net_addr addrs[NET_UV_LAN_ADDRS_MAX]; /* v4 and v6 unicast, neither link-local nor loopback */
    size_t addr_count;                           /* at least 1 */
};

struct net_uv_lan_config {
    struct id self;
    uint32_t network;   /* others are ignored */
    uint16_t port;      /* of the UDP socket */
    const char *helper; /* path of dunlin-mdns; copied */
    /* All optional, on the loop's thread, borrowed until return. */
    void (*on_found)(void *user, const struct net_uv_lan_peer *peer); /* new, or its addresses changed */
    void (*on_gone)(void *user, const struct id *peer);
    /* running: announced on the network.  Otherwise reason says why not; peers found before have gone. */
    void (*on_state)(void *user, bool running, const char *reason);
    void *user;
};

struct net_uv_lan;

/* Starts; failure to announce is reported by on_state, not here.  Returns owned (free with net_uv_lan_close).
 * ERR_NO_MEMORY; ERR_INVALID: a field is missing; ERR_IO: libuv refused. */
MUST_USE int net_uv_lan_open(struct net_uv_lan **out, uv_loop_t *loop,
                             const struct net_uv_lan_config *config);
/* Peers known now, at most cap; returns how many. */
size_t net_uv_lan_peers(const struct net_uv_lan *lan, struct net_uv_lan_peer out[], size_t cap);
/* Withdraws the announcement and frees itself when libuv has let go; no callback follows.  NULL is fine. */
void net_uv_lan_close(struct net_uv_lan *lan);

#endif
