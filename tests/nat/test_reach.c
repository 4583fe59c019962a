/* Reach: whatever the NAT does, five ordinary peers are enough to say so, one of them may lie, and the help
 * that a node gives can be used neither to flood nor to reflect. */
#include "reach_net.h"

enum { SEEDS = 40 };

static const struct nat_kind none = {.name = "none"};
static const struct nat_kind firewall = {.name = "firewall", .filtering = ON_ADDRESS_PORT};
static const struct nat_kind cone = {.name = "full cone", .translates = true};
static const struct nat_kind address_cone = {
    .name = "address-restricted cone", .translates = true, .filtering = ON_ADDRESS};
static const struct nat_kind port_cone = {
    .name = "port-restricted cone", .translates = true, .filtering = ON_ADDRESS_PORT};
static const struct nat_kind life_20s = {.name = "20 s", .translates = true, .life_ns = SEC(20)};

struct expected {
    struct nat_kind kind;
    enum nat_reach_mapping mapping;
    int step;
    bool preserved;
};

static const struct expected table[] = {
    {{.name = "none"}, NAT_REACH_MAPPING_NONE, 0, true},
    {{.name = "one port", .translates = true}, NAT_REACH_MAPPING_INDEPENDENT, 0, false},
    {{.name = "port kept", .translates = true, .preserves = true}, NAT_REACH_MAPPING_INDEPENDENT, 0, true},
    {{.name = "by address, random", .translates = true, .mapping = ON_ADDRESS},
     NAT_REACH_MAPPING_ADDRESS,
     0,
     false},
    {{.name = "by address, +1", .translates = true, .mapping = ON_ADDRESS, .step = 1},
     NAT_REACH_MAPPING_ADDRESS,
     1,
     false},
    {{.name = "+1", .translates = true, .mapping = ON_ADDRESS_PORT, .step = 1},
     NAT_REACH_MAPPING_ADDRESS_PORT,
     1,
     false},
    {{.name = "+3", .translates = true, .mapping = ON_ADDRESS_PORT, .step = 3},
     NAT_REACH_MAPPING_ADDRESS_PORT,
     3,
     false},
    {{.name = "-2", .translates = true, .mapping = ON_ADDRESS_PORT, .step = -2},
     NAT_REACH_MAPPING_ADDRESS_PORT,
     -2,
     false},
    {{.name = "random", .translates = true, .mapping = ON_ADDRESS_PORT},
     NAT_REACH_MAPPING_ADDRESS_PORT,
     0,
     false},
};

enum { KINDS = sizeof table / sizeof table[0] };

/* Nodes 1 to 5 observe; the fifth is a second port at the address of the first, so that dependence on the
 * port shows. */
static void survey(struct world *w, const struct nat_kind *kind, uint64_t seed)
{
    struct net_addr local = addr_of(0);
    world_open(w, kind, 6, seed);
    w->nodes[5].at = w->nodes[1].at;
    w->nodes[5].at.port = 5000;
    if (kind->translates)
        local = at("192.168.1.10:4242");
    nat_reach_locals(w->nodes[0].reach, w->now_ns, &local, 1);
    introduce(w, 1, 5);
}

Test(reach, every_kind_of_mapping_is_told)
{
    static struct world w;
    for (size_t k = 0; k < KINDS; k++) {
        for (uint64_t seed = 1; seed <= SEEDS; seed++) {
            const struct expected *e = &table[k];
            survey(&w, &e->kind, seed);
            run(&w, SEC(5));
            struct nat_reach_profile p = profile(&w);
            cr_assert_eq(p.mapping, e->mapping, "%s, seed %d: %d", e->kind.name, (int)seed, (int)p.mapping);
            cr_assert_eq(p.step, e->step, "%s, seed %d: %+d", e->kind.name, (int)seed, p.step);
            cr_assert_eq(p.port_preserved, e->preserved, "%s", e->kind.name);
            cr_assert_geq(p.observers, 4);
            cr_assert(!p.address_varies);
            cr_assert_eq(w.nodes[0].wanted, w.nodes[0].released, "a socket was kept");
            world_close(&w);
        }
    }
}

