/* The control socket as a client sees it: every whole request is answered, whatever the pieces it comes in;
 * what is malformed or too much ends that client alone.  Server and client share one thread: the client's
 * calls never block, and the loop is turned between them until something happens or ten seconds have passed.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "node/control.h"

enum { WAIT_S = 10, MANY = CONTROL_CLIENTS_MAX + 4 };

struct server {
    uv_loop_t loop;
    uv_timer_t wake; /* so that a turn of the loop never waits for long */
    struct control *control;
    char dir[32];
    struct control_ref waiting[CONTROL_CALLS_MAX];
    size_t waiting_count;
    size_t after_count;
};

static struct server server;

static void echo(void *user, struct control_call *call, const struct pack_reader *params)
{
    char value[32] = "none";
    uint64_t number = 0;
    (void)user;
    (void)control_text(params, "text", value, sizeof value);
    (void)control_uint(params, "number", &number);
    struct reply *r = control_answer(call);
    reply_str(r, "text", value);
    reply_uint(r, "number", number);
    control_finish(call, false);
}

static void later(void *user, struct control_call *call, const struct pack_reader *params)
{
    struct server *s = user;
    (void)params;
    cr_assert_lt(s->waiting_count, CONTROL_CALLS_MAX);
    s->waiting[s->waiting_count++] = control_ref_of(call);
}

static void large(void *user, struct control_call *call, const struct pack_reader *params)
{
    static char filler[64 * 1024];
    (void)user;
    (void)params;
    memset(filler, 'x', sizeof filler - 1);
    struct reply *r = control_answer(call);
    reply_str(r, "text", filler);
    control_finish(call, false);
}

static const struct control_method methods[] = {{"echo", "text:s number:u share:f ", echo},
                                                {"later", "", later},
                                                {"large", "", large},
                                                {NULL, NULL, NULL}};

static void after(void *user)
{
    ((struct server *)user)->after_count++;
}

static void on_wake(uv_timer_t *timer)
{
    (void)timer;
}

static void setup(void)
{
    char why[NODE_ERROR_SIZE];
    (void)snprintf(server.dir, sizeof server.dir, "/tmp/dunlin-control-XXXXXX");
    cr_assert(mkdtemp(server.dir) != NULL);
    cr_assert_eq(uv_loop_init(&server.loop), 0);
    cr_assert_eq(uv_timer_init(&server.loop, &server.wake), 0);
    cr_assert_eq(uv_timer_start(&server.wake, on_wake, 1, 1), 0);
    cr_assert_eq(control_open(&server.control, &server.loop, server.dir, methods, after, &server, why),
                 ERR_OK, "%s", why);
}

static void teardown(void)
{
    control_close(server.control);
    uv_close((uv_handle_t *)&server.wake, NULL);
    (void)uv_run(&server.loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&server.loop), 0); /* nothing was left open */
    cr_assert_eq(rmdir(server.dir), 0);           /* the socket is gone */
}

TestSuite(control, .init = setup, .fini = teardown);

static void turn(void)
{
    (void)uv_run(&server.loop, UV_RUN_ONCE);
}

static int dial(void)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    (void)snprintf(addr.sun_path, sizeof addr.sun_path, "%s/control.sock", server.dir);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&addr, sizeof addr), 0);
    cr_assert_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    return fd;
}

/* A frame with the request {1: method} or {1: method, 2: {key: value}}. */
static size_t request(uint8_t out[], size_t cap, const char *method, const char *key, const char *value)
{
    struct pack_writer w = pack_writer_of(out + 4, cap - 4);
    pack_map(&w, key == NULL ? 1 : 2);
    pack_key_str(&w, 1, method);
    if (key != NULL) {
        pack_uint(&w, 2);
        pack_map(&w, 1);
        pack_str(&w, key);
        pack_str(&w, value);
    }
    struct writer head = writer_of(out, 4);
    write_u32(&head, (uint32_t)pack_writer_len(&w));
    return 4 + pack_writer_len(&w);
}

static void send_all(int fd, const uint8_t *data, size_t len)
{
    while (len > 0) {
        ssize_t sent = send(fd, data, len, MSG_NOSIGNAL);
        if (sent < 0 && (errno == EPIPE || errno == ECONNRESET))
            return; /* the server has had enough */
        cr_assert(sent >= 0 || errno == EAGAIN);
        data += sent > 0 ? sent : 0;
        len -= sent > 0 ? (size_t)sent : 0;
        turn();
    }
}

