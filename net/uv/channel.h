/* Bounded queues between the loop thread and worker threads.  Messages have one fixed size per queue and are
 * copied; what they point to changes owner with the message.
 *
 * net_uv_channel: many threads -> the loop (uv_async_send is the only cross-thread call of libuv that is
 * used). net_uv_inbox:   any thread -> one worker, which sleeps on a condition variable. */
#ifndef DUNLIN_NET_UV_CHANNEL_H
#define DUNLIN_NET_UV_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/alloc.h"
#include "base/err.h"

struct net_uv_channel;
struct net_uv_inbox;

/* Returns an owned channel (free with net_uv_channel_close).  on_message runs on the loop's thread, once a
 * message, in order; message is borrowed until return.  ERR_NO_MEMORY, ERR_IO, ERR_INVALID (a size of 0). */
MUST_USE int net_uv_channel_open(struct net_uv_channel **out, uv_loop_t *loop, size_t message_bytes,
                                 size_t messages_max, void (*on_message)(void *user, void *message),
                                 void *user);
/* From any thread; copies message_bytes.  ERR_FULL: back-pressure, keep the message; ERR_CLOSED: closing,
 * keep it. */
MUST_USE int net_uv_channel_push(struct net_uv_channel *channel, const void *message);
/* Loop thread.  Delivers what is queued (so that nothing owned leaks), then refuses; frees itself when libuv
 * has let go.  No thread may push after that: stop the workers first. */
void net_uv_channel_close(struct net_uv_channel *channel);

/* Returns an owned inbox (free with net_uv_inbox_destroy).  ERR_NO_MEMORY, ERR_INVALID. */
MUST_USE int net_uv_inbox_create(struct net_uv_inbox **out, size_t message_bytes, size_t messages_max);
/* From any thread, never blocks; copies.  ERR_FULL, ERR_CLOSED: keep the message. */
MUST_USE int net_uv_inbox_push(struct net_uv_inbox *inbox, const void *message);
/* The worker: waits for a message and copies it out.  0; ERR_TIMEOUT after timeout_ns (UINT64_MAX: never);
 * ERR_CLOSED: closed and empty, end the thread. */
MUST_USE int net_uv_inbox_pop(struct net_uv_inbox *inbox, void *message, uint64_t timeout_ns);
/* No more pushes; the worker still gets what is queued, then ERR_CLOSED. */
void net_uv_inbox_close(struct net_uv_inbox *inbox);
/* After the worker has been joined. */
void net_uv_inbox_destroy(struct net_uv_inbox *inbox);

#endif
