/* Every accepted call ends in exactly one event, whatever the other side does: answers, refuses, stays
 * silent, dies, sends garbage, or answers twice; and nobody can make us hold more than the caps. */
#include "net/rpc_quic.h"
#include "net/rpc_wire.h"
#include "quic_net.h"

#define MS UINT64_C(1000000)

struct peer {
    struct rpc *rpc;
    int replies, errors, requests;
    int last_err;
    uint64_t last_token, last_deadline_ns;
    uint16_t last_method;
    char last_body[64];
    size_t last_len;
    bool silent;
    int refuse;
};

struct rpc_pair {
    struct quic_net net;
    struct peer peers[2];
};

static void drain_rpc(struct rpc_pair *p, int i)
{
    struct peer *me = &p->peers[i];
    struct rpc_event event;
    rpc_quic_pump(me->rpc, p->net.nodes[i].ep, p->net.now_ns);
    while (rpc_poll_event(me->rpc, &event)) {
        me->last_token = event.token;
        me->last_method = event.method;
        me->last_len = event.body.len;
        if (event.body.len > 0 && event.body.len <= sizeof me->last_body)
            memcpy(me->last_body, event.body.data, event.body.len);
        me->replies += event.kind == RPC_REPLY;
        me->errors += event.kind == RPC_ERROR;
        if (event.kind == RPC_ERROR)
            me->last_err = event.err;
        if (event.kind != RPC_REQUEST)
            continue;
        me->requests++;
        me->last_deadline_ns = event.deadline_ns;
        if (me->refuse != 0)
            rpc_refuse(me->rpc, event.token, me->refuse);
        else if (!me->silent)
            cr_assert_eq(rpc_reply(me->rpc, event.token, event.body), ERR_OK);
    }
    rpc_quic_pump(me->rpc, p->net.nodes[i].ep, p->net.now_ns);
    rpc_check_invariants(me->rpc);
}

static void on_event(struct node *n, const struct quic_event *event)
{
    struct rpc_pair *p = n->user;
    int i = n == &p->net.nodes[0] ? 0 : 1;
    cr_assert_eq(rpc_quic_event(p->peers[i].rpc, p->net.now_ns, event), event->service == STREAM_SERVICE_RPC);
    drain_rpc(p, i);
}

static void run(struct rpc_pair *p, uint64_t ms)
{
    uint64_t limit = p->net.now_ns + ms * MS;
    while (p->net.now_ns < limit) {
        uint64_t next = p->net.now_ns + 5 * MS;
        for (int i = 0; i < 2; i++) {
            rpc_tick(p->peers[i].rpc, p->net.now_ns);
            drain_rpc(p, i);
        }
        while (net_step(&p->net, next)) {
        }
    }
}

static void start(struct rpc_pair *p, uint64_t seed, const struct rpc_config *cfg)
{
    memset(p->peers, 0, sizeof p->peers);
    net_init(&p->net, 2, seed);
    for (int i = 0; i < 2; i++) {
        p->net.nodes[i].on_event = on_event;
        p->net.nodes[i].user = p;
        cr_assert_eq(rpc_create(&p->peers[i].rpc, cfg), ERR_OK);
    }
    net_start(&p->net);
    net_connect(&p->net, 0, 1);
}

static void stop(struct rpc_pair *p)
{
    for (int i = 0; i < 2; i++)
        rpc_destroy(p->peers[i].rpc);
    net_deinit(&p->net);
}

static uint64_t call(struct rpc_pair *p, int from, const char *text, uint64_t timeout_ms)
{
    uint64_t token = 0;
    int result = rpc_call(p->peers[from].rpc, p->net.now_ns, &p->net.nodes[1 - from].identity.id, 7,
                          bytes_of_text(text), p->net.now_ns + timeout_ms * MS, &token);
    cr_assert_eq(result, ERR_OK, "%s", err_name(result));
    return token;
}

Test(rpc, a_call_is_answered_in_either_direction)
{
    static struct rpc_pair p;
    struct rpc_config cfg = rpc_config_default();
    start(&p, 1, &cfg);
    for (int from = 0; from < 2; from++) {
        uint64_t token = call(&p, from, "echo", 1000);
        run(&p, 200);
        cr_assert_eq(p.peers[from].replies, 1);
        cr_assert_eq(p.peers[from].last_token, token);
        cr_assert_eq(p.peers[from].last_len, 4);
        cr_assert_arr_eq(p.peers[from].last_body, "echo", 4);
        cr_assert_eq(p.peers[1 - from].last_method, 7);
        /* The deadline travelled: a second less the 10 ms of the way, on the callee's own clock. */
        cr_assert_leq(p.peers[1 - from].last_deadline_ns, p.net.now_ns + 1000 * MS);
        cr_assert_geq(p.peers[1 - from].last_deadline_ns, p.net.now_ns + 700 * MS);
        cr_assert_eq(rpc_calls(p.peers[from].rpc) + rpc_requests(p.peers[1 - from].rpc), 0);
        p.peers[1 - from].replies = 0;
    }
    stop(&p);
}

