#include "crdt/chain.h"

#include <string.h>

#include "base/hash.h"
#include "crdt/batch.h"

enum { FORMAT = 1 };

/* Names are shown in terminals: UTF-8 lead bytes pass, control characters do not. */
static bool name_valid(struct bytes name)
{
    if (name.len == 0 || name.len > CRDT_NAME_MAX)
        return false;
    for (size_t i = 0; i < name.len; i++) {
        if (name.data[i] < 0x20 || name.data[i] == 0x7f)
            return false;
    }
    return true;
}

static void write_payload(struct writer *w, const struct crdt_entry *e)
{
    switch (e->kind) {
    case CRDT_ENTRY_GENESIS:
        write_bytes(w, e->owner.bytes, ID_BYTES);
        write_bytes(w, e->nonce, CRDT_NONCE_BYTES);
        write_u8(w, (uint8_t)e->name.len);
        write_bytes(w, e->name.data, e->name.len);
        write_u16(w, (uint16_t)e->config.len);
        write_bytes(w, e->config.data, e->config.len);
        break;
    case CRDT_ENTRY_CONFIG:
        write_u64(w, e->round);
        write_bytes(w, e->config.data, e->config.len);
        break;
    case CRDT_ENTRY_CLOSE:
        write_u64(w, e->round);
        break;
    case CRDT_ENTRY_ADMIT:
        write_bytes(w, e->member.bytes, ID_BYTES);
        write_u64(w, e->expires_ms);
        write_u8(w, e->bearer);
        break;
    case CRDT_ENTRY_REVOKE:
        write_bytes(w, e->member.bytes, ID_BYTES);
        break;
    }
}

/* The rest of a payload after its fixed part is the config. */
static struct bytes read_config(struct reader *r, size_t len)
{
    if (len > CRDT_CONFIG_MAX)
        r->failed = true;
    return read_bytes(r, len);
}

static void read_payload(struct reader *r, struct crdt_entry *e)
{
    switch (e->kind) {
    case CRDT_ENTRY_GENESIS:
        read_into(r, e->owner.bytes, ID_BYTES);
        read_into(r, e->nonce, CRDT_NONCE_BYTES);
        e->name = read_bytes(r, read_u8(r));
        e->config = read_config(r, read_u16(r));
        if (!name_valid(e->name))
            r->failed = true;
        break;
    case CRDT_ENTRY_CONFIG:
        e->round = read_u64(r);
        e->config = read_config(r, reader_left(r));
        break;
    case CRDT_ENTRY_CLOSE:
        e->round = read_u64(r);
        break;
    case CRDT_ENTRY_ADMIT:
        read_into(r, e->member.bytes, ID_BYTES);
        e->expires_ms = read_u64(r);
        uint8_t bearer = read_u8(r);
        e->bearer = bearer != 0;
        if (bearer > 1)
            r->failed = true;
        break;
    case CRDT_ENTRY_REVOKE:
        read_into(r, e->member.bytes, ID_BYTES);
        break;
    }
}

/* Encodes and signs; returns the length or ERR_TOO_LARGE. */
static int sign_entry(const struct crdt_entry *e, const struct crdt_keys *keys, uint8_t *out, size_t out_cap)
{
    uint8_t payload[CRDT_PAYLOAD_MAX];
    uint8_t signature[CRDT_SIGNATURE_BYTES];
    if (e->config.len > CRDT_CONFIG_MAX)
        return ERR_TOO_LARGE;
    struct writer p = writer_of(payload, sizeof payload);
    write_payload(&p, e);
    ASSERT(writer_len(&p) > 0);
    struct writer w = writer_of(out, out_cap);
    write_u8(&w, FORMAT);
    write_u8(&w, (uint8_t)e->kind);
    write_u32(&w, e->index);
    write_bytes(&w, e->run.bytes, ID_BYTES);
    write_bytes(&w, e->prev.bytes, ID_BYTES);
    write_u64(&w, e->created_ms);
    write_u16(&w, (uint16_t)writer_len(&p));
    write_bytes(&w, payload, writer_len(&p));
    if (writer_len(&w) == 0)
        return ERR_TOO_LARGE;
    keys->sign(keys->user, CRDT_CHAIN_LABEL, bytes_of(out, writer_len(&w)), signature);
    write_bytes(&w, signature, sizeof signature);
    return writer_len(&w) == 0 ? ERR_TOO_LARGE : (int)writer_len(&w);
}

