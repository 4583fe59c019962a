/* Swarms of exchange cores under delay, resets, failed opens and freezes: nobody may wait past a deadline,
 * every round has one outcome, both partners merge or neither does, except in the counted window. */
#include "sim/gossip_swarm.h"

static struct swarm sim;

static const struct swarm_faults calm = {
    .latency_min = MS, .latency_max = 20 * MS, .start_spread = 30 * MS, .bytes_per_ns = 0.01}; /* 10 MB/s */

static uint64_t merges_of_round(const struct swarm *s, uint64_t round)
{
    uint64_t merged = 0;
    for (size_t i = 0; i < s->count; i++)
        merged += s->nodes[i].outcomes[round].count == 1 && s->nodes[i].outcomes[round].solo == 0;
    return merged;
}

Test(sim_gossip, a_calm_swarm_merges_every_round)
{
    size_t sizes[] = {2, 3, 8, 9, 16};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        swarm_init(&sim, sizes[k], 12, 1 + k, calm);
        swarm_run(&sim);
        swarm_check_end(&sim);
        for (uint64_t r = 2; r <= 12; r++)
            cr_assert_eq(merges_of_round(&sim, r), sizes[k] - sizes[k] % 2,
                         "%zu nodes, round %llu: %llu merged", sizes[k], (unsigned long long)r,
                         (unsigned long long)merges_of_round(&sim, r));
        cr_assert_gt(sim.pair_checks, 0);
        swarm_deinit(&sim);
    }
}

Test(sim_gossip, any_faults_keep_the_promises)
{
    /* Each seed draws its own mix; some faults are off altogether. */
    uint64_t merges = 0, unconfirmed = 0, advances = 0, phases = 0, asymmetric = 0;
    for (uint64_t seed = 1; seed <= 24; seed++) {
        struct swarm_faults f = calm;
        f.reset_per_frame = seed % 3 == 0 ? 0 : 0.02 * (double)(seed % 5);
        f.open_fails = seed % 4 == 0 ? 0.2 : 0;
        f.freeze_per_round = seed % 2 == 0 ? 0.05 : 0;
        f.freeze_max = (seed % 8 == 0 ? 5000 : 1200) * MS;
        f.latency_max = seed % 5 == 0 ? 200 * MS : 20 * MS;
        f.start_spread = (seed % 7) * 120 * MS;
        f.bytes_per_ns =
            seed % 6 == 0 ? 0.0003 : 0.01; /* slow: some exchanges cannot finish in half a round */
        swarm_init(&sim, 4 + seed % 9, 25, seed, f);
        swarm_run(&sim);
        swarm_check_end(&sim);
        for (size_t i = 0; i < sim.count; i++) {
            merges += gossip_counters(sim.nodes[i].g)->merges;
            unconfirmed += gossip_counters(sim.nodes[i].g)->solo[GOSSIP_SOLO_UNCONFIRMED];
            advances += sim.nodes[i].advances;
            phases += sim.nodes[i].phases;
        }
        asymmetric += sim.asymmetric;
        swarm_deinit(&sim);
    }
    cr_log_info("%llu merges, %llu unconfirmed of which %llu asymmetric, %llu advances, %llu phases",
                (unsigned long long)merges, (unsigned long long)unconfirmed, (unsigned long long)asymmetric,
                (unsigned long long)advances, (unsigned long long)phases);
    cr_assert(merges > 1000 && unconfirmed > 0 && asymmetric > 0 && advances > 0 && phases > 0);
}

Test(sim_gossip, same_seed_same_outcomes)
{
    struct id traces[2];
    for (int pass = 0; pass < 2; pass++) {
        struct swarm_faults f = calm;
        f.reset_per_frame = 0.03;
        f.freeze_per_round = 0.1;
        f.freeze_max = 1500 * MS;
        swarm_init(&sim, 9, 15, 77, f);
        swarm_run(&sim);
        traces[pass] = sim.trace;
        swarm_deinit(&sim);
    }
    cr_assert(id_equal(&traces[0], &traces[1]));
}

Test(sim_gossip, a_frozen_partner_costs_only_its_own_pair)
{
    /* Node 0 stops for most of round 5: the six others merge with each other; in round 6 all eight do again.
     */
    swarm_init(&sim, 8, 8, 5, calm);
    while (sim.nodes[0].began[5] == 0) {
        struct swarm_event e = swarm_pop(&sim);
        sim.now = e.order.key;
        swarm_step(&sim, &e);
    }
    sim.nodes[0].frozen_until = sim.now + 850 * MS;
    sim.nodes[0].thawed_at = sim.nodes[0].frozen_until;
    swarm_run(&sim);
    swarm_check_end(&sim);
    cr_assert_eq(merges_of_round(&sim, 5), 6);
    cr_assert_neq(sim.nodes[0].outcomes[5].solo, 0);
    cr_assert_eq(merges_of_round(&sim, 6), 8, "%llu", (unsigned long long)merges_of_round(&sim, 6));
    swarm_deinit(&sim);
}

Test(sim_gossip, a_laggard_is_pulled_forward)
{
    /* Node 0 misses three whole rounds and then merges again, without ever getting those rounds. */
    swarm_init(&sim, 6, 16, 6, calm);
    while (sim.nodes[0].began[4] == 0) {
        struct swarm_event e = swarm_pop(&sim);
        sim.now = e.order.key;
        swarm_step(&sim, &e);
    }
    sim.nodes[0].frozen_until = sim.now + 3300 * MS;
    sim.nodes[0].thawed_at = sim.nodes[0].frozen_until;
    swarm_run(&sim);
    swarm_check_end(&sim);
    cr_assert_gt(sim.nodes[0].advances, 0);
    for (uint64_t r = 12; r <= 15; r++)
        cr_assert_eq(merges_of_round(&sim, r), 6, "round %llu: %llu", (unsigned long long)r,
                     (unsigned long long)merges_of_round(&sim, r));
    swarm_deinit(&sim);
}

Test(sim_gossip, phases_apart_by_most_of_a_round_come_together)
{
    struct swarm_faults f = calm;
    f.start_spread = 900 * MS;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        swarm_init(&sim, 6, 40, seed, f);
        swarm_run(&sim);
        swarm_check_end(&sim);
        uint64_t late = 0;
        for (uint64_t r = 25; r <= 38; r++)
            late += merges_of_round(&sim, r);
        cr_assert_gt(late, 6 * 14 * 9 / 10, "seed %llu: %llu", (unsigned long long)seed,
                     (unsigned long long)late);
        swarm_deinit(&sim);
    }
}
