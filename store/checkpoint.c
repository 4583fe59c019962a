#include "store/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NEW_NAME     "checkpoint.new"
#define DAMAGED_NAME "damaged.ckpt"

enum {
    NAME_DIGITS = 16, /* a generation's number in hexadecimal */
    LIST_MAX = 64,    /* generations looked at; more than a few mean that removing them failed */
    CHUNK_BYTES = 1 << 16,
};

static const uint8_t magic[8] = {'D', 'U', 'N', 'L', 'I', 'N', 'C', 'P'};

static int run_dir(const char *data_dir, const struct id *run, char *out, size_t cap)
{
    char text[ID_TEXT_SIZE];
    id_format(run, text);
    int len = snprintf(out, cap, "%s/runs/%s", data_dir, text);
    return len < 0 || (size_t)len >= cap ? ERR_TOO_LARGE : ERR_OK;
}

static int generation_path(const char *dir, uint64_t generation, char *out, size_t cap)
{
    int len = snprintf(out, cap, "%s/%016llx.ckpt", dir, (unsigned long long)generation);
    return len < 0 || (size_t)len >= cap ? ERR_TOO_LARGE : ERR_OK;
}

int checkpoint_path(const char *data_dir, const struct id *run, uint64_t generation, char *out, size_t cap)
{
    char dir[STORE_PATH_MAX];
    int rc = run_dir(data_dir, run, dir, sizeof dir);
    return rc < 0 ? rc : generation_path(dir, generation, out, cap);
}

/* "0123456789abcdef.ckpt" to its number; false for any other name. */
static bool parse_name(const char *name, uint64_t *generation)
{
    if (strlen(name) != NAME_DIGITS + 5 || strcmp(name + NAME_DIGITS, ".ckpt") != 0)
        return false;
    *generation = 0;
    for (size_t i = 0; i < NAME_DIGITS; i++) {
        const char *digits = "0123456789abcdef";
        const char *digit = strchr(digits, name[i]);
        if (digit == NULL)
            return false;
        *generation = *generation << 4 | (uint64_t)(digit - digits);
    }
    return true;
}

static int newest_first(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a;
    uint64_t right = *(const uint64_t *)b;
    return left < right ? 1 : left > right ? -1 : 0;
}

/* The newest cap generations in dir, newest first. */
static int list_dir(const char *dir, uint64_t generations[], size_t cap)
{
    DIR *folder = opendir(dir);
    if (folder == NULL)
        return errno == ENOENT ? 0 : store_error_of(errno);
    size_t count = 0;
    for (const struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        uint64_t generation;
        if (!parse_name(entry->d_name, &generation) || cap == 0)
            continue;
        if (count < cap) {
            generations[count++] = generation;
        } else if (generation > generations[cap - 1]) {
            generations[cap - 1] = generation;
        }
        qsort(generations, count, sizeof generations[0], newest_first);
    }
    (void)closedir(folder);
    return (int)count;
}

int checkpoint_list(const char *data_dir, const struct id *run, uint64_t generations[], size_t cap)
{
    char dir[STORE_PATH_MAX];
    int rc = run_dir(data_dir, run, dir, sizeof dir);
    return rc < 0 ? rc : list_dir(dir, generations, cap);
}

/* Sum of the section lengths, or false when they are impossible. */
static bool sections_valid(const struct checkpoint_info *info, uint64_t *total)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < CHECKPOINT_SECTIONS; i++) {
        if (info->section_len[i] > UINT64_C(1) << 60)
            return false;
        sum += info->section_len[i];
    }
    *total = sum;
    return info->param_count <= UINT64_C(1) << 58 &&
           info->section_len[CHECKPOINT_PHI] == 4 * info->param_count &&
           (info->section_len[CHECKPOINT_DELTA] == 0 ||
            info->section_len[CHECKPOINT_DELTA] == 4 * info->param_count) &&
           info->section_len[CHECKPOINT_META] <= CHECKPOINT_META_MAX;
}

/* magic [8] | version u16 | run [32] | round u64 | step u64 | param_count u64 | tensor_count u32 |
 * section lengths u64 [4] | reserved u32 = 0 */
static void encode_head(const struct checkpoint_info *info, uint8_t out[CHECKPOINT_HEAD_BYTES])
{
    struct writer w = writer_of(out, CHECKPOINT_HEAD_BYTES);
    write_bytes(&w, magic, sizeof magic);
    write_u16(&w, CHECKPOINT_VERSION);
    write_bytes(&w, info->run.bytes, ID_BYTES);
    write_u64(&w, info->round);
    write_u64(&w, info->step);
    write_u64(&w, info->param_count);
    write_u32(&w, info->tensor_count);
    for (size_t i = 0; i < CHECKPOINT_SECTIONS; i++)
        write_u64(&w, info->section_len[i]);
    write_u32(&w, 0);
    ASSERT(writer_len(&w) == CHECKPOINT_HEAD_BYTES);
}

