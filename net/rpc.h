/* Unary calls over framed streams: one request, one reply.  A sans-I/O core: it consumes stream events and
 * its stream actions are pulled; net/rpc_quic.h binds it to a QUIC endpoint in two functions.
 *
 * One stream a call (STREAM_SERVICE_RPC): the caller opens it, sends one request frame and finishes; the
 * callee sends one reply frame and finishes.  The deadline travels as a remaining time in ms, so clocks need
 * not agree. request  {1: method (1..65535), 2: timeout ms, 3: body (bin)} reply    {1: code (0, or -ERR_
 * number as a positive integer), 2: body (bin, may be absent)} Every accepted call gets exactly one RPC_REPLY
 * or RPC_ERROR.  A caller that gives up resets the stream; the callee then drops the request, and rpc_reply
 * on its token is ignored. */
#ifndef DUNLIN_NET_RPC_H
#define DUNLIN_NET_RPC_H

#include <stdbool.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/id.h"

enum {
    RPC_BODY_DEFAULT = 60 * 1024,
    RPC_HEAD_MAX = 32, /* a frame is at most body_max + this */
    RPC_TIMEOUT_MS_MAX = 10 * 60 * 1000,
};

struct rpc_config {
    struct allocator allocator;
    size_t calls_max;         /* own calls in progress */
    size_t calls_peer_max;    /* own calls in progress to one peer */
    size_t requests_max;      /* requests of others in progress */
    size_t requests_peer_max; /* from one peer; more are refused with ERR_BUSY */
    size_t body_max;          /* bytes, of requests and replies */
};

enum rpc_event_kind { RPC_REPLY, RPC_ERROR, RPC_REQUEST };

struct rpc_event {
    enum rpc_event_kind kind;
    uint64_t token; /* REPLY, ERROR: what rpc_call gave; REQUEST: for rpc_reply or rpc_refuse */
    struct id peer;
    uint16_t method;
    uint64_t deadline_ns; /* REQUEST: after this nobody waits for the reply */
    int err;              /* ERROR: ERR_TIMEOUT, ERR_CLOSED, the callee's refusal, ... */
    struct bytes body;    /* REPLY, REQUEST: borrowed until the next call with this rpc */
};

enum rpc_action_kind { RPC_ACTION_OPEN, RPC_ACTION_SEND, RPC_ACTION_FINISH, RPC_ACTION_RESET };

/* What the transport has to do; answer OPEN and SEND with rpc_action_done. */
struct rpc_action {
    enum rpc_action_kind kind;
    uint64_t token;
    uint64_t handle;    /* all but OPEN */
    struct id peer;     /* OPEN */
    struct bytes frame; /* SEND: borrowed until rpc_action_done */
    int err;            /* RESET: the code to tell the peer */
};

struct rpc;

/* Sensible values and the C library's heap. */
struct rpc_config rpc_config_default(void);
/* Returns an owned instance in *out (free with rpc_destroy).  ERR_INVALID, ERR_NO_MEMORY. */
MUST_USE int rpc_create(struct rpc **out, const struct rpc_config *cfg);
void rpc_destroy(struct rpc *rpc);

/* Starts a call; copies body.  On 0 exactly one RPC_REPLY or RPC_ERROR with *token follows, no later than the
 * first rpc_tick at or after deadline_ns.  ERR_FULL: calls_max or calls_peer_max are in progress: try again
 * after one ended. ERR_TOO_LARGE.  ERR_INVALID: method 0, or a deadline in the past or beyond
 * RPC_TIMEOUT_MS_MAX. */
MUST_USE int rpc_call(struct rpc *rpc, uint64_t now_ns, const struct id *peer, uint16_t method,
                      struct bytes body, uint64_t deadline_ns, uint64_t *token);
/* Gives up; no event follows.  Unknown tokens are ignored. */
void rpc_cancel(struct rpc *rpc, uint64_t token);
/* Answers a request; copies body.  A token that has expired is ignored (0).  ERR_TOO_LARGE: the request is
 * still open, refuse it. */
MUST_USE int rpc_reply(struct rpc *rpc, uint64_t token, struct bytes body);
/* Refuses a request with an ERR_ code, which becomes the caller's RPC_ERROR. */
void rpc_refuse(struct rpc *rpc, uint64_t token, int err);

/* Inputs: what happened to streams of STREAM_SERVICE_RPC.  Each ignores handles it does not own. */
void rpc_stream_opened(struct rpc *rpc, uint64_t now_ns, const struct id *peer, uint64_t handle);
void rpc_stream_frame(struct rpc *rpc, uint64_t now_ns, uint64_t handle, struct bytes frame);
void rpc_stream_ended(struct rpc *rpc, uint64_t now_ns, uint64_t handle);
void rpc_stream_reset(struct rpc *rpc, uint64_t now_ns, uint64_t handle, int err);
void rpc_stream_writable(struct rpc *rpc, uint64_t handle);
/* Expires calls and requests. */
void rpc_tick(struct rpc *rpc, uint64_t now_ns);
uint64_t rpc_deadline_ns(const struct rpc *rpc);

/* Next thing to do; false: none.  After OPEN or SEND call rpc_action_done before polling again. */
bool rpc_poll_action(struct rpc *rpc, struct rpc_action *out);
/* Outcome of an OPEN (result 0: handle is the new stream) or a SEND.  ERR_AGAIN: offered again after
 * rpc_stream_writable, or for OPEN after the next rpc_tick.  Any other error fails the call with that code.
 */
void rpc_action_done(struct rpc *rpc, const struct rpc_action *action, int result, uint64_t handle);
/* Next event; false: none left. */
bool rpc_poll_event(struct rpc *rpc, struct rpc_event *out);
size_t rpc_calls(const struct rpc *rpc);
size_t rpc_requests(const struct rpc *rpc);
void rpc_check_invariants(const struct rpc *rpc);

#endif
