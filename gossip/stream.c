/* The stream table: inputs from streams, and what is pulled out. */
#include <string.h>

#include "gossip/internal.h"

#define QUEUE(type) (UINT32_C(1) << (type))

_Static_assert(GOSSIP_PIECE_BYTES + 64 <= GOSSIP_FRAME_MAX, "a full fragment fits its frame");

static struct gossip_stream *find(struct gossip *g, uint64_t handle)
{
    for (size_t i = 0; i < GOSSIP_STREAMS_MAX; i++)
        if (g->streams[i].state != GOSSIP_STREAM_FREE && g->streams[i].has_handle &&
            g->streams[i].handle == handle)
            return &g->streams[i];
    return NULL;
}

static struct gossip_stream *free_slot(struct gossip *g)
{
    for (size_t i = 0; i < GOSSIP_STREAMS_MAX; i++)
        if (g->streams[i].state == GOSSIP_STREAM_FREE)
            return &g->streams[i];
    return NULL;
}

static void drop(struct gossip_stream *s)
{
    *s = (struct gossip_stream){.state = GOSSIP_STREAM_FREE};
}

struct gossip_stream *gossip_stream_take(struct gossip *g, const struct id *peer)
{
    struct gossip_stream *s = free_slot(g);
    if (s == NULL)
        return NULL;
    *s = (struct gossip_stream){.state = GOSSIP_STREAM_OPENING,
                                .ours = true,
                                .peer = *peer,
                                .tag = ++g->next_tag,
                                .deadline_ns = GOSSIP_NEVER};
    return s;
}

void gossip_stream_break(struct gossip_stream *s)
{
    if (!s->has_handle) {
        drop(s);
        return;
    }
    s->state = GOSSIP_STREAM_BROKEN;
    s->deadline_ns = GOSSIP_NEVER;
    s->queued = 0;
    s->out = (struct bytes){NULL, 0};
}

void gossip_stream_finish(struct gossip *g, uint64_t now_ns, struct gossip_stream *s)
{
    s->state = GOSSIP_STREAM_DONE;
    s->deadline_ns = now_ns + g->config.first_frame_ns;
    s->out = (struct bytes){NULL, 0};
}

void gossip_stream_refuse(struct gossip *g, uint64_t now_ns, struct gossip_stream *s, enum gossip_busy reason)
{
    s->state = GOSSIP_STREAM_REFUSED;
    s->deadline_ns = now_ns + g->config.first_frame_ns;
    s->reason = reason;
    s->queued = QUEUE(GOSSIP_BUSY);
    g->counters.busy_sent++;
}

int gossip_stream_opened(struct gossip *g, uint64_t now_ns, uint64_t tag, uint64_t stream)
{
    gossip_expire(g, now_ns);
    for (size_t i = 0; i < GOSSIP_STREAMS_MAX; i++) {
        struct gossip_stream *s = &g->streams[i];
        if (s->state != GOSSIP_STREAM_OPENING || !s->open_asked || s->tag != tag)
            continue;
        if (find(g, stream) != NULL)
            return ERR_NOT_FOUND;
        bool exchange = g->round.stream == s;
        s->has_handle = true;
        s->handle = stream;
        s->asked_ns = now_ns;
        s->state = exchange ? GOSSIP_STREAM_INVITED : GOSSIP_STREAM_ASKED;
        s->queued = exchange ? QUEUE(GOSSIP_INVITE) : QUEUE(GOSSIP_FETCH);
        if (!exchange)
            s->deadline_ns = now_ns + g->config.stall_ns;
        return ERR_OK;
    }
    return ERR_NOT_FOUND;
}

/* The stream is gone or of no use any more; its owner learns why. */
static void lost(struct gossip *g, uint64_t now_ns, struct gossip_stream *s, enum gossip_solo reason, int err)
{
    if (g->round.stream == s)
        gossip_end_solo(g, now_ns, reason, err);
    else if (g->fetch.stream == s)
        gossip_fetch_broken(g, now_ns, err);
    else if (g->serving.stream == s && !g->serving.done)
        gossip_serve_end(g);
}

void gossip_stream_open_failed(struct gossip *g, uint64_t now_ns, uint64_t tag, int err)
{
    gossip_expire(g, now_ns);
    for (size_t i = 0; i < GOSSIP_STREAMS_MAX; i++) {
        struct gossip_stream *s = &g->streams[i];
        if (s->state == GOSSIP_STREAM_OPENING && s->open_asked && s->tag == tag) {
            lost(g, now_ns, s, GOSSIP_SOLO_UNREACHABLE, err < 0 ? err : ERR_UNREACHABLE);
            return;
        }
    }
}

