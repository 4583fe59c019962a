/* Messages of hole punching in and out: who may say what when, and what is owed. */
#include <string.h>

#include "nat/punch_internal.h"

static const uint64_t hour_ns = 3600000 * PUNCH_MS;

/* ---- in ---- */

static struct punch_round *round_of(struct nat_punch *punch, const struct punch_peer *peer, uint64_t id)
{
    for (size_t i = 0; i < NAT_PUNCH_ROUNDS_MAX; i++) {
        struct punch_round *at = &punch->rounds[i];
        if (at->state != PUNCH_FREE && at->peer == peer - punch->peers && at->id == id)
            return at;
    }
    return NULL;
}

/* Counts a round that the peer invites us to. */
static bool may_invite(struct punch_peer *peer, uint64_t now_ns)
{
    if (peer->inbound == 0 || now_ns - peer->hour_ns >= hour_ns) {
        peer->hour_ns = now_ns;
        peer->inbound = 0;
    }
    if (peer->inbound >= NAT_PUNCH_INBOUND_HOUR_MAX)
        return false;
    peer->inbound++;
    return true;
}

/* The peer invites to the round that we are in: a copy, or its next attempt. */
static int invited_again(struct nat_punch *punch, uint64_t now_ns, struct punch_peer *peer,
                         struct punch_round *round, const struct punch_message *m)
{
    if (round->inviter)
        return ERR_REFUSED; /* our own round id, from the other side */
    if (m->attempt == round->attempt) {
        round->answer_due = round->state == PUNCH_ANSWERED;
        return ERR_OK;
    }
    bool next =
        m->attempt == round->attempt + 1 &&
        (round->state == PUNCH_ANSWERED || round->state == PUNCH_PUNCHING || round->state == PUNCH_RESTING);
    if (!next)
        return ERR_STALE;
    punch_round_invited(punch, now_ns, peer, round, m);
    return ERR_OK;
}

static int refuse(struct nat_punch *punch, const struct punch_peer *peer, const struct punch_message *m,
                  int code)
{
    punch_end_push(punch, peer, m->round, m->attempt, NAT_PUNCH_REFUSED);
    return code;
}

static int recv_invite(struct nat_punch *punch, uint64_t now_ns, struct punch_peer *peer,
                       const struct punch_message *m)
{
    uint8_t reason;
    if (punch_recent(peer, m->round, &reason)) {
        if (reason != NAT_PUNCH_DONE)
            punch_end_push(punch, peer, m->round, m->attempt, (enum nat_punch_reason)reason);
        return ERR_STALE;
    }
    struct punch_round *round = peer->round == PUNCH_NONE ? NULL : &punch->rounds[peer->round];
    if (round != NULL && round->id == m->round)
        return invited_again(punch, now_ns, peer, round, m);
    if (round != NULL && round->inviter && id_compare(&punch->config.self, &peer->id) < 0)
        return ERR_BUSY; /* both invited: the lower id's round goes on, and that is ours */
    if (!may_invite(peer, now_ns))
        return refuse(punch, peer, m, ERR_RATE);
    if (round != NULL && !round->inviter) { /* it began anew, having lost the old one */
        round->quiet = true;
        punch_round_finish(punch, now_ns, round, NAT_PUNCH_SUPERSEDED);
        round = NULL;
    }
    if (round == NULL)
        round = punch_round_new(punch);
    if (round == NULL)
        return refuse(punch, peer, m, ERR_FULL);
    punch->stats.rounds_inbound++;
    punch_round_invited(punch, now_ns, peer, round, m);
    return ERR_OK;
}

static int recv_end(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                    const struct punch_message *m)
{
    if (round->state == PUNCH_CLOSED)
        return ERR_OK;
    if (m->code == NAT_PUNCH_DONE) {
        if (round->hit_count == 0)
            return ERR_REFUSED; /* it cannot have had an answer of ours */
        round->reached = round->hits[0];
        punch_round_finish(punch, now_ns, round, NAT_PUNCH_DONE);
        return ERR_OK;
    }
    round->quiet = true;
    punch_round_finish(punch, now_ns, round,
                       m->code < NAT_PUNCH_REASONS ? (enum nat_punch_reason)m->code : NAT_PUNCH_REFUSED);
    return ERR_OK;
}

static int owe(struct nat_punch *punch, const struct net_message *message, uint8_t kind,
               const struct punch_message *m)
{
    size_t at = ring_push(&punch->answer_ring);
    if (at == RING_NONE) {
        punch->stats.answers_dropped++;
        return ERR_FULL;
    }
    punch->answers[at] = (struct punch_answer){.peer = message->peer,
                                               .addr = message->addr,
                                               .kind = kind,
                                               .round = m->round,
                                               .sequence = m->sequence};
    return ERR_OK;
}

