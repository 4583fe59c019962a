/* The reader and writer halves of base/pack.h. */
#include "base/pack.h"

#include <msgpack/pack.h>
#include <string.h>

#include "base/err.h"

static const struct pack_token *next(struct pack_reader *r, enum pack_type type)
{
    if (r->failed || r->at == r->end || r->at->type != type) {
        r->failed = true;
        return NULL;
    }
    return r->at++;
}

enum pack_type pack_peek(const struct pack_reader *r)
{
    return r->failed || r->at == r->end ? PACK_NIL : (enum pack_type)r->at->type;
}

static size_t enter(struct pack_reader *r, enum pack_type type, size_t count_max)
{
    const struct pack_token *token = next(r, type);
    if (token == NULL)
        return 0;
    if (token->count > count_max) {
        r->failed = true;
        return 0;
    }
    return token->count;
}

size_t pack_read_map(struct pack_reader *r, size_t count_max)
{
    return enter(r, PACK_MAP, count_max);
}

size_t pack_read_array(struct pack_reader *r, size_t count_max)
{
    return enter(r, PACK_ARRAY, count_max);
}

unsigned pack_read_key(struct pack_reader *r, uint32_t *seen)
{
    if (pack_peek(r) != PACK_UINT || r->at->value.u > PACK_KEY_MAX) {
        pack_skip(r);
        return PACK_KEY_UNKNOWN;
    }
    unsigned key = (unsigned)r->at->value.u;
    r->at++;
    if ((*seen >> key & 1) != 0)
        r->failed = true;
    *seen |= UINT32_C(1) << key;
    return key;
}

uint64_t pack_read_uint(struct pack_reader *r, uint64_t max)
{
    const struct pack_token *token = next(r, PACK_UINT);
    if (token == NULL)
        return 0;
    if (token->value.u > max) {
        r->failed = true;
        return 0;
    }
    return token->value.u;
}

int64_t pack_read_int(struct pack_reader *r)
{
    if (pack_peek(r) == PACK_UINT)
        return (int64_t)pack_read_uint(r, INT64_MAX);
    const struct pack_token *token = next(r, PACK_INT);
    return token == NULL ? 0 : token->value.i;
}

bool pack_read_bool(struct pack_reader *r)
{
    const struct pack_token *token = next(r, PACK_BOOL);
    return token != NULL && token->value.u != 0;
}

double pack_read_float(struct pack_reader *r)
{
    if (pack_peek(r) == PACK_UINT || pack_peek(r) == PACK_INT)
        return (double)pack_read_int(r);
    const struct pack_token *token = next(r, PACK_FLOAT);
    return token == NULL ? 0 : token->value.f;
}

static struct bytes read_run(struct pack_reader *r, enum pack_type type, size_t len_max)
{
    const struct pack_token *token = next(r, type);
    if (token == NULL)
        return (struct bytes){NULL, 0};
    if (token->count > len_max) {
        r->failed = true;
        return (struct bytes){NULL, 0};
    }
    return (struct bytes){token->value.data, token->count};
}

struct bytes pack_read_bin(struct pack_reader *r, size_t len_max)
{
    return read_run(r, PACK_BIN, len_max);
}

struct bytes pack_read_str(struct pack_reader *r, size_t len_max)
{
    return read_run(r, PACK_STR, len_max);
}

void pack_read_text(struct pack_reader *r, char *out, size_t cap)
{
    ASSERT(cap > 0);
    struct bytes text = pack_read_str(r, cap - 1);
    if (text.len > 0 && memchr(text.data, 0, text.len) != NULL) {
        r->failed = true;
        text.len = 0;
    }
    if (text.len > 0)
        memcpy(out, text.data, text.len);
    out[text.len] = '\0';
}

void pack_read_exact(struct pack_reader *r, uint8_t *out, size_t len)
{
    struct bytes run = pack_read_bin(r, len);
    if (run.len != len)
        r->failed = true;
    if (r->failed)
        memset(out, 0, len);
    else if (len > 0)
        memcpy(out, run.data, len);
}

void pack_read_id(struct pack_reader *r, struct id *out)
{
    pack_read_exact(r, out->bytes, ID_BYTES);
}

