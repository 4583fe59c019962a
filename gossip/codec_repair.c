/* Lists of wrong blocks and the blocks sent again. */
#include "gossip/codec_modular.h"

enum { INDEX_BYTES_MAX = 5 };

size_t gossip_indices_bytes_max(size_t blocks, size_t count)
{
    ASSERT(count <= blocks && blocks <= UINT32_MAX);
    if (count == 0)
        return 0;
    /* The differences add up to less than blocks: for every further byte one of them has used up 128. */
    size_t sparse = count + (blocks >> 7) + (blocks >> 14) + (blocks >> 21) + (blocks >> 28);
    return sparse < count * INDEX_BYTES_MAX ? sparse : count * INDEX_BYTES_MAX;
}

size_t gossip_indices_encode(size_t count, const uint32_t list[], uint8_t out[], size_t cap)
{
    size_t len = 0;
    uint32_t next = 0; /* smallest index that may follow */
    ASSERT(count == 0 || cap >= gossip_indices_bytes_max((size_t)list[count - 1] + 1, count));
    for (size_t i = 0; i < count; i++) {
        ASSERT(list[i] >= next);
        uint32_t rest = list[i] - next;
        for (; rest >= 0x80; rest >>= 7)
            out[len++] = (uint8_t)(rest | 0x80);
        out[len++] = (uint8_t)rest;
        next = list[i] + 1;
    }
    return len;
}

/* One LEB128 integer of at most 32 bits in its shortest form. */
static uint32_t read_leb(struct reader *r)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 7 * INDEX_BYTES_MAX; shift += 7) {
        uint8_t byte = read_u8(r);
        value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) != 0)
            continue;
        if (value > UINT32_MAX || (byte == 0 && shift != 0))
            break;
        return (uint32_t)value;
    }
    r->failed = true;
    return 0;
}

int gossip_indices_decode(struct bytes in, size_t blocks, uint32_t list[], size_t list_max)
{
    struct reader r = reader_of(in);
    uint64_t next = 0;
    size_t count = 0;
    while (reader_left(&r) > 0) {
        uint64_t index = next + read_leb(&r);
        if (r.failed || index >= blocks || count == list_max)
            return ERR_MALFORMED;
        if (list != NULL)
            list[count] = (uint32_t)index;
        count++;
        next = index + 1;
    }
    return r.failed ? ERR_MALFORMED : (int)count;
}

/* Where a walk over the span's blocks stands. */
struct walk {
    size_t tensor;
    uint64_t first; /* index of that tensor's first block */
};

/* Values of block index and the place of its first one in the span; the walk only goes forward.  0: no such
 * block. */
static size_t walk_to(const struct gossip_tensor tensors[], size_t tensor_count, struct walk *at,
                      uint32_t index, size_t *place)
{
    for (; at->tensor < tensor_count; at->tensor++) {
        const struct gossip_tensor *tensor = &tensors[at->tensor];
        size_t blocks = (tensor->count + GOSSIP_BLOCK - 1) / GOSSIP_BLOCK;
        if (index < at->first + blocks) {
            size_t start = (size_t)(index - at->first) * GOSSIP_BLOCK;
            *place = tensor->offset - tensors[0].offset + start;
            return tensor->count - start < GOSSIP_BLOCK ? tensor->count - start : GOSSIP_BLOCK;
        }
        at->first += blocks;
    }
    return 0;
}

/* Bytes of the listed blocks, or SIZE_MAX when the list is not ascending or leaves the span. */
static size_t listed_bytes(const struct gossip_tensor tensors[], size_t tensor_count, size_t count,
                           const uint32_t list[])
{
    struct walk at = {0};
    size_t total = 0, place;
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && list[i] <= list[i - 1])
            return SIZE_MAX;
        size_t values = walk_to(tensors, tensor_count, &at, list[i], &place);
        if (values == 0)
            return SIZE_MAX;
        total += gossip_encoded_bytes(GOSSIP_CODEC_INT8, values);
    }
    return total;
}

int gossip_repair_bytes(const struct gossip_tensor tensors[], size_t tensor_count, size_t count,
                        const uint32_t list[], size_t *out)
{
    size_t total = listed_bytes(tensors, tensor_count, count, list);
    if (total == SIZE_MAX)
        return ERR_INVALID;
    *out = total;
    return ERR_OK;
}

int gossip_repair_encode(const struct gossip_tensor tensors[], size_t tensor_count, size_t count,
                         const uint32_t list[], const float theta[restrict], uint8_t out[restrict],
                         size_t out_len)
{
    struct walk at = {0};
    size_t place;
    if (listed_bytes(tensors, tensor_count, count, list) != out_len)
        return ERR_INVALID;
    for (size_t i = 0; i < count; i++) {
        size_t values = walk_to(tensors, tensor_count, &at, list[i], &place);
        int result = gossip_encode_values(GOSSIP_CODEC_INT8, values, theta + place, out);
        if (result < 0)
            return result;
        out += gossip_encoded_bytes(GOSSIP_CODEC_INT8, values);
    }
    return ERR_OK;
}