Test(reach, foreign_flows_hide_neither_step_nor_trend)
{
    static const int steps[] = {1, 3, -2};
    static struct world w;
    size_t exact = 0;
    for (size_t k = 0; k < 3; k++) {
        for (uint64_t seed = 1; seed <= SEEDS; seed++) {
            struct nat_kind kind = {.name = "busy",
                                    .translates = true,
                                    .mapping = ON_ADDRESS_PORT,
                                    .step = steps[k],
                                    .foreign = 3};
            survey(&w, &kind, seed);
            run(&w, SEC(5));
            struct nat_reach_profile p = profile(&w);
            cr_assert_eq(p.mapping, NAT_REACH_MAPPING_ADDRESS_PORT);
            cr_assert_neq(p.step, 0, "taken for random");
            cr_assert_eq(p.step % steps[k], 0, "%+d is no multiple of %+d", p.step, steps[k]);
            cr_assert_eq(p.trend_port, w.next_port, "the last port given out is the trend");
            exact += p.step == steps[k];
            world_close(&w);
        }
    }
    cr_assert_geq(exact, 3 * SEEDS * 8 / 10, "only %zu exact", exact);
}

Test(reach, one_liar_of_four_changes_nothing)
{
    static struct world w;
    for (size_t k = 0; k < KINDS; k++) {
        for (uint64_t seed = 1; seed <= SEEDS; seed++) {
            const struct expected *e = &table[k];
            survey(&w, &e->kind, seed);
            w.nodes[1 + seed % 4].liar = true;
            run(&w, SEC(5));
            struct nat_reach_profile p = profile(&w);
            bool dependent = e->mapping >= NAT_REACH_MAPPING_ADDRESS;
            cr_assert_eq(p.mapping >= NAT_REACH_MAPPING_ADDRESS, dependent, "%s, seed %d: %d", e->kind.name,
                         (int)seed, (int)p.mapping);
            if (!dependent)
                cr_assert_eq(p.mapping, e->mapping, "%s", e->kind.name);
            cr_assert_eq(p.step, e->step, "%s, seed %d: %+d", e->kind.name, (int)seed, p.step);
            cr_assert(!p.address_varies, "%s, seed %d", e->kind.name, (int)seed);
            cr_assert(same_ip(&p.outer, &w.nodes[0].at));
            world_close(&w);
        }
    }
}

Test(reach, lost_datagrams_do_not_change_the_kind)
{
    static struct world w;
    for (size_t k = 0; k < KINDS; k++) {
        for (uint64_t seed = 1; seed <= SEEDS; seed++) {
            const struct expected *e = &table[k];
            survey(&w, &e->kind, seed);
            w.loss = 100;
            run(&w, SEC(5));
            struct nat_reach_profile p = profile(&w);
            bool dependent = e->mapping >= NAT_REACH_MAPPING_ADDRESS;
            cr_assert_eq(p.mapping >= NAT_REACH_MAPPING_ADDRESS, dependent, "%s, seed %d: %d", e->kind.name,
                         (int)seed, (int)p.mapping);
            world_close(&w);
        }
    }
}

Test(reach, a_second_port_of_the_helper_tells_address_from_port)
{
    static const enum nat_reach_mapping expected[] = {NAT_REACH_MAPPING_ADDRESS,
                                                      NAT_REACH_MAPPING_ADDRESS_PORT};
    static struct world w;
    for (size_t k = 0; k < 2; k++) {
        struct nat_kind kind = {
            .translates = true, .mapping = k == 0 ? ON_ADDRESS : ON_ADDRESS_PORT, .step = 1};
        world_open(&w, &kind, 9, 7 + k);
        introduce(&w, 1, 5);
        run(&w, SEC(5));
        cr_expect(!profile(&w).pair_known, "nobody has two ports yet");
        struct net_addr seen = main_seen(&w);
        cr_assert_eq(nat_reach_verify(w.nodes[0].reach, w.now_ns, &seen), ERR_OK);
        run(&w, SEC(20)); /* the helpers have opened a second socket by now */
        cr_assert_eq(nat_reach_survey(w.nodes[0].reach, w.now_ns), ERR_OK);
        run(&w, SEC(3));
        cr_expect(profile(&w).pair_known);
        cr_expect_eq(profile(&w).mapping, expected[k]);
        cr_expect_eq(profile(&w).step, 1);
        world_close(&w);
    }
}

