/* The relay core alone: who is served, what is forwarded to where, and what is not. */
#include "relay_bench.h"

Test(relay, config_is_checked)
{
    struct nat_relay_config config = nat_relay_config_default();
    const char *why;
    cr_assert_eq(nat_relay_config_check(&config, &why), ERR_INVALID);
    config.self = node_id(1);
    struct rng_seeded stream;
    rng_seeded_init(&stream, 1);
    config.rng = rng_of_seeded(&stream);
    cr_assert_eq(nat_relay_config_check(&config, &why), ERR_OK);
    config.sessions_per_client = 33;
    cr_assert_eq(nat_relay_config_check(&config, &why), ERR_INVALID);
    cr_assert_not_null(why);
}

/* A session forwards both ways, only after consent, and only to proven addresses: the opener's first frame
 * proves its own. */
Test(relay, joins_two_nodes)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    struct nat_relay_message m;
    struct net_addr to;
    cr_assert(reserve(b, 2));
    cr_assert_eq(say(b, 1, open_message(b, 2)), ERR_OK);
    cr_assert(heard(b, 2, NAT_RELAY_OFFER, &m));
    struct id one = node_id(1);
    cr_assert(id_equal(&m.peer, &one));
    uint64_t session = m.session;
    cr_assert_not(frame_from(b, node_addr(1), 0, session, 100, &to), "the target has not consented");
    m = (struct nat_relay_message){.kind = NAT_RELAY_ACCEPT, .request = 9, .session = session};
    cr_assert_eq(say(b, 2, m), ERR_OK);
    cr_assert_not(passes(b, 2, 1, 1, session), "the opener's address is not proven");
    cr_assert_eq(nat_relay_stats(b->relay).dropped_unproven, 1);
    cr_assert(passes(b, 1, 2, 0, session));
    cr_assert(passes(b, 2, 1, 1, session));
    cr_assert_not(passes(b, 2, 1, 0, session), "a side speaks for itself only");
    cr_assert_eq(nat_relay_stats(b->relay).frames, 2);
    cr_assert_eq(nat_relay_stats(b->relay).bytes, 200);
    bench_close(b);
}

/* However many others are remembered, the address of each that holds a place is told, and of no other. */
Test(relay, tells_where_its_clients_are)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    struct net_addr at;
    for (unsigned i = 2; i < 102; i++)
        cr_assert(reserve(b, i), "%u", i);
    for (unsigned i = 2; i < 102; i++) {
        struct id id = node_id(i);
        struct net_addr proven = node_addr(i);
        cr_assert_eq(nat_relay_addr(b->relay, b->now_ns, &id, &at), ERR_OK, "%u", i);
        cr_assert(net_addr_equal(&at, &proven));
    }
    struct id stranger = node_id(102), gone = node_id(2);
    cr_assert_eq(nat_relay_addr(b->relay, b->now_ns, &stranger, &at), ERR_NOT_FOUND);
    b->now_ns += config.lease_ns;
    cr_assert_eq(nat_relay_addr(b->relay, b->now_ns, &gone, &at), ERR_NOT_FOUND);
    bench_close(b);
}

/* A third party accepts, declines, closes, keeps or moves nothing of a session that is not its own. */
Test(relay, strangers_change_nothing)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    struct nat_relay_message m;
    cr_assert(reserve(b, 2));
    cr_assert(reserve(b, 3));
    cr_assert_eq(say(b, 1, open_message(b, 2)), ERR_OK);
    cr_assert(heard(b, 2, NAT_RELAY_OFFER, &m));
    uint64_t session = m.session;
    m = (struct nat_relay_message){.kind = NAT_RELAY_ACCEPT, .request = 9, .session = session};
    cr_assert_eq(say(b, 3, m), ERR_OK);
    cr_assert(heard(b, 3, NAT_RELAY_REFUSED, &m));
    cr_assert_eq(m.reason, NAT_RELAY_BY_UNKNOWN);
    m = (struct nat_relay_message){.kind = NAT_RELAY_ACCEPT, .request = 9, .session = session};
    (void)say(b, 1, m); /* the opener cannot accept in the target's place */
    cr_assert(heard(b, 1, NAT_RELAY_REFUSED, &m));
    m = (struct nat_relay_message){.kind = NAT_RELAY_DECLINE, .session = session};
    cr_assert_eq(say(b, 3, m), ERR_REFUSED);
    m = (struct nat_relay_message){.kind = NAT_RELAY_ACCEPT, .request = 10, .session = session};
    cr_assert_eq(say(b, 2, m), ERR_OK);
    m = (struct nat_relay_message){.kind = NAT_RELAY_CLOSE, .request = 11, .session = session};
    (void)say(b, 3, m);
    cr_assert(heard(b, 3, NAT_RELAY_NOTICE, &m));
    cr_assert_eq(m.reason, NAT_RELAY_BY_UNKNOWN);
    m = (struct nat_relay_message){
        .kind = NAT_RELAY_KEEP, .request = 12, .session_count = 1, .sessions = {session}};
    cr_assert_eq(say(b, 3, m), ERR_OK);
    cr_assert(heard(b, 3, NAT_RELAY_KEPT, &m));
    cr_assert_eq(m.session_count, 1, "it is gone, as far as node 3 is told");
    cr_assert(passes(b, 1, 2, 0, session));
    bench_close(b);
}

