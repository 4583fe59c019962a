/* Joining, leaving and settings of a run; run.h draws the stages. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "node/export_merge.h"
#include "node/run_internal.h"
#include "train/trainer.h"

enum {
    SYNC_S = 10,
    SYNC_ALONE_S = 3,
    CHAIN_RETRY_S = 3,
    REPAIR_S = 30,
    ALONE_S = 5,
    FIRST_ROUNDS = GOSSIP_LIVE_ROUNDS
};

void run_fail(struct run *run, const char *format, ...)
{
    va_list args;
    if (run->leaving || run->stage == RUN_FAILED)
        return; /* nobody is interested, or the first error says more */
    va_start(args, format);
    (void)vsnprintf(run->error, sizeof run->error, format, args);
    va_end(args);
    run->stage = RUN_FAILED;
    run_set_running(run);
    if (run->gossip != NULL)
        gossip_pause(run->gossip, node_now_ns(), true);
    node_info(run->node, TRACE_LEVEL_ERROR, "run %s: %s", run->name, run->error);
}

void run_set_running(struct run *run)
{
    bool trains = run->stage == RUN_TRAINING && !run->paused && !run->leaving;
    if (run->trainer != NULL)
        train_thread_set_running(run->trainer, trains);
}

/* Arrays, blobs and the core, in floats and bytes. */
static uint64_t buffer_bytes(const struct train_layout *layout, const struct gossip_layout *shape,
                             bool loss_test)
{
    uint64_t floats = 4 * (uint64_t)layout->arena_floats * sizeof(float);
    return floats + run_turns_bytes(shape, loss_test) +
           3 * shape->encoded_bytes[GOSSIP_CODEC_FP32]; /* two states, one to be fetched */
}

static int shape_of(const struct run_config *config, struct train_layout *layout,
                    struct gossip_tensor tensors[], struct gossip_layout *shape, char why[NODE_ERROR_SIZE])
{
    struct train_model_config model = run_model_config(config);
    int result = train_model_config_check(&model, why, NODE_ERROR_SIZE);
    if (result < 0)
        return result;
    train_layout_init(layout, &model);
    for (size_t i = 0; i < layout->tensor_count; i++) {
        const struct train_tensor *tensor = &layout->tensors[i];
        size_t end = i + 1 < layout->tensor_count ? layout->tensors[i + 1].offset : layout->arena_floats;
        bool matrix = tensor->kind == TRAIN_MATRIX || tensor->kind == TRAIN_EMBEDDING;
        tensors[i] =
            (struct gossip_tensor){.offset = tensor->offset,
                                   .count = end - tensor->offset, /* padding travels along as zeros */
                                   .kind = matrix ? GOSSIP_TENSOR_MATRIX : GOSSIP_TENSOR_VECTOR};
    }
    result = gossip_layout_of(tensors, layout->tensor_count, config->fragments, shape);
    if (result < 0)
        (void)snprintf(why, NODE_ERROR_SIZE, "a model of %zu parameters is too large to be shared",
                       layout->parameter_count);
    return result;
}

uint64_t run_memory_bytes(const struct run_config *config, unsigned threads)
{
    struct train_layout layout;
    struct gossip_tensor tensors[TRAIN_TENSORS_MAX];
    struct gossip_layout shape;
    char why[NODE_ERROR_SIZE];
    if (shape_of(config, &layout, tensors, &shape, why) < 0)
        return 0;
    return buffer_bytes(&layout, &shape, config->loss_test) + train_thread_memory_bytes(config, threads);
}

/* Refuses what does not fit before anything is started. */
static int check_memory(const struct node *node, const struct run_config *config, char why[NODE_ERROR_SIZE])
{
    uint64_t need = run_memory_bytes(config, node->config.threads);
    uint64_t free_bytes = uv_get_free_memory();
    if (need <= free_bytes || free_bytes == 0)
        return ERR_OK;
    (void)snprintf(
        why, NODE_ERROR_SIZE,
        "the run needs %llu MiB of memory and %llu MiB are free: end other programs, lower --threads, "
        "or choose a run with a smaller model or batch",
        (unsigned long long)(need >> 20), (unsigned long long)(free_bytes >> 20));
    return ERR_NO_MEMORY;
}

