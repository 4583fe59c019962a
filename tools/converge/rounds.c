/* Local steps and rounds of every method but sync. */
#include <math.h>
#include <string.h>

#include "gossip/merge/stats.h"
#include "tools/converge/swarm.h"

enum { FINISH_ROUNDS_MAX = 64 };

static const double finish_share = 1e-3;

static bool is_whole(const struct converge_config *c)
{
    return c->method == CONVERGE_H1 || c->method == CONVERGE_DILOCO;
}

/* Local steps between two rounds; 0: no rounds. */
static uint32_t interval_of(const struct converge_config *c)
{
    if (c->method == CONVERGE_ISOLATED)
        return 0;
    return c->method == CONVERGE_H1 ? 1 : c->h / c->fragments;
}

static bool is_ending(const struct converge_config *c, uint64_t round)
{
    return c->steps / c->h < round / c->fragments + c->plain_cycles;
}

/* Momentum needs some rounds to pay: as node/ does, the run's last cycles average plainly. */
static struct gossip_outer outer_of(const struct converge_config *c, uint64_t round)
{
    if (c->method == CONVERGE_DILOCO)
        return (struct gossip_outer){.alpha = 0.3F, .beta = 0.7F, .gamma = 0.7F};
    if (c->method != CONVERGE_NOLOCO || is_ending(c, round))
        return gossip_outer_plain();
    return gossip_outer_default();
}

/* Adds a round's result to the weights, which went on meanwhile. */
static void apply(struct swarm *swarm, struct swarm_node *node, size_t fragment)
{
    const struct gossip_fragment *range = &swarm->model.fragments[fragment];
    float *params = swarm_params(node);
    for (size_t i = range->offset; i < range->offset + range->count; i++)
        params[i] += node->diff[i];
    node->due[fragment] = 0;
}

static void steps_job(struct swarm *swarm, size_t member, size_t index)
{
    const struct converge_config *c = swarm->config;
    struct swarm_node *node = &swarm->nodes[index];
    uint32_t warm = c->start == CONVERGE_WARM ? c->warm_steps : 0;
    (void)member;
    for (uint32_t step = swarm->step; node->live && step < swarm->until; step++) {
        struct trainer_report report;
        bool slow = index == 0 && (step + 1) % c->disturb.straggler != 0;
        /* A step that is not finite changes nothing: the node's measured loss will tell. */
        if (!slow && trainer_step(&node->trainer, swarm_rate(c, c->rate, warm + step), &report) == 0)
            node->tokens += report.tokens;
        for (size_t f = 0; f < swarm->model.fragment_count; f++)
            if (node->due[f] == step + 1)
                apply(swarm, node, f);
    }
}

static void snapshot_job(struct swarm *swarm, size_t member, size_t index)
{
    const struct gossip_fragment *range = &swarm->model.fragments[swarm->rule.fragment];
    struct swarm_node *node = &swarm->nodes[index];
    (void)member;
    if (!node->live)
        return;
    const float *params = swarm_params(node) + range->offset;
    memcpy(node->theta + range->offset, params, range->count * sizeof(float));
    node->broken = swarm->config->gates && !gossip_all_finite(range->count, params);
}

static struct exchange_side side_of(struct swarm *swarm, size_t index)
{
    struct swarm_node *node = &swarm->nodes[index];
    struct exchange_side side = {.id = &node->id,
                                 .memory = &node->memory,
                                 .buffers = node->buffers,
                                 .theta = node->theta,
                                 .phi = node->phi,
                                 .delta = node->delta,
                                 .diff = node->diff,
                                 .scratch = node->scratch,
                                 .commits = true};
    if (node->trial != NULL) {
        side.trainer = &node->trainer;
        side.trial = node->trial;
    }
    attack_prepare(swarm, index, swarm->rule.fragment, &side);
    return side;
}

static void count_side(struct swarm *swarm, size_t index, const struct exchange_side *side)
{
    struct swarm_node *node = &swarm->nodes[index];
    node->bytes += side->sent;
    node->values += side->sent > 0 ? swarm->model.fragments[swarm->rule.fragment].count : 0;
    node->blocks += side->blocks;
    node->resent += side->resent;
    node->merges += side->merged;
    node->solos += !side->merged;
    node->refused += side->refused;
    node->failed_trials += side->failed_trial;
    node->clipped += side->clipped;
    node->corrected += side->corrected;
}

static void solo(struct swarm *swarm, size_t index)
{
    struct exchange_side side = side_of(swarm, index);
    if (exchange_solo(&swarm->rule, &side) < 0)
        swarm->nodes[index].broken = true;
    count_side(swarm, index, &side);
}

