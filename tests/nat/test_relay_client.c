/* A relay's client against real relays in virtual time: reservations, sessions, losses, moves. */
#include "relay_net.h"

/* Two relays in different networks, two nodes behind NATs, one more relay. */
enum { R1, R2, A, B, R3 };
static const char *const places[] = {"192.0.2.1:1", "198.51.100.1:1", "203.0.113.5:5", "203.0.113.99:9",
                                     "198.51.100.2:1"};

static struct net_world *world_of(uint64_t seed)
{
    return net_open(places, 5, seed);
}

static void offer_relay(struct net_world *world, size_t to, size_t relay)
{
    cr_assert_eq(nat_relay_client_candidate(world->nodes[to].client, world->now_ns, &world->nodes[relay].id,
                                            &world->nodes[relay].addr),
                 ERR_OK);
}

/* B holds reservations on R1 and R2. */
static void reserve(struct net_world *world)
{
    offer_relay(world, B, R1);
    offer_relay(world, B, R2);
    nat_relay_client_set_wanted(world->nodes[B].client, world->now_ns, 2);
    net_run(world, 3000 * MS);
}

static uint32_t open_to_b(struct net_world *world, size_t relay)
{
    uint32_t token = 0;
    int rc = nat_relay_client_open(world->nodes[A].client, world->now_ns, &world->nodes[B].id,
                                   &world->nodes[relay].id, &world->nodes[relay].addr, &token);
    cr_assert_eq(rc, ERR_OK, "%s", err_name(rc));
    return token;
}

static uint16_t via_of(const struct net_world *world, size_t i)
{
    const struct nat_relay_client_event *up = net_event(world, i, NAT_RELAY_SESSION_UP);
    cr_assert_not_null(up, "no session up at node %zu", i);
    return up->route.via;
}

static bool passes(struct net_world *world, size_t from, size_t to, uint16_t via)
{
    size_t before = world->nodes[to].frames;
    cr_assert(net_send_frame(world, from, via, "hello"));
    net_run(world, 200 * MS);
    return world->nodes[to].frames == before + 1 && memcmp(world->nodes[to].last, "hello", 5) == 0;
}

static size_t held(const struct net_world *world, size_t i)
{
    struct nat_relay_place places_held[8];
    return nat_relay_client_held(world->nodes[i].client, places_held, 8);
}

/* Reservations are taken on two relays of different networks though a third is nearer, kept for an hour, and
 * given back when nobody wants them. */
Test(relay_client, holds_two_reservations_in_two_networks)
{
    struct net_world *world = world_of(1);
    struct nat_relay_place found[3];
    world->nodes[R1].delay_ns = 80 * MS;
    world->nodes[R3].delay_ns = 5 * MS;
    nat_relay_client_set_wanted(world->nodes[B].client, world->now_ns, 2);
    for (size_t relay = R1; relay <= R2; relay++)
        offer_relay(world, B, relay);
    offer_relay(world, B, R3);
    net_run(world, 3000 * MS);
    cr_assert_eq(nat_relay_client_held(world->nodes[B].client, found, 3), 2);
    cr_assert_not(net_addr_same_group(&found[0].addr, &found[1].addr));
    bool nearest =
        id_equal(&found[0].id, &world->nodes[R3].id) || id_equal(&found[1].id, &world->nodes[R3].id);
    cr_assert(nearest, "the nearer one of a network is taken");
    net_run(world, 3600000 * MS);
    cr_assert_eq(held(world, B), 2);
    cr_assert_eq(net_event_count(world, B, NAT_RELAY_HELD), 2);
    cr_assert_eq(net_event_count(world, B, NAT_RELAY_LOST), 0);
    nat_relay_client_set_wanted(world->nodes[B].client, world->now_ns, 0);
    net_run(world, 1000 * MS);
    struct nat_relay_node_info info[4];
    for (size_t relay = R1; relay <= R2; relay++) {
        size_t n = nat_relay_nodes(world->nodes[relay].server, world->now_ns, info, 4);
        for (size_t i = 0; i < n; i++)
            cr_assert_not(info[i].reserved);
    }
    cr_assert_eq(held(world, B), 0);
    net_close(world);
}

