/* A peer's bytes as rpc messages: what is accepted keeps its meaning when it is encoded again; and the core,
 * fed with them as a program of stream events, never breaks its invariants or forgets a call. */
#include <stdlib.h>
#include <string.h>

#include "net/rpc.h"
#include "net/rpc_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BODY_MAX = 256 };

static void must(bool condition)
{
    if (!condition)
        abort();
}

static void decode(struct bytes in)
{
    uint8_t wire[BODY_MAX + RPC_HEAD_MAX];
    struct rpc_request_message request;
    struct rpc_request_message request_again;
    if (rpc_request_decode(in, BODY_MAX, &request) == ERR_OK) {
        size_t len = rpc_request_encode(&request, wire, sizeof wire);
        must(len > 0 && rpc_request_decode(bytes_of(wire, len), BODY_MAX, &request_again) == ERR_OK);
        must(request.method == request_again.method && request.timeout_ms == request_again.timeout_ms &&
             bytes_equal(request.body, request_again.body));
    }
    struct rpc_reply_message reply;
    struct rpc_reply_message reply_again;
    if (rpc_reply_decode(in, BODY_MAX, &reply) == ERR_OK) {
        size_t len = rpc_reply_encode(&reply, wire, sizeof wire);
        must(len > 0 && rpc_reply_decode(bytes_of(wire, len), BODY_MAX, &reply_again) == ERR_OK);
        must(reply.err == reply_again.err);
        must(reply.err != 0 || bytes_equal(reply.body, reply_again.body));
    }
}

struct game {
    struct rpc *rpc;
    uint64_t now_ns, handles;
    size_t open_calls, told;
    uint64_t last_request;
};

static void drain(struct game *g, uint8_t mood)
{
    struct rpc_action action;
    struct rpc_event event;
    while (rpc_poll_action(g->rpc, &action)) {
        int result = mood % 5 == 0 ? ERR_AGAIN : mood % 7 == 0 ? ERR_FULL : ERR_OK;
        if (action.kind == RPC_ACTION_OPEN || action.kind == RPC_ACTION_SEND)
            rpc_action_done(g->rpc, &action, result, 1 + g->handles++ % 16);
    }
    while (rpc_poll_event(g->rpc, &event)) {
        if (event.kind == RPC_REQUEST)
            g->last_request = event.token;
        else
            g->told++;
    }
    rpc_check_invariants(g->rpc);
}

/* One opcode; returns the bytes it used. */
static size_t step(struct game *g, const uint8_t *data, size_t size)
{
    struct id peer = {.bytes = {(uint8_t)(data[1] % 3)}};
    uint64_t handle = data[1] % 17;
    size_t len = data[2] < size - 3 ? data[2] : size - 3;
    struct bytes bytes = bytes_of(data + 3, len);
    uint64_t token;
    g->now_ns += (uint64_t)data[2] << 22;
    switch (data[0] % 9) {
    case 0:
        g->open_calls += rpc_call(g->rpc, g->now_ns, &peer, 1 + data[1], bytes,
                                  g->now_ns + (1 + (uint64_t)data[2]) * 20000000, &token) == ERR_OK;
        break;
    case 1:
        rpc_stream_opened(g->rpc, g->now_ns, &peer, 100 + g->handles++);
        break;
    case 2:
        rpc_stream_frame(g->rpc, g->now_ns, handle, bytes);
        break;
    case 3:
        rpc_stream_frame(g->rpc, g->now_ns, 99 + g->handles, bytes);
        break;
    case 4:
        rpc_stream_ended(g->rpc, g->now_ns, handle);
        break;
    case 5:
        rpc_stream_reset(g->rpc, g->now_ns, handle, ERR_CLOSED);
        break;
    case 6:
        rpc_stream_writable(g->rpc, handle);
        break;
    case 7:
        (void)!rpc_reply(g->rpc, g->last_request, bytes);
        break;
    default:
        rpc_tick(g->rpc, g->now_ns);
    }
    drain(g, data[0]);
    return 3 + len;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    decode(bytes_of(data, size));
    struct rpc_config cfg = rpc_config_default();
    cfg.calls_max = 4;
    cfg.requests_max = 4;
    cfg.body_max = BODY_MAX;
    struct game g = {0};
    if (rpc_create(&g.rpc, &cfg) != ERR_OK)
        return 0;
    for (size_t at = 0; at + 3 <= size;)
        at += step(&g, data + at, size - at);
    /* Every accepted call has been told once its deadline has passed, and nothing is left over. */
    for (int i = 0; i < 3; i++) {
        g.now_ns += UINT64_C(700000000000);
        rpc_tick(g.rpc, g.now_ns);
        drain(&g, 1);
    }
    must(g.told == g.open_calls && rpc_calls(g.rpc) == 0);
    rpc_destroy(g.rpc);
    return 0;
}
