/* Lists of wrong blocks: any set of at most half of them survives, fits the stated bound, and whatever is not
 * such a list is refused. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/rng.h"
#include "gossip/wanted.h"

enum { BLOCKS_MAX = 40000 };

static uint8_t list[BLOCKS_MAX];

/* Every step-th block from first on, count of them. */
static size_t build(uint64_t first, uint64_t step, uint64_t count, size_t cap)
{
    struct writer w = writer_of(list, cap);
    uint64_t last = UINT64_MAX;
    for (uint64_t i = 0; i < count; i++)
        gossip_wanted_add(&w, &last, first + i * step);
    cr_assert_not(w.failed);
    return writer_len(&w);
}

Test(wanted, any_half_of_the_blocks_fits_the_bound)
{
    for (uint64_t blocks = 1; blocks <= BLOCKS_MAX; blocks = blocks * 3 / 2 + 1) {
        size_t cap = gossip_wanted_bytes_max(blocks);
        cr_assert_leq(cap, BLOCKS_MAX);
        for (uint64_t step = 1; step <= blocks; step = step * 2 + 1) {
            uint64_t most = (blocks - 1) / step + 1;
            uint64_t count = most < blocks / 2 ? most : blocks / 2;
            size_t len = build(blocks - 1 - (count == 0 ? 0 : count - 1) * step, step, count, cap);
            cr_assert_eq(gossip_wanted_check(bytes_of(list, len), blocks), (int)count,
                         "%llu blocks, step %llu", (unsigned long long)blocks, (unsigned long long)step);
        }
    }
}

Test(wanted, random_sets_come_back)
{
    struct rng_seeded seeded;
    rng_seeded_init(&seeded, 5);
    struct rng rng = rng_of_seeded(&seeded);
    for (int trial = 0; trial < 300; trial++) {
        static bool in[BLOCKS_MAX];
        uint64_t blocks = 2 + rng_below(&rng, trial % 2 == 0 ? 300 : BLOCKS_MAX - 2);
        uint64_t rarity = 2 + rng_below(&rng, 1000), count = 0, last = UINT64_MAX, block;
        struct writer w = writer_of(list, gossip_wanted_bytes_max(blocks));
        for (uint64_t i = 0; i < blocks; i++) {
            in[i] = count < blocks / 2 && rng_below(&rng, rarity) == 0;
            count += in[i];
            if (in[i])
                gossip_wanted_add(&w, &last, i);
        }
        cr_assert_not(w.failed);
        struct bytes made = bytes_of(list, writer_len(&w));
        cr_assert_eq(gossip_wanted_check(made, blocks), (int)count);
        struct reader r = reader_of(made);
        last = UINT64_MAX;
        while (gossip_wanted_next(&r, &last, &block)) {
            cr_assert(block < blocks && in[block]);
            in[block] = false;
            count--;
        }
        cr_assert(count == 0 && !r.failed);
    }
}

Test(wanted, what_is_not_a_list_is_refused)
{
    static const uint8_t cut[] = {0x80}, padded[] = {0x81, 0x00}, huge[] = {0xff, 0xff, 0xff, 0xff, 0x7f},
                         endless[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0x01}, far[] = {10}, near[] = {9},
                         three[] = {0, 0, 0};
    cr_assert_eq(gossip_wanted_check(bytes_of(cut, 1), 100), ERR_MALFORMED);
    cr_assert_eq(gossip_wanted_check(bytes_of(padded, 2), 100), ERR_MALFORMED);
    cr_assert_eq(gossip_wanted_check(bytes_of(huge, 5), 100), ERR_MALFORMED);
    cr_assert_eq(gossip_wanted_check(bytes_of(endless, 6), 100), ERR_MALFORMED);
    cr_assert_eq(gossip_wanted_check(bytes_of(far, 1), 10), ERR_MALFORMED);
    cr_assert_eq(gossip_wanted_check(bytes_of(near, 1), 10), 1);
    cr_assert_eq(gossip_wanted_check(bytes_of(three, 3), 6), 3);
    cr_assert_eq(gossip_wanted_check(bytes_of(three, 3), 5), ERR_MALFORMED); /* more than half */
    cr_assert_eq(gossip_wanted_check(bytes_of(NULL, 0), 5), 0);
    cr_assert_eq(gossip_wanted_check(bytes_of(near, 1), 1), ERR_MALFORMED);
}
