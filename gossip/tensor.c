/* The check of a tensor table and what follows from it. */
#include "gossip/tensor.h"

#include <sodium.h>

#include "gossip/codec.h"

static int check_table(const struct gossip_tensor tensors[], size_t tensor_count)
{
    uint64_t at = 0;
    if (tensor_count == 0 || tensor_count > GOSSIP_TENSORS_MAX)
        return ERR_INVALID;
    for (size_t i = 0; i < tensor_count; i++) {
        const struct gossip_tensor *tensor = &tensors[i];
        if (tensor->offset != at || tensor->count == 0 || tensor->count > GOSSIP_PARAMS_MAX - at)
            return ERR_INVALID;
        if (tensor->kind != GOSSIP_TENSOR_MATRIX && tensor->kind != GOSSIP_TENSOR_VECTOR)
            return ERR_INVALID;
        at += tensor->count;
    }
    return ERR_OK;
}

/* Everybody who exchanges must agree on the tensors and on the number of fragments. */
static struct id schema_of(const struct gossip_tensor tensors[], size_t tensor_count, size_t fragment_count)
{
    static const char label[] = "dunlin gossip schema 2";
    struct id schema;
    crypto_generichash_state hash;
    uint8_t fragments = (uint8_t)fragment_count;
    crypto_generichash_init(&hash, NULL, 0, ID_BYTES);
    crypto_generichash_update(&hash, (const unsigned char *)label, sizeof label);
    crypto_generichash_update(&hash, &fragments, 1);
    for (size_t i = 0; i < tensor_count; i++) {
        uint8_t row[9];
        struct writer w = writer_of(row, sizeof row);
        write_u64(&w, tensors[i].count);
        write_u8(&w, (uint8_t)tensors[i].kind);
        crypto_generichash_update(&hash, row, sizeof row);
    }
    crypto_generichash_final(&hash, schema.bytes, ID_BYTES);
    return schema;
}

/* Blocks and encodings end with their tensor. */
static void measure_fragment(struct gossip_layout *layout, size_t fragment,
                             const struct gossip_tensor tensors[])
{
    const struct gossip_fragment *f = &layout->fragments[fragment];
    const struct gossip_tensor *span = &tensors[f->first_tensor];
    layout->fragment_blocks[fragment] = gossip_block_count(span, f->tensor_count);
    for (int codec = 0; codec < GOSSIP_CODEC_COUNT; codec++) {
        uint64_t bytes = gossip_blob_bytes((enum gossip_codec)codec, span, f->tensor_count);
        layout->fragment_bytes[fragment][codec] = bytes;
        layout->encoded_bytes[codec] += bytes;
    }
}

int gossip_layout_of(const struct gossip_tensor *tensors, size_t tensor_count, size_t fragments,
                     struct gossip_layout *out)
{
    struct gossip_layout layout = {0};
    int result = check_table(tensors, tensor_count);
    if (result < 0)
        return result;
    result = gossip_fragments_cut(tensors, tensor_count, fragments, layout.fragments);
    if (result < 0)
        return result;
    layout.fragment_count = (size_t)result;
    for (size_t i = 0; i < layout.fragment_count; i++) {
        layout.param_count += layout.fragments[i].count;
        measure_fragment(&layout, i, tensors);
    }
    layout.schema = schema_of(tensors, tensor_count, layout.fragment_count);
    *out = layout;
    return ERR_OK;
}

size_t gossip_layout_fragment(const struct gossip_layout *layout, uint64_t round)
{
    ASSERT(layout->fragment_count > 0);
    return (size_t)(round % layout->fragment_count);
}

uint64_t gossip_layout_repair_max(const struct gossip_layout *layout, size_t fragment)
{
    uint64_t whole = layout->fragment_bytes[fragment][GOSSIP_CODEC_INT8];
    uint64_t half =
        layout->fragment_blocks[fragment] / 2 * gossip_encoded_bytes(GOSSIP_CODEC_INT8, GOSSIP_BLOCK);
    return half < whole ? half : whole;
}
