/* The replica's bookkeeping: hash chains, lists, heap, counts and digests.  No rule of merging is here. */
#include <sodium.h>
#include <string.h>

#include "base/hash.h"
#include "crdt/internal.h"

static uint64_t key_hash(const struct crdt_replica *r, const void *data, size_t len)
{
    uint8_t out[crypto_shorthash_BYTES];
    crypto_shorthash(out, data, len, r->hash_key);
    return load_le64(out);
}

static uint32_t *entry_bucket(const struct crdt_replica *r, const struct crdt_key *key)
{
    uint8_t bytes[CRDT_KEY_BYTES];
    crdt_key_encode(key, bytes);
    return &r->entry_buckets[key_hash(r, bytes, sizeof bytes) & r->bucket_mask];
}

static uint32_t *author_bucket(const struct crdt_replica *r, uint32_t run, const struct id *author)
{
    uint8_t bytes[4 + ID_BYTES];
    store_le32(bytes, run);
    memcpy(bytes + 4, author->bytes, ID_BYTES);
    return &r->author_buckets[key_hash(r, bytes, sizeof bytes) & r->bucket_mask];
}

int crdt_table_init(struct crdt_replica *r)
{
    const struct allocator *alloc = &r->config.alloc;
    size_t records = r->config.records_max;
    size_t buckets = 16;
    while (buckets < records)
        buckets *= 2;
    r->bucket_mask = buckets - 1;
    /* An author in the table has a record or a proof, so this many always suffice. */
    r->authors_max = records + CRDT_PROOFS_MAX;
    r->runs = allocator_get(alloc, r->config.runs_max, sizeof *r->runs);
    r->entries = allocator_get(alloc, records, sizeof *r->entries);
    r->authors = allocator_get(alloc, r->authors_max, sizeof *r->authors);
    r->entry_buckets = allocator_get(alloc, buckets, sizeof *r->entry_buckets);
    r->author_buckets = allocator_get(alloc, buckets, sizeof *r->author_buckets);
    r->heap = allocator_get(alloc, records, sizeof *r->heap);
    r->events = allocator_get(alloc, r->config.events_max, sizeof *r->events);
    r->event_ring = ring_init(r->config.events_max);
    if (r->runs == NULL || r->entries == NULL || r->authors == NULL || r->entry_buckets == NULL ||
        r->author_buckets == NULL || r->heap == NULL || r->events == NULL) {
        crdt_table_deinit(r);
        return ERR_NO_MEMORY;
    }
    memset(r->entry_buckets, 0xff, buckets * sizeof *r->entry_buckets);
    memset(r->author_buckets, 0xff, buckets * sizeof *r->author_buckets);
    for (uint32_t i = 0; i < records; i++)
        r->entries[i].run_next = i + 1 < records ? i + 1 : CRDT_NONE;
    for (uint32_t i = 0; i < r->authors_max; i++) {
        r->authors[i].run = CRDT_NONE;
        r->authors[i].chain = i + 1 < r->authors_max ? i + 1 : CRDT_NONE;
    }
    return ERR_OK;
}

void crdt_table_deinit(struct crdt_replica *r)
{
    const struct allocator *alloc = &r->config.alloc;
    for (size_t i = 0; r->entries != NULL && i < r->config.records_max; i++)
        allocator_release(alloc, r->entries[i].bytes);
    for (size_t i = 0; i < CRDT_PROOFS_MAX; i++)
        allocator_release(alloc, r->proofs[i].bytes);
    allocator_release(alloc, r->events);
    allocator_release(alloc, r->heap);
    allocator_release(alloc, r->author_buckets);
    allocator_release(alloc, r->entry_buckets);
    allocator_release(alloc, r->authors);
    allocator_release(alloc, r->entries);
    allocator_release(alloc, r->runs);
}

uint32_t crdt_table_find_run(const struct crdt_replica *r, const struct id *run)
{
    for (uint32_t i = 0; i < r->config.runs_max; i++) {
        if (r->runs[i].used && id_equal(&r->runs[i].id, run))
            return i;
    }
    return CRDT_NONE;
}

uint32_t crdt_table_find_author(const struct crdt_replica *r, uint32_t run, const struct id *author)
{
    uint32_t at = *author_bucket(r, run, author);
    while (at != CRDT_NONE && (r->authors[at].run != run || !id_equal(&r->authors[at].id, author)))
        at = r->authors[at].chain;
    return at;
}

