/* What `dunlin nat` and `dunlin doctor` ask for: what is known of the NAT before us, of port mappings, relays
 * and TCP links. */
#include <stdlib.h>
#include <string.h>

#include "node/doctor.h"
#include "node/methods_internal.h"

enum { NODES_MAX = 256 };

static const enum net_family families[] = {NET_FAMILY_V4, NET_FAMILY_V6};
static const char *const family_names[] = {"ipv4", "ipv6"};

static void reply_maybe_addr(struct reply *r, const char *key, const struct net_addr *addr)
{
    if (addr->family == NET_FAMILY_NONE)
        reply_nil(r, key);
    else
        method_reply_addr(r, key, addr);
}

/* Seconds since then; nil: never. */
static void reply_age(struct reply *r, const char *key, uint64_t then_ns, uint64_t now_ns)
{
    if (then_ns == 0 || then_ns > now_ns)
        reply_nil(r, key);
    else
        reply_float(r, key, (double)(now_ns - then_ns) / 1e9);
}

/* Own addresses as seen from outside, and how many observers say so. */
static void reply_observed(struct node *node, struct reply *r)
{
    reply_array(r, "observed");
    for (size_t i = 0; i < NAT_OBSERVED_SLOTS; i++) {
        const struct nat_observed_slot *slot = &node->observed.slots[i];
        size_t agree = 0;
        if (slot->current.family == NET_FAMILY_NONE)
            continue;
        for (size_t k = 0; k < slot->report_count; k++)
            agree += net_addr_equal(&slot->reports[k].seen, &slot->current);
        reply_map(r, NULL);
        method_reply_addr(r, "addr", &slot->current);
        reply_uint(r, "agree", agree);
        reply_uint(r, "observers", slot->report_count);
        reply_end(r);
    }
    reply_end(r);
}

static bool has_local(const struct node *node, enum net_family family)
{
    for (size_t i = 0; i < node->local_count; i++) {
        /* A private IPv6 address leads nowhere outside; behind IPv4 there may be a NAT. */
        if (node->locals[i].family == family &&
            (family == NET_FAMILY_V4 || net_addr_scope(&node->locals[i]) == NET_SCOPE_GLOBAL))
            return true;
    }
    return false;
}

static void reply_family(struct node *node, struct reply *r, size_t index, uint64_t now_ns)
{
    char text[NAT_REACH_TEXT_MAX];
    struct nat_reach_profile profile = nat_reach_profile(node->reach, families[index]);
    nat_reach_describe(&profile, text);
    reply_map(r, NULL);
    reply_str(r, "family", family_names[index]);
    reply_bool(r, "local", has_local(node, families[index]));
    reply_str(r, "summary", text);
    reply_str(r, "mapping", nat_reach_mapping_text(profile.mapping));
    reply_int(r, "step", profile.step);
    reply_str(r, "filtering", nat_reach_filtering_text(profile.filtering));
    reply_str(r, "reachable", nat_reach_verdict_text(profile.reachable));
    reply_maybe_addr(r, "outer", &profile.outer);
    reply_bool(r, "port_preserved", profile.port_preserved);
    reply_bool(r, "address_varies", profile.address_varies);
    reply_bool(r, "main_differs", profile.main_differs);
    reply_uint(r, "observers", profile.observers);
    reply_age(r, "surveyed_s", profile.surveyed_ns, now_ns);
    if (profile.life_ns == 0)
        reply_nil(r, "life_s");
    else
        reply_float(r, "life_s", (double)profile.life_ns / 1e9);
    reply_end(r);
}

/* The addresses we tell others of, and whether strangers reached us there. */
static void reply_own(struct node *node, struct reply *r)
{
    reply_array(r, "published");
    for (size_t i = 0; i < node->own_addr_count; i++) {
        enum nat_reach_verdict verdict = NAT_REACH_UNKNOWN;
        enum nat_reach_why why = NAT_REACH_WHY_PENDING;
        bool known = nat_reach_verdict_of(node->reach, &node->own_addrs[i], &verdict, &why) == ERR_OK;
        reply_map(r, NULL);
        method_reply_addr(r, "addr", &node->own_addrs[i]);
        reply_str(r, "reachable", nat_reach_verdict_text(verdict));
        if (known)
            reply_str(r, "why", nat_reach_why_text(why));
        else
            reply_nil(r, "why"); /* no global address: nobody outside is asked to try */
        reply_end(r);
    }
    reply_end(r);
}

static size_t mappings(const struct node *node, struct nat_portmap_info out[NAT_PORTMAP_SLOTS])
{
    return node->portmap == NULL ? 0 : nat_portmap_list(node->portmap, out);
}

