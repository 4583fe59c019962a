/* The exchange of one round: invitation, two blobs crossing on one stream, digests, commits.
 *
 * Inviter                       Acceptor
 *   INVITE  ------------------->  our round and partner? else BUSY, or parked until our round begins
 *           <-------------------  ACCEPT
 *   FRAGMENT 0.. -------------->
 *           <-------------- FRAGMENT 0..        (both ways at once)
 *   DIGEST  ------------------->  equal to what came in? then
 *           <-------------------  COMMIT
 *           <-------------------  DIGEST
 *   COMMIT  ------------------->
 * A side merges when it has verified the other's blob (its COMMIT is queued) and holds the other's COMMIT. So
 * when one side merges, the other has queued its COMMIT: if the last one is lost, that side knows
 * (UNCONFIRMED). */
#include <string.h>

#include "gossip/internal.h"
#include "gossip/pairing.h"

enum { NS_PER_MS = 1000000 };

#define QUEUE(type) (UINT32_C(1) << (type))

void gossip_swap_open(struct gossip *g, uint64_t now_ns)
{
    struct gossip_open_round *r = &g->round;
    struct gossip_stream *s = gossip_stream_take(g, &r->partner);
    if (s == NULL) {
        gossip_end_solo(g, now_ns, GOSSIP_SOLO_UNREACHABLE, ERR_FULL);
        return;
    }
    r->stream = s;
}

/* The stream belongs to the round from here on: both blobs flow, the round's deadline rules. */
static void begin_swap(struct gossip *g, uint64_t now_ns, struct gossip_stream *s, enum gossip_codec theirs)
{
    struct gossip_open_round *r = &g->round;
    const struct gossip_path *path = gossip_path_of(g, &r->partner);
    s->state = GOSSIP_STREAM_SWAP;
    s->deadline_ns = GOSSIP_NEVER;
    s->out = r->blob;
    s->out_at = 0;
    r->stream = s;
    r->state = GOSSIP_ROUND_SWAPPING;
    r->swap_ns = now_ns;
    r->in_codec = theirs;
    r->in_len = 0;
    r->in_expected = (size_t)g->config.layout.encoded_bytes[theirs];
    crypto_generichash_init(&r->in_hash, NULL, 0, ID_BYTES);
    crypto_generichash_init(&r->out_hash, NULL, 0, ID_BYTES);
    ASSERT(r->in_expected <= g->size_max);
    uint64_t hard = r->began_ns + g->config.round_ns / 2;
    r->deadline_ns = hard;
    if (path->rate > 0) {
        /* Three times what the last transfers needed, and never less than an eighth of a round. */
        double transfer = (double)(r->in_expected + r->blob.len) / (double)path->rate * 3e9;
        double limit = (double)g->config.round_ns;
        uint64_t soft = now_ns + g->config.round_ns / 8 + 4 * path->rtt_ns;
        soft += (uint64_t)(transfer < limit ? transfer : limit);
        r->deadline_ns = soft < hard ? soft : hard;
    }
}

static bool same_shape(const struct gossip *g, const struct gossip_message *m)
{
    return m->param_count == g->config.layout.param_count && id_equal(&m->schema, &g->config.layout.schema) &&
           (g->config.codecs >> m->codec & 1) != 0;
}

static void accept_invite(struct gossip *g, uint64_t now_ns, struct gossip_stream *s)
{
    struct gossip_open_round *r = &g->round;
    const struct gossip_message *m = &s->invite;
    if ((m->codecs >> r->codec & 1) == 0) {
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_SHAPE);
        gossip_end_solo(g, now_ns, GOSSIP_SOLO_BUSY, ERR_UNSUPPORTED);
        return;
    }
    uint64_t late = now_ns - r->began_ns + 1;
    g->wait_ns = g->wait_ns == 0 ? late : g->wait_ns - g->wait_ns / 4 + late / 4;
    gossip_tell_phase(g, now_ns, m->round, (uint64_t)m->age_ms * NS_PER_MS + (now_ns - s->asked_ns));
    begin_swap(g, now_ns, s, m->codec);
    s->queued |= QUEUE(GOSSIP_ACCEPT);
}

static size_t parked_count(const struct gossip *g)
{
    size_t count = 0;
    for (size_t i = 0; i < GOSSIP_STREAMS_MAX; i++)
        count += g->streams[i].state == GOSSIP_STREAM_PARKED;
    return count;
}