/* Reads len bytes; false when the server closed the connection instead. */
static bool receive(int fd, uint8_t *out, size_t len)
{
    uint64_t end_ns = uv_hrtime() + WAIT_S * UINT64_C(1000000000);
    while (len > 0) {
        ssize_t got = recv(fd, out, len, 0);
        if (got == 0 || (got < 0 && errno == ECONNRESET))
            return false;
        cr_assert(got > 0 || errno == EAGAIN);
        out += got > 0 ? got : 0;
        len -= got > 0 ? (size_t)got : 0;
        cr_assert_lt(uv_hrtime(), end_ns, "no answer");
        turn();
    }
    return true;
}

/* Next answer's code; its text or its result's "text" in text. */
static int answer(int fd, char text[NODE_ERROR_SIZE])
{
    static uint8_t frame[1024];
    struct pack_token tokens[64];
    uint32_t seen = 0;
    int code = 1;
    cr_assert(receive(fd, frame, 4));
    struct reader head = reader_of(bytes_of(frame, 4));
    uint32_t len = read_u32(&head);
    cr_assert_leq(len, sizeof frame);
    cr_assert(receive(fd, frame, len));
    struct pack_reader r = pack_parse(bytes_of(frame, len), tokens, 64);
    for (size_t left = pack_read_map(&r, 8); left > 0; left--) {
        unsigned key = pack_read_key(&r, &seen);
        if (key == 1)
            code = (int)pack_read_int(&r);
        else if (key == 2)
            pack_read_text(&r, text, NODE_ERROR_SIZE);
        else if (key == 3 && pack_read_map(&r, 2) == 2) {
            pack_skip(&r);
            pack_read_text(&r, text, NODE_ERROR_SIZE);
            pack_skip(&r);
            pack_skip(&r);
        }
    }
    cr_assert(pack_done(&r));
    return code;
}

static void expect(int fd, int code, const char *part)
{
    char text[NODE_ERROR_SIZE] = "";
    cr_assert_eq(answer(fd, text), code, "%s", text);
    cr_assert(strstr(text, part) != NULL, "'%s' lacks '%s'", text, part);
}

static void call(int fd, const char *method, const char *key, const char *value)
{
    uint8_t frame[512];
    send_all(fd, frame, request(frame, sizeof frame, method, key, value));
}

static void expect_closed(int fd)
{
    uint8_t byte;
    cr_assert(!receive(fd, &byte, 1));
    cr_assert_eq(close(fd), 0);
}

Test(control, only_the_owner_may_open_it)
{
    struct stat info;
    char path[64];
    (void)snprintf(path, sizeof path, "%s/control.sock", server.dir);
    cr_assert_eq(stat(path, &info), 0);
    cr_assert_eq(info.st_mode & 0777, 0600);
}

Test(control, requests_in_any_pieces_are_answered_in_order)
{
    uint8_t frames[256];
    int fd = dial();
    size_t len = request(frames, sizeof frames, "echo", "text", "first");
    len += request(frames + len, sizeof frames - len, "echo", "text", "second");
    send_all(fd, frames, len); /* both at once */
    expect(fd, ERR_OK, "first");
    expect(fd, ERR_OK, "second");
    for (size_t i = 0; i < len; i++)
        send_all(fd, frames + i, 1);
    expect(fd, ERR_OK, "first");
    expect(fd, ERR_OK, "second");
    call(fd, "echo", NULL, NULL); /* parameters may be missing */
    expect(fd, ERR_OK, "none");
    cr_assert_geq(server.after_count, 2);
    cr_assert_eq(close(fd), 0);
}

Test(control, what_a_method_does_not_take_is_refused_by_name)
{
    int fd = dial();
    call(fd, "nonsense", NULL, NULL);
    expect(fd, ERR_UNSUPPORTED, "unknown method 'nonsense'");
    /* Names that are parts of known ones, or of the list of them, are no names. */
    static const char *const names[] = {"colour", "t", "ext", "text:s", "text:s number", "", " ", "s"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        call(fd, "echo", names[i], "x");
        expect(fd, ERR_INVALID, "unknown parameter");
    }
    call(fd, "echo", "a name that is longer than any method or parameter can ever be", "x");
    expect(fd, ERR_INVALID, "unknown parameter");
    call(fd, "echo", "number", "7");
    expect(fd, ERR_INVALID, "'number' must be a whole number");
    call(fd, "echo", "share", "7");
    expect(fd, ERR_INVALID, "'share' must be a number");
    call(fd, "echo", "text", "still here");
    expect(fd, ERR_OK, "still here");
    cr_assert_eq(close(fd), 0);
}