static bool is_double_nat(const struct node *node)
{
    struct nat_portmap_info infos[NAT_PORTMAP_SLOTS];
    size_t count = mappings(node, infos);
    bool inner = node->portmap_inner;
    for (size_t i = 0; i < count; i++)
        inner = inner || infos[i].standing == NAT_PORTMAP_INNER || infos[i].error == ERR_NO_ADDRESS;
    return inner;
}

static void reply_mapping(struct reply *r, const struct nat_portmap_info *info, uint64_t now_ns)
{
    static const char *const standings[] = {
        [NAT_PORTMAP_UNVERIFIED] = "unverified",
        [NAT_PORTMAP_VERIFIED] = "verified",
        [NAT_PORTMAP_REFUTED] = "refuted",
        [NAT_PORTMAP_INNER] = "behind another NAT",
    };
    reply_map(r, NULL);
    reply_str(r, "protocol", nat_portmap_protocol_name(info->protocol));
    reply_str(r, "transport", info->transport == NAT_PORTMAP_TCP ? "tcp" : "udp");
    reply_bool(r, "held", info->held);
    reply_str(r, "standing", standings[info->standing]);
    reply_maybe_addr(r, "addr", &info->addr);
    if (info->held && info->expires_ns > now_ns && info->expires_ns != UINT64_MAX)
        reply_float(r, "expires_s", (double)(info->expires_ns - now_ns) / 1e9);
    else
        reply_nil(r, "expires_s");
    if (info->error < 0)
        reply_str(r, "error", err_text(info->error));
    else
        reply_nil(r, "error");
    reply_int(r, "detail", info->detail);
    reply_end(r);
}

static void reply_portmap(struct node *node, struct reply *r, uint64_t now_ns)
{
    struct nat_portmap_info infos[NAT_PORTMAP_SLOTS];
    size_t count = mappings(node, infos);
    reply_map(r, "portmap");
    reply_bool(r, "on", node->portmap_running);
    reply_bool(r, "double_nat", is_double_nat(node));
    reply_array(r, "mappings");
    for (size_t i = 0; i < count; i++)
        reply_mapping(r, &infos[i], now_ns);
    reply_end(r);
    reply_end(r);
}

/* What the relay grants, as far as it was asked, or why it grants nothing. */
static void reply_grant(struct reply *r, const struct nat_relay_client_info *info)
{
    bool asked = info->rtt_ns != 0;
    if (asked)
        reply_float(r, "rtt_ms", (double)info->rtt_ns / 1e6);
    else
        reply_nil(r, "rtt_ms");
    reply_uint(r, "rate_bytes_s", info->rate);
    if (!asked || info->volume == UINT64_MAX)
        reply_nil(r, "volume_left");
    else
        reply_uint(r, "volume_left", info->volume);
    if (info->refused == NAT_RELAY_BY_NONE)
        reply_nil(r, "refused");
    else
        reply_str(r, "refused", nat_relay_reason_text(info->refused));
}

/* Relays whose client we are: what each grants, and how often we go through it. */
static void reply_relays(struct node *node, struct reply *r)
{
    struct nat_relay_client_info infos[NAT_RELAY_CLIENT_RELAYS_MAX];
    size_t count = nat_relay_client_relays(node->relay_client, infos, NAT_RELAY_CLIENT_RELAYS_MAX);
    reply_array(r, "relays");
    for (size_t i = 0; i < count; i++) {
        reply_map(r, NULL);
        reply_id(r, "id", &infos[i].id);
        method_reply_addr(r, "addr", &infos[i].addr);
        reply_bool(r, "held", infos[i].held);
        reply_bool(r, "candidate", infos[i].candidate);
        reply_uint(r, "sessions", infos[i].sessions);
        reply_grant(r, &infos[i]);
        reply_maybe_addr(r, "seen", &infos[i].seen);
        reply_end(r);
    }
    reply_end(r);
}

static size_t served(struct node *node, uint64_t now_ns, struct nat_relay_node_info **out)
{
    *out = node->relay == NULL ? NULL : calloc(NODES_MAX, sizeof **out);
    return *out == NULL ? 0 : nat_relay_nodes(node->relay, now_ns, *out, NODES_MAX);
}

