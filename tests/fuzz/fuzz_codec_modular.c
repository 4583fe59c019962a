/* First byte: what to read; the rest is hostile.
 *   0..2   a modular blob of 600 values and, behind it, a repair of the blocks found wrong, both merged
 *   3      a list of indices: accepted ones must come out of the encoder byte for byte
 * Nothing may become NaN or move far from the own weights; wrong blocks without repair must not be merged. */
#include <math.h>
#include <string.h>

#include "gossip/merge/job.h"

enum { VALUES = 600, BLOCKS = 4, LIST = 4096 };

static const struct gossip_tensor tensors[2] = {{1000, 590, GOSSIP_TENSOR_MATRIX},
                                                {1590, 10, GOSSIP_TENSOR_VECTOR}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static float theta[VALUES], phi[VALUES], delta[VALUES], diff[VALUES];
static uint8_t own[4 * VALUES];
static uint32_t list[LIST];
static uint8_t again[5 * LIST];

static void try_list(struct bytes in)
{
    int count = gossip_indices_decode(in, UINT32_MAX, list, LIST);
    if (count < 0)
        return;
    for (int i = 1; i < count; i++)
        ASSERT(list[i] > list[i - 1]);
    size_t len = gossip_indices_encode((size_t)count, list, again, sizeof again);
    ASSERT(len == in.len && (len == 0 || memcmp(again, in.data, len) == 0));
}

static int merge(enum gossip_codec codec, struct bytes blob, size_t wanted_count, struct bytes repairs)
{
    struct gossip_history history = {0};
    struct gossip_merge_report report;
    float distances[BLOCKS];
    memset(delta, 0, sizeof delta);
    int result = gossip_encode(GOSSIP_CODEC_FP32, tensors, 2, theta, own, sizeof own);
    ASSERT(result == ERR_OK);
    struct gossip_merge_input in = {.tensors = tensors,
                                    .tensor_count = 2,
                                    .outer = gossip_outer_default(),
                                    .variance_correction = true,
                                    .partner_weight = 0.5f,
                                    .theta = theta,
                                    .own = {.codec = GOSSIP_CODEC_FP32, .blob = bytes_of(own, sizeof own)},
                                    .partner = {.codec = codec,
                                                .blob = blob,
                                                .repaired = list,
                                                .repaired_count = wanted_count,
                                                .repairs = repairs},
                                    .distances = distances};
    result = gossip_merge_job(&in, &history, phi, delta, diff, &report);
    for (size_t i = 0; i < VALUES; i++)
        ASSERT(isfinite(phi[i]) && isfinite(delta[i]) && (result < 0 || isfinite(diff[i])));
    for (size_t i = 0; result == ERR_OK && i < BLOCKS; i++)
        ASSERT(isfinite(distances[i]));
    return result;
}

static void try_blob(enum gossip_codec codec, struct bytes in)
{
    struct bytes blob = {in.data, gossip_blob_bytes(codec, tensors, 2)};
    if (in.len < blob.len)
        return;
    struct bytes repairs = {in.data + blob.len, in.len - blob.len};
    for (size_t i = 0; i < VALUES; i++)
        theta[i] = phi[i] = 0.01f * (float)(i % 100) - 0.3f;
    int wanted = gossip_modular_check(codec, tensors, 2, blob, theta, list);
    if (wanted < 0) {
        ASSERT(wanted == ERR_MALFORMED || wanted == ERR_FAR);
        ASSERT(merge(codec, blob, 0, bytes_of(NULL, 0)) < 0);
        return;
    }
    if (wanted > 0)
        ASSERT(merge(codec, blob, 0, bytes_of(NULL, 0)) == ERR_MALFORMED);
    size_t bytes;
    int result = gossip_repair_bytes(tensors, 2, (size_t)wanted, list, &bytes);
    ASSERT(result == ERR_OK);
    if (bytes <= repairs.len)
        (void)merge(codec, blob, (size_t)wanted, bytes_of(repairs.data, bytes));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct bytes rest = bytes_of(data + 1, size - 1);
    if (data[0] % 4 == 3)
        try_list(rest);
    else
        try_blob((enum gossip_codec)(GOSSIP_CODEC_MOD4 + data[0] % 4), rest);
    return 0;
}
