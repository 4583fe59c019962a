/* How long the loop's thread works in one turn, from one look for timers to the next: nothing else on the
 * thread is served meanwhile.  Processor time, so that a busy machine does not look like a busy loop.  Loop
 * thread only.  Costs one clock_gettime a turn. */
#ifndef DUNLIN_NET_UV_TURN_H
#define DUNLIN_NET_UV_TURN_H

#include <stdint.h>
#include <uv.h>

#include "base/err.h"

#define NET_UV_TURN_WINDOW_NS UINT64_C(60000000000)

struct net_uv_turn {
    uv_prepare_t handle;
    uint64_t began_ns;   /* processor time of the thread when this turn began; 0: before the first */
    uint64_t window_ns;  /* uv_hrtime when the present window began */
    uint64_t longest_ns; /* in the present window ... */
    uint64_t before_ns;  /* ... and in the one before */
};

/* Begins to measure.  Does not keep the loop alive.  The caller's memory must live until the loop is closed.
 * ERR_IO: libuv refused. */
MUST_USE int net_uv_turn_init(struct net_uv_turn *turn, uv_loop_t *loop);
/* The longest turn of the last one to two minutes, in nanoseconds. */
uint64_t net_uv_turn_longest_ns(const struct net_uv_turn *turn);
void net_uv_turn_close(struct net_uv_turn *turn);

#endif
