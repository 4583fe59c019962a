/* What the path layer knows, for QUIC, for people and for tests. */
#include "nat/path_internal.h"

int nat_path_route(const struct nat_path *path, const struct id *id, struct net_addr *addr)
{
    const struct path_peer *peer = path_find(path, id);
    if (peer == NULL)
        return ERR_NOT_FOUND;
    if (peer->active == PATH_NONE)
        return ERR_UNREACHABLE;
    *addr = peer->candidates[peer->active].addr;
    return ERR_OK;
}

size_t nat_path_routes(const struct nat_path *path, const struct id *id, struct net_addr out[2])
{
    const struct path_peer *peer = path_find(path, id);
    if (peer == NULL || peer->active == PATH_NONE)
        return 0;
    uint16_t second = path_second(peer);
    out[0] = peer->candidates[peer->active].addr;
    if (second == PATH_NONE)
        return 1;
    out[1] = peer->candidates[second].addr;
    return 2;
}

int nat_path_route_kind(const struct nat_path *path, const struct id *id, struct net_addr *addr,
                        enum nat_route_kind *kind)
{
    const struct path_peer *peer = path_find(path, id);
    *kind = NAT_ROUTE_NONE;
    if (peer == NULL)
        return ERR_NOT_FOUND;
    if (peer->active == PATH_NONE)
        return ERR_UNREACHABLE;
    *addr = peer->candidates[peer->active].addr;
    *kind = (enum nat_route_kind)peer->candidates[peer->active].kind;
    return ERR_OK;
}

/* Candidates that answer now go before those that were only heard; the latest first among equals. */
static uint64_t claim_ns(const struct path_candidate *candidate, bool *answering)
{
    *answering = candidate->state == NAT_ANSWERING || candidate->state == NAT_ACTIVE ||
                 candidate->state == NAT_SUSPECT;
    return *answering ? candidate->answered_ns : candidate->heard_ns;
}

int nat_path_peer_at(const struct nat_path *path, const struct net_addr *addr, struct id *out)
{
    const struct path_peer *best = NULL;
    bool best_answering = false;
    uint64_t best_ns = 0;
    struct path_peer *peer = NULL;
    if (addr->family != NET_FAMILY_V4 && addr->family != NET_FAMILY_V6)
        return ERR_NOT_FOUND;
    const struct path_candidate *at = path_addr_first(path, addr, &peer);
    for (; at != NULL; at = path_addr_next(path, at, &peer)) {
        bool answering;
        uint64_t since_ns = claim_ns(at, &answering);
        if (!at->authentic || !net_addr_equal(&at->addr, addr) || (best_answering && !answering))
            continue;
        if (best == NULL || answering != best_answering || since_ns > best_ns) {
            best = peer;
            best_answering = answering;
            best_ns = since_ns;
        }
    }
    if (best == NULL)
        return ERR_NOT_FOUND;
    *out = best->id;
    return ERR_OK;
}

int nat_path_candidates(const struct nat_path *path, const struct id *id, struct nat_path_info out[],
                        size_t cap)
{
    const struct path_peer *peer = path_find(path, id);
    size_t count = 0;
    if (peer == NULL)
        return ERR_NOT_FOUND;
    for (size_t i = 0; i < NAT_PATH_CANDIDATES_MAX && count < cap; i++) {
        const struct path_candidate *at = &peer->candidates[i];
        if (!at->used)
            continue;
        out[count++] = (struct nat_path_info){.addr = at->addr,
                                              .kind = (enum nat_route_kind)at->kind,
                                              .state = (enum nat_route_state)at->state,
                                              .rtt_ns = at->srtt_ns,
                                              .keep_ns = at->keep_ns,
                                              .unanswered = path_unanswered(at)};
    }
    return (int)count;
}

struct nat_path_stats nat_path_stats(const struct nat_path *path)
{
    return path->stats;
}

void nat_path_check_invariants(const struct nat_path *path)
{
    ring_check_invariants(&path->answer_ring);
    ring_check_invariants(&path->notice_ring);
    path_table_check(path);
}
