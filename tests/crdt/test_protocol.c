/* The examples of docs/protocol/state.md are decoded and hold what the page says; and none of their
 * truncations passes. */
#include "fixture.h"

#include <stdlib.h>

#include "crdt/chain.h"
#include "crdt/sync_turn.h"
#include "store/checkpoint.h"
#include "support/page.h"

#define PAGE TEST_SOURCE_DIR "/../../docs/protocol/state.md"

static uint8_t example[4096];

/* Bytes of one example of the page; it must be there. */
static struct bytes load(const char *name)
{
    size_t len = page_example(PAGE, name, example, sizeof example);
    cr_assert_gt(len, 0, "no example %s", name);
    return bytes_of(example, len);
}

Test(protocol, record)
{
    struct pair p;
    struct crdt_record r;
    pair_make(&p, 1);
    struct bytes in = load("record");
    cr_assert_eq(crdt_record_decode(in, &r), ERR_OK);
    cr_assert_eq(crdt_record_verify(in, &p.keys), ERR_OK);
    cr_assert(id_equal(&r.key.author, &p.keys.self));
    cr_assert_eq(r.key.slot, CRDT_SLOT_MEMBER);
    cr_assert_eq(r.seq, 1700000000);
    cr_assert(bytes_equal(r.value, bytes_of_text("hello")));
}

Test(protocol, batches)
{
    struct crdt_item items[CRDT_BATCH_MAX];
    struct crdt_record r;
    cr_assert_eq(crdt_batch_decode(load("batch"), items), 1);
    cr_assert_eq(crdt_record_decode(items[0].record, &r), ERR_OK);
    cr_assert_eq(items[0].other.len, 0);
    struct bytes in = load("batch_proof");
    cr_assert_eq(crdt_batch_decode(in, items), 1);
    cr_assert_eq(crdt_record_decode(items[0].other, &r), ERR_OK);
    for (size_t cut = 0; cut < in.len; cut++)
        cr_assert_lt(crdt_batch_decode(bytes_of(in.data, cut), items), 0);
}

Test(protocol, chain)
{
    static const char *const names[] = {"genesis", "config", "admit", "revoke", "close"};
    static const enum crdt_entry_kind kinds[] = {CRDT_ENTRY_GENESIS, CRDT_ENTRY_CONFIG, CRDT_ENTRY_ADMIT,
                                                 CRDT_ENTRY_REVOKE, CRDT_ENTRY_CLOSE};
    struct pair p;
    struct allocator heap = allocator_system();
    struct crdt_entry e;
    struct id run;
    struct bytes entries[CRDT_CHAIN_FRAME_ENTRIES];
    pair_make(&p, 1);
    crdt_entry_hash(load("genesis"), &run);
    struct crdt_chain *chain = malloc(sizeof *chain);
    crdt_chain_init(chain, &run, &heap, &p.keys);
    for (size_t i = 0; i < 5; i++) {
        struct bytes in = load(names[i]);
        cr_assert_eq(crdt_entry_decode(in, &e), ERR_OK);
        cr_assert_eq(e.kind, kinds[i]);
        for (size_t cut = 0; cut < in.len; cut++)
            cr_assert_lt(crdt_chain_append(chain, bytes_of(in.data, cut)), 0);
        cr_assert_eq(crdt_chain_append(chain, in), ERR_OK);
    }
    cr_assert_eq(crdt_chain_last_round(chain), 900);
    cr_assert_eq(crdt_chain_frame_decode(load("chain_frame"), &run, entries), 1);
    cr_assert_eq(crdt_chain_append(chain, entries[0]), ERR_STALE);
    crdt_chain_deinit(chain);
    free(chain);
}

/* Gives a session the frames of the page in their order: the initiator of it had the example record, we do
 * not. */
