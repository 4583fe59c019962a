/* Each situation of a network gets its verdict, its exit code and the one remedy that helps in it.  We start
 * from a node that has nothing to complain about and break one thing, or several, at a time. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "node/doctor.h"

static struct doctor_report report;

/* A public node with peers. */
static struct doctor_facts public_node(void)
{
    struct doctor_facts facts = {
        .uptime_s = 3600,
        .port = 4433,
        .seeds = 2,
        .contacts = 40,
        .connected = 6,
        .direct = 6,
        .clock_peers = 6,
        .tcp_on = true,
        .portmap_on = true,
        .relay_volume_left = UINT64_MAX,
    };
    facts.v4 = (struct doctor_family){.local = true,
                                      .nat = DOCTOR_NAT_NONE,
                                      .reach = DOCTOR_REACH_YES,
                                      .observers = 8,
                                      .outer = "203.0.113.5"};
    return facts;
}

/* Behind a router that maps no ports, with places on two relays. */
static struct doctor_facts home_node(enum doctor_nat nat)
{
    struct doctor_facts facts = public_node();
    facts.direct = 1;
    facts.punched = 5;
    facts.v4.nat = nat;
    facts.v4.reach = DOCTOR_REACH_NO;
    facts.relays_wanted = 2;
    facts.relays_held = 2;
    facts.relays_known = 5;
    return facts;
}

static void judge(const struct doctor_facts *facts, enum doctor_verdict verdict)
{
    doctor_judge(facts, &report);
    char all[DOCTOR_LINES_MAX * DOCTOR_TEXT_SIZE] = "";
    for (size_t i = 0; i < report.line_count; i++) {
        size_t at = strlen(all);
        (void)snprintf(all + at, sizeof all - at, "%s\n", report.lines[i].text);
        cr_assert_gt(strlen(report.lines[i].text), 0);
        cr_assert_lt(strlen(report.lines[i].text), DOCTOR_TEXT_SIZE - 1, "cut off: %s", report.lines[i].text);
    }
    cr_assert_eq(report.verdict, verdict, "%s instead of %s:\n%s", doctor_verdict_text(report.verdict),
                 doctor_verdict_text(verdict), all);
    cr_assert_gt(report.line_count, 0);
}

static void says(const char *words)
{
    for (size_t i = 0; i < report.line_count; i++) {
        if (strstr(report.lines[i].text, words) != NULL)
            return;
    }
    cr_assert_fail("no line says '%s'", words);
}

static void keeps_quiet(const char *words)
{
    for (size_t i = 0; i < report.line_count; i++)
        cr_assert_null(strstr(report.lines[i].text, words), "%s", report.lines[i].text);
}

static void advises(const char *words)
{
    cr_assert_not_null(strstr(report.remedy, words), "'%s' does not say '%s'", report.remedy, words);
}

Test(doctor, public_node_needs_nothing)
{
    struct doctor_facts facts = public_node();
    judge(&facts, DOCTOR_FINE);
    says("Connected peers: 6 (6 directly");
    says("strangers reach this node; peers see us as 203.0.113.5");
    says("IPv6: none");
    cr_assert_str_empty(report.remedy);
}

Test(doctor, relaying_for_others_is_told)
{
    struct doctor_facts facts = public_node();
    facts.relay_clients = 3;
    judge(&facts, DOCTOR_FINE);
    says("relays for: 3");
}

Test(doctor, mapped_port_that_works)
{
    struct doctor_facts facts = home_node(DOCTOR_NAT_EASY);
    facts.v4.reach = DOCTOR_REACH_YES;
    facts.mappings = facts.mappings_proven = 1;
    facts.portmap_via = "NAT-PMP";
    judge(&facts, DOCTOR_FINE);
    says("opened a port for us by NAT-PMP, and it works");
    cr_assert_str_empty(report.remedy);
}

Test(doctor, easy_nat_without_mapping_could_be_better)
{
    struct doctor_facts facts = home_node(DOCTOR_NAT_EASY);
    judge(&facts, DOCTOR_FINE);
    says("holes can be punched");
    says("Relays that keep a place for this node");
    advises("switch on UPnP in it, or forward UDP port 4433");
    facts.portmap_on = false;
    judge(&facts, DOCTOR_FINE);
    advises("port mapping in the daemon's settings");
}

Test(doctor, sequential_nat_is_punched_by_prediction)
{
    struct doctor_facts facts = home_node(DOCTOR_NAT_SEQUENTIAL);
    judge(&facts, DOCTOR_FINE);
    says("by prediction");
}

