/* The shape of what is exchanged: a flat float32 array cut into tensors.  node/ converts from the trainer's
 * own table; gossip/ knows nothing else of models. */
#ifndef DUNLIN_GOSSIP_TENSOR_H
#define DUNLIN_GOSSIP_TENSOR_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/id.h"
#include "gossip/fragment.h"

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

/* Numbers on the wire.  The modular ones send residues: the receiver's own snapshot of the same round says
 * which integer is meant, a checksum per block whether it guessed right, and wrong blocks are sent again as
 * int8 in the same exchange. */
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

/* What two members must have in common before they exchange, and how large each encoding is.  Blocks of a
 * fragment are numbered from 0 in the order of its values. */
struct gossip_layout {
    uint64_t param_count;
    struct id schema;                           /* hash of the tensor table and of fragment_count */
    uint64_t encoded_bytes[GOSSIP_CODEC_COUNT]; /* exact size of a whole encoded snapshot */
    size_t fragment_count;
    struct gossip_fragment fragments[GOSSIP_FRAGMENTS_MAX];
    uint64_t fragment_bytes[GOSSIP_FRAGMENTS_MAX][GOSSIP_CODEC_COUNT]; /* exact size of each, encoded */
    uint64_t fragment_blocks[GOSSIP_FRAGMENTS_MAX];
};

/* Checks the table and fills *out.  Tensors must start at 0, follow each other without gaps and hold between
 * 1 and GOSSIP_PARAMS_MAX values together; fragments: 1..GOSSIP_FRAGMENTS_MAX, see gossip_fragments_cut.
 * ERR_INVALID: they do not, or there are none or more than GOSSIP_TENSORS_MAX; *out is untouched: the model
 * cannot be shared. */
MUST_USE int gossip_layout_of(const struct gossip_tensor *tensors, size_t tensor_count, size_t fragments,
                              struct gossip_layout *out);
/* Index of the fragment that this round exchanges. */
size_t gossip_layout_fragment(const struct gossip_layout *layout, uint64_t round);
/* Most bytes that the int8 blocks of a repair of this fragment can have: half of its blocks, rounded down. */
uint64_t gossip_layout_repair_max(const struct gossip_layout *layout, size_t fragment);

#endif
