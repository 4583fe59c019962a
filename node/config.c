#include "node/config.h"

#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_PORT = 4242 };

static const char usage[] =
    "usage: dunlind [-c FILE] [-d DIR] [options]\n"
    "\n"
    "Runs one Dunlin node: finds peers, keeps the swarm's state, trains and merges.\n"
    "Starts with no configuration at all: makes a key, listens, and uses the seeds it is given.\n"
    "\n"
    "  -c, --config FILE    read settings from an INI file (flags win over it)\n"
    "  -d, --dir DIR        data directory (default $DUNLIN_DIR, else ~/.dunlin)\n"
    "      --listen PORT    UDP port, and TCP port (default 4242; 0 takes any free one)\n"
    "      --network NAME   network to belong to (default dunlin); others are never talked to\n"
    "      --seeds FILE     bootstrap list, one ID@host:port a line\n"
    "      --seed ADDR      one more seed, ID@host:port; may be repeated\n"
    "      --cpu PCT        share of the time that training threads may work, 1 to 100 (default 100)\n"
    "      --threads N      training threads (default 0: one for each core)\n"
    "      --up RATE        upload cap in bytes a second, with K, M or G (default 0: none)\n"
    "      --polite yes|no  share the line as TCP does (default yes)\n"
    "      --relay yes|no   pass packets for nodes behind NATs, if strangers can dial this one (default "
    "yes)\n"
    "      --relay-rate RATE     for all of them together (default auto: 5M, behind a home router 250K)\n"
    "      --relay-client RATE   for one of them, each way (default 1250K; 0: no limit of its own)\n"
    "      --relay-volume BYTES  for one of them in a day (default 4G; 0: no limit)\n"
    "      --port-mapping yes|no ask the router for an open port: UPnP, NAT-PMP, PCP (default yes)\n"
    "      --lan yes|no     find nodes on the local network by multicast DNS (default yes)\n"
    "      --tcp yes|no     take TCP links, and use them where UDP is blocked (default yes)\n"
    "      --tcp-port PORT  a second TCP port; auto: 443 with a global IPv4 address; 0: none (default auto)\n"
    "      --log-file FILE  append the log to FILE instead of standard error\n"
    "      --log-level L    error, warn, info or debug (default info)\n"
    "      --version        print the version and exit\n"
    "  -h, --help           print this text and exit\n"
    "\n"
    "dunlin(1) talks to the running node.  Exit codes: 0 orderly end, 1 a fault of this machine\n"
    "(disk, port, memory), 2 wrong flags or configuration.\n";

const char *node_config_usage(void)
{
    return usage;
}

void node_config_default(struct node_config *config)
{
    memset(config, 0, sizeof *config);
    const char *dir = getenv("DUNLIN_DIR");
    const char *home = getenv("HOME");
    if (dir != NULL && dir[0] != '\0')
        (void)snprintf(config->dir, sizeof config->dir, "%s", dir);
    else
        (void)snprintf(config->dir, sizeof config->dir, "%s/.dunlin", home != NULL ? home : ".");
    (void)snprintf(config->network, sizeof config->network, "dunlin");
    config->listen_port = DEFAULT_PORT;
    config->cpu_pct = 100;
    config->polite = true;
    config->relay = true;
    config->relay_bytes_s = 5000000;
    config->relay_rate_auto = true;
    config->relay_client_bytes_s = 1250000;
    config->relay_client_volume = UINT64_C(4000000000);
    config->port_mapping = true;
    config->lan = true;
    config->tcp = true;
    config->tcp_port_auto = true;
    config->log_level = TRACE_LEVEL_INFO;
}

int node_parse_rate(const char *text, uint64_t *bytes_s)
{
    if (strcmp(text, "none") == 0) {
        *bytes_s = 0;
        return ERR_OK;
    }
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || errno != 0 || !(value >= 0) || value > 1e12 || isdigit((unsigned char)text[0]) == 0)
        return ERR_INVALID;
    double unit = 1;
    if (*end == 'K' || *end == 'k')
        unit = 1e3;
    else if (*end == 'M' || *end == 'm')
        unit = 1e6;
    else if (*end == 'G' || *end == 'g')
        unit = 1e9;
    if (unit > 1)
        end++;
    if (*end != '\0')
        return ERR_INVALID;
    *bytes_s = (uint64_t)(value * unit);
    return ERR_OK;
}

