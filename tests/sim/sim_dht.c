#include "sim/sim_dht.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"
#include "dht/id.h"
#include "dht/wire.h"

static const uint64_t second = UINT64_C(1000000000);

static void sign(void *user, const char *label, struct bytes message, uint8_t signature[NET_SIGNATURE_BYTES])
{
    const struct sim_dht_node *n = user;
    net_identity_sign(&n->identity, label, message, signature);
}

static int verify(void *user, const struct id *id, const char *label, struct bytes message,
                  const uint8_t signature[NET_SIGNATURE_BYTES])
{
    (void)user;
    return net_identity_verify(id, label, message, signature);
}

static void invent(struct sim_dht_world *w, const struct id *target, struct dht_contact *out)
{
    /* A liar cannot make the hash of an id fall near the target cheaply, but it can name ids whose keys
     * nobody holds: it searches a few dozen, worth six leading bits. */
    struct sim *s = w->sim;
    struct id best = {{0}};
    unsigned best_prefix = 0;
    for (int i = 0; i < 64; i++) {
        struct id id;
        rng_fill(&s->rng, id.bytes, ID_BYTES);
        struct id position = dht_position_of(&id);
        unsigned prefix = 0;
        while (prefix < 64 &&
               ((position.bytes[prefix / 8] ^ target->bytes[prefix / 8]) >> (7 - prefix % 8) & 1) == 0)
            prefix++;
        if (i == 0 || prefix > best_prefix) {
            best = id;
            best_prefix = prefix;
        }
    }
    *out = (struct dht_contact){.id = best, .addr = {.family = NET_FAMILY_V4, .port = 4000}};
    out->addr.ip[0] = 8;
    rng_fill(&s->rng, out->addr.ip + 1, 3);
}

/* The rank-th nearest node, at an address that is not its own. */
static void misplace(struct sim_dht_world *w, const struct id *target, size_t rank, struct dht_contact *out)
{
    const struct sim_dht_node *nearest = NULL;
    struct id floor = {{0}};
    for (size_t n = 0; n <= rank; n++) {
        nearest = NULL;
        struct id best = {{0}};
        for (size_t i = 0; i < w->sim->node_count; i++) {
            struct id distance = dht_id_distance(target, &w->nodes[i].position);
            if (id_compare(&distance, &floor) > 0 && (nearest == NULL || id_compare(&distance, &best) < 0)) {
                nearest = &w->nodes[i];
                best = distance;
            }
        }
        floor = best;
        if (nearest == NULL)
            nearest = &w->nodes[0];
    }
    *out = (struct dht_contact){.id = nearest->identity.id, .addr = w->sim->nodes[nearest->index].addr};
    out->addr.port ^= 1;
}

static void compose_lie(struct sim_dht_node *n, const struct net_message *request, const struct dht_wire *m)
{
    struct sim_dht_world *w = n->world;
    struct dht_wire lie;
    memset(&lie, 0, sizeof lie);
    lie.kind = (uint8_t)(m->kind + 1);
    lie.request = m->request;
    lie.has_token = true;
    lie.status = DHT_STORED_OK;
    for (size_t i = 0; i < DHT_K && m->kind != DHT_STORE; i++) {
        if (i < 5) {
            misplace(w, &m->target, i, &lie.contacts[i]);
        } else if (i % 2 == 0) {
            invent(w, &m->target, &lie.contacts[i]);
        } else {
            const struct sim_node *friend = &w->sim->nodes[w->liars[rng_below(&w->sim->rng, w->liar_count)]];
            lie.contacts[i] = (struct dht_contact){.id = friend->id, .addr = friend->addr};
        }
        lie.contact_count = i + 1;
    }
    n->lie.peer = request->peer;
    n->lie.addr = request->addr;
    n->lie.kind = lie.kind;
    n->lie.body_len = dht_wire_encode(&lie, n->lie.body, NET_BODY_MAX);
    n->lying = n->lie.body_len > 0;
}

static void on_receive(void *self, uint64_t now_ns, uint64_t wall_ms, const struct net_message *message)
{
    struct sim_dht_node *n = self;
    bool asked = dht_wire_is_request(message->kind) && message->kind != DHT_PING;
    if (n->kind == SIM_DHT_HONEST || !asked) {
        (void)dht_recv(n->core, now_ns, wall_ms, message);
        return;
    }
    struct dht_wire m;
    if (n->kind == SIM_DHT_LIAR &&
        dht_wire_decode(message->kind, bytes_of(message->body, message->body_len), &m) == ERR_OK)
        compose_lie(n, message, &m);
}

