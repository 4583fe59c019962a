#include "net/rpc_quic.h"

bool rpc_quic_event(struct rpc *rpc, uint64_t now_ns, const struct quic_event *event)
{
    if (event->service != STREAM_SERVICE_RPC)
        return false;
    switch (event->kind) {
    case QUIC_CONNECTED:
    case QUIC_DISCONNECTED:
        return false;
    case QUIC_STREAM_OPENED:
        rpc_stream_opened(rpc, now_ns, &event->peer, event->handle);
        return true;
    case QUIC_FRAME:
        rpc_stream_frame(rpc, now_ns, event->handle, event->frame);
        return true;
    case QUIC_STREAM_WRITABLE:
        rpc_stream_writable(rpc, event->handle);
        return true;
    case QUIC_STREAM_ENDED:
        rpc_stream_ended(rpc, now_ns, event->handle);
        return true;
    case QUIC_STREAM_RESET:
        rpc_stream_reset(rpc, now_ns, event->handle, event->err);
        return true;
    }
    return false;
}

void rpc_quic_pump(struct rpc *rpc, struct quic *ep, uint64_t now_ns)
{
    struct rpc_action action;
    while (rpc_poll_action(rpc, &action)) {
        uint64_t handle = 0;
        int result;
        switch (action.kind) {
        case RPC_ACTION_OPEN:
            result =
                quic_stream_open(ep, now_ns, &action.peer, STREAM_SERVICE_RPC, STREAM_CLASS_CONTROL, &handle);
            /* "No such connection" is a fact about the peer, as far as the caller is concerned. */
            rpc_action_done(rpc, &action, result == ERR_NOT_FOUND ? ERR_UNREACHABLE : result, handle);
            break;
        case RPC_ACTION_SEND:
            result = quic_stream_send(ep, action.handle, action.frame);
            rpc_action_done(rpc, &action, result == ERR_NOT_FOUND ? ERR_CLOSED : result, 0);
            break;
        case RPC_ACTION_FINISH:
            quic_stream_finish(ep, action.handle);
            break;
        case RPC_ACTION_RESET:
            quic_stream_reset(ep, action.handle, action.err);
            break;
        }
    }
}
