#include "train/model.h"

#include <stdio.h>
#include <string.h>

struct train_model_config train_model_config_default(void)
{
    return (struct train_model_config){.width = 128, .layers = 2, .heads = 4, .context = 128};
}

int train_model_config_check(const struct train_model_config *model, char *why, size_t why_size)
{
    if (model->width < 16 || model->width > TRAIN_WIDTH_MAX || model->width % 16 != 0) {
        (void)snprintf(why, why_size, "model width is %u: use a multiple of 16 from 16 to %d", model->width,
                       TRAIN_WIDTH_MAX);
        return ERR_INVALID;
    }
    if (model->layers < 1 || model->layers > TRAIN_LAYERS_MAX) {
        (void)snprintf(why, why_size, "model layers is %u: use 1 to %d", model->layers, TRAIN_LAYERS_MAX);
        return ERR_INVALID;
    }
    if (model->heads < 1 || model->width % model->heads != 0 || model->width / model->heads % 2 != 0 ||
        model->width / model->heads > TRAIN_HEAD_WIDTH_MAX) {
        (void)snprintf(why, why_size,
                       "model heads is %u: it must divide the width %u into even parts of at most %d",
                       model->heads, model->width, TRAIN_HEAD_WIDTH_MAX);
        return ERR_INVALID;
    }
    if (model->context < TRAIN_CONTEXT_MIN || model->context > TRAIN_CONTEXT_MAX) {
        (void)snprintf(why, why_size, "model context is %u: use %d to %d bytes", model->context,
                       TRAIN_CONTEXT_MIN, TRAIN_CONTEXT_MAX);
        return ERR_INVALID;
    }
    if (why_size > 0)
        why[0] = '\0';
    return 0;
}

static void add(struct train_layout *layout, const char *name, size_t rows, size_t cols,
                enum train_tensor_kind kind)
{
    ASSERT(layout->tensor_count < TRAIN_TENSORS_MAX);
    struct train_tensor *tensor = &layout->tensors[layout->tensor_count++];
    int len = snprintf(tensor->name, sizeof tensor->name, "%s", name);
    ASSERT(len > 0 && (size_t)len < sizeof tensor->name);
    tensor->offset = layout->arena_floats;
    tensor->rows = rows;
    tensor->cols = cols;
    tensor->kind = kind;
    size_t align = TRAIN_ALIGN_FLOATS;
    layout->parameter_count += rows * cols;
    layout->arena_floats += (rows * cols + align - 1) / align * align;
}

static void add_layer(struct train_layout *layout, size_t layer)
{
    size_t d = layout->model.width;
    const struct {
        const char *name;
        size_t rows, cols;
        enum train_tensor_kind kind;
    } parts[TRAIN_LAYER_TENSORS] = {
        [LAYER_NORM1_GAIN] = {"norm1.gain", 1, d, TRAIN_GAIN},
        [LAYER_NORM1_BIAS] = {"norm1.bias", 1, d, TRAIN_BIAS},
        [LAYER_QKV] = {"qkv.weight", 3 * d, d, TRAIN_MATRIX},
        [LAYER_OUT] = {"out.weight", d, d, TRAIN_MATRIX},
        [LAYER_NORM2_GAIN] = {"norm2.gain", 1, d, TRAIN_GAIN},
        [LAYER_NORM2_BIAS] = {"norm2.bias", 1, d, TRAIN_BIAS},
        [LAYER_UP] = {"up.weight", TRAIN_MLP_FACTOR * d, d, TRAIN_MATRIX},
        [LAYER_DOWN] = {"down.weight", d, TRAIN_MLP_FACTOR * d, TRAIN_MATRIX},
    };
    for (size_t i = 0; i < TRAIN_LAYER_TENSORS; i++) {
        char name[TRAIN_NAME_SIZE];
        int len = snprintf(name, sizeof name, "layers.%u.%s", (unsigned)layer, parts[i].name);
        ASSERT(len > 0 && (size_t)len < sizeof name);
        add(layout, name, parts[i].rows, parts[i].cols, parts[i].kind);
    }
}

void train_layout_init(struct train_layout *layout, const struct train_model_config *model)
{
    char why[160];
    int result = train_model_config_check(model, why, sizeof why);
    ASSERT(result == 0);
    memset(layout, 0, sizeof *layout);
    layout->model = *model;
    add(layout, "embed.weight", (size_t)TRAIN_EMBED_SPAN * TRAIN_VOCABULARY, model->width, TRAIN_EMBEDDING);
    for (size_t layer = 0; layer < model->layers; layer++)
        add_layer(layout, layer);
    add(layout, "final.gain", 1, model->width, TRAIN_GAIN);
    add(layout, "final.bias", 1, model->width, TRAIN_BIAS);
    add(layout, "head.weight", TRAIN_VOCABULARY, model->width, TRAIN_MATRIX);
}

size_t train_layout_layer(const struct train_layout *layout, size_t layer, enum train_layer_tensor which)
{
    ASSERT(layer < layout->model.layers);
    return 1 + layer * TRAIN_LAYER_TENSORS + (size_t)which;
}

size_t train_layout_at(const struct train_layout *layout, size_t layer, enum train_layer_tensor which)
{
    return layout->tensors[train_layout_layer(layout, layer, which)].offset;
}

size_t train_layout_embedding(const struct train_layout *layout)
{
    (void)layout;
    return 0;
}

size_t train_layout_final_gain(const struct train_layout *layout)
{
    return layout->tensor_count - 3;
}

size_t train_layout_final_bias(const struct train_layout *layout)
{
    return layout->tensor_count - 2;
}

size_t train_layout_head(const struct train_layout *layout)
{
    return layout->tensor_count - 1;
}

const struct train_tensor *train_layout_find(const struct train_layout *layout, const char *name,
                                             size_t name_len)
{
    for (size_t i = 0; i < layout->tensor_count; i++) {
        const struct train_tensor *tensor = &layout->tensors[i];
        if (strlen(tensor->name) == name_len && memcmp(tensor->name, name, name_len) == 0)
            return tensor;
    }
    return NULL;
}
