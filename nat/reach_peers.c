#include <string.h>

#include "nat/reach_internal.h"

static const uint64_t voucher_ns = UINT64_C(1800000000000); /* 30 min */
static const uint64_t stale_ns = UINT64_C(600000000000);

enum { GROUP_MAX = 3, FAILED = 3 };

static bool fit(const struct net_addr *addr)
{
    return net_addr_scope(addr) == NET_SCOPE_GLOBAL && addr->via == NET_VIA_MAIN;
}

/* The slot of this peer, a free one, or the one that gives way: in a full network its oldest, in a full
 * table one that does not answer or was not heard for long.  NULL: all are better. */
static struct reach_peer *place(struct reach_peer peers[], size_t cap, uint64_t now_ns, const struct id *id,
                                const struct net_addr *addr)
{
    struct reach_peer *oldest_of_group = NULL;
    struct reach_peer *spare = NULL;
    size_t of_group = 0;
    for (size_t i = 0; i < cap; i++) {
        struct reach_peer *at = &peers[i];
        if (!at->used) {
            spare = at;
            continue;
        }
        if (id_equal(&at->id, id) && at->addr.family == addr->family)
            return at;
        bool weak = at->failures >= FAILED || now_ns - at->heard_ns > stale_ns;
        if (weak && (spare == NULL || (spare->used && at->heard_ns < spare->heard_ns)))
            spare = at;
        if (!net_addr_same_group(&at->addr, addr))
            continue;
        of_group++;
        if (oldest_of_group == NULL || at->heard_ns < oldest_of_group->heard_ns)
            oldest_of_group = at;
    }
    return of_group >= GROUP_MAX ? oldest_of_group : spare;
}

/* Enters or refreshes; true when the address is new there. */
static int enter(struct reach_peer peers[], size_t cap, uint64_t now_ns, const struct id *id,
                 const struct net_addr *addr, bool *is_new)
{
    if (!fit(addr) || id_is_zero(id))
        return ERR_REFUSED;
    struct reach_peer *at = place(peers, cap, now_ns, id, addr);
    if (at == NULL)
        return ERR_FULL;
    *is_new = !at->used || !net_addr_equal(&at->addr, addr);
    if (*is_new)
        *at = (struct reach_peer){.used = true, .id = *id, .addr = *addr};
    at->heard_ns = now_ns;
    return ERR_OK;
}

/* An observer of a network that the last survey could not ask makes a better one possible. */
static void observer_came(struct nat_reach *reach, uint64_t now_ns, size_t family)
{
    const struct reach_survey *survey = &reach->surveys[family];
    size_t known = reach_observer_count(reach, family);
    size_t answered = reach->profiles[family].observers;
    if (survey->ended_ns == 0)
        reach_survey_want(reach, family, now_ns + (known >= REACH_SURVEY_GROUPS ? 0 : REACH_MS(2000)));
    else if (answered < 2 && known >= 2)
        reach_survey_want(reach, family, now_ns + REACH_MS(2000));
    else if (answered < REACH_SURVEY_GROUPS && known >= REACH_SURVEY_GROUPS)
        reach_survey_want(reach, family, now_ns + REACH_MS(30000));
    reach_dial_peer(reach, now_ns, family);
}

int nat_reach_observer(struct nat_reach *reach, uint64_t now_ns, const struct id *id,
                       const struct net_addr *addr)
{
    bool is_new = false;
    if (id_equal(id, &reach->config.self) || !fit(addr))
        return ERR_REFUSED;
    size_t family = reach_family_index(addr->family);
    int rc = enter(reach->observers[family], NAT_REACH_OBSERVERS_MAX, now_ns, id, addr, &is_new);
    if (rc == ERR_OK && is_new)
        observer_came(reach, now_ns, family);
    return rc;
}

int nat_reach_helper(struct nat_reach *reach, uint64_t now_ns, const struct id *id,
                     const struct net_addr *addr)
{
    bool is_new;
    if (id_equal(id, &reach->config.self))
        return ERR_REFUSED;
    return enter(reach->helpers, NAT_REACH_HELPERS_MAX, now_ns, id, addr, &is_new);
}

