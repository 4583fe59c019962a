#include "node/speed.h"

#include <string.h>

#include "node/internal.h"

#define TICK_OWN_NS    UINT64_C(50000000) /* how soon a change of path or a cancelled call is noticed */
#define TICK_SERVED_NS NODE_SECOND_NS
#define HOUR_NS        (3600 * NODE_SECOND_NS)

enum { TRANSFERS_MAX = SPEED_OWN_MAX + SPEED_SERVED_MAX };

int speed_open(struct node *node)
{
    node->speed = allocator_get(&node->alloc, 1, sizeof *node->speed);
    return node->speed == NULL ? ERR_NO_MEMORY : ERR_OK;
}

void speed_close(struct node *node)
{
    allocator_release(&node->alloc, node->speed);
    node->speed = NULL;
}

/* The first SPEED_OWN_MAX slots are ours, the rest is for peers. */
static struct speed_transfer *take(struct speed *speed, bool own, uint64_t now_ns)
{
    size_t from = own ? 0 : SPEED_OWN_MAX;
    size_t upto = own ? SPEED_OWN_MAX : TRANSFERS_MAX;
    for (size_t i = from; i < upto; i++) {
        struct speed_transfer *transfer = &speed->transfers[i];
        if (transfer->state != SPEED_STATE_FREE)
            continue;
        memset(transfer, 0, sizeof *transfer);
        speed_meter_init(&transfer->meter);
        transfer->own = own;
        transfer->began_ns = transfer->moved_ns = transfer->told_ns = now_ns;
        speed->tick_next_ns = now_ns; /* this one may want to be looked at sooner than the others */
        return transfer;
    }
    return NULL;
}

static struct speed_transfer *find(struct speed *speed, uint64_t handle)
{
    for (size_t i = 0; i < TRANSFERS_MAX; i++) {
        struct speed_transfer *transfer = &speed->transfers[i];
        if (transfer->state != SPEED_STATE_FREE && transfer->handle == handle)
            return transfer;
    }
    return NULL;
}

static struct control_call *call_of(struct node *node, const struct speed_transfer *transfer)
{
    bool asked = transfer->own && node->control != NULL;
    return asked ? control_resolve(node->control, transfer->call) : NULL;
}

/* Ends a transfer that did not succeed: the stream is reset with err unless it is gone already (handle 0). */
static void fail(struct node *node, struct speed_transfer *transfer, uint64_t now_ns, int err)
{
    struct control_call *call = call_of(node, transfer);
    if (transfer->handle != 0)
        quic_stream_reset(node->quic, transfer->handle, err);
    if (call != NULL)
        speed_tell_failed(node, call, transfer, now_ns, err);
    transfer->state = SPEED_STATE_FREE;
}

static int send_note(struct node *node, const struct speed_transfer *transfer,
                     const struct speed_frame *frame)
{
    uint8_t out[SPEED_NOTE_MAX];
    size_t len = speed_frame_encode(frame, out);
    return quic_stream_send(node->quic, transfer->handle, bytes_of(out, len));
}

static void begin_sending(struct speed_transfer *transfer)
{
    randombytes_buf(transfer->seed, sizeof transfer->seed);
    transfer->state = SPEED_STATE_SENDING;
}

/* A first PROGRESS tells the sender when its first byte was here; then one a second while bytes come. */
static void tell_sender(struct node *node, struct speed_transfer *transfer, uint64_t now_ns, bool first)
{
    struct speed_frame note = {.kind = SPEED_PROGRESS, .bytes = transfer->meter.bytes};
    if (!first && now_ns < transfer->noted_ns + NODE_SECOND_NS)
        return;
    /* Without room the next one will do: it counts from the beginning. */
    if (send_note(node, transfer, &note) == ERR_OK)
        transfer->noted_ns = now_ns;
}

static void take_data(struct node *node, struct speed_transfer *transfer, uint64_t now_ns, struct bytes data)
{
    bool first = transfer->meter.bytes == 0;
    if (data.len > transfer->wanted - transfer->meter.bytes) {
        fail(node, transfer, now_ns, ERR_TOO_LARGE);
        return;
    }
    speed_meter_add(&transfer->meter, now_ns, data);
    if (first)
        transfer->first_ns = now_ns;
    tell_sender(node, transfer, now_ns, first);
}

static struct speed_frame report_of(const struct speed_transfer *transfer)
{
    struct speed_frame report = {
        .kind = SPEED_REPORT, .bytes = transfer->meter.bytes, .gap_count = transfer->meter.gap_count};
    speed_meter_hash(&transfer->meter, &report.hash);
    memcpy(report.gaps, transfer->meter.gaps, sizeof report.gaps);
    return report;
}

