/* One run on this node: its life from joining to leaving, and the rounds between.
 *
 * Everything here happens on the loop thread.  Long work is handed to the run's trainer thread (steps,
 * snapshots, evaluation) and to the node's two workers (merging, disk), and comes back as events; the stage
 * says what is awaited, and no stage waits for a peer without a deadline.
 *
 *                 chain known     data read        swarm ahead?
 *   CHAIN ──────► LOADING ──────► SYNCING ───────► FETCHING ──┐
 *     run_join      trainer READY   repair or 10 s   STATE     │
 *                                        └─────────────────────┴──► TRAINING ◄──────────────┐
 *                                                             at each boundary a turn, node/run_turn.h
 *
 *   TRAINING ── last round ──► FINISHING ── all agree ──► FINISHED       node/run_finish.h
 *                               turns go on, and only average
 *
 * PAUSED is a flag beside the stage: the trainer rests, rounds go on without us.  FAILED and FINISHED end it;
 * LEFT forgets it. */
#ifndef DUNLIN_NODE_RUN_H
#define DUNLIN_NODE_RUN_H

#include "base/id.h"
#include "crdt/chain.h"
#include "gossip/codec_choice.h"
#include "node/control.h"
#include "node/reply.h"
#include "node/run_finish.h"
#include "node/run_turn.h"
#include "node/train_thread.h"
#include "node/worker.h"
#include "train/model.h"

struct node;
struct export_merge;

enum {
    RUN_NAME_SIZE = CRDT_NAME_MAX + 1,
    RUN_BLOBS = 3,           /* encoded snapshots: one lent to gossip, one being written, one spare */
    RUN_FETCH_PEERS_MAX = 8, /* donors tried before training goes on from our own weights */
    RUN_EVALUATE_ROUNDS = 8, /* validation loss is measured every so many rounds */
};

/* held_round: a fetch waits, until no turn is under way at all. */
#define RUN_HELD_FETCH UINT64_MAX

enum run_stage {
    RUN_CHAIN,     /* looking for somebody who has the chain */
    RUN_LOADING,   /* the trainer reads the data, the disk worker the checkpoint */
    RUN_SYNCING,   /* waiting for the other members' registers */
    RUN_FETCHING,  /* a peer sends its weights */
    RUN_TRAINING,  /* and exchanging */
    RUN_FINISHING, /* training is over, the members' weights become one model */
    RUN_FINISHED,  /* that is done, or took too long; states are still served */
    RUN_FAILED,    /* error says why */
};

/* An encoded snapshot of a fragment, or a state.  lent: gossip/ reads it until RELEASE. */
struct run_blob {
    uint8_t *bytes;
    bool lent;
};

/* What a member decides for itself. */
struct run_own {
    bool isolated; /* never exchanges: to compare with */
    bool
        own_init; /* starts from weights drawn from init_seed instead of the run's seed or a peer's weights */
    uint64_t init_seed;
};

struct run {
    struct node *node;
    bool used;
    bool leaving; /* waits for its jobs and its trainer before it is forgotten */
    struct id id;
    char name[RUN_NAME_SIZE];
    char data[NODE_PATH_SIZE];
    bool isolated; /* never exchanges: to compare with */
    bool own_init; /* struct run_own */
    uint64_t init_seed;
    bool paused;
    enum run_stage stage;
    char error[NODE_ERROR_SIZE];
    struct run_config config;
    struct crdt_chain chain;
    bool has_chain;

    struct train_layout layout;
    struct gossip_tensor tensors[TRAIN_TENSORS_MAX];
    struct gossip_layout shape;
    struct gossip_outer outer;
    struct train_thread *trainer;
    bool trainer_ended; /* its thread only waits to be joined */
    void *gossip_block;
    struct gossip *gossip;

