/* What happens to one peer's candidates over time: when silence means death, which one is used.  The figures
 * were measured with a prototype on emulated links; the cautious of two sets was right for wireless links
 * that stall for 200 ms, so that a route earns the faster one by steady round trips and loses it by a false
 * alarm. */
#include <string.h>

#include "nat/path_internal.h"

enum {
    SUSPECT_UNANSWERED = 2,
    SUSPECT_PROBES = 3,     /* unanswered since suspicion: dead */
    ONE_WAY_UNANSWERED = 8, /* data arrives but no probe is answered: dead one way */
    ANSWERS_BETTER = 5,
    ANSWERS_BETTER_CLASS = 2,
    FLAPS_MAX = 5,
    HEARD_BESIDE = 8, /* datagrams by a standby and none by the route in use: the peer uses that standby */
};

static const uint64_t busy_hint_life_ns = MS(1000);
static const uint64_t new_probe_gap_ns = MS(50);
static const uint64_t fresh_answer_ns = MS(2000);
static const uint64_t one_way_ns = MS(2500);
static const uint64_t just_changed_ns = MS(1000);
static const uint64_t twin_wait_ns = MS(10);
static const uint64_t doubt_again_ns = MS(1000); /* a peer that changes ways all the time costs no more */
static const uint64_t dead_margin_ns = MS(10);
static const uint64_t global_penalty_ns =
    MS(10);                                  /* a private route wins unless it is slower by more than this */
static const uint64_t v4_penalty_ns = MS(3); /* at equal speed IPv6 has no NAT that could forget us */
static const uint64_t better_by_ns = MS(5);
static const uint64_t flap_life_ns = MS(60000);
static const uint64_t inbound_life_ns = MS(60000);
static const uint64_t wary_life_ns = MS(60000);

static uint64_t least_limit_ns(const struct path_candidate *candidate)
{
    return candidate->srtt_ns + candidate->srtt_ns / 4 + MS(30);
}

/* How long the route in use may be silent: a round trip and four deviations, as RFC 6298 has it, but no less
 * than 1.25 round trips + 30 ms and no more than the patience that any link gets. */
static uint64_t limit_ns(const struct path_candidate *candidate, uint64_t now_ns)
{
    uint64_t most_ns = path_patience_ns(candidate);
    uint64_t least_ns = least_limit_ns(candidate);
    if (now_ns < candidate->wary_until_ns)
        return most_ns;
    return path_sooner(most_ns, path_later(least_ns, candidate->srtt_ns + 4 * candidate->rttvar_ns + MS(30)));
}

/* Data is in flight by a hint that is still good. */
static bool in_flight(const struct path_peer *peer, uint64_t now_ns)
{
    return peer->in_flight > PATH_BUSY_BYTES && now_ns - peer->hint_ns <= busy_hint_life_ns;
}

static void set_state(struct path_candidate *candidate, uint64_t now_ns, enum nat_route_state state)
{
    candidate->state = (uint8_t)state;
    candidate->since_ns = now_ns;
}

void path_tell(struct nat_path *path, struct path_peer *peer)
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
    uint64_t penalty_ns = path_is_local(candidate) ? 0 : global_penalty_ns;
    if (path_class(candidate) != PATH_CLASS_UDP)
        penalty_ns = 0; /* alike for all of the class */
    else if (penalty_ns > 0 && candidate->addr.family == NET_FAMILY_V4)
        penalty_ns += v4_penalty_ns;
    return candidate->srtt_ns + penalty_ns;
}

static bool is_ageing(const struct path_peer *peer, uint64_t now_ns, const struct path_candidate *candidate)
{
    return candidate->told_ageing || now_ns >= path_ageing_at(peer, candidate);
}

void path_told_age(struct path_peer *peer, uint64_t now_ns, const struct net_addr *addr, bool ageing)
{
    struct path_candidate *candidate = path_candidate_at(peer, addr);
    if (candidate == NULL)
        return;
    if (ageing && !candidate->told_ageing && candidate->state == NAT_ACTIVE)
        path_probe_standbys(peer, now_ns); /* one of them may do */
    candidate->told_ageing = ageing;
}

/* The active route's mapping is about to end and the candidate's is not. */
static bool replaces(const struct path_peer *peer, uint64_t now_ns, const struct path_candidate *candidate,
                     const struct path_candidate *active)
{
    return is_ageing(peer, now_ns, active) && !is_ageing(peer, now_ns, candidate) &&
           path_class(candidate) == PATH_CLASS_UDP;
}

