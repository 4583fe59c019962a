#include "node/attempts.h"

#include <string.h>

#define SAME_NS UINT64_C(1000000000)

static bool is_same(const struct attempt *a, const struct attempt *b)
{
    return a->kind == b->kind && a->code == b->code && id_equal(&a->peer, &b->peer) &&
           net_addr_equal(&a->addr, &b->addr) && b->time_ns - a->time_ns < SAME_NS;
}

void attempts_note(struct attempts *attempts, uint64_t now_ns, const struct id *peer, enum attempt_kind kind,
                   const struct net_addr *addr, int code)
{
    struct attempt attempt = {.time_ns = now_ns, .peer = *peer, .kind = kind, .code = code};
    ASSERT(kind < ATTEMPT_KINDS);
    if (addr != NULL)
        attempt.addr = *addr;
    struct attempt *last = &attempts->ring[(attempts->count + ATTEMPTS_MAX - 1) % ATTEMPTS_MAX];
    if (attempts->count > 0 && is_same(last, &attempt)) {
        *last = attempt;
        return;
    }
    attempts->ring[attempts->count % ATTEMPTS_MAX] = attempt;
    attempts->count++;
}

size_t attempts_of(const struct attempts *attempts, const struct id *peer, struct attempt out[], size_t cap)
{
    size_t held = attempts->count < ATTEMPTS_MAX ? attempts->count : ATTEMPTS_MAX;
    size_t matching = 0;
    for (size_t i = 0; i < held; i++)
        matching += id_equal(&attempts->ring[i].peer, peer);
    size_t skip = matching > cap ? matching - cap : 0;
    size_t count = 0;
    for (size_t i = attempts->count - held; i < attempts->count; i++) {
        const struct attempt *attempt = &attempts->ring[i % ATTEMPTS_MAX];
        if (!id_equal(&attempt->peer, peer))
            continue;
        if (skip > 0)
            skip--;
        else
            out[count++] = *attempt;
    }
    return count;
}

const char *attempt_part(enum attempt_kind kind)
{
    static const char *const parts[] = {
#define X(name, part, text) part,
        ATTEMPTS_LIST(X)
#undef X
    };
    return kind < ATTEMPT_KINDS ? parts[kind] : "";
}

const char *attempt_text(enum attempt_kind kind)
{
    static const char *const texts[] = {
#define X(name, part, text) text,
        ATTEMPTS_LIST(X)
#undef X
    };
    return kind < ATTEMPT_KINDS ? texts[kind] : "";
}