int gossip_stream_accepted(struct gossip *g, uint64_t now_ns, const struct id *peer, uint64_t stream)
{
    size_t theirs = 0;
    size_t of_peer = 0;
    gossip_expire(g, now_ns);
    if (find(g, stream) != NULL)
        return ERR_EXISTS;
    for (size_t i = 0; i < GOSSIP_STREAMS_MAX; i++) {
        const struct gossip_stream *s = &g->streams[i];
        bool accepted = s->state != GOSSIP_STREAM_FREE && !s->ours;
        theirs += accepted;
        of_peer += accepted && id_equal(&s->peer, peer);
    }
    /* The last slot for accepted streams is kept for the round's partner. */
    bool expected = gossip_round_is_open(g) && id_equal(&g->round.partner, peer);
    size_t limit = GOSSIP_STREAMS_MAX - GOSSIP_STREAMS_RESERVED - (expected ? 0 : 1);
    struct gossip_stream *s = free_slot(g);
    if (s == NULL || theirs >= limit || of_peer >= GOSSIP_PEER_STREAMS_MAX)
        return ERR_FULL;
    *s = (struct gossip_stream){.state = GOSSIP_STREAM_FRESH,
                                .has_handle = true,
                                .handle = stream,
                                .peer = *peer,
                                .deadline_ns = now_ns + g->config.first_frame_ns};
    return ERR_OK;
}

static void first_frame(struct gossip *g, uint64_t now_ns, struct gossip_stream *s,
                        const struct gossip_message *m)
{
    bool request = m->type == GOSSIP_INVITE || m->type == GOSSIP_FETCH;
    if (!request) {
        g->counters.malformed++;
        gossip_stream_break(s);
    } else if (!id_equal(&m->run, &g->config.run)) {
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_UNKNOWN_RUN);
    } else if (m->type == GOSSIP_INVITE) {
        gossip_swap_invite(g, now_ns, s, m);
    } else {
        gossip_serve_begin(g, now_ns, s, m);
    }
}

void gossip_stream_frame(struct gossip *g, uint64_t now_ns, uint64_t stream, struct bytes frame)
{
    struct gossip_message m;
    gossip_expire(g, now_ns);
    struct gossip_stream *s = find(g, stream);
    if (s == NULL)
        return;
    int result = gossip_message_decode(frame, &m);
    switch (s->state) {
    case GOSSIP_STREAM_REFUSED:
    case GOSSIP_STREAM_DONE:
    case GOSSIP_STREAM_BROKEN:
        return; /* whatever they still say is too late */
    case GOSSIP_STREAM_FRESH:
    case GOSSIP_STREAM_INVITED:
    case GOSSIP_STREAM_SWAP:
    case GOSSIP_STREAM_ASKED:
    case GOSSIP_STREAM_FETCHING:
        break;
    case GOSSIP_STREAM_PARKED:
    case GOSSIP_STREAM_SERVING:
        result = ERR_MALFORMED; /* it is our turn to speak */
        break;
    case GOSSIP_STREAM_FREE:
    case GOSSIP_STREAM_OPENING:
        ASSERT(!s->has_handle);
    }
    if (result < 0) {
        g->counters.malformed++;
        lost(g, now_ns, s, GOSSIP_SOLO_MALFORMED, result);
        if (s->state != GOSSIP_STREAM_FREE)
            gossip_stream_break(s);
        return;
    }
    if (s->state == GOSSIP_STREAM_FRESH)
        first_frame(g, now_ns, s, &m);
    else if (s->state == GOSSIP_STREAM_INVITED)
        gossip_swap_answer(g, now_ns, s, &m);
    else if (s->state == GOSSIP_STREAM_SWAP)
        gossip_swap_frame(g, now_ns, s, &m);
    else
        gossip_fetch_frame(g, now_ns, s, &m);
}

void gossip_stream_writable(struct gossip *g, uint64_t now_ns, uint64_t stream, size_t room)
{
    gossip_expire(g, now_ns);
    struct gossip_stream *s = find(g, stream);
    if (s != NULL)
        s->room = room;
}

size_t gossip_streams_waiting(const struct gossip *g, uint64_t streams[GOSSIP_STREAMS_MAX])
{
    size_t count = 0;
    for (size_t i = 0; i < GOSSIP_STREAMS_MAX; i++) {
        const struct gossip_stream *s = &g->streams[i];
        bool flows =
            (s->state == GOSSIP_STREAM_SWAP || s->state == GOSSIP_STREAM_SERVING) && s->out_at < s->out.len;
        if (s->has_handle && (s->queued != 0 || flows))
            streams[count++] = s->handle;
    }
    return count;
}