uint32_t crdt_table_take_author(struct crdt_replica *r, uint32_t run, const struct id *author)
{
    uint32_t at = crdt_table_find_author(r, run, author);
    if (at != CRDT_NONE)
        return at;
    at = r->free_author;
    ASSERT(at != CRDT_NONE);
    uint32_t *bucket = author_bucket(r, run, author);
    r->free_author = r->authors[at].chain;
    r->authors[at] = (struct crdt_author){
        .id = *author, .run = run, .first = CRDT_NONE, .proof = CRDT_NONE, .chain = *bucket};
    *bucket = at;
    return at;
}

void crdt_table_settle_author(struct crdt_replica *r, uint32_t author)
{
    struct crdt_author *a = &r->authors[author];
    if (a->count > 0 || a->proof != CRDT_NONE)
        return;
    uint32_t *link = author_bucket(r, a->run, &a->id);
    while (*link != author)
        link = &r->authors[*link].chain;
    *link = a->chain;
    *a = (struct crdt_author){.run = CRDT_NONE, .chain = r->free_author};
    r->free_author = author;
}

uint32_t crdt_table_find_entry(const struct crdt_replica *r, const struct crdt_key *key)
{
    uint32_t at = *entry_bucket(r, key);
    while (at != CRDT_NONE && !crdt_key_equal(&r->entries[at].key, key))
        at = r->entries[at].chain;
    return at;
}

static void heap_set(struct crdt_replica *r, size_t at, uint32_t entry)
{
    r->heap[at] = entry;
    r->entries[entry].heap_at = (uint32_t)at;
}

