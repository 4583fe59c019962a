#include "nat/path.h"

#include <string.h>

#include "base/alloc.h"
#include "base/pack.h"
#include "nat/path_internal.h"

static const uint64_t millisecond_ns = UINT64_C(1000000);
static const uint64_t stall_ns = UINT64_C(50000000); /* a tick this late means that our own thread was busy */

/* Bodies.  PROBE: {1: sequence, 2: address it goes to, 3: sender wants a route, 4: this way is ageing}.
 * PROBE_ANSWER: {1: sequence, 2: address the probe came from}.  Both addresses are of one family, so an
 * answer is never the larger one; over a relay or a TCP link it repeats the probe's for the same reason. */
enum { KEY_SEQUENCE = 1, KEY_ADDR = 2, KEY_WANTED = 3, KEY_AGEING = 4, BODY_TOKENS = 32 };

/* ---- life ---- */

struct nat_path_config nat_path_config_default(void)
{
    return (struct nat_path_config){
        .peers_max = NAT_PATH_PEERS_MAX,
        .active_busy_ns = 200 * millisecond_ns,
        .standby_busy_ns = 1000 * millisecond_ns,
        .idle_ns = 15000 * millisecond_ns,
        .suspect_ns = 20 * millisecond_ns,
        .hold_down_ns = 1000 * millisecond_ns,
    };
}

int nat_path_config_check(const struct nat_path_config *config, const char **why)
{
    const uint64_t intervals[] = {config->active_busy_ns, config->standby_busy_ns, config->idle_ns,
                                  config->suspect_ns, config->hold_down_ns};
    *why = "self and rng must be set";
    if (id_is_zero(&config->self) || config->rng.fill == NULL)
        return ERR_INVALID;
    *why = "peers_max must be 1 to 512";
    if (config->peers_max < 1 || config->peers_max > NAT_PATH_PEERS_MAX)
        return ERR_INVALID;
    *why = "intervals must be 5 ms to 10 minutes";
    for (size_t i = 0; i < sizeof intervals / sizeof intervals[0]; i++) {
        if (intervals[i] < 5 * millisecond_ns || intervals[i] > 600000 * millisecond_ns)
            return ERR_INVALID;
    }
    *why = NULL;
    return ERR_OK;
}

size_t nat_path_size(const struct nat_path_config *config)
{
    uint16_t slots = path_slots(config->peers_max);
    size_t indices = 2 * (size_t)slots + 2 * (size_t)path_heads(slots);
    return sizeof(struct nat_path) + slots * sizeof(struct path_peer) +
           config->peers_max * sizeof(struct path_log) + indices * sizeof(uint16_t);
}

static uint16_t *take_indices(struct arena *arena, uint16_t count)
{
    uint16_t *indices = arena_take(arena, count * sizeof *indices, sizeof *indices);
    ASSERT(indices != NULL);
    for (uint16_t i = 0; i < count; i++)
        indices[i] = PATH_NONE;
    return indices;
}

struct nat_path *nat_path_init(void *memory, const struct nat_path_config *config)
{
    const char *why;
    int rc = nat_path_config_check(config, &why);
    ASSERT(rc == ERR_OK);
    size_t size = nat_path_size(config);
    struct arena arena = arena_of(memory, size);
    memset(memory, 0, size);
    struct nat_path *path = arena_take(&arena, sizeof *path, 16);
    ASSERT(path == memory);
    path->config = *config;
    path->slot_count = path_slots(config->peers_max);
    path->head_count = path_heads(path->slot_count);
    path->peers = arena_take(&arena, path->slot_count * sizeof *path->peers, 8);
    path->logs = arena_take(&arena, config->peers_max * sizeof *path->logs, 8);
    ASSERT(path->peers != NULL && path->logs != NULL);
    path->id_heads = take_indices(&arena, path->head_count);
    path->addr_heads = take_indices(&arena, path->head_count);
    path->sends.slots = take_indices(&arena, path->slot_count);
    path->events.slots = take_indices(&arena, path->slot_count);
    path->sends.ring = ring_init(path->slot_count);
    path->events.ring = ring_init(path->slot_count);
    path->answer_ring = ring_init(NAT_PATH_ANSWERS_MAX);
    path->notice_ring = ring_init(NAT_PATH_NOTICES_MAX);
    path->deadline_ns = UINT64_MAX;
    path_logs_init(path);
    for (uint16_t i = 0; i < path->slot_count; i++) {
        path->peers[i].chain = i + 1 < path->slot_count ? (uint16_t)(i + 1) : PATH_NONE;
        path->peers[i].wake_ns = UINT64_MAX;
    }
    rng_fill(&config->rng, path->hash_key, sizeof path->hash_key);
    return path;
}

