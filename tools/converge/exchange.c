#include "tools/converge/exchange.h"

#include <math.h>
#include <string.h>

#include "gossip/codec.h"
#include "gossip/merge/job.h"
#include "gossip/merge/stats.h"

_Static_assert((int)CONVERGE_FRAGMENTS_MAX == (int)GOSSIP_FRAGMENTS_MAX,
               "the settings allow what gossip cuts");

int exchange_model_init(struct exchange_model *model, const struct train_layout *layout, size_t fragments)
{
    *model =
        (struct exchange_model){.tensor_count = layout->tensor_count, .param_count = layout->arena_floats};
    if (fragments > layout->tensor_count)
        return ERR_INVALID;
    for (size_t i = 0; i < layout->tensor_count; i++) {
        const struct train_tensor *tensor = &layout->tensors[i];
        size_t end = i + 1 < layout->tensor_count ? layout->tensors[i + 1].offset : layout->arena_floats;
        bool matrix = tensor->kind == TRAIN_MATRIX || tensor->kind == TRAIN_EMBEDDING;
        model->tensors[i] =
            (struct gossip_tensor){.offset = tensor->offset,
                                   .count = end - tensor->offset,
                                   .kind = matrix ? GOSSIP_TENSOR_MATRIX : GOSSIP_TENSOR_VECTOR};
    }
    int cut = gossip_fragments_cut(model->tensors, model->tensor_count, fragments, model->fragments);
    if (cut < 0)
        return cut;
    model->fragment_count = (size_t)cut;
    model->block_count = gossip_block_count(model->tensors, model->tensor_count);
    model->trail_floats = gossip_trail_floats(model->tensors, model->tensor_count);
    model->blob_bytes_max = gossip_encoded_bytes(GOSSIP_CODEC_FP32, model->param_count);
    return 0;
}

static const struct gossip_fragment *fragment_of(const struct exchange_rule *rule)
{
    return &rule->model->fragments[rule->fragment];
}

static const struct gossip_tensor *tensors_of(const struct exchange_rule *rule)
{
    return rule->model->tensors + fragment_of(rule)->first_tensor;
}

static size_t block_count(const struct exchange_rule *rule)
{
    return gossip_block_count(tensors_of(rule), fragment_of(rule)->tensor_count);
}

/* The fragment's part of a node's distances. */
static float *distances_of(const struct exchange_rule *rule, const struct exchange_side *side)
{
    size_t before = fragment_of(rule)->first_tensor;
    return side->memory->distances + (before == 0 ? 0 : gossip_block_count(rule->model->tensors, before));
}

void exchange_memory_init(const struct exchange_model *model, struct exchange_memory *memory)
{
    float *marks = memory->marks;
    for (size_t f = 0; f < model->fragment_count; f++) {
        const struct gossip_fragment *fragment = &model->fragments[f];
        const struct gossip_tensor *tensors = model->tensors + fragment->first_tensor;
        gossip_trail_init(&memory->trails[f], tensors, fragment->tensor_count, marks);
        marks += gossip_trail_floats(tensors, fragment->tensor_count);
    }
}

/* The fragment's round is over. */
static void end_round(const struct exchange_rule *rule, struct exchange_side *side, bool merged)
{
    gossip_history_round(&side->memory->history[rule->fragment], merged);
    gossip_trail_round(&side->memory->trails[rule->fragment], tensors_of(rule),
                       fragment_of(rule)->tensor_count, side->phi + fragment_of(rule)->offset);
}

void exchange_forget(const struct exchange_model *model, struct exchange_memory *memory)
{
    for (size_t f = 0; f < model->fragment_count; f++)
        gossip_trail_forget(&memory->trails[f]);
    memset(memory->history, 0, sizeof memory->history);
    memset(&memory->changes, 0, sizeof memory->changes);
    gossip_nearness_forget(&memory->nearness, NULL);
    memset(memory->distances, 0, model->block_count * sizeof(float));
}

