/* Upkeep of the table: joining through seeds, refreshing buckets, meeting and probing contacts. */
#include "dht/id.h"
#include "dht/internal.h"

static const uint64_t spread_ns = UINT64_C(10000000000); /* first refreshes after a join, spread over this */

static void lost(struct dht *d, uint64_t now_ns)
{
    struct dht_event e = {.kind = DHT_EVENT_LOST};
    dht_push_interim(d, &e);
    d->joined = false;
    d->join_wait_ns = d->config.retry_ns;
    d->join_due_ns = now_ns + dht_jitter(d, d->config.retry_ns);
}

void dht_join_tick(struct dht *d, uint64_t now_ns)
{
    if (d->joined && d->table.total == 0)
        lost(d, now_ns);
    if (d->joining || now_ns < d->join_due_ns)
        return;
    if (d->seed_count == 0 && d->table.total == 0) {
        d->join_due_ns = UINT64_MAX; /* until a seed or a contact comes */
        return;
    }
    d->joining = dht_lookup_start(d, now_ns, DHT_LOOKUP_JOIN, &d->table.own, 0, true) != NULL;
    if (!d->joining)
        d->join_due_ns = now_ns + d->config.retry_ns;
}

/* The lookup of our own position fills the near buckets; those farther away, where few were met on the way,
 * are refreshed soon (Maymounkov and Mazieres 2002, s.2.3). */
static void joined(struct dht *d, uint64_t now_ns)
{
    d->joined = true;
    for (size_t i = 0; i < dht_table_depth(&d->table); i++) {
        struct dht_bucket *b = &d->table.buckets[i];
        if (b->count < DHT_K)
            b->refresh_due_ns = now_ns + rng_below(&d->config.rng, spread_ns);
    }
    d->refresh_due_ns = now_ns;
    dht_announces_hurry(d, now_ns);
    trace_emit(&d->config.trace, TRACE_DHT_READY, now_ns, NULL, (int64_t)d->table.total, 0, ERR_OK);
    struct dht_event e = {.kind = DHT_EVENT_READY};
    dht_push_interim(d, &e);
}

void dht_join_done(struct dht *d, uint64_t now_ns)
{
    d->joining = false;
    if (d->table.total > 0) {
        if (!d->joined)
            joined(d, now_ns);
        d->join_wait_ns = d->config.retry_ns;
        d->join_due_ns = now_ns + dht_jitter(d, d->config.refresh_ns);
        return;
    }
    d->join_due_ns = now_ns + dht_jitter(d, d->join_wait_ns);
    d->join_wait_ns =
        2 * d->join_wait_ns < d->config.retry_max_ns ? 2 * d->join_wait_ns : d->config.retry_max_ns;
}

void dht_contact_added(struct dht *d, uint64_t now_ns, const struct dht_contact *contact)
{
    trace_emit(&d->config.trace, TRACE_DHT_CONTACT, now_ns, &contact->id, 0, 0, ERR_OK);
    struct dht_event e = {.kind = DHT_EVENT_CONTACT, .node = *contact};
    dht_push_interim(d, &e);
    if (!d->joined && !d->joining)
        d->join_due_ns = now_ns;
    if (d->table.total == 1)
        d->probe_due_ns = now_ns + d->config.probe_ns;
    struct id position = dht_id_position(&contact->id);
    struct dht_bucket *b = &d->table.buckets[dht_table_bucket_of(&d->table, &position)];
    if (b->refresh_due_ns == 0) {
        b->refresh_due_ns = now_ns + dht_jitter(d, d->config.refresh_ns);
        if (b->refresh_due_ns < d->refresh_due_ns)
            d->refresh_due_ns = b->refresh_due_ns;
    }
}

void dht_refreshed(struct dht *d, uint64_t now_ns, const struct id *target)
{
    d->table.buckets[dht_table_bucket_of(&d->table, target)].refresh_due_ns =
        now_ns + dht_jitter(d, d->config.refresh_ns);
}

static bool refreshing(const struct dht *d)
{
    for (size_t i = 0; i < d->config.lookups_max; i++) {
        if (d->lookups[i].used && d->lookups[i].kind == DHT_LOOKUP_REFRESH)
            return true;
    }
    return false;
}

/* One bucket at a time. */
void dht_refresh_tick(struct dht *d, uint64_t now_ns)
{
    if (now_ns < d->refresh_due_ns)
        return;
    bool busy = refreshing(d);
    uint64_t next_ns = UINT64_MAX;
    for (size_t i = 0; i < dht_table_depth(&d->table); i++) {
        struct dht_bucket *b = &d->table.buckets[i];
        if (b->refresh_due_ns <= now_ns && !busy) {
            struct id target = dht_id_random_in(&d->config.rng, &d->table.own, (unsigned)i);
            busy = dht_lookup_start(d, now_ns, DHT_LOOKUP_REFRESH, &target, 0, false) != NULL;
            if (busy)
                b->refresh_due_ns = now_ns + dht_jitter(d, d->config.refresh_ns);
        }
        uint64_t due_ns = b->refresh_due_ns > now_ns ? b->refresh_due_ns : now_ns + d->config.retry_ns;
        if (due_ns < next_ns)
            next_ns = due_ns;
    }
    d->refresh_due_ns = next_ns;
}

static void probe(struct dht *d, uint64_t now_ns, struct dht_entry *e)
{
    if (dht_queries_asking(&d->queries, &e->contact.id, DHT_FOR_TABLE) || dht_send_slot(d) == NULL)
        return;
    if (dht_ask(d, now_ns, DHT_PING, DHT_FOR_TABLE, 0, &e->contact))
        e->probed_ns = now_ns;
}

void dht_probe_tick(struct dht *d, uint64_t now_ns)
{
    if (now_ns < d->probe_due_ns)
        return;
    uint64_t before_ns = now_ns > d->config.probe_ns ? now_ns - d->config.probe_ns / 2 : 0;
    for (int i = 0; i < DHT_PROBES; i++) {
        struct dht_entry *e = dht_table_doubtful(&d->table, now_ns, SIZE_MAX, before_ns);
        if (e != NULL)
            probe(d, now_ns, e);
    }
    d->probe_due_ns = d->table.total == 0 ? UINT64_MAX : now_ns + dht_jitter(d, d->config.probe_ns);
}

/* A newcomer was cached: find out now whether a doubtful contact of its bucket must make room. */
void dht_probe_bucket(struct dht *d, uint64_t now_ns, const struct id *newcomer)
{
    struct id position = dht_id_position(newcomer);
    uint64_t before_ns = now_ns > d->config.timeout_ns ? now_ns - d->config.timeout_ns : 0;
    struct dht_entry *e =
        dht_table_doubtful(&d->table, now_ns, dht_table_bucket_of(&d->table, &position), before_ns);
    if (e != NULL)
        probe(d, now_ns, e);
}
