/* Encodings must round as documented, have exactly the announced size, and never turn hostile bytes into NaN.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "gossip/codec.h"
#include "numbers.h"

enum { LEN = 1537, CASES = 6 };

static float values[LEN], decoded[LEN];
static uint8_t wire[4 * LEN + 64];

static void put_float(uint8_t *to, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    store_le32(to, bits);
}

static float get_float(const uint8_t *from)
{
    uint32_t bits = load_le32(from);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Scalar bfloat16 rounding by comparison of the two neighbours. */
static float reference_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t low = bits & 0xffff0000u, high = low + 0x10000u;
    float below, above;
    memcpy(&below, &low, sizeof below);
    memcpy(&above, &high, sizeof above);
    double down = fabs((double)value - (double)below), up = fabs((double)above - (double)value);
    if (down != up)
        return down < up ? below : above;
    return (low >> 16 & 1) == 0 ? below : above;
}

/* Scalar int8 block: rounds the quotient in double. */
static void reference_int8(size_t count, const float in[], float out[])
{
    float absmax = 0;
    for (size_t i = 0; i < count; i++)
        absmax = fabsf(in[i]) > absmax ? fabsf(in[i]) : absmax;
    float scale = absmax / 127.0f;
    for (size_t i = 0; i < count; i++)
        out[i] = absmax > 0 ? (float)nearbyint((double)in[i] * 127.0 / (double)absmax) * scale : 0;
}

Test(codec, sizes_are_exact)
{
    size_t counts[CASES] = {0, 1, 255, 256, 257, LEN};
    for (size_t i = 0; i < CASES; i++) {
        size_t n = counts[i];
        cr_assert_eq(gossip_encoded_bytes(GOSSIP_CODEC_FP32, n), 4 * n);
        cr_assert_eq(gossip_encoded_bytes(GOSSIP_CODEC_BF16, n), 2 * n);
        cr_assert_eq(gossip_encoded_bytes(GOSSIP_CODEC_INT8, n), n + 4 * ((n + 255) / 256));
    }
}

Test(codec, every_codec_writes_and_reads_exactly_its_bytes)
{
    struct numbers n;
    numbers_init(&n, 1);
    numbers_fill(&n, LEN, 1.0, values);
    for (int codec = 0; codec <= GOSSIP_CODEC_INT8; codec++) {
        for (size_t count = 1; count <= LEN; count += count < 600 ? 1 : 131) {
            size_t bytes = gossip_encoded_bytes((enum gossip_codec)codec, count);
            memset(wire, 0xa5, sizeof wire);
            cr_assert_eq(gossip_encode_values((enum gossip_codec)codec, count, values, wire), 0);
            cr_assert_eq(wire[bytes], 0xa5);
            uint8_t *exact = malloc(bytes); /* the address sanitizer watches the edges */
            memcpy(exact, wire, bytes);
            cr_assert_eq(gossip_decode_values((enum gossip_codec)codec, count, exact, decoded), 0);
            free(exact);
        }
    }
}

Test(codec, fp32_is_exact)
{
    struct numbers n;
    numbers_init(&n, 2);
    numbers_fill(&n, LEN, 1e6, values);
    values[0] = -0.0f;
    values[1] = 1e-45f;
    values[2] = GOSSIP_VALUE_MAX;
    cr_assert_eq(gossip_encode_values(GOSSIP_CODEC_FP32, LEN, values, wire), 0);
    cr_assert_eq(gossip_decode_values(GOSSIP_CODEC_FP32, LEN, wire, decoded), 0);
    cr_assert_eq(memcmp(values, decoded, sizeof values), 0);
    put_float(wire, 1.0f);
    cr_assert(wire[0] == 0 && wire[1] == 0 && wire[2] == 0x80 && wire[3] == 0x3f); /* little-endian */
}

Test(codec, bf16_rounds_to_nearest_even)
{
    struct numbers n;
    numbers_init(&n, 3);
    for (size_t i = 0; i < LEN; i++) {
        uint32_t bits = (uint32_t)numbers_u64(&n) & 0xbfffffffu; /* finite, below 2 */
        if (i % 3 == 0)
            bits = (bits & 0xffff0000u) | 0x8000u; /* ties */
        memcpy(&values[i], &bits, sizeof bits);
    }
    cr_assert_eq(gossip_encode_values(GOSSIP_CODEC_BF16, LEN, values, wire), 0);
    cr_assert_eq(gossip_decode_values(GOSSIP_CODEC_BF16, LEN, wire, decoded), 0);
    for (size_t i = 0; i < LEN; i++)
        cr_assert_eq(decoded[i], reference_bf16(values[i]), "%zu: %a", i, (double)values[i]);
}

