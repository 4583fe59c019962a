#include "nat/punch_wire.h"

#include <string.h>

#include "base/pack.h"

enum {
    KEY_ROUND = 1,
    KEY_ATTEMPT = 2,
    KEY_MAPPING = 3,
    KEY_FILTERING = 4,
    KEY_STEP = 5,
    KEY_TREND = 6,
    KEY_PUBLIC4 = 7,
    KEY_PUBLIC6 = 8,
    KEY_REACHABLE = 9,
    KEY_LIFE = 10, /* ms */
    KEY_CANDIDATES = 11,
    KEY_FRESH = 12,
    KEY_HELD = 13, /* ms */
    KEY_CODE = 14,
    KEY_SEQUENCE = 15,
    KEY_ADDR = 16,
    PAIRS_MAX = 24,
    BODY_TOKENS = 96,
    HELD_MAX_MS = 60000,
};

#define LIFE_MAX_MS UINT64_C(86400000)
static const uint64_t millisecond_ns = UINT64_C(1000000);

#define KEYS2(a, b)       (1u << (a) | 1u << (b))
#define KEYS4(a, b, c, d) (KEYS2(a, b) | KEYS2(c, d))
static const uint32_t side_keys = KEYS4(KEY_ROUND, KEY_ATTEMPT, KEY_MAPPING, KEY_CANDIDATES);

/* Keys that a message of the kind must have; 0: no such kind. */
static uint32_t needed_keys(uint8_t kind)
{
    switch (kind) {
    case PUNCH_KIND_INVITE:
    case PUNCH_KIND_ANSWER:
        return side_keys;
    case PUNCH_KIND_GO:
        return KEYS2(KEY_ROUND, KEY_ATTEMPT);
    case PUNCH_KIND_END:
        return KEYS2(KEY_ROUND, KEY_ATTEMPT) | 1u << KEY_CODE;
    case PUNCH_KIND_LOOK:
        return 1u << KEY_SEQUENCE;
    case PUNCH_KIND_LOOK_ANSWER:
        return KEYS2(KEY_SEQUENCE, KEY_ADDR);
    case PUNCH_KIND_PROBE:
    case PUNCH_KIND_PROBE_ANSWER:
        return KEYS2(KEY_ROUND, KEY_SEQUENCE);
    default:
        return 0;
    }
}

/* ---- encoding ---- */

static void put_addr(struct pack_writer *w, const struct net_addr *addr)
{
    uint8_t wire[NET_ADDR_WIRE_MAX];
    size_t len = net_addr_encode(addr, wire);
    pack_bin(w, bytes_of(wire, len));
}

static void put_side(struct pack_writer *w, const struct punch_message *m)
{
    const struct nat_punch_profile *p = &m->profile;
    bool answer = m->kind == PUNCH_KIND_ANSWER;
    bool sequential = p->mapping == NAT_PUNCH_SEQUENTIAL;
    bool v4 = p->public4.family == NET_FAMILY_V4;
    bool v6 = p->public6.family == NET_FAMILY_V6;
    pack_map(w, 8 + (sequential ? 2u : 0u) + v4 + v6);
    pack_key_uint(w, KEY_ROUND, m->round);
    pack_key_uint(w, KEY_ATTEMPT, m->attempt);
    pack_key_uint(w, KEY_MAPPING, p->mapping);
    pack_key_uint(w, KEY_FILTERING, p->filtering);
    if (sequential) {
        pack_uint(w, KEY_STEP);
        pack_int(w, p->step);
        pack_key_uint(w, KEY_TREND, p->trend_port);
    }
    if (v4)
        pack_key_bin(w, KEY_PUBLIC4, bytes_of(p->public4.ip, 4));
    if (v6)
        pack_key_bin(w, KEY_PUBLIC6, bytes_of(p->public6.ip, 16));
    pack_key_bool(w, KEY_REACHABLE, p->reachable);
    uint64_t life_ms = p->mapping_life_ns / millisecond_ns;
    pack_key_uint(w, KEY_LIFE, life_ms < LIFE_MAX_MS ? life_ms : LIFE_MAX_MS);
    pack_uint(w, KEY_CANDIDATES);
    pack_array(w, m->candidate_count);
    for (size_t i = 0; i < m->candidate_count; i++) {
        pack_array(w, 2);
        pack_uint(w, m->candidates[i].source);
        put_addr(w, &m->candidates[i].addr);
    }
    if (answer)
        pack_key_uint(w, KEY_HELD, m->held_ms < HELD_MAX_MS ? m->held_ms : HELD_MAX_MS);
    else
        pack_key_bool(w, KEY_FRESH, m->fresh);
}

static void put_short(struct pack_writer *w, const struct punch_message *m)
{
    uint32_t keys = needed_keys(m->kind);
    bool trend = m->kind == PUNCH_KIND_GO && m->trend_port != 0;
    pack_map(w, (size_t)__builtin_popcount(keys) + trend);
    if (keys & 1u << KEY_ROUND)
        pack_key_uint(w, KEY_ROUND, m->round);
    if (keys & 1u << KEY_ATTEMPT)
        pack_key_uint(w, KEY_ATTEMPT, m->attempt);
    if (trend)
        pack_key_uint(w, KEY_TREND, m->trend_port);
    if (keys & 1u << KEY_CODE)
        pack_key_uint(w, KEY_CODE, m->code);
    if (keys & 1u << KEY_SEQUENCE)
        pack_key_uint(w, KEY_SEQUENCE, m->sequence);
    if (keys & 1u << KEY_ADDR) {
        pack_uint(w, KEY_ADDR);
        put_addr(w, &m->addr);
    }
}

