#include "train/init.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/hash.h"
#include "base/rng.h"

/* Uniform in (-1, 1): odd numerators over 2^24, exactly representable and symmetric about 0. */
static float uniform(const struct rng *rng)
{
    int32_t odd = (int32_t)(rng_u32(rng) >> 8) * 2 + 1 - (1 << 24);
    return (float)odd * 0x1p-24F;
}

/* Half width of the uniform distribution: sqrt(3 variance). */
static float half_width(const struct train_layout *layout, const struct train_tensor *tensor)
{
    if (tensor->kind == TRAIN_EMBEDDING)
        return sqrtf(0.75F);
    if (layout->model.kind == TRAIN_MLP) {
        bool last = tensor == &layout->tensors[layout->tensor_count - 2];
        return sqrtf(6.0F / (float)(tensor->cols + (last ? tensor->rows : 0)));
    }
    bool residual = strstr(tensor->name, ".out.") != NULL || strstr(tensor->name, ".down.") != NULL;
    size_t share = residual ? 2 * (size_t)layout->model.layers : 1;
    if (strncmp(tensor->name, "head.", 5) == 0)
        share = 4;
    return sqrtf(3.0F / (float)(tensor->cols * share));
}

static void fill_uniform(float to[], size_t count, float scale, const struct id *key)
{
    struct rng_seeded stream;
    rng_seeded_init_key(&stream, key->bytes);
    struct rng rng = rng_of_seeded(&stream);
    for (size_t i = 0; i < count; i++)
        to[i] = uniform(&rng) * scale;
}

void train_init(const struct train_layout *layout, const uint8_t seed[32], float params[])
{
    memset(params, 0, layout->arena_floats * sizeof *params);
    for (size_t t = 0; t < layout->tensor_count; t++) {
        const struct train_tensor *tensor = &layout->tensors[t];
        float *to = params + tensor->offset;
        if (tensor->kind == TRAIN_BIAS)
            continue;
        if (tensor->kind == TRAIN_GAIN) {
            for (size_t i = 0; i < tensor->cols; i++)
                to[i] = 1.0F;
            continue;
        }
        struct bytes parts[] = {bytes_of(seed, 32), bytes_of_text(tensor->name)};
        struct id key;
        hash_parts("dunlin initial weights", parts, 2, &key);
        fill_uniform(to, tensor->rows * tensor->cols, half_width(layout, tensor), &key);
    }
}