/* A session comes up, carries frames both ways in order of who sent them, and goes down at both ends when one
 * closes it. */
Test(relay_client, session_up_and_down)
{
    struct net_world *world = world_of(2);
    reserve(world);
    uint32_t token = open_to_b(world, R1);
    uint32_t again;
    cr_assert_eq(nat_relay_client_open(world->nodes[A].client, world->now_ns, &world->nodes[B].id,
                                       &world->nodes[R1].id, &world->nodes[R1].addr, &again),
                 ERR_EXISTS);
    net_run(world, 500 * MS);
    const struct nat_relay_client_event *up = net_event(world, A, NAT_RELAY_SESSION_UP);
    cr_assert_not_null(up);
    cr_assert_eq(up->token, token);
    cr_assert(id_equal(&up->peer, &world->nodes[B].id));
    cr_assert(net_via_is_relay(up->route.via));
    cr_assert_eq(up->rate, 1250000);
    cr_assert_eq(up->volume, UINT64_C(4) << 30);
    cr_assert(passes(world, A, B, via_of(world, A)));
    cr_assert(passes(world, B, A, via_of(world, B)));
    cr_assert(net_addr_equal(&world->nodes[A].last_route, &up->route));
    struct id peer;
    cr_assert_eq(nat_relay_client_peer(world->nodes[A].client, up->route.via, &peer), ERR_OK);
    cr_assert(id_equal(&peer, &world->nodes[B].id));
    nat_relay_client_close(world->nodes[A].client, world->now_ns, token);
    cr_assert_not(net_send_frame(world, A, up->route.via, "x"));
    net_run(world, 500 * MS);
    const struct nat_relay_client_event *down = net_event(world, B, NAT_RELAY_SESSION_DOWN);
    cr_assert_not_null(down);
    cr_assert_eq(down->reason, NAT_RELAY_BY_CLOSED);
    cr_assert_null(net_event(world, A, NAT_RELAY_SESSION_DOWN), "who closes needs no event");
    cr_assert_eq(nat_relay_client_session_count(world->nodes[A].client), 0);
    cr_assert_eq(nat_relay_client_session_count(world->nodes[B].client), 0);
    net_close(world);
}

/* The first packet that the opener sends, as soon as it may, arrives: no further exchange is waited for. */
Test(relay_client, first_frame_arrives_in_one_and_a_half_rounds)
{
    struct net_world *world = world_of(3);
    reserve(world);
    (void)open_to_b(world, R1);
    /* OPEN, OFFER, ACCEPT, OPENED: four times 20 ms. */
    net_run(world, 81 * MS);
    cr_assert(net_send_frame(world, A, via_of(world, A), "initial"));
    net_run(world, 41 * MS);
    cr_assert_eq(world->nodes[B].frames, 1);
    net_close(world);
}

/* Without a reservation, without consent, with a dead relay: one SESSION_FAILED each, with the reason. */
Test(relay_client, failures_say_why)
{
    struct net_world *world = world_of(4);
    (void)open_to_b(world, R1);
    net_run(world, 500 * MS);
    const struct nat_relay_client_event *failed = net_event(world, A, NAT_RELAY_SESSION_FAILED);
    cr_assert_not_null(failed);
    cr_assert_eq(failed->reason, NAT_RELAY_BY_NO_RESERVATION);
    cr_assert(failed->answers, "it was the relay itself that refused");
    reserve(world);
    world->nodes[B].declines = true;
    (void)open_to_b(world, R1);
    net_run(world, 500 * MS);
    cr_assert_eq(net_event(world, A, NAT_RELAY_SESSION_FAILED)->reason, NAT_RELAY_BY_DECLINED);
    world->nodes[B].dead = true;
    (void)open_to_b(world, R1);
    net_run(world, 8000 * MS);
    cr_assert_eq(net_event(world, A, NAT_RELAY_SESSION_FAILED)->reason, NAT_RELAY_BY_SILENT);
    world->nodes[R2].dead = true;
    (void)open_to_b(world, R2);
    net_run(world, 9000 * MS);
    cr_assert_eq(net_event(world, A, NAT_RELAY_SESSION_FAILED)->reason, NAT_RELAY_BY_LOST);
    cr_assert_not(net_event(world, A, NAT_RELAY_SESSION_FAILED)->answers, "nobody was ever there");
    cr_assert_eq(net_event_count(world, A, NAT_RELAY_SESSION_FAILED), 4);
    cr_assert_eq(nat_relay_client_session_count(world->nodes[A].client), 0);
    net_close(world);
}

