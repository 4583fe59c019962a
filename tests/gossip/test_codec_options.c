/* The optional codecs: what they claim of their state must hold (nothing is lost, equal inputs give equal
 * bytes), and each must show why its reference or its feedback is there: without them averaging stalls and
 * small differences never arrive. */
#include <criterion/criterion.h>
#include <string.h>

#include "gossip/codec_anchor.h"
#include "gossip/codec_topk.h"
#include "gossip/merge/job.h"
#include "numbers.h"

enum { LEN = 10000, NODES = 8, WEIGHTS = 4096 };

static float input[LEN], error[LEN], values[LEN], other[LEN], sent[LEN], anchor[LEN];
static double all_in[LEN], all_out[LEN];
static uint8_t wire[4 * LEN], again[4 * LEN];

Test(codec_options, anchor_steps_round_and_sizes_are_exact)
{
    struct numbers n;
    numbers_init(&n, 1);
    cr_assert_eq(gossip_anchor_bytes(4, 256), 130);
    cr_assert_eq(gossip_anchor_bytes(3, 257), 98 + 2 + 3);
    for (int trial = 0; trial < 200; trial++) {
        unsigned bits = trial % 2 == 0 ? 3 : 4;
        size_t count = 1 + numbers_below(&n, LEN);
        numbers_fill(&n, count, 0.02, anchor);
        for (size_t i = 0; i < count; i++)
            input[i] = anchor[i] + (float)(0.0005 * numbers_normal(&n));
        cr_assert_eq(gossip_anchor_encode(bits, count, input, anchor, wire), 0);
        cr_assert_eq(gossip_anchor_decode(bits, count, wire, anchor, values), 0);
        for (size_t at = 0; at < count; at += GOSSIP_BLOCK) {
            double largest = 0;
            for (size_t i = at; i < count && i < at + GOSSIP_BLOCK; i++)
                largest = fmax(largest, fabs((double)input[i] - (double)anchor[i]));
            double step = largest / ((1 << (bits - 1)) - 1);
            for (size_t i = at; i < count && i < at + GOSSIP_BLOCK; i++)
                cr_assert_leq(fabs((double)values[i] - (double)input[i]), 0.505 * step + 1e-8);
        }
    }
}

Test(codec_options, anchor_refuses_what_is_broken)
{
    for (size_t i = 0; i < 600; i++)
        anchor[i] = input[i] = 0.01f * (float)i;
    cr_assert_eq(gossip_anchor_encode(4, 600, input, anchor, wire), 0); /* equal: steps of 0 */
    cr_assert_eq(gossip_anchor_decode(4, 600, wire, anchor, values), 0);
    cr_assert_eq(memcmp(values, input, 600 * sizeof *input), 0);
    wire[2] = 1; /* under a zero step */
    cr_assert_eq(gossip_anchor_decode(4, 600, wire, anchor, values), ERR_MALFORMED);
    input[3] += 1;
    const uint16_t steps[4] = {0x8001, 0x7f80, 0x7fc1, 0xffff};
    for (size_t i = 0; i < 4; i++) {
        cr_assert_eq(gossip_anchor_encode(4, 600, input, anchor, wire), 0);
        store_le16(wire, steps[i]);
        cr_assert_eq(gossip_anchor_decode(4, 600, wire, anchor, values), ERR_MALFORMED);
    }
    cr_assert_eq(gossip_anchor_encode(4, 600, input, anchor, wire), 0);
    store_le16(wire, 0x7f00); /* 1.7e38 */
    cr_assert_eq(gossip_anchor_decode(4, 600, wire, anchor, values), ERR_NOT_FINITE);
    memset(wire + 2, 0, 96);
    memset(wire + 2 + 96, 0xff, 32); /* q = -8 */
    cr_assert_eq(gossip_anchor_decode(4, 600, wire, anchor, values), ERR_MALFORMED);
    cr_assert_eq(gossip_anchor_encode(3, 599, input, anchor, wire), 0);
    wire[gossip_anchor_bytes(3, 599) - 1] |= 0x80; /* 87 values: the 88th bit has none */
    cr_assert_eq(gossip_anchor_decode(3, 599, wire, anchor, values), ERR_MALFORMED);
    input[599] = NAN;
    cr_assert_eq(gossip_anchor_encode(3, 600, input, anchor, wire), ERR_NOT_FINITE);
    input[599] = 1;
    anchor[0] = INFINITY;
    cr_assert_eq(gossip_anchor_encode(3, 600, input, anchor, wire), ERR_NOT_FINITE);
}

