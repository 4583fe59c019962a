/* Port mappings on the router in front of us: which to ask for, by which protocol, when again, what to
 * believe.
 *
 * The UDP port and the TCP port of the same number are mapped by whichever of PCP, NAT-PMP and UPnP IGD
 * answers first; on IPv6 a pinhole is asked for by PCP.  What it is not: it speaks none of these protocols.
 * Commands come out (nat_portmap_poll_command), node/portmap_thread.h carries them out and hands results in
 * (nat_portmap_result); each command gets exactly one result.
 *
 * Routers lie: they grant port 0, addresses of an inner network, other ports than asked, or nothing at all
 * behind a "success".  So a mapping is a *candidate* until somebody outside dialled it: the caller does that
 * and says nat_portmap_verdict.  A refuted mapping is deleted and the next protocol tried.
 *
 * Life of one family (v4: three protocols, v6: one); functions of portmap.c name the transitions:
 *
 *                    +------------------- back-off over, network changed ----------------+
 *                    v                                                                   |
 *     OFF --start-> RACING --first grant--> SETTLED --expired or refuted, others left--> RACING
 *                    |                        |                                          ^
 *                    +------ all failed ------+--> WAITING (30 s doubling to 1 h) -------+
 *
 * RACING: protocols start half a second apart, the next at once when one fails.  SETTLED: one protocol holds
 * the UDP mapping, and TCP is asked of it too; renewed at half life, then at half of what is left.
 *
 * Driver: after each input drain events, then commands, then re-arm one timer from nat_portmap_deadline_ns.
 * A plain struct; no allocation, no secrets but the nonces. */
#ifndef DUNLIN_NAT_PORTMAP_H
#define DUNLIN_NAT_PORTMAP_H

#include "base/rng.h"
#include "nat/pcp.h"
#include "net/addr.h"

enum nat_portmap_protocol {
    NAT_PORTMAP_PCP,    /* RFC 6887 over IPv4 */
    NAT_PORTMAP_NATPMP, /* RFC 6886 */
    NAT_PORTMAP_UPNP,   /* UPnP Internet Gateway Device, IPv4 */
    NAT_PORTMAP_PCP6,   /* RFC 6887 over IPv6: a pinhole in a firewall */
    NAT_PORTMAP_PROTOCOLS,
};

enum nat_portmap_transport { NAT_PORTMAP_UDP, NAT_PORTMAP_TCP, NAT_PORTMAP_TRANSPORTS };

enum {
    NAT_PORTMAP_LIFETIME_S = 7200,   /* asked for; longer grants, and endless ones, count as this */
    NAT_PORTMAP_LIFETIME_MIN_S = 30, /* shorter grants are refused: renewing would never end */
    NAT_PORTMAP_SLOTS = NAT_PORTMAP_PROTOCOLS * NAT_PORTMAP_TRANSPORTS, /* also: commands out at once */
};

struct nat_portmap_config {
    struct rng rng;
    uint16_t port;      /* internal port, UDP and TCP */
    unsigned protocols; /* bits 1 << enum nat_portmap_protocol */
    bool tcp;           /* map TCP as well */
};

enum nat_portmap_op {
    NAT_PORTMAP_ADD, /* or renew: the same mapping again */
    NAT_PORTMAP_DELETE,
};

struct nat_portmap_command {
    uint32_t token; /* comes back with the result */
    enum nat_portmap_op op;
    enum nat_portmap_protocol protocol;
    enum nat_portmap_transport transport;
    struct net_addr external; /* ADD: suggestion, or NET_FAMILY_NONE.  DELETE: what was granted */
    uint32_t lifetime_s;      /* ADD */
    uint16_t port;            /* internal */
    uint8_t nonce[NAT_PCP_NONCE_BYTES];
};

struct nat_portmap_result {
    uint32_t token;
    /* ERR_OK; ERR_TIMEOUT: nobody answers, ERR_UNREACHABLE: no gateway, ERR_REFUSED: by the router, ERR_FULL:
     * its table, ERR_VERSION, ERR_MALFORMED, ERR_UNSUPPORTED, ERR_CANCELLED: ending, ERR_IO. */
    int error;
    int detail;               /* the protocol's own code behind error, for people; 0: none */
    struct net_addr external; /* as the router says, unchecked */
    uint32_t lifetime_s;      /* granted; 0: endless */
    uint32_t epoch_s;
    bool epoch_known; /* PCP and NAT-PMP */
};

enum nat_portmap_event_type {
    NAT_PORTMAP_CANDIDATE,  /* addr leads here, says the router: have it dialled, then say the verdict */
    NAT_PORTMAP_GONE,       /* addr no longer does */
    NAT_PORTMAP_BEHIND_NAT, /* the router's own outer address, addr, is private: another NAT follows */
    NAT_PORTMAP_FAILED,     /* no protocol of this family gave a mapping; tried again later */
};

struct nat_portmap_event {
    enum nat_portmap_event_type type;
    enum nat_portmap_protocol protocol; /* FAILED: the last one tried */
    enum nat_portmap_transport transport;
    struct net_addr addr;
    uint32_t lifetime_s;
    int error; /* FAILED: why, of the last one tried */
};

