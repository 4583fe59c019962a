/* The path layer: which address reaches a peer now.
 *
 * QUIC sees one synthetic address per peer; this core chooses the real one underneath.  It probes every
 * candidate address of a peer with sealed datagrams, keeps the best that answers, notices a dead one within a
 * few hundred milliseconds while data is in flight, and follows a peer whose address changes.
 *
 * What it is not: it opens no socket, exchanges no candidates with the peer (node/ learns them from the DHT,
 * the LAN and observed.h) and knows no relay yet.
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
 * CANDIDATE, PROBING: never answered, never used.  ANSWERING: a standby.  ACTIVE or SUSPECT: the route in
 * use, one per peer at most.  DEAD: probed rarely; an observed one that never answered is forgotten instead.
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
    NAT_PATH_CANDIDATES_MAX = 8, /* per peer */
    NAT_PATH_ANSWERS_MAX = 64,   /* probe answers waiting to be sent; beyond it they are dropped */
    NAT_PATH_REPORTS_MAX = 64,   /* observed-address events waiting; beyond it new ones are dropped */
    NAT_PATH_NOTICES_MAX = 192,  /* those and the ends of unwanted peers, at most 128 of them */
};

enum nat_route_kind {
    NAT_ROUTE_LAN = 1,     /* found on the local network, or loopback */
    NAT_ROUTE_DIRECT6 = 2, /* published by the peer */
    NAT_ROUTE_DIRECT4 = 3,
    NAT_ROUTE_OBSERVED = 4, /* learnt from a datagram's source: punched or moved */
    NAT_ROUTE_RELAYED = 5,  /* reserved: refused with ERR_UNSUPPORTED until relays exist */
};

enum nat_route_state { NAT_CANDIDATE, NAT_PROBING, NAT_ANSWERING, NAT_ACTIVE, NAT_SUSPECT, NAT_DEAD };

struct nat_path_config {
    struct id self;
    struct rng rng;
    struct trace_sink trace;
    size_t peers_max;         /* 1..NAT_PATH_PEERS_MAX */
    uint64_t active_busy_ns;  /* probe interval of the route in use while data flows */
    uint64_t standby_busy_ns; /* of a standby meanwhile */
    uint64_t idle_ns;         /* of both without data */
    uint64_t suspect_ns;      /* of a suspect route */
    uint64_t hold_down_ns;    /* least time between two changes to a better route; doubles while flapping */
};

enum nat_path_event_type {
    NAT_PATH_ROUTE_UP,      /* peer is reachable at addr; before, it was not (also after DEAD: a revival) */
    NAT_PATH_ROUTE_CHANGED, /* addr is used from now on instead of old: reset congestion state */
    NAT_PATH_ROUTE_DEAD,    /* no route is left; probing goes on */
    NAT_PATH_OBSERVED,      /* peer, at addr, sees this node at old: feed it to observed.h */
};

struct nat_path_event {
    enum nat_path_event_type type;
    struct id peer;
    struct net_addr addr;
    struct net_addr old;
    uint64_t rtt_ns; /* smoothed round trip of addr; 0 when there is no route */
};

/* One candidate, for people and tests. */
struct nat_path_info {
    struct net_addr addr;
    enum nat_route_kind kind;
    enum nat_route_state state;
    uint64_t rtt_ns;     /* 0: never answered */
    uint32_t unanswered; /* probes since the last answer */
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
};

struct nat_path;

/* 512 peers; 200 ms, 1 s, 15 s, 20 ms, 1 s.  self and rng are the caller's. */
struct nat_path_config nat_path_config_default(void);
/* ERR_INVALID: a field is missing or out of range; *why (static text) says which. */
MUST_USE int nat_path_config_check(const struct nat_path_config *config, const char **why);

/* Bytes that nat_path_init needs: about 2.5 KiB a peer. */
size_t nat_path_size(const struct nat_path_config *config);
/* Places the core in the caller's memory (nat_path_size bytes, aligned to 16, borrowed until dropped).  The
 * config must pass nat_path_config_check (asserted) and is copied.  Holds no secrets worth wiping. */
struct nat_path *nat_path_init(void *memory, const struct nat_path_config *config);

/* Wants a route to peer until nat_path_peer_remove.  Adding twice is fine.  A probe from an unknown peer adds
 * it by itself, unwanted: such a peer goes when silent for a minute or when room is needed.  ERR_INVALID:
 * peer is this node.  ERR_FULL: peers_max are wanted already: remove one. */
MUST_USE int nat_path_peer_add(struct nat_path *path, uint64_t now_ns, const struct id *peer);
/* Forgets the peer, silently: no event follows.  Unknown peers are fine. */
void nat_path_peer_remove(struct nat_path *path, const struct id *peer);
/* Offers an address of a peer added before; it is probed at once.  Known addresses are fine (a DEAD one is
 * tried again).  ERR_NOT_FOUND: no such peer.  ERR_INVALID: addr is no unicast destination.  ERR_UNSUPPORTED:
 * kind is NAT_ROUTE_RELAYED.  ERR_FULL: all candidates are in better standing; drop the offer. */
MUST_USE int nat_path_candidate_add(struct nat_path *path, uint64_t now_ns, const struct id *peer,
                                    const struct net_addr *addr, enum nat_route_kind kind);
/* Both sides are told to open their NATs for each other: unanswered candidates are probed every 30 ms for 5
 * s. ERR_NOT_FOUND: no such peer. */
MUST_USE int nat_path_punch(struct nat_path *path, uint64_t now_ns, const struct id *peer);

/* An authentic datagram of peer came from addr: a sealed one that net_seal_open accepted, or a QUIC packet
 * that the connection accepted.  O(1); call it for each. */
void nat_path_heard(struct nat_path *path, uint64_t now_ns, const struct id *peer,
                    const struct net_addr *addr);
/* Bytes in flight to the peer, as QUIC counts them; call it at least every 200 ms while there are any, and
 * once with 0.  More than 4 KiB means busy.  A hint older than a second counts as 0. */
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
/* The peer that proved to be at addr (it answered our probe from there), else the one whose authentic
 * datagram came from there last: lets QUIC accept a first packet.  ERR_NOT_FOUND: nobody did. */
MUST_USE int nat_path_peer_at(const struct nat_path *path, const struct net_addr *addr, struct id *peer);
/* Candidates of a peer, at most cap; returns how many, or ERR_NOT_FOUND. */
MUST_USE int nat_path_candidates(const struct nat_path *path, const struct id *peer,
                                 struct nat_path_info out[], size_t cap);
/* Everything counted since nat_path_init, by value. */
struct nat_path_stats nat_path_stats(const struct nat_path *path);
/* Asserts every internal relation; for tests, fuzzers and the simulator.  O(peers). */
void nat_path_check_invariants(const struct nat_path *path);

#endif
