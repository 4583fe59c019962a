/* Mirrors base/pack_decode.c: the parser, against hand-made bytes and against msgpack-c's own unpacker. */
#include <criterion/criterion.h>
#include <msgpack.h>
#include <string.h>

#include "base/pack.h"
#include "base/rng.h"

enum { TOKEN_CAP = 4096 };

static bool accepts(const void *data, size_t len, size_t token_cap)
{
    struct pack_token tokens[64];
    cr_assert_leq(token_cap, 64);
    struct pack_reader r = pack_parse(bytes_of(data, len), tokens, token_cap);
    cr_assert(!r.failed || r.at == r.end, "a refused input leaves nothing to read");
    return !r.failed;
}

/* Headers that promise up to 2^32 - 1 elements or bytes and bring none: refused without allocation or long
 * work. */
Test(pack_decode, count_bombs)
{
    static const char *const bombs[] = {
        "\xdd\xff\xff\xff\xff", "\xdf\xff\xff\xff\xff", "\xdd\x80\x00\x00\x00",
        "\xdf\x80\x00\x00\x00", "\xdb\xff\xff\xff\xff", "\xc6\xff\xff\xff\xff",
        "\xdc\xff\xff\x00\x00", "\xde\xff\xff\x00\x00", "\xdd\x00\x00\x00\x06"};
    for (size_t i = 0; i < sizeof bombs / sizeof bombs[0]; i++)
        cr_assert_not(accepts(bombs[i], 5, 64), "bomb %zu", i);
    uint8_t nested[64];
    for (size_t i = 0; i + 5 <= sizeof nested; i += 5)
        memcpy(nested + i, "\xdd\x00\x00\x00\x3c", 5);
    cr_assert_not(accepts(nested, 60, 64));
}

/* Nesting up to the limit is accepted, one level more is not, empty innermost containers included. */
Test(pack_decode, depth)
{
    for (size_t depth = 1; depth <= PACK_DEPTH_MAX + 2; depth++) {
        uint8_t arrays[PACK_DEPTH_MAX + 3];
        uint8_t maps[2 * (PACK_DEPTH_MAX + 3)];
        memset(arrays, 0x91, depth);
        arrays[depth - 1] = 0x90;
        cr_assert_eq(accepts(arrays, depth, 64), depth <= PACK_DEPTH_MAX, "%zu arrays", depth);
        arrays[depth - 1] = 0x91;
        arrays[depth] = 0xc0;
        cr_assert_eq(accepts(arrays, depth + 1, 64), depth <= PACK_DEPTH_MAX, "%zu arrays and a leaf", depth);
        for (size_t i = 0; i < depth; i++) {
            maps[2 * i] = 0x81;
            maps[2 * i + 1] = 0x01;
        }
        maps[2 * depth] = 0xc0;
        cr_assert_eq(accepts(maps, 2 * depth + 1, 64), depth <= PACK_DEPTH_MAX, "%zu maps", depth);
    }
}

/* Every ext form, timestamps included, the reserved byte, nothing at all and a second value are refused. */
Test(pack_decode, refused_forms)
{
    static const struct {
        size_t len;
        const char *bytes;
    } forms[] = {
        {0, ""},
        {1, "\xc1"},
        {3, "\xd4\x01x"},
        {4, "\xd5\x01xx"},
        {6, "\xd6\xffxxxx"},
        {10, "\xd7\xffxxxxxxxx"},
        {18, "\xd8\x01xxxxxxxxxxxxxxxx"},
        {4, "\xc7\x01\x01x"},
        {3, "\xc7\x00\x01"},
        {5, "\xc8\x00\x01\x01x"},
        {7, "\xc9\x00\x00\x00\x01\x01x"},
        {4, "\x91\xd4\x01x"},
        {2, "\xc0\xc0"},
        {2, "\x90\x90"},
        {3, "\x81\x01\xc1"},
    };
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
        cr_assert_not(accepts(forms[i].bytes, forms[i].len, 64), "form %zu", i);
    cr_assert(accepts("\xc0", 1, 64));
}

/* The caller's token array is the limit: one slot fewer than needed refuses, none is touched beyond it. */
Test(pack_decode, token_room)
{
    static const char message[] = "\x82\x01\x93\x01\x02\x03\x02\xa1x";
    struct pack_token tokens[10];
    size_t needed = 8;
    for (size_t cap = 0; cap <= needed; cap++) {
        memset(tokens, 0xee, sizeof tokens);
        struct pack_reader r = pack_parse(bytes_of(message, sizeof message - 1), tokens, cap);
        cr_assert_eq(!r.failed, cap == needed, "%zu tokens", cap);
        cr_assert_eq(tokens[cap].type, 0xee);
    }
}

