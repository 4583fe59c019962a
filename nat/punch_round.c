#include "nat/punch_internal.h"

enum { PROBES_CHEAP = 64 };

static const uint64_t prepare_max_ns = 5000 * PUNCH_MS;
static const uint64_t invite_max_ns = 10000 * PUNCH_MS;
static const uint64_t go_wait_ns = 10000 * PUNCH_MS;
static const uint64_t rest_ns = 500 * PUNCH_MS;        /* the inviter's, before the next attempt */
static const uint64_t rest_wait_ns = 12000 * PUNCH_MS; /* the other side's, for the next INVITE */
static const uint64_t linger_ns = 3000 * PUNCH_MS;
static const uint64_t head_start_ns = 200 * PUNCH_MS; /* of the side that goes first in a retry */
static const uint64_t invite_again_ns = 500 * PUNCH_MS;
static const uint64_t go_again_ns = 150 * PUNCH_MS;
static const uint64_t look_again_ns = 300 * PUNCH_MS;
static const uint64_t rtt_max_ns = 2000 * PUNCH_MS;
static const uint64_t confirm_ns = 1000 * PUNCH_MS; /* at least, for the answer after a first hit */
static const uint64_t again_ns = 2000 * PUNCH_MS;   /* between two rounds with a peer */

/* ---- sockets and the address of a fresh one ---- */

static void ask_sockets(struct nat_punch *punch, struct punch_round *round, uint16_t want)
{
    size_t room = punch_sockets_free(punch);
    round->sockets_want = (uint16_t)(want < room ? want : room);
    round->sockets_need = round->sockets_want > 0 ? PUNCH_TO_ASK : PUNCH_HAVE;
}

/* A retry and a make-before-break leave by a new port; pointless where every destination gets one anyway. */
static bool wants_fresh_base(const struct punch_round *round)
{
    const struct nat_punch_profile *ours = &round->ours.profile;
    if (punch_is_many(ours) || ours->reachable)
        return false;
    return round->attempt > 1 || (round->fresh && (round->inviter || ours->mapping_life_ns > 0));
}

static void ask_fresh_base(struct nat_punch *punch, struct punch_round *round)
{
    if (!wants_fresh_base(round) || punch->observer_count == 0)
        return;
    ask_sockets(punch, round, 1);
    if (round->sockets_need == PUNCH_TO_ASK) {
        round->look_need = PUNCH_TO_ASK;
        round->look_number = rng_u32(&punch->config.rng);
    }
}

static bool enough_sockets(const struct punch_round *round)
{
    if (round->strategy == NAT_PUNCH_PREDICT_BOTH)
        return round->socket_count >= PUNCH_PREDICT_LEAST;
    if (round->strategy == NAT_PUNCH_BIRTHDAY && punch_is_many(&round->ours.profile))
        return round->socket_count >= PUNCH_BIRTHDAY_LEAST;
    return true; /* one fewer: the main socket has to do */
}

static bool pending(enum punch_need need)
{
    return need == PUNCH_TO_ASK || need == PUNCH_ASKED;
}

/* ---- attempts ---- */

static void tell_ours(const struct nat_punch *punch, struct punch_round *round)
{
    round->ours = (struct punch_side){.profile = punch->profile, .count = punch->addr_count};
    for (size_t i = 0; i < punch->addr_count; i++)
        round->ours.candidates[i] = punch->addrs[i];
}

static void attempt_reset(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round)
{
    punch_sockets_drop(punch, round, NET_VIA_MAIN);
    round->state = PUNCH_PREPARING;
    round->until_ns = now_ns + prepare_max_ns;
    round->resend_ns = UINT64_MAX;
    round->invite_due = round->answer_due = round->go_due = round->go_ack_due = round->look_due = false;
    round->sockets_need = round->survey_need = round->look_need = PUNCH_NOT_NEEDED;
    round->strategy = NAT_PUNCH_NO_STRATEGY;
    round->sends = 0;
    round->base_via = NET_VIA_MAIN;
    round->plan = (struct punch_plan){.aim = AIM_NOWHERE};
    round->target_count = 0;
    round->hit_count = round->hits_told = 0;
    round->targets_due = false;
    round->targets_told = 0;
    tell_ours(punch, round);
}

static void attempt_begin(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round)
{
    attempt_reset(punch, now_ns, round);
    round->attempt++;
    ask_fresh_base(punch, round);
    punch_round_step(punch, now_ns, round);
}

