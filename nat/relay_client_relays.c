/* Relays of a relay's client: which one to ask, which lives, and where it is. */
#include <string.h>

#include "nat/relay_client_internal.h"

static const uint64_t millisecond_ns = UINT64_C(1000000);

#define BUSY_NS         (5000 * millisecond_ns) /* a relay is busy for so long after a frame */
#define REPROBE_NS      (300000 * millisecond_ns)
#define SETTLE_NS       (300 * millisecond_ns)
#define BACKOFF_NS      (30000 * millisecond_ns)
#define PROVE_LIMIT_NS  (3000 * millisecond_ns)
#define URGENT_NS       (1000 * millisecond_ns) /* requests are urgent for so long after a move */
#define URGENT_SLACK_NS (30 * millisecond_ns)
#define UNKNOWN_RTT_NS  (500 * millisecond_ns) /* what a silent candidate counts as in a choice */

enum {
    TRIES_LOST = 3,     /* fewer unanswered may be chance */
    TRIES_ALT = 6,      /* another address is given up after so many */
    TRIES_ASK = 12,     /* bounds a relay that answers RESERVE with nonces for ever */
    TRIES_RELEASE = 4,  /* the lease ends by itself */
    BACKOFF_DOUBLE = 5, /* at most 16 minutes */
};

/* ---- the table ---- */

uint16_t rc_relay_index(const struct nat_relay_client *client, const struct rc_relay *relay)
{
    ASSERT(relay >= client->relays && relay < client->relays + NAT_RELAY_CLIENT_RELAYS_MAX);
    return (uint16_t)(relay - client->relays);
}

struct rc_relay *rc_relay_find(struct nat_relay_client *client, const struct id *id)
{
    for (size_t i = 0; i < NAT_RELAY_CLIENT_RELAYS_MAX; i++) {
        if (client->relays[i].used && id_equal(&client->relays[i].id, id))
            return &client->relays[i];
    }
    return NULL;
}

struct rc_relay *rc_relay_take(struct nat_relay_client *client, uint64_t now_ns, const struct id *id,
                               const struct net_addr *addr)
{
    struct rc_relay *relay = rc_relay_find(client, id);
    if (relay != NULL) {
        rc_relay_try(client, now_ns, relay, addr);
        return relay;
    }
    for (size_t i = 0; i < NAT_RELAY_CLIENT_RELAYS_MAX; i++) {
        relay = &client->relays[i];
        if (relay->used)
            continue;
        *relay = (struct rc_relay){.id = *id, .addr = *addr, .used = true, .keep_at_ns = now_ns};
        return relay;
    }
    return NULL;
}

bool rc_relay_active(const struct rc_relay *relay)
{
    return relay->state != RC_IDLE || relay->sessions > 0;
}

void rc_relay_settle(struct nat_relay_client *client, struct rc_relay *relay)
{
    (void)client;
    if (!relay->candidate && !rc_relay_active(relay) && !relay->release.open)
        *relay = (struct rc_relay){.used = false};
}

void rc_relay_try(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                  const struct net_addr *addr)
{
    if (net_addr_equal(&relay->addr, addr) || (relay->alt_keep.open && net_addr_equal(&relay->alt, addr)))
        return;
    if (relay->rtt_ns == 0 && !rc_relay_active(relay)) {
        relay->addr = *addr; /* the other one does not answer */
        relay->backoff_until_ns = now_ns;
        relay->keep_at_ns = now_ns;
        rc_wake(client, now_ns);
        return;
    }
    relay->alt = *addr;
    relay->alt_answers = false;
    rc_request_start(client, now_ns, &relay->alt_keep);
}

static void use_alt(struct rc_relay *relay)
{
    relay->addr = relay->alt;
    relay->alt = (struct net_addr){.family = NET_FAMILY_NONE};
    relay->alt_answers = false;
    relay->alt_keep.open = false;
}

/* ---- KEEPs ---- */

/* Idle candidates are asked now and then for their round trip, as long as reservations are wanted. */
static bool keep_wanted(const struct nat_relay_client *client, const struct rc_relay *relay)
{
    return relay->used && (rc_relay_active(relay) || (relay->candidate && client->config.wanted > 0));
}