/* --- averaging of eight models without training: who stalls? */

static const struct gossip_tensor whole = {0, WEIGHTS, GOSSIP_TENSOR_MATRIX};
static float models[NODES][WEIGHTS], phis[NODES][WEIGHTS], deltas[NODES][WEIGHTS],
    distances[NODES][WEIGHTS / 256];
static struct gossip_history histories[NODES];

static void start_models(struct numbers *n)
{
    memset(histories, 0, sizeof histories);
    memset(deltas, 0, sizeof deltas);
    memset(distances, 0, sizeof distances);
    numbers_fill(n, WEIGHTS, 0.02, anchor);
    for (size_t node = 0; node < NODES; node++)
        for (size_t i = 0; i < WEIGHTS; i++) {
            phis[node][i] = anchor[i];
            models[node][i] = anchor[i] + (float)(0.002 * numbers_normal(n));
        }
}

/* Rms deviation from the mean of all. */
static double spread(void)
{
    double sum = 0;
    for (size_t i = 0; i < WEIGHTS; i++) {
        double mean = 0;
        for (size_t node = 0; node < NODES; node++)
            mean += (double)models[node][i] / NODES;
        for (size_t node = 0; node < NODES; node++)
            sum += pow((double)models[node][i] - mean, 2);
    }
    return sqrt(sum / WEIGHTS / NODES);
}

/* Plain averaging with int4 of the difference to this reference. */
static double average_by_anchor(uint64_t seed, const float reference[])
{
    size_t order[NODES];
    struct numbers n;
    numbers_init(&n, seed);
    start_models(&n);
    for (int round = 0; round < 40; round++) {
        numbers_matching(&n, NODES, order);
        for (size_t p = 0; p < NODES; p += 2) {
            float *x = models[order[p]], *y = models[order[p + 1]];
            cr_assert_eq(gossip_anchor_encode(4, WEIGHTS, x, reference, wire), 0);
            cr_assert_eq(gossip_anchor_decode(4, WEIGHTS, wire, reference, values), 0);
            cr_assert_eq(gossip_anchor_encode(4, WEIGHTS, y, reference, wire), 0);
            cr_assert_eq(gossip_anchor_decode(4, WEIGHTS, wire, reference, other), 0);
            for (size_t i = 0; i < WEIGHTS; i++) {
                float half = 0.5f * (other[i] - values[i]);
                x[i] += half;
                y[i] -= half;
            }
        }
    }
    return spread();
}

/* One direction of a modular exchange: blob, list, repair. */
struct parcel {
    uint8_t blob[WEIGHTS], repair[2 * WEIGHTS];
    uint32_t wanted[WEIGHTS / 256];
    struct gossip_sent sent;
};

/* Bytes on the wire, or 0 when the partner refuses: too far for the range. */
static size_t fill_parcel(struct parcel *parcel, enum gossip_codec codec, size_t from, size_t to)
{
    struct gossip_modular_source source = {models[from], phis[from], distances[from], GOSSIP_KAPPA, 1.0f};
    size_t len = gossip_blob_bytes(codec, &whole, 1), repair_len = 0;
    cr_assert_eq(gossip_modular_encode(codec, &whole, 1, &source, parcel->blob, len), 0);
    int count =
        gossip_modular_check(codec, &whole, 1, bytes_of(parcel->blob, len), models[to], parcel->wanted);
    if (count == ERR_FAR)
        return 0;
    cr_assert_geq(count, 0, "%s", err_name(count));
    cr_assert_eq(gossip_repair_bytes(&whole, 1, (size_t)count, parcel->wanted, &repair_len), 0);
    cr_assert_eq(gossip_repair_encode(&whole, 1, (size_t)count, parcel->wanted, models[from], parcel->repair,
                                      repair_len),
                 0);
    parcel->sent = (struct gossip_sent){codec, bytes_of(parcel->blob, len), parcel->wanted, (size_t)count,
                                        bytes_of(parcel->repair, repair_len)};
    return len + repair_len;
}

