/* The modular codec: bytes must equal a plain transcription of the format, close partners must decode the
 * sender's own values bit for bit, wrong blocks must be found at the rate a 16-bit checksum promises, and no
 * number or byte, however hostile, may yield NaN, an overflow or a value far from the own one. */
#include <criterion/criterion.h>

#include "gossip/codec_modular.h"
#include "modular_reference.h"
#include "numbers.h"
#include "support/page.h"

enum { LEN = 4096, BYTES = 4 * LEN };

#define PAGE TEST_SOURCE_DIR "/../../docs/protocol/gossip.md"

static const enum gossip_codec codecs[3] = {GOSSIP_CODEC_MOD4, GOSSIP_CODEC_MOD3, GOSSIP_CODEC_MOD2};

static float theta[LEN], phi[LEN], other[LEN], values[LEN], mine[LEN], seen[LEN];
static uint8_t wire[BYTES], wrong[LEN];
static uint32_t wanted[LEN];

static struct gossip_tensor one(size_t count)
{
    return (struct gossip_tensor){0, count, GOSSIP_TENSOR_MATRIX};
}

/* theta around phi, both of this size. */
static void draw(struct numbers *n, size_t count, double size, double way)
{
    for (size_t i = 0; i < count; i++) {
        phi[i] = (float)(size * numbers_normal(n));
        theta[i] = phi[i] + (float)(way * numbers_normal(n));
    }
}

static struct gossip_modular_source source_of(const float *distances)
{
    return (struct gossip_modular_source){theta, phi, distances, GOSSIP_KAPPA, 1.0f};
}

static int encode(enum gossip_codec codec, size_t count, const float *distances)
{
    struct gossip_tensor tensor = one(count);
    struct gossip_modular_source source = source_of(distances);
    return gossip_modular_encode(codec, &tensor, 1, &source, wire, gossip_encoded_bytes(codec, count));
}

Test(codec_modular, sizes_are_exact)
{
    size_t counts[6] = {1, 8, 9, 255, 256, 1000};
    for (size_t c = 0; c < 3; c++) {
        unsigned bits = gossip_modular_bits(codecs[c]);
        cr_assert_eq(bits, 4 - c);
        for (size_t i = 0; i < 6; i++)
            cr_assert_eq(gossip_encoded_bytes(codecs[c], counts[i]),
                         (counts[i] + 255) / 256 * 4 + bits * ((counts[i] + 7) / 8));
    }
    cr_assert_eq(gossip_encoded_bytes(GOSSIP_CODEC_MOD3, 256), 100); /* 10.24 times fewer than float32 */
    cr_assert_eq(gossip_modular_bits(GOSSIP_CODEC_INT8), 0);
}

Test(codec_modular, examples_of_the_protocol_page_decode)
{
    const float near[3] = {-0.9f / 128, 2.4f / 128, 5.2f / 128};
    size_t len = page_example(PAGE, "modular", wire, sizeof wire);
    cr_assert_eq(len, gossip_encoded_bytes(GOSSIP_CODEC_MOD3, 3));
    cr_assert_eq(gossip_modular_values(GOSSIP_CODEC_MOD3, 3, wire, near, values, wrong), 0);
    cr_assert(values[0] == -1.0f / 128 && values[1] == 2.0f / 128 && values[2] == 5.0f / 128);
    len = page_example(PAGE, "indices", wire, sizeof wire);
    cr_assert_eq(gossip_indices_decode(bytes_of(wire, len), 301, wanted, LEN), 3);
    cr_assert(wanted[0] == 0 && wanted[1] == 1 && wanted[2] == 300);
}