/* ---- commands ---- */

int nat_path_peer_add(struct nat_path *path, uint64_t now_ns, const struct id *id)
{
    if (id_equal(id, &path->config.self))
        return ERR_INVALID;
    struct path_peer *peer = path_find(path, id);
    if (peer != NULL && peer->wanted)
        return ERR_OK;
    if (peer == NULL) {
        peer = path_add(path, now_ns, id, true);
        return peer == NULL ? ERR_FULL : ERR_OK;
    }
    if (path->wanted_count == path->config.peers_max)
        return ERR_FULL;
    path_want(path, now_ns, peer);
    path_plan(path, now_ns, peer);
    return ERR_OK;
}

void nat_path_peer_remove(struct nat_path *path, const struct id *id)
{
    struct path_peer *peer = path_find(path, id);
    if (peer != NULL)
        path_remove(path, peer);
}

/* Relayed routes go by relay sessions and TCP routes by TCP links, the others by UDP sockets. */
static bool kind_fits(enum nat_route_kind kind, uint16_t via)
{
    switch (kind) {
    case NAT_ROUTE_NONE:
        return false;
    case NAT_ROUTE_LAN:
    case NAT_ROUTE_DIRECT6:
    case NAT_ROUTE_DIRECT4:
    case NAT_ROUTE_MAPPED:
    case NAT_ROUTE_PUNCHED:
        return via == NET_VIA_MAIN || net_via_is_aux(via);
    case NAT_ROUTE_TCP:
        return net_via_is_tcp(via);
    case NAT_ROUTE_RELAYED:
        return net_via_is_relay(via);
    }
    return false;
}

int nat_path_candidate_add(struct nat_path *path, uint64_t now_ns, const struct id *id,
                           const struct net_addr *addr, enum nat_route_kind kind)
{
    struct path_peer *peer = path_find(path, id);
    if (net_addr_scope(addr) == NET_SCOPE_INVALID || !kind_fits(kind, addr->via))
        return ERR_INVALID;
    if (peer == NULL)
        return ERR_NOT_FOUND;
    struct path_candidate *candidate = path_candidate_at(peer, addr);
    if (candidate == NULL) {
        candidate = path_candidate_new(path, now_ns, peer, addr, kind, true);
        if (candidate == NULL)
            return ERR_FULL;
    } else {
        path_candidate_offered(peer, candidate, kind);
        if (candidate->state == NAT_DEAD)
            path_retry(path, candidate, now_ns);
    }
    path_step(path, now_ns, peer);
    return ERR_OK;
}

void nat_path_via_closed(struct nat_path *path, uint64_t now_ns, uint16_t via)
{
    ASSERT(via != NET_VIA_MAIN);
    for (uint16_t i = 0; i < path->slot_count; i++) {
        struct path_peer *peer = &path->peers[i];
        bool any = false;
        for (size_t k = 0; k < NAT_PATH_CANDIDATES_MAX && peer->used; k++) {
            struct path_candidate *at = &peer->candidates[k];
            if (!at->used || at->addr.via != via)
                continue;
            path_candidate_close(path, now_ns, peer, at);
            any = true;
        }
        if (any)
            path_step(path, now_ns, peer);
    }
    path_gone_forget(path, via);
}

