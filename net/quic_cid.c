/* Our own connection ids, and the table from id to connection.
 *
 * Eight bytes: 4 random ones with the top bit of the first set (so that a short header is told from our
 * sealed datagrams whatever its first byte), then 4 bytes of a keyed hash of the first 4.  The key comes from
 * the node's persistent secret: a packet whose id is in no table is answered with a stateless reset only when
 * we, or an earlier run of ours, made that id; anything else is dropped after one short hash. */
#include <assert.h>
#include <sodium.h>
#include <string.h>

#include "net/quic_internal.h"

static_assert(crypto_shorthash_KEYBYTES == 16, "cid_key has the wrong size");

int quic_cids_init(struct quic *ep)
{
    size_t slots = 16;
    while (slots < ep->cfg.connections_max * QUIC_CIDS_PER_CONN * 2)
        slots *= 2;
    ep->cids = allocator_get(&ep->cfg.allocator, slots, sizeof *ep->cids);
    if (ep->cids == NULL)
        return ERR_NO_MEMORY;
    ep->cid_mask = slots - 1;
    crypto_generichash(ep->cid_key, sizeof ep->cid_key, (const uint8_t *)"dunlin quic cid", 15,
                       ep->cfg.secret, sizeof ep->cfg.secret);
    return ERR_OK;
}

static void cid_mark(const struct quic *ep, const uint8_t random[4], uint8_t mark[4])
{
    uint8_t hash[crypto_shorthash_BYTES];
    crypto_shorthash(hash, random, 4, ep->cid_key);
    memcpy(mark, hash, 4);
}

uint64_t quic_cid_key(const uint8_t cid[QUIC_CID_BYTES])
{
    uint64_t key;
    memcpy(&key, cid, sizeof key);
    return key;
}

void quic_cid_generate(struct quic *ep, uint8_t out[QUIC_CID_BYTES])
{
    do {
        rng_fill(&ep->cfg.rng, out, 4);
        out[0] |= 0x80;
        cid_mark(ep, out, out + 4);
    } while (quic_cid_find(ep, quic_cid_key(out)) != NULL);
}

bool quic_cid_is_ours(const struct quic *ep, const uint8_t cid[QUIC_CID_BYTES])
{
    uint8_t mark[4];
    cid_mark(ep, cid, mark);
    return sodium_memcmp(mark, cid + 4, sizeof mark) == 0;
}

void quic_cid_token(const struct quic *ep, const uint8_t cid[QUIC_CID_BYTES], uint8_t token[16])
{
    static const char label[] = "dunlin quic reset";
    crypto_generichash_state state;
    crypto_generichash_init(&state, ep->cfg.secret, sizeof ep->cfg.secret, 16);
    crypto_generichash_update(&state, (const uint8_t *)label, sizeof label);
    crypto_generichash_update(&state, cid, QUIC_CID_BYTES);
    crypto_generichash_final(&state, token, 16);
    sodium_memzero(&state, sizeof state);
}

/* The first id of a connection is the client's choice, so the slot must not be. */
static size_t home_of(const struct quic *ep, uint64_t key)
{
    uint64_t hash;
    static_assert(crypto_shorthash_BYTES == sizeof hash, "short hash has the wrong size");
    crypto_shorthash((uint8_t *)&hash, (const uint8_t *)&key, sizeof key, ep->cid_key);
    return (size_t)hash & ep->cid_mask;
}

bool quic_cid_insert(struct quic *ep, uint64_t key, struct quic_conn *conn)
{
    ASSERT(key != 0);
    if (ep->cid_count * 2 > ep->cid_mask)
        return false;
    size_t at = home_of(ep, key);
    while (ep->cids[at].key != 0) {
        if (ep->cids[at].key == key)
            return ep->cids[at].conn == conn;
        at = (at + 1) & ep->cid_mask;
    }
    ep->cids[at] = (struct quic_cid_slot){.key = key, .conn = conn};
    ep->cid_count++;
    return true;
}

struct quic_conn *quic_cid_find(const struct quic *ep, uint64_t key)
{
    if (key == 0)
        return NULL;
    for (size_t at = home_of(ep, key); ep->cids[at].key != 0; at = (at + 1) & ep->cid_mask)
        if (ep->cids[at].key == key)
            return ep->cids[at].conn;
    return NULL;
}

/* Empties a slot and moves later entries of the same run back over the gap (Knuth, vol. 3, 6.4 algorithm R).
 */
static void slot_empty(struct quic *ep, size_t gap)
{
    ep->cid_count--;
    for (size_t at = (gap + 1) & ep->cid_mask; ep->cids[at].key != 0; at = (at + 1) & ep->cid_mask) {
        size_t home = home_of(ep, ep->cids[at].key);
        bool stays = ((at - home) & ep->cid_mask) < ((at - gap) & ep->cid_mask);
        if (stays)
            continue;
        ep->cids[gap] = ep->cids[at];
        gap = at;
    }
    ep->cids[gap] = (struct quic_cid_slot){0};
}

void quic_cid_remove(struct quic *ep, uint64_t key)
{
    for (size_t at = home_of(ep, key); ep->cids[at].key != 0; at = (at + 1) & ep->cid_mask) {
        if (ep->cids[at].key == key) {
            slot_empty(ep, at);
            return;
        }
    }
}

void quic_cid_remove_all(struct quic *ep, const struct quic_conn *conn)
{
    for (size_t at = 0; at <= ep->cid_mask;) {
        if (ep->cids[at].key != 0 && ep->cids[at].conn == conn)
            slot_empty(ep, at); /* another entry may have moved here: look again */
        else
            at++;
    }
}
