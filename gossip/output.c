/* What is pulled out of the core: frames as the streams take them, and the changes of streams. */
#include "gossip/internal.h"

enum { FRAME_HEAD_MAX = 64 }; /* of a frame with bytes, length prefix included */

_Static_assert(GOSSIP_PIECE_BYTES + FRAME_HEAD_MAX <= GOSSIP_FRAME_MAX, "a full piece fits its frame");

/* Fills the control frame of this type for this stream.  Frames of an exchange speak of its round, BUSY of
 * the newest. */
static struct gossip_message control(struct gossip *g, uint64_t now_ns, const struct gossip_stream *s,
                                     enum gossip_type type)
{
    const struct gossip_config *c = &g->config;
    const struct gossip_exchange *x = gossip_exchange_of_stream(g, s);
    uint64_t age_ms = (x == NULL ? gossip_age_ns(g, now_ns) : now_ns - x->began_ns) / GOSSIP_NS_PER_MS;
    struct gossip_message m = {.type = type, .run = c->run, .round = g->round, .view = g->view.hash};
    if (x != NULL) {
        m.round = x->round;
        m.codec = x->codec;
    }
    m.codecs = c->codecs;
    m.param_count = c->layout.param_count;
    m.schema = c->layout.schema;
    m.age_ms = age_ms > UINT32_MAX ? UINT32_MAX : (uint32_t)age_ms;
    m.held_ms = (uint32_t)((now_ns - s->asked_ns) / GOSSIP_NS_PER_MS);
    m.reason = s->reason;
    if (type == GOSSIP_DIGEST)
        m.digest = s->digest;
    if (type == GOSSIP_COMMIT)
        m.digest = s->received;
    if (type == GOSSIP_FETCH && g->fetch.known) {
        m.digest = g->fetch.digest;
        m.index = (uint32_t)(g->fetch.received / GOSSIP_PIECE_BYTES);
    }
    if (type == GOSSIP_STATE) {
        m.round = g->serving.from.round;
        m.digest = g->serving.from.digest;
        m.codec = GOSSIP_CODEC_FP32;
        m.index = (uint32_t)(s->out_at / GOSSIP_PIECE_BYTES);
    }
    return m;
}

/* The next frame of the stream goes to g->frame if there is room for it; returns its length, 0: nothing to
 * send. */
static size_t send_control(struct gossip *g, uint64_t now_ns, struct gossip_stream *s)
{
    enum gossip_type type = GOSSIP_INVITE;
    while ((s->queued & GOSSIP_QUEUE(type)) == 0)
        type = (enum gossip_type)(type + 1);
    struct gossip_message m = control(g, now_ns, s, type);
    int len = gossip_message_encode(&m, g->frame, sizeof g->frame);
    ASSERT(len > 0 && len <= GOSSIP_CONTROL_MAX);
    if ((size_t)len + GOSSIP_STREAM_HEAD > s->room)
        return 0;
    if (type == GOSSIP_INVITE) {
        s->asked_ns = now_ns;
        trace_emit(&g->config.trace, TRACE_PAIR_INVITED, now_ns, &s->peer, (int64_t)m.round, 0, 0);
    }
    s->queued &= ~GOSSIP_QUEUE(type);
    return (size_t)len;
}

/* A frame with the bytes from *at on, as many as one takes. */
static size_t send_bytes(struct gossip *g, struct gossip_stream *s, enum gossip_type type, struct bytes from,
                         size_t *at)
{
    size_t left = from.len - *at;
    size_t count = left < GOSSIP_PIECE_BYTES ? left : GOSSIP_PIECE_BYTES;
    if (count + FRAME_HEAD_MAX > s->room)
        return 0;
    struct gossip_message m = {.type = type,
                               .index = (uint32_t)(*at / GOSSIP_PIECE_BYTES),
                               .bytes = bytes_of(count == 0 ? NULL : from.data + *at, count),
                               .length = from.len};
    int len = gossip_message_encode(&m, g->frame, sizeof g->frame);
    ASSERT(len > 0 && (size_t)len + GOSSIP_STREAM_HEAD <= count + FRAME_HEAD_MAX);
    *at += count;
    g->counters.bytes_sent += count;
    return (size_t)len;
}