/* Those we relay for. */
static void reply_relaying(struct node *node, struct reply *r, uint64_t now_ns)
{
    struct nat_relay_node_info *infos = NULL;
    size_t count = served(node, now_ns, &infos);
    struct nat_relay_stats stats = {0};
    if (node->relay != NULL)
        stats = nat_relay_stats(node->relay);
    reply_map(r, "relaying");
    reply_uint(r, "clients", count);
    reply_uint(r, "bytes", stats.bytes);
    reply_uint(r, "frames", stats.frames);
    reply_uint(r, "sessions_opened", stats.opened);
    reply_uint(r, "refused", stats.refused);
    reply_uint(r, "dropped", stats.dropped_rate);
    reply_array(r, "list");
    for (size_t i = 0; i < count; i++) {
        reply_map(r, NULL);
        reply_id(r, "id", &infos[i].id);
        reply_maybe_addr(r, "addr", &infos[i].addr);
        reply_bool(r, "reserved", infos[i].reserved);
        reply_uint(r, "sessions", infos[i].sessions);
        reply_uint(r, "bytes_from", infos[i].bytes_from);
        reply_uint(r, "bytes_to", infos[i].bytes_to);
        reply_uint(r, "dropped", infos[i].dropped_rate);
        reply_end(r);
    }
    reply_end(r);
    reply_end(r);
    free(infos);
}

static void reply_tcp(struct node *node, struct reply *r)
{
    struct net_uv_tcp_stats stats = {0};
    if (node->tcp != NULL)
        stats = net_uv_tcp_stats(node->tcp);
    reply_map(r, "tcp");
    reply_bool(r, "on", node->tcp != NULL);
    reply_bool(r, "udp_blocked", node->udp_blocked);
    reply_uint(r, "port", node->tcp == NULL ? 0 : net_uv_tcp_port(node->tcp));
    reply_uint(r, "incoming", stats.incoming);
    reply_uint(r, "outgoing", stats.outgoing);
    reply_uint(r, "bytes_sent", stats.bytes_sent);
    reply_uint(r, "bytes_received", stats.bytes_received);
    reply_end(r);
}

static void reply_punch(struct node *node, struct reply *r)
{
    struct nat_punch_stats stats = nat_punch_stats(node->punch);
    reply_map(r, "punching");
    reply_uint(r, "rounds", stats.rounds_started + stats.rounds_inbound);
    reply_uint(r, "succeeded", stats.rounds_ok);
    reply_uint(r, "failed", stats.rounds_failed);
    reply_uint(r, "probes", stats.probes_sent);
    reply_uint(r, "sockets", stats.sockets);
    reply_end(r);
}

void method_nat(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    uint64_t now_ns = node_now_ns();
    struct reply *r = control_answer(call);
    (void)params;
    reply_uint(r, "port", net_uv_socket_port(node->socket));
    reply_str(r, "role", node->client ? "client" : "server");
    reply_observed(node, r);
    reply_array(r, "families");
    for (size_t i = 0; i < 2; i++)
        reply_family(node, r, i, now_ns);
    reply_end(r);
    reply_own(node, r);
    reply_portmap(node, r, now_ns);
    reply_relays(node, r);
    reply_relaying(node, r, now_ns);
    reply_tcp(node, r);
    reply_punch(node, r);
    reply_float(r, "keepalive_s", (double)nat_path_keepalive(node->path) / 1e9);
    control_finish(call, false);
}

/* ---- doctor ---- */

static enum doctor_nat nat_of(const struct nat_reach_profile *profile)
{
    switch (profile->mapping) {
    case NAT_REACH_MAPPING_UNKNOWN:
        return DOCTOR_NAT_UNKNOWN;
    case NAT_REACH_MAPPING_NONE:
        return DOCTOR_NAT_NONE;
    case NAT_REACH_MAPPING_INDEPENDENT:
        return DOCTOR_NAT_EASY;
    case NAT_REACH_MAPPING_ADDRESS:
    case NAT_REACH_MAPPING_ADDRESS_PORT:
        return profile->step != 0 ? DOCTOR_NAT_SEQUENTIAL : DOCTOR_NAT_RANDOM;
    }
    return DOCTOR_NAT_UNKNOWN;
}

/* text must live as long as the facts. */
static struct doctor_family family_facts(struct node *node, enum net_family family,
                                         char text[NET_ADDR_TEXT_SIZE])
{
    struct nat_reach_profile profile = nat_reach_profile(node->reach, family);
    struct doctor_family out = {
        .local = has_local(node, family),
        .nat = nat_of(&profile),
        .reach = profile.reachable == NAT_REACH_REACHABLE     ? DOCTOR_REACH_YES
                 : profile.reachable == NAT_REACH_UNREACHABLE ? DOCTOR_REACH_NO
                                                              : DOCTOR_REACH_UNKNOWN,
        .observers = profile.observers,
    };
    if (profile.outer.family != NET_FAMILY_NONE) {
        net_addr_format(&profile.outer, text);
        char *port = strrchr(text, ':');
        if (port != NULL)
            *port = '\0'; /* of no meaning here */
        out.outer = text;
    }
    return out;
}

