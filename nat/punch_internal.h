/* Inside of punch.h: shared by nat/punch*.c and their tests only. */
#ifndef DUNLIN_NAT_PUNCH_INTERNAL_H
#define DUNLIN_NAT_PUNCH_INTERNAL_H

#include "base/ring.h"
#include "nat/punch.h"
#include "nat/punch_wire.h"

#define PUNCH_MS UINT64_C(1000000)

enum {
    PUNCH_NONE = 0xffff,
    PUNCH_ANSWERS_MAX = 64, /* answers to probes and looks waiting to be sent; beyond it they are dropped */
    PUNCH_ENDS_MAX = 32,    /* END messages waiting, likewise */
    PUNCH_SOCKETS = NAT_PUNCH_SOCKETS_MAX + NAT_PUNCH_KEPT_MAX,
    PUNCH_PLACES_MAX = 256,
    PUNCH_HITS_MAX = 4,
    PUNCH_RECENT_MAX = 4,
    PUNCH_SEEN_MAX = 2,
    PUNCH_PREDICT_PORTS = 64, /* ports ahead of the trend that are probed; tolerates about 50 foreign flows */
    PUNCH_PREDICT_AHEAD = 32, /* sequential x sequential: steps ahead of the trend all sockets aim at */
    PUNCH_BIRTHDAY_SOCKETS = 256,
    PUNCH_BIRTHDAY_LEAST = 64, /* fewer sockets than this are not worth the probes */
    PUNCH_PREDICT_LEAST = 48,  /* the port aimed at must be among the sockets' */
    PUNCH_PORT_LOW = 1024,     /* ports that NATs hand out */
    PUNCH_GO_MAX = 5,
    PUNCH_LOOK_MAX = 3,
};

enum punch_state {
    PUNCH_FREE,
    PUNCH_PREPARING, /* sockets, our own address or a survey are awaited before INVITE or ANSWER */
    PUNCH_INVITED,   /* inviter: INVITE is repeated until ANSWER comes */
    PUNCH_ARMING,    /* inviter: strategy known, sockets or survey awaited before GO */
    PUNCH_ANSWERED,  /* other side: waits for GO */
    PUNCH_PUNCHING,  /* probes go out from start_ns on */
    PUNCH_RESTING,   /* between attempts */
    PUNCH_CLOSED,    /* result decided; slot is free once it was polled and the linger is over */
};

/* A thing asked of the caller. */
enum punch_need { PUNCH_NOT_NEEDED, PUNCH_TO_ASK, PUNCH_ASKED, PUNCH_HAVE };

/* What one side tells of itself in INVITE or ANSWER. */
struct punch_side {
    struct nat_punch_profile profile;
    struct nat_punch_candidate candidates[NAT_PUNCH_CANDIDATES_MAX];
    size_t count;
};

/* The probes of one attempt: `passes` times `length` of them, `pace_ns` apart, a new pass every pass_ns. */
struct punch_plan {
    enum punch_aim { AIM_NOWHERE, AIM_CANDIDATES, AIM_SERIES, AIM_ONE, AIM_SPREAD, AIM_RANDOM } aim;
    uint32_t length;
    uint32_t passes;
    uint64_t pace_ns;
    uint64_t pass_ns;
    uint64_t delay_ns;  /* after start_ns */
    struct net_addr to; /* ONE, SPREAD: where; SERIES, RANDOM: at which IP */
};

