/* LAN discovery: two nodes in two network namespaces find each other, hear a goodbye, and believe nothing
 * that is malformed, be it from the network (tests/net/mdns_liar) or from the helper process itself.  The
 * former needs root and is skipped without. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "net/uv/lan.h"
#include "support/page.h"

/* An id. */
#define GOOD "beaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaqcaibaeaq"
#define PAGE TEST_SOURCE_DIR "/../../docs/protocol/lan.md"

enum { NETWORK = 0x0000beef };

struct side {
    struct net_uv_lan *lan;
    struct id self;
    unsigned found, gone, up, down;
    struct net_uv_lan_peer last;
    struct id last_gone;
    char reason[NET_UV_LAN_REASON_SIZE];
};

static uv_loop_t loop;
static uv_timer_t ticker;
static char prefix[32], script[64];

static void on_found(void *user, const struct net_uv_lan_peer *peer)
{
    struct side *side = user;
    side->found++;
    side->last = *peer;
    cr_assert(peer->addr_count >= 1 && peer->addr_count <= NET_UV_LAN_ADDRS_MAX);
}

static void on_gone(void *user, const struct id *id)
{
    struct side *side = user;
    side->gone++;
    side->last_gone = *id;
}

static void on_state(void *user, bool running, const char *reason)
{
    struct side *side = user;
    side->up += running;
    side->down += !running;
    cr_assert_eq(running, reason == NULL);
    (void)snprintf(side->reason, sizeof side->reason, "%s", running ? "" : reason);
}

static void on_tick(uv_timer_t *timer)
{
    (void)timer;
}

static void loop_open(void)
{
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(uv_timer_init(&loop, &ticker), 0);
    cr_assert_eq(uv_timer_start(&ticker, on_tick, 20, 20), 0);
}

static void loop_close(void)
{
    uv_close((uv_handle_t *)&ticker, NULL);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&loop), 0, "handles are left");
}

static void side_open(struct side *side, uint8_t first, const char *helper)
{
    side->self = (struct id){{first, 7}};
    struct net_uv_lan_config config = {.self = side->self,
                                       .network = NETWORK,
                                       .port = (uint16_t)(4000 + first),
                                       .helper = helper,
                                       .on_found = on_found,
                                       .on_gone = on_gone,
                                       .on_state = on_state,
                                       .user = side};
    cr_assert_eq(net_uv_lan_open(&side->lan, &loop, &config), ERR_OK);
}

/* The deadline only ends a test that fails. */
static void run_until(const unsigned *counter, unsigned count)
{
    uint64_t end_ns = uv_hrtime() + UINT64_C(60000000000);
    while (*counter < count && uv_hrtime() < end_ns)
        (void)uv_run(&loop, UV_RUN_ONCE);
    cr_assert_geq(*counter, count, "not in a minute");
}

