/* AdamW with warm-up, cosine decay and clipping by the global norm.
 * Source: Loshchilov and Hutter 2019, arXiv:1711.05101. */
#ifndef DUNLIN_TRAIN_ADAMW_H
#define DUNLIN_TRAIN_ADAMW_H

#include "train/model.h"

struct train_adamw_config {
    float rate;         /* peak learning rate */
    float beta1, beta2; /* decay of the first and second moment */
    float epsilon;
    float decay;     /* weight decay, of matrices and embeddings only */
    float clip_norm; /* gradients with a larger global norm are scaled down to it; 0: never */
    float warmup;    /* fraction of the whole run over which the rate rises from 0 */
    float floor;     /* rate at the end, as a fraction of the peak */
};

/* Rate 3e-3, betas 0.9 and 0.98, decay 0.05, clip 1, warm-up 2 % of the run, floor 10 %. */
struct train_adamw_config train_adamw_config_default(void);
/* ERR_INVALID: `why` names the setting and what is allowed. */
MUST_USE int train_adamw_config_check(const struct train_adamw_config *config, char *why, size_t why_size);

/* Learning rate when `progress` (0 .. 1, clamped) of the run is done: linear warm-up, then a cosine to floor
 * * rate. The caller decides what progress is (the swarm's round over the planned rounds), so that all
 * members agree. */
float train_lr(const struct train_adamw_config *config, double progress);

/* Everything one update needs besides the arrays. */
struct train_adamw_step {
    float rate, beta1, beta2, epsilon, decay;
    float gradient_scale;     /* from clipping */
    float correct1, correct2; /* 1 / (1 - beta^step) */
};

/* step counts from 1; gradient_norm is the global norm before clipping. */
struct train_adamw_step train_adamw_step_of(const struct train_adamw_config *config, float rate,
                                            uint64_t step, double gradient_norm);

/* Updates floats from .. to of the arena (any bounds inside it): params, first and second moments. */
void train_adamw_apply(const struct train_layout *layout, const struct train_adamw_step *step, size_t from,
                       size_t to, const float gradients[], float params[], float first[], float second[]);

/* grads[0][from .. to] += the same of grads[1 ..], in this order; returns the sum of squares of the result.
 */
double train_gradient_reduce(size_t from, size_t to, size_t arena_count, float *const grads[]);

#endif
