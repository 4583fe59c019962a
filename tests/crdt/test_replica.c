#include "fixture.h"

#include "support/support.h"

enum { AUTHORS = 4, SLOTS = 3, VERSIONS = 4 };

struct world {
    struct pair pairs[AUTHORS];
    struct id run;
    size_t len[AUTHORS][SLOTS][VERSIONS];
    uint8_t bytes[AUTHORS][SLOTS][VERSIONS][CRDT_RECORD_MAX];
};

/* Versions with rising seq; author 3 equivocates: its last two versions have one seq. */
static struct world *world_make(void)
{
    struct world *w = calloc(1, sizeof *w);
    w->run = run_of(1);
    for (int a = 0; a < AUTHORS; a++) {
        fast_make(&w->pairs[a], (uint64_t)a + 1);
        for (int s = 0; s < SLOTS; s++) {
            for (int v = 0; v < VERSIONS; v++) {
                char value[48];
                (void)snprintf(value, sizeof value, "%d/%d/%d", a, s, v);
                uint64_t seq = (uint64_t)v + 1 - (a == 3 && s == 0 && v == VERSIONS - 1);
                w->len[a][s][v] = record_make(&w->pairs[a], &w->run, (uint16_t)s, seq, bytes_of_text(value),
                                              HOUR * (uint64_t)(v + 1), w->bytes[a][s][v]);
            }
        }
    }
    return w;
}

/* Merging is commutative, associative and idempotent: whatever the order and however often records come,
 * through whatever intermediate replica, the digests agree in the end; an equivocating author is quarantined
 * everywhere. */
Test(replica, merge_is_a_semilattice)
{
    struct world *w = world_make();
    struct allocator heap = allocator_system();
    struct rng_seeded stream;
    struct rng rng = test_rng(&stream, 21);
    struct id reference = {{0}};
    for (int trial = 0; trial < 60; trial++) {
        struct crdt_replica *r = replica_make(&w->pairs[0], &heap);
        struct id digest;
        size_t count;
        cr_assert_eq(crdt_replica_add_run(r, &w->run), ERR_OK);
        size_t order[2 * AUTHORS * SLOTS * VERSIONS];
        size_t n = sizeof order / sizeof order[0];
        for (size_t i = 0; i < n; i++)
            order[i] = i % (n / 2); /* each twice */
        for (size_t i = n; i-- > 1;) {
            size_t j = rng_below(&rng, i + 1);
            size_t swap = order[i];
            order[i] = order[j];
            order[j] = swap;
        }
        for (size_t i = 0; i < n; i++) {
            size_t a = order[i] / (SLOTS * VERSIONS);
            size_t s = order[i] / VERSIONS % SLOTS;
            size_t v = order[i] % VERSIONS;
            int rc = crdt_replica_apply(r, WALL, 5, bytes_of(w->bytes[a][s][v], w->len[a][s][v]));
            cr_assert(rc == 0 || rc == ERR_STALE ||
                      (a == 3 && (rc == ERR_EQUIVOCATION || rc == ERR_REFUSED)));
            crdt_replica_check_invariants(r);
        }
        /* The pair may have been met the wrong way round (a newer version between them): the proof settles
         * it. */
        int rc = crdt_replica_apply_proof(r, 5, bytes_of(w->bytes[3][0][2], w->len[3][0][2]),
                                          bytes_of(w->bytes[3][0][3], w->len[3][0][3]));
        cr_assert(rc == 0 || rc == ERR_STALE);
        cr_assert_eq(crdt_replica_digest(r, &w->run, &digest, &count), ERR_OK);
        cr_assert_eq(count, (AUTHORS - 1) * SLOTS + 1);
        if (trial == 0)
            reference = digest;
        cr_assert(id_equal(&digest, &reference), "seed 21, trial %d", trial);
        crdt_replica_destroy(r);
    }
    free(w);
}

struct model_record {
    bool held;
    struct crdt_key key;
    uint64_t seq;
    uint64_t expires_ms;
    char value[16];
};

