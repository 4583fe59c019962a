/* Swarms of exchange cores under delay, reordering between streams, resets, links that die in silence, failed
 * opens, freezes and slow merge threads: nobody may wait past a deadline, at most two exchanges run and never
 * two of a fragment, every round has one outcome, both partners merge or neither does, except in the counted
 * window, and what a pair merges keeps its sum. */
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

/* Runs until node 0 has begun this round. */
static void run_until(uint64_t round)
{
    while (sim.nodes[0].began[round] == 0) {
        struct swarm_event e = swarm_pop(&sim);
        sim.now = e.order.key;
        swarm_step(&sim, &e);
    }
}

static void freeze_first(uint64_t duration)
{
    sim.nodes[0].frozen_until = sim.now + duration;
    sim.nodes[0].thawed_at = sim.nodes[0].frozen_until;
}

static struct gossip_counters totals(void)
{
    struct gossip_counters sum = {0};
    for (size_t i = 0; i < sim.count; i++) {
        const struct gossip_counters *c = gossip_counters(sim.nodes[i].g);
        sum.merges += c->merges;
        sum.malformed += c->malformed;
        sum.blocks_wanted += c->blocks_wanted;
        sum.blocks_repaired += c->blocks_repaired;
        sum.repair_bytes_sent += c->repair_bytes_sent;
        sum.repair_bytes_received += c->repair_bytes_received;
        for (size_t reason = 0; reason < GOSSIP_SOLO_COUNT; reason++)
            sum.solo[reason] += c->solo[reason];
    }
    return sum;
}

Test(sim_gossip, a_calm_swarm_merges_every_round)
{
    size_t sizes[] = {2, 3, 8, 9, 16}, fragments[] = {1, 2, 5};
    for (size_t k = 0; k < 15; k++) {
        size_t size = sizes[k % 5];
        struct swarm_faults f = calm;
        f.plain = k >= 5 && k < 10;
        f.wrong_blocks = f.plain ? 0 : 0.05;
        swarm_init(&sim, size, fragments[k / 5], 14, 1 + k, f);
        swarm_run(&sim);
        swarm_check_end(&sim);
        for (uint64_t r = 2; r <= 14; r++)
            cr_assert_eq(merges_of_round(&sim, r), size - size % 2,
                         "%zu nodes, %zu fragments, round %llu: %llu", size, sim.fragments,
                         (unsigned long long)r, (unsigned long long)merges_of_round(&sim, r));
        cr_assert_gt(sim.pair_checks, 0);
        struct gossip_counters sum = totals();
        cr_assert_eq(sum.malformed, 0);
        cr_assert_eq(sum.blocks_wanted, sum.blocks_repaired);
        cr_assert_eq(sum.repair_bytes_sent, sum.repair_bytes_received);
        cr_assert(f.plain ? sum.blocks_wanted == 0 : sum.blocks_wanted > 0);
        swarm_deinit(&sim);
    }
}

/* Each seed draws its own mix; some faults are off altogether. */
static struct swarm_faults mix_of(uint64_t seed)
{
    struct swarm_faults f = calm;
    f.reset_per_frame = seed % 3 == 0 ? 0 : 0.02 * (double)(seed % 5);
    f.silence_per_frame = seed % 3 == 0 ? 0.02 : 0;
    f.open_fails = seed % 4 == 0 ? 0.2 : 0;
    f.freeze_per_round = seed % 2 == 0 ? 0.05 : 0;
    f.freeze_max = (seed % 8 == 0 ? 5000 : 1200) * MS;
    f.stall_per_answer = seed % 7 == 0 ? 0.3 : 0;
    f.wrong_blocks = seed % 5 < 2 ? 0.1 : 0;
    f.latency_max = seed % 5 == 0 ? 200 * MS : 20 * MS;
    f.start_spread = (seed % 7) * 120 * MS;
    f.bytes_per_ns = seed % 6 == 0 ? 0.0003 : 0.01; /* slow: some exchanges cannot finish in time */
    return f;
}

