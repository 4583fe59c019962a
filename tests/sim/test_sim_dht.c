/* What must hold of a whole DHT: whoever is alive finds what is stored, through loss, crashes, partitions and
 * liars; the same seed gives the same trace; no forged request turns a node into an amplifier.  Every run
 * checks the invariants of the nodes that ran. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dht/wire.h"
#include "sim/sim_dht.h"

#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
enum { BIG = 120, HOSTILE = 80, FINDS = 60 };
#else
enum { BIG = 1000, HOSTILE = 400, FINDS = 200 };
#endif

static const uint64_t second = UINT64_C(1000000000);

static struct sim_dht_options options_of(uint64_t seed, size_t nodes)
{
    const char *forced = getenv("DUNLIN_SIM_SEED"); /* repeats a failure, or tries other seeds */
    return (struct sim_dht_options){
        .seed = forced == NULL ? seed : strtoull(forced, NULL, 10),
        .nodes = nodes,
        .link = {.latency_min_ns = 5 * second / 1000,
                 .latency_max_ns = 120 * second / 1000,
                 .loss_ppm = 20000,
                 .duplicate_ppm = 5000},
        .join_spread_ns = 60 * second,
        .check_every = nodes > 200 ? 256 : 4,
    };
}

static void expect_found(struct sim_dht_world *w, const char *what, size_t count, const size_t *providers,
                         double least)
{
    uint64_t mean_ms;
    double requests, hops;
    size_t found = sim_dht_find_all(w, count, providers, &mean_ms, &requests, &hops);
    printf("%s: %zu of %zu found, first value after %llu ms, %.1f requests, %.1f hops; %zu B a node, %llu "
           "checks\n",
           what, found, count, (unsigned long long)mean_ms, requests, hops, w->memory_bytes,
           (unsigned long long)w->checks);
    cr_assert((double)found >= least * (double)count, "%s: %zu of %zu; repeat with DUNLIN_SIM_SEED=%llu",
              what, found, count, (unsigned long long)w->options.seed);
}

static void expect_all_ready(struct sim_dht_world *w)
{
    size_t ready = 0;
    size_t up = 0;
    for (size_t i = 0; i < w->options.nodes; i++) {
        up += w->sim->nodes[i].up;
        ready += w->sim->nodes[i].up && dht_ready(w->nodes[i].core);
    }
    cr_assert_eq(ready, up, "%zu of %zu ready; seed %llu", ready, up, (unsigned long long)w->options.seed);
}

Test(sim_dht, everyone_joins_and_every_record_is_found, .timeout = 300)
{
    struct sim_dht_options options = options_of(1, BIG);
    struct sim_dht_world *w = sim_dht_create(&options);
    static size_t providers[FINDS];
    sim_dht_run(w, w->sim->now_ns + 60 * second);
    expect_all_ready(w);
    cr_assert_leq(w->memory_bytes, 256 * 1024);
    sim_dht_announce(w, FINDS, providers);
    expect_found(w, "plain", FINDS, providers, 0.99);
    sim_dht_destroy(w);
}

Test(sim_dht, one_in_five_hostile_does_not_hide_records, .timeout = 300)
{
    struct sim_dht_options options = options_of(2, HOSTILE);
    options.silent_percent = 10;
    options.liar_percent = 10;
    struct sim_dht_world *w = sim_dht_create(&options);
    static size_t providers[FINDS];
    sim_dht_run(w, w->sim->now_ns + 60 * second);
    expect_all_ready(w);
    sim_dht_announce(w, FINDS, providers);
    expect_found(w, "20 % hostile", FINDS, providers, 0.95);
    sim_dht_destroy(w);
}

