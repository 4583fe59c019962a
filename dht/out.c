/* The two queues out of a node: events and datagrams.
 *
 * Finals are promised a place when their command is accepted; interim events take what is left and are
 * otherwise dropped and counted, so that a command's end is never lost. */
#include <string.h>

#include "dht/internal.h"

uint64_t dht_jitter(struct dht *d, uint64_t base_ns)
{
    return base_ns / 4 * 3 + rng_below(&d->config.rng, base_ns / 2 + 1);
}

bool dht_promise(struct dht *d, uint32_t *handle)
{
    if (d->event_ring.count + d->promised >= d->event_ring.cap)
        return false;
    d->promised++;
    if (++d->next_handle == 0)
        d->next_handle = 1;
    *handle = d->next_handle;
    return true;
}

static void push(struct dht *d, const struct dht_event *event)
{
    size_t at = ring_push(&d->event_ring);
    ASSERT(at != RING_NONE);
    d->events[at] = *event;
}

void dht_push_final(struct dht *d, const struct dht_event *event)
{
    ASSERT(d->promised > 0 && event->handle != 0);
    d->promised--;
    push(d, event);
}

void dht_push_interim(struct dht *d, const struct dht_event *event)
{
    if (d->event_ring.count + d->promised >= d->event_ring.cap)
        d->counts.events_dropped++;
    else
        push(d, event);
}

bool dht_poll_event(struct dht *d, struct dht_event *out)
{
    size_t at = ring_pop(&d->event_ring);
    if (at == RING_NONE)
        return false;
    *out = d->events[at];
    return true;
}

struct net_message *dht_send_slot(struct dht *d)
{
    size_t at = ring_next(&d->send_ring);
    return at == RING_NONE ? NULL : &d->sends[at];
}

void dht_send_commit(struct dht *d, const struct dht_contact *to, uint8_t kind, size_t len)
{
    size_t at = ring_push(&d->send_ring);
    ASSERT(at != RING_NONE && len > 0 && len <= NET_BODY_MAX);
    struct net_message *slot = &d->sends[at];
    slot->peer = to->id;
    slot->addr = to->addr;
    slot->kind = kind;
    slot->body_len = len;
    d->counts.sent++;
}

bool dht_poll_send(struct dht *d, struct net_message *out)
{
    size_t at = ring_pop(&d->send_ring);
    if (at == RING_NONE)
        return false;
    const struct net_message *slot = &d->sends[at];
    out->peer = slot->peer;
    out->addr = slot->addr;
    out->kind = slot->kind;
    out->body_len = slot->body_len;
    memcpy(out->body, slot->body, slot->body_len);
    return true;
}
