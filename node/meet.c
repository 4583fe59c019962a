/* Two nodes meet that cannot simply dial each other: relay sessions first, then a hole through both NATs.
 *
 * With one wanted peer, from nothing to the best route there is:
 *
 *     no route --record names relays--> session through the first --> QUIC stands, relayed
 *                                                                        | nat/punch, over that route
 *     direct (a session stays as a standby) <----------- hole -----------+
 *                                                                        | no hole
 *     relayed, a second session through another relay stands by <--------+  (punched again later)
 *
 * Sessions that end are replaced while the connection is in use, so that a route that dies has a successor
 * that answers already.  nat/path chooses among all of them; here is only carried out what it and the two
 * cores say. */
#include <string.h>

#include "node/internal.h"

enum {
    RESET_AFTER_MS = 50, /* least wait after a change from a route that still works */
    PUNCH_LATER_S = 30,
    SHAPE_BELOW = 50, /* QUIC keeps a fiftieth below what a relay grants */
    BUSY_BYTES = 4096,
    STANDBY_IDLE_S = 600,    /* a session beside a direct route of a connection that moves little */
    BUSY_LATELY_S = 120,     /* a connection that moved much since then is worth a standby */
    SESSION_FRESH_MS = 2000, /* a new session may take so long to bring its first answer */
    SHUN_MS = 30000,         /* a relay that fell silent is asked last for so long */
};

#define MS(x) ((uint64_t)(x)*UINT64_C(1000000))

static bool is_direct(enum nat_route_kind kind)
{
    return kind != NAT_ROUTE_NONE && kind != NAT_ROUTE_RELAYED && kind != NAT_ROUTE_TCP;
}

/* ---- relay sessions ---- */

static size_t session_slot(const struct node_peer *peer, uint32_t token)
{
    size_t i = 0;
    while (i < NODE_PEER_SESSIONS_MAX && peer->sessions[i] != token)
        i++;
    return i;
}

/* The peer holds a reservation on this very node: where it keeps its NAT open for us. */
static void offer_leg(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    struct net_addr leg;
    if (nat_relay_addr(node->relay, now_ns, &peer->id, &leg) < 0)
        return;
    enum nat_route_kind kind = net_via_is_tcp(leg.via) ? NAT_ROUTE_TCP : NAT_ROUTE_PUNCHED;
    if (nat_path_peer_add(node->path, now_ns, &peer->id) == ERR_OK) {
        int result = nat_path_candidate_add(node->path, now_ns, &peer->id, &leg, kind);
        (void)result; /* ERR_FULL: it has better ones */
    }
}

static void close_session(struct node *node, struct node_peer *peer, size_t slot, uint64_t now_ns)
{
    if (peer->sessions[slot] == 0)
        return;
    nat_relay_client_close(node->relay_client, now_ns, peer->sessions[slot]);
    if (peer->session_vias[slot] != 0)
        nat_path_via_closed(node->path, now_ns, peer->session_vias[slot]);
    peer->sessions[slot] = 0;
    peer->session_vias[slot] = 0;
}

/* It carried a session with this peer, or was to, and fell silent not long ago. */
static bool is_shunned(const struct node_peer *peer, const struct id *relay, uint64_t now_ns)
{
    return now_ns < peer->shun_until_ns && id_equal(&peer->shunned, relay);
}

