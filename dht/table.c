#include "dht/table.h"

#include <string.h>

#include "dht/id.h"

void dht_table_init(struct dht_table *t, const struct id *own_id, struct dht_bucket *buckets,
                    size_t bucket_count, uint64_t good_ns)
{
    ASSERT(bucket_count > 0 && bucket_count <= DHT_ID_BITS);
    t->own_id = *own_id;
    t->own = dht_id_position(own_id);
    t->good_ns = good_ns;
    t->bucket_count = bucket_count;
    t->total = 0;
    t->buckets = buckets;
    memset(buckets, 0, bucket_count * sizeof *buckets);
}

unsigned dht_table_bucket_of(const struct dht_table *t, const struct id *position)
{
    unsigned prefix = dht_id_prefix(&t->own, position);
    return prefix < t->bucket_count ? prefix : (unsigned)t->bucket_count - 1;
}

static struct dht_entry *find_in(struct dht_entry *entries, size_t count, const struct id *id)
{
    for (size_t i = 0; i < count; i++) {
        if (id_equal(&entries[i].contact.id, id))
            return &entries[i];
    }
    return NULL;
}

static struct dht_bucket *bucket_of_id(const struct dht_table *t, const struct id *id, struct id *position)
{
    *position = dht_id_position(id);
    return &t->buckets[dht_table_bucket_of(t, position)];
}

struct dht_entry *dht_table_get(struct dht_table *t, const struct id *id, bool with_cache)
{
    struct id position;
    struct dht_bucket *b = bucket_of_id(t, id, &position);
    struct dht_entry *e = find_in(b->entries, b->count, id);
    return e != NULL || !with_cache ? e : find_in(b->cache, b->cached, id);
}

bool dht_table_is_good(const struct dht_table *t, const struct dht_entry *e, uint64_t now_ns)
{
    return e->fails == 0 && now_ns - e->answered_ns < t->good_ns;
}

/* Entries of a bucket in addr's group, `except` left out. */
static size_t bucket_group(const struct dht_bucket *b, const struct net_addr *addr, const struct id *except)
{
    size_t same = 0;
    for (size_t i = 0; i < b->count; i++)
        same += net_addr_same_group(&b->entries[i].contact.addr, addr) &&
                !id_equal(&b->entries[i].contact.id, except);
    return same;
}

static bool group_allows(const struct dht_table *t, const struct dht_bucket *b,
                         const struct dht_contact *contact)
{
    if (net_addr_scope(&contact->addr) != NET_SCOPE_GLOBAL)
        return true;
    if (bucket_group(b, &contact->addr, &contact->id) >= DHT_GROUP_BUCKET_MAX)
        return false;
    size_t same = 0;
    for (size_t i = 0; i < t->bucket_count; i++)
        same += bucket_group(&t->buckets[i], &contact->addr, &contact->id);
    return same < DHT_GROUP_TABLE_MAX;
}

static void remove_at(struct dht_entry *entries, size_t *count, size_t at)
{
    ASSERT(at < *count);
    memmove(&entries[at], &entries[at + 1], (*count - at - 1) * sizeof *entries);
    (*count)--;
}

static void cache_drop(struct dht_bucket *b, const struct id *id)
{
    struct dht_entry *e = find_in(b->cache, b->cached, id);
    if (e != NULL)
        remove_at(b->cache, &b->cached, (size_t)(e - b->cache));
}

static void cache_push(struct dht_bucket *b, const struct dht_entry *e)
{
    cache_drop(b, &e->contact.id);
    if (b->cached == DHT_CACHE)
        remove_at(b->cache, &b->cached, 0);
    b->cache[b->cached++] = *e;
}

static void note_answer(struct dht_entry *e, uint64_t now_ns, const struct dht_contact *contact,
                        uint64_t rtt_ns, const uint8_t *token)
{
    e->contact = *contact;
    e->answered_ns = now_ns;
    e->fails = 0;
    if (rtt_ns != 0)
        e->rtt_ns = rtt_ns;
    if (token != NULL) {
        memcpy(e->token, token, DHT_TOKEN_BYTES);
        e->token_ns = now_ns;
    }
}

