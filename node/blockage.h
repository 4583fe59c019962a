/* Does UDP get through to the outside?  Pure: told what was asked and heard, it says what to do about it.
 *
 * Silence has many causes: those asked are gone, the network pauses for some seconds, UDP is blocked.  So
 * nothing is concluded before the likeliest nodes were asked, before a TCP link shows that the network works,
 * and before the very node at its other end was asked by UDP and stayed silent too.
 *
 *     OPEN --silent for PATIENCE: CHECK--> CHECKING --CHECK later: DIAL--> DIALLING
 *     DIALLING --a link stands: JUDGE--> JUDGING --silent again: BLOCKED--> blocked
 *     any --an authentic datagram by UDP--> OPEN */
#ifndef DUNLIN_NODE_BLOCKAGE_H
#define DUNLIN_NODE_BLOCKAGE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    BLOCKAGE_PATIENCE_MS = 2500, /* after a question, before anything is thought of it */
    BLOCKAGE_CHECK_MS = 500,     /* for the likeliest, before TCP is dialled */
    BLOCKAGE_JUDGE_MS = 1000,    /* for the other end of a link that stands */
    BLOCKAGE_TRY_MS = 5000,      /* while blocked, one datagram goes by UDP too, this often */
};

/* All zero: nothing was asked. */
struct blockage {
    bool blocked;
    uint64_t asked_ns; /* the first question since heard_ns */
    uint64_t heard_ns;
    uint64_t check_ns, judge_ns; /* when that state began; 0: it did not */
    uint64_t try_ns;             /* last try while blocked */
};

enum blockage_step {
    BLOCKAGE_NOTHING,
    BLOCKAGE_CHECK,   /* ask the likeliest to answer by UDP; end what TCP links there are: they are old */
    BLOCKAGE_DIAL,    /* TCP links to the likeliest; said again until one stands */
    BLOCKAGE_JUDGE,   /* ask the other ends of TCP links by UDP */
    BLOCKAGE_BLOCKED, /* said once: use TCP */
};

/* A datagram left for the outside. */
void blockage_asked(struct blockage *blockage, uint64_t now_ns);
/* An authentic one came by UDP from there; true: what was blocked is no longer. */
bool blockage_heard(struct blockage *blockage, uint64_t now_ns);
/* What to do now; link_stands: a TCP link to the outside is open, and is no
 * older than BLOCKAGE_CHECK. */
enum blockage_step blockage_step(struct blockage *blockage, uint64_t now_ns, bool link_stands);
/* While blocked: may this datagram try UDP as well?  Counts as the try. */
bool blockage_try(struct blockage *blockage, uint64_t now_ns);
/* When blockage_step wants to be asked next; UINT64_MAX: not before something is asked. */
uint64_t blockage_deadline_ns(const struct blockage *blockage, uint64_t now_ns);

#endif
