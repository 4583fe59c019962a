/* The punch core as a program: the input picks profiles, commands, the caller's answers to events, clock
 * steps and messages, raw or well formed, of a handful of peers.  After each the core's relations must hold,
 * sends leave only by sockets that are open, no private address is probed unless it may be, and in the end
 * every round has had one result and no socket is held but the kept ones. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "nat/punch.h"
#include "nat/punch_wire.h"

enum { PEERS = 4, MEMORY = 1 << 17, TOKENS = 8, VIAS = NET_VIA_AUX_LAST + 1 };

struct world {
    struct nat_punch *core;
    struct rng_seeded stream;
    uint64_t now_ns;
    uint64_t round; /* of the last message that left */
    uint32_t sequence;
    struct net_addr last_to;
    uint32_t tokens[TOKENS];
    uint16_t counts[TOKENS];
    size_t token_count;
    bool open[VIAS];
    size_t open_count;
    uint16_t next_via;
    int due[PEERS]; /* results owed for nat_punch_start */
    size_t results;
    _Alignas(64) uint8_t memory[MEMORY];
};

static struct id peer_of(uint8_t choice)
{
    struct id id;
    memset(id.bytes, choice % PEERS + 1, ID_BYTES); /* 2 is the node itself */
    return id;
}

static struct net_addr addr_of(uint8_t choice)
{
    static const char *const texts[] = {"11.0.1.1:1000",  "11.0.2.1:2000",    "10.0.0.1:5",  "127.0.0.1:1",
                                        "11.0.3.1:65535", "[2a01:1::1]:4242", "[fd00::1]:7", "224.0.0.1:5"};
    struct net_addr addr;
    int rc = net_addr_parse(texts[choice % 8], &addr);
    ASSERT(rc == ERR_OK);
    return addr;
}

static void take_event(struct world *world, const struct nat_punch_event *event)
{
    switch (event->type) {
    case NAT_PUNCH_SOCKETS_WANTED:
        ASSERT(event->count > 0 && event->count <= NAT_PUNCH_SOCKETS_MAX);
        if (world->token_count < TOKENS) {
            world->tokens[world->token_count] = event->token;
            world->counts[world->token_count++] = event->count;
        }
        break;
    case NAT_PUNCH_SOCKET_RELEASE:
        ASSERT(world->open[event->addr.via]);
        world->open[event->addr.via] = false;
        world->open_count--;
        break;
    case NAT_PUNCH_RESULT: {
        size_t peer = event->peer.bytes[0] - 1u;
        ASSERT(peer < PEERS && event->ok == (event->reason == NAT_PUNCH_DONE));
        if (!event->inbound) {
            ASSERT(world->due[peer] == 1);
            world->due[peer] = 0;
        }
        world->results++;
        break;
    }
    case NAT_PUNCH_CANDIDATE:
        ASSERT(net_addr_scope(&event->addr) != NET_SCOPE_INVALID);
        break;
    case NAT_PUNCH_PUNCH:
    case NAT_PUNCH_SURVEY_WANTED:
        break;
    }
}

static void drain(struct world *world)
{
    struct nat_punch_event event;
    struct net_message out;
    while (nat_punch_poll_event(world->core, &event))
        take_event(world, &event);
    while (nat_punch_poll_send(world->core, world->now_ns, &out)) {
        struct punch_message m;
        int rc = punch_decode(&out, &m);
        ASSERT(rc == ERR_OK);
        ASSERT(!net_via_is_aux(out.addr.via) || world->open[out.addr.via]);
        if (m.kind == PUNCH_KIND_PROBE)
            world->sequence = m.sequence;
        world->round = m.round;
        world->last_to = out.addr;
        while (nat_punch_poll_event(world->core, &event))
            take_event(world, &event);
    }
    nat_punch_check_invariants(world->core);
    ASSERT(nat_punch_stats(world->core).sockets == world->open_count);
}