int exchange_solo(const struct exchange_rule *rule, struct exchange_side *side)
{
    size_t at = fragment_of(rule)->offset;
    struct gossip_history *history = &side->memory->history[rule->fragment];
    end_round(rule, side, false);
    return gossip_solo_job(fragment_of(rule)->count, &rule->outer, history->missed, side->theta + at,
                           side->phi + at, side->delta + at, side->diff + at);
}

/* Without gates nobody looks at the numbers, the sender's own included. */
static bool is_raw(const struct exchange_rule *rule)
{
    return !rule->gates || rule->correction == CONVERGE_ALWAYS;
}

static enum gossip_codec codec_for(const struct exchange_rule *rule, const struct exchange_side *self,
                                   const struct exchange_side *other)
{
    const struct gossip_nearness *memory = &self->memory->nearness;
    struct gossip_choice_input in = {
        .asked = rule->codec,
        .ending = rule->ending,
        .accepted = (1U << GOSSIP_CODEC_COUNT) - 1,
        .close = gossip_nearness_close(memory, other->id, (unsigned)rule->fragment, rule->round)};
    return gossip_codec_choose(&in);
}

static int encode_values(const struct exchange_rule *rule, struct exchange_side *self,
                         const struct exchange_side *other)
{
    const struct gossip_fragment *fragment = fragment_of(rule);
    const float *values = self->shown + fragment->offset;
    if (is_raw(rule)) {
        memcpy(self->buffers.blob, values, self->blob_len);
        return 0;
    }
    if (gossip_modular_bits(self->codec) == 0)
        return gossip_encode(self->codec, tensors_of(rule), fragment->tensor_count, values,
                             self->buffers.blob, self->blob_len);
    struct gossip_modular_source source = {
        .theta = values,
        .phi = self->phi + fragment->offset,
        .distances = distances_of(rule, self),
        .kappa = GOSSIP_KAPPA,
        .distance_scale = gossip_nearness_scale(&self->memory->nearness, other->id, (unsigned)rule->fragment),
    };
    return gossip_modular_encode(self->codec, tensors_of(rule), fragment->tensor_count, &source,
                                 self->buffers.blob, self->blob_len);
}

static int encode(const struct exchange_rule *rule, struct exchange_side *self,
                  const struct exchange_side *other)
{
    self->merged = self->refused = self->clipped = self->failed_trial = false;
    self->corrected = self->blocks = self->resent = self->wanted_count = self->repairs_len = 0;
    self->codec = self->old.data != NULL ? self->old_codec : codec_for(rule, self, other);
    self->blob_len = gossip_blob_bytes(self->codec, tensors_of(rule), fragment_of(rule)->tensor_count);
    self->sent = self->blob_len;
    if (gossip_modular_bits(self->codec) != 0)
        self->blocks = block_count(rule);
    if (self->old.data != NULL) {
        ASSERT(self->old.len == self->blob_len);
        memcpy(self->buffers.blob, self->old.data, self->blob_len);
        return 0;
    }
    int result = encode_values(rule, self, other);
    if (self->garbage)
        memset(self->buffers.blob, 0xff, self->blob_len);
    return result;
}

/* Looks through the partner's modular blob, asks for the wrong blocks and gets them in int8.  0: all is
 * there. ERR_FAR, ERR_MALFORMED: the exchange fails. */
static int repair(const struct exchange_rule *rule, struct exchange_side *self, struct exchange_side *other)
{
    const struct gossip_tensor *tensors = tensors_of(rule);
    size_t count = fragment_of(rule)->tensor_count, at = fragment_of(rule)->offset;
    if (gossip_modular_bits(other->codec) == 0)
        return 0;
    int wrong =
        gossip_modular_check(other->codec, tensors, count, bytes_of(other->buffers.blob, other->blob_len),
                             self->theta + at, self->buffers.wanted);
    if (wrong < 0)
        return wrong;
    self->wanted_count = (size_t)wrong;
    /* The list's bytes go into the buffer that the repairs overwrite: only their number matters here. */
    self->sent += gossip_indices_encode(self->wanted_count, self->buffers.wanted, other->buffers.repairs,
                                        rule->model->blob_bytes_max);
    int result =
        gossip_repair_bytes(tensors, count, self->wanted_count, self->buffers.wanted, &other->repairs_len);
    if (result == 0)
        result = gossip_repair_encode(tensors, count, self->wanted_count, self->buffers.wanted,
                                      other->shown + at, other->buffers.repairs, other->repairs_len);
    other->sent += other->repairs_len;
    other->resent = self->wanted_count;
    return result;
}