Test(sim_gossip, any_faults_keep_the_promises)
{
    static const size_t fragments[] = {5, 1, 2, 8};
    uint64_t merges = 0, unconfirmed = 0, advances = 0, phases = 0, asymmetric = 0, repairs = 0, checks = 0;
    uint64_t here = 0, far = 0;
    for (uint64_t seed = 1; seed <= 24; seed++) {
        swarm_init(&sim, 4 + seed % 9, fragments[seed / 3 % 4], 25, seed, mix_of(seed));
        swarm_run(&sim);
        swarm_check_end(&sim);
        for (size_t i = 0; i < sim.count; i++) {
            advances += sim.nodes[i].advances;
            phases += sim.nodes[i].phases;
        }
        struct gossip_counters sum = totals();
        cr_assert_eq(sum.malformed, 0, "seed %llu", (unsigned long long)seed);
        merges += sum.merges;
        unconfirmed += sum.solo[GOSSIP_SOLO_UNCONFIRMED];
        here += sum.solo[GOSSIP_SOLO_HERE];
        far += sum.solo[GOSSIP_SOLO_FAR];
        asymmetric += sim.asymmetric;
        repairs += sim.repairs;
        checks += sim.pair_checks;
        swarm_deinit(&sim);
    }
    cr_log_info(
        "%llu merges (%llu pairs compared, %llu repairs), %llu unconfirmed of which %llu asymmetric, %llu "
        "waited for us, %llu far, %llu advances, %llu phases",
        (unsigned long long)merges, (unsigned long long)checks, (unsigned long long)repairs,
        (unsigned long long)unconfirmed, (unsigned long long)asymmetric, (unsigned long long)here,
        (unsigned long long)far, (unsigned long long)advances, (unsigned long long)phases);
    cr_assert(merges > 1500 && checks > 500 && repairs > 100 && unconfirmed > 0 && asymmetric > 0);
    cr_assert(advances > 0 && phases > 0 && here > 0);
    cr_assert_lt(asymmetric * 25, merges, "%llu asymmetric", (unsigned long long)asymmetric);
}

