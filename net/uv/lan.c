#include "net/uv/lan.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH_SIZE = 512 };

/* An address that the helper told of; the index is its ITEM. */
struct item {
    bool used;
    struct id id;
    struct net_addr addr;
};

struct net_uv_lan {
    struct net_uv_lan_config config;
    uv_loop_t *loop;
    char helper[PATH_SIZE];
    uv_process_t process;
    uv_pipe_t in, out;   /* the helper's */
    uv_timer_t restart;  /* also: kills a helper that does not end */
    uv_timer_t pause;    /* refills the allowance of lines */
    size_t open_handles; /* of a run that is being taken down, or of the end */
    bool running;        /* process, in and out are handles of libuv */
    bool exited;
    bool closing;
    unsigned lines_left; /* this second */
    char buffer[4096];   /* what was read and not yet parsed */
    size_t buffered;
    char reason[NET_UV_LAN_REASON_SIZE]; /* why it is not announced */
    struct item items[NET_UV_LAN_ITEMS_MAX];
    struct net_uv_lan_peer peers[NET_UV_LAN_PEERS_MAX];
    size_t peer_count;
};

/* ---- peers from items ---- */

static void tell_state(struct net_uv_lan *lan, bool running)
{
    if (!lan->closing && lan->config.on_state != NULL)
        lan->config.on_state(lan->config.user, running, running ? NULL : lan->reason);
}

static struct net_uv_lan_peer *find_peer(struct net_uv_lan *lan, const struct id *id)
{
    for (size_t i = 0; i < lan->peer_count; i++) {
        if (id_equal(&lan->peers[i].id, id))
            return &lan->peers[i];
    }
    return NULL;
}

/* What the items say of this id: each address once, in order of items. */
static struct net_uv_lan_peer gather(const struct net_uv_lan *lan, const struct id *id)
{
    struct net_uv_lan_peer peer = {.id = *id};
    for (size_t i = 0; i < NET_UV_LAN_ITEMS_MAX && peer.addr_count < NET_UV_LAN_ADDRS_MAX; i++) {
        const struct item *item = &lan->items[i];
        if (!item->used || !id_equal(&item->id, id))
            continue;
        size_t at = 0;
        while (at < peer.addr_count && !net_addr_equal(&peer.addrs[at], &item->addr))
            at++;
        if (at == peer.addr_count)
            peer.addrs[peer.addr_count++] = item->addr;
    }
    return peer;
}

static bool same_addrs(const struct net_uv_lan_peer *a, const struct net_uv_lan_peer *b)
{
    if (a->addr_count != b->addr_count)
        return false;
    for (size_t i = 0; i < a->addr_count; i++) {
        size_t at = 0;
        while (at < b->addr_count && !net_addr_equal(&a->addrs[i], &b->addrs[at]))
            at++;
        if (at == b->addr_count)
            return false;
    }
    return true;
}

static void remove_peer(struct net_uv_lan *lan, struct net_uv_lan_peer *peer)
{
    struct id id = peer->id;
    *peer = lan->peers[--lan->peer_count];
    if (!lan->closing && lan->config.on_gone != NULL)
        lan->config.on_gone(lan->config.user, &id);
}

/* Something about this id has changed: compares and tells. */
static void update_peer(struct net_uv_lan *lan, const struct id *id)
{
    struct net_uv_lan_peer now = gather(lan, id);
    struct net_uv_lan_peer *known = find_peer(lan, id);
    if (now.addr_count == 0) {
        if (known != NULL)
            remove_peer(lan, known);
        return;
    }
    if (known == NULL && lan->peer_count == NET_UV_LAN_PEERS_MAX)
        return;
    if (known != NULL && same_addrs(known, &now))
        return;
    if (known == NULL)
        known = &lan->peers[lan->peer_count++];
    *known = now;
    if (!lan->closing && lan->config.on_found != NULL)
        lan->config.on_found(lan->config.user, &now);
}

