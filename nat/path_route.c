/* What happens to one peer's candidates over time: when they are probed, when silence means death, which one
 * is used.  The figures were measured with a prototype on emulated links; the cautious of two sets is used,
 * since a wireless link that stalls for 200 ms is common and a false alarm costs more than a late one. */
#include <string.h>

#include "nat/path_internal.h"

#define MS(x) ((uint64_t)(x)*1000000)

enum {
    UNANSWERED_GIVE_UP = 8, /* probes to an address that never answered */
    STANDBY_GIVE_UP = 4,
    SUSPECT_UNANSWERED = 2,
    SUSPECT_PROBES = 3,     /* unanswered since suspicion: dead */
    ONE_WAY_UNANSWERED = 8, /* data arrives but no probe is answered: dead one way */
    ANSWERS_SETTLED = 5,    /* until then a candidate is measured briskly */
    ANSWERS_BETTER_CLASS = 2,
    FLAPS_MAX = 5,
};

static const uint64_t busy_hint_life_ns = MS(1000);
static const uint64_t punch_interval_ns = MS(30);
static const uint64_t first_interval_ns = MS(100);
static const uint64_t settle_interval_ns = MS(200);
static const uint64_t retry_interval_ns = MS(1000);
static const uint64_t new_probe_gap_ns = MS(50);
static const uint64_t fresh_answer_ns = MS(2000);
static const uint64_t one_way_ns = MS(2500);
static const uint64_t dead_margin_ns = MS(10);
static const uint64_t global_penalty_ns =
    MS(10); /* a private route wins unless it is slower by more than this */
static const uint64_t better_by_ns = MS(5);
static const uint64_t lost_eager_ns = MS(30000); /* after losing the last route */
static const uint64_t flap_life_ns = MS(60000);
static const uint64_t inbound_life_ns = MS(60000);

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint32_t path_unanswered(const struct path_candidate *candidate)
{
    return candidate->next_sequence - 1 - candidate->settled;
}

/* How long an answer may take: 1.5 round trips and 60 ms. */
static uint64_t patience_ns(const struct path_candidate *candidate)
{
    return candidate->srtt_ns + candidate->srtt_ns / 2 + MS(60);
}

static bool is_busy(const struct path_peer *peer, uint64_t now_ns)
{
    return now_ns < peer->busy_until_ns;
}

/* Data is in flight by a hint that is still good. */
static bool in_flight(const struct path_peer *peer, uint64_t now_ns)
{
    return peer->in_flight > PATH_BUSY_BYTES && now_ns - peer->hint_ns <= busy_hint_life_ns;
}

static bool is_local(const struct path_candidate *candidate)
{
    return candidate->kind != NAT_ROUTE_RELAYED && net_addr_scope(&candidate->addr) != NET_SCOPE_GLOBAL;
}

static void set_state(struct path_candidate *candidate, uint64_t now_ns, enum nat_route_state state)
{
    candidate->state = (uint8_t)state;
    candidate->since_ns = now_ns;
}

void path_probe_by(struct path_candidate *candidate, uint64_t at_ns)
{
    candidate->probe_at_ns = sooner(candidate->probe_at_ns, at_ns);
}

void path_retry(struct path_candidate *candidate, uint64_t now_ns)
{
    ASSERT(candidate->state == NAT_DEAD || candidate->state == NAT_PROBING ||
           candidate->state == NAT_CANDIDATE);
    set_state(candidate, now_ns, NAT_CANDIDATE);
    candidate->settled = candidate->next_sequence - 1;
    candidate->answers = 0;
    path_probe_by(candidate, now_ns);
}

static void tell(struct nat_path *path, struct path_peer *peer)
{
    if (peer->event_listed)
        return;
    peer->event_listed = true;
    path_list_push(path, &path->events, peer);
}

/* ---- which route is used ---- */

/* Lower is better. */
static uint64_t score_ns(const struct path_candidate *candidate)
{
    return candidate->srtt_ns + (is_local(candidate) ? 0 : global_penalty_ns);
}

