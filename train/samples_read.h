/* Finding and reading the files of rows, for train/samples.c.  Private to train/. */
#ifndef DUNLIN_TRAIN_SAMPLES_READ_H
#define DUNLIN_TRAIN_SAMPLES_READ_H

#include "train/rows.h"

/* Adds the rows of the file or directory at path, as train/samples.h says, to rows; counts what was used in
 * *files.  Errors and `why` as train_samples_open; some rows may have been added. */
MUST_USE int train_samples_read(struct train_rows *rows, const char *path, const char *label, size_t *files,
                                char *why, size_t why_size);

#endif