static float *floats(const struct run *run)
{
    return allocator_get(&run->node->alloc, run->layout.arena_floats, sizeof(float));
}

static int allocate(struct run *run)
{
    const struct allocator *alloc = &run->node->alloc;
    size_t blob = (size_t)run->shape.encoded_bytes[GOSSIP_CODEC_FP32];
    bool fine = (run->theta = floats(run)) != NULL && (run->phi = floats(run)) != NULL &&
                (run->delta = floats(run)) != NULL && (run->diff = floats(run)) != NULL;
    fine = fine && run_turns_allocate(run) == ERR_OK;
    for (size_t i = 0; i < 2; i++)
        fine = fine && (run->states[i].bytes = allocator_get(alloc, 1, blob)) != NULL;
    fine = fine && (run->fetch_buffer = allocator_get(alloc, 1, blob)) != NULL;
    return fine ? ERR_OK : ERR_NO_MEMORY;
}

static int open_gossip(struct run *run)
{
    struct gossip_config config = gossip_config_default();
    const char *why = "";
    config.self = run->node->identity.id;
    config.run = run->id;
    config.layout = run->shape;
    config.codecs = (1u << GOSSIP_CODEC_COUNT) - 1;
    config.round_ns = (uint64_t)run->config.round_ms * 1000000;
    config.trace = run->node->trace;
    if (gossip_config_check(&config, &why) < 0)
        return ERR_INVALID;
    size_t size = gossip_size_bytes(&config);
    run->gossip_block = size == 0 ? NULL : allocator_get(&run->node->alloc, 1, size);
    if (run->gossip_block == NULL)
        return ERR_NO_MEMORY;
    run->gossip = gossip_init(run->gossip_block, size, &config);
    gossip_pause(run->gossip, node_now_ns(), run->paused);
    return ERR_OK;
}

/* Nothing may begin any more, but what is lent comes back. */
static void event_while_leaving(struct run *run, const struct train_thread_event *event)
{
    free(event->bytes);
    if (event->kind == TRAIN_THREAD_EXPORTED)
        run->saving = false;
    if (event->kind == TRAIN_THREAD_SNAPSHOT && event->tag >= TAG_CALL)
        methods_snapshot(run->node, event);
    if (event->kind == TRAIN_THREAD_ENDED)
        run->trainer_ended = true;
}

static void evaluated(struct run *run, uint64_t tag, double loss, double accuracy)
{
    run->val_loss = loss;
    run->val_accuracy = accuracy;
    if (!isfinite(run->val_loss_start))
        run->val_loss_start = loss;
    if (tag == TAG_FINAL) {
        run_finish_evaluated(run);
        return;
    }
    run->evaluating = false;
    if (run->stage == RUN_FINISHING && !isfinite(run->ending.val_loss_before))
        run->ending.val_loss_before = loss;
}

