/* The asking half: requests, their replies and time-outs, and the steps of lookups. */
#include <string.h>

#include "dht/id.h"
#include "dht/internal.h"

static struct dht_lookup *lookup_of(struct dht *d, uint32_t serial)
{
    for (size_t i = 0; i < d->config.lookups_max; i++) {
        if (d->lookups[i].used && d->lookups[i].serial == serial)
            return &d->lookups[i];
    }
    return NULL;
}

size_t dht_lookups_used(const struct dht *d)
{
    size_t used = 0;
    for (size_t i = 0; i < d->config.lookups_max; i++)
        used += d->lookups[i].used;
    return used;
}

static uint8_t lookup_type(const struct dht_lookup *l)
{
    return l->kind == DHT_LOOKUP_PEER ? DHT_RECORD_PEER : DHT_RECORD_PROVIDER;
}

static uint8_t lookup_request(const struct dht_lookup *l)
{
    return l->kind == DHT_LOOKUP_PEER || l->kind == DHT_LOOKUP_PROVIDERS ? DHT_GET : DHT_FIND;
}

/* A token this peer gave us and still honours: half the shortest life its own rotation can have is left. */
static bool held_token(struct dht *d, uint64_t now_ns, const struct dht_contact *peer,
                       uint8_t token[DHT_TOKEN_BYTES])
{
    const struct dht_entry *e = dht_table_get(&d->table, &peer->id, true);
    if (e == NULL || e->token_ns == 0 || !net_addr_equal(&e->contact.addr, &peer->addr) ||
        now_ns - e->token_ns > d->config.token_rotate_ns / 2)
        return false;
    memcpy(token, e->token, DHT_TOKEN_BYTES);
    return true;
}

/* Fills the request of a query from what it was made for; false when that is over. */
static bool compose(struct dht *d, uint64_t now_ns, const struct dht_query *q, struct dht_wire *m)
{
    memset(m, 0, sizeof *m);
    m->kind = q->kind;
    m->request = q->request;
    m->client = d->config.client;
    if (q->kind == DHT_PING)
        return true;
    struct dht_lookup *l = lookup_of(d, q->handle);
    if (l == NULL)
        return false;
    if (q->kind == DHT_STORE) {
        const struct dht_announce *a = &d->announces[l->announce];
        const struct dht_candidate *c = dht_lookup_get(l, &q->peer.id);
        if (c == NULL)
            return false;
        memcpy(m->token, c->token, DHT_TOKEN_BYTES);
        m->value_count = 1;
        m->values[0] = bytes_of(a->bytes, a->len);
        return true;
    }
    m->target = l->target;
    m->type = lookup_type(l);
    m->has_token = held_token(d, now_ns, &q->peer, m->token);
    m->padded = m->has_token ? 0 : DHT_WIRE_PADDED;
    return true;
}

/* False when there was no room (blocked is set) or nothing to send any more. */
static bool send_query(struct dht *d, uint64_t now_ns, const struct dht_query *q)
{
    struct net_message *slot = dht_send_slot(d);
    if (slot == NULL) {
        d->blocked = true;
        return false;
    }
    struct dht_wire m;
    if (!compose(d, now_ns, q, &m))
        return false;
    dht_send_commit(d, &q->peer, q->kind, dht_wire_encode(&m, slot->body, NET_BODY_MAX));
    return true;
}

bool dht_ask(struct dht *d, uint64_t now_ns, uint8_t kind, enum dht_purpose purpose, uint32_t handle,
             const struct dht_contact *peer)
{
    if (dht_send_slot(d) == NULL) {
        d->blocked = true;
        return false;
    }
    struct dht_query *q = dht_queries_start(&d->queries, &d->config.rng, now_ns, kind, purpose, handle, peer);
    if (q == NULL) {
        d->starved = true;
        return false;
    }
    bool sent = send_query(d, now_ns, q);
    ASSERT(sent);
    return true;
}

