/* BLAKE2b-256 with a domain label, so that a hash made for one purpose never stands for another. */
#ifndef DUNLIN_BASE_HASH_H
#define DUNLIN_BASE_HASH_H

#include <stddef.h>

#include "base/bytes.h"
#include "base/id.h"

/* out = BLAKE2b-256(label_len (1 byte) || label || parts[0] || parts[1] ...).  label is at most 255
 * characters (asserted).  Parts are not length-prefixed: callers use fixed-size parts, or at most one, last,
 * of any size. */
void hash_parts(const char *label, const struct bytes *parts, size_t part_count, struct id *out);

/* Plain BLAKE2b-256 of one slice: content addresses and DHT positions. */
void hash_content(struct bytes in, struct id *out);

#endif
