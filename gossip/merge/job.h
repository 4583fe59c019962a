/* One fragment's work of the merge thread in one round: decode, gate, average, outer step.  A pure function;
 * it may run anywhere.  Arrays and tensors are those of the fragment (a span of adjacent tensors; the whole
 * model is one too): a value's place is tensor.offset - tensors[0].offset.
 *
 * Both partners know both sides' decoded values Q bit for bit (gossip/codec.h, gossip/codec_modular.h): a
 * plain blob's decoding, a modular block's (float)k * s, a repaired block's int8 value.  So with weight 1/2
 * on both sides tbar_i = theta_i + (Q_j - Q_i) / 2 and tbar_j = theta_j + (Q_i - Q_j) / 2 add up to theta_i +
 * theta_j whatever the codecs lost: exact but for the rounding of two float32 sums a side.  It does not hold
 * for a value whose block escaped the checksum (2^-16 of wrong blocks), when a side clips or corrects, when
 * the weights differ (lateness), or when only one side commits. */
#ifndef DUNLIN_GOSSIP_MERGE_JOB_H
#define DUNLIN_GOSSIP_MERGE_JOB_H

#include <stdbool.h>

#include "base/bytes.h"
#include "gossip/codec_modular.h"
#include "gossip/merge/gate.h"
#include "gossip/merge/outer.h"
#include "gossip/merge/trail.h"
#include "gossip/tensor.h"

/* What one side has sent, as both hold it at commit. */
struct gossip_sent {
    enum gossip_codec codec;
    struct bytes blob;        /* gossip_blob_bytes of the codec */
    const uint32_t *repaired; /* [repaired_count] blocks sent again, ascending; the receiver's list */
    size_t repaired_count;    /* 0 for codecs that are not modular */
    struct bytes repairs;     /* those blocks: gossip_repair_bytes */
};

struct gossip_merge_input {
    const struct gossip_tensor *tensors; /* the fragment's part of a table checked by gossip_layout_of */
    size_t tensor_count;
    struct gossip_outer
        outer; /* checked by gossip_outer_check; gamma must equal beta (only theta is exchanged) */
    bool variance_correction; /* armed: applied to uncorrelated matrices only, and never to a clipped or late
                               * partner
                               */
    bool strangers; /* members' first weights may differ: no rule at the start, see gossip/merge/gate.h */
    float partner_weight; /* gossip_partner_weight; within (0, 0.5]; times gossip_modular_weight, here */
    uint64_t own_round;
    uint64_t partner_round;
    const float *theta;     /* [values] own snapshot of this round, as encoded into own.blob and as given to
                             * gossip_modular_check */
    struct gossip_sent own; /* decoded again so that both partners use the same numbers */
    struct gossip_sent partner; /* repaired: what gossip_modular_check found wrong */
    struct gossip_trail *trail; /* the fragment's, which notes the partner; or NULL */
    float *distances; /* [gossip_block_count] updated on success, zeroed at first: rms of theirs - theta of
                       * each block, or GOSSIP_DISTANCE_DECAY times what it was when that is more; for the
                       * next gossip_modular_encode of this fragment; or NULL */
};

/* What the round's log line says. */
struct gossip_merge_report {
    double distance;  /* |theirs - ours| */
    double rms;       /* distance / sqrt(values), for gossip_nearness_note */
    double relative;  /* distance / |ours| */
    double cosine;    /* of theirs and ours */
    float scale;      /* 1, or what the clip left */
    size_t corrected; /* tensors whose variance was corrected */
};

/* Merges with a partner.
 *   phi, delta  [values]  slow weights and momentum; updated in place
 *   diff        [values]  written: phi_new - theta, to be added to the trainer's present weights
 *   history     the fragment's; the distance is pushed when blobs were finite and of the right shape and
 * round Arrays must not overlap.  Two passes over the blobs, about 60 KiB of stack. Errors leave phi, delta,
 * diff and distances unchanged; call gossip_solo_job instead and count the reason: ERR_MALFORMED   a blob,
 * list or repair has the wrong length or form, or a block that is not in the list of repairs is wrong
 *   ERR_NOT_FINITE  a partner's or own number is not finite; from gossip_solo_job as well: the own state is
 *                   broken, stop the run, load a checkpoint
 *   ERR_STALE, ERR_FAR  from gossip_gate
 *   ERR_INVALID     gamma differs from beta, a bad partner_weight or codec */
MUST_USE int gossip_merge_job(const struct gossip_merge_input *in, struct gossip_history *history,
                              float phi[restrict], float delta[restrict], float diff[restrict],
                              struct gossip_merge_report *report);
enum { GOSSIP_SOLO_AFTER = GOSSIP_MISSED_MAX }; /* rounds of a fragment without a merge */

/* A round without a merge, over count values; missed counts the fragment's in a row, this one included
 * (gossip_history.missed), and is GOSSIP_SOLO_AFTER for who has nobody to wait for, or strangers.  Below that
 * phi and delta stay, diff is zeros, and training goes on: an outer step is for averages, and one with the
 * own weights alone carries their noise on by beta / (1 - alpha) = 1.4.  Where half of the exchanges fail,
 * slow weights that wait for the next merge end 1.1 % behind undisturbed ones, with a step at each miss 2.8
 * %, at every third in a row 1.7 % (8 nodes, 10 steps a cycle, as in docs/RESULTS.md).  From then on the
 * outer step with tbar = theta: a restart begins from phi, and so long it may lose what was trained.
 * ERR_NOT_FINITE: theta, phi or delta is not finite; nothing was changed. */
MUST_USE int gossip_solo_job(size_t count, const struct gossip_outer *outer, uint32_t missed,
                             const float theta[restrict], float phi[restrict], float delta[restrict],
                             float diff[restrict]);

#endif
