/* Outstanding requests: a fixed pool.  A request is sent, sent again once after resend_ns, and given up after
 * timeout_ns.  The low byte of a request id is its slot, the rest is random, so that a reply is matched in
 * one step; it must also come from the very peer and address that were asked. */
#ifndef DUNLIN_DHT_QUERY_H
#define DUNLIN_DHT_QUERY_H

#include "dht/dht.h"

enum { DHT_QUERIES_MAX = 256 };

enum dht_purpose {
    DHT_FOR_TABLE,   /* ping of a newcomer or of a doubtful contact */
    DHT_FOR_COMMAND, /* dht_ping */
    DHT_FOR_LOOKUP,
    DHT_FOR_STORE,
};

struct dht_query {
    bool used;
    bool resent;
    uint8_t kind; /* of the request */
    enum dht_purpose purpose;
    uint32_t request;
    uint32_t handle; /* COMMAND: the command's; LOOKUP and STORE: serial of the lookup */
    struct dht_contact peer;
    uint64_t sent_ns; /* first time */
};

struct dht_queries {
    struct dht_query *pool; /* [count] */
    size_t count;
    size_t used;
    size_t next; /* slot to try first */
    uint64_t resend_ns;
    uint64_t timeout_ns;
    uint64_t due_ns; /* no query is due before this */
};

/* pool [count] (at most DHT_QUERIES_MAX, asserted) is borrowed until the pool is dropped. */
void dht_queries_init(struct dht_queries *q, struct dht_query *pool, size_t count, uint64_t resend_ns,
                      uint64_t timeout_ns);
/* A new outstanding request, or NULL when the pool is full. */
struct dht_query *dht_queries_start(struct dht_queries *q, const struct rng *rng, uint64_t now_ns,
                                    uint8_t kind, enum dht_purpose purpose, uint32_t handle,
                                    const struct dht_contact *peer);
/* The request that a reply of this kind answers, or NULL: unknown, over, other peer, other address. */
struct dht_query *dht_queries_match(struct dht_queries *q, uint8_t reply_kind, uint32_t request,
                                    const struct dht_contact *from);
void dht_queries_end(struct dht_queries *q, struct dht_query *query);
/* When this query is next due: its resend, then its time-out. */
uint64_t dht_query_due_ns(const struct dht_queries *q, const struct dht_query *query);
/* True when a request to this peer for this purpose is outstanding. */
bool dht_queries_asking(const struct dht_queries *q, const struct id *peer, enum dht_purpose purpose);
size_t dht_queries_for(const struct dht_queries *q, enum dht_purpose purpose);

#endif
