#include "sim/sim.h"

#include <sodium.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

struct sim_event {
    struct heap_order order;     /* by time, then first in, first out */
    size_t node;                 /* that runs */
    struct net_message *message; /* NULL: timer; only body_len bytes of its body exist */
};

static void *need(void *block)
{
    ASSERT(block != NULL);
    return block;
}

struct sim *sim_create(uint64_t seed, size_t node_cap, const struct sim_link *link)
{
    struct sim *s = need(calloc(1, sizeof *s));
    s->seed = seed;
    s->now_ns = 1;
    s->wall_start_ms = UINT64_C(1800000000000);
    s->link = *link;
    rng_seeded_init(&s->stream, seed);
    s->rng = rng_of_seeded(&s->stream);
    s->node_cap = node_cap;
    s->nodes = need(calloc(node_cap, sizeof *s->nodes));
    s->heap = heap_of(need(calloc(1024, sizeof(struct sim_event))), sizeof(struct sim_event), 1024);
    s->by_addr_cap = 4 * node_cap + 16;
    s->by_addr = need(calloc(s->by_addr_cap, sizeof *s->by_addr));
    return s;
}

void sim_destroy(struct sim *s)
{
    struct sim_event e;
    while (heap_pop(&s->heap, &e))
        free(e.message);
    free(s->heap.items);
    free(s->nodes);
    free(s->by_addr);
    free(s);
}

static void push(struct sim *s, struct sim_event event)
{
    event.order.tie = s->sequence++;
    if (heap_push(&s->heap, &event))
        return;
    s->heap.cap *= 2;
    s->heap.items = need(realloc(s->heap.items, s->heap.cap * sizeof event));
    bool pushed = heap_push(&s->heap, &event);
    ASSERT(pushed);
}

static size_t addr_slot(const struct sim *s, const struct net_addr *addr)
{
    size_t slot = (load_le32(addr->ip) * UINT32_C(2654435761) ^ addr->port) % s->by_addr_cap;
    while (s->by_addr[slot] != 0 && !net_addr_equal(&s->nodes[s->by_addr[slot] - 1].addr, addr))
        slot = (slot + 1) % s->by_addr_cap;
    return slot;
}

size_t sim_add(struct sim *s, const struct id *id, const struct sim_actor *actor, void *self)
{
    ASSERT(s->node_count < s->node_cap);
    struct net_addr addr;
    size_t slot;
    do {
        memset(&addr, 0, sizeof addr);
        addr.family = NET_FAMILY_V4;
        rng_fill(&s->rng, addr.ip, 4);
        addr.port = (uint16_t)(1024 + rng_below(&s->rng, 60000));
        slot = addr_slot(s, &addr);
    } while (net_addr_scope(&addr) != NET_SCOPE_GLOBAL || s->by_addr[slot] != 0);
    size_t at = s->node_count++;
    s->by_addr[slot] = (uint32_t)at + 1;
    s->nodes[at] = (struct sim_node){
        .id = *id, .addr = addr, .actor = actor, .self = self, .up = true, .armed_ns = UINT64_MAX};
    return at;
}

uint64_t sim_wall_ms(const struct sim *s)
{
    return s->wall_start_ms + s->now_ns / 1000000;
}

static struct net_message *copy_of(const struct net_message *m)
{
    size_t head = offsetof(struct net_message, body);
    struct net_message *copy = need(malloc(head + m->body_len));
    memcpy(copy, m, head + m->body_len);
    return copy;
}

static bool chance(struct sim *s, uint32_t ppm)
{
    return ppm > 0 && rng_below(&s->rng, 1000000) < ppm;
}

static void deliver_later(struct sim *s, size_t sender, size_t to, const struct net_addr *source,
                          const struct net_message *m)
{
    uint64_t spread = s->link.latency_max_ns - s->link.latency_min_ns;
    uint64_t delay = s->link.latency_min_ns + rng_below(&s->rng, spread + 1);
    struct net_message *copy = copy_of(m);
    copy->addr = *source;
    push(s, (struct sim_event){.order.key = s->now_ns + delay, .node = to, .message = copy});
    if (!id_equal(&m->peer, &s->nodes[to].id)) {
        s->counts.misdirected_bytes += m->body_len;
        copy->body_len = 0;
    }
    copy->peer = s->nodes[sender].id;
}

