/* Hole punching: two nodes that already have some route to each other, usually through a relay, agree on how
 * to open their NATs and do it.
 *
 * What it is: the negotiation (sealed messages over the standing route), the choice of a strategy from both
 * sides' NAT profiles, the timing, and the probes that go to guessed ports or leave by auxiliary sockets.
 * What it is not: it opens no socket, measures no NAT (nat/reach does) and keeps no route: whatever it finds
 * is offered to nat/path as a candidate, which proves it once more and chooses.
 *
 * A round, started here (left) or by the peer's INVITE (right), has up to three attempts:
 *
 *     start                                     INVITE received
 *       v                                          v
 *     PREPARING -- sockets, address known -->   PREPARING -- sockets, survey --> ANSWERED (ANSWER sent)
 *       v INVITE sent                              v GO received, or a probe of the peer
 *     INVITED -- ANSWER --> ARMING              PUNCHING
 *       v sockets, survey; GO sent                 v
 *     PUNCHING -- a probe answered --------->   CLOSED (RESULT is out; late probes are answered for 3 s)
 *       v nothing in time                          v nothing in time
 *     RESTING -- next attempt --> PREPARING     RESTING -- INVITE of the next attempt --> PREPARING
 *
 * Both choose the same strategy from both profiles, so it is not negotiated (docs/protocol/punch.md).  When
 * both invite at once the round of the lower id goes on.  Any state ends CLOSED on time-out, END or
 * nat_punch_forget.
 *
 * Against abuse, only peers named with nat_punch_signal are listened to, and rounds and probes are capped.
 *
 * Driver: after each input drain nat_punch_poll_event, then nat_punch_poll_send, then re-arm one timer from
 * nat_punch_deadline_ns.  Single-threaded, no allocation after init. */
#ifndef DUNLIN_NAT_PUNCH_H
#define DUNLIN_NAT_PUNCH_H

#include "base/rng.h"
#include "base/trace.h"
#include "net/message.h"

enum {
    NAT_PUNCH_PEERS_MAX = 512,          /* whose history is kept; beyond it the idlest is forgotten */
    NAT_PUNCH_ROUNDS_MAX = 16,          /* at once */
    NAT_PUNCH_ATTEMPTS_MAX = 3,         /* of one round */
    NAT_PUNCH_CANDIDATES_MAX = 8,       /* a side and attempt */
    NAT_PUNCH_SOCKETS_MAX = 256,        /* auxiliary sockets of all rounds in progress */
    NAT_PUNCH_KEPT_MAX = 32,            /* sockets kept because a route goes through them */
    NAT_PUNCH_INBOUND_HOUR_MAX = 12,    /* rounds a peer may invite us to in an hour, cheap successes aside */
    NAT_PUNCH_PROBES_ROUND_MAX = 4608,  /* probes of one round, all attempts */
    NAT_PUNCH_PROBES_MINUTE_MAX = 8192, /* of all rounds */
    NAT_PUNCH_PROBES_PLACE_MAX = 4608,  /* to one IP address (v6: /64) in ten minutes, whoever named it */
    NAT_PUNCH_UNSEEN_MAX = 512,         /* guesses in an attempt, at an IP that only the peer itself names */
    NAT_PUNCH_GUESSES_MAX = 2048,       /* the same at an IP named by nat_punch_seen */
    NAT_PUNCH_STEP_MAX = 256,           /* largest step of a sequential NAT, up or down */
    NAT_PUNCH_OBSERVERS_MAX = 4,
    NAT_PUNCH_LOG_MAX = 6, /* rounds remembered of a peer */
};

enum nat_punch_mapping {
    NAT_PUNCH_UNKNOWN,    /* treated as EASY until that has failed */
    NAT_PUNCH_EASY,       /* one outer port for all destinations, or no NAT at all */
    NAT_PUNCH_SEQUENTIAL, /* a new port for each destination, at a constant step */
    NAT_PUNCH_RANDOM,     /* a new port for each destination, unpredictable */
};

