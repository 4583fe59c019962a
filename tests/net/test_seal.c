/* Sealed datagrams: what was sealed opens at its recipient once and nowhere else; every truncation, bit flip,
 * repetition, wrong clock and flood of strangers is refused, and an honest sender gets through all the same.
 */
#include <criterion/criterion.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>

#include "net/seal.h"
#include "net/seal_peers.h"
#include "tests/support/support.h"

static const uint64_t second_ns = UINT64_C(1000000000);
static const uint64_t wall0_ms = UINT64_C(1700000000000);

struct node {
    struct rng_seeded stream;
    struct net_identity identity;
    struct net_seal_config config;
    struct counting_allocator counter;
    struct allocator allocator;
    struct net_seal *seal;
    struct net_addr addr;
    int skews; /* TRACE_CLOCK_SKEW events */
};

static void on_trace(void *user, const struct trace_event *event)
{
    struct node *node = user;
    node->skews += event->kind == TRACE_CLOCK_SKEW;
}

static void node_start(struct node *node, uint64_t boot_id, uint64_t now_ns, uint64_t wall_ms)
{
    void *memory = allocator_get(&node->allocator, 1, net_seal_size(&node->config));
    cr_assert_not_null(memory);
    node->config.boot_id = boot_id;
    node->seal = net_seal_init(memory, &node->config, now_ns, wall_ms);
}

static void node_stop(struct node *node)
{
    net_seal_check_invariants(node->seal);
    net_seal_deinit(node->seal);
    allocator_release(&node->allocator, node->seal);
    node->seal = NULL;
}

static void node_prepare(struct node *node, unsigned number, const char *network)
{
    memset(node, 0, sizeof *node);
    rng_seeded_init(&node->stream, number);
    node->config = net_seal_config_default();
    node->config.rng = rng_of_seeded(&node->stream);
    net_identity_generate(&node->identity, &node->config.rng);
    node->config.identity = &node->identity;
    node->config.peers_max = 64;
    node->config.trace = (struct trace_sink){.emit = on_trace, .user = node};
    cr_assert_eq(net_network_init(&node->config.network, network), ERR_OK);
    node->allocator = counting_allocator_view(&node->counter);
    node->addr = (struct net_addr){.family = NET_FAMILY_V4, .ip = {10, 0, 0, (uint8_t)number}, .port = 4242};
}

static void node_open(struct node *node, unsigned number)
{
    node_prepare(node, number, "main");
    node_start(node, 1000 + number, 0, wall0_ms);
}

struct wire {
    uint8_t data[NET_DATAGRAM_MAX];
    size_t len;
};

static struct bytes wire_bytes(const struct wire *wire)
{
    return bytes_of(wire->data, wire->len);
}

static struct wire seal_to(struct node *from, const struct node *to, uint64_t now_ns, uint64_t wall_ms,
                           size_t body_len)
{
    struct wire wire = {.len = 0};
    struct net_message message = {.peer = to->identity.id, .kind = NET_KIND_PROBE, .body_len = body_len};
    for (size_t i = 0; i < body_len && i < NET_BODY_MAX; i++)
        message.body[i] = (uint8_t)(i * 7);
    int len = net_seal_write(from->seal, now_ns, wall_ms, &message, wire.data, sizeof wire.data);
    cr_assert_gt(len, 0, "%s", err_name(len));
    wire.len = (size_t)len;
    return wire;
}

static int open_at(struct node *to, const struct node *from, uint64_t now_ns, uint64_t wall_ms,
                   const struct wire *wire)
{
    struct net_message out;
    int rc = net_seal_open(to->seal, now_ns, wall_ms, &from->addr, wire_bytes(wire), &out);
    net_seal_check_invariants(to->seal);
    if (rc == ERR_OK)
        cr_assert(id_equal(&out.peer, &from->identity.id) && net_addr_equal(&out.addr, &from->addr));
    return rc;
}

/* Next automatic reply of node; it must exist and be no larger than the request. */
static struct wire reply_of(struct node *node, const struct node *to, size_t request_len)
{
    struct wire wire;
    struct net_addr addr;
    wire.len = net_seal_poll_reply(node->seal, wire.data, &addr);
    cr_assert_gt(wire.len, 0);
    cr_assert_leq(wire.len, request_len);
    cr_assert(net_addr_equal(&addr, &to->addr));
    return wire;
}

static bool no_reply(struct node *node)
{
    uint8_t data[NET_SEAL_MIN];
    struct net_addr addr;
    return net_seal_poll_reply(node->seal, data, &addr) == 0;
}

