#include "nat/punch.h"

#include <string.h>

#include "base/alloc.h"
#include "nat/punch_internal.h"

static const uint64_t sockets_max_ns = 20000 * PUNCH_MS;
static const uint64_t trend_fresh_ns = 10000 * PUNCH_MS;

/* ---- life ---- */

struct nat_punch_config nat_punch_config_default(void)
{
    return (struct nat_punch_config){.peers_max = NAT_PUNCH_PEERS_MAX};
}

int nat_punch_config_check(const struct nat_punch_config *config, const char **why)
{
    *why = "self and rng must be set";
    if (id_is_zero(&config->self) || config->rng.fill == NULL)
        return ERR_INVALID;
    *why = "peers_max must be 1 to 512";
    if (config->peers_max < 1 || config->peers_max > NAT_PUNCH_PEERS_MAX)
        return ERR_INVALID;
    *why = NULL;
    return ERR_OK;
}

/* Lingering rounds hold their peer, so those need room beside the signalled ones. */
static size_t peer_slots(const struct nat_punch_config *config)
{
    return config->peers_max + NAT_PUNCH_ROUNDS_MAX;
}

size_t nat_punch_size(const struct nat_punch_config *config)
{
    return sizeof(struct nat_punch) + 16 + peer_slots(config) * sizeof(struct punch_peer);
}

struct nat_punch *nat_punch_init(void *memory, const struct nat_punch_config *config)
{
    const char *why;
    int rc = nat_punch_config_check(config, &why);
    ASSERT(rc == ERR_OK);
    size_t size = nat_punch_size(config);
    struct arena arena = arena_of(memory, size);
    memset(memory, 0, size);
    struct nat_punch *punch = arena_take(&arena, sizeof *punch, 16);
    ASSERT(punch == memory);
    punch->config = *config;
    punch->peer_count = peer_slots(config);
    punch->peers = arena_take(&arena, punch->peer_count * sizeof *punch->peers, 8);
    ASSERT(punch->peers != NULL);
    punch->answer_ring = ring_init(PUNCH_ANSWERS_MAX);
    punch->end_ring = ring_init(PUNCH_ENDS_MAX);
    return punch;
}

/* ---- what the caller knows ---- */

static bool same_network(const struct nat_punch_profile *a, const struct nat_punch_profile *b)
{
    return a->mapping == b->mapping && a->public4.family == b->public4.family &&
           memcmp(a->public4.ip, b->public4.ip, sizeof a->public4.ip) == 0 &&
           a->public6.family == b->public6.family && memcmp(a->public6.ip, b->public6.ip, 8) == 0;
}

/* An address of which only the IP counts; any port makes it comparable as a destination. */
static struct net_addr ip_only(const struct net_addr *addr)
{
    struct net_addr ip = *addr;
    ip.port = ip.family == NET_FAMILY_NONE ? 0 : 1;
    ip.via = NET_VIA_MAIN;
    return ip;
}

/* Another chance for those that could not be reached before. */
static void end_back_off(struct nat_punch *punch)
{
    for (size_t i = 0; i < punch->peer_count; i++)
        punch->peers[i].ready_ns = punch->peers[i].failures = 0;
}

int nat_punch_set_profile(struct nat_punch *punch, const struct nat_punch_profile *profile)
{
    struct nat_punch_profile own = *profile;
    own.public4 = ip_only(&profile->public4);
    own.public6 = ip_only(&profile->public6);
    if (!punch_profile_valid(&own))
        return ERR_INVALID;
    bool moved = !same_network(&own, &punch->profile);
    if (moved)
        end_back_off(punch);
    punch->profile = own;
    return ERR_OK;
}

static bool is_known(const struct nat_punch *punch, const struct net_addr *addr)
{
    for (size_t i = 0; i < punch->addr_count; i++) {
        if (net_addr_equal(&punch->addrs[i].addr, addr))
            return true;
    }
    return false;
}

void nat_punch_set_addrs(struct nat_punch *punch, const struct nat_punch_candidate addrs[], size_t count)
{
    bool opened = false;
    for (size_t i = 0; i < count && !opened; i++) /* observed ones come and go with every mapping */
        opened = addrs[i].source != NAT_PUNCH_OBSERVED && !is_known(punch, &addrs[i].addr);
    if (opened)
        end_back_off(punch);
    punch->addr_count = 0;
    for (size_t i = 0; i < count && punch->addr_count < NAT_PUNCH_CANDIDATES_MAX - 1; i++) {
        enum net_scope scope = net_addr_scope(&addrs[i].addr);
        bool useful = scope == NET_SCOPE_GLOBAL || scope == NET_SCOPE_PRIVATE;
        if (!useful || addrs[i].source < NAT_PUNCH_LAN || addrs[i].source > NAT_PUNCH_OBSERVED)
            continue;
        punch->addrs[punch->addr_count] = addrs[i];
        punch->addrs[punch->addr_count++].addr.via = NET_VIA_MAIN;
    }
}

