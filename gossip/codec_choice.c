/* The choice of a codec, and the partners remembered for it. */
#include "gossip/codec_choice.h"

#include <math.h>
#include <string.h>

#include "gossip/codec_modular.h"

#define SCALE_MAX 16.0f

static const struct gossip_acquaintance *find(const struct gossip_nearness *memory, const struct id *peer)
{
    for (size_t i = 0; i < GOSSIP_NEARNESS_PEERS; i++)
        if (memory->peers[i].used && id_equal(&memory->peers[i].peer, peer))
            return &memory->peers[i];
    return NULL;
}

/* The partner's entry, a free one, or that of whoever was met longest ago, emptied. */
static struct gossip_acquaintance *entry_for(struct gossip_nearness *memory, const struct id *peer)
{
    struct gossip_acquaintance *chosen = NULL;
    for (size_t i = 0; i < GOSSIP_NEARNESS_PEERS; i++) {
        struct gossip_acquaintance *a = &memory->peers[i];
        if (a->used && id_equal(&a->peer, peer))
            return a;
        if (chosen == NULL || (chosen->used && (!a->used || a->round < chosen->round)))
            chosen = a;
    }
    *chosen = (struct gossip_acquaintance){.peer = *peer, .used = true};
    return chosen;
}

static bool plain_number(float value)
{
    return value >= 0 && isfinite(value);
}

void gossip_nearness_note(struct gossip_nearness *memory, const struct gossip_encounter *seen)
{
    ASSERT(seen->fragment < GOSSIP_FRAGMENTS_MAX);
    ASSERT(plain_number(seen->distance) && plain_number(seen->relative) && plain_number(seen->wrong_share));
    struct gossip_acquaintance *a = entry_for(memory, &seen->peer);
    a->round = seen->round;
    a->distance[seen->fragment] = seen->distance;
    a->relative[seen->fragment] = seen->relative;
    a->wrong_share[seen->fragment] = seen->wrong_share;
    memory->typical[seen->fragment] = seen->distance;
}

void gossip_nearness_far(struct gossip_nearness *memory, const struct id *peer, unsigned fragment,
                         uint64_t round)
{
    ASSERT(fragment < GOSSIP_FRAGMENTS_MAX);
    struct gossip_acquaintance *a = entry_for(memory, peer);
    a->round = round;
    a->wrong_share[fragment] = 1.0f;
}

void gossip_nearness_forget(struct gossip_nearness *memory, const struct id *peer)
{
    if (peer == NULL) {
        memset(memory, 0, sizeof *memory);
        return;
    }
    for (size_t i = 0; i < GOSSIP_NEARNESS_PEERS; i++)
        if (memory->peers[i].used && id_equal(&memory->peers[i].peer, peer))
            memory->peers[i] = (struct gossip_acquaintance){0};
}

static bool fragment_close(const struct gossip_acquaintance *a, unsigned fragment)
{
    return (double)a->relative[fragment] <= GOSSIP_RELATIVE_MAX &&
           (double)a->wrong_share[fragment] <= GOSSIP_WRONG_SHARE_MAX;
}

static bool fragment_met(const struct gossip_acquaintance *a, unsigned fragment)
{
    return a->relative[fragment] > 0 || a->wrong_share[fragment] > 0;
}

bool gossip_nearness_close(const struct gossip_nearness *memory, const struct id *peer, unsigned fragment,
                           uint64_t round)
{
    const struct gossip_acquaintance *a = find(memory, peer);
    ASSERT(fragment < GOSSIP_FRAGMENTS_MAX);
    if (a == NULL || (round > a->round && round - a->round > GOSSIP_NEARNESS_ROUNDS))
        return false;
    bool close = fragment_close(a, fragment);
    for (unsigned i = 0; i < GOSSIP_FRAGMENTS_MAX && !fragment_met(a, fragment); i++)
        close = close && fragment_close(a, i);
    return close;
}

float gossip_nearness_wrong(const struct gossip_nearness *memory, const struct id *peer, unsigned fragment)
{
    const struct gossip_acquaintance *a = find(memory, peer);
    ASSERT(fragment < GOSSIP_FRAGMENTS_MAX);
    return a == NULL ? 0 : a->wrong_share[fragment];
}

float gossip_nearness_scale(const struct gossip_nearness *memory, const struct id *peer, unsigned fragment)
{
    const struct gossip_acquaintance *a = find(memory, peer);
    ASSERT(fragment < GOSSIP_FRAGMENTS_MAX);
    if (a == NULL || !(a->distance[fragment] > memory->typical[fragment]))
        return 1.0f;
    if (!(memory->typical[fragment] * SCALE_MAX > a->distance[fragment]))
        return memory->typical[fragment] > 0 ? SCALE_MAX : 1.0f;
    return a->distance[fragment] / memory->typical[fragment];
}

static bool modular(enum gossip_codec codec)
{
    return gossip_modular_bits(codec) != 0;
}

double gossip_codec_seconds(const struct gossip_choice_input *in, enum gossip_codec codec)
{
    double bytes = (double)in->bytes[codec];
    double rtt = in->rtt_s > 0 && isfinite(in->rtt_s) ? in->rtt_s : 0;
    if (!(in->bytes_per_s > 0))
        return INFINITY;
    if (!modular(codec))
        return bytes / in->bytes_per_s + rtt;
    double share = in->wrong_share > 0 ? in->wrong_share : 0;
    share = share < 1 ? share : 1;
    return (bytes + share * (double)in->bytes[GOSSIP_CODEC_INT8]) / in->bytes_per_s + 3 * rtt;
}

static bool accepted(const struct gossip_choice_input *in, enum gossip_codec codec)
{
    return (in->accepted >> codec & 1) != 0;
}

enum gossip_codec gossip_codec_choose(const struct gossip_choice_input *in)
{
    enum gossip_codec codec = in->asked;
    if (codec == GOSSIP_CODEC_MOD2 && in->ending)
        codec = GOSSIP_CODEC_MOD3;
    if (in->automatic) {
        bool known = in->bytes_per_s > 0 && in->seconds > 0;
        bool late = known && gossip_codec_seconds(in, GOSSIP_CODEC_MOD3) > in->seconds;
        codec = late && accepted(in, GOSSIP_CODEC_MOD2) ? GOSSIP_CODEC_MOD2 : GOSSIP_CODEC_MOD3;
    }
    ASSERT(codec < GOSSIP_CODEC_COUNT);
    if (!accepted(in, codec) || (modular(codec) && !in->close))
        return GOSSIP_CODEC_INT8;
    return codec;
}

static bool fits(const struct gossip_choice_input *in, enum gossip_codec codec)
{
    return accepted(in, codec) && in->seconds > 0 && gossip_codec_seconds(in, codec) <= in->seconds;
}

enum gossip_codec gossip_codec_choose_exact(const struct gossip_choice_input *in)
{
    if (fits(in, GOSSIP_CODEC_FP32))
        return GOSSIP_CODEC_FP32;
    bool coarse = (!in->automatic && in->asked == GOSSIP_CODEC_MOD3) ||
                  (in->bytes_per_s > 0 && !fits(in, GOSSIP_CODEC_MOD4));
    enum gossip_codec codec = coarse ? GOSSIP_CODEC_MOD3 : GOSSIP_CODEC_MOD4;
    return in->close && accepted(in, codec) ? codec : GOSSIP_CODEC_INT8;
}
