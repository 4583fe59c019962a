#include "node/doctor.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void PRINTF_LIKE(3, 4) say(struct doctor_report *out, enum doctor_level level, const char *format, ...)
{
    ASSERT(out->line_count < DOCTOR_LINES_MAX);
    struct doctor_line *line = &out->lines[out->line_count++];
    va_list args;
    va_start(args, format);
    line->level = level;
    (void)vsnprintf(line->text, sizeof line->text, format, args);
    va_end(args);
    if (level == DOCTOR_WARNING && out->verdict == DOCTOR_FINE)
        out->verdict = DOCTOR_DEGRADED;
}

/* The first remedy is the one: what comes later matters less. */
static void PRINTF_LIKE(2, 3) advise(struct doctor_report *out, const char *format, ...)
{
    va_list args;
    if (out->remedy[0] != '\0')
        return;
    va_start(args, format);
    (void)vsnprintf(out->remedy, sizeof out->remedy, format, args);
    va_end(args);
}

static bool settling(const struct doctor_facts *facts)
{
    return facts->uptime_s < DOCTOR_SETTLING_S;
}

static bool reachable(const struct doctor_facts *facts)
{
    return facts->v4.reach == DOCTOR_REACH_YES || facts->v6.reach == DOCTOR_REACH_YES;
}

static void judge_clock(const struct doctor_facts *facts, struct doctor_report *out)
{
    long long seconds = llabs(facts->clock_offset_ms) / 1000;
    if (seconds < DOCTOR_CLOCK_OFF_S)
        return;
    say(out, DOCTOR_WARNING,
        "This machine's clock is %lld s %s those of its peers (%zu asked): they refuse our records.", seconds,
        facts->clock_offset_ms > 0 ? "behind" : "ahead of", facts->clock_peers);
    advise(out, "Your clock is off: set it, for example with 'timedatectl set-ntp true'.");
}

/* Nobody answers: why? */
static void judge_silence(const struct doctor_facts *facts, struct doctor_report *out)
{
    out->verdict = DOCTOR_NO_PEERS;
    if (!facts->v4.local && !facts->v6.local) {
        say(out, DOCTOR_PROBLEM, "This machine has no network address but its own: it is offline.");
        advise(out, "Connect this machine to a network; the daemon notices by itself.");
    } else if (facts->seeds == 0) {
        say(out, DOCTOR_PROBLEM, "No node answers, and no seed was given: there is nobody to ask.");
        advise(out, "Give dunlind a seed list (--seeds FILE), or start a second node on this network.");
    } else if (settling(facts)) {
        say(out, DOCTOR_PROBLEM, "No seed has answered yet; the daemon runs for only %llu s.",
            (unsigned long long)facts->uptime_s);
        advise(out, "Ask again in a minute.");
    } else {
        say(out, DOCTOR_PROBLEM, "No seed answers (%zu known)%s.", facts->seeds,
            !facts->tcp_on ? ", and TCP is switched off" : ", by UDP or by TCP");
        advise(out,
               "No seed answers: is dunlind running there, is the --network name the same, are the ids in "
               "the seed list right, and does a firewall let UDP port %u out?",
               (unsigned)facts->port);
    }
}

static void judge_peers(const struct doctor_facts *facts, struct doctor_report *out)
{
    if (facts->connected == 0)
        say(out, DOCTOR_OK, "No peer is connected at the moment; nodes of the network that answer: %zu.",
            facts->contacts);
    else
        say(out, DOCTOR_OK,
            "Connected peers: %zu (%zu directly, %zu through punched holes, %zu over TCP, %zu through "
            "relays).",
            facts->connected, facts->direct, facts->punched, facts->tcp, facts->relayed);
}

static void judge_udp(const struct doctor_facts *facts, struct doctor_report *out)
{
    if (!facts->udp_blocked)
        return;
    if (facts->tcp_links > 0) {
        say(out, DOCTOR_WARNING,
            "UDP is blocked: everything goes over TCP (links: %zu), relayed for most peers.",
            facts->tcp_links);
        advise(out, "UDP is blocked: relayed over TCP. Ask whoever runs this network to let UDP out; that is "
                    "faster and spares relays.");
    } else {
        say(out, DOCTOR_WARNING, "UDP is blocked, and %s.",
            facts->tcp_on ? "no TCP link stands yet" : "TCP is switched off");
        advise(out, facts->tcp_on ? "UDP is blocked and TCP did not get through: let UDP out, or TCP to port "
                                    "443, in the firewall of this network."
                                  : "UDP is blocked: switch on TCP in the daemon's settings.");
    }
}

