/* Records held for others.  What enters was signed by its owner and sent by its owner.
 *
 * Caps, and who gives way at each:
 *   per owner   refused
 *   per group   (storing address, /24 or /56, global scope) refused
 *   per key     the one of highest rank: a keyed hash of the owner under a secret of this node.  Announcing
 * more often wins nothing, and each storer keeps another uniform sample of the providers in all      the one
 * whose key is farthest from our position Peers publish again at half of a record's life, so copies are not
 * passed on between storers. */
#ifndef DUNLIN_DHT_RECORDS_H
#define DUNLIN_DHT_RECORDS_H

#include "dht/record.h"

struct dht_held {
    bool used;
    uint8_t type;
    uint16_t len;
    struct id key;
    struct id owner;
    struct net_addr from;
    uint64_t issued_ms;
    uint64_t expires_ms;
    uint64_t rank;
    uint8_t bytes[DHT_RECORD_BYTES_MAX];
};

struct dht_records {
    uint8_t secret[16];
    struct id own;         /* position */
    struct dht_held *held; /* [cap] */
    size_t cap;
    size_t count;
    size_t end; /* slots at and after this one were never used */
    size_t per_key;
    size_t per_owner;
    size_t per_group;
    uint64_t expire_ms; /* none expires before this */
};

/* held [config->records_max] is borrowed until the store is dropped. */
void dht_records_init(struct dht_records *r, const struct dht_config *config, const struct id *own,
                      struct dht_held *held);
/* Keeps a record whose life and signature were checked.  ERR_STALE: a newer or another equally new one is
 * held. ERR_QUOTA, ERR_FULL: see above.  A record held already is ERR_OK again. */
MUST_USE int dht_records_put(struct dht_records *r, const struct dht_record *record, struct bytes encoded,
                             const struct net_addr *from);
/* True when put would change something or say ERR_OK: asked before the dear signature check. */
MUST_USE int dht_records_would_take(const struct dht_records *r, const struct dht_record *record,
                                    struct bytes encoded, const struct net_addr *from);
/* A uniform random choice of at most cap live records of a key; borrowed until the next put or expire. */
size_t dht_records_sample(const struct dht_records *r, const struct rng *rng, uint64_t wall_ms,
                          const struct id *key, uint8_t type, const struct dht_held *out[], size_t cap);
/* Drops what has expired. */
void dht_records_expire(struct dht_records *r, uint64_t wall_ms);
void dht_records_check(const struct dht_records *r);

#endif
