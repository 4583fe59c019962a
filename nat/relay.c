#include "nat/relay.h"

#include <assert.h>
#include <sodium.h>
#include <string.h>

#include "base/alloc.h"
#include "nat/relay_internal.h"

static const uint64_t second_ns = UINT64_C(1000000000);

enum {
    NONCE_MINUTE_S = 60, /* a nonce is good for one to two of these */
    FORGET_GRACE_S = 10, /* an open session that its own node no longer names ends when it is older */
};

/* ---- life ---- */

struct nat_relay_config nat_relay_config_default(void)
{
    return (struct nat_relay_config){
        .reservations_max = 128,
        .sessions_max = 256,
        .sessions_per_client = 16,
        .reservations_per_group = 8,
        .openers_per_group = 16,
        .client_rate = 1250000,
        .client_burst = 65536,
        .client_volume = UINT64_C(4) << 30,
        .total_rate = 5000000,
        .period_ns = 86400 * second_ns,
        .lease_ns = 120 * second_ns,
        .silence_ns = 60 * second_ns,
    };
}

static bool within(uint64_t value, uint64_t least, uint64_t most)
{
    return value >= least && value <= most;
}

int nat_relay_config_check(const struct nat_relay_config *c, const char **why)
{
    *why = "self and rng must be set";
    if (id_is_zero(&c->self) || c->rng.fill == NULL)
        return ERR_INVALID;
    *why = "1 to 4096 reservations and 1 to 8192 sessions";
    if (!within(c->reservations_max, 1, NAT_RELAY_RESERVATIONS_MAX) ||
        !within(c->sessions_max, 1, NAT_RELAY_SESSIONS_MAX))
        return ERR_INVALID;
    *why = "sessions_per_client must be 1 to 32, the limits of groups at least 1";
    if (!within(c->sessions_per_client, 1, NAT_RELAY_KEEP_SESSIONS) || c->reservations_per_group == 0 ||
        c->openers_per_group == 0)
        return ERR_INVALID;
    *why = "rates of at most 2^40 bytes a second, a burst of at most 1 GiB";
    if (c->client_rate > SHAPER_RATE_MAX || c->total_rate > SHAPER_RATE_MAX || c->client_burst > 1 << 30)
        return ERR_INVALID;
    *why = "a period of 1 s to 31 days, a lease of 10 s to 1 h, a silence of 5 s to 1 h";
    if (!within(c->period_ns, second_ns, 31 * 86400 * second_ns) ||
        !within(c->lease_ns, 10 * second_ns, 3600 * second_ns) ||
        !within(c->silence_ns, 5 * second_ns, 3600 * second_ns))
        return ERR_INVALID;
    *why = NULL;
    return ERR_OK;
}

size_t nat_relay_size(const struct nat_relay_config *config)
{
    return sizeof(struct nat_relay) + relay_node_count(config) * sizeof(struct relay_node) +
           config->sessions_max * sizeof(struct relay_session) +
           2 * (size_t)relay_head_count(config) * sizeof(uint16_t);
}

static uint16_t *take_heads(struct arena *arena, uint16_t count)
{
    uint16_t *heads = arena_take(arena, count * sizeof *heads, sizeof *heads);
    ASSERT(heads != NULL);
    for (uint16_t i = 0; i < count; i++)
        heads[i] = RELAY_NONE;
    return heads;
}

