/* A relay core on a bench: messages go in from numbered nodes, what it sends is collected, time is set by
 * hand. */
#ifndef DUNLIN_TESTS_RELAY_BENCH_H
#define DUNLIN_TESTS_RELAY_BENCH_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "nat/relay.h"

#define MS UINT64_C(1000000)

struct bench {
    struct nat_relay *relay;
    struct nat_relay_config config;
    struct rng_seeded stream;
    uint64_t now_ns;
    uint32_t request;
    struct net_message sent[NAT_RELAY_SENDS_MAX];
    size_t sent_count;
};

static inline struct net_addr addr_of(const char *text)
{
    struct net_addr addr;
    int rc = net_addr_parse(text, &addr);
    cr_assert_eq(rc, ERR_OK);
    return addr;
}

static inline struct id node_id(unsigned n)
{
    struct id id = {{1}};
    id.bytes[1] = (uint8_t)(n >> 16);
    id.bytes[2] = (uint8_t)(n >> 8);
    id.bytes[3] = (uint8_t)n;
    return id;
}

/* Node n at a global address of its own /24. */
static inline struct net_addr node_addr(unsigned n)
{
    struct net_addr addr = addr_of("44.1.1.1:1000");
    addr.ip[1] = (uint8_t)(n >> 8);
    addr.ip[2] = (uint8_t)n;
    return addr;
}

static inline struct bench *bench_open(const struct nat_relay_config *config)
{
    struct bench *b = calloc(1, sizeof *b);
    cr_assert_not_null(b);
    b->config = *config;
    b->now_ns = 5000000 * MS;
    rng_seeded_init(&b->stream, 7);
    b->config.self = node_id(999);
    b->config.rng = rng_of_seeded(&b->stream);
    void *memory = malloc(nat_relay_size(&b->config));
    cr_assert_not_null(memory);
    b->relay = nat_relay_init(memory, &b->config, b->now_ns);
    return b;
}

static inline void bench_close(struct bench *b)
{
    free(b->relay);
    free(b);
}

/* Collects what the relay sends now. */
static inline void collect(struct bench *b)
{
    b->sent_count = 0;
    while (b->sent_count < NAT_RELAY_SENDS_MAX &&
           nat_relay_poll_send(b->relay, b->now_ns, &b->sent[b->sent_count]))
        b->sent_count++;
    nat_relay_check_invariants(b->relay);
}

static inline int say_from(struct bench *b, unsigned n, struct net_addr addr, struct nat_relay_message m)
{
    struct net_message message = {.peer = node_id(n), .addr = addr};
    nat_relay_encode(&m, &message);
    int rc = nat_relay_recv(b->relay, b->now_ns, &message);
    nat_relay_tick(b->relay, b->now_ns);
    collect(b);
    return rc;
}

static inline int say(struct bench *b, unsigned n, struct nat_relay_message m)
{
    return say_from(b, n, node_addr(n), m);
}

/* The message of a kind that went to node n in the last exchange; false: none. */
static inline bool heard(const struct bench *b, unsigned n, uint8_t kind, struct nat_relay_message *out)
{
    struct id id = node_id(n);
    for (size_t i = 0; i < b->sent_count; i++) {
        if (b->sent[i].kind != kind || !id_equal(&b->sent[i].peer, &id))
            continue;
        int rc = nat_relay_decode(&b->sent[i], out);
        cr_assert_eq(rc, ERR_OK);
        return true;
    }
    return false;
}

static inline bool reserve_from(struct bench *b, unsigned n, struct net_addr addr)
{
    struct nat_relay_message answer;
    struct nat_relay_message ask = {.kind = NAT_RELAY_RESERVE, .request = ++b->request};
    cr_assert_eq(say_from(b, n, addr, ask), ERR_OK);
    if (heard(b, n, NAT_RELAY_REFUSED, &answer))
        return false;
    cr_assert(heard(b, n, NAT_RELAY_RESERVED, &answer));
    if (!answer.has_nonce) /* known at this address from before */
        return answer.lease_s > 0;
    cr_assert_eq(answer.lease_s, 0, "nothing is held before the address is proven");
    ask.has_nonce = true;
    memcpy(ask.nonce, answer.nonce, sizeof ask.nonce);
    cr_assert_eq(say_from(b, n, addr, ask), ERR_OK);
    if (heard(b, n, NAT_RELAY_REFUSED, &answer))
        return false;
    cr_assert(heard(b, n, NAT_RELAY_RESERVED, &answer));
    cr_assert(!answer.has_nonce && answer.lease_s > 0);
    return true;
}

static inline bool reserve(struct bench *b, unsigned n)
{
    return reserve_from(b, n, node_addr(n));
}

static inline struct nat_relay_message open_message(struct bench *b, unsigned target)
{
    return (struct nat_relay_message){
        .kind = NAT_RELAY_OPEN, .request = ++b->request, .peer = node_id(target)};
}

/* Node `opener` is joined with `target`, which holds a reservation; returns the session. */
static inline uint64_t join(struct bench *b, unsigned opener, unsigned target)
{
    struct nat_relay_message m;
    cr_assert_eq(say(b, opener, open_message(b, target)), ERR_OK);
    cr_assert(heard(b, target, NAT_RELAY_OFFER, &m));
    uint64_t session = m.session;
    cr_assert_eq(say(b, target,
                     (struct nat_relay_message){
                         .kind = NAT_RELAY_ACCEPT, .request = ++b->request, .session = session}),
                 ERR_OK);
    cr_assert(heard(b, opener, NAT_RELAY_OPENED, &m));
    cr_assert_eq(m.session, session);
    cr_assert(heard(b, target, NAT_RELAY_OPENED, &m));
    return session;
}

/* One frame of len bytes; returns whether it is forwarded, and where. */
static inline bool frame_from(struct bench *b, struct net_addr from, unsigned side, uint64_t session,
                              size_t len, struct net_addr *to)
{
    static uint8_t frame[2000];
    struct nat_relay_run run;
    nat_relay_head_write(frame, side, session);
    struct bytes datagram = bytes_of(frame, len);
    size_t n = nat_relay_forward(b->relay, b->now_ns, &from, &datagram, 1, &run, 1);
    if (n == 1)
        *to = run.to;
    return n == 1;
}

static inline bool passes(struct bench *b, unsigned from, unsigned to, unsigned side, uint64_t session)
{
    struct net_addr went, expected = node_addr(to);
    return frame_from(b, node_addr(from), side, session, 100, &went) && net_addr_equal(&went, &expected);
}

#endif
