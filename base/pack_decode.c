/* The parser half of base/pack.h.  msgpack-c's template is instantiated with callbacks that append tokens; a
 * container's callback runs at its header, before any child, which gives document order. */
#include "base/pack.h"

#include <math.h>
#include <string.h>

#include "base/err.h"

struct sink {
    struct pack_token *tokens;
    size_t used;
    size_t cap;
    size_t bytes_left_max; /* elements can never be more than input bytes: bounds every count */
};

typedef char pack_unit; /* what the template hands to parents: nothing of interest */

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wimplicit-fallthrough"
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wpedantic"

#define MSGPACK_EMBED_STACK_SIZE 8
#include <msgpack/unpack.h>
#include <msgpack/unpack_define.h>

static_assert((int)PACK_DEPTH_MAX == MSGPACK_EMBED_STACK_SIZE, "depth limit is the template's stack");

#define msgpack_unpack_struct(name)    struct pack_template##name
#define msgpack_unpack_func(ret, name) static ret pack_template##name
#define msgpack_unpack_callback(name)  pack_on##name
#define msgpack_unpack_object          pack_unit
#define msgpack_unpack_user            struct sink

static int append(struct sink *s, struct pack_token token)
{
    if (s->used == s->cap)
        return -1;
    s->tokens[s->used++] = token;
    return 0;
}

static int append_uint(struct sink *s, uint64_t value)
{
    return append(s, (struct pack_token){.type = PACK_UINT, .value.u = value});
}

static int append_int(struct sink *s, int64_t value)
{
    if (value >= 0)
        return append_uint(s, (uint64_t)value);
    return append(s, (struct pack_token){.type = PACK_INT, .value.i = value});
}

static pack_unit pack_on_root(struct sink *s)
{
    (void)s;
    return 0;
}

#define ON_NUMBER(name, type, append_it)                                                                     \
    static int pack_on_##name(struct sink *s, type value, pack_unit *o)                                      \
    {                                                                                                        \
        *o = 0;                                                                                              \
        return append_it(s, value);                                                                          \
    }
ON_NUMBER(uint8, uint8_t, append_uint)
ON_NUMBER(uint16, uint16_t, append_uint)
ON_NUMBER(uint32, uint32_t, append_uint)
ON_NUMBER(uint64, uint64_t, append_uint)
ON_NUMBER(int8, int8_t, append_int)
ON_NUMBER(int16, int16_t, append_int)
ON_NUMBER(int32, int32_t, append_int)
ON_NUMBER(int64, int64_t, append_int)

static int pack_on_double(struct sink *s, double value, pack_unit *o)
{
    *o = 0;
    return append(s, (struct pack_token){.type = PACK_FLOAT, .value.f = value});
}

static int pack_on_float(struct sink *s, float value, pack_unit *o)
{
    return pack_on_double(s, (double)value, o);
}

static int pack_on_nil(struct sink *s, pack_unit *o)
{
    *o = 0;
    return append(s, (struct pack_token){.type = PACK_NIL});
}

static int pack_on_true(struct sink *s, pack_unit *o)
{
    *o = 0;
    return append(s, (struct pack_token){.type = PACK_BOOL, .value.u = 1});
}

static int pack_on_false(struct sink *s, pack_unit *o)
{
    *o = 0;
    return append(s, (struct pack_token){.type = PACK_BOOL, .value.u = 0});
}

static int append_container(struct sink *s, enum pack_type type, unsigned int count, pack_unit *o)
{
    *o = 0;
    if (count > s->bytes_left_max)
        return -1;
    return append(s, (struct pack_token){.type = (uint8_t)type, .count = count});
}

static int pack_on_array(struct sink *s, unsigned int count, pack_unit *o)
{
    return append_container(s, PACK_ARRAY, count, o);
}

static int pack_on_array_item(struct sink *s, pack_unit *container, pack_unit item)
{
    (void)s, (void)container, (void)item;
    return 0;
}

static int pack_on_map(struct sink *s, unsigned int count, pack_unit *o)
{
    return append_container(s, PACK_MAP, count, o);
}

static int pack_on_map_item(struct sink *s, pack_unit *container, pack_unit key, pack_unit item)
{
    (void)s, (void)container, (void)key, (void)item;
    return 0;
}

static int append_run(struct sink *s, enum pack_type type, const char *at, unsigned int len, pack_unit *o)
{
    *o = 0;
    return append(
        s, (struct pack_token){.type = (uint8_t)type, .count = len, .value.data = (const uint8_t *)at});
}

static int pack_on_str(struct sink *s, const char *base, const char *at, unsigned int len, pack_unit *o)
{
    (void)base;
    return append_run(s, PACK_STR, at, len, o);
}

static int pack_on_bin(struct sink *s, const char *base, const char *at, unsigned int len, pack_unit *o)
{
    (void)base;
    return append_run(s, PACK_BIN, at, len, o);
}

static int pack_on_ext(struct sink *s, const char *base, const char *at, unsigned int len, pack_unit *o)
{
    (void)s, (void)base, (void)at, (void)len;
    *o = 0;
    return -1;
}

#include <msgpack/unpack_template.h>

#pragma GCC diagnostic pop

struct pack_reader pack_parse(struct bytes in, struct pack_token *tokens, size_t token_cap)
{
    struct pack_template_context context;
    memset(&context, 0, sizeof context);
    context.user = (struct sink){.tokens = tokens, .used = 0, .cap = token_cap, .bytes_left_max = in.len};
    pack_template_init(&context);
    size_t off = 0;
    int result = in.len == 0 ? 0 : pack_template_execute(&context, (const char *)in.data, in.len, &off);
    bool whole = result == 1 && off == in.len;
    return (struct pack_reader){
        .at = tokens, .end = tokens + (whole ? context.user.used : 0), .failed = !whole};
}