/* An invite of this round from a peer: what becomes of it. */
static void judge_present(struct gossip *g, uint64_t now_ns, struct gossip_stream *s)
{
    const struct gossip_open_round *r = &g->round;
    if (!r->paired || r->inviter || !id_equal(&r->partner, &s->peer)) {
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_VIEW);
        return;
    }
    switch (r->state) {
    case GOSSIP_ROUND_PREPARING:
        break; /* stays parked: our snapshot is being encoded */
    case GOSSIP_ROUND_WAITING:
        accept_invite(g, now_ns, s);
        break;
    case GOSSIP_ROUND_CLOSED:
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_STALE);
        break;
    case GOSSIP_ROUND_ASKING:
    case GOSSIP_ROUND_SWAPPING:
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_EXCHANGING);
        break;
    }
}

/* s is PARKED with its invite. */
static void judge(struct gossip *g, uint64_t now_ns, struct gossip_stream *s)
{
    uint64_t round = s->invite.round;
    if (g->paused || !g->begun) {
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_PAUSED);
    } else if (!same_shape(g, &s->invite)) {
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_SHAPE);
    } else if (round < g->round.number) {
        gossip_tell_phase(g, now_ns, round, (uint64_t)s->invite.age_ms * NS_PER_MS + (now_ns - s->asked_ns));
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_STALE);
    } else if (round == g->round.number) {
        judge_present(g, now_ns, s);
    } else if (round - g->round.number > GOSSIP_ROUND_LAG_MAX) {
        gossip_tell_newer(g, now_ns, &s->peer, round);
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_BEHIND);
    } else if (gossip_view_find(&g->view, &s->peer) == NULL) {
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_VIEW);
    } else if (!gossip_round_is_open(g)) {
        gossip_tell_newer(g, now_ns, &s->peer, round); /* parked until the caller acts or the wait ends */
    } else if (round > g->round.number + 1 && g->round.state != GOSSIP_ROUND_SWAPPING &&
               gossip_round_credible(g, now_ns, &s->peer, round)) {
        /* Our round is over everywhere else; ending it looks at this invite again and tells the caller. */
        gossip_end_solo(g, now_ns, GOSSIP_SOLO_SUPERSEDED, ERR_STALE);
    }
}

void gossip_swap_invite(struct gossip *g, uint64_t now_ns, struct gossip_stream *s,
                        const struct gossip_message *m)
{
    s->state = GOSSIP_STREAM_PARKED;
    s->invite = *m;
    s->asked_ns = now_ns;
    s->deadline_ns = now_ns + g->config.round_ns / 2;
    /* Told now, not when the wait ends: the inviter gives up after half a round as well, so that a member
     * almost exactly one round behind never heard of it, and never merged. */
    if (m->round == g->round.number + 1 && gossip_view_find(&g->view, &s->peer) != NULL)
        gossip_tell_phase(g, now_ns, m->round, (uint64_t)m->age_ms * NS_PER_MS);
    judge(g, now_ns, s);
    if (s->state == GOSSIP_STREAM_PARKED && parked_count(g) > GOSSIP_PARKED_MAX)
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_EXCHANGING);
}

void gossip_swap_review(struct gossip *g, uint64_t now_ns)
{
    for (size_t i = 0; i < GOSSIP_STREAMS_MAX; i++)
        if (g->streams[i].state == GOSSIP_STREAM_PARKED)
            judge(g, now_ns, &g->streams[i]);
}

static void take_accept(struct gossip *g, uint64_t now_ns, struct gossip_stream *s,
                        const struct gossip_message *m)
{
    struct gossip_path *path = gossip_path_of(g, &s->peer);
    if (m->round != g->round.number || (g->config.codecs >> m->codec & 1) == 0) {
        g->counters.malformed++;
        gossip_end_solo(g, now_ns, GOSSIP_SOLO_MALFORMED, ERR_MALFORMED);
        return;
    }
    uint64_t held = (uint64_t)m->held_ms * NS_PER_MS;
    uint64_t waited = now_ns - s->asked_ns;
    uint64_t rtt = waited > held ? waited - held : 1;
    path->rtt_ns = path->rtt_ns == 0 ? rtt : path->rtt_ns - path->rtt_ns / 4 + rtt / 4;
    gossip_tell_phase(g, now_ns, m->round, (uint64_t)m->age_ms * NS_PER_MS + rtt / 2);
    begin_swap(g, now_ns, s, m->codec);
}

