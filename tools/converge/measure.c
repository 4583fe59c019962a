/* How good the weights are, and how far apart. */
#include <math.h>

#include "tools/converge/swarm.h"

enum { BATCH = 8, CURVE_WINDOWS = 64 };

static double rows_loss(struct swarm_node *node, const float params[])
{
    struct trainer_score score;
    node->accuracy = 0;
    if (trainer_score(&node->trainer, params, &score) < 0)
        return INFINITY;
    node->accuracy = score.accuracy;
    return score.loss;
}

double measure_loss(struct swarm *swarm, size_t member, size_t index, const float params[], uint32_t windows)
{
    if (swarm->config->rows != NULL)
        return rows_loss(&swarm->nodes[index], params);
    const uint8_t *batch[BATCH];
    size_t context = swarm->layout.model.context;
    size_t room = swarm->held_len - context - 1;
    double sum = 0;
    for (uint32_t at = 0; at < windows; at += BATCH) {
        uint32_t count = windows - at < BATCH ? windows - at : BATCH;
        for (uint32_t i = 0; i < count; i++)
            batch[i] = swarm->held + room * (at + i) / windows;
        sum += train_pass_forward(swarm->passes[member], params, count, batch);
    }
    double loss = sum / ((double)windows * (double)context);
    return isfinite(loss) ? loss : INFINITY;
}

static void full_job(struct swarm *swarm, size_t member, size_t index)
{
    struct swarm_node *node = &swarm->nodes[index];
    if (swarm_counts(node))
        node->loss = measure_loss(swarm, member, index, swarm_params(node), swarm->config->windows);
}

static void slow_job(struct swarm *swarm, size_t member, size_t index)
{
    struct swarm_node *node = &swarm->nodes[index];
    if (swarm_counts(node))
        node->loss = measure_loss(swarm, member, index, node->phi, swarm->config->windows);
}

static void curve_job(struct swarm *swarm, size_t member, size_t index)
{
    struct swarm_node *node = &swarm->nodes[index];
    if (swarm_counts(node))
        node->loss = measure_loss(swarm, member, index, swarm_params(node), CURVE_WINDOWS);
}

double measure_curve(struct swarm *swarm)
{
    double sum = 0;
    size_t count = 0;
    swarm_each(swarm, swarm->config->nodes, curve_job);
    for (size_t i = 0; i < swarm->config->nodes; i++)
        if (swarm_counts(&swarm->nodes[i])) {
            sum += swarm->nodes[i].loss;
            count++;
        }
    return sum / (double)count;
}

double measure_spread(struct swarm *swarm)
{
    size_t floats = swarm->layout.arena_floats, count = 0;
    double square = 0, norm = 0;
    swarm_mean(swarm);
    for (size_t at = 0; at < floats; at++)
        norm += (double)swarm->mean[at] * (double)swarm->mean[at];
    for (size_t i = 0; i < swarm->config->nodes; i++) {
        if (!swarm_counts(&swarm->nodes[i]))
            continue;
        const float *params = swarm_params(&swarm->nodes[i]);
        for (size_t at = 0; at < floats; at++) {
            double gap = (double)params[at] - (double)swarm->mean[at];
            square += gap * gap;
        }
        count++;
    }
    double spread = sqrt(square / (double)count / norm);
    return isfinite(spread) ? spread : INFINITY;
}

/* Over honest live nodes, with each node's own weights: slow ones, or those in training. */
static void measure_replicas(struct swarm *swarm, bool slow, struct converge_result *result)
{
    size_t count = 0;
    result->ppl_mean = result->ppl_worst = result->accuracy = 0;
    swarm_each(swarm, swarm->config->nodes, slow ? slow_job : full_job);
    for (size_t i = 0; i < swarm->config->nodes; i++) {
        if (!swarm_counts(&swarm->nodes[i]))
            continue;
        double ppl = exp(swarm->nodes[i].loss);
        result->ppl_mean += ppl;
        result->accuracy += swarm->nodes[i].accuracy;
        result->ppl_worst = ppl > result->ppl_worst ? ppl : result->ppl_worst;
        count++;
    }
    result->ppl_mean /= (double)count;
    result->accuracy /= (double)count;
}

void measure_final(struct swarm *swarm, struct converge_result *result)
{
    bool paired = swarm->config->method == CONVERGE_NOLOCO || swarm->config->method == CONVERGE_PAIR;
    measure_replicas(swarm, false, result);
    result->ppl_training = result->ppl_mean;
    if (paired)
        measure_replicas(swarm, true, result);
    result->spread = measure_spread(swarm);
    result->ppl_merged = exp(measure_loss(swarm, 0, 0, swarm->mean, swarm->config->windows));
}
