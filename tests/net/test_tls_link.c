/* A link carries every datagram whole, in order and to the right peer, however TCP cuts the bytes; it opens
 * for nobody else; and a hostile other end costs a bounded number of bytes and ends with a named reason. */
#include <errno.h>
#include <gnutls/gnutls.h>

#include "net/tls_frame.h"
#include "support/page.h"
#include "support/support.h"
#include "tls_pair.h"

#define PAGE TEST_SOURCE_DIR "/../../docs/protocol/tcp.md"

static bool is_open(const struct tls_pair *pair)
{
    return tls_link_state(pair->client.link) == TLS_LINK_OPEN &&
           tls_link_state(pair->server.link) == TLS_LINK_OPEN;
}

static void open_pair(struct tls_pair *pair)
{
    tls_pair_open(pair, NULL);
    tls_pair_pump(pair, SIZE_MAX);
    cr_assert(is_open(pair));
}

/* --- datagrams whose content follows from their number ------------------------------------------------ */

struct sequence {
    struct rng_seeded stream;
    size_t seen;
};

static size_t numbered(struct rng_seeded *stream, size_t number, uint8_t out[TLS_LINK_DATAGRAM_MAX])
{
    struct rng rng = rng_of_seeded(stream);
    size_t len = 4 + (size_t)rng_below(&rng, TLS_LINK_DATAGRAM_MAX - 3);
    memset(out, (int)(number % 251), len);
    out[0] = (uint8_t)(number >> 24);
    out[1] = (uint8_t)(number >> 16);
    out[2] = (uint8_t)(number >> 8);
    out[3] = (uint8_t)number;
    return len;
}

static void check_next(void *user, struct bytes datagram)
{
    struct sequence *sequence = user;
    uint8_t wanted[TLS_LINK_DATAGRAM_MAX];
    size_t len = numbered(&sequence->stream, sequence->seen, wanted);
    cr_assert(bytes_equal(datagram, bytes_of(wanted, len)), "datagram %zu", sequence->seen);
    sequence->seen++;
}

static void expect_sequence(struct tls_pair_end *end, struct sequence *sequence, uint64_t seed)
{
    rng_seeded_init(&sequence->stream, seed);
    sequence->seen = 0;
    end->on_datagram = check_next;
    end->user = sequence;
}

/* --- that it works ------------------------------------------------------------------------------------ */

Test(tls_link, ids_are_proven_on_both_sides)
{
    struct tls_pair pair = {0};
    struct id peer;
    tls_pair_open(&pair, NULL);
    cr_assert(!tls_link_peer(pair.client.link, &peer) && !tls_link_peer(pair.server.link, &peer));
    tls_pair_pump(&pair, SIZE_MAX);
    cr_assert(is_open(&pair));
    cr_assert(tls_link_peer(pair.client.link, &peer) && id_equal(&peer, &pair.server.identity.id));
    cr_assert(tls_link_peer(pair.server.link, &peer) && id_equal(&peer, &pair.client.identity.id));
    tls_pair_close(&pair);
}

/* Every piece size up to 300 bytes, byte by byte among them, handshake and all; then random ones. */
Test(tls_link, any_fragmentation_of_the_bytes)
{
    for (size_t piece = 1; piece <= 300; piece += piece < 40 ? 1 : 13) {
        struct tls_pair pair = {0};
        struct sequence to_server, to_client;
        struct rng_seeded a, b;
        uint8_t datagram[TLS_LINK_DATAGRAM_MAX];
        tls_pair_open(&pair, NULL);
        expect_sequence(&pair.server, &to_server, piece);
        expect_sequence(&pair.client, &to_client, piece + 1000);
        rng_seeded_init(&a, piece);
        rng_seeded_init(&b, piece + 1000);
        tls_pair_pump(&pair, piece);
        cr_assert(is_open(&pair), "pieces of %zu", piece);
        for (size_t i = 0; i < 12; i++) {
            size_t len = numbered(&a, i, datagram);
            cr_assert_eq(tls_link_send(pair.client.link, pair.now_ns, bytes_of(datagram, len)), ERR_OK);
            len = numbered(&b, i, datagram);
            cr_assert_eq(tls_link_send(pair.server.link, pair.now_ns, bytes_of(datagram, len)), ERR_OK);
            if (i % 4 == 3)
                tls_pair_pump(&pair, piece);
        }
        cr_assert(to_server.seen == 12 && to_client.seen == 12, "pieces of %zu", piece);
        tls_pair_close(&pair);
    }
}

