#include "net/rpc.h"

#include <string.h>

#include "base/ring.h"
#include "net/rpc_wire.h"

#define MILLISECOND_NS UINT64_C(1000000)

enum {
    REJECTS_MAX = 64,
    RETRY_MS = 25,    /* before an OPEN that found no room is tried again */
    READ_MS = 30000,  /* for a request to arrive whole */
    CALLEE = 1 << 30, /* in a token's index: a request of another */
};

/* One call or request.
 *   own call   OPENING --stream open--> SENDING --frame taken--> WAITING --reply, reset, deadline--> DONE -->
 * FREE request    READING --frame--> READY --told--> WORKING --rpc_reply, rpc_refuse--> SENDING --taken-->
 * FREE A call in DONE keeps its slot until it was told and its stream has ended. */
enum slot_state {
    SLOT_FREE,
    SLOT_OPENING,
    SLOT_SENDING,
    SLOT_WAITING,
    SLOT_DONE,
    SLOT_READING,
    SLOT_READY,
    SLOT_WORKING,
};

struct slot {
    enum slot_state state;
    bool request; /* of another */
    bool busy;    /* its action was handed out */
    bool blocked; /* its action found no room */
    bool told;    /* DONE: the event was polled, or nobody wants it */
    bool stream_over;
    bool finish, reset;
    int reset_err;
    uint32_t generation;
    uint64_t handle; /* 0: no stream yet */
    uint64_t deadline_ns, retry_ns;
    struct id peer;
    uint16_t method;
    int err;
    size_t len;        /* of the message in frame */
    struct bytes body; /* DONE, READY: into frame */
    uint8_t *frame;    /* [frame_max] */
};

struct rpc {
    struct rpc_config cfg;
    uint64_t now_ns;
    size_t slot_count, frame_max;
    struct slot *slots; /* own calls, then requests */
    uint8_t *frames, *scratch;
    size_t next; /* where the search for an action goes on */
    size_t calls, requests;
    struct {
        uint64_t handle;
        int err;
    } rejects[REJECTS_MAX];
    struct ring reject_ring;
};

struct rpc_config rpc_config_default(void)
{
    return (struct rpc_config){
        .allocator = allocator_system(),
        .calls_max = 64,
        .calls_peer_max = 16,
        .requests_max = 64,
        .requests_peer_max = 16,
        .body_max = RPC_BODY_DEFAULT,
    };
}

int rpc_create(struct rpc **out, const struct rpc_config *cfg)
{
    if (cfg->calls_max == 0 || cfg->requests_max == 0 || cfg->calls_max + cfg->requests_max > CALLEE ||
        cfg->body_max == 0)
        return ERR_INVALID;
    struct rpc *rpc = allocator_get(&cfg->allocator, 1, sizeof *rpc);
    if (rpc == NULL)
        return ERR_NO_MEMORY;
    rpc->cfg = *cfg;
    rpc->reject_ring = ring_init(REJECTS_MAX);
    rpc->slot_count = cfg->calls_max + cfg->requests_max;
    rpc->frame_max = cfg->body_max + RPC_HEAD_MAX;
    rpc->slots = allocator_get(&cfg->allocator, rpc->slot_count, sizeof *rpc->slots);
    rpc->frames = allocator_get(&cfg->allocator, rpc->slot_count + 1, rpc->frame_max);
    if (rpc->slots == NULL || rpc->frames == NULL) {
        rpc_destroy(rpc);
        return ERR_NO_MEMORY;
    }
    rpc->scratch = rpc->frames + rpc->slot_count * rpc->frame_max;
    for (size_t i = 0; i < rpc->slot_count; i++) {
        rpc->slots[i].frame = rpc->frames + i * rpc->frame_max;
        rpc->slots[i].request = i >= cfg->calls_max;
    }
    *out = rpc;
    return ERR_OK;
}

void rpc_destroy(struct rpc *rpc)
{
    if (rpc == NULL)
        return;
    struct allocator allocator = rpc->cfg.allocator;
    allocator_release(&allocator, rpc->frames);
    allocator_release(&allocator, rpc->slots);
    allocator_release(&allocator, rpc);
}

