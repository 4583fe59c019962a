#include "node/control.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { LENGTH_BYTES = 4 };

struct client {
    uv_pipe_t pipe;
    struct control *control;
    uint64_t serial; /* 0: free */
    bool closing;
    size_t got;
    uint8_t request[LENGTH_BYTES + CONTROL_REQUEST_MAX];
};

struct control {
    uv_pipe_t listener;
    void *user;
    void (*after)(void *user);
    const struct control_method *methods;
    uint64_t next_client;
    uint32_t next_call;
    bool closing;
    bool pending;   /* a connection waits for a free slot; libuv accepts no other meanwhile */
    size_t handles; /* open uv handles; the last close callback frees everything */
    struct client *clients[CONTROL_CLIENTS_MAX];
    struct control_call calls[CONTROL_CALLS_MAX];
    struct reply reply;
    uint8_t *buffer; /* CONTROL_REPLY_MAX; one answer is built at a time */
    struct pack_token tokens[CONTROL_TOKENS_MAX];
    char path[sizeof((struct sockaddr_un *)0)->sun_path];
};

static void handle_closed(struct control *control)
{
    if (--control->handles > 0 || !control->closing)
        return;
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++)
        free(control->clients[i]);
    free(control->buffer);
    free(control);
}

static void on_listener_closed(uv_handle_t *handle)
{
    handle_closed(handle->data);
}

static void on_connection(uv_stream_t *listener, int status);

static void on_client_closed(uv_handle_t *handle)
{
    struct control *control = handle->data;
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        if (control->clients[i] != NULL && (uv_handle_t *)&control->clients[i]->pipe == handle) {
            free(control->clients[i]);
            control->clients[i] = NULL;
        }
    }
    if (control->pending && !control->closing)
        on_connection((uv_stream_t *)&control->listener, 0);
    handle_closed(control);
}

static void close_client(struct client *client)
{
    if (client->closing)
        return;
    client->closing = true;
    for (size_t i = 0; i < CONTROL_CALLS_MAX; i++) {
        if (client->control->calls[i].client == client->serial)
            client->control->calls[i].client = 0;
    }
    uv_close((uv_handle_t *)&client->pipe, on_client_closed);
}

static struct client *client_of(struct control *control, uint64_t serial)
{
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        struct client *client = control->clients[i];
        if (client != NULL && client->serial == serial && !client->closing)
            return client;
    }
    return NULL;
}

static void on_written(uv_write_t *request, int status)
{
    (void)status; /* a client that went away is noticed by its read */
    free(request);
}

/* Copies the frame behind the write request, so that the answer buffer is free again at once. */
static void send_frame(struct client *client, const uint8_t *data, size_t len)
{
    if (uv_stream_get_write_queue_size((uv_stream_t *)&client->pipe) > CONTROL_UNREAD_MAX) {
        close_client(client);
        return;
    }
    uv_write_t *request = malloc(sizeof *request + LENGTH_BYTES + len);
    if (request == NULL) {
        close_client(client);
        return;
    }
    uint8_t *frame = (uint8_t *)(request + 1);
    struct writer w = writer_of(frame, LENGTH_BYTES + len);
    write_u32(&w, (uint32_t)len);
    write_bytes(&w, data, len);
    uv_buf_t buf = uv_buf_init((char *)frame, (unsigned)(LENGTH_BYTES + len));
    if (uv_write(request, (uv_stream_t *)&client->pipe, &buf, 1, on_written) < 0) {
        free(request);
        close_client(client);
    }
}

struct reply *control_answer(struct control_call *call)
{
    struct control *control = call->control;
    control->reply = reply_of(control->buffer, CONTROL_REPLY_MAX);
    reply_map(&control->reply, NULL);
    return &control->reply;
}