Test(codec_modular, bytes_equal_a_plain_transcription)
{
    struct numbers n;
    numbers_init(&n, 1);
    for (int trial = 0; trial < 400; trial++) {
        enum gossip_codec codec = codecs[trial % 3];
        unsigned bits = gossip_modular_bits(codec);
        size_t count = 1 + numbers_below(&n, trial % 4 == 0 ? 260 : LEN);
        double size = pow(10, 4 * numbers_unit(&n) - 3);
        draw(&n, count, size, size * pow(10, -3 * numbers_unit(&n)));
        for (size_t i = 0; i < LEN; i++)
            seen[i] = (float)(size * 0.01 * numbers_unit(&n));
        cr_assert_eq(encode(codec, count, trial % 2 == 0 ? seen : NULL), 0);
        for (size_t at = 0; at < count; at += GOSSIP_BLOCK) {
            uint8_t *block = wire + gossip_encoded_bytes(codec, at);
            uint8_t expected[4 + 128];
            size_t len = count - at < GOSSIP_BLOCK ? count - at : GOSSIP_BLOCK;
            double sum = 0, largest = 0;
            for (size_t i = at; i < at + len; i++) {
                sum += pow((double)theta[i] - (double)phi[i], 2);
                largest = fmax(largest, fabs((double)theta[i]));
            }
            double range = fmax(sqrt(sum / (double)len), trial % 2 == 0 ? 0.7 * (double)seen[at / 256] : 0);
            double step = fmax(6 * range / (1 << (bits - 1)), largest / GOSSIP_WHOLE_MAX);
            double got = (double)reference_step(block);
            cr_assert(got >= step * (1 - 1e-6) && got <= step * (1 + 1.0 / 128 + 1e-6),
                      "trial %d: step %g for %g", trial, got, step);
            memcpy(expected, block, 2);
            reference_encode(bits, len, theta + at, reference_step(block), expected);
            cr_assert_eq(memcmp(block, expected, gossip_encoded_bytes(codec, len)), 0, "trial %d", trial);
        }
    }
}

Test(codec_modular, close_partners_hold_the_senders_own_values)
{
    struct numbers n;
    numbers_init(&n, 2);
    for (int trial = 0; trial < 300; trial++) {
        enum gossip_codec codec = codecs[trial % 3];
        size_t count = 1 + numbers_below(&n, LEN);
        struct gossip_tensor tensor = one(count);
        draw(&n, count, 0.02, 0.001);
        cr_assert_eq(encode(codec, count, NULL), 0);
        for (size_t i = 0; i < count; i++) {
            double step = (double)reference_step(wire + gossip_encoded_bytes(codec, i / 256 * 256));
            double range = step * (1 << (gossip_modular_bits(codec) - 1)) - 0.51 * step;
            other[i] = theta[i] + (float)(range * (2 * numbers_unit(&n) - 1)); /* up to the very edge */
        }
        cr_assert_eq(gossip_modular_values(codec, count, wire, theta, mine, wrong), 0);
        cr_assert_eq(gossip_modular_values(codec, count, wire, other, values, wrong), 0);
        cr_assert_eq(memcmp(mine, values, count * sizeof *mine), 0);
        struct bytes blob = bytes_of(wire, gossip_encoded_bytes(codec, count));
        cr_assert_eq(gossip_modular_check(codec, &tensor, 1, blob, other, wanted), 0);
        for (size_t i = 0; i < count; i++) {
            double step = (double)reference_step(wire + gossip_encoded_bytes(codec, i / 256 * 256));
            cr_assert_leq(fabs((double)mine[i] - (double)theta[i]), 0.5 * step * (1 + 1e-3) + 1e-8);
        }
    }
}

/* Sizes from the smallest denormal to the largest legal weight, zeros, phi far away or equal. */
Test(codec_modular, own_blob_always_decodes_and_nothing_overflows)
{
    struct numbers n;
    numbers_init(&n, 3);
    for (int trial = 0; trial < 2000; trial++) {
        enum gossip_codec codec = codecs[trial % 3];
        size_t count = 1 + numbers_below(&n, 600);
        double size = pow(10, -45 + 75 * numbers_unit(&n)), way = pow(10, -45 + 75 * numbers_unit(&n));
        for (size_t i = 0; i < count; i++) {
            theta[i] = (float)(size * (2 * numbers_unit(&n) - 1));
            phi[i] = trial % 5 == 0 ? theta[i] : (float)(way * (2 * numbers_unit(&n) - 1));
            if (numbers_below(&n, 50) == 0)
                theta[i] = trial % 2 == 0 ? 0.0f : GOSSIP_VALUE_MAX;
        }
        seen[0] = seen[1] = seen[2] = trial % 3 == 0 ? 0.0f : (float)(size * numbers_unit(&n));
        cr_assert_eq(encode(codec, count, trial % 7 == 0 ? NULL : seen), 0);
        int result = gossip_modular_values(codec, count, wire, theta, values, wrong);
        cr_assert_eq(result, 0, "trial %d: %d wrong of its own, size %g way %g", trial, result, size, way);
        for (size_t i = 0; i < count; i++) {
            double step = (double)reference_step(wire + gossip_encoded_bytes(codec, i / 256 * 256));
            cr_assert(fabs((double)values[i] - (double)theta[i]) <=
                      0.5001 * step + 2e-7 * fabs((double)theta[i]));
        }
    }
}

