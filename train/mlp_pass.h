/* One worker's forward and backward pass of an MLP over a few rows, and the memory it needs.  Private to
 * train/. No allocation after train_mlp_pass_create; one pass belongs to one thread at a time. */
#ifndef DUNLIN_TRAIN_MLP_PASS_H
#define DUNLIN_TRAIN_MLP_PASS_H

#include "base/alloc.h"
#include "train/model.h"
#include "train/parallel.h"

struct train_mlp_pass;

/* Bytes train_mlp_pass_create takes, or SIZE_MAX when that overflows. */
size_t train_mlp_pass_bytes(const struct train_layout *layout, size_t rows_max);
/* A pass over at most rows_max rows.  Borrows layout until destroyed; copies the allocator.  ERR_NO_MEMORY:
 * nothing was kept. */
MUST_USE int train_mlp_pass_create(const struct train_layout *layout, size_t rows_max,
                                   const struct allocator *allocator, struct train_mlp_pass **out);
/* NULL is allowed. */
void train_mlp_pass_destroy(struct train_mlp_pass *pass);

/* Runs count (1 .. rows_max) rows [sizes[0]] with their labels (below the last size) forward and, unless
 * grads is NULL, back: adds to grads [arena_floats] the gradient of scale * (sum of losses). */
struct train_tally train_mlp_pass_run(struct train_mlp_pass *pass, const float params[], size_t count,
                                      const float *const rows[], const uint16_t labels[], float scale,
                                      float grads[]);

#endif
