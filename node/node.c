#include "node/node.h"

#include <signal.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "node/internal.h"
#include "node/run_internal.h"
#include "store/key.h"

#define STOP_POLL_NS UINT64_C(50000000) /* how often is looked whether all is saved */

enum { PUMP_ROUNDS_MAX = 64, STOP_S = 10, SAVED_CONTACTS_MAX = 64, HOUSEKEEPING_S = 1, CONTACTS_S = 60 };

uint64_t node_now_ns(void)
{
    return uv_hrtime();
}

uint64_t node_wall_ms(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void node_info(struct node *node, enum trace_level level, const char *format, ...)
{
    char text[NODE_ERROR_SIZE + 256];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    node_log_line(&node->log, level, "%s", text);
}

struct run *node_run_of(struct node *node, const struct id *id)
{
    for (size_t i = 0; i < NODE_RUNS_MAX; i++) {
        if (node->runs[i].used && !node->runs[i].leaving && id_equal(&node->runs[i].id, id))
            return &node->runs[i];
    }
    return NULL;
}

static uint64_t deadline(struct node *node, uint64_t now_ns)
{
    uint64_t first = now_ns + HOUSEKEEPING_S * NODE_SECOND_NS;
    const uint64_t others[] = {wire_deadline_ns(node, now_ns), peers_deadline_ns(node),
                               methods_deadline_ns(node), speed_deadline_ns(node),
                               node->stopping ? now_ns + STOP_POLL_NS : UINT64_MAX};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        first = others[i] < first ? others[i] : first;
    for (size_t i = 0; i < NODE_RUNS_MAX; i++) {
        if (node->runs[i].used && run_deadline_ns(&node->runs[i]) < first)
            first = run_deadline_ns(&node->runs[i]);
    }
    return first;
}

void node_pump(struct node *node, uint64_t now_ns)
{
    if (node->pumping || node->ending)
        return;
    node->pumping = true;
    bool any = true;
    /* Each pass is bounded; a core that always has something to say cannot keep the loop for itself. */
    for (int pass = 0; any && pass < PUMP_ROUNDS_MAX; pass++) {
        any = wire_drain(node, now_ns);
        any |= streams_drain(node, now_ns);
        any |= speed_drain(node, now_ns);
        any |= state_drain(node, now_ns);
        for (size_t i = 0; i < NODE_RUNS_MAX; i++) {
            if (node->runs[i].used && !node->runs[i].leaving)
                any |= run_drain(&node->runs[i], now_ns);
        }
        any |= wire_sends(node, now_ns);
    }
    net_uv_timer_arm(&node->timer, any ? now_ns : deadline(node, now_ns));
    node->pumping = false;
}

/* Good contacts for the next start without a seed. */
static void save_contacts(struct node *node)
{
    struct dht_row rows[SAVED_CONTACTS_MAX];
    uint8_t value[SAVED_CONTACTS_MAX * 64];
    size_t count = dht_table_rows(node->dht, node_now_ns(), true, rows, SAVED_CONTACTS_MAX);
    struct pack_writer w = pack_writer_of(value, sizeof value);
    pack_array(&w, 2 * count);
    for (size_t i = 0; i < count; i++) {
        uint8_t addr[NET_ADDR_WIRE_MAX];
        pack_id(&w, &rows[i].contact.id);
        pack_bin(&w, bytes_of(addr, net_addr_encode(&rows[i].contact.addr, addr)));
    }
    if (count > 0 && store_put(node->store, STORE_LAZY, bytes_of_text("p"),
                               bytes_of(value, pack_writer_len(&w)), NULL) < 0)
        node_info(node, TRACE_LEVEL_DEBUG, "contacts could not be saved");
}

static void load_contacts(struct node *node)
{
    uint8_t value[SAVED_CONTACTS_MAX * 64];
    struct pack_token tokens[2 * SAVED_CONTACTS_MAX + 1];
    int len = store_get(node->store, bytes_of_text("p"), value, sizeof value);
    if (len <= 0)
        return;
    struct pack_reader r = pack_parse(bytes_of(value, (size_t)len), tokens, 2 * SAVED_CONTACTS_MAX + 1);
    size_t left = pack_read_array(&r, 2 * SAVED_CONTACTS_MAX) / 2;
    /* All may be gone by now, and must not keep the seeds out. */
    for (left = left < NODE_CONTACTS_LOADED ? left : NODE_CONTACTS_LOADED; left > 0 && !r.failed; left--) {
        struct dht_contact contact;
        pack_read_id(&r, &contact.id);
        if (net_addr_decode(pack_read_bin(&r, NET_ADDR_WIRE_MAX), &contact.addr) == ERR_OK && !r.failed &&
            dht_bootstrap(node->dht, node_now_ns(), &contact) < 0)
            break;
    }
}

static void begin_end(struct node *node);

static void on_timer(void *user, uint64_t now_ns)
{
    struct node *node = user;
    wire_tick(node, now_ns);
    peers_tick(node, now_ns);
    state_tick(node, now_ns);
    methods_tick(node, now_ns);
    methods_stop_samples(node, node->stopping);
    streams_tick(node, now_ns);
    speed_tick(node, now_ns);
    for (size_t i = 0; i < NODE_RUNS_MAX; i++) {
        if (node->runs[i].used)
            run_tick(&node->runs[i], now_ns);
    }
    if (now_ns >= node->minute_next_ns) {
        node->minute_next_ns = now_ns + CONTACTS_S * NODE_SECOND_NS;
        save_contacts(node);
    }
    if (node->stopping) {
        bool saving = false;
        for (size_t i = 0; i < NODE_RUNS_MAX; i++)
            saving |= node->runs[i].used &&
                      (node->runs[i].saving || node->runs[i].jobs > 0 || node->runs[i].publishing);
        saving |= own_ending(node, now_ns);
        if (!saving || now_ns >= node->stop_deadline_ns) {
            begin_end(node);
            return;
        }
    }
    node_pump(node, now_ns);
}

void node_stop(struct node *node)
{
    if (node->stopping)
        return;
    node->stopping = true;
    node->stop_deadline_ns = node_now_ns() + STOP_S * NODE_SECOND_NS;
    node_info(node, TRACE_LEVEL_INFO, "stopping: saving checkpoints");
    methods_stop_samples(node, true); /* checkpoints are written by the same worker */
    for (size_t i = 0; i < NODE_RUNS_MAX; i++) {
        struct run *run = &node->runs[i];
        if (!run->used || run->leaving)
            continue;
        run_save(run);
        if (run->trainer != NULL)
            train_thread_set_running(run->trainer, false);
        if (run->gossip != NULL)
            gossip_pause(run->gossip, node_now_ns(), true);
    }
    node_pump(node, node_now_ns());
    net_uv_timer_arm(&node->timer, node_now_ns());
}

static const int stop_signals[2] = {SIGTERM, SIGINT};

static void on_signal(uv_signal_t *handle, int number)
{
    struct node *node = handle->data;
    (void)number;
    if (node->stopping)
        node->stop_deadline_ns = 0; /* asked twice: do not wait for checkpoints */
    node_stop(node);
    net_uv_timer_arm(&node->timer, node_now_ns());
}

/* Goodbye to peers, then every handle is closed and the loop runs out. */
static void begin_end(struct node *node)
{
    if (node->ending)
        return;
    node->ending = true;
    save_contacts(node);
    quic_disconnect_all(node->quic, node_now_ns(), ERR_CLOSED);
    wire_flush(node);
    /* Jobs read what a run owns, so the workers end first; what they then still ask for is refused. */
    worker_stop(&node->merge_worker);
    worker_stop(&node->disk_worker);
    for (size_t i = 0; i < NODE_RUNS_MAX; i++) {
        struct run *run = &node->runs[i];
        struct id id = run->id;
        bool left = run->leaving;
        if (!run->used)
            continue;
        run_release(run);
        if (left)
            state_forget_run(node, &id);
    }
    control_close(node->control);
    node->control = NULL;
    state_close(node);
    wire_close(node);
    net_uv_timer_close(&node->timer, NULL);
    net_uv_turn_close(&node->turn);
    for (size_t i = 0; i < 2; i++) {
        uv_close((uv_handle_t *)&node->signals[i], NULL);
        (void)signal(stop_signals[i],
                     SIG_IGN); /* libuv left the default: one more would kill us in the middle */
    }
}

static int open_loop(struct node *node, char why[NODE_ERROR_SIZE])
{
    (void)snprintf(why, NODE_ERROR_SIZE, "event loop cannot be set up");
    if (uv_loop_init(&node->loop) < 0)
        return ERR_IO;
    if (net_uv_timer_init(&node->timer, &node->loop, on_timer, node) < 0 ||
        net_uv_turn_init(&node->turn, &node->loop) < 0)
        return ERR_IO;
    for (size_t i = 0; i < 2; i++) {
        if (uv_signal_init(&node->loop, &node->signals[i]) < 0)
            return ERR_IO;
        node->signals[i].data = node;
        if (uv_signal_start(&node->signals[i], on_signal, stop_signals[i]) < 0)
            return ERR_IO;
    }
    (void)signal(SIGPIPE, SIG_IGN);
    return ERR_OK;
}

static int open_identity(struct node *node, char why[NODE_ERROR_SIZE])
{
    uint8_t seed[STORE_SEED_BYTES];
    struct store_why text = {""};
    struct store_io io = store_io_system();
    bool created = false;
    int result = store_key_load_or_create(&io, node->config.dir, &node->rng, seed, &created, &text);
    if (result < 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "%s", text.text);
        return result;
    }
    net_identity_init(&node->identity, seed);
    sodium_memzero(seed, sizeof seed);
    char id[ID_TEXT_SIZE];
    id_format(&node->identity.id, id);
    node_info(node, TRACE_LEVEL_INFO, "dunlind %s, node %s%s", NODE_VERSION, id, created ? " (new key)" : "");
    return ERR_OK;
}