static struct nat_punch_profile profile_of(struct world *world, struct reader *r)
{
    uint8_t how = read_u8(r);
    struct nat_punch_profile profile = {.mapping = (enum nat_punch_mapping)(how % 4),
                                        .filtering = (enum nat_punch_filtering)(how / 4 % 4),
                                        .reachable = (how & 0x10) != 0,
                                        .mapping_life_ns = how & 0x20 ? UINT64_C(20000000000) : 0,
                                        .trend_ns = world->now_ns};
    if (profile.mapping == NAT_PUNCH_SEQUENTIAL) {
        profile.step = (int16_t)(1 - (how >> 6));
        profile.step = profile.step == 0 ? 1 : profile.step;
        profile.trend_port = read_u16(r);
    }
    if (how & 0x40)
        profile.public4 = addr_of(how >> 7);
    return profile;
}

static void give_sockets(struct world *world, struct reader *r)
{
    uint16_t via[NAT_PUNCH_SOCKETS_MAX];
    uint8_t how = read_u8(r);
    if (world->token_count == 0)
        return;
    size_t which = how % world->token_count;
    size_t count = how & 0x80 ? how % 64 : world->counts[which];
    count = count < world->counts[which] ? count : world->counts[which];
    uint16_t next = world->next_via;
    for (size_t i = 0; i < count; i++) {
        do
            next = next == NET_VIA_AUX_LAST ? NET_VIA_AUX_FIRST : (uint16_t)(next + 1);
        while (world->open[next]);
        via[i] = next;
    }
    uint32_t token = world->tokens[which];
    world->tokens[which] = world->tokens[--world->token_count];
    world->counts[which] = world->counts[world->token_count];
    for (size_t i = 0; i < count; i++)
        world->open[via[i]] = true;
    world->open_count += count;
    world->next_via = next;
    if (nat_punch_sockets(world->core, world->now_ns, token, via, count) == ERR_OK)
        return;
    for (size_t i = 0; i < count; i++)
        world->open[via[i]] = false;
    world->open_count -= count;
}

static void receive(struct world *world, const struct net_message *message)
{
    int rc = nat_punch_recv(world->core, world->now_ns, message);
    ASSERT(rc <= 0);
}

static void raw_message(struct world *world, struct reader *r)
{
    struct net_message message = {.peer = peer_of(read_u8(r)), .addr = addr_of(read_u8(r))};
    message.kind = (uint8_t)(NET_KIND_PUNCH_FIRST + read_u8(r) % 8);
    message.body_len = read_u8(r) % 96;
    read_into(r, message.body, message.body_len);
    receive(world, &message);
}

static void good_message(struct world *world, struct reader *r)
{
    struct net_message message = {.peer = peer_of(read_u8(r))};
    uint8_t kind = read_u8(r), how = read_u8(r);
    struct punch_message m = {.kind = (uint8_t)(NET_KIND_PUNCH_FIRST + kind % 8),
                              .attempt = (uint8_t)(1 + how % 3),
                              .fresh = (how & 4) != 0,
                              .round = how & 8 ? read_u8(r) : world->round,
                              .code = how & 0x10 ? read_u8(r) : 0,
                              .sequence = how & 0x20 ? read_u8(r) : world->sequence,
                              .trend_port = 30000,
                              .addr = addr_of(kind >> 4),
                              .profile = profile_of(world, r)};
    m.candidate_count = read_u8(r) % (NAT_PUNCH_CANDIDATES_MAX + 1u);
    for (size_t i = 0; i < m.candidate_count; i++) {
        uint8_t which = read_u8(r);
        m.candidates[i] =
            (struct nat_punch_candidate){(enum nat_punch_source)(1 + which % 6), addr_of(which / 8)};
    }
    message.addr = how & 0x40 ? world->last_to : addr_of(how);
    if (how & 0x80)
        message.addr.via = world->next_via;
    punch_encode(&m, &message);
    receive(world, &message);
}

