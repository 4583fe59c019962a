/* Who exchanges with whom: a pure function of run, round and view, so that two members with equal views agree
 * without a message.
 *
 * Below GOSSIP_ROBIN_MIN members: order by BLAKE2b(run, round, id), neighbours pair, the odd one out goes
 * solo. From GOSSIP_ROBIN_MIN on: a round-robin tournament (circle method): members stand in the order of
 * BLAKE2b(run, id); with m = count rounded up to even, slot m - 1 fixed, slots i and j of the others meet in
 * the round whose sum is i + j mod (m - 1).  The sums are walked in a hashed order (consecutive sums would
 * mix like a ring).  So nobody meets the same partner twice within m - 1 >= 9 rounds while the view stands,
 * and everybody meets everybody once in m - 1 rounds: grinding ids cannot buy more meetings with a victim.
 * With an odd count one sits out each round. */
#ifndef DUNLIN_GOSSIP_PAIRING_H
#define DUNLIN_GOSSIP_PAIRING_H

#include "gossip/members.h"

enum { GOSSIP_ROBIN_MIN = 9 };

/* True and *partner when self is paired in this round; false when it is alone, the odd one out or not in the
 * view. round need not be view->round.  O(count log count) hashes and compares. */
bool gossip_pair(const struct id *run, uint64_t round, const struct gossip_view *view, const struct id *self,
                 struct id *partner);
/* True when self opens the exchange with partner: the lower id does. */
bool gossip_pair_invites(const struct id *self, const struct id *partner);

#endif
