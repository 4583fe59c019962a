/* A swarm in one process, to measure what its averaging costs and saves: the real trainer, the real merge
 * code and codecs, the real pairing, with the network replaced by function calls.  Every method starts from
 * one checkpoint, sees the same text and the same number of tokens, and the result is a function of the
 * config alone: the same numbers for any number of threads.
 *
 *   converge_config_default -> set fields -> converge_config_check -> converge_run -> converge_print
 *
 * What it is not: it measures no time on wires (tools/bench sync does), and has no deadlines, which are the
 * exchange's own (tests/sim).  Disturbances are drawn, not caused: an exchange fails because the config says
 * with which probability.
 *
 * Methods
 *   sync      gradients of all nodes averaged at every step, one AdamW on the mean: the N-fold batch
 *   h1        local AdamW steps, exact mean of all weights after every step
 *   diloco    h local steps, then the outer step of heavy ball 0.3 / 0.7 on the exact mean of all
 *   noloco    h local steps, then the outer step of the run's config (0.5 / 0.7) on the mean of a pair
 *   pair      the same with the plain outer step: both partners take their mean
 *   isolated  nobody talks
 *
 * The model is the built-in transformer on text, or an MLP on rows with a class (perplexity is then of the
 * class), without a warm start.
 *
 * A cycle is h local steps; it has one round for each fragment of the model, evenly spread. */
#ifndef DUNLIN_TOOLS_CONVERGE_H
#define DUNLIN_TOOLS_CONVERGE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "gossip/tensor.h"
#include "train/adamw.h"
#include "train/model.h"

enum {
    CONVERGE_NODES_MAX = 64,
    CONVERGE_THREADS_MAX = 64,
    CONVERGE_FRAGMENTS_MAX = 8,
    CONVERGE_STEPS_MAX = 1000000,
    CONVERGE_CURVE_MAX = 512, /* points of the loss curve */
    CONVERGE_THRESHOLDS_MAX = 4,
    CONVERGE_WHY_SIZE = 512,
};

enum converge_method {
    CONVERGE_SYNC,
    CONVERGE_H1,
    CONVERGE_DILOCO,
    CONVERGE_NOLOCO,
    CONVERGE_PAIR,
    CONVERGE_ISOLATED,
    CONVERGE_METHODS
};

/* hypercube: gossip/pairing.h, which walks a hypercube where the number of live nodes is a power of two, and
 * a tournament else.  random: a new draw each round, without memory. */
enum converge_order { CONVERGE_RANDOM, CONVERGE_HYPERCUBE, CONVERGE_ORDERS };

/* warm: all nodes start from the synchronous checkpoint.  shared: from one seed's fresh weights.
 * different: every node from its own fresh weights.  scaled: shared, with matrices multiplied by
 * 1 / sqrt(nodes), which is what averaging independent weights leaves of their size. */
enum converge_start { CONVERGE_WARM, CONVERGE_SHARED, CONVERGE_DIFFERENT, CONVERGE_SCALED, CONVERGE_STARTS };

enum converge_correction { CONVERGE_PLAIN, CONVERGE_GATED, CONVERGE_ALWAYS, CONVERGE_CORRECTIONS };

/* What one node in four sends instead of its snapshot theta; strength s.
 *   flip     -s * theta                     reverse  phi - s * (theta - phi)
 *   scale    s * theta                      noise    theta + s * rms(theta) * N(0, 1)
 *   nan      bytes of all ones              stale    its weights at the run's start, as of this round
 *   replay   the first bytes that a partner sent it, again and again */
enum converge_attack {
    CONVERGE_HONEST,
    CONVERGE_FLIP,
    CONVERGE_REVERSE,
    CONVERGE_SCALE,
    CONVERGE_NOISE,
    CONVERGE_NAN,
    CONVERGE_STALE,
    CONVERGE_REPLAY,
    CONVERGE_ATTACKS
};

struct converge_disturbance {
    double fail;        /* probability that an exchange fails for both: solo steps */
    double one_sided;   /* probability that only one side commits */
    uint32_t straggler; /* node 0 makes one step where others make so many; 1: none */
    double join;        /* the last node comes in when this share of the steps is done; 0: none */
    bool partition;     /* two halves do not see each other in the middle third */
    bool shards;        /* every node trains on its own shard */
    uint32_t kill;      /* each so many cycles 30 % of the nodes lose all and come back two cycles later */
    uint32_t late;      /* results are applied so many local steps after the snapshot; below h */
};

