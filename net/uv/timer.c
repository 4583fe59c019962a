#include "net/uv/timer.h"

#define MILLISECOND_NS UINT64_C(1000000)

static void on_timeout(uv_timer_t *handle);

static void start(struct net_uv_timer *timer, uint64_t now_ns)
{
    uint64_t wait_ns = timer->armed_ns > now_ns ? timer->armed_ns - now_ns : 0;
    uint64_t wait_ms = wait_ns / MILLISECOND_NS + (wait_ns % MILLISECOND_NS != 0);
    /* libuv calls timers until none is due, by a clock that stands still meanwhile: one that its
     * own callback arms for now would never let it look at sockets, signals and other threads again. */
    if (timer->is_due && wait_ms == 0)
        wait_ms = 1;
    /* Cannot fail: the callback is not NULL and the handle is not closing. */
    (void)uv_timer_start(&timer->handle, on_timeout, wait_ms, 0);
}

/* libuv counts from its cached time, which may lie behind, so a timer can come early. */
static void on_timeout(uv_timer_t *handle)
{
    struct net_uv_timer *timer = handle->data;
    uint64_t now_ns = uv_hrtime();
    if (timer->armed_ns > now_ns + MILLISECOND_NS / 2) {
        start(timer, now_ns);
        return;
    }
    timer->armed_ns = UINT64_MAX;
    timer->is_due = true;
    timer->on_due(timer->user, now_ns);
    timer->is_due = false;
}

int net_uv_timer_init(struct net_uv_timer *timer, uv_loop_t *loop,
                      void (*on_due)(void *user, uint64_t now_ns), void *user)
{
    *timer = (struct net_uv_timer){.armed_ns = UINT64_MAX, .on_due = on_due, .user = user};
    if (uv_timer_init(loop, &timer->handle) != 0)
        return ERR_IO;
    timer->handle.data = timer;
    return ERR_OK;
}

void net_uv_timer_arm(struct net_uv_timer *timer, uint64_t deadline_ns)
{
    if (deadline_ns == timer->armed_ns || uv_is_closing((uv_handle_t *)&timer->handle))
        return;
    timer->armed_ns = deadline_ns;
    if (deadline_ns == UINT64_MAX)
        (void)uv_timer_stop(&timer->handle);
    else
        start(timer, uv_hrtime());
}

static void on_closed_handle(uv_handle_t *handle)
{
    struct net_uv_timer *timer = handle->data;
    if (timer->on_closed != NULL)
        timer->on_closed(timer->user);
}

void net_uv_timer_close(struct net_uv_timer *timer, void (*on_closed)(void *user))
{
    timer->on_closed = on_closed;
    if (!uv_is_closing((uv_handle_t *)&timer->handle))
        uv_close((uv_handle_t *)&timer->handle, on_closed_handle);
}
