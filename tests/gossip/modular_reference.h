/* The modular codec's block written to be read, value by value, after the text of gossip/codec_modular.h.
 * Only the product theta * (1 / s) is float32 as in the code under test, since ties depend on it. */
#ifndef DUNLIN_TESTS_GOSSIP_MODULAR_REFERENCE_H
#define DUNLIN_TESTS_GOSSIP_MODULAR_REFERENCE_H

#include <math.h>
#include <string.h>

#include "gossip/codec_modular.h"

static inline float reference_step(const uint8_t *block)
{
    uint32_t bits = (uint32_t)(block[0] | block[1] << 8) << 16;
    float step;
    memcpy(&step, &bits, sizeof step);
    return step;
}

static inline int32_t reference_whole(float value, float step)
{
    return (int32_t)nearbyintf(value * (1.0f / step));
}

static inline uint32_t reference_mix(uint32_t h)
{
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    return h ^ h >> 16;
}

static inline uint16_t reference_checksum(size_t count, const int32_t whole[])
{
    uint32_t sum = 0;
    for (uint32_t lane = 0; lane < 16; lane++) {
        uint32_t h = 0;
        for (size_t i = lane; i < GOSSIP_BLOCK; i += 16)
            h = (h << 5 | h >> 27) + (i < count ? (uint32_t)whole[i] : 0);
        sum += reference_mix(h + (lane + 1) * 0x9e3779b9u);
    }
    return (uint16_t)(sum ^ sum >> 16);
}

/* Everything behind the step. */
static inline void reference_encode(unsigned bits, size_t count, const float theta[], float step,
                                    uint8_t out[])
{
    int32_t whole[GOSSIP_BLOCK];
    size_t bytes = (count + 7) / 8;
    for (size_t i = 0; i < count; i++)
        whole[i] = reference_whole(theta[i], step);
    uint16_t sum = reference_checksum(count, whole);
    out[2] = (uint8_t)sum;
    out[3] = (uint8_t)(sum >> 8);
    memset(out + 4, 0, bits * bytes);
    for (size_t i = 0; i < count; i++)
        for (unsigned plane = 0; plane < bits; plane++)
            if (((uint32_t)whole[i] >> plane & 1) != 0)
                out[4 + plane * bytes + i % bytes] |= (uint8_t)(1u << i / bytes);
}

/* The integer congruent to whole that is nearest to own / step. */
static inline double reference_lift(unsigned bits, int32_t whole, float own, float step)
{
    double modulus = 1 << bits;
    double residue = (double)((uint32_t)whole & ((1u << bits) - 1));
    return residue + modulus * nearbyint(((double)own / (double)step - residue) / modulus);
}

#endif
