#include "dht/records.h"

#include <sodium.h>
#include <string.h>

#include "dht/id.h"

void dht_records_init(struct dht_records *r, const struct dht_config *config, const struct id *own,
                      struct dht_held *held)
{
    memset(r, 0, sizeof *r);
    memset(held, 0, config->records_max * sizeof *held);
    rng_fill(&config->rng, r->secret, sizeof r->secret);
    r->own = *own;
    r->held = held;
    r->cap = config->records_max;
    r->per_key = config->records_per_key;
    r->per_owner = config->records_per_owner;
    r->per_group = config->records_per_group;
    r->expire_ms = UINT64_MAX;
}

static uint64_t rank_of(const struct dht_records *r, const struct id *owner)
{
    uint8_t hash[crypto_shorthash_BYTES];
    crypto_shorthash(hash, owner->bytes, ID_BYTES, r->secret);
    return load_le64(hash);
}

/* What one pass over the store says about a newcomer. */
struct survey {
    struct dht_held *same;     /* same type, key and owner */
    struct dht_held *highest;  /* of this key, by rank */
    struct dht_held *farthest; /* of all, by distance from us */
    size_t of_key, of_owner, of_group;
};

static struct survey survey_of(const struct dht_records *r, const struct dht_record *record,
                               const struct net_addr *from)
{
    struct survey s = {NULL, NULL, NULL, 0, 0, 0};
    bool global = net_addr_scope(from) == NET_SCOPE_GLOBAL;
    for (size_t i = 0; i < r->end; i++) {
        struct dht_held *h = &r->held[i];
        if (!h->used)
            continue;
        bool of_owner = id_equal(&h->owner, &record->owner);
        bool of_key = h->type == record->type && id_equal(&h->key, &record->key);
        if (of_owner && of_key)
            s.same = h;
        s.of_owner += of_owner;
        s.of_key += of_key;
        s.of_group += global && net_addr_same_group(&h->from, from);
        if (of_key && (s.highest == NULL || h->rank > s.highest->rank))
            s.highest = h;
        if (s.farthest == NULL || dht_id_nearer(&r->own, &s.farthest->key, &h->key) < 0)
            s.farthest = h;
    }
    return s;
}

/* Where the record would go: *victim is replaced, or a free slot is used when it is NULL. */
static int place(const struct dht_records *r, const struct dht_record *record, struct bytes encoded,
                 const struct net_addr *from, struct dht_held **victim)
{
    struct survey s = survey_of(r, record, from);
    *victim = s.same;
    if (s.same != NULL) {
        if (s.same->issued_ms < record->issued_ms)
            return ERR_OK;
        return bytes_equal(bytes_of(s.same->bytes, s.same->len), encoded) ? ERR_EXISTS : ERR_STALE;
    }
    if (s.of_owner >= r->per_owner || s.of_group >= r->per_group)
        return ERR_QUOTA;
    if (s.of_key >= r->per_key) {
        *victim = s.highest;
        return rank_of(r, &record->owner) < s.highest->rank ? ERR_OK : ERR_QUOTA;
    }
    if (r->count < r->cap)
        return ERR_OK;
    *victim = s.farthest;
    return dht_id_nearer(&r->own, &record->key, &s.farthest->key) < 0 ? ERR_OK : ERR_FULL;
}

int dht_records_would_take(const struct dht_records *r, const struct dht_record *record, struct bytes encoded,
                           const struct net_addr *from)
{
    struct dht_held *victim;
    return place(r, record, encoded, from, &victim);
}

static struct dht_held *free_slot(struct dht_records *r)
{
    for (size_t i = 0; i < r->end; i++) {
        if (!r->held[i].used)
            return &r->held[i];
    }
    ASSERT(r->end < r->cap);
    return &r->held[r->end++];
}

int dht_records_put(struct dht_records *r, const struct dht_record *record, struct bytes encoded,
                    const struct net_addr *from)
{
    ASSERT(encoded.len > 0 && encoded.len <= DHT_RECORD_BYTES_MAX);
    struct dht_held *slot;
    int rc = place(r, record, encoded, from, &slot);
    if (rc != ERR_OK)
        return rc == ERR_EXISTS ? ERR_OK : rc;
    if (slot == NULL) {
        slot = free_slot(r);
        r->count++;
    }
    slot->used = true;
    slot->type = (uint8_t)record->type;
    slot->key = record->key;
    slot->owner = record->owner;
    slot->from = *from;
    slot->issued_ms = record->issued_ms;
    slot->expires_ms = record->expires_ms;
    slot->rank = rank_of(r, &record->owner);
    slot->len = (uint16_t)encoded.len;
    memcpy(slot->bytes, encoded.data, encoded.len);
    if (record->expires_ms < r->expire_ms)
        r->expire_ms = record->expires_ms;
    return ERR_OK;
}

size_t dht_records_sample(const struct dht_records *r, const struct rng *rng, uint64_t wall_ms,
                          const struct id *key, uint8_t type, const struct dht_held *out[], size_t cap)
{
    size_t used = 0;
    uint64_t met = 0;
    for (size_t i = 0; i < r->end; i++) {
        const struct dht_held *h = &r->held[i];
        if (!h->used || h->type != type || h->expires_ms <= wall_ms || !id_equal(&h->key, key))
            continue;
        met++;
        if (used < cap) {
            out[used++] = h;
            continue;
        }
        uint64_t at = rng_below(rng, met); /* reservoir sampling, Vitter's algorithm R */
        if (at < cap)
            out[at] = h;
    }
    return used;
}

void dht_records_expire(struct dht_records *r, uint64_t wall_ms)
{
    if (wall_ms < r->expire_ms)
        return;
    r->expire_ms = UINT64_MAX;
    for (size_t i = 0; i < r->end; i++) {
        struct dht_held *h = &r->held[i];
        if (!h->used)
            continue;
        if (h->expires_ms <= wall_ms) {
            h->used = false;
            r->count--;
        } else if (h->expires_ms < r->expire_ms) {
            r->expire_ms = h->expires_ms;
        }
    }
    while (r->end > 0 && !r->held[r->end - 1].used)
        r->end--;
}

void dht_records_check(const struct dht_records *r)
{
    size_t used = 0;
    ASSERT(r->end <= r->cap);
    for (size_t i = 0; i < r->cap; i++) {
        const struct dht_held *h = &r->held[i];
        used += h->used;
        ASSERT(i < r->end || !h->used);
        if (!h->used)
            continue;
        ASSERT(h->len > NET_SIGNATURE_BYTES && h->len <= DHT_RECORD_BYTES_MAX);
        ASSERT(h->expires_ms >= r->expire_ms);
        ASSERT(h->rank == rank_of(r, &h->owner));
    }
    ASSERT(used == r->count);
}