/* The replica holds what a plain array would: 10,000 random puts, applies, ticks, lookups and removals of
 * runs, events stored into a second array that must agree, invariants checked along the way. */
Test(replica, model) /* check-allow: function-length, one loop keeps the random sequence readable */
{
    enum { RUNS = 3, PEOPLE = 5, MODEL = RUNS * PEOPLE * 4 };
    struct pair pairs[PEOPLE];
    struct allocator heap = allocator_system();
    static struct model_record model[MODEL];
    static bool stored[MODEL];
    struct rng_seeded stream;
    struct rng rng = test_rng(&stream, 31);
    uint64_t wall = WALL;
    for (int i = 0; i < PEOPLE; i++)
        fast_make(&pairs[i], (uint64_t)i + 1);
    struct crdt_replica *r = replica_make(&pairs[0], &heap);
    for (uint8_t i = 0; i < RUNS; i++) {
        struct id run = run_of(i);
        cr_assert_eq(crdt_replica_add_run(r, &run), ERR_OK);
    }
    for (int step = 0; step < 10000; step++) {
        uint32_t at = (uint32_t)rng_below(&rng, MODEL);
        uint32_t who = at / 4 % PEOPLE;
        struct id run = run_of((uint8_t)(at / 4 / PEOPLE));
        struct model_record *m = &model[at];
        uint64_t what = rng_below(&rng, 100);
        if (what < 90) {
            uint64_t life = 1 + rng_below(&rng, 20000);
            bool older = m->seq > 1 && rng_below(&rng, 3) == 0;
            struct crdt_record record = {
                .key = {.run = run, .author = pairs[who].keys.self, .slot = (uint16_t)(at % 4)},
                .seq = older ? m->seq - 1 : m->seq + 1 + rng_below(&rng, 2),
                .issued_ms = wall,
                .expires_ms = wall + life};
            char value[16];
            uint8_t bytes[CRDT_RECORD_MAX];
            (void)snprintf(value, sizeof value, "%d", step);
            record.value = bytes_of_text(value);
            bool stale = m->held && record.seq < m->seq;
            int len = crdt_record_sign(&record, &pairs[who].keys, bytes, sizeof bytes);
            int rc = crdt_replica_apply(r, wall, 1, bytes_of(bytes, (size_t)len));
            cr_assert_eq(rc, stale ? ERR_STALE : ERR_OK, "seed 31, step %d: %s", step, err_name(rc));
            if (!stale) {
                *m = (struct model_record){
                    .held = true, .key = record.key, .seq = record.seq, .expires_ms = record.expires_ms};
                memcpy(m->value, value, sizeof value);
            }
        } else if (what < 98) {
            wall += rng_below(&rng, 3000);
            crdt_replica_tick(r, wall);
            for (int i = 0; i < MODEL; i++)
                model[i].held = model[i].held && model[i].expires_ms > wall;
        } else {
            for (int i = 0; i < MODEL; i++) {
                struct crdt_view view;
                if (!model[i].held)
                    continue;
                cr_assert(crdt_replica_get(r, &model[i].key, &view));
                cr_assert(bytes_equal(view.record.value, bytes_of_text(model[i].value)));
            }
            crdt_replica_check_invariants(r);
        }
        struct crdt_event event;
        while (crdt_replica_poll_event(r, &event)) {
            uint32_t i =
                (uint32_t)((event.key.run.bytes[0] * PEOPLE + load_le64(event.key.author.bytes) - 1) * 4 +
                           event.key.slot);
            stored[i] = event.kind == CRDT_RECORD_ACCEPTED;
        }
        size_t held = 0;
        for (int i = 0; i < MODEL; i++) {
            cr_assert_eq(stored[i], model[i].held, "seed 31, step %d", step);
            held += model[i].held;
        }
        cr_assert_eq(crdt_replica_counts(r).records, held);
    }
    struct id run = run_of(1);
    cr_assert_eq(crdt_replica_remove_run(r, &run), ERR_OK);
    cr_assert_eq(crdt_replica_remove_run(r, &run), ERR_NOT_FOUND);
    crdt_replica_check_invariants(r);
    crdt_replica_destroy(r);
}