void punch_encode(const struct punch_message *m, struct net_message *out)
{
    struct pack_writer w = pack_writer_of(out->body, sizeof out->body);
    ASSERT(needed_keys(m->kind) != 0);
    if (needed_keys(m->kind) == side_keys)
        put_side(&w, m);
    else
        put_short(&w, m);
    out->kind = m->kind;
    out->body_len = pack_writer_len(&w);
    ASSERT(out->body_len > 0);
}

/* ---- decoding ---- */

/* A public address; its port says nothing, but an address without one would not count as a destination. */
static void take_ip(struct pack_reader *r, struct net_addr *out, uint8_t family, size_t len)
{
    *out = (struct net_addr){.family = family, .port = 1};
    pack_read_exact(r, out->ip, len);
}

static bool take_candidates(struct pack_reader *r, struct punch_message *m)
{
    bool good = true;
    m->candidate_count = pack_read_array(r, NAT_PUNCH_CANDIDATES_MAX);
    for (size_t i = 0; i < m->candidate_count; i++) {
        struct nat_punch_candidate *at = &m->candidates[i];
        if (pack_read_array(r, 2) != 2)
            return false;
        uint64_t source = pack_read_uint(r, UINT8_MAX);
        struct bytes wire = pack_read_bin(r, NET_ADDR_WIRE_MAX);
        if (r->failed)
            return false;
        good = good && source >= NAT_PUNCH_LAN && source <= NAT_PUNCH_FRESH;
        good = good && net_addr_decode(wire, &at->addr) == ERR_OK;
        at->source = (enum nat_punch_source)source;
    }
    return good;
}

static void take_profile(struct pack_reader *r, unsigned key, struct nat_punch_profile *p, bool *good)
{
    int64_t step;
    switch (key) {
    case KEY_MAPPING:
        p->mapping = (enum nat_punch_mapping)pack_read_uint(r, NAT_PUNCH_RANDOM);
        break;
    case KEY_FILTERING:
        p->filtering = (enum nat_punch_filtering)pack_read_uint(r, NAT_PUNCH_FILTER_PORT);
        break;
    case KEY_STEP:
        step = pack_read_int(r);
        *good = *good && step != 0 && step >= -NAT_PUNCH_STEP_MAX && step <= NAT_PUNCH_STEP_MAX;
        p->step = *good ? (int16_t)step : 0;
        break;
    case KEY_PUBLIC4:
        take_ip(r, &p->public4, NET_FAMILY_V4, 4);
        break;
    case KEY_PUBLIC6:
        take_ip(r, &p->public6, NET_FAMILY_V6, 16);
        break;
    case KEY_REACHABLE:
        p->reachable = pack_read_bool(r);
        break;
    default:
        p->mapping_life_ns = pack_read_uint(r, LIFE_MAX_MS) * millisecond_ns;
    }
}

static void take_field(struct pack_reader *r, unsigned key, struct punch_message *m, bool *good)
{
    struct bytes wire;
    switch (key) {
    case KEY_ROUND:
        m->round = pack_read_uint(r, UINT64_MAX);
        break;
    case KEY_ATTEMPT:
        m->attempt = (uint8_t)pack_read_uint(r, NAT_PUNCH_ATTEMPTS_MAX);
        *good = *good && m->attempt > 0;
        break;
    case KEY_TREND:
        m->trend_port = (uint16_t)pack_read_uint(r, UINT16_MAX);
        break;
    case KEY_CANDIDATES:
        *good = take_candidates(r, m) && *good;
        break;
    case KEY_FRESH:
        m->fresh = pack_read_bool(r);
        break;
    case KEY_HELD:
        m->held_ms = (uint32_t)pack_read_uint(r, HELD_MAX_MS);
        break;
    case KEY_CODE:
        m->code = (uint8_t)pack_read_uint(r, UINT8_MAX);
        break;
    case KEY_SEQUENCE:
        m->sequence = (uint32_t)pack_read_uint(r, UINT32_MAX);
        break;
    case KEY_ADDR:
        wire = pack_read_bin(r, NET_ADDR_WIRE_MAX);
        *good = *good && net_addr_decode(wire, &m->addr) == ERR_OK;
        break;
    default:
        pack_skip(r);
    }
}

static bool is_profile_key(unsigned key)
{
    return key == KEY_MAPPING || key == KEY_FILTERING || key == KEY_STEP || key == KEY_PUBLIC4 ||
           key == KEY_PUBLIC6 || key == KEY_REACHABLE || key == KEY_LIFE;
}

int punch_decode(const struct net_message *message, struct punch_message *out)
{
    struct pack_token tokens[BODY_TOKENS];
    struct pack_reader r = pack_parse(bytes_of(message->body, message->body_len), tokens, BODY_TOKENS);
    uint32_t needed = needed_keys(message->kind);
    uint32_t seen = 0;
    bool good = true;
    *out = (struct punch_message){.kind = message->kind};
    for (size_t left = pack_read_map(&r, PAIRS_MAX); left > 0 && !r.failed; left--) {
        unsigned key = pack_read_key(&r, &seen);
        if (is_profile_key(key))
            take_profile(&r, key, &out->profile, &good);
        else
            take_field(&r, key, out, &good);
    }
    if (needed == 0 || !pack_done(&r) || !good || (seen & needed) != needed)
        return ERR_MALFORMED;
    out->profile.trend_port = out->trend_port;
    bool sequential = out->profile.mapping == NAT_PUNCH_SEQUENTIAL;
    if (sequential != (out->profile.step != 0))
        return ERR_MALFORMED;
    return ERR_OK;
}
