/* The merge of a round: the result must equal a plain transcription of the formulas, hostile blobs must
 * change nothing, and what one partner can do at once must be bounded by the history. */
#include <criterion/criterion.h>
#include <string.h>

#include "gossip/merge/job.h"
#include "numbers.h"

enum { LEN = 3000 };

static const struct gossip_tensor tensors[3] = {
    {0, 2500, GOSSIP_TENSOR_MATRIX}, {2500, 1, GOSSIP_TENSOR_VECTOR}, {2501, 499, GOSSIP_TENSOR_VECTOR}};

struct side {
    float theta[LEN], phi[LEN], delta[LEN], diff[LEN], decoded[LEN];
    uint8_t blob[4 * LEN];
    size_t len;
    enum gossip_codec codec;
    struct gossip_history history;
};

static struct side a, b;

static void prepare(struct side *s, struct numbers *n, enum gossip_codec codec)
{
    struct gossip_layout layout;
    cr_assert_eq(gossip_layout_of(tensors, 3, &layout), 0);
    s->codec = codec;
    s->len = (size_t)layout.encoded_bytes[codec];
    for (size_t i = 0; i < LEN; i++)
        s->theta[i] = s->phi[i] + (float)(0.02 * numbers_normal(n));
    numbers_fill(n, LEN, 0.01, s->delta);
    cr_assert_eq(gossip_encode(codec, tensors, 3, s->theta, s->blob, s->len), 0);
    cr_assert_eq(gossip_decode(codec, tensors, 3, bytes_of(s->blob, s->len), s->decoded), 0);
}

static void start(uint64_t seed, enum gossip_codec first, enum gossip_codec second)
{
    struct numbers n;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    numbers_init(&n, seed);
    numbers_fill(&n, LEN, 0.3, a.phi);
    for (size_t i = 0; i < LEN; i++)
        b.phi[i] = a.phi[i] + (float)(0.01 * numbers_normal(&n));
    prepare(&a, &n, first);
    prepare(&b, &n, second);
}

static struct gossip_merge_input input(const struct side *own, const struct side *other)
{
    return (struct gossip_merge_input){
        .tensors = tensors,
        .tensor_count = 3,
        .outer = gossip_outer_default(),
        .variance_correction = true,
        .partner_weight = 0.5f,
        .own_round = 10,
        .partner_round = 10,
        .theta = own->theta,
        .own = {.codec = own->codec, .blob = bytes_of(own->blob, own->len)},
        .partner = {.codec = other->codec, .blob = bytes_of(other->blob, other->len)}};
}

Test(job, equals_the_formulas_for_every_pair_of_codecs)
{
    static struct side before;
    for (int k = 0; k < 9; k++) {
        struct gossip_merge_report report;
        start((uint64_t)k, (enum gossip_codec)(k / 3), (enum gossip_codec)(k % 3));
        before = a;
        struct gossip_merge_input in = input(&a, &b);
        cr_assert_eq(gossip_merge_job(&in, &a.history, a.phi, a.delta, a.diff, &report), 0);
        cr_assert(report.scale == 1.0f && report.corrected == 0 && report.cosine > 0.95 &&
                  report.relative < 0.2);
        for (size_t i = 0; i < LEN; i++) {
            double tbar = (double)before.theta[i] + 0.5 * ((double)b.decoded[i] - (double)a.decoded[i]);
            double delta = 0.5 * (double)before.delta[i] + 0.7 * (tbar - (double)before.phi[i]);
            cr_assert_float_eq((double)a.delta[i], delta, 1e-6);
            cr_assert_float_eq((double)a.phi[i], (double)before.phi[i] + delta, 1e-6);
            cr_assert_eq(a.diff[i], a.phi[i] - a.theta[i]);
        }
    }
}

