/* The examples of docs/protocol/relay.md are what the code sends and takes: each decodes to the fields that
 * the page names, is encoded again byte for byte, and is refused when cut anywhere.  Limits of each field,
 * frame heads, and the relays in a record. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/pack.h"
#include "nat/relay.h"
#include "support/page.h"

#define PAGE    TEST_SOURCE_DIR "/../../docs/protocol/relay.md"
#define SESSION UINT64_C(0x2345678901abcd)

static const struct {
    const char *name;
    uint8_t kind;
    uint32_t request;
} messages[] = {
    {"reserve", NAT_RELAY_RESERVE, 7}, {"reserved", NAT_RELAY_RESERVED, 7}, {"open", NAT_RELAY_OPEN, 8},
    {"offer", NAT_RELAY_OFFER, 0},     {"accept", NAT_RELAY_ACCEPT, 9},     {"decline", NAT_RELAY_DECLINE, 0},
    {"opened", NAT_RELAY_OPENED, 8},   {"refused", NAT_RELAY_REFUSED, 8},   {"close", NAT_RELAY_CLOSE, 10},
    {"notice", NAT_RELAY_NOTICE, 0},   {"keep", NAT_RELAY_KEEP, 11},        {"kept", NAT_RELAY_KEPT, 11},
    {"prove", NAT_RELAY_PROVE, 12},    {"proven", NAT_RELAY_PROVEN, 12},
};

enum { MESSAGES = sizeof messages / sizeof messages[0] };

static struct net_message example(const char *name, uint8_t kind)
{
    struct net_message m = {.kind = kind};
    m.body_len = page_example(PAGE, name, m.body, sizeof m.body);
    cr_assert_gt(m.body_len, 0, "no example %s", name);
    return m;
}

static void check_fields(const struct nat_relay_message *m)
{
    static const uint8_t nonce[NAT_RELAY_NONCE] = {1, 2, 3, 4, 5, 6, 7, 8};
    static const struct net_addr seen = {.family = NET_FAMILY_V4, .ip = {192, 0, 2, 1}, .port = 4242};
    struct id peer;
    memset(&peer, 3, sizeof peer);
    cr_assert(m->session == 0 || m->session == SESSION);
    cr_assert(id_is_zero(&m->peer) || id_equal(&m->peer, &peer));
    cr_assert(m->rate == 0 || m->rate == 1250000);
    cr_assert(m->volume == 0 || m->volume == UINT64_C(4) << 30);
    cr_assert(m->seen.family == NET_FAMILY_NONE || net_addr_equal(&m->seen, &seen));
    cr_assert_eq(m->has_nonce, memcmp(m->nonce, nonce, sizeof nonce) == 0);
    for (size_t i = 0; i < m->session_count; i++)
        cr_assert_eq(m->sessions[i], SESSION);
}

Test(relay_wire, examples_of_the_page)
{
    for (size_t i = 0; i < MESSAGES; i++) {
        struct net_message in = example(messages[i].name, messages[i].kind), out;
        struct nat_relay_message m;
        cr_assert_eq(nat_relay_decode(&in, &m), ERR_OK, "%s", messages[i].name);
        cr_assert_eq(m.request, messages[i].request);
        check_fields(&m);
        nat_relay_encode(&m, &out);
        cr_assert_eq(out.kind, in.kind);
        cr_assert_eq(out.body_len, in.body_len, "%s", messages[i].name);
        cr_assert_arr_eq(out.body, in.body, in.body_len);
    }
    cr_assert_eq(page_examples(PAGE), MESSAGES + 2, "the frame and the record have tests of their own");
}

Test(relay_wire, truncations_and_trailing_bytes_are_refused)
{
    for (size_t i = 0; i < MESSAGES; i++) {
        struct net_message whole = example(messages[i].name, messages[i].kind);
        struct nat_relay_message m;
        for (size_t len = 0; len < whole.body_len; len++) {
            struct net_message cut = whole;
            cut.body_len = len;
            cr_assert_eq(nat_relay_decode(&cut, &m), ERR_MALFORMED, "%s cut at %zu", messages[i].name, len);
        }
        whole.body[whole.body_len++] = 0;
        cr_assert_eq(nat_relay_decode(&whole, &m), ERR_MALFORMED);
    }
}

/* Each field that a kind needs is needed: a body without it is refused. */
Test(relay_wire, missing_fields_are_refused)
{
    struct net_message message = {.kind = NAT_RELAY_RESERVE};
    struct nat_relay_message m;
    for (uint8_t kind = NAT_RELAY_RESERVE; kind < NAT_RELAY_KIND_END; kind++) {
        struct pack_writer w = pack_writer_of(message.body, sizeof message.body);
        pack_map(&w, 0);
        message.kind = kind;
        message.body_len = pack_writer_len(&w);
        cr_assert_eq(nat_relay_decode(&message, &m), ERR_MALFORMED);
    }
    message.kind = NAT_RELAY_KIND_END;
    cr_assert_eq(nat_relay_decode(&message, &m), ERR_UNSUPPORTED);
    message.kind = NET_KIND_RELAY_LAST;
    cr_assert_eq(nat_relay_decode(&message, &m), ERR_UNSUPPORTED);
}