/* A leg is not hijacked: a frame with the right id from elsewhere goes nowhere and moves nothing, a sealed
 * message from elsewhere (perhaps a copy sent by someone on the way) brings at most a nonce there; only the
 * nonce, from the address it was sealed to, moves the leg. */
Test(relay, legs_move_only_by_proof)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    struct nat_relay_message m, proof;
    struct net_addr to, elsewhere = addr_of("55.5.5.5:5"), third = addr_of("66.6.6.6:6");
    cr_assert(reserve(b, 2));
    uint64_t session = join(b, 1, 2);
    cr_assert(passes(b, 1, 2, 0, session));
    cr_assert_not(frame_from(b, elsewhere, 0, session, 100, &to));
    cr_assert_not(frame_from(b, elsewhere, 1, session, 100, &to));
    cr_assert_eq(nat_relay_stats(b->relay).dropped_address, 2);
    cr_assert(passes(b, 2, 1, 1, session), "still where it was");
    m = (struct nat_relay_message){
        .kind = NAT_RELAY_KEEP, .request = 1, .session_count = 1, .sessions = {session}};
    cr_assert_eq(say_from(b, 1, elsewhere, m), ERR_OK);
    cr_assert(heard(b, 1, NAT_RELAY_KEPT, &m));
    cr_assert(m.has_nonce);
    cr_assert(passes(b, 2, 1, 1, session), "still where it was");
    proof = (struct nat_relay_message){.kind = NAT_RELAY_PROVE, .request = 2, .has_nonce = true};
    memcpy(proof.nonce, m.nonce, sizeof proof.nonce);
    cr_assert_eq(say_from(b, 1, third, proof), ERR_REFUSED, "the nonce is good for one address");
    cr_assert_eq(say_from(b, 2, elsewhere, proof), ERR_REFUSED, "and for one node");
    cr_assert(passes(b, 2, 1, 1, session));
    cr_assert_eq(say_from(b, 1, elsewhere, proof), ERR_OK);
    cr_assert(frame_from(b, node_addr(2), 1, session, 100, &to));
    cr_assert(net_addr_equal(&to, &elsewhere));
    cr_assert_not(frame_from(b, node_addr(1), 0, session, 100, &to));
    cr_assert_eq(nat_relay_stats(b->relay).moves, 1);
    b->now_ns += 121000 * MS;
    cr_assert_eq(say_from(b, 1, elsewhere, proof), ERR_REFUSED, "old nonces are worth nothing");
    bench_close(b);
}

/* A relay is no mirror: whatever one message of an unproven sender is, at most one datagram goes back, to
 * where it came from, of at most twice the sealed size; nothing goes to third parties but OFFERs to nodes
 * with a reservation, and frames go nowhere. */
