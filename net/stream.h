/* Framed streams: how whole messages travel in a QUIC bidirectional stream.  Pure codec, no I/O.
 *
 * The opener's first four bytes are the stream head {version, service, send class, 0}.  Then each direction
 * is a sequence of frames: length (u32, big-endian), then that many bytes.  A length above the service's
 * limit, a zero length, an unknown service or class, or bytes that end inside a frame make the receiver reset
 * the stream. The side that did not open the stream sends frames only. */
#ifndef DUNLIN_NET_STREAM_H
#define DUNLIN_NET_STREAM_H

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"

enum {
    STREAM_VERSION = 1,
    STREAM_HEAD_BYTES = 4,
    STREAM_LENGTH_BYTES = 4,
    STREAM_SERVICE_COUNT = 16,              /* services are 0..15; 0 is never used on the wire */
    STREAM_FRAME_DEFAULT = 64 * 1024 + 256, /* a 64 KiB fragment with its message head */
    STREAM_FRAME_LIMIT = 4 * 1024 * 1024,   /* no service may ask for more */
};

/* Who answers a stream.  Numbers are wire values. */
enum stream_service {
    STREAM_SERVICE_RPC = 1,      /* net/rpc: unary calls */
    STREAM_SERVICE_SYNC = 2,     /* crdt: reconciliation of replicated state */
    STREAM_SERVICE_GOSSIP = 3,   /* gossip: membership and broadcast */
    STREAM_SERVICE_EXCHANGE = 4, /* gossip: weights of one round */
    STREAM_SERVICE_STATE = 5,    /* gossip: whole state for a joiner */
    STREAM_SERVICE_BLOB = 6,     /* node: bulk; at present measurements (docs/protocol/speed.md) */
};

/* Send classes, most urgent first (docs/ARCHITECTURE.md, send classes). */
enum stream_class {
    STREAM_CLASS_CONTROL,
    STREAM_CLASS_STATE,
    STREAM_CLASS_WEIGHTS,
    STREAM_CLASS_BLOBS,
    STREAM_CLASS_COUNT
};

struct stream_head {
    uint8_t service; /* enum stream_service, 1..STREAM_SERVICE_COUNT - 1 */
    uint8_t class;   /* enum stream_class */
};

/* Writes the four bytes.  service and class must be in range (asserted). */
void stream_head_encode(const struct stream_head *head, uint8_t out[STREAM_HEAD_BYTES]);
/* ERR_VERSION: another version.  ERR_MALFORMED: service or class out of range, or the last byte not zero.
 * Either way reset the stream; *out is untouched. */
MUST_USE int stream_head_decode(const uint8_t in[STREAM_HEAD_BYTES], struct stream_head *out);

/* Writes a frame's length.  len is 1..STREAM_FRAME_LIMIT (asserted). */
void stream_length_encode(size_t len, uint8_t out[STREAM_LENGTH_BYTES]);
/* Returns the length of the frame that follows.  ERR_MALFORMED: zero.  ERR_TOO_LARGE: above frame_max. Either
 * way reset the stream. */
MUST_USE int stream_length_decode(const uint8_t in[STREAM_LENGTH_BYTES], size_t frame_max);

#endif