/* While packets pass, the death of the relay is noticed at both ends within 3 s, the standby through the
 * second relay carries on, and the lost reservation is replaced within those 3 s by one on the third relay.
 */
Test(relay_client, relay_death_within_three_seconds)
{
    for (uint64_t offset_ms = 0; offset_ms < 1000; offset_ms += 130) {
        struct net_world *world = world_of(5 + offset_ms);
        reserve(world);
        offer_relay(world, B, R3);
        net_run(world, 1000 * MS);
        (void)open_to_b(world, R1);
        net_run(world, 500 * MS);
        uint16_t first = via_of(world, A);
        (void)open_to_b(world, R2);
        net_run(world, 500 * MS);
        uint16_t second = via_of(world, A);
        cr_assert_neq(first, second);
        for (int i = 0; i < 60; i++) {
            (void)net_send_frame(world, A, first, "data");
            net_run(world, 50 * MS);
        }
        net_run(world, offset_ms * MS);
        world->nodes[R1].dead = true;
        for (int i = 0; i < 60; i++) {
            (void)net_send_frame(world, A, first, "data");
            (void)net_send_frame(world, B, world->nodes[B].last_route.via, "data");
            net_run(world, 50 * MS);
        }
        cr_assert_eq(net_event_count(world, A, NAT_RELAY_SESSION_DOWN), 1, "at %d", (int)offset_ms);
        cr_assert_eq(net_event(world, A, NAT_RELAY_SESSION_DOWN)->route.via, first);
        cr_assert_eq(net_event(world, A, NAT_RELAY_SESSION_DOWN)->reason, NAT_RELAY_BY_LOST);
        cr_assert_eq(net_event_count(world, B, NAT_RELAY_SESSION_DOWN), 1);
        cr_assert(passes(world, A, B, second));
        cr_assert_eq(held(world, B), 2, "the third relay has not taken over");
        net_close(world);
    }
}

/* An idle relay that dies is noticed by the next refresh, and one that comes back is taken again. */
Test(relay_client, idle_relay_death_and_return)
{
    struct net_world *world = world_of(6);
    reserve(world);
    world->nodes[R1].dead = true;
    net_run(world, 18000 * MS);
    cr_assert_eq(held(world, B), 1);
    cr_assert_eq(net_event(world, B, NAT_RELAY_LOST)->reason, NAT_RELAY_BY_LOST);
    world->nodes[R1].dead = false;
    net_run(world, 120000 * MS);
    cr_assert_eq(held(world, B), 2);
    net_close(world);
}

/* A relay that was restarted holds nothing any more: the reservation is renewed, sessions are reported down.
 */
Test(relay_client, restarted_relay)
{
    struct net_world *world = world_of(7);
    reserve(world);
    (void)open_to_b(world, R1);
    net_run(world, 500 * MS);
    net_start(world, R1);
    net_run(world, 20000 * MS);
    cr_assert_eq(held(world, B), 2);
    cr_assert_eq(net_event(world, A, NAT_RELAY_SESSION_DOWN)->reason, NAT_RELAY_BY_UNKNOWN);
    cr_assert_eq(net_event(world, B, NAT_RELAY_SESSION_DOWN)->reason, NAT_RELAY_BY_UNKNOWN);
    (void)open_to_b(world, R1);
    net_run(world, 500 * MS);
    cr_assert(passes(world, A, B, via_of(world, A)));
    net_close(world);
}