static uint64_t token_of(const struct rpc *rpc, const struct slot *slot)
{
    uint64_t index = (uint64_t)(slot - rpc->slots);
    return (uint64_t)slot->generation << 32 | (slot->request ? CALLEE : 0) | index;
}

static struct slot *slot_of_token(struct rpc *rpc, uint64_t token, bool request)
{
    uint32_t index = (uint32_t)token & ~(uint32_t)CALLEE;
    bool callee = (token & CALLEE) != 0;
    if (callee != request || index >= rpc->slot_count)
        return NULL;
    struct slot *slot = &rpc->slots[index];
    bool match = slot->state != SLOT_FREE && slot->request == request && slot->generation == token >> 32;
    return match ? slot : NULL;
}

static struct slot *slot_of_handle(struct rpc *rpc, uint64_t handle)
{
    for (size_t i = 0; i < rpc->slot_count; i++)
        if (rpc->slots[i].state != SLOT_FREE && rpc->slots[i].handle == handle && handle != 0 &&
            !rpc->slots[i].stream_over)
            return &rpc->slots[i];
    return NULL;
}

/* A free slot of this side, within the peer's share; NULL: none. */
static struct slot *slot_take(struct rpc *rpc, const struct id *peer, bool request)
{
    size_t peer_max = request ? rpc->cfg.requests_peer_max : rpc->cfg.calls_peer_max;
    struct slot *found = NULL;
    size_t of_peer = 0;
    for (size_t i = 0; i < rpc->slot_count; i++) {
        struct slot *slot = &rpc->slots[i];
        if (slot->request != request)
            continue;
        if (slot->state == SLOT_FREE)
            found = found == NULL ? slot : found;
        else
            of_peer += id_equal(&slot->peer, peer);
    }
    if (found == NULL || of_peer >= peer_max)
        return NULL;
    struct slot fresh = {
        .request = request, .frame = found->frame, .generation = found->generation + 1, .peer = *peer};
    if (fresh.generation == 0)
        fresh.generation = 1;
    *found = fresh;
    *(request ? &rpc->requests : &rpc->calls) += 1;
    return found;
}

static void slot_free(struct rpc *rpc, struct slot *slot)
{
    *(slot->request ? &rpc->requests : &rpc->calls) -= 1;
    slot->state = SLOT_FREE;
}

static void maybe_free(struct rpc *rpc, struct slot *slot)
{
    bool stream_done = slot->handle == 0 || slot->stream_over;
    if (slot->state == SLOT_DONE && slot->told && stream_done && !slot->busy && !slot->reset && !slot->finish)
        slot_free(rpc, slot);
}

/* Asks for the stream to be reset; nothing more is expected of it. */
static void want_reset(struct slot *slot, int err)
{
    if (slot->handle == 0 || slot->stream_over)
        return;
    slot->finish = false;
    slot->reset = true;
    slot->reset_err = err;
}

/* Ends an own call with an error that is to be told. */
static void call_fail(struct slot *slot, int err)
{
    if (slot->state == SLOT_DONE)
        return;
    slot->state = SLOT_DONE;
    slot->err = err;
    slot->body = (struct bytes){0};
}

int rpc_call(struct rpc *rpc, uint64_t now_ns, const struct id *peer, uint16_t method, struct bytes body,
             uint64_t deadline_ns, uint64_t *token)
{
    rpc->now_ns = now_ns;
    if (method == 0 || deadline_ns <= now_ns || deadline_ns - now_ns > RPC_TIMEOUT_MS_MAX * MILLISECOND_NS)
        return ERR_INVALID;
    if (body.len > rpc->cfg.body_max)
        return ERR_TOO_LARGE;
    struct slot *slot = slot_take(rpc, peer, false);
    if (slot == NULL)
        return ERR_FULL;
    uint64_t timeout_ms = (deadline_ns - now_ns + MILLISECOND_NS - 1) / MILLISECOND_NS;
    struct rpc_request_message message = {.method = method, .timeout_ms = (uint32_t)timeout_ms, .body = body};
    slot->len = rpc_request_encode(&message, rpc->scratch, rpc->frame_max);
    ASSERT(slot->len > 0);
    memcpy(slot->frame, rpc->scratch, slot->len);
    slot->state = SLOT_OPENING;
    slot->method = method;
    slot->deadline_ns = deadline_ns;
    *token = token_of(rpc, slot);
    return ERR_OK;
}

