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
 * Between DIGEST and COMMIT a modular blob is repaired: repair.c.  A side merges when it holds all of the
 * other's (its COMMIT is queued) and the other's COMMIT has come. So when one side merges, the other has
 * queued its COMMIT: if the last one is lost, that side knows (UNCONFIRMED). */
#include <string.h>

#include "gossip/internal.h"

void gossip_swap_open(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x)
{
    x->stream = gossip_stream_take(g, &x->partner);
    if (x->stream == NULL)
        gossip_end_solo(g, now_ns, x, GOSSIP_SOLO_UNREACHABLE, ERR_FULL);
}

uint64_t gossip_swap_deadline(struct gossip *g, uint64_t now_ns, const struct gossip_exchange *x,
                              uint64_t bytes)
{
    const struct gossip_path *path = gossip_path_of(g, &x->partner);
    uint64_t limit = gossip_limit_ns(&g->config);
    uint64_t hard = x->began_ns + limit;
    if (path->rate == 0)
        return hard;
    double transfer = (double)bytes / (double)path->rate * 3e9;
    uint64_t soft = now_ns + limit / 4 + 4 * path->rtt_ns;
    soft += (uint64_t)(transfer < (double)limit ? transfer : (double)limit);
    return soft < hard ? soft : hard;
}

/* The stream belongs to the exchange from here on: both blobs flow, its deadline rules. */
static void begin_swap(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x, struct gossip_stream *s,
                       enum gossip_codec theirs)
{
    s->state = GOSSIP_STREAM_SWAP;
    s->deadline_ns = GOSSIP_NEVER;
    s->out_type = GOSSIP_PIECE;
    s->out = x->blob.bytes;
    s->out_at = 0;
    x->stream = s;
    x->state = GOSSIP_EXCHANGE_SWAPPING;
    x->swap_ns = now_ns;
    x->in.codec = theirs;
    x->in.expected = (size_t)g->config.layout.fragment_bytes[x->fragment][theirs];
    ASSERT(x->in.expected <= g->list_at);
    crypto_generichash_init(&x->in.hash, NULL, 0, ID_BYTES);
    crypto_generichash_init(&x->out.hash, NULL, 0, ID_BYTES);
    x->deadline_ns = gossip_swap_deadline(g, now_ns, x, x->in.expected + x->blob.bytes.len);
}

static bool same_shape(const struct gossip *g, const struct gossip_message *m)
{
    return m->param_count == g->config.layout.param_count && id_equal(&m->schema, &g->config.layout.schema) &&
           (g->config.codecs >> m->codec & 1) != 0;
}

/* How old the inviter's round is by now. */
static uint64_t invite_age_ns(const struct gossip_stream *s, uint64_t now_ns)
{
    return (uint64_t)s->invite.age_ms * GOSSIP_NS_PER_MS + (now_ns - s->asked_ns);
}

static void accept_invite(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x,
                          struct gossip_stream *s)
{
    const struct gossip_message *m = &s->invite;
    if ((m->codecs >> x->codec & 1) == 0) {
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_SHAPE);
        gossip_end_solo(g, now_ns, x, GOSSIP_SOLO_BUSY, ERR_UNSUPPORTED);
        return;
    }
    uint64_t late = now_ns - x->began_ns + 1;
    g->wait_ns = g->wait_ns == 0 ? late : g->wait_ns - g->wait_ns / 4 + late / 4;
    if (x->round == g->round) /* else both have moved their boundaries since */
        gossip_tell_phase(g, now_ns, m->round, invite_age_ns(s, now_ns));
    begin_swap(g, now_ns, x, s, m->codec);
    s->queued |= GOSSIP_QUEUE(GOSSIP_ACCEPT);
}

static size_t parked_count(const struct gossip *g)
{
    size_t count = 0;
    for (size_t i = 0; i < GOSSIP_STREAMS_MAX; i++)
        count += g->streams[i].state == GOSSIP_STREAM_PARKED;
    return count;
}

/* An invite of a round that this node has, open or over: what becomes of it. */
static void judge_present(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x,
                          struct gossip_stream *s)
{
    if (!x->paired || x->inviter || !id_equal(&x->partner, &s->peer)) {
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_VIEW);
        return;
    }
    switch (x->state) {
    case GOSSIP_EXCHANGE_PREPARING:
        break; /* stays parked: our snapshot is being encoded */
    case GOSSIP_EXCHANGE_WAITING:
        accept_invite(g, now_ns, x, s);
        break;
    case GOSSIP_EXCHANGE_CLOSED:
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_STALE);
        break;
    case GOSSIP_EXCHANGE_ASKING:
    case GOSSIP_EXCHANGE_SWAPPING:
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_EXCHANGING);
        break;
    }
}