/* 100,000 of random lengths in pieces of random lengths, through a queue that is often full: what was
 * accepted comes, in order, and nothing else. */
Test(tls_link, a_hundred_thousand_datagrams)
{
    enum { COUNT = 100000 };
    struct tls_pair pair = {0};
    struct sequence sequence;
    struct rng_seeded sent, pieces;
    uint8_t datagram[TLS_LINK_DATAGRAM_MAX];
    rng_seeded_init(&pieces, 7);
    rng_seeded_init(&sent, 8);
    struct rng rng = rng_of_seeded(&pieces);
    open_pair(&pair);
    expect_sequence(&pair.server, &sequence, 8);
    size_t full = 0;
    for (size_t i = 0; i < COUNT; i++) {
        size_t len = numbered(&sent, i, datagram);
        while (tls_link_send(pair.client.link, pair.now_ns, bytes_of(datagram, len)) == ERR_AGAIN) {
            full++;
            for (int k = 0; k < 8; k++)
                (void)tls_pair_move(&pair, &pair.client, &pair.server, 1 + rng_below(&rng, 60000));
        }
        cr_assert_leq(tls_link_queued(pair.client.link), TLS_LINK_QUEUE_BYTES);
    }
    tls_pair_pump(&pair, SIZE_MAX);
    cr_assert_eq(sequence.seen, COUNT);
    cr_assert_gt(full, 100);
    struct tls_link_stats stats = tls_link_stats(pair.client.link);
    cr_assert_eq(stats.datagrams_sent, COUNT);
    cr_assert_eq(stats.dropped, full);
    cr_assert_lt(stats.records_sent * 8, stats.datagrams_sent, "datagrams share records");
    cr_assert_eq(tls_link_stats(pair.server.link).bytes_received, stats.bytes_sent);
    tls_pair_close(&pair);
}

/* Nobody reads: the queue fills to its cap and stays there, drops are counted, and after 30 s it is over. */
Test(tls_link, back_pressure_is_bounded)
{
    struct tls_pair pair = {0};
    uint8_t datagram[1200] = {1};
    size_t accepted = 0;
    open_pair(&pair);
    for (size_t i = 0; i < 10000; i++) {
        int result = tls_link_send(pair.client.link, pair.now_ns, bytes_of(datagram, sizeof datagram));
        cr_assert(result == ERR_OK || result == ERR_AGAIN);
        accepted += result == ERR_OK;
        cr_assert_leq(tls_link_output(pair.client.link, pair.now_ns).len, 2 * (16384 + 512));
        tls_link_check_invariants(pair.client.link);
    }
    cr_assert_leq(accepted * sizeof datagram, TLS_LINK_QUEUE_BYTES + 2 * 16384);
    cr_assert_eq(tls_link_stats(pair.client.link).dropped, 10000 - accepted);
    uint64_t due = tls_link_deadline_ns(pair.client.link);
    while (due < pair.now_ns + TLS_LINK_STALL_NS) {
        tls_link_tick(pair.client.link, due);
        cr_assert_eq(tls_link_state(pair.client.link), TLS_LINK_OPEN);
        cr_assert_gt(tls_link_deadline_ns(pair.client.link), due);
        due = tls_link_deadline_ns(pair.client.link);
    }
    tls_link_tick(pair.client.link, due);
    cr_assert_eq(tls_link_reason(pair.client.link), ERR_TIMEOUT);
    cr_assert_eq(tls_link_deadline_ns(pair.client.link), UINT64_MAX);
    tls_pair_close(&pair);
}

