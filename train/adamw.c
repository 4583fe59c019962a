#include "train/adamw.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>

#include "train/kernels.h"

struct train_adamw_config train_adamw_config_default(void)
{
    return (struct train_adamw_config){
        .rate = 3e-3F,
        .beta1 = 0.9F,
        .beta2 = 0.98F,
        .epsilon = 1e-8F,
        .decay = 0.05F,
        .clip_norm = 1.0F,
        .warmup = 0.02F,
        .floor = 0.1F,
    };
}

static int refuse(char *why, size_t why_size, const char *name, float value, const char *allowed)
{
    (void)snprintf(why, why_size, "%s is %g: use %s", name, (double)value, allowed);
    return ERR_INVALID;
}

int train_adamw_config_check(const struct train_adamw_config *config, char *why, size_t why_size)
{
    /* Written so that a NaN fails too. */
    if (!(config->rate > 0 && config->rate <= 1))
        return refuse(why, why_size, "learning rate", config->rate, "a number above 0, at most 1");
    if (!(config->beta1 >= 0 && config->beta1 < 1))
        return refuse(why, why_size, "beta1", config->beta1, "0 up to, not including, 1");
    if (!(config->beta2 >= 0 && config->beta2 < 1))
        return refuse(why, why_size, "beta2", config->beta2, "0 up to, not including, 1");
    if (!(config->epsilon > 0 && config->epsilon < 1))
        return refuse(why, why_size, "epsilon", config->epsilon, "a number between 0 and 1");
    if (!(config->decay >= 0 && config->decay <= 1))
        return refuse(why, why_size, "weight decay", config->decay, "0 to 1");
    if (!(config->clip_norm >= 0 && config->clip_norm <= 1e6F))
        return refuse(why, why_size, "gradient clip", config->clip_norm, "0 (off) or a positive norm");
    if (!(config->warmup >= 0 && config->warmup < 1))
        return refuse(why, why_size, "warm-up", config->warmup, "a fraction of the run, 0 up to 1");
    if (!(config->floor >= 0 && config->floor <= 1))
        return refuse(why, why_size, "learning rate floor", config->floor, "a fraction of the rate, 0 to 1");
    if (why_size > 0)
        why[0] = '\0';
    return 0;
}

float train_lr(const struct train_adamw_config *config, double progress)
{
    progress = progress > 0 ? progress : 0; /* also turns NaN into 0 */
    progress = progress < 1 ? progress : 1;
    double warmup = (double)config->warmup;
    if (progress < warmup)
        return (float)((double)config->rate * (progress / warmup));
    double done = (progress - warmup) / (1 - warmup);
    double wave = 0.5 * (1 + cos(3.14159265358979323846 * done));
    double floor_share = (double)config->floor;
    return (float)((double)config->rate * (floor_share + (1 - floor_share) * wave));
}

struct train_adamw_step train_adamw_step_of(const struct train_adamw_config *config, float rate,
                                            uint64_t step, double gradient_norm)
{
    ASSERT(step > 0);
    double clip = (double)config->clip_norm;
    return (struct train_adamw_step){
        .rate = rate,
        .beta1 = config->beta1,
        .beta2 = config->beta2,
        .epsilon = config->epsilon,
        .decay = config->decay,
        .gradient_scale = clip > 0 && gradient_norm > clip ? (float)(clip / gradient_norm) : 1.0F,
        .correct1 = (float)(1 / (1 - pow((double)config->beta1, (double)step))),
        .correct2 = (float)(1 / (1 - pow((double)config->beta2, (double)step))),
    };
}

TRAIN_CLONES
static void update(size_t count, const struct train_adamw_step *step, float decay, const float *restrict g,
                   float *restrict p, float *restrict m, float *restrict v)
{
    const float b1 = step->beta1, b2 = step->beta2, scale = step->gradient_scale, epsilon = step->epsilon;
    const float rate = step->rate, keep = 1.0F - step->rate * decay;
    const float c1 = step->correct1, c2 = step->correct2;
#pragma omp simd
    for (size_t i = 0; i < count; i++) {
        float gradient = g[i] * scale;
        m[i] = b1 * m[i] + (1.0F - b1) * gradient;
        v[i] = b2 * v[i] + (1.0F - b2) * gradient * gradient;
        p[i] = keep * p[i] - rate * (m[i] * c1) / (sqrtf(v[i] * c2) + epsilon);
    }
}

void train_adamw_apply(const struct train_layout *layout, const struct train_adamw_step *step, size_t from,
                       size_t to, const float gradients[], float params[], float first[], float second[])
{
    ASSERT(from <= to && to <= layout->arena_floats);
    for (size_t t = 0; t < layout->tensor_count; t++) {
        const struct train_tensor *tensor = &layout->tensors[t];
        size_t low = tensor->offset > from ? tensor->offset : from;
        size_t high = tensor->offset + tensor->rows * tensor->cols;
        high = high < to ? high : to;
        if (low >= high)
            continue;
        bool decays = tensor->kind == TRAIN_MATRIX || tensor->kind == TRAIN_EMBEDDING;
        update(high - low, step, decays ? step->decay : 0.0F, gradients + low, params + low, first + low,
               second + low);
    }
}

TRAIN_CLONES
static float squares(size_t count, const float *restrict values)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < count; i++)
        sum += values[i] * values[i];
    return sum;
}

double train_gradient_reduce(size_t from, size_t to, size_t arena_count, float *const grads[])
{
    enum { CHUNK = 4096 }; /* stays in the first-level cache; float sums no longer than this */
    double sum = 0;
    for (size_t at = from; at < to; at += CHUNK) {
        size_t count = to - at < CHUNK ? to - at : CHUNK;
        for (size_t a = 1; a < arena_count; a++)
            train_add(count, 1.0F, grads[a] + at, grads[0] + at);
        sum += (double)squares(count, grads[0] + at);
    }
    return sum;
}
