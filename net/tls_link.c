#include "net/tls_link.h"

#include <assert.h>
#include <errno.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <string.h>

#include "net/raw_key.h"
#include "net/tls_frame.h"

/* As for QUIC: TLS 1.3 only, X25519, Ed25519, raw public keys both ways, AES first.  Unlike there, the
 * compatibility mode (RFC 8446 D.4) stays on: to a middlebox this looks like any other TLS. */
static const char priorities[] =
    "NONE:+VERS-TLS1.3:+AES-128-GCM:+CHACHA20-POLY1305:+AEAD:+GROUP-X25519:+SIGN-EDDSA-ED25519:+COMP-NULL:"
    "+CTYPE-CLI-RAWPK:+CTYPE-SRV-RAWPK";

enum {
    RECORD_MAX = 16384,             /* plain bytes of one TLS record */
    RECORD_ROOM = RECORD_MAX + 512, /* its cipher bytes, and those of a key update in front */
    OUT_BYTES = 2 * RECORD_ROOM,
    READ_BYTES = RECORD_MAX + TLS_FRAME_HEAD_BYTES + TLS_FRAME_DATAGRAM_MAX,
    HANDSHAKE_MESSAGE_MAX = 4096, /* the longest of an honest peer has a few hundred bytes */
    ALPN_BYTES = sizeof "dunlin-tcp/1/01234567" - 1,
};

static_assert((int)TLS_LINK_DATAGRAM_MAX == (int)TLS_FRAME_DATAGRAM_MAX, "a datagram is a frame");

struct tls_link_keys {
    struct allocator allocator;
    struct id own;
    gnutls_certificate_credentials_t credentials;
    gnutls_priority_t priority;
    uint8_t alpn[ALPN_BYTES];
};

struct tls_link {
    struct tls_link_keys *keys;
    gnutls_session_t session;
    bool server, expects;
    bool shown;    /* the peer has shown the key `peer`, and it may have that one */
    bool complete; /* TLS's part of the handshake is over: `peer` is proven */
    bool refused;  /* our verify function said no */
    bool flooded;
    enum tls_link_state state;
    int reason;
    struct id expected, peer;
    struct bytes in; /* what tls_link_feed was given and GnuTLS has not read */
    size_t handshake_bytes;
    uint64_t now_ns; /* of the call that is being served, for GnuTLS's callbacks */
    uint64_t created_ns, received_ns, sent_ns, used_ns;
    uint64_t progress_ns; /* output has waited no longer than since then */
    uint64_t chore_ns;    /* until then chores are granted */
    uint32_t chores;
    size_t out_begin, out_end;
    struct tls_frame_queue queue;
    struct tls_frame_reader reader;
    struct tls_link_stats stats;
    uint8_t out[OUT_BYTES];
    uint8_t read_bytes[READ_BYTES];
    uint8_t queue_bytes[TLS_LINK_QUEUE_BYTES];
};

static_assert(sizeof(struct tls_link) <= TLS_LINK_BYTES, "the header tells how large a link is");

/* --- what GnuTLS calls -------------------------------------------------------------------------------- */

/* Nonzero ends the handshake with an alert. */
static int verify_peer(gnutls_session_t session)
{
    struct tls_link *link = gnutls_session_get_ptr(session);
    struct id shown;
    bool right = raw_key_peer(session, &shown) && !id_equal(&shown, &link->keys->own) &&
                 (!link->expects || id_equal(&shown, &link->expected));
    link->refused = !right;
    if (!right)
        return GNUTLS_E_CERTIFICATE_ERROR;
    link->peer = shown;
    link->shown = true;
    return 0;
}

static ssize_t pull(gnutls_transport_ptr_t ptr, void *out, size_t cap)
{
    struct tls_link *link = ptr;
    size_t len = link->in.len < cap ? link->in.len : cap;
    if (len == 0) {
        gnutls_transport_set_errno(link->session, EAGAIN);
        return -1;
    }
    memcpy(out, link->in.data, len);
    link->in = bytes_of(link->in.data + len, link->in.len - len);
    if (!link->complete)
        link->handshake_bytes += len;
    return (ssize_t)len;
}

static ssize_t push(gnutls_transport_ptr_t ptr, const void *data, size_t len)
{
    struct tls_link *link = ptr;
    if (len > OUT_BYTES - link->out_end) {
        gnutls_transport_set_errno(link->session, EAGAIN);
        return -1;
    }
    if (link->out_begin == link->out_end)
        link->progress_ns = link->now_ns;
    memcpy(link->out + link->out_end, data, len);
    link->out_end += len;
    return (ssize_t)len;
}