/* One more session through a relay of the peer's, of those that are shunned or of the others. */
static bool open_among(struct node *node, struct node_peer *peer, uint64_t now_ns, bool shunned)
{
    size_t slot = session_slot(peer, 0);
    for (size_t i = 0; i < peer->relay_count && slot < NODE_PEER_SESSIONS_MAX; i++) {
        const struct nat_relay_place *at = &peer->relays[(peer->relay_turn + i) % peer->relay_count];
        uint32_t token;
        if (is_shunned(peer, &at->id, now_ns) != shunned)
            continue;
        if (id_equal(&at->id, &node->identity.id)) {
            offer_leg(node, peer, now_ns);
            continue;
        }
        if (nat_relay_client_open(node->relay_client, now_ns, &peer->id, &at->id, &at->addr, &token) < 0)
            continue;
        attempts_note(&node->attempts, now_ns, &peer->id, ATTEMPT_RELAY_OPEN, &at->addr, ERR_OK);
        peer->sessions[slot] = token;
        peer->session_vias[slot] = 0;
        peer->relay_turn += i + 1;
        return true;
    }
    return false;
}

/* Opens one more session to the peer through a relay of its that none goes through yet; false: there is none.
 */
static bool open_session(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    return open_among(node, peer, now_ns, false) || open_among(node, peer, now_ns, true);
}

static bool busy_lately(const struct node_peer *peer, uint64_t now_ns)
{
    return peer->busy_ns != 0 && now_ns < peer->busy_ns + BUSY_LATELY_S * NODE_SECOND_NS;
}

uint64_t meet_moving(struct node_peer *peer, uint64_t now_ns, const struct quic_peer_info *info)
{
    uint64_t came = info->wire_received > peer->received ? info->wire_received - peer->received : 0;
    uint64_t moving = came > info->bytes_in_flight ? came : info->bytes_in_flight;
    peer->received = info->wire_received;
    if (moving > BUSY_BYTES)
        peer->busy_ns = now_ns;
    return moving;
}

static size_t session_count(const struct node_peer *peer)
{
    size_t count = 0;
    for (size_t i = 0; i < NODE_PEER_SESSIONS_MAX; i++)
        count += peer->sessions[i] != 0;
    return count;
}

/* How many sessions a connected peer is to have. */
static size_t sessions_wanted(const struct node_peer *peer, uint64_t now_ns)
{
    switch (peer->kind) {
    case NAT_ROUTE_NONE:
        return NODE_PEER_SESSIONS_MAX;
    case NAT_ROUTE_RELAYED:
        return peer->second_relay || busy_lately(peer, now_ns) ? 2 : 1;
    case NAT_ROUTE_TCP:
    case NAT_ROUTE_LAN:
        break;
    case NAT_ROUTE_DIRECT6:
    case NAT_ROUTE_DIRECT4:
    case NAT_ROUTE_MAPPED:
    case NAT_ROUTE_PUNCHED:
        return busy_lately(peer, now_ns) ? 1 : 0;
    }
    return 0;
}

static bool wants_session(const struct node_peer *peer, uint64_t now_ns)
{
    return peer->connected && peer->relay_count > 0 && session_count(peer) < sessions_wanted(peer, now_ns);
}

bool meet_wants_record(const struct node_peer *peer)
{
    return peer->connected && (peer->kind == NAT_ROUTE_NONE || peer->record_old);
}

void meet_seek(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    if (peer->relay_count == 0 || !seek_due(&peer->seek, now_ns))
        return;
    seek_opened(&peer->seek, now_ns, false);
    /* A relay may invent sessions with anybody: those that lead nowhere may not keep out the one that does.
     */
    for (size_t i = 0; i < NODE_PEER_SESSIONS_MAX && session_slot(peer, 0) == NODE_PEER_SESSIONS_MAX; i++) {
        if (peer->session_vias[i] != 0 && now_ns >= peer->session_ups[i] + MS(SEEK_USELESS_MS))
            close_session(node, peer, i, now_ns);
    }
    (void)open_session(node, peer, now_ns);
}

