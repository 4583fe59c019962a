/* Lifecycle and dispatch: an input goes in, the right part is asked, results are queued. */
#include "dht/dht.h"

#include <sodium.h>
#include <string.h>

#include "base/alloc.h"
#include "dht/id.h"
#include "dht/internal.h"

/* Lays out the node in the arena; with a NULL base the same walk only measures. */
struct layout {
    uint8_t *base;
    size_t used;
};

static void *take(struct layout *at, size_t count, size_t size)
{
    size_t bytes = 0;
    bool fits = size_product(count, size, &bytes);
    ASSERT(fits); /* dht_config_check bounds every count */
    void *out = at->base == NULL ? NULL : at->base + at->used;
    at->used += (bytes + 63) / 64 * 64;
    return out;
}

struct parts {
    struct dht *d;
    struct dht_bucket *buckets;
    struct dht_query *queries;
    struct dht_held *held;
    uint64_t *groups;
};

static struct parts lay_out(struct layout *at, const struct dht_config *c)
{
    struct parts p;
    struct dht measured;
    p.d = take(at, 1, sizeof *p.d);
    struct dht *d = p.d == NULL ? &measured : p.d;
    memset(d, 0, sizeof *d);
    p.buckets = take(at, c->buckets, sizeof *p.buckets);
    p.queries = take(at, c->queries_max, sizeof *p.queries);
    p.held = take(at, c->records_max, sizeof *p.held);
    p.groups = take(at, c->groups_max, sizeof *p.groups);
    d->lookups = take(at, c->lookups_max, sizeof *d->lookups);
    d->announces = take(at, c->announces_max, sizeof *d->announces);
    d->seeds = take(at, c->seeds_max, sizeof *d->seeds);
    d->sends = take(at, c->sends_max, sizeof *d->sends);
    d->send_ring = ring_init(c->sends_max);
    d->events = take(at, c->events_max, sizeof *d->events);
    d->event_ring = ring_init(c->events_max);
    return p;
}

size_t dht_size_bytes(const struct dht_config *config)
{
    const char *why;
    if (dht_config_check(config, &why) != ERR_OK)
        return 0;
    struct layout at = {NULL, 0};
    (void)lay_out(&at, config);
    return at.used;
}

int dht_init(struct dht **out, void *mem, size_t size, const struct dht_config *config, uint64_t now_ns)
{
    size_t need = dht_size_bytes(config);
    if (need == 0)
        return ERR_INVALID;
    if (size < need)
        return ERR_NO_MEMORY;
    ASSERT((uintptr_t)mem % 64 == 0);
    memset(mem, 0, need);
    struct layout at = {mem, 0};
    struct parts p = lay_out(&at, config);
    struct dht *d = p.d;
    d->config = *config;
    dht_table_init(&d->table, &config->id, p.buckets, config->buckets, config->good_ns);
    dht_tokens_init(&d->tokens, &config->rng, config->token_rotate_ns, now_ns);
    dht_limiter_init(&d->limiter, &config->rng, p.groups, config->groups_max, config->requests_per_s,
                     config->group_requests_per_s);
    dht_queries_init(&d->queries, p.queries, config->queries_max, config->resend_ns, config->timeout_ns);
    dht_records_init(&d->records, config, &d->table.own, p.held);
    d->join_due_ns = UINT64_MAX;
    d->join_wait_ns = config->retry_ns;
    d->refresh_due_ns = UINT64_MAX;
    d->probe_due_ns = UINT64_MAX;
    *out = d;
    return ERR_OK;
}

void dht_deinit(struct dht *d)
{
    sodium_memzero(&d->tokens, sizeof d->tokens);
    sodium_memzero(&d->limiter, sizeof d->limiter);
    sodium_memzero(&d->records, sizeof d->records);
    sodium_memzero(&d->config, sizeof d->config);
}

static int dispatch(struct dht *d, uint64_t now_ns, const struct net_message *message)
{
    bool request = dht_wire_is_request(message->kind);
    if (request && !dht_limiter_allow(&d->limiter, now_ns, &message->addr)) {
        d->counts.rate_limited++;
        return ERR_RATE;
    }
    if (message->body_len > NET_BODY_MAX || net_addr_scope(&message->addr) == NET_SCOPE_INVALID)
        return ERR_MALFORMED;
    struct dht_wire m;
    int rc = dht_wire_decode(message->kind, bytes_of(message->body, message->body_len), &m);
    if (rc != ERR_OK)
        return rc;
    struct dht_contact from = {.id = message->peer, .addr = message->addr};
    if (id_equal(&from.id, &d->config.id))
        return ERR_MALFORMED;
    return request ? dht_serve(d, now_ns, &from, &m, message->body_len) : dht_on_reply(d, now_ns, &from, &m);
}

int dht_recv(struct dht *d, uint64_t now_ns, uint64_t wall_ms, const struct net_message *message)
{
    d->wall_ms = wall_ms;
    d->counts.received++;
    dht_tokens_tick(&d->tokens, &d->config.rng, now_ns);
    dht_records_expire(&d->records, wall_ms);
    int rc = dispatch(d, now_ns, message);
    if (rc == ERR_MALFORMED || rc == ERR_NOT_FOUND || rc == ERR_UNSUPPORTED)
        d->counts.malformed++;
    return rc;
}

