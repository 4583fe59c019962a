#include "dht/limit.h"

#include <sodium.h>
#include <string.h>

static const uint64_t burst_ns = UINT64_C(2000000000);

void dht_limiter_init(struct dht_limiter *l, const struct rng *rng, uint64_t *groups, size_t group_count,
                      uint32_t per_s, uint32_t group_per_s)
{
    ASSERT(per_s > 0 && group_per_s > 0);
    ASSERT(group_count > 0);
    rng_fill(rng, l->secret, sizeof l->secret);
    l->period_ns = UINT64_C(1000000000) / per_s;
    l->group_period_ns = UINT64_C(1000000000) / group_per_s;
    l->schedule_ns = 0;
    l->groups = groups;
    l->group_count = group_count;
    memset(groups, 0, group_count * sizeof *groups);
}

static size_t group_slot(const struct dht_limiter *l, const struct net_addr *from)
{
    uint8_t text[1 + NET_ADDR_WIRE_MAX] = {from->family};
    size_t len = 1 + net_addr_encode(from, text + 1);
    if (net_addr_scope(from) == NET_SCOPE_GLOBAL)
        len = from->family == NET_FAMILY_V4 ? 1 + 3 : 1 + 7;
    uint8_t hash[8];
    crypto_shorthash(hash, text, len, l->secret);
    return (size_t)(load_le64(hash) % l->group_count);
}

static bool fits(uint64_t schedule_ns, uint64_t now_ns, uint64_t period_ns)
{
    return schedule_ns <= now_ns || schedule_ns - now_ns + period_ns <= burst_ns;
}

static void charge(uint64_t *schedule_ns, uint64_t now_ns, uint64_t period_ns)
{
    *schedule_ns = (*schedule_ns > now_ns ? *schedule_ns : now_ns) + period_ns;
}

bool dht_limiter_allow(struct dht_limiter *l, uint64_t now_ns, const struct net_addr *from)
{
    uint64_t *group = &l->groups[group_slot(l, from)];
    if (!fits(*group, now_ns, l->group_period_ns) || !fits(l->schedule_ns, now_ns, l->period_ns))
        return false;
    charge(group, now_ns, l->group_period_ns);
    charge(&l->schedule_ns, now_ns, l->period_ns);
    return true;
}
