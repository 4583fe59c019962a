/* The command line becomes exactly the parameters that were typed, and everything else is refused before a
 * daemon is asked.  We try values at and past their limits, missing and repeated words, and every row of the
 * command table. */
#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

#include "tools/dunlin/command.h"

enum { WORDS_MAX = 16 };

/* Splits "run join abcd --isolated" and parses it; NULL when it was refused. */
static json_t *parse(const char *line, struct cli *cli, bool *help)
{
    static char text[256]; /* each test runs in its own process */
    char *words[WORDS_MAX];
    int count = 0;
    cr_assert(strlen(line) < sizeof(text));
    memcpy(text, line, strlen(line) + 1);
    for (char *rest = text, *word; count < WORDS_MAX && (word = strsep(&rest, " ")) != NULL;)
        words[count++] = word;
    int used = 0;
    const struct command *command = command_find(count, words, &used);
    cr_assert_not_null(command, "%s", line);
    json_t *params = NULL;
    int code = command_parse(command, count - used, words + used, cli, &params, help);
    cr_assert_eq(code == ERR_OK, params != NULL);
    return params;
}

static void expect(const char *line, const char *json)
{
    struct cli cli = {.timeout_s = 1};
    bool help = false;
    json_t *params = parse(line, &cli, &help);
    cr_assert_not_null(params, "%s was refused", line);
    json_t *wanted = json_loads(json, 0, NULL);
    cr_assert(json_equal(params, wanted), "%s gave %s", line, json_dumps(params, JSON_COMPACT));
    json_decref(wanted);
    json_decref(params);
}

static void refuse(const char *line)
{
    struct cli cli = {.timeout_s = 1};
    bool help = false;
    cr_assert_null(parse(line, &cli, &help), "%s was accepted", line);
}

Test(cli_args, become_parameters)
{
    expect("status", "{}");
    expect("ping abcd --count 3", "{\"id\":\"abcd\",\"count\":3}");
    expect("ping --count=3 abcd", "{\"id\":\"abcd\",\"count\":3}");
    expect("run join abcd --data /x --isolated", "{\"run\":\"abcd\",\"data\":\"/x\",\"isolated\":true}");
    expect("run create --data /x --layers 3", "{\"data\":\"/x\",\"layers\":3}");
    expect("run create --model mlp --layers 64,32,10", "{\"model\":\"mlp\",\"layers\":\"64,32,10\"}");
    expect("run create --data /x --lr 0.001 --no-train", "{\"data\":\"/x\",\"lr\":0.001,\"train\":false}");
    expect("checkpoint export abcd /x --merge 3 --wait 9",
           "{\"run\":\"abcd\",\"path\":\"/x\",\"merge\":3,\"wait_s\":9}");
    expect("state get abcd efgh 0", "{\"run\":\"abcd\",\"author\":\"efgh\",\"slot\":0}");
    expect("sample abcd --prompt=--help --length 5", "{\"run\":\"abcd\",\"prompt\":\"--help\",\"length\":5}");
    expect("peer -- -abcd", "{\"id\":\"-abcd\"}");
}

Test(cli_args, units_of_limits)
{
    expect("limit --cpu 40%", "{\"cpu_pct\":40}");
    expect("limit --cpu 100", "{\"cpu_pct\":100}");
    expect("limit --up 500", "{\"up_bytes_s\":500}");
    expect("limit --up 500K", "{\"up_bytes_s\":500000}");
    expect("limit --up 1.5m", "{\"up_bytes_s\":1500000}");
    expect("limit --up none", "{\"up_bytes_s\":0}");
    refuse("limit --cpu 0");
    refuse("limit --cpu 101");
    refuse("limit --cpu 40x");
    refuse("limit --up -1");
    refuse("limit --up 5Q");
    refuse("limit --up 5KK");
    refuse("limit --up nan");
}

Test(cli_args, sizes_are_powers_of_1024)
{
    expect("speed abcd --bytes 500000", "{\"id\":\"abcd\",\"bytes\":500000}");
    expect("speed abcd --bytes 64M --down", "{\"id\":\"abcd\",\"bytes\":67108864,\"down\":true}");
    expect("speed abcd --bytes=2k", "{\"id\":\"abcd\",\"bytes\":2048}");
}

Test(cli_args, wrong_words_are_refused)
{
    refuse("status extra");
    refuse("peer");
    refuse("peer a b");
    refuse("status --nonsense");
    refuse("ping abcd --count");
    refuse("ping abcd --count -1");
    refuse("ping abcd --count 99999999999999999999");
    refuse("speed abcd --bytes 5T");
    refuse("speed abcd --bytes 1.5M");
    refuse("speed abcd --bytes 99999999999999999999");
    refuse("run create --lr inf");
    refuse("run create --isolated=1");
    refuse("state get abcd efgh x");
    refuse("status --timeout 0");
    refuse("status --timeout x");
}

Test(cli_args, relative_paths_become_absolute)
{
    struct cli cli = {.timeout_s = 1};
    bool help = false;
    char here[PATH_MAX];
    cr_assert_not_null(getcwd(here, sizeof(here)));
    json_t *params = parse("run create --data some/where", &cli, &help);
    const char *path = json_string_value(json_object_get(params, "data"));
    cr_assert_eq(strncmp(path, here, strlen(here)), 0);
    cr_assert_str_eq(path + strlen(here), "/some/where");
    json_decref(params);
}

Test(cli_args, common_options_stand_anywhere)
{
    struct cli cli = {.timeout_s = 1};
    bool help = false;
    json_decref(parse("ping --json abcd -d /tmp/x --timeout 7", &cli, &help));
    cr_assert(cli.json);
    cr_assert_str_eq(cli.dir, "/tmp/x");
    cr_assert_eq(cli.timeout_s, 7);
    cr_assert_not(help);
    json_decref(parse("ping --help", &cli, &help));
    cr_assert(help);
}

Test(cli_args, table_is_sound)
{
    FILE *sink = fopen("/dev/null", "w");
    cr_assert_not_null(sink);
    for (const struct command *command = cli_commands; command->name != NULL; command++) {
        cr_assert_not_null(command->summary, "%s", command->name);
        bool asks = command->method != NULL && command->show != NULL;
        cr_assert_neq(asks, command->run != NULL, "%s", command->name);
        bool optional_seen = false;
        for (const struct argument *one = command->arguments; one->param != NULL; one++) {
            cr_assert_not(optional_seen && !one->optional, "%s", command->name);
            optional_seen |= one->optional;
        }
        for (const struct option *one = command->options; one != NULL && one->name != NULL; one++)
            cr_assert_eq(strncmp(one->name, "--", 2), 0, "%s", one->name);
        command_help(command, sink);
    }
    (void)fclose(sink);
}