static bool by_udp(const struct net_addr *addr)
{
    return (addr->via == NET_VIA_MAIN || net_via_is_aux(addr->via)) &&
           net_addr_scope(addr) != NET_SCOPE_INVALID;
}

static int recv_probe(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                      const struct net_message *message, const struct punch_message *m)
{
    bool answer = m->kind == PUNCH_KIND_PROBE_ANSWER;
    if (!by_udp(&message->addr) || (answer && (m->sequence == 0 || m->sequence > round->sequence)))
        return ERR_REFUSED;
    if (!punch_round_hit(punch, now_ns, round, &message->addr, answer))
        return ERR_REFUSED;
    return answer ? ERR_OK : owe(punch, message, PUNCH_KIND_PROBE_ANSWER, m);
}

static int recv_look_answer(struct nat_punch *punch, uint64_t now_ns, const struct net_message *message,
                            const struct punch_message *m)
{
    bool asked = false;
    for (size_t i = 0; i < punch->observer_count; i++)
        asked = asked || id_equal(&punch->observers[i].id, &message->peer);
    if (!asked || m->addr.family != NET_FAMILY_V4 || net_addr_scope(&m->addr) != NET_SCOPE_GLOBAL)
        return ERR_REFUSED;
    for (size_t i = 0; i < NAT_PUNCH_ROUNDS_MAX; i++) {
        struct punch_round *round = &punch->rounds[i];
        if (round->state != PUNCH_PREPARING || round->look_need != PUNCH_ASKED ||
            round->look_number != m->sequence || round->base_via != message->addr.via)
            continue;
        round->ours.candidates[round->ours.count++] =
            (struct nat_punch_candidate){.source = NAT_PUNCH_FRESH, .addr = m->addr};
        ASSERT(round->ours.count <= NAT_PUNCH_CANDIDATES_MAX);
        round->look_need = PUNCH_HAVE;
        round->look_due = false;
        round->resend_ns = UINT64_MAX;
        punch_round_step(punch, now_ns, round);
        return ERR_OK;
    }
    return ERR_STALE;
}

/* A message about a round that exists. */
static int recv_round(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                      const struct net_message *message, const struct punch_message *m)
{
    switch (m->kind) {
    case PUNCH_KIND_ANSWER:
        if (round->state != PUNCH_INVITED || m->attempt != round->attempt)
            return ERR_STALE;
        punch_round_answered(punch, now_ns, round, m);
        return ERR_OK;
    case PUNCH_KIND_GO:
        if (m->attempt != round->attempt ||
            (round->state != PUNCH_ANSWERED && round->state != PUNCH_PUNCHING))
            return ERR_STALE;
        if (round->inviter) { /* it was received */
            round->resend_ns = UINT64_MAX;
            round->go_due = false;
            return ERR_OK;
        }
        punch_round_go(punch, now_ns, round, m);
        return ERR_OK;
    case PUNCH_KIND_END:
        return recv_end(punch, now_ns, round, m);
    default:
        return recv_probe(punch, now_ns, round, message, m);
    }
}

static int dispatch(struct nat_punch *punch, uint64_t now_ns, const struct net_message *message,
                    const struct punch_message *m)
{
    if (m->kind == PUNCH_KIND_LOOK) /* from anyone: the answer is no larger, and goes where it came from */
        return by_udp(&message->addr) ? owe(punch, message, PUNCH_KIND_LOOK_ANSWER, m) : ERR_REFUSED;
    if (m->kind == PUNCH_KIND_LOOK_ANSWER)
        return recv_look_answer(punch, now_ns, message, m);
    struct punch_peer *peer = punch_find(punch, &message->peer);
    if (peer == NULL || !peer->signalled)
        return ERR_REFUSED;
    if (m->kind == PUNCH_KIND_INVITE)
        return recv_invite(punch, now_ns, peer, m);
    struct punch_round *round = round_of(punch, peer, m->round);
    return round == NULL ? ERR_STALE : recv_round(punch, now_ns, round, message, m);
}

int nat_punch_recv(struct nat_punch *punch, uint64_t now_ns, const struct net_message *message)
{
    struct punch_message m;
    ASSERT(message->kind >= NET_KIND_PUNCH_FIRST && message->kind <= NET_KIND_PUNCH_LAST);
    int rc = punch_decode(message, &m);
    if (rc != ERR_OK) {
        punch->stats.malformed++;
        return rc;
    }
    if (id_equal(&message->peer, &punch->config.self))
        rc = ERR_REFUSED;
    else
        rc = dispatch(punch, now_ns, message, &m);
    punch->stats.refused += rc != ERR_OK;
    return rc;
}

