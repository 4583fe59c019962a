/* Settings: defaults, names, limits. */
#include <math.h>
#include <string.h>

#include "tools/converge/converge.h"

struct converge_config converge_config_default(void)
{
    return (struct converge_config){
        .method = CONVERGE_NOLOCO,
        .codec = GOSSIP_CODEC_FP32,
        .order = CONVERGE_HYPERCUBE,
        .strength = 1,
        .gates = true,
        .nodes = 8,
        .threads = 1,
        .fragments = 5,
        .steps = 400,
        .warm_steps = 600,
        .h = 10,
        .batch = 4,
        .plain_cycles = 10,
        .rate = 1.5e-3F,
        .warm_rate = 3e-3F,
        .windows = 256,
        .model = train_model_config_default(),
        .disturb = {.straggler = 1},
        .seed = 1,
    };
}

static const char *const method_names[CONVERGE_METHODS] = {"sync",   "h1",   "diloco",
                                                           "noloco", "pair", "isolated"};
static const char *const order_names[CONVERGE_ORDERS] = {"random", "hypercube"};
static const char *const start_names[CONVERGE_STARTS] = {"warm", "shared", "different", "scaled"};
static const char *const correction_names[CONVERGE_CORRECTIONS] = {"plain", "gated", "always"};
static const char *const attack_names[CONVERGE_ATTACKS] = {"none",  "flip", "reverse", "scale",
                                                           "noise", "nan",  "stale",   "replay"};

const char *converge_method_name(int method)
{
    return method_names[method];
}

const char *converge_order_name(int order)
{
    return order_names[order];
}

const char *converge_start_name(int start)
{
    return start_names[start];
}

const char *converge_correction_name(int correction)
{
    return correction_names[correction];
}

const char *converge_attack_name(int attack)
{
    return attack_names[attack];
}

int converge_name_find(const char *name, int count, const char *(*name_of)(int))
{
    for (int i = 0; i < count; i++)
        if (strcmp(name, name_of(i)) == 0)
            return i;
    return ERR_NOT_FOUND;
}

static int refuse(char why[CONVERGE_WHY_SIZE], const char *text)
{
    (void)snprintf(why, CONVERGE_WHY_SIZE, "%s", text);
    return ERR_INVALID;
}

static bool is_share(double value)
{
    return value >= 0 && value <= 1;
}

static int check_disturbance(const struct converge_config *c, char why[CONVERGE_WHY_SIZE])
{
    const struct converge_disturbance *d = &c->disturb;
    if (!is_share(d->fail) || !is_share(d->one_sided) || !(d->join >= 0 && d->join < 1))
        return refuse(why, "--fail, --one-sided and --join are shares from 0 to 1");
    if (d->straggler < 1 || d->straggler > 1000)
        return refuse(why, "--straggler is how many times slower one node is: 1 to 1000");
    if (d->late >= c->h)
        return refuse(why, "--late must be below --h: a result comes before its fragment's next round");
    if (d->shards && c->shards == NULL)
        return refuse(why, "--non-iid needs --shards DIR with a file 0.txt, 1.txt ... for each node");
    bool whole = c->method <= CONVERGE_DILOCO;
    if (whole && (d->fail > 0 || d->one_sided > 0 || d->late > 0 || d->join > 0 || d->partition ||
                  d->straggler > 1 || d->kill > 0 || c->attack != CONVERGE_HONEST))
        return refuse(why, "sync, h1 and diloco average over all nodes exactly: they have no disturbances");
    return 0;
}

static int check_method(const struct converge_config *c, char why[CONVERGE_WHY_SIZE])
{
    bool pairs = c->method == CONVERGE_NOLOCO || c->method == CONVERGE_PAIR;
    if (c->fragments < 1 || c->fragments > CONVERGE_FRAGMENTS_MAX || c->h % c->fragments != 0)
        return refuse(why, "--fragments is 1 to 8 and divides --h: rounds fall on step boundaries");
    if (c->method == CONVERGE_H1 && (c->h != 1 || c->fragments != 1))
        return refuse(why, "h1 is --h 1 --fragments 1: all weights after every step");
    if (c->warm_only && (c->method != CONVERGE_SYNC || c->start != CONVERGE_WARM))
        return refuse(why, "--warm-only is for --method sync --start warm");
    if (!pairs && c->codec != GOSSIP_CODEC_FP32)
        return refuse(why, "--codec is for noloco and pair: the others average exactly");
    if (!c->gates && (c->codec != GOSSIP_CODEC_FP32 || c->method != CONVERGE_PAIR))
        return refuse(why, "--gates off is plain averaging of whatever comes: --method pair, --codec fp32");
    if (c->loss_test && (!pairs || !c->gates || c->correction == CONVERGE_ALWAYS))
        return refuse(why, "--loss-test is one of a node's gates: noloco or pair, --gates on");
    if (c->correction == CONVERGE_ALWAYS && c->codec != GOSSIP_CODEC_FP32)
        return refuse(why, "--correction always is not part of a node: --codec fp32 only");
    if (c->correction != CONVERGE_PLAIN && !pairs)
        return refuse(why, "--correction is for noloco and pair");
    return 0;
}

int converge_config_check(const struct converge_config *c, char why[CONVERGE_WHY_SIZE])
{
    int result = train_model_config_check(&c->model, why, CONVERGE_WHY_SIZE);
    if (result < 0)
        return result;
    if (c->nodes < 1 || c->nodes > CONVERGE_NODES_MAX || c->threads < 1 || c->threads > CONVERGE_THREADS_MAX)
        return refuse(why, "--nodes and --threads are 1 to 64");
    if (c->steps < 1 || c->steps > CONVERGE_STEPS_MAX || c->warm_steps > CONVERGE_STEPS_MAX)
        return refuse(why, "--steps is 1 to 1000000, --warm-steps at most as many");
    if (c->h < 1 || c->h > c->steps)
        return refuse(why, "--h is 1 to --steps");
    if (c->batch < 1 || c->batch > 256 || c->windows < 1 || c->windows > 65536)
        return refuse(why, "--batch is 1 to 256, --windows 1 to 65536");
    if (!(c->rate > 0 && c->rate < 1) || !(c->warm_rate > 0 && c->warm_rate < 1))
        return refuse(why, "learning rates are above 0 and below 1");
    bool mlp = c->model.kind == TRAIN_MLP;
    if (mlp != (c->rows != NULL))
        return refuse(why, "--rows FILE and --sizes N,N,... belong together");
    if (mlp && (c->start == CONVERGE_WARM || c->method == CONVERGE_SYNC || c->disturb.shards))
        return refuse(why, "rows have no warm start, no sync and no shards: --start shared or different");
    if (c->sgd && !mlp)
        return refuse(why, "--sgd is for rows");
    if (!mlp && (c->text == NULL || c->held == NULL))
        return refuse(why, "--text PATH (to train on) and --held FILE (to measure on) are needed");
    if (c->start == CONVERGE_WARM && c->warm_steps == 0)
        return refuse(why, "--start warm needs --warm-steps; from fresh weights: --start shared");
    if (!(fabsf(c->strength) <= 1e6F))
        return refuse(why, "an attack's strength is at most 1000000");
    result = check_method(c, why);
    return result < 0 ? result : check_disturbance(c, why);
}
