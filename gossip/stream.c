/* The stream table and the inputs from streams. */
#include <string.h>

#include "gossip/internal.h"

struct gossip_stream *gossip_stream_find(struct gossip *g, uint64_t handle)
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

void gossip_stream_drop(struct gossip_stream *s)
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

/* What the stream still sends is control frames. */
static void lend_nothing(struct gossip_stream *s)
{
    s->out = (struct bytes){NULL, 0};
    s->want = (struct bytes){NULL, 0};
    s->out_at = 0;
    s->want_at = 0;
}

void gossip_stream_break(struct gossip_stream *s)
{
    if (!s->has_handle) {
        gossip_stream_drop(s);
        return;
    }
    s->state = GOSSIP_STREAM_BROKEN;
    s->deadline_ns = GOSSIP_NEVER;
    s->queued = 0;
    lend_nothing(s);
}

void gossip_stream_finish(struct gossip *g, uint64_t now_ns, struct gossip_stream *s)
{
    s->state = GOSSIP_STREAM_DONE;
    s->deadline_ns = now_ns + g->config.first_frame_ns;
    ASSERT((s->queued & GOSSIP_QUEUE(GOSSIP_WANT)) == 0 || s->want.len == 0);
    lend_nothing(s);
}

void gossip_stream_refuse(struct gossip *g, uint64_t now_ns, struct gossip_stream *s, enum gossip_busy reason)
{
    s->state = GOSSIP_STREAM_REFUSED;
    s->deadline_ns = now_ns + g->config.first_frame_ns;
    s->reason = reason;
    s->queued = GOSSIP_QUEUE(GOSSIP_BUSY);
    lend_nothing(s);
    g->counters.busy_sent++;
}

int gossip_stream_opened(struct gossip *g, uint64_t now_ns, uint64_t tag, uint64_t stream)
{
    gossip_expire(g, now_ns);
    for (size_t i = 0; i < GOSSIP_STREAMS_MAX; i++) {
        struct gossip_stream *s = &g->streams[i];
        if (s->state != GOSSIP_STREAM_OPENING || !s->open_asked || s->tag != tag)
            continue;
        if (gossip_stream_find(g, stream) != NULL)
            return ERR_NOT_FOUND;
        bool exchange = gossip_exchange_of_stream(g, s) != NULL;
        s->has_handle = true;
        s->handle = stream;
        s->asked_ns = now_ns;
        s->state = exchange ? GOSSIP_STREAM_INVITED : GOSSIP_STREAM_ASKED;
        s->queued = exchange ? GOSSIP_QUEUE(GOSSIP_INVITE) : GOSSIP_QUEUE(GOSSIP_FETCH);
        if (!exchange)
            s->deadline_ns = now_ns + g->config.first_frame_ns;
        return ERR_OK;
    }
    return ERR_NOT_FOUND;
}

/* The stream is gone or of no use any more; its owner learns why. */
static void lost(struct gossip *g, uint64_t now_ns, struct gossip_stream *s, enum gossip_solo reason, int err)
{
    struct gossip_exchange *x = gossip_exchange_of_stream(g, s);
    if (x != NULL)
        gossip_end_solo(g, now_ns, x, reason, err);
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
    if (gossip_stream_find(g, stream) != NULL)
        return ERR_EXISTS;
    for (size_t i = 0; i < GOSSIP_STREAMS_MAX; i++) {
        const struct gossip_stream *s = &g->streams[i];
        bool accepted = s->state != GOSSIP_STREAM_FREE && !s->ours;
        theirs += accepted;
        of_peer += accepted && id_equal(&s->peer, peer);
    }
    /* The last slots for accepted streams are kept for the partners of the open rounds. */
    bool expected = false;
    for (size_t i = 0; i < GOSSIP_LANES; i++)
        expected |= gossip_exchange_is_open(&g->lanes[i]) && id_equal(&g->lanes[i].partner, peer);
    size_t limit = GOSSIP_STREAMS_MAX - GOSSIP_STREAMS_RESERVED - (expected ? 0 : GOSSIP_LANES);
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
    struct gossip_stream *s = gossip_stream_find(g, stream);
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
        gossip_swap_answer(g, now_ns, gossip_exchange_of_stream(g, s), &m);
    else if (s->state == GOSSIP_STREAM_SWAP)
        gossip_swap_frame(g, now_ns, gossip_exchange_of_stream(g, s), &m);
    else
        gossip_fetch_frame(g, now_ns, s, &m);
}

void gossip_stream_writable(struct gossip *g, uint64_t now_ns, uint64_t stream, size_t room)
{
    gossip_expire(g, now_ns);
    struct gossip_stream *s = gossip_stream_find(g, stream);
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
    struct gossip_stream *s = gossip_stream_find(g, stream);
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
        gossip_stream_drop(s);
}