void gossip_stream_closed(struct gossip *g, uint64_t now_ns, uint64_t stream, int err)
{
    gossip_expire(g, now_ns);
    struct gossip_stream *s = find(g, stream);
    if (s == NULL)
        return;
    bool only_their_side = err == 0;
    switch (s->state) {
    case GOSSIP_STREAM_REFUSED:
    case GOSSIP_STREAM_DONE:
    case GOSSIP_STREAM_BROKEN:
    case GOSSIP_STREAM_SERVING:
        if (only_their_side)
            return; /* they have nothing more to say; we still have */
        break;
    case GOSSIP_STREAM_FRESH:
    case GOSSIP_STREAM_PARKED:
    case GOSSIP_STREAM_INVITED:
    case GOSSIP_STREAM_SWAP:
    case GOSSIP_STREAM_ASKED:
    case GOSSIP_STREAM_FETCHING:
    case GOSSIP_STREAM_FREE:
    case GOSSIP_STREAM_OPENING:
        break;
    }
    lost(g, now_ns, s, GOSSIP_SOLO_BROKEN, only_their_side ? ERR_CLOSED : err);
    if (s->state == GOSSIP_STREAM_FREE || s->handle != stream)
        return;
    if (only_their_side)
        gossip_stream_break(s);
    else
        drop(s);
}

/* Fills the control frame of this type for this stream. */
static struct gossip_message control(const struct gossip *g, uint64_t now_ns, const struct gossip_stream *s,
                                     enum gossip_type type)
{
    const struct gossip_config *c = &g->config;
    struct gossip_message m = {.type = type, .run = c->run, .round = g->round.number, .view = g->view.hash};
    m.codecs = c->codecs;
    m.codec = g->round.codec;
    m.param_count = c->layout.param_count;
    m.schema = c->layout.schema;
    m.age_ms = gossip_age_ms(g, now_ns);
    m.held_ms = (uint32_t)((now_ns - s->asked_ns) / 1000000);
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
    while ((s->queued & QUEUE(type)) == 0)
        type = (enum gossip_type)(type + 1);
    struct gossip_message m = control(g, now_ns, s, type);
    int len = gossip_message_encode(&m, g->frame, sizeof g->frame);
    ASSERT(len > 0 && len <= GOSSIP_CONTROL_MAX);
    if ((size_t)len + GOSSIP_STREAM_HEAD > s->room)
        return 0;
    if (type == GOSSIP_INVITE) {
        s->asked_ns = now_ns;
        trace_emit(&g->config.trace, TRACE_PAIR_INVITED, now_ns, &s->peer, (int64_t)g->round.number, 0, 0);
    }
    s->queued &= ~QUEUE(type);
    return (size_t)len;
}

static size_t send_fragment(struct gossip *g, uint64_t now_ns, struct gossip_stream *s)
{
    size_t left = s->out.len - s->out_at;
    size_t count = left < GOSSIP_PIECE_BYTES ? left : GOSSIP_PIECE_BYTES;
    if (count + 64 > s->room)
        return 0;
    struct gossip_message m = {.type = GOSSIP_PIECE,
                               .index = (uint32_t)(s->out_at / GOSSIP_PIECE_BYTES),
                               .bytes = bytes_of(s->out.data + s->out_at, count)};
    int len = gossip_message_encode(&m, g->frame, sizeof g->frame);
    ASSERT(len > 0 && (size_t)len + GOSSIP_STREAM_HEAD <= count + 64);
    if (s->state == GOSSIP_STREAM_SWAP)
        crypto_generichash_update(&g->round.out_hash, m.bytes.data, count);
    s->out_at += count;
    g->counters.bytes_sent += count;
    if (s->state == GOSSIP_STREAM_SWAP && s->out_at == s->out.len)
        gossip_swap_sent(g, s);
    if (s->state == GOSSIP_STREAM_SERVING) {
        uint64_t stall = now_ns + g->config.stall_ns;
        s->deadline_ns = stall < g->serving.end_ns ? stall : g->serving.end_ns;
        if (s->out_at == s->out.len) {
            g->serving.done = true;
            gossip_stream_finish(g, now_ns, s);
        }
    }
    return (size_t)len;
}

static size_t send_next(struct gossip *g, uint64_t now_ns, struct gossip_stream *s)
{
    if (!s->has_handle)
        return 0;
    if (s->queued != 0)
        return send_control(g, now_ns, s);
    bool flows = s->state == GOSSIP_STREAM_SWAP || s->state == GOSSIP_STREAM_SERVING;
    return flows && s->out_at < s->out.len ? send_fragment(g, now_ns, s) : 0;
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
    drop(s);
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
