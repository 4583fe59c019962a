/* Methods about the node, its peers and the DHT. */
#include "node/methods_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "node/run_internal.h"

enum { PREFIX_MIN = 4, PING_INTERVAL_MS = 1000, PINGS_MAX = 1000000, ROWS_MAX = 512 };

const struct control_method node_methods[] = {
    {"status", "", method_status},
    {"peers", "", method_peers},
    {"peer", "id:s ", method_peer},
    {"ping", "id:s count:u ", method_ping},
    {"dht.table", "", method_dht_table},
    {"dht.find", "id:s ", method_dht_find},
    {"dht.providers", "key:s ", method_dht_providers},
    {"dht.provide", "key:s ", method_dht_provide},
    {"run.create",
     "data:s name:s width:u layers:u heads:u context:u batch:u round_ms:u rounds:u lr:f seed:u codec:s "
     "alpha:f beta:f gamma:f fragments:u strangers:b loss_test:b train:b isolated:b model:s sizes:s "
     "input_max:f label:s "
     "init_seed:u ",
     method_run_create},
    {"run.join", "run:s data:s isolated:b init_seed:u ", method_run_join},
    {"run.leave", "run:s ", method_run_leave},
    {"run.pause", "run:s ", method_run_pause},
    {"run.resume", "run:s ", method_run_resume},
    {"run.finish", "run:s after:u wait:b ", method_run_finish},
    {"run.list", "", method_run_list},
    {"run.show", "run:s ", method_run_show},
    {"state.ls", "run:s ", method_state_ls},
    {"state.get", "run:s author:s slot:u ", method_state_get},
    {"sample", "run:s prompt:s length:u temperature:f top_k:u seed:u ", method_sample},
    {"checkpoint.ls", "run:s ", method_checkpoint_ls},
    {"checkpoint.save", "run:s ", method_checkpoint_save},
    {"checkpoint.export", "run:s path:s merge:u wait_s:u ", method_checkpoint_export},
    {"speed", "id:s bytes:u down:b wait_s:u ", method_speed},
    {"nat", "", method_nat},
    {"trace", "id:s ", method_trace},
    {"doctor", "", method_doctor},
    {"limit", "cpu_pct:u up_bytes_s:u ", method_limit},
    {"stop", "", method_stop},
    {NULL, NULL, NULL},
};

void method_reply_addr(struct reply *r, const char *key, const struct net_addr *addr)
{
    char text[NET_ADDR_TEXT_SIZE];
    net_addr_format(addr, text);
    reply_str(r, key, text);
}

static void reply_traffic(struct node *node, struct reply *r)
{
    static const char *const names[STREAM_CLASS_COUNT] = {"control", "state", "weights", "blobs"};
    uint64_t sent[STREAM_CLASS_COUNT] = {0};
    uint64_t received[STREAM_CLASS_COUNT] = {0};
    struct net_uv_socket_stats stats = net_uv_socket_stats(node->socket);
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        struct quic_peer_info info;
        if (!node->peers[i].used || quic_peer_info(node->quic, &node->peers[i].id, &info) < 0)
            continue;
        for (size_t c = 0; c < STREAM_CLASS_COUNT; c++) {
            sent[c] += info.sent[c];
            received[c] += info.received[c];
        }
    }
    reply_map(r, "traffic");
    reply_uint(r, "sent", stats.bytes_sent);
    reply_uint(r, "received", stats.bytes_received);
    reply_map(r, "by_class");
    for (size_t c = 0; c < STREAM_CLASS_COUNT; c++) {
        reply_map(r, names[c]);
        reply_uint(r, "sent", sent[c]);
        reply_uint(r, "received", received[c]);
        reply_end(r);
    }
    reply_end(r);
    reply_uint(r, "datagrams_sent", stats.datagrams_sent);
    reply_uint(r, "datagrams_received", stats.datagrams_received);
    reply_end(r);
}

/* Of the seal's counters those of drops, without their prefix. */
static void reply_drop(struct reply *r, const char *name, uint64_t value)
{
    if (strncmp(name, "dropped_", 8) == 0)
        reply_uint(r, name + 8, value);
}

