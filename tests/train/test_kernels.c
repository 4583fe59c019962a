/* Every kernel must agree with its reference in double precision.  Tolerances are relative to the largest
 * reference value and stand for float32 rounding over the longest sum (some hundred terms) plus the
 * polynomial exponential. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "base/alloc.h"
#include "base/rng.h"
#include "train/adamw.h"
#include "train/gemm.h"
#include "train/kernels.h"
#include "train/ref/ref.h"

enum { LENGTH = 150, WIDTH = 48, HEADS = 3, SPAN = LENGTH * WIDTH * 4 + LENGTH * 256 };

/* Twin arrays: the same random numbers in float32 and double. */
struct twin {
    float *f;
    double *d;
};

static struct rng_seeded stream;
static struct twin taken[64]; /* given back after each test */
static size_t taken_count;

static struct twin twin_of(size_t count, double scale)
{
    struct allocator heap = allocator_system();
    struct rng rng = rng_of_seeded(&stream);
    struct twin t = {allocator_get(&heap, count, sizeof(float)), allocator_get(&heap, count, sizeof(double))};
    cr_assert(t.f != NULL && t.d != NULL && taken_count < 64);
    taken[taken_count++] = t;
    for (size_t i = 0; i < count; i++) {
        t.f[i] = (float)(((double)(rng_u32(&rng) >> 8) * 0x1p-23 - 1) * scale);
        t.d[i] = (double)t.f[i];
    }
    return t;
}

static void agree(const char *what, size_t count, struct twin t, double tolerance)
{
    double largest = 1e-12;
    for (size_t i = 0; i < count; i++)
        largest = fabs(t.d[i]) > largest ? fabs(t.d[i]) : largest;
    for (size_t i = 0; i < count; i++)
        cr_assert_float_eq((double)t.f[i], t.d[i], tolerance * largest, "%s [%zu]: %g, reference %g", what, i,
                           (double)t.f[i], t.d[i]);
}

static void start(void)
{
    rng_seeded_init(&stream, 3);
}

static void finish(void)
{
    struct allocator heap = allocator_system();
    while (taken_count > 0) {
        struct twin t = taken[--taken_count];
        allocator_release(&heap, t.f);
        allocator_release(&heap, t.d);
    }
}

TestSuite(kernels, .init = start, .fini = finish);

Test(kernels, exponential_is_close_everywhere)
{
    for (double x = -86.9; x < 87.9; x += 0.00137) {
        double expected = exp((double)(float)x);
        cr_assert_float_eq((double)train_exp((float)x) / expected, 1, 4e-7, "exp(%g)", x);
    }
    cr_assert_lt(train_exp(-1000.0F), 1e-37F);
    cr_assert(isfinite(train_exp(1000.0F)));
    cr_assert(isnan(train_exp(NAN)), "a NaN must not vanish in the softmax");
}

Test(kernels, norm_and_its_gradient)
{
    struct twin x = twin_of(SPAN, 3), gain = twin_of(WIDTH, 2), bias = twin_of(WIDTH, 1),
                out = twin_of(SPAN, 1);
    struct twin d_out = twin_of(SPAN, 1), d_x = twin_of(SPAN, 0), d_gain = twin_of(WIDTH, 0);
    struct twin d_bias = twin_of(WIDTH, 0), stats = twin_of(2 * LENGTH, 0);
    size_t n = LENGTH * WIDTH;
    train_norm(LENGTH, WIDTH, x.f, gain.f, bias.f, out.f, stats.f);
    ref_norm(LENGTH, WIDTH, x.d, gain.d, bias.d, out.d);
    agree("norm", n, out, 2e-6);
    train_norm_back(LENGTH, WIDTH, x.f, stats.f, gain.f, d_out.f, d_x.f, d_gain.f, d_bias.f);
    ref_norm_back(LENGTH, WIDTH, x.d, gain.d, d_out.d, d_x.d, d_gain.d, d_bias.d);
    agree("d_x", n, d_x, 4e-6);
    agree("d_gain", WIDTH, d_gain, 4e-6);
    agree("d_bias", WIDTH, d_bias, 4e-6);
}

Test(kernels, norm_keeps_precision_with_a_large_mean)
{
    struct twin x = twin_of(WIDTH, 1), gain = twin_of(WIDTH, 1), bias = twin_of(WIDTH, 1),
                out = twin_of(WIDTH, 1);
    float stats[2];
    for (size_t i = 0; i < WIDTH; i++)
        x.d[i] = (double)(x.f[i] += 1000.0F);
    train_norm(1, WIDTH, x.f, gain.f, bias.f, out.f, stats);
    ref_norm(1, WIDTH, x.d, gain.d, bias.d, out.d);
    agree("norm", WIDTH, out, 5e-4); /* the mean itself is known to 2^-24 * 1000 */
}

