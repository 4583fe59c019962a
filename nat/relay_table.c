#include <sodium.h>

#include "nat/relay_internal.h"

/* Everyone with a reservation, and an opener without one for each session. */
uint16_t relay_node_count(const struct nat_relay_config *config)
{
    return (uint16_t)(config->reservations_max + config->sessions_max);
}

uint16_t relay_head_count(const struct nat_relay_config *config)
{
    uint16_t heads = 16;
    while (heads < relay_node_count(config) && heads < 0x4000)
        heads = (uint16_t)(heads * 2);
    return heads;
}

/* ---- nodes ---- */

static uint16_t *node_head(const struct nat_relay *relay, const struct id *id)
{
    uint8_t hash[crypto_shorthash_BYTES];
    crypto_shorthash(hash, id->bytes, ID_BYTES, relay->hash_key);
    return &relay->node_heads[load_le16(hash) & (relay->head_count - 1)];
}

uint16_t relay_node_index(const struct nat_relay *relay, const struct relay_node *node)
{
    ASSERT(node >= relay->nodes && node < relay->nodes + relay->node_count);
    return (uint16_t)(node - relay->nodes);
}

struct relay_node *relay_node_find(const struct nat_relay *relay, const struct id *id)
{
    uint16_t at = *node_head(relay, id);
    while (at != RELAY_NONE && !id_equal(&relay->nodes[at].id, id))
        at = relay->nodes[at].chain;
    return at == RELAY_NONE ? NULL : &relay->nodes[at];
}

static void node_free(struct nat_relay *relay, struct relay_node *node)
{
    uint16_t index = relay_node_index(relay, node);
    uint16_t *link = node_head(relay, &node->id);
    ASSERT(!node->reserved && node->sessions == 0);
    while (*link != index)
        link = &relay->nodes[*link].chain;
    *link = node->chain;
    *node = (struct relay_node){.chain = relay->free_node};
    relay->free_node = index;
}

/* What a node has used counts until its period ends, so the one heard longest ago is forgotten first. */
static void node_make_room(struct nat_relay *relay)
{
    struct relay_node *oldest = NULL;
    for (uint16_t i = 0; i < relay->node_count && relay->free_node == RELAY_NONE; i++) {
        struct relay_node *at = &relay->nodes[i];
        if (at->used && !at->reserved && at->sessions == 0 &&
            (oldest == NULL || at->heard_ns < oldest->heard_ns))
            oldest = at;
    }
    if (oldest != NULL)
        node_free(relay, oldest);
}

struct relay_node *relay_node_take(struct nat_relay *relay, uint64_t now_ns, const struct id *id)
{
    struct relay_node *node = relay_node_find(relay, id);
    if (node != NULL)
        return node;
    node_make_room(relay);
    if (relay->free_node == RELAY_NONE)
        return NULL;
    uint16_t index = relay->free_node;
    uint16_t *head = node_head(relay, id);
    node = &relay->nodes[index];
    relay->free_node = node->chain;
    *node = (struct relay_node){.id = *id, .used = true, .chain = *head, .heard_ns = now_ns};
    node->period_end_ns = now_ns + relay->config.period_ns;
    shaper_init(&node->sending, now_ns, relay->config.client_rate, relay->config.client_burst);
    shaper_init(&node->receiving, now_ns, relay->config.client_rate, relay->config.client_burst);
    *head = index;
    return node;
}

size_t relay_group_count(const struct nat_relay *relay, const struct net_addr *addr, bool reserved,
                         const struct relay_node *but)
{
    size_t count = 0;
    if (net_addr_scope(addr) != NET_SCOPE_GLOBAL)
        return 0;
    for (uint16_t i = 0; i < relay->node_count; i++) {
        const struct relay_node *at = &relay->nodes[i];
        if (!at->used || at == but || at->reserved != reserved || (!reserved && at->sessions == 0))
            continue;
        count += net_addr_same_group(relay_node_addr(at), addr);
    }
    return count;
}

/* ---- sessions ---- */

/* Their ids are random and ours: they need no hashing. */
static uint16_t *session_head(const struct nat_relay *relay, uint64_t id)
{
    return &relay->session_heads[id & (relay->head_count - 1u)];
}

struct relay_session *relay_session_find(const struct nat_relay *relay, uint64_t id)
{
    uint16_t at = *session_head(relay, id);
    while (at != RELAY_NONE && relay->sessions[at].id != id)
        at = relay->sessions[at].chain;
    return at == RELAY_NONE ? NULL : &relay->sessions[at];
}

struct relay_session *relay_session_between(const struct nat_relay *relay, const struct relay_node *opener,
                                            const struct relay_node *target, uint32_t request)
{
    struct relay_session *live = NULL;
    uint16_t from = relay_node_index(relay, opener), to = relay_node_index(relay, target);
    for (size_t i = 0; i < relay->config.sessions_max; i++) {
        struct relay_session *at = &relay->sessions[i];
        if (at->state == RELAY_FREE || at->node[RELAY_OPENER] != from || at->node[RELAY_TARGET] != to)
            continue;
        if (at->request[RELAY_OPENER] == request)
            return at;
        if (at->state != RELAY_ENDED)
            live = at;
    }
    return live;
}

size_t relay_live_sessions(const struct nat_relay *relay, const struct relay_node *node)
{
    uint16_t index = relay_node_index(relay, node);
    size_t count = 0;
    for (size_t i = 0; i < relay->config.sessions_max; i++) {
        const struct relay_session *at = &relay->sessions[i];
        if (at->state == RELAY_OFFERED || at->state == RELAY_OPEN)
            count += at->node[RELAY_OPENER] == index || at->node[RELAY_TARGET] == index;
    }
    return count;
}