bool path_is_better(const struct path_peer *peer, uint64_t now_ns, const struct path_candidate *candidate,
                    const struct path_candidate *active)
{
    uint64_t margin = path_later(better_by_ns, score_ns(active) / 10);
    bool settled = candidate->answers >= ANSWERS_BETTER_CLASS;
    if (path_class(candidate) != path_class(active))
        return path_class(candidate) < path_class(active) && settled;
    if (replaces(peer, now_ns, candidate, active))
        return settled;
    if (is_ageing(peer, now_ns, candidate))
        return false;
    if (path_is_local(candidate) && !path_is_local(active))
        return settled && score_ns(candidate) <= score_ns(active);
    return candidate->answers >= ANSWERS_BETTER && score_ns(candidate) + margin < score_ns(active);
}

/* Since the last change so long must pass before a better route is taken.  The first step off a relay is not
 * held up, nor is the flight from a route that is about to end. */
static uint64_t hold_ns(const struct nat_path *path, uint64_t now_ns, const struct path_peer *peer,
                        const struct path_candidate *candidate, const struct path_candidate *active)
{
    bool upgrade = path_class(candidate) < path_class(active);
    if (replaces(peer, now_ns, candidate, active) || (upgrade && peer->flaps == 0))
        return 0;
    return path->config.hold_down_ns << peer->flaps;
}

static void activate(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                     struct path_candidate *candidate)
{
    static const enum trace_kind up_kinds[] = {[PATH_CLASS_UDP] = TRACE_ROUTE_UP,
                                               [PATH_CLASS_TCP] = TRACE_ROUTE_UP_TCP,
                                               [PATH_CLASS_RELAYED] = TRACE_ROUTE_UP_RELAYED};
    ASSERT(candidate->proven && peer->active == PATH_NONE);
    set_state(candidate, now_ns, NAT_ACTIVE);
    peer->active = (uint16_t)(candidate - peer->candidates);
    peer->changed_ns = now_ns;
    peer->improved = false;
    peer->heard_beside = 0;
    peer->beside = PATH_NONE;
    peer->carried = false;
    peer->doubt_at_ns = 0;
    path->stats.changes++;
    path_log(path, now_ns, peer, candidate, NAT_PATH_ACTIVATED);
    trace_emit(&path->config.trace, up_kinds[path_class(candidate)], now_ns, &peer->id,
               (int64_t)(candidate->srtt_ns / 1000), 0, ERR_OK);
    path_tell(path, peer);
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
    if (candidate == active || !path_is_better(peer, now_ns, candidate, active) ||
        now_ns - peer->changed_ns < hold_ns(path, now_ns, peer, candidate, active))
        return;
    deactivate(peer, now_ns, NAT_ANSWERING);
    activate(path, now_ns, peer, candidate);
    peer->improved = true;
}

/* Whether a is the better successor of a route that has been silent since at_ns: what has answered after that
 * is alive, anything else may have died of the same cause. */
static bool succeeds(const struct path_candidate *a, const struct path_candidate *b, uint64_t at_ns)
{
    bool a_lives = a->answered_ns > at_ns;
    if (a_lives != (b->answered_ns > at_ns))
        return a_lives;
    if (path_class(a) != path_class(b))
        return path_class(a) < path_class(b);
    return score_ns(a) < score_ns(b);
}

/* The best standby that answered not long before; one that answered long ago may have died with the route. */
static uint16_t best_standby(const struct path_peer *peer, uint64_t at_ns)
{
    const struct path_candidate *best = NULL;
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++) {
        const struct path_candidate *at = &peer->candidates[i];
        if (!at->used || at->state != NAT_ANSWERING || at->answered_ns + fresh_answer_ns < at_ns)
            continue;
        if (best == NULL || succeeds(at, best, at_ns))
            best = at;
    }
    return best == NULL ? PATH_NONE : (uint16_t)(best - peer->candidates);
}

uint16_t path_second(const struct path_peer *peer)
{
    if (peer->active == PATH_NONE || peer->candidates[peer->active].state != NAT_SUSPECT)
        return PATH_NONE;
    return best_standby(peer, peer->candidates[peer->active].since_ns);
}