Test(tls_link, what_cannot_be_sent)
{
    struct tls_pair pair = {0};
    uint8_t datagram[TLS_LINK_DATAGRAM_MAX + 1] = {0};
    tls_pair_open(&pair, NULL);
    cr_assert_eq(tls_link_send(pair.client.link, pair.now_ns, bytes_of(datagram, 1)), ERR_STATE);
    tls_pair_pump(&pair, SIZE_MAX);
    cr_assert_eq(tls_link_send(pair.client.link, pair.now_ns, bytes_of(datagram, 0)), ERR_TOO_LARGE);
    cr_assert_eq(tls_link_send(pair.client.link, pair.now_ns, bytes_of(datagram, sizeof datagram)),
                 ERR_TOO_LARGE);
    cr_assert_eq(tls_link_send(pair.client.link, pair.now_ns, bytes_of(datagram, 1500)), ERR_OK);
    tls_pair_pump(&pair, SIZE_MAX);
    cr_assert_eq(pair.server.received, 1);
    tls_link_close(pair.client.link, ERR_CANCELLED);
    cr_assert_eq(tls_link_reason(pair.client.link), ERR_CANCELLED);
    tls_pair_pump(&pair, SIZE_MAX);
    cr_assert_eq(tls_link_reason(pair.server.link), ERR_CLOSED);
    cr_assert_eq(tls_link_send(pair.server.link, pair.now_ns, bytes_of(datagram, 1)), ERR_STATE);
    struct id peer;
    cr_assert(tls_link_peer(pair.server.link, &peer));
    tls_pair_close(&pair);
}

/* Pings keep an unused link for an hour; a silent peer is given up after a minute. */
Test(tls_link, pings_and_idle_ends)
{
    struct tls_pair pair = {0};
    open_pair(&pair);
    uint64_t began_ns = pair.now_ns;
    while (pair.now_ns < began_ns + 3600 * TLS_PAIR_SECOND) {
        uint64_t a = tls_link_deadline_ns(pair.client.link);
        uint64_t b = tls_link_deadline_ns(pair.server.link);
        pair.now_ns = a < b ? a : b;
        tls_link_tick(pair.client.link, pair.now_ns);
        tls_link_tick(pair.server.link, pair.now_ns);
        tls_pair_pump(&pair, SIZE_MAX);
        cr_assert(is_open(&pair));
    }
    cr_assert_leq(tls_link_stats(pair.client.link).records_sent, 3600 / 20 + 1);
    cr_assert_eq(tls_link_used_ns(pair.client.link), TLS_PAIR_SECOND, "pings are no use");
    began_ns = pair.now_ns;
    while (tls_link_state(pair.client.link) == TLS_LINK_OPEN) {
        pair.now_ns = tls_link_deadline_ns(pair.client.link);
        tls_link_tick(pair.client.link, pair.now_ns);
        struct bytes out = tls_link_output(pair.client.link, pair.now_ns);
        tls_link_written(pair.client.link, pair.now_ns, out.len);
    }
    cr_assert_eq(tls_link_reason(pair.client.link), ERR_TIMEOUT);
    cr_assert_leq(pair.now_ns - began_ns, TLS_LINK_IDLE_NS);
    tls_pair_close(&pair);
}

/* --- that it works for nobody else -------------------------------------------------------------------- */

static void expect_ends(struct tls_pair *pair, int client, int server)
{
    tls_pair_pump(pair, SIZE_MAX);
    cr_assert_eq(tls_link_reason(pair->client.link), client, "client: %s",
                 err_name(tls_link_reason(pair->client.link)));
    cr_assert_eq(tls_link_reason(pair->server.link), server, "server: %s",
                 err_name(tls_link_reason(pair->server.link)));
    tls_pair_close(pair);
}

