#include "net/seal.h"

#include <assert.h>
#include <sodium.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "net/seal_internal.h"

static_assert(NET_SEAL_HEAD + NET_SEAL_COOKIE + NET_SEAL_CHALLENGE + NET_SEAL_PREFIX + NET_SEAL_TAG <=
                  NET_SEAL_OVERHEAD,
              "what cores leave room for must hold the largest overhead");
static_assert(NET_SEAL_HEAD + NET_SEAL_PREFIX + CHALLENGE_BODY + NET_SEAL_TAG == NET_SEAL_MIN,
              "a CHALLENGE is never larger than what it answers");
static_assert(NET_SEAL_COOKIE_REPLY < NET_SEAL_MIN, "a cookie reply is smaller than what it answers");
static_assert(crypto_aead_xchacha20poly1305_ietf_NPUBBYTES == NET_SEAL_HEAD - NONCE_AT, "nonce");
static_assert(crypto_aead_xchacha20poly1305_ietf_ABYTES == NET_SEAL_TAG, "tag");

static const uint64_t challenge_gap_ns = UINT64_C(100000000); /* between two challenges to one peer */

int net_network_init(struct net_network *network, const char *name)
{
    size_t len = strlen(name);
    if (len == 0 || len > NET_NETWORK_NAME_MAX)
        return ERR_INVALID;
    for (size_t i = 0; i < len; i++) {
        if (name[i] <= ' ' || name[i] > '~')
            return ERR_INVALID;
    }
    struct bytes part = bytes_of_text(name);
    hash_parts("dunlin network", &part, 1, &network->hash);
    struct reader r = reader_of(bytes_of(network->hash.bytes, 4));
    network->id = read_u32(&r);
    return ERR_OK;
}

/* ---- life ---- */

struct net_seal_config net_seal_config_default(void)
{
    return (struct net_seal_config){
        .peers_max = 4096,
        .clock_limit_ms = 120000,
        .derivations_per_s = 500,
        .group_per_s = 10,
        .group_burst = 60,
        .cookie_period_ns = UINT64_C(60000000000),
    };
}

int net_seal_config_check(const struct net_seal_config *config, const char **why)
{
    *why = "identity, rng and network must be set";
    if (config->identity == NULL || config->rng.fill == NULL || id_is_zero(&config->network.hash))
        return ERR_INVALID;
    *why = "peers_max must be 2 to 1048576";
    if (config->peers_max < 2 || config->peers_max > NET_SEAL_PEERS_MAX)
        return ERR_INVALID;
    *why = "clock_limit_ms must be 1 s to 1 h";
    if (config->clock_limit_ms < 1000 || config->clock_limit_ms > 3600000)
        return ERR_INVALID;
    *why = "derivations_per_s must be 2 to 1000000, group_per_s and group_burst 1 to 1000000";
    if (config->derivations_per_s < 2 || config->derivations_per_s > 1000000 || config->group_per_s < 1 ||
        config->group_per_s > 1000000 || config->group_burst < 1 || config->group_burst > 1000000)
        return ERR_INVALID;
    *why = "cookie_period_ns must be at least a second";
    if (config->cookie_period_ns < UINT64_C(1000000000))
        return ERR_INVALID;
    *why = NULL;
    return ERR_OK;
}

size_t net_seal_size(const struct net_seal_config *config)
{
    ASSERT(config->peers_max <= NET_SEAL_PEERS_MAX);
    size_t entries = config->peers_max * sizeof(struct seal_peer);
    return sizeof(struct net_seal) + entries + seal_peers_heads(config->peers_max) * sizeof(uint32_t);
}

struct net_seal *net_seal_init(void *memory, const struct net_seal_config *config, uint64_t now_ns,
                               uint64_t wall_ms)
{
    const char *why;
    struct id mark;
    int rc = net_seal_config_check(config, &why);
    ASSERT(rc == ERR_OK);
    size_t size = net_seal_size(config);
    struct arena arena = arena_of(memory, size);
    memset(memory, 0, size);
    struct net_seal *seal = arena_take(&arena, sizeof *seal, 16);
    struct seal_peer *entries = arena_take(&arena, config->peers_max * sizeof *entries, 8);
    uint32_t head_count = seal_peers_heads(config->peers_max);
    uint32_t *heads = arena_take(&arena, head_count * sizeof *heads, 4);
    ASSERT(seal == memory && entries != NULL && heads != NULL);
    seal->config = *config;
    seal->memory_bytes = size;
    seal->start_ms = wall_ms;
    seal->traced_ns = now_ns;
    seal->nonces_used = NET_SEAL_NONCE_BLOCK;
    seal->reply_ring = ring_init(NET_SEAL_REPLIES_MAX);
    struct bytes network = bytes_of(config->network.hash.bytes, ID_BYTES);
    hash_parts("dunlin datagram mark", &network, 1, &mark);
    memcpy(seal->mark_key, mark.bytes, sizeof seal->mark_key);
    rng_fill(&config->rng, seal->nonce_key, sizeof seal->nonce_key);
    seal_limit_init(&seal->limit, config);
    seal_peers_init(&seal->peers, entries, (uint32_t)config->peers_max, heads, head_count, &config->rng);
    return seal;
}

