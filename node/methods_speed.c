/* What `dunlin speed` asks for and is told; speed.c does the work. */
#include <stdio.h>

#include "node/methods_internal.h"

#define MS_NS UINT64_C(1000000)

enum { WAIT_MAX_S = 86400, BYTES_DEFAULT = 64 << 20 };

void method_speed(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    struct id peer;
    uint64_t bytes = BYTES_DEFAULT;
    uint64_t wait_s = SPEED_WAIT_S;
    bool down = false;
    if (!method_peer_param(node, call, params, "id", &peer))
        return;
    (void)control_uint(params, "bytes", &bytes);
    (void)control_uint(params, "wait_s", &wait_s);
    (void)control_bool(params, "down", &down);
    if (bytes == 0 || bytes > SPEED_BYTES_MAX) {
        control_fail(call, ERR_INVALID, "bytes must be 1 to %llu", (unsigned long long)SPEED_BYTES_MAX);
        return;
    }
    if (wait_s == 0 || wait_s > WAIT_MAX_S) {
        control_fail(call, ERR_INVALID, "wait_s must be 1 to %d", WAIT_MAX_S);
        return;
    }
    if (id_equal(&peer, &node->identity.id)) {
        control_fail(call, ERR_INVALID, "this is the node's own id: name another node");
        return;
    }
    int result = speed_start(node, node_now_ns(), call, &peer, down ? SPEED_DOWN : SPEED_UP, bytes,
                             wait_s * NODE_SECOND_NS);
    if (result == ERR_BUSY)
        control_fail(call, result, "%d measurements of this node are under way: wait for one to end",
                     SPEED_OWN_MAX);
    else if (result < 0)
        control_fail(call, result, "no room for another peer: %s", err_text(result));
}

static bool connected(const struct node *node, const struct speed_transfer *transfer)
{
    struct quic_peer_info info;
    return quic_peer_info(node->quic, &transfer->peer, &info) == ERR_OK && info.connected;
}

/* What stands between us and the transfer, in words. */
static void waiting_for(struct node *node, const struct speed_transfer *transfer, char out[], size_t cap)
{
    struct nat_path_info info[NAT_PATH_CANDIDATES_MAX];
    struct net_addr addr;
    int candidates = nat_path_candidates(node->path, &transfer->peer, info, NAT_PATH_CANDIDATES_MAX);
    if (transfer->state != SPEED_STATE_CONNECTING && transfer->first_ns == 0)
        (void)snprintf(out, cap, "the peer's answer");
    else if (transfer->state != SPEED_STATE_CONNECTING)
        (void)snprintf(out, cap, "the bytes");
    else if (connected(node, transfer))
        (void)snprintf(out, cap, "room for another stream");
    else if (nat_path_route(node->path, &transfer->peer, &addr) == ERR_OK)
        (void)snprintf(out, cap, "the handshake, path %s", methods_path_text(node, &transfer->peer));
    else if (candidates > 0)
        (void)snprintf(out, cap, "an answer from one of the peer's %d known addresses", candidates);
    else
        (void)snprintf(out, cap, "an address of the peer: none is known yet, the DHT is asked");
}

static double seconds_since(uint64_t from_ns, uint64_t now_ns)
{
    return (double)(now_ns - from_ns) / (double)NODE_SECOND_NS;
}

static uint64_t moved(const struct speed_transfer *transfer)
{
    return transfer->direction == SPEED_UP ? transfer->arrived : transfer->meter.bytes;
}

static void reply_head(struct reply *r, const struct speed_transfer *transfer, const char *state)
{
    reply_str(r, "state", state);
    reply_id(r, "peer", &transfer->peer);
    reply_str(r, "direction", transfer->direction == SPEED_UP ? "up" : "down");
}

void speed_tell_progress(struct node *node, struct control_call *call, const struct speed_transfer *transfer,
                         uint64_t now_ns)
{
    char waits[128];
    struct reply *r = control_answer(call);
    waiting_for(node, transfer, waits, sizeof waits);
    reply_head(r, transfer, transfer->state == SPEED_STATE_CONNECTING ? "connecting" : "moving");
    reply_uint(r, "bytes", moved(transfer));
    reply_uint(r, "bytes_wanted", transfer->wanted);
    reply_float(r, "seconds", seconds_since(transfer->began_ns, now_ns));
    reply_str(r, "path", methods_path_text(node, &transfer->peer));
    reply_str(r, "waits_for", waits);
    control_finish(call, true);
}

