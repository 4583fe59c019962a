/* Reading a replica, and its invariants; declared in crdt/replica.h. */
#include <string.h>

#include "crdt/internal.h"

static void view_of(const struct crdt_slot_entry *e, struct crdt_view *out)
{
    out->encoded = bytes_of(e->bytes, e->len);
    out->hash = e->hash;
    int rc = crdt_record_decode(out->encoded, &out->record);
    ASSERT(rc == ERR_OK); /* it was decoded before it was kept */
}

bool crdt_replica_get(const struct crdt_replica *replica, const struct crdt_key *key, struct crdt_view *out)
{
    uint32_t at = crdt_table_find_entry(replica, key);
    if (at == CRDT_NONE)
        return false;
    view_of(&replica->entries[at], out);
    return true;
}

bool crdt_replica_next(const struct crdt_replica *replica, const struct id *run, uint32_t slot,
                       uint32_t *cursor, struct crdt_view *out)
{
    uint32_t at;
    if (*cursor == 0) {
        uint32_t in = crdt_table_find_run(replica, run);
        at = in == CRDT_NONE ? CRDT_NONE : replica->runs[in].first;
    } else {
        ASSERT(*cursor <= replica->config.records_max);
        at = replica->entries[*cursor - 1].run_next;
    }
    while (at != CRDT_NONE && slot != CRDT_SLOT_ANY && replica->entries[at].key.slot != slot)
        at = replica->entries[at].run_next;
    if (at == CRDT_NONE)
        return false;
    *cursor = at + 1;
    view_of(&replica->entries[at], out);
    return true;
}

bool crdt_replica_proof(const struct crdt_replica *replica, const struct id *run, const struct id *author,
                        struct crdt_item *out)
{
    uint32_t in = crdt_table_find_run(replica, run);
    uint32_t at = in == CRDT_NONE ? CRDT_NONE : crdt_table_find_author(replica, in, author);
    if (at == CRDT_NONE || replica->authors[at].proof == CRDT_NONE)
        return false;
    *out = crdt_proof_item(&replica->proofs[replica->authors[at].proof]);
    return true;
}

int crdt_replica_digest(const struct crdt_replica *replica, const struct id *run, struct id *digest,
                        size_t *count)
{
    uint32_t at = crdt_table_find_run(replica, run);
    if (at == CRDT_NONE)
        return ERR_NOT_FOUND;
    *count = replica->runs[at].count + replica->runs[at].proofs;
    crdt_lthash_digest(&replica->runs[at].sum, *count, digest);
    return ERR_OK;
}

struct crdt_counts crdt_replica_counts(const struct crdt_replica *replica)
{
    return replica->counts;
}

static void check_entry(const struct crdt_replica *r, uint32_t at)
{
    const struct crdt_slot_entry *e = &r->entries[at];
    struct crdt_record record;
    struct id hash;
    int rc = crdt_record_decode(bytes_of(e->bytes, e->len), &record);
    ASSERT(rc == ERR_OK);
    crdt_record_hash(bytes_of(e->bytes, e->len), &hash);
    ASSERT(id_equal(&hash, &e->hash));
    ASSERT(crdt_key_equal(&record.key, &e->key));
    ASSERT(record.seq == e->seq && record.expires_ms == e->expires_ms);
    ASSERT(r->runs[e->run].used && id_equal(&r->runs[e->run].id, &e->key.run));
    ASSERT(id_equal(&r->authors[e->author].id, &e->key.author));
    ASSERT(r->authors[e->author].proof == CRDT_NONE);
    ASSERT(r->heap[e->heap_at] == at);
    ASSERT(e->heap_at == 0 || r->entries[r->heap[(e->heap_at - 1) / 2]].expires_ms <= e->expires_ms);
    ASSERT(crdt_table_find_entry(r, &e->key) == at);
}

static void check_run(const struct crdt_replica *r, uint32_t run)
{
    struct crdt_lthash sum = {{0}};
    size_t count = 0;
    size_t bytes = 0;
    for (uint32_t at = r->runs[run].first; at != CRDT_NONE; at = r->entries[at].run_next) {
        check_entry(r, at);
        crdt_lthash_add(&sum, &r->entries[at].hash);
        count++;
        bytes += r->entries[at].len;
    }
    ASSERT(count == r->runs[run].count && bytes == r->runs[run].bytes);
    size_t proofs = 0;
    for (size_t i = 0; i < CRDT_PROOFS_MAX; i++) {
        struct id element;
        if (r->proofs[i].bytes == NULL || r->authors[r->proofs[i].author].run != run)
            continue;
        crdt_quarantine_element(&r->runs[run].id, &r->authors[r->proofs[i].author].id, &element);
        crdt_lthash_add(&sum, &element);
        proofs++;
    }
    ASSERT(proofs == r->runs[run].proofs);
    ASSERT(memcmp(&sum, &r->runs[run].sum, sizeof sum) == 0);
}

void crdt_replica_check_invariants(const struct crdt_replica *replica)
{
    const struct crdt_replica *r = replica;
    size_t records = 0;
    size_t bytes = 0;
    size_t proofs = 0;
    for (uint32_t i = 0; i < r->config.runs_max; i++) {
        if (!r->runs[i].used)
            continue;
        check_run(r, i);
        records += r->runs[i].count;
        bytes += r->runs[i].bytes;
        proofs += r->runs[i].proofs;
    }
    ASSERT(records == r->counts.records && bytes == r->counts.bytes && proofs == r->counts.proofs);
    ASSERT(records == r->heap_count && records <= r->config.records_max && bytes <= r->config.bytes_max);
    ring_check_invariants(&r->event_ring);
    for (uint32_t i = 0; i < r->authors_max; i++) {
        const struct crdt_author *a = &r->authors[i];
        if (a->run == CRDT_NONE)
            continue;
        size_t count = 0;
        size_t of_author = 0;
        for (uint32_t at = a->first; at != CRDT_NONE; at = r->entries[at].author_next) {
            count++;
            of_author += r->entries[at].len;
        }
        ASSERT(count == a->count && of_author == a->bytes && count <= r->config.author_records_max);
        ASSERT(count > 0 || a->proof != CRDT_NONE);
        ASSERT(of_author <= r->config.author_bytes_max);
        ASSERT(a->proof == CRDT_NONE || r->proofs[a->proof].author == i);
    }
}

void crdt_store_prefix(uint8_t kind, const struct id *run, uint8_t out[CRDT_STORE_PREFIX_BYTES])
{
    out[0] = kind;
    memcpy(out + 1, run->bytes, ID_BYTES);
}

void crdt_store_chain_key(const struct id *run, uint32_t index, uint8_t out[CRDT_STORE_PREFIX_BYTES + 4])
{
    crdt_store_prefix(CRDT_STORE_CHAIN, run, out);
    struct writer w = writer_of(out + CRDT_STORE_PREFIX_BYTES, 4);
    write_u32(&w, index);
}