/* Starting places: the nearest of the table, and seeds where those are few or the lookup is to join. */
static void offer_first(struct dht *d, uint64_t now_ns, struct dht_lookup *l, bool with_seeds)
{
    const struct dht_entry *near[DHT_SHORTLIST];
    size_t count =
        dht_table_closest(&d->table, now_ns, &l->target, true, NULL, NET_SCOPE_LOOPBACK, near, DHT_K);
    if (count < DHT_K)
        count =
            dht_table_closest(&d->table, now_ns, &l->target, false, NULL, NET_SCOPE_LOOPBACK, near, DHT_K);
    for (size_t i = 0; i < count; i++)
        (void)dht_lookup_offer(l, &near[i]->contact, NULL, 1);
    for (size_t i = 0; i < d->seed_count && (with_seeds || count < DHT_K / 4); i++)
        (void)dht_lookup_offer(l, &d->seeds[i], NULL, 1);
}

struct dht_lookup *dht_lookup_start(struct dht *d, uint64_t now_ns, enum dht_lookup_kind kind,
                                    const struct id *target, uint32_t handle, bool with_seeds)
{
    for (size_t i = 0; i < d->config.lookups_max; i++) {
        struct dht_lookup *l = &d->lookups[i];
        if (l->used)
            continue;
        dht_lookup_init(l, kind, target, ++d->next_serial, handle);
        rng_fill(&d->config.rng, l->secret, sizeof l->secret);
        offer_first(d, now_ns, l, with_seeds);
        return l;
    }
    return NULL;
}

static void emit_nodes(struct dht *d, struct dht_lookup *l, struct dht_event *final)
{
    for (size_t i = 0; i < l->count && final->found < DHT_K; i++) {
        if (l->list[i].state != DHT_CANDIDATE_ANSWERED)
            continue;
        struct dht_event e = {.kind = DHT_EVENT_NODE, .handle = l->handle, .node = l->list[i].contact};
        dht_push_interim(d, &e);
        final->found++;
    }
}

static void emit_done(struct dht *d, struct dht_lookup *l, int err)
{
    struct dht_event e = {.kind = DHT_EVENT_LOOKUP_DONE,
                          .handle = l->handle,
                          .err = err,
                          .target = l->target,
                          .requests = l->requests,
                          .answers = l->answers,
                          .hops = l->hops,
                          .found = (uint32_t)l->value_count};
    if (l->kind == DHT_LOOKUP_NODE)
        emit_nodes(d, l, &e);
    if (err == ERR_OK && e.found == 0)
        e.err = l->answers == 0 ? ERR_UNREACHABLE : ERR_NOT_FOUND;
    dht_push_final(d, &e);
}

/* Releases the slot; queries of this lookup still under way are ignored from now on, but for the table. */
void dht_lookup_finish(struct dht *d, uint64_t now_ns, struct dht_lookup *l)
{
    trace_emit(&d->config.trace, TRACE_DHT_LOOKUP, now_ns, NULL, l->requests, l->hops, ERR_OK);
    if (l->answers > 0)
        dht_refreshed(d, now_ns, &l->target);
    switch (l->kind) {
    case DHT_LOOKUP_NODE:
    case DHT_LOOKUP_PEER:
    case DHT_LOOKUP_PROVIDERS:
        emit_done(d, l, ERR_OK);
        break;
    case DHT_LOOKUP_JOIN:
        dht_join_done(d, now_ns);
        break;
    case DHT_LOOKUP_REFRESH:
        break;
    case DHT_LOOKUP_ANNOUNCE:
        dht_announce_done(d, now_ns, l);
        break;
    }
    l->used = false;
}

void dht_lookup_drop(struct dht *d, struct dht_lookup *l)
{
    emit_done(d, l, ERR_CANCELLED);
    l->used = false;
}

void dht_lookup_step(struct dht *d, uint64_t now_ns, struct dht_lookup *l)
{
    while (!l->storing) {
        struct dht_candidate *c = dht_lookup_next(l);
        if (c == NULL || !dht_ask(d, now_ns, lookup_request(l), DHT_FOR_LOOKUP, l->serial, &c->contact))
            break;
        dht_lookup_asked(l, c);
    }
    if (!l->storing && dht_lookup_settled(l)) {
        if (l->kind != DHT_LOOKUP_ANNOUNCE) {
            dht_lookup_finish(d, now_ns, l);
            return;
        }
        l->storing = true;
        dht_announce_store_begin(d, l);
    }
    if (l->storing)
        dht_announce_store_step(d, now_ns, l);
}

