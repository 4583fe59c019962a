/* The thread that talks to routers, against one that lies (tests/node/hostile_router, on loopback): each
 * command ends in bounded time and memory, with the error that fits, and ending never waits for a router.
 * Also the parsers of what /proc and the helper say. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <sodium.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "node/portmap_internal.h"
#include "node/portmap_thread.h"

extern char **environ;

static const uint64_t second_ns = UINT64_C(1000000000);

static uv_loop_t loop;
static struct portmap_thread *thread;
static struct nat_portmap_result last;
static unsigned results;
static uint64_t job_ns; /* 0: as usual */
static pid_t router;

static void on_result(void *user, const struct nat_portmap_result *result)
{
    (void)user;
    last = *result;
    results++;
}

/* Starts a router that lies so; returns its port.  It ends with our end of its standard input. */
static uint16_t router_open(const char *mode)
{
    int in[2], out[2];
    char path[256], text[16] = "";
    (void)snprintf(path, sizeof path, "%s/hostile_router", TEST_SOURCE_DIR);
    cr_assert_eq(pipe2(in, O_CLOEXEC), 0);
    cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    cr_assert_eq(posix_spawn_file_actions_init(&actions), 0);
    cr_assert_eq(posix_spawn_file_actions_adddup2(&actions, in[0], 0), 0);
    cr_assert_eq(posix_spawn_file_actions_adddup2(&actions, out[1], 1), 0);
    char *argv[] = {path, (char *)(uintptr_t)mode, NULL};
    cr_assert_eq(posix_spawn(&router, path, &actions, NULL, argv, environ), 0);
    (void)posix_spawn_file_actions_destroy(&actions);
    (void)close(in[0]);
    (void)close(out[1]);
    cr_assert_gt(read(out[0], text, sizeof text - 1), 0);
    return (uint16_t)atoi(text);
}

static void start(uint16_t pcp_port, uint16_t http_port)
{
    char url[64];
    struct portmap_thread_config config = {.upnp_helper = TEST_UPNP_HELPER};
    (void)snprintf(url, sizeof url, "http://127.0.0.1:%u/desc", http_port);
    if (pcp_port != 0)
        config.gateway = (struct net_addr){.family = NET_FAMILY_V4, .ip = {127, 0, 0, 1}, .port = pcp_port};
    config.upnp_url = url;
    config.job_ns = job_ns;
    cr_assert_geq(sodium_init(), 0);
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(portmap_thread_start(&thread, &loop, &config, on_result, NULL), ERR_OK);
}

static void submit(enum nat_portmap_op op, enum nat_portmap_protocol protocol)
{
    struct nat_portmap_command command = {
        .token = 77, .op = op, .protocol = protocol, .lifetime_s = 7200, .port = 4242, .nonce = {1, 2, 3}};
    cr_assert_eq(portmap_thread_submit(thread, &command), ERR_OK);
}

/* A minute only ends a test that fails: the thread's own bound is 8 s. */
static void run_until(unsigned count)
{
    uint64_t end_ns = uv_hrtime() + 60 * second_ns;
    while (results < count && uv_hrtime() < end_ns)
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    cr_assert_geq(results, count, "no answer in a minute");
    cr_assert_eq(last.token, 77);
}

static void stop(void)
{
    portmap_thread_stop(thread);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&loop), 0);
    if (router > 0) {
        (void)kill(router, SIGKILL);
        (void)waitpid(router, NULL, 0);
    }
    cr_assert_eq(waitpid(-1, NULL, WNOHANG), -1, "a helper was left behind");
}

static void expect_upnp(const char *mode, int error)
{
    start(0, router_open(mode));
    submit(NAT_PORTMAP_ADD, NAT_PORTMAP_UPNP);
    run_until(1);
    cr_expect_eq(last.error, error, "%s: %s", mode, err_name(last.error));
    stop();
}

Test(portmap_thread, upnp_good)
{
    expect_upnp("http-good", ERR_OK);
    cr_expect_eq(last.external.port, 4242);
    cr_expect_eq(last.external.ip[0], 11);
    cr_expect_eq(last.lifetime_s, 7200);
}

Test(portmap_thread, upnp_permanent_leases_only)
{
    expect_upnp("http-permanent", ERR_OK);
    cr_expect_eq(last.lifetime_s, 0);
}

Test(portmap_thread, upnp_port_taken)
{
    expect_upnp("http-taken", ERR_OK);
    cr_expect_neq(last.external.port, 4242);
}

Test(portmap_thread, upnp_inner_address)
{
    expect_upnp("http-inner", ERR_OK); /* what it says; nat/portmap.h judges it */
    cr_expect_eq(net_addr_scope(&last.external), NET_SCOPE_PRIVATE);
}

