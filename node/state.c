/* Replica, database, repair and push: how records and chains reach the disk and other nodes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "node/chain_request.h"
#include "node/internal.h"

/* What the store thread tells the loop. */
struct store_news {
    enum store_state state;
    int cause;
};

static void sign_record(void *user, const char *label, struct bytes message, uint8_t signature[64])
{
    net_identity_sign(user, label, message, signature);
}

static int verify_record(void *user, const struct id *author, const char *label, struct bytes message,
                         const uint8_t signature[64])
{
    (void)user;
    return net_identity_verify(author, label, message, signature);
}

static void on_store_state(void *user, enum store_state state, int cause)
{
    struct node *node = user;
    struct store_news news = {.state = state, .cause = cause};
    /* A full channel only means that older news is still unread; dunlin status asks the store itself. */
    int result = net_uv_channel_push(node->store_events, &news);
    (void)result;
}

static void on_store_news(void *user, void *message)
{
    struct node *node = user;
    const struct store_news *news = message;
    node->store_state = (int)news->state;
    if (news->state == STORE_READ_ONLY)
        node_info(node, TRACE_LEVEL_ERROR,
                  "%s/dunlin.mdb: cannot write (%s); nothing acknowledged is lost, writing is retried: free "
                  "some space",
                  node->config.dir, err_text(news->cause));
    else if (news->state == STORE_OPEN)
        node_info(node, TRACE_LEVEL_WARN, "%s/dunlin.mdb: writing works again", node->config.dir);
}

struct loading {
    struct node *node;
    size_t rows;
    size_t refused;
};

/* Own settings of a run: {1: data, 2: isolated, 3: joined_round, 4: paused, 5: init_seed, only with
 * own_init}. */
enum { SETTINGS_BYTES = NODE_PATH_SIZE + 64 };

static bool load_run(void *user, struct bytes key, struct bytes value)
{
    struct loading *loading = user;
    struct id id;
    char why[NODE_ERROR_SIZE];
    if (key.len != 1 + ID_BYTES)
        return true;
    memcpy(id.bytes, key.data + 1, ID_BYTES);
    if (run_resume_stored(loading->node, &id, value, why) < 0)
        node_info(loading->node, TRACE_LEVEL_ERROR, "%s", why);
    return true;
}

static bool load_chain(void *user, struct bytes key, struct bytes value)
{
    struct loading *loading = user;
    struct id id;
    if (key.len != CRDT_STORE_PREFIX_BYTES + 4)
        return true;
    memcpy(id.bytes, key.data + 1, ID_BYTES);
    struct run *run = node_run_of(loading->node, &id);
    if (run != NULL && crdt_chain_append(&run->chain, value) < 0)
        loading->refused++;
    return true;
}

static bool load_record(void *user, struct bytes key, struct bytes value)
{
    struct loading *loading = user;
    struct node *node = loading->node;
    loading->rows++;
    if (crdt_replica_load(node->replica, node_wall_ms(), key, value) < 0) {
        loading->refused++;
        if (store_delete(node->store, STORE_LAZY, key, NULL) < 0)
            loading->refused++;
    }
    return true;
}

static int load_all(struct node *node, char why[NODE_ERROR_SIZE])
{
    static const uint8_t prefixes[] = {'s', CRDT_STORE_CHAIN, CRDT_STORE_RECORD, CRDT_STORE_PROOF};
    bool (*const visits[])(void *, struct bytes, struct bytes) = {load_run, load_chain, load_record,
                                                                  load_record};
    struct loading loading = {.node = node};
    for (size_t i = 0; i < sizeof prefixes; i++) {
        int result = store_iterate(node->store, bytes_of(&prefixes[i], 1), visits[i], &loading);
        if (result < 0) {
            (void)snprintf(why, NODE_ERROR_SIZE, "%s/dunlin.mdb: %s", node->config.dir, err_text(result));
            return result;
        }
    }
    if (loading.rows > 0)
        node_info(node, TRACE_LEVEL_INFO,
                  "%zu records loaded, %zu dropped (expired or of runs that were left)",
                  loading.rows - loading.refused, loading.refused);
    return ERR_OK;
}

