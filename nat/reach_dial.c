/* Are we reachable by strangers?  One helper after the other is asked to try, until enough agree.
 *
 * A probe that arrives from an address never written to proves an open door: no NAT lets it in by accident.
 * That nothing arrives is only what a helper says it tried, so it takes several to conclude that. */
#include <string.h>

#include "nat/reach_internal.h"

static const uint64_t ask_ns = REACH_MS(700);     /* before the question is repeated */
static const uint64_t listen_ns = REACH_MS(2500); /* after a helper said that it has sent */
static const uint64_t helper_wait_ns = REACH_MS(60000);
static const uint64_t stranger_wait_ns = REACH_MS(120000);

enum { ASK_TRIES = 3 };

static struct reach_own *own_find(struct nat_reach *reach, const struct net_addr *addr)
{
    for (size_t i = 0; i < NAT_REACH_ADDRS_MAX; i++) {
        if (reach->own[i].used && net_addr_equal(&reach->own[i].addr, addr))
            return &reach->own[i];
    }
    return NULL;
}

/* The family's summary: the best of its addresses. */
static void summarize(struct nat_reach *reach, size_t family)
{
    struct nat_reach_profile *profile = &reach->profiles[family];
    enum nat_reach_verdict best = NAT_REACH_UNKNOWN;
    for (size_t i = 0; i < NAT_REACH_ADDRS_MAX; i++) {
        const struct reach_own *own = &reach->own[i];
        if (!own->used || reach_family_index(own->addr.family) != family)
            continue;
        if (own->verdict == NAT_REACH_REACHABLE || best == NAT_REACH_UNKNOWN)
            best = own->verdict;
    }
    reach->profile_tell[family] |= best != profile->reachable;
    profile->reachable = best;
}

static void round_start(struct reach_own *own)
{
    own->round = true;
    own->attempt = REACH_ATTEMPT_NONE;
    own->asked_count = 0;
    own->successes = own->failures = own->failures_address = own->known_only = own->wrong_address = 0;
}

int nat_reach_verify(struct nat_reach *reach, uint64_t now_ns, const struct net_addr *addr)
{
    struct reach_own *own = own_find(reach, addr);
    if (net_addr_scope(addr) != NET_SCOPE_GLOBAL || addr->via != NET_VIA_MAIN)
        return ERR_REFUSED;
    for (size_t i = 0; i < NAT_REACH_ADDRS_MAX && own == NULL; i++) {
        if (!reach->own[i].used) {
            own = &reach->own[i];
            *own = (struct reach_own){
                .used = true, .addr = *addr, .verdict = NAT_REACH_UNKNOWN, .why = NAT_REACH_WHY_PENDING};
        }
    }
    if (own == NULL)
        return ERR_FULL;
    if (!own->round)
        own->due_ns = now_ns;
    reach_dial_tick(reach, now_ns, own);
    return ERR_OK;
}

void nat_reach_forget(struct nat_reach *reach, const struct net_addr *addr)
{
    struct reach_own *own = own_find(reach, addr);
    if (own == NULL)
        return;
    own->used = false;
    summarize(reach, reach_family_index(addr->family));
}

/* Not the address of a mapping that our own datagrams made: if anything leads from there to us, it is a port
 * that somebody opened, and what that lets in says nothing of the mappings. */
static bool is_forwarded(const struct nat_reach *reach, const struct reach_own *own)
{
    size_t family = reach_family_index(own->addr.family);
    const struct net_addr *main_addr = &reach->main_addr[family];
    enum nat_reach_mapping mapping = reach->profiles[family].mapping;
    if (main_addr->family != NET_FAMILY_NONE)
        return !net_addr_equal(main_addr, &own->addr);
    return mapping == NAT_REACH_MAPPING_ADDRESS || mapping == NAT_REACH_MAPPING_ADDRESS_PORT;
}

static void conclude(struct nat_reach *reach, uint64_t now_ns, struct reach_own *own,
                     enum nat_reach_verdict verdict, enum nat_reach_why why,
                     enum nat_reach_filtering filtering)
{
    size_t family = reach_family_index(own->addr.family);
    uint64_t wait_ns = reach->config.verify_ns;
    if (why == NAT_REACH_WHY_NO_HELPER || why == NAT_REACH_WHY_ADDRESS)
        wait_ns = reach_min(wait_ns, helper_wait_ns);
    else if (why == NAT_REACH_WHY_NO_STRANGER || why == NAT_REACH_WHY_DISAGREE)
        wait_ns = reach_min(wait_ns, stranger_wait_ns);
    own->tell |= own->verdict != verdict || own->why != why || own->filtering != filtering;
    own->verdict = verdict;
    own->why = why;
    own->filtering = filtering;
    own->round = false;
    own->attempt = REACH_ATTEMPT_NONE;
    own->due_ns = now_ns + reach_jitter(reach, wait_ns);
    reach->stats.verdicts++;
    trace_emit(&reach->config.trace, TRACE_NAT_VERDICT, now_ns, NULL, (int64_t)own->successes,
               (int64_t)own->failures, ERR_OK);
    if (filtering != NAT_REACH_FILTERING_UNKNOWN && !is_forwarded(reach, own)) {
        reach->profile_tell[family] |= reach->profiles[family].filtering != filtering;
        reach->profiles[family].filtering = filtering;
    }
    summarize(reach, family);
}

