/* Binds the rpc core to a QUIC endpoint. */
#ifndef DUNLIN_NET_RPC_QUIC_H
#define DUNLIN_NET_RPC_QUIC_H

#include "net/quic.h"
#include "net/rpc.h"

/* Feeds one event of quic_poll_event.  True when it was a stream event of STREAM_SERVICE_RPC, which nobody
 * else needs to see. */
bool rpc_quic_event(struct rpc *rpc, uint64_t now_ns, const struct quic_event *event);
/* Carries out every pending action.  Call after rpc_call, rpc_reply, rpc_quic_event and rpc_tick, before
 * draining quic_poll_send. */
void rpc_quic_pump(struct rpc *rpc, struct quic *ep, uint64_t now_ns);

#endif
