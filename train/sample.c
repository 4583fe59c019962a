#include "train/sample.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/rng.h"
#include "train/gemm.h"
#include "train/kernels.h"

/* One position on its way through the layers, and the rotated keys and the values of those before. */
struct sampler {
    const struct train_layout *layout;
    const float *params;
    size_t position; /* of the next byte inside the context */
    float *cache;    /* [layers][context][2 width]: keys, values */
    float *x, *norm, *qkv, *attended, *wide, *active, *logits, *scores, *cosines, *sines, *gemm;
    float stats[2];
    uint8_t recent[TRAIN_EMBED_SPAN]; /* the last bytes fed, newest last */
};

struct train_sample_config train_sample_config_default(void)
{
    return (struct train_sample_config){.count = 256, .temperature = 0.8F, .top_k = 40};
}

/* Attention of one new position over the cache, itself included. */
static void attend(struct sampler *s, const float *cache)
{
    size_t d = s->layout->model.width, heads = s->layout->model.heads, head_width = d / heads;
    float scale = 1.0F / sqrtf((float)head_width);
    memset(s->attended, 0, d * sizeof(float));
    for (size_t h = 0; h < heads; h++) {
        const float *q = s->qkv + h * head_width;
        float top = -INFINITY, sum = 0;
        for (size_t t = 0; t <= s->position; t++) {
            const float *k = cache + t * 2 * d + h * head_width;
            float score = 0;
            for (size_t i = 0; i < head_width; i++)
                score += q[i] * k[i];
            s->scores[t] = score * scale;
            top = s->scores[t] > top ? s->scores[t] : top;
        }
        for (size_t t = 0; t <= s->position; t++) {
            s->scores[t] = train_exp(s->scores[t] - top);
            sum += s->scores[t];
        }
        for (size_t t = 0; t <= s->position; t++)
            train_add(head_width, s->scores[t] / sum, cache + t * 2 * d + d + h * head_width,
                      s->attended + h * head_width);
    }
}

static void layer(struct sampler *s, size_t l)
{
    const struct train_layout *layout = s->layout;
    const float *p = s->params;
    size_t d = layout->model.width, wide = TRAIN_MLP_FACTOR * d;
    float *cache = s->cache + l * layout->model.context * 2 * d;
    train_norm(1, d, s->x, p + train_layout_at(layout, l, LAYER_NORM1_GAIN),
               p + train_layout_at(layout, l, LAYER_NORM1_BIAS), s->norm, s->stats);
    train_linear(1, d, 3 * d, s->norm, p + train_layout_at(layout, l, LAYER_QKV), s->qkv, false, s->gemm);
    train_rotate(1, d, layout->model.heads, s->position, 1.0F, s->cosines, s->sines, s->qkv);
    memcpy(cache + s->position * 2 * d, s->qkv + d, 2 * d * sizeof(float));
    attend(s, cache);
    train_linear(1, d, d, s->attended, p + train_layout_at(layout, l, LAYER_OUT), s->x, true, s->gemm);

    train_norm(1, d, s->x, p + train_layout_at(layout, l, LAYER_NORM2_GAIN),
               p + train_layout_at(layout, l, LAYER_NORM2_BIAS), s->norm, s->stats);
    train_linear(1, d, wide, s->norm, p + train_layout_at(layout, l, LAYER_UP), s->wide, false, s->gemm);
    train_gelu(wide, s->wide, s->active);
    train_linear(1, wide, d, s->active, p + train_layout_at(layout, l, LAYER_DOWN), s->x, true, s->gemm);
}

/* Reads one byte; logits then predict the next. */
static void feed(struct sampler *s, uint8_t byte)
{
    const struct train_layout *layout = s->layout;
    const struct train_tensor *tensors = layout->tensors;
    size_t d = layout->model.width;
    ASSERT(s->position < layout->model.context);
    memmove(s->recent, s->recent + 1, sizeof s->recent - 1);
    s->recent[TRAIN_EMBED_SPAN - 1] = byte;
    /* The window that train_embed is shown ends with this byte and starts no earlier than the context. */
    size_t known = s->position < TRAIN_EMBED_SPAN - 1 ? s->position : TRAIN_EMBED_SPAN - 1;
    train_embed(known, 1, d, s->recent + TRAIN_EMBED_SPAN - 1 - known,
                s->params + tensors[train_layout_embedding(layout)].offset, s->x);
    for (size_t l = 0; l < layout->model.layers; l++)
        layer(s, l);
    train_norm(1, d, s->x, s->params + tensors[train_layout_final_gain(layout)].offset,
               s->params + tensors[train_layout_final_bias(layout)].offset, s->norm, s->stats);
    train_linear(1, d, TRAIN_VOCABULARY, s->norm, s->params + tensors[train_layout_head(layout)].offset,
                 s->logits, false, s->gemm);
    s->position++;
}

