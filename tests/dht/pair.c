#include "dht/pair.h"

#include <stdlib.h>
#include <string.h>

#include "base/alloc.h"
#include "base/hash.h"

void pair_sign(void *user, const char *label, struct bytes message, uint8_t signature[NET_SIGNATURE_BYTES])
{
    const struct id *owner = user;
    struct bytes parts[2] = {bytes_of(owner->bytes, ID_BYTES), message};
    struct id hash;
    hash_parts(label, parts, 2, &hash);
    memcpy(signature, hash.bytes, ID_BYTES);
    memcpy(signature + ID_BYTES, hash.bytes, ID_BYTES);
}

int pair_verify(void *user, const struct id *id, const char *label, struct bytes message,
                const uint8_t signature[NET_SIGNATURE_BYTES])
{
    (void)user;
    struct id owner = *id;
    uint8_t expected[NET_SIGNATURE_BYTES];
    pair_sign(&owner, label, message, expected);
    return memcmp(expected, signature, sizeof expected) == 0 ? ERR_OK : ERR_AUTH;
}

struct id pair_id(unsigned number)
{
    uint8_t text[4];
    struct id id;
    store_le32(text, number);
    hash_content(bytes_of(text, sizeof text), &id);
    return id;
}

struct net_addr pair_addr(unsigned number, bool global)
{
    struct net_addr addr = {.family = NET_FAMILY_V4, .ip = {127, 0, 0, 1}, .port = (uint16_t)(2000 + number)};
    if (global) {
        addr.ip[0] = (uint8_t)(20 + number / 65536);
        addr.ip[1] = (uint8_t)(number / 256 % 256);
        addr.ip[2] = (uint8_t)(number % 256);
    }
    return addr;
}

struct dht_config pair_config(struct rng_seeded *stream, unsigned number)
{
    struct dht_config config = dht_config_small();
    rng_seeded_init(stream, number);
    config.id = pair_id(number);
    config.rng = rng_of_seeded(stream);
    config.sign = pair_sign;
    config.verify = pair_verify;
    return config;
}

static void create_node(struct pair *p, unsigned number, const struct dht_config *base)
{
    struct pair_node *n = &p->nodes[number];
    struct allocator heap = allocator_system();
    struct dht_config config = pair_config(&n->stream, number);
    if (base != NULL) {
        struct dht_config own = config;
        config = *base;
        config.id = own.id;
        config.rng = own.rng;
    }
    n->self = (struct dht_contact){.id = config.id, .addr = pair_addr(number, false)};
    config.crypto_user = &n->self.id;
    size_t size = dht_size_bytes(&config);
    n->memory = allocator_get(&heap, 1, size);
    ASSERT(n->memory != NULL);
    int rc = dht_init(&n->core, n->memory, size, &config, p->now_ns);
    ASSERT(rc == ERR_OK);
    dht_set_addresses(n->core, p->now_ns, &n->self.addr, 1, bytes_of(NULL, 0));
}

struct pair *pair_create(size_t count, const struct dht_config *base)
{
    struct pair *p = calloc(1, sizeof *p);
    ASSERT(p != NULL && count <= PAIR_MAX);
    p->count = count;
    p->now_ns = UINT64_C(1000000000);
    p->wall_ms = UINT64_C(1800000000000);
    for (unsigned i = 0; i < count; i++)
        create_node(p, i, base);
    return p;
}

void pair_destroy(struct pair *p)
{
    struct allocator heap = allocator_system();
    for (size_t i = 0; i < p->count; i++) {
        dht_deinit(p->nodes[i].core);
        allocator_release(&heap, p->nodes[i].memory);
    }
    free(p);
}

static void deliver(struct pair *p, size_t from, struct net_message *m)
{
    p->last = *m;
    for (size_t i = 0; i < p->count; i++) {
        struct pair_node *to = &p->nodes[i];
        if (to->deaf || !net_addr_equal(&to->self.addr, &m->addr) || !id_equal(&to->self.id, &m->peer))
            continue;
        m->peer = p->nodes[from].self.id;
        m->addr = p->nodes[from].self.addr;
        (void)dht_recv(to->core, p->now_ns, p->wall_ms, m);
        p->delivered++;
        return;
    }
}

static bool pump_node(struct pair *p, size_t at)
{
    struct pair_node *n = &p->nodes[at];
    struct net_message m;
    struct dht_event e;
    bool moved = false;
    while (dht_poll_event(n->core, &e)) {
        ASSERT(n->event_count < PAIR_EVENTS);
        n->events[n->event_count++] = e;
        moved = true;
    }
    while (dht_poll_send(n->core, &m)) {
        deliver(p, at, &m);
        moved = true;
    }
    dht_check_invariants(n->core);
    return moved;
}

void pair_pump(struct pair *p)
{
    bool moved = true;
    while (moved) {
        moved = false;
        for (size_t i = 0; i < p->count; i++) {
            moved |= pump_node(p, i);
            if (dht_deadline_ns(p->nodes[i].core) <= p->now_ns) {
                dht_tick(p->nodes[i].core, p->now_ns, p->wall_ms);
                moved |= pump_node(p, i);
            }
        }
    }
}

void pair_run(struct pair *p, uint64_t ns)
{
    uint64_t end_ns = p->now_ns + ns;
    uint64_t start_ns = p->now_ns;
    uint64_t start_ms = p->wall_ms;
    pair_pump(p);
    while (p->now_ns < end_ns) {
        uint64_t next_ns = end_ns;
        for (size_t i = 0; i < p->count; i++) {
            uint64_t deadline = dht_deadline_ns(p->nodes[i].core);
            next_ns = deadline < next_ns ? deadline : next_ns;
        }
        p->now_ns = next_ns > p->now_ns ? next_ns : p->now_ns + 1;
        p->wall_ms = start_ms + (p->now_ns - start_ns) / 1000000;
        pair_pump(p);
    }
}

const struct dht_event *pair_event(const struct pair *p, size_t node, enum dht_event_kind kind,
                                   uint32_t handle)
{
    for (size_t i = 0; i < p->nodes[node].event_count; i++) {
        const struct dht_event *e = &p->nodes[node].events[i];
        if (e->kind == kind && e->handle == handle)
            return e;
    }
    return NULL;
}

void pair_join(struct pair *p)
{
    for (size_t i = 1; i < p->count; i++) {
        int rc = dht_bootstrap(p->nodes[i].core, p->now_ns, &p->nodes[0].self);
        ASSERT(rc == ERR_OK);
        pair_run(p, UINT64_C(200000000));
    }
    pair_run(p, UINT64_C(20000000000));
}
