/* Which connection writes next, which stream fills the packet, and how packets become a GSO batch.
 *
 * Strict priority by send class, over all connections, except that a lower class that waits is owed one byte
 * in QUIC_OWED_SHARE of what higher classes send, so that none starves.  The upload cap decides how much may
 * leave: while it is used up only control streams, acknowledgements and ngtcp2's own repetitions pass, and
 * those only as far as the cap may be overdrawn. */
#include <string.h>

#include "net/quic_internal.h"

enum { ALL_CLASSES = (1 << STREAM_CLASS_COUNT) - 1, CONTROL_ONLY = 1 << STREAM_CLASS_CONTROL };

/* What one batch may do. */
struct limits {
    unsigned classes; /* bit per class whose stream data may be offered */
    size_t bytes;     /* of the whole batch */
};

static unsigned pending_classes(const struct quic_conn *conn)
{
    unsigned mask = 0;
    if (conn->state != CONN_UP)
        return 0;
    for (unsigned class = 0; class < STREAM_CLASS_COUNT; class ++)
        if (!quic_link_alone(&conn->sending[class]))
            mask |= 1U << class;
    return mask;
}

/* The class to serve next of those in mask, which is not empty. */
static unsigned choose_class(const struct quic *ep, unsigned mask)
{
    unsigned chosen = STREAM_CLASS_COUNT;
    for (unsigned class = 0; class < STREAM_CLASS_COUNT; class ++) {
        if (!(mask & 1U << class))
            continue;
        if (ep->owed[class] >= QUIC_DATAGRAM_MAX)
            return class;
        if (chosen == STREAM_CLASS_COUNT)
            chosen = class;
    }
    ASSERT(chosen < STREAM_CLASS_COUNT);
    return chosen;
}

/* Books stream bytes of a class: what waits below it earns a share, and it pays back its own. */
static void book(struct quic *ep, unsigned class, unsigned waiting, size_t bytes)
{
    for (unsigned lower = class + 1; lower < STREAM_CLASS_COUNT; lower++) {
        if (!(waiting & 1U << lower))
            continue;
        ep->owed[lower] += bytes / QUIC_OWED_SHARE;
        if (ep->owed[lower] > QUIC_OWED_MAX)
            ep->owed[lower] = QUIC_OWED_MAX;
    }
    ep->owed[class] -= ep->owed[class] < bytes ? ep->owed[class] : bytes;
}

/* Slices of the stream's next bytes, enough for one packet; returns their number and the bytes in *len. */
static size_t next_slices(const struct quic_stream *s, ngtcp2_vec slices[3], size_t *len)
{
    size_t left = (size_t)(s->queued - s->sent);
    struct quic_block *block = s->send_block;
    size_t at = s->send_at;
    size_t count = 0;
    *len = 0;
    while (left > 0 && count < 3) {
        if (at == QUIC_BLOCK_BYTES) {
            block = block->next;
            at = 0;
            continue;
        }
        size_t part = QUIC_BLOCK_BYTES - at < left ? QUIC_BLOCK_BYTES - at : left;
        slices[count++] = (ngtcp2_vec){.base = block->data + at, .len = part};
        *len += part;
        left -= part;
        at += part;
    }
    return count;
}

static void advance(struct quic_stream *s, size_t len)
{
    s->sent += len;
    while (len > 0) {
        if (s->send_at == QUIC_BLOCK_BYTES) {
            s->send_block = s->send_block->next;
            s->send_at = 0;
        }
        size_t part = QUIC_BLOCK_BYTES - s->send_at < len ? QUIC_BLOCK_BYTES - s->send_at : len;
        s->send_at += part;
        len -= part;
    }
}

/* Notes that ngtcp2 took len bytes of s, and its end. */
static void taken(struct quic_conn *conn, struct quic_stream *s, size_t len, bool fin, unsigned waiting)
{
    advance(s, len);
    conn->sent[s->class] += len;
    book(conn->ep, s->class, waiting, len);
    if (fin)
        s->fin_sent = true;
    if (s->sent == s->queued && (!s->fin_queued || s->fin_sent))
        quic_link_remove(&s->in_send);
    if (s->want_writable)
        quic_stream_ready(s);
}

/* Writes one packet with data of s, or without stream data when s is NULL.  Returns its length, 0: nothing
 * can be sent now, or an error of ngtcp2's. */
