#include "node/worker.h"

static void *worker_main(void *arg)
{
    struct worker *worker = arg;
    struct worker_job *job;
    while (net_uv_inbox_pop(worker->inbox, &job, UINT64_MAX) == 0) {
        job->run(job);
        /* The channel has room for every job that can be pending, so this cannot be full. */
        int result = net_uv_channel_push(worker->finished, &job);
        ASSERT(result == 0);
    }
    return NULL;
}

static void on_finished(void *user, void *message)
{
    struct worker *worker = user;
    struct worker_job *job = *(struct worker_job **)message;
    worker->pending--;
    job->done(worker->user, job);
}

int worker_start(struct worker *worker, uv_loop_t *loop, void *user)
{
    *worker = (struct worker){.user = user};
    int result = net_uv_inbox_create(&worker->inbox, sizeof(struct worker_job *), WORKER_JOBS_MAX);
    if (result < 0)
        return result;
    result = net_uv_channel_open(&worker->finished, loop, sizeof(struct worker_job *), WORKER_JOBS_MAX,
                                 on_finished, worker);
    if (result < 0)
        goto destroy_inbox;
    result = ERR_IO;
    if (pthread_create(&worker->thread, NULL, worker_main, worker) != 0)
        goto close_channel;
    worker->started = true;
    return ERR_OK;

close_channel:
    net_uv_channel_close(worker->finished);
destroy_inbox:
    net_uv_inbox_destroy(worker->inbox);
    return result;
}

int worker_submit(struct worker *worker, struct worker_job *job)
{
    if (!worker->started)
        return ERR_CLOSED;
    if (worker->pending == WORKER_JOBS_MAX)
        return ERR_FULL;
    int result = net_uv_inbox_push(worker->inbox, &job);
    if (result == 0)
        worker->pending++;
    return result;
}

void worker_stop(struct worker *worker)
{
    if (!worker->started)
        return;
    worker->started = false;
    net_uv_inbox_close(worker->inbox);
    (void)pthread_join(worker->thread, NULL);
    net_uv_channel_close(worker->finished);
    net_uv_inbox_destroy(worker->inbox);
}