Test(job, both_sides_keep_the_sum_of_the_pair)
{
    struct gossip_merge_report report;
    for (int k = 0; k < 9; k++) {
        start(100 + (uint64_t)k, (enum gossip_codec)(k / 3), (enum gossip_codec)(k % 3));
        struct gossip_merge_input left = input(&a, &b), right = input(&b, &a);
        left.outer = right.outer = gossip_outer_plain();
        cr_assert_eq(gossip_merge_job(&left, &a.history, a.phi, a.delta, a.diff, &report), 0);
        cr_assert_eq(gossip_merge_job(&right, &b.history, b.phi, b.delta, b.diff, &report), 0);
        for (size_t i = 0; i < LEN; i++)
            cr_assert_float_eq((double)a.phi[i] + (double)b.phi[i], (double)a.theta[i] + (double)b.theta[i],
                               1e-6);
    }
}

Test(job, strangers_are_corrected_only_when_armed_and_only_matrices)
{
    struct gossip_merge_report report;
    struct numbers n;
    for (int armed = 0; armed < 2; armed++) {
        start(7, GOSSIP_CODEC_FP32, GOSSIP_CODEC_FP32);
        numbers_init(&n, 8);
        numbers_fill(&n, LEN, 0.3, b.phi);
        prepare(&b, &n, GOSSIP_CODEC_FP32);
        struct gossip_merge_input in = input(&a, &b);
        in.variance_correction = armed == 1;
        in.outer = gossip_outer_plain();
        cr_assert_eq(gossip_merge_job(&in, &a.history, a.phi, a.delta, a.diff, &report), 0);
        cr_assert_eq(report.corrected, (size_t)armed);
        double square = 0;
        for (size_t i = 0; i < 2500; i++)
            square += (double)a.phi[i] * (double)a.phi[i];
        cr_assert_float_eq(sqrt(square / 2500) / 0.3, armed == 1 ? 1.0 : sqrt(0.5), 0.05);
    }
}

/* Runs the job on a and requires this error and that nothing changed. */
static void refuse(const struct gossip_merge_input *in, int expected)
{
    static struct side before;
    struct gossip_merge_report report;
    before = a;
    int result = gossip_merge_job(in, &a.history, a.phi, a.delta, a.diff, &report);
    cr_assert_eq(result, expected, "%s", err_name(result));
    cr_assert_eq(memcmp(a.phi, before.phi, sizeof a.phi), 0);
    cr_assert_eq(memcmp(a.delta, before.delta, sizeof a.delta), 0);
    cr_assert_eq(memcmp(a.diff, before.diff, sizeof a.diff), 0);
}

Test(job, errors_change_nothing)
{
    static uint8_t hostile[4 * LEN];
    start(9, GOSSIP_CODEC_FP32, GOSSIP_CODEC_FP32);
    struct gossip_merge_input in = input(&a, &b);
    in.partner.blob.len--;
    refuse(&in, ERR_MALFORMED);
    in = input(&a, &b);
    in.partner.codec = GOSSIP_CODEC_BF16;
    refuse(&in, ERR_MALFORMED);
    in = input(&a, &b);
    in.partner_round = 19;
    refuse(&in, ERR_STALE);
    in = input(&a, &b);
    in.outer.gamma = 0.6f;
    refuse(&in, ERR_INVALID);
    in = input(&a, &b);
    in.partner_weight = 0.6f;
    refuse(&in, ERR_INVALID);
    memcpy(hostile, b.blob, b.len);
    store_le32(hostile + 4 * (LEN - 1), 0x7fc00000); /* NaN in the very last value */
    in = input(&a, &b);
    in.partner.blob = bytes_of(hostile, b.len);
    refuse(&in, ERR_NOT_FINITE);
    memset(hostile, 0x60, sizeof hostile); /* 6.5e19 everywhere */
    refuse(&in, ERR_NOT_FINITE);           /* the squares overflow */
    memset(hostile, 0x42, sizeof hostile); /* 48.6 everywhere: finite and far */
    refuse(&in, ERR_REFUSED);
    in = input(&a, &b);
    a.phi[LEN - 1] = INFINITY;
    refuse(&in, ERR_NOT_FINITE);
    cr_assert_eq(gossip_solo_job(LEN, &in.outer, a.theta, a.phi, a.delta, a.diff), ERR_NOT_FINITE);
}

