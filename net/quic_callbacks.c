/* What ngtcp2 calls back.  Nothing here writes packets, deletes connections or tells the application
 * anything: it notes what happened, and the caller of ngtcp2 acts on it afterwards. */
#include <string.h>

#include "net/quic_internal.h"

static int on_handshake_completed(ngtcp2_conn *ng, void *user)
{
    struct quic_conn *conn = user;
    (void)ng;
    if (!quic_tls_alpn_agreed(conn)) {
        conn->wrong_network = true;
        return NGTCP2_ERR_CALLBACK_FAILURE;
    }
    /* For a client completion is not acceptance: the server may still refuse our key. */
    if (conn->server)
        conn->became_up = true;
    return 0;
}

static int on_handshake_confirmed(ngtcp2_conn *ng, void *user)
{
    struct quic_conn *conn = user;
    (void)ng;
    if (!conn->server)
        conn->became_up = true;
    return 0;
}

static int on_new_connection_id(ngtcp2_conn *ng, ngtcp2_cid *cid, uint8_t *token, size_t cid_len, void *user)
{
    struct quic_conn *conn = user;
    (void)ng;
    ASSERT(cid_len == QUIC_CID_BYTES);
    quic_cid_generate(conn->ep, cid->data);
    cid->datalen = QUIC_CID_BYTES;
    quic_cid_token(conn->ep, cid->data, token);
    return quic_cid_insert(conn->ep, quic_cid_key(cid->data), conn) ? 0 : NGTCP2_ERR_CALLBACK_FAILURE;
}

static int on_remove_connection_id(ngtcp2_conn *ng, const ngtcp2_cid *cid, void *user)
{
    struct quic_conn *conn = user;
    (void)ng;
    if (cid->datalen == QUIC_CID_BYTES)
        quic_cid_remove(conn->ep, quic_cid_key(cid->data));
    return 0;
}

static int on_stream_open(ngtcp2_conn *ng, int64_t id, void *user)
{
    struct quic_conn *conn = user;
    struct quic_stream *s = quic_stream_take(conn, id, false);
    if (s != NULL)
        (void)ngtcp2_conn_set_stream_user_data(ng, id, s);
    return 0; /* without a slot its data is dropped below until the peer gives up */
}

static int on_stream_data(ngtcp2_conn *ng, uint32_t flags, int64_t id, uint64_t offset, const uint8_t *data,
                          size_t len, void *user, void *stream_user)
{
    struct quic_conn *conn = user;
    struct quic_stream *s = stream_user;
    (void)offset;
    if (s == NULL || s->dead || s->reset_err != 0) {
        if (s == NULL)
            quic_ng_shutdown_stream(ng, id, quic_code_of(ERR_FULL));
        ngtcp2_conn_extend_max_offset(ng, len);
        return 0;
    }
    struct quic_pool *pool = &conn->ep->in_pool;
    size_t held = pool->used;
    /* One connection may not take the buffers of all others: with little left it is held to its share. */
    bool scarce = quic_pool_free_bytes(pool) < pool->blocks_max / 4 * QUIC_BLOCK_BYTES;
    bool over_share = scarce && conn->in_blocks * conn->ep->conn_count > pool->blocks_max;
    if (over_share || !quic_chain_append(pool, &s->in, data, len)) {
        ngtcp2_conn_extend_max_offset(ng, len);
        s->reset_err = ERR_FULL;
    } else {
        conn->in_blocks += pool->used - held;
    }
    if (flags & NGTCP2_STREAM_DATA_FLAG_FIN)
        s->fin_received = true;
    if (s->opened && len > 0)
        conn->received[s->class] += len;
    quic_stream_ready(s);
    return 0;
}

static int on_stream_acked(ngtcp2_conn *ng, int64_t id, uint64_t offset, uint64_t len, void *user,
                           void *stream_user)
{
    struct quic_stream *s = stream_user;
    (void)ng;
    (void)id;
    (void)user;
    if (s != NULL)
        quic_stream_acked(s, offset + len);
    return 0;
}