Test(seal, every_body_length_opens_unchanged)
{
    struct node a;
    struct node b;
    node_open(&a, 1);
    node_open(&b, 2);
    for (size_t len = 0; len <= NET_BODY_MAX; len += len < 64 ? 1 : 65) {
        struct net_message out;
        struct wire wire = seal_to(&a, &b, 1, wall0_ms, len);
        cr_assert_geq(wire.len, NET_SEAL_MIN);
        cr_assert_leq(wire.len,
                      len + NET_SEAL_OVERHEAD > NET_SEAL_MIN ? len + NET_SEAL_OVERHEAD : NET_SEAL_MIN);
        cr_assert(net_seal_claims(wire_bytes(&wire)));
        cr_assert_lt(wire.data[0], 0x40);
        cr_assert_eq(wire.data[1] & 0x80, 0);
        cr_assert_eq(net_seal_open(b.seal, 1, wall0_ms, &a.addr, wire_bytes(&wire), &out), ERR_OK);
        cr_assert_eq(out.body_len, len);
        cr_assert_eq(out.kind, NET_KIND_PROBE);
        for (size_t i = 0; i < len; i++)
            cr_assert_eq(out.body[i], (uint8_t)(i * 7));
    }
    cr_expect_eq(net_seal_stats(b.seal).derivations, 1);
    node_stop(&a);
    node_stop(&b);
}

Test(seal, write_refuses_what_cannot_be_sent)
{
    struct node a;
    struct node b;
    uint8_t out[NET_DATAGRAM_MAX];
    node_open(&a, 1);
    node_open(&b, 2);
    struct net_message message = {
        .peer = b.identity.id, .kind = NET_KIND_PROBE, .body_len = NET_BODY_MAX + 1};
    cr_expect_eq(net_seal_write(a.seal, 0, wall0_ms, &message, out, sizeof out), ERR_TOO_LARGE);
    message.body_len = 1;
    for (size_t cap = 0; cap < NET_SEAL_MIN; cap++)
        cr_expect_eq(net_seal_write(a.seal, 0, wall0_ms, &message, out, cap), ERR_TOO_LARGE, "cap %zu", cap);
    cr_expect_eq(net_seal_write(a.seal, 0, wall0_ms, &message, out, NET_SEAL_MIN), NET_SEAL_MIN);
    message.peer = a.identity.id;
    cr_expect_eq(net_seal_write(a.seal, 0, wall0_ms, &message, out, sizeof out), ERR_INVALID);
    memset(&message.peer, 0, sizeof message.peer);
    cr_expect_eq(net_seal_write(a.seal, 0, wall0_ms, &message, out, sizeof out), ERR_AUTH);
    node_stop(&a);
    node_stop(&b);
}

static void expect_every_damage_refused(struct node *b, const struct node *a, const struct wire *good)
{
    for (size_t len = 0; len < good->len; len++) {
        struct wire cut = *good;
        cut.len = len;
        cr_assert_lt(open_at(b, a, 1, wall0_ms, &cut), 0, "length %zu", len);
    }
    for (size_t bit = 0; bit < 8 * good->len; bit++) {
        struct wire flipped = *good;
        flipped.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cr_assert_lt(open_at(b, a, 1, wall0_ms, &flipped), 0, "bit %zu", bit);
    }
    struct wire longer = *good;
    longer.data[longer.len++] = 0;
    cr_assert_lt(open_at(b, a, 1, wall0_ms, &longer), 0);
}

Test(seal, every_truncation_and_bit_flip_is_refused)
{
    struct node a;
    struct node b;
    node_open(&a, 1);
    node_open(&b, 2);
    struct wire contact =
        seal_to(&a, &b, 1, wall0_ms, 40); /* a stranger's damage would run into the limits */
    cr_expect_eq(open_at(&b, &a, 1, wall0_ms, &contact), ERR_OK);
    struct wire first = seal_to(&a, &b, 1, wall0_ms, 40);
    expect_every_damage_refused(&b, &a, &first);
    cr_expect(no_reply(&b));
    cr_expect_eq(open_at(&b, &a, 1, wall0_ms, &first), ERR_OK);
    struct wire padded = seal_to(&a, &b, 1, wall0_ms, 0);
    expect_every_damage_refused(&b, &a, &padded);
    cr_expect_eq(open_at(&b, &a, 1, wall0_ms, &padded), ERR_OK);
    node_stop(&a);
    node_stop(&b);
}

