/* Who meets whom: gossip's own pairing over the view that each node would have, or a draw without memory. */
#include "gossip/pairing.h"
#include "tools/converge/swarm.h"

static size_t index_of(const struct swarm *swarm, const struct id *id)
{
    size_t i = 0;
    while (i < swarm->config->nodes && !id_equal(&swarm->nodes[i].id, id))
        i++;
    ASSERT(i < swarm->config->nodes);
    return i;
}

/* The nodes that `self` sees, itself included. */
static void view_of(const struct swarm *swarm, size_t self, uint64_t round, struct gossip_view *view)
{
    struct gossip_member_state states[CONVERGE_NODES_MAX];
    size_t count = 0;
    for (size_t i = 0; i < swarm->config->nodes; i++)
        if (swarm->nodes[i].live && !faults_parted(swarm, self, i))
            states[count++] = (struct gossip_member_state){
                .id = swarm->nodes[i].id, .progress_round = round, .expires_ms = 1};
    gossip_view_build(view, round, 0, states, count);
}

/* Neighbours in the order of this round's lots; the last of an odd number stays alone. */
static size_t drawn_partner(const struct swarm *swarm, uint64_t round, size_t self)
{
    size_t order[CONVERGE_NODES_MAX] = {0};
    double lots[CONVERGE_NODES_MAX];
    size_t count = 0, own = 0;
    for (size_t i = 0; i < swarm->config->nodes; i++) {
        if (!swarm->nodes[i].live || faults_parted(swarm, self, i))
            continue;
        double lot = swarm_chance(swarm, "dunlin converge pair", round, i);
        size_t at = count++;
        for (; at > 0 && lots[at - 1] > lot; at--) {
            lots[at] = lots[at - 1];
            order[at] = order[at - 1];
        }
        lots[at] = lot;
        order[at] = i;
    }
    while (own + 1 < count && order[own] != self)
        own++;
    return (own ^ 1) < count ? order[own ^ 1] : self;
}

void pairs_choose(const struct swarm *swarm, uint64_t round, size_t fragments,
                  size_t partner[CONVERGE_NODES_MAX])
{
    struct gossip_view view;
    for (size_t i = 0; i < swarm->config->nodes; i++) {
        struct id other;
        partner[i] = i;
        if (!swarm->nodes[i].live)
            continue;
        if (swarm->config->order == CONVERGE_RANDOM) {
            partner[i] = drawn_partner(swarm, round, i);
            continue;
        }
        view_of(swarm, i, round, &view);
        if (gossip_pair(&swarm->run, round, (unsigned)fragments, &view, &swarm->nodes[i].id, &other))
            partner[i] = index_of(swarm, &other);
    }
    for (size_t i = 0; i < swarm->config->nodes; i++)
        ASSERT(partner[partner[i]] == i);
}
