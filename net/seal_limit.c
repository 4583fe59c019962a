#include "net/seal_limit.h"

#include <sodium.h>
#include <string.h>

static const uint64_t second_ns = UINT64_C(1000000000);

void seal_limit_init(struct seal_limit *limit, const struct net_seal_config *config)
{
    memset(limit, 0, sizeof *limit);
    limit->total_step_ns = second_ns / config->derivations_per_s;
    limit->group_step_ns = second_ns / config->group_per_s;
    limit->group_depth_ns = limit->group_step_ns * config->group_burst;
    limit->cookie_period_ns = config->cookie_period_ns;
    rng_fill(&config->rng, limit->group_key, sizeof limit->group_key);
    rng_fill(&config->rng, limit->cookie_key, sizeof limit->cookie_key);
}

/* The /24 or /56 of an address picks the bucket; the key keeps strangers from choosing whom they share it
 * with. */
static uint64_t *group_of(struct seal_limit *limit, const struct net_addr *from, bool has_cookie)
{
    uint8_t group[8] = {from->family};
    uint8_t hash[crypto_shorthash_BYTES];
    memcpy(group + 1, from->ip, from->family == NET_FAMILY_V4 ? 3 : 7);
    crypto_shorthash(hash, group, sizeof group, limit->group_key);
    return &limit->group_full_ns[has_cookie][load_le32(hash) % SEAL_GROUP_BUCKETS];
}

/* A bucket kept as the time when it will be full: one cost fits if the debt then stays within its depth. */
static bool fits(uint64_t full_ns, uint64_t now_ns, uint64_t step_ns, uint64_t depth_ns)
{
    uint64_t debt = full_ns > now_ns ? full_ns - now_ns : 0;
    return debt + step_ns <= depth_ns;
}

static void charge(uint64_t *full_ns, uint64_t now_ns, uint64_t step_ns)
{
    *full_ns = (*full_ns > now_ns ? *full_ns : now_ns) + step_ns;
}

bool seal_limit_take(struct seal_limit *limit, uint64_t now_ns, const struct net_addr *from, bool has_cookie)
{
    uint64_t total_depth_ns = has_cookie ? second_ns : second_ns / 2;
    bool grouped = net_addr_scope(from) != NET_SCOPE_LOOPBACK;
    uint64_t *group = group_of(limit, from, has_cookie);
    if (!fits(limit->total_full_ns, now_ns, limit->total_step_ns, total_depth_ns))
        return false;
    if (grouped && !fits(*group, now_ns, limit->group_step_ns, limit->group_depth_ns))
        return false;
    charge(&limit->total_full_ns, now_ns, limit->total_step_ns);
    if (grouped)
        charge(group, now_ns, limit->group_step_ns);
    return true;
}

/* The period's secret is derived, not drawn: rotation needs no timer and no state. */
static void cookie_of_period(const struct seal_limit *limit, uint64_t period, const struct net_addr *from,
                             const struct id *sender, uint8_t cookie[NET_SEAL_COOKIE])
{
    uint8_t input[8 + 1 + sizeof from->ip + 2 + ID_BYTES];
    struct writer w = writer_of(input, sizeof input);
    write_u64(&w, period);
    write_u8(&w, from->family);
    write_bytes(&w, from->ip, sizeof from->ip);
    write_u16(&w, from->port);
    write_bytes(&w, sender->bytes, ID_BYTES);
    ASSERT(writer_len(&w) == sizeof input);
    uint8_t hash[crypto_generichash_BYTES_MIN];
    crypto_generichash(hash, sizeof hash, input, sizeof input, limit->cookie_key, sizeof limit->cookie_key);
    memcpy(cookie, hash, NET_SEAL_COOKIE);
}

void seal_limit_cookie(const struct seal_limit *limit, uint64_t now_ns, const struct net_addr *from,
                       const struct id *sender, uint8_t cookie[NET_SEAL_COOKIE])
{
    cookie_of_period(limit, now_ns / limit->cookie_period_ns, from, sender, cookie);
}

bool seal_limit_cookie_valid(const struct seal_limit *limit, uint64_t now_ns, const struct net_addr *from,
                             const struct id *sender, const uint8_t cookie[NET_SEAL_COOKIE])
{
    uint64_t period = now_ns / limit->cookie_period_ns;
    uint8_t expected[NET_SEAL_COOKIE];
    for (uint64_t age = 0; age < 2 && age <= period; age++) {
        cookie_of_period(limit, period - age, from, sender, expected);
        if (sodium_memcmp(expected, cookie, NET_SEAL_COOKIE) == 0)
            return true;
    }
    return false;
}