void meet_record(struct node *node, struct node_peer *peer, struct bytes extra)
{
    struct nat_relay_place places[NAT_RELAY_EXTRA_RELAYS];
    int count = nat_relay_extra_read(extra, places);
    if (count <= 0)
        return;
    bool same = peer->relay_count == (size_t)count;
    for (size_t i = 0; i < (size_t)count && same; i++)
        same = id_equal(&peer->relays[i].id, &places[i].id) &&
               net_addr_equal(&peer->relays[i].addr, &places[i].addr);
    if (!same)
        seek_hurry(&peer->seek, node_now_ns());
    memcpy(peer->relays, places, sizeof peer->relays);
    peer->relay_count = (size_t)count;
    if (peer->record_old)
        seek_hurry(&peer->seek, node_now_ns());
    peer->record_old = false;
    if (!peer->connected)
        meet_seek(node, peer, node_now_ns());
}

static void session_up(struct node *node, uint64_t now_ns, const struct nat_relay_client_event *event)
{
    struct node_peer *peer = peers_find(node, &event->peer);
    size_t slot = peer == NULL ? NODE_PEER_SESSIONS_MAX : session_slot(peer, event->token);
    if (peer == NULL || slot == NODE_PEER_SESSIONS_MAX) {
        nat_relay_client_close(node->relay_client, now_ns, event->token);
        return;
    }
    attempts_note(&node->attempts, now_ns, &peer->id, ATTEMPT_RELAY_UP, &event->route, ERR_OK);
    peer->session_vias[slot] = event->route.via;
    peer->session_rates[slot] = event->rate;
    if (event->seen.family != NET_FAMILY_NONE)
        peer->seen = event->seen;
    peer->session_ups[slot] = now_ns;
    seek_up(&peer->seek);
    int result = nat_path_peer_add(node->path, now_ns, &peer->id);
    if (result == ERR_OK)
        result = nat_path_candidate_add(node->path, now_ns, &peer->id, &event->route, NAT_ROUTE_RELAYED);
    if (result < 0)
        close_session(node, peer, slot, now_ns);
}

/* Nothing comes through the session: the peer, which asks for another, has lost it. */
static bool is_stale(const struct node *node, const struct node_peer *peer, size_t slot, uint64_t now_ns)
{
    bool is_fresh = now_ns < peer->session_ups[slot] + MS(SESSION_FRESH_MS);
    struct nat_path_info info[NAT_PATH_CANDIDATES_MAX];
    int count = nat_path_candidates(node->path, &peer->id, info, NAT_PATH_CANDIDATES_MAX);
    if (peer->session_vias[slot] == 0)
        return false; /* on its way */
    for (int i = 0; i < count; i++) {
        if (info[i].addr.via != peer->session_vias[slot])
            continue;
        bool untried = info[i].state == NAT_CANDIDATE || info[i].state == NAT_PROBING; /* perhaps again */
        return info[i].state == NAT_DEAD || (untried && !is_fresh);
    }
    return true;
}

/* A free slot for a session that the peer wants, if need be instead of one that the peer has lost. */
static size_t slot_for_offer(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    for (size_t i = 0; i < NODE_PEER_SESSIONS_MAX && session_count(peer) == NODE_PEER_SESSIONS_MAX; i++) {
        if (is_stale(node, peer, i, now_ns))
            close_session(node, peer, i, now_ns);
    }
    return session_slot(peer, 0);
}

static void session_offered(struct node *node, uint64_t now_ns, const struct nat_relay_client_event *event)
{
    struct node_peer *peer = peers_admit(node, now_ns, &event->peer);
    size_t slot = peer == NULL ? NODE_PEER_SESSIONS_MAX : slot_for_offer(node, peer, now_ns);
    attempts_note(&node->attempts, now_ns, &event->peer, ATTEMPT_RELAY_OFFERED, &event->relay_addr, ERR_OK);
    if (slot < NODE_PEER_SESSIONS_MAX &&
        nat_relay_client_accept(node->relay_client, now_ns, event->token) == ERR_OK) {
        peer->sessions[slot] = event->token;
        peer->session_vias[slot] = 0;
        return;
    }
    nat_relay_client_decline(node->relay_client, now_ns, event->token);
}

