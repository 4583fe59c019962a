/* Marks of the slow weights, and products with the way since. */
#include "gossip/merge/trail.h"

#include <math.h>
#include <string.h>

static size_t sample_of(size_t left)
{
    return left < GOSSIP_TRAIL_SAMPLE ? left : GOSSIP_TRAIL_SAMPLE;
}

static size_t mark_values(const struct gossip_tensor tensors[], size_t tensor_count)
{
    size_t values = 0;
    for (size_t i = 0; i < tensor_count; i++)
        for (size_t at = 0; at < tensors[i].count; at += GOSSIP_BLOCK)
            values += sample_of(tensors[i].count - at);
    return values;
}

size_t gossip_trail_floats(const struct gossip_tensor tensors[], size_t tensor_count)
{
    return 2 * GOSSIP_TRAIL_LEVELS * mark_values(tensors, tensor_count);
}

void gossip_trail_init(struct gossip_trail *trail, const struct gossip_tensor tensors[], size_t tensor_count,
                       float memory[])
{
    size_t values = mark_values(tensors, tensor_count);
    *trail = (struct gossip_trail){.rounds = 0};
    for (size_t i = 0; i < GOSSIP_TRAIL_LEVELS; i++) {
        trail->levels[i].older = memory + 2 * i * values;
        trail->levels[i].newer = memory + (2 * i + 1) * values;
    }
}

void gossip_trail_forget(struct gossip_trail *trail)
{
    trail->rounds = 0;
    trail->behind = (struct gossip_history){.count = 0};
    trail->norms_seen = 0;
}

static void make_mark(const struct gossip_tensor tensors[], size_t tensor_count, const float phi[],
                      float mark[])
{
    for (size_t i = 0; i < tensor_count; i++) {
        const float *values = phi + (tensors[i].offset - tensors[0].offset);
        for (size_t at = 0; at < tensors[i].count; at += GOSSIP_BLOCK) {
            size_t count = sample_of(tensors[i].count - at);
            memcpy(mark, values + at, count * sizeof *mark);
            mark += count;
        }
    }
}

static uint64_t period_of(size_t level)
{
    return (uint64_t)GOSSIP_TRAIL_CYCLES << level;
}

void gossip_trail_round(struct gossip_trail *trail, const struct gossip_tensor tensors[], size_t tensor_count,
                        const float phi[])
{
    for (size_t i = 0; i < GOSSIP_TRAIL_LEVELS; i++) {
        if (trail->rounds % period_of(i) != 0)
            break; /* nor is it a multiple of the longer ones */
        float *oldest = trail->levels[i].older;
        trail->levels[i].older = trail->levels[i].newer;
        trail->levels[i].newer = oldest;
        make_mark(tensors, tensor_count, phi, oldest);
    }
    trail->rounds++;
}

struct gossip_trail_sums gossip_trail_begin(const struct gossip_trail *trail)
{
    struct gossip_trail_sums sums = {.trail = trail};
    while (trail != NULL && sums.levels < GOSSIP_TRAIL_LEVELS && trail->rounds > period_of(sums.levels))
        sums.levels++;
    return sums;
}

static void add_level(struct gossip_trail_sums *sums, size_t count, const float theirs[], const float phi[],
                      size_t level)
{
    const float *mark = sums->trail->levels[level].older + sums->at;
    for (size_t at = 0; at < count; at += GOSSIP_BLOCK) {
        size_t sample = sample_of(count - at);
        for (size_t i = at; i < at + sample; i++) {
            double way = (double)phi[i] - (double)*mark++;
            double part = ((double)theirs[i] - (double)phi[i]) * way;
            sums->along[level] += part;
            sums->spread[level] += part * part;
            sums->square[level] += way * way;
        }
    }
}

void gossip_trail_add(struct gossip_trail_sums *sums, size_t count, const float theirs[], const float phi[])
{
    if (sums->levels == 0)
        return;
    for (size_t level = 0; level < sums->levels; level++)
        add_level(sums, count, theirs, phi, level);
    for (size_t at = 0; at < count; at += GOSSIP_BLOCK)
        sums->at += sample_of(count - at);
}

double gossip_trail_behind(const struct gossip_trail_sums *sums)
{
    double behind = 0;
    for (size_t level = 0; level < sums->levels; level++) {
        double least = sums->along[level] + GOSSIP_BEHIND_ERRORS * sqrt(sums->spread[level]);
        if (sums->square[level] > 0)
            behind = fmin(behind, least / sums->square[level]);
    }
    return behind;
}

double gossip_trail_limit(const struct gossip_trail *trail)
{
    double usual = fmin(1, gossip_history_median(&trail->behind));
    return fmax(GOSSIP_BEHIND_MAX, GOSSIP_BEHIND_FACTOR * usual);
}

void gossip_trail_met(struct gossip_trail *trail, double behind)
{
    gossip_history_push(&trail->behind, fmax(0, -behind));
}

void gossip_trail_norm(struct gossip_trail *trail, double norm)
{
    trail->norms[trail->norms_seen++ % GOSSIP_TRAIL_NORMS] = norm;
}

double gossip_trail_growth(const struct gossip_trail *trail)
{
    double least = INFINITY, most = 0;
    if (trail->norms_seen < GOSSIP_HISTORY_MIN)
        return INFINITY;
    for (size_t i = 0; i < GOSSIP_TRAIL_NORMS && i < trail->norms_seen; i++) {
        least = fmin(least, trail->norms[i]);
        most = fmax(most, trail->norms[i]);
    }
    return most - least;
}
