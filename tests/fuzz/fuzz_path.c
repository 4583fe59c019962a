/* The path core as a program: the input picks commands, clock steps, hints and probe messages, raw or well
 * formed, from a handful of peers and addresses by every kind of way.  After each the core's relations must
 * hold, an answer must be no larger than its probe, a route must be an address that answered, and a socket is
 * given back only when no candidate goes by it. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/pack.h"
#include "nat/path.h"

enum { PEERS = 5, ADDRS = 12, MEMORY = 1 << 16 };

struct world {
    struct nat_path *path;
    struct rng_seeded stream;
    uint64_t now_ns;
    struct net_message sent; /* last probe that left */
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
        "127.0.0.1:1",   "10.0.0.1:1", "10.0.0.2:1",  "192.0.2.1:1",     "192.0.2.2:1",     "198.51.100.1:1",
        "203.0.113.1:1", "[::1]:1",    "[fd00::1]:1", "[2001:db8::1]:1", "[2001:db8::2]:2", "192.0.2.1:0"};
    struct net_addr addr;
    int rc = net_addr_parse(texts[choice % ADDRS], &addr);
    ASSERT(rc == ERR_OK);
    static const uint16_t vias[] = {NET_VIA_MAIN,      NET_VIA_MAIN,        NET_VIA_MAIN,
                                    NET_VIA_MAIN,      NET_VIA_AUX_FIRST,   NET_VIA_AUX_LAST,
                                    NET_VIA_TCP_FIRST, NET_VIA_RELAY_FIRST, NET_VIA_RELAY_LAST};
    addr.via = vias[choice / ADDRS % (sizeof vias / sizeof vias[0])];
    return addr;
}

static void check_gone(struct world *world, uint16_t via)
{
    struct nat_path_info info[NAT_PATH_CANDIDATES_MAX];
    ASSERT(net_via_is_aux(via));
    for (uint8_t i = 1; i < PEERS; i++) {
        struct id peer = peer_of(i);
        int count = nat_path_candidates(world->path, &peer, info, NAT_PATH_CANDIDATES_MAX);
        for (int k = 0; k < count; k++)
            ASSERT(info[k].addr.via != via);
    }
}

static void check_event(struct world *world, const struct nat_path_event *event)
{
    switch (event->type) {
    case NAT_PATH_ROUTE_UP:
    case NAT_PATH_AGEING:
        ASSERT(event->rtt_ns > 0 && event->kind != NAT_ROUTE_NONE);
        break;
    case NAT_PATH_ROUTE_CHANGED:
        ASSERT(event->rtt_ns > 0 && !net_addr_equal(&event->addr, &event->old));
        ASSERT(!event->old_works || event->old_rtt_ns > 0);
        break;
    case NAT_PATH_OBSERVED:
        ASSERT(event->addr.via == NET_VIA_MAIN);
        break;
    case NAT_PATH_ROUTE_GONE:
        check_gone(world, event->addr.via);
        break;
    case NAT_PATH_DOUBTFUL:
    case NAT_PATH_ROUTE_DEAD:
        break;
    }
}

static void check_queries(const struct nat_path *path)
{
    for (uint8_t i = 1; i < PEERS; i++) {
        struct nat_path_trace trace[NAT_PATH_TRACE_MAX];
        struct net_addr routes[2];
        struct net_addr addr;
        enum nat_route_kind kind;
        struct id peer = peer_of(i);
        size_t count = nat_path_routes(path, &peer, routes);
        int rc = nat_path_route_kind(path, &peer, &addr, &kind);
        ASSERT((rc == ERR_OK) == (count > 0) && count <= 2);
        ASSERT(count == 0 || net_addr_equal(&addr, &routes[0]));
        ASSERT(count < 2 || !net_addr_equal(&routes[0], &routes[1]));
        ASSERT(nat_path_trace(path, &peer, trace, NAT_PATH_TRACE_MAX) <= NAT_PATH_TRACE_MAX);
    }
}

static void drain(struct world *world)
{
    struct nat_path_event event;
    struct net_message out;
    while (nat_path_poll_event(world->path, &event))
        check_event(world, &event);
    while (nat_path_poll_send(world->path, world->now_ns, &out)) {
        ASSERT(out.body_len > 0 && out.body_len <= NET_BODY_MAX);
        if (out.kind == NET_KIND_PROBE)
            world->sent = out;
    }
    check_queries(world->path);
    nat_path_check_invariants(world->path);
}

static void receive(struct world *world, const struct net_message *message)
{
    struct net_message out;
    struct nat_path_stats before = nat_path_stats(world->path);
    int rc = nat_path_recv(world->path, world->now_ns, message);
    bool answered = false;
    while (nat_path_poll_send(world->path, world->now_ns, &out)) {
        if (out.kind != NET_KIND_PROBE_ANSWER)
            continue;
        ASSERT(!answered && out.body_len <= message->body_len && net_addr_equal(&out.addr, &message->addr));
        answered = true;
    }
    ASSERT(rc == ERR_OK || rc == ERR_MALFORMED || rc == ERR_REFUSED || rc == ERR_FULL);
    ASSERT(nat_path_stats(world->path).answers_sent == before.answers_sent + answered);
}

