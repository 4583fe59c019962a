/* Rate limits on answered requests: one for all and one per source group (/24, /56; one address for scopes
 * that are not global, so that nodes of one machine or LAN do not share a limit).  Each limit is a virtual
 * schedule (GCRA, ITU-T I.371): one time stamp, advanced by a period per request, refused when it runs two
 * seconds ahead. Groups share a fixed array by keyed hash: a stranger cannot aim at another group's slot. */
#ifndef DUNLIN_DHT_LIMIT_H
#define DUNLIN_DHT_LIMIT_H

#include "base/rng.h"
#include "net/addr.h"

struct dht_limiter {
    uint8_t secret[16];
    uint64_t period_ns;
    uint64_t group_period_ns;
    uint64_t schedule_ns;
    uint64_t *groups; /* [group_count] schedules */
    size_t group_count;
};

/* groups [group_count] is borrowed until the limiter is dropped; rates > 0 (asserted). */
void dht_limiter_init(struct dht_limiter *l, const struct rng *rng, uint64_t *groups, size_t group_count,
                      uint32_t per_s, uint32_t group_per_s);
/* Counts one request; false: over a limit, drop it (then neither limit is charged). */
bool dht_limiter_allow(struct dht_limiter *l, uint64_t now_ns, const struct net_addr *from);

#endif
