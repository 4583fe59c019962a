/* Every message survives a round trip, no truncation of one is accepted, unknown fields are skipped, limits
 * hold, and the examples of docs/protocol/dht.md are what the code speaks. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/pack.h"
#include "dht/pair.h"
#include "support/page.h"

static uint8_t record_bytes[40];

static struct dht_wire full(uint8_t kind)
{
    struct dht_wire m;
    memset(&m, 0, sizeof m);
    m.kind = kind;
    m.request = UINT32_MAX;
    m.has_token = true;
    memset(m.token, 7, sizeof m.token);
    if (kind == DHT_FIND || kind == DHT_GET)
        m.target = pair_id(5);
    m.type = kind == DHT_GET ? DHT_RECORD_PEER : 0;
    m.status = kind == DHT_STORED ? DHT_STORED_FULL : 0;
    if (kind == DHT_NODES || kind == DHT_VALUES) {
        m.contact_count = kind == DHT_NODES ? DHT_K : 3;
        for (unsigned i = 0; i < m.contact_count; i++) {
            m.contacts[i].id = pair_id(i);
            m.contacts[i].addr.family = NET_FAMILY_V6;
            memset(m.contacts[i].addr.ip, 0x20 + (int)i, 16);
            m.contacts[i].addr.port = 65535;
        }
    }
    if (kind == DHT_VALUES || kind == DHT_STORE) {
        m.value_count = kind == DHT_STORE ? 1 : 3;
        for (size_t i = 0; i < m.value_count; i++)
            m.values[i] = bytes_of(record_bytes, sizeof record_bytes - i);
    }
    return m;
}

static void expect_same(const struct dht_wire *a, const struct dht_wire *b)
{
    cr_assert_eq(a->request, b->request);
    cr_assert_eq(a->has_token, b->has_token);
    cr_assert_eq(memcmp(a->token, b->token, sizeof a->token), 0);
    cr_assert_eq(a->client, b->client);
    cr_assert(id_equal(&a->target, &b->target));
    cr_assert_eq(a->type, b->type);
    cr_assert_eq(a->status, b->status);
    cr_assert_eq(a->contact_count, b->contact_count);
    for (size_t i = 0; i < a->contact_count; i++) {
        cr_assert(id_equal(&a->contacts[i].id, &b->contacts[i].id));
        cr_assert(net_addr_equal(&a->contacts[i].addr, &b->contacts[i].addr));
    }
    cr_assert_eq(a->value_count, b->value_count);
    for (size_t i = 0; i < a->value_count; i++)
        cr_assert(bytes_equal(a->values[i], b->values[i]));
}

Test(dht_wire, round_trip_and_every_truncation)
{
    for (uint8_t kind = DHT_PING; kind <= DHT_STORED; kind++) {
        for (int client = 0; client < 2; client++) {
            struct dht_wire m = full(kind), back;
            m.client = client != 0;
            uint8_t out[NET_BODY_MAX];
            size_t len = dht_wire_encode(&m, out, sizeof out);
            cr_assert_gt(len, 0, "kind 0x%02x", kind);
            cr_assert_eq(dht_wire_decode(kind, bytes_of(out, len), &back), ERR_OK);
            expect_same(&m, &back);
            cr_assert_eq(dht_wire_encode(&m, out, len - 1), 0, "one byte short");
            for (size_t cut = 0; cut < len; cut++) {
                uint8_t *exact = malloc(cut + 1);
                memcpy(exact, out, cut);
                cr_assert_eq(dht_wire_decode(kind, bytes_of(exact, cut), &back), ERR_MALFORMED);
                free(exact);
            }
        }
    }
    struct dht_wire back;
    cr_assert_eq(dht_wire_decode(0x1f, bytes_of("\x80", 1), &back), ERR_UNSUPPORTED);
    cr_assert_eq(dht_wire_decode(0x28, bytes_of("\x80", 1), &back), ERR_UNSUPPORTED);
}

Test(dht_wire, twenty_v6_contacts_with_a_token_fit_exactly)
{
    struct dht_wire m = full(DHT_NODES);
    m.client = true;
    uint8_t out[NET_BODY_MAX];
    cr_assert_eq(dht_wire_encode(&m, out, sizeof out), NET_BODY_MAX);
}

Test(dht_wire, padding_is_exact_and_bounds_the_reply)
{
    struct dht_wire m = full(DHT_FIND), back;
    uint8_t out[NET_BODY_MAX];
    m.has_token = false;
    m.padded = DHT_WIRE_PADDED;
    size_t len = dht_wire_encode(&m, out, sizeof out);
    cr_assert_eq(len, DHT_WIRE_PADDED);
    cr_assert_geq(DHT_WIRE_AMPLIFY * len, NET_BODY_MAX);
    cr_assert_eq(dht_wire_decode(DHT_FIND, bytes_of(out, len), &back), ERR_OK);
    for (size_t target = 90; target <= DHT_WIRE_PADDED; target++) {
        m.padded = target;
        len = dht_wire_encode(&m, out, sizeof out);
        cr_assert(len == target || len + 1 == target, "padded to %zu, is %zu", target, len);
    }
}

Test(dht_wire, a_reply_is_cut_from_the_end_until_it_fits)
{
    struct dht_wire m = full(DHT_NODES), back;
    uint8_t out[NET_BODY_MAX];
    bool cut = true;
    cr_assert_eq(dht_wire_encode_reply(&m, out, NET_BODY_MAX, &cut), NET_BODY_MAX - 2);
    cr_assert_not(cut);
    size_t len = dht_wire_encode_reply(&m, out, 150, &cut);
    cr_assert(cut && len > 0 && len <= 150);
    cr_assert_eq(dht_wire_decode(DHT_NODES, bytes_of(out, len), &back), ERR_OK);
    cr_assert_eq(back.contact_count, 2);
    cr_assert(back.has_token);
    len = dht_wire_encode_reply(&m, out, 12, &cut);
    cr_assert(len > 0 && !m.has_token);
    cr_assert_eq(dht_wire_encode_reply(&m, out, 3, &cut), 0);
}

static size_t map_of(uint8_t *out, void (*fill)(struct pack_writer *w), size_t pairs)
{
    struct pack_writer w = pack_writer_of(out, NET_BODY_MAX);
    pack_map(&w, pairs);
    fill(&w);
    return pack_writer_len(&w);
}

static void with_unknown(struct pack_writer *w)
{
    pack_key_uint(w, 1, 9);
    pack_key_str(w, 30, "later version");
    pack_str(w, "odd key");
    pack_array(w, 2);
    pack_nil(w);
    pack_uint(w, 5);
    pack_key_uint(w, 8, 77); /* known elsewhere, not in a ping: skipped whatever it holds */
}