static void raw_message(struct world *world, struct reader *r)
{
    struct net_message message = {.peer = peer_of(read_u8(r)), .addr = addr_of(read_u8(r))};
    message.kind = read_u8(r) % 2 == 0 ? NET_KIND_PROBE : NET_KIND_PROBE_ANSWER;
    message.body_len = read_u8(r) % 64;
    read_into(r, message.body, message.body_len);
    receive(world, &message);
}

/* A well-formed probe, or the answer to our last one, from where it went or from elsewhere. */
static void good_message(struct world *world, struct reader *r)
{
    uint8_t wire[NET_ADDR_WIRE_MAX];
    uint8_t how = read_u8(r);
    struct net_message message = {
        .peer = peer_of(read_u8(r)), .addr = addr_of(read_u8(r)), .kind = NET_KIND_PROBE};
    uint32_t sequence = read_u8(r);
    if (how % 4 != 0 && world->sent.body_len > 0) {
        struct pack_token tokens[8];
        struct pack_reader body = pack_parse(bytes_of(world->sent.body, world->sent.body_len), tokens, 8);
        uint32_t seen = 0;
        (void)pack_read_map(&body, 3);
        (void)pack_read_key(&body, &seen);
        sequence = (uint32_t)pack_read_uint(&body, UINT32_MAX) - (how >> 4) % 4;
        message.kind = NET_KIND_PROBE_ANSWER;
        message.peer = world->sent.peer;
        message.addr = how % 4 == 1 ? message.addr : world->sent.addr;
    }
    size_t len = net_addr_encode(&message.addr, wire);
    struct pack_writer w = pack_writer_of(message.body, sizeof message.body);
    pack_map(&w, 3);
    pack_key_uint(&w, 1, sequence);
    pack_key_bin(&w, 2, bytes_of(wire, len));
    pack_key_bool(&w, 3, how % 8 < 4);
    message.body_len = pack_writer_len(&w);
    receive(world, &message);
}

static void advance(struct world *world, struct reader *r)
{
    uint64_t until_ns = world->now_ns + (uint64_t)read_u16(r) * 500000;
    for (int i = 0; i < 200; i++) {
        uint64_t next_ns = nat_path_deadline_ns(world->path);
        if (next_ns > until_ns)
            break;
        world->now_ns = next_ns > world->now_ns ? next_ns : world->now_ns;
        nat_path_tick(world->path, world->now_ns);
        drain(world);
    }
    world->now_ns = until_ns > world->now_ns ? until_ns : world->now_ns;
    nat_path_tick(world->path, world->now_ns);
}

static void may_fail(int rc)
{
    (void)rc;
}

static void step(struct world *world, struct reader *r)
{
    uint8_t op = read_u8(r);
    struct id peer = peer_of(read_u8(r));
    struct net_addr addr = addr_of(read_u8(r));
    switch (op % 13) {
    case 0:
        may_fail(nat_path_peer_add(world->path, world->now_ns, &peer));
        break;
    case 1:
        nat_path_peer_remove(world->path, &peer);
        break;
    case 2:
        may_fail(nat_path_candidate_add(world->path, world->now_ns, &peer, &addr,
                                        (enum nat_route_kind)(op / 13 % 8)));
        break;
    case 3:
        may_fail(nat_path_punch(world->path, world->now_ns, &peer));
        break;
    case 4:
        (op / 13 % 2 == 0 ? nat_path_heard : nat_path_carried)(world->path, world->now_ns, &peer, &addr);
        break;
    case 5:
        nat_path_busy(world->path, world->now_ns, &peer, read_u16(r));
        break;
    case 6:
        raw_message(world, r);
        break;
    case 7:
    case 8:
        good_message(world, r);
        break;
    case 9:
        may_fail(nat_path_set_life(world->path, world->now_ns, &peer, (uint64_t)read_u8(r) << 29));
        break;
    case 10:
        nat_path_set_keepalive(world->path, (uint64_t)read_u8(r) << 29);
        break;
    case 11:
        if (addr.via != NET_VIA_MAIN)
            nat_path_via_closed(world->path, world->now_ns, addr.via);
        break;
    default:
        advance(world, r);
    }
    drain(world);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world world;
    memset(&world, 0, sizeof world);
    rng_seeded_init(&world.stream, 1);
    struct nat_path_config config = nat_path_config_default();
    config.self = peer_of(0);
    config.rng = rng_of_seeded(&world.stream);
    config.peers_max = 2;
    world.now_ns = 1000000000;
    ASSERT(nat_path_size(&config) <= MEMORY);
    world.path = nat_path_init(world.memory, &config);
    struct reader r = reader_of(bytes_of(data, size));
    while (reader_left(&r) > 0)
        step(&world, &r);
    return 0;
}
