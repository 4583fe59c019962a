/* dunlin checkpoint compare: how far apart the models of one run are, and how good their mean is. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/dunlin/command.h"
#include "tools/dunlin/model_file.h"
#include "tools/dunlin/text.h"
#include "tools/dunlin/value.h"
#include "train/trainer.h"

enum {
    COMPARE_THREADS = 1
}; /* losses have the same bits for any number, and nodes may be training meanwhile */

struct comparison {
    const json_t *files;
    struct train_layout layout;
    struct train_data *data;       /* of transformers */
    struct train_samples *samples; /* of MLPs */
    struct trainer trainer;        /* evaluates; its own weights are not used */
    float *params;                 /* one model at a time [arena_floats] */
    double *mean;                  /* of all models [arena_floats] */
    char why[MODEL_WHY_SIZE];
};

static const char *file_at(const struct comparison *c, size_t i)
{
    return json_string_value(json_array_get(c->files, i));
}

/* The model's shape comes from the first file; all others must agree. */
static int prepare_layout(struct comparison *c)
{
    struct train_model_config model;
    struct model_file file;
    int code = model_file_open(&file, file_at(c, 0), c->why);
    if (code < 0)
        return code;
    code = model_file_shape(&file, file_at(c, 0), &model, c->why);
    model_file_close(&file);
    if (code < 0)
        return code;
    code = train_model_config_check(&model, c->why, sizeof(c->why));
    if (code < 0)
        return code;
    train_layout_init(&c->layout, &model);
    return ERR_OK;
}

static int open_transformer(struct comparison *c, const char *text)
{
    struct allocator heap = allocator_system();
    struct train_data_config data = {.path = text, .context = c->layout.model.context};
    int code = train_data_open(&data, &heap, &c->data, c->why, sizeof(c->why));
    if (code < 0)
        return code;
    struct trainer_options options = trainer_options_default();
    options.model = c->layout.model;
    options.threads = COMPARE_THREADS;
    return trainer_create_builtin(&options, c->data, &heap, &c->trainer);
}

static int open_mlp(struct comparison *c, const char *path, const char *label)
{
    const struct train_model_config *model = &c->layout.model;
    const struct train_samples_config rows = {.path = path,
                                              .label = label,
                                              .inputs = model->sizes[0],
                                              .classes = model->sizes[model->size_count - 1],
                                              .input_max = model->input_max};
    struct allocator heap = allocator_system();
    int code = train_samples_open(&rows, &heap, &c->samples, c->why, sizeof(c->why));
    if (code < 0)
        return code;
    struct trainer_options options = trainer_options_mlp(model);
    options.threads = COMPARE_THREADS;
    return trainer_create_mlp(&options, c->samples, &heap, &c->trainer);
}

static int prepare_trainer(struct comparison *c, const char *data, const char *label)
{
    int code = c->layout.model.kind == TRAIN_MLP ? open_mlp(c, data, label) : open_transformer(c, data);
    if (code < 0 && c->why[0] != '\0')
        return code;
    c->params = calloc(c->layout.arena_floats, sizeof(*c->params));
    c->mean = calloc(c->layout.arena_floats, sizeof(*c->mean));
    if (code < 0 || c->params == NULL || c->mean == NULL) {
        (void)snprintf(c->why, sizeof(c->why), "not enough memory to measure a model of %zu parameters",
                       c->layout.parameter_count);
        return ERR_NO_MEMORY;
    }
    return ERR_OK;
}

/* Measures each model and adds it to the mean. */
static int measure_each(struct comparison *c, json_t *models)
{
    size_t count = json_array_size(c->files);
    for (size_t i = 0; i < count; i++) {
        int code = model_file_load(file_at(c, i), &c->layout, c->params, c->why);
        struct trainer_score score = {.loss = NAN};
        if (code == ERR_OK)
            code = trainer_score(&c->trainer, c->params, &score);
        if (code < 0)
            return code;
        for (size_t at = 0; at < c->layout.arena_floats; at++)
            c->mean[at] += (double)c->params[at] / (double)count;
        json_t *one = json_pack("{s:s, s:f}", "file", file_at(c, i), "val_loss", score.loss);
        if (one != NULL && isfinite(score.accuracy) &&
            json_object_set_new(one, "val_accuracy", json_real(score.accuracy)) != 0)
            return ERR_NO_MEMORY;
        if (json_array_append_new(models, one) != 0)
            return ERR_NO_MEMORY;
    }
    return ERR_OK;
}