static bool is_busy(const struct rc_relay *relay, uint64_t now_ns)
{
    return relay->sessions > 0 && relay->used_ns != 0 && now_ns - relay->used_ns < BUSY_NS;
}

static uint64_t keep_interval_ns(const struct nat_relay_client *client, const struct rc_relay *relay,
                                 uint64_t now_ns)
{
    if (!rc_relay_active(relay))
        return REPROBE_NS;
    if (is_busy(relay, now_ns))
        return client->config.refresh_busy_ns;
    /* A little earlier than configured, so that many nodes do not beat in step. */
    return client->config.refresh_ns - rng_below(&client->config.rng, client->config.refresh_ns / 8);
}

void rc_keep_now(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay)
{
    if (!relay->keep.open)
        rc_request_start(client, now_ns, &relay->keep);
    relay->keep.at_ns = now_ns;
    relay->keep.first_ns = now_ns;
    rc_wake(client, now_ns);
}

void rc_relay_used(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay)
{
    relay->used_ns = now_ns;
    uint64_t at_ns = now_ns + client->config.refresh_busy_ns;
    if (!relay->keep.open && relay->keep_at_ns > at_ns) {
        relay->keep_at_ns = at_ns;
        rc_wake(client, at_ns);
    }
}

static void measure(struct rc_relay *relay, uint64_t now_ns)
{
    if (relay->keep.tries != 1)
        return; /* which of them was answered? (Karn) */
    uint64_t rtt_ns = now_ns - relay->keep.sent_ns;
    rtt_ns = rtt_ns == 0 ? 1 : rtt_ns;
    relay->rtt_ns = relay->rtt_ns == 0 ? rtt_ns : (7 * relay->rtt_ns + rtt_ns) / 8;
}

static void take_seen(struct nat_relay_client *client, struct rc_relay *relay,
                      const struct nat_relay_message *m)
{
    if (m->seen.family == NET_FAMILY_NONE || net_addr_equal(&m->seen, &relay->seen))
        return;
    relay->seen = m->seen;
    rc_event(client,
             &(struct nat_relay_client_event){
                 .type = NAT_RELAY_SEEN, .relay = relay->id, .relay_addr = relay->addr, .seen = m->seen});
}

void rc_prove(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
              const struct net_addr *addr, const struct nat_relay_message *m)
{
    if (relay->prove.open && memcmp(relay->prove_nonce, m->nonce, sizeof m->nonce) == 0 &&
        net_addr_equal(&relay->prove_addr, addr))
        return; /* on its way */
    memcpy(relay->prove_nonce, m->nonce, sizeof m->nonce);
    relay->prove_addr = *addr;
    rc_request_start(client, now_ns, &relay->prove);
}

int rc_recv_proven(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                   const struct net_message *from, const struct nat_relay_message *m)
{
    if (!relay->prove.open || m->request != relay->prove.id ||
        !net_addr_equal(&from->addr, &relay->prove_addr)) {
        client->stats.unmatched++;
        return ERR_REFUSED;
    }
    relay->prove.open = false;
    relay->moved_ns = 0;
    take_seen(client, relay, m);
    if (net_addr_equal(&from->addr, &relay->alt))
        use_alt(relay);
    (void)now_ns;
    return ERR_OK;
}

static void lost_reservation(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                             enum nat_relay_reason reason)
{
    bool held = relay->state == RC_HELD;
    relay->state = RC_IDLE;
    relay->ask.open = false;
    if (!held)
        return;
    trace_emit(&client->config.trace, TRACE_RELAY_LOST, now_ns, &relay->id, reason, 0, ERR_OK);
    rc_event(client,
             &(struct nat_relay_client_event){
                 .type = NAT_RELAY_LOST, .relay = relay->id, .relay_addr = relay->addr, .reason = reason});
}

static void back_off(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay)
{
    uint32_t doublings = relay->failures < BACKOFF_DOUBLE ? relay->failures : BACKOFF_DOUBLE;
    relay->failures++;
    relay->backoff_until_ns = now_ns + (BACKOFF_NS << doublings);
    relay->backoff_until_ns += rng_below(&client->config.rng, BACKOFF_NS / 4);
}

