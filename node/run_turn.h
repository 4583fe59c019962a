/* One fragment's way through one round on this node.
 *
 *   IDLE --begin--> SNAPSHOT --trainer--> ENCODING --merge worker--> EXCHANGING --outcome--> MERGING
 *     ^                                                                                        | merge worker
 *     +------------------------------- APPLYING <----------------------------------------------+
 *
 * In a run with loss_test the merge worker leaves phi and delta alone and puts a merge's outcome beside them;
 * the trainer tries the difference on a private batch, adds it or not, and the worker then commits one of
 * two: that outcome, or the solo step, which begins from the same phi and delta.
 *
 *   MERGING --merged--> TRYING --accepted--> COMMITTING --> IDLE
 *      ^                  |
 *      +-- as solo -------+ refused
 *
 * Two turns run at once at most (gossip/exchange.h: lanes), of different fragments, so that each works on its
 * own slice of the run's arrays.  Training goes on all the while.  While EXCHANGING with a modular codec, the
 * merge worker also looks through the partner's blob and encodes repairs of ours. */
#ifndef DUNLIN_NODE_RUN_TURN_H
#define DUNLIN_NODE_RUN_TURN_H

#include <stdbool.h>
#include <stdint.h>

#include "gossip/exchange.h"
#include "gossip/merge/job.h"

enum run_turn_stage {
    TURN_IDLE,
    TURN_SNAPSHOT,   /* the trainer copies the fragment's weights */
    TURN_ENCODING,   /* the merge worker encodes them */
    TURN_EXCHANGING, /* gossip/ deals with the partner */
    TURN_MERGING,    /* the merge worker computes the outer step */
    TURN_APPLYING,   /* the trainer adds the difference */
    TURN_TRYING,     /* the trainer tries the difference, and adds it if that is well */
    TURN_COMMITTING, /* the merge worker takes the tried phi and delta over */
};

struct run_turn {
    enum run_turn_stage stage;
    uint64_t round;
    uint64_t began_ns;
    size_t fragment;
    struct id partner; /* zero: none */
    enum gossip_codec codec;
    size_t blob;   /* index of the encoded snapshot in run->blobs */
    unsigned jobs; /* on the merge worker */
    struct gossip_event outcome;
    bool has_outcome;
    bool settles; /* a miss is settled by a step alone: nobody else is there, or strangers may be */

    /* What was wrong in the partner's blob, and what it found wrong in ours.  [wanted_max] each. */
    uint32_t *wanted, *repaired;
    size_t wanted_count, repaired_count;
    uint8_t *list;   /* [list_max] the first of them, encoded */
    uint8_t *repair; /* [repair_max] the second ones' blocks, as int8 */
    size_t repair_len;
    bool list_lent, repair_lent; /* to gossip/, until RELEASE */

    /* With loss_test only: what the merge makes of phi and delta, and room for the trainer. */
    float *trial_phi, *trial_delta, *trial_scratch; /* [the largest fragment's values] each */
    struct gossip_merge_report report;
};

struct run;
struct train_thread_event;

/* Takes and gives back the memory of a run's turns.  ERR_NO_MEMORY: some is missing; call the second. */
MUST_USE int run_turns_allocate(struct run *run);
void run_turns_release(struct run *run);
uint64_t run_turns_bytes(const struct gossip_layout *layout, bool loss_test);

/* No turn is under way. */
bool run_turns_idle(const struct run *run);
/* Round `round` can begin: its lane and its fragment are free. */
bool run_turn_free(const struct run *run, uint64_t round);
/* Begins it: run_turn_free was true. */
void run_turn_begin(struct run *run, uint64_t now_ns, uint64_t round);
/* The last round whose outcome, and that of all before it, is in phi. */
uint64_t run_turns_settled(const struct run *run);

/* Answers of the trainer to tags TAG_ROUND and TAG_ROUND_ODD. */
void run_turn_snapshot_ready(struct run *run, uint64_t tag);
void run_turn_applied(struct run *run, uint64_t tag);
void run_turn_tried(struct run *run, const struct train_thread_event *event);
/* Events of gossip/ that belong to a turn: MERGE, SOLO, DECODE, REPAIR. */
void run_turn_event(struct run *run, uint64_t now_ns, const struct gossip_event *event);
/* The core does not read this any more. */
void run_turn_release(struct run *run, uint64_t cookie);
/* Hands on what is ready to be merged; true when there was any. */
bool run_turns_drain(struct run *run);

#endif
