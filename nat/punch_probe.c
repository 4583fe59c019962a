#include "nat/punch_internal.h"

/* Figures of the strategies, each measured against real NATs of its kind: 64 ports ahead of a sequential
 * trend forgive some fifty foreign flows; two sequential NATs meet when 64 sockets a side all aim at one port
 * 32 steps ahead, and do not when two single sockets sweep; 256 ports open at a random NAT are hit within
 * some 160 random probes in the median, 900 at worst. */
static const uint64_t window_plain_ns = 2500 * PUNCH_MS;
static const uint64_t window_predict_ns = 3000 * PUNCH_MS;
static const uint64_t window_birthday_ns = 6000 * PUNCH_MS;
static const uint64_t birthday_lead_ns = 150 * PUNCH_MS; /* the sockets send first: ports must be open */
static const uint64_t hit_interval_ns = 50 * PUNCH_MS;
static const uint64_t late_ns = 10 * PUNCH_MS; /* of a late wake-up this much is caught up at once */

enum { PORTS = 65536 - PUNCH_PORT_LOW };

uint64_t punch_window(enum nat_punch_strategy strategy)
{
    switch (strategy) {
    case NAT_PUNCH_PREDICT:
    case NAT_PUNCH_PREDICT_BOTH:
        return window_predict_ns;
    case NAT_PUNCH_BIRTHDAY:
        return window_birthday_ns;
    case NAT_PUNCH_NO_STRATEGY:
    case NAT_PUNCH_REVERSAL:
    case NAT_PUNCH_PLAIN:
        break;
    }
    return window_plain_ns;
}

/* ---- the plan ---- */

static bool was_seen(const struct punch_peer *peer, const struct net_addr *addr)
{
    for (size_t i = 0; i < PUNCH_SEEN_MAX; i++) {
        struct net_addr seen = peer->seen[i];
        seen.port = addr->port;
        if (seen.family != NET_FAMILY_NONE && net_addr_equal(&seen, addr))
            return true;
    }
    return false;
}

static struct punch_plan plan_candidates(const struct punch_round *round)
{
    uint64_t pass_ns = (round->base_via == NET_VIA_MAIN ? 200 : 100) * PUNCH_MS;
    uint32_t count = (uint32_t)round->target_count;
    bool passive = round->strategy == NAT_PUNCH_REVERSAL && !round->theirs.profile.reachable;
    if (count == 0 || passive)
        return (struct punch_plan){.aim = AIM_NOWHERE};
    return (struct punch_plan){.aim = AIM_CANDIDATES,
                               .length = count,
                               .passes = (uint32_t)(window_plain_ns / pass_ns),
                               .pace_ns = pass_ns / count,
                               .pass_ns = pass_ns};
}

/* The port so many steps ahead of a trend, where ports wrap from the highest to the lowest handed out. */
static uint16_t port_ahead(uint16_t trend, int32_t steps)
{
    int32_t at = (int32_t)trend - PUNCH_PORT_LOW + steps;
    return (uint16_t)(PUNCH_PORT_LOW + ((at % PORTS) + PORTS) % PORTS);
}

static struct punch_plan plan_predict(const struct punch_round *round)
{
    if (punch_is_many(&round->ours.profile))
        return (struct punch_plan){.aim = AIM_ONE,
                                   .length = 1,
                                   .passes = (uint32_t)(window_predict_ns / (30 * PUNCH_MS)),
                                   .pace_ns = 30 * PUNCH_MS,
                                   .pass_ns = 30 * PUNCH_MS,
                                   .to = punch_public4(&round->theirs)};
    if (round->theirs.profile.trend_port == 0)
        return (struct punch_plan){.aim = AIM_NOWHERE};
    return (struct punch_plan){.aim = AIM_SERIES,
                               .length = PUNCH_PREDICT_PORTS,
                               .passes = 2, /* for what got lost */
                               .pace_ns = 5 * PUNCH_MS,
                               .pass_ns = 1000 * PUNCH_MS,
                               .to = round->theirs.profile.public4};
}

static struct punch_plan plan_both(const struct punch_round *round)
{
    struct punch_plan plan = {.aim = AIM_SPREAD,
                              .length = round->socket_count,
                              .passes = 3, /* the second is the one that meets open ports; one for loss */
                              .pace_ns = 2 * PUNCH_MS,
                              .pass_ns = 400 * PUNCH_MS,
                              .to = round->theirs.profile.public4};
    if (round->theirs.profile.trend_port == 0)
        return (struct punch_plan){.aim = AIM_NOWHERE};
    plan.to.port =
        port_ahead(round->theirs.profile.trend_port, PUNCH_PREDICT_AHEAD * round->theirs.profile.step);
    return plan;
}

static struct punch_plan plan_birthday(const struct punch_peer *peer, const struct punch_round *round)
{
    if (punch_is_many(&round->ours.profile))
        return (struct punch_plan){.aim = AIM_SPREAD,
                                   .length = round->socket_count,
                                   .passes = 1,
                                   .pace_ns = 1 * PUNCH_MS,
                                   .to = punch_public4(&round->theirs)};
    bool seen = was_seen(peer, &round->theirs.profile.public4);
    return (struct punch_plan){.aim = AIM_RANDOM,
                               .length = seen ? NAT_PUNCH_GUESSES_MAX : NAT_PUNCH_UNSEEN_MAX,
                               .passes = 1,
                               .pace_ns = 2 * PUNCH_MS,
                               .delay_ns = birthday_lead_ns,
                               .to = round->theirs.profile.public4};
}

