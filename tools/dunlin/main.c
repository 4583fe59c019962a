/* dunlin: the command line of a Dunlin node. */
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/dunlin/client.h"
#include "tools/dunlin/command.h"
#include "tools/dunlin/text.h"
#include "tools/dunlin/value.h"

/* $DUNLIN_DIR, else ~/.dunlin: the same as dunlind. */
static void default_dir(struct cli *cli)
{
    const char *set = getenv("DUNLIN_DIR");
    const char *home = getenv("HOME");
    if (set != NULL && set[0] != '\0')
        (void)snprintf(cli->dir, sizeof(cli->dir), "%s", set);
    else
        (void)snprintf(cli->dir, sizeof(cli->dir), "%s/.dunlin", home != NULL ? home : "");
}

static int report_connect(const struct cli *cli, int code)
{
    switch (code) {
    case ERR_NOT_FOUND:
        (void)fprintf(stderr,
                      "dunlin: no daemon runs in %s; start one with 'dunlind -d %s', or name another "
                      "directory with -d\n",
                      cli->dir, cli->dir);
        return EXIT_NO_DAEMON;
    case ERR_PERMISSION:
        (void)fprintf(stderr,
                      "dunlin: %s/control.sock belongs to another user; run this as the user that dunlind "
                      "runs as\n",
                      cli->dir);
        return EXIT_NO_DAEMON;
    case ERR_INVALID:
        (void)fprintf(stderr,
                      "dunlin: the name %s/control.sock is too long for a socket; use a shorter directory\n",
                      cli->dir);
        return EXIT_FAILED;
    default:
        (void)fprintf(stderr, "dunlin: cannot connect to %s/control.sock: %s\n", cli->dir, err_text(code));
        return EXIT_NO_DAEMON;
    }
}

static int report_transport(const struct cli *cli, const char *method, int code)
{
    if (code == ERR_TIMEOUT) {
        (void)fprintf(
            stderr,
            "dunlin: the daemon in %s did not answer '%s' within %u s; it may be busy (try a longer "
            "--timeout) or frozen (see its log)\n",
            cli->dir, method, cli->timeout_s);
        return EXIT_TIMED_OUT;
    }
    if (code == ERR_CLOSED) {
        (void)fprintf(
            stderr,
            "dunlin: the daemon in %s closed the connection before it answered '%s'; it was stopped "
            "or crashed (see its log)\n",
            cli->dir, method);
        return EXIT_FAILED;
    }
    (void)fprintf(stderr,
                  "dunlin: talking to the daemon in %s failed: %s; are dunlin and dunlind of one version?\n",
                  cli->dir, err_text(code));
    return EXIT_FAILED;
}

static int show_answer(const struct cli *cli, const struct command *command,
                       const struct client_answer *answer)
{
    if (answer->code != 0) {
        (void)fflush(stdout);
        (void)fprintf(stderr, "dunlin: %s (%s)\n",
                      answer->text[0] != '\0' ? answer->text : err_text(answer->code),
                      err_name(answer->code));
        return answer->code == ERR_TIMEOUT ? EXIT_TIMED_OUT : EXIT_FAILED;
    }
    if (answer->more && command->progress != NULL) {
        if (!cli->json)
            command->progress(answer->result);
        return EXIT_OK;
    }
    if (cli->json) {
        (void)json_dumpf(answer->result, stdout, JSON_COMPACT);
        (void)fputc('\n', stdout);
    } else {
        command->show(answer->result);
    }
    if (fflush(stdout) != 0)
        return EXIT_FAILED;
    return command->judge != NULL ? command->judge(answer->result) : EXIT_OK;
}

static bool is_beginning(const struct client_answer *answer)
{
    return answer->code == 0 && strcmp(value_text(answer->result, "state", ""), "fetching") == 0;
}

/* Asks for the run again until it trains, has failed or takes longer than people like to wait.  An error here
 * is no error of the command: the answer stays as it was. */
static void settle(struct client *client, struct client_answer *answer)
{
    const struct timespec step = {.tv_nsec = CLI_SETTLE_STEP_MS * 1000000L};
    for (int waited_ms = 0; is_beginning(answer) && waited_ms < CLI_SETTLE_MS;
         waited_ms += CLI_SETTLE_STEP_MS) {
        struct client_answer newer = {.code = 0};
        (void)nanosleep(&step, NULL);
        json_t *params = json_pack("{s:s}", "run", value_text(answer->result, "id", ""));
        int code = client_send(client, "run.show", params);
        json_decref(params);
        if (code < 0 || client_receive(client, &newer) < 0)
            return;
        if (newer.code == 0)
            json_object_update_existing(answer->result, newer.result);
        json_decref(newer.result);
    }
}