static int parse_uint(const char *text, unsigned long max, unsigned long *out)
{
    char *end;
    errno = 0;
    if (isdigit((unsigned char)text[0]) == 0)
        return ERR_INVALID;
    unsigned long value = strtoul(text, &end, 10);
    if (*end != '\0' || errno != 0 || value > max)
        return ERR_INVALID;
    *out = value;
    return ERR_OK;
}

int node_parse_percent(const char *text, unsigned *pct)
{
    char digits[8];
    size_t len = strlen(text);
    if (len > 0 && text[len - 1] == '%')
        len--;
    if (len == 0 || len >= sizeof digits)
        return ERR_INVALID;
    memcpy(digits, text, len);
    digits[len] = '\0';
    unsigned long value;
    if (parse_uint(digits, 100, &value) < 0 || value == 0)
        return ERR_INVALID;
    *pct = (unsigned)value;
    return ERR_OK;
}

static int set_path(char out[NODE_PATH_SIZE], const char *text, char why[NODE_ERROR_SIZE])
{
    if (text[0] == '\0' || strlen(text) >= NODE_PATH_SIZE) {
        (void)snprintf(why, NODE_ERROR_SIZE, "path is empty or longer than %d characters",
                       NODE_PATH_SIZE - 1);
        return ERR_INVALID;
    }
    (void)snprintf(out, NODE_PATH_SIZE, "%s", text);
    return ERR_OK;
}

static int set_number(const char *text, unsigned long max, unsigned long *out, char why[NODE_ERROR_SIZE])
{
    if (parse_uint(text, max, out) < 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "'%s' is not a whole number from 0 to %lu", text, max);
        return ERR_INVALID;
    }
    return ERR_OK;
}

static int set_listen(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    unsigned long port;
    if (set_number(text, 65535, &port, why) < 0)
        return ERR_INVALID;
    config->listen_port = (uint16_t)port;
    return ERR_OK;
}

static int set_threads(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    unsigned long threads;
    if (set_number(text, NODE_THREADS_MAX, &threads, why) < 0)
        return ERR_INVALID;
    config->threads = (unsigned)threads;
    return ERR_OK;
}

static int set_network(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    if (text[0] == '\0' || strlen(text) >= NODE_NETWORK_SIZE) {
        (void)snprintf(why, NODE_ERROR_SIZE, "network name must have 1 to %d characters",
                       NODE_NETWORK_SIZE - 1);
        return ERR_INVALID;
    }
    (void)snprintf(config->network, sizeof config->network, "%s", text);
    return ERR_OK;
}

static int set_seed(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    const char *reason = "";
    if (config->seed_count == NODE_SEEDS_MAX) {
        (void)snprintf(why, NODE_ERROR_SIZE, "more than %d seeds", NODE_SEEDS_MAX);
        return ERR_INVALID;
    }
    if (net_seed_parse(text, &config->seeds[config->seed_count], &reason) < 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "seed '%.100s': %s (expected ID@host:port)", text, reason);
        return ERR_INVALID;
    }
    config->seed_count++;
    return ERR_OK;
}

static int set_cpu(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    if (node_parse_percent(text, &config->cpu_pct) < 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "'%.40s' is not a share from 1 to 100 percent", text);
        return ERR_INVALID;
    }
    return ERR_OK;
}

static int set_up(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    if (node_parse_rate(text, &config->up_bytes_s) < 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "'%.40s' is not a rate such as 500K, 2M or none", text);
        return ERR_INVALID;
    }
    return ERR_OK;
}

static int set_bool(bool *out, const char *text, char why[NODE_ERROR_SIZE])
{
    if (strcmp(text, "yes") != 0 && strcmp(text, "no") != 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "'%.40s' is neither yes nor no", text);
        return ERR_INVALID;
    }
    *out = strcmp(text, "yes") == 0;
    return ERR_OK;
}

static int set_amount(uint64_t *out, const char *text, char why[NODE_ERROR_SIZE])
{
    if (node_parse_rate(text, out) < 0) {
        (void)snprintf(why, NODE_ERROR_SIZE, "'%.40s' is not an amount such as 500K, 2M or none", text);
        return ERR_INVALID;
    }
    return ERR_OK;
}

