/* When candidates are probed, and what the answers and deaths teach about the NATs on the way: how long a
 * mapping lasts unused, and whether it ends at some age however much it is used. */
#include "nat/path_internal.h"

enum {
    UNANSWERED_GIVE_UP = 8, /* probes to an address that never answered */
    STANDBY_GIVE_UP = 4,
    STANDBY_DOUBTFUL = 2, /* unanswered: the route in use is asked whether the peer is alive at all */
    ANSWERS_SETTLED = 5,  /* until then a candidate is measured briskly */
    /* Idle intervals survived before the next is a quarter longer: standbys go ahead, since their death
     * costs nothing. */
    GOOD_STANDBY = 4,
    GOOD_ACTIVE = 6,
    GOOD_SOLE = 8,
    DOUBTFUL_DEATHS = 2, /* idle deaths that are believed, where one may have been an outage */
};

static const uint64_t punch_interval_ns = MS(30);
static const uint64_t first_interval_ns = MS(100);
static const uint64_t settle_interval_ns = MS(200);
static const uint64_t retry_interval_ns = MS(1000);
static const uint64_t lost_eager_ns = MS(30000);   /* after losing the last route */
static const uint64_t aux_dead_ns = MS(60000);     /* a dead candidate's auxiliary socket is kept so long */
static const uint64_t aux_spare_ns = MS(5000);     /* beside a working direct route: such sockets are few */
static const uint64_t learnt_dead_ns = MS(300000); /* a learnt one beside a working route is forgotten then */
static const uint64_t keep_plain_ns = MS(25000);   /* longest idle interval of a route that nobody punched */
static const uint64_t keep_punched_ns = MS(120000);    /* of the others */
static const uint64_t keep_least_ns = MS(5000);        /* no ceiling is below this */
static const uint64_t lesson_life_ns = MS(5000);       /* another route must answer so soon after the death */
static const uint64_t lesson_sole_life_ns = MS(60000); /* or, if there was none, the peer itself */
static const uint64_t life_least_ns = MS(5000);
static const uint64_t life_learnt_least_ns =
    MS(20000); /* else a peer that feigns deaths has us punch all the time */
static const uint64_t life_most_ns = MS(7 * 86400) * 1000;

uint64_t path_later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

uint64_t path_sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

bool path_is_busy(const struct path_peer *peer, uint64_t now_ns)
{
    return now_ns < peer->busy_until_ns;
}

enum path_class path_class(const struct path_candidate *candidate)
{
    if (candidate->kind == NAT_ROUTE_RELAYED)
        return PATH_CLASS_RELAYED;
    return candidate->kind == NAT_ROUTE_TCP ? PATH_CLASS_TCP : PATH_CLASS_UDP;
}

bool path_is_local(const struct path_candidate *candidate)
{
    return path_class(candidate) == PATH_CLASS_UDP && net_addr_scope(&candidate->addr) != NET_SCOPE_GLOBAL;
}

uint64_t path_patience_ns(const struct path_candidate *candidate)
{
    return candidate->srtt_ns + candidate->srtt_ns / 2 + MS(60);
}

uint32_t path_unanswered(const struct path_candidate *candidate)
{
    return candidate->next_sequence - 1 - candidate->settled;
}

/* ---- intervals ---- */

/* Mappings of NATs or firewalls may lie on the way, whose life counts from the last datagram. */
static bool may_expire(const struct path_candidate *candidate)
{
    return path_class(candidate) == PATH_CLASS_UDP && !path_is_local(candidate);
}

/* The longest idle interval that the candidate may come to. */
static uint64_t keep_max_ns(const struct nat_path *path, const struct path_candidate *candidate)
{
    bool is_punched = candidate->kind == NAT_ROUTE_PUNCHED || candidate->kind == NAT_ROUTE_MAPPED;
    uint64_t max_ns = path_later(is_punched ? keep_punched_ns : keep_plain_ns, path->config.idle_ns);
    if (may_expire(candidate) && path->keepalive_ns > 0)
        max_ns = path_sooner(max_ns, path->keepalive_ns);
    return max_ns;
}

