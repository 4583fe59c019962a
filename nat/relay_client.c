#include "nat/relay_client.h"

#include <string.h>

#include "base/alloc.h"
#include "nat/relay.h"
#include "nat/relay_client_internal.h"

static const uint64_t millisecond_ns = UINT64_C(1000000);

#define STALL_NS (200 * millisecond_ns) /* a tick this late means that our own thread was busy */

/* ---- life ---- */

struct nat_relay_client_config nat_relay_client_config_default(void)
{
    return (struct nat_relay_client_config){
        .sessions_max = 256,
        .wanted = 2,
        .refresh_ns = 15000 * millisecond_ns,
        .refresh_busy_ns = 800 * millisecond_ns,
        .repeat_ns = 300 * millisecond_ns,
        .lost_ns = 1800 * millisecond_ns,
    };
}

int nat_relay_client_config_check(const struct nat_relay_client_config *c, const char **why)
{
    *why = "self and rng must be set";
    if (id_is_zero(&c->self) || c->rng.fill == NULL)
        return ERR_INVALID;
    *why = "1 to 1024 sessions, at most 8 wanted";
    if (c->sessions_max < 1 || c->sessions_max > NAT_RELAY_CLIENT_SESSIONS_MAX ||
        c->wanted > NAT_RELAY_CLIENT_WANTED_MAX)
        return ERR_INVALID;
    *why = "a refresh of 1 s to 60 s, while busy 0.1 s to 5 s and no longer";
    if (c->refresh_ns < 1000 * millisecond_ns || c->refresh_ns > 60000 * millisecond_ns ||
        c->refresh_busy_ns < 100 * millisecond_ns || c->refresh_busy_ns > 5000 * millisecond_ns ||
        c->refresh_busy_ns > c->refresh_ns)
        return ERR_INVALID;
    *why = "repeats after 20 ms to 2 s, lost after four of them to 60 s";
    if (c->repeat_ns < 20 * millisecond_ns || c->repeat_ns > 2000 * millisecond_ns ||
        c->lost_ns < 4 * c->repeat_ns || c->lost_ns > 60000 * millisecond_ns)
        return ERR_INVALID;
    *why = NULL;
    return ERR_OK;
}

static uint16_t slots_of(const struct nat_relay_client_config *config)
{
    return (uint16_t)(4 * config->sessions_max);
}

static uint16_t heads_of(const struct nat_relay_client_config *config)
{
    uint16_t heads = 16;
    while (heads < config->sessions_max)
        heads = (uint16_t)(heads * 2);
    return heads;
}

size_t nat_relay_client_size(const struct nat_relay_client_config *config)
{
    return sizeof(struct nat_relay_client) + slots_of(config) * sizeof(struct rc_session) +
           (size_t)(slots_of(config) + heads_of(config)) * sizeof(uint16_t);
}

struct nat_relay_client *nat_relay_client_init(void *memory, const struct nat_relay_client_config *config)
{
    const char *why;
    int rc = nat_relay_client_config_check(config, &why);
    ASSERT(rc == ERR_OK);
    size_t size = nat_relay_client_size(config);
    struct arena arena = arena_of(memory, size);
    memset(memory, 0, size);
    struct nat_relay_client *client = arena_take(&arena, sizeof *client, 16);
    ASSERT(client == memory);
    client->config = *config;
    client->slot_count = slots_of(config);
    client->head_count = heads_of(config);
    client->sessions = arena_take(&arena, client->slot_count * sizeof *client->sessions, 8);
    client->waiting = arena_take(&arena, client->slot_count * sizeof *client->waiting, 2);
    client->heads = arena_take(&arena, client->head_count * sizeof *client->heads, 2);
    ASSERT(client->sessions != NULL && client->waiting != NULL && client->heads != NULL);
    for (uint16_t i = 0; i < client->head_count; i++)
        client->heads[i] = RC_NONE;
    for (uint16_t i = 0; i < client->slot_count; i++)
        client->sessions[i].chain = i + 1 < client->slot_count ? (uint16_t)(i + 1) : RC_NONE;
    client->waiting_ring = ring_init(client->slot_count);
    client->confirm_ring = ring_init(RC_CONFIRMS_MAX);
    client->event_ring = ring_init(NAT_RELAY_CLIENT_EVENTS_MAX);
    client->deadline_ns = UINT64_MAX;
    client->next_request = rng_u32(&config->rng);
    rng_fill(&config->rng, client->hash_key, sizeof client->hash_key);
    return client;
}

