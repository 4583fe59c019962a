/* One direction of an imitated link: which packets pass, and when each comes out at the other end.
 *
 * A packet may be lost; else it waits in a first in, first out queue for a line of some rate (and is dropped
 * when too much waits already), then travels for a fixed time and a random one.  Packets keep their order,
 * also under jitter, but for a share of them that is held back so that later ones overtake.  Decides and
 * remembers only: the packets themselves lie with the caller, named by a slot number. */
#ifndef DUNLIN_TOOLS_WAN_LINK_H
#define DUNLIN_TOOLS_WAN_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/heap.h"
#include "base/rng.h"

#define WAN_SHAPE_TEXT_MAX 1000U        /* bytes of a shape file */
#define WAN_RATE_MAX       (1ULL << 40) /* bits a second */
#define WAN_TIME_MAX_US    60000000U    /* delay and jitter, each */
#define WAN_REORDER_MIN_NS                                                                                   \
    2000000U /* a packet held back waits so much longer at least, and the jitter at most */

struct wan_shape {
    uint64_t rate_bps;    /* 0: no limit */
    uint64_t queue_bytes; /* waiting for the line; with a rate only */
    uint64_t delay_us;
    uint64_t jitter_us;   /* uniform from 0 to this, on top of the delay */
    uint64_t loss_ppm;    /* each packet on its own, of a million */
    uint64_t reorder_ppm; /* held back, of a million */
};

struct wan_packet {
    struct heap_order order; /* key: when it comes out, nanoseconds */
    uint32_t slot;
};

struct wan_link {
    struct wan_shape shape;
    struct rng rng;
    struct heap flying;    /* struct wan_packet */
    uint64_t line_free_ns; /* when the last accepted packet has left the queue */
    uint64_t last_due_ns;  /* no packet that keeps its order comes out earlier */
    uint64_t accepted;
    uint64_t lost;    /* by the loss share */
    uint64_t dropped; /* by a full queue or a full table */
};

/* The two shapes of a file, one a line: name=number words in any order, names as in struct wan_shape, those
 * left out are 0.  false: an unknown name, no number, a value beyond its limit, or not two lines; shapes may
 * then hold anything. */
bool wan_shapes_parse(struct bytes text, struct wan_shape shapes[2]);

/* An idle link.  packets [cap] is borrowed until the last use, rng's user too. */
void wan_link_init(struct wan_link *link, const struct wan_shape *shape, struct rng rng,
                   struct wan_packet *packets, size_t cap);
/* Another shape for packets from now on; those under way keep their times. */
void wan_link_reshape(struct wan_link *link, const struct wan_shape *shape);
/* A packet of len bytes enters.  false: it is lost or dropped and its slot is the caller's again; true: the
 * slot is the link's until wan_link_take gives it back.  O(log packets). */
bool wan_link_accept(struct wan_link *link, uint64_t now_ns, size_t len, uint32_t slot);
/* Gives the next slot whose packet has arrived by now.  false: none has. */
bool wan_link_take(struct wan_link *link, uint64_t now_ns, uint32_t *slot);
/* When the next packet comes out; UINT64_MAX: none is under way. */
uint64_t wan_link_deadline_ns(const struct wan_link *link);

#endif
