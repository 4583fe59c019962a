/* Mirrors base/pack.c: the reader and the writer of messages.  The parser is in test_pack_decode.c. */
#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <string.h>

#include "base/err.h"
#include "base/pack.h"

/* A message with one field of each kind, as a module would declare it. */
struct sample {
    uint64_t count;
    int64_t shift;
    double loss;
    bool done;
    struct bytes blob;
    char name[8];
    struct id run;
    uint64_t parts[3];
};

static size_t sample_encode(const struct sample *m, uint8_t *out, size_t cap)
{
    struct pack_writer w = pack_writer_of(out, cap);
    pack_map(&w, 9);
    pack_key_uint(&w, 0, m->count);
    pack_uint(&w, 1);
    pack_int(&w, m->shift);
    pack_key_float(&w, 2, m->loss);
    pack_key_bool(&w, 3, m->done);
    pack_key_bin(&w, 4, m->blob);
    pack_key_str(&w, 5, m->name);
    pack_key_id(&w, 6, &m->run);
    pack_uint(&w, 7);
    pack_array(&w, 3);
    for (size_t i = 0; i < 3; i++)
        pack_uint(&w, m->parts[i]);
    pack_uint(&w, 900); /* a field of a later version: two levels deep, to be skipped */
    pack_map(&w, 2);
    pack_uint(&w, 0);
    pack_array(&w, 2);
    pack_nil(&w);
    pack_str(&w, "new");
    pack_str(&w, "key");
    pack_bool(&w, false);
    return pack_writer_len(&w);
}

static void sample_parts(struct pack_reader *r, struct sample *m)
{
    size_t count = pack_read_array(r, 3);
    if (count != 3)
        r->failed = true;
    for (size_t i = 0; i < count; i++)
        m->parts[i] = pack_read_uint(r, UINT64_MAX);
}

static int sample_decode(struct bytes in, struct sample *m)
{
    struct pack_token tokens[64];
    struct pack_reader r = pack_parse(in, tokens, 64);
    uint32_t seen = 0;
    for (size_t left = pack_read_map(&r, 16); left > 0; left--) {
        switch (pack_read_key(&r, &seen)) {
        case 0:
            m->count = pack_read_uint(&r, UINT64_MAX);
            break;
        case 1:
            m->shift = pack_read_int(&r);
            break;
        case 2:
            m->loss = pack_read_float(&r);
            break;
        case 3:
            m->done = pack_read_bool(&r);
            break;
        case 4:
            m->blob = pack_read_bin(&r, 16);
            break;
        case 5:
            pack_read_text(&r, m->name, sizeof m->name);
            break;
        case 6:
            pack_read_id(&r, &m->run);
            break;
        case 7:
            sample_parts(&r, m);
            break;
        default:
            pack_skip(&r);
        }
    }
    return pack_done(&r) && seen == 0xff ? ERR_OK : ERR_MALFORMED;
}

static struct sample sample_value(void)
{
    struct sample m = {.count = UINT64_C(1) << 40,
                       .shift = -129,
                       .loss = 2.5,
                       .done = true,
                       .blob = bytes_of("\0\x01\xff", 3),
                       .name = "dunlin",
                       .parts = {0, 127, 65536}};
    for (size_t i = 0; i < ID_BYTES; i++)
        m.run.bytes[i] = (uint8_t)(i + 1);
    return m;
}

/* What is written must be read back, unknown keys skipped with all they hold. */
Test(pack, round_trip)
{
    uint8_t wire[256];
    struct sample out;
    struct sample in = sample_value();
    size_t len = sample_encode(&in, wire, sizeof wire);
    cr_assert_gt(len, 0);
    cr_assert_eq(sample_decode(bytes_of(wire, len), &out), ERR_OK);
    cr_assert_eq(out.count, in.count);
    cr_assert_eq(out.shift, in.shift);
    cr_assert_eq(memcmp(&out.loss, &in.loss, sizeof out.loss), 0);
    cr_assert(out.done);
    cr_assert(bytes_equal(out.blob, in.blob));
    cr_assert_str_eq(out.name, in.name);
    cr_assert(id_equal(&out.run, &in.run));
    cr_assert_arr_eq(out.parts, in.parts, sizeof in.parts);
}

