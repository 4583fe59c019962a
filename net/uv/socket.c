#include "net/uv/socket.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/uv/port.h"
#include "net/uv/queue.h"

enum {
    ROUNDS_PER_WAKE = 16,        /* receive calls before other handles get their turn */
    SEGMENTED_BYTES_MAX = 65000, /* of one UDP_SEGMENT call: an IP packet's limit, less headers */
    SEGMENTS_MAX = 60,
    PORT_TRIES = 16,
};

struct face {
    struct net_uv_socket *socket;
    uv_poll_t poll;
    int fd; /* -1: this family is not open */
};

struct net_uv_socket {
    struct net_uv_socket_config cfg;
    struct face faces[2]; /* v4, v6 */
    uint16_t port;
    bool segment_offload;
    bool closing;
    int handles; /* not yet given back by libuv */
    struct net_uv_queue queue;
    struct net_uv_batch batches[NET_UV_QUEUE_MAX];
    uint8_t queue_bytes[NET_UV_QUEUE_BYTES];
    struct net_uv_socket_stats stats;
    struct port_inbox inbox;
};

struct net_uv_socket_config net_uv_socket_config_default(void)
{
    return (struct net_uv_socket_config){.v4 = true, .v6 = true};
}

static struct face *face_of(struct net_uv_socket *socket, enum net_family family)
{
    return family == NET_FAMILY_V4 ? &socket->faces[0] : &socket->faces[1];
}

static void on_poll(uv_poll_t *poll, int status, int events);

static void watch(struct net_uv_socket *socket)
{
    int events = UV_READABLE | (socket->queue.ring.count > 0 ? UV_WRITABLE : 0);
    for (int i = 0; i < 2; i++)
        if (socket->faces[i].fd >= 0)
            (void)uv_poll_start(&socket->faces[i].poll, events, on_poll);
}

/* Hands one received buffer over, cut into its datagrams. */
static void deliver(struct net_uv_socket *socket, uint64_t now_ns, const struct port_message *message)
{
    struct bytes datagrams[NET_UV_BATCH_MAX];
    size_t at = 0;
    while (at < message->len && !socket->closing) {
        size_t count = 0;
        for (; at < message->len && count < NET_UV_BATCH_MAX; count++) {
            size_t left = message->len - at;
            size_t len = left < message->segment_size ? left : message->segment_size;
            datagrams[count] = bytes_of(message->data + at, len);
            at += len;
        }
        socket->stats.datagrams_received += count;
        socket->cfg.callbacks.on_batch(socket->cfg.callbacks.user, now_ns, &message->from, datagrams, count);
    }
    socket->stats.bytes_received += message->len;
}

static void receive(struct net_uv_socket *socket, int fd, uint64_t now_ns)
{
    for (int round = 0; round < ROUNDS_PER_WAKE && !socket->closing; round++) {
        int count = port_receive(fd, &socket->inbox);
        socket->stats.receive_calls++;
        for (int i = 0; i < count && !socket->closing; i++) {
            struct port_message message;
            if (port_message(&socket->inbox, i, &message))
                deliver(socket, now_ns, &message);
        }
        if (count < PORT_MESSAGES)
            return;
    }
}

/* Sends from data as much as one call takes.  Returns the bytes gone, or an error of net_uv_socket_send. */
static int send_some(struct net_uv_socket *socket, int fd, const struct net_uv_batch *batch)
{
    size_t part = batch->segment_size < batch->len ? batch->segment_size : batch->len;
    if (socket->segment_offload && part < batch->len) {
        size_t whole = SEGMENTED_BYTES_MAX / part < SEGMENTS_MAX ? SEGMENTED_BYTES_MAX / part : SEGMENTS_MAX;
        size_t most = whole > 1 ? whole * part : part;
        size_t len = batch->len < most ? batch->len : most;
        int result = port_send(fd, &batch->to, batch->data, len, part);
        socket->stats.send_calls++;
        if (result == ERR_OK)
            return (int)len;
        if (result != ERR_UNSUPPORTED)
            return result;
        socket->segment_offload = false;
    }
    int result = port_send(fd, &batch->to, batch->data, part, part);
    socket->stats.send_calls++;
    return result == ERR_OK ? (int)part : result;
}

