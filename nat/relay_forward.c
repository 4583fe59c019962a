/* The fast path: which frame goes where, within which quota. */
#include "nat/relay_internal.h"

/* The sender is who it must be when its frame comes from its proven address.  One that has proven none yet
 * does so by the id: it was sealed to this address, and nobody else can know it. */
static bool from_its_sender(struct nat_relay *relay, const struct relay_session *session, unsigned side,
                            struct relay_node *sender, const struct net_addr *from)
{
    if (net_addr_equal(&sender->addr, from))
        return true;
    if (sender->addr.family != NET_FAMILY_NONE || !net_addr_equal(&session->answer[side], from))
        return false;
    relay_prove(relay, sender, from);
    return true;
}

/* Small frames borrow ahead, so that control passes while bulk is over its rate. */
static bool has_room(struct shaper *shaper, uint64_t now_ns, size_t len)
{
    return (len < NAT_RELAY_SMALL ? shaper_available_control(shaper, now_ns)
                                  : shaper_available(shaper, now_ns)) > 0;
}

static bool within_rates(struct nat_relay *relay, uint64_t now_ns, struct relay_node *sender,
                         struct relay_node *receiver, size_t len)
{
    if (!has_room(&sender->sending, now_ns, len) || !has_room(&receiver->receiving, now_ns, len) ||
        !has_room(&relay->total, now_ns, len)) {
        relay->stats.dropped_rate++;
        sender->dropped_rate++;
        return false;
    }
    shaper_charge(&sender->sending, now_ns, len);
    shaper_charge(&receiver->receiving, now_ns, len);
    shaper_charge(&relay->total, now_ns, len);
    return true;
}

/* The volume left of both covers the frame; else all sessions of whoever is short end. */
static bool within_volume(struct nat_relay *relay, uint64_t now_ns, struct relay_node *sender,
                          struct relay_node *receiver, size_t len)
{
    struct relay_node *const nodes[] = {sender, receiver};
    bool enough = true;
    for (size_t i = 0; i < 2; i++) {
        if (relay_volume_left(relay, now_ns, nodes[i]) >= len)
            continue;
        nodes[i]->volume_used = relay->config.client_volume;
        relay_end_all(relay, now_ns, nodes[i], false, NAT_RELAY_BY_QUOTA);
        enough = false;
    }
    return enough;
}

/* Where the frame goes; NULL: dropped and counted. */
static const struct net_addr *route(struct nat_relay *relay, uint64_t now_ns, const struct net_addr *from,
                                    struct bytes frame)
{
    unsigned side;
    if (!nat_relay_claims(frame)) {
        relay->stats.dropped_session++;
        return NULL;
    }
    struct relay_session *session = relay_session_find(relay, nat_relay_head_read(frame, &side));
    if (session == NULL || session->state != RELAY_OPEN) {
        relay->stats.dropped_session++;
        return NULL;
    }
    struct relay_node *sender = &relay->nodes[session->node[side]];
    struct relay_node *receiver = &relay->nodes[session->node[!side]];
    if (!from_its_sender(relay, session, side, sender, from)) {
        relay->stats.dropped_address++;
        return NULL;
    }
    if (receiver->addr.family == NET_FAMILY_NONE) {
        relay->stats.dropped_unproven++;
        return NULL;
    }
    if (!within_volume(relay, now_ns, sender, receiver, frame.len) ||
        !within_rates(relay, now_ns, sender, receiver, frame.len))
        return NULL;
    sender->volume_used += frame.len;
    receiver->volume_used += frame.len;
    sender->bytes_from += frame.len;
    receiver->bytes_to += frame.len;
    session->bytes[side] += frame.len;
    return &receiver->addr;
}

/* A GSO batch has equal datagrams, and at most a shorter one at its end. */
static bool extends(const struct nat_relay_run *run, const struct bytes datagrams[], size_t at,
                    const struct net_addr *to)
{
    size_t first_len = datagrams[run->first].len;
    return run->first + run->count == at && net_addr_equal(&run->to, to) &&
           datagrams[at - 1].len == first_len && datagrams[at].len <= first_len;
}

size_t nat_relay_forward(struct nat_relay *relay, uint64_t now_ns, const struct net_addr *from,
                         const struct bytes datagrams[], size_t count, struct nat_relay_run runs[],
                         size_t cap)
{
    size_t run_count = 0;
    for (size_t i = 0; i < count && cap > 0; i++) {
        const struct net_addr *to = route(relay, now_ns, from, datagrams[i]);
        if (to == NULL)
            continue;
        struct nat_relay_run *last = run_count > 0 ? &runs[run_count - 1] : NULL;
        if (last != NULL && extends(last, datagrams, i, to)) {
            last->count++;
        } else if (run_count < cap) {
            runs[run_count++] = (struct nat_relay_run){.to = *to, .first = i, .count = 1};
        } else {
            break;
        }
        relay->stats.frames++;
        relay->stats.bytes += datagrams[i].len;
    }
    return run_count;
}