void rpc_cancel(struct rpc *rpc, uint64_t token)
{
    struct slot *slot = slot_of_token(rpc, token, false);
    if (slot == NULL)
        return;
    want_reset(slot, ERR_TIMEOUT);
    slot->state = SLOT_DONE;
    slot->told = true;
    maybe_free(rpc, slot);
}

static int answer(struct rpc *rpc, uint64_t token, const struct rpc_reply_message *message)
{
    struct slot *slot = slot_of_token(rpc, token, true);
    if (slot == NULL || slot->state != SLOT_WORKING)
        return ERR_OK;
    if (message->body.len > rpc->cfg.body_max)
        return ERR_TOO_LARGE;
    /* The body may lie in this very slot: whoever echoes a request passes it back. */
    slot->len = rpc_reply_encode(message, rpc->scratch, rpc->frame_max);
    ASSERT(slot->len > 0);
    memcpy(slot->frame, rpc->scratch, slot->len);
    slot->state = SLOT_SENDING;
    return ERR_OK;
}

int rpc_reply(struct rpc *rpc, uint64_t token, struct bytes body)
{
    return answer(rpc, token, &(struct rpc_reply_message){.body = body});
}

void rpc_refuse(struct rpc *rpc, uint64_t token, int err)
{
    ASSERT(err < 0);
    int result = answer(rpc, token, &(struct rpc_reply_message){.err = err});
    ASSERT(result == ERR_OK);
}

void rpc_stream_opened(struct rpc *rpc, uint64_t now_ns, const struct id *peer, uint64_t handle)
{
    rpc->now_ns = now_ns;
    struct slot *slot = slot_take(rpc, peer, true);
    if (slot != NULL) {
        slot->state = SLOT_READING;
        slot->handle = handle;
        slot->deadline_ns = now_ns + READ_MS * MILLISECOND_NS;
        return;
    }
    /* When even the refusals do not fit, the stream waits for the caller's own deadline. */
    size_t at = ring_push(&rpc->reject_ring);
    if (at == RING_NONE)
        return;
    rpc->rejects[at].handle = handle;
    rpc->rejects[at].err = ERR_BUSY;
}

/* The whole request has come, or what cannot be one. */
static void read_request(struct slot *slot, uint64_t now_ns, size_t body_max)
{
    struct rpc_request_message message;
    if (rpc_request_decode(bytes_of(slot->frame, slot->len), body_max, &message) != ERR_OK) {
        want_reset(slot, ERR_MALFORMED);
        return;
    }
    slot->method = message.method;
    slot->body = message.body;
    slot->deadline_ns = now_ns + message.timeout_ms * MILLISECOND_NS;
    slot->state = SLOT_READY;
}

static void read_reply(struct slot *slot, size_t body_max)
{
    struct rpc_reply_message message;
    if (rpc_reply_decode(bytes_of(slot->frame, slot->len), body_max, &message) != ERR_OK) {
        call_fail(slot, ERR_MALFORMED);
        want_reset(slot, ERR_MALFORMED);
        return;
    }
    slot->state = SLOT_DONE;
    slot->err = message.err;
    slot->body = message.body;
}

void rpc_stream_frame(struct rpc *rpc, uint64_t now_ns, uint64_t handle, struct bytes frame)
{
    rpc->now_ns = now_ns;
    struct slot *slot = slot_of_handle(rpc, handle);
    if (slot == NULL || slot->reset)
        return;
    bool expected = slot->state == SLOT_READING || slot->state == SLOT_WAITING;
    if (!expected || frame.len > rpc->frame_max) {
        if (!slot->request)
            call_fail(slot, ERR_MALFORMED);
        want_reset(slot, ERR_MALFORMED); /* a second frame, or one before its time */
        return;
    }
    memcpy(slot->frame, frame.data, frame.len);
    slot->len = frame.len;
    if (slot->request)
        read_request(slot, now_ns, rpc->cfg.body_max);
    else
        read_reply(slot, rpc->cfg.body_max);
}

