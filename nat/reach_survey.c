/* Surveys: the same question from one fresh socket to several observers, in one burst, so that few foreign
 * flows get in between. */
#include <string.h>

#include "nat/reach_internal.h"

static const uint64_t socket_wait_ns = REACH_MS(3000);
static const uint64_t retry_wait_ns = REACH_MS(30000);
static const uint64_t survey_max_ns = REACH_MS(1500);
static const uint64_t again_ns[REACH_TRIES - 1] = {REACH_MS(250), REACH_MS(400)};
static const uint64_t grace_ns = REACH_MS(150); /* for the last answer, once enough are in */
static const uint64_t fresh_ns = REACH_MS(500);

enum { ENOUGH = 3 };

void reach_survey_want(struct nat_reach *reach, size_t family, uint64_t at_ns)
{
    struct reach_survey *survey = &reach->surveys[family];
    if (survey->state == REACH_SURVEY_IDLE)
        survey->due_ns = reach_min(survey->due_ns, at_ns);
}

int nat_reach_survey(struct nat_reach *reach, uint64_t now_ns)
{
    int rc = ERR_NOT_FOUND;
    for (size_t family = 0; family < REACH_FAMILIES; family++) {
        struct reach_survey *survey = &reach->surveys[family];
        if (reach_observer_count(reach, family) == 0)
            continue;
        if (survey->state == REACH_SURVEY_IDLE && survey->ended_ns != 0 &&
            now_ns - survey->ended_ns < fresh_ns) {
            rc = rc == ERR_OK ? ERR_OK : ERR_RATE;
            continue;
        }
        survey->asked = true;
        rc = ERR_OK;
        reach_survey_want(reach, family, now_ns);
        reach_survey_tick(reach, now_ns, family);
    }
    return rc;
}

static void sample_add(struct nat_reach *reach, struct reach_survey *survey, const struct id *peer,
                       const struct net_addr *to)
{
    ASSERT(survey->sample_count < REACH_SAMPLES_MAX);
    struct reach_sample *sample = &survey->samples[survey->sample_count++];
    *sample = (struct reach_sample){.peer = *peer, .to = *to};
    sample->to.via = survey->via;
    for (size_t i = 0; i < REACH_TRIES; i++)
        sample->nonces[i] = reach_nonce(reach);
}

/* Another observer at the IP of one already chosen: does the port matter to the NAT? */
static const struct reach_peer *second_port(const struct nat_reach *reach, size_t family,
                                            const struct net_addr chosen[], size_t count)
{
    for (size_t i = 0; i < NAT_REACH_OBSERVERS_MAX; i++) {
        const struct reach_peer *at = &reach->observers[family][i];
        for (size_t k = 0; k < count && at->used; k++) {
            if (reach_same_ip(&at->addr, &chosen[k]) && at->addr.port != chosen[k].port)
                return at;
        }
    }
    return NULL;
}

static void choose(struct nat_reach *reach, struct reach_survey *survey, size_t family)
{
    struct net_addr chosen[REACH_SURVEY_GROUPS];
    size_t count = 0;
    const struct reach_peer *peer;
    survey->sample_count = 0;
    while (count < REACH_SURVEY_GROUPS && (peer = reach_pick(reach, family, chosen, count, true)) != NULL) {
        sample_add(reach, survey, &peer->id, &peer->addr);
        chosen[count++] = peer->addr;
    }
    peer = second_port(reach, family, chosen, count);
    if (peer != NULL)
        sample_add(reach, survey, &peer->id, &peer->addr);
}

static void ask(struct nat_reach *reach, uint64_t now_ns, struct reach_sample *sample)
{
    struct reach_body body = {.nonce = sample->nonces[sample->tries]};
    if (!reach_queue(reach, now_ns, &sample->peer, &sample->to, REACH_OBSERVE, &body))
        return;
    sample->sent_ns[sample->tries++] = now_ns;
    reach->stats.observes_sent++;
}

