/* The node's key file: DIR/node.key, mode 0600, two lines of text:
 *
 *     dunlin-node-key-1
 *     <58 characters: base32 of the 32-byte Ed25519 seed and the first 4 bytes of its BLAKE2b hash>
 *
 * Losing it means a new identity; anyone who reads it can act as this node. */
#ifndef DUNLIN_STORE_KEY_H
#define DUNLIN_STORE_KEY_H

#include "base/rng.h"
#include "store/file.h"

enum { STORE_SEED_BYTES = 32 };

/* Loads DIR/node.key, or draws a seed from rng and creates the file (and DIR) when there is none; *created
 * says which.  The directory must be locked (store/env.h) when several processes might start at once.
 * Blocking.  The caller wipes seed.  On error seed is zeroed and *why (may be NULL) tells a person what to
 * do: ERR_PERMISSION: group or others may read the file, or we may not; ERR_CORRUPT: not a key file, or
 * damaged; ERR_DISK_FULL, ERR_IO, ERR_NO_MEMORY, ERR_TOO_LARGE (path). */
MUST_USE int store_key_load_or_create(const struct store_io *io, const char *dir, const struct rng *rng,
                                      uint8_t seed[STORE_SEED_BYTES], bool *created, struct store_why *why);

/* Loads only; ERR_NOT_FOUND when there is none.  Other errors as above. */
MUST_USE int store_key_load(const char *dir, uint8_t seed[STORE_SEED_BYTES], struct store_why *why);

#endif