/* No route is in use any more, the last one has been silent since then: the best standby takes over, or all
 * that is known is tried. */
static void replace_active(struct nat_path *path, uint64_t now_ns, struct path_peer *peer, uint64_t silent_ns)
{
    path->stats.deaths++;
    trace_emit(&path->config.trace, TRACE_ROUTE_DEAD, now_ns, &peer->id, 0, 0, ERR_UNREACHABLE);
    uint16_t standby = best_standby(peer, silent_ns);
    if (standby != PATH_NONE) {
        activate(path, now_ns, peer, &peer->candidates[standby]);
        return;
    }
    peer->lost_ns = now_ns;
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++)
        path_probe_by(&peer->candidates[i], now_ns);
    path_tell(path, peer);
}

/* The route in use is dead.  Routes that die young make every later improvement wait longer, unless their end
 * was foreseen. */
static void bury_active(struct nat_path *path, uint64_t now_ns, struct path_peer *peer)
{
    struct path_candidate *active = &peer->candidates[peer->active];
    bool young = now_ns - peer->changed_ns < flap_life_ns;
    uint64_t silent_ns = active->state == NAT_SUSPECT ? active->since_ns : now_ns;
    /* What stepped in for a dead route may die as well: that is the same failure, or another, no flapping. */
    if (!young)
        peer->flaps = 0;
    else if (peer->improved && !is_ageing(peer, now_ns, active) && peer->flaps < FLAPS_MAX)
        peer->flaps++;
    deactivate(peer, now_ns, NAT_DEAD);
    active->answers = 0;
    path_log(path, now_ns, peer, active, NAT_PATH_DIED);
    path_learn_death(path, now_ns, peer, active);
    replace_active(path, now_ns, peer, silent_ns);
}

void path_candidate_close(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                          struct path_candidate *candidate)
{
    bool in_use = peer->active == candidate - peer->candidates;
    path_candidate_drop(path, now_ns, peer, candidate);
    if (in_use)
        replace_active(path, now_ns, peer, now_ns);
}

/* ---- which route the peer uses ---- */

/* Bulk comes by another route than the one in use: counted, since probes and their answers come by all. */
static void note_beside(struct path_peer *peer, const struct path_candidate *candidate)
{
    uint16_t index = (uint16_t)(candidate - peer->candidates);
    if (peer->active == PATH_NONE)
        return;
    if (index == peer->active) {
        peer->doubt_at_ns = 0;
        return;
    }
    if (peer->beside != index)
        peer->heard_beside = 0;
    peer->beside = index;
    if (peer->heard_beside < UINT16_MAX)
        peer->heard_beside++;
}

/* Alike in class, but better by enough to be preferred when both have proven themselves: the peer will see.
 */
static bool outdoes(const struct path_candidate *better, const struct path_candidate *candidate)
{
    uint64_t margin_ns = path_later(better_by_ns, score_ns(candidate) / 10);
    return (path_is_local(better) && !path_is_local(candidate)) ||
           score_ns(better) + margin_ns < score_ns(candidate);
}

/* Both ends may have chosen different routes, and each would hear nothing by its own: who uses the worse one
 * follows, of two alike who has not just changed, or the higher id.  False: there is nothing to follow. */
static bool follow(struct nat_path *path, uint64_t now_ns, struct path_peer *peer)
{
    if (peer->beside == PATH_NONE || peer->heard_beside < HEARD_BESIDE)
        return false;
    struct path_candidate *candidate = &peer->candidates[peer->beside];
    struct path_candidate *active = &peer->candidates[peer->active];
    if (!candidate->used || candidate->state != NAT_ANSWERING || path_class(candidate) > path_class(active) ||
        is_ageing(peer, now_ns, candidate))
        return false;
    bool leads = id_compare(&path->config.self, &peer->id) < 0 && now_ns - peer->changed_ns < just_changed_ns;
    if (path_class(candidate) == path_class(active) && (leads || outdoes(active, candidate)))
        return false;
    deactivate(peer, now_ns, NAT_ANSWERING);
    activate(path, now_ns, peer, candidate);
    return true;
}

/* By itself QUIC uses one route.  Where it begins to come by another, the peer has left the route in use or
 * doubts it, with a packet by each then: if no twin comes by the route in use, that is dead this way at
 * least. */