/* Flips in the clear head must fail the mark, before a key is derived for an invented sender. */
Test(seal, junk_costs_no_key_agreement)
{
    struct node a;
    struct node b;
    node_open(&a, 1);
    node_open(&b, 2);
    struct wire good = seal_to(&a, &b, 1, wall0_ms, 40);
    for (size_t bit = 0; bit < 8 * NET_SEAL_HEAD; bit++) {
        struct wire flipped = good;
        flipped.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cr_assert_lt(open_at(&b, &a, 1, wall0_ms, &flipped), 0);
    }
    for (int i = 0; i < 10000; i++) {
        struct wire junk = {.len = (size_t)rng_below(&a.config.rng, NET_DATAGRAM_MAX + 1)};
        rng_fill(&a.config.rng, junk.data, junk.len);
        if (junk.len > 8 && i % 2 == 0)
            memcpy(junk.data, good.data, 8);
        cr_assert_lt(open_at(&b, &a, 1, wall0_ms, &junk), 0);
    }
    cr_expect_eq(net_seal_stats(b.seal).derivations, 0);
    cr_expect(no_reply(&b));
    node_stop(&a);
    node_stop(&b);
}

Test(seal, other_network_other_recipient_and_own_datagrams)
{
    struct node a;
    struct node b;
    struct node c;
    struct node other;
    node_open(&a, 1);
    node_open(&b, 2);
    node_open(&c, 3);
    node_prepare(&other, 4, "test");
    node_start(&other, 1, 0, wall0_ms);
    struct wire wire = seal_to(&a, &b, 1, wall0_ms, 40);
    cr_expect_eq(open_at(&other, &a, 1, wall0_ms, &wire), ERR_NETWORK);
    cr_expect_eq(net_seal_stats(other.seal).dropped_network, 1);
    cr_expect_eq(net_seal_stats(other.seal).derivations, 0);
    cr_expect_eq(open_at(&c, &a, 1, wall0_ms, &wire), ERR_AUTH);
    cr_expect_eq(open_at(&a, &b, 1, wall0_ms, &wire), ERR_REFUSED);
    cr_expect_eq(open_at(&b, &a, 1, wall0_ms, &wire), ERR_OK);
    node_stop(&a);
    node_stop(&b);
    node_stop(&c);
    node_stop(&other);
}

/* The same 32-bit id is not enough: the full hash of the name is in the key and in the mark. */
Test(seal, colliding_network_id_is_refused)
{
    struct node a;
    struct node b;
    node_open(&a, 1);
    node_prepare(&b, 2, "main");
    b.config.network.hash.bytes[31] ^= 1;
    node_start(&b, 1, 0, wall0_ms);
    struct wire wire = seal_to(&a, &b, 1, wall0_ms, 40);
    cr_expect_eq(open_at(&b, &a, 1, wall0_ms, &wire), ERR_AUTH);
    node_stop(&a);
    node_stop(&b);
}

Test(seal, an_unusable_public_key_is_refused)
{
    struct node a;
    struct node b;
    node_open(&b, 2);
    node_prepare(&a, 1, "main");
    memset(a.identity.id.bytes, 0, ID_BYTES);
    a.identity.id.bytes[0] = 1; /* the neutral element */
    node_start(&a, 1, 0, wall0_ms);
    struct wire wire = seal_to(&a, &b, 1, wall0_ms, 40);
    cr_expect_eq(open_at(&b, &a, 1, wall0_ms, &wire), ERR_AUTH);
    node_stop(&a);
    node_stop(&b);
}

Test(seal, a_datagram_opens_once_in_any_order)
{
    enum { COUNT = NET_SEAL_WINDOW + 40 };
    static struct wire wires[COUNT];
    struct node a;
    struct node b;
    node_open(&a, 1);
    node_open(&b, 2);
    for (size_t i = 0; i < COUNT; i++)
        wires[i] = seal_to(&a, &b, 1, wall0_ms, 8);
    cr_expect_eq(open_at(&b, &a, 1, wall0_ms, &wires[0]), ERR_OK);
    cr_expect_eq(open_at(&b, &a, 1, wall0_ms, &wires[COUNT - 1]), ERR_OK);
    for (size_t i = COUNT - 1; i-- > 1;) {
        bool inside = COUNT - 1 - i < NET_SEAL_WINDOW;
        cr_expect_eq(open_at(&b, &a, 1, wall0_ms, &wires[i]), inside ? ERR_OK : ERR_REPLAY, "%zu", i);
    }
    for (size_t i = 0; i < COUNT; i++)
        cr_expect_eq(open_at(&b, &a, 2, wall0_ms, &wires[i]), ERR_REPLAY);
    node_stop(&a);
    node_stop(&b);
}

/* Model: the window agrees with the plain rule "not in the set, and less than a window behind the highest".
 */
