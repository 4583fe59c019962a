/* PCP answers, and the port mapping core as a program.  First byte even: the rest is a packet; what is
 * accepted must be what a server could have meant.  Odd: opcodes that let time pass, answer commands with
 * anything, judge, change the network, stop and start; relations must hold after each, and no candidate may
 * be an address that cannot be one. */
#include <string.h>

#include "base/bytes.h"
#include "nat/portmap.h"

enum { OUT_MAX = NAT_PORTMAP_SLOTS };

struct world {
    struct nat_portmap pm;
    struct rng_seeded stream;
    uint64_t now_ns;
    uint32_t tokens[OUT_MAX];
    size_t token_count;
    struct net_addr candidate; /* told last */
};

static void decode(struct bytes packet)
{
    struct nat_pcp_reply reply;
    int result = nat_pcp_decode(packet, &reply);
    ASSERT(result == ERR_OK || result == ERR_TRUNCATED || result == ERR_MALFORMED || result == ERR_VERSION);
    if (result != ERR_OK)
        return;
    ASSERT(packet.len >= NAT_PCP_MAP_BYTES && packet.len <= NAT_PCP_PACKET_MAX && packet.len % 4 == 0);
    ASSERT(packet.data[0] == 2 && packet.data[1] == 0x81 && packet.data[3] == reply.result);
    struct nat_pcp_request request = {.client = {.family = NET_FAMILY_V4, .port = reply.internal_port},
                                      .wanted = reply.external,
                                      .protocol = reply.protocol};
    uint8_t encoded[NAT_PCP_MAP_BYTES];
    request.client.family = reply.external.family;
    memcpy(request.nonce, reply.nonce, sizeof request.nonce);
    ASSERT(nat_pcp_answers(&reply, &request));
    nat_pcp_encode(&request, encoded);
    /* Nonce, protocol, ports and address stand at the same places in a request; three bytes are reserved. */
    ASSERT(memcmp(encoded + 24, packet.data + 24, 13) == 0 &&
           memcmp(encoded + 40, packet.data + 40, 20) == 0);
}

static void drain(struct world *world)
{
    struct nat_portmap_event event;
    struct nat_portmap_command command;
    while (nat_portmap_poll_event(&world->pm, &event)) {
        if (event.type != NAT_PORTMAP_CANDIDATE)
            continue;
        ASSERT(net_addr_scope(&event.addr) == NET_SCOPE_GLOBAL);
        world->candidate = event.addr;
    }
    while (nat_portmap_poll_command(&world->pm, &command)) {
        ASSERT(world->token_count < OUT_MAX);
        world->tokens[world->token_count++] = command.token;
    }
    nat_portmap_check_invariants(&world->pm);
}

static void answer(struct world *world, struct reader *r)
{
    struct nat_portmap_result result = {.token = read_u8(r)};
    uint8_t choice = read_u8(r);
    if (world->token_count > 0 && choice % 8 != 0) {
        size_t at = result.token % world->token_count;
        result.token = world->tokens[at];
        world->tokens[at] = world->tokens[--world->token_count];
    } else {
        result.token += 1u << 30; /* never given out */
    }
    result.error = (choice & 8) != 0 ? ERR_TIMEOUT : ERR_OK;
    result.epoch_known = (choice & 16) != 0;
    result.epoch_s = read_u16(r);
    result.lifetime_s = (choice & 32) != 0 ? read_u32(r) : read_u16(r);
    result.external.family = (choice & 64) != 0 ? NET_FAMILY_V6 : NET_FAMILY_V4;
    result.external.port = read_u16(r);
    read_into(r, result.external.ip, result.external.family == NET_FAMILY_V6 ? 16 : 4);
    int rc = nat_portmap_result(&world->pm, world->now_ns, &result);
    ASSERT(rc == ERR_OK || rc == ERR_NOT_FOUND);
}

static void step(struct world *world, struct reader *r)
{
    uint8_t opcode = read_u8(r);
    uint64_t deadline_ns = nat_portmap_deadline_ns(&world->pm);
    switch (opcode % 8) {
    case 0:
        world->now_ns += (uint64_t)read_u16(r) << 28;
        nat_portmap_tick(&world->pm, world->now_ns);
        break;
    case 1:
        if (deadline_ns != UINT64_MAX && deadline_ns > world->now_ns)
            world->now_ns = deadline_ns;
        nat_portmap_tick(&world->pm, world->now_ns);
        break;
    case 2:
        nat_portmap_network_changed(&world->pm, world->now_ns);
        break;
    case 3:
        (void)!nat_portmap_verdict(&world->pm, world->now_ns, &world->candidate,
                                   (opcode & 16) != 0 ? NAT_PORTMAP_TCP : NAT_PORTMAP_UDP, (opcode & 8) != 0);
        break;
    case 4:
        if ((opcode & 8) != 0)
            nat_portmap_stop(&world->pm, world->now_ns);
        else
            nat_portmap_start(&world->pm, world->now_ns);
        break;
    default:
        answer(world, r);
        break;
    }
    drain(world);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world world = {.now_ns = 1};
    struct reader r = reader_of(bytes_of(data, size));
    if (read_u8(&r) % 2 == 0) {
        decode(bytes_of(r.at, reader_left(&r)));
        return 0;
    }
    struct nat_portmap_config config = nat_portmap_config_default();
    rng_seeded_init(&world.stream, 5);
    config.rng = rng_of_seeded(&world.stream);
    config.port = 4242;
    config.tcp = size % 2 == 0;
    nat_portmap_init(&world.pm, &config);
    nat_portmap_start(&world.pm, world.now_ns);
    drain(&world);
    while (reader_left(&r) > 0)
        step(&world, &r);
    nat_portmap_stop(&world.pm, world.now_ns);
    drain(&world);
    ASSERT(nat_portmap_deadline_ns(&world.pm) == UINT64_MAX);
    return 0;
}