void punch_round_begin(struct nat_punch *punch, uint64_t now_ns, struct punch_peer *peer, bool fresh)
{
    struct punch_round *round = punch_round_new(punch);
    ASSERT(round != NULL);
    round->peer = (uint16_t)(peer - punch->peers);
    peer->round = (uint16_t)(round - punch->rounds);
    round->inviter = round->started = true;
    round->fresh = fresh;
    round->id = rng_u64(&punch->config.rng);
    round->began_ns = now_ns;
    round->old_way = peer->signal;
    attempt_begin(punch, now_ns, round);
}

/* Both sides are known: what to do, and whether it can be done. */
static enum nat_punch_reason settle(struct punch_round *round)
{
    round->shortcut = punch_shortcut(&round->ours, &round->theirs);
    round->strategy =
        nat_punch_choose(&round->ours.profile, &round->theirs.profile, round->shortcut, round->attempt);
    return punch_feasible(round->strategy, &round->ours, &round->theirs);
}

static void ask_strategy(struct nat_punch *punch, struct punch_round *round)
{
    uint16_t want = punch_sockets_needed(round->strategy, &round->ours.profile);
    if (want > 0)
        ask_sockets(punch, round, want);
    if (punch_survey_needed(round->strategy, &round->ours.profile))
        round->survey_need = PUNCH_TO_ASK;
}

static bool is_over(const struct punch_round *round)
{
    return round->state == PUNCH_CLOSED || round->state == PUNCH_FREE;
}

static void attempt_failed(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                           enum nat_punch_reason reason)
{
    unsigned most = punch_attempts(&round->ours, &round->theirs, round->shortcut);
    bool hopeless = nat_punch_choose(&round->ours.profile, &round->theirs.profile, round->shortcut, 2) ==
                    NAT_PUNCH_NO_STRATEGY;
    bool again = round->attempt < most && (round->inviter || reason == NAT_PUNCH_SILENCE);
    if (!again) {
        punch_round_finish(punch, now_ns, round,
                           hopeless && reason == NAT_PUNCH_SILENCE ? NAT_PUNCH_HOPELESS : reason);
        return;
    }
    punch_sockets_drop(punch, round, NET_VIA_MAIN);
    round->state = PUNCH_RESTING;
    round->until_ns = now_ns + (round->inviter ? rest_ns : rest_wait_ns);
    round->resend_ns = UINT64_MAX;
    round->invite_due = round->answer_due = round->go_due = round->go_ack_due = round->look_due = false;
    round->sockets_need = round->survey_need = round->look_need = PUNCH_NOT_NEEDED;
    round->targets_due = false;
}

/* ---- messages of the peer ---- */

static void take_theirs(struct punch_round *round, const struct punch_message *message)
{
    round->theirs = (struct punch_side){.profile = message->profile, .count = message->candidate_count};
    for (size_t i = 0; i < message->candidate_count; i++)
        round->theirs.candidates[i] = message->candidates[i];
}

void punch_round_invited(struct nat_punch *punch, uint64_t now_ns, struct punch_peer *peer,
                         struct punch_round *round, const struct punch_message *message)
{
    if (round->state == PUNCH_FREE) {
        round->peer = (uint16_t)(peer - punch->peers);
        peer->round = (uint16_t)(round - punch->rounds);
        round->began_ns = now_ns;
        round->old_way = peer->signal;
    }
    round->inviter = false;
    round->id = message->round;
    round->fresh = message->fresh;
    round->attempt = message->attempt;
    round->asked_ns = now_ns;
    round->rtt_ns = peer->rtt_ns;
    attempt_reset(punch, now_ns, round);
    take_theirs(round, message);
    enum nat_punch_reason reason = settle(round);
    if (reason != NAT_PUNCH_DONE) {
        punch_round_finish(punch, now_ns, round, reason);
        return;
    }
    ask_fresh_base(punch, round);
    ask_strategy(punch, round);
    punch_round_step(punch, now_ns, round);
}

