/* Making and ending connections. */
#include <string.h>

#include "net/quic_internal.h"

/* Application error codes on the wire are our codes with the sign removed. */
uint64_t quic_code_of(int err)
{
    return err < 0 ? (uint64_t) - (int64_t)err : 0;
}

int quic_err_of(uint64_t code)
{
    return code >= 10001 && code <= 49999 ? -(int)code : ERR_CLOSED;
}

struct quic_conn *quic_conn_of(const struct quic *ep, const struct id *peer)
{
    struct quic_conn *found = NULL;
    for (size_t i = 0; i < ep->cfg.connections_max; i++) {
        struct quic_conn *conn = &ep->conns[i];
        if ((conn->state == CONN_HANDSHAKE || conn->state == CONN_UP) && id_equal(&conn->peer, peer) &&
            (found == NULL || conn->state == CONN_UP))
            found = conn;
    }
    return found;
}

void quic_conn_dirty(struct quic_conn *conn)
{
    if (conn->stranded)
        return;
    /* A parked one may have acknowledgements to send, which no cap holds back for long. */
    if (conn->ng != NULL && (conn->parked || quic_link_alone(&conn->in_dirty)))
        quic_link_append(&conn->ep->dirty, &conn->in_dirty);
    conn->parked = false;
}

void quic_conn_update_expiry(struct quic_conn *conn, uint64_t now_ns)
{
    if (conn->state != CONN_HANDSHAKE && conn->state != CONN_UP) {
        conn->expiry_ns = UINT64_MAX;
        return;
    }
    conn->expiry_ns = ngtcp2_conn_get_expiry(conn->ng);
    /* What is overdue was handled by quic_tick or waits for a write that the upload cap holds back; asking
     * the driver to come again at once would make it spin. */
    if (conn->expiry_ns <= now_ns)
        conn->expiry_ns = now_ns + 1000000;
    conn->expiry_ns = quic_route_expiry(conn, now_ns, conn->expiry_ns);
}

static struct quic_conn *slot_take(struct quic *ep, uint64_t now_ns, const struct id *peer, bool server)
{
    struct quic_conn *conn = NULL;
    for (size_t i = 0; i < ep->cfg.connections_max && conn == NULL; i++)
        if (ep->conns[i].state == CONN_FREE)
            conn = &ep->conns[i];
    if (conn == NULL)
        return NULL;
    *conn = (struct quic_conn){.state = CONN_HANDSHAKE, .ep = ep, .peer = *peer, .server = server};
    quic_link_init(&conn->in_dirty);
    quic_link_init(&conn->in_told);
    quic_link_init(&conn->streams);
    for (int class = 0; class < STREAM_CLASS_COUNT; class ++)
        quic_link_init(&conn->sending[class]);
    conn->born_ns = now_ns;
    conn->datagram_cap = QUIC_DATAGRAM_MAX;
    quic_route_init(conn);
    ep->conn_count++;
    ep->handshakes_in += server;
    return conn;
}

static void fill_settings(struct quic_conn *conn, uint64_t now_ns, ngtcp2_settings *settings,
                          ngtcp2_transport_params *params)
{
    struct quic_config *cfg = &conn->ep->cfg;
    ngtcp2_settings_default(settings);
    settings->cc_algo = cfg->congestion == QUIC_CONGESTION_BBR ? QUIC_CC_BBR : NGTCP2_CC_ALGO_CUBIC;
    settings->initial_ts = now_ns;
    settings->initial_rtt =
        100 * NGTCP2_MILLISECONDS; /* the default of 333 ms paces the handshake needlessly */
    settings->max_tx_udp_payload_size = QUIC_DATAGRAM_MAX;
    settings->max_window = cfg->connection_window;
    settings->max_stream_window = cfg->stream_window;
    settings->handshake_timeout = 10 * QUIC_SECOND_NS;
    settings->rand_ctx.native_handle = &cfg->rng;

    ngtcp2_transport_params_default(params);
    params->initial_max_stream_data_bidi_local = cfg->stream_window;
    params->initial_max_stream_data_bidi_remote = cfg->stream_window;
    params->initial_max_stream_data_uni = 0;
    params->initial_max_data = cfg->connection_window;
    params->initial_max_streams_bidi = cfg->streams_peer_max;
    params->initial_max_streams_uni = 0;
    params->max_idle_timeout = cfg->idle_timeout_ns;
    params->active_connection_id_limit = 7;
}