static void shell(const char *format, ...) PRINTF_LIKE(1, 2);
static void shell(const char *format, ...)
{
    char command[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(command, sizeof command, format, args);
    va_end(args);
    cr_assert_eq(system(command), 0, "%s", command);
}

/* ---- two namespaces and a cable ---- */

static void enter(const char *which)
{
    char path[96];
    (void)snprintf(path, sizeof path, "/var/run/netns/%s%s", prefix, which);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    cr_assert_geq(fd, 0, "%s", path);
    cr_assert_eq(setns(fd, CLONE_NEWNET), 0);
    (void)close(fd);
}

static bool spaces_open(void)
{
    if (geteuid() != 0) {
        cr_skip_test("needs root for network namespaces");
        return false;
    }
    (void)snprintf(prefix, sizeof prefix, "pmlan%d", (int)getpid());
    shell("ip netns add %sa && ip netns add %sb", prefix, prefix);
    shell("ip link add dev lan0 netns %sa type veth peer name lan0 netns %sb", prefix, prefix);
    for (char side = 'a'; side <= 'b'; side++) {
        shell("ip -n %s%c link set dev lan0 up && ip -n %s%c addr add 192.168.77.%d/24 dev lan0", prefix,
              side, prefix, side, side - 'a' + 1);
        shell("ip -n %s%c addr add fd00:77::%d/64 dev lan0 nodad", prefix, side, side - 'a' + 1);
    }
    loop_open();
    return true;
}

static void spaces_close(void)
{
    char command[128];
    (void)snprintf(command, sizeof command, "ip netns del %sa; ip netns del %sb", prefix, prefix);
    if (prefix[0] != '\0')
        (void)!system(command);
}

static bool has(const struct net_uv_lan_peer *peer, const char *text)
{
    struct net_addr addr;
    cr_assert_eq(net_addr_parse(text, &addr), ERR_OK);
    for (size_t i = 0; i < peer->addr_count; i++) {
        if (net_addr_equal(&peer->addrs[i], &addr))
            return true;
    }
    return false;
}

/* The peer that the other one should be, with both its addresses, however many updates that takes. */
static void run_until_known(struct side *side, const char *v4, const char *v6)
{
    unsigned seen = 0;
    do
        run_until(&side->found, ++seen);
    while (!has(&side->last, v4) || !has(&side->last, v6));
}

Test(uv_lan, two_nodes_meet, .fini = spaces_close)
{
    static struct side a, b;
    if (!spaces_open())
        return;
    enter("a");
    side_open(&a, 1, TEST_MDNS_HELPER);
    run_until(&a.up, 1);
    enter("b");
    side_open(&b, 2, TEST_MDNS_HELPER);
    run_until_known(&a, "192.168.77.2:4002", "[fd00:77::2]:4002");
    run_until_known(&b, "192.168.77.1:4001", "[fd00:77::1]:4001");
    cr_expect(id_equal(&a.last.id, &b.self));
    cr_expect(id_equal(&b.last.id, &a.self));
    for (size_t i = 0; i < a.last.addr_count; i++)
        cr_expect_neq(net_addr_scope(&a.last.addrs[i]), NET_SCOPE_LINK);
    net_uv_lan_close(b.lan);
    run_until(&a.gone, 1); /* its goodbye, not the end of some life time */
    cr_expect(id_equal(&a.last_gone, &b.self));
    net_uv_lan_close(a.lan);
    loop_close();
}

Test(uv_lan, interface_comes_later, .fini = spaces_close)
{
    static struct side a, b;
    if (!spaces_open())
        return;
    shell("ip -n %sa link set dev lan0 down", prefix);
    enter("a");
    side_open(&a, 1, TEST_MDNS_HELPER);
    enter("a");
    run_until(&a.up, 1); /* nothing to announce on, which is no failure */
    enter("b");
    side_open(&b, 2, TEST_MDNS_HELPER);
    run_until(&b.up, 1);
    cr_expect_eq(b.found, 0);
    shell("ip -n %sa link set dev lan0 up", prefix);
    run_until(&a.found, 1);
    run_until(&b.found, 1);
    shell("ip -n %sb link set dev lan0 down", prefix);
    run_until(&b.gone, 1);
    net_uv_lan_close(a.lan);
    net_uv_lan_close(b.lan);
    loop_close();
}

Test(uv_lan, liars_on_the_network, .fini = spaces_close)
{
    static struct side a;
    struct id liar = {{9, 9}};
    char text[ID_TEXT_SIZE];
    if (!spaces_open())
        return;
    enter("a");
    side_open(&a, 1, TEST_MDNS_HELPER);
    run_until(&a.up, 1);
    id_format(&liar, text);
    char command[512];
    enter("b");
    (void)snprintf(command, sizeof command, "exec %s/mdns_liar lan0 192.168.77.2 0000beef %s",
                   TEST_SOURCE_DIR, text);
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        (void)execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    run_until(&a.found, 1);
    (void)kill(pid, SIGKILL);
    (void)waitpid(pid, NULL, 0);
    cr_expect(id_equal(&a.last.id, &liar));
    cr_expect_eq(a.last.addr_count, 1);
    cr_expect(has(&a.last, "192.168.77.2:4242"));
    struct net_uv_lan_peer peers[4];
    cr_expect_eq(net_uv_lan_peers(a.lan, peers, 4), 1, "somebody else was believed");
    cr_expect_eq(a.down, 0, "the helper died: %s", a.reason);
    net_uv_lan_close(a.lan);
    loop_close();
}

/* Two daemons on one machine share port 5353 and their address, and must not take each other for a conflict;
 * so it is with avahi-daemon. */
Test(uv_lan, two_nodes_on_one_machine, .fini = spaces_close)
{
    static struct side a, b;
    if (!spaces_open())
        return;
    enter("a");
    side_open(&a, 1, TEST_MDNS_HELPER);
    side_open(&b, 2, TEST_MDNS_HELPER);
    run_until(&a.up, 1);
    run_until(&b.up, 1);
    run_until_known(&a, "192.168.77.1:4002", "[fd00:77::1]:4002");
    run_until_known(&b, "192.168.77.1:4001", "[fd00:77::1]:4001");
    net_uv_lan_close(a.lan);
    net_uv_lan_close(b.lan);
    loop_close();
}

/* The announcement of docs/protocol/lan.md is one that a node takes. */
Test(uv_lan, example_of_the_page, .fini = spaces_close)
{
    static struct side a;
    uint8_t packet[1024];
    size_t len = page_example(PAGE, "announcement", packet, sizeof packet);
    cr_assert_gt(len, 0);
    if (!spaces_open())
        return;
    enter("a");
    side_open(&a, 1, TEST_MDNS_HELPER);
    run_until(&a.up, 1);
    enter("b");
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), yes = 1, ttl = 255;
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_port = htons(5353)}, to = from;
    struct ip_mreqn link = {.imr_ifindex = (int)if_nametoindex("lan0")};
    to.sin_addr.s_addr = htonl(0xe00000fb); /* 224.0.0.251 */
    cr_assert_eq(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes), 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&from, sizeof from), 0);
    cr_assert_eq(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_TTL, &ttl, sizeof ttl), 0);
    cr_assert_eq(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &link, sizeof link), 0);
    uint64_t end_ns = uv_hrtime() + UINT64_C(60000000000);
    while (a.found == 0 && uv_hrtime() < end_ns) {
        (void)sendto(fd, packet, len, 0, (struct sockaddr *)&to, sizeof to);
        (void)uv_run(&loop, UV_RUN_ONCE);
    }
    (void)close(fd);
    char id[ID_TEXT_SIZE];
    cr_assert_eq(a.found, 1);
    id_format(&a.last.id, id);
    cr_expect_str_eq(id, GOOD);
    cr_expect(has(&a.last, "192.168.77.2:4242"));
    net_uv_lan_close(a.lan);
    loop_close();
}

