/* From words of the command line to a JSON object of parameters. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/dunlin/command.h"

static json_t *count_of(const char *text)
{
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    bool good = text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0;
    return good ? json_integer(value) : NULL;
}

/* "3" as a number, "64,64,10" as it stands: it is taken apart where it is used. */
static json_t *layers_of(const char *text)
{
    if (strchr(text, ',') == NULL)
        return count_of(text);
    bool digit = false; /* the last character was one */
    for (const char *at = text; *at != '\0'; at++) {
        if ((*at < '0' || *at > '9') && !(*at == ',' && digit))
            return NULL;
        digit = *at != ',';
    }
    return digit ? json_string(text) : NULL;
}

static json_t *number_of(const char *text)
{
    char *end = NULL;
    double value = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(value) ? json_real(value) : NULL;
}

static json_t *percent_of(const char *text)
{
    char *end = NULL;
    long value = strtol(text, &end, 10);
    bool good = end != text && (*end == '\0' || (end[0] == '%' && end[1] == '\0'));
    return good && value >= 1 && value <= 100 ? json_integer(value) : NULL;
}

static json_t *rate_of(const char *text)
{
    if (strcmp(text, "none") == 0)
        return json_integer(0);
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || text[0] < '0' || text[0] > '9' || !isfinite(value))
        return NULL;
    static const char suffixes[] = "KMG";
    const char *suffix = *end != '\0' ? strchr(suffixes, *end & ~0x20) : NULL;
    if (suffix != NULL) {
        value *= suffix == suffixes       ? 1e3
                 : suffix == suffixes + 1 ? 1e6
                                          : 1e9; /* as dunlind --up reads them */
        end++;
    }
    return *end == '\0' && value < 1e15 ? json_integer((json_int_t)value) : NULL;
}

static json_t *size_of(const char *text)
{
    static const char suffixes[] = "KMG";
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || errno != 0 || value > 1ULL << 32)
        return NULL;
    const char *suffix = *end != '\0' ? strchr(suffixes, *end & ~0x20) : NULL;
    if (suffix != NULL) {
        value <<= 10 * (suffix - suffixes + 1);
        end++;
    }
    return *end == '\0' ? json_integer((json_int_t)value) : NULL;
}

static json_t *path_of(const char *text)
{
    if (text[0] == '\0')
        return NULL;
    char here[PATH_MAX] = "";
    if (text[0] != '/' && getcwd(here, sizeof(here)) == NULL)
        return NULL;
    return text[0] == '/' ? json_string(text) : json_sprintf("%s/%s", here, text);
}

json_t *command_value(enum value_kind kind, const char *text)
{
    switch (kind) {
    case VALUE_FLAG:
        return json_true();
    case VALUE_FLAG_OFF:
        return json_false();
    case VALUE_COUNT:
        return count_of(text);
    case VALUE_LAYERS:
        return layers_of(text);
    case VALUE_NUMBER:
        return number_of(text);
    case VALUE_TEXT:
        return json_string(text);
    case VALUE_PATH:
        return path_of(text);
    case VALUE_PERCENT:
        return percent_of(text);
    case VALUE_RATE:
        return rate_of(text);
    case VALUE_SIZE:
        return size_of(text);
    }
    return NULL;
}

const char *command_value_expected(enum value_kind kind)
{
    switch (kind) {
    case VALUE_COUNT:
        return "a whole number of at least 0";
    case VALUE_LAYERS:
        return "a whole number, or for an mlp a list such as 64,64,32,10";
    case VALUE_NUMBER:
        return "a number";
    case VALUE_PATH:
        return "a path";
    case VALUE_PERCENT:
        return "a share from 1 to 100 %";
    case VALUE_RATE:
        return "bytes a second such as 500K or 2M, or none";
    case VALUE_SIZE:
        return "a number of bytes, such as 500000 or 64M";
    case VALUE_FLAG:
    case VALUE_FLAG_OFF:
    case VALUE_TEXT:
        break;
    }
    return "UTF-8 text";
}

static int usage_error(const struct command *command, const char *what, const char *word)
{
    const char *name = command != NULL ? command->name : "";
    (void)fprintf(stderr, "dunlin%s%s: %s '%s'; 'dunlin %s%s--help' lists what is allowed\n",
                  *name ? " " : "", name, what, word, name, *name ? " " : "");
    return ERR_INVALID;
}

/* The text after an option's name: "--name=text" or the next word; NULL and a message when there is none. */
static const char *option_text(int argc, char *const argv[], int at, size_t name_len, int *used)
{
    *used = 1;
    if (argv[at][name_len] == '=')
        return argv[at] + name_len + 1;
    *used = 2;
    if (at + 1 < argc)
        return argv[at + 1];
    (void)usage_error(NULL, "a value is missing after", argv[at]);
    return NULL;
}

