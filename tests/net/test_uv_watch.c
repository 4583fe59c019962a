/* A change of addresses or routes is told from the loop.  It is made in a network namespace of the test's
 * own, where the kernel allows one. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <net/if.h>
#include <net/route.h>
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

static void control(unsigned long request, void *argument)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(ioctl(fd, request, argument), 0);
    cr_assert_eq(close(fd), 0);
}

static void give_address(void)
{
    struct ifreq request;
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0xc0000207)};
    memset(&request, 0, sizeof request);
    memcpy(request.ifr_name, "lo", 3);
    memcpy(&request.ifr_addr, &addr, sizeof addr);
    control(SIOCSIFADDR, &request);
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

static void bring_up(void)
{
    struct ifreq request;
    memset(&request, 0, sizeof request);
    memcpy(request.ifr_name, "lo", 3);
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    control(SIOCSIFFLAGS, &request);
}

/* "lo" gets a way to everywhere: only then does anything leave, and that is told as well. */
static void give_route(void)
{
    struct rtentry route;
    struct sockaddr_in any = {.sin_family = AF_INET};
    char lo[] = "lo";
    memset(&route, 0, sizeof route);
    memcpy(&route.rt_dst, &any, sizeof any);
    memcpy(&route.rt_genmask, &any, sizeof any);
    route.rt_flags = RTF_UP;
    route.rt_dev = lo;
    control(SIOCADDRT, &route);
}

Test(uv_watch, a_new_route_is_told_and_gives_a_source, .timeout = 30)
{
    uv_loop_t loop;
    struct told told = {.count = 0};
    if (unshare(CLONE_NEWNET) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0)
        cr_skip_test("no network namespace of its own");
    cr_assert_eq(uv_loop_init(&loop), 0);
    give_address();
    bring_up();
    cr_expect_eq(net_uv_watch_source(NET_FAMILY_V4).family, NET_FAMILY_NONE,
                 "an address alone leads nowhere");
    cr_expect_eq(net_uv_watch_source(NET_FAMILY_V6).family, NET_FAMILY_NONE);
    cr_assert_eq(net_uv_watch_open(&told.watch, &loop, on_change, &told), ERR_OK);
    give_route();
    cr_assert_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    cr_assert_eq(told.count, 1);
    struct net_addr source = net_uv_watch_source(NET_FAMILY_V4);
    char text[NET_ADDR_TEXT_SIZE];
    net_addr_format(&source, text);
    cr_expect_str_eq(text, "192.0.2.7:0");
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
