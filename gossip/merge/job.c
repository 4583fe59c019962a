/* The merge thread's work: one pass that only looks, one that changes. */
#include "gossip/merge/job.h"

#include <math.h>
#include <string.h>

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
    double way_square; /* |theta - phi|^2 of the own exact weights */
    struct gossip_trail_sums trail;
    struct gossip_correction corrections[GOSSIP_TENSORS_MAX];
};

/* A walk over what one side has sent, tensor after tensor. */
struct cursor {
    const uint8_t *blob; /* of the tensor */
    const uint8_t *repair;
    size_t repaired; /* entries of the list that lie behind */
    uint32_t block;  /* index of the next piece's first block */
};

/* A walk over both sides and the fragment's arrays. */
struct walk {
    struct cursor own;
    struct cursor partner;
};

static struct cursor cursor_of(const struct gossip_sent *sent)
{
    return (struct cursor){.blob = sent->blob.data, .repair = sent->repairs.data};
}

static struct walk walk_of(const struct gossip_merge_input *in)
{
    return (struct walk){cursor_of(&in->own), cursor_of(&in->partner)};
}

/* Decodes the next piece of one side: count values from start of its tensor. */
static int decode_side(const struct gossip_sent *sent, struct cursor *at, size_t start, size_t count,
                       const float theta[restrict], float values[restrict])
{
    uint8_t wrong[PIECE / GOSSIP_BLOCK];
    const uint8_t *in = at->blob + gossip_encoded_bytes(sent->codec, start);
    if (gossip_modular_bits(sent->codec) == 0)
        return gossip_decode_values(sent->codec, count, in, values);
    int result = gossip_modular_values(sent->codec, count, in, theta, values, wrong);
    if (result < 0)
        return result;
    for (size_t i = 0; i < count; i += GOSSIP_BLOCK, at->block++) {
        size_t len = count - i < GOSSIP_BLOCK ? count - i : GOSSIP_BLOCK;
        if (at->repaired == sent->repaired_count || sent->repaired[at->repaired] != at->block) {
            if (wrong[i / GOSSIP_BLOCK])
                return ERR_MALFORMED;
            continue;
        }
        result = gossip_decode_values(GOSSIP_CODEC_INT8, len, at->repair, values + i);
        if (result < 0)
            return result;
        at->repair += gossip_encoded_bytes(GOSSIP_CODEC_INT8, len);
        at->repaired++;
    }
    return ERR_OK;
}

static int decode_piece(const struct gossip_merge_input *in, struct walk *at, size_t start, size_t count,
                        const float theta[restrict], struct piece *piece)
{
    int own = decode_side(&in->own, &at->own, start, count, theta, piece->ours);
    int other = decode_side(&in->partner, &at->partner, start, count, theta, piece->theirs);
    return own < 0 ? own : other;
}

static void next_tensor(const struct gossip_merge_input *in, const struct gossip_tensor *tensor,
                        struct walk *at)
{
    at->own.blob += gossip_encoded_bytes(in->own.codec, tensor->count);
    at->partner.blob += gossip_encoded_bytes(in->partner.codec, tensor->count);
}

static size_t piece_len(const struct gossip_tensor *tensor, size_t start)
{
    return tensor->count - start < PIECE ? tensor->count - start : PIECE;
}

static int check_sent(const struct gossip_merge_input *in, const struct gossip_sent *sent)
{
    size_t repairs;
    if (sent->codec >= GOSSIP_CODEC_COUNT)
        return ERR_INVALID;
    if (sent->blob.len != gossip_blob_bytes(sent->codec, in->tensors, in->tensor_count))
        return ERR_MALFORMED;
    if (sent->repaired_count != 0 && gossip_modular_bits(sent->codec) == 0)
        return ERR_MALFORMED;
    if (gossip_repair_bytes(in->tensors, in->tensor_count, sent->repaired_count, sent->repaired, &repairs) <
        0)
        return ERR_MALFORMED;
    return repairs == sent->repairs.len ? ERR_OK : ERR_MALFORMED;
}

static int check_input(const struct gossip_merge_input *in)
{
    ASSERT(in->tensor_count > 0 && in->tensor_count <= GOSSIP_TENSORS_MAX);
    if (in->outer.gamma != in->outer.beta || !(in->partner_weight > 0.0f && in->partner_weight <= 0.5f))
        return ERR_INVALID;
    int own = check_sent(in, &in->own);
    return own < 0 ? own : check_sent(in, &in->partner);
}

static int survey_tensor(const struct gossip_merge_input *in, const struct gossip_tensor *tensor,
                         struct walk *at, const float phi[restrict], const float delta[restrict],
                         struct gossip_sums *sums, struct gossip_sums *own, struct gossip_trail_sums *trail)
{
    struct piece piece;
    for (size_t start = 0; start < tensor->count; start += PIECE) {
        size_t count = piece_len(tensor, start);
        size_t from = tensor->offset - in->tensors[0].offset + start;
        int result = decode_piece(in, at, start, count, in->theta + from, &piece);
        if (result < 0)
            return result;
        if (!gossip_all_finite(count, in->theta + from) || !gossip_all_finite(count, phi + from) ||
            !gossip_all_finite(count, delta + from))
            return ERR_NOT_FINITE;
        gossip_sums_add(sums, count, piece.ours, piece.theirs);
        gossip_sums_add(own, count, in->theta + from, phi + from);
        gossip_trail_add(trail, count, piece.theirs, phi + from);
    }
    return ERR_OK;
}

