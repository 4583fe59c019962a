/* What trains: an interface that the node drives from ONE trainer thread, and the built-in implementations,
 * one for each kind of model.
 *
 *   trainer_options_default -> trainer_options_check -> trainer_bytes (print or refuse)
 *     -> train_data_open -> trainer_create_builtin       the transformer, on text
 *        or train_samples_open -> trainer_create_mlp     the MLP, on rows of numbers
 *     -> { trainer_step ... trainer_apply ... trainer_snapshot ... trainer_evaluate }
 *     -> trainer_destroy -> train_data_close or train_samples_close
 *
 * Below, an example is one sequence of text, or one row; a token is what one prediction is made for: a byte
 * of text, or a row.
 *
 * No call may overlap another on the same trainer.  Every return from trainer_step is a step boundary:
 * weights may be read, replaced or shifted there.  The trainer knows nothing of rounds, peers or time. */
#ifndef DUNLIN_TRAIN_TRAINER_H
#define DUNLIN_TRAIN_TRAINER_H

#include <stdbool.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "train/adamw.h"
#include "train/data.h"
#include "train/model.h"
#include "train/samples.h"

enum {
    TRAIN_BATCH_MAX = 4096,
    TRAIN_ACCUMULATE_MAX = 1024,
    TRAIN_TRIAL_UNITS = 16, /* of the private batch: windows of text, or 16 rows each */
};

enum train_optimizer { TRAIN_ADAMW, TRAIN_SGD };

struct trainer_options {
    struct train_model_config model;
    enum train_optimizer optimizer;
    /* For TRAIN_SGD as well: beta1 is then its momentum; beta2 and epsilon are not used. */
    struct train_adamw_config adamw;
    uint8_t seed[32];    /* of the run: members with equal seeds start from equal weights */
    uint32_t threads;    /* 1 .. TRAIN_THREADS_MAX; the calling thread is one of them */
    uint32_t batch;      /* examples of one step, shared out over the threads */
    uint32_t micro;      /* examples one thread works on at once: memory against speed */
    uint32_t accumulate; /* steps whose gradients are summed into one update */
};

struct trainer_report {
    double loss;          /* mean over this step's tokens, nats per token */
    double gradient_norm; /* before clipping; 0 unless updated */
    uint64_t tokens;      /* trained on in this step */
    bool updated;         /* weights changed (always, with accumulate 1) */
};

/* How good weights are on the validation part. */
struct trainer_score {
    double loss;     /* nats per token */
    double accuracy; /* share of tokens of which the likeliest class is the right one; NaN where the model
                      * does not count it (the transformer) */
    uint64_t tokens; /* measured on */
};

/* What a difference would do to the loss of a private batch, nats per token; not finite where the weights are
 * broken. */
struct trainer_trial {
    double before, after;
};

/* Implemented by the built-in trainer, and by whatever is attached in its place.  The functions below
 * document each entry; `self` is the implementation's. */
struct trainer_ops {
    int (*step)(void *self, float rate, struct trainer_report *out);
    float *(*params)(void *self);
    int (*score)(void *self, const float params[], struct trainer_score *out);
    double (*private_loss)(void *self, bool fresh); /* of the live weights; fresh: on a new private batch */
    size_t (*state_bytes)(void *self);
    int (*state_export)(void *self, uint8_t *out, size_t out_cap);
    int (*state_import)(void *self, struct bytes state);
    void (*reset_moments)(void *self);
    uint64_t (*updates)(void *self);
    void (*destroy)(void *self);
};

struct trainer {
    const struct trainer_ops *ops;
    void *self;
    const struct train_layout *layout; /* valid until destroy */
};

/* The default transformer, batch and optimizer: tuned together to learn English text in minutes on part of a
 * core. */
struct trainer_options trainer_options_default(void);
/* The same for this MLP: batch 32, AdamW at 2e-3 without decay. */
struct trainer_options trainer_options_mlp(const struct train_model_config *model);
/* ERR_INVALID: `why` (why_size bytes) names the setting and what is allowed. */
MUST_USE int trainer_options_check(const struct trainer_options *options, char *why, size_t why_size);
/* Bytes the built-in trainer takes, everything but the data: weights, moments, gradients of each thread,
 * activations.  SIZE_MAX when that overflows.  Requires checked options (asserted). */
size_t trainer_bytes(const struct trainer_options *options);

