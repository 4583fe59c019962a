/* UPnP jobs: the helper process does the work, we read its one line.  The helper has seen what a hostile
 * router sent, so its line is parsed as a stranger's. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "node/portmap_internal.h"

/* Names of errors in the helper's lines. */
static const struct {
    const char *name;
    int error;
} error_names[] = {
    {"timeout", ERR_TIMEOUT},       {"unreachable", ERR_UNREACHABLE},
    {"refused", ERR_REFUSED},       {"full", ERR_FULL},
    {"malformed", ERR_MALFORMED},   {"unsupported", ERR_UNSUPPORTED},
    {"no-address", ERR_NO_ADDRESS},
};

static int spawn_with(const struct portmap_env *env, char *const argv[], int out, pid_t *pid)
{
    char *const environment[] = {NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    if (posix_spawn_file_actions_init(&actions) != 0)
        return ERR_NO_MEMORY;
    int result = ERR_NO_MEMORY;
    if (posix_spawnattr_init(&attributes) != 0)
        goto destroy_actions;
    (void)sigemptyset(&none);
    (void)sigfillset(&all);
    /* A session of its own: Ctrl-C at the daemon's terminal must not take the helper that gives the mapping
     * back. */
    bool ok = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0) == 0 &&
              posix_spawn_file_actions_adddup2(&actions, out, 1) == 0 &&
              posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0) == 0 &&
              posix_spawn_file_actions_addclosefrom_np(&actions, 3) == 0 &&
              posix_spawnattr_setsigmask(&attributes, &none) == 0 &&
              posix_spawnattr_setsigdefault(&attributes, &all) == 0 &&
              posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                        POSIX_SPAWN_SETSID) == 0;
    result = ERR_IO;
    if (ok && posix_spawn(pid, env->helper, &actions, &attributes, argv, environment) == 0)
        result = ERR_OK;
    (void)posix_spawnattr_destroy(&attributes);
destroy_actions:
    (void)posix_spawn_file_actions_destroy(&actions);
    return result;
}

int portmap_upnp_start(struct portmap_job *job, const struct portmap_env *env)
{
    const struct nat_portmap_command *command = &job->command;
    char inner[8], outer[8], lifetime[16], url[PORTMAP_URL_SIZE];
    job->upnp.pid = 0;
    job->upnp.len = 0;
    if (env->helper[0] == '\0')
        return ERR_UNSUPPORTED;
    (void)snprintf(inner, sizeof inner, "%u", command->port);
    (void)snprintf(outer, sizeof outer, "%u",
                   command->external.family == NET_FAMILY_V4 ? command->external.port : command->port);
    (void)snprintf(lifetime, sizeof lifetime, "%u", command->lifetime_s);
    (void)snprintf(url, sizeof url, "%s", env->upnp_url[0] == '\0' ? "-" : env->upnp_url);
    char program[] = "dunlin-upnp", add[] = "add", delete[] = "delete", udp[] = "UDP", tcp[] = "TCP";
    char *const argv[] = {program,
                          command->op == NAT_PORTMAP_ADD ? add : delete,
                          command->transport == NAT_PORTMAP_UDP ? udp : tcp,
                          inner,
                          outer,
                          lifetime,
                          url,
                          NULL};
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
        return ERR_IO;
    int result = spawn_with(env, argv, ends[1], &job->upnp.pid);
    (void)close(ends[1]);
    job->fd = ends[0];
    job->wake_ns = UINT64_MAX;
    return result < 0 ? result : ERR_AGAIN;
}

int portmap_upnp_parse(const char *line, struct nat_portmap_result *result, char url[PORTMAP_URL_SIZE])
{
    char word[32] = "", ip[INET_ADDRSTRLEN] = "", found[PORTMAP_URL_SIZE] = "";
    unsigned port = 0, lifetime_s = 0;
    int detail = 0;
    if (sscanf(line, "error %31s %d", word, &detail) == 2) {
        result->detail = detail;
        for (size_t i = 0; i < sizeof error_names / sizeof error_names[0]; i++) {
            if (strcmp(error_names[i].name, word) == 0)
                return error_names[i].error;
        }
        return ERR_MALFORMED;
    }
    if (sscanf(line, "ok %15s %5u %10u %255s", ip, &port, &lifetime_s, found) != 4 || port > UINT16_MAX)
        return ERR_MALFORMED;
    result->external = (struct net_addr){.family = NET_FAMILY_V4, .port = (uint16_t)port};
    if (inet_pton(AF_INET, ip, result->external.ip) != 1)
        return ERR_MALFORMED;
    result->lifetime_s = lifetime_s;
    if (strncmp(found, "http://", 7) == 0)
        memcpy(url, found, sizeof found);
    return ERR_OK;
}

int portmap_upnp_step(struct portmap_job *job, struct portmap_env *env)
{
    for (;;) {
        size_t room = sizeof job->upnp.line - 1 - job->upnp.len;
        if (room == 0)
            return ERR_MALFORMED;
        ssize_t got = read(job->fd, job->upnp.line + job->upnp.len, room);
        if (got < 0)
            return errno == EAGAIN || errno == EINTR ? ERR_AGAIN : ERR_IO;
        if (got == 0)
            break;
        job->upnp.len += (size_t)got;
    }
    job->upnp.line[job->upnp.len] = '\0';
    if (job->upnp.len == 0)
        return ERR_MALFORMED; /* it died over what it was told */
    return portmap_upnp_parse(job->upnp.line, &job->result, env->upnp_url);
}

void portmap_upnp_close(struct portmap_job *job)
{
    if (job->fd >= 0)
        (void)close(job->fd);
    job->fd = -1;
    if (job->upnp.pid > 0) {
        (void)kill(job->upnp.pid, SIGKILL);
        while (waitpid(job->upnp.pid, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    job->upnp.pid = 0;
}
