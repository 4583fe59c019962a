/* One experiment of the in-process swarm: options in, one line of JSON out.  tools/bench.d/converge runs many
 * of them. */
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gossip/codec.h"
#include "tools/converge/converge.h"
#include "train/pool.h"

static const char help[] =
    "usage: bench_converge --text PATH --held FILE [OPTIONS]\n"
    "Trains a swarm in one process and prints its row as one line of JSON.\n"
    "  --method sync|h1|diloco|noloco|pair|isolated        (noloco)\n"
    "  --codec fp32|bf16|int8|...                          (fp32)\n"
    "  --order random|hypercube  --fragments 1..8          (hypercube, 5)\n"
    "  --nodes N --steps N --h N --batch N --seed N        (8, 400, 10, 4, 1)\n"
    "  --rate R --warm-rate R --warm-steps N --warm FILE   (1.5e-3, 3e-3, 600, made and not kept)\n"
    "  --start warm|shared|different|scaled                (warm)\n"
    "  --correction plain|gated|always                     (plain)\n"
    "  --plain-cycles N          the last cycles without momentum (10)\n"
    "  --width N --layers N --heads N --context N          the model (128, 2, 4, 128)\n"
    "  --rows FILE --sizes N,N,...  --input-max X  --sgd   an MLP on CSV or IDX instead of text (input-max "
    "1)\n"
    "  --windows N --curve N     held-out windows (256); a point of the loss curve each N cycles\n"
    "  --threshold LOSS          reports the cycle in which the curve crosses it; up to four\n"
    "  --warm-only               makes the checkpoint and measures it\n"
    "  --fail P --one-sided P --straggler N --late STEPS   disturbances\n"
    "  --join SHARE --kill CYCLES --partition --non-iid --shards DIR\n"
    "  --attack flip|reverse|scale|noise|nan|stale|replay[:STRENGTH]   by one node in four\n"
    "  --gates on|off            off: partners' values are averaged as they come (on)\n"
    "  --loss-test               results are tried on a private batch before they are taken\n"
    "  --threads N               changes the time, not the result (1)\n"
    "  --quiet                   no progress on standard error\n";

enum option_code {
    OPTION_TEXT = 256,
    OPTION_HELD,
    OPTION_SHARDS,
    OPTION_WARM,
    OPTION_METHOD,
    OPTION_CODEC,
    OPTION_ORDER,
    OPTION_START,
    OPTION_CORRECTION,
    OPTION_ATTACK,
    OPTION_GATES,
    OPTION_LOSS_TEST,
    OPTION_NON_IID,
    OPTION_PARTITION,
    OPTION_QUIET,
    OPTION_WARM_ONLY,
    OPTION_ROWS,
    OPTION_SIZES,
    OPTION_SGD,
    OPTION_SEED,
    OPTION_THRESHOLD,
    OPTION_HELP,
    OPTION_COUNT,          /* OPTION_COUNT + i: counts[i] */
    OPTION_SHARE = 0x1000, /* OPTION_SHARE + i: reals[i] */
};

static _Noreturn void wrong(const char *what, const char *value)
{
    fprintf(stderr, "bench_converge: %s \"%s\" (--help lists what there is)\n", what, value);
    exit(2);
}

static double real_of(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    if (*text == '\0' || *end != '\0' || !isfinite(value))
        wrong("not a number:", text);
    return value;
}

static uint64_t count_of(const char *text)
{
    double value = real_of(text);
    if (value < 0 || value > 1e9 || value != floor(value))
        wrong("not a whole number from 0 to 1000000000:", text);
    return (uint64_t)value;
}

static int name_of(const char *text, int count, const char *(*names)(int))
{
    int found = converge_name_find(text, count, names);
    if (found < 0)
        wrong("unknown name", text);
    return found;
}

static void parse_attack(struct converge_config *c, const char *text)
{
    char name[32];
    const char *colon = strchr(text, ':');
    size_t len = colon == NULL ? strlen(text) : (size_t)(colon - text);
    if (len >= sizeof name)
        wrong("unknown name", text);
    memcpy(name, text, len);
    name[len] = '\0';
    c->attack = (enum converge_attack)name_of(name, CONVERGE_ATTACKS, converge_attack_name);
    if (colon != NULL)
        c->strength = (float)real_of(colon + 1);
}