/* Better by enough, and long enough, to be worth resetting QUIC's congestion state for. */
static bool is_better(const struct path_candidate *candidate, const struct path_candidate *active)
{
    uint64_t margin = later(better_by_ns, score_ns(active) / 10);
    if (is_local(candidate) && !is_local(active))
        return candidate->answers >= ANSWERS_BETTER_CLASS && score_ns(candidate) <= score_ns(active);
    return candidate->answers >= ANSWERS_SETTLED && score_ns(candidate) + margin < score_ns(active);
}

static void activate(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                     struct path_candidate *candidate)
{
    ASSERT(candidate->proven && peer->active == PATH_NONE);
    set_state(candidate, now_ns, NAT_ACTIVE);
    peer->active = (uint16_t)(candidate - peer->candidates);
    peer->changed_ns = now_ns;
    path->stats.changes++;
    trace_emit(&path->config.trace, TRACE_ROUTE_UP, now_ns, &peer->id, (int64_t)(candidate->srtt_ns / 1000),
               0, ERR_OK);
    tell(path, peer);
}

/* Takes the route out of use, without a successor yet. */
static void deactivate(struct path_peer *peer, uint64_t now_ns, enum nat_route_state state)
{
    ASSERT(peer->active != PATH_NONE);
    set_state(&peer->candidates[peer->active], now_ns, state);
    peer->active = PATH_NONE;
}

/* A candidate has answered: use it if there is nothing better. */
static void consider(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                     struct path_candidate *candidate)
{
    if (peer->active == PATH_NONE) {
        activate(path, now_ns, peer, candidate);
        return;
    }
    struct path_candidate *active = &peer->candidates[peer->active];
    uint64_t hold_ns = path->config.hold_down_ns << peer->flaps;
    if (candidate == active || now_ns - peer->changed_ns < hold_ns || !is_better(candidate, active))
        return;
    deactivate(peer, now_ns, NAT_ANSWERING);
    activate(path, now_ns, peer, candidate);
}

/* The best standby that answered just now; one that answered long ago may have died with the route. */
static struct path_candidate *best_standby(struct path_peer *peer, uint64_t now_ns)
{
    struct path_candidate *best = NULL;
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++) {
        struct path_candidate *at = &peer->candidates[i];
        if (!at->used || at->state != NAT_ANSWERING || now_ns - at->answered_ns > fresh_answer_ns)
            continue;
        if (best == NULL || score_ns(at) < score_ns(best))
            best = at;
    }
    return best;
}

/* The route in use is dead.  Routes that die young make every later improvement wait longer. */
static void bury_active(struct nat_path *path, uint64_t now_ns, struct path_peer *peer)
{
    struct path_candidate *active = &peer->candidates[peer->active];
    bool young = now_ns - peer->changed_ns < flap_life_ns;
    peer->flaps = !young ? 0 : peer->flaps < FLAPS_MAX ? peer->flaps + 1 : FLAPS_MAX;
    deactivate(peer, now_ns, NAT_DEAD);
    active->answers = 0;
    path->stats.deaths++;
    trace_emit(&path->config.trace, TRACE_ROUTE_DEAD, now_ns, &peer->id, 0, 0, ERR_UNREACHABLE);
    struct path_candidate *standby = best_standby(peer, now_ns);
    if (standby != NULL) {
        activate(path, now_ns, peer, standby);
        return;
    }
    peer->lost_ns = now_ns;
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++)
        path_probe_by(&peer->candidates[i], now_ns);
    tell(path, peer);
}

/* ---- silence ---- */

static void suspect(uint64_t now_ns, struct path_peer *peer, struct path_candidate *active)
{
    set_state(active, now_ns, NAT_SUSPECT);
    active->suspect_sequence = active->next_sequence;
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++) {
        struct path_candidate *at = &peer->candidates[i];
        if (at->used && (at == active || at->state == NAT_ANSWERING))
            path_probe_by(at, now_ns);
    }
}

