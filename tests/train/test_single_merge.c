/* How little averaging keeps models mergeable, and when it does most: the findings of "A Single Merging
 * Suffices" (Zhu et al., arXiv:2507.06542), derived again with our trainer.  Sixteen MLPs start from weights
 * of their own and train on three of ten digits each; in a round each pair of a random matching averages with
 * some probability.  The mean of all, which nobody trains, is scored beside the models themselves, and at the
 * end pairs along a hypercube reach it without an all-reduce.  Run with --verbose for the table. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "support/glyphs.h"
#include "support/support.h"
#include "train/trainer.h"

enum {
    NODES = 16,
    CUBE = 4, /* its axes */
    ROWS = 1600,
    OWN_ROWS = 400,
    CLASSES_EACH = 3,
    STEPS = 8,
    ROUNDS = 128,
    WINDOW = 26,
};

struct swarm {
    struct allocator heap;
    struct train_samples *all, *samples[NODES];
    struct trainer nodes[NODES], judge; /* the judge never trains: all ten digits are its validation part */
    float *mean;
};

struct scores {
    double local, mean; /* accuracies */
};

static struct train_samples *open_samples(const struct swarm *swarm, size_t node, size_t rows,
                                          const float pixels[], const uint16_t labels[])
{
    struct train_samples_config config = {
        .inputs = GLYPH_PIXELS, .classes = GLYPH_CLASSES, .input_max = 16, .node.bytes = {(uint8_t)node}};
    struct train_samples *samples;
    char why[TRAIN_WHY_SIZE];
    int result = train_samples_of(&config, rows, pixels, labels, &swarm->heap, &samples, why, sizeof why);
    cr_assert_eq(result, 0, "%s", why);
    return samples;
}

/* Rows of three neighbouring digits, first ones first. */
static size_t skewed(size_t node, const float pixels[], const uint16_t labels[], float out[],
                     uint16_t names[])
{
    size_t count = 0;
    for (size_t i = 0; i < ROWS && count < OWN_ROWS; i++) {
        if ((labels[i] + GLYPH_CLASSES - node % GLYPH_CLASSES) % GLYPH_CLASSES >= CLASSES_EACH)
            continue;
        memcpy(out + count * GLYPH_PIXELS, pixels + i * GLYPH_PIXELS, GLYPH_PIXELS * sizeof *out);
        names[count++] = labels[i];
    }
    return count;
}

static void open_swarm(struct swarm *swarm)
{
    static float pixels[ROWS * GLYPH_PIXELS], own[OWN_ROWS * GLYPH_PIXELS];
    static uint16_t labels[ROWS], names[OWN_ROWS];
    struct train_model_config model =
        train_model_config_mlp(3, (const uint32_t[]){GLYPH_PIXELS, 32, GLYPH_CLASSES});
    model.input_max = 16;
    struct trainer_options options = trainer_options_mlp(&model);
    options.batch = options.micro = 16;
    swarm->heap = allocator_system();
    glyphs_fill(5, ROWS, pixels, labels);
    swarm->all = open_samples(swarm, NODES, ROWS, pixels, labels);
    cr_assert_eq(trainer_create_mlp(&options, swarm->all, &swarm->heap, &swarm->judge), 0);
    for (size_t i = 0; i < NODES; i++) {
        size_t rows = skewed(i, pixels, labels, own, names);
        swarm->samples[i] = open_samples(swarm, i, rows, own, names);
        options.seed[0] = (uint8_t)(i + 1);
        cr_assert_eq(trainer_create_mlp(&options, swarm->samples[i], &swarm->heap, &swarm->nodes[i]), 0);
    }
    swarm->mean = allocator_get(&swarm->heap, swarm->judge.layout->arena_floats, sizeof *swarm->mean);
    cr_assert_not_null(swarm->mean);
}

static void close_swarm(struct swarm *swarm)
{
    for (size_t i = 0; i < NODES; i++) {
        trainer_destroy(&swarm->nodes[i]);
        train_samples_close(swarm->samples[i]);
    }
    trainer_destroy(&swarm->judge);
    train_samples_close(swarm->all);
    allocator_release(&swarm->heap, swarm->mean);
}

static double accuracy(struct swarm *swarm, const float params[])
{
    struct trainer_score score;
    cr_assert_eq(trainer_score(&swarm->judge, params, &score), 0);
    return score.accuracy;
}

