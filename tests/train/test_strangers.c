/* Why weights of strangers may not simply be averaged, and that our second model shows it: sixteen MLPs
 * without normalisation, each starting from weights of its own, average in pairs.  Averages of uncorrelated
 * weights shrink, so do the signals, layer by layer, and learning stands still: the Vanishing Variance
 * Problem (Tian et al., arXiv:2404.04616).  Scaled back to the variance they had, or started from one seed,
 * they learn. */
#include <criterion/criterion.h>
#include <math.h>

#include "base/rng.h"
#include "support/glyphs.h"
#include "support/support.h"
#include "train/trainer.h"

enum { NODES = 16, ROWS = 1200, STEPS = 2, ROUNDS_MAX = 50 };

enum rule { PLAIN, CORRECTED };

struct swarm {
    struct allocator heap;
    struct train_samples *samples[NODES];
    struct trainer nodes[NODES];
    float *average;
};

static void open_swarm(struct swarm *swarm, bool shared)
{
    static float pixels[ROWS * GLYPH_PIXELS];
    static uint16_t labels[ROWS];
    struct train_model_config model =
        train_model_config_mlp(6, (const uint32_t[]){GLYPH_PIXELS, 32, 32, 32, 32, GLYPH_CLASSES});
    model.input_max = 16;
    struct trainer_options options = trainer_options_mlp(&model);
    options.optimizer = TRAIN_SGD;
    options.batch = options.micro = 16;
    swarm->heap = allocator_system();
    glyphs_fill(3, ROWS, pixels, labels);
    for (size_t i = 0; i < NODES; i++) {
        struct train_samples_config config = {
            .inputs = GLYPH_PIXELS, .classes = GLYPH_CLASSES, .input_max = 16, .node.bytes = {(uint8_t)i}};
        char why[TRAIN_WHY_SIZE];
        options.seed[0] = shared ? 0 : (uint8_t)(i + 1);
        cr_assert_eq(train_samples_of(&config, ROWS, pixels, labels, &swarm->heap, &swarm->samples[i], why,
                                      sizeof why),
                     0, "%s", why);
        cr_assert_eq(trainer_create_mlp(&options, swarm->samples[i], &swarm->heap, &swarm->nodes[i]), 0);
    }
    swarm->average =
        allocator_get(&swarm->heap, swarm->nodes[0].layout->arena_floats, sizeof *swarm->average);
    cr_assert_not_null(swarm->average);
}

static void close_swarm(struct swarm *swarm)
{
    for (size_t i = 0; i < NODES; i++) {
        trainer_destroy(&swarm->nodes[i]);
        train_samples_close(swarm->samples[i]);
    }
    allocator_release(&swarm->heap, swarm->average);
}

static double variance(size_t count, const float values[], double *mean)
{
    double sum = 0, squares = 0;
    for (size_t i = 0; i < count; i++) {
        sum += (double)values[i];
        squares += (double)values[i] * (double)values[i];
    }
    *mean = sum / (double)count;
    return squares / (double)count - *mean * *mean;
}

/* The mean of both; corrected: matrices are scaled about their own mean to the mean variance of the two. */
static void merge(struct swarm *swarm, size_t a, size_t b, enum rule rule)
{
    const struct train_layout *layout = swarm->nodes[a].layout;
    const float *x = trainer_params(&swarm->nodes[a]), *y = trainer_params(&swarm->nodes[b]);
    for (size_t i = 0; i < layout->arena_floats; i++)
        swarm->average[i] = 0.5F * (x[i] + y[i]);
    for (size_t t = 0; t < layout->tensor_count; t++) {
        const struct train_tensor *tensor = &layout->tensors[t];
        size_t at = tensor->offset, count = tensor->rows * tensor->cols;
        double ignored, mean;
        if (rule == PLAIN || tensor->kind != TRAIN_MATRIX)
            continue;
        double target = 0.5 * (variance(count, x + at, &ignored) + variance(count, y + at, &ignored));
        double factor = sqrt(target / variance(count, swarm->average + at, &mean));
        for (size_t i = at; i < at + count; i++)
            swarm->average[i] = (float)(mean + factor * ((double)swarm->average[i] - mean));
    }
    cr_assert_eq(trainer_set_params(&swarm->nodes[a], swarm->average), 0);
    cr_assert_eq(trainer_set_params(&swarm->nodes[b], swarm->average), 0);
}

static void merge_all(struct swarm *swarm, const struct rng *rng, enum rule rule)
{
    size_t order[NODES];
    random_order(rng, NODES, order);
    for (size_t i = 0; i < NODES; i += 2)
        merge(swarm, order[i], order[i + 1], rule);
}

/* Of every fourth node: that is enough, and most of this test's time. */
static double mean_accuracy(struct swarm *swarm)
{
    double sum = 0;
    for (size_t i = 0; i < NODES; i += 4) {
        struct trainer_score score;
        cr_assert_eq(trainer_score(&swarm->nodes[i], NULL, &score), 0);
        sum += score.accuracy / (NODES / 4);
    }
    return sum;
}

struct course {
    int rounds;       /* until half of the validation rows are told apart; ROUNDS_MAX: never */
    double accuracy;  /* at the end */
    double deviation; /* of a middle layer's weights after six rounds, relative to the start */
};

static struct course train(bool shared, enum rule rule)
{
    struct swarm swarm;
    struct course course = {.rounds = 0};
    struct rng_seeded stream;
    double start, ignored;
    rng_seeded_init(&stream, 11);
    struct rng rng = rng_of_seeded(&stream);
    open_swarm(&swarm, shared);
    const struct train_layout *layout = swarm.nodes[0].layout;
    const struct train_tensor *middle = &layout->tensors[train_layout_mlp(layout, 2)];
    const float *weights = trainer_params(&swarm.nodes[0]) + middle->offset;
    start = variance(middle->rows * middle->cols, weights, &ignored);
    while (course.rounds < ROUNDS_MAX && course.accuracy < 0.5) {
        for (size_t i = 0; i < NODES * STEPS; i++) {
            struct trainer_report report;
            cr_assert_eq(trainer_step(&swarm.nodes[i % NODES], 0.02F, &report), 0);
        }
        merge_all(&swarm, &rng, rule);
        course.accuracy = mean_accuracy(&swarm);
        if (++course.rounds == 6)
            course.deviation = sqrt(variance(middle->rows * middle->cols, weights, &ignored) / start);
    }
    close_swarm(&swarm);
    return course;
}

Test(strangers, shared_seeds_learn)
{
    struct course shared = train(true, PLAIN);
    cr_assert_lt(shared.rounds, 45, "%d rounds, accuracy %g", shared.rounds, shared.accuracy);
    cr_assert_float_eq(shared.deviation, 1, 0.05, "%g", shared.deviation);
}

Test(strangers, plain_averages_stand_still)
{
    struct course plain = train(false, PLAIN);
    cr_assert_eq(plain.rounds, ROUNDS_MAX);
    cr_assert_lt(plain.accuracy, 0.2);
    /* Sixteen uncorrelated weights average to a quarter of their deviation. */
    cr_assert_float_eq(plain.deviation, 0.25, 0.05, "%g", plain.deviation);
}

Test(strangers, corrected_averages_learn)
{
    struct course corrected = train(false, CORRECTED);
    cr_assert_lt(corrected.rounds, 45, "%d rounds, accuracy %g", corrected.rounds, corrected.accuracy);
    cr_assert_float_eq(corrected.deviation, 1, 0.1, "%g", corrected.deviation);
}