Test(seal, window_agrees_with_a_set)
{
    enum { SPAN = 6000 };
    static bool seen[SPAN];
    static struct seal_peer peer;
    struct rng_seeded stream;
    rng_seeded_init(&stream, 5);
    struct rng rng = rng_of_seeded(&stream);
    uint64_t highest = 500;
    seal_window_start(&peer, highest);
    for (size_t i = 0; i <= highest; i++)
        seen[i] = true; /* whatever came before the start counts as seen */
    for (int i = 0; i < 20000; i++) {
        uint64_t reach = rng_below(&rng, 50) == 0 ? 700 : 40;
        uint64_t low = highest > 300 ? highest - 300 : 0;
        uint64_t counter = low + rng_below(&rng, highest - low + reach);
        if (counter >= SPAN)
            break;
        bool expected = seen[counter] || (counter <= highest && highest - counter >= NET_SEAL_WINDOW);
        cr_assert_eq(seal_window_seen(&peer, counter), expected, "step %d counter %lu", i,
                     (unsigned long)counter);
        if (!expected) {
            seal_window_mark(&peer, counter);
            seen[counter] = true;
            highest = counter > highest ? counter : highest;
        }
    }
}

Test(seal, clocks_within_the_limit_need_no_challenge)
{
    struct node a;
    struct node b;
    node_open(&a, 1);
    node_open(&b, 2);
    uint64_t limit_ms = a.config.clock_limit_ms;
    uint64_t later_ms = wall0_ms + 10 * limit_ms; /* long after b's start */
    struct wire early = seal_to(&a, &b, 1, later_ms - limit_ms, 40);
    struct wire late = seal_to(&a, &b, 1, later_ms + limit_ms, 40);
    struct wire off = seal_to(&a, &b, 1, later_ms + limit_ms + 1, 40);
    cr_expect_eq(open_at(&b, &a, 1, later_ms, &early), ERR_OK);
    cr_expect_eq(open_at(&b, &a, 1, later_ms, &late), ERR_OK);
    cr_expect_eq(open_at(&b, &a, 1, later_ms, &off), ERR_CLOCK);
    cr_expect_eq(b.skews, 0);
    node_stop(&a);
    node_stop(&b);
}

static void expect_skewed_pair_works(int64_t skew_ms)
{
    struct node a;
    struct node b;
    struct net_message out;
    int64_t offset_ms = 0;
    size_t peers = 0;
    node_open(&a, 1);
    node_open(&b, 2);
    uint64_t wall_b = wall0_ms + 1000;
    uint64_t wall_a = wall_b + (uint64_t)skew_ms;
    struct wire request = seal_to(&a, &b, 1, wall_a, 0);
    cr_assert_eq(open_at(&b, &a, 1, wall_b, &request), ERR_CLOCK);
    cr_expect(!net_seal_clock_offset(b.seal, 1, &offset_ms, &peers),
              "an old recording must not move the median");
    struct wire challenge = reply_of(&b, &a, request.len);
    cr_assert_eq(net_seal_open(a.seal, 1, wall_a, &b.addr, wire_bytes(&challenge), &out), NET_SEAL_CONTROL);
    cr_expect(id_equal(&out.peer, &b.identity.id) && out.kind == NET_KIND_CHALLENGE && out.body_len == 0);
    cr_expect(net_seal_clock_offset(a.seal, 1, &offset_ms, &peers) && peers == 1);
    cr_expect_eq(offset_ms, -skew_ms);
    cr_expect_eq(a.skews, 1);
    struct wire again = seal_to(&a, &b, 2, wall_a, 0);
    cr_expect_eq(open_at(&b, &a, 2, wall_b, &again), ERR_OK);
    cr_expect_eq(b.skews, 1);
    cr_expect(net_seal_clock_offset(b.seal, 2, &offset_ms, &peers) && offset_ms == skew_ms);
    cr_expect_eq(open_at(&b, &a, 2, wall_b, &again), ERR_REPLAY);
    struct wire answer = seal_to(&b, &a, 2, wall_b, 40);
    cr_expect_eq(open_at(&a, &b, 2, wall_a, &answer), ERR_OK, "the other way needs no second challenge");
    cr_expect_eq(open_at(&b, &a, 3, wall_b, &request), ERR_REPLAY, "behind what was accepted since");
    struct wire damaged = seal_to(&a, &b, 2, wall_a, 0);
    expect_every_damage_refused(&b, &a, &damaged);
    node_stop(&a);
    node_stop(&b);
}

Test(seal, an_hour_ahead_is_answered_with_a_challenge)
{
    expect_skewed_pair_works(3600 * 1000);
}

Test(seal, ten_years_behind_is_answered_with_a_challenge)
{
    expect_skewed_pair_works(-INT64_C(10) * 365 * 86400 * 1000);
}