static void session_over(struct node *node, uint64_t now_ns, const struct nat_relay_client_event *event)
{
    struct node_peer *peer = peers_find(node, &event->peer);
    size_t slot = peer == NULL ? NODE_PEER_SESSIONS_MAX : session_slot(peer, event->token);
    char text[ID_TEXT_SIZE];
    id_format(&event->peer, text);
    text[10] = '\0';
    /* What the relay's owner has decided is for this node's owner to know. */
    bool refused = event->reason == NAT_RELAY_BY_QUOTA || event->reason == NAT_RELAY_BY_OFF;
    node_info(node, refused ? TRACE_LEVEL_WARN : TRACE_LEVEL_DEBUG, "relay session with %s %s: %s", text,
              event->type == NAT_RELAY_SESSION_FAILED ? "does not come about" : "has ended",
              nat_relay_reason_text(event->reason));
    attempts_note(&node->attempts, now_ns, &event->peer,
                  event->type == NAT_RELAY_SESSION_FAILED ? ATTEMPT_RELAY_FAILED : ATTEMPT_RELAY_DOWN,
                  &event->relay_addr, (int)event->reason);
    if (event->type == NAT_RELAY_SESSION_DOWN)
        nat_path_via_closed(node->path, now_ns, event->route.via);
    if (slot < NODE_PEER_SESSIONS_MAX) {
        peer->sessions[slot] = 0;
        peer->session_vias[slot] = 0;
        if (event->reason == NAT_RELAY_BY_LOST) {
            peer->shunned = event->relay;
            peer->shun_until_ns = now_ns + MS(SHUN_MS);
        }
        if (event->type == NAT_RELAY_SESSION_DOWN)
            seek_hurry(&peer->seek, now_ns);
        else
            seek_failed(&peer->seek, now_ns, !event->answers);
        if (event->reason == NAT_RELAY_BY_NO_RESERVATION)
            peer->record_old = true;
    }
}

static void apply_rate(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    uint64_t rate = 0;
    for (size_t i = 0; i < NODE_PEER_SESSIONS_MAX; i++) {
        if (net_via_is_relay(peer->route.via) && peer->session_vias[i] == peer->route.via)
            rate = peer->session_rates[i];
    }
    /* The relay counts frame heads too, and drops what is over. */
    quic_path_shape(node->quic, now_ns, &peer->id, rate - rate / SHAPE_BELOW);
    quic_path_cap(node->quic, &peer->id,
                  peer->kind == NAT_ROUTE_RELAYED ? QUIC_DATAGRAM_MIN : QUIC_DATAGRAM_MAX);
}

void meet_connected(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    apply_rate(node, peer, now_ns);
}

static void session_quota(struct node *node, uint64_t now_ns, const struct nat_relay_client_event *event)
{
    struct node_peer *peer = peers_find(node, &event->peer);
    size_t slot = peer == NULL ? NODE_PEER_SESSIONS_MAX : session_slot(peer, event->token);
    if (slot == NODE_PEER_SESSIONS_MAX)
        return;
    peer->session_rates[slot] = event->rate;
    apply_rate(node, peer, now_ns);
}

