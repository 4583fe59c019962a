/* Two TLS links joined in memory, for tests: bytes go across in pieces of any size. */
#ifndef DUNLIN_TESTS_TLS_PAIR_H
#define DUNLIN_TESTS_TLS_PAIR_H

#include <criterion/criterion.h>
#include <sodium.h>
#include <string.h>

#include "base/rng.h"
#include "net/tls_link.h"

enum { TLS_PAIR_NETWORK = 0x0badcafe };

#define TLS_PAIR_SECOND UINT64_C(1000000000)

struct tls_pair_end {
    struct net_identity identity;
    struct tls_link_keys *keys;
    struct tls_link *link;
    uint64_t received;                                      /* datagrams */
    void (*on_datagram)(void *user, struct bytes datagram); /* NULL: only counted */
    void *user;
};

struct tls_pair {
    struct tls_pair_end client, server;
    uint64_t now_ns;
};

static inline void tls_pair_keys(struct tls_pair_end *end, uint8_t number, uint32_t network)
{
    uint8_t seed[NET_SEED_BYTES];
    struct allocator allocator = allocator_system();
    cr_assert_geq(sodium_init(), 0);
    memset(seed, number, sizeof seed);
    net_identity_init(&end->identity, seed);
    cr_assert_eq(tls_link_keys_create(&end->keys, &allocator, &end->identity, network), ERR_OK);
}

/* Both ends with links that have not spoken yet; expected: whom the client dials, NULL: the server's id. */
static inline void tls_pair_open(struct tls_pair *pair, const struct id *expected)
{
    pair->now_ns = TLS_PAIR_SECOND;
    if (pair->client.keys == NULL)
        tls_pair_keys(&pair->client, 1, TLS_PAIR_NETWORK);
    if (pair->server.keys == NULL)
        tls_pair_keys(&pair->server, 2, TLS_PAIR_NETWORK);
    if (expected == NULL)
        expected = &pair->server.identity.id;
    cr_assert_eq(tls_link_create(&pair->client.link, pair->client.keys, false, expected, pair->now_ns),
                 ERR_OK);
    cr_assert_eq(tls_link_create(&pair->server.link, pair->server.keys, true, NULL, pair->now_ns), ERR_OK);
}

static inline void tls_pair_close(struct tls_pair *pair)
{
    struct tls_pair_end *ends[2] = {&pair->client, &pair->server};
    for (int i = 0; i < 2; i++) {
        tls_link_destroy(ends[i]->link);
        tls_link_keys_destroy(ends[i]->keys);
    }
}

static inline void tls_pair_poll(struct tls_pair_end *end)
{
    struct bytes datagram;
    while (tls_link_poll(end->link, &datagram)) {
        end->received++;
        if (end->on_datagram != NULL)
            end->on_datagram(end->user, datagram);
    }
}

/* Feeds all of in, as a driver does.  Returns the last result. */
static inline int tls_pair_feed(struct tls_pair_end *end, uint64_t now_ns, struct bytes in)
{
    int taken = 0;
    while (in.len > 0 && (taken = tls_link_feed(end->link, now_ns, in)) >= 0) {
        in = bytes_of(in.data + taken, in.len - (size_t)taken);
        tls_pair_poll(end);
        tls_link_check_invariants(end->link);
    }
    return taken;
}

/* Takes at most len bytes from one end to the other.  Returns how many went. */
static inline size_t tls_pair_move(struct tls_pair *pair, struct tls_pair_end *from, struct tls_pair_end *to,
                                   size_t len)
{
    struct bytes out = tls_link_output(from->link, pair->now_ns);
    len = out.len < len ? out.len : len;
    if (len == 0)
        return 0;
    (void)tls_pair_feed(to, pair->now_ns, bytes_of(out.data, len));
    tls_link_written(from->link, pair->now_ns, len);
    tls_link_check_invariants(from->link);
    return len;
}

/* Both ways in pieces of at most len bytes, until neither end has more to say. */
static inline void tls_pair_pump(struct tls_pair *pair, size_t len)
{
    while (tls_pair_move(pair, &pair->client, &pair->server, len) +
               tls_pair_move(pair, &pair->server, &pair->client, len) >
           0)
        continue;
}

#endif