/* Every refusal has its code and leaves the replica as it was. */
Test(replica, refusals)
{
    struct pair me;
    struct pair other;
    struct allocator heap = allocator_system();
    struct id run = run_of(1);
    struct id unknown = run_of(2);
    uint8_t bytes[CRDT_RECORD_MAX];
    pair_make(&me, 1);
    pair_make(&other, 2);
    struct crdt_replica *r = replica_make(&me, &heap);
    cr_assert_eq(crdt_replica_add_run(r, &run), ERR_OK);
    cr_assert_eq(crdt_replica_add_run(r, &run), ERR_EXISTS);
    size_t len = record_make(&other, &unknown, 1, 1, bytes_of_text("x"), HOUR, bytes);
    cr_assert_eq(crdt_replica_apply(r, WALL, 1, bytes_of(bytes, len)), ERR_NOT_FOUND);
    len = record_make(&other, &run, 1, 5, bytes_of_text("x"), HOUR, bytes);
    cr_assert_eq(crdt_replica_apply(r, WALL + HOUR, 1, bytes_of(bytes, len)), ERR_EXPIRED);
    cr_assert_eq(crdt_replica_apply(r, WALL - 3 * HOUR, 1, bytes_of(bytes, len)), ERR_CLOCK);
    cr_assert_eq(crdt_replica_apply(r, WALL, 1, bytes_of(bytes, len - 1)), ERR_TRUNCATED);
    bytes[len - 1] ^= 1;
    cr_assert_eq(crdt_replica_apply(r, WALL, 1, bytes_of(bytes, len)), ERR_AUTH);
    bytes[len - 1] ^= 1;
    cr_assert_eq(crdt_replica_counts(r).records, 0);
    cr_assert_eq(crdt_replica_apply(r, WALL, 1, bytes_of(bytes, len)), ERR_OK);
    cr_assert_eq(crdt_replica_apply(r, WALL, 1, bytes_of(bytes, len)), ERR_STALE);
    len = record_make(&other, &run, 1, 4, bytes_of_text("older"), HOUR, bytes);
    cr_assert_eq(crdt_replica_apply(r, WALL, 1, bytes_of(bytes, len)), ERR_STALE);
    cr_assert_eq(crdt_replica_put(r, WALL, &unknown, 1, 0, bytes_of_text(""), HOUR), ERR_NOT_FOUND);
    cr_assert_eq(crdt_replica_put(r, WALL, &run, 1, 0, bytes_of_text(""), 0), ERR_INVALID);
    cr_assert_eq(crdt_replica_put(r, WALL, &run, 1, 0, bytes_of_text(""), CRDT_LIFE_MAX_MS + 1), ERR_INVALID);
    crdt_replica_check_invariants(r);
    crdt_replica_destroy(r);
}

/* Own records: numbers rise and follow the clock, the expiry never falls, each makes one event with the last
 * version. */
