#include <sodium.h>
#include <string.h>

#include "nat/path_internal.h"

uint16_t path_slots(size_t peers_max)
{
    ASSERT(peers_max >= 1 && peers_max <= NAT_PATH_PEERS_MAX);
    return (uint16_t)(peers_max + (peers_max + 3) / 4);
}

uint16_t path_heads(uint16_t slots)
{
    uint16_t heads = 1;
    while (heads < slots)
        heads = (uint16_t)(heads * 2);
    return heads;
}

/* Ids and addresses are the peers' choice: the key keeps them from all falling into one chain. */
static uint16_t *id_head(const struct nat_path *path, const struct id *id)
{
    uint8_t hash[crypto_shorthash_BYTES];
    crypto_shorthash(hash, id->bytes, ID_BYTES, path->hash_key);
    return &path->id_heads[load_le16(hash) & (path->head_count - 1)];
}

static uint16_t *addr_head(const struct nat_path *path, const struct net_addr *addr)
{
    uint8_t wire[NET_ADDR_WIRE_MAX + 2];
    uint8_t hash[crypto_shorthash_BYTES];
    size_t len = net_addr_encode(addr, wire);
    store_le16(wire + len, addr->via); /* all sessions through one relay share its address */
    len += 2;
    crypto_shorthash(hash, wire, len, path->hash_key);
    return &path->addr_heads[load_le16(hash) & (path->head_count - 1)];
}

struct path_peer *path_find(const struct nat_path *path, const struct id *id)
{
    uint16_t at = *id_head(path, id);
    while (at != PATH_NONE && !id_equal(&path->peers[at].id, id))
        at = path->peers[at].chain;
    return at == PATH_NONE ? NULL : &path->peers[at];
}

/* The unwanted peer that matters least: no route to tell about, longest without interest. */
static struct path_peer *least_inbound(const struct nat_path *path)
{
    struct path_peer *least = NULL;
    for (uint16_t i = 0; i < path->slot_count; i++) {
        struct path_peer *peer = &path->peers[i];
        bool keep = !peer->used || peer->wanted || peer->told_up || peer->active != PATH_NONE;
        if (!keep && (least == NULL || peer->interest_ns < least->interest_ns))
            least = peer;
    }
    return least;
}

struct path_peer *path_add(struct nat_path *path, uint64_t now_ns, const struct id *id, bool wanted)
{
    ASSERT(path_find(path, id) == NULL);
    if (wanted && path->wanted_count == path->config.peers_max)
        return NULL;
    if (!wanted && path->inbound_count == path->slot_count - path->config.peers_max) {
        struct path_peer *least = least_inbound(path);
        if (least == NULL)
            return NULL;
        path_remove(path, least);
    }
    ASSERT(path->free_head != PATH_NONE);
    uint16_t slot = path->free_head;
    struct path_peer *peer = &path->peers[slot];
    uint16_t *head = id_head(path, id);
    bool send_listed = peer->send_listed;
    bool event_listed = peer->event_listed;
    path->free_head = peer->chain;
    *peer = (struct path_peer){
        .id = *id, .used = true, .wanted = wanted, .active = PATH_NONE, .beside = PATH_NONE, .chain = *head};
    peer->send_listed = send_listed;
    peer->event_listed = event_listed;
    peer->interest_ns = now_ns;
    peer->lost_ns = now_ns;
    peer->wake_ns = UINT64_MAX;
    *head = slot;
    peer->log = wanted ? path_log_take(path) : PATH_NONE;
    *(wanted ? &path->wanted_count : &path->inbound_count) += 1;
    return peer;
}

void path_want(struct nat_path *path, uint64_t now_ns, struct path_peer *peer)
{
    ASSERT(!peer->wanted && path->wanted_count < path->config.peers_max);
    peer->wanted = true;
    peer->log = path_log_take(path);
    path->wanted_count++;
    path->inbound_count--;
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++) {
        if (peer->candidates[i].used)
            path_log(path, now_ns, peer, &peer->candidates[i], NAT_PATH_ADDED);
    }
}

