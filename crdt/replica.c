/* The rules: what is accepted, what replaces what, who is quarantined, what expires. */
#include "crdt/replica.h"

#include <string.h>

#include "crdt/internal.h"

enum { AUTHOR_RECORDS_LIMIT = 256, PROOF_HEAD_BYTES = 2 };

struct crdt_replica_config crdt_replica_config_default(void)
{
    return (struct crdt_replica_config){
        .runs_max = 64,
        .records_max = 16384,
        .bytes_max = (size_t)16 << 20,
        .run_records_max = 8192,
        .run_bytes_max = (size_t)8 << 20,
        .author_records_max = 64,
        .author_bytes_max = (size_t)64 << 10,
        .events_max = 1024,
    };
}

static bool config_valid(const struct crdt_replica_config *c)
{
    return c->runs_max > 0 && c->runs_max <= CRDT_RUNS_LIMIT && c->records_max > 0 &&
           c->records_max <= CRDT_RECORDS_LIMIT && c->bytes_max > 0 && c->run_records_max > 0 &&
           c->run_bytes_max > 0 && c->author_records_max > 0 &&
           c->author_records_max <= AUTHOR_RECORDS_LIMIT && c->author_bytes_max > 0 &&
           c->events_max >= 2 * c->author_records_max && c->events_max >= 8;
}

int crdt_replica_create(const struct crdt_replica_config *config, struct crdt_replica **out)
{
    *out = NULL;
    if (!config_valid(config))
        return ERR_INVALID;
    struct crdt_replica *r = allocator_get(&config->alloc, 1, sizeof *r);
    if (r == NULL)
        return ERR_NO_MEMORY;
    r->config = *config;
    rng_fill(&config->rng, r->hash_key, sizeof r->hash_key);
    int rc = crdt_table_init(r);
    if (rc < 0) {
        allocator_release(&config->alloc, r);
        return rc;
    }
    *out = r;
    return ERR_OK;
}

void crdt_replica_destroy(struct crdt_replica *replica)
{
    if (replica == NULL)
        return;
    struct allocator alloc = replica->config.alloc;
    crdt_table_deinit(replica);
    allocator_release(&alloc, replica);
}

int crdt_replica_add_run(struct crdt_replica *replica, const struct id *run)
{
    if (crdt_table_find_run(replica, run) != CRDT_NONE)
        return ERR_EXISTS;
    for (size_t i = 0; i < replica->config.runs_max; i++) {
        struct crdt_run *slot = &replica->runs[i];
        if (slot->used)
            continue;
        memset(slot, 0, sizeof *slot);
        slot->id = *run;
        slot->used = true;
        slot->first = CRDT_NONE;
        replica->counts.runs++;
        return ERR_OK;
    }
    return ERR_FULL;
}

int crdt_replica_remove_run(struct crdt_replica *replica, const struct id *run)
{
    uint32_t at = crdt_table_find_run(replica, run);
    if (at == CRDT_NONE)
        return ERR_NOT_FOUND;
    while (replica->runs[at].first != CRDT_NONE)
        crdt_table_remove(replica, replica->runs[at].first);
    for (uint32_t i = 0; i < CRDT_PROOFS_MAX; i++) {
        if (replica->proofs[i].bytes != NULL && replica->authors[replica->proofs[i].author].run == at)
            crdt_table_acquit(replica, i);
    }
    replica->runs[at].used = false;
    replica->counts.runs--;
    return ERR_OK;
}

static size_t events_left(const struct crdt_replica *r)
{
    return r->event_ring.cap - r->event_ring.count;
}

/* The most events one call can cause: a quarantine drops all of an author, forgets a proof and tells of one.
 */
static bool events_have_room(const struct crdt_replica *r)
{
    return events_left(r) >= r->config.author_records_max + 2;
}

static void push_event(struct crdt_replica *r, enum crdt_event_kind kind, uint64_t origin,
                       const struct crdt_key *key)
{
    size_t at = ring_push(&r->event_ring);
    ASSERT(at != RING_NONE);
    r->events[at] = (struct crdt_queued_event){.kind = kind, .origin = origin, .key = *key};
}

