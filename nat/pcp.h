/* The Port Control Protocol (RFC 6887), as far as a client needs it: the MAP request and its answer, when to
 * send again, and when a server has lost its state.  Pure functions; the socket is the caller's.
 *
 * One opcode, MAP, for IPv4 mappings and IPv6 pinholes alike; no options, no PEER, no ANNOUNCE.  A NAT-PMP
 * server (RFC 6886) on the same port answers in its own version 0, which decodes to ERR_VERSION. */
#ifndef DUNLIN_NAT_PCP_H
#define DUNLIN_NAT_PCP_H

#include "base/rng.h"
#include "net/addr.h"

enum {
    NAT_PCP_SERVER_PORT = 5351,
    NAT_PCP_NONCE_BYTES = 12,
    NAT_PCP_MAP_BYTES = 60,    /* header of 24 and opcode of 36 bytes, request and answer */
    NAT_PCP_PACKET_MAX = 1100, /* RFC 6887 s.7: nothing longer is valid */
    NAT_PCP_PROTOCOL_TCP = 6,  /* IANA protocol numbers */
    NAT_PCP_PROTOCOL_UDP = 17,
};

/* RFC 6887 s.7.4. */
enum nat_pcp_result {
    NAT_PCP_SUCCESS = 0,
    NAT_PCP_UNSUPP_VERSION = 1,
    NAT_PCP_NOT_AUTHORIZED = 2,
    NAT_PCP_MALFORMED_REQUEST = 3,
    NAT_PCP_UNSUPP_OPCODE = 4,
    NAT_PCP_UNSUPP_OPTION = 5,
    NAT_PCP_MALFORMED_OPTION = 6,
    NAT_PCP_NETWORK_FAILURE = 7,
    NAT_PCP_NO_RESOURCES = 8,
    NAT_PCP_UNSUPP_PROTOCOL = 9,
    NAT_PCP_USER_EX_QUOTA = 10,
    NAT_PCP_CANNOT_PROVIDE_EXTERNAL = 11,
    NAT_PCP_ADDRESS_MISMATCH = 12,
    NAT_PCP_EXCESSIVE_REMOTE_PEERS = 13,
};

struct nat_pcp_request {
    struct net_addr client; /* this host, exactly as the source of the packet; its port is the internal one */
    struct net_addr wanted; /* suggested outer address and port; NET_FAMILY_NONE: any */
    uint32_t lifetime_s;    /* 0: delete the mapping made with the same nonce */
    uint8_t nonce[NAT_PCP_NONCE_BYTES];
    uint8_t protocol; /* NAT_PCP_PROTOCOL_* */
};

struct nat_pcp_reply {
    struct net_addr external; /* meaningless unless result is NAT_PCP_SUCCESS; port and ip may still be 0 */
    uint32_t lifetime_s;      /* of the mapping, or of the error */
    uint32_t epoch_s;         /* the server's own time */
    uint16_t internal_port;
    uint8_t nonce[NAT_PCP_NONCE_BYTES];
    uint8_t protocol;
    uint8_t result; /* enum nat_pcp_result, or a number of a later RFC */
};

/* What was last heard of a server's clock; zeroed: nothing yet. */
struct nat_pcp_epoch {
    uint64_t heard_ns;
    uint32_t epoch_s;
    bool known;
};

/* Writes a MAP request; NAT_PCP_MAP_BYTES in all.  client must be of a family (asserted). */
void nat_pcp_encode(const struct nat_pcp_request *request, uint8_t out[NAT_PCP_MAP_BYTES]);
/* Reads the answer to a MAP request.  ERR_VERSION: the server speaks another version only; try NAT-PMP.
 * ERR_TRUNCATED, ERR_MALFORMED: not such an answer: ignore it and keep waiting. */
MUST_USE int nat_pcp_decode(struct bytes packet, struct nat_pcp_reply *out);
/* True when the reply belongs to the request: nonce, protocol and internal port (RFC 6887 s.11.4).  An error
 * answer to an unparseable request need not carry them; it is not believed then. */
bool nat_pcp_answers(const struct nat_pcp_reply *reply, const struct nat_pcp_request *request);

/* How long to wait for an answer before sending again: previous_ns is the last wait, 0 for the first
 * (RFC 6887 s.8.1.1: 3 s, doubled up to 1024 s, each off by up to 10 % at random). */
uint64_t nat_pcp_wait_ns(const struct rng *rng, uint64_t previous_ns);
/* How long to wait before asking for a mapping again, given what is left of its life: between a half and five
 * eighths of it, at least 4 s (RFC 6887 s.11.2.1). */
uint64_t nat_pcp_renew_ns(const struct rng *rng, uint64_t left_ns);
/* Notes the epoch of an answer.  false: the server has restarted or lost its state since the last one, so
 * every mapping there must be asked for again (RFC 6887 s.8.5). */
bool nat_pcp_epoch_check(struct nat_pcp_epoch *epoch, uint64_t now_ns, uint32_t epoch_s);

#endif
