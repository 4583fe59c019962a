/* Life cycle, rounds, deadlines and outcomes of the exchange core. */
#include "gossip/exchange.h"

#include <string.h>

#include "gossip/codec.h"
#include "gossip/internal.h"
#include "gossip/pairing.h"

enum { ALIGN = 64, NS_PER_MS = 1000000 };

struct gossip_config gossip_config_default(void)
{
    return (struct gossip_config){.codecs = GOSSIP_CODECS_PLAIN,
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

static size_t buffer_bytes(const struct gossip_config *config)
{
    uint64_t largest = 0;
    for (unsigned codec = 0; codec < GOSSIP_CODEC_COUNT; codec++)
        if ((config->codecs >> codec & 1) != 0 && config->layout.encoded_bytes[codec] > largest)
            largest = config->layout.encoded_bytes[codec];
    return (size_t)((largest + ALIGN - 1) / ALIGN * ALIGN);
}

static size_t head_bytes(void)
{
    return (sizeof(struct gossip) + ALIGN - 1) / ALIGN * ALIGN;
}

size_t gossip_size_bytes(const struct gossip_config *config)
{
    size_t each = buffer_bytes(config);
    return each > (SIZE_MAX - head_bytes()) / GOSSIP_BUFFERS ? 0 : head_bytes() + GOSSIP_BUFFERS * each;
}

struct gossip *gossip_init(void *block, size_t size, const struct gossip_config *config)
{
    const char *why;
    struct gossip *g = block;
    ASSERT(gossip_config_check(config, &why) == ERR_OK);
    ASSERT((uintptr_t)block % ALIGN == 0);
    ASSERT(size >= gossip_size_bytes(config) && gossip_size_bytes(config) > 0);
    memset(g, 0, sizeof *g);
    g->config = *config;
    g->size_max = buffer_bytes(config);
    g->round.buffer = -1;
    g->event_ring = ring_init(GOSSIP_EVENTS_MAX);
    for (size_t i = 0; i < GOSSIP_BUFFERS; i++)
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

bool gossip_round_is_open(const struct gossip *g)
{
    return g->round.state != GOSSIP_ROUND_CLOSED;
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

static uint64_t age_ns(const struct gossip *g, uint64_t now_ns)
{
    return g->begun && now_ns > g->round.began_ns ? now_ns - g->round.began_ns : 0;
}

uint32_t gossip_age_ms(const struct gossip *g, uint64_t now_ns)
{
    uint64_t ms = age_ns(g, now_ns) / NS_PER_MS;
    return ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}

void gossip_tell_phase(struct gossip *g, uint64_t now_ns, uint64_t round, uint64_t their_age_ns)
{
    int64_t length = (int64_t)g->config.round_ns;
    int64_t ahead = (int64_t)(round - g->round.number); /* wraps to negative when they are behind */
    if (g->round.phase_told || !g->begun || ahead > 1 || ahead < -1)
        return;
    if (their_age_ns > 2 * g->config.round_ns || age_ns(g, now_ns) > 2 * g->config.round_ns)
        return;
    int64_t apart = ahead * length + (int64_t)their_age_ns - (int64_t)age_ns(g, now_ns);
    int64_t shift = apart / 2;
    shift = shift > length / 4 ? length / 4 : shift < -length / 4 ? -length / 4 : shift;
    g->round.phase_told = true;
    if (shift != 0)
        gossip_emit(g, &(struct gossip_event){
                           .kind = GOSSIP_EVENT_PHASE, .round = g->round.number, .shift_ns = shift});
}

/* One member alone cannot drag the others' round numbers along: by the view another one must be near the
 * claimed round, as far as there is another one to ask.  The view is as old as our round: who had finished p
 * then works on p + 1, may be one round further for being ahead in phase, and has gone on since. */
bool gossip_round_credible(const struct gossip *g, uint64_t now_ns, const struct id *peer, uint64_t round)
{
    size_t others = 0;
    uint64_t since = age_ns(g, now_ns) / g->config.round_ns;
    if (gossip_view_find(&g->view, peer) == NULL)
        return false;
    if (round <= g->round.number + 1)
        return true;
    for (size_t i = 0; i < g->view.count; i++) {
        const struct gossip_view_entry *entry = &g->view.entries[i];
        if (id_equal(&entry->id, peer) || id_equal(&entry->id, &g->config.self))
            continue;
        others++;
        if (entry->progress_round + 2 + since >= round)
            return true;
    }
    return others == 0;
}

void gossip_tell_newer(struct gossip *g, uint64_t now_ns, const struct id *peer, uint64_t round)
{
    struct gossip_event event = {.kind = GOSSIP_EVENT_ADVANCE, .round = round, .peer = *peer};
    if (round <= g->round.number || !gossip_round_credible(g, now_ns, peer, round))
        return;
    if (round - g->round.number > GOSSIP_ROUND_LAG_MAX) {
        if (g->round.behind_told)
            return;
        g->round.behind_told = true;
        event.kind = GOSSIP_EVENT_BEHIND;
    } else {
        if (round <= g->advance_told)
            return;
        g->advance_told = round;
    }
    gossip_emit(g, &event);
}

/* What both outcomes share: the stream is let go by the caller, blob and buffer are given back. */
static void close_round(struct gossip *g, enum gossip_buffer_use use)
{
    struct gossip_open_round *r = &g->round;
    r->state = GOSSIP_ROUND_CLOSED;
    r->stream = NULL;
    if (r->has_blob)
        gossip_release(g, r->cookie);
    r->has_blob = false;
    if (r->buffer >= 0) {
        g->buffers[r->buffer].use = use;
        g->buffers[r->buffer].round = r->number;
    }
    r->buffer = -1;
}

/* A failed wait forgets what made it too short: the next one gets the whole half round. */
static void forget_estimates(struct gossip *g, const struct gossip_open_round *r)
{
    if (r->state == GOSSIP_ROUND_WAITING)
        g->wait_ns = 0;
    if (r->state == GOSSIP_ROUND_SWAPPING || r->state == GOSSIP_ROUND_ASKING) {
        struct gossip_path *path = gossip_path_of(g, &r->partner);
        path->rate = 0;
        path->rtt_ns = 0;
    }
}

void gossip_end_solo(struct gossip *g, uint64_t now_ns, enum gossip_solo reason, int err)
{
    struct gossip_open_round *r = &g->round;
    ASSERT(gossip_round_is_open(g));
    if (r->verified && !r->confirmed)
        reason = GOSSIP_SOLO_UNCONFIRMED;
    if (reason == GOSSIP_SOLO_DEADLINE)
        forget_estimates(g, r);
    if (r->stream != NULL)
        gossip_stream_break(r->stream);
    struct gossip_event event = {.kind = GOSSIP_EVENT_SOLO, .round = r->number, .solo = reason, .err = err};
    if (r->paired) {
        event.peer = r->partner;
        trace_emit(&g->config.trace, TRACE_PAIR_SKIPPED, now_ns, &r->partner, (int64_t)r->number, 0, err);
    } else {
        trace_emit(&g->config.trace, TRACE_ROUND_SOLO, now_ns, NULL, (int64_t)r->number, 0, 0);
    }
    g->counters.solo[reason]++;
    gossip_emit(g, &event);
    close_round(g, GOSSIP_BUFFER_FREE);
    gossip_swap_review(g, now_ns);
}

static uint64_t smooth(uint64_t old, uint64_t sample)
{
    return old == 0 ? sample : old - old / 4 + sample / 4;
}

void gossip_end_merge(struct gossip *g, uint64_t now_ns)
{
    struct gossip_open_round *r = &g->round;
    ASSERT(r->state == GOSSIP_ROUND_SWAPPING && r->verified && r->confirmed);
    ASSERT(r->in_len == r->in_expected);
    struct gossip_event event = {.kind = GOSSIP_EVENT_MERGE,
                                 .round = r->number,
                                 .peer = r->partner,
                                 .codec = r->in_codec,
                                 .blob = bytes_of(g->buffers[r->buffer].data, r->in_len),
                                 .elapsed_ns = age_ns(g, now_ns)};
    uint64_t took_us = (now_ns - r->swap_ns) / 1000 + 1;
    uint64_t bytes = r->in_len + r->blob.len;
    gossip_path_of(g, &r->partner)->rate =
        smooth(gossip_path_of(g, &r->partner)->rate, bytes * 1000000 / took_us + 1);
    trace_emit(&g->config.trace, TRACE_PAIR_MERGED, now_ns, &r->partner, (int64_t)r->number,
               (int64_t)(event.elapsed_ns / NS_PER_MS), 0);
    g->counters.merges++;
    gossip_stream_finish(g, now_ns, r->stream);
    gossip_emit(g, &event);
    close_round(g, GOSSIP_BUFFER_LENT);
    gossip_swap_review(g, now_ns);
}

/* Half a round in all; an acceptor that knows how late invites come waits four times that, at least a
 * quarter. */
static uint64_t first_deadline(const struct gossip *g, uint64_t now_ns, bool inviter)
{
    uint64_t limit = g->config.round_ns / 2;
    uint64_t wait = g->config.round_ns / 4;
    if (g->wait_ns > wait / 4)
        wait = g->wait_ns > limit / 4 ? limit : 4 * g->wait_ns;
    return now_ns + (inviter || g->wait_ns == 0 ? limit : wait);
}

int gossip_round(struct gossip *g, uint64_t now_ns, uint64_t round, const struct gossip_view *view)
{
    struct gossip_open_round *r = &g->round;
    ASSERT(view->count <= GOSSIP_MEMBERS_MAX && round <= GOSSIP_ROUND_MAX);
    gossip_expire(g, now_ns);
    if (g->begun && round <= r->number)
        return ERR_STALE;
    if (gossip_round_is_open(g))
        gossip_end_solo(g, now_ns, GOSSIP_SOLO_SUPERSEDED, ERR_STALE);
    g->view = *view;
    g->begun = true;
    g->counters.rounds++;
    *r = (struct gossip_open_round){
        .state = GOSSIP_ROUND_PREPARING, .number = round, .began_ns = now_ns, .buffer = -1};
    r->paired = gossip_pair(&g->config.run, round, 1, view, &g->config.self, &r->partner);
    r->inviter = r->paired && gossip_pair_invites(&g->config.self, &r->partner);
    r->deadline_ns = first_deadline(g, now_ns, r->inviter);
    if (g->paused)
        gossip_end_solo(g, now_ns, GOSSIP_SOLO_PAUSED, ERR_STATE);
    else if (!r->paired)
        gossip_end_solo(g, now_ns, GOSSIP_SOLO_UNPAIRED, ERR_OK);
    else
        gossip_swap_review(g, now_ns);
    return ERR_OK;
}

static int free_buffer(const struct gossip *g)
{
    for (int i = 0; i < GOSSIP_BUFFERS; i++)
        if (g->buffers[i].use == GOSSIP_BUFFER_FREE)
            return i;
    return -1;
}

int gossip_set_outgoing(struct gossip *g, uint64_t now_ns, uint64_t round, enum gossip_codec codec,
                        struct bytes blob, uint64_t cookie)
{
    struct gossip_open_round *r = &g->round;
    gossip_expire(g, now_ns);
    if (codec >= GOSSIP_CODEC_COUNT || blob.len != g->config.layout.encoded_bytes[codec])
        return ERR_INVALID;
    if (!gossip_round_is_open(g) || r->number != round)
        return ERR_STALE;
    if (r->state != GOSSIP_ROUND_PREPARING)
        return ERR_EXISTS;
    r->has_blob = true;
    r->codec = codec;
    r->blob = blob;
    r->cookie = cookie;
    r->buffer = free_buffer(g);
    if (r->buffer < 0) {
        gossip_end_solo(g, now_ns, GOSSIP_SOLO_NO_BUFFER, ERR_FULL);
        return ERR_OK;
    }
    g->buffers[r->buffer].use = GOSSIP_BUFFER_FILLING;
    if (r->inviter) {
        r->state = GOSSIP_ROUND_ASKING;
        gossip_swap_open(g, now_ns);
    } else {
        r->state = GOSSIP_ROUND_WAITING;
        gossip_swap_review(g, now_ns);
    }
    return ERR_OK;
}

int gossip_merge_done(struct gossip *g, uint64_t now_ns, uint64_t round, int result)
{
    gossip_expire(g, now_ns);
    for (size_t i = 0; i < GOSSIP_BUFFERS; i++) {
        if (g->buffers[i].use != GOSSIP_BUFFER_LENT || g->buffers[i].round != round)
            continue;
        g->buffers[i].use = GOSSIP_BUFFER_FREE;
        if (result < 0) {
            g->counters.refused++;
            trace_emit(&g->config.trace, TRACE_GATE_REFUSED, now_ns, NULL, (int64_t)round, 0, result);
        }
        return ERR_OK;
    }
    return ERR_NOT_FOUND;
}

void gossip_pause(struct gossip *g, uint64_t now_ns, bool paused)
{
    gossip_expire(g, now_ns);
    g->paused = paused;
    if (paused && gossip_round_is_open(g))
        gossip_end_solo(g, now_ns, GOSSIP_SOLO_PAUSED, ERR_STATE);
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
                          (uint64_t)s->invite.age_ms * NS_PER_MS + (now_ns - s->asked_ns));
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
    if (gossip_round_is_open(g) && g->round.deadline_ns <= now_ns)
        gossip_end_solo(g, now_ns, GOSSIP_SOLO_DEADLINE, ERR_TIMEOUT);
    gossip_fetch_expire(g, now_ns);
}

void gossip_tick(struct gossip *g, uint64_t now_ns)
{
    gossip_expire(g, now_ns);
}

uint64_t gossip_deadline_ns(const struct gossip *g)
{
    uint64_t deadline = gossip_fetch_deadline(g);
    if (gossip_round_is_open(g) && g->round.deadline_ns < deadline)
        deadline = g->round.deadline_ns;
    for (size_t i = 0; i < GOSSIP_STREAMS_MAX; i++)
        if (g->streams[i].state != GOSSIP_STREAM_FREE && g->streams[i].deadline_ns < deadline)
            deadline = g->streams[i].deadline_ns;
    return deadline;
}

const struct gossip_counters *gossip_counters(const struct gossip *g)
{
    return &g->counters;
}

uint64_t gossip_current_round(const struct gossip *g, uint64_t now_ns, uint64_t *age)
{
    *age = age_ns(g, now_ns);
    return g->round.number;
}