Test(tls_link, another_id_than_dialled)
{
    struct tls_pair pair = {0};
    struct id other = {.bytes = {1, 2, 3}};
    tls_pair_open(&pair, &other);
    expect_ends(&pair, ERR_AUTH, ERR_AUTH);
}

Test(tls_link, an_accepter_may_expect_an_id_too)
{
    struct tls_pair pair = {0};
    struct id other = {.bytes = {1, 2, 3}};
    tls_pair_open(&pair, NULL);
    tls_link_destroy(pair.server.link);
    cr_assert_eq(tls_link_create(&pair.server.link, pair.server.keys, true, &other, pair.now_ns), ERR_OK);
    /* The dialler's TLS was complete before it was refused: it never called itself open. */
    expect_ends(&pair, ERR_AUTH, ERR_AUTH);
}

Test(tls_link, ourselves)
{
    struct tls_pair pair = {0};
    tls_pair_keys(&pair.client, 2, TLS_PAIR_NETWORK);
    tls_pair_open(&pair, NULL);
    expect_ends(&pair, ERR_AUTH, ERR_AUTH);
}

Test(tls_link, another_network)
{
    struct tls_pair pair = {0};
    tls_pair_keys(&pair.client, 1, TLS_PAIR_NETWORK + 1);
    tls_pair_open(&pair, NULL);
    expect_ends(&pair, ERR_NETWORK, ERR_NETWORK);
}

/* --- a TLS client of any kind against our accepter ---------------------------------------------------- */

struct stranger {
    gnutls_session_t session;
    gnutls_certificate_credentials_t credentials;
    struct bytes in;
    uint8_t out[65536];
    size_t out_len;
};

static ssize_t stranger_pull(gnutls_transport_ptr_t ptr, void *out, size_t cap)
{
    struct stranger *s = ptr;
    size_t len = s->in.len < cap ? s->in.len : cap;
    if (len == 0) {
        gnutls_transport_set_errno(s->session, EAGAIN);
        return -1;
    }
    memcpy(out, s->in.data, len);
    s->in = bytes_of(s->in.data + len, s->in.len - len);
    return (ssize_t)len;
}

static ssize_t stranger_push(gnutls_transport_ptr_t ptr, const void *data, size_t len)
{
    struct stranger *s = ptr;
    cr_assert_leq(len, sizeof s->out - s->out_len);
    memcpy(s->out + s->out_len, data, len);
    s->out_len += len;
    return (ssize_t)len;
}

static void stranger_open(struct stranger *s, const char *priority, const char *alpn,
                          const struct net_identity *identity)
{
    static const uint8_t spki[12] = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};
    static const uint8_t pkcs8[16] = {0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06,
                                      0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20};
    uint8_t public_der[44], secret_der[48];
    *s = (struct stranger){0};
    cr_assert_eq(gnutls_init(&s->session, GNUTLS_CLIENT | GNUTLS_ENABLE_RAWPK | GNUTLS_NONBLOCK), 0);
    cr_assert_eq(gnutls_certificate_allocate_credentials(&s->credentials), 0);
    if (identity != NULL) {
        memcpy(public_der, spki, sizeof spki);
        memcpy(public_der + sizeof spki, identity->id.bytes, ID_BYTES);
        memcpy(secret_der, pkcs8, sizeof pkcs8);
        memcpy(secret_der + sizeof pkcs8, identity->seed, NET_SEED_BYTES);
        gnutls_datum_t public_key = {public_der, sizeof public_der};
        gnutls_datum_t secret_key = {secret_der, sizeof secret_der};
        cr_assert_eq(gnutls_certificate_set_rawpk_key_mem(s->credentials, &public_key, &secret_key,
                                                          GNUTLS_X509_FMT_DER, NULL, 0, NULL, 0, 0),
                     0);
    }
    cr_assert_eq(gnutls_priority_set_direct(s->session, priority, NULL), 0);
    cr_assert_eq(gnutls_credentials_set(s->session, GNUTLS_CRD_CERTIFICATE, s->credentials), 0);
    gnutls_datum_t protocol = {(uint8_t *)(uintptr_t)alpn, (unsigned)strlen(alpn)};
    if (protocol.size > 0)
        cr_assert_eq(gnutls_alpn_set_protocols(s->session, &protocol, 1, 0), 0);
    gnutls_transport_set_ptr(s->session, s);
    gnutls_transport_set_pull_function(s->session, stranger_pull);
    gnutls_transport_set_push_function(s->session, stranger_push);
}

