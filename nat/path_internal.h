/* Private parts of nat/path: the structs, the table (path_table.c) and what happens to one peer over time
 * (path_route.c).  Included by nat/path*.c and their tests only. */
#ifndef DUNLIN_NAT_PATH_INTERNAL_H
#define DUNLIN_NAT_PATH_INTERNAL_H

#include "base/ring.h"
#include "nat/path.h"

enum {
    PATH_NONE = 0xffff,         /* no slot */
    PATH_BUSY_BYTES = 4096,     /* fewer in flight may be one stray packet: their silence proves nothing */
    PATH_SENT_MAX = 32,         /* probes whose time is remembered: the answer to an older one is ignored */
    PATH_GROUP_INBOUND_MAX = 16 /* unwanted peers from one global /24 or /56 */
};

struct path_candidate {
    struct net_addr addr;
    uint8_t kind;  /* enum nat_route_kind */
    uint8_t state; /* enum nat_route_state */
    bool used;
    bool authentic; /* an authentic datagram came from here */
    bool proven;    /* answered a probe at some time */
    bool probe_due; /* waits in poll_send */
    uint16_t chain; /* next in the address chain: peer slot * 8 + candidate */
    uint32_t next_sequence;
    uint32_t settled;                /* newest answered sequence; all above are unanswered */
    uint32_t answers;                /* in a row */
    uint32_t suspect_sequence;       /* next_sequence when suspicion began */
    uint32_t sent_us[PATH_SENT_MAX]; /* by sequence */
    uint64_t unanswered_since_ns;    /* when the oldest unanswered probe was sent */
    uint64_t probe_at_ns;
    uint64_t heard_ns;
    uint64_t answered_ns;
    uint64_t since_ns; /* of the state */
    uint64_t srtt_ns;
};

struct path_peer {
    struct id id;
    struct path_candidate candidates[NAT_PATH_CANDIDATES_MAX];
    bool used;
    bool wanted;
    bool send_listed;  /* in the list of peers with probes to send; outlives the peer */
    bool event_listed; /* in the list of peers with a change to tell; outlives the peer */
    bool told_up;
    uint16_t active; /* candidate, or PATH_NONE */
    uint16_t chain;  /* next in the id chain, or in the free list */
    uint32_t flaps;
    struct net_addr told; /* route as the last event said; valid when told_up */
    uint64_t in_flight;
    uint64_t hint_ns;       /* of the last busy hint */
    uint64_t busy_since_ns; /* since when more than the threshold is in flight */
    uint64_t busy_until_ns; /* probing stays brisk until then */
    uint64_t punch_until_ns;
    uint64_t changed_ns;   /* last time a route became active */
    uint64_t lost_ns;      /* when the last route died */
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
    uint32_t sequence;
};

struct nat_path {
    struct nat_path_config config;
    struct nat_path_stats stats;
    struct path_peer
        *peers;         /* slot_count of them: peers_max wanted, a quarter more that came by themselves */
    uint16_t *id_heads; /* head_count each */
    uint16_t *addr_heads;
    uint16_t slot_count, head_count;
    uint16_t wanted_count, inbound_count;
    uint16_t free_head;
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
struct path_candidate *path_candidate_at(struct path_peer *peer, const struct net_addr *addr);
/* A fresh candidate in state CANDIDATE, displacing one in worse standing; NULL: there is none. */
struct path_candidate *path_candidate_new(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                                          const struct net_addr *addr, enum nat_route_kind kind);
void path_candidate_drop(struct nat_path *path, struct path_peer *peer, struct path_candidate *candidate);
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

/* ---- path_route.c ---- */

/* Authentic bytes of peer came from addr. */
void path_heard_from(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                     const struct net_addr *addr);
/* The probe of this sequence was answered from where it went; false: it is not outstanding. */
bool path_answered(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                   struct path_candidate *candidate, uint32_t sequence);
/* A probe leaves now: returns its sequence. */
uint32_t path_probe_sent(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                         struct path_candidate *candidate);
/* Has a candidate probed at this time, if that is sooner than planned. */
void path_probe_by(struct path_candidate *candidate, uint64_t at_ns);
/* Starts an unproven or dead candidate from scratch. */
void path_retry(struct path_candidate *candidate, uint64_t now_ns);
/* Runs what is due for the peer; it may be gone afterwards. */
void path_step(struct nat_path *path, uint64_t now_ns, struct path_peer *peer);
/* Recomputes when the peer needs path_step next, and lowers the core's deadline. */
void path_plan(struct nat_path *path, uint64_t now_ns, struct path_peer *peer);
uint32_t path_unanswered(const struct path_candidate *candidate);

#endif
