#include "node/portmap_thread.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "net/uv/channel.h"
#include "node/portmap_internal.h"

static const uint64_t millisecond_ns = UINT64_C(1000000);

struct portmap_thread {
    pthread_t thread;
    struct net_uv_inbox *inbox;
    struct net_uv_channel *results;
    int wake_fd;             /* eventfd: a command came, or the end */
    _Atomic uint64_t end_ns; /* UINT64_MAX: not ending */
    void (*on_result)(void *user, const struct nat_portmap_result *result);
    void *user;
    size_t unanswered; /* loop thread only */
    bool ended;        /* loop thread only */
    /* The thread's own. */
    struct portmap_env env;
    uint64_t job_ns;
    struct portmap_job jobs[PORTMAP_THREAD_JOBS_MAX];
};

/* ---- jobs ---- */

static int job_start(struct portmap_thread *t, struct portmap_job *job, uint64_t now_ns)
{
    switch (job->command.protocol) {
    case NAT_PORTMAP_PCP:
    case NAT_PORTMAP_PCP6:
        return portmap_pcp_start(job, &t->env, now_ns);
    case NAT_PORTMAP_NATPMP:
        return portmap_natpmp_start(job, &t->env, now_ns);
    case NAT_PORTMAP_UPNP:
        return portmap_upnp_start(job, &t->env);
    case NAT_PORTMAP_PROTOCOLS:
        break;
    }
    return ERR_UNSUPPORTED;
}

static int job_step(struct portmap_thread *t, struct portmap_job *job, uint64_t now_ns)
{
    switch (job->command.protocol) {
    case NAT_PORTMAP_PCP:
    case NAT_PORTMAP_PCP6:
        return portmap_pcp_step(job, &t->env, now_ns);
    case NAT_PORTMAP_NATPMP:
        return portmap_natpmp_step(job, now_ns);
    case NAT_PORTMAP_UPNP:
        return portmap_upnp_step(job, &t->env);
    case NAT_PORTMAP_PROTOCOLS:
        break;
    }
    return ERR_UNSUPPORTED;
}

static void job_finish(struct portmap_thread *t, struct portmap_job *job, int error)
{
    switch (job->command.protocol) {
    case NAT_PORTMAP_PCP:
    case NAT_PORTMAP_PCP6:
        portmap_pcp_close(job);
        break;
    case NAT_PORTMAP_NATPMP:
        portmap_natpmp_close(job);
        break;
    case NAT_PORTMAP_UPNP:
        portmap_upnp_close(job);
        /* What worked last may have moved: the next job looks for it again. */
        if (error != ERR_OK && error != ERR_REFUSED && error != ERR_FULL)
            t->env.upnp_url[0] = '\0';
        break;
    case NAT_PORTMAP_PROTOCOLS:
        break;
    }
    job->used = false;
    job->result.token = job->command.token;
    job->result.error = error;
    /* The channel has room for every command that can be unanswered, so this cannot be full. */
    int result = net_uv_channel_push(t->results, &job->result);
    ASSERT(result == ERR_OK);
}

static struct portmap_job *free_job(struct portmap_thread *t)
{
    for (size_t i = 0; i < PORTMAP_THREAD_JOBS_MAX; i++) {
        if (!t->jobs[i].used)
            return &t->jobs[i];
    }
    return NULL;
}

/* Takes all commands that wait.  False: closed, none will come. */
static bool take_commands(struct portmap_thread *t, uint64_t now_ns)
{
    for (;;) {
        struct portmap_job *job = free_job(t);
        struct nat_portmap_command command;
        if (job == NULL)
            return true;
        int result = net_uv_inbox_pop(t->inbox, &command, 0);
        if (result < 0)
            return result != ERR_CLOSED;
        memset(job, 0, sizeof *job);
        job->used = true;
        job->fd = -1;
        job->command = command;
        job->wake_ns = UINT64_MAX;
        job->deadline_ns = now_ns + t->job_ns;
        result = job_start(t, job, now_ns);
        if (result != ERR_AGAIN)
            job_finish(t, job, result);
    }
}

