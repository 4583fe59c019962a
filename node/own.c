/* What we know of our own reachability, and what follows from it.
 *
 * Facts: interface addresses, what peers see (nat/observed), what the NAT does and which addresses strangers
 * reach (nat/reach), port mappings (nat/portmap).  Decisions, all in own_changed():
 *
 *   - which addresses our records name;
 *   - server or client of the DHT: a node that nobody outside can dial is asked nothing;
 *   - whether we relay for others and dial back for them: if they can dial us;
 *   - how many reservations on relays we hold: two when they cannot.
 *
 * Until something speaks against it a node counts as reachable when one of its interfaces has a global
 * address, or when it knows of no outside at all (one machine, a LAN). */
#include <stdlib.h>
#include <string.h>

#include "node/internal.h"

enum { LOCALS_S = 3, RELAYS_WANTED = 2 };

/* ---- interface addresses ---- */

static size_t read_locals(struct node *node, struct net_addr out[NODE_LOCALS_MAX])
{
    uv_interface_address_t *interfaces;
    int interface_count;
    size_t count = 0;
    if (uv_interface_addresses(&interfaces, &interface_count) < 0)
        return 0;
    for (int i = 0; i < interface_count && count < NODE_LOCALS_MAX; i++) {
        const uv_interface_address_t *at = &interfaces[i];
        struct net_addr addr = {.port = net_uv_socket_port(node->socket)};
        if (at->is_internal)
            continue;
        if (at->address.address4.sin_family == AF_INET) {
            addr.family = NET_FAMILY_V4;
            memcpy(addr.ip, &at->address.address4.sin_addr, 4);
        } else {
            addr.family = NET_FAMILY_V6;
            memcpy(addr.ip, &at->address.address6.sin6_addr, 16);
        }
        enum net_scope scope = net_addr_scope(&addr);
        if (net_uv_socket_has(node->socket, addr.family) &&
            (scope == NET_SCOPE_GLOBAL || scope == NET_SCOPE_PRIVATE))
            out[count++] = addr;
    }
    uv_free_interface_addresses(interfaces, interface_count);
    return count;
}

/* True when what packets leave with has changed.  A new address is of no use before its route, and what was
 * sent in between is lost. */
static bool read_sources(struct node *node)
{
    const struct net_addr now[] = {net_uv_watch_source(NET_FAMILY_V4), net_uv_watch_source(NET_FAMILY_V6)};
    bool changed = !net_addr_equal(&now[0], &node->sources[0]) || !net_addr_equal(&now[1], &node->sources[1]);
    memcpy(node->sources, now, sizeof now);
    return changed;
}

static bool same_ip(const struct net_addr *a, const struct net_addr *b)
{
    return a->family == b->family && memcmp(a->ip, b->ip, sizeof a->ip) == 0;
}

static bool is_local(const struct node *node, const struct net_addr *addr)
{
    for (size_t i = 0; i < node->local_count; i++) {
        if (same_ip(&node->locals[i], addr))
            return true;
    }
    return false;
}

bool own_has_local(const struct node *node, enum net_family family, enum net_scope scope)
{
    for (size_t i = 0; i < node->local_count; i++) {
        if (node->locals[i].family == family && net_addr_scope(&node->locals[i]) == scope)
            return true;
    }
    return false;
}

/* Another network, or another address in it: routes by the main socket may be dead, mappings are. */
static void locals_changed(struct node *node, uint64_t now_ns)
{
    nat_reach_locals(node->reach, now_ns, node->locals, node->local_count);
    nat_relay_client_moved(node->relay_client, now_ns);
    nat_path_moved(node->path, now_ns);
    if (node->portmap_running)
        nat_portmap_network_changed(node->portmap, now_ns);
    own_changed(node, now_ns);
}