static int show_settled(const struct cli *cli, const struct command *command, struct client *client,
                        struct client_answer *answer)
{
    if (command->settles)
        settle(client, answer);
    int result = show_answer(cli, command, answer);
    if (result != EXIT_OK || !command->settles ||
        strcmp(value_text(answer->result, "state", ""), "error") != 0)
        return result;
    (void)fprintf(stderr, "dunlin: ");
    text_write_safe(stderr, value_text(answer->result, "error", "the run failed"), false);
    (void)fprintf(stderr, "\n");
    return EXIT_FAILED;
}

static int ask(const struct cli *cli, const struct command *command, const json_t *params)
{
    struct client client;
    /* A method that waits as long as that itself must be able to say that it waited in vain. */
    unsigned timeout_s = cli->timeout_s + (command->wait_param != NULL ? CLI_GRACE_S : 0);
    int code = client_open(&client, cli->dir, timeout_s);
    if (code < 0)
        return report_connect(cli, code);
    int result = EXIT_OK;
    code = client_send(&client, command->method, params);
    for (bool more = true; more && code == ERR_OK;) {
        struct client_answer answer;
        code = client_receive(&client, &answer);
        if (code < 0)
            break;
        int shown = show_settled(cli, command, &client, &answer);
        result = shown != EXIT_OK ? shown : result;
        more = answer.more;
        json_decref(answer.result);
    }
    client_close(&client);
    return code < 0 ? report_transport(cli, command->method, code) : result;
}

/* "dunlin run" alone, or with a word that is none of its commands, lists them; with --help that is no
 * mistake. */
static int report_unknown(int argc, char *const argv[])
{
    if (!command_is_group(argv[0])) {
        (void)fprintf(stderr, "dunlin: unknown command '%s'; 'dunlin --help' lists all\n", argv[0]);
        return EXIT_USAGE;
    }
    bool help = argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    if (!help && argc > 1)
        (void)fprintf(stderr, "dunlin: unknown command '%s %s'\n", argv[0], argv[1]);
    command_usage(help ? stdout : stderr, argv[0]);
    return help ? EXIT_OK : EXIT_USAGE;
}

static int run_command(struct cli *cli, int argc, char *const argv[])
{
    int words = 0;
    const struct command *command = command_find(argc, argv, &words);
    if (command == NULL)
        return report_unknown(argc, argv);
    json_t *params = NULL;
    bool help = false;
    if (command_parse(command, argc - words, argv + words, cli, &params, &help) < 0)
        return EXIT_USAGE;
    int result = !help && command->prepare != NULL ? command->prepare(params) : EXIT_OK;
    if (command->wait_param != NULL)
        (void)json_object_set_new(params, command->wait_param, json_integer((json_int_t)cli->timeout_s));
    if (help)
        command_help(command, stdout);
    else if (result == EXIT_OK)
        result = command->run != NULL ? command->run(cli, params) : ask(cli, command, params);
    json_decref(params);
    return result;
}

int main(int argc, char *argv[])
{
    struct cli cli = {.timeout_s = CLI_TIMEOUT_S};
    default_dir(&cli);
    if (sodium_init() < 0) {
        (void)fprintf(stderr, "dunlin: libsodium found no source of randomness\n");
        return EXIT_FAILED;
    }
    int at = 1;
    while (at < argc && argv[at][0] == '-') {
        if (strcmp(argv[at], "--help") == 0 || strcmp(argv[at], "-h") == 0) {
            command_usage(stdout, NULL);
            return EXIT_OK;
        }
        if (strcmp(argv[at], "--version") == 0)
            return local_version(&cli, NULL);
        int used = command_common_option(&cli, argc, argv, at);
        if (used == 0)
            (void)fprintf(stderr, "dunlin: unknown option '%s'; 'dunlin --help' lists all\n", argv[at]);
        if (used <= 0)
            return EXIT_USAGE;
        at += used;
    }
    if (at == argc) {
        command_usage(stderr, NULL);
        return EXIT_USAGE;
    }
    return run_command(&cli, argc - at, argv + at);
}
