/* The merge of a round: the result must equal a plain transcription of the formulas, hostile blobs must
 * change nothing, and what one partner can do at once must be bounded by the history. */
#include <criterion/criterion.h>
#include <string.h>

#include "gossip/merge/job.h"
#include "numbers.h"

enum { LEN = 3000, BLOCKS = 13, PAIRS = GOSSIP_CODEC_COUNT * GOSSIP_CODEC_COUNT };

static const struct gossip_tensor tensors[3] = {
    {0, 2500, GOSSIP_TENSOR_MATRIX}, {2500, 1, GOSSIP_TENSOR_VECTOR}, {2501, 499, GOSSIP_TENSOR_VECTOR}};

struct side {
    float theta[LEN], phi[LEN], delta[LEN], diff[LEN];
    float decoded[LEN]; /* what both must hold of this side, from the partner's view */
    float distances[BLOCKS];
    uint8_t blob[4 * LEN], repairs[2 * LEN];
    size_t len, repair_len;
    uint32_t wanted[BLOCKS]; /* by the partner, of this side's blob */
    size_t wanted_count;
    enum gossip_codec codec;
    struct gossip_history history;
};

static struct side a, b;

static void prepare(struct side *s, struct numbers *n, enum gossip_codec codec)
{
    s->codec = codec;
    s->len = gossip_blob_bytes(codec, tensors, 3);
    for (size_t i = 0; i < LEN; i++)
        s->theta[i] = s->phi[i] + (float)(0.02 * numbers_normal(n));
    numbers_fill(n, LEN, 0.01, s->delta);
    if (gossip_modular_bits(codec) != 0)
        return;
    cr_assert_eq(gossip_encode(codec, tensors, 3, s->theta, s->blob, s->len), 0);
    cr_assert_eq(gossip_decode(codec, tensors, 3, bytes_of(s->blob, s->len), s->decoded), 0);
}

/* What the exchange does with a modular blob: encode, the partner's list, the repair. */
static void send_modular(struct side *own, const struct side *partner)
{
    uint8_t wrong[BLOCKS];
    struct gossip_modular_source source = {own->theta, own->phi, NULL, GOSSIP_KAPPA, 1.0f};
    if (gossip_modular_bits(own->codec) == 0)
        return;
    cr_assert_eq(gossip_modular_encode(own->codec, tensors, 3, &source, own->blob, own->len), 0);
    int count = gossip_modular_check(own->codec, tensors, 3, bytes_of(own->blob, own->len), partner->theta,
                                     own->wanted);
    cr_assert_geq(count, 0, "%s", err_name(count));
    own->wanted_count = (size_t)count;
    cr_assert_eq(gossip_repair_bytes(tensors, 3, own->wanted_count, own->wanted, &own->repair_len), 0);
    cr_assert_eq(gossip_repair_encode(tensors, 3, own->wanted_count, own->wanted, own->theta, own->repairs,
                                      own->repair_len),
                 0);
    const uint8_t *in = own->blob, *repair = own->repairs;
    for (size_t t = 0; t < 3; t++) {
        size_t from = tensors[t].offset;
        cr_assert_geq(gossip_modular_values(own->codec, tensors[t].count, in, partner->theta + from,
                                            own->decoded + from, wrong),
                      0);
        in += gossip_encoded_bytes(own->codec, tensors[t].count);
    }
    for (size_t i = 0; i < own->wanted_count; i++) {
        uint32_t block = own->wanted[i]; /* 10 blocks, 1, 2 */
        size_t place = block < 10 ? 256 * block : block == 10 ? 2500 : 2501 + 256 * (block - 11);
        size_t len = block == 9 ? 196 : block == 10 ? 1 : block == 12 ? 243 : 256;
        cr_assert_eq(gossip_decode_values(GOSSIP_CODEC_INT8, len, repair, own->decoded + place), 0);
        repair += gossip_encoded_bytes(GOSSIP_CODEC_INT8, len);
    }
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
    if (seed % 2 == 0) { /* three of the thirteen blocks are out of reach, each on one value */
        const size_t places[3] = {3, 2500, 2999};
        for (size_t i = 0; i < 3; i++) {
            b.phi[places[i]] += 1.5f;
            b.theta[places[i]] += 1.5f;
        }
        if (gossip_modular_bits(second) == 0) {
            cr_assert_eq(gossip_encode(second, tensors, 3, b.theta, b.blob, b.len), 0);
            cr_assert_eq(gossip_decode(second, tensors, 3, bytes_of(b.blob, b.len), b.decoded), 0);
        }
    }
    send_modular(&a, &b);
    send_modular(&b, &a);
}

