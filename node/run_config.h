/* What all members of a run must agree on: the payload of the run's genesis entry.
 *
 * A msgpack map of at most RUN_CONFIG_BYTES_MAX bytes.  The run id is the hash of the signed genesis entry,
 * so none of this can change under a run's id. */
#ifndef DUNLIN_NODE_RUN_CONFIG_H
#define DUNLIN_NODE_RUN_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"
#include "node/run_model.h"

enum {
    RUN_CONFIG_BYTES_MAX = 512,
    RUN_CONFIG_VERSION = 2,
    RUN_SEED_BYTES = 32,
    RUN_CODEC_AUTO = 255, /* whatever the line and the partner's distance suggest */
};

struct run_config {
    uint32_t width, layers, heads, context; /* of a transformer, train/model.h; an MLP: 0 */
    struct run_model model;                 /* which kind, and an MLP's shape */
    uint32_t batch;                         /* examples in one inner step */
    uint32_t round_ms;                      /* from one exchange to the next */
    uint32_t fragments;                     /* of the model; each round exchanges one of them */
    uint32_t rounds;                        /* rounds planned: the learning rate's schedule ends there */
    uint32_t codec;               /* enum gossip_codec of the weights on the wire, or RUN_CODEC_AUTO */
    bool strangers;               /* members may start from weights of their own, which disarms a gate */
    bool loss_test;               /* a merge's result is tried on a private batch before it is taken */
    double lr;                    /* peak learning rate of the inner optimizer */
    double alpha, beta, gamma;    /* outer step, gossip/merge.h */
    uint8_t seed[RUN_SEED_BYTES]; /* of the initial weights */
};

/* Values that work for a small model on English text; the seed is zero and must be drawn by the caller. */
void run_config_default(struct run_config *config);
/* ERR_INVALID: *why (static text) says which value is out of its range and what the range is. */
MUST_USE int run_config_check(const struct run_config *config, const char **why);
/* Returns the encoded length; cap of RUN_CONFIG_BYTES_MAX always suffices. */
MUST_USE int run_config_encode(const struct run_config *config, uint8_t *out, size_t cap);
/* ERR_MALFORMED: not a run config, or one that run_config_check refuses.  ERR_VERSION: made by a newer
 * version. */
MUST_USE int run_config_decode(struct bytes in, struct run_config *config);

#endif
