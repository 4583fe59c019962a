#include "node/run_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "node/run_config.h"

struct train_model_config run_model_config(const struct run_config *config)
{
    const struct run_model *model = &config->model;
    if (model->kind == TRAIN_MLP && model->size_count <= TRAIN_MLP_SIZES_MAX) {
        struct train_model_config mlp = train_model_config_mlp(model->size_count, model->sizes);
        mlp.input_max = (float)model->input_max;
        return mlp;
    }
    return (struct train_model_config){
        .width = config->width, .layers = config->layers, .heads = config->heads, .context = config->context};
}

int run_model_check(const struct run_config *config, const char **why)
{
    const struct run_model *model = &config->model;
    char text[TRAIN_WHY_SIZE];
    if (model->kind == TRAIN_TRANSFORMER)
        return ERR_OK;
    struct train_model_config mlp = run_model_config(config);
    if (model->kind != TRAIN_MLP) {
        *why = "model must be transformer or mlp";
        return ERR_INVALID;
    }
    if ((config->width | config->layers | config->heads | config->context) != 0) {
        *why = "width, layers, heads and context belong to a transformer: an mlp has a list of layers";
        return ERR_INVALID;
    }
    if (train_model_config_check(&mlp, text, sizeof text) < 0) {
        *why =
            "an mlp needs 2 to 16 layers, from its inputs (at most 16384) over hidden ones (likewise) to its "
            "classes (2 to 4096), and a positive input_max";
        return ERR_INVALID;
    }
    return ERR_OK;
}

size_t run_model_pairs(const struct run_model *model)
{
    return model->kind == TRAIN_TRANSFORMER ? 0 : RUN_MODEL_KEYS;
}

void run_model_encode(const struct run_model *model, struct pack_writer *w)
{
    if (model->kind == TRAIN_TRANSFORMER)
        return;
    pack_key_uint(w, RUN_MODEL_KIND, model->kind);
    pack_uint(w, RUN_MODEL_SIZES);
    pack_array(w, model->size_count);
    for (size_t i = 0; i < model->size_count && i < TRAIN_MLP_SIZES_MAX; i++)
        pack_uint(w, model->sizes[i]);
    pack_key_float(w, RUN_MODEL_INPUT_MAX, model->input_max);
    pack_key_str(w, RUN_MODEL_LABEL, model->label);
}

bool run_model_decode(struct run_model *model, unsigned key, struct pack_reader *r)
{
    switch (key) {
    case RUN_MODEL_KIND:
        model->kind = (uint32_t)pack_read_uint(r, UINT32_MAX);
        /* A transformer's config has no such key: one config, one encoding. */
        if (model->kind == TRAIN_TRANSFORMER)
            r->failed = true;
        return true;
    case RUN_MODEL_SIZES:
        model->size_count = (uint32_t)pack_read_array(r, TRAIN_MLP_SIZES_MAX);
        for (size_t i = 0; i < model->size_count; i++)
            model->sizes[i] = (uint32_t)pack_read_uint(r, UINT32_MAX);
        return true;
    case RUN_MODEL_INPUT_MAX:
        model->input_max = pack_read_float(r);
        return true;
    case RUN_MODEL_LABEL:
        pack_read_text(r, model->label, sizeof model->label);
        return true;
    default:
        return false;
    }
}

bool run_model_complete(uint32_t *seen)
{
    uint32_t keys = ((UINT32_C(1) << RUN_MODEL_KEYS) - 1) << RUN_MODEL_KIND, found = *seen & keys;
    *seen &= ~keys;
    return found == 0 || found == keys;
}

