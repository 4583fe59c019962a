#include "store/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int system_open(void *user, const char *path, int flags, mode_t mode)
{
    (void)user;
    return open(path, flags | O_CLOEXEC, mode);
}

static ssize_t system_write(void *user, int fd, const void *data, size_t len)
{
    (void)user;
    return write(fd, data, len);
}

static int system_sync(void *user, int fd)
{
    (void)user;
    return fsync(fd);
}

static int system_close(void *user, int fd)
{
    (void)user;
    return close(fd);
}

static int system_rename(void *user, const char *from, const char *to)
{
    (void)user;
    return rename(from, to);
}

static int system_link(void *user, const char *from, const char *to)
{
    (void)user;
    return link(from, to);
}

static int system_unlink(void *user, const char *path)
{
    (void)user;
    return unlink(path);
}

struct store_io store_io_system(void)
{
    return (struct store_io){
        .open = system_open,
        .write = system_write,
        .sync = system_sync,
        .close = system_close,
        .rename = system_rename,
        .link = system_link,
        .unlink = system_unlink,
        .user = NULL,
    };
}

int store_error_of(int error_number)
{
    switch (error_number) {
    case 0:
        return ERR_OK;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return ERR_DISK_FULL;
    case EACCES:
    case EPERM:
    case EROFS:
        return ERR_PERMISSION;
    case ENOENT:
    case ENOTDIR:
        return ERR_NOT_FOUND;
    case EEXIST:
        return ERR_EXISTS;
    case ENOMEM:
        return ERR_NO_MEMORY;
    default:
        return ERR_IO;
    }
}

void store_why_set(struct store_why *why, const char *format, ...)
{
    if (why == NULL)
        return;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(why->text, sizeof why->text, format, args);
    va_end(args);
}

int store_path_join(const char *dir, const char *name, char *out, size_t cap)
{
    int len = snprintf(out, cap, "%s/%s", dir, name);
    return len < 0 || (size_t)len >= cap ? ERR_TOO_LARGE : ERR_OK;
}

/* Flushes the directory that holds path's last component. */
static int sync_parent(const struct store_io *io, const char *path)
{
    char dir[STORE_PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t len = slash == NULL ? 0 : (size_t)(slash - path);
    if (len >= sizeof dir)
        return ERR_TOO_LARGE;
    if (slash == NULL) {
        dir[len++] = '.';
    } else if (len == 0) {
        dir[len++] = '/';
    } else {
        memcpy(dir, path, len);
    }
    dir[len] = '\0';
    return store_dir_sync(io, dir);
}

int store_dir_make(const char *path)
{
    char part[STORE_PATH_MAX];
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof part)
        return ERR_TOO_LARGE;
    struct store_io io = store_io_system();
    for (size_t i = 1; i <= len; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, 0700) == 0) {
            int rc = sync_parent(&io, part);
            if (rc < 0)
                return rc;
        } else if (errno != EEXIST) {
            return store_error_of(errno);
        }
    }
    struct stat st;
    if (stat(path, &st) != 0)
        return store_error_of(errno);
    return S_ISDIR(st.st_mode) ? ERR_OK : ERR_EXISTS;
}

int store_dir_sync(const struct store_io *io, const char *dir)
{
    int fd = io->open(io->user, dir, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return store_error_of(errno);
    int rc = io->sync(io->user, fd) == 0 ? ERR_OK : store_error_of(errno);
    (void)io->close(io->user, fd);
    return rc;
}

/* Reads until cap bytes or the end; bytes read or an error. */
static ssize_t read_up_to(int fd, uint8_t *out, size_t cap)
{
    size_t at = 0;
    while (at < cap) {
        ssize_t got = read(fd, out + at, cap - at);
        if (got == 0)
            break;
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return store_error_of(errno);
        at += (size_t)got;
    }
    return (ssize_t)at;
}

int store_file_read(const char *path, size_t len_max, const struct allocator *alloc, uint8_t **out,
                    size_t *len)
{
    struct stat st;
    uint8_t *content = NULL;
    *out = NULL;
    *len = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return store_error_of(errno);
    int rc = ERR_IO;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        goto close_file;
    rc = ERR_TOO_LARGE;
    if ((uint64_t)st.st_size > len_max)
        goto close_file;
    /* One byte more than the size tells whether the file grew while it was read; a zero ends it for text. */
    size_t size = (size_t)st.st_size;
    rc = ERR_NO_MEMORY;
    content = allocator_get(alloc, 1, size + 2);
    if (content == NULL)
        goto close_file;
    ssize_t got = read_up_to(fd, content, size + 1);
    rc = got < 0 ? (int)got : (size_t)got > len_max ? ERR_TOO_LARGE : ERR_OK;
    if (rc < 0) {
        allocator_release(alloc, content);
        goto close_file;
    }
    content[got] = 0;
    *out = content;
    *len = (size_t)got;
close_file:
    (void)close(fd);
    return rc;
}

int store_write_all(const struct store_io *io, int fd, const void *data, size_t len)
{
    const uint8_t *at = data;
    while (len > 0) {
        ssize_t put = io->write(io->user, fd, at, len);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0)
            return store_error_of(errno);
        if (put == 0)
            return ERR_IO;
        at += put;
        len -= (size_t)put;
    }
    return ERR_OK;
}

/* Creates path with content, flushed, but with its name not yet flushed. */
static int write_new(const struct store_io *io, const char *path, struct bytes content, mode_t mode)
{
    int fd = io->open(io->user, path, O_WRONLY | O_CREAT | O_EXCL, mode);
    if (fd < 0 && errno == EEXIST) { /* left by a crash: nobody refers to it */
        if (io->unlink(io->user, path) != 0)
            return store_error_of(errno);
        fd = io->open(io->user, path, O_WRONLY | O_CREAT | O_EXCL, mode);
    }
    if (fd < 0)
        return store_error_of(errno);
    int rc = store_write_all(io, fd, content.data, content.len);
    if (rc == 0 && io->sync(io->user, fd) != 0)
        rc = store_error_of(errno);
    if (io->close(io->user, fd) != 0 && rc == 0)
        rc = store_error_of(errno);
    return rc;
}

/* Gives temporary its name only if that is free.  Where there are no hard links (FAT, some network disks) the
 * check and the rename are two steps; the caller's directory lock makes them one. */
static int name_exclusively(const struct store_io *io, const char *temporary, const char *path)
{
    if (io->link(io->user, temporary, path) == 0) {
        (void)io->unlink(io->user, temporary);
        return ERR_OK;
    }
    if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS && errno != EMLINK)
        return store_error_of(errno);
    if (access(path, F_OK) == 0)
        return ERR_EXISTS;
    return io->rename(io->user, temporary, path) == 0 ? ERR_OK : store_error_of(errno);
}

int store_file_write(const struct store_io *io, const char *path, struct bytes content, mode_t mode,
                     bool replace)
{
    char temporary[STORE_PATH_MAX];
    int len = snprintf(temporary, sizeof temporary, "%s.new", path);
    if (len < 0 || (size_t)len >= sizeof temporary)
        return ERR_TOO_LARGE;
    int rc = write_new(io, temporary, content, mode);
    if (rc == 0 && replace)
        rc = io->rename(io->user, temporary, path) == 0 ? ERR_OK : store_error_of(errno);
    else if (rc == 0)
        rc = name_exclusively(io, temporary, path);
    if (rc < 0) {
        (void)io->unlink(io->user, temporary);
        return rc;
    }
    return sync_parent(io, path);
}