/* Logits below the k-th largest become -infinity; ties at the border stay. */
static void keep_top(float logits[TRAIN_VOCABULARY], unsigned k)
{
    float sorted[TRAIN_VOCABULARY];
    size_t count = 0;
    if (k == 0 || k >= TRAIN_VOCABULARY)
        return;
    for (size_t i = 0; i < TRAIN_VOCABULARY; i++) { /* the k largest so far, by insertion */
        size_t at = count < k ? count++ : k;
        for (; at > 0 && sorted[at - 1] < logits[i]; at--)
            if (at < k)
                sorted[at] = sorted[at - 1];
        if (at < k)
            sorted[at] = logits[i];
    }
    for (size_t i = 0; i < TRAIN_VOCABULARY; i++)
        if (logits[i] < sorted[k - 1])
            logits[i] = -INFINITY;
}

static size_t likeliest(const float logits[TRAIN_VOCABULARY])
{
    size_t best = 0;
    for (size_t i = 1; i < TRAIN_VOCABULARY; i++)
        best = logits[i] > logits[best] ? i : best;
    return best;
}

/* A byte drawn from softmax(logits / temperature), or ERR_NOT_FINITE. */
static int draw(float logits[TRAIN_VOCABULARY], const struct train_sample_config *config,
                const struct rng *rng)
{
    double weights[TRAIN_VOCABULARY], sum = 0;
    for (size_t i = 0; i < TRAIN_VOCABULARY; i++)
        if (!isfinite(logits[i]))
            return ERR_NOT_FINITE;
    size_t best = likeliest(logits);
    if (config->temperature <= 0)
        return (int)best;
    float top = logits[best];
    keep_top(logits, config->top_k);
    for (size_t i = 0; i < TRAIN_VOCABULARY; i++) {
        weights[i] = exp((double)(logits[i] - top) / (double)config->temperature);
        sum += weights[i];
    }
    double at = (double)(rng_u64(rng) >> 11) * 0x1p-53 * sum;
    for (size_t i = 0; i < TRAIN_VOCABULARY; i++) {
        at -= weights[i];
        if (at < 0)
            return (int)i;
    }
    return (int)best; /* rounding left a crumb */
}

static size_t carve(struct sampler *s, float *block)
{
    const struct train_model_config *model = &s->layout->model;
    size_t d = model->width, used = 0, half = d / model->heads / 2;
    struct {
        float **part;
        size_t count;
    } parts[] = {
        {&s->gemm, TRAIN_GEMM_SCRATCH},
        {&s->cache, (size_t)model->layers * model->context * 2 * d},
        {&s->x, d},
        {&s->norm, d},
        {&s->qkv, 3 * d},
        {&s->attended, d},
        {&s->wide, TRAIN_MLP_FACTOR * d},
        {&s->active, TRAIN_MLP_FACTOR * d},
        {&s->logits, TRAIN_VOCABULARY},
        {&s->scores, model->context},
        {&s->cosines, model->context * half},
        {&s->sines, model->context * half},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].part = block == NULL ? NULL : block + used;
        used += (parts[i].count + TRAIN_ALIGN_FLOATS - 1) / TRAIN_ALIGN_FLOATS * TRAIN_ALIGN_FLOATS;
    }
    return used;
}

/* The prompt's end that leaves half of the context free, or a line feed. */
static void feed_prompt(struct sampler *s, struct bytes prompt)
{
    size_t most = s->layout->model.context / 2;
    if (prompt.len > most)
        prompt = bytes_of(prompt.data + (prompt.len - most), most);
    if (prompt.len == 0)
        feed(s, '\n');
    for (size_t i = 0; i < prompt.len; i++)
        feed(s, prompt.data[i]);
}

static int generate(struct sampler *s, const struct train_sample_config *config, uint8_t out[])
{
    struct rng_seeded stream;
    rng_seeded_init(&stream, config->seed);
    struct rng rng = rng_of_seeded(&stream);
    feed_prompt(s, config->prompt);
    for (size_t i = 0; i < config->count; i++) {
        if (config->stop != NULL && atomic_load(config->stop))
            return ERR_CLOSED;
        int byte = draw(s->logits, config, &rng);
        if (byte < 0)
            return byte;
        out[i] = (uint8_t)byte;
        if (s->position == s->layout->model.context) {
            size_t most = s->layout->model.context / 2;
            s->position = 0;
            feed_prompt(s,
                        bytes_of(out + i + 1 - (most < i + 1 ? most : i + 1), most < i + 1 ? most : i + 1));
        } else {
            feed(s, out[i]);
        }
    }
    return 0;
}

int train_sample(const struct train_layout *layout, const float params[],
                 const struct train_sample_config *config, const struct allocator *allocator, uint8_t out[])
{
    if (!(config->temperature >= 0 && config->temperature <= 100) || config->top_k > TRAIN_VOCABULARY)
        return ERR_INVALID;
    struct sampler s = {.layout = layout, .params = params};
    float *block = allocator_get(allocator, carve(&s, NULL), sizeof *block);
    if (block == NULL)
        return ERR_NO_MEMORY;
    (void)carve(&s, block);
    train_rotary_fill(layout->model.context, layout->model.width / layout->model.heads, s.cosines, s.sines);
    int result = generate(&s, config, out);
    allocator_release(allocator, block);
    return result;
}
