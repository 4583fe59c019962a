/* Messages of nat/reach (docs/protocol/reach.md): bodies and back.  Pure, no state. */
#ifndef DUNLIN_NAT_REACH_WIRE_H
#define DUNLIN_NAT_REACH_WIRE_H

#include "net/message.h"

enum reach_kind {
    REACH_OBSERVE = NET_KIND_REACH_FIRST, /* at which address do you see me? */
    REACH_OBSERVED,
    REACH_DIALBACK,        /* send to this address of mine, from ports and by nodes I never wrote to */
    REACH_DIALBACK_PROBE,  /* what is then sent there */
    REACH_FORWARD,         /* helper to helper: send a probe there for me */
    REACH_DIALBACK_ANSWER, /* what was tried, or why nothing was */
};

/* Smallest bodies, by padding, so that all that a request causes is no larger than itself once sealed:
 * an answer to OBSERVE; an answer and six probes to DIALBACK; two probes to FORWARD. */
enum { REACH_OBSERVE_BODY = 40, REACH_DIALBACK_BODY = 880, REACH_FORWARD_BODY = 180 };

enum { REACH_FORWARDS_MAX = 2 }; /* strangers that one dial-back is passed on to */

enum reach_code {
    REACH_CODE_TRIED = 0,
    REACH_CODE_ADDRESS = 1, /* the address has another IP than the request */
    REACH_CODE_BUSY = 2,
    REACH_CODE_NO_SERVICE = 3,
};

struct reach_body {
    uint64_t nonce;       /* all kinds; answers and probes repeat the request's */
    struct net_addr addr; /* OBSERVED: as seen; DIALBACK, FORWARD: to be tried */
    uint16_t alternate;   /* OBSERVED: another port at which the sender answers OBSERVE; 0: none */
    struct id asker;      /* FORWARD: whom the probe is sealed for */
    uint8_t code;         /* DIALBACK_ANSWER: enum reach_code; unknown codes count as BUSY */
    bool tried_port;      /* DIALBACK_ANSWER: probes went from a fresh port of the sender */
    struct net_addr forwarded[REACH_FORWARDS_MAX]; /* DIALBACK_ANSWER: who else was to try */
    size_t forwarded_count;
};

/* Writes out->kind, body and body_len. */
void reach_write(struct net_message *out, uint8_t kind, const struct reach_body *body);
/* Reads the body of a message whose kind is one of enum reach_kind (asserted).  ERR_MALFORMED: a field is
 * missing or impossible, or a request is smaller than its padding makes it. */
MUST_USE int reach_read(const struct net_message *message, struct reach_body *body);

#endif
