/* A whole core under a program of opcodes: time, datagrams raw or well formed, replies to what it asked,
 * commands, a signature check that says no, undrained queues.  After each: invariants; bytes sent to an
 * address that proved nothing stay within three times what came from it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "dht/internal.h"

enum { PEERS = 8, ASKED = 16 };

struct world {
    struct reader in;
    struct dht *d;
    uint64_t now_ns;
    uint64_t wall_ms;
    struct rng_seeded stream;
    bool refuse;
    struct dht_contact peers[PEERS];
    struct net_message asked[ASKED]; /* newest requests of the core */
    size_t asked_count;
    uint32_t handle;
    size_t accepted;
    size_t finals;
};

static void sign(void *user, const char *label, struct bytes message, uint8_t signature[NET_SIGNATURE_BYTES])
{
    (void)user, (void)label, (void)message;
    memset(signature, 1, NET_SIGNATURE_BYTES);
}

static int verify(void *user, const struct id *id, const char *label, struct bytes message,
                  const uint8_t signature[NET_SIGNATURE_BYTES])
{
    (void)id, (void)label, (void)message, (void)signature;
    return ((const struct world *)user)->refuse ? ERR_AUTH : ERR_OK;
}

static void drain(struct world *w)
{
    struct net_message m;
    struct dht_event e;
    while (dht_poll_send(w->d, &m)) {
        ASSERT(m.body_len > 0 && m.body_len <= NET_BODY_MAX);
        if (dht_wire_is_request(m.kind))
            w->asked[w->asked_count++ % ASKED] = m;
    }
    while (dht_poll_event(w->d, &e)) {
        bool interim = e.handle == 0 || e.kind == DHT_EVENT_VALUE || e.kind == DHT_EVENT_NODE;
        w->finals += !interim;
    }
}

static struct dht_contact peer_of(struct world *w)
{
    return w->peers[read_u8(&w->in) % PEERS];
}

static struct id key_of(struct world *w)
{
    return w->peers[read_u8(&w->in) % PEERS].id;
}

static size_t sent_bytes(const struct dht *d, size_t from)
{
    size_t bytes = 0;
    for (size_t i = from; i < d->send_ring.count; i++) {
        const struct net_message *m = &d->sends[ring_at(&d->send_ring, i)];
        bytes += dht_wire_is_request(m->kind) ? 0 : m->body_len;
    }
    return bytes;
}

static void receive(struct world *w, const struct net_message *m, bool proven)
{
    size_t before = w->d->send_ring.count;
    (void)dht_recv(w->d, w->now_ns, w->wall_ms, m);
    ASSERT(proven || sent_bytes(w->d, before) <= DHT_WIRE_AMPLIFY * m->body_len);
}

static void op_raw(struct world *w)
{
    struct dht_contact from = peer_of(w);
    struct net_message m = {.peer = from.id, .addr = from.addr};
    m.kind = (uint8_t)(DHT_PING + read_u8(&w->in) % 10);
    struct bytes body = read_bytes(&w->in, read_u8(&w->in));
    m.body_len = body.len;
    if (body.len > 0)
        memcpy(m.body, body.data, body.len);
    receive(w, &m, false);
}

static void fill(struct world *w, struct dht_wire *m, uint8_t *record)
{
    uint8_t shape = read_u8(&w->in);
    m->client = (shape & 1) != 0;
    m->target = key_of(w);
    m->type = (shape & 2) != 0 ? DHT_RECORD_PEER : DHT_RECORD_PROVIDER;
    m->status = shape >> 2 & 3;
    m->has_token = true;
    m->padded = (shape & 16) != 0 ? DHT_WIRE_PADDED : 0;
    m->contact_count = shape % 5;
    for (size_t i = 0; i < m->contact_count; i++) {
        m->contacts[i] = peer_of(w);
        m->contacts[i].id.bytes[31] ^= read_u8(&w->in) & 15;
    }
    m->value_count = m->kind == DHT_STORE ? 1 : shape >> 5 & 1;
    struct dht_record r;
    memset(&r, 0, sizeof r);
    r.type = (enum dht_record_type)m->type;
    r.key = m->target;
    r.owner = peer_of(w).id;
    r.issued_ms = w->wall_ms + read_u8(&w->in) * UINT64_C(1000);
    r.expires_ms = r.issued_ms + 1 + read_u16(&w->in) * UINT64_C(60);
    m->values[0] = bytes_of(record, dht_record_encode(&r, &w->d->config, record));
}

static void op_request(struct world *w)
{
    struct dht_contact from = peer_of(w);
    struct dht_wire m;
    uint8_t record[DHT_RECORD_BYTES_MAX];
    memset(&m, 0, sizeof m);
    m.kind = (uint8_t)(DHT_PING + 2 * (read_u8(&w->in) % 4));
    m.request = read_u16(&w->in);
    fill(w, &m, record);
    bool proven = (read_u8(&w->in) & 1) != 0;
    if (proven)
        dht_tokens_make(&w->d->tokens, &from, m.token);
    struct net_message out = {.peer = from.id, .addr = from.addr, .kind = m.kind};
    out.body_len = dht_wire_encode(&m, out.body, NET_BODY_MAX);
    ASSERT(out.body_len > 0);
    receive(w, &out, proven);
}

