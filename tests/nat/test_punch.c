/* Two punch cores behind modelled NATs reach exactly what their NATs allow, by the strategy that the table
 * names, and end with one result each and no socket left over. */
#include "punch_net.h"

static struct punch_net net;

struct expectation {
    struct nat_kind a, b;
    enum nat_punch_strategy strategy;
    bool direct;
};

static void play(uint64_t seed, const struct expectation *expected, int from)
{
    net_open(&net, seed, expected->a, expected->b);
    net_start(&net, from);
    net_run(&net, net.now_ns + S(60));
    for (int i = 0; i < OBSERVER; i++) {
        const struct punch_node *node = &net.nodes[i];
        cr_assert_eq(node->results, 1, "%s: %d results", nat_punch_strategy_text(expected->strategy),
                     node->results);
        cr_assert_eq(node->result.ok, expected->direct, "seed %lu, node %d, from %d: %s: %s",
                     (unsigned long)seed, i, from, nat_punch_strategy_text(node->result.strategy),
                     nat_punch_reason_text(node->result.reason));
        cr_assert_eq(node->result.strategy, expected->strategy);
        cr_assert_eq(node->result.inbound, i != from);
        cr_assert_eq(node->punched > 0, expected->direct);
    }
    net_check_idle(&net);
    net_close(&net);
}

Test(punch, every_pair_of_kinds_reaches_what_the_table_says)
{
    const struct expectation table[] = {
        {kind_cone, kind_cone, NAT_PUNCH_PLAIN, true},
        {kind_cone, kind_port, NAT_PUNCH_PLAIN, true},
        {kind_cone, kind_series, NAT_PUNCH_PLAIN, true},
        {kind_cone, kind_random, NAT_PUNCH_PLAIN, true},
        {kind_address, kind_address, NAT_PUNCH_PLAIN, true},
        {kind_address, kind_port, NAT_PUNCH_PLAIN, true},
        {kind_address, kind_series, NAT_PUNCH_PLAIN, true},
        {kind_address, kind_random, NAT_PUNCH_PLAIN, true},
        {kind_port, kind_port, NAT_PUNCH_PLAIN, true},
        {kind_port, kind_series, NAT_PUNCH_PREDICT, true},
        {kind_series, kind_series, NAT_PUNCH_PREDICT_BOTH, true},
        {kind_port, kind_random, NAT_PUNCH_BIRTHDAY, true},
        {kind_series, kind_random, NAT_PUNCH_NO_STRATEGY, false},
        {kind_random, kind_random, NAT_PUNCH_NO_STRATEGY, false},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct expectation turned = table[i];
        turned.a = table[i].b;
        turned.b = table[i].a;
        for (int from = 0; from < 2; from++) {
            play(10 * i + 1, &table[i], from);
            play(10 * i + 2, &turned, from);
        }
    }
}

/* What cannot work must be said at once, not after probing. */
Test(punch, hopeless_pairs_cost_one_round_trip)
{
    net_open(&net, 1, kind_series, kind_random);
    net_start(&net, 0);
    net_run(&net, net.now_ns + S(30));
    cr_assert_eq(net.nodes[0].result.reason, NAT_PUNCH_HOPELESS);
    cr_assert_lt(net.nodes[0].result.elapsed_ns, MS(100));
    cr_assert_eq(net.nodes[0].result.probes_sent + net.nodes[1].result.probes_sent, 0);
    cr_assert_geq(nat_punch_ready_ns(net.nodes[0].core, &net.nodes[1].id), net.now_ns + S(500));
    net_close(&net);
}

/* The birthday search is a matter of luck: over many seeds nearly all first attempts and all rounds succeed.
 */
Test(punch, birthday_succeeds_over_many_seeds)
{
    uint64_t probes = 0, most = 0;
    int first = 0;
    const int rounds = 40;
    for (int seed = 1; seed <= rounds; seed++) {
        struct nat_punch_attempt log;
        net_open(&net, (uint64_t)seed, kind_random, kind_port);
        net_start(&net, seed % 2);
        net_run(&net, net.now_ns + S(40));
        cr_assert(net.nodes[0].result.ok && net.nodes[1].result.ok, "seed %d", seed);
        cr_assert_eq(nat_punch_log(net.nodes[1].core, &net.nodes[0].id, &log, 1), 1);
        first += log.attempts == 1;
        probes += log.probes_sent;
        most = log.probes_sent > most ? log.probes_sent : most;
        cr_assert_eq(net.nodes[0].sockets_most, PUNCH_BIRTHDAY_SOCKETS);
        cr_assert_eq(net.nodes[0].sockets_open, 1);
        cr_assert_eq(net.nodes[1].sockets_open, 0);
        net_check_idle(&net);
        net_close(&net);
    }
    cr_log_info("birthday: %lu probes on average, %lu at most, %d of %d at the first attempt\n",
                (unsigned long)(probes / (unsigned)rounds), (unsigned long)most, first, rounds);
    cr_assert_geq(first, rounds - 1);
}

