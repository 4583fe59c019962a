/* The merge thread's work: one pass that only looks, one that changes. */
#include "gossip/merge/job.h"

#include <math.h>

#include "gossip/merge/stats.h"

/* Values handled at a time: a multiple of the codec's block, small enough for the first-level cache. */
enum { PIECE = 1024 };
_Static_assert(PIECE % GOSSIP_BLOCK == 0, "pieces start on block boundaries");

/* Decoded values of both partners for one piece of one tensor. */
struct piece {
    float ours[PIECE];
    float theirs[PIECE];
};

/* What the first pass learns. */
struct survey {
    double own_square; /* |ours|^2 */
    double other_square;
    double product;    /* ours . theirs */
    double difference; /* |theirs - ours|^2 */
    struct gossip_correction corrections[GOSSIP_TENSORS_MAX];
};

/* A walk over both blobs, tensor after tensor. */
struct cursor {
    const uint8_t *ours;
    const uint8_t *theirs;
};

static int decode_piece(const struct gossip_merge_input *in, const struct cursor *at, size_t start,
                        size_t count, struct piece *piece)
{
    int own = gossip_decode_values(in->own.codec, count,
                                   at->ours + gossip_encoded_bytes(in->own.codec, start), piece->ours);
    int other = gossip_decode_values(
        in->partner.codec, count, at->theirs + gossip_encoded_bytes(in->partner.codec, start), piece->theirs);
    return own < 0 ? own : other;
}

static void next_tensor(const struct gossip_merge_input *in, const struct gossip_tensor *tensor,
                        struct cursor *at)
{
    at->ours += gossip_encoded_bytes(in->own.codec, tensor->count);
    at->theirs += gossip_encoded_bytes(in->partner.codec, tensor->count);
}

static size_t piece_len(const struct gossip_tensor *tensor, size_t start)
{
    return tensor->count - start < PIECE ? tensor->count - start : PIECE;
}

static int check_input(const struct gossip_merge_input *in)
{
    size_t own = 0;
    size_t other = 0;
    ASSERT(in->tensor_count > 0 && in->tensor_count <= GOSSIP_TENSORS_MAX);
    if (in->outer.gamma != in->outer.beta || !(in->partner_weight > 0.0f && in->partner_weight <= 0.5f))
        return ERR_INVALID;
    if (in->own.codec >= GOSSIP_CODEC_COUNT || in->partner.codec >= GOSSIP_CODEC_COUNT)
        return ERR_INVALID;
    for (size_t i = 0; i < in->tensor_count; i++) {
        own += gossip_encoded_bytes(in->own.codec, in->tensors[i].count);
        other += gossip_encoded_bytes(in->partner.codec, in->tensors[i].count);
    }
    return own == in->own.blob.len && other == in->partner.blob.len ? ERR_OK : ERR_MALFORMED;
}

static int survey_tensor(const struct gossip_merge_input *in, const struct gossip_tensor *tensor,
                         const struct cursor *at, const float phi[restrict], const float delta[restrict],
                         struct gossip_sums *sums)
{
    struct piece piece;
    for (size_t start = 0; start < tensor->count; start += PIECE) {
        size_t count = piece_len(tensor, start);
        size_t from = tensor->offset - in->tensors[0].offset + start;
        int result = decode_piece(in, at, start, count, &piece);
        if (result < 0)
            return result;
        if (!gossip_all_finite(count, in->theta + from) || !gossip_all_finite(count, phi + from) ||
            !gossip_all_finite(count, delta + from))
            return ERR_NOT_FINITE;
        gossip_sums_add(sums, count, piece.ours, piece.theirs);
    }
    return ERR_OK;
}

