/* The gossip core of one run: finds the round's partner, swaps encoded snapshots with it over one stream,
 * serves and fetches whole states.  Sans-I/O: no sockets, threads, clocks or big computations; encoding and
 * merging happen on the merge thread, the core only slices and collects blobs.
 *
 * The caller's loop: after each input below drain gossip_poll_event, then gossip_poll_action, then re-arm one
 * timer from gossip_deadline_ns and call gossip_tick when it fires.  All calls from one thread.
 *
 * A round, as node/ drives it:
 *   boundary of round r: snapshot theta_r; gossip_round(r, view); the merge thread encodes theta_r;
 *   gossip_set_outgoing(r, blob); ... training goes on ...; exactly one event for r follows, at most half a
 * round after gossip_round: MERGE (run gossip_merge_job, then gossip_merge_done) or SOLO (run
 * gossip_solo_job). Outcomes come in the order of rounds.  Apply the difference before the next snapshot is
 * taken.
 *
 * Only streams of admitted members of the run may be handed to the core: it does not know who may join. */
#ifndef DUNLIN_GOSSIP_EXCHANGE_H
#define DUNLIN_GOSSIP_EXCHANGE_H

#include "base/trace.h"
#include "gossip/members.h"
#include "gossip/message.h"
#include "gossip/tensor.h"

enum {
    GOSSIP_STREAMS_MAX = 12,  /* streams of one core: exchange, state served, state fetched, and short ones */
    GOSSIP_PARKED_MAX = 4,    /* of them: invites for a round that has not begun here */
    GOSSIP_EVENTS_MAX = 64,   /* an input adds at most 16; the caller drains after each */
    GOSSIP_ROUND_LAG_MAX = 8, /* invites further ahead than this are not followed: fetch a state instead */
    GOSSIP_FETCH_TRIES = 6,   /* streams opened for one fetch; one that brought data does not count */
};

#define GOSSIP_ROUND_NS_MIN UINT64_C(1000000)        /* 1 ms */
#define GOSSIP_ROUND_NS_MAX UINT64_C(86400000000000) /* 1 day */

struct gossip_config {
    struct id self;
    struct id run;
    struct gossip_layout layout; /* gossip_layout_of */
    uint32_t codecs;             /* 1 << enum gossip_codec for each we accept from a partner */
    uint64_t round_ns;           /* length of a round */
    uint64_t first_frame_ns;     /* an accepted stream must say what it wants within this */
    uint64_t stall_ns;           /* a state transfer without progress for this long is broken off */
    uint64_t serve_rate_min;     /* bytes/s: a joiner slower than this on average is dropped */
    struct trace_sink trace;
};

/* Everything but self, run and layout: all codecs, 30 s rounds, 10 s, 20 s, 16 KiB/s, no trace. */
struct gossip_config gossip_config_default(void);
/* ERR_INVALID: *why (static text) names the relation that fails. */
MUST_USE int gossip_config_check(const struct gossip_config *config, const char **why);

struct gossip;

/* Bytes of one core, its two receive buffers (largest accepted encoding each) included; 0 when that
 * overflows. */
size_t gossip_size_bytes(const struct gossip_config *config);
/* Places a core in the caller's block of gossip_size_bytes, aligned to 64, which it keeps until the caller
 * drops it (there is nothing to release; blobs still lent to the core become the caller's again).  config is
 * copied and must have passed its check. */
struct gossip *gossip_init(void *block, size_t size, const struct gossip_config *config);

/* --- commands
 * ------------------------------------------------------------------------------------------------ */

/* Round `round` begins now.  view is copied.  An outcome still open for an older round becomes SOLO
 * (superseded). ERR_STALE: not newer than the last one; nothing changed. */
MUST_USE int gossip_round(struct gossip *g, uint64_t now_ns, uint64_t round, const struct gossip_view *view);
/* The encoded snapshot of the open round.  blob is borrowed until event RELEASE with this cookie, which
 * follows the round's outcome (the merge job reads the blob too: the caller keeps it until that is done).
 * ERR_STALE: the round is over or another is open, ERR_INVALID: length is not the codec's exact size,
 * ERR_EXISTS: set already; the blob is not taken then. */
