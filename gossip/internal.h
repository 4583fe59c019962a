/* Private state of the exchange core; included by gossip/ and its tests only.
 *
 * Files: exchange.c life cycle, rounds, deadlines, outcomes; swap.c the invitation and the two-way transfer;
 * fetch.c whole states, served and fetched; stream.c the stream table, inputs from streams, outputs. */
#ifndef DUNLIN_GOSSIP_INTERNAL_H
#define DUNLIN_GOSSIP_INTERNAL_H

#include <sodium.h>

#include "base/ring.h"
#include "gossip/exchange.h"

enum {
    GOSSIP_BUFFERS = 2,          /* one at the merge thread, one being filled */
    GOSSIP_PATHS_MAX = 16,       /* partners whose round trip and throughput are remembered */
    GOSSIP_PEER_STREAMS_MAX = 3, /* accepted streams of one peer */
    GOSSIP_STREAMS_RESERVED = 2, /* never given to accepted streams: own invite, own fetch */
    GOSSIP_STREAM_HEAD = 4,      /* length prefix of a frame on the stream */
};

#define GOSSIP_NEVER UINT64_MAX

/* One stream.
 *
 *   ours:    OPENING --opened--> INVITED --ACCEPT--> SWAP --both commits--> DONE --finish--> FREE
 *            OPENING --opened--> ASKED --STATE--> FETCHING --all, digest right--> DONE
 *   theirs:  FRESH --INVITE, our round--> SWAP --> DONE
 *            FRESH --INVITE, not yet prepared or newer--> PARKED --> SWAP or REFUSED
 *            FRESH --FETCH--> SERVING --all sent--> DONE
 *            FRESH --anything we decline--> REFUSED --BUSY sent, finish--> FREE
 *   any:     --deadline, protocol error--> BROKEN --reset--> FREE;  --closed by peer--> FREE or DONE
 * OPENING, INVITED and SWAP belong to the open round (g->round.stream) and die with its deadline, ASKED and
 * FETCHING to g->fetch, SERVING to g->serving; every other state has a deadline of its own. */
enum gossip_stream_state {
    GOSSIP_STREAM_FREE,
    GOSSIP_STREAM_OPENING,
    GOSSIP_STREAM_INVITED,
    GOSSIP_STREAM_ASKED,
    GOSSIP_STREAM_FETCHING,
    GOSSIP_STREAM_FRESH,
    GOSSIP_STREAM_PARKED,
    GOSSIP_STREAM_SWAP,
    GOSSIP_STREAM_SERVING,
    GOSSIP_STREAM_REFUSED,
    GOSSIP_STREAM_DONE,
    GOSSIP_STREAM_BROKEN,
};

struct gossip_stream {
    enum gossip_stream_state state;
    bool ours; /* opened by us */
    bool has_handle;
    bool open_asked; /* OPENING: the action went out */
    uint64_t handle;
    uint64_t tag;
    struct id peer;
    size_t room;
    uint64_t deadline_ns;
    uint64_t asked_ns; /* INVITED: when INVITE went out; PARKED: when it came in */
    uint32_t queued;   /* 1 << enum gossip_type of control frames to send */
    enum gossip_busy reason;
    struct gossip_message invite; /* PARKED */
    struct bytes out;             /* SWAP, SERVING: blob to send */
    size_t out_at;                /* bytes of it sent */
    struct id digest;             /* DIGEST of out; STATE */
    struct id received;           /* COMMIT: digest of what came in */
};

/* The round given last.
 *
 *   CLOSED --gossip_round--> PREPARING --gossip_set_outgoing--> ASKING (inviter) or WAITING (acceptor)
 *   ASKING --ACCEPT--> SWAPPING <--INVITE-- WAITING
 *   SWAPPING --both commits--> CLOSED with MERGE;  any open state --deadline or failure--> CLOSED with SOLO
 * Open means not CLOSED; deadline_ns is at most half a round after the beginning. */
enum gossip_round_state {
    GOSSIP_ROUND_CLOSED,
    GOSSIP_ROUND_PREPARING,
    GOSSIP_ROUND_ASKING,
    GOSSIP_ROUND_WAITING,
    GOSSIP_ROUND_SWAPPING,
};

struct gossip_open_round {
    enum gossip_round_state state;
    uint64_t number;
    uint64_t began_ns;
    uint64_t deadline_ns;
    bool paired;
    bool inviter;
    struct id partner;
    bool has_blob;
    enum gossip_codec codec;
    struct bytes blob;
    uint64_t cookie;
    struct gossip_stream *stream; /* NULL: none yet */
    int buffer;                   /* index, -1: none */
    uint64_t swap_ns;             /* when the transfer began */
    enum gossip_codec in_codec;
    size_t in_len;
    size_t in_expected;
    bool digest_sent;
    bool verified;  /* their DIGEST matched; our COMMIT is queued or sent */
    bool confirmed; /* their COMMIT came */
    bool phase_told;
    bool behind_told;
    crypto_generichash_state in_hash;
    crypto_generichash_state out_hash;
};

enum gossip_buffer_use { GOSSIP_BUFFER_FREE, GOSSIP_BUFFER_FILLING, GOSSIP_BUFFER_LENT };

struct gossip_buffer {
    enum gossip_buffer_use use;
    uint8_t *data;
    uint64_t round; /* LENT: whose merge holds it */
};

struct gossip_path {
    struct id peer;
    uint64_t rtt_ns; /* smoothed; 0: not known */
    uint64_t rate;   /* bytes/s both ways together, smoothed; 0: not known */
};