/* Several versions that come before the caller drains make one event, of the last. */
static void announce(struct crdt_replica *r, uint32_t entry, uint64_t origin)
{
    struct crdt_slot_entry *e = &r->entries[entry];
    e->origin = origin;
    if (e->event_queued)
        return;
    e->event_queued = true;
    push_event(r, CRDT_RECORD_ACCEPTED, origin, &e->key);
}

/* Room for a record of len bytes that replaces `held` (NONE: is new). */
static int check_quota(const struct crdt_replica *r, uint32_t run, const struct id *author, uint32_t held,
                       size_t len, bool own)
{
    const struct crdt_replica_config *c = &r->config;
    const struct crdt_run *in = &r->runs[run];
    uint32_t writer = crdt_table_find_author(r, run, author);
    size_t more = held == CRDT_NONE;
    size_t gone = held == CRDT_NONE ? 0 : r->entries[held].len;
    if (writer != CRDT_NONE && (r->authors[writer].count + more > c->author_records_max ||
                                r->authors[writer].bytes - gone + len > c->author_bytes_max))
        return ERR_QUOTA;
    if (writer == CRDT_NONE && len > c->author_bytes_max)
        return ERR_QUOTA;
    if (r->counts.records + more > c->records_max || r->counts.bytes - gone + len > c->bytes_max)
        return ERR_FULL;
    if (own || more == 0)
        return ERR_OK;
    size_t reserve = c->records_max / 4 < CRDT_OWN_RESERVE ? c->records_max / 4 : CRDT_OWN_RESERVE;
    if (in->count + more > c->run_records_max || in->bytes + len > c->run_bytes_max ||
        r->counts.records + more > c->records_max - reserve)
        return ERR_FULL;
    return ERR_OK;
}

/* Copies the encoding into the tables, over `held` or as a new entry; *at is its entry. */
static int keep(struct crdt_replica *r, uint32_t run, uint32_t held, const struct crdt_record *record,
                const struct id *hash, struct bytes encoded, uint32_t *at)
{
    uint8_t *copy = allocator_get(&r->config.alloc, 1, encoded.len);
    if (copy == NULL)
        return ERR_NO_MEMORY;
    memcpy(copy, encoded.data, encoded.len);
    *at = held;
    if (held == CRDT_NONE)
        *at = crdt_table_insert(r, run, record, hash, copy, (uint32_t)encoded.len);
    else
        crdt_table_replace(r, held, record, hash, copy, (uint32_t)encoded.len);
    return ERR_OK;
}

static struct crdt_key author_key(const struct crdt_replica *r, uint32_t author)
{
    return (struct crdt_key){.run = r->runs[r->authors[author].run].id, .author = r->authors[author].id};
}

/* A free place for a proof, made by forgetting the oldest where needed. */
static uint32_t proof_place(struct crdt_replica *r, bool events)
{
    uint32_t oldest = 0;
    for (uint32_t i = 0; i < CRDT_PROOFS_MAX; i++) {
        if (r->proofs[i].bytes == NULL)
            return i;
        if (r->proofs[i].order < r->proofs[oldest].order)
            oldest = i;
    }
    struct crdt_key key = author_key(r, r->proofs[oldest].author);
    if (events)
        push_event(r, CRDT_PROOF_DROPPED, CRDT_ORIGIN_SELF, &key);
    crdt_table_acquit(r, oldest);
    return oldest;
}

/* Keeps the pair as proof and drops everything else of its author in this run.  The pair is stored in the
 * order of hashes, so that replicas that met the two in different orders store the same bytes. */
