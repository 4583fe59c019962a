#include "train/pass.h"

#include <stdbool.h>
#include <stdint.h>

#include "train/kernels.h"

/* What one layer keeps for its way back; rows = sequences * context. */
struct kept {
    float *in;       /* [rows][width] residual stream */
    float *stats1;   /* [rows][2] */
    float *norm1;    /* [rows][width] */
    float *qkv;      /* [rows][3 width], rotated */
    float *log_sums; /* [sequences][heads][context] */
    float *attended; /* [rows][width] */
    float *middle;   /* [rows][width] */
    float *stats2;   /* [rows][2] */
    float *norm2;    /* [rows][width] */
    float *slope;    /* [rows][4 width], GELU' */
    float *active;   /* [rows][4 width] */
};

struct train_pass {
    const struct train_layout *layout;
    struct allocator allocator;
    size_t sequences_max;
    struct kept layers[TRAIN_LAYERS_MAX];
    float *last, *stats, *normed, *logits; /* after the layers */
    float *d_x, *d_a, *d_wide;             /* gradients on their way back */
    float *scratch, *cosines, *sines;
};

/* Takes the next part of a block, each on its own cache line; with block NULL it only counts. */
struct cutter {
    float *block;
    size_t used;
    bool overflow;
};

static float *cut(struct cutter *c, size_t count, size_t each)
{
    size_t floats;
    float *start = c->block == NULL ? NULL : c->block + c->used;
    c->overflow |= !size_product(count, each, &floats) || floats > SIZE_MAX / 8 - c->used;
    if (!c->overflow)
        c->used += (floats + TRAIN_ALIGN_FLOATS - 1) / TRAIN_ALIGN_FLOATS * TRAIN_ALIGN_FLOATS;
    return start;
}

static void cut_all(struct train_pass *pass, struct cutter *c)
{
    const struct train_model_config *model = &pass->layout->model;
    size_t rows = pass->sequences_max * model->context, d = model->width;
    for (size_t l = 0; l < model->layers; l++) {
        struct kept *k = &pass->layers[l];
        k->in = cut(c, rows, d);
        k->stats1 = cut(c, rows, 2);
        k->norm1 = cut(c, rows, d);
        k->qkv = cut(c, rows, 3 * d);
        k->log_sums = cut(c, rows, model->heads);
        k->attended = cut(c, rows, d);
        k->middle = cut(c, rows, d);
        k->stats2 = cut(c, rows, 2);
        k->norm2 = cut(c, rows, d);
        k->slope = cut(c, rows, TRAIN_MLP_FACTOR * d);
        k->active = cut(c, rows, TRAIN_MLP_FACTOR * d);
    }
    pass->last = cut(c, rows, d);
    pass->stats = cut(c, rows, 2);
    pass->normed = cut(c, rows, d);
    pass->logits = cut(c, rows, TRAIN_VOCABULARY);
    pass->d_x = cut(c, rows, d);
    pass->d_a = cut(c, rows, d);
    pass->d_wide = cut(c, rows, TRAIN_MLP_FACTOR * d);
    pass->scratch = cut(c, train_attention_scratch(model->context), 1);
    pass->cosines = cut(c, model->context, d / model->heads / 2);
    pass->sines = cut(c, model->context, d / model->heads / 2);
}

size_t train_pass_bytes(const struct train_layout *layout, size_t sequences_max)
{
    size_t rows;
    struct train_pass pass = {.layout = layout, .sequences_max = sequences_max};
    struct cutter count = {.block = NULL};
    if (!size_product(sequences_max, layout->model.context, &rows))
        return SIZE_MAX;
    cut_all(&pass, &count);
    return count.overflow ? SIZE_MAX : sizeof pass + count.used * sizeof(float);
}

