/* A change of addresses is told from the loop.  It is made in a network namespace of the test's own, where
 * the kernel allows one. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "net/uv/watch.h"

struct told {
    struct net_uv_watch *watch;
    int count;
};

static void on_change(void *user)
{
    struct told *told = user;
    told->count++;
    net_uv_watch_close(told->watch);
    told->watch = NULL;
}

static void give_address(void)
{
    struct ifreq request;
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    memset(&request, 0, sizeof request);
    memcpy(request.ifr_name, "lo", 3);
    memcpy(&request.ifr_addr, &addr, sizeof addr);
    cr_assert_eq(ioctl(fd, SIOCSIFADDR, &request), 0);
    cr_assert_eq(close(fd), 0);
}

Test(uv_watch, a_new_address_is_told, .timeout = 30)
{
    uv_loop_t loop;
    struct told told = {.count = 0};
    if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
        cr_skip_test("no network namespace of its own");
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(net_uv_watch_open(&told.watch, &loop, on_change, &told), ERR_OK);
    give_address();
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0, "the loop ends, since the watch closes in its callback");
    cr_assert_eq(told.count, 1);
    cr_assert_eq(uv_loop_close(&loop), 0);
}

Test(uv_watch, closing_at_once_leaves_nothing)
{
    uv_loop_t loop;
    struct told told = {.count = 0};
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(net_uv_watch_open(&told.watch, &loop, on_change, &told), ERR_OK);
    net_uv_watch_close(told.watch);
    net_uv_watch_close(NULL);
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    cr_assert_eq(uv_loop_close(&loop), 0);
}