static void take(size_t node, const struct gossip_sent *own, const struct gossip_sent *partner)
{
    static float diff[WEIGHTS];
    struct gossip_merge_report report;
    struct gossip_merge_input in = {.tensors = &whole,
                                    .tensor_count = 1,
                                    .outer = gossip_outer_plain(),
                                    .strangers = true, /* no training, so no way of one's own */
                                    .partner_weight = 0.5f,
                                    .theta = models[node],
                                    .own = *own,
                                    .partner = *partner,
                                    .distances = distances[node]};
    memset(&histories[node], 0, sizeof histories[node]);
    cr_assert_eq(gossip_merge_job(&in, &histories[node], phis[node], deltas[node], diff, &report), 0);
}

/* The same with the modular codec and the merge job; the first round's distances stand for int8 contacts, who
 * is refused goes on alone with a wider range. */
static double average_by_modular(uint64_t seed, enum gossip_codec codec, double *bytes)
{
    int refused = 0;
    static struct parcel there, back;
    size_t order[NODES], total = 0;
    struct numbers n;
    numbers_init(&n, seed);
    start_models(&n);
    for (size_t node = 0; node < NODES; node++)
        for (size_t i = 0; i < WEIGHTS / 256; i++)
            distances[node][i] = 0.003f;
    for (int round = 0; round < 40; round++) {
        numbers_matching(&n, NODES, order);
        for (size_t p = 0; p < NODES; p += 2) {
            size_t x = order[p], y = order[p + 1];
            size_t one_way = fill_parcel(&there, codec, x, y), other_way = fill_parcel(&back, codec, y, x);
            total += one_way + other_way;
            if (one_way == 0 || other_way == 0) {
                refused++;
                gossip_distances_widen(WEIGHTS / 256, distances[x]);
                gossip_distances_widen(WEIGHTS / 256, distances[y]);
                continue;
            }
            take(x, &there.sent, &back.sent);
            take(y, &back.sent, &there.sent);
            memcpy(models[x], phis[x], sizeof models[x]);
            memcpy(models[y], phis[y], sizeof models[y]);
        }
    }
    cr_assert_leq(refused, 8, "%d of 160", refused);
    *bytes = (double)total / 40 / NODES / WEIGHTS;
    return spread();
}

Test(codec_options, direct_quantisation_stalls_and_a_reference_does_not)
{
    static const float nothing[WEIGHTS];
    const enum gossip_codec codecs[3] = {GOSSIP_CODEC_MOD4, GOSSIP_CODEC_MOD3, GOSSIP_CODEC_MOD2};
    for (uint64_t seed = 1; seed <= 3; seed++) {
        double direct = average_by_anchor(seed, nothing);
        double anchored = average_by_anchor(seed, anchor);
        cr_assert_gt(direct, 0.0005, "%g", direct); /* of 0.002 at first: stuck */
        cr_assert_lt(anchored, direct / 4, "%g %g", anchored, direct);
        for (size_t c = 0; c < 3; c++) {
            double bytes, modular = average_by_modular(seed, codecs[c], &bytes);
            /* At 2 bits the step is twice the distance: averaging alone neither contracts nor diverges. */
            cr_assert_lt(modular, c == 2 ? 0.0025 : direct / 20, "%u bits: %g, direct %g", 4 - (unsigned)c,
                         modular, direct);
            cr_assert_lt(bytes, c == 0 ? 0.65 : c == 1 ? 0.52 : 0.4);
        }
    }
}

/* --- top-k */

