/* What an MLP must know of its data is read from it, and what is given stands; settings of one kind of model
 * are refused for the other before a daemon is asked. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/dunlin/command.h"

static char path[] = "/tmp/dunlin-create-XXXXXX"; /* each test runs in its own process */

static void write_rows(void)
{
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    FILE *file = fdopen(fd, "w");
    cr_assert_not_null(file);
    (void)fprintf(file, "kind,a,b,c\n");
    for (int i = 0; i < 60; i++)
        (void)fprintf(file, "%d,%d,%d,%d\n", i % 4, i, -2 * i, i * i % 17);
    cr_assert_eq(fclose(file), 0);
}

static void remove_rows(void)
{
    cr_assert_eq(unlink(path), 0);
}

TestSuite(cli_create, .init = write_rows, .fini = remove_rows);

/* Parameters as typed, without the data; result: after preparation, with it. */
static void prepared(const char *typed, int code, const char *wanted)
{
    json_t *params = json_loads(typed, 0, NULL);
    cr_assert_not_null(params);
    cr_assert_eq(json_object_set_new(params, "data", json_string(path)), 0);
    cr_assert_eq(prepare_create(params), code, "%s", typed);
    if (code == EXIT_OK) {
        json_t *expected = json_loads(wanted, 0, NULL);
        cr_assert_eq(json_object_set_new(expected, "data", json_string(path)), 0);
        cr_assert(json_equal(params, expected), "%s gave %s", typed, json_dumps(params, JSON_COMPACT));
        json_decref(expected);
    }
    json_decref(params);
}

Test(cli_create, an_mlp_takes_its_shape_from_the_data)
{
    prepared("{\"model\":\"mlp\",\"label\":\"kind\"}", EXIT_OK,
             "{\"model\":\"mlp\",\"label\":\"kind\",\"sizes\":\"3,64,32,4\",\"input_max\":118.0}");
    prepared("{\"model\":\"mlp\",\"label\":\"kind\",\"layers\":\"3,8,4\",\"input_max\":50.0}", EXIT_OK,
             "{\"model\":\"mlp\",\"label\":\"kind\",\"sizes\":\"3,8,4\",\"input_max\":50.0}");
    prepared("{\"model\":\"mlp\",\"label\":\"kind\",\"layers\":\"3,8,4\"}", EXIT_OK,
             "{\"model\":\"mlp\",\"label\":\"kind\",\"sizes\":\"3,8,4\",\"input_max\":118.0}");
}

Test(cli_create, a_transformer_is_left_alone)
{
    prepared("{}", EXIT_OK, "{}");
    prepared("{\"layers\":3,\"width\":64}", EXIT_OK, "{\"layers\":3,\"width\":64}");
}

Test(cli_create, kinds_are_not_mixed)
{
    prepared("{\"layers\":\"64,10\"}", EXIT_USAGE, NULL);
    prepared("{\"label\":\"kind\"}", EXIT_USAGE, NULL);
    prepared("{\"input_max\":2.0}", EXIT_USAGE, NULL);
    prepared("{\"model\":\"mlp\",\"width\":64}", EXIT_USAGE, NULL);
    prepared("{\"model\":\"mlp\",\"layers\":3}", EXIT_USAGE, NULL);
    /* The last column holds other numbers than classes may be... as many as 17, which is fine; the wrong name
     * is not. */
    prepared("{\"model\":\"mlp\",\"label\":\"sort\"}", EXIT_FAILED, NULL);
}