void path_remove(struct nat_path *path, struct path_peer *peer)
{
    uint16_t slot = (uint16_t)(peer - path->peers);
    ASSERT(peer->used);
    if (peer->wanted)
        path_log_give(path, peer->log);
    peer->log = PATH_NONE; /* before the candidates go: nobody can read of that any more */
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++) {
        if (peer->candidates[i].used)
            path_candidate_drop(path, 0, peer, &peer->candidates[i]);
    }
    uint16_t *link = id_head(path, &peer->id);
    while (*link != slot)
        link = &path->peers[*link].chain;
    *link = peer->chain;
    *(peer->wanted ? &path->wanted_count : &path->inbound_count) -= 1;
    peer->used = false;
    peer->told_up = false;
    peer->wake_ns = UINT64_MAX;
    peer->chain = path->free_head;
    path->free_head = slot;
}

struct path_candidate *path_candidate_at(struct path_peer *peer, const struct net_addr *addr)
{
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++) {
        if (peer->candidates[i].used && net_addr_equal(&peer->candidates[i].addr, addr))
            return &peer->candidates[i];
    }
    return NULL;
}

/* How readily a candidate is given up for a new one; 0: not at all. */
static unsigned expendable(const struct path_peer *peer, uint64_t now_ns, const struct path_candidate *at,
                           bool for_offered)
{
    if (at->offered && !for_offered)
        return 0; /* else a flood of sources would drive out what the peer published */
    switch ((enum nat_route_state)at->state) {
    case NAT_DEAD:
        return at->proven ? 3 : 4;
    case NAT_CANDIDATE:
    case NAT_PROBING:
        return at->offered ? 0 : 2;
    case NAT_ANSWERING:
        return for_offered && now_ns >= path_ageing_at(peer, at) ? 1 : 0; /* it is being replaced */
    case NAT_ACTIVE:
    case NAT_SUSPECT:
        return 0;
    }
    return 0;
}

/* A quota that several candidates of a peer share. */
struct quota {
    bool (*has)(const struct path_candidate *candidate);
    size_t max;
};

static bool has_relay(const struct path_candidate *candidate)
{
    return net_via_is_relay(candidate->addr.via);
}

static bool has_tcp(const struct path_candidate *candidate)
{
    return net_via_is_tcp(candidate->addr.via);
}

static bool has_aux(const struct path_candidate *candidate)
{
    return net_via_is_aux(candidate->addr.via);
}

static bool is_offered(const struct path_candidate *candidate)
{
    return candidate->offered;
}

static bool is_learnt(const struct path_candidate *candidate)
{
    return !candidate->offered;
}

/* How many candidates count towards the quota. */
static size_t quota_count(const struct path_peer *peer, const struct quota *quota)
{
    size_t count = 0;
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++)
        count += peer->candidates[i].used && quota->has(&peer->candidates[i]);
    return count;
}

static const struct quota quotas[] = {{has_relay, NAT_PATH_RELAYED_MAX},
                                      {has_tcp, NAT_PATH_TCP_MAX},
                                      {has_aux, NAT_PATH_AUX_MAX},
                                      {is_offered, NAT_PATH_OFFERED_MAX},
                                      {is_learnt, NAT_PATH_LEARNT_MAX}};

/* True when a candidate's going would let the fresh one in, as far as full quotas are concerned. */
static bool frees(const struct path_peer *peer, const struct path_candidate *at,
                  const struct path_candidate *fresh)
{
    for (size_t i = 0; i < sizeof quotas / sizeof quotas[0]; i++) {
        const struct quota *quota = &quotas[i];
        bool is_full = quota->has(fresh) && quota_count(peer, quota) >= quota->max;
        if (is_full && !(at->used && quota->has(at)))
            return false;
    }
    return true;
}

/* A slot for the fresh candidate, made by dropping the most expendable one, the oldest among equals; NULL:
 * none. */
static struct path_candidate *candidate_room(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                                             const struct path_candidate *fresh)
{
    struct path_candidate *victim = NULL;
    unsigned most = 0;
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++) {
        struct path_candidate *at = &peer->candidates[i];
        if (!frees(peer, at, fresh))
            continue;
        if (!at->used)
            return at;
        unsigned worth = expendable(peer, now_ns, at, fresh->offered);
        if (worth > most || (worth == most && worth > 0 && at->since_ns < victim->since_ns)) {
            victim = at;
            most = worth;
        }
    }
    if (victim != NULL)
        path_candidate_drop(path, now_ns, peer, victim);
    return victim;
}

