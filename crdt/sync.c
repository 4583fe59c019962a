/* A repair session's frames and states; the reconciliation itself is in sync_turn.c. */
#include "crdt/sync.h"

#include <string.h>

#include "base/pack.h"
#include "crdt/sync_turn.h"

enum {
    KEY_VERSION = 1,
    KEY_TYPE = 2,
    KEY_RUN = 3,
    KEY_DIGEST = 4,
    KEY_SESSION = 5,
    KEY_COUNT = 6,
    KEY_RANGES = 7,
    KEY_ITEMS = 8,
    TOKENS_MAX = 16 + 3 * CRDT_BATCH_MAX + 16,
    CONVICTED_MAX = 16,
    COUNT_SLACK = 1024, /* records that may come between a peer's hello and its index */
};

enum frame_type {
    FRAME_HELLO = 1,
    FRAME_TURN,
    FRAME_RECORDS,
    FRAME_END,
    FRAME_REFUSED,
    FRAME_TYPE_MAX = FRAME_REFUSED
};

#define BIT(key) (UINT32_C(1) << (key))

struct frame {
    enum frame_type type;
    uint32_t seen;
    struct id run;
    struct id digest;
    uint8_t session_key[CRDT_SYNC_KEY_BYTES];
    uint64_t count;
    struct bytes ranges;
    size_t item_count;
    struct crdt_item items[CRDT_BATCH_MAX];
};

struct crdt_sync {
    struct crdt_replica *replica;
    struct allocator alloc;
    uint64_t origin;
    bool initiator;
    bool indexed;    /* turn holds an index */
    bool turn_ready; /* it is composed, to be sent by the next poll */
    bool hello_ready;
    bool refusal_ready;
    bool count_owed; /* the responder's first TURN tells how many records it has */
    bool end_sent;
    bool end_received;
    struct id run;
    uint8_t key[CRDT_SYNC_KEY_BYTES];
    size_t outgoing_sent;
    size_t convicted_count; /* authors convicted by what came in this session ... */
    size_t convicted_sent;  /* ... and how many of them the peer was told of */
    struct id convicted[CONVICTED_MAX];
    struct crdt_turn turn;
    struct crdt_sync_result result;
};

static int decode_frame(struct bytes in, struct frame *f)
{
    struct pack_token tokens[TOKENS_MAX];
    uint64_t version = CRDT_WIRE_VERSION;
    uint64_t type = 0;
    memset(f, 0, sizeof *f);
    if (in.len > CRDT_FRAME_MAX)
        return ERR_TOO_LARGE;
    struct pack_reader r = pack_parse(in, tokens, TOKENS_MAX);
    for (size_t left = pack_read_map(&r, 16); left > 0; left--) {
        switch (pack_read_key(&r, &f->seen)) {
        case KEY_VERSION:
            version = pack_read_uint(&r, UINT32_MAX);
            break;
        case KEY_TYPE:
            type = pack_read_uint(&r, UINT32_MAX);
            break;
        case KEY_RUN:
            pack_read_id(&r, &f->run);
            break;
        case KEY_DIGEST:
            pack_read_id(&r, &f->digest);
            break;
        case KEY_SESSION:
            pack_read_exact(&r, f->session_key, sizeof f->session_key);
            break;
        case KEY_COUNT:
            f->count = pack_read_uint(&r, UINT32_MAX);
            break;
        case KEY_RANGES:
            f->ranges = pack_read_bin(&r, CRDT_TURN_MAX);
            break;
        case KEY_ITEMS:
            f->item_count = crdt_batch_read_items(&r, f->items);
            break;
        default:
            pack_skip(&r);
        }
    }
    if (!pack_done(&r) || (f->seen & BIT(KEY_VERSION)) == 0 || type == 0)
        return ERR_MALFORMED;
    if (version != CRDT_WIRE_VERSION || type > FRAME_TYPE_MAX)
        return ERR_VERSION;
    static const uint32_t needed[FRAME_TYPE_MAX + 1] = {
        [FRAME_HELLO] = BIT(KEY_RUN) | BIT(KEY_DIGEST) | BIT(KEY_SESSION) | BIT(KEY_COUNT),
        [FRAME_TURN] = BIT(KEY_RANGES),
        [FRAME_RECORDS] = BIT(KEY_ITEMS),
    };
    f->type = (enum frame_type)type;
    return (f->seen & needed[type]) == needed[type] ? ERR_OK : ERR_MALFORMED;
}

int crdt_sync_hello_run(struct bytes frame, struct id *run)
{
    struct frame f;
    int rc = decode_frame(frame, &f);
    if (rc == 0 && f.type != FRAME_HELLO)
        rc = ERR_MALFORMED;
    if (rc == 0)
        *run = f.run;
    return rc;
}