/* No stranger was left to try, but fresh ports of known helpers got in.  Only a NAT's own mapping may be
 * filtered by address alone; interface addresses and forwarded ports that let in another port let in all.
 * Where every destination has a mapping of its own, an address may be that of one of them. */
static bool open_without_stranger(const struct nat_reach *reach, const struct reach_own *own)
{
    size_t family = reach_family_index(own->addr.family);
    if (is_forwarded(reach, own))
        return reach->main_addr[family].family != NET_FAMILY_NONE || own->known_only >= 2;
    return reach->profiles[family].mapping == NAT_REACH_MAPPING_NONE;
}

/* Every helper that there is was asked. */
static void exhausted(struct nat_reach *reach, uint64_t now_ns, struct reach_own *own)
{
    if (own->successes >= 2 || own->successes > own->failures ||
        (own->successes > 0 && own->known_only > 0 && is_forwarded(reach, own))) {
        /* Whoever claims to have tried may lie, but what got in got in: two weigh more than any silence. */
        conclude(reach, now_ns, own, NAT_REACH_REACHABLE, NAT_REACH_WHY_PROVEN,
                 NAT_REACH_FILTERING_INDEPENDENT);
    } else if (own->successes > 0) {
        conclude(reach, now_ns, own, NAT_REACH_UNKNOWN, NAT_REACH_WHY_DISAGREE, own->filtering);
    } else if (own->known_only > own->failures) {
        bool open = open_without_stranger(reach, own);
        conclude(reach, now_ns, own, open ? NAT_REACH_REACHABLE : NAT_REACH_UNKNOWN,
                 NAT_REACH_WHY_NO_STRANGER, NAT_REACH_FILTERING_ADDRESS);
    } else if (own->wrong_address > 0 && own->failures == 0) {
        conclude(reach, now_ns, own, NAT_REACH_UNKNOWN, NAT_REACH_WHY_ADDRESS, NAT_REACH_FILTERING_UNKNOWN);
    } else {
        conclude(reach, now_ns, own, NAT_REACH_UNKNOWN, NAT_REACH_WHY_NO_HELPER, NAT_REACH_FILTERING_UNKNOWN);
    }
}

/* The next helper: in a new network, else a new one, else (after a failure) any again. */
static const struct reach_peer *next_helper(struct nat_reach *reach, const struct reach_own *own)
{
    size_t family = reach_family_index(own->addr.family);
    if (own->asked_count == REACH_ATTEMPTS_MAX)
        return NULL;
    const struct reach_peer *peer = reach_pick(reach, family, own->asked, own->asked_count, true);
    if (peer == NULL)
        peer = reach_pick(reach, family, own->asked, own->asked_count, false);
    if (peer == NULL && own->failures > 0 && own->successes == 0)
        peer = reach_pick(reach, family, NULL, 0, false);
    return peer;
}

static void ask(struct nat_reach *reach, uint64_t now_ns, struct reach_own *own)
{
    struct reach_body body = {.nonce = own->nonce, .addr = own->addr};
    (void)reach_queue(reach, now_ns, &own->helper, &own->helper_at, REACH_DIALBACK, &body);
    own->tries++;
    own->due_ns = now_ns + ask_ns;
}

static void next_attempt(struct nat_reach *reach, uint64_t now_ns, struct reach_own *own)
{
    if (own->successes >= reach->config.agree) {
        conclude(reach, now_ns, own, NAT_REACH_REACHABLE, NAT_REACH_WHY_PROVEN,
                 NAT_REACH_FILTERING_INDEPENDENT);
        return;
    }
    if (own->failures >= REACH_FAILURES && own->successes == 0) {
        bool by_address = 2 * own->failures_address > own->failures;
        conclude(reach, now_ns, own, NAT_REACH_UNREACHABLE, NAT_REACH_WHY_PROVEN,
                 by_address ? NAT_REACH_FILTERING_ADDRESS : NAT_REACH_FILTERING_ADDRESS_PORT);
        return;
    }
    const struct reach_peer *peer = next_helper(reach, own);
    if (peer == NULL) {
        exhausted(reach, now_ns, own);
        return;
    }
    own->attempt = REACH_ATTEMPT_ASKED;
    own->helper = peer->id;
    own->helper_at = peer->addr;
    own->asked[own->asked_count++] = peer->addr;
    own->nonce = reach_nonce(reach);
    own->tries = own->expected = own->got = 0;
    reach->stats.attempts++;
    ask(reach, now_ns, own);
}