static void reply_dropped(struct node *node, struct reply *r)
{
    struct net_seal_stats seal = net_seal_stats(node->seal);
    struct dht_counts dht = dht_counts(node->dht, node_now_ns());
    reply_map(r, "dropped");
#define X(name, text) reply_drop(r, #name, seal.name);
    NET_SEAL_STATS(X)
#undef X
    reply_uint(r, "dht_malformed", dht.malformed);
    reply_uint(r, "dht_rate_limited", dht.rate_limited);
    reply_uint(r, "records_refused", node->records_refused);
    reply_uint(r, "pushes", node->pushes_dropped);
    reply_uint(r, "socket", net_uv_socket_stats(node->socket).dropped);
    reply_end(r);
}

static void reply_clock(struct node *node, struct reply *r)
{
    char warning[160];
    int64_t offset_ms = 0;
    size_t peers = 0;
    if (!net_seal_clock_offset(node->seal, node_now_ns(), &offset_ms, &peers))
        offset_ms = 0;
    reply_map(r, "clock");
    reply_int(r, "offset_ms", offset_ms);
    reply_uint(r, "peers", peers);
    if (llabs(offset_ms) > 120 * 1000) {
        (void)snprintf(
            warning, sizeof warning,
            "this machine's clock is %lld s %s those of %zu peers: set it (timedatectl set-ntp true)",
            llabs(offset_ms) / 1000, offset_ms > 0 ? "behind" : "ahead of", peers);
        reply_str(r, "warning", warning);
    } else {
        reply_nil(r, "warning");
    }
    reply_end(r);
}

static void reply_store(struct node *node, struct reply *r)
{
    struct store_status status;
    struct crdt_counts counts = crdt_replica_counts(node->replica);
    store_status_get(node->store, &status);
    reply_map(r, "store");
    reply_str(r, "state", status.state == STORE_OPEN ? "ok" : "read-only");
    reply_str(r, "text", status.text);
    reply_uint(r, "records", counts.records);
    reply_uint(r, "runs", counts.runs);
    reply_end(r);
}

static void reply_limits(struct node *node, struct reply *r)
{
    reply_uint(r, "up_bytes_s", node->limits.up_bytes_s);
    reply_uint(r, "cpu_pct", node->limits.cpu_pct);
}

static void reply_observed(struct node *node, struct reply *r)
{
    static const enum net_scope scopes[] = {NET_SCOPE_GLOBAL, NET_SCOPE_PRIVATE, NET_SCOPE_LOOPBACK};
    static const enum net_family families[] = {NET_FAMILY_V4, NET_FAMILY_V6};
    struct net_addr addr;
    reply_array(r, "observed");
    for (size_t i = 0; i < 6; i++) {
        if (nat_observed_address(&node->observed, families[i % 2], scopes[i / 2], &addr) == ERR_OK)
            method_reply_addr(r, NULL, &addr);
    }
    reply_end(r);
}

void method_status(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    struct reply *r = control_answer(call);
    struct dht_counts dht = dht_counts(node->dht, node_now_ns());
    struct net_addr any = {.family = NET_FAMILY_V4, .port = net_uv_socket_port(node->socket)};
    size_t known = 0;
    (void)params;
    for (size_t i = 0; i < NODE_PEERS_MAX; i++)
        known += node->peers[i].used;
    reply_str(r, "version", NODE_VERSION);
    reply_id(r, "id", &node->identity.id);
    reply_str(r, "dir", node->config.dir);
    reply_str(r, "network", node->config.network);
    reply_float(r, "uptime_s", (double)(node_now_ns() - node->started_ns) / 1e9);
    reply_array(r, "listen");
    method_reply_addr(r, NULL, &any);
    for (size_t i = 0; i < node->own_addr_count; i++)
        method_reply_addr(r, NULL, &node->own_addrs[i]);
    reply_end(r);
    reply_observed(node, r);
    reply_uint(r, "connections", quic_peer_count(node->quic));
    reply_uint(r, "peers_known", known);
    reply_map(r, "dht");
    reply_uint(r, "contacts", dht.good + dht.doubtful);
    reply_bool(r, "ready", dht_ready(node->dht));
    reply_uint(r, "records", dht.records);
    reply_end(r);
    reply_store(node, r);
    reply_clock(node, r);
    reply_map(r, "loop");
    reply_float(r, "longest_ms", (double)net_uv_turn_longest_ns(&node->turn) / 1e6);
    reply_end(r);
    reply_map(r, "limits");
    reply_limits(node, r);
    reply_end(r);
    reply_traffic(node, r);
    reply_dropped(node, r);
    reply_array(r, "runs");
    for (size_t i = 0; i < NODE_RUNS_MAX; i++) {
        if (!node->runs[i].used)
            continue;
        reply_map(r, NULL);
        run_reply(&node->runs[i], r);
        reply_end(r);
    }
    reply_end(r);
    control_finish(call, false);
}

