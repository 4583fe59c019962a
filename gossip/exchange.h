/* The gossip core of one run: finds each round's partner, swaps the encoded snapshots of one fragment with it
 * over one stream, repairs blocks that did not decode, serves and fetches whole states.  Sans-I/O: no
 * sockets, threads, clocks or big computations; encoding, decoding and merging happen on the merge thread,
 * the core only slices and collects blobs.
 *
 * The caller's loop: after each input below drain gossip_poll_event, then gossip_poll_action, then re-arm one
 * timer from gossip_deadline_ns and call gossip_tick when it fires.  All calls from one thread.
 *
 * A round, as node/ drives it (fragment f = gossip_layout_fragment):
 *   boundary of round r: snapshot of f; gossip_round(r, view); the merge thread encodes it;
 *   gossip_set_outgoing(r, blob), at any time before the deadline; ... training goes on ...
 *   modular codecs only: DECODE (try the partner's blob; gossip_set_wanted names the wrong blocks) and REPAIR
 *   (encode the blocks the partner names; gossip_set_repair);
 *   exactly one outcome for r, at most gossip_limit_ns after gossip_round: MERGE (run gossip_merge_job, then
 *   gossip_merge_done) or SOLO (run gossip_solo_job).
 * Two rounds may be open at once (lanes: round mod 2), of different fragments; their outcomes come in any
 * order. The outcome of a fragment comes before its next round begins: apply the difference before the next
 * snapshot of that fragment is taken.
 *
 * Only streams of admitted members of the run may be handed to the core: it does not know who may join. */
#ifndef DUNLIN_GOSSIP_EXCHANGE_H
#define DUNLIN_GOSSIP_EXCHANGE_H

#include "base/trace.h"
#include "gossip/event.h"
#include "gossip/members.h"
#include "gossip/message.h"
#include "gossip/tensor.h"

enum {
    GOSSIP_LANES = 2,        /* exchanges in flight */
    GOSSIP_STREAMS_MAX = 14, /* streams of one core: exchanges, state served, state fetched, and short ones */
    GOSSIP_PARKED_MAX = 4,   /* of them: invites for a round that has not begun here */
    GOSSIP_EVENTS_MAX = 64,  /* an input adds at most 24; the caller drains after each */
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
    uint64_t first_frame_ns;     /* an accepted stream must say what it wants within this, and a member whose
                                  * state was asked for must answer */
    uint64_t stall_ns;           /* a state transfer without progress for this long is broken off */
    uint64_t serve_rate_min;     /* bytes/s: a joiner slower than this on average is dropped */
    struct trace_sink trace;
};

/* Everything but self, run and layout: all codecs, 30 s rounds, 10 s, 20 s, 16 KiB/s, no trace. */
struct gossip_config gossip_config_default(void);
/* ERR_INVALID: *why (static text) names the relation that fails. */
MUST_USE int gossip_config_check(const struct gossip_config *config, const char **why);

struct gossip;

/* Bytes of one core, its receive buffers included (two with one fragment, else three, each for the largest
 * accepted encoding of the largest fragment with its repair); 0 when that overflows. */
size_t gossip_size_bytes(const struct gossip_config *config);
/* How long after its beginning a round may stay without an outcome: one and a half rounds, at most half a
 * cycle. */
uint64_t gossip_limit_ns(const struct gossip_config *config);
/* Places a core in the caller's block of gossip_size_bytes, aligned to 64, which it keeps until the caller
 * drops it (there is nothing to release; blobs still lent to the core become the caller's again).  config is
 * copied and must have passed its check. */
struct gossip *gossip_init(void *block, size_t size, const struct gossip_config *config);

/* --- commands
 * ------------------------------------------------------------------------------------------------ */

/* Round `round` begins now.  view is copied.  What is still open in its lane or for its fragment becomes SOLO
 * (superseded). ERR_STALE: not newer than the last one; nothing changed. */
MUST_USE int gossip_round(struct gossip *g, uint64_t now_ns, uint64_t round, const struct gossip_view *view);
/* The encoded snapshot of this round's fragment.  blob is borrowed until event RELEASE with this cookie,
 * which follows the round's outcome (the merge job reads the blob too: the caller keeps it until that is
 * done). ERR_STALE: the round has its outcome already, ERR_INVALID: length is not the codec's exact size for
 * the fragment, ERR_EXISTS: set already; the blob is not taken then. */
