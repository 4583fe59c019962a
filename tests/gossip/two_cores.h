/* Two exchange cores joined by hand, for tests that look at each step: streams carry at once, or not at all.
 */
#ifndef DUNLIN_TESTS_TWO_CORES_H
#define DUNLIN_TESTS_TWO_CORES_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "gossip/internal.h"

enum { PARAMS = 40000, QUEUE_MAX = 64 };

#define MS    UINT64_C(1000000)
#define ROUND (1000 * MS)

/* One end: a core, what it was told and what it said. */
struct end {
    struct gossip *g;
    struct id id;
    uint8_t *blob;
    size_t blob_len;
    enum gossip_codec codec; /* of blob */
    uint64_t merges, solos, releases, busy;
    struct gossip_event last, phase, advance, fetched, decode, repair, merged;
    uint64_t decodes, repairs;
    struct gossip_action open;
    bool wants_open, mute;  /* mute: its frames are lost */
    uint64_t dropped_after; /* frames still carried before the link breaks; UINT64_MAX: never */
};

static struct end low, high; /* ids in this order: low invites */
static struct gossip_layout layout;
static struct gossip_view view;
static uint64_t now;
static uint64_t links; /* stream handles handed out */

static inline void start_end(struct end *e, uint8_t name, uint32_t codecs)
{
    struct gossip_config c = gossip_config_default();
    memset(e, 0, sizeof *e);
    e->id.bytes[0] = name;
    e->dropped_after = UINT64_MAX;
    c.self = e->id;
    c.run.bytes[0] = 0x77;
    c.layout = layout;
    c.codecs = codecs;
    c.round_ns = ROUND;
    c.stall_ns = 500 * MS;
    c.first_frame_ns = 200 * MS;
    size_t size = gossip_size_bytes(&c);
    e->g = gossip_init(aligned_alloc(64, (size + 63) / 64 * 64), size, &c);
    e->codec = (codecs & 1) != 0 ? GOSSIP_CODEC_FP32 : GOSSIP_CODEC_MOD2;
    e->blob_len = (size_t)layout.encoded_bytes[e->codec];
    e->blob = malloc(e->blob_len);
    memset(e->blob, name, e->blob_len);
}

/* Two cores of a model of equal tensors. */
static inline void start_with(size_t param_count, size_t tensor_count, size_t fragments, uint32_t codecs)
{
    static struct gossip_tensor tensors[GOSSIP_FRAGMENTS_MAX];
    struct gossip_member_state states[2] = {{.expires_ms = 1}, {.expires_ms = 1}};
    for (size_t i = 0; i < tensor_count; i++)
        tensors[i] = (struct gossip_tensor){i * (param_count / tensor_count), param_count / tensor_count,
                                            GOSSIP_TENSOR_MATRIX};
    cr_assert_eq(gossip_layout_of(tensors, tensor_count, fragments, &layout), 0);
    start_end(&low, 1, codecs);
    start_end(&high, 2, codecs);
    states[0].id = low.id;
    states[1].id = high.id;
    gossip_view_build(&view, 1, 0, states, 2);
    now = 1000 * ROUND;
    links = 0;
}

static inline void start(void)
{
    start_with(PARAMS, 1, 1, (1u << GOSSIP_CODEC_COUNT) - 1);
}

static inline void stop(void)
{
    free(low.g);
    free(high.g);
    free(low.blob);
    free(high.blob);
}

static inline void events(struct end *e)
{
    struct gossip_event event;
    gossip_check_invariants(e->g);
    while (gossip_poll_event(e->g, &event)) {
        e->last = event.kind == GOSSIP_EVENT_RELEASE ? e->last : event;
        e->merges += event.kind == GOSSIP_EVENT_MERGE;
        e->decodes += event.kind == GOSSIP_EVENT_DECODE;
        e->repairs += event.kind == GOSSIP_EVENT_REPAIR;
        if (event.kind == GOSSIP_EVENT_DECODE)
            e->decode = event;
        if (event.kind == GOSSIP_EVENT_REPAIR)
            e->repair = event;
        if (event.kind == GOSSIP_EVENT_MERGE)
            e->merged = event;
        e->solos += event.kind == GOSSIP_EVENT_SOLO;
        e->releases += event.kind == GOSSIP_EVENT_RELEASE;
        if (event.kind == GOSSIP_EVENT_PHASE)
            e->phase = event;
        if (event.kind == GOSSIP_EVENT_ADVANCE)
            e->advance = event;
        if (event.kind == GOSSIP_EVENT_STATE || event.kind == GOSSIP_EVENT_FETCH_FAILED)
            e->fetched = event;
    }
    gossip_check_invariants(e->g);
}

