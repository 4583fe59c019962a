/* Checkpoints of a run's weights: DIR/runs/<run id>/<generation>.ckpt, one file a generation, two kept.
 *
 * A file is a head (magic, version, run, round, step, counts, section lengths), the sections one after the
 * other, and a BLAKE2b-256 over all of it.  It is written under another name, flushed, renamed, and the
 * directory flushed; only then is the oldest generation removed.  So a crash at any instant leaves at least
 * the previous generation.
 *
 * Numbers in the head are big-endian; the sections are the caller's bytes (float32 arrays little-endian).
 * Everything blocks and streams: no copy of a section is made.  Use from one thread at a time per run. */
#ifndef DUNLIN_STORE_CHECKPOINT_H
#define DUNLIN_STORE_CHECKPOINT_H

#include <sodium.h>

#include "base/id.h"
#include "store/file.h"

enum {
    CHECKPOINT_VERSION = 1,
    CHECKPOINT_GENERATIONS = 2, /* kept */
    CHECKPOINT_HEAD_BYTES = 106,
    CHECKPOINT_SUM_BYTES = 32,
    CHECKPOINT_META_MAX = 1 << 20,
};

enum checkpoint_section {
    CHECKPOINT_PHI,       /* outer parameters, float32[param_count] */
    CHECKPOINT_DELTA,     /* outer momentum, float32[param_count], or empty */
    CHECKPOINT_OPTIMIZER, /* inner optimizer's state, opaque */
    CHECKPOINT_META,      /* opaque, at most CHECKPOINT_META_MAX */
    CHECKPOINT_SECTIONS,
};

struct checkpoint_info {
    struct id run;
    uint64_t round;
    uint64_t step; /* inner steps taken since the run began */
    uint64_t param_count;
    uint32_t tensor_count;
    uint64_t section_len[CHECKPOINT_SECTIONS]; /* bytes */
};

struct checkpoint_writer {
    struct store_io io;
    int fd; /* -1: not open */
    uint64_t generation;
    uint64_t left; /* bytes of the sections still to come */
    int failed;    /* first error; everything after it fails the same way */
    crypto_generichash_state sum;
    char dir[STORE_PATH_MAX];
};

struct checkpoint_reader {
    int fd; /* -1: not open */
    uint64_t generation;
    bool fell_back; /* a newer generation was damaged */
    struct checkpoint_info info;
};

/* Starts the next generation of info->run below data_dir (directories are made).  The section lengths in info
 * are what will be written.  On error nothing is open.  ERR_DISK_FULL, ERR_PERMISSION, ERR_IO, ERR_TOO_LARGE
 * (path), ERR_INVALID: lengths are impossible (PHI not 4 * param_count, META too long, a sum beyond 2^62). */
MUST_USE int checkpoint_begin(struct checkpoint_writer *w, const struct store_io *io, const char *data_dir,
                              const struct checkpoint_info *info);
/* Appends to the sections, in order, in pieces of any size.  Failure is sticky: go on to checkpoint_abort.
 * ERR_INVALID: more bytes than announced. */
MUST_USE int checkpoint_write(struct checkpoint_writer *w, const void *data, size_t len);
/* Flushes, renames, flushes the directory, removes generations beyond the newest two.  Closes w whatever
 * happens; on error the earlier generations are all still there.  ERR_INVALID: fewer bytes than announced. */
MUST_USE int checkpoint_commit(struct checkpoint_writer *w);
/* Removes what was written and closes w. */
void checkpoint_abort(struct checkpoint_writer *w);

/* Opens the newest intact generation after checking all of its bytes.  set_aside: damaged newer files are
 * renamed to damaged.ckpt (one is kept), so that they no longer count as a generation; false leaves them.
 * *why (may be NULL) says so when it fell back.  ERR_NOT_FOUND: no checkpoint; ERR_CORRUPT: none is intact;
 * ERR_MISMATCH: a file of another run lies there; ERR_IO, ERR_PERMISSION. */
MUST_USE int checkpoint_open(struct checkpoint_reader *r, const char *data_dir, const struct id *run,
                             bool set_aside, struct store_why *why);
/* Opens and checks one file, wherever it lies.  ERR_NOT_FOUND, ERR_CORRUPT, ERR_VERSION, ERR_IO. */
MUST_USE int checkpoint_open_file(struct checkpoint_reader *r, const char *path, struct store_why *why);
/* Reads len bytes at offset of a section straight into out.  ERR_INVALID: beyond its end; ERR_IO. */
MUST_USE int checkpoint_read(const struct checkpoint_reader *r, enum checkpoint_section section,
                             uint64_t offset, void *out, size_t len);
void checkpoint_close(struct checkpoint_reader *r);

/* Generation numbers of a run on disk, newest first, at most cap; returns how many.  0: none.  ERR_IO. */
MUST_USE int checkpoint_list(const char *data_dir, const struct id *run, uint64_t generations[], size_t cap);
/* Path of one generation's file.  ERR_TOO_LARGE: longer than cap. */
MUST_USE int checkpoint_path(const char *data_dir, const struct id *run, uint64_t generation, char *out,
                             size_t cap);

#endif
