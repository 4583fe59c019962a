/* Stream slots, and what the application does with its streams. */
#include <string.h>

#include "net/quic_internal.h"

uint64_t quic_stream_handle(const struct quic_stream *s)
{
    return (uint64_t)s->generation << 32 | s->index;
}

/* The stream of a live handle, or NULL. */
static struct quic_stream *stream_of(const struct quic *ep, uint64_t handle)
{
    uint32_t index = (uint32_t)handle;
    if (index >= ep->cfg.streams_max)
        return NULL;
    struct quic_stream *s = &ep->streams[index];
    return s->used && !s->dead && s->generation == handle >> 32 ? s : NULL;
}

struct quic_stream *quic_stream_take(struct quic_conn *conn, int64_t id, bool outgoing)
{
    struct quic *ep = conn->ep;
    if (quic_link_alone(&ep->free_streams))
        return NULL;
    struct quic_stream *s = QUIC_OWNER(ep->free_streams.next, struct quic_stream, in_conn);
    uint32_t generation = s->generation + 1 == 0 ? 1 : s->generation + 1;
    uint32_t index = s->index;
    quic_link_remove(&s->in_conn);
    *s = (struct quic_stream){.used = true, .conn = conn, .peer = conn->peer, .id = id, .outgoing = outgoing};
    s->generation = generation;
    s->index = index;
    quic_link_init(&s->in_conn);
    quic_link_init(&s->in_ready);
    quic_link_init(&s->in_send);
    quic_link_append(&conn->streams, &s->in_conn);
    conn->stream_count++;
    conn->outgoing_count += outgoing;
    ep->stream_count++;
    return s;
}

static void stream_free(struct quic_stream *s, struct quic *ep)
{
    ASSERT(s->used && s->dead);
    quic_chain_clear(&ep->out_pool, &s->out);
    quic_chain_clear(&ep->in_pool, &s->in);
    quic_link_remove(&s->in_ready);
    quic_link_remove(&s->in_send);
    if (s->conn != NULL) {
        s->conn->stream_count--;
        s->conn->outgoing_count -= s->outgoing;
        if (!s->outgoing && s->conn->ng != NULL) {
            ngtcp2_conn_extend_max_streams_bidi(s->conn->ng, 1);
            quic_conn_dirty(s->conn);
        }
    }
    s->used = false;
    s->conn = NULL;
    quic_link_append(&ep->free_streams, &s->in_conn);
    ep->stream_count--;
}

void quic_stream_maybe_free(struct quic_stream *s)
{
    if (s->used && s->dead && s->closed && s->conn != NULL)
        stream_free(s, s->conn->ep);
}

void quic_stream_drop(struct quic *ep, struct quic_stream *s)
{
    ASSERT(s->conn == NULL);
    s->dead = true;
    stream_free(s, ep);
}

void quic_stream_ready(struct quic_stream *s)
{
    ASSERT(s->conn != NULL);
    /* Nothing of a connection is told before CONNECTED. */
    if (s->conn->announced)
        quic_link_append(&s->conn->ep->ready, &s->in_ready);
}

void quic_stream_credit(struct quic_stream *s, size_t len)
{
    struct quic_conn *conn = s->conn;
    if (conn == NULL || conn->ng == NULL || len == 0)
        return;
    if (!s->closed)
        (void)ngtcp2_conn_extend_max_stream_offset(conn->ng, s->id, len);
    ngtcp2_conn_extend_max_offset(conn->ng, len);
    quic_conn_dirty(conn);
}

/* Drops what was received and not told. */
static void drop_received(struct quic_stream *s)
{
    struct quic_pool *pool = &s->conn->ep->in_pool;
    size_t len = s->in.len;
    size_t held = pool->used;
    quic_chain_clear(pool, &s->in);
    s->conn->in_blocks -= held - pool->used;
    quic_stream_credit(s, len);
}

void quic_stream_fail(struct quic_stream *s, int err)
{
    struct quic_conn *conn = s->conn;
    ASSERT(s->used && !s->dead && conn != NULL);
    s->dead = true;
    quic_link_remove(&s->in_send);
    drop_received(s);
    if (!s->closed && conn->ng != NULL) {
        quic_ng_shutdown_stream(conn->ng, s->id, quic_code_of(err));
        quic_conn_dirty(conn);
    }
    quic_stream_maybe_free(s);
}

