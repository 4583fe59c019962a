/* QUIC endpoint: framed streams to peers that are known by id, over datagrams that somebody else routes.
 *
 * What it is: all QUIC connections of one node behind a sans-I/O interface.  ngtcp2 with GnuTLS does the
 * protocol (RFC 9000, 9001); mutual TLS 1.3 with RFC 7250 raw Ed25519 keys, so a connection's peer is its
 * public key, checked inside the handshake.  What it is not: it holds no socket, thread or clock, and it
 * never learns an address: each peer is one synthetic address to ngtcp2, and the path layer sends each packet
 * by whatever route it likes.
 *
 * Roles: of two nodes the one with the lower id is always the QUIC client.  A server accepts an Initial only
 * from an address at which the route layer knows the peer (an authenticated datagram came from there).
 *
 * Driver: after each input alternate between draining quic_poll_event and quic_poll_send until neither has
 * anything, then re-arm one timer from quic_deadline_ns (sending makes room, which may be an event).  Not
 * thread-safe: one thread owns an endpoint.  ngtcp2 and GnuTLS allocate by themselves; our tables and stream
 * buffers are obtained once, through cfg->allocator.
 *
 * Life of a connection, seen from outside: quic_connect or an accepted Initial -> (handshake) -> CONNECTED ->
 * DISCONNECTED.  A handshake that fails gives DISCONNECTED without CONNECTED, on the dialling side only.
 * Streams of a connection that ends get STREAM_RESET first (those whose frames had all arrived: their frames
 * and STREAM_ENDED).
 *
 * Life of a stream handle: quic_stream_open or STREAM_OPENED -> FRAME* -> STREAM_ENDED (the peer finished) or
 * STREAM_RESET.  It dies with STREAM_RESET, with our quic_stream_reset, or once STREAM_ENDED was delivered
 * and we called quic_stream_finish.  Calls with a dead handle return ERR_NOT_FOUND. */
#ifndef DUNLIN_NET_QUIC_H
#define DUNLIN_NET_QUIC_H

#include <stdbool.h>

#include "base/alloc.h"
#include "base/bytes.h"
#include "base/err.h"
#include "base/id.h"
#include "base/rng.h"
#include "base/trace.h"
#include "net/identity.h"
#include "net/shaper.h"
#include "net/stream.h"

enum {
    QUIC_SECRET_BYTES = 32,
    QUIC_DATAGRAM_MIN = 1200,   /* over relays, and before anything is known about a path */
    QUIC_DATAGRAM_MAX = 1452,   /* 1500 less IPv6 and UDP headers */
    QUIC_BATCH_MAX = 64 * 1024, /* a GSO batch; give quic_poll_send this much room */
    QUIC_REPLY_MAX = 64,        /* a stateless reset */
    QUIC_KEY_BYTES = 32,        /* of quic_export_key */
};

enum quic_congestion {
    QUIC_CONGESTION_BBR, /* BBR version 2: keeps its rate on lossy paths, but is not polite to TCP */
    QUIC_CONGESTION_CUBIC,
};

struct quic_config {
    const struct net_identity *identity; /* borrowed until quic_create returns */
    uint32_t network_id;                 /* stands in the ALPN, so networks never merge */
    uint8_t secret[QUIC_SECRET_BYTES];   /* persistent: a restarted node must know its old connection ids */
    struct rng rng;
    struct trace_sink trace;
    struct allocator allocator;
    struct shaper *shaper;           /* node-wide upload cap, borrowed for the endpoint's life; NULL: none */
    enum quic_congestion congestion; /* of new connections */
    size_t connections_max;          /* established and half-open together */
    size_t handshakes_max;           /* half-open incoming ones */
    size_t streams_max;              /* of the whole endpoint */
    size_t streams_peer_max;         /* of one connection: opened by the peer, and as many by us */
    size_t buffer_bytes;             /* all stream buffers; touched only as used */
    size_t stream_window;            /* bytes a peer may send ahead of us on one stream; >= largest frame */
    size_t connection_window;        /* the same for all streams of one connection */
    uint64_t idle_timeout_ns;
    uint64_t keep_alive_ns;
    uint32_t
        frame_max[STREAM_SERVICE_COUNT]; /* largest frame a service takes; 0: the service is not offered */
};

enum quic_event_kind {
    QUIC_CONNECTED,
    QUIC_DISCONNECTED,
    QUIC_STREAM_OPENED, /* by the peer */
    QUIC_FRAME,
    QUIC_STREAM_WRITABLE, /* after ERR_AGAIN: at least half of the stream's send buffer is free */
    QUIC_STREAM_ENDED,    /* the peer finished and every frame was delivered */
    QUIC_STREAM_RESET,
};