Test(relay, reflects_nothing)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    struct net_addr victim = addr_of("77.7.7.7:7"), to;
    cr_assert(reserve(b, 2));
    struct nat_relay_message asks[] = {
        {.kind = NAT_RELAY_RESERVE, .request = 1},
        {.kind = NAT_RELAY_RESERVE, .request = 1, .release = true},
        {.kind = NAT_RELAY_OPEN, .request = 2, .peer = node_id(77)},
        {.kind = NAT_RELAY_OPEN, .request = 3, .peer = node_id(2)},
        {.kind = NAT_RELAY_ACCEPT, .request = 4, .session = 5},
        {.kind = NAT_RELAY_DECLINE, .session = 5},
        {.kind = NAT_RELAY_CLOSE, .request = 5, .session = 5},
        {.kind = NAT_RELAY_CLOSE, .session = 5},
        {.kind = NAT_RELAY_KEEP, .request = 6, .session_count = 2, .sessions = {5, 6}},
        {.kind = NAT_RELAY_PROVE, .request = 7, .has_nonce = true},
    };
    struct id two = node_id(2);
    for (size_t i = 0; i < sizeof asks / sizeof asks[0]; i++) {
        struct net_message message = {.peer = node_id(1), .addr = victim};
        nat_relay_encode(&asks[i], &message);
        (void)say_from(b, 1, victim, asks[i]);
        size_t back = 0, size = NET_SEAL_OVERHEAD + message.body_len;
        for (size_t k = 0; k < b->sent_count; k++) {
            size_t answer = NET_SEAL_OVERHEAD + b->sent[k].body_len;
            cr_assert_leq(answer, 2 * (size < 136 ? 136 : size));
            if (id_equal(&b->sent[k].peer, &two)) {
                cr_assert_eq(b->sent[k].kind, NAT_RELAY_OFFER);
                continue;
            }
            cr_assert(net_addr_equal(&b->sent[k].addr, &victim));
            back++;
        }
        cr_assert_leq(back, 1);
    }
    for (uint64_t session = 1; session < 1000; session++)
        cr_assert_not(frame_from(b, victim, session % 2, session, 1000, &to));
    bench_close(b);
}

/* Asked again, the relay answers again and does nothing twice. */
Test(relay, requests_are_idempotent)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    struct nat_relay_message m, opening;
    cr_assert(reserve(b, 2));
    cr_assert(reserve(b, 3));
    opening = open_message(b, 2);
    cr_assert_eq(say(b, 1, opening), ERR_OK);
    cr_assert(heard(b, 2, NAT_RELAY_OFFER, &m));
    uint64_t session = m.session;
    cr_assert_eq(say(b, 1, opening), ERR_OK);
    cr_assert_eq(b->sent_count, 0, "one OFFER at a time");
    for (int i = 0; i < 3; i++) {
        m = (struct nat_relay_message){.kind = NAT_RELAY_ACCEPT, .request = 8, .session = session};
        cr_assert_eq(say(b, 2, m), ERR_OK);
        cr_assert(heard(b, 2, NAT_RELAY_OPENED, &m));
        cr_assert_eq(say(b, 1, opening), ERR_OK);
        cr_assert(heard(b, 1, NAT_RELAY_OPENED, &m));
        cr_assert_eq(m.session, session);
    }
    cr_assert_eq(nat_relay_stats(b->relay).opened, 1);
    struct nat_relay_message anew = open_message(b, 2);
    cr_assert_eq(say(b, 1, anew), ERR_OK);
    cr_assert(heard(b, 2, NAT_RELAY_OFFER, &m));
    cr_assert_neq(m.session, session, "asked anew, the old session ends");
    cr_assert(heard(b, 2, NAT_RELAY_NOTICE, &m));
    cr_assert_eq(m.reason, NAT_RELAY_BY_REPLACED);
    opening = open_message(b, 3);
    cr_assert_eq(say(b, 1, opening), ERR_OK);
    cr_assert(heard(b, 3, NAT_RELAY_OFFER, &m));
    m = (struct nat_relay_message){.kind = NAT_RELAY_DECLINE, .session = m.session};
    cr_assert_eq(say(b, 3, m), ERR_OK);
    cr_assert(heard(b, 1, NAT_RELAY_REFUSED, &m));
    cr_assert_eq(say(b, 1, opening), ERR_OK);
    cr_assert(heard(b, 1, NAT_RELAY_REFUSED, &m));
    cr_assert_eq(m.reason, NAT_RELAY_BY_DECLINED);
    cr_assert_not(heard(b, 3, NAT_RELAY_OFFER, &m), "who has declined is not asked again");
    bench_close(b);
}