/* Either end's address changes: told of it, the session goes on within 200 ms; untold (a NAT's new mapping),
 * within the interval of KEEPs while packets pass. */
Test(relay_client, moves_go_on)
{
    struct net_world *world = world_of(8);
    reserve(world);
    (void)open_to_b(world, R1);
    net_run(world, 500 * MS);
    cr_assert(passes(world, A, B, via_of(world, A)));
    cr_assert(passes(world, B, A, via_of(world, B)));
    world->nodes[A].addr = net_test_addr("203.0.113.77:1234");
    nat_relay_client_moved(world->nodes[A].client, world->now_ns);
    net_run(world, 200 * MS);
    cr_assert(passes(world, A, B, via_of(world, A)));
    cr_assert(passes(world, B, A, via_of(world, B)));
    world->nodes[B].addr = net_test_addr("203.0.113.78:1234");
    net_run(world, 1100 * MS);
    cr_assert(passes(world, A, B, via_of(world, A)));
    cr_assert(passes(world, B, A, via_of(world, B)));
    cr_assert_eq(net_event_count(world, A, NAT_RELAY_SESSION_DOWN), 0);
    cr_assert_eq(net_event_count(world, B, NAT_RELAY_SESSION_DOWN), 0);
    cr_assert_eq(held(world, B), 2);
    cr_assert(net_addr_equal(&net_event(world, A, NAT_RELAY_SEEN)->seen, &world->nodes[A].addr));
    net_close(world);
}

/* The first KEEP after a move is lost, as in a full queue of our own line: the next does not wait for 0.3 s.
 */
Test(relay_client, what_a_move_needs_is_repeated_soon)
{
    struct net_world *world = world_of(10);
    reserve(world);
    (void)open_to_b(world, R1);
    net_run(world, 500 * MS);
    world->nodes[A].addr = net_test_addr("203.0.113.77:1234");
    world->loss_percent = 100;
    nat_relay_client_moved(world->nodes[A].client, world->now_ns);
    net_run(world, 10 * MS);
    world->loss_percent = 0;
    net_run(world, 240 * MS);
    cr_expect(passes(world, A, B, via_of(world, A)));
    cr_expect(passes(world, B, A, via_of(world, B)));
    net_close(world);
}

/* The relay itself moves: it is followed to an address that answers with its key, the route stays the same.
 */
Test(relay_client, relay_moves)
{
    struct net_world *world = world_of(9);
    reserve(world);
    (void)open_to_b(world, R1);
    net_run(world, 500 * MS);
    uint16_t via = via_of(world, A);
    world->nodes[R1].addr = net_test_addr("192.0.2.200:7");
    for (size_t i = A; i <= B; i++)
        offer_relay(world, i, R1);
    net_run(world, 400 * MS);
    cr_assert(passes(world, A, B, via));
    cr_assert(passes(world, B, A, via_of(world, B)));
    cr_assert_eq(net_event_count(world, A, NAT_RELAY_SESSION_DOWN), 0);
    /* An address at which nobody answers changes nothing. */
    struct net_addr nobody = net_test_addr("192.0.2.250:7");
    cr_assert_eq(
        nat_relay_client_candidate(world->nodes[A].client, world->now_ns, &world->nodes[R1].id, &nobody),
        ERR_OK);
    net_run(world, 10000 * MS);
    cr_assert(passes(world, A, B, via));
    net_close(world);
}