struct nat_relay *nat_relay_init(void *memory, const struct nat_relay_config *config, uint64_t now_ns)
{
    const char *why;
    int rc = nat_relay_config_check(config, &why);
    ASSERT(rc == ERR_OK);
    size_t size = nat_relay_size(config);
    struct arena arena = arena_of(memory, size);
    memset(memory, 0, size);
    struct nat_relay *relay = arena_take(&arena, sizeof *relay, 16);
    ASSERT(relay == memory);
    relay->config = *config;
    relay->node_count = relay_node_count(config);
    relay->head_count = relay_head_count(config);
    relay->nodes = arena_take(&arena, relay->node_count * sizeof *relay->nodes, 8);
    relay->sessions = arena_take(&arena, config->sessions_max * sizeof *relay->sessions, 8);
    ASSERT(relay->nodes != NULL && relay->sessions != NULL);
    relay->node_heads = take_heads(&arena, relay->head_count);
    relay->session_heads = take_heads(&arena, relay->head_count);
    for (uint16_t i = 0; i < relay->node_count; i++)
        relay->nodes[i].chain = i + 1 < relay->node_count ? (uint16_t)(i + 1) : RELAY_NONE;
    for (size_t i = 0; i < config->sessions_max; i++)
        relay->sessions[i].chain = i + 1 < config->sessions_max ? (uint16_t)(i + 1) : RELAY_NONE;
    relay->send_ring = ring_init(NAT_RELAY_SENDS_MAX);
    relay->event_ring = ring_init(NAT_RELAY_EVENTS_MAX);
    relay->deadline_ns = UINT64_MAX;
    shaper_init(&relay->total, now_ns, config->total_rate, 0);
    rng_fill(&config->rng, relay->hash_key, sizeof relay->hash_key);
    rng_fill(&config->rng, relay->nonce_key, sizeof relay->nonce_key);
    return relay;
}

/* ---- what the parts share ---- */

bool relay_is_off(const struct nat_relay *relay)
{
    return relay->config.total_rate == 0;
}

uint64_t relay_granted_rate(const struct nat_relay *relay)
{
    uint64_t client = relay->config.client_rate, total = relay->config.total_rate;
    return client == 0 || client > total ? total : client;
}

uint64_t relay_volume_left(const struct nat_relay *relay, uint64_t now_ns, struct relay_node *node)
{
    if (now_ns >= node->period_end_ns) {
        node->volume_used = 0;
        node->period_end_ns = now_ns + relay->config.period_ns;
    }
    if (relay->config.client_volume == 0)
        return UINT64_MAX;
    return relay->config.client_volume > node->volume_used ? relay->config.client_volume - node->volume_used
                                                           : 0;
}

const struct net_addr *relay_node_addr(const struct relay_node *node)
{
    return node->addr.family != NET_FAMILY_NONE ? &node->addr : &node->from;
}

int relay_send(struct nat_relay *relay, const struct id *peer, const struct net_addr *addr,
               const struct nat_relay_message *message)
{
    size_t at = ring_push(&relay->send_ring);
    if (at == RING_NONE) {
        relay->stats.answers_dropped++;
        return ERR_FULL;
    }
    relay->sends[at] = (struct relay_send){.peer = *peer, .addr = *addr, .message = *message};
    return ERR_OK;
}

void relay_event(struct nat_relay *relay, const struct nat_relay_event *event)
{
    size_t at = ring_push(&relay->event_ring);
    if (at == RING_NONE) {
        (void)ring_pop(&relay->event_ring);
        at = ring_push(&relay->event_ring);
    }
    relay->events[at] = *event;
}

void relay_wake(struct nat_relay *relay, uint64_t at_ns)
{
    if (at_ns < relay->deadline_ns)
        relay->deadline_ns = at_ns;
}

/* A keyed hash instead of a table: asking for nonces from invented addresses costs no memory. */
void relay_nonce(const struct nat_relay *relay, uint64_t now_ns, unsigned ago, const struct id *id,
                 const struct net_addr *addr, uint8_t nonce[NAT_RELAY_NONCE])
{
    static_assert(crypto_shorthash_BYTES == NAT_RELAY_NONCE, "one hash is one nonce");
    uint8_t input[ID_BYTES + 2 + 8 + NET_ADDR_WIRE_MAX];
    uint8_t wire[NET_ADDR_WIRE_MAX];
    struct writer w = writer_of(input, sizeof input);
    write_bytes(&w, id->bytes, ID_BYTES);
    write_u16(&w, addr->via);
    write_u64(&w, now_ns / (NONCE_MINUTE_S * second_ns) - ago);
    write_bytes(&w, wire, net_addr_encode(addr, wire));
    crypto_shorthash(nonce, input, writer_len(&w), relay->nonce_key);
}