static size_t signalled_count(const struct nat_punch *punch)
{
    size_t count = 0;
    for (size_t i = 0; i < punch->peer_count; i++)
        count += punch->peers[i].used && punch->peers[i].signalled;
    return count;
}

int nat_punch_signal(struct nat_punch *punch, uint64_t now_ns, const struct id *id,
                     const struct net_addr *addr, uint64_t rtt_ns)
{
    if (id_equal(id, &punch->config.self) || id_is_zero(id) || net_addr_scope(addr) == NET_SCOPE_INVALID)
        return ERR_INVALID;
    struct punch_peer *peer = punch_find(punch, id);
    if ((peer == NULL || !peer->signalled) && signalled_count(punch) == punch->config.peers_max)
        return ERR_FULL;
    if (peer == NULL)
        peer = punch_peer_new(punch, id);
    if (peer == NULL)
        return ERR_FULL;
    peer->signalled = true;
    peer->signal = *addr;
    peer->rtt_ns = rtt_ns;
    peer->used_ns = now_ns;
    return ERR_OK;
}

void nat_punch_seen(struct nat_punch *punch, const struct id *id, const struct net_addr *addr)
{
    struct punch_peer *peer = punch_find(punch, id);
    struct net_addr ip = ip_only(addr);
    if (peer == NULL || net_addr_scope(&ip) != NET_SCOPE_GLOBAL)
        return;
    for (size_t i = 0; i < PUNCH_SEEN_MAX; i++) {
        if (net_addr_equal(&peer->seen[i], &ip))
            return;
    }
    peer->seen[peer->seen_at] = ip;
    peer->seen_at = (uint8_t)((peer->seen_at + 1) % PUNCH_SEEN_MAX);
}

void nat_punch_observer(struct nat_punch *punch, const struct id *id, const struct net_addr *addr)
{
    if (addr->family != NET_FAMILY_V4 || net_addr_scope(addr) != NET_SCOPE_GLOBAL ||
        addr->via != NET_VIA_MAIN || id_equal(id, &punch->config.self))
        return;
    for (size_t i = 0; i < punch->observer_count; i++) {
        if (id_equal(&punch->observers[i].id, id)) {
            punch->observers[i].addr = *addr;
            return;
        }
    }
    punch->observers[punch->observer_at] = (struct punch_observer){.id = *id, .addr = *addr};
    punch->observer_at = (punch->observer_at + 1) % NAT_PUNCH_OBSERVERS_MAX;
    if (punch->observer_count < NAT_PUNCH_OBSERVERS_MAX)
        punch->observer_count++;
}

void nat_punch_forget(struct nat_punch *punch, uint64_t now_ns, const struct id *id)
{
    struct punch_peer *peer = punch_find(punch, id);
    if (peer == NULL)
        return;
    if (peer->round != PUNCH_NONE)
        punch_round_finish(punch, now_ns, &punch->rounds[peer->round], NAT_PUNCH_CANCELLED);
    peer->signalled = false;
}

/* ---- rounds and what they ask for ---- */

static bool has_room(const struct nat_punch *punch)
{
    for (size_t i = 0; i < NAT_PUNCH_ROUNDS_MAX; i++) {
        const struct punch_round *at = &punch->rounds[i];
        if (at->state == PUNCH_FREE ||
            (at->state == PUNCH_CLOSED && !at->result_due && at->hits_told == at->hit_count))
            return true;
    }
    return false;
}

int nat_punch_start(struct nat_punch *punch, uint64_t now_ns, const struct id *id, bool fresh)
{
    struct punch_peer *peer = punch_find(punch, id);
    if (peer == NULL || !peer->signalled)
        return ERR_NOT_FOUND;
    if (peer->round != PUNCH_NONE) {
        struct punch_round *round = &punch->rounds[peer->round];
        if (round->started)
            return ERR_BUSY;
        round->started = true;
        punch->stats.rounds_started++;
        return ERR_OK;
    }
    if (now_ns < peer->ready_ns)
        return ERR_RATE;
    if (!has_room(punch))
        return ERR_FULL;
    punch->stats.rounds_started++;
    peer->used_ns = now_ns;
    punch_round_begin(punch, now_ns, peer, fresh);
    return ERR_OK;
}