int nat_path_punch(struct nat_path *path, uint64_t now_ns, const struct id *id)
{
    struct path_peer *peer = path_find(path, id);
    if (peer == NULL)
        return ERR_NOT_FOUND;
    peer->punch_until_ns = now_ns + 5000 * millisecond_ns;
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++) {
        struct path_candidate *at = &peer->candidates[i];
        if (at->used && (at->state == NAT_DEAD || at->state == NAT_PROBING))
            path_retry(path, at, now_ns);
    }
    path_step(path, now_ns, peer);
    return ERR_OK;
}

void nat_path_moved(struct nat_path *path, uint64_t now_ns)
{
    for (uint16_t i = 0; i < path->slot_count; i++) {
        struct path_peer *peer = &path->peers[i];
        if (!peer->used)
            continue;
        path_moved(path, now_ns, peer);
        path_step(path, now_ns, peer);
    }
}

void nat_path_relay_moved(struct nat_path *path, uint64_t now_ns)
{
    for (uint16_t i = 0; i < path->slot_count; i++) {
        struct path_peer *peer = &path->peers[i];
        if (!peer->used || peer->active == PATH_NONE || peer->candidates[peer->active].state != NAT_SUSPECT)
            continue;
        path_seek_help(path, now_ns, peer);
        path_step(path, now_ns, peer);
    }
}

/* ---- inputs ---- */

/* The common case: it came by the route in use, which is not suspect.  False: something is to be done. */
static bool hear_in_use(struct path_peer *peer, uint64_t now_ns, const struct net_addr *addr)
{
    struct path_candidate *active = peer->active == PATH_NONE ? NULL : &peer->candidates[peer->active];
    if (active == NULL || active->state != NAT_ACTIVE || !net_addr_equal(&active->addr, addr))
        return false;
    active->heard_ns = now_ns; /* the planned wake-up is now early at worst */
    peer->heard_beside = 0;
    peer->doubt_at_ns = 0;
    return true;
}

void nat_path_heard(struct nat_path *path, uint64_t now_ns, const struct id *id, const struct net_addr *addr)
{
    struct path_peer *peer = path_find(path, id);
    if (peer == NULL)
        return;
    if (hear_in_use(peer, now_ns, addr))
        return;
    path_heard_from(path, now_ns, peer, addr);
    path_step(path, now_ns, peer);
}

void nat_path_carried(struct nat_path *path, uint64_t now_ns, const struct id *id,
                      const struct net_addr *addr)
{
    struct path_peer *peer = path_find(path, id);
    if (peer == NULL)
        return;
    if (hear_in_use(peer, now_ns, addr)) {
        peer->carried = true;
        return;
    }
    path_heard_from(path, now_ns, peer, addr);
    path_carried_by(peer, now_ns, addr);
    path_step(path, now_ns, peer);
}

void nat_path_busy(struct nat_path *path, uint64_t now_ns, const struct id *id, uint64_t bytes_in_flight)
{
    struct path_peer *peer = path_find(path, id);
    if (peer == NULL)
        return;
    bool was_busy = peer->in_flight > PATH_BUSY_BYTES && now_ns - peer->hint_ns <= 1000 * millisecond_ns;
    bool is_busy = bytes_in_flight > PATH_BUSY_BYTES;
    peer->in_flight = bytes_in_flight;
    peer->hint_ns = now_ns;
    if (bytes_in_flight > 0)
        peer->interest_ns = now_ns;
    if (is_busy) {
        peer->busy_since_ns = was_busy ? peer->busy_since_ns : now_ns;
        peer->busy_until_ns = now_ns + 1000 * millisecond_ns;
    }
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX && is_busy && !was_busy; i++) {
        struct path_candidate *at = &peer->candidates[i];
        /* A standby must have answered lately to be of use when the route in use falls silent. */
        if (at->used && at->state == NAT_ACTIVE)
            path_probe_by(at, now_ns + path->config.active_busy_ns);
        else if (at->used && at->state == NAT_ANSWERING)
            path_probe_by(at, path_later(now_ns, at->answered_ns + path->config.standby_busy_ns));
    }
    path_plan(path, now_ns, peer);
}