/* Long forms of short values are valid msgpack and read as the values they are. */
Test(pack_decode, long_forms)
{
    static const struct {
        size_t len;
        const char *bytes;
    } fives[] = {
        {1, "\x05"},
        {2, "\xcc\x05"},
        {3, "\xcd\x00\x05"},
        {5, "\xce\x00\x00\x00\x05"},
        {9, "\xcf\x00\x00\x00\x00\x00\x00\x00\x05"},
        {2, "\xd0\x05"},
        {3, "\xd1\x00\x05"},
        {5, "\xd2\x00\x00\x00\x05"},
        {9, "\xd3\x00\x00\x00\x00\x00\x00\x00\x05"},
    };
    for (size_t i = 0; i < sizeof fives / sizeof fives[0]; i++) {
        struct pack_token token;
        struct pack_reader r = pack_parse(bytes_of(fives[i].bytes, fives[i].len), &token, 1);
        cr_assert_eq(pack_read_uint(&r, 5), 5, "form %zu", i);
        cr_assert(pack_done(&r));
    }
    static const struct {
        size_t len;
        const char *bytes;
    } runs[] = {{2, "\xa1x"}, {3, "\xd9\x01x"}, {4, "\xda\x00\x01x"}, {6, "\xdb\x00\x00\x00\x01x"}};
    for (size_t i = 0; i < sizeof runs / sizeof runs[0]; i++) {
        struct pack_token token;
        struct pack_reader r = pack_parse(bytes_of(runs[i].bytes, runs[i].len), &token, 1);
        cr_assert(bytes_equal(pack_read_str(&r, 1), bytes_of_text("x")));
        cr_assert(pack_done(&r));
    }
}

/* --- against msgpack-c's object tree ---------------------------------------------------------------------
 */

/* Depth of a tree, and whether it holds an ext, which we refuse. */
static size_t tree_depth(const msgpack_object *o, bool *ext)
{
    size_t deepest = 0;
    if (o->type == MSGPACK_OBJECT_EXT)
        *ext = true;
    if (o->type == MSGPACK_OBJECT_ARRAY) {
        for (uint32_t i = 0; i < o->via.array.size; i++) {
            size_t depth = tree_depth(&o->via.array.ptr[i], ext);
            deepest = depth > deepest ? depth : deepest;
        }
        return deepest + 1;
    }
    if (o->type == MSGPACK_OBJECT_MAP) {
        for (uint32_t i = 0; i < o->via.map.size; i++) {
            size_t key = tree_depth(&o->via.map.ptr[i].key, ext);
            size_t value = tree_depth(&o->via.map.ptr[i].val, ext);
            deepest = key > deepest ? key : deepest;
            deepest = value > deepest ? value : deepest;
        }
        return deepest + 1;
    }
    return 0;
}

static void assert_same(struct pack_reader *r, const msgpack_object *o);

static void assert_same_run(struct pack_reader *r, const msgpack_object *o)
{
    if (o->type == MSGPACK_OBJECT_STR)
        cr_assert(bytes_equal(pack_read_str(r, SIZE_MAX), bytes_of(o->via.str.ptr, o->via.str.size)));
    else if (o->type == MSGPACK_OBJECT_BIN)
        cr_assert(bytes_equal(pack_read_bin(r, SIZE_MAX), bytes_of(o->via.bin.ptr, o->via.bin.size)));
    else
        cr_assert_fail("object type %d is not ours", (int)o->type);
}

static void assert_same_container(struct pack_reader *r, const msgpack_object *o)
{
    if (o->type == MSGPACK_OBJECT_ARRAY) {
        cr_assert_eq(pack_read_array(r, SIZE_MAX), o->via.array.size);
        for (uint32_t i = 0; i < o->via.array.size; i++)
            assert_same(r, &o->via.array.ptr[i]);
        return;
    }
    cr_assert_eq(pack_read_map(r, SIZE_MAX), o->via.map.size);
    for (uint32_t i = 0; i < o->via.map.size; i++) {
        assert_same(r, &o->via.map.ptr[i].key);
        assert_same(r, &o->via.map.ptr[i].val);
    }
}

/* The tokens must tell the same tree, in document order. */
static void assert_same(struct pack_reader *r, const msgpack_object *o)
{
    if (o->type == MSGPACK_OBJECT_NIL) {
        cr_assert_eq(pack_peek(r), PACK_NIL);
        pack_skip(r);
    } else if (o->type == MSGPACK_OBJECT_BOOLEAN) {
        cr_assert_eq(pack_read_bool(r), o->via.boolean);
    } else if (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER) {
        cr_assert_eq(pack_read_uint(r, UINT64_MAX), o->via.u64);
    } else if (o->type == MSGPACK_OBJECT_NEGATIVE_INTEGER) {
        cr_assert_eq(pack_read_int(r), o->via.i64);
    } else if (o->type == MSGPACK_OBJECT_FLOAT32 || o->type == MSGPACK_OBJECT_FLOAT64) {
        cr_assert_eq(pack_peek(r), PACK_FLOAT);
        double value = pack_read_float(r);
        cr_assert(memcmp(&value, &o->via.f64, sizeof value) == 0 ||
                  (value != value && o->via.f64 != o->via.f64));
    } else if (o->type == MSGPACK_OBJECT_ARRAY || o->type == MSGPACK_OBJECT_MAP) {
        assert_same_container(r, o);
    } else {
        assert_same_run(r, o);
    }
    cr_assert_not(r->failed);
}