static int set_polite(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    return set_bool(&config->polite, text, why);
}

static int set_relay(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    return set_bool(&config->relay, text, why);
}

static int set_relay_rate(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    struct node_config defaults;
    node_config_default(&defaults);
    config->relay_rate_auto = strcmp(text, "auto") == 0;
    config->relay_bytes_s = defaults.relay_bytes_s;
    return config->relay_rate_auto ? ERR_OK : set_amount(&config->relay_bytes_s, text, why);
}

static int set_relay_client(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    return set_amount(&config->relay_client_bytes_s, text, why);
}

static int set_relay_volume(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    return set_amount(&config->relay_client_volume, text, why);
}

static int set_port_mapping(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    return set_bool(&config->port_mapping, text, why);
}

static int set_lan(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    return set_bool(&config->lan, text, why);
}

static int set_tcp(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    return set_bool(&config->tcp, text, why);
}

static int set_tcp_port(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    unsigned long port = 0;
    config->tcp_port_auto = strcmp(text, "auto") == 0;
    if (!config->tcp_port_auto && set_number(text, 65535, &port, why) < 0)
        return ERR_INVALID;
    config->tcp_port = (uint16_t)port;
    return ERR_OK;
}

static int set_log_level(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    for (int level = TRACE_LEVEL_ERROR; level <= TRACE_LEVEL_DEBUG; level++) {
        if (strcmp(text, trace_level_name((enum trace_level)level)) == 0) {
            config->log_level = (enum trace_level)level;
            return ERR_OK;
        }
    }
    (void)snprintf(why, NODE_ERROR_SIZE, "'%.40s' is not one of error, warn, info, debug", text);
    return ERR_INVALID;
}

static int set_log_file(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    return set_path(config->log_file, text, why);
}

static int set_dir(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE])
{
    return set_path(config->dir, text, why);
}

/* Every setting once: its INI section and key, its flag, and the setter both use. */
struct setting {
    const char *section;
    const char *key;
    const char *flag;
    const char *short_flag;
    int (*set)(struct node_config *config, const char *text, char why[NODE_ERROR_SIZE]);
};

static const struct setting settings[] = {
    {"node", "dir", "--dir", "-d", set_dir},
    {"node", "listen", "--listen", NULL, set_listen},
    {"node", "network", "--network", NULL, set_network},
    {"node", "seeds", "--seeds", NULL, node_config_read_seeds},
    {"node", "seed", "--seed", NULL, set_seed},
    {"limits", "cpu", "--cpu", NULL, set_cpu},
    {"limits", "threads", "--threads", NULL, set_threads},
    {"limits", "up", "--up", NULL, set_up},
    {"limits", "polite", "--polite", NULL, set_polite},
    {"nat", "relay", "--relay", NULL, set_relay},
    {"nat", "relay-rate", "--relay-rate", NULL, set_relay_rate},
    {"nat", "relay-client", "--relay-client", NULL, set_relay_client},
    {"nat", "relay-volume", "--relay-volume", NULL, set_relay_volume},
    {"nat", "port-mapping", "--port-mapping", NULL, set_port_mapping},
    {"nat", "lan", "--lan", NULL, set_lan},
    {"nat", "tcp", "--tcp", NULL, set_tcp},
    {"nat", "tcp-port", "--tcp-port", NULL, set_tcp_port},
    {"log", "file", "--log-file", NULL, set_log_file},
    {"log", "level", "--log-level", NULL, set_log_level},
};

enum { SETTING_COUNT = sizeof settings / sizeof settings[0] };

struct ini_context {
    struct node_config *config;
    char reason[NODE_ERROR_SIZE];
    bool failed;
};

/* inih calls this for each pair; returning 0 makes ini_parse report the line. */
static int on_pair(void *user, const char *section, const char *name, const char *value)
{
    struct ini_context *context = user;
    if (context->failed)
        return 0;
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        if (strcmp(section, settings[i].section) != 0 || strcmp(name, settings[i].key) != 0)
            continue;
        context->failed = settings[i].set(context->config, value, context->reason) < 0;
        return !context->failed;
    }
    (void)snprintf(context->reason, sizeof context->reason, "unknown setting '%.60s' in section [%.60s]",
                   name, section);
    context->failed = true;
    return 0;
}

