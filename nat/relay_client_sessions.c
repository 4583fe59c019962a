/* Sessions of a relay's client: opened, offered, up, closed, and their slots. */
#include <sodium.h>
#include <string.h>

#include "nat/relay_client_internal.h"

static const uint64_t millisecond_ns = UINT64_C(1000000);

#define SLOT_WAIT_NS (60000 * millisecond_ns)

/* ---- slots and chains ---- */

static uint16_t session_index(const struct nat_relay_client *client, const struct rc_session *session)
{
    ASSERT(session >= client->sessions && session < client->sessions + client->slot_count);
    return (uint16_t)(session - client->sessions);
}

/* Session ids are the relays' choice: the key keeps them from all falling into one chain. */
static uint16_t *id_head(const struct nat_relay_client *client, uint64_t id)
{
    uint8_t hash[crypto_shorthash_BYTES], bytes[8];
    store_le64(bytes, id);
    crypto_shorthash(hash, bytes, sizeof bytes, client->hash_key);
    return &client->heads[load_le16(hash) & (client->head_count - 1u)];
}

uint16_t rc_session_chain(const struct nat_relay_client *client, uint64_t id)
{
    return *id_head(client, id);
}

/* Two relays may well have drawn one id: the relay takes part. */
struct rc_session *rc_session_find(const struct nat_relay_client *client, const struct rc_relay *relay,
                                   uint64_t id)
{
    uint16_t index = rc_relay_index(client, relay);
    uint16_t at = *id_head(client, id);
    while (at != RC_NONE && (client->sessions[at].id != id || client->sessions[at].relay != index))
        at = client->sessions[at].chain;
    return at == RC_NONE ? NULL : &client->sessions[at];
}

static void name_session(struct nat_relay_client *client, struct rc_session *session, uint64_t id)
{
    uint16_t *head = id_head(client, id);
    ASSERT(session->id == 0);
    session->id = id;
    session->chain = *head;
    *head = session_index(client, session);
}

static void unname_session(struct nat_relay_client *client, struct rc_session *session)
{
    uint16_t index = session_index(client, session);
    if (session->id == 0)
        return;
    uint16_t *link = id_head(client, session->id);
    while (*link != index)
        link = &client->sessions[*link].chain;
    *link = session->chain;
    session->id = 0;
}

uint32_t rc_session_token(const struct nat_relay_client *client, const struct rc_session *session)
{
    return session->generation << RC_TOKEN_SLOT_BITS | session_index(client, session);
}

struct rc_session *rc_session_of(const struct nat_relay_client *client, uint32_t token)
{
    uint32_t slot = token & (RC_SLOTS_MAX - 1);
    if (slot >= client->slot_count)
        return NULL;
    struct rc_session *session = &client->sessions[slot];
    bool live = session->state != RC_FREE && session->state != RC_WAITING;
    return live && rc_session_token(client, session) == token ? session : NULL;
}

static void slot_free(struct nat_relay_client *client, struct rc_session *session)
{
    uint32_t generation = session->generation;
    *session = (struct rc_session){.state = RC_FREE, .chain = client->free_head, .generation = generation};
    client->free_head = session_index(client, session);
}

static void waiting_end(struct nat_relay_client *client, uint64_t now_ns)
{
    size_t at;
    while ((at = ring_peek(&client->waiting_ring)) != RING_NONE) {
        struct rc_session *session = &client->sessions[client->waiting[at]];
        ASSERT(session->state == RC_WAITING);
        if (session->until_ns > now_ns)
            return;
        (void)ring_pop(&client->waiting_ring);
        slot_free(client, session);
    }
}

struct rc_session *rc_session_new(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                                  const struct id *peer, enum rc_session_state state)
{
    waiting_end(client, now_ns);
    if (client->live_count >= client->config.sessions_max || relay->sessions >= NAT_RELAY_KEEP_SESSIONS ||
        client->free_head == RC_NONE)
        return NULL;
    uint16_t index = client->free_head;
    struct rc_session *session = &client->sessions[index];
    client->free_head = session->chain;
    uint32_t generation = (session->generation + 1) & (UINT32_MAX >> RC_TOKEN_SLOT_BITS);
    *session = (struct rc_session){.peer = *peer,
                                   .relay = rc_relay_index(client, relay),
                                   .chain = RC_NONE,
                                   .generation = generation == 0 ? 1 : generation,
                                   .side = state == RC_OPENING ? 0 : 1};
    client->live_count++;
    relay->sessions++;
    rc_session_enter(client, now_ns, session, state);
    return session;
}

/* ---- transitions ---- */