int train_pass_create(const struct train_layout *layout, size_t sequences_max,
                      const struct allocator *allocator, struct train_pass **out)
{
    size_t bytes = train_pass_bytes(layout, sequences_max);
    if (bytes == SIZE_MAX)
        return ERR_NO_MEMORY;
    struct train_pass *pass = allocator_get(allocator, 1, sizeof *pass);
    float *block = allocator_get(allocator, bytes - sizeof *pass, 1);
    if (pass == NULL || block == NULL) {
        allocator_release(allocator, block);
        allocator_release(allocator, pass);
        return ERR_NO_MEMORY;
    }
    *pass = (struct train_pass){.layout = layout, .allocator = *allocator, .sequences_max = sequences_max};
    struct cutter c = {.block = block};
    cut_all(pass, &c);
    ASSERT(!c.overflow && sizeof *pass + c.used * sizeof *block == bytes);
    size_t head_width = layout->model.width / layout->model.heads;
    train_rotary_fill(layout->model.context, head_width, pass->cosines, pass->sines);
    *out = pass;
    return 0;
}

void train_pass_destroy(struct train_pass *pass)
{
    if (pass == NULL)
        return;
    struct allocator allocator = pass->allocator;
    allocator_release(&allocator, pass->layers[0].in); /* the block's start */
    allocator_release(&allocator, pass);
}

static void embed(const struct train_pass *pass, const float params[], size_t count,
                  const uint8_t *const windows[])
{
    size_t context = pass->layout->model.context, d = pass->layout->model.width;
    const float *table = params + pass->layout->tensors[train_layout_embedding(pass->layout)].offset;
    for (size_t s = 0; s < count; s++)
        train_embed(0, context, d, windows[s], table, pass->layers[0].in + s * context * d);
}

static void layer_forward(const struct train_pass *pass, size_t l, const float params[], size_t count,
                          float out[])
{
    const struct train_layout *layout = pass->layout;
    const struct kept *k = &pass->layers[l];
    size_t context = layout->model.context, d = layout->model.width, heads = layout->model.heads;
    size_t rows = count * context;
    const float *first = params + train_layout_at(layout, l, LAYER_NORM1_GAIN);
    train_norm(rows, d, k->in, first, params + train_layout_at(layout, l, LAYER_NORM1_BIAS), k->norm1,
               k->stats1);
    train_linear(rows, d, 3 * d, k->norm1, params + train_layout_at(layout, l, LAYER_QKV), k->qkv, false,
                 pass->scratch);
    for (size_t s = 0; s < count; s++) {
        float *qkv = k->qkv + s * context * 3 * d;
        train_rotate(context, d, heads, 0, 1.0F, pass->cosines, pass->sines, qkv);
        train_attention(context, d, heads, qkv, k->attended + s * context * d,
                        k->log_sums + s * heads * context, pass->scratch);
    }
    memcpy(k->middle, k->in, rows * d * sizeof *out);
    train_linear(rows, d, d, k->attended, params + train_layout_at(layout, l, LAYER_OUT), k->middle, true,
                 pass->scratch);

    const float *second = params + train_layout_at(layout, l, LAYER_NORM2_GAIN);
    train_norm(rows, d, k->middle, second, params + train_layout_at(layout, l, LAYER_NORM2_BIAS), k->norm2,
               k->stats2);
    size_t wide = TRAIN_MLP_FACTOR * d;
    train_linear(rows, d, wide, k->norm2, params + train_layout_at(layout, l, LAYER_UP), k->slope, false,
                 pass->scratch);
    train_gelu(rows * wide, k->slope, k->active);
    memcpy(out, k->middle, rows * d * sizeof *out);
    train_linear(rows, wide, d, k->active, params + train_layout_at(layout, l, LAYER_DOWN), out, true,
                 pass->scratch);
}