/* After the handshake, messages of the handshake protocol cost us key derivations and buffers but carry no
 * data: key updates, session tickets.  GnuTLS bounds them by second, this by minute. */
static int on_message(gnutls_session_t session, unsigned int type, unsigned int when, unsigned int incoming,
                      const gnutls_datum_t *message)
{
    struct tls_link *link = gnutls_session_get_ptr(session);
    (void)type;
    (void)when;
    (void)message;
    if (!link->complete || !incoming)
        return 0;
    uint64_t granted = (link->now_ns - link->chore_ns) / TLS_LINK_CHORE_NS;
    link->chore_ns += granted * TLS_LINK_CHORE_NS;
    link->chores = granted < link->chores ? link->chores - (uint32_t)granted : 0;
    if (link->chores >= TLS_LINK_CHORES_BURST) {
        link->flooded = true;
        return GNUTLS_E_TOO_MANY_HANDSHAKE_PACKETS;
    }
    link->chores++;
    return 0;
}

/* --- keys --------------------------------------------------------------------------------------------- */

int tls_link_keys_create(struct tls_link_keys **out, const struct allocator *allocator,
                         const struct net_identity *identity, uint32_t network_id)
{
    struct tls_link_keys *keys = allocator_get(allocator, 1, sizeof *keys);
    if (keys == NULL)
        return ERR_NO_MEMORY;
    keys->allocator = *allocator;
    keys->own = identity->id;
    char alpn[ALPN_BYTES + 1];
    (void)snprintf(alpn, sizeof alpn, "dunlin-tcp/1/%08x", (unsigned)network_id);
    memcpy(keys->alpn, alpn, ALPN_BYTES);
    int result = raw_key_credentials(identity, &keys->credentials);
    if (result == ERR_OK) {
        gnutls_certificate_set_verify_function(keys->credentials, verify_peer);
        if (gnutls_priority_init(&keys->priority, priorities, NULL) != GNUTLS_E_SUCCESS) {
            keys->priority = NULL;
            result = ERR_TLS;
        }
    }
    if (result != ERR_OK) {
        tls_link_keys_destroy(keys);
        return result;
    }
    *out = keys;
    return ERR_OK;
}

void tls_link_keys_destroy(struct tls_link_keys *keys)
{
    if (keys == NULL)
        return;
    if (keys->priority != NULL)
        gnutls_priority_deinit(keys->priority);
    if (keys->credentials != NULL)
        gnutls_certificate_free_credentials(keys->credentials);
    struct allocator allocator = keys->allocator;
    allocator_release(&allocator, keys);
}

/* --- life --------------------------------------------------------------------------------------------- */

static void finish(struct tls_link *link, int reason)
{
    ASSERT(reason < 0);
    if (link->state == TLS_LINK_CLOSED)
        return;
    link->state = TLS_LINK_CLOSED;
    link->reason = reason;
}

/* Makes room for an alert or a record behind what waits to be written. */
static void compact(struct tls_link *link)
{
    if (link->out_begin == 0)
        return;
    memmove(link->out, link->out + link->out_begin, link->out_end - link->out_begin);
    link->out_end -= link->out_begin;
    link->out_begin = 0;
}

static int alert_reason(gnutls_alert_description_t alert)
{
    switch (alert) {
    case GNUTLS_A_NO_APPLICATION_PROTOCOL:
        return ERR_NETWORK;
    case GNUTLS_A_BAD_CERTIFICATE:
    case GNUTLS_A_UNSUPPORTED_CERTIFICATE:
    case GNUTLS_A_CERTIFICATE_REVOKED:
    case GNUTLS_A_CERTIFICATE_EXPIRED:
    case GNUTLS_A_CERTIFICATE_UNKNOWN:
    case GNUTLS_A_CERTIFICATE_REQUIRED:
    case GNUTLS_A_UNKNOWN_CA:
    case GNUTLS_A_ACCESS_DENIED:
        return ERR_AUTH;
    default:
        return ERR_MALFORMED;
    }
}

