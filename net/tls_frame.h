/* Frames inside a TCP link: a 2-byte big-endian length, then so many bytes.  Private to net/tls_link.
 *
 *     length 0             a ping: nothing
 *     length 1 .. 1500     one datagram as it would stand in UDP
 *     longer               a fault: the link ends
 *
 * Frames lie across TLS records as they come; only the bytes' order counts. */
#ifndef DUNLIN_NET_TLS_FRAME_H
#define DUNLIN_NET_TLS_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/err.h"

enum { TLS_FRAME_HEAD_BYTES = 2, TLS_FRAME_DATAGRAM_MAX = 1500 };

/* Frames to send: a byte ring over the caller's memory. */
struct tls_frame_queue {
    uint8_t *bytes; /* [cap], borrowed */
    size_t cap, first, used;
};

/* Received bytes until they are whole frames, over the caller's memory. */
struct tls_frame_reader {
    uint8_t *bytes; /* [cap], borrowed */
    size_t cap, begin, end;
    uint64_t frames; /* seen so far, pings too */
};

/* An empty queue; bytes are borrowed until the last use. */
struct tls_frame_queue tls_frame_queue_over(uint8_t *bytes, size_t cap);
/* Appends a frame of at most TLS_FRAME_DATAGRAM_MAX bytes (asserted); an empty datagram makes a ping.
 * ERR_AGAIN: no room, nothing written. */
MUST_USE int tls_frame_push(struct tls_frame_queue *q, struct bytes datagram);
/* The oldest bytes, as many as lie in one piece, at most len_max.  Borrowed until the next push. */
struct bytes tls_frame_span(const struct tls_frame_queue *q, size_t len_max);
/* Gives the first len bytes back; at most what is used (asserted). */
void tls_frame_sent(struct tls_frame_queue *q, size_t len);

/* An empty reader; cap is at least one frame and what is written at once. */
struct tls_frame_reader tls_frame_reader_over(uint8_t *bytes, size_t cap);
/* Where to write what has been received, *room bytes at most: all but one unfinished frame's.  Only when
 * tls_frame_waits says 0.  Datagrams taken before are overwritten. */
uint8_t *tls_frame_room(struct tls_frame_reader *r, size_t *room);
/* len bytes were written there. */
void tls_frame_filled(struct tls_frame_reader *r, size_t len);
/* Passes over pings.  1: a whole datagram is there; 0: more bytes are needed; ERR_TOO_LARGE: a frame longer
 * than may be, end the link. */
MUST_USE int tls_frame_waits(struct tls_frame_reader *r);
/* The datagram that tls_frame_waits has found, borrowed until the next tls_frame_room. */
struct bytes tls_frame_take(struct tls_frame_reader *r);

#endif