static inline void both_closed(uint64_t stream, int err)
{
    gossip_stream_closed(low.g, now, stream, err);
    gossip_stream_closed(high.g, now, stream, err);
}

/* Carries out one action of e; the other end gets it at once. */
static inline void act(struct end *e, struct end *other, const struct gossip_action *a)
{
    switch (a->kind) {
    case GOSSIP_ACTION_OPEN:
        e->open = *a;
        e->wants_open = true;
        break;
    case GOSSIP_ACTION_SEND:
        if (e->mute)
            break;
        if (e->dropped_after == 0) {
            both_closed(a->stream, ERR_CLOSED);
            break;
        }
        e->dropped_after -= e->dropped_after != UINT64_MAX;
        gossip_stream_frame(other->g, now, a->stream, a->frame);
        gossip_stream_writable(e->g, now, a->stream, 70000);
        break;
    case GOSSIP_ACTION_FINISH:
        gossip_stream_closed(other->g, now, a->stream, 0);
        break;
    case GOSSIP_ACTION_RESET:
        gossip_stream_closed(other->g, now, a->stream, ERR_CLOSED);
        break;
    }
    events(other);
}

static inline bool step(struct end *e, struct end *other)
{
    struct gossip_action action;
    bool any = false;
    events(e);
    while (gossip_poll_action(e->g, now, &action)) {
        act(e, other, &action);
        events(e);
        any = true;
    }
    return any;
}

static inline void pump(void)
{
    bool more = true;
    while (more) {
        more = step(&low, &high);
        more = step(&high, &low) || more;
    }
}

/* Answers e's OPEN with a working stream. */
static inline uint64_t connect_ends(struct end *e, struct end *other)
{
    uint64_t stream = ++links;
    cr_assert(e->wants_open);
    e->wants_open = false;
    cr_assert_eq(gossip_stream_opened(e->g, now, e->open.tag, stream), 0);
    cr_assert_eq(gossip_stream_accepted(other->g, now, &e->id, stream), 0);
    gossip_stream_writable(e->g, now, stream, 70000);
    gossip_stream_writable(other->g, now, stream, 70000);
    return stream;
}

static inline void round_of(struct end *e, uint64_t round)
{
    cr_assert_eq(gossip_round(e->g, now, round, &view), 0);
    events(e);
}

static inline void outgoing(struct end *e, uint64_t round)
{
    size_t len = (size_t)layout.fragment_bytes[gossip_layout_fragment(&layout, round)][e->codec];
    cr_assert_eq(gossip_set_outgoing(e->g, now, round, e->codec, bytes_of(e->blob, len), round), 0);
    events(e);
}

static inline void begin(uint64_t round)
{
    round_of(&low, round);
    round_of(&high, round);
    outgoing(&low, round);
    outgoing(&high, round);
    pump();
}

static inline const struct gossip_counters *counted(const struct end *e)
{
    return gossip_counters(e->g);
}

/* Sends one frame of this message from outside to e on stream. */
static inline void inject(struct end *e, uint64_t stream, const struct gossip_message *m)
{
    static uint8_t wire[GOSSIP_FRAME_MAX];
    int len = gossip_message_encode(m, wire, sizeof wire);
    cr_assert_gt(len, 0);
    gossip_stream_frame(e->g, now, stream, bytes_of(wire, (size_t)len));
    events(e);
}

static inline struct gossip_message invite_of(uint64_t round)
{
    struct gossip_message m = {
        .type = GOSSIP_INVITE, .round = round, .codecs = 63, .param_count = layout.param_count};
    m.run.bytes[0] = 0x77;
    m.schema = layout.schema;
    m.codec = low.codec;
    return m;
}

#endif
