/* Sorted block numbers as distances in LEB128. */
#include "gossip/wanted.h"

enum { LEB_BITS = 7, LEB_BYTES_MAX = 5 }; /* distances are below 2^32 */

size_t gossip_wanted_bytes_max(uint64_t block_count)
{
    /* A byte for each block of the half; a second one costs a distance of 128 blocks, a third one of 2^14,
     * ... */
    uint64_t bytes = block_count / 2;
    for (uint64_t rest = block_count >> LEB_BITS; rest > 0; rest >>= LEB_BITS)
        bytes += rest;
    return (size_t)bytes;
}

void gossip_wanted_add(struct writer *w, uint64_t *last, uint64_t block)
{
    ASSERT(*last == UINT64_MAX || block > *last);
    ASSERT(block < UINT32_MAX);
    uint64_t distance = block - *last - 1; /* from -1: block itself */
    for (; distance >> LEB_BITS != 0; distance >>= LEB_BITS)
        write_u8(w, (uint8_t)(distance | 0x80));
    write_u8(w, (uint8_t)distance);
    *last = block;
}

bool gossip_wanted_next(struct reader *r, uint64_t *last, uint64_t *block)
{
    uint64_t distance = 0;
    if (reader_left(r) == 0)
        return false;
    for (int i = 0; i < LEB_BYTES_MAX; i++) {
        uint8_t byte = read_u8(r);
        distance |= (uint64_t)(byte & 0x7f) << (i * LEB_BITS);
        if ((byte & 0x80) != 0)
            continue;
        if (r->failed || (byte == 0 && i > 0)) /* cut off, or longer than needed */
            break;
        *last += distance + 1;
        *block = *last;
        return true;
    }
    r->failed = true;
    return false;
}

int gossip_wanted_check(struct bytes list, uint64_t block_count)
{
    struct reader r = reader_of(list);
    uint64_t last = UINT64_MAX;
    uint64_t block;
    int count = 0;
    ASSERT(block_count < UINT32_MAX);
    while (gossip_wanted_next(&r, &last, &block)) {
        if (block >= block_count || (uint64_t)count >= block_count / 2)
            return ERR_MALFORMED;
        count++;
    }
    return r.failed ? ERR_MALFORMED : count;
}