static void stranger_close(struct stranger *s)
{
    gnutls_deinit(s->session);
    gnutls_certificate_free_credentials(s->credentials);
}

/* What the stranger has written goes to the link, what the link writes to the stranger, until both rest. */
static int stranger_talk(struct stranger *s, struct tls_pair *pair)
{
    int code = gnutls_handshake(s->session);
    for (int round = 0; round < 20; round++) {
        (void)tls_pair_feed(&pair->server, pair->now_ns, bytes_of(s->out, s->out_len));
        s->out_len = 0;
        s->in = tls_link_output(pair->server.link, pair->now_ns);
        size_t len = s->in.len;
        if (len > 0 && code != 0)
            code = gnutls_handshake(s->session);
        tls_link_written(pair->server.link, pair->now_ns, len - s->in.len);
        if (code != GNUTLS_E_AGAIN && s->out_len == 0)
            return code;
    }
    return code;
}

static const char ours[] =
    "NONE:+VERS-TLS1.3:+AES-128-GCM:+AEAD:+GROUP-X25519:+SIGN-EDDSA-ED25519:+COMP-NULL:"
    "+CTYPE-CLI-RAWPK:+CTYPE-SRV-RAWPK";
static const char our_alpn[] = "dunlin-tcp/1/0badcafe";

static int accept_from(const char *priority, const char *alpn, const struct net_identity *identity)
{
    struct tls_pair pair = {0};
    struct stranger s;
    tls_pair_open(&pair, NULL);
    stranger_open(&s, priority, alpn, identity);
    (void)stranger_talk(&s, &pair);
    int reason = tls_link_reason(pair.server.link);
    cr_assert((tls_link_state(pair.server.link) == TLS_LINK_OPEN) == (reason == ERR_OK));
    stranger_close(&s);
    tls_pair_close(&pair);
    return reason;
}

/* The first line shows that the stranger is refused for the one thing that differs in each other line. */
Test(tls_link, strangers)
{
    struct net_identity identity;
    uint8_t seed[NET_SEED_BYTES] = {9};
    cr_assert_geq(sodium_init(), 0);
    net_identity_init(&identity, seed);
    cr_assert_eq(accept_from(ours, our_alpn, &identity), ERR_OK);
    cr_assert_eq(accept_from(ours, our_alpn, NULL), ERR_AUTH);
    cr_assert_eq(accept_from(ours, "dunlin-tcp/1/0badcaff", &identity), ERR_NETWORK);
    cr_assert_eq(accept_from(ours, "h2", &identity), ERR_NETWORK);
    cr_assert_lt(accept_from(ours, "", &identity), 0);
    cr_assert_eq(accept_from("NORMAL", our_alpn, NULL), ERR_MALFORMED);
    cr_assert_eq(accept_from("NORMAL:-VERS-ALL:+VERS-TLS1.2", our_alpn, NULL), ERR_MALFORMED);
    struct net_identity liar = identity;
    liar.id.bytes[0] ^= 1; /* shows a key whose secret it does not have */
    cr_assert_eq(accept_from(ours, our_alpn, &liar), ERR_AUTH);
}

static void open_stranger(struct stranger *s, struct tls_pair *pair)
{
    struct net_identity identity;
    uint8_t seed[NET_SEED_BYTES] = {9};
    tls_pair_open(pair, NULL);
    net_identity_init(&identity, seed);
    stranger_open(s, ours, our_alpn, &identity);
    cr_assert_eq(stranger_talk(s, pair), 0);
    cr_assert_eq(tls_link_state(pair->server.link), TLS_LINK_OPEN);
}