static int decode_head(const uint8_t in[CHECKPOINT_HEAD_BYTES], struct checkpoint_info *info, uint64_t *total)
{
    struct reader r = reader_of(bytes_of(in, CHECKPOINT_HEAD_BYTES));
    if (memcmp(read_bytes(&r, sizeof magic).data, magic, sizeof magic) != 0)
        return ERR_CORRUPT;
    if (read_u16(&r) != CHECKPOINT_VERSION)
        return ERR_VERSION;
    read_into(&r, info->run.bytes, ID_BYTES);
    info->round = read_u64(&r);
    info->step = read_u64(&r);
    info->param_count = read_u64(&r);
    info->tensor_count = read_u32(&r);
    for (size_t i = 0; i < CHECKPOINT_SECTIONS; i++)
        info->section_len[i] = read_u64(&r);
    uint32_t reserved = read_u32(&r);
    return reader_done(&r) && reserved == 0 && sections_valid(info, total) ? ERR_OK : ERR_CORRUPT;
}

/* Writes and sums; sticky. */
static int put(struct checkpoint_writer *w, const void *data, size_t len)
{
    if (w->failed == 0)
        w->failed = store_write_all(&w->io, w->fd, data, len);
    if (w->failed == 0)
        crypto_generichash_update(&w->sum, data, len);
    return w->failed;
}

