/* A fixed set of threads that run one function together and wait for each other.  The caller is member 0, so
 * a pool of one thread starts none.  Idle threads sleep: a node shares its cores with the network thread. */
#ifndef DUNLIN_TRAIN_POOL_H
#define DUNLIN_TRAIN_POOL_H

#include <stddef.h>

#include "base/alloc.h"
#include "base/err.h"

enum { TRAIN_THREADS_MAX = 64 };

struct train_pool;

/* Work of one member; pool is for train_pool_barrier. */
typedef void train_pool_job(struct train_pool *pool, size_t member, void *user);

/* Bytes train_pool_create takes from the allocator. */
size_t train_pool_bytes(void);
/* Starts thread_count - 1 threads (1 <= thread_count <= TRAIN_THREADS_MAX, asserted); copies the allocator.
 * *out is owned by the caller (free with train_pool_destroy).  ERR_NO_MEMORY: no memory, or the system
 * refused a thread; nothing is left behind: try fewer. */
MUST_USE int train_pool_create(size_t thread_count, const struct allocator *allocator,
                               struct train_pool **out);
/* Ends the threads.  NULL is allowed. */
void train_pool_destroy(struct train_pool *pool);
size_t train_pool_threads(const struct train_pool *pool);
/* Runs job once per member and returns when all have returned.  One call at a time, from one thread. */
void train_pool_run(struct train_pool *pool, train_pool_job *job, void *user);
/* From now on numbers below 1.2e-38 are zero for the calling thread, and for those that it makes later:
 * weights and moments may shrink for ever, mean nothing there, and processors take ten times as long over
 * them.  To be called before train_pool_create.  x86-64; elsewhere it does nothing. */
void train_flush_tiny(void);
/* Inside a job: returns when every member has called it.  What any wrote before, all see after. */
void train_pool_barrier(struct train_pool *pool);

#endif
