/* Initial weights from the run's 32-byte seed: the same bits on every machine, so that all members start
 * equal without sending a weight. */
#ifndef DUNLIN_TRAIN_INIT_H
#define DUNLIN_TRAIN_INIT_H

#include <stdint.h>

#include "train/model.h"

/* Fills params [arena_floats].  Each tensor has its own ChaCha20 stream, keyed by BLAKE2b(seed, name).
 * Matrices are uniform with standard deviation 1/sqrt(cols); those that write into the residual stream (out,
 * down) a further 1/sqrt(2 layers) smaller (Radford et al. 2019), the head half that; embeddings 0.5.  An
 * MLP's layers that a ReLU follows have sqrt(2 / inputs) (He et al. 2015, arXiv:1502.01852), its last sqrt(2
 * / (inputs + outputs)) (Glorot and Bengio 2010): signals neither grow nor shrink from layer to layer.  Gains
 * are 1, biases and padding 0.  Only integer steps, exact conversions, single multiplications and sqrtf
 * (exactly rounded by IEEE 754) are used, hence no difference between processors or compilers. */
void train_init(const struct train_layout *layout, const uint8_t seed[32], float params[]);

#endif
