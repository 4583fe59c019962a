/* A relay's client: holds reservations on relays, and sessions through them.
 *
 * A node that nobody can reach keeps reservations on `wanted` relays out of those offered to it, and
 * publishes them in its record.  A node that wants to talk to such a peer opens a session through one of the
 * peer's relays.  A session is a route like any other: a net_addr whose `via` is NET_VIA_RELAY_FIRST plus the
 * session's slot.  Packets to it are prefixed by nat_relay_client_wrap, frames that arrive are taken apart by
 * nat_relay_client_unwrap.  A slot is used again 60 s after its end at the earliest, so that an old via never
 * names another peer.  Several sessions to one peer, through different relays, are fine.
 *
 * Liveness: every relay in use is sent a KEEP, each 15 s when idle (which keeps the NAT open), each 0.8 s
 * while packets pass.  Unanswered ones are repeated every 0.3 s, or 1.5 round trips and 30 ms if that is
 * sooner and our own address has changed within the last second; after 1.8 s without any sign the relay is
 * lost, which is within 3 s of its death while packets pass: its sessions go down, its reservation is lost,
 * and the next candidate is asked at once.
 *
 * States of a relay, as far as its reservation goes (functions of relay_client_relays.c):
 *
 *     IDLE --chosen--> ASKING --RESERVED--> HELD --no answer, REFUSED, not wanted--> IDLE
 *                        +-----REFUSED, no answer: not again for 30 s, doubling-------^
 *
 * States of a session (functions of relay_client_sessions.c):
 *
 *     OPENING --OPENED----------------------------> UP --NOTICE, close, relay lost--> (CLOSING) --> WAITING
 *        +-- REFUSED, no answer in 8 s -> WAITING      ^                                             --> free
 *     OFFERED --accept--> ACCEPTING --OPENED, frame----+
 *        +-- decline, 5 s --> DECLINED --> WAITING
 *
 * OPENING: waits for the peer's consent.  OFFERED: waits for the caller's.  UP: a route.  CLOSING: the relay
 * is told until it confirms.  DECLINED: a repeated OFFER gets the same answer.  WAITING: the slot's 60 s.
 *
 * Driver: after each input drain nat_relay_client_poll_event, then nat_relay_client_poll_send, then re-arm
 * one timer from nat_relay_client_deadline_ns.  Single-threaded, no allocation after init. */
#ifndef DUNLIN_NAT_RELAY_CLIENT_H
#define DUNLIN_NAT_RELAY_CLIENT_H

#include "base/trace.h"
#include "nat/relay_wire.h"

enum {
    NAT_RELAY_CLIENT_CANDIDATES_MAX = 32,
    NAT_RELAY_CLIENT_RELAYS_MAX = 96, /* candidates and the relays of sessions */
    NAT_RELAY_CLIENT_WANTED_MAX = 8,
    NAT_RELAY_CLIENT_SESSIONS_MAX = 1024, /* bound of config.sessions_max */
    NAT_RELAY_CLIENT_EVENTS_MAX = 256,
    NAT_RELAY_CLIENT_OFFERS_MAX = 16, /* undecided; beyond it new ones are declined */
};

struct nat_relay_client_config {
    struct id self;
    struct rng rng;
    struct trace_sink trace;
    size_t sessions_max;      /* at once; there are four times as many slots */
    size_t wanted;            /* reservations to hold */
    uint64_t refresh_ns;      /* KEEP of an idle relay, 1 s to 60 s */
    uint64_t refresh_busy_ns; /* while packets pass, 0.1 s to 5 s */
    uint64_t repeat_ns;       /* of an unanswered KEEP; doubled on relays further than half of it */
    uint64_t lost_ns;         /* of no answer and no frame: the relay is lost */
};

enum nat_relay_client_event_type {
    NAT_RELAY_HELD,            /* relay, at relay_addr, holds a reservation for us: publish */
    NAT_RELAY_LOST,            /* no longer, for this reason: publish the rest */
    NAT_RELAY_SESSION_OFFERED, /* peer wants a session through relay: accept or decline token within 4 s */
    NAT_RELAY_SESSION_UP,      /* route leads to peer */
    NAT_RELAY_SESSION_FAILED,  /* the one that we opened to peer does not come about, for this reason */
    NAT_RELAY_SESSION_DOWN,    /* route is dead, for this reason */
    NAT_RELAY_SESSION_QUOTA,   /* rate or volume of route have changed (volume: each tenth) */
    NAT_RELAY_SEEN,            /* relay sees us at seen: feed it to observed.h */
};