static bool names_option(const char *word, const char *name)
{
    size_t len = strlen(name);
    return strncmp(word, name, len) == 0 && (word[len] == '\0' || word[len] == '=');
}

int command_common_option(struct cli *cli, int argc, char *const argv[], int at)
{
    int used = 1;
    if (strcmp(argv[at], "--json") == 0) {
        cli->json = true;
        return used;
    }
    bool dir = names_option(argv[at], "--dir") || strcmp(argv[at], "-d") == 0;
    if (!dir && !names_option(argv[at], "--timeout"))
        return 0;
    const char *text = option_text(argc, argv, at, strcspn(argv[at], "="), &used);
    if (text == NULL)
        return ERR_INVALID;
    if (dir) {
        int len = snprintf(cli->dir, sizeof(cli->dir), "%s", text);
        return len > 0 && (size_t)len < sizeof(cli->dir) ? used
                                                         : usage_error(NULL, "not a directory name:", text);
    }
    char *end = NULL;
    unsigned long seconds = strtoul(text, &end, 10);
    if (end == text || *end != '\0' || seconds < 1 || seconds > 86400)
        return usage_error(NULL, "--timeout expects seconds from 1 to 86400, not", text);
    cli->timeout_s = (unsigned)seconds;
    return used;
}

/* Takes the option at argv[at]; returns how many words it used. */
static int take_option(const struct command *command, int argc, char *const argv[], int at, json_t *params)
{
    const struct option *option = command->options;
    while (option != NULL && option->name != NULL && !names_option(argv[at], option->name))
        option++;
    if (option == NULL || option->name == NULL)
        return usage_error(command, "unknown option", argv[at]);
    size_t name_len = strlen(option->name);
    int used = 1;
    const char *text = "";
    if (option->kind != VALUE_FLAG && option->kind != VALUE_FLAG_OFF)
        text = option_text(argc, argv, at, name_len, &used);
    else if (argv[at][name_len] == '=')
        return usage_error(command, "no value is expected in", argv[at]);
    if (text == NULL)
        return ERR_INVALID;
    json_t *value = command_value(option->kind, text);
    if (value == NULL) {
        (void)fprintf(stderr, "dunlin %s: %s expects %s, not '%s'\n", command->name, option->name,
                      command_value_expected(option->kind), text);
        return ERR_INVALID;
    }
    return json_object_set_new(params, option->param, value) == 0 ? used : ERR_INVALID;
}

/* Takes a word that is no option as the next argument. */
static int take_argument(const struct command *command, size_t *next, const char *word, json_t *params)
{
    const struct argument *argument = &command->arguments[*next];
    if (*next == COMMAND_ARGUMENTS_MAX || argument->param == NULL)
        return usage_error(command, "one argument too many:", word);
    json_t *value = command_value(argument->kind, word);
    if (value == NULL) {
        (void)fprintf(stderr, "dunlin %s: %s must be %s, not '%s'\n", command->name, argument->value_name,
                      command_value_expected(argument->kind), word);
        return ERR_INVALID;
    }
    if (!argument->many) {
        ++*next;
        return json_object_set_new(params, argument->param, value) == 0 ? ERR_OK : ERR_INVALID;
    }
    if (json_object_get(params, argument->param) == NULL)
        (void)json_object_set_new(params, argument->param, json_array());
    return json_array_append_new(json_object_get(params, argument->param), value) == 0 ? ERR_OK : ERR_INVALID;
}

static int check_complete(const struct command *command, const json_t *params)
{
    for (const struct argument *argument = command->arguments; argument->param != NULL; argument++) {
        if (!argument->optional && json_object_get(params, argument->param) == NULL)
            return usage_error(command, "missing argument", argument->value_name);
    }
    return ERR_OK;
}

int command_parse(const struct command *command, int argc, char *const argv[], struct cli *cli,
                  json_t **params, bool *help)
{
    json_t *parsed = json_object();
    size_t next = 0;
    bool only_arguments = false; /* after "--" */
    *help = false;
    for (int at = 0; at < argc && !*help;) {
        const char *word = argv[at];
        int used = 1;
        if (!only_arguments && strcmp(word, "--") == 0)
            only_arguments = true;
        else if (!only_arguments && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0))
            *help = true;
        else if (only_arguments || word[0] != '-' || word[1] == '\0')
            used = take_argument(command, &next, word, parsed) < 0 ? ERR_INVALID : 1;
        else if ((used = command_common_option(cli, argc, argv, at)) == 0)
            used = take_option(command, argc, argv, at, parsed);
        if (used < 0) {
            json_decref(parsed);
            return ERR_INVALID;
        }
        at += used;
    }
    if (!*help && check_complete(command, parsed) < 0) {
        json_decref(parsed);
        return ERR_INVALID;
    }
    *params = parsed;
    return ERR_OK;
}
