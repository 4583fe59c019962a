/* Rows of numbers with a class each, for the MLP: read into memory once, scaled, split into training and
 * validation by content.
 *
 * A path names a file or a directory.  A file that begins as IDX does (the format of the MNIST files, of
 * unsigned bytes) holds images, and its labels lie beside it under the name with "images" turned into
 * "labels" and "idx3" into "idx1"; any other file is CSV (train/csv.h).  Of a directory, not of those in it,
 * every
 * "*.csv" and every file with "images" in its name that begins as IDX does is taken, in order of their names.
 *
 * A label is a whole number from 0.  Values are divided by `input_max`, which all members of a run must
 * share: it belongs to the model, like the columns' order.  No column is scaled on its own: bring columns of
 * very different ranges to one before.
 *
 * A row whose content hash (of its values as read, and its label) is 0 modulo 10 is validation and never
 * trained on: members with the same rows agree, in whatever order and format they hold them, and a row that
 * comes twice never stands on both sides. */
#ifndef DUNLIN_TRAIN_SAMPLES_H
#define DUNLIN_TRAIN_SAMPLES_H

#include <stddef.h>
#include <stdint.h>

#include "base/alloc.h"
#include "base/err.h"
#include "base/id.h"

enum {
    TRAIN_SAMPLES_VALIDATION_SHARE = 10, /* one row in this many */
    TRAIN_SAMPLES_MIN = 20,              /* rows; less is memorised */
    TRAIN_SAMPLES_FILES_MAX = 4096,
};

/* The default of bytes_max: 1 GiB of values as float32. */
#define TRAIN_SAMPLES_MAX_BYTES ((size_t)1 << 30)

struct train_samples_config {
    const char *path;
    const char *label;  /* name of the label's column in CSV; NULL or "": the last column */
    size_t inputs;      /* refuse rows with another number of values; 0: as the first row has */
    size_t classes;     /* refuse labels that are not below it; 0: one more than the greatest label */
    float input_max;    /* values are divided by it; 0: by their largest magnitude */
    size_t bytes_max;   /* refuse more values than this, and files of more; 0: TRAIN_SAMPLES_MAX_BYTES */
    struct id node;     /* decides what this node draws, so that members train on different rows */
    uint8_t secret[32]; /* decides what is drawn in private: what others cannot know, where that matters */

    /* To give members different data: only training rows whose hash is `part` modulo `parts` are drawn (0 or
     * 1: all).  Validation is the same for all. */
    uint32_t part, parts;
};

struct train_samples_info {
    size_t files;
    size_t train_rows, validation_rows;
    size_t inputs, classes;
    float input_max; /* that values were divided by */
};

struct train_samples;

/* Reads config->path; off the network thread.  Copies what it keeps of config and the allocator.  *out is
 * owned by the caller (close with train_samples_close).  On failure `why` (why_size bytes, always terminated)
 * says what, in which file and line, and what to do:
 *   ERR_NOT_FOUND   the path, an image file's labels, or the label's column does not exist
 *   ERR_PERMISSION  it cannot be opened         ERR_MALFORMED  a file is no CSV or IDX of rows with labels
 *   ERR_INVALID     too few rows, no rows in the part, or one class only
 *   ERR_MISMATCH    rows have another number of values or classes than was told to expect
 *   ERR_TOO_LARGE   more than bytes_max         ERR_NO_MEMORY  not enough memory
 *   ERR_IO          reading failed */
MUST_USE int train_samples_open(const struct train_samples_config *config, const struct allocator *allocator,
                                struct train_samples **out, char *why, size_t why_size);
/* The same from arrays: features [rows][inputs] as read, not scaled, and labels [rows]; both are copied.
 * config->path and label are not used, config->inputs must be the arrays' (asserted).  Errors as above, and
 * ERR_NOT_FINITE: a value is NaN or infinite. */
MUST_USE int train_samples_of(const struct train_samples_config *config, size_t rows, const float features[],
                              const uint16_t labels[], const struct allocator *allocator,
                              struct train_samples **out, char *why, size_t why_size);
/* NULL is allowed. */
void train_samples_close(struct train_samples *samples);

/* Counts of what was found. */
void train_samples_info(const struct train_samples *samples, struct train_samples_info *out);
/* Index of the next random training row, uniform over them. */
size_t train_samples_draw(struct train_samples *samples);
/* The same from a stream of its own that only the secret decides: it leaves the other draws as they are. */
size_t train_samples_draw_private(struct train_samples *samples);
/* Restarts the node's draws as a stream of its own for this number: a trainer resumed at step n does not
 * repeat the rows it drew before. */
void train_samples_reseed(struct train_samples *samples, uint64_t number);
/* The scaled values [inputs] of a row, borrowed until close, and its class.  Rows 0 .. train_rows - 1 are for
 * training, the validation_rows after them for validation, both in an order fixed by content. */
const float *train_samples_row(const struct train_samples *samples, size_t index, uint16_t *label);

#endif
