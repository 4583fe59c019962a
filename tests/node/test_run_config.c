/* The genesis config: what one node writes, every other reads alike; anything else is refused. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

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
    c.codec = 3;
    cr_assert_eq(run_config_check(&c, &why), ERR_INVALID);
}
