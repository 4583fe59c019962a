#include <string.h>

#include "net/quic_internal.h"

int quic_pool_init(struct quic_pool *pool, const struct allocator *allocator, size_t bytes)
{
    size_t slab_bytes = sizeof(struct quic_block) * QUIC_SLAB_BLOCKS;
    *pool = (struct quic_pool){.allocator = *allocator};
    pool->slabs_max = (bytes + slab_bytes - 1) / slab_bytes;
    pool->blocks_max = pool->slabs_max * QUIC_SLAB_BLOCKS;
    pool->slabs = allocator_get(allocator, pool->slabs_max, sizeof *pool->slabs);
    return pool->slabs == NULL ? ERR_NO_MEMORY : ERR_OK;
}

void quic_pool_deinit(struct quic_pool *pool)
{
    if (pool->slabs == NULL)
        return;
    for (size_t i = 0; i < pool->slab_count; i++)
        allocator_release(&pool->allocator, pool->slabs[i]);
    allocator_release(&pool->allocator, pool->slabs);
    pool->slabs = NULL;
}

/* Stream buffers belong to the wrapper of ngtcp2, which allocates as it likes; slabs are kept once obtained,
 * so a node that has seen its peak allocates no more. */
static bool pool_grow(struct quic_pool *pool)
{
    if (pool->slab_count == pool->slabs_max)
        return false;
    struct quic_block *blocks = allocator_get(&pool->allocator, QUIC_SLAB_BLOCKS, sizeof *blocks);
    if (blocks == NULL)
        return false;
    pool->slabs[pool->slab_count++] = blocks;
    for (size_t i = 0; i < QUIC_SLAB_BLOCKS; i++) {
        blocks[i].next = pool->free;
        pool->free = &blocks[i];
    }
    return true;
}

static struct quic_block *block_get(struct quic_pool *pool)
{
    if (pool->free == NULL && !pool_grow(pool))
        return NULL;
    struct quic_block *block = pool->free;
    pool->free = block->next;
    block->next = NULL;
    pool->used++;
    return block;
}

static void block_put(struct quic_pool *pool, struct quic_block *block)
{
    ASSERT(pool->used > 0);
    block->next = pool->free;
    pool->free = block;
    pool->used--;
}

size_t quic_pool_free_bytes(const struct quic_pool *pool)
{
    return (pool->blocks_max - pool->used) * QUIC_BLOCK_BYTES;
}

bool quic_chain_reserve(struct quic_pool *pool, struct quic_chain *chain, size_t len)
{
    size_t room = chain->tail == NULL ? 0 : QUIC_BLOCK_BYTES - chain->tail_used;
    struct quic_block *first = NULL;
    struct quic_block *last = NULL;
    while (room < len) {
        struct quic_block *block = block_get(pool);
        if (block == NULL) {
            while (first != NULL) {
                struct quic_block *next = first->next;
                block_put(pool, first);
                first = next;
            }
            return false;
        }
        if (first == NULL)
            first = block;
        else
            last->next = block;
        last = block;
        room += QUIC_BLOCK_BYTES;
    }
    if (first == NULL)
        return true;
    if (chain->tail == NULL) {
        chain->head = first;
        chain->tail = first;
        chain->head_at = 0;
        chain->tail_used = 0;
    } else {
        chain->tail->next = first;
    }
    return true;
}

bool quic_chain_append(struct quic_pool *pool, struct quic_chain *chain, const uint8_t *data, size_t len)
{
    if (!quic_chain_reserve(pool, chain, len))
        return false;
    quic_chain_fill(chain, data, len);
    return true;
}

void quic_chain_fill(struct quic_chain *chain, const uint8_t *data, size_t len)
{
    while (len > 0) {
        if (chain->tail_used == QUIC_BLOCK_BYTES) {
            chain->tail = chain->tail->next;
            chain->tail_used = 0;
        }
        size_t part = QUIC_BLOCK_BYTES - chain->tail_used;
        if (part > len)
            part = len;
        memcpy(chain->tail->data + chain->tail_used, data, part);
        chain->tail_used += part;
        chain->len += part;
        data += part;
        len -= part;
    }
}

void quic_chain_peek(const struct quic_chain *chain, size_t skip, uint8_t *out, size_t len)
{
    ASSERT(chain->len >= skip && chain->len - skip >= len);
    const struct quic_block *block = chain->head;
    size_t at = chain->head_at + skip;
    while (len > 0) {
        while (at >= QUIC_BLOCK_BYTES) {
            block = block->next;
            at -= QUIC_BLOCK_BYTES;
        }
        size_t part = QUIC_BLOCK_BYTES - at;
        if (part > len)
            part = len;
        memcpy(out, block->data + at, part);
        out += part;
        at += part;
        len -= part;
    }
}

void quic_chain_consume(struct quic_pool *pool, struct quic_chain *chain, size_t len)
{
    ASSERT(chain->len >= len);
    chain->len -= len;
    chain->head_at += len;
    while (chain->head != NULL && chain->head_at >= QUIC_BLOCK_BYTES) {
        struct quic_block *block = chain->head;
        chain->head = block->next;
        chain->head_at -= QUIC_BLOCK_BYTES;
        block_put(pool, block);
    }
    if (chain->head == NULL) {
        ASSERT(chain->len == 0);
        *chain = (struct quic_chain){0};
    } else if (chain->len == 0) {
        quic_chain_clear(pool, chain);
    }
}

void quic_chain_clear(struct quic_pool *pool, struct quic_chain *chain)
{
    for (struct quic_block *block = chain->head; block != NULL;) {
        struct quic_block *next = block->next;
        block_put(pool, block);
        block = next;
    }
    *chain = (struct quic_chain){0};
}
