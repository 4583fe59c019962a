/* Private parts of nat/path: the structs, the table (path_table.c), the log (path_log.c), when to probe and
 * what deaths teach (path_probe.c), what happens to one peer over time (path_route.c).  Included by
 * nat/path*.c and their tests only. */
#ifndef DUNLIN_NAT_PATH_INTERNAL_H
#define DUNLIN_NAT_PATH_INTERNAL_H

#include "base/ring.h"
#include "nat/path.h"

#define MS(x) ((uint64_t)(x)*1000000)

enum {
    PATH_NONE = 0xffff,          /* no slot */
    PATH_BUSY_BYTES = 4096,      /* fewer in flight may be one stray packet: their silence proves nothing */
    PATH_SENT_MAX = 32,          /* probes whose time is remembered: the answer to an older one is ignored */
    PATH_GROUP_INBOUND_MAX = 16, /* unwanted peers from one global /24 or /56 */
    PATH_GONE_WORDS = (NET_VIA_AUX_LAST + 64) / 64,
};

/* Routes of a lower class are preferred, whatever the round trips. */
enum path_class { PATH_CLASS_UDP, PATH_CLASS_TCP, PATH_CLASS_RELAYED };

enum path_ageing { PATH_YOUNG, PATH_AGEING_DUE, PATH_AGEING_TOLD };

struct path_candidate {
    struct net_addr addr;
    uint8_t kind;           /* enum nat_route_kind */
    uint8_t state;          /* enum nat_route_state */
    uint8_t ageing;         /* enum path_ageing */
    uint8_t good_intervals; /* idle ones survived since the interval last grew */
    bool used;
    bool offered;     /* by the caller; else learnt from a datagram's source */
    bool authentic;   /* an authentic datagram came from here */
    bool proven;      /* answered a probe at some time */
    bool probe_due;   /* waits in poll_send */
    bool told_ageing; /* the peer says that its NAT is about to end the mapping */
    uint16_t chain;   /* next in the address chain: peer slot * 12 + candidate */
    uint32_t next_sequence;
    uint32_t settled;                /* newest answered sequence; all above are unanswered */
    uint32_t answers;                /* in a row */
    uint32_t suspect_sequence;       /* next_sequence when suspicion began */
    uint32_t sent_us[PATH_SENT_MAX]; /* by sequence */
    uint64_t unanswered_since_ns;    /* when the oldest unanswered probe was sent */
    uint64_t gap_ns;                 /* silence both ways before that probe */
    uint64_t probe_at_ns;
    uint64_t probed_ns; /* last */
    uint64_t heard_ns;
    uint64_t answered_ns;
    uint64_t since_ns; /* of the state */
    uint64_t srtt_ns;
    uint64_t rttvar_ns;
    uint64_t wary_until_ns; /* after a false alarm: the cautious limit until then */
    uint64_t born_ns;       /* when its mapping began */
    uint64_t keep_ns;       /* idle probe interval */
    uint64_t good_ns;       /* longest gap after which a probe was answered */
};

/* What the death of a route would teach if the peer proves to be alive otherwise. */
struct path_lesson {
    uint64_t until_ns; /* 0: none */
    uint64_t value_ns; /* idle: the interval to keep below; else the age at which it died */
    bool idle;         /* died after an unprecedented silence; else in the midst of use */
    bool sole;         /* no standby answered at the time */
    uint16_t dead;     /* candidate */
};

struct path_log {
    struct nat_path_trace entries[NAT_PATH_TRACE_MAX];
    struct ring ring;
    uint16_t next_free;
};

struct path_peer {
    struct id id;
    struct path_candidate candidates[NAT_PATH_CANDIDATES_MAX];
    bool used;
    bool wanted;
    bool send_listed;  /* in the list of peers with probes to send; outlives the peer */
    bool event_listed; /* in the list of peers with a change to tell; outlives the peer */
    bool told_up;
    bool doubtful;         /* the route in use has become suspect, and a standby helps out: to be told */
    bool improved;         /* the route in use replaced one that worked */
    bool carried;          /* QUIC came by the route in use since it was last taken or doubted */
    bool hinted;           /* the last suspicion came of a sign, not of silence */
    uint16_t heard_beside; /* datagrams in a row that came by `beside`, none by the route in use */
    uint16_t beside;       /* candidate, or PATH_NONE */
    uint16_t active;       /* candidate, or PATH_NONE */
    uint16_t chain;        /* next in the id chain, or in the free list */
    uint16_t log;          /* of a wanted peer, or PATH_NONE */
    uint32_t flaps;
    bool life_learnt;        /* else the caller told it */
    uint64_t life_ns;        /* of mappings on the way; 0: not known to end */
    uint64_t died_at_age_ns; /* the last route that did in use; 0: none */
    struct path_lesson lesson;
    struct net_addr told; /* route as the last event said; valid when told_up */
    uint64_t in_flight;
    uint64_t hint_ns;       /* of the last busy hint */
    uint64_t busy_since_ns; /* since when more than the threshold is in flight */
    uint64_t busy_until_ns; /* probing stays brisk until then */
    uint64_t punch_until_ns;
    uint64_t changed_ns;   /* last time a route became active */
    uint64_t lost_ns;      /* when the last route died */
    uint64_t doubt_at_ns;  /* QUIC comes by another route: ours is doubted if silent until then; 0: no */
    uint64_t doubted_ns;   /* when that happened last; 0: never */
    uint64_t new_probe_ns; /* last probe to an address learnt from a datagram */
    uint64_t interest_ns;  /* an unwanted peer is kept for a minute after this */
    uint64_t wake_ns;
};

