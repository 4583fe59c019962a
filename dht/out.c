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
    if (d->event_count + d->promised >= d->config.events_max)
        return false;
    d->promised++;
    if (++d->next_handle == 0)
        d->next_handle = 1;
    *handle = d->next_handle;
    return true;
}

static void push(struct dht *d, const struct dht_event *event)
{
    ASSERT(d->event_count < d->config.events_max);
    d->events[(d->event_head + d->event_count) % d->config.events_max] = *event;
    d->event_count++;
}

void dht_push_final(struct dht *d, const struct dht_event *event)
{
    ASSERT(d->promised > 0 && event->handle != 0);
    d->promised--;
    push(d, event);
}

void dht_push_interim(struct dht *d, const struct dht_event *event)
{
    if (d->event_count + d->promised >= d->config.events_max)
        d->counts.events_dropped++;
    else
        push(d, event);
}

bool dht_poll_event(struct dht *d, struct dht_event *out)
{
    if (d->event_count == 0)
        return false;
    *out = d->events[d->event_head];
    d->event_head = (d->event_head + 1) % d->config.events_max;
    d->event_count--;
    return true;
}

struct net_message *dht_send_slot(struct dht *d)
{
    if (d->send_count == d->config.sends_max)
        return NULL;
    return &d->sends[(d->send_head + d->send_count) % d->config.sends_max];
}

void dht_send_commit(struct dht *d, const struct dht_contact *to, uint8_t kind, size_t len)
{
    struct net_message *slot = dht_send_slot(d);
    ASSERT(slot != NULL && len > 0 && len <= NET_BODY_MAX);
    slot->peer = to->id;
    slot->addr = to->addr;
    slot->kind = kind;
    slot->body_len = len;
    d->send_count++;
    d->counts.sent++;
}

bool dht_poll_send(struct dht *d, struct net_message *out)
{
    if (d->send_count == 0)
        return false;
    const struct net_message *slot = &d->sends[d->send_head];
    out->peer = slot->peer;
    out->addr = slot->addr;
    out->kind = slot->kind;
    out->body_len = slot->body_len;
    memcpy(out->body, slot->body, slot->body_len);
    d->send_head = (d->send_head + 1) % d->config.sends_max;
    d->send_count--;
    return true;
}
