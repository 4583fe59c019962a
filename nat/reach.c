#include "nat/reach.h"

#include <string.h>

#include "nat/reach_internal.h"

/* ---- life ---- */

struct nat_reach_config nat_reach_config_default(void)
{
    return (struct nat_reach_config){
        .agree = 3,
        .survey_ns = REACH_MS(600000),
        .verify_ns = REACH_MS(1200000),
        .aux_life_ns = REACH_MS(120000),
        .observe_per_s = 200,
        .dial_per_s = 20,
    };
}

int nat_reach_config_check(const struct nat_reach_config *config, const char **why)
{
    const uint64_t intervals[] = {config->survey_ns, config->verify_ns, config->aux_life_ns};
    *why = "self and rng must be set";
    if (id_is_zero(&config->self) || config->rng.fill == NULL)
        return ERR_INVALID;
    *why = "agree must be 1 to 4";
    if (config->agree < 1 || config->agree > 4)
        return ERR_INVALID;
    *why = "intervals must be 10 s to 24 h";
    for (size_t i = 0; i < sizeof intervals / sizeof intervals[0]; i++) {
        if (intervals[i] < REACH_MS(10000) || intervals[i] > REACH_MS(86400000))
            return ERR_INVALID;
    }
    *why = "rates must be 10 to 100000 a second";
    if (config->observe_per_s < 10 || config->observe_per_s > 100000 || config->dial_per_s < 10 ||
        config->dial_per_s > 100000)
        return ERR_INVALID;
    *why = NULL;
    return ERR_OK;
}

size_t nat_reach_size(const struct nat_reach_config *config)
{
    (void)config;
    return sizeof(struct nat_reach);
}

struct nat_reach *nat_reach_init(void *memory, const struct nat_reach_config *config, uint64_t now_ns)
{
    const char *why;
    struct nat_reach *reach = memory;
    int rc = nat_reach_config_check(config, &why);
    ASSERT(rc == ERR_OK);
    ASSERT((uintptr_t)memory % 16 == 0);
    memset(reach, 0, sizeof *reach);
    reach->config = *config;
    reach->release_ring = ring_init(REACH_RELEASES_MAX);
    reach->seen_ring = ring_init(NAT_REACH_SEEN_MAX);
    reach->next_token = rng_u32(&config->rng);
    for (size_t family = 0; family < REACH_FAMILIES; family++) {
        reach->surveys[family].due_ns = REACH_NEVER;
        reach->watches[family].due_ns = REACH_NEVER;
        reach->watches[family].since_ns = now_ns;
    }
    reach_limit_init(&reach->observe_limit, config->observe_per_s, &config->rng);
    reach_limit_init(&reach->dial_limit, config->dial_per_s, &config->rng);
    rng_fill(&config->rng, reach->contacts.key, sizeof reach->contacts.key);
    return reach;
}

/* ---- shared by the parts ---- */

size_t reach_family_index(uint8_t family)
{
    return family == NET_FAMILY_V6;
}

bool reach_same_ip(const struct net_addr *a, const struct net_addr *b)
{
    return a->family == b->family && memcmp(a->ip, b->ip, sizeof a->ip) == 0;
}