static struct scores scores_now(struct swarm *swarm)
{
    struct scores scores = {0};
    size_t count = swarm->judge.layout->arena_floats;
    memset(swarm->mean, 0, count * sizeof *swarm->mean);
    for (size_t i = 0; i < NODES; i++) {
        const float *weights = trainer_params(&swarm->nodes[i]);
        for (size_t k = 0; k < count; k++)
            swarm->mean[k] += weights[k] / NODES;
        scores.local += accuracy(swarm, weights) / NODES;
    }
    scores.mean = accuracy(swarm, swarm->mean);
    return scores;
}

static void average(struct swarm *swarm, size_t a, size_t b)
{
    size_t count = swarm->judge.layout->arena_floats;
    const float *x = trainer_params(&swarm->nodes[a]), *y = trainer_params(&swarm->nodes[b]);
    for (size_t k = 0; k < count; k++)
        swarm->mean[k] = 0.5F * (x[k] + y[k]);
    cr_assert_eq(trainer_set_params(&swarm->nodes[a], swarm->mean), 0);
    cr_assert_eq(trainer_set_params(&swarm->nodes[b], swarm->mean), 0);
}

static void matching(struct swarm *swarm, const struct rng *rng, double probability)
{
    size_t order[NODES];
    random_order(rng, NODES, order);
    for (size_t i = 0; i < NODES; i += 2)
        if ((double)rng_below(rng, 1000) < 1000 * probability)
            average(swarm, order[i], order[i + 1]);
}

/* Trains; rounds from `first` up to `last` average with this probability, the others do not. */
static struct scores course(struct swarm *swarm, const char *name, int first, int last, double probability)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 12);
    struct rng rng = rng_of_seeded(&stream);
    open_swarm(swarm);
    for (int round = 0; round < ROUNDS; round++) {
        for (size_t i = 0; i < NODES * STEPS; i++) {
            struct trainer_report report;
            cr_assert_eq(trainer_step(&swarm->nodes[i % NODES], 0.003F, &report), 0);
        }
        if (round >= first && round < last)
            matching(swarm, &rng, probability);
    }
    struct scores scores = scores_now(swarm);
    printf("single merge: %s: accuracy of a model %.3f, of the mean %.3f\n", name, scores.local, scores.mean);
    return scores;
}

Test(single_merge, models_that_never_met_do_not_merge)
{
    struct swarm swarm;
    struct scores never = course(&swarm, "never averaged", 0, 0, 0);
    cr_assert_lt(never.local, 0.35); /* three digits of ten */
    cr_assert_lt(never.mean, never.local);
    close_swarm(&swarm);
}

/* The models stay near what they are without any exchange; their mean, of a fifth of the exchanges, is as
 * good as that of all of them, and pairs along a hypercube bring every model there. */
Test(single_merge, rare_averages_keep_models_mergeable)
{
    struct swarm swarm;
    struct scores always = course(&swarm, "averaged every round", 0, ROUNDS, 1);
    close_swarm(&swarm);
    struct scores rare = course(&swarm, "averaged every fifth round", 0, ROUNDS, 0.2);
    cr_assert_gt(rare.mean, rare.local + 0.15);
    cr_assert_gt(rare.mean, always.mean - 0.1);
    double now = 0;
    for (size_t axis = 0; axis < CUBE; axis++) {
        for (size_t i = 0; i < NODES; i++)
            if ((i >> axis & 1) == 0)
                average(&swarm, i, i | (size_t)1 << axis);
        now = scores_now(&swarm).local;
        printf("single merge: after %zu of %d rounds along the hypercube %.3f\n", axis + 1, CUBE, now);
    }
    cr_assert_float_eq(now, rare.mean, 0.01);
    for (size_t i = 1; i < NODES; i++)
        for (size_t k = 0; k < swarm.judge.layout->arena_floats; k++)
            cr_assert_float_eq(trainer_params(&swarm.nodes[i])[k], swarm.mean[k],
                               1e-6F + 1e-6F * fabsf(swarm.mean[k]));
    close_swarm(&swarm);
}

Test(single_merge, late_averages_do_more_than_early_ones)
{
    struct swarm swarm;
    struct scores early = course(&swarm, "averaged in the first rounds only", 0, WINDOW, 1);
    close_swarm(&swarm);
    struct scores late = course(&swarm, "averaged in as many last rounds only", ROUNDS - WINDOW, ROUNDS, 1);
    close_swarm(&swarm);
    cr_assert_gt(late.mean, early.mean + 0.05);
}
