/* The same help for others.  Bounds: nothing is sent to an IP other than the asker's; what a request causes
 * is no larger than itself (reach_wire.h); rates per network and in all; a job table of fixed size. */
#include <string.h>

#include "nat/reach_internal.h"

static const uint64_t job_life_ns = REACH_MS(10000);
static const uint64_t aux_wait_ns = REACH_MS(1000);
static const uint64_t again_ns = REACH_MS(250);

enum { PROBES = 2 };

int reach_serve_observe(struct nat_reach *reach, uint64_t now_ns, const struct net_message *message,
                        const struct reach_body *body)
{
    const struct reach_aux *aux = &reach->aux[reach_family_index(message->addr.family)];
    struct reach_body answer = {.nonce = body->nonce, .addr = message->addr};
    if (!reach_limit_take(&reach->observe_limit, now_ns, &message->addr)) {
        reach->stats.refused_rate++;
        return ERR_RATE;
    }
    if (reach->config.serve && aux->via != NET_VIA_MAIN && message->addr.via == NET_VIA_MAIN)
        answer.alternate = aux->port;
    if (!reach_queue(reach, now_ns, &message->peer, &message->addr, REACH_OBSERVED, &answer))
        return ERR_FULL;
    reach->stats.served_observe++;
    return ERR_OK;
}

static void refusal(struct nat_reach *reach, uint64_t now_ns, const struct net_message *message,
                    uint64_t nonce, enum reach_code code)
{
    struct reach_body body = {.nonce = nonce, .code = (uint8_t)code};
    (void)reach_queue(reach, now_ns, &message->peer, &message->addr, REACH_DIALBACK_ANSWER, &body);
}

static void send_probes(struct nat_reach *reach, uint64_t now_ns, const struct id *asker,
                        const struct net_addr *target, uint16_t via, uint64_t nonce)
{
    struct reach_body body = {.nonce = nonce};
    struct net_addr to = *target;
    to.via = via;
    for (uint64_t i = 0; i < PROBES; i++)
        reach->stats.probes_sent +=
            reach_queue(reach, now_ns + i * again_ns, asker, &to, REACH_DIALBACK_PROBE, &body);
}

/* Two strangers try, of different networks if possible: one may be gone without our knowing it, and the asker
 * would take its silence for a closed door. */
static void forward(struct nat_reach *reach, uint64_t now_ns, struct reach_job *job)
{
    struct reach_body body = {.nonce = job->nonce, .addr = job->target, .asker = job->asker};
    const struct reach_peer *helper = NULL;
    for (size_t i = 0; i < REACH_FORWARDS_MAX; i++) {
        helper = reach_helper_pick(reach, now_ns, &job->asker, &job->target, helper);
        if (helper == NULL || !reach_queue(reach, now_ns, &helper->id, &helper->addr, REACH_FORWARD, &body))
            break;
        /* Repeated in case it is lost; the helper does it once. */
        (void)reach_queue(reach, now_ns + again_ns, &helper->id, &helper->addr, REACH_FORWARD, &body);
        job->answer.forwarded[job->answer.forwarded_count++] = helper->addr;
    }
}

static void do_job(struct nat_reach *reach, uint64_t now_ns, struct reach_job *job)
{
    const struct reach_aux *aux = &reach->aux[reach_family_index(job->target.family)];
    job->waiting = false;
    job->answer = (struct reach_body){.nonce = job->nonce, .code = REACH_CODE_TRIED};
    if (aux->via != NET_VIA_MAIN) {
        send_probes(reach, now_ns, &job->asker, &job->target, aux->via, job->nonce);
        job->answer.tried_port = true;
    }
    forward(reach, now_ns, job);
    if (!job->answer.tried_port && job->answer.forwarded_count == 0)
        job->answer.code = REACH_CODE_BUSY;
    reach->stats.served_dial++;
    (void)reach_queue(reach, now_ns, &job->asker, &job->from, REACH_DIALBACK_ANSWER, &job->answer);
}

static struct reach_job *job_find(struct nat_reach *reach, const struct id *asker, uint64_t nonce)
{
    for (size_t i = 0; i < REACH_JOBS_MAX; i++) {
        struct reach_job *job = &reach->jobs[i];
        if (job->used && job->nonce == nonce && id_equal(&job->asker, asker))
            return job;
    }
    return NULL;
}

static struct reach_job *job_new(struct nat_reach *reach)
{
    for (size_t i = 0; i < REACH_JOBS_MAX; i++) {
        if (!reach->jobs[i].used)
            return &reach->jobs[i];
    }
    return NULL;
}

/* A refusal is worth an answer only within the rate; 0: go on. */
static int refuse(struct nat_reach *reach, uint64_t now_ns, const struct net_message *message,
                  const struct reach_body *body)
{
    bool own_ip = message->addr.via == NET_VIA_MAIN && reach_same_ip(&body->addr, &message->addr) &&
                  net_addr_scope(&body->addr) == NET_SCOPE_GLOBAL;
    if (!reach_limit_take(&reach->dial_limit, now_ns, &message->addr)) {
        reach->stats.refused_rate++;
        return ERR_RATE;
    }
    if (own_ip && reach->config.serve)
        return ERR_OK;
    reach->stats.refused_address += !own_ip;
    refusal(reach, now_ns, message, body->nonce, own_ip ? REACH_CODE_NO_SERVICE : REACH_CODE_ADDRESS);
    return ERR_REFUSED;
}