Test(reach, with_one_observer_nothing_is_claimed)
{
    static struct world w;
    world_open(&w, &cone, 4, 1);
    introduce(&w, 1, 1);
    run(&w, SEC(10));
    cr_expect_eq(profile(&w).mapping, NAT_REACH_MAPPING_UNKNOWN);
    cr_expect_eq(profile(&w).observers, 1);
    introduce(&w, 2, 2);
    run(&w, SEC(10));
    cr_expect_eq(profile(&w).mapping, NAT_REACH_MAPPING_INDEPENDENT, "the second one is asked soon");
    world_close(&w);
}

Test(reach, a_survey_on_request_takes_one_round_trip)
{
    static struct world w;
    struct nat_kind kind = {.translates = true, .mapping = ON_ADDRESS_PORT, .step = 1};
    survey(&w, &kind, 3);
    run(&w, SEC(5));
    uint64_t before = w.nodes[0].profiles;
    cr_assert_eq(nat_reach_survey(w.nodes[0].reach, w.now_ns), ERR_OK);
    run(&w, MS(51)); /* at most 25 ms each way */
    cr_expect_eq(w.nodes[0].profiles, before + 1);
    cr_expect_eq(profile(&w).trend_port, w.next_port);
    cr_expect_eq(nat_reach_survey(w.nodes[0].reach, w.now_ns), ERR_RATE);
    run(&w, SEC(1));
    cr_expect_eq(nat_reach_survey(w.nodes[0].reach, w.now_ns), ERR_OK);
    run(&w, SEC(3));
    w.nodes[2].dead = true; /* found out once, then not asked again */
    cr_assert_eq(nat_reach_survey(w.nodes[0].reach, w.now_ns), ERR_OK);
    run(&w, SEC(3));
    cr_expect_eq(profile(&w).mapping, NAT_REACH_MAPPING_ADDRESS_PORT);
    cr_expect_eq(profile(&w).step, 1);
    world_close(&w);
}

Test(reach, without_sockets_the_asker_is_told_all_the_same)
{
    static struct world w;
    world_open(&w, &cone, 6, 3);
    w.nodes[0].no_sockets = true;
    introduce(&w, 1, 5);
    cr_assert_eq(nat_reach_survey(w.nodes[0].reach, w.now_ns), ERR_OK);
    run(&w, SEC(1));
    cr_expect_eq(w.nodes[0].profiles, 1);
    cr_expect_eq(profile(&w).mapping, NAT_REACH_MAPPING_UNKNOWN);
    cr_expect_eq(nat_reach_stats(w.nodes[0].reach).surveys, 0);
    world_close(&w);
}

static void verify(struct world *w, const struct nat_kind *kind, size_t nodes, size_t known, uint64_t seed)
{
    struct net_addr local = addr_of(0);
    world_open(w, kind, nodes, seed);
    if (kind->translates)
        local = at("192.168.1.10:4242");
    nat_reach_locals(w->nodes[0].reach, w->now_ns, &local, 1);
    introduce(w, 1, known);
}

static enum nat_reach_verdict verdict(struct world *w)
{
    struct net_addr seen = main_seen(w);
    nat_reach_observed(w->nodes[0].reach, w->now_ns, NET_FAMILY_V4, &seen, NAT_MAPPING_STABLE);
    cr_assert_eq(nat_reach_verify(w->nodes[0].reach, w->now_ns, &seen), ERR_OK);
    run(w, SEC(60));
    cr_assert_geq(w->nodes[0].verdicts, 1, "no verdict");
    return w->nodes[0].verdict.verdict;
}