Test(protocol, session)
{
    struct pair p;
    struct allocator heap = allocator_system();
    struct crdt_sync *s;
    struct id run = run_of(0x11);
    struct id named;
    static uint8_t out[CRDT_FRAME_MAX];
    pair_make(&p, 1);
    struct crdt_replica *r = replica_make(&p, &heap);
    cr_assert_eq(crdt_replica_add_run(r, &run), ERR_OK);
    cr_assert_eq(crdt_sync_accept(r, 1, &heap, &s), ERR_OK);
    struct bytes hello = load("hello");
    for (size_t cut = 0; cut < hello.len; cut++)
        cr_assert_lt(crdt_sync_hello_run(bytes_of(hello.data, cut), &named), 0);
    cr_assert_eq(crdt_sync_hello_run(hello, &named), ERR_OK);
    cr_assert(id_equal(&named, &run));
    cr_assert_eq(crdt_sync_recv(s, WALL, hello), ERR_OK);
    size_t len = crdt_sync_poll_send(s, out, sizeof out);
    cr_assert(bytes_equal(bytes_of(out, len), load("turn_first")));
    cr_assert_eq(crdt_sync_recv(s, WALL, load("turn_empty")), ERR_OK);
    cr_assert_eq(crdt_sync_recv(s, WALL, load("records")), ERR_OK);
    cr_assert_eq(crdt_replica_counts(r).records, 1);
    len = crdt_sync_poll_send(s, out, sizeof out);
    cr_assert_gt(len, 0);
    cr_assert_eq(crdt_sync_recv(s, WALL, load("end")), ERR_OK);
    cr_assert_eq(crdt_sync_result_get(s).state, CRDT_SYNC_DONE);
    crdt_sync_close(s);
    struct rng_seeded stream;
    struct rng rng = test_rng(&stream, 1);
    cr_assert_eq(crdt_sync_open(r, &run, 1, &rng, &heap, &s), ERR_OK);
    cr_assert_gt(crdt_sync_poll_send(s, out, sizeof out), 0);
    cr_assert_eq(crdt_sync_recv(s, WALL, load("refused")), ERR_REFUSED);
    crdt_sync_close(s);
    crdt_replica_destroy(r);
}

/* The turn's items against an empty index: both halves differ, the listed record is wanted. */
Test(protocol, turn_items)
{
    struct crdt_index_item end[1] = {{.tag = 0}};
    uint64_t pending[8];
    static uint8_t out[CRDT_TURN_MAX];
    struct bytes in = load("turn_items");
    for (size_t cut = 0; cut <= in.len; cut++) {
        struct crdt_turn turn = {.index = {.items = end}, .pending = pending, .pending_max = 8, .out = out};
        int rc = crdt_turn_read(&turn, bytes_of(in.data, cut));
        if (cut == in.len) {
            cr_assert_eq(rc, ERR_OK);
            cr_assert_eq(turn.pending_count, 2);
            cr_assert_eq(turn.pending[0], UINT64_C(0xa500000000000000) | 9);
            cr_assert_eq(turn.pending[1], UINT64_C(0xa580000000000000) | 9);
            cr_assert_eq(turn.out_len, 7);
            cr_assert_arr_eq(out, "\x03\x10\xb3\xc0\x00\x01\x01", 7);
        } else if (cut != 0 && cut != 20 && cut != 42) { /* between items a cut is a shorter turn */
            cr_assert_lt(rc, 0, "cut to %zu", cut);
        }
    }
}

Test(protocol, checkpoint)
{
    char path[] = "/tmp/dunlin-test-XXXXXX";
    struct checkpoint_reader r;
    struct store_io io = store_io_system();
    char phi[4];
    int fd = mkstemp(path);
    struct bytes in = load("checkpoint");
    cr_assert_eq(store_write_all(&io, fd, in.data, in.len), ERR_OK);
    cr_assert_eq(checkpoint_open_file(&r, path, NULL), ERR_OK);
    cr_assert_eq(r.info.round, 7);
    cr_assert_eq(r.info.step, 70);
    cr_assert_eq(checkpoint_read(&r, CHECKPOINT_PHI, 0, phi, 4), ERR_OK);
    cr_assert_arr_eq(phi, "\0\0\200?", 4);
    checkpoint_close(&r);
    (void)io.close(NULL, fd);
    (void)io.unlink(NULL, path);
}