static void check_locals(struct node *node, uint64_t now_ns)
{
    struct net_addr now[NODE_LOCALS_MAX] = {{0}};
    size_t count = read_locals(node, now);
    bool same = !read_sources(node) && count == node->local_count;
    node->locals_next_ns = now_ns + LOCALS_S * NODE_SECOND_NS;
    if (same && memcmp(now, node->locals, sizeof now) == 0)
        return;
    memcpy(node->locals, now, sizeof now);
    node->local_count = count;
    locals_changed(node, now_ns);
}

static void on_locals(void *user)
{
    struct node *node = user;
    uint64_t now_ns = node_now_ns();
    check_locals(node, now_ns);
    node_pump(node, now_ns);
}

/* ---- decisions ---- */

struct addr_list {
    struct net_addr at[NODE_OWN_ADDRS_MAX];
    size_t count;
};

static void add_addr(struct addr_list *list, const struct net_addr *addr)
{
    for (size_t i = 0; i < list->count; i++) {
        if (net_addr_equal(&list->at[i], addr))
            return;
    }
    if (addr->family != NET_FAMILY_NONE && list->count < NODE_OWN_ADDRS_MAX)
        list->at[list->count++] = *addr;
}

static void add_observed(const struct node *node, struct addr_list *list, enum net_scope scope)
{
    static const enum net_family families[] = {NET_FAMILY_V4, NET_FAMILY_V6};
    for (size_t i = 0; i < 2; i++) {
        struct net_addr addr;
        if (nat_observed_address(&node->observed, families[i], scope, &addr) == ERR_OK)
            add_addr(list, &addr);
    }
}

static void add_locals(const struct node *node, struct addr_list *list, enum net_scope scope)
{
    for (size_t i = 0; i < node->local_count; i++) {
        if (net_addr_scope(&node->locals[i]) == scope)
            add_addr(list, &node->locals[i]);
    }
}

/* Where the port is that a person may have forwarded to us in a router that gives each peer another one: no
 * peer ever sees it, so it is tried by chance and told to others only when a stranger came through. */
static struct net_addr by_hand(const struct node *node)
{
    struct nat_reach_profile profile = nat_reach_profile(node->reach, NET_FAMILY_V4);
    bool varies =
        profile.mapping == NAT_REACH_MAPPING_ADDRESS || profile.mapping == NAT_REACH_MAPPING_ADDRESS_PORT;
    if (varies && !node->udp_blocked && profile.outer.family != NET_FAMILY_NONE)
        profile.outer.port = net_uv_socket_port(node->socket);
    else
        profile.outer.family = NET_FAMILY_NONE;
    return profile.outer;
}

/* Best first, since records have room for four: what a router maps, what others see, interfaces. */
static struct addr_list own_list(const struct node *node)
{
    struct addr_list list = {.count = 0};
    struct net_addr forwarded = by_hand(node);
    enum nat_reach_verdict verdict;
    enum nat_reach_why why;
    for (size_t i = 0; i < NODE_MAPPED_MAX; i++)
        add_addr(&list, &node->mapped[i].addr);
    if (nat_reach_verdict_of(node->reach, &forwarded, &verdict, &why) == ERR_OK &&
        verdict == NAT_REACH_REACHABLE)
        add_addr(&list, &forwarded);
    add_observed(node, &list, NET_SCOPE_GLOBAL);
    add_locals(node, &list, NET_SCOPE_GLOBAL);
    add_locals(node, &list, NET_SCOPE_PRIVATE);
    add_observed(node, &list, NET_SCOPE_LOOPBACK);
    return list;
}

static enum nat_reach_verdict verdict_of(const struct node *node, enum net_family family)
{
    return nat_reach_profile(node->reach, family).reachable;
}

static bool is_proven(const struct node *node)
{
    return verdict_of(node, NET_FAMILY_V4) == NAT_REACH_REACHABLE ||
           verdict_of(node, NET_FAMILY_V6) == NAT_REACH_REACHABLE;
}

/* A global IPv6 address alone speaks for a home with a firewall as much as for a server. */
static bool is_client(const struct node *node)
{
    if (node->udp_blocked)
        return true;
    if (is_proven(node))
        return false;
    if (own_has_local(node, NET_FAMILY_V4, NET_SCOPE_GLOBAL))
        return verdict_of(node, NET_FAMILY_V4) == NAT_REACH_UNREACHABLE;
    return node->public_count > 0;
}