/* OFFERs and NOTICEs are repeated until answered, and not for ever. */
Test(relay, repeats_until_answered)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    struct nat_relay_message m;
    cr_assert(reserve(b, 2));
    cr_assert_eq(say(b, 1, open_message(b, 2)), ERR_OK);
    size_t offers = 1, refused = 0;
    for (int i = 0; i < 200; i++) {
        b->now_ns += 100 * MS;
        nat_relay_tick(b->relay, b->now_ns);
        collect(b);
        offers += heard(b, 2, NAT_RELAY_OFFER, &m);
        refused += heard(b, 1, NAT_RELAY_REFUSED, &m);
    }
    cr_assert_eq(offers, 10);
    cr_assert_eq(refused, 1);
    uint64_t session = join(b, 1, 2);
    m = (struct nat_relay_message){.kind = NAT_RELAY_CLOSE, .request = 50, .session = session};
    cr_assert_eq(say(b, 1, m), ERR_OK);
    cr_assert(heard(b, 1, NAT_RELAY_NOTICE, &m));
    size_t notices = heard(b, 2, NAT_RELAY_NOTICE, &m);
    for (int i = 0; i < 12; i++) {
        b->now_ns += 100 * MS;
        nat_relay_tick(b->relay, b->now_ns);
        collect(b);
        notices += heard(b, 2, NAT_RELAY_NOTICE, &m);
        cr_assert_not(heard(b, 1, NAT_RELAY_NOTICE, &m));
    }
    cr_assert_eq(notices, 2);
    m = (struct nat_relay_message){.kind = NAT_RELAY_CLOSE, .session = session};
    cr_assert_eq(say(b, 2, m), ERR_OK);
    for (int i = 0; i < 100; i++) {
        b->now_ns += 100 * MS;
        nat_relay_tick(b->relay, b->now_ns);
        collect(b);
        cr_assert_not(heard(b, 2, NAT_RELAY_NOTICE, &m));
    }
    struct nat_relay_session_info info[4];
    cr_assert_eq(nat_relay_sessions(b->relay, b->now_ns, info, 4), 0);
    bench_close(b);
}

/* An opener whose source address is forged has that address get no more than two messages for its one: the
 * answer, and one NOTICE when the session ends by silence. */
Test(relay, a_forged_opener_is_answered_twice)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    struct nat_relay_message m;
    size_t got = 0;
    cr_assert(reserve(b, 2));
    cr_assert_eq(say(b, 1, open_message(b, 2)), ERR_OK);
    cr_assert(heard(b, 2, NAT_RELAY_OFFER, &m));
    m = (struct nat_relay_message){.kind = NAT_RELAY_ACCEPT, .request = 9, .session = m.session};
    cr_assert_eq(say(b, 2, m), ERR_OK);
    for (int i = 0; i < 900; i++) {
        got += heard(b, 1, NAT_RELAY_OPENED, &m) + heard(b, 1, NAT_RELAY_NOTICE, &m);
        b->now_ns += 100 * MS;
        nat_relay_tick(b->relay, b->now_ns);
        collect(b);
    }
    cr_assert_eq(got, 2, "%zu", got);
    bench_close(b);
}

/* Frames of one session leave as runs that can each be one GSO batch: equal lengths, a shorter one last. */
Test(relay, runs_of_a_batch)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    cr_assert(reserve(b, 2));
    cr_assert(reserve(b, 3));
    uint64_t two = join(b, 1, 2), three = join(b, 1, 3);
    static const struct {
        int session; /* 0: none known */
        size_t len;
    } frames[] = {{2, 1000}, {2, 1000}, {2, 500}, {2, 500}, {3, 500}, {0, 500},
                  {3, 500},  {3, 300},  {3, 500}, {2, 8},   {2, 9},   {2, 10}};
    static const struct {
        size_t first, count;
        unsigned to;
    } wanted[] = {{0, 3, 2}, {3, 1, 2}, {4, 1, 3}, {6, 2, 3}, {8, 1, 3}, {10, 1, 2}, {11, 1, 2}};
    enum { FRAMES = sizeof frames / sizeof frames[0], RUNS = sizeof wanted / sizeof wanted[0] };
    static uint8_t data[FRAMES][1000];
    struct bytes datagrams[FRAMES];
    struct nat_relay_run runs[FRAMES];
    struct net_addr from = node_addr(1);
    for (size_t i = 0; i < FRAMES; i++) {
        nat_relay_head_write(data[i], 0,
                             frames[i].session == 2   ? two
                             : frames[i].session == 3 ? three
                                                      : 12345);
        datagrams[i] = bytes_of(data[i], frames[i].len);
    }
    size_t n = nat_relay_forward(b->relay, b->now_ns, &from, datagrams, FRAMES, runs, FRAMES);
    cr_assert_eq(n, RUNS);
    for (size_t i = 0; i < n; i++) {
        struct net_addr to = node_addr(wanted[i].to);
        cr_assert_eq(runs[i].first, wanted[i].first, "run %zu", i);
        cr_assert_eq(runs[i].count, wanted[i].count, "run %zu", i);
        cr_assert(net_addr_equal(&runs[i].to, &to));
    }
    n = nat_relay_forward(b->relay, b->now_ns, &from, datagrams, FRAMES, runs, 2);
    cr_assert_eq(n, 2);
    bench_close(b);
}

