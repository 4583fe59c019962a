/* Datagrams inside one TCP connection: the way round a firewall that lets no UDP through.
 *
 * TLS 1.3 with raw Ed25519 keys both ways (RFC 8446, RFC 7250); the ALPN names the network.  Inside, frames
 * of a 2-byte length and one datagram exactly as it would stand in UDP (net/tls_frame.h).  A frame of length
 * 0 is a ping.  The accepter sends one as soon as it has accepted the dialler: a TLS client alone cannot know
 * that.
 *
 * It keeps the manners of datagrams: what does not fit the queue is dropped and counted, nothing waits for
 * room.  What TCP adds is order, no loss below the queue, and one lost segment delaying all behind it.
 *
 * No sockets and no clock: bytes of the TCP connection go in and out of memory.  Single-threaded.  One link
 * is one block of at most TLS_LINK_BYTES, and 19 KB of GnuTLS's. */
#ifndef DUNLIN_NET_TLS_LINK_H
#define DUNLIN_NET_TLS_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/err.h"
#include "net/identity.h"

enum {
    TLS_LINK_DATAGRAM_MAX = 1500,
    TLS_LINK_QUEUE_BYTES = 256 * 1024,  /* frames that wait to be encrypted; more is dropped */
    TLS_LINK_HANDSHAKE_MAX = 16 * 1024, /* bytes a peer may send before it has proven who it is */
    TLS_LINK_CHORES_BURST = 6,          /* key updates, tickets and the like after the handshake ... */
    TLS_LINK_BYTES = 320 * 1024,        /* ... one more each TLS_LINK_CHORE_NS */
};

#define TLS_LINK_HANDSHAKE_NS UINT64_C(10000000000) /* from creation to open */
#define TLS_LINK_IDLE_NS      UINT64_C(60000000000) /* nothing received */
#define TLS_LINK_STALL_NS     UINT64_C(30000000000) /* output waits and TCP takes none of it */
#define TLS_LINK_PING_NS      UINT64_C(20000000000) /* nothing sent */
#define TLS_LINK_CHORE_NS     UINT64_C(60000000000)

/*   HANDSHAKE --tls_link_feed--> OPEN      (accepter: handshake complete; dialler: first frame has come)
 *   HANDSHAKE, OPEN --feed, tick, end, close--> CLOSED      (tls_link_reason says why)
 * OPEN: the peer's key is proven, and so is that both are in one network.  CLOSED: for good; what
 * tls_link_output still has (an alert) may be written, and the TCP connection be closed. */
enum tls_link_state { TLS_LINK_HANDSHAKE, TLS_LINK_OPEN, TLS_LINK_CLOSED };

struct tls_link_stats {
    uint64_t datagrams_sent, datagrams_received;
    uint64_t bytes_sent, bytes_received; /* of datagrams */
    uint64_t records_sent;
    uint64_t dropped; /* the queue was full */
};

struct tls_link_keys; /* one a node and network, shared by its links */
struct tls_link;

/* Returns owned keys in *out (free with tls_link_keys_destroy, after the last link).  Copies the identity.
 * ERR_NO_MEMORY; ERR_TLS: the library refused. */
MUST_USE int tls_link_keys_create(struct tls_link_keys **out, const struct allocator *allocator,
                                  const struct net_identity *identity, uint32_t network_id);
/* Frees; NULL is allowed. */
void tls_link_keys_destroy(struct tls_link_keys *keys);

/* Returns an owned link in HANDSHAKE (free with tls_link_destroy).  server: we accepted the connection.
 * expected: the id the peer must have, copied; NULL: any but our own.  Borrows keys until destroyed.
 * ERR_NO_MEMORY, ERR_TLS: close the connection. */
MUST_USE int tls_link_create(struct tls_link **out, struct tls_link_keys *keys, bool server,
                             const struct id *expected, uint64_t now_ns);
/* Frees; NULL is allowed.  Sends nothing. */
void tls_link_destroy(struct tls_link *link);

/* Takes bytes that TCP delivered.  Returns how many were taken: fewer than in.len while datagrams wait for
 * tls_link_poll; poll them, then feed the rest.  Negative: the link is closed now, with that reason:
 *   ERR_AUTH       the peer has no key, another key than expected, or our own, or refuses ours
 *   ERR_NETWORK    it is in another network, or speaks another version
 *   ERR_MALFORMED  not TLS 1.3, or a broken record
 *   ERR_TOO_LARGE  a frame above TLS_LINK_DATAGRAM_MAX, or an endless handshake
 *   ERR_RATE       a flood of key updates
 *   ERR_CLOSED     the peer said goodbye
 *   ERR_TLS        the library failed */
MUST_USE int tls_link_feed(struct tls_link *link, uint64_t now_ns, struct bytes in);
/* The next datagram, borrowed until the next feed or destroy.  False: none; feed on. */
bool tls_link_poll(struct tls_link *link, struct bytes *datagram);
/* Queues one datagram of 1 to TLS_LINK_DATAGRAM_MAX bytes; copies.  ERR_AGAIN: queue full, dropped and
 * counted; ERR_TOO_LARGE: longer, or empty; ERR_STATE: not open. */
MUST_USE int tls_link_send(struct tls_link *link, uint64_t now_ns, struct bytes datagram);
/* What to write to TCP now; empty: nothing.  Borrowed until the next call for this link.  Datagrams that wait
 * are put into as few records as they fit into, so call it once for many sends. */
struct bytes tls_link_output(struct tls_link *link, uint64_t now_ns);
/* TCP took the first len bytes of the last tls_link_output. */
void tls_link_written(struct tls_link *link, uint64_t now_ns, size_t len);
/* Timeouts and pings. */
void tls_link_tick(struct tls_link *link, uint64_t now_ns);
/* When to tick next; UINT64_MAX once closed. */
uint64_t tls_link_deadline_ns(const struct tls_link *link);

/* We close: says goodbye in tls_link_output.  No effect once closed. */
void tls_link_close(struct tls_link *link, int reason);
/* The TCP connection is gone (ERR_CLOSED: its end was read; ERR_IO).  No effect once closed. */
void tls_link_end(struct tls_link *link, int reason);

/* State, and the reason (ERR_OK before CLOSED). */
enum tls_link_state tls_link_state(const struct tls_link *link);
int tls_link_reason(const struct tls_link *link);
/* The peer's id; false while it is not proven.  Once open it stays, also when closed. */
bool tls_link_peer(const struct tls_link *link, struct id *peer);
/* Bytes of frames that wait for tls_link_output; at most TLS_LINK_QUEUE_BYTES. */
size_t tls_link_queued(const struct tls_link *link);
/* When a datagram, not a ping, was last sent or received; creation if never. */
uint64_t tls_link_used_ns(const struct tls_link *link);
/* Counters since creation. */
struct tls_link_stats tls_link_stats(const struct tls_link *link);
/* Asserts what holds between any two calls. */
void tls_link_check_invariants(const struct tls_link *link);

#endif
