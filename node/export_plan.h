/* Whose weights go into a merged export, and when each is asked: pure, node/export_merge.c carries out.
 *
 * Members are asked one after the other, in the order in which they were added, until as many as were wanted
 * have given their weights.  Each has a budget of silence: time in which nothing came from it while it was
 * asked, pauses before another try included.  Who has used it up, or gives what cannot be used, is left out;
 * who is busy, or has nothing to give yet, comes again after the others. */
#ifndef DUNLIN_NODE_EXPORT_PLAN_H
#define DUNLIN_NODE_EXPORT_PLAN_H

#include <stdbool.h>

#include "base/id.h"
#include "gossip/members.h"

enum { EXPORT_MEMBERS_MAX = GOSSIP_MEMBERS_MAX, EXPORT_RETRY_MS = 1000 };

enum export_fate { EXPORT_WAITING, EXPORT_MERGED, EXPORT_MISSING };

struct export_member {
    struct id id;
    enum export_fate fate;
    uint64_t spent_ns; /* of its budget */
    uint64_t retry_ns; /* not asked before */
    uint64_t round;    /* MERGED: of its weights */
    double distance;   /* MERGED: to the mean of those before, relative to their norm */
    int err;           /* MISSING: why; WAITING: what went wrong last, 0: nothing */
};

struct export_plan {
    struct export_member members[EXPORT_MEMBERS_MAX];
    size_t count;
    size_t wanted, merged;
    size_t current; /* the one being asked; count: none */
    uint64_t silence_ns;
    uint64_t heard_ns; /* current: asked, or something came from it */
    uint64_t bytes;    /* current: that had come by then */
};

/* wanted and silence_ns: at least 1. */
void export_plan_init(struct export_plan *plan, size_t wanted, uint64_t silence_ns);
/* A further member, before the first is asked; those beyond EXPORT_MEMBERS_MAX are ignored. */
void export_plan_add(struct export_plan *plan, const struct id *id);

enum export_step {
    EXPORT_ASK,   /* the member at `current` is to be asked now */
    EXPORT_PAUSE, /* somebody may be asked later: come again at export_plan_deadline_ns */
    EXPORT_DONE,  /* enough have been merged, or nobody is left */
};

/* What to do while nobody is being asked (asserted). */
enum export_step export_plan_next(struct export_plan *plan, uint64_t now_ns);
/* True when the one being asked has used up its budget; bytes is what has come from it in all. */
bool export_plan_silent(struct export_plan *plan, uint64_t now_ns, uint64_t bytes);
/* What became of the one being asked: its weights are in the mean; */
void export_plan_merged(struct export_plan *plan, uint64_t round, double distance);
/* it gave nothing: it comes again after the others unless its budget is used up, or err is one that another
 * try would not change (ERR_MALFORMED, ERR_MISMATCH, ERR_NOT_FINITE, ERR_FAR, ERR_TIMEOUT); */
void export_plan_failed(struct export_plan *plan, uint64_t now_ns, int err);
/* or we broke it off for a reason of our own: it comes again first, a moment later. */
void export_plan_interrupted(struct export_plan *plan, uint64_t now_ns);
/* When export_plan_next has something new to say while nobody is being asked; 0: at once. */
uint64_t export_plan_deadline_ns(const struct export_plan *plan);

#endif