static void relay_lost(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay)
{
    client->stats.relays_lost += rc_relay_active(relay);
    relay->keep.open = false;
    relay->prove.open = false;
    relay->rtt_ns = 0;
    back_off(client, now_ns, relay);
    relay->keep_at_ns = relay->backoff_until_ns;
    lost_reservation(client, now_ns, relay, NAT_RELAY_BY_LOST);
    if (relay->sessions > 0)
        rc_sessions_lost(client, now_ns, relay); /* frees the entry when nothing else needs it */
    else
        rc_relay_settle(client, relay);
}

static void end_gone(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                     const struct nat_relay_message *m)
{
    for (size_t i = 0; i < m->session_count && relay->used; i++) {
        struct rc_session *session = rc_session_find(client, relay, m->sessions[i]);
        if (session != NULL && session->state == RC_UP)
            rc_session_fail(client, now_ns, session, NAT_RELAY_BY_UNKNOWN);
    }
}

/* The relay may have been restarted, and then holds nothing for us any more. */
static void check_lease(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                        const struct nat_relay_message *m)
{
    if (relay->state != RC_HELD || m->lease_s > 0 || relay->ask.open)
        return;
    lost_reservation(client, now_ns, relay, NAT_RELAY_BY_EXPIRED);
    rc_choose(client, now_ns);
}

int rc_recv_kept(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                 const struct net_message *from, const struct nat_relay_message *m)
{
    bool main_address = net_addr_equal(&from->addr, &relay->addr);
    if (main_address && relay->keep.open && m->request == relay->keep.id) {
        measure(relay, now_ns);
        relay->keep.open = false;
        if (relay->state == RC_HELD || relay->sessions > 0)
            relay->failures = 0; /* an answer is not yet a reservation */
        relay->keep_at_ns = now_ns + keep_interval_ns(client, relay, now_ns);
        rc_wake(client, relay->keep_at_ns);
    } else if (relay->alt_keep.open && m->request == relay->alt_keep.id &&
               net_addr_equal(&from->addr, &relay->alt)) {
        relay->alt_keep.open = false;
        relay->alt_answers = true;
        if (!m->has_nonce)
            use_alt(relay);
    } else {
        client->stats.unmatched++;
        return ERR_REFUSED;
    }
    take_seen(client, relay, m);
    if (m->has_nonce && rc_relay_active(relay))
        rc_prove(client, now_ns, relay, &from->addr, m);
    else if (m->has_nonce && relay->alt_answers)
        use_alt(relay); /* nothing depends on it yet */
    relay->rate = m->rate;
    relay->volume = m->volume;
    rc_sessions_quota(client, relay, m);
    check_lease(client, now_ns, relay, m);
    end_gone(client, now_ns, relay, m);
    if (client->config.wanted > 0)
        rc_choose(client, now_ns);
    return ERR_OK;
}

/* ---- reservations ---- */

void rc_give_back(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay)
{
    lost_reservation(client, now_ns, relay, NAT_RELAY_BY_DROPPED);
    if (relay->sessions == 0)
        rc_request_start(client, now_ns, &relay->release);
    /* Else the lease runs out by itself, so that what still goes through it has time to go another way. */
}

static void ask(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay)
{
    relay->has_nonce = false;
    relay->release.open = false;
    if (relay->state == RC_IDLE)
        relay->state = RC_ASKING;
    rc_request_start(client, now_ns, &relay->ask);
    rc_wake(client, now_ns);
}