static void relay_event(struct node *node, uint64_t now_ns, const struct nat_relay_client_event *event)
{
    char text[ID_TEXT_SIZE];
    switch (event->type) {
    case NAT_RELAY_HELD:
    case NAT_RELAY_LOST:
        id_format(&event->relay, text);
        text[10] = '\0';
        if (event->type == NAT_RELAY_HELD)
            node_info(node, TRACE_LEVEL_INFO, "relay %s keeps a place for this node", text);
        else if (event->reason != NAT_RELAY_BY_DROPPED)
            node_info(node, TRACE_LEVEL_WARN, "relay %s is lost: %s", text,
                      nat_relay_reason_text(event->reason));
        own_changed(node, now_ns);
        break;
    case NAT_RELAY_SESSION_OFFERED:
        session_offered(node, now_ns, event);
        break;
    case NAT_RELAY_SESSION_UP:
        session_up(node, now_ns, event);
        break;
    case NAT_RELAY_SESSION_FAILED:
    case NAT_RELAY_SESSION_DOWN:
        session_over(node, now_ns, event);
        break;
    case NAT_RELAY_SESSION_QUOTA:
        session_quota(node, now_ns, event);
        break;
    case NAT_RELAY_SEEN:
        if (event->relay_addr.via == NET_VIA_MAIN && !node->udp_blocked) {
            int result = nat_observed_report(&node->observed, now_ns, &event->relay_addr, &event->seen);
            (void)result; /* a report that is not to be believed is ignored */
            nat_reach_seen(node->reach, now_ns, &event->relay_addr, &event->seen);
        }
        nat_path_relay_moved(node->path, now_ns); /* the proof of our new address goes out before */
        break;
    }
}

/* ---- punching ---- */

static enum nat_route_kind kind_of_source(enum nat_punch_source source)
{
    switch (source) {
    case NAT_PUNCH_LAN:
        return NAT_ROUTE_LAN;
    case NAT_PUNCH_V6:
        return NAT_ROUTE_DIRECT6;
    case NAT_PUNCH_V4:
        return NAT_ROUTE_DIRECT4;
    case NAT_PUNCH_MAPPED:
        return NAT_ROUTE_MAPPED;
    case NAT_PUNCH_OBSERVED:
    case NAT_PUNCH_FRESH:
    case NAT_PUNCH_PUNCHED:
        break;
    }
    return NAT_ROUTE_PUNCHED;
}

static void open_sockets(struct node *node, uint64_t now_ns, const struct nat_punch_event *event)
{
    uint16_t vias[NAT_PUNCH_SOCKETS_MAX];
    size_t count = 0;
    while (count < event->count && count < NAT_PUNCH_SOCKETS_MAX &&
           net_uv_aux_open(node->aux, NET_FAMILY_V4, &vias[count]) == ERR_OK)
        count++;
    if (nat_punch_sockets(node->punch, now_ns, event->token, vias, count) == ERR_OK)
        return;
    for (size_t i = 0; i < count; i++)
        net_uv_aux_release(node->aux, vias[i]);
}

static void want_survey(struct node *node, uint64_t now_ns, const struct id *id)
{
    struct node_peer *peer = peers_find(node, id);
    if (peer != NULL && nat_reach_survey(node->reach, now_ns) == ERR_OK) {
        peer->survey_waits = true;
        return;
    }
    own_punch_profile(node); /* fresh enough, or nobody to ask */
    nat_punch_survey_done(node->punch, now_ns, id);
}

/* How long our NAT's mappings last however busy they are; 0: not known to end. */
static uint64_t own_life_ns(const struct node *node)
{
    return nat_reach_profile(node->reach, NET_FAMILY_V4).life_ns;
}

static void set_life(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    uint64_t life_ns = own_life_ns(node);
    if (life_ns == peer->life_ns)
        return; /* what nat/path has learnt of the other side's stays */
    peer->life_ns = life_ns;
    int result = nat_path_set_life(node->path, now_ns, &peer->id, life_ns);
    (void)result; /* ERR_NOT_FOUND: let go meanwhile */
}

void meet_survey_done(struct node *node, uint64_t now_ns)
{
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        struct node_peer *peer = &node->peers[i];
        if (peer->used && peer->survey_waits) {
            peer->survey_waits = false;
            nat_punch_survey_done(node->punch, now_ns, &peer->id);
        }
        if (peer->used && is_direct(peer->kind))
            set_life(node, peer, now_ns);
    }
}

