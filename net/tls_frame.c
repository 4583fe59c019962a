#include "net/tls_frame.h"

#include <string.h>

struct tls_frame_queue tls_frame_queue_over(uint8_t *bytes, size_t cap)
{
    return (struct tls_frame_queue){.bytes = bytes, .cap = cap};
}

static void append(struct tls_frame_queue *q, const uint8_t *data, size_t len)
{
    size_t at = (q->first + q->used) % q->cap;
    size_t straight = len < q->cap - at ? len : q->cap - at;
    memcpy(q->bytes + at, data, straight);
    if (straight < len)
        memcpy(q->bytes, data + straight, len - straight);
    q->used += len;
}

int tls_frame_push(struct tls_frame_queue *q, struct bytes datagram)
{
    ASSERT(datagram.len <= TLS_FRAME_DATAGRAM_MAX);
    if (q->cap - q->used < TLS_FRAME_HEAD_BYTES + datagram.len)
        return ERR_AGAIN;
    uint8_t head[TLS_FRAME_HEAD_BYTES] = {(uint8_t)(datagram.len >> 8), (uint8_t)datagram.len};
    append(q, head, sizeof head);
    if (datagram.len > 0)
        append(q, datagram.data, datagram.len);
    return ERR_OK;
}

struct bytes tls_frame_span(const struct tls_frame_queue *q, size_t len_max)
{
    size_t len = q->used < q->cap - q->first ? q->used : q->cap - q->first;
    return bytes_of(q->bytes + q->first, len < len_max ? len : len_max);
}

void tls_frame_sent(struct tls_frame_queue *q, size_t len)
{
    ASSERT(len <= q->used);
    q->used -= len;
    /* Starting over where it can keeps small frames in one piece, and so in one record. */
    q->first = q->used == 0 ? 0 : (q->first + len) % q->cap;
}

struct tls_frame_reader tls_frame_reader_over(uint8_t *bytes, size_t cap)
{
    ASSERT(cap > TLS_FRAME_HEAD_BYTES + TLS_FRAME_DATAGRAM_MAX);
    return (struct tls_frame_reader){.bytes = bytes, .cap = cap};
}

uint8_t *tls_frame_room(struct tls_frame_reader *r, size_t *room)
{
    size_t left = r->end - r->begin;
    ASSERT(left < TLS_FRAME_HEAD_BYTES + TLS_FRAME_DATAGRAM_MAX);
    if (left > 0 && r->begin > 0)
        memmove(r->bytes, r->bytes + r->begin, left);
    r->begin = 0;
    r->end = left;
    *room = r->cap - left;
    return r->bytes + left;
}

void tls_frame_filled(struct tls_frame_reader *r, size_t len)
{
    ASSERT(len <= r->cap - r->end);
    r->end += len;
}

/* Length of the frame at the front; its head is there. */
static size_t frame_len(const struct tls_frame_reader *r)
{
    return (size_t)r->bytes[r->begin] << 8 | r->bytes[r->begin + 1];
}

int tls_frame_waits(struct tls_frame_reader *r)
{
    while (r->end - r->begin >= TLS_FRAME_HEAD_BYTES) {
        size_t len = frame_len(r);
        if (len > TLS_FRAME_DATAGRAM_MAX)
            return ERR_TOO_LARGE;
        if (len > 0)
            return r->end - r->begin - TLS_FRAME_HEAD_BYTES >= len;
        r->begin += TLS_FRAME_HEAD_BYTES;
        r->frames++;
    }
    return 0;
}

struct bytes tls_frame_take(struct tls_frame_reader *r)
{
    size_t len = frame_len(r);
    ASSERT(len > 0 && r->end - r->begin - TLS_FRAME_HEAD_BYTES >= len);
    struct bytes datagram = bytes_of(r->bytes + r->begin + TLS_FRAME_HEAD_BYTES, len);
    r->begin += TLS_FRAME_HEAD_BYTES + len;
    r->frames++;
    return datagram;
}