/* An address that only the peer itself names gets fewer guesses. */
Test(punch, unseen_address_gets_few_guesses)
{
    net_open(&net, 3, kind_random, kind_port);
    struct punch_peer *peer = punch_find(net.nodes[1].core, &net.nodes[0].id);
    memset(peer->seen, 0, sizeof peer->seen);
    net_start(&net, 0);
    net_run(&net, net.now_ns + MS(400));
    net.nodes[0].mute = true; /* nothing ever answers */
    net_run(&net, net.now_ns + S(40));
    cr_assert_eq(net.nodes[1].result.probes_sent, NAT_PUNCH_UNSEEN_MAX);
    cr_assert_not(net.nodes[1].result.ok);
    net_close(&net);
}

static int predicted(struct nat_kind a, struct nat_kind b, int foreign, uint64_t seeds)
{
    int oks = 0;
    a.foreign = b.foreign = foreign;
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        net_open(&net, seed, a, b);
        net_start(&net, (int)(seed % 2));
        net_run(&net, net.now_ns + S(60));
        oks += net.nodes[0].result.ok && net.nodes[1].result.ok;
        cr_assert_eq(net.nodes[0].result.ok, net.nodes[1].result.ok);
        net_check_idle(&net);
        net_close(&net);
    }
    return oks;
}

/* Foreign flows move the trend: prediction forgives as many as was measured, and fails beyond. */
Test(punch, prediction_forgives_foreign_flows)
{
    struct nat_kind three = kind_series;
    three.step = -3;
    cr_assert_eq(predicted(kind_series, kind_port, 50, 4), 4);
    cr_assert_eq(predicted(three, kind_port, 50, 4), 4);
    cr_assert_eq(predicted(kind_port, kind_series, 80, 2), 0);
    cr_assert_eq(predicted(kind_series, kind_series, 30, 4), 4);
    cr_assert_eq(predicted(three, kind_series, 20, 4), 4);
    cr_assert_eq(predicted(kind_series, kind_series, 70, 2), 0);
}

/* One side reachable: the other dials, and the first attempt needs no strategy. */
Test(punch, reachable_side_is_dialled)
{
    for (int reachable = 0; reachable < 2; reachable++) {
        net_open(&net, 5, reachable == 0 ? kind_cone : kind_random, reachable == 0 ? kind_random : kind_cone);
        struct nat_punch_profile profile = {.mapping = NAT_PUNCH_EASY,
                                            .filtering = NAT_PUNCH_FILTER_NONE,
                                            .public4 = net.nodes[reachable].outer,
                                            .reachable = true};
        cr_assert_eq(nat_punch_set_profile(net.nodes[reachable].core, &profile), ERR_OK);
        net_start(&net, 0);
        net_run(&net, net.now_ns + S(10));
        cr_assert(net.nodes[0].result.ok && net.nodes[1].result.ok);
        cr_assert_eq(net.nodes[0].result.strategy, NAT_PUNCH_REVERSAL);
        cr_assert_eq(net.nodes[reachable].punches, 0);
        cr_assert_eq(net.nodes[1 - reachable].punches, 1);
        net_check_idle(&net);
        net_close(&net);
    }
}