static size_t send_want(struct gossip *g, struct gossip_stream *s)
{
    size_t before = s->want_at;
    size_t len = send_bytes(g, s, GOSSIP_WANT, s->want, &s->want_at);
    struct gossip_exchange *x = gossip_exchange_of_stream(g, s);
    if (len > 0 && s->want_at == s->want.len)
        s->queued &= ~GOSSIP_QUEUE(GOSSIP_WANT);
    g->counters.repair_bytes_sent += s->want_at - before;
    if (x != NULL) /* an empty list may be outlived by its stream */
        x->bytes_sent += s->want_at - before;
    return len;
}

static size_t send_exchange(struct gossip *g, struct gossip_stream *s)
{
    struct gossip_exchange *x = gossip_exchange_of_stream(g, s);
    size_t before = s->out_at;
    size_t len = send_bytes(g, s, s->out_type, s->out, &s->out_at);
    size_t count = s->out_at - before;
    if (count == 0)
        return 0;
    crypto_generichash_update(&x->out.hash, s->out.data + before, count);
    x->bytes_sent += count;
    if (s->out_type == GOSSIP_REPAIR)
        g->counters.repair_bytes_sent += count;
    if (s->out_at == s->out.len)
        gossip_swap_sent(x);
    return len;
}

static size_t send_state(struct gossip *g, uint64_t now_ns, struct gossip_stream *s)
{
    size_t len = send_bytes(g, s, GOSSIP_PIECE, s->out, &s->out_at);
    if (len == 0)
        return 0;
    uint64_t stall = now_ns + g->config.stall_ns;
    s->deadline_ns = stall < g->serving.end_ns ? stall : g->serving.end_ns;
    if (s->out_at == s->out.len) {
        g->serving.done = true;
        gossip_stream_finish(g, now_ns, s);
    }
    return len;
}

/* Requests and answers first, then the list, which the commit must not overtake, then digest and commit. */
static size_t send_next(struct gossip *g, uint64_t now_ns, struct gossip_stream *s)
{
    uint32_t last = GOSSIP_QUEUE(GOSSIP_DIGEST) | GOSSIP_QUEUE(GOSSIP_COMMIT);
    uint32_t list = GOSSIP_QUEUE(GOSSIP_WANT);
    if (!s->has_handle)
        return 0;
    if ((s->queued & list) != 0 && (s->queued & ~(last | list)) == 0)
        return send_want(g, s);
    if (s->queued != 0)
        return send_control(g, now_ns, s);
    if (s->out_at >= s->out.len)
        return 0;
    if (s->state == GOSSIP_STREAM_SWAP)
        return send_exchange(g, s);
    return s->state == GOSSIP_STREAM_SERVING ? send_state(g, now_ns, s) : 0;
}

/* An open, finish or reset that this stream is owed. */
static bool poll_change(struct gossip_stream *s, struct gossip_action *out)
{
    *out = (struct gossip_action){.peer = s->peer, .tag = s->tag, .stream = s->handle};
    if (s->state == GOSSIP_STREAM_OPENING && !s->open_asked) {
        out->kind = GOSSIP_ACTION_OPEN;
        out->for_state = s->deadline_ns != GOSSIP_NEVER;
        s->open_asked = true;
        return true;
    }
    bool ending = s->state == GOSSIP_STREAM_DONE || s->state == GOSSIP_STREAM_REFUSED;
    if (s->state == GOSSIP_STREAM_BROKEN) {
        out->kind = GOSSIP_ACTION_RESET;
    } else if (ending && s->queued == 0) {
        out->kind = GOSSIP_ACTION_FINISH;
    } else {
        return false;
    }
    gossip_stream_drop(s);
    return true;
}

bool gossip_poll_action(struct gossip *g, uint64_t now_ns, struct gossip_action *out)
{
    for (size_t i = 0; i < GOSSIP_STREAMS_MAX; i++)
        if (poll_change(&g->streams[i], out))
            return true;
    for (size_t i = 0; i < GOSSIP_STREAMS_MAX; i++) {
        struct gossip_stream *s = &g->streams[(g->cursor + i) % GOSSIP_STREAMS_MAX];
        size_t len = send_next(g, now_ns, s);
        if (len == 0)
            continue;
        s->room -= len + GOSSIP_STREAM_HEAD;
        g->cursor = (g->cursor + i + 1) % GOSSIP_STREAMS_MAX;
        *out = (struct gossip_action){.kind = GOSSIP_ACTION_SEND,
                                      .peer = s->peer,
                                      .stream = s->handle,
                                      .frame = bytes_of(g->frame, len)};
        return true;
    }
    return false;
}
