/* Life of mappings: when does the main socket's outer port change under steady traffic?
 *
 * Some carriers end a mapping 20 to 75 s after it began however busy it is; the next packet then gets another
 * port.  One observer is asked often; when it claims a new port, a second must confirm it, so that no single
 * observer makes punched routes look short-lived. */
#include <string.h>

#include "nat/reach_internal.h"

static const uint64_t brisk_ns = REACH_MS(2000);
static const uint64_t calm_ns = REACH_MS(10000);
static const uint64_t brisk_span_ns = REACH_MS(60000);
static const uint64_t witness_ns = REACH_MS(100);
static const uint64_t answer_ns = REACH_MS(1000);
static const uint64_t interval_max_ns = REACH_MS(600000); /* longer ones are idle time-outs or restarts */

void nat_reach_watch(struct nat_reach *reach, uint64_t now_ns, bool on)
{
    for (size_t family = 0; family < REACH_FAMILIES; family++) {
        struct reach_watch *watch = &reach->watches[family];
        if (watch->on == on)
            continue;
        watch->on = on;
        watch->since_ns = now_ns;
        watch->due_ns = on ? now_ns : REACH_NEVER;
        watch->nonce = 0;
    }
}

/* Only where all destinations share one outer port is a change of it the end of a mapping. */
static bool applies(const struct nat_reach *reach, size_t family)
{
    return reach->profiles[family].mapping == NAT_REACH_MAPPING_INDEPENDENT;
}

static uint64_t period(const struct reach_watch *watch, uint64_t now_ns)
{
    return now_ns - watch->since_ns < brisk_span_ns ? brisk_ns : calm_ns;
}

static void question(struct nat_reach *reach, uint64_t now_ns, struct reach_watch *watch,
                     const struct reach_peer *peer)
{
    struct reach_body body = {.nonce = reach_nonce(reach)};
    if (!reach_queue(reach, now_ns, &peer->id, &peer->addr, REACH_OBSERVE, &body))
        return;
    watch->nonce = body.nonce;
    watch->asked = peer->id;
    watch->asked_at = peer->addr;
    watch->due_ns = now_ns + answer_ns;
    reach->stats.observes_sent++;
}

/* The observer asked last, as long as it answers; another while a rumour waits for its witness. */
static const struct reach_peer *witness(struct nat_reach *reach, size_t family)
{
    struct reach_watch *watch = &reach->watches[family];
    if (watch->rumour != 0)
        return reach_pick(reach, family, &watch->rumour_from, 1, true);
    const struct reach_peer *same =
        watch->asked_at.family == NET_FAMILY_NONE ? NULL : reach_observer_at(reach, &watch->asked_at);
    return same != NULL && same->failures == 0 ? same : reach_pick(reach, family, NULL, 0, false);
}

void reach_watch_tick(struct nat_reach *reach, uint64_t now_ns, size_t family)
{
    struct reach_watch *watch = &reach->watches[family];
    if (!watch->on || now_ns < watch->due_ns)
        return;
    if (watch->nonce != 0) { /* no answer */
        struct reach_peer *peer = reach_observer_at(reach, &watch->asked_at);
        if (peer != NULL && peer->failures < UINT32_MAX)
            peer->failures++;
    }
    watch->nonce = 0;
    watch->due_ns = now_ns + period(watch, now_ns);
    const struct reach_peer *peer = applies(reach, family) ? witness(reach, family) : NULL;
    if (peer != NULL)
        question(reach, now_ns, watch, peer);
    else
        watch->rumour = 0;
}

uint64_t reach_watch_deadline(const struct nat_reach *reach, size_t family)
{
    const struct reach_watch *watch = &reach->watches[family];
    return watch->on ? watch->due_ns : REACH_NEVER;
}

/* The least of the last intervals that resemble each other; 0: the last two do not. */
static uint64_t life_of(const struct reach_watch *watch)
{
    size_t held = watch->interval_count < REACH_INTERVALS ? watch->interval_count : REACH_INTERVALS;
    uint64_t least = REACH_NEVER;
    uint64_t most = 0;
    size_t alike = 0;
    for (size_t back = 1; back <= held; back++) {
        uint64_t interval = watch->intervals_ns[(watch->interval_count - back) % REACH_INTERVALS];
        uint64_t lower = reach_min(least, interval);
        uint64_t upper = interval > most ? interval : most;
        if (upper > lower + lower / 2 + 2 * brisk_ns)
            break; /* older ones are of other times */
        least = lower;
        most = upper;
        alike++;
    }
    return alike >= 2 && least <= interval_max_ns ? least : 0;
}