/* Eight at once are granted, one more a minute; the next ends the link, and GnuTLS's own limit (eight a
 * second of the real clock) gives the same name. */
Test(tls_link, key_update_floods)
{
    struct tls_pair pair = {0};
    struct stranger s;
    open_stranger(&s, &pair);
    int updates = 0;
    while (tls_link_state(pair.server.link) == TLS_LINK_OPEN && updates < 100) {
        cr_assert_eq(gnutls_session_key_update(s.session, 0), 0);
        (void)tls_pair_feed(&pair.server, pair.now_ns, bytes_of(s.out, s.out_len));
        s.out_len = 0;
        updates++;
    }
    cr_assert_eq(tls_link_reason(pair.server.link), ERR_RATE);
    cr_assert_eq(updates, TLS_LINK_CHORES_BURST + 1);
    stranger_close(&s);
    tls_pair_close(&pair);
}

Test(tls_link, a_key_update_now_and_then_is_fine)
{
    struct tls_pair pair = {0};
    struct stranger s;
    open_stranger(&s, &pair);
    static const uint8_t frame[5] = {0, 3, 'a', 'b', 'c'};
    for (int i = 0; i < 4; i++) {
        cr_assert_eq(gnutls_session_key_update(s.session, i % 2 == 0 ? GNUTLS_KU_PEER : 0), 0);
        cr_assert_eq(gnutls_record_send(s.session, frame, sizeof frame), sizeof frame);
        (void)tls_pair_feed(&pair.server, pair.now_ns, bytes_of(s.out, s.out_len));
        s.out_len = 0;
        cr_assert_eq(tls_link_send(pair.server.link, pair.now_ns, bytes_of("xyz", 3)), ERR_OK, "%d: %s", i,
                     err_name(tls_link_reason(pair.server.link)));
        s.in = tls_link_output(pair.server.link, pair.now_ns);
        size_t len = s.in.len;
        uint8_t got[16];
        size_t total = 0;
        for (ssize_t count = 1; count > 0 || s.in.len > 0;) {
            count = gnutls_record_recv(s.session, got, sizeof got); /* AGAIN after each key update too */
            cr_assert(count > 0 || count == GNUTLS_E_AGAIN);
            total += count > 0 ? (size_t)count : 0;
        }
        cr_assert_eq(total, 2 + 5); /* a ping and the frame */
        tls_link_written(pair.server.link, pair.now_ns, len);
        pair.now_ns += TLS_LINK_CHORE_NS / 2;
        tls_link_tick(pair.server.link, pair.now_ns);
    }
    cr_assert_eq(pair.server.received, 4);
    stranger_close(&s);
    tls_pair_close(&pair);
}

/* Frames of 1501 and 65535 bytes end the link at their head; what stood before them counts. */
Test(tls_link, oversize_frames)
{
    static const uint8_t heads[2][2] = {{0x05, 0xdd}, {0xff, 0xff}};
    for (int i = 0; i < 2; i++) {
        struct tls_pair pair = {0};
        struct stranger s;
        open_stranger(&s, &pair);
        uint8_t frames[6] = {0, 1, 'x', heads[i][0], heads[i][1], 'y'};
        cr_assert_eq(gnutls_record_send(s.session, frames, sizeof frames), sizeof frames);
        (void)tls_pair_feed(&pair.server, pair.now_ns, bytes_of(s.out, s.out_len));
        cr_assert_eq(pair.server.received, 1);
        cr_assert_eq(tls_link_reason(pair.server.link), ERR_TOO_LARGE);
        stranger_close(&s);
        tls_pair_close(&pair);
    }
}

/* --- bytes that are no TLS, or too slow --------------------------------------------------------------- */

/* Whatever comes, the accepter takes a bounded number of bytes before it gives up, and says at most an alert.
 */