static struct gossip_sent sent_by(const struct side *s)
{
    return (struct gossip_sent){.codec = s->codec,
                                .blob = bytes_of(s->blob, s->len),
                                .repaired = s->wanted,
                                .repaired_count = s->wanted_count,
                                .repairs = bytes_of(s->repairs, s->repair_len)};
}

static struct gossip_merge_input input(const struct side *own, const struct side *other)
{
    return (struct gossip_merge_input){.tensors = tensors,
                                       .tensor_count = 3,
                                       .outer = gossip_outer_default(),
                                       .variance_correction = true,
                                       .partner_weight = 0.5f,
                                       .own_round = 10,
                                       .partner_round = 10,
                                       .theta = own->theta,
                                       .own = sent_by(own),
                                       .partner = sent_by(other)};
}

/* All pairs of codecs, without repairs and (even seeds) with. */
Test(job, equals_the_formulas_for_every_pair_of_codecs)
{
    static struct side before;
    for (int k = 0; k < 2 * PAIRS; k++) {
        struct gossip_merge_report report;
        start((uint64_t)k, (enum gossip_codec)(k / 2 / 6), (enum gossip_codec)(k / 2 % 6));
        bool modular = gossip_modular_bits(b.codec) != 0;
        cr_assert(modular && k % 2 == 0 ? b.wanted_count >= 3 : b.wanted_count <= 3);
        before = a;
        struct gossip_merge_input in = input(&a, &b);
        in.distances = a.distances;
        cr_assert_eq(gossip_merge_job(&in, &a.history, a.phi, a.delta, a.diff, &report), 0);
        cr_assert(report.scale == 1.0f && report.corrected == 0 && report.cosine > 0.95 &&
                  report.relative < 0.4);
        cr_assert_float_eq(report.rms, report.distance / sqrt(LEN), 1e-9);
        for (size_t i = 0; i < LEN; i++) {
            double weight = 0.5 * (double)gossip_modular_weight(a.codec, b.codec);
            double tbar = (double)before.theta[i] + weight * ((double)b.decoded[i] - (double)a.decoded[i]);
            double delta = 0.5 * (double)before.delta[i] + 0.7 * (tbar - (double)before.phi[i]);
            cr_assert_float_eq((double)a.delta[i], delta, 1e-6);
            cr_assert_float_eq((double)a.phi[i], (double)before.phi[i] + delta, 1e-6);
            cr_assert_eq(a.diff[i], a.phi[i] - a.theta[i]);
        }
        double square = 0;
        for (size_t i = 2501; i < 2757; i++)
            square += pow((double)b.decoded[i] - (double)a.theta[i], 2);
        cr_assert_float_eq((double)a.distances[11], sqrt(square / 256), 1e-5);
        cr_assert_float_eq((double)a.distances[10], fabs((double)b.decoded[2500] - (double)a.theta[2500]),
                           1e-5);
    }
}

/* However coarse the codecs, whatever was repaired: the pair's sum stays to the rounding of a few sums of
 * float32, at |values| up to 2 less than 1e-6.  The codecs' own errors are up to 0.06 here. */
Test(job, both_sides_keep_the_sum_of_the_pair)
{
    struct gossip_merge_report report;
    for (int k = 0; k < 2 * PAIRS; k++) {
        start(100 + (uint64_t)k, (enum gossip_codec)(k / 2 / 6), (enum gossip_codec)(k / 2 % 6));
        struct gossip_merge_input left = input(&a, &b), right = input(&b, &a);
        double lossy = 0;
        left.outer = right.outer = gossip_outer_plain();
        cr_assert_eq(gossip_merge_job(&left, &a.history, a.phi, a.delta, a.diff, &report), 0);
        cr_assert_eq(gossip_merge_job(&right, &b.history, b.phi, b.delta, b.diff, &report), 0);
        for (size_t i = 0; i < LEN; i++) {
            cr_assert_float_eq((double)a.phi[i] + (double)b.phi[i], (double)a.theta[i] + (double)b.theta[i],
                               1e-6);
            lossy = fmax(lossy, fabs((double)a.decoded[i] - (double)a.theta[i]));
        }
        if (gossip_modular_bits(a.codec) != 0)
            cr_assert_gt(lossy, 1e-3); /* the sum does not stay because nothing was lost */
    }
}

