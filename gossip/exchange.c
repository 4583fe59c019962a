/* Life cycle, rounds, deadlines and outcomes of the exchange core. */
#include "gossip/exchange.h"

#include <string.h>

#include "gossip/internal.h"
#include "gossip/pairing.h"

struct gossip_config gossip_config_default(void)
{
    return (struct gossip_config){.codecs = (1u << GOSSIP_CODEC_COUNT) - 1,
                                  .round_ns = UINT64_C(30000000000),
                                  .first_frame_ns = UINT64_C(10000000000),
                                  .stall_ns = UINT64_C(20000000000),
                                  .serve_rate_min = 16384};
}

int gossip_config_check(const struct gossip_config *config, const char **why)
{
    *why = "";
    if (config->layout.param_count == 0 || config->layout.param_count > GOSSIP_PARAMS_MAX)
        *why = "the layout must come from gossip_layout_of";
    else if (config->codecs == 0 || config->codecs >> GOSSIP_CODEC_COUNT != 0)
        *why = "at least one known codec must be accepted";
    else if (config->round_ns < GOSSIP_ROUND_NS_MIN || config->round_ns > GOSSIP_ROUND_NS_MAX)
        *why = "a round must last between 1 ms and 1 day";
    else if (config->first_frame_ns == 0 || config->first_frame_ns > GOSSIP_ROUND_NS_MAX)
        *why = "first_frame_ns must be above 0 and at most a day";
    else if (config->stall_ns < 100 || config->stall_ns > GOSSIP_ROUND_NS_MAX)
        *why = "stall_ns must be between 100 ns and a day";
    else if (config->serve_rate_min == 0)
        *why = "serve_rate_min must be above 0";
    return **why == '\0' ? ERR_OK : ERR_INVALID;
}

uint64_t gossip_limit_ns(const struct gossip_config *config)
{
    uint64_t half_cycle = config->layout.fragment_count * config->round_ns / 2;
    uint64_t most = config->round_ns + config->round_ns / 2;
    return half_cycle < most ? half_cycle : most;
}

static uint64_t aligned(uint64_t bytes)
{
    return (bytes + GOSSIP_ALIGN - 1) / GOSSIP_ALIGN * GOSSIP_ALIGN;
}

/* Room for the largest blob with its repair. */
static uint64_t blob_area(const struct gossip_config *config)
{
    uint64_t largest = 0;
    for (size_t f = 0; f < config->layout.fragment_count; f++) {
        for (unsigned codec = 0; codec < GOSSIP_CODEC_COUNT; codec++) {
            if ((config->codecs >> codec & 1) == 0)
                continue;
            uint64_t bytes = aligned(config->layout.fragment_bytes[f][codec]);
            if (gossip_is_modular((enum gossip_codec)codec))
                bytes += aligned(gossip_layout_repair_max(&config->layout, f));
            largest = bytes > largest ? bytes : largest;
        }
    }
    return largest;
}

static uint64_t list_area(const struct gossip_config *config)
{
    uint64_t largest = 0;
    for (size_t f = 0; f < config->layout.fragment_count; f++) {
        uint64_t bytes = aligned(gossip_list_bytes_max(&config->layout, f));
        largest = bytes > largest ? bytes : largest;
    }
    return largest;
}

static size_t head_bytes(void)
{
    return (size_t)aligned(sizeof(struct gossip));
}

/* With one fragment only one exchange can be in flight. */
static size_t buffer_count(const struct gossip_config *config)
{
    return config->layout.fragment_count == 1 ? GOSSIP_BUFFERS - 1 : GOSSIP_BUFFERS;
}

size_t gossip_size_bytes(const struct gossip_config *config)
{
    uint64_t each = blob_area(config) + list_area(config);
    bool fits = each <= (SIZE_MAX - head_bytes()) / buffer_count(config);
    return fits ? head_bytes() + buffer_count(config) * (size_t)each : 0;
}

struct gossip *gossip_init(void *block, size_t size, const struct gossip_config *config)
{
    const char *why;
    struct gossip *g = block;
    ASSERT(gossip_config_check(config, &why) == ERR_OK);
    ASSERT((uintptr_t)block % GOSSIP_ALIGN == 0);
    ASSERT(size >= gossip_size_bytes(config) && gossip_size_bytes(config) > 0);
    memset(g, 0, sizeof *g);
    g->config = *config;
    g->list_at = (size_t)blob_area(config);
    g->size_max = g->list_at + (size_t)list_area(config);
    g->buffer_count = buffer_count(config);
    g->event_ring = ring_init(GOSSIP_EVENTS_MAX);
    for (size_t i = 0; i < GOSSIP_LANES; i++)
        g->lanes[i] = (struct gossip_exchange){.round = GOSSIP_NEVER, .buffer = -1};
    for (size_t i = 0; i < g->buffer_count; i++)
        g->buffers[i].data = (uint8_t *)block + head_bytes() + i * g->size_max;
    return g;
}

