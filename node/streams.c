/* Framed streams: which part of the node each belongs to, and the events that QUIC has for it. */
#include <string.h>

#include "net/rpc_quic.h"
#include "node/internal.h"

enum {
    FIRST_FRAME_S = 10,  /* an opened exchange must say what it is about */
    SYNC_SILENCE_S = 30, /* a repair that has not heard from the other side for this long is given up */
};

struct node_stream *streams_add(struct node *node, enum node_stream_kind kind, uint64_t handle,
                                struct node_peer *peer)
{
    for (size_t i = 0; i < NODE_STREAMS_MAX; i++) {
        struct node_stream *stream = &node->streams[i];
        if (stream->kind != STREAM_FREE)
            continue;
        *stream =
            (struct node_stream){.kind = kind, .handle = handle, .heard_ns = node_now_ns(), .peer = peer};
        return stream;
    }
    return NULL;
}

struct node_stream *streams_find(struct node *node, uint64_t handle)
{
    for (size_t i = 0; i < NODE_STREAMS_MAX; i++) {
        if (node->streams[i].kind != STREAM_FREE && node->streams[i].handle == handle)
            return &node->streams[i];
    }
    return NULL;
}

void streams_drop(struct node *node, struct node_stream *stream)
{
    (void)node;
    if (stream->kind == STREAM_PUSH && stream->peer->push_stream == stream->handle)
        stream->peer->push_stream = 0;
    crdt_sync_close(stream->sync);
    *stream = (struct node_stream){.kind = STREAM_FREE};
}

void streams_forget_run(struct node *node, struct run *run)
{
    for (size_t i = 0; i < NODE_STREAMS_MAX; i++) {
        struct node_stream *stream = &node->streams[i];
        if (stream->kind == STREAM_FREE || stream->run != run)
            continue;
        quic_stream_reset(node->quic, stream->handle, ERR_CLOSED);
        streams_drop(node, stream);
    }
}

static enum node_stream_kind kind_of_service(uint8_t service)
{
    switch (service) {
    case STREAM_SERVICE_SYNC:
        return STREAM_SYNC;
    case STREAM_SERVICE_GOSSIP:
        return STREAM_PUSH;
    case STREAM_SERVICE_EXCHANGE:
        return STREAM_UNDECIDED;
    default:
        return STREAM_FREE;
    }
}

static void stream_opened(struct node *node, const struct quic_event *event)
{
    struct node_peer *peer = peers_find(node, &event->peer);
    enum node_stream_kind kind = kind_of_service(event->service);
    if (kind == STREAM_FREE || peer == NULL || streams_add(node, kind, event->handle, peer) == NULL)
        quic_stream_reset(node->quic, event->handle, kind == STREAM_FREE ? ERR_UNSUPPORTED : ERR_FULL);
}

/* First frame of an exchange: finds the run it is about. */
static void decide(struct node *node, struct node_stream *stream, struct bytes frame, uint64_t now_ns)
{
    struct id id;
    uint8_t answer[GOSSIP_CONTROL_MAX];
    int result = gossip_message_run(frame, &id);
    struct run *run = result < 0 ? NULL : node_run_of(node, &id);
    if (result == ERR_OK && (run == NULL || run->gossip == NULL)) {
        size_t len = gossip_message_unknown_run(answer);
        if (quic_stream_send(node->quic, stream->handle, bytes_of(answer, len)) < 0)
            quic_stream_reset(node->quic, stream->handle, ERR_NOT_FOUND);
        else
            quic_stream_finish(node->quic, stream->handle);
        streams_drop(node, stream);
        return;
    }
    if (result == ERR_OK)
        result = gossip_stream_accepted(run->gossip, now_ns, &stream->peer->id, stream->handle);
    if (result < 0) {
        quic_stream_reset(node->quic, stream->handle, result);
        streams_drop(node, stream);
        return;
    }
    stream->kind = STREAM_RUN;
    stream->run = run;
}

/* A core's queue of events holds what a few inputs bring, so each input is followed by a drain. */
static void run_frame(const struct node_stream *stream, struct bytes frame, uint64_t now_ns)
{
    struct run *run = stream->run;
    gossip_stream_frame(run->gossip, now_ns, stream->handle, frame);
    (void)run_drain(run, now_ns);
}

static void run_closed(const struct node_stream *stream, uint64_t now_ns, int err)
{
    struct run *run = stream->run;
    gossip_stream_closed(run->gossip, now_ns, stream->handle, err);
    (void)run_drain(run, now_ns);
}

static void stream_frame(struct node *node, const struct quic_event *event, uint64_t now_ns)
{
    struct node_stream *stream = streams_find(node, event->handle);
    if (stream == NULL)
        return;
    stream->peer->last_seen_ns = now_ns;
    stream->heard_ns = now_ns;
    if (stream->kind == STREAM_UNDECIDED)
        decide(node, stream, event->frame, now_ns);
    if (stream->kind == STREAM_RUN)
        run_frame(stream, event->frame, now_ns);
    else if (stream->kind == STREAM_SYNC)
        state_sync_frame(node, stream, event->frame);
    else if (stream->kind == STREAM_PUSH)
        state_push_frame(node, stream->peer, event->frame);
}

static void stream_ended(struct node *node, const struct quic_event *event, uint64_t now_ns)
{
    struct node_stream *stream = streams_find(node, event->handle);
    if (stream == NULL) {
        quic_stream_finish(node->quic, event->handle);
        return;
    }
    if (stream->kind == STREAM_RUN) {
        run_closed(stream, now_ns, ERR_OK);
        return; /* the core finishes our side and lets go by itself */
    }
    quic_stream_finish(node->quic, event->handle);
    streams_drop(node, stream);
}