struct probe_body {
    uint32_t sequence;
    struct net_addr addr;
    bool wanted;
    bool ageing;
};

static int read_body(const struct net_message *message, struct probe_body *body)
{
    struct pack_token tokens[BODY_TOKENS];
    struct pack_reader r = pack_parse(bytes_of(message->body, message->body_len), tokens, BODY_TOKENS);
    struct bytes addr = {NULL, 0};
    uint32_t seen = 0;
    *body = (struct probe_body){.sequence = 0};
    for (size_t left = pack_read_map(&r, BODY_TOKENS / 2); left > 0; left--) {
        switch (pack_read_key(&r, &seen)) {
        case KEY_SEQUENCE:
            body->sequence = (uint32_t)pack_read_uint(&r, UINT32_MAX);
            break;
        case KEY_ADDR:
            addr = pack_read_bin(&r, NET_ADDR_WIRE_MAX);
            break;
        case KEY_WANTED:
            body->wanted = pack_read_bool(&r);
            break;
        case KEY_AGEING:
            body->ageing = pack_read_bool(&r);
            break;
        default:
            pack_skip(&r);
        }
    }
    const uint32_t needed = 1u << KEY_SEQUENCE | 1u << KEY_ADDR;
    if (!pack_done(&r) || (seen & needed) != needed)
        return ERR_MALFORMED;
    return net_addr_decode(addr, &body->addr);
}

/* The peer's entry; one that wants a route gets it of its own accord, within limits.  One that does not is
 * only answered, else two nodes that have lost interest in each other would keep each other alive. */
static struct path_peer *inbound_peer(struct nat_path *path, uint64_t now_ns,
                                      const struct net_message *message, bool wanted)
{
    struct path_peer *peer = path_find(path, &message->peer);
    if (peer != NULL || !wanted)
        return peer;
    if (net_addr_scope(&message->addr) == NET_SCOPE_GLOBAL &&
        path_group_count(path, &message->addr) >= PATH_GROUP_INBOUND_MAX)
        return NULL;
    return path_add(path, now_ns, &message->peer, false);
}

/* The address is an end of the path itself.  Over a relay or a TCP link it is the relay's, which each side
 * may know under another, or one that says nothing of our UDP port. */
static bool is_socket(const struct net_addr *addr)
{
    return !net_via_is_relay(addr->via) && !net_via_is_tcp(addr->via);
}

static int recv_probe(struct nat_path *path, uint64_t now_ns, const struct net_message *message,
                      const struct probe_body *body)
{
    struct path_peer *peer = inbound_peer(path, now_ns, message, body->wanted);
    if (peer != NULL) {
        if (body->wanted)
            peer->interest_ns = now_ns;
        path_heard_from(path, now_ns, peer, &message->addr);
        path_told_age(peer, now_ns, &message->addr, body->ageing);
        path_step(path, now_ns, peer);
    }
    size_t at = ring_push(&path->answer_ring);
    if (at == RING_NONE) {
        path->stats.answers_dropped++;
        return ERR_FULL;
    }
    path->answers[at] = (struct path_answer){.peer = message->peer,
                                             .addr = message->addr,
                                             .seen = is_socket(&message->addr) ? message->addr : body->addr,
                                             .sequence = body->sequence};
    return peer != NULL || !body->wanted ? ERR_OK : ERR_FULL;
}