/* What `from` has sent, with the list of the one who asked for repairs. */
static struct gossip_sent sent_of(const struct exchange_side *from, const struct exchange_side *asker)
{
    return (struct gossip_sent){.codec = from->codec,
                                .blob = bytes_of(from->buffers.blob, from->blob_len),
                                .repaired = asker->buffers.wanted,
                                .repaired_count = asker->wanted_count,
                                .repairs = bytes_of(from->buffers.repairs, from->repairs_len)};
}

static void note(const struct exchange_rule *rule, struct exchange_side *self,
                 const struct exchange_side *other, const struct gossip_merge_report *report)
{
    size_t worst = self->wanted_count > other->wanted_count ? self->wanted_count : other->wanted_count;
    struct gossip_encounter seen = {.peer = *other->id,
                                    .round = rule->round,
                                    .fragment = (unsigned)rule->fragment,
                                    .distance = (float)report->rms,
                                    .relative = (float)report->relative,
                                    .wrong_share = (float)worst / (float)block_count(rule)};
    gossip_nearness_note(&self->memory->nearness, &seen);
}

/* Where the merge job writes: in place, or beside when the result has to pass a trial first. */
struct result_place {
    float *phi, *delta;
};

static struct result_place place_of(const struct exchange_rule *rule, const struct exchange_side *self)
{
    size_t at = fragment_of(rule)->offset, count = fragment_of(rule)->count;
    if (self->trainer == NULL)
        return (struct result_place){self->phi + at, self->delta + at};
    struct result_place place = {self->trial, self->trial + count};
    memcpy(place.phi, self->phi + at, count * sizeof(float));
    memcpy(place.delta, self->delta + at, count * sizeof(float));
    return place;
}

/* Takes a result over when the loss of a private batch bears it. */
static int try_result(const struct exchange_rule *rule, struct exchange_side *self,
                      const struct result_place *place)
{
    const struct gossip_fragment *fragment = fragment_of(rule);
    struct trainer_trial trial;
    size_t at = fragment->offset, count = fragment->count;
    trainer_try_span(self->trainer, fragment->first_tensor, fragment->tensor_count, self->diff + at,
                     self->trial + 2 * count, &trial);
    int result = gossip_loss_gate(&self->memory->changes, trial.before, trial.after);
    self->failed_trial = result < 0;
    if (result < 0)
        return result;
    memcpy(self->phi + at, place->phi, count * sizeof(float));
    memcpy(self->delta + at, place->delta, count * sizeof(float));
    return 0;
}

static int merge(const struct exchange_rule *rule, struct exchange_side *self,
                 const struct exchange_side *other)
{
    size_t at = fragment_of(rule)->offset;
    struct gossip_merge_input in = {
        .tensors = tensors_of(rule),
        .tensor_count = fragment_of(rule)->tensor_count,
        .outer = rule->outer,
        .variance_correction = rule->correction == CONVERGE_GATED,
        .strangers = rule->strangers,
        .partner_weight = rule->weight,
        .own_round = rule->round,
        .partner_round = rule->round,
        .theta = self->theta + at,
        .own = sent_of(self, other),
        .partner = sent_of(other, self),
        .trail = &self->memory->trails[rule->fragment],
        .distances = distances_of(rule, self),
    };
    struct gossip_merge_report report = {0};
    struct result_place place = place_of(rule, self);
    int result = gossip_merge_job(&in, &self->memory->history[rule->fragment], place.phi, place.delta,
                                  self->diff + at, &report);
    if (result == 0 && self->trainer != NULL)
        result = try_result(rule, self, &place);
    if (result < 0) {
        self->refused = true;
        return exchange_solo(rule, self);
    }
    end_round(rule, self, true);
    self->merged = true;
    self->clipped = report.scale < 1.0F;
    self->corrected = report.corrected;
    note(rule, self, other, &report);
    return 0;
}