static int by_size(const void *x, const void *y)
{
    float a = fabsf(*(const float *)x), b = fabsf(*(const float *)y);
    return a < b ? 1 : a > b ? -1 : 0;
}

Test(codec_options, topk_sends_exactly_the_largest)
{
    struct numbers n;
    numbers_init(&n, 2);
    for (int trial = 0; trial < 60; trial++) {
        size_t count = 1 + numbers_below(&n, LEN), k = 1 + numbers_below(&n, 200);
        numbers_fill(&n, count, 1.0, input);
        for (size_t i = 0; trial % 3 == 0 && i < count; i++)
            input[i] = nearbyintf(input[i]); /* many equal ones */
        memset(error, 0, sizeof error);
        cr_assert_eq(gossip_topk_encode(k, count, 1.0f, input, error, wire), 0);
        const uint8_t *in = wire;
        for (size_t at = 0; at < count; at += GOSSIP_TOPK_CHUNK) {
            size_t len = count - at < GOSSIP_TOPK_CHUNK ? count - at : GOSSIP_TOPK_CHUNK;
            size_t kept = gossip_topk_kept(k, len);
            cr_assert_eq(kept, (size_t)ceil((double)k * (double)len / GOSSIP_TOPK_CHUNK));
            memcpy(other, input + at, len * sizeof *other);
            qsort(other, len, sizeof *other, by_size);
            for (size_t i = 0; i < kept; i++) {
                size_t index = load_le16(in + 2 + 2 * i) >> 4;
                cr_assert_geq(fabsf(input[at + index]), fabsf(other[kept - 1]));
            }
            in += 2 + 2 * kept;
        }
        cr_assert_eq((size_t)(in - wire), gossip_topk_bytes(k, count));
    }
}

/* Whatever was sent and what is left make up all that went in, with decay as without. */
Test(codec_options, topk_loses_nothing_with_feedback)
{
    const float decays[2] = {1.0f, 0.95f};
    struct numbers n;
    numbers_init(&n, 3);
    for (size_t d = 0; d < 2; d++) {
        memset(error, 0, sizeof error);
        memset(all_in, 0, sizeof all_in);
        memset(all_out, 0, sizeof all_out);
        for (int round = 0; round < 60; round++) {
            numbers_fill(&n, LEN, 1e-3, input);
            cr_assert_eq(gossip_topk_encode(128, LEN, decays[d], input, error, wire), 0);
            cr_assert_eq(gossip_topk_decode(128, LEN, wire, sent), 0);
            for (size_t i = 0; i < LEN; i++) {
                all_in[i] = (double)decays[d] * all_in[i] + (double)input[i];
                all_out[i] = (double)decays[d] * all_out[i] + (double)sent[i];
            }
        }
        for (size_t i = 0; i < LEN; i++)
            cr_assert_float_eq(all_out[i] + (double)error[i], all_in[i], 1e-7);
    }
}

Test(codec_options, two_nodes_with_the_same_seed_send_the_same_bytes)
{
    struct numbers n, m;
    memset(error, 0, sizeof error);
    memset(other, 0, sizeof other);
    numbers_init(&n, 4);
    numbers_init(&m, 4);
    for (int round = 0; round < 20; round++) {
        numbers_fill(&n, LEN, 1e-3, input);
        cr_assert_eq(gossip_topk_encode(64, LEN, 0.95f, input, error, wire), 0);
        numbers_fill(&m, LEN, 1e-3, values);
        cr_assert_eq(gossip_topk_encode(64, LEN, 0.95f, values, other, again), 0);
        cr_assert_eq(memcmp(wire, again, gossip_topk_bytes(64, LEN)), 0);
    }
    cr_assert_eq(memcmp(error, other, sizeof error), 0);
}

/* A quadratic whose gradient is noisy in 5 % of the coordinates and small but steady in the others, at 1 and
 * 3 % density: with feedback the quiet ones arrive, without it the noise takes every place. */
