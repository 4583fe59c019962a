/* The relay as a program: the input picks messages, raw or well formed, from a handful of nodes and
 * addresses, frames of sessions that stand or do not, steps of time and changes of the rates.  After each the
 * core's relations must hold; a message draws at most one answer to its sender; a frame only ever leaves to
 * an address that has proven itself, never back to where it came from unless both ends are there, and
 * unchanged in number. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "nat/relay.h"

enum { NODES = 6, ADDRS = 8, MEMORY = 1 << 18, SESSIONS = 16, BATCH = 6 };

struct world {
    struct nat_relay *relay;
    struct rng_seeded stream;
    uint64_t now_ns;
    uint64_t sessions[SESSIONS]; /* seen in OFFERs */
    size_t session_count;
    uint8_t nonces[ADDRS][NAT_RELAY_NONCE]; /* newest sent to each address */
    bool told[ADDRS];                       /* something was sent there: it may have proven itself */
    _Alignas(64) uint8_t memory[MEMORY];
};

static struct id node_of(uint8_t choice)
{
    struct id id;
    memset(id.bytes, choice % NODES, ID_BYTES); /* 0 is the relay itself */
    id.bytes[0] = 1;
    return id;
}

static struct net_addr addr_of(uint8_t choice)
{
    static const char *const texts[ADDRS] = {"192.0.2.1:1",   "192.0.2.1:2", "198.51.100.1:1",
                                             "203.0.113.1:1", "127.0.0.1:1", "[2001:db8::1]:1",
                                             "10.0.0.1:1",    "192.0.2.9:9"};
    struct net_addr addr;
    int rc = net_addr_parse(texts[choice % ADDRS], &addr);
    ASSERT(rc == ERR_OK);
    return addr;
}

static size_t addr_index(const struct net_addr *addr)
{
    for (uint8_t i = 0; i < ADDRS; i++) {
        struct net_addr at = addr_of(i);
        if (net_addr_equal(&at, addr))
            return i;
    }
    ASSERT(false);
    return 0;
}

/* What an attacker on the way could learn: ids of sessions and nonces, by the address they went to. */
static void overhear(struct world *world, const struct net_message *sent)
{
    struct nat_relay_message m;
    int rc = nat_relay_decode(sent, &m);
    ASSERT(rc == ERR_OK);
    ASSERT(!nat_relay_serves(sent->kind));
    size_t at = addr_index(&sent->addr);
    world->told[at] = true;
    if (m.has_nonce)
        memcpy(world->nonces[at], m.nonce, sizeof m.nonce);
    if (sent->kind == NAT_RELAY_OFFER)
        world->sessions[world->session_count++ % SESSIONS] = m.session;
}

static void drain(struct world *world)
{
    struct nat_relay_event event;
    struct net_message out;
    while (nat_relay_poll_event(world->relay, &event))
        ASSERT(nat_relay_reason_text(event.reason) != NULL);
    while (nat_relay_poll_send(world->relay, world->now_ns, &out))
        overhear(world, &out);
    nat_relay_check_invariants(world->relay);
}

static void receive(struct world *world, const struct net_message *message)
{
    struct net_message out;
    size_t back = 0;
    drain(world);
    int rc = nat_relay_recv(world->relay, world->now_ns, message);
    ASSERT(rc == ERR_OK || rc == ERR_MALFORMED || rc == ERR_REFUSED || rc == ERR_FULL);
    while (nat_relay_poll_send(world->relay, world->now_ns, &out)) {
        if (id_equal(&out.peer, &message->peer) && net_addr_equal(&out.addr, &message->addr))
            back += out.kind != NAT_RELAY_NOTICE && out.kind != NAT_RELAY_OFFER;
        overhear(world, &out);
    }
    /* A second one only where a session of the sender's own ends by what it asks, or it opens its own. */
    ASSERT(back <= 2);
}

static const uint8_t kinds[] = {NAT_RELAY_RESERVE, NAT_RELAY_OPEN, NAT_RELAY_ACCEPT, NAT_RELAY_DECLINE,
                                NAT_RELAY_CLOSE,   NAT_RELAY_KEEP, NAT_RELAY_PROVE};

static void raw_message(struct world *world, struct reader *r)
{
    struct net_message message = {.peer = node_of(read_u8(r)), .addr = addr_of(read_u8(r))};
    message.kind = kinds[read_u8(r) % sizeof kinds];
    message.body_len = read_u8(r) % 96;
    read_into(r, message.body, message.body_len);
    receive(world, &message);
}

static uint64_t session_of(const struct world *world, uint8_t choice)
{
    uint64_t session = world->sessions[choice % SESSIONS];
    return session != 0 ? session : 1u + choice;
}

