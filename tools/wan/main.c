/* dunlin_wan: a link with delay, jitter, loss, reordering and a rate between two network namespaces.
 *
 * Makes a TUN device in each and carries packets between them; kernels without netem exist, and packets leave
 * a TUN device one by one, as they do on a real access line.  SIGHUP reads the shape file again. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "tools/wan/link.h"

#define PACKETS_MAX      16384U /* under way, both directions together: 100 ms of 2 Gbit/s */
#define PACKET_BYTES_MAX 1600U
#define BURST_MAX        64U /* packets of one device in a row, so that the other is not kept waiting */

struct wan {
    int tun[2];
    int signals;
    struct wan_link link[2]; /* [0]: from tun[0] to tun[1] */
    const char *shape_path;
    struct wan_packet flying[2][PACKETS_MAX];
    uint32_t free_slots[PACKETS_MAX];
    size_t free_count;
    uint16_t lengths[PACKETS_MAX];
    uint8_t data[PACKETS_MAX][PACKET_BYTES_MAX];
};

static uint64_t clock_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static int complain(const char *what, const char *about)
{
    (void)fprintf(stderr, "dunlin_wan: %s %s: %s\n", what, about, strerror(errno));
    return -1;
}

/* Opens a TUN device of this name in a namespace; the descriptor works from every other. */
static int open_tun(const char *space, const char *device)
{
    char path[512];
    (void)snprintf(path, sizeof path, "/run/netns/%s", space);
    int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    int there = open(path, O_RDONLY | O_CLOEXEC);
    if (home < 0 || there < 0 || setns(there, CLONE_NEWNET) != 0)
        return complain("namespace", space);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    (void)snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) != 0)
        return complain("device", device);
    if (setns(home, CLONE_NEWNET) != 0)
        return complain("namespace", "of the start");
    (void)close(there);
    (void)close(home);
    return fd;
}

static int read_shapes(const char *path, struct wan_shape shapes[2])
{
    uint8_t text[WAN_SHAPE_TEXT_MAX];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return complain("shape file", path);
    ssize_t len = read(fd, text, sizeof text);
    (void)close(fd);
    if (len < 0)
        return complain("shape file", path);
    if (!wan_shapes_parse((struct bytes){text, (size_t)len}, shapes)) {
        (void)fprintf(stderr, "dunlin_wan: %s: two lines of name=number words are wanted\n", path);
        return -1;
    }
    return 0;
}

/* Packets that wait at a device go into its link, or are lost. */
static void take_in(struct wan *wan, size_t side)
{
    for (size_t i = 0; i < BURST_MAX; i++) {
        uint8_t spare[PACKET_BYTES_MAX];
        bool have_slot = wan->free_count > 0;
        uint32_t slot = have_slot ? wan->free_slots[wan->free_count - 1] : 0;
        ssize_t len = read(wan->tun[side], have_slot ? wan->data[slot] : spare, PACKET_BYTES_MAX);
        if (len <= 0)
            return;
        if (!have_slot) {
            wan->link[side].dropped++;
            continue;
        }
        wan->lengths[slot] = (uint16_t)len;
        if (wan_link_accept(&wan->link[side], clock_ns(), (size_t)len, slot))
            wan->free_count--;
    }
}

/* Packets that have arrived leave by the other device.  What that refuses, being down or full, is lost. */
static void let_out(struct wan *wan, size_t side)
{
    uint32_t slot;
    while (wan_link_take(&wan->link[side], clock_ns(), &slot)) {
        ssize_t written = write(wan->tun[1 - side], wan->data[slot], wan->lengths[slot]);
        if (written < 0)
            wan->link[side].dropped++;
        wan->free_slots[wan->free_count++] = slot;
    }
}

/* false: it is time to end.  A shape file that cannot be read leaves the shapes as they are. */
static bool on_signal(struct wan *wan)
{
    struct signalfd_siginfo info;
    if (read(wan->signals, &info, sizeof info) != (ssize_t)sizeof info)
        return true;
    if (info.ssi_signo != SIGHUP)
        return false;
    struct wan_shape shapes[2];
    if (read_shapes(wan->shape_path, shapes) == 0) {
        wan_link_reshape(&wan->link[0], &shapes[0]);
        wan_link_reshape(&wan->link[1], &shapes[1]);
    }
    return true;
}

static void carry(struct wan *wan)
{
    for (;;) {
        uint64_t deadline = wan_link_deadline_ns(&wan->link[0]);
        uint64_t other = wan_link_deadline_ns(&wan->link[1]);
        if (other < deadline)
            deadline = other;
        uint64_t now = clock_ns();
        uint64_t left = deadline > now ? deadline - now : 0;
        struct timespec wait = {(time_t)(left / 1000000000U), (long)(left % 1000000000U)};
        struct pollfd fds[3] = {
            {wan->tun[0], POLLIN, 0}, {wan->tun[1], POLLIN, 0}, {wan->signals, POLLIN, 0}};
        int ready = ppoll(fds, 3, deadline == UINT64_MAX ? NULL : &wait, NULL);
        if (ready > 0 && fds[2].revents != 0 && !on_signal(wan))
            return;
        for (size_t side = 0; side < 2; side++) {
            if (ready > 0 && fds[side].revents != 0)
                take_in(wan, side);
        }
        let_out(wan, 0);
        let_out(wan, 1);
    }
}

static int open_signals(void)
{
    sigset_t set;
    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGHUP);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
        return -1;
    return signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
}

static int start(struct wan *wan, char **ends)
{
    struct wan_shape shapes[2];
    /* Before anything else: a SIGHUP that comes early must not end the program. */
    wan->signals = open_signals();
    if (wan->signals < 0)
        return complain("signals", "");
    if (read_shapes(wan->shape_path, shapes) != 0)
        return -1;
    for (size_t side = 0; side < 2; side++) {
        wan_link_init(&wan->link[side], &shapes[side], rng_system(), wan->flying[side], PACKETS_MAX);
        wan->tun[side] = open_tun(ends[side * 2], ends[side * 2 + 1]);
        if (wan->tun[side] < 0)
            return -1;
    }
    for (uint32_t i = 0; i < PACKETS_MAX; i++)
        wan->free_slots[wan->free_count++] = i;
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 7 || strcmp(argv[1], "--shape") != 0) {
        (void)fprintf(
            stderr, "usage: dunlin_wan --shape FILE NAMESPACE DEVICE NAMESPACE DEVICE\n"
                    "Carries packets between two new TUN devices; the shape file's first line is for\n"
                    "those from the first, the second for those from the second.  SIGHUP reads it again.\n");
        return 2;
    }
    if (sodium_init() < 0)
        return complain("libsodium", "");
    /* Delays are to be exact to a tenth of a millisecond. */
    (void)prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
    struct wan *wan = calloc(1, sizeof *wan);
    if (wan == NULL)
        return complain("memory", "");
    wan->shape_path = argv[2];
    int result = start(wan, argv + 3);
    if (result == 0)
        carry(wan);
    free(wan);
    return result == 0 ? 0 : 1;
}
