/* What our own NAT does, found out with the help of ordinary peers, and the same help for others.
 *
 * No server is special: every publicly addressed node is an observer and a helper.  Three questions:
 *
 *  - Survey: from a fresh socket, ask observers in distinct networks at which address they see it.  Their
 *    answers show whether the NAT gives one outer port to all destinations, one for each in constant steps,
 *    or random ones (RFC 4787 s.4.1).  A minority that lies changes nothing.
 *  - Life: while punched routes are in use, the main socket asks one observer every few seconds.  Its outer
 *    port changing under steady traffic is a mapping that ended; a second observer must see the same.
 *  - Dial-back: a helper sends to an address of ours from a port we never wrote to, and has a third node, to
 *    which we never wrote at all, do the same.  What arrives shows what the NAT or firewall lets in
 *    (RFC 4787 s.5) and whether strangers reach us.  A node never writes to an IP other than the one that
 *    asked, and all that it causes is no larger than the request.
 *
 * What it is not: it opens no socket, maps no port and chooses no address; node/ carries its events.  IPv4
 * and IPv6 are apart throughout.  Messages: docs/protocol/reach.md.
 *
 * Driver: after each input drain nat_reach_poll_event, then nat_reach_poll_send, then re-arm one timer from
 * nat_reach_deadline_ns.  Single-threaded, no allocation after init. */
#ifndef DUNLIN_NAT_REACH_H
#define DUNLIN_NAT_REACH_H

#include "base/rng.h"
#include "base/trace.h"
#include "nat/observed.h"
#include "net/message.h"

enum {
    NAT_REACH_OBSERVERS_MAX = 32, /* per family, at most 3 of one network */
    NAT_REACH_HELPERS_MAX = 64,   /* both families */
    NAT_REACH_LOCALS_MAX = 16,    /* interface addresses */
    NAT_REACH_ADDRS_MAX = 8,      /* own addresses under verification */
    NAT_REACH_SEEN_MAX = 16,      /* SEEN events waiting; beyond it they are dropped and counted */
    NAT_REACH_TEXT_MAX = 200,     /* of nat_reach_describe, with the terminator */
};

enum nat_reach_mapping {
    NAT_REACH_MAPPING_UNKNOWN,      /* not enough observers answered: needs another peer */
    NAT_REACH_MAPPING_NONE,         /* observers see the address of our own interface */
    NAT_REACH_MAPPING_INDEPENDENT,  /* one outer port for all destinations */
    NAT_REACH_MAPPING_ADDRESS,      /* one for each destination address */
    NAT_REACH_MAPPING_ADDRESS_PORT, /* one for each destination address and port; also when only that or the
                                       one before is known (pair_known false) */
};

enum nat_reach_filtering {
    NAT_REACH_FILTERING_UNKNOWN,
    NAT_REACH_FILTERING_INDEPENDENT,  /* lets in anyone */
    NAT_REACH_FILTERING_ADDRESS,      /* only addresses written to before; or nobody else could try */
    NAT_REACH_FILTERING_ADDRESS_PORT, /* only address and port written to before */
};

enum nat_reach_verdict { NAT_REACH_UNKNOWN, NAT_REACH_REACHABLE, NAT_REACH_UNREACHABLE };

enum nat_reach_why {
    NAT_REACH_WHY_PROVEN,      /* helpers agree */
    NAT_REACH_WHY_PENDING,     /* attempts are under way */
    NAT_REACH_WHY_NO_HELPER,   /* too few live helpers: needs more peers; tried again as they come */
    NAT_REACH_WHY_NO_STRANGER, /* every node that could try is one we have written to; REACHABLE all the same
                                  when fresh ports of theirs get in and the address is an interface's or
                                  forwarded */
    NAT_REACH_WHY_ADDRESS,     /* helpers see us at another IP than the one to be proven */
    NAT_REACH_WHY_DISAGREE,    /* helpers contradict each other */
};

/* What is known of one family. */
struct nat_reach_profile {
    enum nat_reach_mapping mapping;
    int step;            /* of ADDRESS, ADDRESS_PORT: constant difference of successive ports, -16..16 without
                            0; 0: random, or not constant */
    uint16_t trend_port; /* outer port given out last; 0: never seen */
    uint64_t trend_ns;   /* when */
    struct net_addr outer; /* IP that most observers see, port 0; family NET_FAMILY_NONE: unknown */
    bool port_preserved;   /* the outer port equals the socket's own (towards the first destination) */
    bool pair_known;       /* ADDRESS and ADDRESS_PORT were told apart */
    bool address_varies;   /* honest observers see several outer IPs: a pool, or two uplinks */
    bool main_differs;     /* nat/observed sees the main socket vary though fresh ones do not: another host
                              behind the NAT has the same local port; a new local port helps */
    size_t observers;      /* that answered in the last survey */
    uint64_t surveyed_ns;  /* its end; 0: never */
    uint64_t life_ns;      /* lower bound of a mapping's life however busy it is; 0: not known to end */
    enum nat_reach_filtering filtering; /* of the last address verified that is no forwarded port */
    enum nat_reach_verdict reachable;   /* best of this family's addresses: strangers reach one */
};

