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

int gossip_layout_of(const struct gossip_tensor *tensors, size_t tensor_count, struct gossip_layout *out)
{
    static const char label[] = "dunlin gossip schema 1";
    int result = check_table(tensors, tensor_count);
    if (result < 0)
        return result;
    struct gossip_layout layout = {0};
    crypto_generichash_state hash;
    crypto_generichash_init(&hash, NULL, 0, ID_BYTES);
    crypto_generichash_update(&hash, (const unsigned char *)label, sizeof label);
    for (size_t i = 0; i < tensor_count; i++) {
        uint8_t row[9];
        struct writer w = writer_of(row, sizeof row);
        write_u64(&w, tensors[i].count);
        write_u8(&w, (uint8_t)tensors[i].kind);
        crypto_generichash_update(&hash, row, sizeof row);
        layout.param_count += tensors[i].count;
        for (int codec = 0; codec < GOSSIP_CODEC_COUNT; codec++)
            layout.encoded_bytes[codec] += gossip_encoded_bytes((enum gossip_codec)codec, tensors[i].count);
    }
    crypto_generichash_final(&hash, layout.schema.bytes, ID_BYTES);
    *out = layout;
    return ERR_OK;
}