struct path_candidate *path_candidate_new(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                                          const struct net_addr *addr, enum nat_route_kind kind, bool offered)
{
    struct path_candidate fresh = {.addr = *addr, .kind = (uint8_t)kind, .state = NAT_CANDIDATE};
    fresh.used = true;
    fresh.offered = offered;
    struct path_candidate *candidate = candidate_room(path, now_ns, peer, &fresh);
    if (candidate == NULL)
        return NULL;
    uint16_t *head = addr_head(path, addr);
    fresh.next_sequence = rng_u32(&path->config.rng);
    fresh.settled = fresh.next_sequence - 1;
    fresh.chain = *head;
    fresh.since_ns = now_ns;
    fresh.probe_at_ns = now_ns;
    path_born(path, &fresh, now_ns);
    *candidate = fresh;
    size_t index =
        (size_t)(peer - path->peers) * NAT_PATH_CANDIDATES_MAX + (size_t)(candidate - peer->candidates);
    *head = (uint16_t)index;
    path_log(path, now_ns, peer, candidate, NAT_PATH_ADDED);
    return candidate;
}

void path_candidate_offered(struct path_peer *peer, struct path_candidate *candidate,
                            enum nat_route_kind kind)
{
    const struct quota offered = {is_offered, NAT_PATH_OFFERED_MAX};
    if (!candidate->offered && quota_count(peer, &offered) >= NAT_PATH_OFFERED_MAX)
        return;
    if (!candidate->offered || candidate->kind == NAT_ROUTE_PUNCHED)
        candidate->kind = (uint8_t)kind; /* the peer itself names it: no longer a mere observation */
    candidate->offered = true;
}

static struct path_candidate *candidate_of(const struct nat_path *path, uint16_t index,
                                           struct path_peer **peer)
{
    if (index == PATH_NONE)
        return NULL;
    *peer = &path->peers[index / NAT_PATH_CANDIDATES_MAX];
    return &(*peer)->candidates[index % NAT_PATH_CANDIDATES_MAX];
}

/* ---- auxiliary sockets ---- */

static bool via_used(const struct nat_path *path, uint16_t via)
{
    for (uint16_t i = 0; i < path->slot_count; i++) {
        const struct path_peer *peer = &path->peers[i];
        for (size_t k = 0; k < NAT_PATH_CANDIDATES_MAX && peer->used; k++) {
            if (peer->candidates[k].used && peer->candidates[k].addr.via == via)
                return true;
        }
    }
    return false;
}

static bool gone_has(const struct nat_path *path, uint16_t via)
{
    return (path->gone[via / 64] >> via % 64 & 1) != 0;
}

void path_gone_forget(struct nat_path *path, uint16_t via)
{
    if (!net_via_is_aux(via) || !gone_has(path, via))
        return;
    path->gone[via / 64] &= ~(UINT64_C(1) << via % 64);
    path->gone_count--;
}

static void gone_note(struct nat_path *path, uint16_t via)
{
    if (!net_via_is_aux(via) || gone_has(path, via) || via_used(path, via))
        return;
    path->gone[via / 64] |= UINT64_C(1) << via % 64;
    path->gone_count++;
}

bool path_gone_pop(struct nat_path *path, uint16_t *via)
{
    for (size_t i = 0; i < PATH_GONE_WORDS && path->gone_count > 0; i++) {
        while (path->gone[i] != 0) {
            *via = (uint16_t)(i * 64 + (size_t)__builtin_ctzll(path->gone[i]));
            path_gone_forget(path, *via);
            if (!via_used(path, *via)) /* it may have been offered again since */
                return true;
        }
    }
    return false;
}

void path_candidate_drop(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                         struct path_candidate *candidate)
{
    uint16_t *link = addr_head(path, &candidate->addr);
    struct path_peer *owner;
    struct path_candidate *at;
    while ((at = candidate_of(path, *link, &owner)) != candidate) {
        ASSERT(at != NULL);
        link = &at->chain;
    }
    *link = candidate->chain;
    candidate->used = false;
    candidate->probe_due = false;
    if (peer->active == candidate - peer->candidates)
        peer->active = PATH_NONE;
    path_log(path, now_ns, peer, candidate, NAT_PATH_DROPPED);
    gone_note(path, candidate->addr.via);
}

struct path_candidate *path_addr_first(const struct nat_path *path, const struct net_addr *addr,
                                       struct path_peer **peer)
{
    return candidate_of(path, *addr_head(path, addr), peer);
}

struct path_candidate *path_addr_next(const struct nat_path *path, const struct path_candidate *at,
                                      struct path_peer **peer)
{
    return candidate_of(path, at->chain, peer);
}