void sim_send_forged(struct sim *s, size_t sender, const struct net_addr *source,
                     const struct net_message *message)
{
    s->counts.sent++;
    s->counts.bytes_sent += message->body_len;
    uint32_t index = s->by_addr[addr_slot(s, &message->addr)];
    if (index == 0 || s->nodes[index - 1].side != s->nodes[sender].side || chance(s, s->link.loss_ppm)) {
        s->counts.lost++;
        return;
    }
    deliver_later(s, sender, index - 1, source, message);
    if (chance(s, s->link.duplicate_ppm))
        deliver_later(s, sender, index - 1, source, message);
}

void sim_settle(struct sim *s, size_t node)
{
    struct sim_node *n = &s->nodes[node];
    struct net_message out;
    n->actor->drain(n->self, s->now_ns);
    while (n->actor->poll_send(n->self, &out))
        sim_send_forged(s, node, &n->addr, &out);
    uint64_t deadline = n->actor->deadline(n->self);
    if (deadline <= s->now_ns)
        deadline = s->now_ns + 1;
    if (deadline >= n->armed_ns)
        return;
    n->armed_ns = deadline;
    if (deadline != UINT64_MAX)
        push(s, (struct sim_event){.order.key = deadline, .node = node, .message = NULL});
}

static void note(struct sim *s, size_t node, const struct net_message *m)
{
    uint8_t text[16 + 8 + 8 + 16 + 2];
    memcpy(text, s->trace, 16);
    store_le64(text + 16, s->now_ns);
    store_le64(text + 24, node);
    memset(text + 32, 0, sizeof text - 32);
    text[32] = m == NULL ? 0 : m->kind;
    if (m != NULL)
        crypto_shorthash(text + 33, m->body, m->body_len, m->peer.bytes);
    crypto_generichash(s->trace, sizeof s->trace, text, sizeof text, NULL, 0);
}

static void run_event(struct sim *s, const struct sim_event *e)
{
    struct sim_node *n = &s->nodes[e->node];
    if (e->message == NULL) {
        n->armed_ns = UINT64_MAX;
        note(s, e->node, NULL);
        n->actor->tick(n->self, s->now_ns, sim_wall_ms(s));
    } else {
        s->counts.delivered++;
        note(s, e->node, e->message);
        n->actor->receive(n->self, s->now_ns, sim_wall_ms(s), e->message);
    }
    sim_settle(s, e->node);
}

bool sim_step(struct sim *s, uint64_t until_ns, size_t *node)
{
    if (node != NULL)
        *node = SIZE_MAX;
    const struct sim_event *top = heap_top(&s->heap);
    if (top == NULL || top->order.key > until_ns) {
        s->now_ns = until_ns;
        return false;
    }
    struct sim_event e;
    (void)heap_pop(&s->heap, &e);
    s->now_ns = e.order.key;
    s->counts.events++;
    const struct sim_node *n = &s->nodes[e.node];
    bool live = n->up && (e.message == NULL ? n->armed_ns == e.order.key : e.message->body_len > 0);
    if (live) {
        run_event(s, &e);
        if (node != NULL)
            *node = e.node;
    }
    free(e.message);
    return true;
}

void sim_run(struct sim *s, uint64_t until_ns)
{
    while (sim_step(s, until_ns, NULL)) {
    }
}

void sim_stop(struct sim *s, size_t node)
{
    s->nodes[node].up = false;
    s->nodes[node].armed_ns = UINT64_MAX;
}

void sim_start(struct sim *s, size_t node)
{
    s->nodes[node].up = true;
    sim_settle(s, node);
}

uint64_t sim_trace(const struct sim *s)
{
    return load_le64(s->trace);
}