struct nat_reach_config {
    struct id self;
    struct rng rng;
    struct trace_sink trace;
    bool serve;             /* answer dial-backs: set on nodes with a public address; nat_reach_serve */
    size_t agree;           /* distinct helpers for a verdict, 1..4 */
    uint64_t survey_ns;     /* between surveys, with jitter of a quarter */
    uint64_t verify_ns;     /* between verifications of an address, likewise */
    uint64_t aux_life_ns;   /* a dial-back socket is changed after this */
    uint32_t observe_per_s; /* OBSERVE answered, in all; a tenth of it per /24 or /56 */
    uint32_t dial_per_s; /* dial-backs done for others, in all; a tenth of it per /24 or /56 of the target */
};

enum nat_reach_event_type {
    NAT_REACH_SOCKETS_WANTED, /* open `count` UDP sockets on fresh ports, call nat_reach_sockets with token */
    NAT_REACH_SOCKET_RELEASE, /* close via */
    NAT_REACH_PROFILE,        /* the family's profile changed, or a survey asked for is done */
    NAT_REACH_VERDICT,        /* addr is reachable by strangers, or not, or unknown and why */
    NAT_REACH_SEEN,           /* observer `from` sees the main socket at addr: nat_observed_report */
};

struct nat_reach_event {
    enum nat_reach_event_type type;
    uint8_t family;       /* enum net_family: SOCKETS_WANTED, PROFILE */
    uint16_t via;         /* SOCKET_RELEASE */
    uint32_t token;       /* SOCKETS_WANTED */
    size_t count;         /* SOCKETS_WANTED */
    struct net_addr addr; /* VERDICT, SEEN */
    struct net_addr from; /* SEEN */
    enum nat_reach_verdict verdict;
    enum nat_reach_why why;
    enum nat_reach_filtering filtering; /* VERDICT: as seen at this address */
};

/* A socket that node/ opened for us. */
struct nat_reach_socket {
    uint16_t via;  /* NET_VIA_AUX_* */
    uint16_t port; /* it is bound to; 0: not known */
};

/* Everything that is counted: X(name, text for people). */
#define NAT_REACH_STATS(X)                                                                                   \
    X(surveys, "surveys finished")                                                                           \
    X(observes_sent, "observation requests sent")                                                            \
    X(observes_answered, "of them answered")                                                                 \
    X(verdicts, "verdicts on own addresses")                                                                 \
    X(attempts, "dial-backs asked for")                                                                      \
    X(served_observe, "observations given")                                                                  \
    X(served_dial, "dial-backs done for others")                                                             \
    X(served_forward, "dial-backs done on behalf of a helper")                                               \
    X(probes_sent, "dial-back probes sent")                                                                  \
    X(refused_address, "refused: dial-back to another IP than the asker's")                                  \
    X(refused_rate, "refused: rate limit")                                                                   \
    X(refused_stranger, "refused: forwarded by a node nobody vouched for")                                   \
    X(dropped_malformed, "dropped: malformed")                                                               \
    X(dropped_unmatched, "dropped: answer to nothing we asked")                                              \
    X(dropped_full, "dropped: queue full")

struct nat_reach_stats {
#define X(name, text) uint64_t name;
    NAT_REACH_STATS(X)
#undef X
};

struct nat_reach;

/* agree 3, surveys 10 min, verification 20 min, dial-back sockets 2 min, 200 and 20 a second; serve false.
 * self and rng are the caller's. */
struct nat_reach_config nat_reach_config_default(void);
/* ERR_INVALID: a field is missing or out of range; *why (static text) says which. */
MUST_USE int nat_reach_config_check(const struct nat_reach_config *config, const char **why);

/* Bytes that nat_reach_init needs: about 132 KiB. */
size_t nat_reach_size(const struct nat_reach_config *config);
/* Places a core in the caller's memory (at least nat_reach_size bytes, aligned to 16, the caller's to free
 * after the last call).  The config must pass nat_reach_config_check (asserted) and is copied. */
struct nat_reach *nat_reach_init(void *memory, const struct nat_reach_config *config, uint64_t now_ns);

/* ---- what node/ knows ---- */

/* A peer with a public address that answers sealed datagrams; again whenever it is heard from.  Choose them
 * from many sources: who fills this table decides what the surveys say.  ERR_REFUSED: no global address, or
 * not by the main socket.  ERR_FULL: enough are known. */
MUST_USE int nat_reach_observer(struct nat_reach *reach, uint64_t now_ns, const struct id *id,
                                const struct net_addr *addr);
/* A live public peer that we vouch for: dial-backs are passed on to it, and accepted from it.  Lasts 30 min.
 * Errors as above. */
MUST_USE int nat_reach_helper(struct nat_reach *reach, uint64_t now_ns, const struct id *id,
                              const struct net_addr *addr);