int rc_recv_reserved(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                     const struct nat_relay_message *m)
{
    if (relay->release.open && m->request == relay->release.id) {
        relay->release.open = false;
        rc_relay_settle(client, relay);
        return ERR_OK;
    }
    if (!relay->ask.open || m->request != relay->ask.id) {
        client->stats.unmatched++;
        return ERR_REFUSED;
    }
    if (m->has_nonce && relay->ask.tries < TRIES_ASK) {
        relay->has_nonce = true;
        memcpy(relay->nonce, m->nonce, sizeof relay->nonce);
        relay->ask.first_ns = now_ns;
        relay->ask.at_ns = now_ns;
        rc_wake(client, now_ns);
        return ERR_OK;
    }
    if (m->lease_s == 0)
        return ERR_OK; /* no terms: asked again until it counts as silent */
    relay->ask.open = false;
    relay->failures = 0;
    relay->rate = m->rate;
    relay->volume = m->volume;
    relay->lease_s = m->lease_s;
    relay->lease_until_ns = now_ns + m->lease_s * 1000 * millisecond_ns;
    relay->renew_at_ns = now_ns + m->lease_s * 500 * millisecond_ns;
    rc_wake(client, relay->renew_at_ns);
    take_seen(client, relay, m);
    if (relay->state == RC_HELD)
        return ERR_OK;
    relay->state = RC_HELD;
    relay->refused = NAT_RELAY_BY_NONE;
    if (!relay->keep.open) {
        relay->keep_at_ns = now_ns + keep_interval_ns(client, relay, now_ns);
        rc_wake(client, relay->keep_at_ns);
    }
    trace_emit(&client->config.trace, TRACE_RELAY_HELD, now_ns, &relay->id, m->lease_s, (int64_t)m->rate,
               ERR_OK);
    rc_event(client, &(struct nat_relay_client_event){.type = NAT_RELAY_HELD,
                                                      .relay = relay->id,
                                                      .relay_addr = relay->addr,
                                                      .seen = relay->seen,
                                                      .rate = m->rate,
                                                      .volume = m->volume,
                                                      .lease_s = m->lease_s});
    return ERR_OK;
}

void rc_relay_blame(struct rc_relay *relay, unsigned reason)
{
    switch (reason) {
    case NAT_RELAY_BY_OFF:
    case NAT_RELAY_BY_FULL:
    case NAT_RELAY_BY_GROUP:
    case NAT_RELAY_BY_QUOTA:
    case NAT_RELAY_BY_RATE:
    case NAT_RELAY_BY_LOST:
        relay->refused = (enum nat_relay_reason)reason;
        break;
    default:
        break;
    }
}

static void ask_failed(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                       enum nat_relay_reason reason)
{
    lost_reservation(client, now_ns, relay, reason);
    rc_relay_blame(relay, reason);
    back_off(client, now_ns, relay);
    rc_relay_settle(client, relay);
    rc_choose(client, now_ns);
}

bool rc_recv_reserve_refused(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                             const struct nat_relay_message *m)
{
    if (!relay->ask.open || m->request != relay->ask.id)
        return false;
    ask_failed(client, now_ns, relay, (enum nat_relay_reason)m->reason);
    return true;
}

/* A relay in a network where none of ours is comes first, then the nearest. */
static uint64_t score(const struct nat_relay_client *client, const struct rc_relay *relay)
{
    uint64_t rtt_ns = relay->rtt_ns == 0 ? UNKNOWN_RTT_NS : relay->rtt_ns;
    for (size_t i = 0; i < NAT_RELAY_CLIENT_RELAYS_MAX; i++) {
        const struct rc_relay *at = &client->relays[i];
        if (at->used && at->state != RC_IDLE && at != relay && net_addr_same_group(&at->addr, &relay->addr))
            return rtt_ns + UINT64_MAX / 2;
    }
    return rtt_ns;
}

static bool eligible(const struct rc_relay *relay, uint64_t now_ns)
{
    return relay->used && relay->candidate && relay->state == RC_IDLE && relay->backoff_until_ns <= now_ns;
}

static struct rc_relay *best_candidate(struct nat_relay_client *client, uint64_t now_ns, bool *unsettled)
{
    struct rc_relay *best = NULL;
    *unsettled = false;
    for (size_t i = 0; i < NAT_RELAY_CLIENT_RELAYS_MAX; i++) {
        struct rc_relay *at = &client->relays[i];
        if (!eligible(at, now_ns))
            continue;
        *unsettled = *unsettled || (at->keep.open && at->rtt_ns == 0 && now_ns < client->settle_until_ns);
        if (best == NULL || score(client, at) < score(client, best))
            best = at;
    }
    return best;
}

