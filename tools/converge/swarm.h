/* The nodes of one experiment and what they share.  Private to tools/converge and its tests. */
#ifndef DUNLIN_TOOLS_CONVERGE_SWARM_H
#define DUNLIN_TOOLS_CONVERGE_SWARM_H

#include "gossip/members.h"
#include "tools/converge/converge.h"
#include "tools/converge/exchange.h"
#include "train/pass.h"
#include "train/pool.h"
#include "train/trainer.h"

struct swarm_node {
    struct id id;
    struct train_data *data;           /* of text */
    struct train_samples *samples;     /* of rows */
    struct trainer trainer;            /* ops NULL for sync, which has one set of weights */
    float *theta, *phi, *delta, *diff; /* [arena_floats] */
    float *shown, *scratch;            /* [arena_floats]; what an attacker sends; the exchange's */
    float *trial;                      /* loss test only: [3 * arena_floats]; the exchange's */
    float *first;                      /* attack stale only: weights at the start */
    struct exchange_buffers buffers;
    uint8_t *kept[CONVERGE_FRAGMENTS_MAX]; /* attack replay only: the first bytes that came */
    size_t kept_len[CONVERGE_FRAGMENTS_MAX];
    enum gossip_codec kept_codec[CONVERGE_FRAGMENTS_MAX];
    struct exchange_memory memory;
    bool live, hostile, broken;           /* broken: weights are not finite */
    uint32_t back_cycle;                  /* of a killed node; 0: not killed */
    uint32_t due[CONVERGE_FRAGMENTS_MAX]; /* step at which diff is applied; 0: none */
    uint64_t bytes, values, blocks, resent, merges, solos, refused, failed_trials, clipped, corrected, tokens;
    double loss, accuracy; /* of the last evaluation */
};

struct swarm {
    const struct converge_config *config;
    struct allocator heap;
    struct train_layout layout;
    struct exchange_model model;
    struct id run;
    struct swarm_node nodes[CONVERGE_NODES_MAX];
    struct train_pool *pool;
    struct train_pass *passes[CONVERGE_THREADS_MAX]; /* for evaluation */
    uint8_t *held;
    size_t held_len;
    float *mean;   /* [arena_floats] */
    uint32_t step; /* local steps done by the method */
    uint64_t round;
    bool parted_before; /* two halves were apart in the last round */
    /* Of the stretch of steps or the round at work, for the jobs. */
    uint32_t until; /* step that the stretch ends at */
    struct exchange_rule rule;
    size_t partner[CONVERGE_NODES_MAX];
};

/* Memory, data and trainers of every node, with weights as config->start says except for warm, which
 * warm_start loads.  On failure `why` says what; swarm_close in any case. */
MUST_USE int swarm_open(struct swarm *swarm, const struct converge_config *config,
                        char why[CONVERGE_WHY_SIZE]);
void swarm_close(struct swarm *swarm);

/* Calls job once for each index below count, shared out over the pool's threads. */
void swarm_each(struct swarm *swarm, size_t count, void (*job)(struct swarm *, size_t member, size_t index));
/* True when the node's figures count: honest and there. */
bool swarm_counts(const struct swarm_node *node);
/* The present weights of a node. */
float *swarm_params(const struct swarm_node *node);
/* swarm->mean <- exact mean of the counted nodes' weights, summed in double in the order of nodes. */
void swarm_mean(struct swarm *swarm);
/* Uniform in [0, 1) from (seed, what, a, b): the only randomness of disturbances. */
double swarm_chance(const struct swarm *swarm, const char *what, uint64_t a, uint64_t b);
/* Seed of the fresh weights of node `index`, or of all with index SIZE_MAX. */
void swarm_weights_seed(const struct converge_config *config, size_t index, uint8_t seed[32]);
/* Learning rate at a local step of the method. */
float swarm_rate(const struct converge_config *config, float peak, uint32_t step_of_all);

/* rounds.c: all local steps and rounds of every method but sync. */
void rounds_run(struct swarm *swarm, struct converge_result *result);
/* rounds.c: the final merge: plain averages of whole models in pairs until the spread is below 1e-3 of what
 * it was, at most 64 rounds; changes the weights. */
void rounds_finish(struct swarm *swarm, struct converge_result *result);

/* sync.c: gradients of all nodes averaged at every step; continues from params and moments (borrowed until
 * return, updated).  first_step counts from the start of the warm start. */
struct sync_state {
    float *params, *first, *second; /* [arena_floats] */
    uint64_t updates;
};
MUST_USE int sync_run(struct swarm *swarm, struct sync_state *state, float peak, uint32_t first_step,
                      uint32_t steps);

/* warm.c: loads or makes the checkpoint and hands it to every node, or with `state` set to that. */
MUST_USE int warm_start(struct swarm *swarm, struct sync_state *state, char why[CONVERGE_WHY_SIZE]);

/* pairs.c: partner[i] for every node in this round; i itself when alone.  Fragments: rounds of a cycle, so
 * that the hypercube's bit walks for each fragment. */
void pairs_choose(const struct swarm *swarm, uint64_t round, size_t fragments,
                  size_t partner[CONVERGE_NODES_MAX]);

/* faults.c: who comes, goes and sees whom before this round. */
void faults_before_round(struct swarm *swarm, uint64_t round);
/* True when a and b cannot reach each other now. */
bool faults_parted(const struct swarm *swarm, size_t a, size_t b);

/* attack.c: fills side->shown, garbage and old for a hostile node; an honest one shows its snapshot. */
void attack_prepare(struct swarm *swarm, size_t index, size_t fragment, struct exchange_side *side);
/* Keeps the first bytes that came, for replay. */
void attack_learn(struct swarm *swarm, size_t index, size_t fragment, const struct exchange_side *other);

/* measure.c: mean loss of weights on `windows` held-out windows evenly spread, or on the validation rows;
 * infinite when not finite.  `index` is a node that no other member is working on. */
double measure_loss(struct swarm *swarm, size_t member, size_t index, const float params[], uint32_t windows);
/* Fills perplexities and spread. */
void measure_final(struct swarm *swarm, struct converge_result *result);
/* Mean loss over counted nodes, for the curve. */
double measure_curve(struct swarm *swarm);
/* rms distance of the counted nodes from their mean, over the norm of the mean; leaves it in swarm->mean. */
double measure_spread(struct swarm *swarm);

#endif