/* Moves every job on; returns when the next one wants to be, UINT64_MAX: never. */
static uint64_t step_jobs(struct portmap_thread *t, uint64_t now_ns, uint64_t end_ns)
{
    uint64_t next_ns = UINT64_MAX;
    for (size_t i = 0; i < PORTMAP_THREAD_JOBS_MAX; i++) {
        struct portmap_job *job = &t->jobs[i];
        if (!job->used)
            continue;
        uint64_t deadline_ns = job->deadline_ns < end_ns ? job->deadline_ns : end_ns;
        int result = job_step(t, job, now_ns);
        if (result == ERR_AGAIN && end_ns != UINT64_MAX && job->command.op == NAT_PORTMAP_ADD)
            result = ERR_CANCELLED;
        if (result == ERR_AGAIN && now_ns >= deadline_ns)
            result = ERR_TIMEOUT;
        if (result != ERR_AGAIN) {
            job_finish(t, job, result);
            continue;
        }
        uint64_t wake_ns = job->wake_ns < deadline_ns ? job->wake_ns : deadline_ns;
        next_ns = wake_ns < next_ns ? wake_ns : next_ns;
    }
    return next_ns;
}

static void wait_for_work(struct portmap_thread *t, uint64_t now_ns, uint64_t next_ns)
{
    struct pollfd fds[PORTMAP_THREAD_JOBS_MAX + 1] = {{.fd = t->wake_fd, .events = POLLIN}};
    nfds_t count = 1;
    for (size_t i = 0; i < PORTMAP_THREAD_JOBS_MAX; i++) {
        if (t->jobs[i].used)
            fds[count++] = (struct pollfd){.fd = t->jobs[i].fd, .events = POLLIN};
    }
    int timeout_ms = -1; /* until a command comes */
    if (next_ns != UINT64_MAX)
        timeout_ms = next_ns <= now_ns ? 0 : (int)((next_ns - now_ns) / millisecond_ns + 1);
    (void)poll(fds, count, timeout_ms);
    if (fds[0].revents != 0) {
        uint64_t wakes;
        ssize_t got = read(t->wake_fd, &wakes, sizeof wakes);
        ASSERT(got == sizeof wakes || errno == EAGAIN || errno == EINTR);
    }
}

static bool any_job(const struct portmap_thread *t)
{
    for (size_t i = 0; i < PORTMAP_THREAD_JOBS_MAX; i++) {
        if (t->jobs[i].used)
            return true;
    }
    return false;
}

static void *thread_main(void *arg)
{
    struct portmap_thread *t = arg;
    for (;;) {
        uint64_t now_ns = uv_hrtime();
        bool open = take_commands(t, now_ns);
        uint64_t end_ns = atomic_load(&t->end_ns);
        uint64_t next_ns = step_jobs(t, now_ns, end_ns);
        if (!open && !any_job(t))
            return NULL;
        /* Ending without jobs: what is queued comes next, or the news that nothing is; no wake-up need
         * follow. */
        if (end_ns == UINT64_MAX || any_job(t))
            wait_for_work(t, now_ns, next_ns);
    }
}

/* ---- the loop's side ---- */

static void on_message(void *user, void *message)
{
    struct portmap_thread *t = user;
    t->unanswered--;
    t->on_result(t->user, message);
}

static void wake(struct portmap_thread *t)
{
    uint64_t one = 1;
    ssize_t put = write(t->wake_fd, &one, sizeof one);
    ASSERT(put == sizeof one || errno == EAGAIN || errno == EINTR);
}