/* Sends {1: code, 2: text or nothing, 3: result, 4: more} around the result already built, if any. */
static void send_answer(struct control_call *call, int code, const char *text, struct bytes result, bool more)
{
    struct client *client = client_of(call->control, call->client);
    size_t cap = result.len + NODE_ERROR_SIZE + 64;
    uint8_t *out = client == NULL ? NULL : malloc(cap);
    if (!more)
        call->client = 0;
    if (out == NULL)
        return;
    struct pack_writer w = pack_writer_of(out, cap);
    pack_map(&w, 2 + (size_t)(result.len > 0) + (size_t)more);
    pack_uint(&w, 1);
    pack_int(&w, code);
    pack_key_str(&w, 2, text);
    if (more)
        pack_key_bool(&w, 4, true);
    if (result.len > 0) {
        pack_uint(&w, 3);
        ASSERT(w.cap - w.len >= result.len);
        memcpy(w.start + w.len, result.data, result.len);
        w.len += result.len;
    }
    ASSERT(!w.failed);
    send_frame(client, out, pack_writer_len(&w));
    free(out);
}

void control_finish(struct control_call *call, bool more)
{
    struct control *control = call->control;
    reply_end(&control->reply);
    size_t len = reply_len(&control->reply);
    if (len == 0) {
        control_fail(call, ERR_TOO_LARGE, "%s: the answer does not fit %d bytes", call->method,
                     CONTROL_REPLY_MAX);
        return;
    }
    send_answer(call, ERR_OK, "", bytes_of(control->buffer, len), more);
}

void control_fail(struct control_call *call, int code, const char *format, ...)
{
    char text[NODE_ERROR_SIZE];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof text, format, args);
    va_end(args);
    send_answer(call, code, text, bytes_of(NULL, 0), false);
}

struct control_ref control_ref_of(const struct control_call *call)
{
    return (struct control_ref){.slot = (uint32_t)(call - call->control->calls), .serial = call->serial};
}

struct control_call *control_resolve(struct control *control, struct control_ref ref)
{
    if (ref.slot >= CONTROL_CALLS_MAX)
        return NULL;
    struct control_call *call = &control->calls[ref.slot];
    return call->client != 0 && call->serial == ref.serial ? call : NULL;
}

static struct control_call *new_call(struct client *client)
{
    struct control *control = client->control;
    for (size_t i = 0; i < CONTROL_CALLS_MAX; i++) {
        if (control->calls[i].client != 0)
            continue;
        control->calls[i] = (struct control_call){
            .control = control, .client = client->serial, .serial = ++control->next_call};
        return &control->calls[i];
    }
    return NULL;
}

static bool is_of_type(enum pack_type type, char wanted)
{
    switch (wanted) {
    case 's':
        return type == PACK_STR;
    case 'u':
        return type == PACK_UINT;
    case 'f':
        return type == PACK_UINT || type == PACK_INT || type == PACK_FLOAT;
    default:
        return type == PACK_BOOL;
    }
}

/* The type letter that params gives this name, 0: it is not there. */
static char type_of(const char *params, const char *name)
{
    size_t len = strlen(name);
    for (const char *at = params; *at != '\0'; at += strspn(at, " ")) {
        if (strcspn(at, ":") == len && strncmp(at, name, len) == 0)
            return at[len + 1];
        at += strcspn(at, " ");
    }
    return 0;
}

/* False: the call was answered. */
static bool check_params(struct control_call *call, const struct control_method *method,
                         const struct pack_reader *params)
{
    struct pack_reader r = *params;
    if (r.at == NULL) /* there is none */
        return true;
    for (size_t left = pack_read_map(&r, CONTROL_TOKENS_MAX); left > 0 && !r.failed; left--) {
        char name[CONTROL_METHOD_SIZE] = "";
        pack_read_text(&r, name, sizeof name);
        char wanted = r.failed ? 0 : type_of(method->params, name);
        if (wanted == 0) {
            control_fail(call, ERR_INVALID, "%s: unknown parameter '%s'", method->name, name);
            return false;
        }
        if (!is_of_type(pack_peek(&r), wanted)) {
            control_fail(call, ERR_INVALID, "%s: parameter '%s' must be %s", method->name, name,
                         wanted == 's'   ? "a text"
                         : wanted == 'u' ? "a whole number, 0 or more"
                         : wanted == 'f' ? "a number"
                                         : "true or false");
            return false;
        }
        pack_skip(&r);
    }
    if (r.failed)
        control_fail(call, ERR_MALFORMED, "%s: the parameters are not a map", method->name);
    return !r.failed;
}

