/* What was tried to reach peers, for `dunlin trace`: a ring of the node's last attempts that no core
 * remembers by itself (nat/path and nat/punch keep logs of their own).  Pure; no allocation. */
#ifndef DUNLIN_NODE_ATTEMPTS_H
#define DUNLIN_NODE_ATTEMPTS_H

#include "net/addr.h"

enum { ATTEMPTS_MAX = 1024 }; /* of all peers together; the oldest give way */

/* X(name, part that tried, what happened).  The code of a row, if it has one, is an ERR_ code, except for
 * LOOKUP_FOUND, where it is a number of addresses, and RELAY_FAILED and RELAY_DOWN, where it is an enum
 * nat_relay_reason. */
#define ATTEMPTS_LIST(X)                                                                                     \
    X(LOOKUP, "lookup", "the DHT is asked for its addresses")                                                \
    X(LOOKUP_FOUND, "lookup", "its record was found")                                                        \
    X(LOOKUP_FAILED, "lookup", "no record was found")                                                        \
    X(QUIC_DIAL, "quic", "handshake begun")                                                                  \
    X(QUIC_UP, "quic", "connected")                                                                          \
    X(QUIC_DOWN, "quic", "connection ended, or the handshake failed")                                        \
    X(RELAY_OPEN, "relay", "session asked for")                                                              \
    X(RELAY_OFFERED, "relay", "it asked for a session")                                                      \
    X(RELAY_UP, "relay", "session stands")                                                                   \
    X(RELAY_FAILED, "relay", "session did not come about")                                                   \
    X(RELAY_DOWN, "relay", "session ended")                                                                  \
    X(TCP_DIAL, "tcp", "link dialled")                                                                       \
    X(TCP_UP, "tcp", "link stands")                                                                          \
    X(TCP_DOWN, "tcp", "link ended, or was not to be had")                                                   \
    X(PUNCH_START, "punch", "round begun")                                                                   \
    X(PUNCH_HELD, "punch", "round not begun")

enum attempt_kind {
#define X(name, part, text) ATTEMPT_##name,
    ATTEMPTS_LIST(X)
#undef X
        ATTEMPT_KINDS
};

struct attempt {
    uint64_t time_ns;
    struct id peer;
    struct net_addr addr; /* of the link or relay; family NET_FAMILY_NONE: none */
    enum attempt_kind kind;
    int code; /* ERR_OK: none */
};

struct attempts {
    struct attempt ring[ATTEMPTS_MAX];
    size_t count; /* ever noted */
};

/* Notes one; addr may be NULL.  Copies.  The same thing again within a second replaces the one before: a dial
 * that fails at once, again and again, does not push out everything else.  O(1). */
void attempts_note(struct attempts *attempts, uint64_t now_ns, const struct id *peer, enum attempt_kind kind,
                   const struct net_addr *addr, int code);
/* The last ones about this peer, oldest first, at most cap; returns how many.  O(ATTEMPTS_MAX). */
size_t attempts_of(const struct attempts *attempts, const struct id *peer, struct attempt out[], size_t cap);
/* "relay"; "session stands".  Static. */
const char *attempt_part(enum attempt_kind kind);
const char *attempt_text(enum attempt_kind kind);

#endif
