/* What happens to a session: asked for, offered, accepted, ended. */
#include "nat/relay_internal.h"

static const uint64_t millisecond_ns = UINT64_C(1000000);

#define OFFER_EVERY_NS   (125 * millisecond_ns) /* lets one new session be offered to a node */
#define OFFER_REPEAT_NS  (500 * millisecond_ns)
#define OFFER_LIMIT_NS   (5000 * millisecond_ns)
#define NOTICE_REPEAT_NS (500 * millisecond_ns) /* doubled each time */
#define ENDED_NS         (5000 * millisecond_ns)

int relay_side_of(const struct nat_relay *relay, const struct relay_session *session,
                  const struct relay_node *node)
{
    uint16_t index = relay_node_index(relay, node);
    if (session->state == RELAY_FREE)
        return -1;
    return session->node[RELAY_OPENER] == index   ? RELAY_OPENER
           : session->node[RELAY_TARGET] == index ? RELAY_TARGET
                                                  : -1;
}

static struct relay_node *node_at(const struct nat_relay *relay, const struct relay_session *session,
                                  int side)
{
    return &relay->nodes[session->node[side]];
}

/* ---- telling ---- */

static void add_terms(struct nat_relay *relay, uint64_t now_ns, const struct relay_session *session,
                      struct nat_relay_message *m)
{
    uint64_t opener = relay_volume_left(relay, now_ns, node_at(relay, session, RELAY_OPENER));
    uint64_t target = relay_volume_left(relay, now_ns, node_at(relay, session, RELAY_TARGET));
    m->session = session->id;
    m->rate = relay_granted_rate(relay);
    m->volume = opener < target ? opener : target;
    m->lease_s = (uint32_t)(relay->config.silence_ns / (1000 * millisecond_ns));
}

static void send_offer(struct nat_relay *relay, uint64_t now_ns, struct relay_session *session)
{
    struct relay_node *target = node_at(relay, session, RELAY_TARGET);
    struct nat_relay_message m = {.kind = NAT_RELAY_OFFER};
    m.peer = node_at(relay, session, RELAY_OPENER)->id;
    add_terms(relay, now_ns, session, &m);
    (void)relay_send(relay, &target->id, &target->addr, &m); /* repeated in any case */
    session->tries++;
    session->wake_ns = now_ns + OFFER_REPEAT_NS;
    relay_wake(relay, session->wake_ns);
}

static int send_opened(struct nat_relay *relay, uint64_t now_ns, const struct relay_session *session,
                       int side)
{
    const struct relay_node *node = node_at(relay, session, side);
    struct nat_relay_message m = {.kind = NAT_RELAY_OPENED, .request = session->request[side]};
    const struct net_addr *other = relay_node_addr(node_at(relay, session, !side));
    m.peer = node_at(relay, session, !side)->id;
    /* What a punch needs to know from somebody else than the peer: at which IP its NAT is. */
    if (other->via == NET_VIA_MAIN)
        m.seen = *other;
    add_terms(relay, now_ns, session, &m);
    relay_add_nonce(relay, now_ns, node, &node->id, &session->answer[side], &m);
    return relay_send(relay, &node->id, &session->answer[side], &m);
}

/* The opener's answer while the session is not open. */
static int send_refused(struct nat_relay *relay, const struct relay_session *session)
{
    return relay_send(relay, &node_at(relay, session, RELAY_OPENER)->id, &session->answer[RELAY_OPENER],
                      &(struct nat_relay_message){.kind = NAT_RELAY_REFUSED,
                                                  .request = session->request[RELAY_OPENER],
                                                  .reason = session->reason});
}

static void send_notices(struct nat_relay *relay, uint64_t now_ns, struct relay_session *session)
{
    for (int side = 0; side < 2; side++) {
        const struct relay_node *node = node_at(relay, session, side);
        if (session->told[side])
            continue;
        (void)relay_send(relay, &node->id, relay_node_addr(node),
                         &(struct nat_relay_message){
                             .kind = NAT_RELAY_NOTICE, .session = session->id, .reason = session->reason});
    }
    session->wake_ns = now_ns + (NOTICE_REPEAT_NS << (session->tries < 4 ? session->tries : 4));
    session->tries++;
    uint64_t end_ns = session->since_ns + ENDED_NS;
    if (session->wake_ns > end_ns || (session->told[0] && session->told[1]))
        session->wake_ns = end_ns > now_ns ? end_ns : now_ns + 1;
    relay_wake(relay, session->wake_ns);
}