static int survey_all(const struct gossip_merge_input *in, const float phi[restrict],
                      const float delta[restrict], struct survey *out)
{
    struct cursor at = {in->own.blob.data, in->partner.blob.data};
    for (size_t i = 0; i < in->tensor_count; i++) {
        struct gossip_sums sums = {0};
        int result = survey_tensor(in, &in->tensors[i], &at, phi, delta, &sums);
        if (result < 0)
            return result;
        out->own_square += sums.xx;
        out->other_square += sums.yy;
        out->product += sums.xy;
        out->difference += sums.dd;
        out->corrections[i] = gossip_correction_of(&sums, in->tensors[i].kind);
        next_tensor(in, &in->tensors[i], &at);
    }
    return ERR_OK;
}

static void merge_tensor(const struct gossip_merge_input *in, const struct gossip_tensor *tensor,
                         const struct cursor *at, float scale, struct gossip_correction correction,
                         float phi[restrict], float delta[restrict], float diff[restrict])
{
    struct piece piece;
    float tbar[PIECE];
    for (size_t start = 0; start < tensor->count; start += PIECE) {
        size_t count = piece_len(tensor, start);
        size_t from = tensor->offset - in->tensors[0].offset + start;
        int result = decode_piece(in, at, start, count, &piece);
        ASSERT(result == ERR_OK); /* the survey has decoded the same bytes */
        gossip_pair_target(count, in->partner_weight * scale, in->theta + from, piece.ours, piece.theirs,
                           tbar);
        gossip_correction_apply(correction, count, tbar);
        gossip_outer_step(count, in->outer.alpha, in->outer.beta, tbar, in->theta + from, phi + from,
                          delta + from, diff + from);
    }
}

int gossip_merge_job(const struct gossip_merge_input *in, struct gossip_history *history, float phi[restrict],
                     float delta[restrict], float diff[restrict], struct gossip_merge_report *report)
{
    struct survey survey = {0};
    float scale = 1.0f;
    int result = check_input(in);
    if (result == ERR_OK)
        result = survey_all(in, phi, delta, &survey);
    if (result < 0)
        return result;
    struct gossip_gate_input gate = {.own_round = in->own_round,
                                     .partner_round = in->partner_round,
                                     .own_norm = sqrt(survey.own_square),
                                     .distance = sqrt(survey.difference),
                                     .radius = gossip_history_radius(history)};
    result = gossip_gate(&gate, &scale);
    if (result == ERR_OK || result == ERR_REFUSED)
        gossip_history_push(history, gate.distance);
    if (result < 0)
        return result;
    const struct gossip_tensor *last = &in->tensors[in->tensor_count - 1];
    size_t values = last->offset + last->count - in->tensors[0].offset;
    *report = (struct gossip_merge_report){
        .distance = gate.distance, .rms = gate.distance / sqrt((double)values), .scale = scale};
    report->relative = gate.own_norm > 0 ? gate.distance / gate.own_norm : 0;
    double norms = gate.own_norm * sqrt(survey.other_square);
    report->cosine = norms > 0 ? survey.product / norms : 0;
    bool correct = in->variance_correction && scale == 1.0f && in->partner_weight == 0.5f;
    struct cursor at = {in->own.blob.data, in->partner.blob.data};
    for (size_t i = 0; i < in->tensor_count; i++) {
        struct gossip_correction correction = survey.corrections[i];
        if (!correct)
            correction.factor = 1.0f;
        report->corrected += correction.factor != 1.0f;
        merge_tensor(in, &in->tensors[i], &at, scale, correction, phi, delta, diff);
        next_tensor(in, &in->tensors[i], &at);
    }
    return ERR_OK;
}

int gossip_solo_job(size_t count, const struct gossip_outer *outer, const float theta[restrict],
                    float phi[restrict], float delta[restrict], float diff[restrict])
{
    if (!gossip_all_finite(count, theta) || !gossip_all_finite(count, phi) ||
        !gossip_all_finite(count, delta))
        return ERR_NOT_FINITE;
    gossip_outer_step(count, outer->alpha, outer->beta, theta, theta, phi, delta, diff);
    return ERR_OK;
}
