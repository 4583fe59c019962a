/* Private parts of nat/relay_client: the structs, the relays (relay_client_relays.c) and the sessions
 * (relay_client_sessions.c).  Included by nat/relay_client*.c and their tests only. */
#ifndef DUNLIN_NAT_RELAY_CLIENT_INTERNAL_H
#define DUNLIN_NAT_RELAY_CLIENT_INTERNAL_H

#include "base/ring.h"
#include "nat/relay_client.h"

enum {
    RC_NONE = 0xffff,     /* no slot */
    RC_CONFIRMS_MAX = 32, /* CLOSEs that confirm a NOTICE; beyond it the relay repeats its NOTICE */
    RC_TOKEN_SLOT_BITS = 12,
    RC_SLOTS_MAX = 1 << RC_TOKEN_SLOT_BITS,
};

/* Something asked and not answered yet; repeated with the same id. */
struct rc_request {
    bool open;
    uint8_t tries;
    uint32_t id;
    uint64_t first_ns; /* since when an answer is missing */
    uint64_t at_ns;    /* next time to send */
    uint64_t sent_ns;
};

enum rc_relay_state { RC_IDLE, RC_ASKING, RC_HELD };

struct rc_relay {
    struct id id;
    struct net_addr addr;
    struct net_addr alt;  /* another address that is being tried; family 0: none */
    struct net_addr seen; /* we, as the relay sees us */
    enum rc_relay_state state;
    bool used, candidate;
    bool alt_answers; /* alt has answered: frames may come from there */
    bool has_nonce;   /* of the RESERVE under way */
    uint8_t nonce[NAT_RELAY_NONCE];
    uint8_t prove_nonce[NAT_RELAY_NONCE];
    struct net_addr prove_addr; /* where that nonce came from */
    struct rc_request keep, alt_keep, ask, prove, release;
    uint32_t sessions; /* of any state but WAITING */
    uint32_t failures; /* since the last answer */
    uint32_t lease_s;
    uint64_t moved_ns;    /* our address changed, and it has yet to know: KEEP and PROVE are urgent; 0: no */
    uint64_t keep_at_ns;  /* next KEEP when none is open */
    uint64_t heard_ns;    /* any frame or message */
    uint64_t used_ns;     /* a frame in or out */
    uint64_t renew_at_ns; /* HELD */
    uint64_t lease_until_ns;
    uint64_t backoff_until_ns;
    uint64_t rtt_ns, rate, volume;
    enum nat_relay_reason refused; /* last time, until it grants something again */
};

enum rc_session_state {
    RC_FREE,
    RC_OPENING,
    RC_OFFERED,
    RC_ACCEPTING,
    RC_UP,
    RC_CLOSING,
    RC_DECLINED,
    RC_WAITING
};

struct rc_session {
    uint64_t id; /* 0: not known yet */
    struct id peer;
    struct net_addr route;
    struct net_addr seen; /* the peer, as the relay sees it; family 0: not told */
    enum rc_session_state state;
    uint8_t side;
    bool was_up;
    bool has_nonce; /* of the OPEN under way */
    uint8_t nonce[NAT_RELAY_NONCE];
    uint16_t relay;
    uint16_t chain; /* next with this hash of the id, or in the free list */
    uint32_t generation;
    uint32_t lease_s;
    struct rc_request request; /* OPEN, ACCEPT, DECLINE or CLOSE */
    uint64_t until_ns;         /* end of the state, unless UP */
    uint64_t rate, volume;
    uint64_t granted, told; /* volume at the start, and as the last event said */
};

struct rc_confirm {
    struct id relay;
    struct net_addr addr;
    uint64_t session;
};

struct nat_relay_client {
    struct nat_relay_client_config config;
    struct nat_relay_client_stats stats;
    struct rc_relay relays[NAT_RELAY_CLIENT_RELAYS_MAX];
    struct rc_session *sessions; /* slot_count */
    uint16_t *heads;             /* head_count */
    uint16_t *waiting;           /* slot_count: slots in WAITING, the oldest first */
    struct ring waiting_ring;
    uint16_t slot_count, head_count;
    uint16_t free_head;
    uint16_t live_count; /* neither FREE nor WAITING */
    uint16_t offer_count;
    struct rc_confirm confirms[RC_CONFIRMS_MAX];
    struct ring confirm_ring;
    struct nat_relay_client_event events[NAT_RELAY_CLIENT_EVENTS_MAX];
    struct ring event_ring;
    uint32_t next_request;
    uint64_t settle_until_ns; /* a choice among new candidates waits for their answers until then */
    uint64_t deadline_ns;     /* no later than anything due */
    uint8_t hash_key[16];
};

/* ---- relay_client.c ---- */

void rc_event(struct nat_relay_client *client, const struct nat_relay_client_event *event);
void rc_wake(struct nat_relay_client *client, uint64_t at_ns);
void rc_request_start(struct nat_relay_client *client, uint64_t now_ns, struct rc_request *request);
bool rc_request_due(const struct rc_request *request, uint64_t now_ns);
/* The request leaves now and again after repeat_ns, or (slower) up to four times that. */
void rc_request_sent(struct nat_relay_client *client, uint64_t now_ns, struct rc_request *request,
                     bool slower);