Test(reach, dial_backs_show_what_gets_in)
{
    static const struct {
        const struct nat_kind *kind;
        enum nat_reach_verdict verdict;
        enum nat_reach_filtering filtering;
    } cases[] = {
        {&none, NAT_REACH_REACHABLE, NAT_REACH_FILTERING_INDEPENDENT},
        {&firewall, NAT_REACH_UNREACHABLE, NAT_REACH_FILTERING_ADDRESS_PORT},
        {&cone, NAT_REACH_REACHABLE, NAT_REACH_FILTERING_INDEPENDENT},
        {&address_cone, NAT_REACH_UNREACHABLE, NAT_REACH_FILTERING_ADDRESS},
        {&port_cone, NAT_REACH_UNREACHABLE, NAT_REACH_FILTERING_ADDRESS_PORT},
    };
    static struct world w;
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        for (uint64_t seed = 1; seed <= SEEDS; seed++) {
            verify(&w, cases[k].kind, 10, 5, seed);
            w.nodes[1].liar = seed % 2 == 0; /* says that it tried, and does not */
            w.loss = seed % 3 == 0 ? 30 : 0;
            enum nat_reach_verdict got = verdict(&w);
            cr_assert_eq(got, cases[k].verdict, "%s, seed %d: %d, %s", cases[k].kind->name, (int)seed,
                         (int)got, nat_reach_why_text(w.nodes[0].verdict.why));
            cr_assert_eq(w.nodes[0].verdict.filtering, cases[k].filtering, "%s, seed %d: %d",
                         cases[k].kind->name, (int)seed, (int)w.nodes[0].verdict.filtering);
            cr_assert_eq(w.nodes[0].verdict.why, NAT_REACH_WHY_PROVEN);
            cr_assert_eq(profile(&w).reachable, cases[k].verdict);
            world_close(&w);
        }
    }
}

Test(reach, known_peers_prove_no_stranger_gets_in)
{
    static struct world w;
    verify(&w, &address_cone, 4, 3, 1);
    for (size_t i = 1; i < 4; i++)
        nat_reach_contacted(w.nodes[0].reach, w.now_ns, &w.nodes[i].at);
    cr_expect_eq(verdict(&w), NAT_REACH_UNKNOWN);
    cr_expect_eq(w.nodes[0].verdict.why, NAT_REACH_WHY_NO_STRANGER);
    world_close(&w);
    verify(&w, &none, 4, 3, 1); /* an address of our own that lets in a new port lets in all */
    for (size_t i = 1; i < 4; i++)
        nat_reach_contacted(w.nodes[0].reach, w.now_ns, &w.nodes[i].at);
    run(&w, SEC(5));
    cr_expect_eq(verdict(&w), NAT_REACH_REACHABLE);
    cr_expect_eq(w.nodes[0].verdict.why, NAT_REACH_WHY_NO_STRANGER);
    world_close(&w);
    verify(&w, &firewall, 4, 3, 1); /* while a new port that is kept out settles it */
    for (size_t i = 1; i < 4; i++)
        nat_reach_contacted(w.nodes[0].reach, w.now_ns, &w.nodes[i].at);
    run(&w, SEC(5));
    cr_expect_eq(verdict(&w), NAT_REACH_UNREACHABLE);
    world_close(&w);
}

/* A small swarm behind a router that opened a port but translates each flow anew: nobody is a stranger, no
 * address of the main socket is agreed upon, and yet the port that was opened shows to be open. */
