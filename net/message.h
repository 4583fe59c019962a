/* What travels in one sealed datagram, as the cores see it: who, where, which kind, and a msgpack body.
 * Sealing and opening is net/seal.h; cores neither encrypt nor touch sockets. */
#ifndef DUNLIN_NET_MESSAGE_H
#define DUNLIN_NET_MESSAGE_H

#include "net/addr.h"

enum {
    NET_DATAGRAM_MAX = 1232, /* IPv6 minimum MTU 1280 less IPv6 and UDP headers */
    NET_SEAL_OVERHEAD = 128, /* upper bound of head, nonce, tag and sealed prefix (net/seal.h asserts it) */
    NET_BODY_MAX = NET_DATAGRAM_MAX - NET_SEAL_OVERHEAD,
};

/* First byte of the sealed body's kind.  Ranges belong to folders, so that the glue routes without parsing.
 */
enum net_kind {
    NET_KIND_CHALLENGE = 1, /* net/seal */
    NET_KIND_PROBE = 0x10,  /* nat/path */
    NET_KIND_PROBE_ANSWER = 0x11,
    NET_KIND_REACH_FIRST = 0x12, /* nat/reach: surveys of our own NAT and dial-backs */
    NET_KIND_REACH_LAST = 0x17,
    NET_KIND_PUNCH_FIRST = 0x18, /* nat/punch: coordination of hole punching, end to end over a relay */
    NET_KIND_PUNCH_LAST = 0x1f,
    NET_KIND_DHT_FIRST = 0x20, /* dht: 0x20..0x3f */
    NET_KIND_DHT_LAST = 0x3f,
    NET_KIND_RELAY_FIRST = 0x40, /* nat/relay: reservations and sessions */
    NET_KIND_RELAY_LAST = 0x4f,
};

struct net_message {
    struct id peer;       /* sender of a received one, recipient of one to send */
    struct net_addr addr; /* where it came from or goes to */
    uint8_t kind;
    size_t body_len;
    uint8_t body[NET_BODY_MAX];
};

#endif