void net_seal_deinit(struct net_seal *seal)
{
    sodium_memzero(seal, seal->memory_bytes);
}

/* ---- keys, marks, nonces ---- */

static int agree_x25519(const struct net_identity *own, const struct id *peer, uint8_t secret[32])
{
    uint8_t public_key[crypto_scalarmult_BYTES];
    if (crypto_sign_ed25519_pk_to_curve25519(public_key, peer->bytes) != 0)
        return ERR_AUTH;
    return crypto_scalarmult(secret, own->box_secret, public_key) == 0 ? ERR_OK : ERR_AUTH;
}

static void direction_key(const struct net_seal *seal, const uint8_t secret[32], const struct id *sender,
                          const struct id *recipient, uint8_t key[32])
{
    struct id derived;
    struct bytes parts[] = {bytes_of(secret, 32), bytes_of(seal->config.network.hash.bytes, ID_BYTES),
                            bytes_of(sender->bytes, ID_BYTES), bytes_of(recipient->bytes, ID_BYTES)};
    hash_parts("dunlin datagram key", parts, sizeof parts / sizeof parts[0], &derived);
    memcpy(key, derived.bytes, ID_BYTES);
    sodium_memzero(&derived, sizeof derived);
}

int seal_derive(struct net_seal *seal, const struct id *peer, struct seal_keys *keys)
{
    const struct net_identity *own = seal->config.identity;
    uint8_t secret[32];
    seal->stats.derivations++;
    int rc = seal->config.agree != NULL ? seal->config.agree(seal->config.agree_user, own, peer, secret)
                                        : agree_x25519(own, peer, secret);
    if (rc == ERR_OK) {
        direction_key(seal, secret, &own->id, peer, keys->send);
        direction_key(seal, secret, peer, &own->id, keys->open);
    }
    sodium_memzero(secret, sizeof secret);
    return rc;
}

/* 23 bits over the clear head: who does not know the network's name cannot make us look further. */
void seal_mark_of(const struct net_seal *seal, const uint8_t head[NET_SEAL_HEAD], uint8_t mark[3])
{
    uint8_t input[NET_SEAL_HEAD];
    uint8_t hash[crypto_shorthash_BYTES];
    memcpy(input, head, sizeof input);
    memset(input + MARK_AT, 0, 3);
    crypto_shorthash(hash, input, sizeof input, seal->mark_key);
    memcpy(mark, hash, 3);
    mark[0] &= 0x7f; /* the bit by which QUIC's short packets are told apart */
}

/* The part of a nonce by which we know it for ours and meant for this peer. */
static void nonce_proof(const struct net_seal *seal, const uint8_t random[NONCE_RANDOM],
                        const struct id *peer, uint8_t proof[crypto_shorthash_BYTES])
{
    uint8_t input[NONCE_RANDOM + ID_BYTES];
    memcpy(input, random, NONCE_RANDOM);
    memcpy(input + NONCE_RANDOM, peer->bytes, ID_BYTES);
    crypto_shorthash(proof, input, sizeof input, seal->nonce_key);
}

bool seal_nonce_is_ours(const struct net_seal *seal, const uint8_t *nonce, const struct id *peer)
{
    uint8_t proof[crypto_shorthash_BYTES];
    nonce_proof(seal, nonce, peer, proof);
    return sodium_memcmp(proof, nonce + NONCE_RANDOM, sizeof proof) == 0;
}

/* 128 random bits never repeat under one key; the proof behind them is free to be predictable. */
static void next_nonce(struct net_seal *seal, const struct id *peer, uint8_t nonce[24])
{
    if (seal->nonces_used == NET_SEAL_NONCE_BLOCK) {
        rng_fill(&seal->config.rng, seal->nonces, sizeof seal->nonces);
        seal->nonces_used = 0;
    }
    memcpy(nonce, seal->nonces[seal->nonces_used], NONCE_RANDOM);
    sodium_memzero(seal->nonces[seal->nonces_used++], NONCE_RANDOM);
    nonce_proof(seal, nonce, peer, nonce + NONCE_RANDOM);
}

