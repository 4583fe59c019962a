/* Our Ed25519 key as GnuTLS wants it (RFC 7250 raw public key), and the peer's as we want it.  Private to
 * net/: QUIC and TCP links share it. */
#ifndef DUNLIN_NET_RAW_KEY_H
#define DUNLIN_NET_RAW_KEY_H

#include <gnutls/gnutls.h>
#include <stdbool.h>

#include "net/identity.h"

/* Credentials with this identity's key, owned (free with gnutls_certificate_free_credentials).  Copies.
 * ERR_TLS: the library refused. */
MUST_USE int raw_key_credentials(const struct net_identity *identity,
                                 gnutls_certificate_credentials_t *credentials);
/* The key that the peer has shown.  False: none, or no single Ed25519 key.  For the verify function, where
 * the signature by it may still be to come. */
bool raw_key_peer(gnutls_session_t session, struct id *peer);

#endif
