#include "store/queue.h"

#include <string.h>

enum { ALIGN = 8 };

int store_queue_init(struct store_queue *q, const struct allocator *alloc, size_t cap)
{
    cap &= ~(size_t)(ALIGN - 1);
    *q = (struct store_queue){.ring = allocator_get(alloc, 1, cap), .cap = cap};
    return q->ring == NULL ? ERR_NO_MEMORY : ERR_OK;
}

void store_queue_deinit(struct store_queue *q, const struct allocator *alloc)
{
    allocator_release(alloc, q->ring);
    q->ring = NULL;
}

/* The ring is aligned to 64 and every record's size is a multiple of 8, so heads are aligned. */
static struct store_op *op_at(const struct store_queue *q, size_t offset)
{
    ASSERT(offset + sizeof(struct store_op) <= q->cap);
    return (struct store_op *)(void *)(q->ring + offset);
}

int store_queue_push(struct store_queue *q, const struct store_op *op, struct bytes key, struct bytes value)
{
    size_t size = (sizeof *op + key.len + value.len + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    size_t tail = (q->head + q->used) % q->cap;
    size_t to_end = q->cap - tail;
    size_t skipped = size > to_end ? to_end : 0;
    if (skipped + size > q->cap - q->used)
        return ERR_FULL;
    if (skipped > 0) {
        /* Too small a rest for a head needs no mark: the walker sees that by itself. */
        if (skipped >= sizeof *op)
            *op_at(q, tail) = (struct store_op){.kind = STORE_OP_WRAP, .size = (uint32_t)skipped};
        q->used += skipped;
        tail = 0;
    }
    struct store_op *stored = op_at(q, tail);
    *stored = *op;
    stored->size = (uint32_t)size;
    stored->key_len = (uint16_t)key.len;
    stored->value_len = (uint32_t)value.len;
    uint8_t *body = q->ring + tail + sizeof *op;
    if (key.len > 0)
        memcpy(body, key.data, key.len);
    if (value.len > 0)
        memcpy(body + key.len, value.data, value.len);
    q->used += size;
    q->count++;
    return ERR_OK;
}

/* Where the record at or after offset really starts, past a wrap. */
static size_t skip_wrap(const struct store_queue *q, size_t offset)
{
    if (offset == q->cap || q->cap - offset < sizeof(struct store_op) ||
        op_at(q, offset)->kind == STORE_OP_WRAP)
        return 0;
    return offset;
}

const struct store_op *store_queue_next(const struct store_queue *q, size_t *cursor)
{
    size_t offset = q->head;
    if (*cursor != SIZE_MAX)
        offset = *cursor + op_at(q, *cursor)->size;
    offset = skip_wrap(q, offset);
    *cursor = offset;
    return op_at(q, offset);
}

struct bytes store_op_key(const struct store_op *op)
{
    return (struct bytes){(const uint8_t *)(op + 1), op->key_len};
}

struct bytes store_op_value(const struct store_op *op)
{
    return (struct bytes){(const uint8_t *)(op + 1) + op->key_len, op->value_len};
}

void store_queue_pop(struct store_queue *q)
{
    ASSERT(q->count > 0);
    size_t start = skip_wrap(q, q->head);
    if (start != q->head) {
        q->used -= q->cap - q->head;
        q->head = 0;
    }
    size_t size = op_at(q, q->head)->size;
    ASSERT(size <= q->used);
    q->used -= size;
    q->head = (q->head + size) % q->cap;
    q->count--;
    if (q->count == 0) {
        q->head = 0;
        q->used = 0;
    }
}