static void event_of_run(struct run *run, const struct train_thread_event *event)
{
    switch (event->kind) {
    case TRAIN_THREAD_READY:
        run->data_bytes = event->data_bytes;
        if (run->stage == RUN_LOADING)
            run_load_checkpoint(run);
        break;
    case TRAIN_THREAD_FAILED:
        run_fail(run, "%s", event->text);
        break;
    case TRAIN_THREAD_SNAPSHOT:
        if (event->tag >= TAG_CALL)
            methods_snapshot(run->node, event);
        else if ((event->tag == TAG_ROUND || event->tag == TAG_ROUND_ODD) && !event->refused)
            run_turn_snapshot_ready(run, event->tag);
        else if (event->tag == TAG_START && !event->refused)
            run_weights_loaded(run, TAG_START, "");
        break;
    case TRAIN_THREAD_APPLIED:
        if (!event->refused)
            run_turn_applied(run, event->tag);
        break;
    case TRAIN_THREAD_TRIED:
        if (!event->refused)
            run_turn_tried(run, event);
        break;
    case TRAIN_THREAD_LOADED:
        free(event->bytes);
        if (!event->refused)
            run_weights_loaded(run, event->tag, event->text);
        break;
    case TRAIN_THREAD_EXPORTED:
        if (event->refused || run->stage == RUN_FAILED) {
            free(event->bytes);
            run_save_failed(run, ERR_STATE);
        } else {
            run_exported(run, event->bytes, event->len);
        }
        break;
    case TRAIN_THREAD_EVALUATED:
        evaluated(run, event->tag, event->loss, event->accuracy);
        break;
    case TRAIN_THREAD_ENDED:
        run->trainer_ended = true;
        break;
    }
}

static void trainer_event(void *user, const struct train_thread_event *event)
{
    struct run *run = user;
    struct node *node = run->node;
    if (run->leaving)
        event_while_leaving(run, event);
    else
        event_of_run(run, event);
    node_pump(node, node_now_ns());
}

/* The chain's genesis is at hand: everything else can be built. */
static int build(struct run *run, char why[NODE_ERROR_SIZE])
{
    struct crdt_entry genesis;
    struct node *node = run->node;
    if (crdt_chain_genesis(&run->chain, &genesis) < 0 ||
        run_config_decode(genesis.config, &run->config) < 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "this run was made by another version of Dunlin");
        return ERR_VERSION;
    }
    (void)snprintf(run->name, sizeof run->name, "%.*s", (int)genesis.name.len,
                   (const char *)genesis.name.data);
    run->has_chain = true;
    if (run->own_init && !run->config.strangers) {
        (void)snprintf(why, NODE_ERROR_SIZE,
                       "run %s: init_seed (--init-seed) needs a run created with strangers (--strangers): "
                       "members refuse weights that started elsewhere; leave it and join without --init-seed",
                       run->name);
        return ERR_INVALID;
    }
    int result = check_memory(node, &run->config, why);
    if (result == ERR_OK)
        result = shape_of(&run->config, &run->layout, run->tensors, &run->shape, why);
    if (result < 0)
        return result;
    run->outer = (struct gossip_outer){.alpha = (float)run->config.alpha,
                                       .beta = (float)run->config.beta,
                                       .gamma = (float)run->config.gamma};
    result = allocate(run);
    if (result == ERR_OK)
        result = open_gossip(run);
    if (result < 0)
        (void)snprintf(why, NODE_ERROR_SIZE, "run %s: %s", run->name, err_text(result));
    return result;
}

void run_sync_all(struct run *run)
{
    struct node *node = run->node;
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        if (node->peers[i].used && node->peers[i].connected)
            state_sync(node, &node->peers[i], run);
    }
}