/* The via of a session that was up names nobody for 60 s, and is used again after that. */
Test(relay_client, slots_rest_for_a_minute)
{
    struct net_world *world = world_of(10);
    reserve(world);
    uint64_t ended_ns[256] = {0};
    bool reused = false;
    for (int round = 0; round < 400; round++) {
        uint32_t token = open_to_b(world, R1);
        net_run(world, 150 * MS);
        uint16_t slot = (uint16_t)(via_of(world, A) - NET_VIA_RELAY_FIRST);
        cr_assert_lt(slot, 256);
        cr_assert(ended_ns[slot] == 0 || world->now_ns - ended_ns[slot] >= 60000 * MS, "slot %d", slot);
        reused = reused || ended_ns[slot] != 0;
        nat_relay_client_close(world->nodes[A].client, world->now_ns, token);
        ended_ns[slot] = world->now_ns + 100 * MS; /* at the latest */
        net_run(world, 150 * MS);
    }
    cr_assert(reused);
    net_close(world);
}

/* Thousands of sessions, half closed by either end, some before they stand, on a network that loses and
 * reorders: nothing remains but the reservations. */
Test(relay_client, thousands_of_sessions_leave_nothing)
{
    struct net_world *world = world_of(11);
    reserve(world);
    world->jitter_ns = 30 * MS;
    world->loss_percent = 5;
    uint32_t last[2] = {0, 0};
    for (int round = 0; round < 2000; round++) {
        uint32_t token = 0;
        size_t relay = round % 2 == 0 ? R1 : R2;
        nat_relay_client_close(world->nodes[A].client, world->now_ns,
                               last[relay]); /* B's end of it came late */
        int rc = nat_relay_client_open(world->nodes[A].client, world->now_ns, &world->nodes[B].id,
                                       &world->nodes[relay].id, &world->nodes[relay].addr, &token);
        cr_assert_eq(rc, ERR_OK, "round %d: %s", round, err_name(rc));
        last[relay] = token;
        net_run(world, round % 3 == 0 ? 30 * MS : 300 * MS);
        const struct nat_relay_client_event *up = net_event(world, B, NAT_RELAY_SESSION_UP);
        if (round % 4 < 2 && up != NULL)
            nat_relay_client_close(world->nodes[B].client, world->now_ns, up->token);
        else
            nat_relay_client_close(world->nodes[A].client, world->now_ns, token);
        for (size_t i = A; i <= B; i++)
            world->nodes[i].event_count = 0;
        net_run(world, 100 * MS);
    }
    for (int i = 0; i < 2; i++)
        nat_relay_client_close(world->nodes[A].client, world->now_ns, last[i]);
    world->loss_percent = 0;
    net_run(world, 120000 * MS);
    struct nat_relay_session_info sessions[64];
    struct nat_relay_client_info relays[8];
    cr_assert_eq(nat_relay_client_session_count(world->nodes[A].client), 0);
    cr_assert_eq(nat_relay_client_session_count(world->nodes[B].client), 0);
    cr_assert_eq(nat_relay_sessions(world->nodes[R1].server, world->now_ns, sessions, 64), 0);
    cr_assert_eq(nat_relay_sessions(world->nodes[R2].server, world->now_ns, sessions, 64), 0);
    cr_assert_eq(nat_relay_client_relays(world->nodes[A].client, relays, 8), 0, "A needs no relay any more");
    cr_assert_eq(held(world, B), 2);
    net_close(world);
}

/* A network that loses a fifth, doubles a fifth and reorders: sessions come up, their ends agree, nothing is
 * reported lost that lives, exactly one outcome for each. */
