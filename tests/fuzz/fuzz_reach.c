/* The reach core as a program: the input picks commands, clock steps, sockets given or refused, and messages,
 * raw or well formed, some of them answers to what the core asked.  After each its relations must hold, every
 * message must be one that it can read itself, and nothing may go by a socket that it gave back. */
#include <stdlib.h>
#include <string.h>

#include "nat/reach.h"
#include "nat/reach_wire.h"

enum { PEERS = 8, ADDRS = 16, MEMORY = 1 << 18, AUX_MAX = 40 };

struct world {
    struct nat_reach *reach;
    struct rng_seeded stream;
    uint64_t now_ns;
    struct net_message sent; /* last question that left */
    uint32_t token;
    bool open[AUX_MAX];
    _Alignas(64) uint8_t memory[MEMORY];
};

static struct id peer_of(uint8_t choice)
{
    struct id id;
    memset(id.bytes, choice % PEERS, ID_BYTES); /* 0 is the node itself */
    id.bytes[0] = 1;
    return id;
}

static struct net_addr addr_of(uint8_t choice)
{
    static const char *const texts[ADDRS] = {
        "11.0.1.1:1",    "11.0.1.1:2",    "11.0.2.1:1",  "11.0.3.1:1",   "11.0.4.1:1",    "11.0.5.1:1",
        "11.0.6.1:9",    "10.0.0.1:1",    "127.0.0.1:1", "192.0.2.1:0",  "[2a01:1::1]:1", "[2a01:1::1]:2",
        "[2a01:2::1]:1", "[2a01:3::1]:7", "[fe80::1]:1", "[2a01:4::1]:1"};
    struct net_addr addr;
    int rc = net_addr_parse(texts[choice % ADDRS], &addr);
    ASSERT(rc == ERR_OK);
    return addr;
}

static void may_fail(int rc)
{
    (void)rc;
}

static void give(struct world *world, uint32_t token, bool some)
{
    struct nat_reach_socket socket = {.via = 0};
    for (uint16_t i = 0; i < AUX_MAX && some && socket.via == 0; i++) {
        if (!world->open[i])
            socket = (struct nat_reach_socket){.via = (uint16_t)(i + 1), .port = (uint16_t)(5000 + i)};
    }
    if (socket.via != 0)
        world->open[socket.via - 1] = true;
    nat_reach_sockets(world->reach, world->now_ns, token, &socket, socket.via != 0);
}

static void drain(struct world *world)
{
    struct nat_reach_event event;
    struct net_message out;
    struct reach_body body;
    while (nat_reach_poll_event(world->reach, &event)) {
        if (event.type == NAT_REACH_SOCKETS_WANTED) {
            world->token = event.token;
            if (event.token % 4 != 0) /* else late, or never */
                give(world, event.token, event.token % 4 != 1);
        } else if (event.type == NAT_REACH_SOCKET_RELEASE) {
            ASSERT(event.via >= 1 && event.via <= AUX_MAX && world->open[event.via - 1]);
            world->open[event.via - 1] = false;
        }
    }
    while (nat_reach_poll_send(world->reach, world->now_ns, &out)) {
        int rc = reach_read(&out, &body);
        ASSERT(rc == ERR_OK);
        ASSERT(!net_via_is_aux(out.addr.via) || world->open[out.addr.via - 1]);
        if (out.kind == REACH_OBSERVE || out.kind == REACH_DIALBACK)
            world->sent = out;
    }
    nat_reach_check_invariants(world->reach);
}

static void receive(struct world *world, const struct net_message *message)
{
    struct nat_reach_stats before = nat_reach_stats(world->reach);
    int rc = nat_reach_recv(world->reach, world->now_ns, message);
    ASSERT(rc == ERR_OK || rc == ERR_MALFORMED || rc == ERR_REFUSED || rc == ERR_RATE || rc == ERR_FULL ||
           rc == ERR_UNSUPPORTED);
    /* What was refused is not acted upon. */
    ASSERT(rc == ERR_OK || nat_reach_stats(world->reach).probes_sent == before.probes_sent);
}

static void raw_message(struct world *world, struct reader *r)
{
    struct net_message message = {.peer = peer_of(read_u8(r)), .addr = addr_of(read_u8(r))};
    message.kind = (uint8_t)(NET_KIND_REACH_FIRST + read_u8(r) % 6);
    message.body_len = read_u16(r) % NET_BODY_MAX;
    size_t given = reader_left(r) < message.body_len ? reader_left(r) : message.body_len;
    read_into(r, message.body, given);
    receive(world, &message);
}