struct nat_relay_client_event {
    enum nat_relay_client_event_type type;
    uint32_t token; /* names the session in accept, decline and close; 0: none */
    struct id peer;
    struct id relay;
    struct net_addr relay_addr;
    struct net_addr route; /* ip and port of the relay, via of the session */
    struct net_addr seen;
    uint64_t rate;    /* bytes per second we may send; 0: unlimited */
    uint64_t volume;  /* bytes left */
    uint32_t lease_s; /* of the reservation; of a session: its life without a KEEP */
    enum nat_relay_reason reason;
    bool answers; /* events of sessions: the relay has answered anything, ever */
};

/* A relay, for people and tests. */
struct nat_relay_client_info {
    struct id id;
    struct net_addr addr;
    struct net_addr seen; /* we, as it sees us; family 0: not known */
    bool candidate;
    bool held;
    uint32_t sessions;
    uint64_t rtt_ns;               /* 0: never answered */
    uint64_t rate, volume;         /* as last granted; 0 before that */
    enum nat_relay_reason refused; /* why it serves us no (further) session or place; NONE: it does, or was
                                      never asked */
};

#define NAT_RELAY_CLIENT_STATS(X)                                                                            \
    X(requests, "requests sent, repetitions included")                                                       \
    X(answers, "answers taken")                                                                              \
    X(malformed, "malformed messages")                                                                       \
    X(unmatched, "messages that answer nothing or come from no relay of ours")                               \
    X(offers, "sessions offered to us")                                                                      \
    X(offers_declined, "of those declined, for lack of room too")                                            \
    X(sessions_up, "sessions that stood")                                                                    \
    X(sessions_failed, "sessions that did not come about")                                                   \
    X(relays_lost, "relays lost")                                                                            \
    X(frames_in, "frames taken apart")                                                                       \
    X(frames_refused, "frames of no session, or not from its relay")                                         \
    X(events_dropped, "events dropped, queue full")

struct nat_relay_client_stats {
#define X(name, text) uint64_t name;
    NAT_RELAY_CLIENT_STATS(X)
#undef X
};

struct nat_relay_client;

/* 256 sessions, 2 wanted, 15 s, 0.8 s, 0.3 s, 1.8 s.  self and rng are the caller's. */
struct nat_relay_client_config nat_relay_client_config_default(void);
/* ERR_INVALID: a field is missing or out of range; *why (static text) says which. */
MUST_USE int nat_relay_client_config_check(const struct nat_relay_client_config *config, const char **why);
/* Bytes that nat_relay_client_init needs: about 250 KiB with the defaults. */
size_t nat_relay_client_size(const struct nat_relay_client_config *config);
/* Places the core in the caller's memory (aligned to 16, borrowed until dropped).  The config must pass
 * nat_relay_client_config_check (asserted) and is copied. */
struct nat_relay_client *nat_relay_client_init(void *memory, const struct nat_relay_client_config *config);

/* How many reservations to hold from now on; 0 when the node is itself reachable: those held are given back,
 * at once or, where sessions go through them, by letting the lease run out. At most
 * NAT_RELAY_CLIENT_WANTED_MAX (asserted). */
void nat_relay_client_set_wanted(struct nat_relay_client *client, uint64_t now_ns, size_t wanted);
/* Offers a relay for reservations (a public node that runs one), or a further address of a known relay: that
 * is tried as well, and used from then on when it answers (nothing but a sealed answer from there moves a
 * relay).  ERR_INVALID: this node, or no unicast address.  ERR_FULL: 32 candidates in use or better. */
MUST_USE int nat_relay_client_candidate(struct nat_relay_client *client, uint64_t now_ns, const struct id *id,
                                        const struct net_addr *addr);