size_t path_group_count(const struct nat_path *path, const struct net_addr *addr)
{
    size_t count = 0;
    for (uint16_t i = 0; i < path->slot_count; i++) {
        const struct path_peer *peer = &path->peers[i];
        bool in_group = false;
        for (size_t k = 0; k < NAT_PATH_CANDIDATES_MAX && peer->used && !peer->wanted; k++)
            in_group |= peer->candidates[k].used && net_addr_same_group(&peer->candidates[k].addr, addr);
        count += in_group;
    }
    return count;
}

void path_list_push(const struct nat_path *path, struct path_list *list, const struct path_peer *peer)
{
    size_t at = ring_push(&list->ring);
    ASSERT(at != RING_NONE);
    list->slots[at] = (uint16_t)(peer - path->peers);
}

struct path_peer *path_list_first(struct nat_path *path, const struct path_list *list)
{
    size_t at = ring_peek(&list->ring);
    return at == RING_NONE ? NULL : &path->peers[list->slots[at]];
}

struct path_peer *path_list_pop(struct nat_path *path, struct path_list *list)
{
    size_t at = ring_pop(&list->ring);
    return at == RING_NONE ? NULL : &path->peers[list->slots[at]];
}

void path_note(struct nat_path *path, const struct nat_path_event *event)
{
    if (path->notice_ring.count == path->notice_ring.cap)
        (void)ring_pop(&path->notice_ring);
    path->notices[ring_push(&path->notice_ring)] = *event;
}

static size_t check_peer(const struct nat_path *path, const struct path_peer *peer)
{
    size_t used = 0;
    ASSERT(path_find(path, &peer->id) == peer);
    ASSERT(peer->active == PATH_NONE || peer->active < NAT_PATH_CANDIDATES_MAX);
    ASSERT(peer->wake_ns >= path->deadline_ns);
    ASSERT(peer->wanted == (peer->log != PATH_NONE));
    for (size_t i = 0; i < sizeof quotas / sizeof quotas[0]; i++)
        ASSERT(quota_count(peer, &quotas[i]) <= quotas[i].max);
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++) {
        const struct path_candidate *at = &peer->candidates[i];
        if (!at->used) {
            ASSERT(peer->active != i);
            continue;
        }
        bool in_use = at->state == NAT_ACTIVE || at->state == NAT_SUSPECT;
        ASSERT(in_use == (peer->active == i));
        ASSERT(!in_use || at->proven);
        ASSERT(at->state != NAT_ANSWERING || at->proven);
        ASSERT(!at->proven || (at->authentic && at->srtt_ns > 0));
        ASSERT(!at->probe_due || peer->send_listed);
        ASSERT(net_addr_scope(&at->addr) != NET_SCOPE_INVALID);
        ASSERT((at->kind == NAT_ROUTE_RELAYED) == net_via_is_relay(at->addr.via));
        ASSERT((at->kind == NAT_ROUTE_TCP) == net_via_is_tcp(at->addr.via));
        for (size_t k = 0; k < i; k++)
            ASSERT(!peer->candidates[k].used || !net_addr_equal(&peer->candidates[k].addr, &at->addr));
        struct path_peer *owner = NULL;
        struct path_candidate *found = path_addr_first(path, &at->addr, &owner);
        while (found != at) {
            ASSERT(found != NULL);
            found = path_addr_next(path, found, &owner);
        }
        ASSERT(owner == peer);
        used++;
    }
    return used;
}

void path_table_check(const struct nat_path *path)
{
    size_t wanted = 0;
    size_t inbound = 0;
    size_t candidates = 0;
    size_t chained = 0;
    size_t listed = 0;
    for (uint16_t i = 0; i < path->slot_count; i++) {
        const struct path_peer *peer = &path->peers[i];
        listed += (size_t)peer->send_listed + (size_t)peer->event_listed;
        if (!peer->used)
            continue;
        wanted += peer->wanted;
        inbound += !peer->wanted;
        candidates += check_peer(path, peer);
    }
    ASSERT(wanted == path->wanted_count && inbound == path->inbound_count);
    ASSERT(listed == path->sends.ring.count + path->events.ring.count);
    ring_check_invariants(&path->sends.ring);
    ring_check_invariants(&path->events.ring);
    for (uint16_t head = 0; head < path->head_count; head++) {
        struct path_peer *owner;
        struct path_candidate *at = candidate_of(path, path->addr_heads[head], &owner);
        for (; at != NULL; at = candidate_of(path, at->chain, &owner)) {
            ASSERT(owner->used && at->used);
            chained++;
        }
    }
    ASSERT(chained == candidates);
}