static void reply_peer(struct node *node, const struct node_peer *peer, struct reply *r)
{
    struct quic_peer_info info;
    struct net_addr addr;
    uint64_t now_ns = node_now_ns();
    bool known = quic_peer_info(node->quic, &peer->id, &info) == ERR_OK;
    size_t runs = 0;
    for (uint32_t bits = peer->runs; bits != 0; bits &= bits - 1)
        runs++;
    reply_id(r, "id", &peer->id);
    if (nat_path_route(node->path, &peer->id, &addr) == ERR_OK)
        method_reply_addr(r, "addr", &addr);
    else
        reply_nil(r, "addr");
    reply_str(r, "path", methods_path_text(node, &peer->id));
    reply_float(r, "rtt_ms", (double)(known && info.connected ? info.rtt_ns : peer->route_rtt_ns) / 1e6);
    reply_bool(r, "connected", peer->connected);
    reply_bool(r, "client", known && info.outgoing);
    reply_float(r, "since_s", peer->connected ? (double)(now_ns - peer->connected_ns) / 1e9 : 0);
    reply_uint(r, "sent", known ? info.wire_sent : 0);
    reply_uint(r, "received", known ? info.wire_received : 0);
    reply_uint(r, "runs", runs);
    if (peer->last_seen_ns > 0)
        reply_float(r, "last_seen_s", (double)(now_ns - peer->last_seen_ns) / 1e9);
    else
        reply_nil(r, "last_seen_s");
}

void method_peers(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    struct reply *r = control_answer(call);
    (void)params;
    reply_array(r, "peers");
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        if (!node->peers[i].used)
            continue;
        reply_map(r, NULL);
        reply_peer(node, &node->peers[i], r);
        reply_end(r);
    }
    reply_end(r);
    control_finish(call, false);
}

/* One candidate for a prefix: counts distinct matches. */
static void match(const char *prefix, const struct id *id, struct id *found, size_t *count)
{
    char text[ID_TEXT_SIZE];
    id_format(id, text);
    if (strncmp(text, prefix, strlen(prefix)) != 0 || (*count > 0 && id_equal(found, id)))
        return;
    *found = *id;
    (*count)++;
}

bool method_id(struct node *node, struct control_call *call, const char *text, struct id *out)
{
    struct dht_row *rows;
    size_t count = 0;
    if (id_parse(text, out) == ERR_OK)
        return true;
    if (strlen(text) < PREFIX_MIN) {
        control_fail(call, ERR_INVALID, "'%s': an id, or at least its first %d characters, is needed", text,
                     PREFIX_MIN);
        return false;
    }
    match(text, &node->identity.id, out, &count);
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        if (node->peers[i].used)
            match(text, &node->peers[i].id, out, &count);
    }
    rows = calloc(ROWS_MAX, sizeof *rows);
    size_t row_count = rows == NULL ? 0 : dht_table_rows(node->dht, node_now_ns(), false, rows, ROWS_MAX);
    for (size_t i = 0; i < row_count; i++)
        match(text, &rows[i].contact.id, out, &count);
    free(rows);
    if (count == 1)
        return true;
    control_fail(call, count == 0 ? ERR_NOT_FOUND : ERR_INVALID,
                 count == 0 ? "'%s' begins no known id; give all 52 characters" : "'%s' begins several ids",
                 text);
    return false;
}