void pack_skip(struct pack_reader *r)
{
    size_t left = 1;
    while (left > 0 && !r->failed) {
        if (r->at == r->end) {
            r->failed = true;
            return;
        }
        if (r->at->type == PACK_ARRAY)
            left += r->at->count;
        else if (r->at->type == PACK_MAP)
            left += 2 * (size_t)r->at->count;
        r->at++;
        left--;
    }
}

bool pack_done(const struct pack_reader *r)
{
    return !r->failed && r->at == r->end;
}

struct pack_writer pack_writer_of(uint8_t *buffer, size_t cap)
{
    ASSERT(buffer != NULL);
    return (struct pack_writer){.start = buffer, .len = 0, .cap = cap, .failed = false};
}

size_t pack_writer_len(const struct pack_writer *w)
{
    return w->failed ? 0 : w->len;
}

/* msgpack-c's sink.  A smaller piece might fit after a larger one did not, hence the latch. */
static int sink_write(void *user, const char *data, size_t len)
{
    struct pack_writer *w = user;
    if (w->failed || w->cap - w->len < len) {
        w->failed = true;
        return -1;
    }
    if (len > 0)
        memcpy(w->start + w->len, data, len);
    w->len += len;
    return 0;
}

static msgpack_packer packer_of(struct pack_writer *w)
{
    return (msgpack_packer){.data = w, .callback = sink_write};
}

void pack_map(struct pack_writer *w, size_t pairs)
{
    msgpack_packer pk = packer_of(w);
    w->failed |= msgpack_pack_map(&pk, pairs) != 0;
}

void pack_array(struct pack_writer *w, size_t elements)
{
    msgpack_packer pk = packer_of(w);
    w->failed |= msgpack_pack_array(&pk, elements) != 0;
}

void pack_uint(struct pack_writer *w, uint64_t value)
{
    msgpack_packer pk = packer_of(w);
    w->failed |= msgpack_pack_uint64(&pk, value) != 0;
}

void pack_int(struct pack_writer *w, int64_t value)
{
    msgpack_packer pk = packer_of(w);
    w->failed |= msgpack_pack_int64(&pk, value) != 0;
}

void pack_float(struct pack_writer *w, double value)
{
    msgpack_packer pk = packer_of(w);
    w->failed |= msgpack_pack_double(&pk, value) != 0;
}

void pack_bool(struct pack_writer *w, bool value)
{
    msgpack_packer pk = packer_of(w);
    w->failed |= (value ? msgpack_pack_true(&pk) : msgpack_pack_false(&pk)) != 0;
}

void pack_nil(struct pack_writer *w)
{
    msgpack_packer pk = packer_of(w);
    w->failed |= msgpack_pack_nil(&pk) != 0;
}

void pack_bin(struct pack_writer *w, struct bytes value)
{
    msgpack_packer pk = packer_of(w);
    w->failed |= msgpack_pack_bin(&pk, value.len) != 0;
    w->failed |= msgpack_pack_bin_body(&pk, value.data, value.len) != 0;
}

void pack_str(struct pack_writer *w, const char *value)
{
    msgpack_packer pk = packer_of(w);
    size_t len = strlen(value);
    w->failed |= msgpack_pack_str(&pk, len) != 0;
    w->failed |= msgpack_pack_str_body(&pk, value, len) != 0;
}

void pack_id(struct pack_writer *w, const struct id *value)
{
    pack_bin(w, bytes_of(value->bytes, ID_BYTES));
}

void pack_key_uint(struct pack_writer *w, unsigned key, uint64_t value)
{
    pack_uint(w, key);
    pack_uint(w, value);
}

void pack_key_bin(struct pack_writer *w, unsigned key, struct bytes value)
{
    pack_uint(w, key);
    pack_bin(w, value);
}

void pack_key_str(struct pack_writer *w, unsigned key, const char *value)
{
    pack_uint(w, key);
    pack_str(w, value);
}

void pack_key_id(struct pack_writer *w, unsigned key, const struct id *value)
{
    pack_uint(w, key);
    pack_id(w, value);
}

void pack_key_float(struct pack_writer *w, unsigned key, double value)
{
    pack_uint(w, key);
    pack_float(w, value);
}

void pack_key_bool(struct pack_writer *w, unsigned key, bool value)
{
    pack_uint(w, key);
    pack_bool(w, value);
}
