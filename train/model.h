/* The shapes of the built-in models, and where each tensor lies in memory.
 *
 * The transformer: decoder-only, over bytes.  Vocabulary 256 (bytes), pre-norm LayerNorm with gain and bias,
 * rotary positions, causal attention, an MLP of 4 x width with GELU (tanh form), linear layers without
 * biases, embedding and head not tied.  A position's embedding is the sum of three: of its byte, of the byte
 * before and of the one before that, each from a table of its own.  That costs no product and spares the
 * first layer the search for its neighbours, which is most of what a small byte model learns in its first
 * minutes: 1.65 instead of 1.91 nats per byte after 850 thousand bytes of English.
 *
 * Sources: Vaswani et al. 2017; rotary positions from Su et al. 2021, arXiv:2104.09864; GELU from Hendrycks
 * and Gimpel 2016, arXiv:1606.08415.
 *
 * The multilayer perceptron (MLP): a classifier of rows of numbers (train/samples.h).  Linear layers with
 * biases, ReLU between them, softmax over the last; no normalisation anywhere, so that the scale of the
 * weights matters, which merging must not destroy.
 *
 * All parameters live in one contiguous float32 arena.  Each tensor starts on a multiple of 64 bytes; the
 * padding between tensors is zero and stays zero.  Gradients, Adam moments, snapshots and differences use the
 * same layout, so `float *` plus the table is all that gossip needs. */
#ifndef DUNLIN_TRAIN_MODEL_H
#define DUNLIN_TRAIN_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum {
    TRAIN_VOCABULARY = 256,
    TRAIN_EMBED_SPAN = 3, /* bytes that are embedded at each position: this one and those just before */
    TRAIN_MLP_FACTOR = 4,
    TRAIN_WIDTH_MAX = 4096,
    TRAIN_LAYERS_MAX = 48,
    TRAIN_CONTEXT_MIN = 8,
    TRAIN_CONTEXT_MAX = 4096, /* one window lies inside one 8 KiB block of text (train/data.h) */
    TRAIN_HEAD_WIDTH_MAX = 256,
    TRAIN_LAYER_TENSORS = 8, /* enum train_layer_tensor */
    TRAIN_OTHER_TENSORS = 4, /* embedding, final gain and bias, head */
    TRAIN_TENSORS_MAX = TRAIN_LAYERS_MAX * TRAIN_LAYER_TENSORS + TRAIN_OTHER_TENSORS,
    TRAIN_MLP_SIZES_MAX = 16,    /* inputs, hidden layers, classes */
    TRAIN_MLP_WIDTH_MAX = 16384, /* of inputs and hidden layers */
    TRAIN_MLP_CLASSES_MAX = 4096,
    TRAIN_NAME_SIZE = 32,
    TRAIN_SHAPE_SIZE = 128,
    TRAIN_ALIGN_FLOATS = 16, /* 64 bytes */
};

enum train_model_kind { TRAIN_TRANSFORMER, TRAIN_MLP, TRAIN_MODEL_KINDS };

/* Fields of the other kind are 0; no padding, so that equal models are equal bytes. */
struct train_model_config {
    uint32_t width;   /* of the residual stream; a multiple of 16 */
    uint32_t layers;  /* 1 .. TRAIN_LAYERS_MAX */
    uint32_t heads;   /* divides width into even parts of at most TRAIN_HEAD_WIDTH_MAX */
    uint32_t context; /* bytes the model sees, TRAIN_CONTEXT_MIN .. TRAIN_CONTEXT_MAX */

    uint32_t kind;                       /* enum train_model_kind */
    uint32_t size_count;                 /* MLP: 2 .. TRAIN_MLP_SIZES_MAX */
    uint32_t sizes[TRAIN_MLP_SIZES_MAX]; /* MLP: inputs, width of each hidden layer, classes */
    float input_max;                     /* MLP: inputs are divided by this: the data's largest magnitude */
};

/* What a tensor is, for whoever treats them differently: weight decay touches only matrices and embeddings;
 * merging may correct the variance of matrices and embeddings, never of gains and biases. */
enum train_tensor_kind { TRAIN_MATRIX, TRAIN_EMBEDDING, TRAIN_GAIN, TRAIN_BIAS };

/* Order of one layer's tensors in the table and in the arena. */
enum train_layer_tensor {
    LAYER_NORM1_GAIN,
    LAYER_NORM1_BIAS,
    LAYER_QKV, /* [3 width][width]: rows of queries, keys, values */
    LAYER_OUT, /* [width][width] */
    LAYER_NORM2_GAIN,
    LAYER_NORM2_BIAS,
    LAYER_UP,   /* [4 width][width] */
    LAYER_DOWN, /* [width][4 width] */
};

struct train_tensor {
    char name[TRAIN_NAME_SIZE]; /* for example "layers.0.qkv.weight" */
    size_t offset;              /* floats from the arena's start, a multiple of TRAIN_ALIGN_FLOATS */
    size_t rows;                /* outputs; 1 for gains and biases */
    size_t cols;                /* inputs; row-major */
    enum train_tensor_kind kind;
};

struct train_layout {
    struct train_model_config model;
    struct train_tensor tensors[TRAIN_TENSORS_MAX]; /* by rising offset */
    size_t tensor_count;
    size_t arena_floats;    /* padding included, a multiple of TRAIN_ALIGN_FLOATS */
    size_t parameter_count; /* padding not included */
};

/* The default: about half a million parameters, chosen to learn English text in minutes on part of a core. */
struct train_model_config train_model_config_default(void);
/* An MLP of these sizes, input_max 1.  Requires count <= TRAIN_MLP_SIZES_MAX (asserted). */
struct train_model_config train_model_config_mlp(size_t count, const uint32_t sizes[]);
/* What a person may call the kind: "transformer", "mlp"; "unknown" for another number. */
const char *train_model_kind_name(uint32_t kind);
/* The shape in words, for example "width 128, 2 layers, 4 heads, context 128" or "64-64-32-10": at most
 * TRAIN_SHAPE_SIZE bytes with the terminating zero. */
void train_model_shape(const struct train_model_config *model, char *out, size_t out_size);

/* ERR_INVALID: `why` (why_size bytes, always terminated) names the setting, its value and what is allowed. */
MUST_USE int train_model_config_check(const struct train_model_config *model, char *why, size_t why_size);

/* Fills the table.  Requires a config that passes the check (asserted). */
void train_layout_init(struct train_layout *layout, const struct train_model_config *model);

/* An MLP's tensors: index of the weight [sizes[layer + 1]][sizes[layer]] of layer < size_count - 1
 * (asserted), "layers.0.weight"; its bias is the next. */
size_t train_layout_mlp(const struct train_layout *layout, size_t layer);

/* A transformer's: index of a tensor of one layer; layer < layers (asserted). */
size_t train_layout_layer(const struct train_layout *layout, size_t layer, enum train_layer_tensor which);
/* Index of the others. */
size_t train_layout_embedding(const struct train_layout *layout);
size_t train_layout_final_gain(const struct train_layout *layout);
size_t train_layout_final_bias(const struct train_layout *layout);
size_t train_layout_head(const struct train_layout *layout);
/* Offset of a tensor's first float, for the kernels. */
size_t train_layout_at(const struct train_layout *layout, size_t layer, enum train_layer_tensor which);

/* The tensor of this name, or NULL. */
const struct train_tensor *train_layout_find(const struct train_layout *layout, const char *name,
                                             size_t name_len);

#endif