static void meet(struct swarm *swarm, size_t a, size_t b)
{
    const struct converge_disturbance *d = &swarm->config->disturb;
    const struct exchange_rule *rule = &swarm->rule;
    struct exchange_side left = side_of(swarm, a), right = side_of(swarm, b);
    if (swarm_chance(swarm, "dunlin converge one-sided", rule->round, a) < d->one_sided) {
        bool first = swarm_chance(swarm, "dunlin converge which side", rule->round, a) < 0.5;
        left.commits = first;
        right.commits = !first;
    }
    if (exchange_run(rule, &left, &right) < 0) {
        swarm->nodes[a].broken = swarm->nodes[b].broken = true;
        return;
    }
    attack_learn(swarm, a, rule->fragment, &right);
    attack_learn(swarm, b, rule->fragment, &left);
    count_side(swarm, a, &left);
    count_side(swarm, b, &right);
}

static void finish_round(struct swarm *swarm, size_t index)
{
    struct swarm_node *node = &swarm->nodes[index];
    uint32_t late = swarm->config->disturb.late;
    if (node->broken)
        node->live = false;
    else if (late == 0)
        apply(swarm, node, swarm->rule.fragment);
    else
        node->due[swarm->rule.fragment] = swarm->step + late;
}

static void pair_job(struct swarm *swarm, size_t member, size_t a)
{
    size_t b = swarm->partner[a];
    (void)member;
    if (!swarm->nodes[a].live || b < a)
        return; /* the lower index does both */
    bool broken = swarm->nodes[a].broken || swarm->nodes[b].broken;
    bool fails =
        swarm_chance(swarm, "dunlin converge fail", swarm->rule.round, a) < swarm->config->disturb.fail;
    if (a == b) {
        solo(swarm, a);
    } else if (broken || fails) {
        solo(swarm, a);
        solo(swarm, b);
    } else {
        meet(swarm, a, b);
    }
    finish_round(swarm, a);
    if (a != b)
        finish_round(swarm, b);
}

/* The exact mean of all, as a ring all-reduce sends it: 2 (N - 1) / N of the bytes from each node. */
static void whole_job(struct swarm *swarm, size_t member, size_t index)
{
    const struct gossip_fragment *range = &swarm->model.fragments[swarm->rule.fragment];
    const struct gossip_outer *outer = &swarm->rule.outer;
    struct swarm_node *node = &swarm->nodes[index];
    size_t at = range->offset;
    (void)member;
    gossip_outer_step(range->count, outer->alpha, outer->beta, swarm->mean + at, node->theta + at,
                      node->phi + at, node->delta + at, node->diff + at);
    apply(swarm, node, swarm->rule.fragment);
    node->bytes += 2 * (swarm->config->nodes - 1) * range->count * sizeof(float) / swarm->config->nodes;
    node->values += range->count;
    node->merges++;
}

static void one_round(struct swarm *swarm)
{
    const struct converge_config *c = swarm->config;
    faults_before_round(swarm, swarm->round);
    swarm->rule = (struct exchange_rule){
        .model = &swarm->model,
        .fragment = (size_t)(swarm->round % c->fragments),
        .round = swarm->round,
        .ending = is_ending(c, swarm->round),
        .codec = c->codec,
        .outer = outer_of(c, swarm->round),
        .correction = c->correction,
        .gates = c->gates,
        .strangers = c->start == CONVERGE_DIFFERENT,
        .weight = gossip_partner_weight((float)c->disturb.late / (float)c->h),
    };
    swarm_each(swarm, c->nodes, snapshot_job);
    if (is_whole(c)) {
        swarm_mean(swarm);
        swarm_each(swarm, c->nodes, whole_job);
    } else {
        pairs_choose(swarm, swarm->round, c->fragments, swarm->partner);
        swarm_each(swarm, c->nodes, pair_job);
    }
    swarm->round++;
}

/* Where a straight line from the last point to this one is at the limit. */
static double crossing_of(const struct converge_result *result, uint32_t cycle, double loss, double limit)
{
    if (result->curve_count == 0)
        return cycle;
    const struct converge_point *last = &result->curve[result->curve_count - 1];
    if (!(last->loss > limit) || !isfinite(last->loss))
        return cycle;
    return last->cycle + (last->loss - limit) / (last->loss - loss) * (double)(cycle - last->cycle);
}

