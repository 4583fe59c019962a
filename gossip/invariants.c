/* What must hold between any two calls of the exchange core. */
#include "gossip/internal.h"

static void check_counters(const struct gossip *g)
{
    uint64_t ended = g->counters.merges;
    for (size_t i = 0; i < GOSSIP_SOLO_COUNT; i++)
        ended += g->counters.solo[i];
    ASSERT(g->counters.rounds == ended + (gossip_round_is_open(g) ? 1 : 0)); /* one outcome a round */
    ring_check_invariants(&g->event_ring);
}

static void check_round(const struct gossip *g)
{
    const struct gossip_open_round *r = &g->round;
    bool open = gossip_round_is_open(g);
    bool prepared = open && r->state != GOSSIP_ROUND_PREPARING;
    ASSERT(!open || r->deadline_ns <= r->began_ns + g->config.round_ns / 2); /* no wait beyond half a round */
    ASSERT(!open || r->paired);
    ASSERT(r->has_blob == prepared);
    ASSERT((r->buffer >= 0) == prepared);
    ASSERT((r->stream != NULL) == (r->state == GOSSIP_ROUND_ASKING || r->state == GOSSIP_ROUND_SWAPPING));
    if (r->state == GOSSIP_ROUND_ASKING)
        ASSERT(r->stream->state == GOSSIP_STREAM_OPENING || r->stream->state == GOSSIP_STREAM_INVITED);
    if (r->state == GOSSIP_ROUND_SWAPPING) {
        ASSERT(r->stream->state == GOSSIP_STREAM_SWAP);
        ASSERT(r->in_len <= r->in_expected && r->in_expected <= g->size_max);
        ASSERT(!(r->verified && r->confirmed)); /* else it had merged */
    }
    for (int i = 0; i < GOSSIP_BUFFERS; i++)
        ASSERT((g->buffers[i].use == GOSSIP_BUFFER_FILLING) == (r->buffer == i));
}

static void check_stream(const struct gossip *g, const struct gossip_stream *s)
{
    bool of_round = g->round.stream == s;
    bool of_fetch = g->fetch.running && g->fetch.stream == s;
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
        break;
    }
    bool waits = s->state != GOSSIP_STREAM_FREE && s->state != GOSSIP_STREAM_BROKEN && !of_round;
    ASSERT(!waits || s->deadline_ns != GOSSIP_NEVER); /* nothing waits for ever */
    ASSERT(s->out_at <= s->out.len || s->out.data == NULL);
}

void gossip_check_invariants(const struct gossip *g)
{
    size_t parked = 0;
    check_counters(g);
    check_round(g);
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