MUST_USE int gossip_set_outgoing(struct gossip *g, uint64_t now_ns, uint64_t round, enum gossip_codec codec,
                                 struct bytes blob, uint64_t cookie);
/* Answer to DECODE: list (gossip_indices_encode) names the blocks of the partner's blob that are wrong;
 * repair_bytes is what they take as int8.  An empty list (repair_bytes 0): none is.  The list is borrowed
 * until RELEASE with this cookie unless an error is returned.  ERR_STALE: the round has its outcome already;
 * ERR_INVALID: not a valid list, more than half of the blocks (gossip_refuse instead), or more bytes than so
 * many blocks can take, and the answer is still owed; ERR_NOT_FOUND: no DECODE is open for this round. */
MUST_USE int gossip_set_wanted(struct gossip *g, uint64_t now_ns, uint64_t round, struct bytes list,
                               uint64_t repair_bytes, uint64_t cookie);
/* Answer to DECODE: more than half of the blocks are wrong, or the blob cannot be decoded at all.  Both sides
 * go SOLO (far); when the round has its outcome already only the buffer is freed.  ERR_NOT_FOUND as above. */
MUST_USE int gossip_refuse(struct gossip *g, uint64_t now_ns, uint64_t round);
/* Answer to REPAIR: the int8 encodings of the blocks it named, one after the other.  Borrowed until RELEASE
 * with this cookie unless an error is returned.  ERR_STALE: the round has its outcome already; ERR_INVALID:
 * empty, or longer than so many blocks can be, and the answer is still owed; ERR_NOT_FOUND: no REPAIR is open
 * for this round. */
MUST_USE int gossip_set_repair(struct gossip *g, uint64_t now_ns, uint64_t round, struct bytes blob,
                               uint64_t cookie);
/* The merge of this round's MERGE event ended with result (0 or an ERR_ code, counted); its receive buffer is
 * free again.  ERR_NOT_FOUND: no such merge is running. */
MUST_USE int gossip_merge_done(struct gossip *g, uint64_t now_ns, uint64_t round, int result);
/* The slow weights that joiners may fetch: fp32 blob of phi after round `round`, and its hash_content.
 * Borrowed until event RELEASE; the one before is released when nobody is being served from it.  ERR_INVALID:
 * wrong length. */
MUST_USE int gossip_set_state(struct gossip *g, uint64_t now_ns, uint64_t round, struct bytes blob,
                              const struct id *digest, uint64_t cookie);
/* Fetches a peer's whole slow weights into buffer [layout.encoded_bytes[FP32]], borrowed until the one final
 * event: STATE or FETCH_FAILED.  A broken stream is opened again and continues where it stopped; a member
 * that answers nothing within first_frame_ns, or cannot be reached within stall_ns, is given up
 * (ERR_TIMEOUT): ask another.  ERR_STATE: a fetch is running.  ERR_INVALID: cap too small. */
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

/* Lets deadlines pass. */
void gossip_tick(struct gossip *g, uint64_t now_ns);
/* When gossip_tick must be called next; UINT64_MAX: nothing pending. */
uint64_t gossip_deadline_ns(const struct gossip *g);
/* False: none left.  Events are owed: poll until false after each input. */
bool gossip_poll_event(struct gossip *g, struct gossip_event *out);
bool gossip_poll_action(struct gossip *g, uint64_t now_ns, struct gossip_action *out);

/* --- queries
 * ------------------------------------------------------------------------------------------------- */

/* Borrowed until the next call with this core. */
const struct gossip_counters *gossip_counters(const struct gossip *g);
/* The round given last and the time since it began. */
uint64_t gossip_current_round(const struct gossip *g, uint64_t now_ns, uint64_t *age_ns);
/* Bytes a second that exchanges with this peer moved lately, both ways together, and its round trip; 0: not
 * known.  For the choice of a codec. */
uint64_t gossip_path_rate(const struct gossip *g, const struct id *peer, uint64_t *rtt_ns);
/* Bytes that have come of the state being fetched; 0 when none is. */
size_t gossip_fetched_bytes(const struct gossip *g);
/* Asserts everything that must hold between calls; for tests, fuzzers and the simulator. */
void gossip_check_invariants(const struct gossip *g);

#endif
