/* What `dunlin trace` and `dunlin peer` ask for: how a peer is reached, and all that was tried for it.  The
 * logs of nat/path and nat/punch and the node's own (attempts.h) become one, in order of time. */
#include <stdio.h>
#include <stdlib.h>

#include "node/methods_internal.h"

enum { ATTEMPTS_TOLD = 96, STEP_TEXT_SIZE = 192 };

/* One line of the merged log. */
struct step {
    uint64_t time_ns;
    size_t order; /* as it was logged: what happened at one time stays in order */
    const char *part;
    struct net_addr addr;
    uint64_t rtt_ns;
    char text[STEP_TEXT_SIZE];
};

struct steps {
    size_t count;
    struct step at[ATTEMPTS_TOLD + NAT_PATH_TRACE_MAX + 2 * NAT_PUNCH_LOG_MAX];
};

enum nat_route_kind methods_route_kind(const struct node *node, const struct id *peer)
{
    struct net_addr addr;
    enum nat_route_kind kind = NAT_ROUTE_NONE;
    if (nat_path_route_kind(node->path, peer, &addr, &kind) < 0)
        return NAT_ROUTE_NONE;
    /* While UDP is blocked a link stands in for it, unknown to nat/path. */
    bool stood_in = node->udp_blocked && addr.via == NET_VIA_MAIN;
    return stood_in && net_addr_scope(&addr) == NET_SCOPE_GLOBAL ? NAT_ROUTE_TCP : kind;
}

const char *methods_path_text(const struct node *node, const struct id *peer)
{
    return nat_route_kind_text(methods_route_kind(node, peer));
}

/* By which of our sockets or links an address is reached, for people. */
static const char *via_text(const struct net_addr *addr)
{
    if (net_via_is_relay(addr->via))
        return "relay";
    if (net_via_is_tcp(addr->via))
        return "tcp";
    return net_via_is_aux(addr->via) ? "another port" : "udp";
}

static struct step *add_step(struct steps *steps, uint64_t time_ns, const char *part)
{
    struct step *step = &steps->at[steps->count++];
    ASSERT(steps->count <= sizeof steps->at / sizeof steps->at[0]);
    *step = (struct step){.time_ns = time_ns, .order = steps->count, .part = part};
    return step;
}

static void add_paths(const struct node *node, const struct id *peer, struct steps *steps)
{
    struct nat_path_trace log[NAT_PATH_TRACE_MAX];
    int count = nat_path_trace(node->path, peer, log, NAT_PATH_TRACE_MAX);
    for (int i = 0; i < count; i++) {
        struct step *step = add_step(steps, log[i].time_ns, "path");
        step->addr = log[i].addr;
        step->rtt_ns = log[i].rtt_ns;
        (void)snprintf(step->text, sizeof step->text, "%s: %s, %s", nat_route_kind_text(log[i].kind),
                       nat_path_step_text(log[i].step), log[i].offered ? "offered" : "seen as a source");
    }
}

static void add_rounds(const struct node *node, const struct id *peer, struct steps *steps)
{
    struct nat_punch_attempt log[NAT_PUNCH_LOG_MAX];
    int count = nat_punch_log(node->punch, peer, log, NAT_PUNCH_LOG_MAX);
    for (int i = 0; i < count; i++) {
        struct step *step = add_step(steps, log[i].started_ns + log[i].elapsed_ns, "punch");
        step->addr = log[i].addr;
        (void)snprintf(step->text, sizeof step->text,
                       "round begun by %s, strategy %s, %s after %llu ms, %u attempts, %u probes",
                       log[i].inbound ? "the peer" : "us", nat_punch_strategy_text(log[i].strategy),
                       nat_punch_reason_text(log[i].reason),
                       (unsigned long long)(log[i].elapsed_ns / 1000000), (unsigned)log[i].attempts,
                       (unsigned)log[i].probes_sent);
    }
}

static void attempt_words(const struct attempt *attempt, char out[STEP_TEXT_SIZE])
{
    const char *what = attempt_text(attempt->kind);
    bool relay = attempt->kind == ATTEMPT_RELAY_FAILED || attempt->kind == ATTEMPT_RELAY_DOWN;
    if (attempt->kind == ATTEMPT_LOOKUP_FOUND)
        (void)snprintf(out, STEP_TEXT_SIZE, "%s: %d addresses", what, attempt->code);
    else if (relay)
        (void)snprintf(out, STEP_TEXT_SIZE, "%s: %s", what, nat_relay_reason_text((unsigned)attempt->code));
    else if (attempt->code < 0)
        (void)snprintf(out, STEP_TEXT_SIZE, "%s: %s", what, err_text(attempt->code));
    else
        (void)snprintf(out, STEP_TEXT_SIZE, "%s", what);
}

static void add_attempts(const struct node *node, const struct id *peer, struct steps *steps)
{
    struct attempt log[ATTEMPTS_TOLD];
    size_t count = attempts_of(&node->attempts, peer, log, ATTEMPTS_TOLD);
    for (size_t i = 0; i < count; i++) {
        struct step *step = add_step(steps, log[i].time_ns, attempt_part(log[i].kind));
        step->addr = log[i].addr;
        attempt_words(&log[i], step->text);
    }
}