static void start(struct quic_conn *conn)
{
    ngtcp2_conn_set_tls_native_handle(conn->ng, conn->tls);
    ngtcp2_conn_set_keep_alive_timeout(conn->ng, conn->ep->cfg.keep_alive_ns);
    quic_conn_dirty(conn);
}

int quic_conn_dial(struct quic *ep, uint64_t now_ns, const struct id *peer)
{
    struct quic_conn *conn = slot_take(ep, now_ns, peer, false);
    if (conn == NULL)
        return ERR_FULL;
    if (quic_tls_session(conn) != ERR_OK)
        goto release;
    ngtcp2_cid scid = {.datalen = QUIC_CID_BYTES};
    ngtcp2_cid dcid = {.datalen = QUIC_CID_BYTES};
    quic_cid_generate(ep, scid.data);
    quic_cid_generate(ep, dcid.data);
    if (!quic_cid_insert(ep, quic_cid_key(scid.data), conn))
        goto release;
    ngtcp2_callbacks callbacks;
    ngtcp2_settings settings;
    ngtcp2_transport_params params;
    quic_callbacks_fill(&callbacks, false);
    fill_settings(conn, now_ns, &settings, &params);
    ngtcp2_path path = quic_route_path(conn);
    if (ngtcp2_conn_client_new(&conn->ng, &dcid, &scid, &path, NGTCP2_PROTO_VER_V1, &callbacks, &settings,
                               &params, NULL, conn) != 0) {
        conn->ng = NULL;
        goto release;
    }
    start(conn);
    quic_conn_update_expiry(conn, now_ns);
    return ERR_OK;
release:
    quic_conn_release(conn);
    return ERR_TLS;
}

/* A peer whose half-open connection is still here dials again when it has restarted.  Forged Initials could
 * hold the place, so two are allowed and the older one gives way. */
static void make_room_for(struct quic *ep, const struct id *peer)
{
    struct quic_conn *oldest = NULL;
    size_t count = 0;
    for (size_t i = 0; i < ep->cfg.connections_max; i++) {
        struct quic_conn *conn = &ep->conns[i];
        if (conn->state != CONN_HANDSHAKE || !conn->server || !id_equal(&conn->peer, peer))
            continue;
        count++;
        if (oldest == NULL || conn->born_ns < oldest->born_ns)
            oldest = conn;
    }
    if (count >= 2)
        quic_conn_kill(oldest, ERR_BUSY);
}

int quic_conn_accept(struct quic *ep, uint64_t now_ns, const struct id *peer, const ngtcp2_pkt_hd *head,
                     struct quic_conn **out)
{
    make_room_for(ep, peer);
    if (ep->handshakes_in >= ep->cfg.handshakes_max)
        return ERR_FULL;
    struct quic_conn *conn = slot_take(ep, now_ns, peer, true);
    if (conn == NULL)
        return ERR_FULL;
    if (quic_tls_session(conn) != ERR_OK)
        goto release;
    ngtcp2_cid scid = {.datalen = QUIC_CID_BYTES};
    quic_cid_generate(ep, scid.data);
    uint64_t first = quic_cid_key(head->dcid.data);
    if (!quic_cid_insert(ep, quic_cid_key(scid.data), conn) || !quic_cid_insert(ep, first, conn))
        goto release;
    ngtcp2_callbacks callbacks;
    ngtcp2_settings settings;
    ngtcp2_transport_params params;
    quic_callbacks_fill(&callbacks, true);
    fill_settings(conn, now_ns, &settings, &params);
    params.original_dcid = head->dcid;
    quic_params_server(&params);
    params.stateless_reset_token_present = 1;
    quic_cid_token(ep, scid.data, params.stateless_reset_token);
    ngtcp2_path path = quic_route_path(conn);
    if (ngtcp2_conn_server_new(&conn->ng, &head->scid, &scid, &path, head->version, &callbacks, &settings,
                               &params, NULL, conn) != 0) {
        conn->ng = NULL;
        goto release;
    }
    start(conn);
    *out = conn;
    return ERR_OK;
release:
    quic_conn_release(conn);
    return ERR_TLS;
}

