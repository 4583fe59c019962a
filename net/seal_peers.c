#include "net/seal_peers.h"

#include <assert.h>
#include <sodium.h>
#include <string.h>

static const uint64_t clock_sample_life_ns = UINT64_C(600000000000); /* ten minutes */

static_assert(NET_SEAL_WINDOW % 64 == 0 && NET_SEAL_WINDOW >= 128, "the window is whole words");
static_assert(crypto_shorthash_KEYBYTES == 16 && crypto_shorthash_BYTES == 8, "SipHash-2-4");

uint32_t seal_peers_heads(size_t cap)
{
    uint32_t heads = 1;
    ASSERT(cap <= NET_SEAL_PEERS_MAX);
    while (heads < cap)
        heads *= 2;
    return heads;
}

void seal_peers_init(struct seal_peers *peers, struct seal_peer *entries, uint32_t cap, uint32_t *heads,
                     uint32_t head_count, const struct rng *rng)
{
    ASSERT(cap > 0 && (head_count & (head_count - 1)) == 0);
    *peers = (struct seal_peers){.entries = entries,
                                 .heads = heads,
                                 .cap = cap,
                                 .head_count = head_count,
                                 .newest = SEAL_NONE,
                                 .oldest = SEAL_NONE,
                                 .free_head = 0};
    rng_fill(rng, peers->hash_key, sizeof peers->hash_key);
    for (uint32_t i = 0; i < head_count; i++)
        heads[i] = SEAL_NONE;
    for (uint32_t i = 0; i < cap; i++)
        entries[i].chain = i + 1 < cap ? i + 1 : SEAL_NONE;
}

static uint32_t *chain_of(const struct seal_peers *peers, const struct id *id)
{
    uint8_t hash[8];
    crypto_shorthash(hash, id->bytes, ID_BYTES, peers->hash_key);
    return &peers->heads[load_le32(hash) & (peers->head_count - 1)];
}

static void list_remove(struct seal_peers *peers, struct seal_peer *peer)
{
    if (peer->newer == SEAL_NONE)
        peers->newest = peer->older;
    else
        peers->entries[peer->newer].older = peer->older;
    if (peer->older == SEAL_NONE)
        peers->oldest = peer->newer;
    else
        peers->entries[peer->older].newer = peer->newer;
}

static void list_push(struct seal_peers *peers, struct seal_peer *peer)
{
    uint32_t index = (uint32_t)(peer - peers->entries);
    peer->newer = SEAL_NONE;
    peer->older = peers->newest;
    if (peers->newest == SEAL_NONE)
        peers->oldest = index;
    else
        peers->entries[peers->newest].newer = index;
    peers->newest = index;
}

struct seal_peer *seal_peers_find(struct seal_peers *peers, const struct id *id)
{
    uint32_t at = *chain_of(peers, id);
    while (at != SEAL_NONE && !id_equal(&peers->entries[at].id, id))
        at = peers->entries[at].chain;
    if (at == SEAL_NONE)
        return NULL;
    struct seal_peer *peer = &peers->entries[at];
    if (!peer->pinned && peers->newest != at) {
        list_remove(peers, peer);
        list_push(peers, peer);
    }
    return peer;
}

/* Frees the least recently used entry, keeping what its replay state guarded in two marks for the whole
 * table. */
static void evict_oldest(struct seal_peers *peers)
{
    ASSERT(peers->oldest != SEAL_NONE);
    uint32_t index = peers->oldest;
    struct seal_peer *peer = &peers->entries[index];
    uint32_t *link = chain_of(peers, &peer->id);
    while (*link != index)
        link = &peers->entries[*link].chain;
    *link = peer->chain;
    list_remove(peers, peer);
    if (peer->counter > peers->counter_floor)
        peers->counter_floor = peer->counter;
    if (peer->has_floor && peer->newest_ms > peers->newest_ms)
        peers->newest_ms = peer->newest_ms;
    sodium_memzero(peer, sizeof *peer);
    peer->chain = peers->free_head;
    peers->free_head = index;
    peers->used--;
    peers->evictions++;
}

struct seal_peer *seal_peers_add(struct seal_peers *peers, const struct id *id, const struct seal_keys *keys)
{
    ASSERT(seal_peers_find(peers, id) == NULL);
    if (peers->free_head == SEAL_NONE)
        evict_oldest(peers);
    uint32_t index = peers->free_head;
    struct seal_peer *peer = &peers->entries[index];
    peers->free_head = peer->chain;
    *peer = (struct seal_peer){.id = *id, .keys = *keys, .counter = peers->counter_floor};
    uint32_t *head = chain_of(peers, id);
    peer->chain = *head;
    *head = index;
    list_push(peers, peer);
    peers->used++;
    return peer;
}

