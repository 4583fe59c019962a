/* Lists of wrong blocks survive the wire in one form only, hostile lists are refused, and a repair holds
 * exactly the int8 encoding of the listed blocks. */
#include <criterion/criterion.h>
#include <string.h>

#include "gossip/codec_modular.h"
#include "numbers.h"

enum { LIST = 4096 };

static uint32_t list[LIST], back[LIST];
static uint8_t wire[5 * LIST];

/* An ascending list of count indices below blocks. */
static void draw(struct numbers *n, size_t count, size_t blocks)
{
    size_t left = count;
    for (size_t i = 0, at = 0; i < blocks && left > 0; i++)
        if (numbers_below(n, blocks - i) < left) {
            list[at++] = (uint32_t)i;
            left--;
        }
}

Test(codec_repair, lists_survive_and_fit_the_bound)
{
    struct numbers n;
    numbers_init(&n, 1);
    for (int trial = 0; trial < 500; trial++) {
        size_t blocks = 1 + numbers_below(&n, trial % 10 == 0 ? 200000 : 5000);
        size_t count = numbers_below(&n, (blocks < LIST ? blocks : LIST) + 1);
        if (trial % 3 == 0)
            count %= 5;
        draw(&n, count, blocks);
        size_t most = gossip_indices_bytes_max(blocks, count);
        size_t len = gossip_indices_encode(count, list, wire, sizeof wire);
        cr_assert(len <= most && len >= count, "%zu bytes, bound %zu", len, most);
        cr_assert_eq(gossip_indices_decode(bytes_of(wire, len), blocks, back, LIST), (int)count);
        cr_assert_eq(memcmp(list, back, count * sizeof *list), 0);
        if (count == 0)
            continue;
        cr_assert_eq(gossip_indices_decode(bytes_of(wire, len), blocks, back, count - 1), ERR_MALFORMED);
        cr_assert_eq(gossip_indices_decode(bytes_of(wire, len), list[count - 1], back, LIST), ERR_MALFORMED);
    }
}

Test(codec_repair, the_bound_holds_at_its_edges)
{
    const uint32_t edges[5] = {127, 128, 16384 + 128, 1u << 21, UINT32_MAX - 1};
    for (size_t i = 0; i < 5; i++) {
        list[0] = edges[i];
        size_t len = gossip_indices_encode(1, list, wire, sizeof wire);
        cr_assert_leq(len, gossip_indices_bytes_max((size_t)edges[i] + 1, 1));
        cr_assert_eq(gossip_indices_decode(bytes_of(wire, len), UINT32_MAX, back, 1), 1);
        cr_assert_eq(back[0], edges[i]);
    }
    for (uint32_t gap = 1; gap <= 1u << 14; gap *= 2) { /* evenly spread: all differences of one length */
        size_t count = 0;
        for (uint32_t at = gap; at < 1u << 20 && count < LIST; at += gap)
            list[count++] = at;
        size_t blocks = (size_t)list[count - 1] + 1;
        size_t len = gossip_indices_encode(count, list, wire, sizeof wire);
        cr_assert_leq(len, gossip_indices_bytes_max(blocks, count), "gap %u", gap);
    }
}

Test(codec_repair, hostile_lists_are_refused)
{
    const struct {
        uint8_t bytes[7];
        size_t len;
    } cases[6] = {{{0x80}, 1},                               /* cut off */
                  {{0x80, 0x00}, 2},                         /* zero in two bytes */
                  {{0xff, 0xff, 0xff, 0xff, 0x10}, 5},       /* 2^32 + */
                  {{0x80, 0x80, 0x80, 0x80, 0x80, 0x01}, 6}, /* six bytes */
                  {{0x05, 0xff, 0xff, 0xff, 0xff, 0x0f}, 6}, /* the sum leaves 32 bits */
                  {{0x05, 0x00, 0x64}, 3}};                  /* 5, 6, 107 of 100 blocks */
    for (size_t i = 0; i < 6; i++)
        cr_assert_eq(gossip_indices_decode(bytes_of(cases[i].bytes, cases[i].len), i == 5 ? 107 : UINT32_MAX,
                                           back, LIST),
                     ERR_MALFORMED, "case %zu", i);
    const uint8_t good[3] = {0x05, 0x00, 0x64};
    cr_assert_eq(gossip_indices_decode(bytes_of(good, 3), 108, back, LIST), 3);
    cr_assert(back[0] == 5 && back[1] == 6 && back[2] == 107);
    cr_assert_eq(gossip_indices_decode(bytes_of(NULL, 0), 10, back, 0), 0);
}