/* No longer offers it; what is held on it is given back, sessions go on. */
void nat_relay_client_candidate_drop(struct nat_relay_client *client, uint64_t now_ns, const struct id *id);
/* Opens a session to peer through a relay on which the peer holds a reservation; exactly one SESSION_UP or
 * SESSION_FAILED follows, unless closed before.  *token names it.  ERR_INVALID: peer or relay is this node,
 * both are one, or the address is no unicast one.  ERR_EXISTS: one is open or opening to peer through this
 * relay.  ERR_FULL: sessions_max, or no slot or relay entry is free: later. */
MUST_USE int nat_relay_client_open(struct nat_relay_client *client, uint64_t now_ns, const struct id *peer,
                                   const struct id *relay, const struct net_addr *relay_addr,
                                   uint32_t *token);
/* Takes an offered session; SESSION_UP or SESSION_FAILED follows.  ERR_NOT_FOUND: it is over. */
MUST_USE int nat_relay_client_accept(struct nat_relay_client *client, uint64_t now_ns, uint32_t token);
/* Refuses an offered session; no event follows.  Unknown tokens are fine. */
void nat_relay_client_decline(struct nat_relay_client *client, uint64_t now_ns, uint32_t token);
/* Ends a session in any state; no event follows.  Unknown tokens are fine. */
void nat_relay_client_close(struct nat_relay_client *client, uint64_t now_ns, uint32_t token);
/* Our own address has changed (or a socket or link is new): every relay in use is told at once, and answers
 * with a nonce that moves the sessions over: one round trip and a half. */
void nat_relay_client_moved(struct nat_relay_client *client, uint64_t now_ns);

/* A message of kinds NET_KIND_RELAY_* that nat_relay_serves does not claim, opened by net/seal.
 * ERR_MALFORMED, ERR_UNSUPPORTED, ERR_REFUSED (answers nothing, or no relay of ours): drop. */
MUST_USE int nat_relay_client_recv(struct nat_relay_client *client, uint64_t now_ns,
                                   const struct net_message *message);
/* The frame head for a packet to the peer of `via`, and where the frame goes.  ERR_NOT_FOUND: no such session
 * is up: the route is dead.  O(1); call it for each packet or once a batch. */
MUST_USE int nat_relay_client_wrap(struct nat_relay_client *client, uint64_t now_ns, uint16_t via,
                                   uint8_t header[NAT_RELAY_HEADER], struct net_addr *relay_addr);
/* Takes a frame apart: *route names the session and so the peer, *payload borrows from datagram.
 * ERR_NOT_FOUND: not a session of ours, or not from its relay: offer it to nat_relay_forward, else drop.
 * O(1). */
MUST_USE int nat_relay_client_unwrap(struct nat_relay_client *client, uint64_t now_ns,
                                     const struct net_addr *from, struct bytes datagram,
                                     struct net_addr *route, struct bytes *payload);
/* Lets time pass.  Bounded by relays and slots. */
void nat_relay_client_tick(struct nat_relay_client *client, uint64_t now_ns);
/* When to tick next; UINT64_MAX: never. */
uint64_t nat_relay_client_deadline_ns(const struct nat_relay_client *client);
/* Next event; false: none. */
bool nat_relay_client_poll_event(struct nat_relay_client *client, struct nat_relay_client_event *out);
/* Next message to seal and send to out->addr; false: none. */
bool nat_relay_client_poll_send(struct nat_relay_client *client, uint64_t now_ns, struct net_message *out);

/* Relays on which a reservation is held, at most cap, for nat_relay_extra_write; returns how many. */
size_t nat_relay_client_held(const struct nat_relay_client *client, struct nat_relay_place out[], size_t cap);
/* The peer of a session that is up.  ERR_NOT_FOUND: none. */
MUST_USE int nat_relay_client_peer(const struct nat_relay_client *client, uint16_t via, struct id *peer);
/* All relays known, at most cap; returns how many. */
size_t nat_relay_client_relays(const struct nat_relay_client *client, struct nat_relay_client_info out[],
                               size_t cap);
/* Sessions in any state but WAITING. */
size_t nat_relay_client_session_count(const struct nat_relay_client *client);
/* Everything counted since init, by value. */
struct nat_relay_client_stats nat_relay_client_stats(const struct nat_relay_client *client);
/* Asserts every internal relation; for tests, fuzzers and the simulator. */
void nat_relay_client_check_invariants(const struct nat_relay_client *client);

#endif