/* Tells others our addresses and relays; true when the addresses are new. */
static bool publish(struct node *node, uint64_t now_ns, const struct addr_list *list)
{
    struct nat_relay_place held[NAT_RELAY_EXTRA_RELAYS];
    uint8_t extra[NAT_RELAY_EXTRA_MAX];
    size_t held_count = nat_relay_client_held(node->relay_client, held, NAT_RELAY_EXTRA_RELAYS);
    size_t extra_len = nat_relay_extra_write(held, held_count, extra);
    bool same = list->count == node->own_addr_count;
    for (size_t i = 0; i < list->count && same; i++)
        same = net_addr_equal(&list->at[i], &node->own_addrs[i]);
    memcpy(node->own_addrs, list->at, sizeof node->own_addrs);
    node->own_addr_count = list->count;
    dht_set_addresses(node->dht, now_ns, list->at, list->count, bytes_of(extra, extra_len));
    for (size_t i = 0; i < NODE_RUNS_MAX && !same; i++)
        node->runs[i].member_put_ns = 0; /* members learn the new addresses from our register */
    return !same;
}

/* Every global address that others are told of, or could be, is dialled back; others no longer. */
static void verify(struct node *node, uint64_t now_ns, const struct addr_list *published)
{
    struct addr_list wanted = *published;
    struct addr_list *list = &wanted;
    struct net_addr forwarded = by_hand(node);
    add_addr(list, &forwarded);
    for (size_t i = 0; i < node->verified_count; i++) {
        bool named = false;
        for (size_t k = 0; k < list->count; k++)
            named = named || net_addr_equal(&list->at[k], &node->verified[i]);
        if (!named)
            nat_reach_forget(node->reach, &node->verified[i]);
    }
    struct addr_list kept = {.count = 0};
    for (size_t i = 0; i < list->count; i++) {
        bool known = false;
        if (net_addr_scope(&list->at[i]) != NET_SCOPE_GLOBAL)
            continue;
        for (size_t k = 0; k < node->verified_count; k++)
            known = known || net_addr_equal(&list->at[i], &node->verified[k]);
        if (known || nat_reach_verify(node->reach, now_ns, &list->at[i]) == ERR_OK)
            add_addr(&kept, &list->at[i]);
    }
    memcpy(node->verified, kept.at, sizeof node->verified);
    node->verified_count = kept.count;
}

static enum nat_punch_mapping punch_mapping(const struct nat_reach_profile *profile)
{
    switch (profile->mapping) {
    case NAT_REACH_MAPPING_NONE:
    case NAT_REACH_MAPPING_INDEPENDENT:
        return NAT_PUNCH_EASY;
    case NAT_REACH_MAPPING_ADDRESS:
    case NAT_REACH_MAPPING_ADDRESS_PORT:
        return profile->step != 0 ? NAT_PUNCH_SEQUENTIAL : NAT_PUNCH_RANDOM;
    case NAT_REACH_MAPPING_UNKNOWN:
        break;
    }
    return NAT_PUNCH_UNKNOWN;
}

static enum nat_punch_filtering punch_filtering(enum nat_reach_filtering filtering)
{
    switch (filtering) {
    case NAT_REACH_FILTERING_INDEPENDENT:
        return NAT_PUNCH_FILTER_NONE;
    case NAT_REACH_FILTERING_ADDRESS:
        return NAT_PUNCH_FILTER_ADDRESS;
    case NAT_REACH_FILTERING_ADDRESS_PORT:
        return NAT_PUNCH_FILTER_PORT;
    case NAT_REACH_FILTERING_UNKNOWN:
        break;
    }
    return NAT_PUNCH_FILTER_UNKNOWN;
}

