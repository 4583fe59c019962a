#include "base/bytes.h"

#include <string.h>

#include "base/err.h"

struct bytes bytes_of(const void *data, size_t len)
{
    ASSERT(data != NULL || len == 0);
    return (struct bytes){.data = data, .len = len};
}

struct bytes bytes_of_text(const char *text)
{
    return bytes_of(text, strlen(text));
}

bool bytes_equal(struct bytes a, struct bytes b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

struct reader reader_of(struct bytes in)
{
    static const uint8_t empty[1] = {0};
    const uint8_t *at = in.len == 0 ? empty : in.data;
    return (struct reader){.at = at, .end = at + in.len, .failed = false};
}

/* Takes len bytes off the front, or NULL and the sticky failure. */
static const uint8_t *take(struct reader *r, size_t len)
{
    if (r->failed || (size_t)(r->end - r->at) < len) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *at = r->at;
    r->at += len;
    return at;
}

static uint64_t read_big_endian(struct reader *r, size_t len)
{
    const uint8_t *at = take(r, len);
    uint64_t value = 0;
    for (size_t i = 0; at != NULL && i < len; i++)
        value = value << 8 | at[i];
    return value;
}

uint8_t read_u8(struct reader *r)
{
    return (uint8_t)read_big_endian(r, 1);
}

uint16_t read_u16(struct reader *r)
{
    return (uint16_t)read_big_endian(r, 2);
}

uint32_t read_u32(struct reader *r)
{
    return (uint32_t)read_big_endian(r, 4);
}

uint64_t read_u64(struct reader *r)
{
    return read_big_endian(r, 8);
}

struct bytes read_bytes(struct reader *r, size_t len)
{
    const uint8_t *at = take(r, len);
    if (at == NULL)
        return (struct bytes){NULL, 0};
    return (struct bytes){at, len};
}

void read_into(struct reader *r, uint8_t *out, size_t len)
{
    const uint8_t *at = take(r, len);
    if (at != NULL)
        memcpy(out, at, len);
    else
        memset(out, 0, len);
}

size_t reader_left(const struct reader *r)
{
    return r->failed ? 0 : (size_t)(r->end - r->at);
}

bool reader_done(const struct reader *r)
{
    return !r->failed && r->at == r->end;
}

struct writer writer_of(uint8_t *buffer, size_t cap)
{
    ASSERT(buffer != NULL);
    return (struct writer){.start = buffer, .at = buffer, .end = buffer + cap, .failed = false};
}

/* Claims len bytes at the end, or NULL and the sticky failure. */
static uint8_t *claim(struct writer *w, size_t len)
{
    if (w->failed || (size_t)(w->end - w->at) < len) {
        w->failed = true;
        return NULL;
    }
    uint8_t *at = w->at;
    w->at += len;
    return at;
}

static void write_big_endian(struct writer *w, uint64_t value, size_t len)
{
    uint8_t *at = claim(w, len);
    for (size_t i = 0; at != NULL && i < len; i++)
        at[i] = (uint8_t)(value >> (8 * (len - 1 - i)));
}

void write_u8(struct writer *w, uint8_t value)
{
    write_big_endian(w, value, 1);
}

void write_u16(struct writer *w, uint16_t value)
{
    write_big_endian(w, value, 2);
}

void write_u32(struct writer *w, uint32_t value)
{
    write_big_endian(w, value, 4);
}

void write_u64(struct writer *w, uint64_t value)
{
    write_big_endian(w, value, 8);
}

void write_bytes(struct writer *w, const void *data, size_t len)
{
    uint8_t *at = claim(w, len);
    if (at != NULL && len > 0)
        memcpy(at, data, len);
}

size_t writer_len(const struct writer *w)
{
    return w->failed ? 0 : (size_t)(w->at - w->start);
}

uint16_t load_le16(const uint8_t *from)
{
    return (uint16_t)(from[0] | from[1] << 8);
}

uint32_t load_le32(const uint8_t *from)
{
    return (uint32_t)load_le16(from) | (uint32_t)load_le16(from + 2) << 16;
}

uint64_t load_le64(const uint8_t *from)
{
    return (uint64_t)load_le32(from) | (uint64_t)load_le32(from + 4) << 32;
}

void store_le16(uint8_t *to, uint16_t value)
{
    to[0] = (uint8_t)value;
    to[1] = (uint8_t)(value >> 8);
}

void store_le32(uint8_t *to, uint32_t value)
{
    store_le16(to, (uint16_t)value);
    store_le16(to + 2, (uint16_t)(value >> 16));
}

void store_le64(uint8_t *to, uint64_t value)
{
    store_le32(to, (uint32_t)value);
    store_le32(to + 4, (uint32_t)(value >> 32));
}
