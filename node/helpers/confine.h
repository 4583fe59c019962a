/* What a helper process gives up before it talks to strangers. */
#ifndef DUNLIN_NODE_HELPERS_CONFINE_H
#define DUNLIN_NODE_HELPERS_CONFINE_H

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

/* At most memory_bytes of address space, no file larger than nothing, no core file, no new privileges, and
 * the end when the parent's thread ends.  seconds > 0: also an alarm, which kills.  0, or -1 with errno. */
static inline int confine_process(size_t memory_bytes, unsigned seconds)
{
    const struct rlimit memory = {memory_bytes, memory_bytes}, none = {0, 0}, files = {64, 64};
    if (setrlimit(RLIMIT_AS, &memory) < 0 || setrlimit(RLIMIT_FSIZE, &none) < 0 ||
        setrlimit(RLIMIT_CORE, &none) < 0 || setrlimit(RLIMIT_NOFILE, &files) < 0)
        return -1;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
        return -1;
    if (seconds > 0)
        (void)alarm(seconds);
    return 0;
}

#endif