static int on_stream_close(ngtcp2_conn *ng, uint32_t flags, int64_t id, uint64_t code, void *user,
                           void *stream_user)
{
    struct quic_conn *conn = user;
    struct quic_stream *s = stream_user;
    bool has_code = (flags & NGTCP2_STREAM_CLOSE_FLAG_APP_ERROR_CODE_SET) != 0;
    if (s == NULL) {
        if (!ngtcp2_conn_is_local_stream(ng, id))
            ngtcp2_conn_extend_max_streams_bidi(ng, 1);
        return 0;
    }
    s->closed = true;
    quic_link_remove(&s->in_send);
    quic_chain_clear(&conn->ep->out_pool, &s->out);
    s->send_block = NULL;
    /* A code without FIN is the peer's reset; with FIN it told us to stop sending. */
    if ((has_code || !s->fin_received) && s->reset_err == 0)
        s->reset_err = has_code ? quic_err_of(code) : ERR_CLOSED;
    quic_stream_ready(s);
    return 0;
}

static int on_stream_reset(ngtcp2_conn *ng, int64_t id, uint64_t final_size, uint64_t code, void *user,
                           void *stream_user)
{
    struct quic_stream *s = stream_user;
    (void)ng;
    (void)id;
    (void)final_size;
    (void)user;
    if (s != NULL && s->reset_err == 0) {
        s->reset_err = quic_err_of(code);
        quic_stream_ready(s);
    }
    return 0;
}

static int on_stream_window(ngtcp2_conn *ng, int64_t id, uint64_t max_data, void *user, void *stream_user)
{
    struct quic_conn *conn = user;
    struct quic_stream *s = stream_user;
    (void)ng;
    (void)id;
    (void)max_data;
    if (s != NULL && !s->dead && !s->closed && (s->queued > s->sent || (s->fin_queued && !s->fin_sent)))
        quic_link_append(&conn->sending[s->class], &s->in_send);
    return 0;
}

static void on_rand(uint8_t *out, size_t len, const ngtcp2_rand_ctx *context)
{
    const struct rng *rng = context->native_handle;
    rng_fill(rng, out, len);
    /* The only one-byte draw decides whether ngtcp2 0.12 clears the fixed bit on this connection; an even
     * value keeps it, so that the first byte of a short header stays at 0x40 or above. */
    if (len == 1)
        out[0] &= 0xfe;
}

static int on_path_challenge(ngtcp2_conn *ng, uint8_t *data, void *user)
{
    struct quic_conn *conn = user;
    (void)ng;
    rng_fill(&conn->ep->cfg.rng, data, NGTCP2_PATH_CHALLENGE_DATALEN);
    return 0;
}

static int on_path_validation(ngtcp2_conn *ng, uint32_t flags, const ngtcp2_path *path,
                              QUIC_NG_OLD_PATH ngtcp2_path_validation_result result, void *user)
{
    struct quic_conn *conn = user;
    (void)ng;
    (void)flags;
    (void)path;
    (void)result;
    quic_route_validating(conn, conn->ep->now_ns);
    return 0;
}

void quic_callbacks_fill(ngtcp2_callbacks *callbacks, bool server)
{
    *callbacks = (ngtcp2_callbacks){
        .recv_crypto_data = ngtcp2_crypto_recv_crypto_data_cb,
        .encrypt = ngtcp2_crypto_encrypt_cb,
        .decrypt = quic_packet_decrypt,
        .hp_mask = ngtcp2_crypto_hp_mask_cb,
        .update_key = ngtcp2_crypto_update_key_cb,
        .delete_crypto_aead_ctx = ngtcp2_crypto_delete_crypto_aead_ctx_cb,
        .delete_crypto_cipher_ctx = ngtcp2_crypto_delete_crypto_cipher_ctx_cb,
        .version_negotiation = ngtcp2_crypto_version_negotiation_cb,
        .get_path_challenge_data = on_path_challenge,
        .rand = on_rand,
        .path_validation = on_path_validation,
        .handshake_completed = on_handshake_completed,
        .handshake_confirmed = on_handshake_confirmed,
        .get_new_connection_id = on_new_connection_id,
        .remove_connection_id = on_remove_connection_id,
        .stream_open = on_stream_open,
        .recv_stream_data = on_stream_data,
        .acked_stream_data_offset = on_stream_acked,
        .stream_close = on_stream_close,
        .stream_reset = on_stream_reset,
        .extend_max_stream_data = on_stream_window,
    };
    if (server) {
        callbacks->recv_client_initial = ngtcp2_crypto_recv_client_initial_cb;
    } else {
        callbacks->client_initial = ngtcp2_crypto_client_initial_cb;
        callbacks->recv_retry = ngtcp2_crypto_recv_retry_cb;
    }
}