static void stream_reset(struct node *node, const struct quic_event *event, uint64_t now_ns)
{
    struct node_stream *stream = streams_find(node, event->handle);
    if (stream == NULL)
        return;
    if (stream->kind == STREAM_SYNC && stream->run != NULL && stream->run->stage == RUN_SYNCING)
        stream->run->stage_deadline_ns = now_ns + NODE_SECOND_NS; /* another peer may answer until then */
    struct node_stream was = *stream;
    streams_drop(node, stream);
    if (was.kind == STREAM_RUN)
        run_closed(&was, now_ns, event->err < 0 ? event->err : ERR_CLOSED);
}

void streams_tick(struct node *node, uint64_t now_ns)
{
    for (size_t i = 0; i < NODE_STREAMS_MAX; i++) {
        struct node_stream *stream = &node->streams[i];
        uint64_t limit_s = stream->kind == STREAM_UNDECIDED ? FIRST_FRAME_S
                           : stream->kind == STREAM_SYNC    ? SYNC_SILENCE_S
                                                            : 0;
        if (limit_s == 0 || now_ns < stream->heard_ns + limit_s * NODE_SECOND_NS)
            continue;
        quic_stream_reset(node->quic, stream->handle, ERR_TIMEOUT);
        streams_drop(node, stream);
    }
}

bool streams_drain(struct node *node, uint64_t now_ns)
{
    struct quic_event event;
    bool any = false;
    while (quic_poll_event(node->quic, now_ns, &event)) {
        any = true;
        if (rpc_quic_event(node->rpc, now_ns, &event) || speed_quic_event(node, now_ns, &event))
            continue;
        switch (event.kind) {
        case QUIC_CONNECTED:
            peers_connected(node, &event);
            break;
        case QUIC_DISCONNECTED:
            peers_disconnected(node, &event);
            break;
        case QUIC_STREAM_OPENED:
            stream_opened(node, &event);
            break;
        case QUIC_FRAME:
            stream_frame(node, &event, now_ns);
            break;
        case QUIC_STREAM_WRITABLE:
            break; /* room is asked for below and in streams_gossip */
        case QUIC_STREAM_ENDED:
            stream_ended(node, &event, now_ns);
            break;
        case QUIC_STREAM_RESET:
            stream_reset(node, &event, now_ns);
            break;
        }
    }
    for (size_t i = 0; i < NODE_STREAMS_MAX; i++) {
        if (node->streams[i].kind == STREAM_SYNC)
            any |= state_sync_send(node, &node->streams[i]);
    }
    return any;
}

static void open_exchange(struct node *node, struct run *run, const struct gossip_action *action,
                          uint64_t now_ns)
{
    uint64_t handle;
    struct node_peer *peer = peers_want(node, &action->peer, NULL, 0, 60 * NODE_SECOND_NS);
    int result = peer == NULL ? ERR_FULL : ERR_OK;
    if (result == ERR_OK)
        result = quic_stream_open(node->quic, now_ns, &action->peer, STREAM_SERVICE_EXCHANGE,
                                  STREAM_CLASS_WEIGHTS, &handle);
    if (result < 0) {
        gossip_stream_open_failed(run->gossip, now_ns, action->tag,
                                  result == ERR_NOT_FOUND ? ERR_UNREACHABLE : result);
        return;
    }
    struct node_stream *stream = streams_add(node, STREAM_RUN, handle, peer);
    if (stream == NULL || gossip_stream_opened(run->gossip, now_ns, action->tag, handle) < 0) {
        quic_stream_reset(node->quic, handle, ERR_CLOSED);
        if (stream != NULL)
            streams_drop(node, stream);
        else
            gossip_stream_open_failed(run->gossip, now_ns, action->tag, ERR_FULL);
        return;
    }
    stream->run = run;
    gossip_stream_writable(run->gossip, now_ns, handle, quic_stream_room(node->quic, handle));
}

static void carry_out(struct node *node, struct run *run, const struct gossip_action *action, uint64_t now_ns)
{
    struct node_stream *stream = NULL;
    if (action->kind != GOSSIP_ACTION_OPEN)
        stream = streams_find(node, action->stream);
    switch (action->kind) {
    case GOSSIP_ACTION_OPEN:
        open_exchange(node, run, action, now_ns);
        break;
    case GOSSIP_ACTION_SEND:
        /* The core was told the room, so only a stream that has just died refuses; its reset event follows.
         */
        if (quic_stream_send(node->quic, action->stream, action->frame) < 0)
            trace_emit(&node->trace, TRACE_DATAGRAM_DROPPED, now_ns, &action->peer, 0, 0, ERR_CLOSED);
        break;
    case GOSSIP_ACTION_FINISH:
        quic_stream_finish(node->quic, action->stream);
        if (stream != NULL)
            streams_drop(node, stream);
        break;
    case GOSSIP_ACTION_RESET:
        quic_stream_reset(node->quic, action->stream, ERR_CLOSED);
        if (stream != NULL)
            streams_drop(node, stream);
        break;
    }
}

bool streams_gossip(struct node *node, struct run *run, uint64_t now_ns)
{
    struct gossip_action action;
    bool any = false;
    for (size_t i = 0; i < NODE_STREAMS_MAX; i++) {
        const struct node_stream *stream = &node->streams[i];
        if (stream->kind == STREAM_RUN && stream->run == run)
            gossip_stream_writable(run->gossip, now_ns, stream->handle,
                                   quic_stream_room(node->quic, stream->handle));
    }
    while (gossip_poll_action(run->gossip, now_ns, &action)) {
        carry_out(node, run, &action, now_ns);
        any = true;
        if (action.kind == GOSSIP_ACTION_SEND)
            gossip_stream_writable(run->gossip, now_ns, action.stream,
                                   quic_stream_room(node->quic, action.stream));
    }
    return any;
}