int crdt_entry_decode(struct bytes encoded, struct crdt_entry *out)
{
    struct reader r = reader_of(encoded);
    memset(out, 0, sizeof *out);
    if (encoded.len > CRDT_ENTRY_MAX)
        return ERR_TOO_LARGE;
    uint8_t format = read_u8(&r);
    if (!r.failed && format != FORMAT)
        return ERR_VERSION;
    uint8_t kind = read_u8(&r);
    if (kind > CRDT_ENTRY_REVOKE)
        return ERR_VERSION; /* a newer kind: this program cannot follow the chain further */
    out->kind = (enum crdt_entry_kind)kind;
    out->index = read_u32(&r);
    read_into(&r, out->run.bytes, ID_BYTES);
    read_into(&r, out->prev.bytes, ID_BYTES);
    out->created_ms = read_u64(&r);
    struct bytes payload = read_bytes(&r, read_u16(&r));
    (void)read_bytes(&r, CRDT_SIGNATURE_BYTES);
    if (r.failed)
        return ERR_TRUNCATED;
    struct reader p = reader_of(payload);
    read_payload(&p, out);
    bool genesis = kind == CRDT_ENTRY_GENESIS;
    if (!reader_done(&r) || !reader_done(&p) || genesis != (out->index == 0) ||
        genesis != id_is_zero(&out->run) || genesis != id_is_zero(&out->prev))
        return ERR_MALFORMED;
    return ERR_OK;
}

static struct bytes signed_part(struct bytes encoded)
{
    ASSERT(encoded.len > CRDT_SIGNATURE_BYTES);
    return bytes_of(encoded.data, encoded.len - CRDT_SIGNATURE_BYTES);
}

void crdt_entry_hash(struct bytes encoded, struct id *out)
{
    struct bytes part = signed_part(encoded);
    hash_parts("dunlin chain", &part, 1, out);
}

void crdt_chain_init(struct crdt_chain *chain, const struct id *run, const struct allocator *alloc,
                     const struct crdt_keys *keys)
{
    memset(chain, 0, sizeof *chain);
    chain->alloc = *alloc;
    chain->keys = *keys;
    chain->run = *run;
}

static void link_free(struct crdt_chain *chain, struct crdt_chain_link *link)
{
    allocator_release(&chain->alloc, link->bytes);
    *link = (struct crdt_chain_link){0};
}

void crdt_chain_deinit(struct crdt_chain *chain)
{
    for (size_t i = 0; i < chain->count; i++)
        link_free(chain, &chain->links[i]);
    link_free(chain, &chain->fork[0]);
    link_free(chain, &chain->fork[1]);
    chain->count = 0;
    chain->state = CRDT_CHAIN_EMPTY;
}

int crdt_chain_create(const struct crdt_keys *keys, const struct rng *rng, uint64_t wall_ms,
                      struct bytes name, struct bytes config, uint8_t *out, size_t out_cap, struct id *run)
{
    if (!name_valid(name))
        return ERR_INVALID;
    struct crdt_entry e = {.kind = CRDT_ENTRY_GENESIS,
                           .created_ms = wall_ms,
                           .owner = keys->self,
                           .name = name,
                           .config = config};
    rng_fill(rng, e.nonce, sizeof e.nonce);
    int len = sign_entry(&e, keys, out, out_cap);
    if (len > 0)
        crdt_entry_hash(bytes_of(out, (size_t)len), run);
    return len;
}

int crdt_chain_sign(const struct crdt_chain *chain, const struct crdt_entry *entry, uint64_t wall_ms,
                    uint8_t *out, size_t out_cap)
{
    ASSERT(entry->kind != CRDT_ENTRY_GENESIS);
    if (chain->state != CRDT_CHAIN_LIVE)
        return ERR_STATE;
    if (!id_equal(&chain->owner, &chain->keys.self))
        return ERR_PERMISSION;
    if (chain->count == CRDT_CHAIN_MAX)
        return ERR_FULL;
    struct crdt_entry e = *entry;
    e.index = (uint32_t)chain->count;
    e.run = chain->run;
    e.prev = chain->links[chain->count - 1].hash;
    e.created_ms = wall_ms;
    return sign_entry(&e, &chain->keys, out, out_cap);
}

/* Signature, and for the genesis that it hashes to the run's id. */
static int check_origin(const struct crdt_chain *chain, const struct crdt_entry *e, struct bytes encoded,
                        const struct id *hash)
{
    bool genesis = e->kind == CRDT_ENTRY_GENESIS;
    if (!id_equal(genesis ? hash : &e->run, &chain->run))
        return ERR_MISMATCH;
    const struct id *owner = genesis ? &e->owner : &chain->owner;
    struct bytes part = signed_part(encoded);
    return chain->keys.verify(chain->keys.user, owner, CRDT_CHAIN_LABEL, part, encoded.data + part.len);
}

static int link_make(struct crdt_chain *chain, struct bytes encoded, const struct id *hash,
                     struct crdt_chain_link *out)
{
    uint8_t *copy = allocator_get(&chain->alloc, 1, encoded.len);
    if (copy == NULL)
        return ERR_NO_MEMORY;
    memcpy(copy, encoded.data, encoded.len);
    *out = (struct crdt_chain_link){.bytes = copy, .len = encoded.len, .hash = *hash};
    return ERR_OK;
}