/* ---- transitions ---- */

void relay_session_end(struct nat_relay *relay, uint64_t now_ns, struct relay_session *session,
                       enum nat_relay_reason reason)
{
    ASSERT(session->state == RELAY_OFFERED || session->state == RELAY_OPEN);
    bool was_open = session->state == RELAY_OPEN;
    session->state = RELAY_ENDED;
    session->reason = (uint8_t)reason;
    session->since_ns = now_ns;
    session->tries = 0;
    if (!was_open) {
        session->told[RELAY_OPENER] = true; /* by the answer to its OPEN, which it repeats */
        relay->stats.refused++;
        (void)send_refused(relay, session);
    } else {
        trace_emit(&relay->config.trace, TRACE_RELAY_SERVED, now_ns,
                   &node_at(relay, session, RELAY_OPENER)->id,
                   (int64_t)(session->bytes[0] + session->bytes[1]), reason, ERR_OK);
        relay_event(relay, &(struct nat_relay_event){
                               .type = NAT_RELAY_SESSION_ENDED,
                               .peer = node_at(relay, session, RELAY_OPENER)->id,
                               .other = node_at(relay, session, RELAY_TARGET)->id,
                               .bytes = session->bytes[0] + session->bytes[1],
                               .reason = reason,
                           });
    }
    session->wake_ns = now_ns; /* the NOTICEs leave with the next tick */
    relay_wake(relay, now_ns);
}

void relay_end_all(struct nat_relay *relay, uint64_t now_ns, const struct relay_node *node, bool as_target,
                   enum nat_relay_reason reason)
{
    for (size_t i = 0; i < relay->config.sessions_max && node->sessions > 0; i++) {
        struct relay_session *at = &relay->sessions[i];
        int side = relay_side_of(relay, at, node);
        if (side >= (as_target ? RELAY_TARGET : RELAY_OPENER) && at->state != RELAY_ENDED)
            relay_session_end(relay, now_ns, at, reason);
    }
}

uint64_t relay_session_step(struct nat_relay *relay, uint64_t now_ns, struct relay_session *session)
{
    switch (session->state) {
    case RELAY_OFFERED:
        if (now_ns - session->since_ns >= OFFER_LIMIT_NS) {
            relay_session_end(relay, now_ns, session, NAT_RELAY_BY_SILENT);
            send_notices(relay, now_ns, session);
        } else if (session->wake_ns <= now_ns) {
            send_offer(relay, now_ns, session);
        }
        return session->wake_ns;
    case RELAY_ENDED:
        if (now_ns - session->since_ns >= ENDED_NS)
            relay_session_free(relay, session);
        else if (session->wake_ns <= now_ns)
            send_notices(relay, now_ns, session);
        return session->state == RELAY_ENDED ? session->wake_ns : UINT64_MAX;
    case RELAY_FREE:
    case RELAY_OPEN:
        break; /* its nodes' silence and leases end it */
    }
    return UINT64_MAX;
}

/* ---- OPEN ---- */

static enum nat_relay_reason why_not_open(struct nat_relay *relay, uint64_t now_ns,
                                          const struct net_message *from, struct relay_node *opener,
                                          struct relay_node *target)
{
    if (relay_is_off(relay))
        return NAT_RELAY_BY_OFF;
    if (target == NULL || !target->reserved || target->lease_until_ns <= now_ns)
        return NAT_RELAY_BY_NO_RESERVATION;
    if (relay_volume_left(relay, now_ns, target) == 0 ||
        (opener != NULL && relay_volume_left(relay, now_ns, opener) == 0))
        return NAT_RELAY_BY_QUOTA;
    size_t most = relay->config.sessions_per_client;
    if (relay_live_sessions(relay, target) >= most ||
        (opener != NULL && relay_live_sessions(relay, opener) >= most))
        return NAT_RELAY_BY_FULL;
    if ((opener == NULL || !opener->reserved) &&
        relay_group_count(relay, &from->addr, false, opener) >= relay->config.openers_per_group)
        return NAT_RELAY_BY_GROUP;
    if (target->offers_ns > now_ns + (RELAY_OFFERS_BURST - 1) * OFFER_EVERY_NS ||
        relay_offers(relay, target, NULL) >= RELAY_OFFERS_MAX ||
        relay_offers(relay, target, &from->addr) >= RELAY_OFFERS_GROUP_MAX)
        return NAT_RELAY_BY_RATE;
    return NAT_RELAY_BY_NONE;
}

