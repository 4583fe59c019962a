/* The genesis config: what one node writes, every other reads alike; anything else is refused. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "gossip/tensor.h"
#include "node/run_config.h"

Test(run_config, round_trip)
{
    struct run_config config;
    struct run_config back;
    uint8_t bytes[RUN_CONFIG_BYTES_MAX];
    run_config_default(&config);
    memset(config.seed, 0xab, sizeof config.seed);
    int len = run_config_encode(&config, bytes, sizeof bytes);
    cr_assert_gt(len, 0);
    cr_assert_eq(run_config_decode(bytes_of(bytes, (size_t)len), &back), ERR_OK);
    cr_assert_eq(back.width, config.width);
    cr_assert_eq(back.round_ms, config.round_ms);
    cr_assert_eq(back.lr, config.lr);
    cr_assert_eq(memcmp(back.seed, config.seed, sizeof back.seed), 0);
}

static struct run_config mlp_config(void)
{
    struct run_config config;
    run_config_default(&config);
    config.width = config.layers = config.heads = config.context = 0;
    config.model.kind = TRAIN_MLP;
    config.model.input_max = 16;
    cr_assert_eq(run_model_parse_sizes("64,64,32,10", &config.model), ERR_OK);
    (void)snprintf(config.model.label, sizeof config.model.label, "digit");
    return config;
}

/* Each comes back whole, and a config from before there were fragments has one. */
Test(run_config, an_mlp_is_told_apart)
{
    struct run_config text, mlp = mlp_config(), back;
    uint8_t bytes[RUN_CONFIG_BYTES_MAX];
    run_config_default(&text);
    int len = run_config_encode(&text, bytes, sizeof bytes);
    cr_assert(len > 0 && bytes[0] == 0x8f && bytes[2] == RUN_CONFIG_VERSION);
    cr_assert_eq(run_config_decode(bytes_of(bytes, (size_t)len), &back), ERR_OK);
    cr_assert_eq(back.fragments, text.fragments);
    cr_assert_eq(back.codec, RUN_CODEC_AUTO);
    bytes[0] = 0x8e; /* the last pair, that of the fragments, takes two bytes */
    bytes[2] = 1;
    cr_assert_eq(run_config_decode(bytes_of(bytes, (size_t)len - 2), &back), ERR_OK);
    cr_assert_eq(back.fragments, 1);
    len = run_config_encode(&mlp, bytes, sizeof bytes);
    cr_assert(len > 0 && bytes[4] == RUN_CONFIG_VERSION); /* the map has more than 15 pairs */
    cr_assert_eq(run_config_decode(bytes_of(bytes, (size_t)len), &back), ERR_OK);
    cr_assert_eq(memcmp(&back.model, &mlp.model, sizeof mlp.model), 0);
    struct train_model_config model = run_model_config(&back);
    cr_assert(model.kind == TRAIN_MLP && model.sizes[3] == 10 && model.input_max == 16);
    for (int cut = 0; cut < len; cut++)
        cr_assert_lt(run_config_decode(bytes_of(bytes, (size_t)cut), &back), 0, "cut at %d", cut);
}

/* Written only when true: a config without it keeps the bytes, and the run id, that it had. */
Test(run_config, strangers_are_a_pair_of_their_own)
{
    for (int kind = 0; kind < 2; kind++) {
        struct run_config config = mlp_config(), back;
        uint8_t bytes[RUN_CONFIG_BYTES_MAX];
        if (kind == 0)
            run_config_default(&config);
        cr_assert_not(config.strangers);
        int without = run_config_encode(&config, bytes, sizeof bytes);
        cr_assert_gt(without, 0);
        cr_assert_eq(run_config_decode(bytes_of(bytes, (size_t)without), &back), ERR_OK);
        cr_assert_not(back.strangers);
        config.strangers = true;
        int len = run_config_encode(&config, bytes, sizeof bytes);
        /* A map of 16 pairs has a longer head than one of 15. */
        cr_assert_eq(len, without + 2 + (kind == 0 ? 2 : 0));
        cr_assert_eq(run_config_decode(bytes_of(bytes, (size_t)len), &back), ERR_OK);
        cr_assert(back.strangers && back.fragments == config.fragments);
        cr_assert_eq(memcmp(&back.model, &config.model, sizeof back.model), 0);
        for (int cut = 0; cut < len; cut++)
            cr_assert_lt(run_config_decode(bytes_of(bytes, (size_t)cut), &back), 0, "cut at %d", cut);
    }
}

