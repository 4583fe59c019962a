#include "fixture.h"

#include "crdt/sync.h"

static uint8_t frame[CRDT_FRAME_MAX];

/* What two sessions said to each other. */
struct talk {
    struct crdt_sync_result first;
    struct crdt_sync_result second;
    size_t largest;
    size_t frames;
};

/* Moves frames between two sessions until both are finished, in the order a pair of streams would: `lag`
 * frames are in flight before one is delivered. */
static void pump_side(struct crdt_sync *from, struct crdt_sync *to, struct crdt_replica *receiver,
                      struct talk *talk)
{
    size_t len = crdt_sync_poll_send(from, frame, sizeof frame);
    if (len == 0)
        return;
    talk->frames++;
    if (len > talk->largest)
        talk->largest = len;
    int rc = crdt_sync_recv(to, WALL, bytes_of(frame, len));
    if (rc == ERR_AGAIN) {
        drain(receiver);
        rc = crdt_sync_recv(to, WALL, bytes_of(frame, len));
    }
    cr_assert(rc == 0 || rc == ERR_REFUSED, "%s", err_name(rc));
    drain(receiver);
}

static bool finished(const struct crdt_sync *s)
{
    enum crdt_sync_state state = crdt_sync_result_get(s).state;
    return state == CRDT_SYNC_DONE || state == CRDT_SYNC_FAILED;
}

static struct talk repair(struct crdt_replica *a, struct crdt_replica *b, const struct id *run, uint64_t seed)
{
    struct allocator heap = allocator_system();
    struct rng_seeded stream;
    struct rng rng = test_rng(&stream, seed);
    struct crdt_sync *first;
    struct crdt_sync *second;
    struct talk talk = {.largest = 0};
    cr_assert_eq(crdt_sync_open(a, run, 1, &rng, &heap, &first), ERR_OK);
    cr_assert_eq(crdt_sync_accept(b, 2, &heap, &second), ERR_OK);
    for (int guard = 0; !finished(first) || !finished(second); guard++) {
        cr_assert_lt(guard, 100000, "the sessions do not end");
        /* an uneven mix of who speaks: nothing may depend on it */
        pump_side(first, second, b, &talk);
        if (rng_below(&rng, 3) != 0)
            pump_side(second, first, a, &talk);
    }
    talk.first = crdt_sync_result_get(first);
    talk.second = crdt_sync_result_get(second);
    crdt_sync_close(first);
    crdt_sync_close(second);
    return talk;
}

static void expect_equal(const struct crdt_replica *a, const struct crdt_replica *b, const struct id *run)
{
    struct id x;
    struct id y;
    size_t n;
    size_t m;
    cr_assert_eq(crdt_replica_digest(a, run, &x, &n), ERR_OK);
    cr_assert_eq(crdt_replica_digest(b, run, &y, &m), ERR_OK);
    cr_assert_eq(n, m);
    cr_assert(id_equal(&x, &y));
}

/* Gives both the same `count` records, then `differ` newer or new ones to one of the two each. */
static void fill(struct crdt_replica *a, struct crdt_replica *b, const struct id *run, size_t count,
                 size_t differ, bool update, const struct rng *rng)
{
    uint8_t bytes[CRDT_RECORD_MAX];
    uint8_t value[141] = {0}; /* encoded: 300 bytes */
    struct pair p;
    for (size_t i = 0; i < count + differ; i++) {
        size_t register_at = i < count ? i : update ? rng_below(rng, count) : i;
        fast_make(&p, 1 + register_at / 32);
        size_t len = record_make(&p, run, (uint16_t)(register_at % 32), i < count ? 1 : 2 + i,
                                 bytes_of(value, 141), HOUR, bytes);
        bool to_a = i < count || rng_below(rng, 2) == 0;
        if (to_a)
            cr_assert_eq(crdt_replica_apply(a, WALL, 9, bytes_of(bytes, len)), ERR_OK);
        if (i < count || !to_a)
            cr_assert_eq(crdt_replica_apply(b, WALL, 9, bytes_of(bytes, len)), ERR_OK);
        drain(a);
        drain(b);
    }
}

static struct talk repair_case(size_t count, size_t differ, bool update, uint64_t seed)
{
    struct pair me;
    struct allocator heap = allocator_system();
    struct rng_seeded stream;
    struct rng rng = test_rng(&stream, seed);
    struct id run = run_of(1);
    fast_make(&me, 1000000);
    struct crdt_replica *a = replica_make(&me, &heap);
    struct crdt_replica *b = replica_make(&me, &heap);
    cr_assert_eq(crdt_replica_add_run(a, &run), ERR_OK);
    cr_assert_eq(crdt_replica_add_run(b, &run), ERR_OK);
    fill(a, b, &run, count, differ, update, &rng);
    struct talk talk = repair(a, b, &run, seed + 1);
    cr_assert_eq(talk.first.state, CRDT_SYNC_DONE);
    cr_assert_eq(talk.second.state, CRDT_SYNC_DONE);
    cr_assert_leq(talk.largest, CRDT_FRAME_MAX);
    expect_equal(a, b, &run);
    crdt_replica_check_invariants(a);
    crdt_replica_check_invariants(b);
    crdt_replica_destroy(a);
    crdt_replica_destroy(b);
    return talk;
}

