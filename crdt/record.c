#include "crdt/record.h"

#include <string.h>

#include "base/hash.h"

enum { FORMAT = 1 };

bool crdt_key_equal(const struct crdt_key *a, const struct crdt_key *b)
{
    return a->slot == b->slot && id_equal(&a->author, &b->author) && id_equal(&a->run, &b->run);
}

void crdt_key_encode(const struct crdt_key *key, uint8_t out[CRDT_KEY_BYTES])
{
    struct writer w = writer_of(out, CRDT_KEY_BYTES);
    write_bytes(&w, key->run.bytes, ID_BYTES);
    write_bytes(&w, key->author.bytes, ID_BYTES);
    write_u16(&w, key->slot);
    ASSERT(writer_len(&w) == CRDT_KEY_BYTES);
}

/* What must hold between the numbers of a record, whoever made it. */
static bool numbers_valid(const struct crdt_record *r)
{
    return r->seq > 0 && r->issued_ms < r->expires_ms && r->expires_ms - r->issued_ms <= CRDT_LIFE_MAX_MS;
}

int crdt_record_sign(struct crdt_record *record, const struct crdt_keys *keys, uint8_t *out, size_t out_cap)
{
    ASSERT(id_equal(&record->key.author, &keys->self));
    if (record->value.len > CRDT_VALUE_MAX || out_cap < CRDT_RECORD_MIN + record->value.len)
        return ERR_TOO_LARGE;
    if (!numbers_valid(record))
        return ERR_INVALID;
    uint8_t key[CRDT_KEY_BYTES];
    crdt_key_encode(&record->key, key);
    struct writer w = writer_of(out, out_cap);
    write_u8(&w, FORMAT);
    write_bytes(&w, key, sizeof key);
    write_u16(&w, record->schema);
    write_u64(&w, record->seq);
    write_u64(&w, record->issued_ms);
    write_u64(&w, record->expires_ms);
    write_u16(&w, (uint16_t)record->value.len);
    write_bytes(&w, record->value.data, record->value.len);
    keys->sign(keys->user, CRDT_RECORD_LABEL, bytes_of(out, writer_len(&w)), record->signature);
    write_bytes(&w, record->signature, CRDT_SIGNATURE_BYTES);
    ASSERT(writer_len(&w) == CRDT_RECORD_MIN + record->value.len);
    return (int)writer_len(&w);
}

int crdt_record_decode(struct bytes encoded, struct crdt_record *out)
{
    struct reader r = reader_of(encoded);
    memset(out, 0, sizeof *out);
    if (encoded.len > CRDT_RECORD_MAX)
        return ERR_TOO_LARGE;
    uint8_t format = read_u8(&r);
    if (!r.failed && format != FORMAT)
        return ERR_VERSION;
    read_into(&r, out->key.run.bytes, ID_BYTES);
    read_into(&r, out->key.author.bytes, ID_BYTES);
    out->key.slot = read_u16(&r);
    out->schema = read_u16(&r);
    out->seq = read_u64(&r);
    out->issued_ms = read_u64(&r);
    out->expires_ms = read_u64(&r);
    uint16_t len = read_u16(&r);
    if (len > CRDT_VALUE_MAX)
        return ERR_TOO_LARGE;
    out->value = read_bytes(&r, len);
    read_into(&r, out->signature, CRDT_SIGNATURE_BYTES);
    if (r.failed)
        return ERR_TRUNCATED;
    return reader_done(&r) && numbers_valid(out) ? ERR_OK : ERR_MALFORMED;
}

/* All of an encoding but its signature. */
static struct bytes signed_part(struct bytes encoded)
{
    ASSERT(encoded.len >= CRDT_RECORD_MIN);
    return bytes_of(encoded.data, encoded.len - CRDT_SIGNATURE_BYTES);
}

int crdt_record_verify(struct bytes encoded, const struct crdt_keys *keys)
{
    struct bytes part = signed_part(encoded);
    struct id author;
    memcpy(author.bytes, encoded.data + 1 + ID_BYTES, ID_BYTES);
    return keys->verify(keys->user, &author, CRDT_RECORD_LABEL, part, encoded.data + part.len);
}

int crdt_record_check_time(const struct crdt_record *record, uint64_t wall_ms)
{
    if (record->expires_ms <= wall_ms)
        return ERR_EXPIRED;
    return record->issued_ms > wall_ms && record->issued_ms - wall_ms > CRDT_CLOCK_SKEW_MS ? ERR_CLOCK
                                                                                           : ERR_OK;
}

void crdt_record_hash(struct bytes encoded, struct id *out)
{
    struct bytes part = signed_part(encoded);
    hash_parts("dunlin record", &part, 1, out);
}

int crdt_version_compare(uint64_t seq_a, const struct id *hash_a, uint64_t seq_b, const struct id *hash_b)
{
    if (seq_a != seq_b)
        return seq_a < seq_b ? -1 : 1;
    return id_compare(hash_a, hash_b);
}
