/* The relay: a publicly reachable node passes packets between two others that cannot reach each other.
 *
 * A client behind a NAT holds a *reservation* and keeps its NAT open by KEEPs.  Anyone authenticated may ask
 * to be joined with it (OPEN); the client is asked (OFFER) and accepts or declines; then both send frames
 * that carry the session's random id, and the relay passes each on unchanged to the other end.  What is in
 * them, QUIC packets or sealed datagrams, is encrypted between the ends; a relay sees who, when and how much.
 *
 * Who pays: the rate is enforced on what a client sends and, apart, on what is sent to it, and on the total
 * of the relay; the volume counts both ways for both ends.  Frames over a rate are dropped and counted,
 * clients shape themselves to the rate they were granted.  Frames of up to NAT_RELAY_SMALL bytes may borrow a
 * little ahead, so that acknowledgements and sealed messages pass while bulk is over.  When the volume ends,
 * both ends get a NOTICE with the reason.
 *
 * Addresses: nothing is forwarded to an address that has not proven itself: by a frame with the session's id
 * from the address to which that id was sealed, or by a sealed PROVE with the nonce that was sealed to it.  A
 * proven address changes only by the latter.  So neither a data frame nor a replayed datagram diverts
 * traffic. Every answer is a single datagram of at most twice the request.
 *
 * States of a session (functions of relay_session.c name the transitions):
 *
 *     OFFERED --ACCEPT--> OPEN --CLOSE, quota, silence, lease--> ENDED --5 s--> gone
 *        +----DECLINE, no answer in 5 s---------------------------^
 *
 * OFFERED: the target is asked every 0.5 s; no frame passes.  OPEN: frames pass.  ENDED: both ends are told
 * why until they confirm; a repeated request still gets its answer; no frame passes.
 *
 * What it is not: it opens no sockets, knows nothing of what it carries, and picks no clients: policy beyond
 * the quotas is the caller's, by nat_relay_set_rates and the config.
 *
 * Driver: after each input drain nat_relay_poll_event, then nat_relay_poll_send, then re-arm one timer from
 * nat_relay_deadline_ns.  Single-threaded, no allocation after init. */
#ifndef DUNLIN_NAT_RELAY_H
#define DUNLIN_NAT_RELAY_H

#include "base/trace.h"
#include "nat/relay_wire.h"

enum {
    NAT_RELAY_RESERVATIONS_MAX = 4096, /* bounds of the config */
    NAT_RELAY_SESSIONS_MAX = 8192,
    NAT_RELAY_SENDS_MAX = 256,  /* answers waiting; beyond it they are dropped, and the client asks again */
    NAT_RELAY_EVENTS_MAX = 128, /* beyond it the oldest is dropped */
    NAT_RELAY_SMALL = 200,      /* frames up to this size may overdraw a rate by SHAPER_OVERDRAW */
};

struct nat_relay_config {
    struct id self;
    struct rng rng;
    struct trace_sink trace;
    size_t reservations_max;       /* 1..NAT_RELAY_RESERVATIONS_MAX */
    size_t sessions_max;           /* 1..NAT_RELAY_SESSIONS_MAX */
    size_t sessions_per_client;    /* of one node, opened or accepted, 1..NAT_RELAY_KEEP_SESSIONS */
    size_t reservations_per_group; /* of one global /24 or /56 */
    size_t openers_per_group;      /* nodes without a reservation that are in sessions, the same way */
    uint64_t client_rate;          /* bytes per second, each way; 0: unlimited */
    uint64_t client_burst;         /* bytes */
    uint64_t client_volume;        /* bytes in a period, both ways together; 0: unlimited */
    uint64_t total_rate;           /* bytes per second forwarded in all; 0: switched off */
    uint64_t period_ns;            /* of the volume */
    uint64_t lease_ns;             /* of a reservation; its holder renews it at half */
    uint64_t silence_ns;           /* a node unheard for so long loses its sessions */
};

enum nat_relay_event_type {
    NAT_RELAY_CLIENT_UP,      /* peer holds a reservation, at addr */
    NAT_RELAY_CLIENT_DOWN,    /* it no longer does, for this reason */
    NAT_RELAY_SESSION_OPENED, /* between peer (opener) and other */
    NAT_RELAY_SESSION_ENDED,  /* bytes were forwarded; the reason */
};

struct nat_relay_event {
    enum nat_relay_event_type type;
    struct id peer, other;
    struct net_addr addr;
    uint64_t bytes;
    enum nat_relay_reason reason;
};

/* Datagrams [first, first + count) of the batch go to `to`.  All are of one length, but the last may be
 * shorter: one GSO batch. */
struct nat_relay_run {
    struct net_addr to;
    size_t first, count;
};

/* One node that the relay serves, for people and tests. */
struct nat_relay_node_info {
    struct id id;
    struct net_addr addr; /* proven; family 0: none yet */
    bool reserved;
    uint32_t sessions;
    uint64_t lease_left_ns; /* 0 without a reservation */
    uint64_t bytes_from;    /* forwarded since it came */
    uint64_t bytes_to;
    uint64_t dropped_rate; /* frames from it that were over a rate */
    uint64_t volume_left;  /* UINT64_MAX: unlimited */
};