Test(sim_gossip, same_seed_same_outcomes)
{
    struct id traces[2];
    for (int pass = 0; pass < 2; pass++) {
        struct swarm_faults f = calm;
        f.reset_per_frame = 0.03;
        f.silence_per_frame = 0.01;
        f.freeze_per_round = 0.1;
        f.freeze_max = 1500 * MS;
        swarm_init(&sim, 9, 5, 15, 77, f);
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
    swarm_init(&sim, 8, 1, 8, 5, calm);
    run_until(5);
    freeze_first(850 * MS);
    swarm_run(&sim);
    swarm_check_end(&sim);
    cr_assert_eq(merges_of_round(&sim, 5), 6);
    cr_assert_neq(sim.nodes[0].outcomes[5].solo, 0);
    cr_assert_eq(merges_of_round(&sim, 6), 8, "%llu", (unsigned long long)merges_of_round(&sim, 6));
    swarm_deinit(&sim);
}

Test(sim_gossip, with_fragments_a_frozen_partner_costs_only_its_own_pairs)
{
    /* Node 0 stops for four rounds, long enough to fail the exchanges in both lanes.  Whoever is not its
     * partner merges in every round, no later than without it. */
    swarm_init(&sim, 8, 5, 18, 5, calm);
    run_until(6);
    freeze_first(4000 * MS);
    swarm_run(&sim);
    swarm_check_end(&sim);
    for (uint64_t r = 2; r <= 17; r++) {
        for (size_t i = 1; i < 8; i++) {
            const struct swarm_outcome *o = &sim.nodes[i].outcomes[r];
            if (sim.nodes[i].partners[r] == 0)
                continue;
            cr_assert(o->count == 1 && o->solo == 0, "node %zu round %llu: solo %d", i, (unsigned long long)r,
                      (int)o->solo);
            cr_assert_lt(o->at - sim.nodes[i].began[r], 500 * MS);
        }
    }
    for (uint64_t r = 13; r <= 17; r++)
        cr_assert_eq(merges_of_round(&sim, r), 8, "round %llu", (unsigned long long)r);
    swarm_deinit(&sim);
}

Test(sim_gossip, a_laggard_is_pulled_forward)
{
    /* Node 0 misses three whole rounds and then merges again, without ever getting those rounds. */
    for (size_t fragments = 1; fragments <= 5; fragments += 2) {
        swarm_init(&sim, 6, fragments, 16, 6, calm);
        run_until(4);
        freeze_first(3300 * MS);
        swarm_run(&sim);
        swarm_check_end(&sim);
        cr_assert_gt(sim.nodes[0].advances, 0);
        for (uint64_t r = 12; r <= 15; r++)
            cr_assert_eq(merges_of_round(&sim, r), 6, "%zu fragments, round %llu: %llu", fragments,
                         (unsigned long long)r, (unsigned long long)merges_of_round(&sim, r));
        swarm_deinit(&sim);
    }
}

Test(sim_gossip, phases_apart_by_most_of_a_round_come_together)
{
    struct swarm_faults f = calm;
    f.start_spread = 900 * MS;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        swarm_init(&sim, 6, seed % 2 == 0 ? 5 : 1, 40, seed, f);
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

/* Whether the schedule of this round has `from` invite `to`. */
static bool scheduled(uint64_t round, size_t from, size_t to)
{
    struct gossip_view view;
    struct id partner;
    swarm_view(&sim, round, &view);
    return gossip_pair(&sim.run, round, (unsigned)sim.layout.fragment_count, &view, &sim.nodes[from].id,
                       &partner) &&
           id_equal(&partner, &sim.nodes[to].id) && gossip_pair_invites(&sim.nodes[from].id, &partner);
}

/* One invite in the name of `from`, whose own core knows nothing of it. */
static void forge_invite(uint64_t round, size_t from, size_t to)
{
    static uint8_t wire[GOSSIP_CONTROL_MAX];
    struct gossip_message m = {.type = GOSSIP_INVITE,
                               .run = sim.run,
                               .round = round,
                               .codecs = (1u << GOSSIP_CODEC_COUNT) - 1,
                               .codec = GOSSIP_CODEC_INT8,
                               .param_count = sim.layout.param_count,
                               .schema = sim.layout.schema};
    int len = gossip_message_encode(&m, wire, sizeof wire);
    cr_assert(len > 0 && sim.link_count < SWARM_LINKS);
    struct swarm_link *link = &sim.links[sim.link_count];
    *link = (struct swarm_link){.ends = {from, to}, .dead = {true, false}, .flying = {0, (size_t)len}};
    uint8_t *copy = malloc((size_t)len);
    memcpy(copy, wire, (size_t)len);
    swarm_push(&sim, (struct swarm_event){.order.key = sim.now + 25 * MS,
                                          .kind = EV_FRAME,
                                          .node = to,
                                          .a = sim.link_count++,
                                          .frame = copy,
                                          .len = (size_t)len});
}

Test(sim_gossip, simultaneous_invites_of_all_pairs_block_nobody)
{
    /* At one moment of every round everybody invites everybody, also the higher id the lower one: what the
     * schedule does not foresee is declined at once and every honest exchange takes place. */
    for (size_t fragments = 1; fragments <= 5; fragments += 4) {
        swarm_init(&sim, 8, fragments, 12, 3, calm);
        for (uint64_t r = 1; r <= 11; r++) {
            run_until(r);
            for (size_t pair = 0; pair < 64; pair++)
                if (pair / 8 != pair % 8 && !scheduled(r, pair / 8, pair % 8))
                    forge_invite(r, pair / 8, pair % 8);
        }
        swarm_run(&sim);
        swarm_check_end(&sim);
        for (size_t i = 0; i < sim.count; i++)
            cr_assert_geq(gossip_counters(sim.nodes[i].g)->busy_sent, 6 * 11);
        for (uint64_t r = 2; r <= 12; r++)
            cr_assert_eq(merges_of_round(&sim, r), 8, "%zu fragments, round %llu: %llu", fragments,
                         (unsigned long long)r, (unsigned long long)merges_of_round(&sim, r));
        swarm_deinit(&sim);
    }
}

Test(sim_gossip, repairs_under_loss_keep_the_sum)
{
    uint64_t merges = 0, repairs = 0, checks = 0, unconfirmed = 0;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct swarm_faults f = calm;
        f.wrong_blocks = 0.25;
        f.reset_per_frame = seed % 2 == 0 ? 0.03 : 0;
        f.silence_per_frame = seed % 2 == 0 ? 0 : 0.03;
        swarm_init(&sim, 8, seed % 3 == 0 ? 1 : 5, 25, seed, f);
        swarm_run(&sim);
        swarm_check_end(&sim);
        struct gossip_counters sum = totals();
        cr_assert_eq(sum.malformed, 0);
        merges += sum.merges;
        unconfirmed += sum.solo[GOSSIP_SOLO_UNCONFIRMED];
        repairs += sim.repairs;
        checks += sim.pair_checks;
        swarm_deinit(&sim);
    }
    cr_log_info("%llu merges, %llu repairs, %llu pairs compared, %llu unconfirmed",
                (unsigned long long)merges, (unsigned long long)repairs, (unsigned long long)checks,
                (unsigned long long)unconfirmed);
    cr_assert(merges > 500 && repairs > 300 && checks > 200 && unconfirmed > 0);
}

Test(sim_gossip, a_stalled_merge_thread_costs_its_own_rounds)
{
    /* Answers come one to three rounds late in three of ten cases: the blobs stay readable until then (the
     * swarm compares them), the rounds end in time, and what came in time merges. */
    uint64_t merges = 0, here = 0, late = 0;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct swarm_faults f = calm;
        f.stall_per_answer = 0.3;
        f.wrong_blocks = 0.1;
        swarm_init(&sim, 8, 5, 25, seed, f);
        swarm_run(&sim);
        swarm_check_end(&sim);
        struct gossip_counters sum = totals();
        merges += sum.merges;
        here += sum.solo[GOSSIP_SOLO_HERE];
        late += sim.late_answers;
        swarm_deinit(&sim);
    }
    cr_log_info("%llu merges, %llu waited for us, %llu late answers", (unsigned long long)merges,
                (unsigned long long)here, (unsigned long long)late);
    cr_assert(merges > 200 && here > 20 && late > 20);
}
