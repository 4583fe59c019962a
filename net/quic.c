/* Life cycle of the endpoint and dispatch: an input goes in, the right connection is asked. */
#include "net/quic.h"

#include <sodium.h>
#include <string.h>

#include "net/quic_internal.h"

struct quic_config quic_config_default(void)
{
    struct quic_config cfg = {
        .congestion = QUIC_CONGESTION_BBR,
        .connections_max = 256,
        .handshakes_max = 64,
        .streams_max = 4096,
        .streams_peer_max = 64,
        .buffer_bytes = (size_t)128 << 20,
        .stream_window = (size_t)16 << 20,
        .connection_window = (size_t)24 << 20,
        .idle_timeout_ns = 30 * QUIC_SECOND_NS,
        .keep_alive_ns = 10 * QUIC_SECOND_NS,
    };
    return cfg;
}

static size_t largest_frame(const struct quic_config *cfg)
{
    size_t largest = 0;
    for (size_t i = 0; i < STREAM_SERVICE_COUNT; i++)
        if (cfg->frame_max[i] > largest)
            largest = cfg->frame_max[i];
    return largest;
}

int quic_config_check(const struct quic_config *cfg, const char **why)
{
    size_t frame = largest_frame(cfg);
    const struct {
        bool wrong;
        const char *text;
    } rules[] = {
        {cfg->identity == NULL, "identity is missing"},
        {cfg->rng.fill == NULL, "rng is missing"},
        {cfg->allocator.alloc == NULL, "allocator is missing"},
        {cfg->connections_max == 0 || cfg->connections_max > 65536, "connections_max is not in 1..65536"},
        {cfg->handshakes_max == 0, "handshakes_max is 0"},
        {cfg->streams_max == 0 || cfg->streams_max > 1 << 20, "streams_max is not in 1..1048576"},
        {cfg->streams_peer_max == 0 || cfg->streams_peer_max > cfg->streams_max,
         "streams_peer_max is 0 or above streams_max"},
        {frame == 0, "no service has a frame_max"},
        {frame > STREAM_FRAME_LIMIT, "a frame_max is above STREAM_FRAME_LIMIT"},
        {cfg->frame_max[0] != 0, "service 0 does not exist"},
        {cfg->stream_window < frame + STREAM_HEAD_BYTES + STREAM_LENGTH_BYTES,
         "stream_window does not hold the largest frame"},
        {cfg->connection_window < cfg->stream_window, "connection_window is below stream_window"},
        {cfg->buffer_bytes < 4 * cfg->stream_window, "buffer_bytes is below four stream windows"},
        {cfg->keep_alive_ns == 0 || cfg->keep_alive_ns == UINT64_MAX, "keep_alive is 0 or endless"},
        {cfg->idle_timeout_ns <= 2 * cfg->keep_alive_ns, "idle_timeout is not above two keep-alives"},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        if (rules[i].wrong) {
            *why = rules[i].text;
            return ERR_INVALID;
        }
    }
    return ERR_OK;
}

static int tables_init(struct quic *ep)
{
    const struct allocator *allocator = &ep->cfg.allocator;
    quic_link_init(&ep->free_streams);
    quic_link_init(&ep->ready);
    quic_link_init(&ep->dirty);
    quic_link_init(&ep->waiting);
    quic_link_init(&ep->shaped);
    quic_link_init(&ep->up);
    quic_link_init(&ep->down);
    ep->conns = allocator_get(allocator, ep->cfg.connections_max, sizeof *ep->conns);
    ep->streams = allocator_get(allocator, ep->cfg.streams_max, sizeof *ep->streams);
    ep->scratch_bytes = largest_frame(&ep->cfg);
    ep->scratch = allocator_get(allocator, ep->scratch_bytes, 1);
    if (ep->conns == NULL || ep->streams == NULL || ep->scratch == NULL)
        return ERR_NO_MEMORY;
    for (size_t i = 0; i < ep->cfg.streams_max; i++) {
        ep->streams[i].index = (uint32_t)i;
        quic_link_init(&ep->streams[i].in_conn);
        quic_link_append(&ep->free_streams, &ep->streams[i].in_conn);
    }
    int result = quic_cids_init(ep);
    if (result == ERR_OK)
        result = quic_pool_init(&ep->in_pool, allocator, ep->cfg.buffer_bytes / 2);
    if (result == ERR_OK)
        result = quic_pool_init(&ep->out_pool, allocator, ep->cfg.buffer_bytes / 2);
    return result;
}