static void count_sent(struct net_uv_socket *socket, const struct net_uv_batch *batch, size_t len)
{
    socket->stats.bytes_sent += len;
    socket->stats.datagrams_sent += (len + batch->segment_size - 1) / batch->segment_size;
}

/* Sends what waits, until the socket is full again. */
static void flush(struct net_uv_socket *socket)
{
    const struct net_uv_batch *batch;
    while ((batch = net_uv_queue_front(&socket->queue)) != NULL) {
        struct face *face = face_of(socket, batch->to.family);
        int result = send_some(socket, face->fd, batch);
        if (result == ERR_AGAIN)
            return;
        if (result < 0) {
            socket->stats.dropped += (batch->len + batch->segment_size - 1) / batch->segment_size;
            net_uv_queue_sent(&socket->queue, batch->len);
            continue;
        }
        count_sent(socket, batch, (size_t)result);
        net_uv_queue_sent(&socket->queue, (size_t)result);
    }
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct face *face = poll->data;
    struct net_uv_socket *socket = face->socket;
    uint64_t now_ns = uv_hrtime();
    if (socket->closing)
        return;
    if (status < 0) {
        /* libuv stops watching a descriptor with a pending error; for datagrams that is no reason to go deaf.
         */
        port_clear_error(face->fd);
        watch(socket);
        return;
    }
    if (events & UV_READABLE)
        receive(socket, face->fd, now_ns);
    if (socket->closing)
        return;
    if (socket->queue.ring.count > 0) {
        flush(socket);
        if (socket->queue.ring.count == 0)
            watch(socket);
    }
    if (socket->cfg.callbacks.on_drain != NULL)
        socket->cfg.callbacks.on_drain(socket->cfg.callbacks.user, now_ns);
}

int net_uv_socket_send(struct net_uv_socket *socket, const struct net_addr *to, const uint8_t *data,
                       size_t len, size_t segment_size)
{
    ASSERT(len > 0);
    struct face *face = face_of(socket, to->family);
    if (socket->closing || to->family == NET_FAMILY_NONE || face->fd < 0)
        return ERR_UNREACHABLE;
    struct net_uv_batch batch = {.to = *to, .data = data, .len = len, .segment_size = segment_size};
    if (segment_size == 0 || segment_size > len)
        batch.segment_size = len;
    int result = ERR_AGAIN; /* behind what waits already */
    while (socket->queue.ring.count == 0 && batch.len > 0) {
        result = send_some(socket, face->fd, &batch);
        if (result < 0)
            break;
        count_sent(socket, &batch, (size_t)result);
        batch.data += result;
        batch.len -= (size_t)result;
    }
    if (batch.len == 0)
        return ERR_OK;
    if (result == ERR_AGAIN && net_uv_queue_push(&socket->queue, &batch) == ERR_OK) {
        watch(socket);
        return ERR_OK;
    }
    socket->stats.dropped += (batch.len + batch.segment_size - 1) / batch.segment_size;
    return result == ERR_PERMISSION ? ERR_UNREACHABLE : result;
}

static void on_closed(uv_handle_t *handle)
{
    struct face *face = handle->data;
    struct net_uv_socket *socket = face->socket;
    ASSERT(socket->handles > 0);
    if (--socket->handles == 0)
        free(socket);
}

void net_uv_socket_close(struct net_uv_socket *socket)
{
    if (socket == NULL || socket->closing)
        return;
    socket->closing = true;
    for (int i = 0; i < 2; i++) {
        struct face *face = &socket->faces[i];
        if (face->fd < 0)
            continue;
        (void)uv_poll_stop(&face->poll);
        uv_close((uv_handle_t *)&face->poll, on_closed);
        (void)close(face->fd);
        face->fd = -1;
    }
}

