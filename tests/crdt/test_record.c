#include "fixture.h"

/* What is signed is decoded to the same fields and verifies; nothing else does: every truncation is refused,
 * every flipped bit is refused or fails the signature. */
Test(record, round_trip_truncations_and_flips)
{
    struct pair p;
    struct id run = run_of(1);
    uint8_t bytes[CRDT_RECORD_MAX];
    struct crdt_record r;
    pair_make(&p, 1);
    size_t len = record_make(&p, &run, 7, 42, bytes_of_text("value"), HOUR, bytes);
    cr_assert_eq(len, CRDT_RECORD_MIN + 5);
    cr_assert_eq(crdt_record_decode(bytes_of(bytes, len), &r), ERR_OK);
    cr_assert_eq(crdt_record_verify(bytes_of(bytes, len), &p.keys), ERR_OK);
    cr_assert(id_equal(&r.key.run, &run) && id_equal(&r.key.author, &p.keys.self));
    cr_assert_eq(r.key.slot, 7);
    cr_assert_eq(r.seq, 42);
    cr_assert_eq(r.issued_ms, WALL);
    cr_assert_eq(r.expires_ms, WALL + HOUR);
    cr_assert(bytes_equal(r.value, bytes_of_text("value")));
    for (size_t cut = 0; cut < len; cut++)
        cr_assert_lt(crdt_record_decode(bytes_of(bytes, cut), &r), 0, "cut to %zu", cut);
    bytes[len] = 0;
    cr_assert_eq(crdt_record_decode(bytes_of(bytes, len + 1), &r), ERR_MALFORMED);
    for (size_t bit = 0; bit < 8 * len; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        cr_assert(crdt_record_decode(bytes_of(bytes, len), &r) < 0 ||
                      crdt_record_verify(bytes_of(bytes, len), &p.keys) == ERR_AUTH,
                  "bit %zu", bit);
        bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
}

/* Limits at, below and above. */
Test(record, limits)
{
    struct pair p;
    static uint8_t big[CRDT_VALUE_MAX + 1];
    uint8_t out[CRDT_RECORD_MAX];
    pair_make(&p, 1);
    struct crdt_record r = {.key = {.run = run_of(1), .author = p.keys.self},
                            .seq = 1,
                            .issued_ms = WALL,
                            .expires_ms = WALL + CRDT_LIFE_MAX_MS,
                            .value = bytes_of(big, CRDT_VALUE_MAX)};
    int len = crdt_record_sign(&r, &p.keys, out, sizeof out);
    cr_assert_eq(len, CRDT_RECORD_MAX);
    struct crdt_record back;
    cr_assert_eq(crdt_record_decode(bytes_of(out, (size_t)len), &back), ERR_OK);
    cr_assert_eq(crdt_record_sign(&r, &p.keys, out, (size_t)len - 1), ERR_TOO_LARGE);
    r.value.len++;
    cr_assert_eq(crdt_record_sign(&r, &p.keys, out, sizeof out), ERR_TOO_LARGE);
    r.value.len = 0;
    r.expires_ms++;
    cr_assert_eq(crdt_record_sign(&r, &p.keys, out, sizeof out), ERR_INVALID, "lives too long");
    r.expires_ms = r.issued_ms;
    cr_assert_eq(crdt_record_sign(&r, &p.keys, out, sizeof out), ERR_INVALID, "never lives");
    r.expires_ms++;
    r.seq = 0;
    cr_assert_eq(crdt_record_sign(&r, &p.keys, out, sizeof out), ERR_INVALID);
    r.issued_ms = WALL;
    r.expires_ms = WALL + 1;
    cr_assert_eq(crdt_record_check_time(&r, WALL), ERR_OK);
    cr_assert_eq(crdt_record_check_time(&r, WALL + 1), ERR_EXPIRED);
    cr_assert_eq(crdt_record_check_time(&r, WALL - CRDT_CLOCK_SKEW_MS), ERR_OK);
    cr_assert_eq(crdt_record_check_time(&r, WALL - CRDT_CLOCK_SKEW_MS - 1), ERR_CLOCK);
}

/* The hash ignores the signature, so that signing twice is no equivocation; the order of versions is total.
 */
Test(record, hash_and_order)
{
    struct pair p;
    struct id run = run_of(1);
    uint8_t bytes[CRDT_RECORD_MAX];
    struct id a;
    struct id b;
    pair_make(&p, 1);
    size_t len = record_make(&p, &run, 1, 1, bytes_of_text("a"), HOUR, bytes);
    crdt_record_hash(bytes_of(bytes, len), &a);
    bytes[len - 1] ^= 1;
    crdt_record_hash(bytes_of(bytes, len), &b);
    cr_assert(id_equal(&a, &b));
    bytes[CRDT_RECORD_HEAD_BYTES] ^= 1;
    crdt_record_hash(bytes_of(bytes, len), &b);
    cr_assert(!id_equal(&a, &b));
    cr_assert_eq(crdt_version_compare(1, &a, 1, &a), 0);
    cr_assert_lt(crdt_version_compare(1, &a, 2, &a), 0);
    cr_assert_gt(crdt_version_compare(2, &a, 1, &b), 0);
    cr_assert_eq(crdt_version_compare(1, &a, 1, &b) < 0, crdt_version_compare(1, &b, 1, &a) > 0);
}