void quic_stream_detach(struct quic_stream *s, int err, bool tell)
{
    struct quic *ep = s->conn->ep;
    s->closed = true;
    quic_chain_clear(&ep->out_pool, &s->out);
    quic_link_remove(&s->in_send);
    s->conn->stream_count--;
    s->conn->outgoing_count -= s->outgoing;
    quic_link_remove(&s->in_conn);
    s->conn = NULL;
    bool told = s->opened || s->outgoing;
    if (s->dead || !tell || (!told && !s->fin_received)) {
        s->dead = true;
        stream_free(s, ep);
        return;
    }
    /* Complete messages survive the connection that brought them. */
    if (!s->fin_received && s->reset_err == 0)
        s->reset_err = err;
    quic_link_append(&ep->ready, &s->in_ready);
}

void quic_stream_acked(struct quic_stream *s, uint64_t upto)
{
    struct quic *ep = s->conn->ep;
    if (upto <= s->acked || s->out.head == NULL)
        return;
    ASSERT(upto <= s->sent);
    if (s->send_at == QUIC_BLOCK_BYTES && s->send_block->next != NULL) {
        s->send_block = s->send_block->next;
        s->send_at = 0;
    }
    quic_chain_consume(&ep->out_pool, &s->out, (size_t)(upto - s->acked));
    s->acked = upto;
    if (s->out.head == NULL)
        s->send_block = NULL;
    if (s->want_writable)
        quic_stream_ready(s);
}

static bool is_bulk(const struct quic_stream *s)
{
    return s->class == STREAM_CLASS_WEIGHTS || s->class == STREAM_CLASS_BLOBS;
}

/* What the stream's own limits allow, whatever the common buffers hold. */
static size_t own_room_of(const struct quic_stream *s)
{
    uint64_t unsent_max = is_bulk(s) ? QUIC_UNSENT_BULK_MAX : QUIC_UNSENT_MAX;
    uint64_t unacked_max = is_bulk(s) ? QUIC_UNACKED_BULK_MAX : QUIC_UNACKED_MAX;
    uint64_t unsent = s->queued - s->sent;
    uint64_t unacked = s->queued - s->acked;
    if (unsent >= unsent_max || unacked >= unacked_max)
        return 0;
    return (size_t)(unsent_max - unsent < unacked_max - unacked ? unsent_max - unsent
                                                                : unacked_max - unacked);
}

static size_t room_of(const struct quic_stream *s)
{
    size_t room = own_room_of(s);
    size_t pool = quic_pool_free_bytes(&s->conn->ep->out_pool);
    return room < pool ? room : pool;
}

bool quic_stream_half_free(const struct quic_stream *s)
{
    const struct quic_pool *pool = &s->conn->ep->out_pool;
    bool pool_free = quic_pool_free_bytes(pool) >= pool->blocks_max / 8 * QUIC_BLOCK_BYTES;
    return pool_free && own_room_of(s) >= (is_bulk(s) ? QUIC_UNSENT_BULK_MAX : QUIC_UNSENT_MAX) / 2;
}

void quic_streams_wake(struct quic *ep)
{
    const struct quic_pool *pool = &ep->out_pool;
    if (!ep->out_starved || quic_pool_free_bytes(pool) < pool->blocks_max / 8 * QUIC_BLOCK_BYTES)
        return;
    ep->out_starved = false;
    for (size_t i = 0; i < ep->cfg.streams_max; i++) {
        struct quic_stream *s = &ep->streams[i];
        if (s->used && s->want_writable && s->conn != NULL)
            quic_stream_ready(s);
    }
}

/* Puts bytes behind what is queued; room for them was reserved. */
static void queue_bytes(struct quic_stream *s, const uint8_t *data, size_t len)
{
    quic_chain_fill(&s->out, data, len);
    if (s->send_block == NULL) {
        s->send_block = s->out.head;
        s->send_at = s->out.head_at;
    }
    s->queued += len;
}

static void want_send(struct quic_stream *s)
{
    if (quic_link_alone(&s->in_send))
        quic_link_append(&s->conn->sending[s->class], &s->in_send);
    quic_conn_dirty(s->conn);
}

