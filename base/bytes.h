/* Byte slices, and the one cursor for reading and the one for writing fixed binary layouts.
 *
 * Failure is sticky: after the first short read every further read returns zero and `failed` stays set, so a
 * parser reads like the layout's table and is checked once, at the end.  Integers are big-endian.
 * Messages between nodes are msgpack (base/pack.h); these cursors serve frame heads, sealed datagram heads
 * and signed canonical encodings. */
#ifndef DUNLIN_BASE_BYTES_H
#define DUNLIN_BASE_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A borrowed run of bytes.  data may be NULL only when len is 0. */
struct bytes {
    const uint8_t *data;
    size_t len;
};

struct reader {
    const uint8_t *at;
    const uint8_t *end;
    bool failed;
};

struct writer {
    uint8_t *start;
    uint8_t *at;
    uint8_t *end;
    bool failed;
};

/* Slice of len bytes at data. */
struct bytes bytes_of(const void *data, size_t len);
/* Slice over a string, without its terminator. */
struct bytes bytes_of_text(const char *text);
/* True when both hold the same bytes.  Not constant time: never for secrets. */
bool bytes_equal(struct bytes a, struct bytes b);

/* A reader at the start of in; borrows in until the last read. */
struct reader reader_of(struct bytes in);
/* Each returns the next big-endian integer, or 0 and sets failed when too few bytes are left. */
uint8_t read_u8(struct reader *r);
uint16_t read_u16(struct reader *r);
uint32_t read_u32(struct reader *r);
uint64_t read_u64(struct reader *r);
/* Borrows the next len bytes, or returns an empty slice and sets failed. */
struct bytes read_bytes(struct reader *r, size_t len);
/* Copies the next len bytes to out; zeroes out and sets failed when too few are left. */
void read_into(struct reader *r, uint8_t *out, size_t len);
/* Bytes left to read; 0 after a failure. */
size_t reader_left(const struct reader *r);
/* True when nothing failed and nothing is left. */
bool reader_done(const struct reader *r);

/* A writer over the caller's buffer, borrowed until the last write. */
struct writer writer_of(uint8_t *buffer, size_t cap);
/* Each appends a big-endian integer, or sets failed and writes nothing more when it does not fit. */
void write_u8(struct writer *w, uint8_t value);
void write_u16(struct writer *w, uint16_t value);
void write_u32(struct writer *w, uint32_t value);
void write_u64(struct writer *w, uint64_t value);
/* Appends len bytes. */
void write_bytes(struct writer *w, const void *data, size_t len);
/* Bytes written so far; 0 after a failure, so that a failed message is never sent in part. */
size_t writer_len(const struct writer *w);

/* Little-endian loads and stores, for arrays of numbers whose wire form is little-endian (weights). */
uint16_t load_le16(const uint8_t *from);
uint32_t load_le32(const uint8_t *from);
uint64_t load_le64(const uint8_t *from);
void store_le16(uint8_t *to, uint16_t value);
void store_le32(uint8_t *to, uint32_t value);
void store_le64(uint8_t *to, uint64_t value);

#endif