static int quarantine(struct crdt_replica *r, uint32_t run, const struct crdt_key *key, struct bytes a,
                      struct bytes b, uint64_t origin, bool events)
{
    struct id hash_a;
    struct id hash_b;
    crdt_record_hash(a, &hash_a);
    crdt_record_hash(b, &hash_b);
    if (id_compare(&hash_a, &hash_b) > 0) {
        struct bytes swap = a;
        a = b;
        b = swap;
    }
    size_t len = PROOF_HEAD_BYTES + a.len + b.len;
    uint8_t *bytes = allocator_get(&r->config.alloc, 1, len);
    if (bytes == NULL)
        return ERR_NO_MEMORY;
    struct writer w = writer_of(bytes, len);
    write_u16(&w, (uint16_t)a.len);
    write_bytes(&w, a.data, a.len);
    write_bytes(&w, b.data, b.len);
    uint32_t place = proof_place(r, events);
    uint32_t author = crdt_table_take_author(r, run, &key->author);
    crdt_table_convict(r, place, author, bytes, len);
    while (r->authors[author].first != CRDT_NONE) {
        uint32_t entry = r->authors[author].first;
        if (events)
            push_event(r, CRDT_RECORD_DROPPED, CRDT_ORIGIN_SELF, &r->entries[entry].key);
        crdt_table_remove(r, entry);
    }
    struct crdt_key whole = author_key(r, author);
    if (events)
        push_event(r, CRDT_EQUIVOCATION, origin, &whole);
    return ERR_OK;
}

static bool is_quarantined(const struct crdt_replica *r, uint32_t run, const struct id *author)
{
    uint32_t at = crdt_table_find_author(r, run, author);
    return at != CRDT_NONE && r->authors[at].proof != CRDT_NONE;
}

/* Everything that is cheaper than a signature.  *run and *held are filled in; 0: go on to the signature. */
static int check_cheap(const struct crdt_replica *r, uint64_t wall_ms, const struct crdt_record *record,
                       const struct id *hash, size_t len, uint32_t *run, uint32_t *held)
{
    *run = crdt_table_find_run(r, &record->key.run);
    if (*run == CRDT_NONE)
        return ERR_NOT_FOUND;
    int rc = crdt_record_check_time(record, wall_ms);
    if (rc < 0)
        return rc;
    if (is_quarantined(r, *run, &record->key.author))
        return ERR_REFUSED;
    if (r->config.admits != NULL &&
        !r->config.admits(r->config.admits_user, &record->key.run, &record->key.author))
        return ERR_REFUSED;
    *held = crdt_table_find_entry(r, &record->key);
    if (*held != CRDT_NONE) {
        const struct crdt_slot_entry *e = &r->entries[*held];
        if (record->seq < e->seq || (record->seq == e->seq && id_equal(hash, &e->hash)))
            return ERR_STALE;
        if (record->seq == e->seq)
            return ERR_OK; /* equivocation, if the signature holds: a proof needs no quota */
    }
    bool own = id_equal(&record->key.author, &r->config.keys.self);
    return check_quota(r, *run, &record->key.author, *held, len, own);
}

static int apply(struct crdt_replica *r, uint64_t wall_ms, uint64_t origin, struct bytes encoded, bool stored)
{
    struct crdt_record record;
    struct id hash;
    uint32_t run;
    uint32_t held = CRDT_NONE;
    uint32_t at;
    int rc = crdt_record_decode(encoded, &record);
    if (rc < 0)
        return rc;
    crdt_record_hash(encoded, &hash);
    rc = check_cheap(r, wall_ms, &record, &hash, encoded.len, &run, &held);
    if (rc == 0 && !stored)
        rc = crdt_record_verify(encoded, &r->config.keys);
    if (rc < 0)
        return rc;
    if (held != CRDT_NONE && r->entries[held].seq == record.seq) {
        struct bytes other = bytes_of(r->entries[held].bytes, r->entries[held].len);
        rc = quarantine(r, run, &record.key, other, encoded, origin, !stored);
        return rc < 0 ? rc : ERR_EQUIVOCATION;
    }
    rc = keep(r, run, held, &record, &hash, encoded, &at);
    if (rc == 0 && !stored)
        announce(r, at, origin);
    return rc;
}

int crdt_replica_apply(struct crdt_replica *replica, uint64_t wall_ms, uint64_t origin, struct bytes encoded)
{
    if (!events_have_room(replica))
        return ERR_AGAIN;
    int rc = apply(replica, wall_ms, origin, encoded, false);
    replica->counts.accepted += rc == 0;
    replica->counts.stale += rc == ERR_STALE;
    replica->counts.refused += rc < 0 && rc != ERR_STALE;
    return rc;
}

