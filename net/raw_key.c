#include "net/raw_key.h"

#include <sodium.h>
#include <string.h>

/* DER in front of the 32 bytes: SubjectPublicKeyInfo and PKCS#8 of Ed25519 (RFC 8410 s.4 and s.7). */
static const uint8_t spki_prefix[12] = {0x30, 0x2a, 0x30, 0x05, 0x06, 0x03,
                                        0x2b, 0x65, 0x70, 0x03, 0x21, 0x00};
static const uint8_t pkcs8_prefix[16] = {0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06,
                                         0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20};

enum { SPKI_BYTES = sizeof spki_prefix + ID_BYTES, PKCS8_BYTES = sizeof pkcs8_prefix + NET_SEED_BYTES };

int raw_key_credentials(const struct net_identity *identity, gnutls_certificate_credentials_t *credentials)
{
    uint8_t spki[SPKI_BYTES];
    uint8_t pkcs8[PKCS8_BYTES];
    memcpy(spki, spki_prefix, sizeof spki_prefix);
    memcpy(spki + sizeof spki_prefix, identity->id.bytes, ID_BYTES);
    memcpy(pkcs8, pkcs8_prefix, sizeof pkcs8_prefix);
    memcpy(pkcs8 + sizeof pkcs8_prefix, identity->seed, NET_SEED_BYTES);
    gnutls_datum_t public_key = {.data = spki, .size = sizeof spki};
    gnutls_datum_t secret_key = {.data = pkcs8, .size = sizeof pkcs8};

    int result = ERR_TLS;
    gnutls_certificate_credentials_t made = NULL;
    if (gnutls_certificate_allocate_credentials(&made) != GNUTLS_E_SUCCESS)
        goto wipe;
    if (gnutls_certificate_set_rawpk_key_mem(made, &public_key, &secret_key, GNUTLS_X509_FMT_DER, NULL, 0,
                                             NULL, 0, 0) != GNUTLS_E_SUCCESS) {
        gnutls_certificate_free_credentials(made);
        goto wipe;
    }
    *credentials = made;
    result = ERR_OK;
wipe:
    sodium_memzero(pkcs8, sizeof pkcs8);
    return result;
}

bool raw_key_peer(gnutls_session_t session, struct id *peer)
{
    unsigned int count = 0;
    const gnutls_datum_t *keys = gnutls_certificate_get_peers(session, &count);
    if (keys == NULL || count != 1 || keys[0].size != SPKI_BYTES ||
        memcmp(keys[0].data, spki_prefix, sizeof spki_prefix) != 0)
        return false;
    memcpy(peer->bytes, keys[0].data + sizeof spki_prefix, ID_BYTES);
    return true;
}
