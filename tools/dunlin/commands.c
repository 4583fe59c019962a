/* Every command, and the help made from the same rows. */
#include <stdio.h>
#include <string.h>

#include "tools/dunlin/command.h"

static const struct option ping_options[] = {
    {"--count", "count", VALUE_COUNT, "N", "how many times (default 4)"},
    {0},
};

static const struct option speed_options[] = {
    {"--bytes", "bytes", VALUE_SIZE, "N", "how much, such as 500000 or 1G (default 64M; at most 4G)"},
    {"--down", "down", VALUE_FLAG, NULL, "from the peer to this node instead of to the peer"},
    {0},
};

static const struct option create_options[] = {
    {"--data", "data", VALUE_PATH, "PATH",
     "what to train on, a file or a directory: text, or for an mlp CSV or IDX (needed)"},
    {"--model", "model", VALUE_TEXT, "KIND",
     "transformer, which writes text (default), or mlp, a classifier"},
    {"--name", "name", VALUE_TEXT, "NAME", "name shown in tables"},
    {"--width", "width", VALUE_COUNT, "N", "width of the model"},
    {"--layers", "layers", VALUE_LAYERS, "N",
     "transformer layers; for an mlp its sizes, such as 64,64,32,10 (default: from the data)"},
    {"--heads", "heads", VALUE_COUNT, "N", "attention heads a layer"},
    {"--context", "context", VALUE_COUNT, "N", "bytes of text the model sees"},
    {"--label", "label", VALUE_TEXT, "NAME", "column of an mlp's classes in CSV (default: the last)"},
    {"--input-max", "input_max", VALUE_NUMBER, "X",
     "an mlp's inputs are divided by it (default: the data's largest)"},
    {"--batch", "batch", VALUE_COUNT, "N", "sequences, or rows, a step"},
    {"--round-ms", "round_ms", VALUE_COUNT, "MS", "length of a round"},
    {"--rounds", "rounds", VALUE_COUNT, "N", "stop after so many rounds (default 10000)"},
    {"--lr", "lr", VALUE_NUMBER, "X", "highest learning rate"},
    {"--seed", "seed", VALUE_COUNT, "N", "seed of the initial weights"},
    {"--fragments", "fragments", VALUE_COUNT, "N",
     "parts of the model, exchanged in turn, one a round (default 5)"},
    {"--strangers", "strangers", VALUE_FLAG, NULL,
     "let members start from weights of their own (--init-seed)"},
    {"--loss-test", "loss_test", VALUE_FLAG, NULL,
     "take no merge that raises the loss of a private batch (costs two forward passes a merge)"},
    {"--codec", "codec", VALUE_TEXT, "NAME",
     "how weights travel: auto (default), fp32, bf16, int8, mod4, mod3, mod2"},
    {"--alpha", "alpha", VALUE_NUMBER, "X", "outer momentum"},
    {"--beta", "beta", VALUE_NUMBER, "X", "outer learning rate"},
    {"--gamma", "gamma", VALUE_NUMBER, "X", "pull towards the partner"},
    {"--no-train", "train", VALUE_FLAG_OFF, NULL, "create the run and do not train here"},
    {"--isolated", "isolated", VALUE_FLAG, NULL, "train without ever merging, to compare"},
    {"--init-seed", "init_seed", VALUE_COUNT, "N", "start this member from other weights, to compare"},
    {0},
};

static const struct option join_options[] = {
    {"--data", "data", VALUE_PATH, "PATH", "what to train on, of the kind the run asks for"},
    {"--isolated", "isolated", VALUE_FLAG, NULL, "train without ever merging, to compare"},
    {"--init-seed", "init_seed", VALUE_COUNT, "N", "start this member from other weights, to compare"},
    {0},
};

static const struct option finish_options[] = {
    {"--after", "after", VALUE_COUNT, "N",
     "train for so many more rounds first (default: one for each fragment)"},
    {"--no-wait", "wait", VALUE_FLAG_OFF, NULL, "do not wait for the end"},
    {0},
};

