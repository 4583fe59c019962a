/* The two messages of a call (net/rpc.h), encoded and decoded side by side.  Pure. */
#ifndef DUNLIN_NET_RPC_WIRE_H
#define DUNLIN_NET_RPC_WIRE_H

#include "base/bytes.h"
#include "base/err.h"

struct rpc_request_message {
    uint16_t method;
    uint32_t timeout_ms;
    struct bytes body; /* decoded: into the input */
};

struct rpc_reply_message {
    int err; /* 0, or an ERR_ code */
    struct bytes body;
};

/* Each writes the message to out and returns its length, 0 when cap is too small. */
size_t rpc_request_encode(const struct rpc_request_message *message, uint8_t *out, size_t cap);
size_t rpc_reply_encode(const struct rpc_reply_message *message, uint8_t *out, size_t cap);
/* ERR_MALFORMED: not such a message, a field missing or out of range, or a body above body_max.  Reset the
 * stream. */
MUST_USE int rpc_request_decode(struct bytes in, size_t body_max, struct rpc_request_message *out);
MUST_USE int rpc_reply_decode(struct bytes in, size_t body_max, struct rpc_reply_message *out);

#endif