static double quiet_error(size_t k, float decay, uint64_t seed)
{
    static float phi[WEIGHTS];
    double sum = 0;
    struct numbers n;
    numbers_init(&n, seed);
    memset(error, 0, sizeof error);
    memset(phi, 0, sizeof phi);
    for (int round = 0; round < 400; round++) {
        for (size_t i = 0; i < WEIGHTS; i++)
            input[i] = 0.02f * (1.0f - phi[i]) + (i % 20 == 0 ? (float)(0.3 * numbers_normal(&n)) : 0.0f);
        cr_assert_eq(gossip_topk_encode(k, WEIGHTS, decay, input, error, wire), 0);
        cr_assert_eq(gossip_topk_decode(k, WEIGHTS, wire, sent), 0);
        for (size_t i = 0; i < WEIGHTS; i++)
            phi[i] += 0.5f * sent[i];
    }
    for (size_t i = 0; i < WEIGHTS; i++)
        sum += i % 20 == 0 ? 0 : pow(1.0 - (double)phi[i], 2);
    return sqrt(sum / (WEIGHTS * 0.95));
}

Test(codec_options, without_feedback_topk_is_visibly_worse)
{
    for (uint64_t seed = 5; seed < 8; seed++) {
        double off = quiet_error(123, 0.0f, seed), on = quiet_error(123, 1.0f, seed);
        cr_assert(on < 0.7 * off && off > 0.5, "3 %%: %g with feedback, %g without", on, off);
        off = quiet_error(41, 0.0f, seed);
        on = quiet_error(41, 1.0f, seed);
        cr_assert(on < 0.9 * off && off > 0.5, "1 %%: %g with feedback, %g without", on, off);
    }
}

Test(codec_options, topk_refuses_what_is_broken)
{
    struct numbers n;
    numbers_init(&n, 9);
    numbers_fill(&n, LEN, 1.0, input);
    memset(error, 0, sizeof error);
    memcpy(other, error, sizeof other);
    input[LEN - 1] = NAN;
    cr_assert_eq(gossip_topk_encode(64, LEN, 1.0f, input, error, wire), ERR_NOT_FINITE);
    input[LEN - 1] = 2e30f;
    cr_assert_eq(gossip_topk_encode(64, LEN, 1.0f, input, error, wire), ERR_NOT_FINITE);
    cr_assert_eq(memcmp(error, other, sizeof error), 0);
    memset(input, 0, sizeof input);
    cr_assert_eq(gossip_topk_encode(64, LEN, 1.0f, input, error, wire), 0);
    cr_assert_eq(gossip_topk_decode(64, LEN, wire, values), 0);
    cr_assert_eq(memcmp(values, other, sizeof values), 0);
    store_le16(wire + 2, 1); /* under a zero scale */
    cr_assert_eq(gossip_topk_decode(64, LEN, wire, values), ERR_MALFORMED);
    const struct {
        size_t at;
        uint16_t value;
    } cases[6] = {{0, 0x8001}, {0, 0x7f80}, {0, 0x7fc0}, {0, 0x7e80}, {2, 8}, {4, 0}};
    for (size_t i = 0; i < 6; i++) {
        numbers_fill(&n, LEN, 1.0, input);
        memset(error, 0, sizeof error);
        cr_assert_eq(gossip_topk_encode(64, LEN, 1.0f, input, error, wire), 0);
        cr_assert_eq(gossip_topk_decode(64, LEN, wire, values), 0);
        store_le16(wire + cases[i].at, cases[i].value);
        cr_assert_eq(gossip_topk_decode(64, LEN, wire, values), ERR_MALFORMED, "case %zu", i);
    }
    size_t last = gossip_topk_bytes(64, LEN) - 2; /* an index beyond the last chunk's 1808 values */
    numbers_fill(&n, LEN, 1.0, input);
    cr_assert_eq(gossip_topk_encode(64, LEN, 0.0f, input, error, wire), 0);
    store_le16(wire + last, 1808 << 4);
    cr_assert_eq(gossip_topk_decode(64, LEN, wire, values), ERR_MALFORMED);
}
