/* One timer a core: armed from its deadline in nanoseconds.  Loop thread only. */
#ifndef DUNLIN_NET_UV_TIMER_H
#define DUNLIN_NET_UV_TIMER_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/err.h"

struct net_uv_timer {
    uv_timer_t handle;
    uint64_t armed_ns; /* UINT64_MAX: not armed */
    bool is_due;       /* on_due is running */
    void (*on_due)(void *user, uint64_t now_ns);
    void *user;
    void (*on_closed)(void *user);
};

/* The caller's memory must live until the close callback.  ERR_IO: libuv refused. */
MUST_USE int net_uv_timer_init(struct net_uv_timer *timer, uv_loop_t *loop,
                               void (*on_due)(void *user, uint64_t now_ns), void *user);
/* Arms for deadline_ns on uv_hrtime's clock, UINT64_MAX to disarm.  Rounded up to libuv's millisecond; a
 * deadline that has passed fires at the loop's next turn; armed by on_due itself, a millisecond later at most
 * and after whatever else waits for the loop.  Cheap when the deadline has not changed. */
void net_uv_timer_arm(struct net_uv_timer *timer, uint64_t deadline_ns);
/* on_closed (may be NULL) is called when the memory may be reused. */
void net_uv_timer_close(struct net_uv_timer *timer, void (*on_closed)(void *user));

#endif
