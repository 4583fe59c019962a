/* The writer thread: takes batches off the queue, commits them, reports, and backs off while the disk
 * refuses. */
#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>

#include "store/internal.h"

uint64_t store_now_ns(void)
{
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static int put_row(struct store_env *env, MDB_txn *txn, struct bytes key, struct bytes value)
{
    MDB_val k = {key.len, (void *)(uintptr_t)key.data};
    MDB_val v = {STORE_SUM_BYTES + value.len, NULL};
    int rc = mdb_put(txn, env->records, &k, &v, MDB_RESERVE);
    if (rc != 0)
        return rc;
    store_row_sum(key, value, v.mv_data);
    if (value.len > 0)
        memcpy((uint8_t *)v.mv_data + STORE_SUM_BYTES, value.data, value.len);
    return 0;
}

static int delete_prefix(struct store_env *env, MDB_txn *txn, struct bytes prefix)
{
    MDB_cursor *cursor;
    int rc = mdb_cursor_open(txn, env->records, &cursor);
    if (rc != 0)
        return rc;
    while (rc == 0) {
        /* Looked up anew each time: where a cursor stands after deleting the last entry of a page is subtle.
         */
        MDB_val k = {prefix.len, (void *)(uintptr_t)prefix.data};
        MDB_val v;
        rc = mdb_cursor_get(cursor, &k, &v, MDB_SET_RANGE);
        if (rc == 0 && (k.mv_size < prefix.len || memcmp(k.mv_data, prefix.data, prefix.len) != 0))
            break;
        if (rc == 0)
            rc = mdb_cursor_del(cursor, 0);
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

static int apply_op(struct store_env *env, MDB_txn *txn, const struct store_op *op)
{
    struct bytes key = store_op_key(op);
    if (op->kind == STORE_OP_PUT)
        return put_row(env, txn, key, store_op_value(op));
    if (op->kind == STORE_OP_DELETE_PREFIX)
        return delete_prefix(env, txn, key);
    MDB_val k = {key.len, (void *)(uintptr_t)key.data};
    int rc = mdb_del(txn, env->records, &k, NULL);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Commits the oldest `count` changes; 0 or an LMDB or errno code, and then nothing has changed. */
static int commit_batch(struct store_env *env, size_t count)
{
    MDB_txn *txn;
    int rc = mdb_txn_begin(env->mdb, NULL, 0, &txn);
    if (rc != 0)
        return rc;
    size_t cursor = SIZE_MAX;
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = apply_op(env, txn, store_queue_next(&env->queue, &cursor));
    if (rc != 0) {
        mdb_txn_abort(txn);
        return rc;
    }
    return mdb_txn_commit(txn); /* frees txn in any case */
}

/* A full disk shows itself as EIO when a write was cut short (measured), so the file system is asked. */
static int cause_of(const struct store_env *env, int mdb_error)
{
    struct statvfs fs;
    int rc = store_mdb_error(mdb_error);
    if (rc == ERR_IO && statvfs(env->path, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize < 1 << 20)
        return ERR_DISK_FULL;
    return rc;
}

/* After MDB_PANIC, or when an earlier attempt to reopen failed. */
static int reopen(struct store_env *env)
{
    (void)pthread_rwlock_wrlock(&env->handles);
    store_handles_close(env);
    int rc = store_handles_open(env, NULL);
    (void)pthread_rwlock_unlock(&env->handles);
    return rc;
}

/* 0 or our code. */
static int try_batch(struct store_env *env, size_t count)
{
    if (env->mdb == NULL) {
        int rc = reopen(env);
        if (rc < 0)
            return rc;
    }
    int rc = commit_batch(env, count);
    if (rc == MDB_PANIC) {
        int reopened = reopen(env);
        rc = reopened < 0 ? 0 : commit_batch(env, count);
        if (reopened < 0)
            return reopened;
    }
    return rc == 0 ? ERR_OK : cause_of(env, rc);
}

/* When the next batch is due; UINT64_MAX: nothing is waiting.  Lock held. */
static uint64_t due_ns(const struct store_env *env)
{
    const struct store_config *config = &env->config;
    if (env->queue.count == 0)
        return UINT64_MAX;
    if (env->closing || env->flush_wanted)
        return 0;
    if (env->status.state == STORE_READ_ONLY)
        return env->retry_at_ns;
    if (env->queue.count >= config->batch_max)
        return 0;
    size_t cursor = SIZE_MAX;
    uint64_t due = store_queue_next(&env->queue, &cursor)->queued_ns + config->lazy_ns;
    if (env->durable_queued > 0 && env->durable_since_ns + config->batch_ns < due)
        due = env->durable_since_ns + config->batch_ns;
    return due;
}

/* Waits until a batch is due; false when closing and nothing is left.  Lock held. */
static bool wait_until_due(struct store_env *env)
{
    for (;;) {
        uint64_t due = due_ns(env);
        if (env->queue.count == 0)
            env->flush_wanted = false;
        if (due <= store_now_ns())
            return true;
        if (env->closing)
            return false;
        if (due == UINT64_MAX) {
            (void)pthread_cond_wait(&env->wake, &env->lock);
            continue;
        }
        struct timespec until = {.tv_sec = (time_t)(due / UINT64_C(1000000000)),
                                 .tv_nsec = (long)(due % UINT64_C(1000000000))};
        (void)pthread_cond_timedwait(&env->wake, &env->lock, &until);
    }
}

/* Takes a committed batch off the queue.  Lock held. */
static void batch_done(struct store_env *env, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t cursor = SIZE_MAX;
        const struct store_op *op = store_queue_next(&env->queue, &cursor);
        env->durable_queued -= op->durable;
        env->status.committed_ticket = op->ticket;
        store_queue_pop(&env->queue);
    }
    env->durable_since_ns = 0;
    env->status.queued_bytes = env->queue.used;
    env->status.commits++;
    env->status.state = STORE_OPEN;
    env->status.cause = ERR_OK;
    env->status.text[0] = '\0';
    env->retry_ns = 0;
}

/* Keeps the batch and sets the time of the next try.  Lock held. */
static void batch_failed(struct store_env *env, int cause)
{
    const struct store_config *config = &env->config;
    env->retry_ns = env->retry_ns == 0 ? config->retry_min_ns : 2 * env->retry_ns;
    if (env->retry_ns > config->retry_max_ns)
        env->retry_ns = config->retry_max_ns;
    env->retry_at_ns = store_now_ns() + env->retry_ns;
    env->flush_wanted = false;
    env->status.failed_commits++;
    env->status.state = STORE_READ_ONLY;
    env->status.cause = cause;
    struct store_why why;
    store_why_set(&why, "%s cannot be written: %s; %zu changes are kept in memory and tried again%s",
                  env->path, err_text(cause), env->queue.count,
                  cause == ERR_DISK_FULL ? "; free some space on that disk" : "");
    memcpy(env->status.text, why.text, sizeof why.text);
}

/* One batch, the lock released while the disk works.  False: closing, and it failed. */
static bool run_batch(struct store_env *env)
{
    size_t count = env->queue.count < env->config.batch_max ? env->queue.count : env->config.batch_max;
    enum store_state before = env->status.state;
    (void)pthread_mutex_unlock(&env->lock);
    int rc = try_batch(env, count);
    (void)pthread_mutex_lock(&env->lock);
    if (rc == 0)
        batch_done(env, count);
    else
        batch_failed(env, rc);
    enum store_state after = env->status.state;
    uint64_t through = env->status.committed_ticket;
    (void)pthread_cond_broadcast(&env->done);
    bool go_on = rc == 0 || !env->closing;
    (void)pthread_mutex_unlock(&env->lock);
    if (rc == 0 && env->config.committed != NULL)
        env->config.committed(env->config.user, through);
    if (before != after && env->config.state_changed != NULL)
        env->config.state_changed(env->config.user, after, rc);
    (void)pthread_mutex_lock(&env->lock);
    return go_on;
}

void *store_writer_main(void *user)
{
    struct store_env *env = user;
    (void)pthread_mutex_lock(&env->lock);
    while (wait_until_due(env)) {
        if (!run_batch(env))
            break;
    }
    (void)pthread_mutex_unlock(&env->lock);
    return NULL;
}
