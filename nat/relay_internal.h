/* Private parts of nat/relay: the structs, the tables (relay_table.c), what happens to a session
 * (relay_session.c) and forwarding (relay_forward.c).  Included by nat/relay*.c of the server and their tests
 * only. */
#ifndef DUNLIN_NAT_RELAY_INTERNAL_H
#define DUNLIN_NAT_RELAY_INTERNAL_H

#include "base/ring.h"
#include "nat/relay.h"
#include "net/shaper.h"

enum {
    RELAY_NONE = 0xffff,        /* no slot */
    RELAY_OFFERS_MAX = 16,      /* undecided sessions offered to one node */
    RELAY_OFFERS_EASY = 2,      /* with so many, whoever asks must first prove its address */
    RELAY_OFFERS_GROUP_MAX = 4, /* of those, from one global /24 or /56 */
    RELAY_OFFERS_BURST = 16,    /* new ones at once; they come back at 8 a second */
    RELAY_OPENER = 0,           /* sides of a session, as in a frame's head */
    RELAY_TARGET = 1,
};

/* A node that holds a reservation, is in a session, or whose volume is remembered. */
struct relay_node {
    struct id id;
    struct net_addr addr; /* proven; family 0: not yet */
    struct net_addr from; /* of its last sealed message */
    struct shaper sending, receiving;
    uint64_t volume_used;
    uint64_t period_end_ns;
    uint64_t lease_until_ns; /* when reserved */
    uint64_t heard_ns;
    uint64_t offers_ns; /* the time up to which its offers are used up */
    uint64_t bytes_from, bytes_to, dropped_rate;
    uint32_t sessions; /* of any state */
    uint16_t chain;    /* next in the id chain, or in the free list */
    bool used, reserved;
};

enum relay_session_state { RELAY_FREE, RELAY_OFFERED, RELAY_OPEN, RELAY_ENDED };

struct relay_session {
    uint64_t id;
    enum relay_session_state state;
    uint8_t reason;            /* of ENDED: enum nat_relay_reason */
    uint8_t tries;             /* OFFERs or NOTICEs so far */
    bool told[2];              /* ENDED: this side knows */
    uint16_t node[2];          /* by side */
    uint16_t chain;            /* next in the id chain, or in the free list */
    uint32_t request[2];       /* OPEN of the opener, ACCEPT of the target */
    struct net_addr answer[2]; /* where OPEN and ACCEPT came from: the id is sealed to there */
    uint64_t since_ns;         /* of the state */
    uint64_t opened_ns;        /* 0: never */
    uint64_t wake_ns;          /* OFFERED, ENDED: next repetition or end */
    uint64_t bytes[2];         /* forwarded, by sender's side */
};

struct relay_send {
    struct id peer;
    struct net_addr addr;
    struct nat_relay_message message;
};

struct nat_relay {
    struct nat_relay_config config;
    struct nat_relay_stats stats;
    struct relay_node *nodes;       /* node_count */
    struct relay_session *sessions; /* sessions_max */
    uint16_t *node_heads;           /* head_count each */
    uint16_t *session_heads;
    uint16_t node_count, head_count;
    uint16_t free_node, free_session;
    uint16_t reserved_count;
    struct shaper total;
    struct relay_send sends[NAT_RELAY_SENDS_MAX];
    struct ring send_ring;
    struct nat_relay_event events[NAT_RELAY_EVENTS_MAX];
    struct ring event_ring;
    uint64_t deadline_ns; /* no later than anything due */
    uint8_t hash_key[16];
    uint8_t nonce_key[16];
};

/* ---- relay_table.c ---- */

uint16_t relay_node_count(const struct nat_relay_config *config);
uint16_t relay_head_count(const struct nat_relay_config *config);
struct relay_node *relay_node_find(const struct nat_relay *relay, const struct id *id);
/* The node's entry, new if need be; an idle one that is only remembered gives way.  NULL: no room. */
struct relay_node *relay_node_take(struct nat_relay *relay, uint64_t now_ns, const struct id *id);
uint16_t relay_node_index(const struct nat_relay *relay, const struct relay_node *node);
struct relay_session *relay_session_find(const struct nat_relay *relay, uint64_t id);
/* The session of these two, opened by the first with this request, else the one that has not ended. */
struct relay_session *relay_session_between(const struct nat_relay *relay, const struct relay_node *opener,
                                            const struct relay_node *target, uint32_t request);
