/* The cut into fragments: every tensor in one of them, in order, the largest as small as it can be; and what
 * the layout says of their sizes. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/rng.h"
#include "gossip/codec.h"
#include "gossip/tensor.h"

enum { TENSORS = 12 };

static size_t table_of(struct gossip_tensor out[], const size_t counts[], size_t tensor_count)
{
    size_t offset = 0;
    for (size_t i = 0; i < tensor_count; i++) {
        out[i] = (struct gossip_tensor){offset, counts[i], GOSSIP_TENSOR_MATRIX};
        offset += counts[i];
    }
    return offset;
}

/* Smallest possible largest span, by trying every cut. */
static size_t best_of(const size_t counts[], size_t tensor_count, size_t parts)
{
    size_t best = SIZE_MAX, sum = 0;
    if (parts == 1) {
        for (size_t i = 0; i < tensor_count; i++)
            sum += counts[i];
        return sum;
    }
    for (size_t first = 1; first + parts - 1 <= tensor_count; first++) {
        sum += counts[first - 1];
        size_t rest = best_of(counts + first, tensor_count - first, parts - 1);
        size_t largest = sum > rest ? sum : rest;
        best = largest < best ? largest : best;
    }
    return best;
}

Test(fragment, random_tables_are_cut_as_evenly_as_any_cut_can)
{
    struct rng_seeded seeded;
    rng_seeded_init(&seeded, 7);
    struct rng rng = rng_of_seeded(&seeded);
    for (int trial = 0; trial < 400; trial++) {
        struct gossip_tensor tensors[TENSORS];
        struct gossip_fragment cut[GOSSIP_FRAGMENTS_MAX];
        size_t counts[TENSORS], tensor_count = 1 + rng_below(&rng, TENSORS);
        size_t wanted = 1 + rng_below(&rng, GOSSIP_FRAGMENTS_MAX), largest = 0, tensor = 0, offset = 0;
        for (size_t i = 0; i < tensor_count; i++)
            counts[i] = 1 + rng_below(&rng, rng_below(&rng, 4) == 0 ? 5000 : 50);
        size_t total = table_of(tensors, counts, tensor_count);
        int parts = gossip_fragments_cut(tensors, tensor_count, wanted, cut);
        cr_assert_eq(parts, (int)(wanted < tensor_count ? wanted : tensor_count));
        for (int i = 0; i < parts; i++) {
            size_t sum = 0;
            cr_assert(cut[i].first_tensor == tensor && cut[i].offset == offset && cut[i].tensor_count > 0);
            for (size_t k = 0; k < cut[i].tensor_count; k++)
                sum += counts[tensor++];
            cr_assert_eq(cut[i].count, sum);
            offset += sum;
            largest = sum > largest ? sum : largest;
        }
        cr_assert(tensor == tensor_count && offset == total);
        cr_assert_eq(largest, best_of(counts, tensor_count, (size_t)parts), "trial %d", trial);
    }
}

Test(fragment, equal_tensors_give_equal_fragments)
{
    struct gossip_tensor tensors[TENSORS];
    struct gossip_fragment cut[GOSSIP_FRAGMENTS_MAX];
    size_t counts[TENSORS];
    for (size_t i = 0; i < TENSORS; i++)
        counts[i] = 1000;
    table_of(tensors, counts, TENSORS);
    cr_assert_eq(gossip_fragments_cut(tensors, TENSORS, 5, cut),
                 5); /* 3 3 2 2 2 in some order, not 3 3 3 2 1 */
    for (int i = 0; i < 5; i++)
        cr_assert(cut[i].count == 2000 || cut[i].count == 3000);
    cr_assert_eq(gossip_fragments_cut(tensors, TENSORS, 0, cut), ERR_INVALID);
    cr_assert_eq(gossip_fragments_cut(tensors, TENSORS, GOSSIP_FRAGMENTS_MAX + 1, cut), ERR_INVALID);
    cr_assert_eq(gossip_fragments_cut(tensors, 0, 1, cut), ERR_INVALID);
}

Test(fragment, the_layout_adds_up_and_its_schema_covers_the_cut)
{
    struct gossip_tensor tensors[3];
    struct gossip_layout one, two;
    size_t counts[3] = {1000, 300, 77};
    table_of(tensors, counts, 3);
    cr_assert_eq(gossip_layout_of(tensors, 3, 1, &one), 0);
    cr_assert_eq(gossip_layout_of(tensors, 3, 2, &two), 0);
    cr_assert(one.fragment_count == 1 && two.fragment_count == 2);
    cr_assert(!id_equal(&one.schema, &two.schema));
    cr_assert_eq(gossip_layout_of(tensors, 3, 9, &one), ERR_INVALID);
    for (int codec = 0; codec < GOSSIP_CODEC_COUNT; codec++) {
        cr_assert_eq(two.encoded_bytes[codec], one.fragment_bytes[0][codec]);
        cr_assert_eq(two.encoded_bytes[codec], two.fragment_bytes[0][codec] + two.fragment_bytes[1][codec]);
    }
    cr_assert(two.fragment_blocks[0] == 4 && two.fragment_blocks[1] == 2 + 1);
    cr_assert_eq(two.fragment_bytes[0][GOSSIP_CODEC_MOD3], 4 * 4 + 3 * 96 + 3 * (1000 - 768) / 8);
    cr_assert_eq(two.fragment_bytes[1][GOSSIP_CODEC_MOD3], 3 * 4 + 96 + 3 * 6 + 3 * 10);
    cr_assert_eq(gossip_layout_repair_max(&two, 0), 2 * 260);
    cr_assert_eq(gossip_layout_repair_max(&two, 1), 260);
    cr_assert(gossip_layout_fragment(&two, 7) == 1 && gossip_layout_fragment(&one, 7) == 0);
}