void dht_lookups_tick(struct dht *d, uint64_t now_ns)
{
    for (size_t i = 0; i < d->config.lookups_max; i++) {
        if (d->lookups[i].used)
            dht_lookup_step(d, now_ns, &d->lookups[i]);
    }
}

static void emit_value(struct dht *d, const struct dht_lookup *l, const struct dht_record *record)
{
    struct dht_event e = {
        .kind = DHT_EVENT_VALUE, .handle = l->handle, .target = l->target, .record = *record};
    dht_push_interim(d, &e);
}

static bool value_fits(const struct dht *d, const struct dht_lookup *l, struct bytes in,
                       struct dht_record *record)
{
    return dht_record_decode(in, record) == ERR_OK && record->type == (enum dht_record_type)lookup_type(l) &&
           id_equal(&record->key, &l->target) && dht_record_check_life(record, d->wall_ms) == ERR_OK;
}

static void take_value(struct dht *d, uint64_t now_ns, struct dht_lookup *l, const struct id *from,
                       struct bytes in)
{
    struct dht_record record;
    if (!value_fits(d, l, in, &record))
        return;
    if (l->kind == DHT_LOOKUP_PROVIDERS && !dht_lookup_wants_value(l, &record))
        return;
    int rc = dht_record_verify(&record, in, &d->config);
    if (rc != ERR_OK) {
        trace_emit(&d->config.trace, TRACE_RECORD_REFUSED, now_ns, from, 0, 0, rc);
        return;
    }
    bool newest = dht_lookup_wants_value(l, &record);
    if (newest && dht_lookup_note_value(l, &record)) {
        l->agree = 1;
        emit_value(d, l, &record);
    } else if (!newest && dht_lookup_holds_value(l, &record)) {
        l->agree++;
    }
}

/* Values we hold ourselves: records kept for others, and our own announcements. */
void dht_lookup_local_values(struct dht *d, struct dht_lookup *l)
{
    const struct dht_held *held[DHT_VALUES_MAX];
    struct dht_record record;
    size_t count = dht_records_sample(&d->records, &d->config.rng, d->wall_ms, &l->target, lookup_type(l),
                                      held, DHT_VALUES_MAX);
    for (size_t i = 0; i < count; i++) {
        if (value_fits(d, l, bytes_of(held[i]->bytes, held[i]->len), &record) &&
            dht_lookup_note_value(l, &record))
            emit_value(d, l, &record);
    }
    for (size_t i = 0; i < d->config.announces_max; i++) {
        const struct dht_announce *a = &d->announces[i];
        if (a->used && a->len > 0 && value_fits(d, l, bytes_of(a->bytes, a->len), &record) &&
            dht_lookup_note_value(l, &record))
            emit_value(d, l, &record);
    }
}

static void on_lookup_reply(struct dht *d, uint64_t now_ns, struct dht_lookup *l,
                            const struct dht_contact *from, const struct dht_wire *m)
{
    const struct dht_candidate *c = dht_lookup_answered(l, &from->id, m->has_token ? m->token : NULL);
    if (c == NULL)
        return;
    uint16_t hops = (uint16_t)(c->hops + 1); /* at most one per request, so far below the type's end */
    enum net_scope scope = net_addr_scope(&from->addr);
    for (size_t i = 0; i < m->contact_count; i++) {
        /* A stranger on the internet does not get us to write to machines of our LAN. */
        if (net_addr_scope(&m->contacts[i].addr) < scope || id_equal(&m->contacts[i].id, &d->config.id))
            continue;
        (void)dht_lookup_offer(l, &m->contacts[i], &from->id, hops);
    }
    for (size_t i = 0; i < m->value_count; i++)
        take_value(d, now_ns, l, &from->id, m->values[i]);
}

static void on_store_reply(struct dht_lookup *l, const struct dht_contact *from, const struct dht_wire *m)
{
    struct dht_candidate *c = dht_lookup_get(l, &from->id);
    if (c == NULL || c->store != DHT_STORE_SENT)
        return;
    c->store = DHT_STORE_DONE;
    l->answers++;
    l->stored += m->status == DHT_STORED_OK;
}

static void push_pong(struct dht *d, const struct dht_query *q, uint64_t rtt_ns, int err)
{
    struct dht_event e = {
        .kind = DHT_EVENT_PONG, .handle = q->handle, .err = err, .node = q->peer, .rtt_ns = rtt_ns};
    dht_push_final(d, &e);
}