static void drop(struct reach_peer peers[], size_t cap, const struct id *id)
{
    for (size_t i = 0; i < cap; i++) {
        if (peers[i].used && id_equal(&peers[i].id, id))
            peers[i].used = false;
    }
}

void nat_reach_peer_gone(struct nat_reach *reach, const struct id *id)
{
    for (size_t family = 0; family < REACH_FAMILIES; family++)
        drop(reach->observers[family], NAT_REACH_OBSERVERS_MAX, id);
    drop(reach->helpers, NAT_REACH_HELPERS_MAX, id);
}

static bool avoided(const struct net_addr *addr, const struct net_addr avoid[], size_t count, bool by_group)
{
    for (size_t i = 0; i < count; i++) {
        if (by_group ? net_addr_same_group(addr, &avoid[i])
                     : addr->port == avoid[i].port && reach_same_ip(addr, &avoid[i]))
            return true;
    }
    return false;
}

struct reach_peer *reach_pick(struct nat_reach *reach, size_t family, const struct net_addr avoid[],
                              size_t avoid_count, bool other_group)
{
    struct reach_peer *best = NULL;
    uint64_t equals = 0;
    for (size_t i = 0; i < NAT_REACH_OBSERVERS_MAX; i++) {
        struct reach_peer *at = &reach->observers[family][i];
        if (!at->used || avoided(&at->addr, avoid, avoid_count, other_group) ||
            (best != NULL && at->failures > best->failures))
            continue;
        equals = best != NULL && at->failures == best->failures ? equals + 1 : 1;
        if (rng_below(&reach->config.rng, equals) == 0)
            best = at;
    }
    return best;
}

struct reach_peer *reach_observer_at(struct nat_reach *reach, const struct net_addr *addr)
{
    struct reach_peer *peers = reach->observers[reach_family_index(addr->family)];
    for (size_t i = 0; i < NAT_REACH_OBSERVERS_MAX; i++) {
        if (peers[i].used && peers[i].addr.port == addr->port && reach_same_ip(&peers[i].addr, addr))
            return &peers[i];
    }
    return NULL;
}

size_t reach_observer_count(const struct nat_reach *reach, size_t family)
{
    const struct reach_peer *peers = reach->observers[family];
    size_t groups = 0;
    for (size_t i = 0; i < NAT_REACH_OBSERVERS_MAX; i++) {
        bool first = peers[i].used;
        for (size_t k = 0; k < i && first; k++)
            first = !peers[k].used || !net_addr_same_group(&peers[k].addr, &peers[i].addr);
        groups += first;
    }
    return groups;
}

const struct reach_peer *reach_helper_find(const struct nat_reach *reach, uint64_t now_ns,
                                           const struct id *id, const struct net_addr *addr)
{
    for (size_t i = 0; i < NAT_REACH_HELPERS_MAX; i++) {
        const struct reach_peer *at = &reach->helpers[i];
        if (at->used && id_equal(&at->id, id) && reach_same_ip(&at->addr, addr) &&
            now_ns - at->heard_ns < voucher_ns)
            return at;
    }
    return NULL;
}

const struct reach_peer *reach_helper_pick(struct nat_reach *reach, uint64_t now_ns, const struct id *asker,
                                           const struct net_addr *target, const struct reach_peer *besides)
{
    const struct reach_peer *found = NULL;
    size_t fit_count = 0;
    for (size_t i = 0; i < NAT_REACH_HELPERS_MAX; i++) {
        const struct reach_peer *at = &reach->helpers[i];
        bool near_first = besides != NULL && net_addr_same_group(&at->addr, &besides->addr);
        if (!at->used || at->addr.family != target->family || id_equal(&at->id, asker) || near_first ||
            net_addr_same_group(&at->addr, target) || now_ns - at->heard_ns >= voucher_ns)
            continue;
        if (rng_below(&reach->config.rng, ++fit_count) == 0)
            found = at;
    }
    return found;
}
