#include "tools/dunlin/client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/pack.h"
#include "tools/dunlin/value.h"

static int connect_error(int number)
{
    switch (number) {
    case ENOENT:
    case ECONNREFUSED: /* a socket file that a killed daemon left behind */
    case ENOTDIR:
        return ERR_NOT_FOUND;
    case EACCES:
    case EPERM:
        return ERR_PERMISSION;
    default:
        return ERR_IO;
    }
}

int client_open(struct client *client, const char *dir, unsigned timeout_s)
{
    struct sockaddr_un where = {.sun_family = AF_UNIX};
    int len = snprintf(where.sun_path, sizeof(where.sun_path), "%s/control.sock", dir);
    if (len < 0 || (size_t)len >= sizeof(where.sun_path))
        return ERR_INVALID;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return ERR_IO;
    if (connect(fd, (const struct sockaddr *)&where, sizeof(where)) != 0) {
        int code = connect_error(errno);
        (void)close(fd);
        return code;
    }
    *client = (struct client){.fd = fd, .timeout_s = timeout_s};
    return ERR_OK;
}

void client_close(struct client *client)
{
    (void)close(client->fd);
    client->fd = -1;
}

static uint64_t clock_ms(void)
{
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Waits until the socket can be read or written. */
static int wait_ready(const struct client *client, short events, uint64_t deadline_ms)
{
    for (;;) {
        uint64_t now_ms = clock_ms();
        if (now_ms >= deadline_ms)
            return ERR_TIMEOUT;
        uint64_t left_ms = deadline_ms - now_ms;
        struct pollfd entry = {.fd = client->fd, .events = events};
        int ready = poll(&entry, 1, left_ms > INT32_MAX ? INT32_MAX : (int)left_ms);
        if (ready > 0)
            return ERR_OK;
        if (ready < 0 && errno != EINTR)
            return ERR_IO;
    }
}

static int send_all(struct client *client, const uint8_t *data, size_t len)
{
    uint64_t deadline_ms = clock_ms() + (uint64_t)client->timeout_s * 1000;
    while (len > 0) {
        int code = wait_ready(client, POLLOUT, deadline_ms);
        if (code < 0)
            return code;
        ssize_t sent = send(client->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (sent < 0)
            return errno == EPIPE || errno == ECONNRESET ? ERR_CLOSED : ERR_IO;
        data += sent;
        len -= (size_t)sent;
    }
    return ERR_OK;
}

static int receive_all(struct client *client, uint8_t *data, size_t len, uint64_t deadline_ms)
{
    while (len > 0) {
        int code = wait_ready(client, POLLIN, deadline_ms);
        if (code < 0)
            return code;
        ssize_t got = recv(client->fd, data, len, MSG_DONTWAIT);
        if (got == 0)
            return ERR_CLOSED;
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got < 0)
            return errno == ECONNRESET ? ERR_CLOSED : ERR_IO;
        data += got;
        len -= (size_t)got;
    }
    return ERR_OK;
}

int client_send(struct client *client, const char *method, const json_t *params)
{
    uint8_t *message = malloc(CLIENT_REQUEST_MAX);
    if (message == NULL)
        return ERR_NO_MEMORY;
    struct pack_writer w = pack_writer_of(message + 4, CLIENT_REQUEST_MAX - 4);
    pack_map(&w, 2);
    pack_key_str(&w, 1, method);
    pack_uint(&w, 2);
    if (params != NULL)
        value_encode(&w, params);
    else
        pack_map(&w, 0);
    size_t len = pack_writer_len(&w);
    struct writer head = writer_of(message, 4);
    write_u32(&head, (uint32_t)len);
    int code = len == 0 ? ERR_TOO_LARGE : send_all(client, message, len + 4);
    free(message);
    return code;
}

static int decode_answer(struct bytes in, struct pack_token *tokens, struct client_answer *answer)
{
    struct pack_reader r = pack_parse(in, tokens, CLIENT_TOKENS_MAX);
    uint32_t seen = 0;
    for (size_t left = pack_read_map(&r, 16); left > 0; left--) {
        switch (pack_read_key(&r, &seen)) {
        case 1:
            answer->code = (int)pack_read_int(&r);
            break;
        case 2:
            pack_read_text(&r, answer->text, sizeof(answer->text));
            break;
        case 3:
            answer->result = value_decode(&r);
            break;
        case 4:
            answer->more = pack_read_bool(&r);
            break;
        default:
            pack_skip(&r);
        }
    }
    return pack_done(&r) && (seen & 2) != 0 ? ERR_OK : ERR_MALFORMED;
}

int client_receive(struct client *client, struct client_answer *answer)
{
    *answer = (struct client_answer){.code = 0};
    uint64_t deadline_ms = clock_ms() + (uint64_t)client->timeout_s * 1000;
    uint8_t head[4];
    int code = receive_all(client, head, sizeof(head), deadline_ms);
    if (code < 0)
        return code;
    struct reader r = reader_of(bytes_of(head, sizeof(head)));
    size_t len = read_u32(&r);
    if (len > CLIENT_MESSAGE_MAX)
        return ERR_TOO_LARGE;
    uint8_t *message = malloc(len + 1);
    struct pack_token *tokens = calloc(CLIENT_TOKENS_MAX, sizeof(*tokens));
    code = message == NULL || tokens == NULL ? ERR_NO_MEMORY : receive_all(client, message, len, deadline_ms);
    if (code == ERR_OK)
        code = decode_answer(bytes_of(message, len), tokens, answer);
    free(tokens);
    free(message);
    if (code == ERR_OK && answer->result == NULL)
        answer->result = json_object();
    if (code < 0) {
        json_decref(answer->result);
        answer->result = NULL;
    }
    return code;
}