/* ---- what the parts share ---- */

void rc_event(struct nat_relay_client *client, const struct nat_relay_client_event *event)
{
    size_t at = ring_push(&client->event_ring);
    if (at == RING_NONE)
        client->stats.events_dropped++;
    else
        client->events[at] = *event;
}

void rc_wake(struct nat_relay_client *client, uint64_t at_ns)
{
    rc_least(&client->deadline_ns, at_ns);
}

void rc_least(uint64_t *next_ns, uint64_t at_ns)
{
    if (at_ns < *next_ns)
        *next_ns = at_ns;
}

void rc_request_start(struct nat_relay_client *client, uint64_t now_ns, struct rc_request *request)
{
    client->next_request += client->next_request == UINT32_MAX ? 2 : 1; /* 0 stands for none */
    *request =
        (struct rc_request){.open = true, .id = client->next_request, .first_ns = now_ns, .at_ns = now_ns};
    rc_wake(client, now_ns);
}

bool rc_request_due(const struct rc_request *request, uint64_t now_ns)
{
    return request->open && request->at_ns <= now_ns;
}

void rc_request_sent(struct nat_relay_client *client, uint64_t now_ns, struct rc_request *request,
                     bool slower)
{
    uint64_t repeat_ns = client->config.repeat_ns;
    if (slower)
        repeat_ns <<= request->tries < 2 ? request->tries : 2;
    request->tries = (uint8_t)(request->tries + (request->tries < UINT8_MAX));
    request->sent_ns = now_ns;
    request->at_ns = now_ns + repeat_ns;
    client->stats.requests++;
}

void rc_confirm(struct nat_relay_client *client, const struct id *relay, const struct net_addr *addr,
                uint64_t session)
{
    size_t at = ring_push(&client->confirm_ring);
    if (at != RING_NONE)
        client->confirms[at] = (struct rc_confirm){.relay = *relay, .addr = *addr, .session = session};
}

/* ---- commands ---- */

static bool session_exists(const struct nat_relay_client *client, const struct rc_relay *relay,
                           const struct id *peer)
{
    uint16_t index = rc_relay_index(client, relay);
    for (uint16_t i = 0; i < client->slot_count; i++) {
        const struct rc_session *at = &client->sessions[i];
        bool stands = at->state == RC_OPENING || at->state == RC_UP || at->state == RC_ACCEPTING;
        if (stands && at->relay == index && id_equal(&at->peer, peer))
            return true;
    }
    return false;
}

int nat_relay_client_open(struct nat_relay_client *client, uint64_t now_ns, const struct id *peer,
                          const struct id *relay_id, const struct net_addr *relay_addr, uint32_t *token)
{
    const struct id *self = &client->config.self;
    if (id_equal(peer, self) || id_equal(relay_id, self) || id_equal(peer, relay_id) || id_is_zero(peer) ||
        id_is_zero(relay_id) || net_via_is_relay(relay_addr->via) ||
        net_addr_scope(relay_addr) == NET_SCOPE_INVALID)
        return ERR_INVALID;
    struct rc_relay *relay = rc_relay_take(client, now_ns, relay_id, relay_addr);
    if (relay == NULL)
        return ERR_FULL;
    if (session_exists(client, relay, peer))
        return ERR_EXISTS;
    struct rc_session *session = rc_session_new(client, now_ns, relay, peer, RC_OPENING);
    if (session == NULL) {
        rc_relay_settle(client, relay);
        return ERR_FULL;
    }
    if (relay->state == RC_IDLE && relay->sessions == 1 && !relay->keep.open)
        relay->keep_at_ns = now_ns; /* a relay that is gone is noticed sooner than by the peer's silence */
    *token = rc_session_token(client, session);
    return ERR_OK;
}