bool method_peer_param(struct node *node, struct control_call *call, const struct pack_reader *params,
                       const char *key, struct id *out)
{
    char text[ID_TEXT_SIZE];
    if (control_text(params, key, text, sizeof text))
        return method_id(node, call, text, out);
    control_fail(call, ERR_INVALID, "%s: parameter '%s' (an id) is missing", call->method, key);
    return false;
}

void method_peer(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    struct id id;
    if (!method_peer_param(node, call, params, "id", &id))
        return;
    const struct node_peer *peer = peers_find(node, &id);
    if (peer == NULL) {
        control_fail(call, ERR_NOT_FOUND, "nothing is known of this peer; dunlin dht find looks for it");
        return;
    }
    struct reply *r = control_answer(call);
    reply_peer(node, peer, r);
    methods_reply_candidates(node, r, &id);
    control_finish(call, false);
}

static struct node_wait *new_wait(struct node *node, struct control_call *call, enum node_wait_kind kind)
{
    for (size_t i = 0; i < NODE_WAITS_MAX; i++) {
        struct node_wait *wait = &node->waits[i];
        if (wait->used)
            continue;
        memset(wait, 0, sizeof *wait);
        wait->used = true;
        wait->kind = kind;
        wait->call = control_ref_of(call);
        wait->began_ns = node_now_ns();
        wait->next_ns = UINT64_MAX;
        return wait;
    }
    control_fail(call, ERR_FULL, "%d calls wait for the DHT already: try again in a moment", NODE_WAITS_MAX);
    return NULL;
}

/* Starts the wait's DHT command; a refusal answers the call. */
static void begin(struct node *node, struct node_wait *wait)
{
    uint64_t now_ns = node_now_ns();
    int result = ERR_STATE;
    switch (wait->kind) {
    case WAIT_PING:
        wait->next_ns = UINT64_MAX;
        result = dht_ping(node->dht, now_ns, &wait->contact, &wait->dht_handle);
        break;
    case WAIT_FIND:
        result = dht_find_peer(node->dht, now_ns, node_wall_ms(), &wait->target, &wait->dht_handle);
        break;
    case WAIT_PROVIDERS:
        result = dht_find_providers(node->dht, now_ns, node_wall_ms(), &wait->target, &wait->dht_handle);
        break;
    case WAIT_PROVIDE:
        result = dht_announce(node->dht, now_ns, &wait->target, NODE_DHT_TTL_MS, &wait->dht_handle);
        break;
    }
    if (result == ERR_OK)
        return;
    struct control_call *call = control_resolve(node->control, wait->call);
    if (call != NULL && wait->kind == WAIT_PROVIDE && result == ERR_EXISTS) {
        reply_uint(control_answer(call), "stored", 0); /* announced before, and renewed by itself */
        control_finish(call, false);
    } else if (call != NULL) {
        control_fail(call, result, "DHT: %s", err_text(result));
    }
    wait->used = false;
}

void method_ping(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    struct id id;
    uint64_t count = 1;
    if (!method_peer_param(node, call, params, "id", &id))
        return;
    if (control_uint(params, "count", &count) && (count == 0 || count > PINGS_MAX)) {
        control_fail(call, ERR_INVALID, "count must be 1 to %d", PINGS_MAX);
        return;
    }
    struct node_wait *wait = new_wait(node, call, WAIT_PING);
    if (wait == NULL)
        return;
    wait->pings_left = count;
    wait->target = id;
    wait->contact.id = id;
    if (nat_path_route(node->path, &id, &wait->contact.addr) == ERR_OK) {
        begin(node, wait);
    } else { /* where is it?  the answer turns this into a ping */
        wait->kind = WAIT_FIND;
        begin(node, wait);
    }
}

void method_dht_find(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    struct id id;
    if (!method_peer_param(node, call, params, "id", &id))
        return;
    struct node_wait *wait = new_wait(node, call, WAIT_FIND);
    if (wait == NULL)
        return;
    wait->target = id;
    begin(node, wait);
}