Test(replica, put)
{
    struct pair me;
    struct allocator heap = allocator_system();
    struct id run = run_of(1);
    struct crdt_view view;
    struct crdt_event event;
    pair_make(&me, 1);
    struct crdt_replica *r = replica_make(&me, &heap);
    cr_assert_eq(crdt_replica_add_run(r, &run), ERR_OK);
    cr_assert_eq(crdt_replica_put(r, WALL, &run, CRDT_SLOT_MEMBER, 3, bytes_of_text("here"), 2 * HOUR),
                 ERR_OK);
    cr_assert_eq(crdt_replica_put(r, WALL, &run, CRDT_SLOT_MEMBER, 3, bytes_of_text("gone"), 1000), ERR_OK);
    struct crdt_key key = {.run = run, .author = me.keys.self, .slot = CRDT_SLOT_MEMBER};
    cr_assert(crdt_replica_get(r, &key, &view));
    cr_assert_eq(view.record.seq, WALL + 1);
    cr_assert_eq(view.record.expires_ms, WALL + 2 * HOUR, "an older version must not outlive this one");
    cr_assert_eq(crdt_record_verify(view.encoded, &me.keys), ERR_OK);
    cr_assert(crdt_replica_poll_event(r, &event));
    cr_assert_eq(event.kind, CRDT_RECORD_ACCEPTED);
    cr_assert_eq(event.origin, CRDT_ORIGIN_SELF);
    cr_assert(bytes_equal(event.record, view.encoded));
    cr_assert_eq(event.store_key_len, CRDT_STORE_KEY_BYTES);
    cr_assert(!crdt_replica_poll_event(r, &event));
    cr_assert_eq(crdt_replica_deadline_ms(r), WALL + 2 * HOUR);
    uint32_t cursor = 0;
    cr_assert(crdt_replica_next(r, &run, CRDT_SLOT_MEMBER, &cursor, &view));
    cr_assert(!crdt_replica_next(r, &run, CRDT_SLOT_MEMBER, &cursor, &view));
    cursor = 0;
    cr_assert(!crdt_replica_next(r, &run, CRDT_SLOT_PROGRESS, &cursor, &view));
    /* A node that lost its disk, or its newest writes, starts above what it signed before: also when it wrote
     * every half second. */
    for (uint64_t at = 1; at <= 10; at++)
        cr_assert_eq(
            crdt_replica_put(r, WALL + at * 500, &run, CRDT_SLOT_MEMBER, 3, bytes_of_text("now"), HOUR),
            ERR_OK);
    while (crdt_replica_poll_event(r, &event))
        ;
    struct crdt_replica *fresh = replica_make(&me, &heap);
    cr_assert_eq(crdt_replica_add_run(fresh, &run), ERR_OK);
    cr_assert_eq(crdt_replica_put(fresh, WALL + 5500, &run, CRDT_SLOT_MEMBER, 3, bytes_of_text("back"), HOUR),
                 ERR_OK);
    cr_assert(crdt_replica_get(fresh, &key, &view));
    cr_assert_eq(crdt_replica_apply(r, WALL + 5500, 9, view.encoded), ERR_OK);
    crdt_replica_destroy(fresh);
    crdt_replica_destroy(r);
}

/* Two values under one number: told once, everything of the author goes, the proof convinces others and
 * survives a restart. */