/* The receiver's last word.  Small, so there is room at once, or soon. */
static void send_report(struct node *node, struct speed_transfer *transfer, uint64_t now_ns)
{
    struct speed_frame report = report_of(transfer);
    int result = send_note(node, transfer, &report);
    if (result == ERR_AGAIN)
        return;
    if (result < 0) {
        fail(node, transfer, now_ns, result == ERR_NOT_FOUND ? ERR_CLOSED : result);
        return;
    }
    quic_stream_finish(node->quic, transfer->handle);
    transfer->state = SPEED_STATE_FREE;
}

static void take_end(struct node *node, struct speed_transfer *transfer, uint64_t now_ns,
                     const struct speed_frame *end)
{
    struct control_call *call = call_of(node, transfer);
    struct speed_frame report = report_of(transfer);
    if (end->bytes != transfer->wanted) {
        fail(node, transfer, now_ns, ERR_MALFORMED);
        return;
    }
    transfer->state = SPEED_STATE_REPORTING;
    if (call != NULL)
        speed_tell_done(node, call, transfer, now_ns, &report,
                        report.bytes == end->bytes && id_equal(&report.hash, &end->hash));
    send_report(node, transfer, now_ns);
}

static void take_report(struct node *node, struct speed_transfer *transfer, uint64_t now_ns,
                        const struct speed_frame *report)
{
    struct control_call *call = call_of(node, transfer);
    struct id sent;
    speed_meter_hash(&transfer->meter, &sent);
    if (transfer->first_ns == 0)
        transfer->first_ns = now_ns;
    quic_stream_finish(node->quic, transfer->handle);
    if (call != NULL)
        speed_tell_done(node, call, transfer, now_ns, report,
                        report->bytes == transfer->wanted && id_equal(&report->hash, &sent));
    transfer->state = SPEED_STATE_FREE;
}

static void take_request(struct node *node, struct speed_transfer *transfer, uint64_t now_ns,
                         const struct speed_frame *request)
{
    struct speed *speed = node->speed;
    if (now_ns >= speed->hour_ns + HOUR_NS) {
        speed->hour_ns = now_ns;
        speed->hour_bytes = 0;
    }
    if (request->bytes > SPEED_HOUR_BYTES - speed->hour_bytes) {
        fail(node, transfer, now_ns, ERR_QUOTA);
        return;
    }
    speed->hour_bytes += request->bytes;
    transfer->wanted = request->bytes;
    transfer->direction = request->direction;
    if (request->direction == SPEED_DOWN)
        begin_sending(transfer);
    else
        transfer->state = SPEED_STATE_RECEIVING;
}

static void take_progress(struct speed_transfer *transfer, uint64_t now_ns, const struct speed_frame *note)
{
    if (note->bytes > 0 && transfer->first_ns == 0)
        transfer->first_ns = now_ns;
    if (note->bytes > transfer->arrived)
        transfer->arrived = note->bytes;
}

/* What each state takes; anything else is the peer's mistake. */
static void take_frame(struct node *node, struct speed_transfer *transfer, uint64_t now_ns, struct bytes in)
{
    struct speed_frame frame;
    enum speed_state state = transfer->state;
    bool sender = state == SPEED_STATE_SENDING || state == SPEED_STATE_SENT;
    int result = speed_frame_decode(in, &frame);
    transfer->moved_ns = now_ns;
    if (result < 0)
        fail(node, transfer, now_ns, result);
    else if (frame.kind == SPEED_REQUEST && state == SPEED_STATE_FIRST)
        take_request(node, transfer, now_ns, &frame);
    else if (frame.kind == SPEED_DATA && state == SPEED_STATE_RECEIVING)
        take_data(node, transfer, now_ns, frame.data);
    else if (frame.kind == SPEED_END && state == SPEED_STATE_RECEIVING)
        take_end(node, transfer, now_ns, &frame);
    else if (frame.kind == SPEED_PROGRESS && sender)
        take_progress(transfer, now_ns, &frame);
    else if (frame.kind == SPEED_REPORT && state == SPEED_STATE_SENT)
        take_report(node, transfer, now_ns, &frame);
    else
        fail(node, transfer, now_ns, ERR_MALFORMED);
}

static void opened_by_peer(struct node *node, uint64_t now_ns, const struct quic_event *event)
{
    struct speed_transfer *transfer = take(node->speed, false, now_ns);
    if (transfer == NULL) {
        quic_stream_reset(node->quic, event->handle, ERR_BUSY);
        return;
    }
    transfer->state = SPEED_STATE_FIRST;
    transfer->peer = event->peer;
    transfer->handle = event->handle;
    transfer->opened_ns = now_ns;
}