Test(codec, int8_error_is_at_most_half_a_step)
{
    struct numbers n;
    for (int exponent = -30; exponent <= 29; exponent++) {
        static float expected[LEN];
        numbers_init(&n, 4);
        numbers_fill(&n, LEN, pow(10, exponent) * 0.2, values);
        cr_assert_eq(gossip_encode_values(GOSSIP_CODEC_INT8, LEN, values, wire), 0);
        cr_assert_eq(gossip_decode_values(GOSSIP_CODEC_INT8, LEN, wire, decoded), 0);
        for (size_t at = 0; at < LEN; at += GOSSIP_BLOCK) {
            size_t count = LEN - at < GOSSIP_BLOCK ? LEN - at : GOSSIP_BLOCK;
            double scale = (double)get_float(wire + gossip_encoded_bytes(GOSSIP_CODEC_INT8, at));
            reference_int8(count, values + at, expected + at);
            for (size_t i = at; i < at + count; i++) {
                /* A quotient within rounding of a half may go either way: one step, else equal. */
                double apart = fabs((double)decoded[i] - (double)expected[i]);
                cr_assert(apart == 0 || apart < 1.001 * scale);
                cr_assert_leq(fabs((double)decoded[i] - (double)values[i]), 0.5001 * scale);
            }
        }
    }
}

Test(codec, zero_blocks_stay_zero)
{
    memset(values, 0, sizeof values);
    values[3] = 1e-38f; /* below what a scale can carry: sent as zero */
    cr_assert_eq(gossip_encode_values(GOSSIP_CODEC_INT8, LEN, values, wire), 0);
    cr_assert_eq(gossip_decode_values(GOSSIP_CODEC_INT8, LEN, wire, decoded), 0);
    for (size_t i = 0; i < LEN; i++)
        cr_assert_eq(decoded[i], 0.0f);
}

Test(codec, values_that_are_not_finite_are_refused_everywhere)
{
    float bad[] = {NAN, -NAN, INFINITY, -INFINITY, 1.1e30f, -2e30f};
    for (int codec = 0; codec <= GOSSIP_CODEC_INT8; codec++) {
        for (size_t k = 0; k < sizeof bad / sizeof bad[0]; k++) {
            for (size_t i = 0; i < LEN; i += 97) {
                for (size_t j = 0; j < LEN; j++)
                    values[j] = 1.0f;
                values[i] = bad[k];
                cr_assert_eq(gossip_encode_values((enum gossip_codec)codec, LEN, values, wire),
                             ERR_NOT_FINITE);
            }
        }
    }
}

Test(codec, bad_scales_and_bytes_are_refused)
{
    float scales[] = {NAN, INFINITY, -INFINITY, -1.0f, -0.0f, 1e29f};
    for (size_t k = 0; k < sizeof scales / sizeof scales[0]; k++) {
        memset(wire, 1, 260);
        put_float(wire, scales[k]);
        cr_assert_eq(gossip_decode_values(GOSSIP_CODEC_INT8, 256, wire, decoded), ERR_NOT_FINITE, "case %zu",
                     k);
    }
    memset(wire, 0, 260);
    cr_assert_eq(gossip_decode_values(GOSSIP_CODEC_INT8, 256, wire, decoded), 0);
    wire[259] = 1; /* something under a zero scale */
    cr_assert_eq(gossip_decode_values(GOSSIP_CODEC_INT8, 256, wire, decoded), ERR_NOT_FINITE);
    put_float(wire, 1.0f);
    cr_assert_eq(gossip_decode_values(GOSSIP_CODEC_INT8, 256, wire, decoded), 0);
    wire[100] = 0x80; /* -128 */
    cr_assert_eq(gossip_decode_values(GOSSIP_CODEC_INT8, 256, wire, decoded), ERR_NOT_FINITE);
}