static void changed(struct nat_reach *reach, uint64_t now_ns, size_t family, uint16_t port)
{
    struct reach_watch *watch = &reach->watches[family];
    struct nat_reach_profile *profile = &reach->profiles[family];
    if (watch->port_ns != 0) {
        uint64_t took_ns = now_ns - watch->port_ns;
        uint64_t slack_ns = watch->on ? period(watch, now_ns) : 0;
        /* Both ends are known up to one question: the shorter reading is the safe one. */
        took_ns = took_ns > 2 * slack_ns ? took_ns - slack_ns : took_ns / 2;
        watch->intervals_ns[watch->interval_count++ % REACH_INTERVALS] = took_ns;
        uint64_t life_ns = life_of(watch);
        reach->profile_tell[family] |= life_ns != profile->life_ns;
        profile->life_ns = life_ns;
    }
    watch->port = port;
    watch->port_ns = now_ns;
    watch->rumour = 0;
    watch->since_ns = now_ns; /* where mappings end, look closely again */
}

/* A new port counts once observers in two networks claim it, or there is only one to ask. */
static void claim(struct nat_reach *reach, uint64_t now_ns, size_t family, const struct net_addr *observer,
                  uint16_t port)
{
    struct reach_watch *watch = &reach->watches[family];
    bool confirmed = watch->rumour == port && !net_addr_same_group(&watch->rumour_from, observer);
    if (confirmed || reach_observer_count(reach, family) < 2) {
        changed(reach, now_ns, family, port);
        return;
    }
    watch->rumour = port;
    watch->rumour_from = *observer;
    if (watch->on && watch->nonce == 0)
        watch->due_ns = reach_min(watch->due_ns, now_ns + witness_ns);
}

void reach_watch_seen(struct nat_reach *reach, uint64_t now_ns, const struct net_addr *observer,
                      const struct net_addr *seen)
{
    size_t family = reach_family_index(seen->family);
    struct reach_watch *watch = &reach->watches[family];
    const struct net_addr *outer = &reach->main_addr[family];
    bool is_ours = outer->family == NET_FAMILY_NONE || reach_same_ip(outer, seen);
    if (net_addr_scope(seen) != NET_SCOPE_GLOBAL || !is_ours || !applies(reach, family))
        return;
    if (watch->port == 0) { /* nothing is known of when this mapping began */
        watch->port = seen->port;
        watch->port_ns = 0;
        watch->ip = *seen;
    }
    if (!reach_same_ip(&watch->ip, seen))
        return;
    if (seen->port == watch->port)
        watch->rumour = 0;
    else
        claim(reach, now_ns, family, observer, seen->port);
}

void reach_watch_moved(struct nat_reach *reach, size_t family)
{
    struct reach_watch *watch = &reach->watches[family];
    watch->port = watch->rumour = 0;
    watch->port_ns = 0;
}

void reach_watch_reset(struct nat_reach *reach, size_t family)
{
    struct reach_watch *watch = &reach->watches[family];
    struct nat_reach_profile *profile = &reach->profiles[family];
    reach_watch_moved(reach, family);
    watch->interval_count = 0;
    reach->profile_tell[family] |= profile->life_ns != 0;
    profile->life_ns = 0;
}

void nat_reach_seen(struct nat_reach *reach, uint64_t now_ns, const struct net_addr *observer,
                    const struct net_addr *seen)
{
    if (observer->via == NET_VIA_MAIN && observer->family == seen->family &&
        net_addr_scope(observer) == NET_SCOPE_GLOBAL)
        reach_watch_seen(reach, now_ns, observer, seen);
}

bool reach_watch_answer(struct nat_reach *reach, uint64_t now_ns, size_t family,
                        const struct net_message *message, const struct reach_body *body)
{
    struct reach_watch *watch = &reach->watches[family];
    if (watch->nonce == 0 || watch->nonce != body->nonce || !id_equal(&watch->asked, &message->peer) ||
        !net_addr_equal(&watch->asked_at, &message->addr))
        return false;
    struct reach_peer *peer = reach_observer_at(reach, &message->addr);
    watch->nonce = 0;
    watch->due_ns = now_ns + period(watch, now_ns);
    reach->stats.observes_answered++;
    if (peer != NULL)
        peer->failures = 0;
    size_t at = ring_push(&reach->seen_ring);
    if (at == RING_NONE)
        reach->stats.dropped_full++;
    else
        reach->seen[at] = (struct reach_seen){.observer = message->addr, .seen = body->addr};
    reach_watch_seen(reach, now_ns, &message->addr, &body->addr);
    return true;
}
