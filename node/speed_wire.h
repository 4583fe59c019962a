/* Frames of a speed measurement (docs/protocol/speed.md): pure codec, no state, no I/O.
 *
 * Byte 0 of a frame says what it is.  DATA is followed by the bytes themselves, every other frame by one
 * msgpack map with small integer keys. */
#ifndef DUNLIN_NODE_SPEED_WIRE_H
#define DUNLIN_NODE_SPEED_WIRE_H

#include "base/bytes.h"
#include "base/err.h"
#include "base/id.h"

enum {
    SPEED_DATA_MAX = 16 * 1024, /* small, so that a pause shows even when a frame takes long to arrive */
    SPEED_FRAME_MAX = 1 + SPEED_DATA_MAX,
    SPEED_NOTE_MAX = 512, /* every frame but DATA */
    SPEED_GAPS_MAX = 32,
};

#define SPEED_BYTES_MAX                                                                                      \
    (UINT64_C(4) << 30) /* of one measurement: a peer does not fill our line for a day                       \
                         */

enum speed_frame_kind {
    SPEED_REQUEST = 1,  /* opener's first frame */
    SPEED_DATA = 2,     /* sender to receiver */
    SPEED_END = 3,      /* sender to receiver: that was all */
    SPEED_PROGRESS = 4, /* receiver to sender */
    SPEED_REPORT = 5,   /* receiver to sender: its last frame */
};

/* Which way the bytes go, seen from the opener.  Wire values. */
enum speed_direction { SPEED_UP, SPEED_DOWN };

/* A pause of in-order delivery. */
struct speed_gap {
    uint32_t at_ms; /* when it began, after the first byte */
    uint32_t ms;
};

struct speed_frame {
    enum speed_frame_kind kind;
    enum speed_direction direction; /* REQUEST */
    uint64_t bytes;                 /* REQUEST: wanted, at least 1; the others: sent or received so far */
    struct id hash;                 /* END, REPORT: BLAKE2b-256 of these bytes */
    struct speed_gap gaps[SPEED_GAPS_MAX]; /* REPORT: longest first */
    size_t gap_count;
    struct bytes data; /* DATA: 1 to SPEED_DATA_MAX bytes, borrowed from the input */
};

/* Writes any frame but DATA (asserted) and returns its length, at most SPEED_NOTE_MAX. */
size_t speed_frame_encode(const struct speed_frame *frame, uint8_t out[SPEED_NOTE_MAX]);
/* ERR_MALFORMED: reset the stream with it.  ERR_TOO_LARGE: a REQUEST for more than SPEED_BYTES_MAX: reset the
 * stream with it, which tells the opener.  *out is undefined then.  O(in.len) for notes, O(1) for DATA. */
MUST_USE int speed_frame_decode(struct bytes in, struct speed_frame *out);

#endif