Test(codec, random_bytes_decode_to_finite_numbers_or_an_error)
{
    struct numbers n;
    size_t accepted = 0;
    numbers_init(&n, 6);
    for (int trial = 0; trial < 3000; trial++) {
        enum gossip_codec codec = (enum gossip_codec)(trial % 3);
        size_t count = 1 + numbers_below(&n, 20);
        for (size_t i = 0; i < gossip_encoded_bytes(codec, count); i++)
            wire[i] = (uint8_t)numbers_u64(&n);
        if (gossip_decode_values(codec, count, wire, decoded) < 0)
            continue;
        accepted++;
        for (size_t i = 0; i < count; i++)
            cr_assert(fabsf(decoded[i]) <= GOSSIP_VALUE_MAX * 1.001f);
    }
    cr_assert_gt(accepted, 100);
}

Test(codec, whole_blobs_keep_blocks_inside_tensors)
{
    struct gossip_tensor tensors[3] = {
        {0, 300, GOSSIP_TENSOR_MATRIX}, {300, 1, GOSSIP_TENSOR_VECTOR}, {301, 512, GOSSIP_TENSOR_MATRIX}};
    struct gossip_layout layout;
    struct numbers n;
    numbers_init(&n, 7);
    numbers_fill(&n, 813, 0.1, values);
    values[300] = 1000.0f; /* a gain beside small weights must not coarsen them */
    cr_assert_eq(gossip_layout_of(tensors, 3, 1, &layout), 0);
    cr_assert_eq(layout.param_count, 813);
    for (int codec = 0; codec <= GOSSIP_CODEC_INT8; codec++) {
        size_t bytes = (size_t)layout.encoded_bytes[codec];
        cr_assert_eq(gossip_encode((enum gossip_codec)codec, tensors, 3, values, wire, bytes + 1),
                     ERR_INVALID);
        cr_assert_eq(gossip_encode((enum gossip_codec)codec, tensors, 3, values, wire, bytes), 0);
        cr_assert_eq(gossip_decode((enum gossip_codec)codec, tensors, 3, bytes_of(wire, bytes - 1), decoded),
                     ERR_MALFORMED);
        cr_assert_eq(gossip_decode((enum gossip_codec)codec, tensors, 3, bytes_of(wire, bytes), decoded), 0);
        for (size_t i = 0; i < 813; i++)
            cr_assert_float_eq(decoded[i], values[i], i == 300 ? 4.0f : 0.004f);
    }
    cr_assert_eq(layout.encoded_bytes[GOSSIP_CODEC_INT8], 308 + 5 + 520);
}

Test(codec, tables_with_gaps_or_without_tensors_are_refused)
{
    struct gossip_layout layout, other;
    struct gossip_tensor gap[2] = {{0, 4, GOSSIP_TENSOR_MATRIX}, {5, 4, GOSSIP_TENSOR_MATRIX}};
    struct gossip_tensor empty[1] = {{0, 0, GOSSIP_TENSOR_MATRIX}};
    struct gossip_tensor huge[2] = {{0, (size_t)GOSSIP_PARAMS_MAX, GOSSIP_TENSOR_MATRIX},
                                    {(size_t)GOSSIP_PARAMS_MAX, 1, GOSSIP_TENSOR_MATRIX}};
    struct gossip_tensor kinds[2] = {{0, 4, GOSSIP_TENSOR_MATRIX}, {0, 4, GOSSIP_TENSOR_VECTOR}};
    cr_assert_eq(gossip_layout_of(gap, 2, 1, &layout), ERR_INVALID);
    cr_assert_eq(gossip_layout_of(empty, 1, 1, &layout), ERR_INVALID);
    cr_assert_eq(gossip_layout_of(huge, 2, 1, &layout), ERR_INVALID);
    cr_assert_eq(gossip_layout_of(gap, 0, 1, &layout), ERR_INVALID);
    cr_assert_eq(gossip_layout_of(&kinds[0], 1, 1, &layout), 0);
    cr_assert_eq(gossip_layout_of(&kinds[1], 1, 1, &other), 0);
    cr_assert_not(id_equal(&layout.schema, &other.schema)); /* the kind is part of the schema */
}

Test(codec, names)
{
    enum gossip_codec codec;
    for (int i = 0; i < GOSSIP_CODEC_COUNT; i++) {
        cr_assert_eq(gossip_codec_parse(gossip_codec_name((enum gossip_codec)i), &codec), 0);
        cr_assert_eq((int)codec, i);
    }
    cr_assert_eq(gossip_codec_parse("int4", &codec), ERR_NOT_FOUND);
}
