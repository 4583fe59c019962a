#include <string.h>

#include "nat/punch_internal.h"

static const uint64_t place_window_ns = 600000 * PUNCH_MS;
static const uint64_t minute_ns = 60000 * PUNCH_MS;

/* ---- peers and rounds ---- */

struct punch_peer *punch_find(struct nat_punch *punch, const struct id *id)
{
    for (size_t i = 0; i < punch->peer_count; i++) {
        if (punch->peers[i].used && id_equal(&punch->peers[i].id, id))
            return &punch->peers[i];
    }
    return NULL;
}

static bool has_round(const struct nat_punch *punch, size_t peer)
{
    for (size_t i = 0; i < NAT_PUNCH_ROUNDS_MAX; i++) {
        if (punch->rounds[i].state != PUNCH_FREE && punch->rounds[i].peer == peer)
            return true;
    }
    return false;
}

struct punch_peer *punch_peer_new(struct nat_punch *punch, const struct id *id)
{
    struct punch_peer *best = NULL;
    for (size_t i = 0; i < punch->peer_count; i++) {
        struct punch_peer *at = &punch->peers[i];
        if (at->used && (at->signalled || has_round(punch, i)))
            continue;
        if (best == NULL || (best->used && (!at->used || at->used_ns < best->used_ns)))
            best = at;
    }
    if (best == NULL)
        return NULL;
    *best = (struct punch_peer){.used = true, .id = *id, .round = PUNCH_NONE};
    return best;
}

bool punch_recent(const struct punch_peer *peer, uint64_t round, uint8_t *reason)
{
    for (size_t i = 0; i < PUNCH_RECENT_MAX; i++) {
        if (peer->recent[i] == round) {
            *reason = peer->recent_reason[i];
            return true;
        }
    }
    return false;
}

struct punch_round *punch_round_new(struct nat_punch *punch)
{
    struct punch_round *best = NULL;
    for (size_t i = 0; i < NAT_PUNCH_ROUNDS_MAX; i++) {
        struct punch_round *at = &punch->rounds[i];
        if (at->state == PUNCH_FREE) {
            best = at;
            break;
        }
        if (at->state == PUNCH_CLOSED && !at->result_due && at->hits_told == at->hit_count &&
            (best == NULL || at->until_ns < best->until_ns))
            best = at;
    }
    if (best == NULL)
        return NULL;
    uint16_t generation = (uint16_t)(best->generation + 1);
    memset(best, 0, sizeof *best);
    best->generation = generation;
    best->peer = PUNCH_NONE;
    best->resend_ns = UINT64_MAX;
    return best;
}

/* ---- sockets ---- */

size_t punch_sockets_free(const struct nat_punch *punch)
{
    size_t taken = 0, to_keep = 0;
    for (size_t i = 0; i < PUNCH_SOCKETS; i++) {
        enum punch_socket_state state = punch->sockets[i].state;
        taken += state == PUNCH_SOCKET_ROUND || state == PUNCH_SOCKET_RELEASING;
        to_keep += state == PUNCH_SOCKET_KEPT;
    }
    for (size_t i = 0; i < NAT_PUNCH_ROUNDS_MAX; i++) {
        const struct punch_round *round = &punch->rounds[i];
        bool asked = round->sockets_need == PUNCH_TO_ASK || round->sockets_need == PUNCH_ASKED;
        taken += asked ? round->sockets_want : 0u;
        to_keep += asked || round->socket_count > 0; /* each may want to keep one in the end */
    }
    if (to_keep >= NAT_PUNCH_KEPT_MAX || taken >= NAT_PUNCH_SOCKETS_MAX)
        return 0;
    return NAT_PUNCH_SOCKETS_MAX - taken;
}

bool punch_socket_of(const struct punch_round *round, uint16_t via)
{
    for (size_t i = 0; i < round->socket_count; i++) {
        if (round->sockets[i] == via)
            return true;
    }
    return false;
}

void punch_sockets_drop(struct nat_punch *punch, struct punch_round *round, uint16_t keep)
{
    uint16_t slot = (uint16_t)(round - punch->rounds);
    bool kept = false;
    for (size_t i = 0; i < PUNCH_SOCKETS; i++) {
        struct punch_socket *at = &punch->sockets[i];
        if (at->state != PUNCH_SOCKET_ROUND || at->round != slot)
            continue;
        if (keep != NET_VIA_MAIN && at->via == keep)
            kept = true;
        else
            at->state = PUNCH_SOCKET_RELEASING;
    }
    round->socket_count = kept ? 1 : 0;
    round->sockets[0] = keep;
    if (!punch_socket_of(round, round->base_via))
        round->base_via = NET_VIA_MAIN;
}

void punch_sockets_keep(struct nat_punch *punch, struct punch_round *round)
{
    uint16_t slot = (uint16_t)(round - punch->rounds);
    ASSERT(round->socket_count <= 1);
    for (size_t i = 0; i < PUNCH_SOCKETS; i++) {
        struct punch_socket *at = &punch->sockets[i];
        if (at->state == PUNCH_SOCKET_ROUND && at->round == slot)
            at->state = at->unused ? PUNCH_SOCKET_RELEASING : PUNCH_SOCKET_KEPT;
    }
    round->socket_count = 0; /* their sockets[0] stays readable: base_via may name it while it is kept */
}

/* ---- budgets ---- */

static void place_key(const struct net_addr *addr, uint8_t key[8])
{
    memset(key, 0, 8);
    if (addr->family == NET_FAMILY_V4) {
        memcpy(key + 4, addr->ip, 4); /* no global IPv6 prefix begins with four zero bytes */
        return;
    }
    memcpy(key, addr->ip, 8);
}

