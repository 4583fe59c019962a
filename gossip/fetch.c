/* Whole states: serving the latest slow weights to one joiner at a time, and fetching a peer's. */
#include <string.h>

#include "gossip/internal.h"

static uint64_t slowest_ns(const struct gossip *g, uint64_t bytes)
{
    double ns = (double)bytes / (double)g->config.serve_rate_min * 1e9;
    uint64_t limit = 30 * GOSSIP_ROUND_NS_MAX;
    return (ns < (double)limit ? (uint64_t)ns : limit) + g->config.stall_ns;
}

int gossip_set_state(struct gossip *g, uint64_t now_ns, uint64_t round, struct bytes blob,
                     const struct id *digest, uint64_t cookie)
{
    gossip_expire(g, now_ns);
    if (blob.len != g->config.layout.encoded_bytes[GOSSIP_CODEC_FP32])
        return ERR_INVALID;
    bool in_use = g->serving.stream != NULL && !g->serving.detached;
    if (in_use)
        g->serving.detached = true;
    else if (g->state.set)
        gossip_release(g, g->state.cookie);
    g->state = (struct gossip_snapshot){
        .set = true, .round = round, .blob = blob, .digest = *digest, .cookie = cookie};
    return ERR_OK;
}

void gossip_serve_begin(struct gossip *g, uint64_t now_ns, struct gossip_stream *s,
                        const struct gossip_message *m)
{
    if (!g->state.set) {
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_NO_STATE);
        return;
    }
    if (g->serving.stream != NULL) {
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_EXCHANGING);
        return;
    }
    uint64_t start = (uint64_t)m->index * GOSSIP_PIECE_BYTES;
    bool resumes = id_equal(&m->digest, &g->state.digest) && start < g->state.blob.len;
    s->state = GOSSIP_STREAM_SERVING;
    s->deadline_ns = now_ns + g->config.stall_ns;
    s->out = g->state.blob;
    s->out_at = resumes ? (size_t)start : 0;
    s->queued = GOSSIP_QUEUE(GOSSIP_STATE);
    g->serving = (struct gossip_serving){
        .stream = s, .from = g->state, .end_ns = now_ns + slowest_ns(g, g->state.blob.len - s->out_at)};
}

void gossip_serve_end(struct gossip *g)
{
    ASSERT(g->serving.stream != NULL);
    g->counters.states_served += g->serving.done;
    if (g->serving.detached)
        gossip_release(g, g->serving.from.cookie);
    g->serving = (struct gossip_serving){.stream = NULL};
}

int gossip_fetch(struct gossip *g, uint64_t now_ns, const struct id *peer, uint8_t *buffer, size_t cap)
{
    gossip_expire(g, now_ns);
    if (g->fetch.running)
        return ERR_STATE;
    if (cap < g->config.layout.encoded_bytes[GOSSIP_CODEC_FP32])
        return ERR_INVALID;
    uint64_t bytes = g->config.layout.encoded_bytes[GOSSIP_CODEC_FP32];
    g->fetch = (struct gossip_fetching){.running = true,
                                        .peer = *peer,
                                        .buffer = buffer,
                                        .retry_ns = now_ns,
                                        .end_ns = now_ns + slowest_ns(g, bytes)};
    gossip_fetch_expire(g, now_ns);
    return ERR_OK;
}

size_t gossip_fetched_bytes(const struct gossip *g)
{
    return g->fetch.running ? g->fetch.received : 0;
}

static void fail(struct gossip *g, int err)
{
    struct gossip_fetching *f = &g->fetch;
    struct gossip_event event = {.kind = GOSSIP_EVENT_FETCH_FAILED, .peer = f->peer, .err = err};
    if (f->stream != NULL)
        gossip_stream_break(f->stream);
    *f = (struct gossip_fetching){.running = false};
    gossip_emit(g, &event);
}

void gossip_fetch_cancel(struct gossip *g, uint64_t now_ns)
{
    gossip_expire(g, now_ns);
    if (g->fetch.running)
        fail(g, ERR_CLOSED);
}

void gossip_fetch_broken(struct gossip *g, uint64_t now_ns, int err)
{
    struct gossip_fetching *f = &g->fetch;
    ASSERT(f->running && f->stream != NULL);
    gossip_stream_break(f->stream);
    f->stream = NULL;
    bool mute = err == ERR_TIMEOUT && !f->known; /* it has not even answered: others may */
    if (mute || f->tries >= GOSSIP_FETCH_TRIES) {
        fail(g, err);
        return;
    }
    /* Doubling from a hundredth of the stall time; tries is at least 1 here or data came. */
    f->retry_ns = now_ns + (g->config.stall_ns / 100 << f->tries);
}

