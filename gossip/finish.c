/* When replicas agree at the end of a run. */
#include "gossip/finish.h"

#include <math.h>
#include <string.h>

void gossip_finish_begin(struct gossip_finish *f, size_t fragments, bool contributes)
{
    ASSERT(fragments >= 1 && fragments <= GOSSIP_FRAGMENTS_MAX);
    memset(f, 0, sizeof *f);
    f->fragment_count = fragments;
    f->contributes = contributes;
}

static void count_turn(struct gossip_finish *f, size_t fragment)
{
    ASSERT(fragment < f->fragment_count);
    f->turns++;
    f->taken |= 1u << fragment;
}

void gossip_finish_merged(struct gossip_finish *f, size_t fragment, uint64_t cycle, float relative)
{
    count_turn(f, fragment);
    ASSERT(isfinite(relative) && relative >= 0);
    struct gossip_finish_fragment *one = &f->fragments[fragment];
    if (one->merges == 0)
        one->first = relative;
    memmove(one->last + 1, one->last, sizeof one->last - sizeof one->last[0]);
    one->last[0] = relative;
    bool follows = one->merges > 0 && cycle == one->cycle + 1;
    one->cycle = cycle;
    if (one->merges < UINT32_MAX)
        one->merges++;
    if (!(relative < GOSSIP_FINISH_TOLERANCE)) {
        one->near = one->streak = one->streak_best = 0;
        return;
    }
    one->near++;
    one->streak = follows ? one->streak + 1 : 1;
    one->streak_best = one->streak > one->streak_best ? one->streak : one->streak_best;
}

void gossip_finish_alone(struct gossip_finish *f, size_t fragment)
{
    count_turn(f, fragment);
}

void gossip_finish_fetch_failed(struct gossip_finish *f)
{
    f->fetch_failed = true;
}

static unsigned log2_up(size_t count)
{
    unsigned bits = 0;
    while (bits < GOSSIP_FINISH_WINDOW_MAX && ((size_t)1 << bits) < count)
        bits++;
    return bits;
}

unsigned gossip_finish_window(size_t members)
{
    unsigned bits = log2_up(members);
    return bits == 0 ? 1 : bits;
}

unsigned gossip_finish_cycles_max(size_t members)
{
    return 12 * log2_up(members) + 16;
}

uint64_t gossip_finish_cycles(const struct gossip_finish *f)
{
    return f->turns / f->fragment_count;
}

/* Largest of the window; NaN while there is no merge. */
static float fragment_spread(const struct gossip_finish_fragment *one, unsigned window)
{
    float most = one->merges == 0 ? NAN : 0;
    for (unsigned i = 0; i < window && i < one->merges; i++)
        most = one->last[i] > most ? one->last[i] : most;
    return most;
}

bool gossip_finish_settled(const struct gossip_finish *f, size_t members)
{
    unsigned window = gossip_finish_window(members);
    if (!f->contributes)
        return true;
    for (size_t i = 0; i < f->fragment_count; i++) {
        const struct gossip_finish_fragment *one = &f->fragments[i];
        if (one->streak_best < window && one->near < GOSSIP_FINISH_NEAR * window)
            return false;
    }
    return true;
}

float gossip_finish_spread(const struct gossip_finish *f, size_t members)
{
    float most = 0;
    for (size_t i = 0; i < f->fragment_count; i++) {
        float one = fragment_spread(&f->fragments[i], gossip_finish_window(members));
        if (!(one <= most))
            most = one;
        if (isnan(most))
            return most;
    }
    return most;
}

float gossip_finish_spread_first(const struct gossip_finish *f)
{
    float most = 0;
    for (size_t i = 0; i < f->fragment_count; i++) {
        if (f->fragments[i].merges == 0)
            return NAN;
        most = f->fragments[i].first > most ? f->fragments[i].first : most;
    }
    return most;
}

bool gossip_finish_believed(size_t done, size_t count)
{
    return 2 * done > count;
}

enum gossip_finish_verdict gossip_finish_decide(const struct gossip_finish *f,
                                                const struct gossip_finish_others *others)
{
    size_t members = others->count + (f->contributes ? 1 : 0);
    bool own = f->contributes && gossip_finish_settled(f, members);
    bool all_taken = f->taken == (1u << f->fragment_count) - 1;
    ASSERT(others->settled <= others->count && others->done <= others->settled);
    if (!own && !f->fetch_failed && gossip_finish_believed(others->done, others->count))
        return GOSSIP_FINISH_FETCH;
    if (others->count == 0)
        return all_taken ? GOSSIP_FINISH_SETTLED : GOSSIP_FINISH_HURRY;
    if (own && others->settled == others->count)
        return GOSSIP_FINISH_SETTLED;
    return gossip_finish_cycles(f) >= gossip_finish_cycles_max(members) ? GOSSIP_FINISH_BOUND
                                                                        : GOSSIP_FINISH_GO_ON;
}
