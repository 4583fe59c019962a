/* The answering half.  A reply goes to where the request came from and nowhere else, and to an address that
 * has not proven itself by a token it is at most DHT_WIRE_AMPLIFY times as long as the request. */
#include <string.h>

#include "dht/internal.h"

/* True when room ran out before the contacts did. */
static bool add_contacts(struct dht *d, uint64_t now_ns, const struct dht_contact *from,
                         const struct id *target, struct dht_wire *reply, size_t room)
{
    const struct dht_entry *near[DHT_K];
    size_t count = dht_table_closest(&d->table, now_ns, target, true, &from->id, net_addr_scope(&from->addr),
                                     near, DHT_K);
    for (size_t i = 0; i < count; i++) {
        size_t need = DHT_WIRE_CONTACT_MAX - (near[i]->contact.addr.family == NET_FAMILY_V4 ? 12 : 0);
        if (need > room)
            return true;
        reply->contacts[reply->contact_count++] = near[i]->contact;
        room -= need;
    }
    return false;
}

/* Takes one record while at least half of the room stays for contacts, which lead on; the first always. */
static void add_value(struct dht_wire *reply, struct bytes value, size_t *left)
{
    size_t need = value.len + 3;
    if (reply->value_count == DHT_WIRE_VALUES_MAX || (reply->value_count > 0 && need > *left))
        return;
    reply->values[reply->value_count++] = value;
    *left -= need < *left ? need : *left;
}

static void add_values(struct dht *d, const struct dht_wire *m, struct dht_wire *reply, size_t half)
{
    for (size_t i = 0; i < d->config.announces_max; i++) {
        const struct dht_announce *a = &d->announces[i];
        if (a->used && a->len > 0 && a->type == (enum dht_record_type)m->type &&
            id_equal(&a->key, &m->target) && a->expires_ms > d->wall_ms)
            add_value(reply, bytes_of(a->bytes, a->len), &half);
    }
    const struct dht_held *held[DHT_WIRE_VALUES_MAX];
    size_t count = dht_records_sample(&d->records, &d->config.rng, d->wall_ms, &m->target, m->type, held,
                                      DHT_WIRE_VALUES_MAX);
    for (size_t i = 0; i < count; i++)
        add_value(reply, bytes_of(held[i]->bytes, held[i]->len), &half);
}

static uint8_t status_of(int rc)
{
    switch (rc) {
    case ERR_OK:
    case ERR_EXISTS:
        return DHT_STORED_OK;
    case ERR_STALE:
        return DHT_STORED_STALE;
    case ERR_QUOTA:
        return DHT_STORED_QUOTA;
    case ERR_FULL:
        return DHT_STORED_FULL;
    default:
        return DHT_STORED_INVALID;
    }
}

/* Cheap checks first; the signature, 50 us, last. */
static int take_record(struct dht *d, const struct dht_contact *from, struct bytes in)
{
    struct dht_record record;
    int rc = dht_record_decode(in, &record);
    if (rc != ERR_OK)
        return rc;
    if (!id_equal(&record.owner, &from->id))
        return ERR_AUTH;
    rc = dht_record_check_life(&record, d->wall_ms);
    if (rc != ERR_OK)
        return rc;
    rc = dht_records_would_take(&d->records, &record, in, &from->addr);
    if (rc != ERR_OK)
        return rc;
    rc = dht_record_verify(&record, in, &d->config);
    return rc == ERR_OK ? dht_records_put(&d->records, &record, in, &from->addr) : rc;
}

static uint8_t serve_store(struct dht *d, uint64_t now_ns, const struct dht_contact *from,
                           const struct dht_wire *m, bool proven)
{
    if (!proven) {
        d->counts.refused++;
        return DHT_STORED_TOKEN;
    }
    int rc = take_record(d, from, m->values[0]);
    if (rc != ERR_OK && rc != ERR_EXISTS) {
        d->counts.refused++;
        trace_emit(&d->config.trace, TRACE_RECORD_REFUSED, now_ns, &from->id, 0, 0, rc);
    }
    return status_of(rc);
}

/* Asks a stranger back: only who answers us enters the table.  A ping is shorter than any request. */
static void meet(struct dht *d, uint64_t now_ns, const struct dht_contact *from, const struct dht_wire *m)
{
    if (m->client || !dht_table_wants(&d->table, from) ||
        dht_queries_asking(&d->queries, &from->id, DHT_FOR_TABLE))
        return;
    if (dht_queries_for(&d->queries, DHT_FOR_TABLE) < DHT_NEWCOMER_PINGS && dht_send_slot(d) != NULL)
        (void)dht_ask(d, now_ns, DHT_PING, DHT_FOR_TABLE, 0, from);
}

/* True when contacts were left out for want of room. */
static bool fill_reply(struct dht *d, uint64_t now_ns, const struct dht_contact *from,
                       const struct dht_wire *m, bool proven, size_t limit, struct dht_wire *reply)
{
    size_t head = DHT_WIRE_HEAD + DHT_WIRE_CONTACTS_HEAD;
    size_t room = limit > head ? limit - head : 0;
    switch ((enum dht_kind)m->kind) {
    case DHT_FIND:
        return add_contacts(d, now_ns, from, &m->target, reply, room);
    case DHT_GET:
        room -= room > 2 ? 2 : room; /* head of the values */
        add_values(d, m, reply, room / 2);
        for (size_t i = 0; i < reply->value_count; i++)
            room -= reply->values[i].len + 3 < room ? reply->values[i].len + 3 : room;
        return add_contacts(d, now_ns, from, &m->target, reply, room);
    case DHT_STORE:
        reply->status = serve_store(d, now_ns, from, m, proven);
        return false;
    case DHT_PING:
    case DHT_PONG:
    case DHT_NODES:
    case DHT_VALUES:
    case DHT_STORED:
        break;
    }
    return false;
}

int dht_serve(struct dht *d, uint64_t now_ns, const struct dht_contact *from, const struct dht_wire *m,
              size_t request_len)
{
    if (d->config.client && m->kind != DHT_PING)
        return ERR_STATE;
    struct net_message *slot = dht_send_slot(d);
    if (slot == NULL) {
        d->counts.sends_dropped++;
        return ERR_FULL;
    }
    bool proven = m->has_token && dht_tokens_check(&d->tokens, from, m->token);
    size_t limit = NET_BODY_MAX;
    if (!proven && request_len * DHT_WIRE_AMPLIFY < limit)
        limit = request_len * DHT_WIRE_AMPLIFY;
    struct dht_wire reply;
    memset(&reply, 0, sizeof reply);
    reply.kind = (uint8_t)(m->kind + 1);
    reply.request = m->request;
    reply.client = d->config.client;
    reply.has_token = true;
    dht_tokens_make(&d->tokens, from, reply.token);
    bool short_of_room = fill_reply(d, now_ns, from, m, proven, limit, &reply);
    bool cut = false;
    size_t len = dht_wire_encode_reply(&reply, slot->body, limit, &cut);
    if (cut || (short_of_room && limit < NET_BODY_MAX))
        d->counts.cut++;
    if (len > 0)
        dht_send_commit(d, from, reply.kind, len);
    meet(d, now_ns, from, m);
    return ERR_OK;
}