int run_model_parse_sizes(const char *text, struct run_model *model)
{
    size_t count = 0;
    uint32_t sizes[TRAIN_MLP_SIZES_MAX] = {0};
    for (bool more = true; more; count++) {
        char *end;
        unsigned long size = strtoul(text, &end, 10);
        if (count == TRAIN_MLP_SIZES_MAX || text[0] < '0' || text[0] > '9' || size > TRAIN_MLP_WIDTH_MAX ||
            (*end != '\0' && *end != ','))
            return ERR_INVALID;
        sizes[count] = (uint32_t)size;
        more = *end == ',';
        text = end + 1;
    }
    if (count < 2)
        return ERR_INVALID;
    memcpy(model->sizes, sizes, sizeof sizes);
    model->size_count = (uint32_t)count;
    return ERR_OK;
}

void run_seed_of(uint64_t number, uint8_t out[32])
{
    uint8_t raw[8];
    struct id hash;
    store_le64(raw, number);
    struct bytes part = bytes_of(raw, sizeof raw);
    hash_parts("dunlin run seed 1", &part, 1, &hash);
    memcpy(out, hash.bytes, 32);
}

struct trainer_options run_trainer_options(const struct run_config *config, unsigned threads)
{
    struct train_model_config model = run_model_config(config);
    struct trainer_options options =
        model.kind == TRAIN_MLP ? trainer_options_mlp(&model) : trainer_options_default();
    options.model = model;
    options.adamw.rate = (float)config->lr;
    options.batch = config->batch;
    options.threads = threads < config->batch ? threads : config->batch;
    memcpy(options.seed, config->seed, sizeof options.seed);
    return options;
}

static int open_text(struct run_trainer *t, const char *path, const struct id *node, const uint8_t secret[32],
                     char *why)
{
    struct allocator heap = allocator_system();
    struct train_data_config config = {.path = path, .context = t->options.model.context, .node = *node};
    struct train_data_info info;
    memcpy(config.secret, secret, sizeof config.secret);
    int result = train_data_open(&config, &heap, &t->data, why, TRAIN_WHY_SIZE);
    if (result < 0)
        return result;
    train_data_info(t->data, &info);
    t->data_bytes = info.bytes;
    return trainer_create_builtin(&t->options, t->data, &heap, &t->trainer);
}

static int open_rows(struct run_trainer *t, const char *path, const char *label, const struct id *node,
                     const uint8_t secret[32], char *why)
{
    const struct train_model_config *model = &t->options.model;
    struct allocator heap = allocator_system();
    struct train_samples_config config = {.path = path,
                                          .label = label,
                                          .inputs = model->sizes[0],
                                          .classes = model->sizes[model->size_count - 1],
                                          .input_max = model->input_max,
                                          .node = *node};
    struct train_samples_info info;
    memcpy(config.secret, secret, sizeof config.secret);
    int result = train_samples_open(&config, &heap, &t->samples, why, TRAIN_WHY_SIZE);
    if (result < 0)
        return result;
    train_samples_info(t->samples, &info);
    t->data_bytes = (uint64_t)(info.train_rows + info.validation_rows) * info.inputs * sizeof(float);
    return trainer_create_mlp(&t->options, t->samples, &heap, &t->trainer);
}

int run_trainer_open(struct run_trainer *out, const struct run_config *config, const char *path,
                     const struct id *node, const uint8_t secret[32], unsigned threads, char *why)
{
    why[0] = '\0';
    *out = (struct run_trainer){.options = run_trainer_options(config, threads)};
    int result = trainer_options_check(&out->options, why, TRAIN_WHY_SIZE);
    if (result < 0)
        return result;
    if (out->options.model.kind == TRAIN_MLP)
        result = open_rows(out, path, config->model.label, node, secret, why);
    else
        result = open_text(out, path, node, secret, why);
    if (result == ERR_OK)
        return ERR_OK;
    if (why[0] == '\0')
        (void)snprintf(why, TRAIN_WHY_SIZE,
                       "training needs %zu bytes of memory: %s; choose a smaller model or batch",
                       trainer_bytes(&out->options), err_text(result));
    run_trainer_close(out);
    return result;
}

void run_trainer_close(struct run_trainer *t)
{
    trainer_destroy(&t->trainer);
    train_data_close(t->data);
    train_samples_close(t->samples);
    t->data = NULL;
    t->samples = NULL;
}