static uint64_t state_limit_ns(enum rc_session_state state)
{
    switch (state) {
    case RC_OPENING:
        return 8000 * millisecond_ns;
    case RC_OFFERED:
        return 4500 * millisecond_ns; /* the relay gives up after 5 s */
    case RC_ACCEPTING:
        return 5000 * millisecond_ns;
    case RC_DECLINED:
        return 6000 * millisecond_ns;
    case RC_CLOSING:
        return 3000 * millisecond_ns;
    case RC_FREE:
    case RC_UP:
    case RC_WAITING:
        break;
    }
    ASSERT(false);
    return 0;
}

void rc_session_enter(struct nat_relay_client *client, uint64_t now_ns, struct rc_session *session,
                      enum rc_session_state state)
{
    client->offer_count = (uint16_t)(client->offer_count - (session->state == RC_OFFERED));
    client->offer_count = (uint16_t)(client->offer_count + (state == RC_OFFERED));
    session->state = state;
    session->request.open = false;
    if (state == RC_UP)
        return;
    session->until_ns = now_ns + state_limit_ns(state);
    rc_wake(client, session->until_ns);
    if (state != RC_OFFERED)
        rc_request_start(client, now_ns, &session->request);
}

void rc_session_end(struct nat_relay_client *client, uint64_t now_ns, struct rc_session *session)
{
    struct rc_relay *relay = &client->relays[session->relay];
    ASSERT(session->state != RC_FREE && session->state != RC_WAITING);
    unname_session(client, session);
    client->offer_count = (uint16_t)(client->offer_count - (session->state == RC_OFFERED));
    client->live_count--;
    relay->sessions--;
    if (session->was_up) {
        session->state = RC_WAITING;
        session->request.open = false;
        session->until_ns = now_ns + SLOT_WAIT_NS;
        size_t at = ring_push(&client->waiting_ring);
        ASSERT(at != RING_NONE);
        client->waiting[at] = session_index(client, session);
    } else {
        slot_free(client, session);
    }
    rc_relay_settle(client, relay);
}

static void session_event(struct nat_relay_client *client, const struct rc_session *session,
                          enum nat_relay_client_event_type type, uint8_t reason)
{
    const struct rc_relay *relay = &client->relays[session->relay];
    rc_event(client, &(struct nat_relay_client_event){
                         .type = type,
                         .token = rc_session_token(client, session),
                         .peer = session->peer,
                         .relay = relay->id,
                         .relay_addr = relay->addr,
                         .route = session->route,
                         .seen = session->seen,
                         .rate = session->rate,
                         .volume = session->volume,
                         .lease_s = session->lease_s,
                         .reason = (enum nat_relay_reason)reason,
                         .answers = relay->heard_ns != 0,
                     });
}

void rc_session_fail(struct nat_relay_client *client, uint64_t now_ns, struct rc_session *session,
                     uint8_t reason)
{
    rc_relay_blame(&client->relays[session->relay], reason);
    if (session->state == RC_UP) {
        trace_emit(&client->config.trace, TRACE_RELAY_DOWN, now_ns, &session->peer, reason, 0, ERR_OK);
        session_event(client, session, NAT_RELAY_SESSION_DOWN, reason);
    } else if (session->state == RC_OPENING || session->state == RC_ACCEPTING) {
        client->stats.sessions_failed++;
        session_event(client, session, NAT_RELAY_SESSION_FAILED, reason);
    }
    rc_session_end(client, now_ns, session);
}

static void take_terms(struct rc_session *session, const struct nat_relay_message *m)
{
    session->rate = m->rate;
    session->volume = m->volume;
    session->granted = m->volume;
    session->told = m->volume;
    session->lease_s = m->lease_s;
}

void rc_session_up(struct nat_relay_client *client, uint64_t now_ns, struct rc_session *session)
{
    struct rc_relay *relay = &client->relays[session->relay];
    ASSERT(session->id != 0);
    rc_session_enter(client, now_ns, session, RC_UP);
    session->was_up = true;
    session->route = relay->addr;
    session->route.via = (uint16_t)(NET_VIA_RELAY_FIRST + session_index(client, session));
    client->stats.sessions_up++;
    relay->refused = NAT_RELAY_BY_NONE;
    rc_relay_used(client, now_ns, relay);
    trace_emit(&client->config.trace, TRACE_RELAY_UP, now_ns, &session->peer, (int64_t)session->rate, 0,
               ERR_OK);
    session_event(client, session, NAT_RELAY_SESSION_UP, NAT_RELAY_BY_NONE);
}

/* ---- messages ---- */

