/* Commands that need no daemon. */
#include <inttypes.h>
#include <math.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/identity.h"
#include "store/checkpoint.h"
#include "store/key.h"
#include "tools/dunlin/command.h"
#include "tools/dunlin/model_file.h"
#include "tools/dunlin/text.h"
#include "tools/dunlin/value.h"

int local_print(const struct cli *cli, json_t *result, void (*show)(const json_t *result))
{
    if (cli->json) {
        (void)json_dumpf(result, stdout, JSON_COMPACT);
        (void)fputc('\n', stdout);
    } else {
        show(result);
    }
    json_decref(result);
    return fflush(stdout) == 0 ? EXIT_OK : EXIT_FAILED;
}

static void show_version(const json_t *result)
{
    (void)printf("dunlin %s\n", value_text(result, "version", "-"));
}

int local_version(const struct cli *cli, const json_t *params)
{
    (void)params;
    return local_print(cli, json_pack("{s:s}", "version", DUNLIN_VERSION), show_version);
}

static void show_id(const json_t *result)
{
    (void)printf("%s\n", value_text(result, "id", "-"));
}

int local_id(const struct cli *cli, const json_t *params)
{
    (void)params;
    uint8_t seed[STORE_SEED_BYTES];
    struct store_why why = {.text = ""};
    int code = store_key_load(cli->dir, seed, &why);
    if (code == ERR_NOT_FOUND) {
        (void)fprintf(stderr, "dunlin: %s has no node.key yet; dunlind makes one at its first start\n",
                      cli->dir);
        return EXIT_FAILED;
    }
    if (code < 0) {
        (void)fprintf(stderr, "dunlin: %s\n", why.text[0] != '\0' ? why.text : err_text(code));
        return EXIT_FAILED;
    }
    struct net_identity identity;
    char text[ID_TEXT_SIZE];
    net_identity_init(&identity, seed);
    sodium_memzero(seed, sizeof(seed));
    id_format(&identity.id, text);
    net_identity_deinit(&identity);
    return local_print(cli, json_pack("{s:s}", "id", text), show_id);
}

static void show_verified(const json_t *result)
{
    text_field("file", "%s", value_text(result, "path", "-"));
    text_field("kind", "%s, intact", value_text(result, "kind", "-"));
    if (value_present(result, "run"))
        text_field("run", "%s", value_text(result, "run", "-"));
    if (value_present(result, "round"))
        text_field("round", "%" PRIu64, value_count(result, "round"));
    if (value_present(result, "sizes"))
        text_field("shape", "mlp %s, inputs divided by %s", value_text(result, "sizes", "-"),
                   text_fixed(value_number(result, "input_max", NAN), 3).text);
    if (value_present(result, "width"))
        text_field("shape", "width %" PRIu64 ", %" PRIu64 " layers, %" PRIu64 " heads, context %" PRIu64,
                   value_count(result, "width"), value_count(result, "layers"), value_count(result, "heads"),
                   value_count(result, "context"));
    text_field("parameters", "%" PRIu64, value_count(result, "params"));
}

/* A checkpoint of the daemon: every byte is covered by a checksum. */
static json_t *verify_checkpoint(const char *path, char why[MODEL_WHY_SIZE])
{
    struct checkpoint_reader reader;
    struct store_why text = {.text = ""};
    int code = checkpoint_open_file(&reader, path, &text);
    if (code < 0) {
        if (text.text[0] != '\0')
            (void)snprintf(why, MODEL_WHY_SIZE, "%s", text.text); /* names the file */
        else
            (void)snprintf(why, MODEL_WHY_SIZE, "%s: %s", path, err_text(code));
        return NULL;
    }
    char run[ID_TEXT_SIZE];
    id_format(&reader.info.run, run);
    json_t *result =
        json_pack("{s:s, s:s, s:s, s:I, s:I}", "path", path, "kind", "checkpoint", "run", run, "round",
                  (json_int_t)reader.info.round, "params", (json_int_t)reader.info.param_count);
    checkpoint_close(&reader);
    return result;
}

/* An export: it has no checksum, so its structure, its shapes and every number are checked. */
static json_t *verify_safetensors(const char *path, char why[MODEL_WHY_SIZE])
{
    struct model_file file;
    struct train_model_config model;
    if (model_file_open(&file, path, why) < 0)
        return NULL;
    int code = model_file_shape(&file, path, &model, why);
    model_file_close(&file);
    if (code < 0 || train_model_config_check(&model, why, MODEL_WHY_SIZE) < 0)
        return NULL;
    struct train_layout layout;
    train_layout_init(&layout, &model);
    float *params = calloc(layout.arena_floats, sizeof(*params));
    if (params == NULL) {
        (void)snprintf(why, MODEL_WHY_SIZE, "%s: not enough memory for %zu parameters", path,
                       layout.parameter_count);
        return NULL;
    }
    code = model_file_load(path, &layout, params, why);
    free(params);
    if (code < 0)
        return NULL;
    if (model.kind == TRAIN_MLP) {
        char shape[TRAIN_SHAPE_SIZE];
        train_model_shape(&model, shape, sizeof(shape));
        return json_pack("{s:s, s:s, s:I, s:s, s:s, s:f}", "path", path, "kind", "safetensors", "params",
                         (json_int_t)layout.parameter_count, "model", train_model_kind_name(model.kind),
                         "sizes", shape, "input_max", (double)model.input_max);
    }
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I}", "path", path, "kind", "safetensors", "params",
                     (json_int_t)layout.parameter_count, "width", (json_int_t)model.width, "layers",
                     (json_int_t)model.layers, "heads", (json_int_t)model.heads, "context",
                     (json_int_t)model.context);
}

int local_verify(const struct cli *cli, const json_t *params)
{
    const char *path = value_text(params, "path", "");
    size_t len = strlen(path);
    char why[MODEL_WHY_SIZE] = "";
    bool checkpoint = len > 5 && strcmp(path + len - 5, ".ckpt") == 0;
    json_t *result = checkpoint ? verify_checkpoint(path, why) : verify_safetensors(path, why);
    if (result != NULL)
        return local_print(cli, result, show_verified);
    (void)fprintf(stderr, "dunlin: %s\n", why[0] != '\0' ? why : "not enough memory");
    return EXIT_FAILED;
}
