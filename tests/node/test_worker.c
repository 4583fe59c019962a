/* A worker runs its jobs in order and hands each back on the loop's thread; stopping it runs what was queued,
 * delivers it, and refuses what comes later.  Tried with as many jobs as it takes, and one more. */
#include <criterion/criterion.h>

#include "node/worker.h"

struct numbered {
    struct worker_job job; /* first */
    struct record *record;
    int number;
    pthread_t ran_on;
};

struct record {
    struct worker *worker;
    int ran[WORKER_JOBS_MAX + 1]; /* worker's thread until joined or handed back */
    int ran_count;
    int done_count;
    int late; /* result of submitting from done */
};

static void run_job(struct worker_job *base)
{
    struct numbered *job = (struct numbered *)(void *)base;
    job->ran_on = pthread_self();
    job->record->ran[job->record->ran_count++] = job->number;
}

static void job_done(void *user, struct worker_job *base)
{
    struct record *record = user;
    struct numbered *job = (struct numbered *)(void *)base;
    cr_assert_eq(job->number, record->done_count);
    cr_assert(!pthread_equal(job->ran_on, pthread_self()));
    record->done_count++;
}

static void job_done_asks_again(void *user, struct worker_job *base)
{
    struct record *record = user;
    record->done_count++;
    record->late = worker_submit(record->worker, base);
}

static void fill(struct numbered jobs[], size_t count, struct record *record,
                 void (*done)(void *, struct worker_job *))
{
    for (size_t i = 0; i < count; i++)
        jobs[i] =
            (struct numbered){.job = {.run = run_job, .done = done}, .record = record, .number = (int)i};
}

Test(worker, jobs_run_in_order_and_come_back)
{
    uv_loop_t loop;
    struct worker worker;
    struct record record = {.worker = &worker};
    struct numbered jobs[WORKER_JOBS_MAX + 1];
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(worker_start(&worker, &loop, &record), ERR_OK);
    fill(jobs, WORKER_JOBS_MAX + 1, &record, job_done);
    for (size_t i = 0; i < WORKER_JOBS_MAX; i++)
        cr_assert_eq(worker_submit(&worker, &jobs[i].job), ERR_OK);
    /* Only a delivered job makes room, and the loop has not run. */
    cr_assert_eq(worker_submit(&worker, &jobs[WORKER_JOBS_MAX].job), ERR_FULL);
    while (record.done_count < WORKER_JOBS_MAX)
        (void)uv_run(&loop, UV_RUN_ONCE);
    cr_assert_eq(worker_submit(&worker, &jobs[WORKER_JOBS_MAX].job), ERR_OK);
    while (record.done_count <= WORKER_JOBS_MAX)
        (void)uv_run(&loop, UV_RUN_ONCE);
    for (int i = 0; i <= WORKER_JOBS_MAX; i++)
        cr_assert_eq(record.ran[i], i);
    cr_assert_eq(worker.pending, 0);
    worker_stop(&worker);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&loop), 0);
}

Test(worker, stop_runs_and_delivers_what_was_queued)
{
    uv_loop_t loop;
    struct worker worker;
    struct record record = {.worker = &worker};
    struct numbered jobs[WORKER_JOBS_MAX];
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(worker_start(&worker, &loop, &record), ERR_OK);
    fill(jobs, WORKER_JOBS_MAX, &record, job_done);
    for (size_t i = 0; i < WORKER_JOBS_MAX; i++)
        cr_assert_eq(worker_submit(&worker, &jobs[i].job), ERR_OK);
    worker_stop(&worker);
    cr_assert_eq(record.done_count, WORKER_JOBS_MAX);
    worker_stop(&worker); /* harmless */
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&loop), 0);
}

Test(worker, a_job_asked_for_while_stopping_is_refused)
{
    /* What must hold: done may ask for more work at any time; this once ended the daemon by an assertion when
     * it was told to end twice. */
    uv_loop_t loop;
    struct worker worker;
    struct record record = {.worker = &worker};
    struct numbered job;
    cr_assert_eq(uv_loop_init(&loop), 0);
    cr_assert_eq(worker_start(&worker, &loop, &record), ERR_OK);
    fill(&job, 1, &record, job_done_asks_again);
    cr_assert_eq(worker_submit(&worker, &job.job), ERR_OK);
    worker_stop(&worker);
    cr_assert_eq(record.done_count, 1);
    cr_assert_eq(record.late, ERR_CLOSED);
    cr_assert_eq(record.ran_count, 1);
    (void)uv_run(&loop, UV_RUN_DEFAULT);
    cr_assert_eq(uv_loop_close(&loop), 0);
}
