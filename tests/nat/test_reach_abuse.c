/* Reach under attack: answers to nothing, replays, wrong addresses, floods.  Nothing of it changes a verdict,
 * reaches a third party or grows without bound. */
#include "reach_net.h"

static const struct nat_kind none = {.name = "none"};

static struct net_message message_of(const struct id *peer, const struct net_addr *from, uint8_t kind,
                                     const struct reach_body *body)
{
    struct net_message m = {.peer = *peer, .addr = *from};
    reach_write(&m, kind, body);
    return m;
}

static struct id id_of(unsigned n)
{
    struct id id = {{0xee, (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n}};
    return id;
}

static struct net_addr stranger(unsigned n)
{
    return (struct net_addr){
        .family = NET_FAMILY_V4, .ip = {20, (uint8_t)(n >> 8), (uint8_t)n, 9}, .port = 1000};
}

/* What node 1 sends within span_ns, by destination: to `to`, and elsewhere except to public nodes. */
static size_t sent_to(struct world *w, uint64_t span_ns, const struct net_addr *to, size_t *bytes)
{
    struct nat_reach *reach = w->nodes[1].reach;
    struct nat_reach_event event;
    struct net_message m;
    size_t count = 0;
    for (uint64_t end_ns = w->now_ns + span_ns; w->now_ns < end_ns; w->now_ns += MS(10)) {
        nat_reach_tick(reach, w->now_ns);
        while (nat_reach_poll_event(reach, &event)) {
            if (event.type == NAT_REACH_SOCKETS_WANTED)
                give_sockets(w, &w->nodes[1], &event);
        }
        while (nat_reach_poll_send(reach, w->now_ns, &m)) {
            size_t sealed = m.body_len + 104 < 136 ? 136 : m.body_len + 104;
            count += same_ip(&m.addr, to);
            *bytes += same_ip(&m.addr, to) ? sealed : 0;
        }
        nat_reach_check_invariants(reach);
    }
    return count;
}

Test(reach_abuse, a_third_party_is_never_dialled)
{
    static struct world w;
    world_open(&w, &none, 6, 1);
    introduce(&w, 1, 5);
    struct id asker = id_of(1);
    struct net_addr from = stranger(1);
    struct net_addr victim = at("11.0.99.1:4242");
    struct reach_body body = {.nonce = 9, .addr = victim};
    struct net_message m = message_of(&asker, &from, REACH_DIALBACK, &body);
    size_t bytes = 0;
    cr_expect_eq(nat_reach_recv(w.nodes[1].reach, w.now_ns, &m), ERR_REFUSED);
    cr_expect_eq(sent_to(&w, SEC(3), &victim, &bytes), 0);
    cr_expect_eq(nat_reach_stats(w.nodes[1].reach).refused_address, 1);
    struct net_addr relayed = from; /* nor the IP of a relay, by whose session the request came */
    relayed.via = NET_VIA_RELAY_FIRST;
    body.addr = from;
    m = message_of(&asker, &relayed, REACH_DIALBACK, &body);
    cr_expect_eq(nat_reach_recv(w.nodes[1].reach, w.now_ns, &m), ERR_REFUSED);
    (void)nat_reach_stats(w.nodes[1].reach);
    m = message_of(&asker, &from, REACH_FORWARD,
                   &(struct reach_body){.nonce = 9, .addr = victim, .asker = asker});
    cr_expect_eq(nat_reach_recv(w.nodes[1].reach, w.now_ns, &m), ERR_REFUSED, "nobody vouched for it");
    struct net_addr elsewhere = stranger(2); /* a helper's id from an address that is not its own */
    m = message_of(&w.nodes[2].id, &elsewhere, REACH_FORWARD,
                   &(struct reach_body){.nonce = 9, .addr = victim, .asker = asker});
    cr_expect_eq(nat_reach_recv(w.nodes[1].reach, w.now_ns, &m), ERR_REFUSED);
    cr_expect_eq(nat_reach_stats(w.nodes[1].reach).refused_stranger, 2);
    cr_expect_eq(sent_to(&w, SEC(3), &victim, &bytes), 0);
    world_close(&w);
}

Test(reach_abuse, a_request_causes_no_more_than_itself)
{
    static struct world w;
    world_open(&w, &none, 6, 1);
    introduce(&w, 1, 5);
    struct id asker = id_of(1);
    struct net_addr from = stranger(1);
    struct reach_body body = {.nonce = 9, .addr = from};
    struct net_message m = message_of(&asker, &from, REACH_DIALBACK, &body);
    size_t bytes = 0;
    m.body_len--;
    cr_expect_eq(nat_reach_recv(w.nodes[1].reach, w.now_ns, &m), ERR_MALFORMED);
    m.body_len++;
    cr_assert_eq(nat_reach_recv(w.nodes[1].reach, w.now_ns, &m), ERR_OK);
    size_t direct = sent_to(&w, SEC(3), &from, &bytes);
    cr_expect_eq(direct, 3, "an answer and two probes, not %zu", direct);
    /* Two helpers with two probes each. */
    cr_expect_leq(bytes + (size_t)4 * 136, m.body_len + 104);
    m = message_of(&asker, &from, REACH_OBSERVE, &body);
    bytes = 0;
    cr_assert_eq(nat_reach_recv(w.nodes[1].reach, w.now_ns, &m), ERR_OK);
    cr_expect_eq(sent_to(&w, SEC(1), &from, &bytes), 1);
    cr_expect_leq(bytes, m.body_len + 104);
    m = message_of(&w.nodes[2].id, &w.nodes[2].at, REACH_FORWARD,
                   &(struct reach_body){.nonce = 10, .addr = from, .asker = asker});
    bytes = 0;
    cr_assert_eq(nat_reach_recv(w.nodes[1].reach, w.now_ns, &m), ERR_OK);
    cr_assert_eq(nat_reach_recv(w.nodes[1].reach, w.now_ns, &m), ERR_OK, "the repetition does nothing");
    cr_expect_eq(sent_to(&w, SEC(1), &from, &bytes), 2);
    cr_expect_leq(bytes, m.body_len + 104);
    world_close(&w);
}

Test(reach_abuse, repeated_requests_cost_an_answer)
{
    static struct world w;
    world_open(&w, &none, 6, 1);
    introduce(&w, 1, 5);
    struct id asker = id_of(1);
    struct net_addr from = stranger(1);
    struct net_message m =
        message_of(&asker, &from, REACH_DIALBACK, &(struct reach_body){.nonce = 9, .addr = from});
    size_t bytes = 0;
    for (int i = 0; i < 3; i++)
        cr_assert_eq(nat_reach_recv(w.nodes[1].reach, w.now_ns, &m), ERR_OK);
    (void)sent_to(&w, SEC(2), &from, &bytes);
    cr_assert_eq(nat_reach_recv(w.nodes[1].reach, w.now_ns, &m), ERR_OK);
    cr_expect_eq(sent_to(&w, SEC(2), &from, &bytes), 1);
    cr_expect_eq(nat_reach_stats(w.nodes[1].reach).served_dial, 1);
    world_close(&w);
}

Test(reach_abuse, floods_are_bounded_and_counted)
{
    static struct world w;
    world_open(&w, &none, 6, 1);
    introduce(&w, 1, 5);
    struct nat_reach *reach = w.nodes[1].reach;
    struct net_message out;
    size_t answered = 0;
    for (unsigned i = 0; i < 10000; i++) { /* one network, many ids */
        struct id asker = id_of(i);
        struct net_addr from = stranger(1);
        struct net_message m = message_of(&asker, &from, REACH_OBSERVE, &(struct reach_body){.nonce = i});
        answered += nat_reach_recv(reach, w.now_ns, &m) == ERR_OK;
        while (nat_reach_poll_send(reach, w.now_ns, &out))
            ;
    }
    cr_expect_eq(answered, 80, "four seconds' share of one network, not %zu", answered);
    cr_expect_eq(nat_reach_stats(reach).refused_rate, 10000 - answered);
    for (unsigned i = 0; i < 10000; i++) { /* many networks, nothing drained */
        struct id asker = id_of(i);
        struct net_addr from = stranger(i);
        struct net_message m =
            message_of(&asker, &from, REACH_DIALBACK, &(struct reach_body){.nonce = i + 1, .addr = from});
        int rc = nat_reach_recv(reach, w.now_ns, &m);
        cr_assert(rc == ERR_OK || rc == ERR_RATE || rc == ERR_FULL);
        nat_reach_check_invariants(reach);
    }
    cr_expect_leq(nat_reach_stats(reach).served_dial, 20);
    w.now_ns += SEC(20);
    nat_reach_tick(reach, w.now_ns);
    size_t drained = 0;
    while (nat_reach_poll_send(reach, w.now_ns, &out))
        drained++;
    cr_expect_leq(drained, 256);
    world_close(&w);
}

/* Node 0 asks; hands back what it sent to node `to` of this kind. */
static struct net_message question(struct world *w, uint8_t kind, size_t *to)
{
    struct net_message m;
    for (int i = 0; i < 100; i++) {
        struct nat_reach_event event;
        nat_reach_tick(w->nodes[0].reach, w->now_ns);
        while (nat_reach_poll_event(w->nodes[0].reach, &event)) {
            if (event.type == NAT_REACH_SOCKETS_WANTED)
                give_sockets(w, &w->nodes[0], &event);
        }
        while (nat_reach_poll_send(w->nodes[0].reach, w->now_ns, &m)) {
            if (m.kind != kind)
                continue;
            for (*to = 1; !same_ip(&w->nodes[*to].at, &m.addr);)
                ++*to;
            return m;
        }
        w->now_ns += MS(100);
    }
    cr_assert_fail("no question");
    return m;
}

Test(reach_abuse, only_the_one_asked_answers)
{
    static struct world w;
    world_open(&w, &none, 6, 1);
    introduce(&w, 1, 5);
    size_t to;
    struct nat_reach *reach = w.nodes[0].reach;
    struct net_message asked = question(&w, REACH_OBSERVE, &to);
    struct reach_body body;
    cr_assert_eq(reach_read(&asked, &body), ERR_OK);
    body.addr = at("11.0.50.1:77");
    struct net_message answer = message_of(&asked.peer, &asked.addr, REACH_OBSERVED, &body);
    struct net_message forged = answer;
    forged.peer = id_of(3);
    cr_expect_eq(nat_reach_recv(reach, w.now_ns, &forged), ERR_REFUSED, "another peer");
    forged = answer;
    forged.addr.port++;
    cr_expect_eq(nat_reach_recv(reach, w.now_ns, &forged), ERR_REFUSED, "another address");
    forged = answer;
    forged.addr.via = NET_VIA_MAIN;
    cr_expect_eq(nat_reach_recv(reach, w.now_ns, &forged), ERR_REFUSED, "another socket");
    body.nonce ^= 1;
    forged = message_of(&asked.peer, &asked.addr, REACH_OBSERVED, &body);
    cr_expect_eq(nat_reach_recv(reach, w.now_ns, &forged), ERR_REFUSED, "another nonce");
    body.nonce ^= 1;
    body.addr = at("[2001:db8::1]:1");
    forged = message_of(&asked.peer, &asked.addr, REACH_OBSERVED, &body);
    cr_expect_eq(nat_reach_recv(reach, w.now_ns, &forged), ERR_REFUSED, "another family");
    cr_expect_eq(nat_reach_stats(reach).dropped_unmatched, 5);
    cr_expect_eq(nat_reach_recv(reach, w.now_ns, &answer), ERR_OK);
    cr_expect_eq(nat_reach_recv(reach, w.now_ns, &answer), ERR_OK, "a replay is taken");
    cr_expect_eq(nat_reach_stats(reach).observes_answered, 1, "and changes nothing");
    world_close(&w);
}

Test(reach_abuse, a_probe_counts_once_and_with_its_nonce)
{
    static struct world w;
    struct net_addr own = addr_of(0);
    size_t to;
    world_open(&w, &none, 6, 1);
    introduce(&w, 1, 5);
    struct nat_reach *reach = w.nodes[0].reach;
    cr_assert_eq(nat_reach_verify(reach, w.now_ns, &own), ERR_OK);
    struct net_message asked = question(&w, REACH_DIALBACK, &to);
    struct reach_body body;
    cr_assert_eq(reach_read(&asked, &body), ERR_OK);
    struct id unknown = id_of(4);
    struct net_addr elsewhere = stranger(4);
    struct reach_body forged = {.nonce = body.nonce + 1};
    struct net_message probe = message_of(&unknown, &elsewhere, REACH_DIALBACK_PROBE, &forged);
    cr_expect_eq(nat_reach_recv(reach, w.now_ns, &probe), ERR_REFUSED);
    forged.nonce = body.nonce;
    probe = message_of(&unknown, &elsewhere, REACH_DIALBACK_PROBE, &forged);
    probe.addr.via = NET_VIA_AUX_FIRST;
    cr_expect_eq(nat_reach_recv(reach, w.now_ns, &probe), ERR_REFUSED, "not at the address in question");
    probe.addr.via = NET_VIA_MAIN;
    cr_expect_eq(nat_reach_recv(reach, w.now_ns, &probe), ERR_OK);
    for (int i = 0; i < 5; i++)
        cr_expect_eq(nat_reach_recv(reach, w.now_ns, &probe), ERR_REFUSED, "a replay");
    enum nat_reach_verdict verdict;
    enum nat_reach_why why;
    cr_assert_eq(nat_reach_verdict_of(reach, &own, &verdict, &why), ERR_OK);
    cr_expect_eq(verdict, NAT_REACH_UNKNOWN, "one helper's word is not three");
    world_close(&w);
}

Test(reach_abuse, contacts_are_kept_five_minutes)
{
    static struct world w;
    struct net_addr own = addr_of(0);
    struct net_addr c = stranger(4);
    struct id id = id_of(4);
    static const struct {
        uint64_t after_ns;
        bool is_stranger;
    } cases[] = {{0, false}, {SEC(299), false}, {SEC(460), true}};
    for (size_t i = 0; i < 3; i++) {
        size_t to;
        struct reach_body body;
        world_open(&w, &none, 6, i + 1);
        struct nat_reach *reach = w.nodes[0].reach;
        nat_reach_contacted(reach, w.now_ns, &c);
        for (unsigned k = 0; k < 3000; k++) { /* many others do not push it out */
            struct net_addr other = stranger(100 + k);
            nat_reach_contacted(reach, w.now_ns, &other);
        }
        w.now_ns += cases[i].after_ns;
        introduce(&w, 1, 5);
        cr_assert_eq(nat_reach_verify(reach, w.now_ns, &own), ERR_OK);
        struct net_message asked = question(&w, REACH_DIALBACK, &to);
        cr_assert_eq(reach_read(&asked, &body), ERR_OK);
        uint64_t before = nat_reach_stats(reach).attempts;
        struct reach_body forged = {.nonce = body.nonce};
        struct net_message probe = message_of(&id, &c, REACH_DIALBACK_PROBE, &forged);
        cr_expect_eq(nat_reach_recv(reach, w.now_ns, &probe), ERR_OK);
        bool ended = nat_reach_stats(reach).attempts == before + 1;
        cr_expect_eq(ended, cases[i].is_stranger, "case %zu", i);
        world_close(&w);
    }
}

Test(reach_abuse, the_dial_back_socket_is_changed)
{
    static struct world w;
    world_open(&w, &none, 6, 1);
    introduce(&w, 1, 5);
    struct net_addr from = stranger(1);
    struct id asker = id_of(1);
    uint16_t first_port = 0;
    for (int i = 0; i < 2; i++) {
        struct net_message m = message_of(&asker, &from, REACH_DIALBACK,
                                          &(struct reach_body){.nonce = 9 + (uint64_t)i, .addr = from});
        cr_assert_eq(nat_reach_recv(w.nodes[1].reach, w.now_ns, &m), ERR_OK);
        run(&w, SEC(1));
        cr_expect_eq(w.nodes[1].wanted, 1 + (uint64_t)i);
        cr_expect_neq(w.nodes[1].aux_ports[0], first_port);
        first_port = w.nodes[1].aux_ports[0];
        run(&w, SEC(125));
        cr_expect_eq(w.nodes[1].released, 1 + (uint64_t)i);
    }
    w.nodes[1].no_sockets = true; /* without one, strangers still try */
    struct net_message m =
        message_of(&asker, &from, REACH_DIALBACK, &(struct reach_body){.nonce = 99, .addr = from});
    cr_assert_eq(nat_reach_recv(w.nodes[1].reach, w.now_ns, &m), ERR_OK);
    run(&w, SEC(2));
    cr_expect_eq(nat_reach_stats(w.nodes[1].reach).served_dial, 3);
    struct nat_reach_socket late = {.via = 3, .port = 9};
    w.nodes[1].aux_ports[2] = 9;
    nat_reach_sockets(w.nodes[1].reach, w.now_ns, 12345, &late, 1);
    run(&w, MS(1));
    cr_expect_eq(w.nodes[1].aux_ports[2], 0, "a socket that nobody asked for is given back");
    world_close(&w);
}

Test(reach_abuse, one_network_cannot_fill_the_observers)
{
    static struct world w;
    world_open(&w, &none, 2, 1);
    struct nat_reach *reach = w.nodes[0].reach;
    for (unsigned i = 0; i < 200; i++) {
        struct id id = id_of(i);
        struct net_addr addr = at("21.0.0.1:1");
        addr.ip[3] = (uint8_t)(1 + i);
        cr_assert_eq(nat_reach_observer(reach, w.now_ns + i, &id, &addr), ERR_OK);
    }
    for (unsigned i = 0; i < 29; i++) {
        struct id id = id_of(1000 + i);
        struct net_addr addr = stranger(i);
        cr_assert_eq(nat_reach_observer(reach, w.now_ns + 300, &id, &addr), ERR_OK, "room was left");
    }
    struct id id = id_of(2000);
    struct net_addr addr = stranger(50);
    cr_expect_eq(nat_reach_observer(reach, w.now_ns + 300, &id, &addr), ERR_FULL);
    cr_expect_eq(nat_reach_observer(reach, w.now_ns + SEC(700), &id, &addr), ERR_OK, "old ones give way");
    nat_reach_peer_gone(reach, &id);
    nat_reach_check_invariants(reach);
    world_close(&w);
}