static struct crdt_sync *session_make(struct crdt_replica *replica, uint64_t origin,
                                      const struct allocator *alloc)
{
    struct crdt_sync *s = allocator_get(alloc, 1, sizeof *s);
    uint8_t *out = allocator_get(alloc, 1, CRDT_TURN_MAX);
    if (s == NULL || out == NULL) {
        allocator_release(alloc, out);
        allocator_release(alloc, s);
        return NULL;
    }
    s->replica = replica;
    s->alloc = *alloc;
    s->origin = origin;
    s->turn.out = out;
    s->result.state = CRDT_SYNC_HELLO;
    return s;
}

/* Hashes and sorts our records under the session's key. */
static int make_index(struct crdt_sync *s)
{
    uint32_t run = crdt_table_find_run(s->replica, &s->run);
    if (run == CRDT_NONE)
        return ERR_NOT_FOUND;
    int rc = crdt_index_init(&s->turn.index, s->replica, run, s->key, &s->alloc);
    if (rc < 0)
        return rc;
    s->indexed = true;
    s->turn.outgoing = allocator_get(&s->alloc, s->turn.index.count + 1, sizeof *s->turn.outgoing);
    return s->turn.outgoing == NULL ? ERR_NO_MEMORY : ERR_OK;
}

/* Disjoint ranges that differ hold at least one record of either side, so there are never more than this. */
static int make_pending(struct crdt_sync *s, uint64_t their_count)
{
    if (their_count > CRDT_RECORDS_LIMIT + CRDT_PROOFS_MAX)
        return ERR_MALFORMED;
    s->turn.pending_max = s->turn.index.count + (size_t)their_count + COUNT_SLACK;
    s->turn.pending = allocator_get(&s->alloc, s->turn.pending_max, sizeof *s->turn.pending);
    return s->turn.pending == NULL ? ERR_NO_MEMORY : ERR_OK;
}

int crdt_sync_open(struct crdt_replica *replica, const struct id *run, uint64_t origin, const struct rng *rng,
                   const struct allocator *alloc, struct crdt_sync **out)
{
    *out = NULL;
    if (crdt_table_find_run(replica, run) == CRDT_NONE)
        return ERR_NOT_FOUND;
    struct crdt_sync *s = session_make(replica, origin, alloc);
    if (s == NULL)
        return ERR_NO_MEMORY;
    rng_fill(rng, s->key, sizeof s->key);
    s->initiator = true;
    s->run = *run;
    s->hello_ready = true;
    *out = s;
    return ERR_OK;
}

int crdt_sync_accept(struct crdt_replica *replica, uint64_t origin, const struct allocator *alloc,
                     struct crdt_sync **out)
{
    *out = session_make(replica, origin, alloc);
    return *out == NULL ? ERR_NO_MEMORY : ERR_OK;
}

void crdt_sync_close(struct crdt_sync *session)
{
    if (session == NULL)
        return;
    struct allocator alloc = session->alloc;
    if (session->indexed)
        crdt_index_deinit(&session->turn.index, &alloc);
    allocator_release(&alloc, session->turn.outgoing);
    allocator_release(&alloc, session->turn.pending);
    allocator_release(&alloc, session->turn.out);
    allocator_release(&alloc, session);
}

static int recv_hello(struct crdt_sync *s, const struct frame *f)
{
    struct id digest;
    size_t count;
    if (s->initiator || s->indexed)
        return ERR_MALFORMED;
    s->run = f->run;
    if (crdt_replica_digest(s->replica, &s->run, &digest, &count) < 0) {
        s->refusal_ready = true;
        s->result.state = CRDT_SYNC_ENDING;
        return ERR_OK;
    }
    if (id_equal(&digest, &f->digest)) {
        s->result.equal_at_once = true;
        s->result.state = CRDT_SYNC_ENDING;
        return ERR_OK;
    }
    memcpy(s->key, f->session_key, sizeof s->key);
    int rc = make_index(s);
    if (rc == 0)
        rc = make_pending(s, f->count);
    if (rc == 0)
        rc = crdt_turn_first(&s->turn);
    if (rc < 0)
        return rc;
    s->turn_ready = true;
    s->count_owed = true;
    s->result.state = CRDT_SYNC_TURNS;
    return ERR_OK;
}