/* What an attempt showed, once its time is over or a stranger got in. */
static void attempt_end(struct nat_reach *reach, uint64_t now_ns, struct reach_own *own)
{
    own->attempt = REACH_ATTEMPT_NONE;
    if ((own->got & REACH_FROM_STRANGER) != 0) {
        own->successes++;
    } else if ((own->got & REACH_FROM_PORT) != 0 && is_forwarded(reach, own)) {
        own->known_only++; /* the stranger may be gone: an opened port that lets in one lets in all */
    } else if ((own->expected & ~own->got) != 0) {
        own->failures++;
        own->failures_address += (own->got & REACH_FROM_PORT) != 0;
    } else if ((own->got & REACH_FROM_PORT) != 0) {
        own->known_only++;
    }
    next_attempt(reach, now_ns, own);
}

void reach_dial_tick(struct nat_reach *reach, uint64_t now_ns, struct reach_own *own)
{
    if (!own->used || now_ns < own->due_ns)
        return;
    switch (own->attempt) {
    case REACH_ATTEMPT_NONE:
        round_start(own);
        next_attempt(reach, now_ns, own);
        break;
    case REACH_ATTEMPT_ASKED:
        if (own->tries < ASK_TRIES) {
            ask(reach, now_ns, own);
            break;
        }
        struct reach_peer *peer = reach_observer_at(reach, &own->helper_at);
        if (peer != NULL && peer->failures < UINT32_MAX)
            peer->failures++;
        attempt_end(reach, now_ns, own); /* a silent helper says nothing about us */
        break;
    case REACH_ATTEMPT_LISTENING:
        attempt_end(reach, now_ns, own);
        break;
    }
}

void reach_dial_peer(struct nat_reach *reach, uint64_t now_ns, size_t family)
{
    for (size_t i = 0; i < NAT_REACH_ADDRS_MAX; i++) {
        struct reach_own *own = &reach->own[i];
        bool waits = own->why == NAT_REACH_WHY_NO_HELPER || own->why == NAT_REACH_WHY_NO_STRANGER;
        if (own->used && !own->round && waits && reach_family_index(own->addr.family) == family)
            own->due_ns = reach_min(own->due_ns, now_ns + REACH_MS(5000));
    }
}

static struct reach_own *own_by_nonce(struct nat_reach *reach, uint64_t nonce)
{
    for (size_t i = 0; i < NAT_REACH_ADDRS_MAX; i++) {
        struct reach_own *own = &reach->own[i];
        if (own->used && own->attempt != REACH_ATTEMPT_NONE && own->nonce == nonce)
            return own;
    }
    return NULL;
}

int reach_dial_answer(struct nat_reach *reach, uint64_t now_ns, const struct net_message *message,
                      const struct reach_body *body)
{
    struct reach_own *own = own_by_nonce(reach, body->nonce);
    if (own == NULL || own->attempt != REACH_ATTEMPT_ASKED || !id_equal(&own->helper, &message->peer) ||
        !net_addr_equal(&own->helper_at, &message->addr)) {
        reach->stats.dropped_unmatched++;
        return ERR_REFUSED;
    }
    struct reach_peer *peer = reach_observer_at(reach, &own->helper_at);
    if (peer != NULL)
        peer->failures = 0;
    if (body->code != REACH_CODE_TRIED) {
        own->wrong_address += body->code == REACH_CODE_ADDRESS;
        attempt_end(reach, now_ns, own);
        return ERR_OK;
    }
    own->expected = body->tried_port ? REACH_FROM_PORT : 0;
    for (size_t i = 0; i < body->forwarded_count; i++) {
        if (!reach_contacts_ip(&reach->contacts, now_ns, &body->forwarded[i]))
            own->expected |= REACH_FROM_STRANGER;
    }
    own->attempt = REACH_ATTEMPT_LISTENING;
    own->due_ns = now_ns + listen_ns;
    return ERR_OK;
}

int reach_dial_probe(struct nat_reach *reach, uint64_t now_ns, const struct net_message *message,
                     const struct reach_body *body)
{
    struct reach_own *own = own_by_nonce(reach, body->nonce);
    if (own == NULL || message->addr.via != NET_VIA_MAIN || message->addr.family != own->addr.family) {
        reach->stats.dropped_unmatched++;
        return ERR_REFUSED;
    }
    if (!reach_contacts_ip(&reach->contacts, now_ns, &message->addr))
        own->got |= REACH_FROM_STRANGER;
    else if (!reach_contacts_endpoint(&reach->contacts, now_ns, &message->addr))
        own->got |= REACH_FROM_PORT;
    if ((own->got & REACH_FROM_STRANGER) != 0)
        attempt_end(reach, now_ns, own);
    return ERR_OK;
}