int reach_serve_dialback(struct nat_reach *reach, uint64_t now_ns, const struct net_message *message,
                         const struct reach_body *body)
{
    size_t family = reach_family_index(message->addr.family);
    struct reach_job *job = job_find(reach, &message->peer, body->nonce);
    int rc = refuse(reach, now_ns, message, body);
    if (rc != ERR_OK)
        return rc;
    if (job != NULL) { /* our answer was lost, or is still to come */
        if (!job->waiting)
            (void)reach_queue(reach, now_ns, &job->asker, &message->addr, REACH_DIALBACK_ANSWER,
                              &job->answer);
        return ERR_OK;
    }
    job = job_new(reach);
    if (job == NULL) {
        refusal(reach, now_ns, message, body->nonce, REACH_CODE_BUSY);
        return ERR_FULL;
    }
    reach->job_count++;
    *job = (struct reach_job){.used = true,
                              .waiting = true,
                              .asker = message->peer,
                              .from = message->addr,
                              .target = body->addr,
                              .nonce = body->nonce,
                              .since_ns = now_ns};
    if (reach->aux[family].via != NET_VIA_MAIN)
        do_job(reach, now_ns, job);
    else
        reach_want_socket(reach, now_ns, REACH_FOR_AUX + family);
    return ERR_OK;
}

int reach_serve_forward(struct nat_reach *reach, uint64_t now_ns, const struct net_message *message,
                        const struct reach_body *body)
{
    bool vouched = message->addr.via == NET_VIA_MAIN &&
                   reach_helper_find(reach, now_ns, &message->peer, &message->addr) != NULL;
    if (!vouched || !reach->config.serve || net_addr_scope(&body->addr) != NET_SCOPE_GLOBAL ||
        id_is_zero(&body->asker) || id_equal(&body->asker, &reach->config.self)) {
        reach->stats.refused_stranger += !vouched;
        return ERR_REFUSED;
    }
    if (job_find(reach, &body->asker, body->nonce) != NULL)
        return ERR_OK;
    if (!reach_limit_take(&reach->dial_limit, now_ns, &body->addr)) {
        reach->stats.refused_rate++;
        return ERR_RATE;
    }
    struct reach_job *job = job_new(reach);
    if (job == NULL)
        return ERR_FULL;
    reach->job_count++;
    *job = (struct reach_job){.used = true,
                              .asker = body->asker,
                              .from = message->addr,
                              .target = body->addr,
                              .nonce = body->nonce,
                              .since_ns = now_ns};
    send_probes(reach, now_ns, &body->asker, &body->addr, NET_VIA_MAIN, body->nonce);
    reach->stats.served_forward++;
    return ERR_OK;
}

static void do_waiting(struct nat_reach *reach, uint64_t now_ns, size_t family)
{
    for (size_t i = 0; i < REACH_JOBS_MAX; i++) {
        struct reach_job *job = &reach->jobs[i];
        if (job->used && job->waiting && reach_family_index(job->target.family) == family)
            do_job(reach, now_ns, job);
    }
}

void reach_serve_sockets(struct nat_reach *reach, uint64_t now_ns, size_t family,
                         const struct nat_reach_socket *socket)
{
    if (socket != NULL) {
        ASSERT(reach->aux[family].via == NET_VIA_MAIN);
        reach->aux[family] =
            (struct reach_aux){.via = socket->via, .port = socket->port, .opened_ns = now_ns};
    }
    do_waiting(reach, now_ns, family);
}

/* A socket is given back after its time, so that the next one's port is new to all who asked before. */
void reach_serve_tick(struct nat_reach *reach, uint64_t now_ns)
{
    for (size_t family = 0; family < REACH_FAMILIES; family++) {
        struct reach_aux *aux = &reach->aux[family];
        if (aux->via != NET_VIA_MAIN && now_ns - aux->opened_ns >= reach->config.aux_life_ns) {
            reach_release(reach, aux->via);
            aux->via = NET_VIA_MAIN;
        }
    }
    for (size_t i = 0; i < REACH_JOBS_MAX && reach->job_count > 0; i++) {
        struct reach_job *job = &reach->jobs[i];
        if (job->used && job->waiting && now_ns - job->since_ns >= aux_wait_ns)
            do_job(reach, now_ns, job);
        if (job->used && now_ns - job->since_ns >= job_life_ns) {
            job->used = false;
            reach->job_count--;
        }
    }
    for (size_t family = 0; family < REACH_FAMILIES; family++) {
        struct reach_want *want = &reach->wants[REACH_FOR_AUX + family];
        if (want->pending && now_ns - want->since_ns >= aux_wait_ns)
            *want = (struct reach_want){.tell = false};
    }
}

uint64_t reach_serve_deadline(const struct nat_reach *reach)
{
    uint64_t next_ns = REACH_NEVER;
    for (size_t i = 0; i < REACH_JOBS_MAX && reach->job_count > 0; i++) {
        const struct reach_job *job = &reach->jobs[i];
        if (job->used)
            next_ns = reach_min(next_ns, job->since_ns + (job->waiting ? aux_wait_ns : job_life_ns));
    }
    for (size_t family = 0; family < REACH_FAMILIES; family++) {
        const struct reach_aux *aux = &reach->aux[family];
        const struct reach_want *want = &reach->wants[REACH_FOR_AUX + family];
        if (aux->via != NET_VIA_MAIN)
            next_ns = reach_min(next_ns, aux->opened_ns + reach->config.aux_life_ns);
        if (want->pending)
            next_ns = reach_min(next_ns, want->since_ns + aux_wait_ns);
    }
    return next_ns;
}