int nat_relay_client_accept(struct nat_relay_client *client, uint64_t now_ns, uint32_t token)
{
    struct rc_session *session = rc_session_of(client, token);
    if (session == NULL || session->state != RC_OFFERED)
        return ERR_NOT_FOUND;
    rc_session_enter(client, now_ns, session, RC_ACCEPTING);
    return ERR_OK;
}

void nat_relay_client_decline(struct nat_relay_client *client, uint64_t now_ns, uint32_t token)
{
    struct rc_session *session = rc_session_of(client, token);
    if (session == NULL || session->state != RC_OFFERED)
        return;
    client->stats.offers_declined++;
    rc_session_enter(client, now_ns, session, RC_DECLINED);
}

void nat_relay_client_close(struct nat_relay_client *client, uint64_t now_ns, uint32_t token)
{
    struct rc_session *session = rc_session_of(client, token);
    if (session == NULL || session->state == RC_CLOSING || session->state == RC_DECLINED)
        return;
    if (session->state == RC_OPENING) /* an OPENED that still comes is answered by CLOSE */
        rc_session_end(client, now_ns, session);
    else
        rc_session_enter(client, now_ns, session, session->state == RC_OFFERED ? RC_DECLINED : RC_CLOSING);
}

void nat_relay_client_moved(struct nat_relay_client *client, uint64_t now_ns)
{
    for (size_t i = 0; i < NAT_RELAY_CLIENT_RELAYS_MAX; i++) {
        struct rc_relay *relay = &client->relays[i];
        if (!relay->used || !rc_relay_active(relay))
            continue;
        relay->moved_ns = now_ns;
        rc_keep_now(client, now_ns, relay);
    }
}

/* ---- inputs ---- */

static int dispatch(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                    const struct net_message *from, const struct nat_relay_message *m)
{
    switch (m->kind) {
    case NAT_RELAY_RESERVED:
        return rc_recv_reserved(client, now_ns, relay, m);
    case NAT_RELAY_OFFER:
        return rc_recv_offer(client, now_ns, relay, from, m);
    case NAT_RELAY_OPENED:
        return rc_recv_opened(client, now_ns, relay, from, m);
    case NAT_RELAY_REFUSED:
        if (rc_recv_reserve_refused(client, now_ns, relay, m))
            return ERR_OK;
        return rc_recv_open_refused(client, now_ns, relay, m);
    case NAT_RELAY_NOTICE:
        return rc_recv_notice(client, now_ns, relay, from, m);
    case NAT_RELAY_KEPT:
        return rc_recv_kept(client, now_ns, relay, from, m);
    default:
        ASSERT(m->kind == NAT_RELAY_PROVEN);
        return rc_recv_proven(client, now_ns, relay, from, m);
    }
}

/* A relay that is gone from our table may not know it: it hears that its session is not wanted. */
static int unknown_relay(struct nat_relay_client *client, const struct net_message *from,
                         const struct nat_relay_message *m)
{
    client->stats.unmatched++;
    if (m->kind == NAT_RELAY_OPENED || (m->kind == NAT_RELAY_NOTICE && m->request == 0))
        rc_confirm(client, &from->peer, &from->addr, m->session);
    return ERR_REFUSED;
}

int nat_relay_client_recv(struct nat_relay_client *client, uint64_t now_ns, const struct net_message *message)
{
    struct nat_relay_message m;
    ASSERT(!nat_relay_serves(message->kind));
    if (id_equal(&message->peer, &client->config.self) || net_via_is_relay(message->addr.via) ||
        net_addr_scope(&message->addr) == NET_SCOPE_INVALID)
        return ERR_REFUSED;
    int rc = nat_relay_decode(message, &m);
    if (rc != ERR_OK) {
        client->stats.malformed++;
        return rc;
    }
    struct rc_relay *relay = rc_relay_find(client, &message->peer);
    if (relay == NULL)
        return unknown_relay(client, message, &m);
    if (net_addr_equal(&message->addr, &relay->addr))
        relay->heard_ns = now_ns;
    else if (rc_relay_active(relay) && !relay->alt_keep.open && !relay->alt_answers)
        rc_relay_try(client, now_ns, relay, &message->addr); /* has it moved?  Only its answer says so */
    rc = dispatch(client, now_ns, relay, message, &m);
    client->stats.answers += rc == ERR_OK;
    return rc;
}

