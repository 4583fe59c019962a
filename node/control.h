/* The control socket: a Unix stream socket in the data directory over which dunlin(1) talks to the daemon.
 *
 * Frames are a big-endian 32-bit length and a msgpack map; docs/protocol/control.md lists every method.  A
 * call may be answered at once or later, and in several parts; a client that goes away cancels its calls.
 * Loop thread only. Access is by file permission: the socket has mode 0600 in a directory of mode 0700. */
#ifndef DUNLIN_NODE_CONTROL_H
#define DUNLIN_NODE_CONTROL_H

#include <uv.h>

#include "base/pack.h"
#include "node/config.h"
#include "node/reply.h"

enum {
    CONTROL_CLIENTS_MAX = 32,
    CONTROL_CALLS_MAX = 64, /* calls waiting for an answer, over all clients */
    CONTROL_REQUEST_MAX = 64 << 10,
    CONTROL_REPLY_MAX = 4 << 20,
    CONTROL_UNREAD_MAX = 8 << 20, /* a client that asks and does not read is dropped beyond this */
    CONTROL_TOKENS_MAX = 512,
    CONTROL_METHOD_SIZE = 40,
};

struct control;

/* One call, alive from its handler's start until control_finish or control_fail; the handle may be kept. */
struct control_call {
    struct control *control;
    uint64_t client; /* serial of the client, 0 when the slot is free */
    uint32_t serial; /* tells a reused slot from the call somebody remembers */
    bool streaming;
    char method[CONTROL_METHOD_SIZE];
};

/* A reference to a call that stays safe after the call or its client is gone. */
struct control_ref {
    uint32_t slot;
    uint32_t serial;
};

typedef void (*control_handler)(void *user, struct control_call *call, const struct pack_reader *params);

/* A request with a parameter that is not in params, or of another type, is refused before handle is called.
 */
struct control_method {
    const char *name;
    const char
        *params; /* "name:type " for each it takes, type s (text), u (unsigned), f (number) or b (bool) */
    control_handler handle;
};

/* Listens on DIR/control.sock.  methods ends with a NULL name and is borrowed until control_close.  after
 * (may be NULL) is called when handlers have run, to let their effects out.  A left-over socket of a dead
 * daemon is replaced.  ERR_IN_USE: a live daemon answers there; why says so. ERR_IO: why. */
MUST_USE int control_open(struct control **out, uv_loop_t *loop, const char *dir,
                          const struct control_method *methods, void (*after)(void *user), void *user,
                          char why[NODE_ERROR_SIZE]);
/* Closes the socket and all clients; memory is given back once the loop has run the close callbacks. */
void control_close(struct control *control);

/* Starts an answer: fill the returned builder (its top is an open map; do not close it), then control_finish.
 */
struct reply *control_answer(struct control_call *call);
/* Sends the answer begun.  more: further answers to this call follow. */
void control_finish(struct control_call *call, bool more);
/* Answers with an error code and a text: what, where, what to do. */
void control_fail(struct control_call *call, int code, const char *format, ...) PRINTF_LIKE(3, 4);

/* Reference to a call, to keep while something else is awaited. */
struct control_ref control_ref_of(const struct control_call *call);
/* The call, or NULL when it was answered or its client went away. */
struct control_call *control_resolve(struct control *control, struct control_ref ref);

/* Parameter lookup in the request's params map: each returns false when the key is absent or of another type.
 * control_text copies with a terminator; it is false as well for a text that does not fit, which control_has
 * tells from one that is not there. */
bool control_text(const struct pack_reader *params, const char *key, char *out, size_t cap);
bool control_has(const struct pack_reader *params, const char *key);
bool control_uint(const struct pack_reader *params, const char *key, uint64_t *out);
bool control_float(const struct pack_reader *params, const char *key, double *out);
bool control_bool(const struct pack_reader *params, const char *key, bool *out);

#endif