/* Whether the two are what a proof must be, signatures apart. */
static int check_pair(struct bytes a, struct bytes b, struct crdt_record *first)
{
    struct crdt_record second;
    struct id hash_a;
    struct id hash_b;
    int rc = crdt_record_decode(a, first);
    if (rc == 0)
        rc = crdt_record_decode(b, &second);
    if (rc < 0)
        return rc;
    crdt_record_hash(a, &hash_a);
    crdt_record_hash(b, &hash_b);
    if (!crdt_key_equal(&first->key, &second.key) || first->seq != second.seq || id_equal(&hash_a, &hash_b))
        return ERR_MALFORMED;
    return ERR_OK;
}

static int apply_proof(struct crdt_replica *r, uint64_t origin, struct bytes a, struct bytes b, bool stored)
{
    struct crdt_record first;
    int rc = check_pair(a, b, &first);
    if (rc < 0)
        return rc;
    uint32_t run = crdt_table_find_run(r, &first.key.run);
    if (run == CRDT_NONE)
        return ERR_NOT_FOUND;
    if (is_quarantined(r, run, &first.key.author))
        return ERR_STALE;
    if (r->config.admits != NULL &&
        !r->config.admits(r->config.admits_user, &first.key.run, &first.key.author))
        return ERR_REFUSED;
    if (!stored)
        rc = crdt_record_verify(a, &r->config.keys);
    if (rc == 0 && !stored)
        rc = crdt_record_verify(b, &r->config.keys);
    return rc < 0 ? rc : quarantine(r, run, &first.key, a, b, origin, !stored);
}

int crdt_replica_apply_proof(struct crdt_replica *replica, uint64_t origin, struct bytes a, struct bytes b)
{
    return events_have_room(replica) ? apply_proof(replica, origin, a, b, false) : ERR_AGAIN;
}

int crdt_replica_load(struct crdt_replica *replica, uint64_t wall_ms, struct bytes store_key,
                      struct bytes value)
{
    struct crdt_record record;
    uint8_t key[CRDT_KEY_BYTES];
    if (store_key.len == CRDT_STORE_KEY_BYTES && store_key.data[0] == CRDT_STORE_RECORD) {
        int rc = crdt_record_decode(value, &record);
        if (rc < 0)
            return rc;
        crdt_key_encode(&record.key, key);
        if (memcmp(key, store_key.data + 1, sizeof key) != 0)
            return ERR_MALFORMED;
        return apply(replica, wall_ms, CRDT_ORIGIN_SELF, value, true);
    }
    if (store_key.len != 1 + 2 * ID_BYTES || store_key.data[0] != CRDT_STORE_PROOF ||
        value.len < PROOF_HEAD_BYTES)
        return ERR_MALFORMED;
    struct reader r = reader_of(value);
    struct bytes a = read_bytes(&r, read_u16(&r));
    struct bytes b = read_bytes(&r, reader_left(&r));
    if (!reader_done(&r))
        return ERR_MALFORMED;
    return apply_proof(replica, CRDT_ORIGIN_SELF, a, b, true);
}

/* Next number and times of our register; see the header for why seq follows the clock. */
static void next_version(const struct crdt_replica *r, uint32_t held, uint64_t wall_ms, uint64_t life_ms,
                         struct crdt_record *record)
{
    record->seq = wall_ms > 0 ? wall_ms : 1;
    record->issued_ms = wall_ms;
    record->expires_ms = wall_ms + life_ms;
    if (held == CRDT_NONE)
        return;
    const struct crdt_slot_entry *e = &r->entries[held];
    if (record->seq <= e->seq)
        record->seq = e->seq + 1;
    if (record->expires_ms < e->expires_ms)
        record->expires_ms = e->expires_ms;
    if (record->expires_ms - wall_ms > CRDT_LIFE_MAX_MS) /* our clock was set back */
        record->expires_ms = wall_ms + CRDT_LIFE_MAX_MS;
}