Test(reach, a_forwarded_port_is_proven_without_strangers)
{
    static const struct nat_kind closed = {
        .name = "symmetric", .translates = true, .mapping = ON_ADDRESS_PORT, .filtering = ON_ADDRESS_PORT};
    struct nat_kind forwarding = closed;
    static struct world w;
    forwarding.forwards = true;
    for (size_t k = 0; k < 2; k++) {
        struct net_addr outer = addr_of(0);
        outer.port = MAIN_PORT;
        verify(&w, k == 0 ? &forwarding : &closed, 4, 3, 1);
        for (size_t i = 1; i < 4; i++)
            nat_reach_contacted(w.nodes[0].reach, w.now_ns, &w.nodes[i].at);
        cr_assert_eq(nat_reach_survey(w.nodes[0].reach, w.now_ns), ERR_OK);
        run(&w, SEC(5));
        cr_assert_eq(nat_reach_verify(w.nodes[0].reach, w.now_ns, &outer), ERR_OK);
        run(&w, SEC(60));
        cr_expect_eq(w.nodes[0].verdict.verdict, k == 0 ? NAT_REACH_REACHABLE : NAT_REACH_UNREACHABLE);
        cr_expect_eq(w.nodes[0].verdict.why, k == 0 ? NAT_REACH_WHY_NO_STRANGER : NAT_REACH_WHY_PROVEN);
        world_close(&w);
    }
}

Test(reach, silent_helpers_say_nothing)
{
    static struct world w;
    verify(&w, &none, 6, 5, 2);
    for (size_t i = 1; i < 6; i++)
        w.nodes[i].dead = true;
    cr_expect_eq(verdict(&w), NAT_REACH_UNKNOWN);
    cr_expect_eq(w.nodes[0].verdict.why, NAT_REACH_WHY_NO_HELPER);
    for (size_t i = 1; i < 6; i++)
        w.nodes[i].dead = false;
    run(&w, SEC(120)); /* tried again of its own accord */
    cr_expect_eq(w.nodes[0].verdict.verdict, NAT_REACH_REACHABLE);
    world_close(&w);
}

Test(reach, another_ip_than_ours_is_unknown)
{
    static struct world w;
    struct net_addr other = at("11.0.201.1:4242");
    verify(&w, &none, 6, 5, 2);
    cr_assert_eq(nat_reach_verify(w.nodes[0].reach, w.now_ns, &other), ERR_OK);
    run(&w, SEC(30));
    cr_expect_eq(w.nodes[0].verdict.verdict, NAT_REACH_UNKNOWN);
    cr_expect_eq(w.nodes[0].verdict.why, NAT_REACH_WHY_ADDRESS);
    other = at("192.168.1.1:4242");
    cr_expect_eq(nat_reach_verify(w.nodes[0].reach, w.now_ns, &other), ERR_REFUSED);
    world_close(&w);
}

Test(reach, a_door_that_closes_is_noticed)
{
    static struct world w;
    verify(&w, &none, 10, 5, 4);
    cr_expect_eq(verdict(&w), NAT_REACH_REACHABLE);
    w.kind.filtering = ON_ADDRESS_PORT;
    run(&w, SEC(1600));
    cr_expect_eq(w.nodes[0].verdict.verdict, NAT_REACH_UNREACHABLE);
    nat_reach_forget(w.nodes[0].reach, &w.nodes[0].verdict.addr);
    cr_expect_eq(profile(&w).reachable, NAT_REACH_UNKNOWN);
    world_close(&w);
}

static uint64_t life(struct world *w, const struct nat_kind *kind, bool liar, uint64_t span_ns)
{
    verify(w, kind, 6, 5, 5);
    w->nodes[1].liar = liar;
    run(w, SEC(5));
    nat_reach_watch(w->nodes[0].reach, w->now_ns, true);
    run(w, span_ns);
    return profile(w).life_ns;
}

Test(reach, mappings_that_end_by_themselves_are_timed)
{
    static struct world w;
    uint64_t life_ns = life(&w, &life_20s, false, SEC(90));
    cr_expect(life_ns >= SEC(15) && life_ns <= SEC(20), "%d ms", (int)(life_ns / 1000000));
    cr_expect_gt(w.nodes[0].seen, 10);
    world_close(&w);
    life_ns = life(&w, &life_20s, true, SEC(120));
    cr_expect(life_ns >= SEC(15) && life_ns <= SEC(20), "with a liar: %d ms", (int)(life_ns / 1000000));
    world_close(&w);
    struct nat_kind minute = cone;
    minute.life_ns = SEC(70);
    life_ns = life(&w, &minute, false, SEC(600));
    cr_expect(life_ns >= SEC(50) && life_ns <= SEC(70), "%d ms", (int)(life_ns / 1000000));
    world_close(&w);
    cr_expect_eq(life(&w, &port_cone, false, SEC(600)), 0, "mappings that last");
    world_close(&w);
    cr_expect_eq(life(&w, &cone, true, SEC(600)), 0, "a liar alone ends no mapping");
    world_close(&w);
}