/* 10^5 OPENs and RESERVEs from invented ids at invented addresses: tables stay within their caps, whoever was
 * served still is, and the target is not asked more often than its limit. */
Test(relay, floods_stay_within_the_caps)
{
    struct nat_relay_config config = nat_relay_config_default();
    config.reservations_max = 32;
    config.sessions_max = 32;
    struct bench *b = bench_open(&config);
    struct nat_relay_message m;
    cr_assert(reserve(b, 2));
    uint64_t session = join(b, 1, 2);
    size_t offers = 0;
    for (unsigned i = 0; i < 100000; i++) {
        struct net_message message = {.peer = node_id(1000 + i), .addr = node_addr(i % 60000)};
        m = i % 2 == 0 ? open_message(b, i % 20 == 0 ? 2 : i)
                       : (struct nat_relay_message){.kind = NAT_RELAY_RESERVE, .request = i};
        nat_relay_encode(&m, &message);
        cr_assert_eq(nat_relay_recv(b->relay, b->now_ns, &message), ERR_OK);
        while (nat_relay_poll_send(b->relay, b->now_ns, &message))
            offers += message.kind == NAT_RELAY_OFFER;
    }
    collect(b);
    struct nat_relay_node_info info[128];
    size_t n = nat_relay_nodes(b->relay, b->now_ns, info, 128), reserved = 0;
    cr_assert_leq(n, 64);
    for (size_t i = 0; i < n; i++)
        reserved += info[i].reserved;
    cr_assert_eq(reserved, 1, "no reservation without proof of the address");
    cr_assert_leq(offers, 2, "without proof only so many are offered");
    cr_assert(passes(b, 1, 2, 0, session));
    cr_assert(passes(b, 2, 1, 1, session));
    bench_close(b);
}

/* An undecided target with several offers wants proof of the next opener's address, and takes it. */
Test(relay, crowded_targets_want_proof)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    struct nat_relay_message m, opening;
    cr_assert(reserve(b, 2));
    for (unsigned i = 10; i < 12; i++) {
        cr_assert_eq(say(b, i, open_message(b, 2)), ERR_OK);
        cr_assert(heard(b, 2, NAT_RELAY_OFFER, &m));
    }
    opening = open_message(b, 2);
    cr_assert_eq(say(b, 12, opening), ERR_OK);
    cr_assert(heard(b, 12, NAT_RELAY_REFUSED, &m));
    cr_assert(m.has_nonce);
    opening.has_nonce = true;
    memcpy(opening.nonce, m.nonce, sizeof opening.nonce);
    cr_assert_eq(say(b, 12, opening), ERR_OK);
    cr_assert(heard(b, 2, NAT_RELAY_OFFER, &m));
    bench_close(b);
}

/* However often one node asks for another, that one is offered 16 sessions at once and 8 a second. */
Test(relay, offers_have_a_rate)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    struct nat_relay_message m;
    size_t offers = 0;
    cr_assert(reserve(b, 2));
    for (int i = 0; i < 1000; i++) {
        b->now_ns += 10 * MS;
        cr_assert_eq(say(b, 1, open_message(b, 2)), ERR_OK);
        offers += heard(b, 2, NAT_RELAY_OFFER, &m);
    }
    cr_assert_geq(offers, 80);
    cr_assert_leq(offers, 16 + 80 + 1 + 20, "a few are repetitions");
    bench_close(b);
}

/* One network gets its share of reservations and of openers, and no more; loopback is nobody's network. */
Test(relay, shares_of_a_network)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    struct nat_relay_message m;
    struct net_addr addr = addr_of("44.1.1.1:1");
    size_t granted = 0;
    for (unsigned i = 0; i < 20; i++) {
        addr.port = (uint16_t)(i + 1);
        granted += reserve_from(b, 100 + i, addr);
    }
    cr_assert_eq(granted, config.reservations_per_group);
    cr_assert(heard(b, 119, NAT_RELAY_REFUSED, &m));
    cr_assert_eq(m.reason, NAT_RELAY_BY_GROUP);
    addr = addr_of("127.0.0.1:1");
    for (unsigned i = 0; i < 20; i++) {
        addr.port = (uint16_t)(i + 1);
        cr_assert(reserve_from(b, 200 + i, addr));
    }
    bench_close(b);
}