int checkpoint_begin(struct checkpoint_writer *w, const struct store_io *io, const char *data_dir,
                     const struct checkpoint_info *info)
{
    char path[STORE_PATH_MAX];
    uint8_t head[CHECKPOINT_HEAD_BYTES];
    uint64_t newest = 0;
    *w = (struct checkpoint_writer){.io = *io, .fd = -1};
    if (!sections_valid(info, &w->left))
        return ERR_INVALID;
    int rc = run_dir(data_dir, &info->run, w->dir, sizeof w->dir);
    if (rc == 0)
        rc = store_dir_make(w->dir);
    if (rc == 0)
        rc = list_dir(w->dir, &newest, 1);
    if (rc >= 0)
        rc = store_path_join(w->dir, NEW_NAME, path, sizeof path);
    if (rc < 0)
        return rc;
    w->generation = newest + 1;
    w->fd = io->open(io->user, path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (w->fd < 0)
        return store_error_of(errno);
    crypto_generichash_init(&w->sum, NULL, 0, CHECKPOINT_SUM_BYTES);
    encode_head(info, head);
    rc = put(w, head, sizeof head);
    if (rc < 0)
        checkpoint_abort(w);
    return rc;
}

int checkpoint_write(struct checkpoint_writer *w, const void *data, size_t len)
{
    ASSERT(w->fd >= 0);
    if (w->failed == 0 && len > w->left)
        w->failed = ERR_INVALID;
    if (w->failed < 0)
        return w->failed;
    w->left -= len;
    return put(w, data, len);
}

void checkpoint_abort(struct checkpoint_writer *w)
{
    char path[STORE_PATH_MAX];
    if (w->fd >= 0)
        (void)w->io.close(w->io.user, w->fd);
    w->fd = -1;
    if (w->dir[0] != '\0' && store_path_join(w->dir, NEW_NAME, path, sizeof path) == 0)
        (void)w->io.unlink(w->io.user, path);
}

/* Removes all but the newest generations.  Failing to costs only space, and the next commit tries again. */
static void remove_old(const struct checkpoint_writer *w)
{
    uint64_t generations[LIST_MAX];
    char path[STORE_PATH_MAX];
    int count = list_dir(w->dir, generations, LIST_MAX);
    for (int i = CHECKPOINT_GENERATIONS; i < count; i++) {
        if (generation_path(w->dir, generations[i], path, sizeof path) == 0)
            (void)w->io.unlink(w->io.user, path);
    }
}

int checkpoint_commit(struct checkpoint_writer *w)
{
    uint8_t sum[CHECKPOINT_SUM_BYTES];
    char from[STORE_PATH_MAX];
    char to[STORE_PATH_MAX];
    ASSERT(w->fd >= 0);
    int rc = w->failed;
    if (rc == 0 && w->left != 0)
        rc = ERR_INVALID;
    if (rc == 0) {
        crypto_generichash_final(&w->sum, sum, sizeof sum);
        rc = store_write_all(&w->io, w->fd, sum, sizeof sum);
    }
    if (rc == 0 && w->io.sync(w->io.user, w->fd) != 0)
        rc = store_error_of(errno);
    if (rc == 0) {
        int fd = w->fd;
        w->fd = -1;
        rc = w->io.close(w->io.user, fd) == 0 ? ERR_OK : store_error_of(errno);
    }
    if (rc == 0)
        rc = store_path_join(w->dir, NEW_NAME, from, sizeof from);
    if (rc == 0)
        rc = generation_path(w->dir, w->generation, to, sizeof to);
    if (rc == 0 && w->io.rename(w->io.user, from, to) != 0)
        rc = store_error_of(errno);
    if (rc < 0) {
        checkpoint_abort(w);
        return rc;
    }
    rc = store_dir_sync(&w->io, w->dir);
    if (rc == 0)
        remove_old(w);
    return rc;
}

/* Reads exactly len bytes at offset; ERR_CORRUPT when the file ends before. */
static int read_at(int fd, uint64_t offset, void *out, size_t len)
{
    uint8_t *at = out;
    while (len > 0) {
        ssize_t got = pread(fd, at, len, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return store_error_of(errno);
        if (got == 0)
            return ERR_CORRUPT;
        at += got;
        offset += (uint64_t)got;
        len -= (size_t)got;
    }
    return ERR_OK;
}

/* Head, length and sum of an open file. */
static int check_file(int fd, struct checkpoint_info *info)
{
    uint8_t chunk[CHUNK_BYTES];
    uint8_t expected[CHECKPOINT_SUM_BYTES];
    uint8_t sum[CHECKPOINT_SUM_BYTES];
    uint64_t total;
    struct stat st;
    crypto_generichash_state state;
    int rc = read_at(fd, 0, chunk, CHECKPOINT_HEAD_BYTES);
    if (rc == 0)
        rc = decode_head(chunk, info, &total);
    if (rc < 0)
        return rc;
    total += CHECKPOINT_HEAD_BYTES;
    if (fstat(fd, &st) != 0)
        return store_error_of(errno);
    if ((uint64_t)st.st_size != total + CHECKPOINT_SUM_BYTES)
        return ERR_CORRUPT;
    crypto_generichash_init(&state, NULL, 0, CHECKPOINT_SUM_BYTES);
    for (uint64_t at = 0; at < total && rc == 0;) {
        size_t len = total - at < sizeof chunk ? (size_t)(total - at) : sizeof chunk;
        rc = read_at(fd, at, chunk, len);
        if (rc == 0)
            crypto_generichash_update(&state, chunk, len);
        at += len;
    }
    if (rc == 0)
        rc = read_at(fd, total, expected, sizeof expected);
    crypto_generichash_final(&state, sum, sizeof sum);
    if (rc == 0 && memcmp(sum, expected, sizeof sum) != 0)
        rc = ERR_CORRUPT;
    return rc;
}

int checkpoint_open_file(struct checkpoint_reader *r, const char *path, struct store_why *why)
{
    *r = (struct checkpoint_reader){.fd = -1};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? store_error_of(errno) : check_file(fd, &r->info);
    if (rc < 0) {
        store_why_set(why, "%s: %s", path,
                      rc == ERR_CORRUPT ? "not a whole checkpoint: its bytes fail the checksum"
                                        : err_text(rc));
        if (fd >= 0)
            (void)close(fd);
        return rc;
    }
    r->fd = fd;
    return ERR_OK;
}

/* Takes a damaged file out of the generations, so that the two newest numbers stay two good files. */
static void set_file_aside(const char *dir, const char *path)
{
    char damaged[STORE_PATH_MAX];
    if (store_path_join(dir, DAMAGED_NAME, damaged, sizeof damaged) == 0)
        (void)rename(path, damaged);
}

int checkpoint_open(struct checkpoint_reader *r, const char *data_dir, const struct id *run, bool set_aside,
                    struct store_why *why)
{
    char dir[STORE_PATH_MAX];
    char path[STORE_PATH_MAX];
    uint64_t generations[LIST_MAX];
    *r = (struct checkpoint_reader){.fd = -1};
    int rc = run_dir(data_dir, run, dir, sizeof dir);
    int count = rc < 0 ? rc : list_dir(dir, generations, LIST_MAX);
    if (count <= 0)
        return count < 0 ? count : ERR_NOT_FOUND;
    for (int i = 0; i < count; i++) {
        rc = generation_path(dir, generations[i], path, sizeof path);
        if (rc < 0)
            return rc;
        rc = checkpoint_open_file(r, path, i == 0 ? why : NULL);
        if (rc == 0 && !id_equal(&r->info.run, run)) {
            checkpoint_close(r);
            store_why_set(why, "%s belongs to another run", path);
            return ERR_MISMATCH;
        }
        if (rc == 0) {
            r->generation = generations[i];
            r->fell_back = i > 0;
            return ERR_OK;
        }
        if (rc != ERR_CORRUPT && rc != ERR_VERSION && rc != ERR_NOT_FOUND)
            return rc;
        if (rc == ERR_CORRUPT && set_aside)
            set_file_aside(dir, path);
    }
    return rc == ERR_NOT_FOUND ? ERR_CORRUPT : rc;
}

int checkpoint_read(const struct checkpoint_reader *r, enum checkpoint_section section, uint64_t offset,
                    void *out, size_t len)
{
    ASSERT(r->fd >= 0 && section < CHECKPOINT_SECTIONS);
    uint64_t section_len = r->info.section_len[section];
    if (offset > section_len || len > section_len - offset)
        return ERR_INVALID;
    uint64_t start = CHECKPOINT_HEAD_BYTES;
    for (size_t i = 0; i < (size_t)section; i++)
        start += r->info.section_len[i];
    int rc = read_at(r->fd, start + offset, out, len);
    return rc == ERR_CORRUPT ? ERR_IO : rc; /* it was whole when it was opened */
}

void checkpoint_close(struct checkpoint_reader *r)
{
    if (r->fd >= 0)
        (void)close(r->fd);
    r->fd = -1;
}
