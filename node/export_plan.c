#include "node/export_plan.h"

#include <string.h>

#include "base/err.h"

#define RETRY_NS ((uint64_t)EXPORT_RETRY_MS * UINT64_C(1000000))

void export_plan_init(struct export_plan *plan, size_t wanted, uint64_t silence_ns)
{
    ASSERT(wanted >= 1 && silence_ns >= 1);
    memset(plan, 0, sizeof *plan);
    plan->wanted = wanted;
    plan->silence_ns = silence_ns;
}

void export_plan_add(struct export_plan *plan, const struct id *id)
{
    if (plan->count == EXPORT_MEMBERS_MAX)
        return;
    plan->members[plan->count] = (struct export_member){.id = *id};
    plan->count++;
    plan->current = plan->count;
}

/* The first that still waits; count: none. */
static size_t first_waiting(const struct export_plan *plan)
{
    size_t at = 0;
    while (at < plan->count && plan->members[at].fate != EXPORT_WAITING)
        at++;
    return at;
}

enum export_step export_plan_next(struct export_plan *plan, uint64_t now_ns)
{
    size_t at = first_waiting(plan);
    ASSERT(plan->current == plan->count);
    if (at == plan->count || plan->merged == plan->wanted)
        return EXPORT_DONE;
    if (plan->members[at].retry_ns > now_ns)
        return EXPORT_PAUSE;
    plan->current = at;
    plan->heard_ns = now_ns;
    plan->bytes = 0;
    return EXPORT_ASK;
}

static struct export_member *asked(struct export_plan *plan)
{
    ASSERT(plan->current < plan->count);
    return &plan->members[plan->current];
}

bool export_plan_silent(struct export_plan *plan, uint64_t now_ns, uint64_t bytes)
{
    const struct export_member *member = asked(plan);
    if (bytes > plan->bytes) {
        plan->bytes = bytes;
        plan->heard_ns = now_ns;
    }
    return member->spent_ns + (now_ns - plan->heard_ns) >= plan->silence_ns;
}

void export_plan_merged(struct export_plan *plan, uint64_t round, double distance)
{
    struct export_member *member = asked(plan);
    member->fate = EXPORT_MERGED;
    member->round = round;
    member->distance = distance;
    plan->merged++;
    plan->current = plan->count;
}

/* A timeout is of the whole transfer, or of one that does not even answer: gossip/exchange.h. */
static bool is_final(int err)
{
    return err == ERR_MALFORMED || err == ERR_MISMATCH || err == ERR_NOT_FINITE || err == ERR_FAR ||
           err == ERR_TIMEOUT;
}

void export_plan_failed(struct export_plan *plan, uint64_t now_ns, int err)
{
    struct export_member *member = asked(plan);
    size_t at = plan->current;
    plan->current = plan->count;
    member->spent_ns += now_ns - plan->heard_ns + RETRY_NS;
    member->retry_ns = now_ns + RETRY_NS;
    /* That we broke it off says less than what the member said before. */
    if (err != ERR_CLOSED || member->err == 0)
        member->err = err;
    if (is_final(err) || member->spent_ns >= plan->silence_ns + RETRY_NS) {
        member->fate = EXPORT_MISSING;
        return;
    }
    struct export_member last = *member;
    memmove(&plan->members[at], &plan->members[at + 1], (plan->count - at - 1) * sizeof last);
    plan->members[plan->count - 1] = last;
}

void export_plan_interrupted(struct export_plan *plan, uint64_t now_ns)
{
    asked(plan)->retry_ns = now_ns + RETRY_NS;
    plan->current = plan->count;
}

uint64_t export_plan_deadline_ns(const struct export_plan *plan)
{
    size_t at = first_waiting(plan);
    return at == plan->count || plan->merged == plan->wanted ? 0 : plan->members[at].retry_ns;
}