/* Peers in the order in which they were listed. */
struct path_list {
    uint16_t *slots; /* [ring.cap], each a peer's */
    struct ring ring;
};

struct path_answer {
    struct id peer;
    struct net_addr addr;
    struct net_addr seen; /* what the answer says */
    uint32_t sequence;
};

struct nat_path {
    struct nat_path_config config;
    struct nat_path_stats stats;
    struct path_peer
        *peers;            /* slot_count of them: peers_max wanted, a quarter more that came by themselves */
    struct path_log *logs; /* peers_max of them */
    uint16_t *id_heads;    /* head_count each */
    uint16_t *addr_heads;
    uint16_t slot_count, head_count;
    uint16_t wanted_count, inbound_count;
    uint16_t free_head, log_free_head;
    uint32_t idle_doubts;  /* idle deaths since the last lesson that may have been outages */
    uint64_t keepalive_ns; /* ceiling of idle intervals; 0: unknown */
    uint32_t gone_count;
    uint64_t gone[PATH_GONE_WORDS]; /* auxiliary sockets without candidates, to be told, by via */
    struct path_list sends, events;
    struct path_answer answers[NAT_PATH_ANSWERS_MAX];
    struct ring answer_ring;
    struct nat_path_event notices[NAT_PATH_NOTICES_MAX]; /* events that outlive their peer's entry */
    struct ring notice_ring;
    uint64_t deadline_ns; /* no later than the earliest wake_ns */
    uint64_t stalled_ns;  /* last tick that came far too late: silence before it proves nothing */
    uint8_t hash_key[16];
};

/* ---- path_table.c ---- */

uint16_t path_slots(size_t peers_max);
uint16_t path_heads(uint16_t slots);
struct path_peer *path_find(const struct nat_path *path, const struct id *id);
/* A fresh peer; NULL: no room of that sort (wanted or not). */
struct path_peer *path_add(struct nat_path *path, uint64_t now_ns, const struct id *id, bool wanted);
void path_remove(struct nat_path *path, struct path_peer *peer);
/* Makes an unwanted peer wanted; there must be room (asserted). */
void path_want(struct nat_path *path, uint64_t now_ns, struct path_peer *peer);
struct path_candidate *path_candidate_at(struct path_peer *peer, const struct net_addr *addr);
/* A fresh candidate in state CANDIDATE, displacing one in worse standing; NULL: there is none.  A learnt one
 * never displaces one that the caller offered. */
struct path_candidate *path_candidate_new(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                                          const struct net_addr *addr, enum nat_route_kind kind,
                                          bool offered);
/* The caller names one that is known already. */
void path_candidate_offered(struct path_peer *peer, struct path_candidate *candidate,
                            enum nat_route_kind kind);
/* Logs and drops it; when it was the last by its auxiliary socket that is told. */
void path_candidate_drop(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                         struct path_candidate *candidate);
/* A socket whose last candidate went; false: none. */
bool path_gone_pop(struct nat_path *path, uint16_t *via);
/* The caller closed it: nothing is to be told. */
void path_gone_forget(struct nat_path *path, uint16_t via);
/* First of the candidates with this hash of the address, and the next; NULL at the end.  *peer is its owner.
 */
struct path_candidate *path_addr_first(const struct nat_path *path, const struct net_addr *addr,
                                       struct path_peer **peer);
struct path_candidate *path_addr_next(const struct nat_path *path, const struct path_candidate *at,
                                      struct path_peer **peer);
/* Unwanted peers with a candidate in the group of addr. */
size_t path_group_count(const struct nat_path *path, const struct net_addr *addr);
/* Lists a peer last; there is room for every peer once. */
void path_list_push(const struct nat_path *path, struct path_list *list, const struct path_peer *peer);
/* The peer listed first; NULL: none.  path_list_pop takes it out. */
struct path_peer *path_list_first(struct nat_path *path, const struct path_list *list);
struct path_peer *path_list_pop(struct nat_path *path, struct path_list *list);
/* Queues an event; when the queue is full the oldest gives way. */
void path_note(struct nat_path *path, const struct nat_path_event *event);
void path_table_check(const struct nat_path *path);