/* Encodes one block of known integers with step 1: phi leaves the range where kappa 1 puts it. */
static void block_of_wholes(enum gossip_codec codec, struct numbers *n, float spread)
{
    unsigned bits = gossip_modular_bits(codec);
    for (size_t i = 0; i < GOSSIP_BLOCK; i++) {
        theta[i] = nearbyintf(spread * (float)numbers_normal(n));
        phi[i] = theta[i] + (float)(1 << (bits - 1)) * (i % 2 == 0 ? 1.0f : -1.0f);
    }
    struct gossip_tensor tensor = one(GOSSIP_BLOCK);
    struct gossip_modular_source source = {theta, phi, NULL, 1.0f, 1.0f};
    cr_assert_eq(gossip_modular_encode(codec, &tensor, 1, &source, wire, gossip_encoded_bytes(codec, 256)),
                 0);
    cr_assert_eq(reference_step(wire), 1.0f);
}

Test(codec_modular, every_single_wrap_is_found_and_pairs_are_not_missed_more_than_others)
{
    struct numbers n;
    int missed = 0; /* of 195,840 pairs; 2^-16 of them: 3 */
    numbers_init(&n, 4);
    for (size_t c = 0; c < 3; c++) {
        float modulus = (float)(1 << gossip_modular_bits(codecs[c]));
        block_of_wholes(codecs[c], &n, 300.0f);
        for (size_t i = 0; i < GOSSIP_BLOCK; i++) {
            for (int turns = -2; turns <= 2; turns++) {
                memcpy(other, theta, sizeof other);
                other[i] += (float)turns * modulus;
                int result = gossip_modular_values(codecs[c], 256, wire, other, values, wrong);
                cr_assert_eq(result, turns != 0, "mod %g, %zu turned by %d", (double)modulus, i, turns);
            }
            for (size_t k = 0; k < GOSSIP_BLOCK; k++) { /* opposite turns: plain sums miss these */
                if (k == i)
                    continue;
                memcpy(other, theta, sizeof other);
                other[i] += modulus;
                other[k] -= modulus;
                missed += gossip_modular_values(codecs[c], 256, wire, other, values, wrong) == 0;
            }
        }
    }
    cr_assert_leq(missed, 12);
}

/* Blocks with 1 to 256 wraps: at most 2^-16 of them may pass, give or take chance (about 1.5 of 100,000). */
Test(codec_modular, wrong_blocks_escape_at_the_rate_of_sixteen_bits)
{
    enum { TRIALS = 100000 };
    struct numbers n;
    int missed = 0;
    numbers_init(&n, 5);
    for (int trial = 0; trial < TRIALS; trial++) {
        enum gossip_codec codec = codecs[trial % 3];
        float modulus = (float)(1 << gossip_modular_bits(codec));
        if (trial % 1000 < 3)
            block_of_wholes(codec, &n, 20.0f);
        if (trial % 1000 >= 3)
            codec = codecs[2];
        modulus = (float)(1 << gossip_modular_bits(codec));
        memcpy(other, theta, GOSSIP_BLOCK * sizeof *other);
        size_t turned = (size_t)1 << numbers_below(&n, 9);
        for (size_t k = 0; k < turned; k++)
            other[numbers_below(&n, GOSSIP_BLOCK)] += numbers_below(&n, 2) == 0 ? modulus : -modulus;
        bool differs = memcmp(other, theta, GOSSIP_BLOCK * sizeof *other) != 0;
        int result = gossip_modular_values(codec, GOSSIP_BLOCK, wire, other, values, wrong);
        cr_assert(result >= 0 && (differs || result == 0));
        missed += differs && result == 0;
    }
    cr_assert_leq(missed, 8, "%d of %d wrong blocks passed", missed, TRIALS);
}