/* A second signed entry of an index that is taken: cut the chain there and keep both. */
static int freeze(struct crdt_chain *chain, struct bytes encoded, const struct id *hash, size_t index)
{
    struct crdt_chain_link other;
    int rc = link_make(chain, encoded, hash, &other);
    if (rc < 0)
        return rc;
    link_free(chain, &chain->fork[0]);
    link_free(chain, &chain->fork[1]);
    chain->fork[0] = chain->links[index];
    chain->fork[1] = other;
    chain->links[index] = (struct crdt_chain_link){0};
    for (size_t i = index + 1; i < chain->count; i++)
        link_free(chain, &chain->links[i]);
    chain->count = index;
    chain->state = CRDT_CHAIN_FROZEN;
    return ERR_EQUIVOCATION;
}

int crdt_chain_append(struct crdt_chain *chain, struct bytes encoded)
{
    struct crdt_entry e;
    struct id hash;
    int rc = crdt_entry_decode(encoded, &e);
    if (rc < 0)
        return rc;
    crdt_entry_hash(encoded, &hash);
    if (e.index < chain->count && id_equal(&hash, &chain->links[e.index].hash))
        return ERR_STALE;
    if (e.index > chain->count)
        return chain->state == CRDT_CHAIN_FROZEN ? ERR_STALE : ERR_AGAIN;
    rc = check_origin(chain, &e, encoded, &hash);
    if (rc < 0)
        return rc;
    if (e.index == chain->count && chain->state == CRDT_CHAIN_FROZEN)
        return ERR_STALE;
    /* Another predecessor means that the owner forked further down: that fork is found when its entry comes.
     */
    if (e.index > 0 && !id_equal(&e.prev, &chain->links[e.index - 1].hash))
        return ERR_MISMATCH;
    if (e.index < chain->count)
        return freeze(chain, encoded, &hash, e.index);
    if (chain->state == CRDT_CHAIN_CLOSED)
        return ERR_STATE;
    if (chain->count == CRDT_CHAIN_MAX)
        return ERR_FULL;
    rc = link_make(chain, encoded, &hash, &chain->links[chain->count]);
    if (rc < 0)
        return rc;
    chain->count++;
    if (e.kind == CRDT_ENTRY_GENESIS)
        chain->owner = e.owner;
    chain->state = e.kind == CRDT_ENTRY_CLOSE ? CRDT_CHAIN_CLOSED : CRDT_CHAIN_LIVE;
    return ERR_OK;
}

struct bytes crdt_chain_entry(const struct crdt_chain *chain, size_t index)
{
    ASSERT(index < chain->count);
    return bytes_of(chain->links[index].bytes, chain->links[index].len);
}

/* Decodes an entry that was decoded before it was kept. */
static struct crdt_entry held_entry(const struct crdt_chain *chain, size_t index)
{
    struct crdt_entry e;
    int rc = crdt_entry_decode(crdt_chain_entry(chain, index), &e);
    ASSERT(rc == ERR_OK);
    return e;
}

int crdt_chain_genesis(const struct crdt_chain *chain, struct crdt_entry *out)
{
    if (chain->count == 0)
        return ERR_STATE;
    *out = held_entry(chain, 0);
    return ERR_OK;
}

int crdt_chain_config(const struct crdt_chain *chain, uint64_t round, struct bytes *config)
{
    if (chain->count == 0)
        return ERR_STATE;
    for (size_t i = chain->count; i-- > 1;) {
        struct crdt_entry e = held_entry(chain, i);
        if (e.kind == CRDT_ENTRY_CONFIG && e.round <= round) {
            *config = e.config;
            return ERR_OK;
        }
    }
    *config = held_entry(chain, 0).config;
    return ERR_OK;
}

bool crdt_chain_admits(const struct crdt_chain *chain, const struct id *id, uint64_t wall_ms, bool *bearer)
{
    if (bearer != NULL)
        *bearer = false;
    if (chain->count > 0 && id_equal(id, &chain->owner))
        return true;
    for (size_t i = chain->count; i-- > 0;) {
        struct crdt_entry e = held_entry(chain, i);
        if ((e.kind != CRDT_ENTRY_ADMIT && e.kind != CRDT_ENTRY_REVOKE) || !id_equal(id, &e.member))
            continue;
        if (bearer != NULL)
            *bearer = e.bearer;
        return e.kind == CRDT_ENTRY_ADMIT && (e.expires_ms == 0 || wall_ms < e.expires_ms);
    }
    return false;
}

uint64_t crdt_chain_last_round(const struct crdt_chain *chain)
{
    if (chain->count == 0)
        return UINT64_MAX;
    struct crdt_entry e = held_entry(chain, chain->count - 1);
    return e.kind == CRDT_ENTRY_CLOSE ? e.round : UINT64_MAX;
}