Test(seal, a_recorded_challenge_works_once)
{
    struct node a;
    struct node b;
    node_open(&a, 1);
    node_open(&b, 2);
    uint64_t wall_a = wall0_ms + 3600 * 1000;
    struct wire request = seal_to(&a, &b, 1, wall_a, 0);
    cr_assert_eq(open_at(&b, &a, 1, wall0_ms, &request), ERR_CLOCK);
    struct wire challenge = reply_of(&b, &a, request.len);
    cr_expect_eq(open_at(&a, &b, 1, wall_a, &challenge), NET_SEAL_CONTROL);
    cr_expect_eq(open_at(&a, &b, 2, wall_a, &challenge), ERR_REPLAY);
    node_stop(&a);
    node_start(&a, 77, 0, wall_a);
    cr_expect_eq(open_at(&a, &b, 2, wall_a, &challenge), ERR_REPLAY, "for another process of ours");
    cr_expect(open_at(&b, &a, 2, wall0_ms, &request) == ERR_CLOCK && no_reply(&b), "one challenge per 0.1 s");
    cr_expect(open_at(&b, &a, second_ns, wall0_ms, &request) == ERR_CLOCK && !no_reply(&b));
    node_stop(&a);
    node_stop(&b);
}

/* The recipient forgets everything at a restart; what was recorded before must not open again. */
Test(seal, restart_of_the_recipient_admits_no_recording)
{
    struct node a;
    struct node b;
    node_open(&a, 1);
    node_open(&b, 2);
    struct wire recorded = seal_to(&a, &b, 1, wall0_ms + 5000, 40);
    cr_expect_eq(open_at(&b, &a, 1, wall0_ms + 5000, &recorded), ERR_OK);
    node_stop(&b);
    node_start(&b, 5, 0, wall0_ms + 6000);
    cr_expect_eq(open_at(&b, &a, 1, wall0_ms + 6001, &recorded), ERR_CLOCK);
    struct wire challenge = reply_of(&b, &a, recorded.len);
    struct wire fresh = seal_to(&a, &b, 2, wall0_ms + 6001, 40);
    cr_expect_eq(open_at(&b, &a, 2, wall0_ms + 6001, &fresh), ERR_OK);
    cr_expect_eq(open_at(&a, &b, 2, wall0_ms + 6001, &challenge), NET_SEAL_CONTROL);
    cr_expect_eq(open_at(&b, &a, 3, wall0_ms + 6002, &recorded), ERR_REPLAY, "same process, lower counter");
    node_stop(&a);
    node_stop(&b);
}

Test(seal, restart_of_the_sender_retires_its_old_datagrams)
{
    struct node a;
    struct node b;
    node_open(&a, 1);
    node_open(&b, 2);
    struct wire old1 = seal_to(&a, &b, 1, wall0_ms + 10, 40);
    struct wire old2 = seal_to(&a, &b, 1, wall0_ms + 9000, 40); /* held back by someone */
    cr_expect_eq(open_at(&b, &a, 1, wall0_ms + 10, &old1), ERR_OK);
    node_stop(&a);
    node_start(&a, 2, 0, wall0_ms + 20);
    struct wire new1 = seal_to(&a, &b, 2, wall0_ms + 30, 40);
    cr_expect_eq(open_at(&b, &a, 2, wall0_ms + 30, &new1), ERR_OK, "counters start again with a boot id");
    cr_expect_eq(open_at(&b, &a, 3, wall0_ms + 40, &old1), ERR_REPLAY);
    cr_expect_eq(open_at(&b, &a, 3, wall0_ms + 40, &old2), ERR_REPLAY);
    node_stop(&a);
    node_start(&a, 3, 0, wall0_ms);
    struct wire back = seal_to(&a, &b, 4, wall0_ms + 5, 40); /* restarted with its clock set back */
    cr_expect_eq(open_at(&b, &a, 4, wall0_ms + 50, &back), ERR_CLOCK);
    struct wire challenge = reply_of(&b, &a, back.len);
    cr_expect_eq(open_at(&a, &b, 4, wall0_ms + 6, &challenge), NET_SEAL_CONTROL);
    struct wire proven = seal_to(&a, &b, 5, wall0_ms + 7, 40);
    cr_expect_eq(open_at(&b, &a, 5, wall0_ms + 52, &proven), ERR_OK);
    cr_expect_eq(open_at(&b, &a, 5, wall0_ms + 52, &new1), ERR_REPLAY);
    node_stop(&a);
    node_stop(&b);
}

