/* What a hostile other end of a TCP link can send, three ways, by the first byte:
 *   0 mod 3  bytes inside TLS, in pieces of any size: the frame reader finds exactly the datagrams that a
 * naive parser finds, and the fault where that one finds it 1 mod 3  raw bytes to a dialler or an accepter
 * that waits for a handshake: never open, bounded output 2 mod 3  a program of small steps for two joined
 * links: datagrams, pieces, changed bytes, time.  What arrives is what was sent, in order, whatever happens;
 * nothing comes after a changed byte */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "net/tls_frame.h"
#include "net/tls_link.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { READER_CAP = 4096, STEPS_MAX = 200 };

#define CHECK(condition) ((condition) ? (void)0 : abort())

/* --- frames ------------------------------------------------------------------------------------------- */

/* The naive parser: the datagram at *at, an empty one when there is no whole one left, ERR_TOO_LARGE. */
static int naive(struct bytes in, size_t *at, struct bytes *datagram)
{
    *datagram = bytes_of(NULL, 0);
    while (in.len - *at >= 2) {
        size_t len = (size_t)(in.data[*at] * 256 + in.data[*at + 1]);
        if (len > 1500)
            return ERR_TOO_LARGE;
        if (in.len - *at - 2 < len)
            return ERR_OK;
        *datagram = bytes_of(in.data + *at + 2, len);
        *at += 2 + len;
        if (len > 0)
            return ERR_OK;
    }
    return ERR_OK;
}

static void frames(struct bytes in, size_t piece)
{
    uint8_t bytes[READER_CAP];
    struct tls_frame_reader reader = tls_frame_reader_over(bytes, sizeof bytes);
    struct bytes wanted;
    size_t at = 0;
    size_t fed = 0;
    for (;;) {
        int waits = tls_frame_waits(&reader);
        CHECK(reader.begin <= reader.end && reader.end <= reader.cap);
        if (waits == 1) {
            struct bytes got = tls_frame_take(&reader);
            CHECK(naive(bytes_of(in.data, fed), &at, &wanted) == ERR_OK && bytes_equal(got, wanted));
            continue;
        }
        int result = naive(bytes_of(in.data, fed), &at, &wanted);
        CHECK(wanted.len == 0 && result == waits);
        if (waits < 0 || fed == in.len)
            return;
        size_t room;
        uint8_t *to = tls_frame_room(&reader, &room);
        size_t len = in.len - fed < piece ? in.len - fed : piece;
        len = len < room ? len : room;
        CHECK(len > 0);
        memcpy(to, in.data + fed, len);
        tls_frame_filled(&reader, len);
        fed += len;
    }
}

/* --- links -------------------------------------------------------------------------------------------- */

struct end {
    struct net_identity identity;
    struct tls_link_keys *keys;
    struct tls_link *link;
    uint32_t sent, received; /* datagrams; each begins with its number */
    bool spoilt;             /* what it receives was changed on the way */
};

static struct end *ends(void)
{
    static struct end both[2];
    if (both[0].keys != NULL)
        return both;
    struct allocator allocator = allocator_system();
    CHECK(sodium_init() >= 0);
    for (uint8_t i = 0; i < 2; i++) {
        uint8_t seed[NET_SEED_BYTES] = {i};
        net_identity_init(&both[i].identity, seed);
        CHECK(tls_link_keys_create(&both[i].keys, &allocator, &both[i].identity, 7) == ERR_OK);
    }
    return both;
}

static void create(struct end *both, uint64_t now_ns)
{
    CHECK(tls_link_create(&both[0].link, both[0].keys, false, &both[1].identity.id, now_ns) == ERR_OK);
    CHECK(tls_link_create(&both[1].link, both[1].keys, true, NULL, now_ns) == ERR_OK);
    for (int i = 0; i < 2; i++) {
        both[i].sent = both[i].received = 0;
        both[i].spoilt = false;
    }
}

static void destroy(struct end *both)
{
    tls_link_destroy(both[0].link);
    tls_link_destroy(both[1].link);
}

static void feed(struct end *end, uint64_t now_ns, struct bytes in)
{
    int taken = 0;
    while (in.len > 0 && (taken = tls_link_feed(end->link, now_ns, in)) >= 0) {
        struct bytes datagram;
        size_t datagrams = 0;
        in = bytes_of(in.data + taken, in.len - (size_t)taken);
        while (tls_link_poll(end->link, &datagram)) {
            CHECK(datagram.len >= 4 && memcmp(datagram.data, &end->received, 4) == 0);
            end->received++;
            datagrams++;
        }
        CHECK(taken > 0 || datagrams > 0);
        tls_link_check_invariants(end->link);
    }
    CHECK((taken < 0) == (tls_link_state(end->link) == TLS_LINK_CLOSED) || taken == 0);
}