static struct rc_session *session_by_via(const struct nat_relay_client *client, uint16_t via)
{
    if (!net_via_is_relay(via) || via - NET_VIA_RELAY_FIRST >= client->slot_count)
        return NULL;
    struct rc_session *session = &client->sessions[via - NET_VIA_RELAY_FIRST];
    return session->state == RC_UP ? session : NULL;
}

int nat_relay_client_wrap(struct nat_relay_client *client, uint64_t now_ns, uint16_t via,
                          uint8_t header[NAT_RELAY_HEADER], struct net_addr *relay_addr)
{
    const struct rc_session *session = session_by_via(client, via);
    if (session == NULL)
        return ERR_NOT_FOUND;
    struct rc_relay *relay = &client->relays[session->relay];
    nat_relay_head_write(header, session->side, session->id);
    *relay_addr = relay->addr;
    rc_relay_used(client, now_ns, relay);
    return ERR_OK;
}

static struct rc_session *session_of_frame(const struct nat_relay_client *client, const struct net_addr *from,
                                           uint64_t id, unsigned sender_side)
{
    uint16_t at = rc_session_chain(client, id);
    for (; at != RC_NONE; at = client->sessions[at].chain) {
        struct rc_session *session = &client->sessions[at];
        const struct rc_relay *relay = &client->relays[session->relay];
        bool stands = session->state == RC_UP || session->state == RC_ACCEPTING;
        if (!stands || session->id != id || session->side == sender_side)
            continue;
        if (net_addr_equal(&relay->addr, from) || (relay->alt_answers && net_addr_equal(&relay->alt, from)))
            return session;
    }
    return NULL;
}

int nat_relay_client_unwrap(struct nat_relay_client *client, uint64_t now_ns, const struct net_addr *from,
                            struct bytes datagram, struct net_addr *route, struct bytes *payload)
{
    unsigned sender_side;
    if (client->live_count == 0 || !nat_relay_claims(datagram))
        return ERR_NOT_FOUND; /* also the quick way on a node that is only a relay */
    uint64_t id = nat_relay_head_read(datagram, &sender_side);
    struct rc_session *session = session_of_frame(client, from, id, sender_side);
    if (session == NULL) {
        client->stats.frames_refused++;
        return ERR_NOT_FOUND;
    }
    if (session->state == RC_ACCEPTING)
        rc_session_up(client, now_ns, session); /* the opener knows already: our OPENED is late or lost */
    struct rc_relay *relay = &client->relays[session->relay];
    relay->heard_ns = now_ns;
    rc_relay_used(client, now_ns, relay);
    client->stats.frames_in++;
    *route = session->route;
    *payload = bytes_of(datagram.data + NAT_RELAY_HEADER, datagram.len - NAT_RELAY_HEADER);
    return ERR_OK;
}

/* ---- time and outputs ---- */

static void plan(struct nat_relay_client *client)
{
    client->deadline_ns = UINT64_MAX;
    for (size_t i = 0; i < NAT_RELAY_CLIENT_RELAYS_MAX; i++) {
        if (client->relays[i].used)
            rc_wake(client, rc_relay_next_ns(client, &client->relays[i]));
    }
    for (uint16_t i = 0; i < client->slot_count && client->live_count > 0; i++)
        rc_wake(client, rc_session_next_ns(&client->sessions[i]));
}

/* After a stall, answers may still wait in the socket: their senders' silence starts anew. */
static void forgive(struct nat_relay_client *client, uint64_t now_ns)
{
    for (size_t i = 0; i < NAT_RELAY_CLIENT_RELAYS_MAX; i++) {
        client->relays[i].keep.first_ns = now_ns;
        client->relays[i].ask.first_ns = now_ns;
    }
}