/* Who may send to a mapped port. */
enum nat_punch_filtering {
    NAT_PUNCH_FILTER_UNKNOWN,
    NAT_PUNCH_FILTER_NONE,    /* anyone */
    NAT_PUNCH_FILTER_ADDRESS, /* hosts that were sent to */
    NAT_PUNCH_FILTER_PORT,    /* hosts and ports that were sent to */
};

/* What we know of our own NAT.  All zero: nothing. */
struct nat_punch_profile {
    enum nat_punch_mapping mapping;
    enum nat_punch_filtering filtering;
    int16_t step;            /* SEQUENTIAL: +-1..NAT_PUNCH_STEP_MAX; else 0 */
    uint16_t trend_port;     /* SEQUENTIAL: outer port of the newest mapping; 0 unknown */
    uint64_t trend_ns;       /* when that was measured */
    struct net_addr public4; /* our address as others see it; the port does not count; family 0 unknown */
    struct net_addr public6;
    bool reachable;           /* a stranger's dial-back arrived: the other side need only dial */
    uint64_t mapping_life_ns; /* a mapping ends after so long, busy or not; 0: not known to */
};

/* Where a candidate comes from; also on the wire. */
enum nat_punch_source {
    NAT_PUNCH_LAN = 1, /* interface address of private scope */
    NAT_PUNCH_V6 = 2,  /* global one of an interface */
    NAT_PUNCH_V4 = 3,
    NAT_PUNCH_MAPPED = 4,   /* port mapping on the router */
    NAT_PUNCH_OBSERVED = 5, /* as others see the main socket */
    NAT_PUNCH_FRESH = 6,    /* as others see an auxiliary socket opened for this attempt */
    NAT_PUNCH_PUNCHED = 7,  /* never on the wire: the source of a probe that reached us */
};

struct nat_punch_candidate {
    enum nat_punch_source source;
    struct net_addr addr;
};

enum nat_punch_strategy {
    NAT_PUNCH_NO_STRATEGY,  /* none was chosen yet, or none exists: relay only */
    NAT_PUNCH_REVERSAL,     /* one side is reachable, the other dials */
    NAT_PUNCH_PLAIN,        /* both probe the other's candidates */
    NAT_PUNCH_PREDICT,      /* easy x sequential: probes to the ports that come next */
    NAT_PUNCH_PREDICT_BOTH, /* sequential x sequential: 64 sockets a side */
    NAT_PUNCH_BIRTHDAY,     /* easy x random: 256 sockets against random ports */
};

/* Why a round ended; also the code of END.  0 is success. */
enum nat_punch_reason {
    NAT_PUNCH_DONE = 0,
    NAT_PUNCH_SILENCE = 1,    /* attempts used up, no probe came through */
    NAT_PUNCH_HOPELESS = 2,   /* both NATs draw unpredictable ports: relay only */
    NAT_PUNCH_NO_ANSWER = 3,  /* the peer does not answer over the standing route */
    NAT_PUNCH_NO_SURVEY = 4,  /* a fresh port trend was needed and did not come */
    NAT_PUNCH_NO_SOCKETS = 5, /* auxiliary sockets in use or not to be had */
    NAT_PUNCH_NO_ADDRESS = 6, /* a side does not know its public address */
    NAT_PUNCH_REFUSED = 7,    /* the peer is busy or has had too many rounds */
    NAT_PUNCH_CANCELLED = 8,  /* nat_punch_forget */
    NAT_PUNCH_SUPERSEDED = 9, /* the peer began another round */
    NAT_PUNCH_REASONS = 10,
};

enum nat_punch_event_type {
    NAT_PUNCH_CANDIDATE,      /* offer {peer, addr, source} to nat_path_candidate_add */
    NAT_PUNCH_PUNCH,          /* call nat_path_punch(peer); after the candidates it concerns */
    NAT_PUNCH_SOCKETS_WANTED, /* open up to `count`, then nat_punch_sockets(token, ...), also with 0 */
    NAT_PUNCH_SOCKET_RELEASE, /* close addr.via; routes over it are gone */
    NAT_PUNCH_SURVEY_WANTED,  /* measure the port trend now, nat_punch_set_profile, nat_punch_survey_done */
    NAT_PUNCH_RESULT,         /* the round with `peer` is over; exactly one for each */
};