static void on_tick(void *self, uint64_t now_ns, uint64_t wall_ms)
{
    dht_tick(((struct sim_dht_node *)self)->core, now_ns, wall_ms);
}

static uint64_t on_deadline(const void *self)
{
    return dht_deadline_ns(((const struct sim_dht_node *)self)->core);
}

static bool on_poll_send(void *self, struct net_message *out)
{
    struct sim_dht_node *n = self;
    if (!n->lying)
        return dht_poll_send(n->core, out);
    *out = n->lie;
    n->lying = false;
    return true;
}

static void on_drain(void *self, uint64_t now_ns)
{
    struct sim_dht_node *n = self;
    struct dht_event e;
    (void)now_ns;
    while (dht_poll_event(n->core, &e)) {
        switch (e.kind) {
        case DHT_EVENT_VALUE:
            n->values++;
            n->value_owner = e.record.owner;
            break;
        case DHT_EVENT_LOOKUP_DONE:
        case DHT_EVENT_PONG:
        case DHT_EVENT_ANNOUNCED:
        case DHT_EVENT_WITHDRAWN:
            n->finals++;
            n->last = e;
            break;
        case DHT_EVENT_READY:
            n->ready_events++;
            break;
        case DHT_EVENT_LOST:
        case DHT_EVENT_CONTACT:
        case DHT_EVENT_NODE:
            break;
        }
    }
}

static const struct sim_actor actor = {on_receive, on_tick, on_deadline, on_poll_send, on_drain};

static void boot(struct sim_dht_world *w, struct sim_dht_node *n)
{
    struct dht_config config = dht_config_small();
    config.id = n->identity.id;
    config.rng = rng_of_seeded(&n->stream);
    config.sign = sign;
    config.verify = verify;
    config.crypto_user = n;
    int rc = dht_init(&n->core, n->memory, w->memory_bytes, &config, w->sim->now_ns);
    ASSERT(rc == ERR_OK);
    dht_set_addresses(n->core, w->sim->now_ns, &w->sim->nodes[n->index].addr, 1, bytes_of(NULL, 0));
}

static void add_seed(struct sim_dht_world *w, struct sim_dht_node *n, size_t seed)
{
    const struct sim_node *s = &w->sim->nodes[seed];
    struct dht_contact contact = {.id = s->id, .addr = s->addr};
    int rc = dht_bootstrap(n->core, w->sim->now_ns, &contact);
    ASSERT(rc == ERR_OK || seed == n->index);
}

static void create_node(struct sim_dht_world *w, size_t index)
{
    struct sim_dht_node *n = &w->nodes[index];
    struct allocator heap = allocator_system();
    n->world = w;
    n->index = index;
    rng_seeded_init(&n->stream, w->options.seed * 1000003 + index);
    struct rng rng = rng_of_seeded(&n->stream);
    net_identity_generate(&n->identity, &rng);
    n->position = dht_position_of(&n->identity.id);
    n->memory = allocator_get(&heap, 1, w->memory_bytes);
    ASSERT(n->memory != NULL);
    uint64_t draw = index < 4 ? 100 : rng_below(&w->sim->rng, 100);
    if (draw < w->options.silent_percent)
        n->kind = SIM_DHT_SILENT;
    else if (draw < w->options.silent_percent + w->options.liar_percent)
        n->kind = SIM_DHT_LIAR;
    size_t at = sim_add(w->sim, &n->identity.id, &actor, n);
    ASSERT(at == index);
    if (n->kind == SIM_DHT_LIAR)
        w->liars[w->liar_count++] = index;
    boot(w, n);
    for (int i = 0; i < 3 && index > 0; i++)
        add_seed(w, n, i == 0 ? 0 : (size_t)rng_below(&w->sim->rng, index));
    sim_settle(w->sim, index);
}

