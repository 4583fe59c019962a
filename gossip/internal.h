/* Private state of the exchange core; included by gossip/ and its tests only.
 *
 * Files: exchange.c life cycle, rounds, deadlines, outcomes; swap.c the invitation and the two-way transfer;
 * repair.c blocks that did not decode; phase.c what members learn of each other's rounds; fetch.c whole
 * states, served and fetched; stream.c the stream table and inputs from streams, output.c what is pulled. */
#ifndef DUNLIN_GOSSIP_INTERNAL_H
#define DUNLIN_GOSSIP_INTERNAL_H

#include <sodium.h>

#include "base/ring.h"
#include "gossip/codec_modular.h"
#include "gossip/exchange.h"

enum {
    GOSSIP_BUFFERS = 3,          /* one at the merge thread, one being filled in each lane */
    GOSSIP_PATHS_MAX = 32,       /* partners whose round trip and throughput are remembered */
    GOSSIP_PEER_STREAMS_MAX = 4, /* accepted streams of one peer: two exchanges, one early, a fetch */
    GOSSIP_STREAMS_RESERVED = 3, /* never given to accepted streams: own invites, own fetch */
    GOSSIP_STREAM_HEAD = 4,      /* length prefix of a frame on the stream */
    GOSSIP_ALIGN = 64,
    GOSSIP_NS_PER_MS = 1000000,
};

#define GOSSIP_QUEUE(type) (UINT32_C(1) << (type))
#define GOSSIP_NEVER       UINT64_MAX

/* One stream.
 *
 *   ours:    OPENING --opened--> INVITED --ACCEPT--> SWAP --both commits--> DONE --finish--> FREE
 *            OPENING --opened--> ASKED --STATE--> FETCHING --all, digest right--> DONE
 *   theirs:  FRESH --INVITE, our round--> SWAP --> DONE
 *            FRESH --INVITE, not yet prepared or newer--> PARKED --> SWAP or REFUSED
 *            FRESH --FETCH--> SERVING --all sent--> DONE
 *            FRESH --anything we decline--> REFUSED --BUSY sent, finish--> FREE
 *   any:     --deadline, protocol error--> BROKEN --reset--> FREE;  --closed by peer--> FREE or DONE
 * OPENING, INVITED and SWAP belong to an open exchange (its stream) and die with its deadline, ASKED and
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
    struct bytes want;            /* SWAP: list of blocks to ask for; goes out while WANT is queued */
    size_t want_at;               /* bytes of it sent */
    enum gossip_type out_type;    /* PIECE or REPAIR */
    struct bytes out;             /* SWAP, SERVING: blob or repair to send */
    size_t out_at;                /* bytes of it sent */
    struct id digest;             /* DIGEST of all sent so far; STATE */
    struct id received;           /* COMMIT: digest of all that came in */
};

/* What comes in from the partner, and what goes out to it.
 *
 *   in:   BLOB --DIGEST right, plain codec--> HELD
 *         BLOB --DIGEST right, modular--> DECODING + event --gossip_set_wanted, empty--> HELD
 *         DECODING --gossip_set_wanted, blocks--> REPAIRING --DIGEST right--> HELD: our COMMIT is queued
 *   out:  BLOB --all handed out, plain--> DONE
 *         BLOB --all handed out, modular--> SENT --WANT, empty--> DONE
 *         SENT --WANT, blocks--> ASKED + event --gossip_set_repair--> REPAIRING --all handed out--> DONE
 * A DIGEST is queued at the end of BLOB and of REPAIRING; their COMMIT may come in DONE only. */
enum gossip_in_state { GOSSIP_IN_BLOB, GOSSIP_IN_DECODING, GOSSIP_IN_REPAIRING, GOSSIP_IN_HELD };
enum gossip_out_state {
    GOSSIP_OUT_BLOB,
    GOSSIP_OUT_SENT,
    GOSSIP_OUT_ASKED,
    GOSSIP_OUT_REPAIRING,
    GOSSIP_OUT_DONE,
};

struct gossip_inward {
    enum gossip_in_state state;
    enum gossip_codec codec;
    size_t len;
    size_t expected;
    size_t repair_len;
    size_t repair_expected;
    uint64_t held_ns; /* HELD: since when */
    crypto_generichash_state hash;
};