/* "64,32,10": inputs, hidden layers, classes. */
static void parse_sizes(struct converge_config *c, const char *text)
{
    uint32_t sizes[TRAIN_MLP_SIZES_MAX];
    size_t count = 0;
    const char *at = text;
    for (;;) {
        char *end;
        unsigned long value = strtoul(at, &end, 10);
        if (end == at || value > TRAIN_MLP_WIDTH_MAX || count == TRAIN_MLP_SIZES_MAX ||
            (*end != ',' && *end != '\0'))
            wrong("--sizes is like 64,32,10, not", text);
        sizes[count++] = (uint32_t)value;
        if (*end == '\0')
            break;
        at = end + 1;
    }
    c->model = train_model_config_mlp(count, sizes);
}

/* The options whose value is a name, a path or nothing. */
static void parse_other(struct converge_config *c, int code, const char *value, size_t *thresholds)
{
    switch (code) {
    case OPTION_TEXT:
        c->text = value;
        return;
    case OPTION_HELD:
        c->held = value;
        return;
    case OPTION_SHARDS:
        c->shards = value;
        return;
    case OPTION_WARM:
        c->warm = value;
        return;
    case OPTION_METHOD:
        c->method = (enum converge_method)name_of(value, CONVERGE_METHODS, converge_method_name);
        return;
    case OPTION_CODEC:
        if (gossip_codec_parse(value, &c->codec) < 0)
            wrong("unknown codec", value);
        return;
    case OPTION_ORDER:
        c->order = (enum converge_order)name_of(value, CONVERGE_ORDERS, converge_order_name);
        return;
    case OPTION_START:
        c->start = (enum converge_start)name_of(value, CONVERGE_STARTS, converge_start_name);
        return;
    case OPTION_CORRECTION:
        c->correction =
            (enum converge_correction)name_of(value, CONVERGE_CORRECTIONS, converge_correction_name);
        return;
    case OPTION_ATTACK:
        parse_attack(c, value);
        return;
    case OPTION_GATES:
        if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
            wrong("--gates is on or off, not", value);
        c->gates = strcmp(value, "on") == 0;
        return;
    case OPTION_ROWS:
        c->rows = value;
        return;
    case OPTION_SIZES:
        parse_sizes(c, value);
        return;
    case OPTION_SEED:
        c->seed = count_of(value);
        return;
    case OPTION_THRESHOLD:
        if (*thresholds == CONVERGE_THRESHOLDS_MAX)
            wrong("one --threshold too many:", value);
        c->thresholds[(*thresholds)++] = real_of(value);
        return;
    default:
        c->loss_test = c->loss_test || code == OPTION_LOSS_TEST;
        c->disturb.shards = c->disturb.shards || code == OPTION_NON_IID;
        c->disturb.partition = c->disturb.partition || code == OPTION_PARTITION;
        c->warm_only = c->warm_only || code == OPTION_WARM_ONLY;
        c->sgd = c->sgd || code == OPTION_SGD;
        c->quiet = c->quiet || code == OPTION_QUIET;
        return;
    }
}

