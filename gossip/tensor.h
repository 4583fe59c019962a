/* The shape of what is exchanged: a flat float32 array cut into tensors.  node/ converts from the trainer's
 * own table; gossip/ knows nothing else of models. */
#ifndef DUNLIN_GOSSIP_TENSOR_H
#define DUNLIN_GOSSIP_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/id.h"

enum {
    GOSSIP_TENSORS_MAX = 4096, /* tensors of one model */
    GOSSIP_BLOCK = 256,        /* values sharing one scale or step; blocks end with their tensor */
};

#define GOSSIP_PARAMS_MAX (UINT64_C(1) << 32) /* parameters of one model: 16 GiB of float32 */

enum gossip_tensor_kind {
    GOSSIP_TENSOR_MATRIX = 0, /* weights whose variance means something */
    GOSSIP_TENSOR_VECTOR = 1, /* gains, biases: averaged, never variance-corrected */
};

struct gossip_tensor {
    size_t offset; /* of its first value in the flat array; tensors are adjacent and in order */
    size_t count;  /* values; at least 1 */
    enum gossip_tensor_kind kind;
};

enum gossip_codec {
    GOSSIP_CODEC_FP32 = 0, /* little-endian float32, 4 bytes a value, exact */
    GOSSIP_CODEC_BF16 = 1, /* little-endian bfloat16, 2 bytes a value, round to nearest even */
    GOSSIP_CODEC_INT8 =
        2, /* per block: float32 scale, then a signed byte a value; about 1.016 bytes a value */
    GOSSIP_CODEC_MOD4 = 3, /* modular, gossip/codec_modular.h: 4 bits a value and 4 bytes a block */
    GOSSIP_CODEC_MOD3 = 4, /* 3 bits */
    GOSSIP_CODEC_MOD2 = 5, /* 2 bits */
    GOSSIP_CODEC_COUNT
};

/* Codecs whose blob can be decoded alone, without the receiver's own weights, as a mask of 1 << codec. */
enum { GOSSIP_CODECS_PLAIN = 1 << GOSSIP_CODEC_FP32 | 1 << GOSSIP_CODEC_BF16 | 1 << GOSSIP_CODEC_INT8 };

/* What two members must have in common before they exchange, and how large each encoding is. */
struct gossip_layout {
    uint64_t param_count;
    struct id schema;                           /* hash of the tensor table */
    uint64_t encoded_bytes[GOSSIP_CODEC_COUNT]; /* exact size of a whole encoded snapshot */
};

/* Checks the table and fills *out.  Tensors must start at 0, follow each other without gaps and hold between
 * 1 and GOSSIP_PARAMS_MAX values together.  ERR_INVALID: they do not, or there are none or more than
 * GOSSIP_TENSORS_MAX; *out is untouched: the model cannot be shared. */
MUST_USE int gossip_layout_of(const struct gossip_tensor *tensors, size_t tensor_count,
                              struct gossip_layout *out);

#endif
