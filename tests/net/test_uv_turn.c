/* A turn counts with the work done in it, not with the time spent waiting. */
#include <criterion/criterion.h>
#include <time.h>

#include "net/uv/turn.h"

enum { WORK_MS = 30, SLEEP_MS = 60 };

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    cr_assert_eq(clock_gettime(clock, &now), 0);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Works, then sleeps in the same turn. */
static void on_timer(uv_timer_t *timer)
{
    uint64_t end = clock_ns(CLOCK_THREAD_CPUTIME_ID) + (uint64_t)WORK_MS * 1000000;
    while (clock_ns(CLOCK_THREAD_CPUTIME_ID) < end)
        ;
    uv_sleep(SLEEP_MS);
    uv_close((uv_handle_t *)timer, NULL);
}

Test(uv_turn, work_counts_and_waiting_does_not)
{
    uv_loop_t loop;
    uv_timer_t timer;
    struct net_uv_turn turn;
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(net_uv_turn_init(&turn, &loop), ERR_OK);
    cr_assert_eq(uv_timer_init(&loop, &timer), 0);
    cr_assert_eq(uv_timer_start(&timer, on_timer, 5, 0), 0);
    /* The measuring handle alone does not keep the loop alive; the turn ends with the next run of it. */
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    (void)uv_run(&loop, UV_RUN_NOWAIT);
    double longest_ms = (double)net_uv_turn_longest_ns(&turn) / 1e6;
    cr_assert(longest_ms >= WORK_MS && longest_ms < WORK_MS + SLEEP_MS, "%g ms", longest_ms);
    net_uv_turn_close(&turn);
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    cr_assert_eq(uv_loop_close(&loop), 0);
}

/* What is long ago is forgotten. */
Test(uv_turn, two_windows_are_kept)
{
    uv_loop_t loop;
    struct net_uv_turn turn;
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(net_uv_turn_init(&turn, &loop), ERR_OK);
    uv_ref((uv_handle_t *)&turn.handle); /* as the node's other handles keep its loop going */
    turn.longest_ns = 7000000000;
    turn.window_ns -= NET_UV_TURN_WINDOW_NS;
    (void)uv_run(&loop, UV_RUN_NOWAIT);
    cr_assert_eq(net_uv_turn_longest_ns(&turn), 7000000000);
    turn.window_ns -= NET_UV_TURN_WINDOW_NS;
    (void)uv_run(&loop, UV_RUN_NOWAIT);
    cr_assert_lt(net_uv_turn_longest_ns(&turn), 7000000000);
    net_uv_turn_close(&turn);
    (void)uv_run(&loop, UV_RUN_NOWAIT);
    cr_assert_eq(uv_loop_close(&loop), 0);
}