static struct punch_place *place_of(struct nat_punch *punch, uint64_t now_ns, const struct net_addr *addr)
{
    uint8_t key[8];
    struct punch_place *least = &punch->places[0];
    place_key(addr, key);
    for (size_t i = 0; i < PUNCH_PLACES_MAX; i++) {
        struct punch_place *at = &punch->places[i];
        if (at->count > 0 && now_ns - at->since_ns >= place_window_ns)
            at->count = 0;
        if (at->count > 0 && memcmp(at->prefix, key, sizeof key) == 0)
            return at;
        if (at->count < least->count)
            least = at;
    }
    memcpy(least->prefix, key, sizeof key);
    least->since_ns = now_ns;
    return least;
}

bool punch_allow(struct nat_punch *punch, uint64_t now_ns, struct punch_round *round,
                 const struct net_addr *to)
{
    if (now_ns - punch->minute_ns >= minute_ns) {
        punch->minute_ns = now_ns;
        punch->minute_count = 0;
    }
    struct punch_place *place = place_of(punch, now_ns, to);
    if (round->probes_sent >= NAT_PUNCH_PROBES_ROUND_MAX ||
        punch->minute_count >= NAT_PUNCH_PROBES_MINUTE_MAX || place->count >= NAT_PUNCH_PROBES_PLACE_MAX) {
        punch->stats.limited++;
        return false;
    }
    place->count++;
    punch->minute_count++;
    round->probes_sent++;
    punch->stats.probes_sent++;
    return true;
}

void punch_end_push(struct nat_punch *punch, const struct punch_peer *peer, uint64_t round, uint8_t attempt,
                    enum nat_punch_reason code)
{
    size_t at = peer->signalled ? ring_push(&punch->end_ring) : RING_NONE;
    if (at == RING_NONE)
        return; /* the peer will find out by itself, later */
    punch->ends[at] = (struct punch_end){
        .peer = peer->id, .addr = peer->signal, .round = round, .attempt = attempt, .code = (uint8_t)code};
}

/* ---- invariants ---- */

static void check_round(const struct nat_punch *punch, uint16_t slot, size_t held)
{
    const struct punch_round *round = &punch->rounds[slot];
    ASSERT(held == round->socket_count);
    if (round->state == PUNCH_FREE) {
        ASSERT(held == 0 && !round->result_due);
        return;
    }
    ASSERT(round->peer < punch->peer_count);
    const struct punch_peer *peer = &punch->peers[round->peer];
    ASSERT(peer->used);
    ASSERT((peer->round == slot) == (round->state != PUNCH_CLOSED));
    ASSERT(round->attempt >= 1 && round->attempt <= NAT_PUNCH_ATTEMPTS_MAX);
    ASSERT(round->probes_sent <= NAT_PUNCH_PROBES_ROUND_MAX);
    ASSERT(round->target_count <= NAT_PUNCH_CANDIDATES_MAX && round->hit_count <= PUNCH_HITS_MAX);
    ASSERT(round->state == PUNCH_CLOSED || (!round->result_due && round->until_ns != 0));
    ASSERT(round->state != PUNCH_CLOSED || held == 0);
    bool asked = round->sockets_need == PUNCH_TO_ASK || round->sockets_need == PUNCH_ASKED;
    ASSERT(!asked || round->state == PUNCH_PREPARING || round->state == PUNCH_ARMING);
    for (size_t i = 0; i < round->socket_count; i++)
        ASSERT(net_via_is_aux(round->sockets[i]));
}

void punch_check_tables(const struct nat_punch *punch)
{
    uint8_t vias[NET_VIA_AUX_LAST / 8 + 1] = {0};
    size_t held[NAT_PUNCH_ROUNDS_MAX] = {0};
    size_t kept = 0, used = 0, asked = 0;
    ring_check_invariants(&punch->answer_ring);
    ring_check_invariants(&punch->end_ring);
    for (size_t i = 0; i < PUNCH_SOCKETS; i++) {
        const struct punch_socket *at = &punch->sockets[i];
        kept += at->state == PUNCH_SOCKET_KEPT;
        used += at->state != PUNCH_SOCKET_FREE;
        ASSERT(at->state == PUNCH_SOCKET_FREE || net_via_is_aux(at->via));
        if (at->state == PUNCH_SOCKET_ROUND) {
            ASSERT(at->round < NAT_PUNCH_ROUNDS_MAX);
            held[at->round]++;
        }
        if (at->state != PUNCH_SOCKET_FREE) {
            ASSERT((vias[at->via / 8] & 1u << at->via % 8) == 0);
            vias[at->via / 8] |= (uint8_t)(1u << at->via % 8);
        }
    }
    for (uint16_t i = 0; i < NAT_PUNCH_ROUNDS_MAX; i++) {
        const struct punch_round *round = &punch->rounds[i];
        check_round(punch, i, held[i]);
        if (round->sockets_need == PUNCH_TO_ASK || round->sockets_need == PUNCH_ASKED)
            asked += round->sockets_want;
    }
    ASSERT(kept <= NAT_PUNCH_KEPT_MAX);
    ASSERT(used + asked <= PUNCH_SOCKETS);
    for (size_t i = 0; i < punch->peer_count; i++) {
        const struct punch_peer *peer = &punch->peers[i];
        ASSERT(!peer->used || peer->log_count <= NAT_PUNCH_LOG_MAX);
        ASSERT(!peer->used || peer->round == PUNCH_NONE || punch->rounds[peer->round].peer == i);
    }
}
