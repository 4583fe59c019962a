/* Stochastic gradient descent with momentum, in the heavy-ball form m = momentum m + g, p -= rate m.
 * Source: Polyak 1964; weight decay decoupled as in train/adamw.h, clipping likewise. */
#ifndef DUNLIN_TRAIN_SGD_H
#define DUNLIN_TRAIN_SGD_H

#include "train/adamw.h"

/* Updates floats from .. to of the arena (any bounds inside it): params and momentum.  Of step, the rate,
 * beta1 (the momentum), decay and gradient_scale are used. */
void train_sgd_apply(const struct train_layout *layout, const struct train_adamw_step *step, size_t from,
                     size_t to, const float gradients[], float params[], float momentum[]);

#endif