void punch_round_answered(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                          const struct punch_message *message)
{
    uint64_t held_ns = message->held_ms * PUNCH_MS;
    uint64_t took_ns = now_ns - round->asked_ns;
    uint64_t hint_ns = punch->peers[round->peer].rtt_ns;
    round->rtt_ns = took_ns > held_ns ? took_ns - held_ns : 0;
    if (round->sends > 1 && hint_ns > 0) /* which INVITE was answered is not known */
        round->rtt_ns = hint_ns;
    if (round->rtt_ns > rtt_max_ns)
        round->rtt_ns = rtt_max_ns;
    take_theirs(round, message);
    enum nat_punch_reason reason = settle(round);
    if (reason != NAT_PUNCH_DONE) {
        punch_round_finish(punch, now_ns, round, reason);
        return;
    }
    round->state = PUNCH_ARMING;
    round->until_ns = now_ns + prepare_max_ns;
    round->resend_ns = UINT64_MAX;
    round->invite_due = false;
    ask_strategy(punch, round);
    punch_round_step(punch, now_ns, round);
}

/* Probing begins at start_ns. */
static void punching(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round, uint64_t start_ns)
{
    if (round->fresh && round->inviter && round->base_via == NET_VIA_MAIN &&
        !punch_is_many(&round->ours.profile)) {
        attempt_failed(punch, now_ns, round, NAT_PUNCH_NO_SOCKETS); /* the old port would prove nothing */
        return;
    }
    round->state = PUNCH_PUNCHING;
    round->start_ns = start_ns;
    round->until_ns = start_ns + punch_window(round->strategy);
    round->target_count = punch_usable(&round->ours, &round->theirs, round->targets);
    round->hit_next_ns = now_ns;
    punch_plan(punch, round);
    bool by_path = round->plan.aim == AIM_CANDIDATES && round->base_via == NET_VIA_MAIN;
    round->targets_told = by_path ? 0 : (uint8_t)round->target_count;
}

void punch_round_go(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                    const struct punch_message *message)
{
    round->go_ack_due = true;
    if (round->state != PUNCH_ANSWERED)
        return; /* repeated */
    if (message->trend_port != 0)
        round->theirs.profile.trend_port = message->trend_port;
    punching(punch, now_ns, round, now_ns + (round->attempt == 3 ? head_start_ns : 0));
    if (!is_over(round))
        punch_round_step(punch, now_ns, round);
}

/* Does an authentic probe from there show a way that we did not have? */
static bool counts(const struct punch_round *round, const struct net_addr *addr)
{
    if (net_addr_scope(addr) == NET_SCOPE_INVALID || net_addr_equal(addr, &round->old_way))
        return false;
    if (addr->via != NET_VIA_MAIN)
        return punch_socket_of(round, addr->via);
    return !(round->fresh && round->inviter);
}

static void first_hit(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                      const struct net_addr *addr)
{
    punch_sockets_drop(punch, round, addr->via);
    round->hit_next_ns = now_ns;
    if (round->until_ns < now_ns + confirm_ns)
        round->until_ns = now_ns + confirm_ns;
}

bool punch_round_hit(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                     const struct net_addr *addr, bool answered)
{
    if (round->state == PUNCH_CLOSED)
        return round->ok && (addr->via == NET_VIA_MAIN || addr->via == round->reached.via);
    if ((round->state != PUNCH_PUNCHING && round->state != PUNCH_ANSWERED) || !counts(round, addr))
        return false;
    if (round->state == PUNCH_ANSWERED) /* GO got lost, or is slower than the probe */
        punching(punch, now_ns, round, now_ns);
    if (round->state != PUNCH_PUNCHING)
        return false;
    bool known = false;
    for (size_t i = 0; i < round->hit_count; i++)
        known = known || net_addr_equal(&round->hits[i], addr);
    if (!known && round->hit_count < PUNCH_HITS_MAX) {
        if (round->hit_count == 0)
            first_hit(punch, now_ns, round, addr);
        round->hits[round->hit_count++] = *addr;
    } else if (!known) {
        return false;
    }
    round->go_due = false; /* a probe of the peer shows that it knows */
    round->resend_ns = UINT64_MAX;
    if (answered) {
        round->reached = *addr;
        punch_round_finish(punch, now_ns, round, NAT_PUNCH_DONE);
    }
    return true;
}

/* ---- time ---- */

/* What must be had before INVITE, ANSWER or GO; false: not all of it yet. */
static bool prepared(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round)
{
    if (pending(round->sockets_need))
        return false;
    if (!enough_sockets(round)) {
        attempt_failed(punch, now_ns, round, NAT_PUNCH_NO_SOCKETS);
        return false;
    }
    if (pending(round->look_need)) {
        if (round->look_need == PUNCH_TO_ASK || now_ns >= round->resend_ns) {
            round->look_need = PUNCH_ASKED;
            round->look_due = round->sends < PUNCH_LOOK_MAX && round->socket_count > 0;
            round->resend_ns = now_ns + look_again_ns;
            if (!round->look_due) { /* nobody says how the socket looks from outside: the main one then */
                round->look_need = PUNCH_NOT_NEEDED;
                round->resend_ns = UINT64_MAX;
                punch_sockets_drop(punch, round, NET_VIA_MAIN);
            }
            round->sends++;
        }
        if (pending(round->look_need))
            return false;
    }
    return !pending(round->survey_need);
}