static enum nat_punch_source source_of(const struct node *node, const struct net_addr *addr)
{
    for (size_t i = 0; i < NODE_MAPPED_MAX; i++) {
        if (net_addr_equal(&node->mapped[i].addr, addr))
            return NAT_PUNCH_MAPPED;
    }
    if (net_addr_scope(addr) == NET_SCOPE_PRIVATE)
        return NAT_PUNCH_LAN;
    if (is_local(node, addr))
        return addr->family == NET_FAMILY_V6 ? NAT_PUNCH_V6 : NAT_PUNCH_V4;
    return NAT_PUNCH_OBSERVED;
}

/* An address of the main socket that only one network has seen so far: too weak to publish, but good enough
 * to be tried by somebody who punches anyway. */
static void add_hint(const struct node *node, struct nat_punch_candidate candidates[], size_t *count)
{
    struct nat_relay_client_info relays[NAT_RELAY_CLIENT_WANTED_MAX];
    size_t relay_count = nat_relay_client_relays(node->relay_client, relays, NAT_RELAY_CLIENT_WANTED_MAX);
    for (size_t i = 0; i < relay_count && *count < NAT_PUNCH_CANDIDATES_MAX - 1; i++) {
        bool known = net_addr_scope(&relays[i].seen) != NET_SCOPE_GLOBAL;
        for (size_t k = 0; k < *count && !known; k++)
            known = net_addr_equal(&candidates[k].addr, &relays[i].seen);
        if (!known)
            candidates[(*count)++] =
                (struct nat_punch_candidate){.source = NAT_PUNCH_OBSERVED, .addr = relays[i].seen};
    }
}

void own_punch_profile(struct node *node)
{
    struct nat_reach_profile v4 = nat_reach_profile(node->reach, NET_FAMILY_V4);
    struct nat_reach_profile v6 = nat_reach_profile(node->reach, NET_FAMILY_V6);
    struct nat_punch_profile profile = {
        .mapping = punch_mapping(&v4),
        .filtering = punch_filtering(v4.filtering),
        .public4 = v4.outer,
        .public6 = v6.outer,
        .reachable = is_proven(node),
        .mapping_life_ns = v4.life_ns,
    };
    if (profile.mapping == NAT_PUNCH_SEQUENTIAL) {
        profile.step = (int16_t)v4.step;
        profile.trend_port = v4.trend_port;
        profile.trend_ns = v4.trend_ns;
    }
    struct nat_punch_candidate candidates[NAT_PUNCH_CANDIDATES_MAX];
    size_t count = 0;
    for (size_t i = 0; i < node->own_addr_count; i++)
        candidates[count++] = (struct nat_punch_candidate){.source = source_of(node, &node->own_addrs[i]),
                                                           .addr = node->own_addrs[i]};
    if (!node->udp_blocked)
        add_hint(node, candidates, &count);
    for (size_t i = 0; i < count && profile.public4.family == NET_FAMILY_NONE; i++) {
        if (candidates[i].addr.family == NET_FAMILY_V4 && candidates[i].source == NAT_PUNCH_OBSERVED)
            profile.public4 = candidates[i].addr;
    }
    nat_punch_set_addrs(node->punch, candidates, count);
    if (nat_punch_set_profile(node->punch, &profile) < 0)
        node_info(node, TRACE_LEVEL_DEBUG, "own NAT profile is out of range");
}

/* What others may take of our line: a router with an open port does not make a server of a home. */
static uint64_t relay_rate(const struct node *node)
{
    bool home = !own_has_local(node, NET_FAMILY_V4, NET_SCOPE_GLOBAL) && node->public_count > 0;
    if (!node->config.relay)
        return 0;
    return home && node->config.relay_rate_auto ? NODE_RELAY_HOME : node->config.relay_bytes_s;
}

