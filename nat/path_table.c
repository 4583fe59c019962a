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
    uint8_t wire[NET_ADDR_WIRE_MAX];
    uint8_t hash[crypto_shorthash_BYTES];
    size_t len = net_addr_encode(addr, wire);
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
    *peer =
        (struct path_peer){.id = *id, .used = true, .wanted = wanted, .active = PATH_NONE, .chain = *head};
    peer->send_listed = send_listed;
    peer->event_listed = event_listed;
    peer->interest_ns = now_ns;
    peer->lost_ns = now_ns;
    peer->wake_ns = UINT64_MAX;
    *head = slot;
    *(wanted ? &path->wanted_count : &path->inbound_count) += 1;
    return peer;
}

void path_remove(struct nat_path *path, struct path_peer *peer)
{
    uint16_t slot = (uint16_t)(peer - path->peers);
    ASSERT(peer->used);
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++) {
        if (peer->candidates[i].used)
            path_candidate_drop(path, peer, &peer->candidates[i]);
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
static unsigned expendable(const struct path_candidate *candidate)
{
    bool observed = candidate->kind == NAT_ROUTE_OBSERVED;
    switch ((enum nat_route_state)candidate->state) {
    case NAT_DEAD:
        return candidate->proven ? 2 : 3;
    case NAT_CANDIDATE:
    case NAT_PROBING:
        return observed ? 1 : 0;
    case NAT_ANSWERING:
    case NAT_ACTIVE:
    case NAT_SUSPECT:
        return 0;
    }
    return 0;
}

/* A free slot, made by dropping the most expendable candidate, the oldest among equals. */
static struct path_candidate *candidate_room(struct nat_path *path, struct path_peer *peer)
{
    struct path_candidate *victim = NULL;
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX; i++) {
        struct path_candidate *at = &peer->candidates[i];
        if (!at->used)
            return at;
        unsigned worth = victim == NULL ? 0 : expendable(victim);
        if (expendable(at) > worth ||
            (expendable(at) == worth && worth > 0 && at->since_ns < victim->since_ns))
            victim = at;
    }
    if (victim != NULL)
        path_candidate_drop(path, peer, victim);
    return victim;
}

struct path_candidate *path_candidate_new(struct nat_path *path, uint64_t now_ns, struct path_peer *peer,
                                          const struct net_addr *addr, enum nat_route_kind kind)
{
    struct path_candidate *candidate = candidate_room(path, peer);
    if (candidate == NULL)
        return NULL;
    uint16_t *head = addr_head(path, addr);
    uint32_t first = rng_u32(&path->config.rng);
    *candidate = (struct path_candidate){.addr = *addr,
                                         .kind = (uint8_t)kind,
                                         .state = NAT_CANDIDATE,
                                         .used = true,
                                         .chain = *head,
                                         .next_sequence = first,
                                         .settled = first - 1,
                                         .since_ns = now_ns,
                                         .probe_at_ns = now_ns};
    size_t index =
        (size_t)(peer - path->peers) * NAT_PATH_CANDIDATES_MAX + (size_t)(candidate - peer->candidates);
    *head = (uint16_t)index;
    return candidate;
}

static struct path_candidate *candidate_of(const struct nat_path *path, uint16_t index,
                                           struct path_peer **peer)
{
    if (index == PATH_NONE)
        return NULL;
    *peer = &path->peers[index / NAT_PATH_CANDIDATES_MAX];
    return &(*peer)->candidates[index % NAT_PATH_CANDIDATES_MAX];
}

void path_candidate_drop(struct nat_path *path, struct path_peer *peer, struct path_candidate *candidate)
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