static void send_side(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round)
{
    round->sends = 0;
    if (round->inviter) {
        round->state = PUNCH_INVITED;
        round->until_ns = now_ns + invite_max_ns;
        round->invite_due = true;
        round->asked_ns = now_ns;
        uint64_t rtt_ns = punch->peers[round->peer].rtt_ns;
        round->rtt_ns = rtt_ns < rtt_max_ns ? rtt_ns : rtt_max_ns;
        round->resend_ns = now_ns + invite_again_ns + 2 * round->rtt_ns;
        round->sends = 1;
        return;
    }
    round->state = PUNCH_ANSWERED;
    round->until_ns = now_ns + go_wait_ns;
    round->resend_ns = UINT64_MAX;
    round->answer_due = true;
}

static void send_go(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round)
{
    round->go_due = true;
    round->sends = 1;
    round->resend_ns = now_ns + go_again_ns + round->rtt_ns * 3 / 2;
    punching(punch, now_ns, round, now_ns + round->rtt_ns / 2 + (round->attempt == 2 ? head_start_ns : 0));
}

static void resend(uint64_t now_ns, struct punch_round *round)
{
    if (now_ns < round->resend_ns)
        return;
    if (round->state == PUNCH_INVITED) {
        round->invite_due = true;
        round->resend_ns = now_ns + invite_again_ns + 2 * round->rtt_ns;
        round->sends++;
    } else if (round->state == PUNCH_PUNCHING) {
        round->go_due = round->sends < PUNCH_GO_MAX;
        round->resend_ns = round->go_due ? now_ns + go_again_ns + round->rtt_ns * 3 / 2 : UINT64_MAX;
        round->sends++;
    }
}

static void timed_out(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round)
{
    switch (round->state) {
    case PUNCH_FREE:
    case PUNCH_CLOSED:
        break;
    case PUNCH_PREPARING:
    case PUNCH_ARMING:
        attempt_failed(punch, now_ns, round,
                       pending(round->survey_need) && !pending(round->sockets_need) ? NAT_PUNCH_NO_SURVEY
                                                                                    : NAT_PUNCH_NO_SOCKETS);
        break;
    case PUNCH_INVITED:
    case PUNCH_ANSWERED:
        punch_round_finish(punch, now_ns, round, NAT_PUNCH_NO_ANSWER);
        break;
    case PUNCH_PUNCHING:
        attempt_failed(punch, now_ns, round, NAT_PUNCH_SILENCE);
        break;
    case PUNCH_RESTING:
        if (round->inviter)
            attempt_begin(punch, now_ns, round);
        else
            punch_round_finish(punch, now_ns, round, NAT_PUNCH_SILENCE);
        break;
    }
}

void punch_round_step(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round)
{
    bool held_long = round->socket_count > 0 && now_ns >= round->sockets_until_ns;
    if (is_over(round)) {
        if (round->state == PUNCH_CLOSED && now_ns >= round->until_ns && !round->result_due &&
            round->hits_told == round->hit_count)
            round->state = PUNCH_FREE;
        return;
    }
    if (held_long) {
        attempt_failed(punch, now_ns, round, NAT_PUNCH_SILENCE);
    } else if (now_ns >= round->until_ns) {
        timed_out(punch, now_ns, round);
    } else if (round->state == PUNCH_PREPARING) {
        if (prepared(punch, now_ns, round))
            send_side(punch, now_ns, round);
    } else if (round->state == PUNCH_ARMING) {
        if (prepared(punch, now_ns, round))
            send_go(punch, now_ns, round);
    } else {
        resend(now_ns, round);
        if (round->state == PUNCH_PUNCHING && now_ns >= round->start_ns &&
            round->targets_told < round->target_count)
            round->targets_due = true;
    }
}