void relay_add_nonce(const struct nat_relay *relay, uint64_t now_ns, const struct relay_node *node,
                     const struct id *id, const struct net_addr *addr, struct nat_relay_message *message)
{
    if (node != NULL && net_addr_equal(&node->addr, addr))
        return;
    message->has_nonce = true;
    relay_nonce(relay, now_ns, 0, id, addr, message->nonce);
}

/* The message holds the nonce of the address that it came from. */
bool relay_proves(const struct nat_relay *relay, uint64_t now_ns, const struct net_message *from,
                  const struct nat_relay_message *m)
{
    for (unsigned ago = 0; ago < 2 && m->has_nonce; ago++) {
        uint8_t nonce[NAT_RELAY_NONCE];
        relay_nonce(relay, now_ns, ago, &from->peer, &from->addr, nonce);
        if (sodium_memcmp(nonce, m->nonce, sizeof nonce) == 0)
            return true;
    }
    return false;
}

void relay_prove(struct nat_relay *relay, struct relay_node *node, const struct net_addr *addr)
{
    if (net_addr_equal(&node->addr, addr))
        return;
    relay->stats.moves += node->addr.family != NET_FAMILY_NONE;
    node->addr = *addr;
}

/* ---- reservations ---- */

static void reservation_end(struct nat_relay *relay, uint64_t now_ns, struct relay_node *node,
                            enum nat_relay_reason reason)
{
    ASSERT(node->reserved);
    node->reserved = false;
    relay->reserved_count--;
    bool off = reason == NAT_RELAY_BY_OFF;
    relay_end_all(relay, now_ns, node, true, off ? reason : NAT_RELAY_BY_EXPIRED);
    relay_event(relay, &(struct nat_relay_event){
                           .type = NAT_RELAY_CLIENT_DOWN,
                           .peer = node->id,
                           .addr = node->addr,
                           .bytes = node->bytes_from + node->bytes_to,
                           .reason = reason,
                       });
}

static int refuse(struct nat_relay *relay, const struct net_message *from, const struct nat_relay_message *m,
                  enum nat_relay_reason reason)
{
    relay->stats.refused++;
    return relay_send(relay, &from->peer, &from->addr,
                      &(struct nat_relay_message){
                          .kind = NAT_RELAY_REFUSED, .request = m->request, .reason = (uint8_t)reason});
}

static enum nat_relay_reason why_not_reserve(struct nat_relay *relay, uint64_t now_ns,
                                             const struct net_message *from, struct relay_node *node)
{
    if (relay_is_off(relay))
        return NAT_RELAY_BY_OFF;
    if (node != NULL && relay_volume_left(relay, now_ns, node) == 0)
        return NAT_RELAY_BY_QUOTA;
    if (node != NULL && node->reserved)
        return NAT_RELAY_BY_NONE;
    if (relay->reserved_count >= relay->config.reservations_max)
        return NAT_RELAY_BY_FULL;
    if (relay_group_count(relay, &from->addr, true, node) >= relay->config.reservations_per_group)
        return NAT_RELAY_BY_GROUP;
    return NAT_RELAY_BY_NONE;
}

static void answer_terms(struct nat_relay *relay, uint64_t now_ns, struct relay_node *node,
                         struct nat_relay_message *answer)
{
    answer->rate = relay_granted_rate(relay);
    answer->volume = relay->config.client_volume == 0 ? UINT64_MAX : relay->config.client_volume;
    if (node == NULL)
        return;
    answer->volume = relay_volume_left(relay, now_ns, node);
    if (node->reserved && node->lease_until_ns > now_ns)
        answer->lease_s = (uint32_t)((node->lease_until_ns - now_ns) / second_ns);
}