/* Likewise the loss test, and the two exclude each other. */
Test(run_config, the_loss_test_is_a_pair_of_its_own)
{
    struct run_config config, back;
    const char *why = "";
    uint8_t bytes[RUN_CONFIG_BYTES_MAX];
    run_config_default(&config);
    int without = run_config_encode(&config, bytes, sizeof bytes);
    cr_assert_gt(without, 0);
    cr_assert_eq(run_config_decode(bytes_of(bytes, (size_t)without), &back), ERR_OK);
    cr_assert_not(back.loss_test);
    config.loss_test = true;
    int len = run_config_encode(&config, bytes, sizeof bytes);
    cr_assert_eq(len, without + 2 + 2);
    cr_assert_eq(run_config_decode(bytes_of(bytes, (size_t)len), &back), ERR_OK);
    cr_assert(back.loss_test && !back.strangers);
    for (int cut = 0; cut < len; cut++)
        cr_assert_lt(run_config_decode(bytes_of(bytes, (size_t)cut), &back), 0, "cut at %d", cut);
    config.strangers = true;
    cr_assert_eq(run_config_check(&config, &why), ERR_INVALID);
    cr_assert(strstr(why, "exclude") != NULL, "%s", why);
    len = run_config_encode(&config, bytes, sizeof bytes);
    cr_assert_eq(run_config_decode(bytes_of(bytes, (size_t)len), &back), ERR_MALFORMED);
}

/* Outer steps that the stability table (gossip/merge/outer.h) calls unstable with pairs are refused. */
Test(run_config, the_outer_step_must_contract)
{
    struct run_config config;
    const char *why = "";
    run_config_default(&config);
    config.alpha = 0.6;
    config.beta = config.gamma = 0.9;
    cr_assert_eq(run_config_check(&config, &why), ERR_OK, "%s", why);
    config.beta = config.gamma = 0.95;
    cr_assert_eq(run_config_check(&config, &why), ERR_INVALID);
    cr_assert_gt(strlen(why), 0);
    config.alpha = 0;
    config.beta = config.gamma = 1;
    cr_assert_eq(run_config_check(&config, &why), ERR_OK, "%s", why);
}

Test(run_config, impossible_mlps_are_refused)
{
    const char *why = NULL;
    uint8_t bytes[RUN_CONFIG_BYTES_MAX];
    for (int i = 0; i < 7; i++) {
        struct run_config c = mlp_config(), back;
        switch (i) {
        case 0:
            c.width = 64; /* of both kinds */
            break;
        case 1:
            c.model.sizes[2] = 0;
            break;
        case 2:
            c.model.size_count = 1;
            break;
        case 3:
            c.model.input_max = (double)NAN;
            break;
        case 4:
            c.model.input_max = -1;
            break;
        case 5:
            c.model.kind = 7;
            break;
        default:
            c.model.sizes[3] = 1;
        }
        cr_assert_eq(run_config_check(&c, &why), ERR_INVALID, "case %d", i);
        cr_assert_neq(why[0], '\0');
        int len = run_config_encode(&c, bytes, sizeof bytes);
        cr_assert_gt(len, 0);
        cr_assert_eq(run_config_decode(bytes_of(bytes, (size_t)len), &back), ERR_MALFORMED, "case %d", i);
    }
}

Test(run_config, sizes_are_a_list_of_numbers)
{
    static const char *const wrong[] = {
        "",     "64",    "64,",    ",64",      "64,,10",
        "64,x", "64,-1", "64 ,10", "64,20000", "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2"};
    struct run_model model = {.size_count = 9};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        cr_assert_eq(run_model_parse_sizes(wrong[i], &model), ERR_INVALID, "%s", wrong[i]);
    cr_assert_eq(model.size_count, 9);
    cr_assert_eq(run_model_parse_sizes("3,2", &model), ERR_OK);
    cr_assert(model.size_count == 2 && model.sizes[0] == 3 && model.sizes[1] == 2);
}

Test(run_config, every_truncation_is_refused)
{
    struct run_config config;
    struct run_config back;
    uint8_t bytes[RUN_CONFIG_BYTES_MAX];
    run_config_default(&config);
    int len = run_config_encode(&config, bytes, sizeof bytes);
    for (int cut = 0; cut < len; cut++)
        cr_assert_lt(run_config_decode(bytes_of(bytes, (size_t)cut), &back), 0, "cut at %d", cut);
}

Test(run_config, impossible_values_are_refused)
{
    /* What must hold: each rule bites, alone. */
    struct run_config base;
    const char *why = NULL;
    run_config_default(&base);
    cr_assert_eq(run_config_check(&base, &why), ERR_OK);
    struct run_config c = base;
    c.alpha = 0.61;
    cr_assert_eq(run_config_check(&c, &why), ERR_INVALID);
    cr_assert_not_null(strstr(why, "alpha"));
    c = base;
    c.lr = (double)NAN;
    cr_assert_eq(run_config_check(&c, &why), ERR_INVALID);
    c = base;
    c.heads = 7;
    cr_assert_eq(run_config_check(&c, &why), ERR_INVALID);
    c = base;
    c.heads = 0;
    cr_assert_eq(run_config_check(&c, &why), ERR_INVALID);
    c = base;
    c.round_ms = 10;
    cr_assert_eq(run_config_check(&c, &why), ERR_INVALID);
    c = base;
    c.codec = GOSSIP_CODEC_COUNT;
    cr_assert_eq(run_config_check(&c, &why), ERR_INVALID);
}
