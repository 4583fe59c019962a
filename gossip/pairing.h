/* Who exchanges with whom: a pure function of run, round, number of fragments and view, so that two members
 * with equal views agree without a message; those whose views differ answer each other BUSY.
 *
 * Members stand on slots 0..m-1 in the order of speed class, then BLAKE2b(run, id); m is the count rounded up
 * to even; with an odd count slot 0 is empty, and who meets it sits out.  n = m - 1 *factors*, each a perfect
 * matching, together hold every pair exactly once; a round uses one of them:
 *   cube (m a power of two): slots i and i xor e meet in factor e, 1 <= e <= n;
 *   circle (else): slots lie folded on a ring and meet in factor s when their places sum to s mod n.
 * Plain rounds walk the factors so that each fragment (round r exchanges fragment r mod F, cycle r / F) meets
 * every factor once in n cycles: cube: e = a^(cycle - g fragment), a a primitive element of GF(m), g = n / F.
 * Any log2 m consecutive powers are linearly independent over GF(2): log2 m cycles average a fragment
 * exactly, as a hypercube's dimensions in turn do (1, 2, 4 ... are the first of them), from whichever cycle
 * on; circle: factors in a hashed order (consecutive sums would mix like a ring), one a round, moved on by
 * one after every lcm(F, n) rounds, without which a fragment could see a few factors only, or just one. So
 * while the view stands nobody meets a partner again within GOSSIP_PAIR_GAP rounds from nine members on, and
 * everybody meets everybody equally often: ground ids win nothing but a place in the order.
 *
 * Speed: when members differ in class, one round in GOSSIP_SPEED_BLOCK, at a hashed place, pairs members near
 * each other in the order of speed: it takes one of the first factors, which hold near slots by the choice of
 * the slots. From nine members on only a factor is taken that the plain rounds of GOSSIP_PAIR_GAP - 1 rounds
 * before and after do not use; without any the round is plain.  This leaves speed rounds to swarms of up to
 * 8, and of about 20 and more.  Cost in mixing: tests/gossip/test_consensus.c measures it; gossip/README.md
 * has the table.
 *
 * Not redrawn from time to time: within one drawing all pairs are equal already, and at the seam of two they
 * would not be.  Sources: one-peer hypercubes, Ying et al. 2021, arXiv:2110.13363; circle method, Kirkman
 * 1847. */
#ifndef DUNLIN_GOSSIP_PAIRING_H
#define DUNLIN_GOSSIP_PAIRING_H

#include "gossip/fragment.h"
#include "gossip/members.h"

enum {
    GOSSIP_PAIR_GAP = 8,     /* a partner at most once in so many consecutive rounds ... */
    GOSSIP_PAIR_GAP_MIN = 9, /* ... when the view holds at least so many members */
    GOSSIP_SPEED_BLOCK = 4,  /* one round in so many pairs by speed */
    GOSSIP_NEAR_MAX = 15,    /* factors that count as near, at most; also at most a quarter of all members */
};

/* True and *partner when self is paired in this round; false when it is alone, the odd one out or not in the
 * view. round need not be view->round.  1 <= fragments <= GOSSIP_FRAGMENTS_MAX (asserted).
 * O(count log count) hashes and compares. */
bool gossip_pair(const struct id *run, uint64_t round, unsigned fragments, const struct gossip_view *view,
                 const struct id *self, struct id *partner);
/* True when this round pairs by speed (then the pair may be nearer than chance has it). */
bool gossip_pair_by_speed(const struct id *run, uint64_t round, unsigned fragments,
                          const struct gossip_view *view);
/* True when self opens the exchange with partner: the lower id does. */
bool gossip_pair_invites(const struct id *self, const struct id *partner);

#endif