/* A request, or an answer to our last question, right or wrong in one field. */
static void good_message(struct world *world, struct reader *r)
{
    uint8_t how = read_u8(r);
    struct net_message message = {.peer = peer_of(read_u8(r)), .addr = addr_of(read_u8(r))};
    struct reach_body asked = {.nonce = read_u8(r)};
    struct reach_body body = {.addr = addr_of(read_u8(r)), .asker = peer_of(how), .code = how % 4};
    uint8_t kind = (uint8_t)(NET_KIND_REACH_FIRST + how % 6);
    bool answer = kind == REACH_OBSERVED || kind == REACH_DIALBACK_ANSWER || kind == REACH_DIALBACK_PROBE;
    if (answer && world->sent.body_len > 0 && reach_read(&world->sent, &asked) == ERR_OK &&
        kind != REACH_DIALBACK_PROBE && how < 200) {
        message.peer = world->sent.peer;
        message.addr = world->sent.addr;
    }
    body.nonce = asked.nonce;
    body.alternate = how > 100 ? 7 : 0;
    body.tried_port = how % 2 == 0;
    body.forwarded_count = how % 3;
    body.forwarded[0] = body.forwarded[1] = addr_of((uint8_t)(how / 2));
    reach_write(&message, kind, &body);
    receive(world, &message);
}

static void advance(struct world *world, struct reader *r)
{
    uint64_t until_ns = world->now_ns + (uint64_t)read_u16(r) * 5000000;
    for (int i = 0; i < 200; i++) {
        uint64_t next_ns = nat_reach_deadline_ns(world->reach);
        if (next_ns > until_ns)
            break;
        world->now_ns = next_ns > world->now_ns ? next_ns : world->now_ns;
        nat_reach_tick(world->reach, world->now_ns);
        drain(world);
    }
    world->now_ns = until_ns > world->now_ns ? until_ns : world->now_ns;
    nat_reach_tick(world->reach, world->now_ns);
}

static void know(struct world *world, uint8_t op, const struct id *peer, const struct net_addr *addr)
{
    struct net_addr many[3] = {addr_of(op), *addr, addr_of((uint8_t)(op + 3))};
    switch (op / 12 % 6) {
    case 0:
        may_fail(nat_reach_helper(world->reach, world->now_ns, peer, addr));
        break;
    case 1:
        nat_reach_peer_gone(world->reach, peer);
        break;
    case 2:
        nat_reach_locals(world->reach, world->now_ns, many, op % 4);
        break;
    case 3:
        nat_reach_observed(world->reach, world->now_ns, (enum net_family)addr->family, addr,
                           (enum nat_mapping)(op % 3));
        break;
    case 4:
        nat_reach_contacted(world->reach, world->now_ns, addr);
        break;
    default:
        nat_reach_seen(world->reach, world->now_ns, &many[0], addr);
    }
}

static void step(struct world *world, struct reader *r)
{
    uint8_t op = read_u8(r);
    struct id peer = peer_of(read_u8(r));
    struct net_addr addr = addr_of(read_u8(r));
    switch (op % 12) {
    case 0:
    case 1:
        may_fail(nat_reach_observer(world->reach, world->now_ns, &peer, &addr));
        break;
    case 2:
        know(world, op, &peer, &addr);
        break;
    case 3:
        may_fail(nat_reach_survey(world->reach, world->now_ns));
        break;
    case 4:
        nat_reach_watch(world->reach, world->now_ns, op > 60);
        break;
    case 5:
        may_fail(nat_reach_verify(world->reach, world->now_ns, &addr));
        break;
    case 6:
        nat_reach_forget(world->reach, &addr);
        nat_reach_serve(world->reach, op < 200);
        break;
    case 7:
        give(world, world->token, op > 60);
        break;
    case 8:
        raw_message(world, r);
        break;
    case 9:
    case 10:
        good_message(world, r);
        break;
    default:
        advance(world, r);
    }
    drain(world);
}

static void describe(const struct world *world)
{
    char text[NAT_REACH_TEXT_MAX];
    struct nat_reach_profile profile = nat_reach_profile(world->reach, NET_FAMILY_V4);
    nat_reach_describe(&profile, text);
    ASSERT(text[0] != '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world world;
    memset(&world, 0, sizeof world);
    rng_seeded_init(&world.stream, 1);
    struct nat_reach_config config = nat_reach_config_default();
    config.self = peer_of(0);
    config.rng = rng_of_seeded(&world.stream);
    config.serve = true;
    world.now_ns = 1000000000;
    ASSERT(nat_reach_size(&config) <= MEMORY);
    world.reach = nat_reach_init(world.memory, &config, world.now_ns);
    struct reader r = reader_of(bytes_of(data, size));
    while (reader_left(&r) > 0)
        step(&world, &r);
    describe(&world);
    return 0;
}
