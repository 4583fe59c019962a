/* A temporary directory, and system calls of which the n-th fails. */
#ifndef DUNLIN_TESTS_STORE_FIXTURE_H
#define DUNLIN_TESTS_STORE_FIXTURE_H

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/file.h"

/* Criterion itself leaks a few bytes in some runs.  Each test program is one file, so defining it here is
 * fine. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libcriterion";
}

static inline int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)st;
    (void)kind;
    (void)at;
    return remove(path);
}

static inline void directory_remove(const char *dir)
{
    (void)nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* A new directory under /tmp; its path is written to dir. */
static inline void directory_make(char dir[64])
{
    strncpy(dir, "/tmp/dunlin-test-XXXXXX", 64);
    cr_assert_not_null(mkdtemp(dir));
}

/* Counts calls and fails the fail_at-th (1 is the first; 0 never) with errno `error`; a failing write may
 * first write half. */
struct fault_io {
    size_t calls;
    size_t fail_at;
    int error;
    bool half;
};

static inline bool fault_now(void *user)
{
    struct fault_io *f = user;
    errno = f->error;
    return ++f->calls == f->fail_at;
}

static inline int fault_open(void *user, const char *path, int flags, mode_t mode)
{
    return fault_now(user) ? -1 : open(path, flags | O_CLOEXEC, mode);
}

static inline ssize_t fault_write(void *user, int fd, const void *data, size_t len)
{
    struct fault_io *f = user;
    if (!fault_now(user))
        return write(fd, data, len);
    if (f->half && write(fd, data, len / 2) < 0)
        return -1;
    errno = f->error;
    return -1;
}

static inline int fault_sync(void *user, int fd)
{
    return fault_now(user) ? -1 : fsync(fd);
}

static inline int fault_close(void *user, int fd)
{
    int rc = close(fd);
    return fault_now(user) ? -1 : rc;
}

static inline int fault_rename(void *user, const char *from, const char *to)
{
    return fault_now(user) ? -1 : rename(from, to);
}

static inline int fault_link(void *user, const char *from, const char *to)
{
    return fault_now(user) ? -1 : link(from, to);
}

static inline int fault_unlink(void *user, const char *path)
{
    return fault_now(user) ? -1 : unlink(path);
}

static inline struct store_io fault_io_view(struct fault_io *f)
{
    return (struct store_io){.open = fault_open,
                             .write = fault_write,
                             .sync = fault_sync,
                             .close = fault_close,
                             .rename = fault_rename,
                             .link = fault_link,
                             .unlink = fault_unlink,
                             .user = f};
}

static inline int no_sync(void *user, int fd)
{
    (void)user;
    (void)fd;
    return 0;
}

/* Without flushing, for tests that write thousands of files whose survival is not the question. */
static inline struct store_io unsynced_io(void)
{
    struct store_io io = store_io_system();
    io.sync = no_sync;
    return io;
}

#endif