Test(codec_repair, random_bytes_have_one_meaning)
{
    struct numbers n;
    uint8_t again[sizeof wire];
    numbers_init(&n, 2);
    int accepted = 0;
    for (int trial = 0; trial < 20000; trial++) {
        size_t len = numbers_below(&n, 12);
        for (size_t i = 0; i < len; i++)
            wire[i] = (uint8_t)(numbers_below(&n, 256) & (trial % 2 == 0 ? 0xff : 0x8f));
        int count = gossip_indices_decode(bytes_of(wire, len), 1u << 30, back, LIST);
        if (count < 0)
            continue;
        accepted++;
        cr_assert_eq(gossip_indices_encode((size_t)count, back, again, sizeof again), len);
        cr_assert_eq(memcmp(again, wire, len), 0);
    }
    cr_assert_gt(accepted, 1000);
}

Test(codec_repair, a_repair_is_the_listed_blocks_in_int8)
{
    const struct gossip_tensor span[3] = {{700, 300, GOSSIP_TENSOR_MATRIX},
                                          {1000, 1, GOSSIP_TENSOR_VECTOR},
                                          {1001, 1500, GOSSIP_TENSOR_MATRIX}};
    const size_t first[9] = {0, 256, 300, 301, 557, 813, 1069, 1325, 1581};
    const size_t lens[9] = {256, 44, 1, 256, 256, 256, 256, 256, 220};
    static float theta[1801], values[256], expected[256];
    static uint8_t direct[9 * 260];
    struct numbers n;
    numbers_init(&n, 3);
    numbers_fill(&n, 1801, 0.1, theta);
    for (unsigned mask = 0; mask < 512; mask++) {
        size_t count = 0, bytes = 0, got = 0;
        for (uint32_t i = 0; i < 9; i++)
            if ((mask >> i & 1) != 0) {
                list[count++] = i;
                bytes += 4 + lens[i];
            }
        cr_assert_eq(gossip_repair_bytes(span, 3, count, list, &got), 0);
        cr_assert_eq(got, bytes);
        cr_assert_eq(gossip_repair_encode(span, 3, count, list, theta, wire, bytes + 1), ERR_INVALID);
        cr_assert_eq(gossip_repair_encode(span, 3, count, list, theta, wire, bytes), 0);
        const uint8_t *at = wire;
        for (size_t i = 0; i < count; i++) {
            size_t len = lens[list[i]];
            cr_assert_eq(gossip_decode_values(GOSSIP_CODEC_INT8, len, at, values), 0);
            cr_assert_eq(gossip_encode_values(GOSSIP_CODEC_INT8, len, theta + first[list[i]], direct), 0);
            cr_assert_eq(gossip_decode_values(GOSSIP_CODEC_INT8, len, direct, expected), 0);
            cr_assert_eq(memcmp(values, expected, len * sizeof *values), 0);
            at += 4 + len;
        }
    }
    size_t got;
    const uint32_t leaves[1] = {9}, repeats[2] = {3, 3}, falls[2] = {4, 3};
    cr_assert_eq(gossip_repair_bytes(span, 3, 1, leaves, &got), ERR_INVALID);
    cr_assert_eq(gossip_repair_bytes(span, 3, 2, repeats, &got), ERR_INVALID);
    cr_assert_eq(gossip_repair_bytes(span, 3, 2, falls, &got), ERR_INVALID);
    theta[301] = NAN;
    list[0] = 3;
    cr_assert_eq(gossip_repair_encode(span, 3, 1, list, theta, wire, 260), ERR_NOT_FINITE);
}
