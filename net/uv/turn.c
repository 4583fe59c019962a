/* Turns of the loop, measured. */
#include "net/uv/turn.h"

#include <stdbool.h>
#include <time.h>

static uint64_t processor_ns(void)
{
    struct timespec now;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) < 0)
        return 0;
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* libuv calls this before each poll; sockets, timers and other threads' messages come in between. */
static void on_prepare(uv_prepare_t *handle)
{
    struct net_uv_turn *turn = handle->data;
    uint64_t now_ns = processor_ns(), hr_ns = uv_hrtime();
    uint64_t took_ns = turn->began_ns != 0 && now_ns > turn->began_ns ? now_ns - turn->began_ns : 0;
    turn->began_ns = now_ns;
    if (hr_ns - turn->window_ns >= NET_UV_TURN_WINDOW_NS) {
        bool gap = hr_ns - turn->window_ns >= 2 * NET_UV_TURN_WINDOW_NS;
        turn->before_ns = gap ? 0 : turn->longest_ns;
        turn->longest_ns = 0;
        turn->window_ns = hr_ns;
    }
    turn->longest_ns = took_ns > turn->longest_ns ? took_ns : turn->longest_ns;
}

int net_uv_turn_init(struct net_uv_turn *turn, uv_loop_t *loop)
{
    *turn = (struct net_uv_turn){.window_ns = uv_hrtime()};
    if (uv_prepare_init(loop, &turn->handle) < 0)
        return ERR_IO;
    turn->handle.data = turn;
    if (uv_prepare_start(&turn->handle, on_prepare) < 0)
        return ERR_IO;
    uv_unref((uv_handle_t *)&turn->handle);
    return ERR_OK;
}

uint64_t net_uv_turn_longest_ns(const struct net_uv_turn *turn)
{
    return turn->longest_ns > turn->before_ns ? turn->longest_ns : turn->before_ns;
}

void net_uv_turn_close(struct net_uv_turn *turn)
{
    uv_close((uv_handle_t *)&turn->handle, NULL);
}