/* Two replicas are equal afterwards, whatever they held; nothing is sent that the other had. */
Test(sync, converges_for_many_sizes, .timeout = 100)
{
    static const size_t sizes[] = {0, 1, 2, 9, 40, 129, 300, 2000};
    static const size_t differences[] = {0, 1, 2, 10, 100};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (size_t j = 0; j < sizeof differences / sizeof differences[0]; j++) {
            for (int update = 0; update < 2; update++) {
                if (update && sizes[i] == 0)
                    continue;
                struct talk talk =
                    repair_case(sizes[i], differences[j], update, 100 * i + 10 * j + (uint64_t)update);
                uint64_t sent = talk.first.records_sent + talk.second.records_sent;
                cr_assert_leq(sent, differences[j]);
                cr_assert_eq(sent, talk.first.records_new + talk.second.records_new);
                if (!update)
                    cr_assert_eq(sent, differences[j]);
                cr_assert_eq(talk.first.records_refused + talk.second.records_refused, 0);
                if (differences[j] == 0)
                    cr_assert(talk.first.equal_at_once && talk.second.equal_at_once && talk.first.turns == 0);
            }
        }
    }
}

/* The published figure: 10,000 records with 100 differing are repaired within 64 KiB and five turns, the
 * hello and the 300-byte records included. */
Test(sync, ten_thousand_with_a_hundred, .timeout = 100)
{
    fixture_records = 16384;
    struct talk talk = repair_case(10000, 100, true, 5);
    cr_assert_leq(talk.first.bytes_sent + talk.second.bytes_sent, 65536);
    cr_assert_leq(talk.first.turns, 6);
}

/* When far more differs than a frame holds, ranges wait for later turns and none is forgotten; frames stay
 * within their limit.  One side has nothing, or the two have almost nothing in common. */
Test(sync, overflow, .timeout = 110)
{
    fixture_records = 32768;
    struct talk talk = repair_case(100, 20000, false, 6);
    cr_assert_gt(talk.first.turns, 6);
    talk = repair_case(4000, 6000, true, 7);
    cr_assert_eq(talk.first.records_refused, 0);
}

/* The proof against an equivocator reaches the other side, whose records of that author go; so does a pair
 * that is only complete when both meet. */
Test(sync, equivocation_spreads)
{
    struct pair me;
    struct pair liar;
    struct allocator heap = allocator_system();
    struct id run = run_of(1);
    struct id other_run = run_of(2);
    uint8_t x[CRDT_RECORD_MAX];
    uint8_t y[CRDT_RECORD_MAX];
    fast_make(&me, 1);
    fast_make(&liar, 2);
    struct crdt_replica *a = replica_make(&me, &heap);
    struct crdt_replica *b = replica_make(&me, &heap);
    struct crdt_replica *c = replica_make(&me, &heap);
    struct crdt_replica *all[] = {a, b, c};
    for (int i = 0; i < 3; i++)
        cr_assert_eq(crdt_replica_add_run(all[i], &run), ERR_OK);
    size_t len_x = record_make(&liar, &run, 1, 7, bytes_of_text("x"), HOUR, x);
    size_t len_y = record_make(&liar, &run, 1, 7, bytes_of_text("y"), HOUR, y);
    cr_assert_eq(crdt_replica_apply(a, WALL, 1, bytes_of(x, len_x)), ERR_OK);
    cr_assert_eq(crdt_replica_apply(b, WALL, 1, bytes_of(y, len_y)), ERR_OK);
    struct talk talk = repair(a, b, &run, 1);
    cr_assert_eq(talk.first.state, CRDT_SYNC_DONE);
    cr_assert_eq(crdt_replica_counts(a).proofs, 1);
    cr_assert_eq(crdt_replica_counts(b).proofs, 1);
    expect_equal(a, b, &run);
    size_t len = record_make(&liar, &run, 2, 1, bytes_of_text("another slot"), HOUR, x);
    cr_assert_eq(crdt_replica_apply(c, WALL, 1, bytes_of(x, len)), ERR_OK);
    talk = repair(c, a, &run, 2);
    cr_assert_eq(talk.first.state, CRDT_SYNC_DONE);
    cr_assert_eq(crdt_replica_counts(c).proofs, 1);
    cr_assert_eq(crdt_replica_counts(c).records, 0);
    expect_equal(a, c, &run);
    talk = repair(c, a, &run, 3);
    cr_assert(talk.first.equal_at_once);
    cr_assert_eq(crdt_replica_add_run(c, &other_run), ERR_OK);
    talk = repair(c, a, &other_run, 4);
    cr_assert_eq(talk.second.state, CRDT_SYNC_FAILED, "the peer does not hold that run");
    cr_assert_eq(talk.first.err, ERR_REFUSED);
    for (int i = 0; i < 3; i++)
        crdt_replica_destroy(all[i]);
}

