/* Two chains of trust: finite differences judge the reference's gradients, in double precision, tensor by
 * tensor; the reference then judges the fast path's loss and gradients, element by element. */
#include <criterion/criterion.h>
#include <math.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "train/init.h"
#include "train/pass.h"
#include "train/ref/ref.h"

enum { SEQUENCES = 3, CONTEXT_MAX = 70 };

static uint8_t text[SEQUENCES][CONTEXT_MAX + 1];
static const uint8_t *const windows[SEQUENCES] = {text[0], text[1], text[2]};
static const uint8_t seed[32] = {9};
static struct train_layout layout;
static struct rng_seeded stream;
static struct allocator heap;

static double *doubles(const float *from)
{
    double *out = allocator_get(&heap, layout.arena_floats, sizeof *out);
    cr_assert_not_null(out);
    for (size_t i = 0; from != NULL && i < layout.arena_floats; i++)
        out[i] = (double)from[i];
    return out;
}

/* Weights as initialised, but gains and biases shaken, so that no gradient is zero by symmetry. */
static float *model(struct train_model_config config)
{
    heap = allocator_system();
    rng_seeded_init(&stream, 4);
    struct rng rng = rng_of_seeded(&stream);
    rng_fill(&rng, text, sizeof text);
    train_layout_init(&layout, &config);
    float *params = allocator_get(&heap, layout.arena_floats, sizeof *params);
    cr_assert_not_null(params);
    train_init(&layout, seed, params);
    for (size_t t = 0; t < layout.tensor_count; t++)
        if (layout.tensors[t].rows == 1)
            for (size_t i = 0; i < layout.tensors[t].cols; i++)
                params[layout.tensors[t].offset + i] += (float)(rng_u32(&rng) >> 8) * 0x1p-25F - 0.25F;
    return params;
}

static double loss_of(const double *params)
{
    double loss;
    cr_assert_eq(ref_model(&layout, params, SEQUENCES, windows, NULL, &loss), 0);
    return loss;
}

Test(gradient, reference_equals_finite_differences)
{
    float *start = model((struct train_model_config){.width = 16, .layers = 2, .heads = 2, .context = 9});
    double *params = doubles(start), *grads = doubles(NULL), loss;
    cr_assert_eq(ref_model(&layout, params, SEQUENCES, windows, grads, &loss), 0);
    cr_assert_float_eq(loss, loss_of(params), 1e-12);
    for (size_t t = 0; t < layout.tensor_count; t++) {
        const struct train_tensor *tensor = &layout.tensors[t];
        size_t count = tensor->rows * tensor->cols, stride = count / 40 + 1;
        double seen = 0;
        for (size_t i = 0; i < count; i += stride) {
            /* An embedding row that no window holds has no gradient: ask about the rows of the text, in each
             * of the tables in turn. */
            size_t row = i % TRAIN_EMBED_SPAN * TRAIN_VOCABULARY + text[i % SEQUENCES][i % 5];
            size_t at = tensor->kind == TRAIN_EMBEDDING ? row * tensor->cols + i % tensor->cols : i;
            double *p = &params[tensor->offset + at], kept = *p, step = 1e-4;
            *p = kept + step;
            double above = loss_of(params);
            *p = kept - step;
            double below = loss_of(params);
            *p = kept;
            double slope = (above - below) / (2 * step);
            /* Central differences err by step^2 / 6 times the third derivative. */
            cr_assert_float_eq(grads[tensor->offset + at], slope, 1e-7 + 1e-5 * fabs(slope),
                               "%s [%zu]: gradient %g, finite difference %g", tensor->name, at,
                               grads[tensor->offset + at], slope);
            seen += fabs(slope);
        }
        cr_assert_gt(seen, 1e-6, "%s has no gradient to compare", tensor->name);
    }
}

static void compare_fast_path(struct train_model_config config, size_t sequences_max)
{
    float *params = model(config);
    double *params64 = doubles(params), *grads64 = doubles(NULL), expected;
    float *grads = allocator_get(&heap, layout.arena_floats, sizeof *grads);
    cr_assert_not_null(grads);
    cr_assert_eq(ref_model(&layout, params64, SEQUENCES, windows, grads64, &expected), 0);
    struct train_pass *pass;
    cr_assert_eq(train_pass_create(&layout, sequences_max, &heap, &pass), 0);
    size_t predictions = SEQUENCES * config.context;
    double sum = 0;
    for (size_t s = 0; s < SEQUENCES; s += sequences_max) {
        size_t count = SEQUENCES - s < sequences_max ? SEQUENCES - s : sequences_max;
        double forward = train_pass_forward(pass, params, count, windows + s);
        double both = train_pass_both(pass, params, count, windows + s, 1.0F / (float)predictions, grads);
        cr_assert_eq(forward, both);
        sum += both;
    }
    cr_assert_float_eq(sum / (double)predictions, expected, 1e-5);
    for (size_t t = 0; t < layout.tensor_count; t++) {
        const struct train_tensor *tensor = &layout.tensors[t];
        size_t from = tensor->offset, to = from + tensor->rows * tensor->cols;
        double largest = 0;
        for (size_t i = from; i < to; i++)
            largest = fabs(grads64[i]) > largest ? fabs(grads64[i]) : largest;
        /* Float32 activations through all layers: five digits of a tensor's largest gradient remain. */
        for (size_t i = from; i < to; i++)
            cr_assert_float_eq((double)grads[i], grads64[i], 3e-5 * largest, "%s [%zu]: %g, reference %g",
                               tensor->name, i - from, (double)grads[i], grads64[i]);
    }
    train_pass_destroy(pass);
    allocator_release(&heap, params);
    allocator_release(&heap, grads);
    allocator_release(&heap, params64);
    allocator_release(&heap, grads64);
}

Test(gradient, fast_path_equals_reference)
{
    compare_fast_path((struct train_model_config){.width = 32, .layers = 2, .heads = 2, .context = 70}, 3);
}

Test(gradient, micro_batches_add_up)
{
    compare_fast_path((struct train_model_config){.width = 48, .layers = 1, .heads = 3, .context = 8}, 2);
    compare_fast_path((struct train_model_config){.width = 16, .layers = 3, .heads = 1, .context = 64}, 1);
}