Test(relay_client, loss_and_reordering)
{
    size_t stood = 0;
    for (uint64_t seed = 20; seed < 60; seed++) {
        struct net_world *world = world_of(seed);
        world->jitter_ns = 60 * MS;
        world->loss_percent = 20;
        world->double_percent = 20;
        reserve(world);
        net_run(world, 5000 * MS);
        uint32_t token = open_to_b(world, held(world, B) > 0 && seed % 2 == 0 ? R2 : R1);
        net_run(world, 9000 * MS);
        size_t up = net_event_count(world, A, NAT_RELAY_SESSION_UP);
        size_t failed = net_event_count(world, A, NAT_RELAY_SESSION_FAILED);
        cr_assert_eq(up + failed, 1, "seed %d", (int)seed);
        world->loss_percent = 0;
        world->double_percent = 0;
        world->jitter_ns = 0;
        net_run(world, 3000 * MS);
        if (net_event_count(world, B, NAT_RELAY_SESSION_DOWN) > 0) { /* six answers in a row were lost */
            net_run(world, 70000 * MS);
            cr_assert_eq(net_event_count(world, A, NAT_RELAY_SESSION_DOWN), up, "seed %d", (int)seed);
        } else if (net_event_count(world, A, NAT_RELAY_SESSION_DOWN) == 0 && up == 1) {
            cr_assert(passes(world, A, B, via_of(world, A)), "seed %d", (int)seed);
            cr_assert(passes(world, B, A, world->nodes[B].last_route.via), "seed %d", (int)seed);
        }
        nat_relay_client_close(world->nodes[A].client, world->now_ns, token);
        net_run(world, 90000 * MS);
        cr_assert_eq(nat_relay_client_session_count(world->nodes[A].client), 0);
        cr_assert_eq(nat_relay_client_session_count(world->nodes[B].client), 0, "seed %d", (int)seed);
        cr_assert_eq(held(world, B), 2, "seed %d", (int)seed);
        stood += up;
        net_close(world);
    }
    cr_assert_gt(stood, 30, "of 40");
}

/* A frame that does not come from the session's relay, or comes with our own side, is none of ours. */
Test(relay_client, foreign_frames_are_refused)
{
    struct net_world *world = world_of(12);
    reserve(world);
    (void)open_to_b(world, R1);
    net_run(world, 500 * MS);
    uint8_t frame[NAT_RELAY_HEADER + 1] = {0};
    struct net_addr relay_addr, route;
    struct bytes payload;
    struct nat_relay_client *a = world->nodes[A].client;
    cr_assert_eq(nat_relay_client_wrap(a, world->now_ns, via_of(world, A), frame, &relay_addr), ERR_OK);
    struct bytes whole = bytes_of(frame, sizeof frame);
    cr_assert_eq(nat_relay_client_unwrap(a, world->now_ns, &relay_addr, whole, &route, &payload),
                 ERR_NOT_FOUND);
    frame[0] ^= 1;
    cr_assert_eq(nat_relay_client_unwrap(a, world->now_ns, &world->nodes[R2].addr, whole, &route, &payload),
                 ERR_NOT_FOUND);
    cr_assert_eq(nat_relay_client_unwrap(a, world->now_ns, &relay_addr, whole, &route, &payload), ERR_OK);
    cr_assert_eq(payload.len, 1);
    cr_assert_eq(nat_relay_client_unwrap(a, world->now_ns, &relay_addr, bytes_of(frame, 8), &route, &payload),
                 ERR_NOT_FOUND);
    net_close(world);
}

/* A relay on which nothing is held cannot offer sessions, and offers beyond the limit are declined. */
Test(relay_client, offers_only_where_reserved_and_bounded)
{
    struct net_world *world = world_of(13);
    struct nat_relay_client *b = world->nodes[B].client;
    struct net_message message = {.peer = world->nodes[R1].id, .addr = world->nodes[R1].addr};
    struct nat_relay_message offer = {.kind = NAT_RELAY_OFFER, .session = 77, .peer = world->nodes[A].id};
    nat_relay_encode(&offer, &message);
    cr_assert_eq(nat_relay_client_recv(b, world->now_ns, &message), ERR_REFUSED);
    reserve(world);
    world->nodes[B].event_count = 0;
    for (uint64_t i = 0; i < 100; i++) {
        offer.session = 1000 + i;
        offer.peer = net_test_id(1000 + (unsigned)i);
        nat_relay_encode(&offer, &message);
        int rc = nat_relay_client_recv(b, world->now_ns, &message);
        cr_assert_eq(rc, i < NAT_RELAY_KEEP_SESSIONS ? ERR_OK : ERR_FULL);
        nat_relay_client_check_invariants(b);
    }
    struct nat_relay_client_event event;
    size_t offered = 0;
    while (nat_relay_client_poll_event(b, &event))
        offered += event.type == NAT_RELAY_SESSION_OFFERED;
    cr_assert_eq(offered, NAT_RELAY_CLIENT_OFFERS_MAX);
    net_run(world, 20000 * MS);
    cr_assert_eq(nat_relay_client_session_count(b), 0);
    net_close(world);
}

