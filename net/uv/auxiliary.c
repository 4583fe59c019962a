#include "net/uv/auxiliary.h"

#include <stdlib.h>
#include <unistd.h>

#include "net/uv/port.h"

enum { ROUNDS_PER_WAKE = 4, SEGMENTED_BYTES_MAX = 65000, SEGMENTS_MAX = 60 };

struct socket_slot {
    struct net_uv_aux *aux;
    uv_poll_t poll;
    int fd;       /* -1: free, or still closing */
    bool closing; /* libuv has the handle */
    uint16_t via;
    uint16_t port;
    enum net_family family;
};

struct net_uv_aux {
    uv_loop_t *loop;
    struct net_uv_callbacks callbacks;
    bool loopback;
    bool closing;
    bool no_segments;
    bool delivering; /* inside a callback: the memory must stay */
    int handles;
    size_t count;
    uint16_t last_via;
    struct socket_slot slots[NET_UV_AUX_MAX];
    struct port_inbox inbox;
};

int net_uv_aux_create(struct net_uv_aux **out, uv_loop_t *loop, bool loopback,
                      const struct net_uv_callbacks *callbacks)
{
    struct net_uv_aux *aux = calloc(1, sizeof *aux);
    if (aux == NULL)
        return ERR_NO_MEMORY;
    aux->loop = loop;
    aux->loopback = loopback;
    aux->callbacks = *callbacks;
    for (size_t i = 0; i < NET_UV_AUX_MAX; i++) {
        aux->slots[i].aux = aux;
        aux->slots[i].fd = -1;
    }
    *out = aux;
    return ERR_OK;
}

static void maybe_free(struct net_uv_aux *aux)
{
    if (aux->closing && aux->handles == 0 && !aux->delivering)
        free(aux);
}

static void on_closed(uv_handle_t *handle)
{
    struct socket_slot *slot = handle->data;
    slot->closing = false;
    slot->aux->handles--;
    maybe_free(slot->aux);
}

static void close_slot(struct socket_slot *slot)
{
    (void)uv_poll_stop(&slot->poll);
    (void)close(slot->fd);
    slot->fd = -1;
    slot->via = 0;
    slot->closing = true;
    slot->aux->count--;
    uv_close((uv_handle_t *)&slot->poll, on_closed);
}

void net_uv_aux_close_all(struct net_uv_aux *aux)
{
    if (aux == NULL || aux->closing)
        return;
    for (size_t i = 0; i < NET_UV_AUX_MAX; i++) {
        if (aux->slots[i].fd >= 0)
            close_slot(&aux->slots[i]);
    }
    aux->closing = true;
    maybe_free(aux);
}

static struct socket_slot *slot_of(struct net_uv_aux *aux, uint16_t via)
{
    for (size_t i = 0; i < NET_UV_AUX_MAX && net_via_is_aux(via); i++) {
        if (aux->slots[i].fd >= 0 && aux->slots[i].via == via)
            return &aux->slots[i];
    }
    return NULL;
}

static void receive(struct socket_slot *slot, uint64_t now_ns)
{
    struct net_uv_aux *aux = slot->aux;
    uint16_t via = slot->via;
    for (int round = 0; round < ROUNDS_PER_WAKE; round++) {
        int count = port_receive(slot->fd, &aux->inbox);
        for (int i = 0; i < count; i++) {
            struct port_message message;
            struct bytes datagrams[NET_UV_BATCH_MAX];
            size_t at = 0;
            if (!port_message(&aux->inbox, i, &message))
                continue;
            message.from.via = via;
            while (at < message.len && slot->via == via) {
                size_t cut = 0;
                for (; at < message.len && cut < NET_UV_BATCH_MAX; cut++) {
                    size_t left = message.len - at;
                    size_t len = left < message.segment_size ? left : message.segment_size;
                    datagrams[cut] = bytes_of(message.data + at, len);
                    at += len;
                }
                aux->callbacks.on_batch(aux->callbacks.user, now_ns, &message.from, datagrams, cut);
            }
        }
        if (count < PORT_MESSAGES || slot->via != via)
            return;
    }
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct socket_slot *slot = poll->data;
    struct net_uv_aux *aux = slot->aux;
    uint64_t now_ns = uv_hrtime();
    if (slot->fd < 0)
        return;
    if (status < 0) {
        port_clear_error(slot->fd);
        (void)uv_poll_start(&slot->poll, UV_READABLE, on_poll);
        return;
    }
    aux->delivering = true;
    if (events & UV_READABLE)
        receive(slot, now_ns);
    if (!aux->closing && aux->callbacks.on_drain != NULL)
        aux->callbacks.on_drain(aux->callbacks.user, now_ns);
    aux->delivering = false;
    maybe_free(aux);
}