static int recv_turn(struct crdt_sync *s, const struct frame *f)
{
    bool first = s->result.state == CRDT_SYNC_HELLO && s->initiator && !s->hello_ready;
    if (!first && (s->result.state != CRDT_SYNC_TURNS || s->turn_ready))
        return ERR_MALFORMED;
    int rc = ERR_OK;
    if (first && (f->seen & BIT(KEY_COUNT)) == 0)
        return ERR_MALFORMED;
    if (first) /* not before: most sessions end at equal digests */
        rc = make_index(s);
    if (rc == 0 && first)
        rc = make_pending(s, f->count);
    if (rc < 0)
        return rc;
    if (++s->result.turns > CRDT_SYNC_TURNS_MAX)
        return ERR_TIMEOUT;
    rc = crdt_turn_read(&s->turn, f->ranges);
    if (rc == 0)
        rc = crdt_turn_compose(&s->turn);
    if (rc < 0)
        return rc;
    s->result.state = CRDT_SYNC_TURNS;
    if (f->ranges.len == 0 && s->turn.out_len == 0)
        s->result.state = CRDT_SYNC_ENDING; /* END answers an empty turn instead of another one */
    else
        s->turn_ready = true;
    return ERR_OK;
}

/* The record that convicted an author made ours vanish, perhaps before it was sent, so the peer would hold
 * only one of the two: it gets the pair.  Beyond a few, the next session tells it. */
static void owe_proof(struct crdt_sync *s, const struct id *author)
{
    if (s->convicted_count < CONVICTED_MAX)
        s->convicted[s->convicted_count++] = *author;
}

static int recv_item(struct crdt_sync *s, uint64_t wall_ms, const struct crdt_item *item)
{
    struct crdt_record record;
    /* A session about one run is no way into another. */
    if (crdt_record_decode(item->record, &record) < 0 || !id_equal(&record.key.run, &s->run))
        return ERR_MALFORMED;
    if (item->other.len > 0)
        return crdt_replica_apply_proof(s->replica, s->origin, item->record, item->other);
    int rc = crdt_replica_apply(s->replica, wall_ms, s->origin, item->record);
    if (rc == ERR_EQUIVOCATION)
        owe_proof(s, &record.key.author);
    return rc;
}

static int recv_records(struct crdt_sync *s, uint64_t wall_ms, const struct frame *f)
{
    if (s->end_received || s->result.state == CRDT_SYNC_HELLO)
        return ERR_MALFORMED;
    for (size_t i = 0; i < f->item_count; i++) {
        int rc = recv_item(s, wall_ms, &f->items[i]);
        if (rc == ERR_AGAIN)
            return rc;
        s->result.records_new += rc == 0;
        s->result.records_refused += rc < 0 && rc != ERR_STALE && rc != ERR_EQUIVOCATION;
    }
    return ERR_OK;
}

static int recv_end(struct crdt_sync *s)
{
    bool awaited = s->result.state == CRDT_SYNC_TURNS ? !s->turn_ready : s->result.state == CRDT_SYNC_ENDING;
    if (s->result.state == CRDT_SYNC_HELLO && s->initiator && !s->hello_ready) {
        s->result.equal_at_once = true;
        awaited = true;
    }
    if (!awaited || s->end_received)
        return ERR_MALFORMED;
    s->end_received = true;
    s->result.state = s->end_sent ? CRDT_SYNC_DONE : CRDT_SYNC_ENDING;
    return ERR_OK;
}

static int dispatch(struct crdt_sync *s, uint64_t wall_ms, const struct frame *f)
{
    switch (f->type) {
    case FRAME_HELLO:
        return recv_hello(s, f);
    case FRAME_TURN:
        return recv_turn(s, f);
    case FRAME_RECORDS:
        return recv_records(s, wall_ms, f);
    case FRAME_END:
        return recv_end(s);
    case FRAME_REFUSED:
        return ERR_REFUSED;
    }
    return ERR_MALFORMED;
}

int crdt_sync_recv(struct crdt_sync *session, uint64_t wall_ms, struct bytes frame)
{
    struct frame f;
    if (session->result.state == CRDT_SYNC_DONE || session->result.state == CRDT_SYNC_FAILED)
        return ERR_STATE;
    int rc = decode_frame(frame, &f);
    if (rc == 0)
        rc = dispatch(session, wall_ms, &f);
    if (rc == ERR_AGAIN)
        return rc;
    session->result.bytes_received += frame.len;
    if (rc < 0) {
        session->result.state = CRDT_SYNC_FAILED;
        session->result.err = rc;
    }
    return rc;
}

static struct pack_writer frame_begin(uint8_t *out, size_t out_cap, size_t pairs, enum frame_type type)
{
    struct pack_writer w = pack_writer_of(out, out_cap);
    pack_map(&w, pairs);
    pack_key_uint(&w, KEY_VERSION, CRDT_WIRE_VERSION);
    pack_key_uint(&w, KEY_TYPE, type);
    return w;
}

