/* UDP counts as blocked only while TCP to the same nodes works, and again each time; neither dead nodes nor a
 * pause of the network suffice. */
#include <criterion/criterion.h>

#include "node/blockage.h"

#define MS(x) ((uint64_t)(x)*UINT64_C(1000000))

static struct blockage b;
static uint64_t now_ns = MS(1000000);

/* Steps of 50 ms; returns how many of each there were, and stops when it counts as blocked. */
static unsigned pass(uint64_t ms, bool link_stands, enum blockage_step counted)
{
    unsigned count = 0;
    for (uint64_t at = 0; at < ms; at += 50) {
        now_ns += MS(50);
        enum blockage_step step = blockage_step(&b, now_ns, link_stands);
        count += step == counted;
        if (step == BLOCKAGE_BLOCKED)
            break;
    }
    return count;
}

Test(blockage, a_blocked_network_is_found)
{
    blockage_asked(&b, now_ns);
    cr_assert_eq(pass(2400, false, BLOCKAGE_NOTHING), 48);
    cr_assert_eq(pass(550, false, BLOCKAGE_CHECK), 1);
    cr_assert_gt(pass(400, false, BLOCKAGE_DIAL), 0);
    cr_assert_eq(pass(200, true, BLOCKAGE_JUDGE), 1); /* now that a link stands, its other end */
    cr_assert_eq(pass(1500, true, BLOCKAGE_BLOCKED), 1);
    cr_assert(b.blocked);
    cr_assert_eq(pass(60000, true, BLOCKAGE_NOTHING), 1200);
    cr_assert(blockage_heard(&b, now_ns));
    cr_assert_not(b.blocked);
}

/* Found once, lost, and found again: nothing of the first time stands in the way. */
Test(blockage, it_is_found_a_second_time)
{
    for (int i = 0; i < 3; i++) {
        blockage_asked(&b, now_ns);
        cr_assert_eq(pass(6000, true, BLOCKAGE_BLOCKED), 1, "time %d", i);
        now_ns += MS(1);
        cr_assert(blockage_heard(&b, now_ns));
        now_ns += MS(1);
    }
}

Test(blockage, without_tcp_it_is_no_matter_of_udp)
{
    blockage_asked(&b, now_ns);
    cr_assert_eq(pass(600000, false, BLOCKAGE_BLOCKED), 0);
}

/* Somebody asks a dead address again and again; others answer now and then, or when they are asked. */
Test(blockage, dead_nodes_are_not_enough)
{
    for (int i = 0; i < 1000; i++) {
        now_ns += MS(50);
        blockage_asked(&b, now_ns);
        enum blockage_step step = blockage_step(&b, now_ns, true);
        cr_assert_neq(step, BLOCKAGE_BLOCKED);
        if (step != BLOCKAGE_CHECK && step != BLOCKAGE_JUDGE)
            continue;
        now_ns += MS(100);
        cr_assert_not(blockage_heard(&b, now_ns));
    }
}

/* All is silent for seconds, then TCP comes back first: UDP is asked once more, and answers. */
Test(blockage, a_pause_of_the_network_is_not_enough)
{
    blockage_asked(&b, now_ns);
    cr_assert_eq(pass(9000, false, BLOCKAGE_BLOCKED), 0);
    cr_assert_eq(pass(100, true, BLOCKAGE_JUDGE), 1);
    now_ns += MS(300);
    cr_assert_not(blockage_heard(&b, now_ns));
    cr_assert_eq(pass(60000, true, BLOCKAGE_NOTHING), 1200);
    cr_assert_eq(blockage_deadline_ns(&b, now_ns), UINT64_MAX);
}

/* A link that ends while it is judged proves nothing any more. */
Test(blockage, the_link_must_stay)
{
    blockage_asked(&b, now_ns);
    (void)pass(3200, false, BLOCKAGE_DIAL);
    for (int i = 0; i < 20; i++) {
        cr_assert_eq(pass(800, true, BLOCKAGE_BLOCKED), 0);
        cr_assert_gt(pass(100, false, BLOCKAGE_DIAL), 0);
    }
}

Test(blockage, tries_while_blocked_are_rare)
{
    unsigned tries = 0;
    cr_assert_not(blockage_try(&b, now_ns));
    blockage_asked(&b, now_ns);
    (void)pass(10000, true, BLOCKAGE_BLOCKED);
    for (int i = 0; i < 600; i++) {
        now_ns += MS(100);
        tries += blockage_try(&b, now_ns);
    }
    cr_assert_eq(tries, 60000 / BLOCKAGE_TRY_MS);
}

/* Asked for its deadline, it is never late and does not have the loop spin. */
Test(blockage, its_deadlines_lead_to_the_end)
{
    unsigned steps = 0;
    uint64_t began_ns = now_ns;
    blockage_asked(&b, now_ns);
    while (!b.blocked && steps < 100) {
        uint64_t next_ns = blockage_deadline_ns(&b, now_ns);
        cr_assert_gt(next_ns, now_ns);
        now_ns = next_ns;
        (void)blockage_step(&b, now_ns, true);
        steps++;
    }
    cr_assert_leq(steps, 5);
    cr_assert_leq(now_ns - began_ns, MS(BLOCKAGE_PATIENCE_MS + BLOCKAGE_CHECK_MS + BLOCKAGE_JUDGE_MS + 200));
}