Test(replica, equivocation) /* check-allow: function-length, one story of steps that build on each other */
{
    struct pair me;
    struct pair liar;
    struct allocator heap = allocator_system();
    struct id run = run_of(1);
    uint8_t a[CRDT_RECORD_MAX];
    uint8_t b[CRDT_RECORD_MAX];
    uint8_t c[CRDT_RECORD_MAX];
    struct crdt_event event;
    pair_make(&me, 1);
    pair_make(&liar, 2);
    size_t len_a = record_make(&liar, &run, 1, 5, bytes_of_text("yes"), HOUR, a);
    size_t len_b = record_make(&liar, &run, 1, 5, bytes_of_text("no"), HOUR, b);
    size_t len_c = record_make(&liar, &run, 2, 1, bytes_of_text("other slot"), HOUR, c);
    struct crdt_replica *r = replica_make(&me, &heap);
    cr_assert_eq(crdt_replica_add_run(r, &run), ERR_OK);
    cr_assert_eq(crdt_replica_apply(r, WALL, 1, bytes_of(a, len_a)), ERR_OK);
    cr_assert_eq(crdt_replica_apply(r, WALL, 1, bytes_of(c, len_c)), ERR_OK);
    drain(r);
    b[len_b - 1] ^= 1;
    cr_assert_eq(crdt_replica_apply(r, WALL, 1, bytes_of(b, len_b)), ERR_AUTH,
                 "a forged second value is no proof");
    b[len_b - 1] ^= 1;
    cr_assert_eq(crdt_replica_apply(r, WALL, 4, bytes_of(b, len_b)), ERR_EQUIVOCATION);
    cr_assert_eq(crdt_replica_apply(r, WALL, 4, bytes_of(a, len_a)), ERR_REFUSED);
    cr_assert_eq(crdt_replica_counts(r).records, 0);
    crdt_replica_check_invariants(r);
    int dropped = 0;
    uint8_t proof_key[CRDT_STORE_KEY_BYTES];
    static uint8_t proof[CRDT_PROOF_BYTES_MAX];
    size_t proof_key_len = 0;
    size_t proof_len = 0;
    while (crdt_replica_poll_event(r, &event)) {
        dropped += event.kind == CRDT_RECORD_DROPPED;
        if (event.kind != CRDT_EQUIVOCATION)
            continue;
        cr_assert_eq(event.origin, 4);
        proof_key_len = event.store_key_len;
        proof_len = event.proof.len;
        memcpy(proof_key, event.store_key, proof_key_len);
        memcpy(proof, event.proof.data, proof_len);
    }
    cr_assert_eq(dropped, 2);
    cr_assert_gt(proof_len, 0);
    struct crdt_item item;
    cr_assert(crdt_replica_proof(r, &run, &liar.keys.self, &item));
    struct crdt_replica *second = replica_make(&me, &heap);
    cr_assert_eq(crdt_replica_add_run(second, &run), ERR_OK);
    cr_assert_eq(crdt_replica_apply(second, WALL, 1, bytes_of(c, len_c)), ERR_OK);
    cr_assert_eq(crdt_replica_apply_proof(second, 1, item.record, item.record), ERR_MALFORMED);
    cr_assert_eq(crdt_replica_apply_proof(second, 1, item.record, bytes_of(c, len_c)), ERR_MALFORMED);
    cr_assert_eq(crdt_replica_apply_proof(second, 1, item.record, item.other), ERR_OK);
    cr_assert_eq(crdt_replica_apply_proof(second, 1, item.other, item.record), ERR_STALE);
    cr_assert_eq(crdt_replica_counts(second).records, 0);
    struct crdt_replica *restarted = replica_make(&me, &heap);
    cr_assert_eq(crdt_replica_add_run(restarted, &run), ERR_OK);
    cr_assert_eq(
        crdt_replica_load(restarted, WALL, bytes_of(proof_key, proof_key_len), bytes_of(proof, proof_len)),
        ERR_OK);
    cr_assert_eq(crdt_replica_apply(restarted, WALL, 1, bytes_of(c, len_c)), ERR_REFUSED);
    struct id x;
    struct id y;
    size_t n;
    cr_assert_eq(crdt_replica_digest(second, &run, &x, &n), ERR_OK);
    cr_assert_eq(crdt_replica_digest(restarted, &run, &y, &n), ERR_OK);
    cr_assert(id_equal(&x, &y));
    crdt_replica_check_invariants(second);
    cr_assert_eq(crdt_replica_remove_run(second, &run), ERR_OK);
    crdt_replica_check_invariants(second);
    crdt_replica_destroy(r);
    crdt_replica_destroy(second);
    crdt_replica_destroy(restarted);
}

/* More convicts than places: the oldest is forgotten, with an event for its row. */
Test(replica, proofs_are_bounded)
{
    struct pair me;
    struct pair liar;
    struct allocator heap = allocator_system();
    struct id run = run_of(1);
    uint8_t a[CRDT_RECORD_MAX];
    uint8_t b[CRDT_RECORD_MAX];
    struct crdt_event event;
    size_t forgotten = 0;
    fast_make(&me, 1);
    struct crdt_replica *r = replica_make(&me, &heap);
    cr_assert_eq(crdt_replica_add_run(r, &run), ERR_OK);
    for (uint64_t i = 0; i < CRDT_PROOFS_MAX + 3; i++) {
        fast_make(&liar, 100 + i);
        size_t len_a = record_make(&liar, &run, 1, 5, bytes_of_text("yes"), HOUR, a);
        size_t len_b = record_make(&liar, &run, 1, 5, bytes_of_text("no"), HOUR, b);
        cr_assert_eq(crdt_replica_apply_proof(r, 1, bytes_of(a, len_a), bytes_of(b, len_b)), ERR_OK);
        while (crdt_replica_poll_event(r, &event))
            forgotten += event.kind == CRDT_PROOF_DROPPED;
    }
    cr_assert_eq(forgotten, 3);
    cr_assert_eq(crdt_replica_counts(r).proofs, CRDT_PROOFS_MAX);
    crdt_replica_check_invariants(r);
    crdt_replica_destroy(r);
}