Test(rpc, refusal_silence_and_absence_are_errors)
{
    static struct rpc_pair p;
    struct rpc_config cfg = rpc_config_default();
    start(&p, 2, &cfg);
    p.peers[1].refuse = ERR_QUOTA;
    (void)call(&p, 0, "please", 1000);
    run(&p, 200);
    cr_assert_eq(p.peers[0].errors, 1);
    cr_assert_eq(p.peers[0].last_err, ERR_QUOTA);
    p.peers[1].refuse = 0;
    p.peers[1].silent = true;
    (void)call(&p, 0, "please", 300);
    run(&p, 290);
    cr_assert_eq(p.peers[0].errors, 1, "too early");
    run(&p, 30);
    cr_assert_eq(p.peers[0].errors, 2);
    cr_assert_eq(p.peers[0].last_err, ERR_TIMEOUT);
    run(&p, 200);
    cr_assert_eq(rpc_requests(p.peers[1].rpc), 0, "the callee forgets it too");
    /* A late reply is ignored. */
    cr_assert_eq(rpc_reply(p.peers[1].rpc, p.peers[1].last_token, bytes_of_text("late")), ERR_OK);
    (void)call(&p, 0, "please", 5000);
    run(&p, 100);
    quic_disconnect(p.net.nodes[1].ep, p.net.now_ns, &p.net.nodes[0].identity.id, ERR_CLOSED);
    run(&p, 200);
    cr_assert_eq(p.peers[0].errors, 3);
    cr_assert_eq(p.peers[0].last_err, ERR_CLOSED);
    (void)call(&p, 0, "please", 5000);
    run(&p, 50);
    cr_assert_eq(p.peers[0].errors, 4);
    cr_assert_eq(p.peers[0].last_err, ERR_UNREACHABLE);
    cr_assert_eq(rpc_calls(p.peers[0].rpc), 0);
    stop(&p);
}

Test(rpc, a_cancelled_call_says_nothing)
{
    static struct rpc_pair p;
    struct rpc_config cfg = rpc_config_default();
    start(&p, 3, &cfg);
    p.peers[1].silent = true;
    uint64_t before = call(&p, 0, "one", 1000);
    rpc_cancel(p.peers[0].rpc, before);
    uint64_t token = call(&p, 0, "two", 1000);
    run(&p, 100);
    cr_assert_eq(p.peers[1].requests, 1);
    rpc_cancel(p.peers[0].rpc, token);
    rpc_cancel(p.peers[0].rpc, token);
    run(&p, 2000);
    cr_assert_eq(p.peers[0].replies + p.peers[0].errors, 0);
    cr_assert_eq(rpc_calls(p.peers[0].rpc) + rpc_requests(p.peers[1].rpc), 0);
    stop(&p);
}

Test(rpc, calls_and_requests_are_capped)
{
    static struct rpc_pair p;
    struct rpc_config cfg = rpc_config_default();
    cfg.calls_peer_max = 12;
    cfg.requests_peer_max = 5;
    start(&p, 4, &cfg);
    p.peers[1].silent = true;
    for (int i = 0; i < 12; i++)
        (void)call(&p, 0, "please", 1000);
    uint64_t token;
    cr_assert_eq(rpc_call(p.peers[0].rpc, p.net.now_ns, &p.net.nodes[1].identity.id, 7, bytes_of_text("x"),
                          p.net.now_ns + 1000 * MS, &token),
                 ERR_FULL);
    run(&p, 500);
    cr_assert_eq(p.peers[1].requests, 5);
    cr_assert_eq(p.peers[0].errors, 7);
    cr_assert_eq(p.peers[0].last_err, ERR_BUSY);
    run(&p, 1000);
    cr_assert_eq(p.peers[0].errors, 12);
    p.peers[1].silent = false;
    (void)call(&p, 0, "again", 1000);
    run(&p, 200);
    cr_assert_eq(p.peers[0].replies, 1);
    stop(&p);
}