Test(control, malformed_requests_are_answered)
{
    /* nothing; not msgpack; no map; a map without a method; a method that is no text; parameters that are no
     * map; bytes too many */
    static const char *const bodies[] = {"",
                                         "\xc1",
                                         "\x07",
                                         "\x80",
                                         "\x81\x01\x07",
                                         "\x82\x01\xa4"
                                         "echo\x02\x07",
                                         "\x81\x01\xa4"
                                         "echo\x00"};
    static const size_t lengths[] = {0, 1, 1, 1, 3, 9, 8};
    int fd = dial();
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        uint8_t frame[16] = {0, 0, 0, (uint8_t)lengths[i]};
        memcpy(frame + 4, bodies[i], lengths[i]);
        send_all(fd, frame, 4 + lengths[i]);
        expect(fd, ERR_MALFORMED, "not a map");
    }
    cr_assert_eq(close(fd), 0);
}

Test(control, an_oversized_length_ends_that_client_alone)
{
    static const uint8_t head[4] = {0, 1, 0, 1}; /* 65,537 */
    int other = dial();
    int fd = dial();
    send_all(fd, head, sizeof head);
    expect_closed(fd);
    call(other, "echo", "text", "fine");
    expect(other, ERR_OK, "fine");
    cr_assert_eq(close(other), 0);
}

Test(control, more_waiting_calls_than_fit_end_their_client)
{
    int fd = dial();
    for (int i = 0; i < CONTROL_CALLS_MAX; i++)
        call(fd, "later", NULL, NULL);
    while (server.waiting_count < CONTROL_CALLS_MAX)
        turn();
    int other = dial();
    call(other, "echo", NULL, NULL);
    expect_closed(other);
    for (size_t i = 0; i < CONTROL_CALLS_MAX; i++) {
        struct control_call *waiting = control_resolve(server.control, server.waiting[i]);
        cr_assert(waiting != NULL);
        control_fail(waiting, ERR_TIMEOUT, "number %zu", i);
        cr_assert(control_resolve(server.control, server.waiting[i]) == NULL);
        expect(fd, ERR_TIMEOUT, "number");
    }
    cr_assert_eq(close(fd), 0);
}

Test(control, a_client_that_goes_away_cancels_its_calls)
{
    int fd = dial();
    call(fd, "later", NULL, NULL);
    while (server.waiting_count == 0)
        turn();
    cr_assert(control_resolve(server.control, server.waiting[0]) != NULL);
    cr_assert_eq(close(fd), 0);
    uint64_t end_ns = uv_hrtime() + WAIT_S * UINT64_C(1000000000);
    while (control_resolve(server.control, server.waiting[0]) != NULL) {
        cr_assert_lt(uv_hrtime(), end_ns);
        turn();
    }
    int other = dial(); /* takes the slot; the old reference must not reach it */
    call(other, "later", NULL, NULL);
    while (server.waiting_count == 1)
        turn();
    cr_assert(control_resolve(server.control, server.waiting[0]) == NULL);
    cr_assert(control_resolve(server.control, server.waiting[1]) != NULL);
    cr_assert_eq(close(other), 0);
}

Test(control, clients_beyond_the_cap_wait_for_a_place)
{
    int fds[MANY];
    for (int i = 0; i < MANY; i++) {
        fds[i] = dial();
        call(fds[i], "echo", "text", "hello");
    }
    for (int i = 0; i < MANY; i++) { /* each that leaves lets the next one in */
        expect(fds[i], ERR_OK, "hello");
        cr_assert_eq(close(fds[i]), 0);
    }
}

Test(control, a_client_that_never_reads_is_dropped)
{
    uint8_t frame[64];
    int fd = dial();
    size_t len = request(frame, sizeof frame, "large", NULL, NULL);
    size_t most = 2 * CONTROL_UNREAD_MAX / (64 * 1024);
    size_t asked = 0;
    while (asked < most && send(fd, frame, len, MSG_NOSIGNAL) == (ssize_t)len) {
        asked++;
        turn();
    }
    cr_assert_lt(asked, most, "%zu answers are waiting unread", asked);
    cr_assert_eq(close(fd), 0);
}