/* pass->d_x holds the gradient by the layer's output on entry, by its input on return. */
static void layer_backward(const struct train_pass *pass, size_t l, const float params[], size_t count,
                           float grads[])
{
    const struct train_layout *layout = pass->layout;
    const struct kept *k = &pass->layers[l];
    size_t context = layout->model.context, d = layout->model.width, heads = layout->model.heads;
    size_t rows = count * context, wide = TRAIN_MLP_FACTOR * d;
    size_t at = train_layout_at(layout, l, LAYER_DOWN);
    train_linear_back_weight(rows, wide, d, k->active, pass->d_x, grads + at, pass->scratch);
    train_linear_back_input(rows, wide, d, pass->d_x, params + at, pass->d_wide, pass->scratch);
    train_scale(rows * wide, k->slope, pass->d_wide);
    at = train_layout_at(layout, l, LAYER_UP);
    train_linear_back_weight(rows, d, wide, k->norm2, pass->d_wide, grads + at, pass->scratch);
    train_linear_back_input(rows, d, wide, pass->d_wide, params + at, pass->d_a, pass->scratch);
    at = train_layout_at(layout, l, LAYER_NORM2_GAIN);
    train_norm_back(rows, d, k->middle, k->stats2, params + at, pass->d_a, pass->d_x, grads + at,
                    grads + train_layout_at(layout, l, LAYER_NORM2_BIAS));

    at = train_layout_at(layout, l, LAYER_OUT);
    train_linear_back_weight(rows, d, d, k->attended, pass->d_x, grads + at, pass->scratch);
    train_linear_back_input(rows, d, d, pass->d_x, params + at, pass->d_a, pass->scratch);
    for (size_t s = 0; s < count; s++) {
        float *d_qkv = pass->d_wide + s * context * 3 * d;
        train_attention_back(context, d, heads, k->qkv + s * context * 3 * d, k->attended + s * context * d,
                             k->log_sums + s * heads * context, pass->d_a + s * context * d, d_qkv,
                             pass->scratch);
        train_rotate(context, d, heads, 0, -1.0F, pass->cosines, pass->sines, d_qkv);
    }
    at = train_layout_at(layout, l, LAYER_QKV);
    train_linear_back_weight(rows, d, 3 * d, k->norm1, pass->d_wide, grads + at, pass->scratch);
    train_linear_back_input(rows, d, 3 * d, pass->d_wide, params + at, pass->d_a, pass->scratch);
    at = train_layout_at(layout, l, LAYER_NORM1_GAIN);
    train_norm_back(rows, d, k->in, k->stats1, params + at, pass->d_a, pass->d_x, grads + at,
                    grads + train_layout_at(layout, l, LAYER_NORM1_BIAS));
}

double train_pass_both(struct train_pass *pass, const float params[], size_t count,
                       const uint8_t *const windows[], float scale, float grads[])
{
    ASSERT(count >= 1 && count <= pass->sequences_max);
    const struct train_layout *layout = pass->layout;
    size_t context = layout->model.context, d = layout->model.width, layers = layout->model.layers;
    size_t rows = count * context;
    size_t gain = layout->tensors[train_layout_final_gain(layout)].offset;
    size_t bias = layout->tensors[train_layout_final_bias(layout)].offset;
    size_t head = layout->tensors[train_layout_head(layout)].offset;

    embed(pass, params, count, windows);
    for (size_t l = 0; l < layers; l++)
        layer_forward(pass, l, params, count, l + 1 < layers ? pass->layers[l + 1].in : pass->last);
    train_norm(rows, d, pass->last, params + gain, params + bias, pass->normed, pass->stats);
    train_linear(rows, d, TRAIN_VOCABULARY, pass->normed, params + head, pass->logits, false, pass->scratch);
    double loss = 0;
    for (size_t s = 0; s < count; s++)
        loss += train_loss(context, pass->logits + s * context * TRAIN_VOCABULARY, windows[s] + 1, scale);
    if (grads == NULL)
        return loss;

    train_linear_back_weight(rows, d, TRAIN_VOCABULARY, pass->normed, pass->logits, grads + head,
                             pass->scratch);
    train_linear_back_input(rows, d, TRAIN_VOCABULARY, pass->logits, params + head, pass->d_a, pass->scratch);
    memset(pass->d_x, 0, rows * d * sizeof(float));
    train_norm_back(rows, d, pass->last, pass->stats, params + gain, pass->d_a, pass->d_x, grads + gain,
                    grads + bias);
    for (size_t l = layers; l-- > 0;)
        layer_backward(pass, l, params, count, grads);
    float *d_table = grads + layout->tensors[train_layout_embedding(layout)].offset;
    for (size_t s = 0; s < count; s++)
        train_embed_back(context, d, windows[s], pass->d_x + s * context * d, d_table);
    return loss;
}

double train_pass_forward(struct train_pass *pass, const float params[], size_t count,
                          const uint8_t *const windows[])
{
    return train_pass_both(pass, params, count, windows, 0.0F, NULL);
}
