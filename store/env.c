#include "store/env.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/hash.h"
#include "store/internal.h"
#include "store/mdb_check.h"

static const char schema_key[] = "schema";

struct store_config store_config_default(const char *dir)
{
    return (struct store_config){
        .dir = dir,
        .alloc = allocator_system(),
        .map_bytes = (size_t)16 << 30,
        .queue_bytes = STORE_QUEUE_BYTES,
        .batch_max = STORE_BATCH_MAX,
        .batch_ns = UINT64_C(10000000),
        .lazy_ns = UINT64_C(5000000000),
        .retry_min_ns = UINT64_C(250000000),
        .retry_max_ns = UINT64_C(10000000000),
    };
}

void store_row_sum(struct bytes key, struct bytes value, uint8_t sum[STORE_SUM_BYTES])
{
    uint8_t key_len[2] = {(uint8_t)(key.len >> 8), (uint8_t)key.len};
    struct bytes parts[3] = {bytes_of(key_len, sizeof key_len), key, value};
    struct id whole;
    hash_parts("dunlin store row", parts, 3, &whole);
    memcpy(sum, whole.bytes, STORE_SUM_BYTES);
}

int store_mdb_error(int mdb_error)
{
    switch (mdb_error) {
    case 0:
        return ERR_OK;
    case MDB_NOTFOUND:
        return ERR_NOT_FOUND;
    case MDB_MAP_FULL:
        return ERR_DISK_FULL;
    case MDB_VERSION_MISMATCH:
        return ERR_VERSION;
    case MDB_INVALID:
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INCOMPATIBLE:
        return ERR_CORRUPT;
    default:
        return mdb_error > 0 ? store_error_of(mdb_error) : ERR_IO;
    }
}

/* Reads the schema version, or writes ours into a new file. */
static int check_schema(MDB_txn *txn, MDB_dbi meta, struct store_why *why)
{
    MDB_val key = {sizeof schema_key - 1, (void *)(uintptr_t)schema_key};
    MDB_val value;
    int rc = mdb_get(txn, meta, &key, &value);
    if (rc == MDB_NOTFOUND) {
        uint8_t bytes[4] = {0, 0, 0, STORE_SCHEMA};
        value = (MDB_val){sizeof bytes, bytes};
        return store_mdb_error(mdb_put(txn, meta, &key, &value, 0));
    }
    if (rc != 0)
        return store_mdb_error(rc);
    struct reader r = reader_of(bytes_of(value.mv_data, value.mv_size));
    uint32_t schema = read_u32(&r);
    if (!reader_done(&r))
        return ERR_CORRUPT;
    if (schema == STORE_SCHEMA)
        return ERR_OK;
    store_why_set(why, "its records have layout %u, this program knows %d", (unsigned)schema, STORE_SCHEMA);
    return ERR_VERSION;
}