/* An invite of a round that has not begun here, at most GOSSIP_ROUND_LAG_MAX ahead, from a member. */
static void judge_future(struct gossip *g, uint64_t now_ns, struct gossip_stream *s)
{
    uint64_t round = s->invite.round;
    struct gossip_exchange *old = gossip_exchange_in_the_way(g, round);
    if (old == NULL) {
        gossip_tell_newer(g, now_ns, &s->peer, round); /* parked until the caller acts or the wait ends */
    } else if (round > g->round + 1 && old->state != GOSSIP_EXCHANGE_SWAPPING &&
               gossip_round_credible(g, now_ns, &s->peer, round)) {
        /* That round is over everywhere else; ending it looks at this invite again and tells the caller. */
        gossip_end_solo(g, now_ns, old, GOSSIP_SOLO_SUPERSEDED, ERR_STALE);
    }
}

/* s is PARKED with its invite. */
static void judge(struct gossip *g, uint64_t now_ns, struct gossip_stream *s)
{
    uint64_t round = s->invite.round;
    struct gossip_exchange *x = gossip_exchange_of_round(g, round);
    if (g->paused || !g->begun) {
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_PAUSED);
    } else if (!same_shape(g, &s->invite)) {
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_SHAPE);
    } else if (x != NULL) {
        if (x->round != g->round && !gossip_exchange_is_open(x))
            gossip_tell_phase(g, now_ns, round, invite_age_ns(s, now_ns));
        judge_present(g, now_ns, x, s);
    } else if (round < g->round) {
        gossip_tell_phase(g, now_ns, round, invite_age_ns(s, now_ns));
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_STALE);
    } else if (round - g->round > GOSSIP_ROUND_LAG_MAX) {
        gossip_tell_newer(g, now_ns, &s->peer, round);
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_BEHIND);
    } else if (gossip_view_find(&g->view, &s->peer) == NULL) {
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_VIEW);
    } else {
        judge_future(g, now_ns, s);
    }
}