/* Tables at their caps refuse with the reason, one short of them they do not. */
Test(relay, full_tables_refuse)
{
    struct nat_relay_config config = nat_relay_config_default();
    config.reservations_max = 4;
    config.sessions_max = 6;
    config.sessions_per_client = 3;
    struct bench *b = bench_open(&config);
    struct nat_relay_message m;
    for (unsigned i = 0; i < 4; i++)
        cr_assert(reserve(b, 10 + i));
    cr_assert_not(reserve(b, 20));
    cr_assert(heard(b, 20, NAT_RELAY_REFUSED, &m));
    cr_assert_eq(m.reason, NAT_RELAY_BY_FULL);
    for (unsigned i = 0; i < 3; i++)
        (void)join(b, 30 + i, 10);
    cr_assert_eq(say(b, 40, open_message(b, 10)), ERR_OK);
    cr_assert(heard(b, 40, NAT_RELAY_REFUSED, &m));
    cr_assert_eq(m.reason, NAT_RELAY_BY_FULL);
    for (unsigned i = 0; i < 3; i++)
        (void)join(b, 30 + i, 11);
    cr_assert_eq(say(b, 41, open_message(b, 12)), ERR_OK);
    cr_assert(heard(b, 41, NAT_RELAY_REFUSED, &m));
    cr_assert_eq(m.reason, NAT_RELAY_BY_FULL);
    bench_close(b);
}

/* A reservation ends with its lease, a session with the silence of an end, both with a word to the others. */
Test(relay, leases_and_silence)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    struct nat_relay_message m;
    cr_assert(reserve(b, 2));
    uint64_t session = join(b, 1, 2);
    for (int i = 0; i < 6; i++) {
        b->now_ns += 10000 * MS;
        nat_relay_tick(b->relay, b->now_ns);
        m = (struct nat_relay_message){
            .kind = NAT_RELAY_KEEP, .request = 60, .session_count = 1, .sessions = {session}};
        if (i < 5) /* then node 1 falls silent */
            cr_assert_eq(say(b, 1, m), ERR_OK);
        cr_assert_eq(say(b, 2, m), ERR_OK);
    }
    b->now_ns += 51000 * MS;
    m = (struct nat_relay_message){
        .kind = NAT_RELAY_KEEP, .request = 61, .session_count = 1, .sessions = {session}};
    cr_assert_eq(say(b, 2, m), ERR_OK);
    cr_assert(heard(b, 2, NAT_RELAY_NOTICE, &m));
    cr_assert_eq(m.reason, NAT_RELAY_BY_SILENT);
    b->now_ns += 20000 * MS;
    nat_relay_tick(b->relay, b->now_ns);
    collect(b);
    cr_assert_eq(say(b, 1, open_message(b, 2)), ERR_OK);
    cr_assert(heard(b, 1, NAT_RELAY_REFUSED, &m));
    cr_assert_eq(m.reason, NAT_RELAY_BY_NO_RESERVATION);
    bench_close(b);
}

/* A node that was restarted no longer names its session in its KEEPs: the other end is told. */
Test(relay, forgotten_sessions_end)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    struct nat_relay_message m = {.kind = NAT_RELAY_KEEP, .request = 1};
    cr_assert(reserve(b, 2));
    (void)join(b, 1, 2);
    cr_assert_eq(say(b, 1, m), ERR_OK);
    cr_assert_not(heard(b, 2, NAT_RELAY_NOTICE, &m), "it may have been on its way");
    b->now_ns += 10000 * MS;
    m = (struct nat_relay_message){.kind = NAT_RELAY_KEEP, .request = 2};
    cr_assert_eq(say(b, 1, m), ERR_OK);
    cr_assert(heard(b, 2, NAT_RELAY_NOTICE, &m));
    bench_close(b);
}

