/* The list of blocks that did not decode: sorted block numbers of one fragment, each as its distance to the
 * one before (the first: to -1) less 1, in LEB128 (7 bits a byte, low ones first, top bit: more follow, no
 * longer than needed).  Most distances fit one byte.  At most half of the blocks may be asked for: with more,
 * the partner's whole blob is refused instead.  Pure functions. */
#ifndef DUNLIN_GOSSIP_WANTED_H
#define DUNLIN_GOSSIP_WANTED_H

#include "base/bytes.h"
#include "base/err.h"

/* Bytes that hold any list over so many blocks.  Half of them need a byte each; a distance of two bytes takes
 * up 128 blocks, and so on. */
size_t gossip_wanted_bytes_max(uint64_t block_count);

/* Appends block to a list that a loop over rising blocks builds.  *last holds the one before (start with
 * UINT64_MAX); w fails when its buffer is full. */
void gossip_wanted_add(struct writer *w, uint64_t *last, uint64_t block);
/* Next block of a list, in rising order; false at its end or where it is malformed (r->failed then).  Start
 * with *last = UINT64_MAX. */
bool gossip_wanted_next(struct reader *r, uint64_t *last, uint64_t *block);

/* Checks a partner's list; returns how many blocks it names.  ERR_MALFORMED: bad LEB128, a block that is not
 * there, or more than half of them. */
MUST_USE int gossip_wanted_check(struct bytes list, uint64_t block_count);

#endif