int quic_stream_open(struct quic *ep, uint64_t now_ns, const struct id *peer, uint8_t service, uint8_t class,
                     uint64_t *handle)
{
    ep->now_ns = now_ns;
    if (service == 0 || service >= STREAM_SERVICE_COUNT || class >= STREAM_CLASS_COUNT ||
        ep->cfg.frame_max[service] == 0)
        return ERR_INVALID;
    struct quic_conn *conn = quic_conn_of(ep, peer);
    if (conn == NULL || conn->state != CONN_UP || !conn->announced)
        return ERR_NOT_FOUND;
    /* The second limit holds the slots of streams that we reset and the peer never lets go. */
    if (ngtcp2_conn_get_streams_bidi_left(conn->ng) == 0 || conn->outgoing_count >= ep->cfg.streams_peer_max)
        return ERR_AGAIN;
    struct quic_stream *s = quic_stream_take(conn, -1, true);
    if (s == NULL)
        return ERR_FULL;
    bool reserved = quic_chain_reserve(&ep->out_pool, &s->out, STREAM_HEAD_BYTES);
    if (!reserved || ngtcp2_conn_open_bidi_stream(conn->ng, &s->id, s) != 0) {
        s->dead = true;
        stream_free(s, ep);
        return reserved ? ERR_AGAIN : ERR_FULL;
    }
    s->service = service;
    s->class = class;
    s->opened = true;
    uint8_t head[STREAM_HEAD_BYTES];
    stream_head_encode(&(struct stream_head){.service = service, .class = class}, head);
    queue_bytes(s, head, sizeof head);
    want_send(s);
    *handle = quic_stream_handle(s);
    return ERR_OK;
}

int quic_stream_send(struct quic *ep, uint64_t handle, struct bytes frame)
{
    struct quic_stream *s = stream_of(ep, handle);
    if (s == NULL)
        return ERR_NOT_FOUND;
    if (frame.len == 0)
        return ERR_INVALID;
    if (frame.len > ep->cfg.frame_max[s->service])
        return ERR_TOO_LARGE;
    if (s->fin_queued)
        return ERR_STATE;
    if (s->conn == NULL || s->closed || s->reset_err != 0)
        return ERR_CLOSED;
    /* A frame larger than the buffer's limit still passes when the buffer is empty. */
    size_t needed = frame.len + STREAM_LENGTH_BYTES;
    bool empty = s->queued - s->sent <= STREAM_HEAD_BYTES;
    bool fits_pool = needed <= quic_pool_free_bytes(&ep->out_pool);
    if (needed > room_of(s) && !(empty && fits_pool && s->queued - s->acked <= QUIC_UNACKED_MAX)) {
        s->want_writable = true;
        ep->out_starved |= !fits_pool || own_room_of(s) >= needed;
        return ERR_AGAIN;
    }
    uint8_t length[STREAM_LENGTH_BYTES];
    stream_length_encode(frame.len, length);
    if (!quic_chain_reserve(&ep->out_pool, &s->out, needed)) {
        s->want_writable = true;
        ep->out_starved = true;
        return ERR_AGAIN;
    }
    queue_bytes(s, length, sizeof length);
    queue_bytes(s, frame.data, frame.len);
    want_send(s);
    return ERR_OK;
}

void quic_stream_finish(struct quic *ep, uint64_t handle)
{
    struct quic_stream *s = stream_of(ep, handle);
    if (s == NULL || s->fin_queued)
        return;
    s->fin_queued = true;
    s->want_writable = false;
    if (s->conn != NULL && !s->closed && s->reset_err == 0)
        want_send(s);
    if (!s->end_told)
        return;
    if (s->conn == NULL) {
        quic_stream_drop(ep, s);
        return;
    }
    s->dead = true;
    quic_stream_maybe_free(s);
}

void quic_stream_reset(struct quic *ep, uint64_t handle, int err)
{
    struct quic_stream *s = stream_of(ep, handle);
    if (s == NULL)
        return;
    if (s->conn != NULL) {
        quic_stream_fail(s, err);
        return;
    }
    quic_stream_drop(ep, s);
}

void quic_stream_pause(struct quic *ep, uint64_t handle)
{
    struct quic_stream *s = stream_of(ep, handle);
    if (s != NULL)
        s->paused = true;
}

void quic_stream_resume(struct quic *ep, uint64_t handle)
{
    struct quic_stream *s = stream_of(ep, handle);
    if (s == NULL || !s->paused)
        return;
    s->paused = false;
    quic_link_append(&ep->ready, &s->in_ready);
}

size_t quic_stream_room(const struct quic *ep, uint64_t handle)
{
    const struct quic_stream *s = stream_of(ep, handle);
    if (s == NULL || s->conn == NULL || s->closed || s->fin_queued)
        return 0;
    size_t room = room_of(s);
    return room > STREAM_LENGTH_BYTES ? room - STREAM_LENGTH_BYTES : 0;
}