/* Sends what is due and returns when the next is. */
static uint64_t ask_due(struct nat_reach *reach, uint64_t now_ns, struct reach_survey *survey)
{
    uint64_t next_ns = survey->until_ns;
    for (size_t i = 0; i < survey->sample_count; i++) {
        struct reach_sample *sample = &survey->samples[i];
        if (sample->answered)
            continue;
        if (sample->tries == 0)
            ask(reach, now_ns, sample);
        else if (sample->tries < REACH_TRIES &&
                 now_ns - sample->sent_ns[sample->tries - 1] >= again_ns[sample->tries - 1])
            ask(reach, now_ns, sample);
        if (sample->tries > 0 && sample->tries < REACH_TRIES)
            next_ns = reach_min(next_ns, sample->sent_ns[sample->tries - 1] + again_ns[sample->tries - 1]);
    }
    return next_ns;
}

static void count_failures(struct nat_reach *reach, const struct reach_survey *survey)
{
    for (size_t i = 0; i < survey->sample_count; i++) {
        struct reach_peer *peer = reach_observer_at(reach, &survey->samples[i].to);
        if (peer != NULL && survey->samples[i].answered)
            peer->failures = 0;
        else if (peer != NULL && peer->failures < UINT32_MAX)
            peer->failures++;
    }
}

/* What a person or nat/punch would act on; ports and times move with every survey. */
static bool differs(const struct nat_reach_profile *a, const struct nat_reach_profile *b)
{
    return a->mapping != b->mapping || a->step != b->step || !reach_same_ip(&a->outer, &b->outer) ||
           a->port_preserved != b->port_preserved || a->pair_known != b->pair_known ||
           a->address_varies != b->address_varies || a->main_differs != b->main_differs ||
           (a->observers < 2) != (b->observers < 2);
}

static void finish(struct nat_reach *reach, uint64_t now_ns, size_t family)
{
    struct reach_survey *survey = &reach->surveys[family];
    struct nat_reach_profile *profile = &reach->profiles[family];
    struct nat_reach_profile before = *profile;
    reach_release(reach, survey->via);
    count_failures(reach, survey);
    reach_classify(survey->samples, survey->sample_count, reach->locals, reach->local_count, survey->port,
                   profile);
    bool repeats = before.mapping == NAT_REACH_MAPPING_ADDRESS &&
                   profile->mapping == NAT_REACH_MAPPING_ADDRESS_PORT && !profile->pair_known;
    if (repeats) { /* no second port answered this time: what was found before still stands */
        profile->mapping = before.mapping;
        profile->pair_known = true;
    }
    profile->surveyed_ns = survey->ended_ns = now_ns;
    profile->main_differs = profile->mapping == NAT_REACH_MAPPING_INDEPENDENT &&
                            reach->main_mapping[family] == NAT_MAPPING_VARIES;
    reach->profile_tell[family] |= survey->asked || differs(&before, profile);
    reach->stats.surveys++;
    trace_emit(&reach->config.trace, TRACE_NAT_SURVEY, now_ns, NULL, (int64_t)profile->observers,
               profile->step, ERR_OK);
    survey->state = REACH_SURVEY_IDLE;
    survey->asked = false;
    survey->due_ns =
        now_ns + (profile->observers == 0 ? retry_wait_ns : reach_jitter(reach, reach->config.survey_ns));
}

/* Ports differ and no pair shares an IP: ask one that named a second port of its own. */
static bool ask_alternate(struct nat_reach *reach, uint64_t now_ns, struct reach_survey *survey)
{
    const struct reach_sample *named = NULL;
    bool varies = false;
    const struct reach_sample *first = NULL;
    if (survey->alternate_asked || survey->sample_count > REACH_SURVEY_GROUPS)
        return false;
    for (size_t i = 0; i < survey->sample_count; i++) {
        const struct reach_sample *at = &survey->samples[i];
        if (!at->answered)
            continue;
        varies |= first != NULL && first->seen.port != at->seen.port;
        first = first == NULL ? at : first;
        named = at->alternate != 0 && at->alternate != at->to.port ? at : named;
    }
    if (!varies || named == NULL)
        return false;
    struct net_addr to = named->to;
    to.port = named->alternate;
    survey->alternate_asked = true;
    sample_add(reach, survey, &named->peer, &to);
    ask(reach, now_ns, &survey->samples[survey->sample_count - 1]);
    return true;
}