static void repeated(struct pack_writer *w)
{
    pack_key_uint(w, 1, 9);
    pack_key_uint(w, 1, 9);
}

static void odd_contacts(struct pack_writer *w)
{
    struct id id = pair_id(1);
    pack_key_uint(w, 1, 9);
    pack_uint(w, 5);
    pack_array(w, 1);
    pack_id(w, &id);
}

static void multicast(struct pack_writer *w)
{
    struct id id = pair_id(1);
    pack_key_uint(w, 1, 9);
    pack_uint(w, 5);
    pack_array(w, 2);
    pack_id(w, &id);
    pack_bin(w, bytes_of("\xe0\x00\x00\x01\x10\x10", 6));
}

static void many_contacts(struct pack_writer *w)
{
    struct id id = pair_id(1);
    pack_key_uint(w, 1, 9);
    pack_uint(w, 5);
    pack_array(w, 42);
    for (int i = 0; i < 21; i++) {
        pack_id(w, &id);
        pack_bin(w, bytes_of("\x08\x08\x08\x08\x10\x10", 6));
    }
}

static void big_status(struct pack_writer *w)
{
    pack_key_uint(w, 1, 9);
    pack_key_uint(w, 8, DHT_STORED_STATUS_COUNT);
}

static void type_zero(struct pack_writer *w)
{
    struct id id = pair_id(1);
    pack_key_uint(w, 1, 9);
    pack_key_id(w, 4, &id);
    pack_key_uint(w, 6, 0);
}

static void big_request(struct pack_writer *w)
{
    pack_key_uint(w, 1, UINT64_C(1) << 32);
}

static void no_value(struct pack_writer *w)
{
    pack_key_uint(w, 1, 9);
    pack_key_bin(w, 2, bytes_of("12345678", 8));
    pack_uint(w, 7);
    pack_array(w, 0);
}

Test(dht_wire, unknown_is_skipped_and_impossible_is_refused)
{
    static const struct {
        void (*fill)(struct pack_writer *w);
        size_t pairs;
        uint8_t kind;
        int result;
    } cases[] = {
        {with_unknown, 4, DHT_PING, ERR_OK},          {repeated, 2, DHT_PING, ERR_MALFORMED},
        {odd_contacts, 2, DHT_NODES, ERR_MALFORMED},  {multicast, 2, DHT_NODES, ERR_MALFORMED},
        {many_contacts, 2, DHT_NODES, ERR_MALFORMED}, {big_status, 2, DHT_STORED, ERR_MALFORMED},
        {type_zero, 3, DHT_GET, ERR_MALFORMED},       {big_request, 1, DHT_PING, ERR_MALFORMED},
        {no_value, 3, DHT_STORE, ERR_MALFORMED},      {with_unknown, 4, DHT_FIND, ERR_MALFORMED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t out[NET_BODY_MAX];
        struct dht_wire m;
        size_t len = map_of(out, cases[i].fill, cases[i].pairs);
        cr_assert_gt(len, 0);
        cr_assert_eq(dht_wire_decode(cases[i].kind, bytes_of(out, len), &m), cases[i].result, "case %zu", i);
    }
}

static void check_example(uint8_t kind, const uint8_t *in, size_t len)
{
    struct dht_wire m;
    uint8_t again[NET_BODY_MAX];
    cr_assert_eq(dht_wire_decode(kind, bytes_of(in, len), &m), ERR_OK, "example 0x%02x", kind);
    cr_assert_eq(dht_wire_encode(&m, again, sizeof again), len);
    cr_assert_eq(memcmp(in, again, len), 0);
    for (size_t i = 0; i < m.value_count; i++) {
        struct dht_record record;
        cr_assert_eq(dht_record_decode(m.values[i], &record), ERR_OK);
        cr_assert_eq(record.type, DHT_RECORD_PROVIDER);
        cr_assert_eq(record.addr_count, 1);
    }
}

Test(dht_wire, examples_of_the_protocol_page_decode)
{
    static const char page[] = TEST_SOURCE_DIR "/../../docs/protocol/dht.md";
    static const char *const names[] = {"ping", "pong", "find", "nodes", "get", "values", "store", "stored"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        uint8_t in[NET_BODY_MAX];
        size_t len = page_example(page, names[i], in, sizeof in);
        cr_assert_gt(len, 0);
        check_example((uint8_t)(DHT_PING + i), in, len);
    }
    cr_assert_eq(page_examples(page), sizeof names / sizeof names[0]);
}
