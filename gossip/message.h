/* The frames of one gossip stream.  docs/protocol/gossip.md lists them with their limits; tests decode its
 * examples. */
#ifndef DUNLIN_GOSSIP_MESSAGE_H
#define DUNLIN_GOSSIP_MESSAGE_H

#include "base/bytes.h"
#include "base/err.h"
#include "base/id.h"
#include "gossip/tensor.h"

enum {
    GOSSIP_VERSION = 2,
    GOSSIP_PIECE_BYTES = 61440, /* of a blob in every PIECE but the last */
    GOSSIP_FRAME_MAX = 65536,   /* longest frame sent or accepted */
    GOSSIP_CONTROL_MAX = 256,   /* longest frame without bytes */
};

enum gossip_type {
    GOSSIP_INVITE = 1,  /* inviter: let us exchange snapshots of this round */
    GOSSIP_ACCEPT = 2,  /* acceptor: yes; pieces follow both ways */
    GOSSIP_BUSY = 3,    /* acceptor, or server of a state: no, because */
    GOSSIP_PIECE = 4,   /* the next piece of the blob */
    GOSSIP_DIGEST = 5,  /* blob, or repair, sent; BLAKE2b-256 of all bytes so far */
    GOSSIP_COMMIT = 6,  /* all received and right; the last digest again */
    GOSSIP_FETCH = 7,   /* joiner: send me your slow weights */
    GOSSIP_STATE = 8,   /* server: here they come, from this piece on */
    GOSSIP_WANT = 9,    /* a piece of the list of blocks that did not decode; empty: all did */
    GOSSIP_REPAIR = 10, /* the next piece of those blocks in int8; a second DIGEST ends them */
    GOSSIP_TYPE_LAST = GOSSIP_REPAIR,
};

enum gossip_busy {
    GOSSIP_BUSY_EXCHANGING = 1, /* no slot left just now */
    GOSSIP_BUSY_STALE = 2,      /* your round is over here; see round */
    GOSSIP_BUSY_VIEW = 3,       /* I am not paired with you in this round */
    GOSSIP_BUSY_UNKNOWN_RUN = 4,
    GOSSIP_BUSY_PAUSED = 5,
    GOSSIP_BUSY_SHAPE = 6,    /* another model, or no codec in common */
    GOSSIP_BUSY_BEHIND = 7,   /* your round is too far ahead of mine */
    GOSSIP_BUSY_NO_STATE = 8, /* nothing to fetch yet */
    GOSSIP_BUSY_FAR = 9,      /* in the middle: your modular blob hardly decodes, send int8 next time */
    GOSSIP_BUSY_LAST = GOSSIP_BUSY_FAR,
};

/* One decoded frame; which fields count depends on type (in brackets). */
struct gossip_message {
    enum gossip_type type;
    struct id run;           /* INVITE, FETCH */
    uint64_t round;          /* INVITE, ACCEPT, BUSY (own round), STATE */
    struct id view;          /* INVITE: view hash, for the log */
    uint32_t codecs;         /* INVITE: mask of codecs that the sender decodes */
    enum gossip_codec codec; /* INVITE, ACCEPT: of the blob this side will send; STATE */
    uint64_t param_count;    /* INVITE, STATE */
    struct id schema;        /* INVITE, STATE */
    uint32_t age_ms;         /* INVITE, ACCEPT, BUSY: time since the sender's round began */
    uint32_t held_ms;        /* ACCEPT: how long the invite waited */
    enum gossip_busy reason; /* BUSY */
    uint32_t index;          /* PIECE, WANT, REPAIR; FETCH: first one wanted; STATE: first one that follows */
    struct bytes bytes;      /* PIECE, REPAIR: 1..GOSSIP_PIECE_BYTES, WANT: from 0; borrows from the frame */
    uint64_t length;         /* WANT: of the whole list, <= 2^32 bytes */
    struct id digest;        /* DIGEST, COMMIT, STATE; FETCH: of the state to resume, zero for any */
};

/* Encodes; returns the length.  ERR_TOO_LARGE: cap too small (GOSSIP_CONTROL_MAX, or GOSSIP_FRAME_MAX with
 * bytes, always suffices). */
MUST_USE int gossip_message_encode(const struct gossip_message *message, uint8_t out[], size_t cap);
/* Decodes one whole frame, which must outlive out->bytes.  ERR_MALFORMED: not such a frame; ERR_VERSION:
 * INVITE or FETCH of another version; *out is untouched: reset the stream. */
MUST_USE int gossip_message_decode(struct bytes frame, struct gossip_message *out);

/* Run named in the first frame of an accepted stream, by which node/ finds the core.  ERR_MALFORMED,
 * ERR_VERSION: the frame is no INVITE or FETCH: reset the stream.  Unknown run: answer
 * gossip_message_unknown_run and finish. */
MUST_USE int gossip_message_run(struct bytes frame, struct id *run);
/* Encodes BUSY(unknown run) into out; returns its length. */
size_t gossip_message_unknown_run(uint8_t out[GOSSIP_CONTROL_MAX]);

#endif