/* Moves the entry at `at` to where it belongs, up or down. */
static void heap_settle(struct crdt_replica *r, size_t at)
{
    uint32_t entry = r->heap[at];
    uint64_t expires = r->entries[entry].expires_ms;
    while (at > 0 && r->entries[r->heap[(at - 1) / 2]].expires_ms > expires) {
        heap_set(r, at, r->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (size_t child = 2 * at + 1; child < r->heap_count; child = 2 * at + 1) {
        if (child + 1 < r->heap_count &&
            r->entries[r->heap[child + 1]].expires_ms < r->entries[r->heap[child]].expires_ms)
            child++;
        if (r->entries[r->heap[child]].expires_ms >= expires)
            break;
        heap_set(r, at, r->heap[child]);
        at = child;
    }
    heap_set(r, at, entry);
}

static void heap_remove(struct crdt_replica *r, size_t at)
{
    uint32_t last = r->heap[--r->heap_count];
    if (at == r->heap_count)
        return;
    heap_set(r, at, last);
    heap_settle(r, at);
}

/* Adds len bytes (or takes them away) wherever bytes are counted. */
static void count_bytes(struct crdt_replica *r, const struct crdt_slot_entry *e, bool add)
{
    struct crdt_run *run = &r->runs[e->run];
    struct crdt_author *author = &r->authors[e->author];
    if (add) {
        run->bytes += e->len;
        author->bytes += e->len;
        r->counts.bytes += e->len;
        crdt_lthash_add(&run->sum, &e->hash);
    } else {
        run->bytes -= e->len;
        author->bytes -= e->len;
        r->counts.bytes -= e->len;
        crdt_lthash_remove(&run->sum, &e->hash);
    }
}

static void link_lists(struct crdt_replica *r, uint32_t at)
{
    struct crdt_slot_entry *e = &r->entries[at];
    struct crdt_run *run = &r->runs[e->run];
    struct crdt_author *author = &r->authors[e->author];
    uint32_t *bucket = entry_bucket(r, &e->key);
    e->chain = *bucket;
    *bucket = at;
    e->run_prev = CRDT_NONE;
    e->run_next = run->first;
    if (run->first != CRDT_NONE)
        r->entries[run->first].run_prev = at;
    run->first = at;
    run->count++;
    e->author_prev = CRDT_NONE;
    e->author_next = author->first;
    if (author->first != CRDT_NONE)
        r->entries[author->first].author_prev = at;
    author->first = at;
    author->count++;
    r->counts.records++;
}

static void unlink_lists(struct crdt_replica *r, uint32_t at)
{
    struct crdt_slot_entry *e = &r->entries[at];
    uint32_t *link = entry_bucket(r, &e->key);
    while (*link != at)
        link = &r->entries[*link].chain;
    *link = e->chain;
    if (e->run_prev == CRDT_NONE)
        r->runs[e->run].first = e->run_next;
    else
        r->entries[e->run_prev].run_next = e->run_next;
    if (e->run_next != CRDT_NONE)
        r->entries[e->run_next].run_prev = e->run_prev;
    r->runs[e->run].count--;
    if (e->author_prev == CRDT_NONE)
        r->authors[e->author].first = e->author_next;
    else
        r->entries[e->author_prev].author_next = e->author_next;
    if (e->author_next != CRDT_NONE)
        r->entries[e->author_next].author_prev = e->author_prev;
    r->authors[e->author].count--;
    r->counts.records--;
}

static void fill(struct crdt_slot_entry *e, const struct crdt_record *record, const struct id *hash,
                 uint8_t *bytes, uint32_t len)
{
    e->seq = record->seq;
    e->expires_ms = record->expires_ms;
    e->hash = *hash;
    e->bytes = bytes;
    e->len = len;
}

uint32_t crdt_table_insert(struct crdt_replica *r, uint32_t run, const struct crdt_record *record,
                           const struct id *hash, uint8_t *bytes, uint32_t len)
{
    uint32_t at = r->free_entry;
    ASSERT(at != CRDT_NONE);
    struct crdt_slot_entry *e = &r->entries[at];
    r->free_entry = e->run_next;
    *e = (struct crdt_slot_entry){.key = record->key, .run = run};
    e->author = crdt_table_take_author(r, run, &record->key.author);
    fill(e, record, hash, bytes, len);
    link_lists(r, at);
    count_bytes(r, e, true);
    heap_set(r, r->heap_count++, at);
    heap_settle(r, e->heap_at);
    return at;
}

void crdt_table_replace(struct crdt_replica *r, uint32_t entry, const struct crdt_record *record,
                        const struct id *hash, uint8_t *bytes, uint32_t len)
{
    struct crdt_slot_entry *e = &r->entries[entry];
    count_bytes(r, e, false);
    allocator_release(&r->config.alloc, e->bytes);
    fill(e, record, hash, bytes, len);
    count_bytes(r, e, true);
    heap_settle(r, e->heap_at);
}

void crdt_table_remove(struct crdt_replica *r, uint32_t entry)
{
    struct crdt_slot_entry *e = &r->entries[entry];
    uint32_t author = e->author;
    count_bytes(r, e, false);
    heap_remove(r, e->heap_at);
    unlink_lists(r, entry);
    allocator_release(&r->config.alloc, e->bytes);
    *e = (struct crdt_slot_entry){.run_next = r->free_entry};
    r->free_entry = entry;
    crdt_table_settle_author(r, author);
}

void crdt_quarantine_element(const struct id *run, const struct id *author, struct id *out)
{
    struct bytes parts[2] = {bytes_of(run->bytes, ID_BYTES), bytes_of(author->bytes, ID_BYTES)};
    hash_parts("dunlin quarantine", parts, 2, out);
}

void crdt_table_convict(struct crdt_replica *r, uint32_t place, uint32_t author, uint8_t *bytes, size_t len)
{
    struct crdt_author *a = &r->authors[author];
    struct id element;
    ASSERT(r->proofs[place].bytes == NULL && a->proof == CRDT_NONE);
    crdt_quarantine_element(&r->runs[a->run].id, &a->id, &element);
    r->proofs[place] =
        (struct crdt_proof){.bytes = bytes, .len = len, .author = author, .order = ++r->proof_order};
    a->proof = place;
    r->runs[a->run].proofs++;
    crdt_lthash_add(&r->runs[a->run].sum, &element);
    r->counts.proofs++;
}

void crdt_table_acquit(struct crdt_replica *r, uint32_t place)
{
    struct crdt_proof *p = &r->proofs[place];
    struct crdt_author *a = &r->authors[p->author];
    struct id element;
    uint32_t author = p->author;
    crdt_quarantine_element(&r->runs[a->run].id, &a->id, &element);
    crdt_lthash_remove(&r->runs[a->run].sum, &element);
    r->runs[a->run].proofs--;
    a->proof = CRDT_NONE;
    allocator_release(&r->config.alloc, p->bytes);
    *p = (struct crdt_proof){0};
    r->counts.proofs--;
    crdt_table_settle_author(r, author);
}

struct crdt_item crdt_proof_item(const struct crdt_proof *proof)
{
    struct reader r = reader_of(bytes_of(proof->bytes, proof->len));
    struct crdt_item item;
    item.record = read_bytes(&r, read_u16(&r));
    item.other = read_bytes(&r, reader_left(&r));
    ASSERT(reader_done(&r));
    return item;
}