static uint64_t probe_interval(const struct nat_path *path, uint64_t now_ns, const struct path_peer *peer,
                               const struct path_candidate *candidate);

/* When the route becomes suspect if nothing is heard. */
static uint64_t suspicion_at(const struct nat_path *path, uint64_t now_ns, const struct path_peer *peer,
                             const struct path_candidate *active)
{
    uint64_t at_ns = UINT64_MAX;
    if (in_flight(peer, now_ns)) {
        uint64_t quiet_ns =
            later(later(active->heard_ns, peer->busy_since_ns), later(active->since_ns, path->stalled_ns));
        at_ns = quiet_ns + patience_ns(active);
    }
    /* Only probes sent and unanswered count, never the age of the last answer: a route that was idle would
     * look dead the moment it gets busy.  What was heard since speaks for it too. */
    if (path_unanswered(active) >= SUSPECT_UNANSWERED && active->heard_ns < active->unanswered_since_ns) {
        uint64_t wait_ns = patience_ns(active) + probe_interval(path, now_ns, peer, active);
        at_ns = sooner(at_ns, later(active->unanswered_since_ns, path->stalled_ns) + wait_ns);
    }
    return at_ns;
}

/* When an active route on which only data arrives is given up. */
static uint64_t one_way_at(const struct path_candidate *active)
{
    if (path_unanswered(active) < ONE_WAY_UNANSWERED)
        return UINT64_MAX;
    return active->unanswered_since_ns + later(one_way_ns, patience_ns(active));
}

/* When a suspect route is dead. */
static uint64_t death_at(const struct nat_path *path, const struct path_candidate *active)
{
    if (active->next_sequence - active->suspect_sequence < SUSPECT_PROBES)
        return UINT64_MAX;
    return later(active->since_ns, path->stalled_ns) + patience_ns(active) + dead_margin_ns;
}

static void step_active(struct nat_path *path, uint64_t now_ns, struct path_peer *peer)
{
    struct path_candidate *active = &peer->candidates[peer->active];
    if (active->state == NAT_SUSPECT) {
        if (now_ns >= death_at(path, active))
            bury_active(path, now_ns, peer);
    } else if (now_ns >= one_way_at(active)) {
        bury_active(path, now_ns, peer);
    } else if (now_ns >= suspicion_at(path, now_ns, peer, active)) {
        suspect(now_ns, peer, active);
    }
}

/* ---- probing ---- */

/* An address that has not answered yet: ever more patiently. */
static uint64_t unproven_interval(uint64_t now_ns, const struct path_peer *peer,
                                  const struct path_candidate *candidate)
{
    if (now_ns < peer->punch_until_ns)
        return punch_interval_ns;
    uint32_t tries = path_unanswered(candidate);
    uint64_t cap_ns = is_busy(peer, now_ns) ? MS(500) : peer->active == PATH_NONE ? MS(1000) : MS(5000);
    return sooner(first_interval_ns << (tries > 8 ? 7 : tries > 0 ? tries - 1 : 0), cap_ns);
}

static uint64_t dead_interval(uint64_t now_ns, const struct path_peer *peer,
                              const struct path_candidate *candidate)
{
    if (peer->active != PATH_NONE)
        return is_busy(peer, now_ns) ? MS(5000) : MS(60000);
    return candidate->proven && now_ns - peer->lost_ns < lost_eager_ns ? MS(500) : MS(15000);
}