int node_config_read(struct node_config *config, const char *path, char why[NODE_ERROR_SIZE])
{
    struct ini_context context = {.config = config};
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        (void)snprintf(why, NODE_ERROR_SIZE, "%s: %s", path, strerror(errno));
        return ERR_NOT_FOUND;
    }
    int line = ini_parse_file(file, on_pair, &context);
    (void)fclose(file);
    if (line == 0)
        return ERR_OK;
    (void)snprintf(why, NODE_ERROR_SIZE, "%s:%d: %.300s", path, line,
                   context.failed ? context.reason : "not a [section], a key = value pair or a comment");
    return ERR_INVALID;
}

int node_config_read_seeds(struct node_config *config, const char *path, char why[NODE_ERROR_SIZE])
{
    char line[512];
    char reason[NODE_ERROR_SIZE];
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        (void)snprintf(why, NODE_ERROR_SIZE, "%s: %s", path, strerror(errno));
        return ERR_NOT_FOUND;
    }
    int result = ERR_OK;
    for (int number = 1; result == ERR_OK && fgets(line, sizeof line, file) != NULL; number++) {
        line[strcspn(line, "#\r\n")] = '\0';
        char *start = line + strspn(line, " \t");
        start[strcspn(start, " \t")] = '\0';
        if (start[0] == '\0')
            continue;
        result = set_seed(config, start, reason);
        if (result < 0)
            (void)snprintf(why, NODE_ERROR_SIZE, "%.200s:%d: %.250s", path, number, reason);
    }
    (void)fclose(file);
    return result;
}

static const struct setting *setting_of_flag(const char *flag)
{
    for (size_t i = 0; i < SETTING_COUNT; i++) {
        if (strcmp(flag, settings[i].flag) == 0)
            return &settings[i];
        if (settings[i].short_flag != NULL && strcmp(flag, settings[i].short_flag) == 0)
            return &settings[i];
    }
    return NULL;
}

static bool is_config_flag(const char *flag)
{
    return strcmp(flag, "-c") == 0 || strcmp(flag, "--config") == 0;
}

/* One pass over the flags: either only -c, or all others, so that flags win over the file. */
static int pass(struct node_config *config, int argc, char **argv, bool files,
                enum node_config_outcome *outcome, char why[NODE_ERROR_SIZE])
{
    char reason[NODE_ERROR_SIZE];
    for (int i = 1; i < argc; i++) {
        char flag[64];
        (void)snprintf(flag, sizeof flag, "%.*s", (int)strcspn(argv[i], "="), argv[i]);
        if (strcmp(flag, "-h") == 0 || strcmp(flag, "--help") == 0 || strcmp(flag, "--version") == 0) {
            *outcome = flag[2] == 'v' ? NODE_CONFIG_VERSION : NODE_CONFIG_HELP;
            return ERR_OK;
        }
        const struct setting *setting = setting_of_flag(flag);
        if (setting == NULL && !is_config_flag(flag)) {
            (void)snprintf(why, NODE_ERROR_SIZE, "unknown flag '%.100s'; dunlind --help lists them", argv[i]);
            return ERR_INVALID;
        }
        const char *value = strchr(argv[i], '=');
        value = value != NULL ? value + 1 : argv[++i]; /* argv ends with NULL */
        if (value == NULL) {
            (void)snprintf(why, NODE_ERROR_SIZE, "flag %s needs a value", flag);
            return ERR_INVALID;
        }
        if (files == (setting != NULL))
            continue;
        int result = files ? node_config_read(config, value, reason) : setting->set(config, value, reason);
        if (result < 0) {
            (void)snprintf(why, NODE_ERROR_SIZE, "%s%s%.400s", files ? "" : flag, files ? "" : ": ", reason);
            return ERR_INVALID;
        }
    }
    return ERR_OK;
}

int node_config_args(struct node_config *config, int argc, char **argv, enum node_config_outcome *outcome,
                     char why[NODE_ERROR_SIZE])
{
    *outcome = NODE_CONFIG_RUN;
    int result = pass(config, argc, argv, true, outcome, why);
    if (result < 0 || *outcome != NODE_CONFIG_RUN)
        return result;
    return pass(config, argc, argv, false, outcome, why);
}
