/* Nobody can hold up a merged export: members that are silent, busy, or send what cannot be used cost at most
 * their budget of silence each, and others take their places.  We play members of each kind against the
 * plan and count who was asked, and when. */
#include <criterion/criterion.h>

#include "base/err.h"
#include "node/export_plan.h"

#define MS(x) ((uint64_t)(x)*UINT64_C(1000000))

enum { SILENCE_MS = 30000 };

static struct export_plan plan;
static uint64_t now_ns = MS(1000000);

static void begin(size_t members, size_t wanted)
{
    export_plan_init(&plan, wanted, MS(SILENCE_MS));
    for (size_t i = 0; i < members; i++) {
        struct id id = {.bytes = {(uint8_t)i}};
        export_plan_add(&plan, &id);
    }
}

/* Number of the member that is asked next, after waiting for it if need be; -1: the plan is done. */
static int ask(void)
{
    enum export_step step = export_plan_next(&plan, now_ns);
    if (step == EXPORT_PAUSE) {
        cr_assert_gt(export_plan_deadline_ns(&plan), now_ns);
        now_ns = export_plan_deadline_ns(&plan);
        step = export_plan_next(&plan, now_ns);
    }
    cr_assert_neq(step, EXPORT_PAUSE);
    return step == EXPORT_DONE ? -1 : plan.members[plan.current].id.bytes[0];
}

static const struct export_member *member(int number)
{
    for (size_t i = 0; i < plan.count; i++) {
        if (plan.members[i].id.bytes[0] == number)
            return &plan.members[i];
    }
    cr_assert(false, "member %d is lost", number);
    return NULL;
}

Test(export_plan, as_many_as_wanted_and_no_more)
{
    begin(5, 2);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(ask(), i);
        export_plan_merged(&plan, 7, 0.1);
    }
    cr_assert_eq(ask(), -1);
    cr_assert_eq(plan.merged, 2);
    cr_assert_eq(member(2)->fate, EXPORT_WAITING);
}

Test(export_plan, nobody_to_ask_is_done_at_once)
{
    begin(0, 3);
    cr_assert_eq(export_plan_deadline_ns(&plan), 0);
    cr_assert_eq(ask(), -1);
}

/* A slow sender is never cut off while something comes, a silent one exactly after its budget. */
Test(export_plan, only_silence_counts)
{
    begin(1, 1);
    cr_assert_eq(ask(), 0);
    for (uint64_t bytes = 1; bytes < 100; bytes++) {
        now_ns += MS(SILENCE_MS) - 1;
        cr_assert_not(export_plan_silent(&plan, now_ns, bytes));
    }
    now_ns += MS(SILENCE_MS) - 1;
    cr_assert_not(export_plan_silent(&plan, now_ns, 99));
    cr_assert(export_plan_silent(&plan, now_ns + 1, 99));
    export_plan_failed(&plan, now_ns + 1, ERR_CLOSED);
    cr_assert_eq(member(0)->fate, EXPORT_MISSING);
    cr_assert_eq(ask(), -1);
}

/* One that answers "busy" at once for ever: its place goes to the next, and it is asked again in vain until
 * its budget is spent, about once a second. */
Test(export_plan, the_busy_come_again_and_not_for_ever)
{
    unsigned asked[3] = {0};
    uint64_t began_ns = now_ns;
    begin(3, 3);
    for (int number = ask(); number >= 0; number = ask()) {
        asked[number]++;
        if (number == 0)
            export_plan_failed(&plan, now_ns, ERR_BUSY);
        else
            export_plan_merged(&plan, 1, 0);
    }
    cr_assert_eq(plan.merged, 2);
    cr_assert(asked[1] == 1 && asked[2] == 1);
    cr_assert(asked[0] > SILENCE_MS / EXPORT_RETRY_MS - 2 && asked[0] < SILENCE_MS / EXPORT_RETRY_MS + 3);
    cr_assert_leq(now_ns - began_ns, MS(SILENCE_MS + 2 * EXPORT_RETRY_MS));
    cr_assert(member(0)->fate == EXPORT_MISSING && member(0)->err == ERR_BUSY);
}

/* What a member said outlives our own breaking off. */
Test(export_plan, the_reason_is_the_member_s)
{
    begin(1, 1);
    cr_assert_eq(ask(), 0);
    export_plan_failed(&plan, now_ns, ERR_BUSY);
    cr_assert_eq(ask(), 0);
    now_ns += MS(SILENCE_MS);
    cr_assert(export_plan_silent(&plan, now_ns, 0));
    export_plan_failed(&plan, now_ns, ERR_CLOSED);
    cr_assert(member(0)->fate == EXPORT_MISSING && member(0)->err == ERR_BUSY);
}

Test(export_plan, what_cannot_be_used_is_not_asked_for_twice)
{
    static const int errors[] = {ERR_MALFORMED, ERR_MISMATCH, ERR_NOT_FINITE, ERR_FAR, ERR_TIMEOUT};
    begin(6, 1);
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(ask(), i);
        export_plan_failed(&plan, now_ns, errors[i]);
        cr_assert(member(i)->fate == EXPORT_MISSING && member(i)->err == errors[i]);
    }
    cr_assert_eq(ask(), 5);
    export_plan_merged(&plan, 1, 0);
    cr_assert_eq(ask(), -1);
}

/* A run that needs the line itself may do so a hundred times: the member pays nothing for it. */
Test(export_plan, interruptions_cost_the_member_nothing)
{
    begin(2, 1);
    for (int i = 0; i < 100; i++) {
        cr_assert_eq(ask(), 0);
        now_ns += MS(SILENCE_MS) - 1;
        export_plan_interrupted(&plan, now_ns);
    }
    cr_assert(member(0)->fate == EXPORT_WAITING && member(0)->spent_ns == 0);
    cr_assert_eq(ask(), 0);
}

/* More members than a plan holds are no harm. */
Test(export_plan, a_full_plan_takes_no_more)
{
    begin(EXPORT_MEMBERS_MAX + 1, EXPORT_MEMBERS_MAX + 1);
    cr_assert_eq(plan.count, EXPORT_MEMBERS_MAX);
    for (size_t i = 0; i < EXPORT_MEMBERS_MAX; i++) {
        cr_assert_geq(ask(), 0);
        export_plan_failed(&plan, now_ns, ERR_FAR);
    }
    cr_assert_eq(ask(), -1);
}