static struct rc_relay *worst_held(struct nat_relay_client *client)
{
    struct rc_relay *worst = NULL;
    for (size_t i = 0; i < NAT_RELAY_CLIENT_RELAYS_MAX; i++) {
        struct rc_relay *at = &client->relays[i];
        if (at->used && at->state != RC_IDLE && (worst == NULL || score(client, at) > score(client, worst)))
            worst = at;
    }
    return worst;
}

static size_t held_count(const struct nat_relay_client *client)
{
    size_t count = 0;
    for (size_t i = 0; i < NAT_RELAY_CLIENT_RELAYS_MAX; i++)
        count += client->relays[i].used && client->relays[i].state != RC_IDLE;
    return count;
}

void rc_choose(struct nat_relay_client *client, uint64_t now_ns)
{
    size_t held = held_count(client);
    for (; held > client->config.wanted; held--) {
        struct rc_relay *worst = worst_held(client);
        rc_give_back(client, now_ns, worst);
    }
    for (; held < client->config.wanted; held++) {
        bool unsettled;
        struct rc_relay *best = best_candidate(client, now_ns, &unsettled);
        if (unsettled)
            rc_wake(client, client->settle_until_ns);
        if (best == NULL || unsettled)
            return;
        ask(client, now_ns, best);
    }
}

/* ---- candidates ---- */

/* The candidate that a new one replaces when there are enough: one that does not answer. */
static struct rc_relay *replaceable(struct nat_relay_client *client, uint64_t now_ns, size_t *count)
{
    struct rc_relay *worst = NULL;
    *count = 0;
    for (size_t i = 0; i < NAT_RELAY_CLIENT_RELAYS_MAX; i++) {
        struct rc_relay *at = &client->relays[i];
        if (!at->used || !at->candidate)
            continue;
        (*count)++;
        if (at->state == RC_IDLE && at->backoff_until_ns > now_ns &&
            (worst == NULL || at->failures > worst->failures))
            worst = at;
    }
    return worst;
}

int nat_relay_client_candidate(struct nat_relay_client *client, uint64_t now_ns, const struct id *id,
                               const struct net_addr *addr)
{
    if (id_equal(id, &client->config.self) || id_is_zero(id) || net_via_is_relay(addr->via) ||
        net_addr_scope(addr) == NET_SCOPE_INVALID)
        return ERR_INVALID;
    struct rc_relay *relay = rc_relay_find(client, id);
    if (relay == NULL || !relay->candidate) {
        size_t count;
        struct rc_relay *worst = replaceable(client, now_ns, &count);
        if (count >= NAT_RELAY_CLIENT_CANDIDATES_MAX && worst == NULL)
            return ERR_FULL;
        if (count >= NAT_RELAY_CLIENT_CANDIDATES_MAX) {
            worst->candidate = false;
            rc_relay_settle(client, worst);
        }
    }
    relay = rc_relay_take(client, now_ns, id, addr);
    if (relay == NULL)
        return ERR_FULL;
    bool fresh = !relay->candidate;
    relay->candidate = true;
    if (fresh && client->config.wanted > 0 && relay->rtt_ns == 0 && !relay->keep.open) {
        rc_keep_now(client, now_ns, relay);
        if (client->settle_until_ns <= now_ns)
            client->settle_until_ns = now_ns + SETTLE_NS;
    }
    rc_choose(client, now_ns);
    return ERR_OK;
}

void nat_relay_client_candidate_drop(struct nat_relay_client *client, uint64_t now_ns, const struct id *id)
{
    struct rc_relay *relay = rc_relay_find(client, id);
    if (relay == NULL)
        return;
    relay->candidate = false;
    if (relay->state != RC_IDLE)
        rc_give_back(client, now_ns, relay);
    rc_relay_settle(client, relay);
    rc_choose(client, now_ns);
}

void nat_relay_client_set_wanted(struct nat_relay_client *client, uint64_t now_ns, size_t wanted)
{
    ASSERT(wanted <= NAT_RELAY_CLIENT_WANTED_MAX);
    client->config.wanted = wanted;
    rc_choose(client, now_ns);
    rc_wake(client, now_ns);
}

