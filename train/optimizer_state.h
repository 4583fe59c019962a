/* Moments and step count as bytes for the disk.  Private to train/.
 * Layout, little-endian: "DNLNADM1", updates u64, layout hash 32 bytes, arena_floats u64, first moments
 * f32[], second moments f32[], BLAKE2b-256 of everything before. */
#ifndef DUNLIN_TRAIN_OPTIMIZER_STATE_H
#define DUNLIN_TRAIN_OPTIMIZER_STATE_H

#include "base/bytes.h"
#include "train/model.h"

/* Bytes of the whole state. */
size_t train_state_bytes(const struct train_layout *layout);
/* Writes train_state_bytes(layout) bytes. */
void train_state_write(const struct train_layout *layout, uint64_t updates, const float first[],
                       const float second[], uint8_t out[]);
/* ERR_CORRUPT: checksum differs or moments are not finite.  ERR_MISMATCH: another model's.  On failure
 * nothing is written. */
MUST_USE int train_state_read(const struct train_layout *layout, struct bytes state, uint64_t *updates,
                              float first[], float second[]);

/* Little-endian float32 arrays, any alignment. */
void train_floats_store(size_t count, const float from[], uint8_t to[]);
void train_floats_load(size_t count, const uint8_t from[], float to[]);

#endif
