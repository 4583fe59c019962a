/* What stands between a partner's weights and ours: shape, finiteness, staleness, distance, loss.
 *
 * With one partner a round there is no majority to ask, so the measure is our own past: the difference to the
 * partner is cut at tau = GOSSIP_CLIP_FACTOR * median of the last distances (self-centred clipping,
 * ClippedGossip, arXiv:2202.01545, with the radius from history), and beyond GOSSIP_REFUSE_FACTOR medians it
 * is not used at all.  A cut partner moves phi by at most beta * tau / 2 at once and beta * tau / (2 (1 -
 * alpha)) in all: about one median.  Clipping on one side only breaks the pair's sum by what was cut: wanted,
 * the partner is suspect.
 * The step itself is not cut: at three medians of the last steps' norms that changed nothing under any of
 * these attacks, since the clip above bounds what momentum can gather, and it cut honest steps, 4 of 220
 * where 30 % of exchanges fail, and most of the training of a node that has become ten times faster.
 *
 * Why so near: what hostile partners add to the honest ones' distances widens the radius for the next round.
 * With one hostile partner in four that loop runs away at a factor of 3 (negated, tripled or random weights
 * are enough), and at 2 under an attack that pushes each victim away from the others; at 1.5 it does not
 * (tests/gossip/test_byzantine.c).  Honest distances hardly vary, being norms of many values: without attack
 * at most 1 % of them are cut there.  Refused distances count as past too: a partition that healed looks like
 * an attack until it makes up half of the history, then the medians let it in.  Two nodes alone that were
 * refused once and drift apart meanwhile are back within 24 exchanges.
 *
 * Differences of honest partners have hardly a part along the weights themselves once norms stand: -0.2 to
 * 0.2 of their length, in the undisturbed swarm of docs/RESULTS.md within 0.09.  Scaled weights differ in
 * nothing else.  While the own norm still moves, theirs may be elsewhere on the same way: beyond
 * GOSSIP_RADIAL_MAX of the difference, GOSSIP_RADIAL_GROWTH times what the own norm changed by lately is
 * let through: what a partner twice as fast, or one that stands still, is off by meanwhile (from fresh
 * weights beside a node ten times slower, honest ones needed up to 0.9 of it).  That has a price: doubled
 * weights cost 3.9 % in docs/RESULTS.md, and 1.9 % with nothing let through.
 * One hostile partner that doubles its weights draws nearer with each exchange, since what it takes in it
 * sees doubled, until it is within the distances of a past that it has widened itself: then this tells it. It
 * is cut, on top of the cut by distance, and not refused, since two groups that grew apart must be able to
 * meet.
 *
 * Who merged nothing for some rounds of a fragment is up to as many times as far from everybody as usual, and
 * refusing on account of that would make it worse until the medians know, half a history later.  So the bound
 * of refusal grows with the own missed rounds from the second on, up to GOSSIP_MISSED_MAX; the cut does not,
 * which keeps what one partner can do and brings a straggler back by three quarters of a median a merge.
 *
 * At the start there is no past, and without any bound the first four rounds let one sign-flipping node in
 * four wreck all: perplexity 7.3 became 256.  Members who start from the same weights are as far from each
 * other as they have trained, so a partner further than GOSSIP_START_FACTOR own ways |theta - phi| is refused
 * until the past speaks: 7.29 under that attack, as without it.  Honest partners of equal speed were up
 * to 3.9 ways away (momentum; fresh weights at a high rate, the fourth round of a fragment), so at a factor
 * of 4 errors of the codec got some refused, and at 6 none.  Ways shrink where the rate does, and to nothing
 * on a slow node or one that has just fetched a state: those were up to 16 ways off, and some without end,
 * but never more than 0.052 of the norm once the weights were trained, hence GOSSIP_START_SHARE.  While
 * weights are fresh, a node ten times slower than the others and one that joins late still refuse some: at
 * most GOSSIP_HISTORY_MIN of each fragment, since refused distances count as past.  The rule sees no attack
 * that stays within such distances (training reversed; for old weights see gossip/merge/trail.h), and does
 * not apply where members may start from different weights.
 * With four to ten distances known and one partner in three hostile, half of them are the hostile one's two
 * times in five, and the median lets it in: doubled weights cost 5.2 % so.  Hence the wide rule until the
 * past is full. */
#ifndef DUNLIN_GOSSIP_MERGE_GATE_H
#define DUNLIN_GOSSIP_MERGE_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum {
    GOSSIP_HISTORY = 32,    /* distances remembered: with one hostile in four, half of 16 are so too often */
    GOSSIP_HISTORY_MIN = 4, /* below this many nothing is cut */
    GOSSIP_GATE_ROUNDS = 8, /* partner's round may differ from ours by at most this */
    GOSSIP_MISSED_MAX = 7,  /* missed merges that widen the bound of refusal */
};

#define GOSSIP_CLIP_FACTOR   1.5  /* medians: a partner further than this is cut to it */
#define GOSSIP_REFUSE_FACTOR 3.0  /* medians: a partner further than this is refused */
#define GOSSIP_LOSS_MARGIN   0.02 /* share by which a merge may raise the loss, without a past */
#define GOSSIP_LOSS_FACTOR   2.0  /* medians of past changes: with one */
#define GOSSIP_LOSS_FLOOR    1e-4 /* at least: rounding is no attack */
#define GOSSIP_DISTANCE_MAX                                                                                  \
    4.0 /* |theirs - ours| / |ours|: beyond it these are not two states of one model */
