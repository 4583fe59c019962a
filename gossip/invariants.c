/* What must hold between any two calls of the exchange core. */
#include "gossip/internal.h"

static void check_counters(const struct gossip *g)
{
    uint64_t ended = g->counters.merges;
    uint64_t open = 0;
    for (size_t i = 0; i < GOSSIP_SOLO_COUNT; i++)
        ended += g->counters.solo[i];
    for (size_t i = 0; i < GOSSIP_LANES; i++)
        open += gossip_exchange_is_open(&g->lanes[i]);
    ASSERT(g->counters.rounds == ended + open); /* one outcome a round */
    ring_check_invariants(&g->event_ring);
}

static void check_swap(const struct gossip *g, const struct gossip_exchange *x)
{
    const struct gossip_buffer *buffer = &g->buffers[x->buffer];
    const struct gossip_stream *s = x->stream;
    bool want_queued = (s->queued & GOSSIP_QUEUE(GOSSIP_WANT)) != 0;
    ASSERT(s->state == GOSSIP_STREAM_SWAP);
    ASSERT(x->in.len <= x->in.expected && x->in.expected <= g->list_at);
    ASSERT(x->in.repair_len <= x->in.repair_expected);
    ASSERT(x->in.state == GOSSIP_IN_BLOB || x->in.len == x->in.expected);
    ASSERT(x->in.state != GOSSIP_IN_HELD || x->in.repair_len == x->in.repair_expected);
    ASSERT(x->in.state != GOSSIP_IN_HELD || !x->confirmed); /* else it had merged */
    ASSERT(buffer->decode_owed == (x->in.state == GOSSIP_IN_DECODING));
    ASSERT(buffer->repair_owed == (x->out.state == GOSSIP_OUT_ASKED));
    ASSERT(x->repair.set == (x->out.state > GOSSIP_OUT_ASKED && x->out.list_len > 0));
    ASSERT(!want_queued || x->wanted.set);
    ASSERT(x->out.list_len <= x->out.list_expected && x->out.list_expected <= g->size_max - g->list_at);
    ASSERT(x->out.state == GOSSIP_OUT_DONE || !x->confirmed);
}

static void check_exchange(const struct gossip *g, const struct gossip_exchange *x)
{
    bool open = gossip_exchange_is_open(x);
    bool prepared = open && x->state != GOSSIP_EXCHANGE_PREPARING;
    bool flows = x->state == GOSSIP_EXCHANGE_ASKING || x->state == GOSSIP_EXCHANGE_SWAPPING;
    ASSERT(!open ||
           x->deadline_ns <= x->began_ns + gossip_limit_ns(&g->config)); /* no wait beyond the limit */
    ASSERT(!open || x->paired);
    ASSERT(x->round == GOSSIP_NEVER || x->round <= g->round);
    ASSERT(x->blob.set == prepared);
    ASSERT((x->buffer >= 0) == prepared);
    ASSERT((x->stream != NULL) == flows);
    if (x->state == GOSSIP_EXCHANGE_ASKING)
        ASSERT(x->stream->state == GOSSIP_STREAM_OPENING || x->stream->state == GOSSIP_STREAM_INVITED);
    if (x->state == GOSSIP_EXCHANGE_SWAPPING)
        check_swap(g, x);
    if (prepared)
        ASSERT(g->buffers[x->buffer].use == GOSSIP_BUFFER_FILLING && g->buffers[x->buffer].round == x->round);
}

/* At most one exchange a lane and a fragment, and never two in one buffer. */
static void check_lanes(const struct gossip *g)
{
    size_t filling = 0;
    size_t prepared = 0;
    for (size_t i = 0; i < GOSSIP_LANES; i++) {
        const struct gossip_exchange *x = &g->lanes[i];
        check_exchange(g, x);
        ASSERT(x->round == GOSSIP_NEVER || x->round % GOSSIP_LANES == i);
        prepared += x->buffer >= 0;
        for (size_t j = 0; j < i; j++) {
            const struct gossip_exchange *y = &g->lanes[j];
            bool both = gossip_exchange_is_open(x) && gossip_exchange_is_open(y);
            ASSERT(!both || (x->fragment != y->fragment && x->stream != y->stream) || x->stream == NULL);
            ASSERT(!both || x->fragment != y->fragment);
        }
    }
    for (size_t i = 0; i < GOSSIP_BUFFERS; i++) {
        const struct gossip_buffer *buffer = &g->buffers[i];
        filling += buffer->use == GOSSIP_BUFFER_FILLING;
        bool owed = buffer->decode_owed || buffer->repair_owed;
        ASSERT(buffer->use != GOSSIP_BUFFER_FREE || !owed);
        ASSERT(buffer->use != GOSSIP_BUFFER_LENT || !owed);
        ASSERT(buffer->use != GOSSIP_BUFFER_OWED || owed);
        ASSERT(i < g->buffer_count || buffer->use == GOSSIP_BUFFER_FREE);
    }
    ASSERT(filling == prepared);
}

static void check_stream(const struct gossip *g, const struct gossip_stream *s)
{
    bool of_round = false;
    bool of_fetch = g->fetch.running && g->fetch.stream == s;
    for (size_t i = 0; i < GOSSIP_LANES; i++)
        of_round |= g->lanes[i].stream == s;
    switch (s->state) {
    case GOSSIP_STREAM_OPENING:
        ASSERT(of_round != of_fetch && !s->has_handle);
        break;
    case GOSSIP_STREAM_INVITED:
    case GOSSIP_STREAM_SWAP:
        ASSERT(of_round && s->has_handle);
        break;
    case GOSSIP_STREAM_ASKED:
    case GOSSIP_STREAM_FETCHING:
        ASSERT(of_fetch && s->has_handle);
        break;
    case GOSSIP_STREAM_SERVING:
        ASSERT(g->serving.stream == s && !g->serving.done && s->has_handle);
        break;
    case GOSSIP_STREAM_FREE:
    case GOSSIP_STREAM_FRESH:
    case GOSSIP_STREAM_PARKED:
    case GOSSIP_STREAM_REFUSED:
    case GOSSIP_STREAM_DONE:
    case GOSSIP_STREAM_BROKEN:
        ASSERT(!of_round && !of_fetch);
        ASSERT(s->out.len == 0 && s->want.len == 0); /* nothing borrowed */
        break;
    }
    bool waits = s->state != GOSSIP_STREAM_FREE && s->state != GOSSIP_STREAM_BROKEN && !of_round;
    ASSERT(!waits || s->deadline_ns != GOSSIP_NEVER); /* nothing waits for ever */
    ASSERT(s->out_at <= s->out.len && s->want_at <= s->want.len);
}

void gossip_check_invariants(const struct gossip *g)
{
    size_t parked = 0;
    check_counters(g);
    check_lanes(g);
    for (size_t i = 0; i < GOSSIP_STREAMS_MAX; i++) {
        const struct gossip_stream *s = &g->streams[i];
        check_stream(g, s);
        parked += s->state == GOSSIP_STREAM_PARKED;
        for (size_t j = 0; j < i && s->has_handle; j++)
            ASSERT(!g->streams[j].has_handle || g->streams[j].handle != s->handle);
    }
    ASSERT(parked <= GOSSIP_PARKED_MAX);
    ASSERT(!g->fetch.running || gossip_fetch_deadline(g) != GOSSIP_NEVER);
}