static bool admit_even(void *user, const struct id *run, const struct id *author)
{
    (void)user;
    (void)run;
    return author->bytes[0] % 2 == 0;
}

/* Quotas at the cap and one past; our own records still fit when others have filled the table; the event
 * queue pushes back. */
Test(replica, quotas)
{
    struct pair me;
    struct pair other;
    struct allocator heap = allocator_system();
    struct rng_seeded stream;
    struct crdt_replica_config config = crdt_replica_config_default();
    struct crdt_replica *r;
    struct id run = run_of(1);
    uint8_t bytes[CRDT_RECORD_MAX];
    static uint8_t big[CRDT_VALUE_MAX];
    fast_make(&me, 2);
    config.keys = me.keys;
    config.alloc = heap;
    config.rng = test_rng(&stream, 1);
    config.records_max = 40;
    config.author_records_max = 4;
    config.author_bytes_max = 6000;
    config.events_max = 64;
    config.admits = admit_even;
    cr_assert_eq(crdt_replica_create(&config, &r), ERR_OK);
    cr_assert_eq(crdt_replica_add_run(r, &run), ERR_OK);
    fast_make(&other, 3);
    size_t len = record_make(&other, &run, 1, 1, bytes_of_text("x"), HOUR, bytes);
    cr_assert_eq(crdt_replica_apply(r, WALL, 1, bytes_of(bytes, len)), ERR_REFUSED, "not admitted");
    fast_make(&other, 4);
    for (uint16_t slot = 0; slot < 4; slot++) {
        len = record_make(&other, &run, slot, 1, bytes_of_text("x"), HOUR, bytes);
        cr_assert_eq(crdt_replica_apply(r, WALL, 1, bytes_of(bytes, len)), ERR_OK);
    }
    len = record_make(&other, &run, 4, 1, bytes_of_text("x"), HOUR, bytes);
    cr_assert_eq(crdt_replica_apply(r, WALL, 1, bytes_of(bytes, len)), ERR_QUOTA);
    len = record_make(&other, &run, 0, 2, bytes_of(big, sizeof big), HOUR, bytes);
    cr_assert_eq(crdt_replica_apply(r, WALL, 1, bytes_of(bytes, len)), ERR_OK, "replacing needs no place");
    len = record_make(&other, &run, 1, 2, bytes_of(big, sizeof big), HOUR, bytes);
    cr_assert_eq(crdt_replica_apply(r, WALL, 1, bytes_of(bytes, len)), ERR_QUOTA, "but bytes");
    int rc = ERR_OK;
    size_t accepted = 4;
    for (uint64_t i = 0; rc == ERR_OK; i++) {
        drain(r);
        fast_make(&other, 6 + 2 * i);
        len = record_make(&other, &run, 0, 1, bytes_of_text("x"), HOUR, bytes);
        rc = crdt_replica_apply(r, WALL, 1, bytes_of(bytes, len));
        accepted += rc == 0;
    }
    cr_assert_eq(rc, ERR_FULL);
    cr_assert_eq(accepted, 30, "a quarter is ours");
    cr_assert_eq(crdt_replica_put(r, WALL, &run, 1, 0, bytes_of_text("mine"), HOUR), ERR_OK);
    crdt_replica_check_invariants(r);
    crdt_replica_destroy(r);
    config.events_max = 8;
    cr_assert_eq(crdt_replica_create(&config, &r), ERR_OK);
    cr_assert_eq(crdt_replica_add_run(r, &run), ERR_OK);
    fast_make(&other, 4);
    rc = ERR_OK;
    for (uint16_t slot = 0; slot < 4 && rc == 0; slot++) {
        len = record_make(&other, &run, slot, 1, bytes_of_text("x"), HOUR, bytes);
        rc = crdt_replica_apply(r, WALL, 1, bytes_of(bytes, len));
    }
    cr_assert_eq(rc, ERR_AGAIN);
    drain(r);
    cr_assert_eq(crdt_replica_apply(r, WALL, 1, bytes_of(bytes, len)), ERR_OK);
    crdt_replica_destroy(r);
}

