/* One round's work of the merge thread: decode, gate, average, outer step.  A pure function; it may run
 * anywhere. */
#ifndef DUNLIN_GOSSIP_MERGE_JOB_H
#define DUNLIN_GOSSIP_MERGE_JOB_H

#include <stdbool.h>

#include "base/bytes.h"
#include "gossip/codec.h"
#include "gossip/merge/gate.h"
#include "gossip/merge/outer.h"
#include "gossip/tensor.h"

struct gossip_merge_input {
    const struct gossip_tensor *tensors; /* checked by gossip_layout_of */
    size_t tensor_count;
    struct gossip_outer
        outer; /* checked by gossip_outer_check; gamma must equal beta (only theta is exchanged) */
    bool variance_correction; /* armed: applied to uncorrelated matrices only, and never to a clipped or late
                               * partner
                               */
    float partner_weight;     /* gossip_partner_weight; within (0, 0.5] */
    uint64_t own_round;
    uint64_t partner_round;
    const float *theta; /* [param_count] own snapshot of this round, as encoded into own_blob */
    enum gossip_codec own_codec;
    struct bytes own_blob; /* as sent: decoded again so that both partners use the same numbers */
    enum gossip_codec partner_codec;
    struct bytes partner_blob;
};

/* What the round's log line says. */
struct gossip_merge_report {
    double distance;  /* |theirs - ours| */
    double relative;  /* distance / |ours| */
    double cosine;    /* of theirs and ours */
    float scale;      /* 1, or what the clip left */
    size_t corrected; /* tensors whose variance was corrected */
};

/* Merges with a partner.
 *   phi, delta  [param_count]  slow weights and momentum; updated in place
 *   diff        [param_count]  written: phi_new - theta, to be added to the trainer's present weights
 *   history     the run's; the distance is pushed when the blob was finite and of the right shape and round
 * Arrays must not overlap.  Two passes over the blobs, about 50 KiB of stack.
 * Errors leave phi, delta and diff unchanged; call gossip_solo_job instead and count the reason:
 *   ERR_MALFORMED  a blob has the wrong length     ERR_NOT_FINITE  a partner's or own number is not finite
 *   ERR_STALE, ERR_REFUSED  from gossip_gate       ERR_INVALID     gamma differs from beta, or a bad
 * partner_weight ERR_NOT_FINITE from gossip_solo_job as well means that the own state is broken: stop the
 * run, load a checkpoint. */
MUST_USE int gossip_merge_job(const struct gossip_merge_input *in, struct gossip_history *history,
                              float phi[restrict], float delta[restrict], float diff[restrict],
                              struct gossip_merge_report *report);
/* The outer step without a partner: tbar = theta.  ERR_NOT_FINITE: theta, phi or delta is not finite; nothing
 * was changed. */
MUST_USE int gossip_solo_job(size_t param_count, const struct gossip_outer *outer,
                             const float theta[restrict], float phi[restrict], float delta[restrict],
                             float diff[restrict]);

#endif
