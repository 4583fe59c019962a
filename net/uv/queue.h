/* Batches of datagrams that wait until a full socket takes data again: a bounded first-in first-out queue of
 * copies. */
#ifndef DUNLIN_NET_UV_QUEUE_H
#define DUNLIN_NET_UV_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/ring.h"
#include "net/addr.h"

struct net_uv_batch {
    struct net_addr to;
    const uint8_t *data;
    size_t len, segment_size;
};

struct net_uv_queue {
    uint8_t *bytes;               /* [bytes_cap], borrowed */
    struct net_uv_batch *batches; /* [ring.cap], borrowed */
    size_t bytes_cap;
    size_t begin, end; /* of the bytes in use */
    struct ring ring;  /* of batches */
};

/* An empty queue over the caller's memory, borrowed until the last use. */
void net_uv_queue_init(struct net_uv_queue *q, uint8_t *bytes, size_t bytes_cap, struct net_uv_batch *batches,
                       size_t batches_cap);
/* Copies a batch.  ERR_FULL: it does not fit: drop it. */
MUST_USE int net_uv_queue_push(struct net_uv_queue *q, const struct net_uv_batch *batch);
/* The oldest batch, or NULL; borrowed until the next push or pop. */
const struct net_uv_batch *net_uv_queue_front(const struct net_uv_queue *q);
/* Drops the oldest batch's first len bytes, which were sent; the whole batch when that is all of it. */
void net_uv_queue_sent(struct net_uv_queue *q, size_t len);

#endif
