/* Answers of the control socket: nested containers are counted right, and what does not fit is refused whole.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "node/reply.h"

Test(reply, nests_and_counts)
{
    uint8_t buffer[512];
    struct pack_token tokens[32];
    struct reply r = reply_of(buffer, sizeof buffer);
    reply_map(&r, NULL);
    reply_uint(&r, "a", 1);
    reply_array(&r, "b");
    for (int i = 0; i < 3; i++)
        reply_int(&r, NULL, -i);
    reply_end(&r);
    reply_map(&r, "c");
    reply_end(&r);
    reply_nil(&r, "d");
    reply_bool(&r, "e", true);
    reply_end(&r);
    size_t len = reply_len(&r);
    cr_assert_gt(len, 0);
    struct pack_reader in = pack_parse(bytes_of(buffer, len), tokens, 32);
    cr_assert_eq(pack_read_map(&in, 10), 5);
    cr_assert(bytes_equal(pack_read_str(&in, 9), bytes_of_text("a")));
    cr_assert_eq(pack_read_uint(&in, 9), 1);
    pack_skip(&in);
    cr_assert_eq(pack_read_array(&in, 9), 3);
    cr_assert_eq(pack_read_int(&in), 0);
    cr_assert_eq(pack_read_int(&in), -1);
    cr_assert_eq(pack_read_int(&in), -2);
    pack_skip(&in);
    cr_assert_eq(pack_read_map(&in, 9), 0);
    for (int i = 0; i < 4; i++)
        pack_skip(&in);
    cr_assert(pack_done(&in));
}

Test(reply, every_short_buffer_fails_whole)
{
    /* What must hold: for every capacity below the need, the answer's length is 0. */
    uint8_t buffer[64];
    size_t need = 0;
    for (size_t cap = sizeof buffer; cap > 0; cap--) {
        struct reply r = reply_of(buffer, cap);
        reply_map(&r, NULL);
        reply_str(&r, "key", "a value of some length");
        reply_array(&r, "x");
        reply_end(&r);
        reply_end(&r);
        size_t len = reply_len(&r);
        if (need == 0)
            need = len;
        cr_assert_eq(len, cap >= need ? need : 0, "cap %zu", cap);
    }
}
