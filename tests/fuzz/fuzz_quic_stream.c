/* A peer's bytes on a stream, in pieces of any size: the endpoint tells exactly the frames that a naive
 * parser finds in them, and ends the stream where that one finds the first fault.  Input: one byte of
 * options, one byte of piece size, then the stream. */
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "net/quic_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { FRAME_MAX = 300, INPUT_MAX = 20000 };

static struct quic *endpoint(void)
{
    static struct quic *ep;
    if (ep != NULL)
        return ep;
    struct net_identity identity = {0};
    if (sodium_init() < 0)
        abort();
    crypto_sign_seed_keypair(identity.id.bytes, identity.sign_secret, identity.seed);
    struct quic_config cfg = quic_config_default();
    cfg.identity = &identity;
    cfg.rng = rng_system();
    cfg.allocator = allocator_system();
    cfg.streams_max = 8;
    cfg.streams_peer_max = 8;
    cfg.frame_max[STREAM_SERVICE_RPC] = FRAME_MAX;
    if (quic_create(&ep, &cfg, 1) != ERR_OK)
        abort();
    return ep;
}

/* A stream as a connection that has just ended leaves it: what it received is still to be told. */
static struct quic_stream *stream(struct quic *ep)
{
    struct quic_stream *s = QUIC_OWNER(ep->free_streams.next, struct quic_stream, in_conn);
    uint32_t index = s->index;
    quic_link_remove(&s->in_conn);
    *s = (struct quic_stream){.used = true, .index = index, .generation = 1, .closed = true};
    quic_link_init(&s->in_conn);
    quic_link_init(&s->in_ready);
    quic_link_init(&s->in_send);
    ep->stream_count++;
    return s;
}

/* What must be told next of the input at *at; the naive parser. */
static enum quic_event_kind expected(struct bytes in, size_t *at, bool fin, struct bytes *frame, bool *none)
{
    size_t left = in.len - *at;
    *none = false;
    if (left >= STREAM_LENGTH_BYTES) {
        const uint8_t *p = in.data + *at;
        size_t len = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
        if (len == 0 || len > FRAME_MAX)
            return QUIC_STREAM_RESET;
        if (left >= STREAM_LENGTH_BYTES + len) {
            *frame = bytes_of(p + STREAM_LENGTH_BYTES, len);
            *at += STREAM_LENGTH_BYTES + len;
            return QUIC_FRAME;
        }
    }
    *none = !fin;
    return left > 0 ? QUIC_STREAM_RESET : QUIC_STREAM_ENDED;
}

static void must(bool condition)
{
    if (!condition)
        abort();
}

/* Compares everything told with the naive parser; true when the stream is over. */
static bool drain(struct quic *ep, struct bytes in, size_t *at, bool fin, uint64_t *handle)
{
    struct quic_event event;
    while (quic_poll_event(ep, 1, &event)) {
        struct bytes frame = {0};
        bool none;
        *handle = event.handle;
        if (event.kind == QUIC_STREAM_OPENED) {
            must(*at == 0 && in.len >= STREAM_HEAD_BYTES && in.data[0] == STREAM_VERSION &&
                 in.data[1] == STREAM_SERVICE_RPC && in.data[2] < STREAM_CLASS_COUNT && in.data[3] == 0);
            *at = STREAM_HEAD_BYTES;
            continue;
        }
        must(*at >= STREAM_HEAD_BYTES);
        must(event.kind == expected(in, at, fin, &frame, &none) && !none);
        must(bytes_equal(frame, event.frame));
        if (event.kind != QUIC_FRAME)
            return true;
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > INPUT_MAX)
        return 0;
    struct quic *ep = endpoint();
    struct bytes in = bytes_of(data + 2, size - 2);
    size_t piece = data[1] + (size_t)1;
    bool fin = data[0] & 1;
    struct quic_stream *s = stream(ep);
    uint64_t handle = quic_stream_handle(s);
    size_t at = 0;
    size_t given = 0;
    bool over = false;
    do {
        size_t len = in.len - given < piece ? in.len - given : piece;
        must(quic_chain_append(&ep->in_pool, &s->in, in.data + given, len));
        given += len;
        s->fin_received = fin && given == in.len;
        quic_link_append(&ep->ready, &s->in_ready);
        over = drain(ep, bytes_of(in.data, given), &at, s->fin_received, &handle);
    } while (!over && s->used && given < in.len);
    quic_stream_finish(ep, handle);
    quic_stream_reset(ep, handle, ERR_CLOSED);
    quic_check_invariants(ep);
    must(ep->in_pool.used == 0 && ep->stream_count == 0);
    return 0;
}
