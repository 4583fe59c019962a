/* checkpoint compare measures what it says: two models at equal distance on both sides of a third have it as
 * their mean, and verify accepts exactly the files that were not touched.  We build such files and damage
 * them. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/dunlin/command.h"
#include "tools/dunlin/value.h"
#include "train/init.h"
#include "train/safetensors.h"

static char folder[] = "/tmp/dunlin-cli-XXXXXX"; /* each test runs in its own process */
static struct train_layout layout;

static const char *path_of(const char *name)
{
    static char path[4][128];
    static unsigned next;
    char *out = path[next++ % 4];
    (void)snprintf(out, sizeof(path[0]), "%s/%s", folder, name);
    return out;
}

static void write_file(const char *name, const void *data, size_t len)
{
    FILE *file = fopen(path_of(name), "wb");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(data, 1, len, file), len);
    cr_assert_eq(fclose(file), 0);
}

static void setup(void)
{
    cr_assert_not_null(mkdtemp(folder));
    struct train_model_config model = {.width = 16, .layers = 1, .heads = 2, .context = 16};
    train_layout_init(&layout, &model);
    char *text = malloc(1 << 20);
    size_t len = 0;
    for (unsigned i = 0; len < (1 << 20) - 64; i++)
        len += (size_t)snprintf(text + len, 64, "line %u of a text that has %u words\n", i, i * i % 1009);
    write_file("text.txt", text, len);
    free(text);
}

static void teardown(void)
{
    static const char *const names[] = {"text.txt", "a.safetensors", "b.safetensors", "c.safetensors", "out"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        (void)unlink(path_of(names[i]));
    (void)rmdir(folder);
}

/* The initial weights of seed 0, each parameter multiplied by factor. */
static void write_model(const char *name, double factor)
{
    uint8_t seed[32] = {0};
    float *params = calloc(layout.arena_floats, sizeof(float));
    size_t len = train_safetensors_bytes(&layout, NULL);
    uint8_t *image = malloc(len);
    train_init(&layout, seed, params);
    for (size_t i = 0; i < layout.arena_floats; i++)
        params[i] = (float)((double)params[i] * factor);
    cr_assert_geq(train_safetensors_write(&layout, NULL, params, image, len), 0);
    write_file(name, image, len);
    free(image);
    free(params);
}

/* Runs a local command with standard output in a file, and returns what it printed. */
static json_t *run(int (*command)(const struct cli *cli, const json_t *params), json_t *params, int wanted)
{
    struct cli cli = {.json = true};
    cr_assert_not_null(freopen(path_of("out"), "w", stdout));
    int code = command(&cli, params);
    cr_assert_eq(code, wanted, "exit code %d", code);
    (void)fflush(stdout);
    json_decref(params);
    return json_load_file(path_of("out"), 0, NULL);
}

static json_t *compare(const char *first, const char *second)
{
    json_t *params =
        json_pack("{s:[s, s], s:s}", "files", path_of(first), path_of(second), "data", path_of("text.txt"));
    return run(local_compare, params, EXIT_OK);
}

TestSuite(cli_compare, .init = setup, .fini = teardown);

Test(cli_compare, mean_and_distance)
{
    write_model("a.safetensors", 0.75);
    write_model("b.safetensors", 1.25);
    write_model("c.safetensors", 1);
    json_t *apart = compare("a.safetensors", "b.safetensors");
    json_t *same = compare("c.safetensors", "c.safetensors");
    cr_assert_float_eq(value_number(apart, "replica_distance", NAN), 0.25, 1e-6);
    cr_assert_eq(value_number(same, "replica_distance", NAN), 0);
    double merged = value_number(apart, "merged_val_loss", NAN);
    const json_t *one = json_array_get(json_object_get(same, "models"), 0);
    cr_assert_float_eq(merged, value_number(one, "val_loss", NAN), 1e-6);
    cr_assert_gt(merged, 4.5);
    cr_assert_lt(merged, 6.5);
    const json_t *left = json_array_get(json_object_get(apart, "models"), 0);
    cr_assert_float_eq(value_number(left, "distance", NAN), 0.25, 1e-6);
    cr_assert_float_neq(value_number(left, "val_loss", NAN), merged, 1e-4);
    json_decref(apart);
    json_decref(same);
}

Test(cli_compare, verify_refuses_what_is_damaged)
{
    write_model("a.safetensors", 1);
    json_t *good = run(local_verify, json_pack("{s:s}", "path", path_of("a.safetensors")), EXIT_OK);
    cr_assert_eq(value_count(good, "params"), layout.parameter_count);
    cr_assert_eq(value_count(good, "width"), 16);
    json_decref(good);
    struct stat status;
    cr_assert_eq(stat(path_of("a.safetensors"), &status), 0);
    cr_assert_eq(truncate(path_of("a.safetensors"), status.st_size - 1), 0);
    json_decref(run(local_verify, json_pack("{s:s}", "path", path_of("a.safetensors")), EXIT_FAILED));
    write_model("b.safetensors", NAN);
    json_decref(run(local_verify, json_pack("{s:s}", "path", path_of("b.safetensors")), EXIT_FAILED));
    json_decref(run(local_verify, json_pack("{s:s}", "path", path_of("missing.ckpt")), EXIT_FAILED));
}

Test(cli_compare, needs_text_and_models_of_one_shape)
{
    write_model("a.safetensors", 1);
    struct train_model_config other = {.width = 32, .layers = 1, .heads = 2, .context = 16};
    train_layout_init(&layout, &other);
    write_model("b.safetensors", 1);
    json_t *params = json_pack("{s:[s]}", "files", path_of("a.safetensors"));
    json_decref(run(local_compare, params, EXIT_USAGE));
    params = json_pack("{s:[s, s], s:s}", "files", path_of("a.safetensors"), path_of("b.safetensors"), "data",
                       path_of("text.txt"));
    json_decref(run(local_compare, params, EXIT_FAILED));
    params = json_pack("{s:[s], s:s}", "files", path_of("a.safetensors"), "data", path_of("no-such-text"));
    json_decref(run(local_compare, params, EXIT_FAILED));
}