/* Arguments that cannot be are refused; 32 candidates are kept, silent ones give way. */
Test(relay_client, arguments_and_candidates)
{
    struct net_world *world = world_of(14);
    struct nat_relay_client *a = world->nodes[A].client;
    struct net_addr addr = world->nodes[R1].addr, none = {.family = NET_FAMILY_NONE}, via = addr;
    const struct id *self = &world->nodes[A].id, *relay = &world->nodes[R1].id, *peer = &world->nodes[B].id;
    uint32_t token;
    via.via = NET_VIA_RELAY_FIRST;
    cr_assert_eq(nat_relay_client_open(a, 0, self, relay, &addr, &token), ERR_INVALID);
    cr_assert_eq(nat_relay_client_open(a, 0, peer, peer, &addr, &token), ERR_INVALID);
    cr_assert_eq(nat_relay_client_open(a, 0, peer, relay, &none, &token), ERR_INVALID);
    cr_assert_eq(nat_relay_client_open(a, 0, peer, relay, &via, &token), ERR_INVALID);
    cr_assert_eq(nat_relay_client_candidate(a, 0, self, &addr), ERR_INVALID);
    cr_assert_eq(nat_relay_client_accept(a, 0, 4097), ERR_NOT_FOUND);
    nat_relay_client_set_wanted(a, world->now_ns, 2);
    for (unsigned i = 0; i < NAT_RELAY_CLIENT_CANDIDATES_MAX; i++) {
        struct id id = net_test_id(100 + i);
        struct net_addr silent = net_test_addr("192.0.2.9:1");
        silent.port = (uint16_t)(1 + i);
        cr_assert_eq(nat_relay_client_candidate(a, world->now_ns, &id, &silent), ERR_OK);
    }
    cr_assert_eq(nat_relay_client_candidate(a, world->now_ns, relay, &addr), ERR_FULL);
    net_run(world, 10000 * MS);
    cr_assert_eq(nat_relay_client_candidate(a, world->now_ns, relay, &addr), ERR_OK);
    net_run(world, 60000 * MS);
    cr_assert_eq(held(world, A), 1);
    nat_relay_client_candidate_drop(a, world->now_ns, relay);
    net_run(world, 1000 * MS);
    cr_assert_eq(held(world, A), 0);
    net_close(world);
}

/* The quota's end is told to both ends with the reason. */
Test(relay_client, quota_is_told)
{
    struct net_world *world = world_of(15);
    reserve(world);
    (void)open_to_b(world, R1);
    net_run(world, 500 * MS);
    nat_relay_set_rates(world->nodes[R1].server, world->now_ns, 500000, 5000000);
    cr_assert(passes(world, A, B, via_of(world, A)));
    net_run(world, 2000 * MS);
    cr_assert_eq(net_event(world, A, NAT_RELAY_SESSION_QUOTA)->rate, 500000);
    cr_assert_eq(net_event(world, B, NAT_RELAY_SESSION_QUOTA)->rate, 500000);
    nat_relay_set_rates(world->nodes[R1].server, world->now_ns, 500000, 0);
    net_run(world, 500 * MS);
    cr_assert_eq(net_event(world, A, NAT_RELAY_SESSION_DOWN)->reason, NAT_RELAY_BY_OFF);
    cr_assert_eq(net_event(world, B, NAT_RELAY_SESSION_DOWN)->reason, NAT_RELAY_BY_OFF);
    net_close(world);
}