MUST_USE int gossip_set_outgoing(struct gossip *g, uint64_t now_ns, uint64_t round, enum gossip_codec codec,
                                 struct bytes blob, uint64_t cookie);
/* The merge of this round's MERGE event ended with result (0 or an ERR_ code, counted); its receive buffer is
 * free again.  ERR_NOT_FOUND: no such merge is running. */
MUST_USE int gossip_merge_done(struct gossip *g, uint64_t now_ns, uint64_t round, int result);
/* The slow weights that joiners may fetch: fp32 blob of phi after round `round`, and its hash_content.
 * Borrowed until event RELEASE; the one before is released when nobody is being served from it.  ERR_INVALID:
 * wrong length. */
MUST_USE int gossip_set_state(struct gossip *g, uint64_t now_ns, uint64_t round, struct bytes blob,
                              const struct id *digest, uint64_t cookie);
/* Fetches a peer's slow weights into buffer [layout.encoded_bytes[FP32]], borrowed until the one final event:
 * STATE or FETCH_FAILED.  A broken stream is opened again and continues where it stopped.  ERR_STATE: a fetch
 * is running. ERR_INVALID: cap too small. */
MUST_USE int gossip_fetch(struct gossip *g, uint64_t now_ns, const struct id *peer, uint8_t *buffer,
                          size_t cap);
/* Ends a running fetch with FETCH_FAILED (ERR_CLOSED); without one nothing happens. */
void gossip_fetch_cancel(struct gossip *g, uint64_t now_ns);
/* While paused every invite is answered BUSY and rounds end SOLO at once. */
void gossip_pause(struct gossip *g, uint64_t now_ns, bool paused);

/* --- inputs
 * -------------------------------------------------------------------------------------------------- */

/* The stream asked for by action OPEN exists.  ERR_NOT_FOUND: no longer wanted: reset it. */
MUST_USE int gossip_stream_opened(struct gossip *g, uint64_t now_ns, uint64_t tag, uint64_t stream);
/* It could not be opened (err: why). */
void gossip_stream_open_failed(struct gossip *g, uint64_t now_ns, uint64_t tag, int err);
/* A member opened a stream to us.  ERR_FULL, ERR_EXISTS: not taken: reset it. */
MUST_USE int gossip_stream_accepted(struct gossip *g, uint64_t now_ns, const struct id *peer,
                                    uint64_t stream);
/* One whole frame (borrowed until return).  Frames of streams that the core has let go are ignored. */
void gossip_stream_frame(struct gossip *g, uint64_t now_ns, uint64_t stream, struct bytes frame);
/* The stream's send queue takes this many more bytes (not a sum: replaces what was said before).  0 at first;
 * a SEND of n bytes uses n + 4.  Must reach GOSSIP_FRAME_MAX + 4 at times. */
void gossip_stream_writable(struct gossip *g, uint64_t now_ns, uint64_t stream, size_t room);
/* Handles of streams that have something to send and were not given room for it; at most GOSSIP_STREAMS_MAX.
 * After network progress ask each for its room and say so by gossip_stream_writable. */
size_t gossip_streams_waiting(const struct gossip *g, uint64_t streams[GOSSIP_STREAMS_MAX]);
/* The peer finished its side (err 0) or the stream or its connection broke (err); the handle is gone for err
 * != 0. */
void gossip_stream_closed(struct gossip *g, uint64_t now_ns, uint64_t stream, int err);

/* --- outputs
 * ------------------------------------------------------------------------------------------------- */

enum gossip_action_kind {
    GOSSIP_ACTION_OPEN,   /* open a GOSSIP stream to peer (dial if need be), answer with opened or
                             open_failed(tag) */
    GOSSIP_ACTION_SEND,   /* frame on stream; room was said to be enough */
    GOSSIP_ACTION_FINISH, /* end our side after what was sent; the core forgets the handle */
    GOSSIP_ACTION_RESET,  /* break off now; the core forgets the handle */
};

