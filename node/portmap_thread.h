/* Carries out the commands of nat/portmap.h: PCP, NAT-PMP and UPnP with the router of the default route.
 *
 * One thread with a poll loop runs up to PORTMAP_THREAD_JOBS_MAX jobs side by side.  PCP and NAT-PMP
 * (libnatpmp) are non-blocking sockets; UPnP runs in a child process, `dunlin-upnp`, with limits on memory,
 * files and time, because miniupnpc reads a hostile router's answer for as long and as large as it likes.
 * Every job ends within PORTMAP_THREAD_JOB_NS,
 * unless configured otherwise.
 *
 * The thread and its children live in the network namespace of the thread that started it. */
#ifndef DUNLIN_NODE_PORTMAP_THREAD_H
#define DUNLIN_NODE_PORTMAP_THREAD_H

#include <uv.h>

#include "nat/portmap.h"

enum { PORTMAP_THREAD_JOBS_MAX = NAT_PORTMAP_SLOTS, PORTMAP_THREAD_PATH_SIZE = 512 };

#define PORTMAP_THREAD_JOB_NS       UINT64_C(8000000000) /* UPnP: 2 s of discovery, then a few requests */
#define PORTMAP_THREAD_END_GRACE_NS UINT64_C(2000000000) /* for deletes on exit */

struct portmap_thread_config {
    const char *upnp_helper; /* path of dunlin-upnp; NULL: UPnP commands fail with ERR_UNSUPPORTED */
    struct net_addr gateway; /* IPv4 router; NET_FAMILY_NONE: of the default route.  port 0: 5351 */
    const char *upnp_url;    /* description of the IGD; NULL: found by SSDP */
    uint64_t job_ns;         /* longest a job may take; 0: PORTMAP_THREAD_JOB_NS */
};

struct portmap_thread;

/* Starts the thread.  Copies config.  on_result runs on the loop's thread, once a command accepted; result is
 * borrowed until return.  Returns owned (free with portmap_thread_stop).  ERR_NO_MEMORY, ERR_IO: nothing was
 * started. */
MUST_USE int portmap_thread_start(struct portmap_thread **out, uv_loop_t *loop,
                                  const struct portmap_thread_config *config,
                                  void (*on_result)(void *user, const struct nat_portmap_result *result),
                                  void *user);
/* Queues a command.  ERR_FULL: PORTMAP_THREAD_JOBS_MAX are unanswered (nat/portmap.h never has more out).
 * ERR_CLOSED: ending. */
MUST_USE int portmap_thread_submit(struct portmap_thread *thread, const struct nat_portmap_command *command);
/* Begins the end, without waiting: ADD jobs are cut off (ERR_CANCELLED), DELETE jobs have grace_ns to finish.
 * Further commands are refused. */
void portmap_thread_end(struct portmap_thread *thread, uint64_t grace_ns);
/* Waits for the end, at most what is left of the grace and half a second (portmap_thread_end with 0 is
 * implied when it was not called), delivers what results there are and frees.  Loop thread; NULL is fine. */
void portmap_thread_stop(struct portmap_thread *thread);
/* Writes the path of the program `name` that stands beside this one, or else in DUNLIN_LIBEXEC_DIR, to path.
 * ERR_NOT_FOUND: neither is there. */
MUST_USE int portmap_thread_find_helper(const char *name, char path[PORTMAP_THREAD_PATH_SIZE]);

#endif