struct nat_punch_event {
    enum nat_punch_event_type type;
    struct id peer;
    struct net_addr addr; /* CANDIDATE, RELEASE (via only), RESULT (where it is reached, if ok) */
    enum nat_punch_source source;
    uint32_t token; /* SOCKETS_WANTED */
    uint16_t count;
    bool ok;      /* this and the rest: RESULT */
    bool inbound; /* nobody called nat_punch_start for it here */
    enum nat_punch_strategy strategy;
    enum nat_punch_reason reason;
    uint32_t probes_sent;
    uint64_t elapsed_ns;
};

/* One past round, for people. */
struct nat_punch_attempt {
    uint64_t started_ns, elapsed_ns;
    uint32_t probes_sent;
    uint8_t attempts; /* that were begun */
    bool ok, inbound;
    enum nat_punch_strategy strategy; /* of the last attempt */
    enum nat_punch_reason reason;
    struct net_addr addr; /* if ok */
};

struct nat_punch_stats {
    uint64_t rounds_started, rounds_inbound, rounds_ok, rounds_failed;
    uint64_t probes_sent, answers_sent, answers_dropped;
    uint64_t malformed, refused;         /* messages */
    uint64_t limited;                    /* probes not sent because of a cap */
    size_t rounds, sockets, kept, peers; /* now */
};

struct nat_punch_config {
    struct id self;
    struct rng rng;
    struct trace_sink trace;
    size_t peers_max; /* 1..NAT_PUNCH_PEERS_MAX */
};
struct nat_punch;
/* 512 peers; self and rng are the caller's. */
struct nat_punch_config nat_punch_config_default(void);
/* ERR_INVALID: a field is missing or out of range; *why (static text) says which. */
MUST_USE int nat_punch_config_check(const struct nat_punch_config *config, const char **why);
/* Bytes that nat_punch_init needs: about 540 a peer and 52 KiB. */
size_t nat_punch_size(const struct nat_punch_config *config);
/* Places the core in the caller's memory (nat_punch_size bytes, aligned to 16, borrowed until dropped).  The
 * config must pass nat_punch_config_check (asserted) and is copied.  Holds no secrets worth wiping. */
struct nat_punch *nat_punch_init(void *memory, const struct nat_punch_config *config);

/* Our NAT as measured; used from the next INVITE or ANSWER on.  A change of mapping or public address ends
 * all back-off: another network, another chance.  ERR_INVALID: a field is out of range; nothing changed. */
MUST_USE int nat_punch_set_profile(struct nat_punch *punch, const struct nat_punch_profile *profile);
/* Our own addresses, best first; those beyond NAT_PUNCH_CANDIDATES_MAX - 1 are left out (the last place is
 * for an auxiliary socket's).  Loopback and link-local are skipped.  A new one other than OBSERVED ends all
 * back-off. */
void nat_punch_set_addrs(struct nat_punch *punch, const struct nat_punch_candidate addrs[], size_t count);
/* Messages for peer go to addr (any route, relays included) with this round trip (0: unknown); the peer is
 * listened to from now on.  Call it again whenever the route changes.  ERR_INVALID: peer is this node or addr
 * no address.  ERR_FULL: peers_max have a signalling address: forget one. */
MUST_USE int nat_punch_signal(struct nat_punch *punch, uint64_t now_ns, const struct id *peer,
                              const struct net_addr *addr, uint64_t rtt_ns);
/* Somebody other than the peer (a relay, an observer) saw the peer at this IP: guesses may go there at full
 * length.  Two are remembered.  Unknown peers are fine: nothing happens. */
void nat_punch_seen(struct nat_punch *punch, const struct id *peer, const struct net_addr *addr);
/* A public node that tells us how it sees a socket of ours (as nat_reach_observer; the last four are kept).
 * Without any, a retry from a fresh port is made from the main one.  Other addresses are ignored. */
