/* When the round clock wants to be woken: never for a boundary that nothing can follow yet.  A deadline that
 * has passed and stays would have the loop do nothing else, and the turn that is waited for would never end.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "node/run_internal.h"

enum { ROUNDS = 20, FRAGMENTS = 5 };

#define BOUNDARY_NS UINT64_C(7000000000)

static struct run run;

/* In round `round`, with nothing under way. */
static void begin(uint64_t round)
{
    memset(&run, 0, sizeof run);
    run.stage = RUN_TRAINING;
    run.config.rounds = ROUNDS;
    run.shape.fragment_count = FRAGMENTS;
    run.round = round;
    run.boundary_ns = BOUNDARY_NS;
}

static void set_turn(uint64_t round, enum run_turn_stage stage)
{
    run.turns[round % GOSSIP_LANES] = (struct run_turn){
        .stage = stage, .round = round, .fragment = gossip_layout_fragment(&run.shape, round)};
}

Test(run_round, a_round_follows_when_its_lane_is_free)
{
    begin(6);
    cr_assert_eq(run_round_deadline_ns(&run), BOUNDARY_NS);
    set_turn(6, TURN_EXCHANGING);
    cr_assert_eq(run_round_deadline_ns(&run), BOUNDARY_NS, "7 goes beside 6");
    set_turn(5, TURN_APPLYING);
    cr_assert_eq(run_round_deadline_ns(&run), UINT64_MAX, "7 has the lane of 5");
    set_turn(5, TURN_IDLE);
    run.paused = true;
    cr_assert_eq(run_round_deadline_ns(&run), UINT64_MAX);
}

/* The end's turns follow the last round's as rounds do; nothing follows when all is done. */
Test(run_round, the_end_waits_for_lanes_and_nothing_follows_it)
{
    begin(ROUNDS);
    run.stage = RUN_FINISHING;
    set_turn(ROUNDS - 1, TURN_EXCHANGING);
    cr_assert_eq(run_round_deadline_ns(&run), UINT64_MAX, "the next has its lane");
    set_turn(ROUNDS - 1, TURN_IDLE);
    cr_assert_eq(run_round_deadline_ns(&run), BOUNDARY_NS);
    run.stage = RUN_FINISHED;
    cr_assert_eq(run_round_deadline_ns(&run), UINT64_MAX);
}

/* Two rounds behind: the next but one is taken up, whose lane is still the present one's. */
Test(run_round, a_round_that_is_skipped_to_waits_for_its_own_lane)
{
    begin(6);
    set_turn(6, TURN_MERGING);
    run.held_round = 8;
    cr_assert_eq(run_round_deadline_ns(&run), UINT64_MAX);
    set_turn(6, TURN_IDLE);
    cr_assert_eq(run_round_deadline_ns(&run), BOUNDARY_NS, "at once");
}

Test(run_round, a_fetch_waits_for_both_turns)
{
    begin(6);
    run.held_round = RUN_HELD_FETCH;
    set_turn(6, TURN_EXCHANGING);
    cr_assert_eq(run_round_deadline_ns(&run), UINT64_MAX);
    set_turn(6, TURN_IDLE);
    set_turn(5, TURN_APPLYING);
    cr_assert_eq(run_round_deadline_ns(&run), UINT64_MAX);
    set_turn(5, TURN_IDLE);
    cr_assert_eq(run_round_deadline_ns(&run), BOUNDARY_NS);
}
