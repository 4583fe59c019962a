/* The token bucket never lets more pass than rate * time + burst, whatever the pattern of calls, and the
 * times it names are neither early nor late. */
#include <criterion/criterion.h>

#include "base/rng.h"
#include "net/shaper.h"

#define SECOND UINT64_C(1000000000)

Test(shaper, unlimited_lets_everything_pass)
{
    struct shaper s;
    shaper_init(&s, 5, 0, 0);
    shaper_charge(&s, 5, SIZE_MAX);
    cr_assert_eq(shaper_available(&s, 5), SIZE_MAX);
    cr_assert_eq(shaper_available_control(&s, 5), SIZE_MAX);
    cr_assert_eq(shaper_ready_ns(&s, 5, 1 << 20), 5);
}

Test(shaper, burst_then_rate)
{
    struct shaper s;
    shaper_init(&s, 0, 100000, 20000);
    cr_assert_eq(shaper_available(&s, 0), 20000);
    shaper_charge(&s, 0, 20000);
    cr_assert_eq(shaper_available(&s, 0), 0);
    cr_assert_eq(shaper_ready_ns(&s, 0, 1000), SECOND / 100);
    cr_assert_eq(shaper_available(&s, SECOND / 100), 1000);
    cr_assert_eq(shaper_available(&s, 10 * SECOND), 20000);
    /* More than the burst can never be there: the burst is what one may wait for. */
    shaper_charge(&s, 10 * SECOND, 20000);
    cr_assert_eq(shaper_ready_ns(&s, 10 * SECOND, 1 << 30), 10 * SECOND + SECOND / 5);
}

Test(shaper, control_overdraws_and_pays_back)
{
    struct shaper s;
    shaper_init(&s, 0, 100000, 20000);
    shaper_charge(&s, 0, 20000);
    cr_assert_eq(shaper_available(&s, 0), 0);
    cr_assert_eq(shaper_available_control(&s, 0), SHAPER_OVERDRAW);
    shaper_charge(&s, 0, SHAPER_OVERDRAW);
    cr_assert_eq(shaper_available_control(&s, 0), 0);
    uint64_t ready = shaper_ready_control_ns(&s, 0);
    cr_assert(ready > 0 && ready < SECOND / 1000);
    cr_assert_gt(shaper_available_control(&s, ready), 0);
    /* 32768 bytes of debt before ordinary traffic goes on. */
    cr_assert_eq(shaper_available(&s, SECOND * 32 / 100), 0);
    cr_assert_gt(shaper_available(&s, SECOND * 34 / 100), 0);
}

Test(shaper, the_rate_changes_live)
{
    struct shaper s;
    shaper_init(&s, 0, 100000, 0);
    shaper_charge(&s, 0, s.burst_bytes);
    shaper_set_rate(&s, 0, 1000000, 0);
    cr_assert_eq(s.burst_bytes, 50000);
    cr_assert_eq(shaper_available(&s, SECOND / 100), 10000);
    shaper_set_rate(&s, SECOND, 10, 0);
    cr_assert_leq(shaper_available(&s, SECOND), SHAPER_BURST_MIN);
    shaper_set_rate(&s, SECOND, 0, 0);
    cr_assert_eq(shaper_available(&s, SECOND), SIZE_MAX);
}

Test(shaper, slow_rates_lose_no_fractions)
{
    struct shaper s;
    shaper_init(&s, 0, 1, 0);
    shaper_charge(&s, 0, s.burst_bytes + 10);
    for (uint64_t now = 0; now <= 15 * SECOND; now += 1000000)
        (void)shaper_available(&s, now);
    cr_assert_eq(shaper_available(&s, 15 * SECOND), 5);
}

/* Random charges and pauses against the definition. */
Test(shaper, never_above_rate_times_time_plus_burst)
{
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct rng_seeded stream;
        rng_seeded_init(&stream, seed);
        struct rng rng = rng_of_seeded(&stream);
        uint64_t rate = 1 + rng_below(&rng, seed % 2 == 0 ? 5000 : 500000000);
        uint64_t now = rng_below(&rng, SECOND);
        uint64_t start = now;
        uint64_t sent = 0;
        struct shaper s;
        shaper_init(&s, now, rate, 0);
        for (int i = 0; i < 2000; i++) {
            size_t available = shaper_available(&s, now);
            if (available > 0) {
                size_t len = 1 + (size_t)rng_below(&rng, available);
                shaper_charge(&s, now, len);
                sent += len;
            }
            size_t wanted = 1 + (size_t)rng_below(&rng, 100000);
            uint64_t ready = shaper_ready_ns(&s, now, wanted);
            size_t expected = wanted < s.burst_bytes ? wanted : (size_t)s.burst_bytes;
            if (ready > now) {
                struct shaper early = s;
                cr_assert_lt(shaper_available(&early, ready - 1 - (ready - now) / 1000000), expected + 1);
                struct shaper due = s;
                cr_assert_geq(shaper_available(&due, ready), expected);
            }
            now = rng_below(&rng, 2) == 0 ? ready : now + rng_below(&rng, SECOND / 10);
        }
        double allowed = (double)rate * (double)(now - start) / 1e9 + (double)s.burst_bytes + 1;
        cr_assert_leq((double)sent, allowed * 1.000001);
    }
}

Test(shaper, extreme_values_do_not_overflow)
{
    struct shaper s;
    shaper_init(&s, 0, UINT64_MAX, UINT64_MAX);
    cr_assert_eq(s.rate_bytes, SHAPER_RATE_MAX);
    shaper_charge(&s, 0, SIZE_MAX);
    shaper_charge(&s, 0, SIZE_MAX);
    cr_assert_eq(shaper_available(&s, 1), 0);
    cr_assert_gt(shaper_ready_ns(&s, 1, 1), 1);
    cr_assert_gt(shaper_available(&s, UINT64_MAX / 2), 0);
    shaper_init(&s, 0, 1, 0);
    shaper_charge(&s, 0, SIZE_MAX);
    cr_assert_leq(shaper_ready_ns(&s, 0, 1), UINT64_MAX / 2);
}
