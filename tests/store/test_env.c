#include "fixture.h"

#include <pthread.h>
#include <signal.h>
#include <sodium.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "base/rng.h"
#include "store/env.h"

/* What the callbacks saw. */
struct seen {
    pthread_mutex_t lock;
    uint64_t through;
    int states[16];
    size_t state_count;
};

static void on_committed(void *user, uint64_t through)
{
    struct seen *s = user;
    (void)pthread_mutex_lock(&s->lock);
    cr_assert_gt(through, s->through);
    s->through = through;
    (void)pthread_mutex_unlock(&s->lock);
}

static void on_state(void *user, enum store_state state, int cause)
{
    struct seen *s = user;
    (void)cause;
    (void)pthread_mutex_lock(&s->lock);
    if (s->state_count < 16)
        s->states[s->state_count++] = (int)state;
    (void)pthread_mutex_unlock(&s->lock);
}

static struct store_env *open_env(const char *dir, struct seen *seen)
{
    struct store_config config = store_config_default(dir);
    struct store_env *env;
    struct store_why why;
    cr_assert_geq(sodium_init(), 0);
    config.map_bytes = (size_t)64 << 20;
    if (seen != NULL) {
        *seen = (struct seen){.lock = PTHREAD_MUTEX_INITIALIZER};
        config.committed = on_committed;
        config.state_changed = on_state;
        config.user = seen;
    }
    cr_assert_eq(store_open(&config, &env, &why), ERR_OK, "%s", why.text);
    return env;
}

static int put_text(struct store_env *env, enum store_class class, const char *key, const char *value,
                    uint64_t *ticket)
{
    return store_put(env, class, bytes_of_text(key), bytes_of_text(value), ticket);
}

static void expect(struct store_env *env, const char *key, const char *value)
{
    char out[128];
    int len = store_get(env, bytes_of_text(key), (uint8_t *)out, sizeof out - 1);
    if (value == NULL) {
        cr_assert_eq(len, ERR_NOT_FOUND, "%s", key);
        return;
    }
    cr_assert_geq(len, 0, "%s: %s", key, err_name(len));
    out[len] = '\0';
    cr_assert_str_eq(out, value);
}

struct listing {
    char text[512];
    size_t stop_after;
    size_t count;
};

static bool list_one(void *user, struct bytes key, struct bytes value)
{
    struct listing *l = user;
    size_t len = strlen(l->text);
    (void)snprintf(l->text + len, sizeof l->text - len, "%.*s=%.*s ", (int)key.len, (const char *)key.data,
                   (int)value.len, (const char *)value.data);
    return ++l->count != l->stop_after;
}

/* What is put is read back, across a close, in key order by prefix; deletes and prefix deletes take their
 * part away; the callback told each ticket. */
