#include "nat/relay_wire.h"

#include <assert.h>
#include <string.h>

#include "base/pack.h"

enum {
    FRAME_BYTE = 0x20, /* of byte 0, beside the side */
    KEY_REQUEST = 1,
    KEY_SESSION = 2,
    KEY_PEER = 3,
    KEY_REASON = 4,
    KEY_RELEASE = 5,
    KEY_NONCE = 6,
    KEY_LEASE = 7,
    KEY_RATE = 8,
    KEY_VOLUME = 9,
    KEY_SEEN = 10,
    KEY_SESSIONS = 11,
    BODY_TOKENS = 64,
};

#define SESSION_MAX   ((UINT64_C(1) << 55) - 1)
#define BIT(key)      (1u << (key))
#define TERMS         (BIT(KEY_LEASE) | BIT(KEY_RATE) | BIT(KEY_VOLUME))
#define SESSION_TERMS (BIT(KEY_SESSION) | BIT(KEY_PEER) | TERMS)

/* Keys that a kind must have and those that it may have besides. */
struct shape {
    uint32_t needed, optional;
};

static const struct shape shapes[NAT_RELAY_KIND_END - NAT_RELAY_RESERVE] = {
    [NAT_RELAY_RESERVE - NAT_RELAY_RESERVE] = {BIT(KEY_REQUEST), BIT(KEY_RELEASE) | BIT(KEY_NONCE)},
    [NAT_RELAY_RESERVED - NAT_RELAY_RESERVE] = {BIT(KEY_REQUEST) | TERMS, BIT(KEY_SEEN) | BIT(KEY_NONCE)},
    [NAT_RELAY_OPEN - NAT_RELAY_RESERVE] = {BIT(KEY_REQUEST) | BIT(KEY_PEER), BIT(KEY_NONCE)},
    [NAT_RELAY_OFFER - NAT_RELAY_RESERVE] = {SESSION_TERMS, 0},
    [NAT_RELAY_ACCEPT - NAT_RELAY_RESERVE] = {BIT(KEY_REQUEST) | BIT(KEY_SESSION), 0},
    [NAT_RELAY_DECLINE - NAT_RELAY_RESERVE] = {BIT(KEY_SESSION), 0},
    [NAT_RELAY_OPENED -
        NAT_RELAY_RESERVE] = {BIT(KEY_REQUEST) | SESSION_TERMS, BIT(KEY_NONCE) | BIT(KEY_SEEN)},
    [NAT_RELAY_REFUSED - NAT_RELAY_RESERVE] = {BIT(KEY_REQUEST) | BIT(KEY_REASON), BIT(KEY_NONCE)},
    [NAT_RELAY_CLOSE - NAT_RELAY_RESERVE] = {BIT(KEY_SESSION), BIT(KEY_REQUEST)},
    [NAT_RELAY_NOTICE - NAT_RELAY_RESERVE] = {BIT(KEY_SESSION) | BIT(KEY_REASON), BIT(KEY_REQUEST)},
    [NAT_RELAY_KEEP - NAT_RELAY_RESERVE] = {BIT(KEY_REQUEST), BIT(KEY_SESSIONS)},
    [NAT_RELAY_KEPT -
        NAT_RELAY_RESERVE] = {BIT(KEY_REQUEST) | TERMS, BIT(KEY_SEEN) | BIT(KEY_NONCE) | BIT(KEY_SESSIONS)},
    [NAT_RELAY_PROVE - NAT_RELAY_RESERVE] = {BIT(KEY_REQUEST) | BIT(KEY_NONCE), 0},
    [NAT_RELAY_PROVEN - NAT_RELAY_RESERVE] = {BIT(KEY_REQUEST), BIT(KEY_SEEN)},
};

static_assert(NAT_RELAY_KIND_END - 1 <= NET_KIND_RELAY_LAST, "kinds must stay in the folder's range");

const char *nat_relay_reason_text(unsigned reason)
{
    static const char *const texts[] = {
#define X(name, value, text) [value] = text,
        NAT_RELAY_REASONS(X)
#undef X
    };
    return reason < sizeof texts / sizeof texts[0] ? texts[reason] : texts[0];
}

/* ---- decoding ---- */

static void read_sessions(struct pack_reader *r, struct nat_relay_message *out)
{
    struct bytes list = pack_read_bin(r, NAT_RELAY_KEEP_SESSIONS * NAT_RELAY_SESSION_BYTES);
    if (list.len % NAT_RELAY_SESSION_BYTES != 0) {
        r->failed = true;
        return;
    }
    for (size_t at = 0; at < list.len; at += NAT_RELAY_SESSION_BYTES) {
        uint64_t session = 0;
        for (size_t i = 0; i < NAT_RELAY_SESSION_BYTES; i++)
            session = session << 8 | list.data[at + i];
        if (session == 0 || session > SESSION_MAX)
            r->failed = true;
        out->sessions[out->session_count++] = session;
    }
}

