/* The path layer: which address reaches a peer now.
 *
 * QUIC sees one synthetic address per peer; this core chooses the real one underneath.  It probes every
 * candidate address of a peer with sealed datagrams, keeps the best that answers, notices a dead one within a
 * few hundred milliseconds while data is in flight, and follows a peer whose address changes.  A route is a
 * net_addr: its `via` says by which of our sockets, TCP links or relay sessions, so the same address by
 * another way is another route.
 *
 * What it is not: it opens no socket and no relay session, negotiates no hole (nat/punch) and exchanges no
 * candidates with the peer (node/ learns them from the DHT, the LAN and observed.h).
 *
 * Preference: any direct UDP route, then TCP, then relayed, whatever the round trips; among UDP routes
 * private ones first, then the faster, IPv6 counting as 3 ms faster.  All are probed at once.
 *
 * A new address is believed only so: (a) an authentic datagram came from it; (b) our own probe goes there, at
 * most one per 50 ms and peer; (c) the answer to that probe comes from the same address.  So a replayed or
 * redirected datagram never diverts traffic.  Both ends answer on the address a probe came from, with no more
 * bytes than it.
 *
 * States of a candidate (functions of path.c name the transitions):
 *
 *     CANDIDATE --probe sent--> PROBING --answer--> ANSWERING --chosen--> ACTIVE <--anything heard-- SUSPECT
 *                                  |                 ^     |                 |                         ^  |
 *                                  | 8 unanswered    |     | probes          +---- silence ------------+  |
 *                                  v                 |     v unanswered                                   |
 *                                 DEAD <----answer---+--- DEAD <-------- still silent, 3 more probes -----+
 *
 * CANDIDATE, PROBING: never answered or used.  ANSWERING: a standby.  ACTIVE or SUSPECT: the route in use,
 * one per peer at most.  DEAD: probed rarely, or forgotten: if punched and never answered, or by a socket of
 * its own, after a minute.
 *
 * Driver: after each input drain nat_path_poll_event, then nat_path_poll_send, then re-arm one timer from
 * nat_path_deadline_ns.  Single-threaded, no allocation after init. */
#ifndef DUNLIN_NAT_PATH_H
#define DUNLIN_NAT_PATH_H

#include "base/rng.h"
#include "base/trace.h"
#include "net/message.h"

enum {
    NAT_PATH_PEERS_MAX = 512,
    NAT_PATH_CANDIDATES_MAX = 12, /* per peer */
    NAT_PATH_OFFERED_MAX = 10,    /* of them offered by the caller: leaves room to follow a peer that moves */
    NAT_PATH_LEARNT_MAX = 6,      /* of them learnt from sources: leaves room for those offered */
    NAT_PATH_RELAYED_MAX = 3,     /* of them by relays */
    NAT_PATH_TCP_MAX = 2,         /* by TCP links */
    NAT_PATH_AUX_MAX = 3,         /* by auxiliary sockets */
    NAT_PATH_ANSWERS_MAX = 64,    /* probe answers waiting to be sent; beyond it they are dropped */
    NAT_PATH_REPORTS_MAX = 64,    /* observed-address events waiting; beyond it new ones are dropped */
    NAT_PATH_NOTICES_MAX = 192,   /* those and the ends of unwanted peers, at most 128 of them */
    NAT_PATH_TRACE_MAX = 32,      /* entries kept per wanted peer */
};

enum nat_route_kind {
    NAT_ROUTE_NONE,    /* of nat_path_trace and nat_path_route_kind only */
    NAT_ROUTE_LAN,     /* found on the local network, or learnt from a private or loopback source */
    NAT_ROUTE_DIRECT6, /* published by the peer */
    NAT_ROUTE_DIRECT4,
    NAT_ROUTE_MAPPED,  /* published, and held open by a port mapping of its router */
    NAT_ROUTE_PUNCHED, /* offered by nat/punch, or learnt from a datagram's source */
    NAT_ROUTE_TCP,     /* exactly the routes with via NET_VIA_TCP_* */
    NAT_ROUTE_RELAYED, /* exactly the routes with via NET_VIA_RELAY_* */
};

