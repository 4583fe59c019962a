/* Weights as a .safetensors file image: an 8-byte little-endian header length, a JSON header, raw tensor
 * data. Format: https://github.com/huggingface/safetensors (README, "Format").  Tensors are F32, in table
 * order without gaps; matrices have the shape [rows, cols], gains and biases [cols].  "__metadata__" holds
 * the model's shape, so that a file is enough to build the model, and where a mean of several models came
 * from, as "merged": "ID:ROUND ID:ROUND ...".
 *
 * Reading treats the file as hostile: everything is bounded and checked before a float is copied. */
#ifndef DUNLIN_TRAIN_SAFETENSORS_H
#define DUNLIN_TRAIN_SAFETENSORS_H

#include "base/bytes.h"
#include "train/model.h"

enum {
    TRAIN_ST_HEADER_MAX = 1 << 20, /* ours needs under 64 KiB at 48 layers */
    TRAIN_ST_DEPTH_MAX = 8,        /* of nested JSON */
    TRAIN_ST_MERGED_MAX = 1 << 15, /* bytes of "merged" */
};

/* Bytes of the image of this layout.  merged: up to TRAIN_ST_MERGED_MAX printable ASCII characters without
 * quotes and backslashes (asserted); NULL: the model is no mean. */
size_t train_safetensors_bytes(const struct train_layout *layout, const char *merged);
/* Writes train_safetensors_bytes(layout, merged) bytes.  ERR_TOO_LARGE: out_cap is less, nothing written. */
MUST_USE int train_safetensors_write(const struct train_layout *layout, const char *merged,
                                     const float params[], uint8_t out[], size_t out_cap);

/* The model's shape from the metadata.  `why` (why_size bytes, always terminated) explains an error:
 *   ERR_TRUNCATED    the file ends early              ERR_MALFORMED  it is not a safetensors file
 *   ERR_UNSUPPORTED  it does not say which shape: not written by this program */
MUST_USE int train_safetensors_model(struct bytes file, struct train_model_config *model, char *why,
                                     size_t why_size);
/* Fills params [arena_floats], padding zero.  Every tensor of the layout must be there with its shape as F32,
 * and none else.  On failure params are unchanged.  Errors as above, and ERR_MISMATCH    a tensor is missing,
 * unknown, or of another shape or type (`why` names it) ERR_NOT_FINITE  a weight is NaN or infinite */
MUST_USE int train_safetensors_read(struct bytes file, const struct train_layout *layout, float params[],
                                    char *why, size_t why_size);

#endif
