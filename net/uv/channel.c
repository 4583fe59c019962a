#include "net/uv/channel.h"

#include <stdlib.h>
#include <string.h>

#include "base/ring.h"

/* A ring of messages of one size; the owner locks. */
struct messages {
    uint8_t *slots; /* [ring.cap][message_bytes] */
    size_t message_bytes;
    struct ring ring;
};

static int messages_init(struct messages *m, size_t message_bytes, size_t cap)
{
    if (message_bytes == 0 || cap == 0)
        return ERR_INVALID;
    *m = (struct messages){.slots = calloc(cap, message_bytes), .message_bytes = message_bytes};
    if (m->slots == NULL)
        return ERR_NO_MEMORY;
    m->ring = ring_init(cap);
    return ERR_OK;
}

static bool messages_push(struct messages *m, const void *message)
{
    size_t at = ring_push(&m->ring);
    if (at == RING_NONE)
        return false;
    memcpy(m->slots + at * m->message_bytes, message, m->message_bytes);
    return true;
}

static bool messages_pop(struct messages *m, void *message)
{
    size_t at = ring_pop(&m->ring);
    if (at == RING_NONE)
        return false;
    memcpy(message, m->slots + at * m->message_bytes, m->message_bytes);
    return true;
}

struct net_uv_channel {
    uv_async_t async;
    uv_mutex_t lock;
    struct messages messages; /* under lock */
    bool closed;              /* under lock */
    bool delivering;          /* loop thread only, like what follows */
    bool close_wanted;
    void *message; /* the one being delivered */
    void (*on_message)(void *user, void *message);
    void *user;
};

static void on_channel_closed(uv_handle_t *handle)
{
    struct net_uv_channel *channel = handle->data;
    uv_mutex_destroy(&channel->lock);
    free(channel->messages.slots);
    free(channel->message);
    free(channel);
}

static bool take(struct net_uv_channel *channel)
{
    uv_mutex_lock(&channel->lock);
    bool took = messages_pop(&channel->messages, channel->message);
    uv_mutex_unlock(&channel->lock);
    return took;
}

/* Delivers at most limit messages; false when that many were not there. */
static bool deliver(struct net_uv_channel *channel, size_t limit)
{
    channel->delivering = true;
    size_t count = 0;
    while (count < limit && take(channel)) {
        channel->on_message(channel->user, channel->message);
        count++;
    }
    channel->delivering = false;
    return count == limit;
}

static void finish_close(struct net_uv_channel *channel)
{
    uv_mutex_lock(&channel->lock);
    channel->closed = true;
    uv_mutex_unlock(&channel->lock);
    while (deliver(channel, SIZE_MAX)) {
    }
    uv_close((uv_handle_t *)&channel->async, on_channel_closed);
}

static void on_async(uv_async_t *async)
{
    struct net_uv_channel *channel = async->data;
    if (uv_is_closing((uv_handle_t *)async))
        return;
    /* One ring's worth a turn: producers that never pause must not keep the loop from its sockets. */
    bool more = deliver(channel, channel->messages.ring.cap);
    if (channel->close_wanted)
        finish_close(channel);
    else if (more)
        (void)uv_async_send(async);
}

int net_uv_channel_open(struct net_uv_channel **out, uv_loop_t *loop, size_t message_bytes,
                        size_t messages_max, void (*on_message)(void *user, void *message), void *user)
{
    struct net_uv_channel *channel = calloc(1, sizeof *channel);
    if (channel == NULL)
        return ERR_NO_MEMORY;
    int result = messages_init(&channel->messages, message_bytes, messages_max);
    if (result != ERR_OK)
        goto free_channel;
    result = ERR_NO_MEMORY;
    channel->message = malloc(message_bytes);
    if (channel->message == NULL)
        goto free_slots;
    result = ERR_IO;
    if (uv_mutex_init(&channel->lock) != 0)
        goto free_message;
    if (uv_async_init(loop, &channel->async, on_async) != 0)
        goto destroy_lock;
    channel->async.data = channel;
    channel->on_message = on_message;
    channel->user = user;
    *out = channel;
    return ERR_OK;
destroy_lock:
    uv_mutex_destroy(&channel->lock);
free_message:
    free(channel->message);
free_slots:
    free(channel->messages.slots);
free_channel:
    free(channel);
    return result;
}