void gossip_swap_invite(struct gossip *g, uint64_t now_ns, struct gossip_stream *s,
                        const struct gossip_message *m)
{
    s->state = GOSSIP_STREAM_PARKED;
    s->invite = *m;
    s->asked_ns = now_ns;
    s->deadline_ns = now_ns + gossip_limit_ns(&g->config);
    /* Told now, not when the wait ends: the inviter gives up after as long a wait, so that a member almost
     * exactly one round behind never heard of it, and never merged. */
    if (m->round == g->round + 1 && gossip_view_find(&g->view, &s->peer) != NULL)
        gossip_tell_phase(g, now_ns, m->round, invite_age_ns(s, now_ns));
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

static void malformed(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x, int err)
{
    g->counters.malformed++;
    gossip_end_solo(g, now_ns, x, GOSSIP_SOLO_MALFORMED, err);
}

static void take_accept(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x,
                        const struct gossip_message *m)
{
    struct gossip_path *path = gossip_path_of(g, &x->partner);
    if (m->round != x->round || (g->config.codecs >> m->codec & 1) == 0) {
        malformed(g, now_ns, x, ERR_MALFORMED);
        return;
    }
    uint64_t held = (uint64_t)m->held_ms * GOSSIP_NS_PER_MS;
    uint64_t waited = now_ns - x->stream->asked_ns;
    uint64_t rtt = waited > held ? waited - held : 1;
    path->rtt_ns = path->rtt_ns == 0 ? rtt : path->rtt_ns - path->rtt_ns / 4 + rtt / 4;
    if (x->round == g->round)
        gossip_tell_phase(g, now_ns, m->round, (uint64_t)m->age_ms * GOSSIP_NS_PER_MS + rtt / 2);
    begin_swap(g, now_ns, x, x->stream, m->codec);
}

static void take_busy(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x,
                      const struct gossip_message *m)
{
    struct id peer = x->partner;
    bool stale = m->reason == GOSSIP_BUSY_STALE;
    gossip_stream_finish(g, now_ns, x->stream);
    x->stream = NULL;
    gossip_tell_phase(g, now_ns, m->round, (uint64_t)m->age_ms * GOSSIP_NS_PER_MS);
    gossip_end_solo(g, now_ns, x, GOSSIP_SOLO_BUSY, stale ? ERR_STALE : ERR_BUSY);
    if (stale)
        gossip_tell_newer(g, now_ns, &peer, m->round);
}

void gossip_swap_answer(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x,
                        const struct gossip_message *m)
{
    ASSERT(x->stream->state == GOSSIP_STREAM_INVITED && x->state == GOSSIP_EXCHANGE_ASKING);
    bool asked = (x->stream->queued & GOSSIP_QUEUE(GOSSIP_INVITE)) == 0;
    if (asked && m->type == GOSSIP_ACCEPT)
        take_accept(g, now_ns, x, m);
    else if (asked && m->type == GOSSIP_BUSY && m->reason != GOSSIP_BUSY_FAR)
        take_busy(g, now_ns, x, m);
    else
        malformed(g, now_ns, x, ERR_MALFORMED);
}

/* False, here and below: the peer broke the protocol. */
static bool take_piece(struct gossip *g, struct gossip_exchange *x, const struct gossip_message *m)
{
    size_t left = x->in.expected - x->in.len;
    size_t wanted = left < GOSSIP_PIECE_BYTES ? left : GOSSIP_PIECE_BYTES;
    if (left == 0 || m->bytes.len != wanted || (size_t)m->index * GOSSIP_PIECE_BYTES != x->in.len)
        return false;
    memcpy(g->buffers[x->buffer].data + x->in.len, m->bytes.data, m->bytes.len);
    crypto_generichash_update(&x->in.hash, m->bytes.data, m->bytes.len);
    x->in.len += m->bytes.len;
    x->bytes_received += m->bytes.len;
    g->counters.bytes_received += m->bytes.len;
    return true;
}

void gossip_swap_hold(struct gossip_exchange *x, uint64_t now_ns)
{
    x->in.state = GOSSIP_IN_HELD;
    x->in.held_ns = now_ns;
    x->stream->queued |= GOSSIP_QUEUE(GOSSIP_COMMIT);
}

static bool take_digest(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x,
                        const struct gossip_message *m)
{
    bool blob = x->in.state == GOSSIP_IN_BLOB && x->in.len == x->in.expected;
    bool repair = x->in.state == GOSSIP_IN_REPAIRING && x->in.repair_len == x->in.repair_expected;
    if (!blob && !repair)
        return false;
    crypto_generichash_state so_far = x->in.hash;
    crypto_generichash_final(&so_far, x->stream->received.bytes, ID_BYTES);
    if (!id_equal(&x->stream->received, &m->digest))
        return false;
    if (blob && gossip_is_modular(x->in.codec))
        gossip_repair_decode(g, now_ns, x);
    else
        gossip_swap_hold(x, now_ns);
    return true;
}

static bool take_commit(struct gossip_exchange *x, const struct gossip_message *m)
{
    bool sent = x->out.state == GOSSIP_OUT_DONE && (x->stream->queued & GOSSIP_QUEUE(GOSSIP_DIGEST)) == 0;
    if (x->confirmed || !sent || !id_equal(&x->stream->digest, &m->digest))
        return false;
    x->confirmed = true;
    return true;
}

static bool take_frame(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x,
                       const struct gossip_message *m)
{
    switch (m->type) {
    case GOSSIP_PIECE:
        return take_piece(g, x, m);
    case GOSSIP_DIGEST:
        return take_digest(g, now_ns, x, m);
    case GOSSIP_COMMIT:
        return take_commit(x, m);
    case GOSSIP_WANT:
        return gossip_repair_want(g, now_ns, x, m);
    case GOSSIP_REPAIR:
        return gossip_repair_piece(g, x, m);
    case GOSSIP_BUSY:
        return gossip_repair_refused(g, now_ns, x, m);
    case GOSSIP_INVITE:
    case GOSSIP_ACCEPT:
    case GOSSIP_FETCH:
    case GOSSIP_STATE:
        break;
    }
    return false;
}

void gossip_swap_frame(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x,
                       const struct gossip_message *m)
{
    ASSERT(x->stream->state == GOSSIP_STREAM_SWAP && x->state == GOSSIP_EXCHANGE_SWAPPING);
    if (!take_frame(g, now_ns, x, m))
        malformed(g, now_ns, x, ERR_MISMATCH);
    else if (gossip_exchange_is_open(x) && x->in.state == GOSSIP_IN_HELD && x->confirmed)
        gossip_end_merge(g, now_ns, x);
}

void gossip_swap_sent(struct gossip_exchange *x)
{
    ASSERT(x->out.state == GOSSIP_OUT_BLOB || x->out.state == GOSSIP_OUT_REPAIRING);
    crypto_generichash_state so_far = x->out.hash;
    crypto_generichash_final(&so_far, x->stream->digest.bytes, ID_BYTES);
    bool modular = gossip_is_modular(x->codec);
    x->out.state = x->out.state == GOSSIP_OUT_BLOB && modular ? GOSSIP_OUT_SENT : GOSSIP_OUT_DONE;
    x->stream->queued |= GOSSIP_QUEUE(GOSSIP_DIGEST);
}