void dht_tick(struct dht *d, uint64_t now_ns, uint64_t wall_ms)
{
    d->wall_ms = wall_ms;
    d->blocked = false;
    d->starved = false;
    dht_tokens_tick(&d->tokens, &d->config.rng, now_ns);
    dht_records_expire(&d->records, wall_ms);
    dht_queries_tick(d, now_ns);
    dht_join_tick(d, now_ns);
    dht_refresh_tick(d, now_ns);
    dht_probe_tick(d, now_ns);
    dht_announces_tick(d, now_ns);
    dht_lookups_tick(d, now_ns);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t dht_deadline_ns(const struct dht *d)
{
    if (d->blocked)
        return 0;
    uint64_t due = d->queries.used > 0 ? d->queries.due_ns : UINT64_MAX;
    due = earlier(due, d->joining ? UINT64_MAX : d->join_due_ns);
    due = earlier(due, d->refresh_due_ns);
    due = earlier(due, d->probe_due_ns);
    return earlier(due, dht_announces_due_ns(d));
}

bool dht_ready(const struct dht *d)
{
    return d->joined && d->table.total > 0;
}

struct id dht_position(const struct dht *d)
{
    return d->table.own;
}

struct id dht_position_of(const struct id *id)
{
    return dht_id_position(id);
}

struct dht_counts dht_counts(const struct dht *d, uint64_t now_ns)
{
    struct dht_counts counts = d->counts;
    for (size_t i = 0; i < d->table.bucket_count; i++) {
        const struct dht_bucket *b = &d->table.buckets[i];
        counts.cached += b->cached;
        for (size_t j = 0; j < b->count; j++)
            counts.good += dht_table_is_good(&d->table, &b->entries[j], now_ns);
    }
    counts.doubtful = d->table.total - counts.good;
    counts.records = d->records.count;
    for (size_t i = 0; i < d->config.announces_max; i++)
        counts.announces += d->announces[i].used;
    counts.lookups = dht_lookups_used(d);
    counts.queries = d->queries.used;
    return counts;
}

static struct dht_row row_of(const struct dht_entry *e, unsigned bucket, enum dht_contact_state state)
{
    return (struct dht_row){.contact = e->contact,
                            .state = state,
                            .bucket = bucket,
                            .fails = e->fails,
                            .rtt_ns = e->rtt_ns,
                            .answered_ns = e->answered_ns};
}

size_t dht_table_rows(const struct dht *d, uint64_t now_ns, bool good_only, struct dht_row *rows, size_t cap)
{
    size_t used = 0;
    for (unsigned i = 0; i < d->table.bucket_count; i++) {
        const struct dht_bucket *b = &d->table.buckets[i];
        for (size_t j = 0; j < b->count && used < cap; j++) {
            bool good = dht_table_is_good(&d->table, &b->entries[j], now_ns);
            if (good || !good_only)
                rows[used++] = row_of(&b->entries[j], i, good ? DHT_CONTACT_GOOD : DHT_CONTACT_DOUBTFUL);
        }
        for (size_t j = 0; !good_only && j < b->cached && used < cap; j++)
            rows[used++] = row_of(&b->cache[j], i, DHT_CONTACT_CACHED);
    }
    return used;
}

/* Final events owed: one per pending ping, command lookup, and announcement with a handle. */
static size_t owed(const struct dht *d)
{
    size_t n = 0;
    for (size_t i = 0; i < d->queries.count; i++)
        n += d->queries.pool[i].used && d->queries.pool[i].purpose == DHT_FOR_COMMAND;
    for (size_t i = 0; i < d->config.lookups_max; i++)
        n += d->lookups[i].used && d->lookups[i].handle != 0 && d->lookups[i].kind != DHT_LOOKUP_ANNOUNCE;
    for (size_t i = 0; i < d->config.announces_max; i++)
        n += d->announces[i].used && d->announces[i].handle != 0;
    return n;
}

static void check_lookups(const struct dht *d)
{
    size_t joins = 0;
    size_t searching = 0;
    for (size_t i = 0; i < d->config.lookups_max; i++) {
        const struct dht_lookup *l = &d->lookups[i];
        if (!l->used)
            continue;
        dht_lookup_check(l);
        joins += l->kind == DHT_LOOKUP_JOIN;
        if (l->kind == DHT_LOOKUP_ANNOUNCE) {
            searching++;
            ASSERT(d->announces[l->announce].used && d->announces[l->announce].searching);
        }
    }
    ASSERT(joins == (d->joining ? 1 : 0));
    for (size_t i = 0; i < d->config.announces_max; i++)
        searching -= d->announces[i].used && d->announces[i].searching;
    ASSERT(searching == 0);
}

void dht_check_invariants(const struct dht *d)
{
    dht_table_check(&d->table);
    dht_records_check(&d->records);
    check_lookups(d);
    size_t used = 0;
    for (size_t i = 0; i < d->queries.count; i++) {
        const struct dht_query *q = &d->queries.pool[i];
        used += q->used;
        if (q->used) {
            ASSERT((q->request & 0xff) == i);
            ASSERT(dht_query_due_ns(&d->queries, q) >= d->queries.due_ns || d->blocked);
        }
    }
    ASSERT(used == d->queries.used);
    ring_check_invariants(&d->send_ring);
    ring_check_invariants(&d->event_ring);
    ASSERT(d->event_ring.count + d->promised <= d->event_ring.cap);
    ASSERT(owed(d) == d->promised);
    ASSERT(d->seed_count <= d->config.seeds_max);
    ASSERT(dht_deadline_ns(d) != UINT64_MAX || d->table.total == 0);
}
