#include "nat/reach_wire.h"

#include <assert.h>
#include <string.h>

#include "base/pack.h"
#include "net/seal.h"

enum {
    KEY_NONCE = 1,
    KEY_ADDR = 2,
    KEY_ALTERNATE = 3,
    KEY_ASKER = 4,
    KEY_CODE = 5,
    KEY_TRIED_PORT = 6,
    KEY_FORWARDED = 7,
    KEY_PADDING = 15,
    BODY_TOKENS = 32,
    /* Sealed size less body: net/seal.h's head, prefix and tag. */
    SEALED = NET_SEAL_HEAD + NET_SEAL_PREFIX + NET_SEAL_TAG,
    PROBES_PER_DIALBACK = 6, /* two of the sender's and two each of two helpers */
    PROBES_PER_FORWARD = 2,
    OBSERVED_BODY_MAX = 1 + 10 + 21 + 4,
    ANSWER_BODY_MAX = 1 + 10 + 2 + 2 + 2 + REACH_FORWARDS_MAX * (2 + NET_ADDR_WIRE_MAX),
};

static_assert(SEALED + REACH_OBSERVE_BODY >= SEALED + OBSERVED_BODY_MAX, "no amplification by OBSERVE");
static_assert(REACH_DIALBACK_BODY >= ANSWER_BODY_MAX + PROBES_PER_DIALBACK * NET_SEAL_MIN, "nor by DIALBACK");
static_assert(SEALED + REACH_FORWARD_BODY >= PROBES_PER_FORWARD * NET_SEAL_MIN, "nor by FORWARD");

/* Keys that a kind must have, as bits. */
static uint32_t needed_of(uint8_t kind)
{
    const uint32_t nonce = 1u << KEY_NONCE;
    const uint32_t addr = 1u << KEY_ADDR;
    switch ((enum reach_kind)kind) {
    case REACH_OBSERVE:
    case REACH_DIALBACK_PROBE:
        return nonce;
    case REACH_OBSERVED:
    case REACH_DIALBACK:
        return nonce | addr;
    case REACH_FORWARD:
        return nonce | addr | 1u << KEY_ASKER;
    case REACH_DIALBACK_ANSWER:
        return nonce | 1u << KEY_CODE;
    }
    return 0;
}

static size_t body_min(uint8_t kind)
{
    switch (kind) {
    case REACH_OBSERVE:
        return REACH_OBSERVE_BODY;
    case REACH_DIALBACK:
        return REACH_DIALBACK_BODY;
    case REACH_FORWARD:
        return REACH_FORWARD_BODY;
    default:
        return 0;
    }
}

/* Fills the body up to its least size; the head of a bin takes 2 or 3 bytes, so it may end one above. */
static void pad(struct pack_writer *w, size_t len)
{
    static const uint8_t zero[REACH_DIALBACK_BODY] = {0};
    size_t head = 1 + 2;
    size_t missing = len > w->len + head ? len - w->len - head : 0;
    pack_key_bin(w, KEY_PADDING, bytes_of(zero, missing));
}

static void write_forwarded(struct pack_writer *w, const struct reach_body *body)
{
    uint8_t wire[NET_ADDR_WIRE_MAX];
    ASSERT(body->forwarded_count <= REACH_FORWARDS_MAX);
    pack_uint(w, KEY_FORWARDED);
    pack_array(w, body->forwarded_count);
    for (size_t i = 0; i < body->forwarded_count; i++)
        pack_bin(w, bytes_of(wire, net_addr_encode(&body->forwarded[i], wire)));
}

static void read_forwarded(struct pack_reader *r, struct reach_body *body)
{
    body->forwarded_count = pack_read_array(r, REACH_FORWARDS_MAX);
    for (size_t i = 0; i < body->forwarded_count; i++) {
        struct bytes wire = pack_read_bin(r, NET_ADDR_WIRE_MAX);
        if (!r->failed && net_addr_decode(wire, &body->forwarded[i]) != ERR_OK)
            r->failed = true;
    }
}

void reach_write(struct net_message *out, uint8_t kind, const struct reach_body *body)
{
    uint8_t wire[NET_ADDR_WIRE_MAX];
    uint32_t keys = needed_of(kind);
    bool has_alternate = kind == REACH_OBSERVED && body->alternate != 0;
    bool is_answer = kind == REACH_DIALBACK_ANSWER;
    struct pack_writer w = pack_writer_of(out->body, sizeof out->body);
    ASSERT(keys != 0);
    pack_map(&w,
             (size_t)__builtin_popcount(keys) + has_alternate + 2 * (size_t)is_answer + (body_min(kind) > 0));
    pack_key_uint(&w, KEY_NONCE, body->nonce);
    if (keys & 1u << KEY_ADDR)
        pack_key_bin(&w, KEY_ADDR, bytes_of(wire, net_addr_encode(&body->addr, wire)));
    if (has_alternate)
        pack_key_uint(&w, KEY_ALTERNATE, body->alternate);
    if (keys & 1u << KEY_ASKER)
        pack_key_id(&w, KEY_ASKER, &body->asker);
    if (is_answer) {
        pack_key_uint(&w, KEY_CODE, body->code);
        pack_key_bool(&w, KEY_TRIED_PORT, body->tried_port);
        write_forwarded(&w, body);
    }
    if (body_min(kind) > 0)
        pad(&w, body_min(kind));
    out->kind = kind;
    out->body_len = pack_writer_len(&w);
    ASSERT(out->body_len > 0 && out->body_len >= body_min(kind));
}

static void read_field(struct pack_reader *r, unsigned key, struct reach_body *body, struct bytes *addr)
{
    switch (key) {
    case KEY_NONCE:
        body->nonce = pack_read_uint(r, UINT64_MAX);
        break;
    case KEY_ADDR:
        *addr = pack_read_bin(r, NET_ADDR_WIRE_MAX);
        break;
    case KEY_ALTERNATE:
        body->alternate = (uint16_t)pack_read_uint(r, UINT16_MAX);
        break;
    case KEY_ASKER:
        pack_read_id(r, &body->asker);
        break;
    case KEY_CODE:
        body->code = (uint8_t)pack_read_uint(r, UINT8_MAX);
        break;
    case KEY_TRIED_PORT:
        body->tried_port = pack_read_bool(r);
        break;
    case KEY_FORWARDED:
        read_forwarded(r, body);
        break;
    default:
        pack_skip(r);
    }
}

int reach_read(const struct net_message *message, struct reach_body *body)
{
    struct pack_token tokens[BODY_TOKENS];
    struct pack_reader r = pack_parse(bytes_of(message->body, message->body_len), tokens, BODY_TOKENS);
    struct bytes addr = {NULL, 0};
    uint32_t needed = needed_of(message->kind);
    uint32_t seen = 0;
    ASSERT(needed != 0);
    memset(body, 0, sizeof *body);
    for (size_t left = pack_read_map(&r, BODY_TOKENS / 2); left > 0; left--)
        read_field(&r, pack_read_key(&r, &seen), body, &addr);
    if (!pack_done(&r) || (seen & needed) != needed || message->body_len < body_min(message->kind))
        return ERR_MALFORMED;
    return (needed & 1u << KEY_ADDR) != 0 ? net_addr_decode(addr, &body->addr) : ERR_OK;
}
