#include "node/seek.h"

#define MS(x) ((uint64_t)(x)*UINT64_C(1000000))

static uint64_t wait_ns(const struct seek *seek)
{
    uint32_t doublings = seek->silent < SEEK_DOUBLINGS_MAX ? seek->silent : SEEK_DOUBLINGS_MAX;
    return MS(SEEK_AGAIN_MS) << doublings;
}

bool seek_due(const struct seek *seek, uint64_t now_ns)
{
    return now_ns >= seek->next_ns;
}

void seek_opened(struct seek *seek, uint64_t now_ns, bool standby)
{
    uint64_t next_ns = standby ? MS(SEEK_STANDBY_MS) : wait_ns(seek);
    seek->opened_ns = now_ns;
    seek->next_ns = now_ns + next_ns;
}

void seek_up(struct seek *seek)
{
    seek->silent = 0;
    seek->refused = 0;
}

void seek_failed(struct seek *seek, uint64_t now_ns, bool silent)
{
    if (!silent) {
        uint64_t again_ns = seek->opened_ns + (MS(SEEK_REFUSED_MS) << seek->refused);
        seek->refused += seek->refused < SEEK_DOUBLINGS_MAX;
        seek->next_ns = again_ns < seek->next_ns ? again_ns : seek->next_ns;
        return;
    }
    seek->silent += seek->silent < SEEK_DOUBLINGS_MAX;
    uint64_t next_ns = seek->opened_ns + wait_ns(seek);
    if (next_ns > now_ns && next_ns > seek->next_ns)
        seek->next_ns = next_ns;
}

void seek_hurry(struct seek *seek, uint64_t now_ns)
{
    uint64_t least_ns = seek->opened_ns == 0 ? 0 : seek->opened_ns + MS(SEEK_AGAIN_MS);
    uint64_t next_ns = least_ns > now_ns ? least_ns : now_ns;
    if (next_ns < seek->next_ns)
        seek->next_ns = next_ns;
}