/* A known contact that moved may not do so into a group that is full: it then leaves the table. */
static enum dht_insert answered_known(struct dht_table *t, uint64_t now_ns, struct dht_bucket *b,
                                      struct dht_entry *e, const struct dht_contact *contact, uint64_t rtt_ns,
                                      const uint8_t *token)
{
    if (!net_addr_equal(&e->contact.addr, &contact->addr)) {
        if (!group_allows(t, b, contact)) {
            remove_at(b->entries, &b->count, (size_t)(e - b->entries));
            t->total--;
            return DHT_INSERT_REFUSED;
        }
        e->token_ns = 0; /* tokens are bound to the path */
    }
    note_answer(e, now_ns, contact, rtt_ns, token);
    return DHT_INSERT_KNOWN;
}

enum dht_insert dht_table_answered(struct dht_table *t, uint64_t now_ns, const struct dht_contact *contact,
                                   uint64_t rtt_ns, const uint8_t *token)
{
    if (id_equal(&contact->id, &t->own_id) || net_addr_scope(&contact->addr) == NET_SCOPE_INVALID)
        return DHT_INSERT_REFUSED;
    struct id position;
    struct dht_bucket *b = bucket_of_id(t, &contact->id, &position);
    struct dht_entry *known = find_in(b->entries, b->count, &contact->id);
    if (known != NULL)
        return answered_known(t, now_ns, b, known, contact, rtt_ns, token);
    if (!group_allows(t, b, contact))
        return DHT_INSERT_REFUSED;
    struct dht_entry e;
    memset(&e, 0, sizeof e);
    e.position = position;
    note_answer(&e, now_ns, contact, rtt_ns, token);
    if (b->count == DHT_K) {
        cache_push(b, &e);
        return DHT_INSERT_CACHED;
    }
    cache_drop(b, &contact->id);
    b->entries[b->count++] = e;
    t->total++;
    return DHT_INSERT_ADDED;
}

static void promote_cached(struct dht_table *t, struct dht_bucket *b)
{
    while (b->cached > 0 && b->count < DHT_K) {
        struct dht_entry e = b->cache[--b->cached];
        if (!group_allows(t, b, &e.contact))
            continue;
        b->entries[b->count++] = e;
        t->total++;
    }
}

bool dht_table_failed(struct dht_table *t, uint64_t now_ns, const struct dht_contact *asked, bool line_alive)
{
    struct id position;
    struct dht_bucket *b = bucket_of_id(t, &asked->id, &position);
    const struct dht_entry *cached = find_in(b->cache, b->cached, &asked->id);
    if (cached != NULL && net_addr_equal(&cached->contact.addr, &asked->addr))
        cache_drop(b, &asked->id);
    struct dht_entry *e = find_in(b->entries, b->count, &asked->id);
    if (e == NULL || !net_addr_equal(&e->contact.addr, &asked->addr))
        return false;
    bool doubtful = !dht_table_is_good(t, e, now_ns);
    if (e->fails < UINT8_MAX)
        e->fails++;
    if (!(doubtful && line_alive) && e->fails < DHT_FAILS_MAX)
        return false;
    remove_at(b->entries, &b->count, (size_t)(e - b->entries));
    t->total--;
    promote_cached(t, b);
    return true;
}

void dht_table_remove(struct dht_table *t, const struct id *id)
{
    struct id position;
    struct dht_bucket *b = bucket_of_id(t, id, &position);
    cache_drop(b, id);
    struct dht_entry *e = find_in(b->entries, b->count, id);
    if (e == NULL)
        return;
    remove_at(b->entries, &b->count, (size_t)(e - b->entries));
    t->total--;
    promote_cached(t, b);
}

bool dht_table_wants(const struct dht_table *t, const struct dht_contact *contact)
{
    struct id position;
    const struct dht_bucket *b = bucket_of_id(t, &contact->id, &position);
    return b->count < DHT_K && find_in((struct dht_entry *)b->entries, b->count, &contact->id) == NULL &&
           !id_equal(&contact->id, &t->own_id) && net_addr_scope(&contact->addr) != NET_SCOPE_INVALID &&
           group_allows(t, b, contact);
}

