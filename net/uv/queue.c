#include "net/uv/queue.h"

#include <string.h>

void net_uv_queue_init(struct net_uv_queue *q, uint8_t *bytes, size_t bytes_cap, struct net_uv_batch *batches,
                       size_t batches_cap)
{
    *q = (struct net_uv_queue){
        .bytes = bytes, .batches = batches, .bytes_cap = bytes_cap, .ring = ring_init(batches_cap)};
}

/* Moves what is queued to the start of the memory. */
static void compact(struct net_uv_queue *q)
{
    memmove(q->bytes, q->bytes + q->begin, q->end - q->begin);
    for (size_t i = 0; i < q->ring.count; i++)
        q->batches[ring_at(&q->ring, i)].data -= q->begin;
    q->end -= q->begin;
    q->begin = 0;
}

int net_uv_queue_push(struct net_uv_queue *q, const struct net_uv_batch *batch)
{
    ASSERT(batch->len > 0 && batch->segment_size > 0);
    if (batch->len > q->bytes_cap - (q->end - q->begin) || ring_next(&q->ring) == RING_NONE)
        return ERR_FULL;
    if (batch->len > q->bytes_cap - q->end)
        compact(q);
    struct net_uv_batch *slot = &q->batches[ring_push(&q->ring)];
    *slot = *batch;
    slot->data = q->bytes + q->end;
    memcpy(q->bytes + q->end, batch->data, batch->len);
    q->end += batch->len;
    return ERR_OK;
}

const struct net_uv_batch *net_uv_queue_front(const struct net_uv_queue *q)
{
    size_t at = ring_peek(&q->ring);
    return at == RING_NONE ? NULL : &q->batches[at];
}

void net_uv_queue_sent(struct net_uv_queue *q, size_t len)
{
    size_t at = ring_peek(&q->ring);
    ASSERT(at != RING_NONE);
    struct net_uv_batch *front = &q->batches[at];
    ASSERT(len <= front->len);
    q->begin += len;
    front->data += len;
    front->len -= len;
    if (front->len > 0)
        return;
    (void)ring_pop(&q->ring);
    if (q->ring.count == 0) {
        q->begin = 0;
        q->end = 0;
    }
}
