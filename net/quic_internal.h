/* Private parts of the QUIC endpoint: included by net/quic_*.c, net/quic.c and their tests only. */
#ifndef DUNLIN_NET_QUIC_INTERNAL_H
#define DUNLIN_NET_QUIC_INTERNAL_H

#include <netinet/in.h>

#include "net/quic.h"
#include "net/quic_compat.h"
#include "net/quic_list.h"

enum {
    QUIC_CID_BYTES = 8,
    QUIC_CIDS_PER_CONN = 16,      /* 7 active, some retired, the client's first one */
    QUIC_BLOCK_BYTES = 8192 - 16, /* data of one buffer block */
    QUIC_SLAB_BLOCKS = 32,        /* blocks obtained together */
    QUIC_SEGMENTS_MAX = 60,       /* of one GSO batch; Linux allows 64 */
    QUIC_UNSENT_MAX = 256 * 1024, /* of a stream: frames not handed to QUIC yet */
    QUIC_UNSENT_BULK_MAX = 1024 * 1024,
    QUIC_UNACKED_MAX = 1024 * 1024, /* of a stream: bytes kept for repetition, bounds rate x RTT */
    QUIC_UNACKED_BULK_MAX = 16 * 1024 * 1024,
    QUIC_OWED_MAX = 64 * 1024, /* most a lower send class saves up while higher ones send */
    QUIC_OWED_SHARE = 16,      /* it is owed one byte in this many */
    QUIC_SHAPED_BATCH = 6000,  /* bytes a shaped connection waits for: five packets a system call */
    QUIC_RESETS_PER_SECOND = 20,
    QUIC_ALPN_BYTES = 17, /* "dunlin/1/" and 8 hex digits */
};

#define QUIC_SECOND_NS UINT64_C(1000000000)

/* Fixed-size blocks, obtained in slabs as they are first needed, never more than blocks_max. */
struct quic_block {
    struct quic_block *next;
    uint8_t data[QUIC_BLOCK_BYTES];
};

struct quic_pool {
    struct allocator allocator;
    struct quic_block *free;
    void **slabs;
    size_t slab_count, slabs_max;
    size_t used, blocks_max;
};

/* A byte queue over blocks: all but the last are full, the first begins at head_at. */
struct quic_chain {
    struct quic_block *head, *tail;
    size_t head_at, tail_used;
    size_t len;
};

struct quic_stream {
    struct quic_link in_conn;  /* conn->streams, or ep->free_streams */
    struct quic_link in_ready; /* ep->ready: something may be told to the application */
    struct quic_link in_send;  /* conn->sending[class]: something may be sent */
    struct quic_conn *conn;    /* NULL: the connection is gone */
    struct id peer;
    uint32_t index, generation;
    int64_t id; /* QUIC's */
    uint8_t service, class;
    bool used, outgoing;
    bool opened; /* head known and, if the peer opened it, told to the application */
    bool dead;   /* the handle is */
    bool closed; /* QUIC has forgotten it */
    bool paused, want_writable;
    bool fin_queued, fin_sent, fin_received, end_told;
    int reset_err;                 /* to be told */
    struct quic_chain out;         /* from the first unacknowledged byte */
    struct quic_block *send_block; /* next byte to hand to QUIC: block and place; NULL: none yet */
    size_t send_at;
    uint64_t queued, sent, acked; /* stream offsets */
    struct quic_chain in;
};

/* State of a connection slot.
 *   FREE --quic_conn_dial, quic_conn_accept--> HANDSHAKE --quic_conn_up--> UP
 *   HANDSHAKE, UP --quic_conn_fail, quic_disconnect--> CLOSING (one close packet to send) --quic_conn_kill-->
 * DEAD HANDSHAKE, UP --quic_conn_kill (peer closed, timeout, stateless reset)--> DEAD (DISCONNECTED to tell)
 * --> FREE ng and tls exist in HANDSHAKE, UP and CLOSING only. */
enum quic_conn_state { CONN_FREE, CONN_HANDSHAKE, CONN_UP, CONN_CLOSING, CONN_DEAD };