Test(portmap_thread, upnp_table_full)
{
    expect_upnp("http-full", ERR_FULL);
    cr_expect_eq(last.detail, 501);
}

Test(portmap_thread, upnp_maps_to_somebody_else)
{
    expect_upnp("http-other-client", ERR_MALFORMED);
}

Test(portmap_thread, upnp_address_that_is_none)
{
    expect_upnp("http-text", ERR_MALFORMED);
}

/* Its controls on another host: nobody is to be made to send requests there. */
Test(portmap_thread, upnp_controls_elsewhere)
{
    job_ns = second_ns;
    expect_upnp("http-elsewhere", ERR_TIMEOUT);
}

/* Bytes for ever, 20 a second: the time runs out, not the patience. */
Test(portmap_thread, upnp_dribble)
{
    job_ns = second_ns;
    expect_upnp("http-dribble", ERR_TIMEOUT);
}

Test(portmap_thread, upnp_silent)
{
    job_ns = second_ns;
    expect_upnp("http-silent", ERR_TIMEOUT);
}

/* Never ending at full speed: the helper's memory has a limit, ours is not touched. */
Test(portmap_thread, upnp_huge)
{
    start(0, router_open("http-huge"));
    submit(NAT_PORTMAP_ADD, NAT_PORTMAP_UPNP);
    run_until(1);
    cr_expect_lt(last.error, 0, "%s", err_name(last.error));
    stop();
    struct rusage usage;
    cr_assert_eq(getrusage(RUSAGE_CHILDREN, &usage), 0);
    cr_expect_lt(usage.ru_maxrss, 256 * 1024, "%ld KiB", usage.ru_maxrss); /* without the limit: 1.4 GiB */
}

Test(portmap_thread, upnp_broken_answers)
{
    static const char *const modes[] = {"http-length", "http-chunks", "http-malformed"};
    job_ns = second_ns;
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        results = 0;
        start(0, router_open(modes[i]));
        submit(NAT_PORTMAP_ADD, NAT_PORTMAP_UPNP);
        run_until(1);
        cr_expect_lt(last.error, 0, "%s: %s", modes[i], err_name(last.error));
        stop();
    }
}

static void expect_pcp(const char *mode, int error)
{
    start(router_open(mode), 1);
    submit(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP);
    run_until(1);
    cr_expect_eq(last.error, error, "%s: %s", mode, err_name(last.error));
    stop();
}

Test(portmap_thread, pcp_good)
{
    expect_pcp("pcp-good", ERR_OK);
    cr_expect_eq(last.external.port, 5001);
    cr_expect_eq(last.lifetime_s, 3600);
    cr_expect(last.epoch_known && last.epoch_s == 9);
}

Test(portmap_thread, pcp_port_0)
{
    expect_pcp("pcp-port-0", ERR_OK);
    cr_expect_eq(last.external.port, 0);
}

Test(portmap_thread, pcp_refused)
{
    expect_pcp("pcp-refused", ERR_REFUSED);
    cr_expect_eq(last.detail, NAT_PCP_NOT_AUTHORIZED);
}

Test(portmap_thread, pcp_full)
{
    expect_pcp("pcp-full", ERR_FULL);
}

Test(portmap_thread, pcp_server_speaks_natpmp)
{
    expect_pcp("pcp-natpmp", ERR_VERSION);
}

Test(portmap_thread, pcp_noise_is_ignored)
{
    expect_pcp("pcp-noise", ERR_OK);
    cr_expect_eq(last.external.port, 5002);
}

Test(portmap_thread, pcp_silent)
{
    job_ns = second_ns;
    expect_pcp("pcp-silent", ERR_TIMEOUT);
}

Test(portmap_thread, pcp_endless_noise)
{
    job_ns = second_ns;
    expect_pcp("pcp-endless", ERR_TIMEOUT);
}

Test(portmap_thread, pcp_nobody_listens)
{
    start(1, 1); /* port 1 of loopback */
    submit(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP);
    run_until(1);
    cr_expect_eq(last.error, ERR_TIMEOUT);
    stop();
}

/* Ending cuts off what adds, at once: the results are there without the loop having turned. */
Test(portmap_thread, stop_while_jobs_hang)
{
    start(0, router_open("http-silent"));
    submit(NAT_PORTMAP_ADD, NAT_PORTMAP_UPNP);
    submit(NAT_PORTMAP_ADD, NAT_PORTMAP_UPNP);
    submit(NAT_PORTMAP_DELETE, NAT_PORTMAP_UPNP); /* no grace: cut off too */
    stop();
    cr_expect_eq(results, 3);
}