static void read_seen(struct pack_reader *r, struct nat_relay_message *out)
{
    if (net_addr_decode(pack_read_bin(r, NET_ADDR_WIRE_MAX), &out->seen) != ERR_OK)
        r->failed = true;
}

static void read_field(struct pack_reader *r, unsigned key, struct nat_relay_message *out)
{
    switch (key) {
    case KEY_REQUEST:
        out->request = (uint32_t)pack_read_uint(r, UINT32_MAX);
        break;
    case KEY_SESSION:
        out->session = pack_read_uint(r, SESSION_MAX);
        break;
    case KEY_PEER:
        pack_read_id(r, &out->peer);
        break;
    case KEY_REASON:
        out->reason = (uint8_t)pack_read_uint(r, UINT8_MAX);
        break;
    case KEY_RELEASE:
        out->release = pack_read_bool(r);
        break;
    case KEY_NONCE:
        out->has_nonce = true;
        pack_read_exact(r, out->nonce, sizeof out->nonce);
        break;
    case KEY_LEASE:
        out->lease_s = (uint32_t)pack_read_uint(r, UINT32_MAX);
        break;
    case KEY_RATE:
        out->rate = pack_read_uint(r, UINT64_MAX);
        break;
    case KEY_VOLUME:
        out->volume = pack_read_uint(r, UINT64_MAX);
        break;
    case KEY_SEEN:
        read_seen(r, out);
        break;
    case KEY_SESSIONS:
        read_sessions(r, out);
        break;
    default:
        pack_skip(r);
    }
}

int nat_relay_decode(const struct net_message *message, struct nat_relay_message *out)
{
    struct pack_token tokens[BODY_TOKENS];
    struct pack_reader r = pack_parse(bytes_of(message->body, message->body_len), tokens, BODY_TOKENS);
    uint32_t seen = 0;
    ASSERT(message->kind >= NET_KIND_RELAY_FIRST && message->kind <= NET_KIND_RELAY_LAST);
    if (message->kind >= NAT_RELAY_KIND_END)
        return ERR_UNSUPPORTED;
    memset(out, 0, sizeof *out);
    out->kind = message->kind;
    for (size_t left = pack_read_map(&r, BODY_TOKENS / 2); left > 0; left--)
        read_field(&r, pack_read_key(&r, &seen), out);
    uint32_t needed = shapes[message->kind - NAT_RELAY_RESERVE].needed;
    if (!pack_done(&r) || (seen & needed) != needed)
        return ERR_MALFORMED;
    if (((needed & BIT(KEY_REQUEST)) != 0 && out->request == 0) ||
        ((needed & BIT(KEY_SESSION)) != 0 && out->session == 0) ||
        ((needed & BIT(KEY_PEER)) != 0 && id_is_zero(&out->peer)))
        return ERR_MALFORMED;
    return ERR_OK;
}

/* ---- encoding ---- */

/* Optional fields that the message has. */
static uint32_t present(const struct nat_relay_message *m)
{
    return (m->request != 0 ? BIT(KEY_REQUEST) : 0) | (m->release ? BIT(KEY_RELEASE) : 0) |
           (m->has_nonce ? BIT(KEY_NONCE) : 0) | (m->seen.family != NET_FAMILY_NONE ? BIT(KEY_SEEN) : 0) |
           (m->session_count > 0 ? BIT(KEY_SESSIONS) : 0);
}

static void write_sessions(struct pack_writer *w, const struct nat_relay_message *m)
{
    uint8_t list[NAT_RELAY_KEEP_SESSIONS * NAT_RELAY_SESSION_BYTES];
    size_t len = 0;
    ASSERT(m->session_count <= NAT_RELAY_KEEP_SESSIONS);
    for (size_t i = 0; i < m->session_count; i++) {
        for (int shift = 48; shift >= 0; shift -= 8)
            list[len++] = (uint8_t)(m->sessions[i] >> shift);
    }
    pack_key_bin(w, KEY_SESSIONS, bytes_of(list, len));
}

static void write_seen(struct pack_writer *w, const struct nat_relay_message *m)
{
    uint8_t wire[NET_ADDR_WIRE_MAX];
    size_t len = net_addr_encode(&m->seen, wire);
    pack_key_bin(w, KEY_SEEN, bytes_of(wire, len));
}

static void write_field(struct pack_writer *w, unsigned key, const struct nat_relay_message *m)
{
    switch (key) {
    case KEY_REQUEST:
        pack_key_uint(w, key, m->request);
        break;
    case KEY_SESSION:
        pack_key_uint(w, key, m->session);
        break;
    case KEY_PEER:
        pack_key_id(w, key, &m->peer);
        break;
    case KEY_REASON:
        pack_key_uint(w, key, m->reason);
        break;
    case KEY_RELEASE:
        pack_key_bool(w, key, true);
        break;
    case KEY_NONCE:
        pack_key_bin(w, key, bytes_of(m->nonce, sizeof m->nonce));
        break;
    case KEY_LEASE:
        pack_key_uint(w, key, m->lease_s);
        break;
    case KEY_RATE:
        pack_key_uint(w, key, m->rate);
        break;
    case KEY_VOLUME:
        pack_key_uint(w, key, m->volume);
        break;
    case KEY_SEEN:
        write_seen(w, m);
        break;
    default:
        ASSERT(key == KEY_SESSIONS);
        write_sessions(w, m);
    }
}

