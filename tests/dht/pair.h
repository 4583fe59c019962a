/* A few cores joined by an in-memory queue and a clock moved by hand, with a signature check that costs
 * nothing: the signature of a message is its hash with the owner's id. */
#ifndef DUNLIN_TESTS_DHT_PAIR_H
#define DUNLIN_TESTS_DHT_PAIR_H

#include "dht/dht.h"
#include "dht/internal.h"

enum { PAIR_MAX = 32, PAIR_EVENTS = 512 };

struct pair_node {
    struct dht *core;
    void *memory;
    struct dht_contact self;
    struct rng_seeded stream;
    bool deaf; /* hears nothing */
    struct dht_event events[PAIR_EVENTS];
    size_t event_count;
};

struct pair {
    struct pair_node nodes[PAIR_MAX];
    size_t count;
    uint64_t now_ns;
    uint64_t wall_ms;
    uint64_t delivered;
    struct net_message last; /* newest datagram seen on the wire */
};

void pair_sign(void *user, const char *label, struct bytes message, uint8_t signature[NET_SIGNATURE_BYTES]);
int pair_verify(void *user, const struct id *id, const char *label, struct bytes message,
                const uint8_t signature[NET_SIGNATURE_BYTES]);
/* Small config of a node with this number; its rng borrows stream. */
struct dht_config pair_config(struct rng_seeded *stream, unsigned number);
struct id pair_id(unsigned number);
/* 127.0.0.1:2000 + number, or with global a public address of its own /24. */
struct net_addr pair_addr(unsigned number, bool global);
/* count nodes; config may be NULL for pair_config. */
struct pair *pair_create(size_t count, const struct dht_config *base);
void pair_destroy(struct pair *p);
/* Moves datagrams and collects events until none is left, checking invariants. */
void pair_pump(struct pair *p);
/* Advances the clock in steps at the cores' deadlines, pumping. */
void pair_run(struct pair *p, uint64_t ns);
/* The event with this handle and kind, or NULL. */
const struct dht_event *pair_event(const struct pair *p, size_t node, enum dht_event_kind kind,
                                   uint32_t handle);
/* All join through node 0. */
void pair_join(struct pair *p);

#endif
