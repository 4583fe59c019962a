/* Bulk transfers that measure the way to a peer (docs/protocol/speed.md): ours, for `dunlin speed`, and those
 * that peers ask for.
 *
 *     own:     CONNECTING --connected, stream opened--> SENDING or RECEIVING
 *     served:  FIRST --REQUEST--> RECEIVING (the peer sends up) or SENDING (the peer wants it down)
 *     both:    SENDING --all queued--> SENT --REPORT--> FREE      RECEIVING --END--> REPORTING --sent--> FREE
 *
 * From every state a reset stream, a lost connection, a cancelled call or silence leads to FREE; the call of
 * an own transfer is answered exactly once on the way.  A stream is open in all states but CONNECTING.
 *
 * Loop thread only.  Work is done in slices, so that a fast line never keeps the loop for itself. */
#ifndef DUNLIN_NODE_SPEED_H
#define DUNLIN_NODE_SPEED_H

#include "net/addr.h"
#include "net/quic.h"
#include "node/control.h"
#include "node/speed_meter.h"

struct node;

enum {
    SPEED_OWN_MAX = 8,             /* measurements of ours at once */
    SPEED_SERVED_MAX = 4,          /* of peers; the next is refused with ERR_BUSY */
    SPEED_PATHS_MAX = 16,          /* changes of path told; of later ones the last */
    SPEED_SLICE_BYTES = 512 << 10, /* sent in one round of the loop: about a millisecond of hashing */
    SPEED_FIRST_S = 10,            /* a stream that was opened must say what it wants */
    SPEED_IDLE_S = 30,             /* nothing moves for so long: given up */
    SPEED_SERVED_S = 3600,         /* longest measurement that a peer may ask for */
    SPEED_WAIT_S = 120,            /* for the connection, unless the call says otherwise */
};

/* All that peers may move in an hour, so that nobody uses up our line with measurements. */
#define SPEED_HOUR_BYTES (UINT64_C(16) << 30)

enum speed_state {
    SPEED_STATE_FREE,
    SPEED_STATE_CONNECTING,
    SPEED_STATE_FIRST,
    SPEED_STATE_SENDING,
    SPEED_STATE_SENT,
    SPEED_STATE_RECEIVING,
    SPEED_STATE_REPORTING,
};

/* The path from at_ms after the command's start on. */
struct speed_path {
    uint32_t at_ms;
    const char *text; /* static */
    struct net_addr addr;
};

struct speed_transfer {
    struct speed_meter meter; /* first: it wants 64-byte alignment */
    enum speed_state state;
    bool own;
    enum speed_direction direction;
    struct id peer;
    uint64_t handle;    /* of the stream; 0: none yet */
    uint64_t wanted;    /* bytes */
    uint64_t began_ns;  /* call or stream came */
    uint64_t opened_ns; /* the stream was opened */
    uint64_t first_ns;  /* own: the first byte is known to have arrived; 0: not yet */
    uint64_t moved_ns;  /* anything was sent or heard */
    uint64_t noted_ns;  /* receiver: last PROGRESS we sent */
    uint64_t told_ns;   /* own: when the call last heard of it */
    uint64_t arrived;   /* sender: bytes the receiver has told of */
    uint64_t slice;     /* sender: number of the next piece of data */
    uint8_t seed[randombytes_SEEDBYTES];
    /* Own ones: */
    struct control_ref call;
    uint64_t wait_ns; /* longest wait for the connection */
    struct speed_path paths[SPEED_PATHS_MAX];
    size_t path_count;
};

struct speed {
    struct speed_transfer transfers[SPEED_OWN_MAX + SPEED_SERVED_MAX];
    uint64_t round_ns; /* the round of the loop that left is about */
    size_t left;       /* bytes that may still be sent in it */
    bool hungry;       /* more could be sent at once */
    uint64_t tick_next_ns;
    uint64_t hour_ns; /* when the present hour began */
    uint64_t hour_bytes;
    uint8_t frame[SPEED_FRAME_MAX];
};

/* Obtains node->speed.  ERR_NO_MEMORY. */
MUST_USE int speed_open(struct node *node);
/* Gives it back; streams go with QUIC. */
void speed_close(struct node *node);
/* Feeds one event of quic_poll_event.  True: it was a stream event of our service, which nobody else needs.
 */
bool speed_quic_event(struct node *node, uint64_t now_ns, const struct quic_event *event);
/* Sends what there is room for; true when anything was sent. */
bool speed_drain(struct node *node, uint64_t now_ns);
/* Opens streams of connections that have come, gives up what is silent or no longer wanted, tells progress.
 */
void speed_tick(struct node *node, uint64_t now_ns);
/* When speed_tick or speed_drain want to be called; UINT64_MAX: never. */
uint64_t speed_deadline_ns(const struct node *node);
/* Starts a transfer for call, which is answered when it ends, and every second before that.  ERR_BUSY: we
 * have SPEED_OWN_MAX under way already.  ERR_FULL: no room for another peer.  The caller answers the call
 * then. */
MUST_USE int speed_start(struct node *node, uint64_t now_ns, struct control_call *call, const struct id *peer,
                         enum speed_direction direction, uint64_t bytes, uint64_t wait_ns);

/* methods_speed.c: what the call is told.  Each is given a call that is still there. */
void speed_tell_progress(struct node *node, struct control_call *call, const struct speed_transfer *transfer,
                         uint64_t now_ns);
/* report: the receiver's last word, made here when we are the receiver; hash: of the sender's bytes. */
void speed_tell_done(struct node *node, struct control_call *call, const struct speed_transfer *transfer,
                     uint64_t now_ns, const struct speed_frame *report, bool intact);
void speed_tell_failed(struct node *node, struct control_call *call, const struct speed_transfer *transfer,
                       uint64_t now_ns, int err);

#endif
