#include "net/quic_internal.h"

/* Whether a packet was authentic decides what the path layer may conclude from its source address, yet ngtcp2
 * returns 0 for discarded packets too, and its decrypt callback gets no user pointer.  So the callback notes
 * success here for the read in progress on this thread; the note never outlives quic_packet_read, so
 * endpoints share nothing. */
static _Thread_local bool decrypted;

int quic_packet_decrypt(uint8_t *dest, const ngtcp2_crypto_aead *aead, const ngtcp2_crypto_aead_ctx *aead_ctx,
                        const uint8_t *ciphertext, size_t ciphertextlen, const uint8_t *nonce,
                        size_t noncelen, const uint8_t *aad, size_t aadlen)
{
    int result = ngtcp2_crypto_decrypt_cb(dest, aead, aead_ctx, ciphertext, ciphertextlen, nonce, noncelen,
                                          aad, aadlen);
    if (result == 0)
        decrypted = true;
    return result;
}

int quic_packet_read(struct quic_conn *conn, uint64_t now_ns, struct bytes datagram, bool *authentic)
{
    ngtcp2_path path = quic_route_path(conn);
    ngtcp2_pkt_info info = {0};
    decrypted = false;
    int result = ngtcp2_conn_read_pkt(conn->ng, &path, &info, datagram.data, datagram.len, now_ns);
    *authentic = decrypted;
    return result;
}