struct gossip_outward {
    enum gossip_out_state state;
    size_t list_len; /* of the partner's list, as far as it came */
    size_t list_expected;
    size_t wanted; /* blocks on it */
    crypto_generichash_state hash;
};

/* What the caller lends for one exchange, until its outcome. */
struct gossip_loan {
    bool set;
    struct bytes bytes;
    uint64_t cookie;
};

/* The exchange of one round; lane = round mod 2.
 *
 *   CLOSED --gossip_round--> PREPARING --gossip_set_outgoing--> ASKING (inviter) or WAITING (acceptor)
 *   ASKING --ACCEPT--> SWAPPING <--INVITE-- WAITING
 *   SWAPPING --both commits--> CLOSED with MERGE;  any open state --deadline or failure--> CLOSED with SOLO
 * Open means not CLOSED; deadline_ns is at most gossip_limit_ns after the beginning. */
enum gossip_exchange_state {
    GOSSIP_EXCHANGE_CLOSED,
    GOSSIP_EXCHANGE_PREPARING,
    GOSSIP_EXCHANGE_ASKING,
    GOSSIP_EXCHANGE_WAITING,
    GOSSIP_EXCHANGE_SWAPPING,
};

struct gossip_exchange {
    enum gossip_exchange_state state;
    uint64_t round; /* GOSSIP_NEVER: this lane had none yet */
    size_t fragment;
    uint64_t began_ns;
    uint64_t deadline_ns;
    bool paired;
    bool inviter;
    struct id partner;
    enum gossip_codec codec;
    struct gossip_loan blob;      /* set: from set_outgoing on */
    struct gossip_loan wanted;    /* our list */
    struct gossip_loan repair;    /* int8 blocks that the partner asked for */
    struct gossip_stream *stream; /* NULL: none yet */
    int buffer;                   /* index, -1: none */
    uint64_t swap_ns;             /* SWAPPING: since when */
    bool confirmed;               /* their COMMIT came */
    uint64_t bytes_sent;
    uint64_t bytes_received;
    struct gossip_inward in;
    struct gossip_outward out;
};

/* FREE --set_outgoing--> FILLING --MERGE--> LENT --gossip_merge_done--> FREE
 * FILLING --SOLO--> FREE, or OWED while the caller still reads it --last answer--> FREE */
enum gossip_buffer_use {
    GOSSIP_BUFFER_FREE,
    GOSSIP_BUFFER_FILLING,
    GOSSIP_BUFFER_LENT,
    GOSSIP_BUFFER_OWED,
};

