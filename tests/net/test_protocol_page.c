/* The examples of docs/protocol/net.md are what the code sends and takes: each is made again byte for byte
 * from the seeds that the page names, is decoded by the real decoder, and is refused when a byte is missing
 * or changed.  The two path probes among them are decoded in tests/nat/test_protocol_page.c. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "net/quic.h"
#include "net/rpc.h"
#include "net/rpc_wire.h"
#include "net/seal.h"
#include "net/stream.h"
#include "support/page.h"

#define PAGE TEST_SOURCE_DIR "/../../docs/protocol/net.md"

enum { EXAMPLES = 11, HOUR_MS = 3600000, REQUEST_FRAME_MAX = RPC_BODY_DEFAULT + RPC_HEAD_MAX };

static const uint64_t wall_ms = UINT64_C(1700000000000);

struct example {
    uint8_t data[NET_DATAGRAM_MAX];
    size_t len;
};

static struct bytes example_bytes(const struct example *e)
{
    return bytes_of(e->data, e->len);
}

static struct example load(const char *name)
{
    struct example e;
    e.len = page_example(PAGE, name, e.data, sizeof e.data);
    cr_assert_gt(e.len, 0, "no example %s", name);
    return e;
}

/* What the code makes now must be what the page shows; if not, prints the block to put there. */
static void check_same(const char *name, struct bytes made)
{
    struct example e = load(name);
    if (!bytes_equal(made, example_bytes(&e))) {
        for (size_t i = 0; i < made.len; i++)
            (void)fprintf(stderr, "%02x%s", made.data[i], i % 48 == 47 ? "\n" : "");
        cr_assert_fail("the page's '%s' is not what the code makes (above)", name);
    }
}

/* One of the page's nodes: number n has the key of 32 bytes n, boot id n and the address 192.0.2.n:4242. */
struct node {
    struct rng_seeded stream;
    struct net_identity identity;
    struct net_seal *seal;
    struct net_addr addr;
};

static void node_open(struct node *node, uint8_t number, uint32_t group_burst)
{
    uint8_t seed[NET_SEED_BYTES];
    struct net_seal_config config = net_seal_config_default();
    memset(seed, number, sizeof seed);
    rng_seeded_init(&node->stream, number);
    net_identity_init(&node->identity, seed);
    config.identity = &node->identity;
    config.rng = rng_of_seeded(&node->stream);
    config.boot_id = number;
    config.peers_max = 8;
    config.group_burst = group_burst;
    cr_assert_eq(net_network_init(&config.network, "dunlin"), ERR_OK);
    void *memory = malloc(net_seal_size(&config));
    cr_assert_not_null(memory);
    node->seal = net_seal_init(memory, &config, 0, wall_ms - HOUR_MS);
    node->addr = (struct net_addr){.family = NET_FAMILY_V4, .ip = {192, 0, 2, number}, .port = 4242};
}

static void node_close(struct node *node)
{
    net_seal_check_invariants(node->seal);
    net_seal_deinit(node->seal);
    free(node->seal);
}

/* The page's probe, sealed to a node. */
static struct example seal_probe(struct node *from, const struct node *to, uint64_t sent_ms)
{
    struct example probe = load("probe");
    struct example sealed;
    struct net_message m = {.peer = to->identity.id, .kind = NET_KIND_PROBE, .body_len = probe.len};
    memcpy(m.body, probe.data, probe.len);
    int len = net_seal_write(from->seal, 0, sent_ms, &m, sealed.data, sizeof sealed.data);
    cr_assert_gt(len, 0);
    sealed.len = (size_t)len;
    return sealed;
}

static int open_at(struct node *to, const struct node *from, const struct example *e, struct net_message *out)
{
    return net_seal_open(to->seal, 0, wall_ms, &from->addr, example_bytes(e), out);
}

static struct example reply_of(struct node *node, const struct node *to)
{
    struct example reply;
    struct net_addr addr;
    reply.len = net_seal_poll_reply(node->seal, reply.data, &addr);
    cr_assert_gt(reply.len, 0);
    cr_assert(net_addr_equal(&addr, &to->addr));
    return reply;
}

static void check_probe(const struct net_message *m, const struct node *from)
{
    struct example probe = load("probe");
    cr_assert_eq(m->kind, NET_KIND_PROBE);
    cr_assert(id_equal(&m->peer, &from->identity.id));
    cr_assert(bytes_equal(bytes_of(m->body, m->body_len), example_bytes(&probe)));
}

/* Every truncation, and every byte changed, is refused before the whole datagram is accepted, once. */
Test(protocol_page, sealed_datagram)
{
    struct node a, b;
    struct net_message m;
    node_open(&a, 1, 60);
    node_open(&b, 2, 60);
    struct example made = seal_probe(&a, &b, wall_ms);
    check_same("sealed", example_bytes(&made));
    struct example e = load("sealed");
    cr_assert(net_seal_claims(example_bytes(&e)) && !quic_is_packet(example_bytes(&e)));
    for (size_t cut = 0; cut < e.len; cut++) {
        struct example shorter = e;
        shorter.len = cut;
        cr_assert_lt(open_at(&b, &a, &shorter, &m), 0, "cut to %zu", cut);
    }
    for (size_t i = 0; i < e.len; i++) {
        struct example changed = e;
        changed.data[i] ^= 1;
        cr_assert_lt(open_at(&b, &a, &changed, &m), 0, "byte %zu", i);
    }
    node_close(&b);
    node_open(&b, 2, 60); /* all those strangers have used up what it grants to one network */
    cr_assert_eq(open_at(&b, &a, &e, &m), ERR_OK);
    check_probe(&m, &a);
    cr_assert_eq(open_at(&b, &a, &e, &m), ERR_REPLAY);
    node_close(&a);
    node_close(&b);
}

