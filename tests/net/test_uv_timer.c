#include <criterion/criterion.h>

#include "net/uv/timer.h"

enum { CALLS_MAX = 1000 };

struct busy {
    struct net_uv_timer timer;
    uv_async_t async;
    unsigned calls;
    bool heard;
};

static void end(struct busy *busy)
{
    net_uv_timer_close(&busy->timer, NULL);
    uv_close((uv_handle_t *)&busy->async, NULL);
}

static void on_async(uv_async_t *async)
{
    struct busy *busy = async->data;
    busy->heard = true;
    end(busy);
}

static void arm_again(void *user, uint64_t now_ns)
{
    struct busy *busy = user;
    if (++busy->calls == CALLS_MAX)
        end(busy);
    else
        net_uv_timer_arm(&busy->timer, now_ns);
}

/* A core whose deadline has always passed must not keep the loop for itself: what another thread says is
 * heard in between, as are sockets and signals, which wait in the same place. */
Test(uv_timer, one_that_is_always_due_lets_others_in, .timeout = 30)
{
    uv_loop_t loop;
    struct busy busy = {.calls = 0};
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(net_uv_timer_init(&busy.timer, &loop, arm_again, &busy), ERR_OK);
    cr_assert_eq(uv_async_init(&loop, &busy.async, on_async), 0);
    busy.async.data = &busy;
    net_uv_timer_arm(&busy.timer, uv_hrtime());
    cr_assert_eq(uv_async_send(&busy.async), 0);
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    cr_assert(busy.heard, "after %u calls of the timer nothing else was heard", busy.calls);
    cr_assert_eq(uv_loop_close(&loop), 0);
}

struct once {
    struct net_uv_timer timer;
    uint64_t deadline_ns, came_ns;
};

static void on_once(void *user, uint64_t now_ns)
{
    struct once *once = user;
    once->came_ns = now_ns;
    net_uv_timer_close(&once->timer, NULL);
}

/* It comes once, and no earlier than half a millisecond before its time, however often it was armed before.
 */
Test(uv_timer, the_last_deadline_counts, .timeout = 30)
{
    uv_loop_t loop;
    struct once once = {.came_ns = 0};
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(net_uv_timer_init(&once.timer, &loop, on_once, &once), ERR_OK);
    once.deadline_ns = uv_hrtime() + 20000000;
    net_uv_timer_arm(&once.timer, 0);
    net_uv_timer_arm(&once.timer, UINT64_MAX);
    net_uv_timer_arm(&once.timer, once.deadline_ns);
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    cr_assert_geq(once.came_ns + 500000, once.deadline_ns);
    cr_assert_eq(uv_loop_close(&loop), 0);
}
