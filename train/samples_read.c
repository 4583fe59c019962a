#include "train/samples_read.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "train/csv.h"
#include "train/data_read.h"
#include "train/idx.h"
#include "train/samples.h"

enum { WHY_SIZE = 448 };

struct file {
    uint8_t *bytes;
    size_t len;
};

struct reading {
    struct train_rows *rows;
    const char *label;
    size_t *files;
    char *why;
    size_t why_size;
};

static int refuse(const struct reading *r, int error, const char *path, const char *text)
{
    (void)snprintf(r->why, r->why_size, "%.300s: %s", path, text);
    return error;
}

/* Reads a file whole; a file that is larger than the limit of values cannot be read into them. */
static int load(const struct reading *r, const char *path, struct file *out)
{
    *out = (struct file){.len = 0};
    /* O_NONBLOCK: a pipe put in the file's place must not hang the node. */
    int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    struct stat status;
    if (file < 0)
        return train_path_error(errno, path, r->why, r->why_size);
    int result = 0;
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode))
        result = refuse(r, ERR_INVALID, path, "neither a file nor a directory");
    else if ((uint64_t)status.st_size > r->rows->bytes_max)
        result = refuse(r, ERR_TOO_LARGE, path, "the file is larger than the limit: use less data");
    else if (status.st_size > 0) {
        size_t size = (size_t)status.st_size;
        out->bytes = allocator_get(&r->rows->allocator, size, 1);
        result = out->bytes == NULL ? ERR_NO_MEMORY : train_file_read(file, out->bytes, size, &out->len);
        if (result < 0)
            result = refuse(r, result, path, err_text(result));
    }
    (void)close(file);
    return result;
}

static void unload(const struct reading *r, struct file *file)
{
    allocator_release(&r->rows->allocator, file->bytes);
    file->bytes = NULL;
}

static void replace_all(char *text, size_t text_size, const char *word, const char *by)
{
    char old[PATH_MAX];
    (void)snprintf(old, sizeof old, "%s", text);
    const char *from = old;
    size_t used = 0;
    while (*from != '\0' && used + 1 < text_size) {
        bool here = strncmp(from, word, strlen(word)) == 0;
        int len = here ? snprintf(text + used, text_size - used, "%s", by)
                       : snprintf(text + used, text_size - used, "%c", *from);
        used += (size_t)len;
        from += here ? strlen(word) : 1;
    }
}

/* The path of an image file's labels: only the file's name is turned.  False when nothing in it can be. */
static bool labels_path(const char *images, char out[PATH_MAX])
{
    const char *slash = strrchr(images, '/');
    size_t folder = slash == NULL ? 0 : (size_t)(slash - images) + 1;
    if (strlen(images) + 1 > PATH_MAX || strstr(images + folder, "images") == NULL)
        return false;
    (void)snprintf(out, PATH_MAX, "%s", images);
    replace_all(out + folder, PATH_MAX - folder, "images", "labels");
    replace_all(out + folder, PATH_MAX - folder, "idx3", "idx1");
    return true;
}

static int read_images(const struct reading *r, const char *path, struct bytes images)
{
    char other[PATH_MAX], text[WHY_SIZE];
    struct file labels;
    if (!labels_path(path, other))
        return refuse(r, ERR_NOT_FOUND, path,
                      "an IDX file needs \"images\" in its name, and beside it one with \"labels\" instead");
    int result = load(r, other, &labels);
    if (result == 0) {
        result = train_idx_read(images, bytes_of(labels.bytes, labels.len), r->rows, text, sizeof text);
        if (result < 0)
            result = refuse(r, result, path, text);
    }
    unload(r, &labels);
    return result;
}

/* only_idx: a file that does not begin as IDX is passed over. */
static int read_one(const struct reading *r, const char *path, bool only_idx)
{
    char text[WHY_SIZE];
    struct file file;
    int result = load(r, path, &file);
    struct bytes bytes = bytes_of(file.bytes, file.len);
    bool idx = train_is_idx(bytes);
    if (result == 0 && idx) {
        result = read_images(r, path, bytes);
    } else if (result == 0 && !only_idx) {
        result = train_csv_read(bytes, r->label, r->rows, text, sizeof text);
        if (result < 0)
            result = refuse(r, result, path, text);
    }
    *r->files += result == 0 && (idx || !only_idx);
    unload(r, &file);
    return result;
}

static bool is_csv(const char *name)
{
    size_t len = strlen(name);
    return len >= 4 && strcmp(name + len - 4, ".csv") == 0;
}

static int is_wanted(const struct dirent *entry)
{
    return entry->d_name[0] != '.' && (is_csv(entry->d_name) || strstr(entry->d_name, "images") != NULL);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int read_directory(const struct reading *r, const char *path)
{
    struct dirent **entries;
    int count = scandir(path, &entries, is_wanted, by_name), result = 0;
    if (count < 0)
        return train_path_error(errno, path, r->why, r->why_size);
    if (count > TRAIN_SAMPLES_FILES_MAX)
        result = refuse(r, ERR_TOO_LARGE, path, "too many files: join them");
    for (int i = 0; i < count; i++) {
        char full[PATH_MAX];
        int len = snprintf(full, sizeof full, "%s/%s", path, entries[i]->d_name);
        if (result == 0 && len > 0 && (size_t)len < sizeof full)
            result = read_one(r, full, !is_csv(entries[i]->d_name));
        free(entries[i]);
    }
    free(entries);
    if (result == 0 && *r->files == 0)
        result = refuse(r, ERR_NOT_FOUND, path,
                        "holds no *.csv, and no IDX images: name a file, or a directory that holds some");
    return result;
}

int train_samples_read(struct train_rows *rows, const char *path, const char *label, size_t *files, char *why,
                       size_t why_size)
{
    struct reading r = {.rows = rows, .label = label, .files = files, .why = why, .why_size = why_size};
    struct stat status;
    *files = 0;
    if (stat(path, &status) != 0)
        return train_path_error(errno, path, why, why_size);
    return S_ISDIR(status.st_mode) ? read_directory(&r, path) : read_one(&r, path, false);
}
