#include "train/pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

struct member {
    struct train_pool *pool;
    size_t index;
    pthread_t thread;
};

struct train_pool {
    struct allocator allocator;
    size_t thread_count;
    pthread_mutex_t lock;
    pthread_cond_t start;   /* generation or quit changed */
    pthread_cond_t meeting; /* meetings changed */
    uint64_t generation;    /* jobs handed out so far */
    uint64_t meetings;      /* barriers passed so far */
    size_t waiting;         /* members inside the present barrier */
    bool quit;
    train_pool_job *job;
    void *user;
    struct member members[TRAIN_THREADS_MAX];
};

void train_pool_barrier(struct train_pool *pool)
{
    if (pool->thread_count == 1)
        return;
    pthread_mutex_lock(&pool->lock);
    uint64_t mine = pool->meetings;
    if (++pool->waiting == pool->thread_count) {
        pool->waiting = 0;
        pool->meetings++;
        pthread_cond_broadcast(&pool->meeting);
    }
    while (pool->meetings == mine)
        pthread_cond_wait(&pool->meeting, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

static void *member_main(void *argument)
{
    struct member *member = argument;
    struct train_pool *pool = member->pool;
    uint64_t done = 0;
    for (;;) {
        pthread_mutex_lock(&pool->lock);
        while (pool->generation == done && !pool->quit)
            pthread_cond_wait(&pool->start, &pool->lock);
        bool quit = pool->quit;
        done = pool->generation;
        pthread_mutex_unlock(&pool->lock);
        if (quit)
            return NULL;
        pool->job(pool, member->index, pool->user);
        train_pool_barrier(pool);
    }
}

/* Ends the members below `started` and gives everything back. */
static void dismantle(struct train_pool *pool, size_t started)
{
    pthread_mutex_lock(&pool->lock);
    pool->quit = true;
    pthread_cond_broadcast(&pool->start);
    pthread_mutex_unlock(&pool->lock);
    for (size_t i = 1; i < started; i++)
        pthread_join(pool->members[i].thread, NULL);
    pthread_cond_destroy(&pool->meeting);
    pthread_cond_destroy(&pool->start);
    pthread_mutex_destroy(&pool->lock);
    struct allocator allocator = pool->allocator;
    allocator_release(&allocator, pool);
}

void train_flush_tiny(void)
{
#ifdef __SSE2__
    enum { FLUSH_RESULTS = 0x8000, FLUSH_OPERANDS = 0x0040 }; /* of the control word, Intel SDM 1, 10.2.3 */
    _mm_setcsr(_mm_getcsr() | FLUSH_RESULTS | FLUSH_OPERANDS);
#endif
}

size_t train_pool_bytes(void)
{
    return sizeof(struct train_pool);
}

int train_pool_create(size_t thread_count, const struct allocator *allocator, struct train_pool **out)
{
    ASSERT(thread_count >= 1 && thread_count <= TRAIN_THREADS_MAX);
    struct train_pool *pool = allocator_get(allocator, 1, sizeof *pool);
    if (pool == NULL)
        return ERR_NO_MEMORY;
    pool->allocator = *allocator;
    pool->thread_count = thread_count;
    /* With default attributes glibc's mutexes and conditions cannot fail to initialise. */
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->start, NULL);
    pthread_cond_init(&pool->meeting, NULL);

    /* Signals are for the thread that runs the event loop. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    size_t started = 1;
    while (started < thread_count) {
        struct member *member = &pool->members[started];
        member->pool = pool;
        member->index = started;
        if (pthread_create(&member->thread, NULL, member_main, member) != 0)
            break;
        started++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started < thread_count) {
        dismantle(pool, started);
        return ERR_NO_MEMORY;
    }
    *out = pool;
    return 0;
}

void train_pool_destroy(struct train_pool *pool)
{
    if (pool != NULL)
        dismantle(pool, pool->thread_count);
}

size_t train_pool_threads(const struct train_pool *pool)
{
    return pool->thread_count;
}

void train_pool_run(struct train_pool *pool, train_pool_job *job, void *user)
{
    pthread_mutex_lock(&pool->lock);
    pool->job = job;
    pool->user = user;
    pool->generation++;
    pthread_cond_broadcast(&pool->start);
    pthread_mutex_unlock(&pool->lock);
    job(pool, 0, user);
    train_pool_barrier(pool);
}
