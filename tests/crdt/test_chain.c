#include "fixture.h"

#include "crdt/batch.h"
#include "crdt/chain.h"

static struct pair owner;
static struct rng_seeded stream;

struct signed_entry {
    uint8_t bytes[CRDT_ENTRY_MAX];
    size_t len;
};

static struct bytes slice(const struct signed_entry *e)
{
    return bytes_of(e->bytes, e->len);
}

/* A new run with its genesis appended. */
static struct crdt_chain *chain_make(struct signed_entry *genesis)
{
    struct allocator heap = allocator_system();
    struct rng rng = test_rng(&stream, 1);
    struct id run;
    pair_make(&owner, 1);
    int len = crdt_chain_create(&owner.keys, &rng, WALL, bytes_of_text("a run"),
                                bytes_of_text("first settings"), genesis->bytes, sizeof genesis->bytes, &run);
    cr_assert_gt(len, 0);
    genesis->len = (size_t)len;
    struct crdt_chain *chain = malloc(sizeof *chain);
    crdt_chain_init(chain, &run, &heap, &owner.keys);
    cr_assert_eq(crdt_chain_append(chain, slice(genesis)), ERR_OK);
    return chain;
}

static struct crdt_chain *chain_like(const struct crdt_chain *other)
{
    struct allocator heap = allocator_system();
    struct crdt_chain *chain = malloc(sizeof *chain);
    crdt_chain_init(chain, &other->run, &heap, &other->keys);
    return chain;
}

static void chain_free(struct crdt_chain *chain)
{
    crdt_chain_deinit(chain);
    free(chain);
}

static struct signed_entry sign(const struct crdt_chain *chain, struct crdt_entry entry, uint64_t wall_ms)
{
    struct signed_entry out;
    int len = crdt_chain_sign(chain, &entry, wall_ms, out.bytes, sizeof out.bytes);
    cr_assert_gt(len, 0, "%s", err_name(len));
    out.len = (size_t)len;
    return out;
}

/* A chain of every kind of entry is rebuilt from its bytes, answers what was signed, and ends at CLOSE. */
Test(chain, life)
{
    struct signed_entry genesis;
    struct crdt_chain *chain = chain_make(&genesis);
    struct id friend = run_of(7);
    struct bytes config;
    bool bearer;
    struct signed_entry e = sign(
        chain, (struct crdt_entry){.kind = CRDT_ENTRY_CONFIG, .round = 50, .config = bytes_of_text("later")},
        WALL);
    cr_assert_eq(crdt_chain_append(chain, slice(&e)), ERR_OK);
    cr_assert_eq(crdt_chain_append(chain, slice(&e)), ERR_STALE);
    e = sign(chain,
             (struct crdt_entry){
                 .kind = CRDT_ENTRY_ADMIT, .member = friend, .expires_ms = WALL + HOUR, .bearer = true},
             WALL);
    cr_assert_eq(crdt_chain_append(chain, slice(&e)), ERR_OK);
    cr_assert_eq(crdt_chain_config(chain, 49, &config), ERR_OK);
    cr_assert(bytes_equal(config, bytes_of_text("first settings")));
    cr_assert_eq(crdt_chain_config(chain, 50, &config), ERR_OK);
    cr_assert(bytes_equal(config, bytes_of_text("later")));
    cr_assert(crdt_chain_admits(chain, &friend, WALL, &bearer));
    cr_assert(bearer);
    cr_assert(!crdt_chain_admits(chain, &friend, WALL + HOUR, NULL));
    cr_assert(crdt_chain_admits(chain, &owner.keys.self, WALL, NULL));
    e = sign(chain, (struct crdt_entry){.kind = CRDT_ENTRY_REVOKE, .member = friend}, WALL);
    cr_assert_eq(crdt_chain_append(chain, slice(&e)), ERR_OK);
    cr_assert(!crdt_chain_admits(chain, &friend, WALL, NULL));
    cr_assert_eq(crdt_chain_last_round(chain), UINT64_MAX);
    e = sign(chain, (struct crdt_entry){.kind = CRDT_ENTRY_CLOSE, .round = 900}, WALL);
    cr_assert_eq(crdt_chain_append(chain, slice(&e)), ERR_OK);
    cr_assert_eq(crdt_chain_last_round(chain), 900);
    cr_assert_eq(chain->state, CRDT_CHAIN_CLOSED);
    struct crdt_entry more = {.kind = CRDT_ENTRY_REVOKE, .member = friend};
    cr_assert_eq(crdt_chain_sign(chain, &more, WALL, e.bytes, sizeof e.bytes), ERR_STATE);
    struct crdt_chain *copy = chain_like(chain);
    cr_assert_eq(crdt_chain_append(copy, crdt_chain_entry(chain, 2)), ERR_AGAIN,
                 "what comes before is missing");
    for (size_t i = 0; i < chain->count; i++)
        cr_assert_eq(crdt_chain_append(copy, crdt_chain_entry(chain, i)), ERR_OK);
    struct crdt_entry first;
    cr_assert_eq(crdt_chain_genesis(copy, &first), ERR_OK);
    cr_assert(bytes_equal(first.name, bytes_of_text("a run")));
    cr_assert(id_equal(&first.owner, &owner.keys.self));
    chain_free(copy);
    chain_free(chain);
}

