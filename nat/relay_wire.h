/* What a relay and its clients say to each other: messages, frame heads, and the relays in a peer's record.
 *
 * Control messages are sealed datagrams of kinds 0x40 to 0x4d with msgpack bodies; docs/protocol/relay.md has
 * every one with an example.  Data are frames: 8 bytes, then one opaque packet of the peers, which a relay
 * passes on unchanged.  Byte 0 is 0x20 plus the side of the sender (0 opened the session, 1 accepted it),
 * bytes 1 to 7 are the session's id, whose top bit is clear, so that a frame is never taken for QUIC or a
 * sealed datagram. Pure functions, no state. */
#ifndef DUNLIN_NAT_RELAY_WIRE_H
#define DUNLIN_NAT_RELAY_WIRE_H

#include "base/rng.h"
#include "net/message.h"

enum {
    NAT_RELAY_HEADER = 8,         /* bytes before the packet in a frame */
    NAT_RELAY_SESSION_BYTES = 7,  /* of a session's id on the wire */
    NAT_RELAY_NONCE = 8,          /* bytes by which a client proves its address */
    NAT_RELAY_KEEP_SESSIONS = 32, /* sessions named in one KEEP */
    NAT_RELAY_EXTRA_RELAYS = 2,   /* relays in a peer's record */
    NAT_RELAY_EXTRA_MAX = 104,    /* bytes that they take there at most */
    NAT_RELAY_EXTRA_VERSION = 1,
};

enum nat_relay_kind {
    NAT_RELAY_RESERVE = NET_KIND_RELAY_FIRST, /* client: hold a place for me, or give it back */
    NAT_RELAY_RESERVED,                       /* relay: held, on these terms */
    NAT_RELAY_OPEN,                           /* client: join me with this node */
    NAT_RELAY_OFFER,                          /* relay to the target: this node wants you */
    NAT_RELAY_ACCEPT,                         /* target */
    NAT_RELAY_DECLINE,                        /* target */
    NAT_RELAY_OPENED,                         /* relay to both: the session stands, on these terms */
    NAT_RELAY_REFUSED,                        /* relay: RESERVE, OPEN or ACCEPT is refused */
    NAT_RELAY_CLOSE,                          /* client: end the session, or: the NOTICE has come */
    NAT_RELAY_NOTICE,                         /* relay: the session has ended */
    NAT_RELAY_KEEP,                           /* client: I am here, with these sessions */
    NAT_RELAY_KEPT,                           /* relay: of those, these are gone */
    NAT_RELAY_PROVE,                          /* client: the nonce that came to my new address */
    NAT_RELAY_PROVEN,                         /* relay: frames go there from now on */
    NAT_RELAY_KIND_END,
};

/* Why something was refused or ended: X(name, value on the wire, text for people). */
#define NAT_RELAY_REASONS(X)                                                                                 \
    X(NONE, 0, "no reason given")                                                                            \
    X(OFF, 1, "the relay is switched off")                                                                   \
    X(FULL, 2, "the relay has no room")                                                                      \
    X(GROUP, 3, "too many of this network use the relay")                                                    \
    X(QUOTA, 4, "the volume of the period is used up")                                                       \
    X(NO_RESERVATION, 5, "the target holds no reservation there")                                            \
    X(DECLINED, 6, "the target declined")                                                                    \
    X(SILENT, 7, "the other end does not answer")                                                            \
    X(CLOSED, 8, "the other end closed it")                                                                  \
    X(EXPIRED, 9, "the reservation it stood on has ended")                                                   \
    X(REPLACED, 10, "opened anew by the same node")                                                          \
    X(UNKNOWN, 11, "the relay knows no such session")                                                        \
    X(RATE, 12, "too many requests")                                                                         \
    X(LOST, 13, "the relay does not answer")                                                                 \
    X(DROPPED, 14, "no longer wanted here")

enum nat_relay_reason {
#define X(name, value, text) NAT_RELAY_BY_##name = value,
    NAT_RELAY_REASONS(X)
#undef X
};

/* Text of a reason for people; static storage, never NULL (unknown values get "no reason given"). */
const char *nat_relay_reason_text(unsigned reason);

/* One control message; which fields count depends on the kind (docs/protocol/relay.md). */
struct nat_relay_message {
    uint8_t kind;     /* enum nat_relay_kind */
    uint32_t request; /* drawn by whoever asks; the answer repeats it.  0: none */
    uint64_t session; /* 55 bits; 0: none */
    struct id peer;   /* OPEN: the target; OFFER, OPENED: the other end */
    uint8_t reason;   /* enum nat_relay_reason, or a value of a later version */
    bool release;     /* RESERVE: give the place back */
    bool has_nonce;   /* the address is not proven yet: answer with PROVE */
    uint8_t nonce[NAT_RELAY_NONCE];
    uint32_t lease_s;
    uint64_t rate;   /* bytes per second, each way */
    uint64_t volume; /* bytes left in this period */
    struct net_addr
        seen; /* where the request came from; OPENED: where the other end is.  family 0: not given */
    uint8_t session_count;
    uint64_t sessions[NAT_RELAY_KEEP_SESSIONS]; /* KEEP: all of ours; KEPT: those that are gone */
};

/* Decodes the body of a message of kinds 0x40 to 0x4f.  ERR_MALFORMED: drop.  ERR_UNSUPPORTED: a kind of a
 * later version: drop.  *out is undefined then. */
MUST_USE int nat_relay_decode(const struct net_message *message, struct nat_relay_message *out);
/* Writes kind and body into *out; peer and addr are the caller's.  The message is well formed (asserted). */
void nat_relay_encode(const struct nat_relay_message *message, struct net_message *out);

/* Whether the first bytes can be a relay frame: neither QUIC nor sealed, at least a head and one byte. */
bool nat_relay_claims(struct bytes datagram);
/* The head of a frame. */
void nat_relay_head_write(uint8_t header[NAT_RELAY_HEADER], unsigned side, uint64_t session);
/* Side and session of a frame; the datagram must be one that nat_relay_claims (asserted). */
uint64_t nat_relay_head_read(struct bytes datagram, unsigned *side);
/* A random session id: 55 bits, never 0. */
uint64_t nat_relay_session_draw(const struct rng *rng);

/* A relay that a node behind a NAT holds a reservation on, as its record names it. */
struct nat_relay_place {
    struct id id;
    struct net_addr addr;
};

/* Writes up to two relays into the free bytes of a record: version 1, then for each 32 bytes of id, one of
 * address length (6 or 18) and the address.  Returns the length, at most NAT_RELAY_EXTRA_MAX; 0 when count is
 * 0.  count is at most NAT_RELAY_EXTRA_RELAYS (asserted). */
size_t nat_relay_extra_write(const struct nat_relay_place relays[], size_t count,
                             uint8_t out[NAT_RELAY_EXTRA_MAX]);
/* Reads them; returns how many, 0 for no bytes or a later version.  ERR_MALFORMED: cut short, trailing
 * bytes, or an address that is no unicast destination: ignore the bytes. */
MUST_USE int nat_relay_extra_read(struct bytes extra, struct nat_relay_place out[NAT_RELAY_EXTRA_RELAYS]);

#endif