uint64_t punch_round_deadline(const struct punch_round *round)
{
    uint64_t next_ns = round->until_ns;
    if (round->state == PUNCH_FREE)
        return UINT64_MAX;
    if (round->state == PUNCH_CLOSED)
        return next_ns;
    if (round->resend_ns < next_ns)
        next_ns = round->resend_ns;
    if (round->socket_count > 0 && round->sockets_until_ns < next_ns)
        next_ns = round->sockets_until_ns;
    if (round->state == PUNCH_PUNCHING && !round->targets_due && round->targets_told < round->target_count &&
        round->start_ns < next_ns)
        next_ns = round->start_ns;
    uint64_t probe_ns = punch_probe_due(round);
    return probe_ns < next_ns ? probe_ns : next_ns;
}

/* ---- the end ---- */

static void back_off(uint64_t now_ns, struct punch_peer *peer, enum nat_punch_reason reason)
{
    static const uint32_t seconds[] = {10, 30, 120, 600, 1800, 3600};
    const uint32_t last = sizeof seconds / sizeof seconds[0] - 1;
    peer->ready_ns = now_ns + again_ns;
    if (reason == NAT_PUNCH_DONE)
        peer->failures = 0;
    if (reason == NAT_PUNCH_DONE || reason == NAT_PUNCH_CANCELLED || reason == NAT_PUNCH_SUPERSEDED)
        return;
    if (reason == NAT_PUNCH_HOPELESS && peer->failures < 3)
        peer->failures = 3; /* nothing changes until a NAT does */
    uint32_t step = peer->failures < last ? peer->failures : last;
    peer->ready_ns = now_ns + seconds[step] * 1000 * PUNCH_MS;
    peer->failures++;
}

static void remember(struct punch_peer *peer, const struct punch_round *round, enum nat_punch_reason reason)
{
    peer->recent[peer->recent_at] = round->id;
    peer->recent_reason[peer->recent_at] = (uint8_t)reason;
    peer->recent_at = (uint8_t)((peer->recent_at + 1) % PUNCH_RECENT_MAX);
    peer->log[peer->log_at] = (struct nat_punch_attempt){.started_ns = round->began_ns,
                                                         .elapsed_ns = round->elapsed_ns,
                                                         .probes_sent = round->probes_sent,
                                                         .attempts = round->attempt,
                                                         .ok = round->ok,
                                                         .inbound = !round->started,
                                                         .strategy = round->strategy,
                                                         .reason = reason,
                                                         .addr = round->reached};
    peer->log_at = (uint8_t)((peer->log_at + 1) % NAT_PUNCH_LOG_MAX);
    if (peer->log_count < NAT_PUNCH_LOG_MAX)
        peer->log_count++;
}

void punch_round_finish(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                        enum nat_punch_reason reason)
{
    struct punch_peer *peer = &punch->peers[round->peer];
    ASSERT(!is_over(round) && peer->round == round - punch->rounds);
    round->ok = reason == NAT_PUNCH_DONE;
    round->reason = reason;
    round->elapsed_ns = now_ns - round->began_ns;
    if (!round->ok)
        round->reached = (struct net_addr){.family = NET_FAMILY_NONE};
    punch_sockets_drop(punch, round, round->reached.via);
    punch_sockets_keep(punch, round);
    if (!round->ok)
        round->hit_count = round->hits_told;
    round->state = PUNCH_CLOSED;
    round->until_ns = now_ns + (round->ok ? linger_ns : 0);
    round->resend_ns = UINT64_MAX;
    round->sockets_need = round->survey_need = round->look_need = PUNCH_NOT_NEEDED;
    round->invite_due = round->answer_due = round->go_due = round->look_due = false;
    round->go_ack_due = false;
    round->targets_due = false;
    round->result_due = true;
    if (!round->quiet)
        punch_end_push(punch, peer, round->id, round->attempt, reason);
    remember(peer, round, reason);
    back_off(now_ns, peer, reason);
    peer->round = PUNCH_NONE;
    peer->used_ns = now_ns;
    punch->stats.rounds_ok += round->ok;
    /* Where mappings are short-lived a round is needed every few seconds, and what came off with few probes
     * troubled nobody else. */
    if (round->ok && !round->inviter && round->probes_sent <= PROBES_CHEAP && peer->inbound > 0)
        peer->inbound--;
    punch->stats.rounds_failed += !round->ok;
    trace_emit(&punch->config.trace, round->ok ? TRACE_PUNCH_DONE : TRACE_PUNCH_FAILED, now_ns, &peer->id,
               (int64_t)(round->elapsed_ns / PUNCH_MS), round->ok ? round->probes_sent : (int64_t)reason, 0);
}