struct punch_round {
    enum punch_state state;
    uint16_t peer;
    uint16_t generation; /* of the slot: tells tokens of former rounds apart */
    bool inviter;
    bool started; /* by nat_punch_start here */
    bool fresh;   /* the inviter asked for new mappings */
    bool quiet;   /* the peer ended it: it need not be told */
    uint8_t attempt;
    uint64_t id;
    uint64_t began_ns;
    struct net_addr
        old_way;        /* the standing route when it began; the path layer may find a new one meanwhile */
    uint64_t until_ns;  /* the state ends then at the latest */
    uint64_t resend_ns; /* INVITE, GO or LOOK again; UINT64_MAX: no */
    uint8_t sends;
    bool invite_due, answer_due, go_due, go_ack_due, look_due;
    uint64_t asked_ns; /* INVITE first sent, or received */
    uint64_t rtt_ns;
    struct punch_side ours; /* as told to the peer */
    struct punch_side theirs;
    bool shortcut;
    enum nat_punch_strategy strategy;
    /* what the attempt needs */
    enum punch_need sockets_need, survey_need, look_need;
    uint16_t sockets_want;
    uint16_t sockets[NAT_PUNCH_SOCKETS_MAX];
    uint16_t socket_count;
    uint64_t sockets_until_ns;
    uint16_t base_via; /* where probes leave that are not spread over the sockets */
    uint32_t look_number;
    /* execution */
    struct nat_punch_candidate targets[NAT_PUNCH_CANDIDATES_MAX]; /* theirs, as far as we may send there */
    size_t target_count;
    uint64_t start_ns;
    uint64_t next_ns;
    struct punch_plan plan;
    uint32_t cursor; /* probes of the plan that were sent or skipped in this attempt */
    uint32_t guess_mul, guess_add;
    uint32_t sequence;
    uint32_t probes_sent;                 /* in the whole round */
    struct net_addr hits[PUNCH_HITS_MAX]; /* sources of the peer's probes and answers */
    uint8_t hit_count, hits_told;
    uint32_t hit_cursor;
    uint64_t hit_next_ns;
    /* events to be polled */
    bool targets_due; /* candidates, then PUNCH */
    uint8_t targets_told;
    bool result_due;
    bool ok;
    enum nat_punch_reason reason;
    struct net_addr reached;
    uint64_t elapsed_ns;
};

struct punch_peer {
    bool used;
    bool signalled;
    uint16_t round; /* in progress; PUNCH_NONE: none */
    struct id id;
    struct net_addr signal;
    uint64_t rtt_ns;
    struct net_addr seen[PUNCH_SEEN_MAX];
    uint8_t seen_at;
    uint64_t used_ns; /* the idlest is forgotten first */
    uint32_t failures;
    uint64_t ready_ns;
    uint64_t hour_ns; /* start of the hour that inbound counts */
    uint32_t inbound;
    uint64_t recent[PUNCH_RECENT_MAX]; /* rounds that are over */
    uint8_t recent_reason[PUNCH_RECENT_MAX];
    uint8_t recent_at;
    uint8_t log_at, log_count;
    struct nat_punch_attempt log[NAT_PUNCH_LOG_MAX];
};

enum punch_socket_state { PUNCH_SOCKET_FREE, PUNCH_SOCKET_ROUND, PUNCH_SOCKET_KEPT, PUNCH_SOCKET_RELEASING };

struct punch_socket {
    enum punch_socket_state state;
    uint16_t via;
    uint16_t round; /* while in it */
    bool unused;    /* in a round: the caller gave it up before the round could keep it */
};

/* Unanswered probes towards one IP, for whichever peer.  Evicted by the space-saving rule: a newcomer
 * inherits the count it displaces, so no sequence of addresses resets a count that is in use. */
struct punch_place {
    uint8_t prefix[8]; /* family and IPv4 address, or the first 64 bits of IPv6 with the lowest bit family */
    uint32_t count;
    uint64_t since_ns;
};

struct punch_answer {
    struct id peer;
    struct net_addr addr;
    uint8_t kind;
    uint64_t round;
    uint32_t sequence;
};

struct punch_end {
    struct id peer;
    struct net_addr addr;
    uint64_t round;
    uint8_t attempt;
    uint8_t code;
};

struct punch_observer {
    struct id id;
    struct net_addr addr;
};

struct nat_punch {
    struct nat_punch_config config;
    struct nat_punch_stats stats;
    struct nat_punch_profile profile;
    struct nat_punch_candidate addrs[NAT_PUNCH_CANDIDATES_MAX];
    size_t addr_count;
    struct punch_observer observers[NAT_PUNCH_OBSERVERS_MAX];
    size_t observer_count, observer_at;
    struct punch_round rounds[NAT_PUNCH_ROUNDS_MAX];
    size_t turn; /* round whose probe goes next */
    struct punch_socket sockets[PUNCH_SOCKETS];
    struct punch_place places[PUNCH_PLACES_MAX];
    uint64_t minute_ns;
    uint32_t minute_count;
    struct ring answer_ring, end_ring;
    struct punch_answer answers[PUNCH_ANSWERS_MAX];
    struct punch_end ends[PUNCH_ENDS_MAX];
    size_t peer_count; /* slots */
    struct punch_peer *peers;
};