/* Sessions of the node that have not ended. */
size_t relay_live_sessions(const struct nat_relay *relay, const struct relay_node *node);
/* A session in state OFFERED; the one that ended first gives way.  NULL: no room. */
struct relay_session *relay_session_new(struct nat_relay *relay, struct relay_node *opener,
                                        struct relay_node *target);
void relay_session_free(struct nat_relay *relay, struct relay_session *session);
/* Nodes of the same global /24 or /56 that hold a reservation (or are in sessions without one), `but`
 * excepted. */
size_t relay_group_count(const struct nat_relay *relay, const struct net_addr *addr, bool reserved,
                         const struct relay_node *but);
/* Undecided sessions offered to target, of the group only when addr is not NULL. */
size_t relay_offers(const struct nat_relay *relay, const struct relay_node *target,
                    const struct net_addr *addr);
void relay_table_check(const struct nat_relay *relay);

/* ---- relay.c ---- */

bool relay_is_off(const struct nat_relay *relay);
/* Bytes per second that a client is granted each way. */
uint64_t relay_granted_rate(const struct nat_relay *relay);
/* Starts a new period when the old is over, and returns the bytes left; UINT64_MAX: unlimited. */
uint64_t relay_volume_left(const struct nat_relay *relay, uint64_t now_ns, struct relay_node *node);
/* Where a node's unasked messages go: its proven address, else where it was heard. */
const struct net_addr *relay_node_addr(const struct relay_node *node);
/* Queues a message; ERR_FULL: no room, counted. */
int relay_send(struct nat_relay *relay, const struct id *peer, const struct net_addr *addr,
               const struct nat_relay_message *message);
void relay_event(struct nat_relay *relay, const struct nat_relay_event *event);
/* Wakes nat_relay_tick no later than this. */
void relay_wake(struct nat_relay *relay, uint64_t at_ns);
/* The nonce that proves this address of this node, of the current minute or `ago` before. */
void relay_nonce(const struct nat_relay *relay, uint64_t now_ns, unsigned ago, const struct id *id,
                 const struct net_addr *addr, uint8_t nonce[NAT_RELAY_NONCE]);
/* Adds the nonce to a message unless node (NULL: none) is proven at addr. */
void relay_add_nonce(const struct nat_relay *relay, uint64_t now_ns, const struct relay_node *node,
                     const struct id *id, const struct net_addr *addr, struct nat_relay_message *message);
/* The message holds the nonce of the address that it came from. */
bool relay_proves(const struct nat_relay *relay, uint64_t now_ns, const struct net_message *from,
                  const struct nat_relay_message *m);
/* Frames to the node go there from now on. */
void relay_prove(struct nat_relay *relay, struct relay_node *node, const struct net_addr *addr);

/* ---- relay_session.c ---- */

int relay_recv_open(struct nat_relay *relay, uint64_t now_ns, const struct net_message *from,
                    const struct nat_relay_message *m);
int relay_recv_accept(struct nat_relay *relay, uint64_t now_ns, const struct net_message *from,
                      const struct nat_relay_message *m);
int relay_recv_decline(struct nat_relay *relay, uint64_t now_ns, const struct net_message *from,
                       const struct nat_relay_message *m);
int relay_recv_close(struct nat_relay *relay, uint64_t now_ns, const struct net_message *from,
                     const struct nat_relay_message *m);
/* Ends a session that has not ended; both sides will be told. */
void relay_session_end(struct nat_relay *relay, uint64_t now_ns, struct relay_session *session,
                       enum nat_relay_reason reason);
/* Ends what the node is in: all, or only what was opened to it. */
void relay_end_all(struct nat_relay *relay, uint64_t now_ns, const struct relay_node *node, bool as_target,
                   enum nat_relay_reason reason);
/* Repeats OFFERs and NOTICEs, ends and frees; returns when it is due next. */
uint64_t relay_session_step(struct nat_relay *relay, uint64_t now_ns, struct relay_session *session);
/* The side of the node in the session; -1: neither. */
int relay_side_of(const struct nat_relay *relay, const struct relay_session *session,
                  const struct relay_node *node);

#endif