static void library_free(struct quic_conn *conn)
{
    if (conn->ng != NULL)
        ngtcp2_conn_del(conn->ng);
    if (conn->tls != NULL)
        gnutls_deinit(conn->tls);
    conn->ng = NULL;
    conn->tls = NULL;
    quic_cid_remove_all(conn->ep, conn);
}

void quic_conn_release(struct quic_conn *conn)
{
    struct quic *ep = conn->ep;
    ASSERT(conn->state != CONN_FREE && quic_link_alone(&conn->streams));
    if (conn->state == CONN_HANDSHAKE && conn->server)
        ep->handshakes_in--;
    library_free(conn);
    quic_link_remove(&conn->in_dirty);
    quic_link_remove(&conn->in_told);
    conn->state = CONN_FREE;
    ep->conn_count--;
}

void quic_conn_kill(struct quic_conn *conn, int err)
{
    struct quic *ep = conn->ep;
    ASSERT(conn->state != CONN_FREE && conn->state != CONN_DEAD);
    /* An incoming connection of which the application has not heard ends without a word. */
    bool tell = conn->announced || !conn->server;
    if (conn->down_err == 0)
        conn->down_err = err;
    if (conn->state == CONN_HANDSHAKE)
        trace_emit(&ep->cfg.trace, TRACE_CONN_REFUSED, ep->now_ns, &conn->peer, 0, 0, conn->down_err);
    while (!quic_link_alone(&conn->streams))
        quic_stream_detach(QUIC_OWNER(conn->streams.next, struct quic_stream, in_conn), conn->down_err,
                           conn->announced);
    if (!tell) {
        quic_conn_release(conn);
        return;
    }
    if (conn->state == CONN_HANDSHAKE && conn->server)
        ep->handshakes_in--;
    library_free(conn);
    quic_link_remove(&conn->in_dirty);
    conn->state = CONN_DEAD;
    conn->expiry_ns = UINT64_MAX;
    quic_link_append(&ep->down, &conn->in_told);
}

/* The error that a failed connection's own state stands for. */
static int err_of_failure(const struct quic_conn *conn, int liberr)
{
    if (conn->wrong_network)
        return ERR_NETWORK;
    if (conn->auth_failed)
        return ERR_AUTH;
    if (liberr == NGTCP2_ERR_IDLE_CLOSE || liberr == NGTCP2_ERR_HANDSHAKE_TIMEOUT)
        return ERR_TIMEOUT;
    return ERR_TLS;
}

/* What a peer's CONNECTION_CLOSE says; alerts are those of RFC 8446 s.6. */
static int err_of_close(const quic_close_error *close)
{
    enum { ALERT_BAD_CERTIFICATE = 42, ALERT_CERTIFICATE_UNKNOWN = 46, ALERT_CERTIFICATE_REQUIRED = 116 };
    enum { ALERT_NO_APPLICATION_PROTOCOL = 120 };
    if (close->type == QUIC_CLOSE_IS_APPLICATION)
        return quic_err_of(close->error_code);
    if (close->error_code < NGTCP2_CRYPTO_ERROR || close->error_code > NGTCP2_CRYPTO_ERROR + 255)
        return ERR_CLOSED;
    uint64_t alert = close->error_code - NGTCP2_CRYPTO_ERROR;
    if (alert == ALERT_NO_APPLICATION_PROTOCOL)
        return ERR_NETWORK;
    if ((alert >= ALERT_BAD_CERTIFICATE && alert <= ALERT_CERTIFICATE_UNKNOWN) ||
        alert == ALERT_CERTIFICATE_REQUIRED)
        return ERR_AUTH;
    return ERR_TLS;
}