/* Each prefix of the message, and the message with one byte more, must be refused. */
Test(pack, every_truncation_and_a_trailing_byte)
{
    uint8_t wire[256];
    struct sample m = sample_value();
    size_t len = sample_encode(&m, wire, sizeof wire);
    for (size_t cut = 0; cut < len; cut++)
        cr_assert_eq(sample_decode(bytes_of(wire, cut), &m), ERR_MALFORMED, "prefix of %zu bytes", cut);
    wire[len] = 0xc0;
    cr_assert_eq(sample_decode(bytes_of(wire, len + 1), &m), ERR_MALFORMED);
}

/* Any byte changed to any value: accepted or refused, but read within bounds (the sanitizer watches). */
Test(pack, every_byte_changed)
{
    uint8_t wire[256];
    struct sample m = sample_value();
    size_t len = sample_encode(&m, wire, sizeof wire);
    for (size_t at = 0; at < len; at++) {
        uint8_t kept = wire[at];
        for (int value = 0; value < 256; value++) {
            wire[at] = (uint8_t)value;
            struct sample out;
            memset(&out, 0, sizeof out);
            if (sample_decode(bytes_of(wire, len), &out) == ERR_OK)
                cr_assert_leq(strlen(out.name), sizeof out.name - 1);
        }
        wire[at] = kept;
    }
}

/* Too little room at any point must leave nothing to send and nothing written beyond it. */
Test(pack, writer_room)
{
    uint8_t wire[256];
    struct sample m = sample_value();
    size_t len = sample_encode(&m, wire, sizeof wire);
    for (size_t cap = 0; cap < len; cap++) {
        uint8_t small[256];
        memset(small, 0xee, sizeof small);
        cr_assert_eq(sample_encode(&m, small, cap), 0);
        for (size_t i = cap; i < sizeof small; i++)
            cr_assert_eq(small[i], 0xee);
    }
    cr_assert_eq(sample_encode(&m, wire, len), len);
}

/* A small piece that fits after a large one did not must not make the message whole again. */
Test(pack, writer_failure_sticks)
{
    uint8_t out[4];
    struct pack_writer w = pack_writer_of(out, sizeof out);
    pack_str(&w, "too long");
    pack_nil(&w);
    cr_assert(w.failed);
    cr_assert_eq(pack_writer_len(&w), 0);
}

Test(pack, writer_needs_a_buffer, .signal = SIGABRT)
{
    (void)pack_writer_of(NULL, 0);
}

/* Encodes one integer and returns the reader over it. */
static struct pack_reader one_int(int64_t value, struct pack_token *token, uint8_t wire[9])
{
    struct pack_writer w = pack_writer_of(wire, 9);
    pack_int(&w, value);
    return pack_parse(bytes_of(wire, pack_writer_len(&w)), token, 1);
}

/* The edges of every msgpack integer width, signed and unsigned, keep their value and take the short form. */
Test(pack, integer_edges)
{
    static const int64_t signed_edges[] = {0,
                                           127,
                                           128,
                                           255,
                                           256,
                                           65535,
                                           65536,
                                           UINT32_MAX,
                                           INT64_MAX,
                                           INT64_C(1) << 32,
                                           -1,
                                           -32,
                                           -33,
                                           -128,
                                           -129,
                                           -32768,
                                           -32769,
                                           INT32_MIN,
                                           (int64_t)INT32_MIN - 1,
                                           INT64_MIN};
    for (size_t i = 0; i < sizeof signed_edges / sizeof signed_edges[0]; i++) {
        struct pack_token token;
        uint8_t wire[9];
        struct pack_reader r = one_int(signed_edges[i], &token, wire);
        cr_assert_eq(pack_peek(&r), signed_edges[i] < 0 ? PACK_INT : PACK_UINT);
        cr_assert_eq(pack_read_int(&r), signed_edges[i]);
        cr_assert(pack_done(&r));
        r = one_int(signed_edges[i], &token, wire);
        (void)pack_read_uint(&r, UINT64_MAX);
        cr_assert_eq(pack_done(&r), signed_edges[i] >= 0, "negative values are no unsigned ones");
    }
    static const uint64_t lengths[][2] = {{127, 1},       {128, 2},   {255, 2},        {256, 3},
                                          {65535, 3},     {65536, 5}, {UINT32_MAX, 5}, {UINT64_C(1) << 32, 9},
                                          {UINT64_MAX, 9}};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        uint8_t wire[9];
        struct pack_token token;
        struct pack_writer w = pack_writer_of(wire, sizeof wire);
        pack_uint(&w, lengths[i][0]);
        cr_assert_eq(pack_writer_len(&w), lengths[i][1]);
        struct pack_reader r = pack_parse(bytes_of(wire, pack_writer_len(&w)), &token, 1);
        struct pack_reader again = r;
        cr_assert_eq(pack_read_uint(&r, lengths[i][0]), lengths[i][0]);
        cr_assert_eq(pack_read_uint(&again, lengths[i][0] - 1), 0);
        cr_assert(again.failed, "one above the caller's limit");
    }
}