/* Eviction loses a replay window; a stranger must then have sent later than anything that was evicted. */
Test(seal, eviction_admits_no_recording)
{
    static struct node crowd[8];
    struct node a;
    struct node b;
    node_open(&a, 1);
    node_prepare(&b, 2, "main");
    b.config.peers_max = 4;
    node_start(&b, 1, 0, wall0_ms);
    struct wire recorded = seal_to(&a, &b, 1, wall0_ms + 50, 40);
    cr_expect_eq(open_at(&b, &a, 1, wall0_ms + 50, &recorded), ERR_OK);
    for (unsigned i = 0; i < 8; i++) {
        node_open(&crowd[i], 10 + i);
        struct wire wire = seal_to(&crowd[i], &b, 1, wall0_ms + 100 + i, 40);
        cr_expect_eq(open_at(&b, &crowd[i], 1, wall0_ms + 100 + i, &wire), ERR_OK);
    }
    cr_expect_eq(net_seal_stats(b.seal).evictions, 5);
    cr_expect_eq(open_at(&b, &a, 2, wall0_ms + 110, &recorded), ERR_CLOCK);
    struct wire fresh = seal_to(&a, &b, 2, wall0_ms + 110, 40);
    cr_expect_eq(open_at(&b, &a, 2, wall0_ms + 110, &fresh), ERR_OK);
    for (unsigned i = 0; i < 8; i++)
        node_stop(&crowd[i]);
    node_stop(&a);
    node_stop(&b);
}

/* After evicting a peer we count on where we were: it must not take our next datagram for a repetition. */
Test(seal, our_counters_survive_eviction)
{
    static struct node crowd[6];
    struct node a;
    struct node b;
    node_prepare(&a, 1, "main");
    a.config.peers_max = 2;
    node_start(&a, 1, 0, wall0_ms);
    node_open(&b, 2);
    for (unsigned i = 0; i < 6; i++)
        node_open(&crowd[i], 10 + i);
    for (unsigned round = 0; round < 12; round++) {
        struct wire wire = seal_to(&a, &b, 1, wall0_ms, 40);
        cr_expect_eq(open_at(&b, &a, 1, wall0_ms, &wire), ERR_OK, "round %u", round);
        (void)seal_to(&a, &crowd[round % 6], 1, wall0_ms, 40);
        (void)seal_to(&a, &crowd[(round + 1) % 6], 1, wall0_ms, 40);
    }
    cr_expect_gt(net_seal_stats(a.seal).evictions, 12);
    for (unsigned i = 0; i < 6; i++)
        node_stop(&crowd[i]);
    node_stop(&a);
    node_stop(&b);
}

Test(seal, pinned_peers_stay)
{
    static struct node crowd[6];
    struct node a;
    struct node b;
    node_prepare(&a, 1, "main");
    a.config.peers_max = 4;
    node_start(&a, 1, 0, wall0_ms);
    node_open(&b, 2);
    cr_expect_eq(net_seal_pin(a.seal, &b.identity.id, true), ERR_NOT_FOUND);
    (void)seal_to(&a, &b, 1, wall0_ms, 40);
    cr_expect_eq(net_seal_pin(a.seal, &b.identity.id, true), ERR_OK);
    for (unsigned i = 0; i < 6; i++) {
        node_open(&crowd[i], 10 + i);
        (void)seal_to(&a, &crowd[i], 1, wall0_ms, 40);
        net_seal_check_invariants(a.seal);
    }
    uint64_t before = net_seal_stats(a.seal).derivations;
    (void)seal_to(&a, &b, 1, wall0_ms, 40);
    cr_expect_eq(net_seal_stats(a.seal).derivations, before);
    cr_expect_eq(net_seal_pin(a.seal, &crowd[5].identity.id, true), ERR_OK);
    cr_expect_eq(net_seal_pin(a.seal, &crowd[4].identity.id, true), ERR_FULL);
    cr_expect_eq(net_seal_pin(a.seal, &b.identity.id, false), ERR_OK);
    cr_expect_eq(net_seal_pin(a.seal, &crowd[4].identity.id, true), ERR_OK);
    for (unsigned i = 0; i < 6; i++)
        node_stop(&crowd[i]);
    node_stop(&a);
    node_stop(&b);
}

/* Key agreement without curves, for floods: same seam as the simulator's. */
static int agree_by_sum(void *user, const struct net_identity *own, const struct id *peer, uint8_t secret[32])
{
    (void)user;
    for (size_t i = 0; i < ID_BYTES; i++)
        secret[i] = own->id.bytes[i] ^ peer->bytes[i];
    return ERR_OK;
}

/* A flood of strangers from one group is cut to the bucket, and one of them that echoes the cookie gets in.
 */