static int start(struct run *run, char why[NODE_ERROR_SIZE])
{
    struct node *node = run->node;
    uint32_t handle;
    struct id key;
    int result = build(run, why);
    if (result < 0)
        return result;
    result = crdt_replica_add_run(node->replica, &run->id);
    if (result < 0 && result != ERR_EXISTS) {
        (void)snprintf(why, NODE_ERROR_SIZE, "run %s: %s", run->name, err_text(result));
        return result;
    }
    struct train_thread_config config = {.run = run->config,
                                         .node = node->identity.id,
                                         .threads = node->config.threads,
                                         .cpu_pct = node->limits.cpu_pct,
                                         .on_event = trainer_event,
                                         .user = run};
    (void)snprintf(config.data, sizeof config.data, "%s", run->data);
    rng_fill(&node->rng, config.secret, sizeof config.secret);
    if (run->own_init)
        run_seed_of(run->init_seed, config.run.seed);
    result = train_thread_start(&run->trainer, &node->loop, &config);
    if (result < 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "run %s: no trainer thread: %s", run->name, err_text(result));
        return result;
    }
    run->stage = RUN_LOADING;
    hash_content(bytes_of(run->id.bytes, ID_BYTES), &key);
    if (dht_announce(node->dht, node_now_ns(), &key, NODE_DHT_TTL_MS, &handle) < 0)
        node_info(node, TRACE_LEVEL_WARN, "run %s cannot be announced in the DHT", run->name);
    run_sync_all(run);
    node_info(node, TRACE_LEVEL_INFO, "run %s: %zu parameters, %llu MiB of memory, rounds of %u ms",
              run->name, run->layout.parameter_count,
              (unsigned long long)(run_memory_bytes(&run->config, node->config.threads) >> 20),
              run->config.round_ms);
    return ERR_OK;
}

static struct run *take_slot(struct node *node, const struct id *id)
{
    for (size_t i = 0; i < NODE_RUNS_MAX; i++) {
        struct run *run = &node->runs[i];
        if (run->used)
            continue;
        memset(run, 0, sizeof *run);
        run->used = true;
        run->node = node;
        run->id = *id;
        run->val_loss = run->val_loss_start = run->val_accuracy = (double)NAN;
        run->ending.spread = run->ending.spread_before = run->ending.val_loss_before = (double)NAN;
        id_format_short(id, run->name);
        crdt_chain_init(&run->chain, id, &node->alloc, &node->keys);
        for (size_t k = 0; k < NODE_PEERS_MAX; k++)
            node->peers[k].runs &= ~(UINT32_C(1) << i);
        return run;
    }
    return NULL;
}

static int new_run(struct node *node, const struct id *id, const char *data, const struct run_own *own,
                   struct run **out, char why[NODE_ERROR_SIZE])
{
    char absolute[4096];
    if (node_run_of(node, id) != NULL) {
        (void)snprintf(why, NODE_ERROR_SIZE, "this node is in that run already");
        return ERR_EXISTS;
    }
    for (size_t i = 0; i < NODE_RUNS_MAX; i++) {
        if (node->runs[i].used && id_equal(&node->runs[i].id, id)) {
            (void)snprintf(why, NODE_ERROR_SIZE,
                           "this node is still leaving that run: try again in a moment");
            return ERR_BUSY;
        }
    }
    if (realpath(data, absolute) == NULL || strlen(absolute) >= NODE_PATH_SIZE) {
        (void)snprintf(why, NODE_ERROR_SIZE, "data path %s: %s", data, strerror(errno));
        return ERR_NOT_FOUND;
    }
    struct run *run = take_slot(node, id);
    if (run == NULL) {
        (void)snprintf(why, NODE_ERROR_SIZE, "this node is in %d runs, as many as it can; leave one first",
                       NODE_RUNS_MAX);
        return ERR_FULL;
    }
    (void)snprintf(run->data, sizeof run->data, "%s", absolute);
    run->isolated = own->isolated;
    run->own_init = own->own_init;
    run->init_seed = own->init_seed;
    *out = run;
    return ERR_OK;
}

