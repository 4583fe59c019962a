/* Network addresses as plain values: IPv4 or IPv6 address and UDP port.  No sockets, no name resolution. */
#ifndef DUNLIN_NET_ADDR_H
#define DUNLIN_NET_ADDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"
#include "base/id.h"

enum { NET_ADDR_TEXT_SIZE = 56, NET_ADDR_WIRE_MAX = 18, NET_HOST_SIZE = 254 };

enum net_family { NET_FAMILY_NONE = 0, NET_FAMILY_V4 = 4, NET_FAMILY_V6 = 6 };

/* By which of our own sockets or links an address is reached.  Local: never on the wire.  The same address by
 * another way is another route, so it counts in comparisons. */
enum net_via {
    NET_VIA_MAIN = 0,      /* the node's UDP port; every address that was read from the wire */
    NET_VIA_AUX_FIRST = 1, /* an auxiliary UDP socket: another local port */
    NET_VIA_AUX_LAST = 0x0fff,
    NET_VIA_TCP_FIRST = 0x4000, /* a TCP link: ip and port are its other end's */
    NET_VIA_TCP_LAST = 0x4fff,
    NET_VIA_RELAY_FIRST = 0x8000, /* a session through a relay: ip and port are the relay's */
    NET_VIA_RELAY_LAST = 0x8fff,
};

struct net_addr {
    uint8_t family; /* enum net_family */
    uint8_t ip[16]; /* v4: first 4 bytes, the rest zero (so that memcmp compares) */
    uint16_t port;  /* host order */
    uint16_t via;   /* enum net_via */
};

/* A seed as people write it: ID@host:port, host a name, an IPv4 or a bracketed IPv6 address. */
struct net_seed {
    struct id id;
    char host[NET_HOST_SIZE];
    uint16_t port;
};

/* How far an address reaches; decides which candidates are offered to whom. */
enum net_scope { NET_SCOPE_LOOPBACK, NET_SCOPE_LINK, NET_SCOPE_PRIVATE, NET_SCOPE_GLOBAL, NET_SCOPE_INVALID };

/* Same family, address, port and via. */
bool net_addr_equal(const struct net_addr *a, const struct net_addr *b);
/* The ranges of enum net_via. */
bool net_via_is_aux(uint16_t via);
bool net_via_is_tcp(uint16_t via);
bool net_via_is_relay(uint16_t via);
/* Loopback, link-local, private (RFC 1918, RFC 4193, RFC 6598), global, or invalid as a unicast destination
 * (unspecified, multicast, broadcast, port 0). */
enum net_scope net_addr_scope(const struct net_addr *addr);
/* "192.0.2.1:4242" or "[2001:db8::1]:4242". */
void net_addr_format(const struct net_addr *addr, char text[NET_ADDR_TEXT_SIZE]);
/* Parses the form above; numeric only.  ERR_MALFORMED: anything else; *out is untouched. */
MUST_USE int net_addr_parse(const char *text, struct net_addr *out);
/* Wire form: 4 or 16 address bytes, then the port, big-endian: 6 or 18 bytes; returns the length. */
size_t net_addr_encode(const struct net_addr *addr, uint8_t out[NET_ADDR_WIRE_MAX]);
/* ERR_MALFORMED: length is neither 6 nor 18, or a v4-mapped v6 address. */
MUST_USE int net_addr_decode(struct bytes wire, struct net_addr *out);
/* Same /24 (v4) or /56 (v6): one group for rate limits and diversity caps. */
bool net_addr_same_group(const struct net_addr *a, const struct net_addr *b);
/* Parses "ID@host:port".  ERR_MALFORMED: *why (static text) names the part that is wrong. */
MUST_USE int net_seed_parse(const char *text, struct net_seed *out, const char **why);

#endif