/* ---- a helper that is not what it was ---- */

static void script_open(const char *body)
{
    (void)snprintf(script, sizeof script, "/tmp/dunlin-lan.XXXXXX");
    int fd = mkstemp(script);
    cr_assert_geq(fd, 0);
    char text[1024];
    int len = snprintf(text, sizeof text, "#!/bin/sh\n%s\n", body);
    cr_assert_eq(write(fd, text, (size_t)len), len);
    cr_assert_eq(fchmod(fd, 0700), 0);
    (void)close(fd);
    loop_open();
}

static void script_close(void)
{
    (void)unlink(script);
}

Test(uv_lan, lines_are_checked, .fini = script_close)
{
    static struct side a;
    script_open("echo ready; echo add 0 junk 1.2.3.4 5; echo add 1 " GOOD " 169.254.1.1 5\n"
                "echo add 2 " GOOD " 192.168.1.1 0; echo add 3 " GOOD " 192.168.1.1 70000\n"
                "echo add 4 " GOOD " nonsense 5; echo add 5 " GOOD " 192.168.1.1 5\n"
                "echo add 6 " GOOD " 192.168.1.1 5; echo add 7 " GOOD " fd00::1 5\n"
                "echo del 5; echo del 6; echo del 7; read line");
    side_open(&a, 1, script);
    run_until(&a.gone, 1);
    cr_expect_eq(a.up, 1);
    /* Address by address; the same one twice is one, and with one of two gone it stays. */
    cr_expect_eq(a.found, 3);
    cr_expect_eq(a.last.addr_count, 1);
    cr_expect(has(&a.last, "[fd00::1]:5"));
    net_uv_lan_close(a.lan);
    loop_close();
}