/* A first RESERVE, or one from a new address, is answered by a nonce and kept nowhere. */
static int recv_reserve(struct nat_relay *relay, uint64_t now_ns, const struct net_message *from,
                        const struct nat_relay_message *m)
{
    struct relay_node *node = relay_node_find(relay, &from->peer);
    struct nat_relay_message answer = {.kind = NAT_RELAY_RESERVED, .request = m->request, .seen = from->addr};
    if (m->release) {
        if (node != NULL && node->reserved)
            reservation_end(relay, now_ns, node, NAT_RELAY_BY_DROPPED);
        return relay_send(relay, &from->peer, &from->addr, &answer);
    }
    enum nat_relay_reason reason = why_not_reserve(relay, now_ns, from, node);
    if (reason != NAT_RELAY_BY_NONE)
        return refuse(relay, from, m, reason);
    if (relay_proves(relay, now_ns, from, m)) {
        node = relay_node_take(relay, now_ns, &from->peer);
        if (node == NULL)
            return refuse(relay, from, m, NAT_RELAY_BY_FULL);
        node->from = from->addr;
        relay_prove(relay, node, &from->addr);
    }
    relay_add_nonce(relay, now_ns, node, &from->peer, &from->addr, &answer);
    if (node != NULL && net_addr_equal(&node->addr, &from->addr)) {
        if (!node->reserved) {
            relay_event(relay, &(struct nat_relay_event){
                                   .type = NAT_RELAY_CLIENT_UP, .peer = node->id, .addr = node->addr});
            relay->stats.reserved++;
            relay->reserved_count++;
        }
        node->reserved = true;
        node->lease_until_ns = now_ns + relay->config.lease_ns;
        relay_wake(relay, node->lease_until_ns);
    }
    answer_terms(relay, now_ns, node, &answer);
    return relay_send(relay, &from->peer, &from->addr, &answer);
}

/* ---- keeping and moving ---- */

static bool names(const struct nat_relay_message *m, uint64_t session)
{
    for (size_t i = 0; i < m->session_count; i++) {
        if (m->sessions[i] == session)
            return true;
    }
    return false;
}

/* Sessions that the node has forgotten, for example by a restart, end here too. */
static void end_forgotten(struct nat_relay *relay, uint64_t now_ns, const struct relay_node *node,
                          const struct nat_relay_message *m)
{
    for (size_t i = 0; i < relay->config.sessions_max && node->sessions > 0; i++) {
        struct relay_session *at = &relay->sessions[i];
        if (at->state != RELAY_OPEN || now_ns - at->since_ns < FORGET_GRACE_S * second_ns)
            continue;
        int side = relay_side_of(relay, at, node);
        if (side < 0 || names(m, at->id))
            continue;
        relay_session_end(relay, now_ns, at, NAT_RELAY_BY_CLOSED);
        at->told[side] = true;
    }
}

static int recv_keep(struct nat_relay *relay, uint64_t now_ns, const struct net_message *from,
                     const struct nat_relay_message *m)
{
    struct relay_node *node = relay_node_find(relay, &from->peer);
    struct nat_relay_message answer = {.kind = NAT_RELAY_KEPT, .request = m->request, .seen = from->addr};
    for (size_t i = 0; i < m->session_count; i++) {
        struct relay_session *at = relay_session_find(relay, m->sessions[i]);
        bool its_own = at != NULL && node != NULL && relay_side_of(relay, at, node) >= 0;
        if (!its_own || at->state == RELAY_ENDED)
            answer.sessions[answer.session_count++] = m->sessions[i];
    }
    if (node != NULL) {
        end_forgotten(relay, now_ns, node, m);
        relay_add_nonce(relay, now_ns, node, &from->peer, &from->addr, &answer);
    }
    answer_terms(relay, now_ns, node, &answer);
    return relay_send(relay, &from->peer, &from->addr, &answer);
}

static int recv_prove(struct nat_relay *relay, uint64_t now_ns, const struct net_message *from,
                      const struct nat_relay_message *m)
{
    struct relay_node *node = relay_node_find(relay, &from->peer);
    if (node == NULL || !relay_proves(relay, now_ns, from, m)) {
        relay->stats.unmatched++;
        return ERR_REFUSED;
    }
    relay_prove(relay, node, &from->addr);
    return relay_send(
        relay, &from->peer, &from->addr,
        &(struct nat_relay_message){.kind = NAT_RELAY_PROVEN, .request = m->request, .seen = from->addr});
}

