#include "base/id.h"

#include <string.h>

static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz234567";

bool id_equal(const struct id *a, const struct id *b)
{
    return memcmp(a->bytes, b->bytes, ID_BYTES) == 0;
}

int id_compare(const struct id *a, const struct id *b)
{
    return memcmp(a->bytes, b->bytes, ID_BYTES);
}

bool id_is_zero(const struct id *id)
{
    uint8_t any = 0;
    for (size_t i = 0; i < ID_BYTES; i++)
        any |= id->bytes[i];
    return any == 0;
}

void id_format(const struct id *id, char text[ID_TEXT_SIZE])
{
    int chars = base32_encode(bytes_of(id->bytes, ID_BYTES), text, ID_TEXT_SIZE);
    ASSERT(chars == ID_TEXT_CHARS);
}

void id_format_short(const struct id *id, char text[ID_SHORT_SIZE])
{
    char full[ID_TEXT_SIZE];
    id_format(id, full);
    memcpy(text, full, ID_SHORT_CHARS);
    text[ID_SHORT_CHARS] = '\0';
}

int id_parse(const char *text, struct id *out)
{
    struct id parsed;
    if (strlen(text) != ID_TEXT_CHARS)
        return ERR_MALFORMED;
    int len = base32_decode(text, ID_TEXT_CHARS, parsed.bytes, ID_BYTES);
    if (len != ID_BYTES)
        return ERR_MALFORMED;
    *out = parsed;
    return ERR_OK;
}

int base32_encode(struct bytes in, char *text, size_t text_cap)
{
    size_t chars = (in.len * 8 + 4) / 5;
    if (text_cap < chars + 1)
        return ERR_TOO_LARGE;
    uint32_t pending = 0; /* bits not yet written, right-aligned */
    unsigned bits = 0;
    size_t at = 0;
    for (size_t i = 0; i < in.len; i++) {
        pending = (pending << 8 | in.data[i]) & 0xfff;
        bits += 8;
        while (bits >= 5) {
            bits -= 5;
            text[at++] = alphabet[pending >> bits & 31];
        }
    }
    if (bits > 0)
        text[at++] = alphabet[pending << (5 - bits) & 31];
    text[at] = '\0';
    return (int)at;
}

static int base32_value(char c)
{
    if (c >= 'a' && c <= 'z')
        return c - 'a';
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= '2' && c <= '7')
        return c - '2' + 26;
    return -1;
}

int base32_decode(const char *text, size_t text_len, uint8_t *out, size_t out_cap)
{
    size_t len = text_len * 5 / 8;
    if (len > out_cap)
        return ERR_TOO_LARGE;
    if ((len * 8 + 4) / 5 != text_len)
        return ERR_MALFORMED;
    uint32_t pending = 0;
    unsigned bits = 0;
    size_t at = 0;
    for (size_t i = 0; i < text_len; i++) {
        int value = base32_value(text[i]);
        if (value < 0)
            return ERR_MALFORMED;
        pending = (pending << 5 | (uint32_t)value) & 0x1fff;
        bits += 5;
        if (bits >= 8) {
            bits -= 8;
            out[at++] = (uint8_t)(pending >> bits);
        }
    }
    if ((pending & ((1u << bits) - 1)) != 0)
        return ERR_MALFORMED;
    return (int)at;
}