/* Builds a transformer's trainer and its initial weights.  Borrows data until destroyed (its context must
 * equal the model's, asserted; train_data_draw is called from here only); copies options and allocator.  All
 * memory is taken here, none later.  ERR_NO_MEMORY: nothing was kept. */
MUST_USE int trainer_create_builtin(const struct trainer_options *options, struct train_data *data,
                                    const struct allocator *allocator, struct trainer *out);
/* The same for an MLP.  The samples' inputs and classes must equal the model's (asserted; train_samples_open
 * compares them when told what to expect). */
MUST_USE int trainer_create_mlp(const struct trainer_options *options, struct train_samples *samples,
                                const struct allocator *allocator, struct trainer *out);
void trainer_destroy(struct trainer *trainer);

/* One batch forward and back, and, each `accumulate` calls, one update at this learning rate (see
 * train_lr). ERR_NOT_FINITE: loss or gradient is NaN or infinite; weights and moments are as before and this
 * update's gradients are dropped.  Once may be chance; if it goes on, fetch a peer's state or lower the rate.
 */
MUST_USE int trainer_step(struct trainer *trainer, float rate, struct trainer_report *out);
/* The live arena, layout->arena_floats floats: borrowed until destroyed, changed by the calls that say so. */
float *trainer_params(struct trainer *trainer);
/* Copies the arena to out [arena_floats]. */
void trainer_snapshot(struct trainer *trainer, float out[]);
/* The same for the values of the tensors from first_tensor on, tensor_count of them, which are adjacent: out
 * begins with the first one's first value and takes the padding between them. */
void trainer_snapshot_span(struct trainer *trainer, size_t first_tensor, size_t tensor_count, float out[]);
/* Replaces the weights; padding is kept zero.  ERR_NOT_FINITE: a value is NaN or infinite, nothing changed.
 */
MUST_USE int trainer_set_params(struct trainer *trainer, const float params[]);
/* params += scale * difference [arena_floats]: a merge result.  ERR_NOT_FINITE: a sum is NaN or infinite,
 * nothing changed: drop the merge. */
MUST_USE int trainer_apply(struct trainer *trainer, const float difference[], float scale);
/* The same for a span of tensors; difference begins with its first value. */
MUST_USE int trainer_apply_span(struct trainer *trainer, size_t first_tensor, size_t tensor_count,
                                const float difference[], float scale);
/* Tries a span's difference without keeping it: two forward passes over one batch of this node's training
 * examples (TRAIN_TRIAL_UNITS), drawn anew by a stream that only the data's secret decides, so that no
 * partner can prepare for it and no other draw changes.  scratch has as many values as difference.  Weights
 * are as before afterwards, bit for bit. */
void trainer_try_span(struct trainer *trainer, size_t first_tensor, size_t tensor_count,
                      const float difference[], float scratch[], struct trainer_trial *out);
/* Mean loss of any parameters [arena_floats] (NULL: the live ones) on the fixed validation part, nats per
 * token.  The same bits for the same parameters, processor and library, whatever the thread count.  Changes
 * nothing.  ERR_NOT_FINITE: the loss is NaN or infinite; out is as before. */
MUST_USE int trainer_evaluate(struct trainer *trainer, const float params[], double *loss);
/* The same with the accuracy. */
MUST_USE int trainer_score(struct trainer *trainer, const float params[], struct trainer_score *out);
/* Optimizer state as bytes for the disk: moments and step count, with a checksum; not the weights. */
size_t trainer_state_bytes(const struct trainer *trainer);
/* Returns bytes written.  ERR_TOO_LARGE: out_cap < trainer_state_bytes.  ERR_STATE: between two updates of
 * an accumulated batch. */
MUST_USE int trainer_state_export(struct trainer *trainer, uint8_t *out, size_t out_cap);
/* ERR_CORRUPT: checksum differs.  ERR_MISMATCH: made for another model.  Either way nothing changed: go on
 * with fresh moments (trainer_reset_moments).  Data draws continue with windows not drawn before. */
MUST_USE int trainer_state_import(struct trainer *trainer, struct bytes state);
/* Forgets moments and step count, as a joiner does after taking a peer's weights. */
void trainer_reset_moments(struct trainer *trainer);
/* Updates made since creation, imported ones included. */
uint64_t trainer_updates(const struct trainer *trainer);

#endif
