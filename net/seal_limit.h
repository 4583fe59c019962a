/* Private part of net/seal: how many key agreements strangers may cost us, and the stateless cookie by which
 * one proves its address when they want more.
 *
 * A sender with a valid cookie has buckets of its own that spoofed addresses cannot drain, and the second
 * half of the total, which the others never reach. */
#ifndef DUNLIN_NET_SEAL_LIMIT_H
#define DUNLIN_NET_SEAL_LIMIT_H

#include "net/seal.h"

enum { SEAL_GROUP_BUCKETS = 1024 };

struct seal_limit {
    uint64_t total_full_ns;                        /* when the total bucket is full again */
    uint64_t group_full_ns[2][SEAL_GROUP_BUCKETS]; /* the same per address group; [1]: with a cookie */
    uint64_t total_step_ns;                        /* what one derivation costs */
    uint64_t group_step_ns;
    uint64_t group_depth_ns;
    uint64_t cookie_period_ns;
    uint8_t group_key[16];
    uint8_t cookie_key[32];
};

/* Draws its secrets from the config's rng; all buckets are full. */
void seal_limit_init(struct seal_limit *limit, const struct net_seal_config *config);
/* Takes one derivation for a stranger at this address; false: not now, nothing was taken. */
bool seal_limit_take(struct seal_limit *limit, uint64_t now_ns, const struct net_addr *from, bool has_cookie);
/* The cookie for this address and sender. */
void seal_limit_cookie(const struct seal_limit *limit, uint64_t now_ns, const struct net_addr *from,
                       const struct id *sender, uint8_t cookie[NET_SEAL_COOKIE]);
/* True for a cookie made for this address and sender in this period or the one before. */
bool seal_limit_cookie_valid(const struct seal_limit *limit, uint64_t now_ns, const struct net_addr *from,
                             const struct id *sender, const uint8_t cookie[NET_SEAL_COOKIE]);

#endif