struct quic_conn {
    enum quic_conn_state state;
    struct quic *ep;
    struct quic_link in_dirty; /* ep->dirty, ep->waiting or ep->shaped */
    bool parked;               /* it is in one of the latter two */
    struct quic_link in_told;  /* ep->up or ep->down: an event to tell */
    struct quic_link streams;
    struct quic_link sending[STREAM_CLASS_COUNT];
    ngtcp2_conn *ng;
    gnutls_session_t tls;
    ngtcp2_crypto_conn_ref ref;
    struct id peer;
    bool server;
    bool announced; /* CONNECTED was told */
    bool auth_failed, wrong_network;
    bool became_up; /* set inside a callback, acted on after it */
    bool nudge;     /* send a non-probing ack-eliciting packet */
    int down_err;
    quic_close_error close_error; /* CLOSING */
    uint64_t first_cid;           /* server: the client's own first choice */
    uint64_t born_ns, expiry_ns;
    uint32_t epoch;
    struct sockaddr_in6 local, remote; /* synthetic */
    bool moving;                       /* server: the next fit packet is to come from a new address */
    bool stranded;                     /* server: nothing may be written before something is heard */
    uint64_t moving_ns;                /* since when */
    uint64_t validating_until_ns;      /* server: path validation may take until then */
    size_t datagram_cap;
    struct shaper shaper; /* what the route grants; rate 0: no limit */
    size_t stream_count, outgoing_count;
    size_t in_blocks;
    uint64_t wire_sent, wire_received, last_received_ns;
    uint64_t sent[STREAM_CLASS_COUNT], received[STREAM_CLASS_COUNT];
};

struct quic_cid_slot {
    uint64_t key; /* 0: empty; our keys have the top bit set */
    struct quic_conn *conn;
};

struct quic {
    struct quic_config cfg; /* identity is NULL after quic_create */
    struct id self;
    uint8_t cid_key[16];
    uint8_t alpn[QUIC_ALPN_BYTES];
    gnutls_certificate_credentials_t credentials;
    gnutls_priority_t priority;
    uint64_t now_ns; /* of the call in progress, for callbacks */
    struct quic_conn *conns;
    struct quic_stream *streams;
    struct quic_cid_slot *cids;
    size_t cid_mask, cid_count;
    struct quic_link free_streams, ready, dirty, up, down;
    struct quic_link waiting; /* for the node's upload cap */
    struct quic_link shaped;  /* for what their own route grants */
    size_t conn_count, handshakes_in, stream_count;
    struct quic_pool in_pool, out_pool;
    bool out_starved; /* a stream found out_pool full */
    uint8_t *scratch; /* the frame of the last FRAME event */
    size_t scratch_bytes;
    size_t owed[STREAM_CLASS_COUNT];
    uint8_t stash[QUIC_DATAGRAM_MAX]; /* a packet that did not fit its batch */
    size_t stash_len;
    struct id stash_peer;
    uint64_t reset_window_ns;
    uint32_t resets_sent;
};

/* quic_block.c */
int quic_pool_init(struct quic_pool *pool, const struct allocator *allocator, size_t bytes);
void quic_pool_deinit(struct quic_pool *pool);
size_t quic_pool_free_bytes(const struct quic_pool *pool);
/* Links enough empty blocks behind the chain's end for exactly len bytes more; quic_chain_fill must then put
 * just as many there.  False: the pool is exhausted, nothing changed. */
bool quic_chain_reserve(struct quic_pool *pool, struct quic_chain *chain, size_t len);
void quic_chain_fill(struct quic_chain *chain, const uint8_t *data, size_t len);
/* Both.  False: the pool is exhausted, nothing was appended. */
bool quic_chain_append(struct quic_pool *pool, struct quic_chain *chain, const uint8_t *data, size_t len);
/* Copies len bytes from the front, which must be there (asserted). */
void quic_chain_peek(const struct quic_chain *chain, size_t skip, uint8_t *out, size_t len);
void quic_chain_consume(struct quic_pool *pool, struct quic_chain *chain, size_t len);
void quic_chain_clear(struct quic_pool *pool, struct quic_chain *chain);

/* quic_cid.c */
int quic_cids_init(struct quic *ep);
void quic_cid_generate(struct quic *ep, uint8_t out[QUIC_CID_BYTES]);
uint64_t quic_cid_key(const uint8_t cid[QUIC_CID_BYTES]);
/* True when this endpoint, or an earlier run with the same secret, made the id. */
bool quic_cid_is_ours(const struct quic *ep, const uint8_t cid[QUIC_CID_BYTES]);
void quic_cid_token(const struct quic *ep, const uint8_t cid[QUIC_CID_BYTES], uint8_t token[16]);
bool quic_cid_insert(struct quic *ep, uint64_t key, struct quic_conn *conn);
struct quic_conn *quic_cid_find(const struct quic *ep, uint64_t key);
void quic_cid_remove(struct quic *ep, uint64_t key);
void quic_cid_remove_all(struct quic *ep, const struct quic_conn *conn);