static int reason_of(const struct tls_link *link, int code)
{
    if (link->refused)
        return ERR_AUTH;
    if (link->flooded)
        return ERR_RATE;
    switch (code) {
    case GNUTLS_E_NO_CERTIFICATE_FOUND:
    case GNUTLS_E_CERTIFICATE_REQUIRED:
    case GNUTLS_E_CERTIFICATE_ERROR:
    case GNUTLS_E_PK_SIG_VERIFY_FAILED:
        return ERR_AUTH;
    case GNUTLS_E_NO_APPLICATION_PROTOCOL:
        return ERR_NETWORK;
    case GNUTLS_E_TOO_MANY_HANDSHAKE_PACKETS:
        return ERR_RATE;
    case GNUTLS_E_HANDSHAKE_TOO_LARGE:
        return ERR_TOO_LARGE;
    case GNUTLS_E_FATAL_ALERT_RECEIVED:
        return alert_reason(gnutls_alert_get(link->session));
    case GNUTLS_E_MEMORY_ERROR:
        return ERR_NO_MEMORY;
    case GNUTLS_E_INTERNAL_ERROR:
    case GNUTLS_E_PUSH_ERROR:
        return ERR_TLS;
    default:
        return ERR_MALFORMED;
    }
}

/* GnuTLS reported code: tells the peer and ends. */
static void fail(struct tls_link *link, int code)
{
    compact(link);
    if (code != GNUTLS_E_FATAL_ALERT_RECEIVED)
        (void)gnutls_alert_send_appropriate(link->session, code);
    finish(link, reason_of(link, code));
}

static bool alpn_agreed(const struct tls_link *link)
{
    gnutls_datum_t chosen;
    return gnutls_alpn_get_selected_protocol(link->session, &chosen) == GNUTLS_E_SUCCESS &&
           chosen.size == ALPN_BYTES && memcmp(chosen.data, link->keys->alpn, ALPN_BYTES) == 0;
}

static void completed(struct tls_link *link)
{
    if (!alpn_agreed(link)) {
        fail(link, GNUTLS_E_NO_APPLICATION_PROTOCOL);
        return;
    }
    ASSERT(link->shown);
    link->complete = true;
    link->chore_ns = link->now_ns;
    if (!link->server)
        return;
    link->state = TLS_LINK_OPEN;
    int result = tls_frame_push(&link->queue, bytes_of(NULL, 0)); /* the dialler waits for a sign */
    ASSERT(result == ERR_OK);
}

/* Goes on with the handshake as far as the input reaches. */
static void shake(struct tls_link *link)
{
    int code = gnutls_handshake(link->session);
    if (link->handshake_bytes > TLS_LINK_HANDSHAKE_MAX) {
        finish(link, ERR_TOO_LARGE);
        return;
    }
    if (code == GNUTLS_E_SUCCESS)
        completed(link);
    else if (code != GNUTLS_E_AGAIN && code != GNUTLS_E_INTERRUPTED)
        fail(link, code);
}

static bool configure(struct tls_link *link)
{
    struct tls_link_keys *keys = link->keys;
    gnutls_session_t session = link->session;
    gnutls_datum_t alpn = {.data = keys->alpn, .size = ALPN_BYTES};
    gnutls_session_set_ptr(session, link);
    gnutls_transport_set_ptr(session, link);
    gnutls_transport_set_pull_function(session, pull);
    gnutls_transport_set_push_function(session, push);
    gnutls_handshake_set_timeout(session, GNUTLS_INDEFINITE_TIMEOUT); /* time is ours: tls_link_tick */
    gnutls_handshake_set_max_packet_length(session, HANDSHAKE_MESSAGE_MAX);
    gnutls_handshake_set_hook_function(session, GNUTLS_HANDSHAKE_ANY, GNUTLS_HOOK_PRE, on_message);
    if (link->server)
        gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE);
    return gnutls_priority_set(session, keys->priority) == GNUTLS_E_SUCCESS &&
           gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, keys->credentials) == GNUTLS_E_SUCCESS &&
           gnutls_alpn_set_protocols(session, &alpn, 1, GNUTLS_ALPN_MANDATORY) == GNUTLS_E_SUCCESS;
}

int tls_link_create(struct tls_link **out, struct tls_link_keys *keys, bool server, const struct id *expected,
                    uint64_t now_ns)
{
    struct tls_link *link = allocator_get(&keys->allocator, 1, sizeof *link);
    if (link == NULL)
        return ERR_NO_MEMORY;
    link->keys = keys;
    link->server = server;
    link->expects = expected != NULL;
    if (expected != NULL)
        link->expected = *expected;
    link->now_ns = now_ns;
    link->created_ns = link->received_ns = link->sent_ns = link->used_ns = link->progress_ns = now_ns;
    link->queue = tls_frame_queue_over(link->queue_bytes, sizeof link->queue_bytes);
    link->reader = tls_frame_reader_over(link->read_bytes, sizeof link->read_bytes);
    unsigned int flags = GNUTLS_ENABLE_RAWPK | GNUTLS_NO_TICKETS | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL;
    flags |= server ? GNUTLS_SERVER | GNUTLS_NO_AUTO_SEND_TICKET : GNUTLS_CLIENT;
    if (gnutls_init(&link->session, flags) != GNUTLS_E_SUCCESS)
        link->session = NULL;
    if (link->session == NULL || !configure(link)) {
        tls_link_destroy(link);
        return ERR_TLS;
    }
    if (!server)
        shake(link); /* its first flight waits in the output */
    *out = link;
    return ERR_OK;
}