struct gossip_action {
    enum gossip_action_kind kind;
    struct id peer;
    uint64_t tag;       /* OPEN */
    bool for_state;     /* OPEN: for a fetch, not for an exchange (another service or send class) */
    uint64_t stream;    /* the others */
    struct bytes frame; /* SEND: borrowed until the next call with this core */
};

enum gossip_solo {
    GOSSIP_SOLO_UNPAIRED = 1, /* alone, odd one out, or not counted yet */
    GOSSIP_SOLO_DEADLINE,     /* partner did not invite, answer or finish in time */
    GOSSIP_SOLO_UNREACHABLE,  /* no stream to the partner */
    GOSSIP_SOLO_BROKEN,       /* stream ended or was reset */
    GOSSIP_SOLO_BUSY,         /* partner said so */
    GOSSIP_SOLO_MALFORMED,    /* partner broke the protocol, or a digest did not match */
    GOSSIP_SOLO_UNCONFIRMED,  /* our commit went out, theirs did not come: they may have merged alone */
    GOSSIP_SOLO_SUPERSEDED,   /* the next round began */
    GOSSIP_SOLO_NO_BUFFER,    /* both receive buffers are still at the merge thread */
    GOSSIP_SOLO_PAUSED,
    GOSSIP_SOLO_COUNT
};

enum gossip_event_kind {
    GOSSIP_EVENT_MERGE,   /* round, peer, codec, blob (borrowed until gossip_merge_done), elapsed_ns */
    GOSSIP_EVENT_SOLO,    /* round, solo, peer (zero: none), err */
    GOSSIP_EVENT_ADVANCE, /* a member waits in this newer round: close ours early when it is within half a
                           * round of its end or a whole round behind, else do nothing */
    GOSSIP_EVENT_PHASE,   /* shift_ns: bring the next boundary forward (positive) or back by this much */
    GOSSIP_EVENT_BEHIND,  /* peer is in round, more than GOSSIP_ROUND_LAG_MAX ahead: fetch a state */
    GOSSIP_EVENT_STATE,   /* fetch done: round, peer, blob (the caller's buffer, fp32) */
    GOSSIP_EVENT_FETCH_FAILED, /* peer, err: try another */
    GOSSIP_EVENT_RELEASE,      /* cookie: the core no longer reads that blob */
};

struct gossip_event {
    enum gossip_event_kind kind;
    uint64_t round;
    struct id peer;
    enum gossip_codec codec;
    struct bytes blob;
    enum gossip_solo solo;
    int err;
    int64_t shift_ns;
    uint64_t elapsed_ns;
    uint64_t cookie;
};

/* Lets deadlines pass. */
void gossip_tick(struct gossip *g, uint64_t now_ns);
/* When gossip_tick must be called next; UINT64_MAX: nothing pending. */
uint64_t gossip_deadline_ns(const struct gossip *g);
/* False: none left.  Events are owed: poll until false after each input. */
bool gossip_poll_event(struct gossip *g, struct gossip_event *out);
bool gossip_poll_action(struct gossip *g, uint64_t now_ns, struct gossip_action *out);

/* --- queries
 * ------------------------------------------------------------------------------------------------- */

struct gossip_counters {
    uint64_t rounds;                  /* = merges + sum of solo, + 1 while one is open */
    uint64_t merges;                  /* MERGE events */
    uint64_t solo[GOSSIP_SOLO_COUNT]; /* SOLO events by reason; [UNCONFIRMED]: possible asymmetric commits */
    uint64_t refused;                 /* merges that the gate turned down (gossip_merge_done with an error) */
    uint64_t busy_sent;
    uint64_t malformed;  /* frames */
    uint64_t bytes_sent; /* of fragments */
    uint64_t bytes_received;
    uint64_t states_served;
    uint64_t states_fetched;
};

/* Borrowed until the next call with this core. */
const struct gossip_counters *gossip_counters(const struct gossip *g);
/* The round given last and the time since it began. */
uint64_t gossip_current_round(const struct gossip *g, uint64_t now_ns, uint64_t *age_ns);
/* Asserts everything that must hold between calls; for tests, fuzzers and the simulator. */
void gossip_check_invariants(const struct gossip *g);

#endif