#define GOSSIP_START_FACTOR  6.0  /* own ways: without a past, a partner further than this is refused */
#define GOSSIP_YOUNG_FACTOR  24.0 /* own ways: the same while the past is not full */
#define GOSSIP_START_SHARE   0.01 /* of the own norm: a way counts as at least so long */
#define GOSSIP_BEHIND_MAX    0.8  /* gossip/merge/trail.h: a partner further behind is cut */
#define GOSSIP_BEHIND_FACTOR 1.4  /* or further than so many medians */
#define GOSSIP_BEHIND_ERRORS 2.0  /* standard errors in its favour */
#define GOSSIP_BEHIND_SHARE  0.1  /* of the way: to so much */
#define GOSSIP_RADIAL_MAX    0.25 /* share of a difference along the own weights: beyond it, it is cut */
#define GOSSIP_RADIAL_GROWTH 1.0  /* changes of the own norm */
#define GOSSIP_RADIAL_SCALE  0.1  /* to so much */

/* The last distances of one run; zeroed at first, kept by the caller (merge thread), may be stored on disk.
 */
struct gossip_history {
    double distance[GOSSIP_HISTORY];
    uint32_t count;  /* valid entries */
    uint32_t next;   /* slot written next */
    uint32_t missed; /* rounds of the fragment since its last merge, counted to GOSSIP_MISSED_MAX */
};

/* Forgets the oldest when full.  Distances that are not finite or negative are a bug (asserted). */
void gossip_history_push(struct gossip_history *history, double distance);
/* The fragment's round ended with (true) or without a merge. */
void gossip_history_round(struct gossip_history *history, bool merged);
/* Their median, or INFINITY while fewer than GOSSIP_HISTORY_MIN are known. */
double gossip_history_median(const struct gossip_history *history);
/* Radius tau, or INFINITY while fewer than GOSSIP_HISTORY_MIN distances are known. */
double gossip_history_radius(const struct gossip_history *history);

/* What the gate is told about one partner's blob. */
struct gossip_gate_input {
    uint64_t own_round;
    uint64_t partner_round;
    double own_norm; /* |ours| of decoded values */
    double distance; /* |theirs - ours| of decoded values */
    double radius;   /* gossip_history_radius */
    uint32_t known;  /* gossip_history.count */
    uint32_t missed; /* gossip_history.missed */
    double way; /* |theta - phi|, own training since the fragment's last round; INFINITY: no rule at start */
    double behind;       /* gossip_trail_behind; 0: no rule */
    double behind_limit; /* gossip_trail_limit */
    double radial;       /* (theirs - ours) . ours / |ours|: how much longer or shorter they are than ours */
    double growth;       /* gossip_trail_growth; INFINITY: no rule */
};

/* Returns 0 and *scale in (0, 1], by which theirs - ours is multiplied.  ERR_STALE: rounds too far apart.
 * ERR_NOT_FINITE: norm or distance is.  ERR_FAR: distance beyond GOSSIP_DISTANCE_MAX of the own norm, or
 * beyond GOSSIP_REFUSE_FACTOR * max(1, missed) medians, or beyond GOSSIP_START_FACTOR ways without a past and
 * GOSSIP_YOUNG_FACTOR ways with a short one.
 * On any of them call gossip_solo_job and count the partner as refused.
 */
MUST_USE int gossip_gate(const struct gossip_gate_input *in, float *scale);

/* The last test, for callers that can spare two forward passes: mean loss in nats of the same private batch
 * before and after the merge.  It is the only one that looks at what the numbers do, and sees poison that
 * keeps within the distances of honest partners, or comes before there is a past.
 *
 * Both passes see the same batch, so its choice cancels, and what is left is small: of 800 honest merges (8
 * nodes, a transformer after 600 to 800 steps, 16 windows of 128 bytes) the change was -0.6 to +0.2 % of the
 * loss, its size 0.03 % in the median.  So the margin is GOSSIP_LOSS_FACTOR medians of the sizes of past
 * changes, whatever the model and the batch: 2 of those 800 would be refused, each for one solo step, and
 * of what a node that replays old weights sends 10 of 42, the older the more.  What does not raise the loss
 * passes: of the weights of the start, 3 of 58 were refused, of training reversed 1 of 39.  Training reversed
 * threefold by one node of four (100 steps) cost the others 0.80 % of perplexity without this test and 0.45 %
 * with it; without attack it cost 0.01 %.  From fresh weights it refused
 * 3 of the first 19 merges of each of two nodes.  Refused changes count as past too:
 * nobody is shut out for ever.  Losses below a nat count as one, since those of a nearly solved task differ
 * by large shares.  Weights that started elsewhere raise the loss by far more: not for runs of strangers.
 * Source: UBAR, arXiv:1907.04574, second stage, on the merge instead of the partner alone: an average of two
 * honest models is rarely worse than either, a partner alone often is. */
/* The change from `before` to `after` as a share of before, or of one nat where that is more. */
double gossip_loss_change(double before, double after);
/* What the change may be at most; changes: those noted before, zeroed at first. */
double gossip_loss_margin(const struct gossip_history *changes);
/* Returns 0.  ERR_NOT_FINITE: the loss before is not finite: the own state is broken.  ERR_WORSE: the loss
 * after is not finite, or the change above the margin: take the solo step and count the partner as refused.
 * A finite change is noted in any case. */
MUST_USE int gossip_loss_gate(struct gossip_history *changes, double before, double after);

#endif