Test(env, put_get_iterate_reopen)
{
    char dir[64];
    struct seen seen;
    uint64_t ticket;
    directory_make(dir);
    struct store_env *env = open_env(dir, &seen);
    expect(env, "a1", NULL);
    cr_assert_eq(put_text(env, STORE_DURABLE, "a2", "two", &ticket), ERR_OK);
    cr_assert_eq(ticket, 1);
    cr_assert_eq(put_text(env, STORE_LAZY, "a1", "one", &ticket), ERR_OK);
    cr_assert_eq(put_text(env, STORE_LAZY, "b1", "", &ticket), ERR_OK);
    cr_assert_eq(put_text(env, STORE_LAZY, "c1", "gone", &ticket), ERR_OK);
    cr_assert_eq(store_delete(env, STORE_LAZY, bytes_of_text("c1"), &ticket), ERR_OK);
    cr_assert_eq(store_delete(env, STORE_LAZY, bytes_of_text("never"), &ticket), ERR_OK);
    cr_assert_eq(ticket, 6);
    cr_assert_eq(store_flush(env), ERR_OK);
    expect(env, "a1", "one");
    expect(env, "b1", "");
    expect(env, "c1", NULL);
    uint8_t small[2];
    cr_assert_eq(store_get(env, bytes_of_text("a1"), small, sizeof small), ERR_TOO_LARGE);
    cr_assert_eq(put_text(env, STORE_LAZY, "b2", "at close", &ticket), ERR_OK);
    cr_assert_eq(store_close(env), ERR_OK);
    cr_assert_eq(seen.through, 7);
    env = open_env(dir, NULL);
    struct listing all = {.text = ""};
    cr_assert_eq(store_iterate(env, bytes_of(NULL, 0), list_one, &all), 4);
    cr_assert_str_eq(all.text, "a1=one a2=two b1= b2=at close ");
    struct listing some = {.text = ""};
    cr_assert_eq(store_iterate(env, bytes_of_text("a"), list_one, &some), 2);
    cr_assert_str_eq(some.text, "a1=one a2=two ");
    struct listing first = {.text = "", .stop_after = 1};
    cr_assert_eq(store_iterate(env, bytes_of_text("b"), list_one, &first), 1);
    cr_assert_eq(store_delete_prefix(env, STORE_DURABLE, bytes_of_text("b"), NULL), ERR_OK);
    cr_assert_eq(store_flush(env), ERR_OK);
    struct listing rest = {.text = ""};
    cr_assert_eq(store_iterate(env, bytes_of(NULL, 0), list_one, &rest), 2);
    cr_assert_eq(store_close(env), ERR_OK);
    cr_assert_eq(store_close(NULL), ERR_OK);
    directory_remove(dir);
}

/* Deleting by prefix takes thousands of rows over many pages and leaves their neighbours. */
Test(env, delete_prefix_over_many_pages)
{
    char dir[64];
    char key[32];
    directory_make(dir);
    struct store_env *env = open_env(dir, NULL);
    for (int i = 0; i < 3000; i++) {
        (void)snprintf(key, sizeof key, "%c%05d", "abc"[i % 3], i);
        while (put_text(env, STORE_DURABLE, key, "some value of some length", NULL) == ERR_AGAIN)
            cr_assert_eq(store_flush(env), ERR_OK);
    }
    cr_assert_eq(store_delete_prefix(env, STORE_DURABLE, bytes_of_text("b"), NULL), ERR_OK);
    cr_assert_eq(store_flush(env), ERR_OK);
    struct listing count = {.text = ""};
    cr_assert_eq(store_iterate(env, bytes_of_text("a"), list_one, &count), 1000);
    cr_assert_eq(store_iterate(env, bytes_of_text("b"), list_one, &count), 0);
    cr_assert_eq(store_iterate(env, bytes_of_text("c"), list_one, &count), 1000);
    cr_assert_eq(store_close(env), ERR_OK);
    directory_remove(dir);
}

/* Bad keys and values are refused and leave nothing. */
Test(env, limits)
{
    char dir[64];
    static uint8_t big[STORE_VALUE_MAX + 1];
    directory_make(dir);
    struct store_env *env = open_env(dir, NULL);
    cr_assert_eq(store_put(env, STORE_LAZY, bytes_of(big, 0), bytes_of(big, 1), NULL), ERR_INVALID);
    cr_assert_eq(store_put(env, STORE_LAZY, bytes_of(big, STORE_KEY_MAX + 1), bytes_of(big, 1), NULL),
                 ERR_INVALID);
    cr_assert_eq(store_put(env, STORE_LAZY, bytes_of(big, 1), bytes_of(big, STORE_VALUE_MAX + 1), NULL),
                 ERR_TOO_LARGE);
    cr_assert_eq(
        store_put(env, STORE_DURABLE, bytes_of(big, STORE_KEY_MAX), bytes_of(big, STORE_VALUE_MAX), NULL),
        ERR_OK);
    cr_assert_eq(store_flush(env), ERR_OK);
    static uint8_t out[STORE_VALUE_MAX];
    cr_assert_eq(store_get(env, bytes_of(big, STORE_KEY_MAX), out, sizeof out), STORE_VALUE_MAX);
    cr_assert_eq(store_close(env), ERR_OK);
    directory_remove(dir);
}

