/* The second model must be right, tensor by tensor, as the transformer must; learn; do the same whatever the
 * number of threads; go on from its own bytes; and be told from the other model wherever weights lie in a
 * file. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/glyphs.h"
#include "support/support.h"
#include "train/init.h"
#include "train/mlp_pass.h"
#include "train/ref/ref.h"
#include "train/safetensors.h"
#include "train/trainer.h"

enum { ROWS = 7, ROWS_LEARNT = 2000 };

static struct allocator heap;
static struct rng_seeded stream;
static struct train_layout layout;
static float values[ROWS * 80];
static const float *rows[ROWS];
static uint16_t labels[ROWS];
static char why[TRAIN_WHY_SIZE];

static float shaken(const struct rng *rng)
{
    return (float)(rng_u32(rng) >> 8) * 0x1p-24F - 0.5F;
}

/* Weights as initialised, but biases shaken, so that no gradient is zero by symmetry; and rows with labels.
 */
static float *model(size_t count, const uint32_t sizes[])
{
    static const uint8_t seed[32] = {3};
    struct train_model_config config = train_model_config_mlp(count, sizes);
    heap = allocator_system();
    rng_seeded_init(&stream, 4);
    struct rng rng = rng_of_seeded(&stream);
    cr_assert_eq(train_model_config_check(&config, why, sizeof why), 0, "%s", why);
    train_layout_init(&layout, &config);
    float *params = allocator_get(&heap, layout.arena_floats, sizeof *params);
    cr_assert_not_null(params);
    train_init(&layout, seed, params);
    for (size_t l = 0; l + 1 < count; l++)
        for (size_t i = 0; i < sizes[l + 1]; i++)
            params[layout.tensors[train_layout_mlp(&layout, l) + 1].offset + i] = shaken(&rng);
    cr_assert_leq(sizes[0], 80);
    for (size_t r = 0; r < ROWS; r++) {
        rows[r] = values + r * sizes[0];
        labels[r] = (uint16_t)rng_below(&rng, sizes[count - 1]);
        for (size_t i = 0; i < sizes[0]; i++)
            values[r * sizes[0] + i] = shaken(&rng);
    }
    return params;
}

static double *doubles(const float *from)
{
    double *out = allocator_get(&heap, layout.arena_floats, sizeof *out);
    cr_assert_not_null(out);
    for (size_t i = 0; from != NULL && i < layout.arena_floats; i++)
        out[i] = (double)from[i];
    return out;
}

static double loss_of(const double *params)
{
    double loss;
    cr_assert_eq(ref_mlp(&layout, params, ROWS, rows, labels, NULL, &loss), 0);
    return loss;
}

Test(mlp, reference_equals_finite_differences)
{
    float *start = model(4, (const uint32_t[]){9, 12, 8, 5});
    double *params = doubles(start), *grads = doubles(NULL), loss;
    cr_assert_eq(ref_mlp(&layout, params, ROWS, rows, labels, grads, &loss), 0);
    cr_assert_float_eq(loss, loss_of(params), 1e-12);
    for (size_t t = 0; t < layout.tensor_count; t++) {
        const struct train_tensor *tensor = &layout.tensors[t];
        double seen = 0;
        for (size_t i = 0; i < tensor->rows * tensor->cols; i++) {
            double *p = &params[tensor->offset + i], kept = *p, step = 1e-6; /* short of the ReLUs' corners */
            *p = kept + step;
            double above = loss_of(params);
            *p = kept - step;
            double below = loss_of(params);
            *p = kept;
            double slope = (above - below) / (2 * step);
            cr_assert_float_eq(grads[tensor->offset + i], slope, 1e-8 + 1e-6 * fabs(slope),
                               "%s [%zu]: gradient %g, finite difference %g", tensor->name, i,
                               grads[tensor->offset + i], slope);
            seen += fabs(slope);
        }
        cr_assert_gt(seen, 1e-6, "%s has no gradient to compare", tensor->name);
    }
    allocator_release(&heap, start);
    allocator_release(&heap, params);
    allocator_release(&heap, grads);
}