void gossip_emit(struct gossip *g, const struct gossip_event *event)
{
    size_t at = ring_push(&g->event_ring);
    ASSERT(at != RING_NONE); /* the caller drains after each input */
    g->events[at] = *event;
}

void gossip_release(struct gossip *g, uint64_t cookie)
{
    gossip_emit(g, &(struct gossip_event){.kind = GOSSIP_EVENT_RELEASE, .cookie = cookie});
}

bool gossip_poll_event(struct gossip *g, struct gossip_event *out)
{
    size_t at = ring_pop(&g->event_ring);
    if (at == RING_NONE)
        return false;
    *out = g->events[at];
    return true;
}

bool gossip_exchange_is_open(const struct gossip_exchange *x)
{
    return x->state != GOSSIP_EXCHANGE_CLOSED;
}

struct gossip_exchange *gossip_exchange_of_round(struct gossip *g, uint64_t round)
{
    struct gossip_exchange *x = &g->lanes[round % GOSSIP_LANES];
    return x->round == round ? x : NULL;
}

struct gossip_exchange *gossip_exchange_of_stream(struct gossip *g, const struct gossip_stream *s)
{
    for (size_t i = 0; i < GOSSIP_LANES; i++)
        if (g->lanes[i].stream == s)
            return &g->lanes[i];
    return NULL;
}

struct gossip_exchange *gossip_exchange_in_the_way(struct gossip *g, uint64_t round)
{
    size_t fragment = gossip_layout_fragment(&g->config.layout, round);
    for (size_t i = 0; i < GOSSIP_LANES; i++) {
        struct gossip_exchange *x = &g->lanes[i];
        if (gossip_exchange_is_open(x) && (i == round % GOSSIP_LANES || x->fragment == fragment))
            return x;
    }
    return NULL;
}

struct gossip_path *gossip_path_of(struct gossip *g, const struct id *peer)
{
    for (size_t i = 0; i < GOSSIP_PATHS_MAX; i++)
        if (id_equal(&g->paths[i].peer, peer))
            return &g->paths[i];
    struct gossip_path *path = &g->paths[g->path_next];
    g->path_next = (g->path_next + 1) % GOSSIP_PATHS_MAX;
    *path = (struct gossip_path){.peer = *peer};
    return path;
}

uint64_t gossip_path_rate(const struct gossip *g, const struct id *peer, uint64_t *rtt_ns)
{
    *rtt_ns = 0;
    for (size_t i = 0; i < GOSSIP_PATHS_MAX; i++) {
        if (!id_equal(&g->paths[i].peer, peer))
            continue;
        *rtt_ns = g->paths[i].rtt_ns;
        return g->paths[i].rate;
    }
    return 0;
}

void gossip_buffer_settle(struct gossip_buffer *buffer)
{
    if (buffer->use == GOSSIP_BUFFER_OWED && !buffer->decode_owed && !buffer->repair_owed)
        buffer->use = GOSSIP_BUFFER_FREE;
}

static void give_back(struct gossip *g, struct gossip_loan *loan)
{
    if (loan->set)
        gossip_release(g, loan->cookie);
    *loan = (struct gossip_loan){.set = false};
}

/* What both outcomes share: the stream is let go by the caller, loans and buffer are given back. */
static void close_exchange(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x,
                           enum gossip_buffer_use use)
{
    bool held = x->state == GOSSIP_EXCHANGE_SWAPPING && x->in.state == GOSSIP_IN_HELD;
    if (held && now_ns - x->in.held_ns > g->counters.commit_wait_max_ns)
        g->counters.commit_wait_max_ns = now_ns - x->in.held_ns;
    x->state = GOSSIP_EXCHANGE_CLOSED;
    x->stream = NULL;
    give_back(g, &x->blob);
    give_back(g, &x->wanted);
    give_back(g, &x->repair);
    if (x->buffer >= 0) {
        g->buffers[x->buffer].use = use;
        gossip_buffer_settle(&g->buffers[x->buffer]);
    }
    x->buffer = -1;
}