/* The path layer is told of the peer's candidates when probing starts, private ones only on a shared NAT. */
Test(punch, candidates_are_offered_to_the_path_layer)
{
    net_open(&net, 6, kind_port, kind_port);
    net_start(&net, 0);
    net_run(&net, net.now_ns + S(10));
    for (int i = 0; i < OBSERVER; i++) {
        cr_assert_eq(net.nodes[i].punches, 1);
        cr_assert_eq(net.nodes[i].candidates, 1 + net.nodes[i].punched);
    }
    net_close(&net);
    struct punch_side a = {.profile.public4 = at("11.0.1.1:1"), .count = 0};
    struct punch_side b = {.profile.public4 = at("11.0.1.1:1"), .count = 5};
    struct nat_punch_candidate out[NAT_PUNCH_CANDIDATES_MAX];
    b.candidates[0].addr = at("192.168.1.10:5");
    b.candidates[1].addr = at("11.0.1.1:5");
    b.candidates[2].addr = at("127.0.0.1:5");
    b.candidates[3].addr = at("224.0.0.1:5");
    b.candidates[4].addr = at("11.0.1.1:5");
    cr_assert_eq(punch_usable(&a, &b, out), 2);
    b.profile.public4 = at("11.0.2.1:1");
    cr_assert_eq(punch_usable(&a, &b, out), 1);
    cr_assert(net_addr_equal(&out[0].addr, &b.candidates[1].addr));
}

/* A router that answers for itself spoils the first attempt of the side that is late; a retry from a fresh
 * port with the order turned repairs it. */
Test(punch, open_input_is_repaired_by_a_fresh_port)
{
    int retried = 0;
    for (int from = 0; from < 2; from++) {
        for (int slow = 0; slow < 2; slow++) {
            net_open(&net, 7, kind_open_input, kind_port);
            net.signal_ns = slow ? MS(150) : MS(20); /* unlike ways make one side late */
            net.back_ns = slow ? 0 : MS(130);
            net.udp_ns = MS(5);
            net_start(&net, from);
            net_run(&net, net.now_ns + S(60));
            cr_assert(net.nodes[0].result.ok && net.nodes[1].result.ok, "from %d slow %d", from, slow);
            struct nat_punch_attempt log;
            cr_assert_eq(nat_punch_log(net.nodes[0].core, &net.nodes[1].id, &log, 1), 1);
            retried += log.attempts > 1;
            net_check_idle(&net);
            net_close(&net);
        }
    }
    cr_assert_gt(retried, 0, "no attempt was spoilt: the test tests nothing");
}

/* Make before break: the way found is a new one by a new socket, though the old one works. */
Test(punch, fresh_round_leaves_by_a_new_socket)
{
    net_open(&net, 8, kind_port, kind_port);
    net_start(&net, 0);
    net_run(&net, net.now_ns + S(10));
    cr_assert_eq(net.nodes[0].way.via, NET_VIA_MAIN);
    for (int i = 0; i < OBSERVER; i++) /* from now on messages take the direct way */
        cr_assert_eq(
            nat_punch_signal(net.nodes[i].core, net.now_ns, &net.nodes[1 - i].id, &net.nodes[i].way, MS(40)),
            ERR_OK);
    struct net_addr old = net.nodes[1].way;
    cr_assert_eq(nat_punch_start(net.nodes[0].core, net.now_ns, &net.nodes[1].id, true), ERR_OK);
    net_run(&net, net.now_ns + S(20));
    cr_assert_eq(net.nodes[0].oks, 2);
    cr_assert_eq(net.nodes[1].oks, 2);
    cr_assert(net_via_is_aux(net.nodes[0].way.via));
    cr_assert_not(net_addr_equal(&net.nodes[1].way, &old));
    cr_assert_eq(net.nodes[0].sockets_open, 1);
    nat_punch_release(net.nodes[0].core, net.nodes[0].way.via);
    net_run(&net, net.now_ns + S(1));
    cr_assert_eq(net.nodes[0].sockets_open, 0);
    net_check_idle(&net);
    net_close(&net);
}

/* The path layer probes too, and faster: messages may take the new way before the round has found it. */
Test(punch, route_that_comes_first_elsewhere_still_counts)
{
    net_open(&net, 11, kind_port, kind_port);
    net_start(&net, 0);
    while (net.nodes[0].punches == 0)
        net_run(&net, net.now_ns + MS(1));
    cr_assert_eq(net.nodes[0].punched, 0);
    for (int i = 0; i < OBSERVER; i++)
        cr_assert_eq(nat_punch_signal(net.nodes[i].core, net.now_ns, &net.nodes[1 - i].id,
                                      &net.nodes[1 - i].core->addrs[0].addr, MS(40)),
                     ERR_OK);
    net_run(&net, net.now_ns + S(60));
    cr_assert(net.nodes[0].result.ok && net.nodes[1].result.ok);
    cr_assert_lt(net.nodes[0].result.elapsed_ns, S(1));
    net_check_idle(&net);
    net_close(&net);
}

