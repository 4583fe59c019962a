/* What all built-in trainers share: threads, gradients, the optimizer, the order of a step.  Private to
 * train/.
 *
 * Data parallel over examples.  Each thread runs forward and back over its share into a gradient arena of its
 * own; then each sums one slice of the arenas in thread order, and after a barrier, when the global norm is
 * known, updates that slice.  What depends on the model is a workload. */
#ifndef DUNLIN_TRAIN_PARALLEL_H
#define DUNLIN_TRAIN_PARALLEL_H

#include "train/trainer.h"

/* The validation part is cut into so many units, each measured whole by one thread: sums of units in order do
 * not depend on how many threads there are. */
enum { TRAIN_UNITS = TRAIN_VALIDATION_WINDOWS };
_Static_assert((int)TRAIN_TRIAL_UNITS <= (int)TRAIN_UNITS, "a trial is measured in units as well");

/* Sums over examples. */
struct train_tally {
    double loss;      /* nats */
    uint64_t correct; /* tokens whose likeliest class was the right one */
};

/* How the work is cut. */
struct train_share {
    const struct train_layout *layout; /* valid until the workload is destroyed */
    size_t member_count;
    size_t micro; /* examples at once */
    size_t batch;
};

/* One model at work; self is the workload's.  Members run at the same time, each with a number below
 * member_count; the other functions run alone. */
struct train_workload_ops {
    /* Obtains what the members need.  ERR_NO_MEMORY: destroy is called next. */
    int (*open)(void *self, const struct train_share *share);
    void (*destroy)(void *self);
    /* Draws the next batch. */
    void (*draw)(void *self);
    /* Restarts the draws as a stream of its own for this number. */
    void (*reseed)(void *self, uint64_t updates);
    /* Forward and back over examples from .. to of the batch: adds to grads [arena_floats] the gradient of
     * scale * (sum of losses). */
    struct train_tally (*learn)(void *self, size_t member, size_t from, size_t to, const float params[],
                                float scale, float grads[]);
    /* Forward over one unit of the validation part. */
    struct train_tally (*measure)(void *self, size_t member, size_t unit, const float params[]);
    /* Draws the private batch, of TRAIN_TRIAL_UNITS units, kept until the next call. */
    void (*draw_private)(void *self);
    /* Forward over one of its units. */
    struct train_tally (*measure_private)(void *self, size_t member, size_t unit, const float params[]);
};

struct train_workload {
    const struct train_workload_ops *ops;
    void *self;
    uint64_t tokens_each;     /* of one example */
    uint64_t tokens_measured; /* of the validation part */
    uint64_t tokens_tried;    /* of the private batch */
    bool counts_correct;
};

/* The same order of memory and threads for every model: how options.batch is cut. */
struct train_share train_share_of(const struct trainer_options *options, const struct train_layout *layout);
/* Bytes train_parallel_create takes, the workload's own not counted; SIZE_MAX when that overflows. */
size_t train_parallel_bytes(const struct train_share *share);
/* Takes the workload, also on failure (ERR_NO_MEMORY); copies options and allocator.  Initial weights are
 * made from options->seed. */
MUST_USE int train_parallel_create(const struct trainer_options *options,
                                   const struct train_workload *workload, const struct allocator *allocator,
                                   struct trainer *out);

/* First of `total` things that belong to member `index` of `count`. */
size_t train_share_start(size_t total, size_t index, size_t count);

/* Bytes of each workload, SIZE_MAX when that overflows. */
size_t train_transformer_bytes(const struct train_share *share);
size_t train_mlp_bytes(const struct train_share *share);

#endif