void path_carried_by(struct path_peer *peer, uint64_t now_ns, const struct net_addr *addr)
{
    const struct path_candidate *candidate = path_candidate_at(peer, addr);
    if (peer->active == PATH_NONE || candidate == NULL)
        return;
    const struct path_candidate *active = &peer->candidates[peer->active];
    if (candidate == active) {
        peer->carried = true;
    } else if (active->state == NAT_ACTIVE && peer->carried && peer->doubt_at_ns == 0) {
        uint64_t longer_ns = 0; /* the way of the twin */
        if (candidate->proven && active->srtt_ns > candidate->srtt_ns)
            longer_ns = (active->srtt_ns - candidate->srtt_ns) / 2;
        peer->doubt_at_ns = now_ns + longer_ns + twin_wait_ns;
        if (peer->doubted_ns != 0)
            peer->doubt_at_ns = path_later(peer->doubt_at_ns, peer->doubted_ns + doubt_again_ns);
    }
}

/* ---- silence ---- */

void path_seek_help(struct nat_path *path, uint64_t now_ns, struct path_peer *peer)
{
    path_probe_standbys(peer, now_ns);
    if (path_second(peer) != PATH_NONE) {
        peer->doubtful = true;
        path_tell(path, peer);
    }
}

static void suspect(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                    struct path_candidate *active)
{
    path->stats.suspicions += active->state != NAT_SUSPECT;
    set_state(active, now_ns, NAT_SUSPECT);
    active->suspect_sequence = active->next_sequence;
    peer->hinted = false;
    path_log(path, now_ns, peer, active, NAT_PATH_SUSPECTED);
    path_probe_by(active, now_ns);
    path_seek_help(path, now_ns, peer);
}

/* For another reason than its silence. */
static void doubt(struct nat_path *path, uint64_t now_ns, struct path_peer *peer)
{
    suspect(path, now_ns, peer, &peer->candidates[peer->active]);
    peer->hinted = true;
}

/* What was sent since the suspicion began may not have left: a suspect route is suspect anew. */
void path_moved(struct nat_path *path, uint64_t now_ns, struct path_peer *peer)
{
    if (peer->active != PATH_NONE) {
        doubt(path, now_ns, peer);
        return;
    }
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++)
        path_probe_by(&peer->candidates[i], now_ns);
}

/* When the route becomes suspect because the peer's packets come by another. */
static uint64_t doubt_at(const struct nat_path *path, const struct path_peer *peer)
{
    return peer->doubt_at_ns == 0 ? UINT64_MAX
                                  : path_later(peer->doubt_at_ns, path->stalled_ns + twin_wait_ns);
}

static void step_doubt(struct nat_path *path, uint64_t now_ns, struct path_peer *peer)
{
    peer->doubt_at_ns = 0;
    if (follow(path, now_ns, peer))
        return;
    peer->carried = false;
    peer->doubted_ns = now_ns;
    doubt(path, now_ns, peer);
}

/* When the route becomes suspect if nothing is heard. */
static uint64_t suspicion_at(const struct nat_path *path, uint64_t now_ns, const struct path_peer *peer,
                             const struct path_candidate *active)
{
    uint64_t at_ns = UINT64_MAX;
    if (in_flight(peer, now_ns)) {
        uint64_t quiet_ns = path_later(path_later(active->heard_ns, peer->busy_since_ns),
                                       path_later(active->since_ns, path->stalled_ns));
        at_ns = quiet_ns + limit_ns(active, now_ns);
    }
    /* Only probes sent and unanswered count, never the age of the last answer: a route that was idle would
     * look dead the moment it gets busy.  What was heard since speaks for it too. */
    if (path_unanswered(active) >= SUSPECT_UNANSWERED && active->heard_ns < active->unanswered_since_ns) {
        uint64_t wait_ns = limit_ns(active, now_ns) + path_probe_interval(path, now_ns, peer, active);
        at_ns = path_sooner(at_ns, path_later(active->unanswered_since_ns, path->stalled_ns) + wait_ns);
    }
    return at_ns;
}

/* When an active route on which only data arrives is given up. */
static uint64_t one_way_at(const struct path_candidate *active)
{
    if (path_unanswered(active) < ONE_WAY_UNANSWERED)
        return UINT64_MAX;
    return active->unanswered_since_ns + path_later(one_way_ns, path_patience_ns(active));
}