/* An address that has not answered yet: ever more patiently. */
static uint64_t unproven_interval(uint64_t now_ns, const struct path_peer *peer,
                                  const struct path_candidate *candidate)
{
    if (now_ns < peer->punch_until_ns && path_class(candidate) == PATH_CLASS_UDP)
        return punch_interval_ns;
    uint32_t tries = path_unanswered(candidate);
    uint64_t cap_ns = path_is_busy(peer, now_ns) ? MS(500) : peer->active == PATH_NONE ? MS(1000) : MS(5000);
    return path_sooner(first_interval_ns << (tries > 8 ? 7 : tries > 0 ? tries - 1 : 0), cap_ns);
}

static uint64_t dead_interval(uint64_t now_ns, const struct path_peer *peer,
                              const struct path_candidate *candidate)
{
    bool busy = path_is_busy(peer, now_ns);
    if (peer->active == PATH_NONE)
        return candidate->proven && now_ns - peer->lost_ns < lost_eager_ns ? MS(500) : MS(15000);
    /* Worth more effort where it would end a detour. */
    if (path_class(candidate) < path_class(&peer->candidates[peer->active]))
        return busy ? MS(2000) : MS(15000);
    return busy || net_via_is_aux(candidate->addr.via) ? MS(5000) : MS(60000);
}

uint64_t path_probe_interval(const struct nat_path *path, uint64_t now_ns, const struct path_peer *peer,
                             const struct path_candidate *candidate)
{
    bool busy = path_is_busy(peer, now_ns);
    uint64_t base_ns = path_sooner(candidate->keep_ns, keep_max_ns(path, candidate));
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
        base_ns = path_sooner(base_ns, settle_interval_ns);
    /* The change to it is only held up; its next answer makes it. */
    if (candidate->state == NAT_ANSWERING && peer->active != PATH_NONE &&
        path_is_better(peer, now_ns, candidate, &peer->candidates[peer->active]))
        base_ns = path_sooner(base_ns, retry_interval_ns);
    return path_unanswered(candidate) > 0
               ? path_sooner(path_later(base_ns, settle_interval_ns), retry_interval_ns)
               : base_ns;
}

void path_probe_by(struct path_candidate *candidate, uint64_t at_ns)
{
    candidate->probe_at_ns = path_sooner(candidate->probe_at_ns, at_ns);
}

void path_probe_standbys(struct path_peer *peer, uint64_t now_ns)
{
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++) {
        if (peer->candidates[i].used && peer->candidates[i].state == NAT_ANSWERING)
            path_probe_by(&peer->candidates[i], now_ns);
    }
}

void path_born(const struct nat_path *path, struct path_candidate *candidate, uint64_t now_ns)
{
    candidate->born_ns = now_ns;
    candidate->keep_ns = path->config.idle_ns;
    candidate->good_ns = 0;
    candidate->good_intervals = 0;
    candidate->ageing = PATH_YOUNG;
    candidate->told_ageing = false;
}

void path_retry(struct nat_path *path, struct path_candidate *candidate, uint64_t now_ns)
{
    ASSERT(candidate->state == NAT_DEAD || candidate->state == NAT_PROBING ||
           candidate->state == NAT_CANDIDATE);
    if (candidate->proven)
        path_born(path, candidate, now_ns);
    candidate->state = NAT_CANDIDATE;
    candidate->since_ns = now_ns;
    candidate->settled = candidate->next_sequence - 1;
    candidate->answers = 0;
    path_probe_by(candidate, now_ns);
}

/* ---- probes ---- */

uint32_t path_probe_sent(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                         struct path_candidate *candidate)
{
    if (path_unanswered(candidate) == 0) {
        candidate->unanswered_since_ns = now_ns;
        uint64_t last_ns = path_later(candidate->heard_ns, candidate->probed_ns);
        candidate->gap_ns = now_ns - path_later(last_ns, candidate->born_ns);
    }
    uint32_t sequence = candidate->next_sequence++;
    candidate->sent_us[sequence % PATH_SENT_MAX] = (uint32_t)(now_ns / 1000);
    candidate->probed_ns = now_ns;
    candidate->probe_due = false;
    if (candidate->state == NAT_CANDIDATE) {
        candidate->state = NAT_PROBING;
        candidate->since_ns = now_ns;
        path_log(path, now_ns, peer, candidate, NAT_PATH_PROBED);
    }
    if (candidate->state == NAT_ANSWERING && path_unanswered(candidate) == STANDBY_DOUBTFUL &&
        peer->active != PATH_NONE)
        path_probe_by(&peer->candidates[peer->active], now_ns);
    uint64_t interval_ns = path_probe_interval(path, now_ns, peer, candidate);
    if (interval_ns >= retry_interval_ns) /* spread, so that nodes started together do not probe together */
        interval_ns -= rng_below(&path->config.rng, interval_ns / 8);
    candidate->probe_at_ns = now_ns + interval_ns;
    path->stats.probes_sent++;
    return sequence;
}