Test(tls_link, garbage)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 11);
    struct rng rng = rng_of_seeded(&stream);
    for (int i = 0; i < 500; i++) {
        struct tls_pair pair = {0};
        uint8_t junk[2048];
        tls_pair_open(&pair, NULL);
        rng_fill(&rng, junk, sizeof junk);
        if (i % 2 == 0)
            memcpy(junk, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11); /* a hello's beginning */
        for (int k = 0; k < 20 && tls_link_state(pair.server.link) != TLS_LINK_CLOSED; k++)
            (void)tls_pair_feed(&pair.server, pair.now_ns, bytes_of(junk, sizeof junk));
        cr_assert_lt(tls_link_reason(pair.server.link), 0);
        cr_assert_leq(tls_link_output(pair.server.link, pair.now_ns).len, 64);
        tls_pair_close(&pair);
    }
}

/* Records that each carry one byte of a hello that never ends. */
Test(tls_link, endless_handshakes)
{
    static const uint8_t head[9] = {22, 3, 1, 0, 4, 1, 0, 15, 255};
    static const uint8_t more[6] = {22, 3, 1, 0, 1, 0};
    struct tls_pair pair = {0};
    tls_pair_open(&pair, NULL);
    (void)tls_pair_feed(&pair.server, pair.now_ns, bytes_of(head, sizeof head));
    size_t bytes = sizeof head;
    while (tls_link_state(pair.server.link) == TLS_LINK_HANDSHAKE && bytes < 2 * TLS_LINK_HANDSHAKE_MAX) {
        (void)tls_pair_feed(&pair.server, pair.now_ns, bytes_of(more, sizeof more));
        bytes += sizeof more;
    }
    cr_assert_eq(tls_link_state(pair.server.link), TLS_LINK_CLOSED);
    cr_assert_leq(bytes, TLS_LINK_HANDSHAKE_MAX + sizeof more);
    tls_pair_close(&pair);
}

/* One byte a second never restarts the clock. */
Test(tls_link, dribbled_handshakes)
{
    struct tls_pair pair = {0};
    tls_pair_open(&pair, NULL);
    struct bytes hello = tls_link_output(pair.client.link, pair.now_ns);
    cr_assert_gt(hello.len, 100);
    for (size_t i = 0; i < 11; i++) {
        tls_link_tick(pair.server.link, pair.now_ns);
        (void)tls_pair_feed(&pair.server, pair.now_ns, bytes_of(hello.data + i, 1));
        pair.now_ns += TLS_PAIR_SECOND;
    }
    tls_link_tick(pair.server.link, pair.now_ns);
    cr_assert_eq(tls_link_reason(pair.server.link), ERR_TIMEOUT);
    tls_pair_close(&pair);
}

/* A changed byte anywhere in a record ends the link, and no datagram of that record comes out. */
Test(tls_link, changed_records)
{
    for (size_t at = 0; at < 60; at++) {
        struct tls_pair pair = {0};
        uint8_t wire[256];
        uint8_t datagram[40] = {7};
        open_pair(&pair);
        cr_assert_eq(tls_link_send(pair.client.link, pair.now_ns, bytes_of(datagram, sizeof datagram)),
                     ERR_OK);
        struct bytes out = tls_link_output(pair.client.link, pair.now_ns);
        cr_assert(out.len > 60 && out.len <= sizeof wire);
        memcpy(wire, out.data, out.len);
        wire[at] ^= 0x10;
        (void)tls_pair_feed(&pair.server, pair.now_ns, bytes_of(wire, out.len));
        cr_assert_eq(pair.server.received, 0);
        /* A longer length in the head only makes it wait; every other change is seen at once. */
        cr_assert(tls_link_state(pair.server.link) == TLS_LINK_CLOSED || at == 3 || at == 4, "byte %zu", at);
        tls_pair_close(&pair);
    }
}

/* --- memory ------------------------------------------------------------------------------------------- */

