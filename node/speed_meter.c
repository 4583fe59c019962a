#include "node/speed_meter.h"

#include <string.h>

#define MS_NS UINT64_C(1000000)

void speed_meter_init(struct speed_meter *meter)
{
    memset(meter, 0, sizeof *meter);
    int result = crypto_generichash_init(&meter->hash, NULL, 0, ID_BYTES);
    ASSERT(result == 0);
}

/* Keeps the longest ones, longest first; of equals the earlier. */
static void note_gap(struct speed_meter *meter, uint64_t from_ns, uint64_t to_ns)
{
    struct speed_gap gap = {.at_ms = (uint32_t)((from_ns - meter->first_ns) / MS_NS),
                            .ms = (uint32_t)((to_ns - from_ns) / MS_NS)};
    size_t at = meter->gap_count;
    if (gap.ms == 0)
        return;
    while (at > 0 && meter->gaps[at - 1].ms < gap.ms)
        at--;
    if (at == SPEED_GAPS_MAX)
        return;
    if (meter->gap_count < SPEED_GAPS_MAX)
        meter->gap_count++;
    memmove(meter->gaps + at + 1, meter->gaps + at, (meter->gap_count - 1 - at) * sizeof gap);
    meter->gaps[at] = gap;
}

void speed_meter_add(struct speed_meter *meter, uint64_t now_ns, struct bytes data)
{
    ASSERT(now_ns > 0);
    int result = crypto_generichash_update(&meter->hash, data.data, data.len);
    ASSERT(result == 0);
    if (meter->bytes == 0)
        meter->first_ns = now_ns;
    else if (now_ns > meter->last_ns)
        note_gap(meter, meter->last_ns, now_ns);
    meter->bytes += data.len;
    meter->last_ns = now_ns;
}

void speed_meter_hash(const struct speed_meter *meter, struct id *out)
{
    crypto_generichash_state copy = meter->hash;
    int result = crypto_generichash_final(&copy, out->bytes, ID_BYTES);
    ASSERT(result == 0);
}

uint32_t speed_meter_longest_ms(const struct speed_meter *meter)
{
    return meter->gap_count == 0 ? 0 : meter->gaps[0].ms;
}
