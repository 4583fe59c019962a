/* Whatever the daemon answers becomes valid JSON, and parameters survive the way there.  We try every type,
 * bytes that are not UTF-8, numbers that JSON lacks, and truncations. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/dunlin/value.h"

static json_t *decode(struct bytes in)
{
    static struct pack_token tokens[256]; /* each test runs in its own process */
    struct pack_reader r = pack_parse(in, tokens, 256);
    json_t *value = value_decode(&r);
    cr_assert_eq(value == NULL, r.failed);
    return value;
}

static const char everything[] =
    "{\"text\":\"h\\u00e9 \\u20ac \\ud83d\\ude00\",\"yes\":true,\"no\":false,\"nothing\":null,\"count\":7,"
    "\"below\":-7,\"part\":0.25,\"list\":[1,[2,{\"deep\":[]}]],\"empty\":{}}";

Test(cli_value, round_trip)
{
    uint8_t buffer[512];
    json_t *before = json_loads(everything, 0, NULL);
    cr_assert_not_null(before);
    struct pack_writer w = pack_writer_of(buffer, sizeof(buffer));
    value_encode(&w, before);
    size_t len = pack_writer_len(&w);
    cr_assert_gt(len, 0);
    json_t *after = decode(bytes_of(buffer, len));
    cr_assert(json_equal(before, after), "%s", json_dumps(after, 0));
    json_decref(after);
    for (size_t cut = 0; cut < len; cut++)
        cr_assert_null(decode(bytes_of(buffer, cut)), "cut at %zu", cut);
    struct pack_writer small = pack_writer_of(buffer, len - 1);
    value_encode(&small, before);
    cr_assert_eq(pack_writer_len(&small), 0);
    json_decref(before);
}

static void expect_text(const char *raw, size_t len, const char *clean)
{
    uint8_t buffer[128] = {(uint8_t)(0xa0 | len)};
    memcpy(buffer + 1, raw, len);
    json_t *value = decode(bytes_of(buffer, len + 1));
    cr_assert_not_null(value);
    cr_assert_str_eq(json_string_value(value), clean);
    json_decref(value);
}

Test(cli_value, text_that_is_not_utf8_is_repaired)
{
    expect_text("a\xff"
                "b",
                3, "a\uFFFDb");
    expect_text("\xc3", 1, "\uFFFD");
    expect_text("\xc0\x80", 2, "\uFFFD\uFFFD");                     /* overlong */
    expect_text("\xed\xa0\x80", 3, "\uFFFD\uFFFD\uFFFD");           /* surrogate */
    expect_text("\xf4\x90\x80\x80", 4, "\uFFFD\uFFFD\uFFFD\uFFFD"); /* beyond U+10FFFF */
    expect_text("a\0b", 3, "a\uFFFDb");
    expect_text("\xf0\x9f\x98\x80", 4, "\U0001F600");
}

Test(cli_value, what_json_lacks)
{
    uint8_t buffer[64];
    struct pack_writer w = pack_writer_of(buffer, sizeof(buffer));
    pack_array(&w, 3);
    pack_float(&w, NAN);
    pack_float(&w, INFINITY);
    pack_bin(&w, bytes_of("\x01\xfe", 2));
    json_t *value = decode(bytes_of(buffer, pack_writer_len(&w)));
    char *text = json_dumps(value, JSON_COMPACT);
    cr_assert_str_eq(text, "[null,null,\"01fe\"]");
    free(text);
    json_decref(value);
}

Test(cli_value, fields_have_fallbacks)
{
    json_t *object = json_loads("{\"a\":\"x\",\"n\":2.5,\"t\":true,\"z\":null,\"m\":-3}", 0, NULL);
    cr_assert_str_eq(value_text(object, "a", "-"), "x");
    cr_assert_str_eq(value_text(object, "n", "-"), "-");
    cr_assert_str_eq(value_text(NULL, "a", "-"), "-");
    cr_assert_eq(value_number(object, "n", 0), 2.5);
    cr_assert_eq(value_number(object, "a", 9), 9);
    cr_assert_eq(value_count(object, "m"), 0);
    cr_assert(value_true(object, "t"));
    cr_assert_not(value_true(object, "n"));
    cr_assert(value_present(object, "a"));
    cr_assert_not(value_present(object, "z"));
    json_decref(object);
}
