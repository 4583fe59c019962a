/* Text from a model: bytes drawn one after another, each from the model's distribution given those before. */
#ifndef DUNLIN_TRAIN_SAMPLE_H
#define DUNLIN_TRAIN_SAMPLE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "train/model.h"

struct train_sample_config {
    struct bytes prompt;      /* what the text goes on from; may be empty (then a line feed stands before) */
    size_t count;             /* bytes to generate */
    float temperature;        /* 0: always the likeliest byte; 1: the model's own distribution */
    unsigned top_k;           /* choose among this many likeliest bytes; 0: all */
    const _Atomic bool *stop; /* becomes true: break off with ERR_CLOSED; NULL: never */
    uint64_t seed;            /* the same seed, weights and processor give the same text */
};

/* Temperature 0.8, top_k 40, 256 bytes, seed 0, no prompt. */
struct train_sample_config train_sample_config_default(void);

/* Writes config->count bytes to out [count], not terminated, any byte values: escape them before showing.
 * params [arena_floats] are borrowed until return.  Keys and values of earlier positions are kept, so each
 * byte costs one position; when the context is full, its later half is read again as the new start.  Takes
 * its scratch from the allocator and gives it back. ERR_INVALID     temperature negative, NaN or above 100,
 * or top_k above 256 ERR_NOT_FINITE  the weights give no distribution: they are damaged or diverged
 *   ERR_NO_MEMORY   nothing was done
 *   ERR_CLOSED      told to stop */
MUST_USE int train_sample(const struct train_layout *layout, const float params[],
                          const struct train_sample_config *config, const struct allocator *allocator,
                          uint8_t out[]);

#endif