static void forget_all(struct net_uv_lan *lan)
{
    memset(lan->items, 0, sizeof lan->items);
    while (lan->peer_count > 0)
        remove_peer(lan, &lan->peers[lan->peer_count - 1]);
}

/* ---- lines of the helper ---- */

/* An address as the helper prints it, and a port. */
static int parse_addr(const char *ip, unsigned port, struct net_addr *out)
{
    char text[NET_ADDR_TEXT_SIZE + 16];
    if (port == 0 || port > UINT16_MAX)
        return ERR_MALFORMED;
    (void)snprintf(text, sizeof text, strchr(ip, ':') != NULL ? "[%s]:%u" : "%s:%u", ip, port);
    int result = net_addr_parse(text, out);
    if (result < 0)
        return result;
    enum net_scope scope = net_addr_scope(out);
    return scope == NET_SCOPE_PRIVATE || scope == NET_SCOPE_GLOBAL ? ERR_OK : ERR_INVALID;
}

static void set_item(struct net_uv_lan *lan, unsigned index, const struct item *now)
{
    struct item before = lan->items[index];
    lan->items[index] = *now;
    if (now->used)
        update_peer(lan, &now->id);
    if (before.used && (!now->used || !id_equal(&before.id, &now->id)))
        update_peer(lan, &before.id);
}

static void set_reason(struct net_uv_lan *lan, const char *text)
{
    (void)snprintf(lan->reason, sizeof lan->reason, "%s", text);
    for (char *at = lan->reason; *at != '\0'; at++) {
        if (*at < ' ' || *at > '~')
            *at = '?';
    }
}

/* ERR_MALFORMED: the helper is not what it was; end it.  An address of no use is no such reason. */
static int on_line(struct net_uv_lan *lan, const char *line)
{
    char id[ID_TEXT_SIZE], ip[48];
    unsigned index, port;
    struct item item = {.used = true};
    if (strcmp(line, "ready") == 0) {
        tell_state(lan, true);
        return ERR_OK;
    }
    if (strncmp(line, "failed ", 7) == 0) {
        set_reason(lan, line + 7);
        tell_state(lan, false);
        return ERR_OK;
    }
    if (sscanf(line, "add %4u %52s %47s %5u", &index, id, ip, &port) == 4 && index < NET_UV_LAN_ITEMS_MAX) {
        bool ok = id_parse(id, &item.id) == ERR_OK && !id_equal(&item.id, &lan->config.self) &&
                  parse_addr(ip, port, &item.addr) == ERR_OK;
        set_item(lan, index, ok ? &item : &(struct item){.used = false});
        return ERR_OK;
    }
    if (sscanf(line, "del %4u", &index) == 1 && index < NET_UV_LAN_ITEMS_MAX) {
        set_item(lan, index, &(struct item){.used = false});
        return ERR_OK;
    }
    return ERR_MALFORMED;
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
    struct net_uv_lan *lan = handle->data;
    (void)suggested;
    *buffer = uv_buf_init(lan->buffer + lan->buffered, (unsigned)(sizeof lan->buffer - lan->buffered));
}

/* Once it has exited, its number may be another process's. */
static void kill_helper(struct net_uv_lan *lan)
{
    if (!lan->exited)
        (void)uv_process_kill(&lan->process, SIGKILL);
}

/* Takes the lines that are there and allowed. */
static void take_lines(struct net_uv_lan *lan)
{
    size_t at = 0;
    while (!lan->closing && lan->lines_left > 0) {
        char *end = memchr(lan->buffer + at, '\n', lan->buffered - at);
        if (end == NULL)
            break;
        *end = '\0';
        lan->lines_left--;
        size_t len = (size_t)(end - (lan->buffer + at));
        if (len > NET_UV_LAN_LINE_MAX || on_line(lan, lan->buffer + at) == ERR_MALFORMED)
            kill_helper(lan);
        at += len + 1;
    }
    memmove(lan->buffer, lan->buffer + at, lan->buffered - at);
    lan->buffered -= at;
    if (lan->buffered == sizeof lan->buffer && memchr(lan->buffer, '\n', lan->buffered) == NULL) {
        lan->buffered = 0; /* a line without end */
        kill_helper(lan);
    }
    if (lan->lines_left == 0 && !lan->exited)
        (void)uv_read_stop((uv_stream_t *)&lan->out); /* the pipe fills, the helper waits */
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buffer)
{
    struct net_uv_lan *lan = stream->data;
    (void)buffer;
    if (got < 0) {
        (void)uv_read_stop(stream);
        return; /* its end follows */
    }
    lan->buffered += (size_t)got;
    take_lines(lan);
}