static void configure(struct portmap_thread *t, const struct portmap_thread_config *config)
{
    t->env.rng = rng_system();
    t->job_ns = config->job_ns == 0 ? PORTMAP_THREAD_JOB_NS : config->job_ns;
    t->env.gateway = config->gateway;
    if (t->env.gateway.port == 0)
        t->env.gateway.port = NAT_PCP_SERVER_PORT;
    if (config->upnp_helper != NULL)
        (void)snprintf(t->env.helper, sizeof t->env.helper, "%s", config->upnp_helper);
    if (config->upnp_url != NULL)
        (void)snprintf(t->env.upnp_url, sizeof t->env.upnp_url, "%s", config->upnp_url);
}

int portmap_thread_start(struct portmap_thread **out, uv_loop_t *loop,
                         const struct portmap_thread_config *config,
                         void (*on_result)(void *user, const struct nat_portmap_result *result), void *user)
{
    struct portmap_thread *t = calloc(1, sizeof *t);
    if (t == NULL)
        return ERR_NO_MEMORY;
    t->on_result = on_result;
    t->user = user;
    atomic_init(&t->end_ns, UINT64_MAX);
    configure(t, config);
    int result = ERR_IO;
    t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (t->wake_fd < 0)
        goto free_thread;
    result = net_uv_inbox_create(&t->inbox, sizeof(struct nat_portmap_command), PORTMAP_THREAD_JOBS_MAX);
    if (result < 0)
        goto close_wake;
    result = net_uv_channel_open(&t->results, loop, sizeof(struct nat_portmap_result),
                                 PORTMAP_THREAD_JOBS_MAX, on_message, t);
    if (result < 0)
        goto destroy_inbox;
    result = ERR_IO;
    if (pthread_create(&t->thread, NULL, thread_main, t) != 0)
        goto close_channel;
    *out = t;
    return ERR_OK;

close_channel:
    net_uv_channel_close(t->results);
destroy_inbox:
    net_uv_inbox_destroy(t->inbox);
close_wake:
    (void)close(t->wake_fd);
free_thread:
    free(t);
    return result;
}

int portmap_thread_submit(struct portmap_thread *t, const struct nat_portmap_command *command)
{
    if (t->ended)
        return ERR_CLOSED;
    if (t->unanswered == PORTMAP_THREAD_JOBS_MAX)
        return ERR_FULL;
    int result = net_uv_inbox_push(t->inbox, command);
    if (result < 0)
        return result;
    t->unanswered++;
    wake(t);
    return ERR_OK;
}

void portmap_thread_end(struct portmap_thread *t, uint64_t grace_ns)
{
    if (t->ended)
        return;
    t->ended = true;
    atomic_store(&t->end_ns, uv_hrtime() + grace_ns);
    net_uv_inbox_close(t->inbox);
    wake(t);
}

void portmap_thread_stop(struct portmap_thread *t)
{
    if (t == NULL)
        return;
    portmap_thread_end(t, 0);
    (void)pthread_join(t->thread, NULL);
    net_uv_channel_close(t->results);
    net_uv_inbox_destroy(t->inbox);
    (void)close(t->wake_fd);
    free(t);
}

int portmap_thread_find_helper(const char *name, char path[PORTMAP_THREAD_PATH_SIZE])
{
    char program[PORTMAP_THREAD_PATH_SIZE];
    ssize_t len = readlink("/proc/self/exe", program, sizeof program - 1);
    if (len > 0) {
        program[len] = '\0';
        char *slash = strrchr(program, '/');
        if (slash != NULL)
            *slash = '\0';
        int wanted = snprintf(path, PORTMAP_THREAD_PATH_SIZE, "%s/%s", program, name);
        if (wanted > 0 && wanted < PORTMAP_THREAD_PATH_SIZE && access(path, X_OK) == 0)
            return ERR_OK;
    }
    int wanted = snprintf(path, PORTMAP_THREAD_PATH_SIZE, "%s/%s", DUNLIN_LIBEXEC_DIR, name);
    return wanted < PORTMAP_THREAD_PATH_SIZE && access(path, X_OK) == 0 ? ERR_OK : ERR_NOT_FOUND;
}