static int refuse_open(struct nat_relay *relay, uint64_t now_ns, const struct net_message *from,
                       const struct nat_relay_message *m, enum nat_relay_reason reason, bool ask_proof)
{
    struct nat_relay_message answer = {.kind = NAT_RELAY_REFUSED, .request = m->request};
    answer.reason = (uint8_t)reason;
    if (ask_proof)
        relay_add_nonce(relay, now_ns, NULL, &from->peer, &from->addr, &answer);
    relay->stats.refused++;
    return relay_send(relay, &from->peer, &from->addr, &answer);
}

/* A node whose undecided offers pile up is protected from openers at invented addresses. */
static bool must_prove(const struct nat_relay *relay, uint64_t now_ns, const struct net_message *from,
                       const struct nat_relay_message *m, const struct relay_node *opener,
                       const struct relay_node *target)
{
    if (relay_offers(relay, target, NULL) < RELAY_OFFERS_EASY)
        return false;
    if (opener != NULL && net_addr_equal(&opener->addr, &from->addr))
        return false;
    return !relay_proves(relay, now_ns, from, m);
}

static int open_new(struct nat_relay *relay, uint64_t now_ns, const struct net_message *from,
                    const struct nat_relay_message *m, struct relay_node *target)
{
    struct relay_node *opener = relay_node_take(relay, now_ns, &from->peer);
    if (opener == NULL)
        return refuse_open(relay, now_ns, from, m, NAT_RELAY_BY_FULL, false);
    opener->from = from->addr;
    if (relay_proves(relay, now_ns, from, m))
        relay_prove(relay, opener, &from->addr);
    struct relay_session *session = relay_session_new(relay, opener, target);
    if (session == NULL)
        return refuse_open(relay, now_ns, from, m, NAT_RELAY_BY_FULL, false);
    target->offers_ns = (target->offers_ns > now_ns ? target->offers_ns : now_ns) + OFFER_EVERY_NS;
    session->request[RELAY_OPENER] = m->request;
    session->answer[RELAY_OPENER] = from->addr;
    session->since_ns = now_ns;
    relay_wake(relay, opener->heard_ns + relay->config.silence_ns);
    relay_wake(relay, target->heard_ns + relay->config.silence_ns);
    send_offer(relay, now_ns, session);
    return ERR_OK;
}

/* The answer to a repeated OPEN. */
static int answer_again(struct nat_relay *relay, uint64_t now_ns, struct relay_session *session,
                        const struct net_message *from)
{
    session->answer[RELAY_OPENER] = from->addr;
    switch (session->state) {
    case RELAY_OPEN:
        return send_opened(relay, now_ns, session, RELAY_OPENER);
    case RELAY_ENDED:
        return send_refused(relay, session);
    case RELAY_OFFERED:
    case RELAY_FREE:
        break; /* the target has not decided yet */
    }
    return ERR_OK;
}

