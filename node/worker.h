/* A thread that runs jobs one after another, for work that must not block the loop: merging and encoding
 * weights, writing checkpoints.  Jobs go in from the loop thread and come back to it. */
#ifndef DUNLIN_NODE_WORKER_H
#define DUNLIN_NODE_WORKER_H

#include <pthread.h>
#include <uv.h>

#include "net/uv/channel.h"

enum { WORKER_JOBS_MAX = 64 };

/* First member of every job.  The submitter owns the memory again when done is called. */
struct worker_job {
    void (*run)(struct worker_job *job);              /* on the worker's thread; may not touch the node */
    void (*done)(void *user, struct worker_job *job); /* on the loop's thread */
};

struct worker {
    pthread_t thread;
    struct net_uv_inbox *inbox;
    struct net_uv_channel *finished;
    void *user;
    size_t pending; /* submitted and not yet done; loop thread only */
    bool started;
};

/* Starts the thread.  user is handed to every done.  ERR_NO_MEMORY, ERR_IO: nothing was started. */
MUST_USE int worker_start(struct worker *worker, uv_loop_t *loop, void *user);
/* Queues a job.  ERR_FULL: WORKER_JOBS_MAX are pending; keep the job and come back after one is done.
 * ERR_CLOSED: the worker was stopped; the job is the caller's to drop. */
MUST_USE int worker_submit(struct worker *worker, struct worker_job *job);
/* Ends the thread after the jobs already queued have run, and delivers their done.  Loop thread. */
void worker_stop(struct worker *worker);

#endif
