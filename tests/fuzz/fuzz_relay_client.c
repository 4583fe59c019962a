/* The relay's client as a program: the input picks commands, steps of time, frames, and messages, raw or well
 * formed answers to what the client asked last, from a handful of relays and addresses.  After each the
 * core's relations must hold; each session that was opened has at most one outcome; a route that is up wraps
 * and others do not. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "nat/relay.h"
#include "nat/relay_client.h"

enum { NODES = 6, ADDRS = 7, MEMORY = 1 << 18, TOKENS = 8 };

struct world {
    struct nat_relay_client *client;
    struct rng_seeded stream;
    uint64_t now_ns;
    uint32_t tokens[TOKENS];
    size_t token_count;
    uint16_t vias[TOKENS];
    size_t via_count;
    struct net_message asked[NAT_RELAY_KIND_END - NAT_RELAY_RESERVE]; /* newest of each kind that left */
    _Alignas(64) uint8_t memory[MEMORY];
};

static struct id node_of(uint8_t choice)
{
    struct id id;
    memset(id.bytes, choice % NODES, ID_BYTES); /* 0 is the node itself */
    id.bytes[0] = 1;
    return id;
}

static struct net_addr addr_of(uint8_t choice)
{
    static const char *const texts[ADDRS] = {"192.0.2.1:1",   "192.0.2.2:2", "198.51.100.1:1",
                                             "203.0.113.1:1", "127.0.0.1:1", "[2001:db8::1]:1",
                                             "0.0.0.0:1"};
    struct net_addr addr;
    int rc = net_addr_parse(texts[choice % ADDRS], &addr);
    ASSERT(rc == ERR_OK);
    return addr;
}

static void take_event(struct world *world, const struct nat_relay_client_event *event)
{
    uint8_t header[NAT_RELAY_HEADER];
    struct net_addr to;
    if (event->token != 0)
        world->tokens[world->token_count++ % TOKENS] = event->token;
    if (event->type == NAT_RELAY_SESSION_UP) {
        ASSERT(net_via_is_relay(event->route.via));
        world->vias[world->via_count++ % TOKENS] = event->route.via;
    }
    if (event->type == NAT_RELAY_SESSION_DOWN)
        ASSERT(nat_relay_client_wrap(world->client, world->now_ns, event->route.via, header, &to) ==
               ERR_NOT_FOUND);
}

static void drain(struct world *world)
{
    struct nat_relay_client_event event;
    struct net_message out;
    struct nat_relay_message m;
    while (nat_relay_client_poll_event(world->client, &event))
        take_event(world, &event);
    for (int i = 0; nat_relay_client_poll_send(world->client, world->now_ns, &out); i++) {
        ASSERT(i < 10000);
        ASSERT(nat_relay_serves(out.kind) && !net_via_is_relay(out.addr.via));
        int rc = nat_relay_decode(&out, &m);
        ASSERT(rc == ERR_OK);
        world->asked[out.kind - NAT_RELAY_RESERVE] = out;
    }
    nat_relay_client_check_invariants(world->client);
}

static void receive(struct world *world, const struct net_message *message)
{
    int rc = nat_relay_client_recv(world->client, world->now_ns, message);
    ASSERT(rc == ERR_OK || rc == ERR_MALFORMED || rc == ERR_REFUSED || rc == ERR_FULL ||
           rc == ERR_UNSUPPORTED);
}

static void raw_message(struct world *world, struct reader *r)
{
    static const uint8_t kinds[] = {NAT_RELAY_RESERVED, NAT_RELAY_OFFER, NAT_RELAY_OPENED, NAT_RELAY_REFUSED,
                                    NAT_RELAY_NOTICE,   NAT_RELAY_KEPT,  NAT_RELAY_PROVEN, 0x4f};
    struct net_message message = {.peer = node_of(read_u8(r)), .addr = addr_of(read_u8(r))};
    message.kind = kinds[read_u8(r) % sizeof kinds];
    message.body_len = read_u8(r) % 96;
    read_into(r, message.body, message.body_len);
    receive(world, &message);
}

/* An answer that fits the newest question of its kind, from where that went or from elsewhere. */
static void good_message(struct world *world, struct reader *r)
{
    static const uint8_t answers[][2] = {
        {NAT_RELAY_RESERVE, NAT_RELAY_RESERVED}, {NAT_RELAY_RESERVE, NAT_RELAY_REFUSED},
        {NAT_RELAY_OPEN, NAT_RELAY_OPENED},      {NAT_RELAY_OPEN, NAT_RELAY_REFUSED},
        {NAT_RELAY_ACCEPT, NAT_RELAY_OPENED},    {NAT_RELAY_ACCEPT, NAT_RELAY_REFUSED},
        {NAT_RELAY_CLOSE, NAT_RELAY_NOTICE},     {NAT_RELAY_KEEP, NAT_RELAY_KEPT},
        {NAT_RELAY_PROVE, NAT_RELAY_PROVEN}};
    uint8_t which = read_u8(r), how = read_u8(r), choice = read_u8(r);
    const uint8_t *pair = answers[which % (sizeof answers / sizeof answers[0])];
    const struct net_message *asked = &world->asked[pair[0] - NAT_RELAY_RESERVE];
    struct nat_relay_message question, m = {.kind = pair[1]};
    if (asked->kind == 0)
        return;
    int rc = nat_relay_decode(asked, &question);
    ASSERT(rc == ERR_OK);
    struct net_message message = {.peer = asked->peer, .addr = how >= 224 ? addr_of(choice) : asked->addr};
    m.request = question.request != 0 ? question.request : 1;
    m.session = question.session != 0 ? question.session : 1u + choice % 8;
    m.peer = question.peer;
    if (id_is_zero(&m.peer))
        m.peer = node_of(choice);
    m.has_nonce = (how & 1) != 0;
    m.nonce[0] = choice;
    m.lease_s = (how & 2) != 0 ? 120 : choice % 4;
    m.rate = choice % 3;
    m.volume = (uint64_t)choice << 8;
    m.reason = choice % 16;
    for (size_t i = 0; (how & 4) != 0 && m.kind == NAT_RELAY_KEPT && i < question.session_count; i++)
        m.sessions[m.session_count++] = question.sessions[i];
    if ((how & 8) != 0)
        m.seen = addr_of(choice % 6);
    nat_relay_encode(&m, &message);
    receive(world, &message);
}