static size_t send_hello(struct crdt_sync *s, uint8_t *out, size_t out_cap)
{
    struct id digest = {{0}};
    size_t count = 0;
    if (crdt_replica_digest(s->replica, &s->run, &digest, &count) < 0)
        count = 0; /* the run was removed meanwhile: the first turn will find that out */
    struct pack_writer w = frame_begin(out, out_cap, 6, FRAME_HELLO);
    pack_key_id(&w, KEY_RUN, &s->run);
    pack_key_id(&w, KEY_DIGEST, &digest);
    pack_key_bin(&w, KEY_SESSION, bytes_of(s->key, CRDT_SYNC_KEY_BYTES));
    pack_key_uint(&w, KEY_COUNT, count);
    s->hello_ready = false;
    return pack_writer_len(&w);
}

static size_t send_turn(struct crdt_sync *s, uint8_t *out, size_t out_cap)
{
    struct pack_writer w = frame_begin(out, out_cap, s->count_owed ? 4 : 3, FRAME_TURN);
    if (s->count_owed)
        pack_key_uint(&w, KEY_COUNT, s->turn.index.count);
    pack_key_bin(&w, KEY_RANGES, bytes_of(s->turn.out, s->turn.out_len));
    s->count_owed = false;
    s->turn_ready = false;
    s->result.turns++;
    return pack_writer_len(&w);
}

/* Collects up to a frame of what is to be sent. */
static size_t gather(struct crdt_sync *s, struct crdt_item items[CRDT_BATCH_MAX])
{
    size_t count = 0;
    for (; s->convicted_sent < s->convicted_count; s->convicted_sent++) {
        const struct id *author = &s->convicted[s->convicted_sent];
        if (!crdt_replica_proof(s->replica, &s->run, author, &items[count]))
            continue;
        if (crdt_batch_fit(items, count + 1) <= count)
            return count;
        count++;
    }
    for (; s->outgoing_sent < s->turn.outgoing_count && count < CRDT_BATCH_MAX; s->outgoing_sent++) {
        size_t item = s->turn.outgoing[s->outgoing_sent];
        items[count] = crdt_index_get(&s->turn.index, item, s->replica, &s->run);
        if (items[count].record.len == 0)
            continue;
        if (crdt_batch_fit(items, count + 1) <= count)
            break;
        count++;
    }
    return count;
}

static size_t send_records(struct crdt_sync *s, uint8_t *out, size_t out_cap)
{
    struct crdt_item items[CRDT_BATCH_MAX];
    size_t count = gather(s, items);
    if (count == 0)
        return 0;
    struct pack_writer w = frame_begin(out, out_cap, 3, FRAME_RECORDS);
    pack_uint(&w, KEY_ITEMS);
    crdt_batch_write_items(&w, items, count);
    s->result.records_sent += count;
    return pack_writer_len(&w);
}

static size_t send_end(struct crdt_sync *s, uint8_t *out, size_t out_cap)
{
    struct pack_writer w = frame_begin(out, out_cap, 3, FRAME_END);
    pack_key_uint(&w, KEY_COUNT, s->result.records_sent);
    s->end_sent = true;
    if (s->end_received)
        s->result.state = CRDT_SYNC_DONE;
    return pack_writer_len(&w);
}

static size_t send_refusal(struct crdt_sync *s, uint8_t *out, size_t out_cap)
{
    struct pack_writer w = frame_begin(out, out_cap, 2, FRAME_REFUSED);
    s->refusal_ready = false;
    s->result.state = CRDT_SYNC_FAILED;
    s->result.err = ERR_NOT_FOUND;
    return pack_writer_len(&w);
}

static size_t next_frame(struct crdt_sync *s, uint8_t *out, size_t out_cap)
{
    if (s->result.state == CRDT_SYNC_DONE || s->result.state == CRDT_SYNC_FAILED)
        return 0;
    if (s->hello_ready)
        return send_hello(s, out, out_cap);
    if (s->refusal_ready)
        return send_refusal(s, out, out_cap);
    if (s->turn_ready)
        return send_turn(s, out, out_cap);
    size_t len = s->indexed && !s->end_sent ? send_records(s, out, out_cap) : 0;
    if (len == 0 && s->result.state == CRDT_SYNC_ENDING && !s->end_sent)
        len = send_end(s, out, out_cap);
    return len;
}

size_t crdt_sync_poll_send(struct crdt_sync *session, uint8_t *out, size_t out_cap)
{
    ASSERT(out_cap >= CRDT_FRAME_MAX);
    size_t len = next_frame(session, out, CRDT_FRAME_MAX);
    session->result.bytes_sent += len;
    return len;
}

struct crdt_sync_result crdt_sync_result_get(const struct crdt_sync *session)
{
    return session->result;
}