enum nat_route_state { NAT_CANDIDATE, NAT_PROBING, NAT_ANSWERING, NAT_ACTIVE, NAT_SUSPECT, NAT_DEAD };

struct nat_path_config {
    struct id self;
    struct rng rng;
    struct trace_sink trace;
    size_t peers_max;         /* 1..NAT_PATH_PEERS_MAX */
    uint64_t active_busy_ns;  /* probe interval of the route in use while data flows */
    uint64_t standby_busy_ns; /* of a standby meanwhile */
    uint64_t idle_ns;         /* of both without data, at first; grows as nat/README.md says */
    uint64_t suspect_ns;      /* of a suspect route */
    uint64_t hold_down_ns;    /* least time between two changes to a better route; doubles while flapping */
};

enum nat_path_event_type {
    NAT_PATH_ROUTE_UP,      /* peer is reachable at addr; before, it was not (also after DEAD: a revival).
                               Reset congestion state at once: QUIC backed off meanwhile */
    NAT_PATH_ROUTE_CHANGED, /* addr is used from now on instead of old: reset congestion state; at once if not
                               old_works, else max(rtt_ns, old_rtt_ns, 50 ms) later, so that no late packet
                               of the old route is measured as one of the new */
    NAT_PATH_ROUTE_DEAD,    /* no route is left; probing goes on */
    NAT_PATH_OBSERVED,      /* peer, at addr, sees this node at old: feed it to observed.h */
    NAT_PATH_AGEING,        /* addr, in use, has had 0.6 of the life of its mapping: punch from fresh sockets
                               and offer the result; it is used when it has answered twice */
    NAT_PATH_DOUBTFUL,   /* addr, in use, is suspect and a standby helps: have QUIC send what is answered */
    NAT_PATH_ROUTE_GONE, /* no candidate goes by the auxiliary socket addr.via (the rest of addr is zero,
                            and so is peer) any more: close it */
};

struct nat_path_event {
    enum nat_path_event_type type;
    struct id peer;
    struct net_addr addr;
    struct net_addr old;
    enum nat_route_kind kind; /* of addr, for UP, CHANGED and AGEING */
    bool old_works;           /* CHANGED: old still answers */
    uint64_t rtt_ns;          /* smoothed round trip of addr; 0 when there is no route */
    uint64_t old_rtt_ns;      /* CHANGED: of old; 0: forgotten */
};

/* One candidate, for people and tests. */
struct nat_path_info {
    struct net_addr addr;
    enum nat_route_kind kind;
    enum nat_route_state state;
    uint64_t rtt_ns;     /* 0: never answered */
    uint64_t keep_ns;    /* present idle probe interval */
    uint32_t unanswered; /* probes since the last answer */
};

enum nat_path_step {
    NAT_PATH_ADDED,    /* became a candidate */
    NAT_PATH_PROBED,   /* its first probe left */
    NAT_PATH_ANSWERED, /* its first answer, or the first after it was dead */
    NAT_PATH_ACTIVATED,
    NAT_PATH_SUSPECTED, /* once more: our own address has changed */
    NAT_PATH_DIED,
    NAT_PATH_DROPPED,
};

/* One entry of a peer's log. */
struct nat_path_trace {
    uint64_t time_ns;
    uint64_t rtt_ns; /* 0: never answered */
    struct net_addr addr;
    enum nat_path_step step;
    enum nat_route_kind kind;
    bool offered; /* by nat_path_candidate_add; else learnt from a datagram's source */
};

struct nat_path_stats {
    uint64_t probes_sent;
    uint64_t probes_answered; /* ours, by the peer */
    uint64_t answers_sent;
    uint64_t answers_dropped; /* queue full */
    uint64_t malformed;
    uint64_t unmatched; /* answers to no probe of ours, or from another address than probed */
    uint64_t changes;   /* of routes in use */
    uint64_t deaths;
    uint64_t suspicions;
    uint64_t false_suspicions; /* that something heard ended */
};

struct nat_path;