static const struct option sample_options[] = {
    {"--prompt", "prompt", VALUE_TEXT, "TEXT", "text to go on from"},
    {"--length", "length", VALUE_COUNT, "N", "bytes to write"},
    {"--temperature", "temperature", VALUE_NUMBER, "X", "0: always the likeliest byte; 1: as the model says"},
    {"--top-k", "top_k", VALUE_COUNT, "N", "choose among the N likeliest bytes (0: all)"},
    {"--seed", "seed", VALUE_COUNT, "N", "the same seed and weights give the same text"},
    {0},
};

static const struct option limit_options[] = {
    {"--cpu", "cpu_pct", VALUE_PERCENT, "PERCENT", "share of the time training may work, such as 40%"},
    {"--up", "up_bytes_s", VALUE_RATE, "RATE",
     "upload in bytes a second, such as 500K or 2M; none: no limit"},
    {0},
};

static const struct option compare_options[] = {
    {"--data", "data", VALUE_PATH, "PATH", "data whose validation part the models are measured on"},
    {"--label", "label", VALUE_TEXT, "NAME", "column of the classes in CSV (default: the last)"},
    {0},
};

static const struct option export_options[] = {
    {"--merge", "merge", VALUE_COUNT, "K", "the mean of K members' weights, this node's included"},
    {"--wait", "wait_s", VALUE_COUNT, "SECONDS",
     "with --merge: how long a member may be silent (default 30)"},
    {0},
};

#define RUN_ARGUMENT                                                                                         \
    {                                                                                                        \
        "run", "RUN", VALUE_TEXT, false, false                                                               \
    }
#define ID_ARGUMENT                                                                                          \
    {                                                                                                        \
        "id", "ID", VALUE_TEXT, false, false                                                                 \
    }

