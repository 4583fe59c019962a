/* A world of DHT nodes in the simulator: honest ones run the real core with real signatures; hostile ones
 * run it too, to get into tables, but lie when asked. */
#ifndef DUNLIN_TESTS_SIM_DHT_H
#define DUNLIN_TESTS_SIM_DHT_H

#include "dht/dht.h"
#include "sim/sim.h"

enum sim_dht_kind {
    SIM_DHT_HONEST,
    SIM_DHT_SILENT, /* joins, then never answers finds, gets and stores; pings it answers */
    SIM_DHT_LIAR,   /* names invented nodes beside the target and its accomplices; says it stored and does not
                     */
};

struct sim_dht_world;

struct sim_dht_node {
    struct sim_dht_world *world;
    size_t index;
    enum sim_dht_kind kind;
    struct net_identity identity;
    struct id position;
    struct rng_seeded stream;
    struct dht *core;
    void *memory;
    struct net_message lie; /* one answer of a hostile node waits here */
    bool lying;
    size_t finals;         /* final events seen */
    struct dht_event last; /* newest final */
    size_t values;         /* VALUE events since the last command */
    struct id value_owner; /* of the newest */
    size_t ready_events;
};

struct sim_dht_options {
    uint64_t seed;
    size_t nodes;
    uint32_t silent_percent;
    uint32_t liar_percent;
    struct sim_link link;
    uint64_t join_spread_ns; /* nodes start evenly over this */
    size_t check_every;      /* invariants of the node that ran, at every n-th event */
};

struct sim_dht_world {
    struct sim_dht_options options;
    struct sim *sim;
    struct sim_dht_node *nodes;
    size_t *liars;
    size_t liar_count;
    size_t memory_bytes; /* of one node */
    uint64_t checks;
};

/* Creates all nodes, each knowing three earlier ones as seeds, and runs until they have started. */
struct sim_dht_world *sim_dht_create(const struct sim_dht_options *options);
void sim_dht_destroy(struct sim_dht_world *w);
/* Runs until virtual time, checking invariants as asked. */
void sim_dht_run(struct sim_dht_world *w, uint64_t until_ns);
/* Restarts a stopped node with an empty table and three random live seeds. */
void sim_dht_restart(struct sim_dht_world *w, size_t node);
/* A random node that is honest and up. */
size_t sim_dht_pick(struct sim_dht_world *w);
/* count distinct honest nodes announce the keys key_of(0..count-1); providers[count] is filled. */
void sim_dht_announce(struct sim_dht_world *w, size_t count, size_t *providers);
struct id sim_dht_key(size_t number);
/* Each of count keys is looked up from a random honest node; returns how many found the right provider. */
size_t sim_dht_find_all(struct sim_dht_world *w, size_t count, const size_t *providers, uint64_t *mean_ms,
                        double *mean_requests, double *mean_hops);

#endif