Test(job, one_hostile_round_moves_phi_by_at_most_half_beta_tau)
{
    struct gossip_merge_report report;
    struct numbers n;
    for (uint64_t seed = 0; seed < 20; seed++) {
        static float before[LEN];
        double moved = 0;
        start(seed, GOSSIP_CODEC_FP32, GOSSIP_CODEC_FP32);
        for (int i = 0; i < GOSSIP_HISTORY; i++)
            gossip_history_push(&a.history, 0.5);
        numbers_init(&n, seed + 50);
        numbers_fill(&n, LEN, 0.4, b.phi);
        prepare(&b, &n, GOSSIP_CODEC_FP32);
        memset(a.delta, 0, sizeof a.delta);
        memcpy(a.phi, a.theta, sizeof a.phi);
        memcpy(before, a.phi, sizeof before);
        struct gossip_merge_input in = input(&a, &b);
        cr_assert_eq(gossip_merge_job(&in, &a.history, a.phi, a.delta, a.diff, &report), 0);
        for (size_t i = 0; i < LEN; i++)
            moved += pow((double)a.phi[i] - (double)before[i], 2);
        cr_assert_lt(report.scale, 1.0f);
        cr_assert_leq(sqrt(moved), 0.7 * 1.5 / 2 * 1.001); /* tau = 3 * 0.5 */
        cr_assert_eq(report.corrected, 0);
    }
}

Test(job, history_is_a_ring_and_its_median_resists_a_minority)
{
    struct gossip_history h = {0};
    cr_assert(isinf(gossip_history_radius(&h)));
    for (int i = 0; i < 3; i++)
        gossip_history_push(&h, 1.0);
    cr_assert(isinf(gossip_history_radius(&h)));
    gossip_history_push(&h, 2.0);
    cr_assert_float_eq(gossip_history_radius(&h), 3.0, 1e-12);
    for (int i = 0; i < 100; i++)
        gossip_history_push(&h, i % 16 < 7 ? 1e9 : 1.0);
    cr_assert_eq(h.count, GOSSIP_HISTORY);
    cr_assert_float_eq(gossip_history_radius(&h), 3.0, 1e-12);
    struct gossip_gate_input in = {
        .own_norm = 10, .distance = 6, .radius = 3, .own_round = 8, .partner_round = 0};
    float scale;
    cr_assert_eq(gossip_gate(&in, &scale), 0);
    cr_assert_float_eq(scale, 0.5f, 1e-6);
    in.own_round = 9;
    cr_assert_eq(gossip_gate(&in, &scale), ERR_STALE);
    in.own_round = 0;
    in.distance = 41;
    cr_assert_eq(gossip_gate(&in, &scale), ERR_REFUSED);
    in.distance = (double)NAN;
    cr_assert_eq(gossip_gate(&in, &scale), ERR_NOT_FINITE);
    in = (struct gossip_gate_input){.own_norm = 1, .distance = 0.5, .radius = 0};
    cr_assert_eq(gossip_gate(&in, &scale), 0);
    cr_assert_eq(scale, 1.0f); /* a past of identical models cuts nothing */
}

Test(job, solo_step_is_the_pair_step_with_oneself)
{
    static struct side twin;
    struct gossip_merge_report report;
    struct gossip_outer outer = gossip_outer_default();
    start(11, GOSSIP_CODEC_INT8, GOSSIP_CODEC_INT8);
    twin = a;
    struct gossip_merge_input in = input(&a, &a);
    cr_assert_eq(gossip_merge_job(&in, &a.history, a.phi, a.delta, a.diff, &report), 0);
    cr_assert_eq(gossip_solo_job(LEN, &outer, twin.theta, twin.phi, twin.delta, twin.diff), 0);
    cr_assert_eq(memcmp(a.phi, twin.phi, sizeof a.phi), 0);
    cr_assert_eq(memcmp(a.delta, twin.delta, sizeof a.delta), 0);
    cr_assert_eq(memcmp(a.diff, twin.diff, sizeof a.diff), 0);
}