/* tbar over one tensor, with its variance brought back to the mean of the two, whatever their correlation. */
static void widen(size_t n, const float x[], const float y[], float tbar[])
{
    struct gossip_sums both = {0}, mean = {0};
    double count = (double)n;
    gossip_sums_add(&both, n, x, y);
    gossip_sums_add(&mean, n, tbar, tbar);
    double centre = mean.x / count;
    double target = 0.5 * (both.xx + both.yy - (both.x * both.x + both.y * both.y) / count);
    double spread = mean.xx - mean.x * centre;
    if (!(spread > GOSSIP_VARIANCE_FLOOR * target))
        return;
    struct gossip_correction wide = {.factor = (float)sqrt(target / spread), .mean = (float)centre};
    gossip_correction_apply(wide, n, tbar);
}

/* The step without gates, or with the variance correction whatever the correlation: not a node's way. */
static void merge_raw(const struct exchange_rule *rule, struct exchange_side *self, const float theirs[])
{
    const struct gossip_fragment *fragment = fragment_of(rule);
    const struct gossip_tensor *tensors = tensors_of(rule);
    size_t at = fragment->offset;
    const float *theta = self->theta + at;
    float *tbar = self->scratch + at;
    gossip_pair_target(fragment->count, rule->weight, theta, theta, theirs, tbar);
    for (size_t i = 0; i < fragment->tensor_count && rule->correction == CONVERGE_ALWAYS; i++) {
        size_t from = tensors[i].offset - at, n = tensors[i].count;
        if (tensors[i].kind != GOSSIP_TENSOR_MATRIX || n < 2)
            continue;
        widen(n, theta + from, theirs + from, tbar + from);
        self->corrected++;
    }
    gossip_outer_step(fragment->count, rule->outer.alpha, rule->outer.beta, tbar, theta, self->phi + at,
                      self->delta + at, self->diff + at);
    self->merged = true;
}

/* What came, as numbers, without a look at them: from the blob, which is fp32 here. */
static const float *raw_values(const struct exchange_side *side)
{
    return (const float *)(const void *)side->buffers.blob;
}

/* Neither commits: what one could not decode both give up.  Both remember, for int8 next time. */
static int give_up(const struct exchange_rule *rule, struct exchange_side *a, struct exchange_side *b)
{
    a->refused = b->refused = true;
    gossip_nearness_far(&a->memory->nearness, b->id, (unsigned)rule->fragment, rule->round);
    gossip_nearness_far(&b->memory->nearness, a->id, (unsigned)rule->fragment, rule->round);
    int result = exchange_solo(rule, a);
    return result < 0 ? result : exchange_solo(rule, b);
}

int exchange_run(const struct exchange_rule *rule, struct exchange_side *a, struct exchange_side *b)
{
    struct exchange_side *sides[2] = {a, b};
    for (size_t i = 0; i < 2; i++) {
        int result = encode(rule, sides[i], sides[1 - i]);
        if (result < 0)
            return result;
    }
    for (size_t i = 0; i < 2; i++) {
        int result = repair(rule, sides[i], sides[1 - i]);
        if (result == ERR_FAR || result == ERR_MALFORMED)
            return give_up(rule, a, b);
        if (result < 0)
            return result;
    }
    for (size_t i = 0; i < 2; i++) {
        struct exchange_side *self = sides[i], *other = sides[1 - i];
        int result = 0;
        if (!self->commits)
            result = exchange_solo(rule, self);
        else if (is_raw(rule))
            merge_raw(rule, self, raw_values(other));
        else
            result = merge(rule, self, other);
        if (result < 0)
            return result;
    }
    return 0;
}