/* Times of gaps count from the first byte; people count from the command. */
static void reply_gaps(struct reply *r, const struct speed_frame *report, uint64_t first_ms)
{
    reply_uint(r, "longest_gap_ms", report->gap_count > 0 ? report->gaps[0].ms : 0);
    reply_array(r, "gaps");
    for (size_t i = 0; i < report->gap_count; i++) {
        reply_map(r, NULL);
        reply_uint(r, "at_ms", first_ms + report->gaps[i].at_ms);
        reply_uint(r, "ms", report->gaps[i].ms);
        reply_end(r);
    }
    reply_end(r);
}

static void reply_paths(struct node *node, struct reply *r, const struct speed_transfer *transfer)
{
    reply_str(r, "path", methods_path_text(node, &transfer->peer));
    reply_array(r, "paths");
    for (size_t i = 0; i < transfer->path_count; i++) {
        reply_map(r, NULL);
        reply_uint(r, "at_ms", transfer->paths[i].at_ms);
        reply_str(r, "path", transfer->paths[i].text);
        if (transfer->paths[i].addr.family == NET_FAMILY_NONE)
            reply_nil(r, "addr");
        else
            method_reply_addr(r, "addr", &transfer->paths[i].addr);
        reply_end(r);
    }
    reply_end(r);
}

void speed_tell_done(struct node *node, struct control_call *call, const struct speed_transfer *transfer,
                     uint64_t now_ns, const struct speed_frame *report, bool intact)
{
    double seconds = seconds_since(transfer->opened_ns, now_ns);
    uint64_t first_ms = (transfer->first_ns - transfer->began_ns) / MS_NS;
    struct reply *r = control_answer(call);
    reply_head(r, transfer, "done");
    reply_uint(r, "bytes", report->bytes);
    reply_float(r, "seconds", seconds);
    reply_float(r, "mbps", seconds > 0 ? (double)report->bytes * 8 / seconds / 1e6 : 0);
    reply_bool(r, "intact", intact);
    reply_uint(r, "connect_ms", (transfer->opened_ns - transfer->began_ns) / MS_NS);
    reply_uint(r, "first_byte_ms", first_ms);
    reply_gaps(r, report, first_ms);
    reply_paths(node, r, transfer);
    control_finish(call, false);
}

static void fail_opened(struct control_call *call, const struct speed_transfer *transfer, int err)
{
    unsigned long long bytes = moved(transfer);
    unsigned long long wanted = transfer->wanted;
    bool silent = err == ERR_TIMEOUT && transfer->handle != 0; /* we gave up, not the peer */
    if (err == ERR_BUSY)
        control_fail(call, err, "the peer serves %d measurements already: try again in a moment",
                     SPEED_SERVED_MAX);
    else if (err == ERR_QUOTA)
        control_fail(call, err,
                     "the peer has served its measurements of this hour: try again later, or with "
                     "fewer --bytes");
    else if (err == ERR_UNSUPPORTED)
        control_fail(call, err, "the peer's version cannot measure: it needs a newer dunlind");
    else if (silent)
        control_fail(call, err, "nothing moved for %d s after %llu of %llu bytes", SPEED_IDLE_S, bytes,
                     wanted);
    else if (err == ERR_CLOSED || err == ERR_TIMEOUT)
        control_fail(call, err, "the connection to the peer was lost after %llu of %llu bytes", bytes,
                     wanted);
    else
        control_fail(call, err, "the transfer broke off after %llu of %llu bytes: %s", bytes, wanted,
                     err_text(err));
}

void speed_tell_failed(struct node *node, struct control_call *call, const struct speed_transfer *transfer,
                       uint64_t now_ns, int err)
{
    char waits[128];
    char id[ID_TEXT_SIZE];
    if (transfer->opened_ns != 0) {
        fail_opened(call, transfer, err);
        return;
    }
    waiting_for(node, transfer, waits, sizeof waits);
    id_format(&transfer->peer, id);
    if (err == ERR_TIMEOUT)
        control_fail(call, err, "no connection to %.10s within %.0f s, still waiting for %s", id,
                     seconds_since(transfer->began_ns, now_ns), waits);
    else
        control_fail(call, err, "no connection to %.10s: %s", id, err_text(err));
}
