#include "node/blockage.h"

#define MS(x) ((uint64_t)(x)*UINT64_C(1000000))

static bool is_silent(const struct blockage *b)
{
    return b->asked_ns > b->heard_ns;
}

void blockage_asked(struct blockage *b, uint64_t now_ns)
{
    if (!is_silent(b))
        b->asked_ns = now_ns;
}

bool blockage_heard(struct blockage *b, uint64_t now_ns)
{
    bool was = b->blocked;
    *b = (struct blockage){.heard_ns = now_ns, .try_ns = b->try_ns};
    return was;
}

enum blockage_step blockage_step(struct blockage *b, uint64_t now_ns, bool link_stands)
{
    if (b->blocked || !is_silent(b) || now_ns < b->asked_ns + MS(BLOCKAGE_PATIENCE_MS))
        return BLOCKAGE_NOTHING;
    if (b->check_ns == 0) {
        b->check_ns = now_ns;
        return BLOCKAGE_CHECK;
    }
    if (now_ns < b->check_ns + MS(BLOCKAGE_CHECK_MS))
        return BLOCKAGE_NOTHING;
    if (!link_stands) {
        b->judge_ns = 0;
        return BLOCKAGE_DIAL;
    }
    if (b->judge_ns == 0) {
        b->judge_ns = now_ns;
        return BLOCKAGE_JUDGE;
    }
    if (now_ns < b->judge_ns + MS(BLOCKAGE_JUDGE_MS))
        return BLOCKAGE_NOTHING;
    b->blocked = true;
    b->try_ns = now_ns;
    return BLOCKAGE_BLOCKED;
}

bool blockage_try(struct blockage *b, uint64_t now_ns)
{
    if (!b->blocked || now_ns < b->try_ns + MS(BLOCKAGE_TRY_MS))
        return false;
    b->try_ns = now_ns;
    return true;
}

uint64_t blockage_deadline_ns(const struct blockage *b, uint64_t now_ns)
{
    if (b->blocked || !is_silent(b))
        return UINT64_MAX;
    uint64_t next_ns = b->asked_ns + MS(BLOCKAGE_PATIENCE_MS);
    if (b->check_ns != 0)
        next_ns = b->check_ns + MS(BLOCKAGE_CHECK_MS);
    if (b->judge_ns != 0)
        next_ns = b->judge_ns + MS(BLOCKAGE_JUDGE_MS);
    return next_ns > now_ns ? next_ns : now_ns + MS(200); /* a link is being dialled */
}