/* Opens the stream of the next try, or gives up when the whole takes too long. */
void gossip_fetch_expire(struct gossip *g, uint64_t now_ns)
{
    struct gossip_fetching *f = &g->fetch;
    if (!f->running)
        return;
    if (f->end_ns <= now_ns) {
        fail(g, ERR_TIMEOUT);
        return;
    }
    if (f->stream != NULL || f->retry_ns > now_ns)
        return;
    f->tries++;
    f->stream = gossip_stream_take(g, &f->peer);
    if (f->stream == NULL) {
        f->retry_ns = now_ns + g->config.stall_ns / 10;
        if (f->tries > GOSSIP_FETCH_TRIES)
            fail(g, ERR_FULL);
        return;
    }
    f->stream->deadline_ns = now_ns + g->config.stall_ns;
}

uint64_t gossip_fetch_deadline(const struct gossip *g)
{
    const struct gossip_fetching *f = &g->fetch;
    uint64_t deadline = GOSSIP_NEVER;
    if (!f->running)
        return deadline;
    if (f->stream == NULL)
        deadline = f->retry_ns;
    return deadline < f->end_ns ? deadline : f->end_ns;
}

/* The server says what follows.  A newer state than before starts from nothing. */
static int take_state(struct gossip *g, const struct gossip_message *m)
{
    struct gossip_fetching *f = &g->fetch;
    if (m->codec != GOSSIP_CODEC_FP32 || m->param_count != g->config.layout.param_count ||
        !id_equal(&m->schema, &g->config.layout.schema))
        return ERR_MISMATCH;
    bool resumes = f->known && id_equal(&f->digest, &m->digest) && f->received > 0 &&
                   (uint64_t)m->index * GOSSIP_PIECE_BYTES == f->received;
    if (resumes)
        return ERR_OK;
    if (m->index != 0)
        return ERR_MALFORMED;
    f->known = true;
    f->round = m->round;
    f->digest = m->digest;
    f->received = 0;
    crypto_generichash_init(&f->hash, NULL, 0, ID_BYTES);
    return ERR_OK;
}

static int take_piece(struct gossip *g, const struct gossip_message *m)
{
    struct gossip_fetching *f = &g->fetch;
    size_t left = (size_t)g->config.layout.encoded_bytes[GOSSIP_CODEC_FP32] - f->received;
    size_t wanted = left < GOSSIP_PIECE_BYTES ? left : GOSSIP_PIECE_BYTES;
    if (left == 0 || m->bytes.len != wanted || (size_t)m->index * GOSSIP_PIECE_BYTES != f->received)
        return ERR_MALFORMED;
    memcpy(f->buffer + f->received, m->bytes.data, m->bytes.len);
    crypto_generichash_update(&f->hash, m->bytes.data, m->bytes.len);
    f->received += m->bytes.len;
    f->tries = 0;
    g->counters.bytes_received += m->bytes.len;
    return ERR_OK;
}

static void complete(struct gossip *g, uint64_t now_ns)
{
    struct gossip_fetching *f = &g->fetch;
    struct id digest;
    crypto_generichash_final(&f->hash, digest.bytes, ID_BYTES);
    if (!id_equal(&digest, &f->digest)) {
        g->counters.malformed++;
        fail(g, ERR_MISMATCH);
        return;
    }
    struct gossip_event event = {.kind = GOSSIP_EVENT_STATE,
                                 .round = f->round,
                                 .peer = f->peer,
                                 .codec = GOSSIP_CODEC_FP32,
                                 .blob = bytes_of(f->buffer, f->received)};
    gossip_stream_finish(g, now_ns, f->stream);
    g->counters.states_fetched++;
    trace_emit(&g->config.trace, TRACE_STATE_FETCHED, now_ns, &f->peer, (int64_t)f->round,
               (int64_t)f->received, 0);
    *f = (struct gossip_fetching){.running = false};
    gossip_emit(g, &event);
}

void gossip_fetch_frame(struct gossip *g, uint64_t now_ns, struct gossip_stream *s,
                        const struct gossip_message *m)
{
    struct gossip_fetching *f = &g->fetch;
    int result = ERR_MALFORMED;
    ASSERT(f->running && f->stream == s);
    bool asked = (s->queued & GOSSIP_QUEUE(GOSSIP_FETCH)) == 0;
    if (s->state == GOSSIP_STREAM_ASKED && asked && m->type == GOSSIP_BUSY)
        result = m->reason == GOSSIP_BUSY_EXCHANGING ? ERR_BUSY : ERR_REFUSED;
    else if (s->state == GOSSIP_STREAM_ASKED && asked && m->type == GOSSIP_STATE)
        result = take_state(g, m);
    else if (s->state == GOSSIP_STREAM_FETCHING && m->type == GOSSIP_PIECE)
        result = take_piece(g, m);
    if (result < 0) {
        g->counters.malformed += result == ERR_MALFORMED || result == ERR_MISMATCH;
        fail(g, result);
        return;
    }
    s->state = GOSSIP_STREAM_FETCHING;
    s->deadline_ns = now_ns + g->config.stall_ns;
    if (f->received == g->config.layout.encoded_bytes[GOSSIP_CODEC_FP32])
        complete(g, now_ns);
}
