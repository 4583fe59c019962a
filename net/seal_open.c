/* Opening sealed datagrams: cheap refusals first, then decryption, then freshness. */
#include <sodium.h>
#include <string.h>

#include "net/seal_internal.h"

static const uint64_t trace_gap_ns = UINT64_C(100000000);          /* between two drops that are traced */
static const uint64_t clock_sample_gap_ns = UINT64_C(10000000000); /* between two samples of one peer */
static const uint64_t counters_behind_max = 4096; /* how old a request a CHALLENGE may answer */

static int drop(uint64_t *counter, int err)
{
    (*counter)++;
    return err;
}

/* A drop whose sender is authentic: traced too, a few a second. */
static int drop_known(struct net_seal *seal, uint64_t now_ns, const struct seal_peer *peer, uint64_t *counter,
                      int err)
{
    if (now_ns - seal->traced_ns >= trace_gap_ns) {
        seal->traced_ns = now_ns;
        trace_emit(&seal->config.trace, TRACE_DATAGRAM_DROPPED, now_ns, &peer->id, 0, 0, err);
    }
    return drop(counter, err);
}

bool net_seal_claims(struct bytes datagram)
{
    return datagram.len >= NET_SEAL_COOKIE_REPLY && datagram.data[0] >= SEAL_TYPE_PLAIN &&
           datagram.data[0] <= SEAL_TYPE_COOKIE_REPLY && (datagram.data[1] & 0x80) == 0;
}

/* Everything that can be said without a key, cheapest first. */
static int read_head(struct net_seal *seal, struct bytes datagram, struct clear_head *head)
{
    uint8_t mark[3];
    if (datagram.len < NET_SEAL_COOKIE_REPLY)
        return drop(&seal->stats.dropped_shape, ERR_TRUNCATED);
    if (!net_seal_claims(datagram) || datagram.len > NET_DATAGRAM_MAX)
        return drop(&seal->stats.dropped_shape, ERR_MALFORMED);
    struct reader r = reader_of(datagram);
    head->type = read_u8(&r);
    struct bytes claimed_mark = read_bytes(&r, 3);
    uint32_t network = read_u32(&r);
    read_into(&r, head->sender.bytes, ID_BYTES);
    head->nonce = read_bytes(&r, 24).data;
    head->cookie = head->type == SEAL_TYPE_PLAIN ? NULL : read_bytes(&r, NET_SEAL_COOKIE).data;
    head->len = datagram.len - reader_left(&r);
    ASSERT(!r.failed);
    if (head->type == SEAL_TYPE_COOKIE_REPLY && !reader_done(&r))
        return drop(&seal->stats.dropped_shape, ERR_MALFORMED);
    if (head->type != SEAL_TYPE_COOKIE_REPLY && datagram.len < NET_SEAL_MIN)
        return drop(&seal->stats.dropped_shape, ERR_TRUNCATED);
    if (network != seal->config.network.id)
        return drop(&seal->stats.dropped_network, ERR_NETWORK);
    seal_mark_of(seal, datagram.data, mark);
    if (!bytes_equal(claimed_mark, bytes_of(mark, sizeof mark)))
        return drop(&seal->stats.dropped_mark, ERR_AUTH);
    if (id_equal(&head->sender, &seal->config.identity->id))
        return drop(&seal->stats.dropped_self, ERR_REFUSED);
    return ERR_OK;
}

/* A cookie for a datagram that we sent to this peer: kept and echoed until it runs out. */
static int take_cookie(struct net_seal *seal, uint64_t now_ns, const struct net_addr *from,
                       const struct clear_head *head, struct net_message *out)
{
    struct seal_peer *peer = seal_peers_find(&seal->peers, &head->sender);
    if (peer == NULL || !seal_nonce_is_ours(seal, head->nonce, &head->sender))
        return drop(&seal->stats.dropped_cookie, ERR_REFUSED);
    memcpy(peer->cookie, head->cookie, NET_SEAL_COOKIE);
    peer->cookie_until_ns = now_ns + seal->config.cookie_period_ns;
    seal->stats.cookies_taken++;
    out->peer = head->sender;
    out->addr = *from;
    out->kind = 0;
    out->body_len = 0;
    return NET_SEAL_CONTROL;
}

/* Keys of a sender that is not in the table, if the limits allow. */
static int derive_stranger(struct net_seal *seal, uint64_t now_ns, const struct net_addr *from,
                           const struct clear_head *head, struct seal_keys *keys)
{
    bool proven = head->cookie != NULL &&
                  seal_limit_cookie_valid(&seal->limit, now_ns, from, &head->sender, head->cookie);
    if (!seal_limit_take(&seal->limit, now_ns, from, proven)) {
        seal_queue_cookie(seal, now_ns, from, head);
        return drop(&seal->stats.dropped_rate, ERR_RATE);
    }
    if (seal_derive(seal, &head->sender, keys) != ERR_OK)
        return drop(&seal->stats.dropped_auth, ERR_AUTH);
    return ERR_OK;
}

/* Decrypts into plain[NET_DATAGRAM_MAX]; a stranger gets its table entry only once its tag has matched, so
 * that invented keys displace nobody. */