static void after_methods(void *user)
{
    node_pump(user, node_now_ns());
}

/* Everything in the order it is needed.  A failure leaves what was opened to the process's end: it exits. */
static int open_all(struct node *node, char why[NODE_ERROR_SIZE])
{
    const struct node_config *config = &node->config;
    int result = store_dir_make(config->dir);
    if (result < 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "data directory %s: %s", config->dir, err_text(result));
        return result;
    }
    result = open_loop(node, why);
    if (result == ERR_OK)
        result = open_identity(node, why);
    if (result == ERR_OK)
        result = wire_open(node, why);
    if (result == ERR_OK)
        result = state_open(node, why);
    if (result == ERR_OK)
        result = worker_start(&node->merge_worker, &node->loop, node);
    if (result == ERR_OK)
        result = worker_start(&node->disk_worker, &node->loop, node);
    if (result == ERR_OK)
        result =
            control_open(&node->control, &node->loop, config->dir, node_methods, after_methods, node, why);
    return result;
}

static void announce_self(struct node *node)
{
    uint32_t handle;
    load_contacts(node);
    if (dht_announce_self(node->dht, node_now_ns(), NODE_DHT_TTL_MS, &handle) < 0)
        node_info(node, TRACE_LEVEL_WARN, "own addresses cannot be announced in the DHT");
    for (size_t i = 0; i < NODE_RUNS_MAX; i++) {
        if (node->runs[i].used)
            run_chain_complete(&node->runs[i]);
    }
    node_info(node, TRACE_LEVEL_INFO, "listening on UDP port %u, network %s, %zu seeds",
              (unsigned)net_uv_socket_port(node->socket), node->config.network, node->config.seed_count);
}

