/* The table of peers: those who come by themselves leave room for those that we want. */
#include <criterion/criterion.h>
#include <sodium.h>
#include <stdlib.h>

#include "node/internal.h"

static struct node *node;
static void *blocks[3];

/* As much of a node as the table needs: no sockets, nothing of the DHT. */
static void open_node(void)
{
    cr_assert_geq(sodium_init(), 0);
    node = calloc(1, sizeof *node);
    cr_assert_not_null(node);
    uint8_t seed[NET_SEED_BYTES] = {1};
    node->rng = rng_system();
    net_identity_init(&node->identity, seed);
    struct nat_path_config path = nat_path_config_default();
    path.self = node->identity.id;
    path.rng = node->rng;
    node->path = nat_path_init(blocks[0] = calloc(1, nat_path_size(&path)), &path);
    struct nat_punch_config punch = nat_punch_config_default();
    punch.self = node->identity.id;
    punch.rng = node->rng;
    node->punch = nat_punch_init(blocks[1] = calloc(1, nat_punch_size(&punch)), &punch);
    struct nat_relay_client_config client = nat_relay_client_config_default();
    client.self = node->identity.id;
    client.rng = node->rng;
    node->relay_client =
        nat_relay_client_init(blocks[2] = calloc(1, nat_relay_client_size(&client)), &client);
    struct quic_config quic = quic_config_default();
    quic.identity = &node->identity;
    quic.rng = node->rng;
    quic.allocator = allocator_system();
    quic.secret[0] = 1;
    quic.frame_max[STREAM_SERVICE_RPC] = 1024;
    cr_assert_eq(quic_create(&node->quic, &quic, node_now_ns()), ERR_OK);
}

static void close_node(void)
{
    quic_destroy(node->quic);
    for (size_t i = 0; i < 3; i++)
        free(blocks[i]);
    net_identity_deinit(&node->identity);
    free(node);
}

TestSuite(peers, .init = open_node, .fini = close_node);

static struct id peer_of(unsigned number)
{
    struct id id = {{0}};
    id.bytes[0] = 2;
    id.bytes[1] = (uint8_t)number;
    id.bytes[2] = (uint8_t)(number >> 8);
    return id;
}

static size_t used(void)
{
    size_t count = 0;
    for (size_t i = 0; i < NODE_PEERS_MAX; i++)
        count += node->peers[i].used;
    return count;
}

/* A thousand connect: the table does not fill, and whom we want finds a place. */
Test(peers, those_who_dial_us_leave_room)
{
    for (unsigned i = 0; i < 1000; i++) {
        struct quic_event event = {.peer = peer_of(i)};
        peers_connected(node, &event);
    }
    cr_assert_eq(used(), NODE_PEERS_MAX - NODE_PEERS_RESERVED);
    for (unsigned i = 2000; i < 2000 + NODE_PEERS_RESERVED; i++) {
        struct id id = peer_of(i);
        struct node_peer *peer = peers_want(node, &id, NULL, 0, 60 * NODE_SECOND_NS);
        cr_assert_not_null(peer, "%u", i);
        struct quic_event event = {.peer = id};
        peers_connected(node, &event);
        cr_assert(peer->connected);
    }
    cr_assert_eq(used(), NODE_PEERS_MAX);
}

/* Strangers are few, but one that is connected stays known when its time as a stranger is over. */
Test(peers, a_connected_peer_is_always_admitted)
{
    uint64_t now_ns = node_now_ns();
    struct quic_event event = {.peer = peer_of(5000)};
    peers_connected(node, &event);
    for (unsigned i = 0; i < 2 * NODE_STRANGERS_MAX; i++) {
        struct id id = peer_of(i);
        cr_assert_eq(peers_admit(node, now_ns, &id) != NULL, i < NODE_STRANGERS_MAX);
    }
    struct node_peer *peer = peers_admit(node, now_ns, &event.peer);
    cr_assert_not_null(peer);
    cr_assert(id_equal(&peer->id, &event.peer));
}