static bool admits(void *user, const struct id *run_id, const struct id *author)
{
    struct node *node = user;
    const struct run *run = node_run_of(node, run_id);
    (void)author; /* runs are open: whoever knows the id may join and write within its quota */
    return run != NULL;
}

int state_open(struct node *node, char why[NODE_ERROR_SIZE])
{
    struct store_why text = {""};
    struct store_config config = store_config_default(node->config.dir);
    config.state_changed = on_store_state;
    config.user = node;
    int result = net_uv_channel_open(&node->store_events, &node->loop, sizeof(struct store_news), 16,
                                     on_store_news, node);
    if (result < 0)
        return result;
    result = store_open(&config, &node->store, &text);
    if (result < 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "%s", text.text);
        return result;
    }
    node->keys = (struct crdt_keys){
        .self = node->identity.id, .sign = sign_record, .verify = verify_record, .user = &node->identity};
    struct crdt_replica_config replica = crdt_replica_config_default();
    replica.keys = node->keys;
    replica.alloc = node->alloc;
    replica.rng = node->rng;
    replica.admits = admits;
    replica.admits_user = node;
    result = crdt_replica_create(&replica, &node->replica);
    if (result < 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "replicated state: %s", err_text(result));
        return result;
    }
    return load_all(node, why);
}

void state_close(struct node *node)
{
    if (node->store != NULL && store_close(node->store) < 0)
        node_info(node, TRACE_LEVEL_ERROR, "%s/dunlin.mdb: the last records could not be written",
                  node->config.dir);
    node->store = NULL;
    crdt_replica_destroy(node->replica);
    node->replica = NULL;
    if (node->store_events != NULL)
        net_uv_channel_close(node->store_events);
    node->store_events = NULL;
}

/* Sends one item to a peer on our long-lived stream of fresh records.  A full stream drops it: the next
 * repair brings it. */
static void push_to(struct node *node, struct node_peer *peer, const struct crdt_item *item)
{
    size_t taken = 0;
    if (peer->push_stream == 0) {
        uint64_t handle;
        if (quic_stream_open(node->quic, node_now_ns(), &peer->id, STREAM_SERVICE_GOSSIP, STREAM_CLASS_STATE,
                             &handle) < 0)
            return;
        if (streams_add(node, STREAM_PUSH, handle, peer) == NULL) {
            quic_stream_reset(node->quic, handle, ERR_FULL);
            return;
        }
        peer->push_stream = handle;
    }
    int len = crdt_batch_encode(item, 1, node->frame, sizeof node->frame, &taken);
    if (len < 0 || quic_stream_send(node->quic, peer->push_stream, bytes_of(node->frame, (size_t)len)) < 0)
        node->pushes_dropped++;
}

static void push(struct node *node, const struct crdt_event *event, const struct crdt_item *item)
{
    const struct run *run = node_run_of(node, &event->key.run);
    if (run == NULL)
        return;
    uint32_t bit = UINT32_C(1) << (run - node->runs);
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        struct node_peer *peer = &node->peers[i];
        if (peer->used && peer->connected && peer->serial != event->origin && (peer->runs & bit) != 0)
            push_to(node, peer, item);
    }
}

/* The newest addresses of a member are worth remembering, and we want to be connected to some members. */
static void want_member(struct node *node, const struct run *run, const struct id *author, struct bytes value)
{
    struct gossip_member member;
    if (id_equal(author, &node->identity.id) || gossip_member_decode(value, &member) < 0)
        return;
    if (quic_peer_count(node->quic) >= NODE_CONNECTIONS_WANTED && peers_find(node, author) == NULL)
        return; /* connected when it becomes our partner */
    struct node_peer *peer = peers_want(node, author, member.addrs, member.addr_count, 120 * NODE_SECOND_NS);
    if (peer != NULL)
        peer->runs |= UINT32_C(1) << (run - node->runs);
}

