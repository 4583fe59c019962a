/* Routes as ngtcp2 sees them: one synthetic address per route, so that a change starts congestion state
 * afresh.
 *
 * A client moves by itself (immediate migration).  A server moves when a packet comes from a new address: we
 * choose with which packet, and that choice keeps three faults of ngtcp2's path validation away:
 *   - It validates in stages (new address, its MTU, the old address).  A move in the midst of it, with a new
 *     connection id of the client's, retires the old id twice: a limit is then thought to be exceeded, or the
 *     library aborts.  So no move is made before the stages must be over; one that had to wait for longer
 *     than a second is left out, since round trip and window have followed the new route by then.
 *   - The MTU stage exists only when the first packet was short (a server may answer with thrice its bytes),
 *     and its failure ends the connection.  So a full packet is waited for, and a client sends one at once.
 *   - Where it does happen, the connection is not ended: it is stranded, writes nothing, and the next packet
 *     that comes in, from yet another address, sets it going again. */
#include <arpa/inet.h>
#include <string.h>

#include "net/quic_internal.h"

enum {
    FULL_BYTES = 1200, /* a packet that lets the answer be as long as validation wants it */
    STAGE_TIMERS = 8,  /* a stage tries thrice and waits for one, two and four of them */
};

static const uint64_t patience_ns = QUIC_SECOND_NS;      /* then a short packet will do */
static const uint64_t timer_least_ns = 325000000;        /* of a round trip that is not known yet */
static const uint64_t stranded_look_ns = QUIC_SECOND_NS; /* only the idle time-out is to be noticed */

/* The synthetic address of one end: only the IP part may differ between epochs, since a server takes a change
 * of port alone for a NAT rebinding and keeps its congestion state. */
static void synthetic_address(struct sockaddr_in6 *out, uint8_t end, uint32_t epoch)
{
    *out = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(4433)};
    out->sin6_addr.s6_addr[0] = 0xfd;
    out->sin6_addr.s6_addr[1] = end;
    uint32_t wire = htonl(epoch);
    memcpy(&out->sin6_addr.s6_addr[12], &wire, sizeof wire);
}

void quic_route_init(struct quic_conn *conn)
{
    conn->epoch = 1;
    synthetic_address(&conn->local, 1, 1);
    synthetic_address(&conn->remote, 2, 1);
}

ngtcp2_path quic_route_path(struct quic_conn *conn)
{
    return (ngtcp2_path){
        .local = {.addr = (ngtcp2_sockaddr *)&conn->local, .addrlen = sizeof conn->local},
        .remote = {.addr = (ngtcp2_sockaddr *)&conn->remote, .addrlen = sizeof conn->remote},
    };
}

static void migrate(struct quic_conn *conn, uint64_t now_ns)
{
    synthetic_address(&conn->local, 1, ++conn->epoch);
    ngtcp2_path path = quic_route_path(conn);
    if (ngtcp2_conn_initiate_immediate_migration(conn->ng, &path, now_ns) == 0)
        return;
    /* No spare connection id yet, after many changes in a row: ngtcp2 stays where it was, so must we.  The
     * next change skips this epoch, an old address is never used again. */
    const ngtcp2_path *current = ngtcp2_conn_get_path(conn->ng);
    memcpy(&conn->local, current->local.addr, sizeof conn->local);
}

void quic_route_changed(struct quic_conn *conn, uint64_t now_ns)
{
    if (conn->state != CONN_UP)
        return; /* the handshake has no congestion state worth a reset */
    if (!conn->server) {
        migrate(conn, now_ns);
    } else if (!conn->moving) {
        conn->moving = true;
        conn->moving_ns = now_ns;
    }
    conn->nudge = true;
    quic_conn_dirty(conn);
}

void quic_route_validating(struct quic_conn *conn, uint64_t now_ns)
{
    quic_ng_stat stat;
    quic_ng_get_stat(conn->ng, &stat);
    uint64_t timer_ns = stat.smoothed_rtt + 4 * stat.rttvar + 25 * NGTCP2_MILLISECONDS;
    uint64_t until_ns = now_ns + STAGE_TIMERS * (timer_ns > timer_least_ns ? timer_ns : timer_least_ns);
    if (until_ns > conn->validating_until_ns)
        conn->validating_until_ns = until_ns;
}

static void move(struct quic_conn *conn, uint64_t now_ns)
{
    synthetic_address(&conn->remote, 2, ++conn->epoch);
    conn->moving = false;
    quic_route_validating(conn, now_ns);
}

void quic_route_packet(struct quic_conn *conn, uint64_t now_ns, size_t len)
{
    bool late = now_ns >= conn->moving_ns + patience_ns;
    if (conn->stranded) {
        move(conn, now_ns);
    } else if (conn->moving && now_ns < conn->validating_until_ns) {
        conn->moving = !late;
    } else if (conn->moving && (late || len >= FULL_BYTES)) {
        move(conn, now_ns);
    }
}

void quic_route_heard(struct quic_conn *conn)
{
    if (!conn->stranded)
        return;
    const ngtcp2_path *current = ngtcp2_conn_get_path(conn->ng);
    conn->stranded = memcmp(current->remote.addr, &conn->remote, sizeof conn->remote) != 0;
}

bool quic_route_strand(struct quic_conn *conn, uint64_t now_ns)
{
    if (!conn->server || conn->state != CONN_UP)
        return false;
    conn->stranded = true;
    conn->nudge = true;
    quic_link_remove(&conn->in_dirty);
    conn->parked = false;
    conn->expiry_ns = now_ns + stranded_look_ns;
    return true;
}

uint64_t quic_route_expiry(const struct quic_conn *conn, uint64_t now_ns, uint64_t expiry_ns)
{
    uint64_t look_ns = now_ns + stranded_look_ns;
    return conn->stranded && expiry_ns < look_ns ? look_ns : expiry_ns;
}
