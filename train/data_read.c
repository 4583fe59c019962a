#include "train/data_read.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"

/* Length of the UTF-8 sequence at `at`, 0 when it is not one (RFC 3629 s.4: shortest form, no surrogates). */
static size_t sequence_length(const uint8_t *at, size_t left)
{
    uint8_t lead = at[0], low = 0x80, high = 0xBF;
    size_t len = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (lead == 0 || (lead >= 0x80 && lead < 0xC2) || lead > 0xF4 || len > left)
        return 0;
    if (lead == 0xE0)
        low = 0xA0;
    if (lead == 0xED)
        high = 0x9F;
    if (lead == 0xF0)
        low = 0x90;
    if (lead == 0xF4)
        high = 0x8F;
    for (size_t i = 1; i < len; i++) {
        if (at[i] < low || at[i] > high)
            return 0;
        low = 0x80;
        high = 0xBF;
    }
    return len;
}

bool train_is_text(struct bytes text)
{
    size_t at = 0;
    while (at < text.len) {
        size_t len = sequence_length(text.data + at, text.len - at);
        if (len == 0)
            return false;
        at += len;
    }
    return true;
}

static int grow(struct train_texts *texts)
{
    if (texts->count < texts->cap)
        return 0;
    if (texts->count >= TRAIN_FILES_MAX)
        return ERR_TOO_LARGE;
    size_t cap = texts->cap == 0 ? 256 : texts->cap * 2;
    struct train_text *list = allocator_get(&texts->allocator, cap, sizeof *list);
    if (list == NULL)
        return ERR_NO_MEMORY;
    if (texts->count > 0)
        memcpy(list, texts->list, texts->count * sizeof *list);
    allocator_release(&texts->allocator, texts->list);
    texts->list = list;
    texts->cap = cap;
    return 0;
}

int train_file_read(int file, uint8_t *to, size_t cap, size_t *len)
{
    *len = 0;
    while (*len < cap) {
        ssize_t got = read(file, to + *len, cap - *len);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return ERR_IO;
        if (got == 0)
            break;
        *len += (size_t)got;
    }
    return 0;
}

/* A NUL byte near the start: spares reading large binaries whole. */
static bool looks_binary(int file)
{
    uint8_t head[4096];
    ssize_t got = pread(file, head, sizeof head, 0);
    return got > 0 && memchr(head, 0, (size_t)got) != NULL;
}

static int keep_open_file(struct train_texts *texts, int file, const char *path, char *why, size_t why_size)
{
    struct stat status;
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size <= 0)
        return 0;
    size_t size = (size_t)status.st_size;
    if (looks_binary(file)) {
        texts->info.files_binary++;
        return 0;
    }
    if (size > texts->bytes_max - texts->bytes) {
        (void)snprintf(
            why, why_size,
            "more than %zu bytes of text, reached at %.300s: name a smaller folder, or raise the limit",
            texts->bytes_max, path);
        return ERR_TOO_LARGE;
    }
    uint8_t *bytes = allocator_get(&texts->allocator, size, 1);
    int result = bytes == NULL ? ERR_NO_MEMORY : grow(texts);
    if (result < 0) {
        allocator_release(&texts->allocator, bytes);
        (void)snprintf(why, why_size, "%s while reading %.300s: name a smaller folder",
                       result == ERR_NO_MEMORY ? "memory ran out" : "too many files", path);
        return result;
    }
    struct train_text *text = &texts->list[texts->count];
    bool readable = train_file_read(file, bytes, size, &text->len) == 0;
    bool keep = readable && train_is_text(bytes_of(bytes, text->len));
    texts->info.files_unreadable += !readable;
    texts->info.files_binary += readable && !keep;
    if (!keep || text->len == 0) {
        allocator_release(&texts->allocator, bytes);
        return 0;
    }
    text->bytes = bytes;
    hash_content(bytes_of(bytes, text->len), &text->hash);
    texts->bytes += text->len;
    texts->count++;
    return 0;
}

static int keep_file(struct train_texts *texts, const char *path, char *why, size_t why_size)
{
    /* O_NONBLOCK: a pipe put in the file's place must not hang the node. */
    int file = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (file < 0) {
        texts->info.files_unreadable++;
        return 0;
    }
    int result = keep_open_file(texts, file, path, why, why_size);
    (void)close(file);
    return result;
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

int train_path_error(int error, const char *path, char *why, size_t why_size)
{
    if (error == ENOENT || error == ENOTDIR) {
        (void)snprintf(why, why_size, "%.300s does not exist: give the path of a file or folder that does",
                       path);
        return ERR_NOT_FOUND;
    }
    (void)snprintf(why, why_size, "%.300s cannot be read: %s%s", path, strerror(error),
                   error == EACCES ? "; change its permissions or the user that runs this" : "");
    return error == EACCES ? ERR_PERMISSION : error == ENOMEM ? ERR_NO_MEMORY : ERR_IO;
}

static int walk(struct train_texts *texts, const char *path, char *why, size_t why_size)
{
    char *roots[] = {(char *)(uintptr_t)path, NULL}; /* fts declares them char * and leaves them alone */
    int result = 0;
    errno = 0;
    FTS *tree = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, by_name);
    if (tree == NULL)
        return train_path_error(errno, path, why, why_size);
    for (FTSENT *entry = fts_read(tree); entry != NULL && result == 0; entry = fts_read(tree)) {
        if (entry->fts_info == FTS_F)
            result = keep_file(texts, entry->fts_path, why, why_size);
        else if (entry->fts_info == FTS_DNR || entry->fts_info == FTS_ERR || entry->fts_info == FTS_NS)
            texts->info.files_unreadable++;
    }
    (void)fts_close(tree);
    return result;
}

int train_texts_read(struct train_texts *texts, const char *path, char *why, size_t why_size)
{
    /* Only the path that a person named may be a link: it is resolved here, those inside the tree are not. */
    char *real = realpath(path, NULL);
    if (real == NULL)
        return train_path_error(errno, path, why, why_size);
    int result;
    if (access(real, R_OK) != 0)
        result = train_path_error(errno, path, why, why_size);
    else
        result = walk(texts, real, why, why_size);
    free(real);
    return result;
}

void train_texts_release(struct train_texts *texts)
{
    for (size_t i = 0; i < texts->count; i++)
        allocator_release(&texts->allocator, texts->list[i].bytes);
    allocator_release(&texts->allocator, texts->list);
    texts->list = NULL;
    texts->count = 0;
}