/* An unsigned value beyond the signed range is no int and no float, not a wrapped one. */
Test(pack, integers_do_not_wrap)
{
    uint8_t wire[9];
    struct pack_token token;
    struct pack_writer w = pack_writer_of(wire, sizeof wire);
    pack_uint(&w, UINT64_C(1) << 63);
    struct bytes in = bytes_of(wire, pack_writer_len(&w));
    struct pack_reader r = pack_parse(in, &token, 1);
    cr_assert_eq(pack_read_int(&r), 0);
    cr_assert(r.failed);
}

static void assert_float(struct pack_reader *r, double expected)
{
    double value = pack_read_float(r);
    cr_assert_float_eq(value, expected, 0.0);
}

/* Floats of both widths, integers as floats, and the values that are no numbers. */
Test(pack, floats)
{
    static const double values[] = {0.0, -0.0, 1.5, -1e300, HUGE_VAL, -HUGE_VAL};
    struct pack_token token;
    uint8_t wire[16];
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        struct pack_writer w = pack_writer_of(wire, sizeof wire);
        pack_float(&w, values[i]);
        struct pack_reader r = pack_parse(bytes_of(wire, pack_writer_len(&w)), &token, 1);
        double back = pack_read_float(&r);
        cr_assert_eq(memcmp(&back, &values[i], sizeof back), 0);
        cr_assert(pack_done(&r));
    }
    struct pack_writer w = pack_writer_of(wire, sizeof wire);
    pack_float(&w, NAN);
    struct pack_reader r = pack_parse(bytes_of(wire, pack_writer_len(&w)), &token, 1);
    cr_assert(isnan(pack_read_float(&r)));

    r = pack_parse(bytes_of("\xca\x3f\xc0\x00\x00", 5), &token, 1);
    assert_float(&r, 1.5);
    r = one_int(-7, &token, wire);
    assert_float(&r, -7.0);
    r = one_int(7, &token, wire);
    assert_float(&r, 7.0);
    r = pack_parse(bytes_of("\xc3", 1), &token, 1);
    assert_float(&r, 0.0);
    cr_assert(r.failed, "a truth value is no number");
}

/* A field given twice, anywhere in the message and whatever its value, fails the message. */
Test(pack, duplicate_keys)
{
    for (unsigned key = 0; key <= PACK_KEY_MAX; key++) {
        struct pack_token tokens[8];
        uint8_t wire[16];
        uint32_t seen = 0;
        struct pack_writer w = pack_writer_of(wire, sizeof wire);
        pack_map(&w, 2);
        pack_key_uint(&w, key, 1);
        pack_key_uint(&w, key, 1);
        struct pack_reader r = pack_parse(bytes_of(wire, pack_writer_len(&w)), tokens, 8);
        cr_assert_eq(pack_read_map(&r, 2), 2);
        cr_assert_eq(pack_read_key(&r, &seen), key);
        pack_skip(&r);
        cr_assert_not(r.failed);
        cr_assert_eq(seen, UINT32_C(1) << key);
        (void)pack_read_key(&r, &seen);
        cr_assert(r.failed);
        cr_assert_not(pack_done(&r));
    }
}

/* Keys beyond the range, negative, text or a whole map: unknown, not failed, and may repeat. */
Test(pack, unknown_keys)
{
    struct pack_token tokens[32];
    uint8_t wire[64];
    uint32_t seen = 0;
    struct pack_writer w = pack_writer_of(wire, sizeof wire);
    pack_map(&w, 6);
    pack_key_uint(&w, PACK_KEY_MAX + 1, 1);
    pack_key_uint(&w, PACK_KEY_MAX + 1, 1);
    pack_int(&w, -1);
    pack_nil(&w);
    pack_str(&w, "1");
    pack_nil(&w);
    pack_map(&w, 1);
    pack_key_uint(&w, 1, 1);
    pack_nil(&w);
    pack_float(&w, 1.0);
    pack_nil(&w);
    struct pack_reader r = pack_parse(bytes_of(wire, pack_writer_len(&w)), tokens, 32);
    for (size_t left = pack_read_map(&r, 6); left > 0; left--) {
        cr_assert_eq(pack_read_key(&r, &seen), PACK_KEY_UNKNOWN);
        pack_skip(&r);
    }
    cr_assert(pack_done(&r));
    cr_assert_eq(seen, 0);
}