Test(tls_link, no_memory_is_an_error)
{
    struct tls_pair_end end;
    uint8_t seed[NET_SEED_BYTES] = {1};
    net_identity_init(&end.identity, seed);
    struct counting_allocator counter = {.fail_at = 1};
    struct allocator failing = counting_allocator_view(&counter);
    cr_assert_eq(tls_link_keys_create(&end.keys, &failing, &end.identity, 1), ERR_NO_MEMORY);
    counter = (struct counting_allocator){.fail_at = 2};
    cr_assert_eq(tls_link_keys_create(&end.keys, &failing, &end.identity, 1), ERR_OK);
    cr_assert_eq(tls_link_create(&end.link, end.keys, true, NULL, 0), ERR_NO_MEMORY);
    tls_link_keys_destroy(end.keys);
    cr_assert_eq(counter.live, 0);
}

/* --- the frame parser and queue against naive ones ---------------------------------------------------- */

Test(tls_link, the_frame_queue_keeps_order_and_bounds)
{
    enum { CAP = 4000, STEPS = 50000 };
    static uint8_t model[CAP];
    uint8_t ring[CAP];
    size_t len = 0;
    struct rng_seeded stream;
    rng_seeded_init(&stream, 3);
    struct rng rng = rng_of_seeded(&stream);
    struct tls_frame_queue q = tls_frame_queue_over(ring, CAP);
    size_t full = 0;
    for (int step = 0; step < STEPS; step++) {
        if (rng_below(&rng, 2) == 0) {
            uint8_t datagram[TLS_FRAME_DATAGRAM_MAX];
            size_t size = (size_t)rng_below(&rng, sizeof datagram + 1);
            rng_fill(&rng, datagram, size);
            int result = tls_frame_push(&q, bytes_of(datagram, size));
            cr_assert_eq(result, size + 2 <= CAP - len ? ERR_OK : ERR_AGAIN);
            full += result == ERR_AGAIN;
            if (result == ERR_AGAIN)
                continue;
            model[len] = (uint8_t)(size >> 8);
            model[len + 1] = (uint8_t)size;
            memcpy(model + len + 2, datagram, size);
            len += size + 2;
        } else {
            struct bytes span = tls_frame_span(&q, 1 + (size_t)rng_below(&rng, CAP));
            cr_assert_eq(span.len == 0, len == 0);
            cr_assert(span.len <= len && memcmp(span.data, model, span.len) == 0);
            size_t sent = span.len == 0 ? 0 : (size_t)rng_below(&rng, span.len + 1);
            tls_frame_sent(&q, sent);
            memmove(model, model + sent, len - sent);
            len -= sent;
        }
        cr_assert_eq(q.used, len);
    }
    cr_assert_gt(full, 1000);
}

/* The page's example, at every cut: what is whole comes out, and made again it is the same. */
Test(tls_link, the_page)
{
    static const char *const datagrams[] = {"", "dun", "lin!"};
    uint8_t example[64];
    uint8_t ring[64];
    size_t len = page_example(PAGE, "frames", example, sizeof example);
    cr_assert(len > 0 && page_examples(PAGE) == 1);
    for (size_t cut = 0; cut <= len; cut++) {
        uint8_t bytes[2048];
        struct tls_frame_reader reader = tls_frame_reader_over(bytes, sizeof bytes);
        size_t room;
        memcpy(tls_frame_room(&reader, &room), example, cut);
        tls_frame_filled(&reader, cut);
        size_t count = 0;
        while (tls_frame_waits(&reader) == 1)
            cr_assert(bytes_equal(tls_frame_take(&reader), bytes_of_text(datagrams[1 + count++])));
        cr_assert_eq(count, cut == len ? 2 : cut >= 7 ? 1 : 0);
    }
    struct tls_frame_queue q = tls_frame_queue_over(ring, sizeof ring);
    for (int i = 0; i < 3; i++)
        cr_assert_eq(tls_frame_push(&q, bytes_of_text(datagrams[i])), ERR_OK);
    cr_assert(bytes_equal(tls_frame_span(&q, sizeof ring), bytes_of(example, len)));
}
