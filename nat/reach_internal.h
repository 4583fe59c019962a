/* Private structs of nat/reach and the parts that work on them.  Times are now_ns; UINT64_MAX is never. */
#ifndef DUNLIN_NAT_REACH_INTERNAL_H
#define DUNLIN_NAT_REACH_INTERNAL_H

#include "base/ring.h"
#include "nat/reach.h"
#include "nat/reach_wire.h"

#define REACH_MS(x) ((uint64_t)(x)*UINT64_C(1000000))
#define REACH_NEVER UINT64_MAX

enum {
    REACH_FAMILIES = 2,
    REACH_SAMPLES_MAX = 6, /* of one survey */
    REACH_SURVEY_GROUPS = 4,
    REACH_TRIES = 3, /* datagrams per question */
    REACH_SENDS_MAX = 256,
    REACH_RELEASES_MAX = 64,
    REACH_JOBS_MAX = 64,
    REACH_ATTEMPTS_MAX = 8, /* of one verification */
    REACH_FAILURES = 3,     /* failed attempts that make an address unreachable */
    REACH_INTERVALS = 4,
    REACH_BUCKETS = 256,
    REACH_BLOOM_BITS = 1 << 16,
    REACH_GENERATIONS = 3,
};

/* ---- who we wrote to, and how much others may ask (reach_limit.c) ---- */

/* Addresses and endpoints written to in the last 300 to 450 s.  A Bloom filter never forgets one early, and
 * errs towards "written to", which delays a verdict but never makes a wrong one. */
struct reach_contacts {
    uint8_t key[16];
    uint64_t generation;
    struct net_addr last; /* the destination just noted: most datagrams repeat it */
    uint8_t ips[REACH_GENERATIONS][REACH_BLOOM_BITS / 8];
    uint8_t endpoints[REACH_GENERATIONS][REACH_BLOOM_BITS / 8];
};

void reach_contacts_note(struct reach_contacts *contacts, uint64_t now_ns, const struct net_addr *addr);
bool reach_contacts_ip(struct reach_contacts *contacts, uint64_t now_ns, const struct net_addr *addr);
bool reach_contacts_endpoint(struct reach_contacts *contacts, uint64_t now_ns, const struct net_addr *addr);

/* Buckets kept as the time when they are full again. */
struct reach_limit {
    uint64_t total_step_ns;
    uint64_t total_full_ns;
    uint64_t group_full_ns[REACH_BUCKETS];
    uint8_t key[16];
};

void reach_limit_init(struct reach_limit *limit, uint32_t per_s, const struct rng *rng);
/* One more for this network; false: not now. */
bool reach_limit_take(struct reach_limit *limit, uint64_t now_ns, const struct net_addr *addr);

/* ---- peers (reach_peers.c) ---- */

struct reach_peer {
    bool used;
    struct id id;
    struct net_addr addr;
    uint64_t heard_ns;
    uint32_t failures; /* questions in a row without an answer */
};

/* ---- survey (reach_survey.c, reach_classify.c) ---- */

struct reach_sample {
    struct id peer;
    struct net_addr to; /* with the survey's via */
    uint64_t nonces[REACH_TRIES];
    uint64_t sent_ns[REACH_TRIES];
    uint8_t tries;
    bool answered;
    uint64_t order_ns; /* when the datagram went that was answered: outer ports are given out in this order */
    struct net_addr seen;
    uint16_t alternate;
};

enum reach_survey_state { REACH_SURVEY_IDLE, REACH_SURVEY_WAITING, REACH_SURVEY_ASKING };

/* IDLE --due--> WAITING (for a socket) --nat_reach_sockets--> ASKING --answers or 1.5 s--> IDLE.  ASKING
 * holds via; every ASKING ends with its release and a classification. */
struct reach_survey {
    enum reach_survey_state state;
    bool asked; /* tell even when nothing changed */
    bool alternate_asked;
    uint16_t via;
    uint16_t port;
    struct reach_sample samples[REACH_SAMPLES_MAX];
    size_t sample_count;
    uint64_t due_ns; /* next step in any state */
    uint64_t answered_ns;
    uint64_t until_ns;
    uint64_t ended_ns; /* 0: never */
};

/* Judges what the answered samples say; local_port 0: unknown.  Writes the profile's mapping, step, trend,
 * outer address, flags and observers, and nothing else. */
void reach_classify(const struct reach_sample samples[], size_t count, const struct net_addr locals[],
                    size_t local_count, uint16_t local_port, struct nat_reach_profile *profile);

/* ---- life of mappings (reach_watch.c) ---- */