/* Has `at_ns` take part in the least of *next_ns. */
void rc_least(uint64_t *next_ns, uint64_t at_ns);
/* Confirms a NOTICE, or ends a session that nobody here wants, by a CLOSE that is not repeated. */
void rc_confirm(struct nat_relay_client *client, const struct id *relay, const struct net_addr *addr,
                uint64_t session);

/* ---- relay_client_relays.c ---- */

struct rc_relay *rc_relay_find(struct nat_relay_client *client, const struct id *id);
/* The relay's entry; a new one if need be.  NULL: no room. */
struct rc_relay *rc_relay_take(struct nat_relay_client *client, uint64_t now_ns, const struct id *id,
                               const struct net_addr *addr);
uint16_t rc_relay_index(const struct nat_relay_client *client, const struct rc_relay *relay);
/* A further address of a known relay: tried, and used when it answers. */
void rc_relay_try(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                  const struct net_addr *addr);
/* Frees the entry when nothing needs it. */
void rc_relay_settle(struct nat_relay_client *client, struct rc_relay *relay);
/* A reservation or a session depends on it. */
bool rc_relay_active(const struct rc_relay *relay);
/* Remembers why it refused, unless the reason lies with somebody else. */
void rc_relay_blame(struct rc_relay *relay, unsigned reason);
/* Starts a KEEP now, or repeats the open one. */
void rc_keep_now(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay);
/* A frame went through it. */
void rc_relay_used(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay);
void rc_prove(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
              const struct net_addr *addr, const struct nat_relay_message *m);
void rc_give_back(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay);
/* Asks or gives back until as many reservations are held as wanted. */
void rc_choose(struct nat_relay_client *client, uint64_t now_ns);
int rc_recv_reserved(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                     const struct nat_relay_message *m);
/* false: not about a reservation. */
bool rc_recv_reserve_refused(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                             const struct nat_relay_message *m);
int rc_recv_kept(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                 const struct net_message *from, const struct nat_relay_message *m);
int rc_recv_proven(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                   const struct net_message *from, const struct nat_relay_message *m);
void rc_relay_step(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay);
uint64_t rc_relay_next_ns(const struct nat_relay_client *client, const struct rc_relay *relay);
bool rc_relay_send(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                   struct net_message *out);
void rc_relays_check(const struct nat_relay_client *client);

/* ---- relay_client_sessions.c ---- */

struct rc_session *rc_session_new(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                                  const struct id *peer, enum rc_session_state state);
/* Gives the slot back, with its quarantine when its route was known. */
void rc_session_end(struct nat_relay_client *client, uint64_t now_ns, struct rc_session *session);
/* Ends it with the event that its state owes. */
void rc_session_fail(struct nat_relay_client *client, uint64_t now_ns, struct rc_session *session,
                     uint8_t reason);
/* Begins a state of which there is an end. */
void rc_session_enter(struct nat_relay_client *client, uint64_t now_ns, struct rc_session *session,
                      enum rc_session_state state);
void rc_session_up(struct nat_relay_client *client, uint64_t now_ns, struct rc_session *session);
struct rc_session *rc_session_find(const struct nat_relay_client *client, const struct rc_relay *relay,
                                   uint64_t id);
/* First session in the chain of this id; the next ones by `chain`. */
uint16_t rc_session_chain(const struct nat_relay_client *client, uint64_t id);
struct rc_session *rc_session_of(const struct nat_relay_client *client, uint32_t token);
uint32_t rc_session_token(const struct nat_relay_client *client, const struct rc_session *session);
int rc_recv_offer(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                  const struct net_message *from, const struct nat_relay_message *m);
int rc_recv_opened(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                   const struct net_message *from, const struct nat_relay_message *m);
int rc_recv_open_refused(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                         const struct nat_relay_message *m);
int rc_recv_notice(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                   const struct net_message *from, const struct nat_relay_message *m);
/* Rate and volume as the relay now says. */
void rc_sessions_quota(struct nat_relay_client *client, const struct rc_relay *relay,
                       const struct nat_relay_message *m);
/* The relay is lost: all its sessions go. */
void rc_sessions_lost(struct nat_relay_client *client, uint64_t now_ns, const struct rc_relay *relay);
void rc_sessions_list(const struct nat_relay_client *client, const struct rc_relay *relay,
                      struct nat_relay_message *m);
void rc_session_step(struct nat_relay_client *client, uint64_t now_ns, struct rc_session *session);
uint64_t rc_session_next_ns(const struct rc_session *session);
bool rc_session_send(struct nat_relay_client *client, uint64_t now_ns, struct rc_session *session,
                     struct net_message *out);
void rc_sessions_check(const struct nat_relay_client *client);

#endif
