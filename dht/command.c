/* Commands: each is checked, promised its final event, and started; the work happens in later steps. */
#include <string.h>

#include "dht/id.h"
#include "dht/internal.h"

int dht_bootstrap(struct dht *d, uint64_t now_ns, const struct dht_contact *seed)
{
    if (id_equal(&seed->id, &d->config.id) || net_addr_scope(&seed->addr) == NET_SCOPE_INVALID)
        return ERR_INVALID;
    size_t at = 0;
    while (at < d->seed_count &&
           !(id_equal(&d->seeds[at].id, &seed->id) && net_addr_equal(&d->seeds[at].addr, &seed->addr)))
        at++;
    if (at == d->config.seeds_max)
        return ERR_FULL;
    d->seeds[at] = *seed;
    d->seed_count += at == d->seed_count;
    if (!d->joined)
        d->join_due_ns = now_ns;
    return ERR_OK;
}

static int start_lookup(struct dht *d, uint64_t now_ns, enum dht_lookup_kind kind, const struct id *target,
                        uint32_t *handle)
{
    if (dht_lookups_used(d) + DHT_UPKEEP_LOOKUPS >= d->config.lookups_max || !dht_promise(d, handle))
        return ERR_FULL;
    struct dht_lookup *l = dht_lookup_start(d, now_ns, kind, target, *handle, false);
    ASSERT(l != NULL);
    if (kind != DHT_LOOKUP_NODE)
        dht_lookup_local_values(d, l);
    dht_lookup_step(d, now_ns, l);
    return ERR_OK;
}

int dht_lookup_node(struct dht *d, uint64_t now_ns, const struct id *target, uint32_t *handle)
{
    return start_lookup(d, now_ns, DHT_LOOKUP_NODE, target, handle);
}

int dht_find_peer(struct dht *d, uint64_t now_ns, uint64_t wall_ms, const struct id *id, uint32_t *handle)
{
    d->wall_ms = wall_ms;
    struct id position = dht_id_position(id);
    return start_lookup(d, now_ns, DHT_LOOKUP_PEER, &position, handle);
}

int dht_find_providers(struct dht *d, uint64_t now_ns, uint64_t wall_ms, const struct id *key,
                       uint32_t *handle)
{
    d->wall_ms = wall_ms;
    return start_lookup(d, now_ns, DHT_LOOKUP_PROVIDERS, key, handle);
}

static struct dht_announce *announce_of(struct dht *d, enum dht_record_type type, const struct id *key)
{
    for (size_t i = 0; i < d->config.announces_max; i++) {
        struct dht_announce *a = &d->announces[i];
        if (a->used && a->type == type && id_equal(&a->key, key))
            return a;
    }
    return NULL;
}

static int announce(struct dht *d, uint64_t now_ns, enum dht_record_type type, const struct id *key,
                    uint64_t ttl_ms, uint32_t *handle)
{
    if (ttl_ms < DHT_TTL_MIN_MS || ttl_ms > DHT_TTL_MAX_MS)
        return ERR_INVALID;
    if (announce_of(d, type, key) != NULL)
        return ERR_EXISTS;
    size_t at = 0;
    while (at < d->config.announces_max && d->announces[at].used)
        at++;
    if (at == d->config.announces_max || !dht_promise(d, handle))
        return ERR_FULL;
    struct dht_announce *a = &d->announces[at];
    uint64_t issued_ms = a->issued_ms; /* stays above whatever the slot's last user issued */
    memset(a, 0, sizeof *a);
    a->used = true;
    a->type = type;
    a->key = *key;
    a->ttl_ms = ttl_ms;
    a->handle = *handle;
    a->due_ns = now_ns;
    a->wait_ns = d->config.retry_ns;
    a->issued_ms = issued_ms;
    return ERR_OK;
}

int dht_announce(struct dht *d, uint64_t now_ns, const struct id *key, uint64_t ttl_ms, uint32_t *handle)
{
    return announce(d, now_ns, DHT_RECORD_PROVIDER, key, ttl_ms, handle);
}