/* Forgets the peer as observer and helper. */
void nat_reach_peer_gone(struct nat_reach *reach, const struct id *id);
/* Our interface addresses, all of them (ports do not matter); those beyond NAT_REACH_LOCALS_MAX are ignored.
 * Surveys anew when they changed. */
void nat_reach_locals(struct nat_reach *reach, uint64_t now_ns, const struct net_addr addrs[], size_t count);
/* nat/observed's present view of the main socket: its global address of this family (family NET_FAMILY_NONE:
 * unknown), and how its port varies.  Surveys and verifies anew when the address changed. */
void nat_reach_observed(struct nat_reach *reach, uint64_t now_ns, enum net_family family,
                        const struct net_addr *addr, enum nat_mapping mapping);
/* A peer, at observer, saw the main socket at `seen` (probe answers): samples of the life of mappings. */
void nat_reach_seen(struct nat_reach *reach, uint64_t now_ns, const struct net_addr *observer,
                    const struct net_addr *seen);
/* The main socket sent to this address: its NAT lets answers from there in, so a dial-back from there proves
 * nothing for 5 minutes.  Call it for every destination of every datagram; about 35 ns when the
 * destination repeats, else 0.4 us. */
void nat_reach_contacted(struct nat_reach *reach, uint64_t now_ns, const struct net_addr *addr);
/* Whether to answer dial-backs. */
void nat_reach_serve(struct nat_reach *reach, bool serve);

/* ---- commands ---- */

/* Surveys both families as far as observers are known; a NAT_REACH_PROFILE each follows within one round trip
 * when all answer, 2 s at most.  Costs nothing when a survey is under way.  ERR_NOT_FOUND: no observer.
 * ERR_RATE: the last one ended less than 0.5 s ago, its profile is fresh. */
MUST_USE int nat_reach_survey(struct nat_reach *reach, uint64_t now_ns);
/* While on, mappings' life is measured: one OBSERVE every 2 s for a minute, then every 10 s. */
void nat_reach_watch(struct nat_reach *reach, uint64_t now_ns, bool on);
/* Verifies one of our addresses now, and again from time to time until nat_reach_forget; NAT_REACH_VERDICT
 * follows, again whenever it changes.  ERR_REFUSED: not global.  ERR_FULL: NAT_REACH_ADDRS_MAX are in hand.
 */
MUST_USE int nat_reach_verify(struct nat_reach *reach, uint64_t now_ns, const struct net_addr *addr);
void nat_reach_forget(struct nat_reach *reach, const struct net_addr *addr);

/* ---- inputs and outputs ---- */

/* Answers NAT_REACH_SOCKETS_WANTED; count 0: none could be opened.  Sockets that are not wanted any more are
 * released by events. */
void nat_reach_sockets(struct nat_reach *reach, uint64_t now_ns, uint32_t token,
                       const struct nat_reach_socket sockets[], size_t count);
/* An opened message of kind NET_KIND_REACH_FIRST..LAST (asserted), message->addr.via being the socket it came
 * by.  Errors are counted and need no reaction: ERR_MALFORMED, ERR_REFUSED, ERR_RATE, ERR_FULL,
 * ERR_UNSUPPORTED (a kind not in use). */
MUST_USE int nat_reach_recv(struct nat_reach *reach, uint64_t now_ns, const struct net_message *message);
void nat_reach_tick(struct nat_reach *reach, uint64_t now_ns);
uint64_t nat_reach_deadline_ns(const struct nat_reach *reach); /* UINT64_MAX: nothing pending */
bool nat_reach_poll_event(struct nat_reach *reach, struct nat_reach_event *out);
/* Next message to seal and to send to out->addr by out->addr.via; false: none. */
bool nat_reach_poll_send(struct nat_reach *reach, uint64_t now_ns, struct net_message *out);

/* ---- queries ---- */

/* What is known of the family, by value. */
struct nat_reach_profile nat_reach_profile(const struct nat_reach *reach, enum net_family family);
/* The verdict on an address.  ERR_NOT_FOUND: not under verification. */
MUST_USE int nat_reach_verdict_of(const struct nat_reach *reach, const struct net_addr *addr,
                                  enum nat_reach_verdict *verdict, enum nat_reach_why *why);
/* For people; static texts. */
const char *nat_reach_mapping_text(enum nat_reach_mapping mapping);
const char *nat_reach_filtering_text(enum nat_reach_filtering filtering);
const char *nat_reach_verdict_text(enum nat_reach_verdict verdict);
const char *nat_reach_why_text(enum nat_reach_why why);
/* One line: "port +1 for each destination, only peers written to get in, mappings last 20 s". */
void nat_reach_describe(const struct nat_reach_profile *profile, char text[NAT_REACH_TEXT_MAX]);
struct nat_reach_stats nat_reach_stats(const struct nat_reach *reach);
/* Asserts every internal relation; for tests and fuzzers. */
void nat_reach_check_invariants(const struct nat_reach *reach);

#endif