/* Head of a datagram of ours; nonce is copied. */
static void write_head(const struct net_seal *seal, enum seal_type type, const uint8_t nonce[24],
                       uint8_t head[NET_SEAL_HEAD])
{
    struct writer w = writer_of(head, NET_SEAL_HEAD);
    write_u8(&w, (uint8_t)type);
    write_bytes(&w, "\0\0\0", 3);
    write_u32(&w, seal->config.network.id);
    write_bytes(&w, seal->config.identity->id.bytes, ID_BYTES);
    write_bytes(&w, nonce, 24);
    ASSERT(writer_len(&w) == NET_SEAL_HEAD);
    seal_mark_of(seal, head, head + MARK_AT);
}

/* ---- sealing ---- */

/* What goes into one sealed datagram besides keys and nonce. */
struct seal_job {
    uint8_t kind;
    struct bytes body;
    const uint8_t *challenge; /* NULL: none */
    const uint8_t *cookie;    /* NULL: none */
};

/* The plaintext at out, padded so that clear_len more bytes and the tag reach NET_SEAL_MIN; 0: does not fit.
 */
static size_t write_plain(struct net_seal *seal, struct seal_peer *peer, uint64_t wall_ms,
                          const struct seal_job *job, size_t clear_len, uint8_t *out, size_t cap)
{
    size_t len = NET_SEAL_PREFIX + job->body.len + (job->challenge != NULL ? NET_SEAL_CHALLENGE : 0);
    size_t least = NET_SEAL_MIN - clear_len - NET_SEAL_TAG;
    size_t padding = len < least ? least - len : 0;
    struct writer w = writer_of(out, cap);
    write_u8(&w, (uint8_t)((job->challenge != NULL ? SEAL_FLAG_CHALLENGE : 0) |
                           (padding > 0 ? SEAL_FLAG_PADDED : 0)));
    write_u64(&w, seal->config.boot_id);
    write_u64(&w, peer->counter + 1);
    write_u16(&w, (uint16_t)(wall_ms >> 32));
    write_u32(&w, (uint32_t)wall_ms);
    if (job->challenge != NULL)
        write_bytes(&w, job->challenge, NET_SEAL_CHALLENGE);
    write_u8(&w, job->kind);
    write_bytes(&w, job->body.data, job->body.len);
    for (size_t i = 0; i < padding; i++)
        write_u8(&w, (uint8_t)padding);
    return writer_len(&w);
}

static int seal_one(struct net_seal *seal, struct seal_peer *peer, uint64_t wall_ms,
                    const struct seal_job *job, uint8_t *out, size_t cap)
{
    uint8_t nonce[24];
    size_t clear_len = NET_SEAL_HEAD + (job->cookie != NULL ? NET_SEAL_COOKIE : 0);
    unsigned long long sealed_len = 0;
    if (cap < clear_len + NET_SEAL_TAG)
        return ERR_TOO_LARGE;
    size_t len =
        write_plain(seal, peer, wall_ms, job, clear_len, out + clear_len, cap - clear_len - NET_SEAL_TAG);
    if (len == 0)
        return ERR_TOO_LARGE;
    next_nonce(seal, &peer->id, nonce);
    write_head(seal, job->cookie != NULL ? SEAL_TYPE_COOKIE : SEAL_TYPE_PLAIN, nonce, out);
    if (job->cookie != NULL)
        memcpy(out + NET_SEAL_HEAD, job->cookie, NET_SEAL_COOKIE);
    int rc = crypto_aead_xchacha20poly1305_ietf_encrypt(out + clear_len, &sealed_len, out + clear_len, len,
                                                        out, clear_len, NULL, nonce, peer->keys.send);
    ASSERT(rc == 0 && sealed_len == len + NET_SEAL_TAG);
    peer->counter++;
    seal->stats.sealed++;
    return (int)(clear_len + sealed_len);
}

/* The entry of a peer that we want to write to; derives without a limit, since the choice is ours. */
static int peer_to_write(struct net_seal *seal, const struct id *id, struct seal_peer **out)
{
    struct seal_keys keys;
    if (id_equal(id, &seal->config.identity->id))
        return ERR_INVALID;
    *out = seal_peers_find(&seal->peers, id);
    if (*out != NULL)
        return ERR_OK;
    int rc = seal_derive(seal, id, &keys);
    if (rc == ERR_OK)
        *out = seal_peers_add(&seal->peers, id, &keys);
    sodium_memzero(&keys, sizeof keys);
    return rc;
}