static uint64_t correct_by_reference(const double *params)
{
    /* The likeliest class of a row is the one whose label would make the loss of that row least. */
    uint64_t correct = 0;
    for (size_t r = 0; r < ROWS; r++) {
        double best = INFINITY, loss;
        uint16_t likeliest = 0;
        for (uint16_t c = 0; c < layout.model.sizes[layout.model.size_count - 1]; c++) {
            cr_assert_eq(ref_mlp(&layout, params, 1, &rows[r], &c, NULL, &loss), 0);
            if (loss < best) {
                best = loss;
                likeliest = c;
            }
        }
        correct += likeliest == labels[r];
    }
    return correct;
}

static void compare_fast_path(size_t count, const uint32_t sizes[], size_t rows_max)
{
    float *params = model(count, sizes);
    double *params64 = doubles(params), *grads64 = doubles(NULL), expected;
    float *grads = allocator_get(&heap, layout.arena_floats, sizeof *grads);
    struct train_mlp_pass *pass;
    struct train_tally sum = {.loss = 0};
    cr_assert_eq(ref_mlp(&layout, params64, ROWS, rows, labels, grads64, &expected), 0);
    cr_assert_eq(train_mlp_pass_create(&layout, rows_max, &heap, &pass), 0);
    for (size_t r = 0; r < ROWS; r += rows_max) {
        size_t some = ROWS - r < rows_max ? ROWS - r : rows_max;
        struct train_tally forward = train_mlp_pass_run(pass, params, some, rows + r, labels + r, 0, NULL);
        struct train_tally both =
            train_mlp_pass_run(pass, params, some, rows + r, labels + r, 1.0F / ROWS, grads);
        cr_assert(forward.loss == both.loss && forward.correct == both.correct);
        sum.loss += both.loss;
        sum.correct += both.correct;
    }
    cr_assert_float_eq(sum.loss / ROWS, expected, 1e-5);
    cr_assert_eq(sum.correct, correct_by_reference(params64));
    for (size_t t = 0; t < layout.tensor_count; t++) {
        const struct train_tensor *tensor = &layout.tensors[t];
        size_t from = tensor->offset, to = from + tensor->rows * tensor->cols;
        double largest = 0;
        for (size_t i = from; i < to; i++)
            largest = fabs(grads64[i]) > largest ? fabs(grads64[i]) : largest;
        /* Float32 through a few layers: five digits of a tensor's largest gradient remain. */
        for (size_t i = from; i < to; i++)
            cr_assert_float_eq((double)grads[i], grads64[i], 3e-5 * largest + 1e-9,
                               "%s [%zu]: %g, reference %g", tensor->name, i - from, (double)grads[i],
                               grads64[i]);
    }
    train_mlp_pass_destroy(pass);
    allocator_release(&heap, params);
    allocator_release(&heap, grads);
    allocator_release(&heap, params64);
    allocator_release(&heap, grads64);
}

Test(mlp, fast_path_equals_reference)
{
    compare_fast_path(4, (const uint32_t[]){64, 64, 32, 10}, ROWS);
    compare_fast_path(2, (const uint32_t[]){5, 3}, ROWS);
    compare_fast_path(3, (const uint32_t[]){1, 1, 2}, 1);
    compare_fast_path(5, (const uint32_t[]){80, 33, 17, 50, 7}, 3);
}

/* Signals must keep their size through a deep net, or it does not learn: with He's deviation the mean square
 * of activations stays near that of the inputs. */
Test(mlp, initial_weights_keep_the_size_of_signals)
{
    uint32_t sizes[TRAIN_MLP_SIZES_MAX];
    for (size_t i = 0; i < TRAIN_MLP_SIZES_MAX; i++)
        sizes[i] = i == 0 ? 64 : i + 1 == TRAIN_MLP_SIZES_MAX ? 10 : 256;
    struct train_model_config config = train_model_config_mlp(TRAIN_MLP_SIZES_MAX, sizes);
    static const uint8_t seed[32] = {1};
    heap = allocator_system();
    train_layout_init(&layout, &config);
    float *params = allocator_get(&heap, layout.arena_floats, sizeof *params);
    cr_assert_not_null(params);
    train_init(&layout, seed, params);
    for (size_t l = 0; l + 1 < TRAIN_MLP_SIZES_MAX; l++) {
        const struct train_tensor *weight = &layout.tensors[train_layout_mlp(&layout, l)], *bias = weight + 1;
        size_t count = weight->rows * weight->cols;
        double squares = 0;
        for (size_t i = 0; i < count; i++)
            squares += (double)params[weight->offset + i] * (double)params[weight->offset + i];
        bool last = l + 2 == TRAIN_MLP_SIZES_MAX;
        double expected = 2.0 / (double)(weight->cols + (last ? weight->rows : 0));
        cr_assert_float_eq(squares / (double)count, expected, 0.05 * expected, "%s", weight->name);
        for (size_t i = 0; i < bias->cols; i++)
            cr_assert_eq(params[bias->offset + i], 0);
        cr_assert(weight->kind == TRAIN_MATRIX && bias->kind == TRAIN_BIAS && bias->rows == 1);
    }
    allocator_release(&heap, params);
}

