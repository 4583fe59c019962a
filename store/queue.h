/* Ring of changes waiting for the writer thread: variable-size records one after the other in a fixed block.
 * The caller locks; records between the head and a cursor stay where they are until popped, so the writer may
 * read them without the lock while others push.  Private to store/. */
#ifndef DUNLIN_STORE_QUEUE_H
#define DUNLIN_STORE_QUEUE_H

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/err.h"

enum store_op_kind { STORE_OP_PUT = 1, STORE_OP_DELETE, STORE_OP_DELETE_PREFIX, STORE_OP_WRAP };

struct store_op {
    uint64_t ticket;
    uint64_t queued_ns;
    uint32_t size; /* of the record in the ring, this head included */
    uint32_t value_len;
    uint16_t key_len;
    uint8_t kind;
    uint8_t durable;
    /* key and value follow */
};

struct store_queue {
    uint8_t *ring;
    size_t cap;
    size_t head; /* offset of the oldest record */
    size_t used; /* bytes in use, the unused tail before a wrap included */
    size_t count;
};

/* ERR_NO_MEMORY. */
MUST_USE int store_queue_init(struct store_queue *q, const struct allocator *alloc, size_t cap);
void store_queue_deinit(struct store_queue *q, const struct allocator *alloc);
/* Appends a copy; ERR_FULL. */
MUST_USE int store_queue_push(struct store_queue *q, const struct store_op *op, struct bytes key,
                              struct bytes value);
/* Walks from the head: *cursor starts at SIZE_MAX; the walk may only cover the `count` of now. */
const struct store_op *store_queue_next(const struct store_queue *q, size_t *cursor);
struct bytes store_op_key(const struct store_op *op);
struct bytes store_op_value(const struct store_op *op);
/* Removes the oldest record. */
void store_queue_pop(struct store_queue *q);

#endif
