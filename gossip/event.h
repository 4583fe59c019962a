/* What the exchange core gives out: actions on streams, events, counters. */
#ifndef DUNLIN_GOSSIP_EVENT_H
#define DUNLIN_GOSSIP_EVENT_H

#include "base/bytes.h"
#include "base/id.h"
#include "gossip/tensor.h"

enum gossip_action_kind {
    GOSSIP_ACTION_OPEN,   /* open a GOSSIP stream to peer (dial if need be), answer with opened or
                             open_failed(tag) */
    GOSSIP_ACTION_SEND,   /* frame on stream; room was said to be enough */
    GOSSIP_ACTION_FINISH, /* end our side after what was sent; the core forgets the handle */
    GOSSIP_ACTION_RESET,  /* break off now; the core forgets the handle */
};

struct gossip_action {
    enum gossip_action_kind kind;
    struct id peer;
    uint64_t tag;       /* OPEN */
    bool for_state;     /* OPEN: for a fetch, not for an exchange (another service or send class) */
    uint64_t stream;    /* the others */
    struct bytes frame; /* SEND: borrowed until the next call with this core */
};

enum gossip_solo {
    GOSSIP_SOLO_UNPAIRED = 1, /* alone, odd one out, or not counted yet */
    GOSSIP_SOLO_DEADLINE,     /* partner did not invite, answer or finish in time */
    GOSSIP_SOLO_UNREACHABLE,  /* no stream to the partner */
    GOSSIP_SOLO_BROKEN,       /* stream ended or was reset */
    GOSSIP_SOLO_BUSY,         /* partner said so */
    GOSSIP_SOLO_MALFORMED,    /* partner broke the protocol, or a digest did not match */
    GOSSIP_SOLO_UNCONFIRMED,  /* our commit went out, theirs did not come: they may have merged alone */
    GOSSIP_SOLO_SUPERSEDED,   /* a newer round took its place */
    GOSSIP_SOLO_NO_BUFFER,    /* all receive buffers are still at the merge thread */
    GOSSIP_SOLO_PAUSED,
    GOSSIP_SOLO_FAR,  /* a modular blob hardly decoded, here or there: int8 next time with this partner */
    GOSSIP_SOLO_HERE, /* the deadline struck while the partner waited for this caller's answer */
    GOSSIP_SOLO_COUNT
};

enum gossip_event_kind {
    GOSSIP_EVENT_MERGE,  /* one outcome of a round: all but solo, err and cookie */
    GOSSIP_EVENT_SOLO,   /* the other: round, fragment, solo, peer (zero: none), err, times, bytes */
    GOSSIP_EVENT_DECODE, /* round, fragment, peer, codec (modular), blob: answer with gossip_set_wanted or
                          * gossip_refuse, even when the round's outcome comes first */
    GOSSIP_EVENT_REPAIR, /* round, fragment, peer, list: blocks of our blob that the partner could not decode;
                          * answer with gossip_set_repair, even when the round's outcome comes first */
    GOSSIP_EVENT_ADVANCE, /* a member waits in this newer round: close ours early when it is within half a
                           * round of its end or a whole round behind, else do nothing */
    GOSSIP_EVENT_PHASE,   /* shift_ns: bring the next boundary forward (positive) or back by this much */
    GOSSIP_EVENT_BEHIND,  /* peer is in round, more than GOSSIP_ROUND_LAG_MAX ahead: fetch a state */
    GOSSIP_EVENT_STATE,   /* fetch done: round, peer, blob (the caller's buffer, fp32) */
    GOSSIP_EVENT_FETCH_FAILED, /* peer, err: try another */
    GOSSIP_EVENT_RELEASE,      /* cookie: the core no longer reads that blob or list */
};

struct gossip_event {
    enum gossip_event_kind kind;
    uint64_t round;
    size_t fragment;
    struct id peer;
    enum gossip_codec codec; /* of blob */
    struct bytes blob;       /* DECODE: until the answer.  MERGE: until gossip_merge_done */
    struct bytes
        repair;        /* MERGE: int8 blocks that we asked for, in the order of our list; until merge_done */
    struct bytes list; /* REPAIR: until the answer.  MERGE: the same list, or empty; until merge_done */
    enum gossip_solo solo;
    int err;
    int64_t shift_ns;
    uint64_t elapsed_ns; /* MERGE, SOLO: since the round began */
    uint64_t swap_ns;    /* MERGE, SOLO: since both had agreed to swap; 0: they had not */
    uint64_t bytes_sent; /* MERGE, SOLO: of this exchange: blob, lists and repairs, without frame heads */
    uint64_t bytes_received;
    uint64_t cookie;
};

struct gossip_counters {
    uint64_t rounds;                  /* = merges + sum of solo, + those open */
    uint64_t merges;                  /* MERGE events */
    uint64_t solo[GOSSIP_SOLO_COUNT]; /* SOLO events by reason; [UNCONFIRMED]: possible asymmetric commits */
    uint64_t refused;                 /* merges that the gate turned down (gossip_merge_done with an error) */
    uint64_t busy_sent;
    uint64_t malformed;  /* frames */
    uint64_t bytes_sent; /* of blobs, lists, repairs and states, without frame heads */
    uint64_t bytes_received;
    uint64_t repair_bytes_sent; /* of them: lists and repairs */
    uint64_t repair_bytes_received;
    uint64_t blocks_wanted;      /* blocks of partners' blobs that were wrong here */
    uint64_t blocks_repaired;    /* blocks of our blobs that partners asked for */
    uint64_t swap_ns;            /* sum over MERGE events */
    uint64_t commit_wait_max_ns; /* longest an exchange here stood between its own commit and its end */
    uint64_t states_served;
    uint64_t states_fetched;
};

#endif