/* When a suspect route is dead. */
static uint64_t death_at(const struct nat_path *path, uint64_t now_ns, const struct path_peer *peer)
{
    const struct path_candidate *active = &peer->candidates[peer->active];
    if (active->next_sequence - active->suspect_sequence < SUSPECT_PROBES)
        return UINT64_MAX;
    /* While a standby answers it is no stall of the link, which would be a reason to be patient. */
    uint16_t standby = best_standby(peer, active->since_ns);
    bool answers = standby != PATH_NONE && peer->candidates[standby].answered_ns > active->since_ns;
    return path_later(active->since_ns, path->stalled_ns) + dead_margin_ns +
           (answers ? least_limit_ns(active) : limit_ns(active, now_ns));
}

static void step_active(struct nat_path *path, uint64_t now_ns, struct path_peer *peer)
{
    struct path_candidate *active = &peer->candidates[peer->active];
    if (active->state == NAT_SUSPECT) {
        if (now_ns >= death_at(path, now_ns, peer))
            bury_active(path, now_ns, peer);
    } else if (now_ns >= one_way_at(active)) {
        bury_active(path, now_ns, peer);
    } else if (now_ns >= doubt_at(path, peer)) {
        step_doubt(path, now_ns, peer);
    } else if (now_ns >= suspicion_at(path, now_ns, peer, active) && !follow(path, now_ns, peer)) {
        suspect(path, now_ns, peer, active);
    }
}

/* The active route's mapping grows old: the caller is asked for another, once. */
static void step_ageing(struct nat_path *path, uint64_t now_ns, struct path_peer *peer)
{
    struct path_candidate *active = &peer->candidates[peer->active];
    if (peer->life_learnt && now_ns - active->born_ns > peer->life_ns / 2 * 3 &&
        active->kind == NAT_ROUTE_PUNCHED) {
        peer->life_ns = 0; /* it outlived what was thought to be its life */
        peer->life_learnt = false;
        peer->died_at_age_ns = 0;
    }
    if (active->ageing != PATH_YOUNG || now_ns < path_ageing_at(peer, active))
        return;
    active->ageing = PATH_AGEING_DUE;
    path_probe_by(active, now_ns);     /* tells the peer */
    path_probe_standbys(peer, now_ns); /* one of them may do */
    path_tell(path, peer);
}

/* ---- what comes in ---- */

/* A new source address is looked into with a probe of ours, at most one per 50 ms and peer. */
static void look_into(struct path_peer *peer, struct path_candidate *candidate, uint64_t now_ns)
{
    uint64_t at_ns =
        peer->new_probe_ns == 0 ? now_ns : path_later(now_ns, peer->new_probe_ns + new_probe_gap_ns);
    peer->new_probe_ns = at_ns;
    candidate->probe_at_ns = at_ns;
}

static enum nat_route_kind kind_of_source(const struct net_addr *addr)
{
    if (net_via_is_relay(addr->via))
        return NAT_ROUTE_RELAYED;
    if (net_via_is_tcp(addr->via))
        return NAT_ROUTE_TCP;
    return net_addr_scope(addr) == NET_SCOPE_GLOBAL ? NAT_ROUTE_PUNCHED : NAT_ROUTE_LAN;
}

void path_heard_from(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                     const struct net_addr *addr)
{
    struct path_candidate *candidate = path_candidate_at(peer, addr);
    if (candidate == NULL) {
        if (net_addr_scope(addr) == NET_SCOPE_INVALID)
            return;
        candidate = path_candidate_new(path, now_ns, peer, addr, kind_of_source(addr), false);
        if (candidate == NULL)
            return;
        look_into(peer, candidate, now_ns);
    }
    candidate->authentic = true;
    candidate->heard_ns = now_ns;
    note_beside(peer, candidate);
    if (candidate->state == NAT_SUSPECT) {
        candidate->state = NAT_ACTIVE; /* since_ns stays: it was the route all along */
        if (!peer->hinted)
            candidate->wary_until_ns = now_ns + wary_life_ns;
        path->stats.false_suspicions++;
    } else if (candidate->state == NAT_DEAD && candidate->probe_at_ns > now_ns + new_probe_gap_ns) {
        look_into(peer, candidate, now_ns);
    }
}

