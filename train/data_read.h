/* Reading of text files into memory, for train/data.c.  Private to train/. */
#ifndef DUNLIN_TRAIN_DATA_READ_H
#define DUNLIN_TRAIN_DATA_READ_H

#include <stdbool.h>

#include "base/bytes.h"
#include "train/data.h"

struct train_text {
    uint8_t *bytes;
    size_t len;
    struct id hash;
};

/* All files found so far, in order of path. */
struct train_texts {
    struct allocator allocator;
    struct train_text *list;
    size_t count, cap;
    size_t bytes, bytes_max;
    struct train_data_info info;
};

/* Fills texts from the file or tree at path; errors and `why` as train_data_open.  Release in every case. */
MUST_USE int train_texts_read(struct train_texts *texts, const char *path, char *why, size_t why_size);
void train_texts_release(struct train_texts *texts);

/* True when all of text is UTF-8 (RFC 3629) without NUL bytes. */
bool train_is_text(struct bytes text);

/* Reads at most cap bytes of an open file into `to`; one that shrank meanwhile gives fewer.  ERR_IO. */
MUST_USE int train_file_read(int file, uint8_t *to, size_t cap, size_t *len);
/* Explains an errno about a path in `why` and returns the code for it. */
MUST_USE int train_path_error(int error, const char *path, char *why, size_t why_size);

#endif