/* The point, and each threshold that was crossed since the last one. */
static void curve_point(struct swarm *swarm, struct converge_result *result)
{
    const struct converge_config *c = swarm->config;
    uint32_t cycle = swarm->step / c->h;
    double loss = measure_curve(swarm);
    for (size_t t = 0; t < CONVERGE_THRESHOLDS_MAX; t++) {
        double limit = c->thresholds[t];
        if (result->crossing[t] < 0 && limit > 0 && loss <= limit)
            result->crossing[t] = crossing_of(result, cycle, loss, limit);
    }
    if (result->curve_count < CONVERGE_CURVE_MAX)
        result->curve[result->curve_count++] = (struct converge_point){.cycle = cycle, .loss = loss};
    if (!c->quiet)
        fprintf(stderr, "converge: %s cycle %u of %u, loss %.4f\n", converge_method_name((int)c->method),
                cycle, c->steps / c->h, loss);
}

static void begin(struct swarm *swarm, struct converge_result *result)
{
    for (size_t i = 0; i < swarm->config->nodes; i++) {
        struct swarm_node *node = &swarm->nodes[i];
        trainer_snapshot(&node->trainer, node->phi);
        if (node->first != NULL)
            trainer_snapshot(&node->trainer, node->first);
    }
    for (size_t t = 0; t < CONVERGE_THRESHOLDS_MAX; t++)
        result->crossing[t] = -1;
}

static void sum_up(const struct swarm *swarm, struct converge_result *result)
{
    double bytes = 0, values = 0;
    size_t counted = 0;
    for (size_t i = 0; i < swarm->config->nodes; i++) {
        const struct swarm_node *node = &swarm->nodes[i];
        result->tokens += node->tokens;
        if (node->hostile)
            continue;
        counted++;
        bytes += (double)node->bytes;
        values += (double)node->values;
        result->merges += node->merges;
        result->solos += node->solos;
        result->refused += node->refused;
        result->failed_trials += node->failed_trials;
        result->clipped += node->clipped;
        result->corrected += node->corrected;
        result->blocks += node->blocks;
        result->resent += node->resent;
    }
    result->rounds = swarm->round;
    result->bytes_per_node = bytes / (double)counted;
    result->bytes_per_node_round = swarm->round > 0 ? result->bytes_per_node / (double)swarm->round : 0;
    result->bytes_per_value = values > 0 ? bytes / values : 0;
}

void rounds_run(struct swarm *swarm, struct converge_result *result)
{
    const struct converge_config *c = swarm->config;
    uint32_t interval = interval_of(c);
    begin(swarm, result);
    while (swarm->step < c->steps) {
        uint32_t stretch = interval == 0 ? c->h : interval;
        swarm->until = c->steps - swarm->step < stretch ? c->steps : swarm->step + stretch;
        bool whole = swarm->until - swarm->step == stretch;
        swarm_each(swarm, c->nodes, steps_job);
        swarm->step = swarm->until;
        if (interval > 0 && whole)
            one_round(swarm);
        if (c->curve > 0 && swarm->step % (c->curve * c->h) == 0)
            curve_point(swarm, result);
    }
    sum_up(swarm, result);
}

static void average_job(struct swarm *swarm, size_t member, size_t a)
{
    size_t b = swarm->partner[a];
    (void)member;
    if (b <= a)
        return;
    float *left = swarm_params(&swarm->nodes[a]), *right = swarm_params(&swarm->nodes[b]);
    gossip_pair_target(swarm->layout.arena_floats, 0.5F, left, left, right, swarm->nodes[a].scratch);
    memcpy(left, swarm->nodes[a].scratch, swarm->layout.arena_floats * sizeof(float));
    memcpy(right, swarm->nodes[a].scratch, swarm->layout.arena_floats * sizeof(float));
}

void rounds_finish(struct swarm *swarm, struct converge_result *result)
{
    double limit = finish_share * result->spread;
    result->spread_finish = result->spread;
    for (uint64_t turn = 0; turn < FINISH_ROUNDS_MAX && result->spread_finish > limit; turn++) {
        pairs_choose(swarm, turn, 1, swarm->partner);
        swarm_each(swarm, swarm->config->nodes, average_job);
        result->spread_finish = measure_spread(swarm);
        result->finish_rounds++;
    }
    /* Now one stands for all. */
    size_t first = 0;
    while (!swarm_counts(&swarm->nodes[first]))
        first++;
    result->ppl_finish =
        exp(measure_loss(swarm, 0, first, swarm_params(&swarm->nodes[first]), swarm->config->windows));
}