/* A key is a run's id (hashed to its position) on the command line. */
static bool key_param(struct control_call *call, const struct pack_reader *params, struct id *key)
{
    char text[ID_TEXT_SIZE];
    struct id id;
    if (!control_text(params, "key", text, sizeof text) || id_parse(text, &id) < 0) {
        control_fail(call, ERR_INVALID, "%s: parameter 'key' must be an id of 52 characters", call->method);
        return false;
    }
    hash_content(bytes_of(id.bytes, ID_BYTES), key);
    return true;
}

void method_dht_providers(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    struct id key;
    struct node_wait *wait = key_param(call, params, &key) ? new_wait(node, call, WAIT_PROVIDERS) : NULL;
    if (wait == NULL)
        return;
    wait->target = key;
    begin(node, wait);
}

void method_dht_provide(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    struct id key;
    struct node_wait *wait = key_param(call, params, &key) ? new_wait(node, call, WAIT_PROVIDE) : NULL;
    if (wait == NULL)
        return;
    wait->target = key;
    begin(node, wait);
}

void method_dht_table(void *user, struct control_call *call, const struct pack_reader *params)
{
    static const char *const states[] = {"good", "doubtful", "cached"};
    struct node *node = user;
    uint64_t now_ns = node_now_ns();
    struct dht_row *rows = calloc(ROWS_MAX, sizeof *rows);
    (void)params;
    if (rows == NULL) {
        control_fail(call, ERR_NO_MEMORY, "not enough memory for the table");
        return;
    }
    size_t count = dht_table_rows(node->dht, now_ns, false, rows, ROWS_MAX);
    struct reply *r = control_answer(call);
    reply_array(r, "contacts");
    for (size_t i = 0; i < count; i++) {
        reply_map(r, NULL);
        reply_id(r, "id", &rows[i].contact.id);
        method_reply_addr(r, "addr", &rows[i].contact.addr);
        reply_uint(r, "bucket", rows[i].bucket);
        reply_float(r, "age_s", (double)(now_ns - rows[i].answered_ns) / 1e9);
        reply_float(r, "rtt_ms", (double)rows[i].rtt_ns / 1e6);
        reply_str(r, "state", states[rows[i].state]);
        reply_end(r);
    }
    reply_end(r);
    free(rows);
    control_finish(call, false);
}

static void reply_record_addrs(struct reply *r, const struct dht_record *record)
{
    reply_array(r, "addresses");
    for (size_t i = 0; i < record->addr_count; i++)
        method_reply_addr(r, NULL, &record->addrs[i]);
    reply_end(r);
}

static void ping_answered(struct node_wait *wait, struct control_call *call, const struct dht_event *event)
{
    bool more = --wait->pings_left > 0;
    wait->seq++;
    if (event->err < 0 && !more) {
        control_fail(call, event->err, "no answer from the peer");
        wait->used = false;
        return;
    }
    struct reply *r = control_answer(call);
    reply_id(r, "id", &wait->target);
    method_reply_addr(r, "addr", &wait->contact.addr);
    if (event->err < 0)
        reply_nil(r, "rtt_ms");
    else
        reply_float(r, "rtt_ms", (double)event->rtt_ns / 1e6);
    reply_uint(r, "seq", wait->seq);
    control_finish(call, more);
    wait->used = more;
    wait->dht_handle = 0;
    wait->next_ns = node_now_ns() + PING_INTERVAL_MS * (NODE_SECOND_NS / 1000);
}

static void find_done(struct node *node, struct node_wait *wait, struct control_call *call,
                      const struct dht_event *event)
{
    const struct dht_record *newest = wait->record_count == 0 ? NULL : &wait->records[wait->record_count - 1];
    if (wait->pings_left > 0 && newest != NULL && newest->addr_count > 0) {
        wait->kind = WAIT_PING;
        wait->contact.addr = newest->addrs[0];
        begin(node, wait);
        return;
    }
    wait->used = false;
    if (newest == NULL) {
        control_fail(call, event->err < 0 ? event->err : ERR_NOT_FOUND,
                     "no address of this peer is known to the DHT");
        return;
    }
    struct reply *r = control_answer(call);
    reply_record_addrs(r, newest);
    reply_uint(r, "requests", event->requests);
    reply_float(r, "ms", (double)(node_now_ns() - wait->began_ns) / 1e6);
    control_finish(call, false);
}

