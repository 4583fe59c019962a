/* What a person sets: defaults, the INI file, then flags.  Text is parsed here and nowhere else.
 *
 * Unknown sections, keys and flags are errors that name the file and line or the flag.  The example file
 * packaging/dunlind.conf lists every key. */
#ifndef DUNLIN_NODE_CONFIG_H
#define DUNLIN_NODE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/trace.h"
#include "net/addr.h"

enum {
    NODE_PATH_SIZE = 512,
    NODE_SEEDS_MAX = 64,
    NODE_NETWORK_SIZE = 64,
    NODE_ERROR_SIZE = 512, /* buffer for a message to a person */
    NODE_THREADS_MAX = 64,
    NODE_RELAY_HOME = 250000, /* bytes a second that a home's line can spare for others */
};

struct node_config {
    char dir[NODE_PATH_SIZE];        /* data directory; created with mode 0700 */
    char network[NODE_NETWORK_SIZE]; /* nodes of other networks are not talked to */
    uint16_t listen_port;            /* 0: any free port */
    struct net_seed seeds[NODE_SEEDS_MAX];
    size_t seed_count;
    uint64_t up_bytes_s;           /* upload cap of the whole node; 0: none */
    unsigned cpu_pct;              /* share of the time that training threads may be busy, 1..100 */
    unsigned threads;              /* training threads; 0: one for each core */
    bool polite;                   /* CUBIC, which shares a line as TCP does; else BBR */
    bool relay;                    /* pass packets for others when strangers can dial this node */
    uint64_t relay_bytes_s;        /* of all of them together; 0: as !relay */
    bool relay_rate_auto;          /* that, but NODE_RELAY_HOME at most behind a home router */
    uint64_t relay_client_bytes_s; /* of one of them, each way; 0: no limit of its own */
    uint64_t relay_client_volume;  /* bytes of one of them in a day; 0: none */
    bool port_mapping;             /* ask the router to map our port: UPnP, NAT-PMP, PCP */
    bool lan;                      /* find nodes on the local network by multicast DNS */
    bool tcp;                      /* take TCP links, and use them where UDP is blocked */
    bool tcp_port_auto;            /* a second TCP port: 443 on machines with a global IPv4 address */
    uint16_t tcp_port;             /* otherwise this one; 0: none */
    enum trace_level log_level;
    char log_file[NODE_PATH_SIZE]; /* empty: standard error */
};

enum node_config_outcome { NODE_CONFIG_RUN, NODE_CONFIG_HELP, NODE_CONFIG_VERSION };

/* Defaults: directory $DUNLIN_DIR, else ~/.dunlin; port 0 only when set so; network "dunlin". */
void node_config_default(struct node_config *config);

/* Reads an INI file over *config.  ERR_NOT_FOUND, ERR_INVALID: why says what, where and what is accepted. */
MUST_USE int node_config_read(struct node_config *config, const char *path, char why[NODE_ERROR_SIZE]);

/* Parses the command line over *config; -c FILE is read first, whatever its place.  ERR_INVALID: why names
 * the flag or the file's line.  *outcome says whether to run, or to print help or version and exit. */
MUST_USE int node_config_args(struct node_config *config, int argc, char **argv,
                              enum node_config_outcome *outcome, char why[NODE_ERROR_SIZE]);

/* Adds the seeds of a file, one ID@host:port a line, '#' starts a comment. */
MUST_USE int node_config_read_seeds(struct node_config *config, const char *path, char why[NODE_ERROR_SIZE]);

/* "4M", "512K", "1.5M" or plain bytes a second into bytes; "0" and "none" are no cap. */
MUST_USE int node_parse_rate(const char *text, uint64_t *bytes_s);
/* "40%" or "40". */
MUST_USE int node_parse_percent(const char *text, unsigned *pct);

/* The text that --help prints. */
const char *node_config_usage(void);

#endif