/* What share of blocks is sent again depends on the distance alone: a value wraps when it lies outside of R,
 * so with normal distances of rms d the share is 1 - P(|N| < R / d)^256. */
Test(codec_modular, share_of_wrong_blocks_follows_from_the_distance)
{
    enum { ROUNDS = 60 };
    double ratios[4] = {1.0, 1.5, 1.8, 2.2}; /* d over rms(theta - phi): R / d = 6, 4, 3.3, 2.7 */
    struct numbers n;
    numbers_init(&n, 6);
    for (size_t c = 0; c < 3; c++) {
        unsigned bits = gossip_modular_bits(codecs[c]);
        for (size_t r = 0; r < 4; r++) {
            size_t blocks = 0, found = 0;
            double expected = 0;
            for (int round = 0; round < ROUNDS; round++) {
                draw(&n, LEN, 0.02, 0.001);
                cr_assert_eq(encode(codecs[c], LEN, NULL), 0);
                for (size_t i = 0; i < LEN; i++)
                    other[i] = theta[i] + (float)(0.001 * ratios[r] * numbers_normal(&n));
                int result = gossip_modular_values(codecs[c], LEN, wire, other, values, wrong);
                cr_assert_geq(result, 0);
                found += (size_t)result;
                for (size_t at = 0; at < LEN; at += GOSSIP_BLOCK, blocks++) {
                    double step = (double)reference_step(wire + gossip_encoded_bytes(codecs[c], at));
                    double edge = step * ((1 << (bits - 1)) - 0.0) / (0.001 * ratios[r]);
                    double noise = step / sqrt(12) / (0.001 * ratios[r]); /* rounding moves the edge */
                    expected += 1 - pow(erf(edge / sqrt(2 * (1 + noise * noise))), 256);
                }
            }
            double share = (double)found / (double)blocks, theory = expected / (double)blocks;
            cr_assert(fabs(share - theory) < 0.06 + 0.15 * theory, "%u bits, ratio %g: %g for %g", bits,
                      ratios[r], share, theory);
            if (r == 0)
                cr_assert_leq(share, bits == 2 ? 0.01 : 0.001);
        }
    }
}

Test(codec_modular, a_known_distance_widens_the_range)
{
    struct numbers n;
    numbers_init(&n, 7);
    draw(&n, LEN, 0.02, 0.001);
    for (size_t i = 0; i < LEN; i++) {
        other[i] = theta[i] + (float)(0.004 * numbers_normal(&n));
        seen[i] = i < LEN / 256 ? 0.004f : 0.0f;
    }
    struct gossip_tensor tensor = one(LEN);
    struct bytes blob = bytes_of(wire, gossip_encoded_bytes(GOSSIP_CODEC_MOD3, LEN));
    cr_assert_eq(encode(GOSSIP_CODEC_MOD3, LEN, NULL), 0);
    cr_assert_eq(gossip_modular_check(GOSSIP_CODEC_MOD3, &tensor, 1, blob, other, wanted), ERR_FAR);
    cr_assert_eq(encode(GOSSIP_CODEC_MOD3, LEN, seen), 0);
    int found = gossip_modular_check(GOSSIP_CODEC_MOD3, &tensor, 1, blob, other, wanted);
    cr_assert(found >= 0 && found <= 2, "%d", found); /* 0.7 * 6 = 4.2 sigma */
    struct gossip_modular_source source = source_of(seen);
    source.distance_scale = 2.0f;
    cr_assert_eq(gossip_modular_encode(GOSSIP_CODEC_MOD3, &tensor, 1, &source, wire, blob.len), 0);
    cr_assert_eq(gossip_modular_check(GOSSIP_CODEC_MOD3, &tensor, 1, blob, other, wanted), 0);
}