int run_create(struct node *node, const char *name, const struct run_config *config, const char *data,
               const struct run_own *own, struct run **out, char why[NODE_ERROR_SIZE])
{
    uint8_t encoded[RUN_CONFIG_BYTES_MAX];
    uint8_t entry[CRDT_ENTRY_MAX];
    struct id id;
    int len = run_config_encode(config, encoded, sizeof encoded);
    if (len < 0)
        return len;
    int result = check_memory(node, config, why);
    if (result < 0)
        return result;
    len = crdt_chain_create(&node->keys, &node->rng, node_wall_ms(), bytes_of_text(name),
                            bytes_of(encoded, (size_t)len), entry, sizeof entry, &id);
    if (len < 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "name '%.70s': 1 to %d bytes of plain text are allowed", name,
                       CRDT_NAME_MAX);
        return len;
    }
    result = new_run(node, &id, data, own, out, why);
    if (result < 0)
        return result;
    result = crdt_chain_append(&(*out)->chain, bytes_of(entry, (size_t)len));
    if (result == ERR_OK)
        result = start(*out, why);
    if (result < 0) {
        int removed = crdt_replica_remove_run(node->replica, &id);
        (void)removed; /* ERR_NOT_FOUND: it had not got that far */
        run_release(*out);
        return result;
    }
    state_store_run(node, *out);
    state_store_chain(node, *out);
    return ERR_OK;
}

int run_join(struct node *node, const struct id *id, const char *data, const struct run_own *own,
             struct run **out, char why[NODE_ERROR_SIZE])
{
    int result = new_run(node, id, data, own, out, why);
    if (result < 0)
        return result;
    state_store_run(node, *out);
    (*out)->stage = RUN_CHAIN;
    return ERR_OK;
}

int run_resume_stored(struct node *node, const struct id *id, struct bytes settings,
                      char why[NODE_ERROR_SIZE])
{
    struct pack_token tokens[16];
    struct pack_reader r = pack_parse(settings, tokens, 16);
    struct run *run = take_slot(node, id);
    uint32_t seen = 0;
    if (run == NULL) {
        (void)snprintf(why, NODE_ERROR_SIZE, "more than %d runs are stored; the others wait", NODE_RUNS_MAX);
        return ERR_FULL;
    }
    for (size_t left = pack_read_map(&r, 8); left > 0; left--) {
        switch (pack_read_key(&r, &seen)) {
        case 1:
            pack_read_text(&r, run->data, sizeof run->data);
            break;
        case 2:
            run->isolated = pack_read_bool(&r);
            break;
        case 3:
            run->joined_round = pack_read_uint(&r, UINT64_MAX);
            break;
        case 4:
            run->paused = pack_read_bool(&r);
            break;
        case 5:
            run->own_init = true;
            run->init_seed = pack_read_uint(&r, UINT64_MAX);
            break;
        default:
            pack_skip(&r);
            break;
        }
    }
    run->stage = RUN_CHAIN;
    int result = crdt_replica_add_run(node->replica, id);
    (void)result; /* its records are loaded next; a full table shows when the run starts */
    return ERR_OK;
}

void run_chain_complete(struct run *run)
{
    char why[NODE_ERROR_SIZE] = "";
    if (run->stage != RUN_CHAIN || run->chain.count == 0)
        return;
    int result = start(run, why);
    if (result < 0) {
        run_fail(run, "%s", why);
        return;
    }
    state_store_chain(run->node, run);
    state_store_run(run->node, run);
    state_want_members(run->node, run);
}

void run_chain_frame(struct run *run, struct bytes frame)
{
    struct bytes entries[CRDT_CHAIN_FRAME_ENTRIES];
    struct id id;
    size_t held = run->chain.count;
    enum crdt_chain_state state = run->chain.state;
    int count = crdt_chain_frame_decode(frame, &id, entries);
    for (int i = 0; i < count; i++) {
        int result = crdt_chain_append(&run->chain, entries[i]);
        if (result < 0 && result != ERR_STALE) {
            trace_emit(&run->node->trace, TRACE_RECORD_REFUSED, node_now_ns(), NULL, 0, 0, result);
            break;
        }
    }
    run_chain_complete(run);
    if (held == 0 || (run->chain.count == held && run->chain.state == state))
        return;
    state_store_chain(run->node, run);
    run_chain_changed(run, node_now_ns());
}