/* A laptop goes from one access point to the next every 15 s: its mappings end by that, not by their age. */
Test(reach, moves_teach_no_life)
{
    static struct world w;
    (void)life(&w, &port_cone, false, SEC(5));
    for (uint8_t i = 0; i < 8; i++) {
        struct net_addr local = at("192.168.0.7:4242");
        local.ip[3] = (uint8_t)(10 + i);
        nat_reach_locals(w.nodes[0].reach, w.now_ns, &local, 1);
        for (size_t k = 0; k < w.flow_count; k++)
            w.flows[k].live = false;
        run(&w, SEC(15));
        cr_expect_eq(profile(&w).life_ns, 0, "move %d", i);
    }
    world_close(&w);
}

Test(reach, watching_costs_what_it_says)
{
    static struct world w;
    verify(&w, &cone, 6, 5, 5);
    run(&w, SEC(5));
    uint64_t before = nat_reach_stats(w.nodes[0].reach).observes_sent;
    nat_reach_watch(w.nodes[0].reach, w.now_ns, true);
    run(&w, SEC(60));
    uint64_t minute = nat_reach_stats(w.nodes[0].reach).observes_sent;
    cr_expect_leq(minute - before, 31);
    run(&w, SEC(100));
    cr_expect_leq(nat_reach_stats(w.nodes[0].reach).observes_sent - minute, 11);
    nat_reach_watch(w.nodes[0].reach, w.now_ns, false);
    uint64_t end = nat_reach_stats(w.nodes[0].reach).observes_sent;
    run(&w, SEC(60));
    cr_expect_leq(nat_reach_stats(w.nodes[0].reach).observes_sent - end, 5, "nothing but a survey");
    world_close(&w);
}

/* The same world at 2a01:i::1. */
static void move_to_v6(struct world *w)
{
    for (size_t i = 0; i < w->node_count; i++) {
        w->nodes[i].at = at("[2a01:1::1]:4242");
        w->nodes[i].at.ip[3] = i == 0 ? 200 : (uint8_t)i;
    }
}

Test(reach, ipv6_is_judged_apart)
{
    static const struct nat_kind *const kinds[] = {&none, &firewall};
    static struct world w;
    for (size_t k = 0; k < 2; k++) {
        world_open(&w, kinds[k], 9, 3);
        move_to_v6(&w);
        nat_reach_locals(w.nodes[0].reach, w.now_ns, &w.nodes[0].at, 1);
        introduce(&w, 1, 5);
        struct net_addr own = w.nodes[0].at;
        cr_assert_eq(nat_reach_verify(w.nodes[0].reach, w.now_ns, &own), ERR_OK);
        run(&w, SEC(60));
        struct nat_reach_profile six = nat_reach_profile(w.nodes[0].reach, NET_FAMILY_V6);
        cr_expect_eq(six.mapping, NAT_REACH_MAPPING_NONE);
        cr_expect_eq(six.reachable, k == 0 ? NAT_REACH_REACHABLE : NAT_REACH_UNREACHABLE);
        cr_expect_eq(profile(&w).mapping, NAT_REACH_MAPPING_UNKNOWN);
        cr_expect_eq(profile(&w).surveyed_ns, 0);
        world_close(&w);
    }
}