int net_uv_channel_push(struct net_uv_channel *channel, const void *message)
{
    int result = ERR_OK;
    uv_mutex_lock(&channel->lock);
    if (channel->closed)
        result = ERR_CLOSED;
    else if (!messages_push(&channel->messages, message))
        result = ERR_FULL;
    else
        (void)uv_async_send(&channel->async); /* under the lock: the handle cannot be closed meanwhile */
    uv_mutex_unlock(&channel->lock);
    return result;
}

void net_uv_channel_close(struct net_uv_channel *channel)
{
    if (channel == NULL || channel->close_wanted)
        return;
    channel->close_wanted = true;
    if (!channel->delivering)
        finish_close(channel);
}

struct net_uv_inbox {
    uv_mutex_t lock;
    uv_cond_t changed;
    struct messages messages;
    bool closed;
};

int net_uv_inbox_create(struct net_uv_inbox **out, size_t message_bytes, size_t messages_max)
{
    struct net_uv_inbox *inbox = calloc(1, sizeof *inbox);
    if (inbox == NULL)
        return ERR_NO_MEMORY;
    int result = messages_init(&inbox->messages, message_bytes, messages_max);
    if (result != ERR_OK)
        goto free_inbox;
    result = ERR_NO_MEMORY;
    if (uv_mutex_init(&inbox->lock) != 0)
        goto free_slots;
    if (uv_cond_init(&inbox->changed) != 0)
        goto destroy_lock;
    *out = inbox;
    return ERR_OK;
destroy_lock:
    uv_mutex_destroy(&inbox->lock);
free_slots:
    free(inbox->messages.slots);
free_inbox:
    free(inbox);
    return result;
}

int net_uv_inbox_push(struct net_uv_inbox *inbox, const void *message)
{
    int result = ERR_OK;
    uv_mutex_lock(&inbox->lock);
    if (inbox->closed)
        result = ERR_CLOSED;
    else if (!messages_push(&inbox->messages, message))
        result = ERR_FULL;
    else
        uv_cond_signal(&inbox->changed);
    uv_mutex_unlock(&inbox->lock);
    return result;
}

int net_uv_inbox_pop(struct net_uv_inbox *inbox, void *message, uint64_t timeout_ns)
{
    uint64_t deadline_ns = timeout_ns == UINT64_MAX ? UINT64_MAX : uv_hrtime() + timeout_ns;
    int result = ERR_OK;
    uv_mutex_lock(&inbox->lock);
    while (!messages_pop(&inbox->messages, message)) {
        uint64_t now_ns = uv_hrtime();
        if (inbox->closed)
            result = ERR_CLOSED;
        else if (now_ns >= deadline_ns)
            result = ERR_TIMEOUT;
        if (result != ERR_OK)
            break;
        if (deadline_ns == UINT64_MAX)
            uv_cond_wait(&inbox->changed, &inbox->lock);
        else
            (void)uv_cond_timedwait(&inbox->changed, &inbox->lock, deadline_ns - now_ns);
    }
    uv_mutex_unlock(&inbox->lock);
    return result;
}

void net_uv_inbox_close(struct net_uv_inbox *inbox)
{
    uv_mutex_lock(&inbox->lock);
    inbox->closed = true;
    uv_cond_broadcast(&inbox->changed);
    uv_mutex_unlock(&inbox->lock);
}

void net_uv_inbox_destroy(struct net_uv_inbox *inbox)
{
    if (inbox == NULL)
        return;
    uv_cond_destroy(&inbox->changed);
    uv_mutex_destroy(&inbox->lock);
    free(inbox->messages.slots);
    free(inbox);
}