int quic_create(struct quic **out, const struct quic_config *cfg, uint64_t now_ns)
{
    const char *why;
    if (quic_config_check(cfg, &why) != ERR_OK)
        return ERR_INVALID;
    struct quic *ep = allocator_get(&cfg->allocator, 1, sizeof *ep);
    if (ep == NULL)
        return ERR_NO_MEMORY;
    ep->cfg = *cfg;
    ep->self = cfg->identity->id;
    ep->now_ns = now_ns;
    int result = tables_init(ep);
    if (result == ERR_OK)
        result = quic_tls_init(ep, cfg->identity);
    ep->cfg.identity = NULL;
    if (result != ERR_OK) {
        quic_destroy(ep);
        return result;
    }
    *out = ep;
    return ERR_OK;
}

void quic_destroy(struct quic *ep)
{
    if (ep == NULL)
        return;
    struct allocator allocator = ep->cfg.allocator;
    for (size_t i = 0; ep->conns != NULL && i < ep->cfg.connections_max; i++) {
        struct quic_conn *conn = &ep->conns[i];
        if (conn->state == CONN_FREE)
            continue;
        while (!quic_link_alone(&conn->streams))
            quic_stream_detach(QUIC_OWNER(conn->streams.next, struct quic_stream, in_conn), ERR_CLOSED,
                               false);
        quic_conn_release(conn);
    }
    quic_tls_deinit(ep);
    quic_pool_deinit(&ep->in_pool);
    quic_pool_deinit(&ep->out_pool);
    allocator_release(&allocator, ep->scratch);
    allocator_release(&allocator, ep->cids);
    allocator_release(&allocator, ep->streams);
    allocator_release(&allocator, ep->conns);
    sodium_memzero(ep, sizeof *ep);
    allocator_release(&allocator, ep);
}

bool quic_is_packet(struct bytes datagram)
{
    return (datagram.len > 0 && (datagram.data[0] & 0x80)) || (datagram.len > 1 && (datagram.data[1] & 0x80));
}

/* Answers a packet of a connection we no longer know.  The answer is shorter than what it answers, so two
 * endpoints never keep each other going (RFC 9000 s.10.3.3), and rate limited. */
static void reset_reply(struct quic *ep, uint64_t now_ns, struct bytes datagram, struct quic_reply *reply)
{
    enum { SHORTEST = 21, LONGEST = 43 };
    const uint8_t *cid = datagram.data + 1;
    if (datagram.len <= SHORTEST || !quic_cid_is_ours(ep, cid))
        return;
    if (now_ns - ep->reset_window_ns >= QUIC_SECOND_NS) {
        ep->reset_window_ns = now_ns;
        ep->resets_sent = 0;
    }
    if (ep->resets_sent >= QUIC_RESETS_PER_SECOND)
        return;
    ep->resets_sent++;
    size_t len = datagram.len - 1 < LONGEST ? datagram.len - 1 : LONGEST;
    uint8_t random[LONGEST];
    uint8_t token[NGTCP2_STATELESS_RESET_TOKENLEN];
    size_t random_len = len - sizeof token;
    rng_fill(&ep->cfg.rng, random, random_len);
    random[1] |= 0x80; /* so that the other end takes it for QUIC */
    quic_cid_token(ep, cid, token);
    ngtcp2_ssize written =
        ngtcp2_pkt_write_stateless_reset(reply->bytes, sizeof reply->bytes, token, random, random_len);
    reply->len = written > 0 ? (size_t)written : 0;
}

/* Gives a packet to its connection; returns what quic_recv returns. */
static int deliver(struct quic_conn *conn, uint64_t now_ns, struct bytes datagram, struct id *peer_out)
{
    if (conn->state != CONN_HANDSHAKE && conn->state != CONN_UP)
        return 0; /* closing: our goodbye is on its way */
    bool authentic = false;
    quic_route_packet(conn, now_ns, datagram.len);
    int result = quic_packet_read(conn, now_ns, datagram, &authentic);
    *peer_out = conn->peer;
    if (result == 0)
        quic_conn_settle(conn, now_ns);
    /* Keys of the handshake prove nothing about the sender yet. */
    bool proven = authentic && conn->state == CONN_UP;
    if (authentic) {
        conn->wire_received += datagram.len;
        conn->last_received_ns = now_ns;
    }
    if (result != 0) {
        quic_conn_fail(conn, now_ns, result);
        return proven ? 1 : 0;
    }
    quic_route_heard(conn);
    quic_conn_dirty(conn);
    return proven ? 1 : 0;
}

