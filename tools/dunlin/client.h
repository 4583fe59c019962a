/* The control socket from the asking side: one request, one answer or several.  docs/protocol/control.md has
 * the layout. */
#ifndef DUNLIN_TOOLS_CLIENT_H
#define DUNLIN_TOOLS_CLIENT_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"

enum {
    CLIENT_MESSAGE_MAX = 4 << 20, /* bytes of one message; the daemon has the same limit */
    CLIENT_REQUEST_MAX = 64 << 10,
    CLIENT_TOKENS_MAX = 65536,
};

struct client {
    int fd;
    unsigned timeout_s; /* longest wait for one answer */
};

struct client_answer {
    int code;        /* 0, or the daemon's error code */
    char text[1024]; /* its error text; empty when code is 0 */
    json_t *result;  /* owned: json_decref; an empty object when there was none */
    bool more;       /* another answer follows */
};

/* Connects to dir/control.sock.  ERR_NOT_FOUND: no daemon runs there.  ERR_PERMISSION: it belongs to someone
 * else. ERR_INVALID: the path is too long for a socket.  ERR_IO: anything else.  *client is usable only on
 * success. */
MUST_USE int client_open(struct client *client, const char *dir, unsigned timeout_s);
void client_close(struct client *client);
/* Sends one request; params may be NULL.  ERR_TOO_LARGE, ERR_TIMEOUT, ERR_CLOSED, ERR_IO: give up. */
MUST_USE int client_send(struct client *client, const char *method, const json_t *params);
/* Waits for the next answer; *answer owns its result on success.  ERR_TIMEOUT: none came in time. ERR_CLOSED:
 * the daemon hung up.  ERR_MALFORMED, ERR_TOO_LARGE: not an answer of this protocol.  ERR_NO_MEMORY.  ERR_IO.
 */
MUST_USE int client_receive(struct client *client, struct client_answer *answer);

#endif