static void session_make_room(struct nat_relay *relay)
{
    struct relay_session *oldest = NULL;
    for (size_t i = 0; i < relay->config.sessions_max && relay->free_session == RELAY_NONE; i++) {
        struct relay_session *at = &relay->sessions[i];
        if (at->state == RELAY_ENDED && (oldest == NULL || at->since_ns < oldest->since_ns))
            oldest = at;
    }
    if (oldest != NULL)
        relay_session_free(relay, oldest);
}

struct relay_session *relay_session_new(struct nat_relay *relay, struct relay_node *opener,
                                        struct relay_node *target)
{
    session_make_room(relay);
    if (relay->free_session == RELAY_NONE)
        return NULL;
    uint16_t index = relay->free_session;
    struct relay_session *session = &relay->sessions[index];
    relay->free_session = session->chain;
    uint64_t id = nat_relay_session_draw(&relay->config.rng);
    while (relay_session_find(relay, id) != NULL)
        id = id % ((UINT64_C(1) << 55) - 1) + 1;
    uint16_t *head = session_head(relay, id);
    *session = (struct relay_session){.id = id, .state = RELAY_OFFERED, .chain = *head};
    session->node[RELAY_OPENER] = relay_node_index(relay, opener);
    session->node[RELAY_TARGET] = relay_node_index(relay, target);
    *head = index;
    opener->sessions++;
    target->sessions++;
    return session;
}

void relay_session_free(struct nat_relay *relay, struct relay_session *session)
{
    uint16_t index = (uint16_t)(session - relay->sessions);
    uint16_t *link = session_head(relay, session->id);
    ASSERT(session->state == RELAY_ENDED);
    while (*link != index)
        link = &relay->sessions[*link].chain;
    *link = session->chain;
    relay->nodes[session->node[RELAY_OPENER]].sessions--;
    relay->nodes[session->node[RELAY_TARGET]].sessions--;
    *session = (struct relay_session){.state = RELAY_FREE, .chain = relay->free_session};
    relay->free_session = index;
}

size_t relay_offers(const struct nat_relay *relay, const struct relay_node *target,
                    const struct net_addr *addr)
{
    uint16_t to = relay_node_index(relay, target);
    size_t count = 0;
    for (size_t i = 0; i < relay->config.sessions_max; i++) {
        const struct relay_session *at = &relay->sessions[i];
        if (at->state != RELAY_OFFERED || at->node[RELAY_TARGET] != to)
            continue;
        const struct net_addr *opener = &at->answer[RELAY_OPENER];
        count +=
            addr == NULL || (net_addr_scope(addr) == NET_SCOPE_GLOBAL && net_addr_same_group(addr, opener));
    }
    return count;
}

/* ---- checks ---- */

static void check_node(const struct nat_relay *relay, const struct relay_node *node)
{
    uint16_t index = relay_node_index(relay, node);
    uint32_t sessions = 0;
    for (size_t i = 0; i < relay->config.sessions_max; i++) {
        const struct relay_session *at = &relay->sessions[i];
        for (int side = 0; side < 2 && at->state != RELAY_FREE; side++)
            sessions += at->node[side] == index;
    }
    ASSERT(sessions == node->sessions);
    ASSERT(relay_node_find(relay, &node->id) == node);
    ASSERT(!node->reserved || node->addr.family != NET_FAMILY_NONE);
    ASSERT(!node->reserved || relay->deadline_ns <= node->lease_until_ns);
}

static void check_session(const struct nat_relay *relay, const struct relay_session *session)
{
    ASSERT(relay_session_find(relay, session->id) == session);
    ASSERT(session->node[0] != session->node[1]);
    ASSERT(relay->nodes[session->node[0]].used && relay->nodes[session->node[1]].used);
    ASSERT((session->state == RELAY_OPEN) <= (session->opened_ns != 0));
    ASSERT(session->state == RELAY_ENDED || relay->nodes[session->node[RELAY_TARGET]].reserved);
    ASSERT(session->state == RELAY_OPEN || relay->deadline_ns <= session->wake_ns);
    ASSERT(session->opened_ns != 0 || session->bytes[0] + session->bytes[1] == 0);
}

void relay_table_check(const struct nat_relay *relay)
{
    uint16_t reserved = 0;
    size_t live = 0, free_count = 0;
    for (uint16_t i = 0; i < relay->node_count; i++) {
        const struct relay_node *at = &relay->nodes[i];
        if (at->used)
            check_node(relay, at);
        live += at->used;
        reserved = (uint16_t)(reserved + at->reserved);
    }
    ASSERT(reserved == relay->reserved_count && reserved <= relay->config.reservations_max);
    for (uint16_t at = relay->free_node; at != RELAY_NONE; at = relay->nodes[at].chain)
        free_count++;
    ASSERT(live + free_count == relay->node_count);
    live = 0;
    free_count = 0;
    for (size_t i = 0; i < relay->config.sessions_max; i++) {
        if (relay->sessions[i].state != RELAY_FREE) {
            check_session(relay, &relay->sessions[i]);
            live++;
        }
    }
    for (uint16_t at = relay->free_session; at != RELAY_NONE; at = relay->sessions[at].chain)
        free_count++;
    ASSERT(live + free_count == relay->config.sessions_max);
}