static void measure(struct path_candidate *candidate, uint64_t now_ns, uint32_t sequence)
{
    uint32_t taken_us = (uint32_t)(now_ns / 1000) - candidate->sent_us[sequence % PATH_SENT_MAX];
    uint64_t rtt_ns = path_later((uint64_t)taken_us * 1000, 1000);
    if (!candidate->proven || candidate->answers == 0) {
        candidate->srtt_ns = rtt_ns;
        candidate->rttvar_ns = rtt_ns / 2;
        return;
    }
    uint64_t off_ns = path_later(candidate->srtt_ns, rtt_ns) - path_sooner(candidate->srtt_ns, rtt_ns);
    candidate->rttvar_ns = (candidate->rttvar_ns * 3 + off_ns) / 4;
    candidate->srtt_ns = (candidate->srtt_ns * 7 + rtt_ns) / 8;
}

/* It did not answer, and does now. */
static void begins_to_answer(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                             struct path_candidate *candidate)
{
    if (candidate->state == NAT_DEAD)
        path_born(path, candidate, now_ns);
    candidate->proven = true;
    set_state(candidate, now_ns, NAT_ANSWERING);
    path_log(path, now_ns, peer, candidate, NAT_PATH_ANSWERED);
}

bool path_answered(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                   struct path_candidate *candidate, uint32_t sequence)
{
    uint32_t age = candidate->next_sequence - sequence;
    if (age < 1 || age > PATH_SENT_MAX || age > path_unanswered(candidate))
        return false;
    bool is_first = sequence == candidate->settled + 1;
    measure(candidate, now_ns, sequence);
    candidate->settled = sequence;
    uint32_t sent_ago_us = (uint32_t)(now_ns / 1000) - candidate->sent_us[(sequence + 1) % PATH_SENT_MAX];
    candidate->unanswered_since_ns =
        now_ns - (uint64_t)sent_ago_us * 1000; /* of the next one, if there is one */
    candidate->authentic = true;
    candidate->answered_ns = now_ns;
    candidate->answers += candidate->answers < UINT32_MAX;
    path->stats.probes_answered++;
    if (candidate->state == NAT_CANDIDATE || candidate->state == NAT_PROBING || candidate->state == NAT_DEAD)
        begins_to_answer(path, now_ns, peer, candidate);
    else if (is_first)
        path_gap_survived(path, now_ns, peer, candidate);
    path_learn_alive(path, now_ns, peer, candidate);
    if (path_unanswered(candidate) == 0) /* nothing is outstanding: back to the leisurely interval */
        candidate->probe_at_ns = now_ns + path_probe_interval(path, now_ns, peer, candidate);
    consider(path, now_ns, peer, candidate);
    return true;
}

/* ---- time ---- */

static bool inbound_expired(const struct path_peer *peer, uint64_t now_ns)
{
    return !peer->wanted && !path_is_busy(peer, now_ns) && now_ns - peer->interest_ns >= inbound_life_ns;
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
    if (peer->active != PATH_NONE)
        step_ageing(path, now_ns, peer);
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++)
        path_step_candidate(path, now_ns, peer, &peer->candidates[i]);
    path_plan(path, now_ns, peer);
}

void path_plan(struct nat_path *path, uint64_t now_ns, struct path_peer *peer)
{
    uint64_t wake_ns = UINT64_MAX;
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++) {
        const struct path_candidate *at = &peer->candidates[i];
        if (at->used && !at->probe_due)
            wake_ns = path_sooner(wake_ns, at->probe_at_ns);
    }
    if (peer->active != PATH_NONE) {
        const struct path_candidate *active = &peer->candidates[peer->active];
        if (active->state == NAT_SUSPECT)
            wake_ns = path_sooner(wake_ns, death_at(path, now_ns, peer));
        else
            wake_ns = path_sooner(path_sooner(wake_ns, doubt_at(path, peer)),
                                  path_sooner(one_way_at(active), suspicion_at(path, now_ns, peer, active)));
        if (active->ageing == PATH_YOUNG)
            wake_ns = path_sooner(wake_ns, path_ageing_at(peer, active));
    }
    if (!peer->wanted)
        wake_ns = path_sooner(wake_ns, path_later(peer->interest_ns + inbound_life_ns, peer->busy_until_ns));
    peer->wake_ns = wake_ns;
    path->deadline_ns = path_sooner(path->deadline_ns, wake_ns);
}