void nat_relay_client_tick(struct nat_relay_client *client, uint64_t now_ns)
{
    if (now_ns < client->deadline_ns)
        return;
    if (now_ns - client->deadline_ns > STALL_NS)
        forgive(client, now_ns);
    for (size_t i = 0; i < NAT_RELAY_CLIENT_RELAYS_MAX; i++)
        rc_relay_step(client, now_ns, &client->relays[i]);
    for (uint16_t i = 0; i < client->slot_count && client->live_count > 0; i++)
        rc_session_step(client, now_ns, &client->sessions[i]);
    rc_choose(client, now_ns);
    plan(client);
}

uint64_t nat_relay_client_deadline_ns(const struct nat_relay_client *client)
{
    return client->deadline_ns;
}

bool nat_relay_client_poll_event(struct nat_relay_client *client, struct nat_relay_client_event *out)
{
    size_t at = ring_pop(&client->event_ring);
    if (at != RING_NONE)
        *out = client->events[at];
    return at != RING_NONE;
}

static bool send_confirm(struct nat_relay_client *client, struct net_message *out)
{
    size_t at = ring_pop(&client->confirm_ring);
    if (at == RING_NONE)
        return false;
    const struct rc_confirm *confirm = &client->confirms[at];
    out->peer = confirm->relay;
    out->addr = confirm->addr;
    nat_relay_encode(&(struct nat_relay_message){.kind = NAT_RELAY_CLOSE, .session = confirm->session}, out);
    return true;
}

bool nat_relay_client_poll_send(struct nat_relay_client *client, uint64_t now_ns, struct net_message *out)
{
    if (send_confirm(client, out))
        return true;
    if (now_ns < client->deadline_ns)
        return false;
    for (size_t i = 0; i < NAT_RELAY_CLIENT_RELAYS_MAX; i++) {
        if (rc_relay_send(client, now_ns, &client->relays[i], out))
            return true;
    }
    for (uint16_t i = 0; i < client->slot_count && client->live_count > 0; i++) {
        if (rc_session_send(client, now_ns, &client->sessions[i], out))
            return true;
    }
    plan(client);
    return false;
}

/* ---- queries ---- */

size_t nat_relay_client_held(const struct nat_relay_client *client, struct nat_relay_place out[], size_t cap)
{
    size_t count = 0;
    for (size_t i = 0; i < NAT_RELAY_CLIENT_RELAYS_MAX && count < cap; i++) {
        const struct rc_relay *at = &client->relays[i];
        if (at->used && at->state == RC_HELD)
            out[count++] = (struct nat_relay_place){.id = at->id, .addr = at->addr};
    }
    return count;
}

int nat_relay_client_peer(const struct nat_relay_client *client, uint16_t via, struct id *peer)
{
    const struct rc_session *session = session_by_via(client, via);
    if (session == NULL)
        return ERR_NOT_FOUND;
    *peer = session->peer;
    return ERR_OK;
}

size_t nat_relay_client_relays(const struct nat_relay_client *client, struct nat_relay_client_info out[],
                               size_t cap)
{
    size_t count = 0;
    for (size_t i = 0; i < NAT_RELAY_CLIENT_RELAYS_MAX && count < cap; i++) {
        const struct rc_relay *at = &client->relays[i];
        if (!at->used)
            continue;
        out[count++] = (struct nat_relay_client_info){
            .id = at->id,
            .addr = at->addr,
            .seen = at->seen,
            .candidate = at->candidate,
            .held = at->state == RC_HELD,
            .sessions = at->sessions,
            .rtt_ns = at->rtt_ns,
            .rate = at->rate,
            .volume = at->volume,
            .refused = at->refused,
        };
    }
    return count;
}

size_t nat_relay_client_session_count(const struct nat_relay_client *client)
{
    return client->live_count;
}

struct nat_relay_client_stats nat_relay_client_stats(const struct nat_relay_client *client)
{
    return client->stats;
}

void nat_relay_client_check_invariants(const struct nat_relay_client *client)
{
    ring_check_invariants(&client->confirm_ring);
    ring_check_invariants(&client->event_ring);
    ring_check_invariants(&client->waiting_ring);
    rc_relays_check(client);
    rc_sessions_check(client);
}