void own_changed(struct node *node, uint64_t now_ns)
{
    struct addr_list list = own_list(node);
    bool client = is_client(node);
    bool changed = publish(node, now_ns, &list);
    verify(node, now_ns, &list);
    dht_set_client(node->dht, client);
    nat_reach_serve(node->reach, !client);
    /* Behind a NAT that lets strangers in by UDP, those without UDP still need a relay. */
    bool open = is_proven(node) && own_has_local(node, NET_FAMILY_V4, NET_SCOPE_GLOBAL);
    bool in_need = client || (node->public_count > 0 && !open);
    nat_relay_client_set_wanted(node->relay_client, now_ns, in_need ? RELAYS_WANTED : 0);
    if (client != node->client || !node->roles_set) {
        nat_relay_set_rates(node->relay, now_ns, node->config.relay_client_bytes_s,
                            client ? 0 : relay_rate(node));
        node_info(
            node, TRACE_LEVEL_INFO, "%s",
            client ? "strangers cannot dial this node (NAT or firewall): peers meet it through relays first"
                   : "strangers can dial this node, as far as is known");
    }
    node->client = client;
    node->roles_set = true;
    own_punch_profile(node);
    if (changed)
        meet_own_addrs(node, now_ns);
    if (!node->portmap_running && node->config.port_mapping &&
        own_has_local(node, NET_FAMILY_V4, NET_SCOPE_PRIVATE) && node->public_count > 0 && !node->stopping) {
        node->portmap_running = true;
        nat_portmap_start(node->portmap, now_ns);
    }
}

void own_public_peer(struct node *node, uint64_t now_ns, const struct dht_contact *contact)
{
    int result;
    if (net_addr_scope(&contact->addr) != NET_SCOPE_GLOBAL || contact->addr.via != NET_VIA_MAIN)
        return;
    result = nat_reach_observer(node->reach, now_ns, &contact->id, &contact->addr);
    result = nat_reach_helper(node->reach, now_ns, &contact->id, &contact->addr);
    result = nat_relay_client_candidate(node->relay_client, now_ns, &contact->id, &contact->addr);
    (void)result; /* ERR_FULL: enough are known */
    nat_punch_observer(node->punch, &contact->id, &contact->addr);
    ways_public(node, &contact->id, &contact->addr);
}

/* ---- events ---- */

static void open_sockets(struct node *node, uint64_t now_ns, const struct nat_reach_event *event)
{
    struct nat_reach_socket sockets[4];
    size_t count = 0;
    while (count < event->count && count < sizeof sockets / sizeof sockets[0] &&
           net_uv_aux_open(node->aux, event->family, &sockets[count].via) == ERR_OK) {
        sockets[count].port = net_uv_aux_port(node->aux, sockets[count].via);
        count++;
    }
    nat_reach_sockets(node->reach, now_ns, event->token, sockets, count);
}

static void on_verdict(struct node *node, uint64_t now_ns, const struct nat_reach_event *event)
{
    if (event->verdict != NAT_REACH_UNKNOWN) {
        int result = nat_portmap_verdict(node->portmap, now_ns, &event->addr, NAT_PORTMAP_UDP,
                                         event->verdict == NAT_REACH_REACHABLE);
        (void)result; /* ERR_NOT_FOUND: not a mapped address */
    }
    own_changed(node, now_ns);
}

static void reach_event(struct node *node, uint64_t now_ns, const struct nat_reach_event *event)
{
    switch (event->type) {
    case NAT_REACH_SOCKETS_WANTED:
        open_sockets(node, now_ns, event);
        break;
    case NAT_REACH_SOCKET_RELEASE:
        net_uv_aux_release(node->aux, event->via);
        break;
    case NAT_REACH_PROFILE:
        own_changed(node, now_ns);
        meet_survey_done(node, now_ns);
        break;
    case NAT_REACH_VERDICT:
        on_verdict(node, now_ns, event);
        break;
    case NAT_REACH_SEEN: {
        int result = node->udp_blocked
                         ? ERR_REFUSED
                         : nat_observed_report(&node->observed, now_ns, &event->from, &event->addr);
        (void)result; /* a report that is not to be believed is ignored */
        break;
    }
    }
}

static struct node_mapped *mapped_of(struct node *node, const struct net_addr *addr)
{
    return &node->mapped[addr->family == NET_FAMILY_V6 ? 1 : 0];
}