static void good_message(struct world *world, struct reader *r)
{
    struct net_message message = {.peer = node_of(read_u8(r))};
    uint8_t where = read_u8(r), how = read_u8(r), choice = read_u8(r);
    struct nat_relay_message m = {.kind = kinds[how % sizeof kinds], .request = 1u + choice % 8};
    message.addr = addr_of(where);
    m.peer = node_of(choice >> 3);
    m.session = session_of(world, choice);
    m.release = how >= 240;
    m.has_nonce = (how & 16) != 0 || m.kind == NAT_RELAY_PROVE;
    memcpy(m.nonce, world->nonces[where % ADDRS], sizeof m.nonce);
    for (uint8_t i = 0; i < choice % 5 && m.kind == NAT_RELAY_KEEP; i++)
        m.sessions[m.session_count++] = session_of(world, (uint8_t)(choice + i));
    nat_relay_encode(&m, &message);
    receive(world, &message);
}

static void frames(struct world *world, struct reader *r)
{
    static uint8_t data[BATCH][256];
    struct bytes datagrams[BATCH];
    struct nat_relay_run runs[BATCH];
    struct net_addr from = addr_of(read_u8(r));
    size_t count = read_u8(r) % (BATCH + 1u), cap = read_u8(r) % (BATCH + 1u), next = 0;
    for (size_t i = 0; i < count; i++) {
        uint8_t choice = read_u8(r);
        nat_relay_head_write(data[i], choice & 1, session_of(world, choice >> 1));
        datagrams[i] = bytes_of(data[i], read_u8(r));
        data[i][0] ^= (uint8_t)(choice >= 250 ? 0x80 : 0);
    }
    struct nat_relay_stats before = nat_relay_stats(world->relay);
    size_t n = nat_relay_forward(world->relay, world->now_ns, &from, datagrams, count, runs, cap), sent = 0;
    ASSERT(n <= cap);
    for (size_t i = 0; i < n; i++) {
        ASSERT(runs[i].count > 0 && runs[i].first >= next && runs[i].first + runs[i].count <= count);
        ASSERT(world->told[addr_index(&runs[i].to)]);
        next = runs[i].first + runs[i].count;
        sent += runs[i].count;
    }
    ASSERT(nat_relay_stats(world->relay).frames == before.frames + sent);
}

static void advance(struct world *world, struct reader *r)
{
    uint64_t until_ns = world->now_ns + (uint64_t)read_u16(r) * 2000000;
    for (int i = 0; i < 200; i++) {
        uint64_t next_ns = nat_relay_deadline_ns(world->relay);
        if (next_ns > until_ns)
            break;
        world->now_ns = next_ns > world->now_ns ? next_ns : world->now_ns;
        nat_relay_tick(world->relay, world->now_ns);
        ASSERT(nat_relay_deadline_ns(world->relay) > world->now_ns);
        drain(world);
    }
    world->now_ns = until_ns > world->now_ns ? until_ns : world->now_ns;
    nat_relay_tick(world->relay, world->now_ns);
}

static void look(struct world *world)
{
    struct nat_relay_node_info nodes[4];
    struct nat_relay_session_info sessions[4];
    ASSERT(nat_relay_nodes(world->relay, world->now_ns, nodes, 4) <= 4);
    ASSERT(nat_relay_sessions(world->relay, world->now_ns, sessions, 4) <= 4);
}

static void step(struct world *world, struct reader *r)
{
    uint8_t op = read_u8(r);
    switch (op % 8) {
    case 0:
        raw_message(world, r);
        break;
    case 1:
    case 2:
    case 3:
        good_message(world, r);
        break;
    case 4:
    case 5:
        frames(world, r);
        break;
    case 6:
        advance(world, r);
        break;
    default:
        if (op >= 224)
            nat_relay_set_rates(world->relay, world->now_ns, read_u8(r) * 50, read_u8(r) * 100);
        look(world);
    }
    drain(world);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world world;
    memset(&world, 0, sizeof world);
    rng_seeded_init(&world.stream, 1);
    struct nat_relay_config config = nat_relay_config_default();
    config.self = node_of(0);
    config.rng = rng_of_seeded(&world.stream);
    config.reservations_max = 3;
    config.reservations_per_group = 2;
    config.sessions_max = 4;
    config.sessions_per_client = 3;
    config.client_volume = 4000;
    config.client_burst = 1;
    world.now_ns = 1000000000;
    ASSERT(nat_relay_size(&config) <= MEMORY);
    world.relay = nat_relay_init(world.memory, &config, world.now_ns);
    struct reader r = reader_of(bytes_of(data, size));
    while (reader_left(&r) > 0)
        step(&world, &r);
    return 0;
}