enum nat_portmap_standing {
    NAT_PORTMAP_UNVERIFIED, /* nobody has dialled it yet */
    NAT_PORTMAP_VERIFIED,   /* somebody outside reached it */
    NAT_PORTMAP_REFUTED,    /* dialled in vain, and given up for that */
    NAT_PORTMAP_INNER,      /* held, but leads to another NAT */
};

/* One protocol and transport, for people and tests. */
struct nat_portmap_info {
    enum nat_portmap_protocol protocol;
    enum nat_portmap_transport transport;
    bool held; /* the router has granted addr and we keep it */
    enum nat_portmap_standing standing;
    struct net_addr addr;
    uint64_t expires_ns;
    int error; /* of the last attempt; ERR_OK: none */
    int detail;
};

/* Private: portmap.c only. */
struct nat_portmap_slot {
    uint8_t state;    /* enum slot_state */
    uint8_t standing; /* enum nat_portmap_standing */
    bool due;         /* a command for state waits to be polled */
    bool inner_due;   /* BEHIND_NAT waits to be polled */
    bool drop;        /* delete it when the command that is out has come back */
    struct net_addr external;
    struct net_addr reported; /* as CANDIDATE */
    uint64_t expires_ns;
    uint64_t renew_ns;
    uint32_t token;
    int error, detail;
    uint8_t nonce[NAT_PCP_NONCE_BYTES];
};

struct nat_portmap_family {
    uint8_t state;   /* enum family_state */
    uint8_t winner;  /* enum nat_portmap_protocol; SETTLED only */
    uint8_t tried;   /* bits of protocols started in this race */
    uint8_t refuted; /* bits of protocols whose mapping was dialled in vain, until WAITING ends */
    bool fragile;    /* the network changed: one failed renewal is enough */
    bool failed_due; /* FAILED waits to be polled */
    enum nat_portmap_protocol failed; /* for it */
    uint32_t rounds;                  /* races in a row that failed */
    uint64_t next_ns;                 /* RACING: start of the next protocol; WAITING: of the next race */
};

struct nat_portmap {
    struct nat_portmap_config config;
    struct nat_portmap_slot slots[NAT_PORTMAP_PROTOCOLS][NAT_PORTMAP_TRANSPORTS];
    struct nat_portmap_family families[2]; /* v4, v6 */
    struct nat_pcp_epoch epochs[NAT_PORTMAP_PROTOCOLS];
    uint32_t next_token;
    bool stopped;
};

/* All four protocols, UDP and TCP.  rng and port are the caller's. */
struct nat_portmap_config nat_portmap_config_default(void);
/* Nothing runs until nat_portmap_start.  port must not be 0 and rng must be set (asserted); copies config. */
void nat_portmap_init(struct nat_portmap *portmap, const struct nat_portmap_config *config);
/* Begins the first race.  Also after nat_portmap_stop. */
void nat_portmap_start(struct nat_portmap *portmap, uint64_t now_ns);
/* An interface or route has changed: what is held is asked for again, at once, and given up when that fails;
 * waiting families race again.  Call it once things have been quiet for a second, not for each of a flurry.
 */
void nat_portmap_network_changed(struct nat_portmap *portmap, uint64_t now_ns);
/* Gives up everything: DELETE commands follow, and GONE.  Carry the commands out for as long as you can wait;
 * what is not deleted expires on the router. */
void nat_portmap_stop(struct nat_portmap *portmap, uint64_t now_ns);
/* False: commands wait to be polled or answered. */
bool nat_portmap_idle(const struct nat_portmap *portmap);

/* Somebody outside dialled addr and got through, or several did in vain.  A reachable one stays VERIFIED
 * until it goes; a refuted one is deleted, and the next protocol's turn comes.  ERR_NOT_FOUND: no such
 * candidate (any more): ignore. */
MUST_USE int nat_portmap_verdict(struct nat_portmap *portmap, uint64_t now_ns, const struct net_addr *addr,
                                 enum nat_portmap_transport transport, bool reachable);
/* The answer to a command.  ERR_NOT_FOUND: no command with this token is out: ignore. */
MUST_USE int nat_portmap_result(struct nat_portmap *portmap, uint64_t now_ns,
                                const struct nat_portmap_result *result);
/* Lets time pass. */
void nat_portmap_tick(struct nat_portmap *portmap, uint64_t now_ns);
/* When to tick next; UINT64_MAX: never. */
uint64_t nat_portmap_deadline_ns(const struct nat_portmap *portmap);
/* Next event; false: none. */
bool nat_portmap_poll_event(struct nat_portmap *portmap, struct nat_portmap_event *out);
/* Next command; false: none. */
bool nat_portmap_poll_command(struct nat_portmap *portmap, struct nat_portmap_command *out);

/* Every slot in use or tried, at most NAT_PORTMAP_SLOTS; returns how many. */
size_t nat_portmap_list(const struct nat_portmap *portmap, struct nat_portmap_info out[NAT_PORTMAP_SLOTS]);
/* "PCP", "NAT-PMP", "UPnP", "PCP on IPv6"; static. */
const char *nat_portmap_protocol_name(enum nat_portmap_protocol protocol);
/* Asserts every internal relation; for tests and fuzzers. */
void nat_portmap_check_invariants(const struct nat_portmap *portmap);

#endif
