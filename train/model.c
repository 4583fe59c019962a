#include "train/model.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

struct train_model_config train_model_config_default(void)
{
    return (struct train_model_config){.width = 128, .layers = 2, .heads = 4, .context = 128};
}

struct train_model_config train_model_config_mlp(size_t count, const uint32_t sizes[])
{
    struct train_model_config model = {.kind = TRAIN_MLP, .size_count = (uint32_t)count, .input_max = 1};
    ASSERT(count <= TRAIN_MLP_SIZES_MAX);
    memcpy(model.sizes, sizes, count * sizeof *sizes);
    return model;
}

const char *train_model_kind_name(uint32_t kind)
{
    static const char *const names[TRAIN_MODEL_KINDS] = {"transformer", "mlp"};
    return kind < TRAIN_MODEL_KINDS ? names[kind] : "unknown";
}

void train_model_shape(const struct train_model_config *model, char *out, size_t out_size)
{
    size_t at = 0;
    if (model->kind == TRAIN_TRANSFORMER) {
        (void)snprintf(out, out_size, "width %u, %u layers, %u heads, context %u", model->width,
                       model->layers, model->heads, model->context);
        return;
    }
    for (size_t i = 0; i < model->size_count && i < TRAIN_MLP_SIZES_MAX && at < out_size; i++)
        at += (size_t)snprintf(out + at, out_size - at, "%s%u", i > 0 ? "-" : "", model->sizes[i]);
}

static int check_transformer(const struct train_model_config *model, char *why, size_t why_size)
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
    return 0;
}

static int check_mlp(const struct train_model_config *model, char *why, size_t why_size)
{
    if (model->size_count < 2 || model->size_count > TRAIN_MLP_SIZES_MAX) {
        (void)snprintf(why, why_size, "the MLP has %u sizes: give 2 to %d, from the inputs to the classes",
                       model->size_count, TRAIN_MLP_SIZES_MAX);
        return ERR_INVALID;
    }
    for (size_t i = 0; i < model->size_count; i++) {
        bool last = i + 1 == model->size_count;
        uint32_t least = last ? 2 : 1, most = last ? TRAIN_MLP_CLASSES_MAX : TRAIN_MLP_WIDTH_MAX;
        if (model->sizes[i] >= least && model->sizes[i] <= most)
            continue;
        (void)snprintf(why, why_size, "the MLP's size %zu (%s) is %u: use %u to %u", i + 1,
                       i == 0 ? "inputs"
                       : last ? "classes"
                              : "hidden",
                       model->sizes[i], least, most);
        return ERR_INVALID;
    }
    /* Written so that a NaN fails too; normal numbers, so that division by it stays exact enough. */
    if (!(model->input_max >= 1e-30F && model->input_max <= 1e30F)) {
        (void)snprintf(why, why_size, "the MLP's input_max is %g: use a positive number",
                       (double)model->input_max);
        return ERR_INVALID;
    }
    return 0;
}

/* Fields that the other kind uses are 0: what is compared and hashed has one form. */
static bool other_is_zero(const struct train_model_config *model)
{
    if (model->kind == TRAIN_MLP) {
        for (size_t i = model->size_count; i < TRAIN_MLP_SIZES_MAX; i++)
            if (model->sizes[i] != 0)
                return false;
        return model->width == 0 && model->layers == 0 && model->heads == 0 && model->context == 0;
    }
    return model->size_count == 0 && model->sizes[0] == 0 && !(model->input_max > 0);
}

int train_model_config_check(const struct train_model_config *model, char *why, size_t why_size)
{
    int result = ERR_INVALID;
    if (model->kind == TRAIN_TRANSFORMER)
        result = check_transformer(model, why, why_size);
    else if (model->kind == TRAIN_MLP)
        result = check_mlp(model, why, why_size);
    else
        (void)snprintf(why, why_size, "model is of the unknown kind %u", model->kind);
    if (result == 0 && !other_is_zero(model)) {
        (void)snprintf(why, why_size, "a model has either a transformer's settings or an MLP's, not both");
        result = ERR_INVALID;
    }
    if (result == 0 && why_size > 0)
        why[0] = '\0';
    return result;
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

static void add_mlp(struct train_layout *layout)
{
    const struct train_model_config *model = &layout->model;
    for (uint32_t layer = 0; layer + 1 < model->size_count; layer++) {
        char name[TRAIN_NAME_SIZE];
        (void)snprintf(name, sizeof name, "layers.%u.weight", layer);
        add(layout, name, model->sizes[layer + 1], model->sizes[layer], TRAIN_MATRIX);
        (void)snprintf(name, sizeof name, "layers.%u.bias", layer);
        add(layout, name, 1, model->sizes[layer + 1], TRAIN_BIAS);
    }
}

static void add_transformer(struct train_layout *layout)
{
    const struct train_model_config *model = &layout->model;
    add(layout, "embed.weight", (size_t)TRAIN_EMBED_SPAN * TRAIN_VOCABULARY, model->width, TRAIN_EMBEDDING);
    for (size_t layer = 0; layer < model->layers; layer++)
        add_layer(layout, layer);
    add(layout, "final.gain", 1, model->width, TRAIN_GAIN);
    add(layout, "final.bias", 1, model->width, TRAIN_BIAS);
    add(layout, "head.weight", TRAIN_VOCABULARY, model->width, TRAIN_MATRIX);
}

void train_layout_init(struct train_layout *layout, const struct train_model_config *model)
{
    char why[160];
    int result = train_model_config_check(model, why, sizeof why);
    ASSERT(result == 0);
    memset(layout, 0, sizeof *layout);
    layout->model = *model;
    if (model->kind == TRAIN_MLP)
        add_mlp(layout);
    else
        add_transformer(layout);
}

size_t train_layout_mlp(const struct train_layout *layout, size_t layer)
{
    ASSERT(layout->model.kind == TRAIN_MLP && layer + 1 < layout->model.size_count);
    return 2 * layer;
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
