/* The meter's hash is that of all bytes however they were cut, and its pauses are the longest ones. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/hash.h"
#include "base/rng.h"
#include "node/speed_meter.h"

#define MS_NS UINT64_C(1000000)

static struct speed_meter meter;

static void add_at(uint64_t ms)
{
    speed_meter_add(&meter, ms * MS_NS, bytes_of_text("x"));
}

Test(speed_meter, hash_does_not_depend_on_pieces)
{
    static uint8_t data[5000];
    struct rng_seeded stream;
    rng_seeded_init(&stream, 3);
    struct rng rng = rng_of_seeded(&stream);
    rng_fill(&rng, data, sizeof data);
    struct id whole;
    struct id pieces;
    hash_content(bytes_of(data, sizeof data), &whole);
    speed_meter_init(&meter);
    for (size_t at = 0; at < sizeof data;) {
        size_t len = 1 + (size_t)rng_below(&rng, 700);
        len = len < sizeof data - at ? len : sizeof data - at;
        speed_meter_add(&meter, 1 + at, bytes_of(data + at, len));
        speed_meter_hash(&meter, &pieces); /* asking in between changes nothing */
        at += len;
    }
    cr_assert_eq(meter.bytes, sizeof data);
    cr_assert(id_equal(&whole, &pieces));
}

Test(speed_meter, pauses_count_from_the_first_byte)
{
    speed_meter_init(&meter);
    cr_assert_eq(speed_meter_longest_ms(&meter), 0);
    add_at(5000);
    add_at(5010);
    add_at(5310);
    add_at(5315);
    cr_assert_eq(speed_meter_longest_ms(&meter), 300);
    cr_assert_eq(meter.gaps[0].at_ms, 10);
    cr_assert_eq(meter.gap_count, 3);
    cr_assert_eq(meter.gaps[1].ms, 10);
    cr_assert_eq(meter.gaps[2].ms, 5);
}

/* Bytes of one moment, or a fraction of a millisecond apart, are no pause. */
Test(speed_meter, what_comes_together_is_no_pause)
{
    speed_meter_init(&meter);
    add_at(7);
    add_at(7);
    speed_meter_add(&meter, 7 * MS_NS + MS_NS - 1, bytes_of_text("x"));
    cr_assert_eq(meter.gap_count, 0);
    cr_assert_eq(meter.bytes, 3);
}

/* Against a plain sort of all pauses: the table holds the longest, longest first. */
Test(speed_meter, keeps_the_longest)
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, 9);
    struct rng rng = rng_of_seeded(&stream);
    for (int round = 0; round < 200; round++) {
        uint32_t all[40];
        uint64_t now_ms = 1;
        speed_meter_init(&meter);
        add_at(now_ms);
        for (size_t i = 0; i < 40; i++) {
            all[i] = 1 + (uint32_t)rng_below(&rng, 60);
            now_ms += all[i];
            add_at(now_ms);
        }
        for (size_t kept = 0; kept < SPEED_GAPS_MAX; kept++) {
            size_t longest = 0;
            for (size_t i = 1; i < 40; i++)
                longest = all[i] > all[longest] ? i : longest;
            cr_assert_eq(meter.gaps[kept].ms, all[longest]);
            all[longest] = 0;
        }
        cr_assert_eq(meter.gap_count, SPEED_GAPS_MAX);
    }
}
