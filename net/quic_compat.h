/* The one place that knows which ngtcp2 is installed: 0.12.1 (Debian 12) or 1.x (Debian 13). */
#ifndef DUNLIN_NET_QUIC_COMPAT_H
#define DUNLIN_NET_QUIC_COMPAT_H

#include <ngtcp2/ngtcp2.h>
#include <ngtcp2/ngtcp2_crypto.h>
#include <ngtcp2/ngtcp2_crypto_gnutls.h>

#if NGTCP2_VERSION_NUM < 0x000c01
#error "ngtcp2 0.12.1 or later is required"
#endif

/* quic_ng_shutdown_stream ends both directions, the write side first: queued control frames leave in reverse
 * order, and a receiver that has not seen the stream yet must meet STOP_SENDING before RESET_STREAM.  The
 * other way round ngtcp2 0.12 never creates the stream, never resets its own side, and ours is never closed.
 */

#if NGTCP2_VERSION_NUM >= 0x010000

typedef ngtcp2_ccerr quic_close_error;
#define QUIC_CLOSE_IS_APPLICATION NGTCP2_CCERR_TYPE_APPLICATION
#define QUIC_CC_BBR               NGTCP2_CC_ALGO_BBR
/* A parameter of the path validation callback that 0.12 has not. */
#define QUIC_NG_OLD_PATH const ngtcp2_path *old_path __attribute__((unused)),

/* What CONNECTION_CLOSE says: the transport error of a library error. */
static inline void quic_close_set_liberr(quic_close_error *e, int liberr)
{
    ngtcp2_ccerr_default(e);
    ngtcp2_ccerr_set_liberr(e, liberr, NULL, 0);
}

/* The same: a TLS alert. */
static inline void quic_close_set_alert(quic_close_error *e, uint8_t alert)
{
    ngtcp2_ccerr_default(e);
    ngtcp2_ccerr_set_tls_alert(e, alert, NULL, 0);
}

/* The same: one of our own codes. */
static inline void quic_close_set_application(quic_close_error *e, uint64_t code)
{
    ngtcp2_ccerr_default(e);
    ngtcp2_ccerr_set_application_error(e, code, NULL, 0);
}

/* What the peer's CONNECTION_CLOSE said. */
static inline void quic_close_get(ngtcp2_conn *conn, quic_close_error *out)
{
    *out = *ngtcp2_conn_get_ccerr(conn);
}

/* Ends both directions, see above. */
static inline void quic_ng_shutdown_stream(ngtcp2_conn *conn, int64_t id, uint64_t code)
{
    (void)ngtcp2_conn_shutdown_stream_write(conn, 0, id, code);
    (void)ngtcp2_conn_shutdown_stream_read(conn, 0, id, code);
}

/* What only a server must set. */
static inline void quic_params_server(ngtcp2_transport_params *params)
{
    params->original_dcid_present = 1;
}

typedef ngtcp2_conn_info quic_ng_stat;

/* Round trip, window and bytes in flight. */
static inline void quic_ng_get_stat(ngtcp2_conn *conn, quic_ng_stat *out)
{
    ngtcp2_conn_get_conn_info(conn, out);
}

#else

typedef ngtcp2_connection_close_error quic_close_error;
#define QUIC_CLOSE_IS_APPLICATION NGTCP2_CONNECTION_CLOSE_ERROR_CODE_TYPE_APPLICATION
#define QUIC_CC_BBR               NGTCP2_CC_ALGO_BBR2
#define QUIC_NG_OLD_PATH

/* What CONNECTION_CLOSE says: the transport error of a library error. */
static inline void quic_close_set_liberr(quic_close_error *e, int liberr)
{
    ngtcp2_connection_close_error_default(e);
    ngtcp2_connection_close_error_set_transport_error_liberr(e, liberr, NULL, 0);
}

/* The same: a TLS alert. */
static inline void quic_close_set_alert(quic_close_error *e, uint8_t alert)
{
    ngtcp2_connection_close_error_default(e);
    ngtcp2_connection_close_error_set_transport_error_tls_alert(e, alert, NULL, 0);
}

/* The same: one of our own codes. */
static inline void quic_close_set_application(quic_close_error *e, uint64_t code)
{
    ngtcp2_connection_close_error_default(e);
    ngtcp2_connection_close_error_set_application_error(e, code, NULL, 0);
}

/* What the peer's CONNECTION_CLOSE said. */
static inline void quic_close_get(ngtcp2_conn *conn, quic_close_error *out)
{
    ngtcp2_conn_get_connection_close_error(conn, out);
}

/* Ends both directions, see above. */
static inline void quic_ng_shutdown_stream(ngtcp2_conn *conn, int64_t id, uint64_t code)
{
    (void)ngtcp2_conn_shutdown_stream_write(conn, id, code);
    (void)ngtcp2_conn_shutdown_stream_read(conn, id, code);
}

/* What only a server must set. */
static inline void quic_params_server(ngtcp2_transport_params *params)
{
    (void)params;
}

typedef ngtcp2_conn_stat quic_ng_stat;

/* Round trip, window and bytes in flight. */
static inline void quic_ng_get_stat(ngtcp2_conn *conn, quic_ng_stat *out)
{
    ngtcp2_conn_get_conn_stat(conn, out);
}

#endif

#endif