static int survey_all(const struct gossip_merge_input *in, const float phi[restrict],
                      const float delta[restrict], struct survey *out)
{
    struct walk at = walk_of(in);
    out->trail = gossip_trail_begin(in->strangers ? NULL : in->trail);
    for (size_t i = 0; i < in->tensor_count; i++) {
        struct gossip_sums sums = {0}, own = {0};
        int result = survey_tensor(in, &in->tensors[i], &at, phi, delta, &sums, &own, &out->trail);
        if (result < 0)
            return result;
        out->own_square += sums.xx;
        out->other_square += sums.yy;
        out->product += sums.xy;
        out->difference += sums.dd;
        out->way_square += own.dd;
        out->corrections[i] = gossip_correction_of(&sums, in->tensors[i].kind);
        next_tensor(in, &in->tensors[i], &at);
    }
    return ERR_OK;
}

/* Rms distance of each block of a piece, from the exact own weights: the noise of the own encoding would feed
 * back into its next step.  An earlier one fades as pairwise averaging lets distances shrink, so that meeting
 * the same partner twice does not make the next one seem close. */
static void note_distances(size_t count, const float theta[restrict], const float theirs[restrict],
                           float distances[restrict])
{
    for (size_t i = 0; i < count; i += GOSSIP_BLOCK) {
        size_t len = count - i < GOSSIP_BLOCK ? count - i : GOSSIP_BLOCK;
        struct gossip_sums sums = {0};
        gossip_sums_add(&sums, len, theta + i, theirs + i);
        float now = (float)(gossip_sums_distance(&sums) / sqrt((double)len));
        float before = GOSSIP_DISTANCE_DECAY * distances[i / GOSSIP_BLOCK];
        distances[i / GOSSIP_BLOCK] = now > before ? now : before;
    }
}

static void merge_tensor(const struct gossip_merge_input *in, const struct gossip_tensor *tensor,
                         struct walk *at, float scale, struct gossip_correction correction, float *distances,
                         float phi[restrict], float delta[restrict], float diff[restrict])
{
    struct piece piece;
    float tbar[PIECE];
    for (size_t start = 0; start < tensor->count; start += PIECE) {
        size_t count = piece_len(tensor, start);
        size_t from = tensor->offset - in->tensors[0].offset + start;
        int result = decode_piece(in, at, start, count, in->theta + from, &piece);
        ASSERT(result == ERR_OK); /* the survey has decoded the same bytes */
        if (distances != NULL)
            note_distances(count, in->theta + from, piece.theirs, distances + start / GOSSIP_BLOCK);
        float weight = in->partner_weight * gossip_modular_weight(in->own.codec, in->partner.codec) * scale;
        if (correction.factor == 1.0f) { /* the same bits as the three below */
            gossip_pair_step(count, in->outer.alpha, in->outer.beta, weight, in->theta + from, piece.ours,
                             piece.theirs, phi + from, delta + from, diff + from);
            continue;
        }
        gossip_pair_target(count, weight, in->theta + from, piece.ours, piece.theirs, tbar);
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
                                     .radius = gossip_history_radius(history),
                                     .known = history->count,
                                     .missed = history->missed,
                                     .way = in->strangers ? INFINITY : sqrt(survey.way_square),
                                     .behind = gossip_trail_behind(&survey.trail),
                                     .behind_limit = INFINITY,
                                     .growth = INFINITY};
    bool has_way = survey.trail.levels > 0 && isfinite(gate.behind);
    if (has_way)
        gate.behind_limit = gossip_trail_limit(in->trail);
    if (survey.trail.trail != NULL && isfinite(gate.own_norm) && gate.own_norm > 0) {
        gossip_trail_norm(in->trail, gate.own_norm);
        gate.growth = gossip_trail_growth(in->trail);
        gate.radial = (survey.product - survey.own_square) / gate.own_norm;
    }
    result = gossip_gate(&gate, &scale);
    if (result == ERR_OK || result == ERR_FAR)
        gossip_history_push(history, gate.distance);
    if (result == ERR_OK && has_way)
        gossip_trail_met(in->trail, gate.behind);
    if (result < 0)
        return result;
    const struct gossip_tensor *last = &in->tensors[in->tensor_count - 1];
    size_t values = last->offset + last->count - in->tensors[0].offset;
    *report = (struct gossip_merge_report){
        .distance = gate.distance, .rms = gate.distance / sqrt((double)values), .scale = scale};
    report->relative = gate.own_norm > 0 ? gate.distance / gate.own_norm : 0;
    double norms = gate.own_norm * sqrt(survey.other_square);
    report->cosine = norms > 0 ? survey.product / norms : 0;
    float *distances = in->distances;
    bool correct = in->variance_correction && scale == 1.0f && in->partner_weight == 0.5f;
    struct walk at = walk_of(in);
    for (size_t i = 0; i < in->tensor_count; i++) {
        struct gossip_correction correction = survey.corrections[i];
        if (!correct)
            correction.factor = 1.0f;
        report->corrected += correction.factor != 1.0f;
        merge_tensor(in, &in->tensors[i], &at, scale, correction, distances, phi, delta, diff);
        if (distances != NULL)
            distances += (in->tensors[i].count + GOSSIP_BLOCK - 1) / GOSSIP_BLOCK;
        next_tensor(in, &in->tensors[i], &at);
    }
    return ERR_OK;
}

int gossip_solo_job(size_t count, const struct gossip_outer *outer, uint32_t missed,
                    const float theta[restrict], float phi[restrict], float delta[restrict],
                    float diff[restrict])
{
    if (!gossip_all_finite(count, theta) || !gossip_all_finite(count, phi) ||
        !gossip_all_finite(count, delta))
        return ERR_NOT_FINITE;
    if (missed < GOSSIP_SOLO_AFTER)
        memset(diff, 0, count * sizeof *diff);
    else
        gossip_outer_step(count, outer->alpha, outer->beta, theta, theta, phi, delta, diff);
    return ERR_OK;
}