void rpc_stream_ended(struct rpc *rpc, uint64_t now_ns, uint64_t handle)
{
    rpc->now_ns = now_ns;
    struct slot *slot = slot_of_handle(rpc, handle);
    if (slot == NULL || slot->reset)
        return;
    if (slot->request) {
        if (slot->state == SLOT_READING)
            want_reset(slot, ERR_TRUNCATED);
        return; /* the usual case: the caller has nothing more to say */
    }
    if (slot->state != SLOT_DONE) {
        call_fail(slot, ERR_TRUNCATED);
        want_reset(slot, ERR_TRUNCATED);
    } else {
        slot->stream_over = true;
    }
    maybe_free(rpc, slot);
}

void rpc_stream_reset(struct rpc *rpc, uint64_t now_ns, uint64_t handle, int err)
{
    rpc->now_ns = now_ns;
    struct slot *slot = slot_of_handle(rpc, handle);
    if (slot == NULL)
        return;
    slot->stream_over = true;
    slot->finish = false;
    slot->reset = false;
    if (slot->request) {
        slot_free(rpc, slot);
        return;
    }
    call_fail(slot, err < 0 ? err : ERR_CLOSED);
    maybe_free(rpc, slot);
}

void rpc_stream_writable(struct rpc *rpc, uint64_t handle)
{
    struct slot *slot = slot_of_handle(rpc, handle);
    if (slot != NULL)
        slot->blocked = false;
}

static void expire(struct rpc *rpc, struct slot *slot)
{
    if (slot->request) {
        slot->state = SLOT_WORKING;
        want_reset(slot, ERR_TIMEOUT);
        return;
    }
    call_fail(slot, ERR_TIMEOUT);
    want_reset(slot, ERR_TIMEOUT);
    maybe_free(rpc, slot);
}

void rpc_tick(struct rpc *rpc, uint64_t now_ns)
{
    rpc->now_ns = now_ns;
    for (size_t i = 0; i < rpc->slot_count; i++) {
        struct slot *slot = &rpc->slots[i];
        if (slot->state == SLOT_FREE)
            continue;
        if (slot->state == SLOT_OPENING && slot->blocked && now_ns >= slot->retry_ns)
            slot->blocked = false;
        if (now_ns >= slot->deadline_ns && !slot->reset)
            expire(rpc, slot);
    }
}

uint64_t rpc_deadline_ns(const struct rpc *rpc)
{
    uint64_t deadline = UINT64_MAX;
    for (size_t i = 0; i < rpc->slot_count; i++) {
        const struct slot *slot = &rpc->slots[i];
        if (slot->state == SLOT_FREE || slot->reset || (slot->state == SLOT_DONE && slot->handle == 0))
            continue;
        uint64_t due = slot->deadline_ns;
        if (slot->state == SLOT_OPENING && slot->blocked && slot->retry_ns < due)
            due = slot->retry_ns;
        deadline = due < deadline ? due : deadline;
    }
    return deadline;
}

/* The slot's next action.  False: none. */
static bool slot_action(struct rpc *rpc, struct slot *slot, struct rpc_action *out)
{
    if (slot->state == SLOT_FREE || slot->busy)
        return false;
    *out = (struct rpc_action){.token = token_of(rpc, slot), .handle = slot->handle, .peer = slot->peer};
    if (slot->reset) {
        out->kind = RPC_ACTION_RESET;
        out->err = slot->reset_err;
        slot->reset = false;
        slot->stream_over = true;
        if (slot->request)
            slot_free(rpc, slot);
        else
            maybe_free(rpc, slot);
        return true;
    }
    if (slot->finish) {
        out->kind = RPC_ACTION_FINISH;
        slot->finish = false;
        if (slot->request)
            slot_free(rpc, slot); /* the reply is QUIC's now */
        else
            maybe_free(rpc, slot);
        return true;
    }
    if (slot->blocked || (slot->state != SLOT_OPENING && slot->state != SLOT_SENDING))
        return false;
    slot->busy = true;
    out->kind = slot->state == SLOT_OPENING ? RPC_ACTION_OPEN : RPC_ACTION_SEND;
    out->frame = bytes_of(slot->frame, slot->len);
    return true;
}

