/* Momentum must follow its formula, number by number, over any cut of the arena, and decay weights only. */
#include <criterion/criterion.h>
#include <math.h>

#include "base/alloc.h"
#include "train/sgd.h"

enum { STEPS = 5, FLOATS_MAX = 512 };

static struct train_layout layout;

/* A number that differs from place to place and step to step. */
static double wave(size_t i, size_t step)
{
    return sin(0.37 * (double)i + 1.1 * (double)step);
}

Test(sgd, equals_the_formula)
{
    static double p64[FLOATS_MAX], m64[FLOATS_MAX];
    static float p[FLOATS_MAX], m[FLOATS_MAX], g[FLOATS_MAX];
    struct train_model_config model = train_model_config_mlp(3, (const uint32_t[]){5, 7, 3});
    struct train_adamw_config config = train_adamw_config_default();
    train_layout_init(&layout, &model);
    cr_assert_leq(layout.arena_floats, FLOATS_MAX);
    config.beta1 = 0.8F;
    config.decay = 0.25F;
    config.clip_norm = 2;
    for (size_t t = 0; t < layout.tensor_count; t++)
        for (size_t i = 0; i < layout.tensors[t].rows * layout.tensors[t].cols; i++)
            p64[layout.tensors[t].offset + i] = wave(i, 99);
    for (size_t i = 0; i < layout.arena_floats; i++)
        p[i] = (float)p64[i];
    for (size_t step = 1; step <= STEPS; step++) {
        /* A norm of 4 against a clip of 2: every other step at half the gradient. */
        struct train_adamw_step how = train_adamw_step_of(&config, 0.1F, step, step % 2 == 0 ? 4 : 1);
        for (size_t i = 0; i < layout.arena_floats; i++)
            g[i] = (float)wave(i, step);
        for (size_t t = 0; t < layout.tensor_count; t++) {
            const struct train_tensor *tensor = &layout.tensors[t];
            for (size_t i = tensor->offset; i < tensor->offset + tensor->rows * tensor->cols; i++) {
                m64[i] = 0.8 * m64[i] + (double)g[i] * (step % 2 == 0 ? 0.5 : 1);
                p64[i] = p64[i] * (tensor->kind == TRAIN_MATRIX ? 1 - 0.1 * 0.25 : 1) - 0.1 * m64[i];
            }
        }
        /* Padding gets a gradient here that it never has in training, and must not move for it. */
        train_sgd_apply(&layout, &how, 0, 32, g, p, m);
        train_sgd_apply(&layout, &how, 32, layout.arena_floats, g, p, m);
    }
    for (size_t i = 0; i < layout.arena_floats; i++)
        cr_assert(fabs((double)p[i] - p64[i]) < 1e-5 && fabs((double)m[i] - m64[i]) < 1e-5,
                  "[%zu]: %g, formula %g", i, (double)p[i], p64[i]);
}
