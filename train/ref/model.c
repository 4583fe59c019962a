#include "train/ref/ref.h"

#include <stdlib.h>
#include <string.h>

/* What one layer keeps from its forward pass for its backward pass; [rows][..] each. */
struct kept {
    double *in, *norm1, *qkv, *attended, *middle, *norm2, *up, *active;
};

struct passing {
    const struct train_layout *layout;
    const double *params;
    double *grads; /* NULL: forward only */
    size_t rows, width;
    struct kept layers[TRAIN_LAYERS_MAX];
    double *last, *normed, *logits;       /* after the layers */
    double *d_x, *d_a, *d_wide, *d_wider; /* gradients on their way back; scratch going forward */
};

/* Hands out parts of one block; with block NULL only counts. */
static double *part(double *block, size_t *used, size_t count)
{
    double *start = block == NULL ? NULL : block + *used;
    *used += count;
    return start;
}

static size_t place(struct passing *p, double *block)
{
    size_t used = 0, n = p->rows * p->width;
    for (size_t l = 0; l < p->layout->model.layers; l++) {
        struct kept *k = &p->layers[l];
        k->in = part(block, &used, n);
        k->norm1 = part(block, &used, n);
        k->qkv = part(block, &used, 3 * n);
        k->attended = part(block, &used, n);
        k->middle = part(block, &used, n);
        k->norm2 = part(block, &used, n);
        k->up = part(block, &used, 4 * n);
        k->active = part(block, &used, 4 * n);
    }
    p->last = part(block, &used, n);
    p->normed = part(block, &used, n);
    p->logits = part(block, &used, p->rows * TRAIN_VOCABULARY);
    p->d_x = part(block, &used, n);
    p->d_a = part(block, &used, n);
    p->d_wide = part(block, &used, 4 * n);
    p->d_wider = part(block, &used, 4 * n);
    return used;
}

static const double *weight(const struct passing *p, size_t layer, enum train_layer_tensor which)
{
    return p->params + train_layout_at(p->layout, layer, which);
}

static double *grad(const struct passing *p, size_t layer, enum train_layer_tensor which)
{
    return p->grads + train_layout_at(p->layout, layer, which);
}

static void layer_forward(struct passing *p, size_t l, double *out)
{
    struct kept *k = &p->layers[l];
    size_t n = p->rows, d = p->width;
    ref_norm(n, d, k->in, weight(p, l, LAYER_NORM1_GAIN), weight(p, l, LAYER_NORM1_BIAS), k->norm1);
    ref_linear(n, d, 3 * d, k->norm1, weight(p, l, LAYER_QKV), k->qkv);
    ref_rotate(n, d, p->layout->model.heads, 1, k->qkv);
    ref_attention(n, d, p->layout->model.heads, k->qkv, k->attended);
    ref_linear(n, d, d, k->attended, weight(p, l, LAYER_OUT), k->middle);
    for (size_t i = 0; i < n * d; i++)
        k->middle[i] += k->in[i];

    ref_norm(n, d, k->middle, weight(p, l, LAYER_NORM2_GAIN), weight(p, l, LAYER_NORM2_BIAS), k->norm2);
    ref_linear(n, d, 4 * d, k->norm2, weight(p, l, LAYER_UP), k->up);
    ref_gelu(n * 4 * d, k->up, k->active);
    ref_linear(n, 4 * d, d, k->active, weight(p, l, LAYER_DOWN), out);
    for (size_t i = 0; i < n * d; i++)
        out[i] += k->middle[i];
}

