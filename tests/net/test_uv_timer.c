/* A timer whose owner's deadline stays in the past fires again and again, and must leave the loop's other
 * work its turn all the same. */
#include <criterion/criterion.h>

#include "net/uv/timer.h"

struct busy {
    uv_loop_t loop;
    struct net_uv_timer timer;
    uv_async_t other;
    unsigned fired;
    bool served;
};

static struct busy b;

static void on_other(uv_async_t *handle)
{
    (void)handle;
    b.served = true;
}

static void on_due(void *user, uint64_t now_ns)
{
    (void)user;
    b.fired++;
    if (b.fired == 1)
        cr_assert_eq(uv_async_send(&b.other), 0);
    if (b.served || b.fired == 1000) {
        net_uv_timer_close(&b.timer, NULL);
        uv_close((uv_handle_t *)&b.other, NULL);
        return;
    }
    net_uv_timer_arm(&b.timer, now_ns - 1);
}

Test(uv_timer, a_deadline_that_stays_in_the_past_shuts_nobody_out)
{
    cr_assert_eq(uv_loop_init(&b.loop), 0);
    cr_assert_eq(uv_async_init(&b.loop, &b.other, on_other), 0);
    cr_assert_eq(net_uv_timer_init(&b.timer, &b.loop, on_due, NULL), 0);
    net_uv_timer_arm(&b.timer, 1);
    cr_assert_eq(uv_run(&b.loop, UV_RUN_DEFAULT), 0);
    cr_assert(b.served, "fired %u times and the other handle never", b.fired);
    cr_assert_lt(b.fired, 10);
    cr_assert_eq(uv_loop_close(&b.loop), 0);
}