static void round_over(struct node *node, uint64_t now_ns, const struct nat_punch_event *event)
{
    struct node_peer *peer = peers_find(node, &event->peer);
    char text[ID_TEXT_SIZE];
    id_format(&event->peer, text);
    text[10] = '\0';
    node_info(node, TRACE_LEVEL_INFO, "hole punching with %s by %s: %s after %llu ms, %u probes", text,
              nat_punch_strategy_text(event->strategy), nat_punch_reason_text(event->reason),
              (unsigned long long)(event->elapsed_ns / 1000000), (unsigned)event->probes_sent);
    if (peer == NULL)
        return;
    uint64_t ready_ns = nat_punch_ready_ns(node->punch, &event->peer);
    peer->punch_next_ns = ready_ns > now_ns ? ready_ns : now_ns + PUNCH_LATER_S * NODE_SECOND_NS;
    if (peer->ageing)
        peer->punch_next_ns = now_ns + NODE_SECOND_NS;
    if (!event->ok)
        peer->second_relay = true;
}

static void punch_event(struct node *node, uint64_t now_ns, const struct nat_punch_event *event)
{
    int result;
    switch (event->type) {
    case NAT_PUNCH_CANDIDATE:
        /* Nobody would ever take a peer out of the path layer that was let go meanwhile. */
        result = peers_find(node, &event->peer) == NULL ? ERR_NOT_FOUND
                                                        : nat_path_peer_add(node->path, now_ns, &event->peer);
        if (result == ERR_OK)
            result = nat_path_candidate_add(node->path, now_ns, &event->peer, &event->addr,
                                            kind_of_source(event->source));
        if (result < 0 && net_via_is_aux(event->addr.via))
            nat_punch_release(node->punch, event->addr.via);
        break;
    case NAT_PUNCH_PUNCH:
        result = nat_path_punch(node->path, now_ns, &event->peer);
        (void)result; /* ERR_NOT_FOUND: let go meanwhile */
        break;
    case NAT_PUNCH_SOCKETS_WANTED:
        open_sockets(node, now_ns, event);
        break;
    case NAT_PUNCH_SOCKET_RELEASE:
        nat_path_via_closed(node->path, now_ns, event->addr.via);
        net_uv_aux_release(node->aux, event->addr.via);
        break;
    case NAT_PUNCH_SURVEY_WANTED:
        want_survey(node, now_ns, &event->peer);
        break;
    case NAT_PUNCH_RESULT:
        round_over(node, now_ns, event);
        break;
    }
}

/* A round with a peer that is only reached by detours; ageing: before its mapping ends. */
static void punch(struct node *node, struct node_peer *peer, uint64_t now_ns, bool ageing)
{
    int result = nat_punch_start(node->punch, now_ns, &peer->id, ageing);
    attempts_note(&node->attempts, now_ns, &peer->id,
                  result == ERR_OK ? ATTEMPT_PUNCH_START : ATTEMPT_PUNCH_HELD, NULL, result);
    uint64_t ready_ns = nat_punch_ready_ns(node->punch, &peer->id);
    peer->punch_next_ns = now_ns + NODE_SECOND_NS;
    if (result == ERR_RATE && ready_ns > peer->punch_next_ns)
        peer->punch_next_ns = ready_ns;
}

void meet_own_addrs(struct node *node, uint64_t now_ns)
{
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        if (node->peers[i].used && !is_direct(node->peers[i].kind))
            node->peers[i].punch_next_ns = now_ns;
    }
}

/* ---- routes ---- */

static void start_afresh(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    peer->reset_ns = 0;
    quic_path_changed(node->quic, now_ns, &peer->id,
                      peer->kind == NAT_ROUTE_RELAYED ? QUIC_DATAGRAM_MIN : QUIC_DATAGRAM_MAX);
}

static uint64_t reset_time(const struct nat_path_event *event, uint64_t now_ns)
{
    uint64_t wait_ns = event->rtt_ns > event->old_rtt_ns ? event->rtt_ns : event->old_rtt_ns;
    if (event->type != NAT_PATH_ROUTE_CHANGED || !event->old_works)
        return now_ns;
    return now_ns + (wait_ns > MS(RESET_AFTER_MS) ? wait_ns : MS(RESET_AFTER_MS));
}