static int unseal(struct net_seal *seal, uint64_t now_ns, const struct net_addr *from,
                  const struct clear_head *head, struct bytes datagram, uint8_t *plain,
                  struct seal_peer **peer)
{
    struct seal_keys keys;
    *peer = seal_peers_find(&seal->peers, &head->sender);
    int rc = *peer == NULL ? derive_stranger(seal, now_ns, from, head, &keys) : ERR_OK;
    if (rc != ERR_OK)
        return rc;
    const uint8_t *key = *peer == NULL ? keys.open : (*peer)->keys.open;
    if (crypto_aead_xchacha20poly1305_ietf_decrypt(plain, NULL, NULL, datagram.data + head->len,
                                                   datagram.len - head->len, datagram.data, head->len,
                                                   head->nonce, key) != 0)
        rc = drop(&seal->stats.dropped_auth, ERR_AUTH);
    else if (*peer == NULL)
        *peer = seal_peers_add(&seal->peers, &head->sender, &keys);
    sodium_memzero(&keys, sizeof keys);
    return rc;
}

static int read_part(struct bytes plain, struct sealed_part *part)
{
    struct reader r = reader_of(plain);
    uint8_t flags = read_u8(&r);
    part->boot_id = read_u64(&r);
    part->counter = read_u64(&r);
    part->sent_ms = (uint64_t)read_u16(&r) << 32;
    part->sent_ms |= read_u32(&r);
    part->challenge = read_bytes(&r, (flags & SEAL_FLAG_CHALLENGE) != 0 ? NET_SEAL_CHALLENGE : 0);
    part->kind = read_u8(&r);
    part->body = read_bytes(&r, reader_left(&r));
    if (r.failed || (flags & ~SEAL_FLAGS_KNOWN) != 0)
        return ERR_MALFORMED;
    if ((flags & SEAL_FLAG_PADDED) != 0) {
        size_t padding = part->body.len > 0 ? part->body.data[part->body.len - 1] : 0;
        if (padding == 0 || padding > part->body.len)
            return ERR_MALFORMED;
        part->body.len -= padding;
    }
    return part->body.len <= NET_BODY_MAX ? ERR_OK : ERR_MALFORMED;
}

