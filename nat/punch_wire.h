/* Messages of hole punching, docs/protocol/punch.md: encoder and decoder, no state. */
#ifndef DUNLIN_NAT_PUNCH_WIRE_H
#define DUNLIN_NAT_PUNCH_WIRE_H

#include "nat/punch.h"

enum punch_kind {
    PUNCH_KIND_INVITE = 0x18,
    PUNCH_KIND_ANSWER = 0x19,
    PUNCH_KIND_GO = 0x1a, /* from the inviter: start; back: it was received */
    PUNCH_KIND_END = 0x1b,
    PUNCH_KIND_LOOK = 0x1c, /* at which address do you see me? */
    PUNCH_KIND_LOOK_ANSWER = 0x1d,
    PUNCH_KIND_PROBE = 0x1e,
    PUNCH_KIND_PROBE_ANSWER = 0x1f,
};

/* Fields of all kinds; each uses some (punch_wire.c). */
struct punch_message {
    uint8_t kind;
    uint64_t round;
    uint8_t attempt;
    struct nat_punch_profile profile; /* trend_ns is not carried */
    struct nat_punch_candidate candidates[NAT_PUNCH_CANDIDATES_MAX];
    size_t candidate_count;
    bool fresh;
    uint32_t held_ms;    /* ANSWER: time between INVITE and ANSWER that is no round trip */
    uint16_t trend_port; /* GO: 0 when not needed */
    uint8_t code;
    uint32_t sequence;
    struct net_addr addr; /* LOOK_ANSWER */
};

/* Writes the body and kind of out; the message must be valid (asserted). */
void punch_encode(const struct punch_message *message, struct net_message *out);
/* ERR_MALFORMED: drop; *out is undefined. */
MUST_USE int punch_decode(const struct net_message *message, struct punch_message *out);

#endif
