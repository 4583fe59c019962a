/* When a relay session to one peer may be asked for next.  Pure.
 *
 * The relays are those that the peer's record names, so anybody can have us write to any address by naming it
 * as a relay.  One that stays silent is asked ever less often; one that answers and drops what it gave is
 * asked no faster than any other.  A refusal came from the relay itself, and another is asked a second later.
 */
#ifndef DUNLIN_NODE_SEEK_H
#define DUNLIN_NODE_SEEK_H

#include <stdbool.h>
#include <stdint.h>

enum {
    SEEK_AGAIN_MS = 4000,    /* between two sessions asked for */
    SEEK_REFUSED_MS = 1000,  /* when the first was refused; doubles too */
    SEEK_DOUBLINGS_MAX = 4,  /* of that, by silent relays: at most 64 s */
    SEEK_USELESS_MS = 5000,  /* a session that brings no route for so long gives way to another */
    SEEK_STANDBY_MS = 20000, /* between two asked for as a reserve */
};

/* All zero: at once. */
struct seek {
    uint64_t next_ns;
    uint64_t opened_ns; /* the last one asked for; 0: none */
    uint32_t silent;    /* in a row */
    uint32_t refused;   /* since one stood */
};

/* The next one may be asked for. */
bool seek_due(const struct seek *seek, uint64_t now_ns);
/* One is asked for now (or there was none to ask for). */
void seek_opened(struct seek *seek, uint64_t now_ns, bool standby);
/* One stands. */
void seek_up(struct seek *seek);
/* One did not come about; silent: its relay did not answer. */
void seek_failed(struct seek *seek, uint64_t now_ns, bool silent);
/* A session or the route has ended, or other relays are named: seek at once, within bounds. */
void seek_hurry(struct seek *seek, uint64_t now_ns);

#endif