static uint64_t probe_interval(const struct nat_path *path, uint64_t now_ns, const struct path_peer *peer,
                               const struct path_candidate *candidate)
{
    bool busy = is_busy(peer, now_ns);
    uint64_t base_ns = path->config.idle_ns;
    switch ((enum nat_route_state)candidate->state) {
    case NAT_CANDIDATE:
    case NAT_PROBING:
        return unproven_interval(now_ns, peer, candidate);
    case NAT_DEAD:
        return dead_interval(now_ns, peer, candidate);
    case NAT_SUSPECT:
        return path->config.suspect_ns;
    case NAT_ACTIVE:
        base_ns = busy ? path->config.active_busy_ns : base_ns;
        break;
    case NAT_ANSWERING:
        base_ns = busy ? path->config.standby_busy_ns : base_ns;
        break;
    }
    if (candidate->answers < ANSWERS_SETTLED)
        base_ns = sooner(base_ns, settle_interval_ns);
    return path_unanswered(candidate) > 0 ? sooner(later(base_ns, settle_interval_ns), retry_interval_ns)
                                          : base_ns;
}

uint32_t path_probe_sent(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                         struct path_candidate *candidate)
{
    if (path_unanswered(candidate) == 0)
        candidate->unanswered_since_ns = now_ns;
    uint32_t sequence = candidate->next_sequence++;
    candidate->sent_us[sequence % PATH_SENT_MAX] = (uint32_t)(now_ns / 1000);
    candidate->probe_due = false;
    if (candidate->state == NAT_CANDIDATE)
        set_state(candidate, now_ns, NAT_PROBING);
    uint64_t interval_ns = probe_interval(path, now_ns, peer, candidate);
    if (interval_ns >= retry_interval_ns) /* spread, so that nodes started together do not probe together */
        interval_ns -= rng_below(&path->config.rng, interval_ns / 8);
    candidate->probe_at_ns = now_ns + interval_ns;
    path->stats.probes_sent++;
    return sequence;
}

/* What a candidate's silence has come to when its next probe is due; false: it is forgotten. */
static bool weigh_silence(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                          struct path_candidate *candidate)
{
    uint32_t unanswered = path_unanswered(candidate);
    bool punching = now_ns < peer->punch_until_ns;
    if (candidate->state == NAT_PROBING && unanswered >= UNANSWERED_GIVE_UP && !punching) {
        if (candidate->kind == NAT_ROUTE_OBSERVED && !candidate->proven) {
            path_candidate_drop(path, peer, candidate);
            return false;
        }
        set_state(candidate, now_ns, NAT_DEAD);
    }
    if (candidate->state == NAT_ANSWERING && unanswered >= STANDBY_GIVE_UP &&
        now_ns - candidate->unanswered_since_ns > patience_ns(candidate) + retry_interval_ns) {
        set_state(candidate, now_ns, NAT_DEAD);
        candidate->answers = 0;
    }
    return true;
}

static void step_candidate(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                           struct path_candidate *candidate)
{
    if (!candidate->used || candidate->probe_due || now_ns < candidate->probe_at_ns ||
        !weigh_silence(path, now_ns, peer, candidate))
        return;
    candidate->probe_due = true;
    if (!peer->send_listed) {
        peer->send_listed = true;
        path_list_push(path, &path->sends, peer);
    }
}

/* ---- what comes in ---- */

/* A new source address is looked into with a probe of ours, at most one per 50 ms and peer. */
static void look_into(struct path_peer *peer, struct path_candidate *candidate, uint64_t now_ns)
{
    uint64_t at_ns = peer->new_probe_ns == 0 ? now_ns : later(now_ns, peer->new_probe_ns + new_probe_gap_ns);
    peer->new_probe_ns = at_ns;
    candidate->probe_at_ns = at_ns;
}

void path_heard_from(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                     const struct net_addr *addr)
{
    struct path_candidate *candidate = path_candidate_at(peer, addr);
    if (candidate == NULL) {
        if (net_addr_scope(addr) == NET_SCOPE_INVALID)
            return;
        candidate = path_candidate_new(path, now_ns, peer, addr, NAT_ROUTE_OBSERVED);
        if (candidate == NULL)
            return;
        look_into(peer, candidate, now_ns);
    }
    candidate->authentic = true;
    candidate->heard_ns = now_ns;
    if (candidate->state == NAT_SUSPECT)
        candidate->state = NAT_ACTIVE; /* since_ns stays: it was the route all along */
    else if (candidate->state == NAT_DEAD && candidate->probe_at_ns > now_ns + new_probe_gap_ns)
        look_into(peer, candidate, now_ns);
}