/* d_x holds the gradient by the layer's output on entry, by its input on return. */
static void layer_backward(struct passing *p, size_t l)
{
    struct kept *k = &p->layers[l];
    size_t n = p->rows, d = p->width, heads = p->layout->model.heads;
    ref_linear_back(n, 4 * d, d, k->active, weight(p, l, LAYER_DOWN), p->d_x, p->d_wide,
                    grad(p, l, LAYER_DOWN));
    ref_gelu_back(n * 4 * d, k->up, p->d_wide, p->d_wider);
    ref_linear_back(n, d, 4 * d, k->norm2, weight(p, l, LAYER_UP), p->d_wider, p->d_a, grad(p, l, LAYER_UP));
    ref_norm_back(n, d, k->middle, weight(p, l, LAYER_NORM2_GAIN), p->d_a, p->d_wide,
                  grad(p, l, LAYER_NORM2_GAIN), grad(p, l, LAYER_NORM2_BIAS));
    for (size_t i = 0; i < n * d; i++)
        p->d_x[i] += p->d_wide[i];

    ref_linear_back(n, d, d, k->attended, weight(p, l, LAYER_OUT), p->d_x, p->d_a, grad(p, l, LAYER_OUT));
    ref_attention_back(n, d, heads, k->qkv, p->d_a, p->d_wide);
    ref_rotate(n, d, heads, -1, p->d_wide);
    ref_linear_back(n, d, 3 * d, k->norm1, weight(p, l, LAYER_QKV), p->d_wide, p->d_a, grad(p, l, LAYER_QKV));
    ref_norm_back(n, d, k->in, weight(p, l, LAYER_NORM1_GAIN), p->d_a, p->d_wide,
                  grad(p, l, LAYER_NORM1_GAIN), grad(p, l, LAYER_NORM1_BIAS));
    for (size_t i = 0; i < n * d; i++)
        p->d_x[i] += p->d_wide[i];
}

/* One window of context + 1 bytes: each byte predicts the next.  Returns the sum over positions. */
static double sequence(struct passing *p, const uint8_t window[], double scale)
{
    const struct train_layout *layout = p->layout;
    size_t n = p->rows, d = p->width, layers = layout->model.layers;
    size_t embedding = layout->tensors[train_layout_embedding(layout)].offset;
    size_t gain = layout->tensors[train_layout_final_gain(layout)].offset;
    size_t bias = layout->tensors[train_layout_final_bias(layout)].offset;
    size_t head = layout->tensors[train_layout_head(layout)].offset;

    ref_embed(n, d, window, p->params + embedding, p->layers[0].in);
    for (size_t l = 0; l < layers; l++)
        layer_forward(p, l, l + 1 < layers ? p->layers[l + 1].in : p->last);
    ref_norm(n, d, p->last, p->params + gain, p->params + bias, p->normed);
    ref_linear(n, d, TRAIN_VOCABULARY, p->normed, p->params + head, p->logits);
    if (p->grads == NULL)
        return ref_loss(n, p->logits, window + 1, scale, NULL);

    double loss = ref_loss(n, p->logits, window + 1, scale, p->logits);
    ref_linear_back(n, d, TRAIN_VOCABULARY, p->normed, p->params + head, p->logits, p->d_a, p->grads + head);
    ref_norm_back(n, d, p->last, p->params + gain, p->d_a, p->d_x, p->grads + gain, p->grads + bias);
    for (size_t l = layers; l-- > 0;)
        layer_backward(p, l);
    ref_embed_back(n, d, window, p->d_x, p->grads + embedding);
    return loss;
}

int ref_model(const struct train_layout *layout, const double params[], size_t sequence_count,
              const uint8_t *const windows[], double grads[], double *loss)
{
    struct passing p = {.layout = layout,
                        .params = params,
                        .grads = grads,
                        .rows = layout->model.context,
                        .width = layout->model.width};
    double *block = calloc(place(&p, NULL), sizeof *block);
    if (block == NULL)
        return ERR_NO_MEMORY;
    (void)place(&p, block);
    double count = (double)(sequence_count * p.rows), sum = 0;
    for (size_t s = 0; s < sequence_count; s++)
        sum += sequence(&p, windows[s], 1 / count);
    *loss = sum / count;
    free(block);
    return 0;
}
