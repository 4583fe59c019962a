/* Parts of portmap_thread.c: one file a protocol, all of one shape.  A job is started, then stepped whenever
 * its descriptor is readable or its wake_ns has come, until a step returns something else than ERR_AGAIN;
 * then it is closed. */
#ifndef DUNLIN_NODE_PORTMAP_INTERNAL_H
#define DUNLIN_NODE_PORTMAP_INTERNAL_H

#include <natpmp.h>
#include <sys/types.h>

#include "node/portmap_thread.h"

enum { PORTMAP_URL_SIZE = 256, PORTMAP_LINE_SIZE = 512 };

/* What the jobs of one thread share. */
struct portmap_env {
    struct rng rng;
    struct net_addr gateway; /* from the configuration; NET_FAMILY_NONE: look it up */
    char helper[PORTMAP_THREAD_PATH_SIZE];
    char upnp_url[PORTMAP_URL_SIZE]; /* of the device that worked last; empty: unknown */
};

struct portmap_job {
    bool used;
    struct nat_portmap_command command;
    struct nat_portmap_result result;
    uint64_t deadline_ns;
    uint64_t wake_ns; /* UINT64_MAX: only the descriptor matters */
    int fd;           /* -1: none */
    union {
        struct {
            struct nat_pcp_request request;
            uint64_t wait_ns;
        } pcp;
        struct {
            natpmp_t library;
            bool open;
            bool mapping; /* the second step: the address is known */
        } natpmp;
        struct {
            pid_t pid; /* 0: none */
            char line[PORTMAP_LINE_SIZE];
            size_t len;
        } upnp;
    };
};

/* Each returns ERR_AGAIN, ERR_OK with job->result filled in, or why it failed. */
int portmap_pcp_start(struct portmap_job *job, const struct portmap_env *env, uint64_t now_ns);
int portmap_pcp_step(struct portmap_job *job, const struct portmap_env *env, uint64_t now_ns);
void portmap_pcp_close(struct portmap_job *job);
int portmap_natpmp_start(struct portmap_job *job, const struct portmap_env *env, uint64_t now_ns);
int portmap_natpmp_step(struct portmap_job *job, uint64_t now_ns);
void portmap_natpmp_close(struct portmap_job *job);
int portmap_upnp_start(struct portmap_job *job, const struct portmap_env *env);
int portmap_upnp_step(struct portmap_job *job, struct portmap_env *env);
void portmap_upnp_close(struct portmap_job *job);

/* A line of the helper, without its end.  Fills in the result; ERR_OK, or the error the line names, or
 * ERR_MALFORMED.  url gets the device's description, and is untouched without one. */
int portmap_upnp_parse(const char *line, struct nat_portmap_result *result, char url[PORTMAP_URL_SIZE]);
/* The router of the default route with the lowest metric, from text as in /proc/net/route and
 * /proc/net/ipv6_route.  interface gets its name.  ERR_NOT_FOUND: no default route by way of a router. */
int portmap_gateway_parse4(const char *text, struct net_addr *out);
int portmap_gateway_parse6(const char *text, struct net_addr *out, char interface[32]);
/* The same from the system.  The v6 one also as the socket address that a link-local router needs. */
int portmap_gateway4(struct net_addr *out);
int portmap_gateway6(struct net_addr *out, unsigned *interface_index);

#endif