Test(sim_dht, partition_and_crashes_heal, .timeout = 300)
{
    struct sim_dht_options options = options_of(3, 100);
    struct sim_dht_world *w = sim_dht_create(&options);
    static size_t providers[40];
    sim_dht_run(w, w->sim->now_ns + 60 * second);
    for (size_t i = 0; i < 100; i++)
        w->sim->nodes[i].side = i % 3 == 0;
    sim_dht_run(w, w->sim->now_ns + 120 * second);
    for (size_t i = 0; i < 100; i++)
        w->sim->nodes[i].side = 0;
    for (size_t i = 50; i < 80; i++)
        sim_stop(w->sim, i);
    sim_dht_run(w, w->sim->now_ns + 60 * second);
    for (size_t i = 50; i < 65; i++)
        sim_dht_restart(w, i);
    sim_dht_run(w, w->sim->now_ns + 20 * 60 * second);
    expect_all_ready(w);
    sim_dht_announce(w, 40, providers);
    expect_found(w, "after partition and crashes", 40, providers, 0.97);
    sim_dht_destroy(w);
}

/* Records live on through the loss of a third of their storers, because k of them hold each. */
Test(sim_dht, records_survive_crashes_of_storers, .timeout = 300)
{
    struct sim_dht_options options = options_of(4, 100);
    struct sim_dht_world *w = sim_dht_create(&options);
    static size_t providers[30];
    sim_dht_run(w, w->sim->now_ns + 60 * second);
    sim_dht_announce(w, 30, providers);
    for (size_t i = 0; i < 100; i++) {
        if (i % 3 == 1)
            sim_stop(w->sim, i);
    }
    expect_found(w, "a third crashed", 30, providers, 0.97);
    sim_dht_destroy(w);
}

static uint64_t trace_of(uint64_t seed)
{
    struct sim_dht_options options = options_of(seed, 60);
    options.seed = seed;
    options.liar_percent = 10;
    options.check_every = 16;
    struct sim_dht_world *w = sim_dht_create(&options);
    static size_t providers[10];
    uint64_t mean_ms;
    double requests, hops;
    sim_dht_announce(w, 10, providers);
    (void)sim_dht_find_all(w, 10, providers, &mean_ms, &requests, &hops);
    sim_dht_run(w, 600 * second);
    uint64_t trace = sim_trace(w->sim);
    sim_dht_destroy(w);
    return trace;
}

Test(sim_dht, same_seed_same_trace, .timeout = 300)
{
    uint64_t first = trace_of(77);
    cr_assert_eq(first, trace_of(77));
    cr_assert_neq(first, trace_of(78));
}

/* A hostile node sends well-formed requests with the victim's address as source, padded and bare, in a flood.
 */
Test(sim_dht, forged_source_addresses_are_not_amplified, .timeout = 300)
{
    struct sim_dht_options options = options_of(5, 60);
    options.link.loss_ppm = 0;
    options.link.duplicate_ppm = 0;
    struct sim_dht_world *w = sim_dht_create(&options);
    sim_dht_run(w, w->sim->now_ns + 60 * second);
    const struct net_addr victim = w->sim->nodes[1].addr;
    cr_assert_eq(w->sim->counts.misdirected_bytes, 0);
    uint64_t sent = 0;
    for (uint32_t i = 0; i < 4000; i++) {
        static const uint8_t kinds[] = {DHT_PING, DHT_FIND, DHT_GET};
        struct dht_wire m;
        memset(&m, 0, sizeof m);
        m.kind = kinds[i % 3];
        m.request = i;
        m.type = DHT_RECORD_PROVIDER;
        m.target = sim_dht_key(i);
        m.has_token = i % 5 == 0;
        m.padded = m.kind != DHT_PING && i % 2 == 0 ? DHT_WIRE_PADDED : 0;
        const struct sim_node *reflector = &w->sim->nodes[2 + i % 40];
        struct net_message out = {.peer = reflector->id, .addr = reflector->addr, .kind = m.kind};
        out.body_len = dht_wire_encode(&m, out.body, NET_BODY_MAX);
        sent += out.body_len;
        sim_send_forged(w->sim, 59, &victim, &out);
        sim_dht_run(w, w->sim->now_ns + second / 100);
    }
    sim_dht_run(w, w->sim->now_ns + 5 * second);
    uint64_t reflected = w->sim->counts.misdirected_bytes;
    printf("reflected %llu bytes for %llu\n", (unsigned long long)reflected, (unsigned long long)sent);
    cr_assert_gt(reflected, 0);
    cr_assert_leq(reflected, sent * DHT_WIRE_AMPLIFY);
    sim_dht_destroy(w);
}