Test(reach, a_new_outer_address_starts_anew)
{
    static struct world w;
    verify(&w, &life_20s, 10, 5, 6);
    (void)verdict(&w);
    nat_reach_watch(w.nodes[0].reach, w.now_ns, true);
    run(&w, SEC(90));
    cr_assert_neq(profile(&w).life_ns, 0);
    uint64_t surveys = nat_reach_stats(w.nodes[0].reach).surveys;
    uint64_t verdicts = nat_reach_stats(w.nodes[0].reach).verdicts;
    w.nodes[0].at.ip[2] = 201;
    w.kind = port_cone;
    struct net_addr seen = main_seen(&w);
    nat_reach_observed(w.nodes[0].reach, w.now_ns, NET_FAMILY_V4, &seen, NAT_MAPPING_STABLE);
    cr_expect_eq(profile(&w).life_ns, 0, "that was another NAT");
    run(&w, SEC(30));
    cr_expect_eq(nat_reach_stats(w.nodes[0].reach).surveys, surveys + 1);
    cr_expect_gt(nat_reach_stats(w.nodes[0].reach).verdicts, verdicts, "verified anew");
    cr_expect_eq(profile(&w).outer.ip[2], 201);
    nat_reach_observed(w.nodes[0].reach, w.now_ns, NET_FAMILY_V4, &seen, NAT_MAPPING_VARIES);
    cr_assert_eq(nat_reach_survey(w.nodes[0].reach, w.now_ns), ERR_OK);
    run(&w, SEC(3));
    cr_expect(profile(&w).main_differs, "fresh sockets keep one port, the main one does not");
    world_close(&w);
}

Test(reach, profiles_read_like_sentences)
{
    char text[NAT_REACH_TEXT_MAX];
    struct nat_reach_profile p = {.mapping = NAT_REACH_MAPPING_ADDRESS_PORT,
                                  .step = -2,
                                  .filtering = NAT_REACH_FILTERING_ADDRESS_PORT,
                                  .address_varies = true,
                                  .main_differs = true,
                                  .life_ns = SEC(20)};
    nat_reach_describe(&p, text);
    cr_expect_str_eq(text,
                     "a port for each destination in steps of -2, several outer addresses, our port is "
                     "shared with another host, lets in exactly the ports written to, mappings end after "
                     "20 s");
    p = (struct nat_reach_profile){.mapping = NAT_REACH_MAPPING_NONE};
    nat_reach_describe(&p, text);
    cr_expect_str_eq(text, "no NAT");
}

Test(reach, every_value_has_its_words)
{
    for (int i = 0; i < 5; i++) {
        cr_expect_neq(nat_reach_mapping_text((enum nat_reach_mapping)i)[0], '\0');
        for (int k = 0; k < i; k++)
            cr_expect_str_neq(nat_reach_mapping_text((enum nat_reach_mapping)i),
                              nat_reach_mapping_text((enum nat_reach_mapping)k));
    }
    for (int i = 0; i < 4; i++)
        cr_expect_str_neq(nat_reach_filtering_text((enum nat_reach_filtering)i), "unknown");
    for (int i = 1; i < 3; i++)
        cr_expect_str_neq(nat_reach_verdict_text((enum nat_reach_verdict)i), "unknown");
    for (int i = 0; i < 6; i++)
        cr_expect_str_neq(nat_reach_why_text((enum nat_reach_why)i), "unknown");
}

static bool refused(const struct nat_reach_config *config)
{
    const char *why = NULL;
    return nat_reach_config_check(config, &why) == ERR_INVALID && why != NULL;
}

Test(reach, settings_out_of_range_are_refused)
{
    struct rng_seeded stream;
    struct nat_reach_config good = nat_reach_config_default();
    const char *why;
    rng_seeded_init(&stream, 1);
    cr_expect(refused(&good), "no id");
    good.self.bytes[0] = 1;
    cr_expect(refused(&good), "no rng");
    good.rng = rng_of_seeded(&stream);
    cr_expect_eq(nat_reach_config_check(&good, &why), ERR_OK);
    struct nat_reach_config config = good;
    config.agree = 0;
    cr_expect(refused(&config));
    config.agree = 5;
    cr_expect(refused(&config));
    config = good;
    config.survey_ns = SEC(9);
    cr_expect(refused(&config));
    config = good;
    config.aux_life_ns = SEC(86401);
    cr_expect(refused(&config));
    config = good;
    config.dial_per_s = 9;
    cr_expect(refused(&config));
    config = good;
    config.observe_per_s = 100001;
    cr_expect(refused(&config));
}
