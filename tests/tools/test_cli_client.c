/* The client asks and reads answers in whatever pieces they come, and says what went wrong when the other
 * side is missing, silent, hangs up or talks nonsense.  The other side here is a thread that sends prepared
 * bytes. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/pack.h"
#include "tools/dunlin/client.h"

struct daemon {
    char dir[64];
    int listener;
    pthread_t thread;
    uint8_t out[1024]; /* what it sends once a request came */
    size_t out_len;
    bool silent; /* keep the connection open and send nothing */
    uint8_t request[256];
    size_t request_len;
};

/* Answers one client, a byte at a time so that every split is met. */
static void *serve(void *user)
{
    struct daemon *daemon = user;
    int fd = accept(daemon->listener, NULL, NULL);
    ssize_t got = read(fd, daemon->request, sizeof(daemon->request));
    daemon->request_len = got > 0 ? (size_t)got : 0;
    for (size_t i = 0; i < daemon->out_len; i++) {
        if (send(fd, daemon->out + i, 1, MSG_NOSIGNAL) != 1)
            break;
    }
    uint8_t rest;
    while (daemon->silent && read(fd, &rest, 1) > 0)
        ;
    (void)close(fd);
    return NULL;
}

static void start(struct daemon *daemon)
{
    (void)snprintf(daemon->dir, sizeof(daemon->dir), "/tmp/dunlin-cli-XXXXXX");
    cr_assert_not_null(mkdtemp(daemon->dir));
    struct sockaddr_un where = {.sun_family = AF_UNIX};
    (void)snprintf(where.sun_path, sizeof(where.sun_path), "%s/control.sock", daemon->dir);
    daemon->listener = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(bind(daemon->listener, (struct sockaddr *)&where, sizeof(where)), 0);
    cr_assert_eq(listen(daemon->listener, 1), 0);
    cr_assert_eq(pthread_create(&daemon->thread, NULL, serve, daemon), 0);
}

static void finish(struct daemon *daemon)
{
    char path[96];
    (void)pthread_join(daemon->thread, NULL);
    (void)close(daemon->listener);
    (void)snprintf(path, sizeof(path), "%s/control.sock", daemon->dir);
    (void)unlink(path);
    (void)rmdir(daemon->dir);
}

/* Appends one framed answer to what the daemon will send. */
static void prepare(struct daemon *daemon, int code, const char *text, const char *field, bool more)
{
    uint8_t body[256];
    struct pack_writer w = pack_writer_of(body, sizeof(body));
    pack_map(&w, 4);
    pack_uint(&w, 1);
    pack_int(&w, code);
    pack_key_str(&w, 2, text);
    pack_uint(&w, 3);
    pack_map(&w, 1);
    pack_str(&w, field);
    pack_uint(&w, 9);
    pack_key_bool(&w, 4, more);
    struct writer out = writer_of(daemon->out + daemon->out_len, sizeof(daemon->out) - daemon->out_len);
    write_u32(&out, (uint32_t)pack_writer_len(&w));
    write_bytes(&out, body, pack_writer_len(&w));
    daemon->out_len += writer_len(&out);
}

Test(cli_client, several_answers)
{
    static struct daemon daemon; /* each test runs in its own process */
    prepare(&daemon, 0, "", "first", true);
    prepare(&daemon, ERR_NOT_FOUND, "no such run", "second", false);
    start(&daemon);
    struct client client;
    struct client_answer answer;
    cr_assert_eq(client_open(&client, daemon.dir, 10), ERR_OK);
    json_t *params = json_pack("{s:s}", "run", "abcd");
    cr_assert_eq(client_send(&client, "run.show", params), ERR_OK);
    json_decref(params);
    cr_assert_eq(client_receive(&client, &answer), ERR_OK);
    cr_assert_eq(answer.code, 0);
    cr_assert(answer.more);
    cr_assert_eq(json_integer_value(json_object_get(answer.result, "first")), 9);
    json_decref(answer.result);
    cr_assert_eq(client_receive(&client, &answer), ERR_OK);
    cr_assert_eq(answer.code, ERR_NOT_FOUND);
    cr_assert_str_eq(answer.text, "no such run");
    cr_assert_not(answer.more);
    json_decref(answer.result);
    cr_assert_eq(client_receive(&client, &answer), ERR_CLOSED);
    client_close(&client);
    finish(&daemon);
    /* {1: "run.show", 2: {"run": "abcd"}} behind its length. */
    static const uint8_t wanted[] = "\0\0\0\x16\x82\x01\xa8run.show\x02\x81\xa3run\xa4"
                                    "abcd";
    cr_assert_eq(daemon.request_len, sizeof(wanted) - 1);
    cr_assert_arr_eq(daemon.request, wanted, sizeof(wanted) - 1);
}

static int receive_from(struct daemon *daemon)
{
    struct client client;
    struct client_answer answer;
    start(daemon);
    cr_assert_eq(client_open(&client, daemon->dir, 1), ERR_OK);
    cr_assert_eq(client_send(&client, "status", NULL), ERR_OK);
    int code = client_receive(&client, &answer);
    cr_assert_null(answer.result);
    client_close(&client);
    finish(daemon);
    return code;
}

Test(cli_client, nonsense_is_refused)
{
    static struct daemon daemon;
    memcpy(daemon.out, "\0\0\0\x05hello", 9);
    daemon.out_len = 9;
    cr_assert_eq(receive_from(&daemon), ERR_MALFORMED);
}

Test(cli_client, truncated_answer)
{
    static struct daemon daemon;
    prepare(&daemon, 0, "", "field", false);
    daemon.out_len -= 1;
    cr_assert_eq(receive_from(&daemon), ERR_CLOSED);
}

Test(cli_client, oversized_answer)
{
    static struct daemon daemon;
    memcpy(daemon.out, "\0\x40\0\x01", 4); /* one byte over 4 MiB */
    daemon.out_len = 4;
    cr_assert_eq(receive_from(&daemon), ERR_TOO_LARGE);
}

Test(cli_client, silence_ends_at_the_deadline)
{
    static struct daemon daemon;
    daemon.silent = true;
    cr_assert_eq(receive_from(&daemon), ERR_TIMEOUT);
}

Test(cli_client, nobody_there)
{
    struct client client;
    cr_assert_eq(client_open(&client, "/tmp/dunlin-no-such-directory", 1), ERR_NOT_FOUND);
    char deep[200];
    memset(deep, 'x', sizeof(deep) - 1);
    deep[sizeof(deep) - 1] = '\0';
    cr_assert_eq(client_open(&client, deep, 1), ERR_INVALID);
}