static const char *nat_words(enum doctor_nat nat)
{
    switch (nat) {
    case DOCTOR_NAT_UNKNOWN:
        return "how its NAT gives out ports is not known yet";
    case DOCTOR_NAT_NONE:
        return "without a NAT";
    case DOCTOR_NAT_EASY:
        return "behind a NAT that keeps one port for all peers, so that holes can be punched";
    case DOCTOR_NAT_SEQUENTIAL:
        return "behind a NAT that gives each peer the next port, so that holes can be punched by prediction";
    case DOCTOR_NAT_RANDOM:
        return "behind a NAT that gives each peer an unpredictable port";
    }
    return "";
}

/* Nobody outside could be asked, or nobody said anything. */
static void judge_unasked(const char *name, bool is_v4, const struct doctor_facts *facts,
                          struct doctor_report *out)
{
    if (facts->udp_blocked)
        say(out, DOCTOR_NOTE, "%s: no UDP gets out, so nobody can say how this node looks from outside.",
            name);
    else if (is_v4)
        say(out, DOCTOR_NOTE, "%s: no public node has said yet how it sees this one.", name);
    else
        say(out, DOCTOR_NOTE, "%s: this machine has an address; nobody was asked over %s yet.", name, name);
}

static void judge_family(const char *name, const struct doctor_family *family,
                         const struct doctor_facts *facts, struct doctor_report *out)
{
    char seen[128] = "nobody has said yet how they see us";
    if (!family->local) {
        say(out, DOCTOR_OK, "%s: none on this machine.", name);
        return;
    }
    if (family->outer != NULL)
        (void)snprintf(seen, sizeof seen, "peers see us as %s", family->outer);
    switch (family->reach) {
    case DOCTOR_REACH_YES:
        say(out, DOCTOR_OK, "%s: strangers reach this node; %s.", name, seen);
        break;
    case DOCTOR_REACH_NO:
        if (family->nat == DOCTOR_NAT_NONE)
            say(out, DOCTOR_NOTE,
                "%s: the address is public, but a firewall keeps strangers out and lets in answers only; %s.",
                name, seen);
        else
            say(out, DOCTOR_NOTE, "%s: strangers do not reach this node, %s; %s.", name,
                nat_words(family->nat), seen);
        break;
    case DOCTOR_REACH_UNKNOWN:
        if (family->nat == DOCTOR_NAT_UNKNOWN && family->outer == NULL)
            judge_unasked(name, family == &facts->v4, facts, out);
        else
            say(out, DOCTOR_NOTE,
                "%s: whether strangers reach this node is not known yet, %s; %s (%zu asked).", name,
                nat_words(family->nat), seen, family->observers);
        break;
    }
}

static bool has_nat(const struct doctor_facts *facts)
{
    return facts->v4.local && facts->v4.nat > DOCTOR_NAT_NONE;
}

/* How strangers could be let in. */
static void advise_opening(const struct doctor_facts *facts, struct doctor_report *out)
{
    unsigned port = facts->port;
    /* Nobody gets in through a NAT that gives each peer another port unless the router opens one. */
    bool kept_out =
        facts->v4.reach == DOCTOR_REACH_NO || (facts->v4.nat > DOCTOR_NAT_EASY && !settling(facts));
    if (facts->double_nat)
        advise(out,
               "Two NATs in a row: forward UDP port %u on both routers, or put the inner one into bridge "
               "mode. If the outer one is your provider's, ask them for a public address or for IPv6.",
               port);
    else if ((facts->v4.nat == DOCTOR_NAT_NONE && facts->v4.reach == DOCTOR_REACH_NO) ||
             (!has_nat(facts) && facts->v6.reach == DOCTOR_REACH_NO))
        advise(out, "A firewall lets nobody in: open UDP port %u in it.", port);
    else if (!has_nat(facts) || !kept_out)
        return;
    else if (facts->mappings > 0)
        advise(out,
               "The port that the router opened leads nowhere: forward UDP port %u to this machine by hand. "
               "If that does not help either, the provider lets nobody in.",
               port);
    else if (facts->portmap_refused != NULL)
        advise(out,
               "Your router does not let programs open ports: allow it there, or forward UDP port %u to this "
               "machine.",
               port);
    else
        advise(out,
               "Your router does not open ports: switch on %s in it, or forward UDP port %u to this "
               "machine.",
               facts->portmap_on ? "UPnP" : "UPnP, and port mapping in the daemon's settings,", port);
}