struct converge_config {
    enum converge_method method;
    enum gossip_codec codec;
    enum converge_order order;
    enum converge_start start;
    enum converge_correction correction;
    enum converge_attack attack;
    float strength; /* of the attack */
    bool loss_test; /* results are tried on a private batch before they are taken */
    bool gates;     /* off: partners' values are averaged as they come */
    uint32_t nodes, threads, fragments;
    uint32_t steps, warm_steps; /* local steps of the method; synchronous ones before */
    uint32_t h;                 /* local steps of a cycle */
    uint32_t batch;             /* sequences of one node and step */
    uint32_t plain_cycles;      /* noloco: the last so many cycles average plainly */
    float rate, warm_rate;      /* peak learning rates; one cosine runs over warm and method steps */
    uint32_t windows;           /* held-out windows of the final figures */
    uint32_t curve;             /* cycles between two points of the loss curve; 0: none */
    double
        thresholds[CONVERGE_THRESHOLDS_MAX]; /* nats per byte whose crossing the curve reports; 0: unused */
    struct train_model_config model;
    struct converge_disturbance disturb;
    uint64_t seed;
    const char *rows;   /* CSV or IDX of rows with a class, for an MLP; NULL: text, for the transformer */
    bool sgd;           /* plain SGD with momentum 0 in place of AdamW; for rows */
    const char *text;   /* training text: file or folder */
    const char *held;   /* file never trained on */
    const char *shards; /* folder with 0.txt, 1.txt ... for disturb.shards */
    const char *warm;   /* checkpoint of the warm start: read, or made and written; NULL: made, not kept */
    bool warm_only;     /* makes and measures the checkpoint, no more; for sync */
    bool quiet;         /* no progress on standard error */
};

struct converge_point {
    uint32_t cycle;
    double loss; /* mean over honest live nodes on the curve's windows, nats per byte */
};

struct converge_result {
    double ppl_mean, ppl_worst; /* over honest live nodes; perplexity per byte.  In pairs: of slow weights */
    double ppl_training;        /* mean with the weights in training: the steps since the last exchange too */
    double ppl_merged;          /* of their exact mean weights */
    double ppl_finish;          /* of a node after the final merge by pairs; 0: method has none */
    double accuracy;            /* mean over nodes, of rows; 0 for text */
    double spread;              /* rms distance from the mean weights over the norm of the mean */
    double spread_finish;       /* the same after the final merge */
    uint32_t finish_rounds;
    uint64_t rounds;
    double bytes_per_node_round; /* sent by a node, resends counted, state fetches not */
    double bytes_per_node;
    double bytes_per_value; /* of one exchange, each direction; 0: no exchange */
    uint64_t merges, solos, refused, clipped, corrected;
    uint64_t failed_trials;  /* of those refused: for the loss of a private batch */
    uint64_t blocks, resent; /* blocks sent by a modular codec, and those asked for again */
    uint64_t tokens;
    uint64_t parameters;
    double warm_ppl; /* of the checkpoint; 0: start was not warm */
    struct converge_point curve[CONVERGE_CURVE_MAX];
    size_t curve_count;
    double crossing[CONVERGE_THRESHOLDS_MAX]; /* cycle of the crossing, interpolated; -1: never */
    double seconds;                           /* of wall time, warm start included when it was made */
};

/* Eight nodes of the built-in model, noloco, fp32, h 10, five fragments, hypercube, 600 + 400 steps. */
struct converge_config converge_config_default(void);
/* ERR_INVALID: `why` names the setting and what is allowed. */
MUST_USE int converge_config_check(const struct converge_config *config, char why[CONVERGE_WHY_SIZE]);

/* Names as in the enums above, lower case; static storage. */
const char *converge_method_name(int method);
const char *converge_order_name(int order);
const char *converge_start_name(int start);
const char *converge_correction_name(int correction);
const char *converge_attack_name(int attack);
/* The index of name among count names that `name_of` gives.  ERR_NOT_FOUND: none of them. */
MUST_USE int converge_name_find(const char *name, int count, const char *(*name_of)(int));

/* Runs one experiment.  Errors say why: text that cannot be read, a checkpoint of other settings, memory,
 * or a swarm of which no honest node is finite (never: such a swarm is a result, with perplexities of
 * infinity).  Takes nodes * (trainer_bytes + 5 arenas + text) of memory. */
MUST_USE int converge_run(const struct converge_config *config, struct converge_result *result,
                          char why[CONVERGE_WHY_SIZE]);
/* One line of JSON: settings and figures.  Infinite figures are null. */
void converge_print(FILE *to, const struct converge_config *config, const struct converge_result *result);

#endif