struct nat_relay_session_info {
    struct id opener, target;
    uint64_t bytes_from_opener, bytes_from_target;
    uint64_t age_ns;
    bool open; /* false: still offered, or ended */
};

/* Everything that is counted: X(name, text for people). */
#define NAT_RELAY_STATS(X)                                                                                   \
    X(reserved, "reservations granted")                                                                      \
    X(opened, "sessions opened")                                                                             \
    X(refused, "requests refused")                                                                           \
    X(malformed, "malformed messages")                                                                       \
    X(unmatched, "messages about nothing known")                                                             \
    X(answers_dropped, "answers dropped, queue full")                                                        \
    X(frames, "frames forwarded")                                                                            \
    X(bytes, "bytes forwarded")                                                                              \
    X(dropped_rate, "frames over a rate")                                                                    \
    X(dropped_session, "frames of no open session")                                                          \
    X(dropped_address, "frames from an address that is not their sender's")                                  \
    X(dropped_unproven, "frames to an end whose address is not proven")                                      \
    X(moves, "addresses changed")

struct nat_relay_stats {
#define X(name, text) uint64_t name;
    NAT_RELAY_STATS(X)
#undef X
};

struct nat_relay;

/* 128 reservations, 256 sessions, 16 for each node, 8 reservations and 16 openers for each /24 or /56, 10
 * Mbit/s (1.25 MB/s) with a burst of 64 KiB and 4 GiB a day for each, 40 Mbit/s in all, 120 s, 60 s.  self
 * and rng are the caller's. */
struct nat_relay_config nat_relay_config_default(void);
/* ERR_INVALID: a field is missing or out of range; *why (static text) says which. */
MUST_USE int nat_relay_config_check(const struct nat_relay_config *config, const char **why);

/* Bytes that nat_relay_init needs: about 230 KiB with the defaults. */
size_t nat_relay_size(const struct nat_relay_config *config);
/* Places the core in the caller's memory (nat_relay_size bytes, aligned to 16, borrowed until dropped).  The
 * config must pass nat_relay_config_check (asserted) and is copied. */
struct nat_relay *nat_relay_init(void *memory, const struct nat_relay_config *config, uint64_t now_ns);

/* Changes the rates from now on; clients learn theirs within a KEEP.  total_rate 0 switches the relay off:
 * sessions end with a NOTICE, reservations go.  client_rate 0: unlimited. */
void nat_relay_set_rates(struct nat_relay *relay, uint64_t now_ns, uint64_t client_rate, uint64_t total_rate);

/* A message of a kind that nat_relay_serves (asserted), opened by net/seal.  ERR_MALFORMED, ERR_REFUSED (it
 * claims to be from this node, or is about nothing known): drop.  ERR_FULL: no room for the answer now: the
 * client asks again.  0: also when the request is refused by an answer. */
MUST_USE int nat_relay_recv(struct nat_relay *relay, uint64_t now_ns, const struct net_message *message);
/* Kinds of nat_relay_recv: what clients ask; the others are nat_relay_client_recv's. */
bool nat_relay_serves(uint8_t kind);
/* The fast path: frames, all from `from` and each one that nat_relay_claims (others are dropped), one after
 * the other in memory or not.  Fills runs[cap] with what to send on unchanged, in order, and returns how
 * many; what is in no run is dropped and counted.  cap >= count is always enough; without room for a further
 * run the rest is dropped.  Frames of sessions that we are a client of do not belong here: offer each
 * datagram to nat_relay_client_unwrap first.  O(1) a frame. */
size_t nat_relay_forward(struct nat_relay *relay, uint64_t now_ns, const struct net_addr *from,
                         const struct bytes datagrams[], size_t count, struct nat_relay_run runs[],
                         size_t cap);
/* Lets time pass.  Bounded by the number of clients and sessions. */
void nat_relay_tick(struct nat_relay *relay, uint64_t now_ns);
/* When to tick next; UINT64_MAX: never. */
uint64_t nat_relay_deadline_ns(const struct nat_relay *relay);
/* Next event; false: none. */
bool nat_relay_poll_event(struct nat_relay *relay, struct nat_relay_event *out);
/* Next message to seal and send to out->addr; false: none. */
bool nat_relay_poll_send(struct nat_relay *relay, uint64_t now_ns, struct net_message *out);

/* Nodes served, at most cap; returns how many. */
size_t nat_relay_nodes(struct nat_relay *relay, uint64_t now_ns, struct nat_relay_node_info out[],
                       size_t cap);
/* Where the node that holds a reservation here is reached, by its proven address.  ERR_NOT_FOUND: it holds
 * none. */
MUST_USE int nat_relay_addr(const struct nat_relay *relay, uint64_t now_ns, const struct id *id,
                            struct net_addr *addr);
/* Sessions offered, open or just ended, at most cap; returns how many. */
size_t nat_relay_sessions(const struct nat_relay *relay, uint64_t now_ns, struct nat_relay_session_info out[],
                          size_t cap);
/* Everything counted since nat_relay_init, by value. */
struct nat_relay_stats nat_relay_stats(const struct nat_relay *relay);
/* Asserts every internal relation; for tests, fuzzers and the simulator.  O(clients + sessions). */
void nat_relay_check_invariants(const struct nat_relay *relay);

#endif
