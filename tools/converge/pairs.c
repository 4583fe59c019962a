/* Who meets whom, from gossip's own pairing over the view that each node would have. */
#include <stdlib.h>
#include <string.h>

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

/* Across one bit of the rank by id. */
static size_t hypercube_partner(const struct swarm *swarm, const struct gossip_view *view, size_t self,
                                size_t turn)
{
    size_t bits = 0, rank = 0;
    while (((size_t)1 << bits) < view->count)
        bits++;
    while (!id_equal(&view->entries[rank].id, &swarm->nodes[self].id))
        rank++;
    return index_of(swarm, &view->entries[rank ^ (size_t)1 << turn % bits].id);
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
        view_of(swarm, i, round, &view);
        bool power = view.count > 1 && (view.count & (view.count - 1)) == 0;
        if (swarm->config->order == CONVERGE_HYPERCUBE && power)
            partner[i] = hypercube_partner(swarm, &view, i, (size_t)(round / fragments + round % fragments));
        else if (gossip_pair(&swarm->run, round, &view, &swarm->nodes[i].id, &other))
            partner[i] = index_of(swarm, &other);
    }
    for (size_t i = 0; i < swarm->config->nodes; i++)
        ASSERT(partner[partner[i]] == i);
}
