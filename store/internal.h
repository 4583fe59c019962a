/* The environment's insides, shared by env.c (calls from other threads) and writer.c (its own thread). */
#ifndef DUNLIN_STORE_INTERNAL_H
#define DUNLIN_STORE_INTERNAL_H

#include <lmdb.h>
#include <pthread.h>

#include "store/env.h"
#include "store/queue.h"

enum { STORE_SUM_BYTES = 8 }; /* checksum in front of every value */

struct store_env {
    struct store_config config; /* dir is not valid after store_open */
    char path[STORE_PATH_MAX];
    int lock_fd;

    /* LMDB's handles.  Readers hold `handles` shared; the writer thread takes it alone to reopen. */
    pthread_rwlock_t handles;
    MDB_env *mdb; /* NULL: closed after an error and not yet reopened */
    MDB_dbi records;

    /* Everything below is guarded by `lock`. */
    pthread_mutex_t lock;
    pthread_cond_t wake; /* the writer thread waits on it */
    pthread_cond_t done; /* store_flush waits on it */
    pthread_t thread;
    struct store_queue queue;
    size_t durable_queued;
    uint64_t durable_since_ns; /* when the oldest of them came; 0: it has waited through a commit already */
    uint64_t retry_at_ns;      /* READ_ONLY */
    uint64_t retry_ns;         /* present back-off */
    bool flush_wanted;
    bool closing;
    struct store_status status;
};

uint64_t store_now_ns(void);
/* Checksum of a row, over key and value. */
void store_row_sum(struct bytes key, struct bytes value, uint8_t sum[STORE_SUM_BYTES]);
/* Our code for an LMDB or errno code. */
int store_mdb_error(int mdb_error);
/* Opens the file and its tables; handles must be held alone, or no other thread exist.  Schema is checked. */
MUST_USE int store_handles_open(struct store_env *env, struct store_why *why);
void store_handles_close(struct store_env *env);
/* The writer thread. */
void *store_writer_main(void *env);

#endif