static void dispatch(struct client *client, struct bytes request)
{
    struct control *control = client->control;
    struct control_call *call = new_call(client);
    if (call == NULL) {
        close_client(client); /* 64 calls wait already: the client may come back */
        return;
    }
    struct pack_reader params = {NULL, NULL, true};
    uint32_t seen = 0;
    struct pack_reader r = pack_parse(request, control->tokens, CONTROL_TOKENS_MAX);
    for (size_t left = pack_read_map(&r, 8); left > 0; left--) {
        unsigned key = pack_read_key(&r, &seen);
        if (key == 1) {
            pack_read_text(&r, call->method, sizeof call->method);
            continue;
        }
        const struct pack_token *start = r.at;
        pack_skip(&r);
        if (key == 2)
            params = (struct pack_reader){.at = start, .end = r.at, .failed = r.failed};
    }
    if (!pack_done(&r) || (seen & 2) == 0) {
        control_fail(call, ERR_MALFORMED, "request is not a map {1: method, 2: params}");
        return;
    }
    for (const struct control_method *method = control->methods; method->name != NULL; method++) {
        if (strcmp(method->name, call->method) != 0)
            continue;
        if (check_params(call, method, &params))
            method->handle(control->user, call, &params);
        return;
    }
    control_fail(call, ERR_UNSUPPORTED, "unknown method '%s': dunlin and dunlind are of different versions?",
                 call->method);
}