/* ---- inputs ---- */

bool nat_relay_serves(uint8_t kind)
{
    return kind == NAT_RELAY_RESERVE || kind == NAT_RELAY_OPEN || kind == NAT_RELAY_ACCEPT ||
           kind == NAT_RELAY_DECLINE || kind == NAT_RELAY_CLOSE || kind == NAT_RELAY_KEEP ||
           kind == NAT_RELAY_PROVE;
}

static int dispatch(struct nat_relay *relay, uint64_t now_ns, const struct net_message *from,
                    const struct nat_relay_message *m)
{
    switch (m->kind) {
    case NAT_RELAY_RESERVE:
        return recv_reserve(relay, now_ns, from, m);
    case NAT_RELAY_OPEN:
        return relay_recv_open(relay, now_ns, from, m);
    case NAT_RELAY_ACCEPT:
        return relay_recv_accept(relay, now_ns, from, m);
    case NAT_RELAY_DECLINE:
        return relay_recv_decline(relay, now_ns, from, m);
    case NAT_RELAY_CLOSE:
        return relay_recv_close(relay, now_ns, from, m);
    case NAT_RELAY_KEEP:
        return recv_keep(relay, now_ns, from, m);
    default:
        return recv_prove(relay, now_ns, from, m);
    }
}

int nat_relay_recv(struct nat_relay *relay, uint64_t now_ns, const struct net_message *message)
{
    struct nat_relay_message m;
    ASSERT(nat_relay_serves(message->kind));
    /* Relays are not stacked: a node reached through one would be paid for twice. */
    if (id_equal(&message->peer, &relay->config.self) || net_via_is_relay(message->addr.via) ||
        net_addr_scope(&message->addr) == NET_SCOPE_INVALID)
        return ERR_REFUSED;
    int rc = nat_relay_decode(message, &m);
    if (rc != ERR_OK) {
        relay->stats.malformed++;
        return rc;
    }
    struct relay_node *node = relay_node_find(relay, &message->peer);
    if (node != NULL) {
        node->heard_ns = now_ns;
        node->from = message->addr;
    }
    return dispatch(relay, now_ns, message, &m);
}

void nat_relay_set_rates(struct nat_relay *relay, uint64_t now_ns, uint64_t client_rate, uint64_t total_rate)
{
    relay->config.client_rate = client_rate < SHAPER_RATE_MAX ? client_rate : SHAPER_RATE_MAX;
    relay->config.total_rate = total_rate < SHAPER_RATE_MAX ? total_rate : SHAPER_RATE_MAX;
    shaper_set_rate(&relay->total, now_ns, relay->config.total_rate, 0);
    for (uint16_t i = 0; i < relay->node_count; i++) {
        struct relay_node *at = &relay->nodes[i];
        if (!at->used)
            continue;
        shaper_set_rate(&at->sending, now_ns, relay->config.client_rate, relay->config.client_burst);
        shaper_set_rate(&at->receiving, now_ns, relay->config.client_rate, relay->config.client_burst);
        if (at->reserved && relay_is_off(relay))
            reservation_end(relay, now_ns, at, NAT_RELAY_BY_OFF);
    }
}

/* ---- time and outputs ---- */

static uint64_t node_step(struct nat_relay *relay, uint64_t now_ns, struct relay_node *node)
{
    uint64_t next_ns = UINT64_MAX;
    uint64_t silent_ns = node->heard_ns + relay->config.silence_ns;
    if (node->reserved && node->lease_until_ns <= now_ns)
        reservation_end(relay, now_ns, node, NAT_RELAY_BY_EXPIRED);
    if (node->sessions > 0 && silent_ns <= now_ns)
        relay_end_all(relay, now_ns, node, false, NAT_RELAY_BY_SILENT);
    if (node->reserved)
        next_ns = node->lease_until_ns;
    if (node->sessions > 0 && silent_ns > now_ns && silent_ns < next_ns)
        next_ns = silent_ns;
    return next_ns;
}