/* ---- time and sending ---- */

static bool is_silent(const struct nat_relay_client *client, const struct rc_request *request,
                      uint64_t heard_ns, uint64_t now_ns)
{
    uint64_t since_ns = request->first_ns > heard_ns ? request->first_ns : heard_ns;
    return request->open && request->tries >= TRIES_LOST && now_ns - since_ns >= client->config.lost_ns;
}

static void step_requests(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay)
{
    if (relay->alt_keep.open && relay->alt_keep.tries >= TRIES_ALT && relay->alt_keep.at_ns <= now_ns) {
        relay->alt_keep.open = false;
        relay->alt = (struct net_addr){.family = NET_FAMILY_NONE};
    }
    if (relay->prove.open && now_ns - relay->prove.first_ns >= PROVE_LIMIT_NS)
        relay->prove.open = false; /* the next KEPT brings a fresh nonce */
    if (relay->release.open && relay->release.tries >= TRIES_RELEASE && relay->release.at_ns <= now_ns)
        relay->release.open = false;
    if (relay->state == RC_HELD && relay->renew_at_ns <= now_ns && !relay->ask.open)
        ask(client, now_ns, relay);
    if (!relay->keep.open && keep_wanted(client, relay) && relay->keep_at_ns <= now_ns)
        rc_keep_now(client, now_ns, relay);
}

void rc_relay_step(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay)
{
    if (!relay->used)
        return;
    step_requests(client, now_ns, relay);
    if (relay->keep.open && !keep_wanted(client, relay))
        relay->keep.open = false;
    if (is_silent(client, &relay->keep, relay->heard_ns, now_ns)) {
        relay_lost(client, now_ns, relay);
        return;
    }
    if (relay->state == RC_HELD && relay->lease_until_ns <= now_ns)
        ask_failed(client, now_ns, relay, NAT_RELAY_BY_EXPIRED);
    else if (relay->state == RC_ASKING && is_silent(client, &relay->ask, 0, now_ns))
        ask_failed(client, now_ns, relay, NAT_RELAY_BY_LOST);
    else
        rc_relay_settle(client, relay);
}

/* When a silent request is given up, if it is not answered. */
static uint64_t silent_ns(const struct nat_relay_client *client, const struct rc_request *request,
                          uint64_t heard_ns)
{
    uint64_t since_ns = request->first_ns > heard_ns ? request->first_ns : heard_ns;
    return request->tries >= TRIES_LOST ? since_ns + client->config.lost_ns : UINT64_MAX;
}

uint64_t rc_relay_next_ns(const struct nat_relay_client *client, const struct rc_relay *relay)
{
    const struct rc_request *const requests[] = {&relay->keep, &relay->alt_keep, &relay->ask, &relay->prove,
                                                 &relay->release};
    uint64_t next_ns = UINT64_MAX;
    for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
        if (requests[i]->open)
            rc_least(&next_ns, requests[i]->at_ns);
    }
    if (relay->keep.open)
        rc_least(&next_ns, silent_ns(client, &relay->keep, relay->heard_ns));
    else if (keep_wanted(client, relay))
        rc_least(&next_ns, relay->keep_at_ns);
    if (relay->state == RC_ASKING)
        rc_least(&next_ns, silent_ns(client, &relay->ask, 0));
    if (relay->prove.open)
        rc_least(&next_ns, relay->prove.first_ns + PROVE_LIMIT_NS);
    if (relay->state == RC_HELD) {
        rc_least(&next_ns, relay->lease_until_ns);
        if (!relay->ask.open)
            rc_least(&next_ns, relay->renew_at_ns);
    }
    if (relay->candidate && relay->state == RC_IDLE && held_count(client) < client->config.wanted)
        rc_least(&next_ns, relay->backoff_until_ns > client->settle_until_ns ? relay->backoff_until_ns
                                                                             : client->settle_until_ns);
    return next_ns;
}

/* After a move nothing comes through the relay until KEEP and PROVE have, and both may be lost in a full
 * queue of our own line: for a while they are repeated as soon as an answer might have come. */
