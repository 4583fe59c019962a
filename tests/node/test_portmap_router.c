/* Port mapping with a real router: miniupnpd and nftables in network namespaces of our own.  Each protocol
 * must map, renew and give back, and what nobody outside asked for before must arrive by the mapping.  Needs
 * root, nft and miniupnpd; skipped without them. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "node/portmap_thread.h"

enum { PORT = 4242 };

struct home {
    char prefix[32], dir[64], helper[512];
    bool up;
    uv_loop_t loop;
    uv_timer_t ticker; /* makes the loop turn, so that the test sees its deadlines */
    struct nat_portmap portmap;
    struct portmap_thread *thread;
    struct net_addr candidates[2]; /* by transport; NET_FAMILY_NONE: none */
    enum nat_portmap_protocol protocol;
    unsigned candidate_count, gone_count, failed_count, inner_count, renewed_count;
};

static struct home home;

static int lab(const char *action, const char *kind)
{
    char command[512];
    (void)snprintf(command, sizeof command, "%s/portmap_lab %s %s %s %s", TEST_SOURCE_DIR, action,
                   home.prefix, home.dir, kind);
    return system(command);
}

/* Enters a namespace of the home. */
static void enter(const char *which)
{
    char path[96];
    (void)snprintf(path, sizeof path, "/var/run/netns/%s-%s", home.prefix, which);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    cr_assert_geq(fd, 0, "%s", path);
    cr_assert_eq(setns(fd, CLONE_NEWNET), 0);
    (void)close(fd);
}

static void home_close(void)
{
    if (home.up)
        (void)lab("down", "");
    char command[128];
    (void)snprintf(command, sizeof command, "rm -rf %s", home.dir);
    if (home.dir[0] != '\0')
        (void)!system(command);
}

static bool home_open(const char *kind)
{
    if (geteuid() != 0 || access("/usr/sbin/miniupnpd", X_OK) != 0) {
        cr_skip_test("needs root and miniupnpd-nftables");
        return false;
    }
    (void)snprintf(home.prefix, sizeof home.prefix, "pmtest%d", (int)getpid());
    (void)snprintf(home.dir, sizeof home.dir, "/tmp/pmtest.XXXXXX");
    (void)snprintf(home.helper, sizeof home.helper, "%s", TEST_UPNP_HELPER);
    cr_assert_not_null(mkdtemp(home.dir));
    home.up = true;
    int result = lab("up", kind);
    if (result != 0)
        home_close();
    cr_assert_eq(result, 0, "the namespaces did not come up");
    cr_assert_geq(sodium_init(), 0);
    enter("h");
    return true;
}

static void on_tick(uv_timer_t *timer)
{
    (void)timer;
}

static void on_result(void *user, const struct nat_portmap_result *result)
{
    (void)user;
    cr_assert_eq(nat_portmap_result(&home.portmap, uv_hrtime(), result), ERR_OK);
    home.renewed_count += result->error == ERR_OK;
    nat_portmap_check_invariants(&home.portmap);
}

static void pump(void)
{
    struct nat_portmap_event event;
    struct nat_portmap_command command;
    if (uv_hrtime() >= nat_portmap_deadline_ns(&home.portmap))
        nat_portmap_tick(&home.portmap, uv_hrtime());
    while (nat_portmap_poll_event(&home.portmap, &event)) {
        struct net_addr *slot = &home.candidates[event.transport];
        home.candidate_count += event.type == NAT_PORTMAP_CANDIDATE;
        home.gone_count += event.type == NAT_PORTMAP_GONE;
        home.failed_count += event.type == NAT_PORTMAP_FAILED;
        home.inner_count += event.type == NAT_PORTMAP_BEHIND_NAT;
        home.protocol = event.protocol;
        if (event.type == NAT_PORTMAP_CANDIDATE)
            *slot = event.addr;
        else if (event.type == NAT_PORTMAP_GONE)
            slot->family = NET_FAMILY_NONE;
    }
    while (nat_portmap_poll_command(&home.portmap, &command))
        cr_assert_eq(portmap_thread_submit(home.thread, &command), ERR_OK);
}