static void portmap_event(struct node *node, uint64_t now_ns, const struct nat_portmap_event *event)
{
    struct node_mapped *mapped = mapped_of(node, &event->addr);
    char text[NET_ADDR_TEXT_SIZE];
    net_addr_format(&event->addr, text);
    switch (event->type) {
    case NAT_PORTMAP_CANDIDATE:
        if (event->transport != NAT_PORTMAP_UDP)
            return;
        *mapped = (struct node_mapped){.addr = event->addr, .protocol = event->protocol};
        node_info(node, TRACE_LEVEL_INFO, "the router maps %s to this node (%s); to be verified", text,
                  nat_portmap_protocol_name(event->protocol));
        break;
    case NAT_PORTMAP_GONE:
        if (event->transport != NAT_PORTMAP_UDP || !net_addr_equal(&mapped->addr, &event->addr))
            return;
        *mapped = (struct node_mapped){.addr = {.family = NET_FAMILY_NONE}};
        break;
    case NAT_PORTMAP_BEHIND_NAT:
        node->portmap_inner = true;
        node_info(node, TRACE_LEVEL_INFO,
                  "the router's own outer address is private (%s): another NAT follows it", text);
        return;
    case NAT_PORTMAP_FAILED:
        node_info(node, TRACE_LEVEL_DEBUG, "no port mapping by %s: %s",
                  nat_portmap_protocol_name(event->protocol), err_text(event->error));
        return;
    }
    own_changed(node, now_ns);
}

static void on_portmap_result(void *user, const struct nat_portmap_result *result)
{
    struct node *node = user;
    if (nat_portmap_result(node->portmap, node_now_ns(), result) == ERR_OK)
        node_pump(node, node_now_ns());
}

static bool drain_portmap(struct node *node, uint64_t now_ns)
{
    struct nat_portmap_event event;
    struct nat_portmap_command command;
    bool any = false;
    while (nat_portmap_poll_event(node->portmap, &event)) {
        portmap_event(node, now_ns, &event);
        any = true;
    }
    while (nat_portmap_poll_command(node->portmap, &command)) {
        int result =
            node->portmap_thread == NULL ? ERR_CLOSED : portmap_thread_submit(node->portmap_thread, &command);
        if (result < 0) {
            struct nat_portmap_result failed = {.token = command.token, .error = result};
            result = nat_portmap_result(node->portmap, now_ns, &failed);
        }
        any = true;
    }
    return any;
}

bool own_drain(struct node *node, uint64_t now_ns)
{
    struct nat_reach_event event;
    struct net_message message;
    struct nat_observed_event moved;
    bool any = false;
    while (nat_reach_poll_event(node->reach, &event)) {
        reach_event(node, now_ns, &event);
        any = true;
    }
    while (nat_reach_poll_send(node->reach, now_ns, &message)) {
        wire_send(node, now_ns, &message);
        any = true;
    }
    while (nat_observed_poll_event(&node->observed, &moved)) {
        const struct net_addr *seen = moved.now.family != NET_FAMILY_NONE ? &moved.now : &moved.old;
        if (net_addr_scope(seen) == NET_SCOPE_GLOBAL) {
            nat_reach_observed(node->reach, now_ns, seen->family, &moved.now,
                               nat_observed_mapping(&node->observed, seen->family));
            nat_relay_client_moved(node->relay_client, now_ns);
        }
        own_changed(node, now_ns);
        any = true;
    }
    return drain_portmap(node, now_ns) || any;
}

void own_tick(struct node *node, uint64_t now_ns)
{
    if (now_ns >= node->locals_next_ns)
        check_locals(node, now_ns);
    nat_reach_tick(node->reach, now_ns);
    if (node->portmap_running)
        nat_portmap_tick(node->portmap, now_ns);
}

