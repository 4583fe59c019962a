#include "net/shaper.h"

#include "base/err.h"

/* The level counts 2^-20 bytes, so that slow rates do not lose their fractions between frequent calls. */
#define UNIT      INT64_C(1048576)
#define LEVEL_MAX (INT64_MAX / 4)
#define SECOND_NS UINT64_C(1000000000)

static uint64_t burst_of(uint64_t rate_bytes, uint64_t burst_bytes)
{
    uint64_t burst = burst_bytes != 0 ? burst_bytes : rate_bytes / 20;
    uint64_t highest = (uint64_t)(LEVEL_MAX / UNIT);
    if (burst < SHAPER_BURST_MIN)
        burst = SHAPER_BURST_MIN;
    return burst < highest ? burst : highest;
}

/* Units gained in a time: rate * 2^20 / 1e9 per ns, in 128 bits so that no rate or pause overflows. */
static int64_t gained(uint64_t rate_bytes, uint64_t elapsed_ns)
{
    unsigned __int128 units = (unsigned __int128)rate_bytes * elapsed_ns * (uint64_t)UNIT / SECOND_NS;
    return units > (unsigned __int128)LEVEL_MAX ? LEVEL_MAX : (int64_t)units;
}

/* Time in which this many units are gained, rounded up. */
static uint64_t time_for(uint64_t rate_bytes, int64_t units)
{
    unsigned __int128 rate_units = (unsigned __int128)rate_bytes * (uint64_t)UNIT;
    unsigned __int128 wanted = (unsigned __int128)(uint64_t)units * SECOND_NS;
    unsigned __int128 ns = (wanted + rate_units - 1) / rate_units;
    return ns > UINT64_MAX / 2 ? UINT64_MAX / 2 : (uint64_t)ns;
}

static void refill(struct shaper *s, uint64_t now_ns)
{
    if (s->rate_bytes == 0 || now_ns <= s->updated_ns)
        return;
    int64_t units = gained(s->rate_bytes, now_ns - s->updated_ns);
    if (units == 0)
        return; /* keep updated_ns: the fraction is still to come */
    int64_t full = (int64_t)s->burst_bytes * UNIT;
    s->level = s->level > full - units ? full : s->level + units;
    s->updated_ns = now_ns;
}

void shaper_init(struct shaper *s, uint64_t now_ns, uint64_t rate_bytes, uint64_t burst_bytes)
{
    s->rate_bytes = rate_bytes < SHAPER_RATE_MAX ? rate_bytes : SHAPER_RATE_MAX;
    s->burst_bytes = burst_of(s->rate_bytes, burst_bytes);
    s->level = (int64_t)s->burst_bytes * UNIT;
    s->updated_ns = now_ns;
}

void shaper_set_rate(struct shaper *s, uint64_t now_ns, uint64_t rate_bytes, uint64_t burst_bytes)
{
    refill(s, now_ns);
    s->rate_bytes = rate_bytes < SHAPER_RATE_MAX ? rate_bytes : SHAPER_RATE_MAX;
    s->burst_bytes = burst_of(s->rate_bytes, burst_bytes);
    s->updated_ns = now_ns;
    int64_t full = (int64_t)s->burst_bytes * UNIT;
    if (s->level > full)
        s->level = full;
}

static size_t above(struct shaper *s, uint64_t now_ns, int64_t floor)
{
    refill(s, now_ns);
    if (s->rate_bytes == 0)
        return SIZE_MAX;
    return s->level > floor ? (size_t)((s->level - floor + UNIT - 1) / UNIT) : 0;
}

size_t shaper_available(struct shaper *s, uint64_t now_ns)
{
    return above(s, now_ns, 0);
}

size_t shaper_available_control(struct shaper *s, uint64_t now_ns)
{
    return above(s, now_ns, -(int64_t)SHAPER_OVERDRAW * UNIT);
}

void shaper_charge(struct shaper *s, uint64_t now_ns, size_t bytes)
{
    refill(s, now_ns);
    if (s->rate_bytes == 0)
        return;
    int64_t units = bytes < (size_t)(LEVEL_MAX / UNIT) ? (int64_t)bytes * UNIT : LEVEL_MAX;
    s->level = s->level > -LEVEL_MAX + units ? s->level - units : -LEVEL_MAX;
}

static uint64_t ready_ns(struct shaper *s, uint64_t now_ns, int64_t wanted)
{
    refill(s, now_ns);
    if (s->rate_bytes == 0 || s->level >= wanted)
        return now_ns;
    uint64_t from = s->updated_ns < now_ns ? s->updated_ns : now_ns;
    uint64_t at = from + time_for(s->rate_bytes, wanted - s->level);
    return at > now_ns ? at : now_ns + 1;
}

uint64_t shaper_ready_ns(struct shaper *s, uint64_t now_ns, size_t bytes)
{
    uint64_t wanted = bytes < s->burst_bytes ? bytes : s->burst_bytes;
    return ready_ns(s, now_ns, wanted == 0 ? 1 : (int64_t)wanted * UNIT);
}

uint64_t shaper_ready_control_ns(struct shaper *s, uint64_t now_ns)
{
    return ready_ns(s, now_ns, 1 - (int64_t)SHAPER_OVERDRAW * UNIT);
}