uint64_t nat_punch_ready_ns(const struct nat_punch *punch, const struct id *id)
{
    for (size_t i = 0; i < punch->peer_count; i++) {
        if (punch->peers[i].used && id_equal(&punch->peers[i].id, id))
            return punch->peers[i].ready_ns;
    }
    return 0;
}

static uint32_t token_of(const struct nat_punch *punch, const struct punch_round *round)
{
    return (uint32_t)round->generation << 16 | (uint32_t)round->attempt << 8 |
           (uint32_t)(round - punch->rounds);
}

static void socket_take(struct nat_punch *punch, struct punch_round *round, uint16_t via)
{
    struct punch_socket *free_one = NULL;
    ASSERT(net_via_is_aux(via));
    for (size_t i = 0; i < PUNCH_SOCKETS; i++) {
        struct punch_socket *at = &punch->sockets[i];
        ASSERT(at->state == PUNCH_SOCKET_FREE || at->via != via);
        if (at->state == PUNCH_SOCKET_FREE && free_one == NULL)
            free_one = at;
    }
    ASSERT(free_one != NULL);
    *free_one = (struct punch_socket){
        .state = PUNCH_SOCKET_ROUND, .via = via, .round = (uint16_t)(round - punch->rounds)};
    round->sockets[round->socket_count++] = via;
}

int nat_punch_sockets(struct nat_punch *punch, uint64_t now_ns, uint32_t token, const uint16_t via[],
                      size_t count)
{
    uint32_t slot = token & 0xff;
    if (slot >= NAT_PUNCH_ROUNDS_MAX)
        return ERR_NOT_FOUND;
    struct punch_round *round = &punch->rounds[slot];
    if (round->state == PUNCH_FREE || token != token_of(punch, round) || round->sockets_need != PUNCH_ASKED ||
        count > round->sockets_want)
        return ERR_NOT_FOUND;
    round->sockets_need = PUNCH_HAVE;
    round->sockets_until_ns = now_ns + sockets_max_ns;
    for (size_t i = 0; i < count; i++)
        socket_take(punch, round, via[i]);
    bool spread = round->sockets_want > 1;
    if (count > 0 && !spread)
        round->base_via = via[0];
    punch_round_step(punch, now_ns, round);
    return ERR_OK;
}

void nat_punch_survey_done(struct nat_punch *punch, uint64_t now_ns, const struct id *id)
{
    struct punch_peer *peer = punch_find(punch, id);
    if (peer == NULL || peer->round == PUNCH_NONE)
        return;
    struct punch_round *round = &punch->rounds[peer->round];
    const struct nat_punch_profile *now = &punch->profile;
    if (round->survey_need != PUNCH_ASKED)
        return;
    bool fresh = now->mapping == NAT_PUNCH_SEQUENTIAL && now->trend_port != 0 &&
                 (now->trend_ns > now_ns || now_ns - now->trend_ns <= trend_fresh_ns);
    if (!fresh) {
        round->until_ns = now_ns; /* as if it had never come */
    } else {
        round->survey_need = PUNCH_HAVE;
        round->ours.profile.trend_port = now->trend_port;
        round->ours.profile.step = now->step;
    }
    punch_round_step(punch, now_ns, round);
}

void nat_punch_release(struct nat_punch *punch, uint16_t via)
{
    for (size_t i = 0; i < PUNCH_SOCKETS; i++) {
        struct punch_socket *at = &punch->sockets[i];
        if (at->via != via)
            continue;
        at->unused = at->state == PUNCH_SOCKET_ROUND; /* the round may need it still */
        if (at->state == PUNCH_SOCKET_KEPT)
            at->state = PUNCH_SOCKET_RELEASING;
    }
}

/* ---- time and events ---- */

void nat_punch_tick(struct nat_punch *punch, uint64_t now_ns)
{
    for (size_t i = 0; i < NAT_PUNCH_ROUNDS_MAX; i++)
        punch_round_step(punch, now_ns, &punch->rounds[i]);
}

uint64_t nat_punch_deadline_ns(const struct nat_punch *punch)
{
    uint64_t next_ns = UINT64_MAX;
    for (size_t i = 0; i < NAT_PUNCH_ROUNDS_MAX; i++) {
        uint64_t at_ns = punch_round_deadline(&punch->rounds[i]);
        next_ns = at_ns < next_ns ? at_ns : next_ns;
    }
    return next_ns;
}