int dht_announce_self(struct dht *d, uint64_t now_ns, uint64_t ttl_ms, uint32_t *handle)
{
    return announce(d, now_ns, DHT_RECORD_PEER, &d->table.own, ttl_ms, handle);
}

int dht_withdraw(struct dht *d, const struct id *key, uint32_t *handle)
{
    struct dht_announce *a = key == NULL ? announce_of(d, DHT_RECORD_PEER, &d->table.own)
                                         : announce_of(d, DHT_RECORD_PROVIDER, key);
    if (a == NULL)
        return ERR_NOT_FOUND;
    if (!dht_promise(d, handle))
        return ERR_FULL;
    for (size_t i = 0; i < d->config.lookups_max; i++) {
        struct dht_lookup *l = &d->lookups[i];
        if (l->used && l->kind == DHT_LOOKUP_ANNOUNCE && &d->announces[l->announce] == a)
            l->used = false;
    }
    if (a->handle != 0) {
        struct dht_event e = {
            .kind = DHT_EVENT_ANNOUNCED, .handle = a->handle, .err = ERR_CANCELLED, .target = a->key};
        dht_push_final(d, &e);
    }
    a->used = false;
    a->searching = false;
    a->handle = 0;
    struct dht_event e = {.kind = DHT_EVENT_WITHDRAWN, .handle = *handle, .target = a->key};
    dht_push_final(d, &e);
    return ERR_OK;
}

int dht_ping(struct dht *d, uint64_t now_ns, const struct dht_contact *node, uint32_t *handle)
{
    if (dht_send_slot(d) == NULL || d->queries.used == d->queries.count || !dht_promise(d, handle))
        return ERR_FULL;
    bool sent = dht_ask(d, now_ns, DHT_PING, DHT_FOR_COMMAND, *handle, node);
    ASSERT(sent);
    return ERR_OK;
}

int dht_cancel(struct dht *d, uint32_t handle)
{
    for (size_t i = 0; i < d->config.lookups_max; i++) {
        struct dht_lookup *l = &d->lookups[i];
        if (l->used && handle != 0 && l->handle == handle && l->kind != DHT_LOOKUP_ANNOUNCE) {
            dht_lookup_drop(d, l);
            return ERR_OK;
        }
    }
    for (size_t i = 0; i < d->queries.count; i++) {
        struct dht_query *q = &d->queries.pool[i];
        if (q->used && q->purpose == DHT_FOR_COMMAND && q->handle == handle) {
            struct dht_event e = {
                .kind = DHT_EVENT_PONG, .handle = handle, .err = ERR_CANCELLED, .node = q->peer};
            dht_queries_end(&d->queries, q);
            dht_push_final(d, &e);
            return ERR_OK;
        }
    }
    return ERR_NOT_FOUND;
}

static bool same_addresses(const struct dht *d, const struct net_addr *addrs, size_t count,
                           struct bytes extra)
{
    if (count != d->addr_count || !bytes_equal(extra, bytes_of(d->extra, d->extra_len)))
        return false;
    for (size_t i = 0; i < count; i++) {
        if (!net_addr_equal(&addrs[i], &d->addrs[i]))
            return false;
    }
    return true;
}

void dht_set_addresses(struct dht *d, uint64_t now_ns, const struct net_addr *addrs, size_t count,
                       struct bytes extra)
{
    ASSERT(count <= DHT_RECORD_ADDRS_MAX);
    ASSERT(extra.len <= DHT_RECORD_EXTRA_MAX);
    if (same_addresses(d, addrs, count, extra))
        return;
    for (size_t i = 0; i < count; i++)
        d->addrs[i] = addrs[i];
    d->addr_count = count;
    if (extra.len > 0)
        memcpy(d->extra, extra.data, extra.len);
    d->extra_len = extra.len;
    for (size_t i = 0; i < d->config.announces_max; i++) {
        d->announces[i].due_ns = now_ns;
        d->announces[i].again = true;
    }
}

void dht_set_client(struct dht *d, bool client)
{
    d->config.client = client;
}