static void give_up(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                    struct path_candidate *candidate)
{
    bool was_standby = candidate->state == NAT_ANSWERING;
    candidate->state = NAT_DEAD;
    candidate->since_ns = now_ns;
    candidate->answers = 0;
    path_log(path, now_ns, peer, candidate, NAT_PATH_DIED);
    if (was_standby)
        path_learn_death(path, now_ns, peer, candidate);
}

/* A dead candidate of which nothing more is hoped. */
static bool is_hopeless(uint64_t now_ns, const struct path_peer *peer, const struct path_candidate *candidate)
{
    uint64_t dead_ns = now_ns - candidate->since_ns;
    if (candidate->state != NAT_DEAD)
        return false;
    const struct path_candidate *active = peer->active == PATH_NONE ? NULL : &peer->candidates[peer->active];
    bool replaced = active != NULL && active->state == NAT_ACTIVE && path_class(active) == PATH_CLASS_UDP;
    return (net_via_is_aux(candidate->addr.via) && dead_ns >= (replaced ? aux_spare_ns : aux_dead_ns)) ||
           (!candidate->offered && peer->active != PATH_NONE && dead_ns >= learnt_dead_ns);
}

/* What a candidate's silence has come to when its next probe is due; false: it is forgotten. */
static bool weigh_silence(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                          struct path_candidate *candidate)
{
    uint32_t unanswered = path_unanswered(candidate);
    bool punching = now_ns < peer->punch_until_ns;
    bool is_forgettable = !candidate->proven && (!candidate->offered || candidate->kind == NAT_ROUTE_PUNCHED);
    if (candidate->state == NAT_PROBING && unanswered >= UNANSWERED_GIVE_UP && !punching) {
        if (is_forgettable) {
            path_candidate_drop(path, now_ns, peer, candidate);
            return false;
        }
        give_up(path, now_ns, peer, candidate);
    } else if (candidate->state == NAT_ANSWERING && unanswered >= STANDBY_GIVE_UP &&
               now_ns - candidate->unanswered_since_ns > path_patience_ns(candidate) + retry_interval_ns) {
        give_up(path, now_ns, peer, candidate);
    } else if (is_hopeless(now_ns, peer, candidate)) {
        path_candidate_drop(path, now_ns, peer, candidate);
        return false;
    }
    return true;
}

void path_step_candidate(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
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

/* ---- how long a mapping lasts unused ---- */

static bool has_standby(const struct path_peer *peer)
{
    bool any = false;
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++)
        any |= peer->candidates[i].used && peer->candidates[i].state == NAT_ANSWERING;
    return any;
}

void path_gap_survived(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                       struct path_candidate *candidate)
{
    /* The peer probes too, so that the silence is shorter than the interval, and how much varies. */
    bool counts = candidate->gap_ns >= candidate->keep_ns / 4 && !path_is_busy(peer, now_ns);
    candidate->good_ns = path_later(candidate->good_ns, candidate->gap_ns);
    if (!counts)
        return;
    bool in_use = peer->active == candidate - peer->candidates;
    unsigned needed = !in_use ? GOOD_STANDBY : has_standby(peer) ? GOOD_ACTIVE : GOOD_SOLE;
    if (++candidate->good_intervals < needed)
        return;
    candidate->good_intervals = 0;
    uint64_t next_ns = candidate->keep_ns + candidate->keep_ns / 4;
    next_ns = path_sooner(next_ns, 3 * candidate->good_ns);
    candidate->keep_ns = path_sooner(path_later(candidate->keep_ns, next_ns), keep_max_ns(path, candidate));
}

static void learn_keepalive(struct nat_path *path, uint64_t value_ns)
{
    uint64_t ceiling_ns = path->keepalive_ns > 0 ? path->keepalive_ns : keep_punched_ns;
    path->keepalive_ns = path_later(path_sooner(ceiling_ns, value_ns), keep_least_ns);
    path->idle_doubts = 0;
}