static void raw(struct bytes in, size_t piece, bool server)
{
    struct end *both = ends();
    create(both, 1);
    struct end *end = &both[server];
    for (size_t at = 0; at < in.len; at += piece)
        feed(end, 1, bytes_of(in.data + at, in.len - at < piece ? in.len - at : piece));
    CHECK(tls_link_state(end->link) != TLS_LINK_OPEN);
    CHECK(tls_link_output(end->link, 1).len <= 2048);
    tls_link_tick(end->link, 1 + TLS_LINK_HANDSHAKE_NS);
    CHECK(tls_link_state(end->link) == TLS_LINK_CLOSED);
    destroy(both);
}

static void move(struct end *from, struct end *to, uint64_t now_ns, size_t len, bool spoil)
{
    static uint8_t copy[65536];
    struct bytes out = tls_link_output(from->link, now_ns);
    len = out.len < len ? out.len : len;
    CHECK(len <= sizeof copy);
    if (len == 0)
        return;
    memcpy(copy, out.data, len);
    if (spoil)
        copy[len / 2] ^= 0x40;
    uint32_t before = to->received;
    bool open = tls_link_state(to->link) == TLS_LINK_OPEN;
    feed(to, now_ns, bytes_of(copy, len));
    CHECK(to == from || to->received <= from->sent);
    CHECK(!to->spoilt || to->received == before);
    to->spoilt |= spoil && open; /* in the handshake some bytes say nothing: versions in record heads */
    tls_link_written(from->link, now_ns, len);
    tls_link_check_invariants(from->link);
}

static void send(struct end *end, uint64_t now_ns, size_t len)
{
    uint8_t datagram[TLS_LINK_DATAGRAM_MAX] = {0};
    memcpy(datagram, &end->sent, 4);
    len = 4 + len % (sizeof datagram - 3);
    int result = tls_link_send(end->link, now_ns, bytes_of(datagram, len));
    CHECK(result == ERR_OK || result == ERR_AGAIN || result == ERR_STATE);
    end->sent += result == ERR_OK;
    CHECK(tls_link_queued(end->link) <= TLS_LINK_QUEUE_BYTES);
}

static void program(struct bytes in)
{
    struct end *both = ends();
    uint64_t now_ns = 1;
    create(both, now_ns);
    for (int i = 0; i < 8 && in.len % 8 != 0; i++) { /* mostly from an open link on */
        move(&both[0], &both[1], now_ns, SIZE_MAX, false);
        move(&both[1], &both[0], now_ns, SIZE_MAX, false);
    }
    for (size_t at = 0; at + 1 < in.len && at < 2 * STEPS_MAX; at += 2) {
        struct end *end = &both[in.data[at] & 1];
        struct end *other = &both[(in.data[at] & 1) ^ 1];
        size_t value = in.data[at + 1];
        switch (in.data[at] >> 1 & 7) {
        case 0:
        case 1:
            send(end, now_ns, value * 6);
            break;
        case 2:
            for (size_t i = 0; i < value * 4; i++)
                send(end, now_ns, 1496);
            break;
        case 3:
            move(end, other, now_ns, 1 + value, false);
            break;
        case 4:
            move(end, other, now_ns, 1 + value * 256, false);
            break;
        case 5:
            move(end, other, now_ns, 1 + value, value % 8 == 0);
            break;
        case 6:
            now_ns += value * UINT64_C(200000000);
            tls_link_tick(end->link, now_ns);
            tls_link_tick(other->link, now_ns);
            break;
        case 7:
            if (value == 255)
                tls_link_close(end->link, ERR_CANCELLED);
            else
                move(end, end, now_ns, SIZE_MAX, false); /* its own bytes come back */
            break;
        }
    }
    destroy(both);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct bytes rest = bytes_of(data + 2, size - 2);
    size_t piece = 1 + data[1];
    switch (data[0] % 3) {
    case 0:
        frames(rest, piece);
        break;
    case 1:
        raw(rest, piece * 8, data[0] >= 128);
        break;
    default:
        program(rest);
        break;
    }
    return 0;
}