Test(seal, flood_from_one_group_then_cookie)
{
    struct node b;
    struct node last;
    node_prepare(&b, 1, "main");
    b.config.agree = agree_by_sum;
    node_start(&b, 1, 0, wall0_ms);
    int opened = 0;
    struct wire wire = {.len = 0};
    for (unsigned i = 0; i < 100; i++) {
        node_prepare(&last, 100 + i, "main");
        last.config.agree = agree_by_sum;
        node_start(&last, 1, 0, wall0_ms);
        last.addr.ip[3] = (uint8_t)i;
        wire = seal_to(&last, &b, 1, wall0_ms, 40);
        int rc = open_at(&b, &last, 1, wall0_ms, &wire);
        opened += rc == ERR_OK;
        cr_assert(rc == ERR_OK || rc == ERR_RATE);
        if (i < 99) {
            uint8_t data[NET_SEAL_MIN];
            struct net_addr to;
            (void)net_seal_poll_reply(b.seal, data, &to);
            node_stop(&last);
        }
    }
    cr_expect_eq(opened, 60);
    cr_expect_eq(net_seal_stats(b.seal).derivations, 60);
    struct wire cookie = reply_of(&b, &last, wire.len - 1);
    cr_expect_eq(open_at(&last, &b, 1, wall0_ms, &cookie), NET_SEAL_CONTROL);
    struct wire with_cookie = seal_to(&last, &b, 1, wall0_ms, 40);
    cr_expect_eq(with_cookie.len, wire.len + NET_SEAL_COOKIE);
    struct node elsewhere = last;
    elsewhere.addr.port++;
    cr_expect_eq(open_at(&b, &elsewhere, 1, wall0_ms, &with_cookie), ERR_RATE, "a cookie is for one address");
    (void)reply_of(&b, &elsewhere, with_cookie.len);
    cr_expect_eq(open_at(&b, &last, 3 * b.config.cookie_period_ns, wall0_ms, &with_cookie), ERR_OK,
                 "the bucket has filled meanwhile, stale cookie or not");
    node_stop(&last);
    node_stop(&b);
}

Test(seal, cookie_is_accepted_during_the_flood_and_damage_is_not)
{
    struct node a;
    struct node b;
    struct node c;
    node_prepare(&b, 1, "main");
    b.config.group_burst = 1;
    node_start(&b, 1, 0, wall0_ms);
    node_open(&a, 2);
    node_open(&c, 3);
    struct wire first = seal_to(&c, &b, 1, wall0_ms, 40);
    cr_expect_eq(open_at(&b, &c, 1, wall0_ms, &first), ERR_OK);
    struct wire refused = seal_to(&a, &b, 1, wall0_ms, 40);
    cr_expect_eq(open_at(&b, &a, 1, wall0_ms, &refused), ERR_RATE);
    struct wire cookie = reply_of(&b, &a, refused.len - 1);
    for (size_t bit = 0; bit < 8 * NET_SEAL_HEAD; bit++) {
        struct wire flipped = cookie;
        flipped.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cr_assert_lt(open_at(&a, &b, 1, wall0_ms, &flipped), 0, "bit %zu", bit);
    }
    cr_expect_eq(open_at(&c, &b, 1, wall0_ms, &cookie), ERR_REFUSED, "not its nonce");
    cr_expect_eq(open_at(&a, &b, 1, wall0_ms, &cookie), NET_SEAL_CONTROL);
    struct wire again = seal_to(&a, &b, 1, wall0_ms, 40);
    expect_every_damage_refused(&b, &a, &again);
    while (!no_reply(&b))
        continue;
    cr_expect_eq(open_at(&b, &a, second_ns, wall0_ms, &again), ERR_OK);
    struct wire later = seal_to(&a, &b, 2 * a.config.cookie_period_ns, wall0_ms, 40);
    cr_expect_eq(later.len, refused.len, "an old cookie is not sent any more");
    node_stop(&a);
    node_stop(&b);
    node_stop(&c);
}

/* A flood from everywhere leaves the proven half of the total bucket alone, and the reply queue bounded. */
Test(seal, flood_from_everywhere_is_cut_to_the_total)
{
    struct node b;
    struct node sender;
    unsigned opened = 0;
    unsigned refused = 0;
    node_prepare(&b, 1, "main");
    b.config.agree = agree_by_sum;
    b.config.peers_max = 1024;
    node_start(&b, 1, 0, wall0_ms);
    for (unsigned i = 0; i < 600; i++) {
        node_prepare(&sender, 100 + i, "main");
        sender.config.agree = agree_by_sum;
        sender.config.peers_max = 2;
        node_start(&sender, 1, 0, wall0_ms);
        sender.addr = (struct net_addr){
            .family = NET_FAMILY_V4, .ip = {20, (uint8_t)(i >> 8), (uint8_t)i, 1}, .port = 4242};
        struct wire wire = seal_to(&sender, &b, 1, wall0_ms, 40);
        int rc = open_at(&b, &sender, 1, wall0_ms, &wire);
        opened += rc == ERR_OK;
        refused += rc == ERR_RATE;
        node_stop(&sender);
    }
    cr_expect_eq(opened, 250);
    cr_expect_eq(refused, 350);
    cr_expect_eq(net_seal_stats(b.seal).cookies_sent, NET_SEAL_REPLIES_MAX);
    cr_expect_eq(net_seal_stats(b.seal).replies_dropped, 350 - NET_SEAL_REPLIES_MAX);
    node_prepare(&sender, 9, "main");
    sender.config.agree = agree_by_sum;
    node_start(&sender, 1, 0, wall0_ms);
    while (!no_reply(&b))
        continue;
    struct wire wire = seal_to(&sender, &b, 1, wall0_ms, 40);
    cr_expect_eq(open_at(&b, &sender, 1, wall0_ms, &wire), ERR_RATE);
    struct wire cookie = reply_of(&b, &sender, wire.len);
    cr_expect_eq(open_at(&sender, &b, 1, wall0_ms, &cookie), NET_SEAL_CONTROL);
    wire = seal_to(&sender, &b, 1, wall0_ms, 40);
    cr_expect_eq(open_at(&b, &sender, 1, wall0_ms, &wire), ERR_OK, "proven senders have the other half");
    node_stop(&sender);
    node_stop(&b);
}

