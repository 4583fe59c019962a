/* Whole small files: read with a cap, written so that a crash leaves either the old or the new content; and
 * the seam through which tests make the n-th system call fail.
 *
 * Blocking: never call these on the loop thread. */
#ifndef DUNLIN_STORE_FILE_H
#define DUNLIN_STORE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/err.h"

enum { STORE_PATH_MAX = 1024, STORE_WHY_SIZE = 384 };

/* What went wrong in a sentence for people: which file, what about it, and what to do.  Empty when nothing
 * did. */
struct store_why {
    char text[STORE_WHY_SIZE];
};

/* The system calls that change files.  Each behaves as its POSIX namesake: -1 and errno on failure. */
struct store_io {
    int (*open)(void *user, const char *path, int flags, mode_t mode);
    ssize_t (*write)(void *user, int fd, const void *data, size_t len);
    int (*sync)(void *user, int fd); /* fsync */
    int (*close)(void *user, int fd);
    int (*rename)(void *user, const char *from, const char *to);
    int (*link)(void *user, const char *from, const char *to);
    int (*unlink)(void *user, const char *path);
    void *user;
};

/* The kernel's. */
struct store_io store_io_system(void);

/* Code for an errno: ERR_DISK_FULL, ERR_PERMISSION, ERR_NOT_FOUND, ERR_EXISTS, ERR_NO_MEMORY, otherwise
 * ERR_IO. */
int store_error_of(int error_number);
/* Fills in why, cut to its size; why may be NULL. */
void store_why_set(struct store_why *why, const char *format, ...) PRINTF_LIKE(2, 3);

/* Writes dir/name and a terminator.  ERR_TOO_LARGE: longer than cap. */
MUST_USE int store_path_join(const char *dir, const char *name, char *out, size_t cap);
/* Makes the directory with mode 0700 and its missing parents; fine when it is there.  Errors as
 * store_error_of. */
MUST_USE int store_dir_make(const char *path);
/* Flushes a directory's entries, so that a name just made or renamed survives power loss. */
MUST_USE int store_dir_sync(const struct store_io *io, const char *dir);

/* Reads a whole file of at most len_max bytes; *out is returned owned (release with the same allocator) and
 * holds a terminating zero after *len bytes.  ERR_NOT_FOUND, ERR_TOO_LARGE, ERR_PERMISSION, ERR_NO_MEMORY,
 * ERR_IO. */
MUST_USE int store_file_read(const char *path, size_t len_max, const struct allocator *alloc, uint8_t **out,
                             size_t *len);

/* Writes content to path + ".new", flushes it, gives it its name, flushes the directory.
 *   replace false: ERR_EXISTS when path is there already (decided atomically).
 * On failure the old file, if any, is untouched and the new one removed; ERR_DISK_FULL, ERR_PERMISSION,
 * ERR_IO. After an error in the very last step (flushing the directory) the new content may be there or not.
 * One writer per path at a time. */
MUST_USE int store_file_write(const struct store_io *io, const char *path, struct bytes content, mode_t mode,
                              bool replace);

/* write() until everything is written; 0 or store_error_of. */
MUST_USE int store_write_all(const struct store_io *io, int fd, const void *data, size_t len);

#endif
