#include "tools/converge/exchange.h"

#include <math.h>
#include <string.h>

#include "gossip/codec.h"
#include "gossip/merge/job.h"
#include "gossip/merge/stats.h"

static void cut(struct exchange_model *model, size_t fragments)
{
    size_t tensor = 0;
    for (size_t f = 0; f < fragments; f++) {
        struct exchange_fragment *out = &model->fragments[f];
        size_t left = fragments - f;
        size_t at = model->tensors[tensor].offset;
        size_t share = (model->param_count - at + left / 2) / left;
        *out = (struct exchange_fragment){.first_tensor = tensor, .offset = at};
        do {
            out->count += model->tensors[tensor].count;
            tensor++;
        } while (model->tensor_count - tensor >= left &&
                 (left == 1 || out->count + model->tensors[tensor].count / 2 <= share));
        out->tensor_count = tensor - out->first_tensor;
    }
    ASSERT(tensor == model->tensor_count);
}

int exchange_model_init(struct exchange_model *model, const struct train_layout *layout, size_t fragments)
{
    *model = (struct exchange_model){.tensor_count = layout->tensor_count,
                                     .param_count = layout->arena_floats,
                                     .fragment_count = fragments};
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
    cut(model, fragments);
    model->blob_bytes_max = gossip_encoded_bytes(GOSSIP_CODEC_FP32, model->param_count);
    return 0;
}

/* The fragment's own table: offsets from the fragment's start. */
static size_t table_of(const struct exchange_rule *rule, struct gossip_tensor out[])
{
    const struct exchange_fragment *fragment = &rule->model->fragments[rule->fragment];
    for (size_t i = 0; i < fragment->tensor_count; i++) {
        out[i] = rule->model->tensors[fragment->first_tensor + i];
        out[i].offset -= fragment->offset;
    }
    return fragment->tensor_count;
}

static size_t blob_bytes(enum gossip_codec codec, const struct gossip_tensor tensors[], size_t count)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += gossip_encoded_bytes(codec, tensors[i].count);
    return bytes;
}

bool exchange_codec_ready(const struct exchange_side *a, const struct exchange_side *b, size_t fragment)
{
    return a->memory->known[fragment] && b->memory->known[fragment];
}

int exchange_solo(const struct exchange_rule *rule, struct exchange_side *side)
{
    const struct exchange_fragment *fragment = &rule->model->fragments[rule->fragment];
    size_t at = fragment->offset;
    return gossip_solo_job(fragment->count, &rule->outer, side->theta + at, side->phi + at, side->delta + at,
                           side->diff + at);
}

/* Without gates nobody looks at the numbers, the sender's own included. */
static bool is_raw(const struct exchange_rule *rule)
{
    return !rule->gates || rule->correction == CONVERGE_ALWAYS;
}

static int encode(const struct exchange_rule *rule, const struct gossip_tensor tensors[], size_t count,
                  struct exchange_side *side)
{
    size_t bytes = blob_bytes(rule->codec, tensors, count);
    int result = 0;
    side->sent = side->blob_len = bytes;
    const float *values = side->shown + rule->model->fragments[rule->fragment].offset;
    if (is_raw(rule))
        memcpy(side->blob, values, bytes);
    else
        result = gossip_encode(rule->codec, tensors, count, values, side->blob, bytes);
    if (result < 0)
        return result;
    if (side->garbage)
        memset(side->blob, 0xff, bytes);
    if (side->old.data != NULL && side->old.len == bytes)
        memcpy(side->blob, side->old.data, bytes);
    return 0;
}

static int merge(const struct exchange_rule *rule, const struct gossip_tensor tensors[], size_t count,
                 struct exchange_side *self, const struct exchange_side *other)
{
    size_t at = rule->model->fragments[rule->fragment].offset;
    size_t bytes = blob_bytes(rule->codec, tensors, count);
    struct gossip_merge_input in = {
        .tensors = tensors,
        .tensor_count = count,
        .outer = rule->outer,
        .variance_correction = rule->correction == CONVERGE_GATED,
        .partner_weight = rule->weight,
        .own_round = rule->round,
        .partner_round = rule->round,
        .theta = self->theta + at,
        .own_codec = rule->codec,
        .own_blob = bytes_of(self->blob, bytes),
        .partner_codec = rule->codec,
        .partner_blob = bytes_of(other->blob, bytes),
    };
    struct gossip_merge_report report = {0};
    int result = gossip_merge_job(&in, &self->memory->history[rule->fragment], self->phi + at,
                                  self->delta + at, self->diff + at, &report);
    if (result < 0) {
        self->refused = true;
        return exchange_solo(rule, self);
    }
    self->merged = true;
    self->clipped = report.scale < 1.0F;
    self->corrected = report.corrected;
    self->memory->known[rule->fragment] = true;
    self->memory->distance_rms[rule->fragment] =
        report.distance / sqrt((double)rule->model->fragments[rule->fragment].count);
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
static void merge_raw(const struct exchange_rule *rule, const struct gossip_tensor tensors[], size_t count,
                      struct exchange_side *self, const float theirs[])
{
    const struct exchange_fragment *fragment = &rule->model->fragments[rule->fragment];
    size_t at = fragment->offset;
    const float *theta = self->theta + at;
    float *tbar = self->scratch + at;
    gossip_pair_target(fragment->count, rule->weight, theta, theta, theirs, tbar);
    for (size_t i = 0; i < count && rule->correction == CONVERGE_ALWAYS; i++) {
        size_t from = tensors[i].offset, n = tensors[i].count;
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
    return (const float *)(const void *)side->blob;
}

int exchange_run(const struct exchange_rule *rule, struct exchange_side *a, struct exchange_side *b)
{
    struct gossip_tensor tensors[TRAIN_TENSORS_MAX];
    size_t count = table_of(rule, tensors);
    struct exchange_side *sides[2] = {a, b};
    for (size_t i = 0; i < 2; i++) {
        struct exchange_side *self = sides[i];
        self->merged = self->refused = self->clipped = false;
        self->corrected = self->blocks = self->resent = 0;
        int result = encode(rule, tensors, count, self);
        if (result < 0)
            return result;
    }
    for (size_t i = 0; i < 2; i++) {
        struct exchange_side *self = sides[i], *other = sides[1 - i];
        int result = 0;
        if (!self->commits)
            result = exchange_solo(rule, self);
        else if (is_raw(rule))
            merge_raw(rule, tensors, count, self, raw_values(other));
        else
            result = merge(rule, tensors, count, self, other);
        if (result < 0)
            return result;
    }
    return 0;
}