/* A full queue pushes back and loses nothing: with lazy changes that nobody commits yet, then a flush. */
Test(env, back_pressure)
{
    char dir[64];
    struct store_config config;
    struct store_env *env;
    char key[32];
    directory_make(dir);
    config = store_config_default(dir);
    config.map_bytes = (size_t)64 << 20;
    config.queue_bytes = 4 * STORE_VALUE_MAX;
    config.lazy_ns = UINT64_C(3600000000000);
    config.batch_max = 100000;
    cr_assert_eq(store_open(&config, &env, NULL), ERR_OK);
    int accepted = 0;
    for (;; accepted++) {
        (void)snprintf(key, sizeof key, "key%d", accepted);
        int rc = put_text(env, STORE_LAZY, key, "a value that takes its room in the queue", NULL);
        if (rc != 0) {
            cr_assert_eq(rc, ERR_AGAIN);
            break;
        }
    }
    cr_assert_gt(accepted, 400);
    expect(env, "key0", NULL);
    cr_assert_eq(store_flush(env), ERR_OK);
    cr_assert_eq(put_text(env, STORE_LAZY, key, "now", NULL), ERR_OK);
    struct listing l = {.text = ""};
    cr_assert_eq(store_iterate(env, bytes_of_text("key"), list_one, &l), accepted);
    cr_assert_eq(store_close(env), ERR_OK);
    directory_remove(dir);
}

/* One process a directory; the second one is told which process has it. */
Test(env, directory_in_use)
{
    char dir[64];
    struct store_env *second;
    struct store_why why;
    directory_make(dir);
    struct store_env *env = open_env(dir, NULL);
    struct store_config config = store_config_default(dir);
    cr_assert_eq(store_open(&config, &second, &why), ERR_IN_USE);
    cr_assert_null(second);
    char pid[16];
    (void)snprintf(pid, sizeof pid, "%ld", (long)getpid());
    cr_assert_not_null(strstr(why.text, pid));
    cr_assert_eq(store_close(env), ERR_OK);
    env = open_env(dir, NULL);
    cr_assert_eq(store_close(env), ERR_OK);
    directory_remove(dir);
}

static void fill(const char *dir, int rows)
{
    char key[32];
    static uint8_t value[5000];
    struct store_env *env = open_env(dir, NULL);
    for (int i = 0; i < rows; i++) {
        (void)snprintf(key, sizeof key, "key%05d", i);
        memset(value, i & 0xff, sizeof value);
        size_t len = i % 50 == 0 ? sizeof value : 300; /* some on overflow pages */
        while (store_put(env, STORE_DURABLE, bytes_of_text(key), bytes_of(value, len), NULL) == ERR_AGAIN)
            cr_assert_eq(store_flush(env), ERR_OK);
    }
    /* Deleting some puts pages on the free list. */
    cr_assert_eq(store_flush(env), ERR_OK);
    cr_assert_eq(store_delete_prefix(env, STORE_DURABLE, bytes_of_text("key001"), NULL), ERR_OK);
    cr_assert_eq(store_close(env), ERR_OK);
}

static bool touch_one(void *user, struct bytes key, struct bytes value)
{
    uint64_t *sum = user;
    for (size_t i = 0; i < value.len; i++)
        *sum += value.data[i];
    *sum += key.len;
    return true;
}

/* A damaged or foreign file is refused in words, or read with every row that is returned whole; LMDB never
 * aborts. We overwrite random places, one page at a time, and cut the file at each page. */
