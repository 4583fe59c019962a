/* The messages of docs/protocol/reach.md: each example is what the code writes, byte for byte, and reads
 * back; every truncation is refused, and so are wrong types, repeated keys and too little padding. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/pack.h"
#include "nat/reach_wire.h"
#include "support/page.h"

#define PAGE TEST_SOURCE_DIR "/../../docs/protocol/reach.md"

static const struct {
    const char *name;
    uint8_t kind;
} examples[] = {
    {"observe", REACH_OBSERVE},   {"observed", REACH_OBSERVED},
    {"dialback", REACH_DIALBACK}, {"dialback_probe", REACH_DIALBACK_PROBE},
    {"forward", REACH_FORWARD},   {"dialback_answer", REACH_DIALBACK_ANSWER},
};

enum { EXAMPLES = sizeof examples / sizeof examples[0] };

static struct net_addr at(const char *text)
{
    struct net_addr addr;
    cr_assert_eq(net_addr_parse(text, &addr), ERR_OK, "%s", text);
    return addr;
}

static struct reach_body body_of(uint8_t kind)
{
    struct reach_body body = {.nonce = UINT64_C(0x0102030405060708), .alternate = 50123, .tried_port = true};
    body.addr = at(kind == REACH_OBSERVED ? "192.0.2.1:4242" : "11.0.200.1:4242");
    memset(body.asker.bytes, 0x11, ID_BYTES);
    body.forwarded[0] = at("11.0.3.1:4242");
    body.forwarded[1] = at("11.0.4.1:4242");
    body.forwarded_count = 2;
    return body;
}

static struct net_message load(size_t i)
{
    struct net_message m = {.kind = examples[i].kind};
    m.body_len = page_example(PAGE, examples[i].name, m.body, sizeof m.body);
    cr_assert_gt(m.body_len, 0, "no example %s", examples[i].name);
    return m;
}

Test(reach_wire, examples_are_what_is_sent)
{
    cr_assert_eq(page_examples(PAGE), EXAMPLES);
    for (size_t i = 0; i < EXAMPLES; i++) {
        struct net_message page = load(i);
        struct net_message ours;
        struct reach_body body = body_of(examples[i].kind);
        reach_write(&ours, examples[i].kind, &body);
        cr_assert_eq(ours.body_len, page.body_len, "%s", examples[i].name);
        cr_assert_arr_eq(ours.body, page.body, page.body_len, "%s", examples[i].name);
    }
}

Test(reach_wire, examples_are_read_back_and_truncations_are_not)
{
    for (size_t i = 0; i < EXAMPLES; i++) {
        struct net_message m = load(i);
        struct reach_body expected = body_of(examples[i].kind);
        struct reach_body body;
        cr_assert_eq(reach_read(&m, &body), ERR_OK, "%s", examples[i].name);
        cr_expect_eq(body.nonce, expected.nonce);
        if (m.kind == REACH_OBSERVED || m.kind == REACH_DIALBACK || m.kind == REACH_FORWARD)
            cr_expect(net_addr_equal(&body.addr, &expected.addr));
        if (m.kind == REACH_OBSERVED)
            cr_expect_eq(body.alternate, 50123);
        if (m.kind == REACH_FORWARD)
            cr_expect(id_equal(&body.asker, &expected.asker));
        if (m.kind == REACH_DIALBACK_ANSWER) {
            cr_expect(body.tried_port && body.code == REACH_CODE_TRIED);
            cr_assert_eq(body.forwarded_count, 2);
            cr_expect(net_addr_equal(&body.forwarded[1], &expected.forwarded[1]));
        }
        size_t whole = m.body_len;
        for (m.body_len = 0; m.body_len < whole; m.body_len++)
            cr_assert_eq(reach_read(&m, &body), ERR_MALFORMED, "%s cut at %zu", examples[i].name, m.body_len);
    }
}

Test(reach_wire, both_families_survive_the_way)
{
    static const char *const texts[] = {"203.0.113.9:1", "[2a01:5::1]:65535"};
    for (size_t i = 0; i < 2; i++) {
        struct net_message m;
        struct reach_body body = body_of(REACH_DIALBACK);
        struct reach_body back;
        body.addr = body.forwarded[0] = body.forwarded[1] = at(texts[i]);
        for (size_t k = 0; k < EXAMPLES; k++) {
            reach_write(&m, examples[k].kind, &body);
            cr_assert_eq(reach_read(&m, &back), ERR_OK, "%s", examples[k].name);
        }
        cr_expect(net_addr_equal(&back.forwarded[1], &body.addr));
    }
}

Test(reach_wire, impossible_fields_are_refused)
{
    static const uint8_t bad[][16] = {
        {0x82, 1, 5, 2, 0xc4, 5, 1, 2, 3, 4, 5},          /* an address of five bytes */
        {0x82, 1, 5, 2, 0xa6, 1, 2, 3, 4, 5, 6},          /* as a text */
        {0x83, 1, 5, 1, 5, 2, 0xc4, 6, 1, 2, 3, 4, 5, 6}, /* a key twice */
        {0x82, 1, 0xff, 2, 0xc4, 6, 1, 2, 3, 4, 5, 6},    /* a negative nonce */
        {0x81, 2, 0xc4, 6, 1, 2, 3, 4, 5, 6},             /* no nonce */
        {0x81, 1, 5},                                     /* no address */
    };
    static const size_t lens[] = {11, 11, 14, 12, 10, 3};
    struct reach_body body;
    for (size_t i = 0; i < sizeof lens / sizeof lens[0]; i++) {
        struct net_message m = {.kind = REACH_OBSERVED, .body_len = lens[i]};
        memcpy(m.body, bad[i], lens[i]);
        cr_expect_eq(reach_read(&m, &body), ERR_MALFORMED, "case %zu", i);
    }
    struct net_message m = {.kind = REACH_DIALBACK_ANSWER};
    struct pack_writer w = pack_writer_of(m.body, sizeof m.body);
    pack_map(&w, 3); /* three others where two are the limit */
    pack_key_uint(&w, 1, 5);
    pack_key_uint(&w, 5, 0);
    pack_uint(&w, 7);
    pack_array(&w, 3);
    for (int i = 0; i < 3; i++)
        pack_bin(&w, bytes_of((const uint8_t *)"\1\2\3\4\5\6", 6));
    m.body_len = pack_writer_len(&w);
    cr_expect_eq(reach_read(&m, &body), ERR_MALFORMED);
}