static size_t insert_nearest(const struct id *target, const struct dht_entry *e,
                             const struct dht_entry *out[], size_t used, size_t cap)
{
    if (used == cap && dht_id_nearer(target, &out[used - 1]->position, &e->position) <= 0)
        return used;
    size_t at = used < cap ? used : cap - 1;
    for (; at > 0 && dht_id_nearer(target, &e->position, &out[at - 1]->position) < 0; at--)
        out[at] = out[at - 1];
    out[at] = e;
    return used < cap ? used + 1 : cap;
}

size_t dht_table_closest(const struct dht_table *t, uint64_t now_ns, const struct id *target, bool good_only,
                         const struct id *except, enum net_scope scope, const struct dht_entry *out[],
                         size_t cap)
{
    size_t used = 0;
    ASSERT(cap > 0);
    for (size_t i = 0; i < t->bucket_count; i++) {
        const struct dht_bucket *b = &t->buckets[i];
        for (size_t j = 0; j < b->count; j++) {
            const struct dht_entry *e = &b->entries[j];
            if (good_only && !dht_table_is_good(t, e, now_ns))
                continue;
            if (except != NULL && id_equal(except, &e->contact.id))
                continue;
            if (net_addr_scope(&e->contact.addr) < scope)
                continue;
            used = insert_nearest(target, e, out, used, cap);
        }
    }
    return used;
}

struct dht_entry *dht_table_doubtful(struct dht_table *t, uint64_t now_ns, size_t bucket,
                                     uint64_t probed_before_ns)
{
    struct dht_entry *oldest = NULL;
    size_t first = bucket < t->bucket_count ? bucket : 0;
    size_t end = bucket < t->bucket_count ? bucket + 1 : t->bucket_count;
    for (size_t i = first; i < end; i++) {
        struct dht_bucket *b = &t->buckets[i];
        for (size_t j = 0; j < b->count; j++) {
            struct dht_entry *e = &b->entries[j];
            if (dht_table_is_good(t, e, now_ns) || (e->probed_ns != 0 && e->probed_ns > probed_before_ns))
                continue;
            if (oldest == NULL || e->probed_ns < oldest->probed_ns)
                oldest = e;
        }
    }
    return oldest;
}

size_t dht_table_depth(const struct dht_table *t)
{
    size_t depth = t->bucket_count;
    while (depth > 0 && t->buckets[depth - 1].count == 0)
        depth--;
    return depth;
}

static void check_entry(const struct dht_table *t, const struct dht_entry *e, size_t bucket)
{
    struct id position = dht_id_position(&e->contact.id);
    ASSERT(id_equal(&position, &e->position));
    ASSERT(dht_table_bucket_of(t, &e->position) == bucket);
    ASSERT(!id_equal(&e->contact.id, &t->own_id));
    ASSERT(net_addr_scope(&e->contact.addr) != NET_SCOPE_INVALID);
}

void dht_table_check(const struct dht_table *t)
{
    size_t total = 0;
    for (size_t i = 0; i < t->bucket_count; i++) {
        struct dht_bucket *b = &t->buckets[i];
        ASSERT(b->count <= DHT_K);
        ASSERT(b->cached <= DHT_CACHE);
        total += b->count;
        for (size_t j = 0; j < b->count; j++) {
            const struct dht_entry *e = &b->entries[j];
            check_entry(t, e, i);
            ASSERT(find_in(b->entries, b->count, &e->contact.id) == e);
            ASSERT(find_in(b->cache, b->cached, &e->contact.id) == NULL);
            if (net_addr_scope(&e->contact.addr) == NET_SCOPE_GLOBAL)
                ASSERT(bucket_group(b, &e->contact.addr, &e->contact.id) < DHT_GROUP_BUCKET_MAX);
            ASSERT(group_allows(t, b, &e->contact));
        }
        for (size_t j = 0; j < b->cached; j++)
            check_entry(t, &b->cache[j], i);
    }
    ASSERT(total == t->total);
}