struct sim_dht_world *sim_dht_create(const struct sim_dht_options *options)
{
    struct sim_dht_world *w = calloc(1, sizeof *w);
    ASSERT(w != NULL);
    w->options = *options;
    w->sim = sim_create(options->seed, options->nodes + 8, &options->link);
    w->nodes = calloc(options->nodes, sizeof *w->nodes);
    w->liars = calloc(options->nodes, sizeof *w->liars);
    ASSERT(w->nodes != NULL && w->liars != NULL);
    struct dht_config config = dht_config_small();
    config.rng = w->sim->rng;
    config.sign = sign;
    config.verify = verify;
    w->memory_bytes = dht_size_bytes(&config);
    for (size_t i = 0; i < options->nodes; i++) {
        create_node(w, i);
        sim_dht_run(w, options->join_spread_ns * (i + 1) / options->nodes);
    }
    return w;
}

void sim_dht_destroy(struct sim_dht_world *w)
{
    struct allocator heap = allocator_system();
    for (size_t i = 0; i < w->options.nodes; i++) {
        dht_deinit(w->nodes[i].core);
        allocator_release(&heap, w->nodes[i].memory);
    }
    sim_destroy(w->sim);
    free(w->nodes);
    free(w->liars);
    free(w);
}

void sim_dht_run(struct sim_dht_world *w, uint64_t until_ns)
{
    size_t ran;
    while (sim_step(w->sim, until_ns, &ran)) {
        if (ran >= w->options.nodes || w->sim->counts.events % w->options.check_every != 0)
            continue;
        dht_check_invariants(w->nodes[ran].core);
        w->checks++;
    }
}

size_t sim_dht_pick(struct sim_dht_world *w)
{
    for (;;) {
        size_t at = (size_t)rng_below(&w->sim->rng, w->options.nodes);
        if (w->nodes[at].kind == SIM_DHT_HONEST && w->sim->nodes[at].up)
            return at;
    }
}

void sim_dht_restart(struct sim_dht_world *w, size_t node)
{
    boot(w, &w->nodes[node]);
    for (int i = 0; i < 3; i++) {
        size_t seed = sim_dht_pick(w);
        if (seed != node)
            add_seed(w, &w->nodes[node], seed);
    }
    sim_start(w->sim, node);
}

struct id sim_dht_key(size_t number)
{
    uint8_t text[8];
    struct id key;
    store_le64(text, number);
    hash_content(bytes_of(text, sizeof text), &key);
    return key;
}

void sim_dht_announce(struct sim_dht_world *w, size_t count, size_t *providers)
{
    for (size_t i = 0; i < count; i++) {
        providers[i] = sim_dht_pick(w);
        struct id key = sim_dht_key(i);
        uint32_t handle = 0;
        struct sim_dht_node *n = &w->nodes[providers[i]];
        int rc = dht_announce(n->core, w->sim->now_ns, &key, DHT_TTL_MAX_MS, &handle);
        if (rc == ERR_FULL) { /* this node has its share of announcements */
            i--;
            continue;
        }
        ASSERT(rc == ERR_OK);
        sim_settle(w->sim, providers[i]);
        sim_dht_run(w, w->sim->now_ns + second / 20);
    }
    sim_dht_run(w, w->sim->now_ns + 10 * second);
}

size_t sim_dht_find_all(struct sim_dht_world *w, size_t count, const size_t *providers, uint64_t *mean_ms,
                        double *mean_requests, double *mean_hops)
{
    size_t right = 0;
    uint64_t total_ns = 0;
    uint64_t requests = 0;
    uint64_t hops = 0;
    for (size_t i = 0; i < count; i++) {
        size_t asker = sim_dht_pick(w);
        struct sim_dht_node *n = &w->nodes[asker];
        struct id key = sim_dht_key(i);
        uint32_t handle = 0;
        n->values = 0;
        size_t finals = n->finals;
        uint64_t start_ns = w->sim->now_ns;
        int rc = dht_find_providers(n->core, start_ns, sim_wall_ms(w->sim), &key, &handle);
        ASSERT(rc == ERR_OK);
        sim_settle(w->sim, asker);
        uint64_t found_ns = 0;
        while (n->finals == finals && w->sim->now_ns < start_ns + 60 * second) {
            sim_dht_run(w, w->sim->now_ns + second / 100);
            if (found_ns == 0 && n->values > 0)
                found_ns = w->sim->now_ns - start_ns;
        }
        right += n->values > 0 && id_equal(&n->value_owner, &w->nodes[providers[i]].identity.id);
        total_ns += found_ns;
        requests += n->last.requests;
        hops += n->last.hops;
    }
    *mean_ms = right == 0 ? 0 : total_ns / right / 1000000;
    *mean_requests = (double)requests / (double)count;
    *mean_hops = (double)hops / (double)count;
    return right;
}
