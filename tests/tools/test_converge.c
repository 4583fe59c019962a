/* The harness must measure what it says: the same figures for any number of threads, synchronous training
 * that is one node with the whole batch, a final merge that is the mean, bytes that are counted, faults and
 * attacks that happen. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gossip/codec.h"
#include "tools/converge/swarm.h"

static char folder[64];
static char text[96];
static char held[96];
static char checkpoint[96];
static char why[CONVERGE_WHY_SIZE];
static struct converge_result result;
static struct swarm swarm;
static struct converge_config config; /* of the swarm, for tests that look inside */

static void write_lines(const char *path, int from, int count)
{
    FILE *out = fopen(path, "w");
    cr_assert_not_null(out);
    for (int i = from; i < from + count; i++)
        fprintf(out, "line %d of the text, %d to go\n", i, 9000 - i);
    cr_assert_eq(fclose(out), 0);
}

static void make_folder(void)
{
    (void)snprintf(folder, sizeof folder, "/tmp/dunlin-converge-XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    (void)snprintf(text, sizeof text, "%s/text", folder);
    (void)snprintf(held, sizeof held, "%s/held", folder);
    (void)snprintf(checkpoint, sizeof checkpoint, "%s/warm", folder);
    write_lines(text, 0, 4000);
    write_lines(held, 4000, 200);
}

static void remove_folder(void)
{
    (void)unlink(text);
    (void)unlink(held);
    (void)unlink(checkpoint);
    cr_assert_eq(rmdir(folder), 0);
}

TestSuite(converge, .init = make_folder, .fini = remove_folder);

/* Small enough for a fraction of a second under the sanitizers. */
static struct converge_config tiny(void)
{
    struct converge_config c = converge_config_default();
    c.model = (struct train_model_config){.width = 16, .layers = 1, .heads = 1, .context = 16};
    c.nodes = 4;
    c.batch = 2;
    c.warm_steps = 6;
    c.steps = 12;
    c.h = 4;
    c.fragments = 2;
    c.plain_cycles = 1;
    c.windows = 8;
    c.text = text;
    c.held = held;
    c.quiet = true;
    return c;
}

static void run(const struct converge_config *c)
{
    cr_assert_eq(converge_config_check(c, why), 0, "%s", why);
    cr_assert_eq(converge_run(c, &result, why), 0, "%s", why);
}

/* Every method ends with finite figures and the bytes that its pattern of sending costs. */
Test(converge, every_method_gives_a_row)
{
    struct train_layout layout;
    struct converge_config c = tiny();
    train_layout_init(&layout, &c.model);
    double model = (double)layout.arena_floats * sizeof(float);
    for (int method = 0; method < CONVERGE_METHODS; method++) {
        c = tiny();
        c.method = (enum converge_method)method;
        if (c.method == CONVERGE_H1)
            c.h = c.fragments = 1;
        run(&c);
        const char *name = converge_method_name(method);
        cr_expect(isfinite(result.ppl_mean) && result.ppl_mean > 1 && result.ppl_mean < 256, "%s", name);
        cr_expect(isfinite(result.ppl_merged) && isfinite(result.spread), "%s", name);
        cr_expect_lt(result.ppl_mean, result.warm_ppl, "%s did not learn", name);
        cr_expect_eq(result.tokens, 12 * 4 * 2 * 16, "%s", name);
        double all = 2.0 * 3 / 4 * model;
        double bytes[CONVERGE_METHODS] = {12 * all, 12 * all, 3 * all, 3 * model, 3 * model, 0};
        cr_expect_float_eq(result.bytes_per_node, bytes[method], 64, "%s: %g, not %g", name,
                           result.bytes_per_node, bytes[method]);
    }
}

/* Every codec: close to fp32, with the bytes of its width; int8 while partners are strangers; what a modular
 * one asks for again is counted. */
Test(converge, every_codec_gives_a_row)
{
    struct converge_config c = tiny();
    c.steps = 80;
    run(&c);
    double exact = result.ppl_mean, bytes = 4, strangers = 0;
    for (int codec = GOSSIP_CODEC_BF16; codec < GOSSIP_CODEC_COUNT; codec++) {
        c.codec = (enum gossip_codec)codec;
        run(&c);
        const char *name = gossip_codec_name(c.codec);
        cr_expect_lt(result.ppl_mean, 1.1 * exact, "%s: %g, fp32 %g", name, result.ppl_mean, exact);
        cr_expect_lt(result.bytes_per_value, bytes, "%s: %g bytes", name, result.bytes_per_value);
        cr_expect_eq(result.refused, 0, "%s", name);
        bytes = result.bytes_per_value;
        if (c.codec == GOSSIP_CODEC_MOD3)
            strangers = 1.02 * bytes;
        bool modular = codec > GOSSIP_CODEC_INT8;
        cr_expect_eq(result.blocks > 0, modular, "%s", name);
        cr_expect_leq(result.resent, result.blocks / 2, "%s", name);
    }
    c.codec = GOSSIP_CODEC_MOD3;
    c.disturb.kill = 2; /* those who come back are strangers again */
    run(&c);
    cr_expect_gt(result.bytes_per_value, strangers);
}

/* Figures are a function of the settings: threads change nothing, a seed changes something. */
Test(converge, same_figures_for_any_threads)
{
    struct converge_config c = tiny();
    struct converge_result first;
    c.codec = GOSSIP_CODEC_MOD3;
    c.steps = 24;
    c.disturb = (struct converge_disturbance){.fail = 0.3, .one_sided = 0.2, .straggler = 3, .late = 1};
    c.curve = 1;
    run(&c);
    first = result;
    for (uint32_t threads = 2; threads <= 5; threads += 3) {
        c.threads = threads;
        run(&c);
        result.seconds = first.seconds;
        cr_expect_eq(memcmp(&result, &first, sizeof first), 0, "%u threads differ", threads);
    }
    for (int method = CONVERGE_SYNC; method <= CONVERGE_DILOCO; method += CONVERGE_DILOCO) {
        c = tiny();
        c.method = (enum converge_method)method;
        run(&c);
        first = result;
        c.threads = 3;
        run(&c);
        cr_expect_eq(result.ppl_mean, first.ppl_mean);
    }
    c.seed = 2;
    run(&c);
    cr_expect_neq(result.ppl_mean, first.ppl_mean);
}

/* Gradients of four nodes averaged at every step are the gradient of one node with four times the batch: here
 * on the same windows, against the trainer itself. */
Test(converge, sync_is_one_node_with_the_whole_batch)
{
    struct converge_config c = tiny();
    struct trainer trainer;
    struct trainer_options options = trainer_options_default();
    struct train_data *own[CONVERGE_NODES_MAX];
    c.method = CONVERGE_SYNC;
    c.start = CONVERGE_SHARED;
    cr_assert_eq(swarm_open(&swarm, &c, why), 0, "%s", why);
    for (size_t i = 0; i < c.nodes; i++)
        own[i] = swarm.nodes[i].data;
    for (size_t i = 1; i < c.nodes; i++)
        swarm.nodes[i].data = own[0]; /* one stream: the order of windows is that of one node */
    options.model = c.model;
    options.batch = c.nodes * c.batch;
    swarm_weights_seed(&c, SIZE_MAX, options.seed);
    cr_assert_eq(trainer_create_builtin(&options, own[0], &swarm.heap, &trainer), 0);

    size_t floats = swarm.layout.arena_floats;
    struct sync_state state = {.params = allocator_get(&swarm.heap, floats, sizeof(float)),
                               .first = allocator_get(&swarm.heap, floats, sizeof(float)),
                               .second = allocator_get(&swarm.heap, floats, sizeof(float))};
    trainer_snapshot(&trainer, state.params);
    cr_assert_eq(sync_run(&swarm, &state, 1e-3F, 0, 8), 0);
    train_data_reseed(own[0], 0);
    for (uint32_t step = 0; step < 8; step++) {
        struct trainer_report report;
        cr_assert_eq(trainer_step(&trainer, swarm_rate(&c, 1e-3F, step), &report), 0);
    }
    /* Sums in another order: a few units in the last place of each gradient, eight steps of at most 1e-3. */
    for (size_t i = 0; i < floats; i++)
        cr_assert_float_eq(state.params[i], trainer_params(&trainer)[i], 2e-5, "value %zu: %g, not %g", i,
                           (double)state.params[i], (double)trainer_params(&trainer)[i]);
    trainer_destroy(&trainer);
    allocator_release(&swarm.heap, state.params);
    allocator_release(&swarm.heap, state.first);
    allocator_release(&swarm.heap, state.second);
    for (size_t i = 0; i < c.nodes; i++)
        swarm.nodes[i].data = own[i];
    swarm_close(&swarm);
}

static void finish_from_different_weights(uint32_t nodes)
{
    config = tiny();
    config.nodes = nodes;
    config.method = CONVERGE_ISOLATED;
    config.start = CONVERGE_DIFFERENT;
    result = (struct converge_result){0};
    cr_assert_eq(swarm_open(&swarm, &config, why), 0, "%s", why);
    rounds_run(&swarm, &result);
    measure_final(&swarm, &result);
    cr_assert_gt(result.spread, 0.1);
}

/* Eight nodes with nothing in common: log2 8 rounds of pairs leave each with the mean of all. */
Test(converge, finish_of_a_power_of_two_is_the_mean)
{
    finish_from_different_weights(8);
    size_t floats = swarm.layout.arena_floats;
    float *mean = allocator_get(&swarm.heap, floats, sizeof(float));
    memcpy(mean, swarm.mean, floats * sizeof(float));
    rounds_finish(&swarm, &result);
    cr_expect_eq(result.finish_rounds, 3);
    for (size_t n = 0; n < 8; n++)
        for (size_t i = 0; i < floats; i++)
            cr_assert_float_eq(swarm_params(&swarm.nodes[n])[i], mean[i], 1e-6);
    allocator_release(&swarm.heap, mean);
    swarm_close(&swarm);
}

/* Six: no exact order exists; the spread must still go below a thousandth, and the mean stay. */
Test(converge, finish_of_six_comes_close)
{
    finish_from_different_weights(6);
    size_t floats = swarm.layout.arena_floats;
    float *mean = allocator_get(&swarm.heap, floats, sizeof(float));
    memcpy(mean, swarm.mean, floats * sizeof(float));
    rounds_finish(&swarm, &result);
    cr_expect_lt(result.spread_finish, 1e-3 * result.spread);
    for (size_t i = 0; i < floats; i++)
        cr_assert_float_eq(swarm.mean[i], mean[i], 1e-6);
    allocator_release(&swarm.heap, mean);
    swarm_close(&swarm);
}

/* Each disturbance leaves its mark in the counts. */
Test(converge, disturbances_happen)
{
    struct converge_config c = tiny();
    c.disturb.fail = 1;
    run(&c);
    cr_expect_eq(result.merges, 0);
    cr_expect_eq(result.solos, 6 * 4);
    cr_expect_eq(result.bytes_per_node, 0);
    c.disturb = (struct converge_disturbance){.one_sided = 1, .straggler = 1};
    run(&c);
    cr_expect_eq(result.merges, 6 * 2);
    cr_expect_eq(result.solos, 6 * 2);
    c.disturb = (struct converge_disturbance){.straggler = 4};
    run(&c);
    cr_expect_eq(result.tokens, (3 * 12 + 3) * 2 * 16);
    c.disturb = (struct converge_disturbance){.straggler = 1, .join = 0.5};
    run(&c);
    cr_expect_eq(result.tokens, (3 * 12 + 6) * 2 * 16);
    c.disturb = (struct converge_disturbance){.straggler = 1, .kill = 1};
    run(&c);
    cr_expect_lt(result.tokens, 4 * 12 * 2 * 16);
    cr_expect(isfinite(result.ppl_mean));
}

/* Two halves that do not see each other are paired inside only, and across again afterwards. */
Test(converge, partition_keeps_halves_apart)
{
    struct converge_config c = tiny();
    size_t across[3] = {0}, partner[CONVERGE_NODES_MAX];
    c.nodes = 8;
    c.disturb.partition = true;
    for (int order = 0; order < CONVERGE_ORDERS; order++) {
        c.order = (enum converge_order)order;
        cr_assert_eq(swarm_open(&swarm, &c, why), 0, "%s", why);
        for (uint32_t third = 0; third < 3; third++) {
            swarm.step = third * 4 + 1;
            for (uint64_t round = 0; round < 20; round++) {
                pairs_choose(&swarm, round, 2, partner);
                for (size_t i = 0; i < 4; i++)
                    across[third] += partner[i] >= 4;
                for (size_t i = 0; i < 8; i++)
                    cr_assert_neq(partner[i], i, "round %d: nobody of an even number is alone", (int)round);
            }
        }
        swarm_close(&swarm);
    }
    cr_expect_gt(across[0], 0);
    cr_expect_eq(across[1], 0);
    cr_expect_gt(across[2], 0);
}

/* One hostile node in four: averages of whatever comes are wrecked, the gates hold, whatever it sends. */
Test(converge, gates_hold_where_plain_averages_break)
{
    struct converge_config quiet = tiny();
    run(&quiet);
    double calm = result.ppl_mean;
    for (int attack = CONVERGE_FLIP; attack < CONVERGE_ATTACKS; attack++) {
        struct converge_config c = tiny();
        c.attack = (enum converge_attack)attack;
        c.strength = attack == CONVERGE_SCALE ? 100 : 1;
        run(&c);
        const char *name = converge_attack_name(attack);
        cr_expect(isfinite(result.ppl_mean), "%s", name);
        if (attack != CONVERGE_SCALE && attack != CONVERGE_NAN)
            continue;
        cr_expect_gt(result.refused, 0, "%s", name);
        cr_expect_lt(result.ppl_mean, 1.05 * calm, "%s: %g", name, result.ppl_mean);
        c.method = CONVERGE_PAIR;
        c.gates = false;
        run(&c);
        cr_expect(!(result.ppl_mean < 1.5 * calm), "%s: plain averages gave %g", name, result.ppl_mean);
    }
}

/* What a private batch refuses is not taken: noise that no other gate looks at yet is found by its loss.
 * Without an attack nobody is refused, and what is tried leaves no trace: the same bits as without trials. */
Test(converge, a_private_batch_decides)
{
    struct converge_config c = tiny();
    run(&c);
    double calm = result.ppl_mean, merged = result.ppl_merged;
    c.loss_test = true;
    run(&c);
    cr_expect_eq(result.failed_trials, 0);
    cr_expect_gt(result.merges, 0);
    cr_expect(result.ppl_mean == calm && result.ppl_merged == merged, "%.9g after %.9g", result.ppl_mean,
              calm);
    c.attack = CONVERGE_NOISE;
    c.strength = 3;
    c.start = CONVERGE_DIFFERENT; /* no rule at the start, no past: the test stands alone */
    run(&c);
    cr_expect_gt(result.failed_trials, 0);
    cr_expect_leq(result.failed_trials, result.refused);
    c.gates = false;
    c.method = CONVERGE_PAIR;
    cr_expect_eq(converge_config_check(&c, why), ERR_INVALID);
}

/* Different starts: corrections are counted and are off where nothing asks for them; the curve is there. */
Test(converge, starts_and_corrections)
{
    struct converge_config c = tiny();
    c.method = CONVERGE_PAIR;
    c.start = CONVERGE_DIFFERENT;
    c.curve = 1;
    c.thresholds[0] = 100;
    c.thresholds[1] = 1e-3;
    run(&c);
    cr_expect_eq(result.corrected, 0);
    cr_expect_eq(result.curve_count, 3);
    cr_expect_eq(result.crossing[0], 1);
    cr_expect_eq(result.crossing[1], -1);
    c.correction = CONVERGE_GATED;
    run(&c);
    cr_expect_gt(result.corrected, 0);
    uint64_t gated = result.corrected;
    c.correction = CONVERGE_ALWAYS;
    run(&c);
    cr_expect_geq(result.corrected, gated);
    c.start = CONVERGE_SHARED;
    c.correction = CONVERGE_GATED;
    run(&c);
    cr_expect_eq(result.corrected, 0, "trained from one start, models are correlated");
    c.start = CONVERGE_SCALED;
    run(&c);
    cr_expect(isfinite(result.ppl_mean));
}

/* A checkpoint that is read gives the figures of one that is made; another model's or a cut one is refused.
 */
Test(converge, checkpoint_is_kept_and_checked)
{
    struct converge_config c = tiny();
    run(&c);
    double made = result.ppl_mean;
    c.warm = checkpoint;
    run(&c);
    run(&c);
    cr_expect_eq(result.ppl_mean, made);
    c.warm_steps = 7;
    cr_expect_eq(converge_run(&c, &result, why), ERR_MISMATCH);
    cr_expect(strstr(why, checkpoint) != NULL, "%s", why);
    c.warm_steps = 6;
    cr_assert_eq(truncate(checkpoint, 1000), 0);
    cr_expect_eq(converge_run(&c, &result, why), ERR_MISMATCH);
}

/* The second model goes through the same rounds: an MLP on rows, from different weights, learns. */
Test(converge, rows_and_mlp)
{
    struct converge_config c = tiny();
    const uint32_t sizes[3] = {3, 8, 2};
    FILE *out = fopen(text, "w");
    cr_assert_not_null(out);
    for (int i = 0; i < 400; i++)
        fprintf(out, "%d,%d,%d,%d\n", i % 7, i % 5, i % 3, i % 7 > 3);
    cr_assert_eq(fclose(out), 0);
    c.model = train_model_config_mlp(3, sizes);
    c.model.input_max = 6;
    c.rows = text;
    c.method = CONVERGE_PAIR;
    c.start = CONVERGE_DIFFERENT;
    c.correction = CONVERGE_GATED;
    c.batch = 8;
    c.rate = 0.01F;
    c.steps = 200;
    run(&c);
    cr_expect_gt(result.accuracy, 0.9);
    cr_expect_gt(result.corrected, 0);
    c.sgd = true;
    c.rate = 0.3F;
    c.threads = 2;
    run(&c);
    cr_expect_gt(result.accuracy, 0.9);
    c.start = CONVERGE_WARM;
    cr_expect_eq(converge_config_check(&c, why), ERR_INVALID);
}

/* Settings that make no sense are refused with a reason, and so is text that is not there. */
Test(converge, bad_settings_are_refused)
{
    struct converge_config good = tiny(), bad[12];
    cr_assert_eq(converge_config_check(&good, why), 0);
    for (size_t i = 0; i < 12; i++)
        bad[i] = good;
    bad[0].nodes = 0;
    bad[1].nodes = CONVERGE_NODES_MAX + 1;
    bad[2].fragments = 3;
    bad[3].h = 13;
    bad[4].text = NULL;
    bad[5].disturb.late = 4;
    bad[6].disturb.fail = NAN;
    bad[7].disturb.shards = true;
    bad[8].method = CONVERGE_DILOCO;
    bad[8].disturb.fail = 0.1;
    bad[9].gates = false;
    bad[10].rate = INFINITY;
    bad[11].model.width = 17;
    for (size_t i = 0; i < 12; i++) {
        why[0] = '\0';
        cr_expect_eq(converge_config_check(&bad[i], why), ERR_INVALID, "config %zu", i);
        cr_expect(why[0] != '\0');
    }
    good.held = "/does/not/exist";
    cr_expect_lt(converge_run(&good, &result, why), 0);
    cr_expect(strstr(why, good.held) != NULL, "%s", why);
    good.held = held;
    good.text = "/does/not/exist";
    cr_expect_lt(converge_run(&good, &result, why), 0);
    cr_expect(why[0] != '\0');
}