static size_t answered(const struct reach_survey *survey)
{
    size_t count = 0;
    for (size_t i = 0; i < survey->sample_count; i++)
        count += survey->samples[i].answered;
    return count;
}

static void step_asking(struct nat_reach *reach, uint64_t now_ns, size_t family)
{
    struct reach_survey *survey = &reach->surveys[family];
    uint64_t next_ns = ask_due(reach, now_ns, survey);
    size_t count = answered(survey);
    bool all = count == survey->sample_count;
    bool enough = count >= ENOUGH && now_ns >= survey->answered_ns + grace_ns;
    if (all || enough || now_ns >= survey->until_ns) {
        if (now_ns < survey->until_ns && ask_alternate(reach, now_ns, survey)) {
            survey->answered_ns = now_ns;
            survey->due_ns = reach_min(survey->until_ns, now_ns + grace_ns);
            return;
        }
        finish(reach, now_ns, family);
        return;
    }
    survey->due_ns = count >= ENOUGH ? reach_min(next_ns, survey->answered_ns + grace_ns) : next_ns;
}

void reach_survey_sockets(struct nat_reach *reach, uint64_t now_ns, size_t family,
                          const struct nat_reach_socket *socket)
{
    struct reach_survey *survey = &reach->surveys[family];
    ASSERT(survey->state == REACH_SURVEY_WAITING);
    if (socket == NULL) {
        survey->state = REACH_SURVEY_IDLE;
        survey->due_ns = now_ns + retry_wait_ns;
        reach->profile_tell[family] |= survey->asked; /* the asker must not wait for ever */
        survey->asked = false;
        return;
    }
    survey->state = REACH_SURVEY_ASKING;
    survey->via = socket->via;
    survey->port = socket->port;
    survey->alternate_asked = false;
    survey->until_ns = now_ns + survey_max_ns;
    survey->answered_ns = now_ns;
    choose(reach, survey, family);
    step_asking(reach, now_ns, family);
}

void reach_survey_tick(struct nat_reach *reach, uint64_t now_ns, size_t family)
{
    struct reach_survey *survey = &reach->surveys[family];
    if (now_ns < survey->due_ns)
        return;
    switch (survey->state) {
    case REACH_SURVEY_IDLE:
        survey->due_ns = REACH_NEVER;
        if (reach_observer_count(reach, family) == 0)
            return; /* the first one that comes asks for a survey */
        survey->state = REACH_SURVEY_WAITING;
        survey->due_ns = now_ns + socket_wait_ns;
        reach_want_socket(reach, now_ns, REACH_FOR_SURVEY + family);
        break;
    case REACH_SURVEY_WAITING:
        reach->wants[REACH_FOR_SURVEY + family] = (struct reach_want){.tell = false};
        reach_survey_sockets(reach, now_ns, family, NULL);
        break;
    case REACH_SURVEY_ASKING:
        step_asking(reach, now_ns, family);
        break;
    }
}

uint64_t reach_survey_deadline(const struct nat_reach *reach, size_t family)
{
    return reach->surveys[family].due_ns;
}

bool reach_survey_answer(struct nat_reach *reach, uint64_t now_ns, size_t family,
                         const struct net_message *message, const struct reach_body *body)
{
    struct reach_survey *survey = &reach->surveys[family];
    if (survey->state != REACH_SURVEY_ASKING)
        return false;
    for (size_t i = 0; i < survey->sample_count; i++) {
        struct reach_sample *sample = &survey->samples[i];
        if (!net_addr_equal(&sample->to, &message->addr) || !id_equal(&sample->peer, &message->peer))
            continue;
        for (size_t k = 0; k < sample->tries; k++) {
            if (sample->nonces[k] != body->nonce)
                continue;
            if (!sample->answered) {
                sample->answered = true;
                sample->order_ns = sample->sent_ns[k];
                sample->seen = body->addr;
                sample->alternate = body->alternate;
                survey->answered_ns = now_ns;
                reach->stats.observes_answered++;
            }
            step_asking(reach, now_ns, family);
            return true;
        }
    }
    return false;
}