Test(doctor, random_nat_costs_detours)
{
    struct doctor_facts facts = home_node(DOCTOR_NAT_RANDOM);
    judge(&facts, DOCTOR_DEGRADED);
    says("unpredictable port");
    says("through relays only");
    advises("forward UDP port 4433");
    facts.v6 = (struct doctor_family){.local = true, .reach = DOCTOR_REACH_YES};
    judge(&facts, DOCTOR_FINE); /* strangers reach it by IPv6 */
    cr_assert_str_empty(report.remedy);
}

/* Whether strangers get in was not tried, for lack of public nodes: such a NAT lets nobody in all the same.
 */
Test(doctor, random_nat_that_nobody_tried)
{
    struct doctor_facts facts = home_node(DOCTOR_NAT_RANDOM);
    facts.v4.reach = DOCTOR_REACH_UNKNOWN;
    judge(&facts, DOCTOR_DEGRADED);
    advises("forward UDP port 4433");
    facts.uptime_s = 10;
    facts.mappings = 1;
    facts.portmap_via = "UPnP";
    judge(&facts, DOCTOR_DEGRADED);
    says("others are trying it");
    cr_assert_str_empty(report.remedy);
}

Test(doctor, port_forwarded_by_hand)
{
    struct doctor_facts facts = home_node(DOCTOR_NAT_RANDOM);
    facts.v4.reach = DOCTOR_REACH_YES;
    judge(&facts, DOCTOR_FINE);
    says("lets strangers in all the same");
    cr_assert_str_empty(report.remedy);
}

Test(doctor, router_that_refuses)
{
    struct doctor_facts facts = home_node(DOCTOR_NAT_EASY);
    facts.portmap_refused = "PCP";
    judge(&facts, DOCTOR_FINE);
    says("The router answers PCP, but refuses");
    advises("allow it there");
}

Test(doctor, firewall_before_ipv6_alone)
{
    struct doctor_facts facts = public_node();
    facts.v6 = (struct doctor_family){.local = true, .nat = DOCTOR_NAT_NONE, .reach = DOCTOR_REACH_NO};
    facts.v4.local = false;
    facts.v4.reach = DOCTOR_REACH_UNKNOWN;
    judge(&facts, DOCTOR_FINE);
    says("IPv6: the address is public, but a firewall");
    advises("open UDP port 4433");
}

Test(doctor, ipv6_that_nobody_could_try)
{
    struct doctor_facts facts = public_node();
    facts.v6 = (struct doctor_family){.local = true};
    judge(&facts, DOCTOR_FINE);
    says("IPv6: this machine has an address; nobody was asked over IPv6 yet");
    keeps_quiet("how its NAT");
}

Test(doctor, two_nats_in_a_row)
{
    struct doctor_facts facts = home_node(DOCTOR_NAT_EASY);
    facts.double_nat = true;
    facts.mappings = 1;
    judge(&facts, DOCTOR_FINE);
    says("two NATs in a row");
    advises("on both routers");
}

Test(doctor, mapping_that_nobody_reached)
{
    struct doctor_facts facts = home_node(DOCTOR_NAT_EASY);
    facts.mappings = 1;
    facts.portmap_via = "UPnP";
    judge(&facts, DOCTOR_FINE);
    says("nobody outside has reached it");
    advises("UDP port 4433 to this machine by hand");
    keeps_quiet("opens no ports");
}

Test(doctor, firewall_before_a_public_address)
{
    struct doctor_facts facts = home_node(DOCTOR_NAT_NONE);
    judge(&facts, DOCTOR_FINE);
    keeps_quiet("opens no ports");
    says("the address is public, but a firewall keeps strangers out");
    advises("open UDP port 4433");
}

Test(doctor, udp_blocked)
{
    struct doctor_facts facts = home_node(DOCTOR_NAT_UNKNOWN);
    facts.udp_blocked = true;
    facts.v4.reach = DOCTOR_REACH_UNKNOWN;
    facts.tcp_links = 2;
    judge(&facts, DOCTOR_DEGRADED);
    says("links: 2");
    facts.v4.outer = NULL;
    judge(&facts, DOCTOR_DEGRADED);
    says("IPv4: no UDP gets out, so nobody can say");
    advises("UDP is blocked: relayed over TCP");
    facts.tcp_links = 0;
    judge(&facts, DOCTOR_DEGRADED);
    advises("TCP to port 443");
    facts.tcp_on = false;
    judge(&facts, DOCTOR_DEGRADED);
    advises("switch on TCP");
}