struct quic_event {
    enum quic_event_kind kind;
    struct id peer;
    uint64_t handle;    /* stream events */
    uint64_t rtt_ns;    /* CONNECTED */
    uint8_t service;    /* stream events: enum stream_service */
    uint8_t class;      /* stream events: enum stream_class */
    bool outgoing;      /* CONNECTED: we are the QUIC client; stream events: we opened it */
    int err;            /* DISCONNECTED, STREAM_RESET */
    struct bytes frame; /* FRAME: borrowed until the next call with this endpoint */
};

/* Answer to a datagram of an unknown connection: send it to the address the datagram came from. */
struct quic_reply {
    size_t len; /* 0: none */
    uint8_t bytes[QUIC_REPLY_MAX];
};

struct quic_peer_info {
    bool connected;
    bool outgoing;
    uint64_t rtt_ns;
    uint64_t min_rtt_ns;
    uint64_t cwnd_bytes;
    uint64_t bytes_in_flight; /* the path layer suspects a silent route only when this is > 4 KB */
    size_t datagram_max;      /* what PMTUD found, within the route's cap */
    uint64_t wire_sent;       /* whole datagrams */
    uint64_t wire_received;
    uint64_t sent[STREAM_CLASS_COUNT]; /* stream bytes, first transmissions */
    uint64_t received[STREAM_CLASS_COUNT];
    uint64_t last_received_ns; /* last authentic packet */
    size_t streams;
};

struct quic;

/* Sensible values; the caller sets identity, network_id, secret, rng, allocator and frame_max. */
struct quic_config quic_config_default(void);
/* ERR_INVALID: *why (static text) says which relation fails. */
MUST_USE int quic_config_check(const struct quic_config *cfg, const char **why);
/* Returns an owned endpoint in *out (free with quic_destroy).  ERR_INVALID: config; ERR_NO_MEMORY; ERR_TLS:
 * GnuTLS refused the key or lacks an algorithm. */
MUST_USE int quic_create(struct quic **out, const struct quic_config *cfg, uint64_t now_ns);
/* Frees everything, wipes secrets, sends nothing: call quic_disconnect_all and drain sends before. */
void quic_destroy(struct quic *ep);

/* True when a datagram is QUIC's: bit 7 of byte 0 (long header), or bit 7 of byte 1 (short header: the first
 * byte of our own connection ids).  Everything else of ours has a first byte < 0x40 and that bit clear. */
bool quic_is_packet(struct bytes datagram);

/* One received datagram (GRO batches are split before).  from_peer: who is known, by an authenticated
 * datagram, to be at the address it came from; NULL when nobody.  *peer_out: whose connection authenticated
 * it, valid when 1 is returned: whatever the address, so the path layer may start proving that address.
 * Returns 1: authentic; 0: taken, but nothing authentic in it.  ERR_NOT_FOUND: unknown connection (*reply may
 * hold a reset to send back); ERR_MALFORMED; ERR_VERSION; ERR_UNREACHABLE: Initial from an unproven address;
 * ERR_STATE: Initial from a peer that must be server; ERR_FULL: no room for another connection; ERR_TLS: the
 * library failed. After any error just count it. */
MUST_USE int quic_recv(struct quic *ep, uint64_t now_ns, const struct id *from_peer, struct bytes datagram,
                       struct id *peer_out, struct quic_reply *reply);
/* Runs what is due. */
void quic_tick(struct quic *ep, uint64_t now_ns);
/* When quic_tick and quic_poll_send want to be called again; UINT64_MAX: never. */
uint64_t quic_deadline_ns(struct quic *ep, uint64_t now_ns);
/* Next event; false: none left. */
bool quic_poll_event(struct quic *ep, uint64_t now_ns, struct quic_event *out);
/* Writes datagrams for one peer into buf: all *segment_size bytes long except that the last may be shorter,
 * at most
 * 60.  Returns the bytes of the whole batch, 0 when nothing is to be sent now.  cap >= QUIC_DATAGRAM_MAX
 * (asserted). Send them by the peer's route, or drop them: QUIC repeats. */
size_t quic_poll_send(struct quic *ep, uint64_t now_ns, struct id *peer, uint8_t *buf, size_t cap,
                      size_t *segment_size);

