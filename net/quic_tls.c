/* TLS for QUIC: one credentials object with our raw Ed25519 key (RFC 7250), one session a connection, and the
 * check that the peer's key is the id it must be, made inside the handshake. */
#include <gnutls/crypto.h>
#include <stdio.h>
#include <string.h>

#include "net/quic_internal.h"
#include "net/raw_key.h"

/* TLS 1.3 only, X25519, Ed25519, raw public keys both ways.  AES-128-GCM first; ChaCha20-Poly1305 for CPUs
 * without AES instructions, where it is the faster one. */
static const char priorities[] =
    "NONE:+VERS-TLS1.3:+AES-128-GCM:+CHACHA20-POLY1305:+AEAD:+GROUP-X25519:+SIGN-EDDSA-ED25519:+COMP-NULL:"
    "+CTYPE-CLI-RAWPK:+CTYPE-SRV-RAWPK:%DISABLE_TLS13_COMPAT_MODE";

static ngtcp2_conn *ng_of(ngtcp2_crypto_conn_ref *ref)
{
    struct quic_conn *conn = ref->user_data;
    return conn->ng;
}

/* Nonzero ends the handshake with an alert.  Either role knows beforehand whom it talks to. */
static int verify_peer(gnutls_session_t session)
{
    ngtcp2_crypto_conn_ref *ref = gnutls_session_get_ptr(session);
    struct quic_conn *conn = ref->user_data;
    struct id shown;
    bool right = raw_key_peer(session, &shown) && id_equal(&shown, &conn->peer);
    conn->auth_failed = !right;
    return right ? 0 : GNUTLS_E_CERTIFICATE_ERROR;
}

int quic_tls_init(struct quic *ep, const struct net_identity *identity)
{
    char alpn[QUIC_ALPN_BYTES + 1];
    (void)snprintf(alpn, sizeof alpn, "dunlin/1/%08x", (unsigned)ep->cfg.network_id);
    memcpy(ep->alpn, alpn, QUIC_ALPN_BYTES);

    int result = raw_key_credentials(identity, &ep->credentials);
    if (result != ERR_OK) {
        ep->credentials = NULL;
        return result;
    }
    gnutls_certificate_set_verify_function(ep->credentials, verify_peer);
    if (gnutls_priority_init(&ep->priority, priorities, NULL) != GNUTLS_E_SUCCESS) {
        ep->priority = NULL;
        return ERR_TLS;
    }
    return ERR_OK;
}

void quic_tls_deinit(struct quic *ep)
{
    if (ep->priority != NULL)
        gnutls_priority_deinit(ep->priority);
    if (ep->credentials != NULL)
        gnutls_certificate_free_credentials(ep->credentials);
    ep->priority = NULL;
    ep->credentials = NULL;
}

int quic_tls_session(struct quic_conn *conn)
{
    struct quic *ep = conn->ep;
    unsigned int flags = GNUTLS_ENABLE_RAWPK | GNUTLS_NO_TICKETS;
    flags |= conn->server ? GNUTLS_SERVER | GNUTLS_NO_AUTO_SEND_TICKET : GNUTLS_CLIENT;
    if (gnutls_init(&conn->tls, flags) != GNUTLS_E_SUCCESS) {
        conn->tls = NULL;
        return ERR_TLS;
    }
    conn->ref = (ngtcp2_crypto_conn_ref){.get_conn = ng_of, .user_data = conn};
    gnutls_session_set_ptr(conn->tls, &conn->ref);
    gnutls_datum_t alpn = {.data = ep->alpn, .size = QUIC_ALPN_BYTES};
    int configured = conn->server ? ngtcp2_crypto_gnutls_configure_server_session(conn->tls)
                                  : ngtcp2_crypto_gnutls_configure_client_session(conn->tls);
    if (configured != 0 || gnutls_priority_set(conn->tls, ep->priority) != GNUTLS_E_SUCCESS ||
        gnutls_credentials_set(conn->tls, GNUTLS_CRD_CERTIFICATE, ep->credentials) != GNUTLS_E_SUCCESS ||
        gnutls_alpn_set_protocols(conn->tls, &alpn, 1, GNUTLS_ALPN_MANDATORY) != GNUTLS_E_SUCCESS) {
        gnutls_deinit(conn->tls);
        conn->tls = NULL;
        return ERR_TLS;
    }
    if (conn->server)
        gnutls_certificate_server_set_request(conn->tls, GNUTLS_CERT_REQUIRE);
    return ERR_OK;
}

bool quic_tls_alpn_agreed(const struct quic_conn *conn)
{
    gnutls_datum_t chosen;
    return gnutls_alpn_get_selected_protocol(conn->tls, &chosen) == GNUTLS_E_SUCCESS &&
           chosen.size == QUIC_ALPN_BYTES && memcmp(chosen.data, conn->ep->alpn, QUIC_ALPN_BYTES) == 0;
}

int quic_export_key(struct quic *ep, const struct id *peer, const char *label, uint8_t out[QUIC_KEY_BYTES])
{
    const struct quic_conn *conn = quic_conn_of(ep, peer);
    if (conn == NULL || conn->state != CONN_UP)
        return ERR_NOT_FOUND;
    int exported = gnutls_prf_rfc5705(conn->tls, strlen(label), label, 0, NULL, QUIC_KEY_BYTES, (char *)out);
    return exported == GNUTLS_E_SUCCESS ? ERR_OK : ERR_TLS;
}
