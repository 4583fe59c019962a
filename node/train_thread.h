/* The trainer thread of one run: takes inner steps, keeps to its share of the processor, hands out snapshots
 * and takes in differences at step boundaries.  It never waits for a peer.
 *
 * Commands are queued from the loop thread and answered by events on it, in order.  Arrays named in a command
 * are lent to the thread until the event that answers it.  Between commands the thread takes one step after
 * another; a step is short, so a command is served within one step.  Every command is answered, also by a
 * thread that has failed or is told to end: then with `refused` set, a text with LOADED, no bytes with
 * EXPORTED and NaN with EVALUATED. */
#ifndef DUNLIN_NODE_TRAIN_THREAD_H
#define DUNLIN_NODE_TRAIN_THREAD_H

#include <stdatomic.h>
#include <uv.h>

#include "node/config.h"
#include "node/run_config.h"
#include "train/trainer.h"

enum { TRAIN_THREAD_COMMANDS_MAX = 32 }; /* posted and not yet answered */

enum train_thread_event_kind {
    TRAIN_THREAD_READY,     /* data and memory are there; answers train_thread_start */
    TRAIN_THREAD_FAILED,    /* text says why; from now on every command is refused */
    TRAIN_THREAD_SNAPSHOT,  /* array was filled with the weights, or a span, at a step boundary */
    TRAIN_THREAD_APPLIED,   /* the difference in array was added */
    TRAIN_THREAD_TRIED,     /* the difference in array was tried, and added when err is 0 */
    TRAIN_THREAD_LOADED,    /* weights (and optimizer state) were replaced */
    TRAIN_THREAD_EXPORTED,  /* bytes, owned by the receiver (free), hold the optimizer's state */
    TRAIN_THREAD_EVALUATED, /* loss and accuracy of the present weights on the validation part */
    TRAIN_THREAD_ENDED,     /* answers train_thread_end: train_thread_stop does not block any more */
};

struct train_thread_event {
    enum train_thread_event_kind kind;
    uint64_t tag; /* as given with the command */
    float *array;
    uint8_t *bytes;
    size_t len;
    double loss, accuracy;      /* accuracy: NaN where the model does not count it */
    struct trainer_trial trial; /* TRIED */
    int err;                    /* TRIED: what gossip_loss_gate says */
    bool refused;               /* nothing was done: the thread has failed or is ending */
    uint64_t data_bytes;        /* READY: data that was read */
    char text[NODE_ERROR_SIZE];
};

struct train_thread_config {
    struct run_config run;
    char data[NODE_PATH_SIZE]; /* file or directory of what the model learns from */
    struct id node;            /* decides where in the text this node starts */
    uint8_t secret[32];        /* decides its private batches: drawn from the system */
    unsigned threads;          /* 0: one for each core */
    unsigned cpu_pct;
    void (*on_event)(void *user, const struct train_thread_event *event); /* on the loop's thread */
    void *user;
};

/* Adjacent tensors. */
struct train_thread_span {
    size_t first_tensor;
    size_t tensor_count; /* at least 1 */
};

/* What anybody may read at any time. */
struct train_thread_meter {
    _Atomic uint64_t steps;
    _Atomic uint64_t tokens;
    _Atomic uint64_t busy_ns;   /* processor time spent in steps */
    _Atomic uint64_t held_ns;   /* time in which exchanges kept it from steps: snapshots taken, differences
                                 * added or tried */
    _Atomic uint64_t loss_bits; /* double: running mean of the training loss, nats per byte */
};

struct train_thread;

/* Bytes the thread will need for this run, everything included; 0 when the config is refused. */
size_t train_thread_memory_bytes(const struct run_config *run, unsigned threads);

/* Starts the thread.  ERR_NO_MEMORY, ERR_IO: nothing was started. */
MUST_USE int train_thread_start(struct train_thread **out, uv_loop_t *loop,
                                const struct train_thread_config *config);
/* Tells the thread to end after its present step (or after reading its data, which may take a while); ENDED
 * follows.  Commands posted from now on are not taken: ERR_CLOSED. */
void train_thread_end(struct train_thread *thread);
/* Ends the thread, waits for it (not noticeably after ENDED) and frees everything.  Events not yet delivered
 * are delivered first. */
void train_thread_stop(struct train_thread *thread);

/* Commands.  Each returns ERR_FULL when TRAIN_THREAD_COMMANDS_MAX wait: the thread hangs or was asked too
 * much; ERR_CLOSED after train_thread_end.  Nothing was lent then. */
/* Copies the weights into array [arena_floats]. */
MUST_USE int train_thread_snapshot(struct train_thread *thread, uint64_t tag, float *array);
/* Those of a span of tensors only; array begins with the span's first value. */
MUST_USE int train_thread_snapshot_span(struct train_thread *thread, uint64_t tag,
                                        struct train_thread_span span, float *array);
/* Adds diff, which begins with the span's first value, to the span's weights. */
MUST_USE int train_thread_apply_span(struct train_thread *thread, uint64_t tag, struct train_thread_span span,
                                     float *diff);
/* Tries a span's difference on a private batch (trainer_try_span) and adds it when gossip_loss_gate lets it,
 * with no step in between.  scratch [as diff] is lent as well. */
MUST_USE int train_thread_try_span(struct train_thread *thread, uint64_t tag, struct train_thread_span span,
                                   float *diff, float *scratch);
/* Replaces the weights, and the optimizer's state when bytes are given (else its moments start afresh). */
MUST_USE int train_thread_load(struct train_thread *thread, uint64_t tag, float *params, uint8_t *bytes,
                               size_t len);
/* Asks for the optimizer's state. */
MUST_USE int train_thread_export(struct train_thread *thread, uint64_t tag);
/* Asks for the validation loss. */
MUST_USE int train_thread_evaluate(struct train_thread *thread, uint64_t tag);

/* Settings, effective at the next step boundary; any thread. */
void train_thread_set_running(struct train_thread *thread, bool running);
void train_thread_set_cpu(struct train_thread *thread, unsigned cpu_pct);
/* Part of the run that is done, 0..1: decides the learning rate. */
void train_thread_set_progress(struct train_thread *thread, double progress);

/* The thread's counters; valid until train_thread_stop. */
const struct train_thread_meter *train_thread_meter(const struct train_thread *thread);

#endif
