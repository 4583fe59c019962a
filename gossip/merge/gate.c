/* Acceptance of a partner's weights. */
#include "gossip/merge/gate.h"

#include <math.h>

void gossip_history_push(struct gossip_history *history, double distance)
{
    ASSERT(isfinite(distance) && distance >= 0);
    ASSERT(history->next < GOSSIP_HISTORY);
    history->distance[history->next] = distance;
    history->next = (history->next + 1) % GOSSIP_HISTORY;
    if (history->count < GOSSIP_HISTORY)
        history->count++;
}

void gossip_history_round(struct gossip_history *history, bool merged)
{
    if (merged)
        history->missed = 0;
    else if (history->missed < GOSSIP_MISSED_MAX)
        history->missed++;
}

double gossip_history_median(const struct gossip_history *history)
{
    double sorted[GOSSIP_HISTORY];
    size_t count = history->count;
    ASSERT(count <= GOSSIP_HISTORY);
    if (count < GOSSIP_HISTORY_MIN)
        return INFINITY;
    for (size_t i = 0; i < count; i++) {
        size_t at = i;
        for (; at > 0 && sorted[at - 1] > history->distance[i]; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = history->distance[i];
    }
    return count % 2 == 1 ? sorted[count / 2] : 0.5 * (sorted[count / 2 - 1] + sorted[count / 2]);
}

double gossip_history_radius(const struct gossip_history *history)
{
    return GOSSIP_CLIP_FACTOR * gossip_history_median(history);
}

int gossip_gate(const struct gossip_gate_input *in, float *scale)
{
    uint64_t apart = in->own_round > in->partner_round ? in->own_round - in->partner_round
                                                       : in->partner_round - in->own_round;
    if (apart > GOSSIP_GATE_ROUNDS)
        return ERR_STALE;
    if (!isfinite(in->own_norm) || !isfinite(in->distance))
        return ERR_NOT_FINITE;
    if (in->distance > GOSSIP_DISTANCE_MAX * in->own_norm)
        return ERR_FAR;
    double way = fmax(in->way, GOSSIP_START_SHARE * in->own_norm);
    double ways = in->known < GOSSIP_HISTORY_MIN ? GOSSIP_START_FACTOR : GOSSIP_YOUNG_FACTOR;
    if (in->known < GOSSIP_HISTORY && in->distance > ways * way)
        return ERR_FAR;
    /* A radius of zero follows a past of identical models (the shared start): it says nothing about
     * distances. */
    double wider = in->missed > 1 ? (double)in->missed : 1;
    double refused = GOSSIP_REFUSE_FACTOR * wider / GOSSIP_CLIP_FACTOR * in->radius;
    if (in->radius > 0 && in->distance > refused)
        return ERR_FAR;
    bool cut = in->radius > 0 && in->distance > in->radius;
    *scale = cut ? (float)(in->radius / in->distance) : 1.0f;
    if (in->behind < -in->behind_limit)
        *scale = fminf(*scale, (float)(GOSSIP_BEHIND_SHARE / -in->behind));
    if (fabs(in->radial) > GOSSIP_RADIAL_MAX * in->distance + GOSSIP_RADIAL_GROWTH * in->growth)
        *scale *= (float)GOSSIP_RADIAL_SCALE;
    return ERR_OK;
}

double gossip_loss_change(double before, double after)
{
    return (after - before) / fmax(fabs(before), 1);
}

double gossip_loss_margin(const struct gossip_history *changes)
{
    double median = gossip_history_median(changes);
    return isfinite(median) ? fmax(GOSSIP_LOSS_FACTOR * median, GOSSIP_LOSS_FLOOR) : GOSSIP_LOSS_MARGIN;
}

int gossip_loss_gate(struct gossip_history *changes, double before, double after)
{
    double change = gossip_loss_change(before, after), margin = gossip_loss_margin(changes);
    if (!isfinite(before))
        return ERR_NOT_FINITE;
    if (!isfinite(change))
        return ERR_WORSE;
    gossip_history_push(changes, fabs(change));
    return change <= margin ? ERR_OK : ERR_WORSE;
}