/* Whichever allocation fails, at creation or at an insertion, the replica stays whole and nothing leaks; and
 * lookups and ticks never allocate. */
Test(replica, every_allocation_fails)
{
    struct pair me;
    struct id run = run_of(1);
    fast_make(&me, 1);
    for (size_t n = 1;; n++) {
        struct counting_allocator counter = {.fail_at = n};
        struct rng_seeded stream;
        struct crdt_replica_config config = crdt_replica_config_default();
        struct crdt_replica *r;
        config.keys = me.keys;
        config.alloc = counting_allocator_view(&counter);
        config.rng = test_rng(&stream, 1);
        config.records_max = 64;
        int rc = crdt_replica_create(&config, &r);
        if (rc == 0) {
            cr_assert_eq(crdt_replica_add_run(r, &run), ERR_OK);
            rc = crdt_replica_put(r, WALL, &run, 1, 0, bytes_of_text("a"), HOUR);
            int second = crdt_replica_put(r, WALL, &run, 1, 0, bytes_of_text("b"), HOUR);
            cr_assert(rc == 0 || rc == ERR_NO_MEMORY);
            rc = rc == 0 ? second : rc;
            crdt_replica_check_invariants(r);
            size_t before = counter.allocated;
            crdt_replica_tick(r, WALL + 2 * HOUR);
            drain(r);
            cr_assert_eq(counter.allocated, before);
            cr_assert_eq(crdt_replica_counts(r).records, 0);
            crdt_replica_destroy(r);
        }
        cr_assert_eq(counter.live, 0);
        if (rc == 0)
            break;
        cr_assert_eq(rc, ERR_NO_MEMORY);
    }
}

/* A stored row under another key, or of a run that is gone, is not loaded. */
Test(replica, load)
{
    struct pair me;
    struct allocator heap = allocator_system();
    struct id run = run_of(1);
    struct crdt_event event;
    pair_make(&me, 1);
    struct crdt_replica *r = replica_make(&me, &heap);
    struct crdt_replica *loaded = replica_make(&me, &heap);
    cr_assert_eq(crdt_replica_add_run(r, &run), ERR_OK);
    cr_assert_eq(crdt_replica_put(r, WALL, &run, 1, 0, bytes_of_text("a"), HOUR), ERR_OK);
    cr_assert(crdt_replica_poll_event(r, &event));
    struct bytes key = bytes_of(event.store_key, event.store_key_len);
    cr_assert_eq(crdt_replica_load(loaded, WALL, key, event.record), ERR_NOT_FOUND);
    cr_assert_eq(crdt_replica_add_run(loaded, &run), ERR_OK);
    cr_assert_eq(crdt_replica_load(loaded, WALL + HOUR, key, event.record), ERR_EXPIRED);
    event.store_key[5] ^= 1;
    cr_assert_eq(crdt_replica_load(loaded, WALL, key, event.record), ERR_MALFORMED);
    event.store_key[5] ^= 1;
    cr_assert_eq(crdt_replica_load(loaded, WALL, bytes_of("x", 1), event.record), ERR_MALFORMED);
    cr_assert_eq(crdt_replica_load(loaded, WALL, key, event.record), ERR_OK);
    cr_assert(!crdt_replica_poll_event(loaded, &event), "loading makes no event");
    struct id a;
    struct id b;
    size_t count;
    cr_assert_eq(crdt_replica_digest(r, &run, &a, &count), ERR_OK);
    cr_assert_eq(crdt_replica_digest(loaded, &run, &b, &count), ERR_OK);
    cr_assert(id_equal(&a, &b));
    crdt_replica_destroy(r);
    crdt_replica_destroy(loaded);
}