static struct train_samples *samples_of_node(uint8_t node)
{
    static float pixels[ROWS_LEARNT * GLYPH_PIXELS];
    static uint16_t classes[ROWS_LEARNT];
    struct train_samples_config config = {
        .inputs = GLYPH_PIXELS, .classes = GLYPH_CLASSES, .input_max = 16, .node.bytes = {node}};
    struct train_samples *samples;
    heap = allocator_system();
    glyphs_fill(7, ROWS_LEARNT, pixels, classes);
    cr_assert_eq(train_samples_of(&config, ROWS_LEARNT, pixels, classes, &heap, &samples, why, sizeof why), 0,
                 "%s", why);
    return samples;
}

static struct trainer_options options_of(void)
{
    struct train_model_config config =
        train_model_config_mlp(4, (const uint32_t[]){GLYPH_PIXELS, 64, 32, GLYPH_CLASSES});
    config.input_max = 16;
    return trainer_options_mlp(&config);
}

struct both {
    struct train_samples *samples;
    struct trainer trainer;
};

static struct both create(struct trainer_options options)
{
    struct both b = {.samples = samples_of_node(1)};
    cr_assert_eq(trainer_options_check(&options, why, sizeof why), 0, "%s", why);
    cr_assert_eq(trainer_create_mlp(&options, b.samples, &heap, &b.trainer), 0);
    return b;
}

static void destroy(struct both *b)
{
    trainer_destroy(&b->trainer);
    train_samples_close(b->samples);
}

static void steps(struct both *b, int count, float rate)
{
    struct trainer_report report;
    for (int i = 0; i < count; i++) {
        cr_assert_eq(trainer_step(&b->trainer, rate, &report), 0);
        cr_assert(report.tokens == 32 && report.updated && report.gradient_norm > 0);
    }
}

static void check_learns(enum train_optimizer optimizer, float rate)
{
    struct trainer_options options = options_of();
    struct trainer_score before, after;
    options.optimizer = optimizer;
    struct both b = create(options);
    struct train_samples_info info;
    double loss;
    train_samples_info(b.samples, &info);
    cr_assert_eq(trainer_score(&b.trainer, NULL, &before), 0);
    cr_assert_eq(before.tokens, info.validation_rows);
    cr_assert_float_eq(before.loss, log(10), 0.7, "an untrained model knows nothing: %g", before.loss);
    cr_assert_lt(before.accuracy, 0.35);
    steps(&b, 500, rate);
    cr_assert_eq(trainer_score(&b.trainer, NULL, &after), 0);
    cr_assert_gt(after.accuracy, 0.9, "accuracy %g, loss %g", after.accuracy, after.loss);
    cr_assert_eq(trainer_evaluate(&b.trainer, NULL, &loss), 0);
    cr_assert_eq(loss, after.loss);
    destroy(&b);
}

Test(mlp, learns_digits)
{
    check_learns(TRAIN_ADAMW, 2e-3F);
}

Test(mlp, learns_digits_by_gradient_descent_with_momentum)
{
    check_learns(TRAIN_SGD, 2e-2F);
}

