/* Configuration: defaults, the small profile, and the relations that must hold. */
#include "dht/internal.h"

static const uint64_t second_ns = UINT64_C(1000000000);

struct dht_config dht_config_default(void)
{
    return (struct dht_config){
        .buckets = 64,
        .queries_max = 256,
        .lookups_max = 24,
        .announces_max = 32,
        .records_max = 2048,
        .records_per_key = 64,
        .records_per_owner = 64,
        .records_per_group = 512,
        .events_max = 128,
        .sends_max = 64,
        .seeds_max = 64,
        .groups_max = 4096,
        .resend_ns = 600 * second_ns / 1000,
        .timeout_ns = 2 * second_ns,
        .good_ns = 15 * 60 * second_ns,
        .refresh_ns = 15 * 60 * second_ns,
        .probe_ns = 10 * second_ns,
        .retry_ns = second_ns,
        .retry_max_ns = 60 * second_ns,
        .token_rotate_ns = 5 * 60 * second_ns,
        .requests_per_s = 1000,
        .group_requests_per_s = 100,
    };
}

struct dht_config dht_config_small(void)
{
    struct dht_config config = dht_config_default();
    config.buckets = 24;
    config.queries_max = 64;
    config.lookups_max = 6;
    config.announces_max = 8;
    config.records_max = 128;
    config.records_per_key = 32;
    config.records_per_owner = 16;
    config.records_per_group = 48;
    config.events_max = 24;
    config.sends_max = 20;
    config.seeds_max = 16;
    config.groups_max = 256;
    return config;
}

static const char *check_sizes(const struct dht_config *c)
{
    if (c->buckets < 8 || c->buckets > 256)
        return "buckets must be 8 to 256";
    if (c->queries_max < 16 || c->queries_max > DHT_QUERIES_MAX)
        return "queries_max must be 16 to 256";
    if (c->lookups_max < DHT_UPKEEP_LOOKUPS + 1 || c->lookups_max > 64)
        return "lookups_max must be 3 to 64";
    if (c->announces_max < 1 || c->announces_max > 1024)
        return "announces_max must be 1 to 1024";
    if (c->records_max < 1 || c->records_max > 1 << 20)
        return "records_max must be 1 to 1048576";
    if (c->records_per_key < 1 || c->records_per_owner < 1 || c->records_per_group < 1)
        return "quotas of records must be at least 1";
    if (c->events_max < 8 || c->events_max > 65536 || c->sends_max < 8 || c->sends_max > 65536)
        return "events_max and sends_max must be 8 to 65536";
    if (c->seeds_max < 1 || c->seeds_max > 1024 || c->groups_max < 1 || c->groups_max > 1 << 20)
        return "seeds_max must be 1 to 1024, groups_max 1 to 1048576";
    return NULL;
}

static const char *check_times(const struct dht_config *c)
{
    if (c->resend_ns == 0 || c->resend_ns >= c->timeout_ns)
        return "resend_ns must be above 0 and below timeout_ns";
    if (c->timeout_ns > 60 * second_ns)
        return "timeout_ns must be at most a minute";
    if (c->good_ns <= c->timeout_ns || c->refresh_ns <= c->timeout_ns)
        return "good_ns and refresh_ns must be above timeout_ns";
    if (c->probe_ns == 0 || c->retry_ns == 0 || c->retry_ns > c->retry_max_ns)
        return "probe_ns and retry_ns must be above 0, retry_ns at most retry_max_ns";
    if (c->token_rotate_ns < 4 * c->timeout_ns)
        return "token_rotate_ns must be at least four times timeout_ns";
    if (c->requests_per_s < 1 || c->group_requests_per_s < 1)
        return "rates must be at least 1";
    return NULL;
}

int dht_config_check(const struct dht_config *config, const char **why)
{
    const char *wrong = check_sizes(config);
    if (wrong == NULL)
        wrong = check_times(config);
    if (wrong == NULL && (config->rng.fill == NULL || config->sign == NULL || config->verify == NULL))
        wrong = "rng, sign and verify must be given";
    if (wrong == NULL)
        return ERR_OK;
    *why = wrong;
    return ERR_INVALID;
}