uint64_t nat_path_keepalive(const struct nat_path *path)
{
    return path->keepalive_ns;
}

void nat_path_set_keepalive(struct nat_path *path, uint64_t keepalive_ns)
{
    uint64_t clamped_ns = path_sooner(path_later(keepalive_ns, keep_least_ns), keep_punched_ns);
    path->keepalive_ns = keepalive_ns == 0 ? 0 : clamped_ns;
    path->idle_doubts = 0;
}

/* ---- how old a mapping gets ---- */

uint64_t path_ageing_at(const struct path_peer *peer, const struct path_candidate *candidate)
{
    bool direct = candidate->kind == NAT_ROUTE_PUNCHED || candidate->kind == NAT_ROUTE_DIRECT4;
    if (peer->life_ns == 0 || !direct || (peer->life_learnt && candidate->kind != NAT_ROUTE_PUNCHED))
        return UINT64_MAX;
    /* Our own NAT ends mappings: that of the main socket began before the route did, and may end any moment.
     */
    if (!peer->life_learnt && candidate->addr.via == NET_VIA_MAIN)
        return candidate->born_ns;
    return candidate->born_ns + peer->life_ns / 10 * 6;
}

int nat_path_set_life(struct nat_path *path, uint64_t now_ns, const struct id *id, uint64_t life_ns)
{
    struct path_peer *peer = path_find(path, id);
    if (peer == NULL)
        return ERR_NOT_FOUND;
    if (life_ns != 0 && (life_ns < life_least_ns || life_ns > life_most_ns))
        return ERR_INVALID;
    peer->life_ns = life_ns;
    peer->life_learnt = false;
    peer->died_at_age_ns = 0;
    path_step(path, now_ns, peer);
    return ERR_OK;
}

/* A route died in use at this age.  Twice at about the same age is no accident. */
static void learn_life(struct path_peer *peer, uint64_t age_ns)
{
    uint64_t before_ns = peer->died_at_age_ns;
    uint64_t shorter_ns = path_sooner(before_ns, age_ns);
    if (peer->life_ns > 0 || age_ns < life_learnt_least_ns)
        return;
    peer->died_at_age_ns = age_ns;
    if (before_ns == 0 || path_later(before_ns, age_ns) - shorter_ns > shorter_ns / 5)
        return;
    peer->life_ns = shorter_ns;
    peer->life_learnt = true;
}

/* ---- lessons ---- */

void path_learn_death(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                      const struct path_candidate *candidate)
{
    bool idle = candidate->gap_ns >= keep_least_ns && candidate->gap_ns > candidate->good_ns;
    (void)path;
    if (!may_expire(candidate) || !candidate->proven || (!idle && candidate->kind != NAT_ROUTE_PUNCHED))
        return;
    bool sole = peer->active == PATH_NONE && !has_standby(peer);
    uint64_t below_ns = candidate->good_ns > 0 ? candidate->good_ns / 4 * 3 : candidate->gap_ns / 2;
    peer->lesson = (struct path_lesson){
        .until_ns = now_ns + (sole ? lesson_sole_life_ns : lesson_life_ns),
        .value_ns = idle ? below_ns : candidate->answered_ns - candidate->born_ns,
        .idle = idle,
        .sole = sole,
        .dead = (uint16_t)(candidate - peer->candidates),
    };
    path_probe_standbys(peer, now_ns);
    if (peer->active != PATH_NONE)
        path_probe_by(&peer->candidates[peer->active], now_ns);
}

void path_learn_alive(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                      const struct path_candidate *candidate)
{
    struct path_lesson lesson = peer->lesson;
    if (lesson.until_ns == 0)
        return;
    peer->lesson.until_ns = 0;
    if (now_ns > lesson.until_ns)
        return;
    /* The dead one itself answers first: an outage, or probes from both ends have opened the NATs anew. */
    bool revived = candidate - peer->candidates == lesson.dead;
    if (!lesson.idle && (!revived || lesson.sole))
        learn_life(peer, lesson.value_ns);
    if (!lesson.idle)
        return;
    if ((!revived && !lesson.sole) || ++path->idle_doubts >= DOUBTFUL_DEATHS)
        learn_keepalive(path, lesson.value_ns);
}