static int recv_answer(struct nat_path *path, uint64_t now_ns, const struct net_message *message,
                       const struct probe_body *body)
{
    struct path_peer *peer = path_find(path, &message->peer);
    if (peer == NULL) {
        path->stats.unmatched++;
        return ERR_REFUSED;
    }
    path_heard_from(path, now_ns, peer, &message->addr);
    struct path_candidate *candidate = path_candidate_at(peer, &message->addr);
    bool matched = candidate != NULL && path_answered(path, now_ns, peer, candidate, body->sequence);
    path_step(path, now_ns, peer);
    if (!matched) {
        path->stats.unmatched++;
        return ERR_REFUSED;
    }
    if (message->addr.via == NET_VIA_MAIN && path->notice_ring.count < NAT_PATH_REPORTS_MAX)
        path_note(path, &(struct nat_path_event){.type = NAT_PATH_OBSERVED,
                                                 .peer = message->peer,
                                                 .addr = message->addr,
                                                 .old = body->addr});
    return ERR_OK;
}

int nat_path_recv(struct nat_path *path, uint64_t now_ns, const struct net_message *message)
{
    struct probe_body body;
    ASSERT(message->kind == NET_KIND_PROBE || message->kind == NET_KIND_PROBE_ANSWER);
    if (id_equal(&message->peer, &path->config.self))
        return ERR_REFUSED;
    int rc = read_body(message, &body);
    if (rc == ERR_OK && is_socket(&message->addr) && body.addr.family != message->addr.family)
        rc = ERR_MALFORMED; /* both name an end of one path */
    if (rc != ERR_OK) {
        path->stats.malformed++;
        return rc;
    }
    return message->kind == NET_KIND_PROBE ? recv_probe(path, now_ns, message, &body)
                                           : recv_answer(path, now_ns, message, &body);
}

/* ---- time and outputs ---- */

void nat_path_tick(struct nat_path *path, uint64_t now_ns)
{
    if (now_ns < path->deadline_ns)
        return;
    /* After a stall, what the peers sent meanwhile may still wait in the socket: their silence must start
     * anew. */
    if (now_ns - path->deadline_ns > stall_ns)
        path->stalled_ns = now_ns;
    uint64_t next_ns = UINT64_MAX;
    path->deadline_ns = UINT64_MAX;
    for (uint16_t i = 0; i < path->slot_count; i++) {
        struct path_peer *peer = &path->peers[i];
        if (peer->used && peer->wake_ns <= now_ns)
            path_step(path, now_ns, peer);
        if (peer->used && peer->wake_ns < next_ns)
            next_ns = peer->wake_ns;
    }
    path->deadline_ns = next_ns;
}

uint64_t nat_path_deadline_ns(const struct nat_path *path)
{
    return path->deadline_ns;
}

/* The route in use is another than the one told before. */
static void change_event(struct path_peer *peer, const struct path_candidate *active,
                         struct nat_path_event *out)
{
    const struct path_candidate *old = peer->told_up ? path_candidate_at(peer, &peer->told) : NULL;
    out->type = peer->told_up ? NAT_PATH_ROUTE_CHANGED : NAT_PATH_ROUTE_UP;
    out->addr = active->addr;
    out->old = peer->told;
    out->kind = (enum nat_route_kind)active->kind;
    out->rtt_ns = active->srtt_ns;
    out->old_works = old != NULL && old->state == NAT_ANSWERING;
    out->old_rtt_ns = old != NULL ? old->srtt_ns : 0;
    peer->told_up = true;
    peer->told = active->addr;
}