Test(env, damaged_files, .timeout = 100)
{
    char dir[64];
    char path[STORE_PATH_MAX];
    struct allocator heap = allocator_system();
    struct store_io io = unsynced_io();
    uint8_t *whole;
    size_t len;
    struct rng_seeded stream;
    rng_seeded_init(&stream, 5);
    struct rng rng = rng_of_seeded(&stream);
    directory_make(dir);
    fill(dir, 400);
    cr_assert_eq(store_path_join(dir, "dunlin.mdb", path, sizeof path), ERR_OK);
    cr_assert_eq(store_file_read(path, 1 << 26, &heap, &whole, &len), ERR_OK);
    uint8_t *damaged = malloc(len);
    int refused = 0;
    int read_partly = 0;
    for (int i = 0; i < 300; i++) {
        size_t size = len;
        memcpy(damaged, whole, len);
        if (i < 200) { /* garbage somewhere, more often where page heads are */
            size_t at = rng_below(&rng, len / 4096) * 4096 +
                        (i % 2 == 0 ? rng_below(&rng, 64) : rng_below(&rng, 4000));
            rng_fill(&rng, damaged + at, 1 + rng_below(&rng, 32));
        } else {
            size = i < 250 ? rng_below(&rng, len) : rng_below(&rng, len / 4096) * 4096;
        }
        cr_assert_eq(store_file_write(&io, path, bytes_of(damaged, size), 0600, true), ERR_OK);
        struct store_config config = store_config_default(dir);
        struct store_env *env;
        struct store_why why;
        config.map_bytes = (size_t)64 << 20;
        int rc = store_open(&config, &env, &why);
        if (rc < 0) {
            cr_assert(rc == ERR_CORRUPT || rc == ERR_VERSION, "seed 5, case %d: %s", i, err_name(rc));
            cr_assert_not_null(strstr(why.text, "dunlin.mdb"));
            cr_assert_not_null(strstr(why.text, "ove")); /* "Move it away", "move the file away" */
            refused++;
            continue;
        }
        uint64_t sum = 0;
        struct store_status status;
        (void)!store_iterate(env, bytes_of(NULL, 0), touch_one, &sum);
        store_status_get(env, &status);
        read_partly += status.corrupt_values > 0;
        (void)!store_close(env);
    }
    cr_assert_gt(refused, 50);
    cr_assert_gt(read_partly, 0);
    free(damaged);
    allocator_release(&heap, whole);
    directory_remove(dir);
}

/* Another program's file, and one of a newer layout, are left alone. */
Test(env, foreign_files)
{
    char dir[64];
    char path[STORE_PATH_MAX];
    struct store_io io = store_io_system();
    struct store_env *env;
    struct store_why why;
    struct store_config config;
    static uint8_t junk[20000];
    directory_make(dir);
    config = store_config_default(dir);
    cr_assert_eq(store_path_join(dir, "dunlin.mdb", path, sizeof path), ERR_OK);
    memset(junk, 'x', sizeof junk);
    cr_assert_eq(store_file_write(&io, path, bytes_of(junk, sizeof junk), 0600, true), ERR_OK);
    cr_assert_eq(store_open(&config, &env, &why), ERR_CORRUPT);
    cr_assert_not_null(strstr(why.text, "Move it away"));
    cr_assert_eq(store_file_write(&io, path, bytes_of(junk, 100), 0600, true), ERR_OK);
    cr_assert_eq(store_open(&config, &env, &why), ERR_CORRUPT);
    cr_assert_eq(store_file_write(&io, path, bytes_of(junk, 0), 0600, true), ERR_OK);
    cr_assert_eq(store_open(&config, &env, &why), ERR_OK, "an empty file is a new one");
    cr_assert_eq(store_close(env), ERR_OK);
    /* The reader table of LMDB holds nothing of value: garbage there is replaced. */
    char lock_path[STORE_PATH_MAX];
    cr_assert_eq(store_path_join(dir, "dunlin.mdb-lock", lock_path, sizeof lock_path), ERR_OK);
    cr_assert_eq(store_file_write(&io, lock_path, bytes_of(junk, 8192), 0600, true), ERR_OK);
    cr_assert_eq(store_open(&config, &env, &why), ERR_OK, "%s", why.text);
    cr_assert_eq(store_close(env), ERR_OK);
    directory_remove(dir);
}

/* With no room left the batch is kept, reads go on, the state says why; with room again everything is
 * written. A limit on the file's size stands in for the full disk, so this needs no root. */
