#include "train/sgd.h"

#include "train/kernels.h"

TRAIN_CLONES
static void update(size_t count, const struct train_adamw_step *step, float decay, const float *restrict g,
                   float *restrict p, float *restrict m)
{
    const float momentum = step->beta1, scale = step->gradient_scale, rate = step->rate;
    const float keep = 1.0F - step->rate * decay;
#pragma omp simd
    for (size_t i = 0; i < count; i++) {
        m[i] = momentum * m[i] + g[i] * scale;
        p[i] = keep * p[i] - rate * m[i];
    }
}

void train_sgd_apply(const struct train_layout *layout, const struct train_adamw_step *step, size_t from,
                     size_t to, const float gradients[], float params[], float momentum[])
{
    ASSERT(from <= to && to <= layout->arena_floats);
    for (size_t t = 0; t < layout->tensor_count; t++) {
        const struct train_tensor *tensor = &layout->tensors[t];
        size_t low = tensor->offset > from ? tensor->offset : from;
        size_t high = tensor->offset + tensor->rows * tensor->cols;
        high = high < to ? high : to;
        if (low >= high)
            continue;
        bool decays = tensor->kind == TRAIN_MATRIX || tensor->kind == TRAIN_EMBEDDING;
        update(high - low, step, decays ? step->decay : 0.0F, gradients + low, params + low, momentum + low);
    }
}
