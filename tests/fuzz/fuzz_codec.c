/* First byte: codec; the rest is a blob of hostile bytes.  Decoding must give finite numbers or an error, and
 * what was accepted must survive the merge job. */
#include <math.h>
#include <string.h>

#include "gossip/merge/job.h"

enum { VALUES_MAX = 2048 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static float theta[VALUES_MAX], phi[VALUES_MAX], delta[VALUES_MAX], diff[VALUES_MAX], values[VALUES_MAX];
static uint8_t own[4 * VALUES_MAX];

/* The most values whose encoding has this many bytes, 0 when no count has. */
static size_t count_of(enum gossip_codec codec, size_t len)
{
    size_t count = 0;
    while (count < VALUES_MAX && gossip_encoded_bytes(codec, count) < len)
        count++;
    return gossip_encoded_bytes(codec, count) == len ? count : 0;
}

static void try_merge(enum gossip_codec codec, size_t count, struct bytes blob)
{
    struct gossip_tensor tensor = {0, count, GOSSIP_TENSOR_MATRIX};
    struct gossip_history history = {0};
    struct gossip_merge_report report;
    for (size_t i = 0; i < count; i++)
        theta[i] = phi[i] = 0.01f * (float)(i % 100);
    memset(delta, 0, sizeof delta);
    int result = gossip_encode(GOSSIP_CODEC_FP32, &tensor, 1, theta, own, 4 * count);
    ASSERT(result == ERR_OK);
    struct gossip_merge_input in = {.tensors = &tensor,
                                    .tensor_count = 1,
                                    .outer = gossip_outer_default(),
                                    .variance_correction = true,
                                    .partner_weight = 0.5f,
                                    .theta = theta,
                                    .own = {.codec = GOSSIP_CODEC_FP32, .blob = bytes_of(own, 4 * count)},
                                    .partner = {.codec = codec, .blob = blob}};
    result = gossip_merge_job(&in, &history, phi, delta, diff, &report);
    for (size_t i = 0; i < count; i++)
        ASSERT(isfinite(phi[i]) && isfinite(delta[i]) && (result < 0 || isfinite(diff[i])));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    enum gossip_codec codec = (enum gossip_codec)(data[0] % 3);
    size_t count = count_of(codec, size - 1);
    if (count == 0)
        return 0;
    if (gossip_decode_values(codec, count, data + 1, values) == ERR_OK)
        for (size_t i = 0; i < count; i++)
            ASSERT(isfinite(values[i]));
    try_merge(codec, count, bytes_of(data + 1, size - 1));
    return 0;
}