static void measure(struct path_candidate *candidate, uint64_t now_ns, uint32_t sequence)
{
    uint32_t taken_us = (uint32_t)(now_ns / 1000) - candidate->sent_us[sequence % PATH_SENT_MAX];
    uint64_t rtt_ns = later((uint64_t)taken_us * 1000, 1000);
    if (!candidate->proven || candidate->answers == 0)
        candidate->srtt_ns = rtt_ns;
    else
        candidate->srtt_ns = (candidate->srtt_ns * 7 + rtt_ns) / 8;
}

bool path_answered(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                   struct path_candidate *candidate, uint32_t sequence)
{
    uint32_t age = candidate->next_sequence - sequence;
    if (age < 1 || age > PATH_SENT_MAX || age > path_unanswered(candidate))
        return false;
    measure(candidate, now_ns, sequence);
    candidate->settled = sequence;
    uint32_t sent_ago_us = (uint32_t)(now_ns / 1000) - candidate->sent_us[(sequence + 1) % PATH_SENT_MAX];
    candidate->unanswered_since_ns =
        now_ns - (uint64_t)sent_ago_us * 1000; /* of the next one, if there is one */
    candidate->proven = true;
    candidate->authentic = true;
    candidate->answered_ns = now_ns;
    candidate->answers += candidate->answers < UINT32_MAX;
    path->stats.probes_answered++;
    if (candidate->state == NAT_CANDIDATE || candidate->state == NAT_PROBING || candidate->state == NAT_DEAD)
        set_state(candidate, now_ns, NAT_ANSWERING);
    if (path_unanswered(candidate) == 0) /* nothing is outstanding: back to the leisurely interval */
        candidate->probe_at_ns = now_ns + probe_interval(path, now_ns, peer, candidate);
    consider(path, now_ns, peer, candidate);
    return true;
}

/* ---- time ---- */

static bool inbound_expired(const struct path_peer *peer, uint64_t now_ns)
{
    return !peer->wanted && !is_busy(peer, now_ns) && now_ns - peer->interest_ns >= inbound_life_ns;
}

/* Forgets an unwanted peer; who was told of its route is told that it ended. */
static void expire_inbound(struct nat_path *path, struct path_peer *peer)
{
    if (peer->told_up)
        path_note(path,
                  &(struct nat_path_event){.type = NAT_PATH_ROUTE_DEAD, .peer = peer->id, .old = peer->told});
    path_remove(path, peer);
}

void path_step(struct nat_path *path, uint64_t now_ns, struct path_peer *peer)
{
    if (inbound_expired(peer, now_ns)) {
        expire_inbound(path, peer);
        return;
    }
    if (peer->active != PATH_NONE)
        step_active(path, now_ns, peer);
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++)
        step_candidate(path, now_ns, peer, &peer->candidates[i]);
    path_plan(path, now_ns, peer);
}

void path_plan(struct nat_path *path, uint64_t now_ns, struct path_peer *peer)
{
    uint64_t wake_ns = UINT64_MAX;
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++) {
        const struct path_candidate *at = &peer->candidates[i];
        if (at->used && !at->probe_due)
            wake_ns = sooner(wake_ns, at->probe_at_ns);
    }
    if (peer->active != PATH_NONE) {
        const struct path_candidate *active = &peer->candidates[peer->active];
        if (active->state == NAT_SUSPECT)
            wake_ns = sooner(wake_ns, death_at(path, active));
        else
            wake_ns = sooner(wake_ns, sooner(one_way_at(active), suspicion_at(path, now_ns, peer, active)));
    }
    if (!peer->wanted)
        wake_ns = sooner(wake_ns, later(peer->interest_ns + inbound_life_ns, peer->busy_until_ns));
    peer->wake_ns = wake_ns;
    path->deadline_ns = sooner(path->deadline_ns, wake_ns);
}