/* What both outcomes say. */
static struct gossip_event outcome_of(const struct gossip_exchange *x, uint64_t now_ns)
{
    struct gossip_event event = {.round = x->round,
                                 .fragment = x->fragment,
                                 .elapsed_ns = now_ns - x->began_ns,
                                 .bytes_sent = x->bytes_sent,
                                 .bytes_received = x->bytes_received};
    if (x->state == GOSSIP_EXCHANGE_SWAPPING)
        event.swap_ns = now_ns - x->swap_ns;
    if (x->paired)
        event.peer = x->partner;
    return event;
}

/* A failed wait forgets what made it too short: the next one gets the whole limit. */
static void forget_estimates(struct gossip *g, const struct gossip_exchange *x)
{
    if (x->state == GOSSIP_EXCHANGE_WAITING)
        g->wait_ns = 0;
    if (x->state == GOSSIP_EXCHANGE_SWAPPING || x->state == GOSSIP_EXCHANGE_ASKING) {
        struct gossip_path *path = gossip_path_of(g, &x->partner);
        path->rate = 0;
        path->rtt_ns = 0;
    }
}

/* We have committed, they have not, and all that they need to commit is out: they may have merged. */
static bool merged_there_perhaps(const struct gossip_exchange *x)
{
    if (x->state != GOSSIP_EXCHANGE_SWAPPING || x->in.state != GOSSIP_IN_HELD || x->confirmed)
        return false;
    bool all_out = x->out.state == GOSSIP_OUT_SENT || x->out.state == GOSSIP_OUT_DONE;
    return all_out && (x->stream == NULL || (x->stream->queued & GOSSIP_QUEUE(GOSSIP_DIGEST)) == 0);
}

/* The partner was kept waiting by our caller. */
static bool waits_for_caller(const struct gossip *g, const struct gossip_exchange *x)
{
    bool owed = x->buffer >= 0 && (g->buffers[x->buffer].decode_owed || g->buffers[x->buffer].repair_owed);
    return owed || x->state == GOSSIP_EXCHANGE_PREPARING;
}

void gossip_end_solo(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x, enum gossip_solo reason,
                     int err)
{
    bool too_late = reason == GOSSIP_SOLO_DEADLINE;
    ASSERT(gossip_exchange_is_open(x));
    if (merged_there_perhaps(x) && reason != GOSSIP_SOLO_FAR)
        reason = GOSSIP_SOLO_UNCONFIRMED;
    else if (too_late && waits_for_caller(g, x))
        reason = GOSSIP_SOLO_HERE;
    if (too_late && reason != GOSSIP_SOLO_HERE)
        forget_estimates(g, x);
    if (x->stream != NULL)
        gossip_stream_break(x->stream);
    struct gossip_event event = outcome_of(x, now_ns);
    event.kind = GOSSIP_EVENT_SOLO;
    event.solo = reason;
    event.err = err;
    if (x->paired)
        trace_emit(&g->config.trace, TRACE_PAIR_SKIPPED, now_ns, &x->partner, (int64_t)x->round,
                   (int64_t)(event.elapsed_ns / GOSSIP_NS_PER_MS), err);
    else
        trace_emit(&g->config.trace, TRACE_ROUND_SOLO, now_ns, NULL, (int64_t)x->round, 0, 0);
    g->counters.solo[reason]++;
    gossip_emit(g, &event);
    close_exchange(g, now_ns, x, GOSSIP_BUFFER_OWED);
    gossip_swap_review(g, now_ns);
}

static uint64_t smooth(uint64_t old, uint64_t sample)
{
    return old == 0 ? sample : old - old / 4 + sample / 4;
}

void gossip_end_merge(struct gossip *g, uint64_t now_ns, struct gossip_exchange *x)
{
    const struct gossip_buffer *buffer = &g->buffers[x->buffer];
    struct gossip_path *path = gossip_path_of(g, &x->partner);
    ASSERT(x->state == GOSSIP_EXCHANGE_SWAPPING && x->confirmed);
    ASSERT(x->in.state == GOSSIP_IN_HELD && x->out.state == GOSSIP_OUT_DONE);
    ASSERT(!buffer->decode_owed && !buffer->repair_owed);
    struct gossip_event event = outcome_of(x, now_ns);
    event.kind = GOSSIP_EVENT_MERGE;
    event.codec = x->in.codec;
    event.blob = bytes_of(buffer->data, x->in.len);
    event.repair = bytes_of(buffer->data + buffer->repair_at, x->in.repair_len);
    event.list = bytes_of(buffer->data + g->list_at, x->out.list_len);
    uint64_t took_us = event.swap_ns / 1000 + 1;
    path->rate = smooth(path->rate, (x->bytes_sent + x->bytes_received) * 1000000 / took_us + 1);
    trace_emit(&g->config.trace, TRACE_PAIR_MERGED, now_ns, &x->partner, (int64_t)x->round,
               (int64_t)(event.elapsed_ns / GOSSIP_NS_PER_MS), 0);
    g->counters.merges++;
    g->counters.swap_ns += event.swap_ns;
    gossip_stream_finish(g, now_ns, x->stream);
    gossip_emit(g, &event);
    close_exchange(g, now_ns, x, GOSSIP_BUFFER_LENT);
    gossip_swap_review(g, now_ns);
}

