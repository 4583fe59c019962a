/* Settings: flags win over the file, and every mistake is named with its place. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "node/config.h"

static char why[NODE_ERROR_SIZE];

static void write_file(char path[], const char *text)
{
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    cr_assert_eq(close(fd), 0);
}

Test(config, rates_and_percents)
{
    /* What must hold: units are decimal, and nothing half-parsed is taken. */
    uint64_t rate = 7;
    unsigned pct = 0;
    cr_assert_eq(node_parse_rate("1.5M", &rate), ERR_OK);
    cr_assert_eq(rate, 1500000);
    cr_assert_eq(node_parse_rate("none", &rate), ERR_OK);
    cr_assert_eq(rate, 0);
    static const char *const bad_rates[] = {"", "-1", "1X", "M", "1MM", "nan", "inf", "1e99", " 1"};
    for (size_t i = 0; i < sizeof bad_rates / sizeof bad_rates[0]; i++)
        cr_assert_eq(node_parse_rate(bad_rates[i], &rate), ERR_INVALID, "%s", bad_rates[i]);
    cr_assert_eq(node_parse_percent("40%", &pct), ERR_OK);
    cr_assert_eq(pct, 40);
    static const char *const bad_pcts[] = {"", "%", "0", "101", "-5", "4 0", "40%%", "forty"};
    for (size_t i = 0; i < sizeof bad_pcts / sizeof bad_pcts[0]; i++)
        cr_assert_eq(node_parse_percent(bad_pcts[i], &pct), ERR_INVALID, "%s", bad_pcts[i]);
}

Test(config, flags_win_over_the_file)
{
    /* What must hold: -c is read first wherever it stands. */
    char path[] = "/tmp/dunlin-config-XXXXXX";
    struct node_config config;
    enum node_config_outcome outcome;
    write_file(path, "[node]\nlisten = 1000\nnetwork = file\n[limits]\nup = 2M\ncpu = 50%\n");
    char *args[] = {"dunlind", "--listen", "2000", "-c", path, "--cpu=25", NULL};
    node_config_default(&config);
    cr_assert_eq(node_config_args(&config, 6, args, &outcome, why), ERR_OK, "%s", why);
    cr_assert_eq(outcome, NODE_CONFIG_RUN);
    cr_assert_eq(config.listen_port, 2000);
    cr_assert_str_eq(config.network, "file");
    cr_assert_eq(config.up_bytes_s, 2000000);
    cr_assert_eq(config.cpu_pct, 25);
    (void)unlink(path);
}

Test(config, mistakes_name_file_and_line)
{
    /* What must hold: a person finds the mistake from the message alone. */
    static const struct {
        const char *text;
        const char *line;
        const char *word;
    } cases[] = {
        {"[node]\nlisten = 1\nlistne = 2\n", ":3:", "listne"}, {"[nood]\nlisten = 1\n", ":2:", "nood"},
        {"[node]\nlisten = 70000\n", ":2:", "70000"},          {"[limits]\ncpu = 0\n", ":2:", "'0'"},
        {"[limits]\npolite = maybe\n", ":2:", "maybe"},        {"[log]\n\n\nlevel = loud\n", ":4:", "loud"},
        {"[node]\nseed = not-a-seed\n", ":2:", "not-a-seed"},  {"[node]\njust words\n", ":2:", "key = value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[] = "/tmp/dunlin-config-XXXXXX";
        struct node_config config;
        write_file(path, cases[i].text);
        node_config_default(&config);
        cr_assert_lt(node_config_read(&config, path, why), 0);
        cr_assert_not_null(strstr(why, path), "%s", why);
        cr_assert_not_null(strstr(why, cases[i].line), "%s", why);
        cr_assert_not_null(strstr(why, cases[i].word), "%s", why);
        (void)unlink(path);
    }
}

Test(config, bad_flags_are_named)
{
    static char *const bad[][4] = {
        {"dunlind", "--lisen", "1", NULL},
        {"dunlind", "--listen", NULL, NULL},
        {"dunlind", "stray", NULL, NULL},
        {"dunlind", "--cpu", "200", NULL},
        {"dunlind", "-c", "/nonexistent/file", NULL},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct node_config config;
        enum node_config_outcome outcome;
        int count = bad[i][2] != NULL ? 3 : 2;
        node_config_default(&config);
        cr_assert_lt(node_config_args(&config, count, (char **)bad[i], &outcome, why), 0);
        cr_assert_not_null(strstr(why, i == 4 ? "/nonexistent/file" : bad[i][1]), "%s", why);
    }
}

Test(config, help_and_version_win)
{
    struct node_config config;
    enum node_config_outcome outcome;
    char *help[] = {"dunlind", "--help", "--nonsense", NULL};
    char *version[] = {"dunlind", "--version", NULL};
    node_config_default(&config);
    cr_assert_eq(node_config_args(&config, 3, help, &outcome, why), ERR_OK);
    cr_assert_eq(outcome, NODE_CONFIG_HELP);
    cr_assert_eq(node_config_args(&config, 2, version, &outcome, why), ERR_OK);
    cr_assert_eq(outcome, NODE_CONFIG_VERSION);
}

Test(config, seed_lists)
{
    /* What must hold: comments and blanks are skipped, a bad line is named, the cap holds. */
    char path[] = "/tmp/dunlin-seeds-XXXXXX";
    struct node_config config;
    struct id id = {{1}};
    char text[ID_TEXT_SIZE];
    char file[16384] = "# seeds\n\n";
    id_format(&id, text);
    size_t at = strlen(file);
    at +=
        (size_t)snprintf(file + at, sizeof file - at, "%s@127.0.0.1:4242  # home\n%s@[::1]:1\n", text, text);
    write_file(path, file);
    node_config_default(&config);
    cr_assert_eq(node_config_read_seeds(&config, path, why), ERR_OK, "%s", why);
    cr_assert_eq(config.seed_count, 2);
    cr_assert_eq(config.seeds[0].port, 4242);
    (void)unlink(path);
    for (int i = 0; i < NODE_SEEDS_MAX + 1; i++)
        at += (size_t)snprintf(file + at, sizeof file - at, "%s@host:%d\n", text, i + 1);
    char long_path[] = "/tmp/dunlin-seeds-XXXXXX";
    write_file(long_path, file);
    node_config_default(&config);
    cr_assert_lt(node_config_read_seeds(&config, long_path, why), 0);
    cr_assert_not_null(strstr(why, "more than"), "%s", why);
    (void)unlink(long_path);
}