Test(codec_modular, wanted_blocks_are_numbered_over_all_tensors_of_the_span)
{
    /* A span from the middle of a table: offsets do not begin at 0. */
    const struct gossip_tensor span[3] = {{5000, 300, GOSSIP_TENSOR_MATRIX},
                                          {5300, 1, GOSSIP_TENSOR_VECTOR},
                                          {5301, 1500, GOSSIP_TENSOR_MATRIX}};
    enum { VALUES = 1801 };
    struct numbers n;
    numbers_init(&n, 8);
    draw(&n, VALUES, 0.02, 0.001);
    struct gossip_modular_source source = source_of(NULL);
    for (size_t c = 0; c < 3; c++) {
        size_t bytes = gossip_blob_bytes(codecs[c], span, 3);
        cr_assert_eq(gossip_block_count(span, 3), 2 + 1 + 6);
        cr_assert_eq(gossip_wanted_max(span, 3), 4);
        cr_assert_eq(gossip_modular_encode(codecs[c], span, 3, &source, wire, bytes), 0);
        memcpy(other, theta, sizeof other);
        other[299] += 0.5f; /* the tail of the first, the whole second, the last block of the third */
        other[300] += 0.5f;
        other[1800] -= 0.5f;
        cr_assert_eq(gossip_modular_check(codecs[c], span, 3, bytes_of(wire, bytes), other, wanted), 3);
        cr_assert(wanted[0] == 1 && wanted[1] == 2 && wanted[2] == 8);
        for (size_t i = 301; i < 1200; i += 256)
            other[i] += 0.5f;
        cr_assert_eq(gossip_modular_check(codecs[c], span, 3, bytes_of(wire, bytes), other, wanted), ERR_FAR);
        cr_assert_eq(gossip_modular_check(codecs[c], span, 3, bytes_of(wire, bytes - 1), other, wanted),
                     ERR_MALFORMED);
        cr_assert_eq(gossip_modular_check(GOSSIP_CODEC_INT8, span, 3, bytes_of(wire, bytes), other, wanted),
                     ERR_INVALID);
        cr_assert_eq(gossip_modular_encode(codecs[c], span, 3, &source, wire, bytes + 1), ERR_INVALID);
    }
    cr_assert_eq(gossip_modular_encode(GOSSIP_CODEC_BF16, span, 3, &source, wire, VALUES * 2), ERR_INVALID);
}

Test(codec_modular, broken_numbers_are_not_sent)
{
    const float bad[4] = {NAN, INFINITY, -INFINITY, 1.1e30f};
    struct numbers n;
    numbers_init(&n, 9);
    for (size_t c = 0; c < 3; c++) {
        for (size_t i = 0; i < 4; i++) {
            for (size_t place = 0; place < 600; place += 599) {
                draw(&n, 600, 0.02, 0.001);
                theta[place] = bad[i];
                cr_assert_eq(encode(codecs[c], 600, NULL), ERR_NOT_FINITE);
                draw(&n, 600, 0.02, 0.001);
                phi[place] = bad[i];
                cr_assert_eq(encode(codecs[c], 600, NULL), ERR_NOT_FINITE);
                draw(&n, 600, 0.02, 0.001);
                memset(seen, 0, sizeof seen);
                seen[place / 256] = bad[i];
                cr_assert_eq(encode(codecs[c], 600, seen), ERR_NOT_FINITE);
            }
        }
        seen[0] = seen[1] = 0;
        seen[2] = -1.0f;
        cr_assert_eq(encode(codecs[c], 600, seen), ERR_NOT_FINITE);
    }
    struct gossip_tensor tensor = one(600);
    const float wrong_settings[5] = {0.5f, 65.0f, NAN, INFINITY, -6.0f};
    for (size_t i = 0; i < 5; i++) {
        struct gossip_modular_source source = source_of(NULL);
        size_t bytes = gossip_encoded_bytes(GOSSIP_CODEC_MOD3, 600);
        source.kappa = wrong_settings[i];
        cr_assert_eq(gossip_modular_encode(GOSSIP_CODEC_MOD3, &tensor, 1, &source, wire, bytes), ERR_INVALID);
        source = source_of(NULL);
        source.distance_scale = wrong_settings[i];
        cr_assert_eq(gossip_modular_encode(GOSSIP_CODEC_MOD3, &tensor, 1, &source, wire, bytes), ERR_INVALID);
    }
}