static int receive_short(struct quic *ep, uint64_t now_ns, const struct id *from_peer, struct bytes datagram,
                         struct id *peer_out, struct quic_reply *reply)
{
    if (datagram.len < 1 + QUIC_CID_BYTES)
        return ERR_MALFORMED;
    struct quic_conn *conn = quic_cid_find(ep, quic_cid_key(datagram.data + 1));
    if (conn != NULL)
        return deliver(conn, now_ns, datagram, peer_out);
    /* A stateless reset bears a random id: only the connection with whoever is at that address can recognise
     * it. */
    conn = from_peer != NULL ? quic_conn_of(ep, from_peer) : NULL;
    if (conn != NULL && conn->state == CONN_UP && !quic_cid_is_ours(ep, datagram.data + 1))
        return deliver(conn, now_ns, datagram, peer_out);
    reset_reply(ep, now_ns, datagram, reply);
    return ERR_NOT_FOUND;
}

static int receive_initial(struct quic *ep, uint64_t now_ns, const struct id *from_peer,
                           struct bytes datagram, struct id *peer_out)
{
    ngtcp2_pkt_hd head;
    if (ngtcp2_accept(&head, datagram.data, datagram.len) != 0 || head.dcid.datalen != QUIC_CID_BYTES)
        return ERR_NOT_FOUND;
    if (from_peer == NULL)
        return ERR_UNREACHABLE;
    if (id_compare(from_peer, &ep->self) >= 0)
        return ERR_STATE;
    struct quic_conn *conn;
    int result = quic_conn_accept(ep, now_ns, from_peer, &head, &conn);
    return result != ERR_OK ? result : deliver(conn, now_ns, datagram, peer_out);
}

int quic_recv(struct quic *ep, uint64_t now_ns, const struct id *from_peer, struct bytes datagram,
              struct id *peer_out, struct quic_reply *reply)
{
    ep->now_ns = now_ns;
    reply->len = 0;
    if (datagram.len == 0 || !quic_is_packet(datagram))
        return ERR_MALFORMED;
    if (!(datagram.data[0] & 0x80))
        return receive_short(ep, now_ns, from_peer, datagram, peer_out, reply);
    ngtcp2_version_cid head;
    int decoded = ngtcp2_pkt_decode_version_cid(&head, datagram.data, datagram.len, QUIC_CID_BYTES);
    if (decoded == NGTCP2_ERR_VERSION_NEGOTIATION)
        return ERR_VERSION; /* every node speaks version 1: nobody is waiting for a list */
    if (decoded != 0)
        return ERR_MALFORMED;
    if (head.version != NGTCP2_PROTO_VER_V1)
        return ERR_VERSION;
    if (head.dcidlen != QUIC_CID_BYTES)
        return ERR_NOT_FOUND;
    struct quic_conn *conn = quic_cid_find(ep, quic_cid_key(head.dcid));
    if (conn != NULL)
        return deliver(conn, now_ns, datagram, peer_out);
    return receive_initial(ep, now_ns, from_peer, datagram, peer_out);
}

void quic_tick(struct quic *ep, uint64_t now_ns)
{
    ep->now_ns = now_ns;
    for (size_t i = 0; i < ep->cfg.connections_max; i++) {
        struct quic_conn *conn = &ep->conns[i];
        if ((conn->state != CONN_HANDSHAKE && conn->state != CONN_UP) || conn->expiry_ns > now_ns)
            continue;
        int result = ngtcp2_conn_handle_expiry(conn->ng, now_ns);
        if (result != 0) {
            quic_conn_fail(conn, now_ns, result);
            continue;
        }
        quic_conn_dirty(conn);
        quic_conn_update_expiry(conn, now_ns);
    }
    quic_streams_wake(ep);
}

