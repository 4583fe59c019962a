/* Training text: a file, or a directory tree, read into memory once and cut into blocks.
 *
 * Read, not mapped: a mapped file that shrinks kills the process with SIGBUS, and one that changes would move
 * text between training and validation.  The price is memory, hence `bytes_max`, beyond which opening is
 * refused with the size found.  Changes to the files after opening are not seen.
 *
 * What counts: regular files that are valid UTF-8 (ASCII included) without NUL bytes, visited in order of
 * their paths.  Symbolic links inside the tree are not followed; a file that cannot be read is counted and
 * passed over; a file whose content was seen before is dropped.
 *
 * Every file is cut into blocks of 8 KiB from its start.  A block whose content hash is 0 modulo 20 is
 * validation and never trained on: members of a run that hold the same text agree, whatever else they hold.
 * Windows never span two blocks; what is shorter than a window at a file's end is not used. */
#ifndef DUNLIN_TRAIN_DATA_H
#define DUNLIN_TRAIN_DATA_H

#include <stddef.h>
#include <stdint.h>

#include "base/alloc.h"
#include "base/err.h"
#include "base/id.h"

enum {
    TRAIN_BLOCK_BYTES = 8192,
    TRAIN_VALIDATION_SHARE = 20,   /* one block in this many */
    TRAIN_VALIDATION_WINDOWS = 64, /* evaluated; fixed by content */
    TRAIN_TEXT_MIN_BYTES = 65536,  /* in usable blocks; less is memorised, not learned */
    TRAIN_FILES_MAX = 1 << 20,
    TRAIN_WHY_SIZE = 512, /* enough for every error text of this module, paths cut to fit */
};

/* The default of bytes_max: 512 MiB. */
#define TRAIN_TEXT_MAX_BYTES ((size_t)512 << 20)

struct train_data_config {
    const char *path;
    size_t context;     /* of the model; a window is context + 1 bytes */
    size_t bytes_max;   /* refuse more text than this; 0: TRAIN_TEXT_MAX_BYTES */
    struct id node;     /* decides where this node starts, so that members train on different text */
    uint8_t secret[32]; /* decides what is drawn in private: what others cannot know, where that matters */
};

struct train_data_info {
    size_t files;            /* used */
    size_t files_binary;     /* passed over: not text */
    size_t files_duplicate;  /* dropped: content seen before */
    size_t files_unreadable; /* passed over: no permission, or reading failed */
    size_t bytes;            /* of text held */
    size_t train_blocks;
    size_t validation_blocks;
};

struct train_data;

/* Reads everything below config->path; takes seconds on large trees, call it off the network thread.  Copies
 * what it keeps of config and the allocator.  *out is owned by the caller (close with train_data_close).  On
 * failure `why` (why_size bytes, always terminated) says what, where, and what to do: ERR_NOT_FOUND    the
 * path does not exist             ERR_PERMISSION  it cannot be opened ERR_INVALID      no text, or too
 * little: how many bytes were found and are needed ERR_TOO_LARGE    more text than bytes_max ERR_NO_MEMORY
 * not enough memory for it ERR_IO           reading the path itself failed */
MUST_USE int train_data_open(const struct train_data_config *config, const struct allocator *allocator,
                             struct train_data **out, char *why, size_t why_size);
/* NULL is allowed. */
void train_data_close(struct train_data *data);

/* Counts of what was found. */
void train_data_info(const struct train_data *data, struct train_data_info *out);
/* Next random training window, context + 1 bytes borrowed until close.  Uniform over all start positions. */
const uint8_t *train_data_draw(struct train_data *data);
/* The same from a stream of its own that only the secret decides: it leaves the other draws as they are. */
const uint8_t *train_data_draw_private(struct train_data *data);
/* Restarts the node's draws as a stream of its own for this number: a trainer resumed at step n does not
 * repeat the windows it drew before. */
void train_data_reseed(struct train_data *data, uint64_t number);
/* Fills windows with the validation windows, each context + 1 bytes borrowed until close, in an order fixed
 * by content. */
void train_data_validation(const struct train_data *data, const uint8_t *windows[TRAIN_VALIDATION_WINDOWS]);
size_t train_data_context(const struct train_data *data);

#endif