void punch_plan(struct nat_punch *punch, struct punch_round *round)
{
    const struct rng *rng = &punch->config.rng;
    switch (round->strategy) {
    case NAT_PUNCH_NO_STRATEGY:
    case NAT_PUNCH_REVERSAL:
    case NAT_PUNCH_PLAIN:
        round->plan = plan_candidates(round);
        break;
    case NAT_PUNCH_PREDICT:
        round->plan = plan_predict(round);
        break;
    case NAT_PUNCH_PREDICT_BOTH:
        round->plan = plan_both(round);
        break;
    case NAT_PUNCH_BIRTHDAY:
        round->plan = plan_birthday(&punch->peers[round->peer], round);
        break;
    }
    do /* prime to 64512 = 2^10 3^2 7, so that no port is tried twice */
        round->guess_mul = 1 + 2 * (uint32_t)rng_below(rng, PORTS / 2);
    while (round->guess_mul % 3 == 0 || round->guess_mul % 7 == 0);
    round->guess_add = (uint32_t)rng_below(rng, PORTS);
    round->cursor = 0;
    round->next_ns = round->start_ns + round->plan.delay_ns;
}

/* ---- its execution ---- */

static bool plan_over(const struct punch_round *round)
{
    const struct punch_plan *plan = &round->plan;
    if (plan->aim == AIM_NOWHERE || round->cursor >= plan->length * plan->passes)
        return true;
    /* Several addresses may open in turn; guesses are over with the first hit. */
    return round->hit_count > 0 && plan->aim != AIM_CANDIDATES;
}

static uint64_t plan_offset(const struct punch_plan *plan, uint32_t cursor)
{
    return cursor / plan->length * plan->pass_ns + cursor % plan->length * plan->pace_ns;
}

static struct net_addr plan_target(const struct punch_round *round)
{
    const struct punch_plan *plan = &round->plan;
    uint32_t i = round->cursor % plan->length;
    struct net_addr to = plan->aim == AIM_CANDIDATES ? round->targets[i].addr : plan->to;
    const struct nat_punch_profile *theirs = &round->theirs.profile;
    if (plan->aim == AIM_SERIES)
        to.port = port_ahead(theirs->trend_port, theirs->step * (int32_t)(i + 1));
    if (plan->aim == AIM_RANDOM)
        to.port = (uint16_t)(PUNCH_PORT_LOW +
                             ((uint64_t)round->guess_mul * i + round->guess_add) % (uint64_t)PORTS);
    to.via = plan->aim == AIM_SPREAD ? round->sockets[i] : round->base_via;
    return to;
}

uint64_t punch_probe_due(const struct punch_round *round)
{
    if (round->state != PUNCH_PUNCHING)
        return UINT64_MAX;
    uint64_t due_ns = plan_over(round) ? UINT64_MAX : round->next_ns;
    if (round->hit_count > 0 && round->hit_next_ns < due_ns)
        due_ns = round->hit_next_ns;
    return due_ns;
}

static void write_probe(struct nat_punch *punch, struct punch_round *round, const struct net_addr *to,
                        struct net_message *out)
{
    struct punch_message message = {
        .kind = PUNCH_KIND_PROBE, .round = round->id, .sequence = ++round->sequence};
    out->peer = punch->peers[round->peer].id;
    out->addr = *to;
    punch_encode(&message, out);
}

/* Back to where the peer was heard from, until an answer comes. */
static bool next_hit(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                     struct net_message *out)
{
    if (round->hit_count == 0 || now_ns < round->hit_next_ns)
        return false;
    round->hit_cursor = (round->hit_cursor + 1) % round->hit_count;
    round->hit_next_ns = now_ns + hit_interval_ns / round->hit_count;
    /* The source of a datagram can be forged even by its true author: an unanswered one has its cap too. */
    const struct net_addr *to = &round->hits[round->hit_cursor];
    if (!punch_allow(punch, now_ns, round, to))
        return false;
    write_probe(punch, round, to, out);
    return true;
}

bool punch_probe_next(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                      struct net_message *out)
{
    if (round->state != PUNCH_PUNCHING)
        return false;
    if (next_hit(punch, now_ns, round, out))
        return true;
    while (!plan_over(round) && now_ns >= round->next_ns) {
        struct net_addr to = plan_target(round);
        uint64_t step_ns =
            plan_offset(&round->plan, round->cursor + 1) - plan_offset(&round->plan, round->cursor);
        if (now_ns - round->next_ns > late_ns)
            round->next_ns = now_ns - late_ns;
        round->next_ns += step_ns;
        round->cursor++;
        if (punch_allow(punch, now_ns, round, &to)) {
            write_probe(punch, round, &to, out);
            return true;
        }
    }
    return false;
}