uint64_t own_deadline_ns(const struct node *node)
{
    const uint64_t deadlines[] = {node->locals_next_ns, nat_reach_deadline_ns(node->reach),
                                  node->portmap_running ? nat_portmap_deadline_ns(node->portmap)
                                                        : UINT64_MAX};
    uint64_t first = UINT64_MAX;
    for (size_t i = 0; i < sizeof deadlines / sizeof deadlines[0]; i++)
        first = deadlines[i] < first ? deadlines[i] : first;
    return first;
}

/* ---- LAN ---- */

/* The LAN may announce ever new nodes; the DHT keeps its seeds, of which there are few, for good. */
static void lan_contact(struct node *node, uint64_t now_ns, const struct dht_contact *contact)
{
    size_t at = 0;
    while (at < node->lan_contact_count && !(id_equal(&node->lan_contacts[at].id, &contact->id) &&
                                             net_addr_equal(&node->lan_contacts[at].addr, &contact->addr)))
        at++;
    if (at == NODE_LAN_CONTACTS)
        return;
    node->lan_contacts[at] = *contact;
    node->lan_contact_count += at == node->lan_contact_count;
    int result = dht_bootstrap(node->dht, now_ns, contact);
    (void)result; /* ERR_FULL: there are seeds enough */
}

static void lan_found(void *user, const struct net_uv_lan_peer *found)
{
    struct node *node = user;
    uint64_t now_ns = node_now_ns();
    struct node_peer *peer = peers_find(node, &found->id);
    for (size_t i = 0; i < found->addr_count; i++) {
        if (peer != NULL)
            peers_add_addr(node, peer, &found->addrs[i]);
        struct dht_contact contact = {.id = found->id, .addr = found->addrs[i]};
        lan_contact(node, now_ns, &contact);
    }
    node_pump(node, now_ns);
}

static void lan_state(void *user, bool running, const char *reason)
{
    struct node *node = user;
    (void)snprintf(node->lan_reason, sizeof node->lan_reason, "%s", running ? "" : reason);
    if (!running)
        node_info(node, TRACE_LEVEL_DEBUG, "LAN discovery does not run: %s", reason);
}

static void open_lan(struct node *node)
{
    char helper[PORTMAP_THREAD_PATH_SIZE];
    struct net_uv_lan_config config = {.self = node->identity.id,
                                       .network = node->network.id,
                                       .port = net_uv_socket_port(node->socket),
                                       .helper = helper,
                                       .on_found = lan_found,
                                       .on_state = lan_state,
                                       .user = node};
    (void)snprintf(node->lan_reason, sizeof node->lan_reason, "switched off");
    if (!node->config.lan)
        return;
    (void)snprintf(node->lan_reason, sizeof node->lan_reason, "the program dunlin-mdns was not found");
    if (portmap_thread_find_helper("dunlin-mdns", helper) < 0)
        return;
    int result = net_uv_lan_open(&node->lan, &node->loop, &config);
    (void)snprintf(node->lan_reason, sizeof node->lan_reason, "%s",
                   result < 0 ? err_text(result) : "starting");
}

/* ---- life ---- */

static int open_reach(struct node *node, uint64_t now_ns)
{
    struct nat_reach_config config = nat_reach_config_default();
    config.self = node->identity.id;
    config.rng = node->rng;
    config.trace = node->trace;
    config.agree = 2; /* small swarms have few helpers; a wrong verdict costs a relay's help, not safety */
    node->reach_block = allocator_get(&node->alloc, 1, nat_reach_size(&config));
    if (node->reach_block == NULL)
        return ERR_NO_MEMORY;
    node->reach = nat_reach_init(node->reach_block, &config, now_ns);
    return ERR_OK;
}

static int open_relays(struct node *node, uint64_t now_ns)
{
    struct nat_relay_config server = nat_relay_config_default();
    server.self = node->identity.id;
    server.rng = node->rng;
    server.trace = node->trace;
    server.client_rate = node->config.relay_client_bytes_s;
    server.client_volume = node->config.relay_client_volume;
    server.total_rate = node->config.relay_bytes_s;
    struct nat_relay_client_config client = nat_relay_client_config_default();
    client.self = node->identity.id;
    client.rng = node->rng;
    client.trace = node->trace;
    client.wanted = 0;
    node->relay_block = allocator_get(&node->alloc, 1, nat_relay_size(&server));
    node->relay_client_block = allocator_get(&node->alloc, 1, nat_relay_client_size(&client));
    if (node->relay_block == NULL || node->relay_client_block == NULL)
        return ERR_NO_MEMORY;
    node->relay = nat_relay_init(node->relay_block, &server, now_ns);
    node->relay_client = nat_relay_client_init(node->relay_client_block, &client);
    return ERR_OK;
}