/* Replicas change while a session runs: records expire, their places are reused by another run.  Nothing of
 * the other run is sent, and the session ends. */
Test(sync, changes_meanwhile)
{
    struct pair me;
    struct pair p;
    struct allocator heap = allocator_system();
    struct rng_seeded stream;
    struct rng rng = test_rng(&stream, 8);
    struct id run = run_of(1);
    struct id secret = run_of(2);
    uint8_t bytes[CRDT_RECORD_MAX];
    struct crdt_sync *first;
    struct crdt_sync *second;
    struct talk talk = {.largest = 0};
    fast_make(&me, 1);
    struct crdt_replica *a = replica_make(&me, &heap);
    struct crdt_replica *b = replica_make(&me, &heap);
    cr_assert_eq(crdt_replica_add_run(a, &run), ERR_OK);
    cr_assert_eq(crdt_replica_add_run(a, &secret), ERR_OK);
    cr_assert_eq(crdt_replica_add_run(b, &run), ERR_OK);
    cr_assert_eq(crdt_replica_add_run(b, &secret), ERR_OK);
    for (uint16_t i = 0; i < 60; i++) {
        fast_make(&p, 10 + i);
        size_t len = record_make(&p, &run, i, 1, bytes_of_text("x"), 1000 + i, bytes);
        cr_assert_eq(crdt_replica_apply(a, WALL, 1, bytes_of(bytes, len)), ERR_OK);
        drain(a);
    }
    cr_assert_eq(crdt_sync_open(a, &run, 1, &rng, &heap, &first), ERR_OK);
    cr_assert_eq(crdt_sync_accept(b, 2, &heap, &second), ERR_OK);
    pump_side(first, second, b, &talk);
    crdt_replica_tick(a, WALL + 1030); /* half of them expire ... */
    drain(a);
    for (uint16_t i = 0; i < 40; i++) { /* ... and their places are taken */
        fast_make(&p, 10 + i);
        size_t len = record_make(&p, &secret, i, 1, bytes_of_text("secret"), HOUR, bytes);
        cr_assert_eq(crdt_replica_apply(a, WALL, 1, bytes_of(bytes, len)), ERR_OK);
        drain(a);
    }
    for (int guard = 0; (!finished(first) || !finished(second)) && guard < 1000; guard++) {
        pump_side(second, first, a, &talk);
        pump_side(first, second, b, &talk);
    }
    cr_assert(finished(first) && finished(second));
    cr_assert_eq(crdt_replica_counts(b).records, 29);
    crdt_sync_close(first);
    crdt_sync_close(second);
    crdt_replica_destroy(a);
    crdt_replica_destroy(b);
}

/* Every truncation and random flips of every frame of a session either fail the session or do no harm. */
Test(sync, broken_frames, .timeout = 100)
{
    struct pair me;
    struct allocator heap = allocator_system();
    struct rng_seeded stream;
    struct rng rng = test_rng(&stream, 9);
    struct id run = run_of(1);
    static uint8_t broken[CRDT_FRAME_MAX];
    fast_make(&me, 1);
    for (int trial = 0; trial < 200; trial++) {
        struct crdt_replica *a = replica_make(&me, &heap);
        struct crdt_replica *b = replica_make(&me, &heap);
        struct crdt_sync *first;
        struct crdt_sync *second;
        cr_assert_eq(crdt_replica_add_run(a, &run), ERR_OK);
        cr_assert_eq(crdt_replica_add_run(b, &run), ERR_OK);
        fill(a, b, &run, 200, 20, trial % 2 == 0, &rng);
        cr_assert_eq(crdt_sync_open(a, &run, 1, &rng, &heap, &first), ERR_OK);
        cr_assert_eq(crdt_sync_accept(b, 2, &heap, &second), ERR_OK);
        for (int guard = 0; guard < 50 && !(finished(first) && finished(second)); guard++) {
            struct crdt_sync *from = guard % 2 == 0 ? first : second;
            struct crdt_sync *to = guard % 2 == 0 ? second : first;
            size_t len = crdt_sync_poll_send(from, frame, sizeof frame);
            if (len == 0)
                continue;
            memcpy(broken, frame, len);
            size_t size = len;
            if (trial % 3 == 0)
                size = rng_below(&rng, len);
            else if (rng_below(&rng, 3) == 0)
                broken[rng_below(&rng, len)] ^= (uint8_t)(1u << rng_below(&rng, 8));
            int rc = crdt_sync_recv(to, WALL, bytes_of(broken, size));
            if (trial % 3 == 0)
                cr_assert_lt(rc, 0, "a truncated frame is refused");
            drain(a);
            drain(b);
        }
        crdt_replica_check_invariants(a);
        crdt_replica_check_invariants(b);
        crdt_sync_close(first);
        crdt_sync_close(second);
        crdt_replica_destroy(a);
        crdt_replica_destroy(b);
    }
}