/* Runs until the counter has reached count.  Deadlines are generous: they only end a test that fails. */
static void run_until(const unsigned *counter, unsigned count)
{
    uint64_t end_ns = uv_hrtime() + UINT64_C(60000000000);
    pump();
    while (*counter < count && uv_hrtime() < end_ns) {
        (void)uv_run(&home.loop, UV_RUN_ONCE);
        pump();
    }
    cr_assert_geq(*counter, count, "no answer in a minute");
}

static void start(unsigned protocols)
{
    struct portmap_thread_config config = {.upnp_helper = home.helper};
    struct nat_portmap_config core = nat_portmap_config_default();
    core.rng = rng_system();
    core.port = PORT;
    core.protocols = protocols;
    cr_assert_eq(uv_loop_init(&home.loop), 0);
    cr_assert_eq(uv_timer_init(&home.loop, &home.ticker), 0);
    cr_assert_eq(uv_timer_start(&home.ticker, on_tick, 10, 10), 0);
    cr_assert_eq(portmap_thread_start(&home.thread, &home.loop, &config, on_result, NULL), ERR_OK);
    nat_portmap_init(&home.portmap, &core);
    nat_portmap_start(&home.portmap, uv_hrtime());
}

/* As the daemon ends: deletes go out and are waited for. */
static void stop(void)
{
    nat_portmap_stop(&home.portmap, uv_hrtime());
    pump();
    /* More than the daemon grants: a machine that stands still is no fault of the deletes. */
    portmap_thread_end(home.thread, 20 * PORTMAP_THREAD_END_GRACE_NS);
    portmap_thread_stop(home.thread);
    uv_close((uv_handle_t *)&home.ticker, NULL);
    (void)uv_run(&home.loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&home.loop), 0);
    cr_assert(nat_portmap_idle(&home.portmap));
}

static socklen_t to_sockaddr(const struct net_addr *addr, struct sockaddr_storage *out)
{
    memset(out, 0, sizeof *out);
    if (addr->family == NET_FAMILY_V4) {
        struct sockaddr_in *in = (struct sockaddr_in *)out;
        in->sin_family = AF_INET;
        in->sin_port = htons(addr->port);
        memcpy(&in->sin_addr, addr->ip, 4);
        return sizeof *in;
    }
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(addr->port);
    memcpy(&in6->sin6_addr, addr->ip, 16);
    return sizeof *in6;
}

static int listener(int type)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
    int fd = socket(AF_INET6, type | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&any, sizeof any), 0);
    if (type == SOCK_STREAM)
        cr_assert_eq(listen(fd, 1), 0);
    return fd;
}

/* Somebody outside whom nobody has talked to before dials the address. */
static void cold_inbound(const struct net_addr *to, int type)
{
    struct sockaddr_storage address;
    socklen_t len = to_sockaddr(to, &address);
    int inside = listener(type);
    enter("o");
    int outside = socket(address.ss_family, type | SOCK_CLOEXEC, 0);
    enter("h");
    cr_assert_geq(outside, 0);
    cr_assert_eq(connect(outside, (struct sockaddr *)&address, len), 0, "inbound refused");
    if (type == SOCK_DGRAM)
        cr_assert_eq(send(outside, "cold", 4, 0), 4);
    struct pollfd ready = {.fd = inside, .events = POLLIN};
    cr_expect_eq(poll(&ready, 1, 10000), 1, "nothing arrived");
    (void)close(outside);
    (void)close(inside);
}

static unsigned rules_in_router(void)
{
    char command[256];
    unsigned count = 0;
    (void)snprintf(command, sizeof command,
                   "ip netns exec %s-r nft list ruleset | grep -c '4242.*\\(dnat\\|accept\\)'", home.prefix);
    FILE *pipe = popen(command, "r");
    cr_assert_not_null(pipe);
    (void)!fscanf(pipe, "%u", &count);
    (void)pclose(pipe);
    return count;
}