int seal_peers_pin(struct seal_peers *peers, struct seal_peer *peer, bool pinned)
{
    if (peer->pinned == pinned)
        return ERR_OK;
    if (pinned && peers->pinned >= peers->cap / 2)
        return ERR_FULL;
    if (pinned) {
        list_remove(peers, peer);
        peers->pinned++;
    } else {
        list_push(peers, peer);
        peers->pinned--;
    }
    peer->pinned = pinned;
    return ERR_OK;
}

void seal_peers_check_invariants(const struct seal_peers *peers)
{
    uint32_t listed = 0;
    uint32_t chained = 0;
    uint32_t before = SEAL_NONE;
    for (uint32_t at = peers->newest; at != SEAL_NONE; at = peers->entries[at].older) {
        ASSERT(at < peers->cap && listed < peers->cap);
        ASSERT(!peers->entries[at].pinned);
        ASSERT(peers->entries[at].newer == before);
        before = at;
        listed++;
    }
    ASSERT(peers->oldest == before);
    ASSERT(listed + peers->pinned == peers->used && peers->used <= peers->cap);
    ASSERT(peers->pinned <= peers->cap / 2);
    for (uint32_t head = 0; head < peers->head_count; head++) {
        for (uint32_t at = peers->heads[head]; at != SEAL_NONE; at = peers->entries[at].chain) {
            const struct seal_peer *peer = &peers->entries[at];
            ASSERT(chain_of(peers, &peer->id) == &peers->heads[head]);
            ASSERT(!peer->has_boot || (peer->window[0] & 1) != 0);
            ASSERT(!peer->has_boot || peer->has_floor);
            ASSERT(++chained <= peers->used);
        }
    }
    ASSERT(chained == peers->used);
}

bool seal_window_seen(const struct seal_peer *peer, uint64_t counter)
{
    if (counter > peer->highest)
        return false;
    uint64_t behind = peer->highest - counter;
    if (behind >= NET_SEAL_WINDOW)
        return true;
    return (peer->window[behind / 64] >> (behind % 64) & 1) != 0;
}

/* Moves every bit `by` places towards older. */
static void window_shift(struct seal_peer *peer, uint64_t by)
{
    size_t words = by >= NET_SEAL_WINDOW ? SEAL_WINDOW_WORDS : (size_t)(by / 64);
    unsigned bits = (unsigned)(by % 64);
    for (size_t i = SEAL_WINDOW_WORDS; i-- > 0;) {
        uint64_t word = i >= words ? peer->window[i - words] << bits : 0;
        if (bits > 0 && i > words)
            word |= peer->window[i - words - 1] >> (64 - bits);
        peer->window[i] = word;
    }
}

void seal_window_mark(struct seal_peer *peer, uint64_t counter)
{
    ASSERT(!seal_window_seen(peer, counter));
    if (counter > peer->highest) {
        window_shift(peer, counter - peer->highest);
        peer->highest = counter;
    }
    uint64_t behind = peer->highest - counter;
    peer->window[behind / 64] |= UINT64_C(1) << (behind % 64);
    ASSERT(seal_window_seen(peer, counter));
}

void seal_window_start(struct seal_peer *peer, uint64_t counter)
{
    memset(peer->window, 0xff, sizeof peer->window);
    peer->highest = counter;
}

void seal_clocks_note(struct seal_clocks *clocks, uint64_t now_ns, const struct id *peer, int64_t offset_ms)
{
    size_t slot = 0;
    while (slot < clocks->count && !id_equal(&clocks->samples[slot].peer, peer))
        slot++;
    if (slot == SEAL_CLOCK_SAMPLES) {
        slot = 0;
        for (size_t i = 1; i < clocks->count; i++) {
            if (clocks->samples[i].at_ns < clocks->samples[slot].at_ns)
                slot = i;
        }
    }
    if (slot == clocks->count)
        clocks->count++;
    clocks->samples[slot].peer = *peer;
    clocks->samples[slot].offset_ms = offset_ms;
    clocks->samples[slot].at_ns = now_ns;
}

bool seal_clocks_median(const struct seal_clocks *clocks, uint64_t now_ns, int64_t *offset_ms, size_t *peers)
{
    int64_t sorted[SEAL_CLOCK_SAMPLES];
    size_t count = 0;
    for (size_t i = 0; i < clocks->count; i++) {
        if (now_ns - clocks->samples[i].at_ns > clock_sample_life_ns)
            continue;
        size_t at = count++;
        for (; at > 0 && sorted[at - 1] > clocks->samples[i].offset_ms; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = clocks->samples[i].offset_ms;
    }
    *peers = count;
    *offset_ms = count == 0 ? 0 : sorted[(count - 1) / 2];
    return count > 0;
}
