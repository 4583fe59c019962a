/* What the application is told, made when it asks: there is no queue of events that could overflow, only
 * lists of streams and connections that have something to say. */
#include "net/quic_internal.h"

static void fill(struct quic_event *out, enum quic_event_kind kind, const struct quic_stream *s)
{
    *out = (struct quic_event){.kind = kind, .peer = s->peer, .handle = quic_stream_handle(s)};
    out->service = s->service;
    out->class = s->class;
    out->outgoing = s->outgoing;
}

/* Takes len bytes off the stream's input and gives the window back. */
static void consume(struct quic *ep, struct quic_stream *s, size_t len)
{
    size_t held = ep->in_pool.used;
    quic_chain_consume(&ep->in_pool, &s->in, len);
    if (s->conn != NULL)
        s->conn->in_blocks -= held - ep->in_pool.used;
    quic_stream_credit(s, len);
}

/* Ends the handle without or after a last event. */
static void end_handle(struct quic *ep, struct quic_stream *s, int err)
{
    if (s->conn != NULL) {
        quic_stream_fail(s, err);
        return;
    }
    /* Of a connection that is gone: freeing needs no agreement. */
    s->reset_err = 0;
    quic_stream_drop(ep, s);
}

static bool tell_reset(struct quic *ep, struct quic_stream *s, int err, struct quic_event *out)
{
    bool told = s->opened;
    fill(out, QUIC_STREAM_RESET, s);
    out->err = err;
    end_handle(ep, s, err);
    return told;
}

/* Reads the head of a stream that the peer opened.  True: *out was filled. */
static bool tell_opened(struct quic *ep, struct quic_stream *s, struct quic_event *out)
{
    uint8_t wire[STREAM_HEAD_BYTES];
    struct stream_head head;
    if (s->in.len < sizeof wire) {
        if (s->fin_received)
            end_handle(ep, s, ERR_TRUNCATED);
        return false;
    }
    quic_chain_peek(&s->in, 0, wire, sizeof wire);
    int err = stream_head_decode(wire, &head);
    if (err == ERR_OK && ep->cfg.frame_max[head.service] == 0)
        err = ERR_UNSUPPORTED;
    if (err != ERR_OK) {
        end_handle(ep, s, err);
        return false;
    }
    s->service = head.service;
    s->class = head.class;
    s->opened = true;
    consume(ep, s, sizeof wire);
    if (s->conn != NULL)
        s->conn->received[s->class] += s->in.len;
    fill(out, QUIC_STREAM_OPENED, s);
    return true;
}

static bool tell_frame(struct quic *ep, struct quic_stream *s, struct quic_event *out)
{
    uint8_t wire[STREAM_LENGTH_BYTES];
    if (s->in.len >= sizeof wire) {
        quic_chain_peek(&s->in, 0, wire, sizeof wire);
        int len = stream_length_decode(wire, ep->cfg.frame_max[s->service]);
        if (len < 0)
            return tell_reset(ep, s, len, out);
        if (s->in.len >= sizeof wire + (size_t)len) {
            ASSERT((size_t)len <= ep->scratch_bytes);
            quic_chain_peek(&s->in, sizeof wire, ep->scratch, (size_t)len);
            consume(ep, s, sizeof wire + (size_t)len);
            fill(out, QUIC_FRAME, s);
            out->frame = bytes_of(ep->scratch, (size_t)len);
            return true;
        }
    }
    if (!s->fin_received || s->end_told)
        return false;
    if (s->in.len > 0)
        return tell_reset(ep, s, ERR_TRUNCATED, out);
    fill(out, QUIC_STREAM_ENDED, s);
    s->end_told = true;
    if (s->fin_queued) {
        s->dead = true;
        if (s->conn == NULL)
            quic_stream_drop(ep, s);
        else
            quic_stream_maybe_free(s);
    }
    return true;
}

/* The stream's next event.  False: none at the moment. */
static bool stream_event(struct quic *ep, struct quic_stream *s, struct quic_event *out)
{
    if (s->dead) {
        quic_stream_maybe_free(s);
        return false;
    }
    if (s->reset_err != 0)
        return tell_reset(ep, s, s->reset_err, out);
    if (!s->opened)
        return tell_opened(ep, s, out);
    if (s->want_writable && s->conn != NULL && !s->closed && quic_stream_half_free(s)) {
        s->want_writable = false;
        fill(out, QUIC_STREAM_WRITABLE, s);
        return true;
    }
    return !s->paused && tell_frame(ep, s, out);
}

static void tell_down(struct quic *ep, struct quic_conn *conn, struct quic_event *out)
{
    *out = (struct quic_event){.kind = QUIC_DISCONNECTED, .peer = conn->peer, .err = conn->down_err};
    out->outgoing = !conn->server;
    if (conn->announced)
        trace_emit(&ep->cfg.trace, TRACE_CONN_DOWN, ep->now_ns, &conn->peer, 0, 0, conn->down_err);
    quic_conn_release(conn);
}

static void tell_up(struct quic *ep, struct quic_conn *conn, struct quic_event *out)
{
    quic_ng_stat stat;
    quic_ng_get_stat(conn->ng, &stat);
    quic_link_remove(&conn->in_told);
    conn->announced = true;
    for (struct quic_link *at = conn->streams.next; at != &conn->streams; at = at->next)
        quic_stream_ready(QUIC_OWNER(at, struct quic_stream, in_conn));
    *out = (struct quic_event){.kind = QUIC_CONNECTED, .peer = conn->peer, .outgoing = !conn->server};
    out->rtt_ns = stat.smoothed_rtt;
    trace_emit(&ep->cfg.trace, TRACE_CONN_UP, ep->now_ns, &conn->peer, (int64_t)(stat.smoothed_rtt / 1000), 0,
               0);
}

bool quic_poll_event(struct quic *ep, uint64_t now_ns, struct quic_event *out)
{
    ep->now_ns = now_ns;
    quic_streams_wake(ep);
    while (!quic_link_alone(&ep->ready)) {
        struct quic_stream *s = QUIC_OWNER(ep->ready.next, struct quic_stream, in_ready);
        /* To the back of the line first: the event may free the slot. */
        quic_link_append(&ep->ready, &s->in_ready);
        if (stream_event(ep, s, out))
            return true;
        quic_link_remove(&s->in_ready);
    }
    if (!quic_link_alone(&ep->down)) {
        tell_down(ep, QUIC_OWNER(ep->down.next, struct quic_conn, in_told), out);
        return true;
    }
    if (!quic_link_alone(&ep->up)) {
        tell_up(ep, QUIC_OWNER(ep->up.next, struct quic_conn, in_told), out);
        return true;
    }
    return false;
}
