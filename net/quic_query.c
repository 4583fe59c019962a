/* What may be asked about an endpoint, and what must hold in it. */
#include "net/quic_internal.h"

int quic_peer_info(struct quic *ep, const struct id *peer, struct quic_peer_info *out)
{
    struct quic_conn *conn = quic_conn_of(ep, peer);
    if (conn == NULL)
        return ERR_NOT_FOUND;
    quic_ng_stat stat;
    quic_ng_get_stat(conn->ng, &stat);
    *out = (struct quic_peer_info){
        .connected = conn->state == CONN_UP,
        .outgoing = !conn->server,
        .rtt_ns = stat.smoothed_rtt,
        .min_rtt_ns = stat.min_rtt,
        .cwnd_bytes = stat.cwnd,
        .bytes_in_flight = stat.bytes_in_flight,
        .wire_sent = conn->wire_sent,
        .wire_received = conn->wire_received,
        .last_received_ns = conn->last_received_ns,
        .streams = conn->stream_count,
    };
    size_t found = ngtcp2_conn_get_path_max_tx_udp_payload_size(conn->ng);
    out->datagram_max = found < conn->datagram_cap ? found : conn->datagram_cap;
    for (size_t class = 0; class < STREAM_CLASS_COUNT; class ++) {
        out->sent[class] = conn->sent[class];
        out->received[class] = conn->received[class];
    }
    return ERR_OK;
}

size_t quic_peer_count(const struct quic *ep)
{
    size_t count = 0;
    for (size_t i = 0; i < ep->cfg.connections_max; i++)
        count += ep->conns[i].state == CONN_UP;
    return count;
}

void quic_peer_at(const struct quic *ep, size_t index, struct id *out)
{
    for (size_t i = 0; i < ep->cfg.connections_max; i++) {
        if (ep->conns[i].state != CONN_UP)
            continue;
        if (index == 0) {
            *out = ep->conns[i].peer;
            return;
        }
        index--;
    }
    ASSERT(false);
}

static void check_stream(const struct quic *ep, const struct quic_stream *s)
{
    ASSERT(s->acked <= s->sent && s->sent <= s->queued);
    ASSERT(s->closed || s->out.len == s->queued - s->acked);
    ASSERT(s->conn == NULL || (s->conn->state != CONN_FREE && s->conn->state != CONN_DEAD));
    ASSERT(s->conn != NULL || !s->dead);
    ASSERT(s->conn != NULL || quic_link_alone(&s->in_send));
    ASSERT((size_t)(s - ep->streams) == s->index);
    /* A frame, its length and the window of what follows it are all that may be held back. */
    ASSERT(s->in.len <= ep->cfg.stream_window + ep->scratch_bytes);
}

static size_t check_conn(const struct quic *ep, const struct quic_conn *conn)
{
    size_t streams = 0;
    bool library = conn->state == CONN_HANDSHAKE || conn->state == CONN_UP || conn->state == CONN_CLOSING;
    ASSERT(library == (conn->ng != NULL) && library == (conn->tls != NULL));
    if (conn->state == CONN_FREE)
        return 0;
    for (const struct quic_link *at = conn->streams.next; at != &conn->streams; at = at->next)
        streams++;
    ASSERT(streams == conn->stream_count);
    ASSERT(streams == 0 || library);
    ASSERT(conn->ep == ep);
    return 1;
}

void quic_check_invariants(const struct quic *ep)
{
    size_t conns = 0;
    size_t streams = 0;
    size_t keys = 0;
    for (size_t i = 0; i < ep->cfg.connections_max; i++)
        conns += check_conn(ep, &ep->conns[i]);
    for (size_t i = 0; i < ep->cfg.streams_max; i++) {
        if (!ep->streams[i].used)
            continue;
        check_stream(ep, &ep->streams[i]);
        streams++;
    }
    for (size_t i = 0; i <= ep->cid_mask; i++) {
        if (ep->cids[i].key == 0)
            continue;
        ASSERT(ep->cids[i].conn->ng != NULL);
        ASSERT(quic_cid_find(ep, ep->cids[i].key) == ep->cids[i].conn);
        keys++;
    }
    ASSERT(conns == ep->conn_count && streams == ep->stream_count && keys == ep->cid_count);
    ASSERT(ep->in_pool.used <= ep->in_pool.blocks_max && ep->out_pool.used <= ep->out_pool.blocks_max);
}