/* 512 peers; 200 ms, 1 s, 15 s, 20 ms, 1 s.  self and rng are the caller's. */
struct nat_path_config nat_path_config_default(void);
/* ERR_INVALID: a field is missing or out of range; *why (static text) says which. */
MUST_USE int nat_path_config_check(const struct nat_path_config *config, const char **why);

/* Bytes that nat_path_init needs: 6.4 KiB a peer (3.6 KiB of candidates for it and for a quarter more of
 * strangers, 1.8 KiB of log), 3.2 MiB for 512. */
size_t nat_path_size(const struct nat_path_config *config);
/* Places the core in the caller's memory (nat_path_size bytes, aligned to 16, borrowed until dropped).  The
 * config must pass nat_path_config_check (asserted) and is copied.  Holds no secrets worth wiping. */
struct nat_path *nat_path_init(void *memory, const struct nat_path_config *config);

/* Wants a route to peer until nat_path_peer_remove.  Adding twice is fine.  A probe from an unknown peer adds
 * it by itself, unwanted: such a peer goes when silent for a minute or when room is needed.  ERR_INVALID:
 * peer is this node.  ERR_FULL: peers_max are wanted already: remove one. */
MUST_USE int nat_path_peer_add(struct nat_path *path, uint64_t now_ns, const struct id *peer);
/* Forgets the peer; no event follows but ROUTE_GONE for its sockets.  Unknown peers are fine. */
void nat_path_peer_remove(struct nat_path *path, const struct id *peer);
/* Offers an address of a peer added before; it is probed at once.  Known addresses are fine (a DEAD one is
 * tried again, a learnt one takes the kind).  ERR_NOT_FOUND: no such peer.  ERR_INVALID: addr is no unicast
 * destination, or kind does not fit addr.via.  ERR_FULL: all candidates, or those of its sort, are in better
 * standing; drop the offer (and close its socket, session or link: no event follows). */
MUST_USE int nat_path_candidate_add(struct nat_path *path, uint64_t now_ns, const struct id *peer,
                                    const struct net_addr *addr, enum nat_route_kind kind);
/* A socket, TCP link or relay session of ours (not NET_VIA_MAIN) is closed: its candidates go at once,
 * without ROUTE_GONE, and the routes in use among them are dead.  O(candidates of all peers). */
void nat_path_via_closed(struct nat_path *path, uint64_t now_ns, uint16_t via);
/* Our own address or way out has changed: every route in use is suspect (anew) until something is heard by
 * it, so that packets go by a standby as well, and all are probed at once.  O(candidates of all peers). */
void nat_path_moved(struct nat_path *path, uint64_t now_ns);
/* A relay has learnt of it: what went through it meanwhile is lost, and suspect routes ask by it anew. */
void nat_path_relay_moved(struct nat_path *path, uint64_t now_ns);
/* Both sides are told to open their NATs for each other: unanswered candidates are probed every 30 ms for 5
 * s. ERR_NOT_FOUND: no such peer. */
MUST_USE int nat_path_punch(struct nat_path *path, uint64_t now_ns, const struct id *peer);
/* A mapping of our own NAT ends at this age even when used (nat/reach found it); 0: none known.  Routes by
 * the main socket are ageing from the first, since its mapping is older than they.  Without it, two punched
 * routes that died in use at about the same age set it.  Probes tell the peer which ways are ageing, so that
 * it leaves them too: set it on the side whose NAT it is.  ERR_NOT_FOUND: no such peer.  ERR_INVALID: neither
 * 0 nor 5 s to 7 days. */
MUST_USE int nat_path_set_life(struct nat_path *path, uint64_t now_ns, const struct id *peer,
                               uint64_t life_ns);
/* The longest idle probe interval that this network's NATs bear, learnt from routes that died idle; 0: none
 * died yet.  Keep it per network and give it back after a restart, or 0 after a change of network. */
uint64_t nat_path_keepalive(const struct nat_path *path);
/* Clamped to 5..120 s; 0 forgets.  Intervals in use shrink with the next probe. */
void nat_path_set_keepalive(struct nat_path *path, uint64_t keepalive_ns);