void tls_link_destroy(struct tls_link *link)
{
    if (link == NULL)
        return;
    if (link->session != NULL)
        gnutls_deinit(link->session);
    struct allocator allocator = link->keys->allocator;
    allocator_release(&allocator, link);
}

/* --- in ----------------------------------------------------------------------------------------------- */

/* Decrypts one record's data. */
static void receive(struct tls_link *link)
{
    size_t room;
    uint8_t *to = tls_frame_room(&link->reader, &room);
    ssize_t len = gnutls_record_recv(link->session, to, room);
    if (len > 0)
        tls_frame_filled(&link->reader, (size_t)len);
    else if (len == 0)
        finish(link, ERR_CLOSED);
    else if (len != GNUTLS_E_AGAIN && len != GNUTLS_E_INTERRUPTED)
        fail(link, (int)len);
}

/* What the reader holds now.  1: a datagram waits; 0: none; negative: the link has ended. */
static int inspect(struct tls_link *link)
{
    int waits = tls_frame_waits(&link->reader);
    if (waits < 0) {
        compact(link);
        (void)gnutls_alert_send(link->session, GNUTLS_AL_FATAL, GNUTLS_A_RECORD_OVERFLOW);
        finish(link, waits);
        return waits;
    }
    if (link->state == TLS_LINK_HANDSHAKE && (waits > 0 || link->reader.frames > 0))
        link->state = TLS_LINK_OPEN;
    return waits;
}

int tls_link_feed(struct tls_link *link, uint64_t now_ns, struct bytes in)
{
    if (link->state == TLS_LINK_CLOSED)
        return link->reason;
    link->now_ns = now_ns;
    if (in.len > 0)
        link->received_ns = now_ns;
    link->in = in;
    /* GnuTLS asks for another call after each message of the handshake protocol, also with input at hand. */
    int waits = 0;
    size_t left;
    do {
        left = link->in.len;
        if (!link->complete)
            shake(link);
        else if ((waits = inspect(link)) == 0)
            receive(link);
    } while (link->state != TLS_LINK_CLOSED && waits == 0 && link->in.len < left);
    size_t taken = in.len - link->in.len;
    if (waits == 0 && link->in.len > 0)
        finish(link, ERR_TLS); /* GnuTLS takes nothing and gives nothing: never, but nobody shall spin */
    link->in = bytes_of(NULL, 0);
    return link->state == TLS_LINK_CLOSED ? link->reason : (int)taken;
}

bool tls_link_poll(struct tls_link *link, struct bytes *datagram)
{
    if (link->state != TLS_LINK_OPEN || inspect(link) != 1)
        return false;
    *datagram = tls_frame_take(&link->reader);
    link->stats.datagrams_received++;
    link->stats.bytes_received += datagram->len;
    link->used_ns = link->received_ns;
    return true;
}

/* --- out ---------------------------------------------------------------------------------------------- */

int tls_link_send(struct tls_link *link, uint64_t now_ns, struct bytes datagram)
{
    if (link->state != TLS_LINK_OPEN)
        return ERR_STATE;
    if (datagram.len == 0 || datagram.len > TLS_LINK_DATAGRAM_MAX)
        return ERR_TOO_LARGE;
    int result = tls_frame_push(&link->queue, datagram);
    if (result != ERR_OK) {
        link->stats.dropped++;
        return result;
    }
    link->stats.datagrams_sent++;
    link->stats.bytes_sent += datagram.len;
    link->sent_ns = link->used_ns = now_ns;
    return ERR_OK;
}

/* Encrypts the oldest of the queue into one record. */
static void encrypt(struct tls_link *link)
{
    struct bytes plain = tls_frame_span(&link->queue, RECORD_MAX);
    ssize_t len = gnutls_record_send(link->session, plain.data, plain.len);
    if (len <= 0) {
        finish(link, ERR_TLS); /* there was room: this is no reason to wait */
        return;
    }
    tls_frame_sent(&link->queue, (size_t)len);
    link->stats.records_sent++;
}

