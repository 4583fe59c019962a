/* The layout must tile the arena without overlap, on cache lines; bad shapes must be refused by name; and
 * initial weights must be the same bits everywhere, or members of a run would start from different models. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "base/hash.h"
#include "train/init.h"
#include "train/optimizer_state.h"

static struct train_layout layout;

Test(layout, tensors_tile_the_arena)
{
    struct train_model_config shapes[] = {train_model_config_default(),
                                          {.width = 16, .layers = 48, .heads = 8, .context = 8},
                                          {.width = 4096, .layers = 1, .heads = 16, .context = 4096}};
    for (size_t s = 0; s < 3; s++) {
        train_layout_init(&layout, &shapes[s]);
        size_t end = 0, parameters = 0;
        for (size_t t = 0; t < layout.tensor_count; t++) {
            const struct train_tensor *tensor = &layout.tensors[t];
            cr_assert_eq(tensor->offset % TRAIN_ALIGN_FLOATS, 0);
            cr_assert_geq(tensor->offset, end);
            cr_assert_lt(tensor->offset - end, TRAIN_ALIGN_FLOATS);
            cr_assert_eq(tensor->rows == 1, tensor->kind == TRAIN_GAIN || tensor->kind == TRAIN_BIAS);
            cr_assert_eq(train_layout_find(&layout, tensor->name, strlen(tensor->name)), tensor);
            end = tensor->offset + tensor->rows * tensor->cols;
            parameters += tensor->rows * tensor->cols;
        }
        cr_assert_eq(parameters, layout.parameter_count);
        cr_assert_leq(end, layout.arena_floats);
        cr_assert_lt(layout.arena_floats - end, TRAIN_ALIGN_FLOATS);
    }
    cr_assert_null(train_layout_find(&layout, "layers.9.qkv.weight", 19));
    cr_assert_null(train_layout_find(&layout, "embed", 5));
}

Test(layout, default_has_about_half_a_million_parameters)
{
    struct train_model_config model = train_model_config_default();
    train_layout_init(&layout, &model);
    cr_assert(layout.parameter_count > 400000 && layout.parameter_count < 700000);
}

Test(layout, bad_shapes_are_refused_by_name)
{
    struct {
        struct train_model_config model;
        const char *named;
    } cases[] = {
        {{.width = 100, .layers = 2, .heads = 2, .context = 64}, "width is 100"},
        {{.width = 0, .layers = 2, .heads = 2, .context = 64}, "width is 0"},
        {{.width = 8192, .layers = 2, .heads = 64, .context = 64}, "width is 8192"},
        {{.width = 64, .layers = 0, .heads = 2, .context = 64}, "layers is 0"},
        {{.width = 64, .layers = 49, .heads = 2, .context = 64}, "layers is 49"},
        {{.width = 64, .layers = 2, .heads = 0, .context = 64}, "heads is 0"},
        {{.width = 64, .layers = 2, .heads = 3, .context = 64}, "heads is 3"},
        {{.width = 16, .layers = 2, .heads = 16, .context = 64}, "heads is 16"},
        {{.width = 1024, .layers = 2, .heads = 2, .context = 64}, "heads is 2"},
        {{.width = 64, .layers = 2, .heads = 2, .context = 7}, "context is 7"},
        {{.width = 64, .layers = 2, .heads = 2, .context = 5000}, "context is 5000"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char why[200];
        cr_assert_eq(train_model_config_check(&cases[i].model, why, sizeof why), ERR_INVALID);
        cr_assert(strstr(why, cases[i].named) != NULL, "\"%s\" does not say \"%s\"", why, cases[i].named);
    }
}

static float params[70000];

Test(init, bits_are_those_of_every_other_machine)
{
    struct train_model_config model = {.width = 32, .layers = 2, .heads = 2, .context = 16};
    static uint8_t bytes[sizeof params];
    uint8_t seed[32];
    for (size_t i = 0; i < 32; i++)
        seed[i] = (uint8_t)i;
    train_layout_init(&layout, &model);
    cr_assert_leq(layout.arena_floats, 70000);
    train_init(&layout, seed, params);
    train_floats_store(layout.arena_floats, params, bytes);
    struct id hash;
    char text[ID_TEXT_SIZE];
    hash_content(bytes_of(bytes, 4 * layout.arena_floats), &hash);
    id_format(&hash, text);
    /* The same from gcc and clang, from -O1 to -O3, with and without fused multiply-add: a change here breaks
     * runs whose members have different versions. */
    cr_assert_str_eq(text, "wd2u33pgb577m4jewkatzj65rire34r5odwdme32tykbpqnzcavq");
}

Test(init, scales_are_as_documented)
{
    struct train_model_config model = {.width = 32, .layers = 2, .heads = 2, .context = 16};
    uint8_t seed[32] = {1}, other[32] = {2};
    static float second[70000];
    train_layout_init(&layout, &model);
    memset(params, 0xFF, sizeof params); /* padding must be written too */
    train_init(&layout, seed, params);
    train_init(&layout, other, second);
    cr_assert(memcmp(params, second, sizeof(float) * 32) != 0);
    for (size_t t = 0; t < layout.tensor_count; t++) {
        const struct train_tensor *tensor = &layout.tensors[t];
        const float *x = params + tensor->offset;
        size_t count = tensor->rows * tensor->cols;
        double squares = 0;
        for (size_t i = 0; i < count; i++)
            squares += (double)x[i] * (double)x[i];
        double deviation = sqrt(squares / (double)count), expected = 1 / sqrt((double)tensor->cols);
        if (strstr(tensor->name, "out.") != NULL || strstr(tensor->name, "down.") != NULL)
            expected /= 2; /* sqrt(2 layers) */
        if (tensor->kind == TRAIN_EMBEDDING || strncmp(tensor->name, "head", 4) == 0)
            expected = tensor->kind == TRAIN_EMBEDDING ? 0.5 : expected / 2;
        if (tensor->kind == TRAIN_GAIN || tensor->kind == TRAIN_BIAS)
            expected = tensor->kind == TRAIN_GAIN;
        cr_assert_float_eq(deviation, expected, 0.06 * expected + 1e-12, "%s", tensor->name);
        size_t next = t + 1 < layout.tensor_count ? layout.tensors[t + 1].offset : layout.arena_floats;
        for (size_t i = tensor->offset + count; i < next; i++)
            cr_assert_eq(params[i], 0.0F, "padding");
    }
}