static void learn_member(struct node *node, const struct crdt_event *event)
{
    struct crdt_record record;
    struct gossip_progress progress;
    struct run *run = node_run_of(node, &event->key.run);
    if (run == NULL || event->origin == CRDT_ORIGIN_SELF || crdt_record_decode(event->record, &record) < 0)
        return;
    if (event->key.slot == CRDT_SLOT_MEMBER)
        want_member(node, run, &event->key.author, record.value);
    else if (event->key.slot == CRDT_SLOT_PROGRESS &&
             gossip_progress_decode(record.value, &progress) == ERR_OK)
        run_chain_heard(run, node_now_ns(), &event->key.author, progress.chain);
}

void state_want_members(struct node *node, const struct run *run)
{
    struct crdt_view view;
    uint32_t cursor = 0;
    while (crdt_replica_next(node->replica, &run->id, CRDT_SLOT_MEMBER, &cursor, &view))
        want_member(node, run, &view.record.key.author, view.record.value);
}

static void keep(struct node *node, const struct crdt_event *event)
{
    struct bytes key = bytes_of(event->store_key, event->store_key_len);
    enum store_class class = event->origin == CRDT_ORIGIN_SELF ? STORE_DURABLE : STORE_LAZY;
    int result = ERR_OK;
    switch (event->kind) {
    case CRDT_RECORD_ACCEPTED:
        if (event->key.slot == CRDT_SLOT_PROGRESS)
            class = STORE_LAZY; /* rewritten every round */
        result = store_put(node->store, class, key, event->record, NULL);
        learn_member(node, event);
        push(node, event, &(struct crdt_item){.record = event->record});
        break;
    case CRDT_EQUIVOCATION:
        trace_emit(&node->trace, TRACE_EQUIVOCATION, node_now_ns(), &event->key.author, 0, 0,
                   ERR_EQUIVOCATION);
        result = store_put(node->store, STORE_DURABLE, key, event->proof, NULL);
        push(node, event, &(struct crdt_item){.record = event->record, .other = event->other});
        break;
    case CRDT_RECORD_DROPPED:
    case CRDT_PROOF_DROPPED:
        result = store_delete(node->store, STORE_LAZY, key, NULL);
        break;
    }
    if (result < 0)
        node->records_refused++; /* held in RAM and at neighbours; the store's state is reported apart */
}

bool state_drain(struct node *node, uint64_t now_ns)
{
    struct crdt_event event;
    struct rpc_event call;
    bool any = false;
    (void)now_ns;
    while (crdt_replica_poll_event(node->replica, &event)) {
        keep(node, &event);
        any = true;
    }
    while (rpc_poll_event(node->rpc, &call)) {
        if (call.kind == RPC_REQUEST)
            state_rpc_request(node, &call);
        else
            state_rpc_reply(node, &call);
        any = true;
    }
    return any;
}

void state_tick(struct node *node, uint64_t now_ns)
{
    (void)now_ns;
    crdt_replica_tick(node->replica, node_wall_ms());
}

void state_sync(struct node *node, struct node_peer *peer, struct run *run)
{
    uint64_t handle;
    struct crdt_sync *session;
    if (!peer->connected || node->stopping)
        return;
    if (crdt_sync_open(node->replica, &run->id, peer->serial, &node->rng, &node->alloc, &session) < 0)
        return;
    if (quic_stream_open(node->quic, node_now_ns(), &peer->id, STREAM_SERVICE_SYNC, STREAM_CLASS_STATE,
                         &handle) < 0) {
        crdt_sync_close(session);
        return;
    }
    struct node_stream *stream = streams_add(node, STREAM_SYNC, handle, peer);
    if (stream == NULL) {
        quic_stream_reset(node->quic, handle, ERR_FULL);
        crdt_sync_close(session);
        return;
    }
    stream->outgoing = true;
    stream->sync = session;
    stream->run = run;
    (void)state_sync_send(node, stream);
}