static ngtcp2_ssize write_packet(struct quic_conn *conn, struct quic_stream *s, uint64_t now_ns, uint8_t *out,
                                 size_t cap, unsigned waiting)
{
    ngtcp2_pkt_info info = {0};
    ngtcp2_path_storage path;
    ngtcp2_path_storage_zero(&path);
    ngtcp2_vec slices[3];
    size_t len = 0;
    size_t count = s != NULL ? next_slices(s, slices, &len) : 0;
    bool fin = s != NULL && s->fin_queued && len == s->queued - s->sent;
    ngtcp2_ssize accepted = -1;
    ngtcp2_ssize written =
        ngtcp2_conn_writev_stream(conn->ng, &path.path, &info, out, cap, &accepted,
                                  fin ? NGTCP2_WRITE_STREAM_FLAG_FIN : NGTCP2_WRITE_STREAM_FLAG_NONE,
                                  s != NULL ? s->id : -1, s != NULL ? slices : NULL, count, now_ns);
    if (written > 0 && s != NULL && accepted >= 0)
        taken(conn, s, (size_t)accepted, fin && (size_t)accepted == len, waiting);
    return written;
}

/* One packet of whatever is most urgent among the allowed classes. */
static ngtcp2_ssize write_next(struct quic_conn *conn, uint64_t now_ns, uint8_t *out, size_t cap,
                               unsigned classes)
{
    if (conn->nudge && conn->state == CONN_UP) {
        /* The keep-alive of a nanosecond is overdue, so ngtcp2 puts a PING into this packet. */
        ngtcp2_conn_set_keep_alive_timeout(conn->ng, 1);
        ngtcp2_ssize written = write_packet(conn, NULL, now_ns, out, cap, 0);
        ngtcp2_conn_set_keep_alive_timeout(conn->ng, conn->ep->cfg.keep_alive_ns);
        if (written > 0)
            conn->nudge = false;
        return written;
    }
    for (;;) {
        unsigned waiting = pending_classes(conn);
        unsigned mask = waiting & classes;
        if (mask == 0)
            return write_packet(conn, NULL, now_ns, out, cap, 0);
        unsigned class = choose_class(conn->ep, mask);
        struct quic_stream *s = QUIC_OWNER(conn->sending[class].next, struct quic_stream, in_send);
        ngtcp2_ssize written = write_packet(conn, s, now_ns, out, cap, waiting);
        if (written != NGTCP2_ERR_STREAM_DATA_BLOCKED && written != NGTCP2_ERR_STREAM_NOT_FOUND &&
            written != NGTCP2_ERR_STREAM_SHUT_WR)
            return written;
        quic_link_remove(&s->in_send); /* blocked: on_stream_window brings it back; else it is over */
    }
}

/* Fills buf with equal packets.  A packet longer than the first (a PMTUD probe, or data after a lone
 * acknowledgement) cannot join them and leaves alone, from the stash, at the next call. */
static size_t write_batch(struct quic_conn *conn, uint64_t now_ns, uint8_t *buf, const struct limits *limits,
                          size_t *segment_size)
{
    struct quic *ep = conn->ep;
    size_t used = 0;
    size_t segment = 0;
    ngtcp2_ssize written = 0;
    while (used == 0 || (used + segment <= limits->bytes && used / segment < QUIC_SEGMENTS_MAX)) {
        written = write_next(conn, now_ns, buf + used, conn->datagram_cap, limits->classes);
        if (written <= 0)
            break;
        size_t len = (size_t)written;
        if (used > 0 && len > segment) {
            memcpy(ep->stash, buf + used, len);
            ep->stash_len = len;
            ep->stash_peer = conn->peer;
            break;
        }
        if (used == 0)
            segment = len;
        used += len;
        if (len < segment)
            break;
    }
    if (written < 0)
        quic_conn_fail(conn, now_ns, (int)written);
    else if (written == 0)
        quic_link_remove(&conn->in_dirty);
    if (conn->ng != NULL && used > 0)
        ngtcp2_conn_update_pkt_tx_time(conn->ng, now_ns);
    *segment_size = segment;
    return used;
}

static size_t write_goodbye(struct quic_conn *conn, uint64_t now_ns, uint8_t *buf)
{
    ngtcp2_pkt_info info = {0};
    ngtcp2_path_storage path;
    ngtcp2_path_storage_zero(&path);
    ngtcp2_ssize written = ngtcp2_conn_write_connection_close(conn->ng, &path.path, &info, buf,
                                                              conn->datagram_cap, &conn->close_error, now_ns);
    quic_conn_kill(conn, conn->down_err);
    return written > 0 ? (size_t)written : 0;
}

/* The dirty connection to serve: closing ones and those with nothing but acknowledgements first, for they
 * need one packet; then by class. */
static struct quic_conn *choose_conn(struct quic *ep, unsigned classes)
{
    unsigned mask = 0;
    for (struct quic_link *at = ep->dirty.next; at != &ep->dirty; at = at->next) {
        struct quic_conn *conn = QUIC_OWNER(at, struct quic_conn, in_dirty);
        unsigned pending = pending_classes(conn) & classes;
        if (pending == 0 || conn->nudge)
            return conn;
        mask |= pending;
    }
    if (mask == 0)
        return NULL;
    unsigned class = choose_class(ep, mask);
    struct quic_link *at = ep->dirty.next;
    while (!(pending_classes(QUIC_OWNER(at, struct quic_conn, in_dirty)) & 1U << class))
        at = at->next;
    return QUIC_OWNER(at, struct quic_conn, in_dirty);
}