static void judge_mapping(const struct doctor_facts *facts, struct doctor_report *out)
{
    const char *via = facts->portmap_via != NULL ? facts->portmap_via : "a port mapping protocol";
    if (facts->mappings_proven > 0)
        say(out, DOCTOR_OK, "The router opened a port for us by %s, and it works.", via);
    else if (facts->double_nat)
        say(out, DOCTOR_NOTE,
            "There are two NATs in a row: the router has no public address itself, so a port it opens leads "
            "nowhere.");
    else if (facts->mappings > 0 && settling(facts))
        say(out, DOCTOR_NOTE, "The router says that it opened a port by %s; others are trying it.", via);
    else if (facts->mappings > 0)
        say(out, DOCTOR_NOTE, "The router says that it opened a port by %s; nobody outside has reached it.",
            via);
    else if (facts->portmap_refused != NULL)
        say(out, DOCTOR_NOTE, "The router answers %s, but refuses to open a port.", facts->portmap_refused);
    else if (facts->portmap_on && has_nat(facts) && facts->v4.reach == DOCTOR_REACH_YES)
        say(out, DOCTOR_OK, "The router opens no ports when asked, and lets strangers in all the same.");
    else if (facts->portmap_on && has_nat(facts) && !facts->udp_blocked)
        say(out, DOCTOR_NOTE, "The router opens no ports: it answers neither UPnP nor NAT-PMP nor PCP.");
    if (!reachable(facts) && !facts->udp_blocked)
        advise_opening(facts, out);
}

/* What a NAT costs that cannot be punched, and whether relays make up for it. */
static void judge_relays(const struct doctor_facts *facts, struct doctor_report *out)
{
    if (facts->relay_clients > 0)
        say(out, DOCTOR_OK, "Nodes that this one relays for: %zu.", facts->relay_clients);
    if (reachable(facts))
        return;
    if (facts->v4.nat == DOCTOR_NAT_RANDOM && !facts->udp_blocked)
        say(out, DOCTOR_WARNING, "Peers behind NATs of the same kind are reached through relays only.");
    if (facts->relays_wanted == 0)
        return;
    if (facts->relays_held == 0) {
        enum doctor_level level = settling(facts) ? DOCTOR_NOTE : DOCTOR_WARNING;
        say(out, level,
            "No relay keeps a place for this node (%zu known): other nodes behind NATs cannot "
            "begin to talk to it.",
            facts->relays_known);
        advise(out, "No relay has room, or none is known: ask again in a minute, or run a node with a public "
                    "address and make it a seed.");
    } else if (facts->relay_volume_left < DOCTOR_VOLUME_LOW) {
        if (facts->relay_volume_left == 0)
            say(out, DOCTOR_WARNING,
                "Relays carry nothing more for this node today: the volume that they grant is used up.");
        else
            say(out, DOCTOR_WARNING, "Relays will carry only %llu MiB more for this node today.",
                (unsigned long long)(facts->relay_volume_left >> 20));
        advise(out,
               "The volume that relays grant is nearly used up: forward UDP port %u to this machine, so "
               "that peers need no relay.",
               (unsigned)facts->port);
    } else {
        say(out, DOCTOR_OK,
            "Relays that keep a place for this node, so that others can begin to talk to it: %zu.",
            facts->relays_held);
    }
}

void doctor_judge(const struct doctor_facts *facts, struct doctor_report *out)
{
    memset(out, 0, sizeof *out);
    if (facts->store_read_only)
        say(out, DOCTOR_WARNING,
            "The database is read-only: nothing is kept over a restart (see dunlin "
            "status).");
    judge_clock(facts, out);
    if (facts->contacts == 0 && facts->connected == 0) {
        judge_silence(facts, out);
        return;
    }
    judge_peers(facts, out);
    judge_udp(facts, out);
    judge_family("IPv4", &facts->v4, facts, out);
    judge_family("IPv6", &facts->v6, facts, out);
    judge_mapping(facts, out);
    judge_relays(facts, out);
}

const char *doctor_verdict_text(enum doctor_verdict verdict)
{
    static const char *const texts[] = {"fine", "degraded", "no peers"};
    return texts[verdict];
}

const char *doctor_level_text(enum doctor_level level)
{
    static const char *const texts[] = {"ok", "note", "warning", "problem"};
    return texts[level];
}