static void take_busy(struct gossip *g, uint64_t now_ns, struct gossip_stream *s,
                      const struct gossip_message *m)
{
    struct id peer = s->peer;
    gossip_stream_finish(g, now_ns, s);
    g->round.stream = NULL;
    gossip_tell_phase(g, now_ns, m->round, (uint64_t)m->age_ms * NS_PER_MS);
    gossip_end_solo(g, now_ns, GOSSIP_SOLO_BUSY, m->reason == GOSSIP_BUSY_STALE ? ERR_STALE : ERR_BUSY);
    if (m->reason == GOSSIP_BUSY_STALE)
        gossip_tell_newer(g, now_ns, &peer, m->round);
}

void gossip_swap_answer(struct gossip *g, uint64_t now_ns, struct gossip_stream *s,
                        const struct gossip_message *m)
{
    ASSERT(g->round.stream == s && g->round.state == GOSSIP_ROUND_ASKING);
    bool asked = (s->queued & QUEUE(GOSSIP_INVITE)) == 0;
    if (asked && m->type == GOSSIP_ACCEPT) {
        take_accept(g, now_ns, s, m);
    } else if (asked && m->type == GOSSIP_BUSY) {
        take_busy(g, now_ns, s, m);
    } else {
        g->counters.malformed++;
        gossip_end_solo(g, now_ns, GOSSIP_SOLO_MALFORMED, ERR_MALFORMED);
    }
}

/* False: the peer broke the protocol. */
static bool take_fragment(struct gossip *g, const struct gossip_message *m)
{
    struct gossip_open_round *r = &g->round;
    size_t left = r->in_expected - r->in_len;
    size_t wanted = left < GOSSIP_PIECE_BYTES ? left : GOSSIP_PIECE_BYTES;
    if (left == 0 || m->bytes.len != wanted || (size_t)m->index * GOSSIP_PIECE_BYTES != r->in_len)
        return false;
    memcpy(g->buffers[r->buffer].data + r->in_len, m->bytes.data, m->bytes.len);
    crypto_generichash_update(&r->in_hash, m->bytes.data, m->bytes.len);
    r->in_len += m->bytes.len;
    g->counters.bytes_received += m->bytes.len;
    return true;
}

static bool take_digest(struct gossip *g, struct gossip_stream *s, const struct gossip_message *m)
{
    struct gossip_open_round *r = &g->round;
    if (r->verified || r->in_len != r->in_expected)
        return false;
    crypto_generichash_final(&r->in_hash, s->received.bytes, ID_BYTES);
    if (!id_equal(&s->received, &m->digest))
        return false;
    r->verified = true;
    s->queued |= QUEUE(GOSSIP_COMMIT);
    return true;
}

static bool take_commit(struct gossip *g, struct gossip_stream *s, const struct gossip_message *m)
{
    struct gossip_open_round *r = &g->round;
    bool sent = r->digest_sent && (s->queued & QUEUE(GOSSIP_DIGEST)) == 0;
    if (r->confirmed || !sent || !id_equal(&s->digest, &m->digest))
        return false;
    r->confirmed = true;
    return true;
}

void gossip_swap_frame(struct gossip *g, uint64_t now_ns, struct gossip_stream *s,
                       const struct gossip_message *m)
{
    bool right = false;
    ASSERT(g->round.stream == s && g->round.state == GOSSIP_ROUND_SWAPPING);
    if (m->type == GOSSIP_PIECE)
        right = take_fragment(g, m);
    else if (m->type == GOSSIP_DIGEST)
        right = take_digest(g, s, m);
    else if (m->type == GOSSIP_COMMIT)
        right = take_commit(g, s, m);
    if (!right) {
        g->counters.malformed++;
        gossip_end_solo(g, now_ns, GOSSIP_SOLO_MALFORMED, ERR_MISMATCH);
    } else if (g->round.verified && g->round.confirmed) {
        gossip_end_merge(g, now_ns);
    }
}

void gossip_swap_sent(struct gossip *g, struct gossip_stream *s)
{
    ASSERT(g->round.stream == s && !g->round.digest_sent);
    crypto_generichash_final(&g->round.out_hash, s->digest.bytes, ID_BYTES);
    g->round.digest_sent = true;
    s->queued |= QUEUE(GOSSIP_DIGEST);
}