struct bytes tls_link_output(struct tls_link *link, uint64_t now_ns)
{
    link->now_ns = now_ns;
    while (link->state == TLS_LINK_OPEN && link->queue.used > 0) {
        if (OUT_BYTES - (link->out_end - link->out_begin) < RECORD_ROOM)
            break;
        if (OUT_BYTES - link->out_end < RECORD_ROOM)
            compact(link);
        encrypt(link);
    }
    return bytes_of(link->out + link->out_begin, link->out_end - link->out_begin);
}

void tls_link_written(struct tls_link *link, uint64_t now_ns, size_t len)
{
    ASSERT(len <= link->out_end - link->out_begin);
    if (len == 0)
        return;
    link->progress_ns = now_ns;
    link->out_begin += len;
    if (link->out_begin == link->out_end)
        link->out_begin = link->out_end = 0;
}

/* --- time --------------------------------------------------------------------------------------------- */

static bool output_waits(const struct tls_link *link)
{
    return link->out_end > link->out_begin;
}

void tls_link_tick(struct tls_link *link, uint64_t now_ns)
{
    link->now_ns = now_ns;
    bool late = link->state == TLS_LINK_HANDSHAKE && now_ns >= link->created_ns + TLS_LINK_HANDSHAKE_NS;
    bool idle = link->state == TLS_LINK_OPEN && now_ns >= link->received_ns + TLS_LINK_IDLE_NS;
    bool stalled = output_waits(link) && now_ns >= link->progress_ns + TLS_LINK_STALL_NS;
    if (late || idle || stalled) {
        finish(link, ERR_TIMEOUT);
        return;
    }
    if (link->state != TLS_LINK_OPEN || now_ns < link->sent_ns + TLS_LINK_PING_NS)
        return;
    link->sent_ns = now_ns;
    if (link->queue.used == 0) {
        int result = tls_frame_push(&link->queue, bytes_of(NULL, 0));
        ASSERT(result == ERR_OK);
    }
}

static uint64_t sooner(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t tls_link_deadline_ns(const struct tls_link *link)
{
    if (link->state == TLS_LINK_CLOSED)
        return UINT64_MAX;
    uint64_t due = link->state == TLS_LINK_HANDSHAKE
                       ? link->created_ns + TLS_LINK_HANDSHAKE_NS
                       : sooner(link->received_ns + TLS_LINK_IDLE_NS, link->sent_ns + TLS_LINK_PING_NS);
    return output_waits(link) ? sooner(due, link->progress_ns + TLS_LINK_STALL_NS) : due;
}

void tls_link_close(struct tls_link *link, int reason)
{
    if (link->state == TLS_LINK_CLOSED)
        return;
    compact(link);
    if (link->complete)
        (void)gnutls_bye(link->session, GNUTLS_SHUT_WR);
    finish(link, reason);
}

void tls_link_end(struct tls_link *link, int reason)
{
    finish(link, reason);
}

/* --- queries ------------------------------------------------------------------------------------------ */

enum tls_link_state tls_link_state(const struct tls_link *link)
{
    return link->state;
}

int tls_link_reason(const struct tls_link *link)
{
    return link->reason;
}

bool tls_link_peer(const struct tls_link *link, struct id *peer)
{
    if (!link->complete)
        return false;
    *peer = link->peer;
    return true;
}

size_t tls_link_queued(const struct tls_link *link)
{
    return link->queue.used;
}

uint64_t tls_link_used_ns(const struct tls_link *link)
{
    return link->used_ns;
}

struct tls_link_stats tls_link_stats(const struct tls_link *link)
{
    return link->stats;
}

void tls_link_check_invariants(const struct tls_link *link)
{
    ASSERT(link->queue.used <= TLS_LINK_QUEUE_BYTES && link->queue.first < TLS_LINK_QUEUE_BYTES);
    ASSERT(link->out_begin <= link->out_end && link->out_end <= OUT_BYTES);
    ASSERT(link->reader.begin <= link->reader.end && link->reader.end <= READ_BYTES);
    ASSERT((link->state == TLS_LINK_CLOSED) == (link->reason != ERR_OK));
    ASSERT(link->state != TLS_LINK_OPEN || link->complete);
    ASSERT(!link->complete || link->shown);
    ASSERT(link->in.len == 0);
    ASSERT(link->chores <= TLS_LINK_CHORES_BURST);
}