static void on_second(uv_timer_t *timer)
{
    struct net_uv_lan *lan = timer->data;
    bool paused = lan->lines_left == 0;
    lan->lines_left = NET_UV_LAN_LINES_PER_S;
    if (!paused || !lan->running || lan->exited)
        return;
    take_lines(lan);
    if (lan->lines_left > 0 && !lan->closing)
        (void)uv_read_start((uv_stream_t *)&lan->out, on_alloc, on_read);
}

/* ---- the helper's life ---- */

static void on_restart(uv_timer_t *timer);

static void free_when_closed(uv_handle_t *handle)
{
    struct net_uv_lan *lan = handle->data;
    if (--lan->open_handles == 0)
        free(lan);
}

/* The run's handles are closed: end, or wait for the next run. */
static void on_run_closed(uv_handle_t *handle)
{
    struct net_uv_lan *lan = handle->data;
    if (--lan->open_handles > 0)
        return;
    lan->running = false;
    if (lan->closing) {
        lan->open_handles = 2;
        uv_close((uv_handle_t *)&lan->restart, free_when_closed);
        uv_close((uv_handle_t *)&lan->pause, free_when_closed);
        return;
    }
    (void)uv_timer_start(&lan->restart, on_restart, NET_UV_LAN_RESTART_S * UINT64_C(1000), 0);
}

static void close_run(struct net_uv_lan *lan)
{
    uv_handle_t *handles[3] = {(uv_handle_t *)&lan->process, (uv_handle_t *)&lan->in,
                               (uv_handle_t *)&lan->out};
    lan->open_handles = 3;
    for (size_t i = 0; i < 3; i++) {
        if (uv_is_closing(handles[i]))
            lan->open_handles--; /* in, closed to end it; it lives in lan until long before this */
        else
            uv_close(handles[i], on_run_closed);
    }
}

/* The news of its end may come before its last words. */
static void take_last_words(struct net_uv_lan *lan)
{
    int fd;
    if (uv_fileno((uv_handle_t *)&lan->out, &fd) < 0)
        return;
    ssize_t got = read(fd, lan->buffer + lan->buffered, sizeof lan->buffer - lan->buffered);
    if (got > 0) {
        lan->buffered += (size_t)got;
        take_lines(lan);
    }
}

static void on_exit_of_helper(uv_process_t *process, int64_t status, int signal_number)
{
    struct net_uv_lan *lan = process->data;
    char text[NET_UV_LAN_REASON_SIZE];
    lan->exited = true;
    take_last_words(lan);
    if (signal_number != 0 || lan->reason[0] == '\0') {
        (void)snprintf(text, sizeof text, "dunlin-mdns ended (%s %d)",
                       signal_number != 0 ? "signal" : "status",
                       signal_number != 0 ? signal_number : (int)status);
        set_reason(lan, text);
    }
    forget_all(lan);
    tell_state(lan, false);
    close_run(lan);
}

