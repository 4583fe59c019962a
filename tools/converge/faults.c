/* Nodes that come late, die and return; two halves that lose sight of each other. */
#include <string.h>

#include "tools/converge/swarm.h"

enum { AWAY_CYCLES = 2, KILLED_PERCENT = 30 };

static bool is_parted(const struct swarm *swarm)
{
    uint32_t steps = swarm->config->steps;
    return swarm->config->disturb.partition && swarm->step >= steps / 3 && swarm->step < steps / 3 * 2;
}

static bool is_across(const struct swarm *swarm, size_t a, size_t b)
{
    size_t half = swarm->config->nodes / 2;
    return (a < half) != (b < half);
}

bool faults_parted(const struct swarm *swarm, size_t a, size_t b)
{
    return is_parted(swarm) && is_across(swarm, a, b);
}

/* A node without state takes a live one's slow weights, no momentum, no moments, no memory of partners. */
static void enter(struct swarm *swarm, size_t index, uint64_t round)
{
    struct swarm_node *node = &swarm->nodes[index];
    size_t floats = swarm->layout.arena_floats, donor = index;
    double best = 2;
    for (size_t i = 0; i < swarm->config->nodes; i++) {
        double lot = swarm_chance(swarm, "dunlin converge donor", round * CONVERGE_NODES_MAX + index, i);
        if (swarm->nodes[i].live && i != index && lot < best) {
            best = lot;
            donor = i;
        }
    }
    memcpy(node->phi, swarm->nodes[donor].phi, floats * sizeof(float));
    memset(node->delta, 0, floats * sizeof(float));
    memcpy(swarm_params(node), node->phi, floats * sizeof(float));
    trainer_reset_moments(&node->trainer);
    exchange_forget(&swarm->model, &node->memory);
    for (size_t i = 0; i < swarm->config->nodes; i++)
        gossip_nearness_forget(&swarm->nodes[i].memory.nearness, &node->id);
    memset(node->due, 0, sizeof node->due);
    node->live = true;
    node->back_cycle = 0;
}

static void kill_some(struct swarm *swarm, uint32_t cycle)
{
    uint32_t nodes = swarm->config->nodes;
    uint32_t count = (nodes * KILLED_PERCENT + 50) / 100;
    for (uint32_t k = 0; k < count; k++) {
        size_t chosen = 0;
        double best = 2;
        for (size_t i = 0; i < nodes; i++) {
            double lot = swarm_chance(swarm, "dunlin converge kill", cycle, i);
            if (swarm->nodes[i].live && lot < best) {
                best = lot;
                chosen = i;
            }
        }
        swarm->nodes[chosen].live = false;
        swarm->nodes[chosen].back_cycle = cycle + AWAY_CYCLES;
    }
}

/* Nodes of the other half have been out of sight: in the first round after, they are strangers. */
static void forget_other_half(struct swarm *swarm)
{
    bool parted = is_parted(swarm);
    for (size_t a = 0; swarm->parted_before && !parted && a < swarm->config->nodes; a++)
        for (size_t b = 0; b < swarm->config->nodes; b++)
            if (is_across(swarm, a, b))
                gossip_nearness_forget(&swarm->nodes[a].memory.nearness, &swarm->nodes[b].id);
    swarm->parted_before = parted;
}

void faults_before_round(struct swarm *swarm, uint64_t round)
{
    const struct converge_config *c = swarm->config;
    uint32_t cycle = (uint32_t)(round / swarm->model.fragment_count);
    bool starts = round % swarm->model.fragment_count == 0 && round > 0;
    for (size_t i = 0; i < c->nodes; i++)
        if (!swarm->nodes[i].live && swarm->nodes[i].back_cycle > 0 && cycle >= swarm->nodes[i].back_cycle)
            enter(swarm, i, round);
    struct swarm_node *last = &swarm->nodes[c->nodes - 1];
    if (c->disturb.join > 0 && !last->live && last->tokens == 0 && last->back_cycle == 0 &&
        (double)swarm->step >= c->disturb.join * (double)c->steps)
        enter(swarm, c->nodes - 1, round);
    if (c->disturb.kill > 0 && starts && cycle % c->disturb.kill == 0)
        kill_some(swarm, cycle);
    forget_other_half(swarm);
}
