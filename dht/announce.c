/* Own records: built, signed, stored at the DHT_K nearest, and again at half of their life. */
#include <string.h>

#include "dht/id.h"
#include "dht/internal.h"

static void build(struct dht *d, struct dht_announce *a)
{
    struct dht_record record;
    memset(&record, 0, sizeof record);
    /* Strictly newer than the one before, even when the wall clock stood still or went back. */
    a->issued_ms = d->wall_ms > a->issued_ms ? d->wall_ms : a->issued_ms + 1;
    a->expires_ms = a->issued_ms + a->ttl_ms;
    record.type = a->type;
    record.key = a->key;
    record.owner = d->config.id;
    record.issued_ms = a->issued_ms;
    record.expires_ms = a->expires_ms;
    record.addr_count = d->addr_count;
    memcpy(record.addrs, d->addrs, sizeof record.addrs);
    record.extra_len = d->extra_len;
    memcpy(record.extra, d->extra, d->extra_len);
    a->len = dht_record_encode(&record, &d->config, a->bytes);
}

/* While the first join runs an announcement waits for it; a lookup would find nobody. */
static void start_one(struct dht *d, uint64_t now_ns, size_t at)
{
    struct dht_announce *a = &d->announces[at];
    if (d->joining && !d->joined)
        return;
    struct dht_lookup *l = dht_lookup_start(d, now_ns, DHT_LOOKUP_ANNOUNCE, &a->key, a->handle, false);
    if (l == NULL) {
        a->due_ns = now_ns + d->config.retry_ns;
        return;
    }
    l->announce = at;
    a->searching = true;
    a->again = false;
    build(d, a);
}

void dht_announces_tick(struct dht *d, uint64_t now_ns)
{
    for (size_t i = 0; i < d->config.announces_max; i++) {
        const struct dht_announce *a = &d->announces[i];
        if (a->used && !a->searching && now_ns >= a->due_ns)
            start_one(d, now_ns, i);
    }
}

uint64_t dht_announces_due_ns(const struct dht *d)
{
    uint64_t due = UINT64_MAX;
    if (d->joining && !d->joined)
        return due; /* the end of the join lookup wakes them */
    for (size_t i = 0; i < d->config.announces_max; i++) {
        const struct dht_announce *a = &d->announces[i];
        if (a->used && !a->searching && a->due_ns < due)
            due = a->due_ns;
    }
    return due;
}

/* After joining: whatever failed for want of contacts is tried now. */
void dht_announces_hurry(struct dht *d, uint64_t now_ns)
{
    for (size_t i = 0; i < d->config.announces_max; i++) {
        struct dht_announce *a = &d->announces[i];
        if (a->used && !a->searching && a->wait_ns > d->config.retry_ns)
            a->due_ns = now_ns;
    }
}

/* We may be one of the nearest ourselves. */
static void store_here(struct dht *d, struct dht_lookup *l)
{
    const struct dht_announce *a = &d->announces[l->announce];
    bool near =
        l->count < DHT_K || dht_id_nearer(&l->target, &d->table.own, &l->list[DHT_K - 1].position) < 0;
    struct dht_record record;
    if (d->config.client || !near || dht_record_decode(bytes_of(a->bytes, a->len), &record) != ERR_OK)
        return;
    static const struct net_addr none = {.family = NET_FAMILY_NONE};
    if (dht_records_put(&d->records, &record, bytes_of(a->bytes, a->len), &none) != ERR_OK)
        d->counts.refused++;
}

void dht_announce_store_begin(struct dht *d, struct dht_lookup *l)
{
    store_here(d, l);
    size_t wanted = 0;
    for (size_t i = 0; i < l->count; i++) {
        struct dht_candidate *c = &l->list[i];
        bool store = c->state == DHT_CANDIDATE_ANSWERED && c->has_token && wanted < DHT_K;
        c->store = store ? DHT_STORE_IDLE : DHT_STORE_DONE;
        wanted += store;
    }
}

void dht_announce_store_step(struct dht *d, uint64_t now_ns, struct dht_lookup *l)
{
    size_t in_flight = 0;
    for (size_t i = 0; i < l->count; i++)
        in_flight += l->list[i].store == DHT_STORE_SENT;
    size_t waiting = 0;
    for (size_t i = 0; i < l->count; i++) {
        struct dht_candidate *c = &l->list[i];
        if (c->store != DHT_STORE_IDLE)
            continue;
        if (in_flight >= DHT_ALPHA || !dht_ask(d, now_ns, DHT_STORE, DHT_FOR_STORE, l->serial, &c->contact)) {
            waiting++;
            continue;
        }
        c->store = DHT_STORE_SENT;
        l->requests++;
        in_flight++;
    }
    if (in_flight == 0 && waiting == 0)
        dht_lookup_finish(d, now_ns, l);
}

static int result_of(const struct dht_lookup *l)
{
    if (l->stored > 0)
        return ERR_OK;
    return l->answers == 0 ? ERR_UNREACHABLE : ERR_REFUSED;
}

void dht_announce_done(struct dht *d, uint64_t now_ns, struct dht_lookup *l)
{
    struct dht_announce *a = &d->announces[l->announce];
    ASSERT(a->used && a->searching);
    int result = result_of(l);
    a->searching = false;
    if (a->handle != 0) {
        struct dht_event e = {.kind = DHT_EVENT_ANNOUNCED,
                              .handle = a->handle,
                              .err = result,
                              .target = a->key,
                              .requests = l->requests,
                              .answers = l->answers,
                              .found = l->stored};
        dht_push_final(d, &e);
        a->handle = 0;
    }
    if (result == ERR_OK) {
        a->wait_ns = d->config.retry_ns;
        uint64_t half_ns = a->ttl_ms / 2 * UINT64_C(1000000);
        a->due_ns = now_ns + half_ns - rng_below(&d->config.rng, half_ns / 10 + 1);
        if (a->again)
            a->due_ns = now_ns;
        return;
    }
    a->due_ns = now_ns + dht_jitter(d, a->wait_ns);
    a->wait_ns = 2 * a->wait_ns < d->config.retry_max_ns ? 2 * a->wait_ns : d->config.retry_max_ns;
}
