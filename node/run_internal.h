/* What the files of a run share: run.c (joining, leaving, settings), run_round.c (the round clock),
 * run_finish.c (the end), run_turn.c (one fragment's round) and run_turn_memory.c, run_state.c (weights from
 * disk and peers, checkpoints), run_view.c (registers in and out, answers for people). */
#ifndef DUNLIN_NODE_RUN_INTERNAL_H
#define DUNLIN_NODE_RUN_INTERNAL_H

#include "node/internal.h"

/* Tags of trainer commands: what their answer is for. */
enum run_tag {
    TAG_ROUND = 1,
    TAG_ROUND_ODD,
    TAG_START,
    TAG_FETCHED,
    TAG_SAVE,
    TAG_EVALUATE,
    TAG_FINAL,
    TAG_CALL
};

/* Who shares the run: what the registers say.  Every answer is about other members, except where self is
 * named. */
struct run_swarm {
    size_t members;     /* live, self included */
    uint64_t round_max; /* furthest progress that is believed (run_swarm_now) */
    struct id donor;    /* who to fetch a state from: the furthest ahead, after failures the next */
    bool has_donor;
    bool donor_done;                    /* it has finished the run, as enough others have */
    struct gossip_finish_others finish; /* those that are merged at the end of the run */
    double spread;                      /* the largest that any of them tells; NaN: none does */
};

/* run.c */
void run_fail(struct run *run, const char *format, ...) PRINTF_LIKE(2, 3);
void run_set_running(struct run *run);
void run_release(struct run *run);
/* True while a job or the trainer thread still uses what the run owns. */
bool run_is_busy(const struct run *run);
/* Repair with every connected peer. */
void run_sync_all(struct run *run);

/* run_turn_memory.c: bytes of the longest list of wrong blocks. */
size_t run_turn_list_max(const struct gossip_layout *layout);

/* run_round.c */
void run_enter_training(struct run *run, uint64_t now_ns, uint64_t round);
void run_round_tick(struct run *run, uint64_t now_ns);
/* When it has something to do; UINT64_MAX: not before a turn ends, if at all. */
uint64_t run_round_deadline_ns(const struct run *run);
/* A turn has ended. */
void run_round_applied(struct run *run);

/* run_finish.c */
void run_finish(struct run *run);

/* run_state.c */
/* Reads the newest checkpoint on the disk worker, then goes on to SYNCING. */
void run_load_checkpoint(struct run *run);
void run_begin_fetch(struct run *run, uint64_t now_ns);
void run_fetched(struct run *run, uint64_t now_ns, const struct gossip_event *event);
void run_fetch_failed(struct run *run, uint64_t now_ns, const struct gossip_event *event);
void run_weights_loaded(struct run *run, uint64_t tag, const char *error);
void run_exported(struct run *run, uint8_t *bytes, size_t len);
/* A checkpoint that was asked for does not come about. */
void run_save_failed(struct run *run, int err);
void run_publish_state(struct run *run);
/* There is something to save, from save_next_ns on. */
bool run_save_wanted(const struct run *run);
void run_state_tick(struct run *run, uint64_t now_ns);

/* run_view.c */
/* A round is believed when a second member (we count) is near it: one alone cannot send all others fetching.
 * When no two are near each other, the furthest is taken at its word. */
void run_swarm_now(struct run *run, struct run_swarm *out);
/* The other live members by their registers, in no order; returns how many.  *round_max as in struct
 * run_swarm, *live with self. */
enum { RUN_OTHERS_MAX = 2 * GOSSIP_MEMBERS_MAX };
size_t run_others_now(const struct run *run, struct gossip_member_state others[RUN_OTHERS_MAX],
                      uint64_t *round_max, size_t *live);
void run_view_now(struct run *run, uint64_t round, struct gossip_view *view);
void run_put_member(struct run *run, uint64_t now_ns);
void run_put_progress(struct run *run);
uint64_t run_tokens(const struct run *run);
uint64_t run_steps(const struct run *run);
void run_view_tick(struct run *run, uint64_t now_ns);
/* Parts of run.show. */
void run_reply_members(struct run *run, struct reply *r);
void run_reply_config(struct run *run, struct reply *r);

#endif