static int open_tables(struct store_env *env, struct store_why *why)
{
    MDB_txn *txn;
    MDB_dbi meta;
    int rc = mdb_txn_begin(env->mdb, NULL, 0, &txn);
    if (rc != 0)
        return store_mdb_error(rc);
    rc = mdb_dbi_open(txn, "records", MDB_CREATE, &env->records);
    if (rc == 0)
        rc = mdb_dbi_open(txn, "meta", MDB_CREATE, &meta);
    rc = rc == 0 ? check_schema(txn, meta, why) : store_mdb_error(rc);
    if (rc < 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    return store_mdb_error(mdb_txn_commit(txn));
}

int store_handles_open(struct store_env *env, struct store_why *why)
{
    int rc = mdb_env_create(&env->mdb);
    if (rc != 0) {
        env->mdb = NULL;
        return store_mdb_error(rc);
    }
    rc = mdb_env_set_maxdbs(env->mdb, 2);
    if (rc == 0)
        rc = mdb_env_set_mapsize(env->mdb, env->config.map_bytes);
    if (rc == 0)
        rc = mdb_env_open(env->mdb, env->path, MDB_NOSUBDIR | MDB_NOTLS, 0600);
    if (rc == 0) {
        int dead;
        rc = mdb_reader_check(env->mdb, &dead); /* slots of killed processes would pin old pages */
    }
    rc = rc == 0 ? open_tables(env, why) : store_mdb_error(rc);
    if (rc < 0)
        store_handles_close(env);
    return rc;
}

void store_handles_close(struct store_env *env)
{
    if (env->mdb != NULL)
        mdb_env_close(env->mdb);
    env->mdb = NULL;
}

/* Locks DIR/dunlin.lock for as long as the descriptor is open; the kernel frees it when the process dies. */
static int lock_directory(struct store_env *env, const char *dir, struct store_why *why)
{
    char path[STORE_PATH_MAX];
    char text[32];
    int rc = store_path_join(dir, "dunlin.lock", path, sizeof path);
    if (rc < 0)
        return rc;
    env->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (env->lock_fd < 0)
        return store_error_of(errno);
    if (flock(env->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        ssize_t got = read(env->lock_fd, text, sizeof text - 1);
        text[got > 0 ? got : 0] = '\0';
        text[strcspn(text, "\n")] = '\0';
        store_why_set(why,
                      "another dunlind%s%s works in %s: stop it, or give this one another directory with -d",
                      text[0] != '\0' ? ", process " : "", text, dir);
        return errno == EWOULDBLOCK ? ERR_IN_USE : store_error_of(errno);
    }
    int len = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    /* Only a help for people, so a full disk does not matter here. */
    if (ftruncate(env->lock_fd, 0) != 0 || pwrite(env->lock_fd, text, (size_t)len, 0) != len)
        return ERR_OK;
    return ERR_OK;
}

/* Turns what was found into what to do. */
static void advise(int rc, const char *path, struct store_why *why)
{
    struct store_why found;
    if (why == NULL || rc == 0 || rc == ERR_IN_USE)
        return;
    found = *why;
    const char *colon = found.text[0] != '\0' ? ": " : "";
    if (rc == ERR_CORRUPT)
        store_why_set(
            why,
            "%s cannot be used%s%.200s. Move it away and start again: other members give the shared "
            "state back, the node's key is not in it",
            path, colon, found.text);
    else if (rc == ERR_VERSION)
        store_why_set(why, "%s is of another version%s%.200s. Use that version, or move the file away", path,
                      colon, found.text);
    else if (rc == ERR_DISK_FULL)
        store_why_set(why, "%s cannot be opened: no space left on its disk", path);
    else
        store_why_set(why, "%s cannot be opened: %s%s%.200s", path, err_text(rc), colon, found.text);
}

/* Everything of store_open that touches the disk. */
static int open_files(struct store_env *env, const char *dir, struct store_why *why)
{
    int rc = store_path_join(dir, "dunlin.mdb", env->path, sizeof env->path - sizeof "-lock");
    if (rc == 0)
        rc = store_dir_make(dir);
    if (rc == 0)
        rc = lock_directory(env, dir, why);
    if (rc == 0)
        rc = store_mdb_check(env->path, &env->config.alloc, why);
    if (rc < 0)
        return rc;
    rc = store_handles_open(env, why);
    if (rc == ERR_CORRUPT || (rc == ERR_VERSION && (why == NULL || why->text[0] == '\0'))) {
        /* The data file was just found sound, so it is LMDB's table of readers; it holds nothing of value
         * and, as the directory is locked, belongs to nobody. */
        char lock_path[STORE_PATH_MAX];
        if (store_path_join(dir, "dunlin.mdb-lock", lock_path, sizeof lock_path) == 0 &&
            unlink(lock_path) == 0)
            rc = store_handles_open(env, why);
    }
    return rc;
}

static int start_thread(struct store_env *env)
{
    pthread_condattr_t monotonic;
    if (pthread_condattr_init(&monotonic) != 0)
        return ERR_NO_MEMORY;
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&env->lock, NULL);
    (void)pthread_cond_init(&env->wake, &monotonic);
    (void)pthread_cond_init(&env->done, NULL);
    (void)pthread_condattr_destroy(&monotonic);
    if (pthread_create(&env->thread, NULL, store_writer_main, env) == 0)
        return ERR_OK;
    (void)pthread_cond_destroy(&env->done);
    (void)pthread_cond_destroy(&env->wake);
    (void)pthread_mutex_destroy(&env->lock);
    return ERR_NO_MEMORY;
}

static bool config_valid(const struct store_config *config)
{
    return config->dir != NULL && config->batch_max > 0 && config->map_bytes >= 1 << 20 &&
           config->queue_bytes >= 4 * STORE_VALUE_MAX && config->retry_min_ns > 0 &&
           config->retry_max_ns >= config->retry_min_ns;
}

int store_open(const struct store_config *config, struct store_env **out, struct store_why *why)
{
    struct store_why local;
    if (why == NULL)
        why = &local;
    why->text[0] = '\0';
    *out = NULL;
    if (!config_valid(config))
        return ERR_INVALID;
    struct store_env *env = allocator_get(&config->alloc, 1, sizeof *env);
    if (env == NULL)
        return ERR_NO_MEMORY;
    env->config = *config;
    env->config.dir = NULL;
    env->lock_fd = -1;
    int rc = store_queue_init(&env->queue, &config->alloc, config->queue_bytes);
    if (rc < 0)
        goto free_env;
    if (pthread_rwlock_init(&env->handles, NULL) != 0) {
        rc = ERR_NO_MEMORY;
        goto free_queue;
    }
    rc = open_files(env, config->dir, why);
    if (rc == 0)
        rc = start_thread(env);
    if (rc < 0)
        goto close_files;
    *out = env;
    return ERR_OK;
close_files:
    advise(rc, env->path, why);
    store_handles_close(env);
    if (env->lock_fd >= 0)
        (void)close(env->lock_fd);
    (void)pthread_rwlock_destroy(&env->handles);
free_queue:
    store_queue_deinit(&env->queue, &config->alloc);
free_env:
    allocator_release(&config->alloc, env);
    return rc;
}

int store_close(struct store_env *env)
{
    if (env == NULL)
        return ERR_OK;
    (void)pthread_mutex_lock(&env->lock);
    env->closing = true;
    (void)pthread_cond_signal(&env->wake);
    (void)pthread_mutex_unlock(&env->lock);
    (void)pthread_join(env->thread, NULL);
    int rc = env->queue.count == 0 ? ERR_OK : env->status.cause;
    ASSERT(env->queue.count == 0 || rc < 0);
    store_handles_close(env);
    (void)close(env->lock_fd);
    (void)pthread_cond_destroy(&env->done);
    (void)pthread_cond_destroy(&env->wake);
    (void)pthread_mutex_destroy(&env->lock);
    (void)pthread_rwlock_destroy(&env->handles);
    struct allocator alloc = env->config.alloc;
    store_queue_deinit(&env->queue, &alloc);
    allocator_release(&alloc, env);
    return rc;
}

static int enqueue(struct store_env *env, enum store_op_kind kind, enum store_class class, struct bytes key,
                   struct bytes value, uint64_t *ticket)
{
    if (key.len == 0 || key.len > STORE_KEY_MAX)
        return ERR_INVALID;
    if (value.len > STORE_VALUE_MAX)
        return ERR_TOO_LARGE;
    (void)pthread_mutex_lock(&env->lock);
    struct store_op op = {.kind = (uint8_t)kind,
                          .durable = class == STORE_DURABLE,
                          .ticket = env->status.queued_ticket + 1,
                          .queued_ns = store_now_ns()};
    int rc = store_queue_push(&env->queue, &op, key, value);
    if (rc < 0) {
        rc = env->status.state == STORE_READ_ONLY ? env->status.cause : ERR_AGAIN;
    } else {
        env->status.queued_ticket = op.ticket;
        env->status.queued_bytes = env->queue.used;
        if (ticket != NULL)
            *ticket = op.ticket;
        if (op.durable && env->durable_queued++ == 0)
            env->durable_since_ns = op.queued_ns;
        /* Waking the writer for each would cost a system call a record: only what can change its alarm does.
         */
        if ((op.durable && env->durable_queued == 1) || env->queue.count == 1 ||
            env->queue.count == env->config.batch_max)
            (void)pthread_cond_signal(&env->wake);
    }
    (void)pthread_mutex_unlock(&env->lock);
    return rc;
}

int store_put(struct store_env *env, enum store_class class, struct bytes key, struct bytes value,
              uint64_t *ticket)
{
    return enqueue(env, STORE_OP_PUT, class, key, value, ticket);
}

int store_delete(struct store_env *env, enum store_class class, struct bytes key, uint64_t *ticket)
{
    return enqueue(env, STORE_OP_DELETE, class, key, bytes_of(NULL, 0), ticket);
}

int store_delete_prefix(struct store_env *env, enum store_class class, struct bytes prefix, uint64_t *ticket)
{
    return enqueue(env, STORE_OP_DELETE_PREFIX, class, prefix, bytes_of(NULL, 0), ticket);
}

/* The value inside a row, or ERR_CORRUPT. */
static int open_row(struct store_env *env, const MDB_val *key, const MDB_val *row, struct bytes *value)
{
    uint8_t sum[STORE_SUM_BYTES];
    if (row->mv_size >= STORE_SUM_BYTES) {
        const uint8_t *data = row->mv_data;
        *value = bytes_of(data + STORE_SUM_BYTES, row->mv_size - STORE_SUM_BYTES);
        store_row_sum(bytes_of(key->mv_data, key->mv_size), *value, sum);
        if (memcmp(sum, data, STORE_SUM_BYTES) == 0)
            return ERR_OK;
    }
    (void)pthread_mutex_lock(&env->lock);
    env->status.corrupt_values++;
    (void)pthread_mutex_unlock(&env->lock);
    return ERR_CORRUPT;
}

/* Starts a read with the handles held; on error nothing is held. */
static int read_begin(struct store_env *env, MDB_txn **txn)
{
    (void)pthread_rwlock_rdlock(&env->handles);
    int rc = env->mdb == NULL ? ERR_IO : store_mdb_error(mdb_txn_begin(env->mdb, NULL, MDB_RDONLY, txn));
    if (rc < 0)
        (void)pthread_rwlock_unlock(&env->handles);
    return rc;
}

static void read_end(struct store_env *env, MDB_txn *txn)
{
    mdb_txn_abort(txn);
    (void)pthread_rwlock_unlock(&env->handles);
}

int store_get(struct store_env *env, struct bytes key, uint8_t *out, size_t cap)
{
    MDB_txn *txn;
    MDB_val k = {key.len, (void *)(uintptr_t)key.data};
    MDB_val row;
    struct bytes value = {NULL, 0};
    if (key.len == 0 || key.len > STORE_KEY_MAX)
        return ERR_NOT_FOUND;
    int rc = read_begin(env, &txn);
    if (rc < 0)
        return rc;
    rc = store_mdb_error(mdb_get(txn, env->records, &k, &row));
    if (rc == 0)
        rc = open_row(env, &k, &row, &value);
    if (rc == 0 && value.len > cap)
        rc = ERR_TOO_LARGE;
    if (rc == 0) {
        if (value.len > 0)
            memcpy(out, value.data, value.len);
        rc = (int)value.len;
    }
    read_end(env, txn);
    return rc;
}

int store_iterate(struct store_env *env, struct bytes prefix,
                  bool (*visit)(void *user, struct bytes key, struct bytes value), void *user)
{
    MDB_txn *txn;
    MDB_cursor *cursor;
    int visited = 0;
    int rc = read_begin(env, &txn);
    if (rc < 0)
        return rc;
    rc = mdb_cursor_open(txn, env->records, &cursor);
    if (rc == 0) {
        MDB_val k = {prefix.len, (void *)(uintptr_t)prefix.data};
        MDB_val row;
        rc = mdb_cursor_get(cursor, &k, &row, prefix.len == 0 ? MDB_FIRST : MDB_SET_RANGE);
        while (rc == 0 && k.mv_size >= prefix.len &&
               (prefix.len == 0 || memcmp(k.mv_data, prefix.data, prefix.len) == 0)) {
            struct bytes value;
            if (open_row(env, &k, &row, &value) == 0) {
                visited++;
                if (!visit(user, bytes_of(k.mv_data, k.mv_size), value))
                    break;
            }
            rc = mdb_cursor_get(cursor, &k, &row, MDB_NEXT);
        }
        mdb_cursor_close(cursor);
    }
    read_end(env, txn);
    return rc == 0 || rc == MDB_NOTFOUND ? visited : store_mdb_error(rc);
}

int store_flush(struct store_env *env)
{
    int rc = ERR_OK;
    (void)pthread_mutex_lock(&env->lock);
    uint64_t target = env->status.queued_ticket;
    uint64_t failed = env->status.failed_commits;
    while (env->status.committed_ticket < target && rc == 0) {
        env->flush_wanted = true;
        (void)pthread_cond_signal(&env->wake);
        (void)pthread_cond_wait(&env->done, &env->lock);
        if (env->status.failed_commits != failed)
            rc = env->status.cause < 0 ? env->status.cause : ERR_OK;
        failed = env->status.failed_commits;
    }
    (void)pthread_mutex_unlock(&env->lock);
    return rc;
}

void store_status_get(struct store_env *env, struct store_status *out)
{
    (void)pthread_mutex_lock(&env->lock);
    *out = env->status;
    (void)pthread_mutex_unlock(&env->lock);
}