static void finish_wait(struct node *node, struct node_wait *wait, struct control_call *call,
                        const struct dht_event *event)
{
    struct reply *r;
    if (wait->kind == WAIT_PING) {
        ping_answered(wait, call, event);
        return;
    }
    if (wait->kind == WAIT_FIND) {
        find_done(node, wait, call, event);
        return;
    }
    wait->used = false;
    if (wait->kind == WAIT_PROVIDE && event->err < 0) {
        control_fail(call, event->err, "no node stored the record yet; it is tried again in the background");
        return;
    }
    r = control_answer(call);
    if (wait->kind == WAIT_PROVIDE) {
        reply_uint(r, "stored", event->found);
    } else {
        reply_array(r, "providers");
        for (size_t i = 0; i < wait->record_count; i++) {
            reply_map(r, NULL);
            reply_id(r, "id", &wait->records[i].owner);
            reply_record_addrs(r, &wait->records[i]);
            reply_end(r);
        }
        reply_end(r);
    }
    control_finish(call, false);
}

/* A newer record of the same owner replaces the older one. */
static void note_record(struct node_wait *wait, const struct dht_record *record)
{
    size_t slot = 0;
    while (slot < wait->record_count && !id_equal(&wait->records[slot].owner, &record->owner))
        slot++;
    if (slot == WAIT_RECORDS_MAX)
        return;
    wait->records[slot] = *record;
    if (slot == wait->record_count)
        wait->record_count++;
}

void methods_dht_event(struct node *node, uint64_t now_ns, const struct dht_event *event)
{
    (void)now_ns;
    for (size_t i = 0; i < NODE_WAITS_MAX && event->handle != 0; i++) {
        struct node_wait *wait = &node->waits[i];
        if (!wait->used || wait->dht_handle != event->handle)
            continue;
        if (event->kind == DHT_EVENT_VALUE) {
            note_record(wait, &event->record);
            return;
        }
        if (event->kind == DHT_EVENT_NODE)
            return;
        struct control_call *call = node->control == NULL ? NULL : control_resolve(node->control, wait->call);
        if (call == NULL)
            wait->used = false; /* the client went away */
        else
            finish_wait(node, wait, call, event);
        return;
    }
}

void methods_tick(struct node *node, uint64_t now_ns)
{
    for (size_t i = 0; i < NODE_WAITS_MAX; i++) {
        struct node_wait *wait = &node->waits[i];
        if (!wait->used || now_ns < wait->next_ns)
            continue;
        if (control_resolve(node->control, wait->call) == NULL)
            wait->used = false;
        else
            begin(node, wait);
    }
}

uint64_t methods_deadline_ns(const struct node *node)
{
    uint64_t first = UINT64_MAX;
    for (size_t i = 0; i < NODE_WAITS_MAX; i++) {
        if (node->waits[i].used && node->waits[i].next_ns < first)
            first = node->waits[i].next_ns;
    }
    return first;
}

void method_limit(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct node *node = user;
    uint64_t value;
    if (control_uint(params, "cpu_pct", &value)) {
        if (value < 1 || value > 100) {
            control_fail(call, ERR_INVALID, "cpu_pct must be 1 to 100");
            return;
        }
        node->limits.cpu_pct = (unsigned)value;
        for (size_t i = 0; i < NODE_RUNS_MAX; i++) {
            if (node->runs[i].used && node->runs[i].trainer != NULL)
                train_thread_set_cpu(node->runs[i].trainer, (unsigned)value);
        }
    }
    if (control_uint(params, "up_bytes_s", &value)) {
        node->limits.up_bytes_s = value;
        shaper_set_rate(&node->shaper, node_now_ns(), value, 0);
    }
    struct reply *r = control_answer(call);
    reply_limits(node, r);
    control_finish(call, false);
}

void method_stop(void *user, struct control_call *call, const struct pack_reader *params)
{
    (void)params;
    (void)control_answer(call);
    control_finish(call, false);
    node_stop(user);
}