/* ---- out ---- */

static bool is_open(const struct nat_punch *punch, uint16_t via)
{
    for (size_t i = 0; i < PUNCH_SOCKETS; i++) {
        const struct punch_socket *at = &punch->sockets[i];
        if (at->via == via && (at->state == PUNCH_SOCKET_ROUND || at->state == PUNCH_SOCKET_KEPT))
            return true;
    }
    return via == NET_VIA_MAIN;
}

static bool next_answer(struct nat_punch *punch, struct net_message *out)
{
    size_t at;
    do { /* a socket may have been given up since its datagram came */
        at = ring_pop(&punch->answer_ring);
        if (at == RING_NONE)
            return false;
    } while (!is_open(punch, punch->answers[at].addr.via));
    const struct punch_answer *answer = &punch->answers[at];
    struct punch_message m = {
        .kind = answer->kind, .round = answer->round, .sequence = answer->sequence, .addr = answer->addr};
    out->peer = answer->peer;
    out->addr = answer->addr;
    punch_encode(&m, out);
    punch->stats.answers_sent++;
    return true;
}

static bool next_end(struct nat_punch *punch, struct net_message *out)
{
    size_t at = ring_pop(&punch->end_ring);
    if (at == RING_NONE)
        return false;
    const struct punch_end *end = &punch->ends[at];
    struct punch_message m = {
        .kind = PUNCH_KIND_END, .round = end->round, .attempt = end->attempt, .code = end->code};
    out->peer = end->peer;
    out->addr = end->addr;
    punch_encode(&m, out);
    return true;
}

static void write_side(uint64_t now_ns, const struct punch_round *round, struct punch_message *m)
{
    m->kind = round->inviter ? PUNCH_KIND_INVITE : PUNCH_KIND_ANSWER;
    m->profile = round->ours.profile;
    m->fresh = round->fresh;
    m->held_ms = (uint32_t)((now_ns - round->asked_ns) / PUNCH_MS);
    m->candidate_count = round->ours.count;
    for (size_t i = 0; i < round->ours.count; i++)
        m->candidates[i] = round->ours.candidates[i];
}

/* What a round owes to its peer over the standing route. */
static bool next_signal(const struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                        struct net_message *out)
{
    const struct punch_peer *peer = &punch->peers[round->peer];
    struct punch_message m = {.round = round->id, .attempt = round->attempt};
    if (round->invite_due || round->answer_due) {
        write_side(now_ns, round, &m);
        round->invite_due = round->answer_due = false;
    } else if (round->go_due || round->go_ack_due) {
        m.kind = PUNCH_KIND_GO;
        if (round->go_due && punch_survey_needed(round->strategy, &round->ours.profile))
            m.trend_port = round->ours.profile.trend_port;
        round->go_due = round->go_ack_due = false;
    } else {
        return false;
    }
    out->peer = peer->id;
    out->addr = peer->signal;
    punch_encode(&m, out);
    return true;
}

static bool next_look(struct nat_punch *punch, struct punch_round *round, struct net_message *out)
{
    if (!round->look_due)
        return false;
    round->look_due = false;
    ASSERT(punch->observer_count > 0);
    const struct punch_observer *observer =
        &punch->observers[(punch->turn + round->sends) % punch->observer_count];
    struct punch_message m = {.kind = PUNCH_KIND_LOOK};
    m.sequence = round->look_number;
    out->peer = observer->id;
    out->addr = observer->addr;
    out->addr.via = round->base_via;
    punch_encode(&m, out);
    return true;
}

bool nat_punch_poll_send(struct nat_punch *punch, uint64_t now_ns, struct net_message *out)
{
    if (next_answer(punch, out) || next_end(punch, out))
        return true;
    for (size_t i = 0; i < NAT_PUNCH_ROUNDS_MAX; i++) {
        struct punch_round *round = &punch->rounds[i];
        if (round->state != PUNCH_FREE &&
            (next_signal(punch, now_ns, round, out) || next_look(punch, round, out)))
            return true;
    }
    for (size_t i = 0; i < NAT_PUNCH_ROUNDS_MAX; i++) {
        punch->turn = (punch->turn + 1) % NAT_PUNCH_ROUNDS_MAX;
        if (punch_probe_next(punch, now_ns, &punch->rounds[punch->turn], out))
            return true;
    }
    return false;
}