/* What changed for the peer since it was last told; false: nothing in the end. */
static bool route_event(struct path_peer *peer, struct nat_path_event *out)
{
    struct path_candidate *active = peer->active == PATH_NONE ? NULL : &peer->candidates[peer->active];
    *out = (struct nat_path_event){.peer = peer->id};
    if (active == NULL) {
        if (!peer->told_up)
            return false;
        out->type = NAT_PATH_ROUTE_DEAD;
        out->old = peer->told;
        peer->told_up = false;
        return true;
    }
    bool doubtful = peer->doubtful && active->state == NAT_SUSPECT;
    peer->doubtful = false;
    if (!peer->told_up || !net_addr_equal(&peer->told, &active->addr)) {
        change_event(peer, active, out);
        return true;
    }
    if (doubtful) {
        out->type = NAT_PATH_DOUBTFUL;
        out->addr = active->addr;
        return true;
    }
    if (active->ageing != PATH_AGEING_DUE)
        return false;
    active->ageing = PATH_AGEING_TOLD;
    out->type = NAT_PATH_AGEING;
    out->addr = active->addr;
    out->kind = (enum nat_route_kind)active->kind;
    out->rtt_ns = active->srtt_ns;
    return true;
}

bool nat_path_poll_event(struct nat_path *path, struct nat_path_event *out)
{
    struct path_peer *peer;
    uint16_t via;
    while ((peer = path_list_pop(path, &path->events)) != NULL) {
        peer->event_listed = false;
        if (!peer->used || !route_event(peer, out))
            continue;
        if (peer->active != PATH_NONE && peer->candidates[peer->active].ageing == PATH_AGEING_DUE)
            path_tell(path, peer);
        return true;
    }
    if (path_gone_pop(path, &via)) {
        *out = (struct nat_path_event){.type = NAT_PATH_ROUTE_GONE, .addr = {.via = via}};
        return true;
    }
    size_t at = ring_pop(&path->notice_ring);
    if (at == RING_NONE)
        return false;
    *out = path->notices[at];
    return true;
}

static void write_body(struct net_message *out, uint32_t sequence, const struct net_addr *addr,
                       const bool *wanted, bool ageing)
{
    uint8_t wire[NET_ADDR_WIRE_MAX];
    size_t len = net_addr_encode(addr, wire);
    struct pack_writer w = pack_writer_of(out->body, sizeof out->body);
    pack_map(&w, 2 + (size_t)(wanted != NULL) + (size_t)ageing);
    pack_key_uint(&w, KEY_SEQUENCE, sequence);
    pack_key_bin(&w, KEY_ADDR, bytes_of(wire, len));
    if (wanted != NULL)
        pack_key_bool(&w, KEY_WANTED, *wanted);
    if (ageing)
        pack_key_bool(&w, KEY_AGEING, true);
    out->body_len = pack_writer_len(&w);
    ASSERT(out->body_len > 0);
}

/* Writes the oldest answer owed; false: there is none. */
static bool next_answer(struct nat_path *path, struct net_message *out)
{
    size_t at = ring_pop(&path->answer_ring);
    if (at == RING_NONE)
        return false;
    const struct path_answer *answer = &path->answers[at];
    path->stats.answers_sent++;
    out->peer = answer->peer;
    out->addr = answer->addr;
    out->kind = NET_KIND_PROBE_ANSWER;
    write_body(out, answer->sequence, &answer->seen, NULL, false);
    return true;
}

/* Writes one due probe of the peer; false: it has none. */
static bool next_probe(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                       struct net_message *out)
{
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX && peer->used; i++) {
        struct path_candidate *at = &peer->candidates[i];
        if (!at->used || !at->probe_due)
            continue;
        uint32_t sequence = path_probe_sent(path, now_ns, peer, at);
        out->peer = peer->id;
        out->addr = at->addr;
        out->kind = NET_KIND_PROBE;
        write_body(out, sequence, &at->addr, &peer->wanted, now_ns >= path_ageing_at(peer, at));
        path_plan(path, now_ns, peer);
        return true;
    }
    return false;
}

bool nat_path_poll_send(struct nat_path *path, uint64_t now_ns, struct net_message *out)
{
    if (next_answer(path, out))
        return true;
    struct path_peer *peer;
    while ((peer = path_list_first(path, &path->sends)) != NULL) {
        if (next_probe(path, now_ns, peer, out))
            return true;
        (void)path_list_pop(path, &path->sends);
        peer->send_listed = false;
    }
    return false;
}
