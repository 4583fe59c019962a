/* Mirrors base/hash.c. */
#include <criterion/criterion.h>
#include <signal.h>
#include <sodium.h>
#include <string.h>

#include "base/hash.h"

static void assert_hex(const struct id *id, const char *hex)
{
    char text[2 * ID_BYTES + 1];
    sodium_bin2hex(text, sizeof text, id->bytes, ID_BYTES);
    cr_assert_str_eq(text, hex);
}

/* BLAKE2b-256 without a key, as the reference implementation (b2sum -l 256) prints it. */
Test(hash, content_vectors)
{
    struct id out;
    hash_content(bytes_of(NULL, 0), &out);
    assert_hex(&out, "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8");
    hash_content(bytes_of_text("abc"), &out);
    assert_hex(&out, "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
}

/* The labelled hash is the plain hash of length, label and parts in a row. */
Test(hash, parts_are_concatenated)
{
    struct id labelled;
    struct id plain;
    struct bytes parts[] = {bytes_of_text("ab"), bytes_of(NULL, 0), bytes_of_text("c")};
    hash_parts("label", parts, 3, &labelled);
    hash_content(bytes_of_text("\x05labelabc"), &plain);
    cr_assert(id_equal(&labelled, &plain));
    hash_parts("", NULL, 0, &labelled);
    hash_content(bytes_of("\0", 1), &plain);
    cr_assert(id_equal(&labelled, &plain));
}

/* Neither another label nor moving a character from the label to the content may give the same hash. */
Test(hash, labels_separate)
{
    struct id a;
    struct id b;
    struct bytes content = bytes_of_text("content");
    hash_parts("one", &content, 1, &a);
    hash_parts("two", &content, 1, &b);
    cr_assert_not(id_equal(&a, &b));
    struct bytes longer = bytes_of_text("econtent");
    hash_parts("on", &longer, 1, &b);
    cr_assert_not(id_equal(&a, &b));
}

Test(hash, label_at_its_limit)
{
    char label[257];
    struct id out;
    memset(label, 'x', sizeof label);
    label[255] = '\0';
    hash_parts(label, NULL, 0, &out);
    cr_assert_not(id_is_zero(&out));
}

Test(hash, label_too_long, .signal = SIGABRT)
{
    char label[257];
    struct id out;
    memset(label, 'x', sizeof label);
    label[256] = '\0';
    hash_parts(label, NULL, 0, &out);
}