/* Takes whole frames off the client's buffer. */
static void take_frames(struct client *client)
{
    while (!client->closing && client->got >= LENGTH_BYTES) {
        struct reader r = reader_of(bytes_of(client->request, LENGTH_BYTES));
        uint32_t len = read_u32(&r);
        if (len > CONTROL_REQUEST_MAX) {
            close_client(client);
            return;
        }
        size_t whole = LENGTH_BYTES + (size_t)len;
        if (client->got < whole)
            return;
        dispatch(client, bytes_of(client->request + LENGTH_BYTES, len));
        memmove(client->request, client->request + whole, client->got - whole);
        client->got -= whole;
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct client *client = (struct client *)(void *)handle; /* pipe is the first member */
    (void)suggested;
    *buf =
        uv_buf_init((char *)client->request + client->got, (unsigned)(sizeof client->request - client->got));
}

static void on_read(uv_stream_t *stream, ssize_t got, const uv_buf_t *buf)
{
    struct client *client = (struct client *)(void *)stream;
    (void)buf;
    if (got < 0) {
        close_client(client);
        return;
    }
    client->got += (size_t)got;
    struct control *control = client->control;
    take_frames(client);
    if (control->after != NULL)
        control->after(control->user);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct control *control = listener->data;
    size_t slot = 0;
    while (slot < CONTROL_CLIENTS_MAX && control->clients[slot] != NULL)
        slot++;
    struct client *client = status < 0 || slot == CONTROL_CLIENTS_MAX ? NULL : calloc(1, sizeof *client);
    control->pending = client == NULL;
    if (client == NULL)
        return; /* taken up when a client leaves */
    control->clients[slot] = client;
    client->control = control;
    client->serial = ++control->next_client;
    if (uv_pipe_init(listener->loop, &client->pipe, 0) < 0) {
        control->clients[slot] = NULL;
        free(client);
        return;
    }
    client->pipe.data = control;
    control->handles++;
    if (uv_accept(listener, (uv_stream_t *)&client->pipe) < 0 ||
        uv_read_start((uv_stream_t *)&client->pipe, on_alloc, on_read) < 0)
        close_client(client);
}

/* True when somebody answers at this path. */
static bool is_alive(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    (void)snprintf(addr.sun_path, sizeof addr.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    bool alive = connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0;
    (void)close(fd);
    return alive;
}

static int prepare_path(struct control *control, const char *dir, char why[NODE_ERROR_SIZE])
{
    int len = snprintf(control->path, sizeof control->path, "%s/control.sock", dir);
    if (len < 0 || (size_t)len >= sizeof control->path) {
        (void)snprintf(why, NODE_ERROR_SIZE,
                       "%.200s/control.sock: path is longer than %zu characters; choose a "
                       "shorter --dir",
                       dir, sizeof control->path - 1);
        return ERR_INVALID;
    }
    if (is_alive(control->path)) {
        (void)snprintf(why, NODE_ERROR_SIZE,
                       "%s: another dunlind answers here; stop it or choose another --dir", control->path);
        return ERR_IN_USE;
    }
    (void)unlink(control->path);
    return ERR_OK;
}

int control_open(struct control **out, uv_loop_t *loop, const char *dir, const struct control_method *methods,
                 void (*after)(void *user), void *user, char why[NODE_ERROR_SIZE])
{
    struct control *control = calloc(1, sizeof *control);
    uint8_t *buffer = malloc(CONTROL_REPLY_MAX);
    int result = ERR_NO_MEMORY;
    (void)snprintf(why, NODE_ERROR_SIZE, "not enough memory for the control socket");
    if (control == NULL || buffer == NULL)
        goto free_all;
    control->buffer = buffer;
    control->methods = methods;
    control->after = after;
    control->user = user;
    result = prepare_path(control, dir, why);
    if (result < 0)
        goto free_all;
    result = ERR_IO;
    (void)snprintf(why, NODE_ERROR_SIZE, "%s: cannot listen", control->path);
    if (uv_pipe_init(loop, &control->listener, 0) < 0)
        goto free_all;
    control->listener.data = control;
    control->handles = 1;
    int status = uv_pipe_bind(&control->listener, control->path);
    if (status == 0 && chmod(control->path, 0600) == 0)
        status = uv_listen((uv_stream_t *)&control->listener, CONTROL_CLIENTS_MAX, on_connection);
    if (status < 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "%s: %s", control->path, uv_strerror(status));
        control_close(control);
        return ERR_IO;
    }
    *out = control;
    return ERR_OK;

free_all:
    free(buffer);
    free(control);
    return result;
}

void control_close(struct control *control)
{
    if (control->closing)
        return;
    control->closing = true;
    for (size_t i = 0; i < CONTROL_CLIENTS_MAX; i++) {
        if (control->clients[i] != NULL)
            close_client(control->clients[i]);
    }
    uv_close((uv_handle_t *)&control->listener, on_listener_closed);
    (void)unlink(control->path);
}

/* Positions a reader at the value of key in the params map. */
static bool find(const struct pack_reader *params, const char *key, struct pack_reader *value)
{
    struct pack_reader r = *params;
    for (size_t left = pack_read_map(&r, CONTROL_TOKENS_MAX); left > 0 && !r.failed; left--) {
        struct bytes name = pack_read_str(&r, CONTROL_REQUEST_MAX);
        if (!r.failed && bytes_equal(name, bytes_of_text(key))) {
            *value = r;
            return true;
        }
        pack_skip(&r);
    }
    return false;
}

bool control_has(const struct pack_reader *params, const char *key)
{
    struct pack_reader value;
    return find(params, key, &value);
}

bool control_text(const struct pack_reader *params, const char *key, char *out, size_t cap)
{
    struct pack_reader value;
    if (!find(params, key, &value) || pack_peek(&value) != PACK_STR)
        return false;
    pack_read_text(&value, out, cap);
    return !value.failed;
}

bool control_uint(const struct pack_reader *params, const char *key, uint64_t *out)
{
    struct pack_reader value;
    if (!find(params, key, &value) || pack_peek(&value) != PACK_UINT)
        return false;
    *out = pack_read_uint(&value, UINT64_MAX);
    return !value.failed;
}

bool control_float(const struct pack_reader *params, const char *key, double *out)
{
    struct pack_reader value;
    if (!find(params, key, &value))
        return false;
    double number = pack_read_float(&value);
    if (value.failed)
        return false;
    *out = number;
    return true;
}

bool control_bool(const struct pack_reader *params, const char *key, bool *out)
{
    struct pack_reader value;
    if (!find(params, key, &value) || pack_peek(&value) != PACK_BOOL)
        return false;
    *out = pack_read_bool(&value);
    return !value.failed;
}