/* ---- punch_table.c: peers, sockets, budgets ---- */

struct punch_peer *punch_find(struct nat_punch *punch, const struct id *id);
/* NULL: every slot has a signalling address or a round. */
struct punch_peer *punch_peer_new(struct nat_punch *punch, const struct id *id);
bool punch_recent(const struct punch_peer *peer, uint64_t round, uint8_t *reason);
/* Takes a free slot or that of a lingering round whose result was polled; NULL: none. */
struct punch_round *punch_round_new(struct nat_punch *punch);
/* Sockets that may still be asked for; 0 when no more could be kept. */
size_t punch_sockets_free(const struct nat_punch *punch);
bool punch_socket_of(const struct punch_round *round, uint16_t via);
/* Releases all of the round's sockets but `keep` (NET_VIA_MAIN: none), which stays the round's. */
void punch_sockets_drop(struct nat_punch *punch, struct punch_round *round, uint16_t keep);
/* The round's sockets become kept ones; there is at most one then. */
void punch_sockets_keep(struct nat_punch *punch, struct punch_round *round);
/* Counts a probe of the round towards an address that has not answered; false: a cap forbids it. */
bool punch_allow(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                 const struct net_addr *to);
void punch_end_push(struct nat_punch *punch, const struct punch_peer *peer, uint64_t round, uint8_t attempt,
                    enum nat_punch_reason code);
void punch_check_tables(const struct nat_punch *punch);

/* ---- punch_choose.c: pure decisions about two sides ---- */

/* Both have global IPv6, or share a public address: plain probing is worth an attempt whatever IPv4 does. */
bool punch_shortcut(const struct punch_side *a, const struct punch_side *b);
/* Attempts that this pair deserves; at least 1. */
unsigned punch_attempts(const struct punch_side *a, const struct punch_side *b, bool shortcut);
/* NAT_PUNCH_DONE: the strategy can be carried out; else why not. */
enum nat_punch_reason punch_feasible(enum nat_punch_strategy strategy, const struct punch_side *a,
                                     const struct punch_side *b);
/* Where others reach this side over IPv4, best guess; family 0: unknown. */
struct net_addr punch_public4(const struct punch_side *side);
/* Addresses of theirs that we may probe; returns how many went to out. */
size_t punch_usable(const struct punch_side *ours, const struct punch_side *theirs,
                    struct nat_punch_candidate out[NAT_PUNCH_CANDIDATES_MAX]);
/* Auxiliary sockets that our side needs for the strategy, besides a fresh base. */
uint16_t punch_sockets_needed(enum nat_punch_strategy strategy, const struct nat_punch_profile *ours);
bool punch_survey_needed(enum nat_punch_strategy strategy, const struct nat_punch_profile *ours);
/* The NAT has more than one outer port: this is the side that is guessed, or that spreads. */
bool punch_is_many(const struct nat_punch_profile *profile);
bool punch_profile_valid(const struct nat_punch_profile *profile);

/* ---- punch_round.c: the life of a round ---- */

void punch_round_begin(struct nat_punch *punch, uint64_t now_ns, struct punch_peer *peer, bool fresh);
/* An INVITE that was accepted: of a new round, or of the next attempt. */
void punch_round_invited(struct nat_punch *punch, uint64_t now_ns, struct punch_peer *peer,
                         struct punch_round *round, const struct punch_message *message);
void punch_round_answered(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                          const struct punch_message *message);
void punch_round_go(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                    const struct punch_message *message);
/* A probe (answered: an answer) of the peer came from addr; false: it does not count. */
bool punch_round_hit(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                     const struct net_addr *addr, bool answered);
void punch_round_step(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round);
void punch_round_finish(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                        enum nat_punch_reason reason);
uint64_t punch_round_deadline(const struct punch_round *round);

/* ---- punch_probe.c: what goes out when ---- */

/* Makes the attempt's plan; start_ns, targets and sockets are set. */
void punch_plan(struct nat_punch *punch, struct punch_round *round);
/* Length of the attempt's execution. */
uint64_t punch_window(enum nat_punch_strategy strategy);
/* When the next probe is due; UINT64_MAX: none. */
uint64_t punch_probe_due(const struct punch_round *round);
/* Writes one due probe; false: none is due now. */
bool punch_probe_next(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                      struct net_message *out);

#endif
