/* The relay's quotas: rates and volumes, for each client and in all. */
#include "relay_bench.h"

/* Bytes forwarded of what is offered at twice the rate over five seconds, in frames of len. */
static uint64_t pump(struct bench *b, unsigned from, unsigned side, uint64_t session, uint64_t offered_rate,
                     size_t len, unsigned ms)
{
    uint64_t bytes = 0, owed = 0;
    struct net_addr to;
    for (unsigned i = 0; i < ms; i++) {
        b->now_ns += MS;
        for (owed += offered_rate / 1000; owed >= len; owed -= len)
            bytes += frame_from(b, node_addr(from), side, session, len, &to) ? len : 0;
    }
    return bytes;
}

/* The rate of a client and the rate of all are kept to within 5 % over five seconds, from the first. */
Test(relay_quota, rates_within_five_percent)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    cr_assert(reserve(b, 2));
    uint64_t session = join(b, 1, 2);
    uint64_t bytes = pump(b, 1, 0, session, 2 * config.client_rate, 1232, 5000);
    double ratio = (double)bytes / (5.0 * (double)config.client_rate);
    cr_assert(ratio > 0.95 && ratio < 1.05, "client: %f", ratio);
    struct nat_relay_node_info info[4];
    size_t n = nat_relay_nodes(b->relay, b->now_ns, info, 4);
    cr_assert_eq(n, 2);
    cr_assert_gt(info[0].dropped_rate + info[1].dropped_rate, 1000);
    nat_relay_set_rates(b->relay, b->now_ns, 0, 2000000);
    bytes = pump(b, 1, 0, session, 8000000, 1232, 5000);
    ratio = (double)bytes / (5.0 * 2000000.0);
    cr_assert(ratio > 0.95 && ratio < 1.05, "total: %f", ratio);
    nat_relay_set_rates(b->relay, b->now_ns, 300000, 2000000);
    bytes = pump(b, 2, 1, session, 3000000, 1232, 5000);
    ratio = (double)bytes / (5.0 * 300000.0);
    cr_assert(ratio > 0.95 && ratio < 1.05, "changed live: %f", ratio);
    bench_close(b);
}

/* While bulk is four times over the rate, small packets of a hundredth of it all pass. */
Test(relay_quota, control_passes_beside_bulk)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    struct net_addr to;
    cr_assert(reserve(b, 2));
    uint64_t session = join(b, 1, 2);
    unsigned passed = 0;
    for (unsigned i = 0; i < 500; i++) {
        (void)pump(b, 1, 0, session, 4 * config.client_rate, 1232, 10);
        passed += frame_from(b, node_addr(1), 0, session, 150, &to);
    }
    cr_assert_eq(passed, 500);
    bench_close(b);
}

/* Both the opener's and the target's volume count both ways; when one is spent both ends are told, nothing
 * passes any more, new sessions are refused, and the next period starts anew. */
Test(relay_quota, volume_ends_with_a_notice)
{
    struct nat_relay_config config = nat_relay_config_default();
    config.client_volume = 100000;
    config.period_ns = 60000 * MS;
    struct bench *b = bench_open(&config);
    struct nat_relay_message m;
    cr_assert(reserve(b, 2));
    uint64_t session = join(b, 1, 2);
    uint64_t bytes = pump(b, 1, 0, session, 40000, 1000, 1000);
    bytes += pump(b, 2, 1, session, 200000, 1000, 1000);
    cr_assert_eq(bytes, config.client_volume);
    nat_relay_tick(b->relay, b->now_ns);
    collect(b);
    cr_assert(heard(b, 1, NAT_RELAY_NOTICE, &m));
    cr_assert_eq(m.reason, NAT_RELAY_BY_QUOTA);
    cr_assert(heard(b, 2, NAT_RELAY_NOTICE, &m));
    cr_assert_eq(m.reason, NAT_RELAY_BY_QUOTA);
    cr_assert_eq(say(b, 3, open_message(b, 2)), ERR_OK);
    cr_assert(heard(b, 3, NAT_RELAY_REFUSED, &m));
    cr_assert_eq(m.reason, NAT_RELAY_BY_QUOTA);
    b->now_ns += config.period_ns;
    cr_assert(reserve(b, 2));
    session = join(b, 3, 2);
    cr_assert(passes(b, 3, 2, 0, session));
    bench_close(b);
}
