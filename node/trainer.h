/* The trainer thread of one run: takes inner steps, keeps to its share of the processor, hands out snapshots and
 * takes in differences at step boundaries.  It never waits for a peer.
 *
 * Commands are queued from the loop thread and answered by events on it, in order.  Arrays named in a command are
 * lent to the thread until the event that answers it.  Between commands the thread takes one step after another;
 * a step is short, so a command is served within one step. */
#ifndef DUNLIN_NODE_TRAINER_H
#define DUNLIN_NODE_TRAINER_H

#include <stdatomic.h>
#include <uv.h>

#include "node/config.h"
#include "node/run_config.h"
#include "train/model.h"

enum { TRAINER_COMMANDS_MAX = 32 };

struct trainer_config {
    struct run_config run;
    char data[NODE_PATH_SIZE]; /* file or directory of text */
    struct id node;            /* decides where in the text this node starts */
    unsigned threads;          /* 0: one for each core */
    unsigned cpu_pct;
};

enum trainer_event_kind {
    TRAINER_READY,     /* data and memory are there; answers trainer_start */
    TRAINER_FAILED,    /* text says why; the thread has ended */
    TRAINER_SNAPSHOT,  /* array was filled with the weights at a step boundary */
    TRAINER_APPLIED,   /* the difference in array was added */
    TRAINER_LOADED,    /* weights (and optimizer state) were replaced */
    TRAINER_EXPORTED,  /* bytes, owned by the receiver (free), hold the optimizer's state */
    TRAINER_EVALUATED, /* loss of the present weights on the validation windows */
};

struct trainer_event {
    enum trainer_event_kind kind;
    uint64_t tag; /* as given with the command */
    float *array;
    uint8_t *bytes;
    size_t len;
    double loss;
    uint64_t data_bytes; /* READY: text of the training part */
    char text[NODE_ERROR_SIZE];
};

/* What anybody may read at any time. */
struct trainer_meter {
    _Atomic uint64_t steps;
    _Atomic uint64_t tokens;
    _Atomic uint64_t busy_ns;    /* time spent in steps */
    _Atomic uint64_t loss_bits;  /* double: running mean of the training loss, nats per byte */
};

struct trainer;

/* Bytes the thread will need for this run, everything included; 0 when the config is refused. */
size_t trainer_memory_bytes(const struct run_config *run, unsigned threads);

/* Starts the thread; on_event runs on the loop's thread.  ERR_NO_MEMORY, ERR_IO: nothing was started. */
MUST_USE int trainer_start(struct trainer **out, uv_loop_t *loop, const struct trainer_config *config,
                           void (*on_event)(void *user, const struct trainer_event *event), void *user);
/* Ends the thread after its present step and frees everything.  Events not yet delivered are delivered first. */
void trainer_stop(struct trainer *trainer);

/* Commands.  Each returns ERR_FULL when TRAINER_COMMANDS_MAX wait: the thread hangs; nothing was lent then. */
/* Copies the weights into array [arena_floats]. */
MUST_USE int trainer_snapshot(struct trainer *trainer, uint64_t tag, float *array);
/* Adds diff [arena_floats] to the weights. */
MUST_USE int trainer_apply(struct trainer *trainer, uint64_t tag, float *diff);
/* Replaces the weights, and the optimizer's state when bytes are given (else its moments start afresh). */
MUST_USE int trainer_load(struct trainer *trainer, uint64_t tag, float *params, uint8_t *bytes, size_t len);
/* Asks for the optimizer's state. */
MUST_USE int trainer_export(struct trainer *trainer, uint64_t tag);
/* Asks for the validation loss. */
MUST_USE int trainer_evaluate(struct trainer *trainer, uint64_t tag);

/* Settings, effective at the next step boundary; any thread. */
void trainer_set_running(struct trainer *trainer, bool running);
void trainer_set_cpu(struct trainer *trainer, unsigned cpu_pct);
/* Part of the run that is done, 0..1: decides the learning rate. */
void trainer_set_progress(struct trainer *trainer, double progress);

const struct trainer_meter *trainer_meter(const struct trainer *trainer);

#endif