const struct command cli_commands[] = {
    {.name = "status",
     .summary = "the node, its runs, traffic and limits",
     .method = "status",
     .show = show_status},
    {.name = "peers",
     .summary = "peers this node is connected to or knows",
     .method = "peers",
     .show = show_peers},
    {.name = "peer",
     .summary = "one peer and the ways to reach it",
     .arguments = {ID_ARGUMENT},
     .method = "peer",
     .show = show_peer},
    {.name = "ping",
     .summary = "ask a peer for answers and time them",
     .arguments = {ID_ARGUMENT},
     .options = ping_options,
     .method = "ping",
     .show = show_ping},
    {.name = "speed",
     .summary = "move bytes to or from a peer and time them",
     .details =
         "Connects to the peer first if need be. --timeout limits the wait for that connection; a transfer "
         "that\nhas begun ends by itself when nothing moves for half a minute. Exit code 1: bytes were lost "
         "or "
         "differ.",
     .arguments = {ID_ARGUMENT},
     .options = speed_options,
     .method = "speed",
     .show = show_speed,
     .progress = progress_speed,
     .judge = judge_speed,
     .wait_param = "wait_s"},
    {.name = "trace",
     .summary = "all that was tried to reach a peer, and what came of it",
     .arguments = {ID_ARGUMENT},
     .method = "trace",
     .show = show_trace},
    {.name = "nat",
     .summary = "own addresses, the NAT before them, port mappings and relays",
     .method = "nat",
     .show = show_nat},
    {.name = "doctor",
     .summary = "what this node's network can do, and what to try",
     .details = "Exit code 0: fine, 1: degraded, 2: no peers.",
     .method = "doctor",
     .show = show_doctor,
     .judge = judge_doctor},
    {.name = "run create",
     .summary = "start a new run and train in it",
     .details =
         "Prints the run's id, which others give to 'dunlin run join'. What is not given takes the default\n"
         "that the daemon chooses; 'dunlin run show' tells it.",
     .options = create_options,
     .prepare = prepare_create,
     .settles = true,
     .method = "run.create",
     .show = show_run_created},
    {.name = "run list",
     .summary = "the runs this node takes part in",
     .method = "run.list",
     .show = show_run_list},
    {.name = "run show",
     .summary = "one run: members, configuration, progress",
     .arguments = {RUN_ARGUMENT},
     .method = "run.show",
     .show = show_run},
    {.name = "run join",
     .summary = "train in a run that others started",
     .arguments = {RUN_ARGUMENT},
     .options = join_options,
     .settles = true,
     .method = "run.join",
     .show = show_run_changed},
    {.name = "run leave",
     .summary = "stop training in a run and forget its records",
     .arguments = {RUN_ARGUMENT},
     .method = "run.leave",
     .show = show_run_changed},
    {.name = "run pause",
     .summary = "stop training until resumed",
     .arguments = {RUN_ARGUMENT},
     .method = "run.pause",
     .show = show_run_changed},
    {.name = "run resume",
     .summary = "go on after a pause",
     .arguments = {RUN_ARGUMENT},
     .method = "run.resume",
     .show = show_run_changed},
    {.name = "run finish",
     .summary = "end a run now and wait until its members' models are one",
     .details = "Training stops, then rounds go on that only average, until all replicas agree. The same "
                "happens after "
                "the\nrun's last round; only its creator ends it earlier. Ctrl-C stops the waiting, not the "
                "finishing.",
     .arguments = {RUN_ARGUMENT},
     .options = finish_options,
     .method = "run.finish",
     .show = show_run_finished,
     .progress = progress_finish,
     .judge = judge_finish},
    {.name = "dht find",
     .summary = "look up the addresses of a node",
     .arguments = {ID_ARGUMENT},
     .method = "dht.find",
     .show = show_dht_find},
    {.name = "dht providers",
     .summary = "who offers a run or a content key",
     .arguments = {{"key", "KEY", VALUE_TEXT, false, false}},
     .method = "dht.providers",
     .show = show_dht_providers},
    {.name = "dht provide",
     .summary = "announce that this node offers a key",
     .arguments = {{"key", "KEY", VALUE_TEXT, false, false}},
     .method = "dht.provide",
     .show = show_dht_provide},
    {.name = "dht table",
     .summary = "the contacts in the Kademlia table",
     .method = "dht.table",
     .show = show_dht_table},
    {.name = "state ls",
     .summary = "the signed records held of a run",
     .arguments = {RUN_ARGUMENT},
     .method = "state.ls",
     .show = show_state_list},
    {.name = "state get",
     .summary = "one signed record",
     .arguments = {RUN_ARGUMENT,
                   {"author", "AUTHOR", VALUE_TEXT, false, false},
                   {"slot", "SLOT", VALUE_COUNT, false, false}},
     .method = "state.get",
     .show = show_state_record},
    {.name = "sample",
     .summary = "let the current weights write text",
     .arguments = {RUN_ARGUMENT},
     .options = sample_options,
     .method = "sample",
     .show = show_sample},
    {.name = "checkpoint ls",
     .summary = "the checkpoints on disk",
     .arguments = {RUN_ARGUMENT},
     .method = "checkpoint.ls",
     .show = show_checkpoint_list},
    {.name = "checkpoint save",
     .summary = "write a checkpoint now",
     .arguments = {RUN_ARGUMENT},
     .method = "checkpoint.save",
     .show = show_checkpoint_written},
    {.name = "checkpoint export",
     .summary = "write the weights as a .safetensors file",
     .details =
         "With --merge the weights are fetched from other members of the run, one after the other, and\n"
         "averaged; nothing changes in the run.  Members that do not answer are replaced by others where\n"
         "there are any, and named; with fewer than K a warning says how many models are in the mean.\n"
         "The file's metadata name the members and their rounds.  --merge 1 is the plain export.",
     .arguments = {RUN_ARGUMENT, {"path", "FILE", VALUE_PATH, false, false}},
     .options = export_options,
     .method = "checkpoint.export",
     .show = show_checkpoint_exported,
     .progress = progress_export},
    {.name = "checkpoint verify",
     .summary = "check a model or checkpoint file (needs no daemon)",
     .arguments = {{"path", "FILE", VALUE_PATH, false, false}},
     .run = local_verify},
    {.name = "checkpoint compare",
     .summary = "loss of models of one run, of their mean, and their spread",
     .details = "Reads .safetensors files that 'dunlin checkpoint export' wrote on different nodes, and "
                "measures each\n"
                "and their mean on the validation part of the text. Needs no daemon.",
     .arguments = {{"files", "FILE", VALUE_PATH, false, true}},
     .options = compare_options,
     .run = local_compare},
    {.name = "limit",
     .summary = "show or set the upload cap and the CPU share",
     .options = limit_options,
     .method = "limit",
     .show = show_limit},
    {.name = "stop", .summary = "shut the daemon down in good order", .method = "stop", .show = show_stop},
    {.name = "id", .summary = "this node's id (needs no daemon)", .run = local_id},
    {.name = "version", .summary = "version of this program (needs no daemon)", .run = local_version},
    {.name = NULL},
};

