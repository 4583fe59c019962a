/* The end of a run on this node: when training is over, turns go on that only average, until all live
 * members' weights are one model (gossip/finish.h decides).
 *
 *   TRAINING ---round >= last---> FINISHING ---settled, or long enough---> FINISHED
 *                                  |   ^ nobody gave it                       ^
 *                                  v   |                                      |
 *                                 FETCHING ---state of a member that is done--+
 *
 * The last round is that of the run's configuration, or of a CLOSE entry in the owner's chain when that is
 * earlier.  Whoever hears of the entry late trains until then and enters at once; who comes after the others
 * are done takes over the merged state.  A kill loses nothing: the chain and the checkpoint say where to go
 * on, only the memory of who was near starts anew. */
#ifndef DUNLIN_NODE_RUN_FINISH_H
#define DUNLIN_NODE_RUN_FINISH_H

#include "gossip/finish.h"
#include "node/control.h"

enum {
    RUN_WAITERS_MAX = 8,
    RUN_FINISHING_PACE = 4, /* rounds of the end in the time of one: nobody trains between their turns */
};

/* How it ended here. */
enum run_outcome {
    RUN_OUTCOME_NONE,
    RUN_OUTCOME_MERGED,  /* all agreed, or nobody else was there */
    RUN_OUTCOME_BOUND,   /* not all agreed in time: spread says how far they are */
    RUN_OUTCOME_FETCHED, /* came late: the weights are those of a member that was done */
    RUN_OUTCOME_COUNT
};

struct run_ending {
    struct gossip_finish state; /* FINISHING; zero until begun */
    bool begun;
    bool stopping;        /* no turn begins any more */
    bool adopting;        /* the state that is being fetched is that of a member that is done */
    bool publish_due;     /* FINISHED: the merged state is still to be offered to joiners ... */
    bool published;       /* ... and is */
    bool evaluated;       /* val_loss is that of the merged weights */
    bool heard;           /* of a CLOSE entry, ... */
    uint64_t heard_round; /* ... in this round: the learning rate falls to its end from there */
    enum run_outcome outcome;
    size_t members; /* merged, self included */
    uint64_t cycles;
    double spread_before, spread, val_loss_before; /* NaN: not known */
    struct control_ref waiters[RUN_WAITERS_MAX];   /* calls of run.finish, told every second */
    size_t waiter_count;
    uint64_t tell_ns;
    uint64_t chain_next_ns, chain_wait_ns; /* the owner's chain is asked for again no sooner */
};

struct run;
struct run_swarm;
struct reply;
struct id;

/* The last round that trains; rounds count from 1. */
uint64_t run_last_round(const struct run *run);
/* Part of the training that is done in this round, 0..1. */
double run_training_done(const struct run *run, uint64_t round);
/* A member that joined in this round (0: from the start) was paired in the last round, so it belongs in the
 * mean. */
bool run_contributes(const struct run *run, uint64_t joined_round);

/* Enters FINISHING, or FINISHED where nothing is left to do. */
void run_finishing_begin(struct run *run, uint64_t now_ns);
/* A turn of this round after the last has ended, with a merge at this relative distance or without one. */
void run_finishing_turn(struct run *run, uint64_t round, bool merged, double relative);
/* Decides what is next; false: no turn is to begin now. */
bool run_finishing_tick(struct run *run, uint64_t now_ns);
/* The merged weights' loss is known. */
void run_finish_evaluated(struct run *run);
/* The merged state is on offer. */
void run_finish_published(struct run *run);
/* What the own register says of it: keys 8 and 9 of PROGRESS. */
void run_ending_told(struct run *run, enum gossip_ending *ending, double *spread);

/* Entries were added to the chain, or it was read from the disk. */
void run_chain_changed(struct run *run, uint64_t now_ns);
/* A member holds so many entries of the chain: asks for those that are missing here. */
void run_chain_heard(struct run *run, uint64_t now_ns, const struct id *author, uint64_t count);

/* Map "finish" of a run: nil while it trains and nobody has ended it. */
void run_reply_finish(struct run *run, const struct run_swarm *swarm, struct reply *r);
/* Calls that wait for the end (methods_finish.c): what is due is told. */
void methods_finish_tick(struct run *run, uint64_t now_ns);
uint64_t methods_finish_deadline_ns(const struct run *run);

#endif