Test(rpc, arguments_are_checked)
{
    struct rpc *rpc;
    struct rpc_config cfg = rpc_config_default();
    cr_assert_eq(rpc_create(&rpc, &cfg), ERR_OK);
    struct id peer = {.bytes = {1}};
    uint64_t token;
    static uint8_t large[RPC_BODY_DEFAULT + 1];
    struct bytes body = bytes_of_text("x");
    cr_assert_eq(rpc_call(rpc, 10, &peer, 0, body, 20, &token), ERR_INVALID);
    cr_assert_eq(rpc_call(rpc, 10, &peer, 1, body, 10, &token), ERR_INVALID);
    cr_assert_eq(rpc_call(rpc, 10, &peer, 1, body, 11 + RPC_TIMEOUT_MS_MAX * MS, &token), ERR_INVALID);
    cr_assert_eq(rpc_call(rpc, 10, &peer, 1, bytes_of(large, sizeof large), 20, &token), ERR_TOO_LARGE);
    cr_assert_eq(rpc_call(rpc, 10, &peer, 1, bytes_of(large, RPC_BODY_DEFAULT), 20, &token), ERR_OK);
    cr_assert_eq(rpc_deadline_ns(rpc), 20);
    rpc_destroy(rpc);
    cfg.body_max = 0;
    cr_assert_eq(rpc_create(&rpc, &cfg), ERR_INVALID);
}

/* The bare core against a hostile transport. */
static struct rpc *bare(void)
{
    struct rpc *rpc;
    struct rpc_config cfg = rpc_config_default();
    cfg.calls_max = 4;
    cfg.requests_max = 4;
    cr_assert_eq(rpc_create(&rpc, &cfg), ERR_OK);
    return rpc;
}

static struct rpc_action expect(struct rpc *rpc, enum rpc_action_kind kind)
{
    struct rpc_action action = {0};
    cr_assert(rpc_poll_action(rpc, &action));
    cr_assert_eq(action.kind, kind);
    return action;
}

static struct rpc_event expect_event(struct rpc *rpc, enum rpc_event_kind kind)
{
    struct rpc_event event = {0};
    struct rpc_event none;
    cr_assert(rpc_poll_event(rpc, &event));
    cr_assert_eq(event.kind, kind);
    cr_assert(!rpc_poll_event(rpc, &none));
    return event;
}

Test(rpc, full_streams_are_tried_again)
{
    struct rpc *rpc = bare();
    struct id peer = {.bytes = {1}};
    struct rpc_action none;
    uint64_t token;
    cr_assert_eq(rpc_call(rpc, 0, &peer, 1, bytes_of_text("x"), 1000 * MS, &token), ERR_OK);
    struct rpc_action action = expect(rpc, RPC_ACTION_OPEN);
    rpc_action_done(rpc, &action, ERR_AGAIN, 0);
    cr_assert(!rpc_poll_action(rpc, &none));
    rpc_tick(rpc, rpc_deadline_ns(rpc));
    action = expect(rpc, RPC_ACTION_OPEN);
    rpc_action_done(rpc, &action, ERR_OK, 55);
    action = expect(rpc, RPC_ACTION_SEND);
    rpc_action_done(rpc, &action, ERR_AGAIN, 0);
    cr_assert(!rpc_poll_action(rpc, &none));
    rpc_stream_writable(rpc, 54);
    cr_assert(!rpc_poll_action(rpc, &none));
    rpc_stream_writable(rpc, 55);
    action = expect(rpc, RPC_ACTION_SEND);
    rpc_action_done(rpc, &action, ERR_OK, 0);
    cr_assert_eq(expect(rpc, RPC_ACTION_FINISH).handle, 55);
    rpc_tick(rpc, 1000 * MS);
    cr_assert_eq(expect(rpc, RPC_ACTION_RESET).err, ERR_TIMEOUT);
    cr_assert_eq(expect_event(rpc, RPC_ERROR).err, ERR_TIMEOUT);
    cr_assert_eq(rpc_calls(rpc), 0);
    cr_assert_eq(rpc_deadline_ns(rpc), UINT64_MAX);
    rpc_destroy(rpc);
}

