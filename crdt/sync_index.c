#include "crdt/sync_index.h"

#include <sodium.h>
#include <string.h>

/* First byte of what is hashed: tags and fingerprints share the session's key. */
enum { DOMAIN_TAG = 1, DOMAIN_VERSION = 2, DOMAIN_PROOF = 3 };

static uint64_t tag_of(const uint8_t key[CRDT_SYNC_KEY_BYTES], const struct crdt_key *reg)
{
    uint8_t in[1 + CRDT_KEY_BYTES] = {DOMAIN_TAG};
    uint8_t out[crypto_shorthash_siphashx24_BYTES];
    crdt_key_encode(reg, in + 1);
    crypto_shorthash_siphashx24(out, in, sizeof in, key);
    return load_le64(out);
}

/* A convicted author has one tag and one version, whichever pair convicts it. */
static uint64_t proof_tag_of(const uint8_t key[CRDT_SYNC_KEY_BYTES], const struct id *element)
{
    uint8_t in[1 + ID_BYTES] = {DOMAIN_PROOF};
    uint8_t out[crypto_shorthash_siphashx24_BYTES];
    memcpy(in + 1, element->bytes, ID_BYTES);
    crypto_shorthash_siphashx24(out, in, sizeof in, key);
    return load_le64(out);
}

static uint64_t version_of(const uint8_t key[CRDT_SYNC_KEY_BYTES], const struct id *hash, uint32_t *more)
{
    uint8_t in[1 + ID_BYTES] = {DOMAIN_VERSION};
    uint8_t out[crypto_shorthash_siphashx24_BYTES];
    memcpy(in + 1, hash->bytes, ID_BYTES);
    crypto_shorthash_siphashx24(out, in, sizeof in, key);
    *more = load_le32(out + 8);
    return load_le64(out);
}

/* Sorts from -> to: tags are uniform under a random key, so one pass into buckets by their first bits leaves
 * an array that insertion finishes in about one step an item.  A peer that chooses the key can hardly skew
 * that: it would have to search keys for it. */
static void sort_by_tag(const struct crdt_index_item *from, struct crdt_index_item *to, size_t count,
                        uint32_t *buckets, unsigned bits)
{
    for (size_t i = 0; i < count; i++)
        buckets[from[i].tag >> (64 - bits)]++;
    uint32_t start = 0;
    for (size_t b = 0; b < (size_t)1 << bits; b++) {
        uint32_t size = buckets[b];
        buckets[b] = start;
        start += size;
    }
    for (size_t i = 0; i < count; i++)
        to[buckets[from[i].tag >> (64 - bits)]++] = from[i];
    for (size_t i = 1; i < count; i++) {
        struct crdt_index_item moved = to[i];
        size_t at = i;
        for (; at > 0 && to[at - 1].tag > moved.tag; at--)
            to[at] = to[at - 1];
        to[at] = moved;
    }
}

static size_t add_records(struct crdt_index *out, const struct crdt_replica *replica, uint32_t run)
{
    size_t at = 0;
    for (uint32_t e = replica->runs[run].first; e != CRDT_NONE; e = replica->entries[e].run_next) {
        const struct crdt_slot_entry *entry = &replica->entries[e];
        struct crdt_index_item *item = &out->items[at++];
        item->tag = tag_of(out->key, &entry->key);
        item->before = version_of(out->key, &entry->hash, &item->version);
        item->seq = (uint32_t)entry->seq;
        item->place = e;
    }
    return at;
}

static size_t add_proofs(struct crdt_index *out, size_t at, const struct crdt_replica *replica, uint32_t run)
{
    for (uint32_t i = 0; i < CRDT_PROOFS_MAX; i++) {
        const struct crdt_proof *proof = &replica->proofs[i];
        struct id element;
        if (proof->bytes == NULL || replica->authors[proof->author].run != run)
            continue;
        crdt_quarantine_element(&replica->runs[run].id, &replica->authors[proof->author].id, &element);
        struct crdt_index_item *item = &out->items[at++];
        item->tag = proof_tag_of(out->key, &element);
        item->before = version_of(out->key, &element, &item->version);
        item->place = CRDT_PLACE_PROOF + i;
    }
    return at;
}

