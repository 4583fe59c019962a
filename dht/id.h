/* Positions on the 256-bit ring and the XOR distance between them (Maymounkov and Mazieres 2002, s.2.1). */
#ifndef DUNLIN_DHT_ID_H
#define DUNLIN_DHT_ID_H

#include "base/id.h"
#include "base/rng.h"

enum { DHT_ID_BITS = 8 * ID_BYTES };

/* Position of a node: hash_content(id). */
struct id dht_id_position(const struct id *id);
/* a XOR b. */
struct id dht_id_distance(const struct id *a, const struct id *b);
/* Leading bits that a and b share, 0..256. */
unsigned dht_id_prefix(const struct id *a, const struct id *b);
/* Negative, zero or positive as a is nearer to target than b, equally near (so equal), or farther. */
int dht_id_nearer(const struct id *target, const struct id *a, const struct id *b);
/* A random position that shares exactly prefix (< 256, asserted) leading bits with own. */
struct id dht_id_random_in(const struct rng *rng, const struct id *own, unsigned prefix);

#endif