    /* [arena_floats] each.  phi and delta belong to the merge worker while a job runs. */
    float *theta, *phi, *delta, *diff;
    struct run_blob blobs[RUN_BLOBS];
    struct run_blob states[2];
    struct id state_digest;
    uint8_t *fetch_buffer;
    struct gossip_history histories[GOSSIP_FRAGMENTS_MAX]; /* the merge worker's */
    float *distances; /* [distance_count] the merge worker's: of each block to the last partner */
    size_t distance_count;
    struct gossip_trail trails[GOSSIP_FRAGMENTS_MAX]; /* the merge worker's */
    float *marks;                                     /* the trails' */
    struct gossip_nearness nearness;
    struct run_turn turns[GOSSIP_LANES];
    uint64_t failed_trials; /* merges that the loss of a private batch refused, since the start */

    uint64_t round; /* begun last */
    uint64_t joined_round;
    uint64_t boundary_ns;       /* when the next round ends */
    uint64_t held_round;        /* that the boundary has passed for, but no turn is free; 0: none */
    uint64_t stage_deadline_ns; /* CHAIN, SYNCING, FETCHING: try something else then */
    uint64_t advance_to;        /* newer round heard of in the middle of ours; 0: none */
    uint64_t others_round;      /* furthest progress of the other members at our last boundary */
    struct gossip_merge_report report;
    struct run_ending ending;
    size_t fetch_tries;     /* of the present fetch */
    uint64_t fetch_next_ns; /* all donors failed: not tried again before */
    bool publishing;        /* a state is being encoded for joiners */
    uint64_t published_round;
    bool state_wanted; /* behind: fetch at the next boundary */

    unsigned jobs;   /* on the merge worker */
    bool saving;     /* a checkpoint is being written */
    bool save_again; /* asked for while one was written */
    bool save_called;
    struct control_ref save_call; /* answered once what it asked for is on the disk */
    uint64_t saved_round;
    uint64_t save_next_ns; /* not before */
    uint64_t save_took_ns;
    struct export_merge *exporting; /* node/export_merge.h; NULL: none */
    bool evaluating;
    uint64_t steps_before; /* of earlier lives of this node in the run */
    uint64_t tokens_before;
    uint64_t data_bytes;
    double val_loss, val_loss_start; /* NaN: not measured */
    double val_accuracy;             /* NaN: not measured, or the model does not count it */
    uint64_t merges_before, skipped_before;
    uint64_t rate_tokens, rate_ns;
    double tokens_s;
    uint64_t member_put_ns;      /* when the MEMBER register was last written */
    struct gossip_member member; /* as it was written */
    uint64_t member_steps;
    uint64_t progress_put_ns;
    uint64_t repair_next_ns;
};

/* Makes a new run with this genesis config and starts training.  *out is owned by the node.  Errors fill why.
 */
MUST_USE int run_create(struct node *node, const char *name, const struct run_config *config,
                        const char *data, const struct run_own *own, struct run **out,
                        char why[NODE_ERROR_SIZE]);
/* Joins a run by id: finds its chain first.  ERR_EXISTS: is a member already. */
MUST_USE int run_join(struct node *node, const struct id *id, const char *data, const struct run_own *own,
                      struct run **out, char why[NODE_ERROR_SIZE]);
/* Takes up a run found on disk at start. */
MUST_USE int run_resume_stored(struct node *node, const struct id *id, struct bytes settings,
                               char why[NODE_ERROR_SIZE]);
/* Stops training and forgets the run, at the latest when its jobs and its trainer have ended; its checkpoints
 * stay on disk. */
void run_leave(struct run *run);
void run_pause(struct run *run, bool paused);
/* Entries of a chain that came from a peer or the disk; starts the run when they are complete. */
void run_chain_frame(struct run *run, struct bytes frame);
/* Does what is due. */
void run_tick(struct run *run, uint64_t now_ns);
uint64_t run_deadline_ns(const struct run *run);
/* Drains gossip's events; true when there was one. */
bool run_drain(struct run *run, uint64_t now_ns);
/* Saves a checkpoint as soon as the stage allows. */
void run_save(struct run *run);
/* Writes the run's map of docs/protocol/control.md into an open map. */
void run_reply(struct run *run, struct reply *r);
/* Memory the run needs, everything included. */
uint64_t run_memory_bytes(const struct run_config *config, unsigned threads);

/* The state that people and docs/protocol/control.md know: "training", "paused", ... */
const char *run_stage_name(const struct run *run);

#endif
