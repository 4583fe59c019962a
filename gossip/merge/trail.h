/* How far a partner lies behind us on the way we came: what tells old weights from new ones.
 *
 * Weights of yesterday pass every other gate.  They are whole, no further than honest partners at first,
 * raise the loss by little, and each merge with them undoes half of what was trained since.  One node in four
 * that sends the same weights for ever, its own or another's, cost the others 5.3 % of perplexity that way.
 *
 * With phi the slow weights, D = phi - (phi some cycles ago) and theirs the partner's weights:
 *
 *     behind = (theirs - phi) . D / D . D        0: level with us, -1: where we stood then
 *
 * An honest partner is above -0.5 once noise has its size.  Let phi_i = c + n_i, c common and n_i own noise
 * of equal size.  Where c stands still, D = n_i(now) - n_i(then) and (n_j - n_i) . D = -D . D / 2, however
 * long noise lasts; where c moves, D . D is larger.  While noise grows, as after a common start, all look
 * older, at worst -1: so the limit is GOSSIP_BEHIND_MAX or, where that is more, GOSSIP_BEHIND_FACTOR medians
 * of what partners were lately (hostile ones are less than half; their median counts as 1 at most, and before
 * there is one).  Measured (8 nodes, the transformer of docs/RESULTS.md, 40 cycles): honest partners -0.51 to
 * 0, with a node ten times slower all but a few of the first, with half of the swarm apart for a third of the
 * run 19 of 1,550 merges below -0.7; old weights -0.95 and beyond from the fifth cycle on.
 *
 * How old is not known, and one mark is not enough: noise that comes and goes makes recent ways point back as
 * often as not, so that weights much older than the mark look level.  Hence marks of ages that double, and
 * the least of their answers.
 *
 * Who is further behind than the limit is not refused: the difference is made so short that the merge takes
 * back at most GOSSIP_BEHIND_SHARE / 2 of D.  So halves of a swarm that trained apart for long, each of which
 * is behind in the other's eyes, still come together, and nobody is shut out.
 *
 * Weights that are only scaled lie on no way; they show in the norm.  Honest partners' norms differ by what
 * training changed in ours lately, times how much more or less they trained: while weights are fresh that is
 * most of the difference, in a small model or beside a slow node up to 0.9 of it, and a fixed bound drove
 * such swarms apart.  So the own norms of the last merges are kept, and gossip/merge/gate.h measures by them.
 *
 * A sample is enough: behind is a mean over thousands of values, and 4 of each 256 give it within 0.03 where
 * a fragment has 100,000.  In a model so small that the sample says less, GOSSIP_BEHIND_ERRORS standard
 * errors are held to the partner's favour.  Two marks a level, of which the older is used, are 0.75 bytes a
 * parameter.  They are not kept over a restart.  No rule without a mark of the right age, in runs of
 * strangers (where the others' weights are nowhere near our way), and after fetching a state. */
#ifndef DUNLIN_GOSSIP_MERGE_TRAIL_H
#define DUNLIN_GOSSIP_MERGE_TRAIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gossip/merge/gate.h"
#include "gossip/tensor.h"

enum {
    GOSSIP_TRAIL_SAMPLE = 4, /* values kept of each block of GOSSIP_BLOCK */
    GOSSIP_TRAIL_CYCLES = 4, /* rounds of the fragment between two marks of the first level */
    GOSSIP_TRAIL_LEVELS = 6, /* each with twice the rounds of the one before */
    GOSSIP_TRAIL_NORMS = 8,  /* own norms remembered: as many merges as a partner may be rounds away */
};

/* One fragment's; all arrays are the caller's. */
struct gossip_trail {
    struct {
        float *older, *newer; /* [values of a mark] sampled phi */
    } levels[GOSSIP_TRAIL_LEVELS];
    uint64_t rounds;                  /* since the start or the last jump */
    struct gossip_history behind;     /* of the last partners, as numbers above 0 */
    double norms[GOSSIP_TRAIL_NORMS]; /* |ours| at the last merges, also refused ones: a ring */
    uint64_t norms_seen;
};

/* Floats that a trail over these tensors takes: 2 * GOSSIP_TRAIL_LEVELS marks. */
size_t gossip_trail_floats(const struct gossip_tensor tensors[], size_t tensor_count);
/* An empty trail in memory [gossip_trail_floats], borrowed as long as the trail is used. */
void gossip_trail_init(struct gossip_trail *trail, const struct gossip_tensor tensors[], size_t tensor_count,
                       float memory[]);
/* The slow weights jumped (a state was fetched): nothing is known of the way. */
void gossip_trail_forget(struct gossip_trail *trail);
/* A round of the fragment ended, with a merge or without: phi [fragment's values] as it is now. */
void gossip_trail_round(struct gossip_trail *trail, const struct gossip_tensor tensors[], size_t tensor_count,
                        const float phi[]);

/* The two products for each level, summed piece by piece. */
struct gossip_trail_sums {
    const struct gossip_trail *trail;   /* NULL: nothing is known */
    size_t levels;                      /* that have a mark of the right age */
    size_t at;                          /* index of the next sample in a mark */
    double along[GOSSIP_TRAIL_LEVELS];  /* (theirs - phi) . D */
    double square[GOSSIP_TRAIL_LEVELS]; /* D . D */
    double spread[GOSSIP_TRAIL_LEVELS]; /* of the values' parts of along: their squares */
};

/* At the start of the fragment.  trail may be NULL. */
struct gossip_trail_sums gossip_trail_begin(const struct gossip_trail *trail);
/* The next count values; all pieces of a tensor but its last are multiples of GOSSIP_BLOCK. */
void gossip_trail_add(struct gossip_trail_sums *sums, size_t count, const float theirs[], const float phi[]);
/* The least behind of all levels, each with its standard errors added, or 0 where nothing is known. */
double gossip_trail_behind(const struct gossip_trail_sums *sums);
/* How far behind one may be, a number above 0; INFINITY while too few partners were met. */
double gossip_trail_limit(const struct gossip_trail *trail);
/* A partner was so far behind (finite). */
void gossip_trail_met(struct gossip_trail *trail, double behind);
/* A merge is tried with weights of this norm (finite). */
void gossip_trail_norm(struct gossip_trail *trail, double norm);
/* Largest less smallest of the remembered norms; INFINITY while fewer than GOSSIP_HISTORY_MIN are. */
double gossip_trail_growth(const struct gossip_trail *trail);

#endif