Test(seal, median_clock_offset)
{
    static struct seal_clocks clocks;
    int64_t offset_ms;
    size_t peers;
    cr_expect(!seal_clocks_median(&clocks, 0, &offset_ms, &peers));
    for (unsigned i = 0; i < 100; i++) {
        struct id id = {.bytes = {(uint8_t)i}};
        seal_clocks_note(&clocks, i * second_ns, &id, (int64_t)i * 10);
    }
    cr_expect(seal_clocks_median(&clocks, 99 * second_ns, &offset_ms, &peers));
    cr_expect_eq(peers, SEAL_CLOCK_SAMPLES);
    cr_expect_eq(offset_ms, 840, "the median of peers 69 to 99");
    seal_clocks_note(&clocks, 100 * second_ns, &(struct id){.bytes = {99}}, -5000);
    cr_expect(seal_clocks_median(&clocks, 100 * second_ns, &offset_ms, &peers));
    cr_expect(peers == SEAL_CLOCK_SAMPLES && offset_ms == 830);
    cr_expect(seal_clocks_median(&clocks, 700 * second_ns, &offset_ms, &peers));
    cr_expect(peers == 1 && offset_ms == -5000, "older than ten minutes does not count");
    cr_expect(!seal_clocks_median(&clocks, 701 * second_ns, &offset_ms, &peers));
}

Test(seal, config_is_checked)
{
    struct node a;
    const char *why;
    node_prepare(&a, 1, "main");
    cr_expect_eq(net_seal_config_check(&a.config, &why), ERR_OK);
    struct net_seal_config bad[7];
    for (size_t i = 0; i < 7; i++)
        bad[i] = a.config;
    bad[0].identity = NULL;
    bad[1].peers_max = 1;
    bad[2].clock_limit_ms = 0;
    bad[3].derivations_per_s = 0;
    bad[4].group_burst = 0;
    bad[5].cookie_period_ns = 0;
    memset(&bad[6].network, 0, sizeof bad[6].network);
    for (size_t i = 0; i < 7; i++) {
        why = NULL;
        cr_expect(net_seal_config_check(&bad[i], &why) == ERR_INVALID && why != NULL, "%zu", i);
    }
    struct net_network network;
    char name[NET_NETWORK_NAME_MAX + 2];
    memset(name, 'n', sizeof name);
    name[NET_NETWORK_NAME_MAX + 1] = '\0';
    cr_expect_eq(net_network_init(&network, name), ERR_INVALID);
    name[NET_NETWORK_NAME_MAX] = '\0';
    cr_expect_eq(net_network_init(&network, name), ERR_OK);
    cr_expect_eq(net_network_init(&network, ""), ERR_INVALID);
    cr_expect_eq(net_network_init(&network, "two words"), ERR_INVALID);
}

/* All memory is the one block handed in, and deinit leaves nothing of a key in it. */
Test(seal, one_block_of_memory_wiped_at_the_end)
{
    struct node a;
    struct node b;
    node_open(&a, 1);
    node_open(&b, 2);
    size_t size = net_seal_size(&a.config);
    for (int i = 0; i < 500; i++) {
        struct wire wire = seal_to(&a, &b, 1, wall0_ms, (size_t)i);
        cr_expect_eq(open_at(&b, &a, 1, wall0_ms, &wire), ERR_OK);
    }
    cr_expect_eq(a.counter.allocated, 1);
    cr_expect_eq(b.counter.allocated, 1);
    uint8_t *memory = (uint8_t *)a.seal;
    net_seal_deinit(a.seal);
    cr_expect(sodium_is_zero(memory, size));
    allocator_release(&a.allocator, memory);
    node_stop(&b);
    struct net_seal_config config = net_seal_config_default();
    cr_expect_lt(net_seal_size(&config), 300 * config.peers_max);
    config.peers_max = 512;
    cr_expect_lt(net_seal_size(&config), 192 * 1024, "a simulated node has 256 KiB in all");
}