static void op_reply(struct world *w)
{
    drain(w);
    if (w->asked_count == 0)
        return;
    size_t kept = w->asked_count < ASKED ? w->asked_count : ASKED;
    struct net_message asked = w->asked[read_u8(&w->in) % kept];
    struct dht_wire request, m;
    uint8_t record[DHT_RECORD_BYTES_MAX];
    int rc = dht_wire_decode(asked.kind, bytes_of(asked.body, asked.body_len), &request);
    ASSERT(rc == ERR_OK);
    memset(&m, 0, sizeof m);
    m.kind = (uint8_t)(asked.kind + 1);
    m.request = request.request;
    fill(w, &m, record);
    m.padded = 0;
    asked.kind = m.kind;
    asked.body_len = dht_wire_encode(&m, asked.body, NET_BODY_MAX);
    ASSERT(asked.body_len > 0);
    receive(w, &asked, true);
}

static void op_command(struct world *w)
{
    struct id key = key_of(w);
    struct dht_contact peer = peer_of(w);
    int rc = ERR_INVALID;
    switch (read_u8(&w->in) % 10) {
    case 0:
        (void)!dht_bootstrap(w->d, w->now_ns, &peer);
        break;
    case 1:
        rc = dht_lookup_node(w->d, w->now_ns, &key, &w->handle);
        break;
    case 2:
        rc = dht_find_peer(w->d, w->now_ns, w->wall_ms, &key, &w->handle);
        break;
    case 3:
        rc = dht_find_providers(w->d, w->now_ns, w->wall_ms, &key, &w->handle);
        break;
    case 4:
        rc = dht_announce(w->d, w->now_ns, &key, DHT_TTL_MIN_MS, &w->handle);
        break;
    case 5:
        rc = dht_announce_self(w->d, w->now_ns, DHT_TTL_MAX_MS, &w->handle);
        break;
    case 6:
        rc = dht_withdraw(w->d, (read_u8(&w->in) & 1) != 0 ? &key : NULL, &w->handle);
        break;
    case 7:
        rc = dht_ping(w->d, w->now_ns, &peer, &w->handle);
        break;
    case 8:
        (void)!dht_cancel(w->d, w->handle - read_u8(&w->in) % 4);
        break;
    case 9:
        dht_set_client(w->d, (read_u8(&w->in) & 1) != 0);
        dht_set_addresses(w->d, w->now_ns, &peer.addr, 1, bytes_of(NULL, 0));
        break;
    }
    w->accepted += rc == ERR_OK;
}

static void op_time(struct world *w)
{
    static const uint64_t steps_ms[] = {1, 50, 700, 2500, 20000, 400000, 1000000};
    uint64_t step_ms = steps_ms[read_u8(&w->in) % 7];
    w->now_ns += step_ms * 1000000;
    w->wall_ms += step_ms;
    dht_tick(w->d, w->now_ns, w->wall_ms);
}

static void run(struct world *w)
{
    for (int step = 0; step < 400 && reader_left(&w->in) > 0; step++) {
        switch (read_u8(&w->in) % 8) {
        case 0:
            op_raw(w);
            break;
        case 1:
            op_request(w);
            break;
        case 2:
        case 3:
            op_reply(w);
            break;
        case 4:
            op_command(w);
            break;
        case 5:
            op_time(w);
            break;
        case 6:
            drain(w);
            break;
        case 7:
            w->refuse = !w->refuse;
            break;
        }
        dht_check_invariants(w->d);
    }
}

static void settle(struct world *w)
{
    for (int i = 0; i < 20; i++) { /* long enough for every request and lookup to end */
        drain(w);
        w->now_ns += UINT64_C(1000000000);
        dht_tick(w->d, w->now_ns, w->wall_ms);
    }
    drain(w);
    dht_check_invariants(w->d);
    struct dht_counts counts = dht_counts(w->d, w->now_ns);
    ASSERT(w->finals <= w->accepted);
    ASSERT(counts.announces + counts.lookups + counts.queries > 0 || w->finals == w->accepted);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static _Alignas(64) uint8_t mem[160 * 1024];
    struct world w;
    memset(&w, 0, sizeof w);
    w.in = reader_of(bytes_of(data, size));
    w.now_ns = 1;
    w.wall_ms = UINT64_C(1800000000000);
    rng_seeded_init(&w.stream, 1);
    for (unsigned i = 0; i < PEERS; i++) {
        struct rng rng = rng_of_seeded(&w.stream);
        rng_fill(&rng, w.peers[i].id.bytes, ID_BYTES);
        w.peers[i].addr =
            (struct net_addr){.family = NET_FAMILY_V4, .ip = {20, 1, 2, (uint8_t)(i + 1)}, .port = 9};
        if (i >= 3)
            w.peers[i].addr.ip[2] = (uint8_t)i;
        if (i == 7)
            w.peers[i].addr = (struct net_addr){.family = NET_FAMILY_V4, .ip = {10, 0, 0, 7}, .port = 9};
    }
    struct dht_config config = dht_config_small();
    config.buckets = 8;
    config.records_max = 6;
    config.records_per_key = 2;
    config.records_per_owner = 3;
    config.announces_max = 3;
    config.lookups_max = 4;
    config.id.bytes[0] = 1;
    config.rng = rng_of_seeded(&w.stream);
    config.sign = sign;
    config.verify = verify;
    config.crypto_user = &w;
    int rc = dht_init(&w.d, mem, sizeof mem, &config, w.now_ns);
    ASSERT(rc == ERR_OK);
    run(&w);
    settle(&w);
    dht_deinit(w.d);
    return 0;
}