Test(mlp, same_bits_again_and_threads_change_only_rounding)
{
    float *kept = NULL;
    double first = 0;
    struct trainer_options options = options_of();
    options.model.sizes[1] = 512; /* large enough that a second thread is worth its while */
    options.batch = 64;
    size_t floats = 0;
    for (uint32_t run = 0; run < 4; run++) {
        options.threads = run < 2 ? 1 : run;
        options.micro = run < 2 ? 64 : 5;
        struct both b = create(options);
        struct trainer_report report;
        double loss;
        cr_assert_eq(trainer_evaluate(&b.trainer, NULL, &loss), 0);
        cr_assert(run == 0 || loss == first, "evaluation differs with %u threads", options.threads);
        first = loss;
        cr_assert_eq(trainer_step(&b.trainer, 1e-3F, &report), 0);
        floats = b.trainer.layout->arena_floats;
        float *params = trainer_params(&b.trainer);
        if (run == 0) {
            kept = allocator_get(&heap, floats, sizeof(float));
            cr_assert_not_null(kept);
            trainer_snapshot(&b.trainer, kept);
        }
        size_t far = 0;
        for (size_t i = 0; i < floats; i++)
            far += fabsf(kept[i] - params[i]) > 1e-4F;
        cr_assert_lt(far, floats / 200, "run %u: %zu weights differ", run, far);
        cr_assert(run != 1 || memcmp(kept, params, floats * sizeof(float)) == 0);
        destroy(&b);
    }
    allocator_release(&heap, kept);
}

Test(mlp, resumes_from_its_own_bytes)
{
    struct both a = create(options_of()), b = create(options_of());
    steps(&a, 10, 1e-3F);
    size_t bytes = trainer_state_bytes(&a.trainer), floats = a.trainer.layout->arena_floats;
    uint8_t *state = malloc(bytes);
    cr_assert_not_null(state);
    cr_assert_eq(trainer_state_export(&a.trainer, state, bytes), (int)bytes);
    cr_assert_eq(trainer_set_params(&b.trainer, trainer_params(&a.trainer)), 0);
    cr_assert_eq(trainer_state_import(&b.trainer, bytes_of(state, bytes)), 0);
    cr_assert_eq(trainer_updates(&b.trainer), 10);
    /* The same draws from here on: the same weights. */
    cr_assert_eq(trainer_state_import(&a.trainer, bytes_of(state, bytes)), 0);
    steps(&a, 3, 1e-3F);
    steps(&b, 3, 1e-3F);
    cr_assert_eq(memcmp(trainer_params(&a.trainer), trainer_params(&b.trainer), floats * sizeof(float)), 0);

    struct trainer_options other = options_of();
    other.model.input_max = 15; /* the same tensors, of another model all the same */
    struct both c = {.samples = samples_of_node(1)};
    cr_assert_eq(trainer_create_mlp(&other, c.samples, &heap, &c.trainer), 0);
    cr_assert_eq(trainer_state_import(&c.trainer, bytes_of(state, bytes)), ERR_MISMATCH);
    state[bytes / 2] ^= 1;
    cr_assert_eq(trainer_state_import(&b.trainer, bytes_of(state, bytes)), ERR_CORRUPT);
    free(state);
    destroy(&a);
    destroy(&b);
    destroy(&c);
}

Test(mlp, poison_is_noticed)
{
    struct both b = create(options_of());
    size_t at = b.trainer.layout->tensors[train_layout_mlp(b.trainer.layout, 1)].offset;
    float *params = trainer_params(&b.trainer), kept = params[at];
    struct trainer_report report;
    double loss = 7;
    params[at] = NAN; /* a ReLU must not hide it */
    cr_assert_eq(trainer_step(&b.trainer, 1e-3F, &report), ERR_NOT_FINITE);
    cr_assert_eq(trainer_evaluate(&b.trainer, NULL, &loss), ERR_NOT_FINITE);
    cr_assert_eq(loss, 7);
    params[at] = kept;
    steps(&b, 1, 1e-3F);
    destroy(&b);
}

static size_t taken_bytes;

static void *adding_alloc(void *user, size_t size)
{
    (void)user;
    taken_bytes += size;
    return heap.alloc(heap.user, size);
}

Test(mlp, memory_is_what_was_announced_and_none_is_taken_later)
{
    struct train_samples *samples = samples_of_node(1);
    struct trainer_options options = options_of();
    struct trainer trainer;
    struct trainer_report report;
    options.model.sizes[1] = 512;
    options.batch = 256;
    options.threads = 3;
    for (size_t fail_at = 1;; fail_at++) {
        struct counting_allocator counter = {.fail_at = fail_at};
        struct allocator allocator = counting_allocator_view(&counter);
        int result = trainer_create_mlp(&options, samples, &allocator, &trainer);
        if (result == 0) {
            size_t taken = counter.allocated;
            double loss;
            cr_assert_eq(trainer_step(&trainer, 1e-3F, &report), 0);
            cr_assert_eq(trainer_evaluate(&trainer, NULL, &loss), 0);
            cr_assert_eq(counter.allocated, taken);
            trainer_destroy(&trainer);
        }
        cr_assert_eq(counter.live, 0, "leak when allocation %zu fails", fail_at);
        if (result == 0)
            break;
        cr_assert_eq(result, ERR_NO_MEMORY);
    }
    struct allocator adding = {.alloc = adding_alloc, .release = heap.release};
    taken_bytes = 0;
    cr_assert_eq(trainer_create_mlp(&options, samples, &adding, &trainer), 0);
    cr_assert_eq(taken_bytes, trainer_bytes(&options));
    trainer_destroy(&trainer);
    train_samples_close(samples);
}