int rc_recv_offer(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                  const struct net_message *from, const struct nat_relay_message *m)
{
    struct rc_session *session = rc_session_find(client, relay, m->session);
    if (session != NULL) { /* our answer was lost: repeat it */
        if (session->state == RC_ACCEPTING || session->state == RC_DECLINED)
            rc_request_start(client, now_ns, &session->request);
        return ERR_OK;
    }
    /* Only where we asked to be found, and never through ourselves. */
    if (relay->state == RC_IDLE || !net_addr_equal(&from->addr, &relay->addr) ||
        id_equal(&m->peer, &client->config.self) || id_equal(&m->peer, &relay->id)) {
        client->stats.unmatched++;
        return ERR_REFUSED;
    }
    client->stats.offers++;
    bool full = client->offer_count >= NAT_RELAY_CLIENT_OFFERS_MAX;
    session = rc_session_new(client, now_ns, relay, &m->peer, full ? RC_DECLINED : RC_OFFERED);
    client->stats.offers_declined += full || session == NULL;
    if (session == NULL)
        return ERR_FULL;
    name_session(client, session, m->session);
    take_terms(session, m);
    if (!full)
        session_event(client, session, NAT_RELAY_SESSION_OFFERED, NAT_RELAY_BY_NONE);
    return ERR_OK;
}

static struct rc_session *opening(struct nat_relay_client *client, const struct rc_relay *relay,
                                  enum rc_session_state state, uint32_t request)
{
    uint16_t index = rc_relay_index(client, relay);
    for (uint16_t i = 0; i < client->slot_count && relay->sessions > 0; i++) {
        struct rc_session *at = &client->sessions[i];
        if (at->state == state && at->relay == index && at->request.id == request)
            return at;
    }
    return NULL;
}

int rc_recv_opened(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                   const struct net_message *from, const struct nat_relay_message *m)
{
    struct rc_session *named = rc_session_find(client, relay, m->session);
    struct rc_session *session = named;
    if (named == NULL)
        session = opening(client, relay, RC_OPENING, m->request);
    bool fits = session != NULL && id_equal(&session->peer, &m->peer);
    if (!fits || session->state == RC_OFFERED || session->state == RC_DECLINED) {
        client->stats.unmatched++;
        if (session == NULL) /* given up or closed meanwhile: the relay shall not wait for our silence */
            rc_confirm(client, &from->peer, &from->addr, m->session);
        return ERR_REFUSED;
    }
    if (session->state == RC_OPENING)
        name_session(client, session, m->session);
    if (session->state == RC_OPENING || session->state == RC_ACCEPTING) {
        take_terms(session, m);
        session->seen = m->seen;
        rc_session_up(client, now_ns, session);
    }
    if (m->has_nonce && net_addr_equal(&from->addr, &relay->addr))
        rc_prove(client, now_ns, relay, &from->addr, m);
    return ERR_OK;
}

int rc_recv_open_refused(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                         const struct nat_relay_message *m)
{
    struct rc_session *session = opening(client, relay, RC_OPENING, m->request);
    if (session != NULL && m->has_nonce && !session->has_nonce) {
        session->has_nonce = true; /* busy relay: it wants our address proven first */
        memcpy(session->nonce, m->nonce, sizeof session->nonce);
        session->request.at_ns = now_ns;
        rc_wake(client, now_ns);
        return ERR_OK;
    }
    if (session == NULL)
        session = opening(client, relay, RC_ACCEPTING, m->request);
    if (session == NULL) {
        client->stats.unmatched++;
        return ERR_REFUSED;
    }
    rc_session_fail(client, now_ns, session, m->reason);
    return ERR_OK;
}

int rc_recv_notice(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                   const struct net_message *from, const struct nat_relay_message *m)
{
    struct rc_session *session = relay == NULL ? NULL : rc_session_find(client, relay, m->session);
    if (m->request == 0)
        rc_confirm(client, &from->peer, &from->addr, m->session);
    if (session == NULL) {
        client->stats.unmatched++;
        return ERR_REFUSED;
    }
    rc_session_fail(client, now_ns, session, m->reason);
    return ERR_OK;
}

void rc_sessions_quota(struct nat_relay_client *client, const struct rc_relay *relay,
                       const struct nat_relay_message *m)
{
    uint16_t index = rc_relay_index(client, relay);
    for (uint16_t i = 0; i < client->slot_count && relay->sessions > 0; i++) {
        struct rc_session *at = &client->sessions[i];
        if (at->state != RC_UP || at->relay != index)
            continue;
        bool changed = at->rate != m->rate || m->volume > at->told || at->told - m->volume > at->granted / 10;
        at->rate = m->rate;
        at->volume = m->volume;
        if (!changed)
            continue;
        at->granted = m->volume > at->granted ? m->volume : at->granted;
        at->told = m->volume;
        session_event(client, at, NAT_RELAY_SESSION_QUOTA, NAT_RELAY_BY_NONE);
    }
}

