#include "fixture.h"

#include "crdt/lthash.h"

/* A frame holds what fits, and is decoded to the same items; truncations are refused. */
Test(batch, round_trip)
{
    struct pair p;
    struct id run = run_of(1);
    static uint8_t records[200][CRDT_RECORD_MAX];
    struct crdt_item items[200];
    struct crdt_item back[CRDT_BATCH_MAX];
    static uint8_t frame[CRDT_FRAME_MAX];
    static uint8_t value[CRDT_VALUE_MAX];
    size_t taken;
    fast_make(&p, 1);
    for (size_t i = 0; i < 200; i++) {
        size_t value_len = i < 100 ? i : CRDT_VALUE_MAX;
        size_t len = record_make(&p, &run, (uint16_t)i, 1, bytes_of(value, value_len), HOUR, records[i]);
        items[i] = (struct crdt_item){bytes_of(records[i], len), bytes_of(NULL, 0)};
    }
    items[3].other = items[4].record;
    size_t at = 0;
    size_t frames = 0;
    while (at < 200) {
        int len = crdt_batch_encode(items + at, 200 - at, frame, sizeof frame, &taken);
        cr_assert(len > 0 && len <= CRDT_FRAME_MAX && taken > 0 && taken <= CRDT_BATCH_MAX);
        cr_assert_eq(crdt_batch_decode(bytes_of(frame, (size_t)len), back), (int)taken);
        for (size_t i = 0; i < taken; i++) {
            cr_assert(bytes_equal(back[i].record, items[at + i].record));
            cr_assert(bytes_equal(back[i].other, items[at + i].other));
        }
        if (frames == 0) {
            for (int cut = 0; cut < len; cut++)
                cr_assert_lt(crdt_batch_decode(bytes_of(frame, (size_t)cut), back), 0);
        }
        at += taken;
        frames++;
    }
    cr_assert_geq(frames, 7, "100 records of 4 KiB need as many frames");
    cr_assert_eq(crdt_batch_encode(NULL, 0, frame, sizeof frame, &taken), 5);
    cr_assert_eq(crdt_batch_decode(bytes_of(frame, 5), back), 0);
    cr_assert_eq(crdt_batch_decode(bytes_of(frame, CRDT_FRAME_MAX + 1), back), ERR_TOO_LARGE);
}

/* The hash of a set depends on its elements, not on the order of additions and removals. */
Test(lthash, is_a_set_hash)
{
    struct rng_seeded stream;
    struct rng rng = test_rng(&stream, 2);
    struct id elements[50];
    struct crdt_lthash sum = {{0}};
    struct crdt_lthash other = {{0}};
    struct id a;
    struct id b;
    for (size_t i = 0; i < 50; i++) {
        rng_fill(&rng, elements[i].bytes, ID_BYTES);
        crdt_lthash_add(&sum, &elements[i]);
    }
    for (size_t i = 0; i < 10; i++)
        crdt_lthash_remove(&sum, &elements[5 * i]);
    for (size_t i = 50; i-- > 0;) {
        if (i % 5 != 0)
            crdt_lthash_add(&other, &elements[i]);
    }
    crdt_lthash_digest(&sum, 40, &a);
    crdt_lthash_digest(&other, 40, &b);
    cr_assert(id_equal(&a, &b));
    crdt_lthash_digest(&other, 39, &b);
    cr_assert(!id_equal(&a, &b));
    crdt_lthash_add(&other, &elements[0]);
    crdt_lthash_digest(&other, 40, &b);
    cr_assert(!id_equal(&a, &b));
}