/* A sealed datagram of peer that net_seal_open accepted came from addr.  O(1); call it for each. */
void nat_path_heard(struct nat_path *path, uint64_t now_ns, const struct id *peer,
                    const struct net_addr *addr);
/* The same for a QUIC packet.  It goes by the route that its sender uses, probes by all: where QUIC begins to
 * come by another, and ours is silent for 10 ms more, ours becomes suspect, once a second at most. */
void nat_path_carried(struct nat_path *path, uint64_t now_ns, const struct id *peer,
                      const struct net_addr *addr);
/* Bytes in flight to the peer, or that came from it since the last call, whichever are more; call it at least
 * every 200 ms while there are any, and once with 0.  Above 4 KiB is busy.  Good for a second. */
void nat_path_busy(struct nat_path *path, uint64_t now_ns, const struct id *peer, uint64_t bytes_in_flight);
/* A message of kind NET_KIND_PROBE or NET_KIND_PROBE_ANSWER (asserted), opened by net/seal.  Includes what
 * nat_path_heard does.  ERR_MALFORMED: drop.  ERR_REFUSED: it claims to be from this node, or answers no
 * probe of ours: drop.  ERR_FULL: too many answers wait, or no room for the peer: it will ask again. */
MUST_USE int nat_path_recv(struct nat_path *path, uint64_t now_ns, const struct net_message *message);
/* Lets time pass.  Bounded by the number of candidates. */
void nat_path_tick(struct nat_path *path, uint64_t now_ns);
/* When to tick next; UINT64_MAX: never. */
uint64_t nat_path_deadline_ns(const struct nat_path *path);
/* Next event; false: none.  A change there and back between two drains is not reported. */
bool nat_path_poll_event(struct nat_path *path, struct nat_path_event *out);
/* Next probe or answer to seal and send to out->addr; false: none. */
bool nat_path_poll_send(struct nat_path *path, uint64_t now_ns, struct net_message *out);

/* The address to send to.  ERR_NOT_FOUND: no such peer.  ERR_UNREACHABLE: none answers now; wait for
 * ROUTE_UP. */
MUST_USE int nat_path_route(const struct nat_path *path, const struct id *peer, struct net_addr *addr);
/* Where to send each packet: 1 route, or 2 while the one in use is suspect and a standby answered within 2 s
 * before or since: the packet goes both ways, so that no gap waits for the verdict.  0: none, as
 * nat_path_route.  Doubles what is sent for 1.5 round trips + 70 ms a suspicion at most. */
size_t nat_path_routes(const struct nat_path *path, const struct id *peer, struct net_addr out[2]);
/* The route in use and its kind.  Errors as nat_path_route; then *kind is NAT_ROUTE_NONE. */
MUST_USE int nat_path_route_kind(const struct nat_path *path, const struct id *peer, struct net_addr *addr,
                                 enum nat_route_kind *kind);
/* lan, direct6, direct4, mapped, punched, tcp, relayed, or none. */
const char *nat_route_kind_text(enum nat_route_kind kind);
/* The peer that proved to be at addr (it answered our probe from there), else the one whose authentic
 * datagram came from there last: lets QUIC accept a first packet.  ERR_NOT_FOUND: nobody did. */
MUST_USE int nat_path_peer_at(const struct nat_path *path, const struct net_addr *addr, struct id *peer);
/* Candidates of a peer, at most cap; returns how many, or ERR_NOT_FOUND. */
MUST_USE int nat_path_candidates(const struct nat_path *path, const struct id *peer,
                                 struct nat_path_info out[], size_t cap);
/* The last entries of a wanted peer's log, oldest first, at most cap; returns how many, or ERR_NOT_FOUND. */
MUST_USE int nat_path_trace(const struct nat_path *path, const struct id *peer, struct nat_path_trace out[],
                            size_t cap);
/* added, probed, answered, active, suspect, dead or gone. */
const char *nat_path_step_text(enum nat_path_step step);
struct nat_path_stats nat_path_stats(const struct nat_path *path);
/* Asserts every internal relation; for tests, fuzzers and the simulator.  O(peers). */
void nat_path_check_invariants(const struct nat_path *path);

#endif
