/* Mirrors base/id.c. */
#include <criterion/criterion.h>
#include <ctype.h>
#include <string.h>

#include "base/id.h"
#include "base/rng.h"

/* RFC 4648 s.10, without the padding that we do not use. */
static const char *const vectors[][2] = {
    {"", ""},
    {"f", "my"},
    {"fo", "mzxq"},
    {"foo", "mzxw6"},
    {"foob", "mzxw6yq"},
    {"fooba", "mzxw6ytb"},
    {"foobar", "mzxw6ytboi"},
};

/* The published vectors must encode and decode, in either letter case. */
Test(id, base32_vectors)
{
    for (size_t i = 0; i < sizeof vectors / sizeof vectors[0]; i++) {
        char text[32];
        uint8_t raw[32];
        struct bytes plain = bytes_of_text(vectors[i][0]);
        int chars = base32_encode(plain, text, sizeof text);
        cr_assert_eq(chars, (int)strlen(vectors[i][1]));
        cr_assert_str_eq(text, vectors[i][1]);
        for (int upper = 0; upper < 2; upper++) {
            int len = base32_decode(text, (size_t)chars, raw, sizeof raw);
            cr_assert_eq(len, (int)plain.len);
            cr_assert(bytes_equal(bytes_of(raw, plain.len), plain));
            for (char *c = text; *c != '\0'; c++)
                *c = (char)toupper((unsigned char)*c);
        }
    }
}

/* Every length up to 64 with random content must survive a round trip; room is checked to the last character.
 */
Test(id, base32_round_trip)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 1);
    struct rng rng = rng_of_seeded(&stream);
    for (size_t len = 0; len <= 64; len++) {
        uint8_t raw[64];
        uint8_t back[64];
        char text[128];
        rng_fill(&rng, raw, len);
        size_t chars = (len * 8 + 4) / 5;
        cr_assert_eq(base32_encode(bytes_of(raw, len), text, chars), ERR_TOO_LARGE);
        cr_assert_eq(base32_encode(bytes_of(raw, len), text, chars + 1), (int)chars);
        cr_assert_eq(strlen(text), chars);
        cr_assert_eq(base32_decode(text, chars, back, len), (int)len);
        cr_assert(bytes_equal(bytes_of(back, len), bytes_of(raw, len)));
        if (len > 0)
            cr_assert_eq(base32_decode(text, chars, back, len - 1), ERR_TOO_LARGE);
    }
}

/* Impossible lengths, every foreign character and set trailing bits are refused: a value has one text form.
 */
Test(id, base32_refuses)
{
    uint8_t raw[8];
    cr_assert_eq(base32_decode("a", 1, raw, sizeof raw), ERR_MALFORMED);
    cr_assert_eq(base32_decode("aaa", 3, raw, sizeof raw), ERR_MALFORMED);
    cr_assert_eq(base32_decode("aaaaaa", 6, raw, sizeof raw), ERR_MALFORMED);
    cr_assert_eq(base32_decode("mz", 2, raw, sizeof raw), ERR_MALFORMED, "trailing bits set");
    cr_assert_eq(base32_decode("my", 2, raw, sizeof raw), 1);
    for (int c = 0; c < 256; c++) {
        char text[2] = {(char)c, 'a'};
        bool valid = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '2' && c <= '7');
        cr_assert_eq(base32_decode(text, 2, raw, sizeof raw), valid ? 1 : ERR_MALFORMED, "character %d", c);
    }
}

/* Of the 32 last characters of an id's text only those with zero trailing bits may parse. */
Test(id, one_text_form)
{
    struct id id;
    char text[ID_TEXT_SIZE];
    memset(&id, 0, sizeof id);
    id_format(&id, text);
    cr_assert_eq(strlen(text), ID_TEXT_CHARS);
    int accepted = 0;
    for (const char *c = "abcdefghijklmnopqrstuvwxyz234567"; *c != '\0'; c++) {
        text[ID_TEXT_CHARS - 1] = *c;
        accepted += id_parse(text, &id) == ERR_OK;
    }
    cr_assert_eq(accepted, 2, "52 characters carry 260 bits, 4 of which must be zero");
}

/* Format and parse are inverse; a refused text leaves the id as it was. */
Test(id, parse)
{
    struct id id;
    struct id back;
    char text[ID_TEXT_SIZE + 1];
    char brief[ID_SHORT_SIZE];
    for (size_t i = 0; i < ID_BYTES; i++)
        id.bytes[i] = (uint8_t)(i * 7 + 1);
    id_format(&id, text);
    id_format_short(&id, brief);
    cr_assert_eq(strlen(brief), ID_SHORT_CHARS);
    cr_assert_eq(strncmp(text, brief, ID_SHORT_CHARS), 0);
    cr_assert_eq(id_parse(text, &back), ERR_OK);
    cr_assert(id_equal(&id, &back));

    text[10] = '1';
    cr_assert_eq(id_parse(text, &back), ERR_MALFORMED);
    cr_assert(id_equal(&id, &back));
    text[10] = 'a';
    text[ID_TEXT_CHARS] = 'a';
    text[ID_TEXT_CHARS + 1] = '\0';
    cr_assert_eq(id_parse(text, &back), ERR_MALFORMED, "one character too many");
    text[ID_TEXT_CHARS - 1] = '\0';
    cr_assert_eq(id_parse(text, &back), ERR_MALFORMED, "one character too few");
    cr_assert_eq(id_parse("", &back), ERR_MALFORMED);
    cr_assert(id_equal(&id, &back));
}

/* Order is by unsigned bytes from the first; zero is zero only when every byte is. */
Test(id, order_and_zero)
{
    struct id low;
    struct id high;
    memset(&low, 0, sizeof low);
    memset(&high, 0, sizeof high);
    cr_assert(id_is_zero(&low));
    cr_assert_eq(id_compare(&low, &high), 0);
    for (size_t i = 0; i < ID_BYTES; i++) {
        high.bytes[i] = 0x80;
        cr_assert_not(id_is_zero(&high));
        cr_assert_not(id_equal(&low, &high));
        cr_assert_lt(id_compare(&low, &high), 0);
        cr_assert_gt(id_compare(&high, &low), 0);
        high.bytes[i] = 0;
    }
}