uint64_t reach_min(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t reach_jitter(struct nat_reach *reach, uint64_t period_ns)
{
    return period_ns - period_ns / 4 + rng_below(&reach->config.rng, period_ns / 2 + 1);
}

uint64_t reach_nonce(struct nat_reach *reach)
{
    uint64_t nonce = rng_u64(&reach->config.rng);
    return nonce == 0 ? 1 : nonce; /* 0 stands for none */
}

bool reach_queue(struct nat_reach *reach, uint64_t due_ns, const struct id *peer, const struct net_addr *to,
                 uint8_t kind, const struct reach_body *body)
{
    for (size_t i = 0; i < REACH_SENDS_MAX; i++) {
        struct reach_send *send = &reach->sends[i];
        if (send->used)
            continue;
        *send = (struct reach_send){.used = true,
                                    .due_ns = due_ns,
                                    .order = reach->next_order++,
                                    .peer = *peer,
                                    .to = *to,
                                    .kind = kind,
                                    .body = *body};
        reach->send_count++;
        return true;
    }
    reach->stats.dropped_full++;
    return false;
}

void reach_release(struct nat_reach *reach, uint16_t via)
{
    size_t at = ring_push(&reach->release_ring);
    if (at == RING_NONE)
        reach->stats.dropped_full++; /* a driver that does not drain */
    else
        reach->releases[at] = via;
}

void reach_want_socket(struct nat_reach *reach, uint64_t now_ns, size_t purpose)
{
    struct reach_want *want = &reach->wants[purpose];
    if (want->pending)
        return;
    *want =
        (struct reach_want){.tell = true, .pending = true, .token = reach->next_token++, .since_ns = now_ns};
}

/* ---- what node/ knows ---- */

void nat_reach_locals(struct nat_reach *reach, uint64_t now_ns, const struct net_addr addrs[], size_t count)
{
    bool same = true;
    count = count < NAT_REACH_LOCALS_MAX ? count : NAT_REACH_LOCALS_MAX;
    same = count == reach->local_count;
    for (size_t i = 0; i < count && same; i++)
        same = reach_same_ip(&reach->locals[i], &addrs[i]);
    if (same)
        return;
    memcpy(reach->locals, addrs, count * sizeof addrs[0]);
    reach->local_count = count;
    for (size_t family = 0; family < REACH_FAMILIES; family++) {
        reach_survey_want(reach, family, now_ns + REACH_MS(1000));
        reach_watch_moved(reach, family);
    }
}

void nat_reach_observed(struct nat_reach *reach, uint64_t now_ns, enum net_family family,
                        const struct net_addr *addr, enum nat_mapping mapping)
{
    size_t at = reach_family_index((uint8_t)family);
    struct net_addr before = reach->main_addr[at];
    reach->main_mapping[at] = mapping;
    reach->main_addr[at] = *addr;
    if (net_addr_equal(&before, addr) || addr->family == NET_FAMILY_NONE)
        return;
    if (reach_same_ip(&before, addr))
        return; /* a mapping that ended: the watch judges it, and surveys use ports of their own */
    if (before.family != NET_FAMILY_NONE)
        reach_watch_reset(reach, at);
    reach_survey_want(reach, at, now_ns + REACH_MS(500));
    for (size_t i = 0; i < NAT_REACH_ADDRS_MAX; i++) {
        struct reach_own *own = &reach->own[i];
        if (own->used && !own->round && reach_family_index(own->addr.family) == at)
            own->due_ns = reach_min(own->due_ns, now_ns + REACH_MS(1000));
    }
}

void nat_reach_contacted(struct nat_reach *reach, uint64_t now_ns, const struct net_addr *addr)
{
    if (addr->via == NET_VIA_MAIN)
        reach_contacts_note(&reach->contacts, now_ns, addr);
}

void nat_reach_serve(struct nat_reach *reach, bool serve)
{
    reach->config.serve = serve;
}

/* ---- inputs ---- */

/* Hands the socket to whoever asked under this token; false: nobody waits for it any more. */
static bool hand_over(struct nat_reach *reach, uint64_t now_ns, uint32_t token,
                      const struct nat_reach_socket *socket)
{
    for (size_t purpose = 0; purpose < REACH_WANTS; purpose++) {
        struct reach_want *want = &reach->wants[purpose];
        if (!want->pending || want->token != token)
            continue;
        *want = (struct reach_want){.tell = false};
        if (purpose < REACH_FOR_AUX)
            reach_survey_sockets(reach, now_ns, purpose, socket);
        else
            reach_serve_sockets(reach, now_ns, purpose - REACH_FOR_AUX, socket);
        return true;
    }
    return false;
}

void nat_reach_sockets(struct nat_reach *reach, uint64_t now_ns, uint32_t token,
                       const struct nat_reach_socket sockets[], size_t count)
{
    bool taken = hand_over(reach, now_ns, token, count > 0 ? &sockets[0] : NULL);
    for (size_t i = 0; i < count; i++) {
        ASSERT(net_via_is_aux(sockets[i].via));
        if (!taken || i > 0)
            reach_release(reach, sockets[i].via);
    }
}

static int recv_observed(struct nat_reach *reach, uint64_t now_ns, const struct net_message *message,
                         const struct reach_body *body)
{
    size_t family = reach_family_index(message->addr.family);
    if (body->addr.family == message->addr.family && net_addr_scope(&body->addr) != NET_SCOPE_INVALID &&
        (reach_survey_answer(reach, now_ns, family, message, body) ||
         reach_watch_answer(reach, now_ns, family, message, body)))
        return ERR_OK;
    reach->stats.dropped_unmatched++;
    return ERR_REFUSED;
}

static int dispatch(struct nat_reach *reach, uint64_t now_ns, const struct net_message *message,
                    const struct reach_body *body)
{
    switch ((enum reach_kind)message->kind) {
    case REACH_OBSERVE:
        return reach_serve_observe(reach, now_ns, message, body);
    case REACH_OBSERVED:
        return recv_observed(reach, now_ns, message, body);
    case REACH_DIALBACK:
        return reach_serve_dialback(reach, now_ns, message, body);
    case REACH_DIALBACK_PROBE:
        return reach_dial_probe(reach, now_ns, message, body);
    case REACH_FORWARD:
        return reach_serve_forward(reach, now_ns, message, body);
    case REACH_DIALBACK_ANSWER:
        return reach_dial_answer(reach, now_ns, message, body);
    }
    return ERR_UNSUPPORTED;
}

int nat_reach_recv(struct nat_reach *reach, uint64_t now_ns, const struct net_message *message)
{
    struct reach_body body;
    ASSERT(message->kind >= NET_KIND_REACH_FIRST && message->kind <= NET_KIND_REACH_LAST);
    if (id_equal(&message->peer, &reach->config.self))
        return ERR_REFUSED;
    int rc = reach_read(message, &body);
    if (rc != ERR_OK) {
        reach->stats.dropped_malformed++;
        return rc;
    }
    return dispatch(reach, now_ns, message, &body);
}

void nat_reach_tick(struct nat_reach *reach, uint64_t now_ns)
{
    for (size_t family = 0; family < REACH_FAMILIES; family++) {
        reach_survey_tick(reach, now_ns, family);
        reach_watch_tick(reach, now_ns, family);
    }
    for (size_t i = 0; i < NAT_REACH_ADDRS_MAX; i++)
        reach_dial_tick(reach, now_ns, &reach->own[i]);
    reach_serve_tick(reach, now_ns);
}

uint64_t nat_reach_deadline_ns(const struct nat_reach *reach)
{
    uint64_t next_ns = reach_serve_deadline(reach);
    for (size_t family = 0; family < REACH_FAMILIES; family++) {
        next_ns = reach_min(next_ns, reach_survey_deadline(reach, family));
        next_ns = reach_min(next_ns, reach_watch_deadline(reach, family));
    }
    for (size_t i = 0; i < NAT_REACH_ADDRS_MAX; i++) {
        if (reach->own[i].used)
            next_ns = reach_min(next_ns, reach->own[i].due_ns);
    }
    for (size_t i = 0; i < REACH_SENDS_MAX && reach->send_count > 0; i++) {
        if (reach->sends[i].used)
            next_ns = reach_min(next_ns, reach->sends[i].due_ns);
    }
    return next_ns;
}

/* ---- outputs ---- */

static bool socket_event(struct nat_reach *reach, struct nat_reach_event *out)
{
    size_t at = ring_pop(&reach->release_ring);
    if (at != RING_NONE) {
        out->type = NAT_REACH_SOCKET_RELEASE;
        out->via = reach->releases[at];
        return true;
    }
    for (size_t purpose = 0; purpose < REACH_WANTS; purpose++) {
        struct reach_want *want = &reach->wants[purpose];
        if (!want->tell)
            continue;
        want->tell = false;
        out->type = NAT_REACH_SOCKETS_WANTED;
        out->token = want->token;
        out->family = purpose % 2 == 0 ? NET_FAMILY_V4 : NET_FAMILY_V6;
        out->count = 1;
        return true;
    }
    return false;
}

bool nat_reach_poll_event(struct nat_reach *reach, struct nat_reach_event *out)
{
    memset(out, 0, sizeof *out);
    if (socket_event(reach, out))
        return true;
    for (size_t family = 0; family < REACH_FAMILIES; family++) {
        if (!reach->profile_tell[family])
            continue;
        reach->profile_tell[family] = false;
        out->type = NAT_REACH_PROFILE;
        out->family = family == 0 ? NET_FAMILY_V4 : NET_FAMILY_V6;
        return true;
    }
    for (size_t i = 0; i < NAT_REACH_ADDRS_MAX; i++) {
        struct reach_own *own = &reach->own[i];
        if (!own->used || !own->tell)
            continue;
        own->tell = false;
        out->type = NAT_REACH_VERDICT;
        out->addr = own->addr;
        out->verdict = own->verdict;
        out->why = own->why;
        out->filtering = own->filtering;
        return true;
    }
    size_t at = ring_pop(&reach->seen_ring);
    if (at == RING_NONE)
        return false;
    out->type = NAT_REACH_SEEN;
    out->from = reach->seen[at].observer;
    out->addr = reach->seen[at].seen;
    return true;
}

/* False: it was to go by a socket that was given back meanwhile. */
static bool is_held(const struct nat_reach *reach, const struct reach_send *send)
{
    size_t family = reach_family_index(send->to.family);
    const struct reach_survey *survey = &reach->surveys[family];
    if (!net_via_is_aux(send->to.via))
        return true;
    if (send->kind == REACH_OBSERVE)
        return survey->state == REACH_SURVEY_ASKING && survey->via == send->to.via;
    return reach->aux[family].via == send->to.via;
}

bool nat_reach_poll_send(struct nat_reach *reach, uint64_t now_ns, struct net_message *out)
{
    for (;;) {
        struct reach_send *next = NULL;
        for (size_t i = 0; i < REACH_SENDS_MAX && reach->send_count > 0; i++) {
            struct reach_send *at = &reach->sends[i];
            if (at->used && at->due_ns <= now_ns && (next == NULL || at->order < next->order))
                next = at;
        }
        if (next == NULL)
            return false;
        next->used = false;
        reach->send_count--;
        if (!is_held(reach, next))
            continue;
        out->peer = next->peer;
        out->addr = next->to;
        reach_write(out, next->kind, &next->body);
        nat_reach_contacted(reach, now_ns, &next->to);
        return true;
    }
}

/* ---- queries ---- */

struct nat_reach_profile nat_reach_profile(const struct nat_reach *reach, enum net_family family)
{
    return reach->profiles[reach_family_index((uint8_t)family)];
}

int nat_reach_verdict_of(const struct nat_reach *reach, const struct net_addr *addr,
                         enum nat_reach_verdict *verdict, enum nat_reach_why *why)
{
    for (size_t i = 0; i < NAT_REACH_ADDRS_MAX; i++) {
        const struct reach_own *own = &reach->own[i];
        if (!own->used || !net_addr_equal(&own->addr, addr))
            continue;
        *verdict = own->verdict;
        *why = own->why;
        return ERR_OK;
    }
    return ERR_NOT_FOUND;
}

struct nat_reach_stats nat_reach_stats(const struct nat_reach *reach)
{
    return reach->stats;
}

static void check_surveys(const struct nat_reach *reach)
{
    for (size_t family = 0; family < REACH_FAMILIES; family++) {
        const struct reach_survey *survey = &reach->surveys[family];
        const struct nat_reach_profile *profile = &reach->profiles[family];
        ASSERT(survey->sample_count <= REACH_SAMPLES_MAX);
        ASSERT(survey->state != REACH_SURVEY_ASKING || net_via_is_aux(survey->via));
        ASSERT(reach->wants[REACH_FOR_SURVEY + family].pending == (survey->state == REACH_SURVEY_WAITING));
        ASSERT(profile->step >= -16 && profile->step <= 16);
        ASSERT(profile->step == 0 || profile->mapping >= NAT_REACH_MAPPING_ADDRESS);
        ASSERT(reach->watches[family].on || reach->watches[family].due_ns == REACH_NEVER);
        ASSERT(reach->aux[family].via == NET_VIA_MAIN || net_via_is_aux(reach->aux[family].via));
    }
}

void nat_reach_check_invariants(const struct nat_reach *reach)
{
    ring_check_invariants(&reach->release_ring);
    ring_check_invariants(&reach->seen_ring);
    check_surveys(reach);
    for (size_t i = 0; i < NAT_REACH_ADDRS_MAX; i++) {
        const struct reach_own *own = &reach->own[i];
        ASSERT(own->asked_count <= REACH_ATTEMPTS_MAX);
        ASSERT(!own->used || own->round == (own->attempt != REACH_ATTEMPT_NONE));
        for (size_t k = 0; k < i && own->used; k++)
            ASSERT(!reach->own[k].used || !net_addr_equal(&reach->own[k].addr, &own->addr));
    }
    size_t jobs = 0;
    size_t sends = 0;
    for (size_t i = 0; i < REACH_JOBS_MAX; i++) {
        const struct reach_job *job = &reach->jobs[i];
        jobs += job->used;
        ASSERT(!job->used || net_addr_scope(&job->target) == NET_SCOPE_GLOBAL);
    }
    for (size_t i = 0; i < REACH_SENDS_MAX; i++)
        sends += reach->sends[i].used;
    ASSERT(jobs == reach->job_count && sends == reach->send_count);
}
