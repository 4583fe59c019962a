/* Rows of numbers with a class each, as they are read.  Private to train/. */
#ifndef DUNLIN_TRAIN_ROWS_H
#define DUNLIN_TRAIN_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "base/alloc.h"
#include "base/err.h"

struct train_rows {
    struct allocator allocator;
    size_t inputs;      /* values of a row; 0: not yet known, the first row decides */
    size_t classes_max; /* labels are below it */
    size_t bytes_max;   /* of values */
    size_t count, cap;
    float *values;    /* [count][inputs] */
    uint16_t *labels; /* [count] */
};

/* Nothing read yet.  inputs and bytes_max 0: any.  Copies the allocator. */
void train_rows_init(struct train_rows *rows, const struct allocator *allocator, size_t inputs,
                     size_t classes_max, size_t bytes_max);
void train_rows_release(struct train_rows *rows);
/* Room for one more row, filled by the caller: *values [inputs] and *label, valid until the next call.
 * Counted by train_rows_keep, so that a row which turns out to be wrong leaves nothing behind. ERR_TOO_LARGE:
 * more than bytes_max.  ERR_NO_MEMORY. */
MUST_USE int train_rows_next(struct train_rows *rows, float **values, uint16_t **label);
void train_rows_keep(struct train_rows *rows);

#endif