/* The limit in all; an acceptor that knows how late invites come waits four times that, at least half of the
 * limit. */
static uint64_t first_deadline(const struct gossip *g, uint64_t now_ns, bool inviter)
{
    uint64_t limit = gossip_limit_ns(&g->config);
    uint64_t wait = limit / 2;
    if (g->wait_ns > wait / 4)
        wait = g->wait_ns > limit / 4 ? limit : 4 * g->wait_ns;
    return now_ns + (inviter || g->wait_ns == 0 ? limit : wait);
}

int gossip_round(struct gossip *g, uint64_t now_ns, uint64_t round, const struct gossip_view *view)
{
    struct gossip_exchange *x = &g->lanes[round % GOSSIP_LANES];
    struct gossip_exchange *old;
    ASSERT(view->count <= GOSSIP_MEMBERS_MAX && round <= GOSSIP_ROUND_MAX);
    gossip_expire(g, now_ns);
    if (g->begun && round <= g->round)
        return ERR_STALE;
    while ((old = gossip_exchange_in_the_way(g, round)) != NULL)
        gossip_end_solo(g, now_ns, old, GOSSIP_SOLO_SUPERSEDED, ERR_STALE);
    g->view = *view;
    g->begun = true;
    g->round = round;
    g->began_ns = now_ns;
    g->phase_told = false;
    g->behind_told = false;
    g->counters.rounds++;
    *x = (struct gossip_exchange){.state = GOSSIP_EXCHANGE_PREPARING,
                                  .round = round,
                                  .fragment = gossip_layout_fragment(&g->config.layout, round),
                                  .began_ns = now_ns,
                                  .buffer = -1};
    x->paired = gossip_pair(&g->config.run, round, (unsigned)g->config.layout.fragment_count, view,
                            &g->config.self, &x->partner);
    x->inviter = x->paired && gossip_pair_invites(&g->config.self, &x->partner);
    x->deadline_ns = first_deadline(g, now_ns, x->inviter);
    if (g->paused)
        gossip_end_solo(g, now_ns, x, GOSSIP_SOLO_PAUSED, ERR_STATE);
    else if (!x->paired)
        gossip_end_solo(g, now_ns, x, GOSSIP_SOLO_UNPAIRED, ERR_OK);
    else
        gossip_swap_review(g, now_ns);
    return ERR_OK;
}

static int take_buffer(struct gossip *g, uint64_t round)
{
    for (size_t i = 0; i < g->buffer_count; i++) {
        struct gossip_buffer *buffer = &g->buffers[i];
        if (buffer->use != GOSSIP_BUFFER_FREE)
            continue;
        *buffer = (struct gossip_buffer){.use = GOSSIP_BUFFER_FILLING, .data = buffer->data, .round = round};
        return (int)i;
    }
    return -1;
}

int gossip_set_outgoing(struct gossip *g, uint64_t now_ns, uint64_t round, enum gossip_codec codec,
                        struct bytes blob, uint64_t cookie)
{
    gossip_expire(g, now_ns);
    size_t fragment = gossip_layout_fragment(&g->config.layout, round);
    if (codec >= GOSSIP_CODEC_COUNT || blob.len != g->config.layout.fragment_bytes[fragment][codec])
        return ERR_INVALID;
    struct gossip_exchange *x = gossip_exchange_of_round(g, round);
    if (x == NULL || !gossip_exchange_is_open(x))
        return ERR_STALE;
    if (x->state != GOSSIP_EXCHANGE_PREPARING)
        return ERR_EXISTS;
    x->codec = codec;
    x->blob = (struct gossip_loan){.set = true, .bytes = blob, .cookie = cookie};
    x->buffer = take_buffer(g, round);
    if (x->buffer < 0) {
        gossip_end_solo(g, now_ns, x, GOSSIP_SOLO_NO_BUFFER, ERR_FULL);
    } else if (x->inviter) {
        x->state = GOSSIP_EXCHANGE_ASKING;
        gossip_swap_open(g, now_ns, x);
    } else {
        x->state = GOSSIP_EXCHANGE_WAITING;
        gossip_swap_review(g, now_ns);
    }
    return ERR_OK;
}