/* The same fragment as a span of a larger table, and as a table of its own: same bits. */
Test(job, a_fragment_is_merged_like_a_model_of_its_own)
{
    static struct side twin;
    struct gossip_merge_report report;
    struct gossip_tensor span[3];
    for (int codec = 0; codec < GOSSIP_CODEC_COUNT; codec++) {
        start(200, (enum gossip_codec)codec, (enum gossip_codec)codec);
        twin = a;
        for (size_t i = 0; i < 3; i++)
            span[i] = (struct gossip_tensor){tensors[i].offset + 123456, tensors[i].count, tensors[i].kind};
        struct gossip_merge_input in = input(&a, &b);
        cr_assert_eq(gossip_merge_job(&in, &a.history, a.phi, a.delta, a.diff, &report), 0);
        in.tensors = span;
        cr_assert_eq(gossip_merge_job(&in, &twin.history, twin.phi, twin.delta, twin.diff, &report), 0);
        cr_assert_eq(memcmp(a.phi, twin.phi, sizeof a.phi), 0);
        cr_assert_eq(memcmp(a.delta, twin.delta, sizeof a.delta), 0);
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
        in.strangers = true;
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
    struct gossip_merge_input in_all = *in;
    struct gossip_merge_report report;
    before = a;
    in_all.distances = a.distances;
    int result = gossip_merge_job(&in_all, &a.history, a.phi, a.delta, a.diff, &report);
    cr_assert_eq(result, expected, "%s", err_name(result));
    cr_assert_eq(memcmp(a.phi, before.phi, sizeof a.phi), 0);
    cr_assert_eq(memcmp(a.delta, before.delta, sizeof a.delta), 0);
    cr_assert_eq(memcmp(a.diff, before.diff, sizeof a.diff), 0);
    cr_assert_eq(memcmp(a.distances, before.distances, sizeof a.distances), 0);
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
    refuse(&in, ERR_FAR);
    in = input(&a, &b);
    a.phi[LEN - 1] = INFINITY;
    refuse(&in, ERR_NOT_FINITE);
    cr_assert_eq(gossip_solo_job(LEN, &in.outer, GOSSIP_SOLO_AFTER, a.theta, a.phi, a.delta, a.diff),
                 ERR_NOT_FINITE);
}

/* A sign-flipped partner at the first meeting, which the size of the weights does not tell from a right one:
 * the job must measure its own way from its own arrays. */
Test(job, with_no_past_a_partner_from_elsewhere_is_refused_unless_strangers_may_come)
{
    struct gossip_merge_report report;
    for (int strangers = 0; strangers < 2; strangers++) {
        start(13, GOSSIP_CODEC_FP32, GOSSIP_CODEC_FP32);
        struct gossip_merge_input in = input(&a, &b);
        cr_assert_eq(gossip_merge_job(&in, &a.history, a.phi, a.delta, a.diff, &report), 0);
        start(13, GOSSIP_CODEC_FP32, GOSSIP_CODEC_FP32);
        for (size_t i = 0; i < LEN; i++)
            b.theta[i] *= -1;
        cr_assert_eq(gossip_encode(GOSSIP_CODEC_FP32, tensors, 3, b.theta, b.blob, b.len), 0);
        in = input(&a, &b);
        in.strangers = strangers == 1;
        if (!in.strangers)
            refuse(&in, ERR_FAR);
        else
            cr_assert_eq(gossip_merge_job(&in, &a.history, a.phi, a.delta, a.diff, &report), 0);
        cr_assert_eq(a.history.count, 1); /* the refused count too, so that the start ends */
        memcpy(a.phi, a.theta, sizeof a.phi);
        for (size_t i = 0; i < LEN; i++)
            a.phi[i] -= a.theta[i]; /* having gone as far, we believe that others have */
        in.strangers = false;
        cr_assert_eq(gossip_merge_job(&in, &a.history, a.phi, a.delta, a.diff, &report), 0);
    }
}

Test(job, wrong_blocks_are_never_merged)
{
    static uint8_t hostile[2 * LEN];
    uint32_t list[BLOCKS];
    start(10, GOSSIP_CODEC_INT8, GOSSIP_CODEC_MOD3);
    struct gossip_merge_input in = input(&a, &b);
    cr_assert_geq(b.wanted_count, 3);
    in.partner.repaired_count = 0;
    refuse(&in, ERR_MALFORMED); /* repairs without a list */
    in.partner.repairs.len = 0;
    refuse(&in, ERR_MALFORMED); /* blocks are wrong and not repaired */
    in = input(&a, &b);
    in.partner.repairs.len--;
    refuse(&in, ERR_MALFORMED);
    memcpy(list, b.wanted, sizeof list);
    in = input(&a, &b);
    in.partner.repaired = list;
    list[1] = list[0]; /* not ascending */
    refuse(&in, ERR_MALFORMED);
    list[1] = b.wanted[1];
    list[b.wanted_count - 1] = BLOCKS; /* outside */
    refuse(&in, ERR_MALFORMED);
    memcpy(hostile, b.repairs, b.repair_len);
    in = input(&a, &b);
    in.partner.repairs.data = hostile;
    store_le32(hostile, 0x7f800000); /* an infinite scale */
    refuse(&in, ERR_NOT_FINITE);
    store_le32(hostile, 0x41000000); /* 8: finite and far, refused by distance */
    memset(hostile + 4, 0x7f, 256);
    refuse(&in, ERR_FAR);
    in = input(&a, &b);
    in.own.repaired = b.wanted; /* an int8 blob has no repairs */
    in.own.repaired_count = 1;
    refuse(&in, ERR_MALFORMED);
    in = input(&a, &b);
    memcpy(hostile, b.blob, b.len);
    in.partner.blob.data = hostile;
    store_le16(hostile, 0); /* a step of 0 */
    refuse(&in, ERR_MALFORMED);
    start(12, GOSSIP_CODEC_MOD2, GOSSIP_CODEC_INT8);
    in = input(&a, &b);
    in.theta = b.theta; /* not the snapshot that was sent */
    in.own.repaired_count = 0;
    in.own.repairs.len = 0;
    refuse(&in, ERR_MALFORMED);
}

Test(job, one_hostile_round_moves_phi_by_at_most_half_beta_tau)
{
    struct gossip_merge_report report;
    for (uint64_t seed = 0; seed < 20; seed++) {
        static float before[LEN];
        double moved = 0;
        start(2 * seed + 1, GOSSIP_CODEC_FP32, GOSSIP_CODEC_FP32);
        for (int i = 0; i < GOSSIP_HISTORY; i++)
            gossip_history_push(&a.history, 0.7);
        memset(a.delta, 0, sizeof a.delta);
        memcpy(a.phi, a.theta, sizeof a.phi);
        memcpy(before, a.phi, sizeof before);
        struct gossip_merge_input in = input(&a, &b);
        cr_assert_eq(gossip_merge_job(&in, &a.history, a.phi, a.delta, a.diff, &report), 0);
        for (size_t i = 0; i < LEN; i++)
            moved += pow((double)a.phi[i] - (double)before[i], 2);
        cr_assert_lt(report.scale, 1.0f);
        cr_assert_leq(sqrt(moved), 0.7 * 1.05 / 2 * 1.001); /* tau = 1.5 * 0.7 */
        cr_assert_eq(report.corrected, 0);
    }
}

static double norm_of(const float x[LEN])
{
    double square = 0;
    for (size_t i = 0; i < LEN; i++)
        square += (double)x[i] * (double)x[i];
    return sqrt(square);
}

/* The job must ask the trail and its own arrays, and neither where strangers may come. */
Test(job, old_and_scaled_weights_are_cut)
{
    enum { OLD, SCALED, KINDS };
    static float old[LEN], marks[2 * GOSSIP_TRAIL_LEVELS * LEN];
    struct gossip_merge_report report;
    cr_assert_leq(gossip_trail_floats(tensors, 3), sizeof marks / sizeof *marks);
    for (int kind = 0; kind < KINDS; kind++) {
        for (int rule = 0; rule < 3; rule++) {
            struct gossip_trail trail;
            start(17, GOSSIP_CODEC_FP32, GOSSIP_CODEC_FP32);
            for (size_t i = 0; i < LEN; i++)
                old[i] = a.phi[i] + (i % 2 == 0 ? 0.075F : -0.075F);
            gossip_trail_init(&trail, tensors, 3, marks);
            gossip_trail_round(&trail, tensors, 3, old);
            for (int i = 0; i < GOSSIP_TRAIL_CYCLES; i++)
                gossip_trail_round(&trail, tensors, 3, a.phi);
            for (size_t i = 0; i < LEN; i++)
                b.theta[i] = kind == OLD ? a.phi[i] + 4 * (old[i] - a.phi[i]) : 1.2F * a.theta[i];
            cr_assert_eq(gossip_encode(GOSSIP_CODEC_FP32, tensors, 3, b.theta, b.blob, b.len), 0);
            for (int i = 0; i < GOSSIP_HISTORY; i++)
                gossip_history_push(&a.history, 0.3 * sqrt(LEN));
            for (int i = 1; i < GOSSIP_HISTORY_MIN; i++) /* the merge itself is one more */
                gossip_trail_norm(&trail, norm_of(a.theta));
            struct gossip_merge_input in = input(&a, &b);
            in.trail = rule == 1 ? NULL : &trail;
            in.strangers = rule == 2;
            cr_assert_eq(gossip_merge_job(&in, &a.history, a.phi, a.delta, a.diff, &report), 0);
            cr_assert(rule == 0 ? report.scale > 0.02F && report.scale < 0.11F : report.scale == 1.0F,
                      "kind %d, rule %d: %g", kind, rule, (double)report.scale);
            cr_assert_eq(trail.behind.count, rule == 0 ? 1 : 0);
        }
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
    cr_assert_float_eq(gossip_history_radius(&h), 1.5, 1e-12);
    for (int i = 0; i < 100; i++)
        gossip_history_push(&h, i % 16 < 7 ? 1e9 : 1.0);
    cr_assert_eq(h.count, GOSSIP_HISTORY);
    cr_assert_float_eq(gossip_history_radius(&h), 1.5, 1e-12);
    struct gossip_gate_input in = {
        .own_norm = 10, .distance = 6, .radius = 3, .known = h.count, .own_round = 8};
    float scale;
    cr_assert_eq(gossip_gate(&in, &scale), 0);
    cr_assert_float_eq(scale, 0.5f, 1e-6);
    in.own_round = 9;
    cr_assert_eq(gossip_gate(&in, &scale), ERR_STALE);
    in.own_round = 0;
    in.distance = 41;
    cr_assert_eq(gossip_gate(&in, &scale), ERR_FAR);
    in.distance = (double)NAN;
    cr_assert_eq(gossip_gate(&in, &scale), ERR_NOT_FINITE);
    in = (struct gossip_gate_input){.own_norm = 1, .distance = 0.5, .radius = 0, .known = GOSSIP_HISTORY};
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
    cr_assert_eq(gossip_solo_job(LEN, &outer, GOSSIP_SOLO_AFTER, twin.theta, twin.phi, twin.delta, twin.diff),
                 0);
    cr_assert_eq(memcmp(a.phi, twin.phi, sizeof a.phi), 0);
    cr_assert_eq(memcmp(a.delta, twin.delta, sizeof a.delta), 0);
    cr_assert_eq(memcmp(a.diff, twin.diff, sizeof a.diff), 0);
}

Test(job, a_node_waits_for_its_next_merge_before_it_steps_alone)
{
    static struct side before;
    struct gossip_outer outer = gossip_outer_default();
    start(12, GOSSIP_CODEC_INT8, GOSSIP_CODEC_INT8);
    before = a;
    for (uint32_t missed = 1; missed < GOSSIP_SOLO_AFTER; missed++) {
        memset(a.diff, 0x55, sizeof a.diff);
        cr_assert_eq(gossip_solo_job(LEN, &outer, missed, a.theta, a.phi, a.delta, a.diff), 0);
        cr_assert_eq(memcmp(a.phi, before.phi, sizeof a.phi), 0);
        cr_assert_eq(memcmp(a.delta, before.delta, sizeof a.delta), 0);
        for (size_t i = 0; i < LEN; i++)
            cr_assert_eq(a.diff[i], 0.0f);
    }
    for (uint32_t missed = GOSSIP_SOLO_AFTER; missed <= GOSSIP_MISSED_MAX; missed++) {
        cr_assert_eq(gossip_solo_job(LEN, &outer, missed, a.theta, a.phi, a.delta, a.diff), 0);
        cr_assert_neq(memcmp(a.phi, before.phi, sizeof a.phi), 0);
        cr_assert_eq(a.diff[0], a.phi[0] - a.theta[0]);
        before = a;
    }
    a.theta[LEN / 2] = NAN; /* seen while waiting, too */
    cr_assert_eq(gossip_solo_job(LEN, &outer, 1, a.theta, a.phi, a.delta, a.diff), ERR_NOT_FINITE);
}