/* A peer's first frame: may it see the run, and has it not asked just before? */
static int accept_session(struct node *node, struct node_stream *stream, struct bytes frame)
{
    struct id id;
    uint64_t now_ns = node_now_ns();
    int result = crdt_sync_hello_run(frame, &id);
    if (result < 0)
        return result;
    if (now_ns < stream->peer->sync_next_ns)
        return ERR_RATE;
    stream->run = node_run_of(node, &id);
    if (stream->run == NULL || !stream->run->has_chain)
        return ERR_REFUSED;
    /* One session for each run in the interval: a peer that shares three runs asks three times. */
    stream->peer->sync_next_ns = now_ns + CRDT_SYNC_PEER_INTERVAL_NS / NODE_RUNS_MAX;
    stream->peer->runs |= UINT32_C(1) << (stream->run - node->runs);
    return crdt_sync_accept(node->replica, stream->peer->serial, &node->alloc, &stream->sync);
}

void state_sync_frame(struct node *node, struct node_stream *stream, struct bytes frame)
{
    int result = stream->sync == NULL ? accept_session(node, stream, frame) : ERR_OK;
    /* The replica's queue holds more events than one frame brings records, so one drain always makes room. */
    if (result == ERR_OK)
        result = crdt_sync_recv(stream->sync, node_wall_ms(), frame);
    if (result == ERR_AGAIN) {
        uint8_t *copy = malloc(frame.len);
        if (copy != NULL) {
            memcpy(copy, frame.data, frame.len);
            (void)state_drain(node, node_now_ns());
            result = crdt_sync_recv(stream->sync, node_wall_ms(), bytes_of(copy, frame.len));
            free(copy);
        }
    }
    if (result < 0) {
        trace_emit(&node->trace, TRACE_RECORD_REFUSED, node_now_ns(), &stream->peer->id, 0, 0, result);
        quic_stream_reset(node->quic, stream->handle, result);
        streams_drop(node, stream);
        return;
    }
    (void)state_drain(node, node_now_ns());
    (void)state_sync_send(node, stream);
}

bool state_sync_send(struct node *node, struct node_stream *stream)
{
    bool any = false;
    if (stream->sync == NULL)
        return false;
    while (quic_stream_room(node->quic, stream->handle) >= CRDT_FRAME_MAX + STREAM_LENGTH_BYTES) {
        size_t len = crdt_sync_poll_send(stream->sync, node->frame, sizeof node->frame);
        if (len == 0)
            break;
        any = true;
        if (quic_stream_send(node->quic, stream->handle, bytes_of(node->frame, len)) < 0)
            break;
    }
    struct crdt_sync_result result = crdt_sync_result_get(stream->sync);
    if (result.state == CRDT_SYNC_DONE) {
        if (stream->run != NULL)
            stream->peer->runs |= UINT32_C(1) << (stream->run - node->runs);
        if (stream->run != NULL && stream->run->stage == RUN_SYNCING)
            stream->run->stage_deadline_ns = node_now_ns();
        quic_stream_finish(node->quic, stream->handle);
        streams_drop(node, stream);
        return true;
    }
    return any;
}

void state_push_frame(struct node *node, struct node_peer *peer, struct bytes frame)
{
    struct crdt_item items[CRDT_BATCH_MAX];
    int count = crdt_batch_decode(frame, items);
    if (count < 0)
        trace_emit(&node->trace, TRACE_RECORD_REFUSED, node_now_ns(), &peer->id, 0, 0, count);
    for (int i = 0; i < count; i++) {
        int result =
            items[i].other.len > 0
                ? crdt_replica_apply_proof(node->replica, peer->serial, items[i].record, items[i].other)
                : crdt_replica_apply(node->replica, node_wall_ms(), peer->serial, items[i].record);
        if (result < 0 && result != ERR_STALE && result != ERR_NOT_FOUND) {
            node->records_refused++;
            trace_emit(&node->trace, TRACE_RECORD_REFUSED, node_now_ns(), &peer->id, 0, 0, result);
        }
    }
    (void)state_drain(node, node_now_ns()); /* many frames in a row must not fill the replica's queue */
}

void state_store_chain(struct node *node, const struct run *run)
{
    uint8_t key[CRDT_STORE_PREFIX_BYTES + 4];
    for (size_t i = 0; i < run->chain.count; i++) {
        crdt_store_chain_key(&run->id, (uint32_t)i, key);
        if (store_put(node->store, STORE_DURABLE, bytes_of(key, sizeof key), crdt_chain_entry(&run->chain, i),
                      NULL) < 0)
            node_info(node, TRACE_LEVEL_ERROR, "run %s: its chain could not be stored", run->name);
    }
}

