/* A scalar model of the modular codec, for swarms that test the exchange: residues against the receiver's own
 * values, a checksum a block.  Sizes are the real ones; the bits are this model's own. */
#ifndef DUNLIN_TESTS_LATTICE_MODEL_H
#define DUNLIN_TESTS_LATTICE_MODEL_H

#include <math.h>
#include <string.h>

#include "gossip/codec.h"

/* Rounds a step down to bfloat16: both sides use what is sent. */
static float lattice_step(const uint8_t in[2])
{
    uint32_t bits = (uint32_t)in[0] << 16 | (uint32_t)in[1] << 24;
    float step;
    memcpy(&step, &bits, sizeof step);
    return step;
}

/* Wrong integers are off by multiples of 2^bits: a plain sum would see only its upper bits move. */
static uint32_t lattice_sum(uint32_t sum, int32_t k)
{
    sum = (sum ^ (uint32_t)k) * 2654435761u;
    return sum ^ sum >> 15;
}

static void lattice_encode_block(unsigned bits, size_t count, const float values[], float step, uint8_t out[])
{
    uint32_t raw;
    uint32_t sum = 0;
    memcpy(&raw, &step, sizeof raw);
    memset(out, 0, GOSSIP_LATTICE_HEAD + (count * bits + 7) / 8);
    out[0] = (uint8_t)(raw >> 16);
    out[1] = (uint8_t)(raw >> 24);
    step = lattice_step(out);
    for (size_t i = 0; i < count; i++) {
        int32_t k = (int32_t)lrintf(values[i] / step);
        uint32_t residue = (uint32_t)k & ((1u << bits) - 1);
        sum = lattice_sum(sum, k);
        for (unsigned b = 0; b < bits; b++)
            out[GOSSIP_LATTICE_HEAD + (i * bits + b) / 8] |=
                (uint8_t)((residue >> b & 1) << ((i * bits + b) % 8));
    }
    out[2] = (uint8_t)sum;
    out[3] = (uint8_t)(sum >> 8);
}

/* False: the checksum says that own was too far. */
static bool lattice_decode_block(unsigned bits, size_t count, const float own[], const uint8_t in[],
                                 float values[])
{
    float step = lattice_step(in);
    uint32_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t residue = 0;
        for (unsigned b = 0; b < bits; b++)
            residue |= (uint32_t)(in[GOSSIP_LATTICE_HEAD + (i * bits + b) / 8] >> ((i * bits + b) % 8) & 1)
                       << b;
        float turns = (own[i] / step - (float)residue) / (float)(1u << bits);
        int32_t k = (int32_t)residue + (int32_t)(1u << bits) * (int32_t)lrintf(turns);
        sum = lattice_sum(sum, k);
        values[i] = step * (float)k;
    }
    return (sum & 0xffff) == (uint32_t)(in[2] | in[3] << 8);
}

/* What the other side gets from a block that decodes. */
static void lattice_sent_block(size_t count, const float own[], const uint8_t sent[], float values[])
{
    float step = lattice_step(sent);
    for (size_t i = 0; i < count; i++)
        values[i] = step * (float)(int32_t)lrintf(own[i] / step);
}

#endif