Test(portmap_thread, deletes_have_their_grace)
{
    start(router_open("pcp-good"), 1);
    submit(NAT_PORTMAP_DELETE, NAT_PORTMAP_PCP);
    portmap_thread_end(thread, PORTMAP_THREAD_END_GRACE_NS);
    cr_expect_eq(portmap_thread_submit(thread, &(struct nat_portmap_command){.token = 1}), ERR_CLOSED);
    stop();
    cr_expect_eq(results, 1);
    cr_expect_eq(last.error, ERR_OK);
}

Test(portmap_thread, queue_is_bounded)
{
    start(router_open("pcp-silent"), 1);
    for (int i = 0; i < PORTMAP_THREAD_JOBS_MAX; i++)
        submit(NAT_PORTMAP_ADD, NAT_PORTMAP_PCP);
    cr_expect_eq(portmap_thread_submit(thread, &(struct nat_portmap_command){.token = 1}), ERR_FULL);
    stop();
    cr_expect_eq(results, PORTMAP_THREAD_JOBS_MAX);
}

Test(portmap_thread, no_helper)
{
    struct portmap_thread_config config = {0};
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(portmap_thread_start(&thread, &loop, &config, on_result, NULL), ERR_OK);
    submit(NAT_PORTMAP_ADD, NAT_PORTMAP_UPNP);
    run_until(1);
    cr_expect_eq(last.error, ERR_UNSUPPORTED);
    stop();
}

Test(portmap_thread, gateways)
{
    struct net_addr addr, wanted;
    char interface[32];
    const char *head =
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
    char text[1024];
    (void)snprintf(text, sizeof text,
                   "%swlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n"
                   "eth0\t00000000\t014DA8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n"
                   "eth0\t00000000\t00000000\t0001\t0\t0\t1\t00000000\t0\t0\t0\n"
                   "eth0\t004DA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
                   head);
    cr_assert_eq(portmap_gateway_parse4(text, &addr), ERR_OK);
    cr_assert_eq(net_addr_parse("192.168.77.1:5351", &wanted), ERR_OK);
    cr_expect(net_addr_equal(&addr, &wanted), "the lowest metric");
    cr_expect_eq(portmap_gateway_parse4(head, &addr), ERR_NOT_FOUND);
    cr_expect_eq(portmap_gateway_parse4("", &addr), ERR_NOT_FOUND);

    cr_assert_eq(portmap_gateway_parse6(
                     "2a010077000100000000000000000000 40 00000000000000000000000000000000 00 "
                     "00000000000000000000000000000000 00000100 00000001 00000000 00000001     lan0\n"
                     "00000000000000000000000000000000 00 00000000000000000000000000000000 00 "
                     "fe800000000000000000000000000001 00000400 00000001 00000000 00000003     lan0\n"
                     "00000000000000000000000000000000 00 00000000000000000000000000000000 00 "
                     "00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n",
                     &addr, interface),
                 ERR_OK);
    cr_assert_eq(net_addr_parse("[fe80::1]:5351", &wanted), ERR_OK);
    cr_expect(net_addr_equal(&addr, &wanted));
    cr_expect_str_eq(interface, "lan0");
    cr_expect_eq(portmap_gateway_parse6("", &addr, interface), ERR_NOT_FOUND);
}

Test(portmap_thread, helper_lines)
{
    static const char *const bad[] = {"",
                                      "ok",
                                      "ok 1.2.3.4",
                                      "ok 1.2.3 4242 7200 http://x",
                                      "ok 11.0.0.1 70000 1 http://x",
                                      "ok x 1 1 http://x",
                                      "error",
                                      "error what 1",
                                      "hello"};
    struct nat_portmap_result result = {0};
    char url[PORTMAP_URL_SIZE] = "before";
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_expect_eq(portmap_upnp_parse(bad[i], &result, url), ERR_MALFORMED, "%s", bad[i]);
    cr_expect_eq(portmap_upnp_parse("error full 728", &result, url), ERR_FULL);
    cr_expect_eq(result.detail, 728);
    cr_expect_eq(portmap_upnp_parse("error no-address 501", &result, url), ERR_NO_ADDRESS);
    cr_expect_eq(portmap_upnp_parse("ok 11.0.0.1 4242 7200 file:///etc", &result, url), ERR_OK);
    cr_expect_str_eq(url, "before");
    cr_expect_eq(portmap_upnp_parse("ok 11.0.0.1 4242 7200 http://192.168.1.1/d", &result, url), ERR_OK);
    cr_expect_str_eq(url, "http://192.168.1.1/d");
}