Test(mlp, survives_a_weight_file)
{
    float *params = model(4, (const uint32_t[]){64, 64, 32, 10});
    struct train_model_config found, config = layout.model;
    config.input_max = 0.1F; /* no short decimal */
    train_layout_init(&layout, &config);
    size_t bytes = train_safetensors_bytes(&layout, NULL);
    uint8_t *image = malloc(bytes);
    float *again = allocator_get(&heap, layout.arena_floats, sizeof *again);
    cr_assert(image != NULL && again != NULL);
    cr_assert_eq(train_safetensors_write(&layout, NULL, params, image, bytes), 0);
    cr_assert_eq(train_safetensors_model(bytes_of(image, bytes), &found, why, sizeof why), 0, "%s", why);
    cr_assert_eq(memcmp(&found, &config, sizeof found), 0);
    cr_assert_eq(train_safetensors_read(bytes_of(image, bytes), &layout, again, why, sizeof why), 0, "%s",
                 why);
    cr_assert_eq(memcmp(params, again, layout.arena_floats * sizeof *again), 0);
    static const char *const words[][2] = {{"64,64,32", "64,64,3x"}, {"64,64,32", "64,,64,2"},
                                           {"64,64,32", "99999999"}, {"0.100000001", "0.10000000x"},
                                           {"\"mlp\"", "\"mlq\""},   {"0.100000001", "-1000000000"}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        uint8_t *at = memmem(image, bytes, words[i][0], strlen(words[i][0]));
        cr_assert_not_null(at, "%s", words[i][0]);
        memcpy(at, words[i][1], strlen(words[i][0]));
        cr_assert_eq(train_safetensors_model(bytes_of(image, bytes), &found, why, sizeof why), ERR_MALFORMED,
                     "%s taken for %s", words[i][1], words[i][0]);
        memcpy(at, words[i][0], strlen(words[i][0]));
    }
    free(image);
    allocator_release(&heap, again);
    allocator_release(&heap, params);
}

Test(mlp, impossible_shapes_are_refused_by_name)
{
    static const struct {
        uint32_t sizes[4];
        uint32_t count;
        const char *text;
    } wrong[] = {
        {{64}, 1, "2 to 16"},           {{64, 0, 10}, 3, "(hidden) is 0"},
        {{0, 64, 10}, 3, "inputs"},     {{64, 64, 1}, 3, "(classes) is 1"},
        {{64, 64, 5000}, 3, "classes"}, {{64, 20000, 10}, 3, "16384"},
    };
    struct train_model_config config;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        config = train_model_config_mlp(wrong[i].count, wrong[i].sizes);
        cr_assert_eq(train_model_config_check(&config, why, sizeof why), ERR_INVALID);
        cr_assert_not_null(strstr(why, wrong[i].text), "\"%s\" does not say \"%s\"", why, wrong[i].text);
    }
    config = train_model_config_mlp(3, (const uint32_t[]){4, 8, 2});
    config.input_max = NAN;
    cr_assert_eq(train_model_config_check(&config, why, sizeof why), ERR_INVALID);
    config.input_max = 1;
    cr_assert_eq(train_model_config_check(&config, why, sizeof why), 0);
    config.width = 16; /* of both kinds at once */
    cr_assert_eq(train_model_config_check(&config, why, sizeof why), ERR_INVALID);
    config.width = 0;
    config.kind = TRAIN_MODEL_KINDS;
    cr_assert_eq(train_model_config_check(&config, why, sizeof why), ERR_INVALID);
    char text[TRAIN_SHAPE_SIZE];
    config.kind = TRAIN_MLP;
    train_model_shape(&config, text, sizeof text);
    cr_assert_str_eq(text, "4-8-2");
}
