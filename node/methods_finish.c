/* run.finish: the creator ends a run, and whoever asks is told how the merging goes. */
#include <stdio.h>
#include <string.h>

#include "base/err.h"
#include "node/methods_internal.h"
#include "node/run_internal.h"

#define TELL_NS NODE_SECOND_NS

/* Signs and appends the CLOSE entry.  False: the call was answered. */
static bool close_chain(struct run *run, struct control_call *call, uint64_t last)
{
    uint8_t bytes[CRDT_ENTRY_MAX];
    struct crdt_entry entry = {.kind = CRDT_ENTRY_CLOSE, .round = last};
    char owner[ID_TEXT_SIZE];
    int len = crdt_chain_sign(&run->chain, &entry, node_wall_ms(), bytes, sizeof bytes);
    id_format(&run->chain.owner, owner);
    if (len == ERR_PERMISSION) {
        control_fail(call, len,
                     "only the creator of run %s may end it early, on the node %s; it ends by itself after "
                     "round %llu",
                     run->name, owner, (unsigned long long)run_last_round(run));
        return false;
    }
    if (len == ERR_STATE && run->chain.state == CRDT_CHAIN_FROZEN) {
        control_fail(call, len,
                     "the chain of run %s is forked: nothing can be added to it any more; it ends by itself "
                     "after round %llu",
                     run->name, (unsigned long long)run_last_round(run));
        return false;
    }
    int result = len < 0 ? len : crdt_chain_append(&run->chain, bytes_of(bytes, (size_t)len));
    if (result < 0) {
        control_fail(call, result, "run %s could not be ended: %s", run->name, err_text(result));
        return false;
    }
    state_store_chain(run->node, run);
    run_chain_changed(run, node_now_ns());
    return true;
}

/* The run is to end after some more rounds, unless it ends no later anyway.  False: the call was answered. */
static bool end_run(struct run *run, struct control_call *call, uint64_t after)
{
    struct run_swarm swarm;
    run_swarm_now(run, &swarm);
    uint64_t present = run->round > swarm.round_max ? run->round : swarm.round_max; /* if paused here */
    uint64_t last = run_last_round(run);
    bool open = run->chain.state == CRDT_CHAIN_LIVE || run->chain.state == CRDT_CHAIN_FROZEN;
    if (!open || present >= last)
        return true;
    bool owner = id_equal(&run->chain.owner, &run->node->identity.id);
    if (owner && after >= last - present)
        return true;
    return close_chain(run, call, present + after);
}

static bool is_over(const struct run *run)
{
    return (run->stage == RUN_FINISHED && run->ending.evaluated) || run->stage == RUN_FAILED || run->paused;
}

static void tell(struct control_call *call, struct run *run, bool more)
{
    struct reply *r = control_answer(call);
    run_reply(run, r);
    control_finish(call, more);
}

void method_run_finish(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    struct run *run = method_run(node, call, params);
    uint64_t after = 0;
    bool wait = true;
    if (run == NULL)
        return;
    if (!run->has_chain || run->stage == RUN_FAILED) {
        control_fail(call, ERR_STATE, "run %s cannot be ended from here: it is %s", run->name,
                     run_stage_name(run));
        return;
    }
    if (!control_uint(params, "after", &after))
        after = run->shape.fragment_count;
    (void)control_bool(params, "wait", &wait);
    if (after > GOSSIP_ROUND_MAX) {
        control_fail(call, ERR_INVALID, "run.finish: after must be a number of rounds");
        return;
    }
    if (!end_run(run, call, after))
        return;
    wait = wait && !is_over(run);
    if (wait && run->ending.waiter_count == RUN_WAITERS_MAX) {
        control_fail(call, ERR_BUSY, "%d calls wait for the end of run %s already", RUN_WAITERS_MAX,
                     run->name);
        return;
    }
    if (wait)
        run->ending.waiters[run->ending.waiter_count++] = control_ref_of(call);
    run->ending.tell_ns = node_now_ns() + TELL_NS;
    tell(call, run, wait);
}

void methods_finish_tick(struct run *run, uint64_t now_ns)
{
    struct run_ending *e = &run->ending;
    bool over = is_over(run) || run->leaving;
    size_t left = 0;
    if (e->waiter_count == 0 || (!over && now_ns < e->tell_ns))
        return;
    e->tell_ns = now_ns + TELL_NS;
    for (size_t i = 0; i < e->waiter_count; i++) {
        struct control_call *call =
            run->node->control == NULL ? NULL : control_resolve(run->node->control, e->waiters[i]);
        if (call == NULL)
            continue; /* it went away; the end goes on */
        if (run->leaving)
            control_fail(call, ERR_CLOSED, "this node leaves run %s; the others end it without", run->name);
        else
            tell(call, run, !over);
        if (!over)
            e->waiters[left++] = e->waiters[i];
    }
    e->waiter_count = left;
}

uint64_t methods_finish_deadline_ns(const struct run *run)
{
    if (run->ending.waiter_count == 0)
        return UINT64_MAX;
    return is_over(run) || run->leaving ? 0 : run->ending.tell_ns;
}