/* Dials.  0: exactly one of CONNECTED and DISCONNECTED follows.  ERR_STATE: the peer's id is lower, so it
 * must dial; ask it to (nat/) and wait for CONNECTED.  ERR_EXISTS: connected or dialling already.
 * ERR_INVALID: own id. ERR_FULL, ERR_TLS. */
MUST_USE int quic_connect(struct quic *ep, uint64_t now_ns, const struct id *peer);
/* Says goodbye; DISCONNECTED with err follows at the next poll.  Unknown peers are ignored. */
void quic_disconnect(struct quic *ep, uint64_t now_ns, const struct id *peer, int err);
/* The same for every peer. */
void quic_disconnect_all(struct quic *ep, uint64_t now_ns, int err);
/* The route to this peer may be dead, and its packets go by another one as well: sends a PING, whose answer
 * shows at once what was lost, instead of when a timer ends.  Unknown peers are ignored. */
void quic_path_doubtful(struct quic *ep, uint64_t now_ns, const struct id *peer);
/* The route our packets to this peer take has changed, or a dead one answers again: congestion state, RTT,
 * back-off and PMTU start afresh, and datagrams are at most datagram_max bytes (QUIC_DATAGRAM_MIN over a
 * relay).  When the old route still works, call this max(old, new RTT) after the switch.  The end that was
 * dialled starts afresh with the next full packet that comes in; of changes within some three seconds only
 * the first.  Unknown peers are ignored. */
void quic_path_changed(struct quic *ep, uint64_t now_ns, const struct id *peer, size_t datagram_max);
/* Sets only the datagram cap: for a new peer's first route. */
void quic_path_cap(struct quic *ep, const struct id *peer, size_t datagram_max);
/* What the route grants, in bytes per second; 0: no limit.  Beyond it no stream data is offered to the
 * connection, while acknowledgements and control streams pass a little longer (net/shaper.h), so nothing
 * piles up in a relay's queue.  Costs nothing when the rate is unchanged.  Unknown peers are ignored. */
void quic_path_shape(struct quic *ep, uint64_t now_ns, const struct id *peer, uint64_t rate_bytes);
/* Congestion control of connections made from now on. */
void quic_set_congestion(struct quic *ep, enum quic_congestion congestion);

/* Opens a stream to a connected peer.  ERR_NOT_FOUND: not connected.  ERR_AGAIN: the peer allows no more
 * streams at the moment.  ERR_FULL: own table. ERR_INVALID: service or class out of range. */
MUST_USE int quic_stream_open(struct quic *ep, uint64_t now_ns, const struct id *peer, uint8_t service,
                              uint8_t class, uint64_t *handle);
/* Queues one whole frame (copied), 1 byte to the service's frame_max.  ERR_AGAIN: no room; STREAM_WRITABLE
 * follows. ERR_TOO_LARGE, ERR_INVALID (empty), ERR_NOT_FOUND, ERR_STATE (finished). */
MUST_USE int quic_stream_send(struct quic *ep, uint64_t handle, struct bytes frame);
/* No more frames from us.  Harmless when repeated or on a dead handle. */
void quic_stream_finish(struct quic *ep, uint64_t handle);
/* Ends both directions at once, tells the peer err (an ERR_ code); no more events.  Dead handles are ignored.
 */
void quic_stream_reset(struct quic *ep, uint64_t handle, int err);
/* While paused no FRAME or ENDED events come, and once the window is full the peer stops sending. */
void quic_stream_pause(struct quic *ep, uint64_t handle);
void quic_stream_resume(struct quic *ep, uint64_t handle);
/* Bytes quic_stream_send takes at the moment; 0 for a dead handle. */
size_t quic_stream_room(const struct quic *ep, uint64_t handle);

/* Secret both ends derive from the connection's TLS exporter (RFC 5705, RFC 8446 s.7.5) under label: keys for
 * path probes.  ERR_NOT_FOUND: not connected. */
MUST_USE int quic_export_key(struct quic *ep, const struct id *peer, const char *label,
                             uint8_t out[QUIC_KEY_BYTES]);
/* ERR_NOT_FOUND: neither connected nor dialling. */
MUST_USE int quic_peer_info(struct quic *ep, const struct id *peer, struct quic_peer_info *out);
/* Established connections, and the id of the index-th of them (index < count, asserted), in no order. */
size_t quic_peer_count(const struct quic *ep);
void quic_peer_at(const struct quic *ep, size_t index, struct id *out);
/* Asserts everything that must hold; for tests. */
void quic_check_invariants(const struct quic *ep);

#endif