Test(env, disk_full_and_recovery, .timeout = 60)
{
    char dir[64];
    char key[32];
    struct seen seen;
    struct store_status status;
    static uint8_t value[4000];
    directory_make(dir);
    (void)signal(SIGXFSZ, SIG_IGN);
    struct store_env *env = open_env(dir, &seen);
    cr_assert_eq(put_text(env, STORE_DURABLE, "before", "kept", NULL), ERR_OK);
    cr_assert_eq(store_flush(env), ERR_OK);
    struct rlimit unlimited;
    cr_assert_eq(getrlimit(RLIMIT_FSIZE, &unlimited), 0);
    struct rlimit limited = {.rlim_cur = 200000, .rlim_max = unlimited.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limited), 0);
    int rc = ERR_OK;
    int rows = 0;
    while (rc == 0) {
        (void)snprintf(key, sizeof key, "row%05d", rows);
        rc = store_put(env, STORE_DURABLE, bytes_of_text(key), bytes_of(value, sizeof value), NULL);
        rows += rc == 0;
        if (rc == ERR_AGAIN)
            rc = store_flush(env);
    }
    store_status_get(env, &status);
    cr_assert_eq(status.state, STORE_READ_ONLY);
    cr_assert(status.cause == ERR_DISK_FULL || status.cause == ERR_IO, "%s", err_name(status.cause));
    cr_assert_eq(rc, status.cause);
    cr_assert_not_null(strstr(status.text, "dunlin.mdb"));
    cr_assert_lt(status.committed_ticket, status.queued_ticket);
    cr_assert_eq(store_flush(env), status.cause);
    expect(env, "before", "kept");
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &unlimited), 0);
    cr_assert_eq(store_flush(env), ERR_OK);
    store_status_get(env, &status);
    cr_assert_eq(status.state, STORE_OPEN);
    cr_assert_eq(status.committed_ticket, status.queued_ticket);
    struct listing l = {.text = ""};
    cr_assert_eq(store_iterate(env, bytes_of_text("row"), list_one, &l), rows);
    cr_assert_eq(store_close(env), ERR_OK);
    cr_assert_eq(seen.state_count, 2);
    cr_assert_eq(seen.states[0], STORE_READ_ONLY);
    cr_assert_eq(seen.states[1], STORE_OPEN);
    directory_remove(dir);
}

/* The same on a real file system that is full, a small tmpfs: what was acknowledged is all there after
 * reopening. */
Test(env, disk_full_for_real, .timeout = 60)
{
    char dir[64];
    char key[32];
    static uint8_t value[4000];
    struct store_why why;
    directory_make(dir);
    if (mount("tmpfs", dir, "tmpfs", 0, "size=2m") != 0) {
        directory_remove(dir);
        cr_skip_test("mounting a tmpfs needs root");
    }
    struct store_env *env = open_env(dir, NULL);
    struct store_status status;
    int rc = ERR_OK;
    for (int i = 0; rc == 0; i++) {
        (void)snprintf(key, sizeof key, "row%05d", i);
        rc = store_put(env, STORE_DURABLE, bytes_of_text(key), bytes_of(value, sizeof value), NULL);
        if (rc == ERR_AGAIN)
            rc = store_flush(env);
    }
    cr_assert_eq(rc, ERR_DISK_FULL, "%s", err_name(rc));
    store_status_get(env, &status);
    uint64_t acknowledged = status.committed_ticket;
    cr_assert_gt(acknowledged, 100);
    cr_assert_lt(store_close(env), 0, "what was queued cannot be kept, and close says so");
    struct store_config config = store_config_default(dir);
    config.map_bytes = (size_t)64 << 20;
    cr_assert_eq(store_open(&config, &env, &why), ERR_OK, "%s", why.text);
    struct listing l = {.text = ""};
    cr_assert_geq(store_iterate(env, bytes_of_text("row"), list_one, &l), (int)acknowledged);
    (void)!store_close(env);
    cr_assert_eq(umount(dir), 0);
    directory_remove(dir);
}

struct put_job {
    struct store_env *env;
    int thread;
};

static void *put_many(void *user)
{
    struct put_job *job = user;
    char key[32];
    for (int i = 0; i < 500; i++) {
        (void)snprintf(key, sizeof key, "t%d-%04d", job->thread, i);
        enum store_class class = i % 2 == 0 ? STORE_DURABLE : STORE_LAZY;
        while (put_text(job->env, class, key, key, NULL) == ERR_AGAIN)
            cr_assert_eq(store_flush(job->env), ERR_OK);
        if (i % 50 == 0) {
            uint8_t out[32];
            (void)!store_get(job->env, bytes_of_text(key), out, sizeof out);
        }
    }
    return NULL;
}