void rc_sessions_lost(struct nat_relay_client *client, uint64_t now_ns, const struct rc_relay *relay)
{
    uint16_t index = rc_relay_index(client, relay);
    for (uint16_t i = 0; i < client->slot_count && relay->sessions > 0; i++) {
        struct rc_session *at = &client->sessions[i];
        if (at->state == RC_FREE || at->state == RC_WAITING || at->relay != index)
            continue;
        if (at->id != 0) /* if only answers were lost, the other end shall not wait for our silence */
            rc_confirm(client, &relay->id, &relay->addr, at->id);
        rc_session_fail(client, now_ns, at, NAT_RELAY_BY_LOST);
    }
}

void rc_sessions_list(const struct nat_relay_client *client, const struct rc_relay *relay,
                      struct nat_relay_message *m)
{
    uint16_t index = rc_relay_index(client, relay);
    for (uint16_t i = 0; i < client->slot_count && relay->sessions > 0; i++) {
        const struct rc_session *at = &client->sessions[i];
        if (at->state == RC_UP && at->relay == index)
            m->sessions[m->session_count++] = at->id;
    }
}

/* ---- time and sending ---- */

void rc_session_step(struct nat_relay_client *client, uint64_t now_ns, struct rc_session *session)
{
    bool timed = session->state != RC_FREE && session->state != RC_WAITING && session->state != RC_UP;
    if (timed && session->until_ns <= now_ns)
        rc_session_fail(client, now_ns, session, NAT_RELAY_BY_SILENT);
}

uint64_t rc_session_next_ns(const struct rc_session *session)
{
    bool timed = session->state != RC_FREE && session->state != RC_WAITING && session->state != RC_UP;
    uint64_t next_ns = timed ? session->until_ns : UINT64_MAX;
    if (timed && session->request.open)
        rc_least(&next_ns, session->request.at_ns);
    return next_ns;
}

static void fill(struct rc_session *session, struct nat_relay_message *m)
{
    m->request = session->request.id;
    m->session = session->id;
    switch (session->state) {
    case RC_OPENING:
        m->kind = NAT_RELAY_OPEN;
        m->peer = session->peer;
        m->has_nonce = session->has_nonce;
        memcpy(m->nonce, session->nonce, sizeof m->nonce);
        break;
    case RC_ACCEPTING:
        m->kind = NAT_RELAY_ACCEPT;
        break;
    case RC_DECLINED:
        m->kind = NAT_RELAY_DECLINE;
        break;
    case RC_CLOSING:
        m->kind = NAT_RELAY_CLOSE;
        break;
    case RC_FREE:
    case RC_OFFERED:
    case RC_UP:
    case RC_WAITING:
        ASSERT(false);
    }
}

bool rc_session_send(struct nat_relay_client *client, uint64_t now_ns, struct rc_session *session,
                     struct net_message *out)
{
    struct nat_relay_message m = {.request = 0};
    if (!rc_request_due(&session->request, now_ns) || session->state == RC_FREE ||
        session->state == RC_WAITING)
        return false;
    const struct rc_relay *relay = &client->relays[session->relay];
    fill(session, &m);
    out->peer = relay->id;
    out->addr = relay->addr;
    nat_relay_encode(&m, out);
    rc_request_sent(client, now_ns, &session->request, true);
    if (session->state == RC_DECLINED)
        session->request.open = false; /* repeated only when the OFFER is */
    return true;
}

/* ---- checks ---- */

static void check_session(const struct nat_relay_client *client, const struct rc_session *session)
{
    const struct rc_relay *relay = &client->relays[session->relay];
    ASSERT(relay->used);
    ASSERT(session->generation > 0);
    ASSERT((session->id == 0) == (session->state == RC_OPENING));
    ASSERT(session->id == 0 || rc_session_find(client, relay, session->id) == session);
    ASSERT((session->state == RC_UP) <= session->was_up);
    ASSERT(session->state == RC_UP || client->deadline_ns <= session->until_ns);
    ASSERT(!session->request.open || client->deadline_ns <= session->request.at_ns);
}

void rc_sessions_check(const struct nat_relay_client *client)
{
    size_t live = 0, waiting = 0, unused = 0, offered = 0;
    for (uint16_t i = 0; i < client->slot_count; i++) {
        const struct rc_session *at = &client->sessions[i];
        waiting += at->state == RC_WAITING;
        offered += at->state == RC_OFFERED;
        if (at->state == RC_FREE || at->state == RC_WAITING)
            continue;
        check_session(client, at);
        live++;
    }
    for (uint16_t at = client->free_head; at != RC_NONE; at = client->sessions[at].chain)
        unused++;
    ASSERT(live == client->live_count && live <= client->config.sessions_max);
    ASSERT(waiting == client->waiting_ring.count && offered == client->offer_count);
    ASSERT(live + waiting + unused == client->slot_count);
}