int crdt_replica_put(struct crdt_replica *replica, uint64_t wall_ms, const struct id *run, uint16_t slot,
                     uint16_t schema, struct bytes value, uint64_t life_ms)
{
    uint8_t encoded[CRDT_RECORD_MAX];
    struct id hash;
    uint32_t at;
    if (life_ms == 0 || life_ms > CRDT_LIFE_MAX_MS || wall_ms > UINT64_MAX / 2)
        return ERR_INVALID;
    if (!events_have_room(replica))
        return ERR_AGAIN;
    uint32_t run_at = crdt_table_find_run(replica, run);
    if (run_at == CRDT_NONE)
        return ERR_NOT_FOUND;
    struct crdt_record record = {.key = {.run = *run, .author = replica->config.keys.self, .slot = slot},
                                 .schema = schema,
                                 .value = value};
    if (is_quarantined(replica, run_at, &record.key.author))
        return ERR_STATE;
    uint32_t held = crdt_table_find_entry(replica, &record.key);
    int rc = check_quota(replica, run_at, &record.key.author, held, CRDT_RECORD_MIN + value.len, true);
    if (rc < 0)
        return rc;
    next_version(replica, held, wall_ms, life_ms, &record);
    int len = crdt_record_sign(&record, &replica->config.keys, encoded, sizeof encoded);
    if (len < 0)
        return len;
    struct bytes whole = bytes_of(encoded, (size_t)len);
    crdt_record_hash(whole, &hash);
    rc = keep(replica, run_at, held, &record, &hash, whole, &at);
    if (rc == 0)
        announce(replica, at, CRDT_ORIGIN_SELF);
    return rc;
}

void crdt_replica_tick(struct crdt_replica *replica, uint64_t wall_ms)
{
    while (replica->heap_count > 0 && events_left(replica) > 0) {
        uint32_t entry = replica->heap[0];
        if (replica->entries[entry].expires_ms > wall_ms)
            return;
        push_event(replica, CRDT_RECORD_DROPPED, CRDT_ORIGIN_SELF, &replica->entries[entry].key);
        crdt_table_remove(replica, entry);
    }
}

uint64_t crdt_replica_deadline_ms(const struct crdt_replica *replica)
{
    return replica->heap_count == 0 ? UINT64_MAX : replica->entries[replica->heap[0]].expires_ms;
}

/* Fills in what the event refers to; false when it is there no more. */
static bool resolve(struct crdt_replica *r, const struct crdt_queued_event *queued, struct crdt_event *out)
{
    bool of_proof = queued->kind == CRDT_EQUIVOCATION || queued->kind == CRDT_PROOF_DROPPED;
    *out = (struct crdt_event){.kind = queued->kind, .origin = queued->origin, .key = queued->key};
    out->store_key[0] = of_proof ? CRDT_STORE_PROOF : CRDT_STORE_RECORD;
    crdt_key_encode(&queued->key, out->store_key + 1);
    out->store_key_len = of_proof ? 1 + 2 * ID_BYTES : CRDT_STORE_KEY_BYTES;
    if (queued->kind == CRDT_RECORD_ACCEPTED) {
        uint32_t at = crdt_table_find_entry(r, &queued->key);
        if (at == CRDT_NONE)
            return false;
        r->entries[at].event_queued = false;
        out->origin = r->entries[at].origin;
        out->record = bytes_of(r->entries[at].bytes, r->entries[at].len);
    } else if (queued->kind == CRDT_EQUIVOCATION) {
        uint32_t run = crdt_table_find_run(r, &queued->key.run);
        uint32_t author = run == CRDT_NONE ? CRDT_NONE : crdt_table_find_author(r, run, &queued->key.author);
        if (author == CRDT_NONE || r->authors[author].proof == CRDT_NONE)
            return false;
        const struct crdt_proof *p = &r->proofs[r->authors[author].proof];
        struct crdt_item item = crdt_proof_item(p);
        out->record = item.record;
        out->other = item.other;
        out->proof = bytes_of(p->bytes, p->len);
    }
    return true;
}

bool crdt_replica_poll_event(struct crdt_replica *replica, struct crdt_event *out)
{
    size_t at;
    while ((at = ring_pop(&replica->event_ring)) != RING_NONE) {
        struct crdt_queued_event queued = replica->events[at];
        if (resolve(replica, &queued, out))
            return true;
    }
    return false;
}