void nat_punch_observer(struct nat_punch *punch, const struct id *id, const struct net_addr *addr);
/* No route to the peer stands: ends its round (RESULT follows) and stops listening to it.  Its history stays
 * as long as there is room. */
void nat_punch_forget(struct nat_punch *punch, uint64_t now_ns, const struct id *peer);

/* Starts a round with the peer, or joins the one it invited us to.  fresh: leave by a new socket even though
 * the old route works (its mapping is about to end).  After ERR_OK exactly one RESULT follows. ERR_NOT_FOUND:
 * nat_punch_signal was not called.  ERR_BUSY: a round started here is on its way.  ERR_RATE: back-off after
 * failures, or a round began less than 2 s ago: not before nat_punch_ready_ns.  ERR_FULL: 16 rounds. */
MUST_USE int nat_punch_start(struct nat_punch *punch, uint64_t now_ns, const struct id *peer, bool fresh);
/* When nat_punch_start stops returning ERR_RATE; 0: at once, or unknown peer. */
uint64_t nat_punch_ready_ns(const struct nat_punch *punch, const struct id *peer);
/* Sockets opened for a SOCKETS_WANTED; via[count] are NET_VIA_AUX_* that no other open socket has (asserted
 * for sockets held here).  ERR_NOT_FOUND: the round is over, or count is more than was asked for: close all
 * of them. */
MUST_USE int nat_punch_sockets(struct nat_punch *punch, uint64_t now_ns, uint32_t token, const uint16_t via[],
                               size_t count);
/* The survey that SURVEY_WANTED asked for has ended; its trend was given to nat_punch_set_profile before (an
 * old one ends the attempt).  Unknown peers are fine. */
void nat_punch_survey_done(struct nat_punch *punch, uint64_t now_ns, const struct id *peer);
/* No route goes by it (any more): SOCKET_RELEASE follows, maybe at its round's end.  Unknown: fine. */
void nat_punch_release(struct nat_punch *punch, uint16_t via);

/* A message of a kind NET_KIND_PUNCH_FIRST..LAST (asserted), opened by net/seal; message->addr.via says where
 * it came in.  ERR_MALFORMED, ERR_REFUSED (peer not named by nat_punch_signal, or no business of ours),
 * ERR_STALE (of a round that is over), ERR_RATE, ERR_FULL: drop; the peer repeats what it needs. */
MUST_USE int nat_punch_recv(struct nat_punch *punch, uint64_t now_ns, const struct net_message *message);
/* Lets time pass.  O(rounds). */
void nat_punch_tick(struct nat_punch *punch, uint64_t now_ns);
/* When to tick or to drain nat_punch_poll_send next; UINT64_MAX: never. */
uint64_t nat_punch_deadline_ns(const struct nat_punch *punch);
/* Next event; false: none. */
bool nat_punch_poll_event(struct nat_punch *punch, struct nat_punch_event *out);
/* Next message to seal and send to out->addr, by its via; false: none is due.  Probes are paced, one a ms. */
bool nat_punch_poll_send(struct nat_punch *punch, uint64_t now_ns, struct net_message *out);

/* Rounds of the peer, newest first, at most cap; returns how many, or ERR_NOT_FOUND. */
MUST_USE int nat_punch_log(const struct nat_punch *punch, const struct id *peer,
                           struct nat_punch_attempt out[], size_t cap);
/* What both profiles allow, as both sides compute it for an attempt (1..3): pure.  Fits `dunlin trace`. */
enum nat_punch_strategy nat_punch_choose(const struct nat_punch_profile *a, const struct nat_punch_profile *b,
                                         bool shortcut, unsigned attempt);
/* For people; static texts. */
const char *nat_punch_strategy_text(enum nat_punch_strategy strategy);
const char *nat_punch_reason_text(enum nat_punch_reason reason);
struct nat_punch_stats nat_punch_stats(const struct nat_punch *punch);
/* Asserts every internal relation; for tests, fuzzers and the simulator. */
void nat_punch_check_invariants(const struct nat_punch *punch);

#endif