bool rpc_poll_action(struct rpc *rpc, struct rpc_action *out)
{
    size_t reject = ring_pop(&rpc->reject_ring);
    if (reject != RING_NONE) {
        *out = (struct rpc_action){
            .kind = RPC_ACTION_RESET, .handle = rpc->rejects[reject].handle, .err = rpc->rejects[reject].err};
        return true;
    }
    for (size_t i = 0; i < rpc->slot_count; i++) {
        size_t at = (rpc->next + i) % rpc->slot_count;
        if (slot_action(rpc, &rpc->slots[at], out)) {
            rpc->next = (at + 1) % rpc->slot_count;
            return true;
        }
    }
    return false;
}

/* An OPEN or SEND that failed for good. */
static void action_failed(struct rpc *rpc, struct slot *slot, int err)
{
    if (slot->request) {
        want_reset(slot, err);
        return;
    }
    call_fail(slot, err);
    want_reset(slot, err);
    maybe_free(rpc, slot);
}

void rpc_action_done(struct rpc *rpc, const struct rpc_action *action, int result, uint64_t handle)
{
    struct slot *slot = slot_of_token(rpc, action->token, (action->token & CALLEE) != 0);
    if (slot == NULL || !slot->busy)
        return;
    slot->busy = false;
    if (action->kind == RPC_ACTION_OPEN && result == ERR_OK)
        slot->handle = handle;
    if (slot->state == SLOT_DONE) { /* it ended meanwhile */
        want_reset(slot, ERR_TIMEOUT);
        maybe_free(rpc, slot);
        return;
    }
    if (result == ERR_AGAIN) {
        slot->blocked = true;
        slot->retry_ns = rpc->now_ns + RETRY_MS * MILLISECOND_NS;
        return;
    }
    if (result != ERR_OK) {
        action_failed(rpc, slot, result);
        return;
    }
    if (action->kind == RPC_ACTION_OPEN) {
        slot->state = SLOT_SENDING;
        return;
    }
    slot->finish = true;
    if (!slot->request)
        slot->state = SLOT_WAITING;
}

bool rpc_poll_event(struct rpc *rpc, struct rpc_event *out)
{
    for (size_t i = 0; i < rpc->slot_count; i++) {
        struct slot *slot = &rpc->slots[i];
        bool call_done = slot->state == SLOT_DONE && !slot->told;
        if (!call_done && (slot->state != SLOT_READY || slot->reset))
            continue;
        *out = (struct rpc_event){.token = token_of(rpc, slot), .peer = slot->peer, .method = slot->method};
        out->body = slot->body;
        if (call_done) {
            out->kind = slot->err == 0 ? RPC_REPLY : RPC_ERROR;
            out->err = slot->err;
            slot->told = true;
            maybe_free(rpc, slot); /* the body stays where it is until a new call takes the slot */
        } else {
            out->kind = RPC_REQUEST;
            out->deadline_ns = slot->deadline_ns;
            slot->state = SLOT_WORKING;
        }
        return true;
    }
    return false;
}

size_t rpc_calls(const struct rpc *rpc)
{
    return rpc->calls;
}

size_t rpc_requests(const struct rpc *rpc)
{
    return rpc->requests;
}

void rpc_check_invariants(const struct rpc *rpc)
{
    size_t calls = 0;
    size_t requests = 0;
    for (size_t i = 0; i < rpc->slot_count; i++) {
        const struct slot *slot = &rpc->slots[i];
        ASSERT(slot->request == (i >= rpc->cfg.calls_max));
        if (slot->state == SLOT_FREE)
            continue;
        calls += !slot->request;
        requests += slot->request;
        ASSERT(slot->len <= rpc->frame_max && slot->body.len <= rpc->cfg.body_max);
        ASSERT(slot->state != SLOT_OPENING || (!slot->request && slot->handle == 0));
        ASSERT(slot->state != SLOT_WAITING || (!slot->request && slot->handle != 0));
        ASSERT(slot->state != SLOT_DONE || !slot->request);
        ASSERT(!slot->request || slot->handle != 0);
    }
    ASSERT(calls == rpc->calls && requests == rpc->requests);
    ring_check_invariants(&rpc->reject_ring);
}
