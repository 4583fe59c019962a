#include <sodium.h>
#include <string.h>

#include "nat/reach_internal.h"

static const uint64_t second_ns = UINT64_C(1000000000);
/* 300 s of memory: the longest that home routers were seen to let in answers for. */
static const uint64_t generation_ns = UINT64_C(150000000000);

enum { BLOOM_HASHES = 4, GROUP_SHARE = 10, GROUP_BURST_S = 4 };

/* ---- contacts ---- */

static uint64_t hash_of(const struct reach_contacts *contacts, const struct net_addr *addr, bool with_port)
{
    uint8_t input[1 + sizeof addr->ip + 2];
    uint8_t hash[crypto_shorthash_BYTES];
    input[0] = addr->family;
    memcpy(input + 1, addr->ip, sizeof addr->ip);
    input[sizeof input - 2] = with_port ? (uint8_t)(addr->port >> 8) : 0;
    input[sizeof input - 1] = with_port ? (uint8_t)addr->port : 0;
    crypto_shorthash(hash, input, sizeof input, contacts->key);
    return load_le64(hash);
}

static void bloom_set(uint8_t bits[REACH_BLOOM_BITS / 8], uint64_t hash)
{
    for (int i = 0; i < BLOOM_HASHES; i++, hash >>= 16)
        bits[(hash & 0xffff) / 8] |= (uint8_t)(1u << (hash & 7));
}

static bool bloom_has(const uint8_t bits[REACH_BLOOM_BITS / 8], uint64_t hash)
{
    for (int i = 0; i < BLOOM_HASHES; i++, hash >>= 16) {
        if ((bits[(hash & 0xffff) / 8] & 1u << (hash & 7)) == 0)
            return false;
    }
    return true;
}

/* Empties the generations that time has passed over. */
static void age(struct reach_contacts *contacts, uint64_t now_ns)
{
    uint64_t generation = now_ns / generation_ns;
    uint64_t steps = generation - contacts->generation;
    for (uint64_t i = 1; i <= steps && i <= REACH_GENERATIONS; i++) {
        size_t at = (contacts->generation + i) % REACH_GENERATIONS;
        memset(contacts->ips[at], 0, sizeof contacts->ips[at]);
        memset(contacts->endpoints[at], 0, sizeof contacts->endpoints[at]);
    }
    if (steps > 0)
        contacts->last.family = NET_FAMILY_NONE;
    contacts->generation = generation;
}

void reach_contacts_note(struct reach_contacts *contacts, uint64_t now_ns, const struct net_addr *addr)
{
    age(contacts, now_ns);
    if (net_addr_equal(&contacts->last, addr))
        return;
    size_t at = contacts->generation % REACH_GENERATIONS;
    bloom_set(contacts->ips[at], hash_of(contacts, addr, false));
    bloom_set(contacts->endpoints[at], hash_of(contacts, addr, true));
    contacts->last = *addr;
}

bool reach_contacts_ip(struct reach_contacts *contacts, uint64_t now_ns, const struct net_addr *addr)
{
    uint64_t hash = hash_of(contacts, addr, false);
    age(contacts, now_ns);
    return bloom_has(contacts->ips[0], hash) || bloom_has(contacts->ips[1], hash) ||
           bloom_has(contacts->ips[2], hash);
}

bool reach_contacts_endpoint(struct reach_contacts *contacts, uint64_t now_ns, const struct net_addr *addr)
{
    uint64_t hash = hash_of(contacts, addr, true);
    age(contacts, now_ns);
    return bloom_has(contacts->endpoints[0], hash) || bloom_has(contacts->endpoints[1], hash) ||
           bloom_has(contacts->endpoints[2], hash);
}

/* ---- rates ---- */

void reach_limit_init(struct reach_limit *limit, uint32_t per_s, const struct rng *rng)
{
    memset(limit, 0, sizeof *limit);
    limit->total_step_ns = second_ns / per_s;
    rng_fill(rng, limit->key, sizeof limit->key);
}

static uint64_t debt(uint64_t full_ns, uint64_t now_ns)
{
    return full_ns > now_ns ? full_ns - now_ns : 0;
}

/* In all: the rate, one second's worth at once.  A network: a tenth of the rate, four seconds' worth. */
bool reach_limit_take(struct reach_limit *limit, uint64_t now_ns, const struct net_addr *addr)
{
    uint8_t group[8] = {addr->family};
    uint8_t hash[crypto_shorthash_BYTES];
    memcpy(group + 1, addr->ip, addr->family == NET_FAMILY_V4 ? 3 : 7);
    crypto_shorthash(hash, group, sizeof group, limit->key);
    uint64_t *full_ns = &limit->group_full_ns[load_le32(hash) % REACH_BUCKETS];
    uint64_t group_step_ns = limit->total_step_ns * GROUP_SHARE;
    uint64_t total_debt = debt(limit->total_full_ns, now_ns) + limit->total_step_ns;
    uint64_t group_debt = debt(*full_ns, now_ns) + group_step_ns;
    if (total_debt > second_ns || group_debt > GROUP_BURST_S * second_ns)
        return false;
    limit->total_full_ns = now_ns + total_debt;
    *full_ns = now_ns + group_debt;
    return true;
}