void state_forget_run(struct node *node, const struct id *run)
{
    static const uint8_t kinds[] = {'s', CRDT_STORE_CHAIN, CRDT_STORE_RECORD, CRDT_STORE_PROOF};
    uint8_t prefix[CRDT_STORE_PREFIX_BYTES];
    for (size_t i = 0; i < sizeof kinds; i++) {
        crdt_store_prefix(kinds[i], run, prefix);
        if (store_delete_prefix(node->store, STORE_DURABLE, bytes_of(prefix, sizeof prefix), NULL) < 0)
            node_info(node, TRACE_LEVEL_WARN, "records of a run that was left could not be deleted");
    }
    int result = crdt_replica_remove_run(node->replica, run);
    (void)result; /* ERR_NOT_FOUND: it had not got that far */
}

void state_forget_settings(struct node *node, const struct id *run)
{
    uint8_t key[CRDT_STORE_PREFIX_BYTES];
    crdt_store_prefix('s', run, key);
    if (store_delete(node->store, STORE_DURABLE, bytes_of(key, sizeof key), NULL) < 0)
        node_info(node, TRACE_LEVEL_WARN, "a run that was left could not be struck off the list");
}

void state_store_run(struct node *node, const struct run *run)
{
    uint8_t key[CRDT_STORE_PREFIX_BYTES];
    uint8_t value[SETTINGS_BYTES];
    struct pack_writer w = pack_writer_of(value, sizeof value);
    pack_map(&w, run->own_init ? 5 : 4);
    pack_key_str(&w, 1, run->data);
    pack_key_bool(&w, 2, run->isolated);
    pack_key_uint(&w, 3, run->joined_round);
    pack_key_bool(&w, 4, run->paused);
    if (run->own_init)
        pack_key_uint(&w, 5, run->init_seed);
    crdt_store_prefix('s', &run->id, key);
    if (store_put(node->store, STORE_DURABLE, bytes_of(key, sizeof key), bytes_of(value, pack_writer_len(&w)),
                  NULL) < 0)
        node_info(node, TRACE_LEVEL_ERROR, "run %s: its settings could not be stored", run->name);
}

void state_rpc_request(struct node *node, const struct rpc_event *event)
{
    struct chain_request request;
    size_t next = 0;
    int len = event->method == NODE_RPC_CHAIN ? chain_request_decode(event->body, &request) : ERR_UNSUPPORTED;
    if (len == ERR_OK) {
        const struct run *run = node_run_of(node, &request.run);
        len = run == NULL || !run->has_chain
                  ? ERR_NOT_FOUND
                  : crdt_chain_frame_encode(&run->chain, request.from, node->frame, RPC_BODY_DEFAULT, &next);
    }
    if (len < 0 || rpc_reply(node->rpc, event->token, bytes_of(node->frame, (size_t)len)) < 0)
        rpc_refuse(node->rpc, event->token, len < 0 ? len : ERR_TOO_LARGE);
}

void state_rpc_reply(struct node *node, const struct rpc_event *event)
{
    struct bytes entries[CRDT_CHAIN_FRAME_ENTRIES];
    struct id id;
    if (event->kind == RPC_ERROR || crdt_chain_frame_decode(event->body, &id, entries) < 0)
        return; /* run_tick asks the next peer at its deadline */
    struct run *run = node_run_of(node, &id);
    if (run != NULL)
        run_chain_frame(run, event->body);
}

void state_fetch_chain(struct node *node, struct node_peer *peer, const struct run *run)
{
    uint8_t body[CHAIN_REQUEST_BYTES_MAX];
    uint64_t token;
    uint64_t now_ns = node_now_ns();
    size_t len =
        chain_request_encode(&(struct chain_request){.run = run->id, .from = run->chain.count}, body);
    if (rpc_call(node->rpc, now_ns, &peer->id, NODE_RPC_CHAIN, bytes_of(body, len),
                 now_ns + 5 * NODE_SECOND_NS, &token) < 0)
        node_info(node, TRACE_LEVEL_DEBUG, "chain could not be asked for");
}