struct reach_watch {
    bool on;
    uint64_t since_ns;
    uint64_t due_ns; /* next question */
    uint64_t nonce;  /* of the question under way; 0: none */
    struct id asked;
    struct net_addr asked_at;
    uint16_t port;      /* the main socket's outer port; 0: unknown */
    struct net_addr ip; /* with this IP */
    uint64_t port_ns;   /* last change; 0: none seen yet */
    uint16_t rumour;    /* a new port that one observer claims; 0: none */
    struct net_addr rumour_from;
    uint64_t intervals_ns[REACH_INTERVALS];
    size_t interval_count; /* in all; the last REACH_INTERVALS are held */
};

/* ---- own addresses (reach_dial.c) ---- */

enum reach_attempt_state { REACH_ATTEMPT_NONE, REACH_ATTEMPT_ASKED, REACH_ATTEMPT_LISTENING };

/* Bits of `expected` and `got`: probes from a port that we never wrote to, and from an IP that we never wrote
 * to. */
enum { REACH_FROM_PORT = 1, REACH_FROM_STRANGER = 2 };

/* NONE --next helper--> ASKED --answer "tried"--> LISTENING --stranger's probe, or 3 s--> NONE.  ASKED ends
 * with a refusal or silence too, which do not count for or against. */
struct reach_own {
    bool used;
    bool tell; /* an event is due */
    bool round;
    struct net_addr addr;
    enum nat_reach_verdict verdict;
    enum nat_reach_why why;
    enum nat_reach_filtering filtering;
    uint64_t due_ns;
    enum reach_attempt_state attempt;
    struct id helper;
    struct net_addr helper_at;
    uint64_t nonce;
    uint8_t tries;
    uint8_t expected;
    uint8_t got;
    struct net_addr asked[REACH_ATTEMPTS_MAX]; /* helpers of this round */
    size_t asked_count;
    size_t successes;
    size_t failures;
    size_t failures_address; /* of them, those where another port of a known address got in */
    size_t known_only;
    size_t wrong_address;
};

/* ---- service (reach_serve.c) ---- */

/* A dial-back done for someone; kept for some seconds so that repeated requests cost an answer only. */
struct reach_job {
    bool used;
    bool waiting; /* for the auxiliary socket */
    struct id asker;
    struct net_addr from;
    struct net_addr target;
    uint64_t nonce;
    uint64_t since_ns;
    struct reach_body answer; /* once it is done */
};

struct reach_aux {
    uint16_t via; /* NET_VIA_MAIN: none */
    uint16_t port;
    uint64_t opened_ns;
};

/* ---- the core (reach.c) ---- */

struct reach_send {
    bool used;
    uint64_t due_ns;
    uint64_t order;
    struct id peer;
    struct net_addr to;
    uint8_t kind;
    struct reach_body body;
};

struct reach_seen {
    struct net_addr observer;
    struct net_addr seen;
};

enum { REACH_FOR_SURVEY = 0, REACH_FOR_AUX = 2, REACH_WANTS = 4 }; /* plus the family's index */

/* A socket asked for: tell until the event went out, pending until it was answered. */
struct reach_want {
    bool tell;
    bool pending;
    uint32_t token;
    uint64_t since_ns;
};

struct nat_reach {
    struct nat_reach_config config;
    struct reach_peer observers[REACH_FAMILIES][NAT_REACH_OBSERVERS_MAX];
    struct reach_peer helpers[NAT_REACH_HELPERS_MAX];
    struct net_addr locals[NAT_REACH_LOCALS_MAX];
    size_t local_count;
    struct net_addr main_addr[REACH_FAMILIES];
    enum nat_mapping main_mapping[REACH_FAMILIES];
    struct reach_survey surveys[REACH_FAMILIES];
    struct reach_watch watches[REACH_FAMILIES];
    struct reach_own own[NAT_REACH_ADDRS_MAX];
    struct reach_job jobs[REACH_JOBS_MAX];
    size_t job_count; /* used ones */
    struct reach_aux aux[REACH_FAMILIES];
    struct reach_want wants[REACH_WANTS];
    struct nat_reach_profile profiles[REACH_FAMILIES];
    bool profile_tell[REACH_FAMILIES];
    uint32_t next_token;
    uint64_t next_order;
    struct reach_send sends[REACH_SENDS_MAX];
    size_t send_count; /* used ones: mostly none, and then nothing is searched */
    struct ring release_ring;
    uint16_t releases[REACH_RELEASES_MAX];
    struct ring seen_ring;
    struct reach_seen seen[NAT_REACH_SEEN_MAX];
    struct reach_contacts contacts;
    struct reach_limit observe_limit;
    struct reach_limit dial_limit;
    struct nat_reach_stats stats;
};