/* Switched off, the relay says so and serves nobody; on again, it serves. */
Test(relay, switched_off_and_on)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    struct nat_relay_message m;
    cr_assert(reserve(b, 2));
    uint64_t session = join(b, 1, 2);
    nat_relay_set_rates(b->relay, b->now_ns, config.client_rate, 0);
    nat_relay_tick(b->relay, b->now_ns);
    collect(b);
    cr_assert(heard(b, 1, NAT_RELAY_NOTICE, &m));
    cr_assert_eq(m.reason, NAT_RELAY_BY_OFF);
    cr_assert_not(passes(b, 1, 2, 0, session));
    cr_assert_not(reserve(b, 2));
    nat_relay_set_rates(b->relay, b->now_ns, config.client_rate, config.total_rate);
    cr_assert(reserve(b, 2));
    session = join(b, 1, 2);
    cr_assert(passes(b, 1, 2, 0, session));
    bench_close(b);
}

/* Random operations against a naive notion of who is joined with whom: a frame passes exactly when both have
 * agreed and nobody has ended it, and it goes to the other's address. */
Test(relay, model)
{
    enum { NODES = 6 };
    struct nat_relay_config config = nat_relay_config_default();
    config.client_rate = 0;
    config.total_rate = UINT64_C(1) << 40;
    config.lease_ns = 3600000 * MS;
    config.silence_ns = 3600000 * MS;
    struct bench *b = bench_open(&config);
    struct rng_seeded stream;
    uint64_t joined[NODES][NODES] = {{0}}; /* session opened by row to column */
    bool reserved[NODES] = {false};
    size_t forwarded = 0;
    rng_seeded_init(&stream, 99);
    struct rng rng = rng_of_seeded(&stream);
    for (int i = 0; i < 10000; i++) {
        unsigned x = (unsigned)rng_below(&rng, NODES), y = (unsigned)rng_below(&rng, NODES);
        uint64_t session = joined[x][y];
        b->now_ns += rng_below(&rng, 100) * MS; /* all of it within the lease */
        nat_relay_tick(b->relay, b->now_ns);
        struct nat_relay_message m;
        switch (rng_below(&rng, 8)) {
        case 0:
            reserved[x] = true;
            m = (struct nat_relay_message){.kind = NAT_RELAY_RESERVE, .request = ++b->request};
            cr_assert_eq(say(b, x, m), ERR_OK);
            cr_assert(heard(b, x, NAT_RELAY_RESERVED, &m));
            if (m.has_nonce)
                cr_assert(reserve(b, x));
            break;
        case 1:
            if (rng_below(&rng, 4) != 0)
                break;
            m = (struct nat_relay_message){.kind = NAT_RELAY_RESERVE, .request = 1, .release = true};
            cr_assert_eq(say(b, x, m), ERR_OK);
            reserved[x] = false;
            for (unsigned k = 0; k < NODES; k++)
                joined[k][x] = 0;
            break;
        case 2:
        case 3:
            if (x == y || !reserved[y]) {
                cr_assert_eq(say(b, x, open_message(b, y)), ERR_OK);
                cr_assert(heard(b, x, NAT_RELAY_REFUSED, &m));
            } else {
                joined[x][y] = join(b, x, y);
            }
            break;
        case 4:
            if (session == 0)
                break;
            m = (struct nat_relay_message){.kind = NAT_RELAY_CLOSE, .request = 1, .session = session};
            cr_assert_eq(say(b, i % 2 == 0 ? x : y, m), ERR_OK);
            joined[x][y] = 0;
            break;
        default:
            if (session == 0)
                break;
            cr_assert(passes(b, x, y, 0, session), "step %d", i);
            cr_assert(passes(b, y, x, 1, session), "step %d", i);
            forwarded += 2;
        }
    }
    cr_assert_eq(nat_relay_stats(b->relay).frames, forwarded);
    cr_assert_gt(forwarded, 1000);
    bench_close(b);
}

/* Nodes reached through a relay are not served: relays are not stacked.  Nor does the node serve itself. */
Test(relay, no_relay_behind_a_relay)
{
    struct nat_relay_config config = nat_relay_config_default();
    struct bench *b = bench_open(&config);
    struct net_addr addr = node_addr(1);
    addr.via = NET_VIA_RELAY_FIRST;
    struct nat_relay_message m = {.kind = NAT_RELAY_RESERVE, .request = 1};
    cr_assert_eq(say_from(b, 1, addr, m), ERR_REFUSED);
    cr_assert_eq(say(b, 999, m), ERR_REFUSED);
    cr_assert_eq(b->sent_count, 0);
    addr.via = NET_VIA_TCP_FIRST;
    cr_assert(reserve_from(b, 1, addr));
    bench_close(b);
}