static int by_time(const void *a, const void *b)
{
    const struct step *first = a;
    const struct step *second = b;
    if (first->time_ns != second->time_ns)
        return first->time_ns < second->time_ns ? -1 : 1;
    return first->order < second->order ? -1 : 1;
}

static void reply_where(struct reply *r, const struct net_addr *addr)
{
    if (addr->family == NET_FAMILY_NONE) {
        reply_nil(r, "addr");
        reply_nil(r, "via");
    } else {
        method_reply_addr(r, "addr", addr);
        reply_str(r, "via", via_text(addr));
    }
}

static void reply_log(struct reply *r, const struct steps *steps, uint64_t now_ns)
{
    reply_array(r, "log");
    for (size_t i = 0; i < steps->count; i++) {
        const struct step *step = &steps->at[i];
        reply_map(r, NULL);
        reply_float(r, "age_s", now_ns > step->time_ns ? (double)(now_ns - step->time_ns) / 1e9 : 0);
        reply_str(r, "part", step->part);
        reply_str(r, "text", step->text);
        reply_where(r, &step->addr);
        if (step->rtt_ns > 0)
            reply_float(r, "rtt_ms", (double)step->rtt_ns / 1e6);
        else
            reply_nil(r, "rtt_ms");
        reply_end(r);
    }
    reply_end(r);
}

static void reply_rounds(const struct node *node, struct reply *r, const struct id *peer, uint64_t now_ns)
{
    struct nat_punch_attempt log[NAT_PUNCH_LOG_MAX];
    int count = nat_punch_log(node->punch, peer, log, NAT_PUNCH_LOG_MAX);
    reply_array(r, "rounds");
    for (int i = 0; i < count; i++) {
        reply_map(r, NULL);
        reply_float(r, "age_s", (double)(now_ns - log[i].started_ns) / 1e9);
        reply_float(r, "ms", (double)log[i].elapsed_ns / 1e6);
        reply_bool(r, "ok", log[i].ok);
        reply_bool(r, "inbound", log[i].inbound);
        reply_str(r, "strategy", nat_punch_strategy_text(log[i].strategy));
        reply_str(r, "outcome", nat_punch_reason_text(log[i].reason));
        reply_uint(r, "attempts", log[i].attempts);
        reply_uint(r, "probes", log[i].probes_sent);
        reply_where(r, &log[i].addr);
        reply_end(r);
    }
    reply_end(r);
}

void methods_reply_candidates(struct node *node, struct reply *r, const struct id *peer)
{
    static const char *const states[] = {"candidate", "probing", "answering", "active", "suspect", "dead"};
    struct nat_path_info info[NAT_PATH_CANDIDATES_MAX];
    int count = nat_path_candidates(node->path, peer, info, NAT_PATH_CANDIDATES_MAX);
    reply_array(r, "candidates");
    for (int i = 0; i < count; i++) {
        reply_map(r, NULL);
        reply_where(r, &info[i].addr);
        reply_str(r, "kind", nat_route_kind_text(info[i].kind));
        reply_str(r, "state", states[info[i].state]);
        reply_float(r, "rtt_ms", (double)info[i].rtt_ns / 1e6);
        reply_float(r, "keep_s", (double)info[i].keep_ns / 1e9);
        reply_uint(r, "unanswered", info[i].unanswered);
        reply_end(r);
    }
    reply_end(r);
}

static void reply_relays(struct reply *r, const struct node_peer *peer)
{
    reply_array(r, "relays");
    for (size_t i = 0; peer != NULL && i < peer->relay_count; i++) {
        reply_map(r, NULL);
        reply_id(r, "id", &peer->relays[i].id);
        method_reply_addr(r, "addr", &peer->relays[i].addr);
        reply_end(r);
    }
    reply_end(r);
}

void method_trace(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    uint64_t now_ns = node_now_ns();
    struct id id;
    if (!method_peer_param(node, call, params, "id", &id))
        return;
    const struct node_peer *peer = peers_find(node, &id);
    struct steps *steps = calloc(1, sizeof *steps);
    if (steps == NULL) {
        control_fail(call, ERR_NO_MEMORY, "not enough memory for the log");
        return;
    }
    add_paths(node, &id, steps);
    add_attempts(node, &id, steps);
    add_rounds(node, &id, steps);
    qsort(steps->at, steps->count, sizeof steps->at[0], by_time);
    if (peer == NULL && steps->count == 0) {
        control_fail(call, ERR_NOT_FOUND, "nothing was tried for this peer; dunlin speed connects to it");
        free(steps);
        return;
    }
    uint64_t ready_ns = nat_punch_ready_ns(node->punch, &id);
    struct reply *r = control_answer(call);
    reply_id(r, "id", &id);
    reply_bool(r, "connected", peer != NULL && peer->connected);
    reply_bool(r, "wanted", peer != NULL && peer->wanted_until_ns > now_ns);
    reply_str(r, "path", methods_path_text(node, &id));
    methods_reply_candidates(node, r, &id);
    reply_relays(r, peer);
    reply_rounds(node, r, &id, now_ns);
    reply_float(r, "punch_ready_s", ready_ns > now_ns ? (double)(ready_ns - now_ns) / 1e9 : 0);
    reply_log(r, steps, now_ns);
    control_finish(call, false);
    free(steps);
}