static void count_paths(struct node *node, struct doctor_facts *facts)
{
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        const struct node_peer *peer = &node->peers[i];
        if (!peer->used || !peer->connected)
            continue;
        enum nat_route_kind kind = methods_route_kind(node, &peer->id);
        facts->connected++;
        facts->punched += kind == NAT_ROUTE_PUNCHED;
        facts->tcp += kind == NAT_ROUTE_TCP;
        facts->relayed += kind == NAT_ROUTE_RELAYED;
        facts->direct += kind != NAT_ROUTE_PUNCHED && kind != NAT_ROUTE_TCP && kind != NAT_ROUTE_RELAYED;
    }
}

static void mapping_facts(struct node *node, struct doctor_facts *facts)
{
    struct nat_portmap_info infos[NAT_PORTMAP_SLOTS];
    size_t count = mappings(node, infos);
    facts->portmap_on = node->portmap_running;
    facts->double_nat = is_double_nat(node);
    for (size_t i = 0; i < count; i++) {
        if (infos[i].error == ERR_REFUSED || infos[i].error == ERR_FULL)
            facts->portmap_refused = nat_portmap_protocol_name(infos[i].protocol);
        if (!infos[i].held || infos[i].transport != NAT_PORTMAP_UDP)
            continue;
        facts->mappings++;
        facts->mappings_proven += infos[i].standing == NAT_PORTMAP_VERIFIED;
        if (facts->portmap_via == NULL || infos[i].standing == NAT_PORTMAP_VERIFIED)
            facts->portmap_via = nat_portmap_protocol_name(infos[i].protocol);
    }
}

static void relay_facts(struct node *node, struct doctor_facts *facts, uint64_t now_ns)
{
    struct nat_relay_client_info infos[NAT_RELAY_CLIENT_RELAYS_MAX];
    struct nat_relay_node_info *clients = NULL;
    size_t count = nat_relay_client_relays(node->relay_client, infos, NAT_RELAY_CLIENT_RELAYS_MAX);
    uint64_t most = 0;
    facts->relays_wanted = node->client ? NAT_RELAY_EXTRA_RELAYS : 0;
    for (size_t i = 0; i < count; i++) {
        facts->relays_known += infos[i].candidate;
        facts->relays_held += infos[i].held;
        if (infos[i].held && infos[i].volume > most)
            most = infos[i].volume;
    }
    facts->relay_volume_left = facts->relays_held > 0 ? most : UINT64_MAX;
    facts->relay_clients = served(node, now_ns, &clients);
    free(clients);
}

static size_t open_tcp_links(const struct node *node)
{
    size_t open = 0;
    for (size_t i = 0; i < NODE_TCP_WAYS_MAX; i++)
        open += node->tcp_ways[i].used && node->tcp_ways[i].open != 0;
    return open;
}

void method_doctor(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    struct doctor_facts facts = {0};
    struct doctor_report report;
    struct store_status store;
    char outer[2][NET_ADDR_TEXT_SIZE];
    uint64_t now_ns = node_now_ns();
    struct dht_counts dht = dht_counts(node->dht, now_ns);
    (void)params;
    facts.uptime_s = (now_ns - node->started_ns) / NODE_SECOND_NS;
    facts.port = net_uv_socket_port(node->socket);
    facts.seeds = node->config.seed_count;
    facts.contacts = dht.good; /* doubtful ones have not answered lately */
    if (!net_seal_clock_offset(node->seal, now_ns, &facts.clock_offset_ms, &facts.clock_peers))
        facts.clock_offset_ms = 0;
    facts.udp_blocked = node->udp_blocked;
    facts.tcp_on = node->tcp != NULL;
    facts.tcp_links = open_tcp_links(node);
    facts.v4 = family_facts(node, NET_FAMILY_V4, outer[0]);
    facts.v6 = family_facts(node, NET_FAMILY_V6, outer[1]);
    count_paths(node, &facts);
    mapping_facts(node, &facts);
    relay_facts(node, &facts, now_ns);
    store_status_get(node->store, &store);
    facts.store_read_only = store.state != STORE_OPEN;
    doctor_judge(&facts, &report);
    struct reply *r = control_answer(call);
    reply_uint(r, "code", report.verdict);
    reply_str(r, "verdict", doctor_verdict_text(report.verdict));
    reply_array(r, "lines");
    for (size_t i = 0; i < report.line_count; i++) {
        reply_map(r, NULL);
        reply_str(r, "level", doctor_level_text(report.lines[i].level));
        reply_str(r, "text", report.lines[i].text);
        reply_end(r);
    }
    reply_end(r);
    if (report.remedy[0] != '\0')
        reply_str(r, "remedy", report.remedy);
    else
        reply_nil(r, "remedy");
    control_finish(call, false);
}
