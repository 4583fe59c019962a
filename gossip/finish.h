/* The end of a run: when training is over, turns go on with plain averaging until the replicas agree, without
 * any step that all must reach.  This decides when a member has agreed, and what it does next.  Pure; the
 * caller (node/run_finish.c) takes the turns and keeps the registers.
 *
 * A pair's average keeps the pair's sum (gossip/merge/job.h), so all replicas tend to the exact mean of them
 * all: in log2 N cycles of a fragment where the order is a hypercube, else by a constant factor a cycle
 * (gossip/pairing.h).  Nobody knows the mean, but everybody knows how far its partners were:
 *
 *   a fragment has settled   when W merges in cycles that follow each other, W = ceil(log2 N), at least 1, N
 *                            the live members, or 3 W in any, were all nearer than the tolerance, and none
 *                            since was not
 *   a member has settled     when all its fragments have; it says so in its PROGRESS register
 *   a member is done         when all live members have settled, or after gossip_finish_cycles_max(N) cycles
 *
 * W different partners, because one of them may have the same history: after the first dimension of a
 * hypercube each pair is equal and the halves may be far apart.  Cycles that follow each other have
 * independent dimensions (gossip/pairing.h); where exchanges fail the same one may come twice, so it takes
 * more of them. A member that vanishes leaves the view after GOSSIP_LIVE_ROUNDS and is not waited for.  Turns
 * that fail change nothing and count for nothing.
 *
 * Who does not contribute (it joined too late to be paired in the last training round, or it fetched a state
 * since) is not paired and not waited for, so it leaves the mean as it is; it fetches the merged state once
 * others are done.  So does a member that others have left behind: it missed its chance to be in the mean. */
#ifndef DUNLIN_GOSSIP_FINISH_H
#define DUNLIN_GOSSIP_FINISH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gossip/fragment.h"
#include "gossip/members.h"

enum {
    GOSSIP_FINISH_WINDOW_MAX = 8, /* ceil(log2 GOSSIP_MEMBERS_MAX) */
    GOSSIP_FINISH_NEAR = 3,
};

/* |theirs - ours| / |ours| under which two replicas count as equal.  Members end up nearer to the mean than
 * that, since the windows look back: 2e-5 of its norm for tournaments with fp32, 4e-8 for hypercubes, 3e-4
 * with mod4.  With mod4 and mod3 the distance falls by 0.7 a merge (as the codec's range fades), so each
 * factor of ten takes seven cycles: 1e-3 is reached within the bound from 0.1 apart, 1e-4 is not.  bf16,
 * int8 and mod2 stay at 3e-3, 1e-2 and as far as they are for ever, whence gossip_codec_choose_exact.
 * Measured: tests/gossip/test_finish.c --verbose. */
#define GOSSIP_FINISH_TOLERANCE 1e-3f

struct gossip_finish_fragment {
    uint32_t merges;
    float last[GOSSIP_FINISH_WINDOW_MAX]; /* relative distances, newest first; min(merges, MAX) are valid */
    float first;
    uint64_t cycle;       /* of the last merge */
    uint32_t near;        /* merges within the tolerance since the last one beyond it; ... */
    uint32_t streak;      /* ... those in cycles that follow each other, up to now ... */
    uint32_t streak_best; /* ... and at most */
};

struct gossip_finish {
    size_t fragment_count;
    uint64_t turns; /* ended, merged or not */
    uint32_t taken; /* 1 << fragment for each that had a turn */
    bool contributes;
    bool fetch_failed; /* nobody gave its state: not asked for again */
    struct gossip_finish_fragment fragments[GOSSIP_FRAGMENTS_MAX];
};

/* What is known of the other members that contribute and live. */
struct gossip_finish_others {
    size_t count;
    size_t settled; /* of them, done ones included */
    size_t done;    /* of them */
};

enum gossip_finish_verdict {
    GOSSIP_FINISH_GO_ON,   /* take the next turn at its time */
    GOSSIP_FINISH_HURRY,   /* nobody to wait for: take it now */
    GOSSIP_FINISH_FETCH,   /* take over the state of a member that is done */
    GOSSIP_FINISH_SETTLED, /* done: all agree, or nobody else is there */
    GOSSIP_FINISH_BOUND,   /* done: not all agree, and there was time enough */
};

/* fragments within 1..GOSSIP_FRAGMENTS_MAX (asserted).  contributes: own weights belong in the mean.
 */
void gossip_finish_begin(struct gossip_finish *f, size_t fragments, bool contributes);
/* A turn has ended with a merge with a partner at this relative distance (finite, not negative: asserted).
 * cycle: round / fragments, which decides the partner. */
void gossip_finish_merged(struct gossip_finish *f, size_t fragment, uint64_t cycle, float relative);
/* A turn has ended without one. */
void gossip_finish_alone(struct gossip_finish *f, size_t fragment);
/* The state could not be fetched. */
void gossip_finish_fetch_failed(struct gossip_finish *f);

/* Merges looked back on among so many live members, self included. */
unsigned gossip_finish_window(size_t members);
/* After so many cycles a member is done whatever the others say: 12 ceil(log2 N) + 16.  A hypercube needs 2
 * log2 N to agree and to know it, a tournament 9 to 13 at N = 3 and 5; the rest is for exchanges that fail (a
 * third of them: up to 51 cycles at N = 5, 45 at N = 16), members that vanish (two cycles of five fragments)
 * and coarse codecs (mod4 from 0.25 apart: 15 cycles at N = 2, 25 at N = 3). */
unsigned gossip_finish_cycles_max(size_t members);
/* Cycles taken: turns / fragments. */
uint64_t gossip_finish_cycles(const struct gossip_finish *f);
/* All fragments have settled among so many live members.  Who does not contribute always has. */
bool gossip_finish_settled(const struct gossip_finish *f, size_t members);
/* Largest relative distance in the windows of all fragments, or of the first merge of each; NaN while a
 * fragment has none. */
float gossip_finish_spread(const struct gossip_finish *f, size_t members);
float gossip_finish_spread_first(const struct gossip_finish *f);

/* What to do now; the counts of others as their registers say (settled <= count, done <= settled: asserted).
 */
enum gossip_finish_verdict gossip_finish_decide(const struct gossip_finish *f,
                                                const struct gossip_finish_others *others);
/* Whether so many of so many others are to be believed to be done: more than half.  A few that lie must not
 * make the others take over their weights, which pass no gate. */
bool gossip_finish_believed(size_t done, size_t count);

#endif