Test(kernels, embedding_and_its_gradient)
{
    enum { TABLE = TRAIN_EMBED_SPAN * 256 * WIDTH };
    struct twin table = twin_of(TABLE, 1), out = twin_of(LENGTH * WIDTH, 9), d_table = twin_of(TABLE, 1);
    uint8_t tokens[LENGTH];
    struct rng rng = rng_of_seeded(&stream);
    rng_fill(&rng, tokens, sizeof tokens);
    ref_embed(LENGTH, WIDTH, tokens, table.d, out.d);
    train_embed(0, LENGTH, WIDTH, tokens, table.f, out.f);
    agree("out", LENGTH * WIDTH, out, 1e-6);
    for (size_t t = 0; t < 5; t++) /* one position alone, as sampling asks for */
        train_embed(t, 1, WIDTH, tokens, table.f, out.f + t * WIDTH);
    agree("single", LENGTH * WIDTH, out, 1e-6);
    ref_embed_back(LENGTH, WIDTH, tokens, out.d, d_table.d);
    train_embed_back(LENGTH, WIDTH, tokens, out.f, d_table.f);
    agree("d_table", TABLE, d_table, 1e-6);
}

Test(kernels, linear_and_its_gradients)
{
    enum { IN = WIDTH, OUT = 3 * WIDTH };
    struct twin in = twin_of(LENGTH * IN, 1), weight = twin_of(OUT * IN, 1), out = twin_of(LENGTH * OUT, 0);
    struct twin d_out = twin_of(LENGTH * OUT, 1), d_in = twin_of(LENGTH * IN, 1),
                d_weight = twin_of(OUT * IN, 1);
    struct twin scratch = twin_of(TRAIN_GEMM_SCRATCH, 0);
    train_linear(LENGTH, IN, OUT, in.f, weight.f, out.f, false, scratch.f);
    ref_linear(LENGTH, IN, OUT, in.d, weight.d, out.d);
    agree("out", LENGTH * OUT, out, 2e-6);
    train_linear_back_input(LENGTH, IN, OUT, d_out.f, weight.f, d_in.f, scratch.f);
    train_linear_back_weight(LENGTH, IN, OUT, in.f, d_out.f, d_weight.f, scratch.f);
    ref_linear_back(LENGTH, IN, OUT, in.d, weight.d, d_out.d, d_in.d, d_weight.d);
    agree("d_in", LENGTH * IN, d_in, 2e-6);
    agree("d_weight", OUT * IN, d_weight, 2e-6);
}

Test(kernels, gelu_and_its_gradient)
{
    enum { COUNT = 4001 };
    struct twin up = twin_of(COUNT, 9), active = twin_of(COUNT, 0), d = twin_of(COUNT, 1);
    double slope_times_d[COUNT];
    ref_gelu(COUNT, up.d, active.d);
    ref_gelu_back(COUNT, up.d, d.d, slope_times_d);
    memcpy(d.d, slope_times_d, sizeof slope_times_d);
    train_gelu(COUNT, up.f, active.f);
    train_scale(COUNT, up.f, d.f);
    agree("gelu", COUNT, active, 1e-6);
    agree("d", COUNT, d, 2e-6);
}

Test(kernels, rotation_and_its_inverse)
{
    struct twin qkv = twin_of(SPAN, 1);
    struct twin cosines = twin_of(SPAN, 0), sines = twin_of(SPAN, 0);
    train_rotary_fill(LENGTH, WIDTH / HEADS, cosines.f, sines.f);
    train_rotate(LENGTH, WIDTH, HEADS, 0, 1.0F, cosines.f, sines.f, qkv.f);
    ref_rotate(LENGTH, WIDTH, HEADS, 1, qkv.d);
    agree("forward", LENGTH * 3 * WIDTH, qkv, 1e-6);
    train_rotate(LENGTH, WIDTH, HEADS, 0, -1.0F, cosines.f, sines.f, qkv.f);
    ref_rotate(LENGTH, WIDTH, HEADS, -1, qkv.d);
    agree("back", LENGTH * 3 * WIDTH, qkv, 1e-6);
}

