/* LtHash16x1024: a hash of a set that is updated by adding and removing elements in any order (Lewi, Kim,
 * Maykov, Weis 2019, ePrint 2019/227, s.4; at least 200 bits by the authors' estimate).  An element's
 * 2,048-byte expansion is the ChaCha20 key stream of its 32-byte hash; the sum is taken in 1,024 lanes modulo
 * 2^16. */
#ifndef DUNLIN_CRDT_LTHASH_H
#define DUNLIN_CRDT_LTHASH_H

#include "base/id.h"

enum { CRDT_LTHASH_LANES = 1024 };

struct crdt_lthash {
    uint16_t lanes[CRDT_LTHASH_LANES]; /* all zero: the empty set */
};

/* Adds or takes away one element; taking away what was never added is the caller's bug.  About 1 us. */
void crdt_lthash_add(struct crdt_lthash *sum, const struct id *element);
void crdt_lthash_remove(struct crdt_lthash *sum, const struct id *element);
/* 32-byte digest of the sum and the number of elements. */
void crdt_lthash_digest(const struct crdt_lthash *sum, uint64_t count, struct id *out);

#endif
