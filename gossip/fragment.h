/* Fragments: the model cut into a few contiguous spans of whole tensors.  Round r exchanges fragment r mod
 * count only, so that the line carries a small exchange often instead of a large one seldom; count rounds are
 * a cycle.  (Streaming DiLoCo, Douillard et al. 2025, arXiv:2501.18512, does the same with groups of layers.)
 * Pure functions. */
#ifndef DUNLIN_GOSSIP_FRAGMENT_H
#define DUNLIN_GOSSIP_FRAGMENT_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct gossip_tensor; /* gossip/tensor.h */

enum { GOSSIP_FRAGMENTS_MAX = 8, GOSSIP_FRAGMENTS_DEFAULT = 5 };

struct gossip_fragment {
    size_t first_tensor;
    size_t tensor_count; /* at least 1 */
    size_t offset;       /* of its first value in the flat array */
    size_t count;        /* values */
};

/* Cuts a table that gossip_layout_of accepts into `wanted` fragments, or into as many as there are tensors
 * when those are fewer; returns how many.  They are adjacent and in order.  The largest is as small as whole
 * tensors allow, the others as even as that leaves them.  The same for everybody: members must agree.
 *   out  [GOSSIP_FRAGMENTS_MAX]  written up to the count returned
 * ERR_INVALID: wanted is 0 or above GOSSIP_FRAGMENTS_MAX, or there are no tensors; out is untouched.
 * O(tensor_count^2) at worst. */
MUST_USE int gossip_fragments_cut(const struct gossip_tensor *tensors, size_t tensor_count, size_t wanted,
                                  struct gossip_fragment out[GOSSIP_FRAGMENTS_MAX]);

#endif