int net_seal_write(struct net_seal *seal, uint64_t now_ns, uint64_t wall_ms, const struct net_message *m,
                   uint8_t out[], size_t cap)
{
    struct seal_peer *peer = NULL;
    ASSERT(m->kind != NET_KIND_CHALLENGE);
    if (m->body_len > NET_BODY_MAX)
        return ERR_TOO_LARGE;
    int rc = peer_to_write(seal, &m->peer, &peer);
    if (rc != ERR_OK)
        return rc;
    struct seal_job job = {
        .kind = m->kind,
        .body = bytes_of(m->body, m->body_len),
        .challenge = peer->has_their_challenge ? peer->their_challenge : NULL,
        .cookie = now_ns < peer->cookie_until_ns ? peer->cookie : NULL,
    };
    return seal_one(seal, peer, wall_ms, &job, out, cap < NET_DATAGRAM_MAX ? cap : NET_DATAGRAM_MAX);
}

/* ---- automatic replies ---- */

static struct seal_reply *reply_slot(struct net_seal *seal, const struct net_addr *to)
{
    size_t at = ring_push(&seal->reply_ring);
    if (at == RING_NONE) {
        seal->stats.replies_dropped++;
        return NULL;
    }
    struct seal_reply *reply = &seal->replies[at];
    reply->to = *to;
    return reply;
}

void seal_queue_cookie(struct net_seal *seal, uint64_t now_ns, const struct net_addr *to,
                       const struct clear_head *head)
{
    struct seal_reply *reply = reply_slot(seal, to);
    if (reply == NULL)
        return;
    write_head(seal, SEAL_TYPE_COOKIE_REPLY, head->nonce, reply->data);
    seal_limit_cookie(&seal->limit, now_ns, to, &head->sender, reply->data + NET_SEAL_HEAD);
    reply->len = NET_SEAL_COOKIE_REPLY;
    seal->stats.cookies_sent++;
}

void seal_queue_challenge(struct net_seal *seal, uint64_t now_ns, uint64_t wall_ms, const struct net_addr *to,
                          struct seal_peer *peer, const struct sealed_part *request)
{
    uint8_t body[CHALLENGE_BODY];
    if (peer->has_own_challenge && now_ns - peer->challenged_ns < challenge_gap_ns)
        return;
    struct seal_reply *reply = reply_slot(seal, to);
    if (reply == NULL)
        return;
    if (!peer->has_own_challenge)
        rng_fill(&seal->config.rng, peer->own_challenge, NET_SEAL_CHALLENGE);
    peer->has_own_challenge = true;
    peer->challenged_ns = now_ns;
    struct writer w = writer_of(body, sizeof body);
    write_bytes(&w, peer->own_challenge, NET_SEAL_CHALLENGE);
    write_u64(&w, request->boot_id);
    write_u64(&w, request->counter);
    struct seal_job job = {.kind = NET_KIND_CHALLENGE, .body = bytes_of(body, writer_len(&w))};
    int len = seal_one(seal, peer, wall_ms, &job, reply->data, sizeof reply->data);
    ASSERT(len == NET_SEAL_MIN);
    reply->len = (size_t)len;
    seal->stats.challenges_sent++;
}

size_t net_seal_poll_reply(struct net_seal *seal, uint8_t out[NET_SEAL_MIN], struct net_addr *to)
{
    size_t at = ring_pop(&seal->reply_ring);
    if (at == RING_NONE)
        return 0;
    const struct seal_reply *reply = &seal->replies[at];
    memcpy(out, reply->data, reply->len);
    *to = reply->to;
    return reply->len;
}

/* ---- queries ---- */

int net_seal_pin(struct net_seal *seal, const struct id *peer, bool pinned)
{
    struct seal_peer *entry = seal_peers_find(&seal->peers, peer);
    return entry == NULL ? ERR_NOT_FOUND : seal_peers_pin(&seal->peers, entry, pinned);
}

bool net_seal_clock_offset(const struct net_seal *seal, uint64_t now_ns, int64_t *offset_ms, size_t *peers)
{
    return seal_clocks_median(&seal->clocks, now_ns, offset_ms, peers);
}

struct net_seal_stats net_seal_stats(const struct net_seal *seal)
{
    struct net_seal_stats stats = seal->stats;
    stats.evictions = seal->peers.evictions;
    return stats;
}

void net_seal_check_invariants(const struct net_seal *seal)
{
    ring_check_invariants(&seal->reply_ring);
    ASSERT(seal->nonces_used <= NET_SEAL_NONCE_BLOCK);
    ASSERT(seal->clocks.count <= SEAL_CLOCK_SAMPLES);
    for (size_t i = 0; i < seal->reply_ring.count; i++) {
        size_t len = seal->replies[ring_at(&seal->reply_ring, i)].len;
        ASSERT(len == NET_SEAL_MIN || len == NET_SEAL_COOKIE_REPLY);
    }
    seal_peers_check_invariants(&seal->peers);
}