/* Lengths around the block size: one row, part of a block, exactly one, one more, several with a rest. */
Test(kernels, attention_and_its_gradient)
{
    static const size_t lengths[] = {1, 9, 63, 64, 65, 128, LENGTH};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        size_t length = lengths[i];
        struct twin qkv = twin_of(length * 3 * WIDTH, 2), out = twin_of(length * WIDTH, 9);
        struct twin d_out = twin_of(length * WIDTH, 1), d_qkv = twin_of(length * 3 * WIDTH, 9);
        struct twin log_sums = twin_of(HEADS * length, 0),
                    scratch = twin_of(train_attention_scratch(length), 9);
        train_attention(length, WIDTH, HEADS, qkv.f, out.f, log_sums.f, scratch.f);
        ref_attention(length, WIDTH, HEADS, qkv.d, out.d);
        agree("out", length * WIDTH, out, 3e-6);
        train_attention_back(length, WIDTH, HEADS, qkv.f, out.f, log_sums.f, d_out.f, d_qkv.f, scratch.f);
        ref_attention_back(length, WIDTH, HEADS, qkv.d, d_out.d, d_qkv.d);
        agree("d_qkv", length * 3 * WIDTH, d_qkv, 1e-5);
    }
}

Test(kernels, loss_and_its_gradient)
{
    enum { ROWS = 40 };
    struct twin logits = twin_of(ROWS * 256, 12);
    struct twin same = {logits.f, logits.d};
    uint8_t targets[ROWS];
    struct rng rng = rng_of_seeded(&stream);
    rng_fill(&rng, targets, sizeof targets);
    double expected = ref_loss(ROWS, logits.d, targets, 0.25, NULL);
    double loss = train_loss(ROWS, logits.f, targets, 0.0F);
    cr_assert_float_eq(loss, expected, 1e-4);
    agree("logits stay", ROWS * 256, same, 0);
    (void)ref_loss(ROWS, logits.d, targets, 0.25, logits.d);
    loss = train_loss(ROWS, logits.f, targets, 0.25F);
    cr_assert_float_eq(loss, expected, 1e-4);
    agree("d_logits", ROWS * 256, logits, 3e-6);
}

Test(kernels, loss_survives_extreme_logits)
{
    float logits[256] = {0};
    uint8_t target = 7;
    for (size_t i = 0; i < 256; i++)
        logits[i] = i == 7 ? 30000.0F : -30000.0F;
    double loss = train_loss(1, logits, &target, 1.0F);
    cr_assert_float_eq(loss, 0, 1e-3);
    for (size_t i = 0; i < 256; i++)
        cr_assert(fabsf(logits[i]) < 1e-3F);
}

Test(kernels, adamw_step)
{
    struct train_model_config model = {.width = 16, .layers = 1, .heads = 1, .context = 8};
    static struct train_layout layout;
    train_layout_init(&layout, &model);
    struct train_adamw_config config = train_adamw_config_default();
    size_t n = layout.arena_floats;
    struct twin g = twin_of(n, 1), p = twin_of(n, 1), m = twin_of(n, 0), v = twin_of(n, 0);
    for (unsigned step = 1; step <= 5; step++) {
        double norm = 3.0; /* clipped to clip_norm / 3 */
        struct train_adamw_step how = train_adamw_step_of(&config, 0.01F, step, norm);
        size_t half = n / 2 + 5; /* the two parts must meet without a gap */
        train_adamw_apply(&layout, &how, 0, half, g.f, p.f, m.f, v.f);
        train_adamw_apply(&layout, &how, half, n, g.f, p.f, m.f, v.f);
        for (size_t t = 0; t < layout.tensor_count; t++) {
            const struct train_tensor *tensor = &layout.tensors[t];
            bool decays = tensor->kind == TRAIN_MATRIX || tensor->kind == TRAIN_EMBEDDING;
            struct ref_adamw ref = {(double)0.01F, (double)config.beta1, (double)config.beta2,
                                    (double)config.epsilon, decays ? (double)config.decay : 0};
            for (size_t i = 0; i < tensor->rows * tensor->cols; i++) {
                size_t at = tensor->offset + i;
                ref_adamw_step(&ref, step, g.d[at] * (double)config.clip_norm / norm, &p.d[at], &m.d[at],
                               &v.d[at]);
            }
        }
    }
    agree("params", n, p, 2e-6);
    agree("first moments", n, m, 2e-6);
    agree("second moments", n, v, 4e-6);
}

Test(kernels, gradients_are_summed_in_thread_order)
{
    enum { COUNT = 10000 };
    struct twin a = twin_of(COUNT, 1), b = twin_of(COUNT, 1), c = twin_of(COUNT, 1);
    float *grads[] = {a.f, b.f, c.f};
    double squares = train_gradient_reduce(16, COUNT, 3, grads), expected = 0;
    for (size_t i = 16; i < COUNT; i++) {
        float sum = ((float)a.d[i] + b.f[i]) + c.f[i];
        cr_assert_eq(a.f[i], sum, "[%zu]", i);
        expected += (double)sum * (double)sum;
    }
    cr_assert_float_eq(squares, expected, 1e-5 * expected);
    cr_assert_eq(a.f[15], (float)a.d[15], "outside of the slice");
}
