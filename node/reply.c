#include "node/reply.h"

#include "base/err.h"

enum { MAP16 = 0xde, ARRAY16 = 0xdc };

struct reply reply_of(uint8_t *buffer, size_t cap)
{
    return (struct reply){.out = pack_writer_of(buffer, cap)};
}

size_t reply_len(struct reply *r)
{
    ASSERT(r->depth == 0);
    return r->failed ? 0 : pack_writer_len(&r->out);
}

/* Counts one more element of the innermost container and writes its key there. */
static void begin(struct reply *r, const char *key)
{
    if (r->depth > 0) {
        ASSERT(r->open[r->depth - 1].is_map == (key != NULL));
        r->open[r->depth - 1].count++;
    }
    if (key != NULL)
        pack_str(&r->out, key);
}

static void open_container(struct reply *r, const char *key, uint8_t type)
{
    begin(r, key);
    ASSERT(r->depth < REPLY_DEPTH_MAX);
    if (r->out.failed || r->out.cap - r->out.len < 3) {
        r->out.failed = true;
        r->open[r->depth].count_at = 0;
    } else {
        r->out.start[r->out.len] = type;
        r->open[r->depth].count_at = r->out.len + 1;
        r->out.len += 3;
    }
    r->open[r->depth].count = 0;
    r->open[r->depth].is_map = type == MAP16;
    r->depth++;
}

void reply_map(struct reply *r, const char *key)
{
    open_container(r, key, MAP16);
}

void reply_array(struct reply *r, const char *key)
{
    open_container(r, key, ARRAY16);
}

void reply_end(struct reply *r)
{
    ASSERT(r->depth > 0);
    r->depth--;
    unsigned count = r->open[r->depth].count;
    if (count > UINT16_MAX)
        r->failed = true;
    if (r->out.failed)
        r->failed = true;
    if (r->failed)
        return;
    r->out.start[r->open[r->depth].count_at] = (uint8_t)(count >> 8);
    r->out.start[r->open[r->depth].count_at + 1] = (uint8_t)count;
}

void reply_uint(struct reply *r, const char *key, uint64_t value)
{
    begin(r, key);
    pack_uint(&r->out, value);
}

void reply_int(struct reply *r, const char *key, int64_t value)
{
    begin(r, key);
    pack_int(&r->out, value);
}

void reply_float(struct reply *r, const char *key, double value)
{
    begin(r, key);
    pack_float(&r->out, value);
}

void reply_bool(struct reply *r, const char *key, bool value)
{
    begin(r, key);
    pack_bool(&r->out, value);
}

void reply_str(struct reply *r, const char *key, const char *value)
{
    begin(r, key);
    pack_str(&r->out, value);
}

void reply_text(struct reply *r, const char *key, struct bytes value)
{
    begin(r, key);
    pack_bin(&r->out, value);
}

void reply_nil(struct reply *r, const char *key)
{
    begin(r, key);
    pack_nil(&r->out);
}

void reply_id(struct reply *r, const char *key, const struct id *value)
{
    char text[ID_TEXT_SIZE];
    id_format(value, text);
    reply_str(r, key, text);
}