/* data holds the blob, then the repair (from repair_at on), then the partner's list (from g->list_at on). */
struct gossip_buffer {
    enum gossip_buffer_use use;
    uint8_t *data;
    uint64_t round;   /* not FREE: whose */
    bool decode_owed; /* a DECODE was not answered yet */
    bool repair_owed; /* a REPAIR was not answered yet */
    size_t repair_at;
    size_t repair_blocks; /* repair_owed: how many */
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
    bool phase_told;   /* in the round given last */
    bool behind_told;  /* in the round given last */
    uint64_t round;    /* given last */
    uint64_t began_ns; /* when it was given */
    uint64_t next_tag;
    uint64_t advance_told; /* newest round named in an ADVANCE */
    uint64_t wait_ns;      /* how late invites came, smoothed; 0: not known */
    size_t list_at;        /* offset of the partner's list in a receive buffer */
    size_t size_max;       /* of a receive buffer */
    size_t buffer_count;
    struct gossip_exchange lanes[GOSSIP_LANES];
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

static inline bool gossip_is_modular(enum gossip_codec codec)
{
    return (GOSSIP_CODECS_PLAIN >> codec & 1) == 0;
}

/* Bytes that hold every list of at most half of a fragment's blocks. */
static inline size_t gossip_list_bytes_max(const struct gossip_layout *layout, size_t fragment)
{
    size_t blocks = (size_t)layout->fragment_blocks[fragment];
    return gossip_indices_bytes_max(blocks, blocks / 2);
}

/* exchange.c */
void gossip_emit(struct gossip *g, const struct gossip_event *event);
void gossip_release(struct gossip *g, uint64_t cookie);
/* Everything that is due at now_ns expires; called first by every input. */
void gossip_expire(struct gossip *g, uint64_t now_ns);
bool gossip_exchange_is_open(const struct gossip_exchange *x);
/* Of this round, open or closed; NULL: its lane has another one. */
struct gossip_exchange *gossip_exchange_of_round(struct gossip *g, uint64_t round);
/* The open exchange that this stream belongs to, or NULL. */
struct gossip_exchange *gossip_exchange_of_stream(struct gossip *g, const struct gossip_stream *s);
/* An open exchange that gossip_round(round) would end, or NULL. */
struct gossip_exchange *gossip_exchange_in_the_way(struct gossip *g, uint64_t round);
/* Ends the exchange.  solo asks for UNCONFIRMED by itself when the partner may have merged. */
void gossip_end_solo(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x, enum gossip_solo reason,
                     int err);
void gossip_end_merge(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x);
/* Gives the buffer back when nobody reads or fills it any more. */
void gossip_buffer_settle(struct gossip_buffer *buffer);
/* Entry of this peer, made when there is none. */
struct gossip_path *gossip_path_of(struct gossip *g, const struct id *peer);

/* phase.c */
/* Age of the round given last. */
uint64_t gossip_age_ns(const struct gossip *g, uint64_t now_ns);
/* A member whose round `round` is age_ns old now: one PHASE event a round, when the rounds are at most one
 * apart. */
void gossip_tell_phase(struct gossip *g, uint64_t now_ns, uint64_t round, uint64_t age_ns);
/* True when the view supports this member's claim to be in this round. */
bool gossip_round_credible(const struct gossip *g, uint64_t now_ns, const struct id *peer, uint64_t round);
/* A member is in a newer round: ADVANCE or BEHIND, if that is credible. */
void gossip_tell_newer(struct gossip *g, uint64_t now_ns, const struct id *peer, uint64_t round);

/* swap.c */
void gossip_swap_open(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x);
void gossip_swap_invite(struct gossip *g, uint64_t now_ns, struct gossip_stream *s,
                        const struct gossip_message *m);
/* Looks again at every parked invite. */
void gossip_swap_review(struct gossip *g, uint64_t now_ns);
void gossip_swap_answer(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x,
                        const struct gossip_message *m);
void gossip_swap_frame(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x,
                       const struct gossip_message *m);
/* The last piece of what was to be sent has been handed out. */
void gossip_swap_sent(struct gossip_exchange *x);
/* Everything of the partner's is here and right: the commit is queued. */
void gossip_swap_hold(struct gossip_exchange *x, uint64_t now_ns);
/* Until when `bytes` more may take: an eighth of a round with one fragment, a quarter of the limit in
 * general, four round trips, and three times what earlier transfers needed; never beyond the limit. */
uint64_t gossip_swap_deadline(struct gossip *g, uint64_t now_ns, const struct gossip_exchange *x,
                              uint64_t bytes);

/* repair.c */
/* The partner's modular blob is here and its digest right: asks the caller to decode it. */
void gossip_repair_decode(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x);
/* False: the peer broke the protocol. */
bool gossip_repair_want(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x,
                        const struct gossip_message *m);
bool gossip_repair_piece(struct gossip *g, struct gossip_exchange *x, const struct gossip_message *m);
/* The partner could not decode our blob: true when that makes sense now. */
bool gossip_repair_refused(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x,
                           const struct gossip_message *m);

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
struct gossip_stream *gossip_stream_find(struct gossip *g, uint64_t handle);
void gossip_stream_drop(struct gossip_stream *s);
/* A free slot for a stream of ours (OPENING), or NULL. */
struct gossip_stream *gossip_stream_take(struct gossip *g, const struct id *peer);
void gossip_stream_break(struct gossip_stream *s);
/* Finishes after what is queued. */
void gossip_stream_finish(struct gossip *g, uint64_t now_ns, struct gossip_stream *s);
void gossip_stream_refuse(struct gossip *g, uint64_t now_ns, struct gossip_stream *s,
                          enum gossip_busy reason);

#endif
