/* Exported models as files: read whole, checked, as float32 arrays. */
#ifndef DUNLIN_TOOLS_MODEL_FILE_H
#define DUNLIN_TOOLS_MODEL_FILE_H

#include "train/model.h"
#include "train/safetensors.h"

enum { MODEL_WHY_SIZE = 1024 };

/* 8 GiB: two thousand million parameters; more would not fit the tensor table either. */
#define MODEL_FILE_MAX ((size_t)8 << 30)

struct model_file {
    uint8_t *image; /* owned: model_file_close */
    size_t len;
};

/* Reads a file.  On error `why` (MODEL_WHY_SIZE bytes, always terminated) says which file and what about it;
 * codes as store_file_read. */
MUST_USE int model_file_open(struct model_file *file, const char *path, char why[MODEL_WHY_SIZE]);
void model_file_close(struct model_file *file);
/* The model's shape.  Errors as train_safetensors_model, why names the path. */
MUST_USE int model_file_shape(const struct model_file *file, const char *path,
                              struct train_model_config *model, char why[MODEL_WHY_SIZE]);
/* Opens, fills params [layout->arena_floats], closes.  Errors as train_safetensors_read, and ERR_MISMATCH for
 * a model of another shape; why names the path. */
MUST_USE int model_file_load(const char *path, const struct train_layout *layout, float params[],
                             char why[MODEL_WHY_SIZE]);

#endif