static size_t account(struct quic *ep, uint64_t now_ns, struct quic_conn *conn, size_t len)
{
    if (ep->cfg.shaper != NULL)
        shaper_charge(ep->cfg.shaper, now_ns, len);
    if (conn != NULL) {
        conn->wire_sent += len;
        shaper_charge(&conn->shaper, now_ns, len);
    }
    return len;
}

/* Lets the connection whose turn it was go to the back of its line, as well as the stream that it served. */
static void rotate(struct quic_conn *conn)
{
    if (quic_link_alone(&conn->in_dirty))
        return;
    quic_link_append(&conn->ep->dirty, &conn->in_dirty);
    for (int class = 0; class < STREAM_CLASS_COUNT; class ++)
        if (!quic_link_alone(&conn->sending[class]))
            quic_link_append(&conn->sending[class], conn->sending[class].next);
}

/* False: the upload cap lets nothing at all pass. */
static bool limits_now(struct quic *ep, uint64_t now_ns, size_t cap, struct limits *out)
{
    *out = (struct limits){.classes = ALL_CLASSES, .bytes = cap};
    if (ep->cfg.shaper == NULL)
        return true;
    size_t available = shaper_available(ep->cfg.shaper, now_ns);
    if (available == 0) {
        out->classes = CONTROL_ONLY;
        available = shaper_available_control(ep->cfg.shaper, now_ns);
    }
    if (available < out->bytes)
        out->bytes = available;
    return available > 0;
}

/* The connection's own limits: less where its route grants less.  False: it must not send at all now. */
static bool limits_of(struct quic_conn *conn, uint64_t now_ns, struct limits *limits)
{
    size_t available = shaper_available(&conn->shaper, now_ns);
    size_t quantum = ngtcp2_conn_get_send_quantum(conn->ng);
    if (available == 0) {
        limits->classes &= CONTROL_ONLY;
        available = shaper_available_control(&conn->shaper, now_ns);
    }
    if (available < limits->bytes)
        limits->bytes = available;
    if (quantum < limits->bytes)
        limits->bytes = quantum;
    return available > 0;
}

static void park(struct quic_conn *conn, struct quic_link *list)
{
    quic_link_append(list, &conn->in_dirty);
    conn->parked = true;
}

/* Parked connections that may send bulk again take their place in the line. */
static void unpark(struct quic *ep, uint64_t now_ns, unsigned classes)
{
    while (classes == ALL_CLASSES && !quic_link_alone(&ep->waiting))
        quic_conn_dirty(QUIC_OWNER(ep->waiting.next, struct quic_conn, in_dirty));
    struct quic_link *next;
    for (struct quic_link *at = ep->shaped.next; at != &ep->shaped; at = next) {
        struct quic_conn *conn = QUIC_OWNER(at, struct quic_conn, in_dirty);
        next = at->next;
        if (shaper_available(&conn->shaper, now_ns) > 0)
            quic_conn_dirty(conn);
    }
}

size_t quic_poll_send(struct quic *ep, uint64_t now_ns, struct id *peer, uint8_t *buf, size_t cap,
                      size_t *segment_size)
{
    ASSERT(cap >= QUIC_DATAGRAM_MAX);
    ep->now_ns = now_ns;
    if (ep->stash_len > 0) {
        size_t len = ep->stash_len;
        memcpy(buf, ep->stash, len);
        *peer = ep->stash_peer;
        *segment_size = len;
        ep->stash_len = 0;
        return account(ep, now_ns, quic_conn_of(ep, peer), len);
    }
    struct limits limits;
    if (!limits_now(ep, now_ns, cap, &limits))
        return 0;
    unpark(ep, now_ns, limits.classes);
    struct quic_conn *conn;
    while ((conn = choose_conn(ep, limits.classes)) != NULL) {
        *peer = conn->peer;
        if (conn->state == CONN_CLOSING) {
            *segment_size = write_goodbye(conn, now_ns, buf);
            if (*segment_size > 0)
                return account(ep, now_ns, NULL, *segment_size);
            continue;
        }
        struct limits own = limits;
        if (!limits_of(conn, now_ns, &own)) {
            park(conn, &ep->shaped);
            continue;
        }
        size_t len = write_batch(conn, now_ns, buf, &own, segment_size);
        if ((conn->state == CONN_HANDSHAKE || conn->state == CONN_UP) && !conn->stranded) {
            quic_conn_update_expiry(conn, now_ns);
            if (quic_link_alone(&conn->in_dirty) && (pending_classes(conn) & ~own.classes))
                park(conn, own.classes != limits.classes ? &ep->shaped : &ep->waiting);
            else
                rotate(conn);
        }
        if (len > 0)
            return account(ep, now_ns, conn, len);
    }
    return 0;
}