uint64_t quic_deadline_ns(struct quic *ep, uint64_t now_ns)
{
    uint64_t deadline = UINT64_MAX;
    for (size_t i = 0; i < ep->cfg.connections_max; i++) {
        const struct quic_conn *conn = &ep->conns[i];
        if ((conn->state == CONN_HANDSHAKE || conn->state == CONN_UP) && conn->expiry_ns < deadline)
            deadline = conn->expiry_ns;
    }
    for (struct quic_link *at = ep->shaped.next; at != &ep->shaped; at = at->next) {
        struct quic_conn *conn = QUIC_OWNER(at, struct quic_conn, in_dirty);
        uint64_t ready_ns = shaper_ready_ns(&conn->shaper, now_ns, QUIC_SHAPED_BATCH);
        if (ready_ns < deadline)
            deadline = ready_ns;
    }
    if (ep->cfg.shaper == NULL)
        return deadline;
    /* Enough for a batch worth a system call. */
    uint64_t bulk_ns =
        quic_link_alone(&ep->waiting) ? UINT64_MAX : shaper_ready_ns(ep->cfg.shaper, now_ns, 16384);
    bool held = !quic_link_alone(&ep->dirty) && shaper_available_control(ep->cfg.shaper, now_ns) == 0;
    uint64_t control_ns = held ? shaper_ready_control_ns(ep->cfg.shaper, now_ns) : UINT64_MAX;
    deadline = bulk_ns < deadline ? bulk_ns : deadline;
    return control_ns < deadline ? control_ns : deadline;
}

int quic_connect(struct quic *ep, uint64_t now_ns, const struct id *peer)
{
    ep->now_ns = now_ns;
    int order = id_compare(&ep->self, peer);
    if (order == 0)
        return ERR_INVALID;
    if (order > 0)
        return ERR_STATE;
    if (quic_conn_of(ep, peer) != NULL)
        return ERR_EXISTS;
    return quic_conn_dial(ep, now_ns, peer);
}

void quic_disconnect(struct quic *ep, uint64_t now_ns, const struct id *peer, int err)
{
    ep->now_ns = now_ns;
    for (size_t i = 0; i < ep->cfg.connections_max; i++)
        if (ep->conns[i].state != CONN_FREE && id_equal(&ep->conns[i].peer, peer))
            quic_conn_close(&ep->conns[i], now_ns, err);
}

void quic_disconnect_all(struct quic *ep, uint64_t now_ns, int err)
{
    ep->now_ns = now_ns;
    for (size_t i = 0; i < ep->cfg.connections_max; i++)
        if (ep->conns[i].state != CONN_FREE)
            quic_conn_close(&ep->conns[i], now_ns, err);
}

void quic_path_changed(struct quic *ep, uint64_t now_ns, const struct id *peer, size_t datagram_max)
{
    ep->now_ns = now_ns;
    quic_path_cap(ep, peer, datagram_max);
    struct quic_conn *conn = quic_conn_of(ep, peer);
    if (conn != NULL)
        quic_route_changed(conn, now_ns);
}

void quic_path_doubtful(struct quic *ep, uint64_t now_ns, const struct id *peer)
{
    struct quic_conn *conn = quic_conn_of(ep, peer);
    ep->now_ns = now_ns;
    if (conn == NULL || conn->state != CONN_UP)
        return;
    conn->nudge = true;
    quic_conn_dirty(conn);
}

void quic_path_cap(struct quic *ep, const struct id *peer, size_t datagram_max)
{
    size_t cap = datagram_max < QUIC_DATAGRAM_MIN ? QUIC_DATAGRAM_MIN : datagram_max;
    for (size_t i = 0; i < ep->cfg.connections_max; i++)
        if (ep->conns[i].state != CONN_FREE && id_equal(&ep->conns[i].peer, peer))
            ep->conns[i].datagram_cap = cap < QUIC_DATAGRAM_MAX ? cap : QUIC_DATAGRAM_MAX;
}

void quic_path_shape(struct quic *ep, uint64_t now_ns, const struct id *peer, uint64_t rate_bytes)
{
    for (size_t i = 0; i < ep->cfg.connections_max; i++) {
        struct quic_conn *conn = &ep->conns[i];
        if (conn->state == CONN_FREE || !id_equal(&conn->peer, peer) || conn->shaper.rate_bytes == rate_bytes)
            continue;
        shaper_init(&conn->shaper, now_ns, rate_bytes, SHAPER_BURST_MIN);
        quic_conn_dirty(conn);
    }
}

void quic_set_congestion(struct quic *ep, enum quic_congestion congestion)
{
    ep->cfg.congestion = congestion;
}