static void advance(struct world *world, uint64_t by_ns)
{
    uint64_t until_ns = world->now_ns + by_ns;
    for (int i = 0; i < 400; i++) {
        uint64_t next_ns = nat_punch_deadline_ns(world->core);
        if (next_ns > until_ns)
            break;
        world->now_ns = next_ns > world->now_ns ? next_ns : world->now_ns;
        nat_punch_tick(world->core, world->now_ns);
        drain(world);
    }
    world->now_ns = until_ns > world->now_ns ? until_ns : world->now_ns;
    nat_punch_tick(world->core, world->now_ns);
}

static void may_fail(int rc)
{
    (void)rc;
}

static void command(struct world *world, struct reader *r, uint8_t op)
{
    uint8_t who = read_u8(r);
    struct id peer = peer_of(who);
    struct net_addr addr = addr_of(who >> 3);
    struct nat_punch_profile profile;
    struct nat_punch_candidate own[2] = {{NAT_PUNCH_OBSERVED, addr}, {NAT_PUNCH_LAN, addr_of(who >> 5)}};
    switch (op % 8) {
    case 0:
        profile = profile_of(world, r);
        may_fail(nat_punch_set_profile(world->core, &profile));
        nat_punch_set_addrs(world->core, own, 2);
        break;
    case 1:
        if (who & 0x80)
            addr.via = NET_VIA_RELAY_FIRST;
        may_fail(nat_punch_signal(world->core, world->now_ns, &peer, &addr, who * UINT64_C(1000000)));
        break;
    case 2:
        nat_punch_forget(world->core, world->now_ns, &peer);
        break;
    case 3:
        nat_punch_seen(world->core, &peer, &addr);
        nat_punch_observer(world->core, &peer, &addr);
        break;
    case 4:
    case 5:
        if (nat_punch_start(world->core, world->now_ns, &peer, (who & 0x80) != 0) == ERR_OK) {
            ASSERT(world->due[who % PEERS] == 0);
            world->due[who % PEERS] = 1;
        }
        break;
    case 6:
        nat_punch_survey_done(world->core, world->now_ns, &peer);
        break;
    default:
        nat_punch_release(world->core, (uint16_t)(world->next_via - (unsigned)who % 16u));
    }
}

static void step(struct world *world, struct reader *r)
{
    uint8_t op = read_u8(r);
    switch (op % 8) {
    case 0:
    case 1:
        command(world, r, op >> 3);
        break;
    case 2:
        give_sockets(world, r);
        break;
    case 3:
        raw_message(world, r);
        break;
    case 4:
    case 5:
        good_message(world, r);
        break;
    default:
        advance(world, read_u8(r) * (op & 0x80 ? UINT64_C(100000000) : UINT64_C(2000000)));
    }
    drain(world);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world world;
    memset(&world, 0, sizeof world);
    rng_seeded_init(&world.stream, 1);
    struct nat_punch_config config = nat_punch_config_default();
    config.self = peer_of(1);
    config.rng = rng_of_seeded(&world.stream);
    config.peers_max = 2;
    world.now_ns = UINT64_C(10000000000);
    ASSERT(nat_punch_size(&config) <= MEMORY);
    world.core = nat_punch_init(world.memory, &config);
    struct reader r = reader_of(bytes_of(data, size < 2000 ? size : 2000));
    while (reader_left(&r) > 0)
        step(&world, &r);
    for (uint8_t i = 0; i < PEERS; i++) {
        struct id peer = peer_of(i);
        nat_punch_forget(world.core, world.now_ns, &peer);
        drain(&world);
        ASSERT(world.due[i] == 0);
    }
    struct nat_punch_stats stats = nat_punch_stats(world.core);
    ASSERT(stats.rounds == 0 && stats.sockets == stats.kept && stats.kept <= NAT_PUNCH_KEPT_MAX);
    ASSERT(stats.rounds_ok + stats.rounds_failed == world.results);
    return 0;
}
