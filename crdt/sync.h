/* Repair: two replicas of one run find and exchange what differs, over one framed stream.  Sans-I/O.
 *
 * Range-based set reconciliation (Meyer 2022, arXiv 2212.13567).  The initiator draws a key; every record
 * becomes a 64-bit tag of its register and a 64-bit fingerprint of its version, both SipHash-2-4 under that
 * key.  Ranges are prefixes of the tag; a range's fingerprint is the XOR of its records'.  The key is drawn
 * after the records were written, so no author can prepare sets that collide or crowd a range.  The two take
 * turns: equal ranges are dropped, large ones split, small ones listed, and a list is answered by the records
 * that are newer here and a bitmap of those wanted from there.  What does not fit into a frame waits,
 * unsplit, for the sender's next turn.
 *
 *     initiator                      responder
 *     HELLO key, root digest  ---->
 *                             <----  END                   (digests are equal)
 *                             <----  TURN 256 ranges
 *     TURN splits and lists   ---->                        ... until a turn and its answer are both empty
 *     RECORDS                <---->  RECORDS               (any time in between)
 *     END                    <---->  END
 *
 * Limits: frames of CRDT_FRAME_MAX; 72 KiB, 44 bytes a record of ours (76 while sorting) and 8 of theirs of
 * memory per session, obtained by open, accept and the first frame received; at most CRDT_RECORDS_LIMIT
 * records a side.  The first frame makes us hash and sort all records of the run (0.2 us each): that is the
 * only work a peer can demand, so the caller accepts at most one session per peer and
 * CRDT_SYNC_PEER_INTERVAL_NS, and checks first that the peer may see the run. Missed with probability 2^-64
 * per comparison; the next session heals that.  A peer's lies cost bytes, never a merge: each record is
 * verified by crdt_replica_apply.  Convicted authors are elements like records: their proofs are repaired in
 * the same way. */
#ifndef DUNLIN_CRDT_SYNC_H
#define DUNLIN_CRDT_SYNC_H

#include "crdt/replica.h"

enum {
    CRDT_SYNC_KEY_BYTES = 16,
    CRDT_SYNC_FIRST_BITS = 8,   /* first turn: 256 ranges */
    CRDT_SYNC_LEAF = 8,         /* ranges with at most so many records are listed */
    CRDT_SYNC_BUDGET = 32768,   /* bytes of ranges and lists a turn */
    CRDT_SYNC_TURNS_MAX = 4096, /* either side gives up after so many: a peer that never ends */
};
#define CRDT_SYNC_PEER_INTERVAL_NS UINT64_C(10000000000)

/* HELLO -> TURNS when digests differ, else -> ENDING; TURNS -> ENDING after two empty turns or the peer's
 * END; ENDING -> DONE when both have sent END.  Any -> FAILED on a frame that makes no sense.  All in
 * crdt_sync_recv and _poll_send. */
enum crdt_sync_state { CRDT_SYNC_HELLO, CRDT_SYNC_TURNS, CRDT_SYNC_ENDING, CRDT_SYNC_DONE, CRDT_SYNC_FAILED };

struct crdt_sync_result {
    enum crdt_sync_state state;
    int err;            /* FAILED: why; ERR_REFUSED: the peer does not hold the run */
    bool equal_at_once; /* digests were the same */
    uint32_t turns;     /* sent and received */
    uint64_t records_sent;
    uint64_t records_new;     /* received and accepted */
    uint64_t records_refused; /* received and neither new nor stale: counts against the peer */
    uint64_t bytes_sent;      /* frames, without the stream's own overhead */
    uint64_t bytes_received;
};

struct crdt_sync;

/* Starts a session about a run; *out is returned owned (free with crdt_sync_close).  replica is borrowed
 * until then.  rng draws the session key.  origin is passed on to crdt_replica_apply.  ERR_NOT_FOUND: run not
 * held; ERR_NO_MEMORY. */
MUST_USE int crdt_sync_open(struct crdt_replica *replica, const struct id *run, uint64_t origin,
                            const struct rng *rng, const struct allocator *alloc, struct crdt_sync **out);
/* The answering side; the run is in the first frame.  crdt_sync_hello_run tells it beforehand. */
MUST_USE int crdt_sync_accept(struct crdt_replica *replica, uint64_t origin, const struct allocator *alloc,
                              struct crdt_sync **out);
/* The run that a first frame is about, for the caller's checks.  ERR_MALFORMED, ERR_VERSION. */
MUST_USE int crdt_sync_hello_run(struct bytes frame, struct id *run);
void crdt_sync_close(struct crdt_sync *session); /* NULL is allowed */

/* Takes one whole frame.  Drain the replica's events afterwards.  ERR_AGAIN: the replica's event queue is
 * full: drain it and give the same frame again.  Any other error: the state is FAILED, reset the stream. */
MUST_USE int crdt_sync_recv(struct crdt_sync *session, uint64_t wall_ms, struct bytes frame);
/* Writes the next frame; returns its length, 0: nothing to send now.  out_cap must be CRDT_FRAME_MAX
 * (asserted). Call again whenever the stream has room. */
size_t crdt_sync_poll_send(struct crdt_sync *session, uint8_t *out, size_t out_cap);
/* State and counts so far; finished when the state is DONE (finish the stream) or FAILED (reset it). */
struct crdt_sync_result crdt_sync_result_get(const struct crdt_sync *session);

#endif