/* Where the mappings of both sides end early, both leave by new sockets. */
Test(punch, fresh_round_renews_both_short_lived_mappings)
{
    net_open(&net, 9, kind_port, kind_port);
    for (int i = 0; i < OBSERVER; i++) {
        struct nat_punch_profile profile = {.mapping = NAT_PUNCH_EASY,
                                            .filtering = NAT_PUNCH_FILTER_PORT,
                                            .public4 = net.nodes[i].outer,
                                            .mapping_life_ns = S(20)};
        cr_assert_eq(nat_punch_set_profile(net.nodes[i].core, &profile), ERR_OK);
    }
    for (int turn = 1; turn <= 4; turn++) {
        struct net_addr before[2] = {net.nodes[0].way, net.nodes[1].way};
        cr_assert_eq(nat_punch_start(net.nodes[1].core, net.now_ns, &net.nodes[0].id, true), ERR_OK);
        net_run(&net, net.now_ns + S(15));
        for (int i = 0; i < OBSERVER; i++) {
            cr_assert_eq(net.nodes[i].oks, turn);
            cr_assert(net_via_is_aux(net.nodes[i].way.via));
            cr_assert_not(net_addr_equal(&net.nodes[i].way, &before[i]));
            nat_punch_release(net.nodes[i].core, before[i].via);
        }
    }
    net_run(&net, net.now_ns + S(1));
    cr_assert_eq(net.nodes[0].sockets_open, 1);
    cr_assert_eq(net.nodes[1].sockets_open, 1);
    net_check_idle(&net);
    net_close(&net);
}

/* The kept sockets are limited: one more way by a new socket is not begun. */
Test(punch, kept_sockets_are_capped)
{
    net_open(&net, 10, kind_port, kind_port);
    for (int turn = 1; turn <= NAT_PUNCH_KEPT_MAX + 4; turn++) {
        cr_assert_eq(nat_punch_start(net.nodes[0].core, net.now_ns, &net.nodes[1].id, true), ERR_OK);
        net_run(&net, net.now_ns + S(3700));
        cr_assert_eq(net.nodes[0].results, turn);
        cr_assert_eq(net.nodes[0].result.ok, turn <= NAT_PUNCH_KEPT_MAX);
    }
    cr_assert_eq(net.nodes[0].sockets_open, NAT_PUNCH_KEPT_MAX);
    cr_assert_eq(net.nodes[0].result.reason, NAT_PUNCH_NO_SOCKETS);
    net_check_idle(&net);
    net_close(&net);
}

/* Loss of a tenth of everything changes no outcome. */
Test(punch, loss_is_survived)
{
    const struct expectation table[] = {{kind_port, kind_port, NAT_PUNCH_PLAIN, true},
                                        {kind_port, kind_series, NAT_PUNCH_PREDICT, true},
                                        {kind_series, kind_series, NAT_PUNCH_PREDICT_BOTH, true},
                                        {kind_random, kind_port, NAT_PUNCH_BIRTHDAY, true}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        for (uint64_t seed = 1; seed <= 8; seed++) {
            net_open(&net, seed, table[i].a, table[i].b);
            net.loss = 10;
            net_start(&net, (int)(seed % 2));
            net_run(&net, net.now_ns + S(90));
            cr_assert(net.nodes[0].oks + net.nodes[1].oks >= 1, "case %zu seed %lu", i, (unsigned long)seed);
            cr_assert_eq(net.nodes[0].results, 1);
            net_check_idle(&net);
            net_close(&net);
        }
    }
}

/* IPv6 on both sides, or one public address for both: one plain attempt even between hopeless NATs. */
Test(punch, strategies_are_symmetric_and_shortcuts_come_first)
{
    const struct nat_kind kinds[] = {kind_cone, kind_address, kind_port, kind_series, kind_random};
    for (size_t a = 0; a < 5; a++) {
        for (size_t b = 0; b < 5; b++) {
            struct nat_punch_profile one = {.mapping = kinds[a].mapping, .filtering = kinds[a].filtering};
            struct nat_punch_profile other = {.mapping = kinds[b].mapping, .filtering = kinds[b].filtering};
            for (unsigned attempt = 1; attempt <= 3; attempt++) {
                cr_assert_eq(nat_punch_choose(&one, &other, false, attempt),
                             nat_punch_choose(&other, &one, false, attempt));
            }
            cr_assert_eq(nat_punch_choose(&one, &other, true, 1), NAT_PUNCH_PLAIN);
        }
    }
}