/* Only the owner's bytes pass: every truncation and every flipped bit of genesis and entry is refused. */
Test(chain, damage_is_refused)
{
    struct signed_entry genesis;
    struct crdt_chain *chain = chain_make(&genesis);
    struct signed_entry e =
        sign(chain, (struct crdt_entry){.kind = CRDT_ENTRY_CONFIG, .round = 1, .config = bytes_of_text("c")},
             WALL);
    struct crdt_chain *empty = chain_like(chain);
    for (size_t cut = 0; cut < e.len; cut++)
        cr_assert_lt(crdt_chain_append(chain, bytes_of(e.bytes, cut)), 0);
    for (size_t cut = 0; cut < genesis.len; cut++)
        cr_assert_lt(crdt_chain_append(empty, bytes_of(genesis.bytes, cut)), 0);
    for (size_t bit = 0; bit < 8 * e.len; bit++) {
        e.bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        cr_assert_lt(crdt_chain_append(chain, slice(&e)), 0, "bit %zu", bit);
        e.bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    for (size_t bit = 0; bit < 8 * genesis.len; bit++) {
        genesis.bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        cr_assert_lt(crdt_chain_append(empty, slice(&genesis)), 0, "bit %zu", bit);
        genesis.bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    cr_assert_eq(chain->count, 1);
    cr_assert_eq(chain->state, CRDT_CHAIN_LIVE);
    /* Someone else cannot sign for the owner, nor make the run's id fit. */
    struct pair thief;
    pair_make(&thief, 2);
    chain->keys = thief.keys;
    struct crdt_entry close = {.kind = CRDT_ENTRY_CLOSE, .round = 1};
    uint8_t out[CRDT_ENTRY_MAX];
    cr_assert_eq(crdt_chain_sign(chain, &close, WALL, out, sizeof out), ERR_PERMISSION);
    struct rng rng = test_rng(&stream, 5);
    struct id run;
    int len = crdt_chain_create(&thief.keys, &rng, WALL, bytes_of_text("a run"), bytes_of_text(""), out,
                                sizeof out, &run);
    cr_assert_gt(len, 0);
    cr_assert_eq(crdt_chain_append(empty, bytes_of(out, (size_t)len)), ERR_MISMATCH);
    cr_assert_eq(crdt_chain_create(&thief.keys, &rng, WALL, bytes_of_text("bad\nname"), bytes_of_text(""),
                                   out, sizeof out, &run),
                 ERR_INVALID);
    chain_free(empty);
    chain_free(chain);
}

/* A fork freezes every replica at the last common entry, whichever branch it followed and in whatever order
 * it met the entries; frames carry the pair on. */
Test(chain, fork_freezes)
{
    struct signed_entry genesis;
    struct crdt_chain *a = chain_make(&genesis);
    struct crdt_entry config = {.kind = CRDT_ENTRY_CONFIG, .round = 1, .config = bytes_of_text("common")};
    struct signed_entry common = sign(a, config, WALL);
    cr_assert_eq(crdt_chain_append(a, slice(&common)), ERR_OK);
    struct crdt_chain *b = chain_like(a);
    cr_assert_eq(crdt_chain_append(b, slice(&genesis)), ERR_OK);
    cr_assert_eq(crdt_chain_append(b, slice(&common)), ERR_OK);
    config.config = bytes_of_text("left");
    struct signed_entry left = sign(a, config, WALL);
    cr_assert_eq(crdt_chain_append(a, slice(&left)), ERR_OK);
    struct signed_entry left_more = sign(a, config, WALL + 1);
    cr_assert_eq(crdt_chain_append(a, slice(&left_more)), ERR_OK);
    config.config = bytes_of_text("right");
    struct signed_entry right = sign(b, config, WALL);
    cr_assert_eq(crdt_chain_append(b, slice(&right)), ERR_OK);
    struct signed_entry right_more = sign(b, config, WALL + 1);
    cr_assert_eq(crdt_chain_append(b, slice(&right_more)), ERR_OK);
    cr_assert_eq(crdt_chain_append(a, slice(&right_more)), ERR_MISMATCH);
    cr_assert_eq(crdt_chain_append(a, slice(&right)), ERR_EQUIVOCATION);
    cr_assert_eq(a->state, CRDT_CHAIN_FROZEN);
    cr_assert_eq(a->count, 2);
    cr_assert_eq(crdt_chain_append(a, slice(&right)), ERR_STALE, "told once");
    cr_assert_eq(crdt_chain_append(a, slice(&left_more)), ERR_STALE);
    struct bytes settings;
    cr_assert_eq(crdt_chain_config(a, 100, &settings), ERR_OK);
    cr_assert(bytes_equal(settings, bytes_of_text("common")));
    static uint8_t frame[CRDT_FRAME_MAX];
    struct bytes entries[CRDT_CHAIN_FRAME_ENTRIES];
    struct id run;
    size_t next;
    int len = crdt_chain_frame_encode(a, b->count, frame, sizeof frame, &next);
    cr_assert_gt(len, 0);
    cr_assert_eq(next, SIZE_MAX);
    int count = crdt_chain_frame_decode(bytes_of(frame, (size_t)len), &run, entries);
    cr_assert_eq(count, 2);
    int told = 0;
    for (int i = 0; i < count; i++)
        told += crdt_chain_append(b, entries[i]) == ERR_EQUIVOCATION;
    cr_assert_eq(told, 1);
    cr_assert_eq(b->count, 2);
    cr_assert_eq(b->state, CRDT_CHAIN_FROZEN);
    /* A fork further down counts more. */
    config.config = bytes_of_text("low");
    struct crdt_chain *c = chain_like(a);
    cr_assert_eq(crdt_chain_append(c, slice(&genesis)), ERR_OK);
    struct signed_entry low = sign(c, config, WALL);
    cr_assert_eq(crdt_chain_append(b, slice(&low)), ERR_EQUIVOCATION);
    cr_assert_eq(b->count, 1);
    chain_free(a);
    chain_free(b);
    chain_free(c);
}

/* A long chain goes over in frames, each within its limits; truncated frames are refused. */
Test(chain, frames)
{
    struct signed_entry genesis;
    struct crdt_chain *a = chain_make(&genesis);
    static uint8_t config[CRDT_CONFIG_MAX];
    static uint8_t frame[CRDT_FRAME_MAX];
    struct bytes entries[CRDT_CHAIN_FRAME_ENTRIES];
    struct id run;
    while (a->count < CRDT_CHAIN_MAX) {
        size_t len = a->count % 3 == 0 ? sizeof config : 10;
        struct signed_entry e =
            sign(a,
                 (struct crdt_entry){
                     .kind = CRDT_ENTRY_CONFIG, .round = a->count, .config = bytes_of(config, len)},
                 WALL);
        cr_assert_eq(crdt_chain_append(a, slice(&e)), ERR_OK);
    }
    uint8_t out[CRDT_ENTRY_MAX];
    struct crdt_entry more = {.kind = CRDT_ENTRY_CLOSE};
    cr_assert_eq(crdt_chain_sign(a, &more, WALL, out, sizeof out), ERR_FULL);
    struct crdt_chain *b = chain_like(a);
    size_t from = 0;
    size_t frames = 0;
    for (;;) {
        size_t next;
        int len = crdt_chain_frame_encode(a, from, frame, sizeof frame, &next);
        cr_assert_geq(len, 0);
        if (len == 0)
            break;
        int count = crdt_chain_frame_decode(bytes_of(frame, (size_t)len), &run, entries);
        cr_assert_gt(count, 0);
        cr_assert(id_equal(&run, &a->run));
        for (int i = 0; i < count; i++)
            cr_assert_eq(crdt_chain_append(b, entries[i]), ERR_OK);
        for (int cut = 0; frames == 0 && cut < 400; cut++)
            cr_assert_lt(crdt_chain_frame_decode(bytes_of(frame, (size_t)cut), &run, entries), 0);
        from = next;
        frames++;
    }
    cr_assert_geq(frames, CRDT_CHAIN_MAX / CRDT_CHAIN_FRAME_ENTRIES);
    cr_assert_eq(b->count, CRDT_CHAIN_MAX);
    size_t next;
    cr_assert_eq(crdt_chain_frame_encode(a, b->count, frame, sizeof frame, &next), 0);
    chain_free(a);
    chain_free(b);
}