static void start_closing(struct quic_conn *conn, int err)
{
    if (conn->state == CONN_HANDSHAKE && conn->server)
        conn->ep->handshakes_in--;
    if (conn->state == CONN_HANDSHAKE)
        trace_emit(&conn->ep->cfg.trace, TRACE_CONN_REFUSED, conn->ep->now_ns, &conn->peer, 0, 0, err);
    conn->state = CONN_CLOSING;
    conn->down_err = err;
    conn->expiry_ns = UINT64_MAX;
    /* From `waiting` too: a goodbye is not held back by the upload cap. */
    quic_link_append(&conn->ep->dirty, &conn->in_dirty);
    conn->parked = false;
}

void quic_conn_fail(struct quic_conn *conn, uint64_t now_ns, int liberr)
{
    if (conn->state != CONN_HANDSHAKE && conn->state != CONN_UP)
        return;
    if (liberr == NGTCP2_ERR_NO_VIABLE_PATH && quic_route_strand(conn, now_ns))
        return;
    switch (liberr) {
    case NGTCP2_ERR_DRAINING: {
        /* Holds nothing but zeroes after a stateless reset. */
        quic_close_error close;
        quic_close_get(conn->ng, &close);
        quic_conn_kill(conn, err_of_close(&close));
        return;
    }
    case NGTCP2_ERR_IDLE_CLOSE:
    case NGTCP2_ERR_HANDSHAKE_TIMEOUT:
    case NGTCP2_ERR_DROP_CONN:
        quic_conn_kill(conn, err_of_failure(conn, liberr));
        return;
    case NGTCP2_ERR_CRYPTO: {
        uint8_t alert = ngtcp2_conn_get_tls_alert(conn->ng);
        if (alert == 120)
            conn->wrong_network = true;
        quic_close_set_alert(&conn->close_error, alert);
        break;
    }
    default:
        quic_close_set_liberr(&conn->close_error, liberr);
    }
    trace_emit(&conn->ep->cfg.trace, TRACE_CONN_FAILED, now_ns, &conn->peer, liberr, 0, ERR_TLS);
    start_closing(conn, err_of_failure(conn, liberr));
}

void quic_conn_close(struct quic_conn *conn, uint64_t now_ns, int err)
{
    (void)now_ns;
    if (conn->state != CONN_HANDSHAKE && conn->state != CONN_UP)
        return;
    quic_close_set_application(&conn->close_error, quic_code_of(err));
    start_closing(conn, err);
}

/* A peer that dialled anew has restarted or lost its state: the connection it forgot ends. */
static void supersede(struct quic_conn *conn)
{
    struct quic *ep = conn->ep;
    for (size_t i = 0; i < ep->cfg.connections_max; i++) {
        struct quic_conn *other = &ep->conns[i];
        if (other != conn && (other->state == CONN_HANDSHAKE || other->state == CONN_UP) &&
            id_equal(&other->peer, &conn->peer))
            quic_conn_kill(other, ERR_CLOSED);
    }
}

void quic_conn_settle(struct quic_conn *conn, uint64_t now_ns)
{
    (void)now_ns;
    if (!conn->became_up || conn->state != CONN_HANDSHAKE)
        return;
    conn->became_up = false;
    conn->state = CONN_UP;
    if (conn->server)
        conn->ep->handshakes_in--;
    supersede(conn);
    quic_link_append(&conn->ep->up, &conn->in_told);
}