int gossip_merge_done(struct gossip *g, uint64_t now_ns, uint64_t round, int result)
{
    gossip_expire(g, now_ns);
    for (size_t i = 0; i < g->buffer_count; i++) {
        if (g->buffers[i].use != GOSSIP_BUFFER_LENT || g->buffers[i].round != round)
            continue;
        g->buffers[i].use = GOSSIP_BUFFER_FREE;
        g->counters.refused += result < 0;
        return ERR_OK;
    }
    return ERR_NOT_FOUND;
}

void gossip_pause(struct gossip *g, uint64_t now_ns, bool paused)
{
    gossip_expire(g, now_ns);
    g->paused = paused;
    for (size_t i = 0; i < GOSSIP_LANES; i++)
        if (paused && gossip_exchange_is_open(&g->lanes[i]))
            gossip_end_solo(g, now_ns, &g->lanes[i], GOSSIP_SOLO_PAUSED, ERR_STATE);
    gossip_swap_review(g, now_ns);
}

static void expire_stream(struct gossip *g, uint64_t now_ns, struct gossip_stream *s)
{
    switch (s->state) {
    case GOSSIP_STREAM_FRESH:
    case GOSSIP_STREAM_REFUSED:
    case GOSSIP_STREAM_DONE:
        gossip_stream_break(s);
        break;
    case GOSSIP_STREAM_PARKED:
        gossip_tell_phase(g, now_ns, s->invite.round,
                          (uint64_t)s->invite.age_ms * GOSSIP_NS_PER_MS + (now_ns - s->asked_ns));
        gossip_stream_refuse(g, now_ns, s, GOSSIP_BUSY_BEHIND);
        break;
    case GOSSIP_STREAM_SERVING:
        gossip_stream_break(s);
        gossip_serve_end(g);
        break;
    case GOSSIP_STREAM_ASKED:
    case GOSSIP_STREAM_FETCHING:
        gossip_fetch_broken(g, now_ns, ERR_TIMEOUT);
        break;
    case GOSSIP_STREAM_OPENING: /* of a fetch: those of the round have no deadline of their own */
        gossip_fetch_broken(g, now_ns, ERR_TIMEOUT);
        break;
    case GOSSIP_STREAM_FREE:
    case GOSSIP_STREAM_INVITED:
    case GOSSIP_STREAM_SWAP:
    case GOSSIP_STREAM_BROKEN:
        break;
    }
}

void gossip_expire(struct gossip *g, uint64_t now_ns)
{
    if (g->serving.done)
        gossip_serve_end(g);
    for (size_t i = 0; i < GOSSIP_STREAMS_MAX; i++)
        if (g->streams[i].state != GOSSIP_STREAM_FREE && g->streams[i].deadline_ns <= now_ns)
            expire_stream(g, now_ns, &g->streams[i]);
    for (size_t i = 0; i < GOSSIP_LANES; i++)
        if (gossip_exchange_is_open(&g->lanes[i]) && g->lanes[i].deadline_ns <= now_ns)
            gossip_end_solo(g, now_ns, &g->lanes[i], GOSSIP_SOLO_DEADLINE, ERR_TIMEOUT);
    gossip_fetch_expire(g, now_ns);
}

void gossip_tick(struct gossip *g, uint64_t now_ns)
{
    gossip_expire(g, now_ns);
}

uint64_t gossip_deadline_ns(const struct gossip *g)
{
    uint64_t deadline = gossip_fetch_deadline(g);
    for (size_t i = 0; i < GOSSIP_LANES; i++)
        if (gossip_exchange_is_open(&g->lanes[i]) && g->lanes[i].deadline_ns < deadline)
            deadline = g->lanes[i].deadline_ns;
    for (size_t i = 0; i < GOSSIP_STREAMS_MAX; i++)
        if (g->streams[i].state != GOSSIP_STREAM_FREE && g->streams[i].deadline_ns < deadline)
            deadline = g->streams[i].deadline_ns;
    return deadline;
}

const struct gossip_counters *gossip_counters(const struct gossip *g)
{
    return &g->counters;
}