void nat_relay_tick(struct nat_relay *relay, uint64_t now_ns)
{
    if (now_ns < relay->deadline_ns)
        return;
    uint64_t next_ns = UINT64_MAX;
    relay->deadline_ns = UINT64_MAX;
    for (uint16_t i = 0; i < relay->node_count; i++) {
        uint64_t at_ns = relay->nodes[i].used ? node_step(relay, now_ns, &relay->nodes[i]) : UINT64_MAX;
        next_ns = at_ns < next_ns ? at_ns : next_ns;
    }
    for (size_t i = 0; i < relay->config.sessions_max; i++) {
        uint64_t at_ns = relay_session_step(relay, now_ns, &relay->sessions[i]);
        next_ns = at_ns < next_ns ? at_ns : next_ns;
    }
    relay->deadline_ns = next_ns;
}

uint64_t nat_relay_deadline_ns(const struct nat_relay *relay)
{
    return relay->deadline_ns;
}

bool nat_relay_poll_event(struct nat_relay *relay, struct nat_relay_event *out)
{
    size_t at = ring_pop(&relay->event_ring);
    if (at != RING_NONE)
        *out = relay->events[at];
    return at != RING_NONE;
}

bool nat_relay_poll_send(struct nat_relay *relay, uint64_t now_ns, struct net_message *out)
{
    (void)now_ns;
    size_t at = ring_pop(&relay->send_ring);
    if (at == RING_NONE)
        return false;
    const struct relay_send *send = &relay->sends[at];
    out->peer = send->peer;
    out->addr = send->addr;
    nat_relay_encode(&send->message, out);
    return true;
}

/* ---- queries ---- */

size_t nat_relay_nodes(struct nat_relay *relay, uint64_t now_ns, struct nat_relay_node_info out[], size_t cap)
{
    size_t count = 0;
    for (uint16_t i = 0; i < relay->node_count && count < cap; i++) {
        struct relay_node *at = &relay->nodes[i];
        if (!at->used)
            continue;
        bool leased = at->reserved && at->lease_until_ns > now_ns;
        out[count++] = (struct nat_relay_node_info){
            .id = at->id,
            .addr = at->addr,
            .reserved = at->reserved,
            .sessions = (uint32_t)relay_live_sessions(relay, at),
            .lease_left_ns = leased ? at->lease_until_ns - now_ns : 0,
            .bytes_from = at->bytes_from,
            .bytes_to = at->bytes_to,
            .dropped_rate = at->dropped_rate,
            .volume_left = relay_volume_left(relay, now_ns, at),
        };
    }
    return count;
}

int nat_relay_addr(const struct nat_relay *relay, uint64_t now_ns, const struct id *id, struct net_addr *addr)
{
    const struct relay_node *node = relay_node_find(relay, id);
    if (node == NULL || !node->reserved || node->lease_until_ns <= now_ns)
        return ERR_NOT_FOUND;
    *addr = node->addr;
    return ERR_OK;
}

size_t nat_relay_sessions(const struct nat_relay *relay, uint64_t now_ns, struct nat_relay_session_info out[],
                          size_t cap)
{
    size_t count = 0;
    for (size_t i = 0; i < relay->config.sessions_max && count < cap; i++) {
        const struct relay_session *at = &relay->sessions[i];
        if (at->state == RELAY_FREE)
            continue;
        out[count++] = (struct nat_relay_session_info){
            .opener = relay->nodes[at->node[RELAY_OPENER]].id,
            .target = relay->nodes[at->node[RELAY_TARGET]].id,
            .bytes_from_opener = at->bytes[RELAY_OPENER],
            .bytes_from_target = at->bytes[RELAY_TARGET],
            .age_ns = at->opened_ns == 0 ? 0 : now_ns - at->opened_ns,
            .open = at->state == RELAY_OPEN,
        };
    }
    return count;
}

struct nat_relay_stats nat_relay_stats(const struct nat_relay *relay)
{
    return relay->stats;
}

void nat_relay_check_invariants(const struct nat_relay *relay)
{
    ring_check_invariants(&relay->send_ring);
    ring_check_invariants(&relay->event_ring);
    relay_table_check(relay);
}