/* Parses one input both ways: the same inputs are accepted, except for ext and depth, with the same content.
 * Returns true when it was accepted. */
static bool compare(const uint8_t *data, size_t len)
{
    static struct pack_token tokens[TOKEN_CAP];
    struct pack_reader r = pack_parse(bytes_of(data, len), tokens, TOKEN_CAP);
    msgpack_unpacked result;
    msgpack_unpacked_init(&result);
    size_t off = 0;
    bool ext = false;
    int status = msgpack_unpack_next(&result, (const char *)data, len, &off);
    bool expected = status == MSGPACK_UNPACK_SUCCESS && off == len;
    if (expected)
        expected = tree_depth(&result.data, &ext) <= PACK_DEPTH_MAX && !ext;
    cr_assert_eq(!r.failed, expected, "status %d, %zu of %zu bytes", status, off, len);
    if (expected) {
        assert_same(&r, &result.data);
        cr_assert(pack_done(&r));
    }
    msgpack_unpacked_destroy(&result);
    return expected;
}

/* msgpack-c's tree allocates what a 32-bit count asks for, so those headers become 16-bit ones in random
 * input. */
static void tame(uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (data[i] == 0xdd || data[i] == 0xdf)
            data[i]--;
    }
}

/* Writes one random value tree; depth bounds its nesting. */
static void random_value(msgpack_packer *pk, const struct rng *rng, unsigned depth)
{
    uint64_t raw = rng_u64(rng) >> rng_below(rng, 64);
    size_t len = (size_t)rng_below(rng, 5);
    switch (rng_below(rng, depth > 0 ? 9 : 7)) {
    case 0:
        (void)msgpack_pack_uint64(pk, raw);
        break;
    case 1:
        (void)msgpack_pack_int64(pk, -(int64_t)(raw >> 1));
        break;
    case 2:
        (void)msgpack_pack_double(pk, (double)raw / 3);
        break;
    case 3:
        (void)msgpack_pack_float(pk, (float)raw / 3);
        break;
    case 4:
        (void)((raw & 1) != 0 ? msgpack_pack_true(pk) : msgpack_pack_nil(pk));
        break;
    case 5:
        (void)msgpack_pack_bin(pk, len);
        (void)msgpack_pack_bin_body(pk, &raw, len);
        break;
    case 6:
        (void)msgpack_pack_str(pk, len);
        (void)msgpack_pack_str_body(pk, &raw, len);
        break;
    case 7:
        (void)msgpack_pack_array(pk, len);
        for (size_t i = 0; i < len; i++)
            random_value(pk, rng, depth - 1);
        break;
    default:
        (void)msgpack_pack_map(pk, len);
        for (size_t i = 0; i < 2 * len; i++)
            random_value(pk, rng, depth - 1);
    }
}

/* Random bytes: mostly refused, and by both. */
Test(pack_decode, same_as_msgpack_on_noise)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 11);
    struct rng rng = rng_of_seeded(&stream);
    size_t accepted = 0;
    for (int i = 0; i < 20000; i++) {
        uint8_t data[24];
        size_t len = (size_t)rng_below(&rng, sizeof data + 1);
        rng_fill(&rng, data, len);
        tame(data, len);
        accepted += compare(data, len);
    }
    cr_assert_gt(accepted, 100, "the noise must reach both outcomes");
}

/* Valid trees of random shape, whole and with one byte changed or cut off. */
Test(pack_decode, same_as_msgpack_on_mutated_trees)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 12);
    struct rng rng = rng_of_seeded(&stream);
    size_t accepted = 0;
    size_t refused = 0;
    for (int i = 0; i < 5000; i++) {
        msgpack_sbuffer buffer;
        msgpack_packer pk;
        msgpack_sbuffer_init(&buffer);
        msgpack_packer_init(&pk, &buffer, msgpack_sbuffer_write);
        random_value(&pk, &rng, 4);
        uint8_t *data = (uint8_t *)buffer.data;
        if (buffer.size < 2048) {
            tame(data, buffer.size);
            (void)compare(data, buffer.size);
            data[rng_below(&rng, buffer.size)] = (uint8_t)rng_u32(&rng);
            tame(data, buffer.size);
            bool same = compare(data, buffer.size);
            accepted += same;
            refused += !same;
            (void)compare(data, (size_t)rng_below(&rng, buffer.size));
        }
        msgpack_sbuffer_destroy(&buffer);
    }
    cr_assert_gt(accepted, 500);
    cr_assert_gt(refused, 500);
}
