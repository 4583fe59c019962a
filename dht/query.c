#include "dht/query.h"

#include <string.h>

void dht_queries_init(struct dht_queries *q, struct dht_query *pool, size_t count, uint64_t resend_ns,
                      uint64_t timeout_ns)
{
    ASSERT(count > 0 && count <= DHT_QUERIES_MAX);
    ASSERT(resend_ns < timeout_ns);
    memset(pool, 0, count * sizeof *pool);
    *q = (struct dht_queries){
        .pool = pool, .count = count, .resend_ns = resend_ns, .timeout_ns = timeout_ns, .due_ns = UINT64_MAX};
}

struct dht_query *dht_queries_start(struct dht_queries *q, const struct rng *rng, uint64_t now_ns,
                                    uint8_t kind, enum dht_purpose purpose, uint32_t handle,
                                    const struct dht_contact *peer)
{
    if (q->used == q->count)
        return NULL;
    while (q->pool[q->next].used)
        q->next = (q->next + 1) % q->count;
    struct dht_query *query = &q->pool[q->next];
    *query = (struct dht_query){.used = true,
                                .kind = kind,
                                .purpose = purpose,
                                .request = (rng_u32(rng) & ~UINT32_C(0xff)) | (uint32_t)q->next,
                                .handle = handle,
                                .peer = *peer,
                                .sent_ns = now_ns};
    q->next = (q->next + 1) % q->count;
    q->used++;
    if (now_ns + q->resend_ns < q->due_ns)
        q->due_ns = now_ns + q->resend_ns;
    return query;
}

struct dht_query *dht_queries_match(struct dht_queries *q, uint8_t reply_kind, uint32_t request,
                                    const struct dht_contact *from)
{
    size_t slot = request & 0xff;
    if (slot >= q->count)
        return NULL;
    struct dht_query *query = &q->pool[slot];
    if (!query->used || query->request != request || query->kind + 1 != reply_kind ||
        !id_equal(&query->peer.id, &from->id) || !net_addr_equal(&query->peer.addr, &from->addr))
        return NULL;
    return query;
}

void dht_queries_end(struct dht_queries *q, struct dht_query *query)
{
    ASSERT(query->used && q->used > 0);
    query->used = false;
    q->used--;
}

uint64_t dht_query_due_ns(const struct dht_queries *q, const struct dht_query *query)
{
    return query->sent_ns + (query->resent ? q->timeout_ns : q->resend_ns);
}

bool dht_queries_asking(const struct dht_queries *q, const struct id *peer, enum dht_purpose purpose)
{
    for (size_t i = 0; i < q->count; i++) {
        const struct dht_query *query = &q->pool[i];
        if (query->used && query->purpose == purpose && id_equal(&query->peer.id, peer))
            return true;
    }
    return false;
}

size_t dht_queries_for(const struct dht_queries *q, enum dht_purpose purpose)
{
    size_t n = 0;
    for (size_t i = 0; i < q->count; i++)
        n += q->pool[i].used && q->pool[i].purpose == purpose;
    return n;
}
