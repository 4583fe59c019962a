#include "tools/dunlin/value.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Length of the UTF-8 sequence at text (RFC 3629 s.4), or 0 when it is not one. */
static size_t utf8_length(const uint8_t *text, size_t left)
{
    uint8_t first = text[0];
    if (first < 0x80)
        return 1;
    size_t len = first >= 0xc2 && first <= 0xdf ? 2 : first >= 0xe0 && first <= 0xef ? 3 : 0;
    if (first >= 0xf0 && first <= 0xf4)
        len = 4;
    if (len == 0 || len > left)
        return 0;
    for (size_t i = 1; i < len; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
    }
    bool overlong = (first == 0xe0 && text[1] < 0xa0) || (first == 0xf0 && text[1] < 0x90);
    bool surrogate = first == 0xed && text[1] > 0x9f;
    bool beyond = first == 0xf4 && text[1] > 0x8f;
    return overlong || surrogate || beyond ? 0 : len;
}

static json_t *text_of(struct bytes in)
{
    static const uint8_t replacement[3] = {0xef, 0xbf, 0xbd};
    uint8_t *clean = malloc(in.len * 3 + 1);
    if (clean == NULL)
        return NULL;
    size_t len = 0;
    for (size_t at = 0; at < in.len;) {
        size_t step = in.data[at] == 0 ? 0 : utf8_length(in.data + at, in.len - at);
        memcpy(clean + len, step == 0 ? replacement : in.data + at, step == 0 ? sizeof(replacement) : step);
        len += step == 0 ? sizeof(replacement) : step;
        at += step == 0 ? 1 : step;
    }
    json_t *text = json_stringn((const char *)clean, len);
    free(clean);
    return text;
}

static json_t *hex_of(struct bytes in)
{
    static const char digits[] = "0123456789abcdef";
    char *hex = malloc(in.len * 2 + 1);
    if (hex == NULL)
        return NULL;
    for (size_t i = 0; i < in.len; i++) {
        hex[2 * i] = digits[in.data[i] >> 4];
        hex[2 * i + 1] = digits[in.data[i] & 15];
    }
    json_t *text = json_stringn(hex, in.len * 2);
    free(hex);
    return text;
}

static json_t *array_of(struct pack_reader *r)
{
    json_t *array = json_array();
    for (size_t left = pack_read_array(r, SIZE_MAX); left > 0 && !r->failed; left--)
        r->failed |= json_array_append_new(array, value_decode(r)) != 0;
    return array;
}

static json_t *object_of(struct pack_reader *r)
{
    json_t *object = json_object();
    for (size_t left = pack_read_map(r, SIZE_MAX); left > 0 && !r->failed; left--) {
        char key[128];
        pack_read_text(r, key, sizeof(key));
        json_t *value = value_decode(r);
        r->failed |= json_object_set_new(object, key, value) != 0;
    }
    return object;
}

/* Recursion is bounded by PACK_DEPTH_MAX, which pack_parse checked. */
json_t *value_decode(struct pack_reader *r)
{
    json_t *value = NULL;
    switch (pack_peek(r)) {
    case PACK_NIL:
        pack_skip(r);
        value = json_null();
        break;
    case PACK_BOOL:
        value = json_boolean(pack_read_bool(r));
        break;
    case PACK_UINT:
    case PACK_INT:
        value = json_integer(pack_read_int(r));
        break;
    case PACK_FLOAT: {
        double number = pack_read_float(r);
        value = isfinite(number) ? json_real(number) : json_null();
        break;
    }
    case PACK_STR:
        value = text_of(pack_read_str(r, SIZE_MAX));
        break;
    case PACK_BIN:
        value = hex_of(pack_read_bin(r, SIZE_MAX));
        break;
    case PACK_ARRAY:
        value = array_of(r);
        break;
    case PACK_MAP:
        value = object_of(r);
        break;
    }
    if (value == NULL)
        r->failed = true;
    if (!r->failed)
        return value;
    json_decref(value);
    return NULL;
}

static void encode_object(struct pack_writer *w, const json_t *object)
{
    /* jansson's iterators want a mutable object although they change nothing. */
    json_t *walk = (json_t *)(uintptr_t)object;
    pack_map(w, json_object_size(object));
    const char *key;
    json_t *child;
    json_object_foreach(walk, key, child)
    {
        pack_str(w, key);
        value_encode(w, child);
    }
}

void value_encode(struct pack_writer *w, const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        encode_object(w, value);
        break;
    case JSON_ARRAY:
        pack_array(w, json_array_size(value));
        for (size_t i = 0; i < json_array_size(value); i++)
            value_encode(w, json_array_get(value, i));
        break;
    case JSON_STRING:
        pack_str(w, json_string_value(value));
        break;
    case JSON_INTEGER:
        if (json_integer_value(value) >= 0)
            pack_uint(w, (uint64_t)json_integer_value(value));
        else
            pack_int(w, json_integer_value(value));
        break;
    case JSON_REAL:
        pack_float(w, json_real_value(value));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        pack_bool(w, json_is_true(value));
        break;
    case JSON_NULL:
        pack_nil(w);
        break;
    }
}

const char *value_text(const json_t *object, const char *key, const char *fallback)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text != NULL ? text : fallback;
}

double value_number(const json_t *object, const char *key, double fallback)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : fallback;
}

uint64_t value_count(const json_t *object, const char *key)
{
    double number = value_number(object, key, 0);
    return number > 0 ? (uint64_t)number : 0;
}

bool value_true(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

bool value_present(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return value != NULL && !json_is_null(value);
}
