/* Merge on read: the mean of this node's slow weights and those that K other members publish, written to a
 * file (checkpoint.export with `merge`).  No all-reduce, and nothing changes in the run or at the members;
 * averaging members' weights recovers most of what a merge by all of them would (arXiv:2507.06542).
 *
 * One a run at a time.  The members' states are fetched one after the other by the run's gossip core, which
 * has one fetch at a time: as soon as the run needs it for itself this one gives way and continues
 * afterwards. Own weights are copied on the merge worker, as a checkpoint's are; all else happens on the disk
 * worker. Needs memory for three models meanwhile.  Loop thread only. */
#ifndef DUNLIN_NODE_EXPORT_MERGE_H
#define DUNLIN_NODE_EXPORT_MERGE_H

#include "base/pack.h"
#include "gossip/event.h"
#include "node/control.h"

struct run;

/* Answers the call, at once when it is refused; docs/protocol/control.md has parameters and answers.  False:
 * it asks for this node's model alone, which is the caller's to write. */
bool export_merge_start(struct run *run, struct control_call *call, const char *path,
                        const struct pack_reader *params);
/* Given every STATE and FETCH_FAILED of the run's core: true when it was of our fetch. */
bool export_merge_event(struct run *run, uint64_t now_ns, const struct gossip_event *event);
/* The run is about to fetch for itself: a fetch of ours is broken off. */
void export_merge_yield(struct run *run, uint64_t now_ns);
/* Goes on, tells how far it is, gives up what nobody waits for any more or what the node's or the run's end
 * does not allow. */
void export_merge_tick(struct run *run, uint64_t now_ns);
uint64_t export_merge_deadline_ns(const struct run *run);
/* At the run's end, when no job is under way and its core is not used any more. */
void export_merge_release(struct run *run);

#endif