/* The next number that no open socket has. */
static uint16_t next_via(struct net_uv_aux *aux)
{
    do {
        aux->last_via = aux->last_via >= NET_VIA_AUX_LAST ? NET_VIA_AUX_FIRST : (uint16_t)(aux->last_via + 1);
    } while (slot_of(aux, aux->last_via) != NULL);
    return aux->last_via;
}

int net_uv_aux_open(struct net_uv_aux *aux, enum net_family family, uint16_t *via)
{
    struct socket_slot *slot = NULL;
    bool grown;
    for (size_t i = 0; i < NET_UV_AUX_MAX && slot == NULL; i++) {
        if (aux->slots[i].fd < 0 && !aux->slots[i].closing)
            slot = &aux->slots[i];
    }
    if (slot == NULL || aux->closing)
        return ERR_FULL;
    int fd = port_open(family, 0, aux->loopback, true, &grown);
    if (fd < 0)
        return fd == ERR_NO_MEMORY ? ERR_FULL : fd;
    if (port_number(fd, &slot->port) != ERR_OK || uv_poll_init(aux->loop, &slot->poll, fd) != 0) {
        (void)close(fd);
        return ERR_IO;
    }
    slot->poll.data = slot;
    slot->fd = fd;
    slot->family = family;
    slot->via = next_via(aux);
    aux->handles++;
    aux->count++;
    (void)uv_poll_start(&slot->poll, UV_READABLE, on_poll);
    *via = slot->via;
    return ERR_OK;
}

void net_uv_aux_release(struct net_uv_aux *aux, uint16_t via)
{
    struct socket_slot *slot = slot_of(aux, via);
    if (slot != NULL)
        close_slot(slot);
}

int net_uv_aux_send(struct net_uv_aux *aux, const struct net_addr *to, const uint8_t *data, size_t len,
                    size_t segment_size)
{
    struct socket_slot *slot = slot_of(aux, to->via);
    ASSERT(len > 0);
    if (slot == NULL || slot->family != (enum net_family)to->family)
        return ERR_UNREACHABLE;
    size_t segment = segment_size == 0 || segment_size > len ? len : segment_size;
    while (len > 0) {
        size_t most =
            SEGMENTED_BYTES_MAX / segment < SEGMENTS_MAX ? SEGMENTED_BYTES_MAX / segment : SEGMENTS_MAX;
        size_t part = aux->no_segments || most < 2 ? segment : most * segment;
        if (part > len)
            part = len;
        int result = port_send(slot->fd, to, data, part, segment < part ? segment : part);
        if (result == ERR_UNSUPPORTED && part > segment) {
            aux->no_segments = true;
            continue;
        }
        if (result < 0)
            return result == ERR_PERMISSION ? ERR_UNREACHABLE : result;
        data += part;
        len -= part;
    }
    return ERR_OK;
}

uint16_t net_uv_aux_port(const struct net_uv_aux *aux, uint16_t via)
{
    for (size_t i = 0; i < NET_UV_AUX_MAX; i++) {
        if (aux->slots[i].fd >= 0 && aux->slots[i].via == via)
            return aux->slots[i].port;
    }
    return 0;
}

size_t net_uv_aux_count(const struct net_uv_aux *aux)
{
    return aux->count;
}