static const struct option options[] = {
    {"text", 1, NULL, OPTION_TEXT},
    {"held", 1, NULL, OPTION_HELD},
    {"shards", 1, NULL, OPTION_SHARDS},
    {"warm", 1, NULL, OPTION_WARM},
    {"method", 1, NULL, OPTION_METHOD},
    {"codec", 1, NULL, OPTION_CODEC},
    {"order", 1, NULL, OPTION_ORDER},
    {"start", 1, NULL, OPTION_START},
    {"correction", 1, NULL, OPTION_CORRECTION},
    {"attack", 1, NULL, OPTION_ATTACK},
    {"gates", 1, NULL, OPTION_GATES},
    {"loss-test", 0, NULL, OPTION_LOSS_TEST},
    {"non-iid", 0, NULL, OPTION_NON_IID},
    {"partition", 0, NULL, OPTION_PARTITION},
    {"rows", 1, NULL, OPTION_ROWS},
    {"sizes", 1, NULL, OPTION_SIZES},
    {"sgd", 0, NULL, OPTION_SGD},
    {"warm-only", 0, NULL, OPTION_WARM_ONLY},
    {"quiet", 0, NULL, OPTION_QUIET},
    {"seed", 1, NULL, OPTION_SEED},
    {"threshold", 1, NULL, OPTION_THRESHOLD},
    {"help", 0, NULL, OPTION_HELP},
    {"nodes", 1, NULL, OPTION_COUNT + 0},
    {"threads", 1, NULL, OPTION_COUNT + 1},
    {"fragments", 1, NULL, OPTION_COUNT + 2},
    {"steps", 1, NULL, OPTION_COUNT + 3},
    {"warm-steps", 1, NULL, OPTION_COUNT + 4},
    {"h", 1, NULL, OPTION_COUNT + 5},
    {"batch", 1, NULL, OPTION_COUNT + 6},
    {"plain-cycles", 1, NULL, OPTION_COUNT + 7},
    {"windows", 1, NULL, OPTION_COUNT + 8},
    {"curve", 1, NULL, OPTION_COUNT + 9},
    {"straggler", 1, NULL, OPTION_COUNT + 10},
    {"kill", 1, NULL, OPTION_COUNT + 11},
    {"late", 1, NULL, OPTION_COUNT + 12},
    {"width", 1, NULL, OPTION_COUNT + 13},
    {"layers", 1, NULL, OPTION_COUNT + 14},
    {"heads", 1, NULL, OPTION_COUNT + 15},
    {"context", 1, NULL, OPTION_COUNT + 16},
    {"rate", 1, NULL, OPTION_SHARE + 0},
    {"warm-rate", 1, NULL, OPTION_SHARE + 1},
    {"fail", 1, NULL, OPTION_SHARE + 2},
    {"one-sided", 1, NULL, OPTION_SHARE + 3},
    {"join", 1, NULL, OPTION_SHARE + 4},
    {"input-max", 1, NULL, OPTION_SHARE + 5},
    {NULL, 0, NULL, 0},
};

static void parse(struct converge_config *c, int argc, char **argv)
{
    uint32_t *counts[] = {&c->nodes,        &c->threads,           &c->fragments,
                          &c->steps,        &c->warm_steps,        &c->h,
                          &c->batch,        &c->plain_cycles,      &c->windows,
                          &c->curve,        &c->disturb.straggler, &c->disturb.kill,
                          &c->disturb.late, &c->model.width,       &c->model.layers,
                          &c->model.heads,  &c->model.context};
    double rate = c->rate, warm_rate = c->warm_rate, input_max = 1;
    double *reals[] = {&rate,     &warm_rate, &c->disturb.fail, &c->disturb.one_sided, &c->disturb.join,
                       &input_max};
    size_t thresholds = 0;
    for (int code = getopt_long(argc, argv, "", options, NULL); code != -1;
         code = getopt_long(argc, argv, "", options, NULL)) {
        if (code == OPTION_HELP) {
            fputs(help, stdout);
            exit(0);
        }
        if (code == '?') {
            fputs(help, stderr);
            exit(2);
        }
        if (code >= OPTION_SHARE)
            *reals[code - OPTION_SHARE] = real_of(optarg);
        else if (code >= OPTION_COUNT)
            *counts[code - OPTION_COUNT] = (uint32_t)count_of(optarg);
        else
            parse_other(c, code, optarg, &thresholds);
    }
    if (optind != argc)
        wrong("what is", argv[optind]);
    if (c->method == CONVERGE_H1)
        c->h = c->fragments = 1; /* what the name says */
    if (c->model.kind == TRAIN_MLP)
        c->model.input_max = (float)input_max;
    c->rate = (float)rate;
    c->warm_rate = (float)warm_rate;
}

int main(int argc, char **argv)
{
    char why[CONVERGE_WHY_SIZE];
    struct converge_config config = converge_config_default();
    struct converge_result result;
    parse(&config, argc, argv);
    train_flush_tiny(); /* as in a node; weights that hostile nodes ruin end there */
    if (converge_config_check(&config, why) < 0) {
        fprintf(stderr, "bench_converge: %s\n", why);
        return 2;
    }
    if (converge_run(&config, &result, why) < 0) {
        fprintf(stderr, "bench_converge: %s\n", why);
        return 1;
    }
    converge_print(stdout, &config, &result);
    return 0;
}