const struct command *command_find(int argc, char *const argv[], int *words)
{
    char two[64] = "";
    if (argc >= 2)
        (void)snprintf(two, sizeof(two), "%s %s", argv[0], argv[1]);
    for (const struct command *command = cli_commands; argc > 0 && command->name != NULL; command++) {
        bool whole = strcmp(command->name, argv[0]) == 0;
        if (!whole && strcmp(command->name, two) != 0)
            continue;
        *words = whole ? 1 : 2;
        return command;
    }
    return NULL;
}

static void print_common_options(FILE *out)
{
    (void)fprintf(out,
                  "  -d, --dir DIR      data directory of the daemon (default: $DUNLIN_DIR, else ~/.dunlin)\n"
                  "  --json             one JSON object a line instead of text\n"
                  "  --timeout SECONDS  longest wait for an answer (default %d)\n"
                  "  -h, --help         help; also after a command\n",
                  CLI_TIMEOUT_S);
}

static bool in_group(const struct command *command, const char *group)
{
    size_t len = strlen(group);
    return strncmp(command->name, group, len) == 0 && command->name[len] == ' ';
}

bool command_is_group(const char *word)
{
    const struct command *command = cli_commands;
    while (command->name != NULL && !in_group(command, word))
        command++;
    return command->name != NULL;
}

void command_usage(FILE *out, const char *group)
{
    (void)fprintf(out, "usage: dunlin [-d DIR] COMMAND [ARGUMENTS] [OPTIONS]\n\n"
                       "Inspects and steers the Dunlin daemon (dunlind) of a data directory.\n\ncommands:\n");
    for (const struct command *command = cli_commands; command->name != NULL; command++) {
        if (group == NULL || in_group(command, group))
            (void)fprintf(out, "  %-19s %s\n", command->name, command->summary);
    }
    (void)fprintf(out, "\noptions of every command:\n");
    print_common_options(out);
    (void)fprintf(out, "\nIds may be cut to any unique beginning of at least 4 characters.\n"
                       "Exit codes: 0 fine, 1 failed, 2 wrong usage, 3 no daemon, 4 no answer in time.\n");
}

void command_help(const struct command *command, FILE *out)
{
    (void)fprintf(out, "usage: dunlin %s", command->name);
    for (const struct argument *argument = command->arguments; argument->param != NULL; argument++)
        (void)fprintf(out, argument->optional ? " [%s]%s" : " %s%s", argument->value_name,
                      argument->many ? "..." : "");
    (void)fprintf(out, " [OPTIONS]\n\n%c%s.\n", command->summary[0] & ~0x20, command->summary + 1);
    if (command->details != NULL)
        (void)fprintf(out, "%s\n", command->details);
    (void)fprintf(out, "\noptions:\n");
    for (const struct option *option = command->options; option != NULL && option->name != NULL; option++) {
        char left[40];
        (void)snprintf(left, sizeof(left), "%s %s", option->name,
                       option->value_name != NULL ? option->value_name : "");
        (void)fprintf(out, "  %-18s %s\n", left, option->help);
    }
    print_common_options(out);
}