void nat_relay_encode(const struct nat_relay_message *m, struct net_message *out)
{
    ASSERT(m->kind >= NAT_RELAY_RESERVE && m->kind < NAT_RELAY_KIND_END);
    const struct shape *shape = &shapes[m->kind - NAT_RELAY_RESERVE];
    uint32_t keys = shape->needed | (shape->optional & present(m));
    ASSERT((shape->needed & BIT(KEY_REQUEST)) == 0 || m->request != 0);
    ASSERT(m->session <= SESSION_MAX);
    struct pack_writer w = pack_writer_of(out->body, sizeof out->body);
    pack_map(&w, (size_t)__builtin_popcount(keys));
    for (unsigned key = KEY_REQUEST; key <= KEY_SESSIONS; key++) {
        if ((keys & BIT(key)) != 0)
            write_field(&w, key, m);
    }
    out->kind = m->kind;
    out->body_len = pack_writer_len(&w);
    ASSERT(out->body_len > 0);
}

/* ---- frames ---- */

bool nat_relay_claims(struct bytes datagram)
{
    return datagram.len > NAT_RELAY_HEADER && (datagram.data[0] & 0xfe) == FRAME_BYTE &&
           (datagram.data[1] & 0x80) == 0;
}

void nat_relay_head_write(uint8_t header[NAT_RELAY_HEADER], unsigned side, uint64_t session)
{
    ASSERT(side <= 1);
    ASSERT(session != 0 && session <= SESSION_MAX);
    header[0] = (uint8_t)(FRAME_BYTE | side);
    for (size_t i = 1; i < NAT_RELAY_HEADER; i++)
        header[i] = (uint8_t)(session >> (8 * (NAT_RELAY_HEADER - 1 - i)));
}

uint64_t nat_relay_head_read(struct bytes datagram, unsigned *side)
{
    ASSERT(nat_relay_claims(datagram));
    uint64_t session = 0;
    for (size_t i = 1; i < NAT_RELAY_HEADER; i++)
        session = session << 8 | datagram.data[i];
    *side = datagram.data[0] & 1;
    return session;
}

uint64_t nat_relay_session_draw(const struct rng *rng)
{
    uint64_t session = rng_u64(rng) & SESSION_MAX;
    return session == 0 ? 1 : session;
}

/* ---- the relays in a record ---- */

size_t nat_relay_extra_write(const struct nat_relay_place relays[], size_t count,
                             uint8_t out[NAT_RELAY_EXTRA_MAX])
{
    ASSERT(count <= NAT_RELAY_EXTRA_RELAYS);
    static_assert(1 + NAT_RELAY_EXTRA_RELAYS * (ID_BYTES + 1 + NET_ADDR_WIRE_MAX) <= NAT_RELAY_EXTRA_MAX,
                  "two relays must fit");
    if (count == 0)
        return 0;
    struct writer w = writer_of(out, NAT_RELAY_EXTRA_MAX);
    write_u8(&w, NAT_RELAY_EXTRA_VERSION);
    for (size_t i = 0; i < count; i++) {
        uint8_t wire[NET_ADDR_WIRE_MAX];
        size_t len = net_addr_encode(&relays[i].addr, wire);
        write_bytes(&w, relays[i].id.bytes, ID_BYTES);
        write_u8(&w, (uint8_t)len);
        write_bytes(&w, wire, len);
    }
    ASSERT(!w.failed);
    return writer_len(&w);
}

int nat_relay_extra_read(struct bytes extra, struct nat_relay_place out[NAT_RELAY_EXTRA_RELAYS])
{
    struct nat_relay_place read[NAT_RELAY_EXTRA_RELAYS];
    struct reader r = reader_of(extra);
    int count = 0;
    if (extra.len == 0 || extra.data[0] > NAT_RELAY_EXTRA_VERSION)
        return 0;
    if (read_u8(&r) != NAT_RELAY_EXTRA_VERSION)
        return ERR_MALFORMED;
    while (reader_left(&r) > 0) {
        if (count == NAT_RELAY_EXTRA_RELAYS)
            return ERR_MALFORMED;
        struct nat_relay_place *place = &read[count];
        read_into(&r, place->id.bytes, ID_BYTES);
        struct bytes wire = read_bytes(&r, read_u8(&r));
        if (r.failed || id_is_zero(&place->id) || net_addr_decode(wire, &place->addr) != ERR_OK ||
            net_addr_scope(&place->addr) == NET_SCOPE_INVALID)
            return ERR_MALFORMED;
        count++;
    }
    if (count == 0)
        return ERR_MALFORMED;
    memcpy(out, read, (size_t)count * sizeof read[0]);
    return count;
}