/* A wrong clock comes before all else: with it nothing else can be believed. */
Test(doctor, clock_off)
{
    struct doctor_facts facts = home_node(DOCTOR_NAT_RANDOM);
    facts.clock_offset_ms = 3600 * 1000;
    judge(&facts, DOCTOR_DEGRADED);
    says("3600 s behind those of its peers (6 asked)");
    advises("Your clock is off");
    facts.clock_offset_ms = -121 * 1000;
    judge(&facts, DOCTOR_DEGRADED);
    says("121 s ahead of");
    facts = public_node();
    facts.clock_offset_ms = 119 * 1000;
    judge(&facts, DOCTOR_FINE);
    keeps_quiet("clock");
}

Test(doctor, nobody_answers)
{
    struct doctor_facts facts = public_node();
    facts.contacts = facts.connected = facts.direct = 0;
    judge(&facts, DOCTOR_NO_PEERS);
    says("No seed answers (2 known), by UDP or by TCP");
    advises("No seed answers");
    facts.tcp_on = false;
    judge(&facts, DOCTOR_NO_PEERS);
    says("TCP is switched off");
    facts.uptime_s = 5;
    judge(&facts, DOCTOR_NO_PEERS);
    advises("in a minute");
    facts.seeds = 0;
    judge(&facts, DOCTOR_NO_PEERS);
    advises("--seeds");
    facts.v4.local = false;
    judge(&facts, DOCTOR_NO_PEERS);
    says("offline");
}

Test(doctor, no_relay)
{
    struct doctor_facts facts = home_node(DOCTOR_NAT_EASY);
    facts.relays_held = 0;
    judge(&facts, DOCTOR_DEGRADED);
    says("No relay keeps a place for this node (5 known)");
    facts.uptime_s = 10;
    judge(&facts, DOCTOR_FINE); /* it has only begun to ask */
    facts.uptime_s = 3600;
    facts.v4.reach = DOCTOR_REACH_UNKNOWN;
    judge(&facts, DOCTOR_DEGRADED);
    advises("make it a seed");
}

Test(doctor, volume_of_relays_nearly_used_up)
{
    struct doctor_facts facts = home_node(DOCTOR_NAT_RANDOM);
    facts.relay_volume_left = DOCTOR_VOLUME_LOW - 1;
    judge(&facts, DOCTOR_DEGRADED);
    says("only 255 MiB more");
    facts.relay_volume_left = DOCTOR_VOLUME_LOW;
    judge(&facts, DOCTOR_DEGRADED);
    keeps_quiet("MiB more");
    facts.relay_volume_left = 0;
    judge(&facts, DOCTOR_DEGRADED);
    says("is used up");
}

Test(doctor, read_only_database)
{
    struct doctor_facts facts = public_node();
    facts.store_read_only = true;
    judge(&facts, DOCTOR_DEGRADED);
    says("read-only");
}

/* Contacts but no connections: no run, no peers wanted; nothing is wrong with that. */
Test(doctor, idle_node_is_fine)
{
    struct doctor_facts facts = public_node();
    facts.connected = facts.direct = 0;
    judge(&facts, DOCTOR_FINE);
    says("No peer is connected at the moment; nodes of the network that answer: 40");
}

/* Whatever the combination of facts, the lines fit and a verdict other than fine comes with a remedy or a
 * line that says what is wrong. */
Test(doctor, all_combinations_are_judged)
{
    for (unsigned bits = 0; bits < 1U << 14; bits++) {
        struct doctor_facts facts = home_node((enum doctor_nat)(bits % 5));
        facts.v4.reach = (enum doctor_reach)(bits >> 3 & 1 ? 2 : bits >> 4 & 1);
        facts.v6 = facts.v4;
        facts.v6.local = bits >> 5 & 1;
        facts.v4.local = bits >> 6 & 1;
        facts.udp_blocked = bits >> 7 & 1;
        facts.tcp_on = bits >> 8 & 1;
        facts.relays_held = bits >> 9 & 1;
        facts.mappings = bits >> 10 & 1;
        facts.double_nat = bits >> 11 & 1;
        facts.contacts = facts.connected = bits >> 12 & 1;
        facts.clock_offset_ms = bits >> 13 & 1 ? 1000000 : 0;
        facts.store_read_only = bits & 1;
        facts.relay_clients = bits & 2;
        doctor_judge(&facts, &report);
        bool complains = false;
        for (size_t i = 0; i < report.line_count; i++)
            complains |= report.lines[i].level >= DOCTOR_WARNING;
        cr_assert_eq(complains, report.verdict != DOCTOR_FINE);
        cr_assert(facts.contacts > 0 || report.verdict == DOCTOR_NO_PEERS);
    }
}