Test(uv_lan, nonsense_ends_the_helper, .fini = script_close)
{
    static struct side a;
    script_open("echo ready; echo add 0 " GOOD " 192.168.1.1 5; echo what; exec sleep 1000");
    side_open(&a, 1, script);
    run_until(&a.down, 1);
    cr_expect_eq(a.gone, 1, "what it told is forgotten");
    cr_expect_not_null(strstr(a.reason, "signal 9"), "%s", a.reason);
    net_uv_lan_close(a.lan);
    loop_close();
}

Test(uv_lan, endless_line, .fini = script_close)
{
    static struct side a;
    script_open("exec tr '\\0' x </dev/zero");
    side_open(&a, 1, script);
    run_until(&a.down, 1);
    net_uv_lan_close(a.lan);
    loop_close();
}

/* More peers than there is room for, and faster than is read: the first 64 are kept, the helper waits. */
Test(uv_lan, crowd, .fini = script_close)
{
    static struct side a;
    static struct net_uv_lan_peer peers[NET_UV_LAN_PEERS_MAX + 1];
    script_open("i=0; while [ $i -lt 90 ]; do b=$(printf 'a%.0s' $(seq 1 $((i / 24 + 1))))\n"
                "c=$(printf bcdefghijklmnopqrstuvwxy | cut -c$((i % 24 + 1)))\n"
                "printf 'add %d %.51sa 192.168.1.1 5\\n' $i $b${c}" GOOD
                "; i=$((i + 1)); done; echo ready; read line");
    side_open(&a, 1, script);
    run_until(&a.up, 1);
    cr_expect_eq(a.found, NET_UV_LAN_PEERS_MAX);
    cr_expect_eq(net_uv_lan_peers(a.lan, peers, NET_UV_LAN_PEERS_MAX + 1), NET_UV_LAN_PEERS_MAX);
    net_uv_lan_close(a.lan);
    loop_close();
}

Test(uv_lan, last_words_and_no_helper, .fini = script_close)
{
    static struct side a, b;
    script_open("echo failed no network here; exit 1");
    side_open(&a, 1, script);
    run_until(&a.down, 2);
    cr_expect_str_eq(a.reason, "no network here");
    side_open(&b, 2, "/nowhere/dunlin-mdns");
    run_until(&b.down, 1);
    cr_expect_not_null(strstr(b.reason, "cannot start"), "%s", b.reason);
    net_uv_lan_close(a.lan);
    net_uv_lan_close(b.lan);
    loop_close();
}

/* Closing at any moment of a run leaves nothing behind. */
Test(uv_lan, close_early, .fini = script_close)
{
    script_open("echo ready; read line");
    for (int turns = 0; turns < 6; turns++) {
        static struct side a;
        side_open(&a, 1, script);
        for (int i = 0; i < turns; i++)
            (void)uv_run(&loop, UV_RUN_NOWAIT);
        net_uv_lan_close(a.lan);
        (void)uv_run(&loop, UV_RUN_NOWAIT);
    }
    loop_close();
}
