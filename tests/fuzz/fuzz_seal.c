/* Sealed datagrams under attack: the input is a program over two nodes that hold valid keys for each other.
 * It throws raw bytes, sends genuine datagrams whole or damaged, moves the clocks, restarts a node.  Must
 * hold: nothing that was damaged opens, nothing opens twice, replies are no larger than what caused them. */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "net/seal.h"

enum { NODES = 2, PEERS = 4, MEMORY = 1 << 16 };

struct fuzz_node {
    struct net_identity identity;
    struct rng_seeded stream;
    struct net_seal_config config;
    struct net_seal *seal;
    struct net_addr addr;
    uint64_t wall_ms;
    _Alignas(64) uint8_t memory[MEMORY];
};

struct world {
    struct fuzz_node nodes[NODES];
    uint64_t now_ns;
    uint64_t boots;
    uint8_t last[NET_DATAGRAM_MAX]; /* genuine datagram sent last */
    size_t last_len;
    int last_to;
};

static int agree(void *user, const struct net_identity *own, const struct id *peer, uint8_t secret[32])
{
    (void)user;
    for (size_t i = 0; i < ID_BYTES; i++)
        secret[i] = own->id.bytes[i] ^ peer->bytes[i];
    return ERR_OK;
}

static void start(struct world *world, int index)
{
    struct fuzz_node *node = &world->nodes[index];
    node->config.boot_id = ++world->boots;
    ASSERT(net_seal_size(&node->config) <= MEMORY);
    node->seal = net_seal_init(node->memory, &node->config, world->now_ns, node->wall_ms);
}

static void prepare(struct world *world, int index)
{
    struct fuzz_node *node = &world->nodes[index];
    memset(node->identity.id.bytes, index + 1, ID_BYTES);
    rng_seeded_init(&node->stream, (uint64_t)index);
    node->config = net_seal_config_default();
    node->config.identity = &node->identity;
    node->config.rng = rng_of_seeded(&node->stream);
    node->config.peers_max = PEERS;
    node->config.agree = agree;
    node->addr =
        (struct net_addr){.family = NET_FAMILY_V4, .ip = {10, 0, 0, (uint8_t)(index + 1)}, .port = 9};
    node->wall_ms = UINT64_C(1700000000000);
    int rc = net_network_init(&node->config.network, "fuzz");
    ASSERT(rc == ERR_OK);
    start(world, index);
}

static int open_at(struct world *world, int to, struct bytes datagram)
{
    static struct net_message out;
    uint8_t reply[NET_SEAL_MIN];
    struct net_addr addr;
    struct fuzz_node *node = &world->nodes[to];
    int rc =
        net_seal_open(node->seal, world->now_ns, node->wall_ms, &world->nodes[1 - to].addr, datagram, &out);
    net_seal_check_invariants(node->seal);
    for (size_t len; (len = net_seal_poll_reply(node->seal, reply, &addr)) > 0;) {
        ASSERT(len <= datagram.len);
        struct fuzz_node *other = &world->nodes[1 - to];
        int taken = net_seal_open(other->seal, world->now_ns, other->wall_ms, &node->addr,
                                  bytes_of(reply, len), &out);
        ASSERT(taken == NET_SEAL_CONTROL || taken < 0);
        net_seal_check_invariants(other->seal);
    }
    return rc;
}

static void send_one(struct world *world, struct reader *r)
{
    static struct net_message message;
    int from = read_u8(r) % NODES;
    struct fuzz_node *node = &world->nodes[from];
    message.peer = world->nodes[1 - from].identity.id;
    message.kind = NET_KIND_PROBE;
    message.body_len = read_u16(r) % (NET_BODY_MAX + 1);
    int len =
        net_seal_write(node->seal, world->now_ns, node->wall_ms, &message, world->last, sizeof world->last);
    ASSERT(len >= NET_SEAL_MIN);
    world->last_len = (size_t)len;
    world->last_to = 1 - from;
}

/* The datagram sent last, cut and with some bytes changed. */
static void deliver_damaged(struct world *world, struct reader *r)
{
    uint8_t copy[NET_DATAGRAM_MAX];
    size_t changes = read_u8(r) % 8;
    size_t cut = read_u8(r) % 4 == 0 ? read_u16(r) : 0;
    if (world->last_len == 0)
        return;
    memcpy(copy, world->last, world->last_len);
    for (size_t i = 0; i < changes; i++) {
        size_t at = read_u16(r) % world->last_len;
        copy[at] ^= read_u8(r);
    }
    size_t len = world->last_len - cut % world->last_len;
    bool damaged = len != world->last_len || memcmp(copy, world->last, len) != 0;
    int rc = open_at(world, world->last_to, bytes_of(copy, len));
    ASSERT(!damaged || rc < 0);
    if (!damaged && rc == ERR_OK) {
        rc = open_at(world, world->last_to, bytes_of(copy, len));
        ASSERT(rc == ERR_REPLAY);
    }
}

static void step(struct world *world, struct reader *r)
{
    struct fuzz_node *node;
    switch (read_u8(r) % 6) {
    case 0: {
        struct bytes raw = read_bytes(r, reader_left(r) < 200 ? reader_left(r) : 200);
        (void)open_at(world, 0, raw);
        break;
    }
    case 1:
        send_one(world, r);
        break;
    case 2:
    case 3:
        deliver_damaged(world, r);
        break;
    case 4:
        node = &world->nodes[read_u8(r) % NODES];
        node->wall_ms += (uint64_t)((int64_t)(int16_t)read_u16(r) * 100);
        world->now_ns += (uint64_t)read_u16(r) * 1000000;
        break;
    default:
        if (read_u8(r) % 8 == 0)
            start(world, read_u8(r) % NODES);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world world;
    memset(&world, 0, sizeof world);
    for (int i = 0; i < NODES; i++)
        prepare(&world, i);
    struct reader r = reader_of(bytes_of(data, size));
    while (reader_left(&r) > 0)
        step(&world, &r);
    return 0;
}