/* 0: IPv4, 1: IPv6. */
size_t reach_family_index(uint8_t family);
bool reach_same_ip(const struct net_addr *a, const struct net_addr *b);
uint64_t reach_min(uint64_t a, uint64_t b);
/* Uniform in 3/4 to 5/4 of the period, so that nodes started together do not ask together. */
uint64_t reach_jitter(struct nat_reach *reach, uint64_t period_ns);
uint64_t reach_nonce(struct nat_reach *reach);
/* Queues a message; false: the queue is full, which is counted. */
bool reach_queue(struct nat_reach *reach, uint64_t due_ns, const struct id *peer, const struct net_addr *to,
                 uint8_t kind, const struct reach_body *body);
void reach_release(struct nat_reach *reach, uint16_t via);
/* Asks for a socket, unless that is under way. */
void reach_want_socket(struct nat_reach *reach, uint64_t now_ns, size_t purpose);

/* Picks an observer of the family that is none of `avoid`, the fewest failures first, else at random;
 * other_group: also of no network of theirs.  NULL: none. */
struct reach_peer *reach_pick(struct nat_reach *reach, size_t family, const struct net_addr avoid[],
                              size_t avoid_count, bool other_group);
struct reach_peer *reach_observer_at(struct nat_reach *reach, const struct net_addr *addr);
size_t reach_observer_count(const struct nat_reach *reach, size_t family);
/* The voucher for this peer at this IP; NULL: none. */
const struct reach_peer *reach_helper_find(const struct nat_reach *reach, uint64_t now_ns,
                                           const struct id *id, const struct net_addr *addr);
/* A random helper fit to try this asker's address, of another network than `besides` (NULL: any); NULL: none.
 */
const struct reach_peer *reach_helper_pick(struct nat_reach *reach, uint64_t now_ns, const struct id *asker,
                                           const struct net_addr *target, const struct reach_peer *besides);

void reach_survey_want(struct nat_reach *reach, size_t family, uint64_t at_ns);
void reach_survey_sockets(struct nat_reach *reach, uint64_t now_ns, size_t family,
                          const struct nat_reach_socket *socket);
void reach_survey_tick(struct nat_reach *reach, uint64_t now_ns, size_t family);
uint64_t reach_survey_deadline(const struct nat_reach *reach, size_t family);
/* An answer to one of its questions?  False: not a survey's. */
bool reach_survey_answer(struct nat_reach *reach, uint64_t now_ns, size_t family,
                         const struct net_message *message, const struct reach_body *body);

void reach_watch_tick(struct nat_reach *reach, uint64_t now_ns, size_t family);
uint64_t reach_watch_deadline(const struct nat_reach *reach, size_t family);
bool reach_watch_answer(struct nat_reach *reach, uint64_t now_ns, size_t family,
                        const struct net_message *message, const struct reach_body *body);
/* Another outer address: what was measured is of another NAT. */
void reach_watch_reset(struct nat_reach *reach, size_t family);
/* Our own address has changed: the mapping ends by that, and its age says nothing. */
void reach_watch_moved(struct nat_reach *reach, size_t family);
void reach_watch_seen(struct nat_reach *reach, uint64_t now_ns, const struct net_addr *observer,
                      const struct net_addr *seen);

void reach_dial_tick(struct nat_reach *reach, uint64_t now_ns, struct reach_own *own);
/* More helpers have come. */
void reach_dial_peer(struct nat_reach *reach, uint64_t now_ns, size_t family);
MUST_USE int reach_dial_answer(struct nat_reach *reach, uint64_t now_ns, const struct net_message *message,
                               const struct reach_body *body);
MUST_USE int reach_dial_probe(struct nat_reach *reach, uint64_t now_ns, const struct net_message *message,
                              const struct reach_body *body);

MUST_USE int reach_serve_observe(struct nat_reach *reach, uint64_t now_ns, const struct net_message *message,
                                 const struct reach_body *body);
MUST_USE int reach_serve_dialback(struct nat_reach *reach, uint64_t now_ns, const struct net_message *message,
                                  const struct reach_body *body);
MUST_USE int reach_serve_forward(struct nat_reach *reach, uint64_t now_ns, const struct net_message *message,
                                 const struct reach_body *body);
void reach_serve_sockets(struct nat_reach *reach, uint64_t now_ns, size_t family,
                         const struct nat_reach_socket *socket);
void reach_serve_tick(struct nat_reach *reach, uint64_t now_ns);
uint64_t reach_serve_deadline(const struct nat_reach *reach);

#endif
