/* One worker's forward and backward pass over a few sequences, and the memory it needs.  Private to train/.
 * No allocation after train_pass_create; one pass belongs to one thread at a time. */
#ifndef DUNLIN_TRAIN_PASS_H
#define DUNLIN_TRAIN_PASS_H

#include "base/alloc.h"
#include "train/model.h"

struct train_pass;

/* Bytes train_pass_create takes, or SIZE_MAX when that overflows. */
size_t train_pass_bytes(const struct train_layout *layout, size_t sequences_max);
/* A pass over at most sequences_max sequences of context bytes.  Borrows layout until destroyed; copies the
 * allocator.  ERR_NO_MEMORY: nothing was kept. */
MUST_USE int train_pass_create(const struct train_layout *layout, size_t sequences_max,
                               const struct allocator *allocator, struct train_pass **out);
/* NULL is allowed. */
void train_pass_destroy(struct train_pass *pass);

/* Runs count (1 .. sequences_max) windows of context + 1 bytes forward, each byte predicting the next, and
 * returns the sum of the losses in nats over count * context predictions. */
double train_pass_forward(struct train_pass *pass, const float params[], size_t count,
                          const uint8_t *const windows[]);
/* Forward and back: adds to grads [arena_floats] the gradient of scale * (sum of losses). */
double train_pass_both(struct train_pass *pass, const float params[], size_t count,
                       const uint8_t *const windows[], float scale, float grads[]);

#endif