bool speed_quic_event(struct node *node, uint64_t now_ns, const struct quic_event *event)
{
    if (event->service != STREAM_SERVICE_BLOB || event->kind == QUIC_CONNECTED ||
        event->kind == QUIC_DISCONNECTED)
        return false;
    struct speed_transfer *transfer = find(node->speed, event->handle);
    if (event->kind == QUIC_STREAM_OPENED)
        opened_by_peer(node, now_ns, event);
    else if (event->kind == QUIC_STREAM_ENDED)
        quic_stream_finish(node->quic, event->handle);
    if (transfer == NULL)
        return true; /* the rest of a stream that has done its work */
    if (event->kind == QUIC_FRAME)
        take_frame(node, transfer, now_ns, event->frame);
    if (event->kind == QUIC_STREAM_ENDED || event->kind == QUIC_STREAM_RESET) {
        bool reset = event->kind == QUIC_STREAM_RESET;
        transfer->handle = reset ? 0 : transfer->handle;
        fail(node, transfer, now_ns, reset && event->err < 0 ? event->err : ERR_CLOSED);
    }
    return true;
}

/* Piece number slice of the data: no two pieces are alike, so that nothing on the way can shorten them. */
static struct bytes data_piece(struct speed *speed, struct speed_transfer *transfer)
{
    uint64_t left = transfer->wanted - transfer->meter.bytes;
    size_t len = left < SPEED_DATA_MAX ? (size_t)left : SPEED_DATA_MAX;
    store_le64(transfer->seed, transfer->slice);
    speed->frame[0] = SPEED_DATA;
    randombytes_buf_deterministic(speed->frame + 1, len, transfer->seed);
    return bytes_of(speed->frame + 1, len);
}

static void send_end(struct node *node, struct speed_transfer *transfer)
{
    struct speed_frame end = {.kind = SPEED_END, .bytes = transfer->meter.bytes};
    speed_meter_hash(&transfer->meter, &end.hash);
    if (send_note(node, transfer, &end) == ERR_OK)
        transfer->state = SPEED_STATE_SENT;
}

/* One frame of data, or the END; false when there is no room. */
static bool send_one(struct node *node, struct speed_transfer *transfer, uint64_t now_ns)
{
    struct speed *speed = node->speed;
    if (quic_stream_room(node->quic, transfer->handle) < SPEED_FRAME_MAX)
        return false;
    if (transfer->meter.bytes == transfer->wanted) {
        send_end(node, transfer);
        return transfer->state == SPEED_STATE_SENT;
    }
    struct bytes data = data_piece(speed, transfer);
    if (quic_stream_send(node->quic, transfer->handle, bytes_of(speed->frame, 1 + data.len)) < 0)
        return false; /* no room after all, or its reset event follows */
    speed_meter_add(&transfer->meter, now_ns, data);
    transfer->slice++;
    transfer->moved_ns = now_ns;
    speed->left = speed->left > data.len ? speed->left - data.len : 0;
    return true;
}

bool speed_drain(struct node *node, uint64_t now_ns)
{
    struct speed *speed = node->speed;
    bool any = false;
    bool more = true;
    if (speed->round_ns != now_ns) {
        speed->round_ns = now_ns;
        speed->left = SPEED_SLICE_BYTES;
    }
    speed->hungry = false;
    /* In turns, so that all get on alike. */
    while (more && speed->left > 0) {
        more = false;
        for (size_t i = 0; i < TRANSFERS_MAX && speed->left > 0; i++) {
            if (speed->transfers[i].state == SPEED_STATE_SENDING)
                more |= send_one(node, &speed->transfers[i], now_ns);
        }
        any |= more;
    }
    speed->hungry = more;
    for (size_t i = 0; i < TRANSFERS_MAX; i++) {
        if (speed->transfers[i].state == SPEED_STATE_REPORTING)
            send_report(node, &speed->transfers[i], now_ns);
    }
    return any;
}

static void note_path(struct node *node, struct speed_transfer *transfer, uint64_t now_ns)
{
    struct speed_path now = {.at_ms = (uint32_t)((now_ns - transfer->began_ns) / (NODE_SECOND_NS / 1000))};
    struct speed_path *last = transfer->path_count == 0 ? NULL : &transfer->paths[transfer->path_count - 1];
    if (nat_path_route(node->path, &transfer->peer, &now.addr) < 0)
        memset(&now.addr, 0, sizeof now.addr);
    now.text = methods_path_text(node, &transfer->peer);
    if (last != NULL && strcmp(last->text, now.text) == 0 && net_addr_equal(&last->addr, &now.addr))
        return;
    if (transfer->path_count == SPEED_PATHS_MAX)
        *last = now;
    else
        transfer->paths[transfer->path_count++] = now;
}