static uint64_t distance(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

/* Takes a proven time of the peer into its floor, the median, and once into the trace when far off. */
static void note_clock(struct net_seal *seal, uint64_t now_ns, uint64_t wall_ms, struct seal_peer *peer,
                       uint64_t sent_ms)
{
    int64_t offset_ms = (int64_t)sent_ms - (int64_t)wall_ms;
    peer->newest_ms = peer->has_floor && peer->newest_ms > sent_ms ? peer->newest_ms : sent_ms;
    peer->has_floor = true;
    if (!peer->has_sample || now_ns - peer->sampled_ns >= clock_sample_gap_ns) {
        seal_clocks_note(&seal->clocks, now_ns, &peer->id, offset_ms);
        peer->sampled_ns = now_ns;
        peer->has_sample = true;
    }
    if (distance(sent_ms, wall_ms) > seal->config.clock_limit_ms && !peer->skew_told) {
        peer->skew_told = true;
        trace_emit(&seal->config.trace, TRACE_CLOCK_SKEW, now_ns, &peer->id, offset_ms / 1000, 0, ERR_CLOCK);
    }
}

static bool is_echo(const struct seal_peer *peer, const struct sealed_part *part)
{
    return peer->has_own_challenge && part->challenge.len == NET_SEAL_CHALLENGE &&
           sodium_memcmp(part->challenge.data, peer->own_challenge, NET_SEAL_CHALLENGE) == 0;
}

/* The time before which a datagram may be a repetition of one whose replay state is gone. */
static uint64_t floor_of(const struct net_seal *seal, const struct seal_peer *peer, uint64_t wall_ms)
{
    if (peer->has_floor)
        return peer->newest_ms;
    /* A peer whose clock ran far ahead must not make every later stranger answer a challenge. */
    uint64_t evicted_ms = seal->peers.newest_ms + 1;
    uint64_t bound_ms = wall_ms + seal->config.clock_limit_ms + 1;
    evicted_ms = evicted_ms < bound_ms ? evicted_ms : bound_ms;
    return seal->peers.newest_ms > 0 && evicted_ms > seal->start_ms ? evicted_ms : seal->start_ms;
}

/* 0, ERR_REPLAY or ERR_CLOCK, by the rule at the top of seal.h; changes nothing. */
static int judge(const struct net_seal *seal, uint64_t wall_ms, const struct seal_peer *peer,
                 const struct sealed_part *part)
{
    bool same_boot = peer->has_boot && part->boot_id == peer->boot_id;
    uint64_t limit_ms = seal->config.clock_limit_ms;
    if (peer->has_before && part->boot_id == peer->boot_before)
        return ERR_REPLAY;
    if (same_boot && seal_window_seen(peer, part->counter))
        return ERR_REPLAY;
    if (is_echo(peer, part))
        return ERR_OK;
    bool timely = distance(part->sent_ms, wall_ms) <= limit_ms;
    if (!timely && peer->offset_proven)
        timely = distance(part->sent_ms, wall_ms + (uint64_t)peer->offset_ms) <= limit_ms;
    if (!timely || (!same_boot && part->sent_ms < floor_of(seal, peer, wall_ms)))
        return ERR_CLOCK;
    return ERR_OK;
}

/* Takes a datagram that passed judge into the peer's replay state. */
static void admit(struct net_seal *seal, uint64_t now_ns, uint64_t wall_ms, struct seal_peer *peer,
                  const struct sealed_part *part)
{
    bool echoed = is_echo(peer, part);
    if (peer->has_boot && part->boot_id == peer->boot_id) {
        seal_window_mark(peer, part->counter);
    } else {
        peer->has_before = peer->has_boot;
        peer->boot_before = peer->boot_id;
        peer->has_boot = true;
        peer->boot_id = part->boot_id;
        /* What the old process echoed or was asked must not speak for the new one. */
        if (peer->has_before) {
            peer->has_own_challenge = false;
            peer->offset_proven = false;
            peer->echo_floor = peer->counter;
        }
        seal_window_start(peer, part->counter);
    }
    if (echoed) {
        peer->offset_ms = (int64_t)part->sent_ms - (int64_t)wall_ms;
        peer->offset_proven = true;
    }
    note_clock(seal, now_ns, wall_ms, peer, part->sent_ms);
}

/* A CHALLENGE that answers a recent datagram of ours proves the peer's clock and says what to echo. */
static int take_challenge(struct net_seal *seal, uint64_t now_ns, uint64_t wall_ms, struct seal_peer *peer,
                          const struct sealed_part *part)
{
    struct reader r = reader_of(part->body);
    struct bytes challenge = read_bytes(&r, NET_SEAL_CHALLENGE);
    uint64_t boot_id = read_u64(&r);
    uint64_t counter = read_u64(&r);
    if (!reader_done(&r))
        return drop_known(seal, now_ns, peer, &seal->stats.dropped_malformed, ERR_MALFORMED);
    if (boot_id != seal->config.boot_id || counter > peer->counter || counter <= peer->echo_floor ||
        peer->counter - counter > counters_behind_max ||
        (peer->has_before && part->boot_id == peer->boot_before))
        return drop_known(seal, now_ns, peer, &seal->stats.dropped_replay, ERR_REPLAY);
    memcpy(peer->their_challenge, challenge.data, NET_SEAL_CHALLENGE);
    peer->has_their_challenge = true;
    peer->echo_floor = counter;
    peer->offset_ms = (int64_t)part->sent_ms - (int64_t)wall_ms;
    peer->offset_proven = true;
    note_clock(seal, now_ns, wall_ms, peer, part->sent_ms);
    seal->stats.challenges_taken++;
    return NET_SEAL_CONTROL;
}

/* What the sealed part of an authentic datagram means for us. */
static int take_part(struct net_seal *seal, uint64_t now_ns, uint64_t wall_ms, const struct net_addr *from,
                     struct seal_peer *peer, const struct sealed_part *part)
{
    if (part->kind == NET_KIND_CHALLENGE)
        return take_challenge(seal, now_ns, wall_ms, peer, part);
    int rc = judge(seal, wall_ms, peer, part);
    if (rc == ERR_REPLAY)
        return drop_known(seal, now_ns, peer, &seal->stats.dropped_replay, rc);
    if (rc == ERR_CLOCK) {
        seal_queue_challenge(seal, now_ns, wall_ms, from, peer, part);
        return drop_known(seal, now_ns, peer, &seal->stats.dropped_clock, rc);
    }
    admit(seal, now_ns, wall_ms, peer, part);
    seal->stats.opened++;
    return ERR_OK;
}

int net_seal_open(struct net_seal *seal, uint64_t now_ns, uint64_t wall_ms, const struct net_addr *from,
                  struct bytes datagram, struct net_message *out)
{
    uint8_t plain[NET_DATAGRAM_MAX];
    struct clear_head head;
    struct sealed_part part;
    struct seal_peer *peer = NULL;
    int rc = read_head(seal, datagram, &head);
    if (rc != ERR_OK)
        return rc;
    if (head.type == SEAL_TYPE_COOKIE_REPLY)
        return take_cookie(seal, now_ns, from, &head, out);
    rc = unseal(seal, now_ns, from, &head, datagram, plain, &peer);
    if (rc != ERR_OK)
        return rc;
    if (read_part(bytes_of(plain, datagram.len - head.len - NET_SEAL_TAG), &part) != ERR_OK)
        return drop_known(seal, now_ns, peer, &seal->stats.dropped_malformed, ERR_MALFORMED);
    rc = take_part(seal, now_ns, wall_ms, from, peer, &part);
    if (rc < 0)
        return rc;
    out->peer = head.sender;
    out->addr = *from;
    out->kind = part.kind;
    out->body_len = rc == NET_SEAL_CONTROL ? 0 : part.body.len;
    if (out->body_len > 0)
        memcpy(out->body, part.body.data, out->body_len);
    return rc;
}