Test(rpc, bad_replies_are_errors_and_second_frames_are_resets)
{
    struct id peer = {.bytes = {1}};
    uint8_t good[64];
    size_t good_len =
        rpc_reply_encode(&(struct rpc_reply_message){.body = bytes_of_text("fine")}, good, sizeof good);
    const struct {
        struct bytes first;
        bool ends;
        int err;
    } cases[] = {
        {bytes_of("\xc1", 1), false, ERR_MALFORMED},          {bytes_of("\x80", 1), false, ERR_MALFORMED},
        {bytes_of("\x81\x01\x05", 3), false, ERR_MALFORMED},  {bytes_of(NULL, 0), true, ERR_TRUNCATED},
        {bytes_of(good, good_len - 1), false, ERR_MALFORMED}, {bytes_of(good, good_len), false, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rpc *rpc = bare();
        uint64_t token;
        cr_assert_eq(rpc_call(rpc, 0, &peer, 1, bytes_of_text("x"), 1000 * MS, &token), ERR_OK);
        struct rpc_action action = expect(rpc, RPC_ACTION_OPEN);
        rpc_action_done(rpc, &action, ERR_OK, 9);
        action = expect(rpc, RPC_ACTION_SEND);
        rpc_action_done(rpc, &action, ERR_OK, 0);
        (void)expect(rpc, RPC_ACTION_FINISH);
        if (cases[i].ends)
            rpc_stream_ended(rpc, 1, 9);
        else
            rpc_stream_frame(rpc, 1, 9, cases[i].first);
        if (cases[i].err == 0) {
            rpc_stream_frame(rpc, 1, 9, cases[i].first);
            cr_assert_eq(expect_event(rpc, RPC_REPLY).body.len, 4);
        } else {
            cr_assert_eq(expect_event(rpc, RPC_ERROR).err, cases[i].err, "case %zu", i);
        }
        (void)expect(rpc, RPC_ACTION_RESET);
        rpc_check_invariants(rpc);
        cr_assert_eq(rpc_calls(rpc), 0);
        rpc_destroy(rpc);
    }
}

Test(rpc, bad_requests_are_reset_and_never_told)
{
    struct rpc *rpc = bare();
    struct id peer = {.bytes = {2}};
    struct rpc_event event;
    rpc_stream_opened(rpc, 0, &peer, 11);
    rpc_stream_frame(rpc, 0, 11, bytes_of("\x93\x01\x02\x03", 4));
    cr_assert_eq(expect(rpc, RPC_ACTION_RESET).err, ERR_MALFORMED);
    rpc_stream_opened(rpc, 0, &peer, 12);
    rpc_stream_ended(rpc, 0, 12);
    cr_assert_eq(expect(rpc, RPC_ACTION_RESET).err, ERR_TRUNCATED);
    rpc_stream_opened(rpc, 0, &peer, 13);
    rpc_tick(rpc, rpc_deadline_ns(rpc)); /* the frame never comes */
    cr_assert_eq(expect(rpc, RPC_ACTION_RESET).err, ERR_TIMEOUT);
    cr_assert(!rpc_poll_event(rpc, &event));
    /* More streams than slots, and more than refusals fit. */
    for (uint64_t handle = 100; handle < 300; handle++)
        rpc_stream_opened(rpc, 0, &peer, handle);
    rpc_check_invariants(rpc);
    int resets = 0;
    struct rpc_action action;
    while (rpc_poll_action(rpc, &action))
        resets += action.kind == RPC_ACTION_RESET && action.err == ERR_BUSY;
    cr_assert_eq(resets, 64);
    rpc_destroy(rpc);
}

Test(rpc, messages_survive_the_round_trip_and_every_truncation_is_refused)
{
    uint8_t wire[128];
    struct rpc_request_message request = {
        .method = 513, .timeout_ms = 70000, .body = bytes_of_text("some body")};
    struct rpc_request_message got;
    size_t len = rpc_request_encode(&request, wire, sizeof wire);
    cr_assert(len > 9 && len <= 9 + RPC_HEAD_MAX);
    cr_assert_eq(rpc_request_decode(bytes_of(wire, len), 9, &got), ERR_OK);
    cr_assert(got.method == 513 && got.timeout_ms == 70000 && bytes_equal(got.body, request.body));
    cr_assert_eq(rpc_request_decode(bytes_of(wire, len), 8, &got), ERR_MALFORMED);
    for (size_t cut = 0; cut < len; cut++)
        cr_assert_eq(rpc_request_decode(bytes_of(wire, cut), 100, &got), ERR_MALFORMED);
    cr_assert_eq(rpc_request_encode(&request, wire, len - 1), 0);
    struct rpc_reply_message reply = {.err = ERR_REFUSED};
    struct rpc_reply_message answer;
    len = rpc_reply_encode(&reply, wire, sizeof wire);
    cr_assert_eq(rpc_reply_decode(bytes_of(wire, len), 9, &answer), ERR_OK);
    cr_assert_eq(answer.err, ERR_REFUSED);
    for (size_t cut = 0; cut < len; cut++)
        cr_assert_eq(rpc_reply_decode(bytes_of(wire, cut), 100, &answer), ERR_MALFORMED);
}