/* Gives everything back; the slot is free afterwards.  No job may be under way. */
void run_release(struct run *run)
{
    const struct allocator *alloc = &run->node->alloc;
    run->leaving = true;
    if (run->trainer != NULL)
        train_thread_stop(run->trainer);
    run->trainer = NULL;
    methods_saved(run, ERR_CLOSED);
    export_merge_release(run);
    streams_forget_run(run->node, run);
    crdt_chain_deinit(&run->chain);
    float *arrays[] = {run->theta, run->phi, run->delta, run->diff};
    for (size_t i = 0; i < 4; i++)
        allocator_release(alloc, arrays[i]);
    run_turns_release(run);
    for (size_t i = 0; i < 2; i++)
        allocator_release(alloc, run->states[i].bytes);
    allocator_release(alloc, run->fetch_buffer);
    allocator_release(alloc, run->gossip_block);
    memset(run, 0, sizeof *run);
}

void run_leave(struct run *run)
{
    struct id key;
    uint32_t handle;
    run->leaving = true;
    run_set_running(run);
    if (run->trainer != NULL)
        train_thread_end(run->trainer);
    /* Its core is drained no more, so nothing may reach it either; and a restart before all jobs have ended
     * must not take the run up again. */
    streams_forget_run(run->node, run);
    state_forget_settings(run->node, &run->id);
    hash_content(bytes_of(run->id.bytes, ID_BYTES), &key);
    int result = dht_withdraw(run->node->dht, &key, &handle);
    (void)result; /* ERR_NOT_FOUND: it had not got that far */
    node_info(run->node, TRACE_LEVEL_INFO, "run %s: left; its checkpoints stay in %s/runs", run->name,
              run->node->config.dir);
}

void run_pause(struct run *run, bool paused)
{
    run->paused = paused;
    run_set_running(run);
    if (run->gossip != NULL)
        gossip_pause(run->gossip, node_now_ns(), paused || run->stage == RUN_FAILED);
    if (!paused && (run->stage == RUN_TRAINING || run->stage == RUN_FINISHING))
        run->boundary_ns = node_now_ns() + (uint64_t)run->config.round_ms * 1000000;
    state_store_run(run->node, run);
}

/* All that other members had to say is here, or the time for it is over. */
static void synced(struct run *run, uint64_t now_ns)
{
    struct run_swarm swarm;
    bool fresh = run_steps(run) == 0 && run->round == 0;
    run_swarm_now(run, &swarm);
    if (run->isolated || !swarm.has_donor || run->ending.outcome != RUN_OUTCOME_NONE) {
        run_enter_training(run, now_ns, run->round);
        return;
    }
    /* Who starts from weights of its own brings them along however late it comes; who trained nearly to the
     * end does so too, however far the others are beyond it. */
    uint64_t last = run_last_round(run);
    uint64_t ahead = !fresh && swarm.round_max > last ? last : swarm.round_max;
    bool over = fresh && swarm.round_max >= last; /* nobody trains any more */
    if (over || (ahead > run->round + FIRST_ROUNDS && !(run->own_init && fresh))) {
        run_begin_fetch(run, now_ns);
        return;
    }
    /* In the first rounds all members still are where the seed put them: a joiner counts at once. */
    if (fresh)
        run->joined_round = 0;
    run_enter_training(run, now_ns, swarm.round_max > run->round ? swarm.round_max : run->round);
}

/* Members we know by their registers, and those that announce the run in the DHT.  Nobody else would bring us
 * together again when all were restarted at once. */
static void seek_members(struct run *run, uint64_t now_ns)
{
    struct id key;
    uint32_t handle;
    state_want_members(run->node, run);
    hash_content(bytes_of(run->id.bytes, ID_BYTES), &key);
    int result = dht_find_providers(run->node->dht, now_ns, node_wall_ms(), &key, &handle);
    (void)result; /* ERR_FULL: again in a few seconds */
}