static int spawn(struct net_uv_lan *lan)
{
    char id[ID_TEXT_SIZE], network[16], port[8], name[] = "dunlin-mdns";
    char *args[] = {name, id, network, port, NULL}, *environment[] = {NULL};
    id_format(&lan->config.self, id);
    (void)snprintf(network, sizeof network, "%08x", lan->config.network);
    (void)snprintf(port, sizeof port, "%u", lan->config.port);
    uv_stdio_container_t stdio[3] = {
        {.flags = UV_CREATE_PIPE | UV_READABLE_PIPE, .data.stream = (uv_stream_t *)&lan->in},
        {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&lan->out},
        {.flags = UV_IGNORE},
    };
    uv_process_options_t options = {
        .exit_cb = on_exit_of_helper,
        .file = lan->helper,
        .args = args,
        .env = environment,
        /* A session of its own: Ctrl-C at the daemon's terminal must not cut off the goodbye. */
        .flags = UV_PROCESS_DETACHED,
        .stdio_count = 3,
        .stdio = stdio,
    };
    return uv_spawn(lan->loop, &lan->process, &options);
}

static void on_restart(uv_timer_t *timer)
{
    struct net_uv_lan *lan = timer->data;
    lan->exited = false;
    lan->buffered = 0;
    lan->reason[0] = '\0';
    (void)uv_pipe_init(lan->loop, &lan->in, 0);
    (void)uv_pipe_init(lan->loop, &lan->out, 0);
    lan->process.data = lan->in.data = lan->out.data = lan;
    lan->running = true;
    int result = spawn(lan);
    lan->process.data = lan; /* uv_spawn sets up the handle anew */
    if (result < 0) {
        char text[NET_UV_LAN_REASON_SIZE];
        (void)snprintf(text, sizeof text, "cannot start %s: %s", lan->helper, uv_strerror(result));
        set_reason(lan, text);
        lan->exited = true;
        tell_state(lan, false);
        close_run(lan);
        return;
    }
    (void)uv_read_start((uv_stream_t *)&lan->out, on_alloc, on_read);
}

/* ---- life ---- */

int net_uv_lan_open(struct net_uv_lan **out, uv_loop_t *loop, const struct net_uv_lan_config *config)
{
    if (id_is_zero(&config->self) || config->port == 0 || config->helper == NULL ||
        strlen(config->helper) >= PATH_SIZE)
        return ERR_INVALID;
    struct net_uv_lan *lan = calloc(1, sizeof *lan);
    if (lan == NULL)
        return ERR_NO_MEMORY;
    lan->config = *config;
    lan->loop = loop;
    lan->lines_left = NET_UV_LAN_LINES_PER_S;
    (void)snprintf(lan->helper, sizeof lan->helper, "%s", config->helper);
    lan->config.helper = lan->helper;
    /* Neither can fail (libuv's manual); the first start happens on the loop's next turn. */
    (void)uv_timer_init(loop, &lan->restart);
    (void)uv_timer_init(loop, &lan->pause);
    lan->restart.data = lan->pause.data = lan;
    (void)uv_timer_start(&lan->restart, on_restart, 0, 0);
    (void)uv_timer_start(&lan->pause, on_second, 1000, 1000);
    *out = lan;
    return ERR_OK;
}

size_t net_uv_lan_peers(const struct net_uv_lan *lan, struct net_uv_lan_peer out[], size_t cap)
{
    size_t count = lan->peer_count < cap ? lan->peer_count : cap;
    if (count > 0)
        memcpy(out, lan->peers, count * sizeof out[0]);
    return count;
}

static void on_overdue(uv_timer_t *timer)
{
    kill_helper(timer->data);
}

static void on_in_closed(uv_handle_t *handle)
{
    (void)handle;
}

void net_uv_lan_close(struct net_uv_lan *lan)
{
    if (lan == NULL || lan->closing)
        return;
    lan->closing = true;
    (void)uv_timer_stop(&lan->restart);
    if (!lan->running) {
        lan->open_handles = 2;
        uv_close((uv_handle_t *)&lan->restart, free_when_closed);
        uv_close((uv_handle_t *)&lan->pause, free_when_closed);
    } else if (!lan->exited) {
        /* The end of its input is its sign to go. */
        uv_close((uv_handle_t *)&lan->in, on_in_closed);
        (void)uv_timer_start(&lan->restart, on_overdue, NET_UV_LAN_END_MS, 0);
    } /* else its handles are being closed */
}