/* quic_tls.c */
int quic_tls_init(struct quic *ep, const struct net_identity *identity);
void quic_tls_deinit(struct quic *ep);
int quic_tls_session(struct quic_conn *conn);
bool quic_tls_alpn_agreed(const struct quic_conn *conn);

/* quic_packet.c: wrappers of ngtcp2's per-packet calls */
/* Reads one packet; *authentic tells whether anything in it passed decryption. */
int quic_packet_read(struct quic_conn *conn, uint64_t now_ns, struct bytes datagram, bool *authentic);
/* ngtcp2's decrypt callback, noting success. */
int quic_packet_decrypt(uint8_t *dest, const ngtcp2_crypto_aead *aead, const ngtcp2_crypto_aead_ctx *aead_ctx,
                        const uint8_t *ciphertext, size_t ciphertextlen, const uint8_t *nonce,
                        size_t noncelen, const uint8_t *aad, size_t aadlen);

/* quic_conn.c */
struct quic_conn *quic_conn_of(const struct quic *ep, const struct id *peer);
int quic_conn_dial(struct quic *ep, uint64_t now_ns, const struct id *peer);
int quic_conn_accept(struct quic *ep, uint64_t now_ns, const struct id *peer, const ngtcp2_pkt_hd *head,
                     struct quic_conn **out);
void quic_conn_dirty(struct quic_conn *conn);
void quic_conn_update_expiry(struct quic_conn *conn, uint64_t now_ns);
/* After any ngtcp2 call that may have run callbacks. */
void quic_conn_settle(struct quic_conn *conn, uint64_t now_ns);
/* ngtcp2 returned this error for the connection: close it, telling the peer where that makes sense. */
void quic_conn_fail(struct quic_conn *conn, uint64_t now_ns, int liberr);
/* Starts closing with an application error. */
void quic_conn_close(struct quic_conn *conn, uint64_t now_ns, int err);
/* Frees the library's objects and detaches the streams; an event is left to tell, or the slot is free. */
void quic_conn_kill(struct quic_conn *conn, int err);
void quic_conn_release(struct quic_conn *conn);
uint64_t quic_code_of(int err);
int quic_err_of(uint64_t code);

/* quic_route.c */
void quic_route_init(struct quic_conn *conn);
ngtcp2_path quic_route_path(struct quic_conn *conn);
/* Our packets take another route: the client moves now, the server with a packet that comes in. */
void quic_route_changed(struct quic_conn *conn, uint64_t now_ns);
/* A stage of path validation begins or has ended. */
void quic_route_validating(struct quic_conn *conn, uint64_t now_ns);
/* Before a packet of this length is read, and after it was. */
void quic_route_packet(struct quic_conn *conn, uint64_t now_ns, size_t len);
void quic_route_heard(struct quic_conn *conn);
/* ngtcp2 found no viable path.  False: there is no help. */
bool quic_route_strand(struct quic_conn *conn, uint64_t now_ns);
/* ngtcp2's expiry, or later while stranded. */
uint64_t quic_route_expiry(const struct quic_conn *conn, uint64_t now_ns, uint64_t expiry_ns);

/* quic_callbacks.c */
void quic_callbacks_fill(ngtcp2_callbacks *callbacks, bool server);

/* quic_stream.c */
struct quic_stream *quic_stream_take(struct quic_conn *conn, int64_t id, bool outgoing);
void quic_stream_ready(struct quic_stream *s);
/* Ends the handle and both directions; the slot is given back when QUIC agrees. */
void quic_stream_fail(struct quic_stream *s, int err);
void quic_stream_maybe_free(struct quic_stream *s);
/* Frees a stream whose connection is gone. */
void quic_stream_drop(struct quic *ep, struct quic_stream *s);
/* True when at least half of what quic_stream_send may hold is free. */
bool quic_stream_half_free(const struct quic_stream *s);
/* Gives window back for len bytes of s that were consumed or dropped. */
void quic_stream_credit(struct quic_stream *s, size_t len);
void quic_stream_detach(struct quic_stream *s, int err, bool tell);
void quic_stream_acked(struct quic_stream *s, uint64_t upto);
uint64_t quic_stream_handle(const struct quic_stream *s);
/* Once buffers are free again, tells streams that had found none. */
void quic_streams_wake(struct quic *ep);

#endif