static void look_for_chain(struct run *run, uint64_t now_ns)
{
    struct node *node = run->node;
    run->stage_deadline_ns = now_ns + CHAIN_RETRY_S * NODE_SECOND_NS;
    seek_members(run, now_ns);
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        if (node->peers[i].used && node->peers[i].connected)
            state_fetch_chain(node, &node->peers[i], run);
    }
}

/* One repair with one connected member now and then heals whatever was lost on the way. */
static void repair(struct run *run, uint64_t now_ns)
{
    struct node *node = run->node;
    size_t first = (size_t)rng_below(&node->rng, NODE_PEERS_MAX);
    run->repair_next_ns = now_ns + REPAIR_S * NODE_SECOND_NS;
    for (size_t i = 0; i < NODE_PEERS_MAX; i++) {
        struct node_peer *peer = &node->peers[(first + i) % NODE_PEERS_MAX];
        if (peer->used && peer->connected && (peer->runs >> (run - node->runs) & 1) != 0) {
            state_sync(node, peer, run);
            if (run->chain.state == CRDT_CHAIN_LIVE)
                state_fetch_chain(node, peer, run);
            return;
        }
    }
    seek_members(run, now_ns);
    run->repair_next_ns = now_ns + ALONE_S * NODE_SECOND_NS;
}

static void sync_tick(struct run *run, uint64_t now_ns)
{
    bool connected = quic_peer_count(run->node->quic) > 0;
    bool owner_alone = id_equal(&run->chain.owner, &run->node->identity.id) && run->round == 0;
    if (run->stage_deadline_ns == 0)
        run->stage_deadline_ns = now_ns + (owner_alone ? 0
                                           : connected ? SYNC_S
                                                       : SYNC_ALONE_S) *
                                              NODE_SECOND_NS;
    if (now_ns >= run->stage_deadline_ns && !run->evaluating)
        synced(run, now_ns);
}

bool run_is_busy(const struct run *run)
{
    return run->jobs > 0 || run->saving || run->publishing || (run->trainer != NULL && !run->trainer_ended);
}

void run_tick(struct run *run, uint64_t now_ns)
{
    export_merge_tick(run, now_ns);
    methods_finish_tick(run, now_ns);
    if (run->leaving) {
        if (run_is_busy(run))
            return;
        struct node *node = run->node;
        struct id id = run->id;
        run_release(run);
        state_forget_run(node, &id);
        return;
    }
    if (run->gossip != NULL)
        gossip_tick(run->gossip, now_ns);
    if (run->node->stopping)
        return; /* the round in progress ends, no other begins */
    if (run->stage == RUN_CHAIN && now_ns >= run->stage_deadline_ns)
        look_for_chain(run, now_ns);
    if (run->stage == RUN_SYNCING)
        sync_tick(run, now_ns);
    run_state_tick(run, now_ns);
    run_round_tick(run, now_ns);
    run_view_tick(run, now_ns);
    if (run->stage >= RUN_TRAINING && !run->isolated && now_ns >= run->repair_next_ns)
        repair(run, now_ns);
}

uint64_t run_deadline_ns(const struct run *run)
{
    uint64_t first = run->gossip == NULL ? UINT64_MAX : gossip_deadline_ns(run->gossip);
    uint64_t next = UINT64_MAX;
    uint64_t told = methods_finish_deadline_ns(run);
    if (run->leaving)
        return run_is_busy(run) ? told : 0;
    if (told < first)
        first = told;
    if (run->node->stopping)
        return first;
    if (run->stage == RUN_CHAIN || run->stage == RUN_FETCHING ||
        (run->stage == RUN_SYNCING && !run->evaluating))
        next = run->stage_deadline_ns;
    if (run_round_deadline_ns(run) < next)
        next = run_round_deadline_ns(run);
    if (run_save_wanted(run) && run->save_next_ns < next)
        next = run->save_next_ns;
    if (export_merge_deadline_ns(run) < next)
        next = export_merge_deadline_ns(run);
    return next < first ? next : first;
}