static int decode_keep(struct pack_writer *w, struct net_message *message)
{
    struct nat_relay_message m;
    message->kind = NAT_RELAY_KEEP;
    message->body_len = pack_writer_len(w);
    cr_assert_gt(message->body_len, 0);
    return nat_relay_decode(message, &m);
}

/* A body {1: request, key: bin of len zeros but ones at the end of each seventh byte}. */
static int keep_with(uint64_t request, unsigned key, size_t len, uint8_t fill)
{
    struct net_message message = {.kind = 0};
    uint8_t list[512];
    memset(list, fill, sizeof list);
    struct pack_writer w = pack_writer_of(message.body, sizeof message.body);
    pack_map(&w, 2);
    pack_key_uint(&w, 1, request);
    pack_key_bin(&w, key, bytes_of(list, len));
    return decode_keep(&w, &message);
}

Test(relay_wire, limits_of_fields)
{
    cr_assert_eq(keep_with(1, 11, 0, 1), ERR_OK);
    cr_assert_eq(keep_with(1, 11, 7, 1), ERR_OK);
    cr_assert_eq(keep_with(1, 11, 32 * 7, 1), ERR_OK);
    cr_assert_eq(keep_with(1, 11, 33 * 7, 1), ERR_MALFORMED);
    cr_assert_eq(keep_with(1, 11, 8, 1), ERR_MALFORMED);
    cr_assert_eq(keep_with(1, 11, 7, 0), ERR_MALFORMED, "session 0 is none");
    cr_assert_eq(keep_with(1, 11, 7, 0xff), ERR_MALFORMED, "a session has 55 bits");
    cr_assert_eq(keep_with(0, 11, 7, 1), ERR_MALFORMED, "request 0 is none");
    cr_assert_eq(keep_with(UINT64_C(1) << 32, 11, 7, 1), ERR_MALFORMED);
    cr_assert_eq(keep_with(1, 6, 8, 1), ERR_OK);
    cr_assert_eq(keep_with(1, 6, 7, 1), ERR_MALFORMED);
    cr_assert_eq(keep_with(1, 10, 6, 1), ERR_OK);
    cr_assert_eq(keep_with(1, 10, 7, 1), ERR_MALFORMED);
    cr_assert_eq(keep_with(1, 25, 100, 1), ERR_OK, "unknown keys are skipped");
}

/* The largest message of each kind fits a datagram, and comes back. */
Test(relay_wire, largest_messages_round_trip)
{
    struct nat_relay_message m = {.request = UINT32_MAX,
                                  .session = (UINT64_C(1) << 55) - 1,
                                  .reason = UINT8_MAX,
                                  .release = true,
                                  .has_nonce = true,
                                  .lease_s = UINT32_MAX,
                                  .rate = UINT64_MAX,
                                  .volume = UINT64_MAX,
                                  .session_count = NAT_RELAY_KEEP_SESSIONS};
    memset(&m.peer, 0xff, sizeof m.peer);
    cr_assert_eq(net_addr_parse("[2001:db8::1]:65535", &m.seen), ERR_OK);
    for (size_t i = 0; i < NAT_RELAY_KEEP_SESSIONS; i++)
        m.sessions[i] = m.session - i;
    for (uint8_t kind = NAT_RELAY_RESERVE; kind < NAT_RELAY_KIND_END; kind++) {
        struct net_message wire, again;
        struct nat_relay_message out;
        m.kind = kind;
        nat_relay_encode(&m, &wire);
        cr_assert_eq(nat_relay_decode(&wire, &out), ERR_OK, "%02x", kind);
        nat_relay_encode(&out, &again);
        cr_assert_eq(again.body_len, wire.body_len);
        cr_assert_arr_eq(again.body, wire.body, wire.body_len);
    }
}

