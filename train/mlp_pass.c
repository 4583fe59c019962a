#include "train/mlp_pass.h"

#include <string.h>

#include "train/gemm.h"
#include "train/kernels.h"

struct train_mlp_pass {
    const struct train_layout *layout;
    struct allocator allocator;
    size_t rows_max, layer_count;
    float *active[TRAIN_MLP_SIZES_MAX]; /* [rows][sizes[l]]: what layer l reads; the last: logits */
    float *d_out, *d_in;                /* [rows][widest] gradients on their way back */
    float *scratch;                     /* [TRAIN_GEMM_SCRATCH] */
};

/* Each array on its own cache line.  With block NULL it only counts; SIZE_MAX: overflow. */
static size_t cut(struct train_mlp_pass *pass, float *block)
{
    const struct train_model_config *model = &pass->layout->model;
    float **arrays[TRAIN_MLP_SIZES_MAX + 2];
    size_t widths[TRAIN_MLP_SIZES_MAX + 2], count = 0, widest = 0, used = TRAIN_GEMM_SCRATCH;
    for (; count < model->size_count; count++) {
        arrays[count] = &pass->active[count];
        widths[count] = model->sizes[count];
        widest = widths[count] > widest ? widths[count] : widest;
    }
    widths[count] = widths[count + 1] = widest;
    arrays[count++] = &pass->d_out;
    arrays[count++] = &pass->d_in;
    pass->scratch = block;
    for (size_t i = 0; i < count; i++) {
        size_t floats, align = TRAIN_ALIGN_FLOATS;
        if (!size_product(pass->rows_max, widths[i], &floats) || floats > SIZE_MAX / 8 - used)
            return SIZE_MAX;
        *arrays[i] = block == NULL ? NULL : block + used;
        used += (floats + align - 1) / align * align;
    }
    return used;
}

size_t train_mlp_pass_bytes(const struct train_layout *layout, size_t rows_max)
{
    struct train_mlp_pass pass = {.layout = layout, .rows_max = rows_max};
    size_t floats = cut(&pass, NULL);
    return floats == SIZE_MAX ? SIZE_MAX : sizeof pass + floats * sizeof(float);
}

int train_mlp_pass_create(const struct train_layout *layout, size_t rows_max,
                          const struct allocator *allocator, struct train_mlp_pass **out)
{
    size_t bytes = train_mlp_pass_bytes(layout, rows_max);
    if (bytes == SIZE_MAX)
        return ERR_NO_MEMORY;
    struct train_mlp_pass *pass = allocator_get(allocator, 1, sizeof *pass);
    float *block = allocator_get(allocator, bytes - sizeof *pass, 1);
    if (pass == NULL || block == NULL) {
        allocator_release(allocator, block);
        allocator_release(allocator, pass);
        return ERR_NO_MEMORY;
    }
    *pass = (struct train_mlp_pass){.layout = layout,
                                    .allocator = *allocator,
                                    .rows_max = rows_max,
                                    .layer_count = layout->model.size_count - 1};
    size_t used = cut(pass, block);
    ASSERT(sizeof *pass + used * sizeof *block == bytes);
    *out = pass;
    return 0;
}

void train_mlp_pass_destroy(struct train_mlp_pass *pass)
{
    if (pass == NULL)
        return;
    struct allocator allocator = pass->allocator;
    allocator_release(&allocator, pass->scratch); /* the block's start */
    allocator_release(&allocator, pass);
}

static void forward(const struct train_mlp_pass *pass, const float params[], size_t count)
{
    const uint32_t *sizes = pass->layout->model.sizes;
    for (size_t l = 0; l < pass->layer_count; l++) {
        const struct train_tensor *weight = &pass->layout->tensors[train_layout_mlp(pass->layout, l)];
        const struct train_tensor *bias = weight + 1;
        train_linear(count, sizes[l], sizes[l + 1], pass->active[l], params + weight->offset,
                     pass->active[l + 1], false, pass->scratch);
        train_bias(count, sizes[l + 1], params + bias->offset, l + 1 < pass->layer_count,
                   pass->active[l + 1]);
    }
}

/* The logits hold their gradient on entry. */
static void backward(const struct train_mlp_pass *pass, const float params[], size_t count, float grads[])
{
    const uint32_t *sizes = pass->layout->model.sizes;
    float *d_out = pass->active[pass->layer_count], *d_in = pass->d_in;
    for (size_t l = pass->layer_count; l-- > 0;) {
        const struct train_tensor *weight = &pass->layout->tensors[train_layout_mlp(pass->layout, l)];
        const struct train_tensor *bias = weight + 1;
        if (l + 1 < pass->layer_count)
            train_relu_back(count * sizes[l + 1], pass->active[l + 1], d_out);
        train_bias_back(count, sizes[l + 1], d_out, grads + bias->offset);
        train_linear_back_weight(count, sizes[l], sizes[l + 1], pass->active[l], d_out,
                                 grads + weight->offset, pass->scratch);
        if (l == 0)
            break; /* nobody asks for the gradient of the data */
        train_linear_back_input(count, sizes[l], sizes[l + 1], d_out, params + weight->offset, d_in,
                                pass->scratch);
        d_out = d_in;
        d_in = d_in == pass->d_in ? pass->d_out : pass->d_in;
    }
}

struct train_tally train_mlp_pass_run(struct train_mlp_pass *pass, const float params[], size_t count,
                                      const float *const rows[], const uint16_t labels[], float scale,
                                      float grads[])
{
    ASSERT(count >= 1 && count <= pass->rows_max);
    struct train_tally tally = {.loss = 0};
    size_t inputs = pass->layout->model.sizes[0], classes = pass->layout->model.sizes[pass->layer_count];
    for (size_t r = 0; r < count; r++)
        memcpy(pass->active[0] + r * inputs, rows[r], inputs * sizeof(float));
    forward(pass, params, count);
    tally.loss = train_loss_classes(count, classes, pass->active[pass->layer_count], labels,
                                    grads == NULL ? 0.0F : scale, &tally.correct);
    if (grads != NULL)
        backward(pass, params, count, grads);
    return tally;
}