static bool event_socket(struct nat_punch *punch, struct nat_punch_event *out)
{
    for (size_t i = 0; i < PUNCH_SOCKETS; i++) {
        struct punch_socket *at = &punch->sockets[i];
        if (at->state != PUNCH_SOCKET_RELEASING)
            continue;
        *out = (struct nat_punch_event){.type = NAT_PUNCH_SOCKET_RELEASE, .addr = {.via = at->via}};
        at->state = PUNCH_SOCKET_FREE;
        return true;
    }
    return false;
}

static bool event_need(const struct nat_punch *punch, struct punch_round *round, struct nat_punch_event *out)
{
    if (round->sockets_need == PUNCH_TO_ASK) {
        round->sockets_need = PUNCH_ASKED;
        out->type = NAT_PUNCH_SOCKETS_WANTED;
        out->token = token_of(punch, round);
        out->count = round->sockets_want;
        return true;
    }
    if (round->survey_need == PUNCH_TO_ASK && round->sockets_need != PUNCH_ASKED) {
        round->survey_need = PUNCH_ASKED; /* last, so that the trend is young when it is used */
        out->type = NAT_PUNCH_SURVEY_WANTED;
        return true;
    }
    return false;
}

static bool event_find(struct nat_punch *punch, struct punch_round *round, struct nat_punch_event *out)
{
    if (round->hits_told < round->hit_count) {
        out->type = NAT_PUNCH_CANDIDATE;
        out->source = NAT_PUNCH_PUNCHED;
        out->addr = round->hits[round->hits_told++];
        for (size_t i = 0; i < PUNCH_SOCKETS; i++)
            punch->sockets[i].unused = punch->sockets[i].unused && punch->sockets[i].via != out->addr.via;
        return true;
    }
    if (!round->targets_due)
        return false;
    if (round->targets_told < round->target_count) {
        out->type = NAT_PUNCH_CANDIDATE;
        out->source = round->targets[round->targets_told].source;
        out->addr = round->targets[round->targets_told++].addr;
        return true;
    }
    round->targets_due = false;
    out->type = NAT_PUNCH_PUNCH;
    return true;
}

static bool event_result(struct punch_round *round, struct nat_punch_event *out)
{
    if (!round->result_due)
        return false;
    round->result_due = false;
    out->type = NAT_PUNCH_RESULT;
    out->addr = round->reached;
    out->ok = round->ok;
    out->inbound = !round->started;
    out->strategy = round->strategy;
    out->reason = round->reason;
    out->elapsed_ns = round->elapsed_ns;
    out->probes_sent = round->probes_sent;
    return true;
}

bool nat_punch_poll_event(struct nat_punch *punch, struct nat_punch_event *out)
{
    if (event_socket(punch, out))
        return true;
    for (size_t i = 0; i < NAT_PUNCH_ROUNDS_MAX; i++) {
        struct punch_round *round = &punch->rounds[i];
        if (round->state == PUNCH_FREE)
            continue;
        *out = (struct nat_punch_event){.peer = punch->peers[round->peer].id};
        if (event_need(punch, round, out) || event_find(punch, round, out) || event_result(round, out))
            return true;
    }
    return false;
}

/* ---- queries ---- */

int nat_punch_log(const struct nat_punch *punch, const struct id *id, struct nat_punch_attempt out[],
                  size_t cap)
{
    for (size_t i = 0; i < punch->peer_count; i++) {
        const struct punch_peer *peer = &punch->peers[i];
        if (!peer->used || !id_equal(&peer->id, id))
            continue;
        size_t count = peer->log_count < cap ? peer->log_count : cap;
        for (size_t k = 0; k < count; k++)
            out[k] = peer->log[((size_t)peer->log_at + NAT_PUNCH_LOG_MAX - 1 - k) % NAT_PUNCH_LOG_MAX];
        return (int)count;
    }
    return ERR_NOT_FOUND;
}

struct nat_punch_stats nat_punch_stats(const struct nat_punch *punch)
{
    struct nat_punch_stats stats = punch->stats;
    for (size_t i = 0; i < NAT_PUNCH_ROUNDS_MAX; i++)
        stats.rounds += punch->rounds[i].state != PUNCH_FREE && punch->rounds[i].state != PUNCH_CLOSED;
    for (size_t i = 0; i < PUNCH_SOCKETS; i++) {
        stats.sockets += punch->sockets[i].state != PUNCH_SOCKET_FREE;
        stats.kept += punch->sockets[i].state == PUNCH_SOCKET_KEPT;
    }
    for (size_t i = 0; i < punch->peer_count; i++)
        stats.peers += punch->peers[i].used;
    return stats;
}

void nat_punch_check_invariants(const struct nat_punch *punch)
{
    punch_check_tables(punch);
}
