/* Says when addresses of this machine's interfaces or its routes change: at once, where polling would take
 * seconds.  A netlink socket of the route family; which addresses there are, the caller reads itself.  Loop
 * thread only. */
#ifndef DUNLIN_NET_UV_WATCH_H
#define DUNLIN_NET_UV_WATCH_H

#include <uv.h>

#include "base/err.h"
#include "net/addr.h"

struct net_uv_watch;

/* Calls on_change from the loop, once for any number of changes that have come.  ERR_NO_MEMORY, ERR_IO: the
 * system offers no such socket: poll instead.  *watch is NULL then. */
MUST_USE int net_uv_watch_open(struct net_uv_watch **watch, uv_loop_t *loop, void (*on_change)(void *user),
                               void *user);
/* No call follows; the memory goes with the loop's next turns.  NULL is fine. */
void net_uv_watch_close(struct net_uv_watch *watch);
/* The address that packets of this family to the internet would leave with now, port 0; of no family: there
 * is no way there, or not yet: after a new address the route comes later, and until then nothing can be sent.
 * Sends nothing.  Three system calls. */
struct net_addr net_uv_watch_source(enum net_family family);

#endif