/* Opens the stream as soon as the peer is connected; false: the transfer is over. */
static bool chase(struct node *node, struct speed_transfer *transfer, uint64_t now_ns)
{
    struct speed_frame request = {
        .kind = SPEED_REQUEST, .direction = transfer->direction, .bytes = transfer->wanted};
    int result = quic_stream_open(node->quic, now_ns, &transfer->peer, STREAM_SERVICE_BLOB,
                                  STREAM_CLASS_BLOBS, &transfer->handle);
    if (result == ERR_OK)
        result = send_note(node, transfer, &request);
    if (result < 0 && transfer->handle != 0) { /* no room: the stream alone is of no use */
        quic_stream_reset(node->quic, transfer->handle, ERR_CLOSED);
        transfer->handle = 0;
    }
    if (result < 0 && now_ns >= transfer->began_ns + transfer->wait_ns) {
        fail(node, transfer, now_ns, ERR_TIMEOUT);
        return false;
    }
    if (result < 0)
        return true;
    transfer->opened_ns = transfer->moved_ns = now_ns;
    if (transfer->direction == SPEED_UP)
        begin_sending(transfer);
    else
        transfer->state = SPEED_STATE_RECEIVING;
    return true;
}

static void tick_own(struct node *node, struct speed_transfer *transfer, uint64_t now_ns)
{
    struct control_call *call = call_of(node, transfer);
    if (call == NULL) {
        fail(node, transfer, now_ns, ERR_CANCELLED);
        return;
    }
    if (peers_want(node, &transfer->peer, NULL, 0, 30 * NODE_SECOND_NS) == NULL) {
        fail(node, transfer, now_ns, ERR_FULL);
        return;
    }
    if (transfer->state == SPEED_STATE_CONNECTING && !chase(node, transfer, now_ns))
        return;
    note_path(node, transfer, now_ns);
    if (now_ns < transfer->told_ns + NODE_SECOND_NS)
        return;
    transfer->told_ns = now_ns;
    speed_tell_progress(node, call, transfer, now_ns);
}

/* False: it was given up. */
static bool still_moving(struct node *node, struct speed_transfer *transfer, uint64_t now_ns)
{
    uint64_t limit_s = transfer->state == SPEED_STATE_FIRST ? SPEED_FIRST_S : SPEED_IDLE_S;
    bool late = !transfer->own && now_ns >= transfer->began_ns + SPEED_SERVED_S * NODE_SECOND_NS;
    bool silent =
        transfer->state != SPEED_STATE_CONNECTING && now_ns >= transfer->moved_ns + limit_s * NODE_SECOND_NS;
    if (!late && !silent)
        return true;
    fail(node, transfer, now_ns, ERR_TIMEOUT);
    return false;
}

void speed_tick(struct node *node, uint64_t now_ns)
{
    struct speed *speed = node->speed;
    if (now_ns < speed->tick_next_ns)
        return;
    speed->tick_next_ns = UINT64_MAX;
    for (size_t i = 0; i < TRANSFERS_MAX; i++) {
        struct speed_transfer *transfer = &speed->transfers[i];
        if (transfer->state == SPEED_STATE_FREE || !still_moving(node, transfer, now_ns))
            continue;
        if (transfer->own)
            tick_own(node, transfer, now_ns);
        struct node_peer *peer = peers_find(node, &transfer->peer);
        if (peer != NULL && peer->last_seen_ns < transfer->moved_ns)
            peer->last_seen_ns = transfer->moved_ns; /* or the connection would count as unused */
        uint64_t next_ns = now_ns + (transfer->own ? TICK_OWN_NS : TICK_SERVED_NS);
        if (next_ns < speed->tick_next_ns)
            speed->tick_next_ns = next_ns;
    }
}

uint64_t speed_deadline_ns(const struct node *node)
{
    return node->speed->hungry ? 0 : node->speed->tick_next_ns;
}

int speed_start(struct node *node, uint64_t now_ns, struct control_call *call, const struct id *peer,
                enum speed_direction direction, uint64_t bytes, uint64_t wait_ns)
{
    ASSERT(bytes > 0 && bytes <= SPEED_BYTES_MAX);
    if (peers_want(node, peer, NULL, 0, 30 * NODE_SECOND_NS) == NULL)
        return ERR_FULL;
    struct speed_transfer *transfer = take(node->speed, true, now_ns);
    if (transfer == NULL)
        return ERR_BUSY;
    transfer->state = SPEED_STATE_CONNECTING;
    transfer->peer = *peer;
    transfer->direction = direction;
    transfer->wanted = bytes;
    transfer->wait_ns = wait_ns;
    transfer->call = control_ref_of(call);
    return ERR_OK;
}