/* ---- path_log.c ---- */

void path_logs_init(struct nat_path *path);
uint16_t path_log_take(struct nat_path *path);
void path_log_give(struct nat_path *path, uint16_t log);
/* Writes an entry; unwanted peers have no log. */
void path_log(struct nat_path *path, uint64_t now_ns, const struct path_peer *peer,
              const struct path_candidate *candidate, enum nat_path_step step);

/* ---- path_probe.c ---- */

uint64_t path_later(uint64_t a, uint64_t b);
uint64_t path_sooner(uint64_t a, uint64_t b);
/* Probing is brisk: data flows. */
bool path_is_busy(const struct path_peer *peer, uint64_t now_ns);
enum path_class path_class(const struct path_candidate *candidate);
/* A direct route to a private address. */
bool path_is_local(const struct path_candidate *candidate);
/* How long an answer may take on a link that stalls: 1.5 round trips and 60 ms. */
uint64_t path_patience_ns(const struct path_candidate *candidate);
uint32_t path_unanswered(const struct path_candidate *candidate);
uint64_t path_probe_interval(const struct nat_path *path, uint64_t now_ns, const struct path_peer *peer,
                             const struct path_candidate *candidate);
/* A probe leaves now: returns its sequence. */
uint32_t path_probe_sent(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                         struct path_candidate *candidate);
/* Has a candidate probed at this time, if that is sooner than planned. */
void path_probe_by(struct path_candidate *candidate, uint64_t at_ns);
/* The same for every standby. */
void path_probe_standbys(struct path_peer *peer, uint64_t now_ns);
/* Starts an unproven or dead candidate from scratch. */
void path_retry(struct nat_path *path, struct path_candidate *candidate, uint64_t now_ns);
/* A mapping of the candidate begins: nothing is known of what it bears. */
void path_born(const struct nat_path *path, struct path_candidate *candidate, uint64_t now_ns);
/* Has a probe sent if one is due, and gives up what stays silent; the candidate may be gone afterwards. */
void path_step_candidate(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                         struct path_candidate *candidate);
/* The first probe after a gap was answered: the idle interval may grow. */
void path_gap_survived(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                       struct path_candidate *candidate);
/* Better than the active one by enough, and long enough, to be worth resetting QUIC's congestion state for.
 */
bool path_is_better(const struct path_peer *peer, uint64_t now_ns, const struct path_candidate *candidate,
                    const struct path_candidate *active);
/* A proven route died, or the peer answers: what that teaches about its NATs. */
void path_learn_death(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                      const struct path_candidate *candidate);
void path_learn_alive(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                      const struct path_candidate *candidate);
/* Its mapping has had 0.6 of its life at this time; UINT64_MAX: never. */
uint64_t path_ageing_at(const struct path_peer *peer, const struct path_candidate *candidate);

/* ---- path_route.c ---- */

/* Authentic bytes of peer came from addr. */
void path_heard_from(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                     const struct net_addr *addr);
/* It was a QUIC packet. */
void path_carried_by(struct path_peer *peer, uint64_t now_ns, const struct net_addr *addr);
/* The probe of this sequence was answered from where it went; false: it is not outstanding. */
bool path_answered(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                   struct path_candidate *candidate, uint32_t sequence);
/* Its socket, link or session is closed. */
void path_candidate_close(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                          struct path_candidate *candidate);
/* The standby to which packets go too while the active route is suspect; PATH_NONE: none. */
uint16_t path_second(const struct path_peer *peer);
/* Lists the peer as one with something to tell. */
void path_tell(struct nat_path *path, struct path_peer *peer);
/* Runs what is due for the peer; it may be gone afterwards. */
void path_step(struct nat_path *path, uint64_t now_ns, struct path_peer *peer);
/* What the peer's probe by this address said of its mapping. */
void path_told_age(struct path_peer *peer, uint64_t now_ns, const struct net_addr *addr, bool ageing);
/* Our own address has changed: the route in use is suspect from now on, or all that is known is tried. */
void path_moved(struct nat_path *path, uint64_t now_ns, struct path_peer *peer);
/* While the route in use is suspect: standbys are probed, and QUIC is to send by them. */
void path_seek_help(struct nat_path *path, uint64_t now_ns, struct path_peer *peer);
/* Recomputes when the peer needs path_step next, and lowers the core's deadline. */
void path_plan(struct nat_path *path, uint64_t now_ns, struct path_peer *peer);

#endif