static double norm_of(const double *values, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += values[i] * values[i];
    return sqrt(sum);
}

/* |model - mean| / |mean| of each, into its object; the mean over the models into *mean_distance.  Reads the
 * files a second time, so that memory does not grow with their number. */
static int measure_distances(struct comparison *c, json_t *models, double *mean_distance)
{
    size_t count = json_array_size(c->files);
    double mean_norm = norm_of(c->mean, c->layout.arena_floats);
    *mean_distance = 0;
    for (size_t i = 0; i < count; i++) {
        int code = model_file_load(file_at(c, i), &c->layout, c->params, c->why);
        if (code < 0)
            return code;
        double sum = 0;
        for (size_t at = 0; at < c->layout.arena_floats; at++) {
            double difference = (double)c->params[at] - c->mean[at];
            sum += difference * difference;
        }
        double distance = mean_norm > 0 ? sqrt(sum) / mean_norm : 0;
        *mean_distance += distance / (double)count;
        if (json_object_set_new(json_array_get(models, i), "distance", json_real(distance)) != 0)
            return ERR_NO_MEMORY;
    }
    return ERR_OK;
}

static int measure(struct comparison *c, json_t *result)
{
    json_t *models = json_object_get(result, "models");
    int code = measure_each(c, models);
    if (code < 0)
        return code;
    for (size_t at = 0; at < c->layout.arena_floats; at++)
        c->params[at] = (float)c->mean[at];
    struct trainer_score merged = {.loss = NAN};
    code = trainer_score(&c->trainer, c->params, &merged);
    if (code < 0)
        return code;
    double distance = 0;
    code = measure_distances(c, models, &distance);
    if (code < 0)
        return code;
    if (isfinite(merged.accuracy) &&
        json_object_set_new(result, "merged_val_accuracy", json_real(merged.accuracy)) != 0)
        return ERR_NO_MEMORY;
    return json_object_update_new(result, json_pack("{s:f, s:f}", "merged_val_loss", merged.loss,
                                                    "replica_distance", distance)) == 0
               ? ERR_OK
               : ERR_NO_MEMORY;
}

/* An accuracy in percent, or "-" for models that have none. */
static struct text_short share_of(const json_t *object, const char *key)
{
    return text_fixed(100 * value_number(object, key, NAN), 2);
}

static void show_comparison(const json_t *result)
{
    const json_t *models = json_object_get(result, "models");
    struct table table;
    table_init(&table, "model|>val loss|>right|>from the mean");
    for (size_t i = 0; i < json_array_size(models); i++) {
        const json_t *one = json_array_get(models, i);
        table_cell(&table, "%s", value_text(one, "file", "-"));
        table_cell(&table, "%s", text_fixed(value_number(one, "val_loss", NAN), 4).text);
        table_cell(&table, "%s", share_of(one, "val_accuracy").text);
        table_cell(&table, "%.2f %%", 100 * value_number(one, "distance", NAN));
    }
    table_cell(&table, "their mean");
    table_cell(&table, "%s", text_fixed(value_number(result, "merged_val_loss", NAN), 4).text);
    table_cell(&table, "%s", share_of(result, "merged_val_accuracy").text);
    table_cell(&table, "(%.2f %%)", 100 * value_number(result, "replica_distance", NAN));
    table_finish(&table, "");
}

int local_compare(const struct cli *cli, const json_t *params)
{
    const char *data = value_text(params, "data", NULL);
    if (data == NULL) {
        (void)fprintf(stderr, "dunlin checkpoint compare: give the data to measure on with --data PATH\n");
        return EXIT_USAGE;
    }
    struct comparison c = {.files = json_object_get(params, "files")};
    json_t *result = json_pack("{s:[]}", "models");
    int code = result == NULL ? ERR_NO_MEMORY : prepare_layout(&c);
    if (code == ERR_OK)
        code = prepare_trainer(&c, data, value_text(params, "label", NULL));
    if (code == ERR_OK)
        code = measure(&c, result);
    if (c.trainer.ops != NULL)
        trainer_destroy(&c.trainer);
    train_data_close(c.data);
    train_samples_close(c.samples);
    free(c.params);
    free(c.mean);
    if (code == ERR_OK)
        return local_print(cli, result, show_comparison);
    json_decref(result);
    (void)fprintf(stderr, "dunlin: %s (%s)\n", c.why[0] != '\0' ? c.why : err_text(code), err_name(code));
    return EXIT_FAILED;
}