static void offer(struct world *world, struct reader *r)
{
    struct nat_relay_message m = {.kind = NAT_RELAY_OFFER, .lease_s = 60};
    struct net_message message = {.peer = node_of(read_u8(r)), .addr = addr_of(read_u8(r))};
    m.session = 1u + read_u8(r) % 8;
    m.peer = node_of(read_u8(r));
    nat_relay_encode(&m, &message);
    receive(world, &message);
}

static void frame(struct world *world, struct reader *r)
{
    uint8_t data[NAT_RELAY_HEADER + 4] = {0};
    struct net_addr from = addr_of(read_u8(r)), route, to;
    struct bytes payload;
    uint8_t choice = read_u8(r);
    uint16_t via = world->vias[choice % TOKENS];
    if (nat_relay_client_wrap(world->client, world->now_ns, via, data, &to) == ERR_OK) {
        struct id peer;
        int rc = nat_relay_client_peer(world->client, via, &peer);
        ASSERT(rc == ERR_OK);
        data[0] ^= 1;
        from = choice >= 128 ? to : from;
        rc = nat_relay_client_unwrap(world->client, world->now_ns, &from, bytes_of(data, sizeof data), &route,
                                     &payload);
        ASSERT(rc == ERR_OK || !net_addr_equal(&from, &to));
        ASSERT(rc != ERR_OK || (payload.len == 4 && net_via_is_relay(route.via)));
        return;
    }
    nat_relay_head_write(data, choice & 1, 1u + choice % 8);
    if (nat_relay_client_unwrap(world->client, world->now_ns, &from, bytes_of(data, sizeof data), &route,
                                &payload) == ERR_OK)
        ASSERT(net_via_is_relay(route.via));
}

static void advance(struct world *world, struct reader *r)
{
    uint64_t until_ns = world->now_ns + (uint64_t)read_u16(r) * 1000000;
    for (int i = 0; i < 300; i++) {
        uint64_t next_ns = nat_relay_client_deadline_ns(world->client);
        if (next_ns > until_ns)
            break;
        world->now_ns = next_ns > world->now_ns ? next_ns : world->now_ns;
        nat_relay_client_tick(world->client, world->now_ns);
        drain(world);
        ASSERT(nat_relay_client_deadline_ns(world->client) > world->now_ns);
    }
    world->now_ns = until_ns > world->now_ns ? until_ns : world->now_ns;
    nat_relay_client_tick(world->client, world->now_ns);
}

static void may_fail(int rc)
{
    (void)rc;
}

static void command(struct world *world, struct reader *r)
{
    uint8_t op = read_u8(r), choice = read_u8(r);
    struct id relay = node_of(read_u8(r)), peer = node_of(choice);
    struct net_addr addr = addr_of(read_u8(r));
    uint32_t token = world->tokens[choice % TOKENS];
    switch (op % 8) {
    case 0:
    case 1:
        may_fail(nat_relay_client_candidate(world->client, world->now_ns, &relay, &addr));
        break;
    case 2:
        nat_relay_client_candidate_drop(world->client, world->now_ns, &relay);
        break;
    case 3:
        nat_relay_client_set_wanted(world->client, world->now_ns, choice % 4);
        break;
    case 4:
        if (nat_relay_client_open(world->client, world->now_ns, &peer, &relay, &addr, &token) == ERR_OK)
            world->tokens[world->token_count++ % TOKENS] = token;
        break;
    case 5:
        may_fail(nat_relay_client_accept(world->client, world->now_ns, token));
        break;
    case 6:
        if (op >= 128)
            nat_relay_client_decline(world->client, world->now_ns, token);
        else
            nat_relay_client_close(world->client, world->now_ns, token);
        break;
    default:
        nat_relay_client_moved(world->client, world->now_ns);
    }
}

static void step(struct world *world, struct reader *r)
{
    switch (read_u8(r) % 8) {
    case 0:
        raw_message(world, r);
        break;
    case 1:
    case 2:
    case 3:
        good_message(world, r);
        break;
    case 4:
        offer(world, r);
        break;
    case 5:
        frame(world, r);
        break;
    case 6:
        advance(world, r);
        break;
    default:
        command(world, r);
    }
    drain(world);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world world;
    memset(&world, 0, sizeof world);
    rng_seeded_init(&world.stream, 1);
    struct nat_relay_client_config config = nat_relay_client_config_default();
    config.self = node_of(0);
    config.rng = rng_of_seeded(&world.stream);
    config.sessions_max = 6;
    world.now_ns = 1000000000;
    ASSERT(nat_relay_client_size(&config) <= MEMORY);
    world.client = nat_relay_client_init(world.memory, &config);
    struct reader r = reader_of(bytes_of(data, size));
    while (reader_left(&r) > 0)
        step(&world, &r);
    return 0;
}
