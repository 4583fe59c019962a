#include <stdio.h>

#include "train/parallel.h"
#include "train/pool.h"

struct trainer_options trainer_options_default(void)
{
    return (struct trainer_options){
        .model = train_model_config_default(),
        .adamw = train_adamw_config_default(),
        .threads = 1,
        .batch = 4,
        .micro = 4,
        .accumulate = 1,
    };
}

struct trainer_options trainer_options_mlp(const struct train_model_config *model)
{
    struct trainer_options options = trainer_options_default();
    options.model = *model;
    options.adamw.rate = 2e-3F;
    options.adamw.decay = 0;
    options.batch = 32;
    options.micro = 32;
    return options;
}

static int check_range(const char *name, uint32_t value, uint32_t max, char *why, size_t why_size)
{
    if (value >= 1 && value <= max)
        return 0;
    (void)snprintf(why, why_size, "%s is %u: use 1 to %u", name, value, max);
    return ERR_INVALID;
}

int trainer_options_check(const struct trainer_options *options, char *why, size_t why_size)
{
    int result = train_model_config_check(&options->model, why, why_size);
    if (result == 0)
        result = train_adamw_config_check(&options->adamw, why, why_size);
    if (result == 0)
        result = check_range("threads", options->threads, TRAIN_THREADS_MAX, why, why_size);
    if (result == 0)
        result = check_range("batch", options->batch, TRAIN_BATCH_MAX, why, why_size);
    if (result == 0)
        result = check_range("micro", options->micro, TRAIN_BATCH_MAX, why, why_size);
    if (result == 0)
        result = check_range("accumulate", options->accumulate, TRAIN_ACCUMULATE_MAX, why, why_size);
    if (result == 0 && options->optimizer != TRAIN_ADAMW && options->optimizer != TRAIN_SGD) {
        (void)snprintf(why, why_size, "optimizer is %d: use AdamW or SGD", (int)options->optimizer);
        result = ERR_INVALID;
    }
    return result;
}

size_t trainer_bytes(const struct trainer_options *options)
{
    struct train_layout layout;
    train_layout_init(&layout, &options->model);
    struct train_share share = train_share_of(options, &layout);
    size_t common = train_parallel_bytes(&share);
    size_t own = options->model.kind == TRAIN_MLP ? train_mlp_bytes(&share) : train_transformer_bytes(&share);
    return own > SIZE_MAX - common ? SIZE_MAX : common + own;
}