/* Node 1 runs an hour ahead: node 2 asks for a proof, and takes the next datagram, which echoes it. */
Test(protocol_page, challenge)
{
    struct node a, b;
    struct net_message m;
    node_open(&a, 1, 60);
    node_open(&b, 2, 60);
    struct example sealed = seal_probe(&a, &b, wall_ms + HOUR_MS);
    cr_assert_eq(open_at(&b, &a, &sealed, &m), ERR_CLOCK);
    struct example made = reply_of(&b, &a);
    check_same("challenge", example_bytes(&made));
    struct example e = load("challenge");
    cr_assert_eq(open_at(&a, &b, &e, &m), NET_SEAL_CONTROL);
    cr_assert_eq(m.kind, NET_KIND_CHALLENGE);
    sealed = seal_probe(&a, &b, wall_ms + HOUR_MS);
    check_same("sealed_echo", example_bytes(&sealed));
    e = load("sealed_echo");
    cr_assert_eq(open_at(&b, &a, &e, &m), ERR_OK);
    check_probe(&m, &a);
    node_close(&a);
    node_close(&b);
}

/* Node 2 has spent what it grants to one network: it asks node 1 for a proof of its address. */
Test(protocol_page, cookie)
{
    struct node a, b, other;
    struct net_message m;
    node_open(&a, 1, 60);
    node_open(&b, 2, 1);
    node_open(&other, 3, 60);
    struct example sealed = seal_probe(&other, &b, wall_ms);
    cr_assert_eq(open_at(&b, &other, &sealed, &m), ERR_OK);
    sealed = seal_probe(&a, &b, wall_ms);
    cr_assert_eq(open_at(&b, &a, &sealed, &m), ERR_RATE);
    struct example made = reply_of(&b, &a);
    check_same("cookie_reply", example_bytes(&made));
    struct example e = load("cookie_reply");
    cr_assert_eq(open_at(&a, &b, &e, &m), NET_SEAL_CONTROL);
    cr_assert_eq(m.kind, 0);
    sealed = seal_probe(&a, &b, wall_ms);
    check_same("sealed_cookie", example_bytes(&sealed));
    e = load("sealed_cookie");
    cr_assert_eq(open_at(&b, &a, &e, &m), ERR_OK);
    check_probe(&m, &a);
    node_close(&a);
    node_close(&b);
    node_close(&other);
}

/* The first bytes of a stream, as its opener sends them: head, length, and the request of the page. */
Test(protocol_page, stream)
{
    struct example e = load("stream");
    struct example request = load("rpc_request");
    struct stream_head head;
    cr_assert_eq(e.len, STREAM_HEAD_BYTES + STREAM_LENGTH_BYTES + request.len);
    cr_assert_eq(stream_head_decode(e.data, &head), ERR_OK);
    cr_assert_eq(head.service, STREAM_SERVICE_RPC);
    cr_assert_eq(head.class, STREAM_CLASS_CONTROL);
    cr_assert_eq(stream_length_decode(e.data + STREAM_HEAD_BYTES, REQUEST_FRAME_MAX), (int)request.len);
    cr_assert_eq(stream_length_decode(e.data + STREAM_HEAD_BYTES, request.len - 1), ERR_TOO_LARGE);
    cr_assert_arr_eq(e.data + STREAM_HEAD_BYTES + STREAM_LENGTH_BYTES, request.data, request.len);
    e.data[0] = STREAM_VERSION + 1;
    cr_assert_eq(stream_head_decode(e.data, &head), ERR_VERSION);
}

Test(protocol_page, call)
{
    struct example e = load("rpc_request");
    struct rpc_request_message request;
    for (size_t cut = 0; cut < e.len; cut++)
        cr_assert_lt(rpc_request_decode(bytes_of(e.data, cut), RPC_BODY_DEFAULT, &request), 0);
    cr_assert_eq(rpc_request_decode(example_bytes(&e), RPC_BODY_DEFAULT, &request), ERR_OK);
    cr_assert_eq(request.method, 1);
    cr_assert_eq(request.timeout_ms, 5000);
    uint8_t again[128];
    size_t len = rpc_request_encode(&request, again, sizeof again);
    check_same("rpc_request", bytes_of(again, len));

    struct rpc_reply_message reply;
    e = load("rpc_reply");
    for (size_t cut = 0; cut < e.len; cut++)
        cr_assert_lt(rpc_reply_decode(bytes_of(e.data, cut), RPC_BODY_DEFAULT, &reply), 0);
    cr_assert_eq(rpc_reply_decode(example_bytes(&e), RPC_BODY_DEFAULT, &reply), ERR_OK);
    cr_assert_eq(reply.err, ERR_OK);
    cr_assert(bytes_equal(reply.body, bytes_of("\0\1\2\3", 4)));
    e = load("rpc_refusal");
    cr_assert_eq(rpc_reply_decode(example_bytes(&e), RPC_BODY_DEFAULT, &reply), ERR_OK);
    cr_assert_eq(reply.err, ERR_NOT_FOUND);
}

Test(protocol_page, no_example_is_left_out)
{
    cr_assert_eq(page_examples(PAGE), EXAMPLES);
}