int crdt_index_init(struct crdt_index *out, const struct crdt_replica *replica, uint32_t run,
                    const uint8_t key[CRDT_SYNC_KEY_BYTES], const struct allocator *alloc)
{
    size_t count = replica->runs[run].count + replica->runs[run].proofs;
    unsigned bits = 1;
    while ((size_t)1 << bits < count)
        bits++;
    struct crdt_index_item *sorted = allocator_get(alloc, count + 1, sizeof *sorted);
    struct crdt_index_item *unsorted = allocator_get(alloc, count + 1, sizeof *unsorted);
    uint32_t *buckets = allocator_get(alloc, (size_t)1 << bits, sizeof *buckets);
    int rc = sorted == NULL || unsorted == NULL || buckets == NULL ? ERR_NO_MEMORY : ERR_OK;
    *out = (struct crdt_index){.items = unsorted, .count = count};
    memcpy(out->key, key, CRDT_SYNC_KEY_BYTES);
    if (rc == 0) {
        size_t at = add_proofs(out, add_records(out, replica, run), replica, run);
        ASSERT(at == count);
        sort_by_tag(unsorted, sorted, count, buckets, bits);
        uint64_t sum = 0;
        for (size_t i = 0; i <= count; i++) {
            uint64_t own = sorted[i].before;
            sorted[i].before = sum;
            sum ^= own;
        }
    } else {
        allocator_release(alloc, sorted);
        sorted = NULL;
    }
    out->items = sorted;
    allocator_release(alloc, buckets);
    allocator_release(alloc, unsorted);
    return rc;
}

void crdt_index_deinit(struct crdt_index *index, const struct allocator *alloc)
{
    allocator_release(alloc, index->items);
    index->items = NULL;
}

/* First item whose tag is at least `tag`. */
static size_t lower_bound(const struct crdt_index *index, uint64_t tag)
{
    size_t low = 0;
    size_t high = index->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (index->items[middle].tag < tag)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

void crdt_index_span(const struct crdt_index *index, struct crdt_range range, size_t *first, size_t *end)
{
    ASSERT(range.depth <= CRDT_DEPTH_MAX);
    *first = lower_bound(index, range.prefix);
    uint64_t next = range.depth == 0 ? 0 : range.prefix + (UINT64_C(1) << (64 - range.depth));
    *end = next == 0 ? index->count : lower_bound(index, next);
}

uint64_t crdt_index_fingerprint(const struct crdt_index *index, struct crdt_range range)
{
    size_t first;
    size_t end;
    crdt_index_span(index, range, &first, &end);
    return index->items[first].before ^ index->items[end].before;
}

struct crdt_range crdt_range_child(struct crdt_range range, unsigned bits, uint64_t child)
{
    ASSERT(bits > 0 && range.depth + bits <= CRDT_DEPTH_MAX && child < UINT64_C(1) << bits);
    unsigned depth = range.depth + bits;
    return (struct crdt_range){range.prefix | child << (64 - depth), depth};
}

struct crdt_item crdt_index_get(const struct crdt_index *index, size_t item,
                                const struct crdt_replica *replica, const struct id *run)
{
    const struct crdt_index_item *i = &index->items[item];
    struct crdt_item none = {bytes_of(NULL, 0), bytes_of(NULL, 0)};
    /* The place may hold something else by now, even of a run that this peer must not see. */
    if (i->place >= CRDT_PLACE_PROOF) {
        const struct crdt_proof *proof = &replica->proofs[i->place - CRDT_PLACE_PROOF];
        struct id element;
        if (proof->bytes == NULL)
            return none;
        crdt_quarantine_element(run, &replica->authors[proof->author].id, &element);
        uint32_t in = replica->authors[proof->author].run;
        return id_equal(&replica->runs[in].id, run) && proof_tag_of(index->key, &element) == i->tag
                   ? crdt_proof_item(proof)
                   : none;
    }
    const struct crdt_slot_entry *entry = &replica->entries[i->place];
    if (entry->bytes == NULL || !id_equal(&entry->key.run, run) || tag_of(index->key, &entry->key) != i->tag)
        return none;
    return (struct crdt_item){bytes_of(entry->bytes, entry->len), bytes_of(NULL, 0)};
}