struct gossip_snapshot {
    bool set;
    uint64_t round;
    struct bytes blob;
    struct id digest;
    uint64_t cookie;
};

struct gossip_serving {
    struct gossip_stream *stream; /* NULL: nobody is served; not to be followed when done */
    struct gossip_snapshot from;
    bool done;       /* all was handed out; the next input ends it (outputs raise no events) */
    bool detached;   /* a newer state was set meanwhile: release this one at the end */
    uint64_t end_ns; /* slower than serve_rate_min beyond this */
};

/* IDLE --gossip_fetch--> RUNNING (stream or retry_ns set) --last fragment or give up--> IDLE with one final
 * event. */
struct gossip_fetching {
    bool running;
    struct id peer;
    uint8_t *buffer;
    struct gossip_stream *stream; /* NULL while waiting for retry_ns */
    uint64_t retry_ns;
    uint64_t end_ns;
    unsigned tries;
    bool known; /* a STATE came: round and digest are valid */
    uint64_t round;
    struct id digest;
    size_t received;
    crypto_generichash_state hash;
};

struct gossip {
    struct gossip_config config;
    struct gossip_view view;
    bool begun; /* a round was given */
    bool paused;
    uint64_t next_tag;
    uint64_t advance_told; /* newest round named in an ADVANCE */
    uint64_t wait_ns;      /* how late invites came, smoothed; 0: not known */
    size_t size_max;       /* of a receive buffer */
    struct gossip_open_round round;
    struct gossip_buffer buffers[GOSSIP_BUFFERS];
    struct gossip_snapshot state;
    struct gossip_serving serving;
    struct gossip_fetching fetch;
    struct gossip_stream streams[GOSSIP_STREAMS_MAX];
    size_t cursor; /* stream that is offered the next SEND */
    struct gossip_path paths[GOSSIP_PATHS_MAX];
    size_t path_next;
    struct gossip_event events[GOSSIP_EVENTS_MAX];
    struct ring event_ring;
    struct gossip_counters counters;
    uint8_t frame[GOSSIP_FRAME_MAX];
};

/* exchange.c */
void gossip_emit(struct gossip *g, const struct gossip_event *event);
void gossip_release(struct gossip *g, uint64_t cookie);
/* Everything that is due at now_ns expires; called first by every input. */
void gossip_expire(struct gossip *g, uint64_t now_ns);
bool gossip_round_is_open(const struct gossip *g);
/* Ends the open round.  solo asks for UNCONFIRMED by itself when our commit is out and theirs is not in. */
void gossip_end_solo(struct gossip *g, uint64_t now_ns, enum gossip_solo reason, int err);
void gossip_end_merge(struct gossip *g, uint64_t now_ns);
/* Entry of this peer, made when there is none. */
struct gossip_path *gossip_path_of(struct gossip *g, const struct id *peer);
uint32_t gossip_age_ms(const struct gossip *g, uint64_t now_ns);
/* A member whose round `round` is age_ns old now: one PHASE event a round, when the rounds are at most one
 * apart. */
void gossip_tell_phase(struct gossip *g, uint64_t now_ns, uint64_t round, uint64_t age_ns);
/* True when the view supports this member's claim to be in this round. */
bool gossip_round_credible(const struct gossip *g, uint64_t now_ns, const struct id *peer, uint64_t round);
/* A member is in a newer round: ADVANCE or BEHIND, if that is credible. */
void gossip_tell_newer(struct gossip *g, uint64_t now_ns, const struct id *peer, uint64_t round);

/* swap.c */
void gossip_swap_open(struct gossip *g, uint64_t now_ns);
void gossip_swap_invite(struct gossip *g, uint64_t now_ns, struct gossip_stream *s,
                        const struct gossip_message *m);
/* Looks again at every parked invite. */
void gossip_swap_review(struct gossip *g, uint64_t now_ns);
void gossip_swap_answer(struct gossip *g, uint64_t now_ns, struct gossip_stream *s,
                        const struct gossip_message *m);
void gossip_swap_frame(struct gossip *g, uint64_t now_ns, struct gossip_stream *s,
                       const struct gossip_message *m);
/* The last fragment of the own blob has been handed out. */
void gossip_swap_sent(struct gossip *g, struct gossip_stream *s);

/* fetch.c */
void gossip_serve_begin(struct gossip *g, uint64_t now_ns, struct gossip_stream *s,
                        const struct gossip_message *m);
void gossip_serve_end(struct gossip *g);
void gossip_fetch_frame(struct gossip *g, uint64_t now_ns, struct gossip_stream *s,
                        const struct gossip_message *m);
/* The fetch's stream is gone: try again or give up. */
void gossip_fetch_broken(struct gossip *g, uint64_t now_ns, int err);
void gossip_fetch_expire(struct gossip *g, uint64_t now_ns);
uint64_t gossip_fetch_deadline(const struct gossip *g);

/* stream.c */
/* A free slot for a stream of ours (OPENING), or NULL. */
struct gossip_stream *gossip_stream_take(struct gossip *g, const struct id *peer);
void gossip_stream_break(struct gossip_stream *s);
/* Finishes after what is queued. */
void gossip_stream_finish(struct gossip *g, uint64_t now_ns, struct gossip_stream *s);
void gossip_stream_refuse(struct gossip *g, uint64_t now_ns, struct gossip_stream *s,
                          enum gossip_busy reason);

#endif
