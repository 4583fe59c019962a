/* What hostile nodes send. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "tools/converge/swarm.h"

static const double two_pi = 6.283185307179586;

/* Box and Muller 1958. */
static float normal(const struct rng *rng)
{
    double u = ((double)(rng_u64(rng) >> 11) + 1.0) * 0x1p-53;
    double v = (double)(rng_u64(rng) >> 11) * 0x1p-53;
    return (float)(sqrt(-2.0 * log(u)) * cos(two_pi * v));
}

static void add_noise(struct swarm *swarm, size_t index, const struct gossip_fragment *fragment)
{
    struct swarm_node *node = &swarm->nodes[index];
    struct rng_seeded stream;
    double square = 0;
    rng_seeded_init(&stream, swarm->config->seed + 1000003 * (swarm->round * CONVERGE_NODES_MAX + index));
    struct rng rng = rng_of_seeded(&stream);
    for (size_t i = 0; i < fragment->count; i++)
        square += (double)node->theta[fragment->offset + i] * (double)node->theta[fragment->offset + i];
    float size = swarm->config->strength * (float)sqrt(square / (double)fragment->count);
    for (size_t i = 0; i < fragment->count; i++)
        node->shown[fragment->offset + i] = node->theta[fragment->offset + i] + size * normal(&rng);
}

static float shown_value(const struct converge_config *c, const struct swarm_node *node, size_t at)
{
    switch (c->attack) {
    case CONVERGE_FLIP:
        return -c->strength * node->theta[at];
    case CONVERGE_REVERSE:
        return node->phi[at] - c->strength * (node->theta[at] - node->phi[at]);
    case CONVERGE_SCALE:
        return c->strength * node->theta[at];
    case CONVERGE_STALE:
        return node->first[at];
    case CONVERGE_HONEST:
    case CONVERGE_NOISE:
    case CONVERGE_NAN:
    case CONVERGE_REPLAY:
    case CONVERGE_ATTACKS:
        break;
    }
    return node->theta[at];
}

void attack_prepare(struct swarm *swarm, size_t index, size_t fragment, struct exchange_side *side)
{
    struct swarm_node *node = &swarm->nodes[index];
    const struct gossip_fragment *range = &swarm->model.fragments[fragment];
    side->shown = node->theta;
    if (!node->hostile)
        return;
    for (size_t i = range->offset; i < range->offset + range->count; i++)
        node->shown[i] = shown_value(swarm->config, node, i);
    if (swarm->config->attack == CONVERGE_NOISE)
        add_noise(swarm, index, range);
    side->shown = node->shown;
    side->garbage = swarm->config->attack == CONVERGE_NAN;
    if (swarm->config->attack == CONVERGE_REPLAY && node->kept_len[fragment] > 0) {
        side->old = bytes_of(node->kept[fragment], node->kept_len[fragment]);
        side->old_codec = node->kept_codec[fragment];
    }
}

void attack_learn(struct swarm *swarm, size_t index, size_t fragment, const struct exchange_side *other)
{
    struct swarm_node *node = &swarm->nodes[index];
    if (!node->hostile || node->kept_len[fragment] > 0)
        return;
    memcpy(node->kept[fragment], other->buffers.blob, other->blob_len);
    node->kept_codec[fragment] = other->codec;
    node->kept_len[fragment] = other->blob_len;
}