static void note_in_table(struct dht *d, uint64_t now_ns, const struct dht_contact *from,
                          const struct dht_wire *m, uint64_t rtt_ns)
{
    d->last_answer_ns = now_ns;
    if (m->client) {
        dht_table_remove(&d->table, &from->id);
        return;
    }
    switch (dht_table_answered(&d->table, now_ns, from, rtt_ns, m->has_token ? m->token : NULL)) {
    case DHT_INSERT_ADDED:
        dht_contact_added(d, now_ns, from);
        break;
    case DHT_INSERT_CACHED:
        dht_probe_bucket(d, now_ns, &from->id);
        break;
    case DHT_INSERT_KNOWN:
    case DHT_INSERT_REFUSED:
        break;
    }
}

int dht_on_reply(struct dht *d, uint64_t now_ns, const struct dht_contact *from, const struct dht_wire *m)
{
    struct dht_query *match = dht_queries_match(&d->queries, m->kind, m->request, from);
    if (match == NULL)
        return ERR_NOT_FOUND;
    struct dht_query q = *match;
    dht_queries_end(&d->queries, match);
    note_in_table(d, now_ns, from, m, q.resent ? 0 : now_ns - q.sent_ns);
    struct dht_lookup *l = NULL;
    if (q.purpose == DHT_FOR_LOOKUP || q.purpose == DHT_FOR_STORE)
        l = lookup_of(d, q.handle);
    if (q.purpose == DHT_FOR_COMMAND)
        push_pong(d, &q, now_ns - q.sent_ns, ERR_OK);
    else if (q.purpose == DHT_FOR_LOOKUP && l != NULL)
        on_lookup_reply(d, now_ns, l, from, m);
    else if (q.purpose == DHT_FOR_STORE && l != NULL)
        on_store_reply(l, from, m);
    if (l != NULL)
        dht_lookup_step(d, now_ns, l);
    if (d->starved) {
        d->starved = false;
        dht_lookups_tick(d, now_ns);
    }
    return ERR_OK;
}

static void on_timeout(struct dht *d, uint64_t now_ns, const struct dht_query *q)
{
    (void)dht_table_failed(&d->table, now_ns, &q->peer, d->last_answer_ns > q->sent_ns);
    struct dht_lookup *l = NULL;
    switch (q->purpose) {
    case DHT_FOR_TABLE:
        break;
    case DHT_FOR_COMMAND:
        push_pong(d, q, 0, ERR_TIMEOUT);
        break;
    case DHT_FOR_LOOKUP:
        l = lookup_of(d, q->handle);
        if (l != NULL)
            dht_lookup_failed(l, &q->peer.id);
        break;
    case DHT_FOR_STORE:
        l = lookup_of(d, q->handle);
        struct dht_candidate *c = l == NULL ? NULL : dht_lookup_get(l, &q->peer.id);
        if (c != NULL)
            c->store = DHT_STORE_DONE;
        break;
    }
}

/* Sends a request for the second time.  False: no room, it stays due. */
static bool resend(struct dht *d, uint64_t now_ns, struct dht_query *q)
{
    bool sent = send_query(d, now_ns, q);
    if (!sent && d->blocked)
        return false;
    q->resent = true;
    struct dht_lookup *l = q->purpose == DHT_FOR_LOOKUP ? lookup_of(d, q->handle) : NULL;
    if (l != NULL)
        dht_lookup_slow(l, &q->peer.id);
    return true;
}

void dht_queries_tick(struct dht *d, uint64_t now_ns)
{
    struct dht_queries *queries = &d->queries;
    if (now_ns < queries->due_ns)
        return;
    queries->due_ns = UINT64_MAX;
    for (size_t i = 0; i < queries->count; i++) {
        struct dht_query *q = &queries->pool[i];
        if (!q->used)
            continue;
        bool due = now_ns >= dht_query_due_ns(queries, q);
        if (due && q->resent) {
            struct dht_query ended = *q;
            dht_queries_end(queries, q);
            on_timeout(d, now_ns, &ended);
            continue;
        }
        if (due)
            (void)resend(d, now_ns, q);
        uint64_t next = dht_query_due_ns(queries, q);
        if (next < queries->due_ns)
            queries->due_ns = next;
    }
}
