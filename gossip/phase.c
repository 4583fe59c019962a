/* What members learn of each other's rounds from the frames of exchanges: the boundary moves towards the
 * others', newer rounds pull the older ones along. */
#include "gossip/internal.h"

uint64_t gossip_age_ns(const struct gossip *g, uint64_t now_ns)
{
    return g->begun && now_ns > g->began_ns ? now_ns - g->began_ns : 0;
}

uint64_t gossip_current_round(const struct gossip *g, uint64_t now_ns, uint64_t *age)
{
    *age = gossip_age_ns(g, now_ns);
    return g->round;
}

void gossip_tell_phase(struct gossip *g, uint64_t now_ns, uint64_t round, uint64_t their_age_ns)
{
    int64_t length = (int64_t)g->config.round_ns;
    int64_t ahead = (int64_t)(round - g->round); /* wraps to negative when they are behind */
    if (g->phase_told || !g->begun || ahead > 1 || ahead < -1)
        return;
    if (their_age_ns > 2 * g->config.round_ns || gossip_age_ns(g, now_ns) > 2 * g->config.round_ns)
        return;
    int64_t apart = ahead * length + (int64_t)their_age_ns - (int64_t)gossip_age_ns(g, now_ns);
    int64_t shift = apart / 2;
    shift = shift > length / 4 ? length / 4 : shift < -length / 4 ? -length / 4 : shift;
    g->phase_told = true;
    if (shift != 0)
        gossip_emit(g,
                    &(struct gossip_event){.kind = GOSSIP_EVENT_PHASE, .round = g->round, .shift_ns = shift});
}

/* One member alone cannot drag the others' round numbers along: by the view another one must be near the
 * claimed round, as far as there is another one to ask.  The view is as old as our round: who had finished p
 * then works on p + 1, or with two lanes on p + 2, may be one round further for being ahead in phase, and has
 * gone on since. */
bool gossip_round_credible(const struct gossip *g, uint64_t now_ns, const struct id *peer, uint64_t round)
{
    size_t others = 0;
    uint64_t ahead = gossip_age_ns(g, now_ns) / g->config.round_ns;
    ahead += g->config.layout.fragment_count > 1 ? 3 : 2;
    if (gossip_view_find(&g->view, peer) == NULL)
        return false;
    if (round <= g->round + 1)
        return true;
    for (size_t i = 0; i < g->view.count; i++) {
        const struct gossip_view_entry *entry = &g->view.entries[i];
        if (id_equal(&entry->id, peer) || id_equal(&entry->id, &g->config.self))
            continue;
        others++;
        if (entry->progress_round + ahead >= round)
            return true;
    }
    return others == 0;
}

void gossip_tell_newer(struct gossip *g, uint64_t now_ns, const struct id *peer, uint64_t round)
{
    struct gossip_event event = {.kind = GOSSIP_EVENT_ADVANCE, .round = round, .peer = *peer};
    if (round <= g->round || !gossip_round_credible(g, now_ns, peer, round))
        return;
    if (round - g->round > GOSSIP_ROUND_LAG_MAX) {
        if (g->behind_told)
            return;
        g->behind_told = true;
        event.kind = GOSSIP_EVENT_BEHIND;
    } else {
        if (round <= g->advance_told)
            return;
        g->advance_told = round;
    }
    gossip_emit(g, &event);
}