int node_run(const struct node_config *config, char why[NODE_ERROR_SIZE])
{
    struct node *node = calloc(1, sizeof *node);
    why[0] = '\0';
    if (node == NULL || sodium_init() < 0) {
        free(node);
        (void)snprintf(why, NODE_ERROR_SIZE, "not enough memory, or no source of randomness");
        return ERR_NO_MEMORY;
    }
    node->config = *config;
    node->limits = (struct node_limits){.up_bytes_s = config->up_bytes_s, .cpu_pct = config->cpu_pct};
    node->rng = rng_system();
    node->alloc = allocator_system();
    node->started_ns = node_now_ns();
    int result = net_network_init(&node->network, config->network);
    if (result < 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "network name '%s': printable ASCII only", config->network);
        goto free_node;
    }
    result = node_log_open(&node->log, config->log_file, config->log_level);
    if (result < 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "log file %s cannot be opened for appending", config->log_file);
        goto free_node;
    }
    node->trace = node_log_sink(&node->log);
    result = open_all(node, why);
    if (result < 0) {
        if (why[0] == '\0')
            (void)snprintf(why, NODE_ERROR_SIZE, "%s", err_text(result));
        node_log_close(&node->log);
        return result; /* the process ends: handles that were opened go with it */
    }
    announce_self(node);
    on_timer(node, node_now_ns());
    (void)uv_run(&node->loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&node->loop);
    net_identity_deinit(&node->identity);
    node_info(node, TRACE_LEVEL_INFO, "stopped");
    node_log_close(&node->log);
    result = ERR_OK;

free_node:
    free(node);
    return result;
}
