/* IDX, the format of the MNIST files: two zero bytes, the type of the elements (8: unsigned byte, the only
 * one read here), the number of dimensions, the dimensions as big-endian 32-bit numbers, the elements
 * row-major. Source: LeCun, Cortes and Burges, "The MNIST database".  Private to train/. */
#ifndef DUNLIN_TRAIN_IDX_H
#define DUNLIN_TRAIN_IDX_H

#include <stdbool.h>

#include "base/bytes.h"
#include "train/rows.h"

/* True when the file begins as IDX of unsigned bytes does. */
bool train_is_idx(struct bytes file);
/* Adds every image (all dimensions but the first make one row) with its label to rows.  On failure some rows
 * may have been added, and `why` says which of the two is wrong and how: ERR_MALFORMED  no IDX of unsigned
 * bytes, or its length does not fit its dimensions ERR_MISMATCH   numbers of images and labels differ;
 * another number of inputs than rows->inputs; or a label of classes_max or more ERR_TOO_LARGE, ERR_NO_MEMORY
 * as train_rows_next */
MUST_USE int train_idx_read(struct bytes images, struct bytes labels, struct train_rows *rows, char *why,
                            size_t why_size);

#endif