int relay_recv_open(struct nat_relay *relay, uint64_t now_ns, const struct net_message *from,
                    const struct nat_relay_message *m)
{
    struct relay_node *opener = relay_node_find(relay, &from->peer);
    struct relay_node *target = relay_node_find(relay, &m->peer);
    struct relay_session *session = NULL;
    if (target == opener)
        target = NULL; /* also when both are unknown */
    if (opener != NULL && target != NULL)
        session = relay_session_between(relay, opener, target, m->request);
    if (session != NULL && session->request[RELAY_OPENER] == m->request)
        return answer_again(relay, now_ns, session, from);
    if (session != NULL) { /* the opener has lost the session, by a restart: it asks anew */
        relay_session_end(relay, now_ns, session, NAT_RELAY_BY_REPLACED);
        session->told[RELAY_OPENER] = true;
    }
    enum nat_relay_reason reason = why_not_open(relay, now_ns, from, opener, target);
    if (reason != NAT_RELAY_BY_NONE)
        return refuse_open(relay, now_ns, from, m, reason, false);
    if (must_prove(relay, now_ns, from, m, opener, target))
        return refuse_open(relay, now_ns, from, m, NAT_RELAY_BY_RATE, true);
    return open_new(relay, now_ns, from, m, target);
}

/* ---- ACCEPT, DECLINE, CLOSE ---- */

/* The session that the message is about, if its sender is on one of the sides. */
static struct relay_session *session_of(struct nat_relay *relay, const struct net_message *from,
                                        const struct nat_relay_message *m, int *side)
{
    const struct relay_node *node = relay_node_find(relay, &from->peer);
    struct relay_session *session = relay_session_find(relay, m->session);
    *side = node != NULL && session != NULL ? relay_side_of(relay, session, node) : -1;
    if (*side >= 0)
        return session;
    relay->stats.unmatched++;
    return NULL;
}

int relay_recv_accept(struct nat_relay *relay, uint64_t now_ns, const struct net_message *from,
                      const struct nat_relay_message *m)
{
    int side;
    struct relay_session *session = session_of(relay, from, m, &side);
    if (session == NULL || side != RELAY_TARGET || session->state == RELAY_ENDED)
        return refuse_open(relay, now_ns, from, m,
                           session != NULL && session->state == RELAY_ENDED
                               ? (enum nat_relay_reason)session->reason
                               : NAT_RELAY_BY_UNKNOWN,
                           false);
    bool first = session->state == RELAY_OFFERED;
    session->request[RELAY_TARGET] = m->request;
    session->answer[RELAY_TARGET] = from->addr;
    if (first) {
        session->state = RELAY_OPEN;
        session->since_ns = now_ns;
        session->opened_ns = now_ns;
        relay->stats.opened++;
        relay_event(relay, &(struct nat_relay_event){
                               .type = NAT_RELAY_SESSION_OPENED,
                               .peer = node_at(relay, session, RELAY_OPENER)->id,
                               .other = from->peer,
                               .addr = session->answer[RELAY_OPENER],
                           });
        (void)send_opened(relay, now_ns, session, RELAY_OPENER); /* else it comes with the repeated OPEN */
    }
    return send_opened(relay, now_ns, session, RELAY_TARGET);
}

int relay_recv_decline(struct nat_relay *relay, uint64_t now_ns, const struct net_message *from,
                       const struct nat_relay_message *m)
{
    int side;
    struct relay_session *session = session_of(relay, from, m, &side);
    if (session == NULL || side != RELAY_TARGET || session->state == RELAY_OPEN)
        return ERR_REFUSED;
    if (session->state == RELAY_OFFERED)
        relay_session_end(relay, now_ns, session, NAT_RELAY_BY_DECLINED);
    session->told[RELAY_TARGET] = true;
    return ERR_OK;
}

int relay_recv_close(struct nat_relay *relay, uint64_t now_ns, const struct net_message *from,
                     const struct nat_relay_message *m)
{
    int side;
    struct relay_session *session = session_of(relay, from, m, &side);
    uint8_t reason = NAT_RELAY_BY_UNKNOWN;
    if (session != NULL) {
        if (session->state != RELAY_ENDED)
            relay_session_end(relay, now_ns, session, NAT_RELAY_BY_CLOSED);
        session->told[side] = true;
        reason = session->reason;
    }
    if (m->request == 0)
        return session == NULL ? ERR_REFUSED : ERR_OK;
    return relay_send(
        relay, &from->peer, &from->addr,
        &(struct nat_relay_message){
            .kind = NAT_RELAY_NOTICE, .request = m->request, .session = m->session, .reason = reason});
}
