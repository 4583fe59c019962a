/* What a `dunlin` command is: a row that says its name, arguments, options, the daemon's method it calls and
 * how its result is shown.  The parser turns the command line into the method's parameters, so that most
 * commands need no code of their own. */
#ifndef DUNLIN_TOOLS_COMMAND_H
#define DUNLIN_TOOLS_COMMAND_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "base/err.h"

/* Exit codes, as the man page lists them. */
enum cli_exit {
    EXIT_OK = 0,
    EXIT_FAILED = 1,    /* the command was understood and did not succeed */
    EXIT_USAGE = 2,     /* unknown command, option or value */
    EXIT_NO_DAEMON = 3, /* nobody answers on the control socket */
    EXIT_TIMED_OUT = 4  /* no answer in time, from the daemon or from the peer it asked */
};

enum {
    COMMAND_ARGUMENTS_MAX = 3,
    CLI_SETTLE_MS = 5000, /* how long a run may take to begin before we show it as it is */
    CLI_SETTLE_STEP_MS = 50,
    CLI_GRACE_S = 35,    /* how much longer than the daemon the client waits where both know the timeout */
    CLI_TIMEOUT_S = 120, /* longest wait for one answer: a big export or a sample on a busy machine */
};

/* How the text of an option or argument becomes a parameter. */
enum value_kind {
    VALUE_FLAG,     /* no value; true */
    VALUE_FLAG_OFF, /* no value; false */
    VALUE_COUNT,    /* integer of at least 0 */
    VALUE_LAYERS,   /* the same, or a list of two or more with commas, which stays text */
    VALUE_NUMBER,   /* decimal number */
    VALUE_TEXT,
    VALUE_PATH,    /* made absolute, since the daemon works in another directory */
    VALUE_PERCENT, /* 1..100, with or without % */
    VALUE_RATE,    /* bytes a second: 500K, 2M (powers of 1000); 0 or none: no limit */
    VALUE_SIZE     /* bytes: 500000, 64K, 64M, 1G (powers of 1024) */
};

struct option {
    const char *name; /* as typed, "--round-ms"; NULL ends the list */
    const char *param;
    enum value_kind kind;
    const char *value_name; /* for the help; NULL for flags */
    const char *help;
};

struct argument {
    const char *param; /* NULL ends the list */
    const char *value_name;
    enum value_kind kind;
    bool optional;
    bool many; /* takes all that follow, as an array; at least one */
};

/* What every command is given. */
struct cli {
    char dir[PATH_MAX]; /* the daemon's data directory */
    unsigned timeout_s;
    bool json;
};

struct command {
    const char *name; /* one or two words */
    const char *summary;
    const char *details; /* paragraphs for --help, or NULL */
    struct argument arguments[COMMAND_ARGUMENTS_MAX + 1];
    const struct option *options; /* or NULL */
    /* Completes the parameters before they are sent, or NULL.  Returns an exit code; what was wrong was
     * written to stderr. */
    int (*prepare)(json_t *params);
    /* Either the daemon's method with a function that shows one answer, */
    const char *method;
    void (*show)(const json_t *result);
    /* Shows an answer that is not the last, on stderr and never as JSON; NULL: those are results as well. */
    void (*progress)(const json_t *result);
    int (*judge)(const json_t *result); /* exit code of a result; NULL: EXIT_OK */
    const char *wait_param;             /* the method's parameter that --timeout becomes as well, or NULL */
    bool settles; /* the answer is a run that begins: wait a moment, so that its first errors are told here */
    /* or a function that does all the work and returns an exit code. */
    int (*run)(const struct cli *cli, const json_t *params);
};

/* All commands, ended by a row without a name. */
extern const struct command cli_commands[];

/* The command that argv[0..argc-1] begins with, and in *words how many of them name it; NULL when there is
 * none. */
const struct command *command_find(int argc, char *const argv[], int *words);
/* True when commands begin with this word and another, as "run create" does with "run". */
bool command_is_group(const char *word);
/* Prints how dunlin is used, with all commands or those of one group (NULL: all). */
void command_usage(FILE *out, const char *group);
/* Prints the help of one command. */
void command_help(const struct command *command, FILE *out);

/* Parses what follows the command's name into a new JSON object of parameters, returned owned (free with
 * json_decref) in *params; sets what the common options ask for in cli, and *help for --help.  ERR_INVALID:
 * what was wrong was written to stderr; exit with EXIT_USAGE. */
MUST_USE int command_parse(const struct command *command, int argc, char *const argv[], struct cli *cli,
                           json_t **params, bool *help);
/* Handles argv[at] when it is one of -d, --dir, --timeout, --json: returns how many words it took, or 0.
 * ERR_INVALID: as above. */
MUST_USE int command_common_option(struct cli *cli, int argc, char *const argv[], int at);

/* Text of one option or argument as a new JSON value, returned owned, or NULL when it is not of this kind. */
json_t *command_value(enum value_kind kind, const char *text);
/* What command_value expects, for messages: "a number of at least 0". */
const char *command_value_expected(enum value_kind kind);

/* run create: what an MLP needs to know of its data is read from it (create.c). */
int prepare_create(json_t *params);

/* Commands that need no daemon (local.c, compare.c). */
/* Prints a result the way the daemon's are printed, takes it, and returns the exit code. */
int local_print(const struct cli *cli, json_t *result, void (*show)(const json_t *result));
int local_id(const struct cli *cli, const json_t *params);
int local_version(const struct cli *cli, const json_t *params);
int local_verify(const struct cli *cli, const json_t *params);
int local_compare(const struct cli *cli, const json_t *params);

/* Print one answer for people (show_*.c). */
void show_status(const json_t *result);
void show_limit(const json_t *result);
void show_stop(const json_t *result);
void show_peers(const json_t *result);
void show_peer(const json_t *result);
void show_ping(const json_t *result);
void show_nat(const json_t *result);
void show_trace(const json_t *result);
void show_doctor(const json_t *result);
void show_speed(const json_t *result);
void show_dht_table(const json_t *result);
void show_dht_find(const json_t *result);
void show_dht_providers(const json_t *result);
void show_dht_provide(const json_t *result);
void show_run(const json_t *result);
void show_run_created(const json_t *result);
void show_run_changed(const json_t *result);
void show_run_finished(const json_t *result);
void show_run_list(const json_t *result);
void show_sample(const json_t *result);
void show_state_list(const json_t *result);
void show_state_record(const json_t *result);
void show_checkpoint_list(const json_t *result);
void show_checkpoint_written(const json_t *result);
void show_checkpoint_exported(const json_t *result);

/* Answers before the last, and what a result means for the exit code. */
void progress_speed(const json_t *result);
void progress_export(const json_t *result);
void progress_finish(const json_t *result);
int judge_finish(const json_t *result);
int judge_speed(const json_t *result);
int judge_doctor(const json_t *result);

#endif
