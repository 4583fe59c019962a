/* docs/protocol/punch.md: each example decodes to what the page says and encodes to the same bytes; every
 * truncation is refused, as are fields out of range; unknown keys are skipped. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/pack.h"
#include "nat/punch_wire.h"
#include "support/page.h"

#define PAGE TEST_SOURCE_DIR "/../../docs/protocol/punch.md"

static struct net_message example(const char *name, uint8_t kind)
{
    struct net_message m = {.kind = kind};
    m.body_len = page_example(PAGE, name, m.body, sizeof m.body);
    cr_assert_gt(m.body_len, 0, "no example %s", name);
    return m;
}

static struct punch_message decoded(const char *name, uint8_t kind)
{
    struct net_message wire = example(name, kind), again = {.kind = 0}, cut;
    struct punch_message m, ignored;
    cr_assert_eq(punch_decode(&wire, &m), ERR_OK, "%s", name);
    punch_encode(&m, &again);
    cr_assert_eq(again.body_len, wire.body_len, "%s", name);
    cr_assert_arr_eq(again.body, wire.body, wire.body_len);
    for (size_t len = 0; len < wire.body_len; len++) {
        cut = wire;
        cut.body_len = len;
        cr_assert_eq(punch_decode(&cut, &ignored), ERR_MALFORMED);
    }
    return m;
}

Test(punch_page, examples_say_what_the_page_says)
{
    cr_assert_eq(page_examples(PAGE), 8);
    struct punch_message m = decoded("invite", PUNCH_KIND_INVITE);
    cr_assert_eq(m.round, 0x0102030405060708);
    cr_assert_eq(m.attempt, 1);
    cr_assert_eq(m.profile.mapping, NAT_PUNCH_EASY);
    cr_assert_eq(m.profile.filtering, NAT_PUNCH_FILTER_PORT);
    cr_assert_eq(m.profile.mapping_life_ns, 20000000000);
    cr_assert_eq(m.candidate_count, 2);
    cr_assert_eq(m.candidates[1].source, NAT_PUNCH_OBSERVED);
    cr_assert_eq(m.candidates[1].addr.port, 4242);
    cr_assert(m.fresh);
    m = decoded("answer", PUNCH_KIND_ANSWER);
    cr_assert_eq(m.profile.mapping, NAT_PUNCH_SEQUENTIAL);
    cr_assert_eq(m.profile.step, -3);
    cr_assert_eq(m.profile.trend_port, 20100);
    cr_assert_eq(m.profile.public6.family, NET_FAMILY_V6);
    cr_assert_eq(m.held_ms, 45);
    m = decoded("go", PUNCH_KIND_GO);
    cr_assert_eq(m.trend_port, 20100);
    m = decoded("end", PUNCH_KIND_END);
    cr_assert_eq(m.code, NAT_PUNCH_SILENCE);
    m = decoded("look", PUNCH_KIND_LOOK);
    cr_assert_eq(m.sequence, 0xdeadbeef);
    m = decoded("look_answer", PUNCH_KIND_LOOK_ANSWER);
    cr_assert_eq(m.addr.port, 50001);
    m = decoded("probe", PUNCH_KIND_PROBE);
    cr_assert_eq(m.sequence, 7);
    m = decoded("probe_answer", PUNCH_KIND_PROBE_ANSWER);
    cr_assert_eq(m.sequence, 7);
}

static int decode_with(void (*write)(struct pack_writer *w, int value), int value, uint8_t kind)
{
    struct net_message wire = {.kind = kind};
    struct punch_message m;
    struct pack_writer w = pack_writer_of(wire.body, sizeof wire.body);
    write(&w, value);
    wire.body_len = pack_writer_len(&w);
    cr_assert_gt(wire.body_len, 0);
    return punch_decode(&wire, &m);
}

static void write_end(struct pack_writer *w, int attempt)
{
    pack_map(w, 4);
    pack_key_uint(w, 1, 5);
    pack_key_uint(w, 2, (uint64_t)attempt);
    pack_key_uint(w, 14, 1);
    pack_key_str(w, 30, "later");
}

static void write_invite(struct pack_writer *w, int candidates)
{
    pack_map(w, 4);
    pack_key_uint(w, 1, 5);
    pack_key_uint(w, 2, 1);
    pack_key_uint(w, 3, 1);
    pack_uint(w, 11);
    pack_array(w, (size_t)candidates);
    for (int i = 0; i < candidates; i++) {
        pack_array(w, 2);
        pack_uint(w, 5);
        pack_bin(w, bytes_of("\x0b\x00\x01\x01\x10\x92", 6));
    }
}

static void write_series(struct pack_writer *w, int step)
{
    pack_map(w, 5);
    pack_key_uint(w, 1, 5);
    pack_key_uint(w, 2, 1);
    pack_key_uint(w, 3, NAT_PUNCH_SEQUENTIAL);
    pack_uint(w, 5);
    pack_int(w, step);
    pack_uint(w, 11);
    pack_array(w, 0);
}

static void write_source(struct pack_writer *w, int source)
{
    pack_map(w, 4);
    pack_key_uint(w, 1, 5);
    pack_key_uint(w, 2, 1);
    pack_key_uint(w, 3, 1);
    pack_uint(w, 11);
    pack_array(w, 1);
    pack_array(w, 2);
    pack_uint(w, (uint64_t)source);
    pack_bin(w, bytes_of("\x0b\x00\x01\x01\x10\x92", 6));
}

Test(punch_page, limits_are_refused_one_past)
{
    cr_assert_eq(decode_with(write_end, 3, PUNCH_KIND_END), ERR_OK);
    cr_assert_eq(decode_with(write_end, 0, PUNCH_KIND_END), ERR_MALFORMED);
    cr_assert_eq(decode_with(write_end, 4, PUNCH_KIND_END), ERR_MALFORMED);
    cr_assert_eq(decode_with(write_end, 1, PUNCH_KIND_INVITE), ERR_MALFORMED);
    cr_assert_eq(decode_with(write_invite, 8, PUNCH_KIND_INVITE), ERR_OK);
    cr_assert_eq(decode_with(write_invite, 9, PUNCH_KIND_INVITE), ERR_MALFORMED);
    cr_assert_eq(decode_with(write_series, 256, PUNCH_KIND_ANSWER), ERR_OK);
    cr_assert_eq(decode_with(write_series, -256, PUNCH_KIND_ANSWER), ERR_OK);
    cr_assert_eq(decode_with(write_series, 257, PUNCH_KIND_ANSWER), ERR_MALFORMED);
    cr_assert_eq(decode_with(write_series, 0, PUNCH_KIND_ANSWER), ERR_MALFORMED);
    cr_assert_eq(decode_with(write_source, NAT_PUNCH_FRESH, PUNCH_KIND_INVITE), ERR_OK);
    cr_assert_eq(decode_with(write_source, NAT_PUNCH_PUNCHED, PUNCH_KIND_INVITE), ERR_MALFORMED);
    cr_assert_eq(decode_with(write_source, 0, PUNCH_KIND_INVITE), ERR_MALFORMED);
}
