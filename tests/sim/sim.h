/* A deterministic network in virtual time, for cores that are driven from outside.
 *
 * The simulator owns the clock and one seeded rng, keeps events in a heap ordered by (time, sequence number)
 * so that ties are stable, and jumps from event to event.  A node is an address, an id and an actor of five
 * function pointers; the simulator knows nothing of any protocol.  Links have latency with jitter (hence
 * reordering), loss and duplication; nodes can be stopped, started again, and split into partitions.
 * Datagrams are delivered as sealing would: the sender's id is true, a message for another id is dropped, the
 * address can be forged.
 *
 * Everything that is delivered goes into one hash: the same seed must give the same hash. */
#ifndef DUNLIN_TESTS_SIM_H
#define DUNLIN_TESTS_SIM_H

#include "base/heap.h"
#include "base/rng.h"
#include "net/message.h"

struct sim_actor {
    void (*receive)(void *self, uint64_t now_ns, uint64_t wall_ms, const struct net_message *message);
    void (*tick)(void *self, uint64_t now_ns, uint64_t wall_ms);
    uint64_t (*deadline)(const void *self); /* UINT64_MAX: nothing pending */
    bool (*poll_send)(void *self, struct net_message *out);
    void (*drain)(void *self, uint64_t now_ns); /* take events; may issue commands */
};

struct sim_link {
    uint64_t latency_min_ns;
    uint64_t latency_max_ns;
    uint32_t loss_ppm;
    uint32_t duplicate_ppm;
};

struct sim_counts {
    uint64_t events, sent, delivered, lost;
    uint64_t bytes_sent;
    uint64_t misdirected_bytes; /* arrived at an address whose node is not the one they were meant for */
};

struct sim_node {
    struct id id;
    struct net_addr addr;
    const struct sim_actor *actor;
    void *self;
    bool up;
    unsigned side;     /* nodes of different sides do not hear each other */
    uint64_t armed_ns; /* time of its one live timer event */
};

struct sim {
    uint64_t now_ns;
    uint64_t wall_start_ms;
    uint64_t seed;
    struct rng_seeded stream;
    struct rng rng;
    struct sim_link link;
    struct sim_counts counts;
    uint8_t trace[16]; /* running hash of all deliveries */
    struct sim_node *nodes;
    size_t node_count, node_cap;
    struct heap heap; /* of struct sim_event */
    uint64_t sequence;
    uint32_t *by_addr; /* open-addressed index of nodes by address */
    size_t by_addr_cap;
};

/* A simulator for at most node_cap nodes; heap memory, free with sim_destroy. */
struct sim *sim_create(uint64_t seed, size_t node_cap, const struct sim_link *link);
void sim_destroy(struct sim *s);
/* Adds a node that is up at a random global IPv4 address of its own; returns its index.  self is borrowed. */
size_t sim_add(struct sim *s, const struct id *id, const struct sim_actor *actor, void *self);
uint64_t sim_wall_ms(const struct sim *s);
/* After a command to a node outside receive and tick: drains it and arms its timer. */
void sim_settle(struct sim *s, size_t node);
/* Puts a datagram of a node on the wire with a forged source address. */
void sim_send_forged(struct sim *s, size_t sender, const struct net_addr *source,
                     const struct net_message *message);
/* Runs one event; false when none is left before until_ns (the clock is then at until_ns).  *node (may be
 * NULL) is the node that ran, or SIZE_MAX. */
bool sim_step(struct sim *s, uint64_t until_ns, size_t *node);
void sim_run(struct sim *s, uint64_t until_ns);
/* A stopped node hears and does nothing; started again, its timers run anew (self may be replaced before). */
void sim_stop(struct sim *s, size_t node);
void sim_start(struct sim *s, size_t node);
/* Trace hash so far. */
uint64_t sim_trace(const struct sim *s);

#endif