static void check_protocol(enum nat_portmap_protocol protocol, const char *wanted, bool renew)
{
    struct net_addr expected;
    cr_assert_eq(net_addr_parse(wanted, &expected), ERR_OK);
    cr_assert_eq(rules_in_router(), 0);
    start(1U << protocol);
    run_until(&home.candidate_count, 2);
    for (size_t t = 0; t < NAT_PORTMAP_TRANSPORTS; t++) {
        char text[NET_ADDR_TEXT_SIZE];
        net_addr_format(&home.candidates[t], text);
        cr_expect(net_addr_equal(&home.candidates[t], &expected), "%s instead of %s", text, wanted);
    }
    cold_inbound(&home.candidates[NAT_PORTMAP_UDP], SOCK_DGRAM);
    cold_inbound(&home.candidates[NAT_PORTMAP_TCP], SOCK_STREAM);
    cr_expect_gt(rules_in_router(), 0);
    if (renew) {
        home.renewed_count = 0;
        nat_portmap_network_changed(&home.portmap, uv_hrtime());
        run_until(&home.renewed_count, 2);
        cr_expect_eq(home.gone_count, 0, "renewing must keep the address");
    }
    stop();
}

Test(portmap_router, pcp, .fini = home_close)
{
    if (!home_open("public"))
        return;
    check_protocol(NAT_PORTMAP_PCP, "11.0.77.2:4242", true);
    cr_expect_eq(rules_in_router(), 0, "the router still has rules of ours");
}

Test(portmap_router, natpmp, .fini = home_close)
{
    if (!home_open("public"))
        return;
    check_protocol(NAT_PORTMAP_NATPMP, "11.0.77.2:4242", true);
    cr_expect_eq(rules_in_router(), 0, "the router still has rules of ours");
}

Test(portmap_router, upnp, .fini = home_close)
{
    if (!home_open("public"))
        return;
    check_protocol(NAT_PORTMAP_UPNP, "11.0.77.2:4242", true);
    cr_expect_eq(rules_in_router(), 0, "the router still has rules of ours");
}

Test(portmap_router, pcp_on_ipv6, .fini = home_close)
{
    if (!home_open("public"))
        return;
    check_protocol(NAT_PORTMAP_PCP6, "[2a01:77:1::10]:4242", false);
    cr_expect_eq(rules_in_router(), 0, "the router still has rules of ours");
}

/* miniupnpd 2.3.1 renews a pinhole, and then no longer knows the nonce that may delete it: NOT_AUTHORIZED. It
 * is left to expire. */
Test(portmap_router, pcp_on_ipv6_renewed, .fini = home_close)
{
    if (home_open("public"))
        check_protocol(NAT_PORTMAP_PCP6, "[2a01:77:1::10]:4242", true);
}

/* A mapping that somebody dialled in vain is given back, and the next protocol's turn comes. */
Test(portmap_router, refuted_mappings_give_way, .fini = home_close)
{
    if (!home_open("public"))
        return;
    start(1U << NAT_PORTMAP_PCP | 1U << NAT_PORTMAP_NATPMP | 1U << NAT_PORTMAP_UPNP);
    for (unsigned round = 0; round < 3; round++) {
        run_until(&home.candidate_count, 2 * round + 2);
        cr_expect_eq(home.protocol, (enum nat_portmap_protocol)round);
        struct net_addr addr = home.candidates[NAT_PORTMAP_UDP];
        cr_assert_eq(nat_portmap_verdict(&home.portmap, uv_hrtime(), &addr, NAT_PORTMAP_UDP, false), ERR_OK);
        run_until(&home.gone_count, 2 * round + 2);
    }
    run_until(&home.failed_count, 1);
    stop();
    cr_expect_eq(rules_in_router(), 0);
}

/* A router that is behind another NAT maps nothing, and says so in all three protocols. */
Test(portmap_router, router_behind_a_carrier, .fini = home_close)
{
    if (!home_open("inner"))
        return;
    start(1U << NAT_PORTMAP_PCP | 1U << NAT_PORTMAP_NATPMP | 1U << NAT_PORTMAP_UPNP);
    run_until(&home.failed_count, 1);
    cr_expect_eq(home.candidate_count, 0);
    stop();
}

/* The same router, told to claim a public address: it looks like success, so only dialling finds out. */
Test(portmap_router, router_that_claims_an_address, .fini = home_close)
{
    if (!home_open("lying"))
        return;
    start(1U << NAT_PORTMAP_PCP);
    run_until(&home.candidate_count, 1);
    struct nat_portmap_info info[NAT_PORTMAP_SLOTS];
    cr_assert_geq(nat_portmap_list(&home.portmap, info), 1);
    cr_expect_eq(info[0].standing, NAT_PORTMAP_UNVERIFIED);
    stop();
}