/* Asking for the wrong type, more elements or more bytes than the caller allows: zero, and sticky failure. */
Test(pack, wrong_types_and_limits)
{
    struct pack_token token[4];
    char text[4] = "xxx";
    uint8_t raw[4];
    struct pack_reader number = pack_parse(bytes_of("\x05", 1), token, 4);
    struct pack_reader r = number;
    cr_assert_eq(pack_read_map(&r, 9), 0);
    cr_assert(r.failed);
    cr_assert_eq(pack_peek(&r), PACK_NIL);
    cr_assert_eq(pack_read_uint(&r, 9), 0, "a failed reader gives nothing more");
    r = number;
    cr_assert_eq(pack_read_array(&r, 9), 0);
    cr_assert(r.failed);
    r = number;
    cr_assert_not(pack_read_bool(&r));
    cr_assert(r.failed);
    r = number;
    cr_assert_null(pack_read_bin(&r, 9).data);
    cr_assert(r.failed);
    r = number;
    pack_read_text(&r, text, sizeof text);
    cr_assert_str_empty(text);
    r = pack_parse(bytes_of("\xa1g", 2), token, 4);
    cr_assert_eq(pack_read_int(&r), 0);
    cr_assert(r.failed);
    r = pack_parse(bytes_of("\x92\x01\x02", 3), token, 4);
    cr_assert_eq(pack_read_array(&r, 1), 0);
    cr_assert(r.failed);
    r = pack_parse(bytes_of("\xc4\x03"
                            "abc",
                            5),
                   token, 4);
    struct pack_reader again = r;
    cr_assert_eq(pack_read_bin(&r, 2).len, 0);
    cr_assert(r.failed);
    memset(raw, 1, sizeof raw);
    pack_read_exact(&again, raw, 4);
    cr_assert(again.failed, "shorter than the field");
    cr_assert_arr_eq(raw, ((uint8_t[4]){0}), 4);
}

/* Texts: cut at no price, ended always, without a NUL inside. */
Test(pack, texts)
{
    struct pack_token token;
    char text[4];
    struct pack_reader r = pack_parse(bytes_of("\xa3"
                                               "abc",
                                               4),
                                      &token, 1);
    pack_read_text(&r, text, sizeof text);
    cr_assert_str_eq(text, "abc");
    r = pack_parse(bytes_of("\xa4"
                            "abcd",
                            5),
                   &token, 1);
    pack_read_text(&r, text, sizeof text);
    cr_assert(r.failed);
    cr_assert_str_empty(text);
    r = pack_parse(bytes_of("\xa3"
                            "a\0c",
                            4),
                   &token, 1);
    pack_read_text(&r, text, sizeof text);
    cr_assert(r.failed);
    cr_assert_str_empty(text);
    r = pack_parse(bytes_of("\xa0", 1), &token, 1);
    pack_read_text(&r, text, 1);
    cr_assert(pack_done(&r));
}

Test(pack, text_needs_room_for_its_end, .signal = SIGABRT)
{
    struct pack_token token;
    char text[1];
    struct pack_reader r = pack_parse(bytes_of("\xa0", 1), &token, 1);
    pack_read_text(&r, text, 0);
}

/* Skipping past the end, and an exact field of no bytes. */
Test(pack, skip_and_empty)
{
    struct pack_token token[4];
    struct pack_reader r = pack_parse(bytes_of("\x90", 1), token, 4);
    pack_skip(&r);
    cr_assert(pack_done(&r));
    pack_skip(&r);
    cr_assert(r.failed);
    pack_skip(&r);
    uint8_t none[1] = {7};
    r = pack_parse(bytes_of("\xc4\x00", 2), token, 4);
    pack_read_exact(&r, none, 0);
    cr_assert(pack_done(&r));
    cr_assert_eq(none[0], 7);
}