Test(relay_wire, heads_of_frames)
{
    uint8_t head[NAT_RELAY_HEADER + 1] = {0}, page[16];
    unsigned side;
    cr_assert_eq(page_example(PAGE, "frame", page, sizeof page), NAT_RELAY_HEADER);
    nat_relay_head_write(head, 1, SESSION);
    cr_assert_arr_eq(head, page, NAT_RELAY_HEADER);
    struct bytes frame = bytes_of(head, sizeof head);
    cr_assert(nat_relay_claims(frame));
    cr_assert_not(nat_relay_claims(bytes_of(head, NAT_RELAY_HEADER)), "an empty packet is none");
    cr_assert_eq(nat_relay_head_read(frame, &side), SESSION);
    cr_assert_eq(side, 1);
    for (unsigned first = 0; first < 256; first++) {
        head[0] = (uint8_t)first;
        cr_assert_eq(nat_relay_claims(frame), first == 0x20 || first == 0x21);
    }
    head[0] = 0x20;
    head[1] |= 0x80;
    cr_assert_not(nat_relay_claims(frame), "that is QUIC");
    struct rng_seeded stream;
    rng_seeded_init(&stream, 1);
    struct rng rng = rng_of_seeded(&stream);
    uint64_t all = 0;
    for (int i = 0; i < 1000; i++)
        all |= nat_relay_session_draw(&rng);
    cr_assert_eq(all, (UINT64_C(1) << 55) - 1);
}

Test(relay_wire, relays_in_a_record)
{
    uint8_t page[NAT_RELAY_EXTRA_MAX], out[NAT_RELAY_EXTRA_MAX];
    struct nat_relay_place places[NAT_RELAY_EXTRA_RELAYS];
    size_t len = page_example(PAGE, "extra", page, sizeof page);
    cr_assert_eq(nat_relay_extra_read(bytes_of(page, len), places), 2);
    cr_assert_eq(places[0].addr.family, NET_FAMILY_V4);
    cr_assert_eq(places[1].addr.family, NET_FAMILY_V6);
    cr_assert_eq(places[1].addr.port, 4242);
    cr_assert_eq(nat_relay_extra_write(places, 2, out), len);
    cr_assert_arr_eq(out, page, len);
    for (size_t cut = 1; cut < len; cut++) {
        int n = nat_relay_extra_read(bytes_of(page, cut), places);
        cr_assert_eq(n, cut == 1 + 32 + 1 + 6 ? 1 : ERR_MALFORMED, "cut at %zu", cut);
    }
    cr_assert_eq(nat_relay_extra_read(bytes_of(page, 0), places), 0);
    page[0] = 2;
    cr_assert_eq(nat_relay_extra_read(bytes_of(page, len), places), 0, "of a later version");
    page[0] = 0;
    cr_assert_eq(nat_relay_extra_read(bytes_of(page, len), places), ERR_MALFORMED);
    page[0] = 1;
    memset(page + 34, 0, 4);
    cr_assert_eq(nat_relay_extra_read(bytes_of(page, len), places), ERR_MALFORMED, "0.0.0.0 is nobody's");
    cr_assert_eq(nat_relay_extra_write(places, 0, out), 0);
    struct nat_relay_place six[2] = {places[1], places[1]};
    cr_assert_leq(nat_relay_extra_write(six, 2, out), NAT_RELAY_EXTRA_MAX);
    cr_assert_str_eq(nat_relay_reason_text(NAT_RELAY_BY_QUOTA), "the volume of the period is used up");
    cr_assert_str_eq(nat_relay_reason_text(200), "no reason given");
}