/* Several threads put and read at once; every row arrives. */
Test(env, threads)
{
    char dir[64];
    pthread_t threads[4];
    struct put_job jobs[4];
    struct seen seen;
    directory_make(dir);
    struct store_env *env = open_env(dir, &seen);
    for (int i = 0; i < 4; i++) {
        jobs[i] = (struct put_job){env, i};
        cr_assert_eq(pthread_create(&threads[i], NULL, put_many, &jobs[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        (void)pthread_join(threads[i], NULL);
    cr_assert_eq(store_flush(env), ERR_OK);
    struct listing l = {.text = ""};
    cr_assert_eq(store_iterate(env, bytes_of_text("t"), list_one, &l), 2000);
    cr_assert_eq(store_close(env), ERR_OK);
    cr_assert_eq(seen.through, 2000);
    directory_remove(dir);
}

/* A child that puts without end and writes each acknowledged ticket into a pipe. */
static int report_fd;

static void report_ticket(void *user, uint64_t through)
{
    (void)user;
    if (write(report_fd, &through, sizeof through) != sizeof through)
        _exit(3);
}

static void put_for_ever(const char *dir, uint64_t from)
{
    struct store_config config = store_config_default(dir);
    struct store_env *env;
    uint8_t value[300];
    char key[32];
    config.map_bytes = (size_t)64 << 20;
    config.committed = report_ticket;
    if (store_open(&config, &env, NULL) < 0)
        _exit(2);
    for (uint64_t n = from;; n++) {
        (void)snprintf(key, sizeof key, "%010llu", (unsigned long long)n);
        memset(value, (int)(n & 0xff), sizeof value);
        while (store_put(env, STORE_DURABLE, bytes_of_text(key), bytes_of(value, sizeof value), NULL) < 0)
            (void)usleep(500);
    }
}

struct prefix_check {
    uint64_t next;
};

static bool check_one(void *user, struct bytes key, struct bytes value)
{
    struct prefix_check *check = user;
    char expected[32];
    (void)snprintf(expected, sizeof expected, "%010llu", (unsigned long long)check->next);
    cr_assert(bytes_equal(key, bytes_of_text(expected)), "row %s is missing", expected);
    cr_assert_eq(value.len, 300);
    cr_assert_eq(value.data[299], (uint8_t)check->next);
    check->next++;
    return true;
}

/* kill -9 at random instants under load: what is left is a prefix of what was put, no shorter than what was
 * acknowledged, and opens without help. */
Test(env, kill_at_random_instants, .timeout = 100)
{
    char dir[64];
    struct rng_seeded stream;
    rng_seeded_init(&stream, 13);
    struct rng rng = rng_of_seeded(&stream);
    uint64_t held = 0;
    directory_make(dir);
    for (int kills = 0; kills < 20; kills++) {
        int report[2];
        cr_assert_eq(pipe(report), 0);
        pid_t child = fork();
        if (child == 0) {
            (void)close(report[0]);
            report_fd = report[1];
            put_for_ever(dir, held);
        }
        (void)close(report[1]);
        (void)usleep((useconds_t)(20000 + rng_below(&rng, 100000)));
        (void)kill(child, SIGKILL);
        (void)waitpid(child, NULL, 0);
        uint64_t through = 0;
        uint64_t value;
        while (read(report[0], &value, sizeof value) == sizeof value)
            through = value;
        (void)close(report[0]);
        struct store_env *env = open_env(dir, NULL);
        struct prefix_check check = {0};
        int rows = store_iterate(env, bytes_of(NULL, 0), check_one, &check);
        cr_assert_geq((uint64_t)rows, held + through, "seed 13, kill %d", kills);
        held = (uint64_t)rows;
        cr_assert_eq(store_close(env), ERR_OK);
    }
    cr_assert_gt(held, 0);
    directory_remove(dir);
}