static int open_punch(struct node *node)
{
    struct nat_punch_config config = nat_punch_config_default();
    config.self = node->identity.id;
    config.rng = node->rng;
    config.trace = node->trace;
    node->punch_block = allocator_get(&node->alloc, 1, nat_punch_size(&config));
    if (node->punch_block == NULL)
        return ERR_NO_MEMORY;
    node->punch = nat_punch_init(node->punch_block, &config);
    return ERR_OK;
}

static int open_portmap(struct node *node)
{
    char helper[PORTMAP_THREAD_PATH_SIZE];
    struct nat_portmap_config config = nat_portmap_config_default();
    struct portmap_thread_config thread = {.upnp_helper = NULL};
    config.rng = node->rng;
    config.port = net_uv_socket_port(node->socket);
    config.tcp = node->tcp != NULL && net_uv_tcp_port(node->tcp) == config.port;
    node->portmap_block = allocator_get(&node->alloc, 1, sizeof *node->portmap);
    if (node->portmap_block == NULL)
        return ERR_NO_MEMORY;
    node->portmap = node->portmap_block;
    nat_portmap_init(node->portmap, &config);
    if (!node->config.port_mapping)
        return ERR_OK;
    if (portmap_thread_find_helper("dunlin-upnp", helper) == ERR_OK)
        thread.upnp_helper = helper;
    int result = portmap_thread_start(&node->portmap_thread, &node->loop, &thread, on_portmap_result, node);
    if (result < 0)
        node_info(node, TRACE_LEVEL_WARN, "port mapping does not run: %s", err_text(result));
    return ERR_OK;
}

int own_open(struct node *node, uint64_t now_ns, char why[NODE_ERROR_SIZE])
{
    int result = open_reach(node, now_ns);
    if (result == ERR_OK)
        result = open_relays(node, now_ns);
    if (result == ERR_OK)
        result = open_punch(node);
    if (result == ERR_OK)
        result = open_portmap(node);
    if (result < 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "parts that get through NATs: %s", err_text(result));
        return result;
    }
    open_lan(node);
    node->local_count = read_locals(node, node->locals);
    (void)read_sources(node);
    node->locals_next_ns = now_ns + LOCALS_S * NODE_SECOND_NS;
    result = net_uv_watch_open(&node->watch, &node->loop, on_locals, node);
    if (result < 0)
        node_info(node, TRACE_LEVEL_DEBUG, "interface addresses are polled: %s", err_text(result));
    nat_reach_locals(node->reach, now_ns, node->locals, node->local_count);
    own_changed(node, now_ns);
    return ERR_OK;
}

bool own_ending(struct node *node, uint64_t now_ns)
{
    if (!node->portmap_running || node->portmap_thread == NULL)
        return false;
    if (!node->portmap_ended) {
        node->portmap_ended = true;
        nat_portmap_stop(node->portmap, now_ns);
    }
    return !nat_portmap_idle(node->portmap);
}

void own_close(struct node *node)
{
    net_uv_lan_close(node->lan);
    net_uv_watch_close(node->watch);
    portmap_thread_stop(node->portmap_thread);
    allocator_release(&node->alloc, node->portmap_block);
    allocator_release(&node->alloc, node->punch_block);
    allocator_release(&node->alloc, node->relay_client_block);
    allocator_release(&node->alloc, node->relay_block);
    allocator_release(&node->alloc, node->reach_block);
    node->lan = NULL;
    node->watch = NULL;
    node->portmap_thread = NULL;
}
