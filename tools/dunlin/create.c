/* dunlin run create: the shape of an MLP from its data.  Read here, by whoever gives the command, since the
 * daemon's loop must not wait for a disk; the daemon reads the data again when it trains. */
#include <stdio.h>
#include <string.h>

#include "tools/dunlin/command.h"
#include "tools/dunlin/value.h"
#include "train/samples.h"
#include "train/trainer.h"

enum { HIDDEN_1 = 64, HIDDEN_2 = 32, SIZES_TEXT = 8 * TRAIN_MLP_SIZES_MAX };

static int refuse(const char *text)
{
    (void)fprintf(stderr, "dunlin run create: %s\n", text);
    return EXIT_USAGE;
}

static int keep(json_t *params, const char *key, json_t *value)
{
    return json_object_set_new(params, key, value) == 0 ? EXIT_OK : EXIT_FAILED;
}

/* What is missing: all sizes, with two hidden layers, and the largest magnitude of a value. */
static int derive(json_t *params)
{
    const struct train_samples_config config = {.path = value_text(params, "data", ""),
                                                .label = value_text(params, "label", NULL)};
    struct allocator heap = allocator_system();
    struct train_samples *samples;
    struct train_samples_info info;
    char why[TRAIN_WHY_SIZE], text[SIZES_TEXT];
    if (train_samples_open(&config, &heap, &samples, why, sizeof(why)) < 0) {
        (void)fprintf(stderr, "dunlin run create: %s\n", why);
        return EXIT_FAILED;
    }
    train_samples_info(samples, &info);
    train_samples_close(samples);
    (void)snprintf(text, sizeof(text), "%zu,%d,%d,%zu", info.inputs, HIDDEN_1, HIDDEN_2, info.classes);
    int code = EXIT_OK;
    if (!value_present(params, "sizes"))
        code = keep(params, "sizes", json_string(text));
    if (code == EXIT_OK && !value_present(params, "input_max"))
        code = keep(params, "input_max", json_real((double)info.input_max));
    return code;
}

int prepare_create(json_t *params)
{
    bool mlp = strcmp(value_text(params, "model", ""), train_model_kind_name(TRAIN_MLP)) == 0;
    json_t *layers = json_object_get(params, "layers");
    if (!mlp && json_is_string(layers))
        return refuse("a list of layers is for --model mlp");
    if (!mlp && (value_present(params, "label") || value_present(params, "input_max")))
        return refuse("--label and --input-max are for --model mlp");
    if (!mlp)
        return EXIT_OK;
    if (value_present(params, "width") || value_present(params, "heads") ||
        value_present(params, "context") || json_is_integer(layers))
        return refuse("an mlp has no width, heads or context, and its layers are a list such as 64,64,32,10");
    if (json_is_string(layers)) {
        if (keep(params, "sizes", json_incref(layers)) != EXIT_OK)
            return EXIT_FAILED;
        (void)json_object_del(params, "layers");
    }
    bool complete = value_present(params, "sizes") && value_present(params, "input_max");
    return complete || !value_present(params, "data") ? EXIT_OK : derive(params);
}