Test(codec_modular, hostile_steps_and_stray_bits_are_refused)
{
    const uint16_t steps[9] = {
        0,     0x0001, 0x007f, 0x8000, 0xbf80 /* -1 */, 0x7f80 /* infinite */, 0x7fc0, 0x0d00 /* 2^-101 */,
        0x6780 /* 2^80 */};
    struct numbers n;
    numbers_init(&n, 10);
    for (size_t c = 0; c < 3; c++) {
        for (size_t i = 0; i < 9; i++) {
            for (size_t place = 0; place < 600; place += 256) {
                draw(&n, 600, 0.02, 0.001);
                cr_assert_eq(encode(codecs[c], 600, NULL), 0);
                store_le16(wire + gossip_encoded_bytes(codecs[c], place), steps[i]);
                cr_assert_eq(gossip_modular_values(codecs[c], 600, wire, theta, values, wrong), ERR_MALFORMED,
                             "step %zu", i);
            }
        }
        draw(&n, 601, 0.02, 0.001);
        cr_assert_eq(encode(codecs[c], 601, NULL), 0); /* 89 values in the last block: 12 bytes a plane */
        wire[gossip_encoded_bytes(codecs[c], 601) - 1] |= 0x80;
        cr_assert_eq(gossip_modular_values(codecs[c], 601, wire, theta, values, wrong), ERR_MALFORMED);
        cr_assert_eq(encode(codecs[c], 600, NULL), 0);
        theta[599] = NAN;
        cr_assert_eq(gossip_modular_values(codecs[c], 600, wire, theta, values, wrong), ERR_NOT_FINITE);
    }
    cr_assert_eq(gossip_modular_values(GOSSIP_CODEC_INT8, 600, wire, theta, values, wrong), ERR_INVALID);
}

/* Random bytes under a legal step: what comes out lies within R and half a step of the own weights, or the
 * block is wrong; whatever it is, it is finite. */
Test(codec_modular, hostile_bytes_stay_near_the_own_weights)
{
    struct numbers n;
    numbers_init(&n, 11);
    for (int trial = 0; trial < 3000; trial++) {
        enum gossip_codec codec = codecs[trial % 3];
        unsigned bits = gossip_modular_bits(codec);
        size_t bytes = gossip_encoded_bytes(codec, 512);
        double size = pow(10, -40 + 69 * numbers_unit(&n));
        for (size_t i = 0; i < bytes; i++)
            wire[i] = (uint8_t)numbers_below(&n, 256);
        store_le16(wire, (uint16_t)(0x0d80 + numbers_below(&n, 0x6700 - 0x0d80)));
        store_le16(wire + bytes / 2, (uint16_t)(0x0d80 + numbers_below(&n, 0x6700 - 0x0d80)));
        for (size_t i = 0; i < 512; i++)
            theta[i] = (float)(size * (2 * numbers_unit(&n) - 1));
        int result = gossip_modular_values(codec, 512, wire, theta, values, wrong);
        cr_assert_geq(result, 0);
        for (size_t i = 0; i < 512; i++) {
            double step = (double)reference_step(wire + (i < 256 ? 0 : bytes / 2));
            double reach = step * ((1 << (bits - 1)) + 0.5);
            cr_assert(isfinite(values[i]));
            if (!wrong[i / 256])
                cr_assert_leq(fabs((double)values[i] - (double)theta[i]),
                              reach + 2e-7 * fabs((double)theta[i]));
        }
    }
}

/* The value of every right block is the integer nearest to the own weight, found in double. */
Test(codec_modular, lifted_integers_equal_a_double_reference)
{
    struct numbers n;
    numbers_init(&n, 12);
    for (int trial = 0; trial < 300; trial++) {
        enum gossip_codec codec = codecs[trial % 3];
        unsigned bits = gossip_modular_bits(codec);
        draw(&n, 512, 0.02, 0.002);
        cr_assert_eq(encode(codec, 512, NULL), 0);
        for (size_t i = 0; i < 512; i++)
            other[i] = theta[i] + (float)(0.006 * numbers_normal(&n));
        cr_assert_geq(gossip_modular_values(codec, 512, wire, other, values, wrong), 0);
        for (size_t i = 0; i < 512; i++) {
            float step = reference_step(wire + gossip_encoded_bytes(codec, i / 256 * 256));
            double whole = reference_lift(bits, reference_whole(theta[i], step), other[i], step);
            double gap = fabs((double)values[i] - whole * (double)step);
            double edge = fabs(fabs((double)other[i] / (double)step - whole) - (1 << (bits - 1)));
            cr_assert(gap < 1e-6 || edge < 1e-3, "trial %d value %zu", trial, i); /* ties go either way */
        }
    }
}