static void hurry(uint64_t now_ns, const struct rc_relay *relay, struct rc_request *request)
{
    if (relay->moved_ns == 0 || relay->rtt_ns == 0 || now_ns - relay->moved_ns > URGENT_NS)
        return;
    uint64_t at_ns = now_ns + relay->rtt_ns + relay->rtt_ns / 2 + URGENT_SLACK_NS;
    request->at_ns = at_ns < request->at_ns ? at_ns : request->at_ns;
}

static bool send_keep(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                      struct rc_request *request, const struct net_addr *to, struct net_message *out)
{
    struct nat_relay_message m = {.kind = NAT_RELAY_KEEP, .request = request->id};
    rc_sessions_list(client, relay, &m);
    out->addr = *to;
    nat_relay_encode(&m, out);
    rc_request_sent(client, now_ns, request, false);
    if (relay->rtt_ns > client->config.repeat_ns / 2)
        request->at_ns += client->config.repeat_ns;
    hurry(now_ns, relay, request);
    return true;
}

static bool send_reserve(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                         struct rc_request *request, bool release, struct net_message *out)
{
    struct nat_relay_message m = {.kind = NAT_RELAY_RESERVE, .request = request->id, .release = release};
    m.has_nonce = !release && relay->has_nonce;
    memcpy(m.nonce, relay->nonce, sizeof m.nonce);
    nat_relay_encode(&m, out);
    rc_request_sent(client, now_ns, request, true);
    return true;
}

bool rc_relay_send(struct nat_relay_client *client, uint64_t now_ns, struct rc_relay *relay,
                   struct net_message *out)
{
    if (!relay->used)
        return false;
    out->peer = relay->id;
    out->addr = relay->addr;
    if (rc_request_due(&relay->prove, now_ns)) {
        struct nat_relay_message m = {.kind = NAT_RELAY_PROVE, .request = relay->prove.id, .has_nonce = true};
        memcpy(m.nonce, relay->prove_nonce, sizeof m.nonce);
        out->addr = relay->prove_addr;
        nat_relay_encode(&m, out);
        rc_request_sent(client, now_ns, &relay->prove, true);
        hurry(now_ns, relay, &relay->prove);
        return true;
    }
    if (rc_request_due(&relay->ask, now_ns))
        return send_reserve(client, now_ns, relay, &relay->ask, false, out);
    if (rc_request_due(&relay->release, now_ns))
        return send_reserve(client, now_ns, relay, &relay->release, true, out);
    if (rc_request_due(&relay->keep, now_ns))
        return send_keep(client, now_ns, relay, &relay->keep, &relay->addr, out);
    if (rc_request_due(&relay->alt_keep, now_ns) && relay->alt_keep.tries < TRIES_ALT)
        return send_keep(client, now_ns, relay, &relay->alt_keep, &relay->alt, out);
    return false;
}

void rc_relays_check(const struct nat_relay_client *client)
{
    uint32_t sessions[NAT_RELAY_CLIENT_RELAYS_MAX] = {0};
    size_t candidates = 0;
    for (size_t i = 0; i < client->slot_count; i++) {
        const struct rc_session *session = &client->sessions[i];
        if (session->state != RC_FREE && session->state != RC_WAITING)
            sessions[session->relay]++;
    }
    for (size_t i = 0; i < NAT_RELAY_CLIENT_RELAYS_MAX; i++) {
        const struct rc_relay *at = &client->relays[i];
        ASSERT(at->used || sessions[i] == 0);
        if (!at->used)
            continue;
        candidates += at->candidate;
        ASSERT(sessions[i] == at->sessions && sessions[i] <= NAT_RELAY_KEEP_SESSIONS);
        ASSERT(at->candidate || rc_relay_active(at) || at->release.open);
        ASSERT((at->state == RC_ASKING) <= at->ask.open);
        ASSERT(!at->ask.open || at->state != RC_IDLE);
        ASSERT(client->deadline_ns <= rc_relay_next_ns(client, at));
    }
    ASSERT(candidates <= NAT_RELAY_CLIENT_CANDIDATES_MAX);
    ASSERT(held_count(client) <= client->config.wanted);
}