/* Opens the wanted families on one port.  On failure both descriptors are closed. */
static int open_faces(struct net_uv_socket *socket, uint16_t port)
{
    const struct net_uv_socket_config *cfg = &socket->cfg;
    bool offload = !cfg->no_offload;
    bool grown = false;
    socket->faces[0].fd = -1;
    socket->faces[1].fd = -1;
    if (cfg->v4) {
        int fd = port_open(NET_FAMILY_V4, port, cfg->loopback, offload, &grown);
        if (fd < 0)
            return fd;
        socket->faces[0].fd = fd;
        socket->stats.receive_offload = grown;
        if (port_number(fd, &port) != ERR_OK) {
            (void)close(fd);
            return ERR_IO;
        }
    }
    if (cfg->v6) {
        int fd = port_open(NET_FAMILY_V6, port, cfg->loopback, offload, &grown);
        if (fd < 0 && fd == ERR_UNSUPPORTED && cfg->v4) {
            socket->port = port;
            return ERR_OK;
        }
        if (fd < 0) {
            if (socket->faces[0].fd >= 0)
                (void)close(socket->faces[0].fd);
            return fd;
        }
        socket->faces[1].fd = fd;
        socket->stats.receive_offload = grown;
        if (!cfg->v4 && port_number(fd, &port) != ERR_OK) {
            (void)close(fd);
            return ERR_IO;
        }
    }
    socket->port = port;
    return ERR_OK;
}

static const char *explain(int result)
{
    switch (result) {
    case ERR_IN_USE:
        return "another program uses this UDP port: choose another one (--listen PORT, 0 for any)";
    case ERR_PERMISSION:
        return "ports below 1024 need special rights: choose a higher one";
    case ERR_UNSUPPORTED:
        return "this machine has no such address family";
    case ERR_NO_MEMORY:
        return "not enough memory for the socket's buffers";
    default:
        return "the system refused a UDP socket";
    }
}

/* Registers the descriptors with the loop; those that fail are closed. */
static int register_faces(struct net_uv_socket *socket, uv_loop_t *loop)
{
    int failed = 0;
    for (int i = 0; i < 2; i++) {
        struct face *face = &socket->faces[i];
        face->socket = socket;
        if (face->fd < 0)
            continue;
        if (uv_poll_init(loop, &face->poll, face->fd) != 0) {
            (void)close(face->fd);
            face->fd = -1;
            failed++;
            continue;
        }
        face->poll.data = face;
        socket->handles++;
    }
    return failed == 0 ? ERR_OK : ERR_IO;
}

int net_uv_socket_open(struct net_uv_socket **out, uv_loop_t *loop, const struct net_uv_socket_config *cfg,
                       const char **why)
{
    const char *ignored;
    if (why == NULL)
        why = &ignored;
    *why = "";
    if ((!cfg->v4 && !cfg->v6) || cfg->callbacks.on_batch == NULL) {
        *why = "neither address family is chosen, or there is no receiver";
        return ERR_INVALID;
    }
    struct net_uv_socket *socket = calloc(1, sizeof *socket);
    if (socket == NULL) {
        *why = explain(ERR_NO_MEMORY);
        return ERR_NO_MEMORY;
    }
    socket->cfg = *cfg;
    socket->segment_offload = !cfg->no_offload;
    net_uv_queue_init(&socket->queue, socket->queue_bytes, sizeof socket->queue_bytes, socket->batches,
                      NET_UV_QUEUE_MAX);
    /* A free port of one family may be taken in the other: with port 0 another try gets another one. */
    int result = ERR_IN_USE;
    for (int i = 0; i < (cfg->port == 0 ? PORT_TRIES : 1) && result == ERR_IN_USE; i++)
        result = open_faces(socket, cfg->port);
    if (result != ERR_OK) {
        *why = explain(result);
        free(socket);
        return result;
    }
    result = register_faces(socket, loop);
    if (result != ERR_OK) {
        *why = explain(result);
        if (socket->handles == 0)
            free(socket);
        else
            net_uv_socket_close(socket);
        return result;
    }
    watch(socket);
    *out = socket;
    return ERR_OK;
}

bool net_uv_socket_ready(const struct net_uv_socket *socket)
{
    return socket->queue.ring.count == 0;
}

uint16_t net_uv_socket_port(const struct net_uv_socket *socket)
{
    return socket->port;
}

bool net_uv_socket_has(const struct net_uv_socket *socket, enum net_family family)
{
    return (family == NET_FAMILY_V4 && socket->faces[0].fd >= 0) ||
           (family == NET_FAMILY_V6 && socket->faces[1].fd >= 0);
}

void net_uv_socket_no_segments(struct net_uv_socket *socket)
{
    socket->segment_offload = false;
}

struct net_uv_socket_stats net_uv_socket_stats(const struct net_uv_socket *socket)
{
    struct net_uv_socket_stats stats = socket->stats;
    stats.segment_offload = socket->segment_offload;
    return stats;
}