void meet_route(struct node *node, struct node_peer *peer, uint64_t now_ns,
                const struct nat_path_event *event)
{
    if (event->type == NAT_PATH_ROUTE_DEAD) {
        peer->kind = NAT_ROUTE_NONE;
        seek_hurry(&peer->seek, now_ns);
        peer->lookup_next_ns = now_ns;
        nat_punch_forget(node->punch, now_ns, &peer->id);
        return;
    }
    peer->ageing = false;
    peer->kind = event->kind;
    peer->route = event->addr;
    apply_rate(node, peer, now_ns);
    peer->reset_ns = reset_time(event, now_ns);
    if (peer->reset_ns == now_ns)
        start_afresh(node, peer, now_ns);
    int result = nat_punch_signal(node->punch, now_ns, &peer->id, &event->addr, event->rtt_ns);
    (void)result; /* ERR_FULL: 512 others are signalled to: this one stays where it is */
    if (peer->seen.family != NET_FAMILY_NONE)
        nat_punch_seen(node->punch, &peer->id, &peer->seen);
    if (is_direct(peer->kind)) {
        set_life(node, peer, now_ns);
        peer->second_relay = false;
        return;
    }
    if (peer->punch_next_ns > now_ns + NODE_SECOND_NS)
        peer->punch_next_ns = now_ns; /* a direct route is lost: seek another one at once */
    seek_hurry(&peer->seek, now_ns);  /* and a second relay, in case this one goes too */
}

void meet_forget(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    for (size_t i = 0; i < NODE_PEER_SESSIONS_MAX; i++)
        close_session(node, peer, i, now_ns);
    nat_punch_forget(node->punch, now_ns, &peer->id);
}

/* ---- inputs, time ---- */

int meet_recv(struct node *node, uint64_t now_ns, const struct net_message *message)
{
    if (message->kind >= NET_KIND_RELAY_FIRST && message->kind <= NET_KIND_RELAY_LAST)
        return nat_relay_serves(message->kind) ? nat_relay_recv(node->relay, now_ns, message)
                                               : nat_relay_client_recv(node->relay_client, now_ns, message);
    if (message->kind >= NET_KIND_PUNCH_FIRST && message->kind <= NET_KIND_PUNCH_LAST)
        return nat_punch_recv(node->punch, now_ns, message);
    ASSERT(message->kind >= NET_KIND_REACH_FIRST && message->kind <= NET_KIND_REACH_LAST);
    return nat_reach_recv(node->reach, now_ns, message);
}

bool meet_drain(struct node *node, uint64_t now_ns)
{
    struct nat_relay_client_event relayed;
    struct nat_relay_event served;
    struct nat_punch_event punched;
    struct net_message message;
    bool any = false;
    while (nat_relay_client_poll_event(node->relay_client, &relayed)) {
        relay_event(node, now_ns, &relayed);
        any = true;
    }
    while (nat_relay_poll_event(node->relay, &served))
        any = true; /* what is served is asked for by nat_relay_nodes; the log would be flooded */
    while (nat_punch_poll_event(node->punch, &punched)) {
        punch_event(node, now_ns, &punched);
        any = true;
    }
    while (nat_relay_client_poll_send(node->relay_client, now_ns, &message) ||
           nat_relay_poll_send(node->relay, now_ns, &message) ||
           nat_punch_poll_send(node->punch, now_ns, &message)) {
        wire_send(node, now_ns, &message);
        any = true;
    }
    return any;
}

static bool wants_punch(const struct node *node, const struct node_peer *peer)
{
    bool detour = peer->kind == NAT_ROUTE_RELAYED || peer->kind == NAT_ROUTE_TCP;
    return peer->connected && !node->udp_blocked && (detour || (peer->ageing && is_direct(peer->kind)));
}

/* A direct way answers, and only the hold-down of nat/path after several deaths keeps it from being used. */
static bool hole_waits(const struct node *node, const struct node_peer *peer)
{
    struct nat_path_info info[NAT_PATH_CANDIDATES_MAX];
    int count = nat_path_candidates(node->path, &peer->id, info, NAT_PATH_CANDIDATES_MAX);
    for (int i = 0; i < count; i++) {
        if (info[i].state == NAT_ANSWERING && is_direct(info[i].kind))
            return true;
    }
    return false;
}

static void seek_hole(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    bool short_lived = own_life_ns(node) > 0;
    if (!is_direct(peer->kind) && !short_lived && hole_waits(node, peer))
        peer->punch_next_ns = now_ns + NODE_SECOND_NS;
    else
        punch(node, peer, now_ns, peer->ageing || short_lived);
}

/* A reserve that nothing needs takes a relay's place from somebody who does. */
static void close_idle(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    if (!is_direct(peer->kind) || busy_lately(peer, now_ns))
        return;
    for (size_t i = 0; i < NODE_PEER_SESSIONS_MAX; i++) {
        if (peer->session_vias[i] != 0 && now_ns >= peer->session_ups[i] + STANDBY_IDLE_S * NODE_SECOND_NS)
            close_session(node, peer, i, now_ns);
    }
}

static void tick_peer(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    close_idle(node, peer, now_ns);
    if (peer->reset_ns != 0 && now_ns >= peer->reset_ns)
        start_afresh(node, peer, now_ns);
    if (wants_session(peer, now_ns) && seek_due(&peer->seek, now_ns)) {
        seek_opened(&peer->seek, now_ns, peer->kind != NAT_ROUTE_NONE);
        (void)open_session(node, peer, now_ns);
    }
    if (wants_punch(node, peer) && now_ns >= peer->punch_next_ns)
        seek_hole(node, peer, now_ns);
}

/* While data goes by mappings that a NAT gives out to all alike, it is seen to how long they live. */
static bool wants_watch(const struct node *node, uint64_t now_ns)
{
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        const struct node_peer *peer = &node->peers[i];
        if (peer->used && peer->connected && is_direct(peer->kind) && peer->kind != NAT_ROUTE_LAN &&
            busy_lately(peer, now_ns))
            return node->client;
    }
    return false;
}

void meet_tick(struct node *node, uint64_t now_ns)
{
    nat_relay_tick(node->relay, now_ns);
    nat_relay_client_tick(node->relay_client, now_ns);
    nat_punch_tick(node->punch, now_ns);
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        if (node->peers[i].used)
            tick_peer(node, &node->peers[i], now_ns);
    }
    nat_reach_watch(node->reach, now_ns, wants_watch(node, now_ns));
}

void meet_ageing(struct node *node, struct node_peer *peer, uint64_t now_ns)
{
    peer->ageing = true;
    punch(node, peer, now_ns, true);
}

uint64_t meet_deadline_ns(const struct node *node, uint64_t now_ns)
{
    uint64_t first = nat_relay_deadline_ns(node->relay);
    uint64_t client_ns = nat_relay_client_deadline_ns(node->relay_client);
    uint64_t punch_ns = nat_punch_deadline_ns(node->punch);
    first = client_ns < first ? client_ns : first;
    first = punch_ns < first ? punch_ns : first;
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        const struct node_peer *peer = &node->peers[i];
        if (!peer->used)
            continue;
        if (peer->reset_ns != 0 && peer->reset_ns < first)
            first = peer->reset_ns;
        if (wants_punch(node, peer) && peer->punch_next_ns < first)
            first = peer->punch_next_ns;
        if (wants_session(peer, now_ns) && peer->seek.next_ns < first)
            first = peer->seek.next_ns;
    }
    return first;
}
